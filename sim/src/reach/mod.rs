//! Who may talk to whom, as people and programs read it: workloads and ranges of addresses instead of pods.
//!
//! Reading order: this file (from objects to rows), [`diff`] (two answers against each other), [`end`] (ends as
//! people type them), [`explain`] (one connection in words), [`vacuity`] (what is without effect).
//!
//! # Fidelity
//! This is what policies allow, where somebody enforces them; whether a route leads there, and whether something
//! listens, plays no part. A workload whose pods differ is shown with what holds for all of its pods, and separately
//! with what holds for some.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use podwire_models::api::{Objects, OwnerRef, Pod, Workload, WorkloadKind};
use podwire_models::base::addr::nth_addr;
use podwire_models::base::{Family, Namespace, ObjectKey, ObjectName};
use podwire_models::control::policy::reach::{ClassId, Member, Reach};
use podwire_models::control::policy::{Connections, Flow, PortSet};

pub mod diff;
pub mod end;
pub mod explain;
pub mod vacuity;

/// Who can be one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods that are made from one template, or one bare pod.
    Workload {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: ObjectName,
        /// Its kind, `Pod` for bare pods.
        kind: Arc<str>,
    },
    /// Addresses outside, from one to another.
    Outside(IpAddr, IpAddr),
}

impl Peer {
    /// Returns the peer that a pod belongs to.
    pub fn of(pod: &Pod, objects: &Objects) -> Self {
        let owner = pod.owner.as_ref().map(|owner| top(owner, pod, objects));
        let (kind, name) = owner.unwrap_or_else(|| ("Pod".into(), pod.key.name.clone()));
        Self::Workload {
            namespace: pod.key.namespace.clone(),
            name,
            kind,
        }
    }
}

/// Goes from a ReplicaSet to its Deployment, if that is among the objects.
fn top(owner: &OwnerRef, pod: &Pod, objects: &Objects) -> (Arc<str>, ObjectName) {
    let namespace = &pod.key.namespace;
    let stated = (Arc::clone(&owner.kind), owner.name.clone());
    if &*owner.kind != "ReplicaSet" {
        return stated;
    }
    let key = ObjectKey::new(namespace.clone(), owner.name.clone());
    let replica_set = objects.workloads.get(&(WorkloadKind::ReplicaSet, key));
    let parent = replica_set.and_then(|set| set.owner.as_ref());
    let by_hash = || {
        let hash = pod.labels.get("pod-template-hash")?;
        let stem = owner.name.as_str().strip_suffix(hash)?.strip_suffix('-')?;
        stem.parse().ok()
    };
    let Some(name) = parent.map(|parent| parent.name.clone()).or_else(by_hash) else {
        return stated;
    };
    let key = ObjectKey::new(namespace.clone(), name.clone());
    if objects
        .workloads
        .contains_key(&(WorkloadKind::Deployment, key))
    {
        ("Deployment".into(), name)
    } else {
        stated
    }
}

impl fmt::Display for Peer {
    /// `shop/cart[Deployment]`, `0.0.0.0-255.255.255.255`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload {
                namespace,
                name,
                kind,
            } => f.pad(&format!("{namespace}/{name}[{kind}]")),
            Self::Outside(first, last) => f.pad(&format!("{first}-{last}")),
        }
    }
}

/// What may pass from one peer to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// From where.
    pub source: Peer,
    /// To where.
    pub destination: Peer,
    /// Between all pods of the two.
    pub allowed: Connections,
    /// Between some pods of the two, and not between all.
    pub partly: Connections,
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only from these.
    pub from: Option<BTreeSet<Peer>>,
    /// Only to these.
    pub to: Option<BTreeSet<Peer>>,
    /// Only this port; of all three protocols if there is none.
    pub port: Option<Connections>,
    /// Only ports that containers of the destination declare.
    pub listening: bool,
    /// Also the name server that is made up if the input has none.
    pub made_up: bool,
}

/// Returns the connections to one port, of a protocol or of all of them.
pub fn one_port(protocol: Option<podwire_models::base::Protocol>, port: u16) -> Connections {
    let of = |protocol| Connections::of(protocol, PortSet::range(port, port));
    protocol.map_or_else(
        || {
            let all = podwire_models::base::Protocol::ALL.map(of);
            all.iter()
                .fold(Connections::NONE, |sum, one| sum.union(one))
        },
        of,
    )
}

