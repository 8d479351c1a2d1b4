//! The line `options` of `resolv.conf`, as far as a look-up notices it.

use std::sync::Arc;
use std::time::Duration;

use super::flavour::Flavour;

/// How the two questions of a look-up are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pair {
    /// Together.
    #[default]
    Together,
    /// One after the other (`single-request`).
    InTurn,
    /// One after the other, each from a socket of its own (`single-request-reopen`).
    Reopened,
}

/// Options that are not about names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolverOptions {
    /// `timeout:`, as written.
    pub timeout: Duration,
    /// `attempts:`, as written.
    pub attempts: u32,
    /// `single-request`, `single-request-reopen`.
    pub pair: Pair,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            attempts: 2,
            pair: Pair::Together,
        }
    }
}

impl ResolverOptions {
    /// Reads the options of a `dnsConfig`; those that are not known here change nothing.
    ///
    /// # Fidelity
    /// `rotate`, `use-vc`, `edns0`, `trust-ad` and `no-tld-query` are among those.
    pub fn read(options: &[(Arc<str>, Option<Arc<str>>)]) -> Self {
        let mut read = Self::default();
        for (name, value) in options {
            let number = value.as_ref().and_then(|value| value.parse::<u32>().ok());
            match (&**name, number) {
                ("timeout", Some(seconds)) => read.timeout = Duration::from_secs(seconds.into()),
                ("attempts", Some(times)) => read.attempts = times,
                ("single-request", _) => read.pair = Pair::InTurn,
                ("single-request-reopen", _) => read.pair = Pair::Reopened,
                _ => {}
            }
        }
        read
    }

    /// Returns what a resolver makes of them: at most 30 s and 5 attempts (`RES_MAXRETRANS`, `RES_MAXRETRY` of glibc), 60
    /// and 10 (`resolvconf.c` of musl), at least 1 of each (`dnsconfig_unix.go`). musl knows no `single-request`, and Go
    /// takes both forms for the first; each of its questions has a socket of its own anyway.
    #[must_use]
    pub fn of(self, flavour: Flavour) -> Self {
        let (most, times) = match flavour {
            Flavour::Glibc => (30, 5),
            Flavour::Musl | Flavour::OldMusl => (60, 10),
            Flavour::Go => (u64::from(u32::MAX), u32::MAX),
        };
        let seconds = self.timeout.as_secs().clamp(1, most);
        Self {
            timeout: Duration::from_secs(seconds),
            attempts: self.attempts.clamp(1, times),
            pair: if flavour.is_musl() {
                Pair::Together
            } else {
                self.pair
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_library_has_its_limits() {
        let option = |name: &str, value: Option<&str>| (name.into(), value.map(Into::into));
        let options = [
            option("timeout", Some("90")),
            option("attempts", Some("0")),
            option("single-request-reopen", None),
        ];
        let read = ResolverOptions::read(&options);
        let of = |flavour| {
            let options = read.of(flavour);
            (options.timeout.as_secs(), options.attempts, options.pair)
        };
        assert_eq!(of(Flavour::Glibc), (30, 1, Pair::Reopened));
        assert_eq!(of(Flavour::OldMusl), (60, 1, Pair::Together));
        assert_eq!(of(Flavour::Go), (90, 1, Pair::Reopened));
    }
}
