//! One end of a TCP connection: sequence numbers, retransmission, orderly and disorderly close.
//!
//! Positions count bytes of one direction from its SYN, which is position 0; the first byte of data is 1, and FIN
//! takes the position after the last byte.
//!
//! # Fidelity
//! Every data segment is acknowledged at once (Linux acknowledges every second one outside quick-ack mode). Loss
//! recovery is `NewReno` with a tail loss probe instead of RACK with SACK: one lost segment costs the same, several
//! lost in one flight cost more round trips. The receive window is fixed. Simultaneous open is not modelled.
//! Streams are shorter than 2 GiB. The PSH bit marks the end of a message, as Linux sets it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Family, Time};
use podwire_models::wire::{FlowKey, Message, Packet, Payload, Tcp, TcpFlags, Transport, size};

use super::{TcpSettings, TcpState};
use crate::traffic::{Ctx, End, Timer, Timers, Token, data, packet};

/// Bytes of TCP options on every segment after the SYN (timestamps).
const TIMESTAMPS: u32 = 12;
/// TCP header without options.
const HEADER: u32 = 20;

/// What the owner of a connection must know after an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The handshake is complete.
    pub established: bool,
    /// Messages that arrived completely, in order.
    pub messages: Vec<Message>,
    /// The peer will send no more (FIN).
    pub eof: bool,
    /// The connection ended with this error.
    pub failed: Option<Errno>,
}

/// What the retransmission timer will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// Send the last segment again early (tail loss probe, RFC 8985 §7).
    TailLossProbe,
    /// Send the first unacknowledged segment again (RFC 6298).
    Retransmission,
}

/// A message on its way out.
#[derive(Clone, Debug)]
struct Outgoing {
    start: u32,
    end: u32,
    message: Message,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where in its life it is.
    state: TcpState,
    local: End,
    remote: End,
    flow: FlowKey,
    settings: TcpSettings,
    /// Whether the application has closed its end, so that FIN follows the last byte.
    orphan: bool,

    iss: u32,
    /// First position not acknowledged.
    una: u32,
    /// Next position to send; falls back to `una` when everything is presumed lost.
    nxt: u32,
    /// First position never sent.
    high: u32,
    outgoing: Vec<Outgoing>,
    /// End of the last message.
    queued: u32,
    peer_mss: u32,
    peer_window: u32,
    path_mtu: u32,

    irs: u32,
    rcv_nxt: u32,
    /// Ranges that arrived ahead of a hole: start to end.
    ahead: BTreeMap<u32, u32>,
    /// Starts of messages that arrived.
    starts: BTreeMap<u32, Message>,
    /// Ends of messages that arrived, and not yet handed on.
    ends: BTreeSet<u32>,
    peer_fin: Option<u32>,
    ack_due: bool,

    cwnd: u32,
    ssthresh: u32,
    duplicate_acks: u32,
    /// Losses up to here are being repaired.
    recover: Option<u32>,
    srtt: Option<Duration>,
    rttvar: Duration,
    sample: Option<(u32, Time)>,
    backoff: u32,
    probed: bool,
    soft_error: Option<Errno>,
    last_progress: Time,
    pending: Pending,

    timers: Timers,
    retransmit: Timer,
    wait: Timer,
}

impl Connection {
    fn new(
        ends: (End, End),
        flow: FlowKey,
        mtu: u32,
        settings: TcpSettings,
        owner: u32,
        now: Time,
    ) -> Self {
        Self {
            state: TcpState::Closed,
            local: ends.0,
            remote: ends.1,
            flow,
            settings,
            orphan: false,
            iss: 0,
            una: 0,
            nxt: 0,
            high: 0,
            outgoing: Vec::new(),
            queued: 1,
            peer_mss: 536,
            peer_window: settings.receive_window,
            path_mtu: mtu,
            irs: 0,
            rcv_nxt: 0,
            ahead: BTreeMap::new(),
            starts: BTreeMap::new(),
            ends: BTreeSet::new(),
            peer_fin: None,
            ack_due: false,
            cwnd: settings.initial_window,
            ssthresh: u32::MAX,
            duplicate_acks: 0,
            recover: None,
            srtt: None,
            rttvar: Duration::ZERO,
            sample: None,
            backoff: 0,
            probed: false,
            soft_error: None,
            last_progress: now,
            pending: Pending::Retransmission,
            timers: Timers::of(owner),
            retransmit: Timer::default(),
            wait: Timer::default(),
        }
    }

