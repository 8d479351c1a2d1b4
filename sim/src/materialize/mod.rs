//! A simulated cluster as real network namespaces: a shell script that builds them from the very state the simulator
//! uses, and one that takes them away.
//!
//! Pure: cluster state → text. Each [`Netns`] becomes a namespace of the kernel with the same devices, hardware and
//! protocol addresses, routes, permanent neighbours, tunnels, settings and rules; each wire becomes a veth pair.
//!
//! Reading order: [`scripts`] (the order in which things are made), `names` (what namespaces are called).
//!
//! # Fidelity
//! Delays, rates, losses and firewalls of wires are left out: a veth pair is fast and perfect. Nothing runs in the
//! namespaces; servers are the reader's business. `nf_conntrack_max` and the limits of the table of neighbours belong to the whole
//! machine and stay as they are. ICMP redirects are switched off, as the simulator has none, and IPv6 addresses are used at once. Devices have link-local
//! addresses, which the simulator leaves out: without one Linux asks for no neighbour on behalf of others.

mod names;

use std::fmt::Write as _;

use ipnet::IpNet;
use podwire_models::base::Family;
use podwire_models::cluster::Cluster;
use podwire_models::kernel::Netns;
use podwire_models::kernel::link::{Device, DeviceKind, Scope};
use podwire_models::kernel::neighbour::{NeighbourKey, NeighbourState};
use podwire_models::kernel::sysctl::DEVICE_DEFAULTS;

pub use names::{BadPrefix, Prefix};

/// Two shell scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripts {
    /// Builds the namespaces, after taking away those of an earlier run.
    pub build: String,
    /// Takes them away; it may be run at any time, any number of times.
    pub teardown: String,
}

/// Returns the scripts for a cluster as it is now, its namespaces called after `prefix`.
pub fn scripts(cluster: &Cluster, prefix: &Prefix) -> Scripts {
    Scripts {
        build: build(cluster, prefix),
        teardown: teardown(cluster, prefix),
    }
}

const HEAD: &str = "\
#!/bin/sh
# Written by podwire materialize. Needs root, iproute2, iptables, and nft where a node has such tables. Everything stays
# inside network namespaces of its own. IPTABLES chooses a back end by the suffix of its commands: IPTABLES=-legacy or
# IPTABLES=-nft.
set -eu
";

