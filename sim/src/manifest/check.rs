//! Objects against each other: addresses that two have, ranges that overlap, names of things that
//! are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use podwire_models::api::{EndpointSlice, Object, WorkloadKind};
use podwire_models::base::{ObjectKey, ObjectName, OriginId};

use super::tree::{Node, Value};
use super::{Ignored, Manifests, Seen, convert};
use crate::limits;
use crate::problem::{Problem, ProblemCode, Spot};
use crate::source::OriginTable;

/// Checks all objects, and leaves out Endpoints that nobody mirrors.
pub(super) fn across(
    all: &mut Manifests,
    origins: &OriginTable,
    problems: &mut Vec<Problem>,
    seen: &Seen,
) {
    endpoints(all);
    let places = Places { origins, seen };
    let mut checker = Checker { places, problems };
    checker.numbers(&all.objects);
    checker.addresses(&all.objects);
    checker.ranges(&all.objects);
    checker.node_ports(&all.objects);
    checker.references(&all.objects);
}

/// Finds where objects were defined.
struct Places<'a> {
    origins: &'a OriginTable,
    seen: &'a Seen,
}

impl Places<'_> {
    fn of(&self, object: &Object) -> Option<Spot> {
        let reference = object.reference();
        let (source, span, _) = self
            .seen
            .get(&(reference.kind.to_string(), reference.key()))?;
        Some(span.spot(source))
    }

    /// Finds the value in the object that says this, or else the object.
    fn value(&self, object: &Object, says: &dyn Fn(&Node) -> bool) -> Option<Spot> {
        let reference = object.reference();
        let (source, _, tree) = self
            .seen
            .get(&(reference.kind.to_string(), reference.key()))?;
        let value = find(tree, says).map(|node| node.span.spot(source));
        value.or_else(|| self.of(object))
    }

    fn text(&self, origin: OriginId) -> String {
        self.origins.text(origin)
    }
}

/// Finds a value in a tree, the metadata last.
fn find<'n>(tree: &'n Node, says: &dyn Fn(&Node) -> bool) -> Option<&'n Node> {
    if says(tree) {
        return Some(tree);
    }
    let entries = tree
        .entries()
        .iter()
        .filter(|entry| &*entry.key != "metadata");
    let children = tree.items().iter().chain(entries.map(|entry| &entry.value));
    children.into_iter().find_map(|child| find(child, says))
}

/// Whether a value is this address or range, however it is spelled.
fn is<T: FromStr + PartialEq>(wanted: &T) -> impl Fn(&Node) -> bool {
    move |node| {
        node.text()
            .and_then(|text| text.parse().ok())
            .is_some_and(|value: T| value == *wanted)
    }
}

