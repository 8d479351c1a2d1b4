//! The stub resolver of a C library: sends A and AAAA, or only one of them, for one candidate name after the other.
//!
//! Which candidates, in which order, is decided elsewhere from `resolv.conf` (search list, ndots); here are the
//! sockets, the timers, and what ends a lookup. Source: `res_send.c` and `res_query.c` of glibc, `res_msend.c` and
//! `lookup_name.c` of musl, both measured against a scripted server.
//!
//! | | glibc | musl |
//! |---|---|---|
//! | silence | each server in turn, twice, 5 s each; then only the name as given | all servers at 0 and 2.5 s, end at 5 s |
//! | port unreachable | ends the lookup at once | not noticed |
//! | NXDOMAIN | next candidate | next candidate |
//! | NODATA | next candidate | ends the lookup |
//! | SERVFAIL | next server or attempt, then next candidate | asked again at once, end at 5 s |
//!
//! # Fidelity
//! UDP only: answers are never truncated. `rotate` and a local cache are left out. Go's resolver is [`go`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Family, Time};
use podwire_models::control::dns::flavour::Flavour;
use podwire_models::control::dns::options::Pair;
use podwire_models::wire::{
    Code, Dns, DnsRecord, DnsResponse, L4, Message, Packet, RecordData, RecordType, ResponseCode,
};
use serde::Serialize;

use super::udp::datagram;
use super::{Action, AppEvent, Ctx, End, Outcome, Timer, Timers, Token, data};

pub mod go;

/// The part of `resolv.conf` that is not about names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupSettings {
    /// Whose resolver.
    pub flavour: Flavour,
    /// Servers, at most three count.
    pub nameservers: Vec<End>,
    /// `timeout:`.
    pub timeout: Duration,
    /// `attempts:`.
    pub attempts: u32,
    /// How its two questions are sent.
    pub pair: Pair,
    /// The source port it is bound to; one of the kernel's choice for each socket if not given.
    pub port: Option<u16>,
    /// When the program gives up, whatever the resolver would still do.
    pub deadline: Option<Duration>,
    /// The only family asked for (`ai_family` of `getaddrinfo(3)`); both if not given.
    pub family: Option<Family>,
}

impl LookupSettings {
    /// Returns the defaults of both libraries: 5 s, 2 attempts, port 53.
    pub fn new(flavour: Flavour, nameservers: &[IpAddr]) -> Self {
        Self {
            flavour,
            nameservers: nameservers.iter().take(3).map(|ip| (*ip, 53)).collect(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            pair: Pair::Together,
            port: None,
            deadline: None,
            family: None,
        }
    }
}

/// Errors of `getaddrinfo(3)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[expect(missing_docs, reason = "named as in netdb.h, without EAI_")]
pub enum Eai {
    NoName,
    Again,
    Fail,
    NoData,
}

impl std::fmt::Display for Eai {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::NoName => "EAI_NONAME",
            Self::Again => "EAI_AGAIN",
            Self::Fail => "EAI_FAIL",
            Self::NoData => "EAI_NODATA",
        })
    }
}

/// Why a name did not resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LookupFailure {
    /// What the program sees.
    pub eai: Eai,
    /// What happened.
    pub code: Code,
}

/// What a lookup came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LookupOutcome {
    /// Addresses in the order a program tries them.
    pub addresses: Result<Vec<IpAddr>, LookupFailure>,
    /// The candidate that resolved.
    pub name: Option<Arc<str>>,
    /// Queries sent.
    pub queries: u32,
    /// Time since the start.
    pub after: Duration,
}

/// How one candidate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Miss {
    NxDomain,
    NoData,
    ServFail,
    /// The server answers, but not such queries (REFUSED).
    Denied,
    Timeout,
    /// No server could be reached (ICMP, or the local kernel).
    Unreachable,
}

