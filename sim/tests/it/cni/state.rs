//! What `ip`, `bridge`, `iptables-save`, `nft` and `sysctl` would print of a namespace, in the form of the recordings.
//!
//! Compared is what depends on anybody's doing. Left out of both sides: lengths of queues, constants of bridges and ports,
//! the broadcast address and `nodad` that an address was given with, the index of a port's other end read as one of this side, neighbours, learned entries.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use podwire_models::base::{Family, Mac};
use podwire_models::cluster::Cluster;
use podwire_models::kernel::Netns;
use podwire_models::kernel::config::RouteKind;
use podwire_models::kernel::link::{Device, DeviceKind, Scope};
use podwire_models::kernel::netfilter::nft::Nft;
use podwire_models::kernel::route::Route;
use podwire_models::wire::DevIndex;
use serde_json::{Map, Value, json};

/// The sections of a captured state that are compared.
pub(crate) const SECTIONS: [&str; 12] = [
    "addr",
    "link",
    "route4",
    "route6",
    "rule4",
    "rule6",
    "bridge_link",
    "fdb",
    "iptables",
    "ip6tables",
    "nft",
    "sysctl",
];

/// One section of a namespace's state.
pub(crate) fn section(cluster: &Cluster, ns: &Netns, name: &str) -> Value {
    let state = State { cluster, ns };
    let list: Vec<Value> = match name {
        "addr" => state.devices().map(|d| state.addr(d)).collect(),
        "link" => state.devices().map(|d| state.link(d)).collect(),
        "route4" => state.routes(Family::V4),
        "route6" => state.routes(Family::V6),
        "rule4" => rules(&[(0, "local"), (32766, "main"), (32767, "default")]),
        "rule6" => rules(&[(0, "local"), (32766, "main")]),
        "bridge_link" => state.devices().filter_map(|d| state.port(d)).collect(),
        "fdb" => state.devices().flat_map(|d| state.fdb(d)).collect(),
        "iptables" => state.dump(Family::V4),
        "ip6tables" => state.dump(Family::V6),
        "nft" => {
            let nft = ns.netfilter.as_ref().and_then(|netfilter| netfilter.nft());
            let text = nft.map_or_else(String::new, Nft::list);
            text.lines().map(Value::from).collect()
        }
        "sysctl" => return state.sysctl(),
        other => panic!("no section {other}"),
    };
    ordered(name, list)
}

/// A recorded section, without what is left out.
pub(crate) fn recorded(name: &str, value: &Value) -> Value {
    let Some(list) = value.as_array() else {
        return value.clone();
    };
    let keys: &[&str] = match name {
        "addr" => &[
            "ifname",
            "flags",
            "mtu",
            "master",
            "operstate",
            "link_type",
            "address",
            "addr_info",
        ],
        "link" => &[
            "ifname",
            "flags",
            "mtu",
            "master",
            "operstate",
            "link_type",
            "address",
            "promiscuity",
            "allmulti",
            "linkinfo",
            "peer",
        ],
        "bridge_link" => &[
            "ifname", "flags", "mtu", "master", "state", "hairpin", "isolated",
        ],
        _ => &[],
    };
    let pick = |entry: &Value, keys: &[&str]| {
        let Some(map) = entry.as_object().filter(|_| !keys.is_empty()) else {
            return entry.clone();
        };
        let wanted = |(key, _): &(&String, &Value)| keys.contains(&key.as_str());
        let kept = map.iter().filter(wanted);
        Value::Object(
            kept.map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        )
    };
    let permanent = |entry: &&Value| name != "fdb" || entry["state"] == "permanent";
    let mut kept: Vec<Value> = list
        .iter()
        .filter(permanent)
        .map(|e| pick(e, keys))
        .collect();
    for entry in &mut kept {
        // The uplink of a node: the harness took whatever device had that index for its other end.
        let uplink = entry["ifname"] == "eth0"
            && entry["address"]
                .as_str()
                .is_some_and(|mac| mac.starts_with("<mac:node"));
        if let Some(map) = entry.as_object_mut().filter(|_| uplink) {
            map.remove("peer");
        }
        if let Some(addrs) = entry.get_mut("addr_info").and_then(Value::as_array_mut) {
            for addr in addrs {
                *addr = pick(
                    addr,
                    &[
                        "family",
                        "local",
                        "prefixlen",
                        "scope",
                        "secondary",
                        "label",
                    ],
                );
            }
        }
        if let Some(info) = entry.get_mut("linkinfo") {
            if let Some(slave) = info.get_mut("info_slave_data") {
                *slave = pick(slave, &["state", "hairpin", "isolated"]);
            }
            *info = pick(info, &["info_kind", "info_slave_kind", "info_slave_data"]);
        }
    }
    ordered(name, kept)
}

