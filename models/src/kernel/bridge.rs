//! A Linux bridge: ports, forwarding database, flooding (`bridge(8)`, `net/bridge/`).

use std::collections::BTreeSet;

use crate::base::{FxIndexMap, Mac};
use crate::wire::DevIndex;

/// State of a bridge device.
#[derive(Clone, Debug, Default)]
pub struct Bridge {
    /// Ports, in the order they were added.
    pub ports: Vec<DevIndex>,
    /// Which port an address was learned on, or set to.
    pub fdb: FxIndexMap<Mac, FdbEntry>,
    /// Pairs of ports (from, to) between which a fault cuts traffic.
    pub cut: BTreeSet<(DevIndex, DevIndex)>,
    /// Whether the hardware address was set by hand; otherwise it follows the lowest of the ports.
    pub fixed_mac: bool,
    /// Whether the MTU was set by hand; otherwise it follows the smallest of the ports.
    pub fixed_mtu: bool,
    /// Whether it ever had a port: before that it counts as carrying.
    pub had_port: bool,
}

/// An entry of a bridge's forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Port the address is reached by.
    pub port: DevIndex,
    /// Whether it was set rather than learned.
    pub permanent: bool,
    /// When it was last seen as a source, in nanoseconds of simulated time.
    pub seen: crate::base::Time,
}
