//! Whose resolver a program uses.

use std::fmt;
use std::str::FromStr;

/// Whose resolver it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flavour {
    /// GNU C library (Debian, Ubuntu, distroless).
    #[default]
    Glibc,
    /// musl 1.2.4 and later (Alpine 3.18).
    Musl,
    /// musl before 1.2.4.
    OldMusl,
    /// Go's own resolver (`net`, without cgo).
    Go,
}

impl Flavour {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Glibc, Self::Musl, Self::OldMusl, Self::Go];

    /// Returns the name, `musl-1.2.3`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
            Self::OldMusl => "musl-1.2.3",
            Self::Go => "go",
        }
    }

    /// Whether it is a release of musl.
    pub const fn is_musl(self) -> bool {
        match self {
            Self::Musl | Self::OldMusl => true,
            Self::Glibc | Self::Go => false,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that is no resolver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected glibc, musl, musl-1.2.3 or go")]
pub struct ParseFlavourError;

impl FromStr for Flavour {
    type Err = ParseFlavourError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |flavour: &Self| flavour.name() == text;
        Self::ALL.into_iter().find(named).ok_or(ParseFlavourError)
    }
}
