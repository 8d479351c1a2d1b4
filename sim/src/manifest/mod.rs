//! Reading Kubernetes objects from YAML and JSON: what `kubectl get -o yaml`, `kustomize build` and
//! `helm template` print, several documents in a file, lists of objects.
//!
//! The way of a text: `yaml` (text → trees with places) → `schema` (no unknown fields, no wrong
//! types) → `convert` (objects of the model, checked as the API server checks them) → `coverage`
//! (what is not modelled is listed) → `check` (objects against each other). Every step notes its
//! problems and goes on, so that all problems of all inputs are found at once. `print` is the way back: objects as
//! manifests.

use std::collections::BTreeMap;
use std::mem;
use std::str::FromStr as _;
use std::sync::Arc;

use podwire_models::api::{Object, ObjectRef};
use podwire_models::base::{ObjectKey, OriginId};

use crate::problem::{Problem, ProblemCode, suggestion};
use crate::source::{Lines, OriginTable, Source, Span};
use kinds::{Row, Treatment};
use reader::{Reader, items, text};
use tree::{Node, Value};

mod check;
mod convert;
mod coverage;
mod crd;
mod kinds;
#[cfg(feature = "cli")]
pub mod load;
pub mod patch;
pub mod print;
mod reader;
mod schema;
pub mod tree;
mod yaml;

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// The objects, in the order of the inputs.
    pub objects: Vec<Object>,
    /// The documents they come from, for patches. Whoever patches nothing may drop them.
    pub documents: BTreeMap<ObjectRef, Document>,
    /// What matters to packets and is not modelled.
    pub not_modelled: Vec<NotModelled>,
    /// Objects that no packet can notice.
    pub ignored: Vec<Ignored>,
}

/// The document an object comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The name of the input.
    pub source: Arc<str>,
    /// Its text.
    pub text: Arc<str>,
    /// The object as it was written.
    pub tree: Arc<Node>,
}

/// Something that matters to packets and is not modelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotModelled {
    /// A kind (`Ingress`) or a field (`Deployment.spec.template.spec.affinity`).
    pub what: String,
    /// The object, as `Deployment/shop/cart`.
    pub object: Arc<str>,
    /// Where it was written.
    pub origin: OriginId,
    /// Why, or what happens instead.
    pub why: &'static str,
}

/// An object that no packet can notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Its kind.
    pub kind: Arc<str>,
    /// The object, as `ConfigMap/shop/settings`.
    pub object: Arc<str>,
    /// Where it was written.
    pub origin: OriginId,
    /// Why it does not matter.
    pub why: &'static str,
}

/// Reads all objects of all inputs. Places are added to `origins`.
///
/// Objects with problems are in the result too, as far as they could be read; a caller that finds an
/// error among the problems does not use them.
pub fn read(sources: &[Source], origins: &mut OriginTable) -> (Manifests, Vec<Problem>) {
    let mut all = Manifests::default();
    let mut problems = Vec::new();
    let mut seen = BTreeMap::new();
    for source in sources {
        let (documents, mut found) = yaml::read(source);
        if documents.is_empty() && found.is_empty() {
            found.push(empty(source));
        }
        problems.append(&mut found);
        let lines = Lines::of(&source.text);
        let mut file = File {
            source,
            lines,
            origins,
            all: &mut all,
            problems: &mut problems,
            seen: &mut seen,
        };
        for root in documents {
            file.document(&root);
        }
    }
    check::across(&mut all, origins, &mut problems, &seen);
    (all, problems)
}

/// Where objects of any kind were first defined, to find those that are defined again.
type Seen = BTreeMap<(String, ObjectKey), (Arc<str>, Span, Arc<Node>)>;

fn empty(source: &Source) -> Problem {
    let label = if source.text.trim().is_empty() {
        "empty"
    } else {
        "only comments"
    };
    Problem::error(
        ProblemCode::FileEmpty,
        format!("there is no object in `{}`", source.name),
    )
    .at(Span::new(0..0).spot(&source.name), label)
}

/// One input while it is read.
struct File<'a> {
    source: &'a Source,
    lines: Lines<'a>,
    origins: &'a mut OriginTable,
    all: &'a mut Manifests,
    problems: &'a mut Vec<Problem>,
    seen: &'a mut Seen,
}

