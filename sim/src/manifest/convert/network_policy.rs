//! Network policies.

use std::sync::Arc;

use ipnet::IpNet;
use podwire_models::api::{
    IpBlock, NetworkPolicy, PolicyPeer, PolicyPort, PolicyPorts, PolicyRule, PolicyTypes, PortRef,
};

use super::super::reader::{Maybe, Reader, items};
use super::super::tree::Node;
use super::Meta;
use crate::problem::ProblemCode;

pub(super) fn read(reader: &mut Reader<'_>, root: &Arc<Node>, meta: Meta) -> NetworkPolicy {
    let spec = root.get("spec");
    let get = |field: &str| spec.and_then(|spec| spec.get(field));
    let pod_selector = reader.selector(get("podSelector"));
    let ingress = rules(reader, get("ingress"), "from");
    let egress = rules(reader, get("egress"), "to");
    let policy_types = types(reader, get("policyTypes"), !egress.is_empty());
    NetworkPolicy {
        key: meta.key,
        labels: meta.labels,
        annotations: meta.annotations,
        // Left out, or null, it is the empty selector: every pod of the namespace.
        pod_selector: pod_selector.unwrap_or_default(),
        policy_types,
        ingress,
        egress,
        origin: meta.origin,
    }
}

fn types(reader: &mut Reader<'_>, list: Maybe<'_>, has_egress: bool) -> PolicyTypes {
    let list = items(list);
    if list.is_empty() {
        return PolicyTypes {
            ingress: true,
            egress: has_egress,
        };
    }
    let mut types = PolicyTypes {
        ingress: false,
        egress: false,
    };
    for item in list {
        match reader.word(
            Some(item),
            "one of `policyTypes`",
            &[("Ingress", true), ("Egress", false)],
        ) {
            Some(true) => types.ingress = true,
            Some(false) => types.egress = true,
            None => {}
        }
    }
    types
}

fn rules(reader: &mut Reader<'_>, list: Maybe<'_>, side: &str) -> Vec<PolicyRule> {
    let mut rules = Vec::new();
    for node in items(list) {
        let peers = items(node.get(side))
            .iter()
            .filter_map(|item| peer(reader, item))
            .collect();
        let ports = items(node.get("ports"))
            .iter()
            .filter_map(|item| port(reader, item))
            .collect();
        rules.push(PolicyRule {
            peers,
            ports,
            origin: reader.origin(node),
        });
    }
    rules
}

fn peer(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<PolicyPeer> {
    let (namespaces, pods) = (node.get("namespaceSelector"), node.get("podSelector"));
    let selects = namespaces.is_some() || pods.is_some();
    match node.get("ipBlock") {
        Some(block) => {
            if selects {
                let title = "`ipBlock` excludes `podSelector` and `namespaceSelector`";
                let problem = reader.note(
                    ProblemCode::ManContradiction,
                    block,
                    title,
                    "not beside a selector",
                );
                problem.help.push("make two peers of it".to_owned());
            }
            ip_block(reader, block).map(PolicyPeer::IpBlock)
        }
        None if selects => Some(PolicyPeer::Pods {
            namespaces: reader.selector(namespaces),
            pods: reader.selector(pods),
            origin: reader.origin(node),
        }),
        None => {
            let title = "a peer needs `podSelector`, `namespaceSelector` or `ipBlock`";
            let problem = reader.note(ProblemCode::ManMissingField, node, title, "names nobody");
            problem
                .help
                .push("to mean everybody, leave the list of peers out".to_owned());
            None
        }
    }
}

fn ip_block(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<IpBlock> {
    if node.get("cidr").is_none() {
        reader.missing(node, "cidr");
    }
    let mut except: Vec<IpNet> = Vec::new();
    let cidr = reader.cidr(node.get("cidr"), "`cidr`");
    for item in items(node.get("except")) {
        let Some(hole) = reader.cidr(Some(item), "one of `except`") else {
            continue;
        };
        if let Some(cidr) = cidr.filter(|cidr| !cidr.contains(&hole) || *cidr == hole) {
            let title = "`except` must be a strict part of `cidr`";
            reader.note(
                ProblemCode::ManContradiction,
                item,
                title,
                format!("not inside `{cidr}`"),
            );
        }
        except.push(hole);
    }
    Some(IpBlock {
        cidr: cidr?,
        except,
        origin: reader.origin(node),
    })
}

fn port(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<PolicyPort> {
    let protocol = reader.protocol(node.get("protocol"));
    let start = reader.port_ref(node.get("port"), "`port`");
    let ports = match (start, node.get("endPort")) {
        (None, None) if node.get("port").is_some() => return None,
        (None, None) => PolicyPorts::All,
        (Some(port), None) => PolicyPorts::One(port),
        (Some(PortRef::Number(from)), Some(end)) => {
            let to = reader.port(Some(end), "`endPort`")?;
            if to < from {
                let title = "`endPort` must not be below `port`";
                reader.note(
                    ProblemCode::ManContradiction,
                    end,
                    title,
                    format!("must be {from} or more"),
                );
            }
            PolicyPorts::Range(from, to)
        }
        (Some(PortRef::Name(_)) | None, Some(end)) => {
            let title = "`endPort` needs a `port` that is a number";
            reader.note(
                ProblemCode::ManContradiction,
                end,
                title,
                "where does the range begin?",
            );
            return None;
        }
    };
    Some(PolicyPort {
        protocol,
        ports,
        origin: reader.origin(node),
    })
}
