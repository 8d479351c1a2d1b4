//! What changed between two answers: the exact difference of sets.
//!
//! Ranges of addresses outside may be cut differently in the two; they are cut where either cuts them, and put
//! together again where nothing differs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwire_models::base::Family;
use podwire_models::base::addr::{from_bits, to_bits};
use podwire_models::control::policy::Connections;

use super::{Peer, Reachability};

/// One pair between which something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From where.
    pub source: Peer,
    /// To where.
    pub destination: Peer,
    /// What may pass now and could not before, between at least some pods.
    pub gained: Connections,
    /// What could pass before and may not now, between at least some pods.
    pub lost: Connections,
    /// What could pass before, between any pods.
    pub before: Connections,
    /// What may pass now, between any pods.
    pub after: Connections,
}

/// The difference of two answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Who is there now and was not before.
    pub added: Vec<Peer>,
    /// Who was there before and is not now.
    pub removed: Vec<Peer>,
    /// Pairs between which something changed, those of `added` and `removed` among them.
    pub changes: Vec<Change>,
}

impl Difference {
    /// Compares two answers.
    pub fn between(before: &Reachability, after: &Reachability) -> Self {
        let cuts = Cuts::of([before, after]);
        let (old, new) = (cuts.pairs(before), cuts.pairs(after));
        let workloads = |all: &Reachability| -> BTreeSet<Peer> {
            let workload = |peer: &&Peer| matches!(peer, Peer::Workload { .. });
            all.peers.iter().filter(workload).cloned().collect()
        };
        let (was, is) = (workloads(before), workloads(after));
        let mut changes = Vec::new();
        let keys: BTreeSet<&(Peer, Peer)> = old.keys().chain(new.keys()).collect();
        let nothing = || (Connections::NONE, Connections::NONE);
        for key in keys {
            let (all_before, some_before) = old.get(key).cloned().unwrap_or_else(nothing);
            let (all_after, some_after) = new.get(key).cloned().unwrap_or_else(nothing);
            let more = |after: &Connections, before: &Connections| after.difference(before);
            let gained = more(&all_after, &all_before).union(&more(&some_after, &some_before));
            let lost = more(&all_before, &all_after).union(&more(&some_before, &some_after));
            if gained.has_ports() || lost.has_ports() {
                changes.push(Change {
                    source: key.0.clone(),
                    destination: key.1.clone(),
                    gained,
                    lost,
                    before: some_before,
                    after: some_after,
                });
            }
        }
        Self {
            added: is.difference(&was).cloned().collect(),
            removed: was.difference(&is).cloned().collect(),
            changes: join(changes),
        }
    }

    /// Whether nothing changed.
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changes.is_empty()
    }
}

/// Where ranges of addresses begin, in either answer.
struct Cuts(BTreeSet<IpAddr>);

/// What may pass between all and between some pods, by pair.
type Pairs = BTreeMap<(Peer, Peer), (Connections, Connections)>;

impl Cuts {
    fn of(answers: [&Reachability; 2]) -> Self {
        let peers = answers.iter().flat_map(|answer| &answer.peers);
        let firsts = peers.filter_map(|peer| match peer {
            Peer::Outside(first, _) => Some(*first),
            Peer::Workload { .. } => None,
        });
        Self(firsts.collect())
    }

    fn pieces(&self, peer: &Peer) -> Vec<Peer> {
        let Peer::Outside(first, last) = peer else {
            return vec![peer.clone()];
        };
        let inner = self.0.range(*first..=*last).skip(1);
        let mut pieces = Vec::new();
        let mut from = *first;
        for next in inner {
            pieces.push(Peer::Outside(from, neighbour(*next, false)));
            from = *next;
        }
        pieces.push(Peer::Outside(from, *last));
        pieces
    }

    fn pairs(&self, answer: &Reachability) -> Pairs {
        let mut pairs = BTreeMap::new();
        for row in &answer.rows {
            for source in self.pieces(&row.source) {
                for destination in self.pieces(&row.destination) {
                    let some = row.allowed.union(&row.partly);
                    let sets = (row.allowed.clone(), some);
                    pairs.insert((source.clone(), destination), sets);
                }
            }
        }
        pairs
    }
}

/// Returns the address before or after another.
fn neighbour(ip: IpAddr, up: bool) -> IpAddr {
    let number = to_bits(ip);
    let next = if up {
        number.saturating_add(1)
    } else {
        number.saturating_sub(1)
    };
    from_bits(Family::of(ip), next).unwrap_or(ip)
}

/// Puts ranges together that follow on each other and changed alike.
fn join(changes: Vec<Change>) -> Vec<Change> {
    let mut joined: Vec<Change> = Vec::new();
    let mut last: BTreeMap<(bool, Peer, [Connections; 4]), usize> = BTreeMap::new();
    for change in changes {
        let (incoming, workload, range) = match (&change.source, &change.destination) {
            (Peer::Outside(first, end), other) => (true, other.clone(), (*first, *end)),
            (other, Peer::Outside(first, end)) => (false, other.clone(), (*first, *end)),
            (Peer::Workload { .. }, Peer::Workload { .. }) => {
                joined.push(change);
                continue;
            }
        };
        let sets = [&change.gained, &change.lost, &change.before, &change.after].map(Clone::clone);
        let key = (incoming, workload, sets);
        let before = last.get(&key).and_then(|index| joined.get_mut(*index));
        let before = before.map(|before| {
            if incoming {
                &mut before.source
            } else {
                &mut before.destination
            }
        });
        match before {
            Some(Peer::Outside(_, end))
                if Family::of(*end) == Family::of(range.0) && neighbour(*end, true) == range.0 =>
            {
                *end = range.1;
            }
            _ => {
                last.insert(key, joined.len());
                joined.push(change);
            }
        }
    }
    joined
}
