//! Packet filter of one network namespace (`iptables`, `ip6tables`, `nft`).
//!
//! Reading order: [`chain`] (tables, chains, rules as data), [`save`] (how they are written), [`recent`] (address
//! lists), `stages` (what sits at a hook), `walk` (how a packet goes through it), [`nft`] (chains of nftables beside them), [`repeat`] (one change on many nodes). [`Netns::run_hook`] is the door: everything that happens at one of
//! the five hooks, in the order of priorities of `include/uapi/linux/netfilter_ipv4.h`.
//!
//! # Fidelity
//! Leaves out the `security` table, packet sets (`ipset`) and per-rule byte counters.

pub mod agent;
pub mod chain;
pub mod save;
mod loops;
pub mod recent;
pub mod nft;
pub mod repeat;
mod dispatch;
mod stages;
mod walk;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use crate::base::{Dice, Family, FxIndexMap};
use crate::wire::{Code, Recorder};

use super::config::ConfigError;
use super::conntrack::Conntrack;
use super::release::Release;
use super::{Cx, Netns, Skb};
use chain::{
    Chain, ChainPolicy, CtStates, Hook, Match, Not, RejectWith, Rule, Ruleset, Table, TableRules,
    Target,
};
use dispatch::Dispatch;
use nft::Nft;
use recent::RecentLists;

/// What a hook says about a packet. Where it does not go on, the ending step with its code and decider has been
/// recorded already; the caller only acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NfVerdict {
    /// It goes on.
    Accept,
    /// It is dropped silently.
    Drop(Code),
    /// It is dropped, and the sender is told.
    Reject(RejectWith, Code),
}

/// Packet filter state of a namespace. The rules may be shared between namespaces that have the same ones.
#[derive(Clone, Debug, Default)]
pub struct Netfilter {
    v4: Option<Arc<Rules>>,
    v6: Option<Arc<Rules>>,
    /// Tables of nftables.
    nft: Option<Box<Nft>>,
    agent: Option<Arc<dyn agent::Agent>>,
    pub(super) live: Live,
}

/// What changes while packets pass.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    /// Lists of `-m recent`.
    pub recent: RecentLists,
    /// How many rules were looked at in all.
    pub examined: u64,
    /// Whether every rule of a chain is tried, one after another, as the kernel does.
    pub literal: bool,
    /// How many packets matched each rule, by family, table, chain and position; `None` does not count.
    pub counters: Option<FxIndexMap<(Family, Table, u32, u32), u64>>,
}

/// The rules of one family, with everything looked up that does not depend on a packet.
#[derive(Clone, Debug)]
pub struct Rules {
    family: Family,
    source: Ruleset,
    /// By table, in the order of [`Table`].
    index: [TableIndex; 4],
    needs_conntrack: bool,
}

/// Positions of chains inside one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TableIndex {
    /// The built-in chain of each hook, unless it is empty and accepts.
    hooks: [Option<u32>; 5],
    /// What is known of each chain beforehand.
    chains: Vec<Arc<ChainIndex>>,
}

/// What is known of a chain beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ChainIndex {
    /// Of each rule.
    rules: Vec<Known>,
    /// Where to look rules up, if there are many.
    dispatch: Option<Arc<Dispatch>>,
}

impl ChainIndex {
    fn of(table: &TableRules, chain: &Chain) -> Result<Self, ConfigError> {
        let known = chain.rules.iter().map(|rule| Known::of(table, rule));
        Ok(Self {
            rules: known.collect::<Result<_, _>>()?,
            dispatch: Dispatch::of(chain),
        })
    }

    /// Returns the same where chains have other positions now; `None` if one that it jumps to has none.
    fn moved(self: &Arc<Self>, positions: &[u32]) -> Option<Arc<Self>> {
        let mut moved = Arc::clone(self);
        for (n, known) in self.rules.iter().enumerate() {
            if known.jump == Known::NO_JUMP {
                continue;
            }
            let jump = *positions.get(known.jump as usize)?;
            if jump == Known::NO_JUMP {
                return None;
            }
            if jump != known.jump
                && let Some(known) = Arc::make_mut(&mut moved).rules.get_mut(n)
            {
                known.jump = jump;
            }
        }
        Some(moved)
    }
}

/// What can be said of a rule without a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// Position of the chain it jumps to; [`Known::NO_JUMP`] if it does not.
    jump: u32,
    /// Its first condition on the state of the connection, if nothing that changes anything comes before it.
    states: Option<Not<CtStates>>,
    /// Whether it has conditions on addresses, interfaces or the protocol.
    header: bool,
    /// Whether it has further match extensions that can fail.
    extensions: bool,
    /// Whether all it can do is to go through another chain and come back: no condition of it changes anything.
    idles: bool,
}

