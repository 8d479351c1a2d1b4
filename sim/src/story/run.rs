//! Runs a story: does what its agenda says when it says so, lets controllers react, and finds out whether what was
//! expected held.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, ObjectKey, Purpose, Ratio, Stream, Time};
use podwire_models::control::policy::Policies;
use podwire_models::control::policy::agent::Enforcer;
use podwire_models::wire::{Action, Code, L4, PacketId, Place, Stage, Step};

use super::admission::Admission;
use super::cache::Caches;
use super::churn::Churning;
use super::commands::Running;
use super::faults::Active;
use super::invariants::{Scope, Watch};
use super::live::Memory;
use super::load::Load;
use super::reaches::Found;
use super::resolve::{Attempt, Doing, Story, label};
use crate::attempt::{self, Request};
use crate::controllers::dirty::Dirty;
use crate::controllers::reactions::{Reaction, Span};
use crate::controllers::runner::Runner;
use crate::engine::dice::Seeded;
use crate::lab::Lab;
use crate::program::Program;
use crate::reach::Reachability;
use crate::scenario::address::Thing;
use crate::scenario::expect::{Expectation, Reaching};
use crate::scenario::file::Must;
use crate::simulation::{AppId, Simulation};
use crate::tool::Tool;
use crate::trace::record::{Record, Trace, TraceRecorder};
use crate::trace::{Fingerprint, Names};
use crate::traffic::{Outcome, ProbeOutcome, ProbeResult};
use crate::why::{self, Blocker, World};

/// What came of a story.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Everything that happened.
    pub trace: Trace,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Each expectation, and whether it held.
    pub expectations: Vec<Held>,
    /// Each attempt, in the order of their beginnings.
    pub attempts: Vec<Attempted>,
    /// What stood in the way of attempts that failed, the first of each probe and code; empty unless asked for.
    pub blockers: Vec<Failed>,
    /// How many events there were.
    pub events: u64,
    /// Reactions of the control plane there were.
    pub reactions: BTreeSet<Reaction>,
}

/// Why an attempt of a probe failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Name of the probe.
    pub probe: String,
    /// When the attempt began.
    pub at: Time,
    /// How it ended.
    pub code: Code,
    /// What stood in its way, the root cause first.
    pub why: Vec<Blocker>,
}

impl Ran {
    /// Whether every expectation held.
    pub fn held(&self) -> bool {
        self.expectations.iter().all(|held| held.held)
    }
}

/// Whether an expectation held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The expectation in a few words.
    pub text: String,
    /// Whether it did.
    pub held: bool,
    /// What was found instead; empty if it held.
    pub why: String,
}

/// One attempt of a probe.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// Name of the probe.
    pub probe: String,
    /// When it began.
    pub at: Time,
    /// What the client saw, and why; nothing if the attempt could not be made.
    pub ended: Option<(ProbeOutcome, Code)>,
    /// How many questions about names it sent.
    pub queries: u32,
    /// The answer from its cache that the client used, if it did.
    pub kept: Option<attempt::Kept>,
    /// Who made it.
    who: Arc<str>,
    from: Thing,
    request: Request,
    pub(super) must: Option<Must>,
    /// How many requests its connection carries.
    requests: u32,
    /// Which change of policies or pods the agents had not heard of when it began.
    unheard: Option<u64>,
    app: Option<AppId>,
    place: Place,
    /// The load it is part of.
    load: Option<usize>,
}

/// Longest time the run goes on after the last entry of the timeline.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// Runs a story with a seed. The same story and seed give the same trace, byte for byte.
pub fn run(story: &Story, seed: u64) -> Ran {
    begin(story, seed, false)
}

/// As [`run`], and finds out what stood in the way of attempts that failed.
pub fn explained(story: &Story, seed: u64) -> Ran {
    begin(story, seed, true)
}

fn begin(story: &Story, seed: u64, explain: bool) -> Ran {
    let mut run = Run::new(story, Seeded::new(seed));
    run.explain = explain;
    run.all();
    run.finish()
}

