//! Services: selectors that meet no pod, ports that meet no listener, pods that are not ready.

use std::fmt::Write as _;

use podwire_models::api::{
    ContainerPort, Kind, ObjectRef, Objects, Pod, PodSpec, PortRef, Service, ServicePort,
    TrafficPolicy,
};
use podwire_models::base::label::Requirement;
use podwire_models::base::{
    Labels, Namespace, ObjectKey, ObjectName, OriginId, Protocol, Selector,
};
use podwire_models::control::readiness;
use podwire_models::wire::{Code, Head, L4, Transport};

use super::{Case, Finding, World, evidence, maker, pod_spec, policy};

/// A Service has no endpoint that may be used: whose fault is that?
pub(super) fn without_endpoints(case: &Case<'_>) -> Option<Finding> {
    let service = case.service()?;
    Some(unusable(
        case,
        service,
        case.dialled().map(|(_, port)| port),
    ))
}

/// As [`without_endpoints`], for a Service that is known.
pub(super) fn unusable(case: &Case<'_>, service: &Service, port: Option<u16>) -> Finding {
    let object = reference(service);
    let code = case.attempted.code;
    let Some(selector) = &service.selector else {
        let says = "it has no selector, and nobody wrote EndpointSlices for it".to_owned();
        let fix = "give it a selector, or write an EndpointSlice".to_owned();
        return Finding::of(Code::SvcNoEndpoints, &object, service.origin).saying(says, fix);
    };
    let selected: Vec<&Pod> = case
        .lab
        .objects
        .pods
        .values()
        .filter(|pod| pod.key.namespace == service.key.namespace && !pod.ended())
        .filter(|pod| selector.matches(&pod.labels))
        .collect();
    if selected.is_empty() {
        return unselected(case, service, selector);
    }
    let usable = |pod: &&&Pod| {
        pod.ready.unwrap_or(true) && !pod.deleting && !pod.pod_ips.is_empty()
            || service.publish_not_ready_addresses
    };
    let Some(ready) = selected.iter().find(usable) else {
        return unready(case, service, &selected);
    };
    let named = service
        .ports
        .iter()
        .filter(|p| port.is_none_or(|port| p.port == port || p.node_port == Some(port)))
        .find_map(|p| match &p.target_port {
            PortRef::Name(name) if ready.port_named(name, p.protocol).is_none() => Some((p, name)),
            PortRef::Name(_) | PortRef::Number(_) => None,
        });
    if let Some((port, name)) = named {
        return unnamed(case, service, port, name, ready);
    }
    if code == Code::SvcNoLocalEndpoints {
        return only_elsewhere(case, service);
    }
    late(case, service)
}

/// The endpoints are there, and the node that was asked has not been told yet.
fn late(case: &Case<'_>, service: &Service) -> Finding {
    let code = case.attempted.code;
    let names = &case.attempted.trace.names;
    let node = case
        .last(code)
        .and_then(|record| names.node_at(&record.place));
    let Some(node) = node.and_then(|node| node.parse().ok()) else {
        return Finding::of(code, &reference(service), service.origin);
    };
    let says = format!(
        "kube-proxy on {node} has not programmed the endpoints that {} has by now",
        reference(service)
    );
    let object = ObjectRef::cluster(Kind::Node, node);
    let fix = "wait for its next sync, or look at why kube-proxy there lags behind".to_owned();
    Finding::of(code, &object, OriginId::NONE)
        .saying(says, fix)
        .shown_by("kubectl -n kube-system logs -l k8s-app=kube-proxy".to_owned())
}

fn reference(service: &Service) -> ObjectRef {
    ObjectRef::namespaced(Kind::Service, &service.key)
}

/// `kubectl -n shop get pods --show-labels`.
fn show_labels(namespace: &Namespace) -> String {
    format!("kubectl -n {namespace} get pods --show-labels")
}

// ---- selectors ----

/// Pods that a selector could have meant: those of one template, or one bare pod.
struct Group<'a> {
    object: ObjectRef,
    origin: OriginId,
    labels: &'a Labels,
    spec: &'a PodSpec,
    replicas: u32,
}

fn groups(given: &Objects) -> impl Iterator<Item = Group<'_>> {
    let workloads = given.workloads.values();
    let workloads = workloads
        .filter(|workload| workload.owner.is_none())
        .map(|workload| Group {
            object: evidence::reference(workload),
            origin: workload.origin,
            labels: &workload.template.labels,
            spec: &workload.template.spec,
            replicas: workload.replicas,
        });
    let pods = given.pods.values();
    let pods = pods.filter(|pod| pod.owner.is_none()).map(|pod| Group {
        object: ObjectRef::namespaced(Kind::Pod, &pod.key),
        origin: pod.origin,
        labels: &pod.labels,
        spec: &pod.spec,
        replicas: 1,
    });
    workloads.chain(pods)
}

