//! `ptp`: a veth pair without a bridge. The container's traffic goes through the gateway's address on the node's end, even
//! to its own subnet; the node has a route to each container.
//!
//! Source: containernetworking `plugins/main/ptp`.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::call::{Call, PluginError, Verb};
use super::ipam::{self, errno_words, set_sysctl};
use super::machine::{At, Machine};
use super::net_conf::{NetConf, go_net, no_netns};
use super::result::{CniResult, Interface, IpConfig};
use super::{masquerade, veth};
use crate::base::addr::host_net;
use crate::base::{Family, OriginId};
use crate::kernel::config::{Change, NewRoute, RouteKind};
use crate::kernel::link::{DeviceKind, Scope};

/// What the plugin reads of its configuration.
#[derive(Debug, Default)]
struct Config {
    net: NetConf,
    ip_masq: bool,
    backend: Option<String>,
    mtu: Option<i64>,
}

impl Config {
    fn load(stdin: &str) -> Result<Self, PluginError> {
        let (mut ip_masq, mut backend, mut mtu) = (false, None, None);
        let names = ["ipMasq", "ipMasqBackend", "mtu"];
        let net = NetConf::load(
            stdin,
            ("NetConf", "main.NetConf"),
            &names,
            |d, name, v, at| match name {
                "ipMasq" => d.bool(v, at, &mut ip_masq),
                "mtu" => d.int(v, at, &mut mtu),
                _ => d.optional_string(v, at, &mut backend),
            },
        );
        let net = net.map_err(|e| PluginError::internal(format!("failed to load netconf: {e}")))?;
        Ok(Self {
            net,
            ip_masq,
            backend,
            mtu,
        })
    }
}

/// Runs the plugin's own code.
pub(super) fn run(
    verb: Verb,
    call: &Call<'_>,
    machine: &mut dyn Machine,
) -> Result<Option<Value>, PluginError> {
    let config = Config::load(call.stdin)?;
    match verb {
        Verb::Add => add(call, &config, machine).map(Some),
        Verb::Check => check(call, &config, machine).map(|()| None),
        Verb::Del => delete(call, &config, machine).map(|()| None),
    }
}

fn add(call: &Call<'_>, config: &Config, machine: &mut dyn Machine) -> Result<Value, PluginError> {
    let result = ipam::add(call, &config.net, machine)?;
    let attached = attach(call, config, result, machine);
    if attached.is_err() {
        // What it says does not matter: the first error is told.
        let _ = ipam::run(Verb::Del, call, &config.net, machine);
    }
    attached
}

fn attach(
    call: &Call<'_>,
    config: &Config,
    mut result: CniResult,
    machine: &mut dyn Machine,
) -> Result<Value, PluginError> {
    if result.ips.is_empty() {
        return Err(PluginError::internal(
            "IPAM plugin returned missing IP config",
        ));
    }
    for ip in &result.ips {
        enable_forwarding(Family::of_net(ip.address), machine);
    }
    if machine.netns(At::Path(call.netns)).is_none() {
        return Err(PluginError::internal(no_netns(call.netns)));
    }
    let mtu = u32::try_from(config.mtu.unwrap_or(0)).unwrap_or(0);
    let (host, container) = veth::set_up(call.netns, call.ifname, mtu, "", machine)?;
    for ip in &mut result.ips {
        ip.interface = Some(1);
    }
    let host_dev: Arc<str> = host.name.as_str().into();
    result.interfaces = vec![host, container];
    let wired = ipam::configure(call.netns, call.ifname, &result, machine)
        .and_then(|()| {
            result
                .ips
                .iter()
                .try_for_each(|ip| by_gateway(call, ip, machine))
        })
        .and_then(|()| {
            let mut ips = result.ips.iter();
            ips.try_for_each(|ip| route_to_container(&host_dev, ip, machine))
        });
    wired.map_err(PluginError::internal)?;
    if config.ip_masq {
        let nets = result.ips.iter().map(|ip| ip.address);
        let of = config.net.attachment(call);
        masquerade::set_up_with(config.backend.as_deref(), nets, of, machine)
            .map_err(PluginError::internal)?;
    }
    if !config.net.dns.is_unset() {
        result.dns.clone_from(&config.net.dns);
    }
    config.net.print(&result)
}

/// Switches forwarding on for a family.
pub(super) fn enable_forwarding(family: Family, machine: &mut dyn Machine) {
    let name = match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    };
    let on = |netns: &crate::kernel::Netns| netns.sysctls.get(name) == Some(1);
    if !machine.netns(At::Node).is_some_and(on) {
        set_sysctl(machine, At::Node, name, 1);
    }
}

