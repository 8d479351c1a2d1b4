//! Workload `w1`: UDP flows of 1,000-byte packets, one every 100 µs from each pod to a pod on another node, until so
//! many packets are delivered. Nobody watches.
//!
//! Every packet crosses four devices and five kernels: the pod's veth, the node's card, the port of the underlay's
//! switch, the other node's veth. Nodes have kindnet and kube-proxy rules and track connections, as after any
//! installation. Links are as in the ns-3 program it is compared with: 10 Gb/s everywhere, 50 µs from node to switch,
//! 1 µs from pod to node.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::api::{Node, Objects, Pod, PodSpec, PortRef, Service, ServicePort};
use podwire_models::base::{
    Dice, Labels, ObjectKey, ObjectName, OriginId, Protocol, Purpose, Selector, Stream, Time,
};
use podwire_models::cluster::install::{Machines, Site};
use podwire_models::kernel::link::DeviceKind;
use podwire_models::wire::{
    Data, L4, Message, NoRecorder, Packet, PacketId, Payload, Transport, Udp,
};

use super::meter::Meter;
use super::{Report, Sizes, Tally};
use crate::engine::Seeded;
use crate::lab::{Lab, Plan};
use crate::simulation::{AppId, Behaviour, Simulation};
use crate::traffic::{Action, AppEvent, Ctx, End, Token};

/// Port every pod listens on.
const PORT: u16 = 9;
/// Time between two packets of a flow.
const INTERVAL: Duration = Duration::from_micros(100);
/// UDP payload.
const BYTES: u32 = 1000;
/// Rate of every link in bits per second.
const RATE: u64 = 10_000_000_000;
/// Delay between a node and the switch.
const NODE_DELAY: Duration = Duration::from_micros(50);
/// Delay between a pod and its node.
const POD_DELAY: Duration = Duration::from_micros(1);

/// One pod's program: sends to its peer at a constant rate, and counts what it receives.
#[derive(Clone, Debug)]
struct Flow {
    remote: End,
    local: Option<End>,
    tally: Rc<Cell<Tally>>,
    /// The packet it received last: its memory serves for the next one it sends.
    spare: Option<Box<Packet>>,
}

impl Behaviour for Flow {
    fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Start => cx.actions.push(Action::Open {
                l4: L4::Udp,
                remote: self.remote,
                connected: true,
                port: None,
            }),
            AppEvent::Opened { local, .. } => {
                self.local = Some(local);
                self.fire(cx);
            }
            AppEvent::Timer(_) => self.fire(cx),
            AppEvent::Packet(packet) => {
                super::count(&self.tally, &packet, cx.now);
                self.spare = Some(packet);
            }
            AppEvent::OpenFailed { .. } | AppEvent::Error { .. } | AppEvent::SendFailed { .. } => {}
        }
    }
}

impl Flow {
    fn fire<D>(&mut self, cx: &mut Ctx<'_, D>) {
        let Some(local) = self.local else { return };
        let packet = Packet {
            id: PacketId(0),
            flow: cx.flow,
            src: local.0,
            dst: self.remote.0,
            ttl: 64,
            tos: 0,
            df: true,
            fragment: None,
            transport: Transport::Udp(Udp {
                sport: local.1,
                dport: self.remote.1,
            }),
            payload: Payload::Data(Data {
                len: BYTES,
                message: Message::Opaque,
            }),
        };
        let packet = match self.spare.take() {
            Some(mut spare) => {
                *spare = packet;
                spare
            }
            None => Box::new(packet),
        };
        cx.actions.push(Action::Send(packet));
        cx.actions.push(Action::SetTimer {
            after: INTERVAL,
            token: Token::default(),
        });
    }
}

/// Builds the cluster of a workload, with all links as `w1` wants them.
pub fn cluster(sizes: &Sizes) -> Lab {
    let mut site = Site {
        // Room for more nodes than the 256 of kind's range.
        pod_cidrs: vec!["10.128.0.0/9".parse().expect("a literal prefix")],
        ..Site::default()
    };
    site.underlay.latency = NODE_DELAY * 2;
    site.underlay.bandwidth = Some(RATE);
    let plan = Plan {
        site,
        nodes: sizes.nodes,
        ..Plan::default()
    };
    let mut lab = Lab::build(objects(sizes), plan);
    slow_down_veths(&mut lab.machines);
    lab
}

fn name(text: &str) -> ObjectName {
    text.parse().expect("made of letters and digits")
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new("w1".parse().expect("a literal name"), name(text))
}

