//! Machines and wires: settings, routes, links, firewalls, connections.

use podwire_models::api::{Kind, ObjectRef};
use podwire_models::base::{Family, OriginId};
use podwire_models::kernel::link::{Device, DeviceKind};
use podwire_models::wire::{Action, Code, DeciderKind, DevIndex, Head, NetnsId, Transport};

use super::{Case, Finding, maker, size, way};
use crate::attempt::stale_translation;
use crate::trace::record::Record;

/// What the last step of the attempt says.
pub(super) fn ended(case: &Case<'_>) -> Finding {
    let code = case.attempted.code;
    match case.last(code) {
        Some(record) => at(case, record, code),
        None => Finding {
            code,
            object: None,
            origin: OriginId::NONE,
            says: code.page().meaning.to_owned(),
            fix: code.page().fix.to_owned(),
            kubectl: None,
            repaired: None,
        },
    }
}

/// Nobody answers for an address because the question, or the answer, was lost: what lost it is the cause.
fn behind<'a>(case: &Case<'a>, record: &'a Record, code: Code) -> (&'a Record, Code) {
    if code != Code::NeighUnresolved {
        return (record, code);
    }
    let mut before = case.attempted.trace.records.iter().rev();
    let lost = before.find_map(|other| {
        let code = other.step.action.ends_with()?;
        let wire = matches!(
            code,
            Code::LinkDown | Code::NodeDown | Code::LinkLoss | Code::AclDenied
        );
        (wire && other.seq < record.seq).then_some((other, code))
    });
    lost.unwrap_or((record, code))
}

/// The machine at the other end of the wire behind a device.
fn behind_the_wire(case: &Case<'_>, netns: NetnsId, dev: DevIndex) -> Option<String> {
    let cluster = &case.lab.machines.cluster;
    let (wire, side) = cluster.wire_behind((netns, dev))?;
    let (other, _) = *cluster.wire(wire)?.ends.get(usize::from(1 - side))?;
    let name = &cluster.netns(other)?.name;
    Some(name.strip_prefix("node/").unwrap_or(name).to_owned())
}

/// The wire that lost a packet, as `Link/node-a/node-b`, or the machine behind it that is off.
fn wire(case: &Case<'_>, record: &Record, code: Code) -> Option<String> {
    let (netns, dev) = (record.place.netns?, record.place.dev?);
    let near = behind_the_wire(case, netns, dev)?;
    if code == Code::NodeDown {
        return Some(format!("Node//{near}"));
    }
    let by = record.step.by.as_ref()?;
    let space = case.lab.machines.cluster.netns(netns)?;
    // A switch names the two ports between which it carries nothing.
    let far = by.text.rsplit_once(" and ").and_then(|(_, port)| {
        let dev = *space.dev_names.get(port)?;
        behind_the_wire(case, netns, dev)
    });
    let own = || {
        space
            .name
            .strip_prefix("node/")
            .unwrap_or(&space.name)
            .to_owned()
    };
    Some(match far {
        Some(far) => format!("Link/{near}/{far}"),
        None => format!("Link/{}/{near}", own()),
    })
}

/// The packet was translated to the address of a pod that is no longer there.
fn gone(case: &Case<'_>, record: &Record, code: Code) -> Option<Finding> {
    let Some(Head::Ip { dst, .. }) = &record.step.packet else {
        return None;
    };
    let site = &case.lab.plan.site;
    let of_pods = site.pod_cidrs.iter().any(|range| range.contains(dst));
    if !of_pods {
        return None;
    }
    let mut pods = case.lab.objects.pods.values();
    if let Some(pod) = pods.find(|pod| pod.pod_ips.contains(dst)) {
        if case.lab.machines.netns_of(pod).is_some() {
            return None;
        }
        let object = ObjectRef::namespaced(Kind::Pod, &pod.key);
        let says =
            format!("its network is gone, and {dst} with it; the API server does not know yet");
        let fix = "its endpoint disappears once the kubelet has reported it".to_owned();
        return Some(Finding::of(code, &object, pod.origin).saying(says, fix));
    }
    let records = case.attempted.trace.records.iter();
    let translated = records.rev().find(|other| {
        matches!(&other.step.action, Action::Translated { to, undo: false, .. } if to.0 == *dst)
    })?;
    let node = case.attempted.trace.names.node_at(&translated.place)?;
    let says =
        format!("kube-proxy on {node} still sends to {dst}, the address of a pod that is gone");
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    let fix = "let pods finish what they do before they end (preStop), and look at why kube-proxy there lags behind";
    Some(
        Finding::of(code, &object, OriginId::NONE)
            .saying(says, fix.to_owned())
            .shown_by(format!("kubectl get pods -A -o wide | grep {dst}")),
    )
}

