//! `portmap`: ports of a node forwarded to a container.
//!
//! Back end iptables: three chains of the `nat` table belong to all containers, one to each: `CNI-HOSTPORT-DNAT` is entered for whatever is
//! addressed to the node itself and finds the container's chain, which marks what must be masqueraded (from the container's
//! own subnet, and from the node's 127.0.0.1) and translates. The first container of a port keeps it. `nftables.rs` has the
//! other back end, `program.rs` what both have in common.
//!
//! Source: containernetworking `plugins/meta/portmap`, nine commits after v1.9.1.
//!
//! # Fidelity
//! Leaves out the removal of connections over UDP that are older than the mapping.

mod nftables;
pub(super) mod program;
mod told;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sha2::{Digest, Sha512};

use crate::api::Pod;
use crate::base::addr::host_net;
use crate::base::{Family, OriginId, Protocol};
use crate::kernel::netfilter::chain::{
    AddrType, MarkMask, Match, NatRandom, NatRange, Not, PortEnd, PortRange, Rule, TableRules,
    Target,
};
use crate::wire::L4;

const DNAT: &str = "CNI-HOSTPORT-DNAT";
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQUERADE: &str = "CNI-HOSTPORT-MASQ";

/// How many ports one `multiport` match takes.
const MULTIPORT: usize = 15;

/// One port of the node that leads to a port of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Port of the node.
    pub host_port: u16,
    /// Port of the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// The node's address; all of them if `None`.
    pub host_ip: Option<IpAddr>,
}

/// What one container asks for.
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<'a> {
    /// Name of the network.
    pub network: &'a str,
    /// The container's identifier.
    pub container_id: &'a str,
    /// The mappings, in the order of the runtime.
    pub mappings: &'a [PortMapping],
    /// How packets to be masqueraded are marked.
    pub marking: &'a Marking,
    /// Which packets are masqueraded.
    pub snat: Snat,
    /// Further conditions for entering the container's chain (`conditionsV4`, `conditionsV6`).
    pub conditions: &'a [Match],
    /// The Pod object.
    pub origin: OriginId,
}

/// Which forwarded packets are masqueraded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snat {
    /// Those from the container's subnet and from the node's 127.0.0.1.
    #[default]
    Needed,
    /// All (`masqAll`).
    All,
    /// None (`snat: false`).
    Never,
}

/// How packets to be masqueraded are marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marking {
    /// By a bit of the mark, 0 to 31, in a chain of the plugin's own (`markMasqBit`).
    Bit(u8),
    /// By somebody else's chain, who also masquerades (`externalSetMarkChain`).
    Chain(Arc<str>),
}

impl Default for Marking {
    /// Bit 13: Kubernetes uses 14 and 15.
    fn default() -> Self {
        Self::Bit(13)
    }
}

impl Marking {
    fn chain(&self) -> Arc<str> {
        match self {
            Self::Bit(_) => SET_MARK.into(),
            Self::Chain(name) => Arc::clone(name),
        }
    }
}

/// New contents of chains of the `nat` table, and chains that go away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatEdit {
    /// Chains with all their rules.
    pub chains: Vec<(Arc<str>, Vec<Rule>)>,
    /// Chains to be removed.
    pub delete: Vec<Arc<str>>,
}

/// Returns what the kubelet asks the runtime to forward to a pod: the host ports of its containers, in their order.
pub fn mappings(pod: &Pod) -> Vec<PortMapping> {
    let of = |port: &crate::api::ContainerPort| {
        Some(PortMapping {
            host_port: port.host_port?,
            container_port: port.container_port,
            protocol: port.protocol,
            host_ip: port.host_ip,
        })
    };
    pod.spec.ports().filter_map(of).collect()
}

/// Returns the name of a container's chain.
pub fn chain_name(network: &str, container_id: &str) -> Arc<str> {
    let hash = Sha512::digest(format!("{network}{container_id}").as_bytes());
    let hex = data_encoding::HEXLOWER.encode(&hash);
    let hex = hex.get(..21).unwrap_or(&hex);
    format!("CNI-DN-{hex}").into()
}

