//! The `bridge` plugin with `host-local`: pods are ports of `cni0`, which has the gateway's address.
//!
//! Source: containernetworking `plugins/main/bridge`.
//!
//! # Fidelity
//! Leaves out VLANs, `promiscMode`, `macspoofchk`, and `ipMasq` of the plugin itself. Routes between nodes are host
//! routes, as an operator would set them.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Attachment, NodeNet, PodNet, address, hairpin, route, veth, veth_name, with_range};
use crate::base::hash::stable_hash;
use crate::base::{Family, Mac};
use crate::kernel::config::{Change, NewLink, NewLinkKind};

/// Name of the bridge.
pub const BRIDGE: &str = "cni0";

/// The bridge with the gateway's addresses.
pub fn node_setup(node: &NodeNet) -> Vec<Change> {
    bridge_with(node, node.mtu_under(0))
}

/// The bridge with an MTU.
pub(super) fn bridge_with(node: &NodeNet, mtu: u32) -> Vec<Change> {
    let dev: Arc<str> = BRIDGE.into();
    // The plugin pins the bridge's address, so that it does not follow its ports.
    let mac = Mac::from_hash(stable_hash(
        format!("node/{}/{BRIDGE}", node.name).as_bytes(),
    ));
    let mut changes = vec![
        Change::AddLink(NewLink {
            name: Arc::clone(&dev),
            mac: Some(mac),
            mtu,
            kind: NewLinkKind::Bridge,
        }),
        Change::SetUp {
            dev: Arc::clone(&dev),
            up: true,
        },
    ];
    for (range, gateway) in node.gateways() {
        if let Ok(net) = IpNet::new(gateway, range.prefix_len()) {
            changes.push(address(&dev, net, node.origin));
        }
    }
    changes
}

/// A veth pair whose host end is a port of the bridge.
pub fn attach(node: &NodeNet, pod: &PodNet) -> Attachment {
    let host_dev = veth_name(pod);
    let pod_dev: Arc<str> = "eth0".into();
    let mut host = veth(&host_dev, pod.mtu).to_vec();
    host.push(Change::SetMaster {
        dev: Arc::clone(&host_dev),
        master: Some(BRIDGE.into()),
    });
    host.push(hairpin(&host_dev, node.hairpin));
    let mut inside = veth(&pod_dev, pod.mtu).to_vec();
    for ip in &pod.ips {
        let (net, gateway) = with_range(node, *ip);
        inside.push(address(&pod_dev, net, pod.origin));
        let everything = Family::of(*ip).any();
        inside.push(Change::AddRoute(route(
            everything,
            Some(gateway),
            &pod_dev,
            pod.origin,
        )));
    }
    Attachment {
        host_dev,
        pod_dev,
        host,
        pod: inside,
    }
}
