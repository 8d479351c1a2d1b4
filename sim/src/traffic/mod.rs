//! Clients and servers with their retry timers: what processes and the kernel's socket layer do above the packet
//! path.
//!
//! Every client and server is a state machine over values. Whoever owns time hands in one [`AppEvent`] at a time
//! together with a [`Ctx`], and carries out the [`Action`]s it finds there afterwards. Nothing here knows the
//! simulation loop, so two machines can be connected by any pipe.
//!
//! Reading order: [`tcp`], [`udp`], [`sctp`], [`icmp`] (ping, traceroute), [`lookup`] (the stub resolver), [`dig`], [`coredns`] (the
//! name server), [`probe`] (name or address, then one of the clients).
//!
//! Leaves out: application protocols beyond one request line, TLS, congestion control beyond slow start, SACK.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Purpose, Stream, Time};
use podwire_models::kernel::sysctl::SynSchedule;
use podwire_models::wire::{
    Code, Data, FlowKey, HttpAnswer, L4, Message, Packet, PacketId, Payload, Transport,
};
use serde::Serialize;

pub mod tcp;
pub mod udp;
pub mod sctp;
pub mod icmp;
pub mod lookup;
pub mod dig;
pub mod coredns;
pub mod probe;
mod words;

#[cfg(test)]
mod pipe;

/// A local or remote end: address and port.
pub type End = (IpAddr, u16);

/// Names one setting of one timer. A machine ignores tokens it no longer waits for, so carrying out
/// [`Action::CancelTimer`] saves an event and changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Which part of the machine set it (a server's connection, a probe's phase).
    owner: u32,
    /// Which setting it was.
    number: u32,
}

/// What can happen to a client or server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppEvent {
    /// The process starts, or is told to begin.
    Start,
    /// [`Action::Open`] succeeded.
    Opened {
        /// Source address the route chose, and port; for echo sockets the port is the identifier.
        local: End,
        /// MTU of the route.
        mtu: u32,
        /// When the kernel sends a SYN again.
        syn: SynSchedule,
    },
    /// [`Action::Open`] failed: no route (ENETUNREACH), no port (EADDRNOTAVAIL), …
    OpenFailed {
        /// Why.
        errno: Errno,
    },
    /// The kernel delivered a packet to the socket.
    Packet(Box<Packet>),
    /// The kernel reports an error on a socket: an ICMP error, or a neighbour that does not answer.
    Error {
        /// The socket's ends, which tell a server's connections apart.
        local: End,
        /// The socket's remote end.
        remote: End,
        /// The error.
        errno: Errno,
        /// Whether UDP sockets report it (`icmp_err_convert`).
        fatal: bool,
        /// Path MTU, with EMSGSIZE.
        mtu: Option<u32>,
    },
    /// The system call behind an [`Action::Send`] failed at once: EPERM from OUTPUT, no route, EMSGSIZE.
    SendFailed {
        /// Destination of the packet.
        remote: End,
        /// The error.
        errno: Errno,
    },
    /// A timer set by [`Action::SetTimer`] fired.
    Timer(Token),
}

/// What a client or server wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a socket; answer with [`AppEvent::Opened`] or [`AppEvent::OpenFailed`].
    Open {
        /// Protocol.
        l4: L4,
        /// Whom it will talk to: decides the route and so the source address.
        remote: End,
        /// Whether it is connected, so that it receives from `remote` only and gets errors.
        connected: bool,
        /// The port it is bound to first (`bind(2)`, all addresses); an ephemeral one if not given.
        port: Option<u16>,
    },
    /// A listening TCP socket made the socket of one connection: register it, so that errors find it.
    Accept {
        /// Local end.
        local: End,
        /// Remote end.
        remote: End,
    },
    /// Close the socket with these ends.
    Close {
        /// Protocol.
        l4: L4,
        /// Local end.
        local: End,
        /// Remote end.
        remote: End,
    },
    /// Send a packet. Its `id` is zero: whoever sends it numbers it.
    Send(Box<Packet>),
    /// Send a packet of a socket that wants its datagrams whole (`IP_PMTUDISC_DO`).
    SendWhole(Box<Packet>),
    /// A delivered packet went no further.
    Dropped {
        /// Which.
        packet: PacketId,
        /// Why.
        code: Code,
    },
    /// Call back with [`AppEvent::Timer`].
    SetTimer {
        /// From now.
        after: Duration,
        /// With this.
        token: Token,
    },
    /// The timer is no longer waited for.
    CancelTimer {
        /// Which.
        token: Token,
    },
    /// The result is known; the machine may still close its connection.
    Done(Box<Outcome>),
}

