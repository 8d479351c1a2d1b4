//! Why an attempt failed: from its last step back to the thing whose edit repairs it.
//!
//! A trace tells which rule ended a packet. That rule is seldom what has to change: a node that refuses because a
//! Service has no endpoints does so because of a label. Here the step is taken back to the objects. Where two of
//! them disagree, [`evidence`] tells which one is the odd one out. Then the repair is made in a copy of the cluster and
//! the attempt is made again, until it succeeds or nothing more is known to repair: what is found is every blocker, the
//! first one first.
//!
//! Reading order: this file (the loop, and what is known of an attempt), [`service`] (selectors, ports, readiness),
//! [`policy`], [`name`] (DNS), [`machine`] (settings, links, nodes), `leaving` (pods that are deleted), `pinned` (connections that stay where they are), `size` (what is too large for a link), `way` (routes and rules that are missing, ranges that overlap), `back` (answers that take another way), `nat` (translation), `neighbours` (their table), [`evidence`].
//!
//! # Fidelity
//! Intentions are guessed: of two values that ought to be equal, the one that fewer other objects use is taken to be
//! the mistake. Nothing is known of what runs in a container beyond what its manifest declares.

use std::net::IpAddr;
use std::sync::Arc;

use podwire_models::api::{
    Kind, ObjectRef, Objects, OwnerRef, Pod, PodSpec, Service, WorkloadKind,
};
use podwire_models::base::{ObjectKey, OriginId};
use podwire_models::wire::{Action, Code, Head, L4, Transport};
use serde::Serialize;

use crate::attempt::{Attempted, Request};
use crate::lab::{Lab, Plan};
use crate::scenario::address::{Target, Thing};
use crate::source::OriginTable;
use crate::trace::record::Record;

pub mod evidence;
pub mod machine;
pub mod name;
pub mod policy;
pub mod service;
mod back;
mod leaving;
mod pinned;
mod nat;
mod neighbours;
mod size;
mod way;

/// Something that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// How the packet or the name ended because of it.
    pub code: &'static str,
    /// The thing whose edit repairs it, as `Kind/namespace/name`.
    pub object: Option<String>,
    /// Where that was written.
    pub origin: Option<String>,
    /// What is wrong with it.
    pub says: String,
    /// What to do.
    pub fix: String,
    /// The command that shows it on a real cluster.
    pub kubectl: Option<String>,
}

impl Blocker {
    /// Returns the lines that people read.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut say = |what: &str, words: &str| {
            text = std::mem::take(&mut text) + "  " + what + ": " + words + "\n";
        };
        say("why", &self.says);
        if let Some(object) = &self.object {
            let place = self.origin.as_deref();
            let place = place.map_or_else(String::new, |place| format!(" ({place})"));
            say("object", &(object.clone() + &place));
        }
        say("fix", &self.fix);
        if let Some(kubectl) = &self.kubectl {
            say("see", kubectl);
        }
        text
    }
}

/// What a cluster is built from.
#[derive(Clone, Debug)]
pub struct World {
    /// The objects of the input, before the control plane fills in anything.
    pub objects: Objects,
    /// How they are turned into machines.
    pub plan: Plan,
}

/// A cause, and the world without it.
#[derive(Clone, Debug)]
struct Finding {
    code: Code,
    object: Option<String>,
    origin: OriginId,
    says: String,
    fix: String,
    /// What shows it; worked out from the object if there is nothing better.
    kubectl: Option<String>,
    /// The world with the repair; nothing where no repair is known.
    repaired: Option<World>,
}

impl Finding {
    fn of(code: Code, object: &ObjectRef, origin: OriginId) -> Self {
        Self {
            code,
            object: Some(object.to_string()),
            origin,
            says: code.page().meaning.to_owned(),
            fix: code.page().fix.to_owned(),
            kubectl: None,
            repaired: None,
        }
    }

    fn saying(self, says: String, fix: String) -> Self {
        Self { says, fix, ..self }
    }

