//! The name server: answers queries from a [`Zone`] after a service time.
//!
//! # Fidelity
//! One answer per query over UDP; nothing is truncated, and there is no cache and no forwarding. What the zone
//! holds when the answer leaves is what is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::Dice;
use podwire_models::wire::{Dns, DnsResponse, FlowKey, Message, Packet, RecordType, Transport};

use super::udp::datagram;
use super::{Action, AppEvent, Ctx, End, Timers, Token, data};

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
    service_time: Duration,
    timers: Timers,
    waiting: BTreeMap<Token, Waiting>,
}

impl NameServer {
    /// Returns a server that takes `service_time` for each answer.
    pub const fn new(service_time: Duration) -> Self {
        Self {
            service_time,
            timers: Timers::of(0),
            waiting: BTreeMap::new(),
        }
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, zone: &impl Zone, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Packet(packet) => self.packet(&packet, zone, cx),
            AppEvent::Timer(token) => {
                if let Some(waiting) = self.waiting.remove(&token) {
                    answer(&waiting, zone, cx);
                }
            }
            AppEvent::Start
            | AppEvent::Opened { .. }
            | AppEvent::OpenFailed { .. }
            | AppEvent::Error { .. }
            | AppEvent::SendFailed { .. } => {}
        }
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, zone: &impl Zone, cx: &mut Ctx<'_, D>) {
        let (Transport::Udp(udp), Some(Message::Dns(query))) = (packet.transport, packet.message())
        else {
            return;
        };
        if query.response.is_some() {
            return;
        }
        let waiting = Waiting {
            flow: packet.flow,
            query: Arc::clone(query),
            at: (packet.dst, udp.dport),
            seen: (packet.src, udp.sport),
        };
        if self.service_time.is_zero() {
            answer(&waiting, zone, cx);
        } else {
            let (after, token) = (self.service_time, self.timers.fresh());
            self.waiting.insert(token, waiting);
            cx.act(Action::SetTimer { after, token });
        }
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
