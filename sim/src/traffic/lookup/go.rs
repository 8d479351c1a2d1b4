//! Go's own resolver (`net/dnsclient_unix.go`, `goLookupIPCNAMEOrder` and `tryOneName`): each question has a socket of its
//! own for each try, and what one comes to does not concern the other. Only when both have ended, the next candidate is
//! looked at.
//!
//! | | |
//! |---|---|
//! | silence, refusal, SERVFAIL | next server, then the next attempt; then the next candidate |
//! | NXDOMAIN, NODATA | next candidate |
//!
//! # Fidelity
//! UDP only; `rotate` is left out, and so are the checks of the environment that choose between this and the C library.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use podwire_models::base::{Dice, Family, Time};
use podwire_models::control::dns::options::Pair;
use podwire_models::wire::{Dns, DnsResponse, L4, Message, Packet, RecordType, ResponseCode};

use super::{LookupOutcome, LookupSettings, Miss, addresses_of, canonical, sort_addresses};
use crate::traffic::udp::datagram;
use crate::traffic::{Action, AppEvent, Ctx, End, Outcome, Timer, Timers, Token, data};

/// One question, through all its tries.
#[derive(Clone, Debug)]
struct Question {
    record_type: RecordType,
    id: u16,
    local: Option<End>,
    server: usize,
    attempt: u32,
    timer: Timer,
    found: Option<Result<Vec<IpAddr>, Miss>>,
}

/// One lookup of addresses by name.
#[derive(Clone, Debug)]
pub struct GoLookup {
    settings: LookupSettings,
    candidates: Vec<Arc<str>>,
    as_given: usize,
    candidate: usize,
    questions: Vec<Question>,
    /// Questions whose sockets are being made, in order.
    opening: VecDeque<usize>,
    last: Option<Miss>,
    sent: u32,
    started: Time,
    finished: bool,
    timers: Timers,
    deadline: Timer,
}

impl GoLookup {
    pub(in crate::traffic) fn with_owner(
        candidates: &[Arc<str>],
        settings: LookupSettings,
        owner: u32,
    ) -> Self {
        let candidates: Vec<_> = candidates.iter().map(|name| canonical(name)).collect();
        let lengths = candidates.iter().map(|name| name.len()).enumerate();
        let as_given = lengths.min_by_key(|(_, len)| *len).map_or(0, |(n, _)| n);
        Self {
            settings,
            candidates,
            as_given,
            candidate: 0,
            questions: Vec::new(),
            opening: VecDeque::new(),
            last: None,
            sent: 0,
            started: Time::ZERO,
            finished: false,
            timers: Timers::of(owner),
            deadline: Timer::default(),
        }
    }

    /// Returns whether nothing more will happen.
    pub const fn finished(&self) -> bool {
        self.finished
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        if self.finished {
            return;
        }
        match event {
            AppEvent::Start => {
                self.started = cx.now;
                if let Some(limit) = self.settings.deadline {
                    self.deadline.set(&mut self.timers, limit, cx.actions);
                }
                self.ask_candidate(cx);
            }
            AppEvent::Opened { local, .. } => {
                if let Some(n) = self.opening.pop_front() {
                    self.ask(n, local, cx);
                }
            }
            AppEvent::OpenFailed { .. } => {
                if let Some(n) = self.opening.pop_front() {
                    self.next_try(n, Miss::Unreachable, cx);
                }
            }
            AppEvent::Error {
                local, fatal: true, ..
            } => {
                let mut questions = self.questions.iter();
                if let Some(n) = questions.position(|q| q.local == Some(local)) {
                    self.next_try(n, Miss::Unreachable, cx);
                }
            }
            AppEvent::Error { .. } => {}
            AppEvent::SendFailed { .. } => {
                let mut questions = self.questions.iter();
                let open = |q: &Question| q.found.is_none() && q.local.is_some();
                if let Some(n) = questions.rposition(open) {
                    self.next_try(n, Miss::Unreachable, cx);
                }
            }
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Timer(token) => self.timer(token, cx),
        }
    }