impl Known {
    const NO_JUMP: u32 = u32::MAX;

    fn of(table: &TableRules, rule: &Rule) -> Result<Self, ConfigError> {
        let mut tests = rule.matches.iter().skip_while(|m| m.always());
        let mut rest = tests.clone();
        let states = match tests.next() {
            Some(Match::CtState(states)) => {
                rest = tests;
                Some(*states)
            }
            Some(_) | None => None,
        };
        let extensions = !rest.all(Match::always);
        Ok(Self {
            jump: jump_of(table, rule)?,
            states,
            header: rule.source.is_some()
                || rule.destination.is_some()
                || rule.in_interface.is_some()
                || rule.out_interface.is_some()
                || rule.protocol.is_some(),
            extensions,
            idles: !extensions && matches!(rule.target, Some(Target::Jump(_))),
        })
    }
}

impl Match {
    /// Whether it matches whatever comes.
    const fn always(&self) -> bool {
        matches!(self, Self::Comment(_) | Self::Nfacct(_))
    }
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 5] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
    ];

    /// Returns the name of the built-in chains.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

impl Table {
    /// Every table, in the order `iptables-save` prints them.
    pub const PRINTED: [Self; 4] = [Self::Mangle, Self::Raw, Self::Filter, Self::Nat];

    /// Returns the name, as `-t` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    /// Returns the hooks at which the table has a built-in chain.
    pub const fn hooks(self) -> &'static [Hook] {
        use Hook::{Forward, Input, Output, Postrouting, Prerouting};
        match self {
            Self::Raw => &[Prerouting, Output],
            Self::Mangle => &[Prerouting, Input, Forward, Output, Postrouting],
            Self::Nat => &[Prerouting, Input, Output, Postrouting],
            Self::Filter => &[Input, Forward, Output],
        }
    }
}

impl TableRules {
    /// Returns a table as it appears when first used: its built-in chains, empty, with policy ACCEPT.
    pub fn builtin(table: Table) -> Self {
        let chain = |hook: &Hook| {
            let chain = Chain {
                policy: Some(ChainPolicy::Accept),
                rules: Arc::default(),
            };
            (Arc::from(hook.name()), chain)
        };
        Self {
            chains: table.hooks().iter().map(chain).collect(),
        }
    }
}

impl Rule {
    /// Whether the rule only works with connection tracking.
    fn needs_conntrack(&self) -> bool {
        let matches = self.matches.iter().any(|m| {
            matches!(
                m,
                Match::CtState(_)
                    | Match::CtOrigDst(_)
                    | Match::CtOrigDstPort(_)
                    | Match::Connmark(_)
            )
        });
        matches
            || matches!(
                self.target,
                Some(
                    Target::Dnat(_)
                        | Target::Snat(_)
                        | Target::Masquerade { .. }
                        | Target::Redirect { .. }
                        | Target::Connmark(_)
                        | Target::Notrack
                )
            )
    }

    /// Returns what it means for a packet to end here.
    fn end_code(&self) -> Code {
        if let Some(code) = self.code {
            return code;
        }
        let says = |words: &str| {
            self.matches
                .iter()
                .any(|m| matches!(m, Match::Comment(text) if text.ends_with(words)))
        };
        let invalid = Match::CtState(Not::is(CtStates::INVALID));
        if says(" has no endpoints") {
            Code::SvcNoEndpoints
        } else if says(" has no local endpoints") {
            Code::SvcNoLocalEndpoints
        } else if self.matches.contains(&invalid) {
            Code::CtInvalid
        } else if matches!(self.target, Some(Target::Reject(_))) {
            Code::NfReject
        } else {
            Code::NfDrop
        }
    }
}

impl PartialEq for Rules {
    /// Whether they are the same rules, origins included.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || (self.family == other.family && self.source == other.source)
    }
}

impl Eq for Rules {}

impl Rules {
    /// Looks up everything in a set of rules that does not depend on a packet.
    ///
    /// # Errors
    /// [`ConfigError::NoChain`] if a rule jumps to a chain that does not exist.
    pub fn new(family: Family, rules: Ruleset) -> Result<Self, ConfigError> {
        let mut this = Self {
            family,
            source: rules,
            index: <[TableIndex; 4]>::default(),
            needs_conntrack: false,
        };
        let tables: Vec<Table> = this.source.tables.keys().copied().collect();
        for table in tables {
            this.index_table(table)?;
        }
        this.note_conntrack();
        Ok(this)
    }

