//! What goes wrong on purpose: [`Fault`], how each begins and ends, and how many packets it touched.
//!
//! The vocabulary is that of `docs/scenario.md`. A fault changes machines, never objects; what controllers make of it
//! is their business.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use podwire_models::api::Pod;
use podwire_models::base::{Family, Mac, ObjectKey, ObjectName};
use podwire_models::cluster::install::Machines;
use podwire_models::cluster::{Acl, Copies};
use podwire_models::control::proxy::iptables::translates;
use podwire_models::kernel::config::{Change, ConfigError};
use podwire_models::kernel::link::DeviceKind;
use podwire_models::kernel::netfilter::chain::PortRange;
use podwire_models::kernel::{Netns, sysctl};
use podwire_models::wire::{
    Action, Code, DeciderKind, DevIndex, Head, NetnsId, PacketId, Transport,
};

use crate::trace::record::Record;

mod node;

use node::Commands;

/// Something that breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The underlay's switch no longer carries frames from one machine to another.
    LinkDown {
        /// Name of the sending machine's namespace, `node/node-a`.
        from: String,
        /// Name of the receiving machine's.
        to: String,
        /// Whether the other direction still works.
        one_way: bool,
    },
    /// A machine is switched off, and its pods with it.
    ///
    /// # Fidelity
    /// Switched on again it goes on where it stopped, instead of booting.
    NodeDown {
        /// Which.
        node: ObjectName,
    },
    /// A pod's network namespace is gone.
    PodKill {
        /// Which.
        pod: ObjectKey,
    },
    /// A kernel setting has another value.
    Sysctl {
        /// Name of the namespace.
        on: String,
        /// Which setting.
        name: String,
        /// Its value, as `sysctl -w` takes it.
        value: String,
    },
    /// A node's FORWARD chain drops what no rule of it accepts.
    ForwardDrop {
        /// Which.
        node: ObjectName,
    },
    /// Ports of a node's bridges send no frame back the way it came.
    HairpinOff {
        /// Which.
        node: ObjectName,
    },
    /// A node loses its route to a range.
    RouteLost {
        /// Which.
        node: ObjectName,
        /// The range.
        to: IpNet,
    },
    /// kube-proxy of a node does nothing any more. Its machine stays as it is: whoever runs the control plane passes it
    /// over.
    KubeProxyDown {
        /// Which.
        node: ObjectName,
    },
    /// The next TCP segments with data from one machine to another come a second time.
    Duplicate {
        /// Name of the sending machine's namespace.
        from: String,
        /// Name of the receiving machine's.
        to: String,
        /// How much later.
        after: Duration,
        /// How many.
        count: u32,
    },
    /// The container runtime of a node has lost its network configuration: the node is not ready, and no pod starts there. Those that run
    /// go on. Whoever runs the control plane passes the node over.
    CniMissing {
        /// Which.
        node: ObjectName,
    },
    /// CNI DEL fails on a node and nobody tries again: addresses of pods that go stay taken, also when the fault is over.
    IpLeak {
        /// Which.
        node: ObjectName,
    },
    /// kube-proxy of a node writes its rules, and cannot delete entries of connection tracking. Its machine stays as it is: whoever
    /// runs the control plane passes that over.
    NoConntrackCleanup {
        /// Which.
        node: ObjectName,
    },
    /// What pods of a node send to the outside gets its source port from a small range.
    SnatPorts {
        /// Which.
        node: ObjectName,
        /// The range.
        ports: PortRange,
    },
    /// Packets that reach a node's connection tracking at one moment do not see each other's entries.
    ConntrackRace {
        /// Which.
        node: ObjectName,
    },
    /// A firewall of the underlay drops packets.
    Acl(Acl),
}

/// How to end a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Let the switch carry frames again.
    Join(Vec<(DevIndex, DevIndex)>),
    /// Switch these on.
    Power(Vec<NetnsId>),
    /// Nothing here: whoever owns the programs attaches the pod again.
    Attach(ObjectKey),
    /// Set the setting back.
    Sysctl(NetnsId, Vec<(Arc<str>, i64)>),
    /// Packets come one after the other again.
    Race(NetnsId),
    /// Remove the rule.
    Acl(String),
    /// Nothing comes twice any more.
    Copies(String),
    /// Carry these commands out.
    Commands(NetnsId, Vec<Change>),
    /// Nothing: no machine was changed.
    Nothing,
}

