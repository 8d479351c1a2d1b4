//! Random clusters, materialised: nodes, pods, Services of all sorts, settings and rules are drawn from a seed, and
//! random flows end in the simulated cluster as they do in real namespaces.
//!
//! `PODWIRE_KERNEL_SEED` and `PODWIRE_KERNEL_CLUSTERS` choose the seeds; what parts is told with its seed.

use std::fmt::Write as _;

use podwire_models::base::hash::combine;
use podwire_models::control::cni::Cni;

use super::cluster::{a_few_at_a_time, compare_twice};
use super::worlds::{Flow, Stack, World, pod, service};

/// Clusters of the short form.
const FEW: u64 = 4;
/// Clusters of the long form.
const MANY: u64 = 200;
/// Flows of one cluster.
const FLOWS: u64 = 25;

/// What is drawn, one after the other.
struct Draw {
    seed: u64,
    drawn: u64,
}

impl Draw {
    /// Returns a number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.drawn += 1;
        combine(self.seed, self.drawn) % n
    }

    /// Whether one of `n` cases is it.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

const NODES: [&str; 4] = ["node-a", "node-b", "node-c", "node-d"];
const APPS: [&str; 3] = ["red", "green", "blue"];

/// A pod and the port it listens on.
struct Server {
    name: String,
    host: bool,
    port: u16,
}

/// A cluster, and flows through it.
fn draw(seed: u64) -> World {
    let mut draw = Draw { seed, drawn: 0 };
    let cni = [
        Cni::Kindnet,
        Cni::Bridge,
        Cni::FlannelVxlan,
        Cni::FlannelHostGw,
        Cni::Calico,
    ];
    let cni = cni[usize::try_from(draw.below(cni.len() as u64)).unwrap()];
    let nodes = &NODES[..usize::try_from(2 + draw.below(3)).unwrap()];
    let mut manifests = String::new();
    for node in nodes {
        write!(
            manifests,
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n"
        )
        .unwrap();
    }
    let mut servers = Vec::new();
    for number in 0..3 + draw.below(4) {
        let host = draw.one_in(6);
        let port = if host {
            9090 + u16::try_from(number).unwrap()
        } else {
            8080
        };
        let name = format!("p{number}");
        manifests += &pod(&name, draw.of(nodes), draw.of(&APPS), host, port);
        servers.push(Server { name, host, port });
    }
    let services = 3 + draw.below(5);
    let mut targets = Vec::new();
    for number in 0..services {
        manifests += &a_service(&mut draw, number, nodes, &mut targets);
    }
    World {
        name: format!("seed {seed}, {}", cni.name()),
        cni,
        stack: Stack::V4,
        hairpin: !draw.one_in(4),
        one_by_one: false,
        manifests,
        changes: changes(&mut draw, nodes, cni),
        flows: flows(&mut draw, nodes, &servers, &targets),
    }
}

/// Where a Service can be reached: by whom, too.
struct Way {
    target: String,
    outside: bool,
}

fn a_service(draw: &mut Draw, number: u64, nodes: &[&str], ways: &mut Vec<Way>) -> String {
    let name = format!("s{number}");
    let node_port = 30100 + number;
    let exposed = draw.one_in(2);
    let mut more = if exposed {
        "type: NodePort".to_owned()
    } else {
        "type: ClusterIP".to_owned()
    };
    let mut way = |target: String, outside: bool| ways.push(Way { target, outside });
    way(format!("svc/shop/{name}:80"), false);
    if exposed {
        for node in nodes {
            way(format!("node/{node}:{node_port}"), true);
        }
        if draw.one_in(3) {
            more += "\n  externalTrafficPolicy: Local";
        }
    }
    if draw.one_in(3) {
        more += "\n  internalTrafficPolicy: Local";
    }
    if draw.one_in(3) {
        more += "\n  sessionAffinity: ClientIP";
    }
    if draw.one_in(3) {
        let ip = format!("198.51.100.{}", number + 1);
        write!(more, "\n  externalIPs: [{ip}]").unwrap();
        way(format!("{ip}:80"), false);
    }
    let app = if draw.one_in(6) {
        "nobody"
    } else {
        draw.of(&APPS)
    };
    let target = if draw.one_in(6) { 8099 } else { 8080 };
    let port = |name: &str, protocol: &str| {
        let node_port = if exposed {
            format!(", nodePort: {node_port}")
        } else {
            String::new()
        };
        format!("{{name: {name}, port: 80, targetPort: {target}, protocol: {protocol}{node_port}}}")
    };
    let ports = port("t", "TCP") + ", " + &port("u", "UDP");
    service(&name, app, &more, &ports)
}

