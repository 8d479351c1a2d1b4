//! From what was typed to what can be run: names to things, files to objects, and a cluster that stands.
//!
//! What the language can say and this does not do is refused here, never passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use podwire_models::api::{Kind, Node, ObjectRef, Objects};
use podwire_models::base::addr::{host_net, nth_addr};
use podwire_models::base::{Family, Mac, Namespace, ObjectKey, ObjectName, OriginId, Ratio, Time};
use podwire_models::cluster::install::{Nic, OutsideHost, Site};
use podwire_models::cluster::links::Link;
use podwire_models::cluster::{Acl, WireEnd};
use podwire_models::control::dns::settings::DnsSettings;
use podwire_models::control::ipam::NodeCidrs;
use podwire_models::control::policy::agent::Enforcer;
use podwire_models::control::proxy::{DetectLocalMode, Flags, NodePortAddresses, Version};
use podwire_models::kernel::config::ConfigError;
use podwire_models::kernel::netfilter::chain::PortRange;
use podwire_models::kernel::sysctl::{self, Refused};
use podwire_models::wire::L4;

use crate::attempt::{AttemptError, Request, ResolverChoice};
use crate::controllers::reactions::{Reaction, Reactions};
use crate::fault::Fault;
use crate::lab::{Lab, Plan};
use crate::manifest;
use crate::problem::{Problem, ProblemCode, Severity};
use crate::scenario::address::{Target, Thing};
use crate::scenario::expect::Expectation;
use crate::scenario::file::{
    AllowLocalhost, Entry, FaultKind, Listen, Load, Must, Probe, ProbeFamily, ProbeProtocol,
    ScenarioFile, ServiceTime, Step,
};
use crate::scenario::reader::Spans;
use crate::scenario::text::{Mark, Range, Text};
use crate::source::{OriginTable, Source};
use crate::tool::Tool;
use crate::traffic::probe::SocketOptions;
use crate::traffic::sctp;

use super::churn::Churn;
use super::writes::{Change, Written};

/// A scenario that can be run.
#[derive(Clone, Debug)]
pub struct Story {
    /// What it shows.
    pub title: String,
    /// Where all chance comes from, unless somebody says otherwise.
    pub seed: u64,
    /// The cluster, before anything moves.
    pub lab: Lab,
    /// Places in the inputs.
    pub origins: OriginTable,
    /// Places in the scenario's own file.
    pub spans: Spans,
    /// What is done when, in order.
    pub agenda: Vec<(Time, Doing)>,
    /// The run goes on at least until here.
    pub until: Time,
    /// Who listens where, besides the declared ports.
    pub listen: Vec<Server>,
    /// Ports on which outside hosts answer.
    pub hosts: Vec<(ObjectName, L4, u16)>,
    /// What must be true.
    pub expect: Vec<Expectation>,
}

/// Something that is done.
#[derive(Clone, Debug)]
pub enum Doing {
    /// An attempt.
    Probe(Box<Attempt>),
    /// Attempts at a steady rate.
    Load {
        /// Each of them.
        attempt: Box<Attempt>,
        /// How many a second.
        rate: u32,
        /// For how long.
        lasts: Duration,
    },
    /// Pods come and go.
    Churn(Churn),
    /// Pods are kept away from a node, or no longer.
    Cordon {
        /// Which.
        node: ObjectName,
        /// Whether they are kept away.
        shut: bool,
    },
    /// Pods are kept away from a node, and those that are there are evicted.
    Drain {
        /// Which.
        node: ObjectName,
        /// Those that no controller replaces too.
        force: bool,
    },
    /// A sentence.
    Note(String),
    /// A command.
    Exec {
        /// Where.
        on: Thing,
        /// As typed.
        text: String,
        /// What is shown.
        command: Command,
    },
    /// A command that sends packets.
    Tool {
        /// Where.
        on: Thing,
        /// As typed.
        text: String,
        /// What it does.
        tool: Tool,
    },
    /// A write to the API server.
    Write {
        /// In a few words.
        what: String,
        /// What it leaves behind.
        changes: Vec<Change>,
    },
    /// A fault begins.
    Begin {
        /// Its name.
        id: String,
        /// What breaks.
        fault: Fault,
        /// For how long; for ever if not given.
        lasts: Option<Duration>,
        /// Where it was written.
        mark: Mark,
    },
}

/// An attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Name of its probe.
    pub id: String,
    /// Who makes it.
    pub from: Thing,
    /// What is tried.
    pub request: Request,
    /// Bytes of the request, if not the usual number.
    pub payload: Option<u32>,
    /// How many requests are made on the one connection, and with which pause, if not one.
    pub requests: Option<(u32, Duration)>,
    /// Whether it must work.
    pub must: Option<Must>,
}

/// Sockets that pods have besides those for their declared ports.
#[derive(Clone, Debug)]
pub struct Server {
    /// As written.
    pub pods: Listen,
    /// How long an answer takes.
    pub service_time: Duration,
}

/// What a command shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `iptables-save`, `ip6tables-save`.
    IptablesSave(Family),
    /// `ip route`, `ip -6 route`.
    Route(Family),
    /// `ip route show table local`.
    RouteLocal(Family),
    /// `ip addr`.
    Addr,
    /// `ip link`.
    Link,
    /// `ip neigh`.
    Neigh,
    /// `bridge fdb`.
    Fdb,
    /// `sysctl -a`, `sysctl NAME`.
    Sysctl(Option<String>),
    /// `conntrack -L`.
    Conntrack,
}

impl Command {
    /// The commands that exist.
    pub const KNOWN: &str = "iptables-save, ip6tables-save, ip [-6] route [show table local], ip addr, ip link, ip neigh, bridge fdb, sysctl -a, sysctl NAME, conntrack -L";

