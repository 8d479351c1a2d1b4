//! `firewall`: what a container sends, and the answers to it, pass where the policy of FORWARD would drop them.
//!
//! `CNI-FORWARD` is entered first, and asks `CNI-ADMIN` first, which is the administrator's. With an ingress policy
//! `CNI-ISOLATION-STAGE-1` comes before it: what leaves one isolated bridge does not enter another.
//!
//! Source: containernetworking `plugins/meta/firewall`, nine commits after v1.9.1.
//!
//! # Fidelity
//! Back end iptables: firewalld is taken for not running.

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::call::{Call, PluginError, Verb};
use super::machine::{At, Machine};
use super::net_conf::NetConf;
use super::result::CniResult;
use crate::base::Family;
use crate::base::addr::host_net;
use crate::kernel::config::{Change, ConfigError};
use crate::kernel::netfilter::chain::{CtStates, Match, Not, Rule, Table, Target};

const FORWARD: &str = "FORWARD";
const OWN: &str = "CNI-FORWARD";
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";

/// What the plugin reads of its configuration.
#[derive(Debug, Default)]
struct Config {
    net: NetConf,
    backend: String,
    admin: String,
    ingress: String,
    previous: Option<CniResult>,
}

impl Config {
    fn load(stdin: &str) -> Result<Self, String> {
        let mut config = Self::default();
        let mut zone = String::new();
        let names = [
            "backend",
            "iptablesAdminChainName",
            "firewalldZone",
            "ingressPolicy",
        ];
        let net = NetConf::load(
            stdin,
            ("FirewallNetConf", "main.FirewallNetConf"),
            &names,
            |d, name, v, at| match name {
                "backend" => d.string(v, at, &mut config.backend),
                "iptablesAdminChainName" => d.string(v, at, &mut config.admin),
                "firewalldZone" => d.string(v, at, &mut zone),
                _ => d.string(v, at, &mut config.ingress),
            },
        );
        config.net = net.map_err(|e| format!("failed to load netconf: {e}"))?;
        let previous = config.net.previous();
        config.previous = previous.map_err(|e| format!("could not parse prevResult: {e}"))?;
        if config.admin.is_empty() {
            "CNI-ADMIN".clone_into(&mut config.admin);
        }
        Ok(config)
    }

    fn back_end(&self) -> Result<(), String> {
        if self.backend == "firewalld" {
            let socket = "/var/run/dbus/system_bus_socket";
            return Err(format!(
                "dial unix {socket}: connect: no such file or directory"
            ));
        }
        Ok(())
    }

    /// The addresses of the container, by family.
    fn addresses(&self) -> impl Iterator<Item = (Family, Vec<IpNet>)> {
        let ips = self.previous.iter().flat_map(|result| &result.ips);
        let all: Vec<IpNet> = ips.map(|ip| ip.address).collect();
        Family::ALL.into_iter().filter_map(move |family| {
            let mut own = all.clone();
            own.retain(|net| Family::of_net(*net) == family);
            (!own.is_empty()).then_some((family, own))
        })
    }
}

/// Runs the plugin's own code.
pub(super) fn run(
    verb: Verb,
    call: &Call<'_>,
    machine: &mut dyn Machine,
) -> Result<Option<Value>, PluginError> {
    let config = Config::load(call.stdin).map_err(PluginError::internal)?;
    let missing = || PluginError::internal("missing prevResult from earlier plugin");
    match verb {
        Verb::Add => {
            let previous = config.previous.as_ref().ok_or_else(missing)?;
            config.back_end().map_err(PluginError::internal)?;
            let mut filter = Filter { machine };
            add(&config, previous, &mut filter).map_err(PluginError::internal)?;
            config.net.print(previous).map(Some)
        }
        Verb::Check => {
            config.previous.as_ref().ok_or_else(missing)?;
            config.back_end().map_err(PluginError::internal)?;
            let mut filter = Filter { machine };
            check(&config, &mut filter).map_err(PluginError::internal)?;
            Ok(None)
        }
        Verb::Del => {
            config.back_end().map_err(PluginError::internal)?;
            let mut filter = Filter { machine };
            delete(&config, &mut filter);
            policy(&config.ingress).map_err(PluginError::internal)?;
            Ok(None)
        }
    }
}

