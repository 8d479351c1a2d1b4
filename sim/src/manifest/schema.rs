//! Checks a document against the schema of its kind, as strict validation of `kubectl apply` does:
//! no unknown fields, no values of a wrong type.
//!
//! The schema is `k8s-openapi`'s types: they are deserialized from the tree and thrown away. This
//! deserializer never gives up. It notes a problem, hands out an empty value, and goes on, so that
//! all problems of a document are found, each at its place.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::tree::{Entry, Node, Value};
use crate::problem::{Problem, ProblemCode, suggestion};

/// Checks a document against a type of `k8s-openapi`.
pub(super) fn check<'a, T: de::Deserialize<'a>>(
    root: &'a Node,
    kind: &'a str,
    source: &'a Arc<str>,
    problems: &mut Vec<Problem>,
) {
    let report = Report {
        kind,
        source,
        problems: RefCell::new(Vec::new()),
    };
    let deserializer = Deserializer {
        node: root,
        report: &report,
        path: Path::Root,
    };
    // An error was noted where it arose.
    let _ = T::deserialize(deserializer);
    problems.append(&mut report.problems.into_inner());
}

/// What is being checked, and what was found so far.
struct Report<'a> {
    kind: &'a str,
    source: &'a Arc<str>,
    problems: RefCell<Vec<Problem>>,
}

/// How to get to a value from the top of its document.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) if key.contains('.') => write!(f, "{parent}[{key}]"),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
            Path::Item(parent, number) => write!(f, "{parent}[{number}]"),
        }
    }
}

/// An error that has been noted already, or has yet to be.
#[derive(Debug)]
enum Error {
    Noted,
    New(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noted => f.write_str("noted"),
            Self::New(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::New(message.to_string())
    }
}

#[derive(Clone, Copy)]
struct Deserializer<'a, 'p> {
    node: &'a Node,
    report: &'p Report<'a>,
    path: Path<'p>,
}

impl<'a, 'p> Deserializer<'a, 'p> {
    /// Notes that the value is not what its field takes.
    fn mismatch(&self, expected: &str, help: Option<String>) {
        let found = self.node.value.describe();
        let title = match self.path {
            Path::Root => format!("{} must be {expected}", self.report.kind),
            Path::Key(..) | Path::Item(..) => format!("`{}` must be {expected}", self.path),
        };
        self.note(
            ProblemCode::ManWrongType,
            title,
            format!("found {found}"),
            help,
        );
    }

    fn note(&self, code: ProblemCode, title: String, label: String, help: Option<String>) {
        let spot = self.node.span.spot(self.report.source);
        let mut problem = Problem::error(code, title).at(spot, label);
        problem.help.extend(help);
        self.report.problems.borrow_mut().push(problem);
    }

    /// Notes what the type itself found wrong with the value.
    fn outcome<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| {
            if let Error::New(message) = error {
                let title = format!("`{}` has a value that it does not take", self.path);
                self.note(ProblemCode::ManBadValue, title, message, None);
            }
            Error::Noted
        })
    }

    fn integer<T: TryFrom<i64>>(&self, expected: &str) -> Option<T> {
        match &self.node.value {
            Value::Null => {}
            Value::Int(number) => match T::try_from(*number) {
                Ok(number) => return Some(number),
                Err(_) => self.mismatch(expected, None),
            },
            Value::String(text) if text.parse::<i64>().is_ok() => {
                self.mismatch(expected, Some(format!("write it without quotes: `{text}`")));
            }
            Value::Bool(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::List(_)
            | Value::Map(_) => {
                self.mismatch(expected, None);
            }
        }
        None
    }

    fn text(&self) -> &'a str {
        let quoted = |text: &dyn fmt::Display| {
            self.mismatch(
                "a string",
                Some(format!("write it with quotes: `\"{text}\"`")),
            );
        };
        match &self.node.value {
            Value::String(text) => return text,
            Value::Null => {}
            Value::Bool(value) => quoted(value),
            Value::Int(number) => quoted(number),
            Value::Float(text) => quoted(text),
            Value::List(_) | Value::Map(_) => self.mismatch("a string", None),
        }
        ""
    }

    fn int_or_string<V: Visitor<'a>>(&self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::String(text) => return visitor.visit_borrowed_str(text),
            Value::Int(number) if i32::try_from(*number).is_ok() => {
                return visitor.visit_i64(*number);
            }
            Value::Null => {}
            Value::Int(_) | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Map(_) => {
                self.mismatch("an integer of 32 bits or a string", None);
            }
        }
        visitor.visit_i64(0)
    }

    fn entries(&self, fields: Option<&'static [&'static str]>) -> Entries<'a, 'p> {
        let entries: &[Entry] = match &self.node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::List(_) => {
                self.mismatch("a mapping", None);
                &[]
            }
        };
        Entries {
            rest: entries.iter(),
            value: None,
            fields,
            owner: *self,
        }
    }

    fn unknown(&self, entry: &Entry, fields: &[&str]) {
        let title = format!(
            "{} has no field `{}`",
            self.report.kind,
            Path::Key(&self.path, &entry.key)
        );
        let help = match suggestion(&entry.key, fields.iter().copied()) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None if fields.is_empty() => "nothing may be here".to_owned(),
            None => format!("the fields here are: {}", fields.join(", ")),
        };
        let spot = entry.span.spot(self.report.source);
        let problem = Problem::error(ProblemCode::ManUnknownField, title)
            .at(spot, "unknown field")
            .help(help);
        self.report.problems.borrow_mut().push(problem);
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
            let number: $type = self.integer($expected).unwrap_or_default();
            self.outcome(visitor.$visit(number))
        }
    )*};
}

