//! What a workload controller does next: which pods it makes and which it deletes (`kube-controller-manager`).
//!
//! The functions look at the pods that are there and at no clock; whoever calls them again after each change gets a
//! rolling update, a replacement, or nothing.
//!
//! # Fidelity
//! Of several pods that could go, those of equal rank go by name from the end; the real order looks at ages and restarts. A
//! Deployment that is scaled in the middle of an update does not spread the difference over its `ReplicaSet`s. A `StatefulSet` makes
//! all its pods at once. Jobs and `CronJob`s do nothing after the start.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::workloads;
use crate::api::{Kind, Objects, Pod, Strategy, Workload, WorkloadKind};
use crate::base::{ObjectKey, ObjectName, Selector};

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Pods to make, without node or address.
    pub create: Vec<Pod>,
    /// Pods to delete.
    pub delete: Vec<ObjectKey>,
}

/// Returns the pods a workload owns that are not on their way out.
pub fn owned<'a>(workload: &Workload, objects: &'a Objects) -> Vec<&'a Pod> {
    objects
        .pods_in(&workload.key.namespace)
        .filter(|pod| !pod.deleting && !pod.ended() && owns(workload, pod))
        .collect()
}

/// Whether a pod is a workload's: by its owner, or else by its labels.
pub fn owns(workload: &Workload, pod: &Pod) -> bool {
    if pod.key.namespace != workload.key.namespace {
        return false;
    }
    let name = workload.key.name.as_str();
    if let Some(owner) = &pod.owner {
        let direct = *owner.kind == *workload.kind.as_str() && owner.name.as_str() == name;
        let by_replica_set = workload.kind == WorkloadKind::Deployment
            && &*owner.kind == "ReplicaSet"
            && owner
                .name
                .as_str()
                .rsplit_once('-')
                .is_some_and(|(deployment, _)| deployment == name);
        return direct || by_replica_set;
    }
    workload
        .selector
        .as_ref()
        .is_some_and(|s| !Selector::is_empty(s) && s.matches(&pod.labels))
}

/// Returns the workloads that own a pod.
pub fn owners<'a>(pod: &Pod, objects: &'a Objects) -> Vec<&'a Workload> {
    let Some(owner) = &pod.owner else {
        let workloads = objects.workloads.values();
        return workloads.filter(|w| owns(w, pod)).collect();
    };
    let of = |kind: WorkloadKind, name: &str| {
        let key = ObjectKey::new(pod.key.namespace.clone(), name.parse().ok()?);
        objects.workloads.get(&(kind, key))
    };
    let name = owner.name.as_str();
    let deployment = name
        .rsplit_once('-')
        .and_then(|(name, _)| of(WorkloadKind::Deployment, name));
    let kind = Kind::ALL.into_iter().find_map(|kind| match kind {
        Kind::Workload(kind) => (kind.as_str() == &*owner.kind).then_some(kind),
        Kind::Node
        | Kind::Namespace
        | Kind::Pod
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::NetworkPolicy
        | Kind::ClusterPolicy(_)
        | Kind::Ingress
        | Kind::WebhookConfiguration(_) => None,
    });
    let direct = kind.and_then(|kind| of(kind, name));
    let both = deployment.into_iter().chain(direct);
    both.filter(|workload| owns(workload, pod)).collect()
}

/// Whether some controller makes another pod when this one is deleted.
pub fn is_replaced(pod: &Pod, objects: &Objects) -> bool {
    let makes_another = |workload: &&Workload| match workload.kind {
        WorkloadKind::Deployment
        | WorkloadKind::ReplicaSet
        | WorkloadKind::ReplicationController
        | WorkloadKind::StatefulSet
        | WorkloadKind::DaemonSet => true,
        WorkloadKind::Job | WorkloadKind::CronJob => false,
    };
    owners(pod, objects).iter().any(makes_another)
}

/// What a controller knows besides the objects.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Pods of an earlier template.
    pub outdated: &'a BTreeSet<ObjectKey>,
    /// Names that a pod has or had.
    pub used: &'a BTreeSet<ObjectKey>,
    /// Whether a pod has been ready for `minReadySeconds`.
    pub available: &'a dyn Fn(&Pod) -> bool,
}

impl fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("outdated", self.outdated)
            .finish_non_exhaustive()
    }
}

/// Returns what a workload's controller does.
pub fn step(workload: &Workload, objects: &Objects, known: &Known<'_>) -> Step {
    match workload.kind {
        WorkloadKind::Deployment => deployment(workload, objects, known),
        WorkloadKind::ReplicaSet | WorkloadKind::ReplicationController => {
            let pods = owned(workload, objects);
            scale(workload, &pods, workload.replicas as usize, known)
        }
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => {
            named(workload, objects, known.outdated)
        }
        WorkloadKind::Job | WorkloadKind::CronJob => Step::default(),
    }
}

/// How many pods a rolling update may add to `replicas`, and how many may be missing (`ResolveFenceposts`).
pub fn fenceposts(strategy: Strategy, replicas: u32) -> (u32, u32) {
    match strategy {
        Strategy::Recreate => (0, replicas),
        Strategy::RollingUpdate {
            max_surge,
            max_unavailable,
        } => {
            let surge = max_surge.rounded_up(replicas);
            let unavailable = max_unavailable.rounded_down(replicas);
            // Otherwise nothing could ever move.
            let stuck = surge == 0 && unavailable == 0;
            (surge, if stuck { 1 } else { unavailable.min(replicas) })
        }
    }
}