/// Who may reach containers behind the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ingress {
    Open,
    SameBridge,
    Isolated,
}

fn policy(name: &str) -> Result<Ingress, String> {
    match name {
        "" | "open" => Ok(Ingress::Open),
        "same-bridge" => Ok(Ingress::SameBridge),
        "isolated" => Ok(Ingress::Isolated),
        other => Err(format!("unknown ingress policy: {other:?}")),
    }
}

// ---- rules ----

fn jump(comment: &str, chain: &str) -> Rule {
    Rule {
        matches: vec![Match::Comment(comment.into())],
        target: Some(Target::Jump(chain.into())),
        ..Rule::default()
    }
}

/// From FORWARD to the plugin's chain.
fn entry() -> Rule {
    jump("CNI firewall plugin rules", OWN)
}

/// From there to the administrator's.
fn admin_entry(admin: &str) -> Rule {
    jump("CNI firewall plugin admin overrides", admin)
}

/// The rules of an address, and how `iptables` is told of them.
fn own_rules(net: IpNet) -> [(Rule, String); 2] {
    let addr = host_net(net.addr());
    let states = CtStates::RELATED.or(CtStates::ESTABLISHED);
    let answers = Rule {
        destination: Some(Not::is(addr)),
        matches: vec![Match::CtState(Not::is(states))],
        target: Some(Target::Accept),
        ..Rule::default()
    };
    let sent = Rule {
        source: Some(Not::is(addr)),
        target: Some(Target::Accept),
        ..Rule::default()
    };
    let told = format!("-d {addr} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    [(answers, told), (sent, format!("-s {addr} -j ACCEPT"))]
}

// ---- what is done ----

fn add(config: &Config, previous: &CniResult, filter: &mut Filter<'_>) -> Result<(), String> {
    let ingress = policy(&config.ingress);
    for (family, nets) in config.addresses() {
        filter.ensure_chain(family, OWN)?;
        filter.ensure_chain(family, &config.admin)?;
        filter.ensure(family, FORWARD, Some(0), entry())?;
        filter.ensure(family, OWN, Some(0), admin_entry(&config.admin))?;
        for net in nets {
            for (rule, _) in own_rules(net) {
                filter.ensure(family, OWN, None, rule)?;
            }
        }
    }
    let ingress = ingress?;
    if ingress == Ingress::Open {
        return Ok(());
    }
    let bridge = match previous.interfaces.first() {
        None => {
            let name = &config.ingress;
            return Err(format!(
                "interface needs to be set for ingress policy {name:?}, make sure to chain \"firewall\" plugin with \"bridge\""
            ));
        }
        Some(first) if first.name.is_empty() => return Err("got empty bridge name".to_owned()),
        Some(first) => &*first.name,
    };
    for (family, _) in config.addresses() {
        isolate(family, bridge, config, ingress, filter)?;
    }
    Ok(())
}

/// Keeps bridges apart, and with `isolated` the containers of one bridge too.
fn isolate(
    family: Family,
    bridge: &str,
    config: &Config,
    ingress: Ingress,
    filter: &mut Filter<'_>,
) -> Result<(), String> {
    let rule = |policy: &str, inn: bool, out: Option<bool>, target: Target| {
        let text = format!("CNI firewall plugin rules (ingressPolicy: {policy})");
        let device = || Arc::<str>::from(bridge);
        Rule {
            in_interface: inn.then(|| Not::is(device())),
            out_interface: out.map(|negated| Not {
                negated,
                value: device(),
            }),
            matches: vec![Match::Comment(text.into())],
            target: Some(target),
            ..Rule::default()
        }
    };
    let (any, own) = ("same-bridge|isolated", &*config.ingress);
    let to = |chain: &str| Target::Jump(chain.into());
    filter.ensure_chain(family, STAGE_1)?;
    filter.ensure_chain(family, STAGE_2)?;
    let enters = rule(any, false, None, to(STAGE_1));
    filter.ensure(family, FORWARD, Some(0), enters)?;
    let leaves = rule(own, true, Some(true), to(STAGE_2));
    filter.ensure(family, STAGE_1, Some(0), leaves)?;
    if ingress == Ingress::Isolated {
        let stays = rule(own, true, Some(false), Target::Drop);
        filter.ensure(family, STAGE_1, Some(0), stays)?;
    }
    let back = || rule(any, false, None, Target::Return);
    filter.ensure(family, STAGE_1, None, back())?;
    let enters_other = rule(any, false, Some(false), Target::Drop);
    filter.ensure(family, STAGE_2, Some(0), enters_other)?;
    filter.ensure(family, STAGE_2, None, back())
}

/// Errors do not matter: what is gone is gone. The chains stay.
fn delete(config: &Config, filter: &mut Filter<'_>) {
    for (family, nets) in config.addresses() {
        for (rule, _) in nets.into_iter().flat_map(own_rules) {
            let change = Change::DeleteRule {
                family,
                table: Table::Filter,
                chain: OWN.into(),
                rule: Box::new(rule),
            };
            let _ = filter.machine.change(At::Node, &change);
        }
    }
}

fn check(config: &Config, filter: &mut Filter<'_>) -> Result<(), String> {
    let admin = &config.admin;
    for (family, nets) in config.addresses() {
        // The real plugin makes them too, before it looks.
        filter.ensure_chain(family, OWN)?;
        filter.ensure_chain(family, admin)?;
        if !filter.has(family, FORWARD, &entry()) {
            return Err(format!(
                "expected {FORWARD} rule [-m comment --comment CNI firewall plugin rules -j {OWN}] not found"
            ));
        }
        if !filter.has(family, OWN, &admin_entry(admin)) {
            return Err(format!(
                "expected {OWN} rule [-m comment --comment CNI firewall plugin admin overrides -j {admin}] not found"
            ));
        }
        for (rule, told) in nets.into_iter().flat_map(own_rules) {
            if !filter.has(family, OWN, &rule) {
                return Err(format!("expected rule [{told}] not found"));
            }
        }
    }
    Ok(())
}

/// The node's `filter` table.
struct Filter<'a> {
    machine: &'a mut dyn Machine,
}

