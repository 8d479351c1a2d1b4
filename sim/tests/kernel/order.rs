//! What depends on what came before: entries that outlive their rules, source ports that are taken, clients that are
//! remembered, a table without room. Attempts are made one after the other in one simulation, and in one set of real namespaces.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use podwire::engine::dice::Seeded;
use podwire::materialize::Prefix;
use podwire::traffic::ProbeResult;
use podwire_models::control::cni::Cni;
use podwire_models::kernel::conntrack::CtFilter;
use podwire_models::wire::{L4, NoRecorder};
use serde_json::{Value, json};

use super::cluster::{Built, ask, flow, name_of, servers};
use super::full;
use super::worlds::{Flow, Stack, World, build, change_of, filled, manifests};

/// One step: an attempt, or something that is done on a machine.
enum Step {
    /// From whom, from which port, over what, to whom.
    Try(&'static str, u16, &'static str, &'static str),
    /// A rule is put first in its chain.
    Rule(&'static str, &'static str),
    /// `conntrack -D -p udp`.
    Forget(&'static str),
    /// The table of connections is filled with others.
    Fill(&'static str),
}

use Step::{Fill, Forget, Rule, Try};

const A: &str = "node/node-a";
const B: &str = "node/node-b";
const A1: &str = "pod/shop/a1";
const A2: &str = "pod/shop/a2";

const TO_B1: &str =
    "nat -A PREROUTING -p udp -m udp --dport 8099 -j DNAT --to-destination {pod/shop/b1}:8080";
const TO_B2: &str =
    "nat -A PREROUTING -p udp -m udp --dport 8099 -j DNAT --to-destination {pod/shop/b2}:8080";
const OWN_TO_B1: &str =
    "nat -A OUTPUT -p udp -m udp --dport 8099 -j DNAT --to-destination {pod/shop/b1}:8080";
const OWN_TO_B2: &str =
    "nat -A OUTPUT -p udp -m udp --dport 8099 -j DNAT --to-destination {pod/shop/b2}:8080";
const MASQUERADE: &str = "nat -A POSTROUTING -j MASQUERADE";
const RANDOM: &str = "nat -A POSTROUTING -j MASQUERADE --random-fully";
const TO_ONE_PORT: &str =
    "nat -A POSTROUTING -p udp -d {pod/shop/b2} -j SNAT --to-source {node/node-a}:777";

/// Stories: a name, the profile, and what happens.
const STORIES: &[(&str, Cni, &[Step])] = &[
    (
        "an entry outlives its rule",
        Cni::Kindnet,
        &[
            Rule(A, TO_B1),
            Try(A1, 20000, "udp", "pod/shop/a2:8099"),
            Rule(A, TO_B2),
            Try(A1, 20000, "udp", "pod/shop/a2:8099"),
            Try(A1, 20001, "udp", "pod/shop/a2:8099"),
            Forget(A),
            Try(A1, 20000, "udp", "pod/shop/a2:8099"),
        ],
    ),
    (
        "an entry of the node's own outlives its rule",
        Cni::FlannelVxlan,
        &[
            Rule(A, OWN_TO_B1),
            Try(A, 20000, "udp", "pod/shop/a2:8099"),
            Rule(A, OWN_TO_B2),
            Try(A, 20000, "udp", "pod/shop/a2:8099"),
            Forget(A),
            Try(A, 20000, "udp", "pod/shop/a2:8099"),
        ],
    ),
    (
        "an entry keeps a packet from a new rule",
        Cni::Kindnet,
        &[
            Try(A1, 20000, "udp", "pod/shop/b1:8099"),
            Try(A1, 20000, "udp", "pod/shop/b1:8080"),
            Rule(
                B,
                "nat -A PREROUTING -p udp -m udp --dport 8080 -j DNAT --to-destination {pod/shop/b2}:8080",
            ),
            Try(A1, 20000, "udp", "pod/shop/b1:8080"),
            Forget(A),
            Try(A1, 20000, "udp", "pod/shop/b1:8080"),
            Forget(B),
            Try(A1, 20000, "udp", "pod/shop/b1:8080"),
        ],
    ),
    (
        "ports are kept where they are free",
        Cni::Kindnet,
        &[
            Rule(A, MASQUERADE),
            Try(A1, 300, "udp", "pod/shop/b2:8080"),
            Try(A2, 300, "udp", "pod/shop/b2:8080"),
            Try(A1, 512, "udp", "pod/shop/b2:8080"),
            Try(A2, 512, "udp", "pod/shop/b2:8080"),
            Try(A1, 1023, "udp", "pod/shop/b2:8080"),
            Try(A2, 1023, "udp", "pod/shop/b2:8080"),
            Try(A1, 1024, "udp", "pod/shop/b2:8080"),
            Try(A2, 1024, "udp", "pod/shop/b2:8080"),
            Try(A1, 40000, "udp", "pod/shop/b2:8080"),
            Try(A2, 40000, "udp", "pod/shop/b2:8080"),
            Try(A, 40000, "udp", "pod/shop/b2:8080"),
            Try(A1, 40000, "udp", "pod/shop/b1:8080"),
            Try(A1, 300, "tcp", "pod/shop/b2:8080"),
            Try(A2, 300, "tcp", "pod/shop/b2:8080"),
            Try(A1, 40001, "tcp", "pod/shop/b2:8080"),
            Try(A2, 40001, "tcp", "pod/shop/b2:8080"),
        ],
    ),
    (
        "ports are always drawn",
        Cni::Bridge,
        &[
            Rule(A, RANDOM),
            Try(A1, 300, "udp", "pod/shop/b2:8080"),
            Try(A1, 700, "udp", "pod/shop/b2:8080"),
            Try(A1, 40000, "udp", "pod/shop/b2:8080"),
            Try(A1, 40000, "tcp", "pod/shop/b2:8080"),
        ],
    ),
    (
        "one port for two",
        Cni::Kindnet,
        &[
            Rule(A, TO_ONE_PORT),
            Try(A1, 20000, "udp", "pod/shop/b2:8080"),
            Try(A2, 20000, "udp", "pod/shop/b2:8080"),
            Forget(A),
            Try(A2, 20000, "udp", "pod/shop/b2:8080"),
        ],
    ),
    (
        "a client is remembered",
        Cni::Kindnet,
        &[
            Try(A1, 20000, "tcp", "svc/shop/sticky:80"),
            Try(A1, 20001, "tcp", "svc/shop/sticky:80"),
            Try(A1, 20002, "tcp", "svc/shop/sticky:80"),
            Try(A1, 20003, "tcp", "svc/shop/sticky:80"),
            Try(A1, 20004, "tcp", "svc/shop/sticky:80"),
            Try(A1, 20005, "tcp", "svc/shop/sticky:80"),
        ],
    ),
    (
        "no room for connections",
        Cni::Kindnet,
        &[
            Try(A1, 20000, "tcp", "pod/shop/b2:8080"),
            Fill(A),
            Try(A1, 20001, "tcp", "pod/shop/b2:8080"),
            Try(A1, 20002, "udp", "pod/shop/b2:8080"),
            Try(A1, 20003, "tcp", "pod/shop/a2:8080"),
            Try(A, 20004, "tcp", "pod/shop/b2:8080"),
            Try(A, 20005, "udp", "pod/shop/b2:8080"),
            Try("pod/shop/b1", 20006, "tcp", "pod/shop/a1:8080"),
            Try("pod/shop/b1", 20007, "tcp", "pod/shop/b2:8080"),
            Forget(A),
            Try(A1, 20001, "tcp", "pod/shop/b2:8080"),
            Try(A, 20005, "udp", "pod/shop/b2:8080"),
        ],
    ),
];

/// The port a server saw: the client's own, or one of a class (`nf_nat_l4proto_unique_tuple`).
fn class(asked: u16, seen: u16) -> &'static str {
    match seen {
        _ if seen == asked => "its own port",
        777 => "port 777",
        0..512 => "another port below 512",
        512..1024 => "another port below 1024",
        1024.. => "another port",
    }
}

/// Names of servers by when they came first, since who is first is chance.
fn by_order(says: &mut [String], sticky: bool) {
    if !sticky {
        return;
    }
    let mut known: Vec<String> = Vec::new();
    for line in says {
        let server = line.split(' ').next().unwrap_or_default().to_owned();
        if !known.contains(&server) {
            known.push(server.clone());
        }
        let number = known.iter().position(|name| *name == server).unwrap();
        *line = line.replacen(&server, &format!("server {number}"), 1);
    }
}

fn compare(number: usize) -> (usize, String) {
    let (name, cni, steps) = &STORIES[number];
    let world = World {
        name: (*name).to_owned(),
        cni: *cni,
        stack: Stack::V4,
        hairpin: true,
        one_by_one: true,
        manifests: manifests(),
        changes: Vec::new(),
        flows: Vec::new(),
    };
    let family = world.stack.family();
    let (lab, _) = build(&world);
    let prefix: Prefix = format!("podwire-{}-{}", std::process::id(), 4000 + number)
        .parse()
        .unwrap();
    let _built = Built::new(&lab, &prefix);
    let mut simulation = lab.start(Seeded::new(1), NoRecorder);
    let netns = |at: &str| lab.source(&at.parse().unwrap()).unwrap().netns;
    let inside = |at: &str, words: &[&str]| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name_of(&lab, &prefix, netns(at))]);
        command.args(words).output().unwrap()
    };
    let (mut ours, mut real, mut tried) = (Vec::new(), Vec::new(), Vec::new());
    for step in *steps {
        match step {
            Rule(at, what) => {
                let what = filled(&lab, family, what);
                let machine = simulation.machines.cluster.netns_mut(netns(at)).unwrap();
                machine.apply(&change_of(family, &what)).unwrap();
                let (table, rule) = what.split_once(" -A ").unwrap();
                let mut words = vec!["iptables-legacy", "-t", table, "-I"];
                words.extend(rule.split(' '));
                let done = inside(at, &words);
                assert!(done.status.success(), "{done:?}");
            }
            Forget(at) => {
                let machine = simulation.machines.cluster.netns_mut(netns(at)).unwrap();
                let udp = CtFilter {
                    l4: Some(L4::Udp),
                    ..CtFilter::default()
                };
                machine.conntrack.as_mut().unwrap().delete(&udp);
                inside(at, &["conntrack", "-D", "-p", "udp"]);
            }
            Fill(at) => {
                let mut now = simulation.now();
                let machine = simulation.machines.cluster.netns_mut(netns(at)).unwrap();
                full::fill(machine.conntrack.as_mut().unwrap(), true, &mut now);
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/ctnetlink.py");
                let done = inside(at, &["python3", script]);
                assert!(done.status.success(), "{done:?}");
            }
            Try(from, port, proto, to) => {
                let one = Flow::new(from, proto, to);
                tried.push(one.to_string());
                let source = lab.source(&from.parse().unwrap()).unwrap();
                let mut request = one.request(&lab, &world);
                request.socket.source_port = Some(*port);
                let limit = simulation.now() + Duration::from_secs(60);
                let outcome = lab.attempt(&mut simulation, &source, &request, limit);
                let outcome = outcome.unwrap();
                let now = simulation.now();
                simulation.run_until(now + Duration::from_millis(400));
                let seen = outcome.seen_source;
                ours.push(match (outcome.result, seen) {
                    (ProbeResult::Connected, Some((ip, seen))) => {
                        let server = outcome.server.as_deref().unwrap_or("?");
                        format!("{server} saw {ip}, {}", class(*port, seen))
                    }
                    _ => outcome
                        .errno
                        .map_or_else(|| outcome.result.name().to_owned(), |e| e.to_string()),
                });
                let mut value = flow(&lab, &world, &prefix, &one);
                value["from_port"] = json!(port);
                let answer = &ask(&json!({
                    "servers": servers(&lab, family, &prefix),
                    "flows": [value],
                    "one_by_one": true,
                    "pause": 0.4,
                    "namespaces": Vec::<String>::new(),
                }))[0];
                real.push(heard(answer, *port));
            }
        }
    }
    let sticky = name.contains("remembered");
    by_order(&mut ours, sticky);
    by_order(&mut real, sticky);
    let mut says = String::new();
    for (number, (what, (ours, real))) in tried.iter().zip(ours.iter().zip(&real)).enumerate() {
        if ours != real {
            let _ = writeln!(
                says,
                "{name}: {number}, {what}: kernel {real}, podwire {ours}"
            );
        }
    }
    (tried.len(), says)
}

