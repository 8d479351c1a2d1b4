//! Random rules and random packets, from a seed.

use std::net::IpAddr;

use podwire_models::base::Family;
use podwire_models::kernel::netfilter::chain::{Hook, Table};
use podwire_models::wire::{
    Body, Data, FlowKey, Fragment, Frame, Icmp, IcmpError, Message, Packet, PacketId, Payload,
    Sctp, SctpChunk, Tcp, TcpFlags, Transport, Udp,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::cases::{Case, Port, Shot};

/// Draws from a seed.
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    /// Says yes `n` times in a hundred.
    pub(crate) fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    pub(crate) fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn not(&mut self) -> &'static str {
        if self.percent(25) { "! " } else { "" }
    }
}

pub(crate) const NETS_V4: &[&str] = &[
    "10.1.0.0/24",
    "10.2.0.0/24",
    "10.1.0.2/32",
    "10.1.0.3/32",
    "10.2.0.2/32",
    "10.2.0.3/32",
    "10.1.0.1/32",
    "10.2.0.1/32",
    "10.0.0.0/8",
    "127.0.0.0/8",
    "10.96.0.1/32",
    "0.0.0.0/1",
];
pub(crate) const NETS_V6: &[&str] = &[
    "fd01::/64",
    "fd02::/64",
    "fd01::2/128",
    "fd01::3/128",
    "fd02::2/128",
    "fd02::3/128",
    "fd01::1/128",
    "fd02::1/128",
    "fd00::/8",
    "::1/128",
    "fd96::1/128",
    "8000::/1",
];
const PORTS: &[&str] = &[
    "53",
    "80",
    "1000",
    "1001",
    "1000:1001",
    "0:1023",
    "8080",
    "80:53000",
];
const MARKS: &[&str] = &[
    "0x1",
    "0x4000/0x4000",
    "0x0/0x1",
    "0x2/0x3",
    "0x8000/0xc000",
];
const STATES: &[&str] = &[
    "NEW",
    "ESTABLISHED",
    "RELATED,ESTABLISHED",
    "INVALID",
    "UNTRACKED",
    "RELATED",
    "DNAT",
    "SNAT",
    "NEW,UNTRACKED",
    "INVALID,NEW",
];
const TYPES: &[&str] = &[
    "LOCAL",
    "UNICAST",
    "BROADCAST",
    "MULTICAST",
    "BLACKHOLE",
    "UNREACHABLE",
    "PROHIBIT",
];
const TYPES_V6: &[&str] = &["LOCAL", "UNICAST", "MULTICAST", "UNREACHABLE"];
const FLAGS: &[&str] = &[
    "FIN,SYN,RST,ACK SYN",
    "SYN,ACK SYN,ACK",
    "RST RST",
    "ACK ACK",
    "FIN,SYN,RST,PSH,ACK,URG NONE",
    "SYN,RST NONE",
];

/// Makes a case without packets.
pub(crate) fn rules(draw: &mut Draw) -> Case {
    rules_of(draw, [5, 4])
}

/// The same, with chains so long that rules are looked up in them.
pub(crate) fn long_chains(draw: &mut Draw) -> Case {
    rules_of(draw, [40, 30])
}

