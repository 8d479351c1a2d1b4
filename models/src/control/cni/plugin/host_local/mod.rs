//! `host-local`: addresses from ranges, one file of the node per address.
//!
//! Source: containernetworking `plugins/ipam/host-local`.
//!
//! # Fidelity
//! If several requested addresses belong to one set, the real plugin takes one of them at random; here it is the first.

mod range;
mod store;

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

pub use range::{Range, RangeConfig, RangeSet, Turn};

use super::Files;
use super::call::{Call, PluginError, Verb, parse_version};
use super::env_args;
use super::go_json::{self, Decoder, Spot};
use super::result::{CniResult, Dns, IpConfig, Route};
use store::Store;

/// Runs the plugin's own code.
pub(super) fn run(
    verb: Verb,
    call: &Call<'_>,
    files: &mut Files,
) -> Result<Option<Value>, PluginError> {
    let config = Config::load(call, files).map_err(PluginError::internal)?;
    match verb {
        Verb::Add => add(call, &config, files).map(Some),
        Verb::Check => check(call, &config, files).map(|()| None),
        Verb::Del => {
            Store::open(files, &config.data_dir, &config.name)
                .release(call.container_id, call.ifname);
            Ok(None)
        }
    }
    .map_err(PluginError::internal)
}

fn add(call: &Call<'_>, config: &Config, files: &mut Files) -> Result<Value, String> {
    let mut result = CniResult::default();
    if !config.resolv_conf.is_empty() {
        result.dns = Dns::from_resolv_conf(read(files, &config.resolv_conf)?);
    }
    let mut store = Store::open(files, &config.data_dir, &config.name);
    let mut requested = config.requested.clone();
    for (n, set) in config.ranges.iter().enumerate() {
        let wanted = requested.iter().position(|ip| set.range_of(*ip).is_some());
        let wanted = wanted.map(|at| requested.remove(at));
        match allocate(&mut store, call, set, n, wanted) {
            Ok(ip) => result.ips.push(ip),
            Err(e) => {
                // Addresses of earlier sets go back; with none, whatever else the container holds stays.
                if n > 0 {
                    store.release(call.container_id, call.ifname);
                }
                return Err(format!("failed to allocate for range {n}: {e}"));
            }
        }
    }
    if !requested.is_empty() {
        store.release(call.container_id, call.ifname);
        let left: Vec<String> = requested.iter().map(IpAddr::to_string).collect();
        let left = left.join(" ");
        return Err(format!("failed to allocate all requested IPs: {left}"));
    }
    result.routes.clone_from(&config.routes);
    result.to_json(&config.version)
}

/// Takes an address of a set: the wanted one, or the next free one.
fn allocate(
    store: &mut Store<'_>,
    call: &Call<'_>,
    set: &RangeSet,
    n: usize,
    wanted: Option<IpAddr>,
) -> Result<IpConfig, String> {
    let (id, ifname) = (call.container_id, call.ifname);
    let found = if let Some(ip) = wanted {
        let range = set
            .range_of(ip)
            .ok_or_else(|| format!("{ip} not in range set {set}"))?;
        if ip == range.gateway() {
            return Err(format!("requested ip {ip} is subnet's gateway"));
        }
        if !store.reserve(id, ifname, ip, n) {
            return Err(format!(
                "requested IP address {ip} is not available in range set {set}"
            ));
        }
        Some((ip, range))
    } else {
        let held = store.addresses(id, ifname);
        if let Some(ip) = held.iter().find(|ip| set.range_of(**ip).is_some()) {
            return Err(format!(
                "{ip} has been allocated to {id}, duplicate allocation is not allowed"
            ));
        }
        let last = store.last_reserved(n);
        set.after(last)
            .find(|(ip, _)| store.reserve(id, ifname, *ip, n))
    };
    let none = || format!("no IP addresses available in range set: {set}");
    let (ip, range) = found.ok_or_else(none)?;
    Ok(IpConfig {
        address: IpNet::new(ip, range.prefix_len()).map_err(|_| none())?,
        gateway: Some(range.gateway()),
        interface: None,
    })
}