impl Fault {
    /// Returns the fault in a few words.
    pub fn words(&self) -> String {
        match self {
            Self::LinkDown { from, to, one_way } => {
                let sign = if *one_way { "→" } else { "↔" };
                format!("no frame passes {from} {sign} {to}")
            }
            Self::NodeDown { node } => format!("node/{node} is off"),
            Self::PodKill { pod } => format!("pod/{pod} is gone"),
            Self::ForwardDrop { node } => format!("iptables -P FORWARD DROP on node/{node}"),
            Self::HairpinOff { node } => format!("hairpin is off on the bridges of node/{node}"),
            Self::RouteLost { node, to } => format!("ip route del {to} on node/{node}"),
            Self::KubeProxyDown { node } => format!("kube-proxy of node/{node} has stopped"),
            Self::Duplicate {
                from,
                to,
                after,
                count,
            } => format!(
                "the next {count} segments with data from {from} to {to} come again {after:?} later"
            ),
            Self::CniMissing { node } => {
                format!("/etc/cni/net.d of node/{node} is empty: the node is not ready")
            }
            Self::IpLeak { node } => {
                format!("CNI DEL fails on node/{node}: addresses are not given back")
            }
            Self::NoConntrackCleanup { node } => {
                format!("kube-proxy of node/{node} cannot delete entries of connection tracking")
            }
            Self::SnatPorts { node, ports } => format!(
                "node/{node} masquerades its pods with source ports {} to {} only",
                ports.first, ports.last
            ),
            Self::ConntrackRace { node } => {
                format!("packets that come at one moment race on node/{node}")
            }
            Self::Sysctl { on, name, value } => format!("{name} = {value} on {on}"),
            Self::Acl(acl) => {
                let net = |n: Option<IpNet>| n.map_or_else(|| "any".into(), |n| n.to_string());
                let l4 = acl
                    .l4
                    .map_or_else(|| "any protocol".into(), |l4| l4.to_string());
                let port = acl.port.map_or(String::new(), |p| format!(" port {p}"));
                format!(
                    "the underlay drops {l4}{port} from {} to {}",
                    net(acl.from),
                    net(acl.to)
                )
            }
        }
    }

