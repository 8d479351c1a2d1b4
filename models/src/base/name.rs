//! Names of Kubernetes objects (RFC 1123 labels and subdomains).
//! Leaves out: the stricter rules of single kinds (a Service's name must fit a DNS label, RFC 1035);
//! the manifest reader checks those.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than the kind of name allows.
    #[error("a name of {found} characters is longer than the {most} allowed")]
    TooLong {
        /// How long it is.
        found: usize,
        /// How long it may be.
        most: usize,
    },
    /// A character that may not occur.
    #[error("`{0}` may not occur in a name: use lower case letters, digits and `-`")]
    Character(char),
    /// A label starts or ends with something else than a letter or digit.
    #[error("a name must start and end with a lower case letter or a digit")]
    Edge,
}

/// Checks a label of RFC 1123: at most 63 lower case letters, digits and `-`, not at the ends.
///
/// # Errors
/// Says which rule is broken.
pub fn check_label(text: &str) -> Result<(), NameError> {
    check_part(text, 63)
}

/// Checks a subdomain of RFC 1123: labels joined by `.`, at most 253 characters.
///
/// # Errors
/// Says which rule is broken.
pub fn check_subdomain(text: &str) -> Result<(), NameError> {
    if text.len() > 253 {
        return Err(NameError::TooLong {
            found: text.chars().count(),
            most: 253,
        });
    }
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    text.split('.')
        .try_for_each(|part| match check_part(part, 253) {
            Err(NameError::Empty) => Err(NameError::Edge),
            other => other,
        })
}

fn check_part(text: &str, most: usize) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(bad) = text.chars().find(|&c| !allowed(c) && c != '-') {
        return Err(NameError::Character(bad));
    }
    if !text.starts_with(allowed) || !text.ends_with(allowed) {
        return Err(NameError::Edge);
    }
    if text.len() > most {
        return Err(NameError::TooLong {
            found: text.len(),
            most,
        });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of a namespace: an RFC 1123 label.
    Namespace, check_label
}

name_type! {
    /// The name of an object: an RFC 1123 subdomain.
    ObjectName, check_subdomain
}

impl Default for Namespace {
    /// The namespace of objects that name none.
    fn default() -> Self {
        Self("default".into())
    }
}

/// The full name of an object that lives in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace it lives in.
    pub namespace: Namespace,
    /// Its name there.
    pub name: ObjectName,
}

impl ObjectKey {
    /// Joins a namespace and a name.
    pub const fn new(namespace: Namespace, name: ObjectName) -> Self {
        Self { namespace, name }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ObjectKey {
    type Err = NameError;

    /// Reads `ns/name`; without a namespace it is `default`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace.parse()?, name.parse()?),
            None => Self::new(Namespace::default(), text.parse()?),
        })
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<ObjectName, NameError> {
        text.parse()
    }

    #[test]
    fn names_follow_rfc_1123() {
        assert!(name("web").is_ok());
        assert!(name("web-0.v2").is_ok());
        assert_eq!(name(""), Err(NameError::Empty));
        assert_eq!(name("Web"), Err(NameError::Character('W')));
        assert_eq!(name("-web"), Err(NameError::Edge));
        assert_eq!(name("a..b"), Err(NameError::Edge));
        assert_eq!(
            name(&"a".repeat(254)),
            Err(NameError::TooLong {
                found: 254,
                most: 253
            })
        );
        assert_eq!("a.b".parse::<Namespace>(), Err(NameError::Character('.')));
    }

    #[test]
    fn keys_read_what_they_print() {
        let key: ObjectKey = "shop/cart".parse().expect("a well-formed key");
        assert_eq!(key.to_string(), "shop/cart");
        let key: ObjectKey = "cart".parse().expect("a well-formed key");
        assert_eq!(key.to_string(), "default/cart");
    }
}
