//! A client that connects, asks, reads the answer and closes: `curl` with a time limit.

use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Time};
use podwire_models::wire::{L4, Message, Packet, Transport};

use super::connection::{Connection, Progress};
use super::{TcpSettings, TcpState};
use crate::traffic::{Action, AppEvent, Ctx, End, Outcome, ProbeOutcome, Timer, Timers, Token};

/// What a client sends, and how long it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The kernel's part.
    pub tcp: TcpSettings,
    /// Limit for the whole attempt. `None` leaves it to the kernel.
    pub timeout: Option<Duration>,
    /// The request line; `None` only connects and closes.
    pub request: Option<Arc<str>>,
    /// Bytes of a request.
    pub request_len: u32,
    /// Number of requests on the one connection.
    pub requests: u32,
    /// Pause between an answer and the next request.
    pub pause: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            tcp: TcpSettings::default(),
            timeout: Some(Duration::from_secs(5)),
            request: Some("GET / HTTP/1.1".into()),
            request_len: 78,
            requests: 1,
            pause: Duration::ZERO,
        }
    }
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    Opening,
    Connecting(Box<Connection>),
    Waiting(Box<Connection>),
    Pausing(Box<Connection>, Message),
    /// The result is known; the kernel finishes the connection.
    Closing(Box<Connection>),
    Finished,
}

/// One attempt over TCP.
#[derive(Clone, Debug)]
pub struct TcpClient {
    settings: ClientSettings,
    remote: End,
    state: State,
    started: Time,
    answered: u32,
    timers: Timers,
    deadline: Timer,
    pause: Timer,
    owner: u32,
}

impl TcpClient {
    /// Returns a client that will connect to `remote` when it is started.
    pub fn new(remote: End, settings: ClientSettings) -> Self {
        Self::with_owner(remote, settings, 0)
    }

    /// The same, with timers that carry `owner` and the number after it.
    pub(in crate::traffic) fn with_owner(
        remote: End,
        settings: ClientSettings,
        owner: u32,
    ) -> Self {
        Self {
            settings,
            remote,
            state: State::Idle,
            started: Time::ZERO,
            answered: 0,
            timers: Timers::of(owner),
            deadline: Timer::default(),
            pause: Timer::default(),
            owner,
        }
    }

