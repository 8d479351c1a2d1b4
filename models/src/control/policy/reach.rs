//! Who may talk to whom, for all pairs at once.
//!
//! Ends that no policy tells apart are one *class*: pods by the policies that are about them, the peers they match
//! and the ports that names stand for on them; nodes and outside addresses by the peers they match. Everything is
//! computed for classes, and the time it takes grows with their number, not with the number of pods.
//!
//! Reading order: [`Reach`] (what is known), `Compiler` (how it comes about), `Sets` (numbers for connection sets).
#![expect(
    clippy::indexing_slicing,
    reason = "everything has a number that was given out for this very table"
)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::meaning::{Direction, cluster_ports, cluster_rules, isolates, rule_ports, rules};
use super::ports::Connections;
use crate::api::{
    ClusterAction, ClusterPeer, ClusterPolicy, ClusterPort, ClusterRule, NetworkPolicy, Node,
    Objects, Pod, PodSpec, PolicyPeer, PolicyPort, PolicyPorts, PolicyRule, PortRef, Tier,
};
use crate::base::addr::{from_bits, to_bits};
use crate::base::{
    Expression, Family, FxIndexMap, FxIndexSet, Labels, Namespace, ObjectName, Protocol, Selector,
};

/// A class of ends that no policy tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(u32);

/// Who may talk to whom in a cluster.
#[derive(Clone, Debug)]
pub struct Reach<'a> {
    /// Every address of every pod that runs, pods by namespace and name.
    pub members: Vec<Member<'a>>,
    /// Everybody else, by ranges of addresses, as finely as policies tell them apart; in order.
    pub outside: Vec<(IpAddr, IpAddr, ClassId)>,
    classes: usize,
    sets: Vec<Connections>,
    matrix: Vec<u32>,
}

/// One address of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The address.
    pub ip: IpAddr,
    /// Its class.
    pub class: ClassId,
}

impl Member<'_> {
    /// Whether it shares its node's network.
    pub fn host(&self) -> bool {
        self.pod.spec.host_network
    }
}

impl<'a> Reach<'a> {
    /// Computes who may talk to whom.
    pub fn new(objects: &'a Objects) -> Self {
        Compiler::new(objects).reach()
    }

    /// Returns the number of classes.
    pub const fn classes(&self) -> usize {
        self.classes
    }

    /// Returns the number of different sets of connections that occur, or occurred on the way.
    pub const fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Returns what may pass from one class to another, by policies alone.
    pub fn connections(&self, source: ClassId, destination: ClassId) -> &Connections {
        let index = source.0 as usize * self.classes + destination.0 as usize;
        &self.sets[self.matrix[index] as usize]
    }

    /// Returns what may pass from one address to another of one family, a pod's own node and a pod itself included.
    pub fn between(&self, source: &Member<'_>, destination: &Member<'_>) -> &Connections {
        let same_node = source.pod.node_name == destination.pod.node_name;
        if source.ip == destination.ip || (same_node && source.host() != destination.host()) {
            return &self.sets[ALL as usize];
        }
        self.connections(source.class, destination.class)
    }

    /// Returns the class of an address outside.
    pub fn outside_class(&self, ip: IpAddr) -> Option<ClassId> {
        let after = self.outside.partition_point(|(first, _, _)| *first <= ip);
        let (_, last, class) = self.outside.get(after.checked_sub(1)?)?;
        (ip <= *last).then_some(*class)
    }

    /// Counts the pairs of pods' addresses among which something may pass, without looking at pairs one by one.
    pub fn open_pairs(&self) -> u64 {
        let mut sizes = vec![0_u64; self.classes];
        for member in &self.members {
            sizes[member.class.0 as usize] += 1;
        }
        let mut open = 0;
        for (source, row) in self.matrix.chunks(self.classes.max(1)).enumerate() {
            let reached: u64 = row
                .iter()
                .zip(&sizes)
                .filter(|(set, _)| **set != NONE)
                .map(|(_, size)| size)
                .sum();
            open += sizes[source] * reached;
        }
        open
    }
}

const NONE: u32 = 0;
const ALL: u32 = 1;

/// Numbers for connection sets, and the results of set operations by those numbers.
#[derive(Debug, Default)]
struct Sets {
    known: FxIndexSet<Connections>,
    unions: FxIndexMap<(u32, u32), u32>,
    intersections: FxIndexMap<(u32, u32), u32>,
    differences: FxIndexMap<(u32, u32), u32>,
}

