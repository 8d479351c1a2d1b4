//! The pods that the workload controllers would make (`kube-controller-manager`).
//!
//! # Fidelity
//! Suffixes that Kubernetes draws at random are stable hashes here, in the real alphabet. The pod template hash of
//! a Deployment is a hash of its own, not the one of `k8s.io/kubernetes/pkg/util/hash`. A `CronJob` makes no pod
//! until its schedule says so, which is not modelled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::scheduler;
use crate::api::{Node, OwnerRef, Pod, Toleration, Workload, WorkloadKind};
use crate::base::hash::{combine, stable_hash};
use crate::base::{ObjectKey, ObjectName};

/// The alphabet of generated names (`k8s.io/apimachinery/pkg/util/rand`): no vowels, no 0, 1, 3.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Returns `len` characters of the alphabet that depend on `hash` alone.
pub fn suffix(mut hash: u64, len: usize) -> String {
    let mut text = String::with_capacity(len);
    for _ in 0..len {
        let n = usize::try_from(hash % 27).unwrap_or(0);
        text.push(char::from(ALPHABET.get(n).copied().unwrap_or(b'b')));
        hash = combine(hash, 27);
    }
    text
}

/// Returns the pods of a workload, without node or address.
pub fn pods_of(workload: &Workload, nodes: &BTreeMap<ObjectName, Node>) -> Vec<Pod> {
    match workload.kind {
        WorkloadKind::Deployment
        | WorkloadKind::ReplicaSet
        | WorkloadKind::ReplicationController
        | WorkloadKind::Job => {
            let wanted = usize::try_from(workload.replicas).unwrap_or(usize::MAX);
            numbered(workload, |_| true).take(wanted).collect()
        }
        WorkloadKind::StatefulSet => stateful_pods(workload),
        WorkloadKind::DaemonSet => daemon_pods(workload, nodes),
        WorkloadKind::CronJob => Vec::new(),
    }
}

/// Returns the pods that a workload whose pods have no fixed names makes, as many as anybody wants, with those names only that
/// are `free`, and none twice.
pub fn numbered(
    workload: &Workload,
    free: impl Fn(&ObjectKey) -> bool,
) -> impl Iterator<Item = Pod> {
    let name = workload.key.name.as_str();
    let hash = (workload.kind == WorkloadKind::Deployment).then(|| template_hash(workload));
    let (base, owner_kind) = match &hash {
        Some(hash) => (format!("{name}-{hash}"), "ReplicaSet"),
        None => (name.to_owned(), workload.kind.as_str()),
    };
    let seed = stable_hash(workload.key.to_string().as_bytes());
    let namespace = &workload.key.namespace;
    let names = (0_u64..).map_while(move |n| {
        let suffix = suffix(combine(seed, n), 5);
        let name = format!("{base}-{suffix}").parse().ok()?;
        Some((ObjectKey::new(namespace.clone(), name), base.clone()))
    });
    let mut given = BTreeSet::new();
    let names = names.filter(move |(key, _)| free(key) && given.insert(key.clone()));
    names.map(move |(key, owner)| {
        let mut pod = pod(workload, key, (owner_kind, &owner));
        if let Some(hash) = &hash {
            pod.labels.insert("pod-template-hash", hash.as_str());
        }
        if workload.kind == WorkloadKind::Job {
            pod.labels.insert("job-name", name);
            pod.labels.insert("batch.kubernetes.io/job-name", name);
        }
        pod
    })
}

/// Ten characters that change when the template does.
fn template_hash(workload: &Workload) -> String {
    let template = workload.template.without_origins();
    let text = format!("{:?}{:?}", template.labels, template.spec);
    suffix(
        combine(
            stable_hash(text.as_bytes()),
            stable_hash(workload.key.to_string().as_bytes()),
        ),
        10,
    )
}

