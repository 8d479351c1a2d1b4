//! From settled objects to machines: the underlay, nodes, pods and outside hosts as namespaces, and the only door by
//! which desired state becomes programmed state.
//!
//! The underlay is one Ethernet switch with a router on it (as in a `kind` cluster, where it is a Docker network):
//! nodes are ports of its bridge, outside hosts hang on the router.
//!
//! # Fidelity
//! All nodes are in one subnet. Leaves out clouds' route tables and load balancers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Cluster, Lane, WireKind, peers};
use crate::api::{Objects, Pod};
use crate::base::addr::{host_net, nth_addr};
use crate::base::{Family, ObjectKey, ObjectName, OriginId};
use crate::control::cni::plugin::portmap::{self, Marking, NatEdit};
use crate::control::cni::{Attachment, Cni, NodeNet, PodNet, sandbox_id, with_range};
use crate::control::dns::settings::DnsSettings;
use crate::kernel::Netns;
use crate::kernel::config::{Change, ConfigError, NewLink, NewLinkKind, NewRoute, RouteKind};
use crate::kernel::link::Scope;
use crate::kernel::netfilter::chain::{Ruleset, Table, TableRules};
use crate::kernel::release::Release;
use crate::kernel::sysctl::{self, Refused};
use crate::wire::NetnsId;

/// What a cluster is built from besides its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// CNI plugin.
    pub cni: Cni,
    /// Pod ranges of the whole cluster.
    pub pod_cidrs: Vec<IpNet>,
    /// Service ranges.
    pub service_cidrs: Vec<IpNet>,
    /// The underlay.
    pub underlay: Underlay,
    /// Whether bridge ports have hairpin mode on.
    pub hairpin: bool,
    /// MTU of pods, where somebody insists on one.
    pub pod_mtu: Option<u32>,
    /// Domain of cluster names.
    pub domain: Arc<str>,
    /// Hosts outside the cluster.
    pub hosts: Vec<OutsideHost>,
    /// Names outside, and what the name service can take.
    pub dns: DnsSettings,
    /// Further addresses of nodes, each on a device of its own that nothing is plugged into.
    pub more_addresses: Vec<(ObjectName, IpNet)>,
    /// Further interfaces of nodes, in networks of their own.
    pub nics: Vec<Nic>,
    /// Whether policies are asked about what a node sends its own pods, kubelets' probes among it, which every plugin should let through.
    pub nodes_policed: bool,
    /// Where settings were written, by name: `pod_cidr`, `host/office`, `nics/node-a`.
    pub written: BTreeMap<Arc<str>, OriginId>,
}

/// A further interface of a node: on a switch of its own, which all interfaces in its network share. The underlay's router has
/// the first address of that network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Whose.
    pub node: ObjectName,
    /// Its address, with the length of its network's prefix.
    pub addr: IpNet,
    /// Whether the node's default route leaves by it, and not by `eth0`.
    pub default_route: bool,
}

/// The network between the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Delay from node to node.
    pub latency: Duration,
    /// Rate of each node's link in bits per second.
    pub bandwidth: Option<u64>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Subnets of the nodes; the first address of each is the router's.
    pub subnets: Vec<IpNet>,
}

/// A host outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideHost {
    /// Name.
    pub name: Arc<str>,
    /// Address.
    pub ip: IpAddr,
    /// The node through which it reaches the cluster's pods and Services: a static route, as an administrator adds it.
    /// A host outside the nodes' network has it on the underlay's router.
    pub via: Option<ObjectName>,
    /// Where it was declared.
    pub origin: OriginId,
}

