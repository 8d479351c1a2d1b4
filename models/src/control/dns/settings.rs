//! What decides about names besides the cluster's objects: the nodes' `resolv.conf`, the names outside, and what the
//! replicas of `CoreDNS` can take.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Settings of a cluster's name service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Name servers of the nodes' `resolv.conf`, which is also that of `CoreDNS` (`forward . /etc/resolv.conf`).
    pub upstream: Vec<IpAddr>,
    /// Search list of the nodes' `resolv.conf`.
    pub search: Vec<Arc<str>>,
    /// Names outside of the cluster, without the last dot. If there are none, nobody upstream answers.
    pub names: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// The address on which `NodeLocal DNSCache` listens on every node, where there is one; kubelets name it to their pods.
    ///
    /// # Fidelity
    /// The cache knows all that `CoreDNS` knows, at once: it never has to ask. Its rules that keep connection tracking away
    /// (`NOTRACK`) are missing.
    pub node_local: Option<IpAddr>,
    /// How long a replica works on a question; it works on one at a time.
    pub service_time: Duration,
    /// With how many questions waiting a replica has used up its memory, and is killed.
    pub memory: Option<u32>,
}

impl DnsSettings {
    /// Returns the server to which `CoreDNS` forwards what it does not know, if that is itself: an address of its own
    /// loopback device.
    pub fn forwards_to_itself(&self) -> Option<IpAddr> {
        self.upstream.first().copied().filter(IpAddr::is_loopback)
    }

    /// Whether a replica can end by itself.
    pub fn can_crash(&self) -> bool {
        self.memory.is_some() || self.forwards_to_itself().is_some()
    }
}
