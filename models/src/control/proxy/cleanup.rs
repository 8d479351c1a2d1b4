//! Which UDP connections kube-proxy forgets after it has written its rules, so that sockets which are kept open move to an
//! endpoint that is there (`pkg/proxy/conntrack/cleanup.go`). TCP connections to endpoints that are gone are left alone.
//!
//! # Fidelity
//! Until 1.31 the real program calls `conntrack -D` for what changed; since 1.32 it reads the whole table and compares. A
//! Service without endpoints is skipped there, as in the releases up to the fix of issue 139628.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{PortView, ServiceView, Version};
use crate::base::Protocol;
use crate::kernel::conntrack::show::CtFilter;
use crate::kernel::conntrack::{Conntrack, Entry};
use crate::wire::L4;

/// What no longer leads to an endpoint: the same on every node.
#[derive(Clone, Debug)]
pub enum Stale<'a> {
    /// What `conntrack -D` is called with after a change (until 1.31).
    Filters(Vec<CtFilter>),
    /// Connections to these service ports that are not answered by one of their endpoints (since 1.32).
    Beside(Vec<&'a PortView>),
}

impl<'a> Stale<'a> {
    /// Returns what is stale once some Services have other ports than before, and all together those of `view`.
    pub fn new<'c>(
        changes: impl IntoIterator<Item = (&'c [PortView], &'c [PortView])>,
        view: &'a ServiceView,
        version: Version,
    ) -> Self {
        match version {
            Version::V1_30 | Version::V1_31 => {
                let filters = changes.into_iter();
                Self::Filters(filters.flat_map(|(b, a)| changed(b, a)).collect())
            }
            Version::V1_32 | Version::V1_33 | Version::V1_34 => {
                Self::Beside(udp(&view.ports).collect())
            }
        }
    }

    /// Forgets it, and returns how many entries that were.
    pub fn clean(&self, table: &mut Conntrack) -> usize {
        match self {
            Self::Filters(filters) => filters.iter().map(|filter| table.delete(filter)).sum(),
            Self::Beside(ports) => table.delete_where(|entry| is_stale(ports, entry)),
        }
    }
}

fn udp(ports: &[PortView]) -> impl Iterator<Item = &PortView> {
    ports.iter().filter(|port| port.protocol == Protocol::Udp)
}

/// Addresses at which the nodes catch traffic for a port.
fn fronts(port: &PortView) -> impl Iterator<Item = IpAddr> {
    let more = port.external_ips.iter().chain(&port.load_balancer_vips);
    std::iter::once(port.cluster_ip).chain(more.copied())
}

fn endpoints(port: &PortView) -> BTreeSet<SocketAddr> {
    port.endpoints
        .iter()
        .map(|endpoint| endpoint.addr)
        .collect()
}

fn changed(before: &[PortView], after: &[PortView]) -> Vec<CtFilter> {
    let mut filters = Vec::new();
    let to = |front: IpAddr| CtFilter {
        l4: Some(L4::Udp),
        orig_dst: Some(front),
        ..CtFilter::default()
    };
    let to_node_port = |number: u16| CtFilter {
        l4: Some(L4::Udp),
        orig_dport: Some(number),
        ..CtFilter::default()
    };
    let same = |a: &PortView, b: &PortView| a.service == b.service && a.name == b.name;
    for old in udp(before) {
        let new = udp(after).find(|new| same(old, new));
        if new.is_none() {
            filters.push(to(old.cluster_ip));
        }
        let left = new.map(endpoints).unwrap_or_default();
        for gone in endpoints(old).difference(&left) {
            let answered = |filter: CtFilter| CtFilter {
                reply_src: Some(gone.ip()),
                ..filter
            };
            filters.extend(fronts(old).map(|front| answered(to(front))));
            filters.extend(old.node_port.map(|number| answered(to_node_port(number))));
        }
    }
    for new in udp(after).filter(|new| !new.endpoints.is_empty()) {
        let old = udp(before).find(|old| same(old, new));
        if old.is_none_or(|old| old.endpoints.is_empty()) {
            filters.extend(fronts(new).map(to));
            filters.extend(new.node_port.map(to_node_port));
        }
    }
    filters
}

/// Whether a connection of the table goes to a Service, and not to one of its endpoints that answer (since 1.32).
fn is_stale(ports: &[&PortView], entry: &Entry) -> bool {
    let (original, reply) = (&entry.original, &entry.reply);
    if original.l4 != L4::Udp {
        return false;
    }
    let meant = ports.iter().find(|port| {
        let by_address = original.dport == port.port && fronts(port).any(|ip| ip == original.dst);
        by_address || port.node_port == Some(original.dport)
    });
    meant.is_some_and(|port| {
        let answers = SocketAddr::new(reply.src, reply.sport);
        let serving = |e: &super::EndpointView| e.serving && e.addr == answers;
        !port.endpoints.is_empty() && !port.endpoints.iter().any(serving)
    })
}
