//! What makes pods: Deployment, `ReplicaSet`, `StatefulSet`, `DaemonSet`, Job, `CronJob`.
//! Leaves out: update strategies' parameters, volume claim templates, history limits.

use std::fmt;
use std::sync::Arc;

use super::pod::{OwnerRef, PodSpec};
use crate::base::{Labels, ObjectKey, ObjectName, OriginId, Selector};

/// An object from whose template pods are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Which of the kinds it is.
    pub kind: WorkloadKind,
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its unique id, if the input carries one.
    pub uid: Option<Arc<str>>,
    /// Its own labels.
    pub labels: Labels,
    /// Its own annotations.
    pub annotations: Labels,
    /// Who made it (a Deployment owns its `ReplicaSet`).
    pub owner: Option<OwnerRef>,
    /// How many pods there should be; for a Job, how many run beside each other. A `DaemonSet` has
    /// one per node whatever this says.
    pub replicas: u32,
    /// How many pods of a Job must end well.
    pub completions: Option<u32>,
    /// Which pods are its own. A Job makes its own selector: `None` until then.
    pub selector: Option<Selector>,
    /// What its pods look like.
    pub template: PodTemplate,
    /// The headless Service of a `StatefulSet`.
    pub service_name: Option<Arc<str>>,
    /// The number of a `StatefulSet`'s first pod.
    pub ordinals_start: u32,
    /// When a `CronJob` runs.
    pub schedule: Option<Arc<str>>,
    /// Whether a Job or `CronJob` is held back.
    pub suspend: bool,
    /// Where it was written.
    pub origin: OriginId,
}

/// The kinds that make pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` `ReplicaSet`.
    ReplicaSet,
    /// `v1` `ReplicationController`.
    ReplicationController,
    /// `apps/v1` `StatefulSet`.
    StatefulSet,
    /// `apps/v1` `DaemonSet`.
    DaemonSet,
    /// `batch/v1` Job.
    Job,
    /// `batch/v1` `CronJob`.
    CronJob,
}

impl WorkloadKind {
    /// Returns the name of the kind as objects write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the pods of a workload look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTemplate {
    /// Labels of the pods.
    pub labels: Labels,
    /// Annotations of the pods.
    pub annotations: Labels,
    /// The node the pods are put on, if the template says so.
    pub node_name: Option<ObjectName>,
    /// `spec.hostname` of the pods.
    pub hostname: Option<Arc<str>>,
    /// The rest of the spec.
    pub spec: Arc<PodSpec>,
    /// Where the template was written.
    pub origin: OriginId,
}

impl PodTemplate {
    /// Returns what the template says, without where it was written: two that say the same make the same pods.
    #[must_use]
    pub fn without_origins(&self) -> Self {
        let mut spec = (*self.spec).clone();
        for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
            container.origin = OriginId::NONE;
            for port in &mut container.ports {
                port.origin = OriginId::NONE;
            }
            if let Some(probe) = &mut container.readiness {
                probe.origin = OriginId::NONE;
            }
        }
        Self {
            spec: Arc::new(spec),
            origin: OriginId::NONE,
            ..self.clone()
        }
    }
}
