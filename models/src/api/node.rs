//! Machines: `v1` Node.
//! Leaves out: resources other than the number of pods, runtime versions, images, volumes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::base::{Labels, ObjectName, OriginId};

/// A machine as the API server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: ObjectName,
    /// Its labels (zone and region among them).
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// The ranges its pods get addresses from, at most one per family; empty if not yet allocated.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of type `InternalIP`, the primary one first.
    pub internal_ips: Vec<IpAddr>,
    /// Addresses of type `ExternalIP`.
    pub external_ips: Vec<IpAddr>,
    /// The address of type `Hostname`.
    pub hostname: Option<Arc<str>>,
    /// What keeps pods away.
    pub taints: Vec<Taint>,
    /// Whether the node is cordoned.
    pub unschedulable: bool,
    /// How many pods it takes, if its status says so.
    pub allocatable_pods: Option<u32>,
    /// The condition `Ready`; `None` if the status does not say.
    pub ready: Option<bool>,
    /// Where it was written.
    pub origin: OriginId,
}

impl Node {
    /// Returns a node of this name, about which nothing else is known.
    pub const fn new(name: ObjectName) -> Self {
        Self {
            name,
            labels: Labels::new(),
            annotations: Labels::new(),
            pod_cidrs: Vec::new(),
            internal_ips: Vec::new(),
            external_ips: Vec::new(),
            hostname: None,
            taints: Vec::new(),
            unschedulable: false,
            allocatable_pods: None,
            ready: None,
            origin: OriginId::NONE,
        }
    }

    /// Returns the zone, by the label `topology.kubernetes.io/zone`.
    pub fn zone(&self) -> Option<&str> {
        self.labels.get("topology.kubernetes.io/zone")
    }
}

/// Keeps pods away from a node unless they tolerate it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taint {
    /// The key.
    pub key: Arc<str>,
    /// The value; empty if none was given.
    pub value: Arc<str>,
    /// What it does to pods.
    pub effect: TaintEffect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaintEffect {
    /// New ones are not put here.
    NoSchedule,
    /// New ones are put here only if there is no other place.
    PreferNoSchedule,
    /// Running ones are removed too.
    NoExecute,
}

impl fmt::Display for TaintEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        })
    }
}
