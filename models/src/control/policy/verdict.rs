//! One connection, explained: which policies were asked, which rule decided, and what was nearly enough.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::meaning::{
    Direction, Exemption, Party, Policies, Who, about, block_contains, cluster_rule_speaks_of,
    cluster_rules, effect, peer_matches, rule_ports, rules,
};
use super::ports::Flow;
use crate::api::{ClusterAction, ClusterPolicy, NetworkPolicy, PolicyPeer, PolicyRule, Tier};
use crate::base::label::Requirement;
use crate::base::{Labels, Namespace, OriginId, Selector};

/// What becomes of one new connection.
#[derive(Clone, Debug)]
pub struct Verdict<'a> {
    /// What leaves the source.
    pub egress: Side<'a>,
    /// What comes to the destination.
    pub ingress: Side<'a>,
}

impl<'a> Verdict<'a> {
    /// Whether both ends let it pass.
    pub const fn allowed(&self) -> bool {
        self.egress.outcome.allows() && self.ingress.outcome.allows()
    }

    /// Returns the side that stops it, the source first.
    pub const fn denied_by(&self) -> Option<&Side<'a>> {
        if !self.egress.outcome.allows() {
            Some(&self.egress)
        } else if !self.ingress.outcome.allows() {
            Some(&self.ingress)
        } else {
            None
        }
    }
}

/// What the policies about one end say.
#[derive(Clone, Debug)]
pub struct Side<'a> {
    /// Which end.
    pub direction: Direction,
    /// What was decided.
    pub outcome: Outcome<'a>,
    /// The cluster policies that are about this end, in the order they were asked, and what each said.
    pub asked: Vec<Asked<'a>>,
    /// The network policies that isolate this end.
    pub isolating: Vec<&'a NetworkPolicy>,
}

/// A cluster policy that was asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The policy.
    pub policy: &'a ClusterPolicy,
    /// The first of its rules that speaks of the connection, from 0, and what it does; `None` if none does.
    pub rule: Option<(usize, ClusterAction)>,
}

/// What was decided at one end.
#[derive(Clone, Debug)]
pub enum Outcome<'a> {
    /// Allowed: this end is a node or somebody outside, and no policy is about those.
    NoSubject,
    /// Allowed: no policy is asked about these two.
    Exempt(Exemption),
    /// Decided by a rule of a cluster policy.
    Cluster(&'a ClusterPolicy, usize, ClusterAction),
    /// Allowed by a rule of a network policy.
    Network(&'a NetworkPolicy, usize),
    /// Denied: network policies isolate this end, and no rule of theirs allows it.
    Isolated(Option<NearMiss<'a>>),
    /// Allowed: nobody isolates this end.
    Open,
}

impl Outcome<'_> {
    /// Whether it is allowed.
    pub const fn allows(&self) -> bool {
        match self {
            Self::NoSubject | Self::Exempt(_) | Self::Network(..) | Self::Open => true,
            Self::Cluster(_, _, action) => matches!(action, ClusterAction::Accept),
            Self::Isolated(_) => false,
        }
    }
}

/// The rule that would have allowed it with the least change.
#[derive(Clone, Debug)]
pub struct NearMiss<'a> {
    /// The policy.
    pub policy: &'a NetworkPolicy,
    /// The number of the rule, from 0.
    pub rule: usize,
    /// Where it was written: the peer if one was near, else the rule.
    pub origin: OriginId,
    /// What is missing: all of it.
    pub lacks: Vec<Lack>,
}

/// Something that a connection lacks to be allowed by a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The other pod's labels; with the value it has instead, if it has one.
    PodLabel(Requirement, Option<Arc<str>>),
    /// The labels of the other pod's namespace; with the value it has instead, if it has one.
    NamespaceLabel(Requirement, Option<Arc<str>>),
    /// The other pod would have to be in this namespace.
    Namespace(Namespace),
    /// The other end would have to be a pod with a network of its own.
    Pod,
    /// The other end's address would have to be in this block.
    Block(String),
    /// The port would have to be one of these.
    Port(String),
}

impl Lack {
    /// How far away it is: labels are changed easily, an address hardly. A rule that names the other end on another port
    /// is nearer than one for somebody else.
    fn weight(&self) -> u32 {
        match self {
            Self::Port(_) => 1,
            Self::PodLabel(wanted, found) if misspelt(wanted, found.as_deref()) => 2,
            Self::NamespaceLabel(wanted, found) if misspelt(wanted, found.as_deref()) => 3,
            Self::PodLabel(..) => 4,
            Self::NamespaceLabel(..) => 6,
            Self::Namespace(_) => 8,
            Self::Block(_) => 16,
            Self::Pod => 32,
        }
    }
}

