//! Policies in the packet walk: rows of the suites as single connections through a whole cluster, under each profile
//! that enforces policies.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire::attempt::{Request, Source};
use podwire::engine::dice::Seeded;
use podwire::lab::{Lab, Plan};
use podwire::program::Program;
use podwire::traffic::{Outcome, ProbeResult};
use podwire_models::api::Objects;
use podwire_models::base::addr::host_net;
use podwire_models::base::hash::stable_hash;
use podwire_models::base::{OriginId, Protocol};
use podwire_models::cluster::install::{OutsideHost, Site};
use podwire_models::control::cni::Cni;
use podwire_models::control::policy::{Flow, Policies};
use podwire_models::kernel::config::{Change, NewRoute, RouteKind};
use podwire_models::kernel::link::Scope;
use podwire_models::wire::{L4, NoRecorder};

use crate::policy_case::{Case, Row, files};

/// Whether a row is in the sample: one in `of`, the same ones every time.
fn sampled(case: &str, row: &Row, of: u64) -> bool {
    let text = format!(
        "{case} {} {} {} {}",
        row.source, row.destination, row.port, row.protocol
    );
    // A name server says nothing to what is no question.
    let question =
        row.protocol == Protocol::Udp && row.destination.contains("kube-system/kube-dns");
    !question && stable_hash(text.as_bytes()).is_multiple_of(of)
}

