//! What a trace line is: one decision, stamped with when, in which order, because of what, and where.

use podwire_models::base::Time;
use podwire_models::wire::{Place, Recorder, Step};

use super::names::Names;

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub at: Time,
    /// Position in the whole run, starting with 0.
    pub seq: u64,
    /// The earlier record this one follows from; nothing where a story begins.
    pub cause: Option<u64>,
    /// Where.
    pub place: Place,
    /// What was decided, about which packet, by what.
    pub step: Step,
}

/// Everything that happened in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The lines, in order.
    pub records: Vec<Record>,
    /// What the numbers in them are called.
    pub names: Names,
}

/// Stamps the steps that models report. The simulator says when and why before it calls into the models.
#[derive(Clone, Debug, Default)]
pub struct TraceRecorder {
    records: Vec<Record>,
    next: u64,
    now: Time,
    cause: Option<u64>,
}

impl TraceRecorder {
    /// Returns a recorder without records, at the start of the simulation.
    pub const fn new() -> Self {
        Self {
            records: Vec::new(),
            next: 0,
            now: Time::ZERO,
            cause: None,
        }
    }

    /// Begins to handle an event that happens at `now` because of record `cause`. Of the steps that follow, the
    /// first is caused by `cause`, and each other one by the step before it.
    pub const fn begin(&mut self, now: Time, cause: Option<u64>) {
        self.now = now;
        self.cause = cause;
    }

    /// Returns the number of the record that what is scheduled now follows from: the last one since
    /// [`TraceRecorder::begin`], or the cause given there.
    pub const fn cause(&self) -> Option<u64> {
        self.cause
    }

    /// Returns the records so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Takes out the records so far; those to come continue their numbers.
    pub fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// Returns the trace.
    pub fn finish(self, names: Names) -> Trace {
        Trace {
            records: self.records,
            names,
        }
    }
}

impl Recorder for TraceRecorder {
    const ENABLED: bool = true;

    fn record(&mut self, place: Place, step: Step) {
        let seq = self.next;
        self.next += 1;
        self.records.push(Record {
            at: self.now,
            seq,
            cause: self.cause,
            place,
            step,
        });
        self.cause = Some(seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwire_models::wire::Action;

    #[test]
    fn steps_of_one_event_follow_from_each_other() {
        let note = || Step::general(Action::Note { text: "x".into() });
        let mut recorder = TraceRecorder::new();
        recorder.begin(Time(1), None);
        recorder.record(Place::CLUSTER, note());
        recorder.record(Place::CLUSTER, note());
        let later = recorder.cause();
        recorder.begin(Time(2), None);
        recorder.record(Place::CLUSTER, note());
        recorder.begin(Time(3), later);
        recorder.record(Place::CLUSTER, note());
        let causes: Vec<_> = recorder
            .records()
            .iter()
            .map(|record| record.cause)
            .collect();
        assert_eq!(causes, [None, Some(0), None, Some(1)]);
    }
}