    fn shown_by(self, kubectl: String) -> Self {
        Self {
            kubectl: Some(kubectl),
            ..self
        }
    }

    fn repaired(self, world: World) -> Self {
        Self {
            repaired: Some(world),
            ..self
        }
    }
}

/// A failed attempt, with everything around it.
struct Case<'a> {
    world: &'a World,
    lab: &'a Lab,
    origins: &'a OriginTable,
    from: &'a Thing,
    request: &'a Request,
    attempted: &'a Attempted,
}

/// At most so many blockers are looked for.
const MOST: usize = 8;

/// Returns what stands in the way of an attempt that did not succeed, the root cause first.
///
/// `lab` is the cluster that `world` gives. After each blocker the world is repaired and the attempt made again.
pub fn blockers(
    world: &World,
    lab: &Lab,
    origins: &OriginTable,
    from: &Thing,
    request: &Request,
    attempted: &Attempted,
    seed: u64,
) -> Vec<Blocker> {
    let mut found: Vec<Blocker> = Vec::new();
    let mut now = Case {
        world,
        lab,
        origins,
        from,
        request,
        attempted,
    }
    .find();
    loop {
        let blocker = now.blocker(origins);
        let known = |other: &Blocker| other.code == blocker.code && other.object == blocker.object;
        if found.iter().any(known) {
            return found;
        }
        found.push(blocker);
        let Some(world) = now.repaired.filter(|_| found.len() < MOST) else {
            return found;
        };
        let lab = Lab::build(world.objects.clone(), world.plan.clone());
        let Some(attempted) = again(&lab, origins, from, request, seed) else {
            return found;
        };
        now = Case {
            world: &world,
            lab: &lab,
            origins,
            from,
            request,
            attempted: &attempted,
        }
        .find();
    }
}

/// Makes the attempt again; returns an outcome that is no success, if there is one.
fn again(
    lab: &Lab,
    origins: &OriginTable,
    from: &Thing,
    request: &Request,
    seed: u64,
) -> Option<Attempted> {
    /// More outcomes than this are not looked through.
    const LIMIT: usize = 1000;
    let source = lab.source(from).ok()?;
    let all = lab.explore(&source, request, origins, seed, LIMIT).ok()?;
    all.into_iter().find(|one| one.code != Code::Ok)
}

impl Finding {
    fn blocker(&self, origins: &OriginTable) -> Blocker {
        let usual = || {
            let object = self.object.as_deref()?;
            kubectl(object, self.code)
        };
        Blocker {
            code: self.code.name(),
            object: self.object.clone(),
            origin: origins.get(self.origin).map(ToString::to_string),
            says: self.says.clone(),
            fix: self.fix.clone(),
            kubectl: self.kubectl.clone().or_else(usual),
        }
    }
}

impl<'a> Case<'a> {
    /// Finds the first cause.
    fn find(&self) -> Finding {
        let code = self.attempted.code;
        if let Some(finding) = service::shadows(self).or_else(|| way::shared_range(self)) {
            return finding;
        }
        if service::missing_port(self).is_some()
            && let Some(finding) = service::unlisted(self)
        {
            return finding;
        }
        if let Some(finding) = name::flavour(self) {
            return finding;
        }
        let found = if policy::decides(code) {
            policy::denied(self, code)
        } else if matches!(code, Code::PortClosed | Code::PortBoundElsewhere) {
            service::closed(self)
        } else if matches!(
            code,
            Code::SvcNoEndpoints | Code::SvcNoLocalEndpoints | Code::DnsNoData
        ) {
            service::without_endpoints(self)
        } else if matches!(
            code,
            Code::DnsNxDomain | Code::DnsServFail | Code::DnsTimeout | Code::DnsRefused
        ) {
            name::unresolved(self)
        } else if code == Code::CtStaleEndpoint {
            machine::stale(self)
        } else if code == Code::NpLag {
            policy::late(self)
        } else if code == Code::IpReused {
            leaving::reused(self)
        } else if code == Code::ConnPinned {
            pinned::pinned(self)
        } else if matches!(code, Code::EpRemovalLag | Code::StaleRules) {
            leaving::lagging(self)
        } else if code == Code::CtInvalid {
            back::half_seen(self)
        } else if code == Code::RpFilter {
            back::other_way_back(self)
        } else if code == Code::DnsStaleAnswer {
            name::stale(self)
        } else if code == Code::CtInvalidLeak {
            nat::leaks(self)
        } else if code == Code::CtPreRule {
            nat::predates(self)
        } else if code == Code::VxlanCsum {
            nat::spoiled(self)
        } else if code == Code::NeighOverflow {
            neighbours::full(self)
        } else if code == Code::NatNoPort {
            nat::no_port(self)
        } else if code == Code::CidrOverlap {
            way::overlapping(self)
        } else {
            None
        };
        found.unwrap_or_else(|| machine::ended(self))
    }

