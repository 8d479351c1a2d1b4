//! Network devices of one namespace: loopback, veth, physical, dummy, bridge, VXLAN (`ip link`, `ip addr`).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::bridge::Bridge;
use crate::base::{Mac, OriginId};
use crate::wire::DevIndex;

/// A network device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Interface index.
    pub index: DevIndex,
    /// Name, at most 15 characters.
    pub name: Arc<str>,
    /// Hardware address.
    pub mac: Mac,
    /// Largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// Whether it is up (administratively, and its peer exists).
    pub up: bool,
    /// The bridge it is a port of.
    pub master: Option<DevIndex>,
    /// Flags of a bridge port; meaningful with `master`.
    pub port: PortFlags,
    /// Addresses, in the order they were added.
    pub addrs: Vec<IfAddr>,
    /// Whether somebody asked it to take frames for others too.
    pub promisc: bool,
    /// The IPv6 address it made for itself. Only noted where wires tell whether they carry; nothing is routed by it.
    pub link_local: Option<Ipv6Addr>,
    /// What it is.
    pub kind: DeviceKind,
    /// Counters.
    pub stats: DeviceStats,
}

/// What a device is.
#[derive(Clone, Debug)]
pub enum DeviceKind {
    /// `lo`.
    Loopback,
    /// One end of a veth pair; the other end is known to the wiring between namespaces.
    Veth,
    /// A network card.
    Physical,
    /// A device that swallows everything sent to it.
    Dummy,
    /// A bridge.
    Bridge(Box<Bridge>),
    /// A VXLAN tunnel endpoint.
    Vxlan(Box<VxlanDevice>),
}

/// Settings of a VXLAN device (`ip link add type vxlan`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Network identifier.
    pub vni: u32,
    /// Local tunnel address.
    pub local: IpAddr,
    /// UDP destination port.
    pub dstport: u16,
    /// Underlying device, for the MTU and `dev`.
    pub dev: Option<DevIndex>,
    /// Whether it learns from what it receives.
    pub learning: bool,
    /// Forwarding database: inner hardware address to remote tunnel address.
    pub fdb: Vec<(Mac, IpAddr)>,
}

impl VxlanDevice {
    /// Notes which tunnel end an inner hardware address was seen at, if the device learns (`vxlan_snoop`).
    pub fn learn(&mut self, mac: Mac, remote: IpAddr) {
        if !self.learning || mac.is_multicast() {
            return;
        }
        match self.fdb.iter_mut().find(|(known, _)| *known == mac) {
            Some((_, at)) => *at = remote,
            None => self.fdb.push((mac, remote)),
        }
    }
}

/// Settings of a bridge port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// `hairpin on`: frames may go back out of the port they came in by.
    pub hairpin: bool,
    /// `isolated on`: no traffic to other isolated ports.
    pub isolated: bool,
}

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IfAddr {
    /// Address with the prefix of its subnet.
    pub net: IpNet,
    /// Scope.
    pub scope: Scope,
    /// Whether an earlier address of the same subnet makes this one secondary.
    pub secondary: bool,
    /// The object it was made from.
    pub origin: OriginId,
}

/// Scope of an address or route (`rtnetlink(7)`); lower is wider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `global`.
    #[default]
    Global,
    /// `site`.
    Site,
    /// `link`.
    Link,
    /// `host`.
    Host,
}

/// Counters of a device (`ip -s link`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Frames dropped instead of sent.
    pub tx_dropped: u64,
}
