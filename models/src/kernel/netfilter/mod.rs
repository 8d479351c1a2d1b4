//! Packet filter.
pub mod chain;
/// Packet filter state of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Netfilter;
