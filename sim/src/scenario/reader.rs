//! Reads a scenario file and reports all of its problems at once, each with its place.
//!
//! RON stops at the first error. Values that cannot be read are therefore collected on the side (`Text`), and an
//! unknown field is blanked out and the text read again. Only what breaks the structure ends the search.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ron::error::{Position, SpannedError};
use ron::extensions::Extensions;
use serde::Deserialize as _;

use super::arguments::{self, Named};
use super::check::check;
use super::file::ScenarioFile;
use super::text::{Mark, reading};
use crate::problem::{Problem, ProblemCode, Spot, suggestion};
use crate::source::{Lines, Origin};

/// More problems than this help nobody, and each takes reading the file once more.
pub(super) const MOST: usize = 50;

/// Reads a scenario file.
///
/// # Errors
/// With all problems of the file that can be seen without looking at anything else.
pub fn read(name: &str, text: &str) -> Result<ScenarioFile, Vec<Problem>> {
    let spans = Spans {
        source: name.into(),
        named: arguments::name(text),
    };
    if arguments::is_blank(text) {
        let problem = Problem::error(ProblemCode::FileEmpty, "the scenario is empty")
            .at(Spot::new(name, 0..0), "nothing here")
            .help("the smallest scenario is `Scenario(title: \"…\")`; `podwire init` writes one");
        return Err(vec![problem]);
    }
    let mut problems = Vec::new();
    let mut named = spans.named.clone();
    let file = loop {
        let (result, bad) = parse(&named.text, None);
        let done = match result {
            Ok(file) => Some(Some(file)),
            Err(error) => {
                let blank = error.blank(&named.text);
                problems.push(error.problem(&spans, &named.text));
                match blank {
                    Some(field) if problems.len() < MOST => {
                        let spaces = " ".repeat(field.len());
                        named.text.replace_range(field, &spaces);
                        None
                    }
                    _ => Some(None),
                }
            }
        };
        if let Some(file) = done {
            let spans = Spans {
                named,
                ..spans.clone()
            };
            problems.extend(
                bad.into_iter()
                    .take(MOST)
                    .map(|(mark, why)| spans.bad(mark, &why)),
            );
            break file;
        }
    };
    match file {
        Some(mut file) if problems.is_empty() => {
            file.spans = spans;
            let problems = check(&file);
            if problems.is_empty() {
                Ok(file)
            } else {
                Err(problems)
            }
        }
        _ => Err(problems),
    }
}

/// Finds again what RON forgets: where a value was written.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    source: Arc<str>,
    named: Named,
}

impl Spans {
    /// Returns where a value was written. Reads the text once more, so this is for problems only.
    pub fn spot(&self, mark: Mark) -> Spot {
        let (result, _) = parse(&self.named.text, Some(mark));
        match result {
            Err(error) => self.at(trimmed(&self.named.text, error.span)),
            Ok(_) => Spot::new(Arc::clone(&self.source), 0..0),
        }
    }

    /// Returns the line in which a value was written. Reads the text once more.
    pub fn origin(&self, mark: Mark) -> Origin {
        let start = match parse(&self.named.text, Some(mark)).0 {
            Err(error) => trimmed(&self.named.text, error.span).start,
            Ok(_) => 0,
        };
        // Names are put in where no line ends, so lines are those of the file.
        let (line, column) = Lines::of(&self.named.text).locate(start);
        Origin {
            source: Arc::clone(&self.source),
            line,
            column,
            object: "".into(),
        }
    }

    /// Returns the whole file.
    pub fn start(&self) -> Spot {
        self.at(0..0)
    }

    /// Returns where bytes of the text with names were in the text without.
    fn at(&self, span: Range<usize>) -> Spot {
        let original = self.named.original(span.start)..self.named.original(span.end);
        Spot::new(Arc::clone(&self.source), original)
    }

    fn bad(&self, mark: Mark, why: &str) -> Problem {
        let (result, _) = parse(&self.named.text, Some(mark));
        let problem = Problem::error(ProblemCode::ScnBadValue, why);
        match result {
            Err(error) => {
                let spot = self.at(trimmed(&self.named.text, error.span));
                with_path(problem.at(spot, "cannot be read"), &error.path)
            }
            Ok(_) => problem,
        }
    }
}

