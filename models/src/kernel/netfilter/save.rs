//! Rules as text: what `iptables-save` and `ip6tables-save` (1.8.9) print, and reading it back.
//!
//! # Fidelity
//! Counters are printed as `[0:0]` and ignored when read. Matches and targets other than those of [`super::chain`]
//! are errors when read.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use super::chain::{
    AddrType, Chain, ChainPolicy, ConnmarkOp, CtStates, MarkMask, Match, NatRandom, NatRange, Not,
    PortEnd, PortRange, Probability, RecentOp, RejectWith, Rule, Ruleset, Table, TableRules,
    Target,
};
use crate::base::Family;
use crate::wire::{IcmpError, L4};

// ---- printing ----

impl Ruleset {
    /// Returns what `iptables-save` (or `ip6tables-save`) prints: mangle, raw, filter, nat.
    pub fn save(&self, family: Family) -> String {
        let mut text = String::new();
        for table in Table::PRINTED {
            if let Some(rules) = self.tables.get(&table) {
                rules.save(table, family, &mut text);
            }
        }
        text
    }
}

impl TableRules {
    /// Writes what `iptables-save -t table` prints: built-in chains first, then the others by name.
    pub fn save(&self, table: Table, family: Family, text: &mut String) {
        let chains = self.printed(table);
        line(text, &format!("*{}", table.name()));
        for (name, chain) in &chains {
            let policy = match chain.policy {
                Some(ChainPolicy::Accept) => "ACCEPT",
                Some(ChainPolicy::Drop) => "DROP",
                None => "-",
            };
            line(text, &format!(":{name} {policy} [0:0]"));
        }
        for (name, chain) in &chains {
            for rule in chain.rules.iter() {
                line(text, &rule_line(name, rule, family));
            }
        }
        line(text, "COMMIT");
    }

    fn printed(&self, table: Table) -> Vec<(&str, &Chain)> {
        let builtin = table.hooks().iter().filter_map(|hook| {
            let chain = self.chains.get(hook.name())?;
            chain.policy.map(|_| (hook.name(), chain))
        });
        let mut chains: Vec<_> = builtin.collect();
        let mut own: Vec<_> = self
            .chains
            .iter()
            .filter(|(_, chain)| chain.policy.is_none())
            .map(|(name, chain)| (&**name, chain))
            .collect();
        own.sort_by_key(|(name, _)| *name);
        chains.append(&mut own);
        chains
    }
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

/// Returns the `-A` line of a rule.
pub fn rule_line(chain: &str, rule: &Rule, family: Family) -> String {
    let mut words = Words(format!("-A {chain}"));
    words.inverted("-s", rule.source.as_ref(), net);
    words.inverted("-d", rule.destination.as_ref(), net);
    words.inverted("-i", rule.in_interface.as_ref(), ToString::to_string);
    words.inverted("-o", rule.out_interface.as_ref(), ToString::to_string);
    words.inverted("-p", rule.protocol.as_ref(), |l4| {
        protocol_name(*l4, family).to_owned()
    });
    for m in &rule.matches {
        words.extension(m, family);
    }
    match &rule.target {
        Some(Target::Goto(name)) => words.add(&format!("-g {name}")),
        Some(target) => words.add(&format!("-j {}", target_text(target, family))),
        None => {}
    }
    words.0
}

/// Returns a target with its options: `DNAT --to-destination 10.244.1.5:80`.
pub fn target_text(target: &Target, family: Family) -> String {
    match target {
        Target::Accept => "ACCEPT".to_owned(),
        Target::Drop => "DROP".to_owned(),
        Target::Return => "RETURN".to_owned(),
        Target::Jump(name) | Target::Goto(name) => name.to_string(),
        Target::Reject(with) => format!("REJECT --reject-with {}", reject_name(*with, family)),
        Target::Mark(mark) => format!("MARK --set-xmark 0x{:x}/0x{:x}", mark.value, mark.mask),
        Target::Connmark(op) => match op {
            ConnmarkOp::Set(mark) => {
                format!("CONNMARK --set-xmark 0x{:x}/0x{:x}", mark.value, mark.mask)
            }
            ConnmarkOp::Save { nfmask, ctmask } => {
                format!("CONNMARK --save-mark --nfmask 0x{nfmask:x} --ctmask 0x{ctmask:x}")
            }
            ConnmarkOp::Restore { nfmask, ctmask } => {
                format!("CONNMARK --restore-mark --nfmask 0x{nfmask:x} --ctmask 0x{ctmask:x}")
            }
        },
        Target::Dnat(range) => nat_text("DNAT --to-destination", range),
        Target::Snat(range) => nat_text("SNAT --to-source", range),
        Target::Masquerade { ports, random } => port_nat_text("MASQUERADE", *ports, *random),
        Target::Redirect { ports, random } => port_nat_text("REDIRECT", *ports, *random),
        Target::Notrack => "CT --notrack".to_owned(),
        Target::Log { prefix: None } => "LOG".to_owned(),
        Target::Log {
            prefix: Some(prefix),
        } => format!("LOG --log-prefix {}", quoted(prefix)),
        Target::Tcpmss(None) => "TCPMSS --clamp-mss-to-pmtu".to_owned(),
        Target::Tcpmss(Some(mss)) => format!("TCPMSS --set-mss {mss}"),
    }
}

const fn random_text(random: NatRandom) -> &'static str {
    match random {
        NatRandom::No => "",
        NatRandom::Random => " --random",
        NatRandom::RandomFully => " --random-fully",
    }
}