    fn ask_candidate<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if self.candidates.is_empty() || self.settings.nameservers.is_empty() {
            return self.finish(Err(Miss::Unreachable), cx);
        }
        let wanted = |family: &&Family| self.settings.family.is_none_or(|only| only == **family);
        let families: Vec<Family> = Family::ALL.iter().filter(wanted).copied().collect();
        self.questions.clear();
        for family in families {
            let id = u16::try_from(cx.identifier(cx.flow, 16)).unwrap_or_default();
            self.questions.push(Question {
                record_type: RecordType::of_addresses(family),
                id,
                local: None,
                server: 0,
                attempt: 0,
                timer: Timer::default(),
                found: None,
            });
        }
        let at_once = match self.settings.pair {
            Pair::Together => self.questions.len(),
            Pair::InTurn | Pair::Reopened => 1,
        };
        for n in 0..at_once {
            self.open(n, cx);
        }
    }

    fn server_of(&self, n: usize) -> Option<End> {
        let server = self.questions.get(n)?.server;
        self.settings.nameservers.get(server).copied()
    }

    fn open<D: Dice>(&mut self, n: usize, cx: &mut Ctx<'_, D>) {
        if let Some(remote) = self.server_of(n) {
            self.opening.push_back(n);
            cx.act(Action::Open {
                l4: L4::Udp,
                remote,
                connected: true,
                port: None,
            });
        }
    }

    fn ask<D: Dice>(&mut self, n: usize, local: End, cx: &mut Ctx<'_, D>) {
        let (Some(server), Some(name)) = (self.server_of(n), self.candidates.get(self.candidate))
        else {
            return;
        };
        let Some(question) = self.questions.get_mut(n) else {
            return;
        };
        question.local = Some(local);
        let after = self.settings.timeout;
        question.timer.set(&mut self.timers, after, cx.actions);
        let dns = Dns {
            id: question.id,
            name: Arc::clone(name),
            record_type: question.record_type,
            response: None,
        };
        let payload = data(dns.len(), Message::Dns(Arc::new(dns)));
        self.sent += 1;
        cx.send(datagram(cx.flow, (local, server), 1500, payload));
    }

    /// Closes the socket of a question; its timer stops.
    fn close<D: Dice>(&mut self, n: usize, cx: &mut Ctx<'_, D>) {
        let remote = self.server_of(n);
        let Some(question) = self.questions.get_mut(n) else {
            return;
        };
        question.timer.cancel(cx.actions);
        if let (Some(local), Some(remote)) = (question.local.take(), remote) {
            cx.act(Action::Close {
                l4: L4::Udp,
                local,
                remote,
            });
        }
    }

    fn next_try<D: Dice>(&mut self, n: usize, miss: Miss, cx: &mut Ctx<'_, D>) {
        self.close(n, cx);
        let servers = self.settings.nameservers.len();
        let Some(question) = self.questions.get_mut(n) else {
            return;
        };
        question.server += 1;
        if question.server >= servers {
            question.server = 0;
            question.attempt += 1;
        }
        if question.attempt >= self.settings.attempts {
            return self.ended(n, Err(miss), cx);
        }
        self.open(n, cx);
    }

    fn ended<D: Dice>(&mut self, n: usize, found: Result<Vec<IpAddr>, Miss>, cx: &mut Ctx<'_, D>) {
        self.close(n, cx);
        if let Some(question) = self.questions.get_mut(n) {
            question.found = Some(found);
        }
        let waiting = self.questions.iter().position(|q| q.found.is_none());
        match (waiting, self.settings.pair) {
            (None, _) => self.judge(cx),
            (Some(next), Pair::InTurn | Pair::Reopened) => self.open(next, cx),
            (Some(_), Pair::Together) => {}
        }
    }

    fn judge<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let mut addresses = Vec::new();
        for question in &self.questions {
            match &question.found {
                Some(Ok(found)) => addresses.extend(found),
                // The error of the name as given counts only if there is no other.
                Some(Err(miss)) if self.last.is_none() || self.candidate != self.as_given => {
                    self.last = Some(*miss);
                }
                Some(Err(_)) | None => {}
            }
        }
        if !addresses.is_empty() {
            sort_addresses(&mut addresses);
            return self.finish(Ok(addresses), cx);
        }
        self.candidate += 1;
        if self.candidate < self.candidates.len() {
            return self.ask_candidate(cx);
        }
        let miss = self.last.unwrap_or(Miss::NxDomain);
        self.finish(Err(miss), cx);
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let Some(Message::Dns(dns)) = packet.message() else {
            return;
        };
        let Some(response) = &dns.response else {
            return;
        };
        let name = self.candidates.get(self.candidate);
        let same = |q: &Question| {
            let to = (packet.dst, packet.ports().map_or(0, |(_, to)| to));
            q.local == Some(to)
                && q.id == dns.id
                && q.record_type == dns.record_type
                && name == Some(&dns.name)
        };
        if let Some(n) = self.questions.iter().position(same) {
            self.answered(n, response, dns.record_type, cx);
        }
    }

    fn answered<D: Dice>(
        &mut self,
        n: usize,
        response: &DnsResponse,
        record_type: RecordType,
        cx: &mut Ctx<'_, D>,
    ) {
        match response.code {
            ResponseCode::NxDomain => self.ended(n, Err(Miss::NxDomain), cx),
            ResponseCode::ServFail => self.next_try(n, Miss::ServFail, cx),
            ResponseCode::Refused => self.next_try(n, Miss::Denied, cx),
            ResponseCode::NoError => {
                let found: Vec<IpAddr> = addresses_of(response, record_type).collect();
                let found = if found.is_empty() {
                    Err(Miss::NoData)
                } else {
                    Ok(found)
                };
                self.ended(n, found, cx);
            }
        }
    }

    fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) {
        if self.deadline.fired(token) {
            return self.finish(Err(Miss::Timeout), cx);
        }
        let mut questions = self.questions.iter_mut();
        if let Some(n) = questions.position(|question| question.timer.fired(token)) {
            self.next_try(n, Miss::Timeout, cx);
        }
    }

    fn finish<D: Dice>(&mut self, result: Result<Vec<IpAddr>, Miss>, cx: &mut Ctx<'_, D>) {
        for n in 0..self.questions.len() {
            self.close(n, cx);
        }
        self.deadline.cancel(cx.actions);
        self.finished = true;
        let name = self.candidates.get(self.candidate);
        let name = name.filter(|_| result.is_ok()).cloned();
        let flavour = self.settings.flavour;
        cx.done(Outcome::Lookup(LookupOutcome {
            name,
            addresses: result.map_err(|miss| miss.failure(flavour)),
            queries: self.sent,
            after: cx.now.since(self.started),
        }));
    }
}
