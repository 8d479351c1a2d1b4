//! What sits at a hook, in the order of priorities (`include/uapi/linux/netfilter_ipv4.h`).

use super::chain::{Hook, Table};
use super::nft::ChainRef;
use crate::wire::Manip;

/// One thing that happens to a packet at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// A table of iptables other than `nat`.
    Table(Table),
    /// The connection is looked up.
    Track,
    /// The agent is asked.
    Ask,
    /// Translation: the first packet of a connection asks the `nat` chains.
    Nat(Manip),
    /// The connection becomes real.
    Confirm,
    /// A base chain of nftables, of type filter.
    Chain(ChainRef),
}

impl Hook {
    /// Returns what sits at the hook without nftables, each with its priority. Agents ask to come a little before the
    /// filter table, or before source translation.
    pub(super) const fn stops(self) -> &'static [(i32, Stop)] {
        use Stop::{Ask, Confirm, Nat, Track};
        const RAW: (i32, Stop) = (-300, Stop::Table(Table::Raw));
        const TRACK: (i32, Stop) = (-200, Track);
        const MANGLE: (i32, Stop) = (-150, Stop::Table(Table::Mangle));
        const DNAT: (i32, Stop) = (-100, Nat(Manip::Destination));
        const FILTER: (i32, Stop) = (0, Stop::Table(Table::Filter));
        const SNAT: (i32, Stop) = (100, Nat(Manip::Source));
        const LAST: (i32, Stop) = (i32::MAX, Confirm);
        match self {
            Self::Prerouting => &[RAW, TRACK, MANGLE, DNAT],
            Self::Input => &[MANGLE, (-5, Ask), FILTER, SNAT, LAST],
            Self::Forward => &[MANGLE, (-5, Ask), FILTER],
            Self::Output => &[RAW, TRACK, MANGLE, DNAT, FILTER],
            Self::Postrouting => &[MANGLE, (95, Ask), SNAT, LAST],
        }
    }
}