/// In an order that both sides have: chains by name, everything else by its text.
fn ordered(name: &str, mut list: Vec<Value>) -> Value {
    match name {
        "iptables" | "ip6tables" => {
            let mut table = 0;
            list.sort_by_cached_key(|line| {
                let line = line.as_str().unwrap();
                table += usize::from(line.starts_with('*'));
                let rank = match line.chars().next() {
                    Some('*') => 0,
                    Some(':') => 1,
                    Some('-') => 2,
                    _ => 3,
                };
                let chain = line.split(' ').nth(usize::from(rank == 2)).unwrap_or("");
                (table, rank, chain.to_owned())
            });
        }
        "addr" | "link" => {}
        "nft" => {
            // Tables in any order, their lines as they are.
            let mut table = String::new();
            let of = |line: &Value| {
                let line = line.as_str().unwrap();
                if line.starts_with("table ") {
                    line.clone_into(&mut table);
                }
                table.clone()
            };
            list.sort_by_cached_key(of);
        }
        _ => list.sort_by_cached_key(Value::to_string),
    }
    list.into()
}

fn rules(rules: &[(u32, &str)]) -> Vec<Value> {
    let rule = |(priority, table): &(u32, &str)| json!({"priority": priority, "src": "all", "table": table});
    rules.iter().map(rule).collect()
}

struct State<'a> {
    cluster: &'a Cluster,
    ns: &'a Netns,
}