fn check(call: &Call<'_>, config: &Config, files: &mut Files) -> Result<(), String> {
    let store = Store::open(files, &config.data_dir, &config.name);
    if store.holds(call.container_id, call.ifname) {
        return Ok(());
    }
    let id = call.container_id;
    Err(format!(
        "host-local: Failed to find address added by container {id}"
    ))
}

fn read<'a>(files: &'a Files, path: &str) -> Result<&'a str, String> {
    let text = files.get(path).map(String::as_str);
    text.ok_or_else(|| format!("open {path}: no such file or directory"))
}

/// The part of a network configuration that the plugin reads.
#[derive(Debug, Default)]
struct Config {
    name: String,
    version: String,
    data_dir: String,
    resolv_conf: String,
    routes: Vec<Route>,
    ranges: Vec<RangeSet>,
    requested: Vec<IpAddr>,
}

/// The configuration before it is checked.
#[derive(Debug, Default)]
struct Raw {
    ipam: bool,
    range: RangeConfig,
    range_from_file: String,
    sets: Vec<Vec<RangeConfig>>,
    runtime_sets: Vec<Vec<RangeConfig>>,
    args_ips: Vec<IpAddr>,
    runtime_ips: Vec<IpAddr>,
}

impl Config {
    fn load(call: &Call<'_>, files: &Files) -> Result<Self, String> {
        let value = go_json::parse(call.stdin)?;
        let (mut config, mut raw) = (Self::default(), Raw::default());
        let mut decoder = Decoder::default();
        let root = Spot::root();
        let names = ["name", "cniVersion", "ipam", "runtimeConfig", "args"];
        decoder.object(
            &value,
            &root,
            "Net",
            "allocator.Net",
            &names,
            |d, name, v, at| match name {
                "name" => d.string(v, at, &mut config.name),
                "cniVersion" => d.string(v, at, &mut config.version),
                "ipam" => config.decode_ipam(&mut raw, d, v, at),
                "runtimeConfig" => raw.decode_runtime(d, v, at),
                _ => raw.decode_args(d, v, at),
            },
        );
        decoder.finish(())?;
        if !raw.ipam {
            return Err("IPAM config missing 'ipam' key".to_owned());
        }
        config
            .requested
            .extend(env_args::parse(call.args, "IP", parse_ip)?);
        config.requested.append(&mut raw.args_ips);
        config.requested.append(&mut raw.runtime_ips);
        // Requests are a set of addresses in the plugin.
        let mut seen = Vec::new();
        config.requested.retain(|ip| {
            let new = !seen.contains(ip);
            seen.push(*ip);
            new
        });
        config.ranges = raw.sets(files)?;
        config.limit_families()?;
        for (i, one) in config.ranges.iter().enumerate() {
            let later = config.ranges.iter().enumerate().skip(i + 1);
            if let Some((j, _)) = later.into_iter().find(|(_, set)| one.overlaps(set)) {
                return Err(format!("range set {i} overlaps with {j}"));
            }
        }
        Ok(config)
    }

    fn decode_ipam(&mut self, raw: &mut Raw, d: &mut Decoder, value: &Value, at: &Spot) {
        let names = [
            "Range.rangeStart",
            "Range.rangeEnd",
            "Range.subnet",
            "Range.gateway",
            "type",
            "routes",
            "dataDir",
            "resolvConf",
            "ranges",
            "rangeFromFile",
        ];
        raw.ipam |= value.is_object();
        let mut kind = String::new();
        d.object(
            value,
            at,
            "IPAMConfig",
            "allocator.IPAMConfig",
            &names,
            |d, name, v, at| match name {
                "type" => d.string(v, at, &mut kind),
                "routes" => Route::decode_list(d, v, at, &mut self.routes),
                "dataDir" => d.string(v, at, &mut self.data_dir),
                "resolvConf" => d.string(v, at, &mut self.resolv_conf),
                "ranges" => decode_sets(d, v, at, &mut raw.sets),
                "rangeFromFile" => d.string(v, at, &mut raw.range_from_file),
                of_range => decode_range_field(d, of_range, v, at, &mut raw.range),
            },
        );
    }

