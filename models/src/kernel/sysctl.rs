//! The settings under `/proc/sys/net` that decide something here, with the kernel's defaults.
//!
//! Leaves out: everything that only tunes performance. Source: `Documentation/networking/ip-sysctl.rst`,
//! `nf_conntrack-sysctl.rst`; defaults as printed by Linux 6.18.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Family;

/// Settings that have one value per namespace: name and default.
pub const DEFAULTS: &[(&str, i64)] = &[
    ("net.bridge.bridge-nf-call-ip6tables", 1),
    ("net.bridge.bridge-nf-call-iptables", 1),
    ("net.ipv4.icmp_ratelimit", 1000),
    ("net.ipv4.icmp_ratemask", 6168),
    ("net.ipv4.ip_default_ttl", 64),
    ("net.ipv4.ip_forward", 0),
    ("net.ipv4.ip_local_port_range.first", 32768),
    ("net.ipv4.ip_local_port_range.last", 60999),
    ("net.netfilter.nf_conntrack_generic_timeout", 600),
    ("net.netfilter.nf_conntrack_icmp_timeout", 30),
    ("net.netfilter.nf_conntrack_icmpv6_timeout", 30),
    ("net.netfilter.nf_conntrack_max", 262_144),
    ("net.netfilter.nf_conntrack_sctp_timeout_established", 210),
    ("net.netfilter.nf_conntrack_sctp_timeout_cookie_wait", 3),
    ("net.netfilter.nf_conntrack_tcp_be_liberal", 0),
    ("net.netfilter.nf_conntrack_tcp_loose", 1),
    ("net.netfilter.nf_conntrack_tcp_timeout_close", 10),
    ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", 60),
    (
        "net.netfilter.nf_conntrack_tcp_timeout_established",
        432_000,
    ),
    ("net.netfilter.nf_conntrack_tcp_timeout_fin_wait", 120),
    ("net.netfilter.nf_conntrack_tcp_timeout_last_ack", 30),
    ("net.netfilter.nf_conntrack_tcp_timeout_syn_recv", 60),
    ("net.netfilter.nf_conntrack_tcp_timeout_syn_sent", 120),
    ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", 120),
    ("net.netfilter.nf_conntrack_tcp_timeout_unacknowledged", 300),
    ("net.netfilter.nf_conntrack_udp_timeout", 30),
    ("net.netfilter.nf_conntrack_udp_timeout_stream", 120),
];

/// Settings that have one value per device, under `net.ipv4.conf.DEV.` or `net.ipv6.conf.DEV.`, where DEV may
/// be `all` and `default`: family, name and default.
pub const DEVICE_DEFAULTS: [(Family, &str, i64); 6] = [
    (Family::V4, "accept_local", 0),
    (Family::V4, "forwarding", 0),
    (Family::V4, "proxy_arp", 0),
    (Family::V4, "route_localnet", 0),
    (Family::V4, "rp_filter", 0),
    (Family::V6, "forwarding", 0),
];

/// The settings of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// Values that somebody has written.
    written: BTreeMap<Arc<str>, i64>,
    /// Settings that every packet asks for.
    hot: Hot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "switches are booleans")]
struct Hot {
    forward_v4: bool,
    forward_v6: bool,
    bridge_v4: bool,
    bridge_v6: bool,
    ttl: u8,
    /// The values of `net.ipv4.conf.all`, in the order of [`DEVICE_DEFAULTS`].
    all: [i64; DEVICE_DEFAULTS.len()],
    /// That of `rp_filter`.
    rp_filter: i64,
    /// Whether any device has an IPv4 value of its own.
    per_device: bool,
}

impl Default for Sysctls {
    fn default() -> Self {
        let hot = Hot {
            forward_v4: false,
            forward_v6: false,
            bridge_v4: true,
            bridge_v6: true,
            ttl: 64,
            all: DEVICE_DEFAULTS.map(|(_, _, value)| value),
            rp_filter: 0,
            per_device: false,
        };
        Self {
            written: BTreeMap::new(),
            hot,
        }
    }
}

