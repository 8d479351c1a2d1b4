//! `podwire diff`: what a change of manifests changes in who may talk to whom.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use podwire_models::api::{Kind, ObjectRef};
use podwire_models::base::{Namespace, ObjectName};
use podwire_models::control::policy::Connections;
use serde_json::{Value, json};

use super::explain::pretty;
use super::input::{Edits, Options, Session};
use super::reach::{not_enforced, set_json};
use super::{Done, Exit, Report};
use crate::reach::diff::{Change, Difference};
use crate::reach::{Filter, Peer, Reachability};

const EXAMPLES: &str = "\
Examples:
  podwire diff main/ branch/
  podwire diff cluster.yaml --apply policy.yaml
  podwire diff cluster.yaml --delete netpol/shop/deny-all --exit-code
  podwire diff main/ branch/ -o md > comment.md

Exit codes: 0; with --exit-code 1 if something changed; 2 if the input is wrong.";

/// Show which connections a change of manifests allows or denies that it did not before
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DiffArgs {
    /// The objects before: a file, a directory, or `-`
    #[arg(value_name = "BEFORE")]
    before: String,
    /// The objects after [default: those before, with what --apply and --delete do]
    #[arg(value_name = "AFTER", required_unless_present_any = ["apply", "delete"])]
    after: Option<String>,
    /// Objects that are added to the ones after, or take the place of those of the same name
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    apply: Vec<String>,
    /// An object that is taken out of the ones after, as `netpol/NS/NAME` or `anp/NAME`
    #[arg(long, value_name = "OBJECT", value_parser = object)]
    delete: Vec<ObjectRef>,
    /// End with exit code 1 if something changed
    #[arg(long)]
    exit_code: bool,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
    #[command(flatten)]
    options: Options,
}

/// Forms of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For a pull request's comment.
    Md,
}

/// Reads the name of an object.
fn object(text: &str) -> Result<ObjectRef, String> {
    let wrong = || format!("`{text}` is no object such as `netpol/NS/NAME` or `anp/NAME`");
    let (word, rest) = text.split_once('/').ok_or_else(wrong)?;
    let kind = Kind::from_word(word).ok_or_else(wrong)?;
    let name = |text: &str| {
        text.parse::<ObjectName>()
            .map_err(|error| error.to_string())
    };
    if !kind.namespaced() {
        return Ok(ObjectRef::cluster(
            kind,
            name(rest.trim_start_matches('/'))?,
        ));
    }
    let (namespace, own) = rest.split_once('/').ok_or_else(wrong)?;
    let namespace: Namespace = namespace.parse().map_err(|_| wrong())?;
    Ok(ObjectRef {
        kind,
        namespace: Some(namespace),
        name: name(own)?,
    })
}

pub(super) fn run(args: &DiffArgs) -> Done {
    let before = args
        .options
        .settle(std::slice::from_ref(&args.before), &Edits::default())?;
    let edits = Edits {
        apply: args.apply.clone(),
        delete: args.delete.clone(),
    };
    let files = args.after.as_ref().unwrap_or(&args.before);
    let after = args.options.settle(std::slice::from_ref(files), &edits)?;
    let answer = |session: &Session| Reachability::of(&session.lab.objects, &Filter::default());
    let difference = Difference::between(&answer(&before), &answer(&after));
    let stdout = match args.output {
        Output::Text => text(&difference),
        Output::Json => pretty(&as_json(&difference, &after)),
        Output::Md => markdown(&difference),
    };
    Ok(Report {
        stdout,
        stderr: after.warnings().to_owned() + &not_enforced(&after),
        exit: if args.exit_code && !difference.is_empty() {
            Exit::Failed
        } else {
            Exit::Well
        },
    })
}

/// How a pair changed, in a word.
fn word(change: &Change) -> &'static str {
    match (change.before.has_ports(), change.after.has_ports()) {
        (false, _) => "gained",
        (true, false) => "lost",
        (true, true) => "changed",
    }
}

fn says(change: &Change) -> String {
    match word(change) {
        "gained" => change.after.to_string(),
        "lost" => change.before.to_string(),
        _ => {
            let part =
                |sign: &str, set: &Connections| set.has_ports().then(|| format!("{sign} {set}"));
            let parts = [part("+", &change.gained), part("-", &change.lost)];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            let parts = parts.join(", ");
            format!("{parts} (was {}, is {})", change.before, change.after)
        }
    }
}

fn counts(difference: &Difference) -> String {
    let of = |kind: &str| {
        difference
            .changes
            .iter()
            .filter(|c| word(c) == kind)
            .count()
    };
    format!(
        "{} gained, {} lost, {} changed",
        of("gained"),
        of("lost"),
        of("changed")
    )
}

fn text(difference: &Difference) -> String {
    if difference.is_empty() {
        return "nothing changed: the same pairs may talk on the same ports\n".to_owned();
    }
    let mut text = String::new();
    for (sign, peers) in [("+", &difference.added), ("-", &difference.removed)] {
        for peer in peers {
            writeln!(text, "{sign} {peer}").expect("writing to a string");
        }
    }
    for change in &difference.changes {
        let sign = match word(change) {
            "gained" => "+",
            "lost" => "-",
            _ => "~",
        };
        let (from, to, says) = (&change.source, &change.destination, says(change));
        writeln!(text, "{sign} {from} > {to}: {says}").expect("writing to a string");
    }
    writeln!(text, "\nconnections: {}", counts(difference)).expect("writing to a string");
    text
}

fn markdown(difference: &Difference) -> String {
    if difference.is_empty() {
        return "**Network policy:** nothing changes: the same pairs may talk on the same ports.\n"
            .to_owned();
    }
    let mut text = format!(
        "**Network policy:** connections: {}.\n\n",
        counts(difference)
    );
    for (word, peers) in [("new", &difference.added), ("gone", &difference.removed)] {
        if !peers.is_empty() {
            let names: Vec<String> = peers.iter().map(|peer| format!("`{peer}`")).collect();
            writeln!(text, "Workloads {word}: {}.\n", names.join(", "))
                .expect("writing to a string");
        }
    }
    if !difference.changes.is_empty() {
        text.push_str("| | from | to | connections |\n| --- | --- | --- | --- |\n");
    }
    for change in &difference.changes {
        let sign = match word(change) {
            "gained" => "➕",
            "lost" => "➖",
            _ => "✏️",
        };
        let (from, to, says) = (&change.source, &change.destination, says(change));
        writeln!(text, "| {sign} | `{from}` | `{to}` | {says} |").expect("writing to a string");
    }
    text
}

fn as_json(difference: &Difference, session: &Session) -> Value {
    let names = |peers: &[Peer]| -> Vec<String> { peers.iter().map(Peer::to_string).collect() };
    let changes = difference.changes.iter().map(|change| {
        json!({
            "change": word(change),
            "src": change.source.to_string(),
            "dst": change.destination.to_string(),
            "gained": set_json(&change.gained),
            "lost": set_json(&change.lost),
            "before": set_json(&change.before),
            "after": set_json(&change.after),
        })
    });
    json!({
        "schema": "podwire.diff/v1",
        "added": names(&difference.added),
        "removed": names(&difference.removed),
        "changes": changes.collect::<Vec<Value>>(),
        "enforced": session.lab.plan.site.cni.enforces_policies(),
        "not_modelled": session.not_modelled_json(),
        "assumptions": session.assumptions,
    })
}
