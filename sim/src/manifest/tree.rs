//! A document as a tree of values that know where they were written.
//! Numbers that are no 64-bit integers stay text: no field that matters here takes them.

use std::sync::Arc;

use crate::source::Span;

/// One value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it was written. A mapping or a list in block style has the place of its first line.
    pub span: Span,
    /// The value.
    pub value: Value,
}

/// A value as JSON knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Any other number, as written.
    Float(Arc<str>),
    /// A text.
    String(Arc<str>),
    /// A list.
    List(Vec<Arc<Node>>),
    /// A mapping, in the order it was written.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// Where the key was written.
    pub span: Span,
    /// The value.
    pub value: Arc<Node>,
}

impl Node {
    /// Returns the value of a key, if this is a mapping that has it and it is not null.
    pub fn get(&self, key: &str) -> Option<&Arc<Self>> {
        self.entry(key)
            .map(|entry| &entry.value)
            .filter(|node| node.value != Value::Null)
    }

    /// Returns the entry of a key, if this is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| &*entry.key == key)
    }

    /// Returns the entries, if this is a mapping.
    pub fn entries(&self) -> &[Entry] {
        if let Value::Map(entries) = &self.value {
            entries
        } else {
            &[]
        }
    }

    /// Returns the items, if this is a list.
    pub fn items(&self) -> &[Arc<Self>] {
        if let Value::List(items) = &self.value {
            items
        } else {
            &[]
        }
    }

    /// Returns the text, if this is one.
    pub fn text(&self) -> Option<&Arc<str>> {
        if let Value::String(text) = &self.value {
            Some(text)
        } else {
            None
        }
    }

    /// Whether both say the same, wherever they were written.
    pub fn same(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            (Value::Map(a), Value::Map(b)) => {
                let in_b = |entry: &Entry| {
                    other
                        .entry(&entry.key)
                        .is_some_and(|there| there.value.same(&entry.value))
                };
                a.len() == b.len() && a.iter().all(in_b)
            }
            (a, b) => a == b,
        }
    }

    /// Makes a tree of a value that was written somewhere else, all at one place.
    pub fn from_json(value: &serde_json::Value, span: Span) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(number) => Value::Int(number),
                None => Value::Float(number.to_string().into()),
            },
            serde_json::Value::String(text) => Value::String(text.as_str().into()),
            serde_json::Value::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| Arc::new(Self::from_json(item, span)))
                    .collect(),
            ),
            serde_json::Value::Object(map) => {
                let entry = |(key, value): (&String, &serde_json::Value)| Entry {
                    key: key.as_str().into(),
                    span,
                    value: Arc::new(Self::from_json(value, span)),
                };
                Value::Map(map.iter().map(entry).collect())
            }
        };
        Self { span, value }
    }
}

impl Value {
    /// Says what the value is, for a sentence: `the string "x"`, `a list`.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("the boolean `{value}`"),
            Self::Int(value) => format!("the integer `{value}`"),
            Self::Float(value) => format!("the number `{value}`"),
            Self::String(text) if text.chars().count() > 40 => "a string".to_owned(),
            Self::String(text) => format!("the string {text:?}"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Reads a plain (unquoted) YAML scalar the way the API server's tools do.
    ///
    /// They follow YAML 1.1 (`sigs.k8s.io/yaml`, which is go-yaml v2): `yes` and `on` are booleans,
    /// `0644` is octal, `1_000` is a number, `1e3` is a string, dates are strings.
    ///
    /// # Fidelity
    /// go-yaml v2 takes `y` and `n` for booleans too. Most other tools write and read them as strings
    /// without quotes, and here they are strings.
    pub fn from_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::Bool(true);
            }
            "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
                return Self::Bool(false);
            }
            _ => {}
        }
        if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
            return Self::String(text.into());
        }
        let plain = text.replace('_', "");
        match integer(&plain) {
            Some(number) => Self::Int(number),
            None if is_special_float(text) || is_float(&plain) => float(&plain),
            None => Self::String(text.into()),
        }
    }
}

/// Reads an integer as Go's `strconv.ParseInt(text, 0, 64)`: with `0x`, `0o`, `0b` or `0` before it.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, lower.get(2..)?),
        [b'0', b'o', ..] => (8, lower.get(2..)?),
        [b'0', b'b', ..] => (2, lower.get(2..)?),
        [b'0', _, ..] => (8, lower.get(1..)?),
        _ => (10, &*lower),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

fn is_special_float(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['+', '-']);
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

/// Whether go-yaml takes it for a float: `[-+]?[0-9]*\.?[0-9]+([eE][-+][0-9]+)?`.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (whole, part) = mantissa.split_once('.').unwrap_or(("", mantissa));
    (whole.is_empty() || digits(whole))
        && digits(part)
        && exponent.is_none_or(|text| text.strip_prefix(['+', '-']).is_some_and(digits))
}

/// A number with nothing after the point is an integer once it has become JSON.
fn float(text: &str) -> Value {
    let whole = match text.split_once('.') {
        Some((whole, part)) if part.bytes().all(|b| b == b'0') => whole,
        _ => text,
    };
    match whole.strip_prefix('+').unwrap_or(whole).parse() {
        Ok(number) => Value::Int(number),
        Err(_) => Value::Float(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_read_as_go_yaml_v2_reads_them() {
        let string = |text: &str| Value::String(text.into());
        let cases = [
            ("8080", Value::Int(8080)),
            ("0644", Value::Int(420)),
            ("0o17", Value::Int(15)),
            ("0x1f", Value::Int(31)),
            ("-0b11", Value::Int(-3)),
            ("1_000", Value::Int(1000)),
            ("08080", Value::Int(8080)),
            ("1.0", Value::Int(1)),
            ("1.5", Value::Float("1.5".into())),
            ("1e3", string("1e3")),
            ("1e+3", Value::Float("1e+3".into())),
            ("yes", Value::Bool(true)),
            ("off", Value::Bool(false)),
            ("y", string("y")),
            ("NULL", Value::Null),
            ("~", Value::Null),
            ("", Value::Null),
            ("10.0.0.1", string("10.0.0.1")),
            ("2024-01-01", string("2024-01-01")),
            ("80:80", string("80:80")),
            ("100m", string("100m")),
            ("-", string("-")),
            ("0x", string("0x")),
            ("+", string("+")),
            (".5", Value::Float(".5".into())),
            (
                "9223372036854775808",
                Value::Float("9223372036854775808".into()),
            ),
            ("web", string("web")),
        ];
        for (text, expected) in cases {
            assert_eq!(Value::from_plain(text), expected, "{text}");
        }
    }
}
