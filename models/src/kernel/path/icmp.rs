//! Errors and answers the kernel makes itself: ICMP errors and their rate limit, echo, TCP resets, reassembly, and
//! the path MTU they teach.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::netfilter::chain::RejectWith;
use super::super::socket::Found;
use super::super::{Cx, Effect, KernelTimer, Netns, Skb};
use crate::base::{Dice, Family, Time};
use crate::wire::{
    Action, Code, Data, Decider, DeciderKind, DevIndex, Fragment, Head, Icmp, IcmpError, L4,
    Message, Packet, Payload, Quoted, Recorder, Sctp, SctpChunk, Stage, Step, Tcp, TcpFlags,
    Transport, size,
};

/// How long a learned path MTU is believed (`net.ipv4.route.mtu_expires`).
const MTU_EXPIRES: Duration = Duration::from_secs(600);
/// Tokens a destination starts with (`XRLIM_BURST_FACTOR`).
const BURST: u64 = 6;
/// How long pieces wait for the rest of their packet (`net.ipv4.ipfrag_time`).
const REASSEMBLY: Duration = Duration::from_secs(30);

/// ICMP token buckets, cached path MTUs, and packets being put together. Empty most of the time, in very many namespaces.
#[derive(Clone, Debug, Default)]
pub struct IcmpState {
    buckets: BTreeMap<IpAddr, Bucket>,
    path_mtu: BTreeMap<IpAddr, (u32, Time)>,
    fragments: BTreeMap<(IpAddr, IpAddr, u32), Partial>,
}

/// A packet of which some pieces have come.
#[derive(Clone, Debug)]
struct Partial {
    packet: Packet,
    pieces: Vec<Fragment>,
    until: Time,
}

/// A token bucket in units of time (`inet_peer_xrlim_allow`).
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: Duration,
    last: Time,
}

/// What an error quotes beyond the headers it is counted with.
fn quote(packet: &Packet) -> Payload {
    let len = size::quoted(packet.family(), packet.len()).saturating_sub(size::QUOTED_HEADERS);
    if len == 0 {
        return Payload::Empty;
    }
    let message = Message::Opaque;
    Payload::Data(Data { len, message })
}

impl IcmpState {
    /// Takes a token for an error to `to`; each costs `interval`.
    fn allows(&mut self, to: IpAddr, interval: Duration, now: Time) -> bool {
        let full = interval * u32::try_from(BURST).unwrap_or(u32::MAX);
        let bucket = self.buckets.entry(to).or_insert(Bucket {
            tokens: full,
            last: now,
        });
        bucket.tokens = (bucket.tokens + now.since(bucket.last)).min(full);
        bucket.last = now;
        let allowed = bucket.tokens >= interval;
        if allowed {
            bucket.tokens -= interval;
        }
        allowed
    }
}

/// Returns the type of service of an error: internetwork control, with the low bits of the culprit's
/// (`icmp_send`). `ICMPv6` errors have none.
fn error_tos(about: &Packet) -> u8 {
    match about.family() {
        Family::V4 => 0xc0 | (about.tos & 0x1e),
        Family::V6 => 0,
    }
}

impl Netns {
    /// Answers a refusal by a rule (`nf_reject_ipv4.c`).
    pub(super) fn refuse<D: Dice, R: Recorder>(
        &mut self,
        skb: &Skb,
        with: RejectWith,
        cx: &mut Cx<'_, D, R>,
    ) {
        match with {
            RejectWith::Icmp(kind) => self.icmp_error(skb, kind, cx),
            RejectWith::TcpReset => self.send_reset(skb, Some(skb), cx),
        }
    }

    /// Tells the sender of a packet what went wrong (`icmp_send`, RFC 1812 §4.3.2).
    pub(super) fn icmp_error<D: Dice, R: Recorder>(
        &mut self,
        skb: &Skb,
        kind: IcmpError,
        cx: &mut Cx<'_, D, R>,
    ) {
        let packet = &skb.packet;
        let about_error = matches!(
            packet.transport,
            Transport::Icmp(
                Icmp::Error { .. }
                    | Icmp::NeighbourSolicitation { .. }
                    | Icmp::NeighbourAdvertisement { .. }
            )
        );
        // While it answers a ping the kernel cannot send an error (`icmp_xmit_lock`).
        let busy = skb.in_dev.is_none()
            && matches!(packet.transport, Transport::Icmp(Icmp::EchoReply { .. }));
        if about_error || busy || packet.src.is_unspecified() || !self.answerable(packet) {
            return;
        }
        let Ok(hop) = self.route(packet.src) else {
            return;
        };
        if hop.dev != DevIndex::LO && self.rate_limited(packet.src, kind, cx) {
            return;
        }
        let src = if self.is_local(packet.dst) {
            packet.dst
        } else {
            self.error_source_v6(skb).unwrap_or(hop.src)
        };
        let answer = Packet {
            id: cx.packet_id(),
            flow: packet.flow,
            src,
            dst: packet.src,
            ttl: self.sysctls.default_ttl(packet.family()),
            tos: error_tos(packet),
            df: packet.src.is_ipv6(),
            fragment: None,
            transport: Transport::Icmp(Icmp::Error {
                kind,
                about: packet.quoted(),
            }),
            payload: quote(packet),
        };
        self.answer(&skb.packet, answer, Some(skb), cx);
    }

