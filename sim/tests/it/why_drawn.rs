//! `why` on clusters that were broken by chance: two real applications, each time one thing drawn and changed for the
//! worse. What was changed must be what is named, object and field; where nothing was changed, nothing is named.
//!
//! `PODWIRE_WHY_SEED` begins with another seed, `PODWIRE_WHY_CLUSTERS` draws another number for each kind of mistake.
#![allow(
    clippy::unnecessary_wraps,
    reason = "each mistake is a function of the type `Kind`"
)]

use std::sync::Arc;

use podwire::fault::Fault;
use podwire::lab::Lab;
use podwire::scenario;
use podwire::source::Source;
use podwire::story::{explained, resolve};
use podwire::why::{Blocker, World};
use podwire_models::api::pod::DnsPolicy;
use podwire_models::api::probe::{Handler, Probe};
use podwire_models::api::{
    NetworkPolicy, Node, Object, Pod, PolicyPeer, PolicyPort, PolicyPorts, PortRef, Service,
    Workload, WorkloadKind,
};
use podwire_models::base::Family;
use podwire_models::base::{Labels, ObjectKey, ObjectName, OriginId, Protocol, Selector};
use podwire_models::cluster::Acl;
use podwire_models::kernel::config::Change;
use podwire_models::kernel::netfilter::chain::{ChainPolicy, Table};
use podwire_models::wire::L4;

use crate::why::{App, Path, asked_in, isolating, misspell_all, misspelt, paths, read, rule};

/// A generator of numbers (splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A port that nobody of these applications uses.
    fn port(&mut self) -> u16 {
        20_000 + u16::try_from(self.below(9_000)).unwrap()
    }
}

/// A cluster with one mistake.
struct Broken {
    world: World,
    /// What is done to its machines, too.
    harm: Vec<Harm>,
    /// What must be named.
    object: String,
    /// What must be spoken of.
    word: &'static str,
}

enum Harm {
    Fault(Fault),
    /// A command on a node.
    Command(ObjectName, Change),
    /// kube-proxy on a node has not heard of what this world has.
    OldRules(ObjectName, Box<World>),
}

impl Broken {
    fn of(world: World, object: String, word: &'static str) -> Self {
        Self {
            world,
            harm: Vec::new(),
            object,
            word,
        }
    }

    fn lab(&self) -> Lab {
        let mut lab = Lab::build(self.world.objects.clone(), self.world.plan.clone());
        for harm in &self.harm {
            match harm {
                Harm::Fault(fault) => {
                    fault.begin("fault", &mut lab.machines).unwrap();
                }
                Harm::Command(node, change) => {
                    let netns = lab.machines.nodes[node].netns;
                    let space = lab.machines.cluster.netns_mut(netns).unwrap();
                    space.apply(change).unwrap();
                }
                Harm::OldRules(node, before) => {
                    let before = Lab::build(before.objects.clone(), before.plan.clone());
                    let old = &before.machines;
                    let rules = old.cluster.netns(old.nodes[node].netns).unwrap();
                    let netns = lab.machines.nodes[node].netns;
                    let space = lab.machines.cluster.netns_mut(netns).unwrap();
                    space.netfilter.clone_from(&rules.netfilter);
                }
            }
        }
        lab
    }
}

/// Draws one mistake of a kind; nothing if the path cannot have it.
type Kind = fn(&mut Draw, &App, &Path) -> Option<Broken>;

const KINDS: &[(&str, Kind)] = &[
    ("selector", selector),
    ("selector of another", selector_of_another),
    ("label", label),
    ("port", port),
    ("targetPort", target_port),
    ("containerPort", container_port),
    ("named port of the Service", named_port),
    ("named port of the container", named_container_port),
    ("readiness", readiness),
    ("policy: deny ingress", deny_ingress),
    ("policy: deny egress", deny_egress),
    ("policy: label", policy_label),
    ("policy: port", policy_port),
    ("policy: namespace", policy_namespace),
    ("the client's label", client_label),
    ("dns: policy of the pod", dns_policy),
    ("dns: Service of the name servers", dns_service),
    ("dns: name servers scaled to zero", dns_scaled),
    ("dns: egress forgot it", dns_forgotten),
    ("namespace", namespace),
    ("replicas", replicas),
    ("no node fits", no_node_fits),
    ("CIDR: range of a node too small", small_range),
    ("CIDR: two nodes have one range", double_range),
    ("sysctl", sysctl),
    ("route", route),
    ("firewall of the underlay", firewall),
    ("firewall of a node", forward_policy),
    ("link", link),
    ("node down", node_down),
    ("kube-proxy has not heard of the Service", no_rules),
    ("kube-proxy has not heard of the endpoints", old_rules),
];

