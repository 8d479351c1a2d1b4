//! Programs in user space that the kernel asks about packets (`NFQUEUE`), or that write rules of their own kind:
//! the agents that enforce policies.
//!
//! # Fidelity
//! An agent answers at once and never falls behind; its queue has no length. What it decides is not among the rules
//! that `iptables-save` prints.

use std::fmt;

use super::chain::Hook;
use crate::kernel::conntrack::CtInfo;
use crate::wire::{Code, Decider, Packet};

/// Who is asked about packets at one hook.
pub trait Agent: fmt::Debug + Send + Sync {
    /// Whether it sits at a hook: before the filter table in INPUT and FORWARD, before source translation in POSTROUTING.
    fn sits_at(&self, hook: Hook) -> bool;

    /// Decides about a packet. What it says is recorded.
    fn decide(&self, packet: &Packet, state: CtInfo) -> Ruling;
}

/// What an agent decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Nothing speaks against the packet.
    Silent,
    /// It may pass, for these reasons.
    Pass(Vec<Decider>),
    /// It is dropped.
    Drop(Code, Decider),
    /// It should be dropped, and nobody does that.
    NotEnforced(Decider),
}
