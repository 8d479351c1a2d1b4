//! Random clusters, timelines and faults, against what is always true: no panic, one fingerprint, also if controllers look at
//! everything each time, every attempt ends, causes come before what they cause, the invariants of a running cluster hold, and where
//! nothing is in the way a pod reaches another.
//!
//! Each cluster draws which sorts of steps it has at all, so that some are without faults and some have nothing else.

use podwire::scenario;
use podwire::scenario::expect::{Expectation, Invariant};
use podwire::story;
use podwire::traffic::ProbeResult;

use super::draw::Draw;
use super::drive::drive;
use super::readers::sane;

/// Sorts of things that may be there.
struct Sorts {
    faults: bool,
    writes: bool,
    policies: bool,
    loss: bool,
    commands: bool,
    dual: bool,
}

impl Sorts {
    fn draw(draw: &mut Draw) -> Self {
        Self {
            faults: draw.percent(60),
            writes: draw.percent(60),
            policies: draw.percent(30),
            loss: draw.percent(20),
            commands: draw.percent(30),
            dual: draw.percent(20),
        }
    }

    /// Whether nothing can be in the way.
    const fn calm(&self) -> bool {
        !self.faults && !self.writes && !self.policies && !self.loss
    }
}

fn node(draw: &mut Draw, nodes: usize) -> String {
    format!("node-{}", draw.below(nodes))
}

/// Two pods that are always asked for, and what else there is.
fn objects(draw: &mut Draw, sorts: &Sorts, nodes: usize) -> String {
    let mut text = String::new();
    for name in ["a", "b"] {
        let node = node(draw, nodes);
        text += &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: main, image: x, ports: [{{containerPort: 8080}}, \
             {{containerPort: 5353, protocol: UDP}}, {{containerPort: 3868, protocol: SCTP}}]}}]}}\n---\n"
        );
    }
    for app in 0..draw.within(1, 3) {
        let kind = match app {
            0 => "Deployment",
            _ => draw.of(&["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"]),
        };
        let replicas = match kind {
            "DaemonSet" => String::new(),
            _ => format!("  replicas: {}\n", draw.within(usize::from(app == 0), 3)),
        };
        let more = draw.of(&[
            "",
            "",
            "",
            "hostNetwork: true, ",
            "terminationGracePeriodSeconds: 2, ",
            "dnsPolicy: Default, ",
            "nodeSelector: {zone: z0}, ",
            "tolerations: [{operator: Exists}], ",
        ]);
        let ready = draw.of(&[
            "",
            "",
            ", readinessProbe: {tcpSocket: {port: 8080}, initialDelaySeconds: 2}",
            ", readinessProbe: {tcpSocket: {port: 81}}",
            ", lifecycle: {preStop: {sleep: {seconds: 3}}}",
        ]);
        let host = if more.starts_with("hostNetwork") {
            ""
        } else {
            draw.of(&["", "", ", hostPort: 9090"])
        };
        text += &format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: app{app}, namespace: shop}}\nspec:\n{replicas}  \
             selector: {{matchLabels: {{app: app{app}}}}}\n  template:\n    metadata: {{labels: {{app: app{app}}}}}\n    \
             spec: {{{more}containers: [{{name: main, image: x, ports: [{{name: web, containerPort: 8080{host}}}]{ready}}}]}}\n---\n"
        );
        let sort = draw.of(&[
            "",
            "type: NodePort, ",
            "clusterIP: None, ",
            "type: LoadBalancer, externalTrafficPolicy: Local, ",
            "type: NodePort, externalTrafficPolicy: Local, ",
            "sessionAffinity: ClientIP, ",
            "internalTrafficPolicy: Local, ",
            "externalIPs: [203.0.113.80], ",
            "publishNotReadyAddresses: true, ",
        ]);
        let dual = if sorts.dual {
            "ipFamilyPolicy: PreferDualStack, "
        } else {
            ""
        };
        let target = draw.of(&["8080", "web", "81", "nothing"]);
        text += &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: app{app}, namespace: shop}}\n\
             spec: {{{sort}{dual}selector: {{app: app{app}}}, ports: [{{port: 80, targetPort: {target}}}]}}\n---\n"
        );
        if sorts.policies && draw.percent(60) {
            let rule = draw.of(&[
                "ingress: []", "ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]",
                "ingress: [{ports: [{port: 8080}]}]", "egress: [], policyTypes: [Egress]",
                "ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.1.0/24]}}]}]",
                "egress: [{ports: [{port: 53, protocol: UDP}, {port: web}]}], policyTypes: [Egress, Ingress]",
            ]);
            let whom = draw.of(&[
                "{}",
                "{matchLabels: {app: app0}}",
                "{matchLabels: {app: b}}",
            ]);
            text += &format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{app}, namespace: shop}}\n\
                 spec: {{podSelector: {whom}, {rule}}}\n---\n"
            );
        }
    }
    text
}