    /// Reads a command.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().filter(|w| *w != "show").collect();
        Some(match words.as_slice() {
            ["iptables-save"] => Self::IptablesSave(Family::V4),
            ["ip6tables-save"] => Self::IptablesSave(Family::V6),
            ["ip", "route" | "r"] => Self::Route(Family::V4),
            ["ip", "-6", "route" | "r"] => Self::Route(Family::V6),
            ["ip", "route" | "r", "table", "local"] => Self::RouteLocal(Family::V4),
            ["ip", "-6", "route" | "r", "table", "local"] => Self::RouteLocal(Family::V6),
            ["ip", "addr" | "a"] => Self::Addr,
            ["ip", "link" | "l"] => Self::Link,
            ["ip", "neigh" | "n"] => Self::Neigh,
            ["bridge", "fdb"] => Self::Fdb,
            ["sysctl", "-a"] => Self::Sysctl(None),
            ["sysctl", name] => Self::Sysctl(Some((*name).to_owned())),
            ["conntrack", "-L"] => Self::Conntrack,
            _ => return None,
        })
    }
}

/// Returns the names of the files a scenario reads, relative to it.
pub fn files(file: &ScenarioFile) -> Vec<&Text<String>> {
    let applied = file.timeline.iter().filter_map(|entry| match entry.step() {
        Step::Apply { manifest, .. } => manifest.as_ref(),
        Step::Delete { .. }
        | Step::Patch { .. }
        | Step::Label { .. }
        | Step::Scale { .. }
        | Step::Rollout { .. }
        | Step::Cordon { .. }
        | Step::Uncordon { .. }
        | Step::Drain { .. }
        | Step::Churn { .. }
        | Step::Probe(_)
        | Step::Load(_)
        | Step::Fault(_)
        | Step::Exec { .. }
        | Step::Note { .. } => None,
    });
    file.manifests.iter().chain(applied).collect()
}

/// Makes a scenario ready to run. `sources` are the texts of its [`files`], under their names as written or with a
/// directory in front. If there is an error among the problems, the story must not be run.
pub fn resolve(file: &ScenarioFile, sources: &[Source]) -> (Story, Vec<Problem>) {
    let mut resolver = Resolver {
        file,
        problems: Vec::new(),
        origins: OriginTable::default(),
        written: Written::default(),
        there: BTreeSet::new(),
    };
    let story = resolver.story(sources);
    (story, resolver.problems)
}

pub(super) struct Resolver<'a> {
    pub(super) file: &'a ScenarioFile,
    pub(super) problems: Vec<Problem>,
    pub(super) origins: OriginTable,
    /// The objects as the steps so far have left them.
    written: Written,
    /// Objects that are there at the start, those that controllers made included.
    there: BTreeSet<ObjectRef>,
}

/// The machines that exist, by the names of their namespaces.
type Names = BTreeMap<String, Vec<IpAddr>>;

