//! Policies of the whole cluster: `AdminNetworkPolicy`, `BaselineAdminNetworkPolicy`,
//! `ClusterNetworkPolicy`.

use std::sync::Arc;

use podwire_models::api::{
    ClusterAction, ClusterPeer, ClusterPolicy, ClusterPolicyKind as Kind, ClusterPort, ClusterRule,
    PodSet, Tier,
};
use podwire_models::base::Protocol;

use super::super::reader::{Maybe, Reader, integer, items, text, texts};
use super::super::tree::Node;
use super::Meta;
use crate::problem::{ProblemCode, Severity};

pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &Arc<Node>,
    kind: Kind,
    meta: Meta,
) -> ClusterPolicy {
    let spec = root.get("spec");
    if spec.is_none() {
        reader.missing(root, "spec");
    }
    let get = |field: &str| spec.and_then(|spec| spec.get(field));
    let tier = match kind {
        Kind::AdminNetworkPolicy => Tier::Admin,
        Kind::BaselineAdminNetworkPolicy => Tier::Baseline,
        Kind::ClusterNetworkPolicy => tier(reader, spec),
    };
    let priority = match kind {
        Kind::BaselineAdminNetworkPolicy => {
            only_default(reader, root, &meta);
            0
        }
        Kind::AdminNetworkPolicy | Kind::ClusterNetworkPolicy => priority(reader, spec),
    };
    let subject = match (get("subject"), spec) {
        (Some(node), _) => pods(reader, node),
        (None, Some(spec)) => {
            reader.missing(spec, "subject");
            None
        }
        (None, None) => None,
    };
    let ingress = rules(reader, get("ingress"), kind, "from");
    let egress = rules(reader, get("egress"), kind, "to");
    ClusterPolicy {
        kind,
        name: meta.key.name,
        labels: meta.labels,
        annotations: meta.annotations,
        tier,
        priority,
        subject: subject.unwrap_or_else(everything),
        ingress,
        egress,
        origin: meta.origin,
    }
}

fn everything() -> PodSet {
    PodSet {
        namespaces: podwire_models::base::Selector::default(),
        pods: podwire_models::base::Selector::default(),
    }
}

fn tier(reader: &mut Reader<'_>, spec: Maybe<'_>) -> Tier {
    let words = [("Admin", Tier::Admin), ("Baseline", Tier::Baseline)];
    let node = spec.and_then(|spec| spec.get("tier"));
    if let (None, Some(spec)) = (node, spec) {
        reader.missing(spec, "tier");
    }
    reader.word(node, "`tier`", &words).unwrap_or(Tier::Admin)
}

fn priority(reader: &mut Reader<'_>, spec: Maybe<'_>) -> u16 {
    let Some(spec) = spec else {
        return 0;
    };
    let Some(node) = spec.get("priority") else {
        reader.missing(spec, "priority");
        return 0;
    };
    let number = integer(Some(node)).and_then(|number| u16::try_from(number).ok());
    number.filter(|number| *number <= 1000).unwrap_or_else(|| {
        reader.note(
            ProblemCode::ManBadValue,
            node,
            "`priority` is outside its range",
            "must be between 0 and 1000",
        );
        0
    })
}

/// There is one baseline policy, and its name is `default`.
fn only_default(reader: &mut Reader<'_>, root: &Arc<Node>, meta: &Meta) {
    if meta.key.name.as_str() != "default" {
        let metadata = root.get("metadata");
        let node = metadata.and_then(|metadata| metadata.get("name"));
        reader.note(
            ProblemCode::ManBadName,
            node.unwrap_or(root),
            "the cluster has one BaselineAdminNetworkPolicy",
            "must be `default`",
        );
    }
}