/// The selector matches no pod.
fn unselected(case: &Case<'_>, service: &Service, selector: &Selector) -> Finding {
    let given = &case.world.objects;
    let object = reference(service);
    let code = Code::SvcNoEndpoints;
    let here = |group: &Group<'_>| group.object.namespace.as_ref() == Some(&service.key.namespace);
    let same: Vec<Group<'_>> = groups(given)
        .filter(|group| selector.matches(group.labels))
        .collect();
    if let Some(group) = same.iter().find(|group| here(group)) {
        return no_replicas(case, service, group);
    }
    if let Some(group) = same.first() {
        let says = format!(
            "its selector {selector} matches no pod of its own namespace; {} has those labels",
            group.object
        );
        let fix = format!(
            "put the Service into namespace {}, or the pods into {}",
            group.object.namespace.clone().unwrap_or_default(),
            service.key.namespace
        );
        return Finding::of(code, &object, service.selector_origin)
            .saying(says, fix)
            .shown_by(format!("kubectl get pods -A -l '{selector}'"));
    }
    let near = groups(given)
        .filter(here)
        .filter_map(|group| nearness(given, service, selector, &group).map(|rank| (rank, group)))
        .min_by(|(a, left), (b, right)| a.cmp(b).then_with(|| left.object.cmp(&right.object)));
    let Some((_, group)) = near else {
        let says =
            format!("its selector {selector} matches no pod, and no pod has labels like that");
        let fix = "write the labels of the pods that are meant into spec.selector".to_owned();
        return Finding::of(code, &object, service.selector_origin)
            .saying(says, fix)
            .shown_by(show_labels(&service.key.namespace));
    };
    mismatch(case, service, selector, &group)
}

/// How far a group of pods is from what a selector asks for; nothing if it cannot have been meant.
fn nearness(
    given: &Objects,
    service: &Service,
    selector: &Selector,
    group: &Group<'_>,
) -> Option<(bool, usize, usize, bool)> {
    let failed: Vec<Requirement> = selector.failed(group.labels).collect();
    let all = selector.match_labels.iter().count() + selector.match_expressions.len();
    let same_name = group.object.name == service.key.name;
    let mut unlike = 0;
    let mut alike = failed.len() < all || same_name || only_listener(given, service, group);
    for requirement in &failed {
        let Requirement::Is(key, wanted) = requirement else {
            continue;
        };
        alike |= **wanted == *group.object.name.as_str();
        let Some(found) = group.labels.get(key) else {
            unlike += wanted.len();
            continue;
        };
        let distance = evidence::distance(wanted, found);
        unlike += distance;
        alike |= distance * 2 <= wanted.len().max(found.len());
    }
    let taken = selected(given, group, &service.key);
    alike.then_some((taken, failed.len(), unlike, !same_name))
}

/// Whether a group alone of its namespace listens on the target ports of a Service, and no other Service selects it.
fn only_listener(given: &Objects, service: &Service, group: &Group<'_>) -> bool {
    let listens = |spec: &PodSpec| {
        service.ports.iter().all(|wanted| {
            spec.ports().any(|p| {
                let target = match &wanted.target_port {
                    PortRef::Number(number) => p.container_port == *number,
                    PortRef::Name(name) => p.name.as_ref() == Some(name),
                };
                target && p.protocol == wanted.protocol
            })
        })
    };
    let others = groups(given).filter(|other| {
        other.object.namespace == group.object.namespace && other.object != group.object
    });
    !selected(given, group, &service.key)
        && listens(group.spec)
        && !others.into_iter().any(|other| listens(other.spec))
}

/// Whether another Service of its namespace selects a group.
fn selected(given: &Objects, group: &Group<'_>, but: &ObjectKey) -> bool {
    let mut services = given.services.values();
    services.any(|other| {
        let selector = other.selector.as_ref();
        other.key != *but
            && Some(&other.key.namespace) == group.object.namespace.as_ref()
            && selector.is_some_and(|selector| selector.matches(group.labels))
    })
}