/// Settings and rules that are not as usual.
fn changes(draw: &mut Draw, nodes: &[&str], cni: Cni) -> Vec<(String, String)> {
    let settings = [
        "net.ipv4.ip_forward=0",
        "net.ipv4.conf.all.rp_filter=1",
        "net.ipv4.conf.all.rp_filter=2",
        "net.ipv4.conf.all.route_localnet=1",
    ];
    let mut found = Vec::new();
    for _ in 0..draw.below(4) {
        let at = format!("node/{}", draw.of(nodes));
        let what = match draw.below(4) {
            0 => {
                let bridged = !matches!(cni, Cni::Kindnet | Cni::Calico);
                if bridged && draw.one_in(2) {
                    "net.bridge.bridge-nf-call-iptables=0".to_owned()
                } else {
                    draw.of(&settings).to_owned()
                }
            }
            _ => a_rule(draw),
        };
        found.push((at, what));
    }
    found
}

fn a_rule(draw: &mut Draw) -> String {
    let (table, chain) = match draw.below(6) {
        0 => ("filter", "INPUT"),
        1 => ("filter", "OUTPUT"),
        2 => ("mangle", "PREROUTING"),
        3 => ("mangle", "POSTROUTING"),
        _ => ("filter", "FORWARD"),
    };
    let mut rule = format!("{table} -A {chain}");
    if draw.one_in(2) {
        write!(rule, " -d 10.244.{}.0/24", draw.below(3)).unwrap();
    }
    if draw.one_in(3) {
        write!(rule, " -s 10.244.{}.0/24", draw.below(3)).unwrap();
    }
    let protocol = *draw.of(&[&"tcp", &"udp"]);
    write!(rule, " -p {protocol}").unwrap();
    match draw.below(5) {
        0 => write!(rule, " -m {protocol} --dport 8080").unwrap(),
        1 => rule += " -m conntrack --ctstate NEW",
        2 => rule += " -m conntrack --ctstate ESTABLISHED",
        3 => rule += " -m addrtype --dst-type LOCAL",
        _ => {}
    }
    let refusals = [
        "icmp-host-unreachable",
        "icmp-port-unreachable",
        "icmp-admin-prohibited",
    ];
    match draw.below(4) {
        0 if table == "filter" => {
            write!(rule, " -j REJECT --reject-with {}", draw.of(&refusals)).unwrap();
        }
        1 => rule += " -j ACCEPT",
        _ => rule += " -j DROP",
    }
    rule
}

fn flows(draw: &mut Draw, nodes: &[&str], servers: &[Server], ways: &[Way]) -> Vec<Flow> {
    let mut found = Vec::new();
    for _ in 0..FLOWS {
        let outside = draw.one_in(5);
        let from = if outside {
            "host/browser".to_owned()
        } else if draw.one_in(4) {
            format!("node/{}", draw.of(nodes))
        } else {
            let number = usize::try_from(draw.below(servers.len() as u64)).unwrap();
            format!("pod/shop/{}", servers[number].name)
        };
        let reachable: Vec<&Way> = ways.iter().filter(|way| way.outside || !outside).collect();
        // The router tells a source only five times in a row that there is no route, so nobody asks it.
        let target = if outside && (reachable.is_empty() || draw.one_in(4)) {
            format!("node/{}:{}", draw.of(nodes), 30099)
        } else if !outside && draw.one_in(3) {
            let number = usize::try_from(draw.below(servers.len() as u64)).unwrap();
            let server = &servers[number];
            if server.host {
                format!("pod/shop/{}:{}", server.name, server.port)
            } else {
                let port = if draw.one_in(4) { 8099 } else { server.port };
                format!("pod/shop/{}:{port}", server.name)
            }
        } else {
            draw.of(&reachable).target.clone()
        };
        let protocol = if draw.one_in(2) { "tcp" } else { "udp" };
        found.push(Flow::new(&from, protocol, &target));
    }
    found
}

#[test]
fn random_clusters() {
    if !super::kernel_is_there() {
        return;
    }
    let number = |name: &str| super::variable(name).map(|value| value.parse::<u64>().unwrap());
    let first = number("PODWIRE_KERNEL_SEED").unwrap_or(0);
    let full = super::variable("PODWIRE_KERNEL_FULL").is_some();
    let usual = if full { MANY } else { FEW };
    let clusters = number("PODWIRE_KERNEL_CLUSTERS").unwrap_or(usual);
    let worlds: Vec<(u64, World)> = (first..first + clusters)
        .map(|seed| (seed, draw(seed)))
        .collect();
    let answers = a_few_at_a_time(&worlds, |(seed, world)| {
        compare_twice(world, 1000 + usize::try_from(*seed).unwrap())
    });
    let count: usize = answers.iter().map(|(flows, _)| flows).sum();
    let mut failures = String::new();
    for ((_, world), (_, says)) in worlds.iter().zip(&answers) {
        if !says.is_empty() {
            writeln!(failures, "{}, {:?}", world.name, world.changes).unwrap();
            failures += says;
        }
    }
    assert!(
        failures.is_empty(),
        "random clusters of {count} flows differ:\n{failures}"
    );
    let how_much = format!("{clusters} clusters, {count} flows");
    super::referee::checked("random-clusters", &how_much);
}