    /// Returns the state of its socket.
    pub fn tcp_state(&self) -> TcpState {
        match &self.state {
            State::Idle | State::Opening | State::Finished => TcpState::Closed,
            State::Connecting(c) | State::Waiting(c) | State::Pausing(c, _) | State::Closing(c) => {
                c.state()
            }
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
            AppEvent::Opened { local, mtu, syn } => {
                self.settings.tcp.syn = syn;
                self.opened(local, mtu, cx);
            }
            AppEvent::OpenFailed { errno } => self.open_failed(errno, cx),
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Error { errno, mtu, .. } => {
                self.advance(cx, |c, cx| c.error(errno, mtu, cx));
            }
            AppEvent::SendFailed { errno, .. } => self.send_failed(errno, cx),
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
            l4: L4::Tcp,
            remote: self.remote,
            connected: true,
            port: None,
        });
    }

    fn opened<D: Dice>(&mut self, local: End, mtu: u32, cx: &mut Ctx<'_, D>) {
        if matches!(self.state, State::Opening) {
            let ends = (local, self.remote);
            let connection = Connection::connect(ends, mtu, self.settings.tcp, self.owner + 1, cx);
            self.state = State::Connecting(Box::new(connection));
        }
    }

    fn open_failed<D: Dice>(&mut self, errno: Errno, cx: &mut Ctx<'_, D>) {
        if matches!(self.state, State::Opening) {
            self.state = State::Finished;
            self.done(ProbeOutcome::error(errno, cx.now.since(self.started)), cx);
        }
    }

    /// `connect` reports a missing route; a packet that OUTPUT drops counts as lost on the way.
    fn send_failed<D: Dice>(&mut self, errno: Errno, cx: &mut Ctx<'_, D>) {
        if matches!(self.state, State::Connecting(_)) && errno != Errno::EPERM {
            self.advance(cx, |c, cx| c.error(errno, None, cx));
        }
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        if let Transport::Tcp(header) = packet.transport {
            self.advance(cx, |c, cx| c.receive(&header, &packet.payload, cx));
        }
    }

    fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) {
        if self.deadline.fired(token) {
            self.give_up(cx);
        } else if self.pause.fired(token) {
            if let State::Pausing(connection, _) =
                std::mem::replace(&mut self.state, State::Finished)
            {
                self.ask(connection, cx);
            }
        } else {
            self.advance(cx, |c, cx| c.timer(token, cx));
        }
    }

    fn give_up<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let after = cx.now.since(self.started);
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Idle | State::Opening | State::Finished => {
                self.done(ProbeOutcome::timeout(after), cx);
            }
            State::Connecting(connection)
            | State::Waiting(connection)
            | State::Pausing(connection, _) => {
                self.done(ProbeOutcome::timeout(after), cx);
                self.close(connection, cx);
            }
            State::Closing(connection) => self.state = State::Closing(connection),
        }
    }

    /// Lets the connection handle something, then does what follows from it.
    fn advance<'a, D: Dice>(
        &mut self,
        cx: &mut Ctx<'a, D>,
        event: impl FnOnce(&mut Connection, &mut Ctx<'a, D>) -> Progress,
    ) {
        let (State::Connecting(connection)
        | State::Waiting(connection)
        | State::Pausing(connection, _)
        | State::Closing(connection)) = &mut self.state
        else {
            return;
        };
        let progress = event(connection, cx);
        self.follow(progress, cx);
        self.settle(cx);
    }

    fn follow<D: Dice>(&mut self, mut progress: Progress, cx: &mut Ctx<'_, D>) {
        let after = cx.now.since(self.started);
        self.state = match std::mem::replace(&mut self.state, State::Finished) {
            State::Connecting(c) if progress.established => return self.ask(c, cx),
            State::Connecting(c) | State::Waiting(c) if progress.failed.is_some() => {
                let errno = progress.failed.unwrap_or(Errno::ETIMEDOUT);
                self.done(ProbeOutcome::error(errno, after), cx);
                State::Closing(c)
            }
            State::Waiting(c) if !progress.messages.is_empty() => {
                return self.answered(c, progress.messages.swap_remove(0), progress.eof, cx);
            }
            State::Waiting(c) if progress.eof => {
                // The server closed before it answered: an empty reply.
                let outcome = ProbeOutcome {
                    errno: None,
                    ..ProbeOutcome::error(Errno::ECONNRESET, after)
                };
                self.done(outcome, cx);
                return self.close(c, cx);
            }
            State::Pausing(c, message) if progress.eof || progress.failed.is_some() => {
                self.done(ProbeOutcome::answered(&message, after), cx);
                return self.close(c, cx);
            }
            state @ (State::Idle
            | State::Opening
            | State::Connecting(_)
            | State::Waiting(_)
            | State::Pausing(..)
            | State::Closing(_)
            | State::Finished) => state,
        };
    }

    fn ask<D: Dice>(&mut self, mut connection: Box<Connection>, cx: &mut Ctx<'_, D>) {
        let Some(line) = self.settings.request.clone() else {
            let after = cx.now.since(self.started);
            self.done(ProbeOutcome::answered(&Message::Opaque, after), cx);
            return self.close(connection, cx);
        };
        connection.send(self.settings.request_len, Message::Request(line), cx);
        self.state = State::Waiting(connection);
    }

    fn answered<D: Dice>(
        &mut self,
        connection: Box<Connection>,
        message: Message,
        eof: bool,
        cx: &mut Ctx<'_, D>,
    ) {
        self.answered += 1;
        if self.answered < self.settings.requests && !eof {
            self.state = State::Pausing(connection, message);
            self.pause
                .set(&mut self.timers, self.settings.pause, cx.actions);
        } else {
            let after = cx.now.since(self.started);
            self.done(ProbeOutcome::answered(&message, after), cx);
            self.close(connection, cx);
        }
    }

    fn close<D: Dice>(&mut self, mut connection: Box<Connection>, cx: &mut Ctx<'_, D>) {
        connection.close(cx);
        self.state = State::Closing(connection);
        self.settle(cx);
    }

    fn done<D: Dice>(&mut self, outcome: ProbeOutcome, cx: &mut Ctx<'_, D>) {
        self.deadline.cancel(cx.actions);
        self.pause.cancel(cx.actions);
        cx.done(Outcome::Probe(outcome));
    }

    /// Sends an acknowledgement that is due, and frees the socket of a connection that has ended.
    fn settle<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let (State::Connecting(connection)
        | State::Waiting(connection)
        | State::Pausing(connection, _)
        | State::Closing(connection)) = &mut self.state
        else {
            return;
        };
        connection.flush(cx);
        if connection.state() == TcpState::Closed {
            let (local, remote) = connection.ends();
            self.state = State::Finished;
            cx.act(Action::Close {
                l4: L4::Tcp,
                local,
                remote,
            });
        }
    }
}
