//! `bridge`: a veth pair for each container, the node's ends on one bridge.
//!
//! Source: containernetworking `plugins/main/bridge`, nine commits after v1.9.1.
//!
//! # Fidelity
//! VLANs are refused as by a kernel without bridge VLAN filtering.

mod check;
mod config;
mod spoof;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::call::{Call, PluginError, Verb};
use super::ipam::{self, errno_words, set_sysctl};
use super::machine::{At, Machine};
use super::net_conf::no_netns;
use super::ptp::enable_forwarding;
use super::result::{CniResult, Interface, Route};
use super::veth::DEFAULT_MTU;
use super::{masquerade, veth};
use crate::base::addr::nth_addr;
use crate::base::{Family, Mac, OriginId};
use crate::kernel::config::{Change, ConfigError, NewLink, NewLinkKind};
use crate::kernel::link::{Device, DeviceKind, PortFlags, Scope};
use config::Config;
use spoof::SpoofCheck;

/// Runs the plugin's own code.
pub(super) fn run(
    verb: Verb,
    call: &Call<'_>,
    machine: &mut dyn Machine,
) -> Result<Option<Value>, PluginError> {
    let config = Config::load(call).map_err(PluginError::internal)?;
    match verb {
        Verb::Add => add(call, &config, machine).map(Some),
        Verb::Check => check::check(call, &config, machine).map(|()| None),
        Verb::Del => delete(call, &config, machine).map(|()| None),
    }
}

fn add(call: &Call<'_>, config: &Config, machine: &mut dyn Machine) -> Result<Value, PluginError> {
    let refused = |text: &str| Err(PluginError::internal(text));
    let routed = !config.net.ipam.is_empty();
    if routed && config.disable_container {
        return refused("cannot use IPAM when DisableContainerInterface flag is set");
    }
    if config.hairpin && config.promisc {
        return refused("cannot set hairpin mode and promiscuous mode at the same time");
    }
    let mac = ensure_bridge(config, machine).map_err(|e| {
        PluginError::internal(format!("failed to create bridge {:?}: {e}", config.bridge))
    })?;
    if machine.netns(At::Path(call.netns)).is_none() {
        return Err(PluginError::internal(no_netns(call.netns)));
    }
    let (host, container) =
        veth::set_up(call.netns, call.ifname, config.mtu, &config.mac, machine)?;
    connect(&host.name, config, machine).map_err(PluginError::internal)?;
    let check = config
        .mac_spoof_check
        .then(|| SpoofCheck::new(call.container_id, call.ifname));
    if let Some(check) = &check {
        let own = veth::device(machine, At::Path(call.netns), call.ifname);
        let own = own.map_or(Mac::ZERO, |device| device.mac);
        check
            .set_up(&host.name, own, machine)
            .map_err(PluginError::internal)?;
    }
    let attached = attach(call, config, mac, [host, container], machine);
    if let (Err(_), Some(check)) = (&attached, &check) {
        check.tear_down(machine);
    }
    attached
}

/// What follows once the pair is there and hangs on the bridge.
fn attach(
    call: &Call<'_>,
    config: &Config,
    mac: Mac,
    [host, container]: [Interface; 2],
    machine: &mut dyn Machine,
) -> Result<Value, PluginError> {
    let routed = !config.net.ipam.is_empty();
    let bridge = Interface {
        name: config.bridge.clone(),
        ..Interface::default()
    };
    let mut result = CniResult {
        interfaces: vec![bridge, host, container],
        ..CniResult::default()
    };
    if routed {
        let found = ipam::add(call, &config.net, machine)?;
        result.ips = found.ips;
        result.routes = found.routes;
        result.dns = found.dns;
        if let Err(error) = address(call, config, &mut result, mac, machine) {
            // What it says does not matter: the first error is told.
            let _ = ipam::run(Verb::Del, call, &config.net, machine);
            return Err(PluginError::internal(error));
        }
    } else if !config.disable_container {
        let dev: Arc<str> = call.ifname.into();
        machine
            .change(At::Path(call.netns), &Change::SetUp { dev, up: true })
            .map_err(|e| {
                let (name, e) = (call.ifname, errno_words(&e));
                PluginError::internal(format!("failed to set {name:?} up: {e}"))
            })?;
    }
    if let Some(bridge) = result.interfaces.first_mut() {
        let found = veth::device(machine, At::Node, &config.bridge);
        bridge.mac = found.map_or_else(String::new, |d| d.mac.to_string());
    }
    if !config.net.dns.is_unset() {
        result.dns.clone_from(&config.net.dns);
    }
    config.net.print(&result)
}

