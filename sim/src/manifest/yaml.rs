//! From YAML (or JSON, which is YAML) to trees: documents, anchors, merge keys.
//! Refuses what `kubectl apply` refuses, duplicate keys among it, and reads on after a mistake at the
//! next document, so that all mistakes of a file are found at once.
//! Leaves out: tags of one's own, which are ignored as go-yaml ignores them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use super::tree::{Entry, Node, Value};
use crate::limits::{FILE_VALUES, PROBLEMS};
use crate::problem::{Problem, ProblemCode};
use crate::source::{Source, Span};

/// How deep a document may be nested.
const DEPTH: usize = 100;
/// How many values aliases may stand for in one document.
const ALIASED: u64 = 100_000;

/// Reads the documents of a source; those that are empty are left out.
pub(super) fn read(source: &Source) -> (Vec<Arc<Node>>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut documents = Vec::new();
    let mut from = if source.text.starts_with('\u{feff}') {
        3
    } else {
        0
    };
    while let Some(rest) = source.text.get(from..).filter(|rest| !rest.is_empty()) {
        let mut loader = Loader::new(source, rest, from);
        let stopped = loader.load();
        problems.append(&mut loader.problems);
        documents.append(&mut loader.documents);
        // Each start looks at all that is left.
        if problems.len() > PROBLEMS {
            break;
        }
        match stopped.and_then(|at| next_document(&source.text, at.max(from + 1))) {
            Some(next) => from = next,
            None => break,
        }
    }
    (documents, problems)
}

/// Returns where the next `---` line begins.
fn next_document(text: &str, after: usize) -> Option<usize> {
    let mut after = after.min(text.len());
    while !text.is_char_boundary(after) {
        after += 1;
    }
    text.get(after..)?.find("\n---").map(|at| after + at + 1)
}

/// Builds the trees of one source.
struct Loader<'a> {
    source: &'a Source,
    text: &'a str,
    /// Where `text` begins in the source, in bytes.
    base: usize,
    /// Byte of each character; empty if the text is ASCII and both are the same.
    bytes: Vec<u32>,
    anchors: BTreeMap<usize, Arc<Node>>,
    /// How many values a node stands for, by anchor.
    sizes: BTreeMap<usize, u64>,
    open: Vec<Open>,
    /// How many values of the document come from aliases.
    aliased: u64,
    /// How many values were read.
    values: usize,
    documents: Vec<Arc<Node>>,
    problems: Vec<Problem>,
}

/// A mapping or list that is not yet complete.
struct Open {
    anchor: usize,
    span: Span,
    size: u64,
    parts: Parts,
}

enum Parts {
    List(Vec<Arc<Node>>),
    Map {
        entries: Vec<Entry>,
        keys: BTreeSet<Arc<str>>,
        key: Option<(Arc<str>, Span)>,
        merges: Vec<Arc<Node>>,
    },
}

/// Why the rest of a document cannot be read; a problem has been noted.
struct Stop(usize);