impl<'a> de::Deserializer<'a> for Deserializer<'a, '_> {
    type Error = Error;

    integers! {
        deserialize_i8 visit_i8 i8, "an integer of 8 bits";
        deserialize_i16 visit_i16 i16, "an integer of 16 bits";
        deserialize_i32 visit_i32 i32, "an integer of 32 bits";
        deserialize_i64 visit_i64 i64, "an integer";
        deserialize_u8 visit_u8 u8, "an integer of 8 bits, not negative";
        deserialize_u16 visit_u16 u16, "an integer of 16 bits, not negative";
        deserialize_u32 visit_u32 u32, "an integer of 32 bits, not negative";
        deserialize_u64 visit_u64 u64, "an integer, not negative";
    }

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match wanted(&visitor).as_str() {
            "IntOrString" => return self.int_or_string(visitor),
            "Quantity"
                if matches!(
                    self.node.value,
                    Value::Bool(_) | Value::List(_) | Value::Map(_)
                ) =>
            {
                self.mismatch("a quantity such as `100m` or `64Mi`", None);
                return visitor.visit_borrowed_str("0");
            }
            _ => {}
        }
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Float(text) | Value::String(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items {
                list: items,
                next: 0,
                owner: self,
            }),
            Value::Map(_) => visitor.visit_map(self.entries(None)),
        };
        self.outcome(result)
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = match &self.node.value {
            Value::Bool(value) => *value,
            Value::Null => false,
            Value::String(text) if matches!(&**text, "true" | "false") => {
                self.mismatch(
                    "a boolean",
                    Some(format!("write it without quotes: `{text}`")),
                );
                false
            }
            Value::Int(_) | Value::Float(_) | Value::String(_) | Value::List(_) | Value::Map(_) => {
                self.mismatch("a boolean", Some("write `true` or `false`".to_owned()));
                false
            }
        };
        self.outcome(visitor.visit_bool(value))
    }

    fn deserialize_f32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null | Value::Int(_) | Value::Float(_) => {}
            Value::Bool(_) | Value::String(_) | Value::List(_) | Value::Map(_) => {
                self.mismatch("a number", None);
            }
        }
        self.outcome(visitor.visit_f64(0.0))
    }

    fn deserialize_char<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text();
        self.outcome(visitor.visit_borrowed_str(text))
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null => self.outcome(visitor.visit_none()),
            Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::List(_)
            | Value::Map(_) => self.outcome(visitor.visit_some(self)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let time = matches!(name, "Time" | "MicroTime");
        if time && self.node.text().is_none_or(|text| !looks_like_time(text)) {
            self.mismatch("a time such as `2024-09-03T08:15:27Z`", None);
            let epoch = de::value::BorrowedStrDeserializer::<Error>::new("1970-01-01T00:00:00Z");
            return visitor.visit_newtype_struct(epoch);
        }
        self.outcome(visitor.visit_newtype_struct(self))
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let items: &[Arc<Node>] = match &self.node.value {
            Value::List(items) => items,
            Value::Null => &[],
            Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {
                self.mismatch("a list", None);
                &[]
            }
            Value::Map(_) => {
                self.mismatch("a list", Some("begin each item with `- `".to_owned()));
                &[]
            }
        };
        self.outcome(visitor.visit_seq(Items {
            list: items,
            next: 0,
            owner: self,
        }))
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        self.outcome(visitor.visit_map(self.entries(None)))
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.outcome(visitor.visit_map(self.entries(Some(fields))))
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

/// Returns the name of the type that a visitor builds: `k8s-openapi` gives it as what it expects.
fn wanted<'a>(visitor: &impl Visitor<'a>) -> String {
    (visitor as &dyn de::Expected).to_string()
}

