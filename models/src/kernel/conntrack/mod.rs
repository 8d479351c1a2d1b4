//! Connection tracking of one network namespace (`nf_conntrack`).

/// Connection tracking table.
#[derive(Clone, Debug, Default)]
pub struct Conntrack;

/// Names an entry of the table, or the unconfirmed entry of the packet being processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CtRef(pub u32);

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
