//! Floor 4: everything together: namespaces, and the wires between them.
//!
//! A node, a pod, the underlay's switch and an outside host are all [`Netns`]; a [`Wire`] joins two devices. The
//! whole is one value that can be cloned, compared and checked.
//!
//! Reading order: this file (what there is), [`api_server`] (the Service every cluster has), [`settle`] (the control plane fills in), [`install`] (objects become
//! machines), `peers` (routes between nodes), [`links`] (pairs of machines that differ), [`carry`] (a frame crosses a wire), [`machine`] (what CNI plugins
//! see of a machine).

pub mod api_server;
pub mod settle;
pub mod install;
mod peers;
pub mod links;
pub mod carry;
pub mod machine;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::base::shelf::Shelves;
use crate::base::{FxIndexMap, Mac, Ratio, Time};
use crate::kernel::Netns;
use crate::wire::{Body, DevIndex, Frame, L4, NetnsId, Packet, Transport};

/// Identifies a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireId(pub u32);

/// One end of a wire: a device of a namespace.
pub type WireEnd = (NetnsId, DevIndex);

/// What joins two devices.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Its two ends.
    pub ends: [WireEnd; 2],
    /// What sort of wire it is.
    pub kind: WireKind,
    /// State of each direction: 0 is from the first end to the second.
    pub lanes: [Lane; 2],
}

/// Sorts of wires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireKind {
    /// A veth pair inside one machine: no delay of its own.
    Veth,
    /// A cable of the underlay, between a machine and the switch.
    Underlay,
}

/// One direction of a wire: a first-in-first-out queue that is busy until it is not.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// Propagation delay.
    pub latency: Duration,
    /// Rate in bits per second; `None` is infinite.
    pub bandwidth: Option<u64>,
    /// Chance that a frame is lost.
    pub loss: Ratio,
    /// Whether frames pass.
    pub up: bool,
    /// Until when it is sending what was handed to it before.
    pub busy_until: Time,
    /// Frames carried.
    pub carried: u64,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            bandwidth: None,
            loss: Ratio::ZERO,
            up: true,
            busy_until: Time::ZERO,
            carried: 0,
        }
    }
}

/// A rule of the underlay's firewall (VPC firewall, security group): what matches is dropped silently. It looks
/// at outer headers only, as such firewalls do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Name, for the trace.
    pub id: Arc<str>,
    /// Source prefix.
    pub from: Option<IpNet>,
    /// Destination prefix.
    pub to: Option<IpNet>,
    /// Protocol.
    pub l4: Option<L4>,
    /// Destination port.
    pub port: Option<u16>,
    /// Packets dropped so far.
    pub touched: u64,
}

impl Acl {
    /// Returns whether the rule concerns the packet.
    pub fn matches(&self, packet: &Packet) -> bool {
        let l4 = match packet.transport {
            Transport::Tcp(_) => L4::Tcp,
            Transport::Udp(_) => L4::Udp,
            Transport::Sctp(_) => L4::Sctp,
            Transport::Icmp(_) => L4::Icmp,
        };
        let inside = |net: Option<IpNet>, addr: IpAddr| net.is_none_or(|n| n.contains(&addr));
        inside(self.from, packet.src)
            && inside(self.to, packet.dst)
            && self.l4.is_none_or(|wanted| wanted == l4)
            && self
                .port
                .is_none_or(|wanted| packet.ports().is_some_and(|(_, d)| d == wanted))
    }
}

/// All namespaces and the wires between them. A copy shares what is not changed in either.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Namespaces by their number; those of deleted pods are `None`.
    netns: Shelves<Netns, 8>,
    /// Whether the machine of a namespace is switched off.
    powered_off: Vec<bool>,
    /// Namespaces by name.
    names: Arc<FxIndexMap<Arc<str>, NetnsId>>,
    /// Wires by their number; those of deleted pods are `None`.
    wires: Shelves<Wire, 32>,
    /// Which wire is behind a device: by namespace, then by device position.
    plugged: Shelves<Vec<Option<(WireId, u8)>>, 32>,
    /// The underlay's firewall.
    pub acls: Vec<Acl>,
    /// Pairs of machines whose connection differs from the others'.
    pub links: links::Links,
    /// Segments that are to come twice.
    pub copies: Vec<Copies>,
}

/// The next TCP segments with data from one machine to another come a second time, like ones that took a longer way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// Name of the fault.
    pub id: Arc<str>,
    /// Where they come from.
    pub from: WireEnd,
    /// Hardware address of the machine they go to.
    pub to: Mac,
    /// How much later.
    pub after: Duration,
    /// How many more.
    pub left: u32,
    /// How many so far.
    pub done: u64,
}

