//! `ping` and `traceroute`: echo requests, and probes whose time to live runs out on purpose.
//!
//! Both see the ICMP packets that reach their host as [`AppEvent::Packet`] and pick their own, so every raw packet
//! may be handed to all of them.

use std::net::IpAddr;
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Time};
use podwire_models::wire::{Icmp, IcmpError, L4, Message, Packet, QuotedTransport, Transport};
use serde::Serialize;

use super::udp::datagram;
use super::{
    Action, AppEvent, Ctx, End, Outcome, ProbeOutcome, Timer, Timers, Token, data, packet,
};

/// How often and how long `ping` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingSettings {
    /// Requests (`-c`).
    pub count: u16,
    /// Time between requests (`-i`).
    pub interval: Duration,
    /// Wait for each answer (`-W`).
    pub timeout: Duration,
    /// Bytes after the ICMP header (`-s`). They are never cut (`-M do`).
    pub len: u32,
}

impl Default for PingSettings {
    fn default() -> Self {
        Self {
            count: 1,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            len: 56,
        }
    }
}

/// One line of `ping`'s output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EchoAnswer {
    /// Sequence number, from 1.
    pub seq: u16,
    /// Who answered.
    pub from: IpAddr,
    /// TTL the answer arrived with.
    pub ttl: u8,
    /// Round-trip time.
    pub rtt: Duration,
    /// The error, if it was one.
    pub error: Option<IcmpError>,
}

/// What `ping` came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PingOutcome {
    /// In the words of every probe: connected if one answer came.
    pub probe: ProbeOutcome,
    /// Requests sent.
    pub sent: u16,
    /// Answers and errors.
    pub answers: Vec<EchoAnswer>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Opening,
    Running { local: End },
    Finished,
}

/// `ping`: asks for echoes one after the other.
#[derive(Clone, Debug)]
pub struct Ping {
    settings: PingSettings,
    remote: IpAddr,
    state: State,
    started: Time,
    last_sent: Time,
    seq: u16,
    /// The request sent last is still unanswered.
    pending: bool,
    answers: Vec<EchoAnswer>,
    last_error: Option<Errno>,
    timers: Timers,
    timer: Timer,
}

impl Ping {
    /// Returns a ping of `remote`.
    pub const fn new(remote: IpAddr, settings: PingSettings) -> Self {
        Self::with_owner(remote, settings, 0)
    }

    pub(super) const fn with_owner(remote: IpAddr, settings: PingSettings, owner: u32) -> Self {
        Self {
            settings,
            remote,
            state: State::Idle,
            started: Time::ZERO,
            last_sent: Time::ZERO,
            seq: 0,
            pending: false,
            answers: Vec::new(),
            last_error: None,
            timers: Timers::of(owner),
            timer: Timer(None),
        }
    }