impl<'a> Loader<'a> {
    fn new(source: &'a Source, text: &'a str, base: usize) -> Self {
        let ends = std::iter::once(text.len());
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            let all = text.char_indices().map(|(at, _)| at).chain(ends);
            all.map(|at| u32::try_from(at).unwrap_or(u32::MAX))
                .collect()
        };
        Self {
            source,
            text,
            base,
            bytes,
            anchors: BTreeMap::new(),
            sizes: BTreeMap::new(),
            open: Vec::new(),
            aliased: 0,
            values: 0,
            documents: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Returns where reading had to stop, if it did.
    fn load(&mut self) -> Option<usize> {
        let mut parser = Parser::new_from_str(self.text);
        loop {
            let step = match parser.next_event()? {
                Ok((event, span)) => self.event(event, &span),
                Err(error) => Err(self.syntax(&error)),
            };
            if let Err(Stop(at)) = step {
                return Some(at);
            }
        }
    }

    fn event(&mut self, event: Event<'_>, span: &saphyr_parser::Span) -> Result<(), Stop> {
        let span = self.span(span);
        match event {
            Event::DocumentStart(_) => {
                self.anchors.clear();
                self.sizes.clear();
                self.aliased = 0;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref());
                let span = first_line(self.text, span, self.base);
                let node = Arc::new(Node { span, value });
                self.add(node, anchor, 1)?;
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let size = self.sizes.get(&anchor).copied().unwrap_or(1);
                self.aliased = self.aliased.saturating_add(size);
                if self.aliased > ALIASED {
                    return Err(self.bomb(span));
                }
                let node = node.ok_or_else(|| self.own_alias(span))?;
                self.add(node, 0, size)?;
            }
            Event::SequenceStart(anchor, _) => self.start(anchor, span, Parts::List(Vec::new()))?,
            Event::MappingStart(anchor, _) => {
                let parts = Parts::Map {
                    entries: Vec::new(),
                    keys: BTreeSet::new(),
                    key: None,
                    merges: Vec::new(),
                };
                self.start(anchor, span, parts)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn start(&mut self, anchor: usize, span: Span, parts: Parts) -> Result<(), Stop> {
        if self.open.len() >= DEPTH {
            return Err(self.too_deep(span));
        }
        self.open.push(Open {
            anchor,
            span,
            size: 1,
            parts,
        });
        Ok(())
    }

    fn end(&mut self, end: Span) -> Result<(), Stop> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.parts {
            Parts::List(items) => Value::List(items),
            Parts::Map {
                entries,
                keys,
                merges,
                ..
            } => Value::Map(merge(entries, keys, &merges)),
        };
        let whole = Span {
            start: open.span.start,
            end: end.end.max(open.span.end),
        };
        let span = first_line(self.text, whole, self.base);
        self.add(Arc::new(Node { span, value }), open.anchor, open.size)
    }

    /// Puts a complete value where it belongs.
    fn add(&mut self, node: Arc<Node>, anchor: usize, size: u64) -> Result<(), Stop> {
        if anchor != 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
            self.sizes.insert(anchor, size);
        }
        self.values += 1;
        if self.values > FILE_VALUES {
            return Err(self.too_many(node.span));
        }
        let Some(open) = self.open.last_mut() else {
            if node.value != Value::Null {
                self.documents.push(node);
            }
            return Ok(());
        };
        open.size = open.size.saturating_add(size);
        match &mut open.parts {
            Parts::List(items) => items.push(node),
            Parts::Map {
                entries,
                keys,
                key,
                merges,
            } => match key.take() {
                None => {
                    let Some(name) = key_text(&node) else {
                        self.problems.push(bad_key(&node, self.source));
                        return Err(Stop(node.span.start as usize));
                    };
                    *key = Some((name, node.span));
                }
                Some((name, _)) if &*name == "<<" => merges.push(node),
                Some((name, span)) => {
                    if keys.insert(Arc::clone(&name)) {
                        entries.push(Entry {
                            key: name,
                            span,
                            value: node,
                        });
                    } else if self.problems.len() <= PROBLEMS {
                        let first = entries.iter().find(|entry| entry.key == name);
                        self.problems
                            .push(duplicate(&name, span, first, self.source));
                    }
                }
            },
        }
        Ok(())
    }

    fn span(&self, span: &saphyr_parser::Span) -> Span {
        let start = self.byte(span.start.index());
        let end = self.byte(span.end.index()).max(start);
        Span::new(start..end)
    }

    fn byte(&self, index: usize) -> usize {
        let at = if self.bytes.is_empty() {
            index.min(self.text.len())
        } else {
            let at = self.bytes.get(index);
            at.map_or(self.text.len(), |at| *at as usize)
        };
        self.base + at
    }

    fn too_deep(&mut self, span: Span) -> Stop {
        let title = format!("this is nested more than {DEPTH} levels deep");
        let spot = span.spot(&self.source.name);
        let problem = Problem::error(ProblemCode::ManTooDeep, title).at(spot, "too deep here");
        self.problems.push(problem);
        Stop(span.start as usize)
    }

    fn too_many(&mut self, span: Span) -> Stop {
        let title = format!("there are more than {FILE_VALUES} values in this file");
        let problem = Problem::error(ProblemCode::FileTooLarge, title)
            .at(span.spot(&self.source.name), "too many from here on")
            .help("give the objects in several files");
        self.problems.push(problem);
        Stop(self.source.text.len())
    }

    fn bomb(&mut self, span: Span) -> Stop {
        let problem = Problem::error(
            ProblemCode::ManAliases,
            format!("the aliases of this document stand for more than {ALIASED} values"),
        );
        let problem = problem
            .at(span.spot(&self.source.name), "too much by this alias")
            .note("aliases of aliases grow without bound: a document like this is refused");
        self.problems.push(problem);
        Stop(span.start as usize)
    }

    fn own_alias(&mut self, span: Span) -> Stop {
        let problem = Problem::error(
            ProblemCode::ManAliases,
            "an alias stands for a value it is part of",
        )
        .at(span.spot(&self.source.name), "not yet complete here");
        self.problems.push(problem);
        Stop(span.start as usize)
    }

    /// Turns the parser's message into a problem that says what to do.
    fn syntax(&mut self, error: &ScanError) -> Stop {
        let at = self.byte(error.marker().index());
        if error.info().contains("recursion limit") {
            return self.too_deep(Span::new(at..at));
        }
        let (found, line) = (self.character(at), line_of(&self.source.text, at));
        if let Some(tab) = tab_nearby(&self.source.text, line) {
            let spot = Span::new(tab..tab + 1).spot(&self.source.name);
            let problem =
                Problem::error(ProblemCode::ManTab, "YAML must not be indented with tabs")
                    .at(spot, "a tab")
                    .help("use spaces");
            self.problems.push(problem);
            return Stop(at);
        }
        let info = error.info();
        let end = at + found.map_or(0, char::len_utf8);
        let problem = Problem::error(ProblemCode::ManSyntax, "this is not well-formed YAML")
            .at(Span::new(at..end).spot(&self.source.name), info);
        let problem = match advice(info) {
            Some(help) => problem.help(help),
            None => problem,
        };
        self.problems.push(problem);
        Stop(at)
    }

    fn character(&self, at: usize) -> Option<char> {
        self.source
            .text
            .get(at..)?
            .chars()
            .next()
            .filter(|&c| c != '\n' && c != '\r')
    }
}

/// Returns what usually is behind a message of the parser.
fn advice(info: &str) -> Option<&'static str> {
    let table = [
        (
            "mapping values are not allowed",
            "is the line, or the one before it, indented by one space too many or too few, or does a value with `: ` lack quotes?",
        ),
        (
            "simple key expect ':'",
            "does a key lack its `:`, or a list item the space after its `-`?",
        ),
        (
            "unknown anchor",
            "an alias `*name` needs an anchor `&name` before it; a text that begins with `*` needs quotes",
        ),
        (
            "unexpected character",
            "a text that begins with this character needs quotes",
        ),
        (
            "invalid indentation in quoted scalar",
            "is the closing quote missing?",
        ),
        ("unprintable", "is this a text file?"),
        (
            "did not find expected",
            "is the indentation of this line the same as that of its neighbours?",
        ),
        (
            "invalid indentation in flow",
            "is a closing bracket or brace missing before this line?",
        ),
        (
            "illegal placement of ':'",
            "is a closing bracket missing before this line?",
        ),
    ];
    table
        .into_iter()
        .find(|(part, _)| info.contains(part))
        .map(|(_, help)| help)
}