impl Resolver<'_> {
    pub(super) fn problem(
        &mut self,
        code: ProblemCode,
        mark: Mark,
        title: impl Into<String>,
        help: &str,
    ) {
        let mut problem =
            Problem::error(code, title.into()).at(self.file.spans.spot(mark), "written here");
        if !help.is_empty() {
            problem = problem.help(help);
        }
        self.problems.push(problem);
    }

    pub(super) fn refuse(&mut self, mark: Option<Mark>, what: &str) {
        let title = format!("{what} is not modelled yet");
        let spot = mark.map_or_else(|| self.file.spans.start(), |m| self.file.spans.spot(m));
        let problem = Problem::error(ProblemCode::ScnBadValue, title).at(spot, "asked for here");
        self.problems.push(problem);
    }

    fn story(&mut self, sources: &[Source]) -> Story {
        let mut objects = self.objects(sources);
        let plan = self.plan();
        self.nodes(&mut objects, &plan.site);
        let mut lab = Lab::build(objects, plan);
        self.tune(&mut lab);
        self.there = lab.objects.references();
        let agenda = self.agenda(&lab, sources);
        let story = Story {
            title: self.file.title.to_string(),
            spans: self.file.spans.clone(),
            seed: self.file.seed,
            agenda,
            until: self.file.until.as_ref().map_or(Time::ZERO, |until| until.0),
            listen: self.listen(&lab),
            hosts: self.host_ports(),
            expect: self.file.expect.clone(),
            origins: std::mem::take(&mut self.origins),
            lab,
        };
        self.expectations(&story);
        story
    }

    fn reactions(&mut self) -> Reactions {
        let mut reactions = Reactions::default();
        let given: Vec<(&String, &Text<Range>)> = self.file.cluster.delays.iter().collect();
        for (name, range) in given {
            if let Some(reaction) = Reaction::named(name) {
                reactions.set(reaction, range.0);
                continue;
            }
            let known: Vec<&str> = Reaction::ALL.iter().map(|one| one.name()).collect();
            let title = format!("`{name}` is no delay of the control plane");
            let help = format!("there are {}", known.join(", "));
            self.problem(ProblemCode::ScnBadValue, range.mark, title, &help);
        }
        reactions
    }

    fn objects(&mut self, sources: &[Source]) -> Objects {
        let mut inputs: Vec<Source> = Vec::new();
        for name in &self.file.manifests {
            inputs.extend(self.named_sources(name, sources));
        }
        if let Some(text) = &self.file.objects {
            inputs.push(Source::new("objects", text.as_str()));
        }
        if inputs.is_empty() {
            return Objects::default();
        }
        let (manifests, problems) = manifest::read(&inputs, &mut self.origins);
        self.problems.extend(problems);
        self.written.documents = manifests.documents;
        manifests.objects.into_iter().collect()
    }

    /// Returns the texts of a file the scenario names, or of the files of a directory.
    pub(super) fn named_sources(&mut self, name: &Text<String>, sources: &[Source]) -> Vec<Source> {
        let wanted = name.trim_start_matches("./").trim_end_matches('/');
        let below = format!("{wanted}/");
        let fits = |source: &&Source| {
            let own = source.name.strip_suffix(wanted);
            let own = own.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
            own || source.name.starts_with(&below) || source.name.contains(&format!("/{below}"))
        };
        let found: Vec<Source> = sources.iter().filter(fits).cloned().collect();
        if found.is_empty() {
            let title = format!("`{wanted}` was not read");
            self.problem(ProblemCode::FileUnreadable, name.mark, title, "");
        }
        found
    }

    /// Whether an object is there at the start.
    pub(super) fn made(&self, object: &ObjectRef) -> bool {
        self.there.contains(object)
    }

    /// Whether some step creates the object.
    fn comes_later(&self, kind: Kind, key: &ObjectKey) -> bool {
        let object = ObjectRef::namespaced(kind, key);
        self.written.created.contains(&object)
    }

    fn plan(&mut self) -> Plan {
        let cluster = &self.file.cluster;
        let mut site = Site::default();
        if let Some(profile) = &cluster.profile {
            match profile.parse() {
                Ok(cni) => site.cni = cni,
                Err(error) => {
                    let title = format!("{error}");
                    self.problem(ProblemCode::ScnUnknownProfile, profile.mark, title, "");
                }
            }
        }
        if let Some(cidrs) = &cluster.pod_cidr {
            site.pod_cidrs.clone_from(&cidrs.0);
        }
        if let Some(cidrs) = &cluster.service_cidr {
            site.service_cidrs.clone_from(&cidrs.0);
        }
        site.pod_mtu = cluster.mtu;
        let underlay = &cluster.underlay;
        if let Some(latency) = &underlay.latency {
            site.underlay.latency = latency.0;
        }
        if let Some(rate) = &underlay.bandwidth {
            site.underlay.bandwidth = Some(rate.0);
        }
        if let Some(mtu) = underlay.mtu {
            site.underlay.mtu = mtu;
        }
        if site
            .pod_cidrs
            .iter()
            .any(|net| Family::of_net(*net) == Family::V6)
        {
            let subnet = "fc00:f853:ccd:e793::/64".parse().expect("a literal prefix");
            site.underlay.subnets.push(subnet);
        }
        let dns = &cluster.dns;
        site.dns = DnsSettings {
            upstream: dns.upstream.iter().map(|ip| **ip).collect(),
            search: dns.search.iter().map(|name| name.as_str().into()).collect(),
            names: dns
                .names
                .iter()
                .map(|(name, ips)| (name.as_str().into(), ips.0.clone()))
                .collect(),
            node_local: dns.node_local.as_deref().copied(),
            service_time: dns.service_time.as_ref().map_or(Duration::ZERO, |t| t.0),
            memory: dns.memory,
        };
        if let Some(allow) = &cluster.allow_localhost {
            site.nodes_policed = **allow == AllowLocalhost::Policy;
            if site.nodes_policed && site.cni.enforcer() != Enforcer::KubeNetworkPolicies {
                let title = "only kindnet's policies can be asked about a pod's own node here";
                let help = "leave `allow_localhost` out, or use `profile: \"kindnet\"`";
                self.problem(ProblemCode::ScnBadValue, allow.mark, title, help);
            }
            let origin = self.file.spans.origin(allow.mark);
            let origin = self.origins.add(origin);
            site.written.insert("allow_localhost".into(), origin);
        }
        for host in &cluster.hosts {
            if let Some(zone) = &host.zone {
                self.refuse(Some(zone.mark), "the zone of a machine outside");
            }
            if host.ip.0.len() > 1 {
                self.refuse(Some(host.ip.mark), "a host with several addresses");
            }
            if let Some(ip) = host.ip.0.first() {
                site.hosts.push(OutsideHost {
                    name: host.name.as_str().into(),
                    ip: *ip,
                    via: host.via.as_ref().map(|via| (**via).clone()),
                    origin: OriginId::NONE,
                });
            }
        }
        self.nics(&mut site);
        self.places(&mut site);
        Plan {
            site,
            flags: self.flags(),
            version: self.version(),
            reactions: self.reactions(),
            nodes: 0,
        }
    }

    /// Further interfaces of nodes.
    fn nics(&mut self, site: &mut Site) {
        for given in &self.file.cluster.nodes {
            for nic in &given.nics {
                let range = nic.ip.trunc();
                let overlaps = |other: &IpNet| other.contains(&range) || range.contains(other);
                if site.underlay.subnets.iter().any(overlaps) {
                    let title = format!("{range} is the nodes' own network");
                    let help = "a further interface is in a network of its own";
                    self.problem(ProblemCode::ScnBadValue, nic.ip.mark, title, help);
                }
                let reserved = [Some(range.network()), nth_addr(range, 1)];
                if reserved.contains(&Some(nic.ip.addr())) {
                    let title = format!("{} is the network's own or its router's", nic.ip.addr());
                    self.problem(ProblemCode::ScnBadValue, nic.ip.mark, title, "");
                }
                site.nics.push(Nic {
                    node: (*given.name).clone(),
                    addr: *nic.ip,
                    default_route: nic.default_route,
                });
            }
        }
    }

    /// Remembers where settings were written that may turn out to be causes.
    fn places(&mut self, site: &mut Site) {
        /// To find a place the file is read once more.
        const MOST: usize = 64;
        let cluster = &self.file.cluster;
        let range = cluster.pod_cidr.as_ref().map(|range| range.mark);
        let range = range.map(|mark| ("pod_cidr".to_owned(), mark));
        let hosts = cluster.hosts.iter().filter_map(|host| {
            let via = host.via.as_ref()?;
            Some((format!("host/{}", *host.name), via.mark))
        });
        let nics = cluster.nodes.iter().filter_map(|node| {
            let nic = node.nics.iter().find(|nic| nic.default_route)?;
            Some((format!("nics/{}", *node.name), nic.ip.mark))
        });
        let kernel = cluster.kernel.as_ref().map(|kernel| kernel.mark);
        let kernel = kernel.map(|mark| ("kernel".to_owned(), mark));
        let kernels = cluster.nodes.iter().filter_map(|node| {
            let kernel = node.kernel.as_ref()?;
            Some((format!("kernel/{}", *node.name), kernel.mark))
        });
        let all = range.into_iter().chain(hosts).chain(nics);
        for (what, mark) in all.chain(kernel).chain(kernels).take(MOST) {
            let origin = self.file.spans.origin(mark);
            site.written.insert(what.into(), self.origins.add(origin));
        }
    }

    fn version(&mut self) -> Version {
        let Some(text) = &self.file.cluster.kubernetes else {
            return Version::default();
        };
        match text.trim_start_matches('v') {
            "1.30" => Version::V1_30,
            "1.31" => Version::V1_31,
            "1.32" => Version::V1_32,
            "1.33" => Version::V1_33,
            "1.34" => Version::V1_34,
            other => {
                let title = format!("Kubernetes {other} is not modelled");
                let help = "there are 1.30, 1.31, 1.32, 1.33 and 1.34";
                self.problem(ProblemCode::ScnBadValue, text.mark, title, help);
                Version::default()
            }
        }
    }

    fn flags(&mut self) -> Flags {
        let given = &self.file.cluster.kube_proxy;
        let mut flags = Flags {
            masquerade_all: given.masquerade_all,
            clears_mark: given.clears_mark.unwrap_or(true),
            conntrack_tcp_be_liberal: given.conntrack_tcp_be_liberal,
            ..Flags::default()
        };
        if let Some(cidrs) = &given.cluster_cidr {
            flags.cluster_cidr.clone_from(&cidrs.0);
        }
        if let Some(mode) = &given.detect_local_mode {
            match mode.as_str() {
                "ClusterCIDR" => flags.detect_local_mode = DetectLocalMode::ClusterCidr,
                "NodeCIDR" => flags.detect_local_mode = DetectLocalMode::NodeCidr,
                other => {
                    let title = format!("detect-local-mode {other} is not modelled");
                    let help = "there are ClusterCIDR and NodeCIDR";
                    self.problem(ProblemCode::ScnBadValue, mode.mark, title, help);
                }
            }
        }
        if let Some(text) = &given.nodeport_addresses {
            let nets: Result<Vec<_>, _> = text.split(',').map(str::parse).collect();
            match (text.as_str(), nets) {
                ("primary", _) => flags.nodeport_addresses = NodePortAddresses::Primary,
                (_, Ok(nets)) => flags.nodeport_addresses = NodePortAddresses::Within(nets),
                (_, Err(_)) => {
                    let title = "nodeport-addresses are `primary` or ranges";
                    self.problem(ProblemCode::ScnBadValue, text.mark, title, "");
                }
            }
        }
        flags
    }

    fn nodes(&mut self, objects: &mut Objects, site: &Site) {
        for given in &self.file.cluster.nodes {
            let name: ObjectName = (*given.name).clone();
            let node = objects
                .nodes
                .entry(name.clone())
                .or_insert_with(|| Node::new(name));
            for (key, value) in &given.labels {
                node.labels.insert(key.as_str(), value.as_str());
            }
            if let Some(zone) = &given.zone {
                node.labels
                    .insert("topology.kubernetes.io/zone", zone.as_str());
            }
            if let Some(ips) = &given.ip {
                node.internal_ips.clone_from(&ips.0);
                for ip in &ips.0 {
                    if !site.underlay.subnets.iter().any(|net| net.contains(ip)) {
                        let title = format!("{ip} is not in the nodes' network");
                        let nets: Vec<String> = site
                            .underlay
                            .subnets
                            .iter()
                            .map(ToString::to_string)
                            .collect();
                        let help = format!("it is {}", nets.join(", "));
                        self.problem(ProblemCode::ScnBadValue, ips.mark, title, &help);
                    }
                }
            }
            if let Some(cidrs) = &given.pod_cidr {
                node.pod_cidrs.clone_from(&cidrs.0);
            }
        }
        if let Some(mask) = self.file.cluster.node_mask {
            let range = site
                .pod_cidrs
                .first()
                .filter(|net| mask >= net.prefix_len() && mask <= net.max_prefix_len());
            let (Some(range), false) = (range, objects.nodes.is_empty()) else {
                return self.refuse(
                    None,
                    "`node_mask` without `nodes`, or outside of `pod_cidr`,",
                );
            };
            let mut cidrs = NodeCidrs::new(*range, mask);
            for node in objects
                .nodes
                .values_mut()
                .filter(|n| n.pod_cidrs.is_empty())
            {
                if let Ok(range) = cidrs.allocate() {
                    node.pod_cidrs.push(range);
                }
            }
        }
    }

    /// Settings of nodes, and losses of wires.
    fn tune(&mut self, lab: &mut Lab) {
        let of_all = self.file.cluster.kernel.as_deref().copied();
        for name in lab.objects.nodes.keys() {
            let mut given = self.file.cluster.nodes.iter();
            let given = given.find(|given| *given.name == *name);
            let own = given.and_then(|given| given.kernel.as_deref().copied());
            if let Some(release) = own.or(of_all) {
                lab.machines.set_release(name, release);
            }
        }
        for given in &self.file.cluster.nodes {
            for (name, value) in &given.sysctls {
                let on = format!("node/{}", *given.name);
                let fault = Fault::Sysctl {
                    on,
                    name: name.clone(),
                    value: value.clone(),
                };
                if let Err(why) = fault.begin("", &mut lab.machines) {
                    self.problem(ProblemCode::ScnBadValue, given.name.mark, why, "");
                }
            }
        }
        self.ways_in(lab);
        self.links(lab);
        let Some(loss) = self.file.cluster.underlay.loss.as_deref().copied() else {
            return;
        };
        if loss == Ratio::ZERO {
            return;
        }
        let ends: Vec<_> = lab
            .machines
            .nodes
            .values()
            .map(|machine| machine.netns)
            .collect();
        for netns in ends {
            let cluster = &mut lab.machines.cluster;
            let eth0 = cluster.netns(netns).and_then(|n| n.device_named("eth0"));
            let end = eth0.map(|device| (netns, device.index));
            let wire = end.and_then(|end| cluster.wire_behind(end));
            if let Some((id, side)) = wire
                && let Some(wire) = cluster.wire_mut(id)
                && let Some(lane) = wire.lanes.get_mut(usize::from(side))
            {
                lane.loss = loss;
            }
        }
    }

    /// Checks the nodes through which outside hosts reach the cluster's networks.
    fn ways_in(&mut self, lab: &Lab) {
        let mut of_router: Option<&Text<ObjectName>> = None;
        for host in &self.file.cluster.hosts {
            let Some(via) = &host.via else {
                continue;
            };
            if !lab.machines.nodes.contains_key(&**via) {
                let title = format!("there is no node called `{}`", **via);
                let nodes: Vec<&str> = lab.machines.nodes.keys().map(ObjectName::as_str).collect();
                let help = format!("the nodes are: {}", nodes.join(", "));
                self.problem(ProblemCode::ScnUnknownNode, via.mark, title, &help);
                continue;
            }
            if switched(lab, &format!("host/{}", *host.name)).is_some() {
                continue;
            }
            match of_router {
                Some(first) if **first != **via => {
                    let title = format!(
                        "hosts behind the router share its routes, which go through `{}`",
                        **first
                    );
                    let help = "only one node can be their way in; a host in the nodes' network has its own";
                    self.problem(ProblemCode::ScnBadValue, via.mark, title, help);
                }
                Some(_) => {}
                None => of_router = Some(via),
            }
        }
    }

    /// Pairs of machines that differ.
    fn links(&mut self, lab: &mut Lab) {
        let names = machines(lab);
        for given in &self.file.cluster.underlay.links {
            let ends = [&given.from, &given.to].map(|name| {
                let full = self.machine(name, &names)?;
                let on_switch = switched(lab, &full);
                if on_switch.is_none() {
                    let title = format!("{full} is not in the nodes' network");
                    let help =
                        "a link joins two machines of that network; others are behind its router";
                    self.problem(ProblemCode::ScnBadValue, name.mark, title, help);
                }
                on_switch
            });
            let link = Link {
                latency: given.latency.as_ref().map(|latency| latency.0),
                bandwidth: given.bandwidth.as_ref().map(|rate| rate.0),
                loss: given.loss.as_deref().copied(),
                mtu: given.mtu,
            };
            if let [Some(from), Some(to)] = ends {
                lab.machines.cluster.links.add(from, to, link);
            }
        }
    }

    fn listen(&mut self, lab: &Lab) -> Vec<Server> {
        let mut servers = Vec::new();
        for listen in &self.file.listen {
            let service_time = match &listen.service_time {
                Some(ServiceTime::Fixed(delay)) => delay.0,
                None => Duration::ZERO,
            };
            let somebody = lab.objects.pods.values().any(|pod| {
                let here = listen.namespace.as_ref();
                listen.pods.matches(&pod.labels) && here.is_none_or(|n| **n == pod.key.namespace)
            });
            if !somebody {
                let title = format!("no pod has the labels {}", *listen.pods);
                let place = match &listen.namespace {
                    Some(namespace) => format!(" of namespace {}", **namespace),
                    None => String::new(),
                };
                let help = format!(
                    "the labels of the pods{place} are in the manifests; nobody would listen"
                );
                self.problem(ProblemCode::ScnUnknownPod, listen.pods.mark, title, &help);
            }
            servers.push(Server {
                pods: listen.clone(),
                service_time,
            });
        }
        servers
    }

    fn host_ports(&self) -> Vec<(ObjectName, L4, u16)> {
        let mut all = Vec::new();
        for host in &self.file.cluster.hosts {
            let name: ObjectName = (*host.name).clone();
            let tcp = host.tcp.iter().map(|port| (name.clone(), L4::Tcp, *port));
            let udp = host.udp.iter().map(|port| (name.clone(), L4::Udp, *port));
            all.extend(tcp.chain(udp));
        }
        all
    }

    fn agenda(&mut self, lab: &Lab, sources: &[Source]) -> Vec<(Time, Doing)> {
        let mut agenda = Vec::new();
        // Writes build on each other, so they are worked out in the order of time.
        let mut entries: Vec<(usize, &Entry)> = self.file.timeline.iter().enumerate().collect();
        entries.sort_by_key(|(_, entry)| entry.from().0);
        let mut written = std::mem::take(&mut self.written);
        let mut writes: BTreeMap<usize, Doing> = BTreeMap::new();
        for (n, entry) in entries {
            let when = (entry.from().0, entry.from().mark);
            if let Some(write) = self.write(entry.step(), when, sources, &mut written) {
                writes.insert(n, write);
            }
        }
        self.written = written;
        for (n, entry) in self.file.timeline.iter().enumerate() {
            let doings = match writes.remove(&n) {
                Some(write) => vec![(Duration::ZERO, write)],
                None => self.step(entry.step(), lab),
            };
            let times: Vec<Time> = match entry {
                Entry::At { at, .. } => vec![at.0],
                Entry::Every {
                    every, from, until, ..
                } => {
                    let steps = std::iter::successors(Some(from.0), |at| Some(*at + every.0));
                    steps.take_while(|at| *at <= until.0).collect()
                }
            };
            for at in times {
                for (after, doing) in &doings {
                    agenda.push((at + *after, doing.clone()));
                }
            }
        }
        agenda.sort_by_key(|(at, _)| *at);
        agenda
    }

    /// Pods that come and go are those of some workload.
    fn somebody_to_hit(
        &mut self,
        churn: &Churn,
        mark: Mark,
        namespace: Option<&Text<Namespace>>,
        lab: &Lab,
    ) {
        let there = lab.objects.workloads.keys().map(|(_, key)| &key.namespace);
        let created = self.written.created.iter();
        let workloads = created.filter(|object| matches!(object.kind, Kind::Workload(_)));
        let mut all = there.chain(workloads.filter_map(|object| object.namespace.as_ref()));
        if all.any(|namespace| churn.concerns(namespace)) {
            return;
        }
        let (mark, title) = match namespace {
            Some(namespace) => (
                namespace.mark,
                format!("there is no workload in namespace `{}`", **namespace),
            ),
            None => (mark, "there is no workload outside kube-system".to_owned()),
        };
        let help = "pods come and go where a controller makes another for each that is deleted";
        self.problem(ProblemCode::ScnUnknownObject, mark, title, help);
    }

    /// Returns what one step does, each part with how long after the step's moment.
    fn step(&mut self, step: &Step, lab: &Lab) -> Vec<(Duration, Doing)> {
        match step {
            Step::Probe(probe) => self.probe(probe, lab),
            Step::Load(load) => self.load(load, lab),
            Step::Cordon { node } | Step::Uncordon { node } => {
                let shut = matches!(step, Step::Cordon { .. });
                let node = (**node).clone();
                vec![(Duration::ZERO, Doing::Cordon { node, shut })]
            }
            Step::Drain { node, force } => {
                let (node, force) = ((**node).clone(), *force);
                vec![(Duration::ZERO, Doing::Drain { node, force })]
            }
            Step::Churn {
                rate,
                lasts,
                namespace,
            } => {
                let churn = Churn {
                    rate: **rate,
                    lasts: lasts.0,
                    namespace: namespace.as_deref().cloned(),
                };
                self.somebody_to_hit(&churn, rate.mark, namespace.as_ref(), lab);
                vec![(Duration::ZERO, Doing::Churn(churn))]
            }
            Step::Fault(fault) => {
                let kind = self.fault(&fault.fault, &fault.id, lab);
                let id = fault.id.to_string();
                let lasts = fault.lasts.as_ref().map(|delay| delay.0);
                let mark = fault.id.mark;
                let begin = |fault| {
                    let begins = Doing::Begin {
                        id,
                        fault,
                        lasts,
                        mark,
                    };
                    (Duration::ZERO, begins)
                };
                kind.map(begin).into_iter().collect()
            }
            Step::Note { text } => {
                vec![(Duration::ZERO, Doing::Note(text.to_string()))]
            }
            Step::Exec { on, command } => {
                let known = self.sender(on, lab);
                let words: Vec<&str> = command.split_whitespace().collect();
                match Tool::parse(&words) {
                    Some(Ok(tool)) if known => {
                        let doing = Doing::Tool {
                            on: (**on).clone(),
                            text: command.to_string(),
                            tool,
                        };
                        return vec![(Duration::ZERO, doing)];
                    }
                    Some(Ok(_)) => return Vec::new(),
                    Some(Err(wrong)) => {
                        self.problem(ProblemCode::ScnBadValue, command.mark, wrong, "");
                        return Vec::new();
                    }
                    None => {}
                }
                let Some(what) = Command::parse(command) else {
                    let title = format!("`{}` is not a command that is modelled", **command);
                    let help = format!("there are {}, {}", Command::KNOWN, Tool::KNOWN);
                    self.problem(ProblemCode::ScnBadValue, command.mark, title, &help);
                    return Vec::new();
                };
                let doing = Doing::Exec {
                    on: (**on).clone(),
                    text: command.to_string(),
                    command: what,
                };
                vec![(Duration::ZERO, doing)]
            }
            // What was wrong with a write has been said.
            Step::Apply { .. }
            | Step::Delete { .. }
            | Step::Patch { .. }
            | Step::Label { .. }
            | Step::Scale { .. }
            | Step::Rollout { .. } => Vec::new(),
        }
    }

    fn load(&mut self, load: &Load, lab: &Lab) -> Vec<(Duration, Doing)> {
        if load.rate == 0 || load.rate > 1_000_000 {
            let title = "the rate of a load is between 1 and 1,000,000 a second";
            self.problem(ProblemCode::ScnBadValue, load.id.mark, title, "");
            return Vec::new();
        }
        let probe = Probe {
            id: load.id.clone(),
            from: load.from.clone(),
            to: load.to.clone(),
            protocol: load.protocol.clone(),
            payload: load.payload.clone(),
            count: None,
            interval: None,
            timeout: load.timeout.clone(),
            deadline: None,
            requests: None,
            pause: None,
            source_port: None,
            resolver: None,
            resolver_port: None,
            cache: None,
            family: None,
            ttl: None,
            must: load.must,
        };
        let (rate, lasts) = (load.rate, load.lasts.0);
        let load = self.attempt(&probe, lab).map(|attempt| Doing::Load {
            attempt: Box::new(attempt),
            rate,
            lasts,
        });
        load.map(|load| (Duration::ZERO, load))
            .into_iter()
            .collect()
    }

    /// Checks that a sender exists.
    fn sender(&mut self, thing: &Text<Thing>, lab: &Lab) -> bool {
        let Err(error) = lab.source(thing) else {
            return true;
        };
        let later = match &**thing {
            Thing::Pod(key) => self.comes_later(Kind::Pod, key),
            Thing::Workload { kind, key } => {
                Kind::from_word(kind).is_some_and(|kind| self.comes_later(kind, key))
            }
            Thing::Node(_) | Thing::Host(_) => false,
        };
        if later {
            return true;
        }
        let code = match &**thing {
            Thing::Pod(_) | Thing::Workload { .. } => ProblemCode::ScnUnknownPod,
            Thing::Node(_) => ProblemCode::ScnUnknownNode,
            Thing::Host(_) => ProblemCode::ScnUnknownHost,
        };
        self.problem(code, thing.mark, error.to_string(), "");
        false
    }

    fn probe(&mut self, probe: &Probe, lab: &Lab) -> Vec<(Duration, Doing)> {
        let Some(attempt) = self.attempt(probe, lab) else {
            return Vec::new();
        };
        let interval = probe
            .interval
            .as_ref()
            .map_or(Duration::from_secs(1), |i| i.0);
        let count = probe.count.unwrap_or(1);
        (0..count)
            .map(|n| {
                (
                    interval.saturating_mul(n),
                    Doing::Probe(Box::new(attempt.clone())),
                )
            })
            .collect()
    }

    /// Returns each attempt of a probe; nothing if it is wrong.
    fn attempt(&mut self, probe: &Probe, lab: &Lab) -> Option<Attempt> {
        let l4 = match probe.protocol.as_deref().copied().unwrap_or_default() {
            ProbeProtocol::Tcp => L4::Tcp,
            ProbeProtocol::Udp => L4::Udp,
            ProbeProtocol::Icmp => L4::Icmp,
            ProbeProtocol::Sctp => L4::Sctp,
        };
        for (given, what) in [
            (probe.source_port == Some(0), "source port"),
            (probe.resolver_port == Some(0), "source port"),
            (probe.ttl == Some(0), "time to live"),
        ] {
            if given {
                let title = format!("0 is no {what} of a probe");
                let help = "leave it out to let the kernel choose";
                self.problem(ProblemCode::ScnBadValue, probe.id.mark, title, help);
            }
        }
        let timeout = probe
            .timeout
            .as_ref()
            .map_or(Duration::from_secs(5), |t| t.0);
        let mut request = Request {
            family: probe.family.map(|family| match family {
                ProbeFamily::V4 => Family::V4,
                ProbeFamily::V6 => Family::V6,
            }),
            socket: SocketOptions {
                source_port: probe.source_port,
                ttl: probe.ttl,
                ..SocketOptions::DEFAULT
            },
            ..Request::new((*probe.to).clone(), l4, timeout)
        };
        if !self.sender(&probe.from, lab) {
            return None;
        }
        let made = lab
            .source(&probe.from)
            .and_then(|from| lab.probe(&from, &request));
        let later = match &*probe.to {
            Target::Service { key, .. } => self.comes_later(Kind::Service, key),
            Target::Pod { key, .. } => self.comes_later(Kind::Pod, key),
            Target::Node { .. }
            | Target::Host { .. }
            | Target::Address { .. }
            | Target::Name { .. }
            | Target::Url { .. } => false,
        };
        if let Err(error) = made
            && !later
            && lab.source(&probe.from).is_ok()
        {
            let code = match &*probe.to {
                _ if matches!(
                    error,
                    AttemptError::NoAddressOf(..) | AttemptError::NoSourcePort
                ) =>
                {
                    ProblemCode::ScnBadValue
                }
                Target::Service { .. } => ProblemCode::ScnUnknownService,
                Target::Pod { .. } => ProblemCode::ScnUnknownPod,
                Target::Node { .. } => ProblemCode::ScnUnknownNode,
                Target::Host { .. } => ProblemCode::ScnUnknownHost,
                Target::Address { .. } | Target::Name { .. } | Target::Url { .. } => {
                    ProblemCode::ScnBadValue
                }
            };
            self.problem(code, probe.to.mark, error.to_string(), "");
            return None;
        }
        let payload = probe.payload.as_ref().map(|size| size.0);
        let payload = payload.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        if l4 == L4::Sctp && payload.is_some_and(|bytes| bytes > sctp::MESSAGE_MAX) {
            let what = format!(
                "a message over SCTP of more than {} bytes",
                sctp::MESSAGE_MAX
            );
            self.refuse(probe.payload.as_ref().map(|size| size.mark), &what);
        }
        let pause = probe.pause.as_ref();
        let requests = match (probe.requests, pause) {
            (None, None) => None,
            (requests, pause) => Some((
                requests.unwrap_or(1),
                pause.map_or(Duration::ZERO, |pause| pause.0),
            )),
        };
        if requests.is_some() && l4 != L4::Tcp {
            self.refuse(
                Some(probe.id.mark),
                "several requests on one connection over anything but TCP",
            );
        }
        if requests.is_some_and(|(requests, _)| requests == 0) {
            let title = "0 is no number of requests";
            self.problem(ProblemCode::ScnBadValue, probe.id.mark, title, "");
        }
        request.resolver = ResolverChoice {
            flavour: probe.resolver.as_deref().copied().unwrap_or_default(),
            port: probe.resolver_port,
            keeps: probe.cache.as_ref().map(|time| time.0),
        };
        request.deadline = probe.deadline.as_ref().map(|limit| limit.0);
        Some(Attempt {
            id: probe.id.to_string(),
            from: (*probe.from).clone(),
            request,
            payload,
            requests,
            must: probe.must,
        })
    }

    /// Reads `40000-40003`.
    fn port_range(&mut self, text: &Text<String>) -> Option<PortRange> {
        let range = text.split_once('-').and_then(|(first, last)| {
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first > 0 && first <= last).then_some(PortRange { first, last })
        });
        if range.is_none() {
            let title = "ports are a first and a last one, as `40000-40003`";
            self.problem(ProblemCode::ScnBadValue, text.mark, title, "");
        }
        range
    }

    fn fault(&mut self, kind: &FaultKind, id: &Text<String>, lab: &Lab) -> Option<Fault> {
        let names = machines(lab);
        let fault = match kind {
            FaultKind::LinkDown { from, to, one_way } => Fault::LinkDown {
                from: self.machine(from, &names)?,
                to: self.machine(to, &names)?,
                one_way: *one_way,
            },
            FaultKind::NodeDown { node } => Fault::NodeDown {
                node: self.known_node(node, &names)?,
            },
            FaultKind::ForwardDrop { node } => Fault::ForwardDrop {
                node: self.known_node(node, &names)?,
            },
            FaultKind::HairpinOff { node } => Fault::HairpinOff {
                node: self.known_node(node, &names)?,
            },
            FaultKind::RouteLost { node, to } => Fault::RouteLost {
                node: self.known_node(node, &names)?,
                to: *to.0.first()?,
            },
            FaultKind::CniMissing { node } => Fault::CniMissing {
                node: self.known_node(node, &names)?,
            },
            FaultKind::IpLeak { node } => Fault::IpLeak {
                node: self.known_node(node, &names)?,
            },
            FaultKind::KubeProxyDown { node } => Fault::KubeProxyDown {
                node: self.known_node(node, &names)?,
            },
            FaultKind::Duplicate {
                from,
                to,
                after,
                count,
            } => Fault::Duplicate {
                from: self.machine(from, &names)?,
                to: self.machine(to, &names)?,
                after: after.0,
                count: count.unwrap_or(1),
            },
            FaultKind::NoConntrackCleanup { node } => Fault::NoConntrackCleanup {
                node: self.known_node(node, &names)?,
            },
            FaultKind::SnatPorts { node, ports } => Fault::SnatPorts {
                node: self.known_node(node, &names)?,
                ports: self.port_range(ports)?,
            },
            FaultKind::ConntrackRace { node } => Fault::ConntrackRace {
                node: self.known_node(node, &names)?,
            },
            FaultKind::PodKill { pod } => {
                if !self.sender(pod, lab) {
                    return None;
                }
                let source = lab.source(pod).ok()?;
                let netns = source.netns;
                let mut attached = lab.machines.pods.iter();
                if let Some((key, _)) = attached.find(|(_, attached)| attached.netns == netns) {
                    Fault::PodKill { pod: key.clone() }
                } else {
                    let what = "the end of a pod without a network of its own";
                    self.refuse(Some(pod.mark), what);
                    return None;
                }
            }
            FaultKind::Sysctl { on, name, value } => {
                if !self.sender(on, lab) {
                    return None;
                }
                let netns = lab.source(on).ok()?.netns;
                if let Err(why) = sysctl::read(name, value) {
                    let mark = match why {
                        Refused::Unknown => name.mark,
                        Refused::Value => value.mark,
                    };
                    let title = ConfigError::sysctl(name, value, why).to_string();
                    self.problem(ProblemCode::ScnBadValue, mark, title, "");
                    return None;
                }
                Fault::Sysctl {
                    on: lab.machines.cluster.netns(netns)?.name.to_string(),
                    name: name.to_string(),
                    value: value.to_string(),
                }
            }
            FaultKind::Acl {
                from,
                to,
                protocol,
                port,
            } => {
                let mut end = |name: &Option<Text<ObjectName>>| match name {
                    None => Some(None),
                    Some(name) => {
                        let netns = self.machine(name, &names)?;
                        Some(names.get(&netns)?.first().map(|ip| host_net(*ip)))
                    }
                };
                Fault::Acl(Acl {
                    id: id.as_str().into(),
                    from: end(from)?,
                    to: end(to)?,
                    l4: protocol.as_deref().map(|protocol| match protocol {
                        ProbeProtocol::Tcp => L4::Tcp,
                        ProbeProtocol::Udp => L4::Udp,
                        ProbeProtocol::Sctp => L4::Sctp,
                        ProbeProtocol::Icmp => L4::Icmp,
                    }),
                    port: *port,
                    touched: 0,
                })
            }
        };
        // Whatever it cannot do, it cannot do at the start either.
        if let Err(why) = fault.begin("", &mut lab.machines.clone()) {
            self.problem(ProblemCode::ScnBadValue, id.mark, why, "");
            return None;
        }
        Some(fault)
    }

    fn known_node(&mut self, node: &Text<ObjectName>, names: &Names) -> Option<ObjectName> {
        self.machine(node, names)?;
        Some((**node).clone())
    }

    /// Returns the name of a machine's namespace.
    fn machine(&mut self, name: &Text<ObjectName>, names: &Names) -> Option<String> {
        let all = ["node", "host"].map(|kind| format!("{kind}/{}", **name));
        let found = all.into_iter().find(|full| names.contains_key(full));
        if found.is_none() {
            let title = format!("there is no machine called `{}`", **name);
            self.problem(ProblemCode::ScnUnknownNode, name.mark, title, "");
        }
        found
    }

    fn expectations(&mut self, story: &Story) {
        let services = &story.lab.objects.services;
        for expectation in &self.file.expect {
            let service = match expectation {
                Expectation::Endpoints(endpoints) => &endpoints.service,
                Expectation::Within { condition, .. } => {
                    let crate::scenario::expect::Condition::Endpoints(endpoints) = condition;
                    &endpoints.service
                }
                Expectation::Outcome { .. }
                | Expectation::Share { .. }
                | Expectation::Touched { .. }
                | Expectation::Allows(_)
                | Expectation::Denies(_)
                | Expectation::OnlyAllowed { .. }
                | Expectation::Unchanged { .. }
                | Expectation::Always(_) => continue,
            };
            if !services.contains_key(&**service) && !self.comes_later(Kind::Service, service) {
                let title = format!("there is no Service {}", **service);
                self.problem(ProblemCode::ScnUnknownService, service.mark, title, "");
            }
        }
    }
}

/// Returns the device of a machine on the underlay's switch, and its hardware address.
fn switched(lab: &Lab, name: &str) -> Option<(WireEnd, Mac)> {
    let cluster = &lab.machines.cluster;
    let netns = cluster.netns(cluster.named(name)?)?;
    let device = netns.device_named("eth0")?;
    let end = (netns.id, device.index);
    let (at, port) = cluster.peer(end)?;
    let port = cluster.netns(at)?.device(port)?;
    port.master.is_some().then_some((end, device.mac))
}

fn machines(lab: &Lab) -> Names {
    let nodes = lab.objects.nodes.values();
    let nodes = nodes.map(|node| (format!("node/{}", node.name), node.internal_ips.clone()));
    let hosts = lab.plan.site.hosts.iter();
    let hosts = hosts.map(|host| (format!("host/{}", host.name), vec![host.ip]));
    nodes.chain(hosts).collect()
}

/// Whether a scenario with these problems must not be run.
pub fn unusable(problems: &[Problem]) -> bool {
    problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
}

/// A name that nobody else has, for programs.
pub(super) fn label(kind: &str, id: &str, n: usize) -> Arc<str> {
    format!("{kind} {id} #{n}").into()
}