/// Makes rules, fewer than `most` in each chain: built-in ones, others.
fn rules_of(draw: &mut Draw, [built_in, own]: [usize; 2]) -> Case {
    let family = if draw.percent(70) {
        Family::V4
    } else {
        Family::V6
    };
    let mut text = String::new();
    for table in Table::PRINTED {
        text += &format!("*{}\n", table.name());
        let mut chains: Vec<(Hook, usize, String)> = Vec::new();
        for hook in table.hooks() {
            chains.push((*hook, 0, hook.name().to_owned()));
            for n in 1..=2 {
                chains.push((*hook, n, format!("{}-{n}", hook.name())));
            }
        }
        for (_, n, name) in &chains {
            let policy = match n {
                0 if table != Table::Nat && draw.percent(3) => "DROP",
                0 => "ACCEPT",
                _ => "-",
            };
            text += &format!(":{name} {policy} [0:0]\n");
        }
        for (hook, n, name) in &chains {
            let most = if *n == 0 { built_in } else { own };
            for _ in 0..draw.below(most) {
                text += &rule(draw, table, *hook, *n, name, family);
            }
        }
        text += "COMMIT\n";
    }
    let mut sysctls = Vec::new();
    for dev in ["all", "a0", "b0"] {
        let loose = if draw.percent(15) {
            1 + draw.below(2) as i64
        } else {
            0
        };
        sysctls.push((format!("net.ipv4.conf.{dev}.rp_filter"), loose));
        let localnet = i64::from(draw.percent(15));
        sysctls.push((format!("net.ipv4.conf.{dev}.route_localnet"), localnet));
    }
    let liberal = i64::from(draw.percent(20));
    sysctls.push((
        "net.netfilter.nf_conntrack_tcp_be_liberal".to_owned(),
        liberal,
    ));
    let loose = i64::from(draw.percent(80));
    sysctls.push(("net.netfilter.nf_conntrack_tcp_loose".to_owned(), loose));
    Case {
        family,
        rules: text,
        nft: Vec::new(),
        sysctls,
        shots: Vec::new(),
    }
}

fn rule(
    draw: &mut Draw,
    table: Table,
    hook: Hook,
    n: usize,
    chain: &str,
    family: Family,
) -> String {
    let mut words = vec![format!("-A {chain}")];
    let nets = match family {
        Family::V4 => NETS_V4,
        Family::V6 => NETS_V6,
    };
    for option in ["-s", "-d"] {
        if draw.percent(25) {
            words.push(format!("{}{option} {}", draw.not(), draw.of(nets)));
        }
    }
    let (inn, out) = match hook {
        Hook::Prerouting | Hook::Input => (true, false),
        Hook::Forward => (true, true),
        Hook::Output | Hook::Postrouting => (false, true),
    };
    for (may, option) in [(inn, "-i"), (out, "-o")] {
        if may && draw.percent(15) {
            let dev = draw.of(&["a0", "b0", "lo", "a+", "b+"]);
            words.push(format!("{}{option} {dev}", draw.not()));
        }
    }
    let target = target(draw, table, hook, n, family);
    let needs = needs(&target);
    let l4 = needs
        .unwrap_or_else(|| draw.of(&["", "", "", "", "tcp", "tcp", "udp", "udp", "sctp", "icmp"]));
    if !l4.is_empty() {
        protocol(draw, l4, needs.is_some(), family, &target, &mut words);
    }
    let mut used = Vec::new();
    for _ in 0..draw.below(3) {
        let name = draw.of(&[
            "mark",
            "mark",
            "connmark",
            "ctstate",
            "ctstate",
            "ctstate",
            "origdst",
            "origdport",
            "addrtype",
            "addrtype",
            "random",
            "recent",
            "rpfilter",
            "comment",
            "physdev",
        ]);
        if used.contains(&name) {
            continue;
        }
        used.push(name);
        if let Some(text) = extension(draw, name, table, hook, nets) {
            words.push(text);
        }
    }
    if !target.is_empty() {
        words.push(target);
    }
    words.join(" ") + "\n"
}

/// Returns the protocol a target insists on.
fn needs(target: &str) -> Option<&'static str> {
    if target.contains("tcp-reset") || target.contains("TCPMSS") {
        Some("tcp")
    } else if (target.contains("DNAT") || target.contains("SNAT"))
        && (target.contains("]:") || (target.contains('.') && target.contains(':')))
    {
        Some("udp")
    } else if target.contains("--to-ports") {
        Some("tcp")
    } else {
        None
    }
}

