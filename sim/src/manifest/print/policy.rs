//! Network policies.

use podwire_models::api::{
    NetworkPolicy, PolicyPeer, PolicyPort, PolicyPorts, PolicyRule, PortRef,
};
use serde_json::{Map, Value, json};

use super::{labels, selector, tidy};

/// What is empty means something here: `ingress: []` allows nothing, a rule `{}` everything, and so does a selector.
pub(super) fn written(policy: &NetworkPolicy) -> Value {
    let mut types = Vec::new();
    types.extend(policy.policy_types.ingress.then_some("Ingress"));
    types.extend(policy.policy_types.egress.then_some("Egress"));
    let mut spec = Map::new();
    spec.insert("podSelector".to_owned(), selector(&policy.pod_selector));
    spec.insert("policyTypes".to_owned(), json!(types));
    for (field, side, rules) in [
        ("ingress", "from", &policy.ingress),
        ("egress", "to", &policy.egress),
    ] {
        if !rules.is_empty() {
            let rules = rules.iter().map(|written| rule(written, side)).collect();
            spec.insert(field.to_owned(), rules);
        }
    }
    let metadata = tidy(json!({
        "name": policy.key.name.as_str(),
        "namespace": policy.key.namespace.as_str(),
        "labels": labels(&policy.labels),
        "annotations": labels(&policy.annotations),
    }));
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    })
}

fn rule(rule: &PolicyRule, side: &str) -> Value {
    let mut written = Map::new();
    if !rule.peers.is_empty() {
        written.insert(side.to_owned(), rule.peers.iter().map(peer).collect());
    }
    if !rule.ports.is_empty() {
        written.insert("ports".to_owned(), rule.ports.iter().map(port).collect());
    }
    Value::Object(written)
}

fn peer(peer: &PolicyPeer) -> Value {
    match peer {
        PolicyPeer::Pods {
            namespaces, pods, ..
        } => {
            let mut written = Map::new();
            for (field, wanted) in [("namespaceSelector", namespaces), ("podSelector", pods)] {
                if let Some(wanted) = wanted {
                    written.insert(field.to_owned(), selector(wanted));
                }
            }
            Value::Object(written)
        }
        PolicyPeer::IpBlock(block) => {
            let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
            tidy(json!({ "ipBlock": { "cidr": block.cidr.to_string(), "except": except } }))
        }
    }
}

fn port(port: &PolicyPort) -> Value {
    let (first, last) = match &port.ports {
        PolicyPorts::All => (Value::Null, None),
        PolicyPorts::One(PortRef::Number(number)) => (json!(number), None),
        PolicyPorts::One(PortRef::Name(name)) => (json!(&**name), None),
        PolicyPorts::Range(from, to) => (json!(from), Some(*to)),
    };
    tidy(json!({ "protocol": port.protocol.upper(), "port": first, "endPort": last }))
}