    /// An IPv6 error says by which device the culprit came in (`icmp6_send`); IPv4 takes the address of the way back.
    fn error_source_v6(&self, skb: &Skb) -> Option<IpAddr> {
        match skb.packet.src {
            IpAddr::V4(_) => None,
            IpAddr::V6(to) => self.select_addr_v6(skb.in_dev?, to),
        }
    }

    fn rate_limited<D: Dice, R: Recorder>(
        &mut self,
        to: IpAddr,
        kind: IcmpError,
        cx: &mut Cx<'_, D, R>,
    ) -> bool {
        // Path MTU discovery must work: fragmentation needed is never limited.
        if matches!(kind, IcmpError::FragmentationNeeded { .. }) {
            return false;
        }
        let mask = self.sysctls.get("net.ipv4.icmp_ratemask").unwrap_or(0);
        let (number, _) = kind.type_and_code(Family::of(to));
        if to.is_ipv4() && mask >> number & 1 == 0 {
            return false;
        }
        let millis = self.sysctls.get("net.ipv4.icmp_ratelimit").unwrap_or(0);
        let interval = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        if interval.is_zero() || self.icmp.allows(to, interval, cx.now) {
            return false;
        }
        cx.step(self.place(None, Stage::Output), || {
            let text = format!("no error sent: net.ipv4.icmp_ratelimit = {millis}");
            Step::general(Action::Note {
                text: format!("the refusal to {to} stays unsaid"),
            })
            .by(Decider::new(DeciderKind::Sysctl, text))
        });
        true
    }

    /// Sends a packet of the kernel's own in answer to another; errors belong to the connection of the packet they
    /// are about, which the table may not know yet (`nf_ct_attach`).
    fn answer<D: Dice, R: Recorder>(
        &mut self,
        to: &Packet,
        answer: Packet,
        of_connection: Option<&Skb>,
        cx: &mut Cx<'_, D, R>,
    ) {
        cx.step(self.place(None, Stage::Output), || {
            Step::about(
                to,
                Action::Answered {
                    with: Head::of(&answer),
                },
            )
        });
        // Nobody waits for the result; a failure is in the trace.
        let mut answer = Skb::new(answer);
        if let Some(of) = of_connection.filter(|of| of.ct.is_some()) {
            answer.ct = of.ct;
            answer.ct_info = of.ct_info.of_answer();
        }
        let _ = self.send_skb(answer, cx);
    }

    /// Refuses a TCP segment (RFC 9293 §3.5.2; never in answer to RST).
    pub(super) fn send_reset<D: Dice, R: Recorder>(
        &mut self,
        skb: &Skb,
        of_connection: Option<&Skb>,
        cx: &mut Cx<'_, D, R>,
    ) {
        let packet = &skb.packet;
        let Transport::Tcp(tcp) = packet.transport else {
            return;
        };
        if tcp.flags.contains(TcpFlags::RST) || !self.answerable(packet) {
            return;
        }
        let with_ack = tcp.flags.contains(TcpFlags::ACK);
        let length = packet.payload.len()
            + u32::from(tcp.flags.contains(TcpFlags::SYN))
            + u32::from(tcp.flags.contains(TcpFlags::FIN));
        let reset = Tcp {
            sport: tcp.dport,
            dport: tcp.sport,
            flags: if with_ack {
                TcpFlags::RST
            } else {
                TcpFlags::RST_ACK
            },
            seq: if with_ack { tcp.ack } else { 0 },
            ack: if with_ack {
                0
            } else {
                tcp.seq.wrapping_add(length)
            },
            window: 0,
            mss: None,
        };
        let answer = Packet {
            id: cx.packet_id(),
            flow: packet.flow,
            src: packet.dst,
            dst: packet.src,
            ttl: self.sysctls.default_ttl(packet.family()),
            // A socket's answer keeps the type of service; a rule's has none (`nf_reject_iphdr_put`).
            tos: if of_connection.is_none() {
                packet.tos
            } else {
                0
            },
            df: true,
            fragment: None,
            transport: Transport::Tcp(reset),
            payload: Payload::Empty,
        };
        self.answer(&skb.packet, answer, of_connection, cx);
    }

