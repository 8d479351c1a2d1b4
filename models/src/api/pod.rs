//! Pods: `v1` Pod.
//! Leaves out: volumes, resources, security contexts, startup and liveness probes, affinity.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::node::{Taint, TaintEffect};
use super::probe::Probe;
use crate::base::{Labels, ObjectKey, ObjectName, OriginId, Protocol};

/// One pod: what was asked for, and what its status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its unique id, if the input carries one.
    pub uid: Option<Arc<str>>,
    /// Its labels: what selectors look at.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// Who made it.
    pub owner: Option<OwnerRef>,
    /// The node it is bound to.
    pub node_name: Option<ObjectName>,
    /// `spec.hostname`.
    pub hostname: Option<Arc<str>>,
    /// The rest of its spec, shared by all pods of one template.
    pub spec: Arc<PodSpec>,
    /// The condition `Ready` of its status; `None` if the status does not say.
    pub ready: Option<bool>,
    /// Its addresses, one per family, the primary one first; empty if it has none yet.
    pub pod_ips: Vec<IpAddr>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it has been deleted and is in its grace period.
    pub deleting: bool,
    /// Where it was written.
    pub origin: OriginId,
}

impl Pod {
    /// Whether another state of the pod is the same to policy agents, who look neither at its readiness nor at its deletion.
    pub fn same_to_policies(&self, other: &Self) -> bool {
        let Self {
            key,
            uid,
            labels,
            annotations,
            owner,
            node_name,
            hostname,
            spec,
            ready: _,
            pod_ips,
            phase,
            deleting: _,
            origin,
        } = self;
        (key, labels, node_name, pod_ips)
            == (&other.key, &other.labels, &other.node_name, &other.pod_ips)
            && (uid, annotations, owner) == (&other.uid, &other.annotations, &other.owner)
            && (hostname, phase, origin) == (&other.hostname, &other.phase, &other.origin)
            && spec == &other.spec
    }

    /// Returns a pod that is not yet bound and has no status.
    pub fn new(key: ObjectKey, spec: Arc<PodSpec>) -> Self {
        Self {
            key,
            uid: None,
            labels: Labels::default(),
            annotations: Labels::default(),
            owner: None,
            node_name: None,
            hostname: None,
            spec,
            ready: None,
            pod_ips: Vec::new(),
            phase: Phase::Pending,
            deleting: false,
            origin: OriginId::NONE,
        }
    }

    /// Whether it has ended, and so has no network any more.
    pub const fn ended(&self) -> bool {
        match self.phase {
            Phase::Succeeded | Phase::Failed => true,
            Phase::Pending | Phase::Running | Phase::Unknown => false,
        }
    }

    /// Returns what the pod calls itself: `spec.hostname`, else its name.
    pub fn hostname(&self) -> &str {
        self.hostname
            .as_deref()
            .unwrap_or_else(|| self.key.name.as_str())
    }

    /// Returns the container port of this name and protocol (a Service's named `targetPort`).
    pub fn port_named(&self, name: &str, protocol: Protocol) -> Option<&ContainerPort> {
        self.spec
            .ports()
            .find(|port| port.name.as_deref() == Some(name) && port.protocol == protocol)
    }
}

/// Names the controller that made an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerRef {
    /// Its kind.
    pub kind: Arc<str>,
    /// Its name, in the same namespace.
    pub name: ObjectName,
}

/// Where a pod is in its life (`status.phase`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Accepted, not yet running; also if there is no status.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one of them badly.
    Failed,
    /// The node cannot be asked.
    Unknown,
}

/// What a pod is made of, equal for all pods of one template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// Containers that run beside each other, in one network namespace.
    pub containers: Vec<Container>,
    /// Containers that ran before, or (with `restartPolicy: Always`) run as sidecars.
    pub init_containers: Vec<Container>,
    /// Whether it lives in the node's network namespace.
    pub host_network: bool,
    /// The headless Service that gives it a DNS name of its own.
    pub subdomain: Option<Arc<str>>,
    /// Whether the kernel's host name is the full DNS name.
    pub set_hostname_as_fqdn: bool,
    /// How its `resolv.conf` is made.
    pub dns_policy: DnsPolicy,
    /// What is added to its `resolv.conf`.
    pub dns_config: Option<DnsConfig>,
    /// Lines added to its `/etc/hosts`: an address and its names.
    pub host_aliases: Vec<(IpAddr, Vec<Arc<str>>)>,
    /// Labels its node must have.
    pub node_selector: Labels,
    /// Taints it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Settings of its network namespace (`securityContext.sysctls`): name, with dots, and value.
    pub sysctls: Vec<(Arc<str>, Arc<str>)>,
    /// What happens when a container ends.
    pub restart_policy: RestartPolicy,
    /// Seconds between SIGTERM and SIGKILL.
    pub termination_grace_period_seconds: Option<u32>,
}

