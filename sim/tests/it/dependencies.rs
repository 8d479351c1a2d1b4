//! What this workspace depends on: licences, sources, and a reason for each direct dependency.

use std::fs;
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use crate::tree;

/// Licence expressions somebody has read.
const LICENCES: &[&str] = &[
    "(MIT OR Apache-2.0) AND Unicode-3.0",
    "Apache-2.0",
    "Apache-2.0 OR MIT",
    "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
    "BSD-2-Clause OR Apache-2.0 OR MIT",
    "MIT",
    "MIT OR Apache-2.0",
    "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
    "MIT/Apache-2.0",
    "Unlicense OR MIT",
    "Unlicense/MIT",
    "Zlib",
];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The models are pure: whatever they depend on is here, and nothing of it reads, waits or draws.
const MODELS: &[&str] = &[
    "data-encoding",
    "hashbrown",
    "indexmap",
    "ipnet",
    "rustc-hash",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
];

/// Returns the packages that are built on this machine: no others need to be present without a network.
fn metadata() -> Metadata {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let told = String::from_utf8(rustc.stdout).unwrap();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    let options = ["--offline", "--locked", "--filter-platform", host.unwrap()];
    MetadataCommand::new()
        .manifest_path(tree::root().join("Cargo.toml"))
        .other_options(options.map(str::to_owned))
        .exec()
        .unwrap()
}

fn package<'a>(metadata: &'a Metadata, name: &str) -> &'a Package {
    let found = metadata.packages.iter().find(|p| p.name.as_str() == name);
    found.unwrap()
}

fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_licence_is_known() {
    let metadata = metadata();
    assert!(
        metadata.packages.len() > 20,
        "there are packages to look at"
    );
    let wrong: Vec<String> = metadata
        .packages
        .iter()
        .filter(|p| !p.license.as_deref().is_some_and(|l| LICENCES.contains(&l)))
        .map(|p| format!("{} has the licence {:?}", p.name, p.license))
        .collect();
    nothing_wrong(&wrong);
}

/// Returns the sources of a lock file that are not the registry.
fn strange_sources(lock: &str) -> Vec<String> {
    lock.lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .filter(|source| source.trim_matches('"') != REGISTRY)
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn everything_comes_from_the_registry_or_from_here() {
    let lock = fs::read_to_string(tree::root().join("Cargo.lock")).unwrap();
    assert!(lock.contains("source = "), "there are sources to look at");
    nothing_wrong(&strange_sources(&lock));
    assert_eq!(
        strange_sources("source = \"git+https://example.org/x\"").len(),
        1
    );
    for package in metadata().workspace_packages() {
        assert!(package.source.is_none(), "{} is a path", package.name);
    }
}

#[test]
fn the_models_depend_on_what_is_documented_and_no_more() {
    let metadata = metadata();
    let mut found: Vec<&str> = package(&metadata, "podwire-models")
        .dependencies
        .iter()
        .filter(|d| d.kind == DependencyKind::Normal)
        .map(|d| d.name.as_str())
        .collect();
    found.sort_unstable();
    assert_eq!(found, MODELS);
}

/// Returns name and reason of each row of the tables in `page`.
fn rows(page: &str) -> Vec<(&str, &str)> {
    page.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once('`')?;
            let reason = rest.trim_end_matches('|').rsplit(" | ").next()?.trim();
            Some((name, reason))
        })
        .collect()
}

#[test]
fn every_direct_dependency_has_a_reason() {
    let page = fs::read_to_string(tree::root().join("docs/dependencies.md")).unwrap();
    let rows = rows(&page);
    let metadata = metadata();
    let direct: Vec<&str> = ["podwire-models", "podwire"]
        .iter()
        .flat_map(|name| &package(&metadata, name).dependencies)
        .map(|d| d.name.as_str())
        .filter(|name| *name != "podwire-models")
        .collect();
    let mut wrong = Vec::new();
    for name in &direct {
        match rows.iter().find(|(row, _)| row == name) {
            None => wrong.push(format!("docs/dependencies.md has no row for {name}")),
            Some((_, reason)) if reason.len() < 15 => wrong.push(format!("{name} has no reason")),
            Some(_) => {}
        }
    }
    for (name, _) in &rows {
        if !direct.contains(name) {
            wrong.push(format!(
                "docs/dependencies.md has a row for {name}, which nobody uses"
            ));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_direct_dependency_is_used() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for (name, folder) in [("podwire-models", "models/"), ("podwire", "sim/")] {
        let sources: String = tree::files_with(".rs")
            .iter()
            .filter(|path| path.starts_with(folder) && !path.ends_with("it/dependencies.rs"))
            .map(|path| fs::read_to_string(tree::root().join(path)).unwrap())
            .collect();
        for dependency in &package(&metadata, name).dependencies {
            let word = dependency.name.replace('-', "_");
            let here = word == "cargo_metadata";
            let used = [format!("{word}::"), format!("use {word}")];
            if !here && !used.iter().any(|use_of| sources.contains(use_of)) {
                wrong.push(format!("{name} does not use {}", dependency.name));
            }
        }
    }
    nothing_wrong(&wrong);
}
