//! What is true of every running cluster: whoever makes it untrue is found out. That it is true of all scenarios is a part of
//! `golden.rs`, and of drawn ones of `sim/tests/fuzz/clusters.rs`.

use std::sync::Arc;

use podwire::controllers::dirty::Dirty;
use podwire::lab::Lab;
use podwire::story::invariants::{Scope, Violation, Watch, broken};
use podwire::story::run;
use podwire_models::base::OriginId;
use podwire_models::cluster::install::Machines;
use podwire_models::kernel::config::Change;
use podwire_models::kernel::link;
use podwire_models::wire::{Action, Code, Head};

use crate::golden::story_of;

const CLUSTER: &str = r##"Scenario(
    title: "two pods and a Service",
    cluster: Cluster(profile: "bridge", nodes: [ Node(name: "node-a"), Node(name: "node-b") ]),
    objects: r#"
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: x}}
spec: {nodeName: node-a, containers: [{name: main, image: i, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: shop, labels: {app: x}}
spec: {nodeName: node-b, containers: [{name: main, image: i, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: x, namespace: shop}
spec: {selector: {app: x}, ports: [{port: 80}]}
"#,
)"##;

/// What is found in a cluster that somebody has tampered with, from nothing and by who has watched it before.
fn found(scope: &Scope, tamper: impl FnOnce(&mut Lab, &mut Machines)) -> Violation {
    let mut lab = story_of("x.ron", CLUSTER).unwrap().lab;
    let mut machines = lab.machines.clone();
    assert_eq!(broken(&lab, &machines), None);
    let mut watch = Watch::default();
    assert_eq!(watch.look(&Scope::All, &lab, &machines), None);
    tamper(&mut lab, &mut machines);
    let found = watch
        .look(scope, &lab, &machines)
        .expect("nothing was found");
    assert!(broken(&lab, &machines).is_some(), "{found}");
    found
}

fn pod(name: &str) -> podwire_models::base::ObjectKey {
    format!("shop/{name}").parse().unwrap()
}

#[test]
fn an_address_with_two_pods_is_found() {
    let found = found(&Scope::Pod(pod("b")), |lab, _| {
        let ips = lab.objects.pods[&pod("a")].pod_ips.clone();
        lab.objects.pods.get_mut(&pod("b")).unwrap().pod_ips = ips;
    });
    let says = found.to_string();
    assert!(matches!(found, Violation::OwnedTwice { .. }), "{says}");
    assert!(says.contains("pod/shop/a and by pod/shop/b"), "{says}");
}

#[test]
fn an_address_on_two_devices_is_found() {
    let found = found(&Scope::Pod(pod("b")), |lab, machines| {
        let ip = lab.objects.pods[&pod("a")].pod_ips[0];
        let netns = machines.pods[&pod("b")].netns;
        let netns = machines.cluster.netns_mut(netns).unwrap();
        let net = ipnet::IpNet::new(ip, 32).unwrap();
        netns
            .apply(&Change::AddAddr {
                dev: "eth0".into(),
                net,
                scope: link::Scope::Global,
                origin: OriginId::NONE,
            })
            .unwrap();
    });
    assert!(matches!(found, Violation::OwnedTwice { .. }), "{found}");
}

#[test]
fn a_veth_without_its_peer_is_found() {
    let found = found(&Scope::Pod(pod("a")), |_, machines| {
        let netns = machines.pods[&pod("a")].netns;
        machines.cluster.remove_netns(netns);
        Arc::make_mut(&mut machines.pods).remove(&pod("a"));
    });
    assert!(matches!(found, Violation::NoPeer { .. }), "{found}");
}

#[test]
fn a_network_without_its_pod_is_found() {
    let found = found(&Scope::Pod(pod("a")), |lab, _| {
        lab.objects.pods.remove(&pod("a"));
    });
    assert!(matches!(found, Violation::NoObject { .. }), "{found}");
}

#[test]
fn a_network_on_another_node_is_found() {
    let found = found(&Scope::Pod(pod("a")), |lab, machines| {
        let node: podwire_models::base::ObjectName = "node-b".parse().unwrap();
        lab.objects.pods.get_mut(&pod("a")).unwrap().node_name = Some(node.clone());
        let attached = Arc::make_mut(&mut machines.pods).get_mut(&pod("a"));
        attached.unwrap().node = node;
    });
    assert!(matches!(found, Violation::Astray { .. }), "{found}");
}

#[test]
fn rules_of_a_revision_that_nobody_knows_are_found() {
    let found = found(&Scope::Rules, |lab, _| {
        // A kube-proxy says that it has written what it has not.
        let pod = lab.objects.pods.get_mut(&pod("a")).unwrap();
        pod.labels.insert("app", "y");
        assert!(!lab.refresh_slices(&Dirty::All).is_empty());
        for revision in lab.synced.values_mut() {
            *revision = lab.revision;
        }
    });
    assert!(
        matches!(found, Violation::UnknownRevision { .. }),
        "{found}"
    );
}

/// Whether the invariants hold while something happens in the cluster above.
fn hold(timeline: &str) {
    let text = CLUSTER.replace(
        "objects:",
        &format!("timeline: [{timeline}], expect: [Always(Consistent)], objects:"),
    );
    let story = story_of("x.ron", &text).unwrap();
    let ran = run(&story, story.seed);
    let held = &ran.expectations[0];
    assert!(held.held, "{}", held.why);
}

#[test]
fn what_waits_for_a_neighbour_ends_with_the_machine() {
    // Nobody has the address; the node is off before it gives up.
    hold(
        r#"At("1s", Probe(id: "p", from: "pod/shop/a", to: "172.18.0.77:80", timeout: "1s")),
           At("2s", Fault(id: "off", NodeDown("node-a"))),"#,
    );
}

#[test]
fn what_is_on_its_way_to_a_machine_ends_with_it() {
    // Between two machines a frame takes 200 µs.
    hold(
        r#"At("1s", Probe(id: "p", from: "pod/shop/a", to: "pod/shop/b:80", timeout: "1s")),
           At("2s", Probe(id: "q", from: "pod/shop/a", to: "pod/shop/b:80", timeout: "1s")),
           At("2000150us", Fault(id: "off", NodeDown("node-b"))),"#,
    );
}

#[test]
fn what_waits_in_a_pod_ends_with_the_pod() {
    // Pods behind a bridge ask each other for their hardware addresses; nobody has this one.
    hold(
        r#"At("1s", Probe(id: "p", from: "pod/shop/a", to: "10.244.0.77:80", timeout: "1s")),
           At("1500ms", Delete("pod/shop/a")),"#,
    );
    hold(
        r#"At("1s", Probe(id: "p", from: "pod/shop/a", to: "10.244.0.77:80", timeout: "1s")),
           At("1500ms", Fault(id: "killed", PodKill("pod/shop/a"))),"#,
    );
}

#[test]
fn a_machine_that_is_on_again_asks_anew_for_its_neighbours() {
    let timeline = r#"
        At("1s", Fault(id: "cut", LinkDown("node-a", "node-b"), for: "3s")),
        At("2s", Probe(id: "p", from: "pod/shop/a", to: "pod/shop/b:80", timeout: "1s")),
        At("2500ms", Fault(id: "off", NodeDown("node-a"), for: "5s")),
        At("9s", Probe(id: "q", from: "pod/shop/a", to: "pod/shop/b:80", timeout: "1s")),"#;
    let text = CLUSTER.replace(
        "objects:",
        &format!(
            "timeline: [{timeline}], expect: [Outcome(probe: \"q\", is: Connected)], objects:"
        ),
    );
    let story = story_of("x.ron", &text).unwrap();
    assert!(run(&story, story.seed).held());
}

#[test]
fn a_copy_that_a_cut_link_keeps_back_is_one_of_those_that_are_flooded() {
    let text = CLUSTER
        .replace(
            "Node(name: \"node-b\")",
            "Node(name: \"node-b\"), Node(name: \"node-c\")",
        )
        .replace(
            "\n)",
            "\n timeline: [
                At(\"1s\", Probe(id: \"learned\", from: \"pod/shop/a\", to: \"pod/shop/b:80\")),
                At(\"310s\", Fault(id: \"cut\", LinkDown(\"node-a\", \"node-c\"))),
                At(\"320s\", Probe(id: \"flooded\", from: \"pod/shop/a\", to: \"pod/shop/b:80\")),
            ], expect: [Always(Consistent)])",
        );
    let story = story_of("x.ron", &text).unwrap();
    let ran = run(&story, 1);
    let cut = ran.trace.records.iter().any(|record| {
        let dropped = Action::Dropped {
            code: Code::LinkDown,
        };
        matches!(record.step.packet, Some(Head::Ip { .. })) && record.step.action == dropped
    });
    assert!(cut, "nothing was flooded");
    assert!(ran.held(), "{:?}", ran.expectations);
}
