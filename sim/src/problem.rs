//! What is wrong with an input, told so that it can be repaired: code, one sentence, the place, what was found there,
//! what would have been right. Rendered as `rustc` renders its diagnostics.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use crate::limits;

/// One thing that is wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable name of the kind of problem.
    pub code: ProblemCode,
    /// Whether the input can still be used.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub title: String,
    /// Where; nothing if it is not about a place in a file.
    pub at: Option<Spot>,
    /// What is found there, in a few words.
    pub label: String,
    /// Other places that matter, each with what is there.
    pub also: Vec<(Spot, String)>,
    /// Further facts.
    pub notes: Vec<String>,
    /// What would be right.
    pub help: Vec<String>,
}

/// A stretch of bytes of one source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// Name of the source, as the user gave it.
    pub source: Arc<str>,
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
}

impl Spot {
    /// Returns these bytes of that source.
    pub fn new(source: impl Into<Arc<str>>, span: Range<usize>) -> Self {
        Self {
            source: source.into(),
            start: span.start,
            end: span.end.max(span.start),
        }
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The input cannot be used.
    Error,
    /// The input can be used, and probably does not mean what it says.
    Warning,
}

macro_rules! problem_codes {
    ($($variant:ident $name:literal $meaning:literal;)*) => {
        /// Kinds of problems, under stable names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ProblemCode {
            $(#[doc = $meaning] $variant,)*
        }

        impl ProblemCode {
            /// All codes, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns what it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

problem_codes! {
    FileUnreadable "FILE_UNREADABLE" "A file cannot be read.";
    FileEmpty "FILE_EMPTY" "A file has nothing in it.";
    FileLoop "FILE_LOOP" "A directory contains itself.";
    FileTooLarge "FILE_TOO_LARGE" "A file is larger than what is read.";
    FileBinary "FILE_BINARY" "A file is not text in UTF-8.";

    ScnSyntax "SCN_SYNTAX" "A scenario is not well-formed RON.";
    ScnUnknownField "SCN_UNKNOWN_FIELD" "A field of a scenario does not exist.";
    ScnMissingField "SCN_MISSING_FIELD" "A field of a scenario that must be there is not.";
    ScnDuplicateField "SCN_DUPLICATE_FIELD" "A field of a scenario is given twice.";
    ScnUnknownWord "SCN_UNKNOWN_WORD" "A step, fault, expectation or other word of a scenario does not exist.";
    ScnBadValue "SCN_BAD_VALUE" "A value of a scenario is not of the form it must have.";
    ScnVersion "SCN_VERSION" "A scenario is written in a version of the language that is not known here.";
    ScnUnknownNode "SCN_UNKNOWN_NODE" "A scenario names a node that does not exist.";
    ScnUnknownPod "SCN_UNKNOWN_POD" "A scenario names a pod that does not exist.";
    ScnUnknownService "SCN_UNKNOWN_SERVICE" "A scenario names a Service that does not exist.";
    ScnUnknownHost "SCN_UNKNOWN_HOST" "A scenario names an outside host that does not exist.";
    ScnUnknownObject "SCN_UNKNOWN_OBJECT" "A scenario names an object that does not exist.";
    ScnUnknownProbe "SCN_UNKNOWN_PROBE" "An expectation names a probe that does not exist.";
    ScnUnknownFault "SCN_UNKNOWN_FAULT" "An expectation names a fault that does not exist.";
    ScnUnknownProfile "SCN_UNKNOWN_PROFILE" "A scenario names a network profile that does not exist.";
    ScnDuplicateName "SCN_DUPLICATE_NAME" "Two things of a scenario have the same name.";
    ScnDuplicateAddress "SCN_DUPLICATE_ADDRESS" "Two things of a scenario have the same address.";
    ScnOverlappingCidrs "SCN_OVERLAPPING_CIDRS" "Two address ranges that must be apart overlap.";
    ScnTooMany "SCN_TOO_MANY" "A scenario asks for more than can be simulated.";
    ScnTime "SCN_TIME" "Times of a scenario contradict each other.";

    ManSyntax "MAN_SYNTAX" "A manifest is not well-formed YAML or JSON.";
    ManUnknownField "MAN_UNKNOWN_FIELD" "A field of a manifest does not exist.";
    ManMissingField "MAN_MISSING_FIELD" "A field of a manifest that must be there is not.";
    ManDuplicateField "MAN_DUPLICATE_FIELD" "A field of a manifest is given twice.";
    ManTab "MAN_TAB" "A manifest is indented with tabs.";
    ManAliases "MAN_ALIASES" "Aliases make a manifest far larger than its text.";
    ManTooDeep "MAN_TOO_DEEP" "A manifest is nested too deeply.";
    ManTooMany "MAN_TOO_MANY" "Manifests ask for more than can be simulated.";
    ManNotAnObject "MAN_NOT_AN_OBJECT" "A document of a manifest is no Kubernetes object.";
    ManApiVersion "MAN_API_VERSION" "The `apiVersion` of an object does not go with its `kind`.";
    ManWrongType "MAN_WRONG_TYPE" "A value of a manifest has another type than its field takes.";
    ManBadName "MAN_BAD_NAME" "A name of a manifest is not a name.";
    ManBadLabel "MAN_BAD_LABEL" "A label of a manifest is not a label.";
    ManPortRange "MAN_PORT_RANGE" "A port of a manifest is outside the range of ports.";
    ManBadAddress "MAN_BAD_ADDRESS" "An address or range of a manifest is not one.";
    ManDuplicateEntry "MAN_DUPLICATE_ENTRY" "Two entries of an object that must differ do not.";
    ManSelectorMismatch "MAN_SELECTOR_MISMATCH" "A workload does not select the pods it makes.";
    ManContradiction "MAN_CONTRADICTION" "Fields of an object contradict each other.";
    ManUnknownPath "MAN_UNKNOWN_PATH" "A patch names a field that is not there.";
    ManBadValue "MAN_BAD_VALUE" "A value of a manifest is not of the form it must have.";
    ManUnknownKind "MAN_UNKNOWN_KIND" "A manifest is of a kind that is not known here.";
    ManDuplicateObject "MAN_DUPLICATE_OBJECT" "Two manifests define the same object differently.";
    ManDuplicateAddress "MAN_DUPLICATE_ADDRESS" "Two objects have the same address.";
    ManOverlappingCidrs "MAN_OVERLAPPING_CIDRS" "Two address ranges that must be apart overlap.";
    ManDanglingReference "MAN_DANGLING_REFERENCE" "An object refers to one that does not exist.";
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for ProblemCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Problem {
    /// Returns a problem that makes the input unusable.
    pub fn error(code: ProblemCode, title: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            title: title.into(),
            at: None,
            label: String::new(),
            also: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Returns a problem that one can live with.
    pub fn warning(code: ProblemCode, title: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, title)
        }
    }

    /// Returns the problem with where it is and what is found there.
    #[must_use]
    pub fn at(mut self, spot: Spot, label: impl Into<String>) -> Self {
        self.at = Some(spot);
        self.label = label.into();
        self
    }

    /// Returns the problem with another place that matters.
    #[must_use]
    pub fn also(mut self, spot: Spot, label: impl Into<String>) -> Self {
        self.also.push((spot, label.into()));
        self
    }

    /// Returns the problem with a further fact.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Returns the problem with what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    fn order(&self) -> impl Ord + '_ {
        (self.at.as_ref(), self.code, &self.title)
    }
}

/// The texts that problems point into, by name.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    texts: BTreeMap<Arc<str>, Arc<str>>,
}

impl Sources {
    /// Adds a source, and returns its name for use in spots.
    pub fn add(&mut self, name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Arc<str> {
        let name = name.into();
        self.texts.insert(Arc::clone(&name), text.into());
        name
    }

    /// Returns the text of a source.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(|text| &**text)
    }

    /// Returns `name:line:column` of where a spot begins; the column counts characters, from 1.
    pub fn position(&self, spot: &Spot) -> String {
        let Some(before) = self
            .get(&spot.source)
            .and_then(|text| text.get(..spot.start))
        else {
            return spot.source.to_string();
        };
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        format!("{}:{line}:{column}", spot.source)
    }
}

/// Returns the problems as text, in the order of their places, without colour.
pub fn render(problems: &[Problem], sources: &Sources) -> String {
    render_with(&Renderer::plain(), problems, sources)
}

/// Returns the problems as text, in the order of their places, with ANSI colours.
pub fn render_styled(problems: &[Problem], sources: &Sources) -> String {
    render_with(&Renderer::styled(), problems, sources)
}

fn render_with(renderer: &Renderer, problems: &[Problem], sources: &Sources) -> String {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by(|a, b| a.order().cmp(&b.order()));
    sorted.dedup();
    let mut text = String::new();
    for problem in sorted.iter().take(limits::PROBLEMS) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&renderer.render(&[report(problem, sources)]));
        text.push('\n');
    }
    let more = sorted.len().saturating_sub(limits::PROBLEMS);
    if more > 0 {
        writeln!(text, "\n{more} more problems are not shown").expect("a String takes everything");
    }
    text
}

