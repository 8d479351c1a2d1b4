//! The machine a plugin runs on: what it can look at, and what it can have done.
//!
//! A plugin sees namespaces but holds none: whatever it changes, it asks for as a [`Change`].

use std::sync::Arc;

use super::Files;
use super::portmap::NatEdit;
use crate::base::{Family, Mac};
use crate::kernel::Netns;
use crate::kernel::config::{Change, ConfigError};

/// Which namespace of the machine is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At<'a> {
    /// That of the node, in which plugins run.
    Node,
    /// One that was opened by its path (`CNI_NETNS`).
    Path(&'a str),
}

/// A veth pair to be made: one end in a container, the other on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethPair<'a> {
    /// Path of the container's namespace.
    pub netns: &'a str,
    /// Name of the end in the container.
    pub inner: Arc<str>,
    /// Hardware address of the end in the container, if it is asked for.
    pub mac: Option<Mac>,
    /// Name of the end on the node.
    pub outer: Arc<str>,
    /// MTU of both, in bytes.
    pub mtu: u32,
}

/// What plugins ask the operating system for.
pub trait Machine {
    /// Returns a namespace; `None` if nothing is at that path.
    fn netns(&self, at: At<'_>) -> Option<&Netns>;

    /// Makes a change.
    ///
    /// # Errors
    /// As the namespace says; nothing is changed then.
    fn change(&mut self, at: At<'_>, change: &Change) -> Result<(), ConfigError>;

    /// Makes a veth pair.
    ///
    /// # Errors
    /// If a device of one of the names exists.
    fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<(), ConfigError>;

    /// Returns where the other end of a veth pair is: its namespace's path (`None` is the node) and its name.
    fn peer(&self, at: At<'_>, dev: &str) -> Option<(Option<&str>, Arc<str>)>;

    /// Changes chains of the node's `nat` table, which exists afterwards.
    ///
    /// # Errors
    /// If a rule would jump to a chain that does not exist.
    fn edit_nat(&mut self, family: Family, edit: NatEdit) -> Result<(), ConfigError>;

    /// Returns the next number of the operating system's source of randomness.
    fn random(&mut self) -> u32;

    /// Returns the files of the node.
    fn files(&mut self) -> &mut Files;
}
