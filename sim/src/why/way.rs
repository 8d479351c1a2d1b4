//! Packets that went the wrong way: a node without a route, or without the rules of a Service.

use ipnet::IpNet;
use podwire_models::api::{Kind, Node, ObjectRef};
use podwire_models::base::OriginId;
use podwire_models::wire::{Action, Code, Head, Transport};

use super::{Case, Finding};
use crate::attempt::overlapped;
use crate::trace::record::Record;

/// A node does not know where the pods of another node are, and let its default router have the packet.
pub(super) fn unrouted(case: &Case<'_>, record: &Record, code: Code) -> Option<Finding> {
    let Some(Head::Ip { dst, .. }) = &record.step.packet else {
        return None;
    };
    let nodes = &case.lab.objects.nodes;
    let holds = |node: &&Node| node.pod_cidrs.iter().any(|range| range.contains(dst));
    let there = nodes.values().find(holds)?;
    let range = there.pod_cidrs.iter().find(|range| range.contains(dst))?;
    let names = &case.attempted.trace.names;
    let before = case.attempted.trace.records.iter().rev();
    let passed = before
        .filter(|other| other.seq <= record.seq)
        .filter(|other| matches!(&other.step.packet, Some(Head::Ip { dst: to, .. }) if to == dst));
    let lacks = |other: &Record| {
        let netns = other.place.netns?;
        let name = names.netns_at(&other.place)?.strip_prefix("node/")?;
        let space = case.lab.machines.cluster.netns(netns)?;
        let route = space.fib.lookup(*dst);
        let knows = route.is_some_and(|route| route.dst.prefix_len() > 0);
        (name != there.name.as_str() && !knows).then(|| name.to_owned())
    };
    let node = passed.into_iter().find_map(lacks)?;
    Some(Finding {
        code,
        object: Some(format!("Route/{node}/{range}")),
        origin: OriginId::NONE,
        says: format!(
            "{node} has no route to {range}, where the pods of {} are: what is for them leaves by its default route",
            there.name
        ),
        fix: format!(
            "let the network plugin of {node} make the route again (restart its agent there)"
        ),
        kubectl: Some(format!("ssh {node} ip route get {dst}")),
        repaired: None,
    })
}

/// Two nodes have addresses of the same range for their pods, and the attempt used one of those.
pub(super) fn shared_range(case: &Case<'_>) -> Option<Finding> {
    let nodes = &case.lab.objects.nodes;
    let ranges = |node: &'_ Node| node.pod_cidrs.clone();
    let used = |range: IpNet| {
        let mut records = case.attempted.trace.records.iter();
        records.any(|record| {
            matches!(&record.step.packet, Some(Head::Ip { src, dst, .. })
                if range.contains(src) || range.contains(dst))
        })
    };
    for (n, first) in nodes.values().enumerate() {
        for second in nodes.values().skip(n + 1) {
            for range in ranges(second) {
                let contains = |other: &IpNet| other.contains(&range) || range.contains(other);
                let Some(other) = first.pod_cidrs.iter().find(|other| contains(other)) else {
                    continue;
                };
                if !used(range) {
                    continue;
                }
                let object = ObjectRef::cluster(Kind::Node, second.name.clone());
                let says = format!(
                    "its podCIDR {range} and {other} of {} overlap: pods of both have the same addresses, and each node keeps packets for them to itself",
                    first.name
                );
                let fix = "give every node a range of its own".to_owned();
                let repaired = case.repair(|world| {
                    if let Some(node) = world.objects.nodes.get_mut(&second.name) {
                        node.pod_cidrs.clear();
                    }
                });
                return Some(
                    Finding::of(case.attempted.code, &object, second.origin)
                        .saying(says, fix)
                        .shown_by("kubectl get nodes -o custom-columns=NAME:.metadata.name,RANGE:.spec.podCIDR".to_owned())
                        .repaired(repaired),
                );
            }
        }
    }
    None
}

