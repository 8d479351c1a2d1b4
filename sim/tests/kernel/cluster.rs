//! Designed clusters, materialised: the same flow in the simulated cluster and in real namespaces ends the same way.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use podwire::attempt::Request;
use podwire::lab::{Lab, Plan};
use podwire::manifest;
use podwire::materialize::{self, Prefix};
use podwire::source::{OriginTable, Source};
use podwire::traffic::ProbeResult;
use podwire_models::api::Objects;
use podwire_models::base::{Family, Protocol};
use podwire_models::cluster::install::OutsideHost;
use podwire_models::control::cni::Cni;
use podwire_models::kernel::config::Change;
use podwire_models::kernel::netfilter::chain::Table;
use podwire_models::kernel::netfilter::save::parse_rule;
use podwire_models::wire::L4;
use serde_json::{Value, json};

/// How long clients wait: longer than a neighbour's failure takes to be told.
const PATIENCE: Duration = Duration::from_millis(4200);

/// A cluster, and what is changed in it before it is built.
pub(super) struct World {
    pub(super) name: String,
    pub(super) cni: Cni,
    pub(super) hairpin: bool,
    /// Its objects, as YAML.
    pub(super) manifests: String,
    /// Namespace, and `NAME=VALUE`, `down DEVICE`, or a rule with its table (`filter -A FORWARD -j DROP`, put first).
    /// A name in braces is replaced by its address.
    pub(super) changes: Vec<(String, String)>,
    pub(super) flows: Vec<(String, String)>,
}

const WORLD: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node-a}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
";

pub(super) fn pod(name: &str, node: &str, app: &str, host: bool, port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  hostNetwork: {host}
  containers:
    - name: main
      image: registry.k8s.io/e2e-test-images/agnhost:2.53
      ports: [{{containerPort: {port}, protocol: TCP}}, {{containerPort: {port}, protocol: UDP}}]
"
    )
}

pub(super) fn service(name: &str, app: &str, more: &str, ports: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {app}}}
  {more}
  ports: [{ports}]
"
    )
}

pub(super) fn manifests() -> String {
    let both = |node_port: Option<u16>, target: u16| {
        let port = |name: &str, protocol: &str| {
            let node_port = node_port.map_or_else(String::new, |p| format!(", nodePort: {p}"));
            format!(
                "{{name: {name}, port: 80, targetPort: {target}, protocol: {protocol}{node_port}}}"
            )
        };
        port("t", "TCP") + ", " + &port("u", "UDP")
    };
    let mut text = WORLD.to_owned();
    for (name, node, app) in [
        ("a1", "node-a", "solo"),
        ("a2", "node-a", "many"),
        ("b1", "node-b", "many"),
        ("b2", "node-b", "far"),
    ] {
        text += &pod(name, node, app, false, 8080);
    }
    text += &pod("hn", "node-b", "host", true, 9090);
    text += &service("many", "many", "type: NodePort", &both(Some(30080), 8080));
    text += &service("solo", "solo", "type: ClusterIP", &both(None, 8080));
    text += &service("none", "nobody", "type: NodePort", &both(Some(30082), 8080));
    text += &service("shut", "many", "type: ClusterIP", &both(None, 8099));
    text += &service("host", "host", "type: NodePort", &both(Some(30083), 9090));
    let local = "type: NodePort\n  externalTrafficPolicy: Local";
    text += &service("local", "far", local, &both(Some(30081), 8080));
    let inner = "type: ClusterIP\n  internalTrafficPolicy: Local";
    text += &service("inner", "far", inner, &both(None, 8080));
    let sticky = "type: ClusterIP\n  sessionAffinity: ClientIP";
    text += &service("sticky", "many", sticky, &both(None, 8080));
    text
}