/// Replaces the route to the container's subnet by one through the gateway.
fn by_gateway(call: &Call<'_>, ip: &IpConfig, machine: &mut dyn Machine) -> Result<(), String> {
    let at = At::Path(call.netns);
    let subnet = ip.address.trunc();
    let family = Family::of_net(subnet);
    let routes = machine.netns(at).map(|netns| netns.fib.main(family));
    let metric = routes
        .iter()
        .flatten()
        .find(|r| r.dst == subnet && r.kernel)
        .map(|r| r.metric);
    let dev: Arc<str> = call.ifname.into();
    let delete = Change::DeleteRoute {
        dst: subnet,
        dev: Some(dev),
        metric: metric.unwrap_or(0),
    };
    machine
        .change(at, &delete)
        .map_err(|e| format!("failed to delete route {}: {}", subnet, errno_words(&e)))?;
    let gateway = ip.gateway.unwrap_or_else(|| family.unspecified());
    let route = |dst, gateway: Option<IpAddr>, scope| NewRoute {
        kind: RouteKind::Unicast,
        dst,
        gateway,
        dev: Some(call.ifname.into()),
        src: Some(ip.address.addr()),
        metric: 0,
        scope,
        onlink: false,
        mtu: None,
        origin: OriginId::NONE,
    };
    let routes = [
        route(host_net(gateway), None, Scope::Link),
        route(subnet, Some(gateway), Scope::Global),
    ];
    for route in routes {
        let dst = route.dst;
        machine.change(at, &Change::AddRoute(route)).map_err(|e| {
            let dst = go_net(dst, false);
            format!("failed to add route {dst}: {}", errno_words(&e))
        })?;
    }
    Ok(())
}

/// Gives the node's end the gateway's address, and the node a route to the container.
fn route_to_container(
    dev: &Arc<str>,
    ip: &IpConfig,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let family = Family::of_net(ip.address);
    let gateway = host_net(ip.gateway.unwrap_or_else(|| family.unspecified()));
    let add = Change::AddAddr {
        dev: Arc::clone(dev),
        net: gateway,
        scope: Scope::Global,
        origin: OriginId::NONE,
    };
    machine.change(At::Node, &add).map_err(|e| {
        format!(
            "failed to add IP addr ({gateway}) to veth: {}",
            errno_words(&e)
        )
    })?;
    let route = NewRoute {
        kind: RouteKind::Unicast,
        dst: host_net(ip.address.addr()),
        gateway: None,
        dev: Some(Arc::clone(dev)),
        src: None,
        metric: 0,
        scope: Scope::Host,
        onlink: false,
        mtu: None,
        origin: OriginId::NONE,
    };
    match machine.change(At::Node, &Change::AddRoute(route)) {
        Ok(()) | Err(crate::kernel::config::ConfigError::Exists(_)) => Ok(()),
        Err(e) => Err(format!("failed to add route on host: {}", errno_words(&e))),
    }
}

fn delete(call: &Call<'_>, config: &Config, machine: &mut dyn Machine) -> Result<(), PluginError> {
    ipam::run(Verb::Del, call, &config.net, machine)?;
    if call.netns.is_empty() {
        return Ok(());
    }
    let nets = veth::delete(call.netns, call.ifname, machine);
    if config.ip_masq && !nets.is_empty() {
        masquerade::tear_down(&nets, config.net.attachment(call), machine)
            .map_err(PluginError::internal)?;
    }
    Ok(())
}

fn check(call: &Call<'_>, config: &Config, machine: &mut dyn Machine) -> Result<(), PluginError> {
    if machine.netns(At::Path(call.netns)).is_none() {
        return Err(PluginError::internal(no_netns(call.netns)));
    }
    ipam::run(Verb::Check, call, &config.net, machine)?;
    let previous = config.net.previous().map_err(PluginError::internal)?;
    let missing = || PluginError::internal("ptp: Required prevResult missing");
    let result = previous.ok_or_else(missing)?;
    as_made(call, &result, machine).map_err(PluginError::internal)
}

fn as_made(call: &Call<'_>, result: &CniResult, machine: &dyn Machine) -> Result<(), String> {
    let netns = machine.netns(At::Path(call.netns));
    let netns = netns.ok_or_else(|| no_netns(call.netns))?;
    let mut interfaces = result.interfaces.iter().rev();
    let own = interfaces.find(|i| i.name == call.ifname && i.sandbox == call.netns);
    let nothing = Interface::default();
    let own = own.unwrap_or(&nothing);
    if own.sandbox != call.netns {
        let (found, wanted) = (&own.sandbox, call.netns);
        return Err(format!(
            "Sandbox in prevResult {found} doesn't match configured netns: {wanted}"
        ));
    }
    let name = &own.name;
    let device = netns
        .device_named(name)
        .ok_or_else(|| format!("ptp: Container Interface name in prevResult: {name} not found"))?;
    if !matches!(device.kind, DeviceKind::Veth) {
        return Err(format!(
            "Error: Container interface {name} not of type veth/p2p"
        ));
    }
    let mac = device.mac.to_string();
    if !own.mac.is_empty() && own.mac != mac {
        let expected = &own.mac;
        return Err(format!(
            "ptp: Interface {name} Mac {expected} doesn't match container Mac: {mac}"
        ));
    }
    veth::expect_addresses(netns, call.ifname, result)?;
    veth::expect_routes(netns, result)
}
