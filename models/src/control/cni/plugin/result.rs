//! The result of a plugin, and its form in each version of the specification.
//!
//! Source: containernetworking `cni` `pkg/types`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::go_json::{Decoder, Spot};
use super::net_conf::go_net;

/// What an attachment looks like, version 1.1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpConfig>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Name servers and search lists.
    pub dns: Dns,
}

/// An interface that was made or used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Path of its namespace; empty for one of the node.
    pub sandbox: String,
}

/// An address with its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// Address and length of the prefix.
    pub address: IpNet,
    /// Gateway, if there is one.
    pub gateway: Option<IpAddr>,
    /// Which interface of the result has it.
    pub interface: Option<usize>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Gateway.
    pub gw: Option<IpAddr>,
    /// MTU, bytes; 0 is none.
    pub mtu: i64,
    /// Advertised maximal segment size, bytes; 0 is none.
    pub advmss: i64,
    /// Metric; 0 is none.
    pub priority: i64,
    /// Routing table.
    pub table: Option<i64>,
    /// Scope, as a number.
    pub scope: Option<i64>,
    /// Whether Go holds the mask of an IPv4 destination in 16 bytes; only error messages show it.
    pub mapped_mask: bool,
}

/// Settings of a resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// The own domain.
    pub domain: String,
    /// Search list.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// Which version a result is printed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printed {
    /// That of the configuration.
    Asked,
    /// The newest one, whatever the configuration says.
    Newest,
}

/// Which shape a version has.
enum Shape {
    /// One address a family, each with its routes.
    V02,
    /// A list of addresses that name their family.
    V03,
    /// A list of addresses.
    V1,
}

impl CniResult {
    /// Returns the result as a version of the specification has it; the empty version is 0.1.0.
    ///
    /// # Errors
    /// If the version is unknown, or 0.2.0 and older are asked for without any address.
    pub fn to_json(&self, version: &str) -> Result<Value, String> {
        self.to_json_as(Printed::Asked, version)
    }

    /// Returns the result in one of two shapes; it says that it is of the version of the configuration in any case.
    ///
    /// # Errors
    /// As [`Self::to_json`].
    pub(super) fn to_json_as(&self, printed: Printed, version: &str) -> Result<Value, String> {
        let version = if version.is_empty() { "0.1.0" } else { version };
        let shape = match version {
            _ if printed == Printed::Newest => Shape::V1,
            "0.1.0" | "0.2.0" => Shape::V02,
            "0.3.0" | "0.3.1" | "0.4.0" => Shape::V03,
            "1.0.0" | "1.1.0" => Shape::V1,
            other => {
                return Err(format!("unsupported CNI result version {other:?}"));
            }
        };
        let mut map = Map::new();
        map.insert("cniVersion".into(), version.into());
        let dns = self.dns.to_json();
        if !dns.is_empty() || !matches!(shape, Shape::V1) {
            map.insert("dns".into(), Value::Object(dns));
        }
        match shape {
            Shape::V02 => {
                let of = |v4: bool| self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == v4);
                let (ip4, ip6) = (of(true), of(false));
                if ip4.is_none() && ip6.is_none() {
                    return Err("cannot convert: no valid IP addresses".to_owned());
                }
                for (key, ip) in [("ip4", ip4), ("ip6", ip6)] {
                    if let Some(ip) = ip {
                        map.insert(key.into(), self.family(ip));
                    }
                }
            }
            Shape::V03 | Shape::V1 => {
                let named = matches!(shape, Shape::V03);
                let ips: Vec<Value> = self.ips.iter().map(|ip| ip.to_json(named)).collect();
                let routes: Vec<Value> = self.routes.iter().map(Route::to_json).collect();
                let interfaces: Vec<Value> =
                    self.interfaces.iter().map(Interface::to_json).collect();
                for (key, list) in [("interfaces", interfaces), ("ips", ips), ("routes", routes)] {
                    if !list.is_empty() {
                        map.insert(key.into(), list.into());
                    }
                }
            }
        }
        Ok(Value::Object(map))
    }

    /// Reads a result that a plugin of this version printed.
    ///
    /// # Errors
    /// If something is of a wrong type.
    pub fn from_json(value: &Value, version: &str) -> Result<Self, String> {
        let mut result = Self::default();
        let mut decoder = Decoder::default();
        let names = ["interfaces", "ips", "routes", "dns", "ip4", "ip6"];
        let go_type = "types040.Result";
        let root = Spot::root();
        decoder.object(
            value,
            &root,
            "Result",
            go_type,
            &names,
            |d, name, v, at| match name {
                "interfaces" => d.array(v, at, "[]*types.Interface", |d, v, at| {
                    result.interfaces.push(Interface::decode(d, v, at));
                }),
                "ips" => d.array(v, at, "[]*types.IPConfig", |d, v, at| {
                    result.ips.extend(IpConfig::decode(d, v, at).0);
                }),
                "routes" => Route::decode_list(d, v, at, &mut result.routes),
                "dns" => result.dns.decode(d, v, at),
                _ if matches!(version, "" | "0.1.0" | "0.2.0") => {
                    let (ip, routes) = IpConfig::decode(d, v, at);
                    result.ips.extend(ip);
                    result.routes.extend(routes);
                }
                _ => {}
            },
        );
        decoder.finish(result)
    }

    /// One family as 0.2.0 has it: only destination and gateway of routes are kept.
    fn family(&self, ip: &IpConfig) -> Value {
        let v4 = ip.address.addr().is_ipv4();
        let mut map = Map::new();
        if let Some(gateway) = ip.gateway {
            map.insert("gateway".into(), gateway.to_string().into());
        }
        map.insert("ip".into(), ip.address.to_string().into());
        let routes = self.routes.iter().filter(|r| r.dst.addr().is_ipv4() == v4);
        let routes: Vec<Value> = routes.map(|r| r.plain().to_json()).collect();
        if !routes.is_empty() {
            map.insert("routes".into(), routes.into());
        }
        Value::Object(map)
    }
}

