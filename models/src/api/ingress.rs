//! HTTP entry points: `networking.k8s.io/v1` Ingress.
//! Known by name only: no ingress controller is modelled.

use crate::base::{Labels, ObjectKey, OriginId};

/// An HTTP entry point that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// The rules: host (empty for all) and the Services behind it.
    pub rules: Vec<IngressRule>,
    /// Where it was written.
    pub origin: OriginId,
}

/// What an Ingress does for one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRule {
    /// The host; empty for all.
    pub host: std::sync::Arc<str>,
    /// The paths, and for each the name of the Service and its port.
    pub paths: Vec<(std::sync::Arc<str>, std::sync::Arc<str>, super::PortRef)>,
}
