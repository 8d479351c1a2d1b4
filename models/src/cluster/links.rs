//! Pairs of machines whose way through the underlay's switch differs from the others': longer, slower, lossy, or for
//! smaller frames only. Two buildings, two clouds, a bad cable.
//!
//! A pair is told by the hardware addresses of a frame. On the machine's cable to the switch the pair's rate, loss and
//! MTU count, and half of its delay; the other half on the cable from the switch.
//!
//! # Fidelity
//! Broadcasts are for many pairs: rate and MTU of a pair do not count for them, and its loss counts on the second cable.
//! A frame that is too large is lost without a word, as on any Ethernet.

use std::collections::BTreeMap;
use std::time::Duration;

use super::WireEnd;
use crate::base::hash::combine;
use crate::base::{Mac, Ratio, Time};
use crate::wire::{Body, Frame};

/// How one pair differs. What is not given is as everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Time a frame takes from machine to machine.
    pub latency: Option<Duration>,
    /// Rate in bits per second.
    pub bandwidth: Option<u64>,
    /// Chance that a frame is lost.
    pub loss: Option<Ratio>,
    /// Largest IP packet in bytes.
    pub mtu: Option<u32>,
}

/// One direction of a pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direction {
    pub(super) link: Link,
    /// Until when it is sending what was handed to it before.
    pub(super) busy_until: Time,
    /// Whom its draws belong to.
    pub(super) key: u64,
}

impl Direction {
    /// Returns the MTU if the frame is too large for it.
    pub(super) fn too_large(&self, frame: &Frame) -> Option<u32> {
        match &frame.body {
            Body::Ip(packet) => self.link.mtu.filter(|mtu| packet.len() > *mtu),
            Body::Arp(_) => None,
        }
    }
}

/// All pairs that differ.
#[derive(Clone, Debug, Default)]
pub struct Links {
    directions: BTreeMap<(Mac, Mac), Direction>,
    /// Hardware addresses of the machines in pairs.
    machines: BTreeMap<WireEnd, Mac>,
}

impl Links {
    /// Adds a pair: the devices of two machines with their hardware addresses.
    pub fn add(&mut self, (a, a_mac): (WireEnd, Mac), (b, b_mac): (WireEnd, Mac), link: Link) {
        for (from, to) in [(a_mac, b_mac), (b_mac, a_mac)] {
            let key = combine(number(from), number(to));
            let direction = Direction {
                link,
                busy_until: Time::ZERO,
                key,
            };
            self.directions.insert((from, to), direction);
        }
        self.machines.insert(a, a_mac);
        self.machines.insert(b, b_mac);
    }

    /// Returns whether no pair differs.
    pub fn is_empty(&self) -> bool {
        self.directions.is_empty()
    }

    /// Returns the direction that a frame travels, if its pair differs: by its addresses, or for a broadcast by the
    /// machine that it reaches.
    pub(super) fn of(&mut self, frame: &Frame, to: WireEnd) -> Option<&mut Direction> {
        let dst = if frame.dst.is_multicast() {
            *self.machines.get(&to)?
        } else {
            frame.dst
        };
        self.directions.get_mut(&(frame.src, dst))
    }
}

fn number(mac: Mac) -> u64 {
    mac.0
        .into_iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(byte))
}
