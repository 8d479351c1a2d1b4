//! Objects written as manifests and read again are the same objects: `podwire get -o yaml` is an input of every command.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use podwire::lab::{Lab, Plan};
use podwire::manifest::{self, print};
use podwire::source::{OriginTable, Source};
use podwire_models::api::{Object, Objects};

/// Everything that is said about an object, but where it was written.
fn said(object: &impl std::fmt::Debug) -> String {
    let text = format!("{object:#?}");
    let mut parts = text.split("OriginId(");
    let mut said = parts.next().unwrap().to_owned();
    for part in parts {
        said.push_str(part.split_once(')').unwrap().1);
    }
    said
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "problems") {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            found.push(path);
        }
    }
}

/// What can be written of a settled cluster, by name.
fn objects(objects: &Objects) -> BTreeMap<String, (String, Option<serde_json::Value>)> {
    let mut all = BTreeMap::new();
    for object in objects.clone().into_objects() {
        let written = match &object {
            Object::Pod(pod) => Some((said(pod), print::pod(pod))),
            Object::Service(service) => Some((said(service), print::service(service))),
            Object::Node(node) => Some((said(node), print::node(node))),
            Object::NetworkPolicy(policy) => Some((said(policy), print::network_policy(policy))),
            Object::EndpointSlice(slice) => Some((said(slice), print::endpoint_slice(slice))),
            Object::Namespace(_)
            | Object::Workload(_)
            | Object::ClusterPolicy(_)
            | Object::Ingress(_)
            | Object::WebhookConfiguration(_) => None,
        };
        if let Some((said, written)) = written {
            let name = format!(
                "{} {} {}",
                written["kind"], written["metadata"]["namespace"], written["metadata"]["name"]
            );
            all.insert(name, (said, Some(written)));
        }
    }
    all
}

#[test]
fn what_is_written_is_read_again() {
    let mut inputs = Vec::new();
    files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios"),
        &mut inputs,
    );
    inputs.extend(
        ["online-boutique", "sock-shop"]
            .into_iter()
            .filter_map(|name| {
                let directory = crate::handbook(&format!("real/{name}"))?;
                let mut found = Vec::new();
                files(&directory, &mut found);
                found.into_iter().next()
            }),
    );
    let mut count = 0;
    for path in inputs {
        let text = std::fs::read_to_string(&path).unwrap();
        let source = Source::new("input.yaml", text);
        let (manifests, problems) = manifest::read(&[source], &mut OriginTable::default());
        assert!(problems.is_empty(), "{}: {problems:?}", path.display());
        let plan = Plan {
            nodes: 4,
            ..Plan::default()
        };
        let mut lab = Lab::build(manifests.objects.into_iter().collect(), plan);
        for slice in std::mem::take(&mut lab.slices) {
            lab.objects.insert(Object::EndpointSlice(slice));
        }
        let before = objects(&lab.objects);
        let items = before.values().filter_map(|(_, written)| written.clone());
        let yaml = print::text(&print::list(items.collect()));
        let source = Source::new("written.yaml", yaml.clone());
        let (manifests, problems) = manifest::read(&[source], &mut OriginTable::default());
        assert!(
            problems.is_empty(),
            "{}: {problems:?}\n{yaml}",
            path.display()
        );
        let after = objects(&manifests.objects.into_iter().collect());
        assert_eq!(before.len(), after.len(), "{}", path.display());
        for (name, (said, _)) in &before {
            let again = after.get(name).map(|(said, _)| said);
            assert_eq!(again, Some(said), "{name} of {}", path.display());
        }
        count += before.len();
    }
    assert!(count > 300, "{count} objects");
}
