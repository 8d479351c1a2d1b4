//! What the namespaces of the kernel are called: the prefix, and the name of the simulated one with dots for slashes.

use std::fmt;
use std::str::FromStr;

use podwire_models::kernel::Netns;

/// What the name of every namespace begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// Why a text is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a prefix has 1 to 30 letters, digits, `-` and `_`, the first of them a letter")]
pub struct BadPrefix;

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let fits = (1..=30).contains(&text.len())
            && text.chars().all(plain)
            && text.starts_with(|c: char| c.is_ascii_alphabetic());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadPrefix)
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Prefix {
    /// Returns the name of a namespace: `pod/shop/cart-0` is `podwire-pod.shop.cart-0`.
    ///
    /// Namespaces of Kubernetes have no dots, so two pods never share a name.
    pub fn of(&self, netns: &Netns) -> String {
        format!("{self}-{}", netns.name.replace('/', "."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_plain() {
        assert!("podwire".parse::<Prefix>().is_ok());
        for bad in ["", "1a", "a b", "a/b", "a;b", &"a".repeat(31)] {
            assert_eq!(bad.parse::<Prefix>(), Err(BadPrefix), "{bad}");
        }
    }
}
