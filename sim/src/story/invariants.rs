//! What is true of a running cluster between any two events, whatever breaks in it. If it is not, podwire is wrong.
//!
//! - No address is owned twice: not by two pods, not by devices of two namespaces. (Link-local addresses are nobody's own.)
//! - Every veth has its peer: the other end of its wire is a veth whose other end it is, in a namespace that is there. A pod's
//!   leads to the node that its object names.
//! - Every endpoint's revision is known: what a node's rules lead to was listed in that revision of the slices from which its
//!   kube-proxy has written them.
//! - Every packet ends once ([`crate::trace::ends`]).
//!
//! [`broken`] looks at everything. [`Watch`] remembers what it has seen, and looks only at what an event can have changed: an
//! event of the control plane says so with its [`Scope`], and packets change neither objects nor devices nor rules. What has not
//! changed since it was found in order is so still, between any two events, and nodes that share chains share what is found of them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use podwire_models::base::{Family, FxIndexMap, ObjectKey, ObjectName};
use podwire_models::cluster::WireEnd;
use podwire_models::cluster::install::Machines;
use podwire_models::kernel::Netns;
use podwire_models::kernel::link::DeviceKind;
use podwire_models::kernel::netfilter::Rules;
use podwire_models::kernel::netfilter::chain::{Table, Target};
use podwire_models::wire::NetnsId;

use crate::lab::Lab;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Two own one address.
    #[error("{ip} is owned by {first} and by {second}")]
    OwnedTwice {
        /// The address.
        ip: IpAddr,
        /// One owner.
        first: String,
        /// The other.
        second: String,
    },
    /// A veth without its other end.
    #[error("veth {device} of {netns} has no peer")]
    NoPeer {
        /// Its name.
        device: Arc<str>,
        /// Where it is.
        netns: Arc<str>,
    },
    /// A network of a pod that is not there, or elsewhere.
    #[error("pod/{pod} has a network on node/{node}, and no object says so")]
    NoObject {
        /// The pod.
        pod: ObjectKey,
        /// Where its network is.
        node: ObjectName,
    },
    /// A pod's network that does not lead to its node.
    #[error("the network of pod/{pod} does not lead to node/{node}")]
    Astray {
        /// The pod.
        pod: ObjectKey,
        /// Its node.
        node: ObjectName,
    },
    /// Rules of a node whose origin nobody knows.
    #[error(
        "the rules of node/{node} lead to {ip} port {port}, which revision {revision} of the slices does not list"
    )]
    UnknownRevision {
        /// The node.
        node: ObjectName,
        /// The endpoint's address.
        ip: IpAddr,
        /// Its port.
        port: u16,
        /// From what its kube-proxy has written its rules.
        revision: u64,
    },
}

/// What an event can have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// None of what is looked at.
    Nothing,
    /// Which revision of the slices there is.
    Slices,
    /// Slices and rules.
    Rules,
    /// A pod, its network, and devices of its node.
    Pod(ObjectKey),
    /// Everything.
    All,
}

/// Returns the first invariant that does not hold of a cluster of which nothing else is known. Rules that were written from earlier
/// slices are passed over.
pub fn broken(lab: &Lab, machines: &Machines) -> Option<Violation> {
    Watch::default().look(&Scope::All, lab, machines)
}

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Watch {
    /// Who owns an address by its object.
    owners: BTreeMap<IpAddr, ObjectKey>,
    /// On whose devices an address is.
    devices: BTreeMap<IpAddr, NetnsId>,
    /// The addresses and the namespace that each pod had the last time.
    pods: BTreeMap<ObjectKey, Seen>,
    slices: Slices,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    ips: Vec<IpAddr>,
    netns: Option<(NetnsId, Vec<IpAddr>)>,
    node: Option<ObjectName>,
}

impl Watch {
    /// Looks at what an event can have changed, and returns the first invariant that does not hold.
    pub fn look(&mut self, scope: &Scope, lab: &Lab, machines: &Machines) -> Option<Violation> {
        self.slices.list(lab);
        match scope {
            Scope::Nothing | Scope::Slices => None,
            Scope::Rules => self.slices.rules(lab, machines),
            Scope::Pod(pod) => self.pod(pod, lab, machines).err(),
            Scope::All => {
                let found = self.all(lab, machines).err();
                found.or_else(|| self.slices.rules(lab, machines))
            }
        }
    }

    fn all(&mut self, lab: &Lab, machines: &Machines) -> Result<(), Violation> {
        self.owners.clear();
        self.devices.clear();
        self.pods.clear();
        for pod in machines.pods.keys() {
            self.pod(pod, lab, machines)?;
        }
        for pod in lab.objects.pods.keys() {
            if !machines.pods.contains_key(pod) {
                self.pod(pod, lab, machines)?;
            }
        }
        let of_pods: BTreeSet<NetnsId> = machines.pods.values().map(|pod| pod.netns).collect();
        let others = machines.cluster.iter();
        for netns in others.filter(|netns| !of_pods.contains(&netns.id)) {
            self.addresses(netns, machines)?;
            veths(netns, machines)?;
        }
        Ok(())
    }