fn probe(draw: &mut Draw, n: usize, nodes: usize) -> (String, usize) {
    let somewhere = node(draw, nodes);
    let from = match draw.below(6) {
        0 => format!("node/{somewhere}"),
        1 => "host/browser".to_owned(),
        2 => "pod/shop/b".to_owned(),
        3 => "deploy/shop/app0".to_owned(),
        _ => "pod/shop/a".to_owned(),
    };
    let to = match draw.below(10) {
        0 => "pod/shop/b:8080".to_owned(),
        1 => "pod/shop/a:81".to_owned(),
        2 => format!("node/{somewhere}:30080"),
        3 => format!("node/{somewhere}:9090"),
        4 => "10.96.0.1:443".to_owned(),
        5 => "203.0.113.80:80".to_owned(),
        6 => "http://app0.shop:80/".to_owned(),
        7 => "host/browser:80".to_owned(),
        _ => "svc/shop/app0:80".to_owned(),
    };
    let mut more = String::new();
    let count = draw.within(1, 3);
    more += &format!(
        ", count: {count}, interval: \"{}\"",
        draw.of(&["0s", "10ms", "1s"])
    );
    match draw.below(6) {
        0 => more += ", protocol: \"udp\"",
        1 => more += ", protocol: \"icmp\"",
        2 => more += ", protocol: \"sctp\"",
        _ => {}
    }
    match draw.below(8) {
        0 => more += ", payload: \"40KB\"",
        1 if !more.contains("icmp") => more += ", source_port: 40000",
        2 => more += ", ttl: 1",
        3 => more += ", family: IPv4",
        _ => {}
    }
    let from_host = from.starts_with("host") && (to.starts_with("http") || to.starts_with("svc"));
    let (from, more) = if from_host || more.contains("sctp") && more.contains("40KB") {
        ("pod/shop/a".to_owned(), format!(", count: {count}"))
    } else {
        (from, more)
    };
    let timeout = draw.of(&["500ms", "2s", "20s"]);
    let text = format!(
        "Probe(id: \"p{n}\", from: \"{from}\", to: \"{to}\", timeout: \"{timeout}\"{more})"
    );
    (text, count)
}

fn fault(draw: &mut Draw, n: usize, nodes: usize) -> String {
    let (one, other) = (node(draw, nodes), node(draw, nodes));
    let other = if one == other {
        "browser".to_owned()
    } else {
        other
    };
    let kind = match draw.below(10) {
        0 => format!(
            "LinkDown(\"{one}\", \"{other}\", one_way: {})",
            draw.percent(50)
        ),
        1 => format!("NodeDown(\"{one}\")"),
        2 => "PodKill(\"pod/shop/b\")".to_owned(),
        3 => format!("ForwardDrop(\"{one}\")"),
        4 => format!("HairpinOff(\"{one}\")"),
        5 => format!(
            "RouteLost(\"{one}\", \"10.244.{}.0/24\")",
            draw.below(nodes)
        ),
        6 => format!("KubeProxyDown(\"{one}\")"),
        7 => format!(
            "Acl(from: \"{one}\", protocol: \"{}\")",
            draw.of(&["tcp", "udp", "icmp"])
        ),
        _ => {
            let (name, value) = *[
                ("net.ipv4.ip_forward", "0"),
                ("net.netfilter.nf_conntrack_max", "3"),
                ("net.ipv4.ip_default_ttl", "2"),
                ("net.ipv4.ip_local_port_range", "40000 40001"),
                ("net.ipv4.conf.all.rp_filter", "1"),
                ("net.netfilter.nf_conntrack_udp_timeout", "0"),
                ("net.netfilter.nf_conntrack_tcp_loose", "0"),
            ]
            .get(draw.below(7))
            .unwrap();
            format!("Sysctl(\"node/{one}\", \"{name}\", \"{value}\")")
        }
    };
    let lasts = draw.of(&["", ", for: \"3s\"", ", for: \"0s\"", ", for: \"40s\""]);
    format!("Fault(id: \"f{n}\", {kind}{lasts})")
}

fn write(draw: &mut Draw) -> String {
    match draw.below(7) {
        0 => format!("Scale(\"deploy/shop/app0\", {})", draw.below(6)),
        1 => "Delete(\"svc/shop/app0\")".to_owned(),
        2 => "Delete(\"pod/shop/b\")".to_owned(),
        3 => "Patch(kind: \"Service\", name: \"shop/app0\", set: { \"spec.selector.app\": \"b\" })".to_owned(),
        4 => "Label(\"pod/shop/a\", { \"app\": \"app0\", \"new\": \"x\" })".to_owned(),
        5 => "Patch(kind: \"Deployment\", name: \"shop/app0\", set: { \"spec.template.metadata.labels.v\": \"2\" })".to_owned(),
        _ => "Apply(objects: r#\"\napiVersion: v1\nkind: Service\nmetadata: {name: later, namespace: shop}\nspec: {selector: {app: b}, ports: [{port: 80, targetPort: 8080}]}\n\"#)".to_owned(),
    }
}

