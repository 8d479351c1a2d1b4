//! The commands that set a recorded case up, and those of its SHELL steps: `ip`, `bridge`, `sysctl`, `iptables`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwire_models::base::addr::host_net;
use podwire_models::base::{Family, Mac, OriginId};
use podwire_models::cluster::Cluster;
use podwire_models::kernel::config::{Change, NewLink, NewLinkKind, NewRoute, RouteKind};
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::netfilter::chain::{ChainPolicy, Table};
use podwire_models::kernel::netfilter::save::parse_rule;
use podwire_models::wire::NetnsId;

/// Carries out a line; commands are separated by semicolons.
pub(crate) fn run(cluster: &mut Cluster, ns: NetnsId, line: &str) -> Result<(), String> {
    for command in line.split(';').map(str::trim) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let done = match words.as_slice() {
            ["ip", "-6" | "-4", rest @ ..] | ["ip", rest @ ..] => {
                let family = if words.contains(&"-6") {
                    Family::V6
                } else {
                    Family::V4
                };
                ip(cluster, ns, family, rest)
            }
            ["bridge", "fdb", rest @ ..] => fdb(cluster, ns, rest),
            ["sysctl", flag, setting] if flag.starts_with('-') => {
                let (name, value) = setting.split_once('=').unwrap();
                let change = Change::Sysctl {
                    name: name.replace('/', ".").as_str().into(),
                    value: value.parse().unwrap(),
                };
                cluster.configure(ns, &change).map_err(|e| e.to_string())
            }
            ["iptables", rest @ ..] => iptables(cluster, ns, Family::V4, rest, command),
            ["ip6tables", rest @ ..] => iptables(cluster, ns, Family::V6, rest, command),
            other => Err(format!("unknown command {other:?}")),
        };
        done.map_err(|e| format!("{command}: {e}"))?;
    }
    Ok(())
}

/// The word after another one.
fn after<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    let at = words.iter().position(|w| *w == key)?;
    words.get(at + 1).copied()
}

fn dev_of(words: &[&str]) -> Arc<str> {
    after(words, "dev").unwrap().into()
}

fn default_or(dst: &str, family: Family) -> IpNet {
    match dst {
        "default" => family.any(),
        net => net
            .parse()
            .unwrap_or_else(|_| host_net(net.parse().unwrap())),
    }
}

/// `ip link set`: one or more settings of a device.
fn link_set(cluster: &mut Cluster, ns: NetnsId, words: &[&str]) -> Result<(), String> {
    let words = words.strip_prefix(&["dev"]).unwrap_or(words);
    let dev: Arc<str> = words[0].into();
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        let dev = Arc::clone(&dev);
        let change = match *word {
            "up" => Change::SetUp { dev, up: true },
            "down" => Change::SetUp { dev, up: false },
            "mtu" => Change::SetMtu {
                dev,
                mtu: rest.next().unwrap().parse().unwrap(),
            },
            "address" => Change::SetMac {
                dev,
                mac: rest.next().unwrap().parse().unwrap(),
            },
            "promisc" => Change::SetPromisc {
                dev,
                on: *rest.next().unwrap() == "on",
            },
            "master" => Change::SetMaster {
                dev,
                master: Some((*rest.next().unwrap()).into()),
            },
            "nomaster" => Change::SetMaster { dev, master: None },
            other => return Err(format!("unknown setting {other}")),
        };
        cluster.configure(ns, &change).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// `ip addr flush`: every address of a device but those the kernel makes.
fn flush(cluster: &mut Cluster, ns: NetnsId, dev: &Arc<str>) -> Result<(), String> {
    loop {
        let netns = cluster.netns(ns).unwrap();
        let device = netns.device_named(dev).ok_or("no such device")?;
        let Some(addr) = device.addrs.first() else {
            return Ok(());
        };
        let delete = Change::DeleteAddr {
            dev: Arc::clone(dev),
            net: addr.net,
        };
        cluster.configure(ns, &delete).map_err(|e| e.to_string())?;
    }
}

fn ip(cluster: &mut Cluster, ns: NetnsId, family: Family, words: &[&str]) -> Result<(), String> {
    let change = match words {
        ["link", "set", rest @ ..] => return link_set(cluster, ns, rest),
        ["addr" | "address", "flush", rest @ ..] => return flush(cluster, ns, &dev_of(rest)),
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
        ["addr" | "address", "add", net, rest @ ..] => Change::AddAddr {
            dev: dev_of(rest),
            net: net.parse().unwrap(),
            scope: Scope::Global,
            origin: OriginId::NONE,
        },
        ["addr" | "address", "del", net, rest @ ..] => Change::DeleteAddr {
            dev: dev_of(rest),
            net: net.parse().unwrap(),
        },
        ["route", "add" | "replace", dst, rest @ ..] => {
            let gateway: Option<IpAddr> = after(rest, "via").map(|via| via.parse().unwrap());
            let dst = default_or(dst, gateway.map_or(family, Family::of));
            Change::AddRoute(NewRoute {
                kind: RouteKind::Unicast,
                dst,
                gateway,
                dev: after(rest, "dev").map(Arc::from),
                src: after(rest, "src").map(|src| src.parse().unwrap()),
                metric: after(rest, "metric").map_or(0, |metric| metric.parse().unwrap()),
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
        ["route", "del", dst, rest @ ..] => {
            let dst = default_or(dst, family);
            let dev = after(rest, "dev").map(Arc::from);
            let known = cluster.netns(ns).unwrap().fib.main(Family::of_net(dst));
            let metric = known.iter().find(|r| r.dst == dst).map_or(0, |r| r.metric);
            Change::DeleteRoute { dst, dev, metric }
        }
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

fn iptables(
    cluster: &mut Cluster,
    ns: NetnsId,
    family: Family,
    words: &[&str],
    line: &str,
) -> Result<(), String> {
    let table = match after(words, "-t") {
        Some("nat") => Table::Nat,
        Some("mangle") => Table::Mangle,
        Some("raw") => Table::Raw,
        _ => Table::Filter,
    };
    let netns = cluster.netns_mut(ns).unwrap();
    let done = if let Some(chain) = after(words, "-N") {
        netns.add_chain(family, table, &chain.into(), None)
    } else if let Some(chain) = after(words, "-P") {
        let policy = if words.last() == Some(&"DROP") {
            ChainPolicy::Drop
        } else {
            ChainPolicy::Accept
        };
        netns.add_chain(family, table, &chain.into(), Some(policy))
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
        let inserts = line.contains(" -I ");
        let text = line.replacen(" -I ", " -A ", 1).replacen(" -D ", " -A ", 1);
        let at = text.find("-A ").ok_or("unknown command")?;
        let (chain, rule) = parse_rule(&text[at..]).map_err(|e| format!("{e:?}"))?;
        let chain = chain.as_str().into();
        if line.contains(" -D ") {
            netns.delete_rule(family, table, &chain, &rule)
        } else {
            netns.add_rule(family, table, &chain, inserts.then_some(0), rule)
        }
    };
    done.map_err(|e| e.to_string())
}
