//! A story told with other delays: the outcomes are different ones, and each witness leads to its outcome.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use podwire::controllers::reactions::Span;
use podwire::scenario;
use podwire::story::explore::{Change, explore};
use podwire::story::{Story, resolve, run};
use podwire_models::wire::Code;

use crate::golden::{root, story};

/// A pod of two is deleted while a client asks their Service.
fn removal() -> Story {
    let text = r##"Scenario(
        title: "removal",
        cluster: Cluster(nodes: [Node(name: "node-a"), Node(name: "node-b")]),
        objects: r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-a, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: shop, labels: {app: cart}}
spec: {nodeName: node-b, containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: shop, labels: {app: cart}}
spec: {nodeName: node-a, containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80}]}
"#,
        timeline: [
            Every("10ms", from: "1s", until: "1300ms", Probe(id: "ask", from: "pod/shop/client", to: "svc/shop/cart:80", timeout: "1s")),
            At("1s", Delete("pod/shop/one")),
        ],
        expect: [Outcome(probe: "ask", is: Connected)],
    )"##;
    let (story, problems) = resolve(&scenario::read("removal.ron", text).unwrap(), &[]);
    assert!(problems.is_empty(), "{problems:?}");
    story
}

#[test]
fn the_race_of_an_endpoints_removal_with_sigterm_has_both_ends() {
    let found = explore(&removal(), 1, |_| {});
    let fails = |code: Code| {
        found.outcomes.iter().any(|outcome| {
            let ends = &outcome.ends["ask"];
            ends.iter().any(|(_, found)| *found == Some(code))
        })
    };
    assert!(fails(Code::EpRemovalLag), "the kubelet is quicker");
    let well = found.outcomes.iter().find(|one| one.failed.is_empty());
    let well = well.expect("kube-proxy is quicker");
    let slower = |change: &Change| matches!(change, Change::Takes(reaction, time) if *time < reaction.usual() || reaction.name() == "kubelet_watch");
    assert!(well.witness.iter().all(slower), "{:?}", well.witness);
    assert!(found.outcomes.len() > 2 && found.changes >= 2, "{found:#?}");
}

#[test]
fn a_witness_leads_to_its_outcome() {
    let story = removal();
    let found = explore(&story, 1, |_| {});
    for outcome in &found.outcomes {
        let mut way = story.clone();
        for change in &outcome.witness {
            match change {
                Change::Takes(reaction, time) => {
                    way.lab.plan.reactions.set(*reaction, Span::always(*time));
                }
                // Kernels of today make nothing of it.
                Change::AtOnce | Change::InTurn => panic!("{outcome:#?}"),
            }
        }
        assert_eq!(run(&way, 1).fingerprint, outcome.fingerprint);
    }
}

#[test]
fn two_questions_from_one_socket_race_or_do_not() {
    let path = root().join("scenarios/failures/27-conntrack_race.ron");
    let found = explore(&story(&path).unwrap(), 1, |_| {});
    let codes: Vec<Vec<Option<Code>>> = found
        .outcomes
        .iter()
        .map(|outcome| {
            outcome.ends["impatient"]
                .iter()
                .map(|(_, code)| *code)
                .collect()
        })
        .collect();
    assert_eq!(codes, [[Some(Code::DnsTimeout)], [Some(Code::Ok)]]);
    let [_, in_turn] = found.outcomes.as_slice() else {
        panic!("{found:#?}");
    };
    assert_eq!(in_turn.witness, [Change::InTurn]);
    assert!(in_turn.failed.iter().all(|text| !text.contains("touches")));
}

#[test]
fn a_range_is_drawn_from_anew_each_time() {
    let mut wide = removal();
    let reaction = podwire::controllers::reactions::Reaction::KubeletWatch;
    let (least, most) = (Duration::from_millis(1), Duration::from_millis(400));
    wide.lab.plan.reactions.set(reaction, Span { least, most });
    let prints: Vec<_> = (1..5).map(|seed| run(&wide, seed).fingerprint).collect();
    assert_eq!(
        run(&wide, 1).fingerprint,
        prints[0],
        "the same seed draws the same"
    );
    assert!(prints.iter().any(|print| *print != prints[0]));
}
