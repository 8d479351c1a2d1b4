//! The settings under `/proc/sys/net` that decide something here, with the kernel's defaults.
//!
//! Leaves out: everything that only tunes performance. Source: `Documentation/networking/ip-sysctl.rst`,
//! `nf_conntrack-sysctl.rst`; defaults as printed by Linux 6.18.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::release::Release;
use crate::base::Family;

/// Settings that have one value per namespace: name and default.
pub const DEFAULTS: &[(&str, i64)] = &[
    ("net.bridge.bridge-nf-call-ip6tables", 1),
    ("net.bridge.bridge-nf-call-iptables", 1),
    ("net.ipv4.icmp_ratelimit", 1000),
    ("net.ipv4.icmp_ratemask", 6168),
    ("net.ipv4.ip_default_ttl", 64),
    ("net.ipv4.ip_forward", 0),
    ("net.ipv4.neigh.default.gc_thresh1", 128),
    ("net.ipv4.neigh.default.gc_thresh2", 512),
    ("net.ipv4.neigh.default.gc_thresh3", 1024),
    (PORT_FIRST, 32768),
    (PORT_LAST, 60999),
    (SYN_LINEAR_TIMEOUTS, 4),
    (SYN_RETRIES, 6),
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
    ("net.ipv6.neigh.default.gc_thresh1", 128),
    ("net.ipv6.neigh.default.gc_thresh2", 512),
    ("net.ipv6.neigh.default.gc_thresh3", 1024),
];

/// Settings that have one value per device, under `net.ipv4.conf.DEV.` or `net.ipv6.conf.DEV.`, where DEV may
/// be `all` and `default`: family, name and default.
pub const DEVICE_DEFAULTS: [(Family, &str, i64); 12] = [
    (Family::V4, "accept_local", 0),
    (Family::V4, "arp_notify", 0),
    (Family::V4, "forwarding", 0),
    (Family::V4, "proxy_arp", 0),
    (Family::V4, "route_localnet", 0),
    (Family::V4, "rp_filter", 0),
    (Family::V6, "accept_dad", 1),
    (Family::V6, "accept_ra", 1),
    (Family::V6, "autoconf", 1),
    (Family::V6, "disable_ipv6", 0),
    (Family::V6, "enhanced_dad", 1),
    (Family::V6, "forwarding", 0),
];

/// The one setting that is two numbers. It is kept as two, [`PORT_FIRST`] and [`PORT_LAST`], and read and shown as one.
const PORT_RANGE: &str = "net.ipv4.ip_local_port_range";
const PORT_FIRST: &str = "net.ipv4.ip_local_port_range.first";
const PORT_LAST: &str = "net.ipv4.ip_local_port_range.last";

const SYN_RETRIES: &str = "net.ipv4.tcp_syn_retries";
const SYN_LINEAR_TIMEOUTS: &str = "net.ipv4.tcp_syn_linear_timeouts";

/// How often a SYN that nobody answers is sent again (`ip-sysctl.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynSchedule {
    /// Retransmissions after the initial timeout, before the timeout begins to double (`tcp_syn_linear_timeouts`).
    pub linear: u32,
    /// Retransmissions with doubling timeout (`tcp_syn_retries`).
    pub retries: u32,
}

impl Default for SynSchedule {
    fn default() -> Self {
        Sysctls::default().syn_schedule(Release::CURRENT)
    }
}

/// Why a setting is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such setting here.
    Unknown,
    /// The kernel does not take this value: "Invalid argument".
    Value,
}

/// Returns the values that the kernel takes for a setting that exists.
///
/// # Fidelity
/// As tried on Linux 6.18: most settings take any number of 32 bits. A timeout is kept in ticks, so that its end depends
/// on how the kernel was built; here it is that of 250 ticks a second. What lies below zero counts as zero.
fn permitted(name: &str) -> RangeInclusive<i64> {
    let most = i64::from(i32::MAX);
    match name {
        "net.ipv4.ip_default_ttl" => 1..=255,
        "net.ipv4.icmp_ratelimit" | "net.netfilter.nf_conntrack_max" => 0..=most,
        // `proc_dointvec_minmax` from zero.
        limit if limit.contains(".neigh.default.gc_thresh") => 0..=most,
        // Below 1024 the ports are privileged (`ip_unprivileged_port_start`).
        PORT_FIRST | PORT_LAST => 1024..=65535,
        // `MAX_TCP_SYNCNT`.
        SYN_RETRIES => 1..=127,
        SYN_LINEAR_TIMEOUTS => 0..=127,
        "net.netfilter.nf_conntrack_tcp_be_liberal" | "net.netfilter.nf_conntrack_tcp_loose" => {
            0..=1
        }
        timeout if timeout.starts_with("net.netfilter.") => i64::from(i32::MIN)..=most / 250,
        _ => i64::from(i32::MIN)..=most,
    }
}