    /// Returns the rules as data.
    pub const fn ruleset(&self) -> &Ruleset {
        &self.source
    }

    fn index_table(&mut self, table: Table) -> Result<(), ConfigError> {
        let Some(rules) = self.source.tables.get(&table) else {
            return Ok(());
        };
        let mut index = TableIndex::default();
        for chain in rules.chains.values() {
            index.chains.push(Arc::new(ChainIndex::of(rules, chain)?));
        }
        if let Some(place) = self.index.get_mut(table as usize) {
            *place = index;
        }
        self.index_hooks(table);
        Ok(())
    }

    /// Indexes a table of which only some chains are not as they were.
    fn index_changes(&mut self, table: Table, before: &Self) -> Result<(), ConfigError> {
        let (was, now) = (
            before.source.tables.get(&table),
            self.source.tables.get(&table),
        );
        let (Some(was), Some(now)) = (was, now) else {
            return self.index_table(table);
        };
        let position = |name| {
            now.chains
                .get_index_of(name)
                .and_then(|n| u32::try_from(n).ok())
        };
        let positions = was
            .chains
            .keys()
            .map(|name| position(name).unwrap_or(Known::NO_JUMP));
        let positions: Vec<u32> = positions.collect();
        let known = before
            .index
            .get(table as usize)
            .map_or(&[][..], |index| &index.chains);
        let mut chains = Vec::with_capacity(now.chains.len());
        for (name, chain) in &now.chains {
            let same = was
                .chains
                .get_full(name)
                .filter(|(.., was)| Arc::ptr_eq(&was.rules, &chain.rules));
            let same = same.and_then(|(n, ..)| known.get(n)?.moved(&positions));
            chains.push(match same {
                Some(same) => same,
                None => Arc::new(ChainIndex::of(now, chain)?),
            });
        }
        if let Some(index) = self.index.get_mut(table as usize) {
            index.chains = chains;
        }
        self.index_hooks(table);
        Ok(())
    }

    /// Replaces the rules of chains and makes those that do not exist, in time that grows with these chains only. None of
    /// them is named twice.
    ///
    /// # Errors
    /// [`ConfigError::NoChain`] if a rule jumps to a chain that does not exist; nothing changes then.
    pub fn replace(
        &mut self,
        table: Table,
        chains: Vec<(Arc<str>, Arc<Vec<Rule>>)>,
    ) -> Result<(), ConfigError> {
        self.use_table(table);
        let all = self.source.tables.entry(table).or_default();
        let before = all.chains.len();
        for (name, _) in &chains {
            all.chains.entry(Arc::clone(name)).or_default();
        }
        let place = |(name, rules): (Arc<str>, Arc<Vec<Rule>>)| {
            let (position, _, chain) = all.chains.get_full(&name)?;
            Some((
                position,
                Chain {
                    rules,
                    ..chain.clone()
                },
            ))
        };
        let edited: Vec<(usize, Chain)> = chains.into_iter().filter_map(place).collect();
        let known = edited.iter().map(|(_, chain)| ChainIndex::of(all, chain));
        let known: Vec<ChainIndex> = match known.collect() {
            Ok(known) => known,
            Err(error) => {
                all.chains.truncate(before);
                return Err(error);
            }
        };
        let Some(index) = self.index.get_mut(table as usize) else {
            return Ok(());
        };
        index.chains.resize_with(all.chains.len(), Arc::default);
        for ((position, chain), known) in edited.into_iter().zip(known) {
            self.needs_conntrack |= chain.rules.iter().any(Rule::needs_conntrack);
            if let Some((_, place)) = all.chains.get_index_mut(position) {
                *place = chain;
            }
            if let Some(place) = index.chains.get_mut(position) {
                *place = Arc::new(known);
            }
        }
        self.index_hooks(table);
        Ok(())
    }

