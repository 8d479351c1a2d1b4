//! Flannel: the `bridge` plugin on the node, and between nodes either VXLAN (VNI 1, UDP 8472) or host routes.
//!
//! Source: `flannel-io/flannel` `pkg/backend/vxlan`, `pkg/trafficmngr/iptables/iptables.go` (`--ip-masq`).
//!
//! # Fidelity
//! IPv4 only between nodes (flannel's IPv6 tunnel `flannel-v6.1` is left out). Flannel re-checks its rules every
//! five seconds; here they stay.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::bridge::bridge_with;
use super::{NodeNet, address, jump, route, rule};
use crate::base::Family;
use crate::base::addr::host_net;
use crate::kernel::config::{Change, NewLink, NewLinkKind, NewRoute};
use crate::kernel::netfilter::chain::{MarkMask, Match, NatRandom, Not, Rule, Table, Target};

/// Name of the tunnel device.
pub const TUNNEL: &str = "flannel.1";
/// VXLAN network identifier.
pub const VNI: u32 = 1;
/// UDP port of the tunnel, the kernel's default.
pub const PORT: u16 = 8472;

/// Bridge and rules.
pub fn node_setup_host_gw(node: &NodeNet) -> Vec<Change> {
    let mut changes = bridge_with(node, node.mtu_under(0));
    changes.extend(masquerade(node));
    changes
}

/// Bridge, tunnel device and rules.
pub fn node_setup_vxlan(node: &NodeNet) -> Vec<Change> {
    let overhead = crate::wire::size::vxlan_overhead(Family::V4);
    let mut changes = bridge_with(node, node.mtu_under(overhead));
    let dev: Arc<str> = TUNNEL.into();
    if let (Some(local), Some(range)) = (node.ip(Family::V4), range_v4(node)) {
        changes.push(Change::AddLink(NewLink {
            name: Arc::clone(&dev),
            mac: Some(node.vtep_mac()),
            mtu: node.mtu_under(overhead),
            kind: NewLinkKind::Vxlan {
                vni: VNI,
                local,
                dstport: PORT,
                dev: Some(Arc::clone(&node.uplink)),
                learning: false,
            },
        }));
        changes.push(Change::SetUp {
            dev: Arc::clone(&dev),
            up: true,
        });
        changes.push(address(&dev, host_net(range.network()), node.origin));
    }
    changes.extend(masquerade(node));
    changes
}

fn range_v4(node: &NodeNet) -> Option<IpNet> {
    node.pod_cidrs
        .iter()
        .copied()
        .find(|range| Family::of_net(*range) == Family::V4)
}

/// The route to a peer's pods, by the peer's end of the tunnel.
pub fn routes_to(peer: &NodeNet) -> Vec<NewRoute> {
    let (Some(range), Some(_)) = (range_v4(peer), peer.ip(Family::V4)) else {
        return Vec::new();
    };
    let vtep: IpAddr = range.network();
    vec![NewRoute {
        onlink: true,
        ..route(range.trunc(), Some(vtep), &TUNNEL.into(), peer.origin)
    }]
}

/// The hardware address of a peer's end of the tunnel, and where it is.
pub fn tunnel_to(peer: &NodeNet) -> Vec<Change> {
    let (Some(range), Some(remote)) = (range_v4(peer), peer.ip(Family::V4)) else {
        return Vec::new();
    };
    let dev: Arc<str> = TUNNEL.into();
    let mac = peer.vtep_mac();
    vec![
        Change::SetNeighbour {
            dev: Arc::clone(&dev),
            addr: range.network(),
            mac,
            origin: peer.origin,
        },
        Change::AddFdb {
            dev,
            mac,
            dst: remote,
        },
    ]
}

/// The rules of `--ip-masq`, in the order of flannel's source.
fn masquerade(node: &NodeNet) -> Vec<Change> {
    let family = Family::V4;
    let cluster = node
        .cluster_cidrs
        .iter()
        .copied()
        .find(|net| Family::of_net(*net) == family);
    let (Some(cluster), Some(own)) = (cluster, range_v4(node)) else {
        return Vec::new();
    };
    let chain = |table, chain: &str| Change::Chain {
        family,
        table,
        chain: chain.into(),
        policy: None,
    };
    let nat = |r: Rule| {
        rule(
            family,
            Table::Nat,
            "FLANNEL-POSTRTG",
            None,
            "flanneld masq",
            r,
        )
    };
    let fwd = |r: Rule| {
        rule(
            family,
            Table::Filter,
            "FLANNEL-FWD",
            None,
            "flanneld forward",
            r,
        )
    };
    let (from, to) = (|net| Some(Not::is(net)), |net| Some(Not::is(net)));
    let masq = || {
        jump(Target::Masquerade {
            ports: None,
            random: NatRandom::RandomFully,
        })
    };
    let multicast = "224.0.0.0/4".parse().ok().map(Not::except);
    let marked = Match::Mark(Not::is(MarkMask {
        value: 0x4000,
        mask: 0x4000,
    }));
    vec![
        chain(Table::Nat, "FLANNEL-POSTRTG"),
        rule(
            family,
            Table::Nat,
            "POSTROUTING",
            None,
            "flanneld masq",
            jump(Target::Jump("FLANNEL-POSTRTG".into())),
        ),
        nat(Rule {
            matches: vec![marked],
            ..jump(Target::Return)
        }),
        nat(Rule {
            source: from(own),
            destination: to(cluster),
            ..jump(Target::Return)
        }),
        nat(Rule {
            source: from(cluster),
            destination: to(own),
            ..jump(Target::Return)
        }),
        nat(Rule {
            source: Some(Not::except(cluster)),
            destination: to(own),
            ..jump(Target::Return)
        }),
        nat(Rule {
            source: from(cluster),
            destination: multicast,
            ..masq()
        }),
        nat(Rule {
            source: Some(Not::except(cluster)),
            destination: to(cluster),
            ..masq()
        }),
        chain(Table::Filter, "FLANNEL-FWD"),
        rule(
            family,
            Table::Filter,
            "FORWARD",
            None,
            "flanneld forward",
            jump(Target::Jump("FLANNEL-FWD".into())),
        ),
        fwd(Rule {
            source: from(cluster),
            ..jump(Target::Accept)
        }),
        fwd(Rule {
            destination: to(cluster),
            ..jump(Target::Accept)
        }),
    ]
}
