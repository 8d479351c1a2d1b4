//! Who enforces policies on a node, and where its eyes are.
//!
//! | profile | agent | hook | looks at |
//! |---|---|---|---|
//! | `kindnet` | kube-network-policies | POSTROUTING, before source translation | both ends, on every node a packet passes |
//! | `calico` | Felix | FORWARD and INPUT, before the filter table | the ends that are pods of this node |
//! | others | nobody | | |
//!
//! All see the destination after Service translation and the source before masquerading on this node; a source that
//! another node masqueraded is that node's address. New connections are judged, replies and related ICMP pass.
//!
//! Source: `kubernetes-sigs/kube-network-policies` `pkg/dataplane`, `projectcalico/calico` `felix/rules`.
//!
//! # Fidelity
//! A pod that reaches itself through a Service is judged like any other pair; plugins differ.

use std::sync::Arc;

use super::meaning::{Direction, Exemption, Party, Policies, cluster_rules, rules};
use super::ports::Flow;
use super::verdict::{Outcome, Side};
use crate::api::ClusterAction;
use crate::base::{ObjectName, Protocol};
use crate::kernel::conntrack::CtInfo;
use crate::kernel::netfilter::agent::{Agent, Ruling};
use crate::kernel::netfilter::chain::Hook;
use crate::wire::{Code, Decider, DeciderKind, Packet, Sctp, Tcp, Transport, Udp};

/// Who enforces policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcer {
    /// kube-network-policies, which kindnet has in it.
    KubeNetworkPolicies,
    /// Calico's Felix.
    Felix,
    /// Nobody: what would be dropped is only noted.
    Nobody,
}

/// The agent of one node.
#[derive(Clone, Debug)]
pub struct NodeAgent {
    /// The policies it knows, which may be older than those of the API server.
    pub policies: Arc<Policies>,
    /// Whose way of enforcing it has.
    pub enforcer: Enforcer,
    /// Its node.
    pub node: ObjectName,
}

impl Agent for NodeAgent {
    fn sits_at(&self, hook: Hook) -> bool {
        match self.enforcer {
            Enforcer::KubeNetworkPolicies => hook == Hook::Postrouting,
            Enforcer::Felix => matches!(hook, Hook::Forward | Hook::Input),
            Enforcer::Nobody => hook == Hook::Forward,
        }
    }

    fn decide(&self, packet: &Packet, state: CtInfo) -> Ruling {
        match state {
            CtInfo::Established
            | CtInfo::EstablishedReply
            | CtInfo::Related
            | CtInfo::RelatedReply => return Ruling::Silent,
            CtInfo::New | CtInfo::Invalid | CtInfo::Untracked => {}
        }
        let source = self.policies.party(packet.src);
        let destination = self.policies.party(packet.dst);
        let flow = flow_of(packet);
        let mut reasons = Vec::new();
        for direction in Direction::BOTH {
            let (subject, other) = match direction {
                Direction::Egress => (&source, &destination),
                Direction::Ingress => (&destination, &source),
            };
            if !self.looks_at(subject) {
                continue;
            }
            let side = self.policies.judge(direction, subject, other, flow);
            let decider = decider(&side);
            if !side.outcome.allows() {
                return match self.enforcer {
                    Enforcer::Nobody => Ruling::NotEnforced(decider),
                    Enforcer::KubeNetworkPolicies | Enforcer::Felix => {
                        Ruling::Drop(code(&side), decider)
                    }
                };
            }
            match side.outcome {
                Outcome::Network(..) | Outcome::Cluster(..) => reasons.push(decider),
                Outcome::NoSubject | Outcome::Exempt(_) | Outcome::Isolated(_) | Outcome::Open => {}
            }
        }
        match self.enforcer {
            Enforcer::Nobody => Ruling::Silent,
            Enforcer::KubeNetworkPolicies | Enforcer::Felix if reasons.is_empty() => Ruling::Silent,
            Enforcer::KubeNetworkPolicies | Enforcer::Felix => Ruling::Pass(reasons),
        }
    }
}

impl NodeAgent {
    fn looks_at(&self, end: &Party<'_>) -> bool {
        let Some(pod) = end.pod() else {
            return false;
        };
        match self.enforcer {
            Enforcer::KubeNetworkPolicies => true,
            Enforcer::Felix | Enforcer::Nobody => pod.node_name.as_ref() == Some(&self.node),
        }
    }
}

