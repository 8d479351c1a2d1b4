//! `nftables`: tables whose base chains sit at hooks beside those of `iptables`.
//!
//! Reading order: [`NftRule`] in `rule.rs` (what a rule says), this file (tables, and the commands that change them),
//! `order.rs` (what runs at a hook in which order), `walk.rs` (how a packet goes through a chain), `text.rs`
//! (`nft list ruleset`).
//!
//! # Fidelity
//! Left out: sets, maps, counters, flow tables, families `arp` and `netdev`, and rules other than those of `rule.rs`. Of family
//! `bridge` only hook prerouting is there. iptables is taken for a back end of its own, as its legacy one is; the tables that its
//! nftables back end has are not listed among these.

mod order;
mod rule;
mod text;
mod walk;

use std::fmt;
use std::sync::Arc;

use super::super::Netns;
use super::super::config::ConfigError;
use super::Rules;
use super::chain::{ChainPolicy, Hook, Ruleset};
use crate::base::{Family, FxIndexMap};
use order::{Order, Registered};

pub(super) use order::Lookup;

pub use rule::{End, NftMatch, NftRule, NftVerdict, ParseNftError, parse_matches};

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NftFamily {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// Frames between the ports of a bridge.
    Bridge,
}

impl NftFamily {
    /// Returns the word of the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }

    /// Returns the family whose tables see only this one.
    pub const fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ip,
            Family::V6 => Self::Ip6,
        }
    }

    /// Whether tables of this family see packets of that one.
    pub const fn sees(self, family: Family) -> bool {
        match (self, family) {
            (Self::Ip, Family::V4) | (Self::Ip6, Family::V6) | (Self::Inet, _) => true,
            (Self::Ip, Family::V6) | (Self::Ip6, Family::V4) | (Self::Bridge, _) => false,
        }
    }
}

/// Which table is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableId {
    /// Family.
    pub family: NftFamily,
    /// Name.
    pub name: Arc<str>,
}

impl TableId {
    /// Returns the table of this family and name.
    pub fn new(family: NftFamily, name: &str) -> Self {
        Self {
            family,
            name: name.into(),
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.name(), self.name)
    }
}

/// Chains by name, in the order of their creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NftTable {
    /// `comment`.
    pub comment: Option<Arc<str>>,
    /// Chains.
    pub chains: FxIndexMap<Arc<str>, NftChain>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NftChain {
    /// `comment`.
    pub comment: Option<Arc<str>>,
    /// Where it sits; `None` if only rules lead to it.
    pub base: Option<Base>,
    /// Rules in order.
    pub rules: Vec<NftRule>,
}

/// What makes a chain a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// `type`.
    pub kind: BaseKind,
    /// `hook`.
    pub hook: Hook,
    /// `priority`.
    pub priority: i32,
    /// `policy`.
    pub policy: ChainPolicy,
}

/// Type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of a connection, until somebody has translated it.
    Nat,
}

/// A command of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftCommand {
    /// `add table`: nothing happens if it is there.
    AddTable {
        /// Table.
        table: TableId,
        /// `comment`.
        comment: Option<Arc<str>>,
    },
    /// `add chain`: nothing happens if it is there.
    AddChain {
        /// Table.
        table: TableId,
        /// Chain.
        chain: Arc<str>,
        /// Where it sits.
        base: Option<Base>,
        /// `comment`.
        comment: Option<Arc<str>>,
    },
    /// `flush chain`, and `add rule` for each rule.
    SetRules {
        /// Table.
        table: TableId,
        /// Chain.
        chain: Arc<str>,
        /// All its rules.
        rules: Vec<NftRule>,
    },
    /// `delete chain`, with its rules.
    DeleteChain {
        /// Table.
        table: TableId,
        /// Chain.
        chain: Arc<str>,
    },
}

/// The position of a base chain: of its table, and in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChainRef {
    table: u32,
    chain: u32,
}

