//! What a scenario expects of its run.

use std::net::{IpAddr, SocketAddr};

use podwire_models::base::{ObjectKey, Ratio};
use podwire_models::wire::Code;
use serde::Deserialize;

use super::text::{Delay, Moment, Text};
use crate::reach::end::{End, Port};

/// Something that must be true of a run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Expectation {
    /// Every attempt of a probe ends so.
    Outcome {
        /// Which probe.
        probe: Text<String>,
        /// How it ends.
        is: Outcome,
        /// And why.
        code: Option<Text<Code>>,
        /// Name of the pod that answers, `shop/cart-0`.
        pod: Option<Text<ObjectKey>>,
        /// Address that answers, after all translations.
        backend: Option<Text<SocketAddr>>,
        /// Source address the server sees.
        seen_source: Option<Text<IpAddr>>,
        /// How many questions about names it sends, repeated ones included.
        queries: Option<u32>,
        /// How long it takes at least.
        takes_at_least: Option<Text<Delay>>,
        /// How long it takes at most.
        takes_at_most: Option<Text<Delay>>,
    },
    /// This share of a probe's attempts connects.
    Share {
        /// Which probe.
        probe: Text<String>,
        /// Exactly.
        delivered: Option<Text<Ratio>>,
        /// At least.
        at_least: Option<Text<Ratio>>,
        /// At most.
        at_most: Option<Text<Ratio>>,
    },
    /// A Service has this many endpoints.
    Endpoints(Endpoints),
    /// A fault touched packets.
    Touched {
        /// Which fault.
        fault: Text<String>,
        /// At least this many.
        at_least: u64,
    },
    /// Something becomes true soon enough.
    Within {
        /// From here on.
        after: Text<Moment>,
        /// What.
        condition: Condition,
        /// No later than this after it.
        limit: Text<Delay>,
    },
    /// Policies allow these connections, all of them.
    Allows(Reaching),
    /// Policies deny these connections, all of them.
    Denies(Reaching),
    /// Among these pods nothing else is allowed, on ports that containers declare, than what some `Allows` says.
    OnlyAllowed {
        /// Which pods.
        among: Text<End>,
        /// When; at the end of the run if not given.
        at: Option<Text<Moment>>,
    },
    /// Who may talk to whom is the same at two moments.
    Unchanged {
        /// The first.
        from: Text<Moment>,
        /// The second.
        to: Text<Moment>,
    },
    /// Something is true all the time.
    Always(Invariant),
}

/// Connections that policies decide about.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reaching {
    /// From where: `deploy/shop/web`, `ns/shop`, an address.
    pub from: Text<End>,
    /// To where; a Service stands for the pods behind it.
    pub to: Text<End>,
    /// The port, of the Service if it is one: `80`, `53/UDP`, `icmp`.
    pub port: Text<Port>,
    /// When; at the end of the run if not given.
    pub at: Option<Text<Moment>>,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Outcome {
    /// With an answer.
    Connected,
    /// By a RST or a port unreachable.
    Refused,
    /// By another ICMP error.
    Unreachable,
    /// By waiting too long.
    Timeout,
    /// By a RST after it was established.
    Reset,
    /// Before it began: the name was not found.
    DnsFailure,
}

impl Outcome {
    /// Returns the name in traces and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::DnsFailure => "dns_failure",
        }
    }
}

/// A Service has this many endpoints.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// Which Service.
    pub service: Text<ObjectKey>,
    /// When; at the end of the run if not given.
    pub at: Option<Text<Moment>>,
    /// How many that are ready.
    pub ready: u64,
}

/// What is to become true.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Condition {
    /// A Service has this many endpoints.
    Endpoints(Endpoints),
}

/// What is to be true all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Invariant {
    /// Every pod reaches every pod with no address rewritten, unless a policy or a fault says otherwise.
    FlatNetwork,
    /// What is true of every running cluster, whatever breaks in it ([`crate::story::invariants`]).
    Consistent,
}
