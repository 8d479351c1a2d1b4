//! What plugins that make devices leave to another plugin: addresses (`pkg/ipam`).

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::Plugin;
use super::call::{Answer, Call, PluginError, Verb};
use super::machine::{At, Machine};
use super::net_conf::{NetConf, go_net};
use super::result::{CniResult, Route};
use crate::base::OriginId;
use crate::kernel::config::{Change, ConfigError, NewRoute, RouteKind};
use crate::kernel::link::Scope;

/// Runs the IPAM plugin of a configuration, with the same environment and input.
pub(super) fn run(
    verb: Verb,
    call: &Call<'_>,
    conf: &NetConf,
    machine: &mut dyn Machine,
) -> Result<Option<Value>, PluginError> {
    let name = &conf.ipam;
    if name.is_empty() {
        return Err(PluginError::internal("no plugin name provided"));
    }
    if name.contains('/') {
        return Err(PluginError::internal(format!(
            "invalid plugin name: {name}"
        )));
    }
    let not_found = || {
        let path = call.path;
        PluginError::internal(format!("failed to find plugin {name:?} in path [{path}]"))
    };
    let plugin = Plugin::named(name).ok_or_else(not_found)?;
    let command = match verb {
        Verb::Add => "ADD",
        Verb::Check => "CHECK",
        Verb::Del => "DEL",
    };
    let Answer { exit, stdout } = plugin.call(&Call { command, ..*call }, machine);
    if exit == 0 {
        return Ok(stdout);
    }
    Err(PluginError::from_json(
        stdout.as_ref().unwrap_or(&Value::Null),
    ))
}

/// Runs the IPAM plugin's ADD and reads its result.
pub(super) fn add(
    call: &Call<'_>,
    conf: &NetConf,
    machine: &mut dyn Machine,
) -> Result<CniResult, PluginError> {
    let printed = run(Verb::Add, call, conf, machine)?.unwrap_or(Value::Null);
    CniResult::from_json(&printed, &conf.version).map_err(PluginError::internal)
}

/// The words of an error of the kernel, as Go prints them.
pub(super) fn errno_words(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::NoDevice(_) => "no such device",
        ConfigError::Exists(_) => "file exists",
        ConfigError::Missing(_) => "no such process",
        ConfigError::InvalidGateway(IpAddr::V4(_)) => "network is unreachable",
        ConfigError::InvalidGateway(IpAddr::V6(_)) => "no route to host",
        ConfigError::NetworkDown(_) => "network is down",
        ConfigError::NoSysctl(_) | ConfigError::NoChain(_) => "no such file or directory",
        ConfigError::Loop(_) => "too many levels of symbolic links",
        ConfigError::Invalid(_) | ConfigError::BadSysctl(_, _) | ConfigError::Nft(_) => {
            "invalid argument"
        }
    }
}

/// Brings the container's device up, with the addresses and routes of a result (`ConfigureIface`).
pub(super) fn configure(
    netns: &str,
    ifname: &str,
    result: &CniResult,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let at = At::Path(netns);
    let dev: Arc<str> = ifname.into();
    let up = Change::SetUp {
        dev: Arc::clone(&dev),
        up: true,
    };
    machine
        .change(at, &up)
        .map_err(|e| format!("failed to set {ifname:?} UP: {}", errno_words(&e)))?;
    for ip in &result.ips {
        let v6 = ip.address.addr().is_ipv6();
        for of in ["lo", ifname].iter().filter(|_| v6) {
            let name = format!("net.ipv6.conf.{of}.disable_ipv6");
            let disabled = machine
                .netns(at)
                .and_then(|netns| netns.sysctls.get(&name))
                .is_some_and(|value| value != 0);
            if disabled {
                set_sysctl(machine, at, &name, 0);
            }
        }
        let add = Change::AddAddr {
            dev: Arc::clone(&dev),
            net: ip.address,
            scope: Scope::Global,
            origin: OriginId::NONE,
        };
        machine.change(at, &add).map_err(|e| {
            let (address, e) = (ip.address, errno_words(&e));
            format!("failed to add IP addr {address} to {ifname:?}: {e}")
        })?;
    }
    for route in &result.routes {
        add_route(route, ifname, result, at, machine)?;
    }
    Ok(())
}

/// Writes a setting and does not mind if there is none.
pub(super) fn set_sysctl(machine: &mut dyn Machine, at: At<'_>, name: &str, value: i64) {
    let name: Arc<str> = name.into();
    let _ = machine.change(at, &Change::Sysctl { name, value });
}

fn add_route(
    route: &Route,
    ifname: &str,
    result: &CniResult,
    at: At<'_>,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let v4 = route.dst.addr().is_ipv4();
    let gateways = result.ips.iter().filter_map(|ip| ip.gateway);
    let mut gateways = gateways.filter(|gw| gw.is_ipv4() == v4);
    let gateway = route.gw.or_else(|| gateways.next());
    let new = NewRoute {
        kind: RouteKind::Unicast,
        dst: route.dst,
        gateway,
        dev: Some(ifname.into()),
        src: None,
        metric: u32::try_from(route.priority).unwrap_or(0),
        scope: match route.scope {
            Some(200) => Scope::Site,
            Some(253) => Scope::Link,
            Some(254) => Scope::Host,
            Some(_) | None => Scope::Global,
        },
        onlink: false,
        mtu: u32::try_from(route.mtu).ok().filter(|mtu| *mtu != 0),
        origin: OriginId::NONE,
    };
    let table = u32::try_from(route.table.unwrap_or(0)).unwrap_or(0);
    let change = match table {
        0 | MAIN => Change::PrependRoute(new),
        table => Change::AddTableRoute { table, route: new },
    };
    machine.change(at, &change).map_err(|e| {
        let dst = go_net(route.dst, route.mapped_mask);
        let gateway = gateway.map_or_else(|| "<nil>".to_owned(), |gw| gw.to_string());
        let scope = match route.scope {
            None | Some(0) => "universe".to_owned(),
            Some(200) => "site".to_owned(),
            Some(253) => "link".to_owned(),
            Some(254) => "host".to_owned(),
            Some(255) => "nowhere".to_owned(),
            Some(_) => "unknown".to_owned(),
        };
        format!(
            "failed to add route '{dst} via {gateway} dev {ifname} metric {} (Scope: {scope}, Table: {table})': {}",
            route.priority,
            errno_words(&e)
        )
    })
}

/// Number of table main (`rtnetlink(7)`).
const MAIN: u32 = 254;
