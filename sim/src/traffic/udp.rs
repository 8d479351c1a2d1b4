//! UDP clients and servers: a request, an answer, a time limit.
//!
//! # Fidelity
//! The client's socket is connected, so it hears of ICMP errors. Errors that `icmp_err_convert` does not call
//! fatal are not delivered. Path MTU discovery is Linux's default (`IP_PMTUDISC_WANT`): DF is set while the packet
//! fits the known path, and larger ones go out as fragments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Time};
use podwire_models::wire::{FlowKey, L4, Message, Packet, Payload, Transport, Udp};

use super::{
    Action, AppEvent, Ctx, End, Outcome, ProbeOutcome, Timer, Timers, Token, data, packet,
};

/// Returns a datagram; DF is set if it fits the path.
pub(super) fn datagram(
    flow: FlowKey,
    (local, remote): (End, End),
    mtu: u32,
    payload: Payload,
) -> Packet {
    let udp = Udp {
        sport: local.1,
        dport: remote.1,
    };
    let mut packet = packet(flow, (local.0, remote.0), Transport::Udp(udp), payload);
    packet.df = packet.len() <= mtu;
    packet
}

/// What a client sends, and how long it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Wait for an answer to each attempt.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// What it asks.
    pub request: Arc<str>,
    /// Bytes of the request.
    pub request_len: u32,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            retries: 0,
            request: "ping".into(),
            request_len: 64,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Opening,
    Waiting { local: End, mtu: u32 },
    Finished,
}

/// One request over UDP.
#[derive(Clone, Debug)]
pub struct UdpClient {
    settings: ClientSettings,
    remote: End,
    state: State,
    started: Time,
    attempts: u32,
    timers: Timers,
    timeout: Timer,
}

impl UdpClient {
    /// Returns a client that will ask `remote` when it is started.
    pub const fn new(remote: End, settings: ClientSettings) -> Self {
        Self::with_owner(remote, settings, 0)
    }

    pub(super) const fn with_owner(remote: End, settings: ClientSettings, owner: u32) -> Self {
        Self {
            settings,
            remote,
            state: State::Idle,
            started: Time::ZERO,
            attempts: 0,
            timers: Timers::of(owner),
            timeout: Timer(None),
        }
    }

    /// Returns whether nothing more will happen.
    pub const fn finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        let after = cx.now.since(self.started);
        match event {
            AppEvent::Start => self.start(cx),
            AppEvent::Opened { local, mtu, .. } => {
                self.state = State::Waiting { local, mtu };
                self.send(cx);
            }
            AppEvent::OpenFailed { errno } | AppEvent::SendFailed { errno, .. } => {
                self.finish(ProbeOutcome::error(errno, after), cx);
            }
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Error {
                errno, fatal, mtu, ..
            } => self.error(errno, fatal, mtu, cx),
            AppEvent::Timer(token) if self.timeout.fired(token) => {
                if !self.retry(cx) {
                    self.finish(ProbeOutcome::timeout(after), cx);
                }
            }
            AppEvent::Timer(_) => {}
        }
    }

    fn start<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.started = cx.now;
        self.state = State::Opening;
        cx.act(Action::Open {
            l4: L4::Udp,
            remote: self.remote,
            connected: true,
            port: None,
        });
    }

    fn send<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let State::Waiting { local, mtu } = self.state else {
            return;
        };
        let message = Message::Request(Arc::clone(&self.settings.request));
        let payload = data(self.settings.request_len, message);
        let ends = (local, self.remote);
        self.attempts += 1;
        self.timeout
            .set(&mut self.timers, self.settings.timeout, cx.actions);
        cx.send(datagram(cx.flow, ends, mtu, payload));
    }

    fn retry<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) -> bool {
        let again = self.attempts <= self.settings.retries;
        if again {
            self.send(cx);
        }
        again
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        if let (State::Waiting { .. }, Some(message)) = (self.state, packet.message()) {
            let after = cx.now.since(self.started);
            self.finish(ProbeOutcome::answered(message, after), cx);
        }
    }

    fn error<D: Dice>(&mut self, errno: Errno, fatal: bool, mtu: Option<u32>, cx: &mut Ctx<'_, D>) {
        let State::Waiting { local, .. } = self.state else {
            return;
        };
        if let Some(mtu) = mtu {
            self.state = State::Waiting { local, mtu };
        }
        // EMSGSIZE is reported whenever path MTU discovery is on (`__udp4_lib_err`).
        let reported = fatal || errno == Errno::EMSGSIZE;
        if reported && !self.retry(cx) {
            let after = cx.now.since(self.started);
            self.finish(ProbeOutcome::error(errno, after), cx);
        }
    }

    fn finish<D: Dice>(&mut self, outcome: ProbeOutcome, cx: &mut Ctx<'_, D>) {
        let state = std::mem::replace(&mut self.state, State::Finished);
        if matches!(state, State::Finished) {
            return;
        }
        self.timeout.cancel(cx.actions);
        cx.done(Outcome::Probe(outcome));
        if let State::Waiting { local, .. } = state {
            cx.act(Action::Close {
                l4: L4::Udp,
                local,
                remote: self.remote,
            });
        }
    }
}

