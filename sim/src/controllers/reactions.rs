//! How long each reaction of the control plane takes: its usual time, and between which times a real one lies.
//!
//! The usual times are constants of [`super`] with their sources. The ranges are those of the same documents where they give any
//! (kubelet's relist period, `minSyncPeriod`, the objectives for starting pods), and what is commonly seen where they do not.
//!
//! # Fidelity
//! One range serves all nodes, and each time is drawn evenly from it, where a real one has a long tail.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    CONTROLLER_SYNC, ENDPOINT_SYNC, KUBELET_WATCH, PLEG_RELIST, POD_START, POD_TEARDOWN,
    POLICY_SYNC, PROXY_SYNC, ZONE_SYNC,
};

/// Something that happens a while after something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reaction {
    /// A controller of workloads reacts.
    ControllerSync,
    /// The `EndpointSlice` controller writes.
    EndpointSync,
    /// kube-proxy writes its rules.
    ProxySync,
    /// `CoreDNS` answers by it.
    ZoneSync,
    /// Policy agents judge by it.
    PolicySync,
    /// A kubelet hears of a deletion.
    KubeletWatch,
    /// A kubelet notices that a container has ended.
    PlegRelist,
    /// A new pod runs.
    PodStart,
    /// A pod that ends has ended.
    PodTeardown,
}

impl Reaction {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ControllerSync,
        Self::EndpointSync,
        Self::ProxySync,
        Self::ZoneSync,
        Self::PolicySync,
        Self::KubeletWatch,
        Self::PlegRelist,
        Self::PodStart,
        Self::PodTeardown,
    ];

    /// Returns its name in scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ControllerSync => "controller_sync",
            Self::EndpointSync => "endpoint_sync",
            Self::ProxySync => "proxy_sync",
            Self::ZoneSync => "zone_sync",
            Self::PolicySync => "policy_sync",
            Self::KubeletWatch => "kubelet_watch",
            Self::PlegRelist => "pleg_relist",
            Self::PodStart => "pod_start",
            Self::PodTeardown => "pod_teardown",
        }
    }

    /// Returns the one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Returns how long it takes if nobody says otherwise.
    pub const fn usual(self) -> Duration {
        match self {
            Self::ControllerSync => CONTROLLER_SYNC,
            Self::EndpointSync => ENDPOINT_SYNC,
            Self::ProxySync => PROXY_SYNC,
            Self::ZoneSync => ZONE_SYNC,
            Self::PolicySync => POLICY_SYNC,
            Self::KubeletWatch => KUBELET_WATCH,
            Self::PlegRelist => PLEG_RELIST,
            Self::PodStart => POD_START,
            Self::PodTeardown => POD_TEARDOWN,
        }
    }

    /// Returns between which times it lies in clusters that are well.
    pub const fn range(self) -> Span {
        let (least, most) = match self {
            // A watch and a work queue.
            Self::ControllerSync
            | Self::EndpointSync
            | Self::ZoneSync
            | Self::PolicySync
            | Self::KubeletWatch => (10, 100),
            // From a few rules to tens of thousands.
            Self::ProxySync => (20, 2_000),
            // Anywhere in its period.
            Self::PlegRelist => (0, 1_000),
            // 99 of 100 pods whose images are there start within 5 s.
            Self::PodStart => (700, 5_000),
            Self::PodTeardown => (20, 1_000),
        };
        Span {
            least: Duration::from_millis(least),
            most: Duration::from_millis(most),
        }
    }
}

/// A shortest and a longest time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Span {
    /// Returns a span of one time only.
    pub const fn always(time: Duration) -> Self {
        Self {
            least: time,
            most: time,
        }
    }
}

/// The times of all reactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reactions(BTreeMap<Reaction, Span>);

impl Reactions {
    /// Lets a reaction take another time than usual.
    pub fn set(&mut self, reaction: Reaction, span: Span) {
        self.0.insert(reaction, span);
    }

    /// Returns what somebody has said of a reaction.
    pub fn said(&self, reaction: Reaction) -> Option<Span> {
        self.0.get(&reaction).copied()
    }

    /// Returns between which times a reaction lies.
    pub fn span(&self, reaction: Reaction) -> Span {
        let usual = || Span::always(reaction.usual());
        self.said(reaction).unwrap_or_else(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_time_lies_within_the_range() {
        for reaction in Reaction::ALL {
            let Span { least, most } = reaction.range();
            assert!((least..=most).contains(&reaction.usual()), "{reaction:?}");
            assert!(least < most, "{reaction:?}");
            assert_eq!(Reaction::named(reaction.name()), Some(reaction));
        }
    }
}
