//! Translation: ports that run out, entries older than the rules, checksums that it spoils.

use std::ops::RangeInclusive;

use podwire_models::api::{Kind, ObjectRef};
use podwire_models::base::OriginId;
use podwire_models::kernel::conntrack::state::Proto;
use podwire_models::kernel::conntrack::{Entry, TcpState};
use podwire_models::wire::{Action, Code, Head, L4, Manip, Transport};

use super::{Case, Finding};
use crate::attempt::{leaked, predating};

/// Every source port that a translation may take has a connection to this destination.
pub(super) fn no_port(case: &Case<'_>) -> Option<Finding> {
    let record = case.last(Code::NatNoPort)?;
    let Some(Head::Ip { dst, transport, .. }) = &record.step.packet else {
        return None;
    };
    let (l4, port) = match transport {
        Transport::Tcp(tcp) => (L4::Tcp, tcp.dport),
        Transport::Udp(udp) => (L4::Udp, udp.dport),
        Transport::Sctp(sctp) => (L4::Sctp, sctp.dport),
        Transport::Icmp(_) => return None,
    };
    let netns = case.lab.machines.cluster.netns(record.place.netns?)?;
    let node = case.attempted.trace.names.node_at(&record.place)?;
    let table = netns.conntrack.as_ref()?;
    let mut before = case.attempted.trace.records.iter();
    let asked = before.find_map(|other| {
        let Action::Matched { target, .. } = &other.step.action else {
            return None;
        };
        let source = target.starts_with("MASQUERADE") || target.starts_with("SNAT");
        Some((target, other.step.by.as_ref()?)).filter(|_| source)
    });
    let ports = asked.and_then(|(target, _)| to_ports(target));
    let there = |entry: &&Entry| {
        let reply = &entry.reply;
        let may = ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&reply.dport));
        may && reply.l4 == l4 && (reply.src, reply.sport) == (*dst, port)
    };
    let taken: Vec<&Entry> = table.iter(record.at).filter(there).collect();
    let done = taken.iter().filter(|entry| match entry.proto {
        Proto::Tcp(tcp) => tcp.state == TcpState::TimeWait,
        Proto::Udp { .. } | Proto::Icmp | Proto::Sctp(_) => false,
    });
    let rule = asked.map(|(_, by)| &by.text);
    let rule = rule.map_or_else(String::new, |rule| format!(" ({rule})"));
    let says = format!(
        "{node} has no source port left for another connection to {dst}:{port}/{l4}: {} have one, {} of them in TIME_WAIT, and each keeps its port{rule}",
        taken.len(),
        done.count()
    );
    let fix = "let the rule take more ports or more addresses (--to-ports, another SNAT address), or let clients keep connections open and reuse them";
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    Some(
        Finding::of(Code::NatNoPort, &object, OriginId::NONE)
            .saying(says, fix.to_owned())
            .shown_by(format!(
                "ssh {node} conntrack -L -p {l4} -d {dst} --dport {port}"
            )),
    )
}

