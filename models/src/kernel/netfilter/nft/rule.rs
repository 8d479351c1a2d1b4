//! Rules of nftables: conditions and a verdict, written as `nft list ruleset` (1.0.6) prints them, and read back.
//!
//! # Fidelity
//! Only expressions the CNI plugins write, each compared with one value or one range. Everything else (sets, maps, marks,
//! counters, `ct`, `meta`) is an error when read, never left out in silence.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::chain::{AddrType, Not, PortRange};
use crate::base::addr::host_net;
use crate::base::{Family, Mac};
use crate::wire::L4;

/// A rule: conditions that must all hold, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftRule {
    /// Conditions, in order.
    pub matches: Vec<NftMatch>,
    /// What happens if all hold.
    pub verdict: NftVerdict,
    /// `comment`.
    pub comment: Option<Arc<str>>,
}

/// Which end of a packet is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `saddr`, `sport`.
    Source,
    /// `daddr`, `dport`.
    Destination,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftMatch {
    /// `ip saddr`, `ip6 daddr`: a packet of the other family has no such address.
    Address {
        /// Which one.
        end: End,
        /// The addresses.
        net: Not<IpNet>,
    },
    /// `tcp dport`, `udp sport`.
    Port {
        /// Protocol.
        l4: L4,
        /// Which one.
        end: End,
        /// The ports.
        ports: Not<PortRange>,
    },
    /// `fib daddr type`.
    Fib {
        /// Which address is looked up.
        end: End,
        /// What it is.
        kind: Not<AddrType>,
    },
    /// `iifname`; a last `*` stands for anything.
    InDevice(Not<Arc<str>>),
    /// `oifname`.
    OutDevice(Not<Arc<str>>),
    /// `ether saddr`.
    Ether {
        /// Which one.
        end: End,
        /// The hardware address.
        mac: Not<Mac>,
    },
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftVerdict {
    /// `accept`: ends this base chain; those behind it are still asked.
    Accept,
    /// `drop`: ends the packet.
    Drop,
    /// `return`.
    Return,
    /// `jump`.
    Jump(Arc<str>),
    /// `goto`.
    Goto(Arc<str>),
    /// `dnat to`.
    Dnat {
        /// New destination.
        addr: IpAddr,
        /// New port; `None` keeps it.
        port: Option<u16>,
    },
    /// `masquerade`.
    Masquerade,
}

impl NftRule {
    /// Returns a rule without a comment.
    pub fn new(matches: impl Into<Vec<NftMatch>>, verdict: NftVerdict) -> Self {
        Self {
            matches: matches.into(),
            verdict,
            comment: None,
        }
    }

    /// Returns the rule with a comment.
    #[must_use]
    pub fn with_comment(self, comment: &str) -> Self {
        Self {
            comment: Some(comment.into()),
            ..self
        }
    }

    /// Returns the chain the rule leads to.
    pub const fn leads_to(&self) -> Option<&Arc<str>> {
        match &self.verdict {
            NftVerdict::Jump(chain) | NftVerdict::Goto(chain) => Some(chain),
            NftVerdict::Accept
            | NftVerdict::Drop
            | NftVerdict::Return
            | NftVerdict::Dnat { .. }
            | NftVerdict::Masquerade => None,
        }
    }

    /// Whether the rule translates, for which connections must be tracked.
    pub const fn translates(&self) -> bool {
        matches!(
            self.verdict,
            NftVerdict::Dnat { .. } | NftVerdict::Masquerade
        )
    }
}

// ---- printing ----

const ADDR_TYPES: [(&str, AddrType); 9] = [
    ("unspec", AddrType::Unspec),
    ("unicast", AddrType::Unicast),
    ("local", AddrType::Local),
    ("broadcast", AddrType::Broadcast),
    ("anycast", AddrType::Anycast),
    ("multicast", AddrType::Multicast),
    ("blackhole", AddrType::Blackhole),
    ("unreachable", AddrType::Unreachable),
    ("prohibit", AddrType::Prohibit),
];

const L4S: [(&str, L4); 3] = [("tcp", L4::Tcp), ("udp", L4::Udp), ("sctp", L4::Sctp)];

/// The first name of a value in a table.
fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    let found = names.iter().find(|(_, other)| other == value);
    found.map_or("?", |(name, _)| name)
}

impl End {
    const fn letter(self) -> char {
        match self {
            Self::Source => 's',
            Self::Destination => 'd',
        }
    }
}

/// `!= ` where the meaning is turned round.
const fn sign<T>(value: &Not<T>) -> &'static str {
    if value.negated { "!= " } else { "" }
}