    /// Returns whether nothing more will happen.
    pub const fn finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Start => {
                self.started = cx.now;
                self.state = State::Opening;
                cx.act(Action::Open {
                    l4: L4::Icmp,
                    remote: (self.remote, 0),
                    connected: false,
                    port: None,
                });
            }
            AppEvent::Opened { local, .. } => {
                self.state = State::Running { local };
                self.send(cx);
            }
            AppEvent::OpenFailed { errno } => {
                self.last_error = Some(errno);
                self.finish(cx);
            }
            AppEvent::SendFailed { errno, .. } | AppEvent::Error { errno, .. } => {
                self.last_error = Some(errno);
                self.settled(cx);
            }
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Timer(token) => self.timer(token, cx),
        }
    }

    fn send<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let State::Running { local } = self.state else {
            return;
        };
        self.seq += 1;
        self.last_sent = cx.now;
        self.pending = true;
        self.timer
            .set(&mut self.timers, self.settings.timeout, cx.actions);
        let echo = Icmp::EchoRequest {
            id: local.1,
            seq: self.seq,
        };
        let payload = data(self.settings.len, Message::Opaque);
        let addresses = (local.0, self.remote);
        let echo = packet(cx.flow, addresses, Transport::Icmp(echo), payload);
        cx.act(Action::SendWhole(Box::new(echo)));
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let (State::Running { local }, Transport::Icmp(icmp)) = (self.state, packet.transport)
        else {
            return;
        };
        let error = match icmp {
            Icmp::EchoReply { id, seq } if id == local.1 && seq == self.seq => None,
            Icmp::Error { kind, about }
                if about.dst == self.remote
                    && about.transport
                        == (QuotedTransport::Echo {
                            request: true,
                            id: local.1,
                        }) =>
            {
                Some(kind)
            }
            Icmp::EchoReply { .. }
            | Icmp::Error { .. }
            | Icmp::EchoRequest { .. }
            | Icmp::NeighbourSolicitation { .. }
            | Icmp::NeighbourAdvertisement { .. } => return,
        };
        if !self.pending {
            return;
        }
        if let Some(kind) = error {
            self.last_error = Some(kind.errno(packet.family()).0);
        }
        self.answers.push(EchoAnswer {
            seq: self.seq,
            from: packet.src,
            ttl: packet.ttl,
            rtt: cx.now.since(self.last_sent),
            error,
        });
        self.settled(cx);
    }

    /// The last request is answered: wait for the next, or end.
    fn settled<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if !matches!(self.state, State::Running { .. }) || !self.pending {
            return;
        }
        self.pending = false;
        if self.seq >= self.settings.count {
            return self.finish(cx);
        }
        let passed = cx.now.since(self.last_sent);
        let rest = self.settings.interval.saturating_sub(passed);
        self.timer.set(&mut self.timers, rest, cx.actions);
    }

    fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) {
        if !self.timer.fired(token) {
        } else if self.seq >= self.settings.count {
            self.finish(cx);
        } else {
            self.send(cx);
        }
    }

    fn finish<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let state = std::mem::replace(&mut self.state, State::Finished);
        self.timer.cancel(cx.actions);
        let after = cx.now.since(self.started);
        let probe = if self.answers.iter().any(|answer| answer.error.is_none()) {
            ProbeOutcome::answered(&Message::Opaque, after)
        } else if let Some(errno) = self.last_error {
            ProbeOutcome::error(errno, after)
        } else {
            ProbeOutcome::timeout(after)
        };
        cx.done(Outcome::Ping(PingOutcome {
            probe,
            sent: self.seq,
            answers: std::mem::take(&mut self.answers),
        }));
        if let State::Running { local } = state {
            cx.act(Action::Close {
                l4: L4::Icmp,
                local,
                remote: (self.remote, 0),
            });
        }
    }
}

/// What `traceroute` sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceMethod {
    /// UDP to ports from 33434 upwards, where nobody listens.
    #[default]
    Udp,
    /// Echo requests (`-I`).
    Echo,
}

/// How far and how long `traceroute` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracerouteSettings {
    /// What it sends.
    pub method: TraceMethod,
    /// Largest time to live (`-m`).
    pub max_hops: u8,
    /// Wait for each answer (`-w`).
    pub timeout: Duration,
}

impl Default for TracerouteSettings {
    fn default() -> Self {
        Self {
            method: TraceMethod::Udp,
            max_hops: 30,
            timeout: Duration::from_secs(5),
        }
    }
}

/// What came back for one time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum HopAnswer {
    /// A router on the way.
    Router,
    /// The destination.
    Destination,
    /// Somebody who says the rest cannot be reached.
    Unreachable(IcmpError),
    /// Nothing (`*`).
    Silence,
}

/// One line of `traceroute`'s output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Time to live of the probe.
    pub ttl: u8,
    /// Who answered.
    pub from: Option<IpAddr>,
    /// What it was.
    pub answer: HopAnswer,
    /// Round-trip time, or the wait.
    pub rtt: Duration,
}

/// `traceroute`, one probe per hop, one hop at a time.
///
/// # Fidelity
/// The real one sends three probes per hop and sixteen at a time.
#[derive(Clone, Debug)]
pub struct Traceroute {
    settings: TracerouteSettings,
    remote: IpAddr,
    state: State,
    mtu: u32,
    ttl: u8,
    last_sent: Time,
    hops: Vec<Hop>,
    timers: Timers,
    timer: Timer,
}

