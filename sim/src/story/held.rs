//! Whether what was expected held.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use podwire_models::base::{Dice, ObjectKey, Ratio, Time};

use super::reaches;
use super::resolve::Doing;
use super::run::{Attempted, Held, Run};
use crate::flat::flat_network;
use crate::scenario::expect::{Condition, Expectation, Invariant, Outcome as Wanted, Reaching};
use crate::scenario::file::Must;
use crate::traffic::ProbeResult;

impl<D: Dice> Run<'_, D> {
    /// Checks that every pod reaches every pod, unless a fault is in force or that is not expected.
    pub(super) fn check_flat(&mut self) {
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

    pub(super) fn held(&self, number: usize, expected: &Expectation) -> Held {
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
            Expectation::Always(Invariant::Consistent) => {
                let text = "always: no address is owned twice, every veth has its peer, every endpoint's revision is known, every \
                            packet ends once";
                (text.to_owned(), self.broken.iter().cloned().collect())
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

    pub(super) fn ready_at(&self, service: &ObjectKey, at: Time) -> u64 {
        let counts = self.endpoints.iter().rev();
        let mut then = counts.filter(|(since, _)| *since <= at);
        then.find_map(|(_, counts)| counts.get(service).copied())
            .unwrap_or(0)
    }

    /// What probes say of themselves with `must`.
    pub(super) fn musts(&self) -> Vec<Held> {
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

    /// Faults that touched nothing, unless an expectation says how much they touch: they cannot have shown anything.
    pub(super) fn inert(&self) -> Vec<Held> {
        let counted = |id: &str| {
            let says = |expected: &Expectation| matches!(expected, Expectation::Touched { fault, .. } if fault.as_str() == id);
            self.story.expect.iter().any(says)
        };
        let mut held: Vec<Held> = Vec::new();
        for (_, doing) in &self.story.agenda {
            let Doing::Begin { id, fault, .. } = doing else {
                continue;
            };
            let text = format!("{id} touches something");
            let why = match self.touched.get(id) {
                None => "it could not begin".to_owned(),
                Some(0) if !fault.touches_objects() && !counted(id) => format!(
                    "no packet came its way, so it cannot have shown anything; if that is meant, expect \
                     Touched(fault: \"{id}\", at_least: 0)"
                ),
                Some(_) => continue,
            };
            if held.iter().all(|one| one.text != text) {
                held.push(Held {
                    text,
                    held: false,
                    why,
                });
            }
        }
        held
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