fn protocol(
    draw: &mut Draw,
    l4: &str,
    firm: bool,
    family: Family,
    target: &str,
    words: &mut Vec<String>,
) {
    let v6 = family == Family::V6;
    if l4 == "icmp" {
        let (name, module, option) = if v6 {
            ("ipv6-icmp", "icmp6", "--icmpv6-type")
        } else {
            ("icmp", "icmp", "--icmp-type")
        };
        let not = if firm { "" } else { draw.not() };
        words.push(format!("{not}-p {name}"));
        if not.is_empty() && draw.percent(60) {
            let kinds: &[&str] = if v6 {
                &["128", "129", "1", "1/4", "3"]
            } else {
                &["8", "0", "3", "3/3", "11"]
            };
            words.push(format!(
                "-m {module} {}{option} {}",
                draw.not(),
                draw.of(kinds)
            ));
        }
        return;
    }
    let not = if firm { "" } else { draw.not() };
    words.push(format!("{not}-p {l4}"));
    if !not.is_empty() {
        return;
    }
    if target.contains("TCPMSS") {
        words.push("-m tcp --tcp-flags SYN,RST SYN".to_owned());
    } else if draw.percent(25) {
        let option = draw.of(&["--sports", "--dports", "--ports"]);
        let mut ports = vec![draw.of(PORTS)];
        if draw.percent(50) {
            ports.push(draw.of(&["7", "9999", "1002:2000"]));
        }
        words.push(format!(
            "-m multiport {}{option} {}",
            draw.not(),
            ports.join(",")
        ));
    } else if draw.percent(60) {
        let mut text = format!("-m {l4}");
        for option in ["--sport", "--dport"] {
            if draw.percent(40) {
                text += &format!(" {}{option} {}", draw.not(), draw.of(PORTS));
            }
        }
        if l4 == "tcp" && draw.percent(30) {
            text += &format!(" {}--tcp-flags {}", draw.not(), draw.of(FLAGS));
        }
        words.push(text);
    }
}

fn extension(
    draw: &mut Draw,
    name: &str,
    table: Table,
    hook: Hook,
    nets: &[&str],
) -> Option<String> {
    Some(match name {
        "mark" => format!("-m mark {}--mark {}", draw.not(), draw.of(MARKS)),
        "connmark" => format!("-m connmark {}--mark {}", draw.not(), draw.of(MARKS)),
        "ctstate" => format!("-m conntrack {}--ctstate {}", draw.not(), draw.of(STATES)),
        "origdst" => format!("-m conntrack {}--ctorigdst {}", draw.not(), draw.of(nets)),
        "origdport" => format!(
            "-m conntrack {}--ctorigdstport {}",
            draw.not(),
            draw.of(PORTS)
        ),
        "addrtype" => {
            let v6 = nets == NETS_V6;
            let mut text = "-m addrtype".to_owned();
            let which = draw.below(3);
            for (n, option) in [(0, "--src-type"), (1, "--dst-type")] {
                if which == n || which == 2 {
                    let types = if v6 { TYPES_V6 } else { TYPES };
                    text += &format!(" {}{option} {}", draw.not(), draw.of(types));
                }
            }
            if matches!(hook, Hook::Prerouting | Hook::Input) && draw.percent(20) {
                text += " --limit-iface-in";
            }
            text
        }
        "random" => {
            let p = draw.of(&["0.00000000000", "1.00000000000"]);
            format!("-m statistic --mode random {}--probability {p}", draw.not())
        }
        "recent" => {
            let list = draw.of(&["one", "two"]);
            let op = draw.of(&[
                "--set",
                "--rcheck",
                "--update",
                "--remove",
                "--rcheck --seconds 600",
            ]);
            format!("-m recent {}{op} --name {list} --rsource", draw.not())
        }
        "rpfilter" if hook == Hook::Prerouting && matches!(table, Table::Raw | Table::Mangle) => {
            let loose = if draw.percent(50) { " --loose" } else { "" };
            let invert = if draw.percent(50) { " --invert" } else { "" };
            format!("-m rpfilter{loose}{invert}")
        }
        "comment" => "-m comment --comment \"a comment\"".to_owned(),
        "physdev" if matches!(hook, Hook::Prerouting | Hook::Forward | Hook::Input) => {
            if draw.percent(50) {
                format!("-m physdev {}--physdev-in a0", draw.not())
            } else {
                format!("-m physdev {}--physdev-is-bridged", draw.not())
            }
        }
        _ => return None,
    })
}

