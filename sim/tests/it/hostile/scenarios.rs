//! Scenarios that are broken, enormous or hostile.

use std::fs;

use super::{directory, full, refused, shell};

/// Commands that read scenarios.
const READERS: [&str; 5] = [
    "run x.ron",
    "run x.ron -o json",
    "get pods -f x.ron",
    "exec node/node-a -f x.ron -- ip addr",
    "trace -f x.ron --from pod/shop/a --to 10.0.0.1:80",
];

fn refuse(test: &str, content: impl AsRef<[u8]>, says: &str) {
    let dir = directory(test);
    fs::write(dir.join("x.ron"), content).unwrap();
    for reader in READERS.iter().take(if full() { 1 } else { READERS.len() }) {
        let done = shell(&dir, &format!("podwire {reader}"));
        if reader.ends_with("json") {
            assert_eq!(done.status.code(), Some(2), "{test}: {reader}");
        } else {
            refused(&format!("{test}: {reader}"), &done, says);
        }
    }
    let judged = shell(&dir, "podwire test x.ron");
    assert_eq!(judged.status.code(), Some(1), "{test}: a verdict");
}

fn scenario(timeline: &str) -> String {
    format!(
        "Scenario(title: \"x\", cluster: Cluster(profile: \"kindnet\", nodes: [Node(name: \"node-a\")]), timeline: [\n{timeline}\n])"
    )
}

fn step(step: &str) -> String {
    scenario(&format!("At(\"1s\", {step}),"))
}

#[test]
fn what_is_no_scenario() {
    refuse("scn zero byte", "Scenario(\0", "FILE_BINARY");
    refuse("scn not utf-8", b"\xff\xfe", "FILE_BINARY");
    refuse("scn empty", "", "FILE_EMPTY");
    refuse("scn mark", "\u{feff}Scenario(", "SCN_SYNTAX");
    refuse("scn open comment", "/*".repeat(1000), "x.ron:1:1");
}

#[test]
fn nested_or_long_without_end() {
    let depth = if full() { 10_000_000 } else { 100_000 };
    for opening in ["(", "[", "{", "Some(", "Scenario(", "/*", "r#"] {
        let text = format!("Scenario(title: {}", opening.repeat(depth));
        refuse(&format!("scn nested {opening:?}"), text, "error[");
    }
    let long = "x".repeat(if full() { 100 << 20 } else { 1 << 20 });
    refuse(
        "scn long title",
        format!("Scenario(title: \"{long}"),
        "SCN_SYNTAX",
    );
    refuse("scn long word", format!("{long}("), "error[SCN_");
    refuse(
        "scn long field",
        format!("Scenario({long}: 1)"),
        "error[SCN_",
    );
    let dir = directory("scn too long");
    let line = "truncate -s 1G x.ron; podwire run x.ron";
    refused("a gigabyte", &shell(&dir, line), "larger than 256 MiB");
    fs::remove_file(dir.join("x.ron")).unwrap();
}

#[test]
fn more_than_can_be_simulated() {
    let to = "from: \"node/node-a\", to: \"10.0.0.1:80\"";
    let probe = |more: &str| step(&format!("Probe(id: \"p\", {to}, {more})"));
    refuse("scn count", probe("count: 4000000000"), "SCN_TOO_MANY");
    refuse(
        "scn count beyond",
        probe("count: 99999999999999999999"),
        "SCN_BAD_VALUE",
    );
    refuse("scn payload", probe("payload: \"2000MB\""), "SCN_TOO_MANY");
    refuse(
        "scn payload beyond",
        probe("payload: \"9999999999999GB\""),
        "SCN_BAD_VALUE",
    );
    refuse(
        "scn timeout",
        probe("timeout: \"99999999999999999s\""),
        "x.ron:2:",
    );
    refuse("scn no time", probe("timeout: \"NaNs\""), "SCN_BAD_VALUE");
    let every = "Every(every: \"1ns\", from: \"0s\", until: \"500000h\", step: Note(text: \"x\")),";
    refuse("scn every", scenario(every), "SCN_TOO_MANY");
    let scale = step("Scale(object: \"deploy/shop/x\", replicas: 4000000000)");
    refuse("scn scale", scale, "SCN_TOO_MANY");
    let count = if full() { 100_000 } else { 6_000 };
    let nodes: String = (0..count)
        .map(|n| format!("Node(name: \"n{n}\"),"))
        .collect();
    let nodes = format!("Scenario(title: \"x\", cluster: Cluster(nodes: [{nodes}]))");
    refuse("scn nodes", nodes, "more than 5000 nodes");
    for command in [
        "ping -c 1000000000 10.0.0.1",
        "traceroute -m 4000000000 10.0.0.1",
        "ping -i 0 10.0.0.1",
    ] {
        let exec = format!("Exec(on: \"node/node-a\", command: {command:?})");
        refuse(&format!("scn {command}"), step(&exec), "SCN_BAD_VALUE");
    }
}

#[test]
fn letters_that_are_not_seen() {
    let id = |id: &str| {
        step(&format!(
            "Probe(id: \"{id}\", from: \"node/node-a\", to: \"10.0.0.1:80\")"
        ))
    };
    for (name, letters) in [
        ("escape", "\\u{1b}[31m"),
        ("bidi", "\\u{202e}"),
        ("zero", "\\u{0}"),
        ("raw bidi", "\u{2066}x\u{2069}"),
        ("mark", "\u{feff}"),
    ] {
        refuse(&format!("scn id {name}"), id(letters), "cannot be seen");
    }
    refuse(
        "scn note",
        step("Note(text: \"\\u{1b}]0;x\\u{7}\")"),
        "cannot be seen",
    );
    refuse(
        "scn title",
        "Scenario(title: \"\\u{9b}31m\")",
        "cannot be seen",
    );
}

#[test]
fn files_it_names() {
    let apply = |file: &str| step(&format!("Apply({file:?})"));
    refuse("scn no file", apply("not-there.yaml"), "x.ron:2:");
    refuse("scn itself", apply("x.ron"), "error[MAN_");
    refuse("scn device", apply("/dev/zero"), "FILE_TOO_LARGE");
    refuse("scn memory", apply("/proc/self/mem"), "FILE_UNREADABLE");
    refuse("scn text", apply("/etc/hostname"), "error[MAN_");
}

#[test]
fn many_mistakes() {
    let many = if full() { 100_000 } else { 3_000 };
    refuse(
        "scn again",
        scenario(
            &"At(\"1s\", Probe(id: \"p\", from: \"node/node-a\", to: \"10.0.0.1:80\")),\n"
                .repeat(many),
        ),
        "SCN_DUPLICATE_NAME",
    );
    refuse(
        "scn fields",
        scenario(&"At(\"1s\", Probe(idd: \"p\")),\n".repeat(many)),
        "SCN_UNKNOWN_FIELD",
    );
    refuse(
        "scn times",
        scenario(&"At(\"soon\", Note(text: \"x\")),\n".repeat(many)),
        "SCN_BAD_VALUE",
    );
}
