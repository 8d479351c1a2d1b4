//! Policies of the whole cluster: `policy.networking.k8s.io/v1alpha1` `AdminNetworkPolicy` and
//! `BaselineAdminNetworkPolicy`, and `v1alpha2` `ClusterNetworkPolicy`, which succeeds both.
//! Only the words; what they mean is in `control::policy`.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::base::{Labels, ObjectName, OriginId, Protocol, Selector};

/// Which of the three kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterPolicyKind {
    /// `v1alpha1`, of the tier [`Tier::Admin`].
    AdminNetworkPolicy,
    /// `v1alpha1`, of the tier [`Tier::Baseline`]; there is one, called `default`.
    BaselineAdminNetworkPolicy,
    /// `v1alpha2`, of either tier.
    ClusterNetworkPolicy,
}

impl ClusterPolicyKind {
    /// Returns the name of the kind as objects write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }
}

/// When a policy is asked: before every `NetworkPolicy`, or after all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before: what it decides, no `NetworkPolicy` can change.
    Admin,
    /// After, and only about pods that no `NetworkPolicy` isolates.
    Baseline,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        })
    }
}

/// A policy of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Which of the three kinds it is.
    pub kind: ClusterPolicyKind,
    /// Its name.
    pub name: ObjectName,
    /// Its own labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// When it is asked.
    pub tier: Tier,
    /// Among the policies of its tier, lower numbers are asked first.
    pub priority: u16,
    /// The pods it is about.
    pub subject: PodSet,
    /// What becomes of traffic to them, in this order.
    pub ingress: Vec<ClusterRule>,
    /// What becomes of traffic from them, in this order.
    pub egress: Vec<ClusterRule>,
    /// Where it was written.
    pub origin: OriginId,
}

/// Some of the cluster's pods, none of them with `hostNetwork`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSet {
    /// In which namespaces.
    pub namespaces: Selector,
    /// Which pods there.
    pub pods: Selector,
}

/// What becomes of some traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// Its name, for people; empty if it has none.
    pub name: Arc<str>,
    /// What becomes of the traffic.
    pub action: ClusterAction,
    /// The other sides.
    pub peers: Vec<ClusterPeer>,
    /// The ports. `None` is all traffic, also that which has no ports.
    pub ports: Option<Vec<ClusterPort>>,
    /// Where it was written.
    pub origin: OriginId,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterAction {
    /// Lets it through (`Allow`, from `v1alpha2` on `Accept`).
    Accept,
    /// Drops it.
    Deny,
    /// Asks no further policy of this tier.
    Pass,
}

impl fmt::Display for ClusterAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        })
    }
}

/// The other side of some traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterPeer {
    /// Pods.
    Pods(PodSet),
    /// Nodes: their addresses, which pods with `hostNetwork` share. For egress only.
    Nodes(Selector),
    /// Addresses, those of pods too. For egress only.
    Networks(Vec<IpNet>),
    /// Names that nobody resolves here. They accept nothing. For egress only.
    DomainNames(Vec<Arc<str>>),
    /// A peer that cannot be read. The API asks to fail closed: it accepts nothing, and denies all.
    Unknown,
}

/// Ports of some traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterPort {
    /// From one to another of a protocol, both included.
    Range(Protocol, u16, u16),
    /// The port that the destination's container gave this name, whatever its protocol.
    Named(Arc<str>),
    /// All ports of a protocol.
    All(Protocol),
}