fn heard(answer: &Value, port: u16) -> String {
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    match answer["result"].as_str().unwrap() {
        "connected" => {
            let seen = answer["seen_port"].as_u64().unwrap();
            let seen = class(port, u16::try_from(seen).unwrap());
            format!("{} saw {}, {seen}", text("server"), text("seen"))
        }
        "timeout" => "timeout".to_owned(),
        _ => text("errno"),
    }
}

#[test]
fn one_after_the_other() {
    if !super::kernel_is_there() {
        return;
    }
    let only = super::variable("PODWIRE_KERNEL_WORLD").unwrap_or_default();
    let mut chosen: Vec<usize> = (0..STORIES.len()).collect();
    chosen.retain(|number| STORIES[*number].0.contains(&only));
    let answers = super::cluster::a_few_at_a_time(&chosen, |number| {
        let (tried, says) = compare(*number);
        if says.is_empty() {
            return (tried, says);
        }
        println!("once more, because of\n{says}");
        compare(*number)
    });
    let tried: usize = answers.iter().map(|(tried, _)| tried).sum();
    let says: String = answers.iter().map(|(_, says)| &**says).collect();
    assert!(says.is_empty(), "the order tells:\n{says}");
    let how_much = format!("{} stories, {tried} attempts", answers.len());
    super::referee::checked("order", &how_much);
}
