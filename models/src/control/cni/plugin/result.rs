//! The result of a plugin, and its form in each version of the specification.
//!
//! Source: containernetworking `cni` `pkg/types`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::go_json::{Decoder, Spot};

/// What an attachment looks like, version 1.1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Addresses.
    pub ips: Vec<IpConfig>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Name servers and search lists.
    pub dns: Dns,
}

/// An address with its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// Address and length of the prefix.
    pub address: IpNet,
    /// Gateway, if there is one.
    pub gateway: Option<IpAddr>,
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
        let version = if version.is_empty() { "0.1.0" } else { version };
        let shape = match version {
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
        if !dns.is_empty() {
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
                for (key, list) in [("ips", ips), ("routes", routes)] {
                    if !list.is_empty() {
                        map.insert(key.into(), list.into());
                    }
                }
            }
        }
        Ok(Value::Object(map))
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

impl IpConfig {
    fn to_json(self, named: bool) -> Value {
        let mut map = Map::new();
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
                }),
                None => d.save("invalid CIDR address: ".to_owned()),
            }
        });
    }

    fn plain(&self) -> Self {
        Self {
            mtu: 0,
            advmss: 0,
            priority: 0,
            table: None,
            scope: None,
            ..self.clone()
        }
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
