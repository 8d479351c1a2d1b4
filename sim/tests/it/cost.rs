//! What packets are said to cost is near what they cost on a real kernel.
//!
//! Measured: Linux 6.18 on a virtual CPU of an AMD EPYC, the smallest of several runs. Sums of a way: one thread sends
//! datagrams of 64 bytes. First packets: a raw SYN of a new connection through the rules that kube-proxy 1.30 wrote.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use podwire::attempt::Request;
use podwire::bench::Sizes;
use podwire::bench::w1;
use podwire::cost::{self, Backend, CostModel, Picoseconds};
use podwire::lab::{Lab, Plan};
use podwire::scenario::{Target, Thing};
use podwire::source::OriginTable;
use podwire_models::api::{Container, ContainerPort, Node, Objects, Pod, PodSpec};
use podwire_models::base::{ObjectKey, OriginId, Protocol};
use podwire_models::cluster::install::Site;
use podwire_models::control::cni::Cni;
use podwire_models::wire::L4;

/// What the only outcome of a datagram costs under each model.
fn tried<const N: usize>(lab: &Lab, from: &str, to: &str, models: [CostModel; N]) -> [u64; N] {
    let from: Thing = from.parse().unwrap();
    let target: Target = to.parse().unwrap();
    let request = Request::new(target, L4::Udp, Duration::from_secs(1));
    let source = lab.source(&from).unwrap();
    let origins = OriginTable::default();
    let found = lab.explore(&source, &request, &origins, 1, 10).unwrap();
    let [only] = found.as_slice() else {
        panic!("{} outcomes", found.len());
    };
    models.map(|model| cost::of(&only.trace, &model).first_packet_ns)
}

/// Whether two costs differ by less than this many percent of the second.
fn near(percent: u64, said: u64, measured: u64) -> bool {
    said.abs_diff(measured) * 100 <= measured * percent
}

/// The first packet to the first and the last of so many Services, as measured (`kernel_cost.json`), in nanoseconds.
const FIRST_PACKETS: [(Backend, u32, u64, u64); 4] = [
    (Backend::Legacy, 1_000, 6_410, 8_770),
    (Backend::Legacy, 10_000, 6_490, 34_210),
    (Backend::Nft, 1_000, 7_080, 22_080),
    (Backend::Nft, 10_000, 7_030, 167_970),
];

#[test]
fn the_first_packet_costs_as_many_rules_as_measured() {
    for services in [1_000, 10_000] {
        let sizes = Sizes {
            nodes: 2,
            pods_per_node: 2,
            services,
            ..Sizes::default()
        };
        let lab = w1::cluster(&sizes);
        let ip = |name: &str| {
            let key = ObjectKey::new("w1".parse().unwrap(), name.parse().unwrap());
            lab.objects.services.get(&key).unwrap().cluster_ips()[0]
        };
        // In the order of their names, not of their numbers.
        let (first, last) = (ip("service-0"), ip(&format!("service-{}", services - 1)));
        let models = Backend::ALL.map(CostModel::new);
        let to_first = tried(&lab, "pod/w1/pod-0-1", &format!("{first}:9"), models);
        let to_last = tried(&lab, "pod/w1/pod-0-1", &format!("{last}:9"), models);
        for ((backend, said_first), said_last) in
            Backend::ALL.into_iter().zip(to_first).zip(to_last)
        {
            let mut rows = FIRST_PACKETS.iter();
            let row = rows.find(|row| (row.0, row.1) == (backend, services));
            let (_, _, first, last) = *row.unwrap();
            let what = format!("{backend:?}, {services} Services");
            assert!(
                near(10, said_first, first),
                "{what}: {said_first}, not {first}"
            );
            assert!(near(10, said_last, last), "{what}: {said_last}, not {last}");
        }
    }
}

fn cluster(cni: Cni) -> Lab {
    let mut objects = Objects::default();
    for (name, node) in [("a", "node-a"), ("b", "node-a"), ("c", "node-b")] {
        let key = ObjectKey::new("shop".parse().unwrap(), name.parse().unwrap());
        let port = ContainerPort {
            name: None,
            container_port: 9,
            host_port: None,
            host_ip: None,
            protocol: Protocol::Udp,
            origin: OriginId::NONE,
        };
        let container = Container {
            name: "main".into(),
            ports: vec![port],
            ..Container::default()
        };
        let spec = PodSpec {
            containers: vec![container],
            ..PodSpec::default()
        };
        let mut pod = Pod::new(key, spec.into());
        pod.node_name = Some(node.parse().unwrap());
        objects.pods.insert(pod.key.clone(), pod);
    }
    for name in ["node-a", "node-b"] {
        let node = Node::new(name.parse().unwrap());
        objects.nodes.insert(node.name.clone(), node);
    }
    let site = Site {
        cni,
        ..Site::default()
    };
    Lab::build(
        objects,
        Plan {
            site,
            ..Plan::default()
        },
    )
}

#[test]
fn ways_cost_as_measured() {
    let full = CostModel::new(Backend::Legacy);
    let nothing = Picoseconds::default();
    // As measured without rules and connection tracking; and with tracking of a connection that is known.
    let bare = CostModel {
        rule: nothing,
        track: nothing,
        begin: nothing,
        ..full
    };
    let known = CostModel {
        track: full.track,
        ..bare
    };
    let way = |cni, to: &str| {
        let lab = cluster(cni);
        let key = ObjectKey::new("shop".parse().unwrap(), to.parse().unwrap());
        let ip = lab.objects.pods.get(&key).unwrap().pod_ips[0];
        tried(&lab, "pod/shop/a", &format!("{ip}:9"), [bare, known])
    };
    let ([bridge, _], [routed, tracked], [tunnel, _]) = (
        way(Cni::Bridge, "b"),
        way(Cni::FlannelHostGw, "c"),
        way(Cni::FlannelVxlan, "c"),
    );
    for (what, said, measured) in [
        ("pod, bridge, pod", bridge, 3_376),
        (
            "pod, bridge, node, switch, node, bridge, pod",
            routed,
            7_064,
        ),
        ("the same, tracked on both nodes", tracked, 7_934),
        ("the same through VXLAN", tunnel, 9_979),
    ] {
        assert!(near(5, said, measured), "{what}: {said}, not {measured}");
    }
}
