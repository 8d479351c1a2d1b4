//! What plugins do alike with `nft` (`sigs.k8s.io/knftables`).

use super::machine::{At, Machine};
use crate::kernel::netfilter::chain::{ChainPolicy, Hook};
use crate::kernel::netfilter::nft::{Base, BaseKind, NftCommand, NftRule, NftTable, TableId};

fn table<'a>(machine: &'a dyn Machine, table: &TableId) -> Option<&'a NftTable> {
    let netfilter = machine.netns(At::Node)?.netfilter.as_ref()?;
    netfilter.nft()?.table(table)
}

/// Returns the rules of a chain of the node, if it is there.
pub(super) fn rules<'a>(
    machine: &'a dyn Machine,
    of: &TableId,
    chain: &str,
) -> Option<&'a [NftRule]> {
    let chain = table(machine, of)?.chains.get(chain)?;
    Some(&chain.rules)
}

/// Returns the rules of a chain of the node, or what `nft list chain` says if it is not there.
pub(super) fn list_rules<'a>(
    machine: &'a dyn Machine,
    of: &TableId,
    chain: &str,
) -> Result<&'a [NftRule], String> {
    if let Some(rules) = rules(machine, of, chain) {
        return Ok(rules);
    }
    // The word that names what is missing is underlined.
    let (before, missing) = if table(machine, of).is_some() {
        (format!("list chain {of} "), chain)
    } else {
        let family = of.family.name();
        (format!("list chain {family} "), &*of.name)
    };
    let blank = " ".repeat(before.len());
    let marks = "^".repeat(missing.len());
    Err(format!(
        "failed to run nft: Error: No such file or directory\nlist chain {of} {chain}\n{blank}{marks}\n"
    ))
}

/// Returns the command that makes a chain of type `nat`.
pub(super) fn nat_chain(table: &TableId, name: &str, hook: Hook) -> NftCommand {
    let priority = match hook {
        Hook::Prerouting | Hook::Output => -100,
        Hook::Input | Hook::Forward | Hook::Postrouting => 100,
    };
    NftCommand::AddChain {
        table: table.clone(),
        chain: name.into(),
        base: Some(Base {
            kind: BaseKind::Nat,
            hook,
            priority,
            policy: ChainPolicy::Accept,
        }),
        comment: None,
    }
}