/// Selector and labels nearly agree: one of the two is the mistake.
fn mismatch(case: &Case<'_>, service: &Service, selector: &Selector, group: &Group<'_>) -> Finding {
    let given = &case.world.objects;
    let object = reference(service);
    let aside = [&object, &group.object];
    let failed: Vec<Requirement> = selector.failed(group.labels).collect();
    let (mut wanted_uses, mut found_uses) = (0, 0);
    let (mut wanted_text, mut found_text) = (String::new(), String::new());
    for requirement in &failed {
        let key = requirement.key();
        let comma = if wanted_text.is_empty() { "" } else { "," };
        match requirement {
            Requirement::Is(_, value) => {
                write!(wanted_text, "{comma}{key}={value}").expect("a String takes everything");
                // A key that nobody else uses is no evidence, whatever is called like its value.
                if group.labels.get(key).is_some() || evidence::knows_key(given, key, &aside) {
                    wanted_uses += evidence::uses(given, key, value, &aside);
                }
            }
            Requirement::Other(expression) => {
                write!(wanted_text, "{comma}{expression}").expect("a String takes everything");
            }
        }
        match group.labels.get(key) {
            Some(value) => {
                write!(found_text, "{comma}{key}={value}").expect("a String takes everything");
                found_uses += evidence::uses(given, key, value, &aside);
            }
            None => {
                write!(found_text, "{comma}no label {key}").expect("a String takes everything");
            }
        }
    }
    let exact = failed.iter().all(|one| matches!(one, Requirement::Is(..)));
    if exact && wanted_uses > found_uses {
        let place = case.origins.text(service.selector_origin);
        let says = format!(
            "its pods have {found_text}; {object} ({place}) selects {wanted_text}, as others do too"
        );
        let fix = format!("give the pods the label {wanted_text}");
        let repaired = case.repair(|world| relabel(world, &group.object, &failed));
        return Finding::of(Code::SvcNoEndpoints, &group.object, group.origin)
            .saying(says, fix)
            .shown_by(show_labels(&service.key.namespace))
            .repaired(repaired);
    }
    let place = case.origins.text(group.origin);
    let says = format!(
        "its selector asks for {wanted_text}, and no pod has that; the pods of {} ({place}) have {found_text}",
        group.object
    );
    let mut better = selector.clone();
    for requirement in &failed {
        let key = requirement.key();
        better.match_expressions.retain(|one| one.key() != key);
        match group.labels.get(key) {
            Some(value) => better.match_labels.insert(key, value),
            None => better.match_labels.remove(key),
        };
    }
    if better.is_empty() {
        better.match_labels = group.labels.clone();
    }
    let fix = format!("make spec.selector {better}");
    let repaired = case.repair(|world| {
        if let Some(service) = world.objects.services.get_mut(&service.key) {
            service.selector = Some(better);
        }
    });
    Finding::of(Code::SvcNoEndpoints, &object, service.selector_origin)
        .saying(says, fix)
        .shown_by(show_labels(&service.key.namespace))
        .repaired(repaired)
}

/// Gives the pods of a workload, or a bare pod, the labels they lack.
pub(super) fn relabel(world: &mut World, of: &ObjectRef, wanted: &[Requirement]) {
    let set = |labels: &mut Labels| {
        for requirement in wanted {
            if let Requirement::Is(key, value) = requirement {
                labels.insert(&**key, &**value);
            }
        }
    };
    match of.kind {
        Kind::Workload(kind) => {
            if let Some(workload) = world.objects.workloads.get_mut(&(kind, of.key())) {
                set(&mut workload.template.labels);
                if let Some(selector) = &mut workload.selector {
                    set(&mut selector.match_labels);
                }
            }
            // Pods that are there already get them too.
            let given = world.objects.clone();
            let made = world.objects.pods.values_mut();
            for pod in made.filter(|pod| maker(pod, &given).0 == *of) {
                set(&mut pod.labels);
            }
        }
        Kind::Pod => {
            if let Some(pod) = world.objects.pods.get_mut(&of.key()) {
                set(&mut pod.labels);
            }
        }
        Kind::Node
        | Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::NetworkPolicy
        | Kind::ClusterPolicy(_)
        | Kind::Ingress
        | Kind::WebhookConfiguration(_) => {}
    }
}

/// The selector is right, but the workload has no pods.
fn no_replicas(case: &Case<'_>, service: &Service, group: &Group<'_>) -> Finding {
    let (namespace, name) = (&service.key.namespace, &group.object.name);
    let finding = Finding::of(Code::SvcNoEndpoints, &group.object, group.origin);
    if group.replicas > 0 {
        let says = "its pods have not been made".to_owned();
        return finding.saying(says, "look at its events".to_owned());
    }
    let kind = group.object.kind.as_str().to_lowercase();
    let repaired = case.repair(|world| {
        if let Kind::Workload(kind) = group.object.kind
            && let Some(workload) = world.objects.workloads.get_mut(&(kind, group.object.key()))
        {
            workload.replicas = 1;
        }
    });
    finding
        .saying(
            "it is scaled to zero replicas".to_owned(),
            format!("kubectl -n {namespace} scale {kind} {name} --replicas=1"),
        )
        .shown_by(format!("kubectl -n {namespace} get {kind} {name}"))
        .repaired(repaired)
}