fn nat_text(option: &str, range: &NatRange) -> String {
    let mut text = format!("{option} ");
    if let Some((first, last)) = range.addrs {
        let brackets = first.is_ipv6() && range.ports.is_some();
        let addrs = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        let (open, close) = if brackets { ("[", "]") } else { ("", "") };
        text.extend([open, &addrs, close]);
    }
    if let Some(ports) = range.ports {
        text.extend([":", &dashed(ports)]);
    }
    text += random_text(range.random);
    if range.persistent {
        text += " --persistent";
    }
    text
}

fn port_nat_text(name: &str, ports: Option<PortRange>, random: NatRandom) -> String {
    let ports = ports.map_or_else(String::new, |p| format!(" --to-ports {}", dashed(p)));
    format!("{name}{ports}{}", random_text(random))
}

fn dashed(ports: PortRange) -> String {
    if ports.first == ports.last {
        ports.first.to_string()
    } else {
        format!("{}-{}", ports.first, ports.last)
    }
}

fn coloned(ports: PortRange) -> String {
    dashed(ports).replace('-', ":")
}

/// Names of `--reject-with`, IPv4.
const REJECT_V4: [(&str, IcmpError); 7] = [
    ("icmp-net-unreachable", IcmpError::NetUnreachable),
    ("icmp-host-unreachable", IcmpError::HostUnreachable),
    ("icmp-proto-unreachable", IcmpError::ProtoUnreachable),
    ("icmp-port-unreachable", IcmpError::PortUnreachable),
    ("icmp-net-prohibited", IcmpError::NetProhibited),
    ("icmp-host-prohibited", IcmpError::HostProhibited),
    ("icmp-admin-prohibited", IcmpError::AdminProhibited),
];

/// Names of `--reject-with`, IPv6.
const REJECT_V6: [(&str, IcmpError); 6] = [
    ("icmp6-no-route", IcmpError::NetUnreachable),
    ("icmp6-adm-prohibited", IcmpError::AdminProhibited),
    ("icmp6-addr-unreachable", IcmpError::HostUnreachable),
    ("icmp6-port-unreachable", IcmpError::PortUnreachable),
    ("icmp6-policy-fail", IcmpError::PolicyFail),
    ("icmp6-reject-route", IcmpError::RejectRoute),
];

/// Returns what `--reject-with` calls an answer.
pub fn reject_name(with: RejectWith, family: Family) -> String {
    let error = match with {
        RejectWith::TcpReset => return "tcp-reset".to_owned(),
        RejectWith::Icmp(error) => error,
    };
    let names: &[_] = match family {
        Family::V4 => &REJECT_V4,
        Family::V6 => &REJECT_V6,
    };
    match names.iter().find(|(_, e)| *e == error) {
        Some((name, _)) => (*name).to_owned(),
        None => error.to_string(),
    }
}

fn protocol_name(l4: L4, family: Family) -> &'static str {
    match (l4, family) {
        (L4::Tcp, _) => "tcp",
        (L4::Udp, _) => "udp",
        (L4::Sctp, _) => "sctp",
        (L4::Icmp, Family::V4) => "icmp",
        (L4::Icmp, Family::V6) => "ipv6-icmp",
    }
}

fn net(net: &IpNet) -> String {
    net.to_string()
}

/// Quotes a text as `xtables_save_string` does: only where it has to.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// States in the order `--ctstate` prints them.
const CT_STATES: [(&str, CtStates); 7] = [
    ("INVALID", CtStates::INVALID),
    ("NEW", CtStates::NEW),
    ("RELATED", CtStates::RELATED),
    ("ESTABLISHED", CtStates::ESTABLISHED),
    ("UNTRACKED", CtStates::UNTRACKED),
    ("SNAT", CtStates::SNAT),
    ("DNAT", CtStates::DNAT),
];