    /// Lets the fault begin.
    ///
    /// # Errors
    /// In words, if what it names is not there.
    pub fn begin(&self, id: &str, machines: &mut Machines) -> Result<Undo, String> {
        match self {
            Self::Duplicate {
                from,
                to,
                after,
                count,
            } => {
                let (from, _) = uplink(machines, from)?;
                let (_, to) = uplink(machines, to)?;
                machines.cluster.copies.push(Copies {
                    id: id.into(),
                    from,
                    to,
                    after: *after,
                    left: *count,
                    done: 0,
                });
                Ok(Undo::Copies(id.to_owned()))
            }
            Self::LinkDown { from, to, one_way } => {
                let (a, b) = (switch_port(machines, from)?, switch_port(machines, to)?);
                let pairs = if *one_way {
                    vec![(a, b)]
                } else {
                    vec![(a, b), (b, a)]
                };
                with_cuts(machines, |cut| cut.extend(pairs.iter().copied()));
                Ok(Undo::Join(pairs))
            }
            Self::NodeDown { node } => {
                let machine = machines.nodes.get(node);
                let machine = machine
                    .ok_or_else(|| format!("there is no node/{node}"))?
                    .netns;
                let pods = machines.pods.values().filter(|pod| pod.node == *node);
                let all: Vec<NetnsId> = std::iter::once(machine)
                    .chain(pods.map(|p| p.netns))
                    .collect();
                for netns in &all {
                    machines.cluster.set_power(*netns, true);
                }
                Ok(Undo::Power(all))
            }
            Self::PodKill { pod } => {
                if !machines.pods.contains_key(pod) {
                    return Err(format!("there is no pod/{pod} with a network of its own"));
                }
                machines.detach(pod);
                Ok(Undo::Attach(pod.clone()))
            }
            Self::Sysctl { on, name, value } => {
                let id = machines.cluster.named(on);
                let id = id.ok_or_else(|| format!("there is no {on}"))?;
                let netns = machines.cluster.netns_mut(id);
                let netns = netns.ok_or_else(|| format!("there is no {on}"))?;
                let written = sysctl::read(name, value)
                    .map_err(|why| ConfigError::sysctl(name, value, why).to_string())?;
                let before = |(name, _): &(Arc<str>, i64)| {
                    let before = netns.sysctls.get(name);
                    before.map(|value| (Arc::clone(name), value))
                };
                let undo = Undo::Sysctl(id, written.iter().filter_map(before).collect());
                set(netns, written)?;
                Ok(undo)
            }
            Self::ForwardDrop { node } => {
                let commands = node::forward_drop(node::netns(machines, node)?);
                do_on(machines, node, commands)
            }
            Self::HairpinOff { node } => {
                let commands = node::hairpin_off(node::netns(machines, node)?)?;
                do_on(machines, node, commands)
            }
            Self::RouteLost { node, to } => {
                let commands = node::route_lost(node::netns(machines, node)?, *to)?;
                do_on(machines, node, commands)
            }
            Self::KubeProxyDown { node }
            | Self::NoConntrackCleanup { node }
            | Self::CniMissing { node }
            | Self::IpLeak { node } => {
                node::netns(machines, node)?;
                Ok(Undo::Nothing)
            }
            Self::SnatPorts { node, ports } => {
                let machine = machines.nodes.get(node);
                let machine = machine.ok_or_else(|| format!("there is no node/{node}"))?;
                let commands = node::snat_ports(&machine.net, *ports);
                do_on(machines, node, commands)
            }
            Self::ConntrackRace { node } => {
                let id = node::id(machines, node);
                let id = id.ok_or_else(|| format!("there is no node/{node}"))?;
                let netns = machines.cluster.netns_mut(id);
                let table = netns.and_then(|netns| netns.conntrack.as_mut());
                let table = table.ok_or_else(|| format!("node/{node} tracks no connections"))?;
                table.set_racing(true);
                Ok(Undo::Race(id))
            }
            Self::Acl(acl) => {
                machines.cluster.acls.push(acl.clone());
                Ok(Undo::Acl(acl.id.to_string()))
            }
        }
    }

    /// Returns how many packets the fault touched, from the records since it began. `pods` are the pods it concerns.
    pub fn touched(
        &self,
        id: &str,
        machines: &Machines,
        records: &[Record],
        pod: Option<&Pod>,
    ) -> u64 {
        match self {
            Self::ConntrackRace { node } => {
                let netns = node::netns(machines, node).ok();
                let table = netns.and_then(|netns| netns.conntrack.as_ref());
                table.map_or(0, |table| table.raced())
            }
            Self::Duplicate { .. } => {
                let mut all = machines.cluster.copies.iter();
                all.find(|copies| &*copies.id == id)
                    .map_or(0, |copies| copies.done)
            }
            Self::Acl(_) => {
                let mut acls = machines.cluster.acls.iter();
                acls.find(|acl| &*acl.id == id).map_or(0, |acl| acl.touched)
            }
            Self::LinkDown { .. }
            | Self::NodeDown { .. }
            | Self::PodKill { .. }
            | Self::Sysctl { .. }
            | Self::ForwardDrop { .. }
            | Self::HairpinOff { .. }
            | Self::RouteLost { .. }
            | Self::SnatPorts { .. }
            | Self::NoConntrackCleanup { .. }
            | Self::CniMissing { .. }
            | Self::IpLeak { .. }
            | Self::KubeProxyDown { .. } => self.seen(machines, records, pod),
        }
    }