impl Cluster {
    /// Returns how much later a frame comes a second time, if it does.
    pub fn copied_after(&mut self, from: WireEnd, frame: &Frame) -> Option<Duration> {
        if self.copies.is_empty() {
            return None;
        }
        let with_data = matches!(&frame.body, Body::Ip(packet)
            if matches!(packet.transport, Transport::Tcp(_)) && !packet.payload.is_empty());
        let mut copies = self.copies.iter_mut().filter(|_| with_data);
        let copies = copies.find(|c| c.left > 0 && c.from == from && c.to == frame.dst)?;
        copies.left -= 1;
        copies.done += 1;
        Some(copies.after)
    }

    /// Makes a namespace with nothing but loopback.
    pub fn add_netns(&mut self, name: &str) -> NetnsId {
        let id = NetnsId(u32::try_from(self.netns.len()).expect("fewer than 2^32 namespaces"));
        let name: Arc<str> = name.into();
        self.netns.push(Netns::new(id, Arc::clone(&name)));
        self.powered_off.push(false);
        self.plugged.push(Vec::new());
        Arc::make_mut(&mut self.names).insert(name, id);
        id
    }

    /// Removes a namespace and the wires that end in it. Numbers are never used again.
    pub fn remove_netns(&mut self, id: NetnsId) {
        let Some(gone) = self.netns.take(id.0 as usize) else {
            return;
        };
        Arc::make_mut(&mut self.names).swap_remove(&gone.name);
        let plugged = self
            .plugged
            .get_mut(id.0 as usize)
            .map(std::mem::take)
            .unwrap_or_default();
        for (wire, _) in plugged.into_iter().flatten() {
            self.unplug(wire);
        }
    }

    /// Returns a namespace.
    pub fn netns(&self, id: NetnsId) -> Option<&Netns> {
        self.netns.get(id.0 as usize)
    }

    /// Returns a namespace, to change it.
    pub fn netns_mut(&mut self, id: NetnsId) -> Option<&mut Netns> {
        self.netns.get_mut(id.0 as usize)
    }

    /// Returns the namespace with this name.
    pub fn named(&self, name: &str) -> Option<NetnsId> {
        self.names.get(name).copied()
    }

    /// Returns all namespaces in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Netns> {
        self.netns.iter()
    }

    /// Joins two devices.
    ///
    /// # Panics
    /// If one of the devices has a wire already: a device has one plug.
    pub fn plug(&mut self, a: WireEnd, b: WireEnd, kind: WireKind, lane: Lane) -> WireId {
        let id = WireId(u32::try_from(self.wires.len()).expect("fewer than 2^32 wires"));
        for (side, (netns, dev)) in [(0, a), (1, b)] {
            let plugs = self
                .plugged
                .get_mut(netns.0 as usize)
                .expect("wires join existing namespaces");
            if plugs.len() <= dev.position() {
                plugs.resize(dev.position() + 1, None);
            }
            let plug = plugs.get_mut(dev.position()).expect("resized just now");
            assert!(plug.is_none(), "a device has one plug");
            *plug = Some((id, side));
        }
        self.wires.push(Wire {
            ends: [a, b],
            kind,
            lanes: [lane, lane],
        });
        id
    }

    /// Removes a wire.
    pub fn unplug(&mut self, id: WireId) {
        let Some(wire) = self.wires.take(id.0 as usize) else {
            return;
        };
        for (netns, dev) in wire.ends {
            let plugs = self.plugged.get_mut(netns.0 as usize);
            if let Some(plug) = plugs.and_then(|p| p.get_mut(dev.position())) {
                *plug = None;
            }
        }
    }

    /// Returns a wire.
    pub fn wire(&self, id: WireId) -> Option<&Wire> {
        self.wires.get(id.0 as usize)
    }

    /// Returns a wire, to change it.
    pub fn wire_mut(&mut self, id: WireId) -> Option<&mut Wire> {
        self.wires.get_mut(id.0 as usize)
    }

    /// Returns the wire behind a device, and which of its ends this is.
    pub fn wire_behind(&self, (netns, dev): WireEnd) -> Option<(WireId, u8)> {
        self.plugged
            .get(netns.0 as usize)
            .and_then(|p| p.get(dev.position()))
            .copied()
            .flatten()
    }

    /// Returns what is at the other end of the wire behind a device.
    pub fn peer(&self, end: WireEnd) -> Option<WireEnd> {
        let (id, side) = self.wire_behind(end)?;
        self.wire(id)?.ends.get(usize::from(1 - side)).copied()
    }

    /// Switches the machine of a namespace off or on.
    pub fn set_power(&mut self, id: NetnsId, off: bool) {
        if let Some(powered_off) = self.powered_off.get_mut(id.0 as usize) {
            *powered_off = off;
        }
    }

    /// Returns whether the machine of a namespace is switched off.
    pub fn is_off(&self, id: NetnsId) -> bool {
        self.powered_off.get(id.0 as usize).copied().unwrap_or(true)
    }
}
