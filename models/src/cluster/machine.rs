//! A machine of the cluster as CNI plugins see it: the node's namespace, the containers' by their paths, files.
//!
//! # Fidelity
//! The names of veth devices and their hardware addresses are random on a real machine; here they follow from the node's
//! name and from how many were made before.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use super::{Cluster, Lane, WireEnd, WireKind};
use crate::base::hash::stable_hash;
use crate::base::{Family, Mac};
use crate::control::cni::plugin::Files;
use crate::control::cni::plugin::machine::{At, Machine, VethPair};
use crate::control::cni::plugin::portmap::NatEdit;
use crate::kernel::Netns;
use crate::kernel::config::{Change, ConfigError, NewLink, NewLinkKind};
use crate::kernel::link::{Device, DeviceKind};
use crate::kernel::netfilter::chain::Table;
use crate::wire::{DevIndex, NetnsId};

/// The path by which a process on the node finds its own namespace.
const OWN: &str = "/proc/self/ns/net";

/// What a machine keeps beside its namespaces.
#[derive(Clone, Debug)]
pub struct Host {
    /// The node's namespace.
    pub node: NetnsId,
    /// Namespaces that have a path.
    pub paths: BTreeMap<String, NetnsId>,
    /// Files that plugins read and write.
    pub files: Files,
    /// How many random numbers were drawn.
    drawn: u64,
}

impl Host {
    /// Returns a machine without containers.
    pub const fn new(node: NetnsId) -> Self {
        Self {
            node,
            paths: BTreeMap::new(),
            files: Files::new(),
            drawn: 0,
        }
    }

    /// Returns the machine with the cluster it belongs to.
    pub const fn of<'a>(&'a mut self, cluster: &'a mut Cluster) -> HostOf<'a> {
        HostOf {
            host: self,
            cluster,
        }
    }
}

/// A machine with the cluster it belongs to.
#[derive(Debug)]
pub struct HostOf<'a> {
    host: &'a mut Host,
    cluster: &'a mut Cluster,
}

impl HostOf<'_> {
    fn id(&self, at: At<'_>) -> Option<NetnsId> {
        match at {
            At::Node => Some(self.host.node),
            At::Path(OWN) => Some(self.host.node),
            At::Path(path) => self.host.paths.get(path).copied(),
        }
    }

    fn end(&self, at: At<'_>, dev: &str) -> Option<WireEnd> {
        let netns = self.cluster.netns(self.id(at)?)?;
        Some((netns.id, netns.device_named(dev)?.index))
    }

    fn new_mac(&mut self) -> Mac {
        let bits = u64::from(self.random()) << 32 | u64::from(self.random());
        Mac::from_hash(bits)
    }
}

impl Machine for HostOf<'_> {
    fn netns(&self, at: At<'_>) -> Option<&Netns> {
        self.cluster.netns(self.id(at)?)
    }

    fn change(&mut self, at: At<'_>, change: &Change) -> Result<(), ConfigError> {
        let gone = || ConfigError::Missing("namespace".to_owned());
        let id = self.id(at).ok_or_else(gone)?;
        self.cluster.configure(id, change)
    }

    fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<(), ConfigError> {
        let inner = pair.mac.unwrap_or_else(|| self.new_mac());
        let outer = self.new_mac();
        let link = |name: &Arc<str>, mac| {
            Change::AddLink(NewLink {
                name: Arc::clone(name),
                mac: Some(mac),
                mtu: pair.mtu,
                kind: NewLinkKind::Veth,
            })
        };
        self.change(At::Path(pair.netns), &link(&pair.inner, inner))?;
        if let Err(error) = self.change(At::Node, &link(&pair.outer, outer)) {
            let dev = Arc::clone(&pair.inner);
            self.change(At::Path(pair.netns), &Change::DeleteLink { dev })?;
            return Err(error);
        }
        let ends = (
            self.end(At::Path(pair.netns), &pair.inner),
            self.end(At::Node, &pair.outer),
        );
        if let (Some(inner), Some(outer)) = ends {
            self.cluster
                .plug(inner, outer, WireKind::Veth, Lane::default());
        }
        Ok(())
    }

    fn peer(&self, at: At<'_>, dev: &str) -> Option<(Option<&str>, Arc<str>)> {
        let (id, index) = self.cluster.peer(self.end(at, dev)?)?;
        let name = Arc::clone(&self.cluster.netns(id)?.device(index)?.name);
        let path = self.host.paths.iter().find(|(_, of)| **of == id);
        Some((path.map(|(path, _)| path.as_str()), name))
    }

    fn edit_nat(&mut self, family: Family, edit: NatEdit) -> Result<(), ConfigError> {
        let gone = || ConfigError::Missing("namespace".to_owned());
        let node = self.cluster.netns_mut(self.host.node).ok_or_else(gone)?;
        node.replace_chains(family, Table::Nat, edit.chains, &edit.delete)
    }

    fn random(&mut self) -> u32 {
        self.host.drawn += 1;
        let name = self.cluster.netns(self.host.node).map(|n| &*n.name);
        let text = format!("{}/{}", name.unwrap_or(""), self.host.drawn);
        u32::try_from(stable_hash(text.as_bytes()) >> 32).unwrap_or(0)
    }

    fn files(&mut self) -> &mut Files {
        &mut self.host.files
    }
}