    /// Removes chains, in time that grows with these chains and the number of all.
    ///
    /// # Errors
    /// [`ConfigError::NoChain`] if a rule of a chain that stays jumps to one of them; nothing changes then.
    pub fn remove(&mut self, table: Table, names: &[Arc<str>]) -> Result<(), ConfigError> {
        let (Some(rules), Some(index)) = (
            self.source.tables.get_mut(&table),
            self.index.get_mut(table as usize),
        ) else {
            return Ok(());
        };
        let present = names
            .iter()
            .filter_map(|name| rules.chains.get_index_of(name));
        let gone: BTreeSet<usize> = present.collect();
        if gone.is_empty() {
            return Ok(());
        }
        // The last chains that stay move to the places of those that go.
        let left = rules.chains.len() - gone.len();
        let movers = (left..rules.chains.len()).filter(|n| !gone.contains(n));
        let holes = gone.iter().copied().filter(|n| *n < left);
        let moved: BTreeMap<usize, usize> = movers.zip(holes).collect();
        let goes_to = |known: &Known| known.jump as usize;
        for (n, chain) in index.chains.iter().enumerate() {
            let mut jumps = chain.rules.iter().map(goes_to);
            if !gone.contains(&n)
                && let Some(jump) = jumps.find(|jump| gone.contains(jump))
            {
                let name = rules.chains.get_index(jump).map(|(name, _)| name);
                return Err(ConfigError::NoChain(name.cloned().unwrap_or_default()));
            }
        }
        for chain in &mut index.chains {
            if chain.rules.iter().any(|k| moved.contains_key(&goes_to(k))) {
                for known in &mut Arc::make_mut(chain).rules {
                    let new = moved.get(&goes_to(known));
                    known.jump = new
                        .and_then(|n| u32::try_from(*n).ok())
                        .unwrap_or(known.jump);
                }
            }
        }
        for (from, to) in &moved {
            rules.chains.swap_indices(*from, *to);
            index.chains.swap(*from, *to);
        }
        rules.chains.truncate(left);
        index.chains.truncate(left);
        self.index_hooks(table);
        self.note_conntrack();
        Ok(())
    }

    /// Notes which built-in chains of a table say anything.
    fn index_hooks(&mut self, table: Table) {
        let Some(index) = self.index.get_mut(table as usize) else {
            return;
        };
        let rules = self.source.tables.get(&table);
        for (place, hook) in index.hooks.iter_mut().zip(Hook::ALL) {
            let found = rules.and_then(|rules| rules.chains.get_full(hook.name()));
            *place = found
                .filter(|(_, _, chain)| match chain.policy {
                    Some(ChainPolicy::Drop) => true,
                    Some(ChainPolicy::Accept) => !chain.rules.is_empty(),
                    None => false,
                })
                .and_then(|(n, _, _)| u32::try_from(n).ok());
        }
    }

    fn note_conntrack(&mut self) {
        let chains = self.source.tables.values().flat_map(|t| t.chains.values());
        self.needs_conntrack = chains
            .flat_map(|chain| chain.rules.iter())
            .any(Rule::needs_conntrack);
    }
}

/// Returns the position of the chain a rule jumps to.
fn jump_of(table: &TableRules, rule: &Rule) -> Result<u32, ConfigError> {
    match &rule.target {
        Some(Target::Jump(name) | Target::Goto(name)) => table
            .chains
            .get_index_of(name)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| ConfigError::NoChain(Arc::clone(name))),
        Some(
            Target::Accept
            | Target::Drop
            | Target::Return
            | Target::Reject(_)
            | Target::Mark(_)
            | Target::Connmark(_)
            | Target::Dnat(_)
            | Target::Snat(_)
            | Target::Masquerade { .. }
            | Target::Redirect { .. }
            | Target::Notrack
            | Target::Log { .. }
            | Target::Tcpmss(_),
        )
        | None => Ok(Known::NO_JUMP),
    }
}

impl Netfilter {
    /// Returns the rules of a family, if anybody has written any.
    pub const fn rules(&self, family: Family) -> Option<&Arc<Rules>> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    const fn rules_mut(&mut self, family: Family) -> &mut Option<Arc<Rules>> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Returns how many rules packets have looked at so far: what the work of this namespace's filter grows with.
    pub const fn examined(&self) -> u64 {
        self.live.examined
    }

    /// Tries every rule of a chain one after another from now on, as the kernel does, instead of looking up those that can
    /// match. It takes longer and changes nothing else: this is the reference.
    pub const fn walk_literally(&mut self) {
        self.live.literal = true;
    }

    /// Starts counting how many packets match each rule (`iptables -v`); off at first, as it costs time.
    pub fn count_matches(&mut self) {
        self.live.counters.get_or_insert_default();
    }

    /// Returns how many packets matched a rule since [`Self::count_matches`].
    pub fn matched(&self, family: Family, table: Table, chain: &str, position: u32) -> u64 {
        let rules = self.rules(family).and_then(|r| r.source.tables.get(&table));
        let chain = rules
            .and_then(|t| t.chains.get_index_of(chain))
            .and_then(|n| u32::try_from(n).ok());
        let counters = self.live.counters.as_ref();
        chain
            .zip(counters)
            .and_then(|(chain, counters)| counters.get(&(family, table, chain, position)))
            .copied()
            .unwrap_or(0)
    }

