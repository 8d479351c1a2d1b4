//! CNI plugins: what each leaves on a node and in a pod, as lists of [`Change`]s. [`Cni`] and the only match over it.
//!
//! Each plugin has a file with the same functions: `node_setup`, `peer`, `attach`.

pub mod bridge;
pub mod calico;
pub mod flannel;
pub mod kindnet;
pub mod plugin;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::policy::agent::Enforcer;
use crate::base::addr::{host_net, nth_addr};
use crate::base::hash::stable_hash;
use crate::base::{Family, Mac, OriginId};
use crate::kernel::config::{Change, NewLink, NewLinkKind, NewRoute, RouteKind};
use crate::kernel::link::{PortFlags, Scope};
use crate::kernel::netfilter::chain::{Match, Rule, Table, Target};

/// The plugins that exist here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cni {
    /// `kindnet`, what `kind` clusters run: point-to-point veths and host routes.
    #[default]
    Kindnet,
    /// `bridge` with `host-local`, and routes between nodes set by hand.
    Bridge,
    /// Flannel, VXLAN back end.
    FlannelVxlan,
    /// Flannel, host-gw back end.
    FlannelHostGw,
    /// Calico without encapsulation.
    Calico,
}

impl Cni {
    /// All plugins.
    pub const ALL: [Self; 5] = [
        Self::Kindnet,
        Self::Bridge,
        Self::FlannelVxlan,
        Self::FlannelHostGw,
        Self::Calico,
    ];

    /// Returns the name of its profile.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kindnet => "kindnet",
            Self::Bridge => "bridge",
            Self::FlannelVxlan => "flannel-vxlan",
            Self::FlannelHostGw => "flannel-host-gw",
            Self::Calico => "calico",
        }
    }

    /// Returns the name of the network in the plugins' configuration. All chain `portmap` behind the first plugin.
    pub const fn network(self) -> &'static str {
        match self {
            Self::Kindnet => "kindnet",
            Self::Bridge => "containerd-net",
            Self::FlannelVxlan | Self::FlannelHostGw => "cbr0",
            Self::Calico => "k8s-pod-network",
        }
    }

    /// Returns the device of a node behind which its pods are: the bridge, or the pod's own veth.
    pub fn towards_pod(self, attachment: &Attachment) -> Arc<str> {
        match self {
            Self::Kindnet | Self::Calico => Arc::clone(&attachment.host_dev),
            Self::Bridge | Self::FlannelVxlan | Self::FlannelHostGw => bridge::BRIDGE.into(),
        }
    }

    /// Returns what it takes away from the underlay's MTU, in bytes.
    pub const fn overhead(self, underlay: Family) -> u32 {
        match self {
            Self::Kindnet | Self::Bridge | Self::FlannelHostGw | Self::Calico => 0,
            Self::FlannelVxlan => crate::wire::size::vxlan_overhead(underlay),
        }
    }

    /// Returns who enforces policies under it.
    pub const fn enforcer(self) -> Enforcer {
        match self {
            Self::Kindnet => Enforcer::KubeNetworkPolicies,
            Self::Calico => Enforcer::Felix,
            Self::Bridge | Self::FlannelVxlan | Self::FlannelHostGw => Enforcer::Nobody,
        }
    }

    /// Returns whether it enforces policies.
    pub const fn enforces_policies(self) -> bool {
        match self.enforcer() {
            Enforcer::KubeNetworkPolicies | Enforcer::Felix => true,
            Enforcer::Nobody => false,
        }
    }

    /// Returns what a node needs before its first pod.
    pub fn node_setup(self, node: &NodeNet) -> Vec<Change> {
        match self {
            Self::Kindnet => kindnet::node_setup(node),
            Self::Bridge => bridge::node_setup(node),
            Self::FlannelVxlan => flannel::node_setup_vxlan(node),
            Self::FlannelHostGw => flannel::node_setup_host_gw(node),
            Self::Calico => calico::node_setup(node),
        }
    }

    /// Returns the routes that a node needs to reach the pods of another.
    pub fn routes_to(self, node: &NodeNet, peer: &NodeNet) -> Vec<NewRoute> {
        match self {
            Self::Kindnet | Self::Bridge | Self::FlannelHostGw | Self::Calico => {
                host_routes(node, peer)
            }
            Self::FlannelVxlan => flannel::routes_to(peer),
        }
    }

    /// Returns whether nodes reach each other's pods through a tunnel.
    pub const fn is_tunnel(self) -> bool {
        match self {
            Self::FlannelVxlan => true,
            Self::Kindnet | Self::Bridge | Self::FlannelHostGw | Self::Calico => false,
        }
    }

    /// Returns what a node must know about another's end of the tunnel.
    pub fn tunnel_to(self, peer: &NodeNet) -> Vec<Change> {
        match self {
            Self::FlannelVxlan => flannel::tunnel_to(peer),
            Self::Kindnet | Self::Bridge | Self::FlannelHostGw | Self::Calico => Vec::new(),
        }
    }

    /// Returns whether other nodes need a route of its own to an address of a node's pod.
    pub fn announces(self, node: &NodeNet, ip: IpAddr) -> bool {
        match self {
            Self::Calico => calico::lent(node, ip),
            Self::Kindnet | Self::Bridge | Self::FlannelVxlan | Self::FlannelHostGw => false,
        }
    }

    /// Returns what a node needs to reach one address of a peer's pod, besides [`Self::routes_to`].
    pub fn announce(self, node: &NodeNet, peer: &NodeNet, ip: IpAddr) -> Option<NewRoute> {
        match self {
            Self::Calico => calico::announce(node, peer, ip),
            Self::Kindnet | Self::Bridge | Self::FlannelVxlan | Self::FlannelHostGw => None,
        }
    }

    /// Returns what attaches a pod to its node (CNI ADD).
    pub fn attach(self, node: &NodeNet, pod: &PodNet) -> Attachment {
        match self {
            Self::Kindnet => kindnet::attach(node, pod),
            Self::Calico => calico::attach(node, pod),
            Self::Bridge | Self::FlannelVxlan | Self::FlannelHostGw => bridge::attach(node, pod),
        }
    }
}

