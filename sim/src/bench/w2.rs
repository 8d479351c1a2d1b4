//! Workload `w2`: fresh TCP connections, each from a pod to a Service's address and from there to a pod of another node,
//! over Flannel's VXLAN. Each asks, is answered and closes, as the clients and servers of scenarios do. Nobody watches.
//!
//! Pods fall into groups of [`ENDPOINTS`], each of another node; every Service leads to one group. A client takes a
//! Service by chance among those that lead to no pod of its own node. The first packet of a connection goes through
//! kube-proxy's rules on the client's node; the others follow the entry it left.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::api::{Node, Objects, Pod, PodSpec, PortRef, Service, ServicePort};
use podwire_models::base::{
    Dice, Labels, ObjectKey, ObjectName, OriginId, Protocol, Purpose, Selector, Stream, Time,
};
use podwire_models::cluster::install::Site;
use podwire_models::control::cni::Cni;
use podwire_models::wire::{L4, NoRecorder};

use super::meter::Meter;
use super::{Report, Sizes, Tally};
use crate::engine::Seeded;
use crate::lab::{Lab, Plan};
use crate::simulation::{Behaviour, Simulation};
use crate::traffic::tcp::{ClientSettings, ServerSettings, TcpClient, TcpServer};
use crate::traffic::{AppEvent, Ctx};

/// Pods behind each Service.
pub const ENDPOINTS: u32 = 4;
/// Port of Services.
const PORT: u16 = 80;
/// Port every pod listens on.
const TARGET: u16 = 8080;
/// Time between two connections of a pod.
const INTERVAL: Duration = Duration::from_micros(100);
/// Packets that a connection takes: what is sent in one run is at least what is asked for.
const PACKETS_OF_A_CONNECTION: u64 = 8;

#[derive(Clone)]
enum Machine {
    Client(Box<TcpClient>),
    Server(Box<TcpServer>),
}

/// A client or server that counts what it receives.
#[derive(Clone)]
struct Program {
    machine: Machine,
    tally: Rc<Cell<Tally>>,
}

impl Behaviour for Program {
    fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        if let AppEvent::Packet(packet) = &event {
            super::count(&self.tally, packet, cx.now);
        }
        match &mut self.machine {
            Machine::Client(client) => client.handle(event, cx),
            Machine::Server(server) => server.handle(event, cx),
        }
    }
}

fn name(text: &str) -> ObjectName {
    text.parse().expect("made of letters and digits")
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new("w2".parse().expect("a literal name"), name(text))
}

fn group(n: u32) -> Labels {
    let mut labels = Labels::default();
    labels.insert("group", format!("g{n}"));
    labels
}

/// Builds the cluster.
pub fn cluster(sizes: &Sizes) -> Lab {
    let mut site = Site {
        pod_cidrs: vec!["10.128.0.0/9".parse().expect("a literal prefix")],
        cni: Cni::FlannelVxlan,
        ..Site::default()
    };
    site.underlay.latency = Duration::from_micros(100);
    let plan = Plan {
        site,
        nodes: sizes.nodes,
        ..Plan::default()
    };
    Lab::build(objects(sizes), plan)
}

/// How many groups there are.
fn groups(sizes: &Sizes) -> u32 {
    (sizes.nodes * sizes.pods_per_node / ENDPOINTS).max(1)
}

fn objects(sizes: &Sizes) -> Objects {
    let mut objects = Objects::default();
    let spec = Arc::new(PodSpec::default());
    let groups = groups(sizes);
    for p in 0..sizes.pods_per_node {
        for n in 0..sizes.nodes {
            let mut pod = Pod::new(key(&format!("pod-{n}-{p}")), Arc::clone(&spec));
            pod.node_name = Some(name(&format!("node-{n}")));
            // One after another over the nodes, so that four in a row are on four of them.
            pod.labels = group((p * sizes.nodes + n) / ENDPOINTS % groups);
            objects.pods.insert(pod.key.clone(), pod);
        }
    }
    for n in 0..sizes.nodes {
        let node = name(&format!("node-{n}"));
        objects.nodes.insert(node.clone(), Node::new(node));
    }
    for n in 0..sizes.services {
        let mut service = Service::new(key(&format!("service-{n}")));
        service.selector = Some(Selector::labels(group(n % groups)));
        service.ports = vec![ServicePort {
            name: None,
            protocol: Protocol::Tcp,
            port: PORT,
            target_port: PortRef::Number(TARGET),
            node_port: None,
            app_protocol: None,
            origin: OriginId::NONE,
        }];
        objects.services.insert(service.key.clone(), service);
    }
    objects
}

