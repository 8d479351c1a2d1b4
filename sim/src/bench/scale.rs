//! Workload `scale`: a cluster at Kubernetes' published limits, from objects as `kubectl get` prints them to machines with
//! routes and rules; then one Service changes, and the whole is copied.
//!
//! Pods lie in namespaces of [`PODS_OF_A_NAMESPACE`], each with its share of the Services; the pods of a namespace fall to
//! its Services in turn. No pod has a node yet:
//! the scheduler places them.

use std::sync::Arc;

use podwire_models::api::{
    Container, ContainerPort, Node, Objects, Pod, PodSpec, PortRef, Service, ServicePort,
};
use podwire_models::base::{
    Labels, Namespace, ObjectKey, ObjectName, OriginId, Protocol, Selector,
};
use podwire_models::cluster::install::Site;
use podwire_models::wire::NoRecorder;
use serde::Serialize;

use super::meter::{self, Meter};
use crate::controllers::dirty::Dirty;
use crate::engine::Seeded;
use crate::lab::{Lab, Plan};

/// Most pods in one namespace, of the published limits.
pub const PODS_OF_A_NAMESPACE: u32 = 3_000;
/// Port of Services.
const PORT: u16 = 80;
/// Port every pod listens on.
const TARGET: u16 = 8080;
/// How often what is short is measured; the median counts.
const ROUNDS: usize = 7;

/// How big the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Nodes.
    pub nodes: u32,
    /// Pods.
    pub pods: u32,
    /// Services besides kube-dns.
    pub services: u32,
    /// Seed of the copies' dice.
    pub seed: u64,
}

/// What was measured: `podwire bench scale -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `podwire.bench/v1`.
    pub schema: &'static str,
    /// `scale`.
    pub workload: &'static str,
    /// Nodes.
    pub nodes: u32,
    /// Pods that have an address, besides those of `kube-dns`.
    pub pods: u64,
    /// Services besides `kube-dns`.
    pub services: u32,
    /// Wall clock seconds from objects to a settled cluster.
    pub setup_seconds: f64,
    /// CPU seconds of the same; `None` where the system does not tell.
    pub setup_cpu_seconds: Option<f64>,
    /// Most memory the process had until then; `None` where the system does not tell.
    pub setup_peak_bytes: Option<u64>,
    /// Wall clock seconds until all nodes have the rules of a Service that changed, median of several.
    pub change_seconds: f64,
    /// Wall clock seconds for a copy of the cluster, median of several.
    pub fork_seconds: f64,
    /// Most memory the process ever had; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
}

fn name(text: &str) -> ObjectName {
    text.parse().expect("made of letters and digits")
}

fn key(namespace: &Namespace, text: &str) -> ObjectKey {
    ObjectKey::new(namespace.clone(), name(text))
}

fn label(service: u32) -> Labels {
    let mut labels = Labels::default();
    labels.insert("app", format!("app-{service}"));
    labels
}

fn spec() -> PodSpec {
    let port = ContainerPort {
        name: None,
        container_port: TARGET,
        host_port: None,
        host_ip: None,
        protocol: Protocol::Tcp,
        origin: OriginId::NONE,
    };
    let container = Container {
        name: "app".into(),
        ports: vec![port],
        ..Container::default()
    };
    PodSpec {
        containers: vec![container],
        ..PodSpec::default()
    }
}