fn deployment(workload: &Workload, objects: &Objects, known: &Known<'_>) -> Step {
    let wanted = workload.replicas as usize;
    let pods = owned(workload, objects);
    let (old, new): (Vec<&Pod>, Vec<&Pod>) = pods
        .iter()
        .copied()
        .partition(|pod| known.outdated.contains(&pod.key));
    match workload.strategy {
        Strategy::Recreate => {
            let there = |key: &ObjectKey| objects.pods.get(key).is_some_and(|pod| !pod.ended());
            if known.outdated.iter().any(there) {
                let delete = old.iter().map(|pod| pod.key.clone()).collect();
                return Step {
                    delete,
                    ..Step::default()
                };
            }
            scale(workload, &new, wanted, known)
        }
        Strategy::RollingUpdate { .. } if old.is_empty() => scale(workload, &new, wanted, known),
        Strategy::RollingUpdate { .. } => {
            let (surge, unavailable) = fenceposts(workload.strategy, workload.replicas);
            // The new ReplicaSet grows as far as all pods together may (`NewRSNewReplicas`).
            let room = (wanted + surge as usize).saturating_sub(pods.len());
            let grown = new.len() + room.min(wanted.saturating_sub(new.len()));
            let mut step = scale(workload, &new, grown.min(wanted), known);
            // The old ones shrink as far as enough are available (`reconcileOldReplicaSets`): those that serve nobody, then others.
            let least = wanted.saturating_sub(unavailable as usize);
            let available = |pods: &[&Pod]| {
                let pods = pods.iter().filter(|pod| (known.available)(pod));
                pods.count()
            };
            let (old_available, new_available) = (available(&old), available(&new));
            let most = (old.len() + new_available).saturating_sub(least);
            let unhealthy = (old.len() - old_available).min(most);
            let healthy = (old_available + new_available).saturating_sub(least);
            let goes = victims(&old).take(unhealthy + healthy);
            step.delete.extend(goes.cloned());
            step
        }
    }
}

/// Makes pods that are missing, and deletes those that are too many.
fn scale(workload: &Workload, pods: &[&Pod], wanted: usize, known: &Known<'_>) -> Step {
    let missing = wanted.saturating_sub(pods.len());
    let surplus = pods.len().saturating_sub(wanted);
    let free = workloads::numbered(workload, |key| !known.used.contains(key));
    let delete = if surplus == 0 {
        Vec::new()
    } else {
        victims(pods).take(surplus).cloned().collect()
    };
    Step {
        create: free.take(missing).collect(),
        delete,
    }
}

/// Pods in the order in which they go (`ActivePodsWithRanks`): those without a node, those without an address, those
/// that are not ready, those whose `pod-deletion-cost` is lower, those that share their node with more of their kind.
fn victims<'a>(pods: &[&'a Pod]) -> impl Iterator<Item = &'a ObjectKey> {
    let mut on_node: BTreeMap<&ObjectName, usize> = BTreeMap::new();
    for node in pods.iter().filter_map(|pod| pod.node_name.as_ref()) {
        *on_node.entry(node).or_default() += 1;
    }
    let rank = |pod: &Pod| {
        let node = pod.node_name.as_ref();
        let neighbours = node.and_then(|node| on_node.get(node)).copied();
        let cost = pod.annotations.get(DELETION_COST);
        let cost: i32 = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
        let first = (
            node.is_some(),
            !pod.pod_ips.is_empty(),
            pod.ready == Some(true),
        );
        (first, cost, Reverse(neighbours))
    };
    let mut order: Vec<&Pod> = pods.to_vec();
    order.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| b.key.cmp(&a.key)));
    order.into_iter().map(|pod| &pod.key)
}

/// The annotation that says which pods may rather go.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Workloads whose pods have fixed names: those that are missing are made, those that are too many or outdated go. One
/// outdated pod at a time, and only while all others are ready.
fn named(workload: &Workload, objects: &Objects, outdated: &BTreeSet<ObjectKey>) -> Step {
    let wanted = workloads::pods_of(workload, &objects.nodes);
    let names: BTreeSet<&ObjectKey> = wanted.iter().map(|pod| &pod.key).collect();
    let there = owned(workload, objects);
    let mut step = Step::default();
    let extra = there.iter().filter(|pod| !names.contains(&pod.key));
    step.delete.extend(extra.map(|pod| pod.key.clone()));
    let whole = names.iter().all(|name| {
        let pod = objects.pods.get(*name);
        pod.is_some_and(|pod| !pod.deleting && pod.ready == Some(true))
    });
    if whole {
        let last = there
            .iter()
            .rfind(|pod| names.contains(&pod.key) && outdated.contains(&pod.key));
        step.delete.extend(last.map(|pod| pod.key.clone()));
    }
    let missing = |pod: &Pod| !objects.pods.contains_key(&pod.key);
    step.create = wanted.into_iter().filter(missing).collect();
    step
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::api::Share;

    #[test]
    fn fenceposts_are_those_of_kubernetes() {
        let usual = |replicas| fenceposts(Strategy::default(), replicas);
        let table = [1, 2, 3, 4, 5, 10, 100].map(usual);
        let wanted = [(1, 0), (1, 0), (1, 0), (1, 1), (2, 1), (3, 2), (25, 25)];
        assert_eq!(table, wanted);
        let numbers = |max_surge, max_unavailable| Strategy::RollingUpdate {
            max_surge,
            max_unavailable,
        };
        let none = numbers(Share::Number(0), Share::Percent(10));
        assert_eq!(fenceposts(none, 5), (0, 1), "10 % of 5 is none");
        let many = numbers(Share::Percent(200), Share::Number(9));
        assert_eq!(fenceposts(many, 5), (10, 5));
    }
}