impl Default for Site {
    /// What `kind create cluster` gives.
    fn default() -> Self {
        let net = |text: &str| text.parse().expect("a literal prefix");
        Self {
            cni: Cni::Kindnet,
            pod_cidrs: vec![net("10.244.0.0/16")],
            service_cidrs: vec![net("10.96.0.0/16")],
            underlay: Underlay {
                latency: Duration::from_micros(100),
                bandwidth: Some(10_000_000_000),
                mtu: 1500,
                subnets: vec![net("172.18.0.0/16")],
            },
            hairpin: true,
            pod_mtu: None,
            domain: "cluster.local".into(),
            hosts: Vec::new(),
            dns: DnsSettings::default(),
            more_addresses: Vec::new(),
            nics: Vec::new(),
            nodes_policed: false,
            written: BTreeMap::new(),
        }
    }
}

/// The machines of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Machines {
    /// Namespaces and wires.
    pub cluster: Cluster,
    /// Nodes by name.
    pub nodes: Arc<BTreeMap<ObjectName, Machine>>,
    /// Pods that have a namespace of their own.
    pub pods: Arc<BTreeMap<ObjectKey, Attached>>,
    /// Outside hosts by name.
    pub hosts: BTreeMap<Arc<str>, NetnsId>,
    /// The underlay's switch and router.
    pub underlay: NetnsId,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its namespace.
    pub netns: NetnsId,
    /// What plugins know about it.
    pub net: NodeNet,
}

/// A pod with a namespace.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Its namespace.
    pub netns: NetnsId,
    /// The node it is on.
    pub node: ObjectName,
    /// Its device on the node.
    pub host_dev: Arc<str>,
    /// The chain on the node that forwards its host ports, if it has any.
    pub forwarded: Option<Arc<str>>,
    /// Addresses that other nodes have routes of their own to.
    pub announced: Vec<IpNet>,
}

/// A change that a machine refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {error}")]
pub struct InstallError {
    /// Which machine.
    pub place: Arc<str>,
    /// What it said.
    pub error: ConfigError,
    /// The object it was for.
    pub origin: OriginId,
}

/// Device of a node towards the underlay.
const UPLINK: &str = "eth0";
/// The device with the address of `NodeLocal DNSCache`.
const NODE_CACHE: &str = "nodelocaldns";
/// The underlay's bridge.
const SWITCH: &str = "br0";

impl Machines {
    /// Makes all machines of settled objects: nodes with ranges and addresses, pods with nodes and addresses.
    ///
    /// # Errors
    /// The changes that machines refused; everything else is in place.
    pub fn install(objects: &Objects, site: &Site) -> (Self, Vec<InstallError>) {
        let mut machines = Self::default();
        let mut errors = Vec::new();
        machines.add_underlay(site, &mut errors);
        for node in objects.nodes.values() {
            let net = NodeNet {
                name: node.name.as_str().into(),
                uplink: UPLINK.into(),
                mtu: site.underlay.mtu,
                ips: node.internal_ips.clone(),
                pod_cidrs: node.pod_cidrs.clone(),
                cluster_cidrs: site.pod_cidrs.clone(),
                hairpin: site.hairpin,
                pod_mtu: site.pod_mtu,
                origin: node.origin,
            };
            machines.add_node(&node.name, net, site, &mut errors);
        }
        machines.connect_nodes(site, &mut errors);
        for host in &site.hosts {
            machines.add_host(host, site, &mut errors);
        }
        for pod in objects.pods.values() {
            machines.attach(pod, site, &mut errors);
        }
        (machines, errors)
    }

    fn apply(
        &mut self,
        netns: NetnsId,
        changes: &[Change],
        origin: OriginId,
        errors: &mut Vec<InstallError>,
    ) {
        let Some(netns) = self.cluster.netns_mut(netns) else {
            return;
        };
        for change in changes {
            if let Err(error) = netns.apply(change) {
                errors.push(InstallError {
                    place: Arc::clone(&netns.name),
                    error,
                    origin,
                });
            }
        }
    }