/// What a machine may use while it handles one event.
#[derive(Debug)]
pub struct Ctx<'a, D> {
    /// The present moment.
    pub now: Time,
    /// The conversation that a client's own packets belong to. Servers answer in the flow of the question.
    pub flow: FlowKey,
    /// Who answers questions of chance.
    pub dice: &'a mut D,
    /// What is to be done, in order.
    pub actions: &'a mut Vec<Action>,
}

impl<D: Dice> Ctx<'_, D> {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn done(&mut self, outcome: Outcome) {
        self.act(Action::Done(Box::new(outcome)));
    }

    fn send(&mut self, packet: Packet) {
        self.act(Action::Send(Box::new(packet)));
    }

    /// Draws a value that decides nothing: a sequence number, a DNS id.
    fn identifier(&mut self, flow: FlowKey, bits: u32) -> u64 {
        let stream = Stream::new(Purpose::Identifier, flow.0);
        self.dice.pick(stream, 1 << bits)
    }
}

/// Numbers the timers of one owner.
#[derive(Clone, Debug)]
struct Timers {
    owner: u32,
    next: u32,
}

impl Timers {
    const fn of(owner: u32) -> Self {
        Self { owner, next: 0 }
    }

    fn fresh(&mut self) -> Token {
        self.next += 1;
        Token {
            owner: self.owner,
            number: self.next,
        }
    }
}

/// One timer: idle, or waiting for its token.
#[derive(Clone, Debug, Default)]
struct Timer(Option<Token>);

impl Timer {
    const fn idle() -> Self {
        Self(None)
    }

    fn set(&mut self, timers: &mut Timers, after: Duration, actions: &mut Vec<Action>) {
        self.cancel(actions);
        let token = timers.fresh();
        self.0 = Some(token);
        actions.push(Action::SetTimer { after, token });
    }

    fn cancel(&mut self, actions: &mut Vec<Action>) {
        if let Some(token) = self.0.take() {
            actions.push(Action::CancelTimer { token });
        }
    }

    /// Returns whether the token is the one waited for; the timer is idle afterwards.
    fn fired(&mut self, token: Token) -> bool {
        let fired = self.0 == Some(token);
        if fired {
            self.0 = None;
        }
        fired
    }
}

/// How an attempt ended, under the names of the JSON interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeResult {
    /// The answer came.
    Connected,
    /// RST, ABORT or port unreachable.
    Refused,
    /// Another ICMP error or a local one.
    Unreachable,
    /// Nothing came back in time.
    Timeout,
    /// An established connection ended before the answer.
    Reset,
    /// The name did not resolve.
    DnsFailure,
}

impl ProbeResult {
    /// Returns the result an application error stands for.
    pub const fn of(errno: Errno) -> Self {
        match errno {
            Errno::ECONNREFUSED => Self::Refused,
            Errno::ETIMEDOUT => Self::Timeout,
            Errno::ECONNRESET | Errno::EPIPE => Self::Reset,
            Errno::EPERM
            | Errno::EAGAIN
            | Errno::EACCES
            | Errno::EINVAL
            | Errno::ENOPROTOOPT
            | Errno::EOPNOTSUPP
            | Errno::EADDRINUSE
            | Errno::EADDRNOTAVAIL
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::EMSGSIZE
            | Errno::ENONET
            | Errno::ENOBUFS => Self::Unreachable,
        }
    }