    fn needs_conntrack(&self) -> bool {
        let mut rules = [&self.v4, &self.v6].into_iter().flatten();
        let by_nft = |nft: &Nft| Family::ALL.iter().any(|f| nft.needs_conntrack(*f));
        self.agent.is_some()
            || rules.any(|rules| rules.needs_conntrack)
            || self.nft.as_deref().is_some_and(by_nft)
    }

    /// Returns the tables of nftables, if anybody has made any.
    pub fn nft(&self) -> Option<&Nft> {
        self.nft.as_deref()
    }

    /// Tells nftables which tables of iptables there are.
    fn tell_tables(&self, nft: &mut Nft) {
        let rules = [(Family::V4, &self.v4), (Family::V6, &self.v6)];
        let of = |(family, rules): (Family, &Option<Arc<Rules>>)| {
            let tables = rules.iter().flat_map(|rules| rules.source.tables.keys());
            tables.map(|table| (family, *table)).collect::<Vec<_>>()
        };
        nft.tables_of_iptables(&rules.map(of).concat());
    }

    /// Whether nobody has written anything.
    const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none() && self.agent.is_none() && self.nft.is_none()
    }
}

impl Netns {
    /// Installs who is asked about packets, in the place of whoever was before.
    pub fn set_agent(&mut self, agent: Option<Arc<dyn agent::Agent>>) {
        if agent.is_some() || self.netfilter.is_some() {
            self.netfilter.get_or_insert_default().agent = agent;
        }
        self.start_or_stop_tracking();
    }

    /// Replaces all rules of a family (`iptables-restore`).
    ///
    /// # Errors
    /// [`ConfigError::NoChain`] if a rule jumps to a chain that does not exist; nothing changes then.
    pub fn load_rules(&mut self, family: Family, rules: Ruleset) -> Result<(), ConfigError> {
        if let Some(chain) = rules.loops() {
            return Err(ConfigError::Loop(chain));
        }
        self.share_rules(Arc::new(Rules::new(family, rules)?));
        Ok(())
    }

    /// Replaces all rules of a family by ones that other namespaces may have too.
    pub fn share_rules(&mut self, rules: Arc<Rules>) {
        let netfilter = self.netfilter.get_or_insert_default();
        let family = rules.family;
        *netfilter.rules_mut(family) = Some(rules);
        if let Some(counters) = &mut netfilter.live.counters {
            counters.retain(|(of, ..), _| *of != family);
        }
        self.rules_changed();
    }

    /// Returns the rules of a family, if anybody has written any.
    pub fn rules(&self, family: Family) -> Option<&Arc<Rules>> {
        self.netfilter.as_ref()?.rules(family)
    }

    /// Lets go of the rules of a family for a moment: whoever shares them with many can change them once for all, and
    /// gives them back by [`Self::share_rules`].
    pub fn lend_rules(&mut self, family: Family) -> Option<Arc<Rules>> {
        self.netfilter.as_mut()?.rules_mut(family).take()
    }

    /// Shares the rules of another namespace if they are the same ones, origins included, and returns its own.
    pub fn share_same_rules(
        &mut self,
        other: Option<&Arc<Rules>>,
        family: Family,
    ) -> Option<Arc<Rules>> {
        let netfilter = self.netfilter.as_mut()?;
        let own = netfilter.rules_mut(family).as_mut()?;
        if let Some(other) = other.filter(|other| **other == *own) {
            *own = Arc::clone(other);
        }
        Some(Arc::clone(own))
    }

    /// What follows when rules of iptables have come or gone.
    fn rules_changed(&mut self) {
        if let Some(netfilter) = &mut self.netfilter
            && let Some(mut nft) = netfilter.nft.take()
        {
            netfilter.tell_tables(&mut nft);
            netfilter.nft = Some(nft);
        }
        self.start_or_stop_tracking();
    }

    /// Connection tracking exists as long as some rule needs it.
    fn start_or_stop_tracking(&mut self) {
        let needed = self
            .netfilter
            .as_ref()
            .is_some_and(|nf| nf.needs_conntrack());
        if !needed {
            self.conntrack = None;
        } else if self.conntrack.is_none() {
            let mut conntrack = Conntrack::default();
            conntrack.clashes = self.release.clash_resolution();
            conntrack.settings.delayed_are_invalid = self.release.calls_delayed_segments_invalid();
            self.conntrack = Some(Box::new(conntrack));
            self.configure_tracking();
        }
    }

