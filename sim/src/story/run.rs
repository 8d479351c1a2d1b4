//! Runs a story: does what its agenda says when it says so, lets controllers react, and finds out whether what was
//! expected held.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, ObjectKey, Ratio, Time};
use podwire_models::control::readiness;
use podwire_models::kernel::Netns;
use podwire_models::wire::{Action, Code, L4, NetnsId, PacketId, Place, Stage, Step};

use super::live::Memory;
use super::load::Load;
use super::reaches::{self, Found};
use super::resolve::{Attempt, Command, Doing, Server, Story, label};
use crate::attempt::{self, Request};
use crate::controllers::runner::Runner;
use crate::controllers::{self, PLEG_RELIST, POD_START, PROXY_SYNC, ZONE_SYNC};
use crate::engine::dice::Seeded;
use crate::fault::{Fault, Undo};
use crate::flat::flat_network;
use crate::lab::{Lab, answers};
use crate::program::Program;
use crate::reach::Reachability;
use crate::scenario::address::Thing;
use crate::scenario::expect::{Condition, Expectation, Invariant, Outcome as Wanted, Reaching};
use crate::scenario::file::Must;
use crate::simulation::{AppId, Simulation};
use crate::tool::Tool;
use crate::trace::record::{Record, Trace, TraceRecorder};
use crate::trace::{Fingerprint, Names};
use crate::traffic::{Outcome, ProbeOutcome, ProbeResult, sctp, tcp, udp};
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
    from: Thing,
    request: Request,
    must: Option<Must>,
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

/// A command that sends packets.
struct Running {
    app: AppId,
    place: Place,
    text: String,
    tool: Tool,
    /// What it printed, once it has ended.
    output: Option<String>,
}

