//! Header sizes and MTU arithmetic, in bytes.

use super::packet::{Body, Frame, Icmp, Packet, Payload, TcpFlags, Transport};
use crate::base::Family;

/// Ethernet header without frame check sequence.
pub const ETHERNET: u32 = 14;
/// VXLAN header (RFC 7348 §5).
pub const VXLAN: u32 = 8;
/// UDP header.
pub const UDP: u32 = 8;
/// What every ICMP error quotes: an IPv4 header and eight bytes.
pub const QUOTED_HEADERS: u32 = 28;
/// Preamble, start delimiter, frame check sequence and inter-frame gap of Ethernet: what a frame occupies on a
/// wire beyond its own bytes.
pub const ETHERNET_OVERHEAD: u32 = 24;
/// Smallest Ethernet frame without frame check sequence.
pub const ETHERNET_MIN: u32 = 60;

/// Returns the size of an IP header without options.
pub const fn ip_header(family: Family) -> u32 {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Returns the size of the extension header of a fragment; IPv4 has room for it in every header.
pub const fn fragment_header(family: Family) -> u32 {
    match family {
        Family::V4 => 0,
        Family::V6 => 8,
    }
}

/// Returns how many bytes an ICMP error quotes of a packet of `len` bytes: the error is no longer than 576 bytes
/// (`icmp_send`), or 1280 over IPv6 (`icmp6_send`).
pub const fn quoted(family: Family, len: u32) -> u32 {
    let room = match family {
        Family::V4 => 576 - 20 - 8,
        Family::V6 => 1280 - 40 - 8,
    };
    if len < room { len } else { room }
}

/// Returns what VXLAN adds to an inner IP packet, seen by the underlay's IP layer (50 over IPv4, 70 over IPv6).
pub const fn vxlan_overhead(underlay: Family) -> u32 {
    ETHERNET + VXLAN + UDP + ip_header(underlay)
}

impl Transport {
    /// Returns the size of the header.
    ///
    /// # Fidelity
    /// TCP counts 20 bytes plus 20 of options on SYN and 12 (timestamps) on the rest, as Linux sends by default. A RST has
    /// no options, as from a closed port; that of a connection has timestamps in Linux.
    pub const fn header_len(&self) -> u32 {
        match self {
            Self::Tcp(tcp) if tcp.flags.contains(TcpFlags::RST) => 20,
            Self::Tcp(tcp) if tcp.mss.is_some() => 40,
            Self::Tcp(_) => 32,
            Self::Udp(_) => UDP,
            Self::Sctp(_) => 12 + 16,
            Self::Icmp(Icmp::EchoRequest { .. } | Icmp::EchoReply { .. }) => 8,
            Self::Icmp(Icmp::Error { .. }) => 8 + QUOTED_HEADERS,
            Self::Icmp(
                Icmp::NeighbourSolicitation { .. } | Icmp::NeighbourAdvertisement { .. },
            ) => 32,
        }
    }
}

impl Payload {
    /// Returns the number of bytes.
    #[inline]
    pub fn len(&self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Data(data) => data.len,
            Self::Vxlan(vxlan) => VXLAN + vxlan.frame.len(),
        }
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Packet {
    /// Returns the length of the IP packet, header included: what is compared with an MTU.
    #[inline]
    pub fn len(&self) -> u32 {
        let body = match self.fragment {
            Some(fragment) => fragment.len + fragment_header(self.family()),
            None => self.transport.header_len() + self.payload.len(),
        };
        ip_header(self.family()) + body
    }

    /// Returns whether the packet has no bytes, which no packet has.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

impl Frame {
    /// Returns the length of the frame without frame check sequence.
    pub fn len(&self) -> u32 {
        ETHERNET
            + match &self.body {
                Body::Arp(_) => 28,
                Body::Ip(packet) => packet.len(),
            }
    }

    /// Returns whether the frame has no bytes, which no frame has.
    pub const fn is_empty(&self) -> bool {
        false
    }
}
