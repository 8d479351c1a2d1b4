//! `reach`: who may talk to whom in a cluster of a given size, and one pair explained.
//!
//! At 150,000 pods it has what Kubernetes' published limits have: 5,000 nodes, 1,000 namespaces, 3,000 sets of labels,
//! and 10,000 policies; smaller ones have less of each in proportion.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use podwire_models::api::{
    Container, ContainerPort, IpBlock, NetworkPolicy, Node, Object, Objects, Pod, PodSpec,
    PolicyPeer, PolicyPort, PolicyPorts, PolicyRule, PolicyTypes, PortRef, namespace,
};
use podwire_models::base::hash::{combine, stable_hash};
use podwire_models::base::{
    Labels, Namespace, ObjectKey, ObjectName, OriginId, Protocol, Selector,
};
use podwire_models::control::policy::reach::Reach;
use podwire_models::control::policy::{Flow, Policies};
use serde::Serialize;

use super::meter::{self, Meter};

/// What a measurement found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReachReport {
    /// `podwire.bench/v1`.
    pub schema: &'static str,
    /// `reach`.
    pub workload: &'static str,
    /// Nodes.
    pub nodes: u32,
    /// Pods.
    pub pods: u32,
    /// Namespaces.
    pub namespaces: u32,
    /// Distinct sets of labels.
    pub label_sets: u32,
    /// Policies.
    pub policies: u32,
    /// Classes of ends that no policy tells apart.
    pub classes: usize,
    /// Ordered pairs of pods.
    pub pairs: u64,
    /// Pairs between which something may pass.
    pub open_pairs: u64,
    /// Wall clock seconds until the objects were there.
    pub setup_seconds: f64,
    /// Wall clock seconds to compute all pairs.
    pub reach_seconds: f64,
    /// Wall clock seconds to sort the policies, once.
    pub load_seconds: f64,
    /// Wall clock seconds to explain one pair, the slowest of a hundred.
    pub explain_seconds: f64,
    /// Most memory the process ever had; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// Depends on the answer, and on nothing else.
    pub fingerprint: String,
}

/// The numbers that follow from the number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    pods: u32,
    nodes: u32,
    namespaces: u32,
}

/// Sets of labels in each namespace.
const LABEL_SETS: u32 = 3;
/// Policies in each namespace.
const POLICIES: u32 = 10;

impl Shape {
    fn of(pods: u32) -> Self {
        let at_least_one = |n: u32| n.max(1);
        Self {
            pods,
            nodes: at_least_one(pods / 30),
            namespaces: at_least_one(pods / 150),
        }
    }
}

fn name(text: &str) -> ObjectName {
    text.parse().expect("a name")
}

fn space(n: u32) -> Namespace {
    format!("ns-{n}").parse().expect("a name")
}

fn app(space: u32, set: u32) -> String {
    format!("app-{space}-{set}")
}

/// Returns the objects of a cluster of so many pods.
pub fn cluster(pods: u32) -> Objects {
    let shape = Shape::of(pods);
    let mut objects = Objects::default();
    for n in 0..shape.nodes {
        let mut node = Node::new(name(&format!("node-{n}")));
        let bits = u32::from(Ipv4Addr::new(172, 16, 0, 0)) + n + 2;
        node.internal_ips = vec![Ipv4Addr::from_bits(bits).into()];
        objects.insert(Object::Node(node));
    }
    for n in 0..shape.namespaces {
        let own = space(n);
        let labels = Labels::from_iter([
            ("team".to_owned(), format!("team-{}", n % 20)),
            (namespace::NAME_LABEL.to_owned(), own.to_string()),
        ]);
        objects.insert(Object::Namespace(namespace::Namespace {
            name: name(own.as_str()),
            labels,
            annotations: Labels::default(),
            origin: OriginId::NONE,
        }));
        for policy in 0..POLICIES {
            objects.insert(Object::NetworkPolicy(network_policy(n, policy, shape)));
        }
    }
    let specs: Vec<Arc<PodSpec>> = (0..LABEL_SETS).map(spec).collect();
    for n in 0..shape.pods {
        let (own, set) = (n % shape.namespaces, n / shape.namespaces % LABEL_SETS);
        let key = ObjectKey::new(space(own), name(&format!("pod-{n}")));
        let spec = specs.get(set as usize).cloned().unwrap_or_default();
        let mut pod = Pod::new(key, spec);
        pod.labels = Labels::from_iter([
            ("app", app(own, set)),
            ("pod-template-hash", format!("{n:x}")),
        ]);
        pod.node_name = Some(name(&format!("node-{}", n % shape.nodes)));
        let bits = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + n + 1;
        pod.pod_ips = vec![Ipv4Addr::from_bits(bits).into()];
        objects.insert(Object::Pod(pod));
    }
    objects
}

fn spec(set: u32) -> Arc<PodSpec> {
    let port = ContainerPort {
        name: Some("http".into()),
        container_port: 8080 + u16::try_from(set).unwrap_or(0),
        host_port: None,
        host_ip: None,
        protocol: Protocol::Tcp,
        origin: OriginId::NONE,
    };
    Arc::new(PodSpec {
        containers: vec![Container {
            name: "main".into(),
            ports: vec![port],
            ..Container::default()
        }],
        ..PodSpec::default()
    })
}

fn labelled(key: &str, value: String) -> Selector {
    Selector::labels(Labels::from_iter([(key.to_owned(), value)]))
}

