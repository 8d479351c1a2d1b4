//! The configuration of `bridge`.

use serde_json::Value;

use super::super::call::Call;
use super::super::env_args;
use super::super::go_json::{Decoder, Spot};
use super::super::net_conf::NetConf;

/// What the plugin reads of its configuration.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "switches of the plugin")]
pub(super) struct Config {
    pub(super) net: NetConf,
    pub(super) bridge: String,
    pub(super) is_gateway: bool,
    pub(super) is_default_gateway: bool,
    pub(super) force_address: bool,
    pub(super) ip_masq: bool,
    pub(super) ip_masq_backend: Option<String>,
    pub(super) mtu: u32,
    pub(super) hairpin: bool,
    pub(super) promisc: bool,
    pub(super) vlan: i64,
    pub(super) vlan_trunk: bool,
    pub(super) mac_spoof_check: bool,
    pub(super) enable_dad: bool,
    pub(super) disable_container: bool,
    pub(super) port_isolation: bool,
    /// Hardware address asked for; empty is none.
    pub(super) mac: String,
}

/// Who asks for a hardware address, the strongest last.
#[derive(Debug, Default)]
struct Macs {
    args: String,
    runtime: String,
}

/// One entry of `vlanTrunk`.
#[derive(Clone, Copy, Debug, Default)]
struct Trunk {
    min: Option<i64>,
    max: Option<i64>,
    id: Option<i64>,
}

const NAMES: [&str; 17] = [
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "ipMasqBackend",
    "mtu",
    "hairpinMode",
    "promiscMode",
    "vlan",
    "vlanTrunk",
    "macspoofchk",
    "enabledad",
    "disableContainerInterface",
    "portIsolation",
    "args",
    "runtimeConfig",
];

impl Config {
    pub(super) fn load(call: &Call<'_>) -> Result<Self, String> {
        let mut config = Self {
            bridge: "cni0".to_owned(),
            ..Self::default()
        };
        let (mut macs, mut mtu, mut vlan) = (Macs::default(), None, None);
        let mut trunks = Vec::new();
        let net = NetConf::load(
            call.stdin,
            ("NetConf", "main.NetConf"),
            &NAMES,
            |d, name, v, at| match name {
                "bridge" => d.string(v, at, &mut config.bridge),
                "isGateway" => d.bool(v, at, &mut config.is_gateway),
                "isDefaultGateway" => d.bool(v, at, &mut config.is_default_gateway),
                "forceAddress" => d.bool(v, at, &mut config.force_address),
                "ipMasq" => d.bool(v, at, &mut config.ip_masq),
                "ipMasqBackend" => d.optional_string(v, at, &mut config.ip_masq_backend),
                "mtu" => d.int(v, at, &mut mtu),
                "hairpinMode" => d.bool(v, at, &mut config.hairpin),
                "promiscMode" => d.bool(v, at, &mut config.promisc),
                "vlan" => d.int(v, at, &mut vlan),
                "vlanTrunk" => decode_trunks(d, v, at, &mut trunks),
                "macspoofchk" => d.bool(v, at, &mut config.mac_spoof_check),
                "enabledad" => d.bool(v, at, &mut config.enable_dad),
                "disableContainerInterface" => d.bool(v, at, &mut config.disable_container),
                "portIsolation" => d.bool(v, at, &mut config.port_isolation),
                "args" => d.object(v, at, "", "struct", &["cni"], |d, _, v, at| {
                    d.object(
                        v,
                        at,
                        "BridgeArgs",
                        "main.BridgeArgs",
                        &["mac"],
                        |d, _, v, at| {
                            d.string(v, at, &mut macs.args);
                        },
                    );
                }),
                _ => d.object(v, at, "", "struct", &["mac"], |d, _, v, at| {
                    d.string(v, at, &mut macs.runtime);
                }),
            },
        );
        config.net = net.map_err(|e| format!("failed to load netconf: {e}"))?;
        config.mtu = u32::try_from(mtu.unwrap_or(0)).unwrap_or(0);
        config.vlan = vlan.unwrap_or(0);
        let vlan = config.vlan;
        if !(0..=4094).contains(&vlan) {
            return Err(format!(
                "invalid VLAN ID {vlan} (must be between 0 and 4094)"
            ));
        }
        for trunk in &trunks {
            config.vlan_trunk |= trunk.check()?;
        }
        if vlan > 0 && config.vlan_trunk {
            return Err("cannot set vlan and vlanTrunk at the same time".to_owned());
        }
        let from_env = env_args::parse(call.args, "MAC", |mac| Ok(mac.to_owned()))?;
        let asked = [macs.runtime, macs.args, from_env.unwrap_or_default()];
        config.mac = asked
            .into_iter()
            .find(|mac| !mac.is_empty())
            .unwrap_or_default();
        config.is_gateway |= config.is_default_gateway;
        Ok(config)
    }
}

fn decode_trunks(d: &mut Decoder, value: &Value, at: &Spot, into: &mut Vec<Trunk>) {
    d.array(value, at, "[]*main.VlanTrunk", |d, value, at| {
        let mut trunk = Trunk::default();
        let names = ["minID", "maxID", "id"];
        d.object(
            value,
            at,
            "VlanTrunk",
            "main.VlanTrunk",
            &names,
            |d, name, v, at| match name {
                "minID" => d.int(v, at, &mut trunk.min),
                "maxID" => d.int(v, at, &mut trunk.max),
                _ => d.int(v, at, &mut trunk.id),
            },
        );
        into.push(trunk);
    });
}

impl Trunk {
    /// Returns whether it names any VLAN.
    fn check(self) -> Result<bool, String> {
        let id = |id: i64| (1..=4094).contains(&id);
        let wrong = |text: &str| Err(text.to_owned());
        match (self.min, self.max) {
            (Some(min), _) if self.max.is_some() && !id(min) => {
                return wrong("incorrect trunk minID parameter");
            }
            (Some(_), Some(max)) if !id(max) => return wrong("incorrect trunk maxID parameter"),
            (Some(min), Some(max)) if max < min => {
                return wrong("minID is greater than maxID in trunk parameter");
            }
            (None, Some(_)) => {
                return wrong(
                    "minID and maxID should be configured simultaneously, minID is missing",
                );
            }
            (Some(_), None) => {
                return wrong(
                    "minID and maxID should be configured simultaneously, maxID is missing",
                );
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        if self.id.is_some_and(|n| !id(n)) {
            return wrong("incorrect trunk id parameter");
        }
        Ok(self.min.is_some() || self.id.is_some())
    }
}
