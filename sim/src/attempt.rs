//! One attempt from somebody to somewhere, in every way chance can decide.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::api::{Pod, PodSpec, Service};
use podwire_models::base::{Dice, Family, Namespace, Protocol, Ratio, Time};
use podwire_models::cluster::install::{Machines, Site};
use podwire_models::control::dns::flavour::Flavour;
use podwire_models::control::dns::resolver::ResolvConf;
use podwire_models::control::dns::settings::DnsSettings;
use podwire_models::control::policy::Flow;
use podwire_models::control::proxy::iptables::translates;
use podwire_models::kernel::conntrack::Entry;
use podwire_models::wire::{
    Action, Code, FiveTuple, Head, L4, Manip, NetnsId, PacketId, Transport,
};

use crate::engine::dice::{TooManyOutcomes, explore_within};
use crate::lab::Lab;
use crate::program::Program;
use crate::scenario::address::{PortRef, Target, Thing};
use crate::simulation::{Simulation, Witness};
use crate::source::OriginTable;
use crate::trace::names::Names;
use crate::trace::record::{Record, Trace, TraceRecorder};
use crate::traffic::icmp::PingSettings;
use crate::traffic::lookup::LookupSettings;
use crate::traffic::probe::{Attempt, Host, Probe, SocketOptions};
use crate::traffic::{Outcome, ProbeOutcome, ProbeResult, sctp, tcp, udp};

/// Why an attempt cannot even be made: the request is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// No such pod, workload, node or host, or none that runs.
    #[error("{0} does not exist, or has no running pod")]
    NoSuchSource(String),
    /// No such target.
    #[error("{0} does not exist")]
    NoSuchTarget(String),
    /// The target has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// The target has no address of the wanted family.
    #[error("{0} has no {1} address")]
    NoAddressOf(String, Family),
    /// An echo has an identifier and no ports.
    #[error("an echo request has no source port")]
    NoSourcePort,
    /// The target needs a port.
    #[error("{0} needs a port, as in {0}:80")]
    NoPort(String),
    /// The Service has no port of that name.
    #[error("{0} has no port named `{1}`")]
    NoSuchPort(String, String),
    /// Too many outcomes to list.
    #[error(transparent)]
    TooMany(#[from] TooManyOutcomes),
}

/// Who makes an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The namespace it is made in.
    pub netns: NetnsId,
    /// Name, from which its random draws derive.
    pub name: Arc<str>,
    /// How it looks names up.
    pub resolv_conf: ResolvConf,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// To whom.
    pub target: Target,
    /// By which protocol.
    pub l4: L4,
    /// How long the client waits.
    pub timeout: Duration,
    /// How long it may take in all, the look-up included.
    pub deadline: Option<Duration>,
    /// How it looks names up.
    pub resolver: ResolverChoice,
    /// The only family of addresses that is tried; whatever the target has if not given.
    pub family: Option<Family>,
    /// What the client wants of its socket.
    pub socket: SocketOptions,
    /// Bytes of the request; as many as its protocol usually has if not given.
    pub bytes: Option<u32>,
}

impl Request {
    /// Returns a request that leaves everything else to the kernel.
    pub const fn new(target: Target, l4: L4, timeout: Duration) -> Self {
        Self {
            target,
            l4,
            timeout,
            deadline: None,
            resolver: ResolverChoice::DEFAULT,
            family: None,
            socket: SocketOptions::DEFAULT,
            bytes: None,
        }
    }
}

/// Which resolver a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolverChoice {
    /// Whose it is.
    pub flavour: Flavour,
    /// The source port of its questions, if it keeps one.
    pub port: Option<u16>,
    /// How long the program keeps an answer, whatever its time to live.
    pub keeps: Option<Duration>,
}

impl ResolverChoice {
    /// That of the GNU C library, with a new socket for each name.
    pub const DEFAULT: Self = Self {
        flavour: Flavour::Glibc,
        port: None,
        keeps: None,
    };
}

/// An answer that a program had kept, and used instead of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The name that was found, with the dot at its end.
    pub name: Arc<str>,
    /// The address that was used.
    pub ip: IpAddr,
    /// How old the answer was.
    pub age: Duration,
}