/// The answer for a whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reachability {
    /// Everybody: workloads by namespace and name, then ranges of addresses.
    pub peers: Vec<Peer>,
    /// What is allowed. Pairs without anything are left out, and so are pairs of a workload with itself.
    pub rows: Vec<Row>,
    /// In how many classes all ends were put.
    pub classes: usize,
    /// What was concluded on the way.
    pub notes: Vec<String>,
}

/// Some pods of a workload that no policy tells apart.
struct Part {
    class: ClassId,
    host: bool,
    family: Option<Family>,
    listens: Connections,
    nodes: BTreeSet<Option<ObjectName>>,
}

/// Gives every workload a pod with an address, so that policies about its pods have somebody to be about.
/// Returns the objects, and what was made up.
pub fn complete(objects: &Objects) -> (Objects, Vec<String>) {
    let mut all = objects.clone();
    let mut notes = Vec::new();
    let mut spare = Spare::new(objects);
    let mut alive: BTreeSet<Peer> = BTreeSet::new();
    for pod in all.pods.values_mut().filter(|pod| !pod.ended()) {
        alive.insert(Peer::of(pod, objects));
        if pod.pod_ips.is_empty() {
            pod.pod_ips = spare.next();
            notes.push(format!(
                "Pod/{} has no address: it is shown as it would be with one",
                pod.key
            ));
        }
    }
    for workload in objects.workloads.values() {
        let peer = Peer::Workload {
            namespace: workload.key.namespace.clone(),
            name: workload.key.name.clone(),
            kind: workload.kind.as_str().into(),
        };
        if workload.owner.is_none() && !alive.contains(&peer) {
            let pod = example(workload, spare.next());
            notes.push(format!(
                "{}/{} has no pods: it is shown as one of its pods would be",
                workload.kind.as_str(),
                workload.key
            ));
            all.pods.insert(pod.key.clone(), pod);
        }
    }
    (all, notes)
}

fn example(workload: &Workload, ips: Vec<IpAddr>) -> Pod {
    let mut pod = Pod::new(workload.key.clone(), Arc::clone(&workload.template.spec));
    pod.labels = workload.template.labels.clone();
    pod.owner = Some(OwnerRef {
        kind: workload.kind.as_str().into(),
        name: workload.key.name.clone(),
    });
    pod.origin = workload.template.origin.or(workload.origin);
    pod.pod_ips = ips;
    pod
}

/// Addresses at the end of the nodes' ranges that nobody has.
struct Spare {
    ranges: Vec<(ipnet::IpNet, u128)>,
    taken: BTreeSet<IpAddr>,
}

impl Spare {
    fn new(objects: &Objects) -> Self {
        let first = objects
            .nodes
            .values()
            .find(|node| !node.pod_cidrs.is_empty());
        let ranges = first.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        let size = |net: &ipnet::IpNet| 1_u128 << (net.max_prefix_len() - net.prefix_len()).min(64);
        Self {
            ranges: ranges
                .into_iter()
                .map(|net| (net, size(&net) - 1))
                .collect(),
            taken: objects
                .pods
                .values()
                .flat_map(|pod| pod.pod_ips.clone())
                .collect(),
        }
    }

    fn next(&mut self) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for (net, left) in &mut self.ranges {
            while *left > 0 {
                *left -= 1;
                if let Some(ip) = nth_addr(*net, *left)
                    && !self.taken.contains(&ip)
                {
                    found.push(ip);
                    break;
                }
            }
        }
        found
    }
}