    /// Starts a connection from this end: sends the SYN. Timer tokens carry `owner`.
    pub fn connect<D: Dice>(
        (local, remote): (End, End),
        mtu: u32,
        settings: TcpSettings,
        owner: u32,
        cx: &mut Ctx<'_, D>,
    ) -> Self {
        let mut this = Self::new((local, remote), cx.flow, mtu, settings, owner, cx.now);
        this.iss = Self::initial_sequence(cx.flow, cx);
        this.state = TcpState::SynSent;
        this.send_syn(cx);
        this
    }

    /// Answers a SYN that reached a listening socket with a SYN-ACK.
    pub fn accept<D: Dice>(
        syn: &Packet,
        header: &Tcp,
        mtu: u32,
        settings: TcpSettings,
        owner: u32,
        cx: &mut Ctx<'_, D>,
    ) -> Self {
        let ends = ((syn.dst, header.dport), (syn.src, header.sport));
        let mut this = Self::new(ends, syn.flow, mtu, settings, owner, cx.now);
        this.iss = Self::initial_sequence(syn.flow, cx);
        this.irs = header.seq;
        this.rcv_nxt = 1;
        this.learn_mss(header);
        this.state = TcpState::SynReceived;
        this.send_syn(cx);
        this
    }

    fn initial_sequence<D: Dice>(flow: FlowKey, cx: &mut Ctx<'_, D>) -> u32 {
        u32::try_from(cx.identifier(flow, 32)).unwrap_or_default()
    }

    /// Returns where in its life the connection is.
    pub const fn state(&self) -> TcpState {
        self.state
    }

    /// Returns the local and the remote end.
    pub const fn ends(&self) -> (End, End) {
        (self.local, self.remote)
    }

    /// Returns the owner its timer tokens carry.
    pub(super) const fn owner(&self) -> u32 {
        self.timers.owner
    }

    /// Returns a number no other timer setting of this connection's owner has.
    pub(super) fn tick(&mut self) -> u32 {
        self.timers.fresh().number
    }

    /// Returns the bytes of data one segment may carry now.
    pub fn segment_size(&self) -> u32 {
        let from_mtu = self.path_mtu.saturating_sub(self.headers());
        self.peer_mss
            .min(from_mtu)
            .saturating_sub(TIMESTAMPS)
            .max(1)
    }

    fn headers(&self) -> u32 {
        size::ip_header(Family::of(self.local.0)) + HEADER
    }

    /// Sends a message of `len` bytes (at least one).
    pub fn send<D: Dice>(&mut self, len: u32, message: Message, cx: &mut Ctx<'_, D>) {
        let start = self.queued;
        self.queued = start.saturating_add(len.max(1));
        self.outgoing.push(Outgoing {
            start,
            end: self.queued,
            message,
        });
        self.transmit(cx);
    }