/// Splits `net.ipv4.conf.eth0.rp_filter` into family, device and name.
fn device_setting(name: &str) -> Option<(Family, &str, &str)> {
    let (family, rest) = match name.strip_prefix("net.ipv4.conf.") {
        Some(rest) => (Family::V4, rest),
        None => (Family::V6, name.strip_prefix("net.ipv6.conf.")?),
    };
    let (dev, setting) = rest.rsplit_once('.')?;
    Some((family, dev, setting))
}

fn default_of(name: &str) -> Option<i64> {
    if let Some((_, value)) = DEFAULTS.iter().find(|(known, _)| *known == name) {
        return Some(*value);
    }
    let (family, _, setting) = device_setting(name)?;
    let known = |(f, s, _): &&(Family, &str, i64)| *f == family && *s == setting;
    DEVICE_DEFAULTS
        .iter()
        .find(known)
        .map(|(_, _, value)| *value)
}

impl Sysctls {
    /// Returns a setting by its dotted name; `None` if there is no such setting.
    pub fn get(&self, name: &str) -> Option<i64> {
        self.written.get(name).copied().or_else(|| default_of(name))
    }

    /// Writes a setting; false if there is no such setting.
    pub fn set(&mut self, name: &str, value: i64) -> bool {
        if default_of(name).is_none() {
            return false;
        }
        self.forwarding_changes(name, value);
        self.written.insert(name.into(), value);
        if matches!(name, "net.ipv4.ip_forward" | "net.ipv4.conf.all.forwarding") {
            self.written.insert("net.ipv4.ip_forward".into(), value);
            self.written
                .insert("net.ipv4.conf.all.forwarding".into(), value);
        }
        self.hot = Hot {
            forward_v4: self.value("net.ipv4.ip_forward") != 0,
            forward_v6: self.value("net.ipv6.conf.all.forwarding") != 0,
            bridge_v4: self.value("net.bridge.bridge-nf-call-iptables") != 0,
            bridge_v6: self.value("net.bridge.bridge-nf-call-ip6tables") != 0,
            ttl: u8::try_from(self.value("net.ipv4.ip_default_ttl")).unwrap_or(64),
            all: DEVICE_DEFAULTS
                .map(|(_, setting, _)| self.value(&format!("net.ipv4.conf.all.{setting}"))),
            rp_filter: self.value("net.ipv4.conf.all.rp_filter"),
            per_device: self.hot.per_device
                || device_setting(name).is_some_and(|(_, dev, _)| dev != "all"),
        };
        true
    }

    /// When forwarding is switched on or off for all, every device follows (`inet_forward_change`,
    /// `addrconf_forward_change`).
    fn forwarding_changes(&mut self, name: &str, value: i64) {
        let family = match name {
            "net.ipv4.ip_forward" | "net.ipv4.conf.all.forwarding" => Family::V4,
            "net.ipv6.conf.all.forwarding" => Family::V6,
            _ => return,
        };
        if self.get(name) != Some(value) {
            self.written.retain(|name, _| {
                device_setting(name).is_none_or(|(of, dev, what)| {
                    of != family || dev == "all" || what != "forwarding"
                })
            });
        }
    }

    /// Returns whether packets for others that come in by a device are forwarded (`IN_DEV_FORWARD`).
    #[inline]
    pub fn forwards(&self, family: Family, dev: &str) -> bool {
        if !self.hot.per_device {
            return self.forwarding(family);
        }
        let own = match family {
            Family::V4 => format!("net.ipv4.conf.{dev}.forwarding"),
            Family::V6 => format!("net.ipv6.conf.{dev}.forwarding"),
        };
        let own = self.written.get(own.as_str()).map(|value| *value != 0);
        own.unwrap_or_else(|| self.forwarding(family))
    }

    /// Returns a setting that exists.
    fn value(&self, name: &str) -> i64 {
        self.get(name).unwrap_or(0)
    }