    /// Returns the name in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::DnsFailure => "dns_failure",
        }
    }
}

impl std::fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What one attempt came to, as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeOutcome {
    /// How it ended.
    pub result: ProbeResult,
    /// The error the application got. None where the application itself stopped waiting.
    pub errno: Option<Errno>,
    /// The code the client knows by itself. None where only the packet's last step can tell (who refused).
    pub code: Option<Code>,
    /// Who answered.
    pub server: Option<Arc<str>>,
    /// Address and port the server answered from, before any translation.
    pub backend: Option<End>,
    /// Source the server saw.
    pub seen_source: Option<End>,
    /// What a web server answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Arc<HttpAnswer>>,
    /// Time since the start.
    pub after: Duration,
}

impl ProbeOutcome {
    /// Returns the outcome of an error the kernel reported.
    pub fn error(errno: Errno, after: Duration) -> Self {
        let result = ProbeResult::of(errno);
        let code = match result {
            _ if errno == Errno::EADDRINUSE => Some(Code::SourcePortTaken),
            ProbeResult::Timeout => Some(Code::NoAnswer),
            ProbeResult::Reset => Some(Code::ConnectionReset),
            ProbeResult::Connected
            | ProbeResult::Refused
            | ProbeResult::Unreachable
            | ProbeResult::DnsFailure => None,
        };
        Self::bare(result, Some(errno), code, after)
    }

    /// Returns the outcome of an application that stopped waiting.
    pub fn timeout(after: Duration) -> Self {
        Self::bare(ProbeResult::Timeout, None, Some(Code::NoAnswer), after)
    }

    /// Returns the outcome of a failed lookup.
    pub fn dns_failure(code: Code, after: Duration) -> Self {
        Self::bare(ProbeResult::DnsFailure, None, Some(code), after)
    }

    /// Returns the outcome of an attempt that was answered.
    pub fn answered(message: &Message, after: Duration) -> Self {
        let ok = Self::bare(ProbeResult::Connected, None, Some(Code::Ok), after);
        match message {
            Message::Response { server, seen, at } => Self {
                server: Some(Arc::clone(server)),
                backend: Some(*at),
                seen_source: Some(*seen),
                ..ok
            },
            Message::Http { answer, seen, at } => Self {
                http: Some(Arc::clone(answer)),
                backend: Some(*at),
                seen_source: Some(*seen),
                ..ok
            },
            Message::Opaque | Message::Request(_) | Message::Dns(_) => ok,
        }
    }

    const fn bare(
        result: ProbeResult,
        errno: Option<Errno>,
        code: Option<Code>,
        after: Duration,
    ) -> Self {
        Self {
            result,
            errno,
            code,
            server: None,
            backend: None,
            seen_source: None,
            http: None,
            after,
        }
    }
}

/// What a machine found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An attempt over TCP, UDP, SCTP or a name and one of them.
    Probe(ProbeOutcome),
    /// A name.
    Lookup(lookup::LookupOutcome),
    /// Echo requests.
    Ping(icmp::PingOutcome),
    /// The way to a host.
    Traceroute(Vec<icmp::Hop>),
    /// A question about a name.
    Dig(dig::DigOutcome),
}

/// Returns a packet from a socket of this host that was given no TTL: the kernel sets its default.
fn packet(
    flow: FlowKey,
    (src, dst): (IpAddr, IpAddr),
    transport: Transport,
    payload: Payload,
) -> Packet {
    Packet {
        id: PacketId(0),
        flow,
        src,
        dst,
        ttl: 0,
        tos: 0,
        df: true,
        fragment: None,
        transport,
        payload,
    }
}

/// Returns application bytes; none if the length is zero.
fn data(len: u32, message: Message) -> Payload {
    if len == 0 {
        Payload::Empty
    } else {
        Payload::Data(Data { len, message })
    }
}