/// One outcome of an attempt.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// How likely it is.
    pub chance: Ratio,
    /// What the client saw.
    pub outcome: ProbeOutcome,
    /// Why.
    pub code: Code,
    /// The answer from its cache that the client used, if it did.
    pub kept: Option<Kept>,
    /// The steps of one way it comes about.
    pub trace: Trace,
}

/// What a client's resolver does, by its `resolv.conf` and its own limits.
fn resolver(source: &Source, request: &Request) -> LookupSettings {
    let ResolverChoice { flavour, port, .. } = request.resolver;
    let options = source.resolv_conf.options.of(flavour);
    LookupSettings {
        timeout: options.timeout,
        attempts: options.attempts,
        pair: options.pair,
        port,
        family: request.family,
        deadline: request.deadline,
        ..LookupSettings::new(flavour, &source.resolv_conf.nameservers)
    }
}

impl Lab {
    /// Returns who is meant by a sender: for a workload its first running pod.
    ///
    /// # Errors
    /// If there is nobody.
    pub fn source(&self, thing: &Thing) -> Result<Source, AttemptError> {
        let nobody = || AttemptError::NoSuchSource(thing.to_string());
        let of_pod = |pod: &Pod| {
            let netns = self.machines.netns_of(pod)?;
            let resolv_conf = self.resolv_conf(&pod.spec, &pod.key.namespace);
            Some(Source {
                netns,
                name: format!("pod/{}", pod.key).into(),
                resolv_conf,
            })
        };
        let on_machine = |netns: Option<NetnsId>| {
            let resolv_conf = match thing {
                Thing::Node(_) => ResolvConf::of_node(&self.plan.site.dns),
                Thing::Host(_) | Thing::Pod(_) | Thing::Workload { .. } => {
                    ResolvConf::of_node(&DnsSettings::default())
                }
            };
            let name = thing.to_string().into();
            netns.map(|netns| Source {
                netns,
                name,
                resolv_conf,
            })
        };
        match thing {
            Thing::Pod(key) => self.objects.pods.get(key).and_then(of_pod),
            Thing::Workload { kind, key } => {
                let pods = self.pods_of(kind, key.namespace.as_str(), key.name.as_str());
                pods.into_iter().find_map(of_pod)
            }
            Thing::Node(name) => on_machine(self.machines.nodes.get(name).map(|m| m.netns)),
            Thing::Host(name) => on_machine(self.machines.hosts.get(name.as_str()).copied()),
        }
        .ok_or_else(nobody)
    }

    fn resolv_conf(&self, spec: &PodSpec, namespace: &Namespace) -> ResolvConf {
        let site = &self.plan.site;
        ResolvConf::of_pod(
            spec,
            namespace,
            &self.cluster_dns(),
            &site.domain,
            &site.dns,
        )
    }

    /// Returns the program that makes an attempt.
    ///
    /// # Errors
    /// If the target does not exist, or lacks what the protocol needs.
    pub fn probe(&self, source: &Source, request: &Request) -> Result<Probe, AttemptError> {
        let (host, port) = self.resolve(source, request)?;
        let needs_port = || AttemptError::NoPort(request.target.to_string());
        let attempt = match request.l4 {
            L4::Tcp => {
                let line = match &request.target {
                    Target::Url { path, .. } => format!("GET {path} HTTP/1.1"),
                    Target::Service { .. }
                    | Target::Pod { .. }
                    | Target::Node { .. }
                    | Target::Host { .. }
                    | Target::Address { .. }
                    | Target::Name { .. } => "hello".to_owned(),
                };
                let settings = tcp::ClientSettings {
                    timeout: Some(request.timeout),
                    request: Some(line.into()),
                    ..tcp::ClientSettings::default()
                };
                Attempt::Tcp(port.ok_or_else(needs_port)?, settings)
            }
            L4::Udp => {
                let settings = udp::ClientSettings {
                    timeout: request.timeout,
                    ..udp::ClientSettings::default()
                };
                Attempt::Udp(port.ok_or_else(needs_port)?, settings)
            }
            L4::Sctp => {
                let settings = sctp::ClientSettings {
                    timeout: Some(request.timeout),
                    ..sctp::ClientSettings::default()
                };
                Attempt::Sctp(port.ok_or_else(needs_port)?, settings)
            }
            L4::Icmp if request.socket.source_port.is_some() => {
                return Err(AttemptError::NoSourcePort);
            }
            L4::Icmp => Attempt::Echo(PingSettings {
                count: 1,
                timeout: request.timeout,
                ..PingSettings::default()
            }),
        };
        let probe = Probe::new(host, attempt)
            .with(request.socket)
            .within(request.deadline);
        Ok(match request.bytes {
            Some(bytes) => probe.carrying(bytes),
            None => probe,
        })
    }

