//! Reads single values of a document: names, addresses, ports, labels, one of several words.
//! A value of a wrong type has been reported by the schema check already and is passed over here;
//! what only the API server's validation finds is reported here, in its terms.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use podwire_models::api::PortRef;
use podwire_models::base::{Expression, Labels, OriginId, Protocol, Selector, label, name};

use super::NotModelled;
use super::tree::{Entry, Node, Value};
use crate::problem::{Problem, ProblemCode, Severity, suggestion};
use crate::source::{Lines, Origin, OriginTable};

/// The state of reading one object.
pub(super) struct Reader<'a> {
    /// The name of the source.
    pub(super) source: &'a Arc<str>,
    pub(super) lines: &'a Lines<'a>,
    /// What the object is called in origins: `Service/shop/cart`.
    pub(super) object: Arc<str>,
    /// What the object is called in sentences: `Service shop/cart`.
    pub(super) title: String,
    pub(super) origins: &'a mut OriginTable,
    pub(super) problems: &'a mut Vec<Problem>,
    /// What was met that matters and is not modelled, beyond what the tables of `coverage` say.
    pub(super) gaps: Vec<NotModelled>,
}

/// Makes a problem a warning: the API server would refuse the object, and here it can be read.
pub(super) trait Warn {
    /// Makes it a warning.
    fn warn(&mut self);
}

impl Warn for Problem {
    fn warn(&mut self) {
        self.severity = Severity::Warning;
        self.notes.push("the API server refuses this".to_owned());
    }
}

/// A value that may be absent.
pub(super) type Maybe<'n> = Option<&'n Arc<Node>>;

/// Returns a text, if there is one that is not empty.
pub(super) fn text(node: Maybe<'_>) -> Option<Arc<str>> {
    node.and_then(|node| node.text())
        .filter(|text| !text.is_empty())
        .cloned()
}

/// Returns a list of texts.
pub(super) fn texts(node: Maybe<'_>) -> Vec<Arc<str>> {
    items(node)
        .iter()
        .filter_map(|node| node.text().cloned())
        .collect()
}

/// Returns the items of a list.
pub(super) fn items(node: Maybe<'_>) -> &[Arc<Node>] {
    node.map(|node| node.items()).unwrap_or_default()
}

/// Returns a boolean.
pub(super) fn flag(node: Maybe<'_>) -> Option<bool> {
    if let Value::Bool(value) = node?.value {
        Some(value)
    } else {
        None
    }
}

/// Returns an integer.
pub(super) fn integer(node: Maybe<'_>) -> Option<i64> {
    if let Value::Int(number) = node?.value {
        Some(number)
    } else {
        None
    }
}

/// Reads annotations, whose values may be anything.
pub(super) fn annotations(node: Maybe<'_>) -> Labels {
    let mut annotations = Labels::default();
    for entry in node.map(|node| node.entries()).unwrap_or_default() {
        if let Some(value) = entry.value.text() {
            annotations.insert(Arc::clone(&entry.key), Arc::clone(value));
        }
    }
    annotations
}

