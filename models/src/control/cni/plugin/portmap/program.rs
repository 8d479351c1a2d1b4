//! `portmap` as a program: configuration, result of the plugins before it, and what is done to the node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::super::call::{Call, PluginError, Verb};
use super::super::go_json::{Decoder, Spot};
use super::super::ipam::set_sysctl;
use super::super::machine::{At, Machine};
use super::super::masquerade::nat_table;
use super::super::net_conf::NetConf;
use super::super::result::CniResult;
use super::nftables::{self, Wanted};
use super::told;
use super::{
    DNAT, Forwarding, Marking, PortMapping, Snat, chain_name, container_rules, entries, forward,
    unforward,
};
use crate::base::{Family, OriginId, Protocol};
use crate::kernel::netfilter::chain::Match;
use crate::kernel::netfilter::nft::{NftMatch, parse_matches};
use crate::kernel::netfilter::save::{SaveErrorKind, parse_rule};

/// What the plugin reads of its configuration.
#[derive(Debug)]
struct Config {
    net: NetConf,
    previous: Option<CniResult>,
    snat: Snat,
    backend: Backend,
    mappings: Vec<PortMapping>,
    /// The container's addresses, one of each family at most.
    addresses: Vec<IpNet>,
}

/// Who translates, and what only that one is told.
#[derive(Debug)]
enum Backend {
    Iptables {
        marking: Marking,
        conditions: [Vec<Match>; 2],
        /// The conditions as they are written.
        words: [Vec<String>; 2],
    },
    Nftables {
        conditions: [Vec<NftMatch>; 2],
    },
}

/// The configuration before it is checked.
#[derive(Debug, Default)]
struct Raw {
    backend: Option<String>,
    snat: Option<bool>,
    masq_all: bool,
    mark_bit: Option<i64>,
    external: Option<String>,
    conditions: [Vec<String>; 2],
    mappings: Vec<RawMapping>,
}

#[derive(Debug, Default)]
struct RawMapping {
    host_port: Option<i64>,
    container_port: Option<i64>,
    protocol: String,
    host_ip: String,
}

/// Runs the plugin's own code.
pub(in super::super) fn run(
    verb: Verb,
    call: &Call<'_>,
    machine: &mut dyn Machine,
) -> Result<Option<Value>, PluginError> {
    let in_front = |e: String| match verb {
        Verb::Add | Verb::Del => PluginError::internal(format!("failed to parse config: {e}")),
        Verb::Check => PluginError::internal(e),
    };
    let config = Config::load(call).map_err(in_front)?;
    match verb {
        Verb::Add => add(call, &config, machine).map(Some),
        Verb::Check => check(call, &config, machine)
            .map(|()| None)
            .map_err(PluginError::internal),
        Verb::Del => {
            if !config.mappings.is_empty() {
                delete(call, &config, machine).map_err(PluginError::internal)?;
            }
            Ok(None)
        }
    }
}

impl Config {
    fn load(call: &Call<'_>) -> Result<Self, String> {
        let (net, raw) = Raw::load(call.stdin)?;
        let previous = net
            .previous()
            .map_err(|e| format!("could not parse prevResult: {e}"))?;
        if raw.mark_bit.is_some() && raw.external.is_some() {
            return Err("Cannot specify externalSetMarkChain and markMasqBit".to_owned());
        }
        let marking = match (&raw.external, raw.mark_bit) {
            (Some(chain), _) => Marking::Chain(chain.as_str().into()),
            (None, None) => Marking::default(),
            (None, Some(bit)) => match u8::try_from(bit) {
                Ok(bit) if bit <= 31 => Marking::Bit(bit),
                Ok(_) | Err(_) => {
                    return Err("MasqMarkBit must be between 0 and 31".to_owned());
                }
            },
        };
        let backend = raw.backend(marking)?;
        let mappings: Result<_, _> = raw.mappings.iter().map(RawMapping::check).collect();
        Ok(Self {
            addresses: previous
                .as_ref()
                .map_or_else(Vec::new, |result| addresses(result, call.ifname)),
            net,
            previous,
            snat: match (raw.snat, raw.masq_all) {
                (Some(false), _) => Snat::Never,
                (_, true) => Snat::All,
                (_, false) => Snat::Needed,
            },
            backend,
            mappings: mappings?,
        })
    }