impl Sets {
    fn new() -> Self {
        let mut sets = Self::default();
        assert_eq!(sets.id(Connections::NONE), NONE);
        assert_eq!(sets.id(Connections::all()), ALL);
        sets
    }

    fn id(&mut self, set: Connections) -> u32 {
        id(&mut self.known, set)
    }

    fn union(&mut self, a: u32, b: u32) -> u32 {
        if a == b || b == NONE || a == ALL {
            return a;
        }
        if a == NONE || b == ALL {
            return b;
        }
        let key = (a.min(b), a.max(b));
        if let Some(found) = self.unions.get(&key) {
            return *found;
        }
        let set = self.known[a as usize].union(&self.known[b as usize]);
        let found = self.id(set);
        self.unions.insert(key, found);
        found
    }

    fn intersection(&mut self, a: u32, b: u32) -> u32 {
        if a == b || a == NONE || b == ALL {
            return a;
        }
        if b == NONE || a == ALL {
            return b;
        }
        let key = (a.min(b), a.max(b));
        if let Some(found) = self.intersections.get(&key) {
            return *found;
        }
        let set = self.known[a as usize].intersection(&self.known[b as usize]);
        let found = self.id(set);
        self.intersections.insert(key, found);
        found
    }

    fn difference(&mut self, a: u32, b: u32) -> u32 {
        if a == b || a == NONE || b == ALL {
            return NONE;
        }
        if b == NONE {
            return a;
        }
        if let Some(found) = self.differences.get(&(a, b)) {
            return *found;
        }
        let set = self.known[a as usize].difference(&self.known[b as usize]);
        let found = self.id(set);
        self.differences.insert((a, b), found);
        found
    }
}

fn id<T: Eq + std::hash::Hash>(all: &mut FxIndexSet<T>, item: T) -> u32 {
    let (index, _) = all.insert_full(item);
    u32::try_from(index).expect("fewer than 2³² of anything")
}

/// A way in which rules name other ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Pattern {
    /// Pods of namespaces.
    Pods(Spaces, u32),
    /// Addresses: a range and its holes, sorted.
    Block(IpNet, Vec<IpNet>),
    /// Nodes by their labels.
    Nodes(Selector),
}

/// Namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Spaces {
    /// This one.
    One(Namespace),
    /// Those that a selector selects.
    Selected(Selector),
}

/// A rule of any policy.
#[derive(Debug)]
struct Rule<'a> {
    /// What it does.
    action: ClusterAction,
    /// Who it speaks of: patterns, or everybody.
    peers: Option<Vec<u32>>,
    /// Whether some peer is not understood, so that it must be taken as "deny all" unless it accepts.
    unknown: bool,
    ports: Ports<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Ports<'a> {
    /// The same ports whoever the destination is.
    Fixed(u32),
    /// Names among them.
    Named(&'a [PolicyPort]),
    /// Names among them.
    ClusterNamed(&'a ClusterRule),
}

/// A policy for one direction.
#[derive(Debug)]
struct Policy<'a> {
    stage: Stage,
    rules: Vec<Rule<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Admin,
    Network,
    Baseline,
}

/// Who an end is, for policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// A pod: numbers of its namespace, its labels and its named ports.
    Pod {
        space: u32,
        labels: u32,
        ports: u32,
    },
    /// A node: which of the node patterns match it.
    Host {
        patterns: u32,
    },
    Outside,
}

/// What all ends of a class have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Class {
    /// Which policies are about it, by direction; `None` if none can be.
    groups: Option<[u32; 2]>,
    /// What names stand for on it.
    ports: u32,
    /// Which patterns match it.
    patterns: Arc<[u32]>,
}

struct Compiler<'a> {
    objects: &'a Objects,
    sets: Sets,
    patterns: FxIndexSet<Pattern>,
    selectors: FxIndexSet<&'a Selector>,
    policies: [Vec<Policy<'a>>; 2],
    /// Which pods a policy is about: a pattern, and the policy's number by direction.
    subjects: Vec<(u32, [Option<u32>; 2])>,
    keys: BTreeSet<&'a str>,
    names: BTreeSet<&'a str>,
}

/// Selects everything.
static EVERYTHING: Selector = Selector {
    match_labels: Labels::new(),
    match_expressions: Vec::new(),
};