fn stateful_pods(workload: &Workload) -> Vec<Pod> {
    let name = workload.key.name.as_str();
    let last = workload.ordinals_start.saturating_add(workload.replicas);
    let one = |ordinal: u32| {
        let pod_name = format!("{name}-{ordinal}");
        let mut pod = named(workload, &pod_name, ("StatefulSet", name))?;
        pod.labels
            .insert("statefulset.kubernetes.io/pod-name", pod_name.as_str());
        pod.labels
            .insert("apps.kubernetes.io/pod-index", ordinal.to_string().as_str());
        pod.hostname = Some(pod_name.into());
        if workload.service_name.is_some() {
            let mut spec = (*pod.spec).clone();
            spec.subdomain.clone_from(&workload.service_name);
            pod.spec = Arc::new(spec);
        }
        Some(pod)
    };
    (workload.ordinals_start..last).filter_map(one).collect()
}

/// One pod for each node that fits; daemons tolerate unschedulable and unready nodes.
fn daemon_pods(workload: &Workload, nodes: &BTreeMap<ObjectName, Node>) -> Vec<Pod> {
    let name = workload.key.name.as_str();
    let one = |node: &Node| {
        let hash = stable_hash(format!("{}/{}", workload.key, node.name).as_bytes());
        let mut pod = named(
            workload,
            &format!("{name}-{}", suffix(hash, 5)),
            ("DaemonSet", name),
        )?;
        let mut spec = (*pod.spec).clone();
        for key in [
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
            "node.kubernetes.io/unschedulable",
        ] {
            spec.tolerations.push(Toleration {
                key: Some(key.into()),
                value: None,
                effect: None,
                seconds: None,
            });
        }
        pod.spec = Arc::new(spec);
        pod.node_name = Some(node.name.clone());
        scheduler::fits(&pod, node, true).is_ok().then_some(pod)
    };
    nodes.values().filter_map(one).collect()
}

fn named(workload: &Workload, name: &str, owner: (&str, &str)) -> Option<Pod> {
    let name: ObjectName = name.parse().ok()?;
    let key = ObjectKey::new(workload.key.namespace.clone(), name);
    Some(pod(workload, key, owner))
}

fn pod(workload: &Workload, key: ObjectKey, (kind, owner): (&str, &str)) -> Pod {
    let mut pod = Pod::new(key, Arc::clone(&workload.template.spec));
    pod.labels = workload.template.labels.clone();
    pod.annotations = workload.template.annotations.clone();
    pod.node_name.clone_from(&workload.template.node_name);
    pod.hostname.clone_from(&workload.template.hostname);
    pod.owner = owner.parse().ok().map(|name| OwnerRef {
        kind: kind.into(),
        name,
    });
    pod.origin = workload.template.origin.or(workload.origin);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PodTemplate, Strategy};
    use crate::base::{Labels, OriginId};

    #[test]
    fn suffixes_use_the_real_alphabet_and_never_change() {
        let text = suffix(stable_hash(b"shop/cart"), 10);
        assert_eq!(text.len(), 10);
        assert!(text.bytes().all(|b| ALPHABET.contains(&b)));
        assert_eq!(text, suffix(stable_hash(b"shop/cart"), 10));
    }

    #[test]
    fn no_name_is_given_twice() {
        let workload = Workload {
            kind: WorkloadKind::ReplicaSet,
            key: "shop/cart".parse().expect("a key"),
            uid: None,
            labels: Labels::default(),
            annotations: Labels::default(),
            owner: None,
            replicas: 20_000,
            completions: None,
            selector: None,
            template: PodTemplate {
                labels: Labels::default(),
                annotations: Labels::default(),
                node_name: None,
                hostname: None,
                spec: Arc::default(),
                origin: OriginId::NONE,
            },
            strategy: Strategy::default(),
            min_ready_seconds: 0,
            service_name: None,
            ordinals_start: 0,
            schedule: None,
            suspend: false,
            origin: OriginId::NONE,
        };
        let pods = pods_of(&workload, &BTreeMap::new());
        let keys: BTreeSet<&ObjectKey> = pods.iter().map(|pod| &pod.key).collect();
        assert_eq!(keys.len(), 20_000);
    }
}