impl<'a> State<'a> {
    fn devices(&self) -> impl Iterator<Item = &'a Device> {
        self.ns.devices.iter().flatten()
    }

    fn carries(&self, device: &Device) -> bool {
        self.cluster.carries((self.ns.id, device.index))
    }

    fn flags(&self, device: &Device) -> Value {
        let mut flags = Vec::new();
        let carries = self.carries(device);
        if device.up && !carries {
            flags.push("NO-CARRIER");
        }
        if device.index == DevIndex::LO {
            flags.push("LOOPBACK");
        } else {
            flags.extend(["BROADCAST", "MULTICAST"]);
        }
        if device.promisc {
            flags.push("PROMISC");
        }
        if device.up {
            flags.push("UP");
        }
        if carries {
            flags.push("LOWER_UP");
        }
        flags.into()
    }

    fn operstate(&self, device: &Device) -> &'static str {
        let told = match &device.kind {
            DeviceKind::Bridge(bridge) => bridge.had_port,
            DeviceKind::Veth | DeviceKind::Physical => true,
            DeviceKind::Loopback | DeviceKind::Dummy | DeviceKind::Vxlan(_) => false,
        };
        match (device.up, told, self.carries(device)) {
            (false, ..) => "DOWN",
            (true, false, _) => "UNKNOWN",
            (true, true, true) => "UP",
            (true, true, false) => {
                // `default_operstate` looks for the other end's index among the devices of this side.
                let peer = self.cluster.peer((self.ns.id, device.index));
                let lower = peer.and_then(|(_, index)| self.ns.device(index));
                let lower = lower.filter(|lower| lower.index != device.index);
                if lower.is_some_and(|lower| !self.carries(lower)) {
                    "LOWERLAYERDOWN"
                } else {
                    "DOWN"
                }
            }
        }
    }

    fn common(&self, device: &Device) -> Map<String, Value> {
        let lo = device.index == DevIndex::LO;
        let mut map = Map::new();
        map.insert("ifname".into(), (*device.name).into());
        map.insert("flags".into(), self.flags(device));
        map.insert("mtu".into(), device.mtu.into());
        if let Some(master) = device.master.and_then(|m| self.ns.device(m)) {
            map.insert("master".into(), (*master.name).into());
        }
        map.insert("operstate".into(), self.operstate(device).into());
        let kind = if lo { "loopback" } else { "ether" };
        map.insert("link_type".into(), kind.into());
        map.insert("address".into(), device.mac.to_string().into());
        map
    }

    fn addr(&self, device: &Device) -> Value {
        let mut infos = Vec::new();
        for family in Family::ALL {
            for addr in device
                .addrs
                .iter()
                .filter(|a| Family::of_net(a.net) == family)
            {
                let mut info = Map::new();
                let name = match family {
                    Family::V4 => "inet",
                    Family::V6 => "inet6",
                };
                info.insert("family".into(), name.into());
                info.insert("local".into(), addr.net.addr().to_string().into());
                info.insert("prefixlen".into(), addr.net.prefix_len().into());
                info.insert("scope".into(), scope(addr.scope).into());
                if addr.secondary {
                    info.insert("secondary".into(), true.into());
                }
                if family == Family::V4 {
                    info.insert("label".into(), (*device.name).into());
                }
                infos.push(Value::Object(info));
            }
        }
        if device.link_local.is_some() {
            let local = self.link_local(device);
            infos
                .push(json!({"family": "inet6", "local": local, "prefixlen": 64, "scope": "link"}));
        }
        let mut map = self.common(device);
        map.insert("addr_info".into(), infos.into());
        Value::Object(map)
    }

    /// The recordings name these after the device.
    fn link_local(&self, device: &Device) -> String {
        format!("<ll:{}/{}>", self.ns.name, device.name)
    }

    fn link(&self, device: &Device) -> Value {
        let mut map = self.common(device);
        let port = device.master.is_some();
        let promiscuity = u32::from(device.promisc) + u32::from(port);
        map.insert("promiscuity".into(), promiscuity.into());
        if port {
            map.insert("allmulti".into(), 1.into());
        }
        let kind = match device.kind {
            DeviceKind::Loopback | DeviceKind::Physical => None,
            DeviceKind::Veth => Some("veth"),
            DeviceKind::Dummy => Some("dummy"),
            DeviceKind::Bridge(_) => Some("bridge"),
            DeviceKind::Vxlan(_) => Some("vxlan"),
        };
        if let Some(kind) = kind {
            let mut info = json!({"info_kind": kind});
            if port {
                info["info_slave_kind"] = "bridge".into();
                info["info_slave_data"] = json!({
                    "state": self.port_state(device),
                    "hairpin": device.port.hairpin,
                    "isolated": device.port.isolated,
                });
            }
            map.insert("linkinfo".into(), info);
        }
        let peer = self.cluster.peer((self.ns.id, device.index));
        if let Some((id, index)) = peer.filter(|_| &*device.name != "eth0" || !self.is_node()) {
            let other = self.cluster.netns(id).unwrap();
            let name = &other.device(index).unwrap().name;
            map.insert("peer".into(), format!("{}/{name}", other.name).into());
        }
        Value::Object(map)
    }

    fn is_node(&self) -> bool {
        self.ns.name.starts_with("node")
    }

    fn port_state(&self, device: &Device) -> &'static str {
        let bridge_up = device
            .master
            .and_then(|m| self.ns.device(m))
            .is_some_and(|b| b.up);
        if bridge_up && self.carries(device) {
            "forwarding"
        } else {
            "disabled"
        }
    }

    fn port(&self, device: &Device) -> Option<Value> {
        let master = self.ns.device(device.master?)?;
        Some(json!({
            "ifname": *device.name,
            "flags": self.flags(device),
            "mtu": device.mtu,
            "master": *master.name,
            "state": self.port_state(device),
            "hairpin": device.port.hairpin,
            "isolated": device.port.isolated,
        }))
    }

    fn routes(&self, family: Family) -> Vec<Value> {
        let fib = &self.ns.fib;
        let main = fib.main(family).into_iter().map(|r| (None, r));
        let local = fib
            .local(family)
            .into_iter()
            .map(|r| (Some("local".to_owned()), r));
        let others = fib
            .others()
            .iter()
            .map(|(table, r)| (Some(table.to_string()), r));
        let others = others.filter(|(_, r)| Family::of_net(r.dst) == family);
        let all = main.chain(local).chain(others);
        let mut routes: Vec<Value> = all.map(|(table, r)| self.route(table, r)).collect();
        if family == Family::V6 {
            routes.extend(self.devices().flat_map(|d| self.own_routes(d)));
        }
        routes
    }

    fn route(&self, table: Option<String>, route: &Route) -> Value {
        let mut map = Map::new();
        let v6 = matches!(route.dst, IpNet::V6(_));
        let kind = match route.kind {
            RouteKind::Unicast => None,
            RouteKind::Local => Some("local"),
            RouteKind::Broadcast => Some("broadcast"),
            RouteKind::Blackhole => Some("blackhole"),
            RouteKind::Unreachable => Some("unreachable"),
            RouteKind::Prohibit => Some("prohibit"),
        };
        if let Some(kind) = kind {
            map.insert("type".into(), kind.into());
        }
        let dst = match route.dst {
            net if net.prefix_len() == 0 => "default".to_owned(),
            net if net.prefix_len() == Family::of_net(net).bits() => net.addr().to_string(),
            net => net.to_string(),
        };
        map.insert("dst".into(), dst.into());
        if let Some(gateway) = route.gateway {
            map.insert("gateway".into(), gateway.to_string().into());
        }
        let device = route.dev.and_then(|dev| self.ns.device(dev));
        if let Some(device) = device {
            map.insert("dev".into(), (*device.name).into());
        }
        if let Some(table) = &table {
            map.insert("table".into(), table.as_str().into());
        }
        if route.kernel {
            map.insert("protocol".into(), "kernel".into());
        }
        if !v6 && route.scope != Scope::Global {
            map.insert("scope".into(), scope(route.scope).into());
        }
        if route.metric != 0 || v6 {
            map.insert("metric".into(), route.metric.into());
        }
        if let Some(src) = route.src {
            map.insert("prefsrc".into(), src.to_string().into());
        }
        let mut flags = Vec::new();
        let stands = route.kind == RouteKind::Local;
        if device.is_some_and(|d| !self.carries(d)) && !stands {
            flags.push("linkdown");
        }
        if route.onlink {
            flags.push("onlink");
        }
        map.insert("flags".into(), flags.into());
        if v6 {
            map.insert("pref".into(), "medium".into());
        }
        Value::Object(map)
    }

    /// What the kernel adds by itself for IPv6 on a device: link-local, multicast, and anycast on a router.
    fn own_routes(&self, device: &Device) -> Vec<Value> {
        let mut routes = Vec::new();
        let dev = &*device.name;
        let down: &[&str] = if self.carries(device) {
            &[]
        } else {
            &["linkdown"]
        };
        if device.link_local.is_some() {
            let local = self.link_local(device);
            routes.push(json!({"dst": "fe80::/64", "dev": dev, "protocol": "kernel", "metric": 256, "flags": down, "pref": "medium"}));
            routes.push(json!({"type": "local", "dst": local, "dev": dev, "table": "local", "protocol": "kernel", "metric": 0, "flags": [], "pref": "medium"}));
            routes.push(json!({"type": "multicast", "dst": "ff00::/8", "dev": dev, "table": "local", "protocol": "kernel", "metric": 256, "flags": down, "pref": "medium"}));
        }
        for net in self.anycast(device) {
            routes.push(json!({"type": "anycast", "dst": net.to_string(), "dev": dev, "table": "local", "protocol": "kernel", "metric": 0, "flags": [], "pref": "medium"}));
        }
        routes
    }

    fn forwards_v6(&self) -> bool {
        self.ns.sysctls.forwarding(Family::V6)
    }

    /// A router answers to the first address of every prefix (RFC 4291 §2.6.1).
    fn anycast(&self, device: &Device) -> Vec<Ipv6Addr> {
        if !self.forwards_v6() || device.index == DevIndex::LO {
            return Vec::new();
        }
        let addrs = device.addrs.iter().filter(|a| a.net.prefix_len() < 127);
        let mut nets: Vec<Ipv6Addr> = addrs
            .filter_map(|a| match a.net.network() {
                IpAddr::V6(v6) => Some(v6),
                IpAddr::V4(_) => None,
            })
            .collect();
        nets.extend(
            device
                .link_local
                .map(|_| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)),
        );
        nets.sort_unstable();
        nets.dedup();
        nets
    }

    fn fdb(&self, device: &Device) -> Vec<Value> {
        let mut entries = Vec::new();
        let name = &*device.name;
        if device.index == DevIndex::LO {
            return entries;
        }
        let mut groups: Vec<String> = vec!["33:33:00:00:00:01".into()];
        if self.forwards_v6() {
            groups.push("33:33:00:00:00:02".into());
        }
        if device.up {
            groups.push("01:00:5e:00:00:01".into());
            if matches!(device.kind, DeviceKind::Bridge(_)) {
                groups.extend(["01:00:5e:00:00:6a".into(), "33:33:00:00:00:6a".into()]);
            }
            let own = device.addrs.iter().filter_map(|a| match a.net.addr() {
                IpAddr::V6(v6) => Some(v6),
                IpAddr::V4(_) => None,
            });
            let mut solicited: Vec<String> = own
                .chain(self.anycast(device))
                .map(|v6| {
                    let [.., a, b, c] = v6.octets();
                    Mac([0x33, 0x33, 0xff, a, b, c]).to_string()
                })
                .collect();
            solicited.sort();
            solicited.dedup();
            groups.extend(solicited);
            if device.link_local.is_some() {
                groups.push(format!("<sn:{}/{name}>", self.ns.name));
            }
        }
        // A VXLAN device lists its tunnels instead.
        let tunnel = matches!(device.kind, DeviceKind::Vxlan(_));
        for group in groups.into_iter().filter(|_| !tunnel) {
            entries.push(
                json!({"mac": group, "ifname": name, "flags": ["self"], "state": "permanent"}),
            );
        }
        let mac = device.mac.to_string();
        if let Some(master) = device.master.and_then(|m| self.ns.device(m)) {
            entries.push(json!({"mac": mac, "ifname": name, "flags": [], "master": *master.name, "state": "permanent"}));
        }
        if let DeviceKind::Bridge(bridge) = &device.kind
            && (bridge.fixed_mac || !bridge.had_port)
        {
            entries.push(json!({"mac": mac, "ifname": name, "flags": [], "master": name, "state": "permanent"}));
        }
        if let DeviceKind::Vxlan(vxlan) = &device.kind {
            for (mac, dst) in &vxlan.fdb {
                entries.push(json!({"mac": mac.to_string(), "ifname": name, "dst": dst.to_string(), "flags": ["self"], "state": "permanent"}));
            }
        }
        entries
    }

    fn dump(&self, family: Family) -> Vec<Value> {
        let rules = self.ns.netfilter.as_ref().and_then(|n| n.rules(family));
        let text = rules.map_or_else(String::new, |rules| rules.ruleset().save(family));
        text.lines().map(Value::from).collect()
    }

    fn sysctl(&self) -> Value {
        let sysctls = &self.ns.sysctls;
        let forwarding = |family, dev: &str| match dev {
            "all" | "default" => sysctls.forwarding(family),
            dev => sysctls.forwards(family, dev),
        };
        let mut map = Map::new();
        let switch = |on: bool| Value::from(u32::from(on));
        map.insert(
            "ipv4.ip_forward".into(),
            switch(sysctls.forwarding(Family::V4)),
        );
        map.insert(
            "ipv6.conf.all.forwarding".into(),
            switch(sysctls.forwarding(Family::V6)),
        );
        for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            let value = sysctls.get(&format!("net.bridge.{name}")).unwrap();
            map.insert(format!("bridge.{name}"), value.into());
        }
        let devices = self.devices().map(|d| &*d.name);
        for dev in ["all", "default"].into_iter().chain(devices) {
            let mut conf = Map::new();
            let settings = [
                ("v4", "rp_filter"),
                ("v4", "proxy_arp"),
                ("v4", "arp_notify"),
                ("v4", "route_localnet"),
                ("v4", "accept_local"),
                ("v6", "disable_ipv6"),
                ("v6", "accept_dad"),
                ("v6", "accept_ra"),
                ("v6", "enhanced_dad"),
                ("v6", "autoconf"),
            ];
            for (family, setting) in settings {
                let full = format!("net.ip{family}.conf.{dev}.{setting}");
                let value = match (setting, dev) {
                    ("accept_dad", "all") => 0,
                    ("accept_dad", "lo") => -1,
                    _ => sysctls.get(&full).unwrap(),
                };
                conf.insert(format!("{family}.{setting}"), value.into());
            }
            conf.insert("v4.forwarding".into(), switch(forwarding(Family::V4, dev)));
            conf.insert("v6.forwarding".into(), switch(forwarding(Family::V6, dev)));
            map.insert(format!("conf.{dev}"), conf.into());
        }
        Value::Object(map)
    }
}

const fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Global => "global",
        Scope::Site => "site",
        Scope::Link => "link",
        Scope::Host => "host",
    }
}
