//! What becomes of a story where reactions of the control plane take shorter or longer, so that close events come in another order, and
//! where packets of one moment are tracked one after the other or at once.
//!
//! The story is told with its own times first, then with one of them changed to the shortest or longest it may be, then with two, and so
//! on, as far as patience allows. Ways with the same outcome are one: each probe ends in the same ways, and the same is held. The first way
//! that led to an outcome, which is one with the fewest changes, is its witness.
//!
//! # Fidelity
//! A reaction takes the same time whenever it happens in one way. Orders that need one slow and one quick reaction of the same kind are
//! found only by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use podwire_models::base::{ObjectName, Time};
use podwire_models::wire::Code;

use super::resolve::{Doing, Story};
use super::run::{Ran, run};
use crate::controllers::reactions::{Reaction, Span};
use crate::fault::Fault;
use crate::scenario::text::Mark;
use crate::trace::Fingerprint;
use crate::traffic::ProbeResult;

/// How many ways are tried at most.
const WAYS: usize = 400;
/// How many events all ways may have together.
const PATIENCE: u64 = 20_000_000;

/// Something that is otherwise than in the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A reaction takes this long.
    Takes(Reaction, Duration),
    /// On all nodes, packets of one moment are tracked at once.
    AtOnce,
    /// On all nodes, packets of one moment are tracked one after the other: faults that say otherwise are left out.
    InTurn,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Takes(reaction, time) => write!(f, "--delay {}={time:?}", reaction.name()),
            Self::AtOnce => f.write_str("ConntrackRace on every node"),
            Self::InTurn => f.write_str("without ConntrackRace"),
        }
    }
}

/// How the attempts of each probe ended.
pub type Ends = BTreeMap<String, BTreeSet<(Option<ProbeResult>, Option<Code>)>>;

/// One outcome of a story.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How many ways lead to it.
    pub ways: usize,
    /// What is changed in the first of them; nothing if it is the story as it is.
    pub witness: Vec<Change>,
    /// How the attempts of each probe end.
    pub ends: Ends,
    /// What was expected and does not hold.
    pub failed: BTreeSet<String>,
    /// Fingerprint of the first of them.
    pub fingerprint: Fingerprint,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Explored {
    /// The outcomes, that of the story as it is first.
    pub outcomes: Vec<Outcome>,
    /// How many ways were tried.
    pub ways: usize,
    /// Up to how many changes at once were all tried.
    pub changes: usize,
    /// How many changes there are to choose from.
    pub of: usize,
}

impl Explored {
    /// Whether everything that is expected holds in all ways.
    pub fn held(&self) -> bool {
        self.outcomes
            .iter()
            .all(|outcome| outcome.failed.is_empty())
    }
}

/// Tries the ways of a story. `before` is told how many were tried, before each.
pub fn explore(story: &Story, seed: u64, mut before: impl FnMut(usize)) -> Explored {
    before(0);
    let usual = run(story, seed);
    let choices = choices(story, &usual);
    let dearest = PATIENCE / usual.events.max(1);
    let most = usize::try_from(dearest).unwrap_or(WAYS).clamp(1, WAYS);
    let mut found = Explored {
        outcomes: Vec::new(),
        ways: 0,
        changes: 0,
        of: choices.len(),
    };
    found.add(Vec::new(), &usual, story);
    let mut picked: Vec<Vec<(usize, usize)>> = vec![Vec::new()];
    for changes in 1..=choices.len() {
        // Those with one more: dimensions in rising order, so that each set comes once.
        let mut next = Vec::new();
        for picks in &picked {
            let first = picks.last().map_or(0, |(dimension, _)| dimension + 1);
            for (dimension, values) in choices.iter().enumerate().skip(first) {
                for value in 0..values.len() {
                    let mut picks = picks.clone();
                    picks.push((dimension, value));
                    next.push(picks);
                }
            }
        }
        if found.ways + next.len() > most && changes > 1 {
            break;
        }
        for picks in &next {
            let way: Vec<Change> = picks
                .iter()
                .filter_map(|(dimension, value)| choices.get(*dimension)?.get(*value).cloned())
                .collect();
            before(found.ways);
            let ran = run(&changed(story, &way), seed);
            found.add(way, &ran, story);
        }
        found.changes = changes;
        picked = next;
    }
    found
}

