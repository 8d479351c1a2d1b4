//! What `nft list ruleset` (1.0.6) prints, and commands as `nft -f` reads them.

use std::fmt::{self, Write as _};

use super::{Base, BaseKind, Nft, NftChain, NftCommand, NftFamily, NftTable, TableId};
use crate::kernel::netfilter::chain::{ChainPolicy, Hook};

/// Names of priorities, and the only hook that has them.
const PRIORITIES: [(&str, i32, Option<Hook>); 6] = [
    ("raw", -300, None),
    ("mangle", -150, None),
    ("dstnat", -100, Some(Hook::Prerouting)),
    ("filter", 0, None),
    ("security", 50, None),
    ("srcnat", 100, Some(Hook::Postrouting)),
];

const BRIDGE_PRIORITIES: [(&str, i32, Option<Hook>); 4] = [
    ("dstnat", -300, Some(Hook::Prerouting)),
    ("filter", -200, None),
    ("out", 100, Some(Hook::Output)),
    ("srcnat", 300, Some(Hook::Postrouting)),
];

/// How far from a named priority its name is still used.
const NEAR: u32 = 10;

fn priority(family: NftFamily, base: Base) -> String {
    let named: &[_] = match family {
        NftFamily::Bridge => &BRIDGE_PRIORITIES,
        NftFamily::Ip | NftFamily::Ip6 | NftFamily::Inet => &PRIORITIES,
    };
    let near = |(_, of, _): &&(&str, i32, Option<Hook>)| of.abs_diff(base.priority) <= NEAR;
    let found = named.iter().find(near);
    match found.filter(|(_, _, hook)| hook.is_none_or(|hook| hook == base.hook)) {
        Some((name, of, _)) => match base.priority - of {
            0 => (*name).to_owned(),
            more if more > 0 => format!("{name} + {more}"),
            less => format!("{name} - {}", -less),
        },
        None => base.priority.to_string(),
    }
}

/// The line that makes a chain a base chain.
fn base_line(family: NftFamily, base: Base) -> String {
    let kind = match base.kind {
        BaseKind::Filter => "filter",
        BaseKind::Nat => "nat",
    };
    let policy = match base.policy {
        ChainPolicy::Accept => "accept",
        ChainPolicy::Drop => "drop",
    };
    let hook = base.hook.name().to_lowercase();
    let priority = priority(family, base);
    format!("type {kind} hook {hook} priority {priority}; policy {policy};")
}

impl NftChain {
    fn list(&self, family: NftFamily, name: &str, text: &mut String) -> fmt::Result {
        writeln!(text, "\tchain {name} {{")?;
        if let Some(comment) = &self.comment {
            writeln!(text, "\t\tcomment \"{comment}\"")?;
        }
        if let Some(base) = self.base {
            writeln!(text, "\t\t{}", base_line(family, base))?;
        }
        for rule in &self.rules {
            writeln!(text, "\t\t{rule}")?;
        }
        writeln!(text, "\t}}")
    }
}

impl NftTable {
    fn list(&self, id: &TableId, text: &mut String) -> fmt::Result {
        writeln!(text, "table {id} {{")?;
        if let Some(comment) = &self.comment {
            writeln!(text, "\tcomment \"{comment}\"")?;
        }
        for (n, (name, chain)) in self.chains.iter().enumerate() {
            if n > 0 {
                text.push('\n');
            }
            chain.list(id.family, name, text)?;
        }
        writeln!(text, "}}")
    }
}

impl Nft {
    /// Returns what `nft list ruleset` prints.
    pub fn list(&self) -> String {
        let mut text = String::new();
        for (id, table) in &self.tables {
            table
                .list(id, &mut text)
                .expect("a String takes everything");
        }
        text
    }
}

impl fmt::Display for NftCommand {
    /// The commands in the language of `nft -f`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noted = |comment: &Option<std::sync::Arc<str>>| {
            let comment = comment.as_ref();
            comment.map_or_else(String::new, |c| format!("comment \"{c}\"; "))
        };
        match self {
            Self::AddTable { table, comment } => match noted(comment).as_str() {
                "" => write!(f, "add table {table}"),
                comment => write!(f, "add table {table} {{ {comment}}}"),
            },
            Self::AddChain {
                table,
                chain,
                base,
                comment,
            } => {
                write!(f, "add chain {table} {chain}")?;
                let base = base.map_or_else(String::new, |b| base_line(table.family, b) + " ");
                match base + &noted(comment) {
                    nothing if nothing.is_empty() => Ok(()),
                    inside => write!(f, " {{ {inside}}}"),
                }
            }
            Self::SetRules {
                table,
                chain,
                rules,
            } => {
                write!(f, "flush chain {table} {chain}")?;
                for rule in rules {
                    write!(f, "; add rule {table} {chain} {rule}")?;
                }
                Ok(())
            }
            Self::DeleteChain { table, chain } => write!(f, "delete chain {table} {chain}"),
        }
    }
}
