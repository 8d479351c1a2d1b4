//! Rules that lead back to where they came from: the kernel does not load them (`mark_source_chains` of
//! `ip_tables.c`). Chains that nobody reaches may.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::chain::{Chain, Rule, Ruleset, TableRules, Target};

/// Where a chain leads, in the order of its rules. Nobody gets past a rule that ends everything.
fn leads_to(chain: &Chain) -> impl Iterator<Item = &Arc<str>> {
    let reached = chain.rules.iter().take_while(|rule| !ends_all(rule));
    reached.filter_map(|rule| match &rule.target {
        Some(Target::Jump(to) | Target::Goto(to)) => Some(to),
        Some(_) | None => None,
    })
}

fn ends_all(rule: &Rule) -> bool {
    let ends = matches!(
        rule.target,
        Some(Target::Accept | Target::Drop | Target::Return)
    );
    ends && rule.matches.is_empty()
        && rule.source.is_none()
        && rule.destination.is_none()
        && rule.in_interface.is_none()
        && rule.out_interface.is_none()
        && rule.protocol.is_none()
}

impl Ruleset {
    /// Returns a chain that leads back to itself.
    pub(super) fn loops(&self) -> Option<Arc<str>> {
        self.tables.values().find_map(loop_of)
    }
}

fn loop_of(rules: &TableRules) -> Option<Arc<str>> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let built_in = rules
        .chains
        .iter()
        .filter(|(_, chain)| chain.policy.is_some());
    for (name, chain) in built_in {
        // The way from the hook to here, and what is left of each chain on it.
        let mut way = vec![(name, leads_to(chain))];
        while let Some((here, rest)) = way.last_mut() {
            let Some(next) = rest.next() else {
                done.insert(here);
                way.pop();
                continue;
            };
            if way.iter().any(|(before, _)| **before == *next) {
                return Some(Arc::clone(next));
            }
            if done.contains(&**next) {
                continue;
            }
            if let Some((name, chain)) = rules.chains.get_key_value(next) {
                way.push((name, leads_to(chain)));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// As tried on Linux 6.18 with the legacy back end.
    #[test]
    fn only_what_is_reached_may_not_lead_back() {
        let table = |rules: &str| {
            let text = format!(
                "*filter\n:INPUT ACCEPT [0:0]\n:ONE - [0:0]\n:TWO - [0:0]\n{rules}\nCOMMIT\n"
            );
            text.parse::<Ruleset>().unwrap().loops().is_some()
        };
        assert!(table("-A INPUT -j ONE\n-A ONE -j TWO\n-A TWO -g ONE"));
        assert!(table(
            "-A INPUT -j ONE\n-A ONE -p tcp -j RETURN\n-A ONE -j ONE"
        ));
        assert!(!table("-A ONE -j TWO\n-A TWO -j ONE"));
        assert!(!table("-A INPUT -j ONE\n-A ONE -j RETURN\n-A ONE -g ONE"));
        assert!(!table("-A INPUT -j ACCEPT\n-A INPUT -j ONE\n-A ONE -j ONE"));
        assert!(!table("-A INPUT -j ONE\n-A INPUT -j TWO\n-A ONE -j TWO"));
    }
}