impl fmt::Display for Cni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no profile named `{0}`; there are kindnet, bridge, flannel-vxlan, flannel-host-gw and calico"
)]
pub struct ParseCniError(pub String);

impl FromStr for Cni {
    type Err = ParseCniError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|cni| cni.name() == s);
        named.ok_or_else(|| ParseCniError(s.to_owned()))
    }
}

/// What a plugin must know about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNet {
    /// Name.
    pub name: Arc<str>,
    /// Device towards the other nodes.
    pub uplink: Arc<str>,
    /// MTU of that device.
    pub mtu: u32,
    /// Addresses of the node, by which others reach it.
    pub ips: Vec<IpAddr>,
    /// Pod ranges of the node.
    pub pod_cidrs: Vec<IpNet>,
    /// Pod ranges of the whole cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Whether bridge ports let frames go back where they came from.
    pub hairpin: bool,
    /// MTU of pods, where somebody insists on one.
    pub pod_mtu: Option<u32>,
    /// The Node object.
    pub origin: OriginId,
}

impl NodeNet {
    /// Returns the node's address of a family.
    pub fn ip(&self, family: Family) -> Option<IpAddr> {
        self.ips
            .iter()
            .copied()
            .find(|ip| Family::of(*ip) == family)
    }

    /// Returns the gateway of each pod range: its first address, with the range's prefix length.
    pub fn gateways(&self) -> impl Iterator<Item = (IpNet, IpAddr)> {
        self.pod_cidrs
            .iter()
            .filter_map(|range| Some((*range, nth_addr(*range, 1)?)))
    }

    /// Returns the hardware address of the node's tunnel device.
    pub fn vtep_mac(&self) -> Mac {
        Mac::from_hash(stable_hash(
            format!("node/{}/flannel.1", self.name).as_bytes(),
        ))
    }

    /// Returns the MTU of the node's pods under a plugin.
    pub fn mtu_under(&self, overhead: u32) -> u32 {
        self.pod_mtu
            .unwrap_or_else(|| self.mtu.saturating_sub(overhead))
    }
}

/// Returns the identifier of a pod's sandbox: 64 hexadecimal digits, here from the pod's name.
pub fn sandbox_id(pod: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(pod.as_bytes()))
}

/// What a plugin must know about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNet {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// MTU of its device.
    pub mtu: u32,
    /// The Pod object.
    pub origin: OriginId,
}

/// A pod's connection to its node: one end of a veth pair on each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Device on the node.
    pub host_dev: Arc<str>,
    /// Device in the pod.
    pub pod_dev: Arc<str>,
    /// Changes on the node.
    pub host: Vec<Change>,
    /// Changes in the pod.
    pub pod: Vec<Change>,
}

/// `veth` and eight hexadecimal digits, as the plugins name them.
fn veth_name(pod: &PodNet) -> Arc<str> {
    let hash = stable_hash(pod.name.as_bytes());
    format!("veth{:08x}", hash >> 32).into()
}

fn veth(name: &Arc<str>, mtu: u32) -> [Change; 2] {
    [
        Change::AddLink(NewLink {
            name: Arc::clone(name),
            mac: None,
            mtu,
            kind: NewLinkKind::Veth,
        }),
        Change::SetUp {
            dev: Arc::clone(name),
            up: true,
        },
    ]
}