impl Reader<'_> {
    /// Remembers where a value was written.
    pub(super) fn origin(&mut self, node: &Node) -> OriginId {
        let (line, column) = self.lines.locate(node.span.range().start);
        let (source, object) = (Arc::clone(self.source), Arc::clone(&self.object));
        self.origins.add(Origin {
            source,
            line,
            column,
            object,
        })
    }

    /// Notes a problem with a value.
    pub(super) fn note(
        &mut self,
        code: ProblemCode,
        node: &Node,
        title: impl fmt::Display,
        label: impl Into<String>,
    ) -> &mut Problem {
        let title = format!("{}: {title}", self.title);
        let problem = Problem::error(code, title).at(node.span.spot(self.source), label);
        self.problems.push(problem);
        self.problems.last_mut().expect("one was pushed just now")
    }

    /// Notes that what stands here matters and is not modelled.
    pub(super) fn gap(&mut self, node: &Node, what: String, why: &'static str) {
        let origin = self.origin(node);
        let object = Arc::clone(&self.object);
        self.gaps.push(NotModelled {
            what,
            object,
            origin,
            why,
        });
    }

    /// Notes that a field must be there. If there is something of a wrong type in its place, that has
    /// been noted already.
    pub(super) fn missing(&mut self, parent: &Node, field: &str) {
        let name = field.rsplit('.').next().unwrap_or(field);
        let wrong = |entry: &Entry| {
            !matches!(
                entry.value.value,
                Value::Null | Value::String(_) | Value::List(_)
            )
        };
        if !matches!(parent.value, Value::Map(_)) || parent.entry(name).is_some_and(wrong) {
            return;
        }
        let title = format!("`{field}` is missing");
        self.note(
            ProblemCode::ManMissingField,
            parent,
            title,
            format!("`{field}` must be here"),
        );
    }

    /// Reads a value by its own rules.
    pub(super) fn parse<T: FromStr<Err: fmt::Display>>(
        &mut self,
        node: Maybe<'_>,
        code: ProblemCode,
        what: &str,
    ) -> Option<T> {
        let node = node?;
        let text = node.text().filter(|text| !text.is_empty())?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(
                    code,
                    node,
                    format!("{what} is not valid"),
                    T::Err::to_string(&error),
                );
                None
            }
        }
    }

    /// Reads an IP address.
    pub(super) fn ip(&mut self, node: Maybe<'_>, what: &str) -> Option<IpAddr> {
        let node = node?;
        let text = node.text().filter(|text| !text.is_empty())?;
        let address = text.parse().ok();
        if address.is_none() {
            let title = format!("{what} is not an IP address");
            self.note(
                ProblemCode::ManBadAddress,
                node,
                title,
                "not an IPv4 or IPv6 address",
            );
        }
        address
    }

    /// Reads a list of IP addresses.
    pub(super) fn ips(&mut self, node: Maybe<'_>, what: &str) -> Vec<IpAddr> {
        items(node)
            .iter()
            .filter_map(|item| self.ip(Some(item), what))
            .collect()
    }

    /// Reads a range of addresses.
    pub(super) fn cidr(&mut self, node: Maybe<'_>, what: &str) -> Option<IpNet> {
        let node = node?;
        let text = node.text().filter(|text| !text.trim().is_empty())?;
        if let Ok(net) = text.trim().parse::<IpNet>() {
            return Some(net);
        }
        let bare = text.trim().parse::<IpAddr>().ok();
        let title = format!("{what} is not a range of addresses");
        let problem = self.note(
            ProblemCode::ManBadAddress,
            node,
            title,
            "not a CIDR such as `10.0.0.0/8`",
        );
        problem
            .help
            .extend(bare.map(|ip| format!("a single address is written `{}`", IpNet::from(ip))));
        None
    }

    /// Reads a port that must be between 1 and 65535.
    pub(super) fn port(&mut self, node: Maybe<'_>, what: &str) -> Option<u16> {
        let node = node?;
        let Value::Int(number) = node.value else {
            return None;
        };
        match u16::try_from(number) {
            Ok(port) if port != 0 => Some(port),
            _ => {
                let title = format!("{what} is outside the range of ports");
                self.note(
                    ProblemCode::ManPortRange,
                    node,
                    title,
                    "must be between 1 and 65535",
                );
                None
            }
        }
    }

    /// Reads a port for which 0 means that there is none.
    pub(super) fn port_or_none(&mut self, node: Maybe<'_>, what: &str) -> Option<u16> {
        self.port(node.filter(|node| node.value != Value::Int(0)), what)
    }

    /// Reads a port by number or name.
    pub(super) fn port_ref(&mut self, node: Maybe<'_>, what: &str) -> Option<PortRef> {
        match &node?.value {
            Value::Int(_) => self.port(node, what).map(PortRef::Number),
            Value::String(_) => self.port_name(node, what).map(PortRef::Name),
            Value::Null | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Reads the name of a container's port (an IANA service name, RFC 6335).
    pub(super) fn port_name(&mut self, node: Maybe<'_>, what: &str) -> Option<Arc<str>> {
        let name = text(node)?;
        let letters = name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let fault = if name.len() > 15 {
            "longer than 15 characters"
        } else if !letters {
            "only lower case letters, digits and `-` are allowed"
        } else if !name.chars().any(|c| c.is_ascii_lowercase()) {
            "there must be at least one letter"
        } else if name.starts_with('-') || name.ends_with('-') || name.contains("--") {
            "`-` must stand alone between letters or digits"
        } else {
            return Some(name);
        };
        let title = format!("{what} is not the name of a port");
        let problem = self.note(ProblemCode::ManBadName, node?, title, fault);
        if name.parse::<u16>().is_ok() {
            problem
                .help
                .push(format!("a port number is written without quotes: `{name}`"));
        }
        None
    }

    /// Reads a DNS label (at most 63 characters).
    pub(super) fn dns_label(&mut self, node: Maybe<'_>, what: &str) -> Option<Arc<str>> {
        let name = text(node)?;
        if let Err(error) = name::check_label(&name) {
            let title = format!("{what} is not a DNS label");
            self.note(ProblemCode::ManBadName, node?, title, error.to_string());
        }
        Some(name)
    }

    /// Reads one of several words.
    pub(super) fn word<T: Copy>(
        &mut self,
        node: Maybe<'_>,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let node = node?;
        let found = node.text().filter(|text| !text.is_empty())?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == &**found) {
            return Some(*value);
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let help = match suggestion(found, all.iter().copied()) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => format!("it is one of: {}", all.join(", ")),
        };
        let title = format!("{what} cannot be `{found}`");
        self.note(
            ProblemCode::ManBadValue,
            node,
            title,
            "not one of the words it may be",
        )
        .help
        .push(help);
        None
    }

    /// Reads a transport protocol; TCP if there is none.
    pub(super) fn protocol(&mut self, node: Maybe<'_>) -> Protocol {
        let words = Protocol::ALL.map(|protocol| (protocol.upper(), protocol));
        self.word(node, "`protocol`", &words).unwrap_or_default()
    }

    /// Reads a number that is not negative.
    pub(super) fn count(&mut self, node: Maybe<'_>, what: &str) -> Option<u32> {
        let number = integer(node)?;
        let count = u32::try_from(number).ok();
        if count.is_none() {
            let title = format!("{what} must not be negative");
            self.note(ProblemCode::ManBadValue, node?, title, "must be 0 or more");
        }
        count
    }

    /// Reads labels, and checks their syntax.
    pub(super) fn labels(&mut self, node: Maybe<'_>) -> Labels {
        let mut labels = Labels::default();
        for entry in node.map(|node| node.entries()).unwrap_or_default() {
            let key = Node {
                span: entry.span,
                value: Value::Null,
            };
            if let Err(error) = label::check_key(&entry.key) {
                let title = format!("`{}` is not the key of a label", entry.key);
                self.note(ProblemCode::ManBadLabel, &key, title, error.to_string());
            }
            let value = self.label_value(&entry.value);
            labels.insert(Arc::clone(&entry.key), value);
        }
        labels
    }

    fn label_value(&mut self, node: &Arc<Node>) -> Arc<str> {
        let value = node.text().cloned().unwrap_or_else(|| "".into());
        if let Err(error) = label::check_value(&value) {
            let title = format!("`{value}` is not the value of a label");
            self.note(ProblemCode::ManBadLabel, node, title, error.to_string());
        }
        value
    }

    /// Reads a selector with `matchLabels` and `matchExpressions`.
    pub(super) fn selector(&mut self, node: Maybe<'_>) -> Option<Selector> {
        let node = node?;
        let match_labels = self.labels(node.get("matchLabels"));
        let expressions = items(node.get("matchExpressions"));
        let match_expressions = expressions
            .iter()
            .filter_map(|item| self.expression(item))
            .collect();
        Some(Selector {
            match_labels,
            match_expressions,
        })
    }

    fn expression(&mut self, node: &Arc<Node>) -> Option<Expression> {
        let Some(key) = text(node.get("key")) else {
            self.missing(node, "key");
            return None;
        };
        if let Err(error) = label::check_key(&key) {
            let title = format!("`{key}` is not the key of a label");
            self.note(
                ProblemCode::ManBadLabel,
                node.get("key").unwrap_or(node),
                title,
                error.to_string(),
            );
        }
        let values: Vec<Arc<str>> = items(node.get("values"))
            .iter()
            .map(|value| self.label_value(value))
            .collect();
        let operator = node.get("operator");
        if operator.is_none() {
            self.missing(node, "operator");
        }
        let words = [("In", 0), ("NotIn", 1), ("Exists", 2), ("DoesNotExist", 3)];
        let operator = self.word(operator, "`operator`", &words)?;
        if (operator < 2) == values.is_empty() {
            let (title, label) = if values.is_empty() {
                (
                    "`values` must not be empty for `In` and `NotIn`",
                    "needs values",
                )
            } else {
                (
                    "`values` must be empty for `Exists` and `DoesNotExist`",
                    "takes no values",
                )
            };
            self.note(ProblemCode::ManBadValue, node, title, label);
        }
        Some(match operator {
            0 => Expression::In(key, values),
            1 => Expression::NotIn(key, values),
            2 => Expression::Exists(key),
            _ => Expression::DoesNotExist(key),
        })
    }
}
