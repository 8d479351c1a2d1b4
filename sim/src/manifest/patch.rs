//! Changes objects in the middle of a scenario as `kubectl patch`, `label` and `scale` do: the
//! document is changed, and read again with all checks.

use std::sync::Arc;

use podwire_models::api::{Object, ObjectRef};

use super::tree::{Entry, Node, Value};
use super::{Document, NotModelled, kinds, read_object};
use crate::problem::{Problem, ProblemCode, Spot, suggestion};
use crate::source::{Lines, OriginTable, Source, Span};

/// One change: the way to a field, and its new value; null removes it.
///
/// The way is `spec.ports[0].port`, `spec.ports[name=http].port`, or with a key that has dots in it
/// `metadata.labels[app.kubernetes.io/name]`.
pub type Set = (String, serde_json::Value);

/// What a document says after it was changed.
#[derive(Clone, Debug)]
pub struct Patched {
    /// The changed document, for the next patch.
    pub document: Document,
    /// The object it describes.
    pub object: Object,
    /// What is not modelled of it.
    pub not_modelled: Vec<NotModelled>,
}

/// Changes fields of an object. `at` is where the change was written; its problems point there.
///
/// The object is as its document says: what controllers have filled in since (addresses, the node of
/// a pod) is not in it, and is for the caller to carry over.
///
/// # Errors
/// Returns all problems: fields that are not there, and whatever is wrong with the changed object.
pub fn set(
    document: &Document,
    sets: &[Set],
    at: &Spot,
    origins: &mut OriginTable,
) -> Result<Patched, Vec<Problem>> {
    let mut tree = Arc::clone(&document.tree);
    let mut problems = Vec::new();
    for (path, value) in sets {
        let new = (!value.is_null()).then(|| Arc::new(Node::from_json(value, tree.span)));
        match steps(path).and_then(|steps| change(&tree, &steps, new.as_ref())) {
            Ok(changed) => tree = changed,
            Err(fault) => {
                let title = format!("`{path}` cannot be patched: {}", fault.0);
                let problem = Problem::error(ProblemCode::ManUnknownPath, title).at(at.clone(), "");
                problems.push(fault.1.into_iter().fold(problem, Problem::help));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    read(document, tree, at, origins)
}

/// Sets a label, or removes it.
///
/// # Errors
/// As [`set`].
pub fn label(
    document: &Document,
    key: &str,
    value: Option<&str>,
    at: &Spot,
    origins: &mut OriginTable,
) -> Result<Patched, Vec<Problem>> {
    let value = value.map_or(serde_json::Value::Null, Into::into);
    set(
        document,
        &[(format!("metadata.labels[{key}]"), value)],
        at,
        origins,
    )
}

/// Sets the number of pods a workload should have.
///
/// # Errors
/// As [`set`].
pub fn scale(
    document: &Document,
    replicas: u32,
    at: &Spot,
    origins: &mut OriginTable,
) -> Result<Patched, Vec<Problem>> {
    set(
        document,
        &[("spec.replicas".to_owned(), replicas.into())],
        at,
        origins,
    )
}

fn read(
    document: &Document,
    tree: Arc<Node>,
    at: &Spot,
    origins: &mut OriginTable,
) -> Result<Patched, Vec<Problem>> {
    let mut problems = Vec::new();
    let text = |field: &str| {
        tree.get(field)
            .and_then(|node| node.text())
            .cloned()
            .unwrap_or_else(|| "".into())
    };
    let source = Source {
        name: Arc::clone(&document.source),
        text: Arc::clone(&document.text),
    };
    let read = kinds::find(&text("apiVersion"), &text("kind")).and_then(|row| {
        if let Some(check) = row.check {
            check(&tree, row.kind, &source.name, &mut problems);
        }
        read_object(
            &tree,
            row,
            &source,
            &Lines::of(&source.text),
            origins,
            &mut problems,
        )
    });
    let object =
        read.and_then(|(_, _, read)| Some((read.objects.into_iter().next()?, read.not_modelled)));
    match object {
        Some((object, not_modelled)) if problems.is_empty() => {
            let document = Document {
                tree,
                ..document.clone()
            };
            Ok(Patched {
                document,
                object,
                not_modelled,
            })
        }
        _ => {
            let moved = |mut problem: Problem| {
                let there = problem.at.replace(at.clone());
                let label = std::mem::take(&mut problem.label);
                problem.also.extend(there.map(|spot| (spot, label)));
                problem
            };
            Err(problems.into_iter().map(moved).collect())
        }
    }
}

/// Names the object of a patch that is not there.
pub fn unknown_object<'a>(
    wanted: &ObjectRef,
    there: impl IntoIterator<Item = &'a ObjectRef>,
    at: Spot,
) -> Problem {
    let names: Vec<String> = there.into_iter().map(ToString::to_string).collect();
    let wanted = wanted.to_string();
    let problem = Problem::error(
        ProblemCode::ScnUnknownObject,
        format!("there is no {wanted}"),
    )
    .at(at, "no such object");
    match suggestion(&wanted, names.iter().map(String::as_str)) {
        Some(similar) => problem.help(format!("did you mean `{similar}`?")),
        None => problem,
    }
}

/// One step of the way to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
    Where(String, String),
}

/// Why a change cannot be made, and what would be right.
#[derive(Debug)]
struct Fault(String, Option<String>);

fn steps(path: &str) -> Result<Vec<Step>, Fault> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (inside, after) = inside
                .split_once(']')
                .ok_or_else(|| Fault("a `]` is missing".to_owned(), None))?;
            let inside = inside.trim_matches(['"', '\'']);
            steps.push(match (inside.parse(), inside.split_once('=')) {
                (Ok(number), _) => Step::Item(number),
                (Err(_), Some((key, value))) => Step::Where(key.to_owned(), value.to_owned()),
                (Err(_), None) => Step::Key(inside.to_owned()),
            });
            rest = after.strip_prefix('.').unwrap_or(after);
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            if key.is_empty() {
                return Err(Fault("a name is missing before a `.`".to_owned(), None));
            }
            steps.push(Step::Key(key.to_owned()));
            rest = after.strip_prefix('.').unwrap_or(after);
        }
    }
    if steps.is_empty() {
        Err(Fault("the way is empty".to_owned(), None))
    } else {
        Ok(steps)
    }
}