fn address(dev: &Arc<str>, net: IpNet, origin: OriginId) -> Change {
    Change::AddAddr {
        dev: Arc::clone(dev),
        net,
        scope: Scope::Global,
        origin,
    }
}

fn route(dst: IpNet, gateway: Option<IpAddr>, dev: &Arc<str>, origin: OriginId) -> NewRoute {
    NewRoute {
        kind: RouteKind::Unicast,
        dst,
        gateway,
        dev: Some(Arc::clone(dev)),
        src: None,
        metric: 0,
        scope: if gateway.is_some() {
            Scope::Global
        } else {
            Scope::Link
        },
        onlink: false,
        mtu: None,
        origin,
    }
}

/// Routes to a peer's pods by the peer's own address; needs both on one link.
fn host_routes(node: &NodeNet, peer: &NodeNet) -> Vec<NewRoute> {
    let to = |range: &IpNet| {
        let via = peer.ip(Family::of_net(*range))?;
        Some(route(*range, Some(via), &node.uplink, peer.origin))
    };
    peer.pod_cidrs.iter().filter_map(to).collect()
}

/// Returns a pod's address with the prefix length of its node's range, and the gateway of that range.
pub fn with_range(node: &NodeNet, ip: IpAddr) -> (IpNet, IpAddr) {
    let found = node.gateways().find(|(range, _)| range.contains(&ip));
    let (range, gateway) = found.unwrap_or_else(|| (host_net(ip), ip));
    (
        IpNet::new(ip, range.prefix_len()).unwrap_or_else(|_| host_net(ip)),
        gateway,
    )
}

fn rule(
    family: Family,
    table: Table,
    chain: &str,
    at: Option<u32>,
    comment: &str,
    rule: Rule,
) -> Change {
    let mut rule = rule;
    if !comment.is_empty() {
        rule.matches.insert(0, Match::Comment(comment.into()));
    }
    Change::Rule {
        family,
        table,
        chain: chain.into(),
        at,
        rule: Box::new(rule),
    }
}

fn jump(target: Target) -> Rule {
    Rule {
        target: Some(target),
        ..Rule::default()
    }
}

fn hairpin(dev: &Arc<str>, on: bool) -> Change {
    Change::SetPort {
        dev: Arc::clone(dev),
        flags: PortFlags {
            hairpin: on,
            isolated: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Netns;
    use crate::wire::NetnsId;

    fn node(name: &str, n: u8) -> NodeNet {
        NodeNet {
            name: name.into(),
            uplink: "eth0".into(),
            mtu: 1500,
            ips: vec![IpAddr::from([172, 18, 0, n + 1])],
            pod_cidrs: vec![format!("10.244.{n}.0/24").parse().expect("a prefix")],
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a prefix")],
            hairpin: true,
            pod_mtu: None,
            origin: OriginId::NONE,
        }
    }

    #[test]
    fn every_plugin_sets_up_a_node_and_a_pod() {
        for cni in Cni::ALL {
            let (a, b) = (node("a", 1), node("b", 2));
            let mut host = Netns::new(NetnsId(0), "node/a".into());
            let uplink: Arc<str> = "eth0".into();
            let mut changes = veth(&uplink, 1500).to_vec();
            let net = "172.18.0.2/16".parse().expect("a prefix");
            changes.push(address(&uplink, net, OriginId::NONE));
            changes.extend(cni.node_setup(&a));
            let routes = cni.routes_to(&a, &b).into_iter();
            changes.extend(routes.map(Change::AddRoute));
            changes.extend(cni.tunnel_to(&b));
            let mtu = a.mtu_under(cni.overhead(Family::V4));
            let ips = vec!["10.244.1.2".parse().expect("an address")];
            let pod = PodNet {
                name: "shop/cart".into(),
                ips,
                mtu,
                origin: OriginId::NONE,
            };
            let attachment = cni.attach(&a, &pod);
            changes.extend(attachment.host);
            for change in &changes {
                if !matches!(change, Change::Rule { .. } | Change::Chain { .. }) {
                    host.apply(change)
                        .unwrap_or_else(|e| panic!("{cni}: {change:?}: {e}"));
                }
            }
            let mut inside = Netns::new(NetnsId(1), "pod/shop/cart".into());
            for change in &attachment.pod {
                inside
                    .apply(change)
                    .unwrap_or_else(|e| panic!("{cni}: {change:?}: {e}"));
            }
            let hop = inside
                .route("10.96.0.1".parse().expect("an address"))
                .expect("default");
            assert_eq!(hop.src, "10.244.1.2".parse::<IpAddr>().expect("an address"));
            assert_eq!(hop.mtu, mtu);
            assert!(
                host.route("10.244.2.7".parse().expect("an address"))
                    .is_ok(),
                "{cni}"
            );
        }
    }
}