fn target(draw: &mut Draw, table: Table, hook: Hook, n: usize, family: Family) -> String {
    let v6 = family == Family::V6;
    if n < 2 && draw.percent(30) {
        let next = format!("{}-{}", hook.name(), n + 1 + draw.below(2 - n));
        return format!("{} {next}", draw.of(&["-j", "-j", "-g"]));
    }
    let plain = |draw: &mut Draw| -> String {
        match draw.below(12) {
            0 => "-j ACCEPT".to_owned(),
            1 if table != Table::Nat && draw.percent(40) => "-j DROP".to_owned(),
            2 | 3 => "-j RETURN".to_owned(),
            4 | 5 => String::new(),
            6 => format!(
                "-j MARK --set-xmark {}",
                draw.of(&[
                    "0x1/0xffffffff",
                    "0x4000/0x4000",
                    "0x0/0x1",
                    "0x3/0x0",
                    "0x8002/0xc003"
                ])
            ),
            7 => format!(
                "-j CONNMARK {}",
                draw.of(&[
                    "--set-xmark 0x1/0xffffffff",
                    "--set-xmark 0x4000/0xf000",
                    "--save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
                    "--restore-mark --nfmask 0xff --ctmask 0xffff",
                    "--save-mark --nfmask 0xf --ctmask 0xf",
                ])
            ),
            8 if draw.percent(30) => "-j LOG --log-prefix \"seen \"".to_owned(),
            _ => "-j RETURN".to_owned(),
        }
    };
    match table {
        Table::Raw if draw.percent(15) => "-j CT --notrack".to_owned(),
        Table::Mangle
            if draw.percent(10)
                && matches!(hook, Hook::Forward | Hook::Output | Hook::Postrouting) =>
        {
            format!(
                "-j TCPMSS {}",
                draw.of(&["--set-mss 1000", "--clamp-mss-to-pmtu"])
            )
        }
        Table::Filter if draw.percent(15) => {
            let with = if v6 {
                draw.of(&[
                    "icmp6-no-route",
                    "icmp6-adm-prohibited",
                    "icmp6-addr-unreachable",
                    "icmp6-port-unreachable",
                    "icmp6-policy-fail",
                    "icmp6-reject-route",
                    "tcp-reset",
                ])
            } else {
                draw.of(&[
                    "icmp-net-unreachable",
                    "icmp-host-unreachable",
                    "icmp-proto-unreachable",
                    "icmp-port-unreachable",
                    "icmp-net-prohibited",
                    "icmp-host-prohibited",
                    "icmp-admin-prohibited",
                    "tcp-reset",
                ])
            };
            format!("-j REJECT --reject-with {with}")
        }
        Table::Nat if draw.percent(50) => nat_target(draw, hook, v6),
        Table::Raw | Table::Mangle | Table::Filter | Table::Nat => plain(draw),
    }
}