    fn add_underlay(&mut self, site: &Site, errors: &mut Vec<InstallError>) {
        self.underlay = self.cluster.add_netns("underlay");
        let mut changes = vec![
            sysctl("net.ipv4.ip_forward", 1),
            sysctl("net.ipv6.conf.all.forwarding", 1),
            link(SWITCH, site.underlay.mtu, NewLinkKind::Bridge),
            up(SWITCH),
        ];
        for subnet in &site.underlay.subnets {
            if let Some(router) = nth_addr(*subnet, 1) {
                changes.push(addr(SWITCH, with_len(router, *subnet), OriginId::NONE));
            }
        }
        for (switch, subnet) in more_switches(site) {
            changes.push(link(&switch, site.underlay.mtu, NewLinkKind::Bridge));
            changes.push(up(&switch));
            if let Some(router) = nth_addr(subnet, 1) {
                changes.push(addr(&switch, with_len(router, subnet), OriginId::NONE));
            }
        }
        self.apply(self.underlay, &changes, OriginId::NONE, errors);
    }

    /// A cable between a new physical device and the underlay: a switch of it, or its router itself.
    fn cable(
        &mut self,
        (netns, own_dev): (NetnsId, &str),
        port: &str,
        switch: Option<&str>,
        site: &Site,
        errors: &mut Vec<InstallError>,
    ) {
        let mtu = site.underlay.mtu;
        let mut changes = vec![link(port, mtu, NewLinkKind::Physical), up(port)];
        if let Some(switch) = switch {
            changes.push(Change::SetMaster {
                dev: port.into(),
                master: Some(switch.into()),
            });
        }
        self.apply(self.underlay, &changes, OriginId::NONE, errors);
        let own = [link(own_dev, mtu, NewLinkKind::Physical), up(own_dev)];
        self.apply(netns, &own, OriginId::NONE, errors);
        let dev = |id: NetnsId, name: &str| {
            self.cluster
                .netns(id)
                .and_then(|n| n.device_named(name))
                .map(|d| d.index)
        };
        if let (Some(a), Some(b)) = (dev(netns, own_dev), dev(self.underlay, port)) {
            let lane = Lane {
                latency: site.underlay.latency / 2,
                bandwidth: site.underlay.bandwidth,
                ..Lane::default()
            };
            self.cluster
                .plug((netns, a), (self.underlay, b), WireKind::Underlay, lane);
        }
    }

    fn add_node(
        &mut self,
        name: &ObjectName,
        net: NodeNet,
        site: &Site,
        errors: &mut Vec<InstallError>,
    ) {
        let netns = self.cluster.add_netns(&format!("node/{name}"));
        let port = port_name("n", self.nodes.len());
        self.cable((netns, UPLINK), &port, Some(SWITCH), site, errors);
        let mut changes = vec![
            sysctl("net.ipv4.ip_forward", 1),
            sysctl("net.ipv6.conf.all.forwarding", 1),
        ];
        for ip in &net.ips {
            let subnet = site
                .underlay
                .subnets
                .iter()
                .find(|subnet| subnet.contains(ip));
            let prefix = subnet.map_or_else(|| host_net(*ip), |subnet| with_len(*ip, *subnet));
            changes.push(addr(UPLINK, prefix, net.origin));
        }
        for subnet in &site.underlay.subnets {
            let has = net.ips.iter().any(|ip| subnet.contains(ip));
            let leaves_elsewhere = |nic: &Nic| {
                nic.node == *name
                    && nic.default_route
                    && Family::of_net(nic.addr) == Family::of_net(*subnet)
            };
            let elsewhere = site.nics.iter().any(leaves_elsewhere);
            if let (true, false, Some(router)) = (has, elsewhere, nth_addr(*subnet, 1)) {
                changes.push(default_via(router));
            }
        }
        let more = site.more_addresses.iter().filter(|(node, _)| node == name);
        let mut count = 1;
        for (n, (_, address)) in (1..).zip(more) {
            count += 1;
            let dev = format!("eth{n}");
            changes.push(link(&dev, site.underlay.mtu, NewLinkKind::Dummy));
            changes.push(up(&dev));
            changes.push(addr(&dev, *address, net.origin));
        }
        for (n, nic) in (count..).zip(site.nics.iter().filter(|nic| nic.node == *name)) {
            let dev = port_name("eth", n);
            let mut switches = more_switches(site).into_iter();
            let switch = switches.find(|(_, subnet)| *subnet == nic.addr.trunc());
            let port = format!("{port}-{n}");
            let switch = switch.as_ref().map(|(switch, _)| &**switch);
            self.cable((netns, &dev), &port, switch, site, errors);
            changes.push(addr(&dev, nic.addr, net.origin));
            if let (true, Some(router)) = (nic.default_route, nth_addr(nic.addr.trunc(), 1)) {
                changes.push(default_via(router));
            }
        }
        if let Some(ip) = site.dns.node_local {
            changes.push(link(NODE_CACHE, site.underlay.mtu, NewLinkKind::Dummy));
            changes.push(up(NODE_CACHE));
            changes.push(addr(NODE_CACHE, host_net(ip), net.origin));
        }
        changes.extend(site.cni.node_setup(&net));
        self.apply(netns, &changes, net.origin, errors);
        Arc::make_mut(&mut self.nodes).insert(name.clone(), Machine { netns, net });
    }

