//! What a scenario says and nothing depends on: policies that could be deleted without anybody noticing, and failures
//! that are expected and would happen anyway. The story is told again without each of them, and compared.
//!
//! | left out | told of | where |
//! |---|---|---|
//! | one policy | if every attempt ends as before and everything expected holds as before | here |
//! | everything that is done, every fault and every policy | failures that are expected without a code, if they still hold | here |
//! | nothing | faults that touched nothing: the scenario fails | `held` |
//!
//! # Fidelity
//! A policy is missing from the beginning on. A policy of two that say the same is found both times: each could go, not both.

use std::fmt;

use podwire_models::api::{Kind, ObjectRef};
use podwire_models::base::{OriginId, Time};
use podwire_models::control::policy::agent::Enforcer;
use podwire_models::wire::Code;

use super::resolve::{Doing, Story};
use super::run::{Ran, run};
use crate::scenario::expect::{Expectation, Outcome};
use crate::scenario::file::Must;
use crate::traffic::ProbeResult;

/// Events that telling the story again may take in all; what is left then is not looked at.
const PATIENCE: u64 = 2_000_000;

/// Something that nothing depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vacuous {
    /// Without this policy all attempts end as with it, and all that is expected holds.
    Policy {
        /// Which.
        policy: ObjectRef,
        /// `file:line` of it.
        place: String,
        /// Whether the network plugin looks at policies at all.
        enforced: bool,
    },
    /// A failure that is expected, and also happens where nobody does anything.
    Failure {
        /// What is expected.
        expectation: String,
    },
    /// It would have taken too long to look at this policy.
    NotLookedAt {
        /// Which.
        policy: ObjectRef,
    },
}

impl Vacuous {
    /// Returns a stable name for machines.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Policy { .. } => "POLICY_WITHOUT_EFFECT",
            Self::Failure { .. } => "FAILS_ANYWAY",
            Self::NotLookedAt { .. } => "NOT_LOOKED_AT",
        }
    }
}

impl fmt::Display for Vacuous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy {
                policy,
                place,
                enforced,
            } => {
                write!(f, "without {policy} ({place}) everything ends as it does")?;
                if *enforced {
                    f.write_str(": probe what it is to stop, or to let through")
                } else {
                    f.write_str(": this network plugin does not enforce policies")
                }
            }
            Self::Failure { expectation } => write!(
                f,
                "`{expectation}` holds without any policy, fault or change too: say with which code it is to fail, and \
                 probe the same where it must work"
            ),
            Self::NotLookedAt { policy } => write!(
                f,
                "whether anything depends on {policy} was not looked at: the story is long"
            ),
        }
    }
}

/// Finds what nothing depends on in a story whose run held.
pub fn find(story: &Story, seed: u64, ran: &Ran) -> Vec<Vacuous> {
    let mut found = Vec::new();
    let silent = ran.expectations.is_empty() && ran.attempts.is_empty();
    if !ran.held() || silent {
        return found;
    }
    let mut left = PATIENCE;
    if let Some(bare) = bare(story)
        && expects_failures(story, ran)
        && ran.events <= left
    {
        let without = run(&bare, seed);
        left = left.saturating_sub(without.events);
        found.extend(fail_anyway(story, ran, &without));
    }
    let enforced = match story.lab.plan.site.cni.enforcer() {
        Enforcer::KubeNetworkPolicies | Enforcer::Felix => true,
        Enforcer::Nobody => false,
    };
    for (policy, origin) in policies(story) {
        if ran.events > left {
            found.push(Vacuous::NotLookedAt { policy });
            continue;
        }
        let without = run(&without(story, &policy), seed);
        left = left.saturating_sub(without.events);
        if ends(ran) == ends(&without) && verdicts(ran) == verdicts(&without) {
            found.push(Vacuous::Policy {
                policy,
                place: story.origins.text(origin),
                enforced,
            });
        }
    }
    found
}

/// The policies there are from the beginning on, and where they were written.
fn policies(story: &Story) -> Vec<(ObjectRef, OriginId)> {
    let objects = &story.lab.objects;
    let network = objects.network_policies.values();
    let network = network.map(|policy| {
        let name = ObjectRef::namespaced(Kind::NetworkPolicy, &policy.key);
        (name, policy.origin)
    });
    let cluster = objects.cluster_policies.values().map(|policy| {
        let kind = Kind::ClusterPolicy(policy.kind);
        (ObjectRef::cluster(kind, policy.name.clone()), policy.origin)
    });
    network.chain(cluster).collect()
}

