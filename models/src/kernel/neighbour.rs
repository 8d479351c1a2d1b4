//! The neighbour table: which hardware address belongs to a next hop (`ip neigh`, `net/core/neighbour.c`).
//!
//! Resolution is by real ARP requests and neighbour solicitations. Leaves out: the random spread of the reachable
//! time (15–45 s; 30 s here), confirmation by upper layers (a stale entry in use
//! is confirmed by a unicast probe after five seconds even where TCP progress would have done), and the collection of
//! garbage that runs now and then above `gc_thresh1`.
//!
//! # Fidelity
//! Linux has one table for all namespaces of a machine, so that the entries of pods count for their node; here each
//! namespace has its own, under the limits of its own settings.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use super::Skb;
use crate::base::{Family, FxIndexMap, Mac, OriginId, Time};
use crate::wire::DevIndex;

/// Probes before resolution fails (`mcast_solicit`, `ucast_solicit`).
pub const PROBES: u8 = 3;
/// Time between probes (`retrans_time_ms`).
pub const RETRANS: Duration = Duration::from_secs(1);
/// How long a confirmed entry is believed (`base_reachable_time_ms`).
pub const REACHABLE: Duration = Duration::from_secs(30);
/// Wait before a stale entry in use is probed (`delay_first_probe_time`).
pub const DELAY_FIRST_PROBE: Duration = Duration::from_secs(5);

/// Neighbour entries of a namespace, by device and address.
#[derive(Clone, Debug, Default)]
pub struct NeighbourTable {
    /// Entries.
    pub entries: FxIndexMap<NeighbourKey, Neighbour>,
    /// Number of the latest resolution attempt.
    pub generation: u32,
    /// When entries of IPv4 were last looked for that may go.
    flushed_v4: Option<Time>,
    /// When those of IPv6 were.
    flushed_v6: Option<Time>,
}

/// What an entry is found by: the device, and the address on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey(pub DevIndex, pub IpAddr);

impl Hash for NeighbourKey {
    /// In as few words as hold all of it: every packet that leaves is looked up by this.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.1 {
            IpAddr::V4(addr) => {
                state.write_u64(u64::from(self.0.0) << 32 | u64::from(addr.to_bits()));
            }
            IpAddr::V6(addr) => {
                state.write_u32(self.0.0);
                state.write_u128(addr.to_bits());
            }
        }
    }
}

/// A neighbour entry.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// State.
    pub state: NeighbourState,
    /// Which attempt its running timer belongs to.
    pub generation: u32,
    /// When its state was last set.
    pub updated: Time,
    /// The object a permanent entry was made from.
    pub origin: OriginId,
}

/// States of an entry (`NUD_*`).
#[derive(Clone, Debug)]
pub enum NeighbourState {
    /// Being resolved; packets wait.
    Incomplete {
        /// Probes sent.
        probes: u8,
        /// Packets waiting, in order.
        queue: Vec<Skb>,
    },
    /// Known to work until then.
    Reachable {
        /// Hardware address.
        mac: Mac,
        /// End of the belief.
        until: Time,
    },
    /// Worked once; used, and confirmed when used.
    Stale {
        /// Hardware address.
        mac: Mac,
    },
    /// In use though unconfirmed; the number of unicast probes sent.
    Probe {
        /// Hardware address.
        mac: Mac,
        /// Probes sent.
        probes: u8,
    },
    /// Nobody answered.
    Failed,
    /// Set by hand; never ages.
    Permanent {
        /// Hardware address.
        mac: Mac,
    },
}

impl NeighbourState {
    /// Returns the hardware address, where one is known.
    pub const fn mac(&self) -> Option<Mac> {
        match self {
            Self::Reachable { mac, .. }
            | Self::Stale { mac }
            | Self::Probe { mac, .. }
            | Self::Permanent { mac } => Some(*mac),
            Self::Incomplete { .. } | Self::Failed => None,
        }
    }

    /// Returns the name `ip neigh` prints, at the moment `now`.
    pub fn name(&self, now: Time) -> &'static str {
        match self {
            Self::Incomplete { .. } => "INCOMPLETE",
            Self::Reachable { until, .. } if *until < now => "STALE",
            Self::Reachable { .. } => "REACHABLE",
            Self::Stale { .. } => "STALE",
            Self::Probe { probes: 0, .. } => "DELAY",
            Self::Probe { .. } => "PROBE",
            Self::Failed => "FAILED",
            Self::Permanent { .. } => "PERMANENT",
        }
    }
}

