//! Why something happened: the walk from a record back to where its story begins.

use super::record::{Record, Trace};

/// Returns the records that led to record `seq`, first cause first, itself last; empty if there is no such record.
pub fn why(trace: &Trace, seq: u64) -> Vec<&Record> {
    let mut chain = Vec::new();
    let mut wanted = Some(seq);
    while let Some(record) = wanted.and_then(|seq| find(trace, seq)) {
        chain.push(record);
        // A cause that is not earlier would make the walk endless.
        wanted = record.cause.filter(|cause| *cause < record.seq);
    }
    chain.reverse();
    chain
}

fn find(trace: &Trace, seq: u64) -> Option<&Record> {
    let position = trace
        .records
        .binary_search_by_key(&seq, |record| record.seq)
        .ok()?;
    trace.records.get(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Names;
    use podwire_models::base::Time;
    use podwire_models::wire::{Action, Place, Step};

    #[test]
    fn walks_back_to_the_beginning() {
        let record = |seq, cause| Record {
            at: Time(seq),
            seq,
            cause,
            place: Place::CLUSTER,
            step: Step::general(Action::Reassembled),
        };
        let records = vec![
            record(0, None),
            record(1, None),
            record(2, Some(0)),
            record(3, Some(2)),
        ];
        let trace = Trace {
            records,
            names: Names::default(),
        };
        let seqs: Vec<u64> = why(&trace, 3).iter().map(|record| record.seq).collect();
        assert_eq!(seqs, [0, 2, 3]);
        assert_eq!(why(&trace, 9), Vec::<&Record>::new());
    }
}