/// How a server behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
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
    pub const fn new(name: Arc<str>) -> Self {
        Self {
            name,
            service_time: Duration::ZERO,
            response_len: 64,
            mtu: 1500,
        }
    }
}

/// A UDP server: answers every request, from the address it was sent to.
///
/// # Fidelity
/// A socket bound to all addresses answers from the address the route chooses unless the program uses
/// `IP_PKTINFO`; this one does.
#[derive(Clone, Debug)]
pub struct UdpServer {
    settings: ServerSettings,
    timers: Timers,
    waiting: BTreeMap<Token, (FlowKey, End, End)>,
}

impl UdpServer {
    /// Returns a server.
    pub const fn new(settings: ServerSettings) -> Self {
        Self {
            settings,
            timers: Timers::of(0),
            waiting: BTreeMap::new(),
        }
    }

    /// Returns how it behaves, to change that while it runs.
    pub const fn settings_mut(&mut self) -> &mut ServerSettings {
        &mut self.settings
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Timer(token) => {
                if let Some((flow, at, seen)) = self.waiting.remove(&token) {
                    self.answer(flow, at, seen, cx);
                }
            }
            AppEvent::Error { mtu, .. } => {
                let mtu = mtu.unwrap_or(self.settings.mtu);
                self.settings.mtu = mtu.min(self.settings.mtu);
            }
            AppEvent::Start
            | AppEvent::Opened { .. }
            | AppEvent::OpenFailed { .. }
            | AppEvent::SendFailed { .. } => {}
        }
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let Transport::Udp(udp) = packet.transport else {
            return;
        };
        let (at, seen) = ((packet.dst, udp.dport), (packet.src, udp.sport));
        let after = self.settings.service_time;
        if after.is_zero() {
            self.answer(packet.flow, at, seen, cx);
        } else {
            let token = self.timers.fresh();
            self.waiting.insert(token, (packet.flow, at, seen));
            cx.act(Action::SetTimer { after, token });
        }
    }

    fn answer<D: Dice>(&self, flow: FlowKey, at: End, seen: End, cx: &mut Ctx<'_, D>) {
        let server = Arc::clone(&self.settings.name);
        let message = Message::Response { server, seen, at };
        let payload = data(self.settings.response_len.max(1), message);
        cx.send(datagram(flow, (at, seen), self.settings.mtu, payload));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use podwire_models::base::NoChance;

    use super::*;
    use crate::traffic::ProbeResult;
    use crate::traffic::pipe::{Fate, Machine, Pipe, Side, Silence, remote};

    impl Machine for UdpClient {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            self.handle(event, cx);
        }
    }

    impl Machine for UdpServer {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            self.handle(event, cx);
        }
    }

    fn client(retries: u32, request_len: u32) -> UdpClient {
        let settings = ClientSettings {
            retries,
            request_len,
            ..ClientSettings::default()
        };
        UdpClient::new(remote(), settings)
    }

    #[test]
    fn asks_again_after_the_time_limit() {
        let server = UdpServer::new(ServerSettings::new("dns-0".into()));
        let lose = |n, _, _: &Packet| if n == 0 { Fate::Lose } else { Fate::Pass };
        let pipe = Pipe::new(client(1, 64), server, lose).run();
        assert_eq!(pipe.millis(Side::Left, |_| true), [0, 5000]);
        assert_eq!(pipe.probe().server.as_deref(), Some("dns-0"));
        let pipe = Pipe::new(client(0, 64), Silence, |_, _, _: &Packet| Fate::Pass).run();
        assert_eq!(
            (pipe.probe().result, pipe.done_millis()),
            (ProbeResult::Timeout, 5000)
        );
        assert_eq!(pipe.closed, 1);
    }

    #[test]
    fn only_fatal_errors_are_reported() {
        let refuse = |_, _, _: &Packet| Fate::Fail {
            errno: Errno::ECONNREFUSED,
            mtu: None,
        };
        let pipe = Pipe::new(client(0, 64), Silence, refuse).run();
        assert_eq!(
            (pipe.probe().result, pipe.done_millis()),
            (ProbeResult::Refused, 0)
        );
        let soft = |_, _, _: &Packet| Fate::Fail {
            errno: Errno::EHOSTUNREACH,
            mtu: None,
        };
        let pipe = Pipe::new(client(0, 64), Silence, soft).run();
        assert_eq!(
            (pipe.probe().result, pipe.done_millis()),
            (ProbeResult::Timeout, 5000)
        );
    }

    #[test]
    fn a_smaller_path_clears_dont_fragment() {
        let server = UdpServer::new(ServerSettings::new("a".into()));
        let narrow = |_, _, p: &Packet| {
            if p.df && p.len() > 1450 {
                let (errno, mtu) = (Errno::EMSGSIZE, Some(1450));
                Fate::Fail { errno, mtu }
            } else {
                Fate::Pass
            }
        };
        let pipe = Pipe::new(client(1, 1472), server, narrow).run();
        assert_eq!(pipe.probe().result, ProbeResult::Connected);
        let df: Vec<_> = pipe.sent.iter().map(|(_, _, p)| p.df).collect();
        assert_eq!(df, [true, false, true]);
    }
}