/// An entry of connection tracking that is older than the attempt sends its packets to a pod that is gone.
pub(super) fn stale(case: &Case<'_>) -> Option<Finding> {
    let trace = &case.attempted.trace;
    let record = stale_translation(trace.records.iter(), &case.lab.machines)?;
    let node = trace.names.node_at(&record.place)?;
    let (Action::Translated { from, to, .. }, Some(Head::Ip { src, transport, .. })) =
        (&record.step.action, &record.step.packet)
    else {
        return None;
    };
    let ((vip, port), (gone, _)) = (from, to);
    let (l4, sport) = match transport {
        Transport::Tcp(tcp) => ("tcp", tcp.sport),
        Transport::Udp(udp) => ("udp", udp.sport),
        Transport::Sctp(sctp) => ("sctp", sctp.sport),
        Transport::Icmp(_) => return None,
    };
    let service = case.service_of(*vip, *port);
    let service = service.map_or_else(
        || vip.to_string(),
        |service| ObjectRef::namespaced(Kind::Service, &service.key).to_string(),
    );
    let says = format!(
        "its connection tracking has an entry from {src}:{sport} to {service} that is older than its rules: it still leads to {gone}, the address of a pod that is gone, and each packet keeps it"
    );
    let fix = format!(
        "on {node}: conntrack -D -p {l4} -s {src} --sport {sport} -d {vip}; or let the client use a new source port"
    );
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    Some(
        Finding::of(Code::CtStaleEndpoint, &object, OriginId::NONE)
            .saying(says, fix)
            .shown_by(format!("ssh {node} conntrack -L -p {l4} -d {vip}")),
    )
}

/// Answers between pods of one node pass its bridge, and not the rules that would translate them back.
fn bridged_past(case: &Case<'_>, code: Code) -> Option<Finding> {
    if code != Code::UnexpectedReply {
        return None;
    }
    let node = case.client()?.node_name.clone()?;
    let machine = case.lab.machines.nodes.get(&node)?;
    let space = case.lab.machines.cluster.netns(machine.netns)?;
    let bridged = |device: &Device| matches!(device.kind, DeviceKind::Bridge(_));
    if !space.devices.iter().flatten().any(bridged) || space.sysctls.bridge_nf_call(Family::V4) {
        return None;
    }
    let setting = "net.bridge.bridge-nf-call-iptables";
    Some(Finding {
        code,
        object: Some(format!("Sysctl/{node}/{setting}")),
        origin: OriginId::NONE,
        says: format!(
            "{setting} is 0 on {node}: the answer of a pod of the same node passes the bridge only, so it is not translated back"
        ),
        fix: format!("set {setting} to 1 (modprobe br_netfilter)"),
        kubectl: None,
        repaired: None,
    })
}