    /// The record of the last end that tells the code.
    fn last(&self, code: Code) -> Option<&'a Record> {
        let ended = |record: &&Record| record.step.action.ends_with() == Some(code);
        self.attempted.trace.records.iter().rev().find(ended)
    }

    /// Whom the client's own packets were sent to, names' look-ups aside.
    fn dialled(&self) -> Option<(IpAddr, u16)> {
        let wanted = |l4: L4| l4 == self.request.l4;
        self.attempted.trace.records.iter().find_map(|record| {
            let (Action::Sent, Some(Head::Ip { dst, transport, .. })) =
                (&record.step.action, &record.step.packet)
            else {
                return None;
            };
            let (l4, port) = match transport {
                Transport::Tcp(tcp) => (L4::Tcp, tcp.dport),
                Transport::Udp(udp) => (L4::Udp, udp.dport),
                Transport::Sctp(sctp) => (L4::Sctp, sctp.dport),
                Transport::Icmp(_) => (L4::Icmp, 0),
            };
            let asks_a_name = l4 == L4::Udp && port == 53 && self.is_name_server(*dst);
            let meant = wanted(l4) && (!asks_a_name || self.names_are_the_matter());
            meant.then_some((*dst, port))
        })
    }

    fn is_name_server(&self, ip: IpAddr) -> bool {
        self.lab.dns_ips().contains(&ip) || self.lab.cluster_dns().contains(&ip)
    }

    /// Whether the client was to talk to a name server in the first place.
    fn names_are_the_matter(&self) -> bool {
        match &self.request.target {
            Target::Service { key, .. } => key.name.as_str() == "kube-dns",
            Target::Address { port, .. }
            | Target::Node { port, .. }
            | Target::Host { port, .. } => *port == Some(53),
            Target::Name { port, .. } => *port == Some(53),
            Target::Pod { .. } | Target::Url { .. } => false,
        }
    }

    /// The Service the client talked to.
    fn service(&self) -> Option<&'a Service> {
        if let Target::Service { key, .. } = &self.request.target {
            return self.lab.objects.services.get(key);
        }
        let (ip, port) = self.dialled()?;
        self.service_of(ip, port)
    }

    /// The Service behind an address and port, one of its own or a node's.
    fn service_of(&self, ip: IpAddr, port: u16) -> Option<&'a Service> {
        let outside = |service: &&Service| {
            let mut nodes = self.lab.objects.nodes.values();
            let node = nodes.any(|node| node.internal_ips.contains(&ip));
            service.external_ips.contains(&ip)
                || service.ingress.iter().any(|at| at.ip == Some(ip))
                || node && service.ports.iter().any(|p| p.node_port == Some(port))
        };
        self.lab
            .service_at(ip)
            .or_else(|| self.lab.objects.services.values().find(outside))
    }

    /// The pod that made the attempt.
    fn client(&self) -> Option<&'a Pod> {
        match self.from {
            Thing::Pod(key) => self.lab.objects.pods.get(key),
            Thing::Workload { kind, key } => {
                let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
                let pods = self.lab.pods_of(kind, namespace, name);
                pods.into_iter().next()
            }
            Thing::Node(_) | Thing::Host(_) => None,
        }
    }

    /// The pod a record was made in.
    fn pod_at(&self, record: &Record) -> Option<&'a Pod> {
        let netns = self.attempted.trace.names.netns_at(&record.place)?;
        let key = netns.strip_prefix("pod/")?.parse().ok()?;
        self.lab.objects.pods.get(&key)
    }

    /// Repairs a copy of the world.
    fn repair(&self, edit: impl FnOnce(&mut World)) -> World {
        let mut world = self.world.clone();
        edit(&mut world);
        world
    }
}