impl fmt::Display for NftMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { end, net } => {
                let family = match Family::of_net(net.value) {
                    Family::V4 => "ip",
                    Family::V6 => "ip6",
                };
                write!(f, "{family} {}addr {}", end.letter(), sign(net))?;
                if net.value == host_net(net.value.addr()) {
                    write!(f, "{}", net.value.addr())
                } else {
                    write!(f, "{}", net.value)
                }
            }
            Self::Port { l4, end, ports } => {
                let (l4, end) = (name_of(&L4S, l4), end.letter());
                write!(f, "{l4} {end}port {}{}", sign(ports), ports.value.first)?;
                if ports.value.first == ports.value.last {
                    Ok(())
                } else {
                    write!(f, "-{}", ports.value.last)
                }
            }
            Self::Fib { end, kind } => {
                let name = name_of(&ADDR_TYPES, &kind.value);
                write!(f, "fib {}addr type {}{name}", end.letter(), sign(kind))
            }
            Self::InDevice(name) => write!(f, "iifname {}\"{}\"", sign(name), name.value),
            Self::OutDevice(name) => write!(f, "oifname {}\"{}\"", sign(name), name.value),
            Self::Ether { end, mac } => {
                write!(f, "ether {}addr {}{}", end.letter(), sign(mac), mac.value)
            }
        }
    }
}

impl fmt::Display for NftVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Dnat { addr, port } => match port {
                Some(port) => write!(f, "dnat to {}", SocketAddr::new(*addr, *port)),
                None => write!(f, "dnat to {addr}"),
            },
            Self::Masquerade => f.write_str("masquerade"),
        }
    }
}

impl fmt::Display for NftRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{}", self.verdict)?;
        match &self.comment {
            Some(comment) => write!(f, " comment \"{comment}\""),
            None => Ok(()),
        }
    }
}

// ---- reading ----

/// A text that is not a rule made of what is modelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nft: `{0}` is not modelled")]
pub struct ParseNftError(pub String);

/// The words of a rule that are left.
struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Self(text.split_whitespace().peekable())
    }

    fn next(&mut self, before: &str) -> Result<&'a str, ParseNftError> {
        let missing = || ParseNftError(format!("{before} …"));
        self.0.next().ok_or_else(missing)
    }

    /// Reads a value, perhaps after `==` or `!=`.
    fn value<T>(
        &mut self,
        before: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Not<T>, ParseNftError> {
        let negated = self.0.next_if_eq(&"!=").is_some();
        if !negated {
            self.0.next_if_eq(&"==");
        }
        let word = self.next(before)?;
        let unknown = || ParseNftError(format!("{before} {word}"));
        let value = read(word).ok_or_else(unknown)?;
        Ok(Not { negated, value })
    }

    /// Reads a condition that begins with a word; none if that begins no condition.
    fn condition(&mut self, word: &str) -> Result<Option<NftMatch>, ParseNftError> {
        Ok(Some(match word {
            "ip" | "ip6" => {
                let family = if word == "ip" { Family::V4 } else { Family::V6 };
                let (end, before) = self.end(word, "addr")?;
                let net = self.value(&before, |text| {
                    let net = text.parse().ok();
                    net.or_else(|| text.parse().ok().map(host_net))
                        .filter(|net| Family::of_net(*net) == family)
                })?;
                NftMatch::Address { end, net }
            }
            "ether" => {
                let (end, before) = self.end(word, "addr")?;
                let mac = self.value(&before, |text| text.parse().ok())?;
                NftMatch::Ether { end, mac }
            }
            "tcp" | "udp" | "sctp" => {
                let (end, before) = self.end(word, "port")?;
                let ports = self.value(&before, read_ports)?;
                let found = L4S.iter().find(|(name, _)| *name == word);
                let l4 = found.map_or(L4::Tcp, |(_, l4)| *l4);
                NftMatch::Port { l4, end, ports }
            }
            "fib" => {
                let (end, before) = self.end(word, "addr")?;
                let what = self.next(&before)?;
                if what != "type" {
                    return Err(ParseNftError(format!("{before} {what}")));
                }
                let kind = self.value("fib … type", |text| {
                    let found = ADDR_TYPES.iter().find(|(name, _)| *name == text);
                    found.map(|(_, kind)| *kind)
                })?;
                NftMatch::Fib { end, kind }
            }
            "iifname" => NftMatch::InDevice(self.value(word, read_device)?),
            "oifname" => NftMatch::OutDevice(self.value(word, read_device)?),
            _ => return Ok(None),
        }))
    }

    /// Reads `saddr` or `dport` and returns which end it is, and the text so far.
    fn end(&mut self, before: &str, what: &str) -> Result<(End, String), ParseNftError> {
        let word = self.next(before)?;
        let text = format!("{before} {word}");
        match word.strip_suffix(what) {
            Some("s") => Ok((End::Source, text)),
            Some("d") => Ok((End::Destination, text)),
            Some(_) | None => Err(ParseNftError(text)),
        }
    }

    fn verdict(&mut self, word: &str) -> Result<NftVerdict, ParseNftError> {
        Ok(match word {
            "accept" => NftVerdict::Accept,
            "drop" => NftVerdict::Drop,
            "return" => NftVerdict::Return,
            "masquerade" => NftVerdict::Masquerade,
            "jump" => NftVerdict::Jump(self.next(word)?.into()),
            "goto" => NftVerdict::Goto(self.next(word)?.into()),
            "dnat" => {
                let to = self.next(word)?;
                let addr = self.next("dnat to").ok().filter(|_| to == "to");
                let read = |text: &str| {
                    let socket = text.parse::<SocketAddr>();
                    let socket = socket.map(|s| (s.ip(), Some(s.port())));
                    socket.ok().or_else(|| Some((text.parse().ok()?, None)))
                };
                let unknown = || ParseNftError(format!("dnat {to}"));
                let (addr, port) = addr.and_then(read).ok_or_else(unknown)?;
                NftVerdict::Dnat { addr, port }
            }
            other => return Err(ParseNftError(other.to_owned())),
        })
    }
}