const ADDR_TYPES: [(&str, AddrType); 9] = [
    ("UNSPEC", AddrType::Unspec),
    ("UNICAST", AddrType::Unicast),
    ("LOCAL", AddrType::Local),
    ("BROADCAST", AddrType::Broadcast),
    ("ANYCAST", AddrType::Anycast),
    ("MULTICAST", AddrType::Multicast),
    ("BLACKHOLE", AddrType::Blackhole),
    ("UNREACHABLE", AddrType::Unreachable),
    ("PROHIBIT", AddrType::Prohibit),
];

const TCP_FLAGS: [(&str, u8); 6] = [
    ("FIN", 0x01),
    ("SYN", 0x02),
    ("RST", 0x04),
    ("PSH", 0x08),
    ("ACK", 0x10),
    ("URG", 0x20),
];

const RECENT_OPS: [(&str, RecentOp); 4] = [
    ("--set", RecentOp::Set),
    ("--rcheck", RecentOp::Rcheck),
    ("--update", RecentOp::Update),
    ("--remove", RecentOp::Remove),
];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names
        .iter()
        .find(|(_, v)| v == value)
        .map_or("", |(name, _)| name)
}

fn ct_states(states: CtStates) -> String {
    let names: Vec<_> = CT_STATES
        .iter()
        .filter(|(_, state)| states.intersects(*state))
        .map(|(name, _)| *name)
        .collect();
    names.join(",")
}

fn tcp_flags(bits: u8) -> String {
    let names: Vec<_> = TCP_FLAGS
        .iter()
        .filter(|(_, flag)| bits & flag != 0)
        .map(|(name, _)| *name)
        .collect();
    if names.is_empty() {
        "NONE".to_owned()
    } else {
        names.join(",")
    }
}

fn mark_text(mark: MarkMask) -> String {
    if mark.mask == u32::MAX {
        format!("0x{:x}", mark.value)
    } else {
        format!("0x{:x}/0x{:x}", mark.value, mark.mask)
    }
}

impl Probability {
    const DECIMALS: u128 = 100_000_000_000;

    /// Returns the value over 2^31 with eleven decimals, rounded half to even as `printf` does.
    fn text(self) -> String {
        let scaled = u128::from(self.0) * Self::DECIMALS;
        let (whole, rest, half) = (scaled >> 31, scaled & ((1 << 31) - 1), 1 << 30);
        let up = rest > half || (rest == half && whole % 2 == 1);
        let rounded = whole + u128::from(up);
        format!(
            "{}.{:011}",
            rounded / Self::DECIMALS,
            rounded % Self::DECIMALS
        )
    }

    /// Reads a decimal fraction, as `iptables --probability` does: to the nearest 2^-31.
    fn read(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        if part.len() > 18 || (whole.is_empty() && part.is_empty()) {
            return None;
        }
        let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
        let digits = |t: &str| {
            if t.is_empty() {
                Some(0)
            } else {
                t.parse::<u128>().ok()
            }
        };
        let value = digits(whole)?.checked_mul(scale)? + digits(part)?;
        if value > scale {
            return None;
        }
        let stored = (value * (1 << 31) + scale / 2) / scale;
        u32::try_from(stored).ok().map(Self)
    }
}

/// A line being written.
struct Words(String);

impl Words {
    fn add(&mut self, word: &str) {
        self.0.push(' ');
        self.0.push_str(word);
    }

    /// Adds `! option value` or `option value`.
    fn inverted<T>(&mut self, option: &str, value: Option<&Not<T>>, text: impl Fn(&T) -> String) {
        if let Some(Not { negated, value }) = value {
            if *negated {
                self.add("!");
            }
            self.add(option);
            let text = text(value);
            if !text.is_empty() {
                self.add(&text);
            }
        }
    }

    fn ports(&mut self, sport: Option<&Not<PortRange>>, dport: Option<&Not<PortRange>>) {
        self.inverted("--sport", sport, |p| coloned(*p));
        self.inverted("--dport", dport, |p| coloned(*p));
    }