/// Reads the range of `MASQUERADE --to-ports 40000-40003`.
fn to_ports(target: &str) -> Option<RangeInclusive<u16>> {
    let mut words = target.split_whitespace();
    words.find(|word| *word == "--to-ports")?;
    let range = words.next()?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// An entry of connection tracking that is older than a Service's rules lets its packets pass them.
pub(super) fn predates(case: &Case<'_>) -> Option<Finding> {
    let trace = &case.attempted.trace;
    let record = predating(trace.records.iter(), &case.lab.machines)?;
    let node = trace.names.node_at(&record.place)?;
    let Some(Head::Ip {
        src,
        dst,
        transport: Transport::Udp(udp),
        ..
    }) = &record.step.packet
    else {
        return None;
    };
    let (sport, port) = (udp.sport, udp.dport);
    let service = case.service_of(*dst, port)?;
    let service = ObjectRef::namespaced(Kind::Service, &service.key);
    let says = format!(
        "its connection tracking has an entry from {src}:{sport} to {dst}:{port} without translation, older than the rules of {service}: no packet of it asks them, each goes to {dst} as it is and keeps the entry, and kube-proxy has not deleted it"
    );
    let fix = format!(
        "on {node}: conntrack -D -p udp -s {src} --sport {sport} -d {dst}; look in kube-proxy's log why it cannot do that, or let the client use a new source port"
    );
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    Some(
        Finding::of(Code::CtPreRule, &object, OriginId::NONE)
            .saying(says, fix)
            .shown_by(format!(
                "ssh {node} conntrack -L -p udp -s {src} -d {dst}; kubectl -n kube-system logs -l k8s-app=kube-proxy | grep -i conntrack"
            )),
    )
}

/// The outer header of a VXLAN packet was translated by a kernel that spoils its checksum with that.
pub(super) fn spoiled(case: &Case<'_>) -> Option<Finding> {
    let lost = case.last(Code::VxlanCsum)?;
    let packet = lost.step.packet.as_ref()?.id();
    let records = case.attempted.trace.records.iter();
    let record = records.rev().find(|other| {
        let own = other.step.packet.as_ref().map(Head::id) == Some(packet);
        let outer = matches!(&other.step.packet, Some(Head::Ip { says: Some(says), .. }) if says.starts_with("vxlan"));
        let source = matches!(
            &other.step.action,
            Action::Translated {
                manip: Manip::Source,
                undo: false,
                ..
            }
        );
        own && outer && source
    })?;
    let Action::Translated { from, to, .. } = &record.step.action else {
        return None;
    };
    let names = &case.attempted.trace.names;
    let (node, there) = (names.node_at(&record.place)?, names.node_at(&lost.place)?);
    let netns = case.lab.machines.cluster.netns(record.place.netns?)?;
    let place = |name: &str| case.lab.plan.site.written.get(name).copied();
    let origin = place(&format!("kernel/{node}")).or_else(|| place("kernel"));
    let (release, port) = (netns.release, from.1);
    let says = format!(
        "kube-proxy there leaves its mark on the packet in the tunnel, so the VXLAN packet around it is masqueraded too (source port {port} → {}), and kernel {release} spoils its UDP checksum with that: {there} drops it. What is sent again has no mark, but the same entry while that lives, 30 s: only the SYN after 63 s gets through",
        to.1
    );
    let fix = format!(
        "use kernel 5.7 or later on {node}, or kube-proxy 1.16.13, 1.17.9, 1.18.6 or later; or on {node}: ethtool -K flannel.1 tx-checksum-ip-generic off"
    );
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    Some(
        Finding::of(Code::VxlanCsum, &object, origin.unwrap_or(OriginId::NONE))
            .saying(says, fix)
            .shown_by(format!(
                "ssh {there} nstat -az UdpInCsumErrors; ssh {node} conntrack -L -p udp --dport 8472"
            )),
    )
}

/// An answer that is INVALID was not translated back, and no rule dropped it.
pub(super) fn leaks(case: &Case<'_>) -> Option<Finding> {
    const SETTING: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";
    let trace = &case.attempted.trace;
    let record = leaked(trace.records.iter(), &case.lab.machines)?;
    let node = trace.names.node_at(&record.place)?;
    let Some(Head::Ip {
        src,
        dst,
        transport: Transport::Tcp(tcp),
        ..
    }) = &record.step.packet
    else {
        return None;
    };
    let netns = case.lab.machines.cluster.netns(record.place.netns?)?;
    let liberal = netns.sysctls.text(SETTING)?;
    let says = format!(
        "connection tracking of {node} (kernel {}, {SETTING} = {liberal}) calls a segment of {src}:{} INVALID, which came outside of the window, so it was not translated back; {dst} knows no connection with that address and answered with RST, and that ended the connection at the server. No rule of KUBE-FORWARD there drops INVALID packets",
        netns.release, tcp.sport
    );
    let fix = format!(
        "on {node}: sysctl -w {SETTING}=1; or run kube-proxy without --conntrack-tcp-be-liberal, so that it drops INVALID packets"
    );
    Some(Finding {
        code: Code::CtInvalidLeak,
        object: Some(format!("Sysctl/{node}/{SETTING}")),
        origin: OriginId::NONE,
        says,
        fix,
        kubectl: Some(format!(
            "ssh {node} 'conntrack -S | grep -o invalid=[0-9]*; iptables -nvL KUBE-FORWARD'"
        )),
        repaired: None,
    })
}
