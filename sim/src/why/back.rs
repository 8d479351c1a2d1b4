//! Answers that take another way than the questions, and who minds.

use std::net::IpAddr;

use podwire_models::api::{Kind, ObjectRef};
use podwire_models::base::OriginId;
use podwire_models::wire::{Code, Head, NetnsId, Transport};

use super::{Case, Finding};
use crate::trace::record::Record;

/// Addresses and ports of the connection a record is about.
fn ends(record: &Record) -> Option<[(IpAddr, u16); 2]> {
    let Some(Head::Ip {
        src,
        dst,
        transport: Transport::Tcp(tcp),
        ..
    }) = &record.step.packet
    else {
        return None;
    };
    Some([(*src, tcp.sport), (*dst, tcp.dport)])
}

/// A node sees one direction of a connection only, so that its packets are INVALID there and kube-proxy drops them.
pub(super) fn half_seen(case: &Case<'_>) -> Option<Finding> {
    let record = case.last(Code::CtInvalid)?;
    let here = record.place.netns?;
    let [from, to] = ends(record)?;
    let back = |other: &&Record| ends(other) == Some([to, from]);
    let answers: Vec<&Record> = case.attempted.trace.records.iter().filter(back).collect();
    let passed = |netns: NetnsId| answers.iter().any(|other| other.place.netns == Some(netns));
    if answers.is_empty() || passed(here) {
        return None;
    }
    let names = &case.attempted.trace.names;
    let node = names.node_at(&record.place)?;
    let sent = |other: &&Record| ends(other) == Some([from, to]) && other.place.netns != Some(here);
    let sender = case.attempted.trace.records.iter().find(sent)?;
    let sender = names.netns_at(&sender.place)?;
    let way = answers.iter().find_map(|other| {
        let place = names.netns_at(&other.place)?;
        place.strip_prefix("node/")
    });
    let way = way.map_or_else(
        || "directly".to_owned(),
        |other| format!("from {other} directly"),
    );
    let says = format!(
        "{sender} sends to {} by way of {node}, and the answers come {way}: {node} sees half of the connection, takes the rest for INVALID, and KUBE-FORWARD drops that",
        to.0
    );
    let see = format!("ssh {node} conntrack -L -p tcp -s {}", from.0);
    let host = sender.strip_prefix("host/");
    let site = &case.lab.plan.site;
    let declared = host.and_then(|name| {
        let mut hosts = site.hosts.iter();
        hosts.find(|host| &*host.name == name && host.via.is_some())
    });
    let there = case.lab.objects.nodes.values().find(|other| {
        let mut ranges = other.pod_cidrs.iter();
        ranges.any(|range| range.contains(&to.0))
    });
    if let (Some(host), Some(there)) = (declared, there) {
        let place = site.written.get(&*format!("host/{}", host.name));
        let fix = format!(
            "on {}: let the route to {} lead via {}, or let answers pass {node} as well",
            host.name, to.0, there.name
        );
        let repaired = case.repair(|world| {
            let mut hosts = world.plan.site.hosts.iter_mut();
            if let Some(other) = hosts.find(|other| other.name == host.name) {
                other.via = Some(there.name.clone());
            }
        });
        return Some(
            Finding {
                code: Code::CtInvalid,
                object: Some(format!("Host//{}", host.name)),
                origin: place.copied().unwrap_or(OriginId::NONE),
                says,
                fix,
                kubectl: Some(see),
                repaired: None,
            }
            .repaired(repaired),
        );
    }
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    let fix = format!("let both directions pass {node}, or neither");
    Some(
        Finding::of(Code::CtInvalid, &object, OriginId::NONE)
            .saying(says, fix)
            .shown_by(see),
    )
}

/// A packet came in by one device, and the way back to its source leaves by another, or there is none.
pub(super) fn other_way_back(case: &Case<'_>) -> Option<Finding> {
    let record = case.last(Code::RpFilter)?;
    let Some(Head::Ip { src, .. }) = &record.step.packet else {
        return None;
    };
    let setting = record.step.by.as_ref()?.text.clone();
    let (name, value) = setting.split_once(" = ")?;
    let netns = case.lab.machines.cluster.netns(record.place.netns?)?;
    let device = |dev| netns.device(dev).map(|device| device.name.to_string());
    let came = device(record.place.dev?)?;
    let place = case.attempted.trace.names.netns_at(&record.place)?;
    let machine = place.strip_prefix("node/").unwrap_or(place).to_owned();
    let back = netns.fib.lookup(*src);
    let leaves = back.and_then(|route| device(route.dev?));
    let back = match (&leaves, back) {
        (Some(leaves), Some(route)) if route.dst.prefix_len() == 0 => {
            format!("the default route leads back by {leaves}")
        }
        (Some(leaves), Some(route)) => format!("the route {} leads back by {leaves}", route.dst),
        (_, _) => "no route leads back".to_owned(),
    };
    let says = format!("{name} is {value} on {machine}: {src} came in by {came}, and {back}");
    let fix = format!(
        "on {machine}: sysctl -w {name}=2 (loose), or let what comes in by {came} be answered by {came} (ip rule, a table of its own)"
    );
    let of_nic = case.lab.plan.site.written.get(&*format!("nics/{machine}"));
    Some(Finding {
        code: Code::RpFilter,
        object: Some(format!("Sysctl/{machine}/{name}")),
        origin: of_nic.copied().unwrap_or(OriginId::NONE),
        says,
        fix,
        kubectl: Some(format!(
            "ssh {machine} ip route get {src}; ssh {machine} nstat -az TcpExtIPReversePathFilter"
        )),
        repaired: None,
    })
}
