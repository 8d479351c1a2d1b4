//! What changes in the rules when some Services or their endpoints do: kube-proxy's partial sync.
//!
//! Since 1.28 the real program writes the chains of a Service only if it changed (`pkg/proxy/iptables/proxier.go`,
//! `MinimizeIPTablesRestore`).
//!
//! # Fidelity
//! The real program writes `KUBE-SERVICES` and the other chains of all Services anew each time; the result is the same. In a
//! cluster of more than 1,000 endpoints it leaves chains that are no longer used for up to 30 seconds
//! (`largeClusterMode`); here they go at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::iptables::{
    Chains, EXTERNAL_SERVICES, LARGE_CLUSTER_ENDPOINTS, NODEPORTS, PROXY_FIREWALL, SERVICES,
    rules_of_ports, same_on_every_node,
};
use super::{Flags, NodeView, PortView, ServiceView, Version};
use crate::base::{Family, ObjectKey};
use crate::kernel::netfilter::chain::{Match, Rule, Ruleset, Table};

/// The rules of a chain, which nodes may share.
type Shared = Arc<Vec<Rule>>;

/// The service ports of one Service before and after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The Service.
    pub service: ObjectKey,
    /// What there was.
    pub before: Vec<PortView>,
    /// What there is.
    pub after: Vec<PortView>,
}

impl ServiceView {
    /// Replaces the ports of one Service; returns what there was.
    pub fn replace(&mut self, service: &ObjectKey, ports: Vec<PortView>) -> Vec<PortView> {
        let start = self.ports.partition_point(|port| port.service < *service);
        let end = self.ports.partition_point(|port| port.service <= *service);
        self.ports.splice(start..end, ports).collect()
    }

    /// Whether it is so large that rules for endpoints carry no comments.
    pub fn is_large(&self) -> bool {
        self.endpoint_count() > LARGE_CLUSTER_ENDPOINTS
    }
}

/// Whether the rules of a change are the same on every node.
pub fn alike(change: &Change, family: Family, flags: &Flags) -> bool {
    let alike = |ports: &[PortView]| {
        let ports = ports.to_vec();
        same_on_every_node(&ServiceView { family, ports }, flags)
    };
    alike(&change.before) && alike(&change.after)
}

/// Chains to be replaced and chains to be removed, in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// With their new rules.
    pub chains: Vec<(Arc<str>, Shared)>,
    /// Those that nobody jumps to any more.
    pub stale: Vec<Arc<str>>,
}

/// What a partial sync writes in one table, on a node or on all that are alike.
#[derive(Clone, Debug, Default)]
struct Written {
    /// Chains that belong to one service port.
    own: BTreeMap<Arc<str>, Shared>,
    stale: BTreeSet<Arc<str>>,
    /// The rules of each Service that changed in chains that belong to all.
    shared: BTreeMap<Arc<str>, BTreeMap<ObjectKey, Vec<Rule>>>,
}

/// A partial sync of a node, or of all that are alike.
#[derive(Clone, Debug)]
pub struct Partial {
    family: Family,
    comments: bool,
    tables: [(Table, Written); 2],
}

/// Chains of all Services before and after: nodes that share them before share them afterwards.
#[derive(Clone, Debug, Default)]
pub struct Merged(Vec<((Table, Arc<str>), Shared, Shared)>);

impl Partial {
    /// Begins a partial sync that writes nothing yet, in a cluster that is large or is not.
    pub fn new(family: Family, is_large: bool) -> Self {
        Self {
            family,
            comments: !is_large,
            tables: [Table::Filter, Table::Nat].map(|table| (table, Written::default())),
        }
    }

    /// Adds what is written on a node for changes.
    pub fn add(&mut self, changes: &[Change], on: (&NodeView, &Flags, Version)) {
        let write = |ports: &[PortView]| rules_of_ports(self.family, ports, self.comments, on);
        let [(_, filter), (_, nat)] = &mut self.tables;
        for change in changes {
            let (before, after) = (write(&change.before), write(&change.after));
            filter.add(&change.service, before.0, after.0);
            nat.add(&change.service, before.1, after.1);
        }
    }

