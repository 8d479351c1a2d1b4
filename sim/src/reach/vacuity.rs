//! Policies and rules that change nothing: written, read, and without effect.
//!
//! Looked at are the pods there are now, one of each class; a policy for pods that come later is found vacuous too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use podwire_models::api::{ClusterPolicy, Kind, NetworkPolicy, Object, ObjectRef, Objects, Tier};
use podwire_models::base::{Family, OriginId};
use podwire_models::control::policy::meaning::{
    Who, about, cluster_rule_speaks_of, cluster_rules, isolates, rule_allows, rules, selects,
};
use podwire_models::control::policy::reach::Reach;
use podwire_models::control::policy::{Connections, Direction, Party, Policies};

/// What is wrong with a policy or a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flaw {
    /// The policy selects no pod.
    SelectsNobody,
    /// The policy can be removed without any change.
    ChangesNothing,
    /// The rule's peers or ports are nobody's.
    RuleMatchesNothing,
    /// What the rule says, other rules say before it or beside it.
    RuleShadowed,
    /// What the rule allows at one end, the other end denies.
    OtherEndDenies,
}

impl Flaw {
    /// Returns the stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SelectsNobody => "VACUOUS_POLICY",
            Self::ChangesNothing => "REDUNDANT_POLICY",
            Self::RuleMatchesNothing => "VACUOUS_RULE",
            Self::RuleShadowed => "SHADOWED_RULE",
            Self::OtherEndDenies => "ONE_SIDED_RULE",
        }
    }
}

/// A policy or a rule without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub flaw: Flaw,
    /// The policy.
    pub object: ObjectRef,
    /// Which rule, `ingress rule 2`; empty if it is the policy.
    pub rule: String,
    /// In a sentence.
    pub says: String,
    /// Where it was written.
    pub origin: OriginId,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.rule.is_empty() { "" } else { " " };
        write!(
            f,
            "{}: {}{space}{}: {}",
            self.flaw.name(),
            self.object,
            self.rule,
            self.says
        )
    }
}

/// Finds all policies and rules without effect.
pub fn find(objects: &Objects) -> Vec<Finding> {
    let (all, _) = super::complete(objects);
    let all = Arc::new(all);
    let looker = Looker {
        ends: representatives(&all),
        policies: Policies::new(Arc::clone(&all)),
    };
    let mut findings = Vec::new();
    for policy in all.network_policies.values() {
        looker.network(policy, &mut findings);
    }
    for policy in all.cluster_policies.values() {
        looker.cluster(policy, &mut findings);
    }
    findings
}

/// Two addresses of each class (its members talk to each other too) and node, and one of each range outside.
fn representatives(objects: &Objects) -> Vec<IpAddr> {
    let reach = Reach::new(objects);
    let mut seen = BTreeMap::new();
    let mut ends = Vec::new();
    for member in &reach.members {
        let node = member.host().then(|| member.pod.node_name.clone());
        let key = (member.class, Family::of(member.ip), node);
        let count: &mut u32 = seen.entry(key).or_default();
        *count += 1;
        if *count <= 2 && !ends.contains(&member.ip) {
            ends.push(member.ip);
        }
    }
    let mut ranges = BTreeSet::new();
    for (first, _, class) in &reach.outside {
        if ranges.insert((*class, Family::of(*first))) {
            ends.push(*first);
        }
    }
    ends
}

struct Looker {
    ends: Vec<IpAddr>,
    policies: Policies,
}

/// What is known about a rule after all pairs were looked at.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// It speaks of something.
    speaks: bool,
    /// It says something that nobody else says.
    adds: bool,
    /// The other end lets something of it through.
    meets: bool,
}