    /// Every node learns how to reach the pods of every other.
    fn connect_nodes(&mut self, site: &Site, errors: &mut Vec<InstallError>) {
        let nodes: Vec<Machine> = self.nodes.values().cloned().collect();
        let shared = peers::share_routes(&mut self.cluster, &nodes, site);
        if shared && !site.cni.is_tunnel() {
            return;
        }
        for (n, node) in nodes.iter().enumerate() {
            for (m, peer) in nodes.iter().enumerate() {
                if n == m {
                    continue;
                }
                let mut changes = site.cni.tunnel_to(&peer.net);
                if !shared {
                    let routes = site.cni.routes_to(&node.net, &peer.net);
                    changes.extend(routes.into_iter().map(Change::AddRoute));
                }
                self.apply(node.netns, &changes, peer.net.origin, errors);
            }
        }
    }

    fn add_host(&mut self, host: &OutsideHost, site: &Site, errors: &mut Vec<InstallError>) {
        let netns = self.cluster.add_netns(&format!("host/{}", host.name));
        let subnet = site
            .underlay
            .subnets
            .iter()
            .find(|subnet| subnet.contains(&host.ip));
        let port = port_name("h", self.hosts.len());
        let switch = subnet.map(|_| SWITCH);
        self.cable((netns, UPLINK), &port, switch, site, errors);
        let changes = if let Some((subnet, router)) =
            subnet.and_then(|subnet| Some((subnet, nth_addr(*subnet, 1)?)))
        {
            vec![
                addr(UPLINK, with_len(host.ip, *subnet), host.origin),
                default_via(router),
            ]
        } else {
            let router: IpAddr = match Family::of(host.ip) {
                Family::V4 => IpAddr::from([169, 254, 1, 1]),
                Family::V6 => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
            };
            let on_router = [
                addr(&port, host_net(router), host.origin),
                Change::AddRoute(on_link(host.ip, &port, host.origin)),
            ];
            self.apply(self.underlay, &on_router, host.origin, errors);
            vec![
                addr(UPLINK, host_net(host.ip), host.origin),
                Change::AddRoute(on_link(router, UPLINK, host.origin)),
                default_via(router),
            ]
        };
        self.apply(netns, &changes, host.origin, errors);
        self.hosts.insert(Arc::clone(&host.name), netns);
        let on = if subnet.is_some() {
            netns
        } else {
            self.underlay
        };
        let routes = self.routes_into(host, site);
        // Another host outside may have needed the same of the router.
        let known = |new: &NewRoute| {
            let main = self
                .cluster
                .netns(on)
                .map(|n| n.fib.main(Family::of_net(new.dst)));
            let mut main = main.into_iter().flatten();
            main.any(|route| route.dst == new.dst && route.gateway == new.gateway)
        };
        let routes: Vec<Change> = routes
            .into_iter()
            .filter(|route| !known(route))
            .map(Change::AddRoute)
            .collect();
        self.apply(on, &routes, host.origin, errors);
    }

