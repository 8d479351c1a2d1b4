//! Manifests of real applications and of the reference cases are read without a problem, and
//! nothing in them is skipped in silence.

use std::path::{Path, PathBuf};

use podwire::manifest::{self, Manifests, load};
use podwire::problem::{Sources, render};
use podwire::source::OriginTable;

/// The directory of reference cases, or `None` (said aloud) if it is not there.
fn oracle() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    #[allow(
        clippy::disallowed_methods,
        reason = "where the reference cases are is no part of a result"
    )]
    let named = std::env::var("PODWIRE_ORACLE").unwrap_or_else(|_| "../shared/oracle".to_owned());
    let path = workspace.join(named);
    if !path.is_dir() {
        println!(
            "skipped: {} is not there (PODWIRE_ORACLE names it)",
            path.display()
        );
        return None;
    }
    Some(path)
}

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

#[test]
fn real_applications_are_read() {
    let Some(oracle) = oracle() else { return };
    let real = oracle.parent().unwrap().join("real");
    for (name, objects, services) in [("online-boutique", 37, 12), ("sock-shop", 29, 14)] {
        let (all, origins, problems) = read(&real.join(name));
        assert_eq!(problems, "", "{name}");
        let mut list: Vec<String> = all
            .not_modelled
            .iter()
            .map(|gap| {
                format!(
                    "{} {} {}: {}",
                    origins.text(gap.origin),
                    gap.object,
                    gap.what,
                    gap.why
                )
            })
            .collect();
        list.extend(all.ignored.iter().map(|gone| {
            format!(
                "{} {}: {}",
                origins.text(gone.origin),
                gone.object,
                gone.why
            )
        }));
        println!("{name}\n{}", list.join("\n"));
        assert!(
            all.objects.len() >= objects,
            "{name}: {}",
            all.objects.len()
        );
        let found = all
            .objects
            .iter()
            .filter(|object| matches!(object, podwire_models::api::Object::Service(_)));
        assert_eq!(found.count(), services, "{name}");
    }
}

#[test]
fn reference_cases_are_read() {
    let Some(oracle) = oracle() else { return };
    let cases = files_below(&oracle, "objects.yaml");
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
