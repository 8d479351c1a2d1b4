//! What was done to the rules of one namespace, done to those of others: kube-proxies on many nodes write the same, and only a few
//! chains of others make their rules differ. It takes time for what was done, and one look at each name.

use std::sync::Arc;

use super::chain::{Chain, Table, TableRules};
use super::{ChainIndex, Known, Rules, TableIndex};

/// What was done to rules.
#[derive(Clone, Debug)]
pub struct Done(Vec<Edited>);

/// What was done to a table.
#[derive(Clone, Debug)]
struct Edited {
    table: Table,
    before: TableRules,
    /// Where each chain of before is now; [`Known::NO_JUMP`] if it is gone.
    positions: Vec<u32>,
    /// Chains that are new at their positions, or whose rules are.
    written: Vec<Written>,
    /// How many chains there are now.
    left: usize,
}

#[derive(Clone, Debug)]
struct Written {
    position: usize,
    name: Arc<str>,
    chain: Chain,
    known: Arc<ChainIndex>,
}

/// A chain that a namespace has otherwise than the first one had.
struct Own {
    position: usize,
    chain: Chain,
    known: Arc<ChainIndex>,
}

impl Done {
    /// Returns what was done to rules; nothing if tables came or went.
    pub fn between(before: &Rules, after: &Rules) -> Option<Self> {
        let (was, now) = (&before.source.tables, &after.source.tables);
        if !was.keys().eq(now.keys()) {
            return None;
        }
        let both = was.iter().zip(now.values());
        let edited = both.map(|((table, was), now)| {
            let known_before = before.index.get(*table as usize)?;
            let known = after.index.get(*table as usize)?;
            Edited::of(*table, (was, known_before), (now, known))
        });
        Some(Self(edited.collect::<Option<_>>()?))
    }
}

impl Edited {
    fn of(
        table: Table,
        (was, known_before): (&TableRules, &TableIndex),
        (now, known): (&TableRules, &TableIndex),
    ) -> Option<Self> {
        let position = |name| {
            let position = now.chains.get_index_of(name);
            position.map_or(Some(Known::NO_JUMP), |n| u32::try_from(n).ok())
        };
        let positions = was.chains.keys().map(position).collect::<Option<_>>()?;
        let mut written = Vec::new();
        for (position, (name, chain)) in now.chains.iter().enumerate() {
            let known = known.chains.get(position)?;
            let same = was.chains.get_index(position).is_some_and(|(of, was)| {
                let known_before = known_before.chains.get(position);
                of == name
                    && alike(was, chain)
                    && known_before.is_some_and(|k| Arc::ptr_eq(k, known))
            });
            if !same {
                written.push(Written {
                    position,
                    name: Arc::clone(name),
                    chain: chain.clone(),
                    known: Arc::clone(known),
                });
            }
        }
        Some(Self {
            table,
            before: was.clone(),
            positions,
            written,
            left: now.chains.len(),
        })
    }

    /// Returns the chains that other rules have otherwise; nothing if what was done cannot be done to them.
    fn own(&self, rules: &Rules) -> Option<Vec<Own>> {
        let chains = &rules.source.tables.get(&self.table)?.chains;
        if chains.len() != self.before.chains.len() {
            return None;
        }
        let known = rules.index.get(self.table as usize)?;
        let mut own = Vec::new();
        let both = chains.iter().zip(&self.before.chains);
        for (n, ((name, chain), (of, was))) in both.enumerate() {
            if !Arc::ptr_eq(name, of) && name != of {
                return None;
            }
            if alike(chain, was) {
                continue;
            }
            let position = *self.positions.get(n)? as usize;
            let written = |written: &Written| written.name == *name && !alike(&written.chain, was);
            if position >= self.left || self.written.iter().any(written) {
                return None;
            }
            own.push(Own {
                position,
                chain: chain.clone(),
                known: known.chains.get(n)?.moved(&self.positions)?,
            });
        }
        Some(own)
    }

