//! Changes to a namespace, as data: what `ip`, `bridge`, `sysctl` and `iptables-restore` would be told.
//!
//! Everything programmed into a namespace goes through here, so that the same list can be applied to a simulated
//! namespace, printed as commands, or carried out on a real machine.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::link::{PortFlags, Scope};
use super::netfilter::chain::{ChainPolicy, Rule, Table};
use super::netfilter::nft::NftCommand;
use super::netfilter::save::rule_line;
use super::sysctl::Refused;
use crate::base::{Family, Mac, OriginId};

/// One change. Devices are named, as on a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `ip link add`.
    AddLink(NewLink),
    /// `ip link del`.
    DeleteLink {
        /// Device.
        dev: Arc<str>,
    },
    /// `ip link set dev up|down`.
    SetUp {
        /// Device.
        dev: Arc<str>,
        /// Up or down.
        up: bool,
    },
    /// `ip link set dev mtu`.
    SetMtu {
        /// Device.
        dev: Arc<str>,
        /// MTU in bytes.
        mtu: u32,
    },
    /// `ip link set dev address`.
    SetMac {
        /// Device.
        dev: Arc<str>,
        /// Hardware address.
        mac: Mac,
    },
    /// `ip link set dev promisc on|off`.
    SetPromisc {
        /// Device.
        dev: Arc<str>,
        /// On or off.
        on: bool,
    },
    /// `ip link set dev master` (or `nomaster`).
    SetMaster {
        /// Device.
        dev: Arc<str>,
        /// Bridge.
        master: Option<Arc<str>>,
    },
    /// `bridge link set dev hairpin on …`.
    SetPort {
        /// Bridge port.
        dev: Arc<str>,
        /// Flags.
        flags: PortFlags,
    },
    /// `ip addr add`.
    AddAddr {
        /// Device.
        dev: Arc<str>,
        /// Address with prefix length.
        net: IpNet,
        /// Scope.
        scope: Scope,
        /// The object it comes from.
        origin: OriginId,
    },
    /// `ip addr del`.
    DeleteAddr {
        /// Device.
        dev: Arc<str>,
        /// Address with prefix length.
        net: IpNet,
    },
    /// `ip route add`.
    AddRoute(NewRoute),
    /// `ip route prepend`: in front of what the prefix has with that metric, unless the very same is there.
    PrependRoute(NewRoute),
    /// `ip route add … table`: to a table that no rule leads to.
    AddTableRoute {
        /// Number of the table, neither main nor local.
        table: u32,
        /// The route.
        route: NewRoute,
    },
    /// `ip route del`.
    DeleteRoute {
        /// Destination.
        dst: IpNet,
        /// Device, of whichever if `None`.
        dev: Option<Arc<str>>,
        /// Metric.
        metric: u32,
    },
    /// `ip neigh replace … nud permanent`.
    SetNeighbour {
        /// Device.
        dev: Arc<str>,
        /// Protocol address.
        addr: IpAddr,
        /// Hardware address.
        mac: Mac,
        /// The object it comes from.
        origin: OriginId,
    },
    /// `ip neigh del`.
    DeleteNeighbour {
        /// Device.
        dev: Arc<str>,
        /// Protocol address.
        addr: IpAddr,
    },
    /// `bridge fdb append … self permanent` on a VXLAN device.
    AddFdb {
        /// VXLAN device.
        dev: Arc<str>,
        /// Inner hardware address.
        mac: Mac,
        /// Remote tunnel address.
        dst: IpAddr,
    },
    /// `bridge fdb del`.
    DeleteFdb {
        /// VXLAN device.
        dev: Arc<str>,
        /// Inner hardware address.
        mac: Mac,
    },
    /// `sysctl -w name=value`.
    Sysctl {
        /// Name with dots.
        name: Arc<str>,
        /// Value.
        value: i64,
    },
    /// `iptables -t table -N chain`, or `-P chain policy` for a built-in one.
    Chain {
        /// Address family.
        family: Family,
        /// Table.
        table: Table,
        /// Chain.
        chain: Arc<str>,
        /// Default verdict of a built-in chain.
        policy: Option<ChainPolicy>,
    },
    /// `iptables -t table -A chain …`; at position 0-based `at`, else at the end.
    Rule {
        /// Address family.
        family: Family,
        /// Table.
        table: Table,
        /// Chain.
        chain: Arc<str>,
        /// Position; `None` appends.
        at: Option<u32>,
        /// The rule.
        rule: Box<Rule>,
    },
    /// `iptables -t table -D chain …`.
    DeleteRule {
        /// Address family.
        family: Family,
        /// Table.
        table: Table,
        /// Chain.
        chain: Arc<str>,
        /// The rule.
        rule: Box<Rule>,
    },
    /// `nft -f`: all of it or nothing.
    Nft(Vec<NftCommand>),
}