    fn forwarding<'a>(
        &'a self,
        call: &Call<'a>,
        marking: &'a Marking,
        conditions: &'a [Match],
    ) -> Forwarding<'a> {
        Forwarding {
            network: &self.net.name,
            container_id: call.container_id,
            mappings: &self.mappings,
            marking,
            snat: self.snat,
            conditions,
            origin: OriginId::NONE,
        }
    }

    fn by_nftables<'a>(&'a self, call: &Call<'a>, conditions: &'a [NftMatch]) -> Wanted<'a> {
        Wanted {
            id: call.container_id,
            mappings: &self.mappings,
            snat: self.snat,
            conditions,
        }
    }
}

/// Of the conditions for each family, those for one.
fn pick<T>([v4, v6]: &[Vec<T>; 2], family: Family) -> &[T] {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

/// The first address of each family that the container's own interface has.
fn addresses(result: &CniResult, ifname: &str) -> Vec<IpNet> {
    let mut found: Vec<IpNet> = Vec::new();
    for ip in &result.ips {
        let of = ip.interface.and_then(|n| result.interfaces.get(n));
        let other = of.is_some_and(|i| i.name != ifname || i.sandbox.is_empty());
        let family = Family::of_net(ip.address);
        if !other && !found.iter().any(|net| Family::of_net(*net) == family) {
            found.push(ip.address);
        }
    }
    found.sort_by_key(|net| net.addr().is_ipv6());
    found
}

fn conditions<T, E>(
    words: &[String],
    read: impl FnOnce(&str) -> Result<Vec<T>, E>,
) -> Result<Vec<T>, String> {
    if words.is_empty() {
        return Ok(Vec::new());
    }
    read(&words.join(" ")).map_err(|_| format!("conditions {words:?} are not modelled"))
}

fn iptables_matches(text: &str) -> Result<Vec<Match>, SaveErrorKind> {
    parse_rule(&format!("-A X {text}")).map(|(_, rule)| rule.matches)
}

/// The back end whose language conditions are in: those of `iptables` begin with a hyphen or an exclamation mark.
fn language(words: &[String]) -> Option<&'static str> {
    match words.first()?.chars().next()? {
        '-' | '!' => Some("iptables"),
        _ => Some("nftables"),
    }
}

impl Raw {
    /// Chooses the back end, and refuses what the other one is told.
    fn backend(&self, marking: Marking) -> Result<Backend, String> {
        let chosen = self.backend.as_deref().unwrap_or("iptables");
        let [v4, v6] = &self.conditions;
        let told = [
            (
                "externalSetMarkChain",
                self.external.as_ref().map(|_| "iptables"),
            ),
            ("conditionsV4", language(v4)),
            ("conditionsV6", language(v6)),
        ];
        let other = if chosen == "iptables" {
            "nftables"
        } else {
            "iptables"
        };
        let wrong = told.iter().filter(|(_, of)| *of == Some(other));
        let wrong: Vec<&str> = wrong.map(|(option, _)| *option).collect();
        if !wrong.is_empty() {
            let wrong = wrong.join(" ");
            return Err(format!(
                "{chosen} backend was requested but configuration contains {other}-specific options [{wrong}]"
            ));
        }
        match chosen {
            "iptables" => Ok(Backend::Iptables {
                marking,
                conditions: [
                    conditions(v4, iptables_matches)?,
                    conditions(v6, iptables_matches)?,
                ],
                words: [v4.clone(), v6.clone()],
            }),
            "nftables" => Ok(Backend::Nftables {
                conditions: [
                    conditions(v4, parse_matches)?,
                    conditions(v6, parse_matches)?,
                ],
            }),
            other => Err(format!("unrecognized backend {other:?}")),
        }
    }

