//! CNI plugins as programs: one call goes in as a runtime makes it, one answer comes out as the plugin prints it.
//!
//! Reading order: [`call`] (the protocol all plugins share: environment, versions, errors), [`go_json`] (how a Go program
//! reads its configuration, with its error messages), [`result`] (results and their conversion between versions of the
//! specification), then one file per plugin.
//!
//! Source: containernetworking `cni` `pkg/skel`, `plugins` v1.9.1.
//!
//! Leaves out: the plugins that make devices, and [`portmap`], are not programs yet; [`super::bridge`] and its neighbours
//! make what a cluster needs of them.

pub mod call;
pub mod go_json;
pub mod result;
pub mod host_local;
pub mod portmap;

use std::collections::BTreeMap;

pub use call::{Answer, Call, PluginError};

/// The files of a node that plugins read and write: path to content.
pub type Files = BTreeMap<String, String>;

/// The plugins that can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Addresses from ranges, kept in files of the node.
    HostLocal,
}

impl Plugin {
    /// All plugins.
    pub const ALL: [Self; 1] = [Self::HostLocal];

    /// Returns the name of the program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostLocal => "host-local",
        }
    }

    /// Calls the plugin, as a runtime or another plugin would.
    pub fn call(self, call: &Call<'_>, files: &mut Files) -> Answer {
        match self {
            Self::HostLocal => call::dispatch(call, &call::ALL_VERSIONS, |verb| {
                host_local::run(verb, call, files)
            }),
        }
    }
}
