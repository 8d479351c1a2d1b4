//! The nodes' kube-proxies write their rules: all of them (a full sync), or those of Services that changed (a partial sync,
//! `podwire_models::control::proxy::partial`). Either way the rules are the same afterwards. Nodes whose rules are the same share
//! them, and what is the same on several nodes is worked out once.
//!
//! As in the real program a full sync happens at the start and when a node changes; here also when the cluster becomes large or
//! no longer is, when `--nodeport-addresses` asks for the addresses of devices, and when more than half of the Services changed,
//! as it is cheaper then.

use std::collections::BTreeSet;
use std::sync::Arc;

use podwire_models::base::{Family, ObjectKey, OriginId};
use podwire_models::cluster::install::{Machines, program_rules};
use podwire_models::cluster::settle::Shortfall;
use podwire_models::control::proxy::cleanup::Stale;
use podwire_models::control::proxy::partial::{self, Change, Edit, Partial};
use podwire_models::control::proxy::{
    Flags, NodePortAddresses, NodeView, PortView, ServiceView, iptables,
};
use podwire_models::kernel::netfilter::Rules;
use podwire_models::kernel::netfilter::chain::{Ruleset, Table};
use podwire_models::kernel::netfilter::repeat::Done;
use podwire_models::kernel::{self, Netns};
use podwire_models::wire::{Code, NetnsId};

use super::{Lab, Plan};
use crate::controllers::dirty::Dirty;

/// kube-proxy's flags, with the cluster's pod ranges filled in.
pub(super) fn flags(plan: &Plan) -> Flags {
    let mut flags = plan.flags.clone();
    if flags.cluster_cidr.is_empty() {
        flags.cluster_cidr.clone_from(&plan.site.pod_cidrs);
    }
    flags
}

impl Lab {
    /// Lets every node's kube-proxy write the rules that follow from Services that have to be looked at, and from their slices
    /// as they are now.
    pub fn program(&mut self, machines: &mut Machines, dirty: &Dirty) {
        let flags = flags(&self.plan);
        for family in Family::ALL {
            let services = dirty.services().filter(|_| !self.in_full);
            let partly =
                services.is_some_and(|all| self.program_partly(machines, all, family, &flags));
            if !partly {
                self.program_all(machines, family, &flags);
            }
        }
        for name in self.objects.nodes.keys() {
            if !self.stopped.contains(name) {
                self.synced.insert(name.clone(), self.revision);
            }
        }
    }

    /// A partial sync; returns whether that was enough.
    fn program_partly(
        &mut self,
        machines: &mut Machines,
        services: &BTreeSet<ObjectKey>,
        family: Family,
        flags: &Flags,
    ) -> bool {
        let mut views = self.programmed.iter();
        let Some(place) = views.position(|view| view.family == family) else {
            return false;
        };
        let mut view = self.programmed.remove(place);
        let was_large = view.is_large();
        let mut changes = Vec::new();
        for key in services {
            let after = self.ports_of(key, family);
            let before = view.replace(key, after.clone());
            changes.push(Change {
                service: key.clone(),
                before,
                after,
            });
        }
        let is_large = view.is_large();
        let cheaper = changes.len() * 2 <= self.objects.services.len().max(2);
        let all_addresses = flags.nodeport_addresses == NodePortAddresses::All;
        let enough = was_large == is_large && cheaper && all_addresses;
        let done = enough && self.edit_nodes(machines, &changes, &view, flags);
        if !done {
            // As if nothing had happened: all is compared with what there was.
            for change in &changes {
                view.replace(&change.service, change.before.clone());
            }
        }
        self.programmed.insert(place, view);
        done
    }

    /// What kube-proxy knows of one Service.
    fn ports_of(&self, key: &ObjectKey, family: Family) -> Vec<PortView> {
        let Some(service) = self.objects.services.get(key) else {
            return Vec::new();
        };
        ServiceView::new([service], self.slices_of(key), family).ports
    }

