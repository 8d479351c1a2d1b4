//! Policies against the suites of other projects: every row, by `reach` and by the explanation of one connection.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use podwire_models::api::{Objects, PortRef};
use podwire_models::base::ObjectKey;
use podwire_models::control::policy::reach::Reach;
use podwire_models::control::policy::{Flow, Policies};
use serde_json::Value;

use crate::policy_case::{Case, Row, files};

/// The addresses of a row's end: of a pod, of the pods behind a Service, or itself; and the port there.
fn ends(objects: &Objects, name: &str, row: &Row) -> Vec<(IpAddr, u16)> {
    if let Ok(ip) = name.parse() {
        return vec![(ip, row.port)];
    }
    let key = |name: &str| {
        let (space, name) = name.split_once('/').unwrap();
        ObjectKey::new(space.parse().unwrap(), name.parse().unwrap())
    };
    let Some(service) = name.strip_prefix("svc:") else {
        return vec![(objects.pods[&key(name)].pod_ips[0], row.port)];
    };
    let service = &objects.services[&key(service)];
    let port = service
        .ports
        .iter()
        .find(|port| port.port == row.port && port.protocol == row.protocol)
        .unwrap_or_else(|| panic!("no such port: {row:?}"));
    let selector = service.selector.as_ref().unwrap();
    objects
        .pods
        .values()
        .filter(|pod| pod.key.namespace == service.key.namespace && selector.matches(&pod.labels))
        .map(|pod| {
            let target = match &port.target_port {
                PortRef::Number(number) => *number,
                PortRef::Name(name) => pod.port_named(name, row.protocol).unwrap().container_port,
            };
            (pod.pod_ips[0], target)
        })
        .collect()
}

/// What `reach` says about two addresses; `None` about nodes without pods, which it does not list.
fn by_classes(reach: &Reach<'_>, ends: [IpAddr; 2], flow: Flow) -> bool {
    let member = |ip: IpAddr| reach.members.iter().find(|member| member.ip == ip);
    let [source, destination] = ends.map(|ip| (ip, member(ip)));
    if let (Some(source), Some(destination)) = (source.1, destination.1) {
        return reach.between(source, destination).contains(flow);
    }
    let [source, destination] = [source, destination].map(|(ip, member)| {
        member.map_or_else(|| reach.outside_class(ip).unwrap(), |member| member.class)
    });
    reach.connections(source, destination).contains(flow)
}

fn counted(collection: &str, cases: usize, rows: usize) {
    let key = format!("policy-{collection}");
    crate::referee::checked(&key, &format!("{cases} cases, {rows} rows"));
}

/// Replays all cases of a collection. Returns how many cases and rows there were.
fn check(collection: &str) -> Option<(usize, usize)> {
    let dir = crate::handbook(&format!("oracle/policy/{collection}"))?;
    let (mut cases, mut rows) = (0, 0);
    let mut wrong = Vec::new();
    for path in files(&dir) {
        cases += 1;
        Case::open(&path).replay(|name, objects, expected| {
            let objects = Arc::new(objects);
            let reach = Reach::new(&objects);
            let policies = Policies::new(Arc::clone(&objects));
            rows += expected.len();
            for row in expected {
                let (source, _) = ends(&objects, &row.source, &row)[0];
                for (destination, port) in ends(&objects, &row.destination, &row) {
                    let flow = Flow::Port(row.protocol, port);
                    let (from, to) = (policies.party(source), policies.party(destination));
                    let one = policies.verdict(&from, &to, flow).allowed();
                    let set = policies.between(&from, &to).contains(flow);
                    let own_node = from.exempt(&to).is_some();
                    let all = by_classes(&reach, [source, destination], flow);
                    // A node without pods is nobody's class: that a pod reaches its own is not in there.
                    if [one, set] != [row.allowed; 2] || (all != row.allowed && !own_node) {
                        wrong.push(format!(
                            "{name}: {row:?}: one {one}, set {set}, reach {all}"
                        ));
                    }
                }
            }
        });
    }
    wrong.truncate(20);
    assert!(wrong.is_empty(), "{collection}:\n{}", wrong.join("\n"));
    counted(collection, cases, rows);
    Some((cases, rows))
}

#[test]
fn cyclonus() {
    assert!(check("cyclonus").is_none_or(|(cases, rows)| rows > 10 * cases));
}

#[test]
fn policy_api() {
    assert!(check("policy-api").is_none_or(|(cases, rows)| rows > cases));
}

#[test]
fn k8s_e2e() {
    assert!(check("k8s-e2e").is_none_or(|(cases, rows)| rows > cases));
}

#[test]
fn recipes() {
    assert!(check("recipes").is_none_or(|(cases, rows)| rows > cases));
}