    fn resolve(
        &self,
        source: &Source,
        request: &Request,
    ) -> Result<(Host, Option<u16>), AttemptError> {
        let target = &request.target;
        let missing = || AttemptError::NoSuchTarget(target.to_string());
        let wanted = |ip: &&IpAddr| request.family.is_none_or(|f| f == Family::of(**ip));
        let at = |ips: &[IpAddr]| match (ips.iter().find(wanted), request.family) {
            (Some(ip), _) => Ok(Host::Address(*ip)),
            (None, Some(family)) => Err(AttemptError::NoAddressOf(target.to_string(), family)),
            (None, None) => Err(AttemptError::NoAddress(target.to_string())),
        };
        let name = |name: &str| match name.parse::<IpAddr>() {
            Ok(ip) => at(&[ip]),
            Err(_) => Ok(Host::Name {
                candidates: source
                    .resolv_conf
                    .candidates(name, request.resolver.flavour),
                resolver: resolver(source, request),
            }),
        };
        match target {
            Target::Service { key, port } => {
                let service = self.objects.services.get(key).ok_or_else(missing)?;
                let number = match port {
                    Some(PortRef::Number(number)) => Some(*number),
                    Some(PortRef::Name(wanted)) => {
                        let of = |p: &&podwire_models::api::ServicePort| {
                            p.name.as_deref() == Some(wanted.as_str())
                        };
                        let found = service.ports.iter().find(of).map(|p| p.port);
                        let none =
                            || AttemptError::NoSuchPort(format!("Service/{key}"), wanted.clone());
                        Some(found.ok_or_else(none)?)
                    }
                    None => service.ports.first().map(|p| p.port),
                };
                Ok((at(service.cluster_ips())?, number))
            }
            Target::Pod { key, port } => {
                let pod = self.objects.pods.get(key).ok_or_else(missing)?;
                let number = match port {
                    Some(PortRef::Number(number)) => Some(*number),
                    Some(PortRef::Name(wanted)) => {
                        let of = |p: &&podwire_models::api::ContainerPort| {
                            p.name.as_deref() == Some(wanted.as_str())
                        };
                        let found = pod.spec.ports().find(of).map(|p| p.container_port);
                        let none =
                            || AttemptError::NoSuchPort(format!("Pod/{key}"), wanted.clone());
                        Some(found.ok_or_else(none)?)
                    }
                    None => pod.spec.ports().next().map(|p| p.container_port),
                };
                Ok((at(&pod.pod_ips)?, number))
            }
            Target::Node { name, port } => {
                let node = self.objects.nodes.get(name).ok_or_else(missing)?;
                Ok((at(&node.internal_ips)?, *port))
            }
            Target::Host { name, port } => {
                let of =
                    |h: &&podwire_models::cluster::install::OutsideHost| &*h.name == name.as_str();
                let host = self.plan.site.hosts.iter().find(of).ok_or_else(missing)?;
                Ok((at(&[host.ip])?, *port))
            }
            Target::Address { ip, port } => Ok((at(&[*ip])?, *port)),
            Target::Name { name: text, port } => Ok((name(text)?, *port)),
            Target::Url { host, port, .. } => Ok((name(host)?, Some(*port))),
        }
    }