/// Makes the bridge unless it is there, brings it up, and returns its hardware address.
fn ensure_bridge(config: &Config, machine: &mut dyn Machine) -> Result<Mac, String> {
    let name = &config.bridge;
    let dev: Arc<str> = name.as_str().into();
    if config.vlan != 0 || config.vlan_trunk {
        return Err(format!("could not add {name:?}: operation not supported"));
    }
    let add = Change::AddLink(NewLink {
        name: Arc::clone(&dev),
        mac: None,
        mtu: if config.mtu == 0 {
            DEFAULT_MTU
        } else {
            config.mtu
        },
        kind: NewLinkKind::Bridge,
    });
    match machine.change(At::Node, &add) {
        Ok(()) | Err(ConfigError::Exists(_)) => {}
        Err(e) => return Err(format!("could not add {name:?}: {}", errno_words(&e))),
    }
    let apply = |machine: &mut dyn Machine, change| {
        machine
            .change(At::Node, &change)
            .map_err(|e| errno_words(&e).to_owned())
    };
    if config.promisc {
        let dev = Arc::clone(&dev);
        apply(machine, Change::SetPromisc { dev, on: true })
            .map_err(|e| format!("could not set promiscuous mode on {name:?}: {e}"))?;
    }
    let is_bridge = |d: &&Device| matches!(d.kind, DeviceKind::Bridge(_));
    let bridge = veth::device(machine, At::Node, name).filter(is_bridge);
    let other = || format!("{name:?} already exists but is not a bridge");
    let mac = bridge.ok_or_else(other)?.mac;
    let accept_ra = format!("net.ipv6.conf.{name}.accept_ra");
    set_sysctl(machine, At::Node, &accept_ra, 0);
    apply(machine, Change::SetUp { dev, up: true })?;
    Ok(mac)
}

/// Makes the node's end a port of the bridge.
fn connect(host: &str, config: &Config, machine: &mut dyn Machine) -> Result<(), String> {
    let bridge = &config.bridge;
    let dev: Arc<str> = host.into();
    let join = Change::SetMaster {
        dev: Arc::clone(&dev),
        master: Some(bridge.as_str().into()),
    };
    machine.change(At::Node, &join).map_err(|e| {
        format!(
            "failed to connect {host:?} to bridge {bridge}: {}",
            errno_words(&e)
        )
    })?;
    let flags = PortFlags {
        hairpin: config.hairpin,
        isolated: config.port_isolation,
    };
    machine
        .change(At::Node, &Change::SetPort { dev, flags })
        .map_err(|e| {
            format!(
                "failed to setup hairpin mode for {host}: {}",
                errno_words(&e)
            )
        })
}

/// Gives the container its addresses, the bridge the gateway's, and the node its rules.
fn address(
    call: &Call<'_>,
    config: &Config,
    result: &mut CniResult,
    mac: Mac,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    if result.ips.is_empty() {
        return Err("IPAM plugin returned missing IP config".to_owned());
    }
    let gateways = gateways(config, result);
    let at = At::Path(call.netns);
    let (name, dad) = (call.ifname, i64::from(config.enable_dad));
    if config.enable_dad {
        set_sysctl(
            machine,
            at,
            &format!("net.ipv6.conf.{name}.enhanced_dad"),
            1,
        );
    }
    set_sysctl(
        machine,
        at,
        &format!("net.ipv6.conf.{name}.accept_dad"),
        dad,
    );
    set_sysctl(machine, at, &format!("net.ipv4.conf.{name}.arp_notify"), 1);
    ipam::configure(call.netns, name, result, machine)?;
    for family in Family::ALL {
        let of_family = gateways.iter().filter(|g| Family::of_net(**g) == family);
        for gateway in of_family.clone() {
            ensure_address(*gateway, mac, config, machine)
                .map_err(|e| format!("failed to set bridge addr: {e}"))?;
        }
        if of_family.count() > 0 {
            enable_forwarding(family, machine);
        }
    }
    if config.ip_masq {
        let nets = result.ips.iter().map(|ip| ip.address);
        let backend = config.ip_masq_backend.as_deref();
        let of = config.net.attachment(call);
        masquerade::set_up_with(backend, nets, of, machine)?;
    }
    Ok(())
}