    /// Versions 0.2.0 and older have room for one address of each family.
    fn limit_families(&self) -> Result<(), String> {
        let v4 = self.ranges.iter().filter(|set| set.is_ipv4()).count();
        if v4 <= 1 && self.ranges.len() - v4 <= 1 {
            return Ok(());
        }
        if parse_version(&self.version).is_ok_and(|v| v >= [0, 3, 0]) {
            return Ok(());
        }
        Err(format!(
            "CNI version {} does not support more than 1 address per family",
            self.version
        ))
    }
}

impl Raw {
    fn decode_runtime(&mut self, d: &mut Decoder, value: &Value, at: &Spot) {
        let go_type = "struct { IPRanges []allocator.RangeSet \"json:\\\"ipRanges,omitempty\\\"\"; IPs []*ip.IP \"json:\\\"ips,omitempty\\\"\" }";
        d.object(
            value,
            at,
            "",
            go_type,
            &["ipRanges", "ips"],
            |d, name, v, at| match name {
                "ipRanges" => decode_sets(d, v, at, &mut self.runtime_sets),
                _ => decode_ips(d, v, at, &mut self.runtime_ips),
            },
        );
    }

    fn decode_args(&mut self, d: &mut Decoder, value: &Value, at: &Spot) {
        let go_type = "struct { A *allocator.IPAMArgs \"json:\\\"cni\\\"\" }";
        d.object(value, at, "", go_type, &["cni"], |d, _, v, at| {
            d.object(
                v,
                at,
                "IPAMArgs",
                "allocator.IPAMArgs",
                &["ips"],
                |d, _, v, at| {
                    decode_ips(d, v, at, &mut self.args_ips);
                },
            );
        });
    }

    /// Ranges in order: those of the runtime, the one beside `type`, the list; a file only where all of them are missing.
    fn sets(self, files: &Files) -> Result<Vec<RangeSet>, String> {
        let mut sets = self.runtime_sets;
        sets.extend(self.range.subnet.map(|_| vec![self.range]));
        sets.extend(self.sets);
        if sets.is_empty() && !self.range_from_file.is_empty() {
            sets.push(vec![range_from_file(files, &self.range_from_file)?]);
        }
        if sets.is_empty() {
            return Err("no IP ranges specified".to_owned());
        }
        let set = |(n, configs): (usize, &Vec<RangeConfig>)| {
            RangeSet::new(configs).map_err(|e| format!("invalid range set {n}: {e}"))
        };
        sets.iter().enumerate().map(set).collect()
    }
}

fn range_from_file(files: &Files, path: &str) -> Result<RangeConfig, String> {
    let text =
        read(files, path).map_err(|e| format!("failed to read rangeFromFile {path:?}: {e}"))?;
    let mut range = RangeConfig::default();
    let decoded = go_json::parse(text).and_then(|value| {
        let mut decoder = Decoder::default();
        decode_range(&mut decoder, &value, &Spot::root(), &mut range);
        decoder.finish(())
    });
    let failed = format!("failed to parse rangeFromFile {path:?} as a Range");
    decoded.map_err(|e| format!("err: {e}, {failed}"))?;
    if range.subnet.is_none() {
        return Err(failed);
    }
    Ok(range)
}

fn decode_sets(d: &mut Decoder, value: &Value, at: &Spot, into: &mut Vec<Vec<RangeConfig>>) {
    d.array(value, at, "[]allocator.RangeSet", |d, value, at| {
        let mut set = Vec::new();
        d.array(value, at, "allocator.RangeSet", |d, value, at| {
            let mut range = RangeConfig::default();
            decode_range(d, value, at, &mut range);
            set.push(range);
        });
        into.push(set);
    });
}

fn decode_range(d: &mut Decoder, value: &Value, at: &Spot, into: &mut RangeConfig) {
    let names = ["rangeStart", "rangeEnd", "subnet", "gateway"];
    d.object(
        value,
        at,
        "Range",
        "allocator.Range",
        &names,
        |d, name, v, at| {
            decode_range_field(d, name, v, at, into);
        },
    );
}