    /// The machine runs another kernel.
    pub fn set_release(&mut self, release: Release) {
        self.release = release;
        if let Some(conntrack) = &mut self.conntrack {
            conntrack.clashes = release.clash_resolution();
            conntrack.settings.delayed_are_invalid = release.calls_delayed_segments_invalid();
        }
    }

    /// Hands the settings `net.netfilter.nf_conntrack_*` to connection tracking, after they or it came to be.
    pub(super) fn configure_tracking(&mut self) {
        let Some(conntrack) = &mut self.conntrack else {
            return;
        };
        for (name, value) in self.sysctls.all() {
            if let Some(name) = name.strip_prefix("net.netfilter.") {
                conntrack.settings.set(name, value);
            }
        }
    }

    /// Changes the rules of a family in place.
    fn edit_rules<T>(
        &mut self,
        family: Family,
        edit: impl FnOnce(&mut Rules) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        let netfilter = self.netfilter.get_or_insert_default();
        let rules = netfilter.rules_mut(family).get_or_insert_with(|| {
            Arc::new(Rules {
                family,
                source: Ruleset::default(),
                index: <[TableIndex; 4]>::default(),
                needs_conntrack: false,
            })
        });
        let done = edit(Arc::make_mut(rules));
        self.rules_changed();
        done
    }

    /// Makes a chain (`iptables -N`), or sets the policy of a built-in one (`iptables -P`).
    ///
    /// # Errors
    /// If the chain exists, or a policy is given for a chain that is not built in.
    pub fn add_chain(
        &mut self,
        family: Family,
        table: Table,
        name: &Arc<str>,
        policy: Option<ChainPolicy>,
    ) -> Result<(), ConfigError> {
        self.edit_rules(family, |rules| {
            rules.use_table(table);
            let chains = &mut rules.source.tables.entry(table).or_default().chains;
            match (chains.get_mut(name), policy) {
                (Some(chain), Some(_)) if chain.policy.is_some() => chain.policy = policy,
                (Some(_), _) => {
                    return Err(ConfigError::Invalid("Chain already exists.".to_owned()));
                }
                (None, Some(_)) => return Err(ConfigError::NoChain(Arc::clone(name))),
                (None, None) => {
                    chains.insert(Arc::clone(name), Chain::default());
                    if let Some(index) = rules.index.get_mut(table as usize) {
                        index.chains.push(Arc::default());
                    }
                }
            }
            rules.index_hooks(table);
            Ok(())
        })
    }

    /// Adds a rule at a position counted from 0, or at the end (`iptables -I`, `-A`).
    ///
    /// # Errors
    /// If the chain, or a chain it jumps to, does not exist, or the position lies beyond the end.
    pub fn add_rule(
        &mut self,
        family: Family,
        table: Table,
        name: &Arc<str>,
        at: Option<u32>,
        rule: Rule,
    ) -> Result<(), ConfigError> {
        self.edit_rules(family, |rules| {
            rules.use_table(table);
            let needs = rule.needs_conntrack();
            let all = rules.source.tables.entry(table).or_default();
            let known = Known::of(all, &rule)?;
            let Some((n, _, chain)) = all.chains.get_full_mut(name) else {
                return Err(ConfigError::NoChain(Arc::clone(name)));
            };
            let at = at.map_or(chain.rules.len(), |at| at as usize);
            if at > chain.rules.len() {
                return Err(ConfigError::Invalid(
                    "Index of insertion too big.".to_owned(),
                ));
            }
            Arc::make_mut(&mut chain.rules).insert(at, rule);
            let index = rules.index.get_mut(table as usize);
            if let Some(index) = index.and_then(|index| index.chains.get_mut(n)) {
                let index = Arc::make_mut(index);
                index.rules.insert(at, known);
                index.dispatch = Dispatch::of(chain);
            }
            rules.index_hooks(table);
            rules.needs_conntrack |= needs;
            Ok(())
        })
    }