impl Cluster {
    /// Makes a change in a namespace, and what follows from it elsewhere: the other end of a deleted veth goes along, and
    /// devices that begin to carry make themselves a link-local address.
    ///
    /// # Errors
    /// As the namespace says; nothing is changed then.
    pub fn configure(&mut self, id: NetnsId, change: &Change) -> Result<(), ConfigError> {
        let gone = || ConfigError::Missing("namespace".to_owned());
        let netns = self.netns(id).ok_or_else(gone)?;
        let deleted = if let Change::DeleteLink { dev } = change {
            netns.device_named(dev).map(|d| (id, d.index))
        } else {
            None
        };
        let wire = deleted.and_then(|end| Some((self.wire_behind(end)?.0, self.peer(end)?)));
        self.netns_mut(id).ok_or_else(gone)?.apply(change)?;
        if let Some((wire, (other, index))) = wire {
            self.unplug(wire);
            if let Some(netns) = self.netns_mut(other)
                && let Some(device) = netns.device(index)
            {
                let dev = Arc::clone(&device.name);
                netns.apply(&Change::DeleteLink { dev })?;
            }
        }
        self.link_local_addresses();
        Ok(())
    }

    /// Returns whether a device carries: it is up, and what it hangs on is too.
    pub fn carries(&self, (id, index): WireEnd) -> bool {
        let device = self.netns(id).and_then(|netns| netns.device(index));
        let up = |(id, index)| {
            let netns: Option<&Netns> = self.netns(id);
            netns
                .and_then(|n| n.device(index))
                .is_some_and(|d: &Device| d.up)
        };
        device.is_some_and(|device| {
            device.up
                && match &device.kind {
                    DeviceKind::Bridge(bridge) => {
                        !bridge.had_port || bridge.ports.iter().any(|p| self.carries((id, *p)))
                    }
                    DeviceKind::Veth | DeviceKind::Physical => {
                        self.peer((id, index)).is_some_and(up)
                    }
                    DeviceKind::Loopback | DeviceKind::Dummy | DeviceKind::Vxlan(_) => true,
                }
        })
    }

    fn link_local_addresses(&mut self) {
        let mut made = Vec::new();
        for netns in self.iter() {
            for device in netns.devices.iter().flatten() {
                let name = format!("net.ipv6.conf.{}.disable_ipv6", device.name);
                let wants = device.link_local.is_none()
                    && device.index != DevIndex::LO
                    && netns.sysctls.get(&name) == Some(0);
                let end = (netns.id, device.index);
                if wants && self.carries(end) {
                    made.push((end, link_local(device.mac)));
                }
            }
        }
        for ((id, index), addr) in made {
            let device = self.netns_mut(id).and_then(|n| n.device_mut(index));
            if let Some(device) = device {
                device.link_local = Some(addr);
            }
        }
    }
}

/// The address that EUI-64 makes of a hardware address (RFC 4291 appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [b0, b1, b2, b3, b4, b5] = mac.0.map(u16::from);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        (b0 ^ 2) << 8 | b1,
        b2 << 8 | 0xff,
        0xfe00 | b3,
        b4 << 8 | b5,
    )
}