/// Draws a scenario; returns how many attempts it makes, too.
fn draw_scenario(seed: u64) -> (String, usize, bool) {
    let mut draw = Draw::new(seed);
    let sorts = Sorts::draw(&mut draw);
    let nodes = draw.within(1, 4);
    let profile = if sorts.dual {
        draw.of(&["kindnet", "bridge", "calico"])
    } else {
        draw.of(&[
            "kindnet",
            "bridge",
            "flannel-vxlan",
            "flannel-host-gw",
            "calico",
        ])
    };
    let ranges = if sorts.dual {
        ", pod_cidr: \"10.244.0.0/16,fd00:10:244::/56\", service_cidr: \"10.96.0.0/16,fd00:10:96::/112\""
    } else {
        ""
    };
    let names: String = (0..nodes)
        .map(|n| {
            format!(
                "Node(name: \"node-{n}\", labels: {{ \"zone\": \"z{}\" }}), ",
                n % 2
            )
        })
        .collect();
    let loss = if sorts.loss {
        draw.of(&["1%", "1/10", "1/2"])
    } else {
        "0%"
    };
    let underlay = format!(
        "Underlay(latency: \"{}\", mtu: {}, loss: \"{loss}\")",
        draw.of(&["0ns", "100us", "30ms"]),
        draw.of(&["1500", "1400", "9000"])
    );
    let objects = objects(&mut draw, &sorts, nodes);
    let mut timeline =
        "At(\"1s\", Probe(id: \"calm\", from: \"pod/shop/a\", to: \"pod/shop/b:8080\")),\n"
            .to_owned();
    let mut attempts = 1;
    for n in 0..draw.within(2, 9) {
        let at = draw.below(20_000);
        let step = match draw.below(10) {
            0..=1 if sorts.writes => write(&mut draw),
            2..=4 if sorts.faults => fault(&mut draw, n, nodes),
            5 if sorts.commands => {
                let command = draw.of(&[
                    "iptables-save",
                    "ip addr",
                    "ip route",
                    "conntrack -L",
                    "ip neigh",
                    "sysctl -a",
                    "bridge fdb",
                    "ping -c 2 10.96.0.1",
                    "traceroute 10.244.0.2",
                ]);
                format!("Exec(\"node/node-0\", \"{command}\")")
            }
            6 => {
                let (probe, count) = probe(&mut draw, n, nodes);
                let times = draw.within(1, 5);
                attempts += count * times;
                let until = at + (times - 1) * 700;
                timeline += &format!(
                    "Every(every: \"700ms\", from: \"{at}ms\", until: \"{until}ms\", step: {probe}),\n"
                );
                continue;
            }
            _ => {
                let (probe, count) = probe(&mut draw, n, nodes);
                attempts += count;
                probe
            }
        };
        timeline += &format!("At(\"{at}ms\", {step}),\n");
    }
    let text = format!(
        "Scenario(title: \"drawn\", seed: {seed}, cluster: Cluster(profile: \"{profile}\", nodes: [{names}], \
         hosts: [Host(name: \"browser\", ip: \"203.0.113.7\", tcp: [80], via: \"node-0\")], underlay: {underlay}{ranges}),\n\
         objects: r##\"\n{objects}\"##,\ntimeline: [\n{timeline}])"
    );
    (text, attempts, sorts.calm())
}

fn check(text: &str) -> bool {
    let Ok(file) = scenario::read("drawn.ron", text) else {
        return false;
    };
    let (mut story, problems) = story::resolve(&file, &[]);
    if story::unusable(&problems) {
        return false;
    }
    story.expect = vec![Expectation::Always(Invariant::Consistent)];
    let ran = story::explained(&story, story.seed);
    sane(&story, &ran);
    let held = ran.expectations.first().unwrap();
    assert!(held.held, "{}", held.why);
    let mut in_full = story.clone();
    in_full.lab.in_full = true;
    let full = story::run(&in_full, story.seed).fingerprint;
    assert_eq!(ran.fingerprint, full, "full syncs make a difference");
    // What was drawn with this seed, unless it has been made smaller.
    let (drawn, attempts, calm) = draw_scenario(story.seed);
    if drawn == text {
        assert_eq!(ran.attempts.len(), attempts, "attempts");
        let first = ran.attempts.iter().find(|one| one.probe == "calm").unwrap();
        let result = first.ended.as_ref().map(|(outcome, _)| outcome.result);
        assert!(!calm || result == Some(ProbeResult::Connected), "{first:?}");
    }
    true
}

#[test]
fn clusters_keep_the_laws() {
    drive("clusters", 60, &|seed| draw_scenario(seed).0, &check);
}

/// What is drawn is mostly accepted: else nothing is tried.
#[test]
fn drawn_scenarios_are_well_formed() {
    let mut refused = Vec::new();
    for seed in 1..=100 {
        let text = draw_scenario(seed).0;
        let says = match scenario::read("drawn.ron", &text) {
            Err(problems) => problems,
            Ok(file) => {
                let (_, problems) = story::resolve(&file, &[]);
                if !story::unusable(&problems) {
                    continue;
                }
                problems
            }
        };
        refused.push((seed, says.first().map(|p| (p.code, p.title.clone()))));
    }
    assert!(refused.len() < 25, "{refused:?}");
}