    /// Deletes the first rule that is equal but for its origin (`iptables -D`).
    ///
    /// # Errors
    /// If there is no such chain or rule.
    pub fn delete_rule(
        &mut self,
        family: Family,
        table: Table,
        name: &Arc<str>,
        rule: &Rule,
    ) -> Result<(), ConfigError> {
        self.edit_rules(family, |rules| {
            let chains = rules.source.tables.get_mut(&table).map(|t| &mut t.chains);
            let Some(chain) = chains.and_then(|chains| chains.get_mut(name)) else {
                return Err(ConfigError::NoChain(Arc::clone(name)));
            };
            let same = |other: &Rule| {
                let plain = Rule {
                    origin: rule.origin,
                    code: rule.code,
                    ..other.clone()
                };
                plain == *rule
            };
            let Some(position) = chain.rules.iter().position(same) else {
                return Err(ConfigError::Invalid(
                    "Bad rule (does a matching rule exist in that chain?).".to_owned(),
                ));
            };
            Arc::make_mut(&mut chain.rules).remove(position);
            rules.note_conntrack();
            rules.index_table(table)
        })
    }

    /// Replaces the rules of the given chains and makes those that do not exist, all at once
    /// (`iptables-restore --noflush`: kube-proxy's way). Chains in `delete` are emptied and removed (`-X`).
    ///
    /// # Errors
    /// If a rule jumps to a chain that does not exist in the end; nothing changes then.
    pub fn replace_chains<R: Into<Arc<Vec<Rule>>>>(
        &mut self,
        family: Family,
        table: Table,
        chains: impl IntoIterator<Item = (Arc<str>, R)>,
        delete: &[Arc<str>],
    ) -> Result<(), ConfigError> {
        self.edit_rules(family, |rules| {
            let mut next = rules.clone();
            next.use_table(table);
            let all = &mut next.source.tables.entry(table).or_default().chains;
            for (name, rules) in chains {
                let (rules, chain) = (rules.into(), all.entry(name).or_default());
                // What stays the same stays the very same: it is not looked at again.
                if chain.rules != rules {
                    chain.rules = rules;
                }
            }
            if !delete.is_empty() {
                let delete: BTreeSet<&Arc<str>> = delete.iter().collect();
                all.retain(|name, _| !delete.contains(name));
            }
            next.index_changes(table, rules)?;
            next.note_conntrack();
            *rules = next;
            Ok(())
        })
    }

    /// Empties every chain of every table and removes those that are not built in (`iptables -F`, `-X`).
    pub fn flush_rules(&mut self, family: Family) {
        if let Some(netfilter) = &mut self.netfilter {
            *netfilter.rules_mut(family) = None;
            if netfilter.is_empty() {
                self.netfilter = None;
            }
        }
        self.rules_changed();
    }

    /// Passes a packet through everything that sits at a hook, in the order of priorities.
    pub fn run_hook<D: Dice, R: Recorder>(
        &mut self,
        hook: Hook,
        skb: &mut Skb,
        cx: &mut Cx<'_, D, R>,
    ) -> NfVerdict {
        let Some(mut netfilter) = self.netfilter.take() else {
            return NfVerdict::Accept;
        };
        let mut conntrack = self.conntrack.take();
        let Netfilter {
            v4,
            v6,
            nft,
            agent,
            live,
        } = &mut *netfilter;
        let family = skb.packet.family();
        let rules = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let nft = nft.as_deref();
        let rules = match (&*rules, nft) {
            (None, Some(nft)) => Some(nft.blank(family)),
            (rules, _) => rules.as_ref(),
        };
        let tracked = |rules: &Rules| {
            rules.needs_conntrack
                || agent.is_some()
                || nft.is_some_and(|nft| nft.needs_conntrack(family))
        };
        let verdict = match rules {
            Some(rules) => walk::Walk {
                ns: self,
                rules,
                live,
                nft,
                agent: agent.as_deref(),
                ct: conntrack.as_deref_mut().filter(|_| tracked(rules)),
                hook,
                skb,
                states: None,
                cx,
            }
            .run(),
            None => NfVerdict::Accept,
        };
        // Both places are empty: there is nothing to drop.
        mem::forget(self.netfilter.replace(netfilter));
        mem::forget(mem::replace(&mut self.conntrack, conntrack));
        verdict
    }
}

