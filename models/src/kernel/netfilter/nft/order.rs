//! What runs at a hook, and in which order: by priority, and of what has the same the last that was registered first
//! (`nf_hook_entries_grow`).
//!
//! Chains of type `nat` sit in a list of their own (`nf_nat_register_fn`), that of iptables among them. They are asked one
//! after another until one has translated.

use std::sync::Arc;

use super::super::chain::{Hook, Table};
use super::super::stages::Stop;
use super::{Base, BaseKind, ChainRef, Nft, NftFamily, TableId};
use crate::base::Family;

/// Who sits at hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Registered {
    /// A table of iptables, at all its hooks.
    Iptables(Family, Table),
    /// A base chain of nftables.
    Chain(TableId, Arc<str>),
}

/// Whom the first packet of a connection asks for a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Lookup {
    /// The table `nat` of iptables.
    Iptables,
    /// A base chain of type `nat`.
    Chain(ChainRef),
}

/// What is at one hook for one family.
#[derive(Clone, Debug, Default)]
struct At {
    stops: Vec<(i32, Stop)>,
    lookups: Vec<(i32, Lookup)>,
}

/// By family and hook.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    v4: [At; 5],
    v6: [At; 5],
    /// Base chains of family `bridge` at hook prerouting.
    bridge: Vec<(i32, ChainRef)>,
}

/// Puts something in front of all that has its priority.
fn put<T>(list: &mut Vec<(i32, T)>, priority: i32, what: T) {
    let at = list.partition_point(|(other, _)| *other < priority);
    list.insert(at, (priority, what));
}

impl Nft {
    /// Tells which tables of iptables there are, after some have come or gone.
    pub(in super::super) fn tables_of_iptables(&mut self, tables: &[(Family, Table)]) {
        let before = self.registered.len();
        self.registered.retain(|registered| match registered {
            Registered::Iptables(family, table) => tables.contains(&(*family, *table)),
            Registered::Chain(..) => true,
        });
        let mut changed = self.registered.len() != before;
        for (family, table) in tables {
            let table = Registered::Iptables(*family, *table);
            if !self.registered.contains(&table) {
                self.registered.push(table);
                changed = true;
            }
        }
        if changed {
            self.put_in_order();
        }
    }

    /// Finds out again what runs at each hook.
    pub(super) fn put_in_order(&mut self) {
        let at = |family| Hook::ALL.map(|hook| self.at(family, hook));
        let mut bridge = Vec::new();
        for registered in &self.registered {
            if let Registered::Chain(table, chain) = registered
                && table.family == NftFamily::Bridge
                && let Some((base, place)) = self.base_chain(table, chain)
            {
                put(&mut bridge, base.priority, place);
            }
        }
        self.order = Order {
            v4: at(Family::V4),
            v6: at(Family::V6),
            bridge,
        };
    }

    fn base_chain(&self, table: &TableId, chain: &str) -> Option<(Base, ChainRef)> {
        let (n, _, table) = self.tables.get_full(table)?;
        let (m, _, chain) = table.chains.get_full(chain)?;
        let place = ChainRef {
            table: u32::try_from(n).ok()?,
            chain: u32::try_from(m).ok()?,
        };
        Some((chain.base?, place))
    }

    fn of(&self, family: Family, hook: Hook) -> Option<&At> {
        let hooks = match family {
            Family::V4 => &self.order.v4,
            Family::V6 => &self.order.v6,
        };
        hooks.get(hook as usize)
    }

    /// Returns what happens to packets of a family at a hook.
    pub(in super::super) fn stops(&self, family: Family, hook: Hook) -> &[(i32, Stop)] {
        self.of(family, hook).map_or(&[], |at| &at.stops)
    }

    /// Returns whom the first packet of a connection asks at a hook.
    pub(in super::super) fn lookups(&self, family: Family, hook: Hook) -> &[(i32, Lookup)] {
        self.of(family, hook).map_or(&[], |at| &at.lookups)
    }

    /// Returns the base chains that frames meet which come in by a port of a bridge.
    pub(super) fn of_bridges(&self) -> impl Iterator<Item = ChainRef> {
        self.order.bridge.iter().map(|(_, place)| *place)
    }

    fn at(&self, family: Family, hook: Hook) -> At {
        let mut at = At::default();
        let own = hook.stops().iter();
        at.stops
            .extend(own.filter(|(_, stop)| !matches!(stop, Stop::Table(_))));
        for registered in &self.registered {
            match registered {
                Registered::Iptables(of, Table::Nat) => {
                    let has = *of == family && Table::Nat.hooks().contains(&hook);
                    let nat = |(_, stop): &&(i32, Stop)| matches!(stop, Stop::Nat(_));
                    if let Some((priority, _)) = hook.stops().iter().find(nat).filter(|_| has) {
                        put(&mut at.lookups, *priority, Lookup::Iptables);
                    }
                }
                Registered::Iptables(of, table) => {
                    let stop = Stop::Table(*table);
                    let found = hook.stops().iter().find(|(_, other)| *other == stop);
                    if let Some((priority, _)) = found.filter(|_| *of == family) {
                        put(&mut at.stops, *priority, stop);
                    }
                }
                Registered::Chain(table, chain) => {
                    let Some((base, place)) = self.base_chain(table, chain) else {
                        continue;
                    };
                    if base.hook != hook || !table.family.sees(family) {
                        continue;
                    }
                    match base.kind {
                        BaseKind::Filter => {
                            put(&mut at.stops, base.priority, Stop::Chain(place));
                        }
                        BaseKind::Nat => {
                            put(&mut at.lookups, base.priority, Lookup::Chain(place));
                        }
                    }
                }
            }
        }
        at
    }
}
