//! What `iptables-save` prints can be read back, to the last character.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use podwire_models::base::Family;
use podwire_models::kernel::netfilter::chain::*;
use podwire_models::kernel::netfilter::save;
use podwire_models::wire::{IcmpError, L4};
use proptest::prelude::*;

fn assert_identity(text: &str, what: &str) {
    let family = if text.contains("ip6tables") || text.contains("fd00") || text.contains("::") {
        Family::V6
    } else {
        Family::V4
    };
    let rules: Ruleset = text.parse().unwrap_or_else(|e| panic!("{what}: {e}"));
    let printed = rules.save(family);
    let plain = text.lines().filter(|line| !line.starts_with('#'));
    let plain: Vec<&str> = plain.map(str::trim_end).collect();
    similar(&plain.join("\n"), &printed, what);
}

fn similar(expected: &str, found: &str, what: &str) {
    for (n, (e, f)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(e, f, "{what}, line {}", n + 1);
    }
    assert_eq!(expected.lines().count(), found.lines().count(), "{what}");
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.file_name().is_some_and(|n| {
            n.to_string_lossy().contains("tables-save")
                && path.extension().is_some_and(|e| e == "txt")
        }) {
            found.push(path);
        }
    }
}

#[test]
fn recorded_dumps_print_as_they_were_read() {
    let root = std::env::var("PODWIRE_ORACLE").map_or_else(
        |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle"),
        PathBuf::from,
    );
    let mut found = Vec::new();
    files(&root, &mut found);
    if found.is_empty() {
        println!("skipped: no recorded dumps in {}", root.display());
        return;
    }
    found.sort();
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_identity(&text, &path.display().to_string());
    }
}

#[test]
fn every_match_and_target_prints_as_the_tool_does() {
    let text = "\
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -m rpfilter --validmark --invert -j DROP
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A POSTROUTING -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p udp -m udp --sport 1:1024 ! --dport 53 -j CT --notrack
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:MINE - [0:0]
-A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A INPUT -p icmp -m icmp ! --icmp-type 3/4 -j REJECT --reject-with icmp-admin-prohibited
-A INPUT -s 10.0.0.0/8 ! -i eth0 -p tcp -m comment --comment \"x y\" -m tcp --dport 80 -g MINE
-A INPUT -m comment --comment plain -j LOG --log-prefix \"it\\'s: \"
-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT
-A FORWARD ! -o cni+ -m addrtype ! --dst-type LOCAL --limit-iface-in -j RETURN
-A FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP
-A FORWARD -m connmark ! --mark 0x1 -j REJECT --reject-with tcp-reset
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 10.96.0.1/32 -p tcp -m multiport ! --dports 80,443,1000:2000 -j DNAT --to-destination 10.0.0.1-10.0.0.9:80-90 --random --persistent
-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080 --random
-A POSTROUTING -m statistic --mode random ! --probability 0.33333333349 -j SNAT --to-source 192.168.50.1:1000-2000 --random-fully
-A POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE --to-ports 1024-65535 --random-fully
COMMIT
";
    let rules: Ruleset = text.parse().unwrap();
    similar(text, &rules.save(Family::V4), "all of them");
}

#[test]
fn errors_name_the_line() {
    let error = |text: &str| text.parse::<Ruleset>().unwrap_err().to_string();
    assert_eq!(error("*filter\n-A X"), "line 2: chain `X` was not declared");
    assert_eq!(
        error("\n-A X"),
        "line 2: no table was named before this line"
    );
    assert_eq!(
        error("*nat\n:X - [0:0]\n-A X -m set --match-set a src"),
        "line 3: `set` is not known"
    );
}

#[test]
fn probabilities_are_those_of_the_kernel() {
    let facts = [
        (2, 1_073_741_824, "0.50000000000"),
        (3, 715_827_883, "0.33333333349"),
        (4, 536_870_912, "0.25000000000"),
        (5, 429_496_730, "0.20000000019"),
        (6, 357_913_941, "0.16666666651"),
        (7, 306_783_378, "0.14285714272"),
        (8, 268_435_456, "0.12500000000"),
        (9, 238_609_294, "0.11111111101"),
        (10, 214_748_365, "0.10000000009"),
        (11, 195_225_786, "0.09090909082"),
        (100, 21_474_836, "0.00999999978"),
        (1000, 2_147_484, "0.00100000016"),
    ];
    for (n, stored, saved) in facts {
        let p = Probability::one_of(n);
        assert_eq!(p.0, stored, "1/{n}");
        assert_eq!(p.ratio().to_string(), format!("1/{n}"));
        let rule = Rule {
            matches: vec![Match::Random(Not::is(p))],
            ..Rule::default()
        };
        let line = save::rule_line("X", &rule, Family::V4);
        assert!(line.ends_with(saved), "{line}");
    }
    assert_eq!(Probability(5).ratio().to_string(), "5/2147483648");
}

// ---- random rules ----

fn not<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Not<T>> {
    (any::<bool>(), value).prop_map(|(negated, value)| Not { negated, value })
}

fn name() -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(vec!["eth0", "cni+", "veth12ab", "flannel.1"]).prop_map(Arc::from)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    prop::collection::vec(
        prop::sample::select("ab Z09-_\"'\\:/#!->".chars().collect::<Vec<_>>()),
        1..12,
    )
    .prop_map(|chars| chars.into_iter().collect::<String>().into())
}

fn ports() -> impl Strategy<Value = PortRange> {
    (any::<u16>(), any::<u16>()).prop_map(|(a, b)| PortRange {
        first: a.min(b),
        last: a.max(b),
    })
}

