//! What a trace line is: one decision, stamped with when, in which order, because of what, and where.

use podwire_models::base::{FxIndexMap, Time};
use podwire_models::wire::{Head, PacketId, Place, Recorder, Step};

use super::ends::Ends;
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
///
/// What follows from an attempt of a load is set aside, by attempt, and is no part of the trace: who drives the load takes
/// it out when the attempt has ended, counts it, and what comes after that is forgotten.
#[derive(Clone, Debug, Default)]
pub struct TraceRecorder {
    records: Vec<Record>,
    next: u64,
    now: Time,
    cause: Option<u64>,
    /// The newest packet that anybody has sent.
    newest: PacketId,
    /// How packets end, if somebody wants to know.
    ends: Option<Ends>,
    aside: Option<Aside>,
    /// The attempt of a load that what happens now follows from.
    load: Option<u64>,
}

/// What is set aside.
#[derive(Clone, Debug, Default)]
struct Aside {
    /// Records of attempts that are under way.
    records: FxIndexMap<u64, Vec<Record>>,
    /// Packets of attempts.
    packets: FxIndexMap<PacketId, u64>,
}

/// In a cause, this bit says that the rest is the number of an attempt of a load.
const LOAD: u64 = 1 << 63;

impl TraceRecorder {
    /// Returns a recorder without records, at the start of the simulation.
    pub const fn new() -> Self {
        Self {
            records: Vec::new(),
            next: 0,
            now: Time::ZERO,
            cause: None,
            newest: PacketId(0),
            ends: None,
            aside: None,
            load: None,
        }
    }

    /// Begins to handle an event that happens at `now` because of record `cause`. Of the steps that follow, the
    /// first is caused by `cause`, and each other one by the step before it.
    pub fn begin(&mut self, now: Time, cause: Option<u64>) {
        self.now = now;
        self.load = cause.filter(|cause| cause & LOAD != 0);
        self.cause = cause.filter(|cause| cause & LOAD == 0);
    }

    /// Begins an attempt of a load, which has a number of its own.
    pub fn begin_load(&mut self, now: Time, attempt: u64) {
        self.begin(now, Some(attempt | LOAD));
        let aside = self.aside.get_or_insert_default();
        aside.records.insert(attempt, Vec::new());
    }

    /// Takes out what was set aside for an attempt. What still follows from it is forgotten.
    pub fn end_load(&mut self, attempt: u64) -> Vec<Record> {
        let aside = self.aside.as_mut();
        let records = aside.and_then(|aside| aside.records.swap_remove(&attempt));
        records.unwrap_or_default()
    }

    /// Returns the number of the record that what is scheduled now follows from: the last one since
    /// [`TraceRecorder::begin`], or the cause given there.
    pub fn cause(&self) -> Option<u64> {
        self.load.or(self.cause)
    }

    /// From now on it is noted how packets end.
    pub fn watch_ends(&mut self) {
        self.ends = Some(Ends::default());
    }

    /// Returns how packets have ended, if somebody wanted to know.
    pub const fn ends(&self) -> Option<&Ends> {
        self.ends.as_ref()
    }

    /// Puts back records that were taken out, in place of those since.
    pub fn put_back(&mut self, records: Vec<Record>) {
        self.records = records;
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
        let (at, now) = (self.now, self.load);
        let packet = step.packet.as_ref().map(Head::id);
        let new = packet.is_some_and(|packet| packet > self.newest);
        if let Some(packet) = packet.filter(|_| new) {
            self.newest = packet;
        }
        if let Some(ends) = &mut self.ends {
            ends.see(at, place, &step);
        }
        if let Some(aside) = &mut self.aside {
            // A packet that waited for a neighbour goes on because of somebody else's question.
            self.load = match packet {
                Some(packet) if new => {
                    if let Some(load) = now {
                        aside.packets.insert(packet, load);
                    }
                    now
                }
                Some(packet) => aside.packets.get(&packet).copied(),
                None => now,
            };
            if let Some(load) = self.load {
                if let Some(records) = aside.records.get_mut(&(load & !LOAD)) {
                    records.push(Record {
                        at,
                        seq: records.len() as u64,
                        cause: None,
                        place,
                        step,
                    });
                }
                return;
            }
        }
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
    fn what_follows_from_a_load_is_set_aside() {
        let of = |id, text: &str| Step {
            packet: Some(Head::Arp {
                id: PacketId(id),
                op: podwire_models::wire::ArpOp::Request,
                sender: "10.0.0.1".parse().expect("an address"),
                sender_mac: podwire_models::base::Mac::default(),
                target: "10.0.0.2".parse().expect("an address"),
            }),
            action: Action::Note { text: text.into() },
            by: None,
        };
        let mut recorder = TraceRecorder::new();
        recorder.begin_load(Time(1), 7);
        recorder.record(Place::CLUSTER, of(1, "of the load"));
        let later = recorder.cause();
        recorder.begin(Time(2), None);
        recorder.record(Place::CLUSTER, of(2, "somebody else's"));
        recorder.begin(Time(3), later);
        recorder.record(Place::CLUSTER, of(3, "of the load"));
        recorder.record(
            Place::CLUSTER,
            of(2, "somebody else's, because of the load"),
        );
        recorder.begin(Time(4), None);
        recorder.record(
            Place::CLUSTER,
            of(1, "of the load, because of somebody else"),
        );
        assert_eq!(recorder.records().len(), 2);
        assert_eq!(recorder.end_load(7).len(), 3);
        recorder.begin(Time(5), later);
        recorder.record(Place::CLUSTER, of(4, "too late"));
        assert_eq!(recorder.records().len(), 2);
        assert!(recorder.end_load(7).is_empty());
    }

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
