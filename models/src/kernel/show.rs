//! What `ip`, `bridge` and `sysctl` print about a namespace.
//!
//! `iptables-save` is in [`super::netfilter::save`], `conntrack -L` in [`super::conntrack`]. Leaves out what nothing
//! here has: peer indexes (`eth0@if5`), queueing disciplines other than the usual word, lifetimes of addresses.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::Netns;
use super::link::{Device, DeviceKind, IfAddr, Scope};
use super::neighbour::{NeighbourKey, NeighbourState};
use crate::base::{Family, Mac, Time};

impl Netns {
    /// Returns what `ip link` prints.
    pub fn show_link(&self) -> String {
        let devices = self.devices.iter().flatten();
        devices.map(|d| self.link_text(d)).collect()
    }

    /// Returns what `ip addr` prints.
    pub fn show_addr(&self) -> String {
        let mut text = String::new();
        for device in self.devices.iter().flatten() {
            text += &self.link_text(device);
            let families = [Family::V4, Family::V6];
            for family in families {
                let addrs = device.addrs.iter();
                for addr in addrs.filter(|a| Family::of_net(a.net) == family) {
                    text += &addr_text(device, addr);
                }
            }
        }
        text
    }

    /// Returns what `ip route` (or `ip -6 route`) prints: table main. Each line ends with a space.
    pub fn show_route(&self, family: Family) -> String {
        let routes = self.fib.main(family);
        routes.iter().map(|r| self.route_text(r) + " \n").collect()
    }

    /// Returns what `ip route show table local` prints.
    pub fn show_route_local(&self, family: Family) -> String {
        let routes = self.fib.local(family);
        routes.iter().map(|r| self.route_text(r) + " \n").collect()
    }

    /// Returns what `ip neigh` prints at the moment `now`.
    pub fn show_neigh(&self, now: Time) -> String {
        let mut text = String::new();
        for (NeighbourKey(dev, addr), entry) in &self.neighbours.entries {
            text += &addr.to_string();
            if let Some(device) = self.device(*dev) {
                text = text + " dev " + &device.name;
            }
            text += &lladdr(&entry.state);
            text = text + " " + entry.state.name(now) + " \n";
        }
        text
    }

    /// Returns what `bridge fdb` prints: the entries of bridges, then those of VXLAN devices.
    pub fn show_fdb(&self) -> String {
        let mut text = String::new();
        for device in self.devices.iter().flatten() {
            match &device.kind {
                DeviceKind::Bridge(bridge) => {
                    for (mac, entry) in &bridge.fdb {
                        let port = self.device(entry.port).map_or("?", |d| &d.name);
                        let permanent = if entry.permanent { " permanent" } else { "" };
                        let master = &device.name;
                        line(
                            &mut text,
                            format_args!("{mac} dev {port} master {master}{permanent}"),
                        );
                    }
                }
                DeviceKind::Vxlan(vxlan) => {
                    for (mac, dst) in &vxlan.fdb {
                        let name = &device.name;
                        line(
                            &mut text,
                            format_args!("{mac} dev {name} dst {dst} self permanent"),
                        );
                    }
                }
                DeviceKind::Loopback
                | DeviceKind::Veth
                | DeviceKind::Physical
                | DeviceKind::Dummy => {}
            }
        }
        text
    }

    /// Returns what `sysctl -a` prints of the settings that exist here.
    pub fn show_sysctl(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.sysctls.texts() {
            line(&mut text, format_args!("{name} = {value}"));
        }
        text
    }

    fn link_text(&self, device: &Device) -> String {
        let loopback = matches!(device.kind, DeviceKind::Loopback);
        let flags = match (loopback, device.up) {
            (true, true) => "LOOPBACK,UP,LOWER_UP",
            (true, false) => "LOOPBACK",
            (false, true) => "BROADCAST,MULTICAST,UP,LOWER_UP",
            (false, false) => "BROADCAST,MULTICAST",
        };
        let state = match (&device.kind, device.up) {
            (_, false) => "DOWN",
            (DeviceKind::Loopback | DeviceKind::Dummy | DeviceKind::Vxlan(_), true) => "UNKNOWN",
            (DeviceKind::Veth | DeviceKind::Physical | DeviceKind::Bridge(_), true) => "UP",
        };
        let qdisc = match device.kind {
            DeviceKind::Physical => "fq_codel",
            DeviceKind::Loopback
            | DeviceKind::Veth
            | DeviceKind::Dummy
            | DeviceKind::Bridge(_)
            | DeviceKind::Vxlan(_) => "noqueue",
        };
        let master = device.master.and_then(|m| self.device(m));
        let master = master.map_or_else(String::new, |m| format!(" master {}", m.name));
        let (link, broadcast) = if loopback {
            ("loopback", Mac::ZERO)
        } else {
            ("ether", Mac::BROADCAST)
        };
        format!(
            "{}: {}: <{flags}> mtu {} qdisc {qdisc}{master} state {state} group default qlen 1000\n    \
             link/{link} {} brd {broadcast}\n",
            device.index.0, device.name, device.mtu, device.mac
        )
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("a String takes everything");
}

fn lladdr(state: &NeighbourState) -> String {
    state
        .mac()
        .map_or_else(String::new, |mac| format!(" lladdr {mac}"))
}

fn addr_text(device: &Device, addr: &IfAddr) -> String {
    let scope = match addr.scope {
        Scope::Global => "global",
        Scope::Site => "site",
        Scope::Link => "link",
        Scope::Host => "host",
    };
    let secondary = if addr.secondary { " secondary" } else { "" };
    let first = match addr.net {
        IpNet::V4(v4) => {
            let brd = if v4.prefix_len() < 31 && scope != "host" {
                format!(" brd {}", v4.broadcast())
            } else {
                String::new()
            };
            format!("inet {v4}{brd} scope {scope}{secondary} {}", device.name)
        }
        IpNet::V6(v6) => format!("inet6 {v6} scope {scope}"),
    };
    format!("    {first}\n       valid_lft forever preferred_lft forever\n")
}