    /// The routes by which an outside host reaches pods and Services, through the node it names.
    fn routes_into(&self, host: &OutsideHost, site: &Site) -> Vec<NewRoute> {
        let family = Family::of(host.ip);
        let node = host.via.as_ref().and_then(|name| self.nodes.get(name));
        let gateway = node.and_then(|node| {
            let mut ips = node.net.ips.iter();
            ips.find(|ip| Family::of(**ip) == family).copied()
        });
        let Some(gateway) = gateway else {
            return Vec::new();
        };
        let ranges = site.pod_cidrs.iter().chain(&site.service_cidrs);
        let ranges = ranges.filter(|net| Family::of_net(**net) == family);
        let route = |net: &IpNet| NewRoute {
            dst: *net,
            gateway: Some(gateway),
            dev: None,
            scope: Scope::Global,
            ..on_link(gateway, UPLINK, host.origin)
        };
        ranges.map(route).collect()
    }

    /// Loads the module `sctp` on the machine of a namespace: on the node, and so for all its pods.
    pub fn load_sctp(&mut self, netns: NetnsId) {
        let on_it = |m: &&Machine| {
            let pod_here = |a: &Attached| {
                a.netns == netns && self.nodes.get(&a.node).is_some_and(|n| n.netns == m.netns)
            };
            m.netns == netns || self.pods.values().any(pod_here)
        };
        let mut all = vec![netns];
        if let Some(node) = self.nodes.values().find(on_it).map(|m| m.netns) {
            all.push(node);
            let here = |a: &&Attached| self.nodes.get(&a.node).is_some_and(|n| n.netns == node);
            all.extend(self.pods.values().filter(here).map(|a| a.netns));
        }
        for netns in all {
            if let Some(space) = self.cluster.netns_mut(netns) {
                space.sctp = true;
            }
        }
    }

    /// A node runs another kernel, and so do its pods.
    pub fn set_release(&mut self, node: &ObjectName, release: Release) {
        let pods = self.pods.values().filter(|pod| pod.node == *node);
        let machine = self.nodes.get(node).map(|machine| machine.netns);
        let spaces: Vec<NetnsId> = pods.map(|pod| pod.netns).chain(machine).collect();
        for id in spaces {
            if let Some(space) = self.cluster.netns_mut(id) {
                space.set_release(release);
            }
        }
    }

