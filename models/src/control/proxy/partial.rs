//! What changes in the rules when the endpoints of one Service do: kube-proxy's partial sync.
//!
//! Since 1.28 the real program writes only the chains of Services that changed, and in a cluster of more than
//! 1,000 endpoints leaves chains that are no longer used until the next full sync
//! (`pkg/proxy/iptables/proxier.go`, `largeClusterMode`).
//!
//! # Fidelity
//! The real program writes `KUBE-SERVICES` and the other chains for all Services anew each time; the result is the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::iptables::{
    Chains, EXTERNAL_SERVICES, LARGE_CLUSTER_ENDPOINTS, NODEPORTS, PROXY_FIREWALL, SERVICES,
    rules_of_ports, same_on_every_node,
};
use super::{Flags, NodeView, PortView, ServiceView, Version};
use crate::base::ObjectKey;
use crate::kernel::netfilter::chain::{Rule, Ruleset, Table};

/// How many service ports are looked at to find where a new one's rules belong.
const NEIGHBOURS: usize = 64;

/// Chains to be replaced.
pub type Edit = Vec<(Table, Arc<str>, Arc<Vec<Rule>>)>;

/// The service ports of one Service before and after a change.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What there was.
    pub before: &'a [PortView],
    /// What there is.
    pub after: &'a [PortView],
    /// All service ports that come behind those of the Service.
    pub behind: &'a [PortView],
    /// How many endpoints all service ports had.
    pub endpoints_before: usize,
    /// How many they have.
    pub endpoints_after: usize,
}

impl ServiceView {
    /// Replaces the ports of one Service; returns what there was, and where.
    pub fn replace(&mut self, service: &ObjectKey, ports: Vec<PortView>) -> (usize, Vec<PortView>) {
        let start = self.ports.partition_point(|port| port.service < *service);
        let end = self.ports.partition_point(|port| port.service <= *service);
        (start, self.ports.splice(start..end, ports).collect())
    }
}

/// Returns the chains to replace in the rules of a node that has those of before, if a partial sync is enough: if the rules
/// are the same on every node, the cluster is large, and stays large.
pub fn edit(
    rules: &Ruleset,
    change: Change<'_>,
    (node, flags, version): (&NodeView, &Flags, Version),
) -> Option<Edit> {
    let large = |endpoints: usize| endpoints > LARGE_CLUSTER_ENDPOINTS;
    let any = change.before.first().or_else(|| change.after.first())?;
    let family = crate::base::Family::of(any.cluster_ip);
    let alike = |ports: &[PortView]| {
        let ports = ports.to_vec();
        same_on_every_node(&ServiceView { family, ports }, flags)
    };
    let partial = large(change.endpoints_before) && large(change.endpoints_after);
    if !partial || !alike(change.before) || !alike(change.after) {
        return None;
    }
    let write = |ports: &[PortView]| rules_of_ports(family, ports, (node, flags, version));
    let (before, after) = (write(change.before), write(change.after));
    let mut edit = Edit::new();
    for (table, before, after) in [
        (Table::Filter, &before.0, &after.0),
        (Table::Nat, &before.1, &after.1),
    ] {
        let names: BTreeSet<&Arc<str>> = before.keys().chain(after.keys()).collect();
        for name in names {
            let of = |chains: &Chains| chains.get(name).cloned().unwrap_or_default();
            let (was, is) = (of(before), of(after));
            if was == is || (is.is_empty() && !is_shared(name)) {
                continue;
            }
            let is = if is_shared(name) {
                let present = rules.tables.get(&table)?.chains.get(name)?;
                let behind = || first_behind(table, name, change.behind, &write);
                spliced(&present.rules, &was, is, behind)?
            } else {
                is
            };
            edit.push((table, Arc::clone(name), Arc::new(is)));
        }
    }
    Some(edit)
}

/// Whether all Services have rules in a chain.
fn is_shared(chain: &str) -> bool {
    [SERVICES, EXTERNAL_SERVICES, NODEPORTS, PROXY_FIREWALL].contains(&chain)
}

/// The first rule in a chain of the service ports that come behind.
fn first_behind(
    table: Table,
    chain: &Arc<str>,
    behind: &[PortView],
    write: &impl Fn(&[PortView]) -> (Chains, Chains),
) -> Option<Rule> {
    behind.iter().take(NEIGHBOURS).find_map(|port| {
        let (filter, nat) = write(std::slice::from_ref(port));
        let chains = match table {
            Table::Filter => filter,
            Table::Nat => nat,
            Table::Raw | Table::Mangle => return None,
        };
        chains.get(chain)?.first().cloned()
    })
}

/// Puts rules in the place of those that were there, or before those of whoever comes behind.
fn spliced(
    rules: &[Rule],
    was: &[Rule],
    is: Vec<Rule>,
    behind: impl Fn() -> Option<Rule>,
) -> Option<Vec<Rule>> {
    let next = match was.first() {
        Some(first) => first.clone(),
        None => behind()?,
    };
    let start = rules.iter().position(|rule| *rule == next)?;
    let end = start + was.len();
    if rules.get(start..end)? != was {
        return None;
    }
    let mut spliced = rules.to_vec();
    spliced.splice(start..end, is);
    Some(spliced)
}