/// Returns what the `nat` table becomes when a container's address gets its ports (ADD). What is there already is not made
/// again.
pub fn forward(nat: &TableRules, address: IpNet, wanted: &Forwarding<'_>) -> NatEdit {
    let mut edit = Editor {
        nat,
        edit: NatEdit::default(),
    };
    match wanted.marking {
        _ if wanted.snat == Snat::Never => {}
        Marking::Bit(bit) => edit.masquerade(1_u32.checked_shl((*bit).into()).unwrap_or(0)),
        Marking::Chain(_) => {}
    }
    edit.ensure(DNAT);
    let to_node = Match::AddrType {
        src: None,
        dst: Some(Not::is(AddrType::Local)),
        limit_in: false,
    };
    for chain in ["PREROUTING", "OUTPUT"] {
        let entry = Rule {
            matches: vec![to_node.clone()],
            target: Some(Target::Jump(DNAT.into())),
            ..Rule::default()
        };
        edit.append(chain, entry);
    }
    let own = chain_name(wanted.network, wanted.container_id);
    edit.ensure(&own);
    for mapping in wanted.mappings {
        for rule in container_rules(address, mapping, wanted) {
            edit.append(&own, rule);
        }
    }
    for entry in entries(&own, wanted) {
        edit.append(DNAT, entry);
    }
    edit.edit
}

/// Returns what the `nat` table becomes when a container's chain goes (DEL). What all containers share stays.
pub fn unforward(nat: &TableRules, chain: &Arc<str>) -> NatEdit {
    let target = Some(Target::Jump(Arc::clone(chain)));
    let left = nat.chains.get(DNAT).map(|entered| {
        let others = entered.rules.iter().filter(|rule| rule.target != target);
        (DNAT.into(), others.cloned().collect())
    });
    NatEdit {
        chains: left.into_iter().collect(),
        delete: vec![Arc::clone(chain)],
    }
}

/// Returns what `iptables` says of a chain that cannot be removed because a rule leads to it.
pub(super) fn busy(family: Family, chain: &str) -> String {
    let tool = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!(
        "running [/usr/sbin/{tool} -t nat -X {chain} --wait]: exit status 4: {tool} v1.8.9 (nf_tables):  CHAIN_DEL failed (Device or resource busy): chain {chain}\n"
    )
}

/// The rules that lead to a container's chain: one per protocol and fifteen ports.
fn entries(own: &Arc<str>, wanted: &Forwarding<'_>) -> Vec<Rule> {
    let comment = format!(
        "dnat name: \"{}\" id: \"{}\"",
        wanted.network, wanted.container_id
    );
    let comment = trim_comment(&comment);
    let mut rules = Vec::new();
    for protocol in [Protocol::Sctp, Protocol::Tcp, Protocol::Udp] {
        let of = wanted.mappings.iter().filter(|m| m.protocol == protocol);
        let ports: Vec<PortRange> = of.map(|m| PortRange::one(m.host_port)).collect();
        for ports in ports.chunks(MULTIPORT) {
            let multiport = Match::Multiport {
                end: PortEnd::Destination,
                ports: Not::is(ports.to_vec()),
            };
            let mut rule = with_comment(&comment, Target::Jump(Arc::clone(own)));
            rule.matches.push(multiport);
            rule.matches.extend(wanted.conditions.iter().cloned());
            rule.protocol = Some(Not::is(l4(protocol)));
            rule.origin = wanted.origin;
            rules.push(rule);
        }
    }
    rules
}

