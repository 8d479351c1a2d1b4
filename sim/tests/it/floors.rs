//! A module of the simulator uses lower floors only; modules of one floor do not use each other.

use std::fs;

use crate::tree;

const FLOORS: &[&[&str]] = &[
    &["engine", "limits"],
    &["problem"],
    &["source"],
    &["trace"],
    &["controllers", "cost", "fault", "reach", "traffic"],
    &["simulation"],
    &["program"],
    &["lab"],
    &["flat", "materialize"],
    &["manifest"],
    &["render", "scenario"],
    &["attempt"],
    &["tool", "why"],
    &["story"],
    &["bench", "selftest"],
    &["cli"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
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
        .filter(|(_, other)| *other >= own)
        .map(|(name, other)| format!("{module} (floor {own}) uses {name} (floor {other})"))
        .collect()
}

#[test]
fn nobody_looks_up() {
    let mut wrong = Vec::new();
    let files: Vec<String> = tree::files_with(".rs")
        .into_iter()
        .filter(|path| path.starts_with("sim/src/"))
        .collect();
    for path in &files {
        let inside = path.trim_start_matches("sim/src/");
        let first = inside.split('/').next().unwrap_or(inside);
        if matches!(first, "lib.rs" | "main.rs") {
            continue;
        }
        let module = first.trim_end_matches(".rs");
        let text = fs::read_to_string(tree::root().join(path)).unwrap();
        for (n, line) in text.lines().enumerate() {
            for complaint in complaints(module, line) {
                wrong.push(format!("{path}:{}: {complaint}", n + 1));
            }
        }
    }
    assert!(files.len() > 20, "the scan found the sources");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_what_it_must() {
    assert_eq!(
        complaints("engine", "use crate::trace::Trace;"),
        ["engine (floor 0) uses trace (floor 3)"]
    );
    assert_eq!(
        complaints("render", "let x = crate::scenario::read();"),
        ["render (floor 10) uses scenario (floor 10)"]
    );
    assert!(complaints("trace", "use crate::source::OriginTable; // not crate::cli").is_empty());
    assert_eq!(complaints("attic", ""), ["attic stands on no floor"]);
}