impl Neighbour {
    /// Whether it may go when the table is full (`neigh_forced_gc`): nothing waits for it, no timer runs for it, and it failed or
    /// has not been set for five seconds.
    fn may_go(&self, now: Time) -> bool {
        /// How long an entry is safe.
        const FRESH: Duration = Duration::from_secs(5);
        match &self.state {
            NeighbourState::Failed => true,
            NeighbourState::Stale { .. } => self.updated + FRESH < now,
            // It is stale from the end of the belief on.
            NeighbourState::Reachable { until, .. } => *until + FRESH < now,
            NeighbourState::Incomplete { .. }
            | NeighbourState::Probe { .. }
            | NeighbourState::Permanent { .. } => false,
        }
    }
}

impl NeighbourTable {
    /// Makes room for a new neighbour (`neigh_alloc`), under the limits `gc_thresh2` and `gc_thresh3`; returns whether there is
    /// some. Entries set by hand do not count.
    pub fn make_room(&mut self, family: Family, (some, most): (usize, usize), now: Time) -> bool {
        /// Between two searches while there are fewer than `gc_thresh3`.
        const PAUSE: Duration = Duration::from_secs(5);
        if self.entries.len() < some.min(most) {
            return true;
        }
        let counts = |key: &NeighbourKey, entry: &Neighbour| {
            let by_hand = matches!(entry.state, NeighbourState::Permanent { .. });
            Family::of(key.1) == family && !by_hand
        };
        let count = self.entries.iter().filter(|(k, e)| counts(k, e)).count();
        let last = match family {
            Family::V4 => &mut self.flushed_v4,
            Family::V6 => &mut self.flushed_v6,
        };
        let due = last.is_none_or(|last| last + PAUSE < now);
        if count < most && (count < some || !due) {
            return true;
        }
        *last = Some(now);
        let wanted = count.saturating_sub(some).max(1);
        let may_go = |(key, entry): (&NeighbourKey, &Neighbour)| {
            (counts(key, entry) && entry.may_go(now)).then_some(*key)
        };
        let gone: Vec<NeighbourKey> = self
            .entries
            .iter()
            .filter_map(may_go)
            .take(wanted)
            .collect();
        for key in &gone {
            self.entries.shift_remove(key);
        }
        !gone.is_empty() || count < most
    }

    /// Returns the hardware address of a next hop, if it is known.
    pub fn mac(&self, dev: DevIndex, addr: IpAddr) -> Option<Mac> {
        self.entries
            .get(&NeighbourKey(dev, addr))
            .and_then(|entry| entry.state.mac())
    }

    /// Returns the hardware address of a next hop if it is believed, so that it can be used without further ado.
    #[inline]
    pub fn believed(&self, dev: DevIndex, addr: IpAddr, now: Time) -> Option<Mac> {
        match &self.entries.get(&NeighbourKey(dev, addr))?.state {
            NeighbourState::Permanent { mac } => Some(*mac),
            NeighbourState::Reachable { mac, until } if *until >= now => Some(*mac),
            NeighbourState::Reachable { .. }
            | NeighbourState::Stale { .. }
            | NeighbourState::Probe { .. }
            | NeighbourState::Incomplete { .. }
            | NeighbourState::Failed => None,
        }
    }

    /// Returns the number for a new resolution attempt.
    pub const fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// The device has another hardware address now: what was learned on it is forgotten (`neigh_changeaddr`), but
    /// for resolutions under way.
    pub fn address_changed(&mut self, dev: DevIndex) {
        let stays = |state: &NeighbourState| {
            matches!(
                state,
                NeighbourState::Incomplete { .. } | NeighbourState::Permanent { .. }
            )
        };
        self.entries
            .retain(|NeighbourKey(on, _), entry| *on != dev || stays(&entry.state));
    }

