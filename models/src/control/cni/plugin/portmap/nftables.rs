//! The nftables back end: one table for each family, one rule for each mapping, marked by the container's identifier.
//!
//! # Fidelity
//! `protocol` is taken in small letters; the real plugin hands it to `nft` as it is.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::machine::{At, Machine};
use super::super::nft;
use super::{PortMapping, Snat, l4};
use crate::base::Family;
use crate::base::addr::host_net;
use crate::kernel::config::Change;
use crate::kernel::netfilter::chain::{AddrType, Hook, Not, PortRange};
use crate::kernel::netfilter::nft::{
    End, NftCommand, NftFamily, NftMatch, NftRule, NftVerdict, TableId,
};

/// Every mapping of every container.
const HOST_PORTS: &str = "hostports";

/// Where older releases kept the mappings with an address; made, and left empty.
const HOST_IP: &str = "hostip_hostports";

/// Leads to both.
const ALL: &str = "hostports_all";

const MASQUERADING: &str = "masquerading";

/// What one container asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The container's identifier.
    pub(super) id: &'a str,
    /// The mappings, in the order of the runtime.
    pub(super) mappings: &'a [PortMapping],
    /// Which packets are masqueraded.
    pub(super) snat: Snat,
    /// Further conditions for looking at the mappings of any container (`conditionsV4`, `conditionsV6`).
    pub(super) conditions: &'a [NftMatch],
}

impl Wanted<'_> {
    /// The mappings that are meant for a family.
    fn of(&self, family: Family) -> impl Iterator<Item = &PortMapping> {
        let fits = move |ip: IpAddr| Family::of(ip) == family;
        let mappings = self.mappings.iter();
        mappings.filter(move |mapping| mapping.host_ip.is_none_or(fits))
    }

    /// Which sources a container's packets to itself are masqueraded for.
    fn sources(&self, address: IpAddr) -> Vec<IpNet> {
        let family = Family::of(address);
        match (self.snat, family) {
            (Snat::Never, _) => Vec::new(),
            (Snat::All, _) => vec![family.any()],
            (Snat::Needed, Family::V6) => vec![host_net(address)],
            (Snat::Needed, Family::V4) => {
                let localhost = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
                vec![host_net(address), host_net(localhost)]
            }
        }
    }
}

fn table(family: Family) -> TableId {
    TableId::new(NftFamily::of(family), "cni_hostport")
}

fn jump(matches: Vec<NftMatch>, chain: &str) -> NftRule {
    NftRule::new(matches, NftVerdict::Jump(chain.into()))
}

/// The rule that translates what is addressed to a port of the node.
fn translated(mapping: &PortMapping, address: IpAddr, id: &str) -> NftRule {
    let host_ip = mapping.host_ip.filter(|ip| !ip.is_unspecified());
    let to = host_ip.map(|ip| NftMatch::Address {
        end: End::Destination,
        net: Not::is(host_net(ip)),
    });
    let port = NftMatch::Port {
        l4: l4(mapping.protocol),
        end: End::Destination,
        ports: Not::is(PortRange::one(mapping.host_port)),
    };
    let matches: Vec<NftMatch> = to.into_iter().chain([port]).collect();
    let verdict = NftVerdict::Dnat {
        addr: address,
        port: Some(mapping.container_port),
    };
    NftRule::new(matches, verdict).with_comment(id)
}

fn masqueraded(source: IpNet, address: IpAddr, id: &str) -> NftRule {
    let of = |end, net| NftMatch::Address {
        end,
        net: Not::is(net),
    };
    let matches = [
        of(End::Source, source),
        of(End::Destination, host_net(address)),
    ];
    NftRule::new(matches, NftVerdict::Masquerade).with_comment(id)
}

/// Gives a container's address its ports (ADD).
pub(super) fn forward(
    address: IpNet,
    wanted: Wanted<'_>,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let address = address.addr();
    let family = Family::of(address);
    let table = table(family);
    let chain = |name: &str| NftCommand::AddChain {
        table: table.clone(),
        chain: name.into(),
        base: None,
        comment: None,
    };
    let set = |name: &str, rules| NftCommand::SetRules {
        table: table.clone(),
        chain: name.into(),
        rules,
    };
    let with = |name: &str, new: Vec<NftRule>| {
        let there = nft::rules(machine, &table, name).unwrap_or_default();
        set(name, there.iter().cloned().chain(new).collect())
    };
    let local = NftMatch::Fib {
        end: End::Destination,
        kind: Not::is(AddrType::Local),
    };
    let to_node: Vec<NftMatch> = wanted.conditions.iter().cloned().chain([local]).collect();
    let to_node = vec![jump(to_node, ALL)];
    let mut commands = vec![
        NftCommand::AddTable {
            table: table.clone(),
            comment: Some("CNI portmap plugin".into()),
        },
        chain(HOST_PORTS),
        chain(HOST_IP),
        chain(ALL),
        set(ALL, vec![jump(vec![], HOST_IP), jump(vec![], HOST_PORTS)]),
        nft::nat_chain(&table, "prerouting", Hook::Prerouting),
        set("prerouting", to_node.clone()),
        nft::nat_chain(&table, "output", Hook::Output),
        set("output", to_node),
    ];
    let mappings = wanted.of(family);
    let translated = mappings.map(|mapping| translated(mapping, address, wanted.id));
    commands.push(with(HOST_PORTS, translated.collect()));
    if wanted.snat != Snat::Never {
        let sources = wanted.sources(address).into_iter();
        let rules = sources.map(|source| masqueraded(source, address, wanted.id));
        commands.push(nft::nat_chain(&table, MASQUERADING, Hook::Postrouting));
        commands.push(with(MASQUERADING, rules.collect()));
    }
    machine
        .change(At::Node, &Change::Nft(commands))
        .map_err(|e| format!("unable to set up nftables rules for port mappings: {e}"))
}

/// Takes a container's rules away, of both families (DEL).
pub(super) fn unforward(id: &str, machine: &mut dyn Machine) -> Result<(), String> {
    for family in Family::ALL {
        let table = table(family);
        let mut commands = Vec::new();
        for chain in [HOST_PORTS, HOST_IP, MASQUERADING] {
            if let Some(rules) = nft::rules(machine, &table, chain) {
                let others = rules.iter().filter(|rule| !is_of(rule, id));
                commands.push(NftCommand::SetRules {
                    table: table.clone(),
                    chain: chain.into(),
                    rules: others.cloned().collect(),
                });
            }
        }
        if !commands.is_empty() {
            machine
                .change(At::Node, &Change::Nft(commands))
                .map_err(|e| format!("error deleting nftables rules: {e}"))?;
        }
    }
    Ok(())
}

fn is_of(rule: &NftRule, id: &str) -> bool {
    rule.comment.as_deref() == Some(id)
}

/// Counts a container's rules (CHECK).
pub(super) fn check(
    address: IpNet,
    wanted: Wanted<'_>,
    machine: &dyn Machine,
) -> Result<(), String> {
    let family = Family::of_net(address);
    let expected = [
        (HOST_PORTS, wanted.of(family).count()),
        (MASQUERADING, wanted.sources(address.addr()).len()),
    ];
    for (chain, expected) in expected {
        if expected == 0 {
            continue;
        }
        let rules = nft::list_rules(machine, &table(family), chain)?;
        let found = rules.iter().filter(|rule| is_of(rule, wanted.id)).count();
        if found < expected {
            return Err(format!("missing hostport rules in {chain:?} chain"));
        }
    }
    Ok(())
}
