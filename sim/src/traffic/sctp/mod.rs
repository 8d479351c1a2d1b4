//! SCTP (RFC 9260) as Linux runs it: one association, one request, one answer.
//!
//! Reading order: [`SctpSettings`] (the sysctls), [`client`], [`server`].
//!
//! An INIT that nobody answers leaves at 0, 3, 9, 21, 45, 93, 153, 213 and 273 s, and `connect` fails at 333 s. Of
//! ICMP errors only "protocol unreachable" ends a handshake at once (`sctp_v4_err`): where kube-proxy rejects with
//! "port unreachable", an SCTP client waits until its time is over.
//!
//! # Fidelity
//! One path per association, one chunk per packet, and every message fits one chunk ([`MESSAGE_MAX`]). Packets have
//! neither TSN nor tags nor cookies: a second DATA of one direction is the first one again, and every cookie is valid.
//! No heartbeats: the first would leave after 30 s.

use std::time::Duration;

use podwire_models::base::{Dice, Time};
use podwire_models::wire::{FlowKey, Payload, Sctp, SctpChunk, Transport};

use super::{Ctx, End, Timer, Timers, Token, data, packet};

pub mod client;
pub mod server;

pub use client::{ClientSettings, SctpClient};
pub use server::{SctpServer, ServerSettings};

/// The most bytes a message may have: it fits one chunk on every path that IPv6 allows (1280 bytes).
pub const MESSAGE_MAX: u32 = 1200;

/// The part of `net.sctp.*` that decides when something is sent again, and when the kernel gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SctpSettings {
    /// Retransmission timeout before anything was measured (`rto_initial`).
    pub rto_initial: Duration,
    /// Smallest retransmission timeout (`rto_min`).
    pub rto_min: Duration,
    /// Largest retransmission timeout (`rto_max`).
    pub rto_max: Duration,
    /// Retransmissions of INIT, and of COOKIE-ECHO (`max_init_retransmits`).
    pub init_retransmits: u32,
    /// Retransmissions of everything else, in a row (`association_max_retrans`).
    pub association_retransmits: u32,
}

impl Default for SctpSettings {
    fn default() -> Self {
        Self {
            rto_initial: Duration::from_secs(3),
            rto_min: Duration::from_secs(1),
            rto_max: Duration::from_secs(60),
            init_retransmits: 8,
            association_retransmits: 10,
        }
    }
}

/// What one end sends, and sends again until it is answered.
#[derive(Clone, Debug)]
struct Sender {
    settings: SctpSettings,
    flow: FlowKey,
    ends: (End, End),
    mtu: u32,
    rto: Duration,
    /// Retransmissions in a row without an answer (`overall_error_count`).
    errors: u32,
    outstanding: Option<Outstanding>,
    timer: Timer,
}

/// A chunk that waits for its answer.
#[derive(Clone, Debug)]
struct Outstanding {
    chunk: SctpChunk,
    payload: Payload,
    /// When it left; `None` once it was sent again (Karn's rule).
    sent: Option<Time>,
}

/// What becomes of a timer that fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fired {
    /// It was not this one's.
    Stranger,
    /// The chunk was sent again.
    Again,
    /// There were too many tries.
    TooMany,
}

impl Sender {
    fn new(settings: SctpSettings, flow: FlowKey, ends: (End, End), mtu: u32) -> Self {
        Self {
            settings,
            flow,
            ends,
            mtu,
            rto: settings.rto_initial,
            errors: 0,
            outstanding: None,
            timer: Timer::default(),
        }
    }

    /// Sends a chunk once.
    fn send<D: Dice>(&self, chunk: SctpChunk, payload: Payload, cx: &mut Ctx<'_, D>) {
        let (local, remote) = self.ends;
        let sctp = Sctp {
            sport: local.1,
            dport: remote.1,
            chunk,
        };
        let transport = Transport::Sctp(sctp);
        let mut packet = packet(self.flow, (local.0, remote.0), transport, payload);
        // A chunk that the path became too small for may go out in fragments (`ipfragok`).
        packet.df = remote.0.is_ipv6() || packet.len() <= self.mtu;
        cx.send(packet);
    }

    /// Sends a chunk, and again until [`Self::answered`].
    fn insist<D: Dice>(
        &mut self,
        chunk: SctpChunk,
        payload: Payload,
        timers: &mut Timers,
        cx: &mut Ctx<'_, D>,
    ) {
        self.send(chunk, payload.clone(), cx);
        self.outstanding = Some(Outstanding {
            chunk,
            payload,
            sent: Some(cx.now),
        });
        self.timer.set(timers, self.rto, cx.actions);
    }

    /// The outstanding chunk has its answer. Data is what times are measured by (`sctp_transport_update_rto`).
    fn answered<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.timer.cancel(cx.actions);
        self.errors = 0;
        let Some(outstanding) = self.outstanding.take() else {
            return;
        };
        if outstanding.chunk == SctpChunk::Data {
            if let Some(sent) = outstanding.sent {
                let rtt = cx.now.since(sent);
                // RTT plus four times a variation of half of it.
                self.rto = (rtt * 3).clamp(self.settings.rto_min, self.settings.rto_max);
            }
        } else {
            // The timeouts of the handshake are their own.
            self.rto = self.settings.rto_initial;
        }
    }

    fn fired<D: Dice>(&mut self, token: Token, timers: &mut Timers, cx: &mut Ctx<'_, D>) -> Fired {
        if !self.timer.fired(token) {
            return Fired::Stranger;
        }
        let Some(outstanding) = &mut self.outstanding else {
            return Fired::Stranger;
        };
        let limit = match outstanding.chunk {
            SctpChunk::Init | SctpChunk::CookieEcho => self.settings.init_retransmits,
            SctpChunk::InitAck
            | SctpChunk::CookieAck
            | SctpChunk::Data
            | SctpChunk::Sack
            | SctpChunk::Heartbeat
            | SctpChunk::HeartbeatAck
            | SctpChunk::Shutdown
            | SctpChunk::ShutdownAck
            | SctpChunk::ShutdownComplete
            | SctpChunk::Abort => self.settings.association_retransmits,
        };
        if self.errors >= limit {
            return Fired::TooMany;
        }
        self.errors += 1;
        self.rto = (self.rto * 2).min(self.settings.rto_max);
        self.again(timers, cx);
        Fired::Again
    }

    /// The path carries less than was thought: what is outstanding leaves again at once.
    fn narrower<D: Dice>(&mut self, mtu: u32, timers: &mut Timers, cx: &mut Ctx<'_, D>) {
        if mtu < self.mtu {
            self.mtu = mtu;
            if self.outstanding.is_some() {
                self.again(timers, cx);
            }
        }
    }

    fn again<D: Dice>(&mut self, timers: &mut Timers, cx: &mut Ctx<'_, D>) {
        let Some(outstanding) = &mut self.outstanding else {
            return;
        };
        outstanding.sent = None;
        let (chunk, payload) = (outstanding.chunk, outstanding.payload.clone());
        self.send(chunk, payload, cx);
        self.timer.set(timers, self.rto, cx.actions);
    }

    /// Nothing is sent again.
    fn stop<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.timer.cancel(cx.actions);
        self.outstanding = None;
    }
}

#[cfg(test)]
mod tests;
