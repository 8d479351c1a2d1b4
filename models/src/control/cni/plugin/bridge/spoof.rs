//! `macspoofchk`: frames that a container sends must have its own hardware address (`pkg/link`), by rules of `nft` in
//! family `bridge`.

use std::sync::Arc;

use super::super::machine::{At, Machine};
use super::super::nft;
use crate::base::Mac;
use crate::kernel::config::Change;
use crate::kernel::netfilter::chain::{ChainPolicy, Hook, Not};
use crate::kernel::netfilter::nft::{
    Base, BaseKind, End, NftCommand, NftFamily, NftMatch, NftRule, NftVerdict, TableId,
};

const PREROUTING: &str = "PREROUTING";

/// As `ebtables` has it.
const PRIORITY: i32 = -300;

/// The rules of one attachment.
#[derive(Clone, Debug)]
pub(super) struct SpoofCheck {
    by_device: Arc<str>,
    by_mac: Arc<str>,
    comment: String,
}

fn table() -> TableId {
    TableId::new(NftFamily::Bridge, "nat")
}

fn set(chain: &Arc<str>, rules: Vec<NftRule>) -> NftCommand {
    NftCommand::SetRules {
        table: table(),
        chain: Arc::clone(chain),
        rules,
    }
}

impl SpoofCheck {
    pub(super) fn new(id: &str, ifname: &str) -> Self {
        let of = format!("{id}-{ifname}");
        Self {
            by_device: format!("cni-br-iface-{of}").into(),
            by_mac: format!("cni-br-iface-{of}-mac").into(),
            comment: format!("macspoofchk-{of}"),
        }
    }

    fn rule(&self, matches: Vec<NftMatch>, verdict: NftVerdict) -> NftRule {
        NftRule::new(matches, verdict).with_comment(&self.comment)
    }

    /// Lets pass by the node's end `dev` what carries this hardware address.
    pub(super) fn set_up(
        &self,
        dev: &str,
        mac: Mac,
        machine: &mut dyn Machine,
    ) -> Result<(), String> {
        let chain = |name: &Arc<str>, base| NftCommand::AddChain {
            table: table(),
            chain: Arc::clone(name),
            base,
            comment: None,
        };
        let base = Base {
            kind: BaseKind::Filter,
            hook: Hook::Prerouting,
            priority: PRIORITY,
            policy: ChainPolicy::Accept,
        };
        let first: Arc<str> = PREROUTING.into();
        let from_device = self.rule(
            vec![NftMatch::InDevice(Not::is(dev.into()))],
            NftVerdict::Jump(Arc::clone(&self.by_device)),
        );
        let own = NftMatch::Ether {
            end: End::Source,
            mac: Not::is(mac),
        };
        let there = nft::rules(machine, &table(), PREROUTING).unwrap_or_default();
        let entries = there.iter().cloned().chain([from_device]).collect();
        let commands = vec![
            NftCommand::AddTable {
                table: table(),
                comment: None,
            },
            chain(&first, Some(base)),
            chain(&self.by_device, None),
            chain(&self.by_mac, None),
            set(&first, entries),
            set(
                &self.by_device,
                vec![self.rule(vec![], NftVerdict::Jump(Arc::clone(&self.by_mac)))],
            ),
            set(
                &self.by_mac,
                vec![
                    self.rule(vec![own], NftVerdict::Return),
                    self.rule(vec![], NftVerdict::Drop),
                ],
            ),
        ];
        machine
            .change(At::Node, &Change::Nft(commands))
            .map_err(|e| format!("failed to setup spoof-check: {e}"))
    }

    /// Takes the rules away. What goes wrong is only printed by the real plugin.
    pub(super) fn tear_down(&self, machine: &mut dyn Machine) {
        if let Some(rules) = nft::rules(machine, &table(), PREROUTING) {
            let own = |rule: &&NftRule| rule.comment.as_deref() == Some(&self.comment);
            let others = rules.iter().filter(|rule| !own(rule)).cloned().collect();
            let commands = vec![set(&PREROUTING.into(), others)];
            let _ = machine.change(At::Node, &Change::Nft(commands));
        }
        let delete = |chain: &Arc<str>| NftCommand::DeleteChain {
            table: table(),
            chain: Arc::clone(chain),
        };
        let commands = vec![delete(&self.by_device), delete(&self.by_mac)];
        let _ = machine.change(At::Node, &Change::Nft(commands));
    }
}