/// A fault that is in force.
struct Active {
    fault: Fault,
    undo: Undo,
    since: usize,
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
    /// Attempts that have not ended.
    open: BTreeSet<usize>,
    /// To which attempt each record belongs: causes lead back to the record with which it began.
    owners: Vec<Option<usize>>,
    /// To which attempt a packet belongs.
    packets: BTreeMap<PacketId, usize>,
    /// The last refusal or loss on the way of each open attempt.
    codes: BTreeMap<usize, Code>,
    /// Commands that send packets.
    tools: Vec<Running>,
    faults: BTreeMap<String, Active>,
    touched: BTreeMap<String, u64>,
    /// Number of ready endpoints of each Service since when.
    endpoints: Vec<(Time, BTreeMap<ObjectKey, u64>)>,
    /// The first pair of pods that could not reach each other.
    culprit: Option<String>,
    /// What was found for expectations about a moment, by their number.
    found: BTreeMap<usize, Found>,
    /// Who may talk to whom at moments that are compared.
    remembered: BTreeMap<Time, Reachability>,
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
            open: BTreeSet::new(),
            owners: Vec::new(),
            packets: BTreeMap::new(),
            codes: BTreeMap::new(),
            tools: Vec::new(),
            faults: BTreeMap::new(),
            touched: BTreeMap::new(),
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
        while let Some(((at, _), task)) = self.agenda.pop_first() {
            self.let_pass(at);
            self.perform(task);
            self.look();
        }
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
    }

    /// Plans everything that is to happen.
    pub(super) fn set_out(&mut self) {
        self.serve_more();
        self.ask_again();
        self.shortfalls();
        self.count_endpoints();
        // What is looked at at a moment is looked at before anything is done then.
        self.plan_looks();
        for (at, doing) in &self.story.agenda {
            self.plan(*at, Task::Do(doing.clone()));
        }
    }

    /// Lets the story go on until everything is done that is to be done up to a moment.
    pub(super) fn go_on(&mut self, until: Time) {
        while let Some((&(at, _), _)) = self.agenda.first_key_value()
            && at <= until
        {
            self.let_pass(at);
            if let Some((_, task)) = self.agenda.pop_first() {
                self.perform(task);
                self.look();
            }
        }
        self.let_pass(until);
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
            Task::Do(Doing::Note(text)) => self.note(Action::Note { text }),
            Task::Do(Doing::Exec { on, text, command }) => self.exec(&on, text, &command),
            Task::Do(Doing::Tool { on, text, tool }) => self.tool(&on, text, tool),
            Task::Do(Doing::Begin { id, fault, lasts }) => self.begin(id, fault, lasts),
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
                self.lab.program(&mut self.simulation.machines);
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
            Task::Policies => {
                self.lab.enforce(&mut self.simulation.machines);
                let what = "policy agents on every node know the policies".to_owned();
                self.note(Action::Changed { what });
            }
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
        let made = self.lab.source(&attempt.from).and_then(|source| {
            let probe = self.lab.probe(&source, &attempt.request)?;
            Ok((source, probe))
        });
        let at = self.simulation.now();
        let mut attempted = Attempted {
            probe: attempt.id.clone(),
            at,
            ended: None,
            queries: 0,
            from: attempt.from.clone(),
            request: attempt.request.clone(),
            must: attempt.must,
            app: None,
            place: Place::CLUSTER,
            load,
        };
        match made {
            Ok((source, mut probe)) => {
                if let Some(bytes) = attempt.payload {
                    probe = probe.carrying(bytes);
                }
                let what = format!(
                    "{} to {} ({})",
                    source.name, attempt.request.target, attempt.request.l4
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
                code
            } else {
                let records = || self.records_of(n).chain(&aside);
                let code = attempt::or_stale(code, records(), machines);
                attempt::or_lagging(code, records(), &self.lab, &self.names)
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
                    self.blame(n, outcome, code, &aside);
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
                self.blame(n, outcome, code, &[]);
            }
        }
    }

    /// Returns the records that tell of an attempt.
    fn records_of(&self, number: usize) -> impl Iterator<Item = &Record> {
        let records = self.simulation.recorder.records().iter().zip(&self.owners);
        let own = records.filter(move |(_, owner)| **owner == Some(number));
        own.map(|(record, _)| record)
    }

    /// Finds out what stood in the way of an attempt, once for each probe and code.
    fn blame(&mut self, number: usize, outcome: ProbeOutcome, code: Code, aside: &[Record]) {
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
            code,
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
        let why = why::blockers(&world, &lab, origins, from, request, &attempted, 1);
        self.failed.push(Failed {
            probe: attempt.probe.clone(),
            at: attempt.at,
            code,
            why,
        });
    }

    // ---- commands ----

    fn exec(&mut self, on: &Thing, text: String, command: &Command) {
        let netns = self.lab.source(on).ok().map(|source| source.netns);
        let now = self.simulation.now();
        let space = netns.and_then(|id| self.simulation.machines.cluster.netns(id));
        let output = match space {
            Some(space) => show(space, command, now),
            None => format!("{on} is not there\n"),
        };
        let place = Place {
            netns,
            dev: None,
            stage: Stage::Socket,
        };
        let action = Action::Output {
            command: text,
            text: output,
        };
        self.simulation.note(place, Step::general(action));
    }

    /// Starts a command that sends packets; what it prints is told when it has ended.
    fn tool(&mut self, on: &Thing, text: String, tool: Tool) {
        let made = self.lab.source(on).and_then(|source| {
            let (program, raw) = tool.program(&self.lab, &source)?;
            Ok((source, program, raw))
        });
        match made {
            Ok((source, program, raw)) => {
                let number = self.tools.len();
                let app = self.simulation.add_app(
                    source.netns,
                    &label("command", &text, number),
                    program,
                );
                if raw {
                    self.simulation.listen_raw(app);
                }
                let now = self.simulation.now();
                self.simulation.start_at(now, app);
                let place = Place {
                    netns: Some(source.netns),
                    dev: None,
                    stage: Stage::Socket,
                };
                self.tools.push(Running {
                    app,
                    place,
                    text,
                    tool,
                    output: None,
                });
            }
            Err(error) => {
                let text = format!("`{text}` cannot be run: {error}");
                self.note(Action::Note { text });
            }
        }
    }

    /// Tells what commands have printed that have ended.
    fn look_at_tools(&mut self) {
        for running in self
            .tools
            .iter_mut()
            .filter(|running| running.output.is_none())
        {
            let mut outcomes = self.simulation.outcomes(running.app).iter();
            let Some(outcome) = outcomes.find(|outcome| running.tool.ends(outcome)) else {
                continue;
            };
            let text = running.tool.output(outcome);
            running.output = Some(text.clone());
            let command = running.text.clone();
            let action = Action::Output { command, text };
            self.simulation.note(running.place, Step::general(action));
        }
    }

    /// Whether anything is still to be done or found out.
    pub(super) fn goes_on(&self) -> bool {
        let wanted = |task: &Task| matches!(task, Task::Do(_) | Task::End(_));
        self.busy() || self.simulation.now() < self.story.until || self.agenda.values().any(wanted)
    }

    fn busy(&self) -> bool {
        !self.open.is_empty() || self.tools.iter().any(|running| running.output.is_none())
    }

    // ---- faults ----

    fn begin(&mut self, id: String, fault: Fault, lasts: Option<Duration>) {
        self.check_flat();
        let since = self.simulation.recorder.records().len();
        match fault.begin(&mut self.simulation.machines) {
            Ok(undo) => {
                let what = fault.words();
                let began = Action::FaultBegan {
                    fault: id.clone(),
                    what,
                };
                self.note(began);
                self.react(&fault, false);
                if let Some(lasts) = lasts {
                    self.plan_after(lasts, Task::End(id.clone()));
                }
                self.faults.insert(id, Active { fault, undo, since });
            }
            Err(why) => {
                let text = format!("fault {id} cannot begin: {why}");
                self.note(Action::Note { text });
            }
        }
    }

    /// Counts the packets of an attempt of a load that faults touched.
    fn touch(&mut self, records: &[Record]) {
        for (id, active) in &self.faults {
            let pod = active.fault.pod();
            let pod = pod.and_then(|pod| self.lab.objects.pods.get(pod));
            let count = active.fault.seen(&self.simulation.machines, records, pod);
            *self.touched.entry(id.clone()).or_default() += count;
        }
    }

    fn count_touched(&mut self, id: &str) -> u64 {
        let Some(active) = self.faults.get(id) else {
            return 0;
        };
        let records = self.simulation.recorder.records();
        let since = records.get(active.since..).unwrap_or_default();
        let pod = active.fault.pod();
        let pod = pod.and_then(|pod| self.lab.objects.pods.get(pod));
        let machines = &self.simulation.machines;
        let count = active.fault.touched(id, machines, since, pod);
        let all = self.touched.entry(id.to_owned()).or_default();
        *all += count;
        *all
    }

    fn end(&mut self, id: &str) {
        let touched = self.count_touched(id);
        let Some(active) = self.faults.remove(id) else {
            return;
        };
        active.undo.end(&mut self.simulation.machines);
        if let Undo::Attach(pod) = &active.undo {
            self.attach(pod);
        }
        let fault = id.to_owned();
        self.note(Action::FaultEnded { fault, touched });
        self.react(&active.fault, true);
    }

    /// Makes a killed pod's network again, and starts its programs.
    pub(super) fn attach(&mut self, key: &ObjectKey) {
        let Some(pod) = self.lab.objects.pods.get(key).cloned() else {
            return;
        };
        let mut errors = Vec::new();
        let machines = &mut self.simulation.machines;
        machines.attach(&pod, &self.lab.plan.site, &mut errors);
        for error in errors {
            self.note(Action::Note {
                text: error.to_string(),
            });
        }
        // The lab answers where a pod is, and the simulation has the machines.
        let attached = self.simulation.machines.pods.get(key).cloned();
        if let Some(attached) = attached {
            let node = format!("node/{}", attached.node);
            for id in [
                Some(attached.netns),
                self.simulation.machines.cluster.named(&node),
            ] {
                let netns = id.and_then(|id| self.simulation.machines.cluster.netns(id));
                let Some(netns) = netns else { continue };
                if netns.id == attached.netns {
                    let on = attached.node.as_str();
                    self.names.name_netns(netns.id, Some(on), &netns.name);
                }
                for device in netns.devices.iter().flatten() {
                    self.names.name_device(netns.id, device.index, &device.name);
                }
            }
            Arc::make_mut(&mut self.lab.machines.pods).insert(key.clone(), attached);
        }
        self.lab.start_pod(&pod, &mut self.simulation);
    }

    /// Lets controllers notice that pods have gone, or are back.
    fn react(&mut self, fault: &Fault, ended: bool) {
        match fault {
            Fault::PodKill { pod } => {
                let spec = self.lab.objects.pods.get(pod).map(|pod| &pod.spec);
                let asked = spec.map_or(Duration::ZERO, |spec| readiness::first_ready(spec));
                let after = if ended {
                    POD_START + asked
                } else {
                    PLEG_RELIST
                };
                self.plan_after(after, Task::Ready(pod.clone(), ended));
            }
            Fault::NodeDown { node } => {
                let pods = self.lab.objects.pods.values();
                let here = pods.filter(|pod| pod.node_name.as_ref() == Some(node));
                let keys: Vec<ObjectKey> = here.map(|pod| pod.key.clone()).collect();
                let grace = controllers::node_grace(self.lab.plan.version);
                let after = if ended { PLEG_RELIST } else { grace };
                for key in keys {
                    self.plan_after(after, Task::Ready(key, ended));
                }
            }
            Fault::KubeProxyDown { node } => {
                if ended {
                    // It starts, and synchronises at once.
                    self.lab.stopped.remove(node);
                    self.plan_once(PROXY_SYNC, Task::Rules);
                } else {
                    self.lab.stopped.insert(node.clone());
                }
            }
            Fault::LinkDown { .. }
            | Fault::Sysctl { .. }
            | Fault::ForwardDrop { .. }
            | Fault::HairpinOff { .. }
            | Fault::RouteLost { .. }
            | Fault::ConntrackRace { .. }
            | Fault::Acl(_) => {}
        }
    }

    /// What the kubelet's event says of a pod whose readiness probe fails.
    fn unhealthy(&self, key: &ObjectKey) -> Option<String> {
        let pod = self.lab.objects.pods.get(key)?;
        let machines = &self.simulation.machines;
        let failing = readiness::failing(&pod.spec, |port| answers(machines, pod, port))?;
        let says = failing.says(*pod.pod_ips.first()?);
        Some(format!("Pod/{key}: Unhealthy: {says}"))
    }

    /// Whether something keeps a pod from answering.
    fn is_gone(&self, key: &ObjectKey) -> bool {
        let netns = self.lab.objects.pods.get(key).and_then(|pod| {
            let machines = &self.simulation.machines;
            machines.netns_of(pod)
        });
        let crashed = self.lab.crashes.get(key).is_some_and(|crash| crash.down);
        crashed || netns.is_none_or(|netns| self.simulation.machines.cluster.is_off(netns))
    }

    /// Pods whose readiness probes find listeners of the story are ready before it begins.
    fn ask_again(&mut self) {
        let machines = &self.simulation.machines;
        let mut answered = Vec::new();
        for shortfall in &self.lab.shortfalls {
            let pods = self.lab.objects.pods.values();
            let pod = pods.filter(|_| shortfall.code == Code::PodUnready);
            let mut pod = pod.filter(|pod| shortfall.object == format!("Pod/{}", pod.key));
            if let Some(pod) = pod.next()
                && readiness::failing(&pod.spec, |port| answers(machines, pod, port)).is_none()
            {
                answered.push(pod.key.clone());
            }
        }
        if answered.is_empty() {
            return;
        }
        for key in answered {
            let object = format!("Pod/{key}");
            let shortfalls = &mut self.lab.shortfalls;
            shortfalls.retain(|one| one.code != Code::PodUnready || one.object != object);
            if let Some(pod) = self.lab.objects.pods.get_mut(&key) {
                pod.ready = Some(true);
            }
        }
        self.lab.refresh_slices();
        self.lab.program(&mut self.simulation.machines);
        self.lab.serve_health(&mut self.simulation);
        self.names();
    }

    pub(super) fn ready(&mut self, key: &ObjectKey, ready: bool) {
        // Whoever noticed notices too late: it is the other way round by now.
        if self.is_gone(key) == ready {
            return;
        }
        if ready && let Some(event) = self.unhealthy(key) {
            return self.note(Action::Changed { what: event });
        }
        let Some(pod) = self.lab.objects.pods.get_mut(key) else {
            return;
        };
        if pod.ready == Some(ready) {
            return;
        }
        pod.ready = Some(ready);
        let word = if ready { "ready" } else { "not ready" };
        let what = format!("Pod/{key} is {word}");
        self.note(Action::Changed { what });
        self.plan_slices();
    }

    fn slices(&mut self) {
        let before = self.ready_endpoints();
        let changed = self.lab.refresh_slices();
        let after = self.ready_endpoints();
        for (service, ready) in &after {
            if before.get(service) != Some(ready) {
                let what = format!("EndpointSlices of {service}: {ready} ready");
                self.note(Action::Changed { what });
            }
        }
        self.count_endpoints();
        if changed {
            self.plan_rules();
        }
        self.plan_after(ZONE_SYNC, Task::Names);
    }

    fn ready_endpoints(&self) -> BTreeMap<ObjectKey, u64> {
        let mut counts: BTreeMap<ObjectKey, BTreeSet<IpAddr>> = BTreeMap::new();
        for service in self.lab.objects.services.keys() {
            counts.insert(service.clone(), BTreeSet::new());
        }
        for slice in &self.lab.slices {
            let name = slice.service_name().and_then(|name| name.parse().ok());
            let Some(name) = name else { continue };
            let key = ObjectKey::new(slice.key.namespace.clone(), name);
            let ready = slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.is_ready());
            let first = ready.filter_map(|endpoint| endpoint.addresses.first());
            counts.entry(key).or_default().extend(first);
        }
        let count = |(key, all): (ObjectKey, BTreeSet<IpAddr>)| (key, all.len() as u64);
        counts.into_iter().map(count).collect()
    }

    fn count_endpoints(&mut self) {
        let counts = self.ready_endpoints();
        self.endpoints.push((self.simulation.now(), counts));
    }

    // ---- servers ----

    /// Starts the servers that the scenario itself asks for.
    fn serve_more(&mut self) {
        let pods: Vec<ObjectKey> = self.lab.objects.pods.keys().cloned().collect();
        for pod in pods {
            self.serve_listeners(&pod);
        }
        for (host, l4, port) in &self.story.hosts {
            let netns = self.lab.machines.hosts.get(host.as_str()).copied();
            if let Some(netns) = netns {
                self.serve_port(
                    netns,
                    &host.as_str().into(),
                    *l4,
                    None,
                    *port,
                    Duration::ZERO,
                );
            }
        }
    }

    /// Starts the servers that the scenario wants in a pod.
    pub(super) fn serve_listeners(&mut self, key: &ObjectKey) {
        let Some(pod) = self.lab.objects.pods.get(key).cloned() else {
            return;
        };
        let story = self.story;
        for server in &story.listen {
            let listen = &server.pods;
            let here = listen.namespace.as_ref();
            if listen.pods.matches(&pod.labels)
                && here.is_none_or(|n| **n == pod.key.namespace)
                && let Some(netns) = self.lab.machines.netns_of(&pod)
            {
                self.serve(netns, &pod.key.to_string().into(), server);
            }
        }
    }

    fn serve(&mut self, netns: NetnsId, name: &Arc<str>, server: &Server) {
        let address = server.pods.address.as_deref().copied();
        let tcp = server.pods.tcp.iter().map(|port| (L4::Tcp, *port));
        let udp = server.pods.udp.iter().map(|port| (L4::Udp, *port));
        let sctp = server.pods.sctp.iter().map(|port| (L4::Sctp, *port));
        for (l4, port) in tcp.chain(udp).chain(sctp) {
            self.serve_port(netns, name, l4, address, port, server.service_time);
        }
    }

    fn serve_port(
        &mut self,
        netns: NetnsId,
        name: &Arc<str>,
        l4: L4,
        address: Option<IpAddr>,
        port: u16,
        service_time: Duration,
    ) {
        let mtu = self.simulation.mtu_of(netns);
        let program = match l4 {
            L4::Tcp => {
                let mut settings = tcp::ServerSettings::new(Arc::clone(name));
                settings.service_time = service_time;
                settings.mtu = mtu;
                Program::TcpServer(Box::new(tcp::TcpServer::new(settings)))
            }
            L4::Udp => {
                let mut settings = udp::ServerSettings::new(Arc::clone(name));
                settings.service_time = service_time;
                settings.mtu = mtu;
                Program::UdpServer(udp::UdpServer::new(settings))
            }
            L4::Sctp => {
                let mut settings = sctp::ServerSettings::new(Arc::clone(name));
                settings.service_time = service_time;
                settings.mtu = mtu;
                Program::SctpServer(Box::new(sctp::SctpServer::new(settings)))
            }
            L4::Icmp => return,
        };
        let app = self
            .simulation
            .add_app(netns, &format!("server {name} {port}/{l4}"), program);
        if let Err(errno) = self.simulation.listen(app, l4, address, port) {
            let text = format!("{name} cannot listen on {port}/{l4}: {errno}");
            self.note(Action::Note { text });
        }
    }

    // ---- what was expected ----

    /// Checks that every pod reaches every pod, unless a fault is in force or that is not expected.
    fn check_flat(&mut self) {
        let flat = Expectation::is_flat;
        let wanted = self.story.expect.iter().any(flat);
        if !wanted || self.culprit.is_some() || !self.faults.is_empty() {
            return;
        }
        let now = self.simulation.now();
        let mut machines = &self.simulation.machines;
        let mut open;
        if self.lab.policed {
            // The network is flat where no policy says otherwise.
            open = machines.clone();
            open.forget_policies();
            machines = &open;
        }
        let pods = self.lab.objects.pods.iter();
        let attached = pods.filter(|(key, _)| machines.pods.contains_key(*key));
        let addresses: Vec<_> = attached
            .map(|(key, pod)| (key.clone(), pod.pod_ips.clone()))
            .collect();
        if let Err(culprit) = flat_network(machines, &addresses, now) {
            self.culprit = Some(format!("at {now}: {culprit}"));
        }
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
        if self.endless {
            expectations.push(Held {
                text: "every attempt ends".into(),
                held: false,
                why: format!("some are still under way {PATIENCE:?} after the last step"),
            });
        }
        let trace = self.simulation.recorder.finish(self.names);
        let fingerprint = Fingerprint::of(&trace);
        Ran {
            trace,
            fingerprint,
            expectations,
            attempts: self.attempts,
            blockers: self.failed,
        }
    }

    fn held(&self, number: usize, expected: &Expectation) -> Held {
        let (text, problems) = match expected {
            Expectation::Outcome { probe, .. } => {
                let text = format!("Outcome of {}: {}", **probe, wanted_text(expected));
                let all = self.attempts.iter().filter(|a| a.probe == probe.as_str());
                let mut count = 0_u64;
                let mut why: Vec<String> = Vec::new();
                for attempt in all {
                    count += 1;
                    why.extend(differs(expected, attempt));
                }
                if count == 0 {
                    why.push("it was never tried".into());
                }
                (text, why)
            }
            Expectation::Share {
                probe,
                delivered,
                at_least,
                at_most,
            } => {
                let all = self.attempts.iter().filter(|a| a.probe == probe.as_str());
                let (mut tried, mut connected) = (0_u64, 0_u64);
                for attempt in all {
                    tried += 1;
                    connected += u64::from(connects(attempt));
                }
                let share = Ratio::new(u128::from(connected), u128::from(tried.max(1)));
                let wrong = tried == 0
                    || delivered.as_deref().is_some_and(|wanted| share != *wanted)
                    || at_least.as_deref().is_some_and(|wanted| share < *wanted)
                    || at_most.as_deref().is_some_and(|wanted| share > *wanted);
                let mut text = format!("Share of {} that connects:", **probe);
                for (word, ratio) in [
                    ("", delivered),
                    ("at least ", at_least),
                    ("at most ", at_most),
                ] {
                    if let Some(ratio) = ratio {
                        let _ = write!(text, " {word}{}", **ratio);
                    }
                }
                let why = wrong.then(|| format!("{connected} of {tried} connected"));
                (text, why.into_iter().collect())
            }
            Expectation::Endpoints(wanted) => {
                let at = wanted.at.as_ref().map_or(Time::MAX, |at| at.0);
                let found = self.ready_at(&wanted.service, at);
                let text = format!("{} ready endpoints of {}", wanted.ready, *wanted.service);
                let wrong = found != wanted.ready;
                (
                    text,
                    wrong
                        .then(|| format!("there are {found}"))
                        .into_iter()
                        .collect(),
                )
            }
            Expectation::Touched { fault, at_least } => {
                let found = self.touched.get(fault.as_str()).copied().unwrap_or(0);
                let text = format!("{} touches at least {at_least} packets", **fault);
                let wrong = found < *at_least;
                (
                    text,
                    wrong
                        .then(|| format!("it touched {found}"))
                        .into_iter()
                        .collect(),
                )
            }
            Expectation::Within {
                after,
                condition: Condition::Endpoints(wanted),
                limit,
            } => {
                let (from, to) = (after.0, after.0 + limit.0);
                let inside = self
                    .endpoints
                    .iter()
                    .filter(|(at, _)| *at > from && *at <= to);
                let counts = inside.map(|(_, counts)| counts.get(&*wanted.service).copied());
                let found = self.ready_at(&wanted.service, from) == wanted.ready
                    || counts.into_iter().any(|count| count == Some(wanted.ready));
                let text = format!(
                    "{} ready endpoints of {} between {from} and {to}",
                    wanted.ready, *wanted.service
                );
                (
                    text,
                    (!found).then(|| "never".to_owned()).into_iter().collect(),
                )
            }
            Expectation::Allows(reaching) | Expectation::Denies(reaching) => {
                let verb = if matches!(expected, Expectation::Allows(_)) {
                    "may"
                } else {
                    "may not"
                };
                let Reaching { from, to, port, at } = reaching;
                let when = at
                    .as_ref()
                    .map_or_else(String::new, |at| format!(" at {}", at.0));
                let text = format!("{} {verb} reach {} on {}{when}", **from, **to, **port);
                (text, self.found_or_now(number, expected))
            }
            Expectation::OnlyAllowed { among, at } => {
                let when = at
                    .as_ref()
                    .map_or_else(String::new, |at| format!(" at {}", at.0));
                let text = format!("only what is expected is allowed among {}{when}", **among);
                (text, self.found_or_now(number, expected))
            }
            Expectation::Unchanged { from, to } => {
                let (from, to) = (from.0, to.0);
                let text = format!("who may talk to whom is the same at {from} and at {to}");
                let both = self.remembered.get(&from).zip(self.remembered.get(&to));
                let why = both.map_or_else(
                    || vec!["the run ended before".to_owned()],
                    |(before, after)| reaches::changed(before, after),
                );
                (text, why)
            }
            Expectation::Always(Invariant::FlatNetwork) => {
                let text = "always: every pod reaches every pod, no address rewritten".to_owned();
                (text, self.culprit.iter().cloned().collect())
            }
        };
        Held {
            text,
            held: problems.is_empty(),
            why: problems.join("; "),
        }
    }

    fn found_or_now(&self, number: usize, expected: &Expectation) -> Vec<String> {
        let found = self.found.get(&number).cloned();
        found.unwrap_or_else(|| self.reaches(expected)).why
    }

    fn ready_at(&self, service: &ObjectKey, at: Time) -> u64 {
        let mut counts = self.endpoints.iter().rev();
        let then = counts.find(|(since, _)| *since <= at);
        then.and_then(|(_, counts)| counts.get(service).copied())
            .unwrap_or(0)
    }

    /// What probes say of themselves with `must`.
    fn musts(&self) -> Vec<Held> {
        let mut all: BTreeMap<(&str, bool), Vec<String>> = BTreeMap::new();
        for attempt in &self.attempts {
            let Some(must) = attempt.must else { continue };
            let work = must == Must::Work;
            let why = all.entry((&attempt.probe, work)).or_default();
            if connects(attempt) != work {
                why.push(format!("at {}: {}", attempt.at, ended_text(attempt)));
            }
        }
        let held = |((probe, work), why): ((&str, bool), Vec<String>)| Held {
            text: format!("{probe} must {}", if work { "work" } else { "fail" }),
            held: why.is_empty(),
            why: why.join("; "),
        };
        all.into_iter().map(held).collect()
    }
}

