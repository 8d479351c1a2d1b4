//! Leading words without a name: `At("1s", Probe(…))`, `Fault(id: "cut", LinkDown(…), for: "10s")`.
//!
//! RON has values with names or without, never both in one pair of parentheses. The scenario language has both:
//! what is most important about a step goes without. Before RON reads a text, the missing names are put in, and
//! positions are taken back afterwards.

use std::ops::Range;

/// Words whose arguments may go without a name, and what those are called, in order.
pub const NAMES: &[(&str, &[&str])] = &[
    ("At", &["at", "step"]),
    ("Every", &["every", "step"]),
    ("Apply", &["manifest"]),
    ("Delete", &["object"]),
    ("Label", &["object", "labels"]),
    ("Scale", &["object", "replicas"]),
    ("Rollout", &["object"]),
    ("Cordon", &["node"]),
    ("Uncordon", &["node"]),
    ("Drain", &["node"]),
    ("Churn", &["rate", "for"]),
    ("Fault", &["fault"]),
    ("Exec", &["on", "command"]),
    ("Note", &["text"]),
    ("LinkDown", &["from", "to"]),
    ("NodeDown", &["node"]),
    ("PodKill", &["pod"]),
    ("ForwardDrop", &["node"]),
    ("HairpinOff", &["node"]),
    ("RouteLost", &["node", "to"]),
    ("KubeProxyDown", &["node"]),
    ("CniMissing", &["node"]),
    ("IpLeak", &["node"]),
    ("ConntrackRace", &["node"]),
    ("SnatPorts", &["node", "ports"]),
    ("NoConntrackCleanup", &["node"]),
    ("Duplicate", &["from", "to"]),
    ("Sysctl", &["on", "name", "value"]),
];

/// A text with all names in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The text RON reads.
    pub text: String,
    /// Where names were put in, in bytes of `text`.
    inserted: Vec<Range<usize>>,
}

impl Named {
    /// Returns where a position was before names were put in.
    pub fn original(&self, position: usize) -> usize {
        let before = self
            .inserted
            .iter()
            .take_while(|range| range.start < position);
        position
            - before
                .map(|range| range.end.min(position) - range.start)
                .sum::<usize>()
    }
}

/// Puts in the names of arguments that go without.
pub fn name(text: &str) -> Named {
    let tokens = tokens(text);
    let mut named = Named::default();
    let mut copied = 0;
    let mut open: Vec<Call> = Vec::new();
    for (number, token) in tokens.iter().enumerate() {
        if let Some(name) = open
            .last_mut()
            .and_then(|call| call.missing_name(&tokens, number))
        {
            named
                .text
                .push_str(text.get(copied..token.span.start).unwrap_or_default());
            let start = named.text.len();
            named.text.push_str(name);
            named.text.push_str(": ");
            named.inserted.push(start..named.text.len());
            copied = token.span.start;
        }
        match token.kind {
            Kind::Open => open.push(Call::after(text, &tokens, number)),
            Kind::Close => drop(open.pop()),
            Kind::Comma => open.iter_mut().next_back().into_iter().for_each(Call::next),
            Kind::Word | Kind::Colon | Kind::Other => {}
        }
    }
    named.text.push_str(text.get(copied..).unwrap_or_default());
    named
}

/// Returns the bytes of the field that begins at `start`: its name, its value and the comma after it.
pub fn field(text: &str, start: usize) -> Range<usize> {
    let mut depth = 0_usize;
    for token in tokens(text)
        .iter()
        .filter(|token| token.span.start >= start)
    {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close if depth == 0 => return start..token.span.start,
            Kind::Close => depth -= 1,
            Kind::Comma if depth == 0 => return start..token.span.end,
            Kind::Comma | Kind::Word | Kind::Colon | Kind::Other => {}
        }
    }
    start..text.len()
}

/// Returns the first token that ends after a position; nothing at the end of the text.
pub fn token_from(text: &str, start: usize) -> Option<Range<usize>> {
    tokens(text)
        .into_iter()
        .map(|token| token.span)
        .find(|span| span.end > start)
}

/// Returns whether a text has nothing but white space and comments in it.
pub fn is_blank(text: &str) -> bool {
    tokens(text).is_empty()
}

/// An open pair of brackets.
struct Call {
    /// Names of arguments still to come; empty for lists, maps and words that have none.
    names: &'static [&'static str],
    at_start: bool,
}

impl Call {
    /// Returns the brackets that token `number` opens.
    fn after(text: &str, tokens: &[Token], number: usize) -> Self {
        let word = number
            .checked_sub(1)
            .and_then(|before| tokens.get(before))
            .filter(|token| token.kind == Kind::Word)
            .and_then(|token| text.get(token.span.clone()));
        let names = NAMES.iter().find(|(known, _)| Some(*known) == word);
        Self {
            names: names.map_or(&[], |(_, names)| names),
            at_start: true,
        }
    }

