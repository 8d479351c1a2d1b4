//! Floor 2: one Linux network namespace. A node and a pod are the same thing.
//!
//! Reading order: [`link`] (devices), [`bridge`], [`tunnel`], [`route`], [`neighbour`], [`sysctl`], [`netfilter`]
//! (rules), [`conntrack`] (connections and translation), [`socket`] (who listens), [`release`] (what older kernels do),
//! [`path`] (the order of stages),
//! [`config`] (changes), [`show`] (what the tools print).
//!
//! The doors are [`Netns::receive`] (a frame came in), [`Netns::send`] (a local process sends),
//! [`Netns::timer`] (time has come) and [`Netns::apply`] (somebody configures). Time and dice come in with [`Cx`],
//! effects go out through it. Knows nothing of Kubernetes.

pub mod link;
pub mod bridge;
pub mod tunnel;
pub mod route;
pub mod neighbour;
pub mod sysctl;
pub mod netfilter;
pub mod conntrack;
pub mod socket;
pub mod release;
pub mod path;
pub mod config;
mod configure;
pub mod show;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Dice, Errno, Family, FxIndexMap, Time};
use crate::wire::{DevIndex, Frame, NetnsId, Packet, PacketId, Place, Recorder, Stage, Step};

use conntrack::Conntrack;
use link::Device;
use neighbour::NeighbourTable;
use netfilter::Netfilter;
use release::Release;
use route::Fib;
use socket::{SocketId, Sockets};
use sysctl::Sysctls;

/// One network namespace: devices, addresses, routes, neighbours, rules, connection tracking, sockets, settings.
#[derive(Clone, Debug)]
pub struct Netns {
    /// Which one it is.
    pub id: NetnsId,
    /// Its name, from which hardware addresses and random draws derive (`node/node-a`, `pod/shop/cart-0`).
    pub name: Arc<str>,
    /// Devices; a device's position is its index minus one. Deleted devices leave `None`.
    pub devices: Vec<Option<Device>>,
    /// Device names.
    pub dev_names: FxIndexMap<Arc<str>, DevIndex>,
    /// Routing tables.
    pub fib: Fib,
    /// Neighbour entries of all devices.
    pub neighbours: NeighbourTable,
    /// Settings.
    pub sysctls: Sysctls,
    /// Packet filter rules; `None` while nobody has written any.
    pub netfilter: Option<Box<Netfilter>>,
    /// Connection tracking; `None` while no rule needs it.
    pub conntrack: Option<Box<Conntrack>>,
    /// Sockets.
    pub sockets: Sockets,
    /// Release of the machine's kernel.
    pub release: Release,
    /// Whether the machine has loaded the module `sctp`, as it does when the first such socket is made.
    pub sctp: bool,
    /// Token buckets that limit ICMP errors, per destination, and cached path MTUs.
    pub icmp: path::IcmpState,
}

/// What a namespace needs from outside while it works, and where its effects go.
#[derive(Debug)]
pub struct Cx<'a, D, R> {
    /// The present moment.
    pub now: Time,
    /// Who answers questions of chance.
    pub dice: &'a mut D,
    /// Who wants to know.
    pub recorder: &'a mut R,
    /// What is to happen outside, in order.
    pub effects: &'a mut Vec<Effect>,
    /// Number of the next packet the kernel makes itself.
    pub next_packet: &'a mut u64,
}

impl<D: Dice, R: Recorder> Cx<'_, D, R> {
    /// Records a step that is only built if somebody looks.
    pub fn step(&mut self, place: Place, step: impl FnOnce() -> Step) {
        if R::ENABLED {
            self.recorder.record(place, step());
        }
    }

    /// Returns a number for a new packet.
    pub fn packet_id(&mut self) -> PacketId {
        *self.next_packet += 1;
        PacketId(*self.next_packet)
    }
}

/// What a namespace wants done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put a frame on the wire behind a veth or physical device.
    Transmit {
        /// Device it leaves by.
        dev: DevIndex,
        /// The frame.
        frame: Frame,
    },
    /// Hand a packet to a socket.
    Deliver {
        /// Whose.
        socket: SocketId,
        /// The packet.
        packet: Box<Packet>,
    },
    /// Tell a socket about an error that concerns it (an ICMP error, or the failure to resolve a neighbour).
    SocketError {
        /// Whose.
        socket: SocketId,
        /// The error.
        errno: Errno,
        /// Whether it ends even an established connection (`icmp_err_convert`).
        fatal: bool,
        /// Path MTU, with EMSGSIZE.
        mtu: Option<u32>,
    },
    /// An ICMP echo reply or error for a raw socket (`ping`, `traceroute`) arrived.
    IcmpReceived {
        /// The packet.
        packet: Box<Packet>,
    },
    /// Call [`Netns::timer`] after this time.
    Timer {
        /// From now.
        after: Duration,
        /// What to call it with.
        timer: Box<KernelTimer>,
    },
}