// ---- Services and pods ----

/// Another value, as people write it by mistake.
fn wrong(draw: &mut Draw, value: &str) -> String {
    match draw.below(4) {
        0 => misspelt(value),
        1 => format!("{value}-v2"),
        2 => format!("{value}s"),
        _ => "blue".to_owned(),
    }
}

/// Breaks one of some labels: its value or its key.
fn break_one(draw: &mut Draw, labels: &mut Labels) {
    let all: Vec<(Arc<str>, String)> = labels
        .iter()
        .map(|(key, value)| (Arc::from(key), value.to_owned()))
        .collect();
    let (key, value) = draw.of(&all);
    if draw.below(4) == 0 {
        labels.remove(key);
        labels.insert(&*format!("{key}.kubernetes.io"), value.as_str());
    } else {
        labels.insert(&**key, wrong(draw, value).as_str());
    }
}

fn selector(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let selector = path.service(&mut world).selector.as_mut()?;
    if draw.below(4) == 0 {
        let tier = *draw.of(&["tier", "release", "version"]);
        selector.match_labels.insert(tier, "backend");
    } else {
        break_one(draw, &mut selector.match_labels);
    }
    Some(Broken::of(world, path.service_label(), "selector"))
}

fn selector_of_another(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let target = path.service(&mut world).ports.first()?.target_port.clone();
    let PortRef::Number(target) = target else {
        return None;
    };
    let silent = |other: &&Path| {
        let key = (WorkloadKind::Deployment, other.server.clone());
        let mut ports = app.world.objects.workloads[&key].template.spec.ports();
        other.service != path.service && !ports.any(|p| p.container_port == target)
    };
    let all = paths(&app.world.objects);
    let others: Vec<&Path> = all.iter().filter(silent).collect();
    if others.is_empty() {
        return None;
    }
    let other = draw.of(&others).service.clone();
    let selector = world.objects.services[&other].selector.clone();
    path.service(&mut world).selector = selector;
    Some(Broken::of(world, path.service_label(), "selector"))
}

fn label(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let selector = app.world.objects.services[&path.service].selector.clone()?;
    let server = path.server(&mut world);
    let mut labels = selector.match_labels.clone();
    break_one(draw, &mut labels);
    for (key, _) in selector.match_labels.iter() {
        server.template.labels.remove(key);
    }
    for (key, value) in labels.iter() {
        server.template.labels.insert(key, value);
    }
    let own = server.template.labels.clone();
    server.selector = Some(Selector::labels(own));
    Some(Broken::of(world, path.server_label(), "label"))
}

fn port(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    path.service(&mut world).ports[0].port = draw.port();
    Some(Broken::of(world, path.service_label(), "port"))
}

fn target_port(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    path.service(&mut world).ports[0].target_port = PortRef::Number(draw.port());
    Some(Broken::of(world, path.service_label(), "targetPort"))
}

fn container_port(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let target = path.service(&mut world).ports[0].target_port.clone();
    let number = draw.port();
    let spec = Arc::make_mut(&mut path.server(&mut world).template.spec);
    for port in spec.containers.iter_mut().flat_map(|c| &mut c.ports) {
        if PortRef::Number(port.container_port) == target {
            port.container_port = number;
        }
    }
    Some(Broken::of(world, path.server_label(), "containerPort"))
}

fn named_port(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let name = *draw.of(&["http-web", "web", "api", "metrics"]);
    path.service(&mut world).ports[0].target_port = PortRef::Name(name.into());
    Some(Broken::of(world, path.service_label(), "targetPort"))
}

