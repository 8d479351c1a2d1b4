//! What a controller has to look at again: keys in a work queue (`k8s.io/client-go/util/workqueue`).

use std::collections::BTreeSet;

use podwire_models::base::ObjectKey;

/// Services that have to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dirty {
    /// These.
    Some(BTreeSet<ObjectKey>),
    /// All of them, those that are gone too.
    All,
}

impl Default for Dirty {
    /// None of them.
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Dirty {
    /// Whether nothing has to be looked at.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Some(services) => services.is_empty(),
            Self::All => false,
        }
    }

    /// Returns which, if it is not all of them.
    pub const fn services(&self) -> Option<&BTreeSet<ObjectKey>> {
        match self {
            Self::Some(services) => Some(services),
            Self::All => None,
        }
    }

    /// One more has to be looked at.
    pub fn add(&mut self, service: ObjectKey) {
        match self {
            Self::Some(services) => {
                services.insert(service);
            }
            Self::All => {}
        }
    }

    /// More have to be looked at.
    pub fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Some(services), Self::Some(more)) => services.extend(more),
            (this, Self::All) => *this = Self::All,
            (Self::All, Self::Some(_)) => {}
        }
    }
}
