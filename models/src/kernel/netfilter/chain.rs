//! Tables, chains, rules: matches and targets as enums (`iptables(8)`, `iptables-extensions(8)`).
//!
//! The set of matches and targets is what kube-proxy, the CNI plugins and common node agents use. Rules are plain
//! data: how they are walked is in `walk.rs`, how they are written in `save.rs`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::base::{FxIndexMap, OriginId};
use crate::wire::{Code, IcmpError, L4};

/// The tables of iptables that exist here, in the order of their hook priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Priority -300: before connection tracking.
    Raw,
    /// Priority -150.
    Mangle,
    /// Priority -100 (destination) and 100 (source).
    Nat,
    /// Priority 0.
    Filter,
}

/// Where a packet meets rules (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Every packet that came in from a device.
    Prerouting,
    /// Packets for this machine.
    Input,
    /// Packets for somebody else.
    Forward,
    /// Packets of local processes.
    Output,
    /// Every packet about to leave.
    Postrouting,
}

/// A value or everything but that value (`!`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Not<T> {
    /// Whether the meaning is turned round.
    pub negated: bool,
    /// The value.
    pub value: T,
}

impl<T> Not<T> {
    /// The value itself.
    pub const fn is(value: T) -> Self {
        Self {
            negated: false,
            value,
        }
    }

    /// Everything but the value.
    pub const fn except(value: T) -> Self {
        Self {
            negated: true,
            value,
        }
    }
}

/// A rule: conditions that must all hold, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    /// `-s`.
    pub source: Option<Not<IpNet>>,
    /// `-d`.
    pub destination: Option<Not<IpNet>>,
    /// `-i`; a trailing `+` matches any suffix.
    pub in_interface: Option<Not<Arc<str>>>,
    /// `-o`; a trailing `+` matches any suffix.
    pub out_interface: Option<Not<Arc<str>>>,
    /// `-p`.
    pub protocol: Option<Not<L4>>,
    /// `-m …`, in the order written.
    pub matches: Vec<Match>,
    /// `-j` or `-g`; `None` only counts.
    pub target: Option<Target>,
    /// The object the rule was made from.
    pub origin: OriginId,
    /// What it means for a packet to end at this rule, where whoever made it knows; `None` derives it.
    pub code: Option<Code>,
}

/// An inclusive range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// The range of one port.
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

/// A match extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `-m comment --comment`: always matches.
    Comment(Arc<str>),
    /// `-m tcp`.
    Tcp {
        /// `--sport`.
        sport: Option<Not<PortRange>>,
        /// `--dport`.
        dport: Option<Not<PortRange>>,
        /// `--tcp-flags mask comp` (`--syn` is FIN,SYN,RST,ACK SYN).
        flags: Option<Not<(u8, u8)>>,
    },
    /// `-m udp`.
    Udp {
        /// `--sport`.
        sport: Option<Not<PortRange>>,
        /// `--dport`.
        dport: Option<Not<PortRange>>,
    },
    /// `-m sctp`.
    Sctp {
        /// `--sport`.
        sport: Option<Not<PortRange>>,
        /// `--dport`.
        dport: Option<Not<PortRange>>,
    },
    /// `-m icmp --icmp-type` (or `icmp6`): type and optional code.
    Icmp(Not<(u8, Option<u8>)>),
    /// `-m multiport --sports/--dports/--ports`.
    Multiport {
        /// Which end.
        end: PortEnd,
        /// The ports.
        ports: Not<Vec<PortRange>>,
    },
    /// `-m mark --mark value/mask`.
    Mark(Not<MarkMask>),
    /// `-m connmark --mark value/mask`.
    Connmark(Not<MarkMask>),
    /// `-m conntrack --ctstate`.
    CtState(Not<CtStates>),
    /// `-m conntrack --ctdir` is not used by anyone here; `-m conntrack --ctorigdstport`.
    CtOrigDstPort(Not<PortRange>),
    /// `-m conntrack --ctorigdst`.
    CtOrigDst(Not<IpNet>),
    /// `-m addrtype`.
    AddrType {
        /// `--src-type`.
        src: Option<Not<AddrType>>,
        /// `--dst-type`.
        dst: Option<Not<AddrType>>,
        /// `--limit-iface-in`.
        limit_in: bool,
    },
    /// `-m statistic --mode random --probability`.
    Random(Not<Probability>),
    /// `-m recent`, source side.
    Recent {
        /// List name.
        name: Arc<str>,
        /// What it does.
        op: Not<RecentOp>,
        /// `--seconds`.
        seconds: Option<u32>,
        /// `--reap`.
        reap: bool,
    },
    /// `-m nfacct --nfacct-name`: counts, always matches.
    Nfacct(Arc<str>),
    /// `-m physdev --physdev-in/-out/-is-bridged`.
    Physdev {
        /// `--physdev-in`.
        inn: Option<Not<Arc<str>>>,
        /// `--physdev-out`.
        out: Option<Not<Arc<str>>>,
        /// `--physdev-is-bridged`.
        is_bridged: Option<Not<()>>,
    },
    /// `-m rpfilter`.
    RpFilter {
        /// `--loose`.
        loose: bool,
        /// `--validmark`.
        validmark: bool,
        /// `--invert`.
        invert: bool,
    },
}