impl Interface {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("name".into(), self.name.clone().into());
        for (key, text) in [("mac", &self.mac), ("sandbox", &self.sandbox)] {
            if !text.is_empty() {
                map.insert(key.into(), text.clone().into());
            }
        }
        Value::Object(map)
    }
}

impl Interface {
    fn decode(d: &mut Decoder, value: &Value, at: &Spot) -> Self {
        let mut read = Self::default();
        let names = ["name", "mac", "sandbox"];
        d.object(
            value,
            at,
            "Interface",
            "types.Interface",
            &names,
            |d, name, v, at| match name {
                "name" => d.string(v, at, &mut read.name),
                "mac" => d.string(v, at, &mut read.mac),
                _ => d.string(v, at, &mut read.sandbox),
            },
        );
        read
    }
}

impl IpConfig {
    /// Reads an address; that of version 0.2.0 has its routes with it.
    fn decode(d: &mut Decoder, value: &Value, at: &Spot) -> (Option<Self>, Vec<Route>) {
        let (mut address, mut gateway, mut interface) = (None, None, None);
        let mut routes = Vec::new();
        let names = ["address", "ip", "gateway", "interface", "routes"];
        d.object(
            value,
            at,
            "IPConfig",
            "types.IPConfig",
            &names,
            |d, name, v, at| match name {
                "address" | "ip" => d.ip_net(v, at, &mut address),
                "gateway" => d.ip(v, at, &mut gateway),
                "interface" => d.int(v, at, &mut interface),
                _ => Route::decode_list(d, v, at, &mut routes),
            },
        );
        let read = address.map(|address| Self {
            address,
            gateway,
            interface: interface.and_then(|n| usize::try_from(n).ok()),
        });
        (read, routes)
    }

    fn to_json(self, named: bool) -> Value {
        let mut map = Map::new();
        if let Some(interface) = self.interface {
            map.insert("interface".into(), interface.into());
        }
        map.insert("address".into(), self.address.to_string().into());
        if let Some(gateway) = self.gateway {
            map.insert("gateway".into(), gateway.to_string().into());
        }
        if named {
            let version = if self.address.addr().is_ipv4() {
                "4"
            } else {
                "6"
            };
            map.insert("version".into(), version.into());
        }
        Value::Object(map)
    }
}