/// The kernel of the node dropped the second of two packets that were tracked at once.
fn raced(case: &Case<'_>, record: &Record) -> Option<Finding> {
    let machines = &case.lab.machines;
    let netns = machines.cluster.netns(record.place.netns?)?;
    let node = netns.name.strip_prefix("node/")?;
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    let says = format!(
        "its kernel {} drops the second of two first packets of one connection that are tracked at once and translated, as the A and AAAA questions of one socket are",
        netns.release
    );
    let fix = "use kernel 5.7 or later there, or NodeLocal DNSCache, or `options single-request-reopen` in the pod's dnsConfig";
    Some(
        Finding::of(Code::CtInsertClash, &object, OriginId::NONE)
            .saying(says, fix.to_owned())
            .shown_by(format!("ssh {node} conntrack -S | grep insert_failed")),
    )
}

/// What made the pod of a record, if its own manifest sets a kernel setting.
fn asked_for(case: &Case<'_>, record: &Record, setting: &str) -> Option<(String, OriginId)> {
    let pod = case.pod_at(record)?;
    let mut settings = pod.spec.sysctls.iter();
    settings.find(|(name, _)| &**name == setting)?;
    let (made_by, origin) = maker(pod, &case.world.objects);
    Some((made_by.to_string(), origin))
}

/// What a step says that ended a packet.
pub(super) fn at<'a>(case: &Case<'a>, record: &'a Record, code: Code) -> Finding {
    let (record, code) = behind(case, record, code);
    let names = &case.attempted.trace.names;
    let node = names.node_at(&record.place);
    let by = record.step.by.as_ref();
    let origin = by.map_or(OriginId::NONE, |by| by.origin);
    let written = case.origins.get(origin);
    let mut object = written
        .map(|origin| origin.object.to_string())
        .filter(|object| !object.is_empty());
    let mut origin = origin;
    let setting = by
        .filter(|by| by.kind == DeciderKind::Sysctl)
        .map(|by| by.text.split(" = ").next().unwrap_or_default().to_owned());
    let mut fix = code.page().fix.to_owned();
    if let (Some(setting), Some(node)) = (&setting, node) {
        let place = match case.pod_at(record) {
            Some(pod) => format!("pod/{}", pod.key),
            None => node.to_owned(),
        };
        object = Some(format!("Sysctl/{place}/{setting}"));
        fix = format!("on {place}: {}", code.page().fix);
        if let Some((pod, maker_origin)) = asked_for(case, record, setting) {
            (object, origin) = (Some(pod), maker_origin);
        }
    }
    let astray = matches!(
        code,
        Code::RouteNone
            | Code::RouteBlackhole
            | Code::RouteUnreachable
            | Code::NeighUnresolved
            | Code::TtlExceeded
    );
    let wrong_way =
        || way::unrouted(case, record, code).or_else(|| way::untranslated(case, record, code));
    let special = gone(case, record, code)
        .or_else(|| bridged_past(case, code))
        .or_else(|| size::too_large(case, record))
        .or_else(|| if astray { wrong_way() } else { None });
    if let Some(finding) = special {
        return finding;
    }
    if code == Code::CtInsertClash
        && let Some(finding) = raced(case, record)
    {
        return finding;
    }
    if matches!(code, Code::LinkDown | Code::LinkLoss | Code::NodeDown) {
        object = wire(case, record, code);
    }
    if code == Code::AclDenied {
        let id = by.and_then(|by| by.text.rsplit(' ').next());
        object = id.map(|id| format!("Fault//{id}"));
    }
    if object.is_none()
        && let Some(pod) = case.pod_at(record)
    {
        let (made_by, place) = maker(pod, &case.world.objects);
        object = Some(made_by.to_string());
        origin = place;
    }
    if object.is_none()
        && let Some(name) = node.and_then(|node| node.parse().ok())
    {
        let node = case.lab.objects.nodes.get(&name);
        origin = node.map_or(OriginId::NONE, |node| node.origin);
        object = Some(ObjectRef::cluster(Kind::Node, name).to_string());
    }
    let says = match by {
        Some(by) => format!("{} ({})", code.page().meaning, by.text),
        None => code.page().meaning.to_owned(),
    };
    Finding {
        code,
        object,
        origin,
        says,
        fix,
        kubectl: None,
        repaired: None,
    }
}