// ---- readiness ----

/// Pods are selected, and none of them may be used.
fn unready(case: &Case<'_>, service: &Service, selected: &[&Pod]) -> Finding {
    let pending = selected.iter().find(|pod| pod.pod_ips.is_empty());
    let pod = pending.or_else(|| selected.first());
    let Some(pod) = pod else {
        return Finding::of(Code::SvcNoEndpoints, &reference(service), service.origin);
    };
    let (object, origin) = maker(pod, &case.world.objects);
    if pending.is_none()
        && let Some(finding) = policy::keeps_kubelet_out(case, service, pod)
    {
        return finding;
    }
    if pending.is_none()
        && let Some(finding) = unanswered(case, service, pod)
    {
        return finding;
    }
    let name = format!("Pod/{}", pod.key);
    let shortfall = case
        .lab
        .shortfalls
        .iter()
        .find(|short| short.object == name);
    let (code, why) = match shortfall {
        Some(shortfall) => (shortfall.code, shortfall.says.clone()),
        None if pod.pod_ips.is_empty() => (Code::PodPending, "it has no address".to_owned()),
        None => (
            Code::PodUnready,
            format!("pod {} is not ready", pod.key.name),
        ),
    };
    let of_node = |node: &ObjectName| {
        let name = format!("Node//{node}");
        let mut all = case.lab.shortfalls.iter();
        all.find(|short| short.object == name && short.code == Code::CidrExhausted)
    };
    let ranged = pod.node_name.as_ref().and_then(of_node);
    let (code, why) = match ranged {
        Some(short) if pod.pod_ips.is_empty() => (short.code, short.says.clone()),
        Some(_) | None => (code, why),
    };
    let says = format!(
        "no pod behind Service {} may be used: {why}",
        service.key.name
    );
    let (namespace, pod_name) = (&pod.key.namespace, &pod.key.name);
    let node = pod.node_name.clone().filter(|_| {
        matches!(
            code,
            Code::IpamExhausted | Code::CidrExhausted | Code::CniUninitialized
        )
    });
    let finding = match node {
        Some(node) => {
            let origin = case.lab.objects.nodes.get(&node).map(|node| node.origin);
            let node = ObjectRef::cluster(Kind::Node, node);
            Finding::of(code, &node, origin.unwrap_or(OriginId::NONE))
        }
        None => Finding::of(code, &object, origin),
    };
    finding
        .saying(says, code.page().fix.to_owned())
        .shown_by(format!("kubectl -n {namespace} describe pod {pod_name}"))
}

/// A readiness probe asks where nobody listens.
fn unanswered(case: &Case<'_>, service: &Service, pod: &Pod) -> Option<Finding> {
    let listens = |port| case.lab.listens(pod, port);
    let failing = readiness::failing(&pod.spec, listens)?;
    let (object, _) = maker(pod, &case.world.objects);
    let (container, field) = (&failing.container.name, failing.probe.handler.field());
    let asked = failing.probe.handler.port()?;
    let own: Vec<String> = failing
        .container
        .ports
        .iter()
        .map(|p| match &p.name {
            Some(name) => format!("{name} ({})", p.container_port),
            None => p.container_port.to_string(),
        })
        .collect();
    let event = pod.pod_ips.first().map(|ip| failing.says(*ip));
    let says = format!(
        "no pod behind {} is ready: readinessProbe.{field} of container {container} is {asked}, where nobody listens (its ports: {}); {}",
        reference(service),
        own.join(", "),
        event.unwrap_or_default()
    );
    let finding = Finding::of(Code::PodUnready, &object, failing.probe.origin).shown_by(format!(
        "kubectl -n {} describe pod {}",
        pod.key.namespace, pod.key.name
    ));
    let tcp = |p: &&ContainerPort| p.protocol == Protocol::Tcp;
    let Some(right) = failing.container.ports.iter().find(tcp) else {
        let fix = "let the process listen there, or let the probe ask another port".to_owned();
        return Some(finding.saying(says, fix));
    };
    let right = right.container_port;
    let targeted = |p: &ServicePort| p.target_port == asked;
    if let PortRef::Number(wanted) = asked
        && service.ports.iter().any(targeted)
    {
        let says = format!(
            "its containers declare port {right}; its own readinessProbe.{field} and {} ask for {wanted}",
            reference(service)
        );
        let repaired = case.repair(|world| {
            with_container_ports(world, &object, |p| {
                if (p.container_port, p.protocol) == (right, Protocol::Tcp) {
                    p.container_port = wanted;
                }
            });
        });
        let fix = format!("set containerPort to {wanted}");
        return Some(finding.saying(says, fix).repaired(repaired));
    }
    let fix = format!("set readinessProbe.{field} to {right}");
    let repaired = case.repair(|world| {
        if let Some(spec) = pod_spec(world, &object) {
            for container in &mut std::sync::Arc::make_mut(spec).containers {
                container.readiness = None;
            }
        }
    });
    Some(finding.saying(says, fix).repaired(repaired))
}