    /// Answers an SCTP packet of no association with one chunk.
    pub(super) fn send_chunk<D: Dice, R: Recorder>(
        &mut self,
        packet: &Packet,
        sctp: Sctp,
        chunk: SctpChunk,
        cx: &mut Cx<'_, D, R>,
    ) {
        if !self.answerable(packet) {
            return;
        }
        let answer = Packet {
            id: cx.packet_id(),
            flow: packet.flow,
            src: packet.dst,
            dst: packet.src,
            ttl: self.sysctls.default_ttl(packet.family()),
            tos: 0,
            df: true,
            fragment: None,
            transport: Transport::Sctp(Sctp {
                sport: sctp.dport,
                dport: sctp.sport,
                chunk,
            }),
            payload: Payload::Empty,
        };
        self.answer(packet, answer, None, cx);
    }

    /// An ICMP message for this namespace.
    pub(super) fn receive_icmp<D: Dice, R: Recorder>(
        &mut self,
        skb: &Skb,
        icmp: Icmp,
        cx: &mut Cx<'_, D, R>,
    ) {
        let packet = &skb.packet;
        match icmp {
            Icmp::EchoRequest { id, seq } => {
                // `net.ipv4.icmp_echo_ignore_broadcasts` is 1.
                if !self.is_local(packet.dst) {
                    return;
                }
                let src = packet.dst;
                let answer = Packet {
                    id: cx.packet_id(),
                    flow: packet.flow,
                    src,
                    dst: packet.src,
                    ttl: self.sysctls.default_ttl(packet.family()),
                    tos: packet.tos,
                    df: false,
                    fragment: None,
                    transport: Transport::Icmp(Icmp::EchoReply { id, seq }),
                    payload: packet.payload.clone(),
                };
                let at = (packet.dst, 0);
                cx.step(self.place(skb.in_dev, Stage::Socket), || {
                    Step::about(packet, Action::Delivered { at })
                });
                self.answer(packet, answer, None, cx);
            }
            Icmp::EchoReply { .. } => {
                let at = (packet.dst, 0);
                cx.step(self.place(skb.in_dev, Stage::Socket), || {
                    Step::about(packet, Action::Delivered { at })
                });
                cx.effects.push(Effect::IcmpReceived {
                    packet: packet.clone(),
                });
            }
            Icmp::Error { kind, about } => self.receive_error(skb, kind, about, cx),
            Icmp::NeighbourSolicitation { .. } | Icmp::NeighbourAdvertisement { .. } => {
                let dev = skb.in_dev.unwrap_or(DevIndex::LO);
                self.receive_discovery(dev, packet.src, icmp, cx);
            }
        }
    }

    /// An error about a packet of ours: the path MTU is learned, the socket is told.
    fn receive_error<D: Dice, R: Recorder>(
        &mut self,
        skb: &Skb,
        kind: IcmpError,
        about: Quoted,
        cx: &mut Cx<'_, D, R>,
    ) {
        let packet = &skb.packet;
        let mtu = match kind {
            IcmpError::FragmentationNeeded { mtu } => Some(mtu),
            IcmpError::NetUnreachable
            | IcmpError::HostUnreachable
            | IcmpError::ProtoUnreachable
            | IcmpError::PortUnreachable
            | IcmpError::NetProhibited
            | IcmpError::HostProhibited
            | IcmpError::AdminProhibited
            | IcmpError::PolicyFail
            | IcmpError::RejectRoute
            | IcmpError::TimeExceeded => None,
        };
        if let Some(mtu) = mtu {
            let least = size::ip_header(packet.family()) + 32;
            let entry = (mtu.max(least), cx.now + MTU_EXPIRES);
            self.icmp.path_mtu.insert(about.dst, entry);
        }
        cx.effects.push(Effect::IcmpReceived {
            packet: packet.clone(),
        });
        let tuple = crate::wire::FiveTuple::of_quoted(&about);
        let socket = tuple.and_then(|t| {
            let (local, remote) = ((t.src, t.sport), (t.dst, t.dport));
            let connected = self.sockets.connected(t.l4, local, remote);
            let found = self.sockets.lookup(t.l4, local, remote);
            // Sockets of datagrams are found by their own end alone; those of TCP and SCTP are not.
            let bound = matches!(found, Found::Socket(_)) && matches!(t.l4, L4::Udp | L4::Icmp);
            (connected.is_some() || bound).then_some((connected, t))
        });
        let place = self.place(skb.in_dev, Stage::Socket);
        let Some((socket, tuple)) = socket else {
            let code = Code::NoSocket;
            cx.step(place, || Step::about(packet, Action::Dropped { code }));
            return;
        };
        cx.step(place, || {
            Step::about(
                packet,
                Action::Delivered {
                    at: (tuple.src, tuple.sport),
                },
            )
        });
        // A socket that is not connected hears of no errors; raw sockets have had their copy.
        let Some(socket) = socket else {
            return;
        };
        // IPv4's route to an own address learns no path MTU, so TCP goes on as before.
        let own = self.route_onward(about.dst).is_ok_and(|hop| hop.local);
        if mtu.is_some() && own && tuple.l4 == L4::Tcp && about.dst.is_ipv4() {
            return;
        }
        let (errno, fatal) = kind.errno(Family::of(about.src));
        cx.effects.push(Effect::SocketError {
            socket,
            errno,
            fatal,
            mtu,
        });
    }