    const fn next(&mut self) {
        self.at_start = true;
    }

    /// Returns the name to put in front of this token, if it begins an argument without one.
    fn missing_name(&mut self, tokens: &[Token], number: usize) -> Option<&'static str> {
        let token = tokens.get(number)?;
        if !self.at_start || matches!(token.kind, Kind::Close | Kind::Comma) {
            return None;
        }
        self.at_start = false;
        let colon = tokens
            .get(number + 1)
            .is_some_and(|next| next.kind == Kind::Colon);
        if token.kind == Kind::Word && colon {
            return None;
        }
        let (name, rest) = self.names.split_first()?;
        self.names = rest;
        Some(name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    kind: Kind,
    span: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Open,
    Close,
    Comma,
    Colon,
    /// Strings, characters, and each byte of anything else.
    Other,
}

/// Cuts a text into tokens, as far as anything here depends on them. White space and comments are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let (kind, len) = token(rest);
        if let Some(kind) = kind {
            tokens.push(Token {
                kind,
                span: at..at + len,
            });
        }
        at += len;
    }
    tokens
}

/// Returns kind and length of the first token of a text that is not empty; no kind for what is skipped.
fn token(rest: &str) -> (Option<Kind>, usize) {
    let first = rest.chars().next().unwrap_or(' ');
    let until = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
    if first.is_whitespace() {
        return (None, first.len_utf8());
    }
    if rest.starts_with("//") {
        return (None, until("\n"));
    }
    if rest.starts_with("/*") {
        return (None, block_comment(rest));
    }
    if let Some(hashes) = raw_string(rest) {
        let body = rest.get(hashes + 2..).unwrap_or_default();
        let end = format!("\"{}", "#".repeat(hashes));
        let len = body
            .find(&end)
            .map_or(rest.len(), |at| hashes + 2 + at + end.len());
        return (Some(Kind::Other), len);
    }
    match first {
        '"' => (Some(Kind::Other), quoted(rest, '"')),
        '\'' => (Some(Kind::Other), quoted(rest, '\'')),
        '(' | '[' | '{' => (Some(Kind::Open), 1),
        ')' | ']' | '}' => (Some(Kind::Close), 1),
        ',' => (Some(Kind::Comma), 1),
        ':' => (Some(Kind::Colon), 1),
        c if c.is_alphanumeric() || c == '_' => {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '.');
            (Some(Kind::Word), end.unwrap_or(rest.len()))
        }
        c => (Some(Kind::Other), c.len_utf8()),
    }
}

/// Returns how many `#` a raw string begins with, if one begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let body = after.trim_start_matches('#');
    body.starts_with('"').then_some(after.len() - body.len())
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// Returns the length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_in_where_they_are_missing() {
        let text = r#"[At("1s", Fault(id: "a", LinkDown("x", to: "y"), for: "1s")), Fixed("2ms")]"#;
        let expected = r#"[At(at: "1s", step: Fault(id: "a", fault: LinkDown(from: "x", to: "y"), for: "1s")), Fixed("2ms")]"#;
        assert_eq!(name(text).text, expected);
    }

    #[test]
    fn strings_and_comments_are_left_alone() {
        let text = "// At(1)\n[/* At(/* x */ 1) */ \"At(\\\"1\\\")\", r#\"At(\"1\")\"#, 'A']";
        assert_eq!(name(text).text, text);
    }

    #[test]
    fn positions_are_found_again() {
        let text = r#"é At("1s", Note("x"))"#;
        let named = name(text);
        for (at, c) in text.char_indices().filter(|(_, c)| *c == '"') {
            let there = named.text.char_indices().filter(|(_, other)| *other == c);
            let positions: Vec<usize> = there.map(|(at, _)| named.original(at)).collect();
            assert!(positions.contains(&at), "{at} {positions:?}");
        }
    }

    #[test]
    fn fields_end_with_their_comma() {
        let text = "(a: [1, (2, 3)], b: \"x,y\")";
        assert_eq!(text.get(field(text, 1)), Some("a: [1, (2, 3)],"));
        assert_eq!(text.get(field(text, 17)), Some("b: \"x,y\""));
    }

    #[test]
    fn broken_texts_do_no_harm() {
        for text in [
            "", "\"", "r#\"", "/*", "((((", "))))", "At(", "'", "//", "é", "At(,,)",
        ] {
            assert!(name(text).text.starts_with(text.trim_end_matches("At(,,)")));
            let _ = field(text, 0);
        }
        assert!(is_blank(" // nothing\n/* here */ "));
    }
}
