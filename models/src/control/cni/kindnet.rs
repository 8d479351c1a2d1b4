//! kindnet: the `ptp` plugin with `host-local`, routes to peers, and masquerading of what leaves the cluster.
//!
//! Source: `sigs.k8s.io/kind/images/kindnetd`, containernetworking `plugins/main/ptp`.
//!
//! # Fidelity
//! Leaves out kindnet's DNS cache.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Attachment, NodeNet, PodNet, address, jump, route, rule, veth, veth_name, with_range};
use crate::base::Family;
use crate::base::addr::host_net;
use crate::kernel::config::{Change, NewRoute};
use crate::kernel::link::Scope;
use crate::kernel::netfilter::chain::{AddrType, Match, NatRandom, Not, Rule, Table, Target};

const CHAIN: &str = "KIND-MASQ-AGENT";

/// Masquerading of everything that leaves the cluster's pod ranges.
pub fn node_setup(node: &NodeNet) -> Vec<Change> {
    let mut changes = Vec::new();
    for family in Family::ALL {
        let of_family = |net: &&IpNet| Family::of_net(**net) == family;
        if !node.pod_cidrs.iter().any(|net| of_family(&net)) {
            continue;
        }
        changes.push(Change::Chain {
            family,
            table: Table::Nat,
            chain: CHAIN.into(),
            policy: None,
        });
        let not_local = Match::AddrType {
            src: None,
            dst: Some(Not::except(AddrType::Local)),
            limit_in: false,
        };
        let from_postrouting = Rule {
            matches: vec![not_local],
            ..jump(Target::Jump(CHAIN.into()))
        };
        changes.push(rule(
            family,
            Table::Nat,
            "POSTROUTING",
            None,
            "kind-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our custom KIND-MASQ-AGENT chain",
            from_postrouting,
        ));
        for range in node.cluster_cidrs.iter().filter(of_family) {
            let inside = Rule {
                destination: Some(Not::is(*range)),
                ..jump(Target::Return)
            };
            let comment = "kind-masq-agent: local traffic is not subject to MASQUERADE";
            changes.push(rule(family, Table::Nat, CHAIN, None, comment, inside));
        }
        let all = jump(Target::Masquerade {
            ports: None,
            random: NatRandom::No,
        });
        let comment =
            "kind-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)";
        changes.push(rule(family, Table::Nat, CHAIN, None, comment, all));
    }
    changes
}

/// A veth pair without a bridge: the host's end has the gateway's address, and a route to the pod.
pub fn attach(node: &NodeNet, pod: &PodNet) -> Attachment {
    let host_dev = veth_name(pod);
    let pod_dev: Arc<str> = "eth0".into();
    let mut host = veth(&host_dev, pod.mtu).to_vec();
    let mut inside = veth(&pod_dev, pod.mtu).to_vec();
    for ip in &pod.ips {
        let (net, gateway) = with_range(node, *ip);
        host.push(address(&host_dev, host_net(gateway), pod.origin));
        let to_pod = NewRoute {
            scope: Scope::Host,
            ..route(host_net(*ip), None, &host_dev, pod.origin)
        };
        host.push(Change::AddRoute(to_pod));
        inside.push(address(&pod_dev, net, pod.origin));
        // The plugin replaces the subnet's route by one through the gateway: there is no link to share.
        let metric = if ip.is_ipv4() { 0 } else { 256 };
        inside.push(Change::DeleteRoute {
            dst: net.trunc(),
            dev: None,
            metric,
        });
        let gateway_net = host_net(gateway);
        inside.push(Change::AddRoute(route(
            gateway_net,
            None,
            &pod_dev,
            pod.origin,
        )));
        let via = Some(gateway);
        inside.push(Change::AddRoute(NewRoute {
            src: Some(*ip).filter(std::net::IpAddr::is_ipv4),
            ..route(net.trunc(), via, &pod_dev, pod.origin)
        }));
        let everything = Family::of(*ip).any();
        inside.push(Change::AddRoute(route(
            everything, via, &pod_dev, pod.origin,
        )));
    }
    Attachment {
        host_dev,
        pod_dev,
        host,
        pod: inside,
    }
}
