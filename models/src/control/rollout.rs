//! What a workload controller does next: which pods it makes and which it deletes (`kube-controller-manager`).
//!
//! The functions look at the pods that are there and at no clock; whoever calls them again after each change gets a
//! rolling update, a replacement, or nothing.
//!
//! # Fidelity
//! Rolling updates have the defaults `maxSurge: 25%` and `maxUnavailable: 25%`; a strategy in the manifest is listed as
//! not modelled. Of several pods that could go, those whose names come last go first, after those that are not ready;
//! the real order also looks at nodes, ages and restarts. A `StatefulSet` makes all its pods at once. Jobs and
//! `CronJob`s do nothing after the start.

use std::collections::{BTreeMap, BTreeSet};

use super::workloads;
use crate::api::{Node, Objects, Pod, Workload, WorkloadKind};
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
        .pods
        .values()
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

/// Returns what a workload's controller does. `outdated` are pods of an earlier template, `used` names that a pod has or
/// had.
pub fn step(
    workload: &Workload,
    objects: &Objects,
    outdated: &BTreeSet<ObjectKey>,
    used: &BTreeSet<ObjectKey>,
) -> Step {
    match workload.kind {
        WorkloadKind::Deployment => rolling(workload, objects, outdated, used),
        WorkloadKind::ReplicaSet | WorkloadKind::ReplicationController => {
            rolling(workload, objects, &BTreeSet::new(), used)
        }
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => named(workload, objects, outdated),
        WorkloadKind::Job | WorkloadKind::CronJob => Step::default(),
    }
}

/// A quarter of `replicas`, rounded up.
const fn surge(replicas: u32) -> usize {
    replicas.div_ceil(4) as usize
}

/// A quarter of `replicas`, rounded down.
const fn unavailable(replicas: u32) -> usize {
    (replicas / 4) as usize
}

fn rolling(
    workload: &Workload,
    objects: &Objects,
    outdated: &BTreeSet<ObjectKey>,
    used: &BTreeSet<ObjectKey>,
) -> Step {
    let wanted = workload.replicas as usize;
    let pods = owned(workload, objects);
    let (old, new): (Vec<&Pod>, Vec<&Pod>) = pods
        .into_iter()
        .partition(|pod| outdated.contains(&pod.key));
    let mut step = Step::default();
    let room = if old.is_empty() {
        wanted
    } else {
        (wanted + surge(workload.replicas)).saturating_sub(old.len())
    };
    let missing = wanted.min(room).saturating_sub(new.len());
    step.create = fresh(workload, &objects.nodes, used, missing);
    let surplus = new.len().saturating_sub(wanted);
    step.delete.extend(victims(&new).take(surplus).cloned());
    // Old pods that serve nobody go at once, the others as far as enough remain.
    let ready = |pods: &[&Pod]| pods.iter().filter(|pod| pod.ready == Some(true)).count();
    let least = wanted.saturating_sub(unavailable(workload.replicas));
    let mut spare = (ready(&old) + ready(&new)).saturating_sub(least);
    for pod in victims(&old) {
        let serves = old
            .iter()
            .any(|old| old.key == *pod && old.ready == Some(true));
        if !serves {
            step.delete.push(pod.clone());
        } else if spare > 0 {
            spare -= 1;
            step.delete.push(pod.clone());
        }
    }
    step
}

/// Pods in the order in which they go: those that are not ready first, then by name from the end.
fn victims<'a>(pods: &[&'a Pod]) -> impl Iterator<Item = &'a ObjectKey> {
    let mut order: Vec<&Pod> = pods.to_vec();
    order.sort_by(|a, b| {
        let ready = |pod: &Pod| pod.ready == Some(true);
        ready(a).cmp(&ready(b)).then_with(|| b.key.cmp(&a.key))
    });
    order.into_iter().map(|pod| &pod.key)
}

/// Pods with names that nobody has or had.
fn fresh(
    workload: &Workload,
    nodes: &BTreeMap<ObjectName, Node>,
    used: &BTreeSet<ObjectKey>,
    count: usize,
) -> Vec<Pod> {
    if count == 0 {
        return Vec::new();
    }
    let enough = used.len() + count;
    let many = Workload {
        replicas: u32::try_from(enough).unwrap_or(u32::MAX),
        ..workload.clone()
    };
    let pods = workloads::pods_of(&many, nodes);
    let free = pods.into_iter().filter(|pod| !used.contains(&pod.key));
    free.take(count).collect()
}

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
