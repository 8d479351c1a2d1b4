//! From the tree of a document to an object of the model, one file per group of kinds.
//! What the API server would fill in (defaults) is filled in here; what controllers would fill in
//! is left open.

use std::sync::Arc;

use podwire_models::api::{self, Object, OwnerRef};
use podwire_models::base::{Labels, Namespace, ObjectKey, ObjectName, OriginId, name};

use super::kinds::Shape;
use super::reader::{Maybe, Reader, annotations, items, text};
use super::tree::Node;
use crate::problem::ProblemCode;

mod cluster_policy;
mod endpoint_slice;
mod network_policy;
mod node;
mod pod;
mod probe;
mod service;
mod sysctl;
mod webhook;
mod workload;

pub(super) use endpoint_slice::mirrored;

/// Reads an object; `None` if not even its name can be read.
pub(super) fn object(
    reader: &mut Reader<'_>,
    root: &Arc<Node>,
    shape: Shape,
    meta: Meta,
) -> Vec<Object> {
    match shape {
        Shape::Node => vec![Object::Node(node::read(reader, root, meta))],
        Shape::Namespace => vec![Object::Namespace(namespace(meta))],
        Shape::Pod => vec![Object::Pod(pod::read(reader, root, meta))],
        Shape::Workload(kind) => vec![Object::Workload(workload::read(reader, root, kind, meta))],
        Shape::Service => vec![Object::Service(service::read(reader, root, meta))],
        Shape::EndpointSlice => vec![Object::EndpointSlice(endpoint_slice::read(
            reader, root, meta,
        ))],
        Shape::Endpoints => endpoint_slice::mirror(reader, root, &meta)
            .into_iter()
            .map(Object::EndpointSlice)
            .collect(),
        Shape::NetworkPolicy => vec![Object::NetworkPolicy(network_policy::read(
            reader, root, meta,
        ))],
        Shape::ClusterPolicy(kind) => {
            let policy = cluster_policy::read(reader, root, kind, meta);
            vec![Object::ClusterPolicy(policy)]
        }
        Shape::Webhooks(kind) => {
            let webhooks = webhook::read(reader, root, kind, meta);
            vec![Object::WebhookConfiguration(webhooks)]
        }
    }
}

/// What all objects have.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) key: ObjectKey,
    pub(super) uid: Option<Arc<str>>,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) owner: Option<OwnerRef>,
    pub(super) deleting: bool,
    pub(super) origin: OriginId,
}

/// Reads the name of an object. Whatever is wrong with it is noted.
pub(super) fn key(
    reader: &mut Reader<'_>,
    root: &Node,
    namespaced: bool,
    label: bool,
) -> Option<ObjectKey> {
    let Some(metadata) = root.get("metadata") else {
        reader.missing(root, "metadata");
        return None;
    };
    let Some(found) = metadata.get("name") else {
        let title = "`metadata.name` is missing";
        let problem = reader.note(
            ProblemCode::ManMissingField,
            metadata,
            title,
            "`name` must be here",
        );
        if metadata.get("generateName").is_some() {
            let help = "`generateName` is completed by a real API server only: write a name";
            problem.help.push(help.to_owned());
        }
        return None;
    };
    let name: ObjectName = reader
        .parse(Some(found), ProblemCode::ManBadName, "`metadata.name`")
        .or_else(|| {
            if found.text().is_some_and(|text| text.is_empty()) {
                let title = "`metadata.name` is empty";
                reader.note(
                    ProblemCode::ManMissingField,
                    found,
                    title,
                    "a name must be here",
                );
            }
            None
        })?;
    if let Err(error) = name::check_label(name.as_str())
        && label
    {
        let label = format!("must be a DNS label: {error}");
        reader.note(
            ProblemCode::ManBadName,
            found,
            "`metadata.name` is not valid",
            label,
        );
    }
    let namespace = metadata.get("namespace").filter(|_| namespaced);
    let namespace: Option<Namespace> =
        reader.parse(namespace, ProblemCode::ManBadName, "`metadata.namespace`");
    Some(ObjectKey::new(namespace.unwrap_or_default(), name))
}

/// Reads what all objects have.
pub(super) fn meta(reader: &mut Reader<'_>, root: &Node, key: ObjectKey) -> Meta {
    let metadata = root.get("metadata");
    let get = |field: &str| metadata.and_then(|node| node.get(field));
    let place = get("name").or(metadata).map_or(root, |node| &**node);
    Meta {
        key,
        uid: text(get("uid")),
        labels: reader.labels(get("labels")),
        annotations: annotations(get("annotations")),
        owner: owner(reader, get("ownerReferences")),
        deleting: get("deletionTimestamp").is_some(),
        origin: reader.origin(place),
    }
}

/// Returns the controller among the owners.
fn owner(reader: &mut Reader<'_>, node: Maybe<'_>) -> Option<OwnerRef> {
    let all = items(node);
    let controls = |node: &&Arc<Node>| super::reader::flag(node.get("controller")) == Some(true);
    let owner = all.iter().find(controls).or_else(|| all.first())?;
    let name = reader.parse(
        owner.get("name"),
        ProblemCode::ManBadName,
        "the owner's `name`",
    )?;
    Some(OwnerRef {
        kind: text(owner.get("kind"))?,
        name,
    })
}

fn namespace(meta: Meta) -> api::namespace::Namespace {
    let mut labels = meta.labels;
    labels.insert(api::namespace::NAME_LABEL, meta.key.name.as_str());
    api::namespace::Namespace {
        name: meta.key.name,
        labels,
        annotations: meta.annotations,
        origin: meta.origin,
    }
}