impl<'a> Compiler<'a> {
    fn new(objects: &'a Objects) -> Self {
        let mut compiler = Self {
            objects,
            sets: Sets::new(),
            patterns: FxIndexSet::default(),
            selectors: FxIndexSet::default(),
            policies: [Vec::new(), Vec::new()],
            subjects: Vec::new(),
            keys: BTreeSet::new(),
            names: BTreeSet::new(),
        };
        let mut cluster: Vec<&ClusterPolicy> = objects.cluster_policies.values().collect();
        cluster.sort_by_key(|policy| (policy.tier, policy.priority, &policy.name, policy.kind));
        for policy in &cluster {
            if policy.tier == Tier::Admin {
                compiler.cluster(policy, Stage::Admin);
            }
        }
        for policy in objects.network_policies.values() {
            compiler.network(policy);
        }
        for policy in &cluster {
            if policy.tier == Tier::Baseline {
                compiler.cluster(policy, Stage::Baseline);
            }
        }
        compiler
    }

    fn add(&mut self, direction: usize, policy: Policy<'a>) -> u32 {
        self.policies[direction].push(policy);
        u32::try_from(self.policies[direction].len() - 1).expect("fewer than 2³² policies")
    }

    fn network(&mut self, policy: &'a NetworkPolicy) {
        let mut numbers = [None, None];
        for direction in Direction::BOTH {
            if isolates(policy, direction) {
                let compiled = rules(policy, direction)
                    .iter()
                    .map(|rule| self.rule(policy, rule))
                    .collect();
                let compiled = Policy {
                    stage: Stage::Network,
                    rules: compiled,
                };
                numbers[index(direction)] = Some(self.add(index(direction), compiled));
            }
        }
        let spaces = Spaces::One(policy.key.namespace.clone());
        let pattern = self.pods(spaces, &policy.pod_selector);
        self.subjects.push((pattern, numbers));
    }

    fn cluster(&mut self, policy: &'a ClusterPolicy, stage: Stage) {
        let mut numbers = [None, None];
        for direction in Direction::BOTH {
            let rules = cluster_rules(policy, direction);
            if !rules.is_empty() {
                let rules = rules.iter().map(|rule| self.cluster_rule(rule)).collect();
                let compiled = Policy { stage, rules };
                numbers[index(direction)] = Some(self.add(index(direction), compiled));
            }
        }
        let subject = &policy.subject;
        let spaces = Spaces::Selected(subject.namespaces.clone());
        let pattern = self.pods(spaces, &subject.pods);
        self.subjects.push((pattern, numbers));
    }

    fn pods(&mut self, spaces: Spaces, selector: &'a Selector) -> u32 {
        self.keys
            .extend(selector.match_labels.iter().map(|(key, _)| key));
        self.keys
            .extend(selector.match_expressions.iter().map(Expression::key));
        let selector = id(&mut self.selectors, selector);
        id(&mut self.patterns, Pattern::Pods(spaces, selector))
    }

    fn block(&mut self, cidr: IpNet, except: &[IpNet]) -> u32 {
        let mut except: Vec<IpNet> = except.iter().map(IpNet::trunc).collect();
        except.sort_unstable();
        except.dedup();
        id(&mut self.patterns, Pattern::Block(cidr.trunc(), except))
    }

