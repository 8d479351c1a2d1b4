//! What a policy means for two ends of a connection.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::ports::{Connections, PortSet};
use crate::api::{
    ClusterAction, ClusterPeer, ClusterPolicy, ClusterPolicyKind, ClusterPort, ClusterRule,
    IpBlock, NetworkPolicy, Node, Objects, Pod, PodSet, PolicyPeer, PolicyPort, PolicyPorts,
    PolicyRule, PortRef, Tier,
};
use crate::base::addr::nth_addr;
use crate::base::{Labels, Namespace, ObjectKey, ObjectName, Protocol};

/// Which way a new connection goes, seen from the pod that a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both of them, in the order a packet meets them.
    pub const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// One end of a connection, as policies see it: who has this address?
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// The address of this connection.
    pub ip: IpAddr,
    /// Who that is.
    pub who: Who<'a>,
}

/// Who has an address.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// A pod with a network of its own, and the labels of its namespace.
    Pod(&'a Pod, &'a Labels),
    /// A node, or a pod that shares its network.
    Node(&'a Node),
    /// Somebody outside.
    Outside,
}

impl<'a> Party<'a> {
    /// Returns the pod with a network of its own that this is.
    pub const fn pod(&self) -> Option<&'a Pod> {
        match self.who {
            Who::Pod(pod, _) => Some(pod),
            Who::Node(_) | Who::Outside => None,
        }
    }

    /// Whether these are a pod and the node it runs on, whatever address that uses.
    fn own_node(&self, other: &Self) -> bool {
        let pod_and_node = |pod: &Self, node: &Self| match (pod.who, node.who) {
            (Who::Pod(pod, _), Who::Node(node)) => pod.node_name.as_ref() == Some(&node.name),
            _ => false,
        };
        pod_and_node(self, other) || pod_and_node(other, self)
    }

    /// Whether no policy is asked about these two.
    pub fn exempt(&self, other: &Self) -> Option<Exemption> {
        if self.ip == other.ip {
            Some(Exemption::Itself)
        } else if self.own_node(other) {
            Some(Exemption::OwnNode)
        } else {
            None
        }
    }
}

/// Why no policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exemption {
    /// A pod cannot be kept from itself.
    Itself,
    /// A pod and the node it runs on always reach each other.
    OwnNode,
}

impl fmt::Display for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Itself => "a pod always reaches itself",
            Self::OwnNode => "a pod and the node it runs on always reach each other",
        })
    }
}

/// All policies of a cluster, in the order they are asked, and who has which address.
#[derive(Clone, Debug)]
pub struct Policies {
    objects: Arc<Objects>,
    admin: Vec<(ClusterPolicyKind, ObjectName)>,
    baseline: Vec<(ClusterPolicyKind, ObjectName)>,
    network: BTreeMap<Namespace, Vec<ObjectKey>>,
    namespaces: BTreeMap<Namespace, Labels>,
    addresses: BTreeMap<IpAddr, Owner>,
    /// Whether a pod's own node is let through without asking.
    spares_nodes: bool,
}

#[derive(Clone, Debug)]
enum Owner {
    Pod(ObjectKey),
    Node(ObjectName),
}

impl Policies {
    /// Sorts the policies of a cluster.
    pub fn new(objects: Arc<Objects>) -> Self {
        let of = |tier: Tier| {
            let all = objects.cluster_policies.values();
            let mut policies: Vec<&ClusterPolicy> =
                all.filter(|policy| policy.tier == tier).collect();
            policies.sort_by_key(|policy| (policy.priority, &policy.name, policy.kind));
            let keys = policies.into_iter();
            keys.map(|policy| (policy.kind, policy.name.clone()))
                .collect()
        };
        let mut network: BTreeMap<Namespace, Vec<ObjectKey>> = BTreeMap::new();
        for key in objects.network_policies.keys() {
            let own = network.entry(key.namespace.clone()).or_default();
            own.push(key.clone());
        }
        let mut namespaces = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for pod in objects.pods.values().filter(|pod| !pod.ended()) {
            if !namespaces.contains_key(&pod.key.namespace) {
                let labels = objects.namespace_labels(&pod.key.namespace);
                namespaces.insert(pod.key.namespace.clone(), labels);
            }
            if !pod.spec.host_network {
                let ips = pod.pod_ips.iter();
                addresses.extend(ips.map(|ip| (*ip, Owner::Pod(pod.key.clone()))));
            }
        }
        for node in objects.nodes.values() {
            // The first addresses of a pod range are the node's too: the gateway's, the tunnel's.
            let gateways = node.pod_cidrs.iter().flat_map(|range| {
                let first = [0, 1].map(|n| nth_addr(*range, n));
                first.into_iter().flatten()
            });
            let own = node.internal_ips.iter().chain(&node.external_ips);
            for ip in own.copied().chain(gateways) {
                let owner = || Owner::Node(node.name.clone());
                addresses.entry(ip).or_insert_with(owner);
            }
        }
        Self {
            admin: of(Tier::Admin),
            baseline: of(Tier::Baseline),
            network,
            namespaces,
            addresses,
            objects,
            spares_nodes: true,
        }
    }

