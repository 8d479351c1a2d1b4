//! The outcomes of `podwire run --explore`, as text and JSON.

use std::fmt::Write as _;

use podwire_models::wire::Code;
use serde_json::{Value, json};

use crate::story::explore::{Change, Ends, Explored, Outcome};
use crate::traffic::ProbeResult;

pub(super) fn text(title: &str, found: &Explored) -> String {
    let mut said = format!("{title}\n\n");
    let (ways, of) = (found.ways, found.of);
    line(
        &mut said,
        format_args!(
            "{ways} ways: the story as it is, and with up to {} of {of} things changed. Outcomes: {}",
            found.changes,
            found.outcomes.len()
        ),
    );
    for (number, outcome) in (1..).zip(&found.outcomes) {
        let held = if outcome.failed.is_empty() {
            "all that is expected holds"
        } else {
            "FAILS"
        };
        let ways = outcome.ways;
        let plural = if ways == 1 { "way" } else { "ways" };
        line(
            &mut said,
            format_args!("\n{number}. {ways} {plural}: {held}"),
        );
        line(&mut said, format_args!("   witness: {}", witness(outcome)));
        for text in &outcome.failed {
            line(&mut said, format_args!("   FAILS  {text}"));
        }
        for (probe, ends) in words(&outcome.ends) {
            line(&mut said, format_args!("   {probe}: {ends}"));
        }
        line(
            &mut said,
            format_args!("   fingerprint: {}", outcome.fingerprint),
        );
    }
    said
}

pub(super) fn json(path: &str, seed: u64, found: &Explored) -> Value {
    let outcomes: Vec<Value> = found.outcomes.iter().map(json_of).collect();
    json!({
        "path": path,
        "seed": seed,
        "held": found.held(),
        "ways": found.ways,
        "changes": found.changes,
        "outcomes": outcomes,
    })
}

fn json_of(outcome: &Outcome) -> Value {
    let ends: serde_json::Map<String, Value> = outcome
        .ends
        .iter()
        .map(|(probe, ends)| {
            let ends = ends.iter().map(|(result, code)| {
                json!({
                    "result": result.map(ProbeResult::name),
                    "code": code.map(Code::name),
                })
            });
            (probe.clone(), ends.collect())
        })
        .collect();
    let witness: Vec<Value> = outcome
        .witness
        .iter()
        .map(|change| match change {
            Change::Takes(reaction, time) => {
                json!({ "delay": reaction.name(), "ns": u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) })
            }
            Change::AtOnce => json!({ "race": true }),
            Change::InTurn => json!({ "race": false }),
        })
        .collect();
    json!({
        "ways": outcome.ways,
        "witness": witness,
        "failed": outcome.failed,
        "ends": ends,
        "fingerprint": outcome.fingerprint.to_string(),
    })
}

fn witness(outcome: &Outcome) -> String {
    let changes: Vec<String> = outcome.witness.iter().map(ToString::to_string).collect();
    if changes.is_empty() {
        "the story as it is".to_owned()
    } else {
        changes.join(" ")
    }
}

/// How the attempts of each probe end, in words.
fn words(ends: &Ends) -> impl Iterator<Item = (&str, String)> {
    ends.iter().map(|(probe, ends)| {
        let ends = ends.iter().map(|end| match end {
            (Some(result), Some(code)) => format!("{result} ({code})"),
            _ => "never ended".to_owned(),
        });
        (probe.as_str(), ends.collect::<Vec<_>>().join(", "))
    })
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("a String takes everything");
}