    fn rule(&mut self, policy: &'a NetworkPolicy, rule: &'a PolicyRule) -> Rule<'a> {
        let peer = |peer: &'a PolicyPeer| match peer {
            PolicyPeer::IpBlock(block) => self.block(block.cidr, &block.except),
            PolicyPeer::Pods {
                namespaces, pods, ..
            } => {
                let spaces = match namespaces {
                    Some(selector) => Spaces::Selected(selector.clone()),
                    None => Spaces::One(policy.key.namespace.clone()),
                };
                self.pods(spaces, pods.as_ref().unwrap_or(&EVERYTHING))
            }
        };
        let peers: Vec<u32> = rule.peers.iter().map(peer).collect();
        let mut named = false;
        for port in &rule.ports {
            if let PolicyPorts::One(PortRef::Name(name)) = &port.ports {
                self.names.insert(name);
                named = true;
            }
        }
        Rule {
            action: ClusterAction::Accept,
            peers: (!rule.peers.is_empty()).then_some(peers),
            unknown: false,
            ports: if named {
                Ports::Named(&rule.ports)
            } else {
                Ports::Fixed(self.sets.id(rule_ports(&rule.ports, None)))
            },
        }
    }

    fn cluster_rule(&mut self, rule: &'a ClusterRule) -> Rule<'a> {
        let mut unknown = false;
        let mut peers = Vec::new();
        for peer in &rule.peers {
            match peer {
                ClusterPeer::Pods(set) => {
                    let spaces = Spaces::Selected(set.namespaces.clone());
                    peers.push(self.pods(spaces, &set.pods));
                }
                ClusterPeer::Nodes(selector) => {
                    peers.push(id(&mut self.patterns, Pattern::Nodes(selector.clone())));
                }
                ClusterPeer::Networks(nets) => {
                    peers.extend(nets.iter().map(|net| self.block(*net, &[])));
                }
                ClusterPeer::DomainNames(_) | ClusterPeer::Unknown => unknown = true,
            }
        }
        let mut named = false;
        for port in rule.ports.iter().flatten() {
            if let ClusterPort::Named(name) = port {
                self.names.insert(name);
                named = true;
            }
        }
        Rule {
            action: rule.action,
            peers: Some(peers),
            unknown,
            ports: if named {
                Ports::ClusterNamed(rule)
            } else {
                Ports::Fixed(self.sets.id(cluster_ports(rule, None)))
            },
        }
    }

    fn reach(mut self) -> Reach<'a> {
        let patterns = std::mem::take(&mut self.patterns);
        let blocks = Blocks::new(&patterns);
        let mut ends = Ends::default();
        let mut members: Vec<(&'a Pod, IpAddr, u32)> = Vec::new();
        for pod in self.objects.pods.values().filter(|pod| !pod.ended()) {
            if pod.pod_ips.is_empty() {
                continue;
            }
            let kind = if pod.spec.host_network {
                let node = pod.node_name.as_ref();
                let node = node.and_then(|name| self.objects.nodes.get(name));
                Kind::Host {
                    patterns: ends.node(node, &patterns),
                }
            } else {
                Kind::Pod {
                    space: ends.space(&pod.key.namespace),
                    labels: ends.labels(pod, &self.keys),
                    ports: ends.named(pod, &self.names),
                }
            };
            for ip in &pod.pod_ips {
                let end = (kind, blocks.at(*ip));
                members.push((pod, *ip, id(&mut ends.seen, end)));
            }
        }
        let mut outside = Vec::new();
        for family in [Family::V4, Family::V6] {
            if members.iter().any(|(_, ip, _)| Family::of(*ip) == family) {
                for (first, last, at) in blocks.ranges(family) {
                    let end = id(&mut ends.seen, (Kind::Outside, at));
                    outside.push((first, last, end));
                }
            }
        }
        let (classes, of_end, groups) = self.classes(&ends, &patterns, &blocks);
        let class = |end: u32| ClassId(of_end[end as usize]);
        let matrix = self.matrix(&classes, &groups, &ends, patterns.len());
        Reach {
            members: members
                .into_iter()
                .map(|(pod, ip, end)| Member {
                    pod,
                    ip,
                    class: class(end),
                })
                .collect(),
            outside: outside
                .into_iter()
                .map(|(first, last, end)| (first, last, class(end)))
                .collect(),
            classes: classes.len(),
            sets: self.sets.known.into_iter().collect(),
            matrix,
        }
    }

    /// Puts ends together that no policy tells apart. Returns the classes, which of them each end belongs to, and
    /// the groups of policies that are about them.
    fn classes(
        &self,
        ends: &Ends<'a>,
        patterns: &FxIndexSet<Pattern>,
        blocks: &Blocks,
    ) -> (FxIndexSet<Class>, Vec<u32>, FxIndexSet<Vec<u32>>) {
        let mut matched: Vec<Vec<u32>> = Vec::with_capacity(ends.seen.len());
        let mut in_space: Vec<Vec<(u32, u32)>> = vec![Vec::new(); ends.spaces.len()];
        for (number, (kind, at)) in (0_u32..).zip(&ends.seen) {
            let mut own = blocks.patterns[*at as usize].clone();
            match kind {
                Kind::Pod { space, labels, .. } => {
                    in_space[*space as usize].push((number, *labels));
                }
                Kind::Host { patterns } => own.extend(&ends.nodes[*patterns as usize]),
                Kind::Outside => {}
            }
            matched.push(own);
        }
        let mut namespaces = SpaceIndex::new(self.objects, ends);
        let mut selected = Memo::new(&self.selectors, &ends.labels);
        let mut about: Vec<[Vec<u32>; 2]> = vec![[Vec::new(), Vec::new()]; ends.seen.len()];
        let mut subjects: Vec<Vec<usize>> = vec![Vec::new(); patterns.len()];
        for (number, (pattern, _)) in self.subjects.iter().enumerate() {
            subjects[*pattern as usize].push(number);
        }
        for (number, pattern) in (0_u32..).zip(patterns) {
            let Pattern::Pods(spaces, selector) = pattern else {
                continue;
            };
            for space in namespaces.get(spaces) {
                for (end, labels) in &in_space[*space as usize] {
                    if selected.matches(*selector, *labels) {
                        matched[*end as usize].push(number);
                        for subject in &subjects[number as usize] {
                            for (direction, policy) in self.subjects[*subject].1.iter().enumerate()
                            {
                                about[*end as usize][direction].extend(policy);
                            }
                        }
                    }
                }
            }
        }
        let mut groups: FxIndexSet<Vec<u32>> = FxIndexSet::default();
        let mut classes = FxIndexSet::default();
        let mut of_end = Vec::with_capacity(matched.len());
        for ((patterns, mut about), (kind, _)) in matched.into_iter().zip(about).zip(&ends.seen) {
            let mut patterns = patterns;
            patterns.sort_unstable();
            let (ports, subject) = match kind {
                Kind::Pod { ports, .. } => (*ports, true),
                Kind::Host { .. } | Kind::Outside => (0, false),
            };
            let class = Class {
                groups: subject.then(|| {
                    about.each_mut().map(|policies| {
                        policies.sort_unstable();
                        id(&mut groups, std::mem::take(policies))
                    })
                }),
                ports,
                patterns: patterns.into(),
            };
            of_end.push(id(&mut classes, class));
        }
        (classes, of_end, groups)
    }

    /// Computes what may pass between any two classes.
    fn matrix(
        &mut self,
        classes: &FxIndexSet<Class>,
        groups: &FxIndexSet<Vec<u32>>,
        ends: &Ends<'a>,
        patterns: usize,
    ) -> Vec<u32> {
        let mut by_pattern: Vec<Vec<u32>> = vec![Vec::new(); patterns];
        for (number, class) in (0_u32..).zip(classes) {
            for pattern in &*class.patterns {
                by_pattern[*pattern as usize].push(number);
            }
        }
        let mut lines: FxIndexMap<(usize, u32, u32), Vec<u32>> = FxIndexMap::default();
        let mut line_of = [Vec::new(), Vec::new()];
        for class in classes {
            for direction in Direction::BOTH {
                let at = index(direction);
                let Some(group) = class.groups.map(|groups| groups[at]) else {
                    line_of[at].push(None);
                    continue;
                };
                // On the way in, names stand for the ports of this very class.
                let ports = match direction {
                    Direction::Ingress => class.ports,
                    Direction::Egress => 0,
                };
                let key = (at, group, ports);
                if !lines.contains_key(&key) {
                    let policies = &groups[group as usize];
                    let line = self.line(direction, policies, class, classes, &by_pattern, ends);
                    lines.insert(key, line);
                }
                line_of[at].push(lines.get_index_of(&key));
            }
        }
        let line = |number: Option<usize>| {
            number.and_then(|number| lines.get_index(number).map(|(_, line)| line))
        };
        let count = classes.len();
        let incoming: Vec<_> = line_of[index(Direction::Ingress)]
            .iter()
            .map(|number| line(*number))
            .collect();
        let mut matrix = Vec::with_capacity(count * count);
        for source in 0..count {
            let outgoing = line(line_of[index(Direction::Egress)][source]);
            for (destination, incoming) in incoming.iter().enumerate() {
                let out = outgoing.map_or(ALL, |line| line[destination]);
                let into = incoming.map_or(ALL, |line| line[source]);
                matrix.push(self.sets.intersection(out, into));
            }
        }
        matrix
    }

    /// Computes what policies about `subject` allow between it and each class.
    fn line(
        &mut self,
        direction: Direction,
        policies: &[u32],
        subject: &Class,
        classes: &FxIndexSet<Class>,
        by_pattern: &[Vec<u32>],
        ends: &Ends<'a>,
    ) -> Vec<u32> {
        let count = classes.len();
        let all = std::mem::take(&mut self.policies);
        let own = |stage: Stage| {
            policies
                .iter()
                .map(|number| &all[index(direction)][*number as usize])
                .filter(move |policy| policy.stage == stage)
        };
        let mut work = Line {
            sets: &mut self.sets,
            classes,
            by_pattern,
            ends,
            fixed_ports: match direction {
                Direction::Ingress => Some(subject.ports),
                Direction::Egress => None,
            },
            seen: vec![false; count],
        };
        let mut allowed = vec![NONE; count];
        let mut open = work.tier(own(Stage::Admin), &mut allowed);
        if own(Stage::Network).next().is_some() {
            let mut admitted = vec![NONE; count];
            for rule in own(Stage::Network).flat_map(|policy| &policy.rules) {
                work.each(rule, |sets, class, ports, _| {
                    admitted[class] = sets.union(admitted[class], ports);
                });
            }
            for (open, admitted) in open.iter_mut().zip(admitted) {
                *open = work.sets.intersection(*open, admitted);
            }
        } else {
            let mut accepted = vec![NONE; count];
            let rest = work.tier(own(Stage::Baseline), &mut accepted);
            for ((open, accepted), rest) in open.iter_mut().zip(accepted).zip(rest) {
                let granted = work.sets.union(accepted, rest);
                *open = work.sets.intersection(*open, granted);
            }
        }
        for (open, allowed) in open.iter_mut().zip(allowed) {
            *open = work.sets.union(*open, allowed);
        }
        self.policies = all;
        open
    }
}