impl Filter<'_> {
    fn rules(&self, family: Family, chain: &str) -> Option<&[Rule]> {
        let netfilter = self.machine.netns(At::Node)?.netfilter.as_ref()?;
        let tables = &netfilter.rules(family)?.ruleset().tables;
        let chain = tables.get(&Table::Filter)?.chains.get(chain)?;
        Some(&chain.rules)
    }

    fn has(&self, family: Family, chain: &str, rule: &Rule) -> bool {
        self.rules(family, chain)
            .is_some_and(|rules| rules.contains(rule))
    }

    fn change(&mut self, change: &Change) -> Result<(), String> {
        let done = self.machine.change(At::Node, change);
        done.map_err(|e: ConfigError| e.to_string())
    }

    /// Makes a chain unless it is there.
    fn ensure_chain(&mut self, family: Family, chain: &str) -> Result<(), String> {
        if self.rules(family, chain).is_some() {
            return Ok(());
        }
        self.change(&Change::Chain {
            family,
            table: Table::Filter,
            chain: chain.into(),
            policy: None,
        })
    }

    /// Adds a rule unless it is there.
    fn ensure(
        &mut self,
        family: Family,
        chain: &str,
        at: Option<u32>,
        rule: Rule,
    ) -> Result<(), String> {
        if self.has(family, chain, &rule) {
            return Ok(());
        }
        self.change(&Change::Rule {
            family,
            table: Table::Filter,
            chain: chain.into(),
            at,
            rule: Box::new(rule),
        })
    }
}