    /// Whether it touches objects of the cluster, even where no packet comes its way: pods that are gone or not ready.
    pub const fn touches_objects(&self) -> bool {
        match self {
            Self::PodKill { .. } | Self::NodeDown { .. } => true,
            Self::CniMissing { .. }
            | Self::IpLeak { .. }
            | Self::LinkDown { .. }
            | Self::Sysctl { .. }
            | Self::ForwardDrop { .. }
            | Self::HairpinOff { .. }
            | Self::RouteLost { .. }
            | Self::KubeProxyDown { .. }
            | Self::SnatPorts { .. }
            | Self::NoConntrackCleanup { .. }
            | Self::Duplicate { .. }
            | Self::ConntrackRace { .. }
            | Self::Acl(_) => false,
        }
    }

    /// The pod that is gone, if that is the fault.
    pub const fn pod(&self) -> Option<&ObjectKey> {
        match self {
            Self::PodKill { pod } => Some(pod),
            Self::LinkDown { .. }
            | Self::NodeDown { .. }
            | Self::Sysctl { .. }
            | Self::ForwardDrop { .. }
            | Self::HairpinOff { .. }
            | Self::RouteLost { .. }
            | Self::KubeProxyDown { .. }
            | Self::SnatPorts { .. }
            | Self::NoConntrackCleanup { .. }
            | Self::CniMissing { .. }
            | Self::IpLeak { .. }
            | Self::Duplicate { .. }
            | Self::ConntrackRace { .. }
            | Self::Acl(_) => None,
        }
    }

    /// Whether this fault is what an attempt failed for: what stood in its way, `Sysctl/node-a/net.ipv4.ip_forward`, and how it ended.
    pub fn is_behind(&self, id: &str, object: &str, code: Code) -> bool {
        let on_node = |node: &ObjectName, codes: &[Code]| {
            object == format!("Node//{node}") && codes.contains(&code)
        };
        match self {
            Self::Sysctl { on, name, .. } => {
                let on = on.strip_prefix("node/").unwrap_or(on);
                object == format!("Sysctl/{on}/{name}")
            }
            Self::RouteLost { node, to } => object == format!("Route/{node}/{to}"),
            Self::LinkDown { from, to, .. } => {
                let name = |of: &str| of.strip_prefix("node/").unwrap_or(of).to_owned();
                let (from, to) = (name(from), name(to));
                object == format!("Link/{from}/{to}") || object == format!("Link/{to}/{from}")
            }
            Self::Acl(_) => object == format!("Fault//{id}"),
            // It only brings to light what is wrong.
            Self::Duplicate { .. } => false,
            Self::PodKill { pod } => object == format!("Pod/{pod}"),
            Self::NodeDown { node } => on_node(node, &[Code::NodeDown]),
            Self::ForwardDrop { node } => on_node(node, &[Code::NfPolicyDrop]),
            Self::HairpinOff { node } => on_node(node, &[Code::BridgeNoHairpin]),
            Self::SnatPorts { node, .. } => on_node(node, &[Code::NatNoPort]),
            Self::NoConntrackCleanup { node } => {
                on_node(node, &[Code::CtPreRule, Code::CtStaleEndpoint])
            }
            Self::CniMissing { node } => on_node(node, &[Code::CniUninitialized]),
            Self::IpLeak { node } => on_node(node, &[Code::IpamExhausted]),
            Self::KubeProxyDown { node } => on_node(node, &[Code::StaleRules, Code::IpReused]),
            Self::ConntrackRace { node } => on_node(node, &[Code::CtInsertClash]),
        }
    }