fn decode_range_field(d: &mut Decoder, name: &str, v: &Value, at: &Spot, into: &mut RangeConfig) {
    match name.rsplit('.').next().unwrap_or(name) {
        "rangeStart" => d.ip(v, at, &mut into.start),
        "rangeEnd" => d.ip(v, at, &mut into.end),
        "gateway" => d.ip(v, at, &mut into.gateway),
        _ => d.ip_net(v, at, &mut into.subnet),
    }
}

fn decode_ips(d: &mut Decoder, value: &Value, at: &Spot, into: &mut Vec<IpAddr>) {
    d.array(value, at, "[]*ip.IP", |d, value, at| match value {
        Value::String(text) => match parse_ip(text) {
            Ok(ip) => into.push(ip),
            Err(e) => d.save(e),
        },
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            d.wrong(value, at, "ip.IP");
        }
    });
}

/// Reads an address, with or without the length of a prefix.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let ip = if text.contains('/') {
        text.parse::<IpNet>().ok().map(|net| net.addr())
    } else {
        text.parse().ok()
    };
    ip.map(|ip: IpAddr| ip.to_canonical())
        .ok_or_else(|| format!("invalid IP address {text}"))
}

#[cfg(test)]
mod tests {
    use super::super::call::{ALL_VERSIONS, dispatch};
    use super::super::{Answer, Call, Files};

    /// Makes one call for the network `n`, version 1.0.0.
    fn call(files: &mut Files, command: &str, id: &str, args: &str, ipam: &str) -> Answer {
        let stdin = format!(r#"{{"cniVersion":"1.0.0","name":"n","ipam":{ipam}}}"#);
        let call = Call {
            command,
            container_id: id,
            netns: "/var/run/netns/none",
            ifname: "eth0",
            args,
            path: "/opt/cni/bin",
            stdin: &stdin,
        };
        dispatch(&call, &ALL_VERSIONS, |verb| super::run(verb, &call, files))
    }

    fn said(answer: &Answer, field: &str) -> String {
        let stdout = answer.stdout.as_ref();
        stdout.map_or_else(String::new, |v| v[field].to_string())
    }

    #[test]
    fn a_failed_call_moves_the_cursor_and_keeps_nothing() {
        let mut files = Files::new();
        let ipam = r#"{"ranges":[[{"subnet":"10.1.0.0/29"}]]}"#;
        let add = |files: &mut Files, id, args| call(files, "ADD", id, args, ipam);
        assert_eq!(
            said(&add(&mut files, "a", ""), "ips"),
            r#"[{"address":"10.1.0.2/29","gateway":"10.1.0.1"}]"#
        );
        let refused = add(&mut files, "b", "IP=192.0.2.1");
        assert_eq!(refused.exit, 1);
        assert_eq!(
            said(&refused, "msg"),
            r#""failed to allocate all requested IPs: 192.0.2.1""#
        );
        assert!(said(&add(&mut files, "c", ""), "ips").contains("10.1.0.4/29"));
        assert_eq!(call(&mut files, "DEL", "a", "", ipam).exit, 0);
        assert!(said(&call(&mut files, "CHECK", "a", "", ipam), "msg").contains("by container a"));
        assert_eq!(
            files
                .get("/var/lib/cni/networks/n/10.1.0.4")
                .map(String::as_str),
            Some("c\r\neth0")
        );
    }

    #[test]
    fn wrong_types_are_named_as_go_names_them() {
        let cases = [
            (
                r#"{"ranges":"x"}"#,
                "string",
                "IPAMConfig.ipam.ranges",
                "[]allocator.RangeSet",
            ),
            (
                r#"{"dataDir":[]}"#,
                "array",
                "IPAMConfig.ipam.dataDir",
                "string",
            ),
            (
                r#"{"RANGES":[[{"gateway":5}]]}"#,
                "number",
                "Range.ipam.ranges.gateway",
                "net.IP",
            ),
        ];
        for (ipam, kind, field, go_type) in cases {
            let answer = call(&mut Files::new(), "ADD", "a", "", ipam);
            let want = format!(
                "json: cannot unmarshal {kind} into Go struct field {field} of type {go_type}"
            );
            assert_eq!(said(&answer, "msg"), format!("{want:?}"));
        }
    }
}