/// Everybody to everywhere: pods, host-network pods, nodes and a machine outside, to pods, Services, node ports of
/// both policies, closed ports and addresses nobody has.
fn everywhere() -> Vec<(String, String)> {
    let from = [
        "pod/shop/a1",
        "pod/shop/b2",
        "node/node-a",
        "node/node-b",
        "host/browser",
    ];
    let to = [
        "pod/shop/a2:8080",
        "pod/shop/b1:8080",
        "pod/shop/b1:8099",
        "svc/shop/many:80",
        "svc/shop/solo:80",
        "svc/shop/none:80",
        "svc/shop/shut:80",
        "svc/shop/host:80",
        "svc/shop/local:80",
        "svc/shop/inner:80",
        "svc/shop/sticky:80",
        "node/node-a:30080",
        "node/node-b:30080",
        "node/node-a:30081",
        "node/node-b:30081",
        "node/node-a:30082",
        "node/node-a:30083",
        "node/node-b:30083",
        "node/node-b:9090",
        "node/node-a:30099",
        "127.0.0.1:30080",
        "10.96.99.99:80",
        "172.18.0.77:80",
        "203.0.113.7:81",
    ];
    let mut flows = Vec::new();
    for from in from {
        for to in to {
            // The router tells a source only five times in a row that there is no route (`ip_error`).
            let inside = ["svc", "pod", "10.96"]
                .iter()
                .any(|start| to.starts_with(start));
            let asked = to.contains("many") || to.contains("b1:8080");
            if from == "host/browser" && inside && !asked {
                continue;
            }
            for proto in ["tcp", "udp"] {
                flows.push((from.to_owned(), format!("{proto} {to}")));
            }
        }
    }
    flows
}

fn worlds() -> Vec<World> {
    let mut all = profiles();
    all.extend(super::designed::worlds());
    all
}

