//! Nodes.

use podwire_models::api::{Node, Taint, TaintEffect};

use super::super::reader::{Reader, flag, items, text};
use super::super::tree::{Node as Tree, Value};
use super::Meta;
use crate::problem::ProblemCode;

/// The effects of a taint, by name.
pub(super) const EFFECTS: &[(&str, TaintEffect)] = &[
    ("NoSchedule", TaintEffect::NoSchedule),
    ("PreferNoSchedule", TaintEffect::PreferNoSchedule),
    ("NoExecute", TaintEffect::NoExecute),
];

pub(super) fn read(reader: &mut Reader<'_>, root: &Tree, meta: Meta) -> Node {
    let spec = |field: &str| root.get("spec").and_then(|spec| spec.get(field));
    let status = |field: &str| root.get("status").and_then(|status| status.get(field));
    let mut node = Node::new(meta.key.name);
    node.labels = meta.labels;
    node.annotations = meta.annotations;
    node.origin = meta.origin;
    node.unschedulable = flag(spec("unschedulable")).unwrap_or(false);
    let cidrs = items(spec("podCIDRs"));
    node.pod_cidrs = cidrs
        .iter()
        .filter_map(|item| reader.cidr(Some(item), "`podCIDRs`"))
        .collect();
    if let Some(first) = reader.cidr(spec("podCIDR"), "`podCIDR`") {
        match node.pod_cidrs.first() {
            None => node.pod_cidrs.push(first),
            Some(other) if *other == first => {}
            Some(other) => {
                let label = format!("`podCIDRs` begins with `{other}`");
                let place = spec("podCIDR").map_or(root, |node| &**node);
                let title = "`podCIDR` must be the first of `podCIDRs`";
                reader.note(ProblemCode::ManContradiction, place, title, label);
            }
        }
    }
    for taint in items(spec("taints")) {
        let effect = reader.word(taint.get("effect"), "`effect`", EFFECTS);
        let value = text(taint.get("value")).unwrap_or_else(|| "".into());
        match (text(taint.get("key")), effect) {
            (Some(key), Some(effect)) => node.taints.push(Taint { key, value, effect }),
            (None, _) => reader.missing(taint, "key"),
            (_, None) if taint.get("effect").is_none() => reader.missing(taint, "effect"),
            (_, None) => {}
        }
    }
    addresses(reader, &mut node, root);
    node.ready = items(status("conditions"))
        .iter()
        .find(|condition| text(condition.get("type")).as_deref() == Some("Ready"))
        .map(|condition| text(condition.get("status")).as_deref() == Some("True"));
    let allocatable = status("allocatable")
        .or_else(|| status("capacity"))
        .and_then(|map| map.get("pods"));
    node.allocatable_pods = allocatable.and_then(|pods| match &pods.value {
        Value::Int(number) => u32::try_from(*number).ok(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Map(_) => None,
    });
    node
}

fn addresses(reader: &mut Reader<'_>, node: &mut Node, root: &Tree) {
    let list = root
        .get("status")
        .and_then(|status| status.get("addresses"));
    for item in items(list) {
        let address = item.get("address");
        match text(item.get("type")).as_deref() {
            Some("InternalIP") => node
                .internal_ips
                .extend(reader.ip(address, "an `InternalIP`")),
            Some("ExternalIP") => node
                .external_ips
                .extend(reader.ip(address, "an `ExternalIP`")),
            Some("Hostname") => node.hostname = text(address),
            _ => {}
        }
    }
}
