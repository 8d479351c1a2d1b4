//! What becomes of an attempt at a moment of a story: the story is told up to there, somebody tries, and the story goes
//! on meanwhile. Once for every way chance can decide about the attempt. And what can be seen at such a moment: the
//! cluster, and what commands print.
//!
//! # Fidelity
//! Which endpoint the packets of other attempts go to is drawn as in any run; only losses on the wires are tried in
//! every way for everybody, from the moment on.

use std::collections::BTreeSet;
use std::time::Duration;

use podwire_models::base::hash::{combine, stable_hash};
use podwire_models::base::{Dice, Purpose, Ratio, Stream, Time};
use podwire_models::wire::Code;

use super::resolve::{Attempt, Story};
use super::run::Run;
use crate::attempt::{self, AttemptError, Attempted, Request};
use crate::engine::dice::{Exhaustive, Seeded, explore_within};
use crate::lab::Lab;
use crate::scenario::address::Thing;
use crate::tool::Tool;
use crate::trace::record::Trace;
use crate::traffic::ProbeOutcome;

/// An attempt at a moment of a story.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The cluster as the attempt finds it.
    pub lab: Lab,
    /// Every outcome. The chances add up to one.
    pub outcomes: Vec<Attempted>,
}

/// How long the story goes on after an attempt's own patience is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes an attempt at a moment of a story, after everything that is done at that moment.
///
/// # Errors
/// If the attempt cannot be made then, or has more than `limit` outcomes.
pub fn at(
    story: &Story,
    seed: u64,
    moment: Time,
    (from, request): (&Thing, &Request),
    limit: usize,
) -> Result<Moment, AttemptError> {
    let mut found = None;
    let ways = explore_within(seed, limit, |dice| {
        let mut run = Run::new(story, OneFlow::new(dice, seed));
        run.set_out();
        run.go_on(moment);
        let source = run.lab.source(from)?;
        run.lab.probe(&source, request)?;
        if found.is_none() {
            let mut lab = run.lab.clone();
            lab.machines = run.simulation.machines.clone();
            found = Some(lab);
        }
        // As without a story, so that the same ports are drawn.
        let name = format!("{} to {}/{}", source.name, request.l4, request.target);
        let spaces = run.simulation.machines.cluster.iter();
        let names: Vec<_> = spaces.map(|space| space.name.clone()).collect();
        run.simulation.dice.try_all(&name, &names);
        let attempt = Attempt {
            id: "trace".to_owned(),
            from: from.clone(),
            request: request.clone(),
            payload: None,
            requests: None,
            must: None,
        };
        let number = run.attempt(&attempt, &name);
        run.follow(number, moment + request.timeout + PATIENCE);
        let told = run.told(number).unwrap_or_else(|| {
            let waited = run.simulation.now().since(moment);
            (ProbeOutcome::timeout(waited), Code::NoAnswer, Vec::new())
        });
        Ok::<_, AttemptError>((told, run.names))
    })?;
    let mut outcomes = Vec::new();
    for (chance, way) in ways {
        let ((outcome, code, records), names) = way?;
        attempt::add(&mut outcomes, chance, outcome, code, || Trace {
            records,
            names,
        });
    }
    let lab = found.unwrap_or_else(|| story.lab.clone());
    Ok(Moment { lab, outcomes })
}

/// Returns the cluster at a moment of a story, after everything that is done at that moment.
pub fn cluster(story: &Story, seed: u64, moment: Time) -> Lab {
    let mut run = Run::new(story, Seeded::new(seed));
    run.set_out();
    run.go_on(moment);
    let mut lab = run.lab;
    lab.machines = run.simulation.machines;
    lab
}

/// Runs a command that sends packets at a moment of a story, while the story goes on; returns what it prints, or
/// nothing if it has not ended after an hour.
///
/// # Errors
/// If it cannot be run there and then.
pub fn command(
    story: &Story,
    seed: u64,
    moment: Time,
    (on, text, tool): (&Thing, &str, &Tool),
) -> Result<Option<String>, AttemptError> {
    let mut run = Run::new(story, Seeded::new(seed));
    run.set_out();
    run.go_on(moment);
    let source = run.lab.source(on)?;
    tool.program(&run.lab, &source)?;
    let until = moment + Duration::from_secs(3600);
    Ok(run.command(on, text.to_owned(), tool.clone(), until))
}

/// Dice of which one flow's answers are all tried, from some moment on; everything else is drawn.
struct OneFlow<'a> {
    all: &'a mut Exhaustive,
    seeded: Seeded,
    /// Keys of the flow's streams; nothing before the moment.
    keys: Option<BTreeSet<u64>>,
}

impl<'a> OneFlow<'a> {
    fn new(all: &'a mut Exhaustive, seed: u64) -> Self {
        Self {
            all,
            seeded: Seeded::new(seed),
            keys: None,
        }
    }

    /// From now on all answers are tried for the flow of the application with this name, in these namespaces.
    fn try_all(&mut self, app: &str, spaces: &[std::sync::Arc<str>]) {
        let flow = stable_hash(app.as_bytes());
        let key = |space: &std::sync::Arc<str>| combine(flow, stable_hash(space.as_bytes()));
        self.keys = Some(spaces.iter().map(key).collect());
    }

    fn tries(&self, stream: Stream) -> bool {
        self.keys.as_ref().is_some_and(|keys| match stream.purpose {
            Purpose::LoadBalance => keys.contains(&stream.key),
            Purpose::Loss => true,
            Purpose::SourcePort
            | Purpose::NatPort
            | Purpose::Identifier
            | Purpose::Name
            | Purpose::Delay
            | Purpose::Churn => false,
        })
    }
}

impl Dice for OneFlow<'_> {
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool {
        if self.tries(stream) {
            self.all.chance(stream, p)
        } else {
            self.seeded.chance(stream, p)
        }
    }

    fn pick(&mut self, stream: Stream, n: u64) -> u64 {
        if self.tries(stream) {
            self.all.pick(stream, n)
        } else {
            self.seeded.pick(stream, n)
        }
    }
}