/// What made a pod: the workload at the top, or the pod itself; with the place where it was written.
fn maker(pod: &Pod, given: &Objects) -> (ObjectRef, OriginId) {
    let bare = (ObjectRef::namespaced(Kind::Pod, &pod.key), pod.origin);
    let Some(owner) = &pod.owner else { return bare };
    let workload = |owner: &OwnerRef| {
        let key = ObjectKey::new(pod.key.namespace.clone(), owner.name.clone());
        Kind::ALL.into_iter().find_map(|kind| {
            let Kind::Workload(kind) = kind else {
                return None;
            };
            let workload = given.workloads.get(&(kind, key.clone()));
            workload.filter(|_| kind.as_str() == &*owner.kind)
        })
    };
    let deployment = || {
        let (name, _) = owner.name.as_str().rsplit_once('-')?;
        let key = ObjectKey::new(pod.key.namespace.clone(), name.parse().ok()?);
        given.workloads.get(&(WorkloadKind::Deployment, key))
    };
    let top = match workload(owner) {
        Some(direct) => match direct.owner.as_ref().and_then(workload) {
            Some(above) => Some(above),
            None => Some(direct),
        },
        None => deployment().filter(|_| &*owner.kind == "ReplicaSet"),
    };
    top.map_or(bare, |workload| {
        let kind = Kind::Workload(workload.kind);
        (ObjectRef::namespaced(kind, &workload.key), workload.origin)
    })
}

/// What the pods of a workload, or a bare pod, are made of.
fn pod_spec<'w>(world: &'w mut World, of: &ObjectRef) -> Option<&'w mut Arc<PodSpec>> {
    if let Kind::Workload(kind) = of.kind {
        let workload = world.objects.workloads.get_mut(&(kind, of.key()));
        return workload.map(|workload| &mut workload.template.spec);
    }
    let pod = world.objects.pods.get_mut(&of.key());
    pod.filter(|_| of.kind == Kind::Pod)
        .map(|pod| &mut pod.spec)
}

/// Returns the command that shows an object, `Service/shop/cart`.
fn kubectl(object: &str, code: Code) -> Option<String> {
    let mut parts = object.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    if kind == "Sysctl" {
        return Some(match (namespace, name.rsplit_once('/')) {
            ("pod", Some((pod, setting))) => {
                let (namespace, pod) = pod.split_once('/')?;
                format!("kubectl -n {namespace} exec {pod} -- sysctl {setting}")
            }
            _ => format!("ssh {namespace} sysctl {name}"),
        });
    }
    if matches!(kind, "Link" | "Fault" | "Cluster" | "Route" | "Host") {
        return None;
    }
    let no_endpoints = matches!(code, Code::SvcNoEndpoints | Code::SvcNoLocalEndpoints);
    let kind = if no_endpoints && kind == "Service" {
        "endpoints".to_owned()
    } else {
        kind.to_lowercase()
    };
    Some(if namespace.is_empty() {
        format!("kubectl get {kind} {name}")
    } else {
        format!("kubectl -n {namespace} get {kind} {name}")
    })
}
