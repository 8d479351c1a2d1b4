//! Labels and what selects by them (`metav1.LabelSelector`).
//! "No selector" and "a selector that selects everything" are different things: the first is an
//! `Option::None` outside, the second `Selector::default()`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The labels (or annotations) of one object, sorted by key. There are few, of very many objects.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Vec<(Arc<str>, Arc<str>)>);

impl Labels {
    /// Returns no labels.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(key))
    }

    /// Returns the value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.shared(key).map(|value| &**value)
    }

    /// Returns the value of a label, to be kept.
    pub fn shared(&self, key: &str) -> Option<&Arc<str>> {
        let position = self.find(key).ok()?;
        self.0.get(position).map(|(_, value)| value)
    }

    /// Sets a label, and returns what it was before.
    pub fn insert(
        &mut self,
        key: impl Into<Arc<str>>,
        value: impl Into<Arc<str>>,
    ) -> Option<Arc<str>> {
        let (key, value) = (key.into(), value.into());
        match self.find(&key) {
            Ok(position) => {
                let (_, known) = self.0.get_mut(position)?;
                Some(std::mem::replace(known, value))
            }
            Err(position) => {
                self.0.reserve_exact(1);
                self.0.insert(position, (key, value));
                None
            }
        }
    }

    /// Removes a label, and returns what it was.
    pub fn remove(&mut self, key: &str) -> Option<Arc<str>> {
        let position = self.find(key).ok()?;
        Some(self.0.remove(position).1)
    }

    /// Returns the labels in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Returns the labels in the order of their keys, to be kept.
    pub fn pairs(&self) -> &[(Arc<str>, Arc<str>)] {
        &self.0
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut labels = Self::new();
        for (key, value) in pairs {
            labels.insert(key, value);
        }
        labels
    }
}

impl fmt::Debug for Labels {
    /// `Labels({"app": "web"})`. The names of ReplicaSets are hashes of what is written here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Map<'l>(&'l Labels);
        impl fmt::Debug for Map<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_map().entries(self.0.iter()).finish()
            }
        }
        f.debug_tuple("Labels").field(&Map(self)).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl fmt::Display for Labels {
    /// `app=web,tier=front`, as `kubectl get --show-labels` prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (key, value)) in self.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// Which objects are meant, by their labels. The empty selector means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// Labels that must be there with exactly these values.
    pub match_labels: Labels,
    /// Further requirements; all of them must hold.
    pub match_expressions: Vec<Expression>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expression {
    /// The label is there and has one of the values.
    In(Arc<str>, Vec<Arc<str>>),
    /// The label is absent, or has none of the values.
    NotIn(Arc<str>, Vec<Arc<str>>),
    /// The label is there.
    Exists(Arc<str>),
    /// The label is absent.
    DoesNotExist(Arc<str>),
}

impl Selector {
    /// Returns the selector of a plain set of labels.
    pub const fn labels(match_labels: Labels) -> Self {
        Self {
            match_labels,
            match_expressions: Vec::new(),
        }
    }

    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|expression| expression.holds(labels))
    }

    /// Returns the requirements that do not hold for these labels.
    pub fn failed(&self, labels: &Labels) -> impl Iterator<Item = Requirement> {
        let exact = self.match_labels.pairs().iter();
        let exact = exact.filter(|(key, value)| labels.get(key) != Some(value));
        let other = self.match_expressions.iter();
        let other = other.filter(|expression| !expression.holds(labels));
        exact
            .map(|(key, value)| Requirement::Is(Arc::clone(key), Arc::clone(value)))
            .chain(other.cloned().map(Requirement::Other))
    }

    /// Whether everything is meant.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

impl Expression {
    /// Returns the key of the label it looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::DoesNotExist(key) => key,
        }
    }

    /// Whether the requirement holds for these labels.
    pub fn holds(&self, labels: &Labels) -> bool {
        let among = |key: &str, values: &[Arc<str>]| {
            labels
                .get(key)
                .is_some_and(|found| values.iter().any(|value| **value == *found))
        };
        match self {
            Self::In(key, values) => among(key, values),
            Self::NotIn(key, values) => !among(key, values),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::DoesNotExist(key) => labels.get(key).is_none(),
        }
    }
}

