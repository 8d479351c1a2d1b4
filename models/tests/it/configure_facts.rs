//! What follows from a change by itself: addresses, routes and bridges.

use podwire_models::base::{Family, Mac};
use podwire_models::kernel::Netns;
use podwire_models::kernel::config::{Change, NewLinkKind};
use podwire_models::kernel::link::PortFlags;

use super::harness::{Net, ip};

fn named(netns: &Netns, dev: &str) -> (u32, Mac) {
    let device = netns.device_named(dev).unwrap();
    (device.mtu, device.mac)
}

#[test]
fn a_bridge_follows_its_ports_until_somebody_decides() {
    let mut net = Net::default();
    let node = net.add("node/n");
    net.link(node, "br0", 1450, NewLinkKind::Bridge);
    net.link(node, "a", 1400, NewLinkKind::Dummy);
    net.link(node, "b", 1300, NewLinkKind::Dummy);
    net.master(node, "a", "br0");
    assert_eq!(named(&net.netns[node], "br0"), named(&net.netns[node], "a"));
    net.master(node, "b", "br0");
    assert_eq!(named(&net.netns[node], "br0").0, 1300);
    for dev in ["a", "b"] {
        let gone = Change::SetMaster {
            dev: dev.into(),
            master: None,
        };
        net.netns[node].apply(&gone).unwrap();
    }
    assert_eq!(named(&net.netns[node], "br0"), (1500, Mac::ZERO));
    let own = [
        Change::SetMtu {
            dev: "br0".into(),
            mtu: 1200,
        },
        Change::SetMac {
            dev: "br0".into(),
            mac: Mac([2, 0, 0, 0, 0, 9]),
        },
    ];
    for change in own {
        net.netns[node].apply(&change).unwrap();
    }
    net.master(node, "a", "br0");
    assert_eq!(
        named(&net.netns[node], "br0"),
        (1200, Mac([2, 0, 0, 0, 0, 9]))
    );
    let flags = net.netns[node].device_named("b").unwrap().port;
    assert_eq!(flags, PortFlags::default());
}

#[test]
fn the_last_address_takes_the_routes_along_and_down_takes_ipv6() {
    let mut net = Net::default();
    let node = net.add("node/n");
    net.link(node, "eth0", 1500, NewLinkKind::Dummy);
    net.addr(node, "eth0", "10.0.0.2/24");
    net.addr(node, "eth0", "10.0.0.3/24");
    net.addr(node, "eth0", "fd00::2/64");
    net.route(node, "0.0.0.0/0", Some("10.0.0.1"), "eth0");
    let local = net.netns[node].fib.lookup_local(ip("10.0.0.3")).unwrap();
    assert_eq!(
        local.src,
        Some(ip("10.0.0.2")),
        "secondary speaks by primary"
    );
    let delete = Change::DeleteAddr {
        dev: "eth0".into(),
        net: "10.0.0.2/24".parse().unwrap(),
    };
    net.netns[node].apply(&delete).unwrap();
    assert!(net.netns[node].fib.main(Family::V4).is_empty());
    assert!(net.netns[node].fib.lookup(ip("fd00::9")).is_some());
    let down = Change::SetUp {
        dev: "eth0".into(),
        up: false,
    };
    net.netns[node].apply(&down).unwrap();
    assert!(net.netns[node].fib.lookup(ip("fd00::9")).is_none());
    assert!(
        net.netns[node]
            .device_named("eth0")
            .unwrap()
            .addrs
            .is_empty()
    );
}

/// As seen on Linux 6.18.
#[test]
fn a_single_ipv6_address_has_its_route() {
    let mut net = Net::default();
    let node = net.add("node/n");
    net.link(node, "eth0", 1500, NewLinkKind::Dummy);
    net.addr(node, "eth0", "fd00:1::1/128");
    let shown = net.netns[node].show_route(Family::V6);
    assert_eq!(shown, "fd00:1::1 dev eth0 proto kernel metric 256 \n");
}