/// All tables of a namespace, with everything looked up that does not depend on a packet.
#[derive(Clone, Debug)]
pub struct Nft {
    tables: FxIndexMap<TableId, NftTable>,
    /// Who sits at hooks, iptables among them, in the order of registration.
    registered: Vec<Registered>,
    order: Order,
    /// What stands for iptables where it has no rules.
    blank: [Arc<Rules>; 2],
}

impl Nft {
    fn new() -> Self {
        let blank = |family| Arc::new(Rules::blank(family));
        Self {
            tables: FxIndexMap::default(),
            registered: Vec::new(),
            order: Order::default(),
            blank: [blank(Family::V4), blank(Family::V6)],
        }
    }

    /// Returns a table.
    pub fn table(&self, id: &TableId) -> Option<&NftTable> {
        self.tables.get(id)
    }

    /// Returns all tables in the order of their creation.
    pub fn tables(&self) -> impl Iterator<Item = (&TableId, &NftTable)> {
        self.tables.iter()
    }

    pub(super) const fn blank(&self, family: Family) -> &Arc<Rules> {
        let [v4, v6] = &self.blank;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// Whether connections of a family are tracked on behalf of these rules.
    pub(super) fn needs_conntrack(&self, family: Family) -> bool {
        let seen = self.tables.iter().filter(|(id, _)| id.family.sees(family));
        let chains = seen.flat_map(|(_, table)| table.chains.values());
        let mut rules = chains.flat_map(|chain| &chain.rules);
        rules.any(NftRule::translates)
    }

    fn chain_mut(&mut self, table: &TableId, chain: &str) -> Result<&mut NftChain, ConfigError> {
        let table = self.tables.get_mut(table).ok_or(NO_ENTRY)?;
        table.chains.get_mut(chain).ok_or(NO_ENTRY)
    }

    /// Carries out one command; whether everything fits together is seen at the end.
    fn command(&mut self, command: &NftCommand) -> Result<(), ConfigError> {
        match command {
            NftCommand::AddTable { table, comment } => {
                let made = || NftTable {
                    comment: comment.clone(),
                    ..NftTable::default()
                };
                self.tables.entry(table.clone()).or_insert_with(made);
            }
            NftCommand::AddChain {
                table,
                chain,
                base,
                comment,
            } => {
                let chains = &mut self.tables.get_mut(table).ok_or(NO_ENTRY)?.chains;
                match chains.get(chain) {
                    Some(there) if base.is_some() && there.base != *base => {
                        return Err(ConfigError::Nft("File exists"));
                    }
                    Some(_) => return Ok(()),
                    None => {}
                }
                let made = NftChain {
                    comment: comment.clone(),
                    base: *base,
                    rules: Vec::new(),
                };
                chains.insert(Arc::clone(chain), made);
                if base.is_some() {
                    let chain = Registered::Chain(table.clone(), Arc::clone(chain));
                    self.registered.push(chain);
                }
            }
            NftCommand::SetRules {
                table,
                chain,
                rules,
            } => {
                self.chain_mut(table, chain)?.rules.clone_from(rules);
            }
            NftCommand::DeleteChain { table, chain } => {
                let chains = &mut self.tables.get_mut(table).ok_or(NO_ENTRY)?.chains;
                chains.shift_remove(chain).ok_or(NO_ENTRY)?;
                let gone = Registered::Chain(table.clone(), Arc::clone(chain));
                self.registered.retain(|other| *other != gone);
            }
        }
        Ok(())
    }

    /// Checks what the kernel checks of a transaction.
    fn check(&self) -> Result<(), ConfigError> {
        for (id, table) in &self.tables {
            for chain in table.chains.values() {
                for rule in &chain.rules {
                    let known = |to: &Arc<str>| table.chains.get(to);
                    match rule.leads_to().map(known) {
                        Some(None) => return Err(NO_ENTRY),
                        Some(Some(to)) if to.base.is_some() => return Err(NOT_SUPPORTED),
                        Some(Some(_)) | None => {}
                    }
                    if !rule.fits(id.family) {
                        return Err(NOT_SUPPORTED);
                    }
                }
                if let Some(base) = chain.base {
                    let other_hook = base.hook != Hook::Prerouting || base.kind == BaseKind::Nat;
                    if id.family == NftFamily::Bridge && other_hook {
                        return Err(NOT_SUPPORTED);
                    }
                    table.check_below(chain, base, 0)?;
                }
            }
        }
        Ok(())
    }
}

const NO_ENTRY: ConfigError = ConfigError::Nft("No such file or directory");
const NOT_SUPPORTED: ConfigError = ConfigError::Nft("Operation not supported");

/// How deep chains may lead to one another (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: u32 = 16;

impl NftTable {
    /// Checks what can be reached from a base chain (`nft_chain_validate`).
    fn check_below(&self, chain: &NftChain, base: Base, depth: u32) -> Result<(), ConfigError> {
        if depth == DEEPEST {
            return Err(ConfigError::Nft("Too many links"));
        }
        for rule in &chain.rules {
            let hooks: &[Hook] = match &rule.verdict {
                NftVerdict::Dnat { .. } => &[Hook::Prerouting, Hook::Output],
                NftVerdict::Masquerade => &[Hook::Postrouting],
                NftVerdict::Jump(to) | NftVerdict::Goto(to) => {
                    let to = self.chains.get(to).ok_or(NO_ENTRY)?;
                    self.check_below(to, base, depth + 1)?;
                    continue;
                }
                NftVerdict::Accept | NftVerdict::Drop | NftVerdict::Return => continue,
            };
            if base.kind != BaseKind::Nat || !hooks.contains(&base.hook) {
                return Err(NOT_SUPPORTED);
            }
        }
        Ok(())
    }
}

impl NftRule {
    /// Whether the rule may be in a table of this family.
    ///
    /// # Fidelity
    /// Hardware addresses are compared in family `bridge` only, and `dnat` is refused in family `inet`; the kernel has both.
    fn fits(&self, family: NftFamily) -> bool {
        let bridge = family == NftFamily::Bridge;
        let fits = |condition: &NftMatch| match condition {
            NftMatch::Ether { .. } => bridge,
            NftMatch::Fib { .. } => !bridge,
            NftMatch::Address { net, .. } => bridge || family.sees(Family::of_net(net.value)),
            NftMatch::Port { .. } | NftMatch::InDevice(_) | NftMatch::OutDevice(_) => true,
        };
        let translation = match self.verdict {
            NftVerdict::Dnat { addr, .. } => family == NftFamily::of(Family::of(addr)),
            NftVerdict::Accept
            | NftVerdict::Drop
            | NftVerdict::Return
            | NftVerdict::Jump(_)
            | NftVerdict::Goto(_)
            | NftVerdict::Masquerade => true,
        };
        translation && self.matches.iter().all(fits)
    }
}

impl Rules {
    /// No rules at all.
    fn blank(family: Family) -> Self {
        // Without a rule no jump can fail.
        Self::new(family, Ruleset::default()).expect("there are no rules")
    }
}

impl Netns {
    /// Carries out a transaction of `nft`: all of it or nothing.
    ///
    /// # Errors
    /// As the kernel, without saying where: a table or chain that is not there, a chain that rules lead to, a rule where
    /// it cannot be.
    pub fn apply_nft(&mut self, commands: &[NftCommand]) -> Result<(), ConfigError> {
        let netfilter = self.netfilter.get_or_insert_default();
        let mut next = if let Some(nft) = &netfilter.nft {
            (**nft).clone()
        } else {
            let mut nft = Nft::new();
            netfilter.tell_tables(&mut nft);
            nft
        };
        for command in commands {
            next.command(command)?;
        }
        next.check()?;
        next.put_in_order();
        netfilter.nft = Some(Box::new(next));
        self.start_or_stop_tracking();
        Ok(())
    }
}