    /// Sets an entry by hand.
    pub fn set_permanent(&mut self, dev: DevIndex, addr: IpAddr, mac: Mac, origin: OriginId) {
        let state = NeighbourState::Permanent { mac };
        self.entries.insert(
            NeighbourKey(dev, addr),
            Neighbour {
                state,
                generation: 0,
                updated: Time::ZERO,
                origin,
            },
        );
    }

    /// Notes what a message said about a neighbour. A `solicited` one confirms it. Returns the packets that waited.
    pub fn learn(
        &mut self,
        dev: DevIndex,
        addr: IpAddr,
        mac: Mac,
        now: Time,
        solicited: bool,
    ) -> Vec<Skb> {
        let learned = if solicited {
            NeighbourState::Reachable {
                mac,
                until: now + REACHABLE,
            }
        } else {
            NeighbourState::Stale { mac }
        };
        let key = NeighbourKey(dev, addr);
        let Some(entry) = self.entries.get_mut(&key) else {
            let entry = Neighbour {
                state: learned,
                generation: 0,
                updated: now,
                origin: OriginId::NONE,
            };
            self.entries.insert(key, entry);
            return Vec::new();
        };
        let kept = match &entry.state {
            NeighbourState::Permanent { .. } => true,
            NeighbourState::Reachable { mac: old, .. } => *old == mac && !solicited,
            NeighbourState::Incomplete { .. }
            | NeighbourState::Stale { .. }
            | NeighbourState::Probe { .. }
            | NeighbourState::Failed => false,
        };
        if !kept {
            entry.updated = now;
        }
        match &mut entry.state {
            NeighbourState::Permanent { .. } => Vec::new(),
            NeighbourState::Incomplete { queue, .. } => {
                let waiting = std::mem::take(queue);
                entry.state = learned;
                waiting
            }
            NeighbourState::Reachable { mac: old, .. } if *old == mac && !solicited => Vec::new(),
            NeighbourState::Reachable { .. }
            | NeighbourState::Stale { .. }
            | NeighbourState::Probe { .. }
            | NeighbourState::Failed => {
                entry.state = learned;
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: DevIndex = DevIndex(2);

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn addr(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    /// A table with so many neighbours that have answered at the beginning.
    fn table(answered: u8) -> NeighbourTable {
        let mut table = NeighbourTable::default();
        for n in 1..=answered {
            let waiting = table.learn(DEV, addr(n), Mac([n; 6]), at(0), true);
            assert!(waiting.is_empty());
        }
        table
    }

    #[test]
    fn a_full_table_takes_nobody_until_somebody_may_go() {
        let mut table = table(4);
        assert!(table.make_room(Family::V4, (8, 5), at(1)));
        assert!(
            !table.make_room(Family::V4, (8, 4), at(1)),
            "all are believed"
        );
        assert!(table.make_room(Family::V6, (8, 4), at(1)), "another table");
        assert!(
            !table.make_room(Family::V4, (8, 4), at(35)),
            "stale for 5 s"
        );
        assert!(table.make_room(Family::V4, (8, 4), at(36)));
        assert_eq!(table.entries.len(), 3, "one goes, the first");
        assert!(!table.entries.contains_key(&NeighbourKey(DEV, addr(1))));
    }

    #[test]
    fn above_the_second_limit_those_beyond_it_go_every_five_seconds() {
        let mut table = table(6);
        assert!(table.make_room(Family::V4, (4, 9), at(60)));
        assert_eq!(table.entries.len(), 4);
        for n in 7..=9 {
            table.learn(DEV, addr(n), Mac([n; 6]), at(20), true);
        }
        assert!(
            table.make_room(Family::V4, (4, 9), at(65)),
            "too soon to look"
        );
        assert_eq!(table.entries.len(), 7);
        assert!(table.make_room(Family::V4, (4, 9), at(66)));
        assert_eq!(table.entries.len(), 4);
    }

    #[test]
    fn entries_set_by_hand_neither_count_nor_go() {
        let mut table = table(1);
        for n in 2..=9 {
            table.set_permanent(DEV, addr(n), Mac([n; 6]), OriginId::NONE);
        }
        assert!(table.make_room(Family::V4, (2, 2), at(60)));
        assert_eq!(table.entries.len(), 9);
        assert!(!table.make_room(Family::V4, (0, 0), at(20)));
    }
}