    fn load(stdin: &str) -> Result<(NetConf, Self), String> {
        let mut raw = Self::default();
        let names = [
            "backend",
            "snat",
            "conditionsV4",
            "conditionsV6",
            "masqAll",
            "markMasqBit",
            "externalSetMarkChain",
            "runtimeConfig",
        ];
        let net = NetConf::load(
            stdin,
            ("PortMapConf", "main.PortMapConf"),
            &names,
            |d, name, v, at| match name {
                "backend" => d.optional_string(v, at, &mut raw.backend),
                "snat" => {
                    if !v.is_null() {
                        d.bool(v, at, raw.snat.get_or_insert(true));
                    }
                }
                "conditionsV4" => d.strings(v, at, &mut raw.conditions[0]),
                "conditionsV6" => d.strings(v, at, &mut raw.conditions[1]),
                "masqAll" => d.bool(v, at, &mut raw.masq_all),
                "markMasqBit" => d.int(v, at, &mut raw.mark_bit),
                "externalSetMarkChain" => d.optional_string(v, at, &mut raw.external),
                _ => d.object(v, at, "", "struct", &["portMappings"], |d, _, v, at| {
                    decode_mappings(d, v, at, &mut raw.mappings);
                }),
            },
        );
        let net = net.map_err(|e| format!("failed to parse network configuration: {e}"))?;
        Ok((net, raw))
    }
}

fn decode_mappings(d: &mut Decoder, value: &Value, at: &Spot, into: &mut Vec<RawMapping>) {
    d.array(value, at, "[]main.PortMapEntry", |d, value, at| {
        let mut mapping = RawMapping::default();
        let names = ["hostPort", "containerPort", "protocol", "hostIP"];
        d.object(
            value,
            at,
            "PortMapEntry",
            "main.PortMapEntry",
            &names,
            |d, name, v, at| match name {
                "hostPort" => d.int(v, at, &mut mapping.host_port),
                "containerPort" => d.int(v, at, &mut mapping.container_port),
                "protocol" => d.string(v, at, &mut mapping.protocol),
                _ => d.string(v, at, &mut mapping.host_ip),
            },
        );
        into.push(mapping);
    });
}

impl RawMapping {
    /// # Fidelity
    /// A port beyond 65535 and an unknown protocol are refused here; the real plugin leaves that to `iptables`.
    fn check(&self) -> Result<PortMapping, String> {
        let port = |what: &str, port: Option<i64>| {
            let port = port.unwrap_or(0);
            let number = u16::try_from(port).ok().filter(|port| *port != 0);
            number.ok_or_else(|| format!("Invalid {what} port number: {port}"))
        };
        let container_port = port("container", self.container_port)?;
        let host_port = port("host", self.host_port)?;
        let protocol = match self.protocol.to_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("unknown protocol {other:?}")),
        };
        Ok(PortMapping {
            host_port,
            container_port,
            protocol,
            host_ip: self.host_ip.parse().ok(),
        })
    }
}

fn add(call: &Call<'_>, config: &Config, machine: &mut dyn Machine) -> Result<Value, PluginError> {
    let chained = || PluginError::internal("must be called as chained plugin");
    let previous = config.previous.as_ref().ok_or_else(chained)?;
    let addresses = config
        .addresses
        .iter()
        .filter(|_| !config.mappings.is_empty());
    for address in addresses {
        map_ports(*address, call, config, machine).map_err(PluginError::internal)?;
        if address.addr().is_ipv4() && config.snat != Snat::Never {
            route_localnet(address.addr(), machine);
        }
    }
    config.net.print(previous)
}