impl Policies {
    /// Decides at one end about a packet on its way: the direct way of a pod to itself leads past every agent, so
    /// that a packet to itself comes from a Service and is judged.
    fn judge(
        &self,
        direction: Direction,
        subject: &Party<'_>,
        other: &Party<'_>,
        flow: Flow,
    ) -> Side<'_> {
        let exemption = self
            .exempt(subject, other)
            .filter(|why| *why != Exemption::Itself);
        self.side_unless(exemption, direction, subject, other, flow)
    }
}

fn flow_of(packet: &Packet) -> Flow {
    match packet.transport {
        Transport::Tcp(Tcp { dport, .. }) => Flow::Port(Protocol::Tcp, dport),
        Transport::Udp(Udp { dport, .. }) => Flow::Port(Protocol::Udp, dport),
        Transport::Sctp(Sctp { dport, .. }) => Flow::Port(Protocol::Sctp, dport),
        Transport::Icmp(_) => Flow::Other,
    }
}

const fn code(side: &Side<'_>) -> Code {
    let by_cluster = matches!(side.outcome, Outcome::Cluster(..));
    match (side.direction, by_cluster) {
        (Direction::Ingress, false) => Code::NpIngressDefaultDeny,
        (Direction::Egress, false) => Code::NpEgressDefaultDeny,
        (Direction::Ingress, true) => Code::CnpIngressDeny,
        (Direction::Egress, true) => Code::CnpEgressDeny,
    }
}

/// Says what decided at one end.
fn decider(side: &Side<'_>) -> Decider {
    let direction = side.direction;
    let object = |text: String| Decider::new(DeciderKind::Object, text);
    match &side.outcome {
        Outcome::Cluster(policy, rule, action) => {
            let rule_origin = cluster_rules(policy, direction)
                .get(*rule)
                .map_or(policy.origin, |rule| rule.origin);
            let (kind, name) = (policy.kind.as_str(), &policy.name);
            let says = match action {
                ClusterAction::Accept => "accepts",
                ClusterAction::Deny => "denies",
                ClusterAction::Pass => "passes on",
            };
            let number = rule + 1;
            object(format!(
                "{kind}//{name}: {direction} rule {number} {says} it"
            ))
            .from(rule_origin)
        }
        Outcome::Network(policy, rule) => {
            let origin = rules(policy, direction)
                .get(*rule)
                .map_or(policy.origin, |rule| rule.origin);
            let (key, number) = (&policy.key, rule + 1);
            object(format!(
                "NetworkPolicy/{key}: {direction} rule {number} allows it"
            ))
            .from(origin)
        }
        Outcome::Isolated(near) => {
            let first = side.isolating.first();
            let count = side.isolating.len();
            let decisive = near
                .as_ref()
                .map(|near| near.policy)
                .or_else(|| first.copied());
            let Some(policy) = decisive else {
                return object("no policy".to_owned());
            };
            let rules: usize = side
                .isolating
                .iter()
                .map(|p| rules(p, direction).len())
                .sum();
            let mut text = format!(
                "NetworkPolicy/{}: isolates for {direction}; no rule allows it ({count} {}, {rules} {})",
                policy.key,
                plural(count, "policy", "policies"),
                plural(rules, "rule", "rules"),
            );
            if let Some(near) = near {
                let other = match direction {
                    Direction::Ingress => "the client",
                    Direction::Egress => "the server",
                };
                let lacks: Vec<String> = near.lacks.iter().map(ToString::to_string).collect();
                let (number, lacks) = (near.rule + 1, lacks.join(" and "));
                text.push_str("; rule ");
                text.push_str(&format_near(number, other, &lacks));
            }
            object(text).from(near.as_ref().map_or(policy.origin, |near| near.origin))
        }
        Outcome::NoSubject | Outcome::Exempt(_) | Outcome::Open => object("no policy".to_owned()),
    }
}

fn format_near(number: usize, other: &str, lacks: &str) -> String {
    format!("{number} would if {other} {lacks}")
}

const fn plural<'t>(count: usize, one: &'t str, many: &'t str) -> &'t str {
    if count == 1 { one } else { many }
}
