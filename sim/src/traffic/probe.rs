//! One attempt as a user thinks of it: a name or address, then TCP, UDP, SCTP or an echo.
//!
//! # Fidelity
//! Addresses are tried one after the other, each only if the one before was refused or unreachable (no Happy
//! Eyeballs). The time limit of TCP, UDP and SCTP begins after the lookup, unless
//! there is a limit for both ([`Probe::within`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Time};
use podwire_models::control::dns::flavour::Flavour;

use super::icmp::{Ping, PingSettings};
use super::lookup::go::GoLookup;
use super::lookup::{Lookup, LookupSettings};
use super::sctp::SctpClient;
use super::tcp::TcpClient;
use super::udp::UdpClient;
use super::{Action, AppEvent, Ctx, Outcome, ProbeOutcome, ProbeResult, sctp, tcp, udp};

/// Whom to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, as the candidates a resolver tries.
    Name {
        /// Fully qualified names in order.
        candidates: Vec<Arc<str>>,
        /// Whom to ask, and how.
        resolver: LookupSettings,
    },
}

/// What to do with the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Connect to a TCP port.
    Tcp(u16, tcp::ClientSettings),
    /// Send to a UDP port.
    Udp(u16, udp::ClientSettings),
    /// Set up an association to an SCTP port.
    Sctp(u16, sctp::ClientSettings),
    /// Ask for an echo.
    Echo(PingSettings),
}

/// What a socket does about the MTU of its path (`IP_MTU_DISCOVER`, `IPV6_MTU_DISCOVER`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discovery {
    /// `IP_PMTUDISC_WANT`, Linux's default: DF is set on what fits the path, larger datagrams are cut into fragments.
    #[default]
    Want,
    /// `IP_PMTUDISC_DO`: DF is always set; what does not fit the known path fails with EMSGSIZE.
    Do,
    /// `IP_PMTUDISC_DONT`: DF is never set, and nobody hears that something did not fit.
    Dont,
}

/// What a client wants of its own socket; the kernel decides what is not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Source port (`bind(2)`).
    pub source_port: Option<u16>,
    /// Time to live, or hop limit, of what it sends (`IP_TTL`, `IPV6_UNICAST_HOPS`).
    pub ttl: Option<u8>,
    /// What it does about the MTU of its path.
    pub discovery: Discovery,
}

impl SocketOptions {
    /// Everything as the kernel decides.
    pub const DEFAULT: Self = Self {
        source_port: None,
        ttl: None,
        discovery: Discovery::Want,
    };
}

#[derive(Clone, Debug)]
enum Client {
    Lookup(Lookup),
    GoLookup(Box<GoLookup>),
    Tcp(TcpClient),
    Udp(UdpClient),
    Sctp(SctpClient),
    Ping(Ping),
}

impl Client {
    fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match self {
            Self::Lookup(client) => client.handle(event, cx),
            Self::GoLookup(client) => client.handle(event, cx),
            Self::Tcp(client) => client.handle(event, cx),
            Self::Udp(client) => client.handle(event, cx),
            Self::Sctp(client) => client.handle(event, cx),
            Self::Ping(client) => client.handle(event, cx),
        }
    }

    const fn finished(&self) -> bool {
        match self {
            Self::Lookup(client) => client.finished(),
            Self::GoLookup(client) => client.finished(),
            Self::Tcp(client) => client.finished(),
            Self::Udp(client) => client.finished(),
            Self::Sctp(client) => client.finished(),
            Self::Ping(client) => client.finished(),
        }
    }
}

/// One attempt to reach a host by name or address.
#[derive(Clone, Debug)]
pub struct Probe {
    host: Host,
    attempt: Attempt,
    options: SocketOptions,
    client: Option<Client>,
    deadline: Option<Duration>,
    /// Addresses not tried yet, last first.
    rest: Vec<IpAddr>,
    started: Time,
    owner: u32,
}