    /// Makes a pod's namespace and attaches it to its node (CNI ADD). A pod without node or address, or on the
    /// host's network, gets none.
    pub fn attach(&mut self, pod: &Pod, site: &Site, errors: &mut Vec<InstallError>) {
        let node = pod
            .node_name
            .as_ref()
            .and_then(|name| self.nodes.get(name).map(|m| (name, m)));
        let Some((name, machine)) = node else { return };
        if pod.spec.host_network || pod.pod_ips.is_empty() || pod.ended() {
            return;
        }
        let (name, machine) = (name.clone(), machine.clone());
        let overhead = site.cni.overhead(Family::V4);
        let pod_net = PodNet {
            name: pod.key.to_string().into(),
            ips: pod.pod_ips.clone(),
            mtu: machine.net.mtu_under(overhead),
            origin: pod.origin,
        };
        let attachment = site.cni.attach(&machine.net, &pod_net);
        let netns = self.cluster.add_netns(&format!("pod/{}", pod.key));
        // All namespaces of a machine have one kernel.
        let host = self.cluster.netns(machine.netns);
        let (loaded, release) = host.map_or_else(Default::default, |n| (n.sctp, n.release));
        if let Some(space) = self.cluster.netns_mut(netns) {
            space.sctp = loaded;
            space.set_release(release);
        }
        self.apply(machine.netns, &attachment.host, pod.origin, errors);
        self.apply(netns, &attachment.pod, pod.origin, errors);
        let dev = |id: NetnsId, name: &str| {
            self.cluster
                .netns(id)
                .and_then(|n| n.device_named(name))
                .map(|d| d.index)
        };
        let ends = (
            dev(machine.netns, &attachment.host_dev),
            dev(netns, &attachment.pod_dev),
        );
        if let (Some(host), Some(inside)) = ends {
            let lane = Lane::default();
            self.cluster
                .plug((machine.netns, host), (netns, inside), WireKind::Veth, lane);
        }
        let forwarded = self.forward_ports(&machine, &pod_net, pod, site, &attachment, errors);
        self.tune(netns, pod, errors);
        let announced = self.announce(&machine, &pod_net, site, errors);
        let attached = Attached {
            forwarded,
            announced,
            netns,
            node: name,
            host_dev: attachment.host_dev,
        };
        Arc::make_mut(&mut self.pods).insert(pod.key.clone(), attached);
    }

    /// Writes the settings a pod asks for, as the runtime does once the plugins are through.
    ///
    /// # Fidelity
    /// The kubelet refuses pods that ask for settings it does not call safe, unless it is told to allow them
    /// (`--allowed-unsafe-sysctls`). Here all are allowed.
    fn tune(&mut self, netns: NetnsId, pod: &Pod, errors: &mut Vec<InstallError>) {
        for (name, text) in &pod.spec.sysctls {
            let changes = match sysctl::read(name, text) {
                Ok(written) => written
                    .into_iter()
                    .map(|(name, value)| Change::Sysctl { name, value })
                    .collect(),
                // Whoever reads manifests says that it is not modelled.
                Err(Refused::Unknown) => Vec::new(),
                Err(why @ Refused::Value) => {
                    errors.push(InstallError {
                        place: format!("pod/{}", pod.key).into(),
                        error: ConfigError::sysctl(name, text, why),
                        origin: pod.origin,
                    });
                    Vec::new()
                }
            };
            self.apply(netns, &changes, pod.origin, errors);
        }
    }

    /// Tells the other nodes where a pod is whose addresses are not in its node's ranges.
    fn announce(
        &mut self,
        machine: &Machine,
        pod: &PodNet,
        site: &Site,
        errors: &mut Vec<InstallError>,
    ) -> Vec<IpNet> {
        let mut announced = Vec::new();
        for ip in &pod.ips {
            if !site.cni.announces(&machine.net, *ip) {
                continue;
            }
            let nodes = Arc::clone(&self.nodes);
            for other in nodes.values().filter(|other| other.netns != machine.netns) {
                if let Some(route) = site.cni.announce(&other.net, &machine.net, *ip) {
                    announced.push(route.dst);
                    self.apply(other.netns, &[Change::AddRoute(route)], pod.origin, errors);
                }
            }
        }
        announced.dedup();
        announced
    }

