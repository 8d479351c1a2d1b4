//! CNI plugins as programs: one call goes in as a runtime makes it, one answer comes out as the plugin prints it.
//!
//! Reading order: [`call`] (the protocol all plugins share: environment, versions, errors), [`go_json`] (how a Go program
//! reads its configuration, with its error messages), [`result`] (results and their conversion between versions of the
//! specification), [`machine`] (what a plugin can look at and have done), `net_conf`, `env_args`, `ipam`, `veth`, `nft`
//! and `masquerade` (what several plugins do alike), then one file or folder per plugin.
//!
//! Source: containernetworking `cni` `pkg/skel`, `plugins` v1.9.1.
//!
//! Leaves out: the other plugins. What a cluster needs of a plugin's work is made by [`super::bridge`] and its neighbours,
//! without a call.

pub mod call;
pub mod go_json;
pub mod result;
pub mod machine;
mod net_conf;
mod env_args;
mod ipam;
mod veth;
mod nft;
mod masquerade;
mod bridge;
mod firewall;
pub mod host_local;
mod loopback;
pub mod portmap;
mod ptp;
mod static_ipam;
mod tuning;

use std::collections::BTreeMap;

pub use call::{Answer, Call, PluginError};
use machine::Machine;

/// The files of a node that plugins read and write: path to content.
pub type Files = BTreeMap<String, String>;

/// The plugins that can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// A veth pair on a bridge.
    Bridge,
    /// A container's packets let pass.
    Firewall,
    /// Addresses from ranges, kept in files of the node.
    HostLocal,
    /// `lo` up and down.
    Loopback,
    /// Ports of the node forwarded to a container.
    Portmap,
    /// A veth pair with a route.
    Ptp,
    /// Addresses from the configuration.
    Static,
    /// Settings of a container's namespace and device.
    Tuning,
}

impl Plugin {
    /// All plugins.
    pub const ALL: [Self; 8] = [
        Self::Bridge,
        Self::Firewall,
        Self::HostLocal,
        Self::Loopback,
        Self::Portmap,
        Self::Ptp,
        Self::Static,
        Self::Tuning,
    ];

    /// Returns the name of the program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Firewall => "firewall",
            Self::HostLocal => "host-local",
            Self::Loopback => "loopback",
            Self::Portmap => "portmap",
            Self::Ptp => "ptp",
            Self::Static => "static",
            Self::Tuning => "tuning",
        }
    }

    /// Returns the plugin with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plugin| plugin.name() == name)
    }

    /// Returns the versions of the specification that the plugin supports.
    const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Firewall => &call::SINCE_0_4,
            Self::Bridge
            | Self::HostLocal
            | Self::Loopback
            | Self::Portmap
            | Self::Ptp
            | Self::Static
            | Self::Tuning => &call::ALL_VERSIONS,
        }
    }

    /// Calls the plugin, as a runtime or another plugin would.
    pub fn call(self, call: &Call<'_>, machine: &mut dyn Machine) -> Answer {
        call::dispatch(call, self.versions(), |verb| match self {
            Self::Bridge => bridge::run(verb, call, machine),
            Self::Firewall => firewall::run(verb, call, machine),
            Self::HostLocal => host_local::run(verb, call, machine.files()),
            Self::Loopback => loopback::run(verb, call, machine),
            Self::Portmap => portmap::program::run(verb, call, machine),
            Self::Ptp => ptp::run(verb, call, machine),
            Self::Static => static_ipam::run(verb, call),
            Self::Tuning => tuning::run(verb, call, machine),
        })
    }
}