/// What is at hand while one line is computed.
struct Line<'w, 'a> {
    sets: &'w mut Sets,
    classes: &'w FxIndexSet<Class>,
    by_pattern: &'w [Vec<u32>],
    ends: &'w Ends<'a>,
    /// What names stand for, if that does not depend on the other end.
    fixed_ports: Option<u32>,
    seen: Vec<bool>,
}

impl Line<'_, '_> {
    /// Asks the policies of one tier. Adds what they accept to `allowed`, and returns what they leave open.
    fn tier<'p, 'a: 'p>(
        &mut self,
        policies: impl Iterator<Item = &'p Policy<'a>>,
        allowed: &mut [u32],
    ) -> Vec<u32> {
        let mut rest = vec![ALL; allowed.len()];
        let mut passed = vec![NONE; allowed.len()];
        for rule in policies.flat_map(|policy| &policy.rules) {
            self.each(rule, |sets, class, ports, action| {
                let decided = sets.intersection(rest[class], ports);
                match action {
                    ClusterAction::Accept => {
                        allowed[class] = sets.union(allowed[class], decided);
                    }
                    ClusterAction::Deny => {}
                    ClusterAction::Pass => passed[class] = sets.union(passed[class], decided),
                }
                rest[class] = sets.difference(rest[class], decided);
            });
        }
        for (rest, passed) in rest.iter_mut().zip(passed) {
            *rest = self.sets.union(*rest, passed);
        }
        rest
    }

    /// Does something for each class that a rule speaks of, with the ports it speaks of and what it does.
    fn each(&mut self, rule: &Rule<'_>, mut act: impl FnMut(&mut Sets, usize, u32, ClusterAction)) {
        let mut of_names: FxIndexMap<u32, u32> = FxIndexMap::default();
        let fixed = match rule.ports {
            Ports::Fixed(set) => Some(set),
            Ports::Named(_) | Ports::ClusterNamed(_) => None,
        };
        let mut one = |sets: &mut Sets, class: usize| {
            let ports = fixed.unwrap_or_else(|| {
                let names = self
                    .fixed_ports
                    .unwrap_or_else(|| self.classes[class].ports);
                *of_names.entry(names).or_insert_with(|| {
                    let pod = self.ends.port_pods[names as usize];
                    sets.id(match rule.ports {
                        Ports::Named(ports) => rule_ports(ports, pod),
                        Ports::ClusterNamed(rule) => cluster_ports(rule, pod),
                        Ports::Fixed(_) => Connections::NONE,
                    })
                })
            });
            act(sets, class, ports, rule.action);
        };
        let Some(peers) = &rule.peers else {
            for class in 0..self.classes.len() {
                one(self.sets, class);
            }
            return;
        };
        for pattern in peers {
            for class in &self.by_pattern[*pattern as usize] {
                let class = *class as usize;
                if !std::mem::replace(&mut self.seen[class], true) {
                    one(self.sets, class);
                }
            }
        }
        if rule.unknown && rule.action != ClusterAction::Accept {
            for class in 0..self.classes.len() {
                if !self.seen[class] {
                    act(self.sets, class, ALL, ClusterAction::Deny);
                }
            }
        }
        for pattern in peers {
            for class in &self.by_pattern[*pattern as usize] {
                self.seen[*class as usize] = false;
            }
        }
    }
}