    /// Returns whether packets for others are forwarded, unless a device says otherwise.
    pub const fn forwarding(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.hot.forward_v4,
            Family::V6 => self.hot.forward_v6,
        }
    }

    /// Returns whether bridged packets cross the packet filter (`br_netfilter`).
    pub const fn bridge_nf_call(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.hot.bridge_v4,
            Family::V6 => self.hot.bridge_v6,
        }
    }

    /// Returns the time to live of packets this namespace makes.
    pub const fn default_ttl(&self) -> u8 {
        self.hot.ttl
    }

    /// Returns the reverse path filter of a device, which every packet that comes in asks for.
    #[inline]
    pub fn rp_filter(&self, dev: &str) -> i64 {
        const NAME: &str = "rp_filter";
        if self.hot.per_device {
            self.device(dev, NAME)
        } else {
            self.hot.rp_filter
        }
    }

    /// Returns a per-device IPv4 setting: the larger of the device's value and that of `all`.
    pub fn device(&self, dev: &str, setting: &str) -> i64 {
        let wanted = |(_, (family, name, _)): &(&i64, &(Family, &str, i64))| {
            *family == Family::V4 && *name == setting
        };
        let mut known = self.hot.all.iter().zip(&DEVICE_DEFAULTS);
        let all = known.find(wanted).map_or(0, |(value, _)| *value);
        if !self.hot.per_device {
            return all;
        }
        all.max(self.value(&format!("net.ipv4.conf.{dev}.{setting}")))
    }

    /// Returns a conntrack timeout by the end of its name, such as `tcp_timeout_established`.
    pub fn conntrack_timeout(&self, name: &str) -> Duration {
        let full = format!("net.netfilter.nf_conntrack_{name}");
        Duration::from_secs(u64::try_from(self.value(&full)).unwrap_or(0))
    }

    /// Returns how many entries the connection tracking table takes.
    pub fn conntrack_max(&self) -> usize {
        usize::try_from(self.value("net.netfilter.nf_conntrack_max")).unwrap_or(usize::MAX)
    }

    /// Returns the first and last ephemeral port.
    pub fn local_port_range(&self) -> (u16, u16) {
        let port = |which: &str| {
            u16::try_from(self.value(&format!("net.ipv4.ip_local_port_range.{which}")))
        };
        (
            port("first").unwrap_or(32768),
            port("last").unwrap_or(60999),
        )
    }

    /// Returns every setting that has one value per namespace, with those written for devices.
    pub fn all(&self) -> BTreeMap<Arc<str>, i64> {
        let mut all: BTreeMap<Arc<str>, i64> = DEFAULTS
            .iter()
            .map(|(name, value)| ((*name).into(), *value))
            .collect();
        all.extend(
            self.written
                .iter()
                .map(|(name, value)| (Arc::clone(name), *value)),
        );
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_all_and_device_counts() {
        let mut sysctls = Sysctls::default();
        assert_eq!(sysctls.device("eth0", "rp_filter"), 0);
        assert!(sysctls.set("net.ipv4.conf.all.rp_filter", 1));
        assert_eq!(sysctls.device("eth0", "rp_filter"), 1);
        assert!(sysctls.set("net.ipv4.conf.eth0.rp_filter", 2));
        assert_eq!(sysctls.device("eth0", "rp_filter"), 2);
        assert!(!sysctls.set("net.ipv4.no_such_thing", 1));
    }

    #[test]
    fn a_device_may_forward_alone_until_forwarding_changes_for_all() {
        let mut sysctls = Sysctls::default();
        let forwards = |sysctls: &Sysctls, dev: &str| sysctls.forwards(Family::V4, dev);
        assert!(!forwards(&sysctls, "eth0"));
        sysctls.set("net.ipv4.conf.cali0.forwarding", 1);
        assert!(forwards(&sysctls, "cali0") && !forwards(&sysctls, "eth0"));
        // Written, but no change: devices keep what they have.
        sysctls.set("net.ipv4.ip_forward", 0);
        assert!(forwards(&sysctls, "cali0"));
        sysctls.set("net.ipv4.ip_forward", 1);
        assert!(forwards(&sysctls, "eth0"));
        sysctls.set("net.ipv4.ip_forward", 0);
        assert!(!forwards(&sysctls, "cali0") && !forwards(&sysctls, "eth0"));
    }
}
