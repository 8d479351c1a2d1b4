//! Translation: ports that run out.

use std::ops::RangeInclusive;

use podwire_models::api::{Kind, ObjectRef};
use podwire_models::base::OriginId;
use podwire_models::kernel::conntrack::state::Proto;
use podwire_models::kernel::conntrack::{Entry, TcpState};
use podwire_models::wire::{Action, Code, Head, L4, Transport};

use super::{Case, Finding};

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
