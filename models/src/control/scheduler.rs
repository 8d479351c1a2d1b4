//! Which node a pod gets (`kube-scheduler`), made deterministic: the fitting node with the fewest pods, then the
//! first by name.
//!
//! # Fidelity
//! Filters nodeName, nodeSelector, taints, unschedulable nodes, the number of pods and host ports. Leaves out affinity,
//! topology spread constraints and resources; the real scheduler scores by more and breaks ties at random.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::api::{Node, Pod, Taint, TaintEffect};
use crate::base::{ObjectName, Protocol};

/// Pods a node takes if it does not say otherwise (kubelet `maxPods`).
pub const MAX_PODS: u32 = 110;

/// Why a pod does not fit a node, or has none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// `nodeName` names a node that does not exist.
    #[error("node \"{0}\" does not exist")]
    NoSuchNode(ObjectName),
    /// The labels are not there.
    #[error("node(s) didn't match Pod's node affinity/selector")]
    Selector,
    /// A taint is not tolerated.
    #[error("node(s) had untolerated taint {{{0}}}")]
    Taint(String),
    /// Cordoned.
    #[error("node(s) were unschedulable")]
    Unschedulable,
    /// Full.
    #[error("Too many pods")]
    TooManyPods,
    /// Another pod of the node has the port of the node.
    #[error("node(s) didn't have free ports for the requested pod ports")]
    HostPorts,
    /// There is no node at all.
    #[error("no nodes available to schedule pods")]
    NoNodes,
}

/// Returns whether a pod may run on a node; a `daemon` also where the node is cordoned.
///
/// # Errors
/// The first reason against it.
pub fn fits(pod: &Pod, node: &Node, daemon: bool) -> Result<(), Unfit> {
    let selected = |(key, value): (&str, &str)| {
        node.labels.get(key) == Some(value)
            || (key == "kubernetes.io/hostname" && node.name.as_str() == value)
            || (key == "kubernetes.io/os" && value == "linux" && node.labels.get(key).is_none())
    };
    if !pod.spec.node_selector.iter().all(selected) {
        return Err(Unfit::Selector);
    }
    let bars = |taint: &&Taint| match taint.effect {
        TaintEffect::NoSchedule | TaintEffect::NoExecute => {
            !pod.spec.tolerations.iter().any(|t| t.tolerates(taint))
        }
        TaintEffect::PreferNoSchedule => false,
    };
    if let Some(taint) = node.taints.iter().find(bars) {
        return Err(Unfit::Taint(format!("{}: {}", taint.key, taint.value)));
    }
    if node.unschedulable && !daemon {
        return Err(Unfit::Unschedulable);
    }
    Ok(())
}

/// What a node has already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// How many pods.
    pub pods: u32,
    /// Which ports of the node they use.
    pub ports: Vec<HostPort>,
}

/// A port of a node that a pod wants for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// The node's address; all of them if `None`.
    pub ip: Option<IpAddr>,
}

impl HostPort {
    fn conflicts(self, other: Self) -> bool {
        let specific = |ip: Option<IpAddr>| ip.filter(|ip| !ip.is_unspecified());
        let (one, two) = (specific(self.ip), specific(other.ip));
        let ips = one.is_none() || two.is_none() || one == two;
        self.protocol == other.protocol && self.port == other.port && ips
    }
}

/// Returns the ports of its node that a pod wants; on the host's network a container's port is one.
pub fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort> {
    let on_host = pod.spec.host_network;
    pod.spec.ports().filter_map(move |port| {
        let on_host = on_host.then_some(port.container_port);
        let wanted = port.host_port.or(on_host);
        Some(HostPort {
            protocol: port.protocol,
            port: wanted?,
            ip: port.host_ip,
        })
    })
}

/// Returns the node for a pod, given what each node has.
///
/// # Errors
/// Why no node takes it: the reason of the last node that refused.
pub fn place(
    pod: &Pod,
    nodes: &BTreeMap<ObjectName, Node>,
    load: &BTreeMap<ObjectName, Load>,
) -> Result<ObjectName, Unfit> {
    if let Some(name) = &pod.node_name {
        // A node name set by hand goes around the scheduler.
        let exists = nodes.contains_key(name);
        return if exists {
            Ok(name.clone())
        } else {
            Err(Unfit::NoSuchNode(name.clone()))
        };
    }
    let of = |name: &ObjectName| load.get(name).map_or(0, |load| load.pods);
    let taken = |name: &ObjectName| {
        let ports = load.get(name).map_or(&[][..], |load| &load.ports);
        host_ports(pod).any(|wanted| ports.iter().any(|port| port.conflicts(wanted)))
    };
    let mut refusal = Unfit::NoNodes;
    let mut best: Option<(u32, &ObjectName)> = None;
    for (name, node) in nodes {
        let room = of(name) < node.allocatable_pods.unwrap_or(MAX_PODS);
        match fits(pod, node, false) {
            Ok(()) if taken(name) => refusal = Unfit::HostPorts,
            Ok(()) if room => {
                let candidate = (of(name), name);
                best = Some(best.map_or(candidate, |b| b.min(candidate)));
            }
            Ok(()) => refusal = Unfit::TooManyPods,
            Err(why) => refusal = why,
        }
    }
    best.map(|(_, name)| name.clone()).ok_or(refusal)
}