#[test]
fn corner() {
    assert!(check("corner").is_none_or(|(cases, rows)| rows > cases));
}

/// What may pass, by pair: protocols and ranges of ports.
type Pairs = BTreeMap<(String, String), String>;

/// Address ranges of one workload, direction and set, put together where they follow on each other.
fn merged(rows: Vec<(String, String, String)>) -> Pairs {
    type Ranges = Vec<(u32, u32)>;
    let mut pairs = Pairs::new();
    let mut ranges: BTreeMap<(bool, String, String), Ranges> = BTreeMap::new();
    let range = |text: &str| -> Option<(u32, u32)> {
        let (first, last) = text.split_once('-')?;
        let bits = |text: &str| text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
        Some((bits(first)?, bits(last)?))
    };
    for (source, destination, set) in rows {
        if let Some(range) = range(&source) {
            ranges
                .entry((true, destination, set))
                .or_default()
                .push(range);
        } else if let Some(range) = range(&destination) {
            ranges.entry((false, source, set)).or_default().push(range);
        } else {
            assert!(pairs.insert((source, destination), set).is_none());
        }
    }
    for ((incoming, workload, set), mut list) in ranges {
        list.sort_unstable();
        let mut joined = Ranges::new();
        for (first, last) in list {
            match joined.last_mut() {
                Some((_, end)) if u64::from(*end) + 1 == u64::from(first) => *end = last,
                _ => joined.push((first, last)),
            }
        }
        for (first, last) in joined {
            let outside = format!(
                "{}-{}",
                Ipv4Addr::from_bits(first),
                Ipv4Addr::from_bits(last)
            );
            let pair = if incoming {
                (outside, workload.clone())
            } else {
                (workload.clone(), outside)
            };
            pairs.insert(pair, set.clone());
        }
    }
    pairs
}

/// A set in one way of writing it.
fn set(value: &Value) -> String {
    let sorted: Option<BTreeMap<&String, &Value>> =
        value.as_object().map(|map| map.iter().collect());
    sorted.map_or_else(|| value.to_string(), |map| format!("{map:?}"))
}

fn np_guard_expects(expected: &Value) -> Vec<(String, String, String)> {
    let names = |peer: &Value| -> Vec<String> {
        let Some(ranges) = peer["external"].as_array() else {
            let text = |field: &str| peer[field].as_str().unwrap();
            return vec![format!(
                "{}/{}[{}]",
                text("namespace"),
                text("name"),
                text("kind")
            )];
        };
        let range = |pair: &Value| {
            format!(
                "{}-{}",
                pair[0].as_str().unwrap(),
                pair[1].as_str().unwrap()
            )
        };
        ranges.iter().map(range).collect()
    };
    let mut rows = Vec::new();
    for row in expected["connections"].as_array().unwrap() {
        for source in names(&row["src"]) {
            for destination in names(&row["dst"]) {
                rows.push((source.clone(), destination, set(&row["conns"])));
            }
        }
    }
    rows
}

#[test]
#[cfg(feature = "cli")]
fn np_guard() {
    let Some(dir) = crate::handbook("oracle/policy/np-guard") else {
        return;
    };
    let mut cases: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    let (mut rows, mut wrong) = (0, Vec::new());
    for case in &cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(case.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let objects = case.join("objects.yaml");
        let report = podwire::cli::run([
            "podwire",
            "reach",
            "-f",
            objects.to_str().unwrap(),
            "--pod-cidr",
            "198.18.0.0/15",
            "-o",
            "json",
        ]);
        if report.exit != podwire::cli::Exit::Well {
            wrong.push(format!("{name}: {}", report.stderr));
            continue;
        }
        let answer: Value = serde_json::from_str(&report.stdout).unwrap();
        let skipped: Vec<&str> = expected["host_network_workloads"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        let keep = |(source, destination, _): &(String, String, String)| {
            !skipped.contains(&source.as_str()) && !skipped.contains(&destination.as_str())
        };
        let ours = answer["connections"].as_array().unwrap().iter().map(|row| {
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            (text("src"), text("dst"), set(&row["allowed"]))
        });
        let ours = merged(ours.filter(keep).collect());
        let theirs = merged(
            np_guard_expects(&expected)
                .into_iter()
                .filter(keep)
                .collect(),
        );
        rows += theirs.len();
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        let differing = keys
            .into_iter()
            .filter(|key| ours.get(*key) != theirs.get(*key));
        wrong.extend(differing.take(3).map(|key| {
            format!(
                "{name}: {key:?}: theirs {:?}, ours {:?}",
                theirs.get(key),
                ours.get(key)
            )
        }));
    }
    assert!(rows > cases.len());
    wrong.truncate(40);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    counted("np-guard", cases.len(), rows);
}
