//! `ipMasq` by rules of `nft`: one table for all networks, one rule for each address.

use ipnet::IpNet;
use sha2::{Digest, Sha512};

use super::super::machine::{At, Machine};
use super::super::nft;
use super::Attachment;
use crate::base::addr::host_net;
use crate::kernel::config::Change;
use crate::kernel::netfilter::chain::{Hook, Not};
use crate::kernel::netfilter::nft::{
    End, NftCommand, NftFamily, NftMatch, NftRule, NftVerdict, TableId,
};

const CHECKS: &str = "masq_checks";

/// How long a comment may be (`knftables.CommentLengthMax`).
const LONGEST: usize = 128;

fn table() -> TableId {
    TableId::new(NftFamily::Inet, "cni_plugins_masquerade")
}

fn hash(text: &str) -> String {
    let hash = Sha512::digest(text.as_bytes());
    let hex = data_encoding::HEXLOWER.encode(&hash);
    hex.get(..16).unwrap_or(&hex).to_owned()
}

/// What the comments of an attachment's rules begin with.
fn instance(of: Attachment<'_>) -> String {
    let own = format!("{}:{}", of.ifname, of.id);
    format!("{}-{}", hash(of.network), hash(&own))
}

fn comment(of: Attachment<'_>) -> String {
    let plain = |text: &str| text.replace('"', "");
    let comment = format!(
        "{}, net: {}, if: {}, id: {}",
        instance(of),
        plain(of.network),
        plain(of.ifname),
        plain(of.id)
    );
    let end = (0..=LONGEST.min(comment.len())).rev();
    let end = end.into_iter().find(|n| comment.is_char_boundary(*n));
    comment.get(..end.unwrap_or(0)).unwrap_or("").to_owned()
}

/// The rules of the chain `masq_checks` that are not the attachment's.
fn others(of: Attachment<'_>, rules: &[NftRule]) -> Vec<NftRule> {
    let instance = instance(of);
    let own = |comment: &str| comment.starts_with(&instance);
    let other = |rule: &&NftRule| !rule.comment.as_deref().is_some_and(own);
    rules.iter().filter(other).cloned().collect()
}

/// The rule for an address: masqueraded is what goes anywhere outside its subnet.
fn masqueraded(net: IpNet, comment: &str) -> NftRule {
    let matches = [
        NftMatch::Address {
            end: End::Source,
            net: Not::is(host_net(net.addr())),
        },
        NftMatch::Address {
            end: End::Destination,
            net: Not::except(net.trunc()),
        },
    ];
    NftRule::new(matches, NftVerdict::Masquerade).with_comment(comment)
}

/// Groups are left alone, everything else is checked.
fn postrouting() -> Vec<NftRule> {
    let group = |net: &str| {
        let net = net.parse().expect("a literal prefix");
        let to = NftMatch::Address {
            end: End::Destination,
            net: Not::is(net),
        };
        NftRule::new([to], NftVerdict::Return)
    };
    let checks = NftRule::new([], NftVerdict::Goto(CHECKS.into()));
    vec![group("224.0.0.0/4"), group("ff00::/8"), checks]
}

pub(super) fn set_up(
    nets: impl Iterator<Item = IpNet>,
    of: Attachment<'_>,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let rules = nft::rules(machine, &table(), CHECKS).unwrap_or_default();
    let mut rules = others(of, rules);
    let comment = comment(of);
    rules.extend(nets.map(|net| masqueraded(net, &comment)));
    let commands = vec![
        NftCommand::AddTable {
            table: table(),
            comment: Some(
                "Masquerading for plugins from github.com/containernetworking/plugins".into(),
            ),
        },
        NftCommand::AddChain {
            table: table(),
            chain: CHECKS.into(),
            base: None,
            comment: Some(
                "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet"
                    .into(),
            ),
        },
        nft::nat_chain(&table(), "postrouting", Hook::Postrouting),
        NftCommand::SetRules {
            table: table(),
            chain: "postrouting".into(),
            rules: postrouting(),
        },
        NftCommand::SetRules {
            table: table(),
            chain: CHECKS.into(),
            rules,
        },
    ];
    let change = Change::Nft(commands);
    machine.change(At::Node, &change).map_err(|e| e.to_string())
}

pub(super) fn tear_down(of: Attachment<'_>, machine: &mut dyn Machine) -> Result<(), String> {
    let Some(rules) = nft::rules(machine, &table(), CHECKS) else {
        return Ok(());
    };
    let left = others(of, rules);
    if left.len() == rules.len() {
        return Ok(());
    }
    let change = Change::Nft(vec![NftCommand::SetRules {
        table: table(),
        chain: CHECKS.into(),
        rules: left,
    }]);
    machine.change(At::Node, &change).map_err(|e| e.to_string())
}
