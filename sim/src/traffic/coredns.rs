//! The name server: answers queries from a [`Zone`], one after the other.
//!
//! What it can take is in its settings: the time for one answer, and how many questions fit into its memory. If it
//! forwards to itself, it finds out as the plugin `loop` does: a question of its own comes back.
//!
//! # Fidelity
//! One answer per query over UDP; nothing is truncated. There is no cache, and forwarding takes no time: names outside
//! are part of the zone. What the zone holds when the answer leaves is what is told. `CoreDNS` works on many questions
//! at once, up to the processors it gets; here one at a time, so that the rate is what the time for one says.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::Dice;
use podwire_models::wire::{Dns, DnsResponse, FlowKey, L4, Message, Packet, RecordType, Transport};

use super::udp::datagram;
use super::{Action, AppEvent, Ctx, End, Timer, Timers, data};

/// What a name server knows.
pub trait Zone {
    /// Answers a question. The name is in lower case and ends in a dot.
    fn answer(&self, name: &str, record_type: RecordType) -> DnsResponse;
}

impl<F: Fn(&str, RecordType) -> DnsResponse> Zone for F {
    fn answer(&self, name: &str, record_type: RecordType) -> DnsResponse {
        self(name, record_type)
    }
}

/// Why a name server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// More questions wait than its memory holds.
    OutOfMemory,
    /// It forwards to itself (plugin `loop`).
    Loop,
}

/// What a name server can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerSettings {
    /// How long it works on one question.
    pub service_time: Duration,
    /// It ends when more questions than that wait.
    pub memory: Option<u32>,
    /// Its upstream, if that is an address of its own loopback device.
    pub itself: Option<IpAddr>,
}

#[derive(Clone, Debug)]
struct Waiting {
    flow: FlowKey,
    query: Arc<Dns>,
    at: End,
    seen: End,
}

/// A DNS server.
#[derive(Clone, Debug)]
pub struct NameServer {
    settings: ServerSettings,
    timers: Timers,
    busy: Timer,
    waiting: VecDeque<Waiting>,
    crash: Option<Crash>,
    /// The socket to its upstream.
    forwarder: Option<End>,
    /// Its own question, and how often it has seen it.
    own: Option<(u16, u32)>,
}

/// What the plugin `loop` asks for; a random name in reality.
const LOOP: &str = "loop.probe.";

/// How often it may see its own question (`plugin/loop/loop.go`).
const SEEN_MOST: u32 = 2;

impl NameServer {
    /// Returns a server.
    pub const fn new(settings: ServerSettings) -> Self {
        Self {
            settings,
            timers: Timers::of(0),
            busy: Timer::idle(),
            waiting: VecDeque::new(),
            crash: None,
            forwarder: None,
            own: None,
        }
    }

    /// Returns why it has ended, if it has.
    pub const fn crash(&self) -> Option<Crash> {
        self.crash
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, zone: &impl Zone, cx: &mut Ctx<'_, D>) {
        if self.crash.is_some() {
            return;
        }
        match event {
            AppEvent::Start => self.look_for_a_loop(cx),
            AppEvent::Opened { local, .. } => self.opened(local, cx),
            AppEvent::Packet(packet) => self.packet(&packet, zone, cx),
            AppEvent::Timer(token) => {
                if self.busy.fired(token) {
                    if let Some(waiting) = self.waiting.pop_front() {
                        answer(&waiting, zone, cx);
                    }
                    self.next(cx);
                }
            }
            AppEvent::OpenFailed { .. } | AppEvent::Error { .. } | AppEvent::SendFailed { .. } => {}
        }
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, zone: &impl Zone, cx: &mut Ctx<'_, D>) {
        let (Transport::Udp(udp), Some(Message::Dns(query))) = (packet.transport, packet.message())
        else {
            return;
        };
        if query.response.is_some() || self.is_own(query, cx) {
            return;
        }
        let waiting = Waiting {
            flow: packet.flow,
            query: Arc::clone(query),
            at: (packet.dst, udp.dport),
            seen: (packet.src, udp.sport),
        };
        if self.settings.service_time.is_zero() {
            return answer(&waiting, zone, cx);
        }
        self.waiting.push_back(waiting);
        let most = self.settings.memory.map(|most| most as usize);
        if most.is_some_and(|most| self.waiting.len() > most) {
            self.ends(Crash::OutOfMemory, cx);
        } else if self.waiting.len() == 1 {
            self.next(cx);
        }
    }

    /// Begins with the question that has waited longest.
    fn next<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if !self.waiting.is_empty() {
            let after = self.settings.service_time;
            self.busy.set(&mut self.timers, after, cx.actions);
        }
    }

    fn ends<D: Dice>(&mut self, crash: Crash, cx: &mut Ctx<'_, D>) {
        self.busy.cancel(cx.actions);
        self.waiting.clear();
        self.crash = Some(crash);
    }

    // ---- the plugin `loop` ----

    fn look_for_a_loop<D: Dice>(&self, cx: &mut Ctx<'_, D>) {
        if let Some(upstream) = self.settings.itself {
            cx.act(Action::Open {
                l4: L4::Udp,
                remote: (upstream, 53),
                connected: false,
                port: None,
            });
        }
    }

    fn opened<D: Dice>(&mut self, local: End, cx: &mut Ctx<'_, D>) {
        let id = u16::try_from(cx.identifier(cx.flow, 16)).unwrap_or_default();
        self.forwarder = Some(local);
        self.own = Some((id, 0));
        self.forward(cx);
    }

    /// Sends its own question to its upstream.
    fn forward<D: Dice>(&self, cx: &mut Ctx<'_, D>) {
        let (Some(local), Some(upstream), Some((id, _))) =
            (self.forwarder, self.settings.itself, self.own)
        else {
            return;
        };
        let dns = Dns {
            id,
            name: LOOP.into(),
            record_type: RecordType::Txt,
            response: None,
        };
        let payload = data(dns.len(), Message::Dns(Arc::new(dns)));
        cx.send(datagram(cx.flow, (local, (upstream, 53)), 1500, payload));
    }

    /// Whether a question is its own one; it is forwarded like any other, until it has come back too often.
    fn is_own<D: Dice>(&mut self, query: &Dns, cx: &mut Ctx<'_, D>) -> bool {
        let Some((id, seen)) = &mut self.own else {
            return false;
        };
        if *id != query.id || &*query.name != LOOP {
            return false;
        }
        *seen += 1;
        if *seen > SEEN_MOST {
            self.ends(Crash::Loop, cx);
        } else {
            self.forward(cx);
        }
        true
    }
}

fn answer<D: Dice>(waiting: &Waiting, zone: &impl Zone, cx: &mut Ctx<'_, D>) {
    let Waiting {
        flow,
        query,
        at,
        seen,
    } = waiting;
    let dns = Dns {
        response: Some(zone.answer(&query.name, query.record_type)),
        ..Dns::clone(query)
    };
    let payload = data(dns.len(), Message::Dns(Arc::new(dns)));
    // CoreDNS answers with Go's net package: no path MTU discovery for answers of its size.
    cx.send(datagram(*flow, (*at, *seen), 1500, payload));
}