    /// Returns policies that are also asked about a pod and the node it runs on.
    ///
    /// # Fidelity
    /// NetworkPolicy says that a pod's own node always gets in; plugins that ask their policies break probes (Cilium with
    /// `--allow-localhost=policy`).
    #[must_use]
    pub fn asked_about_nodes(mut self) -> Self {
        self.spares_nodes = false;
        self
    }

    /// Whether no policy is asked about these two.
    pub(super) fn exempt(&self, subject: &Party<'_>, other: &Party<'_>) -> Option<Exemption> {
        subject
            .exempt(other)
            .filter(|why| self.spares_nodes || *why != Exemption::OwnNode)
    }

    /// Returns the objects these policies are from.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Whether there is no policy at all.
    pub fn is_empty(&self) -> bool {
        self.objects.network_policies.is_empty() && self.objects.cluster_policies.is_empty()
    }

    /// Returns the cluster policies of a tier, in the order they are asked.
    pub fn tier(&self, tier: Tier) -> impl Iterator<Item = &ClusterPolicy> {
        let keys = match tier {
            Tier::Admin => &self.admin,
            Tier::Baseline => &self.baseline,
        };
        keys.iter()
            .filter_map(|key| self.objects.cluster_policies.get(key))
    }

    /// Finds out who has an address.
    pub fn party(&self, ip: IpAddr) -> Party<'_> {
        let who = match self.addresses.get(&ip) {
            Some(Owner::Pod(key)) => {
                let labels = self.namespaces.get(&key.namespace);
                let pod = self.objects.pods.get(key);
                pod.zip(labels).map(|(pod, labels)| Who::Pod(pod, labels))
            }
            Some(Owner::Node(name)) => self.objects.nodes.get(name).map(Who::Node),
            None => None,
        };
        Party {
            ip,
            who: who.unwrap_or(Who::Outside),
        }
    }

    /// Returns the network policies of a namespace.
    pub fn of_namespace(&self, namespace: &Namespace) -> impl Iterator<Item = &NetworkPolicy> {
        let keys = self.network.get(namespace).into_iter().flatten();
        keys.filter_map(|key| self.objects.network_policies.get(key))
    }

    /// Returns the network policies that isolate a pod in a direction.
    pub fn isolating(&self, direction: Direction, pod: &Pod) -> Vec<&NetworkPolicy> {
        self.of_namespace(&pod.key.namespace)
            .filter(|policy| {
                isolates(policy, direction) && policy.pod_selector.matches(&pod.labels)
            })
            .collect()
    }

    /// Returns what may pass between two ends as far as policies about `subject` say.
    pub fn connections(
        &self,
        direction: Direction,
        subject: &Party<'_>,
        other: &Party<'_>,
    ) -> Connections {
        let Who::Pod(pod, labels) = subject.who else {
            return Connections::all();
        };
        if self.exempt(subject, other).is_some() {
            return Connections::all();
        }
        let destination = match direction {
            Direction::Ingress => subject,
            Direction::Egress => other,
        };
        let mut allowed = Connections::NONE;
        let admin = about(self.tier(Tier::Admin), pod, labels);
        let mut open = tier(direction, admin, other, destination, &mut allowed);
        let isolating = self.isolating(direction, pod);
        if isolating.is_empty() {
            let baseline = about(self.tier(Tier::Baseline), pod, labels);
            let mut accepted = Connections::NONE;
            let rest = tier(direction, baseline, other, destination, &mut accepted);
            open = open.intersection(&accepted.union(&rest));
        } else {
            let mut admitted = Connections::NONE;
            for policy in isolating {
                for rule in rules(policy, direction) {
                    if let Some(some) = rule_allows(policy, rule, other, destination) {
                        admitted = admitted.union(&some);
                    }
                }
            }
            open = open.intersection(&admitted);
        }
        allowed.union(&open)
    }

    /// Returns what may pass from one end to another: what both ends allow.
    pub fn between(&self, source: &Party<'_>, destination: &Party<'_>) -> Connections {
        let out = self.connections(Direction::Egress, source, destination);
        let into = self.connections(Direction::Ingress, destination, source);
        out.intersection(&into)
    }
}