    fn extension(&mut self, m: &Match, family: Family) {
        match m {
            Match::Comment(text) => self.add(&format!("-m comment --comment {}", quoted(text))),
            Match::Tcp {
                sport,
                dport,
                flags,
            } => {
                self.add("-m tcp");
                self.ports(sport.as_ref(), dport.as_ref());
                self.inverted("--tcp-flags", flags.as_ref(), |(mask, wanted)| {
                    format!("{} {}", tcp_flags(*mask), tcp_flags(*wanted))
                });
            }
            Match::Udp { sport, dport } => {
                self.add("-m udp");
                self.ports(sport.as_ref(), dport.as_ref());
            }
            Match::Sctp { sport, dport } => {
                self.add("-m sctp");
                self.ports(sport.as_ref(), dport.as_ref());
            }
            Match::Icmp(wanted) => {
                let (module, option) = match family {
                    Family::V4 => ("-m icmp", "--icmp-type"),
                    Family::V6 => ("-m icmp6", "--icmpv6-type"),
                };
                self.add(module);
                self.inverted(option, Some(wanted), |(kind, code)| match code {
                    Some(code) => format!("{kind}/{code}"),
                    None => kind.to_string(),
                });
            }
            Match::Multiport { end, ports } => {
                self.add("-m multiport");
                let option = match end {
                    PortEnd::Source => "--sports",
                    PortEnd::Destination => "--dports",
                    PortEnd::Either => "--ports",
                };
                self.inverted(option, Some(ports), |ports| {
                    let each: Vec<_> = ports.iter().copied().map(coloned).collect();
                    each.join(",")
                });
            }
            Match::Mark(mark) => {
                self.add("-m mark");
                self.inverted("--mark", Some(mark), |m| mark_text(*m));
            }
            Match::Connmark(mark) => {
                self.add("-m connmark");
                self.inverted("--mark", Some(mark), |m| mark_text(*m));
            }
            Match::CtState(states) => {
                self.add("-m conntrack");
                self.inverted("--ctstate", Some(states), |s| ct_states(*s));
            }
            Match::CtOrigDstPort(port) => {
                self.add("-m conntrack");
                self.inverted("--ctorigdstport", Some(port), |p| coloned(*p));
            }
            Match::CtOrigDst(net) => {
                self.add("-m conntrack");
                self.inverted("--ctorigdst", Some(net), |net| {
                    if net.prefix_len() == net.max_prefix_len() {
                        net.addr().to_string()
                    } else {
                        net.to_string()
                    }
                });
            }
            Match::AddrType { src, dst, limit_in } => {
                self.add("-m addrtype");
                let name = |t: &AddrType| name_of(&ADDR_TYPES, t).to_owned();
                self.inverted("--src-type", src.as_ref(), name);
                self.inverted("--dst-type", dst.as_ref(), name);
                if *limit_in {
                    self.add("--limit-iface-in");
                }
            }
            Match::Random(chance) => {
                self.add("-m statistic --mode random");
                self.inverted("--probability", Some(chance), |p| p.text());
            }
            Match::Recent {
                name,
                op,
                seconds,
                reap,
            } => {
                self.add("-m recent");
                self.inverted(name_of(&RECENT_OPS, &op.value), Some(op), |_| String::new());
                if let Some(seconds) = seconds {
                    self.add(&format!("--seconds {seconds}"));
                }
                if *reap {
                    self.add("--reap");
                }
                let mask = match family {
                    Family::V4 => "255.255.255.255",
                    Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                };
                self.add(&format!("--name {name} --mask {mask} --rsource"));
            }
            Match::Nfacct(name) => self.add(&format!("-m nfacct --nfacct-name {}", quoted(name))),
            Match::Physdev {
                inn,
                out,
                is_bridged,
            } => {
                self.add("-m physdev");
                self.inverted("--physdev-in", inn.as_ref(), ToString::to_string);
                self.inverted("--physdev-out", out.as_ref(), ToString::to_string);
                self.inverted("--physdev-is-bridged", is_bridged.as_ref(), |()| {
                    String::new()
                });
            }
            Match::RpFilter {
                loose,
                validmark,
                invert,
            } => {
                self.add("-m rpfilter");
                for (given, option) in [
                    (*loose, "--loose"),
                    (*validmark, "--validmark"),
                    (*invert, "--invert"),
                ] {
                    if given {
                        self.add(option);
                    }
                }
            }
        }
    }
}

// ---- reading ----

/// Why a text is no set of rules, and in which line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct SaveError {
    /// The line.
    pub line: usize,
    /// What is wrong there.
    pub kind: SaveErrorKind,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveErrorKind {
    /// No `*table` before it.
    #[error("no table was named before this line")]
    NoTable,
    /// The table does not exist here.
    #[error("table `{0}` does not exist")]
    UnknownTable(String),
    /// The line is none of `*`, `:`, `-A`, `COMMIT` or a comment.
    #[error("`{0}` begins no known line")]
    UnknownLine(String),
    /// A chain that was not declared.
    #[error("chain `{0}` was not declared")]
    UnknownChain(String),
    /// An option, match or target that does not exist here.
    #[error("`{0}` is not known")]
    Unknown(String),
    /// A value is missing or does not fit its option.
    #[error("`{1}` is no value for `{0}`")]
    BadValue(String, String),
    /// A quote is not closed.
    #[error("a quote is not closed")]
    Quote,
}

impl FromStr for Ruleset {
    type Err = SaveError;