fn nat_target(draw: &mut Draw, hook: Hook, v6: bool) -> String {
    let to = if v6 {
        draw.of(&[
            "fd02::2",
            "fd02::3",
            "fd01::3",
            "fd02::1",
            "fd01::1",
            "[fd02::4]:8080",
            "[fd01::1]:53",
        ])
    } else {
        draw.of(&[
            "10.2.0.2",
            "10.2.0.3",
            "10.1.0.3",
            "10.2.0.1",
            "10.1.0.1",
            "10.2.0.4:8080",
            "10.1.0.1:53",
            "127.0.0.1",
        ])
    };
    let from = if v6 {
        draw.of(&["fd02::1", "fd01::1", "fd01::9", "[fd02::1]:2000"])
    } else {
        draw.of(&["10.2.0.1", "10.1.0.1", "10.1.0.9", "10.2.0.1:2000"])
    };
    match hook {
        Hook::Prerouting | Hook::Output => match draw.below(4) {
            0 => format!(
                "-j REDIRECT{}",
                draw.of(&["", " --to-ports 53", " --to-ports 7"])
            ),
            _ => format!("-j DNAT --to-destination {to}"),
        },
        Hook::Postrouting if draw.percent(60) => "-j MASQUERADE".to_owned(),
        Hook::Input | Hook::Postrouting => format!("-j SNAT --to-source {from}"),
        Hook::Forward => String::new(),
    }
}

fn addr(draw: &mut Draw, v4: &[&str], v6: &[&str], family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => draw.of(v4),
        Family::V6 => draw.of(v6),
    };
    text.parse().unwrap()
}

