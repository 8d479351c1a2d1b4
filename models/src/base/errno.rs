//! Error numbers as an application sees them (`errno(3)`), by name.

use std::fmt;

use serde::Serialize;

/// An error a system call returns to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[allow(
    clippy::upper_case_acronyms,
    reason = "spelled as errno(3) spells them"
)]
#[expect(
    missing_docs,
    reason = "each name is its own documentation; see errno(3)"
)]
pub enum Errno {
    EPERM,
    EAGAIN,
    EACCES,
    EINVAL,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EADDRINUSE,
    EADDRNOTAVAIL,
    ENETUNREACH,
    ECONNRESET,
    ETIMEDOUT,
    ECONNREFUSED,
    EHOSTDOWN,
    EHOSTUNREACH,
    EMSGSIZE,
    ENONET,
    ENOBUFS,
    EPIPE,
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
