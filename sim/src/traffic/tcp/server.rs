//! A listening socket and the process behind it: accepts, reads one request at a time, answers after a service
//! time, closes when the client does.
//!
//! # Fidelity
//! Requests waiting for a worker hold one connection each, as with a thread per connection. There are no SYN
//! cookies: the queue of half-open connections is as long as the backlog and no longer.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, FxIndexMap};
use podwire_models::wire::{
    Code, HttpPages, L4, Message, Packet, Payload, Tcp, TcpFlags, Transport,
};

use super::connection::{Connection, Progress};
use super::{TcpSettings, TcpState};
use crate::traffic::{Action, AppEvent, Ctx, End, Timer, Timers, Token, packet};

/// How a server behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The kernel's part.
    pub tcp: TcpSettings,
    /// Name it puts into answers.
    pub name: Arc<str>,
    /// Accept queue: `min(listen(2) backlog, somaxconn)`. It holds one connection more.
    pub backlog: u32,
    /// Connections the process serves at the same time; 0 is a process that hangs.
    pub workers: u32,
    /// Time from request to answer.
    pub service_time: Duration,
    /// Bytes of an answer.
    pub response_len: u32,
    /// MTU of the routes to its clients.
    pub mtu: u32,
    /// What it answers as a web server; nothing is its name.
    pub pages: Option<HttpPages>,
}

impl ServerSettings {
    /// Returns a server that answers at once, with the limits of `somaxconn`.
    pub fn new(name: Arc<str>) -> Self {
        Self {
            tcp: TcpSettings::default(),
            name,
            backlog: 4096,
            workers: u32::MAX,
            service_time: Duration::ZERO,
            response_len: 200,
            mtu: 1500,
            pages: None,
        }
    }
}

/// What the process does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The handshake is not complete.
    HalfOpen,
    /// In the accept queue.
    Queued,
    /// A worker has it.
    Accepted,
}

#[derive(Clone, Debug)]
struct Served {
    connection: Connection,
    phase: Phase,
    /// Requests read or waiting to be read.
    requests: VecDeque<Message>,
    serving: Timer,
    /// The client has closed.
    eof: bool,
}

/// A TCP server: a listening socket with its connections.
#[derive(Clone, Debug)]
pub struct TcpServer {
    settings: ServerSettings,
    listening: bool,
    connections: FxIndexMap<(End, End), Served>,
    /// Timer owner to connection.
    owners: BTreeMap<u32, (End, End)>,
    queue: VecDeque<(End, End)>,
    accepted: u32,
    next_owner: u32,
}

impl TcpServer {
    /// Returns a server that listens.
    pub fn new(settings: ServerSettings) -> Self {
        Self {
            settings,
            listening: true,
            connections: FxIndexMap::default(),
            owners: BTreeMap::new(),
            queue: VecDeque::new(),
            accepted: 0,
            next_owner: 0,
        }
    }

    /// Returns how it behaves, to change that while it runs.
    pub const fn settings_mut(&mut self) -> &mut ServerSettings {
        &mut self.settings
    }

    /// Returns its connections, for `ss -t`: local end, remote end, state.
    pub fn connections(&self) -> impl Iterator<Item = (End, End, TcpState)> {
        self.connections
            .iter()
            .map(|((local, remote), served)| (*local, *remote, served.connection.state()))
    }

