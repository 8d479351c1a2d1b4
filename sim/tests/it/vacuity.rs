//! A scenario whose policies and expected failures show nothing is told so, and a fault that touches nothing fails it.
#![allow(clippy::unwrap_used, reason = "tests")]

use podwire::scenario;
use podwire::story::vacuity::{Vacuous, find};
use podwire::story::{Story, resolve, run};

/// Two pods; `b` listens on 80.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: a}}
spec: {nodeName: node-a, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: shop, labels: {app: b}}
spec: {nodeName: node-b, containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
";

/// A policy for the pods with this label.
fn policy(name: &str, app: &str) -> String {
    format!(
        "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Ingress]}}
"
    )
}

fn story(profile: &str, policies: &str, timeline: &str, expect: &str) -> Story {
    let text = format!(
        "Scenario(title: \"t\", cluster: Cluster(profile: \"{profile}\", nodes: [Node(name: \"node-a\"), Node(name: \"node-b\")]), \
         objects: r#\"{PODS}{policies}\"#, timeline: [{timeline}], expect: [{expect}])"
    );
    let file = scenario::read("vacuity.ron", &text).unwrap();
    let (story, problems) = resolve(&file, &[]);
    assert!(problems.is_empty(), "{problems:?}");
    story
}

/// What nothing depends on; the story must hold.
fn found(story: &Story) -> Vec<String> {
    let ran = run(story, 1);
    assert!(ran.held(), "{:?}", ran.expectations);
    let found = find(story, 1, &ran);
    found
        .iter()
        .map(|one| match one {
            Vacuous::Policy {
                policy, enforced, ..
            } => format!("{policy} enforced: {enforced}"),
            Vacuous::Failure { expectation } => expectation.clone(),
            Vacuous::NotLookedAt { policy } => format!("{policy}?"),
        })
        .collect()
}

const PROBE: &str =
    r#"At("1s", Probe(id: "p", from: "pod/shop/a", to: "pod/shop/b:80", timeout: "1s"))"#;

#[test]
fn a_policy_that_changes_no_outcome_is_found_and_one_that_does_is_not() {
    let both = policy("useful", "b") + &policy("typo", "bb");
    let story = story(
        "kindnet",
        &both,
        PROBE,
        r#"Outcome(probe: "p", is: Timeout)"#,
    );
    assert_eq!(found(&story), ["NetworkPolicy/shop/typo enforced: true"]);
}

#[test]
fn of_two_policies_that_say_the_same_each_could_go() {
    let both = policy("one", "b") + &policy("two", "b");
    let story = story(
        "kindnet",
        &both,
        PROBE,
        r#"Outcome(probe: "p", is: Timeout)"#,
    );
    let all = [
        "NetworkPolicy/shop/one enforced: true",
        "NetworkPolicy/shop/two enforced: true",
    ];
    assert_eq!(found(&story), all);
}

#[test]
fn where_nobody_enforces_policies_none_changes_anything() {
    let story = story(
        "flannel-vxlan",
        &policy("deny", "b"),
        PROBE,
        r#"Outcome(probe: "p", is: Connected)"#,
    );
    assert_eq!(found(&story), ["NetworkPolicy/shop/deny enforced: false"]);
}

#[test]
fn a_failure_that_happens_without_the_policy_too_is_found_unless_it_is_named() {
    // Nobody listens on 81: the policy is not what stops it.
    let probe = r#"At("1s", Probe(id: "p", from: "pod/shop/a", to: "pod/shop/b:81", timeout: "1s", must: Fail)),
                   At("3s", Probe(id: "q", from: "pod/shop/a", to: "pod/shop/b:80", timeout: "1s"))"#;
    let wrong = policy("deny", "a");
    let vague = story(
        "kindnet",
        &wrong,
        probe,
        r#"Outcome(probe: "p", is: Refused)"#,
    );
    let all = [
        "Outcome of p: refused",
        "p must fail",
        "NetworkPolicy/shop/deny enforced: true",
    ];
    assert_eq!(found(&vague), all);
    let named = story(
        "kindnet",
        &wrong,
        probe,
        r#"Outcome(probe: "p", is: Refused, code: "PORT_CLOSED")"#,
    );
    assert_eq!(found(&named), ["NetworkPolicy/shop/deny enforced: true"]);
}

#[test]
fn a_failure_that_a_change_makes_is_not_found() {
    let apply = format!(r#"At("0s", Apply(objects: "{}"))"#, policy("deny", "b"));
    let timeline = format!("{apply}, {PROBE}");
    let story = story(
        "kindnet",
        "",
        &timeline,
        r#"Outcome(probe: "p", is: Timeout)"#,
    );
    assert_eq!(found(&story), [""; 0]);
}

#[test]
fn a_fault_that_touches_nothing_fails_unless_that_is_said() {
    let acl = r#"At("500ms", Fault(id: "wall", Acl(from: "node-a", port: 9999)))"#;
    let timeline = format!("{acl}, {PROBE}");
    let connected = r#"Outcome(probe: "p", is: Connected)"#;
    let ran = run(&story("kindnet", "", &timeline, connected), 1);
    let failed: Vec<&str> = ran
        .expectations
        .iter()
        .filter(|held| !held.held)
        .map(|held| held.text.as_str())
        .collect();
    assert_eq!(failed, ["wall touches something"]);
    let said = format!(r#"{connected}, Touched(fault: "wall", at_least: 0)"#);
    assert!(run(&story("kindnet", "", &timeline, &said), 1).held());
}