/// A timer of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelTimer {
    /// Send the next probe for an unresolved neighbour, or give up.
    NeighbourProbe {
        /// Device.
        dev: DevIndex,
        /// Address being resolved.
        addr: IpAddr,
        /// Which resolution attempt it belongs to; older timers are ignored.
        generation: u32,
    },
    /// Give up on a packet of which not all pieces have come (`net.ipv4.ipfrag_time`).
    Reassembly {
        /// Source address.
        src: IpAddr,
        /// Destination address.
        dst: IpAddr,
        /// Identification of the pieces.
        ident: u32,
    },
}

/// A packet on its way through one namespace, with what the kernel notes beside it (`struct sk_buff`).
#[derive(Clone, Debug)]
pub struct Skb {
    /// The packet.
    pub packet: Box<Packet>,
    /// Firewall mark; lost when the packet leaves the namespace.
    pub mark: u32,
    /// Its connection, once known.
    pub ct: Option<conntrack::CtRef>,
    /// How the packet relates to its connection.
    pub ct_info: conntrack::CtInfo,
    /// Device it came in by (the bridge, for bridged packets); `None` for local packets.
    pub in_dev: Option<DevIndex>,
    /// Device it leaves by, once routed.
    pub out_dev: Option<DevIndex>,
    /// Bridge port it came in by.
    pub phys_in: Option<DevIndex>,
    /// Bridge port it leaves by.
    pub phys_out: Option<DevIndex>,
    /// Next hop, once routed: the gateway or the destination itself.
    pub next_hop: Option<IpAddr>,
    /// Whether it may be cut although DF is set: its own socket does not insist (`ignore_df`).
    pub ignore_df: bool,
    /// The largest of the pieces it came in, if it was put together here (`frag_max_size`).
    pub largest_piece: Option<u32>,
}

impl Skb {
    /// Returns a packet with nothing noted yet; to rules that come before connection tracking it is INVALID.
    pub fn new(packet: impl Into<Box<Packet>>) -> Self {
        Self {
            packet: packet.into(),
            mark: 0,
            ct: None,
            ct_info: conntrack::CtInfo::Invalid,
            in_dev: None,
            out_dev: None,
            phys_in: None,
            phys_out: None,
            next_hop: None,
            ignore_df: false,
            largest_piece: None,
        }
    }

    /// Whether the packet is too long for `mtu` and must not be cut (`ip_exceeds_mtu`, `ip6_pkt_too_big`). Only hosts
    /// cut IPv6 packets, and whoever puts them together to look inside.
    pub fn exceeds(&self, mtu: u32) -> bool {
        let whole = match self.packet.family() {
            Family::V4 => self.packet.df,
            Family::V6 => true,
        };
        let cut_before = self.largest_piece.is_some();
        self.packet.len() > mtu
            && whole
            && (self.largest_piece.is_some_and(|piece| piece > mtu)
                || !(self.ignore_df || cut_before))
    }
}

impl Netns {
    /// Returns the device with this index.
    #[inline]
    pub fn device(&self, dev: DevIndex) -> Option<&Device> {
        self.devices.get(dev.position()).and_then(Option::as_ref)
    }

    /// Returns the device with this index, to change it.
    #[inline]
    pub fn device_mut(&mut self, dev: DevIndex) -> Option<&mut Device> {
        self.devices
            .get_mut(dev.position())
            .and_then(Option::as_mut)
    }

    /// Returns the device with this name.
    pub fn device_named(&self, name: &str) -> Option<&Device> {
        self.dev_names.get(name).and_then(|dev| self.device(*dev))
    }

    /// Returns when a SYN of this namespace is sent again.
    pub fn syn_schedule(&self) -> sysctl::SynSchedule {
        self.sysctls.syn_schedule(self.release)
    }

    /// Returns the spot in this namespace.
    #[inline]
    pub const fn place(&self, dev: Option<DevIndex>, stage: Stage) -> Place {
        Place {
            netns: Some(self.id),
            dev,
            stage,
        }
    }
}
