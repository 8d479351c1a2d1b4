//! `tuning`: settings of a container's namespace, and hardware address, MTU and promiscuous mode of its device.
//!
//! What is changed on the device is noted in a file first, and is put back on DEL. Settings go with the namespace.
//!
//! Source: containernetworking `plugins/meta/tuning`, nine commits after v1.9.1.
//!
//! # Fidelity
//! Settings that decide nothing here are accepted if Linux 6.18 has them (`settings.txt`), and CHECK takes them for what they were
//! set to. Left out: lists of allowed settings in `/etc/cni/tuning`, `args.cni`; `allmulti` and `txQLen` are refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::call::{Call, PluginError, Verb};
use super::env_args;
use super::go_json::{Decoder, Spot};
use super::machine::{At, Machine};
use super::net_conf::{NetConf, no_netns};
use super::result::CniResult;
use super::veth;
use crate::base::Mac;
use crate::kernel::config::{Change, ConfigError};

/// What is below `/proc/sys/net` in a namespace of Linux 6.18; `*` stands for a device.
const SETTINGS: &str = include_str!("settings.txt");

/// What the plugin reads of its configuration.
#[derive(Debug, Default)]
struct Config {
    net: NetConf,
    data_dir: String,
    sysctl: BTreeMap<String, String>,
    mac: String,
    promisc: bool,
    mtu: u32,
    refused: Option<&'static str>,
}

impl Config {
    fn load(call: &Call<'_>) -> Result<Self, String> {
        let mut config = Self::default();
        let (mut mtu, mut runtime_mac) = (None, String::new());
        let names = [
            "dataDir",
            "sysctl",
            "mac",
            "promisc",
            "mtu",
            "allmulti",
            "txQLen",
            "runtimeConfig",
        ];
        let net = NetConf::load(
            call.stdin,
            ("TuningConf", "main.TuningConf"),
            &names,
            |d, name, v, at| match name {
                "dataDir" => d.string(v, at, &mut config.data_dir),
                "sysctl" => decode_sysctl(d, v, at, &mut config.sysctl),
                "mac" => d.string(v, at, &mut config.mac),
                "promisc" => d.bool(v, at, &mut config.promisc),
                "mtu" => d.int(v, at, &mut mtu),
                "allmulti" => config.refused = Some("allmulti").filter(|_| !v.is_null()),
                "txQLen" => config.refused = Some("txQLen").filter(|_| !v.is_null()),
                _ => d.object(v, at, "", "struct", &["mac"], |d, _, v, at| {
                    d.string(v, at, &mut runtime_mac);
                }),
            },
        );
        config.net = net.map_err(|e| format!("failed to load netconf: {e}"))?;
        config.mtu = u32::try_from(mtu.unwrap_or(0)).unwrap_or(0);
        if config.data_dir.is_empty() {
            "/run/cni/tuning".clone_into(&mut config.data_dir);
        }
        let asked = env_args::parse(call.args, "MAC", |mac| Ok(mac.to_owned()))?;
        for mac in [asked.unwrap_or_default(), runtime_mac] {
            if !mac.is_empty() {
                config.mac = mac;
            }
        }
        match config.refused {
            Some(name) => Err(format!("{name} is not modelled")),
            None => Ok(config),
        }
    }

    /// Where the device's former state is noted.
    fn backup(&self, call: &Call<'_>) -> String {
        format!(
            "{}/{}_{}.json",
            self.data_dir, call.container_id, call.ifname
        )
    }
}

fn decode_sysctl(d: &mut Decoder, value: &Value, at: &Spot, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                let mut text = String::new();
                d.string(value, at, &mut text);
                into.insert(key.clone(), text);
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            d.wrong(value, at, "map[string]string");
        }
    }
}

/// Runs the plugin's own code.
pub(super) fn run(
    verb: Verb,
    call: &Call<'_>,
    machine: &mut dyn Machine,
) -> Result<Option<Value>, PluginError> {
    let config = Config::load(call).map_err(PluginError::internal)?;
    let previous = config.net.previous().map_err(PluginError::internal)?;
    match verb {
        Verb::Add => {
            let missing = || PluginError::internal("required prevResult missing");
            let mut result = previous.ok_or_else(missing)?;
            add(call, &config, &mut result, machine).map_err(PluginError::internal)?;
            config.net.print(&result).map(Some)
        }
        Verb::Check => {
            let missing = || PluginError::internal("Required prevResult missing");
            previous.ok_or_else(missing)?;
            check(call, &config, machine).map_err(PluginError::internal)?;
            Ok(None)
        }
        Verb::Del => {
            put_back(call, &config, machine);
            Ok(None)
        }
    }
}

/// Returns a setting's path below `/proc/sys`, if it is one of the network's.
fn path_of(key: &str, ifname: &str) -> Result<String, String> {
    let path = key.replace('.', "/").replacen("IFNAME", ifname, 1);
    let escapes = path.split('/').any(|part| part == "..");
    if path.starts_with("net/") && !escapes {
        Ok(path)
    } else {
        Err(format!("invalid net sysctl key: {path:?}"))
    }
}

/// Whether Linux has a setting; `*` stands for any device there is.
fn exists(path: &str, has_device: impl Fn(&str) -> bool) -> bool {
    let Some(path) = path.strip_prefix("net/") else {
        return false;
    };
    let parts: Vec<&str> = path.split('/').collect();
    let device = |name: &str| matches!(name, "all" | "default") || has_device(name);
    SETTINGS.lines().any(|line| {
        let mut pattern = line.split('/');
        let fits = |part: &&str| match pattern.next() {
            Some("*") => device(part),
            other => other == Some(*part),
        };
        parts.iter().all(fits) && pattern.next().is_none()
    })
}