    fn repeat(&self, rules: &mut Rules, own: Vec<Own>) {
        let tables = rules.source.tables.get_mut(&self.table);
        let Some((table, index)) = tables.zip(rules.index.get_mut(self.table as usize)) else {
            return;
        };
        let chains = &mut table.chains;
        for written in &self.written {
            chains.entry(Arc::clone(&written.name)).or_default();
        }
        index.chains.resize_with(chains.len(), Arc::default);
        for written in &self.written {
            // What is in the way goes to its own place later, or goes.
            if let Some(now) = chains.get_index_of(&written.name)
                && now != written.position
            {
                chains.swap_indices(now, written.position);
            }
        }
        chains.truncate(self.left);
        index.chains.truncate(self.left);
        let written = self.written.iter();
        let written = written.map(|w| (w.position, w.chain.clone(), Arc::clone(&w.known)));
        let own = own
            .into_iter()
            .map(|own| (own.position, own.chain, own.known));
        for (position, chain, known) in written.chain(own) {
            if let Some((_, place)) = chains.get_index_mut(position) {
                *place = chain;
            }
            if let Some(place) = index.chains.get_mut(position) {
                *place = known;
            }
        }
        rules.index_hooks(self.table);
    }
}

impl Rules {
    /// Does what was done to other rules, whose chains had the same names in the same order; returns whether that could be done. If
    /// not, nothing has changed.
    pub fn repeat(&mut self, done: &Done) -> bool {
        if self.source.tables.len() != done.0.len() {
            return false;
        }
        let own = done.0.iter().map(|edited| edited.own(self));
        let Some(own) = own.collect::<Option<Vec<_>>>() else {
            return false;
        };
        for (edited, own) in done.0.iter().zip(own) {
            edited.repeat(self, own);
        }
        self.note_conntrack();
        true
    }
}

/// Whether two chains are the very same.
fn alike(one: &Chain, other: &Chain) -> bool {
    Arc::ptr_eq(&one.rules, &other.rules) && one.policy == other.policy
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use crate::base::{Family, FxIndexMap};
    use crate::kernel::netfilter::chain::{Rule, Ruleset, Target};

    fn jumps(to: &[&str]) -> Arc<Vec<Rule>> {
        let rule = |name: &&str| Rule {
            target: Some(Target::Jump(Arc::from(*name))),
            ..Rule::default()
        };
        Arc::new(to.iter().map(rule).collect())
    }

    fn rules(chains: &[(&str, &Arc<Vec<Rule>>)]) -> Rules {
        let chains: FxIndexMap<Arc<str>, Chain> = chains
            .iter()
            .map(|(name, rules)| {
                let rules = Arc::clone(rules);
                let chain = Chain {
                    policy: None,
                    rules,
                };
                (Arc::from(*name), chain)
            })
            .collect();
        let tables = [(Table::Nat, TableRules { chains })].into();
        Rules::new(Family::V4, Ruleset { tables }).unwrap()
    }

    fn edit(rules: &mut Rules) {
        let write = vec![
            ("svc".into(), jumps(&["c", "new", "d"])),
            ("new".into(), jumps(&[])),
        ];
        rules.replace(Table::Nat, write).unwrap();
        rules.remove(Table::Nat, &["a".into(), "b".into()]).unwrap();
    }

    #[test]
    fn what_is_repeated_is_as_if_it_had_been_done() {
        let (svc, none) = (jumps(&["a", "b", "c", "d"]), jumps(&[]));
        let of = |own: &Arc<Vec<Rule>>| {
            rules(&[
                ("svc", &svc),
                ("a", &none),
                ("b", &none),
                ("own", own),
                ("c", &none),
                ("d", &none),
            ])
        };
        let before = of(&jumps(&["d"]));
        let mut first = before.clone();
        edit(&mut first);
        let done = Done::between(&before, &first).unwrap();
        let mut other = of(&jumps(&["c", "svc"]));
        let mut wanted = other.clone();
        edit(&mut wanted);
        assert!(other.repeat(&done));
        assert!(
            other.source.tables[&Table::Nat]
                .chains
                .keys()
                .eq(wanted.source.tables[&Table::Nat].chains.keys())
        );
        assert_eq!(other, wanted);
        assert_eq!(other.index, wanted.index);
    }

    #[test]
    fn what_is_there_otherwise_is_left_alone() {
        let (svc, none) = (jumps(&["a", "b", "c", "d"]), jumps(&[]));
        let all = |names: [&str; 5], svc: &Arc<Vec<Rule>>| {
            let rest = names.map(|name| (name, if name == "svc" { svc } else { &none }));
            rules(&rest)
        };
        let before = all(["svc", "a", "b", "c", "d"], &svc);
        let mut first = before.clone();
        edit(&mut first);
        let done = Done::between(&before, &first).unwrap();
        for other in [
            all(["svc", "a", "b", "d", "c"], &svc),
            // A chain that was written.
            all(["svc", "a", "b", "c", "d"], &jumps(&["a"])),
        ] {
            let mut repeated = other.clone();
            assert!(!repeated.repeat(&done));
            assert_eq!(repeated, other);
        }
    }
}
