//! What the tools print, and the command line of every change.

use podwire_models::base::{Family, OriginId};
use podwire_models::kernel::config::{Change, NewLinkKind, RouteKind};

use super::harness::{Net, ip, new_route};

#[test]
fn ip_and_bridge_print_as_the_tools_do() {
    let mut net = Net::default();
    let (node, pod) = (net.add("node/n"), net.add("pod/p"));
    net.link(node, "cni0", 1450, NewLinkKind::Bridge);
    net.addr(node, "cni0", "10.244.1.1/24");
    net.veth((pod, "eth0"), (node, "veth0"));
    net.master(node, "veth0", "cni0");
    net.addr(pod, "eth0", "10.244.1.2/24");
    net.route(pod, "0.0.0.0/0", Some("10.244.1.1"), "eth0");
    assert_eq!(net.ping(pod, "10.244.1.2", "10.244.1.1", 56), Ok(true));

    let mac = net.mac(pod, "eth0");
    let addr = net.netns[node].show_addr();
    assert!(addr.starts_with(
        "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000\n    \
         link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00\n    \
         inet 127.0.0.1/8 scope host lo\n       valid_lft forever preferred_lft forever\n    \
         inet6 ::1/128 scope host\n"
    ), "{addr}");
    assert!(
        addr.contains("    inet 10.244.1.1/24 brd 10.244.1.255 scope global cni0\n"),
        "{addr}"
    );
    assert!(addr.contains(
        "3: veth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue master cni0 state UP"
    ));
    assert_eq!(
        net.netns[pod].show_route(Family::V4),
        "default via 10.244.1.1 dev eth0 onlink \n\
         10.244.1.0/24 dev eth0 proto kernel scope link src 10.244.1.2 \n"
    );
    let local = net.netns[node].show_route_local(Family::V4);
    assert!(
        local.contains("local 10.244.1.1 dev cni0 proto kernel scope host src 10.244.1.1 \n"),
        "{local}"
    );
    let neigh = net.netns[node].show_neigh(net.now);
    let start = format!("10.244.1.2 dev cni0 lladdr {mac} ");
    assert!(neigh.starts_with(&start), "{neigh}");
    let fdb = net.netns[node].show_fdb();
    assert!(
        fdb.contains(&format!("{mac} dev veth0 master cni0\n")),
        "{fdb}"
    );
    assert!(
        net.netns[node]
            .show_sysctl()
            .contains("net.ipv4.ip_forward = 0\n")
    );
}

#[test]
fn changes_print_their_command() {
    let mut route = new_route("10.244.2.0/24", RouteKind::Unicast);
    route.gateway = Some(ip("10.244.2.0"));
    route.dev = Some("flannel.1".into());
    route.onlink = true;
    let text = |change: Change| change.to_string();
    assert_eq!(
        text(Change::AddRoute(route)),
        "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"
    );
    assert_eq!(
        text(Change::AddRoute(new_route(
            "fd00::/16",
            RouteKind::Blackhole
        ))),
        "ip -6 route add blackhole fd00::/16"
    );
    assert_eq!(
        text(Change::SetNeighbour {
            dev: "flannel.1".into(),
            addr: ip("10.244.2.0"),
            mac: "02:00:00:00:00:02".parse().unwrap(),
            origin: OriginId::NONE,
        }),
        "ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent"
    );
    assert_eq!(
        text(Change::AddFdb {
            dev: "flannel.1".into(),
            mac: "02:00:00:00:00:02".parse().unwrap(),
            dst: ip("192.168.0.2"),
        }),
        "bridge fdb append 02:00:00:00:00:02 dev flannel.1 dst 192.168.0.2 self permanent"
    );
    assert_eq!(
        text(Change::Sysctl {
            name: "net.ipv4.ip_forward".into(),
            value: 1,
        }),
        "sysctl -w net.ipv4.ip_forward=1"
    );
}
