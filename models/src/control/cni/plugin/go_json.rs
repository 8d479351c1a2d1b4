//! Reading JSON as Go's `encoding/json` does: names in any case, unknown names skipped, `null` leaves the default, and the
//! first value of a wrong type is the error, told in Go's words.
//!
//! Source: Go 1.25 `encoding/json/decode.go`, seen through the plugins' recorded errors.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::Value;

/// Parses a document.
///
/// # Errors
/// If it is not JSON.
pub fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| {
        if e.is_eof() {
            return "unexpected end of JSON input".to_owned();
        }
        let line = text.lines().nth(e.line().saturating_sub(1)).unwrap_or("");
        let found = line.chars().nth(e.column().saturating_sub(1));
        format!(
            "invalid character {:?} looking for beginning of value",
            found.unwrap_or(' ')
        )
    })
}

/// Returns one string field of the outermost object, empty where it is absent.
///
/// # Errors
/// If the document is not an object, or the field is not a string.
pub fn top_string(value: &Value, name: &'static str) -> Result<String, String> {
    let mut decoder = Decoder::default();
    let mut found = String::new();
    let root = Spot::root();
    decoder.object(value, &root, "", "struct", &[name], |d, _, v, at| {
        d.string(v, at, &mut found);
    });
    decoder.finish(found)
}

/// Where in the Go types a value belongs: the innermost struct's name, and the names of fields from the outermost.
#[derive(Clone, Debug)]
pub struct Spot {
    owner: &'static str,
    path: String,
}

impl Spot {
    /// The outermost value.
    pub const fn root() -> Self {
        Self {
            owner: "",
            path: String::new(),
        }
    }

    fn field(&self, owner: &'static str, name: &str) -> Self {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        Self { owner, path }
    }
}

/// Remembers the first error and goes on, as Go does.
#[derive(Debug, Default)]
pub struct Decoder {
    error: Option<String>,
}

impl Decoder {
    /// Returns what was read.
    ///
    /// # Errors
    /// If something was of a wrong type.
    pub fn finish<T>(self, value: T) -> Result<T, String> {
        self.error.map_or(Ok(value), Err)
    }

    /// Reads an object: `each` gets the fields whose name is one of `names`, in the order of the document. A name with dots
    /// belongs to an embedded struct, whose name is in front of the dot.
    pub fn object<'a>(
        &mut self,
        value: &'a Value,
        at: &Spot,
        owner: &'static str,
        go_type: &str,
        names: &[&'static str],
        mut each: impl FnMut(&mut Self, &'static str, &'a Value, &Spot),
    ) {
        let map = match value {
            Value::Null => return,
            Value::Object(map) => map,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return self.wrong(value, at, go_type);
            }
        };
        for (key, value) in map {
            let own = |name: &&&'static str| name.rsplit('.').next().unwrap_or("");
            let exact = names.iter().find(|name| own(name) == key);
            let name = exact.or_else(|| names.iter().find(|n| own(n).eq_ignore_ascii_case(key)));
            if let Some(name) = name {
                each(self, name, value, &at.field(owner, name));
            }
        }
    }

    /// Reads an array.
    pub fn array<'a>(
        &mut self,
        value: &'a Value,
        at: &Spot,
        go_type: &str,
        mut each: impl FnMut(&mut Self, &'a Value, &Spot),
    ) {
        match value {
            Value::Null => {}
            Value::Array(values) => {
                for value in values {
                    each(self, value, at);
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                self.wrong(value, at, go_type);
            }
        }
    }

    /// Reads a string.
    pub fn string(&mut self, value: &Value, at: &Spot, into: &mut String) {
        match value {
            Value::Null => {}
            Value::String(text) => text.clone_into(into),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.wrong(value, at, "string");
            }
        }
    }

    /// Reads strings.
    pub fn strings(&mut self, value: &Value, at: &Spot, into: &mut Vec<String>) {
        self.array(value, at, "[]string", |d, value, at| {
            let mut text = String::new();
            d.string(value, at, &mut text);
            into.push(text);
        });
    }

    /// Reads a switch.
    pub fn bool(&mut self, value: &Value, at: &Spot, into: &mut bool) {
        match value {
            Value::Null => {}
            Value::Bool(on) => *into = *on,
            Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                self.wrong(value, at, "bool");
            }
        }
    }

    /// Reads a string that may be absent.
    pub fn optional_string(&mut self, value: &Value, at: &Spot, into: &mut Option<String>) {
        if !value.is_null() {
            self.string(value, at, into.get_or_insert_default());
        }
    }

    /// Reads an integer.
    pub fn int(&mut self, value: &Value, at: &Spot, into: &mut Option<i64>) {
        match value {
            Value::Null => {}
            Value::Number(number) => match number.as_i64() {
                Some(number) => *into = Some(number),
                None => self.fail(format!("number {number}"), at, "int"),
            },
            Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                self.wrong(value, at, "int");
            }
        }
    }

    /// Reads a `net.IP`; an empty text is none.
    pub fn ip(&mut self, value: &Value, at: &Spot, into: &mut Option<IpAddr>) {
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() => *into = None,
            Value::String(text) => match IpAddr::from_str(text) {
                Ok(ip) => *into = Some(ip.to_canonical()),
                Err(_) => self.save(format!("invalid IP address: {text}")),
            },
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.wrong(value, at, "net.IP");
            }
        }
    }

    /// Reads a `types.IPNet`: an address with the length of its prefix, host bits kept.
    pub fn ip_net(&mut self, value: &Value, at: &Spot, into: &mut Option<IpNet>) {
        let mut text = String::new();
        let errors = self.error.is_some();
        self.string(value, at, &mut text);
        if value.is_null() || (!errors && self.error.is_some()) {
            return;
        }
        match IpNet::from_str(&text) {
            Ok(net) => *into = Some(net),
            Err(_) => self.save(format!("invalid CIDR address: {text}")),
        }
    }

    /// Keeps an error that a type's own reader returned.
    pub fn save(&mut self, error: String) {
        self.error.get_or_insert(error);
    }

    /// Keeps the error that a value is of the wrong type.
    pub fn wrong(&mut self, value: &Value, at: &Spot, go_type: &str) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.fail(kind.to_owned(), at, go_type);
    }

    fn fail(&mut self, kind: String, at: &Spot, go_type: &str) {
        let place = if at.owner.is_empty() && at.path.is_empty() {
            "Go value".to_owned()
        } else {
            format!("Go struct field {}.{}", at.owner, at.path)
        };
        self.save(format!(
            "json: cannot unmarshal {kind} into {place} of type {go_type}"
        ));
    }
}
