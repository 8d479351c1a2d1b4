//! A table without room: who is evicted for a newcomer (`__nf_conntrack_alloc`, `early_drop` and `gc_worker` of
//! `nf_conntrack_core.c`).
//!
//! # Fidelity
//! The hash is not the kernel's, which is another one after each boot. The kernel looks for what can go once a minute
//! at most, and sooner where timeouts are short (`GC_SCAN_INTERVAL_MAX`); here it does so at every full minute. An
//! entry that has ended counts until somebody needs its place; in the kernel until that collection, so that a packet
//! may still be dropped for want of a place that nobody uses.

use std::collections::BTreeSet;

use super::state::{Proto, SctpState, TcpState};
use super::table::{Conntrack, Entry, tuple_hash};
use crate::base::Time;
use crate::wire::FiveTuple;

/// Buckets of the table: as many as on a machine with more than 4 GiB (`nf_conntrack_init_start`).
const BUCKETS: u64 = 262_144;

/// How many of them are searched for somebody to evict (`NF_CT_EVICTION_RANGE`).
const EVICTION_RANGE: u64 = 8;

/// How often what can go is looked for, in nanoseconds (`GC_SCAN_INTERVAL_MAX`).
const COLLECTION: u64 = 60_000_000_000;

/// Which places of the slab are in which bucket. Nobody asks before a table is full.
#[derive(Clone, Debug)]
pub(super) struct Chains(BTreeSet<(u64, u32)>);

fn bucket(tuple: &FiveTuple) -> u64 {
    tuple_hash(tuple) % BUCKETS
}

impl Chains {
    fn new<'e>(entries: impl Iterator<Item = (u32, &'e Entry)>) -> Self {
        let mut chains = Self(BTreeSet::new());
        for (slot, entry) in entries {
            chains.insert(slot, entry);
        }
        chains
    }

    pub(super) fn insert(&mut self, slot: u32, entry: &Entry) {
        self.0.insert((bucket(&entry.original), slot));
        self.0.insert((bucket(&entry.reply), slot));
    }

    pub(super) fn remove(&mut self, slot: u32, entry: &Entry) {
        self.0.remove(&(bucket(&entry.original), slot));
        self.0.remove(&(bucket(&entry.reply), slot));
    }
}

/// Whether the collection takes an entry (`gc_worker_can_early_drop`).
fn can_go(entry: &Entry) -> bool {
    !entry.assured
        || match &entry.proto {
            Proto::Tcp(track) => match track.state {
                TcpState::FinWait
                | TcpState::CloseWait
                | TcpState::LastAck
                | TcpState::TimeWait
                | TcpState::Close => true,
                TcpState::SynSent
                | TcpState::SynRecv
                | TcpState::Established
                | TcpState::SynSent2 => false,
            },
            Proto::Sctp(track) => match track.state {
                SctpState::ShutdownSent | SctpState::ShutdownRecd | SctpState::ShutdownAckSent => {
                    true
                }
                SctpState::Closed
                | SctpState::CookieWait
                | SctpState::CookieEchoed
                | SctpState::Established
                | SctpState::HeartbeatSent => false,
            },
            Proto::Udp { .. } | Proto::Icmp => false,
        }
}

impl Conntrack {
    /// Whether one more entry would be too many; zero is no limit.
    const fn is_full(&self) -> bool {
        let max = self.settings.max as usize;
        max != 0 && self.len() >= max
    }

    fn chains(&mut self) -> &mut Chains {
        if self.chains.is_none() {
            self.chains = Some(Chains::new(self.places()));
        }
        self.chains.get_or_insert_with(|| Chains(BTreeSet::new()))
    }

    /// Makes sure that there is room for one more entry, with this tuple; returns whether there is.
    pub(super) fn make_room(&mut self, tuple: &FiveTuple, now: Time) -> bool {
        if self.collects_at.is_some_and(|at| at <= now) {
            self.collects_at = None;
            self.collect();
        }
        if self.is_full() && self.may_have_ended(now) {
            self.sweep(now);
        }
        if !self.is_full() || self.drop_early(tuple) {
            return true;
        }
        let next = Time((now.0 / COLLECTION + 1).saturating_mul(COLLECTION));
        self.collects_at.get_or_insert(next);
        false
    }

    /// Evicts everybody who is not ASSURED from the first bucket that has such a one, of those that begin with the
    /// newcomer's own (`early_drop`).
    fn drop_early(&mut self, tuple: &FiveTuple) -> bool {
        let first = bucket(tuple);
        for n in 0..EVICTION_RANGE {
            let chain = (first + n) % BUCKETS;
            let chain = self.chains().0.range((chain, 0)..=(chain, u32::MAX));
            let chain: Vec<u32> = chain.map(|(_, slot)| *slot).collect();
            let evicted = self.evict(chain, |entry| !entry.assured, 0);
            if evicted > 0 {
                return true;
            }
        }
        false
    }

    /// Evicts whoever can go, until the table is no more than 95 % full.
    fn collect(&mut self) {
        let enough = self.settings.max as usize / 100 * 95;
        if enough > 0 {
            let all = self.chains().0.iter().map(|(_, slot)| *slot).collect();
            self.evict(all, can_go, enough);
        }
    }

    fn evict(&mut self, places: Vec<u32>, goes: impl Fn(&Entry) -> bool, enough: usize) -> u64 {
        let mut evicted = 0;
        for slot in places {
            if self.len() < enough {
                break;
            }
            if self.place(slot).is_some_and(&goes) {
                self.remove(slot);
                evicted += 1;
            }
        }
        self.stats.early_drop += evicted;
        evicted
    }
}
