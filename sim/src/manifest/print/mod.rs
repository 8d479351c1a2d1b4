//! Objects of the model as manifests: what `convert` reads, written again, with everything that controllers have filled
//! in. `kubectl get -o yaml` of the settled cluster.
//!
//! # Fidelity
//! What no packet can notice was not kept, so it is not written: images' digests, resources, volumes, liveness probes. Moments
//! are not known either: `deletionTimestamp` is the beginning of the Unix epoch.

use podwire_models::api::{EndpointSlice, NetworkPolicy, Node, OwnerRef, Pod, Service};
use podwire_models::base::{Expression, Labels, Selector};
use serde_json::{Map, Value, json};

use super::kinds::KINDS;

mod pod;
mod policy;
mod service;
mod yaml;

pub use yaml::text;

/// Returns a pod as `v1` Pod.
pub fn pod(pod: &Pod) -> Value {
    pod::written(pod)
}

/// Returns a Service as `v1` Service.
pub fn service(service: &Service) -> Value {
    service::written(service)
}

/// Returns a slice as `discovery.k8s.io/v1` `EndpointSlice`.
pub fn endpoint_slice(slice: &EndpointSlice) -> Value {
    service::slice(slice)
}

/// Returns the endpoints of a Service as the older `v1` Endpoints: those of its primary family.
pub fn endpoints(service: &Service, slices: &[EndpointSlice]) -> Value {
    service::endpoints(service, slices)
}

/// Returns a policy as `networking.k8s.io/v1` `NetworkPolicy`.
pub fn network_policy(policy: &NetworkPolicy) -> Value {
    policy::written(policy)
}

/// Returns a node as `v1` Node.
pub fn node(node: &Node) -> Value {
    let addresses: Vec<Value> = node
        .internal_ips
        .iter()
        .map(|ip| json!({ "type": "InternalIP", "address": ip }))
        .chain(
            node.external_ips
                .iter()
                .map(|ip| json!({ "type": "ExternalIP", "address": ip })),
        )
        .chain(
            node.hostname
                .iter()
                .map(|name| json!({ "type": "Hostname", "address": &**name })),
        )
        .collect();
    let taints: Vec<Value> = node
        .taints
        .iter()
        .map(|taint| {
            let value = (!taint.value.is_empty()).then(|| taint.value.to_string());
            json!({ "key": &*taint.key, "value": value, "effect": taint.effect.to_string() })
        })
        .collect();
    let cidrs: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    tidy(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name.as_str(),
            "labels": labels(&node.labels),
            "annotations": labels(&node.annotations),
        },
        "spec": {
            "podCIDR": cidrs.first(),
            "podCIDRs": cidrs,
            "taints": taints,
            "unschedulable": node.unschedulable.then_some(true),
        },
        "status": {
            "addresses": addresses,
            "allocatable": { "pods": node.allocatable_pods.map(|pods| pods.to_string()) },
            "conditions": ready(node.ready),
        },
    }))
}

/// Returns several objects as `v1` List, as `kubectl get` prints them.
pub fn list(items: Vec<Value>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": { "resourceVersion": "" },
        "items": items,
    })
}

/// The condition `Ready` of a status.
fn ready(ready: Option<bool>) -> Vec<Value> {
    let status = |ready| if ready { "True" } else { "False" };
    let condition = ready.map(|ready| json!({ "type": "Ready", "status": status(ready) }));
    condition.into_iter().collect()
}

fn labels(labels: &Labels) -> Value {
    let entries = labels.iter();
    entries
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

/// A label selector. The empty one is written, since it selects everything where none selects nothing.
fn selector(selector: &Selector) -> Value {
    let expressions: Vec<Value> = selector
        .match_expressions
        .iter()
        .map(|expression| {
            let (operator, values) = match expression {
                Expression::In(_, values) => ("In", Some(values)),
                Expression::NotIn(_, values) => ("NotIn", Some(values)),
                Expression::Exists(_) => ("Exists", None),
                Expression::DoesNotExist(_) => ("DoesNotExist", None),
            };
            let values = values.map(|all| all.iter().map(ToString::to_string).collect());
            let values: Option<Vec<String>> = values;
            json!({ "key": expression.key(), "operator": operator, "values": values })
        })
        .collect();
    let mut written = Map::new();
    if !selector.match_labels.is_empty() {
        written.insert("matchLabels".to_owned(), labels(&selector.match_labels));
    }
    if !expressions.is_empty() {
        written.insert("matchExpressions".to_owned(), expressions.into());
    }
    Value::Object(written)
}

fn owners(owner: Option<&OwnerRef>) -> Vec<Value> {
    let written = owner.map(|owner| {
        let row = KINDS.iter().find(|row| *row.kind == *owner.kind);
        json!({
            "apiVersion": row.map(|row| row.api_version),
            "kind": &*owner.kind,
            "name": owner.name.as_str(),
            "controller": true,
        })
    });
    written.into_iter().collect()
}

/// Takes out what is not there: nulls, and lists and maps without entries.
fn tidy(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| (key, tidy(value)));
            let there = |(_, value): &(String, Value)| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(map) => !map.is_empty(),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
            };
            Value::Object(entries.filter(there).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(tidy).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}