fn named_container_port(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let (right, other) = *draw.of(&[("web", "wbe"), ("http", "http-1"), ("grpc", "rpc")]);
    let port = &mut path.service(&mut world).ports[0];
    port.name = Some(right.into());
    port.target_port = PortRef::Name(right.into());
    let spec = Arc::make_mut(&mut path.server(&mut world).template.spec);
    for port in spec.containers.iter_mut().flat_map(|c| &mut c.ports) {
        port.name = Some(other.into());
    }
    Some(Broken::of(world, path.server_label(), "port"))
}

fn readiness(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let (number, way) = (draw.port(), draw.below(4));
    let spec = Arc::make_mut(&mut path.server(&mut world).template.spec);
    let container = spec.containers.first_mut()?;
    let (number, name) = (PortRef::Number(number), PortRef::Name("health".into()));
    let port = if way == 3 { name } else { number };
    container.readiness = Some(match (&container.readiness, &port) {
        (Some(probe), PortRef::Number(number)) if way == 0 => Probe {
            handler: Handler::Grpc { port: *number },
            ..probe.clone()
        },
        _ if way == 1 => Probe::new(Handler::HttpGet {
            port,
            path: "/health".into(),
            host: None,
            scheme: None,
        }),
        _ => Probe::new(Handler::TcpSocket { port, host: None }),
    });
    Some(Broken::of(world, path.server_label(), "readinessProbe"))
}

fn namespace(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let mut service = world.objects.services.remove(&path.service)?;
    service.key.namespace = draw.of(&["elsewhere", "staging", "prod"]).parse().unwrap();
    let object = format!("Service/{}", service.key);
    world.objects.insert(Object::Service(service));
    Some(Broken::of(world, object, "namespace"))
}

fn replicas(_: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    path.server(&mut world).replicas = 0;
    Some(Broken::of(world, path.server_label(), "zero replicas"))
}

fn no_node_fits(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let spec = Arc::make_mut(&mut path.server(&mut world).template.spec);
    let (key, value) = *draw.of(&[("disk", "ssd"), ("gpu", "true"), ("zone", "c")]);
    spec.node_selector.insert(key, value);
    Some(Broken::of(world, path.server_label(), "selector"))
}

// ---- policies ----

fn policy(path: &Path, name: &str, about: &Labels) -> NetworkPolicy {
    isolating(path, name, about)
}

fn with_policy(app: &App, policy: NetworkPolicy, word: &'static str) -> Option<Broken> {
    let mut world = app.world.clone();
    let object = format!("NetworkPolicy/{}", policy.key);
    world.objects.insert(Object::NetworkPolicy(policy));
    Some(Broken::of(world, object, word))
}

fn labels_of<'a>(app: &'a App, of: &ObjectKey) -> &'a Labels {
    let key = (WorkloadKind::Deployment, of.clone());
    &app.world.objects.workloads[&key].template.labels
}

fn deny_ingress(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let everybody = Labels::default();
    let about = *draw.of(&[&everybody, labels_of(app, &path.server)]);
    let mut closed = policy(path, "closed", about);
    closed.policy_types.ingress = true;
    with_policy(app, closed, "ingress")
}

fn deny_egress(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let everybody = Labels::default();
    let about = *draw.of(&[&everybody, labels_of(app, &path.client)]);
    let mut closed = policy(path, "quiet", about);
    closed.policy_types.egress = true;
    with_policy(app, closed, "egress")
}

fn dns_forgotten(_: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut closed = policy(path, "no-dns", labels_of(app, &path.client));
    closed.policy_types.egress = true;
    closed
        .egress
        .push(rule(labels_of(app, &path.server).clone()));
    with_policy(app, closed, "53")
}

fn policy_label(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut allowed = labels_of(app, &path.client).clone();
    if draw.below(2) == 0 {
        misspell_all(&mut allowed);
    } else {
        break_one(draw, &mut allowed);
    }
    let mut typo = policy(path, "typo", labels_of(app, &path.server));
    typo.policy_types.ingress = true;
    typo.ingress.push(rule(allowed));
    with_policy(app, typo, "label")
}