    /// Returns what changes in the rules of a node that has what was written for before, by table; nothing if it has not.
    pub fn edits(&self, rules: &Ruleset, merged: &mut Merged) -> Option<Vec<(Table, Edit)>> {
        let edit = |(table, written): &(Table, Written)| {
            let chains = &rules.tables.get(table)?.chains;
            let mut edit = Edit {
                chains: written.own.clone().into_iter().collect(),
                stale: written.stale.iter().cloned().collect(),
            };
            for (name, parts) in &written.shared {
                let present = &chains.get(name)?.rules;
                let rules = merged.of((*table, name), present, parts);
                edit.chains.push((Arc::clone(name), rules));
            }
            Some((*table, edit))
        };
        self.tables.iter().map(edit).collect()
    }
}

impl Merged {
    fn of(
        &mut self,
        (table, name): (Table, &Arc<str>),
        present: &Shared,
        parts: &BTreeMap<ObjectKey, Vec<Rule>>,
    ) -> Shared {
        let known = self.0.iter().find(|((of, chain), was, _)| {
            (*of, chain) == (table, name) && Arc::ptr_eq(was, present)
        });
        if let Some((.., rules)) = known {
            return Arc::clone(rules);
        }
        let rules = Arc::new(merged(present, parts));
        let chain = (table, Arc::clone(name));
        self.0
            .push((chain, Arc::clone(present), Arc::clone(&rules)));
        rules
    }
}

impl Written {
    fn add(&mut self, service: &ObjectKey, mut before: Chains, after: Chains) {
        for (name, rules) in after {
            let was = before.remove(&name);
            if is_shared(&name) {
                let parts = self.shared.entry(name).or_default();
                parts.insert(service.clone(), rules);
            } else if was.as_ref() != Some(&rules) {
                self.own.insert(name, Arc::new(rules));
            }
        }
        for (name, _) in before {
            if is_shared(&name) {
                let parts = self.shared.entry(name).or_default();
                parts.insert(service.clone(), Vec::new());
            } else {
                self.stale.insert(name);
            }
        }
    }
}

/// Whether all Services have rules in a chain.
fn is_shared(chain: &str) -> bool {
    [SERVICES, EXTERNAL_SERVICES, NODEPORTS, PROXY_FIREWALL].contains(&chain)
}

/// The Service that a rule of a chain of all Services is for; none if it is for all. Its comment begins with the service port.
fn owner(rule: &Rule) -> Option<(&str, &str)> {
    let mut comments = rule.matches.iter().filter_map(|m| {
        let Match::Comment(text) = m else { return None };
        Some(&**text)
    });
    let (namespace, port) = comments.next()?.split(' ').next()?.split_once('/')?;
    Some((namespace, port.split(':').next()?))
}

fn names(service: &ObjectKey) -> (&str, &str) {
    (service.namespace.as_str(), service.name.as_str())
}

/// Puts rules of some Services in the place of those they had. Services come by name, and rules for all at the end.
fn merged(present: &[Rule], parts: &BTreeMap<ObjectKey, Vec<Rule>>) -> Vec<Rule> {
    let mut merged = Vec::with_capacity(present.len());
    let mut parts = parts.iter().peekable();
    let mut last = None;
    for rule in present {
        let owner = owner(rule);
        let due = |service| owner.is_none_or(|owner| names(service) <= owner);
        while let Some((service, rules)) = parts.next_if(|(service, _)| due(service)) {
            merged.extend(rules.iter().cloned());
            last = Some(names(service));
        }
        if owner.is_none() || owner != last {
            merged.push(rule.clone());
        }
    }
    merged.extend(parts.flat_map(|(_, rules)| rules).cloned());
    merged
}