impl Expectation {
    /// Whether this asks for the flat network.
    const fn is_flat(&self) -> bool {
        matches!(self, Self::Always(Invariant::FlatNetwork))
    }
}

fn connects(attempt: &Attempted) -> bool {
    attempt
        .ended
        .as_ref()
        .is_some_and(|(outcome, _)| outcome.result == ProbeResult::Connected)
}

fn ended_text(attempt: &Attempted) -> String {
    match &attempt.ended {
        Some((outcome, code)) => format!("{} ({code})", outcome.result),
        None => "it never ended".into(),
    }
}

fn wanted_text(expected: &Expectation) -> String {
    let Expectation::Outcome {
        is,
        code,
        pod,
        backend,
        seen_source,
        queries,
        takes_at_least,
        takes_at_most,
        ..
    } = expected
    else {
        return String::new();
    };
    let mut text = is.name().to_owned();
    if let Some(code) = code {
        let _ = write!(text, ", {}", **code);
    }
    if let Some(pod) = pod {
        let _ = write!(text, ", answered by {}", **pod);
    }
    if let Some(backend) = backend {
        let _ = write!(text, ", from {}", **backend);
    }
    if let Some(source) = seen_source {
        let _ = write!(text, ", seen as {}", **source);
    }
    if let Some(queries) = queries {
        let _ = write!(text, ", after {queries} queries");
    }
    for (word, limit) in [("least", takes_at_least), ("most", takes_at_most)] {
        if let Some(limit) = limit {
            let _ = write!(text, ", takes at {word} {:?}", limit.0);
        }
    }
    text
}