impl Traceroute {
    /// Returns a traceroute to `remote`.
    pub const fn new(remote: IpAddr, settings: TracerouteSettings) -> Self {
        Self {
            settings,
            remote,
            state: State::Idle,
            mtu: 1500,
            ttl: 0,
            last_sent: Time::ZERO,
            hops: Vec::new(),
            timers: Timers::of(0),
            timer: Timer(None),
        }
    }

    /// Returns whether nothing more will happen.
    pub const fn finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Start => {
                self.state = State::Opening;
                cx.act(Action::Open {
                    l4: self.l4(),
                    remote: (self.remote, 0),
                    connected: false,
                    port: None,
                });
            }
            AppEvent::Opened { local, mtu, .. } => {
                self.state = State::Running { local };
                self.mtu = mtu;
                self.send(cx);
            }
            AppEvent::OpenFailed { .. } | AppEvent::SendFailed { .. } => self.finish(cx),
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Timer(token) => {
                if self.timer.fired(token) {
                    self.heard(None, HopAnswer::Silence, cx);
                }
            }
            AppEvent::Error { .. } => {}
        }
    }

    const fn l4(&self) -> L4 {
        match self.settings.method {
            TraceMethod::Udp => L4::Udp,
            TraceMethod::Echo => L4::Icmp,
        }
    }

    fn port(&self) -> u16 {
        33_433 + u16::from(self.ttl)
    }

    fn send<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let State::Running { local } = self.state else {
            return;
        };
        self.ttl += 1;
        self.last_sent = cx.now;
        let payload = data(32, Message::Opaque);
        let mut probe = match self.settings.method {
            TraceMethod::Udp => {
                let ends = (local, (self.remote, self.port()));
                datagram(cx.flow, ends, self.mtu, payload)
            }
            TraceMethod::Echo => {
                let echo = Icmp::EchoRequest {
                    id: local.1,
                    seq: u16::from(self.ttl),
                };
                packet(
                    cx.flow,
                    (local.0, self.remote),
                    Transport::Icmp(echo),
                    payload,
                )
            }
        };
        probe.ttl = self.ttl;
        self.timer
            .set(&mut self.timers, self.settings.timeout, cx.actions);
        cx.send(probe);
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let (State::Running { local }, Transport::Icmp(icmp)) = (self.state, packet.transport)
        else {
            return;
        };
        let ours = match self.settings.method {
            TraceMethod::Udp => QuotedTransport::Udp {
                sport: local.1,
                dport: self.port(),
            },
            TraceMethod::Echo => QuotedTransport::Echo {
                request: true,
                id: local.1,
            },
        };
        let answer = match icmp {
            Icmp::EchoReply { id, seq }
                if self.settings.method == TraceMethod::Echo
                    && (id, seq) == (local.1, u16::from(self.ttl)) =>
            {
                HopAnswer::Destination
            }
            Icmp::Error { kind, about } if about.transport == ours && about.dst == self.remote => {
                match kind {
                    IcmpError::TimeExceeded => HopAnswer::Router,
                    IcmpError::PortUnreachable if packet.src == self.remote => {
                        HopAnswer::Destination
                    }
                    IcmpError::PortUnreachable
                    | IcmpError::NetUnreachable
                    | IcmpError::HostUnreachable
                    | IcmpError::ProtoUnreachable
                    | IcmpError::FragmentationNeeded { .. }
                    | IcmpError::NetProhibited
                    | IcmpError::HostProhibited
                    | IcmpError::AdminProhibited
                    | IcmpError::PolicyFail
                    | IcmpError::RejectRoute => HopAnswer::Unreachable(kind),
                }
            }
            Icmp::EchoReply { .. }
            | Icmp::Error { .. }
            | Icmp::EchoRequest { .. }
            | Icmp::NeighbourSolicitation { .. }
            | Icmp::NeighbourAdvertisement { .. } => return,
        };
        self.heard(Some(packet.src), answer, cx);
    }

    fn heard<D: Dice>(&mut self, from: Option<IpAddr>, answer: HopAnswer, cx: &mut Ctx<'_, D>) {
        self.hops.push(Hop {
            ttl: self.ttl,
            from,
            answer,
            rtt: cx.now.since(self.last_sent),
        });
        match answer {
            HopAnswer::Router | HopAnswer::Silence if self.ttl < self.settings.max_hops => {
                self.send(cx);
            }
            HopAnswer::Router
            | HopAnswer::Silence
            | HopAnswer::Destination
            | HopAnswer::Unreachable(_) => self.finish(cx),
        }
    }

    fn finish<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let state = std::mem::replace(&mut self.state, State::Finished);
        self.timer.cancel(cx.actions);
        cx.done(Outcome::Traceroute(std::mem::take(&mut self.hops)));
        if let State::Running { local } = state {
            cx.act(Action::Close {
                l4: self.l4(),
                local,
                remote: (self.remote, 0),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use podwire_models::base::NoChance;
    use podwire_models::wire::{PacketId, Payload};

    use super::*;
    use crate::traffic::ProbeResult;
    use crate::traffic::pipe::{Fate, Machine, Pipe, Side, Silence, remote};

    impl Machine for Ping {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            self.handle(event, cx);
        }
    }

    impl Machine for Traceroute {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            self.handle(event, cx);
        }
    }

    /// A host behind two routers.
    struct Path;

    impl Machine for Path {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            let AppEvent::Packet(p) = event else { return };
            let about = p.quoted();
            let (src, icmp) = match (p.ttl, p.transport) {
                (1 | 2, _) => {
                    let kind = IcmpError::TimeExceeded;
                    let router = IpAddr::from([10, 0, 0, p.ttl]);
                    (router, Icmp::Error { kind, about })
                }
                (_, Transport::Icmp(Icmp::EchoRequest { id, seq })) => {
                    (p.dst, Icmp::EchoReply { id, seq })
                }
                _ => {
                    let kind = IcmpError::PortUnreachable;
                    (p.dst, Icmp::Error { kind, about })
                }
            };
            cx.send(Packet {
                id: PacketId(0),
                payload: Payload::Empty,
                ..packet(p.flow, (src, p.src), Transport::Icmp(icmp), Payload::Empty)
            });
        }
    }

    #[test]
    fn ping_counts_answers() {
        let settings = PingSettings {
            count: 3,
            ..PingSettings::default()
        };
        let lose = |n, _, _: &Packet| if n == 2 { Fate::Lose } else { Fate::Pass };
        let pipe = Pipe::new(Ping::new(remote().0, settings), Path, lose).run();
        assert_eq!(pipe.millis(Side::Left, |_| true), [0, 1000, 6000]);
        let Outcome::Ping(outcome) = pipe.outcome() else {
            panic!("a ping")
        };
        assert_eq!((outcome.sent, outcome.answers.len()), (3, 2));
        assert_eq!(outcome.probe.result, ProbeResult::Connected);
        let pipe = Pipe::new(
            Ping::new(remote().0, PingSettings::default()),
            Silence,
            |_, _, _: &Packet| Fate::Pass,
        )
        .run();
        assert_eq!(pipe.done_millis(), 5000);
    }

    #[test]
    fn traceroute_lists_the_routers() {
        for method in [TraceMethod::Udp, TraceMethod::Echo] {
            let settings = TracerouteSettings {
                method,
                ..TracerouteSettings::default()
            };
            let pipe = Pipe::new(
                Traceroute::new(remote().0, settings),
                Path,
                |_, _, _: &Packet| Fate::Pass,
            )
            .run();
            let Outcome::Traceroute(hops) = pipe.outcome() else {
                panic!("a traceroute")
            };
            let from: Vec<_> = hops
                .iter()
                .map(|hop| hop.from.unwrap().to_string())
                .collect();
            assert_eq!(from, ["10.0.0.1", "10.0.0.2", "10.244.2.3"]);
            assert_eq!(hops.last().unwrap().answer, HopAnswer::Destination);
        }
    }
}