fn line_of(text: &str, at: usize) -> std::ops::Range<usize> {
    let at = at.min(text.len());
    let start = text
        .get(..at)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |at| at + 1);
    let end = text
        .get(at..)
        .and_then(|rest| rest.find('\n'))
        .map_or(text.len(), |n| at + n);
    start..end
}

/// Finds a tab in the indentation of a line or of the one after it.
fn tab_nearby(text: &str, line: std::ops::Range<usize>) -> Option<usize> {
    let end = line.end;
    [line, line_of(text, (end + 1).min(text.len()))]
        .into_iter()
        .find_map(|line| {
            let start = line.start;
            let content = text.get(line)?;
            let indent = content.len() - content.trim_start_matches([' ', '\t']).len();
            content.get(..indent)?.find('\t').map(|at| start + at)
        })
}

/// Cuts a span at the end of its first line, so that a diagnostic shows one line.
fn first_line(text: &str, span: Span, base: usize) -> Span {
    let start = span.start as usize;
    let part = start
        .checked_sub(base)
        .and_then(|from| text.get(from..))
        .unwrap_or_default();
    // No further than the span: one line may be the whole file.
    let long = (span.end as usize).saturating_sub(start).min(part.len());
    let part = part.get(..long).unwrap_or(part);
    let line = part.find(['\r', '\n']).unwrap_or(part.len());
    let line = part.get(..line).unwrap_or(part).trim_end();
    let end = (span.end as usize).min(start + line.len()).max(start);
    Span::new(start..end)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let core = tag
        .filter(|tag| tag.is_yaml_core_schema())
        .map(|tag| tag.suffix.as_str());
    match (core, style) {
        (Some("str"), _) => Value::String(text.into()),
        (Some("int" | "float" | "bool" | "null"), _) => Value::from_plain(text),
        (_, ScalarStyle::Plain) if tag.is_none() => Value::from_plain(text),
        _ => Value::String(text.into()),
    }
}