impl Miss {
    const fn failure(self, flavour: Flavour) -> LookupFailure {
        let (eai, code) = match (self, flavour) {
            (Self::NxDomain, _) => (Eai::NoName, Code::DnsNxDomain),
            (Self::NoData, Flavour::Glibc | Flavour::Musl) => (Eai::NoData, Code::DnsNoData),
            (Self::NoData, Flavour::OldMusl | Flavour::Go) => (Eai::NoName, Code::DnsNoData),
            (Self::ServFail, _) => (Eai::Again, Code::DnsServFail),
            (Self::Denied, _) => (Eai::Again, Code::DnsRefused),
            (Self::Timeout, _) => (Eai::Again, Code::DnsTimeout),
            (Self::Unreachable, _) => (Eai::Again, Code::DnsRefused),
        };
        LookupFailure { eai, code }
    }
}

/// One of the two questions about a candidate.
#[derive(Clone, Debug)]
struct Query {
    id: u16,
    record_type: RecordType,
    answer: Option<DnsResponse>,
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    Opening,
    Waiting { local: End },
    Finished,
}

/// One lookup of addresses by name.
#[derive(Clone, Debug)]
pub struct Lookup {
    settings: LookupSettings,
    candidates: Vec<Arc<str>>,
    /// Index of the name as given, which is the shortest: the others have a search domain appended.
    as_given: usize,
    state: State,
    started: Time,
    candidate: usize,
    server: usize,
    attempt: u32,
    queries: Vec<Query>,
    /// A answered and AAAA did not: glibc asks again, one after the other.
    serial: bool,
    /// Queries musl may still repeat at once after SERVFAIL.
    servfail_budget: u32,
    /// Best explanation so far, in glibc's order of precedence.
    got_nodata: bool,
    got_servfail: bool,
    first_miss: Option<Miss>,
    /// What musl was told and did not accept, for this candidate.
    turned_down: Option<Miss>,
    sent: u32,
    timers: Timers,
    timeout: Timer,
    deadline: Timer,
}

impl Lookup {
    /// Returns a lookup that tries the candidates in this order. Each is fully qualified; a missing trailing dot is
    /// added.
    pub fn new(candidates: &[Arc<str>], settings: LookupSettings) -> Self {
        Self::with_owner(candidates, settings, 0)
    }

