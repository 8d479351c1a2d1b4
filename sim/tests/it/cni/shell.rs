//! The commands that set a recorded case up, and those of its SHELL steps: `ip`, `bridge`, `sysctl`, `iptables`.

use std::sync::Arc;

use podwire_models::base::{Family, Mac, OriginId};
use podwire_models::cluster::Cluster;
use podwire_models::kernel::config::{Change, NewLink, NewLinkKind, NewRoute, RouteKind};
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::netfilter::chain::Table;
use podwire_models::kernel::netfilter::save::parse_rule;
use podwire_models::wire::NetnsId;

/// Carries out a line; commands are separated by semicolons.
pub(crate) fn run(cluster: &mut Cluster, ns: NetnsId, line: &str) {
    for command in line.split(';').map(str::trim) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let done = match words.as_slice() {
            ["ip", "-6", rest @ ..] | ["ip", rest @ ..] => ip(cluster, ns, rest),
            ["bridge", "fdb", rest @ ..] => fdb(cluster, ns, rest),
            ["sysctl", "-qw", setting] => {
                let (name, value) = setting.split_once('=').unwrap();
                let name = name.replace('/', ".");
                // A name with slashes may have dots in a device's name.
                let change = Change::Sysctl {
                    name: name.as_str().into(),
                    value: value.parse().unwrap(),
                };
                cluster.configure(ns, &change).map_err(|e| e.to_string())
            }
            ["iptables", rest @ ..] => iptables(cluster, ns, rest, command),
            other => Err(format!("unknown command {other:?}")),
        };
        done.unwrap_or_else(|e| panic!("{command}: {e}"));
    }
}

/// The word after another one.
fn after<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    let at = words.iter().position(|w| *w == key)?;
    words.get(at + 1).copied()
}

fn dev_of(words: &[&str]) -> Arc<str> {
    after(words, "dev").unwrap().into()
}

fn ip(cluster: &mut Cluster, ns: NetnsId, words: &[&str]) -> Result<(), String> {
    let change = match words {
        ["link", "set", dev, "up"] => Change::SetUp {
            dev: (*dev).into(),
            up: true,
        },
        ["link", "set", dev, "down"] => Change::SetUp {
            dev: (*dev).into(),
            up: false,
        },
        ["link", "set", dev, "mtu", mtu] => Change::SetMtu {
            dev: (*dev).into(),
            mtu: mtu.parse().unwrap(),
        },
        ["link", "del", dev] => Change::DeleteLink { dev: (*dev).into() },
        ["link", "add", name, rest @ ..] => Change::AddLink(NewLink {
            name: (*name).into(),
            mac: after(rest, "address").map(|mac| mac.parse().unwrap()),
            mtu: after(rest, "mtu").map_or(1500, |mtu| mtu.parse().unwrap()),
            kind: match after(rest, "type").unwrap() {
                "bridge" => NewLinkKind::Bridge,
                "dummy" => NewLinkKind::Dummy,
                "vxlan" => NewLinkKind::Vxlan {
                    vni: after(rest, "id").unwrap().parse().unwrap(),
                    local: after(rest, "local").unwrap().parse().unwrap(),
                    dstport: after(rest, "dstport").unwrap().parse().unwrap(),
                    dev: after(rest, "dev").map(Arc::from),
                    learning: !rest.contains(&"nolearning"),
                },
                other => return Err(format!("unknown type {other}")),
            },
        }),
        ["addr", "add", net, rest @ ..] => Change::AddAddr {
            dev: dev_of(rest),
            net: net.parse().unwrap(),
            scope: Scope::Global,
            origin: OriginId::NONE,
        },
        ["addr", "del", net, rest @ ..] => Change::DeleteAddr {
            dev: dev_of(rest),
            net: net.parse().unwrap(),
        },
        ["route", "add" | "replace", dst, rest @ ..] => {
            let gateway = after(rest, "via").map(|via| via.parse().unwrap());
            let dst = match (*dst, gateway) {
                ("default", Some(std::net::IpAddr::V6(_))) => Family::V6.any(),
                ("default", _) => Family::V4.any(),
                (net, _) => net.parse().unwrap(),
            };
            Change::AddRoute(NewRoute {
                kind: RouteKind::Unicast,
                dst,
                gateway,
                dev: after(rest, "dev").map(Arc::from),
                src: None,
                metric: 0,
                scope: if gateway.is_some() {
                    Scope::Global
                } else {
                    Scope::Link
                },
                onlink: rest.contains(&"onlink"),
                mtu: None,
                origin: OriginId::NONE,
            })
        }
        ["route", "del", dst, ..] => Change::DeleteRoute {
            dst: dst.parse().unwrap(),
            dev: None,
            metric: 0,
        },
        ["neigh", "replace", addr, rest @ ..] => Change::SetNeighbour {
            dev: dev_of(rest),
            addr: addr.parse().unwrap(),
            mac: after(rest, "lladdr").unwrap().parse().unwrap(),
            origin: OriginId::NONE,
        },
        ["neigh", "del", addr, rest @ ..] => Change::DeleteNeighbour {
            dev: dev_of(rest),
            addr: addr.parse().unwrap(),
        },
        other => return Err(format!("unknown command {other:?}")),
    };
    cluster.configure(ns, &change).map_err(|e| e.to_string())
}

fn fdb(cluster: &mut Cluster, ns: NetnsId, words: &[&str]) -> Result<(), String> {
    let (op, mac): (&str, Mac) = (words[0], words[1].parse().unwrap());
    let dev = dev_of(words);
    let change = match op {
        "replace" | "append" | "add" => Change::AddFdb {
            dev,
            mac,
            dst: after(words, "dst").unwrap().parse().unwrap(),
        },
        "del" => Change::DeleteFdb { dev, mac },
        other => return Err(format!("unknown command {other}")),
    };
    cluster.configure(ns, &change).map_err(|e| e.to_string())
}

fn iptables(cluster: &mut Cluster, ns: NetnsId, words: &[&str], line: &str) -> Result<(), String> {
    let table = match after(words, "-t") {
        Some("nat") => Table::Nat,
        Some("mangle") => Table::Mangle,
        Some("raw") => Table::Raw,
        _ => Table::Filter,
    };
    let family = Family::V4;
    let netns = cluster.netns_mut(ns).unwrap();
    let done = if let Some(chain) = after(words, "-N") {
        netns.add_chain(family, table, &chain.into(), None)
    } else if words.contains(&"-F") {
        let rules = netns.netfilter.as_ref().and_then(|n| n.rules(family));
        let tables = rules.map(|rules| rules.ruleset().tables.clone());
        let chains = tables.and_then(|mut tables| tables.remove(&table));
        let names: Vec<Arc<str>> = chains
            .into_iter()
            .flat_map(|t| t.chains.into_keys())
            .collect();
        let empty = names.into_iter().map(|name| (name, Vec::new()));
        netns.replace_chains(family, table, empty, &[])
    } else {
        let at = line.find("-A ").unwrap();
        let (chain, rule) = parse_rule(&line[at..]).map_err(|e| format!("{e:?}"))?;
        netns.add_rule(family, table, &chain.as_str().into(), None, rule)
    };
    done.map_err(|e| e.to_string())
}
