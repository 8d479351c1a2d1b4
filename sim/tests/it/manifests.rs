//! Manifests of real applications and of the reference cases are read without a problem, and
//! nothing in them is skipped in silence.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use podwire::manifest::{self, Manifests, load};
use podwire::problem::{Sources, render};
use podwire::source::OriginTable;
use podwire_models::api::Object;

/// Reads a file or directory, and returns what was read, the places, and the problems as text.
pub(crate) fn read(path: &Path) -> (Manifests, OriginTable, String) {
    let (sources, mut problems) = load::load(&[path.to_string_lossy()]);
    let mut origins = OriginTable::default();
    let (all, found) = manifest::read(&sources, &mut origins);
    problems.extend(found);
    let mut texts = Sources::default();
    for source in &sources {
        texts.add(source.name.clone(), source.text.clone());
    }
    (all, origins, render(&problems, &texts))
}

fn files_below(path: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            found.extend(files_below(&entry, name));
        } else if entry.file_name().is_some_and(|file| file == name) {
            found.push(entry);
        }
    }
    found
}

/// Reads a real application: how many objects and Services, what is not modelled, what is ignored.
fn application(name: &str) -> Option<(usize, usize, BTreeSet<String>, BTreeSet<String>)> {
    let (all, origins, problems) = read(&crate::handbook(&format!("real/{name}"))?);
    assert_eq!(problems, "");
    assert!(
        all.not_modelled
            .iter()
            .all(|gap| origins.text(gap.origin).contains(".yaml:"))
    );
    let services = all
        .objects
        .iter()
        .filter(|object| matches!(object, Object::Service(_)));
    let gaps = all
        .not_modelled
        .iter()
        .map(|gap| gap.what.clone())
        .collect();
    let ignored = all
        .ignored
        .iter()
        .map(|gone| gone.kind.to_string())
        .collect();
    Some((all.objects.len(), services.count(), gaps, ignored))
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(ToString::to_string).collect()
}

const PROBES: [&str; 2] = [
    "Deployment.spec.template.spec.containers.livenessProbe",
    "Deployment.spec.template.spec.containers.readinessProbe.httpGet.path",
];

#[test]
fn online_boutique_is_read() {
    let Some(found) = application("online-boutique") else {
        return;
    };
    let [live, ready] = PROBES;
    let gaps = set(&[live, ready, "sidecar.istio.io/rewriteAppHTTPProbers"]);
    assert_eq!(found, (37, 12, gaps, set(&["ServiceAccount"])));
}

#[test]
fn sock_shop_is_read() {
    let Some(found) = application("sock-shop") else {
        return;
    };
    assert_eq!(found, (29, 14, set(&PROBES), set(&[])));
}

#[test]
fn reference_cases_are_read() {
    let Some(folder) = crate::handbook("oracle") else {
        return;
    };
    let cases = files_below(&folder, "objects.yaml");
    assert!(!cases.is_empty());
    let mut bad = Vec::new();
    for case in &cases {
        let (all, _, problems) = read(case);
        if problems.contains("error[") || all.objects.is_empty() {
            bad.push(format!("{}\n{problems}", case.display()));
        }
    }
    assert!(
        bad.is_empty(),
        "{} of {} cases\n{}",
        bad.len(),
        cases.len(),
        bad.join("\n")
    );
}

/// Reads a text that has no problems.
fn fine(text: &str) -> Manifests {
    let sources = [podwire::source::Source::new("x.yaml", text)];
    let (all, problems) = manifest::read(&sources, &mut OriginTable::default());
    assert_eq!(problems, []);
    all
}

#[test]
fn a_service_is_read_with_the_defaults_of_the_api_server() {
    let all = fine(
        "{apiVersion: v1, kind: ServiceList, items: [{metadata: {name: web}, spec: {\
         selector: {app: web}, clusterIP: \"fd00::a\", sessionAffinity: ClientIP, \
         ports: [{port: 80}, {name: b, port: 81, targetPort: http, protocol: UDP}]}}]}"
            .replace("{port: 80}", "{name: a, port: 80}")
            .as_str(),
    );
    let [Object::Service(service)] = all.objects.as_slice() else {
        panic!("one Service")
    };
    assert_eq!(service.key.to_string(), "default/web");
    assert_eq!(
        service.cluster_ips(),
        ["fd00::a".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(service.service_type.to_string(), "ClusterIP");
    assert_eq!(service.external_traffic_policy.to_string(), "Cluster");
    assert!(service.allocate_load_balancer_node_ports);
    let affinity = podwire_models::api::SessionAffinity::ClientIp {
        timeout_seconds: 10_800,
    };
    assert_eq!(service.session_affinity, affinity);
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|port| format!("{}/{} -> {}", port.port, port.protocol, port.target_port))
        .collect();
    assert_eq!(ports, ["80/TCP -> 80", "81/UDP -> http"]);
}

const ENDPOINTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {ports: [{port: 5432}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db}
subsets:
- addresses: [{ip: 192.0.2.1}, {ip: \"2001:db8::1\"}]
  notReadyAddresses: [{ip: 192.0.2.2}]
  ports: [{port: 5432}]
";

#[test]
fn endpoints_of_a_service_without_a_selector_become_slices() {
    let all = fine(ENDPOINTS);
    let slices: Vec<String> = all
        .objects
        .iter()
        .filter_map(|object| {
            if let Object::EndpointSlice(slice) = object {
                Some(slice)
            } else {
                None
            }
        })
        .map(|slice| {
            let ready = slice
                .endpoints
                .iter()
                .map(podwire_models::api::Endpoint::is_ready);
            format!(
                "{} {} {:?}",
                slice.service_name().unwrap(),
                slice.address_type,
                ready.collect::<Vec<_>>()
            )
        })
        .collect();
    assert_eq!(slices, ["db IPv4 [true, false]", "db IPv6 [true]"]);
}

#[test]
fn endpoints_that_nobody_mirrors_are_ignored_aloud() {
    let all = fine(&ENDPOINTS.replace(
        "{ports: [{port: 5432}]}",
        "{selector: {a: b}, ports: [{port: 5432}]}",
    ));
    assert_eq!(all.objects.len(), 1);
    let [gone] = all.ignored.as_slice() else {
        panic!("one, though it would be two slices")
    };
    assert_eq!(&*gone.object, "Endpoints/default/db");
}

#[test]
fn foreign_kinds_are_listed() {
    let all = fine(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: x, namespace: y}}\n---\n\
         {apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: 'system:node'}}",
    );
    assert!(all.objects.is_empty());
    assert_eq!(all.not_modelled[0].what, "CiliumNetworkPolicy (cilium.io)");
    assert_eq!(&*all.not_modelled[0].object, "CiliumNetworkPolicy/y/x");
    assert_eq!(&*all.ignored[0].kind, "ClusterRole");
}