impl PodSpec {
    /// Returns the containers that run while the pod runs: sidecars, then the containers.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.init_containers
            .iter()
            .filter(|container| container.sidecar)
            .chain(&self.containers)
    }

    /// Returns the declared ports of the containers that run.
    pub fn ports(&self) -> impl Iterator<Item = &ContainerPort> {
        self.running().flat_map(|container| &container.ports)
    }
}

/// One container.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: Arc<str>,
    /// Its image, for people to read.
    pub image: Arc<str>,
    /// Ports it says it listens on.
    pub ports: Vec<ContainerPort>,
    /// Its command, for people to read.
    pub command: Vec<Arc<str>>,
    /// Its arguments, for people to read.
    pub args: Vec<Arc<str>>,
    /// Its environment, plain values only (they often name the Services it talks to).
    pub env: Vec<(Arc<str>, Arc<str>)>,
    /// Whether it is an init container that keeps running (`restartPolicy: Always`).
    pub sidecar: bool,
    /// What the kubelet asks before it calls the container ready.
    pub readiness: Option<Probe>,
    /// How long its `preStop` hook takes, in seconds, if it only sleeps.
    pub pre_stop_seconds: Option<u32>,
    /// Where it was written.
    pub origin: OriginId,
}

impl fmt::Debug for Container {
    /// As derived, without what is not there: the names of a Deployment's pods are a hash of this text, and those of
    /// templates without probes and hooks are to stay as they were before there were any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Container");
        debug
            .field("name", &self.name)
            .field("image", &self.image)
            .field("ports", &self.ports)
            .field("command", &self.command)
            .field("args", &self.args)
            .field("env", &self.env)
            .field("sidecar", &self.sidecar);
        if let Some(probe) = &self.readiness {
            debug.field("readiness", probe);
        }
        if let Some(seconds) = &self.pre_stop_seconds {
            debug.field("pre_stop_seconds", seconds);
        }
        debug.field("origin", &self.origin).finish()
    }
}

/// A port a container says it listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// The name a Service's `targetPort` may use.
    pub name: Option<Arc<str>>,
    /// The port inside the pod.
    pub container_port: u16,
    /// The port on the node, if asked for.
    pub host_port: Option<u16>,
    /// The node's address for `host_port`; all of them if `None`.
    pub host_ip: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// Where it was written.
    pub origin: OriginId,
}

/// How a pod's `resolv.conf` is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DnsPolicy {
    /// The cluster's DNS; with `hostNetwork` the node's.
    #[default]
    ClusterFirst,
    /// The cluster's DNS, with `hostNetwork` too.
    ClusterFirstWithHostNet,
    /// The node's `resolv.conf`.
    Default,
    /// Only what `dnsConfig` says.
    None,
}

/// What is added to a pod's `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Servers.
    pub nameservers: Vec<IpAddr>,
    /// Search domains.
    pub searches: Vec<Arc<str>>,
    /// Options, with or without a value (`ndots` `5`).
    pub options: Vec<(Arc<str>, Option<Arc<str>>)>,
}

/// What happens when a container ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RestartPolicy {
    /// It starts again.
    #[default]
    Always,
    /// It starts again if it failed.
    OnFailure,
    /// Nothing.
    Never,
}

/// Lets a pod onto tainted nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toleration {
    /// The taint's key; every key if `None`.
    pub key: Option<Arc<str>>,
    /// The taint's value; every value if `None` (operator `Exists`).
    pub value: Option<Arc<str>>,
    /// The taint's effect; every effect if `None`.
    pub effect: Option<TaintEffect>,
    /// How long a `NoExecute` taint is tolerated; for ever if `None`.
    pub seconds: Option<i64>,
}

impl Toleration {
    /// Whether this tolerates the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}
