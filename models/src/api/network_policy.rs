//! Who may talk to whom: `networking.k8s.io/v1` `NetworkPolicy`.
//! Only the words; what they mean is in `control::policy`.

use ipnet::IpNet;

use super::PortRef;
use crate::base::{Labels, ObjectKey, OriginId, Protocol, Selector};

/// A policy for some pods of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its own labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// The pods it is about, in its own namespace.
    pub pod_selector: Selector,
    /// Which directions it isolates. If not written: ingress, and egress if there are egress rules.
    pub policy_types: PolicyTypes,
    /// What may come in.
    pub ingress: Vec<PolicyRule>,
    /// What may go out.
    pub egress: Vec<PolicyRule>,
    /// Where it was written.
    pub origin: OriginId,
}

/// Which directions a policy isolates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyTypes {
    /// Traffic to the pods.
    pub ingress: bool,
    /// Traffic from the pods.
    pub egress: bool,
}

/// Traffic that is allowed: from (or to) any of the peers, on any of the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The other sides; everybody if empty.
    pub peers: Vec<PolicyPeer>,
    /// The ports; all of them if empty.
    pub ports: Vec<PolicyPort>,
    /// Where it was written.
    pub origin: OriginId,
}

/// The other side of allowed traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods.
    Pods {
        /// In which namespaces; only the policy's own if `None`.
        namespaces: Option<Selector>,
        /// Which pods there; all of them if `None`.
        pods: Option<Selector>,
        /// Where it was written.
        origin: OriginId,
    },
    /// Addresses.
    IpBlock(IpBlock),
}

/// A range of addresses with holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpBlock {
    /// The range.
    pub cidr: IpNet,
    /// Parts of it that are not meant.
    pub except: Vec<IpNet>,
    /// Where it was written.
    pub origin: OriginId,
}

/// Ports of allowed traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// Which ports of it.
    pub ports: PolicyPorts,
    /// Where it was written.
    pub origin: OriginId,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPorts {
    /// All of them.
    All,
    /// One, by number or by the name that the destination's container gave it.
    One(PortRef),
    /// From `port` to `endPort`, both included.
    Range(u16, u16),
}