    /// Makes an attempt in a running cluster, and lets time pass until it has ended and its connection is closed or
    /// `limit` is reached.
    ///
    /// # Errors
    /// If the attempt cannot be made.
    pub fn attempt<D: Dice, R: Witness>(
        &self,
        simulation: &mut Simulation<Program, D, R>,
        source: &Source,
        request: &Request,
        limit: Time,
    ) -> Result<ProbeOutcome, AttemptError> {
        let probe = self.probe(source, request)?;
        let label = format!("{} to {}/{}", source.name, request.l4, request.target);
        let app = simulation.add_app(source.netns, &label, Program::Probe(Box::new(probe)));
        if request.l4 == L4::Icmp {
            simulation.listen_raw(app);
        }
        simulation.start_at(simulation.now(), app);
        let ended = |outcomes: &[Outcome]| {
            outcomes.iter().find_map(|outcome| match outcome {
                Outcome::Probe(probe) => Some(probe.clone()),
                Outcome::Lookup(_)
                | Outcome::Ping(_)
                | Outcome::Traceroute(_)
                | Outcome::Dig(_) => None,
            })
        };
        loop {
            if let Some(outcome) = ended(simulation.outcomes(app)) {
                return Ok(outcome);
            }
            if !simulation.step(limit) {
                let after = limit.since(Time::ZERO);
                return Ok(ProbeOutcome::timeout(after));
            }
        }
    }

    /// Makes an attempt once for every way chance can decide, and returns the distinct outcomes, each with its exact
    /// chance and the steps of one way it comes about. The chances add up to one.
    ///
    /// # Errors
    /// If the attempt cannot be made, or has more than `limit` outcomes.
    pub fn explore(
        &self,
        source: &Source,
        request: &Request,
        origins: &OriginTable,
        seed: u64,
        limit: usize,
    ) -> Result<Vec<Attempted>, AttemptError> {
        self.probe(source, request)?;
        let names = self.names(origins);
        let patience = Time::ZERO + request.timeout + Duration::from_secs(60);
        let all = explore_within(seed, limit, |dice| {
            let mut simulation = self.start(dice, TraceRecorder::new());
            let outcome = self.attempt(&mut simulation, source, request, patience);
            (outcome, simulation.recorder.take())
        })?;
        let mut found: Vec<Attempted> = Vec::new();
        for (chance, (outcome, records)) in all {
            let outcome = outcome?;
            let code = code_of(&outcome, &records, self);
            add(&mut found, chance, outcome, code, || Trace {
                records,
                names: names.clone(),
            });
        }
        Ok(found)
    }
}

/// Adds one way an attempt can go to the outcomes so far: its chance to one that is alike, or itself.
pub fn add(
    found: &mut Vec<Attempted>,
    chance: Ratio,
    outcome: ProbeOutcome,
    code: Code,
    trace: impl FnOnce() -> Trace,
) {
    let same = |a: &&mut Attempted| a.code == code && alike(&a.outcome, &outcome);
    if let Some(same) = found.iter_mut().find(same) {
        same.chance = same.chance + chance;
    } else {
        found.push(Attempted {
            chance,
            outcome,
            code,
            kept: None,
            trace: trace(),
        });
    }
}

/// Whether two outcomes are the same to a person: times and source ports aside.
fn alike(a: &ProbeOutcome, b: &ProbeOutcome) -> bool {
    a.result == b.result
        && a.errno == b.errno
        && a.server == b.server
        && a.backend == b.backend
        && a.http == b.http
        && a.seen_source.map(|(ip, _)| ip) == b.seen_source.map(|(ip, _)| ip)
}

/// Returns why an attempt ended as it did: what the client knows by itself, else the last refusal or loss on the way.
fn code_of(outcome: &ProbeOutcome, records: &[Record], lab: &Lab) -> Code {
    let on_the_way = || {
        let ends = |record: &Record| {
            record
                .step
                .action
                .ends_with()
                .filter(|code| *code != Code::Ok)
        };
        records.iter().rev().find_map(ends)
    };
    let code = match (outcome.result, outcome.code) {
        (ProbeResult::Connected, _) => Code::Ok,
        (ProbeResult::DnsFailure, Some(code)) => code,
        (_, Some(Code::SourcePortTaken)) => Code::SourcePortTaken,
        (_, code) => on_the_way().or(code).unwrap_or(Code::NoAnswer),
    };
    let code = or_stale(code, records.iter(), &lab.machines);
    let code = or_predating(code, records.iter(), &lab.machines);
    let code = or_leaked(code, records.iter(), &lab.machines);
    or_overlapping(code, records.iter(), &lab.plan.site)
}