    /// Returns how many packets these records tell of that it touched; firewalls and tables of connections count by themselves.
    pub fn seen(&self, machines: &Machines, records: &[Record], pod: Option<&Pod>) -> u64 {
        let count = |touches: &dyn Fn(&Record) -> bool| {
            records.iter().filter(|record| touches(record)).count() as u64
        };
        let dropped =
            |record: &Record, wanted: Code| record.step.action == Action::Dropped { code: wanted };
        match self {
            Self::LinkDown { from, to, one_way } => {
                let (Ok(a), Ok(b)) = (switch_port(machines, from), switch_port(machines, to))
                else {
                    return 0;
                };
                let name = |dev| {
                    let underlay = machines.cluster.netns(machines.underlay);
                    underlay
                        .and_then(|n| n.device(dev))
                        .map_or_else(|| "?".to_owned(), |d| d.name.to_string())
                };
                let forth = format!("cut between {} and {}", name(a), name(b));
                let back = format!("cut between {} and {}", name(b), name(a));
                count(&|record| {
                    let text = record.step.by.as_ref().map(|by| by.text.as_str());
                    dropped(record, Code::LinkDown)
                        && (text == Some(&forth) || (!one_way && text == Some(&back)))
                })
            }
            Self::NodeDown { .. } => count(&|record| dropped(record, Code::NodeDown)),
            Self::PodKill { .. } => count(&|record| {
                let to_pod = match &record.step.packet {
                    Some(Head::Ip { dst, .. }) => pod.is_some_and(|pod| pod.pod_ips.contains(dst)),
                    Some(Head::Arp { .. }) | None => false,
                };
                to_pod
                    && record
                        .step
                        .action
                        .ends_with()
                        .is_some_and(|code| code != Code::Ok)
            }),
            Self::Sysctl { on, name, .. } => {
                let decided = count(&|record| {
                    record.step.by.as_ref().is_some_and(|by| {
                        by.kind == DeciderKind::Sysctl && by.text.starts_with(name.as_str())
                    })
                });
                let mut spaces = machines.cluster.iter();
                let here = spaces.find(|space| *space.name == **on);
                // A setting that lets something be shows in nothing but what happens where it is.
                or_present(decided, here.map(|space| space.id), records)
            }
            Self::ForwardDrop { node } => {
                let here = on(machines, node);
                count(&|record| here(record) && dropped(record, Code::NfPolicyDrop))
            }
            Self::HairpinOff { node } => {
                let here = on(machines, node);
                count(&|record| here(record) && dropped(record, Code::BridgeNoHairpin))
            }
            Self::RouteLost { node, to } => {
                let here = on(machines, node);
                count(&|record| {
                    let routed = matches!(record.step.action, Action::Routed { .. })
                        || record.step.action.ends_with() == Some(Code::RouteNone);
                    let concerned = matches!(&record.step.packet,
                        Some(Head::Ip { dst, .. }) if to.contains(dst));
                    here(record) && routed && concerned
                })
            }
            Self::KubeProxyDown { node } => {
                let here = on(machines, node);
                let asked = count(&|record| {
                    let asked = matches!(&record.step.action,
                        Action::Matched { target, .. } if target.starts_with("DNAT"));
                    here(record) && asked
                });
                // Connections that are known ask no rule.
                or_present(asked, node::id(machines, node), records)
            }
            Self::NoConntrackCleanup { node } => {
                let here = on(machines, node);
                let netns = node::netns(machines, node).ok();
                count(&|record| here(record) && netns.is_some_and(|n| passes_by(n, record)))
            }
            Self::SnatPorts { node, .. } => {
                let here = on(machines, node);
                count(&|record| {
                    let asked = matches!(&record.step.action,
                        Action::Matched { target, .. } if target.starts_with("MASQUERADE --to-ports"));
                    here(record) && asked
                })
            }
            Self::ConntrackRace { .. }
            | Self::Duplicate { .. }
            | Self::CniMissing { .. }
            | Self::IpLeak { .. }
            | Self::Acl(_) => 0,
        }
    }
}

impl Undo {
    /// Lets the fault end.
    pub fn end(&self, machines: &mut Machines) {
        match self {
            Self::Join(pairs) => with_cuts(machines, |cut| {
                for pair in pairs {
                    cut.remove(pair);
                }
            }),
            Self::Power(all) => {
                for netns in all {
                    machines.cluster.set_power(*netns, false);
                }
            }
            Self::Attach(_) | Self::Nothing => {}
            Self::Commands(id, commands) => {
                // What is not there any more needs no repair.
                let _ = node::carry_out(machines, *id, commands);
            }
            Self::Sysctl(id, before) => {
                if let Some(netns) = machines.cluster.netns_mut(*id) {
                    set(netns, before.clone()).expect("it had these values before");
                }
            }
            Self::Race(id) => {
                let netns = machines.cluster.netns_mut(*id);
                if let Some(table) = netns.and_then(|netns| netns.conntrack.as_mut()) {
                    table.set_racing(false);
                }
            }
            Self::Copies(id) => machines.cluster.copies.retain(|copies| *copies.id != **id),
            Self::Acl(id) => machines.cluster.acls.retain(|acl| *acl.id != **id),
        }
    }
}