/// What ends look like to policies, each property by number.
#[derive(Default)]
struct Ends<'a> {
    seen: FxIndexSet<(Kind, u32)>,
    spaces: FxIndexSet<Namespace>,
    labels: FxIndexSet<Labels>,
    ports: FxIndexSet<Vec<(&'a str, Protocol, u16)>>,
    /// A pod for each number of named ports; none for number 0, no names.
    port_pods: Vec<Option<&'a Pod>>,
    by_spec: FxIndexMap<*const PodSpec, u32>,
    nodes: FxIndexSet<Vec<u32>>,
    by_node: FxIndexMap<&'a ObjectName, u32>,
}

impl<'a> Ends<'a> {
    fn space(&mut self, namespace: &Namespace) -> u32 {
        if let Some(found) = self.spaces.get_index_of(namespace) {
            return u32::try_from(found).expect("fewer than 2³² namespaces");
        }
        id(&mut self.spaces, namespace.clone())
    }

    /// Of a pod's labels, only those that some selector looks at.
    fn labels(&mut self, pod: &Pod, keys: &BTreeSet<&str>) -> u32 {
        let all = pod.labels.pairs().iter();
        let some = all.filter(|(key, _)| keys.contains(&**key));
        let some = some.map(|(key, value)| (Arc::clone(key), Arc::clone(value)));
        id(&mut self.labels, some.collect())
    }