/// Returns those of some cluster policies that are about a pod.
pub fn about<'p, 'a: 'p>(
    policies: impl Iterator<Item = &'a ClusterPolicy> + 'p,
    pod: &'p Pod,
    namespace: &'p Labels,
) -> impl Iterator<Item = &'a ClusterPolicy> + 'p {
    policies.filter(move |policy| selects(&policy.subject, pod, namespace))
}

/// Asks the policies of one tier. Adds what they accept to `allowed`, and returns what they leave open.
fn tier<'a>(
    direction: Direction,
    policies: impl Iterator<Item = &'a ClusterPolicy>,
    other: &Party<'_>,
    destination: &Party<'_>,
    allowed: &mut Connections,
) -> Connections {
    let mut rest = Connections::all();
    let mut passed = Connections::NONE;
    for policy in policies {
        for rule in cluster_rules(policy, direction) {
            let Some(meant) = cluster_rule_speaks_of(rule, other, destination) else {
                continue;
            };
            let decided = rest.intersection(&meant);
            match effect(rule, other) {
                ClusterAction::Accept => *allowed = allowed.union(&decided),
                ClusterAction::Deny => {}
                ClusterAction::Pass => passed = passed.union(&decided),
            }
            rest = rest.difference(&decided);
        }
    }
    rest.union(&passed)
}

/// Whether a policy isolates the pods it selects in this direction.
pub const fn isolates(policy: &NetworkPolicy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.policy_types.ingress,
        Direction::Egress => policy.policy_types.egress,
    }
}

/// Returns the rules of a policy for a direction.
pub fn rules(policy: &NetworkPolicy, direction: Direction) -> &[PolicyRule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// Returns the rules of a cluster policy for a direction.
pub fn cluster_rules(policy: &ClusterPolicy, direction: Direction) -> &[ClusterRule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// Whether a set of pods has this one in it. The pod has a network of its own.
pub fn selects(set: &PodSet, pod: &Pod, namespace: &Labels) -> bool {
    set.namespaces.matches(namespace) && set.pods.matches(&pod.labels)
}

/// Returns what a rule of a network policy allows between its pods and another end; `None` if that is no peer.
pub fn rule_allows(
    policy: &NetworkPolicy,
    rule: &PolicyRule,
    other: &Party<'_>,
    destination: &Party<'_>,
) -> Option<Connections> {
    let is_peer = rule.peers.is_empty()
        || rule
            .peers
            .iter()
            .any(|peer| peer_matches(policy, peer, other));
    is_peer.then(|| rule_ports(&rule.ports, destination.pod()))
}

/// Whether an end is a peer of a rule.
pub fn peer_matches(policy: &NetworkPolicy, peer: &PolicyPeer, other: &Party<'_>) -> bool {
    match (peer, other.who) {
        (PolicyPeer::IpBlock(block), _) => block_contains(block, other.ip),
        (
            PolicyPeer::Pods {
                namespaces, pods, ..
            },
            Who::Pod(pod, labels),
        ) => {
            let space = match namespaces {
                Some(selector) => selector.matches(labels),
                None => pod.key.namespace == policy.key.namespace,
            };
            space
                && pods
                    .as_ref()
                    .is_none_or(|selector| selector.matches(&pod.labels))
        }
        (PolicyPeer::Pods { .. }, Who::Node(_) | Who::Outside) => false,
    }
}

/// Whether an address is in a block and in none of its holes.
pub fn block_contains(block: &IpBlock, ip: IpAddr) -> bool {
    block.cidr.contains(&ip) && !block.except.iter().any(|hole| hole.contains(&ip))
}

/// Returns the ports of a rule of a network policy, as names stand for them on the destination.
pub fn rule_ports(ports: &[PolicyPort], destination: Option<&Pod>) -> Connections {
    if ports.is_empty() {
        return Connections::all();
    }
    let one = |port: &PolicyPort| {
        let set = match &port.ports {
            PolicyPorts::All => PortSet::all(),
            PolicyPorts::One(PortRef::Number(number)) => PortSet::range(*number, *number),
            PolicyPorts::Range(first, last) => PortSet::range(*first, *last),
            PolicyPorts::One(PortRef::Name(name)) => named(destination, name)
                .filter(|(protocol, _)| *protocol == port.protocol)
                .map(|(_, number)| PortSet::range(number, number))
                .fold(PortSet::NONE, |all, one| all.union(&one)),
        };
        Connections::of(port.protocol, set)
    };
    ports
        .iter()
        .map(one)
        .fold(Connections::NONE, |all, some| all.union(&some))
}

/// Returns the ports that a pod's containers give a name.
fn named<'p>(
    pod: Option<&'p Pod>,
    name: &'p Arc<str>,
) -> impl Iterator<Item = (Protocol, u16)> + 'p {
    pod.into_iter()
        .flat_map(|pod| pod.spec.ports())
        .filter(move |port| port.name.as_ref() == Some(name))
        .map(|port| (port.protocol, port.container_port))
}

