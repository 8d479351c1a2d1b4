//! What travels: Ethernet frames, ARP, IPv4 and IPv6 packets with TCP, UDP, SCTP and ICMP as typed fields, and
//! encapsulation as nesting.
//!
//! Packets are values rather than bytes, so a wrong header has no spelling. Leaves out: checksums (always right),
//! IP options and extension headers other than fragmentation, VLAN tags. Who could notice: somebody who filters
//! on those.

use std::net::IpAddr;

use serde::Serialize;

use super::message::Message;
use super::tuple::L4;
use crate::base::{Errno, Family, Mac};

/// Identifies one packet from the moment it is sent until it ends; a forwarded or translated packet keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PacketId(pub u64);

/// Stable key of the conversation a packet belongs to: where its random draws come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FlowKey(pub u64);

/// An Ethernet II frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Source MAC.
    pub src: Mac,
    /// Destination MAC.
    pub dst: Mac,
    /// What it carries.
    pub body: Body,
}

/// Payload of a frame (its `EtherType` decides).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp(Box<Arp>),
    /// IPv4 or IPv6. Behind a pointer, as every stage hands it on.
    Ip(Box<Packet>),
}

/// An ARP message (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Number for the trace.
    pub id: PacketId,
    /// Request or reply.
    pub op: ArpOp,
    /// Sender's hardware address.
    pub sender_mac: Mac,
    /// Sender's protocol address.
    pub sender_ip: IpAddr,
    /// Target's hardware address (zero in a request).
    pub target_mac: Mac,
    /// Target's protocol address.
    pub target_ip: IpAddr,
}

/// Operation of an ARP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOp {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// An IPv4 (RFC 791) or IPv6 (RFC 8200) packet; the family is that of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Number for the trace.
    pub id: PacketId,
    /// Whose random draws it uses.
    pub flow: FlowKey,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Don't fragment. IPv6 routers never fragment, so always true there.
    pub df: bool,
    /// Set where this is a fragment.
    pub fragment: Option<Fragment>,
    /// Transport header.
    pub transport: Transport,
    /// What follows the transport header.
    pub payload: Payload,
}

/// Which piece of a packet a fragment is. The first one carries the transport header on the wire; here all of
/// them keep it, and matches that need ports must look at `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fragment {
    /// Identification shared by all pieces.
    pub ident: u32,
    /// Where the piece starts in the IP payload, in bytes.
    pub offset: u32,
    /// Bytes of IP payload in this piece.
    pub len: u32,
    /// Whether more pieces follow.
    pub more: bool,
}

/// Transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp(Tcp),
    /// UDP (RFC 768).
    Udp(Udp),
    /// SCTP (RFC 9260), one chunk.
    Sctp(Sctp),
    /// `ICMP` (RFC 792) or `ICMPv6` (RFC 4443, RFC 4861), by the packet's family.
    Icmp(Icmp),
}

impl Transport {
    /// Returns which protocol it is.
    pub const fn l4(&self) -> L4 {
        match self {
            Self::Tcp(_) => L4::Tcp,
            Self::Udp(_) => L4::Udp,
            Self::Sctp(_) => L4::Sctp,
            Self::Icmp(_) => L4::Icmp,
        }
    }
}

/// TCP header fields that decide anything here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// SYN, ACK, FIN, RST, PSH.
    pub flags: TcpFlags,
    /// Sequence number of the first byte (SYN and FIN count as one).
    pub seq: u32,
    /// Acknowledgement number, meaningful with ACK.
    pub ack: u32,
    /// Receive window in bytes, after scaling.
    pub window: u32,
    /// Maximum segment size option, on SYN segments.
    pub mss: Option<u16>,
}

/// TCP control bits (RFC 9293 §3.1).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: Self = Self(0x01);
    /// SYN.
    pub const SYN: Self = Self(0x02);
    /// RST.
    pub const RST: Self = Self(0x04);
    /// PSH.
    pub const PSH: Self = Self(0x08);
    /// ACK.
    pub const ACK: Self = Self(0x10);
    /// URG.
    pub const URG: Self = Self(0x20);
    /// SYN and ACK.
    pub const SYN_ACK: Self = Self(0x12);
    /// FIN and ACK.
    pub const FIN_ACK: Self = Self(0x11);
    /// RST and ACK.
    pub const RST_ACK: Self = Self(0x14);
    /// PSH and ACK.
    pub const PSH_ACK: Self = Self(0x18);

    /// Returns whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the bits set in either.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::fmt::Display for TcpFlags {
    /// `SYN,ACK`; `none` if no bit is set.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [(TcpFlags, &str); 6] = [
            (TcpFlags::SYN, "SYN"),
            (TcpFlags::FIN, "FIN"),
            (TcpFlags::RST, "RST"),
            (TcpFlags::PSH, "PSH"),
            (TcpFlags::ACK, "ACK"),
            (TcpFlags::URG, "URG"),
        ];
        let mut first = true;
        for (flag, name) in NAMES {
            if self.contains(flag) {
                write!(f, "{}{name}", if first { "" } else { "," })?;
                first = false;
            }
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

impl std::fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// UDP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// SCTP common header and the kind of its only chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sctp {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// The chunk it carries.
    pub chunk: SctpChunk,
}