fn policy_port(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let right = labels_of(app, &path.client).clone();
    let others = paths(&app.world.objects);
    let other = labels_of(app, &draw.of(&others).server).clone();
    let mut allow = rule(right);
    allow.ports.push(PolicyPort {
        protocol: Protocol::Tcp,
        ports: PolicyPorts::One(PortRef::Number(draw.port())),
        origin: OriginId::NONE,
    });
    let mut narrow = policy(path, "narrow", labels_of(app, &path.server));
    narrow.policy_types.ingress = true;
    // A rule for somebody else is no nearer.
    if other != *labels_of(app, &path.client) {
        narrow.ingress.push(rule(other));
    }
    narrow.ingress.push(allow);
    with_policy(app, narrow, "port")
}

fn policy_namespace(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut wanted = Labels::default();
    wanted.insert(
        "kubernetes.io/metadata.name",
        *draw.of(&["prod", "shop", "web"]),
    );
    let mut allow = rule(labels_of(app, &path.client).clone());
    for peer in &mut allow.peers {
        if let PolicyPeer::Pods { namespaces, .. } = peer {
            *namespaces = Some(Selector::labels(wanted.clone()));
        }
    }
    let mut far = policy(path, "far", labels_of(app, &path.server));
    far.policy_types.ingress = true;
    far.ingress.push(allow);
    with_policy(app, far, "namespace")
}

fn client_label(_: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut allow = policy(path, "drift", labels_of(app, &path.server));
    allow.policy_types.ingress = true;
    allow
        .ingress
        .push(rule(labels_of(app, &path.client).clone()));
    let mut broken = with_policy(app, allow, "label")?;
    let client = path.client(&mut broken.world);
    misspell_all(&mut client.template.labels);
    misspell_all(&mut client.selector.as_mut()?.match_labels);
    broken.object = path.client_label();
    Some(broken)
}

// ---- names ----

fn dns_policy(_: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let mut world = app.world.clone();
    let client = path.client(&mut world);
    Arc::make_mut(&mut client.template.spec).dns_policy = DnsPolicy::Default;
    Some(Broken::of(world, path.client_label(), "dnsPolicy"))
}

/// The name servers as kubeadm installs them, to be changed.
fn name_servers(app: &App) -> (World, Service, Workload) {
    let mut world = app.world.clone();
    let settled = Lab::build(world.objects.clone(), world.plan.clone()).objects;
    let key = |name: &str| ObjectKey::new("kube-system".parse().unwrap(), name.parse().unwrap());
    let service = settled.services[&key("kube-dns")].clone();
    let workload = settled.workloads[&(WorkloadKind::Deployment, key("coredns"))].clone();
    world.objects.insert(Object::Service(service.clone()));
    world.objects.insert(Object::Workload(workload.clone()));
    (world, service, workload)
}

fn dns_service(draw: &mut Draw, app: &App, _: &Path) -> Option<Broken> {
    let (mut world, mut service, _) = name_servers(app);
    break_one(draw, &mut service.selector.as_mut()?.match_labels);
    let object = format!("Service/{}", service.key);
    world.objects.insert(Object::Service(service));
    Some(Broken::of(world, object, "selector"))
}

fn dns_scaled(_: &mut Draw, app: &App, _: &Path) -> Option<Broken> {
    let (mut world, _, mut workload) = name_servers(app);
    workload.replicas = 0;
    let object = format!("Deployment/{}", workload.key);
    world.objects.insert(Object::Workload(workload));
    Some(Broken::of(world, object, "zero replicas"))
}

// ---- nodes ----

fn with_ranges(app: &App, ranges: [&str; 2]) -> World {
    let mut world = app.world.clone();
    for (name, range) in ["node-a", "node-b"].into_iter().zip(ranges) {
        let name: ObjectName = name.parse().unwrap();
        let mut node = Node::new(name.clone());
        node.pod_cidrs = vec![range.parse().unwrap()];
        world.objects.nodes.insert(name, node);
    }
    world
}