impl File<'_> {
    /// Reads a document: an object or a list of them.
    fn document(&mut self, root: &Arc<Node>) {
        self.object(root, None, None);
    }

    /// Reads an object. In a typed list (`PodList`) it may leave out what it is.
    fn object(&mut self, root: &Arc<Node>, api_version: Option<&str>, kind: Option<&str>) {
        if !matches!(root.value, Value::Map(_)) {
            let label = format!("found {}", root.value.describe());
            self.problem(
                ProblemCode::ManNotAnObject,
                "this is not a Kubernetes object",
                root.span,
                label,
            );
            return;
        }
        let (own_version, own_kind) = (text(root.get("apiVersion")), text(root.get("kind")));
        let (Some(api_version), Some(kind)) = (
            own_version.as_deref().or(api_version),
            own_kind.as_deref().or(kind),
        ) else {
            self.nameless(root, own_kind.is_none());
            return;
        };
        if let (Some(stem), Some(list)) = (kind.strip_suffix("List"), root.entry("items")) {
            let of = Some(stem).filter(|stem| !stem.is_empty());
            for item in items(Some(&list.value)) {
                self.object(item, of.map(|_| api_version), of);
            }
            return;
        }
        match kinds::find(api_version, kind) {
            Some(row) => self.known(root, row),
            None => self.unknown(root, api_version, kind),
        }
    }

    fn known(&mut self, root: &Arc<Node>, row: &'static Row) {
        if let Some(check) = row.check {
            check(root, row.kind, &self.source.name, self.problems);
        }
        let outcome = read_object(
            root,
            row,
            self.source,
            &self.lines,
            self.origins,
            self.problems,
        );
        let Some((key, object, read)) = outcome else {
            return;
        };
        if self.twice(row.kind, key, root) {
            return;
        }
        self.all.not_modelled.extend(read.not_modelled);
        match row.treatment {
            Treatment::Modelled(..) => {}
            Treatment::NoMeaning(why) => {
                let kind = row.kind.into();
                self.all.ignored.push(Ignored {
                    kind,
                    object,
                    origin: read.origin,
                    why,
                });
            }
            Treatment::Gap(why) => {
                let what = row.kind.to_owned();
                self.all.not_modelled.push(NotModelled {
                    what,
                    object,
                    origin: read.origin,
                    why,
                });
            }
        }
        for object in read.objects {
            let document = Document {
                source: Arc::clone(&self.source.name),
                text: Arc::clone(&self.source.text),
                tree: Arc::clone(root),
            };
            self.all.documents.insert(object.reference(), document);
            self.all.objects.push(object);
        }
    }

    /// Notes that an object was defined before. Returns whether it was.
    fn twice(&mut self, kind: &str, key: ObjectKey, root: &Arc<Node>) -> bool {
        let name = root
            .get("metadata")
            .and_then(|metadata| metadata.get("name"));
        let span = name.map_or(root.span, |node| node.span);
        let title = format!("{kind} {key} is defined twice");
        let here = (Arc::clone(&self.source.name), span, Arc::clone(root));
        let entry = self.seen.entry((kind.to_owned(), key));
        let std::collections::btree_map::Entry::Occupied(first) = entry else {
            entry.or_insert(here);
            return false;
        };
        let (source, at, tree) = first.get();
        let spot = span.spot(&self.source.name);
        let problem = if tree.same(root) {
            Problem::warning(ProblemCode::ManDuplicateObject, title)
                .at(spot, "again here, word for word")
        } else {
            Problem::error(ProblemCode::ManDuplicateObject, title)
                .at(spot, "again here, and different")
        };
        self.problems
            .push(problem.also(at.spot(source), "first here"));
        true
    }

    fn unknown(&mut self, root: &Arc<Node>, api_version: &str, kind: &str) {
        let group = kinds::group_of(api_version);
        let of_kind: Vec<&str> = kinds::KINDS
            .iter()
            .filter(|row| row.kind == kind)
            .map(|row| row.api_version)
            .collect();
        let place = |field: &str| root.get(field).map_or(root.span, |node| node.span);
        let near = |version: &&str| kinds::group_of(version) == group || kinds::built_in(group);
        if let Some(right) = of_kind.iter().find(|version| near(version)) {
            let title = format!("{kind} is not in `{api_version}`");
            let label = "not the group and version of this kind".to_owned();
            self.problem(
                ProblemCode::ManApiVersion,
                title,
                place("apiVersion"),
                label,
            )
            .help
            .push(format!("write `apiVersion: {right}`"));
            return;
        }
        if kinds::built_in(group) {
            let names = kinds::KINDS.iter().map(|row| row.kind);
            let help = suggestion(kind, names).map(|name| format!("did you mean `{name}`?"));
            let title = format!("there is no kind `{kind}` in `{api_version}`");
            let problem = self.problem(
                ProblemCode::ManUnknownKind,
                title,
                place("kind"),
                "unknown kind".to_owned(),
            );
            problem.help.extend(help);
            return;
        }
        let row = Row {
            api_version: "",
            kind: "",
            namespaced: true,
            treatment: Treatment::Gap(kinds::foreign(group)),
            check: None,
        };
        let key = root.get("metadata").map(|metadata| {
            let get = |field: &str| text(metadata.get(field)).unwrap_or_else(|| "".into());
            format!("{kind}/{}/{}", get("namespace"), get("name"))
        });
        let mut reader = self.reader(&key.unwrap_or_else(|| kind.to_owned()));
        let origin = reader.origin(root.get("kind").unwrap_or(root));
        let object = Arc::clone(&reader.object);
        if let Treatment::Gap(why) = row.treatment {
            let what = format!("{kind} ({group})");
            self.all.not_modelled.push(NotModelled {
                what,
                object,
                origin,
                why,
            });
        }
    }

    fn nameless(&mut self, root: &Arc<Node>, kind: bool) {
        let field = if kind { "kind" } else { "apiVersion" };
        let code = if kind {
            ProblemCode::ManNotAnObject
        } else {
            ProblemCode::ManMissingField
        };
        let title = if kind {
            "this is not a Kubernetes object".to_owned()
        } else {
            "`apiVersion` is missing".to_owned()
        };
        let label = format!("`{field}` must be here");
        let near = root.entries().iter().find_map(|entry| {
            suggestion(field, [&*entry.key]).map(|_| format!("`{}` should be `{field}`", entry.key))
        });
        self.problem(code, title, root.span, label)
            .help
            .extend(near);
    }

    fn problem(
        &mut self,
        code: ProblemCode,
        title: impl Into<String>,
        span: Span,
        label: String,
    ) -> &mut Problem {
        let problem = Problem::error(code, title).at(span.spot(&self.source.name), label);
        self.problems.push(problem);
        self.problems.last_mut().expect("one was pushed just now")
    }

    fn reader(&mut self, object: &str) -> Reader<'_> {
        Reader {
            source: &self.source.name,
            lines: &self.lines,
            object: object.into(),
            title: object.to_owned(),
            origins: self.origins,
            problems: self.problems,
            gaps: Vec::new(),
        }
    }
}

