//! Bad input of every sort, given to the program itself: it must say what is wrong and where, end with 2, in bounded
//! memory and time, and never panic. `docs/reliability.md` counts it.
//!
//! `PODWIRE_HOSTILE_FULL` makes the inputs as large as they can be.

#![allow(clippy::format_push_string, clippy::format_collect, reason = "tests")]

mod ends;
mod files;
mod manifests;
mod scenarios;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Memory the program may have, in KiB of addresses.
const MEMORY: u64 = 6 << 20;

/// Seconds it may take: the machine may be busy with other tests, and nothing is optimised.
const SECONDS: u64 = 600;

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: main, image: web, ports: [{containerPort: 80}]}]}
";

fn full() -> bool {
    std::env::vars().any(|(name, _)| name == "PODWIRE_HOSTILE_FULL")
}

/// A directory for one test, empty.
fn directory(test: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("hostile")
        .join(test);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Runs a line of shell in a directory, where `podwire` is the program.
fn shell(dir: &Path, line: &str) -> Output {
    println!("tried: {line}");
    let program = env!("CARGO_BIN_EXE_podwire");
    let script = format!(
        "ulimit -v {MEMORY}; podwire() {{ timeout -s KILL {SECONDS} {program} \"$@\"; }}; {line}"
    );
    Command::new("bash")
        .args(["-c", &script])
        .current_dir(dir)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// How a refusal must look.
fn refused(what: &str, done: &Output, says: &str) {
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    let err_start: String = err.chars().take(2000).collect();
    assert_eq!(done.status.code(), Some(2), "{what}: {err_start}");
    assert_eq!(out, "", "{what}");
    assert!(err.contains(says), "{what}: {err_start}");
    assert!(err.starts_with("error"), "{what}: {err_start}");
    let unsafe_letter = |c: &char| {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || c.is_control() && !matches!(c, '\n' | '\t')
    };
    let found = err.chars().find(unsafe_letter);
    assert_eq!(
        found, None,
        "{what} sends this to the terminal: {err_start}"
    );
}

fn well(what: &str, done: &Output) {
    let err: String = text(&done.stderr).chars().take(2000).collect();
    assert_eq!(done.status.code(), Some(0), "{what}: {err}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
