//! Random tables of nftables beside random rules of iptables: both kernels run the same chains in the same order, and
//! print the same ruleset.

use podwire_models::base::Family;
use podwire_models::kernel::netfilter::chain::{ChainPolicy, Hook};
use podwire_models::kernel::netfilter::nft::{
    Base, BaseKind, NftCommand, NftFamily, NftRule, TableId,
};

use super::cases::Case;
use super::fuzz;
use super::generate::{self, Draw, NETS_V4, NETS_V6};

/// Priorities of chains of type filter; that of connection tracking itself is left out, since there it matters which rule
/// was the first to need it.
const PRIORITIES: &[i32] = &[
    -310, -300, -250, -199, -150, -100, -99, -5, 0, 5, 50, 99, 100, 101, 300,
];

const DEVICES: &[&str] = &["a0", "b0", "lo", "a*", "nosuch"];
const PORTS: &[&str] = &["53", "80", "1000", "1000-1001", "0-1023", "8080"];

/// The families of a packet's addresses that a table sees.
fn families(table: NftFamily) -> &'static [Family] {
    match table {
        NftFamily::Ip => &[Family::V4],
        NftFamily::Ip6 => &[Family::V6],
        NftFamily::Inet | NftFamily::Bridge => &Family::ALL,
    }
}

/// What all conditions of a rule must agree on, or `nft` refuses it.
#[derive(Clone, Copy)]
struct About {
    family: Family,
    l4: &'static str,
}

/// Only the first condition of a rule may be turned round: `nft` 1.0.6 makes one comparison of two such neighbours.
fn condition(draw: &mut Draw, about: About, first: bool) -> String {
    let not = if first && draw.percent(25) { "!= " } else { "" };
    let end = draw.of(&["s", "d"]);
    match draw.below(10) {
        0..4 => {
            let (word, nets) = match about.family {
                Family::V4 => ("ip", NETS_V4),
                Family::V6 => ("ip6", NETS_V6),
            };
            format!("{word} {end}addr {not}{}", draw.of(nets))
        }
        4..7 => format!("{} {end}port {not}{}", about.l4, draw.of(PORTS)),
        7 => {
            let kind = draw.of(&["local", "unicast", "multicast"]);
            format!("fib {end}addr type {not}{kind}")
        }
        8 => format!("iifname {not}{}", draw.of(DEVICES)),
        _ => format!("oifname {not}{}", draw.of(DEVICES)),
    }
}

fn verdict(draw: &mut Draw, table: NftFamily, base: Base, below: &[String]) -> String {
    if base.kind == BaseKind::Nat && draw.percent(70) {
        let to = match (base.hook, table) {
            (Hook::Postrouting, _) => return "masquerade".to_owned(),
            (Hook::Prerouting | Hook::Output, NftFamily::Ip) => {
                Some(["10.2.0.3", "10.1.0.3:80", "10.2.0.1:53", "10.2.0.2:8080"])
            }
            (Hook::Prerouting | Hook::Output, NftFamily::Ip6) => {
                Some(["fd02::3", "[fd01::3]:80", "[fd02::1]:53", "[fd02::2]:8080"])
            }
            (_, _) => None,
        };
        if let Some(to) = to {
            return format!("dnat to {}", draw.of(&to));
        }
    }
    match draw.below(8) {
        0..2 => "accept".to_owned(),
        2 => "drop".to_owned(),
        3 => "return".to_owned(),
        _ if below.is_empty() => "return".to_owned(),
        4..7 => format!("jump {}", below[draw.below(below.len())]),
        _ => format!("goto {}", below[draw.below(below.len())]),
    }
}

fn rules(draw: &mut Draw, table: NftFamily, base: Base, below: &[String]) -> Vec<NftRule> {
    let mut rules = Vec::new();
    for n in 0..draw.below(4) {
        let mut words: Vec<String> = Vec::new();
        let about = About {
            family: draw.of(families(table)),
            l4: draw.of(&["tcp", "udp", "sctp"]),
        };
        for n in 0..draw.below(3) {
            words.push(condition(draw, about, n == 0));
        }
        let verdict = verdict(draw, table, base, below);
        if verdict.starts_with("dnat") {
            // A port is only translated where the protocol is known.
            words.push(format!("{} dport 0-9998", about.l4));
        }
        // `nft` brings the fields of a header together, in their order there: source before destination.
        words.sort();
        words.reverse();
        words.push(verdict);
        let rule: NftRule = words.join(" ").parse().unwrap();
        rules.push(match n {
            0 => rule.with_comment("a comment, long: enough"),
            _ => rule,
        });
    }
    rules
}

fn base(draw: &mut Draw) -> Base {
    let hook = draw.of(&Hook::ALL);
    let kind = if draw.percent(50) && hook != Hook::Forward {
        BaseKind::Nat
    } else {
        BaseKind::Filter
    };
    let priority = match (kind, hook) {
        (BaseKind::Filter, _) => draw.of(PRIORITIES),
        (BaseKind::Nat, Hook::Prerouting | Hook::Output) => draw.of(&[-110, -100, -100, -90]),
        (BaseKind::Nat, Hook::Input | Hook::Forward | Hook::Postrouting) => {
            draw.of(&[90, 100, 100, 110])
        }
    };
    let policy = if draw.percent(4) {
        ChainPolicy::Drop
    } else {
        ChainPolicy::Accept
    };
    Base {
        kind,
        hook,
        priority,
        policy,
    }
}

/// Makes a table: base chains, and below each of them two others.
fn table(draw: &mut Draw, id: &TableId) -> Vec<NftCommand> {
    let mut commands = vec![NftCommand::AddTable {
        table: id.clone(),
        comment: draw.percent(50).then(|| "of a test".into()),
    }];
    for n in 0..=draw.below(4) {
        let base = base(draw);
        let mut below: Vec<String> = Vec::new();
        for name in [format!("c{n}-2"), format!("c{n}-1"), format!("c{n}")] {
            let outermost = below.len() == 2;
            commands.push(NftCommand::AddChain {
                table: id.clone(),
                chain: name.as_str().into(),
                base: outermost.then_some(base),
                comment: draw.percent(10).then(|| "here too".into()),
            });
            commands.push(NftCommand::SetRules {
                table: id.clone(),
                chain: name.as_str().into(),
                rules: rules(draw, id.family, base, &below),
            });
            below.push(name);
        }
    }
    commands
}

fn both_back_ends(draw: &mut Draw) -> Case {
    let mut case = generate::rules(draw);
    if draw.percent(30) {
        // Alone, so that nothing of iptables decides first.
        case.rules = String::new();
    }
    // What an ICMP error about an untracked packet is called differs, with nftables or without.
    let lines = case
        .rules
        .lines()
        .filter(|line| !line.contains("--notrack"));
    case.rules = lines.map(|line| format!("{line}\n")).collect();
    let own = TableId::new(NftFamily::of(case.family), "own");
    let both = TableId::new(NftFamily::Inet, "both");
    case.nft = [table(draw, &own), table(draw, &both)].concat();
    case
}

#[test]
fn random_tables_of_nftables() {
    if !super::kernel_is_there() {
        return;
    }
    if std::process::Command::new("nft")
        .arg("-v")
        .output()
        .is_err()
    {
        assert!(
            super::variable("PODWIRE_REQUIRE_ALL").is_none(),
            "there is no nft"
        );
        println!("skipped: there is no nft");
        return;
    }
    let how_much = fuzz::random_cases("nft", [100, 600], both_back_ends);
    super::referee::checked("nft-packets", &how_much);
}