/// There are endpoints, but the traffic policy only takes those of the own node.
fn only_elsewhere(case: &Case<'_>, service: &Service) -> Finding {
    let outside = service.external_traffic_policy == TrafficPolicy::Local;
    let field = if outside {
        "externalTrafficPolicy"
    } else {
        "internalTrafficPolicy"
    };
    let node = case
        .last(Code::SvcNoLocalEndpoints)
        .and_then(|record| case.attempted.trace.names.node_at(&record.place))
        .unwrap_or("this node");
    let says = format!("{field} is Local, and all of its endpoints are on other nodes than {node}");
    let fix = format!("set {field} to Cluster, or run a pod on every node that is asked");
    let repaired = case.repair(|world| {
        if let Some(service) = world.objects.services.get_mut(&service.key) {
            service.external_traffic_policy = TrafficPolicy::Cluster;
            service.internal_traffic_policy = TrafficPolicy::Cluster;
        }
    });
    Finding::of(
        Code::SvcNoLocalEndpoints,
        &reference(service),
        service.origin,
    )
    .saying(says, fix)
    .repaired(repaired)
}

/// A Service has the address of the outside host that was meant.
pub(super) fn shadows(case: &Case<'_>) -> Option<Finding> {
    let (ip, _) = case.dialled()?;
    let mut hosts = case.lab.plan.site.hosts.iter();
    let host = hosts.find(|host| host.ip == ip)?;
    let service = case.lab.service_at(ip)?;
    let says = format!(
        "it has the address {ip}, which is that of the host {} outside: no packet for it leaves the cluster any more",
        host.name
    );
    let fix =
        "give the Service another clusterIP, and the cluster a Service range that nobody else uses"
            .to_owned();
    let repaired = case.repair(|world| {
        if let Some(service) = world.objects.services.get_mut(&service.key) {
            service.cluster_ip = podwire_models::api::ClusterIp::Unassigned;
        }
    });
    Some(
        Finding::of(case.attempted.code, &reference(service), service.origin)
            .saying(says, fix)
            .shown_by(format!("kubectl get services -A -o wide | grep {ip}"))
            .repaired(repaired),
    )
}

// ---- ports ----

const fn protocol_of(l4: L4) -> Option<Protocol> {
    match l4 {
        L4::Tcp => Some(Protocol::Tcp),
        L4::Udp => Some(Protocol::Udp),
        L4::Sctp => Some(Protocol::Sctp),
        L4::Icmp => None,
    }
}

/// The port that a client asks a Service for, if the Service does not list it.
pub(super) fn missing_port(case: &Case<'_>) -> Option<(u16, Protocol)> {
    let service = case.service()?;
    let (ip, port) = case.dialled()?;
    let protocol = protocol_of(case.request.l4)?;
    let own = service.cluster_ips().contains(&ip);
    let listed = |p: &ServicePort| (p.port, p.protocol) == (port, protocol);
    (own && !service.ports.iter().any(listed)).then_some((port, protocol))
}

/// The Service does not list the port.
pub(super) fn unlisted(case: &Case<'_>) -> Option<Finding> {
    let service = case.service()?;
    let (port, protocol) = missing_port(case)?;
    let object = reference(service);
    let list: Vec<String> = service
        .ports
        .iter()
        .map(|p| format!("{}/{}", p.port, p.protocol))
        .collect();
    let list = list.join(", ");
    let other = service.ports.iter().position(|p| p.port == port);
    let (says, fix) = match other.and_then(|n| service.ports.get(n)) {
        Some(listed) => (
            format!(
                "it lists port {port} for {} only, and the client uses {protocol}",
                listed.protocol
            ),
            format!("set the protocol of port {port} to {protocol}"),
        ),
        None => (
            format!("it lists {list}, and not {port}/{protocol}"),
            format!("list port {port} in spec.ports, or let the client use a port that is listed"),
        ),
    };
    let nearest = other.or_else(|| {
        let numbered = (0..).zip(&service.ports);
        let far = |p: &ServicePort| evidence::distance(&p.port.to_string(), &port.to_string());
        numbered.min_by_key(|(_, p)| far(p)).map(|(n, _)| n)
    });
    let repaired = case.repair(|world| {
        let service = world.objects.services.get_mut(&service.key);
        let listed = service.zip(nearest).and_then(|(s, n)| s.ports.get_mut(n));
        if let Some(listed) = listed {
            (listed.port, listed.protocol) = (port, protocol);
        }
    });
    Some(
        Finding::of(Code::SvcPortUnlisted, &object, service.origin)
            .saying(says, fix)
            .repaired(repaired),
    )
}

