//! `docs/failures.md` says what the scenarios of `scenarios/failures/` show. `PODWIRE_UPDATE=1` writes it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use podwire::story::run;

use crate::golden::{root, scenarios, story};

const BEGIN: &str = "<!-- made from scenarios/failures -->\n";
const END: &str = "<!-- end -->\n";

/// What the attempts of each probe came to, in the order of their beginnings.
fn measured(path: &std::path::Path) -> String {
    let story = story(path).unwrap();
    let ran = run(&story, story.seed);
    let mut order: Vec<&str> = Vec::new();
    let mut found: BTreeMap<&str, BTreeMap<String, u32>> = BTreeMap::new();
    for attempt in &ran.attempts {
        let name = attempt.probe.as_str();
        if !order.contains(&name) {
            order.push(name);
        }
        let code = attempt
            .ended
            .as_ref()
            .map_or_else(String::new, |(_, code)| format!("`{code}`"));
        let asked = match attempt.queries {
            0 => String::new(),
            queries => format!(" after {queries} queries"),
        };
        *found
            .entry(name)
            .or_default()
            .entry(code + &asked)
            .or_default() += 1;
    }
    let said = order.iter().map(|name| {
        let ends = found[name].iter().map(|(end, times)| match times {
            1 => end.clone(),
            times => format!("{times} × {end}"),
        });
        format!("{name}: {}", ends.collect::<Vec<_>>().join(", "))
    });
    said.collect::<Vec<_>>().join("; ")
}

fn table() -> String {
    let mut paths: Vec<PathBuf> = Vec::new();
    scenarios(&root().join("scenarios/failures"), &mut paths);
    let mut made =
        "| row | scenario | what it shows | how its attempts end |\n|---|---|---|---|\n".to_owned();
    for path in &paths {
        let file = path.file_name().unwrap().to_str().unwrap();
        let row: u32 = file.split_once('-').unwrap().0.parse().unwrap();
        let title = story(path).unwrap().title;
        writeln!(
            made,
            "| {row} | `scenarios/failures/{file}` | {title} | {} |",
            measured(path)
        )
        .unwrap();
    }
    made
}

#[test]
fn the_table_of_failures_is_what_the_scenarios_show() {
    let path = root().join("docs/failures.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (told, after) = rest.split_once(END).unwrap();
    let made = table();
    if std::env::vars().any(|(name, _)| name == "PODWIRE_UPDATE") {
        fs::write(&path, [before, BEGIN, &made, END, after].concat()).unwrap();
        return;
    }
    assert_eq!(told, made, "PODWIRE_UPDATE=1 writes docs/failures.md anew");
}