/// Returns the traffic a rule of a cluster policy speaks of; `None` if the other end is no peer of it.
pub fn cluster_rule_speaks_of(
    rule: &ClusterRule,
    other: &Party<'_>,
    destination: &Party<'_>,
) -> Option<Connections> {
    if rule
        .peers
        .iter()
        .any(|peer| cluster_peer_matches(peer, other))
    {
        return Some(cluster_ports(rule, destination.pod()));
    }
    // A rule that is understood in part must not let through what it may have been meant to stop.
    let unknown = rule.peers.iter().any(is_unknown);
    match rule.action {
        ClusterAction::Accept => None,
        ClusterAction::Deny | ClusterAction::Pass => unknown.then(Connections::all),
    }
}

const fn is_unknown(peer: &ClusterPeer) -> bool {
    match peer {
        ClusterPeer::Unknown | ClusterPeer::DomainNames(_) => true,
        ClusterPeer::Pods(_) | ClusterPeer::Nodes(_) | ClusterPeer::Networks(_) => false,
    }
}

/// Returns what a rule that speaks of a connection to this end does: what it says, unless it had to be taken as
/// "deny all" because a peer is unknown.
pub fn effect(rule: &ClusterRule, other: &Party<'_>) -> ClusterAction {
    let known = rule
        .peers
        .iter()
        .any(|peer| cluster_peer_matches(peer, other));
    match rule.action {
        ClusterAction::Pass if !known => ClusterAction::Deny,
        ClusterAction::Accept | ClusterAction::Deny | ClusterAction::Pass => rule.action,
    }
}

/// Whether an end is a peer of a rule of a cluster policy.
pub fn cluster_peer_matches(peer: &ClusterPeer, other: &Party<'_>) -> bool {
    match (peer, other.who) {
        (ClusterPeer::Pods(set), Who::Pod(pod, labels)) => selects(set, pod, labels),
        (ClusterPeer::Nodes(selector), Who::Node(node)) => selector.matches(&node.labels),
        (ClusterPeer::Networks(nets), _) => nets.iter().any(|net| net.contains(&other.ip)),
        (ClusterPeer::Pods(_), Who::Node(_) | Who::Outside)
        | (ClusterPeer::Nodes(_), Who::Pod(..) | Who::Outside)
        | (ClusterPeer::DomainNames(_) | ClusterPeer::Unknown, _) => false,
    }
}

/// Returns the ports of a rule of a cluster policy, as names stand for them on the destination.
pub fn cluster_ports(rule: &ClusterRule, destination: Option<&Pod>) -> Connections {
    let Some(ports) = &rule.ports else {
        return Connections::all();
    };
    let mut all = Connections::NONE;
    for port in ports {
        match port {
            ClusterPort::Range(protocol, first, last) => {
                all = all.union(&Connections::of(*protocol, PortSet::range(*first, *last)));
            }
            ClusterPort::All(protocol) => {
                all = all.union(&Connections::of(*protocol, PortSet::all()));
            }
            ClusterPort::Named(name) => {
                for (protocol, number) in named(destination, name) {
                    let port = PortSet::range(number, number);
                    all = all.union(&Connections::of(protocol, port));
                }
            }
        }
    }
    all
}