/// Returns [`Code::CidrOverlap`] for a refusal or loss on the way if the packet was for an address that is in a pod range and
/// in a network of machines, too.
pub fn or_overlapping<'r>(
    code: Code,
    records: impl Iterator<Item = &'r Record>,
    site: &Site,
) -> Code {
    let missed = matches!(
        code,
        Code::RouteNone
            | Code::RouteBlackhole
            | Code::RouteUnreachable
            | Code::NeighUnresolved
            | Code::TtlExceeded
            | Code::PortClosed
    );
    if !missed {
        return code;
    }
    let ends = |record: &&Record| record.step.action.ends_with() == Some(code);
    let to = records
        .filter(ends)
        .last()
        .and_then(|record| match &record.step.packet {
            Some(Head::Ip { dst, .. }) => Some(*dst),
            Some(Head::Arp { .. }) | None => None,
        });
    match to {
        Some(ip) if overlapped(ip, site) => Code::CidrOverlap,
        Some(_) | None => code,
    }
}

/// Whether an address is in a pod range and belongs to a network of machines, or to one outside, too.
pub fn overlapped(ip: IpAddr, site: &Site) -> bool {
    let of_pods = site.pod_cidrs.iter().any(|range| range.contains(&ip));
    let of_nodes = site.underlay.subnets.iter().any(|net| net.contains(&ip));
    of_pods && (of_nodes || site.hosts.iter().any(|host| host.ip == ip))
}

/// Returns [`Code::CtStaleEndpoint`] for a loss on the way if the packets had been sent there by connection tracking
/// alone.
pub fn or_stale<'r>(
    code: Code,
    records: impl Iterator<Item = &'r Record>,
    machines: &Machines,
) -> Code {
    let lost = matches!(
        code,
        Code::RouteNone
            | Code::RouteBlackhole
            | Code::RouteUnreachable
            | Code::NeighUnresolved
            | Code::DeviceDown
            | Code::TtlExceeded
            | Code::NoAnswer
    );
    if lost && stale_translation(records, machines).is_some() {
        Code::CtStaleEndpoint
    } else {
        code
    }
}

/// Returns [`Code::CtPreRule`] for a loss on the way if connection tracking let the packets pass the rules of a Service.
pub fn or_predating<'r>(
    code: Code,
    records: impl Iterator<Item = &'r Record>,
    machines: &Machines,
) -> Code {
    let lost = matches!(
        code,
        Code::RouteNone
            | Code::RouteBlackhole
            | Code::RouteUnreachable
            | Code::NeighUnresolved
            | Code::TtlExceeded
            | Code::NoAnswer
    );
    if lost && predating(records, machines).is_some() {
        Code::CtPreRule
    } else {
        code
    }
}

/// Returns the step that routed a datagram to a Service's address as it was, though the node has rules that translate it by
/// now: its connection is older, so no rule of the table nat was asked.
pub fn predating<'r>(
    records: impl Iterator<Item = &'r Record>,
    machines: &Machines,
) -> Option<&'r Record> {
    let mut asked: BTreeSet<(NetnsId, PacketId)> = BTreeSet::new();
    for record in records {
        let (Some(here), Some(head @ Head::Ip { dst, transport, .. })) =
            (record.place.netns, &record.step.packet)
        else {
            continue;
        };
        let packet = head.id();
        if let Action::Matched { chain, .. } | Action::Examined { chain, .. } = &record.step.action
            && chain.starts_with("nat ")
        {
            asked.insert((here, packet));
        }
        let routed = matches!(record.step.action, Action::Routed { .. });
        if !routed || !matches!(transport, Transport::Udp(_)) || asked.contains(&(here, packet)) {
            continue;
        }
        let netns = machines.cluster.netns(here)?;
        let rules = netns.rules(Family::of(*dst));
        if rules.is_some_and(|rules| translates(rules.ruleset(), *dst)) {
            return Some(record);
        }
    }
    None
}