fn objects(sizes: &Sizes) -> Objects {
    let mut objects = Objects::default();
    let spec = Arc::new(PodSpec::default());
    for n in 0..sizes.nodes {
        let node = name(&format!("node-{n}"));
        for p in 0..sizes.pods_per_node {
            let mut pod = Pod::new(key(&format!("pod-{n}-{p}")), Arc::clone(&spec));
            pod.node_name = Some(node.clone());
            if (n, p) == (0, 0) {
                pod.labels = label();
            }
            objects.pods.insert(pod.key.clone(), pod);
        }
        objects.nodes.insert(node.clone(), Node::new(node));
    }
    for n in 0..sizes.services {
        let mut service = Service::new(key(&format!("service-{n}")));
        service.selector = Some(Selector::labels(label()));
        service.ports = vec![ServicePort {
            name: None,
            protocol: Protocol::Udp,
            port: PORT,
            target_port: PortRef::Number(PORT),
            node_port: None,
            app_protocol: None,
            origin: OriginId::NONE,
        }];
        objects.services.insert(service.key.clone(), service);
    }
    objects
}

/// The label of the pod behind all Services.
fn label() -> Labels {
    let mut labels = Labels::default();
    labels.insert("app", "endpoint");
    labels
}

/// Gives the veth pairs of pods the rate and delay of links.
fn slow_down_veths(machines: &mut Machines) {
    for attached in machines.pods.values() {
        let Some(netns) = machines.cluster.netns(attached.netns) else {
            continue;
        };
        let veths = netns.devices.iter().flatten();
        let veth = veths
            .filter(|device| matches!(device.kind, DeviceKind::Veth))
            .find_map(|device| machines.cluster.wire_behind((netns.id, device.index)));
        if let Some(wire) = veth.and_then(|(id, _)| machines.cluster.wire_mut(id)) {
            for lane in &mut wire.lanes {
                lane.latency = POD_DELAY;
                lane.bandwidth = Some(RATE);
            }
        }
    }
}

/// Puts one flow into every pod, to a pod on another node.
fn start(lab: &Lab, sizes: &Sizes) -> (Simulation<Flow, Seeded, NoRecorder>, Rc<Cell<Tally>>) {
    let tally = Rc::new(Cell::new(Tally::default()));
    let dice = Seeded::new(sizes.seed);
    let mut simulation = Simulation::new(lab.machines.clone(), dice, NoRecorder);
    let pods: Vec<&Pod> = lab
        .objects
        .pods
        .values()
        .filter(|pod| pod.key.namespace.as_str() == "w1")
        .collect();
    let draws = Stream::named(Purpose::Name, "w1");
    for pod in &pods {
        let elsewhere: Vec<&&Pod> = pods
            .iter()
            .filter(|peer| peer.node_name != pod.node_name)
            .collect();
        let count = u64::try_from(elsewhere.len()).unwrap_or(0);
        let Some(netns) = lab.machines.netns_of(pod).filter(|_| count > 0) else {
            continue;
        };
        let chosen = simulation.dice.pick(draws, count);
        let begin = simulation.dice.pick(draws, 100_000);
        let peer = usize::try_from(chosen).ok().and_then(|n| elsewhere.get(n));
        let Some(ip) = peer.and_then(|peer| peer.pod_ips.first()) else {
            continue;
        };
        let flow = Flow {
            remote: (*ip, PORT),
            local: None,
            tally: Rc::clone(&tally),
            spare: None,
        };
        let app: AppId = simulation.add_app(netns, &pod.key.to_string(), flow);
        simulation
            .listen(app, L4::Udp, None, PORT)
            .expect("nobody else listens in the pod");
        simulation.start_at(Time(begin), app);
    }
    (simulation, tally)
}

/// Builds and runs the workload.
pub fn w1(sizes: &Sizes) -> Report {
    let setup = Meter::start();
    let lab = cluster(sizes);
    let running = start(&lab, sizes);
    drop(lab);
    super::run("w1", sizes, setup.wall_seconds(), running)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Sizes = Sizes {
        nodes: 3,
        pods_per_node: 2,
        services: 2,
        packets: 600,
        seed: 7,
    };

    #[test]
    fn every_packet_crosses_four_devices() {
        let report = w1(&SMALL);
        assert_eq!((report.packets, report.pods), (600, 6));
        let least = report.packets * 4;
        // What is on its way at the end, and address resolution, come on top.
        assert!(
            (least..least + 300).contains(&report.transmissions),
            "{report:?}"
        );
        assert!(report.events >= report.packets * 5, "{report:?}");
    }

    #[test]
    fn the_same_sizes_give_the_same_fingerprint() {
        assert_eq!(w1(&SMALL).fingerprint, w1(&SMALL).fingerprint);
        let other = Sizes { seed: 8, ..SMALL };
        assert_ne!(w1(&SMALL).fingerprint, w1(&other).fingerprint);
    }
}