/// Kinds of SCTP chunks (RFC 9260 §3.2) that set up, use and end an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "named after the chunks of RFC 9260 §3.3")]
pub enum SctpChunk {
    Init,
    InitAck,
    CookieEcho,
    CookieAck,
    Data,
    Sack,
    Heartbeat,
    HeartbeatAck,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    Abort,
}

/// An ICMP or `ICMPv6` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Echo request (8/0, v6 128/0).
    EchoRequest {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
    },
    /// Echo reply (0/0, v6 129/0).
    EchoReply {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
    },
    /// An error about the quoted packet.
    Error {
        /// What went wrong.
        kind: IcmpError,
        /// Header of the packet the error is about.
        about: Quoted,
    },
    /// Neighbour solicitation (v6 135, RFC 4861 §4.3).
    NeighbourSolicitation {
        /// Whose link-layer address is wanted.
        target: IpAddr,
        /// Source link-layer address option.
        source_mac: Option<Mac>,
    },
    /// Neighbour advertisement (v6 136, RFC 4861 §4.4).
    NeighbourAdvertisement {
        /// Whose link-layer address it tells.
        target: IpAddr,
        /// Target link-layer address option.
        target_mac: Mac,
        /// Whether it answers a solicitation.
        solicited: bool,
    },
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum IcmpError {
    /// Net unreachable (3/0); v6 no route to destination (1/0).
    NetUnreachable,
    /// Host unreachable (3/1); v6 address unreachable (1/3).
    HostUnreachable,
    /// Protocol unreachable (3/2); v6 unrecognized next header (4/1).
    ProtoUnreachable,
    /// Port unreachable (3/3); v6 port unreachable (1/4).
    PortUnreachable,
    /// Fragmentation needed and DF set (3/4); v6 packet too big (2/0). Carries the next hop's MTU.
    FragmentationNeeded {
        /// MTU of the next hop in bytes.
        mtu: u32,
    },
    /// Net administratively prohibited (3/9).
    NetProhibited,
    /// Host administratively prohibited (3/10).
    HostProhibited,
    /// Communication administratively prohibited (3/13); v6 administratively prohibited (1/1).
    AdminProhibited,
    /// v6 source address failed ingress policy (1/5).
    PolicyFail,
    /// v6 reject route to destination (1/6).
    RejectRoute,
    /// Time to live exceeded in transit (11/0; v6 hop limit 3/0).
    TimeExceeded,
}

impl IcmpError {
    /// Returns the type and code numbers on the wire.
    pub const fn type_and_code(self, family: Family) -> (u8, u8) {
        match (family, self) {
            (Family::V4, Self::NetUnreachable) => (3, 0),
            (Family::V4, Self::HostUnreachable) => (3, 1),
            (Family::V4, Self::ProtoUnreachable) => (3, 2),
            (Family::V4, Self::PortUnreachable) => (3, 3),
            (Family::V4, Self::FragmentationNeeded { .. }) => (3, 4),
            (Family::V4, Self::NetProhibited) => (3, 9),
            (Family::V4, Self::HostProhibited | Self::PolicyFail) => (3, 10),
            (Family::V4, Self::AdminProhibited | Self::RejectRoute) => (3, 13),
            (Family::V4, Self::TimeExceeded) => (11, 0),
            (Family::V6, Self::NetUnreachable) => (1, 0),
            (Family::V6, Self::AdminProhibited | Self::NetProhibited | Self::HostProhibited) => {
                (1, 1)
            }
            (Family::V6, Self::HostUnreachable) => (1, 3),
            (Family::V6, Self::PortUnreachable) => (1, 4),
            (Family::V6, Self::PolicyFail) => (1, 5),
            (Family::V6, Self::RejectRoute) => (1, 6),
            (Family::V6, Self::FragmentationNeeded { .. }) => (2, 0),
            (Family::V6, Self::TimeExceeded) => (3, 0),
            (Family::V6, Self::ProtoUnreachable) => (4, 1),
        }
    }