/// The rules for one mapping: marks for the way back to the container itself and from the node's 127.0.0.1, translation.
fn container_rules(address: IpNet, mapping: &PortMapping, wanted: &Forwarding<'_>) -> Vec<Rule> {
    let family = Family::of_net(address);
    let host_ip = mapping.host_ip;
    if host_ip.is_some_and(|ip| Family::of(ip) != family) {
        return Vec::new();
    }
    let dport = Some(Not::is(PortRange::one(mapping.host_port)));
    let port = match mapping.protocol {
        Protocol::Tcp => Match::Tcp {
            sport: None,
            dport,
            flags: None,
        },
        Protocol::Udp => Match::Udp { sport: None, dport },
        Protocol::Sctp => Match::Sctp { sport: None, dport },
    };
    let rule = |source: Option<IpNet>, target: Target| Rule {
        source: source.map(Not::is),
        destination: host_ip
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| Not::is(host_net(ip))),
        protocol: Some(Not::is(l4(mapping.protocol))),
        matches: vec![port.clone()],
        target: Some(target),
        origin: wanted.origin,
        ..Rule::default()
    };
    let mark = || Target::Jump(wanted.marking.chain());
    let mut rules = match wanted.snat {
        Snat::Needed => vec![rule(Some(address.trunc()), mark())],
        Snat::All => vec![rule(None, mark())],
        Snat::Never => Vec::new(),
    };
    if family == Family::V4 && wanted.snat == Snat::Needed {
        let localhost = host_net(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        rules.push(rule(Some(localhost), mark()));
    }
    let to = NatRange {
        addrs: Some((address.addr(), address.addr())),
        ports: Some(PortRange::one(mapping.container_port)),
        random: NatRandom::No,
        persistent: false,
    };
    rules.push(rule(None, Target::Dnat(to)));
    rules
}

const fn l4(protocol: Protocol) -> L4 {
    match protocol {
        Protocol::Tcp => L4::Tcp,
        Protocol::Udp => L4::Udp,
        Protocol::Sctp => L4::Sctp,
    }
}

fn with_comment(comment: &str, target: Target) -> Rule {
    Rule {
        matches: vec![Match::Comment(comment.into())],
        target: Some(target),
        ..Rule::default()
    }
}

/// A comment has 255 bytes at most; a longer one ends in three dots.
fn trim_comment(comment: &str) -> String {
    if comment.len() <= 255 {
        return comment.to_owned();
    }
    let end = (0..=252).rev().find(|n| comment.is_char_boundary(*n));
    format!("{}...", comment.get(..end.unwrap_or(0)).unwrap_or(""))
}

/// Collects the chains that change.
struct Editor<'a> {
    nat: &'a TableRules,
    edit: NatEdit,
}

impl Editor<'_> {
    /// Returns the rules of a chain as they will be, made if the chain is not there.
    fn ensure(&mut self, chain: &str) -> &mut Vec<Rule> {
        let known = |(name, _): &(Arc<str>, Vec<Rule>)| &**name == chain;
        if !self.edit.chains.iter().any(known) {
            let rules = self.nat.chains.get(chain).map(|c| c.rules.to_vec());
            let made = (chain.into(), rules.unwrap_or_default());
            self.edit.chains.push(made);
        }
        let found = self.edit.chains.iter_mut().find(|chain| known(chain));
        &mut found.expect("made just now if it was missing").1
    }

    /// The chain that marks, and the one that masquerades what is marked.
    fn masquerade(&mut self, bit: u32) {
        let mark = MarkMask {
            value: bit,
            mask: bit,
        };
        let set = with_comment("CNI portfwd masquerade mark", Target::Mark(mark));
        self.append(SET_MARK, set);
        let marked = Rule {
            matches: vec![Match::Mark(Not::is(mark))],
            target: Some(Target::Masquerade {
                ports: None,
                random: NatRandom::No,
            }),
            ..Rule::default()
        };
        self.append(MASQUERADE, marked);
        let entered = Target::Jump(MASQUERADE.into());
        // In front, or the rules of `ipMasq` would decide first.
        self.prepend(
            "POSTROUTING",
            with_comment("CNI portfwd requiring masquerade", entered),
        );
    }

    fn append(&mut self, chain: &str, rule: Rule) {
        let rules = self.ensure(chain);
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }

    fn prepend(&mut self, chain: &str, rule: Rule) {
        let rules = self.ensure(chain);
        if !rules.contains(&rule) {
            rules.insert(0, rule);
        }
    }
}