/// Which ports `multiport` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEnd {
    /// `--sports`.
    Source,
    /// `--dports`.
    Destination,
    /// `--ports`: either.
    Either,
}

/// A value compared, or written, under a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkMask {
    /// Value.
    pub value: u32,
    /// Mask.
    pub mask: u32,
}

/// A set of conntrack states (`--ctstate` of iptables-extensions(8)), as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CtStates(pub u16);

impl CtStates {
    /// INVALID.
    pub const INVALID: Self = Self(1);
    /// ESTABLISHED.
    pub const ESTABLISHED: Self = Self(2);
    /// RELATED.
    pub const RELATED: Self = Self(4);
    /// NEW.
    pub const NEW: Self = Self(8);
    /// SNAT (virtual).
    pub const SNAT: Self = Self(0x40);
    /// DNAT (virtual).
    pub const DNAT: Self = Self(0x80);
    /// UNTRACKED.
    pub const UNTRACKED: Self = Self(0x100);

    /// Returns the union.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether the sets have a state in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Types of addresses (`-m addrtype`, `rtnetlink(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    missing_docs,
    reason = "named after the RTN_ constants of rtnetlink(7)"
)]
pub enum AddrType {
    Unspec,
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
}

/// `--probability`, as the kernel stores it: an integer of 31 bits (`xt_statistic.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probability(pub u32);

/// What `-m recent` does with its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecentOp {
    /// `--set`: adds the source or refreshes it.
    Set,
    /// `--rcheck`: matches a listed source.
    Rcheck,
    /// `--update`: like rcheck, and refreshes.
    Update,
    /// `--remove`.
    Remove,
}

/// What happens when a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `-j ACCEPT`.
    Accept,
    /// `-j DROP`.
    Drop,
    /// `-j RETURN`.
    Return,
    /// `-j CHAIN`.
    Jump(Arc<str>),
    /// `-g CHAIN`.
    Goto(Arc<str>),
    /// `-j REJECT --reject-with`.
    Reject(RejectWith),
    /// `-j MARK --set-xmark value/mask`: `mark = (mark & ~mask) ^ value`.
    Mark(MarkMask),
    /// `-j CONNMARK --save-mark / --restore-mark / --set-xmark`.
    Connmark(ConnmarkOp),
    /// `-j DNAT --to-destination`.
    Dnat(NatRange),
    /// `-j SNAT --to-source`.
    Snat(NatRange),
    /// `-j MASQUERADE`.
    Masquerade {
        /// `--to-ports`.
        ports: Option<PortRange>,
        /// `--random`, `--random-fully`.
        random: NatRandom,
    },
    /// `-j REDIRECT --to-ports`.
    Redirect {
        /// `--to-ports`.
        ports: Option<PortRange>,
        /// `--random`.
        random: NatRandom,
    },
    /// `-j CT --notrack` (also written NOTRACK).
    Notrack,
    /// `-j LOG`: continues.
    Log {
        /// `--log-prefix`.
        prefix: Option<Arc<str>>,
    },
    /// `-j TCPMSS --clamp-mss-to-pmtu` or `--set-mss`.
    Tcpmss(Option<u16>),
}

/// `CONNMARK` operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnmarkOp {
    /// `--set-xmark value/mask`.
    Set(MarkMask),
    /// `--save-mark --nfmask --ctmask`: packet to connection.
    Save {
        /// Mask on the packet's mark.
        nfmask: u32,
        /// Mask on the connection's mark.
        ctmask: u32,
    },
    /// `--restore-mark --nfmask --ctmask`: connection to packet.
    Restore {
        /// Mask on the packet's mark.
        nfmask: u32,
        /// Mask on the connection's mark.
        ctmask: u32,
    },
}

/// What REJECT answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectWith {
    /// An ICMP error.
    Icmp(IcmpError),
    /// A TCP reset.
    TcpReset,
}

/// Where a translation may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatRange {
    /// First and last address; `None` leaves the address.
    pub addrs: Option<(IpAddr, IpAddr)>,
    /// Ports; `None` leaves the port, if it is free.
    pub ports: Option<PortRange>,
    /// `--random`, `--random-fully`.
    pub random: NatRandom,
    /// `--persistent`.
    pub persistent: bool,
}

/// How NAT picks a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatRandom {
    /// Keep it if possible.
    #[default]
    No,
    /// `--random`.
    Random,
    /// `--random-fully`.
    RandomFully,
}

/// Default verdict of a built-in chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChainPolicy {
    /// ACCEPT.
    #[default]
    Accept,
    /// DROP.
    Drop,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Default verdict; `None` for user-defined chains.
    pub policy: Option<ChainPolicy>,
    /// Rules in order. Chains that are alike may share them.
    pub rules: Arc<Vec<Rule>>,
}

/// The chains of one table, by name, in the order of their creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableRules {
    /// Chains.
    pub chains: FxIndexMap<Arc<str>, Chain>,
}

/// All rules of one namespace for one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Tables that exist (a table exists once somebody has used it).
    pub tables: std::collections::BTreeMap<Table, TableRules>,
}