fn net() -> impl Strategy<Value = ipnet::IpNet> {
    (any::<u32>(), 0_u8..=32).prop_map(|(bits, len)| {
        ipnet::IpNet::V4(ipnet::Ipv4Net::new(bits.into(), len).unwrap().trunc())
    })
}

fn mark() -> impl Strategy<Value = MarkMask> {
    (any::<u32>(), prop_oneof![Just(u32::MAX), any::<u32>()])
        .prop_map(|(value, mask)| MarkMask { value, mask })
}

fn random() -> impl Strategy<Value = NatRandom> {
    prop::sample::select(vec![
        NatRandom::No,
        NatRandom::Random,
        NatRandom::RandomFully,
    ])
}

fn a_match() -> impl Strategy<Value = Match> {
    let opt = |s| prop::option::of(s);
    prop_oneof![
        text().prop_map(Match::Comment),
        (
            opt(not(ports())),
            opt(not(ports())),
            prop::option::of(not((0_u8..0x40, 0_u8..0x40)))
        )
            .prop_map(|(sport, dport, flags)| Match::Tcp {
                sport,
                dport,
                flags
            }),
        (opt(not(ports())), opt(not(ports())))
            .prop_map(|(sport, dport)| Match::Udp { sport, dport }),
        not((any::<u8>(), prop::option::of(any::<u8>()))).prop_map(Match::Icmp),
        not(prop::collection::vec(ports(), 1..4)).prop_map(|ports| Match::Multiport {
            end: PortEnd::Either,
            ports
        }),
        not(mark()).prop_map(Match::Mark),
        not(mark()).prop_map(Match::Connmark),
        not((1_u16..16).prop_map(CtStates)).prop_map(Match::CtState),
        not(ports()).prop_map(Match::CtOrigDstPort),
        not(net()).prop_map(Match::CtOrigDst),
        (prop::option::of(not(Just(AddrType::Local))), any::<bool>()).prop_map(
            |(src, limit_in)| {
                Match::AddrType {
                    src,
                    dst: Some(Not::is(AddrType::Unicast)),
                    limit_in,
                }
            }
        ),
        not((0_u32..=1 << 31).prop_map(Probability)).prop_map(Match::Random),
        (any::<bool>(), prop::option::of(any::<u32>()), any::<bool>()).prop_map(
            |(negated, seconds, reap)| Match::Recent {
                name: "KUBE-SEP-X".into(),
                op: Not {
                    negated,
                    value: RecentOp::Update
                },
                seconds,
                reap
            }
        ),
        (
            prop::option::of(not(name())),
            prop::option::of(not(Just(())))
        )
            .prop_map(|(inn, is_bridged)| Match::Physdev {
                inn,
                out: None,
                is_bridged
            }),
        text().prop_map(Match::Nfacct),
    ]
}

fn nat_range() -> impl Strategy<Value = NatRange> {
    let parts = (
        any::<u32>(),
        0_u32..5,
        prop::option::of(ports()),
        random(),
        any::<bool>(),
    );
    parts.prop_map(|(bits, more, ports, random, persistent)| NatRange {
        addrs: Some((
            std::net::Ipv4Addr::from(bits).into(),
            std::net::Ipv4Addr::from(bits.saturating_add(more)).into(),
        )),
        ports,
        random,
        persistent,
    })
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::Accept),
        Just(Target::Drop),
        Just(Target::Return),
        Just(Target::Jump("OWN".into())),
        Just(Target::Goto("OWN".into())),
        Just(Target::Reject(RejectWith::Icmp(IcmpError::HostProhibited))),
        Just(Target::Reject(RejectWith::TcpReset)),
        mark().prop_map(Target::Mark),
        mark().prop_map(|m| Target::Connmark(ConnmarkOp::Set(m))),
        (any::<u32>(), any::<u32>())
            .prop_map(|(nfmask, ctmask)| Target::Connmark(ConnmarkOp::Restore { nfmask, ctmask })),
        nat_range().prop_map(Target::Dnat),
        nat_range().prop_map(Target::Snat),
        (prop::option::of(ports()), random())
            .prop_map(|(ports, random)| Target::Masquerade { ports, random }),
        (prop::option::of(ports()), random())
            .prop_map(|(ports, random)| Target::Redirect { ports, random }),
        Just(Target::Notrack),
        prop::option::of(text()).prop_map(|prefix| Target::Log { prefix }),
        prop::option::of(any::<u16>()).prop_map(Target::Tcpmss),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let protocol = prop::sample::select(vec![L4::Tcp, L4::Udp, L4::Sctp, L4::Icmp]);
    (
        prop::option::of(not(net())),
        prop::option::of(not(net())),
        prop::option::of(not(name())),
        prop::option::of(not(name())),
        prop::option::of(not(protocol)),
        prop::collection::vec(a_match(), 0..4),
        prop::option::of(target()),
    )
        .prop_map(
            |(source, destination, in_interface, out_interface, protocol, matches, target)| Rule {
                source,
                destination,
                in_interface,
                out_interface,
                protocol,
                matches,
                target,
                ..Rule::default()
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rules_read_what_they_print(rules in prop::collection::vec(rule(), 0..8)) {
        let mut table = TableRules::builtin(Table::Nat);
        table.chains.insert("OWN".into(), Chain { policy: None, rules: rules.into() });
        let mut all = Ruleset::default();
        all.tables.insert(Table::Nat, table);
        let text = all.save(Family::V4);
        let read: Ruleset = text.parse().map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(&read, &all, "{}", text);
        prop_assert_eq!(read.save(Family::V4), text);
    }
}
