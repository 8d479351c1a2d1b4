//! `loopback`: brings `lo` up, and down again. It has no configuration, and takes no notice of `CNI_IFNAME`.
//!
//! Source: containernetworking `plugins/main/loopback`.

use serde_json::Value;

use super::call::{Call, PluginError, Verb};
use super::machine::{At, Machine};
use super::net_conf::{NetConf, no_netns};
use super::result::{CniResult, Interface, IpConfig, Printed};
use super::veth::device;
use crate::base::Mac;
use crate::kernel::config::Change;

const LO: &str = "lo";

/// Runs the plugin's own code.
pub(super) fn run(
    verb: Verb,
    call: &Call<'_>,
    machine: &mut dyn Machine,
) -> Result<Option<Value>, PluginError> {
    match verb {
        Verb::Add => add(call, machine).map(Some),
        Verb::Check => check(call, machine).map(|()| None),
        Verb::Del => {
            // A namespace that is gone is no error.
            let _ = set_up(call.netns, false, machine);
            Ok(None)
        }
    }
    .map_err(PluginError::internal)
}

fn add(call: &Call<'_>, machine: &mut dyn Machine) -> Result<Value, String> {
    let conf = NetConf::load(
        call.stdin,
        ("NetConf", "types.NetConf"),
        &[],
        |_, _, _, _| {},
    )
    .map_err(|e| format!("failed to parse network config: {e}"))?;
    let previous = conf
        .previous()
        .map_err(|e| format!("failed to parse prevResult: {e}"))?;
    set_up(call.netns, true, machine)?;
    let lo = device(machine, At::Path(call.netns), LO);
    let nets: Vec<_> = lo.iter().flat_map(|lo| &lo.addrs).map(|a| a.net).collect();
    let mut result = CniResult {
        interfaces: vec![Interface {
            name: LO.to_owned(),
            mac: Mac::ZERO.to_string(),
            sandbox: call.netns.to_owned(),
        }],
        ..CniResult::default()
    };
    for v4 in [true, false] {
        let mut of_family = nets.iter().filter(|net| net.addr().is_ipv4() == v4);
        if let Some(other) = of_family.clone().find(|net| !net.addr().is_loopback()) {
            let other = other.addr().to_string();
            return Err(format!(
                "loopback interface found with non-loopback address {other:?}"
            ));
        }
        result.ips.extend(of_family.next().map(|net| IpConfig {
            address: *net,
            gateway: None,
            interface: Some(0),
        }));
    }
    match previous {
        Some(previous) => previous.to_json(&conf.version),
        // It says that it is of the version asked for, and is printed as it is.
        None => result.to_json_as(Printed::Newest, &conf.version),
    }
}

fn check(call: &Call<'_>, machine: &dyn Machine) -> Result<(), String> {
    let netns = machine.netns(At::Path(call.netns));
    let netns = netns.ok_or_else(|| statfs(call.netns))?;
    if netns.device_named(LO).is_some_and(|lo| lo.up) {
        Ok(())
    } else {
        Err("loopback interface is down".to_owned())
    }
}

fn set_up(netns: &str, up: bool, machine: &mut dyn Machine) -> Result<(), String> {
    let dev = LO.into();
    machine
        .change(At::Path(netns), &Change::SetUp { dev, up })
        .map_err(|_| statfs(netns))
}

/// The error of a namespace that is not there, without the words that other plugins put in front.
fn statfs(path: &str) -> String {
    let whole = no_netns(path);
    let from = whole.find("failed to Statfs").unwrap_or(0);
    whole.get(from..).unwrap_or(&whole).to_owned()
}