fn small_range(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let small = *draw.of(&["10.244.1.0/29", "10.244.1.0/30"]);
    let world = with_ranges(app, ["10.244.0.0/24", small]);
    let lab = Lab::build(world.objects.clone(), world.plan.clone());
    let (server, client) = (pods(&lab, &path.server), pods(&lab, &path.client));
    if !server.is_empty() || client.is_empty() {
        return None;
    }
    Some(Broken::of(world, "Node//node-b".to_owned(), "range"))
}

fn double_range(_: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let world = with_ranges(app, ["10.244.7.0/24", "10.244.7.0/24"]);
    let lab = Lab::build(world.objects.clone(), world.plan.clone());
    let (there, here) = (node_of(&lab, &path.server)?, node_of(&lab, &path.client)?);
    // A pod with the same address may listen there: then the wrong one answers, and nothing fails.
    let target = &app.world.objects.services[&path.service]
        .ports
        .first()?
        .target_port;
    let all = lab.objects.pods.values();
    let listens = |pod: &Pod| {
        let mut ports = pod.spec.ports();
        ports.any(|port| PortRef::Number(port.container_port) == *target)
    };
    let answering = all.filter(|pod| pod.node_name.as_ref() == Some(&here) && listens(pod));
    let mut answering = answering.flat_map(|pod| &pod.pod_ips);
    let server = lab.pods_of(
        "Deployment",
        path.server.namespace.as_str(),
        path.server.name.as_str(),
    );
    let server = server.first()?.pod_ips.first()?;
    if there == here || answering.any(|ip| ip == server) {
        return None;
    }
    Some(Broken::of(world, "Node//node-b".to_owned(), "podCIDR"))
}

fn pods(lab: &Lab, deployment: &ObjectKey) -> Vec<ObjectName> {
    let (namespace, name) = (deployment.namespace.as_str(), deployment.name.as_str());
    let pods = lab.pods_of("Deployment", namespace, name);
    pods.iter()
        .filter_map(|pod| pod.node_name.clone())
        .collect()
}

fn node_of(lab: &Lab, deployment: &ObjectKey) -> Option<ObjectName> {
    pods(lab, deployment).first().cloned()
}

/// The nodes of client and server, if they are two.
fn two_nodes(app: &App, path: &Path) -> Option<(Lab, ObjectName, ObjectName)> {
    let lab = Lab::build(app.world.objects.clone(), app.world.plan.clone());
    let (here, there) = (node_of(&lab, &path.client)?, node_of(&lab, &path.server)?);
    (here != there).then_some((lab, here, there))
}

fn harmed(app: &App, harm: Harm, object: String, word: &'static str) -> Option<Broken> {
    let mut broken = Broken::of(app.world.clone(), object, word);
    broken.harm.push(harm);
    Some(broken)
}

fn sysctl(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let (_, here, there) = two_nodes(app, path)?;
    let node = draw.of(&[here, there]).clone();
    let name = *draw.of(&["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"]);
    let fault = Fault::Sysctl {
        on: format!("node/{node}"),
        name: name.to_owned(),
        value: "0".to_owned(),
    };
    let object = format!("Sysctl/{node}/net.ipv4.ip_forward");
    harmed(app, Harm::Fault(fault), object, "forward")
}

fn route(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let (lab, here, there) = two_nodes(app, path)?;
    let ways = [(here.clone(), there.clone()), (there, here)];
    let (on, to) = draw.of(&ways);
    let range = lab.objects.nodes[to].pod_cidrs[0];
    let change = Change::DeleteRoute {
        dst: range,
        dev: None,
        metric: 0,
    };
    let object = format!("Route/{on}/{range}");
    harmed(app, Harm::Command(on.clone(), change), object, "route")
}