/// A device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLink {
    /// Name.
    pub name: Arc<str>,
    /// Hardware address; `None` derives one from the names of namespace and device.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// What it is.
    pub kind: NewLinkKind,
}

/// What a new device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewLinkKind {
    /// One end of a veth pair (the cluster wires it to the other).
    Veth,
    /// A network card (the cluster wires it to the underlay).
    Physical,
    /// `type dummy`.
    Dummy,
    /// `type bridge`.
    Bridge,
    /// `type vxlan`.
    Vxlan {
        /// Network identifier.
        vni: u32,
        /// Local tunnel address.
        local: IpAddr,
        /// UDP destination port.
        dstport: u16,
        /// Underlying device.
        dev: Option<Arc<str>>,
        /// `learning` or `nolearning`.
        learning: bool,
    },
}

/// A route to be made (`ip route add`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoute {
    /// Type.
    pub kind: RouteKind,
    /// Destination prefix.
    pub dst: IpNet,
    /// `via`.
    pub gateway: Option<IpAddr>,
    /// `dev`; `None` only with blackhole and its like.
    pub dev: Option<Arc<str>>,
    /// `src`.
    pub src: Option<IpAddr>,
    /// `metric`.
    pub metric: u32,
    /// `scope`.
    pub scope: Scope,
    /// `onlink`.
    pub onlink: bool,
    /// `mtu`.
    pub mtu: Option<u32>,
    /// The object it comes from.
    pub origin: OriginId,
}

/// Type of a route (`ip-route(8)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Goes to another machine.
    #[default]
    Unicast,
    /// This machine (table local).
    Local,
    /// Link broadcast (table local).
    Broadcast,
    /// Silently dropped.
    Blackhole,
    /// Host unreachable.
    Unreachable,
    /// Administratively prohibited.
    Prohibit,
}

/// A change that cannot be made, as the tool would say it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such device.
    #[error("Cannot find device \"{0}\"")]
    NoDevice(Arc<str>),
    /// The thing exists already.
    #[error("RTNETLINK answers: File exists ({0})")]
    Exists(String),
    /// The thing does not exist.
    #[error("RTNETLINK answers: No such process ({0})")]
    Missing(String),
    /// The gateway is not reachable on any link.
    #[error("Error: Nexthop has invalid gateway ({0})")]
    InvalidGateway(IpAddr),
    /// The device is down.
    #[error("RTNETLINK answers: Network is down ({0})")]
    NetworkDown(Arc<str>),
    /// No such setting.
    #[error("sysctl: cannot stat /proc/sys/{0}: No such file or directory")]
    NoSysctl(Arc<str>),
    /// A setting does not take this value.
    #[error("sysctl: setting key \"{0}\": Invalid argument: {1}")]
    BadSysctl(Arc<str>, String),
    /// The setting does not take that value, or the arguments do not fit.
    #[error("Invalid argument ({0})")]
    Invalid(String),
    /// No such chain.
    #[error("iptables: No chain/target/match by that name ({0})")]
    NoChain(Arc<str>),
    /// `nft` was refused.
    #[error("Error: Could not process rule: {0}")]
    Nft(&'static str),
    /// A chain leads back to itself.
    #[error("iptables: Too many levels of symbolic links ({0})")]
    Loop(Arc<str>),
}

impl ConfigError {
    /// What `sysctl -w NAME=TEXT` says if it is refused.
    pub fn sysctl(name: &str, text: &str, why: Refused) -> Self {
        match why {
            Refused::Unknown => Self::NoSysctl(name.replace('.', "/").into()),
            Refused::Value => Self::BadSysctl(name.into(), text.to_owned()),
        }
    }
}