/// Returns [`Code::CtInvalidLeak`] for a connection that was reset, or had no end, if an answer passed a node without being
/// translated back.
pub fn or_leaked<'r>(
    code: Code,
    records: impl Iterator<Item = &'r Record>,
    machines: &Machines,
) -> Code {
    let ended = matches!(
        code,
        Code::NoSocket | Code::UnexpectedReply | Code::ConnectionReset | Code::NoAnswer
    );
    if ended && leaked(records, machines).is_some() {
        Code::CtInvalidLeak
    } else {
        code
    }
}

/// Returns the step that routed a segment onward which belongs to a translated connection of that node, and was not translated:
/// it is INVALID there.
pub fn leaked<'r>(
    records: impl Iterator<Item = &'r Record>,
    machines: &Machines,
) -> Option<&'r Record> {
    let mut translated: BTreeSet<(NetnsId, PacketId, Time)> = BTreeSet::new();
    let mut routed: Vec<(&Record, NetnsId, PacketId, FiveTuple)> = Vec::new();
    for record in records {
        let (
            Some(here),
            Some(
                head @ Head::Ip {
                    src,
                    dst,
                    transport,
                    ..
                },
            ),
        ) = (record.place.netns, &record.step.packet)
        else {
            continue;
        };
        let Transport::Tcp(tcp) = transport else {
            continue;
        };
        if matches!(record.step.action, Action::Translated { .. }) {
            translated.insert((here, head.id(), record.at));
        }
        if matches!(record.step.action, Action::Routed { .. }) {
            let tuple = FiveTuple {
                l4: L4::Tcp,
                src: *src,
                dst: *dst,
                sport: tcp.sport,
                dport: tcp.dport,
                request: false,
            };
            routed.push((record, here, head.id(), tuple));
        }
    }
    let leaks = |(record, here, packet, tuple): &(&Record, NetnsId, PacketId, FiveTuple)| {
        let netns = machines.cluster.netns(*here);
        let table = netns.and_then(|netns| netns.conntrack.as_ref());
        let own = |entry: &&Entry| entry.reply == *tuple && entry.original != tuple.reply();
        !translated.contains(&(*here, *packet, record.at))
            && table.is_some_and(|table| table.iter(record.at).any(|entry| own(&entry)))
    };
    routed.into_iter().find(leaks).map(|(record, ..)| record)
}

/// Returns [`Code::EpRemovalLag`] or [`Code::StaleRules`] for a refusal or loss on the way if a rule of a node sent the packets to a
/// pod that is being deleted, or gone.
pub fn or_lagging<'r>(
    code: Code,
    records: impl Iterator<Item = &'r Record>,
    lab: &Lab,
    names: &Names,
) -> Code {
    let missed = matches!(
        code,
        Code::PortClosed
            | Code::RouteNone
            | Code::RouteBlackhole
            | Code::RouteUnreachable
            | Code::NeighUnresolved
            | Code::DeviceDown
            | Code::TtlExceeded
            | Code::NoAnswer
    );
    let found = if missed { lagging(records, lab) } else { None };
    let Some((record, _)) = found else {
        return code;
    };
    let node = names.node_at(&record.place);
    if node.is_some_and(|node| lab.stopped.iter().any(|name| name.as_str() == node)) {
        Code::StaleRules
    } else {
        Code::EpRemovalLag
    }
}

