//! The release of a machine's kernel, and what differs between releases.
//!
//! Everything else is that of Linux 6.18. Back-ports of distributions are not known: a release here is that of
//! kernel.org.

use std::fmt;
use std::str::FromStr;

/// A release, `6.18`; what comes after the second number is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    major: u16,
    minor: u16,
}

/// What becomes of a packet whose entry cannot be inserted because another packet of the same connection was faster
/// (`nf_ct_resolve_clash` of `nf_conntrack_core.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClashResolution {
    /// It takes the other's entry if neither is translated; else it is dropped (before 5.0).
    Untranslated,
    /// It takes the other's entry if both are translated alike; else it is dropped (commit ed07d9a021df, 5.0).
    Alike,
    /// And if not, its entry is found by its answers only, for a second (commit 6a757c07e51f, 5.7).
    Both,
}

impl Release {
    /// The release that is modelled unless another is asked for.
    pub const CURRENT: Self = Self::new(6, 18);

    /// Returns a release.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Returns what becomes of clashing packets.
    pub fn clash_resolution(self) -> ClashResolution {
        if self < Self::new(5, 0) {
            ClashResolution::Untranslated
        } else if self < Self::new(5, 7) {
            ClashResolution::Alike
        } else {
            ClashResolution::Both
        }
    }

    /// Whether connection tracking calls a segment INVALID that comes long after its turn; later it is let through and changes
    /// nothing (commit 6e250dcbff1d, 6.1).
    pub fn calls_delayed_segments_invalid(self) -> bool {
        self < Self::new(6, 1)
    }

    /// Whether translating a UDP header without checksum gives it one, a wrong one, if the checksum of the packet inside is left
    /// to the device (until commit ea64d8d6c675, 5.7).
    pub fn translation_spoils_checksums(self) -> bool {
        self < Self::new(5, 7)
    }

    /// Whether there is `net.ipv4.tcp_syn_linear_timeouts` (commit ccce324dabfe, 6.5).
    pub fn has_linear_syn_timeouts(self) -> bool {
        self >= Self::new(6, 5)
    }
}

impl Default for Release {
    fn default() -> Self {
        Self::CURRENT
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A text that is not a release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the release of a kernel, as `5.4`")]
pub struct ParseReleaseError;

impl FromStr for Release {
    type Err = ParseReleaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(['.', '-']);
        let mut number = || parts.next()?.parse().ok();
        let (Some(major), Some(minor)) = (number(), number()) else {
            return Err(ParseReleaseError);
        };
        Ok(Self { major, minor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_ordered() {
        let of = |text: &str| text.parse::<Release>();
        assert_eq!(of("4.19.0-27-amd64"), Ok(Release::new(4, 19)));
        assert_eq!(of("6"), Err(ParseReleaseError));
        assert!(Release::new(5, 4) < Release::new(5, 10));
        assert!(!Release::new(6, 4).has_linear_syn_timeouts());
        assert!(Release::CURRENT.has_linear_syn_timeouts());
    }
}