/// Something that is to happen.
pub(super) enum Task {
    /// An entry of the timeline.
    Do(Doing),
    /// The next pod of a churn.
    ChurnMore(usize),
    /// The next attempt of a load.
    LoadMore(usize),
    /// It is time to tell what came of a load.
    LoadTell(usize),
    /// A fault ends.
    End(String),
    /// A pod becomes ready, or no longer is.
    Ready(ObjectKey, bool),
    /// A pod has been ready for long enough to be available.
    Available(ObjectKey),
    /// Controllers of workloads look at their pods.
    Workloads,
    /// A new pod starts.
    Begin(ObjectKey),
    /// The programs of a deleted pod end.
    Terminate(ObjectKey),
    /// A deleted pod has stopped.
    Stop(ObjectKey),
    /// A container that has ended by itself is started again.
    Restart(ObjectKey),
    /// `CoreDNS` hears of Services and slices.
    Names,
    /// The `EndpointSlice` controller writes its slices.
    Slices,
    /// kube-proxy writes its rules.
    Rules,
    /// Policy agents hear of policies, pods and namespaces.
    Policies,
    /// It is time to look at an expectation about who may talk to whom.
    Look(usize),
    /// Who may talk to whom is written down, to be compared.
    Remember,
}

pub(super) struct Run<'a, D> {
    pub(super) story: &'a Story,
    pub(super) lab: Lab,
    pub(super) simulation: Simulation<Program, D, TraceRecorder>,
    pub(super) memory: Memory,
    pub(super) names: Names,
    /// When the kube-proxies synchronise: all at the same moments.
    pub(super) proxies: Runner,
    agenda: BTreeMap<(Time, u64), Task>,
    numbered: u64,
    pub(super) attempts: Vec<Attempted>,
    /// Loads, those that are over included.
    pub(super) loads: Vec<Load>,
    /// Pods that come and go.
    pub(super) churns: Vec<Churning>,
    /// What is watched for invariants, if they are expected to hold.
    pub(super) watch: Option<Watch>,
    /// The first invariant that did not hold.
    pub(super) broken: Option<String>,
    /// Reactions there were.
    reactions: BTreeSet<Reaction>,
    /// Writes that wait for webhooks.
    pub(super) admissions: Vec<Admission>,
    /// Attempts that have not ended.
    pub(super) open: BTreeSet<usize>,
    /// To which attempt each record belongs: causes lead back to the record with which it began.
    owners: Vec<Option<usize>>,
    /// To which attempt a packet belongs.
    packets: BTreeMap<PacketId, usize>,
    /// The last refusal or loss on the way of each open attempt.
    codes: BTreeMap<usize, Code>,
    /// Commands that send packets.
    pub(super) tools: Vec<Running>,
    pub(super) faults: BTreeMap<String, Active>,
    /// What programs keep of names.
    pub(super) caches: Caches,
    pub(super) touched: BTreeMap<String, u64>,
    /// Number of ready endpoints of each Service.
    pub(super) ready: BTreeMap<ObjectKey, u64>,
    /// Number of ready endpoints of Services of which it may be another, since when.
    pub(super) endpoints: Vec<(Time, BTreeMap<ObjectKey, u64>)>,
    /// The first pair of pods that could not reach each other.
    pub(super) culprit: Option<String>,
    /// What was found for expectations about a moment, by their number.
    pub(super) found: BTreeMap<usize, Found>,
    /// Who may talk to whom at moments that are compared.
    pub(super) remembered: BTreeMap<Time, Reachability>,
    /// Whether anybody wants to know why attempts fail.
    explain: bool,
    failed: Vec<Failed>,
    /// Whether the run stopped with attempts still open.
    endless: bool,
    /// Programs that have ended by themselves, and of which everybody knows.
    pub(super) buried: BTreeSet<AppId>,
}

