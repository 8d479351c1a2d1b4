//! `static`: the addresses that the configuration or the runtime names; nothing is kept.
//!
//! Source: containernetworking `plugins/ipam/static`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::call::{Call, PluginError, Verb, parse_version};
use super::env_args;
use super::go_json::{self, Decoder, Spot};
use super::net_conf::NetConf;
use super::result::{CniResult, Dns, IpConfig, Route};

/// The configuration: one address for each of the texts, and what belongs to them.
#[derive(Debug, Default)]
struct Config {
    version: String,
    ipam: bool,
    addresses: Vec<(String, Option<IpAddr>)>,
    /// From `args`, instead of those of the configuration.
    from_args: Vec<String>,
    /// From the runtime, instead of all others.
    from_runtime: Vec<String>,
    routes: Vec<Route>,
    dns: Dns,
}

/// Runs the plugin's own code.
pub(super) fn run(verb: Verb, call: &Call<'_>) -> Result<Option<Value>, PluginError> {
    match verb {
        Verb::Add => {
            let (config, result) = load(call).map_err(PluginError::internal)?;
            let printed = result.to_json(&config.version);
            printed.map(Some).map_err(PluginError::internal)
        }
        Verb::Check => check(call).map(|()| None).map_err(PluginError::internal),
        Verb::Del => Ok(None),
    }
}

fn load(call: &Call<'_>) -> Result<(Config, CniResult), String> {
    let mut config = Config::decode(call.stdin)?;
    if !config.ipam {
        return Err("IPAM config missing 'ipam' key".to_owned());
    }
    let texts = |text: &str| -> Vec<String> {
        text.split(',').map(|item| item.trim().to_owned()).collect()
    };
    let asked = env_args::strings(call.args, &["IP", "GATEWAY"])?;
    let of = |key: &str| asked.iter().find(|(k, v)| *k == key && !v.is_empty());
    if let Some((_, ips)) = of("IP") {
        config
            .addresses
            .extend(texts(ips).into_iter().map(|ip| (ip, None)));
    }
    for instead in [&config.from_args, &config.from_runtime] {
        if !instead.is_empty() {
            config.addresses = instead.iter().map(|ip| (ip.clone(), None)).collect();
        }
    }
    let mut ips = Vec::new();
    for (text, gateway) in &config.addresses {
        let address: IpNet = text.parse().map_err(|_| {
            format!("the 'address' field is expected to be in CIDR notation, got: '{text}'")
        })?;
        ips.push(IpConfig {
            address,
            gateway: *gateway,
            interface: None,
        });
    }
    if let Some((_, gateways)) = of("GATEWAY") {
        for text in texts(gateways) {
            let gateway: IpAddr = text
                .parse()
                .map_err(|_| format!("invalid gateway address: {text}"))?;
            let inside = ips.iter_mut().filter(|ip| ip.address.contains(&gateway));
            inside.for_each(|ip| ip.gateway = Some(gateway));
        }
    }
    let v4 = ips.iter().filter(|ip| ip.address.addr().is_ipv4()).count();
    let several = v4 > 1 || ips.len() - v4 > 1;
    if several && !parse_version(&config.version).is_ok_and(|v| v >= [0, 3, 0]) {
        return Err(format!(
            "CNI version {} does not support more than 1 address per family",
            config.version
        ));
    }
    let result = CniResult {
        ips,
        routes: config.routes.clone(),
        dns: config.dns.clone(),
        ..CniResult::default()
    };
    Ok((config, result))
}

impl Config {
    fn decode(stdin: &str) -> Result<Self, String> {
        let value = go_json::parse(stdin)?;
        let mut config = Self::default();
        let mut decoder = Decoder::default();
        let names = ["cniVersion", "ipam", "runtimeConfig", "args"];
        let root = Spot::root();
        decoder.object(
            &value,
            &root,
            "Net",
            "main.Net",
            &names,
            |d, name, v, at| match name {
                "cniVersion" => d.string(v, at, &mut config.version),
                "ipam" => config.decode_ipam(d, v, at),
                "runtimeConfig" => d.object(v, at, "", "struct", &["ips"], |d, _, v, at| {
                    d.strings(v, at, &mut config.from_runtime);
                }),
                _ => d.object(v, at, "", "struct", &["cni"], |d, _, v, at| {
                    d.object(
                        v,
                        at,
                        "IPAMArgs",
                        "main.IPAMArgs",
                        &["ips"],
                        |d, _, v, at| {
                            d.strings(v, at, &mut config.from_args);
                        },
                    );
                }),
            },
        );
        decoder.finish(config)
    }

    fn decode_ipam(&mut self, d: &mut Decoder, value: &Value, at: &Spot) {
        self.ipam |= value.is_object();
        let names = ["routes", "addresses", "dns"];
        d.object(
            value,
            at,
            "IPAMConfig",
            "main.IPAMConfig",
            &names,
            |d, name, v, at| match name {
                "routes" => Route::decode_list(d, v, at, &mut self.routes),
                "dns" => self.dns.decode(d, v, at),
                _ => d.array(v, at, "[]main.Address", |d, v, at| {
                    let (mut address, mut gateway) = (String::new(), None);
                    let names = ["address", "gateway"];
                    d.object(
                        v,
                        at,
                        "Address",
                        "main.Address",
                        &names,
                        |d, name, v, at| match name {
                            "address" => d.string(v, at, &mut address),
                            _ => d.ip(v, at, &mut gateway),
                        },
                    );
                    self.addresses.push((address, gateway));
                }),
            },
        );
    }
}

/// Sees whether the addresses are in the result with the same gateways.
fn check(call: &Call<'_>) -> Result<(), String> {
    let (_, wanted) = load(call)?;
    let conf = NetConf::load(
        call.stdin,
        ("NetConf", "types.NetConf"),
        &[],
        |_, _, _, _| {},
    )?;
    let previous = conf.previous()?;
    let missing = || "Required prevResult missing".to_owned();
    let previous = previous.ok_or_else(missing)?;
    for ip in &wanted.ips {
        let mut same = previous.ips.iter();
        let found = same.find(|other| other.address.addr() == ip.address.addr());
        let other = |found: &IpConfig| ip.gateway.is_some() && found.gateway != ip.gateway;
        if found.is_some_and(other) {
            let (addr, ifname) = (ip.address.addr(), call.ifname);
            return Err(format!(
                "static: Failed to match addr {addr} on interface {ifname}"
            ));
        }
    }
    Ok(())
}