fn report<'a>(problem: &'a Problem, sources: &'a Sources) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level
        .primary_title(shown(&one_line(&problem.title)))
        .id(problem.code.name());
    let mut group = Group::with_title(title);
    if let Some(at) = &problem.at {
        group = place(group, problem, at, sources);
    }
    for (spot, label) in &problem.also {
        if problem
            .at
            .as_ref()
            .is_none_or(|at| at.source != spot.source)
        {
            let excerpt = Excerpt::of(sources, &spot.source, &[spot]);
            group = if let Some(origin) = excerpt.origin(spot) {
                group.element(origin)
            } else {
                let there = AnnotationKind::Context
                    .span(excerpt.inside(spot))
                    .label(shown(label));
                group.element(excerpt.snippet().annotation(there))
            };
        }
    }
    let notes = problem
        .notes
        .iter()
        .map(|note| Level::NOTE.message(shown(note)));
    let help = problem
        .help
        .iter()
        .map(|help| Level::HELP.message(shown(help)));
    group.elements(notes).elements(help)
}

/// Shows where a problem is, and what else of the same source matters.
fn place<'a>(
    group: Group<'a>,
    problem: &'a Problem,
    at: &'a Spot,
    sources: &'a Sources,
) -> Group<'a> {
    let others: Vec<_> = problem
        .also
        .iter()
        .filter(|(spot, _)| spot.source == at.source)
        .collect();
    let spots: Vec<&Spot> = std::iter::once(at)
        .chain(others.iter().map(|(spot, _)| spot))
        .collect();
    let excerpt = Excerpt::of(sources, &at.source, &spots);
    if let Some(origin) = excerpt.origin(at) {
        let label = Level::NOTE.message(shown(&problem.label));
        return group.element(origin).element(label);
    }
    let primary = AnnotationKind::Primary
        .span(excerpt.inside(at))
        .label(shown(&problem.label));
    let others = others.into_iter().map(|(spot, label)| {
        AnnotationKind::Context
            .span(excerpt.inside(spot))
            .label(shown(label))
    });
    group.element(excerpt.snippet().annotation(primary).annotations(others))
}