type Running = Simulation<Program, Seeded, NoRecorder>;

/// Puts a server into every pod, and clients enough for the packets asked for.
fn start(lab: &Lab, sizes: &Sizes) -> (Running, Rc<Cell<Tally>>) {
    let tally = Rc::new(Cell::new(Tally::default()));
    let dice = Seeded::new(sizes.seed);
    let mut simulation = Simulation::new(lab.machines.clone(), dice, NoRecorder);
    let pods: Vec<&Pod> = lab.objects.pods.values().collect();
    let pods: Vec<&Pod> = pods
        .into_iter()
        .filter(|pod| pod.key.namespace.as_str() == "w2")
        .collect();
    let mut places = Vec::new();
    for pod in &pods {
        let Some(netns) = lab.machines.netns_of(pod) else {
            continue;
        };
        let mut settings = ServerSettings::new(pod.key.to_string().into());
        settings.mtu = simulation.mtu_of(netns);
        let program = Program {
            machine: Machine::Server(Box::new(TcpServer::new(settings))),
            tally: Rc::clone(&tally),
        };
        let app = simulation.add_app(netns, &format!("{} serves", pod.key), program);
        simulation
            .listen(app, L4::Tcp, None, TARGET)
            .expect("nobody else listens in the pod");
        // Services that lead to another node only.
        let beside: Vec<&Labels> = pods
            .iter()
            .filter(|other| other.node_name == pod.node_name)
            .map(|other| &other.labels)
            .collect();
        let far = |service: &&Service| {
            let selector = service.selector.as_ref();
            service.key.namespace.as_str() == "w2"
                && selector.is_some_and(|s| !beside.iter().any(|labels| s.matches(labels)))
        };
        let targets: Vec<_> = lab.objects.services.values().filter(far).collect();
        places.push((netns, &pod.key, targets));
    }
    let draws = Stream::named(Purpose::Name, "w2");
    let each = sizes
        .packets
        .div_ceil(PACKETS_OF_A_CONNECTION * (places.len() as u64).max(1));
    for (netns, key, targets) in places {
        let begin = simulation.dice.pick(draws, 100_000);
        for k in 0..each {
            let count = targets.len() as u64;
            if count == 0 {
                break;
            }
            let chosen = usize::try_from(simulation.dice.pick(draws, count)).unwrap_or(0);
            let ip = targets.get(chosen).and_then(|s| s.cluster_ips().first());
            let Some(ip) = ip else { continue };
            let client = TcpClient::new((*ip, PORT), ClientSettings::default());
            let program = Program {
                machine: Machine::Client(Box::new(client)),
                tally: Rc::clone(&tally),
            };
            let app = simulation.add_app(netns, &format!("{key} asks {k}"), program);
            let after = Duration::from_nanos(begin) + INTERVAL * u32::try_from(k).unwrap_or(0);
            simulation.start_at(Time::ZERO + after, app);
        }
    }
    (simulation, tally)
}

/// Builds and runs the workload.
pub fn w2(sizes: &Sizes) -> Report {
    let setup = Meter::start();
    let lab = cluster(sizes);
    let running = start(&lab, sizes);
    drop(lab);
    super::run("w2", sizes, setup.wall_seconds(), running)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Sizes = Sizes {
        nodes: 8,
        pods_per_node: 2,
        services: 10,
        packets: 600,
        seed: 7,
    };

    #[test]
    fn connections_come_back_from_another_node() {
        let report = w2(&SMALL);
        assert_eq!((report.packets, report.services), (600, 10));
        // Veth, tunnel's card, switch, veth: four devices a packet, with what is on its way at the end on top.
        let least = report.packets * 4;
        assert!(
            (least..least * 2).contains(&report.transmissions),
            "{report:?}"
        );
        assert_eq!(report.fingerprint, w2(&SMALL).fingerprint);
    }
}
