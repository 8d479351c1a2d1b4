//! The neighbour table: which hardware address belongs to a next hop (`ip neigh`, `net/core/neighbour.c`).
//!
//! Resolution is by real ARP requests and neighbour solicitations. Leaves out: the random spread of the reachable
//! time (15–45 s; 30 s here), garbage collection by table size, confirmation by upper layers (a stale entry in use
//! is confirmed by a unicast probe after five seconds even where TCP progress would have done).

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use super::Skb;
use crate::base::{FxIndexMap, Mac, OriginId, Time};
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

impl NeighbourTable {
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
                origin: OriginId::NONE,
            };
            self.entries.insert(key, entry);
            return Vec::new();
        };
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