/// The lines of a source that a problem is about: whoever renders them need not look at the others.
struct Excerpt<'a> {
    name: &'a str,
    text: &'a str,
    /// Where it begins in the source.
    from: usize,
    /// The number of its first line.
    line: usize,
}

impl<'a> Excerpt<'a> {
    fn of(sources: &'a Sources, name: &'a str, spots: &[&Spot]) -> Self {
        let text = sources.get(name).unwrap_or_default();
        let spans = || spots.iter().map(|spot| inside(text, spot));
        let first = spans().map(|span| span.start).min().unwrap_or(0);
        let last = spans().map(|span| span.end).max().unwrap_or(first);
        let (before, behind) = (text.get(..first), text.get(last..));
        let from = before.and_then(|text| text.rfind('\n'));
        let from = from.map_or(0, |at| at + 1);
        let to = behind.and_then(|text| text.find('\n'));
        let to = to.map_or(text.len(), |at| last + at + 1);
        let lines = text
            .get(..from)
            .map_or(0, |text| text.matches('\n').count());
        Self {
            name,
            text: text.get(from..to).unwrap_or_default(),
            from,
            line: lines + 1,
        }
    }

    fn inside(&self, spot: &Spot) -> Range<usize> {
        let start = spot.start.saturating_sub(self.from);
        let end = spot.end.saturating_sub(self.from);
        inside(self.text, &Spot::new(self.name, start..end))
    }

    /// Returns where a spot is, if the lines are too long to be shown: laying one out takes many times its size.
    fn origin(&self, spot: &Spot) -> Option<Origin<'a>> {
        if self.text.len() <= limits::SHOWN_BYTES {
            return None;
        }
        let before = self.text.get(..self.inside(spot).start)?;
        let line = self.line + before.matches('\n').count();
        let column = before.rsplit('\n').next()?.chars().count() + 1;
        Some(Origin::path(self.name).line(line).char_column(column))
    }

    fn snippet<T: Clone>(&self) -> Snippet<'a, T> {
        // What is shown keeps its places, so a letter of two bytes takes the place of another.
        let text = if self.text.contains(is_c1) {
            Cow::Owned(self.text.replace(is_c1, "¿"))
        } else {
            Cow::Borrowed(self.text)
        };
        Snippet::source(text).path(self.name).line_start(self.line)
    }
}

