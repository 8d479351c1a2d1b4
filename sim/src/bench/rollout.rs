//! Workload `rollout`: a cluster is read from manifests and settled, then Deployments replace their pods, until every new pod is
//! ready, every old one gone, and every node knows.
//!
//! Nodes, Deployments and Services are written as YAML and go through the manifest reader; the rest is a scenario like any
//! other. Each Service has a Deployment of its own; they lie in namespaces of as many pods as the published limits allow.

use std::fmt::Write as _;

use serde::Serialize;

use super::meter::{self, Meter};
use super::scale::PODS_OF_A_NAMESPACE;
use crate::manifest;
use crate::scenario;
use crate::source::{OriginTable, Source};
use crate::story::{self, Story};

/// How big the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Nodes.
    pub nodes: u32,
    /// Pods of all Deployments.
    pub pods: u32,
    /// Services, and as many Deployments.
    pub services: u32,
    /// How many pods are replaced; so many Deployments roll that they have at least that many.
    pub rolled: u32,
    /// Seed of the story's dice.
    pub seed: u64,
}

/// What was measured: `podwire bench rollout -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `podwire.bench/v1`.
    pub schema: &'static str,
    /// `rollout`.
    pub workload: &'static str,
    /// Nodes.
    pub nodes: u32,
    /// Pods that are ready behind a Service before the rollout.
    pub pods: u64,
    /// Services besides `kube-dns` and `kubernetes`.
    pub services: u32,
    /// Pods of the Deployments that roll.
    pub rolled_pods: u32,
    /// Whether all pods were replaced: each Service has the endpoints it had, and none of the old ones.
    pub complete: bool,
    /// Bytes of the manifests.
    pub manifest_bytes: usize,
    /// Wall clock seconds to read the manifests and nothing else. The setup reads them again.
    pub read_seconds: f64,
    /// Wall clock seconds from manifests to a settled cluster.
    pub setup_seconds: f64,
    /// Wall clock seconds of the rollout, from the first write to the last node's rules.
    pub rollout_seconds: f64,
    /// Seconds that the rollout takes in the cluster.
    pub simulated_seconds: f64,
    /// CPU seconds of setup and rollout; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// Wall clock seconds of setup and rollout.
    pub wall_seconds: f64,
    /// Most memory the process ever had; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// Of the story.
    pub fingerprint: String,
}

/// Where the Service and the Deployment of a number are, and how many pods they have.
struct App {
    namespace: u32,
    number: u32,
    replicas: u32,
}

impl Sizes {
    /// All Services: pods are shared out evenly, the first ones have one more.
    fn apps(&self) -> Vec<App> {
        let namespaces = self.pods.div_ceil(PODS_OF_A_NAMESPACE).max(1);
        let (each, more) = (
            self.pods.checked_div(self.services).unwrap_or(0),
            self.pods.checked_rem(self.services).unwrap_or(0),
        );
        let app = |number| App {
            namespace: number % namespaces,
            number,
            replicas: each + u32::from(number < more),
        };
        (0..self.services).map(app).collect()
    }

    /// The Services whose Deployments roll.
    fn rolling(&self) -> Vec<App> {
        let mut left = self.rolled;
        let mut apps = self.apps();
        apps.retain(|app| {
            let rolls = left > 0;
            left = left.saturating_sub(app.replicas);
            rolls
        });
        apps
    }
}

/// Returns the manifests of a cluster.
pub fn manifests(sizes: &Sizes) -> String {
    let mut text = String::new();
    let mut write = |document: std::fmt::Arguments<'_>| {
        writeln!(text, "{document}\n---").expect("a String takes everything");
    };
    for n in 0..sizes.nodes {
        write(format_args!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: node-{n}"
        ));
    }
    for App {
        namespace,
        number,
        replicas,
    } in sizes.apps()
    {
        write(format_args!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: app-{number}\n  namespace: team-{namespace}\nspec:\n  \
             selector:\n    app: app-{number}\n  ports:\n  - port: 80\n    targetPort: 8080"
        ));
        write(format_args!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: app-{number}\n  namespace: team-{namespace}\nspec:\n  \
             replicas: {replicas}\n  selector:\n    matchLabels:\n      app: app-{number}\n  template:\n    metadata:\n      \
             labels:\n        app: app-{number}\n    spec:\n      containers:\n      - name: app\n        image: app:1\n        \
             ports:\n        - containerPort: 8080"
        ));
    }
    text
}

/// Returns the scenario: Deployments roll at one moment, and in the end every Service has all its endpoints.
pub fn scenario(sizes: &Sizes) -> String {
    let (mut timeline, mut expect) = (String::new(), String::new());
    for app in sizes.rolling() {
        let name = format!("team-{}/app-{}", app.namespace, app.number);
        writeln!(timeline, "At(\"1s\", Rollout(\"deploy/{name}\")),")
            .expect("a String takes everything");
        writeln!(
            expect,
            "Endpoints(service: \"{name}\", ready: {}),",
            app.replicas
        )
        .expect("a String takes everything");
    }
    format!(
        "Scenario(title: \"A rollout\", seed: {}, cluster: Cluster(pod_cidr: \"10.128.0.0/9\"), manifests: [\"{MANIFESTS}\"],\n\
         timeline: [\n{timeline}],\nexpect: [\n{expect}])\n",
        sizes.seed
    )
}

const MANIFESTS: &str = "cluster.yaml";

