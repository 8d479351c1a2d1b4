//! A client that sets up an association, asks, reads the answer and shuts down, with a time limit.

use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Time};
use podwire_models::wire::{L4, Message, Packet, Payload, SctpChunk, Transport};

use super::{Fired, SctpSettings, Sender, data};
use crate::traffic::{Action, AppEvent, Ctx, End, Outcome, ProbeOutcome, Timer, Timers, Token};

/// What a client sends, and how long it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The kernel's part.
    pub sctp: SctpSettings,
    /// Limit for the whole attempt. `None` leaves it to the kernel.
    pub timeout: Option<Duration>,
    /// What it asks.
    pub request: Arc<str>,
    /// Bytes of the request.
    pub request_len: u32,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            sctp: SctpSettings::default(),
            timeout: Some(Duration::from_secs(5)),
            request: "hello".into(),
            request_len: 64,
        }
    }
}

/// States of RFC 9260 §4, as far as a client has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Opening,
    CookieWait,
    CookieEchoed,
    Established,
    /// The application has closed; data is still on its way.
    ShutdownPending,
    ShutdownSent,
    /// The server closed first.
    ShutdownAckSent,
    Finished,
}

/// One attempt over SCTP.
#[derive(Clone, Debug)]
pub struct SctpClient {
    settings: ClientSettings,
    remote: End,
    state: State,
    started: Time,
    sender: Option<Box<Sender>>,
    timers: Timers,
    deadline: Timer,
    reported: bool,
}

impl SctpClient {
    /// Returns a client that will connect to `remote` when it is started.
    pub const fn new(remote: End, settings: ClientSettings) -> Self {
        Self::with_owner(remote, settings, 0)
    }

    pub(in crate::traffic) const fn with_owner(
        remote: End,
        settings: ClientSettings,
        owner: u32,
    ) -> Self {
        Self {
            settings,
            remote,
            state: State::Idle,
            started: Time::ZERO,
            sender: None,
            timers: Timers::of(owner),
            deadline: Timer(None),
            reported: false,
        }
    }

