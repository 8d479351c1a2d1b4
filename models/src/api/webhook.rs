//! Who is asked before an object is written: `admissionregistration.k8s.io/v1` `ValidatingWebhookConfiguration` and
//! `MutatingWebhookConfiguration`. Leaves out `matchConditions`, `matchPolicy` and certificates.

use std::fmt;
use std::sync::Arc;

use crate::base::{Labels, ObjectKey, ObjectName, OriginId, Selector};

/// The two kinds of configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebhookKind {
    /// Asked first, one after the other: may change the object.
    Mutating,
    /// Asked then: says yes or no.
    Validating,
}

impl WebhookKind {
    /// Returns the name of the kind as objects write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mutating => "MutatingWebhookConfiguration",
            Self::Validating => "ValidatingWebhookConfiguration",
        }
    }
}

/// Some webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfiguration {
    /// Which of the two kinds it is.
    pub kind: WebhookKind,
    /// Its name.
    pub name: ObjectName,
    /// Its own labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// The webhooks.
    pub webhooks: Vec<Webhook>,
    /// Where it was written.
    pub origin: OriginId,
}

/// Somebody who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name, `validate.shop.example.com`.
    pub name: Arc<str>,
    /// Where it is; nothing if it is a URL outside.
    pub service: Option<WebhookService>,
    /// What it is asked about: any of these.
    pub rules: Vec<WebhookRule>,
    /// What becomes of the write if it does not answer.
    pub failure_policy: FailurePolicy,
    /// How long the API server waits for it, in seconds.
    pub timeout: u32,
    /// Only objects in these namespaces.
    pub namespaces: Selector,
    /// Only objects with these labels.
    pub objects: Selector,
    /// Where it was written.
    pub origin: OriginId,
}

impl Webhook {
    /// `timeoutSeconds`, if the input does not say.
    pub const TIMEOUT: u32 = 10;
    /// Port of the Service, if the input does not say.
    pub const PORT: u16 = 443;
}

/// The Service behind which a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookService {
    /// Which.
    pub key: ObjectKey,
    /// Its port.
    pub port: u16,
    /// The path of the request.
    pub path: Arc<str>,
}

/// Objects and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRule {
    /// API groups, `*` for all.
    pub groups: Vec<Arc<str>>,
    /// Resources, `pods`, `*` for all.
    pub resources: Vec<Arc<str>>,
    /// Operations, `CREATE`, `*` for all.
    pub operations: Vec<Arc<str>>,
}

/// What becomes of a write if a webhook does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailurePolicy {
    /// It is refused.
    Fail,
    /// It goes on.
    Ignore,
}

/// What is done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// It is new.
    Create,
    /// It is there already.
    Update,
    /// It goes.
    Delete,
}

impl Operation {
    /// Returns the word in rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
