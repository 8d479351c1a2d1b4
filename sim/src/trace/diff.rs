//! The first difference between two traces. Everything after it follows from it, so nothing after it is compared.

use podwire_models::wire::Decider;

use super::names::Names;
use super::record::{Record, Trace};

/// Where two traces part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Position of the first record that differs.
    pub position: usize,
    /// The last records that both have.
    pub common: &'a [Record],
    /// How the first trace goes on; empty if it ends here.
    pub left: &'a [Record],
    /// How the second trace goes on; empty if it ends here.
    pub right: &'a [Record],
}

/// Returns where two traces part, with up to `context` records before and after, or nothing if they are equal.
/// Names are compared rather than numbers.
pub fn first_difference<'a>(
    left: &'a Trace,
    right: &'a Trace,
    context: usize,
) -> Option<Difference<'a>> {
    let pairs = left.records.iter().zip(&right.records);
    let position = pairs
        .take_while(|(a, b)| same(a, &left.names, b, &right.names))
        .count();
    if position == left.records.len() && position == right.records.len() {
        return None;
    }
    let after = |trace: &'a Trace| {
        let end = (position + 1 + context).min(trace.records.len());
        trace.records.get(position..end).unwrap_or_default()
    };
    let common = left
        .records
        .get(position.saturating_sub(context)..position)
        .unwrap_or_default();
    Some(Difference {
        position,
        common,
        left: after(left),
        right: after(right),
    })
}

/// Whether two records say the same.
fn same(a: &Record, a_names: &Names, b: &Record, b_names: &Names) -> bool {
    let (a_by, b_by) = (a.step.by.as_ref(), b.step.by.as_ref());
    let origin =
        |by: Option<&Decider>, names: &Names| by.and_then(|by| names.origin_text(by.origin));
    (a.at, a.seq, a.cause) == (b.at, b.seq, b.cause)
        && a.place.stage == b.place.stage
        && a_names.node_at(&a.place) == b_names.node_at(&b.place)
        && a_names.netns_at(&a.place) == b_names.netns_at(&b.place)
        && a_names.device_at(&a.place) == b_names.device_at(&b.place)
        && a.step.packet == b.step.packet
        && a.step.action == b.step.action
        && a_by.map(|by| (by.kind, &by.text)) == b_by.map(|by| (by.kind, &by.text))
        && origin(a_by, a_names) == origin(b_by, b_names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use podwire_models::base::Time;
    use podwire_models::wire::{Action, Place, Step};

    fn trace(texts: &[&str]) -> Trace {
        let record = |(seq, text): (u64, &&str)| Record {
            at: Time(seq),
            seq,
            cause: None,
            place: Place::CLUSTER,
            step: Step::general(Action::Note {
                text: (*text).into(),
            }),
        };
        Trace {
            records: (0..).zip(texts).map(record).collect(),
            names: Names::default(),
        }
    }

    #[test]
    fn shows_where_they_part() {
        let (left, right) = (trace(&["a", "b", "c", "d"]), trace(&["a", "b", "x", "d"]));
        assert_eq!(first_difference(&left, &left, 1), None);
        let difference = first_difference(&left, &right, 1).unwrap();
        assert_eq!(difference.position, 2);
        assert_eq!(difference.common, &left.records[1..2]);
        assert_eq!(
            (difference.left, difference.right),
            (&left.records[2..], &right.records[2..])
        );
    }

    #[test]
    fn an_early_end_is_a_difference() {
        let (left, right) = (trace(&["a", "b"]), trace(&["a"]));
        let difference = first_difference(&left, &right, 3).unwrap();
        assert_eq!((difference.position, difference.right), (1, &[][..]));
    }
}