    /// Changes the rules of all nodes and lets them forget stale connections; returns whether that could be done.
    fn edit_nodes(
        &self,
        machines: &mut Machines,
        changes: &[Change],
        view: &ServiceView,
        flags: &Flags,
    ) -> bool {
        let changed = changes.iter().filter(|c| c.before != c.after).cloned();
        let changed: Vec<Change> = changed.collect();
        let awake = self.awake(machines);
        if !changed.is_empty() {
            let Some(groups) = self.groups(machines, &awake, &changed, view, flags) else {
                return false;
            };
            carry_out(groups, machines, view.family);
        }
        let ports = changed.iter().map(|c| (&c.before[..], &c.after[..]));
        let stale = Stale::new(ports, view, self.plan.version);
        for (id, node) in awake {
            if let Some(netns) = machines.cluster.netns_mut(id) {
                route_localnet(netns, view.family, &node, flags);
                if let Some(table) = &mut netns.conntrack
                    && !self.uncleaned.contains(&node.name)
                {
                    stale.clean(table);
                }
            }
        }
        true
    }

    /// The nodes whose kube-proxy works, without the addresses of their devices.
    fn awake(&self, machines: &Machines) -> Vec<(NetnsId, NodeView)> {
        let awake = machines
            .nodes
            .iter()
            .filter(|(name, _)| !self.stopped.contains(*name));
        let known = awake.filter_map(|(name, machine)| {
            let object = self.objects.nodes.get(name)?;
            Some((machine.netns, NodeView::new(object, Vec::new())))
        });
        known.collect()
    }

    /// Works out what changes on the nodes; nothing if a node has not what it should have.
    fn groups(
        &self,
        machines: &Machines,
        awake: &[(NetnsId, NodeView)],
        changed: &[Change],
        view: &ServiceView,
        flags: &Flags,
    ) -> Option<Vec<Group>> {
        let (family, version) = (view.family, self.plan.version);
        let alike = |change: &Change| partial::alike(change, family, flags);
        let (common, own): (Vec<Change>, Vec<Change>) = changed.iter().cloned().partition(alike);
        let (_, first) = awake.first()?;
        let mut for_all = Partial::new(family, view.is_large());
        for_all.add(&common, (first, flags, version));
        let mut groups: Vec<Group> = Vec::new();
        let mut merged = partial::Merged::default();
        for (id, node) in awake {
            let rules = machines.cluster.netns(*id)?.rules(family)?;
            let same = |group: &&mut Group| Arc::ptr_eq(&group.rules, rules);
            if own.is_empty()
                && let Some(group) = groups.iter_mut().find(same)
            {
                group.nodes.push(*id);
                continue;
            }
            let edits = if own.is_empty() {
                for_all.edits(rules.ruleset(), &mut merged)?
            } else {
                let mut partial = for_all.clone();
                partial.add(&own, (node, flags, version));
                partial.edits(rules.ruleset(), &mut partial::Merged::default())?
            };
            let mut alike = groups.iter_mut().filter(same);
            if let Some(group) = alike.find(|group| group.edits == edits) {
                group.nodes.push(*id);
            } else {
                groups.push(Group {
                    rules: Arc::clone(rules),
                    edits,
                    nodes: vec![*id],
                });
            }
        }
        Some(groups)
    }

