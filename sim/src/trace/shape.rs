//! What is true of every trace: time never falls, numbers grow, causes come earlier. And what is true of every
//! finished story: each packet that was sent has ended somewhere.

use std::collections::BTreeMap;

use podwire_models::base::Time;
use podwire_models::wire::{Action, Head, PacketId};

use super::record::Trace;

/// How a trace is malformed. Always a defect of podwire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A record is older than the one before it.
    #[error("record {seq} is at {at}, before {before}, the time of the record before it")]
    TimeFell {
        /// Which record.
        seq: u64,
        /// Its time.
        at: Time,
        /// Time of the record before it.
        before: Time,
    },
    /// A record's number is not greater than the one before it.
    #[error("record {seq} follows record {before}")]
    SeqFell {
        /// Which record.
        seq: u64,
        /// Number of the record before it.
        before: u64,
    },
    /// A record's cause does not come before it.
    #[error("record {seq} is said to follow from {cause}, which is not earlier")]
    CauseNotEarlier {
        /// Which record.
        seq: u64,
        /// Its cause.
        cause: u64,
    },
}

/// Checks what is true of every trace.
///
/// # Errors
/// If it is not true of this one.
pub fn check(trace: &Trace) -> Result<(), ShapeError> {
    for pair in trace.records.windows(2) {
        let [before, record] = pair else { continue };
        if record.at < before.at {
            let (seq, at) = (record.seq, record.at);
            return Err(ShapeError::TimeFell {
                seq,
                at,
                before: before.at,
            });
        }
        if record.seq <= before.seq {
            return Err(ShapeError::SeqFell {
                seq: record.seq,
                before: before.seq,
            });
        }
    }
    for record in &trace.records {
        if let Some(cause) = record.cause.filter(|cause| *cause >= record.seq) {
            return Err(ShapeError::CauseNotEarlier {
                seq: record.seq,
                cause,
            });
        }
    }
    Ok(())
}

/// Returns the IP packets whose last step is no end: still on their way, or forgotten.
pub fn unfinished(trace: &Trace) -> Vec<PacketId> {
    let mut open: BTreeMap<PacketId, bool> = BTreeMap::new();
    for record in &trace.records {
        let Some(Head::Ip { id, .. }) = record.step.packet else {
            continue;
        };
        let action = &record.step.action;
        let ended = action.ends_with().is_some() || matches!(action, Action::Answered { .. });
        if ended {
            open.insert(id, false);
        } else if matches!(action, Action::Sent) {
            open.entry(id).or_insert(true);
        }
    }
    open.into_iter()
        .filter(|(_, open)| *open)
        .map(|(id, _)| id)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::trace::{Names, Record};
    use podwire_models::wire::{Place, Step};

    fn trace(lines: &[(u64, u64, Option<u64>)]) -> Trace {
        let record = |&(at, seq, cause): &(u64, u64, Option<u64>)| Record {
            at: Time(at),
            seq,
            cause,
            place: Place::CLUSTER,
            step: Step::general(Action::Note {
                text: String::new(),
            }),
        };
        Trace {
            records: lines.iter().map(record).collect(),
            names: Names::default(),
        }
    }

    #[test]
    fn malformed_traces_are_noticed() {
        assert_eq!(
            check(&trace(&[(1, 0, None), (1, 1, Some(0)), (2, 5, Some(0))])),
            Ok(())
        );
        let fell = check(&trace(&[(2, 0, None), (1, 1, None)])).unwrap_err();
        assert!(matches!(fell, ShapeError::TimeFell { seq: 1, .. }));
        let twice = check(&trace(&[(1, 3, None), (1, 3, None)])).unwrap_err();
        assert_eq!(twice, ShapeError::SeqFell { seq: 3, before: 3 });
        let own = check(&trace(&[(1, 0, Some(0))])).unwrap_err();
        assert_eq!(own, ShapeError::CauseNotEarlier { seq: 0, cause: 0 });
    }

    #[test]
    fn packets_must_end() {
        let packet = |id| Head::Ip {
            id: PacketId(id),
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.0.2".parse().unwrap(),
            ttl: 64,
            len: 28,
            transport: podwire_models::wire::Transport::Udp(podwire_models::wire::Udp::default()),
            says: None,
        };
        let mut trace = trace(&[(1, 0, None), (1, 1, None), (2, 2, Some(0))]);
        let steps = [
            (1, Action::Sent),
            (2, Action::Sent),
            (
                1,
                Action::Dropped {
                    code: podwire_models::wire::Code::LinkDown,
                },
            ),
        ];
        for (record, (id, action)) in trace.records.iter_mut().zip(steps) {
            record.step = Step {
                packet: Some(packet(id)),
                action,
                by: None,
            };
        }
        assert_eq!(unfinished(&trace), [PacketId(2)]);
    }
}