impl Rules {
    /// Makes a table exist.
    fn use_table(&mut self, table: Table) {
        if let Entry::Vacant(place) = self.source.tables.entry(table) {
            place.insert(TableRules::builtin(table));
            // Built-in chains are empty, so no jump can fail.
            let _ = self.index_table(table);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::NetnsId;

    const NAMES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

    fn rule() -> impl Strategy<Value = Rule> {
        let to = (0_u8..3).prop_map(|n| format!("10.0.0.{n}/32").parse().ok().map(Not::is));
        let target = prop_oneof![
            prop::sample::select(&NAMES[..]).prop_map(|name| Target::Jump(name.into())),
            Just(Target::Accept)
        ];
        (to, target).prop_map(|(destination, target)| Rule {
            destination,
            target: Some(target),
            ..Rule::default()
        })
    }

    type Edit = (Vec<(&'static str, Vec<Rule>)>, Vec<&'static str>);

    fn edit() -> impl Strategy<Value = Edit> {
        let name = || prop::sample::select(&NAMES[..]);
        let chain = (name(), prop::collection::vec(rule(), 0..8));
        (
            prop::collection::vec(chain, 0..5),
            prop::collection::vec(name(), 0..2),
        )
    }

    proptest! {
        /// What is known beforehand of rules that were edited is what is known of the same rules written at once.
        #[test]
        fn edited_rules_are_indexed_as_new_ones(edits in prop::collection::vec(edit(), 1..8)) {
            let mut netns = Netns::new(NetnsId(0), "node/a".into());
            let family = Family::V4;
            for name in NAMES {
                netns.add_chain(family, Table::Filter, &name.into(), None).expect("new names");
            }
            for (chains, delete) in edits {
                let before = netns.rules(family).map(|rules| rules.source.clone());
                let mut expected = before.clone().unwrap_or_default();
                let table = expected.tables.entry(Table::Filter).or_insert_with(|| TableRules::builtin(Table::Filter));
                for (name, rules) in &chains {
                    table.chains.entry(Arc::from(*name)).or_default().rules = rules.clone().into();
                }
                table.chains.retain(|name, _| !delete.contains(&&**name));
                let expected = Rules::new(family, expected);
                let chains = chains.into_iter().map(|(name, rules)| (Arc::from(name), rules));
                let delete: Vec<Arc<str>> = delete.into_iter().map(Arc::from).collect();
                let done = netns.replace_chains(family, Table::Filter, chains, &delete);
                prop_assert_eq!(done.is_ok(), expected.is_ok());
                if let Ok(expected) = expected {
                    let rules = netns.rules(family).expect("written just now");
                    prop_assert_eq!(&rules.source, &expected.source);
                    prop_assert_eq!(&rules.index, &expected.index);
                }
            }
        }

        /// The same of rules that are replaced and removed in place.
        #[test]
        fn replaced_rules_are_indexed_as_new_ones(edits in prop::collection::vec(edit(), 1..8)) {
            let mut rules = Rules::new(Family::V4, Ruleset::default()).expect("no rules");
            for (chains, delete) in edits {
                let chains: BTreeMap<&str, Vec<Rule>> = chains.into_iter().collect();
                let mut expected = rules.source.clone();
                let table = expected.tables.entry(Table::Filter).or_insert_with(|| TableRules::builtin(Table::Filter));
                for (name, rules) in &chains {
                    table.chains.entry(Arc::from(*name)).or_default().rules = rules.clone().into();
                }
                let expected = Rules::new(Family::V4, expected);
                let before = rules.clone();
                let chains = chains.into_iter().map(|(name, rules)| (Arc::from(name), Arc::new(rules)));
                match (rules.replace(Table::Filter, chains.collect()), expected) {
                    (Ok(()), Ok(expected)) => {
                        prop_assert_eq!(&rules.source, &expected.source);
                        prop_assert_eq!(&rules.index, &expected.index);
                    }
                    (Err(_), Err(_)) => {
                        // Only the table, empty, may have come to be.
                        before.source.tables.get(&Table::Filter).map_or(Ok(()), |was| {
                            prop_assert_eq!(rules.source.tables.get(&Table::Filter), Some(was));
                            prop_assert_eq!(&rules.index, &before.index);
                            Ok(())
                        })?;
                    }
                    (done, expected) => prop_assert!(false, "{done:?} {:?}", expected.err()),
                }
                let mut expected = rules.source.clone();
                for table in expected.tables.values_mut() {
                    table.chains.retain(|name, _| !delete.contains(&&**name));
                }
                let delete: Vec<Arc<str>> = delete.into_iter().map(Arc::from).collect();
                let before = rules.clone();
                let done = rules.remove(Table::Filter, &delete);
                let expected = Rules::new(Family::V4, expected);
                prop_assert_eq!(done.is_ok(), expected.is_ok());
                let same = expected.as_ref().unwrap_or(&before);
                prop_assert_eq!(&rules.source, &same.source);
                let anew = Rules::new(Family::V4, rules.source.clone()).expect("no chain is missing");
                prop_assert_eq!(&rules.index, &anew.index);
            }
        }
    }
}
