//! Address translation (`nf_nat_core.c`, `nf_nat_proto.c`): a connection's first packet chooses, all others follow.
//!
//! # Fidelity
//! The kernel first tries the mapping an earlier connection of the same source got (`find_appropriate_src`); here
//! each connection chooses for itself, which differs only after a port clash. Among several addresses the choice is
//! by another hash than the kernel's.

use std::net::IpAddr;

use super::table::{Conntrack, Entry, tuple_hash};
use super::{CtInfo, CtRef, Direction};
use crate::base::{Family, Time, addr};
use crate::kernel::netfilter::chain::{NatRandom, NatRange, PortRange};
use crate::wire::{
    DevIndex, FiveTuple, Icmp, L4, Manip, Packet, Quoted, QuotedTransport, Transport,
};

/// No port was left: the packet must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free port was left for the translated connection")]
pub struct NoPort;

/// One rewriting that was done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Which end.
    pub manip: Manip,
    /// Before.
    pub from: (IpAddr, u16),
    /// After.
    pub to: (IpAddr, u16),
    /// Whether it undoes the connection's translation, on the way back.
    pub undo: bool,
}

/// The range that changes nothing by itself: its result is still made unique.
pub const NULL_BINDING: NatRange = NatRange {
    addrs: None,
    ports: None,
    random: NatRandom::No,
    persistent: false,
};

/// Sets one end of a tuple.
const fn with_end(mut tuple: FiveTuple, manip: Manip, end: (IpAddr, u16)) -> FiveTuple {
    match manip {
        Manip::Source => (tuple.src, tuple.sport) = end,
        Manip::Destination => (tuple.dst, tuple.dport) = end,
    }
    if matches!(tuple.l4, L4::Icmp) {
        tuple.sport = end.1;
        tuple.dport = end.1;
    }
    tuple
}

const fn end_of(tuple: &FiveTuple, manip: Manip) -> (IpAddr, u16) {
    match manip {
        Manip::Source => (tuple.src, tuple.sport),
        Manip::Destination => (tuple.dst, tuple.dport),
    }
}

const fn other_end(manip: Manip) -> Manip {
    match manip {
        Manip::Source => Manip::Destination,
        Manip::Destination => Manip::Source,
    }
}

impl Conntrack {
    /// Sets up the translation of one end of a pending connection, once (`nf_nat_setup_info`). `draw(n)` answers a
    /// number in `0..n`.
    ///
    /// # Errors
    /// [`NoPort`] if every port that may be used is taken.
    pub fn set_up(
        &mut self,
        ct: CtRef,
        manip: Manip,
        range: &NatRange,
        masquerade: Option<DevIndex>,
        now: Time,
        draw: impl FnMut(u64) -> u64,
    ) -> Result<(), NoPort> {
        let Some(entry) = self.get(ct) else {
            return Ok(());
        };
        if entry.is_set_up(manip) || !ct.is_pending() {
            return Ok(());
        }
        let current = entry.reply.reply();
        let wanted = self.unique_tuple(ct, current, manip, range, now, draw)?;
        let Some(entry) = self.get_mut(ct) else {
            return Ok(());
        };
        let changed = wanted != current;
        if changed {
            entry.reply = wanted.reply();
        }
        match manip {
            Manip::Source => {
                entry.nat.src_done = true;
                entry.nat.src |= changed;
            }
            Manip::Destination => {
                entry.nat.dst_done = true;
                entry.nat.dst |= changed;
            }
        }
        if masquerade.is_some() {
            entry.masquerade = masquerade;
        }
        Ok(())
    }

    /// Whether no other connection's answers carry the answer's tuple of `tuple`.
    fn is_free(&mut self, ct: CtRef, tuple: &FiveTuple, now: Time) -> bool {
        !self.is_taken(&tuple.reply(), ct, now)
    }