/// Returns the tree with one value replaced (or removed). Mappings on the way are made as needed;
/// whether their names exist is for the schema to say.
fn change(node: &Arc<Node>, steps: &[Step], new: Option<&Arc<Node>>) -> Result<Arc<Node>, Fault> {
    let Some((step, rest)) = steps.split_first() else {
        return Ok(new.map_or_else(|| Arc::clone(node), Arc::clone));
    };
    let value = match (step, &node.value) {
        (Step::Key(key), Value::Map(entries)) => {
            Value::Map(change_entry(entries, key, node.span, rest, new)?)
        }
        (Step::Key(key), Value::Null) => Value::Map(change_entry(&[], key, node.span, rest, new)?),
        (Step::Item(number), Value::List(items)) => {
            Value::List(change_item(items, *number, node.span, rest, new)?)
        }
        (Step::Where(key, value), Value::List(items)) => {
            let is_it = |item: &Arc<Node>| match item.get(key).map(|node| &node.value) {
                Some(Value::String(text)) => &**text == value,
                Some(Value::Int(number)) => number.to_string() == *value,
                _ => false,
            };
            let number = items.iter().position(is_it);
            let number =
                number.ok_or_else(|| Fault(format!("no item has `{key}: {value}`"), None))?;
            Value::List(change_item(items, number, node.span, rest, new)?)
        }
        (Step::Key(key), found) => {
            return Err(Fault(
                format!("`{key}` would be in {}", found.describe()),
                None,
            ));
        }
        (Step::Item(_) | Step::Where(..), found) => {
            return Err(Fault(
                format!(
                    "`[…]` takes an item of a list, and here is {}",
                    found.describe()
                ),
                None,
            ));
        }
    };
    Ok(Arc::new(Node {
        span: node.span,
        value,
    }))
}

