//! Which node a pod gets (`kube-scheduler`), made deterministic: the fitting node with the fewest pods, then the
//! first by name.
//!
//! # Fidelity
//! Filters nodeName, nodeSelector, taints, unschedulable nodes, the number of pods and host ports. Leaves out affinity,
//! topology spread constraints and resources; the real scheduler scores by more and breaks ties at random.

use std::collections::{BTreeMap, BTreeSet};
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

/// What all nodes have, and who has least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    of: BTreeMap<ObjectName, Load>,
    /// All nodes, those with the fewest pods first.
    order: BTreeSet<(u32, ObjectName)>,
}

impl Loads {
    /// Returns what nodes have of the given pods.
    pub fn new<'a>(
        nodes: &BTreeMap<ObjectName, Node>,
        pods: impl IntoIterator<Item = &'a Pod>,
    ) -> Self {
        let mut loads = Self::default();
        for name in nodes.keys() {
            loads.of.insert(name.clone(), Load::default());
            loads.order.insert((0, name.clone()));
        }
        for pod in pods {
            if let Some(node) = pod.node_name.as_ref().filter(|_| !pod.ended()) {
                loads.add(node, pod);
            }
        }
        loads
    }

    /// A node has one more pod.
    pub fn add(&mut self, node: &ObjectName, pod: &Pod) {
        let Some(load) = self.of.get_mut(node) else {
            return;
        };
        self.order.remove(&(load.pods, node.clone()));
        load.pods += 1;
        load.ports.extend(host_ports(pod));
        self.order.insert((load.pods, node.clone()));
    }

    /// A node has one pod less, one that it had.
    pub fn remove(&mut self, node: &ObjectName, pod: &Pod) {
        let Some(load) = self.of.get_mut(node) else {
            return;
        };
        self.order.remove(&(load.pods, node.clone()));
        load.pods = load.pods.saturating_sub(1);
        for port in host_ports(pod) {
            if let Some(place) = load.ports.iter().position(|one| *one == port) {
                load.ports.remove(place);
            }
        }
        self.order.insert((load.pods, node.clone()));
    }
}

/// Returns the node for a pod, given what each node has.
///
/// # Errors
/// Why no node takes it: the reason of the last node that refused.
pub fn place(
    pod: &Pod,
    nodes: &BTreeMap<ObjectName, Node>,
    loads: &Loads,
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
    let wanted: Vec<HostPort> = host_ports(pod).collect();
    let refuses = |name: &ObjectName, node: &Node| {
        fits(pod, node, false)?;
        let load = loads.of.get(name);
        let ports = load.map_or(&[][..], |load| &load.ports);
        if wanted
            .iter()
            .any(|wanted| ports.iter().any(|port| port.conflicts(*wanted)))
        {
            return Err(Unfit::HostPorts);
        }
        let pods = load.map_or(0, |load| load.pods);
        if pods < node.allocatable_pods.unwrap_or(MAX_PODS) {
            Ok(())
        } else {
            Err(Unfit::TooManyPods)
        }
    };
    let with_fewest = loads.order.iter().map(|(_, name)| name);
    let mut known = with_fewest.filter_map(|name| Some((name, nodes.get(name)?)));
    if let Some((name, _)) = known.find(|(name, node)| refuses(name, node).is_ok()) {
        return Ok(name.clone());
    }
    let mut refusals = nodes
        .iter()
        .filter_map(|(name, node)| refuses(name, node).err());
    Err(refusals.next_back().unwrap_or(Unfit::NoNodes))
}
