//! Calico without encapsulation: `/32` routes to pods whose veths have no address, routes between nodes by BGP.
//!
//! Source: `projectcalico/calico` `cni-plugin/internal/pkg/utils`, `felix/rules`, `confd`.
//!
//! # Fidelity
//! Addresses come from the node's `podCIDR` (`host-local` with `usePodCidr`), not from blocks of Calico's own. Routes
//! to other nodes are there from the beginning. Policies are decided as Felix decides them, without its chains
//! `cali-fw-…` and `cali-tw-…`; the masquerading of pools names ranges instead of sets. Pods may talk to their host
//! (`DefaultEndpointToHostAction` `Accept`, as the manifests have it).

use std::sync::Arc;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::{Attachment, NodeNet, PodNet, address, jump, route, rule};
use crate::base::addr::host_net;
use crate::base::{Family, Mac, OriginId};
use crate::kernel::config::{Change, NewLink, NewLinkKind, NewRoute, RouteKind};
use crate::kernel::link::Scope;
use crate::kernel::netfilter::chain::{NatRandom, Not, Rule, Table, Target};

/// The hardware address of every host end.
const HOST_MAC: Mac = Mac([0xee; 6]);

/// The address that stands for the host in every pod: nobody has it, the host answers for it.
const GATEWAY_V4: [u8; 4] = [169, 254, 1, 1];

/// The link-local address that belongs to [`HOST_MAC`].
const GATEWAY_V6: [u16; 8] = [0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee];

/// The node's own ranges lead nowhere but to its pods; what leaves the pools is masqueraded.
pub fn node_setup(node: &NodeNet) -> Vec<Change> {
    let mut changes = Vec::new();
    for range in &node.pod_cidrs {
        changes.push(Change::AddRoute(NewRoute {
            kind: RouteKind::Blackhole,
            dev: None,
            scope: Scope::Global,
            ..route(*range, None, &node.uplink, node.origin)
        }));
    }
    for family in Family::ALL {
        let of_family = |net: &&IpNet| Family::of_net(**net) == family;
        if node.pod_cidrs.iter().any(|net| of_family(&net)) {
            changes.extend(masquerade(node, family));
        }
    }
    changes
}

fn masquerade(node: &NodeNet, family: Family) -> Vec<Change> {
    let chain = |name: &str| Change::Chain {
        family,
        table: Table::Nat,
        chain: name.into(),
        policy: None,
    };
    let to = |from: &str, to: &str| {
        let target = jump(Target::Jump(to.into()));
        rule(family, Table::Nat, from, None, "", target)
    };
    let mut changes = vec![
        chain("cali-nat-outgoing"),
        chain("cali-POSTROUTING"),
        to("cali-POSTROUTING", "cali-nat-outgoing"),
        to("POSTROUTING", "cali-POSTROUTING"),
    ];
    let of_family = |net: &&IpNet| Family::of_net(**net) == family;
    for range in node.cluster_cidrs.iter().filter(of_family) {
        let leaving = Rule {
            source: Some(Not::is(*range)),
            destination: Some(Not::except(*range)),
            origin: node.origin,
            ..jump(Target::Masquerade {
                ports: None,
                random: NatRandom::RandomFully,
            })
        };
        changes.push(rule(
            family,
            Table::Nat,
            "cali-nat-outgoing",
            None,
            "",
            leaving,
        ));
    }
    changes
}

/// Whether an address is not in the ranges of the node that has it: Calico lends addresses.
pub fn lent(node: &NodeNet, ip: std::net::IpAddr) -> bool {
    !node.pod_cidrs.iter().any(|range| range.contains(&ip))
}

/// Routes to the addresses of a peer's pod that are not in the peer's ranges.
pub fn announce(node: &NodeNet, peer: &NodeNet, ip: std::net::IpAddr) -> Option<NewRoute> {
    if !lent(peer, ip) {
        return None;
    }
    let via = peer.ip(Family::of(ip))?;
    Some(route(host_net(ip), Some(via), &node.uplink, peer.origin))
}

/// `cali` and eleven hexadecimal digits.
fn host_name(pod: &PodNet) -> Arc<str> {
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(pod.name.as_bytes()));
    let digits: String = digest.chars().take(11).collect();
    format!("cali{digits}").into()
}

/// A veth pair without an address on the host's end, which answers for the gateway.
pub fn attach(_node: &NodeNet, pod: &PodNet) -> Attachment {
    let host_dev = host_name(pod);
    let pod_dev: Arc<str> = "eth0".into();
    let link = |dev: &Arc<str>, mac: Option<Mac>| {
        [
            Change::AddLink(NewLink {
                name: Arc::clone(dev),
                mac,
                mtu: pod.mtu,
                kind: NewLinkKind::Veth,
            }),
            Change::SetUp {
                dev: Arc::clone(dev),
                up: true,
            },
        ]
    };
    let mut host = link(&host_dev, Some(HOST_MAC)).to_vec();
    let mut inside = link(&pod_dev, None).to_vec();
    for name in ["proxy_arp", "forwarding", "rp_filter", "route_localnet"] {
        host.push(Change::Sysctl {
            name: format!("net.ipv4.conf.{host_dev}.{name}").into(),
            value: 1,
        });
    }
    for ip in &pod.ips {
        host.push(Change::AddRoute(route(
            host_net(*ip),
            None,
            &host_dev,
            pod.origin,
        )));
        inside.push(address(&pod_dev, host_net(*ip), pod.origin));
        let gateway = if ip.is_ipv4() {
            GATEWAY_V4.into()
        } else {
            let gateway: std::net::IpAddr = GATEWAY_V6.into();
            let link_local = IpNet::new(gateway, 64).unwrap_or_else(|_| host_net(gateway));
            host.push(Change::AddAddr {
                dev: Arc::clone(&host_dev),
                net: link_local,
                scope: Scope::Link,
                origin: OriginId::NONE,
            });
            gateway
        };
        inside.push(Change::AddRoute(route(
            host_net(gateway),
            None,
            &pod_dev,
            pod.origin,
        )));
        let everything = Family::of(*ip).any();
        inside.push(Change::AddRoute(route(
            everything,
            Some(gateway),
            &pod_dev,
            pod.origin,
        )));
    }
    Attachment {
        host_dev,
        pod_dev,
        host,
        pod: inside,
    }
}