    /// Of a pod's named ports, only those that some rule names.
    fn named(&mut self, pod: &'a Pod, names: &BTreeSet<&str>) -> u32 {
        if self.port_pods.is_empty() {
            self.port_pods.push(None);
            self.ports.insert(Vec::new());
        }
        let spec = Arc::as_ptr(&pod.spec);
        if let Some(found) = self.by_spec.get(&spec) {
            return *found;
        }
        let named = pod.spec.ports().filter_map(|port| {
            let name = port.name.as_deref()?;
            names
                .contains(name)
                .then_some((name, port.protocol, port.container_port))
        });
        let mut named: Vec<_> = named.collect();
        named.sort_unstable();
        let number = id(&mut self.ports, named);
        if number as usize == self.port_pods.len() {
            self.port_pods.push(Some(pod));
        }
        self.by_spec.insert(spec, number);
        number
    }

    fn node(&mut self, node: Option<&'a Node>, patterns: &FxIndexSet<Pattern>) -> u32 {
        let Some(node) = node else {
            return id(&mut self.nodes, Vec::new());
        };
        if let Some(found) = self.by_node.get(&node.name) {
            return *found;
        }
        let matching = (0_u32..).zip(patterns).filter_map(|(number, pattern)| {
            let matches = match pattern {
                Pattern::Nodes(selector) => selector.matches(&node.labels),
                Pattern::Pods(..) | Pattern::Block(..) => false,
            };
            matches.then_some(number)
        });
        let number = id(&mut self.nodes, matching.collect());
        self.by_node.insert(&node.name, number);
        number
    }
}

/// Which namespaces are meant.
struct SpaceIndex<'e> {
    labels: Vec<Labels>,
    spaces: &'e FxIndexSet<Namespace>,
    found: FxIndexMap<Spaces, Vec<u32>>,
}

impl<'e> SpaceIndex<'e> {
    fn new(objects: &Objects, ends: &'e Ends<'_>) -> Self {
        let spaces = &ends.spaces;
        let labels = spaces.iter().map(|space| objects.namespace_labels(space));
        Self {
            labels: labels.collect(),
            spaces,
            found: FxIndexMap::default(),
        }
    }

    fn get(&mut self, spaces: &Spaces) -> &[u32] {
        if !self.found.contains_key(spaces) {
            let meant = match spaces {
                Spaces::One(namespace) => self
                    .spaces
                    .get_index_of(namespace)
                    .and_then(|index| u32::try_from(index).ok())
                    .into_iter()
                    .collect(),
                Spaces::Selected(selector) => (0_u32..)
                    .zip(&self.labels)
                    .filter(|(_, labels)| selector.matches(labels))
                    .map(|(number, _)| number)
                    .collect(),
            };
            self.found.insert(spaces.clone(), meant);
        }
        &self.found[spaces]
    }
}

/// Which selectors match which labels, found out when asked for the first time.
struct Memo<'e, 'a> {
    selectors: &'e FxIndexSet<&'a Selector>,
    labels: &'e FxIndexSet<Labels>,
    known: Vec<Option<bool>>,
}

impl<'e, 'a> Memo<'e, 'a> {
    fn new(selectors: &'e FxIndexSet<&'a Selector>, labels: &'e FxIndexSet<Labels>) -> Self {
        let known = vec![None; selectors.len() * labels.len()];
        Self {
            selectors,
            labels,
            known,
        }
    }

