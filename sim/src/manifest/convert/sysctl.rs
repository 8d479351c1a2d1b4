//! `securityContext.sysctls` of a pod: kernel settings of its network namespace.

use std::sync::Arc;

use podwire_models::kernel::sysctl::{self, Refused};

use super::{Node, Reader, items, text};
use crate::problem::ProblemCode;

type Setting = (Arc<str>, Arc<str>);

/// Reads a pod's settings. Those of other namespaces than the network's (`kernel.shmmax`) are no packet's business.
pub(super) fn all(reader: &mut Reader<'_>, spec: &Node, host_network: bool) -> Vec<Setting> {
    let context = spec.get("securityContext");
    let given = items(context.and_then(|context| context.get("sysctls")));
    given
        .iter()
        .filter_map(|item| one(reader, item, host_network))
        .collect()
}

fn one(reader: &mut Reader<'_>, item: &Node, host_network: bool) -> Option<Setting> {
    let (name_at, value_at) = (item.get("name")?, item.get("value")?);
    let (name, value) = (dotted(&text(Some(name_at))?), text(Some(value_at))?);
    if !name.starts_with("net.") {
        return None;
    }
    if host_network {
        let title = format!("`{name}` may not be set by a pod with `hostNetwork: true`");
        let label = "it would be a setting of the node";
        reader.note(ProblemCode::ManContradiction, name_at, title, label);
        return None;
    }
    match sysctl::read(&name, &value) {
        Ok(_) => Some((name, value)),
        Err(Refused::Unknown) => {
            let why = "the setting is not known here, and changes nothing";
            reader.gap(name_at, format!("sysctl {name}"), why);
            None
        }
        Err(Refused::Value) => {
            let title = format!("`{name}` does not take this value");
            let label = "the kernel says \"Invalid argument\", and the pod does not start";
            reader.note(ProblemCode::ManBadValue, value_at, title, label);
            None
        }
    }
}

/// Settings may be written with slashes instead of dots; then a dot stands for itself
/// (`k8s.io/component-helpers/node/util/sysctl`, `NormalizeName`).
fn dotted(name: &str) -> Arc<str> {
    match name.find(['.', '/']) {
        Some(at) if name.get(at..).is_some_and(|rest| rest.starts_with('/')) => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect::<String>()
            .into(),
        Some(_) | None => name.into(),
    }
}