fn map_ports(
    address: IpNet,
    call: &Call<'_>,
    config: &Config,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let family = Family::of_net(address);
    match &config.backend {
        Backend::Iptables {
            marking,
            conditions,
            ..
        } => {
            let wanted = config.forwarding(call, marking, pick(conditions, family));
            let edit = forward(&nat_table(machine, family), address, &wanted);
            machine
                .edit_nat(family, edit)
                .map_err(|e| format!("unable to setup DNAT: {e}"))
        }
        Backend::Nftables { conditions } => {
            let wanted = config.by_nftables(call, pick(conditions, family));
            nftables::forward(address, wanted, machine)
        }
    }
}

/// Lets packets from 127.0.0.0/8 out of the device that leads to the container.
fn route_localnet(container: IpAddr, machine: &mut dyn Machine) {
    let found = machine.netns(At::Node).and_then(|node| {
        let dev = node.fib.lookup(container)?.dev?;
        Some(Arc::clone(&node.device(dev)?.name))
    });
    if let Some(dev) = found {
        let name = format!("net.ipv4.conf.{dev}.route_localnet");
        set_sysctl(machine, At::Node, &name, 1);
    }
}

fn delete(call: &Call<'_>, config: &Config, machine: &mut dyn Machine) -> Result<(), String> {
    match &config.backend {
        Backend::Iptables { .. } => {
            let chain = chain_name(&config.net.name, call.container_id);
            for family in Family::ALL {
                let table = nat_table(machine, family);
                if !table.chains.is_empty() {
                    // Whatever led to the chain is gone with it.
                    let _ = machine.edit_nat(family, unforward(&table, &chain));
                }
            }
            Ok(())
        }
        Backend::Nftables { .. } => nftables::unforward(call.container_id, machine),
    }
}

fn check(call: &Call<'_>, config: &Config, machine: &dyn Machine) -> Result<(), String> {
    if config.previous.is_none() {
        return Err("Required prevResult missing".to_owned());
    }
    let addresses = config
        .addresses
        .iter()
        .filter(|_| !config.mappings.is_empty());
    for address in addresses {
        let family = Family::of_net(*address);
        match &config.backend {
            Backend::Iptables {
                marking,
                conditions,
                words,
            } => {
                let wanted = config.forwarding(call, marking, pick(conditions, family));
                let name = match family {
                    Family::V4 => "ipv4",
                    Family::V6 => "ipv6",
                };
                chain_as_made(*address, &wanted, pick(words, family), machine)
                    .map_err(|e| format!("could not check {name} dnat: {e}"))?;
            }
            Backend::Nftables { conditions } => {
                let wanted = config.by_nftables(call, pick(conditions, family));
                nftables::check(*address, wanted, machine)?;
            }
        }
    }
    Ok(())
}

fn chain_as_made(
    address: IpNet,
    wanted: &Forwarding<'_>,
    words: &[String],
    machine: &dyn Machine,
) -> Result<(), String> {
    let table = nat_table(machine, Family::of_net(address));
    let own = chain_name(wanted.network, wanted.container_id);
    let missing = || format!("chain {own} not found in iptables table nat");
    let chain = table.chains.get(&own).ok_or_else(missing)?;
    let mut rules = wanted.mappings.iter();
    let complete = rules.all(|mapping| {
        let rules = container_rules(address, mapping, wanted);
        rules.iter().all(|rule| chain.rules.contains(rule))
    });
    if !complete {
        let rules = told::container_rules(address, wanted);
        return Err(format!(
            "rule {rules} in chain {own} not found in table nat"
        ));
    }
    let entered = table.chains.get(DNAT);
    let entered = |rule| entered.is_some_and(|chain| chain.rules.contains(rule));
    if !entries(&own, wanted).iter().all(entered) {
        let rules = told::entries(wanted, words);
        return Err(format!(
            "rule {rules} in chain {DNAT} not found in table nat"
        ));
    }
    Ok(())
}
