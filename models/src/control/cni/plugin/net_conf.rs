//! The part of a network configuration that every plugin reads, and the pieces plugins share on top of it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::call::{Call, PluginError};
use super::go_json::{self, Decoder, Spot};
use super::masquerade::Attachment;
use super::result::{CniResult, Dns};

/// What every configuration has.
#[derive(Clone, Debug, Default)]
pub(super) struct NetConf {
    pub(super) name: String,
    pub(super) version: String,
    /// Name of the IPAM plugin; empty is none.
    pub(super) ipam: String,
    pub(super) dns: Dns,
    pub(super) prev_result: Option<Value>,
}

impl NetConf {
    /// Names of the fields, as parts of an embedded struct.
    const NAMES: [&'static str; 5] = [
        "NetConf.cniVersion",
        "NetConf.name",
        "NetConf.ipam",
        "NetConf.dns",
        "NetConf.prevResult",
    ];

    /// Reads a configuration: the shared fields, and with `each` those of the plugin, called `own`.
    pub(super) fn load(
        stdin: &str,
        go_type: (&'static str, &'static str),
        own: &[&'static str],
        mut each: impl FnMut(&mut Decoder, &'static str, &Value, &Spot),
    ) -> Result<Self, String> {
        let value = go_json::parse(stdin)?;
        let mut conf = Self::default();
        let mut decoder = Decoder::default();
        let names: Vec<&'static str> = Self::NAMES.iter().chain(own).copied().collect();
        let (owner, go_type) = go_type;
        let root = Spot::root();
        decoder.object(
            &value,
            &root,
            owner,
            go_type,
            &names,
            |d, name, v, at| match name {
                "NetConf.cniVersion" => d.string(v, at, &mut conf.version),
                "NetConf.name" => d.string(v, at, &mut conf.name),
                "NetConf.ipam" => {
                    d.object(v, at, "IPAM", "types.IPAM", &["type"], |d, _, v, at| {
                        d.string(v, at, &mut conf.ipam);
                    });
                }
                "NetConf.dns" => conf.dns.decode(d, v, at),
                "NetConf.prevResult" => conf.prev_result = Some(v.clone()).filter(|v| !v.is_null()),
                own => each(d, own, v, at),
            },
        );
        decoder.finish(conf)
    }

    /// Reads the result of the plugins before this one, if there is one.
    pub(super) fn previous(&self) -> Result<Option<CniResult>, String> {
        let previous = self.prev_result.as_ref();
        let read = |result| CniResult::from_json(result, &self.version);
        previous.map(read).transpose()
    }

    /// Returns what a call is about.
    pub(super) fn attachment<'a>(&'a self, call: &Call<'a>) -> Attachment<'a> {
        Attachment {
            network: &self.name,
            ifname: call.ifname,
            id: call.container_id,
        }
    }

    /// Returns a result as the configuration's version has it.
    pub(super) fn print(&self, result: &CniResult) -> Result<Value, PluginError> {
        result.to_json(&self.version).map_err(PluginError::internal)
    }
}

/// Returns the words for a namespace that is not there.
pub(super) fn no_netns(path: &str) -> String {
    format!("failed to open netns {path:?}: failed to Statfs {path:?}: no such file or directory")
}

/// Returns the subnet that Go's `net.IPNet` with this address prints, `{10.0.0.0 ffffff00}`.
pub(super) fn go_net(net: IpNet, mapped_mask: bool) -> String {
    let mask = match net.netmask() {
        IpAddr::V4(mask) => format!("{:08x}", mask.to_bits()),
        IpAddr::V6(mask) => format!("{:032x}", mask.to_bits()),
    };
    if mapped_mask && net.addr().is_ipv4() {
        // The mask of an IPv4 prefix held in 16 bytes.
        return format!("{{{} 00000000000000000000ffff{mask}}}", net.addr());
    }
    format!("{{{} {mask}}}", net.addr())
}