/// The address of a Service went out as it is: no rule of the client's node knows the Service.
pub(super) fn untranslated(case: &Case<'_>, record: &Record, code: Code) -> Option<Finding> {
    let Some(Head::Ip { dst, transport, .. }) = &record.step.packet else {
        return None;
    };
    let port = match transport {
        Transport::Tcp(tcp) => tcp.dport,
        Transport::Udp(udp) => udp.dport,
        Transport::Sctp(sctp) => sctp.dport,
        Transport::Icmp(_) => return None,
    };
    let service = case.lab.service_at(*dst)?;
    service.ports.iter().find(|listed| listed.port == port)?;
    let records = case.attempted.trace.records.iter();
    let mut own = records.filter(|other| {
        matches!(&other.step.packet, Some(Head::Ip { dst: to, .. }) if to == dst)
            && matches!(other.step.action, Action::Routed { .. })
    });
    let names = &case.attempted.trace.names;
    let node = own.find_map(|other| names.netns_at(&other.place)?.strip_prefix("node/"))?;
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    let says = format!(
        "kube-proxy on {node} has not programmed {} yet: its address {dst} left the node as any other would",
        ObjectRef::namespaced(Kind::Service, &service.key)
    );
    let fix = "wait for its next sync, or look at why kube-proxy there lags behind".to_owned();
    Some(
        Finding::of(code, &object, OriginId::NONE)
            .saying(says, fix)
            .shown_by(format!("ssh {node} iptables-save -t nat | grep {dst}")),
    )
}

/// The pod range and a network of machines have the address in common, and the packet went the other's way.
pub(super) fn overlapping(case: &Case<'_>) -> Option<Finding> {
    let code = case.attempted.code;
    let site = &case.lab.plan.site;
    let about = |record: &&Record| {
        let ended = record.step.action.ends_with();
        let lost = ended.is_some_and(|code| code != Code::Ok && code != Code::NotForUs);
        let to =
            matches!(&record.step.packet, Some(Head::Ip { dst, .. }) if overlapped(*dst, site));
        lost && to
    };
    let record = case.attempted.trace.records.iter().rev().find(about)?;
    let Some(Head::Ip { dst, .. }) = &record.step.packet else {
        return None;
    };
    let names = &case.attempted.trace.names;
    let place = names.netns_at(&record.place)?;
    let machine = place.split_once('/').map_or(place, |(_, name)| name);
    let pods = site.pod_cidrs.iter().find(|range| range.contains(dst))?;
    let nodes = &case.lab.objects.nodes;
    let own = nodes.values().find_map(|node| {
        let range = node.pod_cidrs.iter().find(|range| range.contains(dst))?;
        Some((node, range))
    });
    let mut hosts = site.hosts.iter();
    let host = hosts.find(|host| host.ip == *dst);
    let subnet = site.underlay.subnets.iter().find(|net| net.contains(dst));
    let whose = match (host, subnet) {
        (Some(host), _) => format!("host/{} has {dst}", host.name),
        (None, Some(net)) => {
            format!("{net} is the nodes' network, where {dst} is looked for on the link")
        }
        (None, None) => format!("a machine has {dst}"),
    };
    let part = own.map_or_else(
        || format!("it is in the range {pods} of all pods"),
        |(node, range)| format!("it is in {range}, the pod range of {}", node.name),
    );
    let netns = case.lab.machines.cluster.netns(record.place.netns?)?;
    let route = netns.fib.lookup(*dst).map(|route| route.dst);
    let took = route.map_or_else(String::new, |dst| {
        format!(", so the route {dst} of {machine} took the packet")
    });
    let place = site.written.get("pod_cidr").copied();
    Some(Finding {
        code,
        object: Some("Cluster//pod_cidr".to_owned()),
        origin: place.unwrap_or(OriginId::NONE),
        says: format!("{whose}, and {part}{took}"),
        fix: format!(
            "give pods a range that no network of machines contains, in place of {pods} (--cluster-cidr of kube-controller-manager, and of the network plugin)"
        ),
        kubectl: Some(format!(
            "kubectl get nodes -o custom-columns=NAME:.metadata.name,RANGE:.spec.podCIDR; ssh {machine} ip route get {dst}"
        )),
        repaired: None,
    })
}
