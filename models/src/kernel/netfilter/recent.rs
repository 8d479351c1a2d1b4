//! Address lists of `-m recent` (`xt_recent.c`): who was seen, and when last.
//!
//! # Fidelity
//! Keeps the last time an address was seen; the kernel keeps twenty, for `--hitcount`, which nobody here uses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::chain::RecentOp;
use crate::base::{FxIndexMap, Time};

/// How many addresses a list holds (module parameter `ip_list_tot`).
pub const LIST_SIZE: usize = 100;

/// The lists of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentLists {
    lists: FxIndexMap<Arc<str>, FxIndexMap<IpAddr, Time>>,
}

impl RecentLists {
    /// Does what one match asks for, and returns whether it matches.
    pub fn ask(
        &mut self,
        name: &Arc<str>,
        op: RecentOp,
        seconds: Option<u32>,
        reap: bool,
        addr: IpAddr,
        now: Time,
    ) -> bool {
        if !self.lists.contains_key(name) {
            self.lists.insert(Arc::clone(name), FxIndexMap::default());
        }
        let Some(list) = self.lists.get_mut(name) else {
            return false;
        };
        let Some(seen) = list.get(&addr).copied() else {
            if op == RecentOp::Set {
                if list.len() >= LIST_SIZE {
                    list.shift_remove_index(0);
                }
                list.insert(addr, now);
                return true;
            }
            return false;
        };
        let fresh = |seen: Time| {
            seconds.is_none_or(|s| now.since(seen) <= Duration::from_secs(u64::from(s)))
        };
        let found = match op {
            RecentOp::Set => true,
            RecentOp::Remove => {
                list.shift_remove(&addr);
                return true;
            }
            RecentOp::Rcheck | RecentOp::Update => fresh(seen),
        };
        if reap && op != RecentOp::Set {
            // As the kernel: only the one that was refreshed longest ago.
            let oldest = list.first().is_some_and(|(_, seen)| !fresh(*seen));
            if oldest {
                list.shift_remove_index(0);
            }
        }
        if op == RecentOp::Set || (op == RecentOp::Update && found) {
            list.shift_remove(&addr);
            list.insert(addr, now);
        }
        found
    }

    /// Returns a list's addresses with when each was last seen, longest ago first (`/proc/net/xt_recent/NAME`).
    pub fn list(&self, name: &str) -> impl Iterator<Item = (IpAddr, Time)> {
        self.lists
            .get(name)
            .into_iter()
            .flat_map(|list| list.iter().map(|(addr, seen)| (*addr, *seen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn a_refreshed_address_stays_for_ever_and_a_gap_forgets_it() {
        let (mut lists, name) = (RecentLists::default(), Arc::from("L"));
        let mut ask = |op, at| lists.ask(&name, op, Some(4), true, ip(1), Time::from_millis(at));
        assert!(!ask(RecentOp::Rcheck, 0));
        for round in 0..10 {
            assert!(ask(RecentOp::Set, round * 3500));
            assert!(ask(RecentOp::Rcheck, round * 3500 + 3500));
        }
        assert!(!ask(RecentOp::Rcheck, 9 * 3500 + 4001));
        assert_eq!(lists.list("L").count(), 0, "reaped");
    }

    #[test]
    fn a_list_holds_a_hundred_addresses() {
        let (mut lists, name) = (RecentLists::default(), Arc::from("L"));
        for n in 0..=100 {
            lists.ask(&name, RecentOp::Set, None, false, ip(n), Time::ZERO);
        }
        assert_eq!(lists.list("L").count(), LIST_SIZE);
        let mut known = |n| lists.ask(&name, RecentOp::Rcheck, None, false, ip(n), Time::ZERO);
        assert!(!known(0));
        assert!(known(1));
        assert!(known(100));
    }
}
