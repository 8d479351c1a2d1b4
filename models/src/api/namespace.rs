//! Namespaces: `v1` Namespace.

use crate::base::{Labels, ObjectName, OriginId};

/// The label that the API server sets on every namespace.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A namespace as an object: what a policy's `namespaceSelector` looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: ObjectName,
    /// Its labels, [`NAME_LABEL`] among them.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// Where it was written.
    pub origin: OriginId,
}