    /// Reads what `iptables-save` printed.
    fn from_str(text: &str) -> Result<Self, SaveError> {
        let mut rules = Self::default();
        let mut table: Option<Table> = None;
        for (number, content) in text.lines().enumerate() {
            let at = |kind| SaveError {
                line: number + 1,
                kind,
            };
            rules
                .read_line(content.trim_end(), &mut table)
                .map_err(at)?;
        }
        Ok(rules)
    }
}

impl Ruleset {
    fn read_line(&mut self, content: &str, table: &mut Option<Table>) -> Result<(), SaveErrorKind> {
        if content.is_empty() || content.starts_with('#') {
            return Ok(());
        }
        if content == "COMMIT" {
            *table = None;
            return Ok(());
        }
        if let Some(name) = content.strip_prefix('*') {
            let found = Table::PRINTED.into_iter().find(|t| t.name() == name);
            let found = found.ok_or_else(|| SaveErrorKind::UnknownTable(name.to_owned()))?;
            self.tables.entry(found).or_default();
            *table = Some(found);
            return Ok(());
        }
        let rules = table
            .and_then(|t| self.tables.get_mut(&t))
            .ok_or(SaveErrorKind::NoTable)?;
        if let Some(declared) = content.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let name = words.next().unwrap_or_default();
            if !is_chain_name(name) {
                return Err(SaveErrorKind::BadValue(":".to_owned(), name.to_owned()));
            }
            let policy = match words.next() {
                Some("ACCEPT") => Some(ChainPolicy::Accept),
                Some("DROP") => Some(ChainPolicy::Drop),
                Some("-") | None => None,
                Some(other) => return Err(SaveErrorKind::Unknown(other.to_owned())),
            };
            let chain = Chain {
                policy,
                rules: Arc::default(),
            };
            rules.chains.insert(name.into(), chain);
            return Ok(());
        }
        let (chain, rule) = parse_rule(content)?;
        match rules.chains.get_mut(&*chain) {
            Some(found) => {
                Arc::make_mut(&mut found.rules).push(rule);
                Ok(())
            }
            None => Err(SaveErrorKind::UnknownChain(chain)),
        }
    }
}

/// Whether a chain may be called so (`parse_chain` of iptables).
fn is_chain_name(name: &str) -> bool {
    (1..29).contains(&name.len()) && !name.starts_with(['-', '!'])
}

/// Reads a `-A CHAIN …` line; counters before it are skipped.
///
/// # Errors
/// Says what is wrong with the line.
pub fn parse_rule(content: &str) -> Result<(String, Rule), SaveErrorKind> {
    let words = split(content)?;
    let mut args = Args {
        words: words.into_iter(),
        negated: false,
    };
    let mut first = args.words.next().unwrap_or_default();
    if first.starts_with('[') {
        first = args.words.next().unwrap_or_default();
    }
    if first != "-A" {
        return Err(SaveErrorKind::UnknownLine(first));
    }
    let chain = args.value("-A")?;
    let mut rule = Rule::default();
    while let Some(word) = args.words.next() {
        if word == "!" {
            args.negated = true;
        } else {
            args.option(&word, &mut rule)?;
            args.negated = false;
        }
    }
    // Without it iptables refuses the rule.
    let nowhere = |range: &NatRange| range.addrs.is_none() && range.ports.is_none();
    let missing = match &rule.target {
        Some(Target::Dnat(range)) if nowhere(range) => Some("--to-destination"),
        Some(Target::Snat(range)) if nowhere(range) => Some("--to-source"),
        Some(_) | None => None,
    };
    if let Some(option) = missing {
        return Err(SaveErrorKind::BadValue(option.to_owned(), String::new()));
    }
    Ok((chain, rule))
}

/// Splits a line into words, with quotes and backslashes as `iptables-restore` takes them.
fn split(content: &str) -> Result<Vec<String>, SaveErrorKind> {
    let mut words = Vec::new();
    let mut chars = content.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
            continue;
        }
        let mut word = String::new();
        if c == '"' {
            chars.next();
            loop {
                match chars.next() {
                    Some('"') => break,
                    Some('\\') => word.extend(chars.next()),
                    Some(c) => word.push(c),
                    None => return Err(SaveErrorKind::Quote),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
        }
        words.push(word);
    }
    Ok(words)
}

/// The words of a rule not read yet.
struct Args {
    words: std::vec::IntoIter<String>,
    /// Whether a `!` came just before.
    negated: bool,
}

fn find<T: Copy>(names: &[(&str, T)], name: &str) -> Option<T> {
    names.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn mark_mask(text: &str) -> Option<MarkMask> {
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value)?, number(mask)?),
        None => (number(text)?, u32::MAX),
    };
    Some(MarkMask { value, mask })
}

fn port_range(text: &str, separator: char) -> Option<PortRange> {
    let (first, last) = text.split_once(separator).unwrap_or((text, text));
    Some(PortRange {
        first: first.parse().ok()?,
        last: last.parse().ok()?,
    })
}