/// An error of RON, with what it leaves out.
struct ReadError {
    error: ron::Error,
    /// In bytes.
    span: Range<usize>,
    /// Which field was being read: `timeline[3].step.from`.
    path: String,
}

/// Reads a text that has all names in place; also returns the values that could not be read.
fn parse(
    text: &str,
    stop_at: Option<Mark>,
) -> (Result<ScenarioFile, ReadError>, Vec<(Mark, String)>) {
    reading(stop_at, || {
        let options = ron::Options::default().with_default_extension(
            Extensions::IMPLICIT_SOME | Extensions::UNWRAP_VARIANT_NEWTYPES,
        );
        let spanned = |error: SpannedError, path: String| ReadError {
            span: bytes(text, error.span.start)..bytes(text, error.span.end),
            error: error.code,
            path,
        };
        let mut ron = ron::Deserializer::from_str_with_options(text, &options)
            .map_err(|error| spanned(error, String::new()))?;
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&mut ron, &mut track);
        let result = ScenarioFile::deserialize(tracked);
        let path = track.path().to_string();
        let file = result.map_err(|error| spanned(ron.span_error(error), path))?;
        let end = ron.end();
        end.map_err(|error| spanned(ron.span_error(error), String::new()))?;
        Ok(file)
    })
}

/// Returns the byte a position of RON means; its lines and columns count characters, from 1.
fn bytes(text: &str, position: Position) -> usize {
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines
        .by_ref()
        .take(position.line.saturating_sub(1))
        .map(str::len)
        .sum();
    let line = lines.next().unwrap_or_default();
    let column = position.col.saturating_sub(1);
    before
        + line
            .char_indices()
            .nth(column)
            .map_or(line.len(), |(at, _)| at)
}

/// Returns the span without quotes and white space around it.
fn trimmed(text: &str, span: Range<usize>) -> Range<usize> {
    let quote = |c: char| c == '"' || c.is_whitespace();
    let inside = text.get(span.clone()).unwrap_or_default();
    let left = inside.trim_start_matches(quote);
    let start = span.end - left.len();
    start..start + left.trim_end_matches(quote).len()
}

impl ReadError {
    /// Returns the field to blank out so that reading can go on, if this is about a field that should not be there.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "RON's errors are an open list"
    )]
    fn blank(&self, text: &str) -> Option<Range<usize>> {
        let found = match &self.error {
            ron::Error::NoSuchStructField { found, .. } => Some(found.as_str()),
            ron::Error::DuplicateStructField { field, .. } => Some(*field),
            _ => None,
        };
        Some(arguments::field(text, self.word(text, found?)?.start))
    }

    /// Returns where a word is at the end of what was just read.
    fn word(&self, text: &str, word: &str) -> Option<Range<usize>> {
        let until = text.get(..self.span.end)?;
        let start = until.rfind(word)?;
        Some(start..start + word.len())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "RON's errors are an open list"
    )]
    fn problem(&self, spans: &Spans, text: &str) -> Problem {
        let spot =
            |word: &str| spans.at(self.word(text, word).unwrap_or_else(|| self.span.clone()));
        let here = || {
            let read = trimmed(text, self.span.clone());
            let next = || arguments::token_from(text, self.span.end);
            let span = if read.is_empty() { next() } else { Some(read) };
            spans.at(span.unwrap_or_else(|| self.span.clone()))
        };
        let inside = |outer: &Option<String>| outer.clone().unwrap_or_else(|| "this".into());
        let value = |title: String| {
            Problem::error(ProblemCode::ScnBadValue, title).at(here(), "found here")
        };
        let problem = match &self.error {
            ron::Error::NoSuchStructField {
                expected,
                found,
                outer,
            } => {
                let title = format!("`{}` has no field `{found}`", inside(outer));
                Problem::error(ProblemCode::ScnUnknownField, title)
                    .at(spot(found), "no such field")
                    .help(instead(found, expected, "the fields are"))
            }
            ron::Error::NoSuchEnumVariant {
                expected,
                found,
                outer,
            } => {
                let title = format!("`{found}` is not one of the words for `{}`", inside(outer));
                Problem::error(ProblemCode::ScnUnknownWord, title)
                    .at(spot(found), "not known here")
                    .help(instead(found, expected, "the words are"))
            }
            ron::Error::ExpectedDifferentStructName { expected, found } => {
                let title = format!("expected `{expected}`, found `{found}`");
                Problem::error(ProblemCode::ScnUnknownWord, title)
                    .at(spot(found), format!("should be `{expected}`"))
            }
            ron::Error::MissingStructField { field, outer } => {
                let title = format!("`{}` needs the field `{field}`", inside(outer));
                Problem::error(ProblemCode::ScnMissingField, title)
                    .at(here(), format!("ends without `{field}`"))
            }
            ron::Error::DuplicateStructField { field, .. } => {
                let title = format!("the field `{field}` is given twice");
                Problem::error(ProblemCode::ScnDuplicateField, title).at(spot(field), "again here")
            }
            ron::Error::Message(message) => value(message.clone()),
            ron::Error::InvalidValueForType { expected, found } => {
                value(format!("expected {expected}, found {found}"))
            }
            ron::Error::IntegerOutOfBounds => value("the number does not fit".into()),
            ron::Error::ExpectedInteger => value("expected a number".into()),
            ron::Error::ExpectedBoolean => value("expected true or false".into()),
            ron::Error::ExpectedString => value("expected a string".into()),
            ron::Error::ExpectedArray => value("expected a list, `[`".into()),
            ron::Error::ExpectedMap => value("expected a map, `{`".into()),
            ron::Error::TrailingCharacters => {
                let title = "something follows the end of the scenario";
                Problem::error(ProblemCode::ScnSyntax, title).at(here(), "not part of it")
            }
            other => {
                let text = other.to_string();
                let mut letters = text.chars();
                let first = letters.next().map(|c| c.to_ascii_lowercase());
                let title: String = first.into_iter().chain(letters).collect();
                Problem::error(ProblemCode::ScnSyntax, title)
                    .at(here(), "not understood")
                    .help("look for a comma or a closing bracket missing before this place")
            }
        };
        with_path(problem, &self.path)
    }
}