/// Reads `namespaces` or `pods`; `None` if neither is there.
fn pods(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<PodSet> {
    match (node.get("namespaces"), node.get("pods")) {
        (Some(namespaces), None) => Some(PodSet {
            namespaces: reader.selector(Some(namespaces)).unwrap_or_default(),
            pods: podwire_models::base::Selector::default(),
        }),
        (None, Some(pods)) => {
            for field in ["namespaceSelector", "podSelector"] {
                if pods.get(field).is_none() {
                    let problem = reader.note(
                        ProblemCode::ManMissingField,
                        pods,
                        format!("`{field}` is missing"),
                        "needs both selectors",
                    );
                    // Clients written in Go fill it in, so that the API server never misses it.
                    problem.severity = Severity::Warning;
                    problem.notes = vec!["taken as `{}`, which selects everything".to_owned()];
                    problem.help.push(format!("write `{field}: {{}}`"));
                }
            }
            Some(PodSet {
                namespaces: reader
                    .selector(pods.get("namespaceSelector"))
                    .unwrap_or_default(),
                pods: reader.selector(pods.get("podSelector")).unwrap_or_default(),
            })
        }
        (Some(_), Some(_)) => {
            one_of(reader, node, "`namespaces` and `pods`");
            None
        }
        (None, None) => {
            let title = "`namespaces` or `pods` must be here";
            reader.note(ProblemCode::ManMissingField, node, title, "names nobody");
            None
        }
    }
}

fn one_of(reader: &mut Reader<'_>, node: &Node, what: &str) {
    let title = format!("{what} exclude each other");
    let problem = reader.note(ProblemCode::ManContradiction, node, title, "only one");
    problem.help.push("make several entries of it".to_owned());
}

fn rules(reader: &mut Reader<'_>, list: Maybe<'_>, kind: Kind, side: &str) -> Vec<ClusterRule> {
    let (accept, ports_field, most) = match kind {
        Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => ("Allow", "ports", 100),
        Kind::ClusterNetworkPolicy => ("Accept", "protocols", 25),
    };
    let mut words = vec![
        (accept, ClusterAction::Accept),
        ("Deny", ClusterAction::Deny),
    ];
    if kind != Kind::BaselineAdminNetworkPolicy {
        words.push(("Pass", ClusterAction::Pass));
    }
    let mut rules = Vec::new();
    for node in items(list) {
        if node.get("action").is_none() {
            reader.missing(node, "action");
        }
        let action = reader.word(node.get("action"), "`action`", &words);
        let peers = items(node.get(side));
        if peers.is_empty() {
            let title = format!("`{side}` must name at least one peer");
            let problem = reader.note(ProblemCode::ManMissingField, node, title, "names nobody");
            problem
                .help
                .push("`namespaces: {}` means every pod of the cluster".to_owned());
        }
        if peers.len() > most {
            let title = format!("`{side}` has {} peers", peers.len());
            let label = format!("at most {most} are allowed");
            reader.note(ProblemCode::ManBadValue, node, title, label);
        }
        let peers: Vec<ClusterPeer> = peers.iter().map(|item| peer(reader, item, side)).collect();
        let list = node.get(ports_field);
        let ports: Option<Vec<ClusterPort>> = list
            .map(|ports| items(Some(ports)))
            .filter(|ports| !ports.is_empty())
            .map(|ports| {
                ports
                    .iter()
                    .filter_map(|item| match kind {
                        Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => {
                            admin_port(reader, item)
                        }
                        Kind::ClusterNetworkPolicy => protocol(reader, item),
                    })
                    .collect()
            });
        together(
            reader,
            node,
            action,
            &peers,
            ports.as_deref().unwrap_or_default(),
        );
        rules.push(ClusterRule {
            name: text(node.get("name")).unwrap_or_default(),
            action: action.unwrap_or(ClusterAction::Deny),
            peers,
            ports,
            origin: reader.origin(node),
        });
    }
    rules
}

/// Checks what the parts of a rule must not be beside each other.
fn together(
    reader: &mut Reader<'_>,
    node: &Arc<Node>,
    action: Option<ClusterAction>,
    peers: &[ClusterPeer],
    ports: &[ClusterPort],
) {
    let nameless = |peer: &ClusterPeer| match peer {
        ClusterPeer::Nodes(_) | ClusterPeer::Networks(_) | ClusterPeer::DomainNames(_) => true,
        ClusterPeer::Pods(_) | ClusterPeer::Unknown => false,
    };
    let named = ports
        .iter()
        .any(|port| matches!(port, ClusterPort::Named(_)));
    if named && peers.iter().any(nameless) {
        let title = "only pods have named ports";
        let label = "not beside `nodes`, `networks` or `domainNames`";
        let problem = reader.note(ProblemCode::ManContradiction, node, title, label);
        problem.help.push("make two rules of it".to_owned());
    }
    let domains = |peer: &ClusterPeer| matches!(peer, ClusterPeer::DomainNames(_));
    if peers.iter().any(domains) && action.is_some_and(|action| action != ClusterAction::Accept) {
        let title = "`domainNames` can only be allowed";
        let label = "another action than to allow";
        reader.note(ProblemCode::ManContradiction, node, title, label);
    }
}

fn peer(reader: &mut Reader<'_>, node: &Arc<Node>, side: &str) -> ClusterPeer {
    let fields = ["namespaces", "pods", "nodes", "networks", "domainNames"];
    let mut present = fields.iter().filter(|field| node.get(field).is_some());
    let first = present.next();
    if present.next().is_some() {
        one_of(reader, node, "the kinds of a peer");
        return ClusterPeer::Unknown;
    }
    let inside = matches!(first, None | Some(&("namespaces" | "pods")));
    if side == "from" && !inside {
        // The definition has no such field: the check against the schema says so.
        return ClusterPeer::Unknown;
    }
    match first {
        Some(&"nodes") => {
            ClusterPeer::Nodes(reader.selector(node.get("nodes")).unwrap_or_default())
        }
        Some(&"networks") => {
            let list = items(node.get("networks"));
            let read = |item| reader.cidr(Some(item), "one of `networks`");
            ClusterPeer::Networks(list.iter().filter_map(read).collect())
        }
        Some(&"domainNames") => ClusterPeer::DomainNames(texts(node.get("domainNames"))),
        Some(_) => pods(reader, node).map_or(ClusterPeer::Unknown, ClusterPeer::Pods),
        None => {
            let title = format!("a peer of `{side}` needs `namespaces` or `pods`");
            reader.note(ProblemCode::ManMissingField, node, title, "names nobody");
            ClusterPeer::Unknown
        }
    }
}

/// Reads one of `ports` of `v1alpha1`.
fn admin_port(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<ClusterPort> {
    match (
        node.get("portNumber"),
        node.get("portRange"),
        node.get("namedPort"),
    ) {
        (Some(number), None, None) => {
            let protocol = reader.protocol(number.get("protocol"));
            let port = needed(reader, number, "port")?;
            Some(ClusterPort::Range(protocol, port, port))
        }
        (None, Some(range), None) => {
            let protocol = reader.protocol(range.get("protocol"));
            range_of(reader, range, protocol)
        }
        (None, None, Some(name)) => reader
            .port_name(Some(name), "`namedPort`")
            .map(ClusterPort::Named),
        (None, None, None) => {
            let title = "a port needs `portNumber`, `portRange` or `namedPort`";
            reader.note(ProblemCode::ManMissingField, node, title, "names no port");
            None
        }
        _ => {
            one_of(reader, node, "`portNumber`, `portRange` and `namedPort`");
            None
        }
    }
}

/// Reads one of `protocols` of `v1alpha2`.
fn protocol(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<ClusterPort> {
    let transports = Protocol::ALL.map(|protocol| (protocol, node.get(protocol.lower())));
    let mut present = transports.iter().filter(|(_, field)| field.is_some());
    let first = present.next();
    let name = node.get("destinationNamedPort");
    if present.next().is_some() || (first.is_some() && name.is_some()) {
        let what = "`tcp`, `udp`, `sctp` and `destinationNamedPort`";
        one_of(reader, node, what);
        return None;
    }
    let Some((protocol, Some(transport))) = first else {
        if name.is_none() {
            let title = "a protocol is `tcp`, `udp`, `sctp` or `destinationNamedPort`";
            reader.note(ProblemCode::ManMissingField, node, title, "names none");
        }
        let name = reader.port_name(name, "`destinationNamedPort`");
        return name.map(ClusterPort::Named);
    };
    let Some(port) = transport.get("destinationPort") else {
        return Some(ClusterPort::All(*protocol));
    };
    match (port.get("number"), port.get("range")) {
        (Some(_), None) => {
            let port = needed(reader, port, "number")?;
            Some(ClusterPort::Range(*protocol, port, port))
        }
        (None, Some(range)) => range_of(reader, range, *protocol),
        (None, None) => {
            reader.missing(port, "number");
            None
        }
        (Some(_), Some(_)) => {
            one_of(reader, port, "`number` and `range`");
            None
        }
    }
}

fn needed(reader: &mut Reader<'_>, node: &Arc<Node>, field: &str) -> Option<u16> {
    if node.get(field).is_none() {
        reader.missing(node, field);
    }
    reader.port(node.get(field), &format!("`{field}`"))
}

fn range_of(reader: &mut Reader<'_>, node: &Arc<Node>, protocol: Protocol) -> Option<ClusterPort> {
    let start = needed(reader, node, "start");
    let end = needed(reader, node, "end");
    let (start, end) = (start?, end?);
    if end < start {
        reader.note(
            ProblemCode::ManContradiction,
            node.get("end").unwrap_or(node),
            "`end` must not be below `start`",
            format!("must be {start} or more"),
        );
        return None;
    }
    Some(ClusterPort::Range(protocol, start, end))
}