impl fmt::Display for Lack {
    /// Continues "… if the other end": `had label tier=frontend`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodLabel(requirement, found) => {
                write!(f, "{}", Had(requirement, found.as_deref()))
            }
            Self::NamespaceLabel(requirement, found) => {
                let had = Had(requirement, found.as_deref());
                write!(f, "were in a namespace that {had}")
            }
            Self::Namespace(namespace) => write!(f, "were in namespace {namespace}"),
            Self::Pod => f.write_str("were a pod with a network of its own"),
            Self::Block(block) => write!(f, "had an address in {block}"),
            Self::Port(ports) if ports.is_empty() => {
                f.write_str("were reached on a port of that name")
            }
            Self::Port(ports) => write!(f, "were reached on {ports}"),
        }
    }
}

struct Had<'r>(&'r Requirement, Option<&'r str>);

impl fmt::Display for Had<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.0.key();
        match self.0 {
            Requirement::Is(_, value) => write!(f, "had label {key}={value}")?,
            Requirement::Other(expression) => write!(f, "had labels such that {expression}")?,
        }
        match self.1 {
            Some(found) => write!(f, " (it has {key}={found})"),
            None => Ok(()),
        }
    }
}

/// Whether a label's value differs so little from the one that is asked for that one of the two may be a mistake.
fn misspelt(wanted: &Requirement, found: Option<&str>) -> bool {
    let (Requirement::Is(_, wanted), Some(found)) = (wanted, found) else {
        return false;
    };
    if wanted.contains(found) || found.contains(&**wanted) {
        return true;
    }
    let alike =
        |pairs: &mut dyn Iterator<Item = (u8, u8)>| pairs.take_while(|(a, b)| a == b).count();
    let start = alike(&mut wanted.bytes().zip(found.bytes()));
    let end = alike(&mut wanted.bytes().rev().zip(found.bytes().rev()));
    start + end + 2 >= wanted.len().max(found.len())
}

/// Returns the requirements of a selector that do not hold, each with the value there is instead.
fn failed<'l>(
    selector: &'l Selector,
    labels: &'l Labels,
) -> impl Iterator<Item = (Requirement, Option<Arc<str>>)> + 'l {
    selector.failed(labels).map(|requirement| {
        let found = labels.shared(requirement.key()).cloned();
        (requirement, found)
    })
}

impl Policies {
    /// Decides about one new connection.
    pub fn verdict(&self, source: &Party<'_>, destination: &Party<'_>, flow: Flow) -> Verdict<'_> {
        Verdict {
            egress: self.side(Direction::Egress, source, destination, flow),
            ingress: self.side(Direction::Ingress, destination, source, flow),
        }
    }

    /// Decides at one end.
    pub fn side(
        &self,
        direction: Direction,
        subject: &Party<'_>,
        other: &Party<'_>,
        flow: Flow,
    ) -> Side<'_> {
        self.side_unless(self.exempt(subject, other), direction, subject, other, flow)
    }

    /// Decides at one end, unless the two are exempt.
    pub(super) fn side_unless(
        &self,
        exemption: Option<Exemption>,
        direction: Direction,
        subject: &Party<'_>,
        other: &Party<'_>,
        flow: Flow,
    ) -> Side<'_> {
        let mut side = Side {
            direction,
            outcome: Outcome::Open,
            asked: Vec::new(),
            isolating: Vec::new(),
        };
        let Who::Pod(pod, labels) = subject.who else {
            side.outcome = Outcome::NoSubject;
            return side;
        };
        if let Some(exemption) = exemption {
            side.outcome = Outcome::Exempt(exemption);
            return side;
        }
        let ends = Ends {
            direction,
            other,
            destination: match direction {
                Direction::Ingress => subject,
                Direction::Egress => other,
            },
            flow,
        };
        if let Some(outcome) = ends.ask(about(self.tier(Tier::Admin), pod, labels), &mut side.asked)
        {
            side.outcome = outcome;
            return side;
        }
        side.isolating = self.isolating(direction, pod);
        if !side.isolating.is_empty() {
            side.outcome = ends.network(&side.isolating);
        } else if let Some(outcome) = ends.ask(
            about(self.tier(Tier::Baseline), pod, labels),
            &mut side.asked,
        ) {
            side.outcome = outcome;
        }
        side
    }
}

