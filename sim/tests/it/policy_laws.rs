//! Policies held to a second implementation and to laws, on random clusters.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podwire::manifest;
use podwire::problem::Severity;
use podwire::reach::diff::Difference;
use podwire::reach::{Filter, Peer, Reachability};
use podwire::source::{OriginTable, Source};
use podwire_models::api::Objects;
use podwire_models::base::{Family, Protocol};
use podwire_models::control::policy::reach::Reach;
use podwire_models::control::policy::{Connections, Direction, Flow, Policies};
use serde_json::{Value, json};

use crate::policy_naive::World;
use crate::policy_random::{Generator, PORTS};

/// Addresses of nobody in the cluster.
const OUTSIDE: [&str; 6] = [
    "203.0.113.5",
    "203.0.113.200",
    "198.51.100.7",
    "10.9.9.9",
    "2001:db8::1",
    "fd00:9::9",
];

fn read(manifests: &[Value]) -> Objects {
    let text: Vec<String> = manifests.iter().map(Value::to_string).collect();
    let sources = [Source::new("random.yaml", text.join("\n---\n"))];
    let (all, problems) = manifest::read(&sources, &mut OriginTable::default());
    let wrong = problems
        .iter()
        .find(|problem| problem.severity == Severity::Error);
    assert!(wrong.is_none(), "{wrong:?}\n{}", text.join("\n"));
    all.objects.into_iter().collect()
}