fn change_entry(
    entries: &[Entry],
    key: &str,
    span: Span,
    rest: &[Step],
    new: Option<&Arc<Node>>,
) -> Result<Vec<Entry>, Fault> {
    let mut entries = entries.to_vec();
    let position = entries.iter().position(|entry| &*entry.key == key);
    if rest.is_empty() && new.is_none() {
        let names = entries.iter().map(|entry| &*entry.key);
        let similar = suggestion(key, names).map(|name| format!("did you mean `{name}`?"));
        let position =
            position.ok_or_else(|| Fault(format!("there is no `{key}` to remove"), similar))?;
        entries.remove(position);
        return Ok(entries);
    }
    if let Some(entry) = position.and_then(|position| entries.get_mut(position)) {
        entry.value = change(&entry.value, rest, new)?;
    } else {
        let nothing = Arc::new(Node {
            span,
            value: Value::Null,
        });
        let value = change(&nothing, rest, new)?;
        entries.push(Entry {
            key: key.into(),
            span,
            value,
        });
    }
    Ok(entries)
}

fn change_item(
    items: &[Arc<Node>],
    number: usize,
    span: Span,
    rest: &[Step],
    new: Option<&Arc<Node>>,
) -> Result<Vec<Arc<Node>>, Fault> {
    let mut items = items.to_vec();
    let count = items.len();
    match items.get_mut(number) {
        Some(_) if rest.is_empty() && new.is_none() => {
            items.remove(number);
        }
        Some(item) => *item = change(item, rest, new)?,
        None if number == count && new.is_some() => {
            let nothing = Arc::new(Node {
                span,
                value: Value::Null,
            });
            items.push(change(&nothing, rest, new)?);
        }
        None => return Err(Fault(format!("the list has {count} items"), None)),
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop, labels: {app.kubernetes.io/name: cart}}
spec:
  selector: {app: cart}
  ports:
  - {name: http, port: 80, targetPort: 8080}
";

    fn patched(
        path: &str,
        value: serde_json::Value,
    ) -> Result<podwire_models::api::Service, String> {
        let mut origins = OriginTable::default();
        let (all, problems) = super::super::read(&[Source::new("x.yaml", SERVICE)], &mut origins);
        assert_eq!(problems, []);
        let document = all.documents.values().next().expect("there is one");
        let at = Spot::new("s.ron", 0..0);
        match set(document, &[(path.to_owned(), value)], &at, &mut origins) {
            Ok(Patched {
                object: Object::Service(service),
                ..
            }) => Ok(service),
            Ok(other) => Err(format!("{:?}", other.object)),
            Err(problems) => Err(problems.iter().map(|p| p.title.clone()).collect()),
        }
    }

    #[test]
    fn fields_are_set_and_removed() {
        let service = patched("spec.selector.app", "cartt".into()).expect("fine");
        assert_eq!(service.selector.expect("one").to_string(), "app=cartt");
        let service = patched("spec.ports[name=http].targetPort", "web".into()).expect("fine");
        assert_eq!(
            service.ports.first().expect("one").target_port.to_string(),
            "web"
        );
        let service = patched(
            "metadata.labels[app.kubernetes.io/name]",
            serde_json::Value::Null,
        );
        assert!(service.expect("fine").labels.is_empty());
        let service = patched("spec.ports[0].port", 81.into()).expect("fine");
        assert_eq!(service.ports.first().expect("one").port, 81);
    }

    #[test]
    fn mistakes_are_told() {
        let said =
            |path: &str, value: serde_json::Value| patched(path, value).expect_err("refused");
        assert_eq!(
            said("spec.selectr.app", "x".into()),
            "Service has no field `spec.selectr`"
        );
        assert!(
            said("spec.ports[1].port", serde_json::Value::Null).contains("the list has 1 items")
        );
        assert!(said("spec.ports[0].port", "x".into()).contains("must be an integer"));
        assert!(said("spec.ports.port", 1.into()).contains("would be in a list"));
        assert!(said("spec.ports[0].port", 70_000.into()).contains("outside the range"));
    }
}