impl fmt::Display for Selector {
    /// `app=web,tier in (a,b),!old`, the syntax of `kubectl -l`; the empty selector prints nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.match_labels)?;
        let mut comma = if self.match_labels.is_empty() {
            ""
        } else {
            ","
        };
        for expression in &self.match_expressions {
            write!(f, "{comma}{expression}")?;
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(key, values) => write!(f, "{key} in ({})", values.join(",")),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(",")),
            Self::Exists(key) => write!(f, "{key}"),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
        }
    }
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{part}` does not select by labels as in `app=web,tier in (a,b),!old`: {error}")]
pub struct ParseSelectorError {
    /// The requirement that cannot be read.
    pub part: String,
    /// Why not.
    pub error: LabelError,
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    /// Reads the syntax of `kubectl -l`.
    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let mut selector = Self::default();
        let mut depth = 0_u32;
        let outside = |c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        };
        for part in text
            .split(outside)
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let error = |error| ParseSelectorError {
                part: part.to_owned(),
                error,
            };
            match requirement(part).map_err(error)? {
                Requirement::Is(key, value) => drop(selector.match_labels.insert(key, value)),
                Requirement::Other(expression) => selector.match_expressions.push(expression),
            }
        }
        Ok(selector)
    }
}

/// One thing a selector asks of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A label is there and has this value.
    Is(Arc<str>, Arc<str>),
    /// A requirement of another form.
    Other(Expression),
}

impl Requirement {
    /// Returns the key of the label it looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::Is(key, _) => key,
            Self::Other(expression) => expression.key(),
        }
    }
}

fn requirement(part: &str) -> Result<Requirement, LabelError> {
    let key = |text: &str| check_key(text.trim()).map(|()| Arc::<str>::from(text.trim()));
    let value = |text: &str| check_value(text.trim()).map(|()| Arc::<str>::from(text.trim()));
    let values = |text: &str| {
        let list = text
            .trim()
            .strip_prefix('(')
            .and_then(|rest| rest.strip_suffix(')'));
        list.ok_or(LabelError::Syntax)?
            .split(',')
            .map(value)
            .collect::<Result<Vec<_>, _>>()
    };
    let other = if let Some((name, wanted)) = part.split_once(" notin ") {
        Expression::NotIn(key(name)?, values(wanted)?)
    } else if let Some((name, wanted)) = part.split_once(" in ") {
        Expression::In(key(name)?, values(wanted)?)
    } else if let Some((name, wanted)) = part.split_once("!=") {
        Expression::NotIn(key(name)?, vec![value(wanted)?])
    } else if let Some((name, wanted)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::Is(key(name)?, value(wanted)?));
    } else if let Some(name) = part.strip_prefix('!') {
        Expression::DoesNotExist(key(name)?)
    } else {
        Expression::Exists(key(part)?)
    };
    Ok(Requirement::Other(other))
}

/// Why a text is no label key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A key needs a name.
    #[error("a label key must not be empty")]
    EmptyKey,
    /// The part before `/` is no DNS subdomain.
    #[error("the part before `/` must be a DNS subdomain such as `example.com`")]
    Prefix,
    /// Longer than 63 characters.
    #[error("longer than the 63 characters allowed")]
    TooLong,
    /// Wrong characters, or wrong at the ends.
    #[error(
        "only letters, digits, `-`, `_` and `.` are allowed, with a letter or digit at both ends"
    )]
    Syntax,
}

/// Checks a label key: `name` or `prefix/name`.
///
/// # Errors
/// Says which rule is broken.
pub fn check_key(key: &str) -> Result<(), LabelError> {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            super::name::check_subdomain(prefix).map_err(|_| LabelError::Prefix)?;
            name
        }
        None => key,
    };
    if name.is_empty() {
        return Err(LabelError::EmptyKey);
    }
    check_value(name)
}

/// Checks a label value; it may be empty.
///
/// # Errors
/// Says which rule is broken.
pub fn check_value(value: &str) -> Result<(), LabelError> {
    if value.len() > 63 {
        return Err(LabelError::TooLong);
    }
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| edge(c) || matches!(c, '-' | '_' | '.');
    let fine = value.is_empty()
        || (value.chars().all(inner) && value.starts_with(edge) && value.ends_with(edge));
    if fine {
        Ok(())
    } else {
        Err(LabelError::Syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    #[test]
    fn the_empty_selector_selects_all() {
        assert!(Selector::default().matches(&labels(&[])));
        assert!(Selector::default().matches(&labels(&[("app", "web")])));
    }

    #[test]
    fn all_labels_must_match() {
        let selector = Selector::labels(labels(&[("app", "web"), ("tier", "front")]));
        assert!(selector.matches(&labels(&[("app", "web"), ("tier", "front"), ("x", "y")])));
        assert!(!selector.matches(&labels(&[("app", "web")])));
        assert_eq!(selector.to_string(), "app=web,tier=front");
    }

    #[test]
    fn expressions_treat_absent_labels_as_kubernetes_does() {
        let values = vec!["a".into(), "b".into()];
        let absent = labels(&[]);
        let here = labels(&[("k", "a")]);
        let other = labels(&[("k", "c")]);
        let check = |expression: Expression, expected: [bool; 3]| {
            let found = [&absent, &here, &other].map(|labels| expression.holds(labels));
            assert_eq!(found, expected, "{expression}");
        };
        check(
            Expression::In("k".into(), values.clone()),
            [false, true, false],
        );
        check(Expression::NotIn("k".into(), values), [true, false, true]);
        check(Expression::Exists("k".into()), [false, true, true]);
        check(Expression::DoesNotExist("k".into()), [true, false, false]);
    }

    #[test]
    fn selectors_read_what_they_print() {
        for text in [
            "",
            "app=web,tier=front",
            "app=web,k in (a,b),k notin (c),here,!gone",
        ] {
            assert_eq!(text.parse::<Selector>().expect(text).to_string(), text);
        }
        for bad in ["app=we b", "=x", "k in a", "a=b=c"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_and_values_have_a_syntax() {
        assert_eq!(check_key("app.kubernetes.io/name"), Ok(()));
        assert_eq!(check_key("/name"), Err(LabelError::Prefix));
        assert_eq!(check_key("a/"), Err(LabelError::EmptyKey));
        assert_eq!(check_value(""), Ok(()));
        assert_eq!(check_value("-a"), Err(LabelError::Syntax));
        assert_eq!(check_value(&"a".repeat(64)), Err(LabelError::TooLong));
    }
}