fn prefix(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn nat_range(text: &str) -> Option<NatRange> {
    let (addrs, ports) = if let Some(rest) = text.strip_prefix('[') {
        let (addrs, rest) = rest.split_once(']')?;
        (addrs, rest.strip_prefix(':'))
    } else if text.matches(':').count() > 1 {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((addrs, ports)) => (addrs, Some(ports)),
            None => (text, None),
        }
    };
    let addrs = if addrs.is_empty() {
        None
    } else {
        let (first, last) = addrs.split_once('-').unwrap_or((addrs, addrs));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let ports = match ports {
        Some(ports) => Some(port_range(ports, '-')?),
        None => None,
    };
    Some(NatRange {
        addrs,
        ports,
        random: NatRandom::No,
        persistent: false,
    })
}

fn flag_bits(text: &str) -> Option<u8> {
    match text {
        "NONE" => Some(0),
        "ALL" => Some(0x3f),
        names => names
            .split(',')
            .map(|name| find(&TCP_FLAGS, name))
            .try_fold(0, |bits, flag| Some(bits | flag?)),
    }
}

impl Args {
    fn value(&mut self, option: &str) -> Result<String, SaveErrorKind> {
        self.words
            .next()
            .ok_or_else(|| SaveErrorKind::BadValue(option.to_owned(), String::new()))
    }

    fn parsed<T>(
        &mut self,
        option: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SaveErrorKind> {
        let text = self.value(option)?;
        read(&text).ok_or_else(|| SaveErrorKind::BadValue(option.to_owned(), text))
    }

    fn not<T>(
        &mut self,
        option: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Not<T>, SaveErrorKind> {
        let negated = self.negated;
        self.parsed(option, read)
            .map(|value| Not { negated, value })
    }

    fn option(&mut self, word: &str, rule: &mut Rule) -> Result<(), SaveErrorKind> {
        match word {
            "-s" => rule.source = Some(self.not(word, prefix)?),
            "-d" => rule.destination = Some(self.not(word, prefix)?),
            "-i" => rule.in_interface = Some(self.not(word, |t| Some(t.into()))?),
            "-o" => rule.out_interface = Some(self.not(word, |t| Some(t.into()))?),
            "-p" => {
                rule.protocol = Some(self.not(word, |t| match t {
                    "tcp" | "6" => Some(L4::Tcp),
                    "udp" | "17" => Some(L4::Udp),
                    "sctp" | "132" => Some(L4::Sctp),
                    "icmp" | "ipv6-icmp" | "icmpv6" | "1" | "58" => Some(L4::Icmp),
                    _ => None,
                })?);
            }
            "-m" => {
                let module = self.value(word)?;
                if let Some(m) = empty_match(&module)? {
                    rule.matches.push(m);
                }
            }
            "-j" => rule.target = Some(empty_target(&self.value(word)?)),
            "-g" => rule.target = Some(Target::Goto(self.value(word)?.into())),
            option => {
                let done = match &mut rule.target {
                    Some(target) => self.target_option(option, target)?,
                    None => self.match_option(option, &mut rule.matches)?,
                };
                if !done {
                    return Err(SaveErrorKind::Unknown(option.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Reads an option of a match; returns whether it is one.
    fn match_option(
        &mut self,
        option: &str,
        matches: &mut Vec<Match>,
    ) -> Result<bool, SaveErrorKind> {
        let single = match option {
            "--comment" => Some(Match::Comment(self.value(option)?.into())),
            "--ctstate" => Some(Match::CtState(self.not(option, |t| {
                t.split(',')
                    .map(|name| find(&CT_STATES, name))
                    .try_fold(CtStates::default(), |all, state| Some(all.or(state?)))
            })?)),
            "--ctorigdst" => Some(Match::CtOrigDst(self.not(option, prefix)?)),
            "--ctorigdstport" => Some(Match::CtOrigDstPort(
                self.not(option, |t| port_range(t, ':'))?,
            )),
            "--icmp-type" | "--icmpv6-type" => Some(Match::Icmp(self.not(option, |t| {
                let (kind, code) = match t.split_once('/') {
                    Some((kind, code)) => (kind, Some(code.parse().ok()?)),
                    None => (t, None),
                };
                Some((kind.parse().ok()?, code))
            })?)),
            "--probability" => Some(Match::Random(self.not(option, Probability::read)?)),
            "--mode" => {
                self.parsed(option, |t| (t == "random").then_some(()))?;
                return Ok(true);
            }
            "--nfacct-name" => Some(Match::Nfacct(self.value(option)?.into())),
            "--sports" | "--dports" | "--ports" => {
                let end = match option {
                    "--sports" => PortEnd::Source,
                    "--dports" => PortEnd::Destination,
                    _ => PortEnd::Either,
                };
                let ports = self.not(option, |t| {
                    t.split(',').map(|p| port_range(p, ':')).collect()
                })?;
                Some(Match::Multiport { end, ports })
            }
            _ => None,
        };
        if let Some(m) = single {
            matches.push(m);
            return Ok(true);
        }
        match matches.last_mut() {
            Some(last) => self.further_option(option, last),
            None => Ok(false),
        }
    }

    /// Reads an option of a match that takes several.
    fn further_option(&mut self, option: &str, m: &mut Match) -> Result<bool, SaveErrorKind> {
        let negated = self.negated;
        let port = |t: &str| port_range(t, ':');
        match (m, option) {
            (
                Match::Tcp { sport, .. } | Match::Udp { sport, .. } | Match::Sctp { sport, .. },
                "--sport",
            ) => *sport = Some(self.not(option, port)?),
            (
                Match::Tcp { dport, .. } | Match::Udp { dport, .. } | Match::Sctp { dport, .. },
                "--dport",
            ) => *dport = Some(self.not(option, port)?),
            (Match::Tcp { flags, .. }, "--tcp-flags") => {
                let mask = self.parsed(option, flag_bits)?;
                let value = (mask, self.parsed(option, flag_bits)?);
                *flags = Some(Not { negated, value });
            }
            (Match::Tcp { flags, .. }, "--syn") => {
                let value = (0x17, 0x02);
                *flags = Some(Not { negated, value });
            }
            (Match::Mark(mark) | Match::Connmark(mark), "--mark") => {
                *mark = self.not(option, mark_mask)?;
            }
            (Match::AddrType { src, .. }, "--src-type") => {
                *src = Some(self.not(option, |t| find(&ADDR_TYPES, t))?);
            }
            (Match::AddrType { dst, .. }, "--dst-type") => {
                *dst = Some(self.not(option, |t| find(&ADDR_TYPES, t))?);
            }
            (Match::AddrType { limit_in, .. }, "--limit-iface-in") => *limit_in = true,
            (Match::Recent { seconds, .. }, "--seconds") => {
                *seconds = Some(self.parsed(option, |t| t.parse().ok())?);
            }
            (Match::Recent { reap, .. }, "--reap") => *reap = true,
            (Match::Recent { name, .. }, "--name") => *name = self.value(option)?.into(),
            (Match::Recent { .. }, "--mask") => {
                self.value(option)?;
            }
            (Match::Recent { .. }, "--rsource") => {}
            (Match::Recent { op, .. }, word) => match find(&RECENT_OPS, word) {
                Some(value) => *op = Not { negated, value },
                None => return Ok(false),
            },
            (Match::Physdev { inn, .. }, "--physdev-in") => {
                *inn = Some(self.not(option, |t| Some(t.into()))?);
            }
            (Match::Physdev { out, .. }, "--physdev-out") => {
                *out = Some(self.not(option, |t| Some(t.into()))?);
            }
            (Match::Physdev { is_bridged, .. }, "--physdev-is-bridged") => {
                *is_bridged = Some(Not { negated, value: () });
            }
            (Match::RpFilter { loose, .. }, "--loose") => *loose = true,
            (Match::RpFilter { validmark, .. }, "--validmark") => *validmark = true,
            (Match::RpFilter { invert, .. }, "--invert") => *invert = true,
            (_, _) => return Ok(false),
        }
        Ok(true)
    }

    /// Reads an option of a target; returns whether it is one.
    fn target_option(&mut self, option: &str, target: &mut Target) -> Result<bool, SaveErrorKind> {
        match (target, option) {
            (Target::Reject(with), "--reject-with") => {
                *with = self.parsed(option, |t| {
                    let icmp = find(&REJECT_V4, t).or_else(|| find(&REJECT_V6, t));
                    icmp.map(RejectWith::Icmp)
                        .or_else(|| (t == "tcp-reset").then_some(RejectWith::TcpReset))
                })?;
            }
            (Target::Mark(mark), "--set-xmark") => *mark = self.parsed(option, mark_mask)?,
            (Target::Mark(mark), "--set-mark") => {
                let MarkMask { value, mask } = self.parsed(option, mark_mask)?;
                let mask = value | mask;
                *mark = MarkMask { value, mask };
            }
            (Target::Mark(mark), "--or-mark") => {
                let value = self.parsed(option, number)?;
                *mark = MarkMask { value, mask: value };
            }
            (Target::Mark(mark), "--and-mark") => {
                let mask = !self.parsed(option, number)?;
                *mark = MarkMask { value: 0, mask };
            }
            (Target::Mark(mark), "--xor-mark") => {
                let value = self.parsed(option, number)?;
                *mark = MarkMask { value, mask: 0 };
            }
            (Target::Connmark(op), "--set-xmark") => {
                *op = ConnmarkOp::Set(self.parsed(option, mark_mask)?);
            }
            (Target::Connmark(op), "--save-mark") => {
                *op = ConnmarkOp::Save {
                    nfmask: u32::MAX,
                    ctmask: u32::MAX,
                };
            }
            (Target::Connmark(op), "--restore-mark") => {
                *op = ConnmarkOp::Restore {
                    nfmask: u32::MAX,
                    ctmask: u32::MAX,
                };
            }
            (
                Target::Connmark(
                    ConnmarkOp::Save { nfmask, .. } | ConnmarkOp::Restore { nfmask, .. },
                ),
                "--nfmask",
            ) => *nfmask = self.parsed(option, number)?,
            (
                Target::Connmark(
                    ConnmarkOp::Save { ctmask, .. } | ConnmarkOp::Restore { ctmask, .. },
                ),
                "--ctmask",
            ) => *ctmask = self.parsed(option, number)?,
            (Target::Dnat(range), "--to-destination") | (Target::Snat(range), "--to-source") => {
                *range = self.parsed(option, nat_range)?;
            }
            (Target::Dnat(range) | Target::Snat(range), "--persistent") => range.persistent = true,
            (
                Target::Dnat(NatRange { random, .. })
                | Target::Snat(NatRange { random, .. })
                | Target::Masquerade { random, .. }
                | Target::Redirect { random, .. },
                "--random" | "--random-fully",
            ) => {
                *random = if option == "--random" {
                    NatRandom::Random
                } else {
                    NatRandom::RandomFully
                };
            }
            (Target::Masquerade { ports, .. } | Target::Redirect { ports, .. }, "--to-ports") => {
                *ports = Some(self.parsed(option, |t| port_range(t, '-'))?);
            }
            (Target::Notrack, "--notrack") | (Target::Tcpmss(_), "--clamp-mss-to-pmtu") => {}
            (Target::Log { prefix }, "--log-prefix") => *prefix = Some(self.value(option)?.into()),
            (Target::Tcpmss(mss), "--set-mss") => {
                *mss = Some(self.parsed(option, |t| t.parse().ok())?);
            }
            (_, _) => return Ok(false),
        }
        Ok(true)
    }
}

/// Returns the match a module begins with, before its options; `None` where its options make the match.
fn empty_match(module: &str) -> Result<Option<Match>, SaveErrorKind> {
    let zero = Not::is(MarkMask { value: 0, mask: 0 });
    Ok(Some(match module {
        "tcp" => Match::Tcp {
            sport: None,
            dport: None,
            flags: None,
        },
        "udp" => Match::Udp {
            sport: None,
            dport: None,
        },
        "sctp" => Match::Sctp {
            sport: None,
            dport: None,
        },
        "mark" => Match::Mark(zero),
        "connmark" => Match::Connmark(zero),
        "addrtype" => Match::AddrType {
            src: None,
            dst: None,
            limit_in: false,
        },
        "recent" => Match::Recent {
            name: Arc::from("DEFAULT"),
            op: Not::is(RecentOp::Rcheck),
            seconds: None,
            reap: false,
        },
        "physdev" => Match::Physdev {
            inn: None,
            out: None,
            is_bridged: None,
        },
        "rpfilter" => Match::RpFilter {
            loose: false,
            validmark: false,
            invert: false,
        },
        "comment" | "conntrack" | "statistic" | "multiport" | "icmp" | "icmp6" | "nfacct" => {
            return Ok(None);
        }
        other => return Err(SaveErrorKind::Unknown(other.to_owned())),
    }))
}

/// Returns a target before its options.
fn empty_target(name: &str) -> Target {
    let range = NatRange {
        addrs: None,
        ports: None,
        random: NatRandom::No,
        persistent: false,
    };
    let (ports, random) = (None, NatRandom::No);
    match name {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "RETURN" => Target::Return,
        "REJECT" => Target::Reject(RejectWith::Icmp(IcmpError::PortUnreachable)),
        "MARK" => Target::Mark(MarkMask { value: 0, mask: 0 }),
        "CONNMARK" => Target::Connmark(ConnmarkOp::Set(MarkMask { value: 0, mask: 0 })),
        "DNAT" => Target::Dnat(range),
        "SNAT" => Target::Snat(range),
        "MASQUERADE" => Target::Masquerade { ports, random },
        "REDIRECT" => Target::Redirect { ports, random },
        "CT" | "NOTRACK" => Target::Notrack,
        "LOG" => Target::Log { prefix: None },
        "TCPMSS" => Target::Tcpmss(None),
        chain => Target::Jump(chain.into()),
    }
}