/// A named target port that the pods do not have.
fn unnamed(
    case: &Case<'_>,
    service: &Service,
    port: &ServicePort,
    name: &str,
    pod: &Pod,
) -> Finding {
    let object = reference(service);
    let (made_by, origin) = maker(pod, &case.world.objects);
    let all = || pod.spec.ports().filter(|p| p.name.is_some());
    let other_protocol = all().find(|p| p.name.as_deref() == Some(name));
    if let Some(found) = other_protocol {
        let says = format!(
            "its port {} is {}, and the pods' port named {name} is {}",
            port.port, port.protocol, found.protocol
        );
        let fix = format!(
            "set the protocol of port {} to {}",
            port.port, found.protocol
        );
        let protocol = found.protocol;
        let repaired = case.repair(|world| {
            with_port(world, service, port, |port| port.protocol = protocol);
        });
        return Finding::of(Code::SvcNoEndpoints, &object, port.origin)
            .saying(says, fix)
            .repaired(repaired);
    }
    let of_protocol = || all().filter(|p| p.protocol == port.protocol);
    let near = of_protocol().min_by_key(|p| {
        let other = p.name.as_deref().unwrap_or_default();
        (evidence::distance(other, name), p.container_port)
    });
    let names: Vec<&str> = all().filter_map(|p| p.name.as_deref()).collect();
    let has = match names.as_slice() {
        [] => "none of their ports has a name".to_owned(),
        names => format!("their ports are named {}", names.join(", ")),
    };
    let uses = |name: &str| name_uses(&case.world.objects, name, service, &made_by);
    let theirs = near.and_then(|p| p.name.clone());
    let pods_are_wrong = theirs
        .as_deref()
        .is_some_and(|theirs| uses(name) > uses(theirs));
    if pods_are_wrong {
        let theirs = theirs.unwrap_or_default();
        let place = case.origins.text(port.origin);
        let says = format!(
            "a port of its pods is named {theirs}; {object} ({place}) asks for one named {name}, as others do too"
        );
        let repaired = case.repair(|world| rename_port(world, &made_by, &theirs, name));
        return Finding::of(Code::SvcNoEndpoints, &made_by, origin)
            .saying(says, format!("name the container's port {name}"))
            .repaired(repaired);
    }
    let place = case.origins.text(origin);
    let says =
        format!("its targetPort {name} names no port of the pods of {made_by} ({place}): {has}");
    let target = match (
        theirs,
        pod.spec.ports().find(|p| p.protocol == port.protocol),
    ) {
        (Some(theirs), _) => Some(PortRef::Name(theirs)),
        (None, Some(only)) => Some(PortRef::Number(only.container_port)),
        (None, None) => None,
    };
    let finding = Finding::of(Code::SvcNoEndpoints, &object, port.origin);
    let Some(target) = target else {
        let fix = format!("name a port of the container {name}");
        return finding.saying(says, fix);
    };
    let fix = format!("set targetPort to {target}, or name the container's port {name}");
    let repaired = case.repair(|world| {
        with_port(world, service, port, |port| port.target_port = target);
    });
    finding.saying(says, fix).repaired(repaired)
}

/// How many things call a port so, the two that disagree aside.
fn name_uses(given: &Objects, name: &str, service: &Service, made_by: &ObjectRef) -> usize {
    let own = service.ports.iter();
    let own = own.filter(|p| p.name.as_deref() == Some(name)).count();
    let others = given.services.values().filter(|s| s.key != service.key);
    let ports = others.flat_map(|s| &s.ports);
    let targets = ports.filter(|p| p.target_port == PortRef::Name(name.into()));
    let workloads = given.workloads.values();
    let workloads = workloads.filter(|w| evidence::reference(w) != *made_by);
    let containers = workloads.flat_map(|w| w.template.spec.ports());
    let named = containers.filter(|p| p.name.as_deref() == Some(name));
    own + targets.count() + named.count()
}

fn with_port(
    world: &mut World,
    service: &Service,
    port: &ServicePort,
    edit: impl FnOnce(&mut ServicePort),
) {
    let service = world.objects.services.get_mut(&service.key);
    let same =
        |other: &&mut ServicePort| (other.port, other.protocol) == (port.port, port.protocol);
    if let Some(found) = service.and_then(|s| s.ports.iter_mut().find(same)) {
        edit(found);
    }
}