    /// Returns the path MTU an error has taught, while it is believed.
    pub(super) fn path_mtu_cached(&self, dst: IpAddr, now: Time) -> Option<u32> {
        let (mtu, until) = self.icmp.path_mtu.get(&dst)?;
        (*until >= now).then_some(*mtu)
    }

    /// Puts a packet together; returns it once all pieces are there, and how long the largest was.
    pub(super) fn reassemble<D: Dice, R: Recorder>(
        &mut self,
        piece: &Packet,
        cx: &mut Cx<'_, D, R>,
    ) -> Option<(Packet, u32)> {
        let fragment = piece.fragment?;
        let (src, dst, ident) = (piece.src, piece.dst, fragment.ident);
        let key = (src, dst, ident);
        let begins = !self.icmp.fragments.contains_key(&key);
        let partial = self.icmp.fragments.entry(key).or_insert_with(|| Partial {
            packet: piece.clone(),
            pieces: Vec::new(),
            until: cx.now + REASSEMBLY,
        });
        if !partial.pieces.iter().any(|p| p.offset == fragment.offset) {
            partial.pieces.push(fragment);
        }
        let total = piece.transport.header_len() + piece.payload.len();
        let have: u32 = partial.pieces.iter().map(|p| p.len).sum();
        if have < total {
            if begins {
                let timer = KernelTimer::Reassembly { src, dst, ident };
                let after = REASSEMBLY;
                cx.effects.push(Effect::Timer {
                    after,
                    timer: Box::new(timer),
                });
            }
            return None;
        }
        let pieces = partial.pieces.iter().map(|p| p.len);
        let family = piece.family();
        let headers = size::ip_header(family) + size::fragment_header(family);
        let largest = headers + pieces.max().unwrap_or(0);
        self.icmp.fragments.remove(&key);
        let whole = Packet {
            fragment: None,
            ..piece.clone()
        };
        cx.step(self.place(None, Stage::Receive), || {
            Step::about(&whole, Action::Reassembled)
        });
        Some((whole, largest))
    }

    /// Gives up on all packets of which a piece is missing: nobody is there any more to wait.
    pub(super) fn lose_pieces<D: Dice, R: Recorder>(&mut self, cx: &mut Cx<'_, D, R>) {
        for partial in std::mem::take(&mut self.icmp.fragments).into_values() {
            let code = Code::FragmentLost;
            self.drop_packet(&partial.packet, None, Stage::Receive, code, None, cx);
        }
    }

    /// Gives up on a packet of which a piece is missing (`ip_expire`).
    ///
    /// # Fidelity
    /// Linux also sends an ICMP error if the first piece is there.
    pub(super) fn reassembly_timer<D: Dice, R: Recorder>(
        &mut self,
        key: (IpAddr, IpAddr, u32),
        cx: &mut Cx<'_, D, R>,
    ) {
        let waiting = self.icmp.fragments.get(&key);
        if waiting.is_none_or(|partial| partial.until > cx.now) {
            return;
        }
        if let Some(partial) = self.icmp.fragments.remove(&key) {
            let seconds = i64::try_from(REASSEMBLY.as_secs()).unwrap_or(0);
            let by = Some(Self::sysctl_says("net.ipv4.ipfrag_time", seconds));
            let code = Code::FragmentLost;
            self.drop_packet(&partial.packet, None, Stage::Receive, code, by, cx);
        }
    }
}