impl fmt::Display for Change {
    /// The command line that makes the change on a real machine.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLink(link) => write!(f, "{link}"),
            Self::DeleteLink { dev } => write!(f, "ip link del {dev}"),
            Self::SetUp { dev, up } => {
                write!(f, "ip link set {dev} {}", if *up { "up" } else { "down" })
            }
            Self::SetMtu { dev, mtu } => write!(f, "ip link set {dev} mtu {mtu}"),
            Self::SetMac { dev, mac } => write!(f, "ip link set {dev} address {mac}"),
            Self::SetPromisc { dev, on } => {
                let on = if *on { "on" } else { "off" };
                write!(f, "ip link set {dev} promisc {on}")
            }
            Self::SetMaster { dev, master } => match master {
                Some(bridge) => write!(f, "ip link set {dev} master {bridge}"),
                None => write!(f, "ip link set {dev} nomaster"),
            },
            Self::SetPort { dev, flags } => {
                let on = |flag| if flag { "on" } else { "off" };
                let (hairpin, isolated) = (on(flags.hairpin), on(flags.isolated));
                write!(
                    f,
                    "bridge link set dev {dev} hairpin {hairpin} isolated {isolated}"
                )
            }
            Self::AddAddr {
                dev, net, scope, ..
            } => {
                write!(f, "ip addr add {net} dev {dev}{}", scope_words(*scope))
            }
            Self::DeleteAddr { dev, net } => write!(f, "ip addr del {net} dev {dev}"),
            Self::AddRoute(route) => write!(f, "{route}"),
            Self::PrependRoute(route) => {
                f.write_str(&route.to_string().replacen(" add ", " prepend ", 1))
            }
            Self::AddTableRoute { table, route } => write!(f, "{route} table {table}"),
            Self::DeleteRoute { dst, dev, metric } => {
                write!(f, "{} route del {dst}", ip_tool(Family::of_net(*dst)))?;
                if let Some(dev) = dev {
                    write!(f, " dev {dev}")?;
                }
                match metric {
                    0 => Ok(()),
                    metric => write!(f, " metric {metric}"),
                }
            }
            Self::SetNeighbour { dev, addr, mac, .. } => {
                write!(
                    f,
                    "ip neigh replace {addr} lladdr {mac} dev {dev} nud permanent"
                )
            }
            Self::DeleteNeighbour { dev, addr } => write!(f, "ip neigh del {addr} dev {dev}"),
            Self::AddFdb { dev, mac, dst } => {
                write!(
                    f,
                    "bridge fdb append {mac} dev {dev} dst {dst} self permanent"
                )
            }
            Self::DeleteFdb { dev, mac } => write!(f, "bridge fdb del {mac} dev {dev} self"),
            Self::Sysctl { name, value } => write!(f, "sysctl -w {name}={value}"),
            Self::Chain {
                family,
                table,
                chain,
                policy,
            } => {
                write!(f, "{} -t {} ", iptables_tool(*family), table.name())?;
                match policy {
                    None => write!(f, "-N {chain}"),
                    Some(ChainPolicy::Accept) => write!(f, "-P {chain} ACCEPT"),
                    Some(ChainPolicy::Drop) => write!(f, "-P {chain} DROP"),
                }
            }
            Self::Rule {
                family,
                table,
                chain,
                at,
                rule,
            } => {
                let line = rule_line(chain, rule, *family);
                let line = match (at, line.strip_prefix(&format!("-A {chain}"))) {
                    (Some(at), Some(rest)) => format!("-I {chain} {}{rest}", at + 1),
                    (Some(_) | None, _) => line,
                };
                write!(f, "{} -t {} {line}", iptables_tool(*family), table.name())
            }
            Self::DeleteRule {
                family,
                table,
                chain,
                rule,
            } => {
                let line = rule_line(chain, rule, *family).replacen("-A", "-D", 1);
                write!(f, "{} -t {} {line}", iptables_tool(*family), table.name())
            }
            Self::Nft(commands) => {
                let commands: Vec<String> = commands.iter().map(ToString::to_string).collect();
                write!(f, "nft '{}'", commands.join("; "))
            }
        }
    }
}

impl fmt::Display for NewLink {
    /// `ip link add …`; a network card is there already, so its line is a remark.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == NewLinkKind::Physical {
            return write!(f, "# {} mtu {} is a network card", self.name, self.mtu);
        }
        write!(f, "ip link add {}", self.name)?;
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        write!(f, " mtu {} type ", self.mtu)?;
        match &self.kind {
            NewLinkKind::Veth => f.write_str("veth"),
            NewLinkKind::Dummy => f.write_str("dummy"),
            NewLinkKind::Bridge => f.write_str("bridge"),
            NewLinkKind::Physical => Ok(()),
            NewLinkKind::Vxlan {
                vni,
                local,
                dstport,
                dev,
                learning,
            } => {
                write!(f, "vxlan id {vni} local {local} dstport {dstport}")?;
                if let Some(dev) = dev {
                    write!(f, " dev {dev}")?;
                }
                f.write_str(if *learning { "" } else { " nolearning" })
            }
        }
    }
}

impl fmt::Display for NewRoute {
    /// `ip route add …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RouteKind::Unicast => "",
            RouteKind::Local => "local ",
            RouteKind::Broadcast => "broadcast ",
            RouteKind::Blackhole => "blackhole ",
            RouteKind::Unreachable => "unreachable ",
            RouteKind::Prohibit => "prohibit ",
        };
        write!(
            f,
            "{} route add {kind}{}",
            ip_tool(Family::of_net(self.dst)),
            self.dst
        )?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        f.write_str(scope_words(self.scope))?;
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        f.write_str(if self.onlink { " onlink" } else { "" })
    }
}

const fn scope_words(scope: Scope) -> &'static str {
    match scope {
        Scope::Global => "",
        Scope::Site => " scope site",
        Scope::Link => " scope link",
        Scope::Host => " scope host",
    }
}

const fn ip_tool(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip -6",
    }
}

const fn iptables_tool(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}