    /// Returns whether nothing more will happen.
    pub const fn finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Start => self.start(cx),
            AppEvent::Opened { local, mtu, .. } => self.opened(local, mtu, cx),
            AppEvent::OpenFailed { errno } => {
                if self.state == State::Opening {
                    self.fail(errno, cx);
                    self.state = State::Finished;
                }
            }
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Error { errno, mtu, .. } => self.error(errno, mtu, cx),
            // A packet that could not be sent counts as lost on the way (`sctp_packet_transmit`).
            AppEvent::SendFailed { .. } => {}
            AppEvent::Timer(token) => self.timer(token, cx),
        }
    }

    fn start<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.started = cx.now;
        self.state = State::Opening;
        if let Some(timeout) = self.settings.timeout {
            self.deadline.set(&mut self.timers, timeout, cx.actions);
        }
        cx.act(Action::Open {
            l4: L4::Sctp,
            remote: self.remote,
            connected: true,
            port: None,
        });
    }

    fn opened<D: Dice>(&mut self, local: End, mtu: u32, cx: &mut Ctx<'_, D>) {
        if self.state != State::Opening {
            return;
        }
        let ends = (local, self.remote);
        let sender = Sender::new(self.settings.sctp, cx.flow, ends, mtu);
        self.sender = Some(Box::new(sender));
        self.state = State::CookieWait;
        self.insist(SctpChunk::Init, Payload::Empty, cx);
    }

    fn insist<D: Dice>(&mut self, chunk: SctpChunk, payload: Payload, cx: &mut Ctx<'_, D>) {
        if let Some(sender) = &mut self.sender {
            sender.insist(chunk, payload, &mut self.timers, cx);
        }
    }

    fn send<D: Dice>(&self, chunk: SctpChunk, cx: &mut Ctx<'_, D>) {
        if let Some(sender) = &self.sender {
            sender.send(chunk, Payload::Empty, cx);
        }
    }

    fn answered<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if let Some(sender) = &mut self.sender {
            sender.answered(cx);
        }
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let Transport::Sctp(sctp) = packet.transport else {
            return;
        };
        match (sctp.chunk, self.state) {
            (_, State::Idle | State::Opening | State::Finished) => {}
            (SctpChunk::InitAck, State::CookieWait) => {
                self.answered(cx);
                self.state = State::CookieEchoed;
                self.insist(SctpChunk::CookieEcho, Payload::Empty, cx);
            }
            (SctpChunk::CookieAck, State::CookieEchoed) => {
                self.answered(cx);
                self.state = State::Established;
                let request = Message::Request(Arc::clone(&self.settings.request));
                let payload = data(self.settings.request_len.max(1), request);
                self.insist(SctpChunk::Data, payload, cx);
            }
            (SctpChunk::Abort, State::CookieWait | State::CookieEchoed) => {
                self.fail(Errno::ECONNREFUSED, cx);
                self.end(cx);
            }
            (SctpChunk::Abort, _) => {
                self.fail(Errno::ECONNRESET, cx);
                self.end(cx);
            }
            (SctpChunk::Sack, State::Established | State::ShutdownPending) => {
                self.answered(cx);
                self.shut_down_if_pending(cx);
            }
            (SctpChunk::Data, State::Established) => {
                self.send(SctpChunk::Sack, cx);
                if let Some(message) = packet.message() {
                    let after = cx.now.since(self.started);
                    self.report(ProbeOutcome::answered(message, after), cx);
                    self.close(cx);
                }
            }
            (SctpChunk::Data, State::ShutdownPending) => self.send(SctpChunk::Sack, cx),
            // Both chunks, in one packet on a real wire (RFC 9260 §9.2).
            (SctpChunk::Data, State::ShutdownSent) => {
                self.send(SctpChunk::Sack, cx);
                self.send(SctpChunk::Shutdown, cx);
            }
            (SctpChunk::Heartbeat, _) => self.send(SctpChunk::HeartbeatAck, cx),
            (SctpChunk::Shutdown, State::Established | State::ShutdownPending) => {
                // The server shut down before it answered: an empty reply.
                let after = cx.now.since(self.started);
                let outcome = ProbeOutcome {
                    errno: None,
                    ..ProbeOutcome::error(Errno::ECONNRESET, after)
                };
                self.report(outcome, cx);
                self.answered(cx);
                self.state = State::ShutdownAckSent;
                self.insist(SctpChunk::ShutdownAck, Payload::Empty, cx);
            }
            (SctpChunk::Shutdown, State::ShutdownSent) => {
                self.answered(cx);
                self.state = State::ShutdownAckSent;
                self.insist(SctpChunk::ShutdownAck, Payload::Empty, cx);
            }
            (SctpChunk::ShutdownAck, State::ShutdownSent | State::ShutdownAckSent) => {
                self.answered(cx);
                self.send(SctpChunk::ShutdownComplete, cx);
                self.end(cx);
            }
            (SctpChunk::ShutdownComplete, State::ShutdownAckSent) => self.end(cx),
            // What does not belong to the state is discarded (RFC 9260 §5.2).
            (
                SctpChunk::Init
                | SctpChunk::InitAck
                | SctpChunk::CookieEcho
                | SctpChunk::CookieAck
                | SctpChunk::Data
                | SctpChunk::Sack
                | SctpChunk::HeartbeatAck
                | SctpChunk::Shutdown
                | SctpChunk::ShutdownAck
                | SctpChunk::ShutdownComplete,
                _,
            ) => {}
        }
    }

    /// Other errors than these two are kept for `SO_ERROR` only (`sk_err_soft`). A blocking `connect` makes
    /// ECONNREFUSED of the first (`sctp_wait_for_connect`).
    fn error<D: Dice>(&mut self, errno: Errno, mtu: Option<u32>, cx: &mut Ctx<'_, D>) {
        if errno == Errno::ENOPROTOOPT && self.state == State::CookieWait {
            self.fail(Errno::ECONNREFUSED, cx);
            self.end(cx);
        } else if let (Some(mtu), Some(sender)) = (mtu, &mut self.sender) {
            sender.narrower(mtu, &mut self.timers, cx);
        }
    }

    fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) {
        if self.deadline.fired(token) {
            let after = cx.now.since(self.started);
            self.report(ProbeOutcome::timeout(after), cx);
            return self.close(cx);
        }
        let Some(sender) = &mut self.sender else {
            return;
        };
        match sender.fired(token, &mut self.timers, cx) {
            Fired::Stranger | Fired::Again => {}
            Fired::TooMany => {
                if !matches!(self.state, State::CookieWait | State::CookieEchoed) {
                    self.send(SctpChunk::Abort, cx);
                }
                self.fail(Errno::ETIMEDOUT, cx);
                self.end(cx);
            }
        }
    }

    /// The application closes its socket. A handshake is given up without a word
    /// (`sctp_sf_cookie_wait_prm_shutdown`).
    fn close<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        match self.state {
            State::Idle | State::Opening | State::CookieWait | State::CookieEchoed => self.end(cx),
            State::Established => {
                self.state = State::ShutdownPending;
                self.shut_down_if_pending(cx);
            }
            State::ShutdownPending
            | State::ShutdownSent
            | State::ShutdownAckSent
            | State::Finished => {}
        }
    }

    fn shut_down_if_pending<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let idle = self
            .sender
            .as_ref()
            .is_some_and(|s| s.outstanding.is_none());
        if self.state == State::ShutdownPending && idle {
            self.state = State::ShutdownSent;
            self.insist(SctpChunk::Shutdown, Payload::Empty, cx);
        }
    }

    fn fail<D: Dice>(&mut self, errno: Errno, cx: &mut Ctx<'_, D>) {
        let after = cx.now.since(self.started);
        self.report(ProbeOutcome::error(errno, after), cx);
    }

    /// Tells the result; only the first one counts.
    fn report<D: Dice>(&mut self, outcome: ProbeOutcome, cx: &mut Ctx<'_, D>) {
        if !self.reported {
            self.reported = true;
            self.deadline.cancel(cx.actions);
            cx.done(Outcome::Probe(outcome));
        }
    }

    /// The association is gone.
    fn end<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.state = State::Finished;
        if let Some(mut sender) = self.sender.take() {
            sender.stop(cx);
            let (local, remote) = sender.ends;
            cx.act(Action::Close {
                l4: L4::Sctp,
                local,
                remote,
            });
        }
    }
}
