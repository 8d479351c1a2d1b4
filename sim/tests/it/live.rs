//! What the control plane makes of writes while the cluster runs: the same as if they had been there from the start.
#![allow(clippy::unwrap_used, reason = "tests")]

use podwire::scenario;
use podwire::source::Source;
use podwire::story::{Ran, resolve, run};
use podwire_models::wire::Action;

const PODS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec: {containers: [{name: main, image: x, ports: [{containerPort: 8080}]}]}
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}
";

fn ran(timeline: &str, manifests: &[(&str, String)]) -> Ran {
    let names: Vec<String> = manifests
        .iter()
        .filter(|(name, _)| !name.starts_with("later"))
        .map(|(name, _)| format!("{name:?}"))
        .collect();
    let text = format!(
        "Scenario(title: \"live\", cluster: Cluster(nodes: [Node(name: \"node-a\"), Node(name: \"node-b\")]), \
         manifests: [{}], timeline: [{timeline}])",
        names.join(", ")
    );
    let file = scenario::read("live.ron", &text).unwrap();
    let sources: Vec<Source> = manifests
        .iter()
        .map(|(name, text)| Source::new(*name, text.clone()))
        .collect();
    let (story, problems) = resolve(&file, &sources);
    assert!(problems.is_empty(), "{problems:?}");
    run(&story, 1)
}

/// What the commands of a run printed, in order.
fn outputs(ran: &Ran) -> Vec<String> {
    let records = ran.trace.records.iter();
    records
        .filter_map(|record| {
            if let Action::Output { text, .. } = &record.step.action {
                Some(text.clone())
            } else {
                None
            }
        })
        .collect()
}

const LOOK: &str = "At(\"20s\", Exec(\"node/node-a\", \"iptables-save\")), \
                    At(\"20s\", Exec(\"node/node-b\", \"ip route\")), \
                    At(\"20s\", Exec(\"node/node-b\", \"iptables-save\"))";

fn pods(replicas: u32) -> String {
    PODS.replace("REPLICAS", &replicas.to_string())
}

#[test]
fn a_service_applied_later_is_the_same_as_one_that_was_there() {
    let at_once = ran(
        LOOK,
        &[("pods.yaml", pods(3)), ("service.yaml", SERVICE.into())],
    );
    let later = ran(
        &format!("At(\"1s\", Apply(\"later.yaml\")), {LOOK}"),
        &[("pods.yaml", pods(3)), ("later.yaml", SERVICE.into())],
    );
    assert!(
        outputs(&at_once) == outputs(&later),
        "{:?}",
        outputs(&later)
    );
    assert!(
        outputs(&later)[0].contains("KUBE-SVC"),
        "the Service has rules"
    );
}

#[test]
fn a_deployment_scaled_up_is_the_same_as_one_of_that_size() {
    let manifests = |replicas| {
        [
            ("pods.yaml", pods(replicas)),
            ("service.yaml", SERVICE.to_owned()),
        ]
    };
    let at_once = ran(LOOK, &manifests(4));
    let scaled = ran(
        &format!("At(\"1s\", Scale(\"deploy/shop/cart\", 4)), {LOOK}"),
        &manifests(2),
    );
    // Which pod has which address depends on who came first; the rules name addresses only.
    let rules = |ran: &Ran| {
        let mut all = outputs(ran);
        all.remove(1);
        all
    };
    assert!(rules(&at_once) == rules(&scaled), "{:?}", outputs(&scaled));
}

#[test]
fn what_is_deleted_leaves_nothing_behind() {
    let bare = ran(LOOK, &[("pods.yaml", pods(0))]);
    let gone = ran(
        &format!(
            "At(\"1s\", Delete(\"svc/shop/cart\")), At(\"2s\", Delete(\"deploy/shop/cart\")), {LOOK}"
        ),
        &[("pods.yaml", pods(3)), ("service.yaml", SERVICE.into())],
    );
    assert!(outputs(&bare) == outputs(&gone), "{:?}", outputs(&gone));
}

#[test]
fn a_rollout_replaces_each_pod_of_a_stateful_set_once() {
    let set = pods(3)
        .replace("Deployment", "StatefulSet")
        .replace("cart", "store");
    let rolled = ran(
        "At(\"1s\", Rollout(\"sts/shop/store\")), At(\"60s\", Note(\"long after\"))",
        &[("pods.yaml", set)],
    );
    let gone = rolled.trace.records.iter().filter_map(|record| {
        let Action::Changed { what } = &record.step.action else {
            return None;
        };
        what.strip_suffix(" is gone")
    });
    let gone: Vec<&str> = gone.collect();
    let each = ["2", "1", "0"].map(|n| format!("Pod/shop/store-{n}"));
    assert_eq!(gone, each);
}
