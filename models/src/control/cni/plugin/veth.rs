//! What plugins do with veth pairs and devices of a container (`pkg/ip`).

use std::sync::Arc;

use ipnet::IpNet;

use super::call::PluginError;
use super::ipam::{errno_words, set_sysctl};
use super::machine::{At, Machine, VethPair};
use super::result::{CniResult, Interface};
use crate::base::{Family, Mac};
use crate::kernel::Netns;
use crate::kernel::config::{Change, ConfigError};
use crate::kernel::link::Device;

/// MTU of a device whose MTU nobody chose.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// Makes a pair and brings the node's end up (`SetupVeth`): the node's end, the container's.
pub(super) fn set_up(
    netns: &str,
    ifname: &str,
    mtu: u32,
    mac: &str,
    machine: &mut dyn Machine,
) -> Result<(Interface, Interface), PluginError> {
    let mac = if mac.is_empty() {
        None
    } else {
        let parsed = mac.parse::<Mac>();
        let wrong = |_| PluginError::internal(format!("address {mac}: invalid MAC address"));
        Some(parsed.map_err(wrong)?)
    };
    let outer: Arc<str> = format!("veth{:08x}", machine.random()).into();
    let pair = VethPair {
        netns,
        inner: ifname.into(),
        mac,
        outer: Arc::clone(&outer),
        mtu: if mtu == 0 { DEFAULT_MTU } else { mtu },
    };
    machine.add_veth(&pair).map_err(|e| {
        PluginError::internal(if matches!(e, ConfigError::Exists(_)) {
            format!("container veth name ({ifname:?}) peer provided ({outer:?}) already exists")
        } else {
            format!("failed to make veth pair: {}", errno_words(&e))
        })
    })?;
    let up = Change::SetUp {
        dev: Arc::clone(&outer),
        up: true,
    };
    machine
        .change(At::Node, &up)
        .map_err(|e| PluginError::internal(format!("failed to set {outer:?} up: {e}")))?;
    let accept_ra = format!("net.ipv6.conf.{outer}.accept_ra");
    set_sysctl(machine, At::Node, &accept_ra, 0);
    let interface = |at, name: &str, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: device(machine, at, name).map_or_else(String::new, |d| d.mac.to_string()),
        sandbox: sandbox.to_owned(),
    };
    let host = interface(At::Node, &outer, "");
    Ok((host, interface(At::Path(netns), ifname, netns)))
}

/// Returns a device.
pub(super) fn device<'a>(machine: &'a dyn Machine, at: At<'_>, name: &str) -> Option<&'a Device> {
    machine.netns(at)?.device_named(name)
}

/// Deletes a container's device and returns its addresses, none if there is no such device (`DelLinkByNameAddr`).
pub(super) fn delete(netns: &str, ifname: &str, machine: &mut dyn Machine) -> Vec<IpNet> {
    let Some(found) = device(machine, At::Path(netns), ifname) else {
        return Vec::new();
    };
    let global = |net: &IpNet| !net.addr().is_loopback() && !net.addr().is_multicast();
    let mut nets: Vec<IpNet> = found.addrs.iter().map(|a| a.net).filter(global).collect();
    nets.sort_by_key(|net| net.addr().is_ipv6());
    let dev: Arc<str> = ifname.into();
    // Found just now.
    let _ = machine.change(At::Path(netns), &Change::DeleteLink { dev });
    nets
}

/// Checks the container's addresses against a result (`ValidateExpectedInterfaceIPs`).
pub(super) fn expect_addresses(
    netns: &Netns,
    ifname: &str,
    result: &CniResult,
) -> Result<(), String> {
    for ip in &result.ips {
        let missing = || format!("Cannot find container link {ifname}");
        let device = netns.device_named(ifname).ok_or_else(missing)?;
        if !device.addrs.iter().any(|a| a.net == ip.address) {
            let address = ip.address;
            return Err(format!(
                "Failed to match addr {address} on interface {ifname}"
            ));
        }
        if !has_route(netns, ip.address.trunc(), None) {
            let gateway = ip
                .gateway
                .map_or_else(|| "<nil>".into(), |gw| gw.to_string());
            return Err(format!(
                "Failed to find Gateway {gateway} for interface {ifname}"
            ));
        }
    }
    Ok(())
}

/// Checks the container's routes against a result (`ValidateExpectedRoute`). Of a default route any will do.
pub(super) fn expect_routes(netns: &Netns, result: &CniResult) -> Result<(), String> {
    for route in &result.routes {
        let gateway = route.gw.filter(|_| route.dst.prefix_len() != 0);
        if !has_route(netns, route.dst.trunc(), gateway) {
            return Err(format!(
                "Expected Route {} not found in routing table",
                route.go_text()
            ));
        }
    }
    Ok(())
}

fn has_route(netns: &Netns, dst: IpNet, gateway: Option<std::net::IpAddr>) -> bool {
    let routes = netns.fib.main(Family::of_net(dst));
    routes
        .iter()
        .any(|r| r.dst == dst && (gateway.is_none() || r.gateway == gateway))
}