/// Changes the ports that the containers of a workload or of a bare pod declare.
fn with_container_ports(world: &mut World, of: &ObjectRef, edit: impl Fn(&mut ContainerPort)) {
    let Some(spec) = pod_spec(world, of) else {
        return;
    };
    let spec = std::sync::Arc::make_mut(spec);
    for container in &mut spec.containers {
        container.ports.iter_mut().for_each(&edit);
    }
}

fn rename_port(world: &mut World, of: &ObjectRef, from: &str, to: &str) {
    with_container_ports(world, of, |port| {
        if port.name.as_deref() == Some(from) {
            port.name = Some(to.into());
        }
    });
}

/// Nobody listens on the port that the packet came to.
pub(super) fn closed(case: &Case<'_>) -> Option<Finding> {
    let code = case.attempted.code;
    let record = case.last(code)?;
    let pod = case.pod_at(record)?;
    let (made_by, origin) = maker(pod, &case.world.objects);
    let Some(Head::Ip { transport, .. }) = &record.step.packet else {
        return None;
    };
    let (port, protocol) = match transport {
        Transport::Tcp(tcp) => (tcp.dport, Protocol::Tcp),
        Transport::Udp(udp) => (udp.dport, Protocol::Udp),
        Transport::Sctp(sctp) => (sctp.dport, Protocol::Sctp),
        Transport::Icmp(_) => return None,
    };
    let listens: Vec<&ContainerPort> = pod.spec.ports().collect();
    let list: Vec<String> = listens
        .iter()
        .map(|p| format!("{}/{}", p.container_port, p.protocol))
        .collect();
    let list = if list.is_empty() {
        "its containers declare no port".to_owned()
    } else {
        format!("its containers listen on {}", list.join(", "))
    };
    if code == Code::PortBoundElsewhere {
        let by = record.step.by.as_ref().map(|by| by.text.clone());
        let says = format!("in pod {}: {}", pod.key.name, by.unwrap_or_default());
        return Some(Finding::of(code, &made_by, origin).saying(says, code.page().fix.to_owned()));
    }
    let service = case.service();
    let asked = case.dialled().map(|(_, port)| port);
    let through = service.and_then(|service| {
        let of = |p: &&ServicePort| {
            p.protocol == protocol && (Some(p.port) == asked || p.node_port == asked)
        };
        Some((service, service.ports.iter().find(of)?))
    });
    let Some((service, through)) = through else {
        let says = format!(
            "nobody listens on {protocol} port {port} in pod {}: {list}",
            pod.key.name
        );
        let fix = "use a port that it listens on, or declare the port".to_owned();
        return Some(Finding::of(code, &made_by, origin).saying(says, fix));
    };
    let object = reference(service);
    if let Some(polluted) = too_broad(case, service, pod, port, protocol) {
        return Some(polluted);
    }
    if let Some(elsewhere) = another(case, service, pod, port, protocol) {
        return Some(elsewhere);
    }
    let best = |p: &&&ContainerPort| {
        let named = p.name.is_some() && p.name == through.name;
        let same = p.container_port == through.port;
        let far = evidence::distance(&p.container_port.to_string(), &port.to_string());
        (p.protocol != protocol, !named, !same, far)
    };
    let Some(near) = listens.iter().min_by_key(best) else {
        let says = format!("its pods get connections on port {port} through {object}: {list}");
        let fix = format!("let the process listen on {port}, and declare it");
        return Some(Finding::of(code, &made_by, origin).saying(says, fix));
    };
    if near.container_port == port {
        let says = format!(
            "its port {} is {protocol}, and the pods of {made_by} listen on {port}/{}",
            through.port, near.protocol
        );
        let fix = format!(
            "set the protocol of port {} to {}",
            through.port, near.protocol
        );
        return Some(Finding::of(code, &object, through.origin).saying(says, fix));
    }
    let uses = |number: u16| number_uses(pod, through, number);
    if uses(port) > uses(near.container_port) {
        let place = case.origins.text(through.origin);
        let says = format!(
            "its pods declare port {}; {object} ({place}) sends to {port}, as the rest of it says too",
            near.container_port
        );
        let fix = format!("set containerPort to {port}");
        let wrong = near.container_port;
        let repaired = case.repair(|world| {
            with_container_ports(world, &made_by, |p| {
                if (p.container_port, p.protocol) == (wrong, protocol) {
                    p.container_port = port;
                }
            });
        });
        return Some(
            Finding::of(code, &made_by, near.origin)
                .saying(says, fix)
                .repaired(repaired),
        );
    }
    let place = case.origins.text(origin);
    let says = format!(
        "its port {} sends to targetPort {}, and the pods of {made_by} ({place}) do not listen there: {list}",
        through.port, through.target_port
    );
    let target = near.container_port;
    let fix = format!("set targetPort to {target}");
    let repaired = case.repair(|world| {
        with_port(world, service, through, |p| {
            p.target_port = PortRef::Number(target);
        });
    });
    Some(
        Finding::of(code, &object, through.origin)
            .saying(says, fix)
            .repaired(repaired),
    )
}