/// Returns the story without a policy.
fn without(story: &Story, policy: &ObjectRef) -> Story {
    let mut story = story.clone();
    story.lab.objects.remove(policy);
    tell_agents(&mut story);
    story
}

fn tell_agents(story: &mut Story) {
    let mut machines = std::mem::take(&mut story.lab.machines);
    story.lab.enforce(&mut machines);
    story.lab.machines = machines;
}

/// Returns the story with nothing in it but attempts; nothing if it is so already.
fn bare(story: &Story) -> Option<Story> {
    let only_asks = |doing: &Doing| match doing {
        Doing::Probe(_)
        | Doing::Load { .. }
        | Doing::Note(_)
        | Doing::Exec { .. }
        | Doing::Tool { .. } => true,
        Doing::Churn(_)
        | Doing::Cordon { .. }
        | Doing::Drain { .. }
        | Doing::Write { .. }
        | Doing::Begin { .. } => false,
    };
    let asks = story.agenda.iter().all(|(_, doing)| only_asks(doing));
    if asks && policies(story).is_empty() {
        return None;
    }
    let mut story = story.clone();
    story.agenda.retain(|(_, doing)| only_asks(doing));
    story.lab.objects.network_policies.clear();
    story.lab.objects.cluster_policies.clear();
    tell_agents(&mut story);
    Some(story)
}

/// Whether an expectation wants a failure without saying which.
fn any_failure(expected: &Expectation) -> bool {
    match expected {
        Expectation::Outcome { is, code, .. } => *is != Outcome::Connected && code.is_none(),
        Expectation::Denies(_) => true,
        // Others want something to work, to be counted, or to be true all the time.
        Expectation::Share { .. }
        | Expectation::Endpoints(_)
        | Expectation::Touched { .. }
        | Expectation::Within { .. }
        | Expectation::Allows(_)
        | Expectation::OnlyAllowed { .. }
        | Expectation::Unchanged { .. }
        | Expectation::Always(_) => false,
    }
}

fn expects_failures(story: &Story, ran: &Ran) -> bool {
    story.expect.iter().any(any_failure)
        || ran
            .attempts
            .iter()
            .any(|attempt| attempt.must == Some(Must::Fail))
}

/// Returns the failures that are expected and happen without anything being done too.
fn fail_anyway(story: &Story, ran: &Ran, without: &Ran) -> Vec<Vacuous> {
    let both = ran.expectations.iter().zip(&without.expectations);
    let written = both
        .zip(&story.expect)
        .filter(|((_, without), expected)| any_failure(expected) && without.held)
        .map(|((held, _), _)| held.text.clone());
    let mut probes: Vec<&str> = ran
        .attempts
        .iter()
        .filter(|attempt| attempt.must == Some(Must::Fail))
        .map(|attempt| attempt.probe.as_str())
        .collect();
    probes.dedup();
    // An expectation about the same probe that names the code says why it fails.
    let named = |probe: &str| {
        story.expect.iter().any(|expected| {
            matches!(expected, Expectation::Outcome { probe: of, code: Some(_), .. } if of.as_str() == probe)
        })
    };
    let musts = probes
        .into_iter()
        .filter(|probe| !named(probe))
        .map(|probe| format!("{probe} must fail"))
        .filter(|text| {
            without
                .expectations
                .iter()
                .any(|held| held.held && held.text == *text)
        });
    written
        .chain(musts)
        .map(|expectation| Vacuous::Failure { expectation })
        .collect()
}

/// How an attempt ended; nothing if it could not be made.
type End = Option<(ProbeResult, Code)>;

/// How each attempt ended.
fn ends(ran: &Ran) -> Vec<(&str, Time, End)> {
    let attempts = ran.attempts.iter().map(|attempt| {
        let ended = attempt.ended.as_ref();
        let ended = ended.map(|(outcome, code)| (outcome.result, *code));
        (attempt.probe.as_str(), attempt.at, ended)
    });
    attempts.collect()
}

/// What was expected, and whether it held.
fn verdicts(ran: &Ran) -> Vec<(&str, bool)> {
    let held = ran.expectations.iter();
    held.map(|held| (held.text.as_str(), held.held)).collect()
}