fn add(
    call: &Call<'_>,
    config: &Config,
    result: &mut CniResult,
    machine: &mut dyn Machine,
) -> Result<(), String> {
    let at = At::Path(call.netns);
    if machine.netns(at).is_none() {
        return Err(no_netns(call.netns));
    }
    for (key, value) in &config.sysctl {
        let path = path_of(key, call.ifname)?;
        set(call, &path, value, machine)?;
    }
    if config.mac.is_empty() && config.mtu == 0 && !config.promisc {
        return Ok(());
    }
    let name = call.ifname;
    let device = veth::device(machine, at, name);
    let device = device.ok_or_else(|| format!("failed to get {name:?}: Link not found"))?;
    let mut former = Map::new();
    if !config.mac.is_empty() {
        former.insert("mac".into(), device.mac.to_string().into());
    }
    if config.promisc {
        former.insert("promisc".into(), device.promisc.into());
    }
    if config.mtu != 0 {
        former.insert("mtu".into(), device.mtu.into());
    }
    let text = indented(&former);
    machine.files().insert(config.backup(call), text);
    if !config.mac.is_empty() {
        let invalid = |_| {
            format!(
                "invalid args {} for MAC addr: address {0}: invalid MAC address",
                config.mac
            )
        };
        let mac: Mac = config.mac.parse().map_err(invalid)?;
        let dev: Arc<str> = name.into();
        apply(at, Change::SetMac { dev, mac }, machine)?;
        for interface in &mut result.interfaces {
            if interface.name == name && interface.sandbox == call.netns {
                interface.mac = mac.to_string();
            }
        }
    }
    if config.promisc {
        let dev = name.into();
        apply(at, Change::SetPromisc { dev, on: true }, machine)?;
    }
    if config.mtu != 0 {
        let (dev, mtu) = (name.into(), config.mtu);
        apply(at, Change::SetMtu { dev, mtu }, machine)?;
    }
    Ok(())
}

fn apply(at: At<'_>, change: Change, machine: &mut dyn Machine) -> Result<(), String> {
    machine.change(at, &change).map_err(|e| e.to_string())
}

/// An object as Go prints it with one blank for each step inward.
fn indented(map: &Map<String, Value>) -> String {
    let lines: Vec<String> = map.iter().map(|(k, v)| format!(" {k:?}: {v}")).collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}

/// Writes a setting as the file it is.
fn set(call: &Call<'_>, path: &str, value: &str, machine: &mut dyn Machine) -> Result<(), String> {
    let at = At::Path(call.netns);
    let name: Arc<str> = path.replace('/', ".").into();
    let invalid = || format!("write /proc/sys/{path}: invalid argument");
    let value = value.trim().parse::<i64>();
    let change = value.map(|value| Change::Sysctl { name, value });
    let done = change.ok().map(|change| machine.change(at, &change));
    match done {
        Some(Ok(())) => Ok(()),
        Some(Err(ConfigError::NoSysctl(_))) | None => {
            let netns = machine.netns(at);
            let has = |dev: &str| netns.is_some_and(|netns| netns.device_named(dev).is_some());
            if exists(path, has) {
                Ok(())
            } else {
                Err(format!("open /proc/sys/{path}: no such file or directory"))
            }
        }
        Some(Err(_)) => Err(invalid()),
    }
}

/// Errors do not matter: the container may be gone.
fn put_back(call: &Call<'_>, config: &Config, machine: &mut dyn Machine) {
    let at = At::Path(call.netns);
    if machine.netns(at).is_none() {
        return;
    }
    let Some(text) = machine.files().remove(&config.backup(call)) else {
        return;
    };
    let former: Value = serde_json::from_str(&text).unwrap_or_default();
    let dev = || -> Arc<str> { call.ifname.into() };
    let mac = former.get("mac").and_then(Value::as_str);
    if let Some(mac) = mac.and_then(|mac| mac.parse().ok()) {
        let _ = machine.change(at, &Change::SetMac { dev: dev(), mac });
    }
    if let Some(on) = former.get("promisc").and_then(Value::as_bool) {
        let _ = machine.change(at, &Change::SetPromisc { dev: dev(), on });
    }
    let mtu = former.get("mtu").and_then(Value::as_u64);
    if let Some(mtu) = mtu.and_then(|mtu| u32::try_from(mtu).ok()) {
        let _ = machine.change(at, &Change::SetMtu { dev: dev(), mtu });
    }
}

fn check(call: &Call<'_>, config: &Config, machine: &dyn Machine) -> Result<(), String> {
    let at = At::Path(call.netns);
    let netns = machine.netns(at).ok_or_else(|| no_netns(call.netns))?;
    for (key, wanted) in &config.sysctl {
        let path = path_of(key, call.ifname)?;
        let found = netns.sysctls.text(&path.replace('/', "."));
        if let Some(found) = found.filter(|found| found != wanted.trim()) {
            return Err(format!(
                "Error: Tuning configured value of {path} is {wanted}, current value is {found}"
            ));
        }
    }
    let name = call.ifname;
    let device = netns.device_named(name);
    let device = device.ok_or_else(|| format!("Cannot find container link {name}"))?;
    let mac = device.mac.to_string();
    if !config.mac.is_empty() && config.mac != mac {
        let wanted = &config.mac;
        return Err(format!(
            "Error: Tuning configured Ethernet of {name} is {wanted}, current value is {mac}"
        ));
    }
    if config.promisc && !device.promisc {
        return Err(format!(
            "Error: Tuning link {name} configured promisc is true, current value is 0"
        ));
    }
    if config.mtu != 0 && config.mtu != device.mtu {
        let (wanted, found) = (config.mtu, device.mtu);
        return Err(format!(
            "Error: Tuning configured MTU of {name} is {wanted}, current value is {found}"
        ));
    }
    Ok(())
}