    /// Looks at one pod and at its node's devices.
    fn pod(&mut self, key: &ObjectKey, lab: &Lab, machines: &Machines) -> Result<(), Violation> {
        let mut before = self.pods.remove(key).unwrap_or_default();
        for ip in &before.ips {
            self.owners.remove(ip);
        }
        for ip in before.netns.iter().flat_map(|(_, ips)| ips) {
            self.devices.remove(ip);
        }
        let object = lab.objects.pods.get(key);
        let attached = machines.pods.get(key);
        let mut seen = Seen::default();
        let own = object.filter(|pod| !pod.spec.host_network && !pod.ended());
        for ip in own.into_iter().flat_map(|pod| &pod.pod_ips) {
            if let Some(other) = self.owners.insert(*ip, key.clone()) {
                return Err(Violation::OwnedTwice {
                    ip: *ip,
                    first: format!("pod/{other}"),
                    second: format!("pod/{key}"),
                });
            }
            seen.ips.push(*ip);
        }
        if let Some(attached) = attached {
            let node = attached.node.clone();
            if object.and_then(|pod| pod.node_name.as_ref()) != Some(&node) {
                let pod = key.clone();
                return Err(Violation::NoObject { pod, node });
            }
            let host = machines.nodes.get(&node).map(|machine| machine.netns);
            let netns = machines.cluster.netns(attached.netns);
            let Some((host, netns)) = host.zip(netns) else {
                let pod = key.clone();
                return Err(Violation::Astray { pod, node });
            };
            let leads_to = machines.cluster.netns(host).and_then(|host| {
                let device = host.device_named(&attached.host_dev)?;
                machines.cluster.peer((host.id, device.index))
            });
            if leads_to.is_none_or(|(id, _)| id != netns.id) {
                let pod = key.clone();
                return Err(Violation::Astray { pod, node });
            }
            let ips = self.addresses(netns, machines)?;
            veths(netns, machines)?;
            seen.netns = Some((netns.id, ips));
            seen.node = Some(node);
        }
        let nodes = [before.node.take(), seen.node.clone()];
        for node in nodes.iter().flatten().collect::<BTreeSet<_>>() {
            let machine = machines.nodes.get(node);
            let netns = machine.and_then(|machine| machines.cluster.netns(machine.netns));
            if let Some(netns) = netns {
                veths(netns, machines)?;
            }
        }
        self.pods.insert(key.clone(), seen);
        Ok(())
    }

    /// Notes the addresses of a namespace's devices.
    fn addresses(&mut self, netns: &Netns, machines: &Machines) -> Result<Vec<IpAddr>, Violation> {
        let mut ips = Vec::new();
        let devices = netns.devices.iter().flatten();
        let devices = devices.filter(|device| !matches!(device.kind, DeviceKind::Loopback));
        let all = devices.flat_map(|device| &device.addrs);
        for ip in all
            .map(|addr| addr.net.addr())
            .filter(|ip| !link_local(*ip))
        {
            let other = self.devices.insert(ip, netns.id);
            if let Some(other) = other.filter(|other| *other != netns.id) {
                let other = machines.cluster.netns(other);
                return Err(Violation::OwnedTwice {
                    ip,
                    first: other.map_or_else(String::new, |netns| netns.name.to_string()),
                    second: netns.name.to_string(),
                });
            }
            ips.push(ip);
        }
        Ok(ips)
    }
}

/// Checks that each veth of a namespace has its peer.
fn veths(netns: &Netns, machines: &Machines) -> Result<(), Violation> {
    let peer = |end: WireEnd| machines.cluster.peer(end);
    let devices = netns.devices.iter().flatten();
    for device in devices.filter(|device| matches!(device.kind, DeviceKind::Veth)) {
        let end = (netns.id, device.index);
        let other = peer(end).filter(|other| peer(*other) == Some(end));
        let there = other.and_then(|(id, dev)| machines.cluster.netns(id)?.device(dev));
        if !there.is_some_and(|other| matches!(other.kind, DeviceKind::Veth)) {
            return Err(Violation::NoPeer {
                device: Arc::clone(&device.name),
                netns: Arc::clone(&netns.name),
            });
        }
    }
    Ok(())
}

const fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// An endpoint: where rules lead.
type Endpoint = (IpAddr, u16);

/// Which endpoints the slices have listed, and when.
#[derive(Debug, Default)]
struct Slices {
    /// The revisions that were seen first and last.
    seen: Option<(u64, u64)>,
    /// From which revision on an endpoint was listed, up to which.
    listed: FxIndexMap<Endpoint, Vec<(u64, u64)>>,
    /// The endpoints of the revision that was seen last, in order.
    now: Vec<Endpoint>,
    /// Rules that were looked at, and from which revision they were.
    known: BTreeMap<(ObjectName, Family), (Weak<Rules>, u64)>,
}