/// Every port at which something can change, and those beside it, of each protocol; and ICMP.
fn flows() -> Vec<(Flow, Option<(&'static str, u16)>)> {
    let mut ports: Vec<u16> = PORTS
        .iter()
        .flat_map(|port| [port.saturating_sub(1), *port, port.saturating_add(1)])
        .filter(|port| *port > 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let mut flows = vec![(Flow::Other, None)];
    for protocol in Protocol::ALL {
        for port in &ports {
            flows.push((Flow::Port(protocol, *port), Some((protocol.upper(), *port))));
        }
    }
    flows
}

/// All addresses that can be an end.
fn ends(objects: &Objects) -> Vec<IpAddr> {
    let pods = objects
        .pods
        .values()
        .flat_map(|pod| pod.pod_ips.iter().copied());
    let nodes = objects
        .nodes
        .values()
        .flat_map(|node| node.internal_ips.iter().copied());
    let outside = OUTSIDE.iter().map(|ip| ip.parse().unwrap());
    let mut all: Vec<IpAddr> = pods.chain(nodes).chain(outside).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What the classes say about two addresses; `None` about a node's address that no pod has.
fn by_classes(reach: &Reach<'_>, source: IpAddr, destination: IpAddr) -> Option<Connections> {
    let member = |ip: IpAddr| reach.members.iter().find(|member| member.ip == ip);
    let outside = |ip: IpAddr| OUTSIDE.iter().any(|known| known.parse() == Ok(ip));
    let class = |ip: IpAddr| match member(ip) {
        Some(member) => Some(member.class),
        None if outside(ip) => reach.outside_class(ip),
        None => None,
    };
    if let (Some(source), Some(destination)) = (member(source), member(destination)) {
        return Some(reach.between(source, destination).clone());
    }
    let (source, destination) = (class(source)?, class(destination)?);
    Some(reach.connections(source, destination).clone())
}

#[test]
fn ten_thousand_clusters_mean_what_a_second_implementation_says() {
    let flows = flows();
    let mut used: BTreeMap<String, u64> = BTreeMap::new();
    let (mut asked, mut denied) = (0_u64, 0_u64);
    for seed in 0..10_000_u64 {
        let mut generator = Generator::new(seed);
        let manifests = generator.cluster();
        for (what, count) in generator.used {
            *used.entry(what).or_insert(0) += count;
        }
        let objects = Arc::new(read(&manifests));
        let (policies, reach) = (Policies::new(Arc::clone(&objects)), Reach::new(&objects));
        let world = World(&manifests);
        let ends = ends(&objects);
        let mut turn = usize::try_from(seed).unwrap();
        for source in &ends {
            for destination in &ends {
                if Family::of(*source) != Family::of(*destination) {
                    continue;
                }
                let (from, to) = (policies.party(*source), policies.party(*destination));
                let classes = by_classes(&reach, *source, *destination);
                if from.pod().is_none() && to.pod().is_none() {
                    continue;
                }
                let pair = || format!("seed {seed}: {source} to {destination}");
                let set = policies.between(&from, &to);
                if let Some(classes) = classes {
                    assert_eq!(classes, set, "{}", pair());
                }
                let naive = (world.end(*source), world.end(*destination));
                for _ in 0..4 {
                    turn = (turn + 7) % flows.len();
                    let (flow, packet) = flows[turn];
                    let expected = world.allows(&naive.0, &naive.1, packet);
                    let one = policies.verdict(&from, &to, flow).allowed();
                    assert_eq!(
                        (set.contains(flow), one),
                        (expected, expected),
                        "{} {flow}\n{}",
                        pair(),
                        serde_json::to_string(&manifests).unwrap()
                    );
                    asked += 1;
                    denied += u64::from(!expected);
                }
            }
        }
    }
    println!("{asked} connections, {denied} denied; fields:");
    for (what, count) in &used {
        println!("{count:>8}  {what}");
    }
    assert!(
        denied > asked / 20 && denied < asked / 2,
        "{denied} of {asked} denied"
    );
    let rare: Vec<_> = used.iter().filter(|(_, count)| **count < 50).collect();
    assert!(used.len() >= 95, "{} forms of fields", used.len());
    assert!(rare.is_empty(), "hardly ever written: {rare:?}");
}

/// Random manifests, and the same with one thing done to them.
fn pairs(
    seeds: std::ops::Range<u64>,
    change: impl Fn(&mut Vec<Value>) -> bool,
) -> Vec<[Vec<Value>; 2]> {
    let all = seeds.map(|seed| Generator::new(seed).cluster());
    let changed = all.filter_map(|before| {
        let mut after = before.clone();
        change(&mut after).then_some([before, after])
    });
    changed.collect()
}

fn answer(manifests: &[Value]) -> Reachability {
    Reachability::of(&read(manifests), &Filter::default())
}

fn reverse(value: &mut Value, field: &str) {
    if let Some(list) = value[field].as_array_mut() {
        list.reverse();
    }
}

#[test]
fn the_order_of_rules_peers_and_ports_of_a_network_policy_does_not_matter() {
    let turn = |manifests: &mut Vec<Value>| {
        let mut any = false;
        for object in manifests
            .iter_mut()
            .filter(|o| o["kind"] == "NetworkPolicy")
        {
            any = true;
            let name = object["metadata"]["name"]
                .as_str()
                .unwrap()
                .replace("np-", "zz-");
            object["metadata"]["name"] = json!(name);
            for side in ["ingress", "egress"] {
                for rule in object["spec"][side].as_array_mut().into_iter().flatten() {
                    for field in ["from", "to", "ports"] {
                        if rule.get(field).is_some() {
                            reverse(rule, field);
                        }
                    }
                }
                if object["spec"].get(side).is_some() {
                    reverse(&mut object["spec"], side);
                }
            }
        }
        manifests.reverse();
        any
    };
    let all = pairs(20_000..20_400, turn);
    assert!(all.len() > 200);
    for [before, after] in all {
        assert_eq!(answer(&before).rows, answer(&after).rows);
    }
}

#[test]
fn one_more_rule_of_a_network_policy_takes_nothing_away() {
    let add = |manifests: &mut Vec<Value>| {
        let mut policies = manifests
            .iter_mut()
            .filter(|o| o["kind"] == "NetworkPolicy");
        let Some(policy) = policies.find(|policy| policy["spec"]["ingress"].is_array()) else {
            return false;
        };
        let rules = policy["spec"]["ingress"].as_array_mut().unwrap();
        rules.push(
            json!({"from": [{"namespaceSelector": {}}], "ports": [{"port": 53, "endPort": 81}]}),
        );
        true
    };
    let all = pairs(30_000..30_400, add);
    assert!(all.len() > 100);
    let mut gained = 0;
    for [before, after] in all {
        let difference = Difference::between(&answer(&before), &answer(&after));
        for change in difference.changes {
            assert!(!change.lost.has_ports(), "{change:?}");
            gained += 1;
        }
    }
    assert!(gained > 20, "{gained} pairs gained something");
}

#[test]
fn without_policies_the_network_is_flat() {
    let remove = |manifests: &mut Vec<Value>| {
        manifests.retain(|object| !object["kind"].as_str().unwrap().ends_with("Policy"));
        true
    };
    for [_, after] in pairs(40_000..40_200, remove) {
        let objects = read(&after);
        let reach = Reach::new(&objects);
        for source in &reach.members {
            for destination in &reach.members {
                assert_eq!(*reach.between(source, destination), Connections::all());
            }
        }
        let answer = answer(&after);
        assert!(answer.rows.iter().all(|row| row.allowed.all_ports()));
    }
}

/// What may pass between two workloads, or a workload and an address.
fn look(answer: &Reachability, pair: &(Peer, Peer)) -> [Connections; 2] {
    let covers = |wide: &Peer, narrow: &Peer| match (wide, narrow) {
        (Peer::Outside(a, b), Peer::Outside(c, d)) => {
            Family::of(*a) == Family::of(*c) && a <= c && d <= b
        }
        _ => wide == narrow,
    };
    let row = answer
        .rows
        .iter()
        .find(|row| covers(&row.source, &pair.0) && covers(&row.destination, &pair.1));
    row.map_or([Connections::NONE, Connections::NONE], |row| {
        [row.allowed.clone(), row.allowed.union(&row.partly)]
    })
}

fn first(peer: &Peer) -> Peer {
    match peer {
        Peer::Outside(first, _) => Peer::Outside(*first, *first),
        Peer::Workload { .. } => peer.clone(),
    }
}

#[test]
fn a_difference_is_the_difference_of_sets() {
    let drop_one = |manifests: &mut Vec<Value>| {
        let is_policy = |object: &Value| object["kind"].as_str().unwrap().ends_with("Policy");
        let at = manifests.iter().position(is_policy).unwrap();
        manifests.remove(at);
        true
    };
    let mut changes = 0;
    for [before, after] in pairs(50_000..50_300, drop_one) {
        let (before, after) = (answer(&before), answer(&after));
        assert!(Difference::between(&before, &before).is_empty());
        assert!(Difference::between(&after, &after).is_empty());
        let there = Difference::between(&before, &after);
        let back = Difference::between(&after, &before);
        assert_eq!(there.changes.len(), back.changes.len());
        for (change, other) in there.changes.iter().zip(&back.changes) {
            assert_eq!((&change.gained, &change.lost), (&other.lost, &other.gained));
            // A range is told as one if all of it changed alike: its first address stands for it.
            let pair = (first(&change.source), first(&change.destination));
            let (old, new) = (look(&before, &pair), look(&after, &pair));
            for [was, is] in [[&old[0], &new[0]], [&old[1], &new[1]]] {
                assert!(change.gained.includes(&is.difference(was)));
                assert!(change.lost.includes(&was.difference(is)));
            }
            changes += 1;
        }
        // Whatever is not told is the same.
        for row in before.rows.iter().chain(&after.rows) {
            let told = there.changes.iter().any(|change| {
                let pair = (row.source.clone(), row.destination.clone());
                let touches = |a: &Peer, b: &Peer| match (a, b) {
                    (Peer::Outside(a, b), Peer::Outside(c, d)) => a <= d && c <= b,
                    _ => a == b,
                };
                touches(&change.source, &pair.0) && touches(&change.destination, &pair.1)
            });
            if !told {
                let pair = (row.source.clone(), row.destination.clone());
                let outside = |peer: &Peer| matches!(peer, Peer::Outside(..));
                if !outside(&pair.0) && !outside(&pair.1) {
                    let has_ports = |sets: [Connections; 2]| {
                        sets.map(|set| Protocol::ALL.map(|protocol| set.ports(protocol).clone()))
                    };
                    assert_eq!(
                        has_ports(look(&before, &pair)),
                        has_ports(look(&after, &pair))
                    );
                }
            }
        }
    }
    assert!(changes > 300, "{changes} changes");
}

/// Isolation is by direction: a policy about ingress says nothing about what its pods may send.
#[test]
fn directions_are_independent() {
    let mut seen = 0;
    for seed in 60_000..60_100 {
        let manifests = Generator::new(seed).cluster();
        let without: Vec<Value> = manifests
            .iter()
            .filter(|object| object["spec"]["policyTypes"] != json!(["Ingress"]))
            .cloned()
            .collect();
        if without.len() == manifests.len() {
            continue;
        }
        let (all, less) = (read(&manifests), read(&without));
        let (all, less) = (Policies::new(Arc::new(all)), Policies::new(Arc::new(less)));
        for source in ends(all.objects()) {
            for destination in ends(all.objects()) {
                let out = |policies: &Policies| {
                    let (from, to) = (policies.party(source), policies.party(destination));
                    policies.connections(Direction::Egress, &from, &to)
                };
                assert_eq!(out(&all), out(&less));
                seen += 1;
            }
        }
    }
    assert!(seen > 1_000);
}