    /// Closes this end, as `close(2)`: sends what is queued, then FIN. Half-open connections just end.
    pub fn close<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.orphan = true;
        self.state = match self.state {
            TcpState::Established => TcpState::FinWait1,
            TcpState::CloseWait => TcpState::LastAck,
            TcpState::SynSent | TcpState::SynReceived | TcpState::Listen | TcpState::Closed => {
                return self.end(cx);
            }
            TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::Closing
            | TcpState::LastAck
            | TcpState::TimeWait => return,
        };
        self.transmit(cx);
    }

    /// Ends the connection with a RST, as a process that ends with unread data does.
    pub fn abort<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if !matches!(
            self.state,
            TcpState::Closed | TcpState::SynSent | TcpState::TimeWait
        ) {
            self.emit(self.nxt, TcpFlags::RST_ACK, Payload::Empty, cx);
        }
        self.end(cx);
    }

    /// Sends an acknowledgement that is due and went with nothing else.
    pub fn flush<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if self.ack_due {
            self.acknowledge(cx);
        }
    }

    /// Handles a segment. The owner may close or send, and must then call [`Self::flush`].
    pub fn receive<D: Dice>(
        &mut self,
        header: &Tcp,
        payload: &Payload,
        cx: &mut Ctx<'_, D>,
    ) -> Progress {
        let mut progress = Progress::default();
        match self.state {
            TcpState::Closed | TcpState::Listen => {}
            TcpState::SynSent => self.receive_in_syn_sent(header, &mut progress, cx),
            TcpState::SynReceived
            | TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::Closing
            | TcpState::LastAck
            | TcpState::TimeWait => self.receive_synchronized(header, payload, &mut progress, cx),
        }
        progress
    }

    fn receive_in_syn_sent<D: Dice>(
        &mut self,
        header: &Tcp,
        progress: &mut Progress,
        cx: &mut Ctx<'_, D>,
    ) {
        let acceptable =
            header.flags.contains(TcpFlags::ACK) && header.ack.wrapping_sub(self.iss) == 1;
        if header.flags.contains(TcpFlags::RST) {
            if acceptable {
                self.fail(Errno::ECONNREFUSED, progress, cx);
            }
            return;
        }
        if header.flags.contains(TcpFlags::ACK) && !acceptable {
            // RFC 9293 §3.10.7.3: an acknowledgement of something never sent.
            let reset = Tcp {
                seq: header.ack,
                flags: TcpFlags::RST,
                ..self.header(0, TcpFlags::RST)
            };
            return self.emit_header(reset, Payload::Empty, cx);
        }
        if acceptable && header.flags.contains(TcpFlags::SYN) {
            self.irs = header.seq;
            self.rcv_nxt = 1;
            self.learn_mss(header);
            self.establish(progress, cx);
            self.acknowledge(cx);
        }
    }

    fn establish<D: Dice>(&mut self, progress: &mut Progress, cx: &mut Ctx<'_, D>) {
        self.measure(1, cx.now);
        self.una = 1;
        self.nxt = 1;
        self.high = 1;
        self.backoff = 0;
        self.soft_error = None;
        self.last_progress = cx.now;
        self.retransmit.cancel(cx.actions);
        self.state = TcpState::Established;
        progress.established = true;
    }

    fn receive_synchronized<D: Dice>(
        &mut self,
        header: &Tcp,
        payload: &Payload,
        progress: &mut Progress,
        cx: &mut Ctx<'_, D>,
    ) {
        let flags = header.flags;
        let position = header.seq.wrapping_sub(self.irs);
        let ahead = position.wrapping_sub(self.rcv_nxt);
        let behind = ahead > u32::MAX / 2;
        if flags.contains(TcpFlags::RST) {
            // RFC 5961 §3.2: only an exact hit resets; another one within the window is challenged.
            if ahead == 0 {
                self.reset(progress, cx);
            } else if ahead < self.settings.receive_window {
                self.acknowledge(cx);
            }
            return;
        }
        if flags.contains(TcpFlags::SYN) {
            if self.state == TcpState::SynReceived && position == 0 {
                self.emit_syn(cx);
            } else {
                self.acknowledge(cx);
            }
            return;
        }
        if !behind && ahead > self.settings.receive_window {
            return self.acknowledge(cx);
        }
        if flags.contains(TcpFlags::ACK) && !self.take_ack(header, payload, progress, cx) {
            return;
        }
        self.take_data(position, flags, payload, progress, cx);
        self.transmit(cx);
    }

    fn reset<D: Dice>(&mut self, progress: &mut Progress, cx: &mut Ctx<'_, D>) {
        let errno = match self.state {
            TcpState::CloseWait => Some(Errno::EPIPE),
            TcpState::SynReceived | TcpState::Established => Some(Errno::ECONNRESET),
            TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::Closing
            | TcpState::LastAck
            | TcpState::TimeWait
            | TcpState::Closed
            | TcpState::Listen
            | TcpState::SynSent => None,
        };
        progress.failed = errno;
        self.end(cx);
    }

    /// Takes the acknowledgement of a segment; returns whether the rest of the segment counts.
    fn take_ack<D: Dice>(
        &mut self,
        header: &Tcp,
        payload: &Payload,
        progress: &mut Progress,
        cx: &mut Ctx<'_, D>,
    ) -> bool {
        let ack = header.ack.wrapping_sub(self.iss);
        if self.state == TcpState::SynReceived {
            if ack != 1 {
                return false;
            }
            self.establish(progress, cx);
        }
        let window_before = self.peer_window;
        self.peer_window = header.window;
        if ack > self.high {
            if ack < u32::MAX / 2 {
                self.acknowledge(cx);
                return false;
            }
            return true;
        }
        if ack > self.una {
            self.advance(ack, cx);
        } else if ack == self.una
            && self.una < self.high
            && payload.is_empty()
            && !header.flags.contains(TcpFlags::FIN)
            && window_before == header.window
        {
            self.duplicate_ack(cx);
        }
        true
    }

    fn advance<D: Dice>(&mut self, ack: u32, cx: &mut Ctx<'_, D>) {
        let acked = (ack - self.una).div_ceil(self.segment_size());
        self.measure(ack, cx.now);
        self.una = ack;
        self.nxt = self.nxt.max(ack);
        self.backoff = 0;
        self.probed = false;
        self.duplicate_acks = 0;
        self.soft_error = None;
        self.last_progress = cx.now;
        match self.recover {
            Some(point) if ack < point => self.resend_first(cx),
            Some(_) => {
                self.recover = None;
                self.cwnd = self.ssthresh.max(2);
            }
            None if self.cwnd < self.ssthresh => self.cwnd = self.cwnd.saturating_add(acked),
            None => self.cwnd = self.cwnd.saturating_add(acked.div_ceil(self.cwnd)),
        }
        self.arm(cx);
        if self.orphan && ack > self.queued {
            self.fin_acknowledged(cx);
        }
    }

    fn fin_acknowledged<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        match self.state {
            TcpState::FinWait1 => {
                self.state = TcpState::FinWait2;
                let after = self.settings.fin_timeout;
                self.wait.set(&mut self.timers, after, cx.actions);
            }
            TcpState::Closing => self.time_wait(cx),
            TcpState::LastAck => self.end(cx),
            TcpState::Closed
            | TcpState::Listen
            | TcpState::SynSent
            | TcpState::SynReceived
            | TcpState::Established
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::TimeWait => {}
        }
    }

    fn duplicate_ack<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.duplicate_acks += 1;
        let enough = if self.probed { 1 } else { 3 };
        if self.recover.is_none() && self.duplicate_acks >= enough {
            self.recover = Some(self.high);
            self.ssthresh = (self.in_flight_segments() / 2).max(2);
            self.cwnd = self.ssthresh;
            self.resend_first(cx);
            self.arm(cx);
        }
    }

    fn in_flight_segments(&self) -> u32 {
        (self.high - self.una).div_ceil(self.segment_size())
    }

    fn take_data<D: Dice>(
        &mut self,
        position: u32,
        flags: TcpFlags,
        payload: &Payload,
        progress: &mut Progress,
        cx: &mut Ctx<'_, D>,
    ) {
        let len = payload.len();
        let end = position.wrapping_add(len);
        let new = end.wrapping_sub(self.rcv_nxt) <= u32::MAX / 2;
        if len > 0 && new && end != self.rcv_nxt {
            if self.orphan {
                // Nobody will read it (RFC 9293 §3.10.7.4, RFC 1122 §4.2.2.13).
                return self.abort(cx);
            }
            if let Payload::Data(bytes) = payload
                && bytes.message != Message::Opaque
            {
                self.starts.insert(position, bytes.message.clone());
            }
            if flags.contains(TcpFlags::PSH) {
                self.ends.insert(end);
            }
            let known = self.ahead.entry(position).or_insert(end);
            *known = end.max(*known);
        }
        if flags.contains(TcpFlags::FIN) && self.peer_fin.is_none() && new {
            self.peer_fin = Some(end);
        }
        while let Some((start, end)) = self.ahead.first_key_value().map(|(s, e)| (*s, *e)) {
            if start > self.rcv_nxt {
                break;
            }
            self.ahead.pop_first();
            self.rcv_nxt = self.rcv_nxt.max(end);
        }
        self.hand_on(progress);
        if len > 0 {
            self.acknowledge(cx);
        }
        if flags.contains(TcpFlags::FIN) {
            self.ack_due = true;
        }
        if self.peer_fin == Some(self.rcv_nxt) {
            self.rcv_nxt += 1;
            self.ack_due = true;
            self.peer_closed(progress, cx);
        }
    }

    /// Hands on the messages that are complete.
    fn hand_on(&mut self, progress: &mut Progress) {
        while let Some(end) = self.ends.first().copied() {
            if end > self.rcv_nxt {
                break;
            }
            self.ends.pop_first();
            let rest = self.starts.split_off(&end);
            let complete = std::mem::replace(&mut self.starts, rest);
            let message = complete.into_values().next();
            progress.messages.push(message.unwrap_or(Message::Opaque));
        }
    }

    fn peer_closed<D: Dice>(&mut self, progress: &mut Progress, cx: &mut Ctx<'_, D>) {
        progress.eof = true;
        match self.state {
            TcpState::Established => self.state = TcpState::CloseWait,
            TcpState::FinWait1 => self.state = TcpState::Closing,
            TcpState::FinWait2 => self.time_wait(cx),
            TcpState::Closed
            | TcpState::Listen
            | TcpState::SynSent
            | TcpState::SynReceived
            | TcpState::CloseWait
            | TcpState::Closing
            | TcpState::LastAck
            | TcpState::TimeWait => {}
        }
    }

    fn time_wait<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.state = TcpState::TimeWait;
        self.retransmit.cancel(cx.actions);
        let after = self.settings.time_wait;
        self.wait.set(&mut self.timers, after, cx.actions);
    }

    /// Handles an error the kernel reports: ends a connection that is not yet established, and is remembered by
    /// one that is; EMSGSIZE lowers the segment size and sends again.
    pub fn error<D: Dice>(
        &mut self,
        errno: Errno,
        mtu: Option<u32>,
        cx: &mut Ctx<'_, D>,
    ) -> Progress {
        let mut progress = Progress::default();
        match (errno, mtu) {
            (Errno::EMSGSIZE, Some(mtu)) => self.lower_mtu(mtu, cx),
            _ if matches!(self.state, TcpState::SynSent | TcpState::SynReceived) => {
                self.fail(errno, &mut progress, cx);
            }
            _ => self.soft_error = Some(errno),
        }
        progress
    }

    fn lower_mtu<D: Dice>(&mut self, mtu: u32, cx: &mut Ctx<'_, D>) {
        // net.ipv4.route.min_pmtu, RFC 8200 §5.
        let least = match Family::of(self.local.0) {
            Family::V4 => 552,
            Family::V6 => 1280,
        };
        let mtu = mtu.max(least);
        if mtu >= self.path_mtu {
            return;
        }
        self.path_mtu = mtu;
        if self.una < self.high && self.state != TcpState::SynSent {
            self.sample = None;
            self.nxt = self.una.max(1);
            self.transmit(cx);
        }
    }

    /// Handles a timer, if it is one of this connection's.
    pub fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) -> Progress {
        let mut progress = Progress::default();
        if self.wait.fired(token) {
            self.end(cx);
        } else if self.retransmit.fired(token) {
            match (self.state, self.pending) {
                (TcpState::SynSent | TcpState::SynReceived, _) => {
                    self.backoff += 1;
                    self.resend_syn(&mut progress, cx);
                }
                (_, Pending::TailLossProbe) => {
                    self.probed = true;
                    self.sample = None;
                    self.resend_last(cx);
                    self.arm(cx);
                }
                (_, Pending::Retransmission) => self.retransmission_timeout(&mut progress, cx),
            }
        }
        progress
    }

    fn retransmission_timeout<D: Dice>(&mut self, progress: &mut Progress, cx: &mut Ctx<'_, D>) {
        let retries = if self.orphan {
            self.settings.orphan_retries
        } else {
            self.settings.retries2
        };
        if cx.now.since(self.last_progress) >= self.settings.give_up(retries) {
            let errno = self.soft_error.unwrap_or(Errno::ETIMEDOUT);
            return self.fail(errno, progress, cx);
        }
        if self.backoff == 0 {
            self.ssthresh = (self.in_flight_segments() / 2).max(2);
        }
        self.cwnd = 1;
        self.backoff += 1;
        self.probed = true;
        self.recover = None;
        self.duplicate_acks = 0;
        self.sample = None;
        self.nxt = self.una;
        self.transmit(cx);
    }

    fn send_syn<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.high = 1;
        self.emit_syn(cx);
        self.sample = Some((1, cx.now));
        if let Some(after) = self.syn_timeout() {
            self.retransmit.set(&mut self.timers, after, cx.actions);
        }
    }

    fn resend_syn<D: Dice>(&mut self, progress: &mut Progress, cx: &mut Ctx<'_, D>) {
        if self.syn_timeout().is_some() {
            self.send_syn(cx);
        } else {
            self.fail(Errno::ETIMEDOUT, progress, cx);
        }
    }

    fn syn_timeout(&self) -> Option<Duration> {
        if self.state == TcpState::SynSent {
            self.settings.syn_timeout(self.backoff)
        } else {
            self.settings.synack_timeout(self.backoff)
        }
    }

    fn emit_syn<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let flags = if self.state == TcpState::SynSent {
            TcpFlags::SYN
        } else {
            TcpFlags::SYN_ACK
        };
        let mss = self.path_mtu.saturating_sub(self.headers());
        let header = Tcp {
            mss: Some(u16::try_from(mss).unwrap_or(u16::MAX)),
            ..self.header(0, flags)
        };
        self.emit_header(header, Payload::Empty, cx);
    }

    /// Sends what the windows allow.
    fn transmit<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let mut sent = false;
        loop {
            let window = self
                .cwnd
                .saturating_mul(self.segment_size())
                .min(self.peer_window);
            let Some((len, flags, payload)) = self.segment(self.nxt) else {
                break;
            };
            let in_flight = self.nxt - self.una;
            if in_flight > 0 && in_flight + len > window {
                break;
            }
            self.send_segment(self.nxt, len, flags, payload, cx);
            self.nxt += len;
            sent = true;
        }
        if sent {
            self.arm(cx);
        }
    }

    fn send_segment<D: Dice>(
        &mut self,
        at: u32,
        len: u32,
        flags: TcpFlags,
        payload: Payload,
        cx: &mut Ctx<'_, D>,
    ) {
        if self.una == self.high {
            self.last_progress = cx.now;
        }
        if at + len > self.high {
            self.high = at + len;
            self.sample.get_or_insert((self.high, cx.now));
        }
        self.emit(at, flags, payload, cx);
    }

    /// Returns the segment that starts at a position: its length in positions, flags and bytes.
    fn segment(&self, at: u32) -> Option<(u32, TcpFlags, Payload)> {
        if at == 0 || matches!(self.state, TcpState::SynReceived | TcpState::Closed) {
            return None;
        }
        if at == self.queued {
            return self
                .orphan
                .then_some((1, TcpFlags::FIN_ACK, Payload::Empty));
        }
        let out = self
            .outgoing
            .iter()
            .find(|m| (m.start..m.end).contains(&at))?;
        let len = self.segment_size().min(out.end - at);
        let message = if at == out.start {
            out.message.clone()
        } else {
            Message::Opaque
        };
        let flags = if at + len == out.end {
            TcpFlags::PSH_ACK
        } else {
            TcpFlags::ACK
        };
        Some((len, flags, data(len, message)))
    }

    fn resend_first<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.sample = None;
        if let Some((len, flags, payload)) = self.segment(self.una) {
            self.send_segment(self.una, len, flags, payload, cx);
            self.nxt = self.nxt.max(self.una + len);
        }
    }

    fn resend_last<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let last = self.high - 1;
        let within = |m: &&Outgoing| (m.start..m.end).contains(&last);
        let start = self.outgoing.iter().find(within).map_or(last, |m| {
            let first = m.start.max(self.una);
            first + (last - first) / self.segment_size() * self.segment_size()
        });
        if let Some((len, flags, payload)) = self.segment(start) {
            self.send_segment(start, len, flags, payload, cx);
        }
    }

    /// Sets the retransmission timer anew, or stops it if nothing is outstanding.
    fn arm<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if self.una == self.high || self.state == TcpState::Closed {
            return self.retransmit.cancel(cx.actions);
        }
        let rto = self.retransmission_delay();
        let (pending, after) = match self.srtt {
            Some(srtt) if !self.probed && self.recover.is_none() => {
                let slack = if self.in_flight_segments() == 1 {
                    self.settings.rto_min
                } else {
                    Duration::from_millis(2)
                };
                (Pending::TailLossProbe, (srtt * 2 + slack).min(rto))
            }
            Some(_) | None => (Pending::Retransmission, rto),
        };
        self.pending = pending;
        self.retransmit.set(&mut self.timers, after, cx.actions);
    }

    fn retransmission_delay(&self) -> Duration {
        let settings = &self.settings;
        let base = self.srtt.map_or(settings.rto_initial, |srtt| {
            srtt + (self.rttvar * 4).max(settings.rto_min)
        });
        settings.doubled(base, self.backoff)
    }

    /// Takes a round-trip sample (RFC 6298 §2), if the acknowledgement covers the measured segment.
    fn measure(&mut self, ack: u32, now: Time) {
        let Some((_, sent)) = self.sample.take_if(|(end, _)| ack >= *end) else {
            return;
        };
        let rtt = now.since(sent);
        if let Some(srtt) = self.srtt {
            self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
            self.srtt = Some((srtt * 7 + rtt) / 8);
        } else {
            self.rttvar = rtt / 2;
            self.srtt = Some(rtt);
        }
    }

    fn learn_mss(&mut self, header: &Tcp) {
        self.peer_mss = header.mss.map_or(536, u32::from);
        self.peer_window = header.window;
    }

    fn acknowledge<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.emit(self.nxt, TcpFlags::ACK, Payload::Empty, cx);
    }

    fn header(&self, position: u32, flags: TcpFlags) -> Tcp {
        let ack = if flags.contains(TcpFlags::ACK) {
            self.irs.wrapping_add(self.rcv_nxt)
        } else {
            0
        };
        Tcp {
            sport: self.local.1,
            dport: self.remote.1,
            flags,
            seq: self.iss.wrapping_add(position),
            ack,
            window: self.settings.receive_window,
            mss: None,
        }
    }

    fn emit<D: Dice>(
        &mut self,
        position: u32,
        flags: TcpFlags,
        payload: Payload,
        cx: &mut Ctx<'_, D>,
    ) {
        self.emit_header(self.header(position, flags), payload, cx);
    }

    fn emit_header<D: Dice>(&mut self, header: Tcp, payload: Payload, cx: &mut Ctx<'_, D>) {
        if header.flags.contains(TcpFlags::ACK) {
            self.ack_due = false;
        }
        let addresses = (self.local.0, self.remote.0);
        let packet = packet(self.flow, addresses, Transport::Tcp(header), payload);
        cx.send(packet);
    }

    fn fail<D: Dice>(&mut self, errno: Errno, progress: &mut Progress, cx: &mut Ctx<'_, D>) {
        progress.failed = Some(errno);
        self.end(cx);
    }

    fn end<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.state = TcpState::Closed;
        self.ack_due = false;
        self.retransmit.cancel(cx.actions);
        self.wait.cancel(cx.actions);
    }
}
