//! `podwire selftest`: whether podwire does on this machine what it did on ours.

use std::fmt::Write as _;

use clap::Args;

use super::progress::Progress;
use super::{Exit, Format, Report};
use crate::bench::{self, Sizes, meter::Meter};
use crate::selftest::{CASES, Case, Failed};

const EXAMPLES: &str = "\
Examples:
  podwire selftest
  podwire selftest --seconds 5
  podwire selftest -o json | jq .failed";

/// Check that podwire does on this machine what it did on others
///
/// First the scenarios inside the program: what they expect holds, and each has the fingerprint that was recorded when podwire
/// was built. Then, until the time is up, scenarios and packets with ever new seeds, each twice: the same seed must give the same
/// bytes. Exit code 3 if anything differs: that is a defect.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SelftestArgs {
    /// How long to go on with new seeds
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    seconds: u32,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// What was found.
#[derive(Default)]
struct Found {
    recorded: u64,
    twice: u64,
    failed: Vec<String>,
}

impl Found {
    fn note(&mut self, case: &str, outcome: Result<(), impl std::fmt::Display>) {
        if let Err(failed) = outcome {
            self.failed.push(format!("{case}: {failed}"));
        }
    }
}

pub(super) fn run(args: &SelftestArgs) -> Report {
    let mut progress = Progress::new();
    let mut found = Found::default();
    for case in CASES {
        progress.say(format_args!("{} as recorded", case.name));
        found.note(case.name, case.as_recorded());
        found.recorded += 1;
    }
    let clock = Meter::start();
    let mut seed = 0;
    while clock.wall_seconds() < f64::from(args.seconds) {
        seed += 1;
        for case in CASES {
            progress.say(format_args!("{} twice with seed {seed}", case.name));
            found.note(case.name, case.twice(seed));
            found.twice += 1;
        }
        progress.say(format_args!("packets twice with seed {seed}"));
        found.note("w1", packets(seed));
        found.twice += 1;
    }
    progress.end();
    report(&found, args.output)
}

/// Runs a small `w1` twice.
fn packets(seed: u64) -> Result<(), Failed> {
    let sizes = Sizes {
        packets: 5_000,
        seed,
        ..Sizes::default()
    };
    let run = || bench::w1(&sizes).fingerprint;
    let (one, other) = (run(), run());
    if one == other {
        Ok(())
    } else {
        Err(Failed::Twice { seed, one, other })
    }
}

fn report(found: &Found, output: Format) -> Report {
    let stdout = match output {
        Format::Json => super::explain::pretty(&serde_json::json!({
            "schema": "podwire.selftest/v1",
            "scenarios": CASES.iter().map(|Case { name, .. }| name).collect::<Vec<_>>(),
            "recorded": found.recorded,
            "twice": found.twice,
            "failed": found.failed,
        })),
        Format::Text => {
            let mut text = String::new();
            for failed in &found.failed {
                writeln!(text, "FAILED  {failed}").expect("a String takes everything");
            }
            let (recorded, twice) = (found.recorded, found.twice);
            let failed = found.failed.len();
            writeln!(
                text,
                "{recorded} scenarios compared with what was recorded, {twice} runs repeated, {failed} failed"
            )
            .expect("a String takes everything");
            text
        }
    };
    let (exit, stderr) = if found.failed.is_empty() {
        (Exit::Well, String::new())
    } else {
        let version = env!("CARGO_PKG_VERSION");
        let says = format!(
            "error: podwire {version} does not do here what it did elsewhere: please report the lines above and the machine\n"
        );
        (Exit::Defect, says)
    };
    Report {
        stdout,
        stderr,
        exit,
    }
}