    /// Returns whether it no longer listens and its last connection is gone.
    pub fn finished(&self) -> bool {
        !self.listening && self.connections.is_empty()
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Error {
                local,
                remote,
                errno,
                mtu,
                ..
            } => self.advance((local, remote), cx, |c, cx| c.error(errno, mtu, cx)),
            AppEvent::Timer(token) => self.timer(token, cx),
            AppEvent::Start
            | AppEvent::Opened { .. }
            | AppEvent::OpenFailed { .. }
            | AppEvent::SendFailed { .. } => {}
        }
    }

    /// The process ends, by whatever signal: the kernel closes its sockets. Connections with unread data are
    /// reset, the others get FIN; nobody listens any more.
    pub fn kill<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.listening = false;
        self.queue.clear();
        let keys: Vec<_> = self.connections.keys().copied().collect();
        for key in keys {
            if let Some(served) = self.connections.get_mut(&key) {
                served.serving.cancel(cx.actions);
                if served.phase == Phase::Queued {
                    served.connection.abort(cx);
                } else {
                    served.connection.close(cx);
                }
                served.phase = Phase::HalfOpen;
            }
            self.settle(key, cx);
        }
        self.accepted = 0;
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let Transport::Tcp(header) = packet.transport else {
            return;
        };
        let key = ((packet.dst, header.dport), (packet.src, header.sport));
        let only_syn =
            header.flags.contains(TcpFlags::SYN) && !header.flags.contains(TcpFlags::ACK);
        if let Some(served) = self.connections.get(&key) {
            let completes = served.phase == Phase::HalfOpen && !only_syn;
            if completes && self.queue_full() && !header.flags.contains(TcpFlags::RST) {
                return Self::drop_for_backlog(packet, cx);
            }
            self.advance(key, cx, |c, cx| c.receive(&header, &packet.payload, cx));
        } else if header.flags.contains(TcpFlags::RST) {
        } else if only_syn && self.listening {
            self.syn(packet, &header, key, cx);
        } else {
            cx.send(refusal(packet, &header));
        }
    }

    fn queue_full(&self) -> bool {
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX) > self.settings.backlog
    }

    fn drop_for_backlog<D: Dice>(packet: &Packet, cx: &mut Ctx<'_, D>) {
        cx.act(Action::Dropped {
            packet: packet.id,
            code: Code::BacklogFull,
        });
    }

    fn syn<D: Dice>(
        &mut self,
        packet: &Packet,
        header: &Tcp,
        key: (End, End),
        cx: &mut Ctx<'_, D>,
    ) {
        let half_open = |served: &&Served| served.phase == Phase::HalfOpen;
        let waiting = self.connections.values().filter(half_open).count();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        if self.queue_full() || waiting > self.settings.backlog {
            return Self::drop_for_backlog(packet, cx);
        }
        self.next_owner += 1;
        let (tcp, mtu) = (self.settings.tcp, self.settings.mtu);
        let connection = Connection::accept(packet, header, mtu, tcp, self.next_owner, cx);
        let (local, remote) = key;
        cx.act(Action::Accept { local, remote });
        self.owners.insert(self.next_owner, key);
        self.connections.insert(
            key,
            Served {
                connection,
                phase: Phase::HalfOpen,
                requests: VecDeque::new(),
                serving: Timer::default(),
                eof: false,
            },
        );
    }

    fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) {
        let Some(key) = self.owners.get(&(token.owner & !SERVICE)).copied() else {
            return;
        };
        if token.owner & SERVICE == 0 {
            self.advance(key, cx, |c, cx| c.timer(token, cx));
        } else if let Some(served) = self.connections.get_mut(&key)
            && served.serving.fired(token)
        {
            self.answer(key, cx);
            self.serve(key, cx);
            self.settle(key, cx);
        }
    }

    /// Lets a connection handle something, then does what follows from it.
    fn advance<'a, D: Dice>(
        &mut self,
        key: (End, End),
        cx: &mut Ctx<'a, D>,
        event: impl FnOnce(&mut Connection, &mut Ctx<'a, D>) -> Progress,
    ) {
        let Some(served) = self.connections.get_mut(&key) else {
            return;
        };
        let progress = event(&mut served.connection, cx);
        served.requests.extend(progress.messages);
        served.eof |= progress.eof;
        if progress.established {
            served.phase = Phase::Queued;
            self.queue.push_back(key);
        }
        self.accept_waiting(cx);
        self.serve(key, cx);
        self.settle(key, cx);
    }

    /// Free workers take connections from the accept queue.
    fn accept_waiting<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        while self.accepted < self.settings.workers
            && let Some(key) = self.queue.pop_front()
        {
            if let Some(served) = self.connections.get_mut(&key) {
                served.phase = Phase::Accepted;
                self.accepted += 1;
                self.serve(key, cx);
            }
        }
    }

    /// The worker of a connection takes up the next request, or closes after the client.
    fn serve<D: Dice>(&mut self, key: (End, End), cx: &mut Ctx<'_, D>) {
        loop {
            let Some(served) = self.connections.get_mut(&key) else {
                return;
            };
            if served.phase != Phase::Accepted || served.serving.0.is_some() {
                return;
            }
            if served.requests.is_empty() {
                if served.eof {
                    served.connection.close(cx);
                }
                return;
            }
            if !self.settings.service_time.is_zero() {
                let owner = served.connection.owner() | SERVICE;
                let mut timers = Timers::of(owner);
                timers.next = served.connection.tick();
                let after = self.settings.service_time;
                return served.serving.set(&mut timers, after, cx.actions);
            }
            self.answer(key, cx);
        }
    }

    fn answer<D: Dice>(&mut self, key: (End, End), cx: &mut Ctx<'_, D>) {
        if let Some(served) = self.connections.get_mut(&key) {
            let request = served.requests.pop_front();
            let (at, seen) = key;
            let message = match &self.settings.pages {
                None => Message::Response {
                    server: Arc::clone(&self.settings.name),
                    seen,
                    at,
                },
                Some(pages) => {
                    let line = match &request {
                        Some(Message::Request(line)) => line,
                        Some(
                            Message::Opaque
                            | Message::Response { .. }
                            | Message::Http { .. }
                            | Message::Dns(_),
                        )
                        | None => "",
                    };
                    let answer = pages.answer(line);
                    Message::Http { answer, seen, at }
                }
            };
            served
                .connection
                .send(self.settings.response_len, message, cx);
        }
    }

    /// Sends an acknowledgement that is due, and forgets a connection that has ended.
    fn settle<D: Dice>(&mut self, key: (End, End), cx: &mut Ctx<'_, D>) {
        let Some(served) = self.connections.get_mut(&key) else {
            return;
        };
        served.connection.flush(cx);
        if served.connection.state() != TcpState::Closed {
            return;
        }
        served.serving.cancel(cx.actions);
        if served.phase == Phase::Accepted {
            self.accepted = self.accepted.saturating_sub(1);
        }
        self.owners.remove(&served.connection.owner());
        self.connections.shift_remove(&key);
        self.queue.retain(|queued| *queued != key);
        let (local, remote) = key;
        cx.act(Action::Close {
            l4: L4::Tcp,
            local,
            remote,
        });
        self.accept_waiting(cx);
    }
}

/// Marks the timer owner of a connection's worker.
const SERVICE: u32 = 1 << 31;

/// Returns the RST that answers a segment of no connection (RFC 9293 §3.10.7.1).
fn refusal(to: &Packet, header: &Tcp) -> Packet {
    let length = to.payload.len()
        + u32::from(header.flags.contains(TcpFlags::SYN))
        + u32::from(header.flags.contains(TcpFlags::FIN));
    let (seq, ack, flags) = if header.flags.contains(TcpFlags::ACK) {
        (header.ack, 0, TcpFlags::RST)
    } else {
        (0, header.seq.wrapping_add(length), TcpFlags::RST_ACK)
    };
    let reset = Tcp {
        sport: header.dport,
        dport: header.sport,
        flags,
        seq,
        ack,
        window: 0,
        mss: None,
    };
    packet(
        to.flow,
        (to.dst, to.src),
        Transport::Tcp(reset),
        Payload::Empty,
    )
}