    fn matches(&mut self, selector: u32, labels: u32) -> bool {
        let (selector, labels) = (selector as usize, labels as usize);
        let known = &mut self.known[selector * self.labels.len() + labels];
        *known.get_or_insert_with(|| self.selectors[selector].matches(&self.labels[labels]))
    }
}

/// The space of addresses, cut where some block begins or ends.
#[derive(Debug)]
struct Blocks {
    /// Where each piece begins, and the number of the patterns it is in.
    pieces: [Vec<(u128, u32)>; 2],
    patterns: FxIndexSet<Vec<u32>>,
}

impl Blocks {
    fn new(patterns: &FxIndexSet<Pattern>) -> Self {
        let mut cuts = [vec![0_u128], vec![0_u128]];
        let blocks = (0_u32..)
            .zip(patterns)
            .filter_map(|(number, pattern)| match pattern {
                Pattern::Block(cidr, except) => Some((number, cidr, except)),
                Pattern::Pods(..) | Pattern::Nodes(_) => None,
            });
        let blocks: Vec<_> = blocks.collect();
        for (_, cidr, except) in &blocks {
            for net in std::iter::once(*cidr).chain(*except) {
                let (first, last) = bounds(net);
                let cuts = &mut cuts[family_index(&net.addr())];
                cuts.push(first);
                cuts.extend(
                    last.checked_add(1)
                        .filter(|next| *next <= most(&net.addr())),
                );
            }
        }
        let mut sets: FxIndexSet<Vec<u32>> = FxIndexSet::default();
        sets.insert(Vec::new());
        let pieces = [0, 1].map(|family| {
            let cuts = &mut cuts[family];
            cuts.sort_unstable();
            cuts.dedup();
            let mut inside: Vec<Vec<u32>> = vec![Vec::new(); cuts.len()];
            for (number, cidr, except) in &blocks {
                if family_index(&cidr.addr()) != family {
                    continue;
                }
                let span = |net: &IpNet| {
                    let (first, last) = bounds(net);
                    let from = cuts.partition_point(|cut| *cut < first);
                    let to = cuts.partition_point(|cut| *cut <= last);
                    from..to
                };
                let holes: Vec<_> = except.iter().map(span).collect();
                let mut hole = holes.iter().peekable();
                for piece in span(cidr) {
                    while hole.next_if(|range| range.end <= piece).is_some() {}
                    if !hole.peek().is_some_and(|range| range.contains(&piece)) {
                        inside[piece].push(*number);
                    }
                }
            }
            let numbers = inside.into_iter().map(|set| id(&mut sets, set));
            cuts.iter().copied().zip(numbers).collect()
        });
        Self {
            pieces,
            patterns: sets,
        }
    }

    /// Returns the number of the patterns that an address is in.
    fn at(&self, ip: IpAddr) -> u32 {
        let pieces = &self.pieces[family_index(&ip)];
        let value = to_bits(ip);
        let after = pieces.partition_point(|(first, _)| *first <= value);
        pieces[after - 1].1
    }

    /// Returns the ranges of addresses of a family: first, last, the number of the patterns they are in.
    fn ranges(&self, family: Family) -> Vec<(IpAddr, IpAddr, u32)> {
        let zero = family.unspecified();
        let (index, most) = (family_index(&zero), most(&zero));
        let ip = |bits| from_bits(family, bits).unwrap_or(zero);
        let pieces = &self.pieces[index];
        let mut ranges: Vec<(u128, u128, u32)> = Vec::with_capacity(pieces.len());
        for (number, (first, set)) in pieces.iter().enumerate() {
            let last = pieces.get(number + 1).map_or(most, |(next, _)| next - 1);
            match ranges.last_mut() {
                Some((_, end, same)) if same == set => *end = last,
                _ => ranges.push((*first, last, *set)),
            }
        }
        let ranges = ranges.into_iter();
        ranges
            .map(|(first, last, set)| (ip(first), ip(last), set))
            .collect()
    }
}

fn bounds(net: &IpNet) -> (u128, u128) {
    (to_bits(net.network()), to_bits(net.broadcast()))
}

fn most(ip: &IpAddr) -> u128 {
    match ip {
        IpAddr::V4(_) => u32::MAX.into(),
        IpAddr::V6(_) => u128::MAX,
    }
}

const fn family_index(ip: &IpAddr) -> usize {
    match ip {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

const fn index(direction: Direction) -> usize {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    }
}