/// The kinds of policies that people write: deny everything, allow within the namespace, from another team, from
/// outside with holes, to the name server, on ports by name and in ranges.
fn network_policy(n: u32, number: u32, shape: Shape) -> NetworkPolicy {
    let origin = OriginId::NONE;
    let pods = |namespaces: Option<Selector>, pods: Option<Selector>| PolicyPeer::Pods {
        namespaces,
        pods,
        origin,
    };
    let tcp = |ports: PolicyPorts| PolicyPort {
        protocol: Protocol::Tcp,
        ports,
        origin,
    };
    let set = number % LABEL_SETS;
    let other = (n * 7 + number) % shape.namespaces;
    let block = || {
        let second = u8::try_from(n % 256).unwrap_or(0);
        let cidr: IpNet = IpNet::new(IpAddr::from([20, second, 0, 0]), 16).expect("a prefix");
        let hole = IpNet::new(IpAddr::from([20, second, 7, 0]), 24).expect("a prefix");
        PolicyPeer::IpBlock(IpBlock {
            cidr,
            except: vec![hole],
            origin,
        })
    };
    let (selector, egress, peers, ports) = match number {
        0 => (Selector::default(), false, None, Vec::new()),
        1 => (
            labelled("app", app(n, 0)),
            false,
            Some(vec![pods(None, Some(labelled("app", app(n, 1))))]),
            vec![tcp(PolicyPorts::One(PortRef::Name("http".into())))],
        ),
        2 => (
            labelled("app", app(n, 1)),
            false,
            Some(vec![pods(
                Some(labelled("team", format!("team-{}", n % 20))),
                None,
            )]),
            vec![tcp(PolicyPorts::Range(8000, 8090))],
        ),
        3 => (
            labelled("app", app(n, 0)),
            false,
            Some(vec![block()]),
            Vec::new(),
        ),
        4 => (
            labelled("app", app(n, 2)),
            true,
            Some(vec![pods(
                Some(labelled(namespace::NAME_LABEL, space(0).to_string())),
                None,
            )]),
            vec![PolicyPort {
                protocol: Protocol::Udp,
                ports: PolicyPorts::One(PortRef::Number(53)),
                origin,
            }],
        ),
        5 => (
            labelled("app", app(n, 2)),
            true,
            Some(vec![pods(None, None)]),
            vec![tcp(PolicyPorts::All)],
        ),
        _ => (
            labelled("app", app(n, set)),
            false,
            Some(vec![pods(
                Some(labelled(namespace::NAME_LABEL, space(other).to_string())),
                Some(labelled("app", app(other, set))),
            )]),
            vec![tcp(PolicyPorts::One(PortRef::Number(
                9000 + u16::try_from(number).unwrap_or(0),
            )))],
        ),
    };
    let rules: Vec<PolicyRule> = peers
        .into_iter()
        .map(|peers| PolicyRule {
            peers,
            ports: ports.clone(),
            origin,
        })
        .collect();
    NetworkPolicy {
        key: ObjectKey::new(space(n), name(&format!("policy-{number}"))),
        labels: Labels::default(),
        annotations: Labels::default(),
        pod_selector: selector,
        policy_types: PolicyTypes {
            ingress: !egress,
            egress,
        },
        ingress: if egress { Vec::new() } else { rules.clone() },
        egress: if egress { rules } else { Vec::new() },
        origin,
    }
}

/// Measures a cluster of so many pods.
pub fn reach(pods: u32) -> ReachReport {
    let shape = Shape::of(pods);
    let start = Meter::start();
    let objects = Arc::new(cluster(pods));
    let setup = start.wall_seconds();
    let start = Meter::start();
    let reach = Reach::new(&objects);
    let open_pairs = reach.open_pairs();
    let took = start.wall_seconds();
    let mut fingerprint = combine(open_pairs, reach.classes() as u64);
    let start = Meter::start();
    let policies = Policies::new(Arc::clone(&objects));
    let load = start.wall_seconds();
    let mut slowest = 0.0_f64;
    let members = reach.members.len().max(1);
    for n in 0..100_usize {
        let pair = [n * 7919 % members, n * 104_729 % members];
        let [Some(source), Some(destination)] = pair.map(|index| reach.members.get(index)) else {
            continue;
        };
        let flow = Flow::Port(Protocol::Tcp, 8080);
        let start = Meter::start();
        let (from, to) = (policies.party(source.ip), policies.party(destination.ip));
        let verdict = policies.verdict(&from, &to, flow);
        slowest = slowest.max(start.wall_seconds());
        let text = format!("{source:?} {destination:?} {}", verdict.allowed());
        fingerprint = combine(fingerprint, stable_hash(text.as_bytes()));
        assert_eq!(
            verdict.allowed(),
            reach.between(source, destination).contains(flow),
            "one pair is what all pairs say"
        );
    }
    ReachReport {
        schema: "podwire.bench/v1",
        workload: "reach",
        nodes: shape.nodes,
        pods,
        namespaces: shape.namespaces,
        label_sets: shape.namespaces * LABEL_SETS,
        policies: shape.namespaces * POLICIES,
        classes: reach.classes(),
        pairs: u64::from(pods) * u64::from(pods),
        open_pairs,
        setup_seconds: setup,
        reach_seconds: took,
        load_seconds: load,
        explain_seconds: slowest,
        peak_bytes: meter::peak_bytes(),
        fingerprint: format!("{fingerprint:016x}"),
    }
}