/// Reads the cluster and settles it.
///
/// # Panics
/// If the texts that were made here are refused.
pub fn story(sizes: &Sizes, manifests: String) -> Story {
    let text = scenario(sizes);
    let file = scenario::read("rollout.ron", &text).expect("every number makes a scenario");
    let (story, problems) = story::resolve(&file, &[Source::new(MANIFESTS, manifests)]);
    assert!(!story::unusable(&problems), "{problems:?}");
    story
}

/// Reads the cluster, settles it, and lets Deployments roll.
pub fn rollout(sizes: &Sizes) -> Report {
    let text = manifests(sizes);
    let manifest_bytes = text.len();
    let reading = Meter::start();
    drop(manifest::read(
        &[Source::new(MANIFESTS, text.as_str())],
        &mut OriginTable::default(),
    ));
    let read_seconds = reading.wall_seconds();
    let all = Meter::start();
    let story = story(sizes, text);
    let setup_seconds = all.wall_seconds();
    let ready = |slice: &podwire_models::api::EndpointSlice| {
        let endpoints = slice.endpoints.iter();
        endpoints.filter(|endpoint| endpoint.is_ready()).count() as u64
    };
    let slices = story.lab.slices.iter();
    let slices = slices.filter(|slice| slice.key.namespace.as_str().starts_with("team-"));
    let pods = slices.map(ready).sum();
    let rolling = Meter::start();
    let ran = story::run(&story, story.seed);
    let rollout_seconds = rolling.wall_seconds();
    let last = ran.trace.records.last().map(|record| record.at);
    let began = podwire_models::base::Time::ZERO + std::time::Duration::from_secs(1);
    Report {
        schema: "podwire.bench/v1",
        workload: "rollout",
        nodes: sizes.nodes,
        pods,
        services: sizes.services,
        rolled_pods: sizes.rolling().iter().map(|app| app.replicas).sum(),
        complete: ran.held(),
        manifest_bytes,
        read_seconds,
        setup_seconds,
        rollout_seconds,
        simulated_seconds: last.map_or(0.0, |last| last.since(began).as_secs_f64()),
        cpu_seconds: all.cpu_seconds(),
        wall_seconds: all.wall_seconds(),
        peak_bytes: meter::peak_bytes(),
        fingerprint: ran.fingerprint.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use podwire_models::api::Pod;
    use podwire_models::base::Time;

    use super::*;

    const SMALL: Sizes = Sizes {
        nodes: 6,
        pods: 43,
        services: 5,
        rolled: 20,
        seed: 1,
    };

    #[test]
    fn so_many_roll_as_are_wanted() {
        let rolled = |sizes: &Sizes| -> Vec<u32> {
            let apps = sizes.rolling();
            apps.iter().map(|app| app.replicas).collect()
        };
        assert_eq!(rolled(&SMALL), [9, 9, 9]);
        assert_eq!(
            rolled(&Sizes {
                rolled: 18,
                ..SMALL
            }),
            [9, 9]
        );
        assert_eq!(
            rolled(&Sizes {
                rolled: 99,
                ..SMALL
            }),
            [9, 9, 9, 8, 8]
        );
    }

    #[test]
    fn all_pods_are_of_the_new_template_and_nobody_knows_the_old_ones() {
        let story = story(&SMALL, manifests(&SMALL));
        let later = Time::ZERO + std::time::Duration::from_secs(60);
        let lab = story::moment::cluster(&story, story.seed, later);
        let rolling: BTreeSet<String> = SMALL
            .rolling()
            .iter()
            .map(|app| format!("app-{}", app.number))
            .collect();
        let restarted = |pod: &Pod| {
            let annotation = "kubectl.kubernetes.io/restartedAt";
            pod.annotations.get(annotation).is_some()
        };
        let mut replaced = 0;
        for (key, service) in &lab.objects.services {
            if !key.namespace.as_str().starts_with("team-") {
                continue;
            }
            let selects = |pod: &&Pod| {
                let selector = service.selector.as_ref();
                selector.is_some_and(|selector| selector.matches(&pod.labels))
            };
            let pods: Vec<&Pod> = lab
                .objects
                .pods_in(&key.namespace)
                .filter(selects)
                .collect();
            let rolls = rolling.contains(key.name.as_str());
            for pod in &pods {
                assert_eq!(
                    (pod.ready, pod.deleting),
                    (Some(true), false),
                    "{}",
                    pod.key
                );
                assert_eq!(restarted(pod), rolls, "{}", pod.key);
                assert_eq!(story.lab.objects.pods.contains_key(&pod.key), !rolls);
                replaced += u32::from(rolls);
            }
            let addresses: BTreeSet<IpAddr> =
                pods.iter().flat_map(|pod| pod.pod_ips.clone()).collect();
            let slices = lab.slices_of(key).flat_map(|slice| &slice.endpoints);
            let endpoints = slices.filter(|endpoint| endpoint.is_ready());
            let endpoints: BTreeSet<IpAddr> = endpoints.flat_map(|e| e.addresses.clone()).collect();
            assert_eq!(endpoints, addresses, "{key}");
        }
        assert_eq!(replaced, 27);
    }

    #[test]
    fn all_is_measured() {
        let report = rollout(&SMALL);
        assert_eq!((report.pods, report.rolled_pods), (43, 27));
        assert!(report.complete && report.simulated_seconds > 4.0);
        assert_eq!(report.fingerprint, rollout(&SMALL).fingerprint);
    }
}