    /// Returns the error a socket gets, and whether it is fatal (reported even to a UDP socket and to an
    /// established TCP connection): `icmp_err_convert` of `net/ipv4/icmp.c`, `icmpv6_err_convert` of
    /// `net/ipv6/icmp.c`. Time exceeded is EHOSTUNREACH, not fatal.
    pub const fn errno(self, family: Family) -> (Errno, bool) {
        match (family, self) {
            (_, Self::NetUnreachable) => (Errno::ENETUNREACH, false),
            (_, Self::HostUnreachable | Self::TimeExceeded) => (Errno::EHOSTUNREACH, false),
            (_, Self::ProtoUnreachable) => (Errno::ENOPROTOOPT, true),
            (_, Self::PortUnreachable) => (Errno::ECONNREFUSED, true),
            (_, Self::FragmentationNeeded { .. }) => (Errno::EMSGSIZE, false),
            (Family::V4, Self::NetProhibited) => (Errno::ENETUNREACH, true),
            (
                Family::V4,
                Self::HostProhibited | Self::AdminProhibited | Self::PolicyFail | Self::RejectRoute,
            ) => (Errno::EHOSTUNREACH, true),
            (
                Family::V6,
                Self::AdminProhibited
                | Self::NetProhibited
                | Self::HostProhibited
                | Self::PolicyFail
                | Self::RejectRoute,
            ) => (Errno::EACCES, true),
        }
    }
}

impl std::fmt::Display for IcmpError {
    /// The name `iptables --reject-with` uses where it has one, without `icmp-`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NetUnreachable => f.write_str("net-unreachable"),
            Self::HostUnreachable => f.write_str("host-unreachable"),
            Self::ProtoUnreachable => f.write_str("proto-unreachable"),
            Self::PortUnreachable => f.write_str("port-unreachable"),
            Self::FragmentationNeeded { mtu } => write!(f, "fragmentation-needed mtu {mtu}"),
            Self::NetProhibited => f.write_str("net-prohibited"),
            Self::HostProhibited => f.write_str("host-prohibited"),
            Self::AdminProhibited => f.write_str("admin-prohibited"),
            Self::PolicyFail => f.write_str("policy-fail"),
            Self::RejectRoute => f.write_str("reject-route"),
            Self::TimeExceeded => f.write_str("time-exceeded"),
        }
    }
}

/// The header of a packet as an ICMP error quotes it: enough to find the flow it belonged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Which packet it was, for the trace. A real error does not carry this.
    pub id: PacketId,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Transport header, first eight bytes' worth.
    pub transport: QuotedTransport,
}

/// The quoted part of a transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotedTransport {
    /// TCP ports and sequence number.
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Sequence number.
        seq: u32,
    },
    /// UDP ports.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// SCTP ports.
    Sctp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// Echo identifier.
    Echo {
        /// Whether it was a request.
        request: bool,
        /// Identifier.
        id: u16,
    },
    /// Another ICMP message.
    OtherIcmp,
}

/// What follows the transport header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes of an application.
    Data(Data),
    /// An Ethernet frame inside VXLAN (RFC 7348).
    Vxlan(Box<Vxlan>),
}

/// Application bytes: how many, and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Number of bytes.
    pub len: u32,
    /// What they say.
    pub message: Message,
}

impl Payload {
    /// Whether the UDP header before it has a wrong checksum.
    pub const fn has_wrong_checksum(&self) -> bool {
        match self {
            Self::Vxlan(vxlan) => vxlan.wrong_checksum,
            Self::Empty | Self::Data(_) => false,
        }
    }
}

/// A VXLAN header and the frame behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// Whether the checksum of the packet inside is left to the device (`CHECKSUM_PARTIAL`).
    pub offloaded: bool,
    /// Whether the UDP header before it has a checksum, and a wrong one. As a rule it has none (RFC 7348, 5).
    pub wrong_checksum: bool,
    /// The encapsulated frame.
    pub frame: Frame,
}

impl Packet {
    /// Returns the address family.
    pub const fn family(&self) -> Family {
        Family::of(self.src)
    }

    /// Returns source and destination port, where the protocol has them.
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp(Tcp { sport, dport, .. })
            | Transport::Udp(Udp { sport, dport })
            | Transport::Sctp(Sctp { sport, dport, .. }) => Some((sport, dport)),
            Transport::Icmp(_) => None,
        }
    }

    /// Returns what an ICMP error about this packet quotes.
    pub const fn quoted(&self) -> Quoted {
        let transport = match self.transport {
            Transport::Tcp(tcp) => QuotedTransport::Tcp {
                sport: tcp.sport,
                dport: tcp.dport,
                seq: tcp.seq,
            },
            Transport::Udp(udp) => QuotedTransport::Udp {
                sport: udp.sport,
                dport: udp.dport,
            },
            Transport::Sctp(sctp) => QuotedTransport::Sctp {
                sport: sctp.sport,
                dport: sctp.dport,
            },
            Transport::Icmp(Icmp::EchoRequest { id, .. }) => {
                QuotedTransport::Echo { request: true, id }
            }
            Transport::Icmp(Icmp::EchoReply { id, .. }) => {
                QuotedTransport::Echo { request: false, id }
            }
            Transport::Icmp(_) => QuotedTransport::OtherIcmp,
        };
        Quoted {
            id: self.id,
            src: self.src,
            dst: self.dst,
            transport,
        }
    }

    /// Returns the message of the application, if it carries one.
    pub fn message(&self) -> Option<&Message> {
        match &self.payload {
            Payload::Data(data) => Some(&data.message),
            Payload::Empty | Payload::Vxlan(_) => None,
        }
    }
}