/// Keys become text, as they do in JSON.
fn key_text(node: &Node) -> Option<Arc<str>> {
    match &node.value {
        Value::String(text) | Value::Float(text) => Some(Arc::clone(text)),
        Value::Int(number) => Some(number.to_string().into()),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

fn bad_key(node: &Node, source: &Source) -> Problem {
    let problem = Problem::error(ProblemCode::ManSyntax, "a key must be a text").at(
        node.span.spot(&source.name),
        format!("found {}", node.value.describe()),
    );
    if matches!(node.value, Value::Map(_)) {
        problem.help("`{{ … }}` is a template: render it first (`helm template`)")
    } else {
        problem
    }
}

fn duplicate(name: &str, span: Span, first: Option<&Entry>, source: &Source) -> Problem {
    let problem = Problem::error(
        ProblemCode::ManDuplicateField,
        format!("the key `{name}` is there twice"),
    )
    .at(span.spot(&source.name), "again here");
    match first {
        Some(first) => problem.also(first.span.spot(&source.name), "first here"),
        None => problem,
    }
}

/// Adds the entries of `<<:`; what the mapping says itself, or an earlier merge, goes before.
fn merge(
    mut entries: Vec<Entry>,
    mut keys: BTreeSet<Arc<str>>,
    merges: &[Arc<Node>],
) -> Vec<Entry> {
    let maps = merges.iter().flat_map(|node| match &node.value {
        Value::List(items) => items.iter().collect::<Vec<_>>(),
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::String(_)
        | Value::Map(_) => vec![node],
    });
    for entry in maps.flat_map(|node| node.entries()) {
        if keys.insert(Arc::clone(&entry.key)) {
            entries.push(entry.clone());
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<&'static str> {
        let (_, problems) = read(&Source::new("x.yaml", text));
        problems.iter().map(|problem| problem.code.name()).collect()
    }

    fn only(text: &str) -> Arc<Node> {
        let (mut documents, problems) = read(&Source::new("x.yaml", text));
        assert_eq!(problems, []);
        assert_eq!(documents.len(), 1);
        documents.pop().expect("there is one")
    }

    fn says<'a>(text: &'a str, node: &Node) -> &'a str {
        text.get(node.span.range()).expect("spans lie in the text")
    }

    #[test]
    fn spans_count_bytes_after_a_bom_letters_and_carriage_returns() {
        let text = "\u{feff}a: é x\r\nb:\r\n  - c: 1\r\n";
        let tree = only(text);
        let a = tree.get("a").expect("a");
        assert_eq!(says(text, a), "é x");
        let b = tree.get("b").expect("b").items().first().expect("an item");
        assert_eq!(says(text, b), "c: 1");
        assert_eq!(says(text, b.get("c").expect("c")), "1");
    }

    #[test]
    fn anchors_and_merge_keys() {
        let tree = only("x: &x {a: 1, b: 2}\nz:\n  <<: *x\n  b: 3\n");
        let z = tree.get("z").expect("z");
        assert_eq!(z.get("a").map(|node| &node.value), Some(&Value::Int(1)));
        assert_eq!(z.get("b").map(|node| &node.value), Some(&Value::Int(3)));
    }

    #[test]
    fn json_with_tabs_is_yaml() {
        let tree = only("{\n\t\"a\": [1,\n\t\t2]\n}\n");
        assert_eq!(tree.get("a").map(|node| node.items().len()), Some(2));
    }

    #[test]
    fn empty_documents_are_left_out() {
        let (documents, problems) = read(&Source::new("x", "---\n# nothing\n---\na: 1\n---\n"));
        assert_eq!((documents.len(), problems.len()), (1, 0));
    }

    #[test]
    fn mistakes_have_codes_and_do_not_hide_later_documents() {
        assert_eq!(codes("a: 1\n\tb: 2\n"), ["MAN_TAB"]);
        assert_eq!(codes("a: 1\na: 2\n"), ["MAN_DUPLICATE_FIELD"]);
        assert_eq!(
            codes("a: b: c\n---\na: 1\n---\nx: 'y\n"),
            ["MAN_SYNTAX", "MAN_SYNTAX"]
        );
        let (documents, _) = read(&Source::new("x", "a: b: c\n---\na: 1\n"));
        assert_eq!(documents.len(), 1);
        assert_eq!(codes(&"[".repeat(2000)), ["MAN_TOO_DEEP"]);
        assert_eq!(codes("a: {{ x }}\n"), ["MAN_SYNTAX"]);
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let items = vec![format!("*a{}", n - 1); 10].join(", ");
            text = [text, format!("a{n}: &a{n} [{items}]\n")].concat();
        }
        assert_eq!(codes(&text), ["MAN_ALIASES"]);
    }
}
