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
    "Deployment.spec.template.spec.containers.readinessProbe",
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
