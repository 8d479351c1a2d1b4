//! What the numbers in a trace are called: namespaces, devices, origins.

use std::collections::BTreeMap;
use std::sync::Arc;

use podwire_models::base::OriginId;
use podwire_models::wire::{DevIndex, NetnsId, Place};

use crate::source::OriginTable;

/// Names of everything a record refers to by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    netns: BTreeMap<NetnsId, NetnsName>,
    devices: BTreeMap<(NetnsId, DevIndex), Arc<str>>,
    /// Places in inputs.
    pub origins: OriginTable,
}

/// What a network namespace is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsName {
    /// The machine it is on; nothing for hosts outside the cluster.
    pub node: Option<Arc<str>>,
    /// `pod/shop/cart-0`, `node/node-a`, `host/browser`.
    pub name: Arc<str>,
}

impl Names {
    /// Names a namespace.
    pub fn name_netns(&mut self, id: NetnsId, node: Option<&str>, name: &str) {
        self.netns.insert(
            id,
            NetnsName {
                node: node.map(Arc::from),
                name: name.into(),
            },
        );
    }

    /// Names a device. Its name stays known after it is gone.
    pub fn name_device(&mut self, id: NetnsId, dev: DevIndex, name: &str) {
        self.devices.insert((id, dev), name.into());
    }

    /// Returns the name of a namespace.
    pub fn netns(&self, id: NetnsId) -> Option<&NetnsName> {
        self.netns.get(&id)
    }

    /// Returns the name of a device.
    pub fn device(&self, id: NetnsId, dev: DevIndex) -> Option<&str> {
        self.devices.get(&(id, dev)).map(|name| &**name)
    }

    /// Returns which place in some input a number means: `shop.yaml:40`.
    pub fn origin_text(&self, origin: OriginId) -> Option<String> {
        self.origins.get(origin).map(ToString::to_string)
    }

    /// Returns the machine of a place.
    pub fn node_at(&self, place: &Place) -> Option<&str> {
        self.netns.get(&place.netns?)?.node.as_deref()
    }

    /// Returns the namespace of a place.
    pub fn netns_at(&self, place: &Place) -> Option<&str> {
        Some(&*self.netns.get(&place.netns?)?.name)
    }

    /// Returns the device of a place.
    pub fn device_at(&self, place: &Place) -> Option<&str> {
        self.device(place.netns?, place.dev?)
    }
}