fn read_ports(text: &str) -> Option<PortRange> {
    match text.split_once('-') {
        Some((first, last)) => Some(PortRange {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
        }),
        None => text.parse().ok().map(PortRange::one),
    }
}

fn read_device(text: &str) -> Option<Arc<str>> {
    let name = text.trim_matches('"');
    (!name.is_empty()).then(|| name.into())
}

/// Reads conditions, as `conditionsV4` of `portmap` has them.
///
/// # Errors
/// For everything that is not modelled.
pub fn parse_matches(text: &str) -> Result<Vec<NftMatch>, ParseNftError> {
    let mut words = Words::new(text);
    let mut matches = Vec::new();
    while let Some(word) = words.0.next() {
        let unknown = || ParseNftError(word.to_owned());
        matches.push(words.condition(word)?.ok_or_else(unknown)?);
    }
    Ok(matches)
}

impl FromStr for NftRule {
    type Err = ParseNftError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (text, comment) = match text.trim_end().strip_suffix('"') {
            Some(quoted) => match quoted.split_once(" comment \"") {
                Some((text, comment)) => (text, Some(comment.into())),
                None => (text, None),
            },
            None => (text, None),
        };
        let mut words = Words::new(text);
        let mut matches = Vec::new();
        loop {
            let word = words.next("a verdict after")?;
            if let Some(condition) = words.condition(word)? {
                matches.push(condition);
                continue;
            }
            let verdict = words.verdict(word)?;
            return match words.0.next() {
                Some(more) => Err(ParseNftError(more.to_owned())),
                None => Ok(Self {
                    matches,
                    verdict,
                    comment,
                }),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        for line in [
            "tcp dport 8081 dnat to 10.162.0.2:8080 comment \"c0ffee-pod1\"",
            "ip daddr 172.18.0.3 sctp sport 1-9 dnat to 10.162.0.2",
            "ip6 daddr fd00::1 udp dport != 80 dnat to [fd00::2]:90",
            "fib daddr type local jump hostports_all",
            "ip saddr 10.162.0.2 ip daddr != 10.162.0.0/24 masquerade comment \"net: x, if: eth0\"",
            "ip saddr 0.0.0.0/0 accept",
            "iifname \"veth1\" oifname != \"eth*\" goto x",
            "ether saddr 02:00:00:00:00:01 return",
            "drop",
        ] {
            let rule: NftRule = line.parse().expect(line);
            assert_eq!(rule.to_string(), line);
        }
    }

    #[test]
    fn what_is_not_modelled_is_told() {
        for (line, told) in [
            ("meta mark 1 accept", "meta"),
            ("ip protocol tcp accept", "ip protocol"),
            ("tcp dport { 1, 2 } accept", "tcp dport {"),
            ("ip saddr fd00::1 accept", "ip saddr fd00::1"),
            ("fib daddr oif accept", "fib daddr oif"),
            ("accept counter", "counter"),
            ("ip saddr 1.2.3.4", "a verdict after …"),
            ("-d 1.2.3.4 accept", "-d"),
        ] {
            let error = line.parse::<NftRule>().expect_err(line);
            assert_eq!(error.to_string(), format!("nft: `{told}` is not modelled"));
        }
    }
}
