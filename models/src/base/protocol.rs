//! Transport protocols, spelled as Kubernetes spells them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A transport protocol that a port can belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// Every protocol, in order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Returns the name in lower case, as iptables and kube-proxy's hashes use it.
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Returns the name in upper case, as Kubernetes objects use it.
    pub const fn upper(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.upper())
    }
}

/// A word that is no transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected TCP, UDP or SCTP")]
pub struct ProtocolError;

impl FromStr for Protocol {
    type Err = ProtocolError;

    /// Reads a protocol in either case.
    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.upper().eq_ignore_ascii_case(text))
            .ok_or(ProtocolError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_read_what_they_print() {
        for protocol in Protocol::ALL {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
            assert_eq!(protocol.lower().parse(), Ok(protocol));
        }
        assert_eq!("icmp".parse::<Protocol>(), Err(ProtocolError));
    }
}