/// Every profile as it is, and with one thing turned, each with all flows.
fn profiles() -> Vec<World> {
    let world = |name: &str, cni: Cni, changes: &[(&'static str, &str)]| World {
        name: name.to_owned(),
        cni,
        hairpin: true,
        manifests: manifests(),
        changes: changes
            .iter()
            .map(|(at, what)| ((*at).to_owned(), (*what).to_owned()))
            .collect(),
        flows: everywhere(),
    };
    let mut all: Vec<World> = Cni::ALL
        .into_iter()
        .map(|cni| world(cni.name(), cni, &[]))
        .collect();
    all.push(World {
        hairpin: false,
        ..world("bridge, hairpin off", Cni::Bridge, &[])
    });
    all.push(world(
        "bridge, nf-call off",
        Cni::Bridge,
        &[
            ("node/node-a", "net.bridge.bridge-nf-call-iptables=0"),
            ("node/node-b", "net.bridge.bridge-nf-call-iptables=0"),
        ],
    ));
    all.push(world(
        "ip_forward off",
        Cni::Kindnet,
        &[("node/node-b", "net.ipv4.ip_forward=0")],
    ));
    all.push(world(
        "rp_filter strict",
        Cni::Kindnet,
        &[("node/node-a", "net.ipv4.conf.all.rp_filter=1")],
    ));
    all.push(world(
        "route_localnet",
        Cni::Kindnet,
        &[("node/node-a", "net.ipv4.conf.all.route_localnet=1")],
    ));
    all.push(world(
        "forward drops",
        Cni::Bridge,
        &[("node/node-b", "filter -A FORWARD -p tcp -j DROP")],
    ));
    all.push(world(
        "postrouting loses",
        Cni::FlannelVxlan,
        &[("node/node-a", "mangle -A POSTROUTING -o eth0 -j DROP")],
    ));
    for world in &mut all {
        // Elsewhere the outside router knows the way to pods; here it may tell so only once.
        let told = |to: &str| to.contains("svc") || to.starts_with("udp pod");
        if world.cni == Cni::Bridge {
            world
                .flows
                .retain(|(from, to)| from != "host/browser" || !told(to));
        }
    }
    for with in [
        "icmp-net-unreachable",
        "icmp-host-unreachable",
        "icmp-proto-unreachable",
        "icmp-port-unreachable",
        "icmp-net-prohibited",
        "icmp-host-prohibited",
        "icmp-admin-prohibited",
    ] {
        let rule = format!("filter -A FORWARD -d 10.244.1.0/24 -j REJECT --reject-with {with}");
        let output = format!("filter -A OUTPUT -d 10.244.1.0/24 -j REJECT --reject-with {with}");
        let mut world = world(with, Cni::Kindnet, &[]);
        let node = || "node/node-a".to_owned();
        world.changes = vec![(node(), rule), (node(), output)];
        world.flows.retain(|(from, to)| {
            matches!(&**from, "pod/shop/a1" | "node/node-a" | "host/browser")
                && (to.contains("b1:8080")
                    || to.contains("local:80")
                    || to.contains("node-a:30080"))
        });
        all.push(world);
    }
    all
}

fn build(world: &World) -> (Lab, OriginTable) {
    let mut origins = OriginTable::default();
    let sources = [Source::new("world.yaml", world.manifests.as_str())];
    let (read, problems) = manifest::read(&sources, &mut origins);
    assert!(problems.is_empty(), "{problems:?}");
    let objects: Objects = read.objects.into_iter().collect();
    let mut plan = Plan::default();
    plan.site.cni = world.cni;
    plan.site.hairpin = world.hairpin;
    plan.site.hosts.push(OutsideHost {
        name: "browser".into(),
        ip: "203.0.113.7".parse().unwrap(),
        via: None,
        origin: podwire_models::base::OriginId::NONE,
    });
    let mut lab = Lab::build(objects, plan);
    let all: Vec<String> = lab
        .machines
        .cluster
        .iter()
        .map(|n| n.name.to_string())
        .collect();
    for name in all {
        // Many flows at once would soon be refused in silence.
        change(&mut lab, &name, "net.ipv4.icmp_ratemask=0");
    }
    for (at, what) in &world.changes {
        change(&mut lab, at, what);
    }
    (lab, origins)
}

fn change(lab: &mut Lab, at: &str, what: &str) {
    let id = lab
        .machines
        .cluster
        .named(at)
        .unwrap_or_else(|| panic!("no {at}"));
    let what = &*filled(lab, what);
    let netns = lab.machines.cluster.netns_mut(id).unwrap();
    let change = if let Some(dev) = what.strip_prefix("down ") {
        Change::SetUp {
            dev: dev.into(),
            up: false,
        }
    } else if let Some((table, _)) = what.split_once(" -A ") {
        let line = &what[table.len() + 1..];
        let (chain, rule) = parse_rule(line).unwrap();
        Change::Rule {
            family: Family::V4,
            table: Table::PRINTED
                .into_iter()
                .find(|t| t.name() == table)
                .unwrap(),
            chain: chain.as_str().into(),
            at: Some(0),
            rule: Box::new(rule),
        }
    } else {
        let (name, value) = what.split_once('=').unwrap();
        Change::Sysctl {
            name: name.into(),
            value: value.parse().unwrap(),
        }
    };
    netns.apply(&change).unwrap();
}

/// Puts addresses where names stand in braces, as in `-d {pod/shop/b1}`.
fn filled(lab: &Lab, what: &str) -> String {
    let mut text = String::new();
    for part in what.split_inclusive('}') {
        match part.split_once('{') {
            Some((before, name)) => {
                let name = name.trim_end_matches('}');
                text += before;
                text += &resolve(lab, &format!("{name}:0")).0;
            }
            None => text += part,
        }
    }
    text
}

/// Returns the address and port a target stands for.
fn resolve(lab: &Lab, target: &str) -> (String, u16) {
    let (who, port) = target.rsplit_once(':').unwrap();
    let port = port.parse().unwrap();
    let words: Vec<&str> = who.split('/').collect();
    let ip = match *words.as_slice() {
        ["pod", namespace, name] => {
            let named = |key: &str| key == format!("{namespace}/{name}");
            let pod = lab
                .objects
                .pods
                .values()
                .find(|pod| named(&pod.key.to_string()));
            pod.unwrap().pod_ips[0].to_string()
        }
        ["svc", namespace, name] => {
            let named = |key: &str| key == format!("{namespace}/{name}");
            let service = lab
                .objects
                .services
                .values()
                .find(|s| named(&s.key.to_string()));
            service.unwrap().cluster_ips()[0].to_string()
        }
        ["node", name] => {
            let node = lab
                .objects
                .nodes
                .values()
                .find(|node| node.name.as_str() == name);
            node.unwrap().internal_ips[0].to_string()
        }
        _ => who.to_owned(),
    };
    (ip, port)
}

/// Real namespaces, taken away whatever happens.
struct Built {
    dir: PathBuf,
}

impl Built {
    fn new(lab: &Lab, prefix: &Prefix) -> Self {
        let scripts = materialize::scripts(&lab.machines.cluster, prefix);
        let dir = std::env::temp_dir().join(prefix.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("build.sh"), &scripts.build).unwrap();
        std::fs::write(dir.join("teardown.sh"), &scripts.teardown).unwrap();
        let built = Self { dir };
        let done = built.sh("build.sh");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        built
    }

    fn sh(&self, script: &str) -> std::process::Output {
        let script = self.dir.join(script);
        Command::new("sh")
            .arg(script)
            .env("IPTABLES", "-legacy")
            .output()
            .unwrap()
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        self.sh("teardown.sh");
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn ask(world: &Value) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/world.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    write!(child.stdin.take().unwrap(), "{world}").unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).expect("world.py answers")
}

/// Passes a world's flows through both; returns how many, and where they part.
fn compare(world: &World, number: usize) -> (usize, String) {
    let (lab, origins) = build(world);
    let prefix: Prefix = format!("podwire-{}-{number}", std::process::id())
        .parse()
        .unwrap();
    let built = Built::new(&lab, &prefix);
    let name_of = |id| prefix.of(lab.machines.cluster.netns(id).unwrap());
    let mut says = tools(&lab, &prefix);
    let mut servers = Vec::new();
    for pod in lab.objects.pods.values() {
        let Some(netns) = lab.machines.netns_of(pod) else {
            continue;
        };
        for port in pod.spec.running().flat_map(|c| &c.ports) {
            let proto = match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => continue,
            };
            let name = pod.key.to_string();
            servers.push(json!({"ns": name_of(netns), "proto": proto, "port": port.container_port, "name": name}));
        }
    }
    let mut flows = Vec::new();
    for (from, to) in &world.flows {
        let (proto, to) = to.split_once(' ').unwrap();
        let (ip, port) = resolve(&lab, to);
        let netns = lab.source(&from.parse().unwrap()).unwrap().netns;
        flows.push(json!({"ns": name_of(netns), "proto": proto, "ip": ip, "port": port, "wait": PATIENCE.as_secs_f64()}));
    }
    let real = ask(&json!({"servers": servers, "flows": flows}));
    drop(built);
    let mut known: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for ((from, to), real) in world.flows.iter().zip(&real) {
        let (proto, target) = to.split_once(' ').unwrap();
        let (ip, port) = resolve(&lab, target);
        let request = Request::new(
            format!("{ip}:{port}").parse().unwrap(),
            if proto == "tcp" { L4::Tcp } else { L4::Udp },
            PATIENCE,
        );
        let source = lab.source(&from.parse().unwrap()).unwrap();
        let ours = known.entry((from.clone(), to.clone())).or_insert_with(|| {
            let found = lab.explore(&source, &request, &origins, 1, 4096).unwrap();
            found.iter().map(|a| ours(&a.outcome)).collect()
        });
        let real = theirs(real);
        if !ours.contains(&real) {
            let _ = writeln!(
                says,
                "{}: {from} > {to}: kernel {real}, podwire {ours:?}",
                world.name
            );
        }
    }
    (real.len(), says)
}