impl<'a, D: Dice> Run<'a, D> {
    /// Returns a run at the beginning of its story.
    pub(super) fn new(story: &'a Story, dice: D) -> Self {
        let lab = story.lab.clone();
        let simulation = lab.start(dice, TraceRecorder::new());
        let names = lab.names(&story.origins);
        Self {
            story,
            memory: Memory::of(lab.objects.pods.keys().cloned()),
            lab,
            simulation,
            names,
            proxies: Runner::default(),
            agenda: BTreeMap::new(),
            numbered: 0,
            attempts: Vec::new(),
            loads: Vec::new(),
            churns: Vec::new(),
            watch: None,
            broken: None,
            reactions: BTreeSet::new(),
            admissions: Vec::new(),
            open: BTreeSet::new(),
            owners: Vec::new(),
            packets: BTreeMap::new(),
            codes: BTreeMap::new(),
            tools: Vec::new(),
            faults: BTreeMap::new(),
            caches: Caches::default(),
            touched: BTreeMap::new(),
            ready: BTreeMap::new(),
            endpoints: Vec::new(),
            culprit: None,
            found: BTreeMap::new(),
            remembered: BTreeMap::new(),
            endless: false,
            buried: BTreeSet::new(),
            explain: false,
            failed: Vec::new(),
        }
    }
}

