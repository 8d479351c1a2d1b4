//! What applications say to each other, as far as anything here depends on it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::http::HttpAnswer;
use crate::base::Family;

/// Meaning of application bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Message {
    /// Bytes nobody looks into.
    Opaque,
    /// A request of an application protocol (one line or one HTTP request).
    Request(Arc<str>),
    /// The answer to a [`Message::Request`]: who answered, and from where it saw the request come.
    Response {
        /// Name of the pod or host that answered.
        server: Arc<str>,
        /// Source address the server saw.
        seen: (IpAddr, u16),
        /// Local address the server answered from.
        at: (IpAddr, u16),
    },
    /// What a web server answers to a [`Message::Request`].
    Http {
        /// The answer.
        answer: Arc<HttpAnswer>,
        /// Source address the server saw.
        seen: (IpAddr, u16),
        /// Local address the server answered from.
        at: (IpAddr, u16),
    },
    /// A DNS message (RFC 1035 §4).
    Dns(Arc<Dns>),
}

/// A DNS query or response with one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Transaction id.
    pub id: u16,
    /// Name asked for: lower case, fully qualified, with the trailing dot.
    pub name: Arc<str>,
    /// Type asked for.
    pub record_type: RecordType,
    /// Present in a response.
    pub response: Option<DnsResponse>,
}

/// The answering half of a DNS message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsResponse {
    /// Outcome.
    pub code: ResponseCode,
    /// Answer section.
    pub answers: Vec<DnsRecord>,
}

/// One resource record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsRecord {
    /// Owner name, fully qualified with the trailing dot.
    pub name: Arc<str>,
    /// Time to live in seconds.
    pub ttl: u32,
    /// Data.
    pub data: RecordData,
}

/// Data of a resource record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RecordData {
    /// IPv4 (RFC 1035) or IPv6 (RFC 3596) address: A or AAAA by its family.
    Address(IpAddr),
    /// Canonical name.
    Cname(Arc<str>),
    /// Service location (RFC 2782).
    Srv {
        /// Priority.
        priority: u16,
        /// Weight.
        weight: u16,
        /// Port.
        port: u16,
        /// Target host.
        target: Arc<str>,
    },
    /// Pointer.
    Ptr(Arc<str>),
    /// Text.
    Txt(Arc<str>),
}

/// DNS record types in use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[expect(missing_docs, reason = "named as in RFC 1035, RFC 3596 and RFC 2782")]
pub enum RecordType {
    A,
    Aaaa,
    Srv,
    Ptr,
    Cname,
    Txt,
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
            Self::Ptr => "PTR",
            Self::Cname => "CNAME",
            Self::Txt => "TXT",
        })
    }
}

impl RecordType {
    /// All types.
    pub const ALL: [Self; 6] = [
        Self::A,
        Self::Aaaa,
        Self::Srv,
        Self::Ptr,
        Self::Cname,
        Self::Txt,
    ];

    /// Returns the type of records that hold addresses of a family.
    pub const fn of_addresses(family: Family) -> Self {
        match family {
            Family::V4 => Self::A,
            Family::V6 => Self::Aaaa,
        }
    }
}

/// DNS response codes (RFC 1035 §4.1.1) in use here. An empty answer with [`ResponseCode::NoError`] is "NODATA".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[expect(missing_docs, reason = "named as in RFC 1035")]
pub enum ResponseCode {
    NoError,
    ServFail,
    NxDomain,
    Refused,
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoError => "NOERROR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::Refused => "REFUSED",
        })
    }
}

impl RecordData {
    /// Returns the type of a record with this data.
    pub const fn record_type(&self) -> RecordType {
        match self {
            Self::Address(ip) => RecordType::of_addresses(Family::of(*ip)),
            Self::Cname(_) => RecordType::Cname,
            Self::Srv { .. } => RecordType::Srv,
            Self::Ptr(_) => RecordType::Ptr,
            Self::Txt(_) => RecordType::Txt,
        }
    }
}

impl fmt::Display for RecordData {
    /// The data as zone files have it (RFC 1035 §5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "{ip}"),
            Self::Cname(target) | Self::Ptr(target) => f.write_str(target),
            Self::Srv {
                priority,
                weight,
                port,
                target,
            } => write!(f, "{priority} {weight} {port} {target}"),
            Self::Txt(text) => write!(f, "\"{text}\""),
        }
    }
}

impl Dns {
    /// Returns an estimate of the message's size in bytes: header, question, answers without compression.
    ///
    /// # Fidelity
    /// Real servers compress names; the difference matters only near 512 and 1232 bytes.
    pub fn len(&self) -> u32 {
        let name = |n: &str| u32::try_from(n.len()).unwrap_or(u32::MAX).saturating_add(1);
        let answers = self.response.as_ref().map_or(0, |response| {
            let size = |record: &DnsRecord| match &record.data {
                RecordData::Address(IpAddr::V4(_)) => 16,
                RecordData::Address(IpAddr::V6(_)) => 28,
                RecordData::Cname(target) | RecordData::Ptr(target) | RecordData::Txt(target) => {
                    12 + name(target)
                }
                RecordData::Srv { target, .. } => 18 + name(target),
            };
            response.answers.iter().map(size).sum()
        });
        12 + name(&self.name) + 4 + answers
    }

    /// Returns whether the message is empty, which no DNS message is.
    pub const fn is_empty(&self) -> bool {
        false
    }
}