fn with_path(problem: Problem, path: &str) -> Problem {
    if !path.contains(['.', '[']) || path.contains('?') || path == "." {
        problem
    } else {
        problem.note(format!("this is `{path}`"))
    }
}

/// Returns what to write instead of a word.
fn instead(found: &str, known: &[&str], all: &str) -> String {
    match suggestion(found, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("{all}: {}", known.join(", ")),
    }
}

/// What the comment at the top of a scenario says: `Question`, `Answer`, `Source`, each with its text.
pub type Heading = BTreeMap<String, String>;

/// Returns the heading of a scenario file. Lines that continue the one above are joined to it.
pub fn heading(text: &str) -> Heading {
    let mut heading = Heading::new();
    let mut last: Option<String> = None;
    for line in text.lines().map_while(|line| line.strip_prefix("//")) {
        let key = line.split_once(": ").filter(|(key, _)| {
            let key = key.trim_start();
            key.chars().next().is_some_and(char::is_uppercase)
                && key.chars().all(char::is_alphabetic)
        });
        if let Some((key, value)) = key {
            let key = key.trim().to_owned();
            heading.insert(key.clone(), value.trim().to_owned());
            last = Some(key);
        } else if let Some(value) = last.as_ref().and_then(|key| heading.get_mut(key)) {
            value.push(' ');
            value.push_str(line.trim());
        }
    }
    heading
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::problem::{Sources, render};
    use crate::scenario::file::{Entry, FaultKind, Step};

    const ALL: &str = r#"
// Question: what do clients see when a Service's selector
//           loses a letter?
// Answer:   refused at once.
Scenario(
    version: 1,
    title: "One letter in a selector empties a Service",
    seed: 1,
    cluster: Cluster(
        profile: "kindnet",
        nodes: [
            Node(name: "node-a", zone: "z1"),
            Node(name: "node-b", zone: "z2", sysctls: { "net.ipv4.ip_forward": "0" }),
        ],
        pod_cidr: "10.244.0.0/16",
        service_cidr: "10.96.0.0/16",
        underlay: Underlay(latency: "100us", bandwidth: "10Gbit", mtu: 1500),
        hosts: [ Host(name: "browser", ip: "203.0.113.9", zone: "internet") ],
    ),
    manifests: ["shop.yaml"],                       // relative to this file
    listen: [ Listen(pods: "app=cart", tcp: [7070], service_time: Fixed("2ms")) ],
    timeline: [
        At("1s",  Probe(id: "before", from: "deploy/shop/frontend", to: "http://cart.shop:7070/")),
        At("2s",  Patch(kind: "Service", name: "shop/cart", set: { "spec.selector.app": "cartt" })),
        At("5s",  Probe(id: "after", from: "deploy/shop/frontend", to: "http://cart.shop:7070/")),
        At("6s",  Fault(id: "cut", LinkDown(from: "node-a", to: "node-b"), for: "10s")),
        At("6s",  Fault(id: "half", LinkDown("node-a", "node-b", one_way: true))),
        At("6s",  Fault(id: "off", NodeDown("node-a"), for: "1s")),
        At("6s",  Fault(id: "kill", PodKill("pod/shop/cart-0"))),
        At("6s",  Fault(id: "fw", Acl(protocol: "udp", port: 8472))),
        At("6s",  Fault(id: "ipf", Sysctl("node/node-a", "net.ipv4.ip_forward", "0"))),
        Every("100ms", from: "7s", until: "9s", Probe(id: "steady", from: "pod/shop/tester", to: "10.244.2.5:80", must: Work)),
        At("20s", Scale("deploy/shop/cart", 4)),
        At("21s", Label("pod/shop/cart-0", { "app": "x", "tier": None })),
        At("22s", Apply("more.yaml")),
        At("23s", Delete("svc/shop/cart")),
        At("24s", Note("the end is near")),
        At("90s", Exec("node/node-a", "conntrack -L")),
    ],
    expect: [
        Outcome(probe: "before", is: Connected),
        Outcome(probe: "after", is: Refused, code: "SVC_NO_ENDPOINTS"),
        Share(probe: "steady", delivered: "0%"),
        Endpoints(service: "shop/cart", at: "5s", ready: 0),
        Touched(fault: "cut", at_least: 1),
        Within(after: "30s", condition: Endpoints(service: "shop/cart", ready: 4), limit: "60s"),
        Always(FlatNetwork),
    ],
)
"#;

    fn problems(text: &str) -> String {
        let mut sources = Sources::default();
        sources.add("a.ron", text);
        render(&read("a.ron", text).unwrap_err(), &sources)
    }

    #[test]
    fn reads_the_whole_language() {
        let file = read("all.ron", ALL).unwrap_or_else(|_| panic!("{}", problems(ALL)));
        assert_eq!(file.timeline.len(), 16);
        let Entry::At {
            step: Step::Fault(fault),
            ..
        } = &file.timeline[4]
        else {
            panic!()
        };
        assert!(matches!(
            fault.fault,
            FaultKind::LinkDown { one_way: true, .. }
        ));
        assert!(fault.lasts.is_none());
        let spot = file.spans.spot(fault.id.mark);
        assert_eq!(ALL.get(spot.start..spot.end), Some("half"));
    }

    #[test]
    fn the_page_about_the_language_is_true() {
        const PAGE: &str = include_str!("../../../docs/scenario.md");
        let examples = PAGE
            .split("```ron\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next());
        for example in examples {
            read("docs/scenario.md", example).unwrap_or_else(|_| panic!("{}", problems(example)));
        }
        let types = [include_str!("file.rs"), include_str!("expect.rs")].concat();
        let field = |line: &str| {
            let (name, _) = line.trim().strip_suffix(',')?.split_once(": ")?;
            let name = name.strip_prefix("pub ").unwrap_or(name);
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            (plain && !["spans", "lasts"].contains(&name)).then(|| name.to_owned())
        };
        let fields: Vec<String> = types.lines().filter_map(field).collect();
        assert!(fields.len() > 60, "{fields:?}");
        let words = arguments::NAMES.iter().map(|(word, _)| (*word).to_owned());
        for wanted in fields.into_iter().chain(words) {
            let mut found = PAGE.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(
                found.any(|word| word == wanted),
                "docs/scenario.md lacks `{wanted}`"
            );
        }
    }

    #[test]
    fn a_heading_is_a_question_and_its_answer() {
        let heading = heading(ALL.trim_start());
        assert_eq!(
            heading["Question"],
            "what do clients see when a Service's selector loses a letter?"
        );
        assert_eq!(heading["Answer"], "refused at once.");
    }

    #[test]
    fn all_problems_at_once() {
        insta::assert_snapshot!(problems(r#"Scenario(
    title: "é", sed: 1,
    cluster: Cluster(
        nodes: [ Node(name: "Ä", zone: "z1", colour: (1, [2])) ],
        underlay: Underlay(latancy: "100us", latency: "100"), pod_cidr: "10.244.1.0/16",
    ),
    timeline: [ At("é 1", Probe(id: "a", from: "cart", to: "svc/shop/cart:0")) ],
)"#), @r#"
        error[SCN_UNKNOWN_FIELD]: `Scenario` has no field `sed`
         --> a.ron:2:17
          |
        2 |     title: "é", sed: 1,
          |                 ^^^ no such field
          |
          = help: did you mean `seed`?

        error[SCN_BAD_VALUE]: `Ä` may not occur in a name: use lower case letters, digits and `-`
         --> a.ron:4:30
          |
        4 |         nodes: [ Node(name: "Ä", zone: "z1", colour: (1, [2])) ],
          |                              ^ cannot be read
          |
          = note: this is `cluster.nodes[0].name`

        error[SCN_UNKNOWN_FIELD]: `Node` has no field `colour`
         --> a.ron:4:46
          |
        4 |         nodes: [ Node(name: "Ä", zone: "z1", colour: (1, [2])) ],
          |                                              ^^^^^^ no such field
          |
          = note: this is `cluster.nodes[0].colour`
          = help: the fields are: name, zone, labels, ip, pod_cidr, kernel, sysctls, nics

        error[SCN_UNKNOWN_FIELD]: `Underlay` has no field `latancy`
         --> a.ron:5:28
          |
        5 |         underlay: Underlay(latancy: "100us", latency: "100"), pod_cidr: "10.244.1.0/16",
          |                            ^^^^^^^ no such field
          |
          = note: this is `cluster.underlay.latancy`
          = help: did you mean `latency`?

        error[SCN_BAD_VALUE]: `100` is not a length of time such as "1500ms" or "5s"
         --> a.ron:5:56
          |
        5 |         underlay: Underlay(latancy: "100us", latency: "100"), pod_cidr: "10.244.1.0/16",
          |                                                        ^^^ cannot be read
          |
          = note: this is `cluster.underlay.latency`

        error[SCN_BAD_VALUE]: `10.244.1.0/16` has bits set behind its prefix: the range is `10.244.0.0/16`
         --> a.ron:5:74
          |
        5 |         underlay: Underlay(latancy: "100us", latency: "100"), pod_cidr: "10.244.1.0/16",
          |                                                                          ^^^^^^^^^^^^^ cannot be read
          |
          = note: this is `cluster.pod_cidr`

        error[SCN_BAD_VALUE]: `é 1` is not a length of time such as "1500ms" or "5s"
         --> a.ron:7:21
          |
        7 |     timeline: [ At("é 1", Probe(id: "a", from: "cart", to: "svc/shop/cart:0")) ],
          |                     ^^^ cannot be read
          |
          = note: this is `timeline[0].At.at`

        error[SCN_BAD_VALUE]: `cart` does not name a sender such as pod/NAMESPACE/NAME, deploy/NAMESPACE/NAME, node/NAME or host/NAME
         --> a.ron:7:49
          |
        7 |     timeline: [ At("é 1", Probe(id: "a", from: "cart", to: "svc/shop/cart:0")) ],
          |                                                 ^^^^ cannot be read
          |
          = note: this is `timeline[0].At.step.Probe.from`

        error[SCN_BAD_VALUE]: `0` is not a port
         --> a.ron:7:61
          |
        7 |     timeline: [ At("é 1", Probe(id: "a", from: "cart", to: "svc/shop/cart:0")) ],
          |                                                             ^^^^^^^^^^^^^^^ cannot be read
          |
          = note: this is `timeline[0].At.step.Probe.to`
        "#);
    }

    #[test]
    fn structure_that_is_broken() {
        insta::assert_snapshot!(problems("Scenario(title: \"a\", timeline: [ At(\"1s\", Prob(id: \"a\")) ])"), @r#"
        error[SCN_UNKNOWN_WORD]: `Prob` is not one of the words for `Step`
         --> a.ron:1:43
          |
        1 | Scenario(title: "a", timeline: [ At("1s", Prob(id: "a")) ])
          |                                           ^^^^ not known here
          |
          = note: this is `timeline[0].At.step`
          = help: did you mean `Probe`?
        "#);
        insta::assert_snapshot!(problems("Scenario(\n    title: \"é\", timeline: [ At(\"1s\", Probe(id: \"a\")) ],\n)"), @r#"
        error[SCN_MISSING_FIELD]: `Probe` needs the field `from`
         --> a.ron:2:51
          |
        2 |     title: "é", timeline: [ At("1s", Probe(id: "a")) ],
          |                                                   ^ ends without `from`
          |
          = note: this is `timeline[0].At.step.Probe`
        "#);
        insta::assert_snapshot!(problems("Scenario(title: \"a\", seed: \"x\")"), @r#"
        error[SCN_BAD_VALUE]: expected a number
         --> a.ron:1:28
          |
        1 | Scenario(title: "a", seed: "x")
          |                            ^^^ found here
        "#);
        insta::assert_snapshot!(problems("Scenario(title: \"a\", seed: 1, seed: 2)"), @r#"
        error[SCN_DUPLICATE_FIELD]: the field `seed` is given twice
         --> a.ron:1:31
          |
        1 | Scenario(title: "a", seed: 1, seed: 2)
          |                               ^^^^ again here
        "#);
        insta::assert_snapshot!(problems("Scenario(title: \"a\"\n    seed: 1)"), @r#"
        error[SCN_SYNTAX]: expected comma
         --> a.ron:2:5
          |
        2 |     seed: 1)
          |     ^^^^ not understood
          |
          = help: look for a comma or a closing bracket missing before this place
        "#);
        insta::assert_snapshot!(problems("Scenario(title: \"a\") x"), @r#"
        error[SCN_SYNTAX]: something follows the end of the scenario
         --> a.ron:1:22
          |
        1 | Scenario(title: "a") x
          |                      ^ not part of it
        "#);
        insta::assert_snapshot!(problems("Scenaro(title: \"a\")"), @r#"
        error[SCN_UNKNOWN_WORD]: expected `Scenario`, found `Scenaro`
         --> a.ron:1:1
          |
        1 | Scenaro(title: "a")
          | ^^^^^^^ should be `Scenario`
        "#);
        insta::assert_snapshot!(problems("// nothing\n"), @r#"
        error[FILE_EMPTY]: the scenario is empty
         --> a.ron:1:1
          |
        1 | // nothing
          | ^ nothing here
          |
          = help: the smallest scenario is `Scenario(title: "…")`; `podwire init` writes one
        "#);
        insta::assert_snapshot!(problems("Scenario(title: \"a\", version: 2)"), @r#"
        error[SCN_VERSION]: version 2 of the language is not known
         --> a.ron:1:1
          |
        1 | Scenario(title: "a", version: 2)
          | ^ in this scenario
          |
          = help: this podwire reads version 1
        "#);
    }

    #[test]
    fn references_inside_the_file() {
        insta::assert_snapshot!(problems(r#"Scenario(
    title: "a",
    cluster: Cluster(
        nodes: [ Node(name: "node-a"), Node(name: "node-a", ip: "172.18.0.9") ],
        hosts: [ Host(name: "web", ip: "172.18.0.9", via: "node-z") ],
        pod_cidr: "10.0.0.0/8", service_cidr: "10.96.0.0/16",
    ),
    timeline: [
        At("1s", Probe(id: "a", from: "node/node-b", to: "10.0.0.1:80")),
        At("1s", Probe(id: "a", from: "host/web", to: "10.0.0.1:80")),
        At("1s", Fault(id: "cut", LinkDown("node-a", "web"))),
        Every("0s", from: "5s", until: "2s", Note("x")),
    ],
    expect: [ Outcome(probe: "b", is: Refused), Touched(fault: "cutt", at_least: 1) ],
)"#), @r#"
        error[SCN_DUPLICATE_NAME]: two machines are called `node-a`
         --> a.ron:4:52
          |
        4 |         nodes: [ Node(name: "node-a"), Node(name: "node-a", ip: "172.18.0.9") ],
          |                              ------ first here     ^^^^^^ again here

        error[SCN_DUPLICATE_ADDRESS]: two machines have the address 172.18.0.9
         --> a.ron:5:41
          |
        4 |         nodes: [ Node(name: "node-a"), Node(name: "node-a", ip: "172.18.0.9") ],
          |                                                                  ---------- first here
        5 |         hosts: [ Host(name: "web", ip: "172.18.0.9", via: "node-z") ],
          |                                         ^^^^^^^^^^ again here

        error[SCN_UNKNOWN_NODE]: there is no node called `node-z`
         --> a.ron:5:60
          |
        5 |         hosts: [ Host(name: "web", ip: "172.18.0.9", via: "node-z") ],
          |                                                            ^^^^^^ no node named `node-z`
          |
          = help: did you mean `node-a`?

        error[SCN_OVERLAPPING_CIDRS]: the ranges of pods and Services overlap
         --> a.ron:6:48
          |
        6 |         pod_cidr: "10.0.0.0/8", service_cidr: "10.96.0.0/16",
          |                    ----------                  ^^^^^^^^^^^^ 10.96.0.0/16 for Services
          |                    |
          |                    10.0.0.0/8 for pods
          |
          = help: give each its own range

        error[SCN_UNKNOWN_NODE]: there is no node called `node-b`
         --> a.ron:9:40
          |
        9 |         At("1s", Probe(id: "a", from: "node/node-b", to: "10.0.0.1:80")),
          |                                        ^^^^^^^^^^^ no node named `node-b`
          |
          = help: did you mean `node-a`?

        error[SCN_DUPLICATE_NAME]: two probes are called `a`
          --> a.ron:10:29
           |
         9 |         At("1s", Probe(id: "a", from: "node/node-b", to: "10.0.0.1:80")),
           |                             - first here
        10 |         At("1s", Probe(id: "a", from: "host/web", to: "10.0.0.1:80")),
           |                             ^ again here

        error[SCN_TIME]: a step that repeats needs time in between
          --> a.ron:12:16
           |
        12 |         Every("0s", from: "5s", until: "2s", Note("x")),
           |                ^^ no time at all

        error[SCN_TIME]: a step ends before it begins
          --> a.ron:12:41
           |
        12 |         Every("0s", from: "5s", until: "2s", Note("x")),
           |                            --           ^^ ends here
           |                            |
           |                            begins here

        error[SCN_UNKNOWN_PROBE]: there is no probe called `b`
          --> a.ron:14:31
           |
        14 |     expect: [ Outcome(probe: "b", is: Refused), Touched(fault: "cutt", at_least: 1) ],
           |                               ^ no probe named `b`
           |
           = help: the probes are: a

        error[SCN_UNKNOWN_FAULT]: there is no fault called `cutt`
          --> a.ron:14:65
           |
        14 |     expect: [ Outcome(probe: "b", is: Refused), Touched(fault: "cutt", at_least: 1) ],
           |                                                                 ^^^^ no fault named `cutt`
           |
           = help: did you mean `cut`?
        "#);
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(200))]

        /// Whatever is typed, the answer is a scenario or problems that can be shown.
        #[test]
        fn broken_files_are_refused_in_words(
            at in 0..ALL.len(),
            len in 0..40_usize,
            put in proptest::sample::select(vec![
                "", "(", ")", "\"", "é", "/*", "r#\"", ",", "x: 1,", "At(", "\\", "'", "]", "\0",
            ]),
        ) {
            let floor = |mut at: usize| {
                while !ALL.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let (start, end) = (floor(at), floor((at + len).min(ALL.len())));
            let text = format!("{}{put}{}", &ALL[..start], &ALL[end..]);
            if let Err(found) = read("a.ron", &text) {
                let mut sources = Sources::default();
                sources.add("a.ron", text.as_str());
                let shown = render(&found, &sources);
                proptest::prop_assert!(shown.starts_with("error["), "{}", shown);
                proptest::prop_assert!(found.iter().all(|problem| problem.at.is_some()));
            }
        }
    }
}