/// Makes a packet: a new one, an answer to one that came out, or an error about it.
pub(crate) fn shot(draw: &mut Draw, family: Family, n: u64, out: &[(Port, Frame)]) -> Shot {
    if !out.is_empty() && draw.percent(45) {
        let (port, frame) = &out[draw.below(out.len())];
        if let Body::Ip(packet) = &frame.body
            && packet.fragment.is_none()
            && packet.family() == family
        {
            let mut reply = if draw.percent(80) {
                answer(draw, packet)
            } else {
                complaint(draw, packet)
            };
            if let Some(reply) = &mut reply {
                reply.id = PacketId(n);
                reply.flow = FlowKey(n);
            }
            if let Some(packet) = reply {
                return Shot {
                    port: *port,
                    packet,
                };
            }
        }
    }
    let port = draw.of(&[Port::A, Port::A, Port::A, Port::B, Port::B, Port::Local]);
    let src = match port {
        Port::A => addr(
            draw,
            &["10.1.0.2", "10.1.0.3", "10.1.0.4"],
            &["fd01::2", "fd01::3", "fd01::4"],
            family,
        ),
        Port::B => addr(
            draw,
            &["10.2.0.2", "10.2.0.3", "10.9.9.9"],
            &["fd02::2", "fd02::3", "fd09::9"],
            family,
        ),
        Port::Local => addr(
            draw,
            &["10.1.0.1", "10.2.0.1"],
            &["fd01::1", "fd02::1"],
            family,
        ),
    };
    let odd = port != Port::Local && draw.percent(6);
    let src = if odd {
        addr(
            draw,
            &[
                "10.2.0.3",
                "10.1.0.2",
                "127.0.0.1",
                "10.1.0.1",
                "10.2.0.1",
                "224.0.0.1",
                "0.0.0.0",
                "255.255.255.255",
            ],
            &["fd02::3", "fd01::2", "fd01::1", "fd02::1"],
            family,
        )
    } else {
        src
    };
    let dst = addr(
        draw,
        &[
            "10.2.0.2",
            "10.2.0.3",
            "10.2.0.4",
            "10.1.0.2",
            "10.1.0.3",
            "10.1.0.1",
            "10.2.0.1",
            "10.96.0.1",
            "10.96.0.1",
            "10.9.0.9",
            "10.66.0.1",
        ],
        &[
            "fd02::2", "fd02::3", "fd02::4", "fd01::2", "fd01::3", "fd01::1", "fd02::1", "fd96::1",
            "fd96::1", "fd09::9", "fd66::1",
        ],
        family,
    );
    let dst = if port != Port::Local && draw.percent(4) {
        addr(
            draw,
            &[
                "127.0.0.1",
                "10.1.0.255",
                "10.2.0.255",
                "255.255.255.255",
                "224.0.0.5",
            ],
            &["fd02::5", "fd01::5"],
            family,
        )
    } else {
        dst
    };
    // The kernel answers a source only so many times with "unreachable" (`ip_rt_error_burst`, of the whole machine).
    let dst = if port == Port::Local && draw.percent(10) {
        addr(
            draw,
            &["10.66.0.1", "10.67.0.1", "10.68.0.1"],
            &["fd66::1", "fd67::1", "fd68::1"],
            family,
        )
    } else {
        dst
    };
    let sport = draw.of(&[1000, 1001, 2000, 80, 40000]);
    let dport = draw.of(&[80, 53, 8080, 1000, 7]);
    let transport = match draw.below(10) {
        0..4 => {
            let flags = if draw.percent(65) {
                TcpFlags::SYN
            } else {
                draw.of(&[
                    TcpFlags::SYN_ACK,
                    TcpFlags::ACK,
                    TcpFlags::PSH_ACK,
                    TcpFlags::FIN_ACK,
                    TcpFlags::RST,
                    TcpFlags::RST_ACK,
                    TcpFlags(0),
                    TcpFlags(0x03),
                    TcpFlags(0x29),
                    TcpFlags(0x3f),
                    TcpFlags::FIN,
                ])
            };
            let ack = if flags.contains(TcpFlags::ACK) {
                draw.of(&[1, 1001, 5000])
            } else {
                0
            };
            let seq = draw.of(&[1000, 1001, 70_000]);
            let mss = (flags == TcpFlags::SYN || flags == TcpFlags::SYN_ACK).then_some(1460);
            let window = draw.of(&[65535, 8192]);
            Transport::Tcp(Tcp {
                sport,
                dport,
                flags,
                seq,
                ack,
                window,
                mss,
            })
        }
        4..7 => Transport::Udp(Udp { sport, dport }),
        7 => {
            let chunk = draw.of(&[
                SctpChunk::Init,
                SctpChunk::Init,
                SctpChunk::InitAck,
                SctpChunk::CookieEcho,
                SctpChunk::CookieAck,
                SctpChunk::Data,
                SctpChunk::Shutdown,
                SctpChunk::Abort,
                SctpChunk::Heartbeat,
            ]);
            Transport::Sctp(Sctp {
                sport,
                dport,
                chunk,
            })
        }
        _ => {
            let id = draw.of(&[5, 6]);
            // The kernel would not answer for a rule that refuses its own echo; a process's would be another matter.
            Transport::Icmp(if port == Port::Local || draw.percent(80) {
                Icmp::EchoRequest { id, seq: 1 }
            } else {
                Icmp::EchoReply { id, seq: 1 }
            })
        }
    };
    let mut packet = packet(n, src, dst, transport);
    packet.ttl = draw.of(&[64, 64, 64, 64, 2, 1]);
    packet.tos = draw.of(&[0, 0, 0x10, 0xb8]);
    let data = draw.of(&[0, 0, 10, 100]);
    let bare = matches!(packet.transport, Transport::Sctp(_))
        || matches!(packet.transport, Transport::Tcp(t) if t.flags != TcpFlags::PSH_ACK);
    if data > 0 && !bare {
        packet.payload = opaque(data);
    }
    if family == Family::V4 && port != Port::Local && draw.percent(5) {
        packet.df = false;
        if matches!(packet.transport, Transport::Udp(_)) && draw.percent(50) {
            packet.payload = opaque(100);
            // A first piece alone: what needs all of it waits for the rest.
            packet.fragment = Some(Fragment {
                ident: n as u32,
                offset: 0,
                len: 64,
                more: true,
            });
        }
    }
    Shot { port, packet }
}

fn opaque(len: u32) -> Payload {
    Payload::Data(Data {
        len,
        message: Message::Opaque,
    })
}