    pub(super) fn with_owner(
        candidates: &[Arc<str>],
        settings: LookupSettings,
        owner: u32,
    ) -> Self {
        let candidates: Vec<_> = candidates.iter().map(|name| canonical(name)).collect();
        let lengths = candidates.iter().map(|name| name.len()).enumerate();
        let as_given = lengths.min_by_key(|(_, len)| *len).map_or(0, |(n, _)| n);
        let query = |family: &Family| Query {
            id: 0,
            record_type: RecordType::of_addresses(*family),
            answer: None,
        };
        let wanted = |family: &&Family| settings.family.is_none_or(|only| only == **family);
        let queries = Family::ALL.iter().filter(wanted).map(query).collect();
        Self {
            settings,
            candidates,
            as_given,
            state: State::Idle,
            started: Time::ZERO,
            candidate: 0,
            server: 0,
            attempt: 0,
            queries,
            serial: false,
            servfail_budget: 0,
            got_nodata: false,
            got_servfail: false,
            first_miss: None,
            turned_down: None,
            sent: 0,
            timers: Timers::of(owner),
            timeout: Timer::default(),
            deadline: Timer::default(),
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
                if let Some(limit) = self.settings.deadline {
                    self.deadline.set(&mut self.timers, limit, cx.actions);
                }
                self.ask_candidate(cx);
            }
            AppEvent::Opened { local, .. } => {
                self.state = State::Waiting { local };
                self.send_all(cx);
            }
            AppEvent::OpenFailed { .. } | AppEvent::SendFailed { .. } => self.unreachable(cx),
            AppEvent::Error { errno, fatal, .. } => {
                if fatal && errno != Errno::EMSGSIZE && self.waiting() {
                    self.unreachable(cx);
                }
            }
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Timer(token) => self.timer(token, cx),
        }
    }

    const fn waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Begins with the current candidate: new transaction ids, new socket.
    fn ask_candidate<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if self.candidates.is_empty() || self.settings.nameservers.is_empty() {
            return self.finish(Err(Miss::Unreachable), cx);
        }
        for query in &mut self.queries {
            let id = cx.identifier(cx.flow, 16);
            query.id = u16::try_from(id).unwrap_or_default();
            query.answer = None;
        }
        if let [a, aaaa] = self.queries.as_mut_slice()
            && a.id == aaaa.id
        {
            aaaa.id = a.id.wrapping_add(1);
        }
        (self.server, self.attempt) = (0, 0);
        self.serial = self.settings.pair != Pair::Together;
        self.turned_down = None;
        self.open(cx);
    }

    fn nameserver(&self) -> Option<End> {
        self.settings.nameservers.get(self.server).copied()
    }

    fn open<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let Some(remote) = self.nameserver() else {
            return;
        };
        self.close(cx);
        self.state = State::Opening;
        cx.act(Action::Open {
            l4: L4::Udp,
            remote,
            connected: self.settings.flavour == Flavour::Glibc,
            port: self.settings.port,
        });
    }

    fn close<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        if let (State::Waiting { local }, Some(remote)) = (&self.state, self.nameserver()) {
            let local = *local;
            cx.act(Action::Close {
                l4: L4::Udp,
                local,
                remote,
            });
        }
    }

    /// Sends what is unanswered, A before AAAA, and waits.
    fn send_all<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let after = self.wait();
        self.timeout.set(&mut self.timers, after, cx.actions);
        self.servfail_budget = 4;
        let unanswered = |query: &&Query| query.answer.is_none();
        let at_once = if self.serial { 1 } else { 2 };
        let types: Vec<_> = self
            .queries
            .iter()
            .filter(unanswered)
            .take(at_once)
            .map(|q| q.record_type)
            .collect();
        for record_type in types {
            self.send(record_type, cx);
        }
    }

    /// Returns how long to wait now.
    fn wait(&self) -> Duration {
        let servers = u32::try_from(self.settings.nameservers.len())
            .unwrap_or(1)
            .max(1);
        match self.settings.flavour {
            Flavour::Musl | Flavour::OldMusl => {
                self.settings.timeout / self.settings.attempts.max(1)
            }
            // `send_dg`: doubled for each further server, shared among them.
            Flavour::Glibc | Flavour::Go if self.server > 0 => {
                let seconds = self.settings.timeout.as_secs() << self.server;
                Duration::from_secs((seconds / u64::from(servers)).max(1))
            }
            Flavour::Glibc | Flavour::Go => self.settings.timeout,
        }
    }

    fn send<D: Dice>(&mut self, record_type: RecordType, cx: &mut Ctx<'_, D>) {
        let State::Waiting { local } = self.state else {
            return;
        };
        let servers = match self.settings.flavour {
            Flavour::Glibc | Flavour::Go => self.nameserver().into_iter().collect(),
            Flavour::Musl | Flavour::OldMusl => self.settings.nameservers.clone(),
        };
        let (Some(query), Some(name)) = (
            self.queries.iter().find(|q| q.record_type == record_type),
            self.candidates.get(self.candidate),
        ) else {
            return;
        };
        let dns = Arc::new(Dns {
            id: query.id,
            name: Arc::clone(name),
            record_type,
            response: None,
        });
        for server in servers {
            let payload = data(dns.len(), Message::Dns(Arc::clone(&dns)));
            self.sent += 1;
            cx.send(datagram(cx.flow, (local, server), 1500, payload));
        }
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let Some(Message::Dns(dns)) = packet.message() else {
            return;
        };
        let (Some(response), true) = (&dns.response, self.waiting()) else {
            return;
        };
        let name = self.candidates.get(self.candidate);
        let matches = |q: &&mut Query| {
            q.id == dns.id && q.record_type == dns.record_type && name == Some(&dns.name)
        };
        let Some(query) = self.queries.iter_mut().find(matches) else {
            return;
        };
        if query.answer.is_some() {
            return;
        }
        match (self.settings.flavour, response.code) {
            (Flavour::Musl | Flavour::OldMusl, ResponseCode::ServFail) => {
                let record_type = query.record_type;
                self.turned_down = Some(Miss::ServFail);
                if self.servfail_budget > 0 {
                    self.servfail_budget -= 1;
                    self.send(record_type, cx);
                }
                return;
            }
            (Flavour::Musl | Flavour::OldMusl, ResponseCode::Refused) => {
                self.turned_down.get_or_insert(Miss::Denied);
                return;
            }
            (Flavour::Musl | Flavour::OldMusl, ResponseCode::NoError | ResponseCode::NxDomain)
            | (Flavour::Glibc | Flavour::Go, _) => query.answer = Some(response.clone()),
        }
        if self.queries.iter().all(|q| q.answer.is_some()) {
            self.judge(cx);
        } else if self.serial && self.settings.pair == Pair::Reopened {
            self.timeout.cancel(cx.actions);
            self.open(cx);
        } else if self.serial {
            self.send_all(cx);
        }
    }

    /// Both answers are there: addresses, or the next step.
    fn judge<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let answers = self
            .queries
            .iter()
            .filter_map(|q| Some((q.record_type, q.answer.as_ref()?)));
        let mut addresses: Vec<IpAddr> = answers
            .flat_map(|(record_type, answer)| addresses_of(answer, record_type))
            .collect();
        if !addresses.is_empty() {
            sort_addresses(&mut addresses);
            return self.finish(Ok(addresses), cx);
        }
        let has = |code| {
            self.queries
                .iter()
                .any(|q| q.answer.as_ref().is_some_and(|a| a.code == code))
        };
        if has(ResponseCode::ServFail) {
            self.next_server(Miss::ServFail, cx);
        } else if has(ResponseCode::Refused) {
            self.next_server(Miss::Denied, cx);
        } else if has(ResponseCode::NxDomain) {
            self.next_candidate(Miss::NxDomain, cx);
        } else {
            self.next_candidate(Miss::NoData, cx);
        }
    }

    fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) {
        if self.deadline.fired(token) {
            return self.finish(Err(Miss::Timeout), cx);
        }
        if !self.timeout.fired(token) || !self.waiting() {
            return;
        }
        let one_answered = self.queries.iter().any(|q| q.answer.is_some());
        match self.settings.flavour {
            Flavour::Musl | Flavour::OldMusl => {
                self.attempt += 1;
                if self.attempt < self.settings.attempts {
                    return self.send_all(cx);
                }
                let miss = self.turned_down.unwrap_or(Miss::Timeout);
                self.finish(Err(miss), cx);
            }
            Flavour::Glibc | Flavour::Go if one_answered && !self.serial => {
                // For the rest of the lookup, too (`RES_SNGLKUP`).
                self.settings.pair = Pair::InTurn;
                self.serial = true;
                self.forget_answers();
                self.send_all(cx);
            }
            Flavour::Glibc | Flavour::Go => self.next_server(Miss::Timeout, cx),
        }
    }

    fn forget_answers(&mut self) {
        for query in &mut self.queries {
            query.answer = None;
        }
    }

    /// glibc: the next server, or the first one again, or the end of this candidate.
    fn next_server<D: Dice>(&mut self, miss: Miss, cx: &mut Ctx<'_, D>) {
        let servers = self.settings.nameservers.len();
        let last_server = self.server + 1 >= servers;
        if last_server && self.attempt + 1 >= self.settings.attempts {
            return self.next_candidate(miss, cx);
        }
        self.forget_answers();
        if servers == 1 {
            self.attempt += 1;
            return match self.state {
                State::Waiting { .. } => self.send_all(cx),
                State::Idle | State::Opening | State::Finished => self.open(cx),
            };
        }
        self.timeout.cancel(cx.actions);
        self.close(cx);
        self.state = State::Opening;
        if last_server {
            self.server = 0;
            self.attempt += 1;
        } else {
            self.server += 1;
        }
        self.open(cx);
    }

    /// The server's host refuses, or nothing could be sent. glibc closes the socket and goes on to the next
    /// server; with none left the whole lookup ends (`errno == ECONNREFUSED` in `res_query.c`).
    fn unreachable<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        match self.settings.flavour {
            Flavour::Musl | Flavour::OldMusl => {
                if matches!(self.state, State::Opening) {
                    self.finish(Err(Miss::Unreachable), cx);
                }
            }
            Flavour::Glibc | Flavour::Go => {
                self.timeout.cancel(cx.actions);
                self.close(cx);
                self.state = State::Opening;
                self.next_server(Miss::Unreachable, cx);
            }
        }
    }

    /// Decides what a candidate's failure means for the search.
    fn next_candidate<D: Dice>(&mut self, miss: Miss, cx: &mut Ctx<'_, D>) {
        self.timeout.cancel(cx.actions);
        let at = self.candidate;
        let next = match (self.settings.flavour, miss) {
            (_, Miss::NxDomain) | (Flavour::Glibc | Flavour::Go, Miss::NoData | Miss::ServFail) => {
                at + 1
            }
            // The rest of the search list is skipped; the name as given comes last, if it did not come first.
            (Flavour::Glibc | Flavour::Go, Miss::Timeout | Miss::Denied) if at < self.as_given => {
                self.as_given
            }
            (Flavour::Glibc | Flavour::Go, Miss::Timeout | Miss::Denied)
                if at == 0 && self.as_given == 0 =>
            {
                at + 1
            }
            (Flavour::Glibc | Flavour::Go | Flavour::Musl | Flavour::OldMusl, _) => {
                self.candidates.len()
            }
        };
        self.got_nodata |= miss == Miss::NoData;
        self.got_servfail |= miss == Miss::ServFail;
        if at == 0 && self.as_given == 0 {
            self.first_miss = Some(miss);
        }
        if next < self.candidates.len() {
            self.close(cx);
            self.state = State::Opening;
            self.candidate = next;
            return self.ask_candidate(cx);
        }
        self.finish(Err(self.verdict(miss)), cx);
    }

    /// `__res_context_search`: the name as given, if it came first, then NODATA, then SERVFAIL, then the last one.
    fn verdict(&self, last: Miss) -> Miss {
        match self.settings.flavour {
            Flavour::Glibc | Flavour::Go if last != Miss::Unreachable => {
                let nodata = self.got_nodata.then_some(Miss::NoData);
                let servfail = self.got_servfail.then_some(Miss::ServFail);
                self.first_miss.or(nodata).or(servfail).unwrap_or(last)
            }
            Flavour::Glibc | Flavour::Go | Flavour::Musl | Flavour::OldMusl => last,
        }
    }

    fn finish<D: Dice>(&mut self, result: Result<Vec<IpAddr>, Miss>, cx: &mut Ctx<'_, D>) {
        if self.finished() {
            return;
        }
        self.timeout.cancel(cx.actions);
        self.deadline.cancel(cx.actions);
        self.close(cx);
        self.state = State::Finished;
        let name = self
            .candidates
            .get(self.candidate)
            .filter(|_| result.is_ok());
        cx.done(Outcome::Lookup(LookupOutcome {
            name: name.cloned(),
            addresses: result.map_err(|miss| miss.failure(self.settings.flavour)),
            queries: self.sent,
            after: cx.now.since(self.started),
        }));
    }
}

