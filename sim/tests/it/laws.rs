//! Laws of chance over whole clusters: what was drawn can be replayed, and nobody's draws depend on strangers.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use podwire::attempt::Request;
use podwire::engine::dice::{Draw, Recording, Scripted, Seeded};
use podwire::lab::{Lab, Plan};
use podwire::source::OriginTable;
use podwire::trace::fingerprint::Fingerprint;
use podwire::trace::record::{Trace, TraceRecorder};
use podwire_models::api::{
    Container, ContainerPort, Objects, Pod, PodSpec, PortRef, Service, ServicePort,
};
use podwire_models::base::{Labels, ObjectKey, OriginId, Protocol, Selector, Time};
use podwire_models::wire::L4;
use proptest::prelude::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop".parse().unwrap(), name.parse().unwrap())
}

fn pod(name: &str, app: &str, node: &str) -> Pod {
    let port = ContainerPort {
        name: None,
        container_port: 8080,
        host_port: None,
        host_ip: None,
        protocol: Protocol::Tcp,
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
    let mut pod = Pod::new(key(name), Arc::new(spec));
    pod.labels.insert("app", app);
    pod.node_name = Some(node.parse().unwrap());
    pod
}

/// A client and `endpoints` servers behind a Service; `strangers` more pods that nobody talks to, last by name.
fn cluster(endpoints: u32, strangers: u32) -> Lab {
    let mut objects = Objects::default();
    let mut add = |pod: Pod| {
        objects.pods.insert(pod.key.clone(), pod);
    };
    add(pod("client", "client", "node-a"));
    for n in 0..endpoints {
        add(pod(
            &format!("server-{n}"),
            "server",
            if n % 2 == 0 { "node-a" } else { "node-b" },
        ));
    }
    for n in 0..strangers {
        add(pod(&format!("zz-{n}"), "stranger", "node-b"));
    }
    let mut service = Service::new(key("server"));
    let mut labels = Labels::default();
    labels.insert("app", "server");
    service.selector = Some(Selector::labels(labels));
    service.ports = vec![ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: 80,
        target_port: PortRef::Number(8080),
        node_port: None,
        app_protocol: None,
        origin: OriginId::NONE,
    }];
    objects.services.insert(service.key.clone(), service);
    Lab::build(objects, Plan::default())
}

/// Runs one attempt by name; also one by a stranger first, if wanted.
fn run<D: podwire_models::base::Dice>(lab: &Lab, dice: D, stranger: bool) -> (Trace, D) {
    let mut simulation = lab.start(dice, TraceRecorder::new());
    let request = Request::new(
        "server:80".parse().unwrap(),
        L4::Tcp,
        Duration::from_secs(5),
    );
    if stranger {
        let source = lab.source(&"pod/shop/zz-0".parse().unwrap()).unwrap();
        lab.attempt(&mut simulation, &source, &request, Time::from_secs(20))
            .unwrap();
    }
    let source = lab.source(&"pod/shop/client".parse().unwrap()).unwrap();
    lab.attempt(&mut simulation, &source, &request, Time::from_secs(60))
        .unwrap();
    let trace = Trace {
        records: simulation.recorder.take(),
        names: lab.names(&OriginTable::default()),
    };
    (trace, simulation.dice)
}

/// The draws of one conversation, by what they decide.
fn of_client(draws: &[Draw], lab_draws: &[Draw]) -> Vec<Draw> {
    let keys: Vec<_> = lab_draws.iter().map(|draw| draw.stream).collect();
    draws
        .iter()
        .filter(|draw| keys.contains(&draw.stream))
        .copied()
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_recorded_list_of_choices_gives_the_same_trace(seed: u64, endpoints in 1_u32..6) {
        let lab = cluster(endpoints, 0);
        let (trace, recording) = run(&lab, Recording::new(Seeded::new(seed)), false);
        let (replayed, script) = run(&lab, Scripted::new(recording.draws), false);
        prop_assert!(script.finish().is_ok());
        prop_assert_eq!(Fingerprint::of(&trace), Fingerprint::of(&replayed));
        prop_assert_eq!(trace.records, replayed.records);
    }

    #[test]
    fn a_stranger_does_not_change_the_draws_of_another_flow(seed: u64, endpoints in 1_u32..6) {
        let alone = cluster(endpoints, 0);
        let (_, first) = run(&alone, Recording::new(Seeded::new(seed)), false);
        let crowded = cluster(endpoints, 3);
        let (_, second) = run(&crowded, Recording::new(Seeded::new(seed)), true);
        prop_assert!(!first.draws.is_empty());
        prop_assert!(second.draws.len() > first.draws.len(), "the stranger drew too");
        prop_assert_eq!(of_client(&second.draws, &first.draws), first.draws);
    }
}

#[test]
fn a_link_like_all_others_changes_nothing() {
    let told = |links: &str| {
        let text = format!(
            r##"Scenario(
                title: "t",
                cluster: Cluster(
                    nodes: [ Node(name: "node-a"), Node(name: "node-b"), Node(name: "node-c") ],
                    underlay: Underlay(latency: "100us", bandwidth: "10Gbit", links: [{links}]),
                ),
                objects: r#"
apiVersion: v1
kind: Pod
metadata: {{name: a}}
spec: {{nodeName: node-a, containers: [{{name: main, image: i}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: b}}
spec: {{nodeName: node-b, containers: [{{name: main, image: i, ports: [{{containerPort: 80}}]}}]}}
"#,
                timeline: [
                    At("1s", Probe(id: "p", from: "pod/default/a", to: "pod/default/b:80", payload: "9000B")),
                    At("2s", Exec("node/node-c", "ping -c 2 172.18.0.2")),
                ],
            )"##
        );
        let file = podwire::scenario::read("t.ron", &text).unwrap();
        let (story, problems) = podwire::story::resolve(&file, &[]);
        assert_eq!(problems, []);
        podwire::story::run(&story, 1).fingerprint
    };
    let plain = told("");
    let same = |from: &str, to: &str| {
        format!(r#"Link(from: "{from}", to: "{to}", latency: "100us", loss: "0%", mtu: 1500),"#)
    };
    assert_eq!(
        told(&(same("node-a", "node-b") + &same("node-c", "node-a"))),
        plain
    );
    let longer = r#"Link(from: "node-b", to: "node-a", latency: "101us")"#;
    assert_ne!(told(longer), plain);
}
