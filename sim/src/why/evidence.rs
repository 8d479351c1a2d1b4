//! Which of two values is the mistake: the one that fewer others use.

use podwire_models::api::{Kind, Workload};
use podwire_models::api::{NetworkPolicy, ObjectRef, Objects, PolicyPeer};
use podwire_models::base::{Labels, Selector};

/// Returns how many things of the input say that a label has this value, those named aside.
///
/// Counted are the selectors and labels of other objects, and the names of Services, workloads and containers that are
/// spelled like the value.
pub fn uses(given: &Objects, key: &str, value: &str, aside: &[&ObjectRef]) -> usize {
    let counts = |of: &ObjectRef| !aside.contains(&of);
    let has = |labels: &Labels| usize::from(labels.get(key) == Some(value));
    let asks = |selector: &Selector| {
        has(&selector.match_labels)
            + selector
                .match_expressions
                .iter()
                .filter(|expression| expression.key() == key && mentions(expression, value))
                .count()
    };
    let mut found = 0;
    for service in given.services.values() {
        found += usize::from(service.key.name.as_str() == value) + has(&service.labels);
        if counts(&ObjectRef::namespaced(Kind::Service, &service.key)) {
            found += service.selector.as_ref().map_or(0, asks);
        }
    }
    for workload in given.workloads.values() {
        found += usize::from(workload.key.name.as_str() == value) + has(&workload.labels);
        let containers = workload.template.spec.containers.iter();
        found += containers.filter(|c| &*c.name == value).count();
        if counts(&reference(workload)) {
            found += has(&workload.template.labels) + workload.selector.as_ref().map_or(0, asks);
        }
    }
    for pod in given.pods.values() {
        found += usize::from(pod.key.name.as_str() == value);
        if counts(&ObjectRef::namespaced(Kind::Pod, &pod.key)) {
            found += has(&pod.labels);
        }
    }
    for policy in given.network_policies.values() {
        if counts(&ObjectRef::namespaced(Kind::NetworkPolicy, &policy.key)) {
            found += selectors(policy).into_iter().map(asks).sum::<usize>();
        }
    }
    found
}

/// Whether anything of the input has a label with this key or asks for one, those named aside.
pub fn knows_key(given: &Objects, key: &str, aside: &[&ObjectRef]) -> bool {
    let counts = |of: &ObjectRef| !aside.contains(&of);
    let asks = |selector: &Selector| {
        selector.match_labels.get(key).is_some()
            || selector
                .match_expressions
                .iter()
                .any(|one| one.key() == key)
    };
    let services = given.services.values();
    let mut services =
        services.filter(|one| counts(&ObjectRef::namespaced(Kind::Service, &one.key)));
    let workloads = given.workloads.values();
    let mut workloads = workloads.filter(|one| counts(&reference(one)));
    let pods = given.pods.values();
    let mut pods = pods.filter(|one| counts(&ObjectRef::namespaced(Kind::Pod, &one.key)));
    services.any(|one| one.selector.as_ref().is_some_and(asks))
        || workloads.any(|one| one.template.labels.get(key).is_some())
        || pods.any(|one| one.labels.get(key).is_some())
}

fn mentions(expression: &podwire_models::base::label::Expression, value: &str) -> bool {
    use podwire_models::base::label::Expression;
    match expression {
        Expression::In(_, values) => values.iter().any(|one| &**one == value),
        Expression::NotIn(..) | Expression::Exists(_) | Expression::DoesNotExist(_) => false,
    }
}

/// Returns all selectors of pods in a policy.
fn selectors(policy: &NetworkPolicy) -> Vec<&Selector> {
    let peers = policy.ingress.iter().chain(&policy.egress);
    let peers = peers.flat_map(|rule| &rule.peers);
    std::iter::once(&policy.pod_selector)
        .chain(peers.filter_map(pods_of))
        .collect()
}

const fn pods_of(peer: &PolicyPeer) -> Option<&Selector> {
    match peer {
        PolicyPeer::Pods { pods, .. } => pods.as_ref(),
        PolicyPeer::IpBlock(_) => None,
    }
}

/// Names a workload.
pub fn reference(workload: &Workload) -> ObjectRef {
    ObjectRef::namespaced(Kind::Workload(workload.kind), &workload.key)
}

/// How unlike two words are, in changes of a letter; the whole length if they have nothing in common.
pub fn distance(a: &str, b: &str) -> usize {
    strsim::damerau_levenshtein(a, b)
}