impl Probe {
    /// Returns a probe that begins when it is started.
    pub const fn new(host: Host, attempt: Attempt) -> Self {
        Self {
            host,
            attempt,
            options: SocketOptions::DEFAULT,
            client: None,
            deadline: None,
            rest: Vec::new(),
            started: Time::ZERO,
            owner: 0,
        }
    }

    /// Returns the probe with requests of this many bytes.
    #[must_use]
    pub const fn carrying(mut self, bytes: u32) -> Self {
        match &mut self.attempt {
            Attempt::Tcp(_, settings) => settings.request_len = bytes,
            Attempt::Udp(_, settings) => settings.request_len = bytes,
            Attempt::Sctp(_, settings) => settings.request_len = bytes,
            Attempt::Echo(settings) => settings.len = bytes,
        }
        self
    }

    /// Returns the probe with several requests on its one TCP connection, and a pause between an answer and the next request.
    #[must_use]
    pub fn asking(mut self, requests: u32, pause: Duration) -> Self {
        match &mut self.attempt {
            Attempt::Tcp(_, settings) => {
                settings.requests = requests;
                settings.pause = pause;
            }
            Attempt::Udp(..) | Attempt::Sctp(..) | Attempt::Echo(_) => {}
        }
        self
    }

    /// Returns the probe with options for its socket. The sockets of the lookup before it have none.
    #[must_use]
    pub const fn with(mut self, options: SocketOptions) -> Self {
        self.options = options;
        self
    }