fn firewall(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let (lab, here, _) = two_nodes(app, path)?;
    let from = lab.objects.nodes[&here].pod_cidrs[0];
    let acl = Acl {
        id: (*draw.of(&["no-web", "sg-1", "deny"])).into(),
        from: (draw.below(2) == 0).then_some(from),
        to: None,
        l4: (draw.below(2) == 0).then_some(L4::Tcp),
        port: None,
        touched: 0,
    };
    let object = format!("Fault//{}", acl.id);
    harmed(app, Harm::Fault(Fault::Acl(acl)), object, "firewall")
}

fn forward_policy(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let (_, here, there) = two_nodes(app, path)?;
    let node = draw.of(&[here, there]).clone();
    let change = Change::Chain {
        family: Family::V4,
        table: Table::Filter,
        chain: "FORWARD".into(),
        policy: Some(ChainPolicy::Drop),
    };
    let object = format!("Node//{node}");
    harmed(app, Harm::Command(node, change), object, "FORWARD")
}

fn link(draw: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let (_, here, there) = two_nodes(app, path)?;
    let ways = [(here.clone(), there.clone()), (there, here)];
    let (from, to) = draw.of(&ways);
    let fault = Fault::LinkDown {
        from: format!("node/{from}"),
        to: format!("node/{to}"),
        one_way: true,
    };
    let object = format!("Link/{from}/{to}");
    harmed(app, Harm::Fault(fault), object, "cut")
}

fn node_down(_: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let (_, _, there) = two_nodes(app, path)?;
    let object = format!("Node//{there}");
    let fault = Fault::NodeDown { node: there };
    harmed(app, Harm::Fault(fault), object, "switched off")
}

// ---- kube-proxy ----

fn no_rules(_: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let lab = Lab::build(app.world.objects.clone(), app.world.plan.clone());
    let here = node_of(&lab, &path.client)?;
    let mut before = app.world.clone();
    before.objects.services.remove(&path.service)?;
    let object = format!("Node//{here}");
    harmed(
        app,
        Harm::OldRules(here, Box::new(before)),
        object,
        "kube-proxy",
    )
}

fn old_rules(_: &mut Draw, app: &App, path: &Path) -> Option<Broken> {
    let lab = Lab::build(app.world.objects.clone(), app.world.plan.clone());
    let here = node_of(&lab, &path.client)?;
    let mut before = app.world.clone();
    // The Service had its address, and no endpoint yet.
    let settled = lab.objects.services[&path.service].clone();
    before
        .objects
        .services
        .insert(path.service.clone(), settled);
    path.service(&mut before).selector = Some(Selector::labels({
        let mut nobody = Labels::default();
        nobody.insert("app", "nobody");
        nobody
    }));
    let object = format!("Node//{here}");
    harmed(
        app,
        Harm::OldRules(here, Box::new(before)),
        object,
        "kube-proxy",
    )
}

// ---- sizes ----

/// A link that carries less than pods send: the link is to blame, or the MTU that somebody gave the pods. Returns how
/// many clusters that were.
fn sizes(file: &str, name: &str) -> usize {
    let Some(app) = read(file) else { return 0 };
    let text = std::fs::read_to_string(crate::handbook(&format!("real/{file}")).unwrap()).unwrap();
    let all = paths(&app.world.objects);
    let mut draw = Draw(number("PODWIRE_WHY_SEED", 1) as u64);
    let mut seen = 0;
    while seen < 6 {
        let path = draw.of(&all);
        let Some((_, here, there)) = two_nodes(&app, path) else {
            continue;
        };
        let insists = seen % 2 == 1;
        let carries = 1300 + draw.below(172);
        let (mtu, object) = if insists {
            (1451 + draw.below(50), "Cluster//mtu".to_owned())
        } else {
            (1450, format!("Link/{here}/{there}"))
        };
        let own = if insists {
            format!("mtu: {mtu},")
        } else {
            String::new()
        };
        let scenario = format!(
            r#"Scenario(title: "sizes", cluster: Cluster(profile: "flannel-vxlan", {own}
                nodes: [Node(name: "node-a"), Node(name: "node-b")],
                underlay: Underlay(links: [Link(from: "node-a", to: "node-b", mtu: {carries})])),
                manifests: ["{name}"],
                timeline: [At("1s", Probe(id: "large", from: "deploy/{}", to: "svc/{}:{}", payload: "20000B", timeout: "3s"))])"#,
            path.client, path.service, path.port
        );
        let file = scenario::read("sizes.ron", &scenario).unwrap();
        let (story, problems) = resolve(&file, &[Source::new(name, text.clone())]);
        assert!(problems.is_empty(), "{problems:?}");
        let ran = explained(&story, 1);
        let first = ran.blockers.first().and_then(|failed| failed.why.first());
        let first = first.unwrap_or_else(|| panic!("{path:?}, {carries}: it still works"));
        assert_eq!(first.object.as_deref(), Some(object.as_str()), "{first:#?}");
        assert!(first.says.contains(&carries.to_string()), "{first:#?}");
        assert!(first.says.contains(&mtu.to_string()), "{first:#?}");
        seen += 1;
    }
    seen
}