    /// Chooses the translated tuple (`get_unique_tuple`).
    fn unique_tuple(
        &mut self,
        ct: CtRef,
        current: FiveTuple,
        manip: Manip,
        range: &NatRange,
        now: Time,
        draw: impl FnMut(u64) -> u64,
    ) -> Result<FiveTuple, NoPort> {
        let random = range.random != NatRandom::No;
        if manip == Manip::Source && !random {
            if in_range(&current, range) {
                if self.is_free(ct, &current, now) {
                    return Ok(current);
                }
            } else if let Some(same) = self.as_before(&current, range, now)
                && self.is_free(ct, &same, now)
            {
                return Ok(same);
            }
        }
        let (_, port) = end_of(&current, manip);
        let chosen = with_end(current, manip, (choose_addr(&current, manip, range), port));
        if !random {
            let keep = match range.ports {
                Some(ports) => {
                    (ports.first..=ports.last).contains(&port)
                        && (ports.first == ports.last || self.is_free(ct, &chosen, now))
                }
                None => self.is_free(ct, &chosen, now),
            };
            if keep {
                return Ok(chosen);
            }
        }
        self.unique_port(ct, chosen, manip, range, now, draw)
    }

    /// Gives a source the translation that another connection of its has already (`find_appropriate_src`).
    fn as_before(&self, current: &FiveTuple, range: &NatRange, now: Time) -> Option<FiveTuple> {
        let before = self.translations_of(current, now).into_iter();
        before
            .map(|end| with_end(*current, Manip::Source, end))
            .find(|tuple| in_range(tuple, range))
    }

