//! Problems of a scenario that take more than one word to see, and no object of a manifest.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{Target, Thing};
use super::expect::{Condition, Expectation};
use super::file::{Entry, FaultKind, ScenarioFile, Step};
use super::reader::MOST;
use super::text::{Mark, Text};
use crate::limits;
use crate::problem::{Problem, ProblemCode, Spot, is_invisible, suggestion};

/// Returns all problems that can be seen in the file alone.
pub(super) fn check(file: &ScenarioFile) -> Vec<Problem> {
    let mut check = Check {
        file,
        problems: Vec::new(),
    };
    check.version();
    check.machines();
    check.ranges();
    check.times();
    check.numbers();
    check.letters();
    check.names();
    check.machine_references();
    check.problems
}

struct Check<'a> {
    file: &'a ScenarioFile,
    problems: Vec<Problem>,
}

/// Names with where each is written.
type Known = BTreeMap<String, Mark>;

impl Check<'_> {
    fn spot(&self, mark: Mark) -> Spot {
        self.file.spans.spot(mark)
    }

    fn version(&mut self) {
        if self.file.version != 1 {
            let title = format!("version {} of the language is not known", self.file.version);
            let problem = Problem::error(ProblemCode::ScnVersion, title)
                .at(self.file.spans.start(), "in this scenario")
                .help("this podwire reads version 1");
            self.problems.push(problem);
        }
    }

    fn machines(&mut self) {
        let cluster = &self.file.cluster;
        let nodes = cluster
            .nodes
            .iter()
            .map(|node| (&node.name, node.ip.as_ref()));
        let hosts = cluster
            .hosts
            .iter()
            .map(|host| (&host.name, Some(&host.ip)));
        let mut names = Known::new();
        let mut addresses: BTreeMap<IpAddr, Mark> = BTreeMap::new();
        for (name, ips) in nodes.chain(hosts) {
            if let Some(first) = names.insert(name.to_string(), name.mark) {
                let title = format!("two machines are called `{}`", **name);
                self.twice(ProblemCode::ScnDuplicateName, &title, first, name.mark);
            }
            for ip in ips.into_iter().flat_map(|ips| &ips.0) {
                let mark = ips.map_or(name.mark, |ips| ips.mark);
                if let Some(first) = addresses.insert(*ip, mark) {
                    let title = format!("two machines have the address {ip}");
                    self.twice(ProblemCode::ScnDuplicateAddress, &title, first, mark);
                }
            }
        }
    }

    fn twice(&mut self, code: ProblemCode, title: &str, first: Mark, again: Mark) {
        if self.problems.len() >= MOST {
            return;
        }
        let problem = Problem::error(code, title)
            .at(self.spot(again), "again here")
            .also(self.spot(first), "first here");
        self.problems.push(problem);
    }

    fn ranges(&mut self) {
        let cluster = &self.file.cluster;
        let named = [
            ("pods", &cluster.pod_cidr),
            ("Services", &cluster.service_cidr),
        ];
        let all: Vec<(&str, Mark, IpNet)> = named
            .into_iter()
            .filter_map(|(whose, cidrs)| Some((whose, cidrs.as_ref()?)))
            .flat_map(|(whose, cidrs)| cidrs.0.iter().map(move |net| (whose, cidrs.mark, *net)))
            .collect();
        for (n, (whose, mark, net)) in all.iter().enumerate() {
            for (other_whose, other_mark, other) in all.iter().take(n) {
                if net.contains(other) || other.contains(net) {
                    let title = format!("the ranges of {other_whose} and {whose} overlap");
                    let problem = Problem::error(ProblemCode::ScnOverlappingCidrs, title)
                        .at(self.spot(*mark), format!("{net} for {whose}"))
                        .also(self.spot(*other_mark), format!("{other} for {other_whose}"))
                        .help("give each its own range");
                    self.problems.push(problem);
                }
            }
        }
    }

    fn times(&mut self) {
        for entry in &self.file.timeline {
            let Entry::Every {
                every, from, until, ..
            } = entry
            else {
                continue;
            };
            if every.0.is_zero() {
                let title = "a step that repeats needs time in between";
                let problem = Problem::error(ProblemCode::ScnTime, title)
                    .at(self.spot(every.mark), "no time at all");
                self.problems.push(problem);
            }
            if until.0 < from.0 {
                let problem = Problem::error(ProblemCode::ScnTime, "a step ends before it begins")
                    .at(self.spot(until.mark), "ends here")
                    .also(self.spot(from.mark), "begins here");
                self.problems.push(problem);
            }
        }
    }

    /// Checks that the scenario is not larger than one that can be simulated.
    fn numbers(&mut self) {
        let mut too_many = |title: String, spot: Spot, label: String| {
            let problem = Problem::error(ProblemCode::ScnTooMany, title).at(spot, label);
            self.problems.push(problem);
        };
        if let Some(node) = self.file.cluster.nodes.get(limits::NODES) {
            let title = format!("there are more than {} nodes", limits::NODES);
            let spot = self.file.spans.spot(node.name.mark);
            too_many(title, spot, "one too many".to_owned());
        }
        let mut attempts = 0_u128;
        for entry in &self.file.timeline {
            let times = match entry {
                Entry::At { .. } => 1,
                Entry::Every {
                    every, from, until, ..
                } => until.0.since(from.0).as_nanos() / every.0.as_nanos().max(1) + 1,
            };
            let mark = entry.from().mark;
            let each = match entry.step() {
                Step::Probe(probe) => {
                    let long = probe.payload.as_ref().map_or(0, |size| size.0 >> 13);
                    u128::from(probe.count.unwrap_or(1)) * (1 + u128::from(long))
                }
                Step::Churn { rate, lasts, .. } => 1 + rate.within(lasts.0),
                // Of an attempt of a load, next to nothing is kept.
                Step::Load(load) => {
                    let all = load.lasts.0.as_nanos() * u128::from(load.rate) / 1_000_000_000;
                    1 + all / 64
                }
                Step::Scale { replicas, .. } => {
                    if u64::from(*replicas) > limits::PODS {
                        let title = format!("a workload gets more than {} pods", limits::PODS);
                        let spot = self.file.spans.spot(mark);
                        too_many(title, spot, format!("{replicas} pods"));
                    }
                    1
                }
                Step::Apply { .. }
                | Step::Delete { .. }
                | Step::Patch { .. }
                | Step::Label { .. }
                | Step::Rollout { .. }
                | Step::Cordon { .. }
                | Step::Uncordon { .. }
                | Step::Drain { .. }
                | Step::Fault(_)
                | Step::Exec { .. }
                | Step::Note { .. } => 1,
            };
            let before = attempts;
            attempts = attempts.saturating_add(times.saturating_mul(each));
            if before <= limits::ATTEMPTS && attempts > limits::ATTEMPTS {
                let most = limits::ATTEMPTS;
                let title = format!("the timeline has more than {most} steps and attempts");
                let spot = self.file.spans.spot(mark);
                too_many(title, spot, "too many by this entry".to_owned());
            }
        }
    }

    /// Checks that what is printed as it is written cannot be mistaken for something else.
    fn letters(&mut self) {
        let ids = self
            .file
            .timeline
            .iter()
            .filter_map(|entry| match entry.step() {
                Step::Probe(probe) => Some(&probe.id),
                Step::Load(load) => Some(&load.id),
                Step::Fault(fault) => Some(&fault.id),
                Step::Note { text } => Some(text),
                Step::Exec { command, .. } => Some(command),
                Step::Apply { .. }
                | Step::Delete { .. }
                | Step::Patch { .. }
                | Step::Label { .. }
                | Step::Scale { .. }
                | Step::Rollout { .. }
                | Step::Cordon { .. }
                | Step::Uncordon { .. }
                | Step::Drain { .. }
                | Step::Churn { .. } => None,
            });
        let title = std::iter::once((self.file.title.as_str(), None));
        let all: Vec<(&str, Option<Mark>)> = title
            .chain(ids.map(|text| (text.as_str(), Some(text.mark))))
            .collect();
        for (text, mark) in all {
            let odd = |letter: &char| is_invisible(*letter) && !matches!(letter, '\n' | '\t');
            if let Some(letter) = text.chars().find(odd)
                && self.problems.len() < MOST
            {
                let spot = mark.map_or_else(|| self.file.spans.start(), |mark| self.spot(mark));
                let code = letter.escape_unicode();
                let title = format!("a text has a letter that cannot be seen, {code}");
                let problem = Problem::error(ProblemCode::ScnBadValue, title)
                    .at(spot, "in here")
                    .help("leave it out");
                self.problems.push(problem);
            }
        }
    }

    fn names(&mut self) {
        let (mut probes, mut faults) = (Known::new(), Known::new());
        for entry in &self.file.timeline {
            let (known, id, what) = match entry.step() {
                Step::Probe(probe) => (&mut probes, &probe.id, "probes"),
                Step::Load(load) => (&mut probes, &load.id, "probes"),
                Step::Fault(fault) => (&mut faults, &fault.id, "faults"),
                Step::Apply { .. }
                | Step::Delete { .. }
                | Step::Patch { .. }
                | Step::Label { .. }
                | Step::Scale { .. }
                | Step::Rollout { .. }
                | Step::Cordon { .. }
                | Step::Uncordon { .. }
                | Step::Drain { .. }
                | Step::Churn { .. }
                | Step::Exec { .. }
                | Step::Note { .. } => continue,
            };
            if let Some(first) = known.insert(id.to_string(), id.mark) {
                let title = format!("two {what} are called `{}`", **id);
                self.twice(ProblemCode::ScnDuplicateName, &title, first, id.mark);
            }
        }
        for expectation in &self.file.expect {
            match expectation {
                // The API server's calls of webhooks are attempts too.
                Expectation::Outcome { probe, .. } if probe.starts_with("webhook ") => {}
                Expectation::Outcome { probe, .. } | Expectation::Share { probe, .. } => {
                    self.reference(ProblemCode::ScnUnknownProbe, "probe", probe, &probes);
                }
                Expectation::Touched { fault, .. } => {
                    self.reference(ProblemCode::ScnUnknownFault, "fault", fault, &faults);
                }
                Expectation::Within {
                    condition: Condition::Endpoints(_),
                    ..
                }
                | Expectation::Endpoints(_)
                | Expectation::Allows(_)
                | Expectation::Denies(_)
                | Expectation::OnlyAllowed { .. }
                | Expectation::Unchanged { .. }
                | Expectation::Always(_) => {}
            }
        }
    }

    /// Checks that a name is one of those known.
    fn reference(
        &mut self,
        code: ProblemCode,
        what: &str,
        name: &Text<impl ToString>,
        known: &Known,
    ) {
        let word = name.to_string();
        if known.contains_key(&word) || self.problems.len() >= MOST {
            return;
        }
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let help = match suggestion(&word, names.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if names.is_empty() => format!("there is no {what}"),
            None => format!("the {what}s are: {}", names.join(", ")),
        };
        let problem = Problem::error(code, format!("there is no {what} called `{word}`"))
            .at(self.spot(name.mark), format!("no {what} named `{word}`"))
            .help(help);
        self.problems.push(problem);
    }

    /// Checks the names of machines, where the file says which there are.
    fn machine_references(&mut self) {
        let cluster = &self.file.cluster;
        let hosts: Known = marks(cluster.hosts.iter().map(|host| &host.name));
        let nodes: Known = marks(cluster.nodes.iter().map(|node| &node.name));
        let both: Known = nodes
            .iter()
            .chain(&hosts)
            .map(|(name, mark)| (name.clone(), *mark))
            .collect();
        let machines = Machines { nodes, hosts, both };
        for host in &cluster.hosts {
            host.via.iter().for_each(|via| self.node(via, &machines));
        }
        for link in &cluster.underlay.links {
            self.machine(&link.from, &machines);
            self.machine(&link.to, &machines);
        }
        for entry in &self.file.timeline {
            match entry.step() {
                Step::Probe(probe) => self.ends(&probe.from, &probe.to, &machines),
                Step::Load(load) => self.ends(&load.from, &load.to, &machines),
                Step::Fault(fault) => self.fault(&fault.fault, &machines),
                Step::Exec { on, .. } => self.thing(on, &machines),
                Step::Cordon { node } | Step::Uncordon { node } | Step::Drain { node, .. } => {
                    self.node(node, &machines);
                }
                Step::Apply { .. }
                | Step::Delete { .. }
                | Step::Patch { .. }
                | Step::Label { .. }
                | Step::Scale { .. }
                | Step::Rollout { .. }
                | Step::Churn { .. }
                | Step::Note { .. } => {}
            }
        }
    }

    fn ends(&mut self, from: &Text<Thing>, to: &Text<Target>, machines: &Machines) {
        self.thing(from, machines);
        match &**to {
            Target::Host { name, .. } => self.named(name, to.mark, machines, true),
            Target::Node { name, .. } => self.named(name, to.mark, machines, false),
            Target::Service { .. }
            | Target::Pod { .. }
            | Target::Address { .. }
            | Target::Name { .. }
            | Target::Url { .. } => {}
        }
    }

    fn fault(&mut self, fault: &FaultKind, machines: &Machines) {
        match fault {
            FaultKind::LinkDown { from, to, .. } | FaultKind::Duplicate { from, to, .. } => {
                self.machine(from, machines);
                self.machine(to, machines);
            }
            FaultKind::NodeDown { node }
            | FaultKind::ForwardDrop { node }
            | FaultKind::HairpinOff { node }
            | FaultKind::RouteLost { node, .. }
            | FaultKind::ConntrackRace { node }
            | FaultKind::SnatPorts { node, .. }
            | FaultKind::NoConntrackCleanup { node }
            | FaultKind::CniMissing { node }
            | FaultKind::IpLeak { node }
            | FaultKind::KubeProxyDown { node } => self.node(node, machines),
            FaultKind::PodKill { pod: on } | FaultKind::Sysctl { on, .. } => {
                self.thing(on, machines);
            }
            FaultKind::Acl { from, to, .. } => {
                from.iter()
                    .chain(to)
                    .for_each(|end| self.machine(end, machines));
            }
        }
    }

    fn thing(&mut self, thing: &Text<Thing>, machines: &Machines) {
        match &**thing {
            Thing::Host(name) => self.named(name, thing.mark, machines, true),
            Thing::Node(name) => self.named(name, thing.mark, machines, false),
            Thing::Pod(_) | Thing::Workload { .. } => {}
        }
    }

    fn node(&mut self, name: &Text<impl ToString>, machines: &Machines) {
        if !machines.nodes.is_empty() {
            self.reference(ProblemCode::ScnUnknownNode, "node", name, &machines.nodes);
        }
    }

    fn machine(&mut self, name: &Text<impl ToString>, machines: &Machines) {
        if !machines.nodes.is_empty() {
            self.reference(ProblemCode::ScnUnknownNode, "machine", name, &machines.both);
        }
    }

    fn named(&mut self, name: &impl ToString, mark: Mark, machines: &Machines, host: bool) {
        let name = Text::new(name.to_string(), mark);
        if host {
            self.reference(ProblemCode::ScnUnknownHost, "host", &name, &machines.hosts);
        } else {
            self.node(&name, machines);
        }
    }
}

/// The machines a file names. Nodes may also come from manifests, where the file names none.
struct Machines {
    nodes: Known,
    hosts: Known,
    both: Known,
}

fn marks<'a, T: ToString + 'a>(names: impl Iterator<Item = &'a Text<T>>) -> Known {
    names.map(|name| (name.to_string(), name.mark)).collect()
}