/// How many things of a pod, and the Service's own port, speak of this number: what the process was told.
fn number_uses(pod: &Pod, through: &ServicePort, number: u16) -> usize {
    let text = number.to_string();
    let is_word = |words: &str| {
        words
            .split(|c: char| !c.is_ascii_digit())
            .any(|word| word == text)
    };
    let containers = || pod.spec.containers.iter();
    let env = containers().flat_map(|c| &c.env).filter(|(name, value)| {
        // Addresses of others hold ports too.
        name.to_ascii_uppercase().contains("PORT") && is_word(value)
    });
    let words = containers().flat_map(|c| c.command.iter().chain(&c.args));
    let words = words.filter(|word| is_word(word));
    usize::from(through.port == number) + env.count() + words.count()
}

/// The Service selects pods of somebody else, and the pods that are called like it listen on its port.
fn another(
    case: &Case<'_>,
    service: &Service,
    pod: &Pod,
    port: u16,
    protocol: Protocol,
) -> Option<Finding> {
    let selector = service.selector.as_ref()?;
    let given = &case.world.objects;
    let (made_by, _) = maker(pod, given);
    let here = |group: &Group<'_>| group.object.namespace.as_ref() == Some(&service.key.namespace);
    let listens = |group: &Group<'_>| {
        let mut ports = group.spec.ports();
        ports.any(|p| (p.container_port, p.protocol) == (port, protocol))
    };
    let called_like_it = |group: &Group<'_>| {
        let rest = service.key.name.as_str();
        let rest = rest.strip_prefix(group.object.name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let left_over = |group: &Group<'_>| !selected(given, group, &service.key);
    let meant = groups(given)
        .filter(|group| here(group) && group.object != made_by && listens(group))
        .filter(|group| called_like_it(group) || left_over(group))
        .min_by_key(|group| !called_like_it(group))?;
    let place = case.origins.text(meant.origin);
    let says = format!(
        "its selector {selector} matches the pods of {made_by}, which do not listen on {port}; those of {} ({place}) do",
        meant.object
    );
    let mut better = selector.clone();
    better.match_labels = Labels::default();
    for (key, value) in meant.labels.iter() {
        let wanted = selector.match_labels.get(key).is_some();
        if wanted {
            better.match_labels.insert(key, value);
        }
    }
    if better.is_empty() {
        better.match_labels = meant.labels.clone();
    }
    let fix = format!("make spec.selector {better}");
    let repaired = case.repair(|world| {
        if let Some(service) = world.objects.services.get_mut(&service.key) {
            service.selector = Some(better);
        }
    });
    Some(
        Finding::of(
            Code::PortClosed,
            &reference(service),
            service.selector_origin,
        )
        .saying(says, fix)
        .shown_by(show_labels(&service.key.namespace))
        .repaired(repaired),
    )
}

/// The Service selects pods of others, which do not listen on its port, beside its own, which do.
fn too_broad(
    case: &Case<'_>,
    service: &Service,
    pod: &Pod,
    port: u16,
    protocol: Protocol,
) -> Option<Finding> {
    let selector = service.selector.as_ref()?;
    let given = &case.world.objects;
    let (made_by, _) = maker(pod, given);
    let pods = case.lab.objects.pods.values();
    let mut others = pods
        .filter(|other| other.key.namespace == service.key.namespace)
        .filter(|other| selector.matches(&other.labels))
        .filter(|other| maker(other, given).0 != made_by);
    let listens = |other: &Pod| {
        let mut ports = other.spec.ports();
        ports.any(|p| (p.container_port, p.protocol) == (port, protocol))
    };
    let meant = others.find(|other| listens(other))?;
    let (meant, _) = maker(meant, given);
    let says = format!(
        "its selector {selector} matches the pods of {meant}, which listen on {port}, and those of {made_by}, which do not"
    );
    let fix = format!("add a label to spec.selector that only the pods of {meant} have");
    Some(
        Finding::of(
            Code::PortClosed,
            &reference(service),
            service.selector_origin,
        )
        .saying(says, fix)
        .shown_by(format!(
            "kubectl -n {} get pods -l '{selector}' --show-labels",
            service.key.namespace
        )),
    )
}