/// Whether a text has the shape of an RFC 3339 time.
fn looks_like_time(text: &str) -> bool {
    let shape: String = text
        .chars()
        .take(19)
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:00" && text.len() > 19
}

struct Items<'a, 'p> {
    list: &'a [Arc<Node>],
    next: usize,
    owner: Deserializer<'a, 'p>,
}

impl<'a> SeqAccess<'a> for Items<'a, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(node) = self.list.get(self.next) else {
            return Ok(None);
        };
        let path = Path::Item(&self.owner.path, self.next);
        self.next += 1;
        seed.deserialize(Deserializer {
            node,
            report: self.owner.report,
            path,
        })
        .map(Some)
    }
}

struct Entries<'a, 'p> {
    rest: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
    fields: Option<&'static [&'static str]>,
    owner: Deserializer<'a, 'p>,
}

impl<'a> MapAccess<'a> for Entries<'a, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        for entry in self.rest.by_ref() {
            match self.fields {
                Some(fields) if !fields.contains(&&*entry.key) => self.owner.unknown(entry, fields),
                _ => {
                    self.value = Some(entry);
                    let key: de::value::BorrowedStrDeserializer<'a, Error> =
                        de::value::BorrowedStrDeserializer::new(&entry.key);
                    return seed.deserialize(key.into_deserializer()).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let entry = self
            .value
            .take()
            .expect("serde asks for a value after its key");
        let path = Path::Key(&self.owner.path, &entry.key);
        seed.deserialize(Deserializer {
            node: &entry.value,
            report: self.owner.report,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Service};

    use super::*;
    use crate::problem::{Sources, render};
    use crate::source::Source;

    fn said<T: for<'a> de::Deserialize<'a>>(kind: &str, text: &str) -> String {
        let source = Source::new("x.yaml", text);
        let (documents, mut problems) = crate::manifest::yaml::read(&source);
        for root in &documents {
            check::<T>(root, kind, &source.name, &mut problems);
        }
        let mut sources = Sources::default();
        sources.add("x.yaml", text);
        render(&problems, &sources)
    }

    #[test]
    fn every_problem_of_a_document_is_found() {
        let text = "\
apiVersion: v1
kind: Service
metadata: {name: web, labels: {version: 1}}
spec:
  selectr: {app: web}
  ports:
  - port: \"80\"
    targetPort: [1]
  - prt: 3
  - 5
  publishNotReadyAddresses: yes please
";
        let said = said::<Service>("Service", text);
        let expected = [
            "`metadata.labels.version` must be a string",
            "Service has no field `spec.selectr`",
            "`spec.ports[0].port` must be an integer of 32 bits",
            "`spec.ports[0].targetPort` must be an integer of 32 bits or a string",
            "Service has no field `spec.ports[1].prt`",
            "`spec.ports[2]` must be a mapping",
            "`spec.publishNotReadyAddresses` must be a boolean",
        ];
        let titles: Vec<&str> = said
            .lines()
            .filter_map(|line| Some(line.strip_prefix("error[")?.split_once(": ")?.1))
            .collect();
        assert_eq!(titles, expected);
        assert!(said.contains("help: did you mean `selector`?"), "{said}");
        assert!(
            said.contains("help: write it without quotes: `80`"),
            "{said}"
        );
    }

    #[test]
    fn what_kubectl_prints_is_fine() {
        let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  creationTimestamp: null
  managedFields:
  - manager: kubectl
    time: \"2024-09-03T08:15:27Z\"
    fieldsV1: {\"f:metadata\": {\".\": {}}}
spec:
  containers:
  - name: c
    resources: {limits: {cpu: 1, memory: 64Mi}}
    ports:
status: {}
";
        assert_eq!(said::<Pod>("Pod", text), "");
        assert!(said::<Pod>("Pod", &text.replace("2024", "soon")).contains("must be a time"));
    }
}