#[test]
fn names_what_is_too_small_for_large_packets() {
    sizes("online-boutique/kubernetes-manifests.yaml", "boutique.yaml");
    sizes("sock-shop/complete-demo.yaml", "sock-shop.yaml");
}

// ---- the tests ----

fn number(variable: &str, usual: usize) -> usize {
    let mut all = std::env::vars();
    let found = all.find(|(name, _)| name == variable);
    found.map_or(usual, |(_, value)| value.parse().unwrap())
}

/// What is wrong with an answer.
fn complaint(broken: &Broken, found: &[Vec<Blocker>]) -> Option<String> {
    if found.is_empty() {
        return Some("it still works".to_owned());
    }
    // What a machine lacks cannot be repaired in a copy of the objects: only the first cause counts.
    let only = broken.harm.is_empty();
    for blockers in found {
        let first = blockers.first()?;
        let told = format!("{} {}", first.says, first.fix);
        let named = first.object.as_deref() == Some(broken.object.as_str());
        let alone = !only || blockers.iter().all(|b| b.object == first.object);
        if !named || !alone || !told.contains(broken.word) {
            let (object, word) = (&broken.object, broken.word);
            return Some(format!("not {object}, {word}: {blockers:#?}"));
        }
    }
    None
}

fn drawn(file: &str) -> usize {
    let Some(app) = read(file) else { return 0 };
    let all = paths(&app.world.objects);
    let first = number("PODWIRE_WHY_SEED", 1);
    let each = number("PODWIRE_WHY_CLUSTERS", 3);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (n, (what, kind)) in KINDS.iter().enumerate() {
        let mut draw = Draw((first * 1000 + n) as u64);
        let mut made = 0;
        for _ in 0..each * 20 {
            if made == each {
                break;
            }
            let path = draw.of(&all);
            let Some(broken) = kind(&mut draw, &app, path) else {
                continue;
            };
            made += 1;
            let found = asked_in(&app, &broken.world, path, &broken.lab());
            if let Some(complaint) = complaint(&broken, &found) {
                wrong.push(format!(
                    "{what}, {} to {}: {complaint}",
                    path.client, path.service
                ));
            }
        }
        seen += made;
    }
    assert!(
        wrong.is_empty(),
        "{} of {seen}\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
    seen
}

#[test]
fn names_what_was_drawn_in_online_boutique() {
    let seen = drawn("online-boutique/kubernetes-manifests.yaml");
    assert!(seen == 0 || seen >= 60, "{seen} clusters");
}

#[test]
fn names_what_was_drawn_in_sock_shop() {
    let seen = drawn("sock-shop/complete-demo.yaml");
    assert!(seen == 0 || seen >= 60, "{seen} clusters");
}

#[test]
fn names_nothing_where_nothing_is_wrong() {
    for file in [
        "online-boutique/kubernetes-manifests.yaml",
        "sock-shop/complete-demo.yaml",
    ] {
        let Some(app) = read(file) else { return };
        let lab = Lab::build(app.world.objects.clone(), app.world.plan.clone());
        for path in paths(&app.world.objects) {
            let found = asked_in(&app, &app.world, &path, &lab);
            assert!(found.is_empty(), "{path:?}: {found:#?}");
        }
    }
}