    /// Returns the probe with a limit for everything, the lookup included.
    #[must_use]
    pub const fn within(mut self, deadline: Option<Duration>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Limits what is left to do after the lookup.
    fn limit(&mut self, now: Time) {
        let Some(deadline) = self.deadline else {
            return;
        };
        let left = deadline.saturating_sub(now.since(self.started));
        let sooner = |timeout: Option<Duration>| Some(timeout.map_or(left, |t| t.min(left)));
        match &mut self.attempt {
            Attempt::Tcp(_, settings) => settings.timeout = sooner(settings.timeout),
            Attempt::Udp(_, settings) => settings.timeout = settings.timeout.min(left),
            Attempt::Sctp(_, settings) => settings.timeout = sooner(settings.timeout),
            Attempt::Echo(settings) => settings.timeout = settings.timeout.min(left),
        }
    }

    /// Sets the options of the client's socket in what the client wants done.
    fn with_options(&self, action: Action) -> Action {
        match (action, &self.client) {
            (action, Some(Client::Lookup(_) | Client::GoLookup(_)) | None) => action,
            (
                Action::Open {
                    l4,
                    remote,
                    connected,
                    ..
                },
                Some(_),
            ) => Action::Open {
                l4,
                remote,
                connected,
                port: self.options.source_port,
            },
            (Action::SendWhole(mut packet), Some(_)) => {
                packet.ttl = self.options.ttl.unwrap_or(packet.ttl);
                Action::SendWhole(packet)
            }
            (Action::Send(mut packet), Some(_)) => {
                packet.ttl = self.options.ttl.unwrap_or(packet.ttl);
                match self.options.discovery {
                    Discovery::Want => Action::Send(packet),
                    Discovery::Do => {
                        packet.df = true;
                        Action::SendWhole(packet)
                    }
                    Discovery::Dont => {
                        packet.df = false;
                        Action::Send(packet)
                    }
                }
            }
            (
                action @ (Action::Accept { .. }
                | Action::Close { .. }
                | Action::Dropped { .. }
                | Action::SetTimer { .. }
                | Action::CancelTimer { .. }
                | Action::Done(_)),
                Some(_),
            ) => action,
        }
    }

    /// Returns whether nothing more will happen.
    pub const fn finished(&self) -> bool {
        match &self.client {
            Some(client) => client.finished(),
            None => self.owner > 0,
        }
    }

    /// Handles one event. Ends with one [`Outcome::Probe`]; what the lookup found is reported before.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        if event != AppEvent::Start {
            return self.forward(event, cx);
        }
        self.started = cx.now;
        match &self.host {
            Host::Address(address) => {
                self.rest = vec![*address];
                self.try_next(cx);
            }
            Host::Name {
                candidates,
                resolver,
            } => {
                let (resolver, owner) = (resolver.clone(), self.owner);
                let client = match resolver.flavour {
                    Flavour::Go => Client::GoLookup(Box::new(GoLookup::with_owner(
                        candidates, resolver, owner,
                    ))),
                    Flavour::Glibc | Flavour::Musl | Flavour::OldMusl => {
                        Client::Lookup(Lookup::with_owner(candidates, resolver, owner))
                    }
                };
                self.begin(client, cx);
            }
        }
    }

    fn begin<D: Dice>(&mut self, client: Client, cx: &mut Ctx<'_, D>) {
        // A TCP client numbers its connection's timers one higher.
        self.owner += 2;
        self.client = Some(client);
        self.forward(AppEvent::Start, cx);
    }

    fn try_next<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let Some(address) = self.rest.pop() else {
            return;
        };
        let client = match &self.attempt {
            Attempt::Tcp(port, settings) => {
                let remote = (address, *port);
                Client::Tcp(TcpClient::with_owner(remote, settings.clone(), self.owner))
            }
            Attempt::Udp(port, settings) => {
                let remote = (address, *port);
                Client::Udp(UdpClient::with_owner(remote, settings.clone(), self.owner))
            }
            Attempt::Sctp(port, settings) => {
                let remote = (address, *port);
                Client::Sctp(SctpClient::with_owner(remote, settings.clone(), self.owner))
            }
            Attempt::Echo(settings) => {
                Client::Ping(Ping::with_owner(address, *settings, self.owner))
            }
        };
        self.begin(client, cx);
    }

    /// Lets the current client handle an event, and looks at what it reports.
    fn forward<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        let Some(client) = &mut self.client else {
            return;
        };
        let too_long = matches!(
            event,
            AppEvent::Error {
                errno: Errno::EMSGSIZE,
                ..
            }
        );
        if too_long && self.options.discovery == Discovery::Dont {
            return;
        }
        let mut actions = Vec::new();
        let mut inner = Ctx {
            now: cx.now,
            flow: cx.flow,
            dice: &mut *cx.dice,
            actions: &mut actions,
        };
        client.handle(event, &mut inner);
        let mut done = None;
        for action in actions {
            match self.with_options(action) {
                Action::Done(outcome) => done = Some(*outcome),
                action @ (Action::Open { .. }
                | Action::Accept { .. }
                | Action::Close { .. }
                | Action::Send(_)
                | Action::SendWhole(_)
                | Action::Dropped { .. }
                | Action::SetTimer { .. }
                | Action::CancelTimer { .. }) => cx.act(action),
            }
        }
        match done {
            Some(Outcome::Lookup(outcome)) => {
                cx.done(Outcome::Lookup(outcome.clone()));
                match outcome.addresses {
                    Ok(addresses) => {
                        self.limit(cx.now);
                        self.rest = addresses;
                        self.rest.reverse();
                        self.try_next(cx);
                    }
                    Err(failure) => {
                        let after = cx.now.since(self.started);
                        let outcome = ProbeOutcome::dns_failure(failure.code, after);
                        cx.done(Outcome::Probe(outcome));
                    }
                }
            }
            Some(Outcome::Probe(outcome)) => self.attempted(outcome, cx),
            Some(Outcome::Ping(outcome)) => self.attempted(outcome.probe, cx),
            Some(Outcome::Traceroute(_) | Outcome::Dig(_)) | None => {}
        }
    }

    fn attempted<D: Dice>(&mut self, outcome: ProbeOutcome, cx: &mut Ctx<'_, D>) {
        let next = match outcome.result {
            ProbeResult::Refused | ProbeResult::Unreachable => !self.rest.is_empty(),
            ProbeResult::Connected
            | ProbeResult::Timeout
            | ProbeResult::Reset
            | ProbeResult::DnsFailure => false,
        };
        if next {
            return self.try_next(cx);
        }
        let after = cx.now.since(self.started);
        let outcome = ProbeOutcome { after, ..outcome };
        cx.done(Outcome::Probe(outcome));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use podwire_models::base::{Errno, NoChance};
    use podwire_models::wire::{
        Code, DnsRecord, DnsResponse, Packet, RecordData, RecordType, ResponseCode,
    };

    use super::*;
    use crate::traffic::coredns::{self, NameServer};
    use crate::traffic::pipe::{Fate, Machine, Pipe, remote};
    use crate::traffic::tcp::{ServerSettings, TcpServer};

    impl Machine for Probe {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            self.handle(event, cx);
        }
    }

    /// A name server and a web server behind one pipe.
    struct Cluster(NameServer, TcpServer);

    impl Machine for Cluster {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            let udp = matches!(&event, AppEvent::Packet(p) if p.ports().unwrap().1 == 53);
            if !udp {
                return self.1.handle(event, cx);
            }
            let zone = |name: &str, record_type| {
                let known = name == "web.default.svc.cluster.local.";
                let record = |data| DnsRecord {
                    name: name.into(),
                    ttl: 30,
                    data: RecordData::Address(data),
                };
                let ips = ["10.244.9.9".parse().unwrap(), remote().0];
                DnsResponse {
                    code: if known {
                        ResponseCode::NoError
                    } else {
                        ResponseCode::NxDomain
                    },
                    answers: if known && record_type == RecordType::A {
                        ips.map(record).to_vec()
                    } else {
                        Vec::new()
                    },
                }
            };
            self.0.handle(event, &zone, cx);
        }
    }

    fn probe(candidate: &str) -> Probe {
        let resolver = LookupSettings::new(Flavour::Glibc, &["10.96.0.10".parse().unwrap()]);
        let host = Host::Name {
            candidates: vec![candidate.into()],
            resolver,
        };
        Probe::new(host, Attempt::Tcp(80, tcp::ClientSettings::default()))
    }

    fn cluster() -> Cluster {
        let web = TcpServer::new(ServerSettings::new("web-0".into()));
        Cluster(NameServer::new(coredns::ServerSettings::default()), web)
    }

    /// The first address of the answer refuses.
    fn refuse_one(_: usize, _: crate::traffic::pipe::Side, p: &Packet) -> Fate {
        if p.dst == IpAddr::from([10, 244, 9, 9]) {
            let errno = Errno::ECONNREFUSED;
            Fate::Fail { errno, mtu: None }
        } else {
            Fate::Pass
        }
    }

    #[test]
    fn resolves_then_tries_each_address() {
        let pipe = Pipe::new(
            probe("web.default.svc.cluster.local."),
            cluster(),
            refuse_one,
        )
        .run();
        let [(_, Outcome::Lookup(_)), (_, Outcome::Probe(outcome))] = pipe.done.as_slice() else {
            panic!("lookup, then probe: {:?}", pipe.done)
        };
        assert_eq!(outcome.server.as_deref(), Some("web-0"));
        assert!(pipe.left.finished());
    }

    #[test]
    fn a_name_that_does_not_resolve() {
        let pipe = Pipe::new(
            probe("wbe.default.svc.cluster.local."),
            cluster(),
            refuse_one,
        )
        .run();
        let Some((_, Outcome::Probe(outcome))) = pipe.done.last() else {
            panic!("a probe: {:?}", pipe.done)
        };
        assert_eq!(outcome.result, ProbeResult::DnsFailure);
        assert_eq!(outcome.code, Some(Code::DnsNxDomain));
        assert!(pipe.left.finished());
    }
}