/// As [`compare`]; timers of a busy machine are late now and then, so a difference counts if it is there again.
pub(super) fn compare_twice(world: &World, number: usize) -> (usize, String) {
    let (flows, says) = compare(world, number);
    if says.is_empty() {
        return (flows, says);
    }
    println!("{}: once more, because of\n{says}", world.name);
    let (_, again) = compare(world, number);
    let stays = |line: &&str| again.lines().any(|other| other == *line);
    let says = says.lines().filter(stays);
    (
        flows,
        says.fold(String::new(), |all, line| all + line + "\n"),
    )
}

/// Compares what tools print in the real namespaces with what the look-alikes print; returns where they part.
fn tools(lab: &Lab, prefix: &Prefix) -> String {
    let mut says = String::new();
    for netns in lab.machines.cluster.iter() {
        let name = prefix.of(netns);
        let real = |words: &[&str]| {
            let output = Command::new("ip")
                .args(["netns", "exec", &name])
                .args(words)
                .output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        let mut same = |what: &str, ours: &str, real: &str| {
            let (left, right) = (ours.lines(), real.lines());
            for (ours, real) in left.zip(right).filter(|(ours, real)| ours != real) {
                let _ = writeln!(says, "{name}: {what}: podwire {ours:?}, kernel {real:?}");
            }
            if ours.lines().count() != real.lines().count() {
                let _ = writeln!(says, "{name}: {what}: podwire {ours:?}, kernel {real:?}");
            }
        };
        let route = netns.show_route(Family::V4);
        same("ip route", &route, &real(&["ip", "route"]));
        let local = netns.show_route_local(Family::V4);
        same(
            "ip route show table local",
            &local,
            &real(&["ip", "route", "show", "table", "local"]),
        );
        let now = podwire_models::base::Time::ZERO;
        // The kernel lists neighbours in the order of a hash.
        let sorted = |text: &str| {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        let (ours, theirs) = (netns.show_neigh(now), real(&["ip", "neigh"]));
        same("ip neigh", &sorted(&ours), &sorted(&theirs));
        let filter = netns.netfilter.as_ref().and_then(|f| f.rules(Family::V4));
        for (table, rules) in filter.iter().flat_map(|rules| &rules.ruleset().tables) {
            let mut ours = String::new();
            rules.save(*table, Family::V4, &mut ours);
            let real = real(&["iptables-legacy-save", "-t", table.name()]);
            let plain = |line: &str| match line.split_once(" [") {
                Some((chain, _)) if line.starts_with(':') => format!("{chain} [0:0]\n"),
                // Where there is no nfacct, what it counts is left out.
                _ => match line.split_once(" -m nfacct --nfacct-name ") {
                    Some((before, name)) => {
                        let after = name.split_once(' ').map_or("", |(_, after)| after);
                        format!("{before} {after}\n")
                    }
                    None => line.to_owned() + "\n",
                },
            };
            let real: String = real
                .lines()
                .filter(|l| !l.starts_with('#'))
                .map(plain)
                .collect();
            let ours: String = ours.lines().map(plain).collect();
            same(&format!("iptables-save -t {}", table.name()), &ours, &real);
        }
        if matches!(netns.name.split('/').next(), Some("node" | "pod")) {
            for name in [
                "net.ipv4.ip_forward",
                "net.ipv4.ip_default_ttl",
                "net.ipv4.ip_local_port_range",
                "net.ipv4.conf.all.rp_filter",
                "net.netfilter.nf_conntrack_tcp_timeout_established",
            ] {
                let ours = netns
                    .sysctls
                    .text(name)
                    .map_or_else(String::new, |v| format!("{name} = {v}\n"));
                same("sysctl", &ours, &real(&["sysctl", name]));
            }
        }
    }
    says
}

fn ours(outcome: &podwire::traffic::ProbeOutcome) -> String {
    match outcome.result {
        ProbeResult::Connected => {
            let server = outcome.server.as_deref().unwrap_or("?");
            let seen = outcome
                .seen_source
                .map_or_else(String::new, |(ip, _)| ip.to_string());
            format!("{server} saw {seen}")
        }
        ProbeResult::Timeout => "timeout".to_owned(),
        ProbeResult::Refused
        | ProbeResult::Unreachable
        | ProbeResult::Reset
        | ProbeResult::DnsFailure => outcome
            .errno
            .map_or_else(|| outcome.result.name().to_owned(), |e| e.to_string()),
    }
}

fn theirs(real: &Value) -> String {
    let text = |name: &str| real[name].as_str().unwrap_or_default().to_owned();
    match real["result"].as_str().unwrap() {
        "connected" => format!("{} saw {}", text("server"), text("seen")),
        "timeout" => "timeout".to_owned(),
        _ => text("errno"),
    }
}

#[test]
fn designed_clusters() {
    if !super::kernel_is_there() {
        return;
    }
    let only = super::variable("PODWIRE_KERNEL_WORLD").unwrap_or_default();
    let full = super::variable("PODWIRE_KERNEL_FULL").is_some();
    let (mut count, mut failures, mut names) = (0, String::new(), 0);
    let profiles = profiles().len();
    for (number, world) in worlds().iter().enumerate() {
        // The short form leaves out half of the refusals, and two of three where one thing is turned.
        let spared = match () {
            () if full || !only.is_empty() => false,
            () if world.name.starts_with("icmp-") => number % 2 == 0,
            () => number >= profiles && number % 3 != 0,
        };
        if !world.name.contains(&only) || spared {
            continue;
        }
        let (flows, says) = compare_twice(world, number);
        count += flows;
        names += 1;
        failures += &says;
    }
    assert!(
        failures.is_empty(),
        "{} of {count} differ:\n{failures}",
        failures.lines().count()
    );
    super::referee::checked("designed", &format!("{names} clusters, {count} flows"));
}
