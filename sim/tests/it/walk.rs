//! A packet walks: from a pod through a Service to another pod and back, under every profile.
#![allow(clippy::unwrap_used, reason = "tests")]

use podwire::attempt::{Attempted, Request};
use podwire::engine::dice::Seeded;
use podwire::lab::{Lab, Plan};
use podwire::program::Program;
use podwire::render::{Detail, Style, text};
use podwire::source::OriginTable;
use podwire::trace::record::{Trace, TraceRecorder};
use podwire::traffic::tcp::{ClientSettings, TcpClient};
use podwire::traffic::{Outcome, ProbeResult};
use podwire_models::api::{
    Container, ContainerPort, Objects, Pod, PodSpec, PortRef, Service, ServicePort,
};
use podwire_models::base::Ratio;
use podwire_models::base::{Labels, ObjectKey, OriginId, Protocol, Selector, Time};
use podwire_models::control::cni::Cni;
use podwire_models::wire::{Code, L4};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

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

fn shop() -> Objects {
    let mut objects = Objects::default();
    for pod in [
        pod("client", "client", "node-a"),
        pod("cart", "cart", "node-b"),
    ] {
        objects.pods.insert(pod.key.clone(), pod);
    }
    let mut service = Service::new(key("cart"));
    let mut labels = Labels::default();
    labels.insert("app", "cart");
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
    objects
}

fn connect(cni: Cni) -> (Outcome, Trace, IpAddr) {
    let mut plan = Plan::default();
    plan.site.cni = cni;
    let lab = Lab::build(shop(), plan);
    assert_eq!(lab.shortfalls, []);
    let mut simulation = lab.start(Seeded::new(1), TraceRecorder::new());
    let vip = lab
        .objects
        .services
        .get(&key("cart"))
        .unwrap()
        .cluster_ips()
        .first()
        .copied();
    let client = TcpClient::new((vip.unwrap(), 80), ClientSettings::default());
    let netns = lab.machines.pods.get(&key("client")).unwrap().netns;
    let app = simulation.add_app(netns, "probe", Program::TcpClient(Box::new(client)));
    simulation.start_at(Time::ZERO, app);
    let outcome = simulation
        .run_until_outcome(app, Time::from_secs(10))
        .cloned();
    let trace = simulation
        .recorder
        .finish(lab.names(&OriginTable::default()));
    let client = lab
        .objects
        .pods
        .get(&key("client"))
        .unwrap()
        .pod_ips
        .first()
        .copied();
    let Some(outcome) = outcome else {
        panic!("{}", text::trace(&trace, Detail::Detailed, Style::Plain));
    };
    (outcome, trace, client.unwrap())
}

#[test]
fn a_cluster_ip_answers_under_every_profile() {
    for cni in Cni::ALL {
        let (outcome, trace, client) = connect(cni);
        let Outcome::Probe(probe) = outcome else {
            panic!("{cni}: {outcome:?}")
        };
        let story = text::trace(&trace, Detail::Detailed, Style::Plain);
        assert_eq!(probe.result, ProbeResult::Connected, "{cni}\n{story}");
        assert_eq!(probe.server.as_deref(), Some("shop/cart"));
        // No address of the client was rewritten: the server saw the pod itself.
        assert_eq!(probe.seen_source.unwrap().0, client, "{cni}\n{story}");
    }
}

fn explored(target: &str) -> Vec<Attempted> {
    let lab = Lab::build(shop(), Plan::default());
    let source = lab.source(&"pod/shop/client".parse().unwrap()).unwrap();
    let request = Request::new(target.parse().unwrap(), L4::Tcp, Duration::from_secs(5));
    lab.explore(&source, &request, &OriginTable::default(), 1, 1000)
        .unwrap()
}

#[test]
fn a_name_is_looked_up_through_the_service_of_the_name_servers() {
    let outcomes = explored("cart:80");
    let total = outcomes.iter().fold(Ratio::ZERO, |sum, o| sum + o.chance);
    assert_eq!(total, Ratio::ONE);
    assert_eq!(outcomes.len(), 1, "two name servers, one answer");
    for outcome in &outcomes {
        let story = text::trace(&outcome.trace, Detail::Detailed, Style::Plain);
        assert_eq!(outcome.outcome.result, ProbeResult::Connected, "{story}");
        assert!(
            story.contains("dns A? cart.shop.svc.cluster.local."),
            "{story}"
        );
        assert!(story.contains("KUBE-SVC-TCOU7JCQXEZGVUNU"), "{story}");
    }
}

#[test]
fn an_unlisted_name_does_not_exist() {
    let outcomes = explored("nobody:80");
    let codes: Vec<Code> = outcomes.iter().map(|o| o.code).collect();
    assert_eq!(
        outcomes.first().unwrap().outcome.result,
        ProbeResult::DnsFailure,
        "{codes:?}"
    );
}