struct Ends<'p> {
    direction: Direction,
    other: &'p Party<'p>,
    destination: &'p Party<'p>,
    flow: Flow,
}

impl Ends<'_> {
    /// Asks the policies of one tier, until one decides.
    fn ask<'a>(
        &self,
        policies: impl Iterator<Item = &'a ClusterPolicy>,
        asked: &mut Vec<Asked<'a>>,
    ) -> Option<Outcome<'a>> {
        for policy in policies {
            let rules = cluster_rules(policy, self.direction).iter().enumerate();
            let speaks = |(number, rule)| {
                let meant = cluster_rule_speaks_of(rule, self.other, self.destination)?;
                let effect = effect(rule, self.other);
                meant.contains(self.flow).then_some((number, effect))
            };
            let rule = rules.into_iter().find_map(speaks);
            asked.push(Asked { policy, rule });
            match rule {
                Some((_, ClusterAction::Pass)) => return None,
                Some((number, action)) => return Some(Outcome::Cluster(policy, number, action)),
                None => {}
            }
        }
        None
    }

    /// Asks the network policies that isolate this end.
    fn network<'a>(&self, isolating: &[&'a NetworkPolicy]) -> Outcome<'a> {
        let mut nearest: Option<(u32, NearMiss<'a>)> = None;
        for &policy in isolating {
            for (number, rule) in rules(policy, self.direction).iter().enumerate() {
                let (origin, lacks) = self.lacks(policy, rule);
                if lacks.is_empty() {
                    return Outcome::Network(policy, number);
                }
                let distance = lacks.iter().map(Lack::weight).sum();
                if nearest.as_ref().is_none_or(|(best, _)| distance < *best) {
                    let miss = NearMiss {
                        policy,
                        rule: number,
                        origin,
                        lacks,
                    };
                    nearest = Some((distance, miss));
                }
            }
        }
        Outcome::Isolated(nearest.map(|(_, miss)| miss))
    }

    /// Returns what the connection lacks to be allowed by a rule: nothing if it is allowed.
    fn lacks(&self, policy: &NetworkPolicy, rule: &PolicyRule) -> (OriginId, Vec<Lack>) {
        let peers = rule.peers.iter();
        let nearest = peers
            .map(|peer| self.peer_lacks(policy, peer))
            .min_by_key(|(_, lacks)| lacks.iter().map(Lack::weight).sum::<u32>());
        let (origin, mut lacks) = nearest.unwrap_or((rule.origin, Vec::new()));
        let ports = rule_ports(&rule.ports, self.destination.pod());
        if !ports.contains(self.flow) {
            let named = !ports.has_ports() && !rule.ports.is_empty();
            lacks.push(Lack::Port(if named {
                String::new()
            } else {
                ports.to_string()
            }));
        }
        let origin = if lacks.is_empty() {
            rule.origin
        } else {
            origin
        };
        (origin, lacks)
    }

    fn peer_lacks(&self, policy: &NetworkPolicy, peer: &PolicyPeer) -> (OriginId, Vec<Lack>) {
        let mut lacks = Vec::new();
        let origin = match peer {
            PolicyPeer::IpBlock(block) => {
                if !block_contains(block, self.other.ip) {
                    let mut text = block.cidr.to_string();
                    for (n, hole) in block.except.iter().enumerate() {
                        let word = if n == 0 { " without" } else { "," };
                        write!(text, "{word} {hole}").expect("writing to a string");
                    }
                    lacks.push(Lack::Block(text));
                }
                block.origin
            }
            PolicyPeer::Pods {
                namespaces,
                pods,
                origin,
            } => {
                if let Who::Pod(pod, labels) = self.other.who {
                    match namespaces {
                        Some(selector) => {
                            let failed = failed(selector, labels);
                            lacks.extend(failed.map(|(r, found)| Lack::NamespaceLabel(r, found)));
                        }
                        None if pod.key.namespace != policy.key.namespace => {
                            lacks.push(Lack::Namespace(policy.key.namespace.clone()));
                        }
                        None => {}
                    }
                    let failed = pods.iter().flat_map(|one| failed(one, &pod.labels));
                    lacks.extend(failed.map(|(r, found)| Lack::PodLabel(r, found)));
                } else {
                    lacks.push(Lack::Pod);
                }
                *origin
            }
        };
        debug_assert_eq!(
            lacks.is_empty(),
            peer_matches(policy, peer, self.other),
            "what is missing says whether something is"
        );
        (origin, lacks)
    }
}