    /// Forwards a pod's host ports on its node (`portmap`, last in the chain of plugins); returns the pod's chain.
    fn forward_ports(
        &mut self,
        machine: &Machine,
        pod_net: &PodNet,
        pod: &Pod,
        site: &Site,
        attachment: &Attachment,
        errors: &mut Vec<InstallError>,
    ) -> Option<Arc<str>> {
        let mappings = portmap::mappings(pod);
        if mappings.is_empty() {
            return None;
        }
        let container_id = sandbox_id(&pod_net.name);
        let wanted = portmap::Forwarding {
            network: site.cni.network(),
            container_id: &container_id,
            mappings: &mappings,
            marking: &Marking::default(),
            snat: portmap::Snat::default(),
            conditions: &[],
            origin: pod.origin,
        };
        for ip in &pod_net.ips {
            let (address, _) = with_range(&machine.net, *ip);
            let node = self.cluster.netns_mut(machine.netns)?;
            let edit = portmap::forward(&nat_of(node, Family::of(*ip)), address, &wanted);
            if let Err(error) = edit_nat(node, Family::of(*ip), edit) {
                errors.push(InstallError {
                    place: Arc::clone(&node.name),
                    error,
                    origin: pod.origin,
                });
            }
            if ip.is_ipv4() {
                let dev = site.cni.towards_pod(attachment);
                let localnet = sysctl(&format!("net.ipv4.conf.{dev}.route_localnet"), 1);
                self.apply(machine.netns, &[localnet], pod.origin, errors);
            }
        }
        Some(portmap::chain_name(wanted.network, wanted.container_id))
    }

    /// Removes a pod's namespace, its device on the node and its host ports (CNI DEL).
    pub fn detach(&mut self, pod: &ObjectKey) {
        if !self.pods.contains_key(pod) {
            return;
        }
        let Some(attached) = Arc::make_mut(&mut self.pods).remove(pod) else {
            return;
        };
        self.cluster.remove_netns(attached.netns);
        for dst in &attached.announced {
            let others = self
                .nodes
                .iter()
                .filter(|(name, _)| **name != attached.node);
            for (_, other) in others {
                if let Some(node) = self.cluster.netns_mut(other.netns) {
                    let (dst, metric) = (*dst, 0);
                    node.apply(&Change::DeleteRoute {
                        dst,
                        dev: None,
                        metric,
                    })
                    .expect("the route was made when the pod was");
                }
            }
        }
        if let Some(machine) = self.nodes.get(&attached.node)
            && let Some(node) = self.cluster.netns_mut(machine.netns)
        {
            for family in Family::ALL {
                if let Some(chain) = &attached.forwarded {
                    let nat = nat_of(node, family);
                    if nat.chains.contains_key(chain) {
                        edit_nat(node, family, portmap::unforward(&nat, chain))
                            .expect("nothing refers to a chain whose entries are gone");
                    }
                }
            }
            let dev = attached.host_dev;
            node.apply(&Change::DeleteLink { dev })
                .expect("the device was made when the pod was");
        }
    }

    /// Takes the policy agents of all nodes away.
    pub fn forget_policies(&mut self) {
        for machine in self.nodes.values() {
            if let Some(netns) = self.cluster.netns_mut(machine.netns) {
                netns.set_agent(None);
            }
        }
    }

    /// Whether some machine or pod has an address.
    pub fn have_address(&self, ip: IpAddr) -> bool {
        let devices = self.cluster.iter().flat_map(|n| n.devices.iter().flatten());
        let mut addrs = devices.flat_map(|device| &device.addrs);
        addrs.any(|addr| addr.net.addr() == ip)
    }

    /// Returns the namespace a pod's processes run in: its own, or its node's.
    pub fn netns_of(&self, pod: &Pod) -> Option<NetnsId> {
        if let Some(attached) = self.pods.get(&pod.key) {
            return Some(attached.netns);
        }
        let on_host = pod.spec.host_network && !pod.ended();
        let node = pod.node_name.as_ref().filter(|_| on_host)?;
        self.nodes.get(node).map(|machine| machine.netns)
    }
}