pub(crate) const fn packet(n: u64, src: IpAddr, dst: IpAddr, transport: Transport) -> Packet {
    Packet {
        id: PacketId(n),
        flow: FlowKey(n),
        src,
        dst,
        ttl: 64,
        tos: 0,
        df: true,
        fragment: None,
        transport,
        payload: Payload::Empty,
    }
}

/// Returns what the receiver of a packet might send back.
fn answer(draw: &mut Draw, to: &Packet) -> Option<Packet> {
    let transport = match to.transport {
        Transport::Tcp(tcp) => {
            let syn = u32::from(tcp.flags.contains(TcpFlags::SYN))
                + u32::from(tcp.flags.contains(TcpFlags::FIN));
            let flags = match (
                tcp.flags.contains(TcpFlags::SYN),
                tcp.flags.contains(TcpFlags::ACK),
            ) {
                (true, false) => {
                    draw.of(&[TcpFlags::SYN_ACK, TcpFlags::SYN_ACK, TcpFlags::RST_ACK])
                }
                (true, true) => TcpFlags::ACK,
                _ => draw.of(&[
                    TcpFlags::ACK,
                    TcpFlags::PSH_ACK,
                    TcpFlags::FIN_ACK,
                    TcpFlags::RST,
                ]),
            };
            let seq = if tcp.flags.contains(TcpFlags::ACK) {
                tcp.ack
            } else {
                5000
            };
            let seq = if draw.percent(8) {
                seq.wrapping_add(200_000)
            } else {
                seq
            };
            Transport::Tcp(Tcp {
                sport: tcp.dport,
                dport: tcp.sport,
                flags,
                seq,
                ack: tcp.seq.wrapping_add(to.payload.len()).wrapping_add(syn),
                window: 65535,
                mss: flags.contains(TcpFlags::SYN).then_some(1460),
            })
        }
        Transport::Udp(udp) => Transport::Udp(Udp {
            sport: udp.dport,
            dport: udp.sport,
        }),
        Transport::Sctp(sctp) => Transport::Sctp(Sctp {
            sport: sctp.dport,
            dport: sctp.sport,
            chunk: match sctp.chunk {
                SctpChunk::Init => SctpChunk::InitAck,
                SctpChunk::InitAck => SctpChunk::CookieEcho,
                SctpChunk::CookieEcho => SctpChunk::CookieAck,
                SctpChunk::Heartbeat => SctpChunk::HeartbeatAck,
                SctpChunk::Shutdown => SctpChunk::ShutdownAck,
                SctpChunk::ShutdownAck => SctpChunk::ShutdownComplete,
                _ => SctpChunk::Data,
            },
        }),
        Transport::Icmp(Icmp::EchoRequest { id, seq }) => {
            Transport::Icmp(Icmp::EchoReply { id, seq })
        }
        Transport::Icmp(_) => return None,
    };
    let mut reply = packet(0, to.dst, to.src, transport);
    if let Transport::Tcp(tcp) = reply.transport
        && tcp.flags == TcpFlags::PSH_ACK
    {
        reply.payload = opaque(10);
    }
    Some(reply)
}

/// Returns an error about a packet, from its receiver or a router on the way.
fn complaint(draw: &mut Draw, about: &Packet) -> Option<Packet> {
    if matches!(about.transport, Transport::Icmp(Icmp::Error { .. })) {
        return None;
    }
    let v6 = about.family() == Family::V6;
    let router: IpAddr = if v6 { "fd02::5" } else { "10.2.0.5" }.parse().unwrap();
    let src = if draw.percent(50) { about.dst } else { router };
    let kind = draw.of(&[
        IcmpError::PortUnreachable,
        IcmpError::HostUnreachable,
        IcmpError::TimeExceeded,
        IcmpError::AdminProhibited,
    ]);
    let error = Icmp::Error {
        kind,
        about: about.quoted(),
    };
    Some(packet(0, src, about.src, Transport::Icmp(error)))
}