impl Explored {
    fn add(&mut self, witness: Vec<Change>, ran: &Ran, story: &Story) {
        self.ways += 1;
        let left_out = left_out(story, &witness);
        let (ends, failed) = (ends(ran), failed(ran, &left_out));
        let same = |outcome: &&mut Outcome| outcome.ends == ends && outcome.failed == failed;
        match self.outcomes.iter_mut().find(same) {
            Some(known) => known.ways += 1,
            None => self.outcomes.push(Outcome {
                ways: 1,
                witness,
                ends,
                failed,
                fingerprint: ran.fingerprint,
            }),
        }
    }
}

/// Returns what can be otherwise, each with its other values.
fn choices(story: &Story, usual: &Ran) -> Vec<Vec<Change>> {
    let mut all: Vec<Vec<Change>> = Vec::new();
    for reaction in &usual.reactions {
        let said = story.lab.plan.reactions.said(*reaction);
        let Span { least, most } = said.unwrap_or_else(|| reaction.range());
        if least < most {
            let takes = [least, most].map(|time| Change::Takes(*reaction, time));
            all.push(takes.to_vec());
        }
    }
    let races = |(_, doing): &(Time, Doing)| is_race(doing);
    all.push(vec![if story.agenda.iter().any(races) {
        Change::InTurn
    } else {
        Change::AtOnce
    }]);
    all
}

fn is_race(doing: &Doing) -> bool {
    matches!(
        doing,
        Doing::Begin {
            fault: Fault::ConntrackRace { .. },
            ..
        }
    )
}

fn changed(story: &Story, way: &[Change]) -> Story {
    let mut story = story.clone();
    for change in way {
        match change {
            Change::Takes(reaction, time) => {
                story.lab.plan.reactions.set(*reaction, Span::always(*time));
            }
            Change::InTurn => story.agenda.retain(|(_, doing)| !is_race(doing)),
            Change::AtOnce => {
                let nodes: Vec<ObjectName> = story.lab.objects.nodes.keys().cloned().collect();
                let begins = nodes.into_iter().map(|node| {
                    let begin = Doing::Begin {
                        id: format!("{ADDED}{node}"),
                        fault: Fault::ConntrackRace { node },
                        lasts: None,
                        mark: Mark::default(),
                    };
                    (Time::ZERO, begin)
                });
                story.agenda.splice(0..0, begins);
            }
        }
    }
    story
}

/// What faults are called that are not the story's own.
const ADDED: &str = "explored race on ";

fn ends(ran: &Ran) -> Ends {
    let mut ends = Ends::new();
    for attempt in &ran.attempts {
        let ended = attempt.ended.as_ref();
        let end = (
            ended.map(|(outcome, _)| outcome.result),
            ended.map(|(_, code)| *code),
        );
        ends.entry(attempt.probe.clone()).or_default().insert(end);
    }
    ends
}

/// What is not held, but for what is said of faults that are not the story's or were left out.
fn failed(ran: &Ran, left_out: &[String]) -> BTreeSet<String> {
    let of = |text: &str, fault: &str| text.starts_with(&format!("{fault} touches"));
    ran.expectations
        .iter()
        .filter(|held| !held.held && !held.text.starts_with(ADDED))
        .filter(|held| !left_out.iter().any(|fault| of(&held.text, fault)))
        .map(|held| held.text.clone())
        .collect()
}

/// Faults of the story that a way leaves out.
fn left_out(story: &Story, way: &[Change]) -> Vec<String> {
    if !way.contains(&Change::InTurn) {
        return Vec::new();
    }
    let races = story.agenda.iter().filter(|(_, doing)| is_race(doing));
    let named = races.filter_map(|(_, doing)| match doing {
        Doing::Begin { id, .. } => Some(id.clone()),
        Doing::Probe(_)
        | Doing::Load { .. }
        | Doing::Churn(_)
        | Doing::Cordon { .. }
        | Doing::Drain { .. }
        | Doing::Note(_)
        | Doing::Exec { .. }
        | Doing::Tool { .. }
        | Doing::Write { .. } => None,
    });
    named.collect()
}