/// Puts the rules that kube-proxy (or another owner of whole chains) wants into a namespace, beside those of others:
/// its own chains are replaced, chains of its that it no longer wants are removed, and its jumps come first in the
/// built-in chains (`iptables -I`, `iptables-restore --noflush`).
///
/// # Errors
/// As `iptables-restore`; tables written before the error stay.
pub fn program_rules(
    netns: &mut Netns,
    family: Family,
    wanted: &Ruleset,
    owns: impl Fn(&str) -> bool,
) -> Result<(), ConfigError> {
    for (table, rules) in &wanted.tables {
        let present = |netns: &Netns| {
            let all = netns
                .netfilter
                .as_ref()
                .and_then(|n| n.rules(family).cloned());
            all.and_then(|rules| rules.ruleset().tables.get(table).cloned())
                .unwrap_or_default()
        };
        let before = present(netns);
        let stale: Vec<Arc<str>> = before
            .chains
            .keys()
            .filter(|name| owns(name) && !rules.chains.contains_key(*name))
            .cloned()
            .collect();
        let own = rules
            .chains
            .iter()
            .filter(|(_, chain)| chain.policy.is_none());
        let own = own.map(|(name, chain)| (Arc::clone(name), Arc::clone(&chain.rules)));
        netns.replace_chains(family, *table, own.collect::<Vec<_>>(), &stale)?;
        for (name, chain) in rules
            .chains
            .iter()
            .filter(|(_, chain)| chain.policy.is_some())
        {
            let existing = before
                .chains
                .get(name)
                .map_or(&[][..], |c| c.rules.as_slice());
            for (at, rule) in (0..).zip(chain.rules.iter()) {
                if !existing.contains(rule) {
                    netns.add_rule(family, *table, name, Some(at), rule.clone())?;
                }
            }
        }
    }
    Ok(())
}

/// Returns the `nat` table of a namespace.
fn nat_of(netns: &Netns, family: Family) -> TableRules {
    let rules = netns.netfilter.as_ref().and_then(|n| n.rules(family));
    let table = rules.and_then(|rules| rules.ruleset().tables.get(&Table::Nat));
    table.cloned().unwrap_or_default()
}

fn edit_nat(netns: &mut Netns, family: Family, edit: NatEdit) -> Result<(), ConfigError> {
    netns.replace_chains(family, Table::Nat, edit.chains, &edit.delete)
}

/// The switches of further interfaces, one for each network, in the order of the interfaces.
fn more_switches(site: &Site) -> Vec<(String, IpNet)> {
    let mut found: Vec<(String, IpNet)> = Vec::new();
    for nic in &site.nics {
        let subnet = nic.addr.trunc();
        if !found.iter().any(|(_, known)| *known == subnet) {
            found.push((port_name("br", found.len() + 1), subnet));
        }
    }
    found
}

fn port_name(prefix: &str, n: usize) -> String {
    format!("{prefix}{n}")
}

fn sysctl(name: &str, value: i64) -> Change {
    Change::Sysctl {
        name: name.into(),
        value,
    }
}

fn link(name: &str, mtu: u32, kind: NewLinkKind) -> Change {
    Change::AddLink(NewLink {
        name: name.into(),
        mac: None,
        mtu,
        kind,
    })
}

fn up(dev: &str) -> Change {
    Change::SetUp {
        dev: dev.into(),
        up: true,
    }
}

fn with_len(ip: IpAddr, subnet: IpNet) -> IpNet {
    IpNet::new(ip, subnet.prefix_len()).unwrap_or_else(|_| host_net(ip))
}

fn addr(dev: &str, net: IpNet, origin: OriginId) -> Change {
    Change::AddAddr {
        dev: dev.into(),
        net,
        scope: Scope::Global,
        origin,
    }
}

fn on_link(to: IpAddr, dev: &str, origin: OriginId) -> NewRoute {
    NewRoute {
        kind: RouteKind::Unicast,
        dst: host_net(to),
        gateway: None,
        dev: Some(dev.into()),
        src: None,
        metric: 0,
        scope: Scope::Link,
        onlink: false,
        mtu: None,
        origin,
    }
}

fn default_via(router: IpAddr) -> Change {
    Change::AddRoute(NewRoute {
        dst: Family::of(router).any(),
        gateway: Some(router),
        scope: Scope::Global,
        dev: None,
        ..on_link(router, UPLINK, OriginId::NONE)
    })
}
