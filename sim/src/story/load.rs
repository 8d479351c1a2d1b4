//! Many attempts at a steady rate: who makes them, and what came of them, told once a second by how they ended. Their packets are
//! no part of the trace.

use std::collections::BTreeMap;
use std::time::Duration;

use podwire_models::base::{Dice, ObjectKey, Time};
use podwire_models::wire::{Action, Code, Place, Step};

use super::resolve::Attempt;
use super::run::{PATIENCE, Run, Task};
use crate::scenario::address::Thing;
use crate::traffic::ProbeResult;

/// How often it is told what came of a load.
const TELL: Duration = Duration::from_secs(1);

/// A load that is under way.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// What each attempt is.
    attempt: Attempt,
    /// Attempts in a second.
    rate: u32,
    began: Time,
    /// How many attempts there will be.
    wanted: u64,
    /// How many there have been.
    made: u64,
    /// How many have ended.
    ended: u64,
    /// Pods that take turns, if it comes from a workload.
    senders: Vec<ObjectKey>,
    /// What came of attempts since it was told the last time.
    counts: BTreeMap<(ProbeResult, Code), Count>,
}

/// Attempts that ended alike.
#[derive(Clone, Copy, Debug)]
struct Count {
    attempts: u64,
    /// When the first and the last of them began.
    first: Time,
    last: Time,
}

impl<D: Dice> Run<'_, D> {
    pub(super) fn begin_load(&mut self, attempt: Attempt, rate: u32, lasts: Duration) {
        let now = self.simulation.now();
        let wanted = lasts.as_nanos() * u128::from(rate) / 1_000_000_000;
        let request = &attempt.request;
        let what = format!(
            "{rate} attempts a second for {lasts:?} from {} to {} ({})",
            attempt.from, request.target, request.l4
        );
        let probe = attempt.id.clone();
        self.note(Action::ProbeStarted { probe, what });
        let number = self.loads.len();
        self.loads.push(Load {
            attempt,
            rate,
            began: now,
            wanted: u64::try_from(wanted).unwrap_or(u64::MAX),
            made: 0,
            ended: 0,
            senders: Vec::new(),
            counts: BTreeMap::new(),
        });
        self.plan_after(Duration::ZERO, Task::LoadMore(number));
        self.plan_after(TELL, Task::LoadTell(number));
    }

    /// Makes the next attempt of a load.
    pub(super) fn load_more(&mut self, number: usize) {
        let Some(mut attempt) = self.next_of_load(number) else {
            return;
        };
        if let Thing::Workload { .. } = &attempt.from
            && let Some(pod) = self.sender_of_load(number)
        {
            attempt.from = Thing::Pod(pod);
        }
        let name = super::resolve::label("load", &attempt.id, self.attempts.len());
        self.make_attempt(&attempt, &name, Some(number));
        let Some(load) = self.loads.get(number) else {
            return;
        };
        if load.made < load.wanted {
            let nanos = u128::from(load.made) * 1_000_000_000 / u128::from(load.rate.max(1));
            let after = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.plan(load.began + after, Task::LoadMore(number));
        }
    }

    fn next_of_load(&mut self, number: usize) -> Option<Attempt> {
        let load = self.loads.get_mut(number)?;
        if load.made >= load.wanted {
            return None;
        }
        load.made += 1;
        Some(load.attempt.clone())
    }

    /// The pods of a workload take turns, as far as they are there.
    fn sender_of_load(&mut self, number: usize) -> Option<ObjectKey> {
        let load = self.loads.get_mut(number)?;
        let Thing::Workload { kind, key } = &load.attempt.from else {
            return None;
        };
        let pods = &self.lab.objects.pods;
        let there = |key: &ObjectKey| pods.get(key).is_some_and(|pod| !pod.deleting);
        if load.senders.is_empty() || !load.senders.iter().all(there) {
            let all = self
                .lab
                .pods_of(kind, key.namespace.as_str(), key.name.as_str());
            let keys = all.into_iter().filter(|pod| !pod.deleting);
            load.senders = keys.map(|pod| pod.key.clone()).collect();
        }
        let turn = usize::try_from(load.made).unwrap_or(usize::MAX);
        let turn = turn.checked_rem(load.senders.len())?;
        load.senders.get(turn).cloned()
    }

    /// Counts an attempt of a load that has ended.
    pub(super) fn count_load(
        &mut self,
        number: usize,
        began: Time,
        result: ProbeResult,
        code: Code,
    ) {
        let Some(load) = self.loads.get_mut(number) else {
            return;
        };
        load.ended += 1;
        let count = load.counts.entry((result, code)).or_insert(Count {
            attempts: 0,
            first: began,
            last: began,
        });
        count.attempts += 1;
        count.first = count.first.min(began);
        count.last = count.last.max(began);
    }

    /// Tells what came of a load since the last time.
    pub(super) fn tell_load(&mut self, number: usize) {
        let Some(load) = self.loads.get_mut(number) else {
            return;
        };
        let now = self.simulation.now();
        let counts = std::mem::take(&mut load.counts);
        let id = load.attempt.id.clone();
        let last = load.began + Duration::from_secs(load.wanted / u64::from(load.rate.max(1)));
        let more = load.ended < load.wanted && now < last + PATIENCE;
        for ((result, code), count) in counts {
            let action = Action::LoadCounted {
                load: id.clone(),
                result: result.name().to_owned(),
                code,
                count: count.attempts,
                first: count.first,
                last: count.last,
            };
            self.simulation.note(Place::CLUSTER, Step::general(action));
        }
        if more {
            self.plan_after(TELL, Task::LoadTell(number));
        }
    }
}
