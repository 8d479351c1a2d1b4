//! The shape of the repository: what every file must begin with, what no file may say, what must not lie around.

use std::fs;
use std::path::Path;

use podwire_models::wire::Code;

use crate::tree;

/// What may lie in the root, besides names with a leading dot.
const TOP_LEVEL: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "docs",
    "models",
    "scenarios",
    "sim",
    "snapshots",
    "target",
];

/// Words in two halves, so that this file does not contain them.
const BANNED: &[(&str, &str)] = &[
    ("to", "do!("),
    ("unimpl", "emented!("),
    ("FIX", "ME"),
    ("db", "g!("),
    ("work", "tree"),
    ("/wo", "rk/"),
    ("LEAD", "-NOTE"),
    ("the le", "ad writes"),
    ("this ses", "sion"),
    ("/home", "/"),
];

/// Only tests may look at recordings beside the repository.
const BANNED_OUTSIDE_TESTS: (&str, &str) = ("../sha", "red");

fn read(path: &str) -> String {
    let bytes = fs::read(tree::root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Fails with all complaints at once.
fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The table of `docs/fidelity.md` names tests that are there, and each part once.
#[test]
fn the_parts_that_referees_check_are_known() {
    let mut keys = std::collections::BTreeSet::new();
    for part in crate::referee::PARTS {
        let test = tree::root().join(part.test);
        assert!(test.exists(), "{}", test.display());
        assert_eq!(part.key.is_empty(), part.referee.is_none());
        assert!(
            part.key.is_empty() || keys.insert(part.key),
            "{} twice",
            part.key
        );
    }
    crate::referee::rows();
}

#[test]
fn every_source_file_says_what_it_is() {
    let files = tree::files_with(".rs");
    assert!(files.len() > 100, "the scan found the sources");
    let silent: Vec<String> = files
        .into_iter()
        .filter(|path| !read(path).starts_with("//! "))
        .map(|path| format!("{path} does not begin with `//! `"))
        .collect();
    nothing_wrong(&silent);
}

#[test]
fn nothing_lies_around_in_the_root() {
    let strangers: Vec<String> = tree::top_level()
        .into_iter()
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .map(|name| format!("{name} does not belong in the root"))
        .collect();
    nothing_wrong(&strangers);
}

/// Returns what `text` says and must not.
fn banned_in(path: &str, text: &str) -> Vec<String> {
    let mut words: Vec<String> = BANNED.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let is_test = path.contains("/tests/") || path.starts_with("docs/contributing");
    if !is_test {
        words.push(format!(
            "{}{}",
            BANNED_OUTSIDE_TESTS.0, BANNED_OUTSIDE_TESTS.1
        ));
    }
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(n, line)| {
            let said = words
                .iter()
                .filter(move |word| line.contains(word.as_str()));
            said.map(move |word| format!("{path}:{}: `{word}`", n + 1))
        })
        .collect()
}

#[test]
fn no_file_says_what_none_should() {
    let mut wrong = Vec::new();
    for end in [".rs", ".md", ".toml", ".ron", ".yaml", ".snap", "/run"] {
        for path in tree::files_with(end) {
            wrong.extend(banned_in(&path, &read(&path)));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn banned_words_are_seen() {
    let text = format!("fine\nlet x = {}{});", "to", "do!(");
    assert_eq!(banned_in("sim/src/x.rs", &text).len(), 1);
    let path = format!("see {}{}/facts", "../sha", "red");
    assert_eq!(banned_in("sim/src/x.rs", &path).len(), 1);
    assert!(banned_in("sim/tests/it/x.rs", &path).is_empty());
}

#[test]
fn every_code_has_a_row() {
    let page = read("docs/trace.md");
    let missing: Vec<String> = Code::ALL
        .iter()
        .filter(|code| !page.contains(&format!("| `{code}` |")))
        .map(|code| format!("docs/trace.md has no row for {code}"))
        .collect();
    nothing_wrong(&missing);
}

/// Returns what a scenario's first comment lacks.
fn untold(text: &str) -> Vec<&'static str> {
    let comment: String = text
        .lines()
        .take_while(|line| line.starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    ["// Question:", "// Answer:", "// Source:"]
        .into_iter()
        .filter(|word| !comment.contains(word))
        .collect()
}

#[test]
fn every_scenario_begins_with_its_question() {
    let mut wrong = Vec::new();
    let asking = |path: &String| is_scenario(path) && !path.starts_with(REFUSED);
    for path in asked().into_iter().filter(asking) {
        for word in untold(&read(&path)) {
            wrong.push(format!("{path} does not begin with `{word}`"));
        }
    }
    nothing_wrong(&wrong);
    let late = "// Question: a\n// Answer: b\nScenario()\n// Source: c";
    assert_eq!(untold(late), ["// Source:"]);
}

/// Files that must be refused: their snapshot is what is said about them, and they need not be well-formed.
const REFUSED: &str = "scenarios/problems/";

fn is_scenario(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|end| end == "ron")
}

/// Returns the files that must have a snapshot: scenarios, and whatever must be refused.
fn asked() -> Vec<String> {
    let files = tree::files_with("").into_iter();
    files
        .filter(|path| path.starts_with("scenarios/"))
        .filter(|path| is_scenario(path) || path.starts_with(REFUSED))
        .collect()
}

/// Returns what has no counterpart: questions without a snapshot, snapshots without a question.
fn unpaired(asked: &[String], snapshots: &[String]) -> Vec<String> {
    let stem = |path: &String| {
        let inside = path.split_once('/').map_or("", |(_, inside)| inside);
        let end = inside
            .rfind('.')
            .filter(|dot| !inside[*dot..].contains('/'));
        inside[..end.unwrap_or(inside.len())].to_owned()
    };
    let questions: Vec<String> = asked.iter().map(stem).collect();
    let answers: Vec<String> = snapshots.iter().map(stem).collect();
    let lonely = questions.iter().filter(|name| !answers.contains(name));
    let orphans = answers.iter().filter(|name| !questions.contains(name));
    lonely
        .map(|name| format!("scenarios/{name} has no snapshot"))
        .chain(orphans.map(|name| format!("snapshots/{name} has no scenario")))
        .collect()
}

#[test]
fn scenarios_and_snapshots_come_in_pairs() {
    let snapshots = tree::files_with(".snap").into_iter();
    let snapshots: Vec<String> = snapshots.filter(|p| p.starts_with("snapshots/")).collect();
    nothing_wrong(&unpaired(&asked(), &snapshots));
    let a = ["scenarios/dns/a.ron".to_owned()];
    let b = ["snapshots/dns/b.snap".to_owned()];
    assert_eq!(unpaired(&a, &b).len(), 2);
}

/// Returns the paths that a page names in backquotes: those with a slash and a known ending, or ending in a slash.
fn named_paths(page: &str) -> Vec<&str> {
    page.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            word.trim_end_matches('/').contains('/')
                && !word.contains(['<', '*', ' ', '{', ':', '\n'])
        })
        .filter(|word| {
            word.ends_with('/') || word.rsplit('/').next().is_some_and(|n| n.contains('.'))
        })
        .collect()
}

#[test]
fn pages_name_only_files_that_exist() {
    let mut wrong = Vec::new();
    for page in [
        "docs/architecture.md",
        "docs/contributing.md",
        "docs/fidelity.md",
        "README.md",
    ] {
        let text = read(page);
        for path in named_paths(&text) {
            if !tree::root().join(path).exists() {
                wrong.push(format!("{page} names {path}, which does not exist"));
            }
        }
    }
    nothing_wrong(&wrong);
    let named = named_paths("`models/src/` has `sim/src/a.rs`, not `x/y` or `scenarios/*/a.ron`");
    assert_eq!(named, ["models/src/", "sim/src/a.rs"]);
}

/// Returns the files directly under a source folder, without the roots of crates and folders.
fn rooms(crate_dir: &str) -> Vec<String> {
    let src = tree::root().join(crate_dir).join("src");
    let mut rooms: Vec<String> = fs::read_dir(src)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !matches!(name.as_str(), "lib.rs" | "main.rs"))
        .collect();
    rooms.sort();
    rooms
}

#[test]
fn the_map_shows_every_room() {
    let page = read("docs/architecture.md");
    let mut wrong = Vec::new();
    for (crate_dir, rooms) in [("models", rooms("models")), ("sim", rooms("sim"))] {
        for room in rooms {
            let file = format!("`{crate_dir}/src/{room}`");
            let folder = format!("`{crate_dir}/src/{room}/`");
            if !page.contains(&file) && !page.contains(&folder) {
                wrong.push(format!(
                    "docs/architecture.md does not show {crate_dir}/src/{room}"
                ));
            }
        }
    }
    nothing_wrong(&wrong);
}