/// A host outside for each source address that is nobody's in the cluster.
fn hosts(objects: &Objects, rows: &[Row]) -> Vec<OutsideHost> {
    let ends = rows.iter().flat_map(|row| [&row.source, &row.destination]);
    let mut ips: Vec<IpAddr> = ends.filter_map(|end| end.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips.retain(|ip| {
        !objects
            .nodes
            .values()
            .any(|node| node.internal_ips.contains(ip))
    });
    ips.into_iter()
        .map(|ip| OutsideHost {
            name: format!("h-{}", ip.to_string().replace(['.', ':'], "-")).into(),
            ip,
            via: None,
            origin: OriginId::NONE,
        })
        .collect()
}

fn source(lab: &Lab, name: &str) -> Source {
    let thing = match name.parse::<IpAddr>() {
        Ok(ip) => {
            let nodes = lab.objects.nodes.values();
            let node = nodes
                .into_iter()
                .find(|node| node.internal_ips.contains(&ip));
            node.map_or_else(
                || format!("host/h-{}", name.replace(['.', ':'], "-")),
                |node| format!("node/{}", node.name),
            )
        }
        Err(_) => format!("pod/{name}"),
    };
    lab.source(&thing.parse().unwrap()).unwrap()
}

/// Tries all rows in one cluster; returns those that came out otherwise.
fn try_all(lab: &Lab, name: &str, rows: &[(&Row, bool)]) -> Vec<String> {
    let mut simulation = lab.start(Seeded::new(1), NoRecorder);
    let mut apps = Vec::new();
    let mut at = simulation.now();
    for (row, expected) in rows {
        let target = match (
            row.destination.strip_prefix("svc:"),
            row.destination.parse::<IpAddr>(),
        ) {
            (_, Ok(ip)) => std::net::SocketAddr::new(ip, row.port).to_string(),
            (Some(service), _) => format!("svc/{service}:{}", row.port),
            (None, _) => format!("pod/{}:{}", row.destination, row.port),
        };
        let request = Request::new(
            target.parse().unwrap(),
            match row.protocol {
                Protocol::Tcp => L4::Tcp,
                Protocol::Udp => L4::Udp,
                Protocol::Sctp => L4::Sctp,
            },
            Duration::from_secs(1),
        );
        let source = source(lab, &row.source);
        let probe = lab.probe(&source, &request).unwrap();
        let label = format!("{} {} to {target}", source.name, row.protocol);
        let app = simulation.add_app(source.netns, &label, Program::Probe(Box::new(probe)));
        simulation.start_at(at, app);
        at += Duration::from_millis(5);
        apps.push((app, row, expected));
    }
    simulation.run_until(at + Duration::from_secs(5));
    let mut wrong = Vec::new();
    for (app, row, expected) in apps {
        let found = simulation
            .outcomes(app)
            .iter()
            .find_map(|outcome| match outcome {
                Outcome::Probe(probe) => Some(probe.result),
                Outcome::Lookup(_)
                | Outcome::Ping(_)
                | Outcome::Traceroute(_)
                | Outcome::Dig(_) => None,
            });
        // Not everything that may be reached listens; what is denied is dropped, never refused.
        let as_wanted = match found {
            Some(ProbeResult::Connected | ProbeResult::Refused) => *expected,
            Some(ProbeResult::Timeout) => !expected,
            Some(ProbeResult::Unreachable | ProbeResult::Reset | ProbeResult::DnsFailure)
            | None => false,
        };
        if !as_wanted {
            wrong.push(format!(
                "{name}: {row:?}: allowed {expected}, found {found:?}"
            ));
        }
    }
    wrong
}

fn lab(objects: Objects, cni: Cni, rows: &[Row]) -> Lab {
    let site = Site {
        cni,
        hosts: hosts(&objects, rows),
        ..Site::default()
    };
    let plan = Plan {
        site,
        ..Plan::default()
    };
    let mut lab = Lab::build(objects, plan);
    // The router outside knows where pods are, as it does where Calico's routes are announced to it.
    let pods = lab
        .objects
        .pods
        .values()
        .filter(|pod| !pod.spec.host_network);
    let routes: Vec<NewRoute> = pods
        .flat_map(|pod| pod.pod_ips.iter().map(move |ip| (pod, *ip)))
        .filter_map(|(pod, ip)| {
            let node = &lab.objects.nodes[pod.node_name.as_ref()?];
            Some(NewRoute {
                kind: RouteKind::Unicast,
                dst: host_net(ip),
                gateway: node.internal_ips.first().copied(),
                dev: None,
                src: None,
                metric: 0,
                scope: Scope::Global,
                onlink: false,
                mtu: None,
                origin: OriginId::NONE,
            })
        })
        .collect();
    let underlay = lab.machines.underlay;
    let router = lab.machines.cluster.netns_mut(underlay).unwrap();
    let node = lab.objects.nodes.values().next().unwrap();
    let hop = router.route(node.internal_ips[0]).unwrap();
    let dev = Arc::clone(&router.device(hop.dev).unwrap().name);
    for route in routes {
        let route = NewRoute {
            dev: Some(Arc::clone(&dev)),
            ..route
        };
        router.apply(&Change::AddRoute(route)).unwrap();
    }
    lab
}

/// Walks a sample of all collections: one row in `of` of the large one, all of the others.
fn walk(
    cni: Cni,
    of: u64,
    expect: impl Fn(&Lab, &Row) -> Option<bool>,
    free: bool,
) -> Option<usize> {
    let (mut count, mut wrong) = (0, Vec::new());
    for collection in ["cyclonus", "policy-api", "k8s-e2e", "recipes", "corner"] {
        let dir = crate::handbook(&format!("oracle/policy/{collection}"))?;
        let of = if collection == "cyclonus" { of } else { of / 4 };
        for path in files(&dir) {
            Case::open(&path).replay(|name, mut objects, rows| {
                if free {
                    for pod in objects
                        .pods
                        .values_mut()
                        .filter(|pod| !pod.spec.host_network)
                    {
                        pod.pod_ips.clear();
                    }
                }
                let lab = lab(objects, cni, &rows);
                let sample: Vec<(&Row, bool)> = rows
                    .iter()
                    .filter(|row| sampled(name, row, of))
                    .filter_map(|row| Some((row, expect(&lab, row)?)))
                    .collect();
                count += sample.len();
                wrong.extend(try_all(&lab, name, &sample));
            });
        }
    }
    wrong.truncate(20);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    crate::referee::checked(
        &format!("policy-walk-{cni}"),
        &format!("{count} connections"),
    );
    Some(count)
}

/// Calico routes to every address, so the suites' own addresses are kept.
#[test]
fn rows_of_the_suites_under_calico() {
    if let Some(count) = walk(Cni::Calico, 4, |_, row| Some(row.allowed), false) {
        assert!(count > 1_000, "a sample of {count}");
    }
}

/// kindnet gives addresses itself, so blocks of addresses mean other pods than in the suites: what is expected is
/// what the policies mean then.
#[test]
fn rows_of_the_suites_under_kindnet() {
    let expect = |lab: &Lab, row: &Row| {
        let policies = Policies::new(Arc::new(lab.objects.clone()));
        let ip = |name: &str| -> Option<IpAddr> {
            name.parse().ok().or_else(|| {
                let (space, own) = name.split_once('/')?;
                let key =
                    podwire_models::base::ObjectKey::new(space.parse().ok()?, own.parse().ok()?);
                lab.objects.pods.get(&key)?.pod_ips.first().copied()
            })
        };
        // Behind a Service there may be several pods.
        let (from, to) = (ip(&row.source)?, ip(&row.destination)?);
        let flow = Flow::Port(row.protocol, row.port);
        let verdict = policies.verdict(&policies.party(from), &policies.party(to), flow);
        Some(verdict.allowed())
    };
    if let Some(count) = walk(Cni::Kindnet, 12, expect, true) {
        assert!(count > 500, "a sample of {count}");
    }
}
