//! Connection tracking of one network namespace (`nf_conntrack`, `nf_nat`).
//!
//! Reading order: [`state`] (protocols and their timeouts), [`table`] (the entries), `full` (no room for more), [`nat`] (translation), [`show`]
//! (`conntrack -L`, `conntrack -D`). Stands for `net/netfilter/nf_conntrack_*.c` and `nf_nat_*.c` of Linux 6.18.
//!
//! # Fidelity
//! Leaves out helpers and expectations (FTP and the like), zones, labels and accounting. Packets of one namespace are
//! handled one after the other, unless somebody lets those that come at one moment race ([`Conntrack::set_racing`]);
//! what becomes of two first packets of one connection then is told by [`ClashResolution`](super::release::ClashResolution).

pub mod sctp;
pub mod state;
pub mod table;
mod full;
pub mod nat;
pub mod show;

pub use show::CtFilter;
pub use state::{CtSettings, SctpState, TcpState};
pub use table::{Conntrack, CtStats, Entry, Tracked};

/// Names an entry of the table, or the unconfirmed entry of the packet being processed. A name outlives its entry
/// without harm: it then names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CtRef {
    /// Position in the table; [`CtRef::PENDING`] is the unconfirmed entry.
    pub(super) slot: u32,
    /// Which of the entries that were at this position.
    pub(super) generation: u32,
}

impl CtRef {
    /// Position of the unconfirmed entry.
    const PENDING: u32 = u32::MAX;

    /// Whether the entry was unconfirmed when this name was given.
    pub const fn is_pending(self) -> bool {
        self.slot == Self::PENDING
    }
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// That of the first packet.
    Original,
    /// The other one.
    Reply,
}

impl Direction {
    /// Returns the other direction.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// How a packet relates to its connection (`enum ip_conntrack_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtInfo {
    /// No tracking (NOTRACK, or no connection tracking in this namespace).
    #[default]
    Untracked,
    /// Cannot be attached to any connection.
    Invalid,
    /// First packets of a connection, original direction.
    New,
    /// Original direction of a connection that has seen a reply.
    Established,
    /// Reply direction.
    EstablishedReply,
    /// ICMP error about the original direction of a connection (so the error travels in the reply direction).
    RelatedReply,
    /// ICMP error about the reply direction (so the error travels in the original direction).
    Related,
}

impl CtInfo {
    /// Returns in which direction of its connection the packet travels.
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::Untracked | Self::Invalid => None,
            Self::New | Self::Established | Self::Related => Some(Direction::Original),
            Self::EstablishedReply | Self::RelatedReply => Some(Direction::Reply),
        }
    }

    /// Whether the packet is an ICMP error about a connection.
    pub const fn is_related(self) -> bool {
        matches!(self, Self::Related | Self::RelatedReply)
    }

    /// Returns how an error about the packet relates to the packet's connection (`nf_ct_attach`).
    #[must_use]
    pub const fn of_answer(self) -> Self {
        match self.direction() {
            Some(Direction::Original) => Self::RelatedReply,
            Some(Direction::Reply) => Self::Related,
            None => self,
        }
    }

    /// Returns the name `--ctstate` uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untracked => "UNTRACKED",
            Self::Invalid => "INVALID",
            Self::New => "NEW",
            Self::Established | Self::EstablishedReply => "ESTABLISHED",
            Self::Related | Self::RelatedReply => "RELATED",
        }
    }
}