/// Returns the ends between which an attempt over the request's protocol was let through, as policies see them: the client, and the
/// pod that answered.
pub fn ends<'r>(
    records: impl Iterator<Item = &'r Record>,
    l4: L4,
    outcome: &ProbeOutcome,
) -> Option<(IpAddr, IpAddr, Flow)> {
    let (server, port) = outcome.backend?;
    let sent = |record: &'r Record| match (&record.step.action, &record.step.packet) {
        (Action::Sent, Some(Head::Ip { src, transport, .. })) if transport.l4() == l4 => Some(*src),
        _ => None,
    };
    let client = records.filter_map(sent).last()?;
    let flow = match l4 {
        L4::Tcp => Flow::Port(Protocol::Tcp, port),
        L4::Udp => Flow::Port(Protocol::Udp, port),
        L4::Sctp => Flow::Port(Protocol::Sctp, port),
        L4::Icmp => Flow::Other,
    };
    Some((client, server, flow))
}

/// Returns the first step in which a rule of a Service chose an endpoint, and that Service.
pub fn chosen<'r, 'l>(
    mut records: impl Iterator<Item = &'r Record>,
    lab: &'l Lab,
) -> Option<(&'r Record, &'l Service)> {
    records.find_map(|record| {
        let Action::Translated {
            manip: Manip::Destination,
            from,
            undo: false,
            ..
        } = &record.step.action
        else {
            return None;
        };
        Some((record, lab.service_at(from.0)?))
    })
}

/// Returns the last step in which a rule sent a packet to the address of a pod that is gone, that pod, and the one that has the
/// address now, if no slice says that this one is meant.
pub fn reused<'r, 'l>(
    records: impl Iterator<Item = &'r Record>,
    lab: &'l Lab,
) -> Option<(&'r Record, &'l Pod, &'l Pod)> {
    let heir = |record: &'r Record| {
        let Action::Translated {
            manip: Manip::Destination,
            from,
            to,
            undo: false,
        } = &record.step.action
        else {
            return None;
        };
        let gone = lab.gone.get(&to.0)?;
        let mut pods = lab.objects.pods.values();
        let now = pods.find(|pod| !pod.spec.host_network && pod.pod_ips.contains(&to.0))?;
        let service = lab.service_at(from.0)?;
        let slices = lab.slices_of(&service.key);
        let mut endpoints = slices.flat_map(|slice| &slice.endpoints);
        let meant = endpoints.any(|endpoint| endpoint.addresses.contains(&to.0));
        (!meant && now.key != gone.key).then_some((record, gone, now))
    };
    records.filter_map(heir).last()
}

/// Returns the last step in which a rule sent a packet to a pod that is being deleted, or gone, and that pod.
pub fn lagging<'r, 'l>(
    records: impl Iterator<Item = &'r Record>,
    lab: &'l Lab,
) -> Option<(&'r Record, &'l Pod)> {
    let mut by_rule: BTreeSet<PacketId> = BTreeSet::new();
    let mut found = None;
    for record in records {
        let Some(packet) = record.step.packet.as_ref().map(Head::id) else {
            continue;
        };
        if let Action::Matched { target, .. } = &record.step.action
            && target.starts_with("DNAT")
        {
            by_rule.insert(packet);
        }
        if let Action::Translated {
            manip: Manip::Destination,
            to,
            undo: false,
            ..
        } = &record.step.action
            && by_rule.contains(&packet)
        {
            found = lab.leaving(to.0).map(|pod| (record, pod));
        }
    }
    found
}

/// Returns the step that translated a packet to an address that nobody has any more, if no rule of any node chose that
/// address for this attempt: the entry of connection tracking is an earlier one.
pub fn stale_translation<'r>(
    records: impl Iterator<Item = &'r Record>,
    machines: &Machines,
) -> Option<&'r Record> {
    let mut by_rule: BTreeSet<PacketId> = BTreeSet::new();
    let mut chosen: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
    for record in records {
        let Some(packet) = record.step.packet.as_ref().map(Head::id) else {
            continue;
        };
        if let Action::Matched { target, .. } = &record.step.action
            && target.starts_with("DNAT")
        {
            by_rule.insert(packet);
        }
        let Action::Translated {
            manip: Manip::Destination,
            to,
            undo: false,
            ..
        } = &record.step.action
        else {
            continue;
        };
        if by_rule.contains(&packet) {
            chosen.insert(*to);
        } else if !chosen.contains(to) && !machines.have_address(to.0) {
            return Some(record);
        }
    }
    None
}
