//! `podwire explain`: what a code means, why it happens, what to do about it.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use podwire_models::wire::Code;

use super::choice::Choice;
use super::table;
use super::{Done, Format, Report};
use crate::problem::{ProblemCode, suggestion};

const EXAMPLES: &str = "\
Examples:
  podwire explain SVC_NO_ENDPOINTS
  podwire explain --list
  podwire explain --list -o json | jq -r '.codes[].code'";

/// Say what a code means, why it happens and how to fix it
///
/// Codes are how packets, names and attempts end (`ROUTE_NONE`), and what is wrong with inputs (`MAN_UNKNOWN_FIELD`).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    /// The code, in capital or small letters
    #[arg(required_unless_present = "list", conflicts_with = "list", value_parser = Choice::new(codes, any), hide_possible_values = true)]
    code: Option<String>,
    /// List all codes
    #[arg(long)]
    list: bool,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// A code of either registry.
struct Page {
    code: &'static str,
    meaning: &'static str,
    why_and_fix: Option<(&'static str, &'static str)>,
}

fn codes() -> Vec<&'static str> {
    pages().map(|page| page.code).collect()
}

/// A code that does not exist is answered with the nearest one.
#[expect(
    clippy::unnecessary_wraps,
    reason = "what a parser of arguments looks like"
)]
fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn pages() -> impl Iterator<Item = Page> {
    let outcomes = Code::ALL.iter().map(|code| {
        let page = code.page();
        Page {
            code: code.name(),
            meaning: page.meaning,
            why_and_fix: Some((page.why, page.fix)),
        }
    });
    let problems = ProblemCode::ALL.iter().map(|code| Page {
        code: code.name(),
        meaning: code.meaning(),
        why_and_fix: None,
    });
    outcomes.chain(problems)
}

pub(super) fn run(args: &ExplainArgs) -> Done {
    let Some(wanted) = &args.code else {
        return Ok(Report::well(list(args.output)));
    };
    let page = pages().find(|page| page.code.eq_ignore_ascii_case(wanted));
    let Some(page) = page else {
        let near = suggestion(wanted, pages().map(|page| page.code));
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        return Err(Report::bad_input(format!(
            "there is no code `{wanted}`{near}\n`podwire explain --list` prints all"
        )));
    };
    Ok(Report::well(match args.output {
        Format::Text => page.text(),
        Format::Json => pretty(&page.json()),
    }))
}

fn list(format: Format) -> String {
    match format {
        Format::Text => table::text(
            &["CODE", "MEANING"],
            pages().map(|page| [page.code.to_owned(), page.meaning.to_owned()]),
        ),
        Format::Json => {
            let codes: Vec<_> = pages().map(|page| page.fields()).collect();
            pretty(&json!({ "schema": "podwire.explain/v1", "codes": codes }))
        }
    }
}

impl Page {
    fn text(&self) -> String {
        let mut text = format!("{}\n\n  {}\n", self.code, self.meaning);
        if let Some((why, fix)) = self.why_and_fix {
            write!(
                text,
                "\nWhy it usually happens\n  {why}\n\nWhat to do\n  {fix}\n"
            )
            .expect("a String takes everything");
        }
        text
    }

    fn fields(&self) -> serde_json::Value {
        let (why, fix) = self.why_and_fix.unzip();
        json!({ "code": self.code, "meaning": self.meaning, "why": why, "fix": fix })
    }

    fn json(&self) -> serde_json::Value {
        json!({ "schema": "podwire.explain/v1", "codes": [self.fields()] })
    }
}

/// Returns JSON with line breaks.
pub(super) fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