/// Returns the spot's bytes, moved to lie inside the text and between characters.
fn inside(text: &str, spot: &Spot) -> Range<usize> {
    let floor = |wanted: usize| {
        let mut at = wanted.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    floor(spot.start)..floor(spot.end)
}

/// Whether a terminal would do something else with a letter than show it: escape sequences begin with one of these, and
/// others turn the direction of writing around.
pub fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The control characters beyond ASCII, which the renderer of excerpts lets through. Each has two bytes.
fn is_c1(letter: char) -> bool {
    matches!(letter, '\u{80}'..='\u{9f}')
}

/// Returns a text with such letters in writing.
fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_invisible(letter) && letter != '\n' {
            safe.extend(letter.escape_unicode());
        } else {
            safe.push(letter);
        }
    }
    safe
}

fn one_line(title: &str) -> String {
    title.replace('\n', " ")
}

/// Returns the candidate that `word` was probably meant to be.
pub fn suggestion<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let len = word.chars().count();
    let most = (1 + len / 4).min(len.saturating_sub(1));
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const TEXT: &str =
        "Cluster(\n    nodes: [\n        (name: \"server\", node: \"n3\"),\n    ],\n)\n";

    #[test]
    fn looks_like_rustc() {
        let mut sources = Sources::default();
        let name = sources.add("scenarios/xref.ron", TEXT);
        let start = TEXT.find("n3").unwrap();
        let problem = Problem::error(
            ProblemCode::ScnUnknownNode,
            "pod `server` is placed on a node that does not exist",
        )
        .at(Spot::new(name, start..start + 2), "no node named `n3`")
        .help("the nodes are: n1, n2");
        insta::assert_snapshot!(render(&[problem], &sources), @r#"
        error[SCN_UNKNOWN_NODE]: pod `server` is placed on a node that does not exist
         --> scenarios/xref.ron:3:33
          |
        3 |         (name: "server", node: "n3"),
          |                                 ^^ no node named `n3`
          |
          = help: the nodes are: n1, n2
        "#);
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_only_once() {
        let mut sources = Sources::default();
        let name = sources.add("a.ron", "é one\ntwo\n");
        let at = |title: &str, span| {
            Problem::error(ProblemCode::ScnBadValue, title)
                .at(Spot::new(Arc::clone(&name), span), "here")
        };
        let problems = [at("second", 7..10), at("first", 3..6), at("second", 7..10)];
        insta::assert_snapshot!(render(&problems, &sources), @r#"
        error[SCN_BAD_VALUE]: first
         --> a.ron:1:3
          |
        1 | é one
          |   ^^^ here

        error[SCN_BAD_VALUE]: second
         --> a.ron:2:1
          |
        2 | two
          | ^^^ here
        "#);
        assert_eq!(sources.position(&Spot::new("a.ron", 3..6)), "a.ron:1:3");
    }

    #[test]
    fn other_places_and_no_place() {
        let mut sources = Sources::default();
        sources.add("a.yaml", "kind: Service\n");
        sources.add("b.yaml", "kind: Service\n");
        let twice = Problem::error(ProblemCode::ManDuplicateObject, "defined twice")
            .at(Spot::new("b.yaml", 6..13), "again here")
            .also(Spot::new("a.yaml", 6..13), "first here")
            .note("the later one wins");
        let unreadable = Problem::warning(ProblemCode::FileUnreadable, "cannot read c.yaml");
        insta::assert_snapshot!(render(&[twice, unreadable], &sources), @r#"
        warning[FILE_UNREADABLE]: cannot read c.yaml

        error[MAN_DUPLICATE_OBJECT]: defined twice
         --> b.yaml:1:7
          |
        1 | kind: Service
          |       ^^^^^^^ again here
          |
         ::: a.yaml:1:7
          |
        1 | kind: Service
          |       ------- first here
          |
          = note: the later one wins
        "#);
    }

    #[test]
    fn spots_outside_the_text_do_no_harm() {
        let mut sources = Sources::default();
        sources.add("a.ron", "é");
        let far = Problem::error(ProblemCode::ScnSyntax, "x").at(Spot::new("a.ron", 1..99), "y");
        assert!(render(&[far], &sources).contains("a.ron"));
    }

    #[test]
    fn suggests_what_was_probably_meant() {
        let fields = ["latency", "bandwidth", "mtu"];
        assert_eq!(suggestion("latancy", fields), Some("latency"));
        assert_eq!(suggestion("MTU", fields), Some("mtu"));
        assert_eq!(suggestion("colour", fields), None);
        assert_eq!(suggestion("b", ["a"]), None);
    }

    #[test]
    fn code_names_are_unique() {
        let mut names: Vec<&str> = ProblemCode::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ProblemCode::ALL.len());
    }
}
