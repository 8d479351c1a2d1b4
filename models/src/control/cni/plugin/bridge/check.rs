//! CHECK of `bridge`: bridge, container's device and the pair between them are as they were made.

use super::super::call::{Call, PluginError, Verb};
use super::super::machine::{At, Machine};
use super::super::net_conf::no_netns;
use super::super::result::{CniResult, Interface};
use super::super::{ipam, veth};
use super::config::Config;
use crate::kernel::link::{Device, DeviceKind};

pub(super) fn check(
    call: &Call<'_>,
    config: &Config,
    machine: &mut dyn Machine,
) -> Result<(), PluginError> {
    if machine.netns(At::Path(call.netns)).is_none() {
        return Err(PluginError::internal(no_netns(call.netns)));
    }
    ipam::run(Verb::Check, call, &config.net, machine)?;
    let previous = config.net.previous().map_err(PluginError::internal)?;
    let missing = || PluginError::internal("Required prevResult missing");
    let result = previous.ok_or_else(missing)?;
    as_made(call, config, &result, machine).map_err(PluginError::internal)
}

fn as_made(
    call: &Call<'_>,
    config: &Config,
    result: &CniResult,
    machine: &dyn Machine,
) -> Result<(), String> {
    let nothing = Interface::default();
    let last = |wanted: &dyn Fn(&&Interface) -> bool| {
        result
            .interfaces
            .iter()
            .rev()
            .find(wanted)
            .unwrap_or(&nothing)
    };
    let bridge = last(&|i| i.name == config.bridge);
    let own =
        last(&|i| i.name != config.bridge && i.name == call.ifname && i.sandbox == call.netns);
    bridge_as_made(bridge, config, machine)?;
    if own.sandbox != call.netns {
        let (found, wanted) = (&own.sandbox, call.netns);
        return Err(format!(
            "Sandbox in prevResult {found} doesn't match configured netns: {wanted}"
        ));
    }
    let inside = At::Path(call.netns);
    let device = interface(own, inside, machine)?;
    let name = &own.name;
    if !matches!(device.kind, DeviceKind::Veth) {
        return Err(format!(
            "Error: Container interface {name} not of type veth"
        ));
    }
    let mac = device.mac.to_string();
    if !own.mac.is_empty() && own.mac != mac {
        let expected = &own.mac;
        return Err(format!(
            "Interface {name} Mac {expected} doesn't match container Mac: {mac}"
        ));
    }
    pair_as_made(bridge, own, result, machine)?
        .then_some(())
        .ok_or_else(|| {
            let bridge = &config.bridge;
            format!("CNI veth created for bridge {bridge} was not found")
        })?;
    let netns = machine.netns(inside).ok_or_else(|| no_netns(call.netns))?;
    veth::expect_addresses(netns, call.ifname, result)?;
    veth::expect_routes(netns, result)
}

fn bridge_as_made(
    bridge: &Interface,
    config: &Config,
    machine: &dyn Machine,
) -> Result<(), String> {
    let device = interface(bridge, At::Node, machine)?;
    let name = &bridge.name;
    if !matches!(device.kind, DeviceKind::Bridge(_)) {
        return Err(format!(
            "Interface {name} does not have link type of bridge"
        ));
    }
    if !bridge.mac.is_empty() && bridge.mac != device.mac.to_string() {
        let expected = &bridge.mac;
        return Err(format!(
            "Bridge interface {name} Mac doesn't match: {expected}"
        ));
    }
    if device.promisc != config.promisc {
        let (wanted, found) = (config.promisc, device.promisc);
        return Err(format!(
            "Bridge interface {name} configured Promisc Mode {wanted} doesn't match current state: {found} "
        ));
    }
    Ok(())
}

/// Returns whether one of the result's interfaces is the other end of the container's, and a port of the bridge.
fn pair_as_made(
    bridge: &Interface,
    own: &Interface,
    result: &CniResult,
    machine: &dyn Machine,
) -> Result<bool, String> {
    let others = result.interfaces.iter();
    let others = others.filter(|i| i.name != bridge.name && i.name != own.name);
    let master = veth::device(machine, At::Node, &bridge.name).map(|d| d.index);
    for other in others {
        let device = interface(other, At::Node, machine)?;
        let peer = machine.peer(At::Node, &other.name);
        let pair = peer == Some((Some(own.sandbox.as_str()), own.name.as_str().into()));
        if !matches!(device.kind, DeviceKind::Veth) || !pair || device.master != master {
            continue;
        }
        if !other.mac.is_empty() && other.mac != device.mac.to_string() {
            let (name, expected) = (&other.name, &other.mac);
            return Err(format!(
                "Interface {name} Mac doesn't match: {expected} not found"
            ));
        }
        return Ok(true);
    }
    Ok(false)
}

/// Returns the device an interface of the result is.
fn interface<'a>(
    wanted: &Interface,
    at: At<'_>,
    machine: &'a dyn Machine,
) -> Result<&'a Device, String> {
    let name = &wanted.name;
    if name.is_empty() {
        return Err("Interface name missing ".to_owned());
    }
    let device = veth::device(machine, at, name);
    let device = device.ok_or_else(|| format!("Interface name {name} not found"))?;
    match (at, wanted.sandbox.is_empty()) {
        (At::Path(_), true) => Err(format!("Interface {name} is expected to be in a sandbox")),
        (At::Node, false) => Err(format!("Interface {name} should not be in sandbox")),
        (At::Path(_), false) | (At::Node, true) => Ok(device),
    }
}
