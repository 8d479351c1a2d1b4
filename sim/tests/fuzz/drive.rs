//! Runs a target: what once failed, then what is drawn.

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use super::draw::{Draw, changed};

/// Nothing may take longer, unoptimised and on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Failures after which it is enough.
const MOST: usize = 3;

thread_local! {
    /// Whether a panic of this thread is told later, with its input.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
}

pub(crate) fn variable(name: &str) -> Option<u64> {
    let found = std::env::vars().find(|(n, _)| n == name);
    found.map(|(_, value)| value.parse().expect("a number"))
}

fn kept(target: &str, name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&dir).unwrap();
    dir.join(format!("{target}.{name}"))
}

/// What a target says of an input: whether it was accepted.
pub(crate) type Check<'a> = &'a dyn Fn(&str) -> bool;

/// Returns whether the input was accepted, or what broke.
fn tried(target: &str, input: &str, check: Check<'_>) -> Result<bool, String> {
    fs::write(kept(target, "last"), input).unwrap();
    let began = Instant::now();
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(|| check(input)));
    QUIET.set(false);
    let took = began.elapsed();
    match done {
        Ok(_) if took > PATIENCE => Err(format!("it took {took:?}")),
        Ok(accepted) => Ok(accepted),
        Err(panic) => {
            let says = panic.downcast_ref::<String>().cloned();
            let says = says.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(says.unwrap_or_default())
        }
    }
}

/// Takes parts away as long as it still fails.
fn smaller(target: &str, input: String, check: Check<'_>) -> String {
    let mut best = input;
    let mut part = best.len() / 2;
    let until = Instant::now() + PATIENCE;
    while part > 0 && Instant::now() < until {
        let mut at = 0;
        while at < best.len() && Instant::now() < until {
            let end = (at + part).min(best.len());
            let less = [&best.as_bytes()[..at], &best.as_bytes()[end..]].concat();
            match String::from_utf8(less) {
                Ok(less) if tried(target, &less, check).is_err() => best = less,
                Ok(_) | Err(_) => at += part,
            }
        }
        part /= 2;
    }
    best
}

/// Passes `rounds` inputs to a target, or as many as the time of the long form has room for.
pub(crate) fn drive(target: &str, rounds: u64, input: &dyn Fn(u64) -> String, check: Check<'_>) {
    quietly();
    let mut failures = Vec::new();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/cases")
        .join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&cases)
        .map(|dir| dir.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    for file in &files {
        if let Err(says) = tried(target, &fs::read_to_string(file).unwrap(), check) {
            failures.push(format!("{}: {says}", file.display()));
        }
    }
    let long = variable("PODWIRE_FUZZ_SECONDS").map(Duration::from_secs);
    let first = variable("PODWIRE_FUZZ_SEED").unwrap_or(1);
    let began = Instant::now();
    let (mut inputs, mut accepted) = (0, 0);
    let mut seed = first;
    while failures.len() < MOST && long.map_or(inputs < rounds, |long| began.elapsed() < long) {
        let text = input(seed);
        match tried(target, &text, check) {
            Ok(yes) => accepted += u64::from(yes),
            Err(says) => {
                let text = smaller(target, text, check);
                let file = kept(target, &seed.to_string());
                fs::write(&file, &text).unwrap();
                failures.push(format!("seed {seed}, {}: {says}", file.display()));
            }
        }
        inputs += 1;
        seed += 1;
    }
    let cases = files.len();
    println!("{target}: {inputs} inputs from seed {first} and {cases} cases, {accepted} accepted");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Passes texts that were changed.
pub(crate) fn drive_texts(target: &str, rounds: u64, corpus: &[String], check: Check<'_>) {
    assert!(!corpus.is_empty());
    let input = |seed: u64| {
        let mut draw = Draw::new(seed);
        let text = &corpus[draw.below(corpus.len())];
        changed(text, corpus, &mut draw)
    };
    drive(target, rounds, &input, check);
}
