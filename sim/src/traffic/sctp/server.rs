//! A server on a listening socket: answers the one request of each association.
//!
//! It knows nothing of a client before the cookie comes back (RFC 9260 §5.1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::Dice;
use podwire_models::wire::{FlowKey, Message, Packet, Payload, SctpChunk, Transport};

use super::{Fired, SctpSettings, Sender, data};
use crate::traffic::{AppEvent, Ctx, End, Timer, Timers, Token};

/// How a server behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The kernel's part.
    pub sctp: SctpSettings,
    /// Name it puts into answers.
    pub name: Arc<str>,
    /// Time from request to answer.
    pub service_time: Duration,
    /// Bytes of an answer.
    pub response_len: u32,
    /// MTU of the routes to its clients.
    pub mtu: u32,
}

impl ServerSettings {
    /// Returns a server that answers at once.
    pub fn new(name: Arc<str>) -> Self {
        Self {
            sctp: SctpSettings::default(),
            name,
            service_time: Duration::ZERO,
            response_len: 64,
            mtu: 1500,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Established,
    /// The request is being worked on, or has its answer.
    Asked,
    ShutdownAckSent,
}

/// One association.
#[derive(Clone, Debug)]
struct Association {
    state: State,
    sender: Sender,
    /// Until the answer is ready.
    working: Timer,
}

/// An SCTP server.
#[derive(Clone, Debug)]
pub struct SctpServer {
    settings: ServerSettings,
    timers: Timers,
    /// By local and remote end.
    associations: BTreeMap<(End, End), Association>,
}

impl SctpServer {
    /// Returns a server.
    pub const fn new(settings: ServerSettings) -> Self {
        Self {
            settings,
            timers: Timers::of(0),
            associations: BTreeMap::new(),
        }
    }

    /// Returns the number of associations.
    pub fn associations(&self) -> usize {
        self.associations.len()
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Timer(token) => self.timer(token, cx),
            AppEvent::Start
            | AppEvent::Opened { .. }
            | AppEvent::OpenFailed { .. }
            | AppEvent::Error { .. }
            | AppEvent::SendFailed { .. } => {}
        }
    }

    fn sender(&self, flow: FlowKey, ends: (End, End)) -> Sender {
        Sender::new(self.settings.sctp, flow, ends, self.settings.mtu)
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let Transport::Sctp(sctp) = packet.transport else {
            return;
        };
        let ends = ((packet.dst, sctp.dport), (packet.src, sctp.sport));
        if sctp.chunk == SctpChunk::Init {
            let sender = self.sender(packet.flow, ends);
            return sender.send(SctpChunk::InitAck, Payload::Empty, cx);
        }
        if sctp.chunk == SctpChunk::CookieEcho {
            let sender = self.sender(packet.flow, ends);
            let association = self
                .associations
                .entry(ends)
                .or_insert_with(|| Association {
                    state: State::Established,
                    sender,
                    working: Timer::default(),
                });
            let sender = &association.sender;
            return sender.send(SctpChunk::CookieAck, Payload::Empty, cx);
        }
        let Some(association) = self.associations.get_mut(&ends) else {
            return self.out_of_the_blue(packet.flow, ends, sctp.chunk, cx);
        };
        let Association {
            state,
            sender,
            working,
        } = association;
        match (sctp.chunk, *state) {
            (SctpChunk::Data, State::Established) => {
                sender.send(SctpChunk::Sack, Payload::Empty, cx);
                *state = State::Asked;
                let delay = self.settings.service_time;
                if delay.is_zero() {
                    answer(&self.settings, sender, &mut self.timers, cx);
                } else {
                    working.set(&mut self.timers, delay, cx.actions);
                }
            }
            (SctpChunk::Data, State::Asked) => sender.send(SctpChunk::Sack, Payload::Empty, cx),
            (SctpChunk::Sack, State::Asked) => sender.answered(cx),
            // SHUTDOWN acknowledges data, too; an answer that is not ready comes too late.
            (SctpChunk::Shutdown, State::Established | State::Asked) => {
                working.cancel(cx.actions);
                sender.answered(cx);
                *state = State::ShutdownAckSent;
                let chunk = SctpChunk::ShutdownAck;
                sender.insist(chunk, Payload::Empty, &mut self.timers, cx);
            }
            (SctpChunk::Shutdown, State::ShutdownAckSent) => {
                sender.send(SctpChunk::ShutdownAck, Payload::Empty, cx);
            }
            (SctpChunk::ShutdownAck, _) => {
                sender.send(SctpChunk::ShutdownComplete, Payload::Empty, cx);
                self.forget(ends, cx);
            }
            (SctpChunk::ShutdownComplete, State::ShutdownAckSent) | (SctpChunk::Abort, _) => {
                self.forget(ends, cx);
            }
            (SctpChunk::Heartbeat, _) => sender.send(SctpChunk::HeartbeatAck, Payload::Empty, cx),
            (
                SctpChunk::Init
                | SctpChunk::InitAck
                | SctpChunk::CookieEcho
                | SctpChunk::CookieAck
                | SctpChunk::Data
                | SctpChunk::Sack
                | SctpChunk::HeartbeatAck
                | SctpChunk::ShutdownComplete,
                _,
            ) => {}
        }
    }

    /// A chunk of no association (RFC 9260 §8.4).
    fn out_of_the_blue<D: Dice>(
        &self,
        flow: FlowKey,
        ends: (End, End),
        chunk: SctpChunk,
        cx: &mut Ctx<'_, D>,
    ) {
        let answer = match chunk {
            SctpChunk::Abort | SctpChunk::ShutdownComplete | SctpChunk::CookieAck => return,
            SctpChunk::ShutdownAck => SctpChunk::ShutdownComplete,
            SctpChunk::Init
            | SctpChunk::InitAck
            | SctpChunk::CookieEcho
            | SctpChunk::Data
            | SctpChunk::Sack
            | SctpChunk::Heartbeat
            | SctpChunk::HeartbeatAck
            | SctpChunk::Shutdown => SctpChunk::Abort,
        };
        self.sender(flow, ends).send(answer, Payload::Empty, cx);
    }

    fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) {
        let mut failed = None;
        for (ends, association) in &mut self.associations {
            if association.working.fired(token) {
                answer(
                    &self.settings,
                    &mut association.sender,
                    &mut self.timers,
                    cx,
                );
                return;
            }
            match association.sender.fired(token, &mut self.timers, cx) {
                Fired::Stranger => {}
                Fired::Again => return,
                Fired::TooMany => {
                    let sender = &association.sender;
                    sender.send(SctpChunk::Abort, Payload::Empty, cx);
                    failed = Some(*ends);
                    break;
                }
            }
        }
        if let Some(ends) = failed {
            self.forget(ends, cx);
        }
    }

    fn forget<D: Dice>(&mut self, ends: (End, End), cx: &mut Ctx<'_, D>) {
        if let Some(mut association) = self.associations.remove(&ends) {
            association.working.cancel(cx.actions);
            association.sender.stop(cx);
        }
    }
}

fn answer<D: Dice>(
    settings: &ServerSettings,
    sender: &mut Sender,
    timers: &mut Timers,
    cx: &mut Ctx<'_, D>,
) {
    let (at, seen) = sender.ends;
    let server = Arc::clone(&settings.name);
    let message = Message::Response { server, seen, at };
    let payload = data(settings.response_len.max(1), message);
    sender.insist(SctpChunk::Data, payload, timers, cx);
}
