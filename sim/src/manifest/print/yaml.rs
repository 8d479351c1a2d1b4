//! A value as YAML, laid out as `kubectl get -o yaml` does: keys in order, lists at the margin of their key, strings in
//! quotes only where a reader would take them for something else.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// Returns a value as a document of YAML.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut out),
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
    out
}

/// Writes a list or map with entries, its first line without an indent.
fn block(value: &Value, indent: usize, out: &mut String) {
    let mut margin = String::new();
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, value) in entries {
                out.push_str(&margin);
                out.push_str(&string(key));
                out.push(':');
                let below = if value.is_array() { indent } else { indent + 2 };
                entry(value, "\n", below, out);
                margin = " ".repeat(indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                out.push_str(&margin);
                out.push('-');
                entry(item, " ", indent + 2, out);
                margin = " ".repeat(indent);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Writes what stands behind a key or a dash; a block begins after `gap`.
fn entry(value: &Value, gap: &str, indent: usize, out: &mut String) {
    let empty = match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    if empty {
        out.push(' ');
        out.push_str(&scalar(value));
        out.push('\n');
        return;
    }
    out.push_str(gap);
    if gap == "\n" {
        out.push_str(&" ".repeat(indent));
    }
    block(value, indent, out);
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

/// A string, in quotes unless it is plainly one.
fn string(text: &str) -> String {
    if plain(text) {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

/// Whether every reader of YAML 1.1 and 1.2 takes the bare text for this string: a word that is no other value, or an
/// address.
fn plain(text: &str) -> bool {
    const OTHER: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let lower = text.to_ascii_lowercase();
    let first = text.chars().next();
    let word = first.is_some_and(|first| first.is_alphabetic() || matches!(first, '_' | '/'))
        && text.parse::<f64>().is_err()
        && !OTHER.contains(&lower.as_str());
    let number = first.is_some_and(|first| first.is_ascii_digit());
    let address = number && (text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok());
    let special = |c: char| {
        c.is_control()
            || matches!(
                c,
                '"' | '\\' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'
            )
    };
    (word || address)
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([' ', ':'])
        && !text.contains(special)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn is_laid_out_as_kubectl_does() {
        let value = json!({
            "metadata": { "name": "a", "labels": {} },
            "args": [["-x", "y"], { "b": 1, "a": [true] }],
            "kind": "Pod",
        });
        let wanted = "\
args:
- - \"-x\"
  - \"y\"
- a:
  - true
  b: 1
kind: Pod
metadata:
  labels: {}
  name: a
";
        assert_eq!(text(&value), wanted);
    }

    #[test]
    fn strings_that_look_like_something_else_are_quoted() {
        for bare in [
            "a",
            "10.244.1.2",
            "registry.k8s.io/x:1.2",
            "app.kubernetes.io/name",
            "10.0.0.0/8",
            "fd00::1",
        ] {
            assert_eq!(string(bare), bare);
        }
        for quoted in [
            "",
            "5",
            "1.5",
            "1e3",
            "0x1f",
            "no",
            "True",
            "null",
            "a: b",
            "a #b",
            "- a",
            "*",
            "&a",
            "12:30",
            "2024-01-01",
            "2024-01-01T00:00:00Z",
            "1_000",
            "::1",
            "{a",
            "a\nb",
            " a",
            "a ",
            "%a",
            "@a",
            "`a",
            "!a",
            "'a",
        ] {
            assert!(string(quoted).starts_with('"'), "{quoted}");
        }
    }
}