fn set(netns: &mut Netns, values: Vec<(Arc<str>, i64)>) -> Result<(), String> {
    for (name, value) in values {
        netns
            .apply(&Change::Sysctl { name, value })
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Carries commands out on a node.
fn do_on(machines: &mut Machines, node: &ObjectName, commands: Commands) -> Result<Undo, String> {
    let id = node::id(machines, node).ok_or_else(|| format!("there is no node/{node}"))?;
    node::carry_out(machines, id, &commands.done)?;
    Ok(Undo::Commands(id, commands.undo))
}

/// Returns a number of packets, or, if it is none, how many there were in a namespace at all.
fn or_present(counted: u64, netns: Option<NetnsId>, records: &[Record]) -> u64 {
    if counted > 0 || netns.is_none() {
        return counted;
    }
    let here = records.iter().filter(|record| record.place.netns == netns);
    let packets = here.filter_map(|record| record.step.packet.as_ref());
    let packets: BTreeSet<PacketId> = packets.map(Head::id).collect();
    packets.len() as u64
}

/// Whether a datagram is routed to a Service's address that the node's rules translate: connection tracking knows it otherwise.
fn passes_by(netns: &Netns, record: &Record) -> bool {
    let (Action::Routed { .. }, Some(Head::Ip { dst, transport, .. })) =
        (&record.step.action, &record.step.packet)
    else {
        return false;
    };
    let rules = netns.rules(Family::of(*dst));
    matches!(transport, Transport::Udp(_))
        && rules.is_some_and(|rules| translates(rules.ruleset(), *dst))
}

/// Whether a record was made in a node's own namespace.
fn on(machines: &Machines, node: &ObjectName) -> impl Fn(&Record) -> bool {
    let id = node::id(machines, node);
    move |record| id.is_some() && record.place.netns == id
}

/// Returns the port of the underlay's switch that a machine hangs on.
fn switch_port(machines: &Machines, name: &str) -> Result<DevIndex, String> {
    let cluster = &machines.cluster;
    let netns = cluster.named(name).and_then(|id| cluster.netns(id));
    let netns = netns.ok_or_else(|| format!("there is no {name}"))?;
    let uplink = netns
        .device_named("eth0")
        .map(|device| (netns.id, device.index));
    let port = uplink.and_then(|end| cluster.peer(end));
    port.filter(|(at, _)| *at == machines.underlay)
        .map(|(_, dev)| dev)
        .ok_or_else(|| format!("{name} is not on the underlay's switch"))
}

/// Returns where a machine's cable begins, and the hardware address there.
fn uplink(machines: &Machines, name: &str) -> Result<((NetnsId, DevIndex), Mac), String> {
    let cluster = &machines.cluster;
    let netns = cluster.named(name).and_then(|id| cluster.netns(id));
    let netns = netns.ok_or_else(|| format!("there is no {name}"))?;
    let device = netns.device_named("eth0");
    let device = device.ok_or_else(|| format!("{name} has no eth0"))?;
    Ok(((netns.id, device.index), device.mac))
}

fn with_cuts(machines: &mut Machines, change: impl FnOnce(&mut BTreeSet<(DevIndex, DevIndex)>)) {
    let underlay = machines.cluster.netns_mut(machines.underlay);
    let mut devices = underlay
        .into_iter()
        .flat_map(|n| n.devices.iter_mut().flatten());
    let bridge = devices.find_map(|device| match &mut device.kind {
        DeviceKind::Bridge(bridge) => Some(bridge),
        DeviceKind::Loopback
        | DeviceKind::Veth
        | DeviceKind::Physical
        | DeviceKind::Dummy
        | DeviceKind::Vxlan(_) => None,
    });
    if let Some(bridge) = bridge {
        change(&mut bridge.cut);
    }
}