/// Returns the objects of a cluster.
pub fn objects(sizes: &Sizes) -> Objects {
    let mut objects = Objects::default();
    let spec = Arc::new(spec());
    for n in 0..sizes.nodes {
        let node = Node::new(name(&format!("node-{n}")));
        objects.nodes.insert(node.name.clone(), node);
    }
    let namespaces = sizes.pods.div_ceil(PODS_OF_A_NAMESPACE).max(1);
    for n in 0..namespaces {
        let namespace: Namespace = format!("team-{n}").parse().expect("letters and digits");
        // Every namespace has Services n, n + namespaces, n + 2·namespaces and so on.
        let services = sizes.services.saturating_sub(n).div_ceil(namespaces);
        let labels: Vec<Labels> = (0..services).map(label).collect();
        for (s, labels) in labels.iter().enumerate() {
            let mut service = Service::new(key(&namespace, &format!("service-{s}")));
            service.selector = Some(Selector::labels(labels.clone()));
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
        let first = n * PODS_OF_A_NAMESPACE;
        let last = (first + PODS_OF_A_NAMESPACE).min(sizes.pods);
        let mut in_turn = labels.iter().cycle();
        for p in first..last {
            let mut pod = Pod::new(key(&namespace, &format!("pod-{p}")), Arc::clone(&spec));
            pod.labels = in_turn.next().cloned().unwrap_or_default();
            objects.pods.insert(pod.key.clone(), pod);
        }
    }
    objects
}

/// Builds a cluster of objects.
pub fn cluster(objects: Objects) -> Lab {
    let site = Site {
        pod_cidrs: vec!["10.128.0.0/9".parse().expect("a literal prefix")],
        ..Site::default()
    };
    let plan = Plan {
        site,
        ..Plan::default()
    };
    Lab::build(objects, plan)
}

/// Builds the cluster, changes one Service, copies the whole.
pub fn scale(sizes: &Sizes) -> Report {
    let objects = objects(sizes);
    let setup = Meter::start();
    let mut lab = cluster(objects);
    let (setup_seconds, setup_cpu_seconds) = (setup.wall_seconds(), setup.cpu_seconds());
    let setup_peak_bytes = meter::peak_bytes();
    let mut simulation = lab.start(Seeded::new(sizes.seed), NoRecorder);
    let mut forks: Vec<f64> = Vec::new();
    for _ in 0..ROUNDS {
        let fork = Meter::start();
        let copy = simulation.clone();
        forks.push(fork.wall_seconds());
        drop(copy);
    }
    let mut changes: Vec<f64> = Vec::new();
    for round in 0..ROUNDS {
        let service = withdraw(&mut lab, round);
        let change = Meter::start();
        if let Some(service) = service {
            let mut dirty = Dirty::default();
            dirty.add(service);
            let changed = lab.refresh_slices(&dirty);
            lab.program(&mut simulation.machines, &changed);
        }
        changes.push(change.wall_seconds());
    }
    let here = lab
        .objects
        .pods
        .values()
        .filter(|pod| pod.key.namespace.as_str() != "kube-system" && !pod.pod_ips.is_empty());
    Report {
        schema: "podwire.bench/v1",
        workload: "scale",
        nodes: sizes.nodes,
        pods: here.count() as u64,
        services: sizes.services,
        setup_seconds,
        setup_cpu_seconds,
        setup_peak_bytes,
        change_seconds: median(changes),
        fork_seconds: median(forks),
        peak_bytes: meter::peak_bytes(),
    }
}

/// A pod is not ready any more; returns the Service that it is behind.
fn withdraw(lab: &mut Lab, nth: usize) -> Option<ObjectKey> {
    let pods = lab.objects.pods.values_mut();
    let mut of_teams = pods.filter(|pod| pod.key.namespace.as_str() == "team-0");
    let pod = of_teams.nth(nth)?;
    pod.ready = Some(false);
    let (namespace, labels) = (pod.key.namespace.clone(), pod.labels.clone());
    let mut services = lab.objects.services.values();
    let behind = services.find(|service| {
        let selects = service
            .selector
            .as_ref()
            .is_some_and(|s| s.matches(&labels));
        service.key.namespace == namespace && selects
    });
    behind.map(|service| service.key.clone())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_unstable_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_place_and_a_service() {
        let sizes = Sizes {
            nodes: 70,
            pods: 6_100,
            services: 50,
            seed: 1,
        };
        let lab = cluster(objects(&sizes));
        assert_eq!(lab.shortfalls, []);
        let of_teams = |namespace: &Namespace| namespace.as_str().starts_with("team-");
        let pods = lab.objects.pods.values();
        let pods: Vec<&Pod> = pods.filter(|pod| of_teams(&pod.key.namespace)).collect();
        assert_eq!(pods.len(), 6_100);
        assert!(pods.iter().all(|pod| lab.machines.netns_of(pod).is_some()));
        let services = lab.objects.services.keys();
        assert_eq!(services.filter(|key| of_teams(&key.namespace)).count(), 50);
        let slices = lab.slices.iter();
        let slices = slices.filter(|slice| of_teams(&slice.key.namespace));
        assert_eq!(
            slices.map(|slice| slice.endpoints.len()).sum::<usize>(),
            6_100
        );
    }

    #[test]
    fn all_is_measured() {
        let report = scale(&Sizes {
            nodes: 3,
            pods: 9,
            services: 2,
            seed: 1,
        });
        assert_eq!((report.pods, report.services), (9, 2));
        assert!(report.setup_seconds > 0.0 && report.fork_seconds > 0.0);
    }
}