/// Returns how an attempt differs from what was expected of it.
fn differs(expected: &Expectation, attempt: &Attempted) -> Option<String> {
    let Expectation::Outcome {
        is,
        code,
        pod,
        backend,
        seen_source,
        queries,
        takes_at_least,
        takes_at_most,
        ..
    } = expected
    else {
        return None;
    };
    let at = attempt.at;
    let Some((outcome, why)) = &attempt.ended else {
        return Some(format!("at {at}: it never ended"));
    };
    let too_short = takes_at_least
        .as_ref()
        .is_some_and(|limit| outcome.after < limit.0);
    let too_long = takes_at_most
        .as_ref()
        .is_some_and(|limit| outcome.after > limit.0);
    if too_short || too_long {
        return Some(format!("at {at}: it took {:?}", outcome.after));
    }
    if result_of(*is) != outcome.result || code.as_deref().is_some_and(|code| code != why) {
        return Some(format!("at {at}: {}", ended_text(attempt)));
    }
    let server = outcome.server.as_deref().unwrap_or("nobody");
    if pod.as_deref().is_some_and(|pod| pod.to_string() != server) {
        return Some(format!("at {at}: {server} answered"));
    }
    let from = outcome
        .backend
        .map(|(ip, port)| std::net::SocketAddr::new(ip, port));
    if backend
        .as_deref()
        .is_some_and(|wanted| Some(*wanted) != from)
    {
        let from = from.map_or_else(|| "nowhere".into(), |from| from.to_string());
        return Some(format!("at {at}: the answer came from {from}"));
    }
    let seen = outcome.seen_source.map(|(ip, _)| ip);
    if seen_source
        .as_deref()
        .is_some_and(|wanted| Some(*wanted) != seen)
    {
        let seen = seen.map_or_else(|| "nobody".into(), |seen| seen.to_string());
        return Some(format!("at {at}: the server saw {seen}"));
    }
    if queries.is_some_and(|wanted| wanted != attempt.queries) {
        return Some(format!("at {at}: it sent {} queries", attempt.queries));
    }
    None
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

const fn result_of(wanted: Wanted) -> ProbeResult {
    match wanted {
        Wanted::Connected => ProbeResult::Connected,
        Wanted::Refused => ProbeResult::Refused,
        Wanted::Unreachable => ProbeResult::Unreachable,
        Wanted::Timeout => ProbeResult::Timeout,
        Wanted::Reset => ProbeResult::Reset,
        Wanted::DnsFailure => ProbeResult::DnsFailure,
    }
}

fn show(netns: &Netns, command: &Command, now: Time) -> String {
    match command {
        Command::IptablesSave(family) => {
            let rules = netns.netfilter.as_ref().and_then(|nf| nf.rules(*family));
            rules.map_or_else(String::new, |rules| rules.ruleset().save(*family))
        }
        Command::Route(family) => netns.show_route(*family),
        Command::RouteLocal(family) => netns.show_route_local(*family),
        Command::Addr => netns.show_addr(),
        Command::Link => netns.show_link(),
        Command::Neigh => netns.show_neigh(now),
        Command::Fdb => netns.show_fdb(),
        Command::Sysctl(None) => netns.show_sysctl(),
        Command::Sysctl(Some(name)) => match netns.sysctls.text(name) {
            Some(value) => format!("{name} = {value}\n"),
            None => format!(
                "sysctl: cannot stat /proc/sys/{}: No such file or directory\n",
                name.replace('.', "/")
            ),
        },
        Command::Conntrack => {
            let table = netns.conntrack.as_ref();
            table.map_or_else(String::new, |table| table.list(now))
        }
    }
}