fn teardown(cluster: &Cluster, prefix: &Prefix) -> String {
    let mut text = HEAD.to_owned();
    text += "for ns in \\\n";
    for netns in cluster.iter() {
        line(&mut text, &format!("  {} \\", prefix.of(netns)));
    }
    text += "  ; do
  ip netns list | grep -q \"^$ns\\( \\|\\$\\)\" || continue
  pids=$(ip netns pids \"$ns\")
  [ -z \"$pids\" ] || kill $pids 2>/dev/null || true
  ip netns del \"$ns\"
done
";
    text
}

fn build(cluster: &Cluster, prefix: &Prefix) -> String {
    let mut text = HEAD.to_owned();
    text += "here=$(dirname \"$0\")
sh \"$here/teardown.sh\"
trap 'sh \"$here/teardown.sh\"' EXIT
rules() { # of a namespace, for iptables or ip6tables; nfacct matches only count, and go where there is no nfacct
  if command -v nfacct >/dev/null; then
    ip netns exec \"$1\" \"$2${IPTABLES:-}-restore\"
  else
    sed 's/ -m nfacct --nfacct-name [^ ]*//' | ip netns exec \"$1\" \"$2${IPTABLES:-}-restore\"
  fi
}
";
    for netns in cluster.iter() {
        let name = prefix.of(netns);
        line(&mut text, &format!("\n# {}", netns.name));
        line(&mut text, &format!("ip netns add {name}"));
        sysctls(&mut text, &name, &first_settings());
    }
    text += "\n# wires\n";
    wires(&mut text, cluster, prefix);
    for netns in cluster.iter() {
        inside(&mut text, netns, &prefix.of(netns));
    }
    text += "\ntrap - EXIT\n";
    text
}

/// What every namespace begins with, whatever the machine's own defaults are.
fn first_settings() -> Vec<(String, String)> {
    let mut settings = Vec::new();
    for dev in ["all", "default"] {
        for (family, name, value) in DEVICE_DEFAULTS {
            let version = version(family);
            let setting = format!("net.ipv{version}.conf.{dev}.{name}");
            settings.push((setting, value.to_string()));
        }
        for name in ["send_redirects", "accept_redirects"] {
            settings.push((format!("net.ipv4.conf.{dev}.{name}"), "0".to_owned()));
        }
        for (name, value) in [("accept_dad", 0), ("accept_ra", 0)] {
            let setting = format!("net.ipv6.conf.{dev}.{name}");
            settings.push((setting, value.to_string()));
        }
    }
    settings
}

const fn version(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// Makes both ends of every wire at once, each with its index.
fn wires(text: &mut String, cluster: &Cluster, prefix: &Prefix) {
    for netns in cluster.iter() {
        for device in netns.devices.iter().flatten() {
            let end = (netns.id, device.index);
            let Some((peer_ns, peer)) = cluster.peer(end) else {
                continue;
            };
            let first = cluster.wire_behind(end).is_some_and(|(_, side)| side == 0);
            let far = cluster
                .netns(peer_ns)
                .and_then(|ns| Some((ns, ns.device(peer)?)));
            if let (true, Some((far_ns, far))) = (first, far) {
                let near = end_of_wire(device, &prefix.of(netns));
                let far = end_of_wire(far, &prefix.of(far_ns));
                line(text, &format!("ip link add {near} type veth peer {far}"));
            }
        }
    }
}

fn end_of_wire(device: &Device, netns: &str) -> String {
    let Device {
        name,
        mac,
        mtu,
        index,
        ..
    } = device;
    format!(
        "name {name} netns {netns} index {} address {mac} mtu {mtu}",
        index.0
    )
}

/// Everything of one namespace but its wires.
fn inside(text: &mut String, netns: &Netns, name: &str) {
    line(text, &format!("\n# inside {}", netns.name));
    let mut ip: Vec<String> = vec!["link set lo up".to_owned()];
    let devices = || netns.devices.iter().flatten();
    ip.extend(devices().filter_map(|device| new_device(netns, device)));
    for device in devices() {
        if let Some(master) = device.master.and_then(|master| netns.device(master)) {
            ip.push(format!("link set {} master {}", device.name, master.name));
        }
    }
    batch(text, "ip", name, &ip);
    let mut bridge = Vec::new();
    for device in devices().filter(|device| device.master.is_some()) {
        let on = |flag| if flag { "on" } else { "off" };
        let (hairpin, isolated) = (on(device.port.hairpin), on(device.port.isolated));
        let dev = &device.name;
        bridge.push(format!(
            "link set dev {dev} hairpin {hairpin} isolated {isolated}"
        ));
    }
    batch(text, "bridge", name, &bridge);
    sysctls(text, name, &written(netns));
    let mut ip = Vec::new();
    for device in devices() {
        let own = device.addrs.iter();
        // The kernel gives lo its addresses itself.
        let given =
            |net: &IpNet| matches!(device.kind, DeviceKind::Loopback) && net.addr().is_loopback();
        for addr in own.filter(|addr| !given(&addr.net)) {
            ip.push(address(device, addr.net, addr.scope));
        }
        if device.up && !matches!(device.kind, DeviceKind::Loopback) {
            ip.push(format!("link set {} up", device.name));
        }
    }
    ip.extend(deleted(netns));
    for family in Family::ALL {
        let mut routes: Vec<_> = netns.fib.main(family);
        routes.retain(|route| !route.kernel);
        // A gateway must be reachable before a route leads to it.
        routes.sort_by_key(|route| route.gateway.is_some());
        ip.extend(
            routes
                .iter()
                .map(|route| format!("route add {}", route_words(netns, route, family))),
        );
    }
    for (NeighbourKey(dev, addr), entry) in &netns.neighbours.entries {
        if let (NeighbourState::Permanent { mac }, Some(device)) =
            (&entry.state, netns.device(*dev))
        {
            ip.push(format!(
                "neigh replace {addr} lladdr {mac} dev {} nud permanent",
                device.name
            ));
        }
    }
    batch(text, "ip", name, &ip);
    batch(text, "bridge", name, &forwarding(netns));
    for family in Family::ALL {
        rules(text, netns, name, family);
    }
    // After those of iptables, as most nodes have them: of chains with one priority the last made is the first.
    let nft = netns.netfilter.as_ref().and_then(|filter| filter.nft());
    if let Some(nft) = nft {
        line(text, &format!("ip netns exec {name} nft -f - <<'EOF'"));
        text.push_str(&nft.list());
        text.push_str("EOF\n");
    }
}

/// Returns what takes away the kernel's own routes that a plugin took away here.
fn deleted(netns: &Netns) -> Vec<String> {
    let mut lines = Vec::new();
    for device in netns.devices.iter().flatten().filter(|device| device.up) {
        let own = device.addrs.iter().map(|addr| addr.net);
        let mut nets: Vec<IpNet> = own
            .filter(|net| net.prefix_len() < net.max_prefix_len() && !net.addr().is_loopback())
            .map(|net| net.trunc())
            .collect();
        nets.dedup();
        for net in nets {
            let routes = netns.fib.main(Family::of_net(net));
            let there = |route: &&podwire_models::kernel::route::Route| {
                route.kernel && route.dst == net && route.dev == Some(device.index)
            };
            if !routes.iter().any(there) {
                lines.push(format!("route del {net} dev {} proto kernel", device.name));
            }
        }
    }
    lines
}

/// Returns a route as `ip route add` takes it. `default` alone would be taken for IPv4's.
fn route_words(
    netns: &Netns,
    route: &podwire_models::kernel::route::Route,
    family: Family,
) -> String {
    let words = netns.route_text(route);
    match family {
        Family::V4 => words,
        Family::V6 => words.replacen("default", "::/0", 1),
    }
}

/// Returns the words that make a device which is no end of a wire.
fn new_device(netns: &Netns, device: &Device) -> Option<String> {
    let Device {
        name,
        mac,
        mtu,
        index,
        ..
    } = device;
    let kind = match &device.kind {
        DeviceKind::Loopback | DeviceKind::Veth | DeviceKind::Physical => return None,
        DeviceKind::Dummy => "dummy".to_owned(),
        DeviceKind::Bridge(_) => "bridge forward_delay 0 mcast_snooping 0".to_owned(),
        DeviceKind::Vxlan(vxlan) => {
            let mut words = format!(
                "vxlan id {} local {} dstport {}",
                vxlan.vni, vxlan.local, vxlan.dstport
            );
            if let Some(under) = vxlan.dev.and_then(|dev| netns.device(dev)) {
                words = words + " dev " + &under.name;
            }
            words + if vxlan.learning { "" } else { " nolearning" }
        }
    };
    Some(format!(
        "link add name {name} index {} address {mac} mtu {mtu} type {kind}",
        index.0
    ))
}

fn address(device: &Device, net: IpNet, scope: Scope) -> String {
    let broadcast = match net {
        IpNet::V4(v4) if v4.prefix_len() < 31 => " broadcast +",
        IpNet::V4(_) | IpNet::V6(_) => "",
    };
    let scope = match scope {
        Scope::Global => "",
        Scope::Site => " scope site",
        Scope::Link => " scope link",
        Scope::Host => " scope host",
    };
    format!("address add {net}{broadcast} dev {}{scope}", device.name)
}

/// Returns the entries of tunnels' forwarding databases.
fn forwarding(netns: &Netns) -> Vec<String> {
    let mut lines = Vec::new();
    for device in netns.devices.iter().flatten() {
        if let DeviceKind::Vxlan(vxlan) = &device.kind {
            for (mac, dst) in &vxlan.fdb {
                lines.push(format!(
                    "fdb append {mac} dev {} dst {dst} self permanent",
                    device.name
                ));
            }
        }
    }
    lines
}

/// Returns the settings somebody has written; those that only the whole machine has are left out.
fn written(netns: &Netns) -> Vec<(String, String)> {
    let all = netns.sysctls.texts().into_iter();
    let of_machine = |name: &str| {
        name == "net.netfilter.nf_conntrack_max" || name.contains(".neigh.default.gc_thresh")
    };
    all.filter(|(name, _)| !of_machine(name))
        .map(|(name, text)| (name.to_string(), text.replace('\t', " ")))
        .collect()
}

fn rules(text: &mut String, netns: &Netns, name: &str, family: Family) {
    let filter = netns.netfilter.as_ref();
    let Some(rules) = filter.and_then(|filter| filter.rules(family)) else {
        return;
    };
    let tool = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let saved = rules.ruleset().save(family);
    let mut counted: Vec<&str> = Vec::new();
    for word in saved.split("--nfacct-name ").skip(1) {
        let object = word.split_whitespace().next().unwrap_or_default();
        if !counted.contains(&object) {
            counted.push(object);
        }
    }
    for object in counted {
        line(
            text,
            &format!(
                "command -v nfacct >/dev/null && {{ ip netns exec {name} nfacct add {object} 2>/dev/null || true; }}"
            ),
        );
    }
    line(text, &format!("rules {name} {tool} <<'EOF'"));
    text.push_str(&saved);
    text.push_str("EOF\n");
}

fn batch(text: &mut String, tool: &str, name: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    line(text, &format!("{tool} -n {name} -batch - <<'EOF'"));
    for content in lines {
        line(text, content);
    }
    text.push_str("EOF\n");
}

fn sysctls(text: &mut String, name: &str, settings: &[(String, String)]) {
    let mut words = format!("ip netns exec {name} sysctl -qw");
    for (setting, value) in settings {
        // Writing to a string cannot fail.
        let _ = write!(words, " \\\n  '{setting}={value}'");
    }
    line(text, &words);
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}
