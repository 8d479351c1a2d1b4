//! `ipMasq`: what leaves a container's network gets the node's address (`pkg/ip`), by rules of `iptables` or of `nft`.

mod nftables;

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha512};

use super::machine::{At, Machine};
use super::portmap::{NatEdit, busy};
use crate::base::Family;
use crate::base::addr::host_net;
use crate::kernel::netfilter::chain::{Match, NatRandom, Not, Rule, Table, TableRules, Target};

/// Returns the name of a container's chain.
fn chain_name(network: &str, container_id: &str) -> Arc<str> {
    let hash = Sha512::digest(format!("{network}{container_id}").as_bytes());
    let hex = data_encoding::HEXLOWER.encode(&hash);
    format!("CNI-{}", hex.get(..24).unwrap_or(&hex)).into()
}

fn rule(network: &str, id: &str, target: Target) -> Rule {
    let comment = format!("name: {network:?} id: {id:?}");
    Rule {
        matches: vec![Match::Comment(comment.into())],
        target: Some(target),
        ..Rule::default()
    }
}

/// The rule that sends an address's packets to the container's chain.
fn entry(net: IpNet, network: &str, id: &str, chain: &Arc<str>) -> Rule {
    Rule {
        source: Some(Not::is(host_net(net.addr()))),
        ..rule(network, id, Target::Jump(Arc::clone(chain)))
    }
}

/// Returns the node's `nat` table of a family.
pub(super) fn nat_table(machine: &dyn Machine, family: Family) -> TableRules {
    let netfilter = machine.netns(At::Node).and_then(|n| n.netfilter.as_ref());
    let rules = netfilter.and_then(|netfilter| netfilter.rules(family));
    let table = rules.and_then(|rules| rules.ruleset().tables.get(&Table::Nat));
    table.cloned().unwrap_or_default()
}

fn rules_of(table: &TableRules, chain: &str) -> Vec<Rule> {
    let chain = table.chains.get(chain);
    chain.map(|chain| chain.rules.to_vec()).unwrap_or_default()
}

/// Whose rules: an attachment of a container to a network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment<'a> {
    /// Name of the network.
    pub(super) network: &'a str,
    /// Name of the container's device.
    pub(super) ifname: &'a str,
    /// The container's identifier.
    pub(super) id: &'a str,
}

/// Adds the rules for the addresses of a container, by the back end asked for.
pub(super) fn set_up_with(
    backend: Option<&str>,
    nets: impl Iterator<Item = IpNet>,
    of: Attachment<'_>,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    match backend {
        None | Some("iptables") => set_up(nets, of.network, of.id, machine),
        Some("nftables") => nftables::set_up(nets, of, machine),
        Some(other) => Err(format!("unknown ipmasq backend {other:?}")),
    }
}

fn set_up(
    nets: impl Iterator<Item = IpNet>,
    network: &str,
    id: &str,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let chain = chain_name(network, id);
    for net in nets {
        let family = Family::of_net(net);
        let multicast = match family {
            Family::V4 => IpNet::V4(Ipv4Net::new_assert([224, 0, 0, 0].into(), 4)),
            Family::V6 => IpNet::V6(Ipv6Net::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8)),
        };
        let masquerade = Target::Masquerade {
            ports: None,
            random: NatRandom::No,
        };
        let own = [
            Rule {
                destination: Some(Not::is(net.trunc())),
                ..rule(network, id, Target::Accept)
            },
            Rule {
                destination: Some(Not::except(multicast)),
                ..rule(network, id, masquerade)
            },
        ];
        let table = nat_table(machine, family);
        let with = |mut rules: Vec<Rule>, new: Vec<Rule>| {
            for rule in new {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
            rules
        };
        let entered = vec![entry(net, network, id, &chain)];
        let edit = NatEdit {
            chains: vec![
                (
                    Arc::clone(&chain),
                    with(rules_of(&table, &chain), own.to_vec()),
                ),
                (
                    "POSTROUTING".into(),
                    with(rules_of(&table, "POSTROUTING"), entered),
                ),
            ],
            delete: Vec::new(),
        };
        machine.edit_nat(family, edit).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Removes the rules of a container, whichever back end made them.
pub(super) fn tear_down(
    nets: &[IpNet],
    of: Attachment<'_>,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let iptables = tear_down_iptables(nets, of.network, of.id, machine);
    let nftables = nftables::tear_down(of, machine);
    let errors: Vec<String> = [iptables, nftables]
        .into_iter()
        .filter_map(Result::err)
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.join("\n"))
    }
}

/// A container's chain goes if nothing else leads to it.
fn tear_down_iptables(
    nets: &[IpNet],
    network: &str,
    id: &str,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let chain = chain_name(network, id);
    let mut errors = Vec::new();
    for net in nets {
        let family = Family::of_net(*net);
        let table = nat_table(machine, family);
        let gone = entry(*net, network, id, &chain);
        let mut entries = rules_of(&table, "POSTROUTING");
        if let Some(position) = entries.iter().position(|rule| *rule == gone) {
            entries.remove(position);
        }
        let edit = NatEdit {
            chains: vec![
                ("POSTROUTING".into(), entries),
                (Arc::clone(&chain), Vec::new()),
            ],
            delete: Vec::new(),
        };
        machine.edit_nat(family, edit).map_err(|e| e.to_string())?;
        let delete = NatEdit {
            chains: Vec::new(),
            delete: vec![Arc::clone(&chain)],
        };
        if machine.edit_nat(family, delete).is_err() {
            errors.push(busy(family, &chain));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.join("\n"))
    }
}
