//! Policies against the suites of other projects: every row, by `reach` and by the explanation of one connection.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::IpAddr;

use podwire_models::api::{Objects, PortRef};
use podwire_models::base::ObjectKey;
use podwire_models::control::policy::reach::Reach;
use podwire_models::control::policy::{Flow, Policies};

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

/// Replays all cases of a collection. Returns how many cases and rows there were.
fn check(collection: &str) -> Option<(usize, usize)> {
    let dir = crate::handbook(&format!("oracle/policy/{collection}"))?;
    let (mut cases, mut rows) = (0, 0);
    let mut wrong = Vec::new();
    for path in files(&dir) {
        cases += 1;
        Case::open(&path).replay(|name, objects, expected| {
            let reach = Reach::new(&objects);
            let policies = Policies::new(&objects);
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
                        wrong.push(format!("{name}: {row:?}: one {one}, set {set}, reach {all}"));
                    }
                }
            }
        });
    }
    wrong.truncate(20);
    assert!(wrong.is_empty(), "{collection}:\n{}", wrong.join("\n"));
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