impl Looker {
    fn subjects(&self, mut selected: impl FnMut(&Party<'_>) -> bool) -> Vec<Party<'_>> {
        let parties = self.ends.iter().map(|ip| self.policies.party(*ip));
        parties.filter(|party| selected(party)).collect()
    }

    /// Calls `see` with every subject and every other end that policies are asked about.
    fn pairs<'p>(&'p self, subjects: &[Party<'p>], mut see: impl FnMut(&Party<'p>, &Party<'p>)) {
        for subject in subjects {
            for ip in &self.ends {
                let other = self.policies.party(*ip);
                let alike = Family::of(*ip) == Family::of(subject.ip);
                if alike && subject.exempt(&other).is_none() {
                    see(subject, &other);
                }
            }
        }
    }

    /// What policies about the other end let through.
    fn other_side(
        &self,
        direction: Direction,
        subject: &Party<'_>,
        other: &Party<'_>,
    ) -> Connections {
        match direction {
            Direction::Ingress => self.policies.connections(Direction::Egress, other, subject),
            Direction::Egress => self
                .policies
                .connections(Direction::Ingress, other, subject),
        }
    }

    fn network(&self, policy: &NetworkPolicy, findings: &mut Vec<Finding>) {
        let object = ObjectRef::namespaced(Kind::NetworkPolicy, &policy.key);
        let finding = |flaw: Flaw, rule: String, says: &str, origin: OriginId| Finding {
            flaw,
            object: object.clone(),
            rule,
            says: says.to_owned(),
            origin,
        };
        let subjects = self.subjects(|party| {
            party.pod().is_some_and(|pod| {
                pod.key.namespace == policy.key.namespace
                    && policy.pod_selector.matches(&pod.labels)
            })
        });
        if subjects.is_empty() {
            let says = format!(
                "selects no pod of namespace {}: policies are about pods of their own namespace",
                policy.key.namespace
            );
            findings.push(finding(
                Flaw::SelectsNobody,
                String::new(),
                &says,
                policy.origin,
            ));
            return;
        }
        for direction in Direction::BOTH.into_iter().filter(|d| isolates(policy, *d)) {
            for (number, rule) in rules(policy, direction).iter().enumerate() {
                let mut seen = Seen::default();
                self.pairs(&subjects, |subject, other| {
                    let destination = match direction {
                        Direction::Ingress => subject,
                        Direction::Egress => other,
                    };
                    let set =
                        rule_allows(policy, rule, other, destination).filter(|set| !set.is_empty());
                    let Some(set) = set else {
                        return;
                    };
                    seen.speaks = true;
                    let pod = subject.pod();
                    let isolating = pod.map(|pod| self.policies.isolating(direction, pod));
                    let mut others = Connections::NONE;
                    for also in isolating.into_iter().flatten() {
                        for one in rules(also, direction) {
                            if !std::ptr::eq(one, rule)
                                && let Some(more) = rule_allows(also, one, other, destination)
                            {
                                others = others.union(&more);
                            }
                        }
                    }
                    seen.adds |= !others.includes(&set);
                    let there = self.other_side(direction, subject, other);
                    seen.meets |= !set.intersection(&there).is_empty();
                });
                let name = format!("{direction} rule {}", number + 1);
                let found = |flaw, says| finding(flaw, name.clone(), says, rule.origin);
                if !seen.speaks {
                    findings.push(found(
                        Flaw::RuleMatchesNothing,
                        "admits nothing: nobody here is its peer, or no pod has its ports",
                    ));
                } else if !seen.adds {
                    findings.push(found(
                        Flaw::RuleShadowed,
                        "other rules allow all of what it allows",
                    ));
                } else if !seen.meets {
                    findings.push(found(
                        Flaw::OtherEndDenies,
                        "the other end denies all of what it allows",
                    ));
                }
            }
        }
        if self.same_without(&object, &subjects) {
            let says = "every connection is decided in the same way without it";
            findings.push(finding(
                Flaw::ChangesNothing,
                String::new(),
                says,
                policy.origin,
            ));
        }
    }

    fn cluster(&self, policy: &ClusterPolicy, findings: &mut Vec<Finding>) {
        let object = Object::ClusterPolicy(policy.clone()).reference();
        let finding = |flaw: Flaw, rule: String, says: &str, origin: OriginId| Finding {
            flaw,
            object: object.clone(),
            rule,
            says: says.to_owned(),
            origin,
        };
        let subjects = self.subjects(|party| match party.who {
            Who::Pod(pod, labels) => selects(&policy.subject, pod, labels),
            Who::Node(_) | Who::Outside => false,
        });
        if subjects.is_empty() {
            let says = "its subject is no pod: pods with hostNetwork are never meant";
            findings.push(finding(
                Flaw::SelectsNobody,
                String::new(),
                says,
                policy.origin,
            ));
            return;
        }
        for direction in Direction::BOTH {
            for (number, rule) in cluster_rules(policy, direction).iter().enumerate() {
                let mut seen = Seen::default();
                self.pairs(&subjects, |subject, other| {
                    let destination = match direction {
                        Direction::Ingress => subject,
                        Direction::Egress => other,
                    };
                    let set = cluster_rule_speaks_of(rule, other, destination)
                        .filter(|set| !set.is_empty());
                    if let Some(set) = set {
                        seen.speaks = true;
                        let before = self.decided_before(policy, number, direction, subject, other);
                        seen.adds |= !before.includes(&set);
                    }
                });
                let name = format!("{direction} rule {}", number + 1);
                let found = |flaw, says| finding(flaw, name.clone(), says, rule.origin);
                if !seen.speaks {
                    findings.push(found(
                        Flaw::RuleMatchesNothing,
                        "speaks of nothing: nobody here is its peer, or no pod has its ports",
                    ));
                } else if !seen.adds {
                    findings.push(found(
                        Flaw::RuleShadowed,
                        "rules before it decide all of what it speaks of",
                    ));
                }
            }
        }
        if self.same_without(&object, &subjects) {
            let says = "every connection is decided in the same way without it";
            findings.push(finding(
                Flaw::ChangesNothing,
                String::new(),
                says,
                policy.origin,
            ));
        }
    }

    /// Returns what rules of the same tier decide before one of a policy is asked.
    fn decided_before(
        &self,
        policy: &ClusterPolicy,
        rule: usize,
        direction: Direction,
        subject: &Party<'_>,
        other: &Party<'_>,
    ) -> Connections {
        let Who::Pod(pod, labels) = subject.who else {
            return Connections::all();
        };
        let destination = match direction {
            Direction::Ingress => subject,
            Direction::Egress => other,
        };
        let mut decided = Connections::NONE;
        if policy.tier == Tier::Baseline && !self.policies.isolating(direction, pod).is_empty() {
            return Connections::all();
        }
        for earlier in about(self.policies.tier(policy.tier), pod, labels) {
            let same = earlier.kind == policy.kind && earlier.name == policy.name;
            let rules = cluster_rules(earlier, direction);
            let count = if same { rule } else { rules.len() };
            for one in rules.iter().take(count) {
                if let Some(set) = cluster_rule_speaks_of(one, other, destination) {
                    decided = decided.union(&set);
                }
            }
            if same {
                break;
            }
        }
        decided
    }

    /// Whether nothing changes for the subjects of a policy if it is taken away.
    fn same_without(&self, object: &ObjectRef, subjects: &[Party<'_>]) -> bool {
        let mut fewer = self.policies.objects().clone();
        fewer.remove(object);
        let fewer = Policies::new(Arc::new(fewer));
        let mut same = true;
        self.pairs(subjects, |subject, other| {
            if same {
                let (now, then) = (fewer.party(subject.ip), fewer.party(other.ip));
                same = self.policies.between(subject, other) == fewer.between(&now, &then)
                    && self.policies.between(other, subject) == fewer.between(&then, &now);
            }
        });
        same
    }
}