impl Slices {
    /// Takes note of the slices as they are.
    fn list(&mut self, lab: &Lab) {
        let (first, before) = self.seen.unwrap_or((lab.revision, lab.revision));
        if self.seen == Some((first, lab.revision)) {
            return;
        }
        self.seen = Some((first, lab.revision));
        let endpoints = lab.slices.iter().flat_map(|slice| {
            let ports = slice.ports.iter().filter_map(|port| port.port);
            let ips = slice.endpoints.iter().filter_map(|e| e.addresses.first());
            ips.flat_map(move |ip| ports.clone().map(move |port| (*ip, port)))
        });
        let mut now: Vec<Endpoint> = endpoints.collect();
        now.sort_unstable();
        now.dedup();
        let (mut old, mut new) = (self.now.iter().peekable(), now.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(gone), Some(come)) => gone.cmp(come),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            if order.is_le()
                && let Some(was) = old.next()
                && order.is_lt()
                && let Some((_, until)) = self.listed.get_mut(was).and_then(|all| all.last_mut())
            {
                *until = before;
            }
            if order.is_ge()
                && let Some(is) = new.next()
                && order.is_gt()
            {
                let spans = self.listed.entry(*is).or_default();
                spans.push((lab.revision, u64::MAX));
            }
        }
        self.now = now;
    }

    /// Looks at rules that nobody has looked at.
    fn rules(&mut self, lab: &Lab, machines: &Machines) -> Option<Violation> {
        let mut good: Vec<(&Rules, u64)> = Vec::new();
        for (node, machine) in machines.nodes.iter() {
            let netns = machines.cluster.netns(machine.netns);
            // A node that has never written has no right to rules that lead anywhere.
            let revision = lab.synced.get(node).copied().unwrap_or(u64::MAX);
            if self.seen.is_some_and(|(first, _)| revision < first) {
                continue;
            }
            for family in Family::ALL {
                let Some(rules) = netns.and_then(|netns| netns.rules(family)) else {
                    continue;
                };
                let key = (node.clone(), family);
                let before = self.known.get(&key);
                let same = before.is_some_and(|(before, of)| {
                    *of == revision && std::ptr::eq(before.as_ptr(), Arc::as_ptr(rules))
                });
                if same {
                    continue;
                }
                let mut known = good.iter().filter(|(_, of)| *of == revision);
                if known.any(|(other, _)| lead_to_the_same(other, rules)) {
                    self.known.insert(key, (Arc::downgrade(rules), revision));
                    continue;
                }
                if let Some((ip, port)) = self.unlisted(rules, revision) {
                    let node = node.clone();
                    return Some(Violation::UnknownRevision {
                        node,
                        ip,
                        port,
                        revision,
                    });
                }
                good.push((rules, revision));
                self.known.insert(key, (Arc::downgrade(rules), revision));
            }
        }
        None
    }

    /// Returns an endpoint of rules that a revision does not list.
    fn unlisted(&self, rules: &Rules, revision: u64) -> Option<Endpoint> {
        let nat = rules.ruleset().tables.get(&Table::Nat)?;
        let chains = nat.chains.iter();
        let chains = chains.filter(|(name, _)| is_endpoint(name));
        let targets = chains.flat_map(|(_, chain)| chain.rules.iter());
        let mut endpoints = targets.filter_map(|rule| {
            let Some(Target::Dnat(range)) = &rule.target else {
                return None;
            };
            let (ip, _) = range.addrs?;
            Some((ip, range.ports.map_or(0, |ports| ports.first)))
        });
        endpoints.find(|endpoint| {
            let spans = self.listed.get(endpoint).map_or(&[][..], Vec::as_slice);
            let within = |(from, to): &(u64, u64)| (*from..=*to).contains(&revision);
            !spans.iter().any(within)
        })
    }
}

/// Whether a chain leads to an endpoint.
fn is_endpoint(chain: &str) -> bool {
    chain.starts_with("KUBE-SEP-")
}

/// Whether rules of two nodes share all chains that lead to endpoints: whoever has looked at one need not look at the other.
fn lead_to_the_same(one: &Rules, other: &Rules) -> bool {
    if std::ptr::eq(one, other) {
        return true;
    }
    let [one, other] = [one, other].map(|rules| rules.ruleset().tables.get(&Table::Nat));
    let Some((one, other)) = one.zip(other) else {
        return false;
    };
    let mut both = one.chains.iter().zip(&other.chains);
    one.chains.len() == other.chains.len()
        && both.all(|((name, chain), (of, same))| {
            Arc::ptr_eq(&chain.rules, &same.rules) || !is_endpoint(name) && !is_endpoint(of)
        })
}
