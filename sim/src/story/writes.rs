//! Writes to the API server in the middle of a scenario: `Apply`, `Delete`, `Patch`, `Label`, `Scale`. What each leaves
//! behind is worked out before anything runs, so that a write which the API server would refuse is a problem of the file.

use std::collections::{BTreeMap, BTreeSet};

use podwire_models::api::{Kind, Object, ObjectRef};
use podwire_models::base::Time;

use super::resolve::{Doing, Resolver};
use crate::manifest::patch::{self, Patched, unknown_object};
use crate::manifest::{self, Document};
use crate::problem::{Problem, ProblemCode, Severity};
use crate::scenario::address;
use crate::scenario::file::Step;
use crate::scenario::text::{Mark, Text};
use crate::source::Source;

/// What one write changes.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object is created or replaced.
    Put(Box<Object>),
    /// An object is deleted.
    Remove(ObjectRef),
}

/// The objects as they have been written so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) documents: BTreeMap<ObjectRef, Document>,
    /// Objects that some write creates.
    pub(super) created: BTreeSet<ObjectRef>,
}

impl Resolver<'_> {
    /// Works out a write; nothing if the step is none, or wrong.
    pub(super) fn write(
        &mut self,
        step: &Step,
        (at, mark): (Time, Mark),
        sources: &[Source],
        written: &mut Written,
    ) -> Option<Doing> {
        let (what, changes) = match step {
            Step::Apply { manifest, objects } => {
                self.apply(manifest.as_ref(), objects.as_ref(), mark, sources, written)?
            }
            Step::Delete { object } => {
                let wanted = reference(object)?;
                if wanted.kind == Kind::Node {
                    self.refuse(Some(object.mark), "a node that leaves the cluster");
                    return None;
                }
                if written.documents.remove(&wanted).is_none() && !self.made(&wanted) {
                    self.no_object(&wanted, object.mark, written);
                    return None;
                }
                (format!("{wanted} is deleted"), vec![Change::Remove(wanted)])
            }
            Step::Patch { kind, name, set } => {
                let Some(known) = Kind::from_word(kind) else {
                    let title = format!("`{}` is no kind", **kind);
                    let help = "kinds are written as in manifests or as kubectl shortens them";
                    self.problem(ProblemCode::ScnUnknownObject, kind.mark, title, help);
                    return None;
                };
                let wanted = if known.namespaced() {
                    ObjectRef::namespaced(known, name)
                } else {
                    ObjectRef::cluster(known, name.name.clone())
                };
                let sets: Vec<patch::Set> = set
                    .iter()
                    .map(|(path, value)| (path.clone(), value.clone()))
                    .collect();
                let paths: Vec<&str> = set.keys().map(String::as_str).collect();
                let what = format!("{wanted} is patched: {}", paths.join(", "));
                let put = self.patched(&wanted, name.mark, written, |document, at, origins| {
                    patch::set(document, &sets, at, origins)
                })?;
                (what, vec![put])
            }
            Step::Label { object, labels } => {
                let wanted = reference(object)?;
                let sets: Vec<patch::Set> = labels
                    .iter()
                    .map(|(key, value)| {
                        let value = value.clone().map_or(serde_json::Value::Null, Into::into);
                        (format!("metadata.labels[{key}]"), value)
                    })
                    .collect();
                let words: Vec<String> = labels
                    .iter()
                    .map(|(key, value)| match value {
                        Some(value) => format!("{key}={value}"),
                        None => format!("{key}-"),
                    })
                    .collect();
                let what = format!("{wanted} is labelled: {}", words.join(" "));
                let put =
                    self.patched(&wanted, object.mark, written, |document, at, origins| {
                        patch::set(document, &sets, at, origins)
                    })?;
                (what, vec![put])
            }
            Step::Scale { object, replicas } => {
                let wanted = reference(object)?;
                let what = format!("{wanted} is scaled to {replicas}");
                let put =
                    self.patched(&wanted, object.mark, written, |document, at, origins| {
                        patch::scale(document, *replicas, at, origins)
                    })?;
                (what, vec![put])
            }
            Step::Rollout { object } => {
                let wanted = reference(object)?;
                let path = "spec.template.metadata.annotations[kubectl.kubernetes.io/restartedAt]";
                let sets = [(path.to_owned(), at.to_string().into())];
                let put =
                    self.patched(&wanted, object.mark, written, |document, at, origins| {
                        patch::set(document, &sets, at, origins)
                    })?;
                (format!("{wanted} is restarted"), vec![put])
            }
            Step::Cordon { .. }
            | Step::Uncordon { .. }
            | Step::Drain { .. }
            | Step::Churn { .. }
            | Step::Probe(_)
            | Step::Load(_)
            | Step::Fault(_)
            | Step::Exec { .. }
            | Step::Note { .. } => return None,
        };
        Some(Doing::Write { what, changes })
    }

    fn apply(
        &mut self,
        manifest: Option<&Text<String>>,
        objects: Option<&Text<String>>,
        mark: Mark,
        sources: &[Source],
        written: &mut Written,
    ) -> Option<(String, Vec<Change>)> {
        let inputs = match (manifest, objects) {
            (Some(name), None) => self.named_sources(name, sources),
            (None, Some(text)) => {
                let position = self.file.spans.spot(text.mark).start;
                let name = format!("objects at byte {position}");
                vec![Source::new(name, text.as_str())]
            }
            (Some(_), Some(_)) | (None, None) => {
                let title = "a step Apply takes either a manifest or objects";
                self.problem(ProblemCode::ScnBadValue, mark, title, "");
                return None;
            }
        };
        let place = manifest.or(objects).map_or(mark, |text| text.mark);
        let (read, problems) = manifest::read(&inputs, &mut self.origins);
        let wrong = problems.iter().any(|p| p.severity == Severity::Error);
        // References to objects that are there already are no problem of this file.
        let dangling = |p: &Problem| p.code == ProblemCode::ManDanglingReference;
        let problems = problems.into_iter().filter(|p| !dangling(p));
        if objects.is_some() {
            // The text lies inside the scenario: its own places mean nothing to a reader.
            let spot = self.file.spans.spot(place);
            let here = |problem: Problem| problem.at(spot.clone(), "in the objects written here");
            self.problems.extend(problems.map(here));
        } else {
            self.problems.extend(problems);
        }
        if wrong {
            return None;
        }
        let mut changes = Vec::new();
        let mut names = Vec::new();
        for object in read.objects {
            let reference = object.reference();
            if reference.kind == Kind::Node && !self.made(&reference) {
                self.refuse(Some(place), "a node that joins while the cluster runs");
                continue;
            }
            names.push(reference.to_string());
            if !written.documents.contains_key(&reference) {
                written.created.insert(reference);
            }
            changes.push(Change::Put(Box::new(object)));
        }
        written.documents.extend(read.documents);
        Some((format!("applied: {}", names.join(", ")), changes))
    }

    fn patched(
        &mut self,
        wanted: &ObjectRef,
        mark: Mark,
        written: &mut Written,
        change: impl FnOnce(
            &Document,
            &crate::problem::Spot,
            &mut crate::source::OriginTable,
        ) -> Result<Patched, Vec<Problem>>,
    ) -> Option<Change> {
        let Some(document) = written.documents.get(wanted) else {
            self.no_object(wanted, mark, written);
            return None;
        };
        let at = self.file.spans.spot(mark);
        match change(document, &at, &mut self.origins) {
            Ok(patched) => {
                written.documents.insert(wanted.clone(), patched.document);
                Some(Change::Put(Box::new(patched.object)))
            }
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    fn no_object(&mut self, wanted: &ObjectRef, mark: Mark, written: &Written) {
        let at = self.file.spans.spot(mark);
        let problem = unknown_object(wanted, written.documents.keys(), at);
        self.problems.push(problem);
    }
}

/// Returns the object a scenario names, as the API names it.
fn reference(object: &address::ObjectRef) -> Option<ObjectRef> {
    let kind = Kind::from_word(object.kind)?;
    Some(match &object.namespace {
        Some(namespace) => ObjectRef {
            kind,
            namespace: Some(namespace.clone()),
            name: object.name.clone(),
        },
        None => ObjectRef::cluster(kind, object.name.clone()),
    })
}
