//! What makes pods: Deployment, `ReplicaSet`, `StatefulSet`, `DaemonSet`, Job, `CronJob`.
//! Leaves out: update strategies of `StatefulSet`s and `DaemonSet`s, volume claim templates, history limits.

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
    /// How a Deployment replaces pods of an earlier template.
    pub strategy: Strategy,
    /// Seconds a pod must have been ready to count as available.
    pub min_ready_seconds: u32,
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

/// How a Deployment replaces pods of an earlier template (`spec.strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// All old pods go before any new one is made.
    Recreate,
    /// A few at a time.
    RollingUpdate {
        /// How many pods there may be beyond `replicas`.
        max_surge: Share,
        /// How many of `replicas` may be missing.
        max_unavailable: Share,
    },
}

impl Default for Strategy {
    fn default() -> Self {
        Self::RollingUpdate {
            max_surge: Share::Percent(25),
            max_unavailable: Share::Percent(25),
        }
    }
}

/// A number of pods, or a share of them (`IntOrString`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Number(u32),
    /// So many of a hundred.
    Percent(u32),
}

impl Share {
    /// Returns how many of `replicas` that is, shares rounded up.
    pub fn rounded_up(self, replicas: u32) -> u32 {
        self.of(replicas, u64::div_ceil)
    }

    /// Returns how many of `replicas` that is, shares rounded down.
    pub fn rounded_down(self, replicas: u32) -> u32 {
        self.of(replicas, |part, whole| part / whole)
    }

    fn of(self, replicas: u32, divide: impl Fn(u64, u64) -> u64) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) => {
                let hundredfold = u64::from(replicas) * u64::from(percent);
                u32::try_from(divide(hundredfold, 100)).unwrap_or(u32::MAX)
            }
        }
    }
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