    /// Searches a free port (`nf_nat_l4proto_unique_tuple`).
    fn unique_port(
        &mut self,
        ct: CtRef,
        tuple: FiveTuple,
        manip: Manip,
        range: &NatRange,
        now: Time,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Result<FiveTuple, NoPort> {
        let (address, port) = end_of(&tuple, manip);
        let allowed = match (range.ports, manip) {
            (Some(ports), _) => ports,
            // A destination keeps its port unless told otherwise; an identifier is that of both ends.
            (None, Manip::Destination) if tuple.l4 != L4::Icmp => return Ok(tuple),
            (None, Manip::Destination | Manip::Source) => port_class(tuple.l4, port),
        };
        let size = u64::from(allowed.last.saturating_sub(allowed.first)) + 1;
        if size == 1 {
            let only = with_end(tuple, manip, (address, allowed.first));
            let fits = manip == Manip::Destination || self.is_free(ct, &only, now);
            return if fits { Ok(only) } else { Err(NoPort) };
        }
        let random = range.random != NatRandom::No || manip == Manip::Source;
        let mut offset = if random { draw(size) } else { 0 };
        let mut attempts = size.min(128);
        loop {
            for _ in 0..attempts {
                let step = u16::try_from(offset % size).unwrap_or(0);
                let port = allowed.first.saturating_add(step);
                let candidate = with_end(tuple, manip, (address, port));
                if self.is_free(ct, &candidate, now) {
                    return Ok(candidate);
                }
                offset += 1;
            }
            if attempts >= size || attempts < 16 {
                return Err(NoPort);
            }
            attempts /= 2;
            offset = draw(size);
        }
    }

    /// Rewrites a packet of a translated connection as one hook does, `manip` telling which end the hook is for
    /// (`nf_nat_packet`, `nf_nat_icmp_reply_translation`). Returns what was done.
    pub fn translate(
        &self,
        ct: CtRef,
        info: CtInfo,
        manip: Manip,
        packet: &mut Packet,
    ) -> Option<Rewrite> {
        let entry = self.get(ct)?;
        let dir = info.direction()?;
        let undo = dir == Direction::Reply;
        let concerned = entry.is_translated(if undo { other_end(manip) } else { manip });
        if !concerned {
            return None;
        }
        let target = entry.tuple(dir.opposite()).reply();
        let is_error = matches!(packet.transport, Transport::Icmp(Icmp::Error { .. }));
        if info.is_related() && is_error {
            return translate_error(entry, dir, manip, packet);
        }
        let from = packet_end(packet, manip)?;
        let to = end_of(&target, manip);
        set_packet_end(packet, manip, to);
        (from != to).then_some(Rewrite {
            manip,
            from,
            to,
            undo,
        })
    }
}

/// Rewrites an ICMP error and the header it quotes. The quoted packet travelled the other way, so its other end
/// changes. The error's own address changes too, whoever sent it: a client sees errors of routers behind a Service
/// come from the Service's address.
fn translate_error(
    entry: &Entry,
    dir: Direction,
    manip: Manip,
    packet: &mut Packet,
) -> Option<Rewrite> {
    let target = entry.tuple(dir.opposite()).reply();
    let Transport::Icmp(Icmp::Error { about, .. }) = &mut packet.transport else {
        return None;
    };
    let inner = other_end(manip);
    let from = quoted_end(about, inner)?;
    let to = end_of(&entry.tuple(dir.opposite()), inner);
    set_quoted_end(about, inner, to);
    let outer = match manip {
        Manip::Source => &mut packet.src,
        Manip::Destination => &mut packet.dst,
    };
    *outer = end_of(&target, manip).0;
    (from != to).then_some(Rewrite {
        manip,
        from,
        to,
        undo: dir == Direction::Reply,
    })
}

fn in_range(tuple: &FiveTuple, range: &NatRange) -> bool {
    let fits = |(first, last): (IpAddr, IpAddr)| (first..=last).contains(&tuple.src);
    range.addrs.is_none_or(fits)
        && range
            .ports
            .is_none_or(|p| (p.first..=p.last).contains(&tuple.sport))
}

/// Chooses an address of the range (`find_best_ips_proto`): by source and, unless `--persistent`, destination.
fn choose_addr(tuple: &FiveTuple, manip: Manip, range: &NatRange) -> IpAddr {
    let (own, _) = end_of(tuple, manip);
    let Some((first, last)) = range.addrs else {
        return own;
    };
    let (low, high) = (addr::to_bits(first), addr::to_bits(last));
    let Some(count) = high.checked_sub(low).and_then(|n| n.checked_add(1)) else {
        return first;
    };
    if count == 1 {
        return first;
    }
    let mut key = *tuple;
    (key.sport, key.dport) = (0, 0);
    if range.persistent {
        key.dst = Family::of(tuple.dst).unspecified();
    }
    let nth = u128::from(tuple_hash(&key)) % count;
    addr::from_bits(Family::of(first), low + nth).unwrap_or(first)
}

/// Returns the ports a source may get without explicit range: those of its class.
const fn port_class(l4: L4, port: u16) -> PortRange {
    let (first, last) = match (l4, port) {
        (L4::Icmp, _) => (0, u16::MAX),
        (_, 0..=511) => (1, 511),
        (_, 512..=1023) => (600, 1023),
        (_, 1024..) => (1024, u16::MAX),
    };
    PortRange { first, last }
}

/// Returns address and port of one end of a packet (echo: the identifier).
fn packet_end(packet: &Packet, manip: Manip) -> Option<(IpAddr, u16)> {
    FiveTuple::of(packet).map(|tuple| end_of(&tuple, manip))
}

fn set_packet_end(packet: &mut Packet, manip: Manip, (address, port): (IpAddr, u16)) {
    let source = manip == Manip::Source;
    match manip {
        Manip::Source => packet.src = address,
        Manip::Destination => packet.dst = address,
    }
    match &mut packet.transport {
        Transport::Tcp(t) if source => t.sport = port,
        Transport::Tcp(t) => t.dport = port,
        Transport::Udp(u) if source => u.sport = port,
        Transport::Udp(u) => u.dport = port,
        Transport::Sctp(s) if source => s.sport = port,
        Transport::Sctp(s) => s.dport = port,
        Transport::Icmp(Icmp::EchoRequest { id, .. } | Icmp::EchoReply { id, .. }) => *id = port,
        Transport::Icmp(
            Icmp::Error { .. }
            | Icmp::NeighbourSolicitation { .. }
            | Icmp::NeighbourAdvertisement { .. },
        ) => {}
    }
}

fn quoted_end(about: &Quoted, manip: Manip) -> Option<(IpAddr, u16)> {
    FiveTuple::of_quoted(about).map(|tuple| end_of(&tuple, manip))
}

fn set_quoted_end(about: &mut Quoted, manip: Manip, (address, port): (IpAddr, u16)) {
    let source = manip == Manip::Source;
    match manip {
        Manip::Source => about.src = address,
        Manip::Destination => about.dst = address,
    }
    match &mut about.transport {
        QuotedTransport::Tcp { sport, dport, .. }
        | QuotedTransport::Udp { sport, dport }
        | QuotedTransport::Sctp { sport, dport } => {
            *(if source { sport } else { dport }) = port;
        }
        QuotedTransport::Echo { id, .. } => *id = port,
        QuotedTransport::OtherIcmp => {}
    }
}