impl Reachability {
    /// Finds out who may talk to whom.
    pub fn of(objects: &Objects, filter: &Filter) -> Self {
        let (all, notes) = complete(objects);
        let reach = Reach::new(&all);
        let mut parts: BTreeMap<Peer, Vec<Part>> = BTreeMap::new();
        let shown = |member: &&Member<'_>| filter.made_up || !member.pod.origin.is_none();
        for member in reach.members.iter().filter(shown) {
            let own = parts.entry(Peer::of(member.pod, &all)).or_default();
            add(own, member, filter.listening);
        }
        for (first, last, class) in &reach.outside {
            let part = Part {
                class: *class,
                host: false,
                family: Some(Family::of(*first)),
                listens: Connections::all(),
                nodes: BTreeSet::new(),
            };
            parts.insert(Peer::Outside(*first, *last), vec![part]);
        }
        let wanted = |list: &Option<BTreeSet<Peer>>, peer: &Peer| {
            list.as_ref().is_none_or(|list| list.contains(peer))
        };
        let mut rows = Vec::new();
        for (source, from) in parts.iter().filter(|(peer, _)| wanted(&filter.from, peer)) {
            for (destination, to) in parts.iter().filter(|(peer, _)| wanted(&filter.to, peer)) {
                let outside = |peer: &Peer| matches!(peer, Peer::Outside(..));
                if source == destination || (outside(source) && outside(destination)) {
                    continue;
                }
                let (allowed, some) = between(&reach, from, to);
                let narrow = |set: Connections| match &filter.port {
                    Some(port) => set.intersection(port),
                    None => set,
                };
                let (allowed, some) = (narrow(allowed), narrow(some));
                let partly = some.difference(&allowed);
                if allowed.has_ports() || partly.has_ports() {
                    rows.push(Row {
                        source: source.clone(),
                        destination: destination.clone(),
                        allowed,
                        partly,
                    });
                }
            }
        }
        Self {
            peers: parts.into_keys().collect(),
            rows,
            classes: reach.classes(),
            notes,
        }
    }
}

fn add(parts: &mut Vec<Part>, member: &Member<'_>, listening: bool) {
    let listens = if listening {
        let ports = member.pod.spec.ports();
        ports
            .map(|port| one_port(Some(port.protocol), port.container_port))
            .fold(Connections::NONE, |all, one| all.union(&one))
    } else {
        Connections::all()
    };
    let (host, family) = (member.host(), Some(Family::of(member.ip)));
    let same = |part: &&mut Part| {
        part.class == member.class
            && part.host == host
            && part.family == family
            && part.listens == listens
    };
    let node = member.pod.node_name.clone();
    match parts.iter_mut().find(same) {
        Some(part) => drop(part.nodes.insert(node)),
        None => parts.push(Part {
            class: member.class,
            host,
            family,
            listens,
            nodes: BTreeSet::from([node]),
        }),
    }
}

/// Returns what may pass between all pods of two workloads, and between some.
fn between(reach: &Reach<'_>, from: &[Part], to: &[Part]) -> (Connections, Connections) {
    let mut all: Option<Connections> = None;
    let mut some = Connections::NONE;
    let mut see = |set: &Connections, listens: &Connections| {
        let set = set.intersection(listens);
        some = some.union(&set);
        all = Some(match all.take() {
            Some(all) => all.intersection(&set),
            None => set,
        });
    };
    let everything = Connections::all();
    for a in from {
        for b in to.iter().filter(|b| b.family == a.family) {
            // A pod and its own node always reach each other.
            let apart =
                a.host == b.host || a.nodes.len() > 1 || b.nodes.len() > 1 || a.nodes != b.nodes;
            let together = a.host != b.host && !a.nodes.is_disjoint(&b.nodes);
            if apart {
                see(reach.connections(a.class, b.class), &b.listens);
            }
            if together {
                see(&everything, &b.listens);
            }
        }
    }
    (all.unwrap_or(Connections::NONE), some)
}

/// Whether a connection is in a set, in words.
pub const fn yes_or_no(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

/// Returns the flow of a port argument: `80`, `53/UDP`, `icmp`.
///
/// # Errors
/// Says what a port looks like.
pub fn flow(text: &str) -> Result<Flow, String> {
    if text.eq_ignore_ascii_case("icmp") {
        return Ok(Flow::Other);
    }
    let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let port = port.parse().ok().filter(|port| *port != 0_u16);
    let protocol = protocol.to_ascii_uppercase().parse().ok();
    match (port, protocol) {
        (Some(port), Some(protocol)) => Ok(Flow::Port(protocol, port)),
        _ => Err("a port is written `80`, `53/UDP` or `icmp`".to_owned()),
    }
}