/// What a document says.
struct ReadObject {
    objects: Vec<Object>,
    not_modelled: Vec<NotModelled>,
    origin: OriginId,
}

/// Reads an object of a known kind. Returns its key and what it is called in origins.
fn read_object(
    root: &Arc<Node>,
    row: &Row,
    source: &Source,
    lines: &Lines<'_>,
    origins: &mut OriginTable,
    problems: &mut Vec<Problem>,
) -> Option<(ObjectKey, Arc<str>, ReadObject)> {
    let title = row.kind.to_owned();
    let mut reader = Reader {
        source: &source.name,
        lines,
        object: row.kind.into(),
        title,
        origins,
        problems,
        gaps: Vec::new(),
    };
    let label = matches!(row.kind, "Service" | "Namespace");
    let strict = row.check.is_some() && matches!(row.treatment, Treatment::Modelled(..));
    let noted = reader.problems.len();
    let key = convert::key(&mut reader, root, row.namespaced, label);
    if !strict {
        // The names of other kinds follow other rules.
        reader.problems.truncate(noted);
    }
    // An object whose name cannot be read is read all the same, for its other problems.
    let nameless = key.is_none() && strict;
    let key = match key {
        Some(key) => key,
        None if strict => ObjectKey::from_str("unnamed").expect("it is a name"),
        None => loose_key(root)?,
    };
    (reader.object, reader.title) = if nameless {
        (row.kind.into(), row.kind.to_owned())
    } else if row.namespaced {
        (
            format!("{}/{key}", row.kind).into(),
            format!("{} {key}", row.kind),
        )
    } else {
        (
            format!("{}//{}", row.kind, key.name).into(),
            format!("{} {}", row.kind, key.name),
        )
    };
    let object = Arc::clone(&reader.object);
    let mut read = ReadObject {
        objects: Vec::new(),
        not_modelled: Vec::new(),
        origin: OriginId::NONE,
    };
    if let Treatment::Modelled(shape, table) = row.treatment {
        let meta = convert::meta(&mut reader, root, key.clone());
        read.origin = meta.origin;
        read.objects = convert::object(&mut reader, root, shape, meta);
        read.not_modelled = mem::take(&mut reader.gaps);
        read.not_modelled
            .extend(gaps(&mut reader, root, row.kind, table));
    } else {
        let name = root
            .get("metadata")
            .and_then(|metadata| metadata.get("name"));
        read.origin = reader.origin(name.unwrap_or(root));
    }
    (!nameless).then_some((key, object, read))
}

/// Returns a key for an object whose name follows rules of its own (`system:node`).
fn loose_key(root: &Node) -> Option<ObjectKey> {
    let name = text(root.get("metadata")?.get("name"))?;
    let clean: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    Some(ObjectKey::new(
        podwire_models::base::Namespace::default(),
        clean.trim_matches('-').parse().ok()?,
    ))
}

/// Lists the fields of an object that matter and are not modelled.
fn gaps(
    reader: &mut Reader<'_>,
    root: &Arc<Node>,
    kind: &str,
    table: coverage::Table,
) -> Vec<NotModelled> {
    let mut gaps = Vec::new();
    for found in coverage::walk(root, table) {
        let place = Node {
            span: found.span,
            value: Value::Null,
        };
        gaps.push(NotModelled {
            what: format!("{kind}.{}", found.path),
            object: Arc::clone(&reader.object),
            origin: reader.origin(&place),
            why: found.why,
        });
    }
    for (entry, why) in coverage::asks(root) {
        let place = Node {
            span: entry.span,
            value: Value::Null,
        };
        gaps.push(NotModelled {
            what: entry.key.to_string(),
            object: Arc::clone(&reader.object),
            origin: reader.origin(&place),
            why,
        });
    }
    gaps
}
