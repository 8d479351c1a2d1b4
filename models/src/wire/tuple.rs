//! The five values that name a flow, and their reverse.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use serde::Serialize;

use super::packet::{Icmp, Packet, Quoted, QuotedTransport, Transport};
use crate::base::Family;
use crate::base::addr::to_bits;

/// IP protocol of a packet (IANA protocol numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum L4 {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 132.
    Sctp,
    /// 1, or 58 for IPv6.
    Icmp,
}

impl L4 {
    /// Returns the protocol number.
    pub const fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Sctp, _) => 132,
            (Self::Icmp, Family::V4) => 1,
            (Self::Icmp, Family::V6) => 58,
        }
    }
}

impl fmt::Display for L4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        })
    }
}

/// One direction of a flow. For ICMP echo both "ports" are the identifier, with `request` telling the direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FiveTuple {
    /// Protocol.
    pub l4: L4,
    /// Source address.
    pub src: IpAddr,
    /// Source port (echo: identifier).
    pub sport: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port (echo: identifier).
    pub dport: u16,
    /// For ICMP echo: whether this direction carries the requests. False for everything else.
    pub request: bool,
}

impl FiveTuple {
    /// Returns the tuple of a packet, if it belongs to a flow of its own (ICMP errors and neighbour discovery
    /// do not).
    #[inline]
    pub const fn of(packet: &Packet) -> Option<Self> {
        let (l4, sport, dport, request) = match packet.transport {
            Transport::Tcp(t) => (L4::Tcp, t.sport, t.dport, false),
            Transport::Udp(u) => (L4::Udp, u.sport, u.dport, false),
            Transport::Sctp(s) => (L4::Sctp, s.sport, s.dport, false),
            Transport::Icmp(Icmp::EchoRequest { id, .. }) => (L4::Icmp, id, id, true),
            Transport::Icmp(Icmp::EchoReply { id, .. }) => (L4::Icmp, id, id, false),
            Transport::Icmp(_) => return None,
        };
        Some(Self {
            l4,
            src: packet.src,
            sport,
            dst: packet.dst,
            dport,
            request,
        })
    }

    /// Returns the tuple of the packet an ICMP error is about.
    pub const fn of_quoted(quoted: &Quoted) -> Option<Self> {
        let (l4, sport, dport, request) = match quoted.transport {
            QuotedTransport::Tcp { sport, dport, .. } => (L4::Tcp, sport, dport, false),
            QuotedTransport::Udp { sport, dport } => (L4::Udp, sport, dport, false),
            QuotedTransport::Sctp { sport, dport } => (L4::Sctp, sport, dport, false),
            QuotedTransport::Echo { request, id } => (L4::Icmp, id, id, request),
            QuotedTransport::OtherIcmp => return None,
        };
        Some(Self {
            l4,
            src: quoted.src,
            sport,
            dst: quoted.dst,
            dport,
            request,
        })
    }

    /// Returns the tuple of an answer.
    #[must_use]
    #[inline]
    pub const fn reply(self) -> Self {
        Self {
            l4: self.l4,
            src: self.dst,
            sport: self.dport,
            dst: self.src,
            dport: self.sport,
            request: matches!(self.l4, L4::Icmp) && !self.request,
        }
    }
}

impl Hash for FiveTuple {
    /// In as few words as hold all of it: every tracked packet is looked up by this.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                state.write_u64(u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits()));
            }
            (src, dst) => {
                state.write_u128(to_bits(src));
                state.write_u128(to_bits(dst));
            }
        }
        let ports = u64::from(self.sport) << 16 | u64::from(self.dport);
        state.write_u64(ports << 16 | (self.l4 as u64) << 1 | u64::from(self.request));
    }
}

impl fmt::Display for FiveTuple {
    /// As `conntrack -L` prints one direction: `src=10.244.1.2 dst=10.96.0.10 sport=40000 dport=53`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src={} dst={}", self.src, self.dst)?;
        match self.l4 {
            L4::Icmp => {
                let (kind, id) = (if self.request { 8 } else { 0 }, self.sport);
                write!(f, " type={kind} code=0 id={id}")
            }
            L4::Tcp | L4::Udp | L4::Sctp => {
                write!(f, " sport={} dport={}", self.sport, self.dport)
            }
        }
    }
}
