//! Looks after each event whether the invariants hold, where a scenario expects it, and in the end whether all packets have ended.

use std::time::Duration;

use podwire_models::base::Dice;

use super::invariants::{Scope, Watch};
use super::resolve::Doing;
use super::run::{Run, Task};
use crate::scenario::expect::{Expectation, Invariant};
use crate::trace::ends::Ends;

/// For how long after a story packets may be on their way: pieces of a packet wait longest for each other.
const LAST_PACKET: Duration = Duration::from_secs(120);

impl Scope {
    /// Returns what a task can change.
    pub(super) fn of(task: &Task) -> Self {
        match task {
            Task::Do(
                Doing::Begin { .. } | Doing::Write { .. } | Doing::Exec { .. } | Doing::Tool { .. },
            )
            | Task::End(_) => Self::All,
            Task::Begin(pod) | Task::Terminate(pod) | Task::Stop(pod) | Task::Restart(pod) => {
                Self::Pod(pod.clone())
            }
            Task::Slices => Self::Slices,
            Task::Rules => Self::Rules,
            // Controllers make and mark objects; networks come and go with their kubelets.
            Task::Do(
                Doing::Probe(_)
                | Doing::Load { .. }
                | Doing::Churn(_)
                | Doing::Cordon { .. }
                | Doing::Drain { .. }
                | Doing::Note(_),
            )
            | Task::Workloads
            | Task::ChurnMore(_)
            | Task::LoadMore(_)
            | Task::LoadTell(_)
            | Task::Ready(..)
            | Task::Available(_)
            | Task::Names
            | Task::Policies
            | Task::Look(_)
            | Task::Remember => Self::Nothing,
        }
    }
}

impl<D: Dice> Run<'_, D> {
    /// Begins to watch, if somebody expects the invariants to hold.
    pub(super) fn watch_invariants(&mut self) {
        let wanted =
            |expected: &Expectation| matches!(expected, Expectation::Always(Invariant::Consistent));
        if self.story.expect.iter().any(wanted) {
            self.watch = Some(Watch::default());
            self.simulation.recorder.watch_ends();
            self.check_consistent(&Scope::All);
        }
    }

    /// Looks at what an event can have changed.
    pub(super) fn check_consistent(&mut self, scope: &Scope) {
        let Some(watch) = self.watch.as_mut().filter(|_| self.broken.is_none()) else {
            return;
        };
        let found = watch.look(scope, &self.lab, &self.simulation.machines);
        let found = found.map(|violation| violation.to_string());
        let ends = self.simulation.recorder.ends();
        let found = found.or_else(|| Some(ends?.twice()?.to_string()));
        self.broken = found.map(|found| format!("at {}: {found}", self.simulation.now()));
    }

    /// Lets packets that are on their way when the story is over end, and finds out whether they do. What happens meanwhile is no
    /// part of the story.
    pub(super) fn check_ends(&mut self) {
        self.check_consistent(&Scope::All);
        if self.watch.is_none() || self.broken.is_some() {
            return;
        }
        let records = self.simulation.recorder.take();
        let limit = self.simulation.now() + LAST_PACKET;
        let waiting = |run: &Self| {
            let ends = run.simulation.recorder.ends();
            ends.is_some_and(Ends::waiting)
        };
        while waiting(self) && self.simulation.step(limit) {}
        self.simulation.recorder.put_back(records);
        let ends = self.simulation.recorder.ends();
        let found = ends.and_then(|ends| ends.twice().cloned().or_else(|| ends.unfinished()));
        self.broken = found.map(|found| found.to_string());
    }
}