struct Checker<'a> {
    places: Places<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    /// Checks that the cluster is not larger than one that can be simulated.
    fn numbers(&mut self, objects: &[Object]) {
        let nodes = objects.iter().filter(|o| matches!(o, Object::Node(_)));
        let nodes: Vec<&Object> = nodes.collect();
        if let Some(object) = nodes.get(limits::NODES) {
            let title = format!("there are more than {} nodes", limits::NODES);
            let problem = Problem::error(ProblemCode::ManTooMany, title);
            self.note(problem, object, &|_| false, "one too many".to_owned());
        }
        let mut pods = 0_u64;
        for object in objects {
            pods += match object {
                Object::Pod(_) => 1,
                Object::Workload(workload) => match workload.kind {
                    WorkloadKind::DaemonSet => nodes.len() as u64,
                    WorkloadKind::Deployment
                    | WorkloadKind::ReplicaSet
                    | WorkloadKind::ReplicationController
                    | WorkloadKind::StatefulSet
                    | WorkloadKind::Job
                    | WorkloadKind::CronJob => u64::from(workload.replicas),
                },
                Object::Node(_)
                | Object::Namespace(_)
                | Object::Service(_)
                | Object::EndpointSlice(_)
                | Object::NetworkPolicy(_)
                | Object::ClusterPolicy(_)
                | Object::Ingress(_)
                | Object::WebhookConfiguration(_) => 0,
            };
            if pods > limits::PODS {
                let title = format!("there are more than {} pods", limits::PODS);
                let problem = Problem::error(ProblemCode::ManTooMany, title);
                self.note(
                    problem,
                    object,
                    &|_| false,
                    "too many from here on".to_owned(),
                );
                break;
            }
        }
    }

    /// Notes a problem with the value in an object that says something.
    fn note(
        &mut self,
        mut problem: Problem,
        object: &Object,
        says: &dyn Fn(&Node) -> bool,
        label: String,
    ) -> &mut Problem {
        match self.places.value(object, says) {
            Some(spot) => problem = problem.at(spot, label),
            None => problem
                .notes
                .push(format!("{}: {label}", self.places.text(object.origin()))),
        }
        self.problems.push(problem);
        self.problems.last_mut().expect("one was pushed just now")
    }

    /// Notes that two objects have one thing that only one can have.
    fn clash(&mut self, what: &str, first: &Object, second: &Object, says: &dyn Fn(&Node) -> bool) {
        let title = format!(
            "{} and {} have one {what}",
            first.reference(),
            second.reference()
        );
        let there = self.places.value(first, says);
        let problem = Problem::error(ProblemCode::ManDuplicateAddress, title);
        let problem = self.note(problem, second, says, "again here".to_owned());
        problem
            .also
            .extend(there.map(|spot| (spot, "first here".to_owned())));
    }

    fn addresses(&mut self, objects: &[Object]) {
        let mut owners: BTreeMap<(&str, IpAddr), &Object> = BTreeMap::new();
        for object in objects {
            for (space, address) in own_addresses(object) {
                if let Some(first) = owners.insert((space, address), object) {
                    let what = format!("address, {address}");
                    self.clash(&what, first, object, &is(&address));
                }
            }
        }
    }

    /// Pod ranges of nodes must be apart.
    fn ranges(&mut self, objects: &[Object]) {
        let mut ranges: Vec<(IpNet, &Object)> = Vec::new();
        for object in objects {
            if let Object::Node(node) = object {
                ranges.extend(node.pod_cidrs.iter().map(|cidr| (*cidr, object)));
            }
        }
        ranges.sort_by_key(|(cidr, _)| *cidr);
        // In this order a range comes right after one that contains it, or after others inside that.
        let mut widest: Option<(IpNet, &Object)> = None;
        for (cidr, object) in ranges {
            match widest {
                Some((wide, owner)) if wide.contains(&cidr) => {
                    let title = format!("the pod ranges of two nodes overlap: {wide} and {cidr}");
                    let problem = Problem::error(ProblemCode::ManOverlappingCidrs, title);
                    let there = self.places.value(owner, &is(&wide));
                    let label = format!("a range of {}", object.reference().name);
                    let problem = self.note(problem, object, &is(&cidr), label);
                    let label = format!("a range of {}", owner.reference().name);
                    problem.also.extend(there.map(|spot| (spot, label)));
                }
                _ => widest = Some((cidr, object)),
            }
        }
    }

    /// A node port belongs to one Service, whatever its protocol.
    fn node_ports(&mut self, objects: &[Object]) {
        let mut owners: BTreeMap<u16, &Object> = BTreeMap::new();
        for object in objects {
            let Object::Service(service) = object else {
                continue;
            };
            let ports: BTreeSet<u16> = service
                .ports
                .iter()
                .filter_map(|port| port.node_port)
                .collect();
            for port in ports {
                if let Some(first) = owners.insert(port, object) {
                    let what = format!("node port, {port}");
                    let says = |node: &Node| node.value == Value::Int(port.into());
                    self.clash(&what, first, object, &says);
                }
            }
        }
    }

    /// Names of nodes and Services that are not there.
    fn references(&mut self, objects: &[Object]) {
        let nodes: BTreeSet<&str> = objects.iter().filter_map(node_name).collect();
        let services: BTreeSet<ObjectKey> = objects.iter().filter_map(service_key).collect();
        for object in objects {
            if let Object::Pod(pod) = object
                && let Some(name) = &pod.node_name
                && !nodes.is_empty()
                && !nodes.contains(name.as_str())
            {
                let title = format!(
                    "{} is bound to a node that does not exist",
                    object.reference()
                );
                let problem = Problem::error(ProblemCode::ManDanglingReference, title);
                let help = format!("the nodes are: {}", some(&nodes));
                let says = |node: &Node| node.text().is_some_and(|text| **text == *name.as_str());
                let label = format!("no node is called `{name}`");
                self.note(problem, object, &says, label).help.push(help);
            }
            if let Object::Workload(workload) = object
                && let Some(name) = &workload.service_name
            {
                let service = ObjectName::from_str(name).ok();
                let service =
                    service.map(|name| ObjectKey::new(workload.key.namespace.clone(), name));
                let exists = service.is_some_and(|service| services.contains(&service));
                if !exists {
                    let title =
                        format!("{} names a Service that does not exist", object.reference());
                    let problem = Problem::warning(ProblemCode::ManDanglingReference, title);
                    let label = format!("no Service is called `{}/{name}`", workload.key.namespace);
                    let says = |node: &Node| node.text() == Some(name);
                    let problem = self.note(problem, object, &says, label);
                    problem
                        .notes
                        .push("its pods have no DNS names of their own".to_owned());
                }
            }
        }
    }
}