impl Route {
    const NAMES: [&'static str; 7] = ["dst", "gw", "mtu", "advmss", "priority", "table", "scope"];

    /// Reads routes; one without a destination, which the real plugin would take as the empty prefix, is an error.
    pub(super) fn decode_list(d: &mut Decoder, value: &Value, at: &Spot, into: &mut Vec<Self>) {
        d.array(value, at, "[]*types.Route", |d, value, at| {
            let (mut dst, mut gw) = (None, None);
            let mut numbers = [None; 5];
            let [mtu, advmss, priority, table, scope] = &mut numbers;
            d.object(
                value,
                at,
                "route",
                "types.route",
                &Self::NAMES,
                |d, name, v, at| match name {
                    "dst" => d.ip_net(v, at, &mut dst),
                    "gw" => d.ip(v, at, &mut gw),
                    "mtu" => d.int(v, at, mtu),
                    "advmss" => d.int(v, at, advmss),
                    "priority" => d.int(v, at, priority),
                    "table" => d.int(v, at, table),
                    _ => d.int(v, at, scope),
                },
            );
            let [mtu, advmss, priority, table, scope] = numbers;
            match dst {
                Some(dst) => into.push(Self {
                    dst,
                    gw,
                    mtu: mtu.unwrap_or(0),
                    advmss: advmss.unwrap_or(0),
                    priority: priority.unwrap_or(0),
                    table,
                    scope,
                    mapped_mask: false,
                }),
                None => d.save("invalid CIDR address: ".to_owned()),
            }
        });
    }

    /// Returns a route of which only the destination is known.
    pub(super) const fn to(dst: IpNet) -> Self {
        Self {
            dst,
            gw: None,
            mtu: 0,
            advmss: 0,
            priority: 0,
            table: None,
            scope: None,
            mapped_mask: false,
        }
    }

    fn plain(&self) -> Self {
        Self {
            gw: self.gw,
            ..Self::to(self.dst)
        }
    }

    /// Returns the route as Go prints it.
    pub(super) fn go_text(&self) -> String {
        let number = |n: Option<i64>| n.map_or_else(|| "<nil>".to_owned(), |n| n.to_string());
        let gw = self
            .gw
            .map_or_else(|| "<nil>".to_owned(), |gw| gw.to_string());
        format!(
            "{{Dst:{} GW:{gw} MTU:{} AdvMSS:{} Priority:{} Table:{} Scope:{}}}",
            go_net(self.dst, self.mapped_mask)
                .replacen('{', "{IP:", 1)
                .replacen(' ', " Mask:", 1),
            self.mtu,
            self.advmss,
            self.priority,
            number(self.table),
            number(self.scope)
        )
    }

    fn to_json(&self) -> Value {
        let mut map = Map::new();
        let some = |n: i64| (n != 0).then_some(n);
        let number = |map: &mut Map<String, Value>, key: &str, n: Option<i64>| {
            if let Some(n) = n {
                map.insert(key.into(), n.into());
            }
        };
        number(&mut map, "advmss", some(self.advmss));
        map.insert("dst".into(), self.dst.to_string().into());
        if let Some(gw) = self.gw {
            map.insert("gw".into(), gw.to_string().into());
        }
        number(&mut map, "mtu", some(self.mtu));
        number(&mut map, "priority", some(self.priority));
        number(&mut map, "scope", self.scope);
        number(&mut map, "table", self.table);
        Value::Object(map)
    }
}

impl Dns {
    /// Returns whether a configuration left it out.
    pub(super) const fn is_unset(&self) -> bool {
        self.nameservers.is_empty()
            && self.search.is_empty()
            && self.options.is_empty()
            && self.domain.is_empty()
    }

    pub(super) fn decode(&mut self, d: &mut Decoder, value: &Value, at: &Spot) {
        let names = ["nameservers", "domain", "search", "options"];
        d.object(
            value,
            at,
            "DNS",
            "types.DNS",
            &names,
            |d, name, v, at| match name {
                "nameservers" => d.strings(v, at, &mut self.nameservers),
                "domain" => d.string(v, at, &mut self.domain),
                "search" => d.strings(v, at, &mut self.search),
                _ => d.strings(v, at, &mut self.options),
            },
        );
    }

    fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        if !self.domain.is_empty() {
            map.insert("domain".into(), self.domain.clone().into());
        }
        let lists = [
            ("nameservers", &self.nameservers),
            ("options", &self.options),
            ("search", &self.search),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                map.insert(key.into(), list.clone().into());
            }
        }
        map
    }

    /// Reads a `resolv.conf`.
    pub(super) fn from_resolv_conf(text: &str) -> Self {
        let mut dns = Self::default();
        let comment = |line: &&str| !line.starts_with(['#', ';']);
        for line in text.lines().map(str::trim).filter(comment) {
            let mut words = line.split_whitespace().map(str::to_owned);
            let (Some(key), Some(first)) = (words.next(), words.next()) else {
                continue;
            };
            match &*key {
                "nameserver" => dns.nameservers.push(first),
                "domain" => dns.domain = first,
                "search" => dns.search.extend(std::iter::once(first).chain(words)),
                "options" => dns.options.extend(std::iter::once(first).chain(words)),
                _ => {}
            }
        }
        dns
    }
}