    /// A full sync.
    fn program_all(&mut self, machines: &mut Machines, family: Family, flags: &Flags) {
        let version = self.plan.version;
        let services = self.objects.services.values();
        let view = ServiceView::new(services, &self.slices, family);
        let earlier = self.programmed.iter().position(|v| v.family == family);
        let earlier = earlier.map(|place| self.programmed.remove(place));
        let stale = earlier.map(|earlier| (earlier.ports, &view.ports[..]));
        let stale = stale.as_ref().map(|(before, after)| {
            let all = (&before[..], *after);
            Stale::new([all], &view, version)
        });
        let alike = iptables::same_on_every_node(&view, flags);
        let mut common: Option<Ruleset> = None;
        let mut last: Option<Rewritten> = None;
        for (name, machine) in machines.nodes.iter() {
            if self.stopped.contains(name) {
                continue;
            }
            let Some(node) = self.objects.nodes.get(name) else {
                continue;
            };
            let Some(netns) = machines.cluster.netns_mut(machine.netns) else {
                continue;
            };
            let addrs = netns.devices.iter().flatten().flat_map(|d| &d.addrs);
            let local = addrs
                .map(|a| a.net.addr())
                .filter(|a| Family::of(*a) == family);
            let node = NodeView::new(node, local.collect());
            route_localnet(netns, family, &node, flags);
            let had = netns.rules(family).cloned();
            let as_last = |last: &&Rewritten| alike && same(last.had.as_ref(), had.as_ref());
            if let Some(last) = last.as_ref().filter(as_last) {
                netns.share_rules(Arc::clone(&last.has));
            } else {
                let write = || iptables::ruleset(&view, &node, flags, version);
                let own = (!alike).then(write);
                let rules = own
                    .as_ref()
                    .unwrap_or_else(|| common.get_or_insert_with(write));
                let owns = |chain: &str| chain.starts_with("KUBE-");
                match program_rules(netns, family, rules, owns) {
                    Ok(()) => {
                        // Most nodes have the same rules: once in memory is enough.
                        let other = last.as_ref().map(|last| &last.has);
                        let has = netns.share_same_rules(other, family);
                        last = has.map(|has| Rewritten { had, has }).or(last);
                    }
                    Err(error) => self.shortfalls.push(Shortfall {
                        code: Code::NfDrop,
                        object: format!("Node//{name}"),
                        says: error.to_string(),
                        origin: OriginId::NONE,
                    }),
                }
            }
            if let (Some(stale), Some(table)) = (&stale, &mut netns.conntrack)
                && !self.uncleaned.contains(name)
            {
                stale.clean(table);
            }
        }
        if stale.is_none() && flags.conntrack_tcp_be_liberal {
            // It starts.
            for machine in machines.nodes.values() {
                if let Some(netns) = machines.cluster.netns_mut(machine.netns) {
                    let (name, value) = ("net.netfilter.nf_conntrack_tcp_be_liberal".into(), 1);
                    let set = netns.apply(&kernel::config::Change::Sysctl { name, value });
                    set.expect("the setting exists and takes 1");
                }
            }
        }
        self.programmed.push(view);
        self.programmed.sort_by_key(|view| view.family);
    }
}

fn route_localnet(netns: &mut Netns, family: Family, node: &NodeView, flags: &Flags) {
    const SETTING: &str = "net.ipv4.conf.all.route_localnet";
    if iptables::routes_localnet(family, node, flags) && netns.sysctls.get(SETTING) != Some(1) {
        let set = netns.sysctls.set(SETTING, 1);
        set.expect("the setting exists and takes 1");
    }
}

/// Nodes that share their rules, before a partial sync and after it.
#[derive(Debug)]
struct Group {
    rules: Arc<Rules>,
    edits: Vec<(Table, Edit)>,
    nodes: Vec<NetnsId>,
}

/// Edits the rules of all groups. What is done to the first is repeated on the others, which mostly differ in a chain of the plugin.
fn carry_out(groups: Vec<Group>, machines: &mut Machines, family: Family) {
    let several = groups.len() > 1;
    let mut first: Option<(Vec<(Table, Edit)>, Done)> = None;
    for group in groups {
        let Group {
            mut rules,
            edits,
            nodes,
        } = group;
        for id in &nodes {
            // Whoever has them alone need not copy them.
            let netns = machines.cluster.netns_mut(*id);
            drop(netns.and_then(|netns| netns.lend_rules(family)));
        }
        let alike = first.as_ref().filter(|(done, _)| *done == edits);
        let repeated = alike.is_some_and(|(_, done)| Arc::make_mut(&mut rules).repeat(done));
        if !repeated {
            let before = (several && first.is_none()).then(|| Arc::clone(&rules));
            let shared = Arc::make_mut(&mut rules);
            for (table, edit) in &edits {
                let done = shared.replace(*table, edit.chains.clone());
                let done = done.and_then(|()| shared.remove(*table, &edit.stale));
                done.expect("the chains of a service port are called by its own rules only");
            }
            if let Some(done) = before.and_then(|before| Done::between(&before, &rules)) {
                first = Some((edits, done));
            }
        }
        for id in nodes {
            if let Some(netns) = machines.cluster.netns_mut(id) {
                netns.share_rules(Arc::clone(&rules));
            }
        }
    }
}

/// What a node's rules were before its kube-proxy wrote, and what they are now.
struct Rewritten {
    had: Option<Arc<Rules>>,
    has: Arc<Rules>,
}

/// Whether two sets of rules are the same; long ones mostly are the very same.
fn same(a: Option<&Arc<Rules>>, b: Option<&Arc<Rules>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
