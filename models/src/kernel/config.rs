//! Changes to a namespace, as data: what `ip`, `bridge`, `sysctl` and `iptables-restore` would be told.
//!
//! Everything programmed into a namespace goes through here, so that the same list can be applied to a simulated
//! namespace, printed as commands, or carried out on a real machine.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::link::{PortFlags, Scope};
use super::netfilter::chain::{ChainPolicy, Rule, Table};
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
    /// `ip route del`.
    DeleteRoute {
        /// Destination.
        dst: IpNet,
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
    /// The setting does not take that value, or the arguments do not fit.
    #[error("Invalid argument ({0})")]
    Invalid(String),
    /// No such chain.
    #[error("iptables: No chain/target/match by that name ({0})")]
    NoChain(Arc<str>),
}
