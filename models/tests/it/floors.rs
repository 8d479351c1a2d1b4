//! A module uses the words of its own floor and of lower floors only; modules of one floor do not use each other.

use std::fs;
use std::path::{Path, PathBuf};

const FLOORS: &[&[&str]] = &[
    &["base"],
    &["wire"],
    &["kernel", "api"],
    &["control"],
    &["cluster"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Returns what is wrong with one line of a file of `module`.
fn complaints(module: &str, line: &str) -> Vec<String> {
    let Some(own) = floor(module) else {
        return vec![format!("{module} stands on no floor")];
    };
    let code = line.split("//").next().unwrap_or("");
    let used = code.split("crate::").skip(1).map(|rest| {
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        &rest[..end]
    });
    used.filter(|name| *name != module)
        .filter_map(|name| floor(name).map(|other| (name, other)))
        .filter_map(|(name, other)| match other.cmp(&own) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => {
                Some(format!("{module} (floor {own}) looks sideways at {name}"))
            }
            std::cmp::Ordering::Greater => Some(format!(
                "{module} (floor {own}) looks up at {name} (floor {other})"
            )),
        })
        .collect()
}

#[test]
fn nobody_looks_up() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let inside = file.strip_prefix(&src).unwrap();
        let first = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy();
        if first == "lib.rs" {
            continue;
        }
        let module = first.trim_end_matches(".rs").to_owned();
        for (n, line) in fs::read_to_string(file).unwrap().lines().enumerate() {
            for complaint in complaints(&module, line) {
                wrong.push(format!("{}:{}: {complaint}", inside.display(), n + 1));
            }
        }
    }
    assert!(files.len() > 20, "the scan found the sources");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_what_it_must() {
    assert_eq!(
        complaints("wire", "use crate::kernel::Netns;"),
        ["wire (floor 1) looks up at kernel (floor 2)"]
    );
    assert_eq!(
        complaints("kernel", "let x = crate::api::Pod;"),
        ["kernel (floor 2) looks sideways at api"]
    );
    assert!(complaints("kernel", "use crate::wire::Packet; // not crate::cluster").is_empty());
    assert_eq!(complaints("attic", ""), ["attic stands on no floor"]);
}