/// Returns whether a value may be written to a setting.
///
/// # Errors
/// [`Refused`].
pub fn check(name: &str, value: i64) -> Result<(), Refused> {
    if default_of(name).is_none() {
        return Err(Refused::Unknown);
    }
    if permitted(name).contains(&value) {
        Ok(())
    } else {
        Err(Refused::Value)
    }
}

/// Reads a setting as people write it (`sysctl -w NAME=TEXT`), into what is to be written.
///
/// # Errors
/// [`Refused`].
pub fn read(name: &str, text: &str) -> Result<Vec<(Arc<str>, i64)>, Refused> {
    let number = |text: &str| text.parse::<i64>().map_err(|_| Refused::Value);
    let written: Vec<(Arc<str>, i64)> = match name {
        PORT_FIRST | PORT_LAST => return Err(Refused::Unknown),
        PORT_RANGE => {
            let mut words = text.split_ascii_whitespace().map(number);
            let (Some(first), Some(last), None) = (words.next(), words.next(), words.next()) else {
                return Err(Refused::Value);
            };
            let (first, last) = (first?, last?);
            if first > last {
                return Err(Refused::Value);
            }
            vec![(PORT_FIRST.into(), first), (PORT_LAST.into(), last)]
        }
        _ if default_of(name).is_none() => return Err(Refused::Unknown),
        _ => vec![(name.into(), number(text.trim())?)],
    };
    for (name, value) in &written {
        check(name, *value)?;
    }
    Ok(written)
}

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

    /// Returns a setting as it is shown; `None` if there is no such setting.
    pub fn text(&self, name: &str) -> Option<String> {
        match name {
            PORT_FIRST | PORT_LAST => None,
            PORT_RANGE => {
                let (first, last) = self.local_port_range();
                Some(format!("{first}\t{last}"))
            }
            _ => self.get(name).map(|value| value.to_string()),
        }
    }

    /// Returns every setting that has one value per namespace, with those written for devices, as they are shown.
    pub fn texts(&self) -> BTreeMap<Arc<str>, String> {
        let shown = |name: Arc<str>| {
            let name = match &*name {
                PORT_FIRST | PORT_LAST => PORT_RANGE.into(),
                _ => name,
            };
            self.text(&name).map(|text| (name, text))
        };
        self.all().into_keys().filter_map(shown).collect()
    }

    /// Writes a setting.
    ///
    /// # Errors
    /// [`Refused`]; nothing is changed then.
    pub fn set(&mut self, name: &str, value: i64) -> Result<(), Refused> {
        check(name, value)?;
        // `brnf_sysctl_call_tables` keeps whether, not how much.
        let value = match name {
            "net.bridge.bridge-nf-call-iptables" | "net.bridge.bridge-nf-call-ip6tables" => {
                i64::from(value != 0)
            }
            _ => value,
        };
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
        Ok(())
    }

    /// Drops what was written for a device that is gone.
    pub fn forget(&mut self, dev: &str) {
        self.written
            .retain(|name, _| device_setting(name).is_none_or(|(_, of, _)| of != dev));
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

    /// Returns when a SYN is sent again. Kernels without `tcp_syn_linear_timeouts` double from the start.
    pub fn syn_schedule(&self, release: Release) -> SynSchedule {
        let count = |name| u32::try_from(self.value(name)).unwrap_or(0);
        let linear = release.has_linear_syn_timeouts();
        SynSchedule {
            linear: if linear {
                count(SYN_LINEAR_TIMEOUTS)
            } else {
                0
            },
            retries: count(SYN_RETRIES),
        }
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

    /// Returns the time to live, or hop limit, of packets this namespace makes.
    ///
    /// # Fidelity
    /// That of IPv6 is `net.ipv6.conf.DEV.hop_limit` or what a router advertises; here it is the default of both.
    pub const fn default_ttl(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.hot.ttl,
            Family::V6 => 64,
        }
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

    /// Returns how many neighbours there may be before some are looked for that may go, and how many at most.
    pub fn neighbour_limits(&self, family: Family) -> (usize, usize) {
        let of = |which: &str| {
            let ip = match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            let value = self.value(&format!("net.{ip}.neigh.default.gc_thresh{which}"));
            usize::try_from(value).unwrap_or(0)
        };
        (of("2"), of("3"))
    }

    /// Returns how many entries the connection tracking table takes.
    pub fn conntrack_max(&self) -> usize {
        usize::try_from(self.value("net.netfilter.nf_conntrack_max")).unwrap_or(usize::MAX)
    }

    /// Returns the first and last ephemeral port.
    pub fn local_port_range(&self) -> (u16, u16) {
        let port = |name: &str| u16::try_from(self.value(name));
        (
            port(PORT_FIRST).unwrap_or(32768),
            port(PORT_LAST).unwrap_or(60999),
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
        assert_eq!(sysctls.set("net.ipv4.conf.all.rp_filter", 1), Ok(()));
        assert_eq!(sysctls.device("eth0", "rp_filter"), 1);
        assert_eq!(sysctls.set("net.ipv4.conf.eth0.rp_filter", 2), Ok(()));
        assert_eq!(sysctls.device("eth0", "rp_filter"), 2);
        let unknown = sysctls.set("net.ipv4.no_such_thing", 1);
        assert_eq!(unknown, Err(Refused::Unknown));
    }

    /// Each line as tried on Linux 6.18.
    #[test]
    fn what_the_kernel_takes() {
        for (name, text, taken) in [
            ("net.ipv4.ip_default_ttl", "255", true),
            ("net.ipv4.ip_default_ttl", "0", false),
            ("net.ipv4.ip_default_ttl", "256", false),
            ("net.ipv4.ip_forward", "-1", true),
            ("net.ipv4.ip_forward", "2147483648", false),
            ("net.ipv4.ip_forward", "yes", false),
            ("net.ipv4.icmp_ratelimit", "-1", false),
            ("net.netfilter.nf_conntrack_tcp_loose", "2", false),
            ("net.netfilter.nf_conntrack_udp_timeout", "65536", true),
            (
                "net.netfilter.nf_conntrack_udp_timeout",
                "2147483647",
                false,
            ),
            ("net.ipv4.ip_local_port_range", "32768 32771", true),
            ("net.ipv4.ip_local_port_range", "1 65535", false),
            ("net.ipv4.ip_local_port_range", "5000 4000", false),
            ("net.ipv4.ip_local_port_range", "5000", false),
            ("net.ipv4.ip_local_port_range", "1024 65536", false),
        ] {
            assert_eq!(read(name, text).is_ok(), taken, "{name}={text}");
        }
        let half = read("net.ipv4.ip_local_port_range.first", "5000");
        assert_eq!(half, Err(Refused::Unknown));
    }

    #[test]
    fn the_range_of_ports_is_shown_as_one_setting() {
        let mut sysctls = Sysctls::default();
        for (name, value) in read(PORT_RANGE, "40000\t40003").expect("a range") {
            assert_eq!(sysctls.set(&name, value), Ok(()));
        }
        assert_eq!(sysctls.local_port_range(), (40000, 40003));
        assert_eq!(sysctls.text(PORT_RANGE).as_deref(), Some("40000\t40003"));
        let shown = sysctls.texts();
        assert_eq!(
            shown.get(PORT_RANGE).map(String::as_str),
            Some("40000\t40003")
        );
        assert!(!shown.contains_key(PORT_FIRST));
    }

    #[test]
    fn a_bridge_keeps_whether_it_calls_the_filter() {
        let mut sysctls = Sysctls::default();
        let name = "net.bridge.bridge-nf-call-iptables";
        assert_eq!(sysctls.set(name, -1), Ok(()));
        assert_eq!(sysctls.get(name), Some(1));
    }

    #[test]
    fn a_device_may_forward_alone_until_forwarding_changes_for_all() {
        let mut sysctls = Sysctls::default();
        let forwards = |sysctls: &Sysctls, dev: &str| sysctls.forwards(Family::V4, dev);
        let set = |sysctls: &mut Sysctls, name: &str, value| {
            assert_eq!(sysctls.set(name, value), Ok(()));
        };
        assert!(!forwards(&sysctls, "eth0"));
        set(&mut sysctls, "net.ipv4.conf.cali0.forwarding", 1);
        assert!(forwards(&sysctls, "cali0") && !forwards(&sysctls, "eth0"));
        // Written, but no change: devices keep what they have.
        set(&mut sysctls, "net.ipv4.ip_forward", 0);
        assert!(forwards(&sysctls, "cali0"));
        set(&mut sysctls, "net.ipv4.ip_forward", 1);
        assert!(forwards(&sysctls, "eth0"));
        set(&mut sysctls, "net.ipv4.ip_forward", 0);
        assert!(!forwards(&sysctls, "cali0") && !forwards(&sysctls, "eth0"));
    }
}