impl<D: Dice> Run<'_, D> {
    fn all(&mut self) {
        self.set_out();
        while self.advance(Time::MAX) {}
        let limit = self.simulation.now().max(self.story.until) + PATIENCE;
        while self.busy() && self.simulation.step(limit) {
            self.look();
        }
        self.endless = self.busy();
        self.let_pass(self.story.until.max(self.simulation.now()));
        self.check_flat();
        let active: Vec<String> = self.faults.keys().cloned().collect();
        for id in active {
            self.count_touched(&id);
        }
        self.check_ends();
    }

    /// Plans everything that is to happen.
    pub(super) fn set_out(&mut self) {
        self.watch_invariants();
        self.serve_more();
        self.ask_again();
        self.shortfalls();
        self.count_endpoints(&Dirty::All);
        // What is looked at at a moment is looked at before anything is done then.
        self.plan_looks();
        for (at, doing) in &self.story.agenda {
            self.plan(*at, Task::Do(doing.clone()));
        }
        self.start_waiting();
    }

    /// Lets the story go on until everything is done that is to be done up to a moment.
    pub(super) fn go_on(&mut self, until: Time) {
        while self.advance(until) {}
        self.let_pass(until);
    }

    /// Does the next thing that is planned up to a moment, or lets the event happen that comes before it; returns whether anything is
    /// planned. What happens may plan something that comes earlier.
    fn advance(&mut self, until: Time) -> bool {
        let next = self.agenda.first_key_value().map(|(&(at, _), _)| at);
        let Some(at) = next.filter(|at| *at <= until) else {
            return false;
        };
        if self.simulation.step(at) {
            self.look();
            return true;
        }
        self.simulation.run_until(at);
        if let Some((_, task)) = self.agenda.pop_first() {
            self.do_next(task);
        }
        true
    }

    /// Lets the story go on until an attempt has ended, or until a moment.
    pub(super) fn follow(&mut self, number: usize, until: Time) {
        self.go_on_while(until, |run| run.open.contains(&number));
    }

    /// Runs a command that sends packets while the story goes on, and returns what it prints; nothing if it has not
    /// ended at that moment.
    pub(super) fn command(
        &mut self,
        on: &Thing,
        text: String,
        tool: Tool,
        until: Time,
    ) -> Option<String> {
        let number = self.tools.len();
        self.tool(on, text, tool);
        let output = |run: &Self| run.tools.get(number)?.output.clone();
        self.go_on_while(until, |run| {
            run.tools.len() > number && output(run).is_none()
        });
        output(self)
    }

    fn go_on_while(&mut self, until: Time, going: impl Fn(&Self) -> bool) {
        while going(self) && self.simulation.now() < until {
            let next = self.agenda.first_key_value().map(|(&(at, _), _)| at);
            let next = next.map_or(until, |next| next.min(until));
            if self.simulation.step(next) {
                self.look();
            } else {
                self.go_on(next);
            }
        }
    }

    /// Makes an attempt now, and returns its number.
    pub(super) fn attempt(&mut self, attempt: &Attempt, name: &str) -> usize {
        let number = self.attempts.len();
        self.begin_attempt(attempt, name);
        number
    }

    /// Returns what came of an attempt, and the records that tell of it: its own, and those of changes meanwhile.
    pub(super) fn told(&self, number: usize) -> Option<(ProbeOutcome, Code, Vec<Record>)> {
        let attempt = self.attempts.get(number)?;
        let (outcome, code) = attempt.ended.clone()?;
        let mine = |(n, record): &(usize, &Record)| {
            let owner = self.owners.get(*n).copied().flatten();
            owner == Some(number) || record.at > attempt.at && tells_of_a_change(record)
        };
        let records = self.simulation.recorder.records().iter().enumerate();
        let records = records.filter(mine).map(|(_, record)| record.clone());
        Some((outcome, code, records.collect()))
    }

    fn plan_looks(&mut self) {
        for (number, expected) in self.story.expect.iter().enumerate() {
            match expected {
                Expectation::Allows(Reaching { at: Some(at), .. })
                | Expectation::Denies(Reaching { at: Some(at), .. })
                | Expectation::OnlyAllowed { at: Some(at), .. } => {
                    self.plan(at.0, Task::Look(number));
                }
                Expectation::Unchanged { from, to } => {
                    self.plan(from.0, Task::Remember);
                    self.plan(to.0, Task::Remember);
                }
                Expectation::Allows(_)
                | Expectation::Denies(_)
                | Expectation::OnlyAllowed { .. }
                | Expectation::Outcome { .. }
                | Expectation::Share { .. }
                | Expectation::Endpoints(_)
                | Expectation::Touched { .. }
                | Expectation::Within { .. }
                | Expectation::Always(_) => {}
            }
        }
    }

    pub(super) fn plan(&mut self, at: Time, task: Task) {
        self.agenda.insert((at, self.numbered), task);
        self.numbered += 1;
    }

    pub(super) fn plan_after(&mut self, after: Duration, task: Task) {
        self.plan(self.simulation.now() + after, task);
    }

    /// Lets the cluster work until a moment.
    fn let_pass(&mut self, until: Time) {
        while self.simulation.step(until) {
            self.look();
        }
        self.simulation.run_until(until);
    }

    /// Returns how long a reaction takes this time.
    pub(super) fn takes(&mut self, reaction: Reaction) -> Duration {
        self.reactions.insert(reaction);
        let Span { least, most } = self.story.lab.plan.reactions.span(reaction);
        let width = most.saturating_sub(least).as_nanos();
        let Some(width) = u64::try_from(width).ok().filter(|width| *width > 0) else {
            return least;
        };
        let stream = Stream::named(Purpose::Delay, reaction.name());
        least + Duration::from_nanos(self.simulation.dice.pick(stream, width + 1))
    }

    pub(super) fn plan_reaction(&mut self, reaction: Reaction, task: Task) {
        let after = self.takes(reaction);
        self.plan_after(after, task);
    }

    /// As [`Self::plan_once`].
    pub(super) fn plan_reaction_once(&mut self, reaction: Reaction, task: Task) {
        let after = self.takes(reaction);
        self.plan_once(after, task);
    }

    /// Plans a task, unless one of its kind is waiting already.
    pub(super) fn plan_once(&mut self, after: Duration, task: Task) {
        let same = std::mem::discriminant(&task);
        let waits = |other: &Task| std::mem::discriminant(other) == same;
        if !self.agenda.values().any(waits) {
            self.plan_after(after, task);
        }
    }

    pub(super) fn note(&mut self, action: Action) {
        self.simulation.note(Place::CLUSTER, Step::general(action));
    }

    /// What the control plane could not do is the beginning of the story.
    fn shortfalls(&mut self) {
        for shortfall in self.lab.shortfalls.clone() {
            let what = format!(
                "{}: {} ({})",
                shortfall.object, shortfall.says, shortfall.code
            );
            self.note(Action::Changed { what });
        }
    }

    /// Does what the agenda says, and looks at what came of it.
    fn do_next(&mut self, task: Task) {
        let scope = Scope::of(&task);
        self.perform(task);
        self.check_consistent(&scope);
        self.look();
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Do(Doing::Probe(attempt)) => self.probe(&attempt),
            Task::Do(Doing::Load {
                attempt,
                rate,
                lasts,
            }) => self.begin_load(*attempt, rate, lasts),
            Task::LoadMore(load) => self.load_more(load),
            Task::LoadTell(load) => self.tell_load(load),
            Task::Do(Doing::Cordon { node, shut }) => self.cordon(&node, shut),
            Task::Do(Doing::Drain { node, force }) => self.drain(&node, force),
            Task::Do(Doing::Churn(churn)) => self.begin_churn(churn),
            Task::ChurnMore(churn) => self.churn_more(churn),
            Task::Do(Doing::Note(text)) => self.note(Action::Note { text }),
            Task::Do(Doing::Exec { on, text, command }) => self.exec(&on, text, &command),
            Task::Do(Doing::Tool { on, text, tool }) => self.tool(&on, text, tool),
            Task::Do(Doing::Begin {
                id,
                fault,
                lasts,
                mark,
            }) => self.begin(id, fault, lasts, mark),
            Task::End(id) => self.end(&id),
            Task::Ready(pod, ready) => {
                self.ready(&pod, ready);
                // Whoever rolls out may have waited for it.
                if let Some(pod) = self.lab.objects.pods.get(&pod).filter(|_| ready).cloned() {
                    self.became_ready(&pod);
                }
            }
            Task::Available(pod) => {
                if let Some(pod) = self.lab.objects.pods.get(&pod).cloned() {
                    self.wake_owners(&pod);
                }
            }
            Task::Do(Doing::Write { what, changes }) => {
                self.check_flat();
                self.write(what, changes);
            }
            Task::Workloads => self.workloads(),
            Task::Begin(pod) => self.begin_pod(&pod),
            Task::Terminate(pod) => self.terminate_pod(&pod),
            Task::Stop(pod) => self.stop_pod(&pod),
            Task::Restart(pod) => self.restart(&pod),
            Task::Names => self.names(),
            Task::Slices => self.slices(),
            Task::Rules => {
                let dirty = std::mem::take(&mut self.memory.rules);
                self.lab.program(&mut self.simulation.machines, &dirty);
                self.lab.serve_health(&mut self.simulation);
                let mut what = "kube-proxy on every node has written its rules".to_owned();
                for (n, node) in self.lab.stopped.iter().enumerate() {
                    let word = if n == 0 { ", but not on" } else { "," };
                    let _ = write!(what, "{word} {node}");
                }
                self.note(Action::Changed { what });
            }
            Task::Look(number) => {
                if let Some(expected) = self.story.expect.get(number) {
                    let found = self.reaches(expected);
                    self.found.insert(number, found);
                }
            }
            Task::Remember => {
                let answer = self.reachability();
                self.remembered.insert(self.simulation.now(), answer);
            }
            Task::Policies => self.policies(),
        }
    }

    // ---- attempts ----

    fn probe(&mut self, attempt: &Attempt) {
        let name = label("probe", &attempt.id, self.attempts.len());
        self.begin_attempt(attempt, &name);
    }

    fn begin_attempt(&mut self, attempt: &Attempt, name: &str) {
        self.make_attempt(attempt, name, None);
    }

    pub(super) fn make_attempt(&mut self, attempt: &Attempt, name: &str, load: Option<usize>) {
        let number = self.attempts.len();
        let at = self.simulation.now();
        let mut kept = None;
        let made = self.lab.source(&attempt.from).and_then(|source| {
            let request = match self.caches.use_for(&source.name, &attempt.request, at) {
                Some((request, answer)) => {
                    kept = Some(answer);
                    request
                }
                None => attempt.request.clone(),
            };
            let probe = self.lab.probe(&source, &request)?;
            Ok((source, probe))
        });
        let who = made.as_ref().map(|(source, _)| Arc::clone(&source.name));
        let mut attempted = Attempted {
            probe: attempt.id.clone(),
            at,
            ended: None,
            queries: 0,
            kept,
            who: who.unwrap_or_else(|_| "".into()),
            from: attempt.from.clone(),
            request: attempt.request.clone(),
            must: attempt.must,
            unheard: self.unheard(),
            requests: attempt.requests.map_or(1, |(requests, _)| requests),
            app: None,
            place: Place::CLUSTER,
            load,
        };
        match made {
            Ok((source, mut probe)) => {
                if let Some((requests, pause)) = attempt.requests {
                    probe = probe.asking(requests, pause);
                }
                if let Some(bytes) = attempt.payload {
                    probe = probe.carrying(bytes);
                }
                let kept = attempted.kept.as_ref().map(|kept| {
                    let (ip, age) = (kept.ip, kept.age);
                    format!(", which is {ip} in its cache, {age:?} old")
                });
                let what = format!(
                    "{} to {} ({}){}",
                    source.name,
                    attempt.request.target,
                    attempt.request.l4,
                    kept.unwrap_or_default()
                );
                attempted.place.netns = Some(source.netns);
                attempted.place.stage = Stage::Socket;
                if load.is_some() {
                    self.simulation.recorder.begin_load(at, number as u64);
                } else {
                    let probe_name = attempt.id.clone();
                    let started = Action::ProbeStarted {
                        probe: probe_name,
                        what,
                    };
                    self.simulation
                        .note(attempted.place, Step::general(started));
                    self.owners
                        .resize(self.simulation.recorder.records().len(), None);
                    if let Some(last) = self.owners.last_mut() {
                        *last = Some(number);
                    }
                }
                let program = Program::Probe(Box::new(probe));
                let app = self.simulation.add_app(source.netns, name, program);
                if attempt.request.l4 == L4::Icmp {
                    self.simulation.listen_raw(app);
                }
                self.simulation.start_at(at, app);
                attempted.app = Some(app);
                self.open.insert(number);
            }
            Err(error) => {
                let text = format!("probe {} cannot be made: {error}", attempt.id);
                self.note(Action::Note { text });
            }
        }
        self.attempts.push(attempted);
    }

    /// Looks at what happened since the last time: whose it is, and which attempts have ended.
    fn look(&mut self) {
        self.look_at_tools();
        self.look_at_name_servers();
        if self.open.is_empty() {
            return;
        }
        let records = self.simulation.recorder.records();
        for record in records.iter().skip(self.owners.len()) {
            let before = record.cause.and_then(|cause| usize::try_from(cause).ok());
            let owner = before.and_then(|cause| self.owners.get(cause).copied().flatten());
            // A packet that waited for a neighbour goes on because of somebody else's question.
            let packet = record
                .step
                .packet
                .as_ref()
                .map(podwire_models::wire::Head::id);
            let known = packet.and_then(|id| self.packets.get(&id).copied());
            let owner = known.or(owner);
            if let (Some(id), Some(owner)) = (packet, owner) {
                self.packets.entry(id).or_insert(owner);
            }
            self.owners.push(owner);
            let code = record.step.action.ends_with();
            if let (Some(owner), Some(code)) = (owner, code)
                && code != Code::Ok
                && code != Code::NotForUs
            {
                self.codes.insert(owner, code);
            }
        }
        let ended: Vec<(usize, ProbeOutcome, u32)> = self
            .open
            .iter()
            .filter_map(|n| {
                let app = self.attempts.get(*n)?.app?;
                let outcomes = self.simulation.outcomes(app);
                let queries = |outcome: &Outcome| match outcome {
                    Outcome::Lookup(lookup) => lookup.queries,
                    Outcome::Probe(_)
                    | Outcome::Ping(_)
                    | Outcome::Traceroute(_)
                    | Outcome::Dig(_) => 0,
                };
                let asked = outcomes.iter().map(queries).sum();
                outcomes.iter().find_map(|outcome| match outcome {
                    Outcome::Probe(outcome) => Some((*n, outcome.clone(), asked)),
                    Outcome::Lookup(_)
                    | Outcome::Ping(_)
                    | Outcome::Traceroute(_)
                    | Outcome::Dig(_) => None,
                })
            })
            .collect();
        for (n, outcome, queries) in ended {
            self.open.remove(&n);
            self.keep_of(n);
            let load = self.attempts.get(n).and_then(|attempt| attempt.load);
            let aside = match load {
                Some(_) => self.simulation.recorder.end_load(n as u64),
                None => Vec::new(),
            };
            let ends = aside.iter().rev().find_map(|record| {
                let code = record.step.action.ends_with()?;
                (code != Code::Ok && code != Code::NotForUs).then_some(code)
            });
            let seen = self.codes.remove(&n).or(ends);
            let code = match outcome.result {
                _ if outcome.code == Some(Code::SourcePortTaken) => Code::SourcePortTaken,
                ProbeResult::Connected => Code::Ok,
                ProbeResult::DnsFailure => outcome.code.or(seen).unwrap_or(Code::NoAnswer),
                ProbeResult::Refused
                | ProbeResult::Unreachable
                | ProbeResult::Timeout
                | ProbeResult::Reset => seen.or(outcome.code).unwrap_or(Code::NoAnswer),
            };
            let machines = &self.simulation.machines;
            let code = if code == Code::Ok {
                self.well(n, &outcome, &aside)
            } else if self.used_a_stale_answer(n) {
                Code::DnsStaleAnswer
            } else {
                let records = || self.records_of(n).chain(&aside);
                let code = attempt::or_stale(code, records(), machines);
                let code = attempt::or_predating(code, records(), machines);
                let code = attempt::or_leaked(code, records(), machines);
                let code = attempt::or_overlapping(code, records(), &self.lab.plan.site);
                attempt::or_lagging(code, records(), &self.lab, &self.names)
            };
            let dropped = code;
            let code = match self.called(n) {
                Some(_) if dropped == Code::AclDenied => Code::CpFirewall,
                Some(_) | None => dropped,
            };
            let Some(attempt) = self.attempts.get_mut(n) else {
                continue;
            };
            let action = Action::ProbeEnded {
                probe: attempt.probe.clone(),
                result: outcome.result.name().to_owned(),
                code,
                after: outcome.after,
            };
            attempt.ended = Some((outcome.clone(), code));
            attempt.queries = queries;
            if let Some(load) = load {
                let began = attempt.at;
                self.count_load(load, began, outcome.result, code);
                self.touch(&aside);
                if self.explain && code != Code::Ok {
                    self.blame(n, outcome, (dropped, code), &aside);
                }
                continue;
            }
            let place = attempt.place;
            let cause = self.simulation.recorder.cause();
            let now = self.simulation.now();
            let recorder = &mut self.simulation.recorder;
            recorder.begin(now, cause);
            podwire_models::wire::Recorder::record(recorder, place, Step::general(action));
            if self.explain && code != Code::Ok {
                self.blame(n, outcome, (dropped, code), &[]);
            }
        }
        self.decide();
    }

    /// Lets the program of an attempt keep what it found out about its name.
    fn keep_of(&mut self, number: usize) {
        let Some(attempt) = self.attempts.get(number) else {
            return;
        };
        let Some(app) = attempt.app else {
            return;
        };
        let (who, request, at) = (
            Arc::clone(&attempt.who),
            attempt.request.clone(),
            attempt.at,
        );
        let outcomes = self.simulation.outcomes(app).to_vec();
        self.keep(&who, &request, at, &outcomes);
    }

    /// Returns with what an attempt that connected ended: well, or not with whom it was meant to.
    fn well(&self, number: usize, outcome: &ProbeOutcome, aside: &[Record]) -> Code {
        let records = || self.records_of(number).chain(aside);
        if !self.lab.gone.is_empty() && attempt::reused(records(), &self.lab).is_some() {
            return Code::IpReused;
        }
        if self.let_in_early(number, outcome, records()) {
            return Code::NpLag;
        }
        let attempt = self.attempts.get(number);
        if let Some(attempt) = attempt.filter(|attempt| attempt.requests > 1)
            && let Some((_, service)) = attempt::chosen(records(), &self.lab)
            && self.ready_at(&service.key, self.simulation.now())
                > self.ready_at(&service.key, attempt.at)
        {
            return Code::ConnPinned;
        }
        Code::Ok
    }

    /// Whether policies deny an attempt that began before the agents had heard of them, or of its pods.
    fn let_in_early<'r>(
        &self,
        number: usize,
        outcome: &ProbeOutcome,
        records: impl Iterator<Item = &'r Record>,
    ) -> bool {
        let Some(attempt) = self.attempts.get(number) else {
            return false;
        };
        let enforced = self.lab.plan.site.cni.enforcer() != Enforcer::Nobody;
        // Only while all is as it was when it began can be said what was meant then.
        let latest = attempt.unheard.is_some_and(|change| self.is_latest(change));
        if !enforced || !latest {
            return false;
        }
        let ends = attempt::ends(records, attempt.request.l4, outcome);
        let Some((client, server, flow)) = ends else {
            return false;
        };
        let policies = Policies::new(Arc::new(self.lab.objects.clone()));
        let (source, destination) = (policies.party(client), policies.party(server));
        let both = source.pod().is_some() && destination.pod().is_some();
        both && !policies.verdict(&source, &destination, flow).allowed()
    }

    /// Whether an attempt failed with an answer from a cache that is no longer true.
    fn used_a_stale_answer(&self, number: usize) -> bool {
        let kept = self.attempts.get(number).and_then(|a| a.kept.as_ref());
        kept.is_some_and(|kept| !super::cache::has(&self.lab.zone, &kept.name, kept.ip))
    }

    /// Returns the records that tell of an attempt.
    fn records_of(&self, number: usize) -> impl Iterator<Item = &Record> {
        let records = self.simulation.recorder.records().iter().zip(&self.owners);
        let own = records.filter(move |(_, owner)| **owner == Some(number));
        own.map(|(record, _)| record)
    }

    /// Finds out what stood in the way of an attempt, once for each probe and code.
    /// `dropped` is the code with which its last packet ended, `code` the one it ended with.
    fn blame(
        &mut self,
        number: usize,
        outcome: ProbeOutcome,
        (dropped, code): (Code, Code),
        aside: &[Record],
    ) {
        let Some(attempt) = self.attempts.get(number) else {
            return;
        };
        let known = |failed: &Failed| failed.probe == attempt.probe && failed.code == code;
        if self.failed.iter().any(known) {
            return;
        }
        let own = self.records_of(number).chain(aside);
        let attempted = attempt::Attempted {
            chance: Ratio::ONE,
            outcome,
            code: dropped,
            kept: attempt.kept.clone(),
            trace: Trace {
                records: own.cloned().collect(),
                names: self.names.clone(),
            },
        };
        let mut lab = self.lab.clone();
        lab.machines = self.simulation.machines.clone();
        let world = World {
            objects: lab.objects.clone(),
            plan: lab.plan.clone(),
        };
        let (from, request) = (&attempt.from, &attempt.request);
        let origins = &self.story.origins;
        let mut why = why::blockers(&world, &lab, origins, from, request, &attempted, 1);
        for blocker in &mut why {
            if let Some(place) = self.fault_behind(blocker) {
                blocker.origin = Some(place);
            }
        }
        if let (Some(webhook), Some(first)) = (self.called(number), why.first_mut()) {
            let says = std::mem::take(&mut first.says);
            first.says = format!("the API server cannot call webhook {webhook}: {says}");
            if code != dropped {
                first.code = code.name();
                let see =
                    "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations";
                first.kubectl = Some(see.to_owned());
                code.page().fix.clone_into(&mut first.fix);
            }
        }
        self.failed.push(Failed {
            probe: attempt.probe.clone(),
            at: attempt.at,
            code,
            why,
        });
    }

    /// Whether anything is still to be done or found out.
    pub(super) fn goes_on(&self) -> bool {
        let wanted = |task: &Task| matches!(task, Task::Do(_) | Task::End(_));
        self.busy() || self.simulation.now() < self.story.until || self.agenda.values().any(wanted)
    }

    fn busy(&self) -> bool {
        !self.open.is_empty() || self.tools.iter().any(|running| running.output.is_none())
    }

    fn finish(self) -> Ran {
        let mut expectations: Vec<Held> = self
            .story
            .expect
            .iter()
            .enumerate()
            .map(|(number, expected)| self.held(number, expected))
            .collect();
        expectations.extend(self.musts());
        expectations.extend(self.inert());
        if self.endless {
            expectations.push(Held {
                text: "every attempt ends".into(),
                held: false,
                why: format!("some are still under way {PATIENCE:?} after the last step"),
            });
        }
        let events = self.simulation.events();
        let trace = self.simulation.recorder.finish(self.names);
        let fingerprint = Fingerprint::of(&trace);
        Ran {
            trace,
            fingerprint,
            expectations,
            attempts: self.attempts,
            blockers: self.failed,
            events,
            reactions: self.reactions,
        }
    }
}

/// Whether a record tells of something that was done to the cluster.
const fn tells_of_a_change(record: &Record) -> bool {
    matches!(
        record.step.action,
        Action::Changed { .. }
            | Action::FaultBegan { .. }
            | Action::FaultEnded { .. }
            | Action::Note { .. }
    )
}
