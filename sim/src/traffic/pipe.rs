//! For tests: two machines, a pipe between them, virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::match_wildcard_for_single_variants,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use podwire_models::base::{Errno, NoChance, Time};
use podwire_models::kernel::release::Release;
use podwire_models::kernel::sysctl::Sysctls;
use podwire_models::wire::{FlowKey, Packet, Transport};

use super::{Action, AppEvent, Ctx, End, Outcome, Token};

pub(super) trait Machine {
    fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>);
}

/// A peer that never answers.
pub(super) struct Silence;

impl Machine for Silence {
    fn on(&mut self, _: AppEvent, _: &mut Ctx<'_, NoChance>) {}
}

/// What the pipe does with a packet.
pub(super) enum Fate {
    Pass,
    Lose,
    /// An error comes back at once.
    Fail {
        errno: Errno,
        mtu: Option<u32>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Side {
    Left,
    Right,
}

enum Happening {
    Event(Side, AppEvent),
    Timer(Side, Token),
}

pub(super) struct Pipe<L, R, F> {
    pub(super) left: L,
    pub(super) right: R,
    fate: F,
    delay: Duration,
    now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    cancelled: BTreeSet<(Side, Token)>,
    seq: u64,
    ports: u16,
    release: Release,
    /// Every packet sent, lost or not.
    pub(super) sent: Vec<(Time, Side, Packet)>,
    pub(super) done: Vec<(Time, Outcome)>,
    pub(super) closed: usize,
    pub(super) dropped: usize,
}

pub(super) fn local() -> std::net::IpAddr {
    "10.244.1.2".parse().unwrap()
}

pub(super) fn remote() -> End {
    ("10.244.2.3".parse().unwrap(), 80)
}

impl<L: Machine, R: Machine, F: FnMut(usize, Side, &Packet) -> Fate> Pipe<L, R, F> {
    /// The left machine starts at zero; `fate` sees the running number of each packet.
    pub(super) fn new(left: L, right: R, fate: F) -> Self {
        let mut pipe = Self {
            left,
            right,
            fate,
            delay: Duration::from_micros(50),
            now: Time::ZERO,
            queue: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            seq: 0,
            ports: 40_000,
            release: Release::CURRENT,
            sent: Vec::new(),
            done: Vec::new(),
            closed: 0,
            dropped: 0,
        };
        pipe.schedule(
            Duration::ZERO,
            Happening::Event(Side::Left, AppEvent::Start),
        );
        pipe
    }

    /// Both machines run this kernel.
    pub(super) fn on(mut self, release: Release) -> Self {
        self.release = release;
        self
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.seq += 1;
        self.queue.insert((self.now + after, self.seq), happening);
    }

    pub(super) fn run(mut self) -> Self {
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            let (side, event) = match happening {
                Happening::Event(side, event) => (side, event),
                Happening::Timer(side, token) if self.cancelled.contains(&(side, token)) => {
                    continue;
                }
                Happening::Timer(side, token) => (side, AppEvent::Timer(token)),
            };
            self.now = at;
            assert!(at < Time::from_secs(4000), "it ends");
            let mut actions = Vec::new();
            let mut cx = Ctx {
                now: at,
                flow: FlowKey(7),
                dice: &mut NoChance,
                actions: &mut actions,
            };
            match side {
                Side::Left => self.left.on(event, &mut cx),
                Side::Right => self.right.on(event, &mut cx),
            }
            for action in actions {
                self.act(side, action);
            }
        }
        self
    }

    fn act(&mut self, side: Side, action: Action) {
        match action {
            Action::Open { .. } => {
                self.ports += 1;
                let opened = AppEvent::Opened {
                    local: (local(), self.ports),
                    mtu: 1500,
                    syn: Sysctls::default().syn_schedule(self.release),
                };
                self.schedule(Duration::ZERO, Happening::Event(side, opened));
            }
            Action::Send(packet) | Action::SendWhole(packet) => self.send(side, *packet),
            Action::SetTimer { after, token } => {
                self.schedule(after, Happening::Timer(side, token));
            }
            Action::CancelTimer { token } => {
                self.cancelled.insert((side, token));
            }
            Action::Done(outcome) => self.done.push((self.now, *outcome)),
            Action::Close { .. } => self.closed += 1,
            Action::Dropped { .. } => self.dropped += 1,
            Action::Accept { .. } => {}
        }
    }

    fn send(&mut self, side: Side, packet: Packet) {
        let number = self.sent.len();
        self.sent.push((self.now, side, packet.clone()));
        let other = match side {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        };
        match (self.fate)(number, side, &packet) {
            Fate::Pass => {
                let event = Happening::Event(other, AppEvent::Packet(packet.into()));
                self.schedule(self.delay, event);
            }
            Fate::Lose => {}
            Fate::Fail { errno, mtu } => {
                let (sport, dport) = packet.ports().unwrap_or_default();
                let error = AppEvent::Error {
                    local: (packet.src, sport),
                    remote: (packet.dst, dport),
                    errno,
                    fatal: errno == Errno::ECONNREFUSED,
                    mtu,
                };
                self.schedule(self.delay, Happening::Event(side, error));
            }
        }
    }

    /// Milliseconds at which one side sent packets that `which` picks.
    pub(super) fn millis(&self, side: Side, which: impl Fn(&Packet) -> bool) -> Vec<u64> {
        let sent = self.sent.iter().filter(|(_, s, p)| *s == side && which(p));
        sent.map(|(at, _, _)| at.0 / 1_000_000).collect()
    }

    /// The conversation, one line per TCP segment.
    pub(super) fn story(&self) -> String {
        let line = |(_, side, packet): &(Time, Side, Packet)| match packet.transport {
            Transport::Tcp(tcp) => {
                let arrow = if *side == Side::Left { '>' } else { '<' };
                format!(
                    "{arrow} {} {}:{} len {}",
                    tcp.flags,
                    tcp.seq,
                    tcp.ack,
                    packet.payload.len()
                )
            }
            Transport::Udp(_) | Transport::Sctp(_) | Transport::Icmp(_) => format!("{packet:?}"),
        };
        self.sent.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn outcome(&self) -> &Outcome {
        assert_eq!(self.done.len(), 1, "one result");
        &self.done.first().unwrap().1
    }

    pub(super) fn probe(&self) -> &super::ProbeOutcome {
        match self.outcome() {
            Outcome::Probe(probe) => probe,
            other => panic!("a probe: {other:?}"),
        }
    }

    pub(super) fn done_millis(&self) -> u64 {
        self.done.first().unwrap().0.0 / 1_000_000
    }
}
