//! Packet filter of one network namespace.
pub mod chain;

use std::sync::Arc;

use super::config::ConfigError;
use super::{Cx, Netns, Skb};
use crate::base::{Dice, Family};
use crate::wire::{Code, Recorder};
use chain::{ChainPolicy, Hook, RejectWith, Rule, Table};

/// Packet filter state of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Netfilter;

/// What a hook says about a packet. Where it does not go on, the ending step with its code and decider has been
/// recorded already; the caller only acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NfVerdict {
    /// It goes on.
    Accept,
    /// It is dropped silently.
    Drop(Code),
    /// It is dropped, and the sender is told.
    Reject(RejectWith, Code),
}

impl Netns {
    /// Makes a chain.
    ///
    /// # Errors
    /// Always, for now.
    pub fn add_chain(
        &mut self,
        _: Family,
        _: Table,
        name: &Arc<str>,
        _: Option<ChainPolicy>,
    ) -> Result<(), ConfigError> {
        Err(ConfigError::NoChain(Arc::clone(name)))
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// Always, for now.
    pub fn add_rule(
        &mut self,
        _: Family,
        _: Table,
        name: &Arc<str>,
        _: Option<u32>,
        _: Rule,
    ) -> Result<(), ConfigError> {
        Err(ConfigError::NoChain(Arc::clone(name)))
    }

    /// Passes a packet through everything that sits at a hook.
    pub(crate) fn run_hook<D: Dice, R: Recorder>(
        &mut self,
        _: Hook,
        _: &mut Skb,
        _: &mut Cx<'_, D, R>,
    ) -> NfVerdict {
        NfVerdict::Accept
    }
}