/// Returns the addresses an answer holds, of the family that was asked for.
fn addresses_of(
    answer: &DnsResponse,
    record_type: RecordType,
) -> impl Iterator<Item = IpAddr> + '_ {
    let wanted = move |ip: &IpAddr| RecordType::of_addresses(Family::of(*ip)) == record_type;
    let address = |record: &DnsRecord| match record.data {
        RecordData::Address(ip) => Some(ip),
        RecordData::Cname(_) | RecordData::Srv { .. } | RecordData::Ptr(_) | RecordData::Txt(_) => {
            None
        }
    };
    answer.answers.iter().filter_map(address).filter(wanted)
}

/// Returns a name in lower case with its trailing dot.
fn canonical(name: &str) -> Arc<str> {
    let mut name = name.to_ascii_lowercase();
    if !name.ends_with('.') {
        name.push('.');
    }
    name.into()
}

/// Sorts by precedence (RFC 6724 §2.1 with the default table), otherwise keeps the server's order: global IPv6,
/// then IPv4, then unique local IPv6.
///
/// # Fidelity
/// The rules about source addresses (unreachable families, scopes, longest prefix) are left out.
fn sort_addresses(addresses: &mut [IpAddr]) {
    addresses.sort_by_key(|ip| match ip {
        IpAddr::V6(ip) if ip.is_loopback() => 0,
        IpAddr::V6(ip) if ip.is_unique_local() => 3,
        IpAddr::V6(_) => 1,
        IpAddr::V4(_) => 2,
    });
}

#[cfg(test)]
mod tests;