/// Fills in the gateways, adds the default routes, and returns the addresses for the bridge.
fn gateways(config: &Config, result: &mut CniResult) -> Vec<IpNet> {
    let mut gateways = Vec::new();
    for ip in &mut result.ips {
        ip.interface = Some(2);
        if config.is_gateway && ip.gateway.is_none() {
            ip.gateway = nth_addr(ip.address.trunc(), 1);
        }
        let default = Family::of_net(ip.address).any();
        let known = |r: &Route| r.gw.is_some() && r.dst == default;
        if config.is_default_gateway && !result.routes.iter().any(known) {
            result.routes.push(Route {
                gw: ip.gateway,
                mapped_mask: true,
                ..Route::to(default)
            });
        }
        if let Some(gateway) = ip.gateway.filter(|_| config.is_gateway) {
            gateways.extend(IpNet::new(gateway, ip.address.prefix_len()));
        }
    }
    gateways
}

/// Gives the bridge an address, instead of others that do not go together with it if that is wanted.
fn ensure_address(
    wanted: IpNet,
    mac: Mac,
    config: &Config,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let name = &config.bridge;
    let dev: Arc<str> = name.as_str().into();
    let found = veth::device(machine, At::Node, name);
    let addrs = found.into_iter().flat_map(|d| &d.addrs);
    let addrs: Vec<IpNet> = addrs.map(|a| a.net).collect();
    let contains = |net: &IpNet, addr: IpAddr| net.contains(&addr);
    for other in addrs {
        if Family::of_net(other) != Family::of_net(wanted) {
            continue;
        }
        if other == wanted {
            return Ok(());
        }
        let overlap = contains(&other, wanted.addr()) || contains(&wanted, other.addr());
        if wanted.addr().is_ipv6() && !overlap {
            continue;
        }
        if !config.force_address {
            return Err(format!(
                "{name:?} already has an IP address different from {wanted}"
            ));
        }
        let delete = Change::DeleteAddr {
            dev: Arc::clone(&dev),
            net: other,
        };
        machine.change(At::Node, &delete).map_err(|e| {
            format!(
                "could not remove IP address from {name:?}: {}",
                errno_words(&e)
            )
        })?;
    }
    let add = Change::AddAddr {
        dev: Arc::clone(&dev),
        net: wanted,
        scope: Scope::Global,
        origin: OriginId::NONE,
    };
    match machine.change(At::Node, &add) {
        Ok(()) | Err(ConfigError::Exists(_)) => {}
        Err(e) => {
            let e = errno_words(&e);
            return Err(format!("could not add IP address to {name:?}: {e}"));
        }
    }
    // That of before the first port. Set by hand, it does not follow the ports any more.
    machine
        .change(At::Node, &Change::SetMac { dev, mac })
        .map_err(|e| format!("could not set bridge's mac: {}", errno_words(&e)))
}

fn delete(call: &Call<'_>, config: &Config, machine: &mut dyn Machine) -> Result<(), PluginError> {
    let routed = !config.net.ipam.is_empty();
    let there = !call.netns.is_empty() && machine.netns(At::Path(call.netns)).is_some();
    let nets = if there {
        veth::delete(call.netns, call.ifname, machine)
    } else {
        Vec::new()
    };
    if routed {
        ipam::run(Verb::Del, call, &config.net, machine)?;
    }
    if there && config.mac_spoof_check {
        SpoofCheck::new(call.container_id, call.ifname).tear_down(machine);
    }
    if there && routed && config.ip_masq {
        masquerade::tear_down(&nets, config.net.attachment(call), machine)
            .map_err(PluginError::internal)?;
    }
    Ok(())
}