fn node_name(object: &Object) -> Option<&str> {
    if let Object::Node(node) = object {
        Some(node.name.as_str())
    } else {
        None
    }
}

fn service_key(object: &Object) -> Option<ObjectKey> {
    if let Object::Service(service) = object {
        Some(service.key.clone())
    } else {
        None
    }
}

fn some(names: &BTreeSet<&str>) -> String {
    let shown: Vec<&str> = names.iter().copied().take(8).collect();
    let more = if names.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    format!("{}{more}", shown.join(", "))
}

/// Returns the addresses that only this object may have, each with the space it is unique in.
fn own_addresses(object: &Object) -> Vec<(&'static str, IpAddr)> {
    match object {
        Object::Pod(pod) if !pod.spec.host_network && !pod.ended() => {
            pod.pod_ips.iter().map(|ip| ("pod", *ip)).collect()
        }
        Object::Node(node) => node.internal_ips.iter().map(|ip| ("node", *ip)).collect(),
        Object::Service(service) => service
            .cluster_ips()
            .iter()
            .map(|ip| ("service", *ip))
            .collect(),
        Object::Pod(_)
        | Object::Namespace(_)
        | Object::Workload(_)
        | Object::EndpointSlice(_)
        | Object::NetworkPolicy(_)
        | Object::ClusterPolicy(_)
        | Object::Ingress(_)
        | Object::WebhookConfiguration(_) => Vec::new(),
    }
}

/// Keeps the slices made of Endpoints only where the mirroring controller would make them: for a
/// Service without a selector, and if the input does not carry its result already.
fn endpoints(all: &mut Manifests) {
    let mut known = Known::default();
    for object in &all.objects {
        if let Object::Service(service) = object {
            known
                .services
                .insert(service.key.clone(), service.selector.is_some());
        }
        if let Object::EndpointSlice(slice) = object
            && !made_here(all, slice)
        {
            known.sliced.extend(service_of(slice));
        }
    }
    let mut dropped = BTreeMap::new();
    for object in &all.objects {
        if let Object::EndpointSlice(slice) = object
            && made_here(all, slice)
            && let Some(why) = known.not_mirrored(slice)
        {
            let service = slice.service_name().unwrap_or_default();
            let object_name = format!("Endpoints/{}/{service}", slice.key.namespace).into();
            let (kind, origin) = ("Endpoints".into(), slice.origin);
            dropped.insert(
                object.reference(),
                Ignored {
                    kind,
                    object: object_name,
                    origin,
                    why,
                },
            );
        }
    }
    all.objects
        .retain(|object| !dropped.contains_key(&object.reference()));
    for (reference, ignored) in dropped {
        all.documents.remove(&reference);
        // One object of the input may have become several slices.
        if all.ignored.last() != Some(&ignored) {
            all.ignored.push(ignored);
        }
    }
}

/// What is known about Services: whether they have a selector, and which have slices in the input.
#[derive(Default)]
struct Known {
    services: BTreeMap<ObjectKey, bool>,
    sliced: BTreeSet<ObjectKey>,
}

impl Known {
    /// Says why no controller would make this slice of its Endpoints; `None` if one would.
    fn not_mirrored(&self, slice: &EndpointSlice) -> Option<&'static str> {
        let service = service_of(slice)?;
        if self.sliced.contains(&service) {
            return Some("its EndpointSlices are there too");
        }
        match self.services.get(&service) {
            None => Some("no Service of this name is there"),
            Some(true) => Some("its Service has a selector: the EndpointSlices are made from that"),
            Some(false) => {
                let skip = slice.labels.get("endpointslice.kubernetes.io/skip-mirror");
                (skip == Some("true")).then_some("it asks not to be mirrored")
            }
        }
    }
}

/// Returns the Service that a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.service_name()?.parse().ok()?;
    Some(ObjectKey::new(slice.key.namespace.clone(), name))
}

/// Whether the slice was made here, from Endpoints, and not read.
fn made_here(all: &Manifests, slice: &EndpointSlice) -> bool {
    let reference = podwire_models::api::ObjectRef::namespaced(
        podwire_models::api::Kind::EndpointSlice,
        &slice.key,
    );
    let is_endpoints = |document: &super::Document| {
        document
            .tree
            .get("kind")
            .and_then(|kind| kind.text())
            .is_some_and(|kind| &**kind == "Endpoints")
    };
    convert::mirrored(slice) && all.documents.get(&reference).is_some_and(is_endpoints)
}
