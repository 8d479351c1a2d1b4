//! One packet, a few namespaces: where it goes and how it ends. Expected numbers are those measured on Linux.

use std::time::Duration;

use podwire_models::base::{Errno, Family, OriginId, Time};
use podwire_models::kernel::config::{Change, NewLinkKind, RouteKind};
use podwire_models::kernel::link::PortFlags;
use podwire_models::kernel::release::Release;
use podwire_models::wire::{Action, Code, Icmp, IcmpError, L4, Packet, TcpFlags, Transport};

use super::harness::{Net, ip, new_route, syn, udp};

const NODE: usize = 0;
const A: usize = 1;
const B: usize = 2;

/// A node with two pods on the bridge `cni0`, both families.
fn bridged() -> Net {
    let mut net = Net::default();
    net.add("node/n");
    net.link(NODE, "cni0", 1500, NewLinkKind::Bridge);
    net.addr(NODE, "cni0", "10.244.1.1/24");
    net.addr(NODE, "cni0", "fd00:1::1/64");
    net.sysctl(NODE, "net.ipv4.ip_forward", 1);
    net.sysctl(NODE, "net.ipv6.conf.all.forwarding", 1);
    for (pod, host) in [(2, "veth0"), (3, "veth1")] {
        let at = net.add(&format!("pod/{pod}"));
        net.veth((at, "eth0"), (NODE, host));
        net.master(NODE, host, "cni0");
        net.addr(at, "eth0", &format!("10.244.1.{pod}/24"));
        net.addr(at, "eth0", &format!("fd00:1::{pod}/64"));
        net.route(at, "0.0.0.0/0", Some("10.244.1.1"), "eth0");
        net.route(at, "::/0", Some("fd00:1::1"), "eth0");
    }
    net
}

/// A node with two pods, each on its own veth with a host route, as kindnet's ptp plugin does it.
fn routed() -> Net {
    let mut net = Net::default();
    net.add("node/n");
    net.sysctl(NODE, "net.ipv4.ip_forward", 1);
    for (pod, host) in [(2, "veth0"), (3, "veth1")] {
        let at = net.add(&format!("pod/{pod}"));
        net.veth((at, "eth0"), (NODE, host));
        net.addr(NODE, host, "10.244.1.1/32");
        net.route(NODE, &format!("10.244.1.{pod}/32"), None, host);
        net.addr(at, "eth0", &format!("10.244.1.{pod}/32"));
        net.route(at, "10.244.1.1/32", None, "eth0");
        net.route(at, "0.0.0.0/0", Some("10.244.1.1"), "eth0");
    }
    net
}

fn errors_to(net: &Net, at: usize) -> Vec<IcmpError> {
    let kind = |(to, packet): &(usize, Packet)| match packet.transport {
        Transport::Icmp(Icmp::Error { kind, .. }) if *to == at => Some(kind),
        Transport::Icmp(_) | Transport::Tcp(_) | Transport::Udp(_) | Transport::Sctp(_) => None,
    };
    net.icmp.iter().filter_map(kind).collect()
}

#[test]
fn pods_on_a_bridge_reach_each_other_without_losing_ttl() {
    let mut net = bridged();
    net.listen(B, L4::Udp, 53);
    let packet = net.packet("10.244.1.2", "10.244.1.3", udp(4000, 53), 10);
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(net.delivered.len(), 1);
    assert_eq!(net.delivered[0].2.ttl, 64);
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 56), Ok(true));
}

#[test]
fn the_same_holds_for_ipv6() {
    let mut net = bridged();
    assert_eq!(net.ping(A, "fd00:1::2", "fd00:1::3", 56), Ok(true));
    assert_eq!(net.ping(A, "fd00:1::2", "fd00:1::1", 56), Ok(true));
    let packet = net.packet("fd00:1::2", "fd00:1::3", udp(4000, 9), 10);
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(errors_to(&net, A), [IcmpError::PortUnreachable]);
}

#[test]
fn pods_behind_host_routes_are_forwarded_with_one_hop_less() {
    let mut net = routed();
    net.listen(B, L4::Udp, 53);
    let packet = net.packet("10.244.1.2", "10.244.1.3", udp(4000, 53), 10);
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(net.delivered[0].2.ttl, 63);
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 56), Ok(true));
}

#[test]
fn without_ip_forward_the_node_drops_silently() {
    let mut net = routed();
    net.sysctl(NODE, "net.ipv4.ip_forward", 0);
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 56), Ok(false));
    assert_eq!(net.ends(NODE), [Code::IpForwardOff]);
    assert!(net.icmp.is_empty());
}

#[test]
fn time_to_live_ends_on_the_router_and_it_says_so() {
    let mut net = routed();
    let mut packet = net.packet("10.244.1.2", "10.244.1.3", udp(4000, 33434), 10);
    packet.ttl = 1;
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(net.ends(NODE), [Code::TtlExceeded]);
    assert_eq!(errors_to(&net, A), [IcmpError::TimeExceeded]);
    assert_eq!(net.icmp[0].1.src, ip("10.244.1.1"));
}

#[test]
fn an_absent_neighbour_is_host_unreachable_after_three_probes() {
    let mut net = bridged();
    let (local, remote) = ((ip("10.244.1.2"), 4000), (ip("10.244.1.99"), 80));
    net.netns[A]
        .sockets
        .connect(L4::Tcp, local, remote)
        .unwrap();
    for round in 1..=2_u64 {
        let packet = net.packet("10.244.1.2", "10.244.1.99", syn(4000, 80), 0);
        let begun = net.now;
        assert_eq!(net.send(A, packet), Ok(()));
        assert_eq!(net.errors.len(), usize::try_from(round).unwrap());
        let (at, who, errno) = net.errors[net.errors.len() - 1];
        assert_eq!(
            (at, who, errno),
            (begun + Duration::from_secs(3), A, Errno::EHOSTUNREACH)
        );
    }
    let sent = net.count(|a| matches!(a, Action::Resolving { .. }));
    assert_eq!(sent, 2, "a new packet begins a new resolution");
    assert!(
        net.netns[A]
            .show_neigh(net.now)
            .contains("10.244.1.99 dev eth0 FAILED")
    );
}

#[test]
fn the_router_reports_an_absent_pod_too() {
    let mut net = routed();
    net.up(B, "eth0", false);
    let packet = net.packet("10.244.1.2", "10.244.1.3", syn(4000, 80), 0);
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(errors_to(&net, A), [IcmpError::HostUnreachable]);
    assert!(net.ends(NODE).contains(&Code::NeighUnresolved));
}

#[test]
fn hairpin_decides_whether_a_frame_goes_back_out_of_its_port() {
    for hairpin in [false, true] {
        let mut net = bridged();
        let flags = PortFlags {
            hairpin,
            isolated: false,
        };
        let dev = "veth0".into();
        net.apply(NODE, &Change::SetPort { dev, flags });
        assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.1", 8), Ok(true));
        net.forget();
        // A second address behind the same port: only hairpin mode lets the frame come back.
        net.addr(A, "eth0", "10.244.1.50/24");
        let mac = net.mac(A, "eth0");
        let change = Change::SetNeighbour {
            dev: "eth0".into(),
            addr: ip("10.244.1.77"),
            mac,
            origin: OriginId::NONE,
        };
        net.apply(A, &change);
        let packet = net.packet("10.244.1.2", "10.244.1.77", udp(1, 2), 8);
        assert_eq!(net.send(A, packet), Ok(()));
        assert_eq!(net.ends(NODE).contains(&Code::BridgeNoHairpin), !hairpin);
    }
}

#[test]
fn closed_ports_answer_at_once() {
    let mut net = bridged();
    let packet = net.packet("10.244.1.2", "10.244.1.3", syn(4000, 81), 0);
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(net.ends(B), [Code::PortClosed]);
    let reset = net.steps.iter().find_map(|(_, step)| match &step.packet {
        Some(podwire_models::wire::Head::Ip {
            transport: Transport::Tcp(tcp),
            ..
        }) if tcp.flags == TcpFlags::RST_ACK => Some(*tcp),
        _ => None,
    });
    assert_eq!(reset.map(|tcp| (tcp.sport, tcp.ack)), Some((81, 1001)));

    net.forget();
    let (local, remote) = ((ip("10.244.1.2"), 4001), (ip("10.244.1.3"), 53));
    net.netns[A]
        .sockets
        .connect(L4::Udp, local, remote)
        .unwrap();
    let packet = net.packet("10.244.1.2", "10.244.1.3", udp(4001, 53), 8);
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(
        net.errors.iter().map(|e| e.2).collect::<Vec<_>>(),
        [Errno::ECONNREFUSED]
    );
}

#[test]
fn a_process_bound_to_loopback_refuses_the_pod_address() {
    let mut net = bridged();
    let addr = Some(ip("127.0.0.1"));
    net.netns[B].sockets.bind(L4::Tcp, addr, 80).unwrap();
    let packet = net.packet("10.244.1.2", "10.244.1.3", syn(4000, 80), 0);
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(net.ends(B), [Code::PortBoundElsewhere]);
}

#[test]
fn own_addresses_are_reached_through_loopback() {
    let mut net = bridged();
    for dst in ["127.0.0.1", "10.244.1.2"] {
        assert_eq!(net.ping(A, dst, dst, 56), Ok(true));
        assert_eq!(net.count(|a| matches!(a, Action::Transmitted { .. })), 0);
    }
    assert_eq!(net.ping(A, "::1", "::1", 56), Ok(true));
}

#[test]
fn route_types_fail_as_measured() {
    let table = [
        (
            RouteKind::Blackhole,
            Errno::EINVAL,
            Code::RouteBlackhole,
            None,
        ),
        (
            RouteKind::Unreachable,
            Errno::EHOSTUNREACH,
            Code::RouteUnreachable,
            Some(IcmpError::HostUnreachable),
        ),
        (
            RouteKind::Prohibit,
            Errno::EACCES,
            Code::RouteProhibit,
            Some(IcmpError::AdminProhibited),
        ),
    ];
    for (kind, errno, code, told) in table {
        let mut net = routed();
        net.special_route(NODE, "192.0.2.0/24", kind);
        assert_eq!(net.ping(NODE, "10.244.1.1", "192.0.2.1", 8), Err(errno));
        assert_eq!(net.ping(A, "10.244.1.2", "192.0.2.1", 8), Ok(false));
        assert_eq!(net.ends(NODE), [code]);
        assert_eq!(errors_to(&net, A), told.into_iter().collect::<Vec<_>>());
    }
    let mut net = routed();
    assert_eq!(
        net.ping(NODE, "10.244.1.1", "198.51.100.1", 8),
        Err(Errno::ENETUNREACH)
    );
    assert_eq!(net.ping(A, "10.244.1.2", "198.51.100.1", 8), Ok(false));
    assert_eq!(errors_to(&net, A), [IcmpError::NetUnreachable]);
}

#[test]
fn martians_and_reverse_path() {
    let mut net = routed();
    let packet = net.packet("10.244.1.1", "10.244.1.3", udp(1, 2), 8);
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(net.ends(NODE), [Code::MartianSource]);
    net.forget();
    let packet = net.packet("10.244.1.3", "10.244.1.3", udp(1, 2), 8);
    net.sysctl(NODE, "net.ipv4.conf.all.rp_filter", 1);
    let spoofed = Packet {
        dst: ip("10.244.1.1"),
        ..packet
    };
    assert_eq!(net.send(A, spoofed), Ok(()));
    assert_eq!(net.ends(NODE), [Code::RpFilter]);
}

#[test]
fn a_smaller_link_on_the_way_teaches_the_path_mtu() {
    let mut net = routed();
    let change = Change::SetMtu {
        dev: "veth1".into(),
        mtu: 1400,
    };
    net.apply(NODE, &change);
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 1472), Ok(false));
    assert_eq!(
        errors_to(&net, A),
        [IcmpError::FragmentationNeeded { mtu: 1400 }]
    );
    assert_eq!(net.netns[A].path_mtu(ip("10.244.1.3"), net.now), 1400);
    assert_eq!(
        net.ping(A, "10.244.1.2", "10.244.1.3", 1472),
        Err(Errno::EMSGSIZE)
    );
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 1372), Ok(true));
    let later = net.now + Duration::from_secs(601);
    assert_eq!(net.netns[A].path_mtu(ip("10.244.1.3"), later), 1500);
}

#[test]
fn without_dont_fragment_the_router_cuts_and_the_receiver_puts_together() {
    let mut net = routed();
    let change = Change::SetMtu {
        dev: "veth1".into(),
        mtu: 1400,
    };
    net.apply(NODE, &change);
    net.listen(B, L4::Udp, 53);
    let mut packet = net.packet("10.244.1.2", "10.244.1.3", udp(4000, 53), 1400);
    packet.df = false;
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(
        net.count(|a| matches!(a, Action::Fragmented { pieces: 2, .. })),
        1
    );
    assert_eq!(net.delivered.len(), 1);
    assert_eq!(net.delivered[0].2.fragment, None);
}

/// Two nodes with one pod each and VXLAN between them, as flannel sets it up.
fn tunnelled() -> Net {
    let mut net = Net::default();
    let (n1, n2) = (net.add("node/n1"), net.add("node/n2"));
    net.veth((n1, "eth0"), (n2, "eth0"));
    for (node, other) in [(n1, n2), (n2, n1)] {
        let (n, o) = (node + 1, other + 1);
        net.sysctl(node, "net.ipv4.ip_forward", 1);
        net.addr(node, "eth0", &format!("192.168.0.{n}/24"));
        let kind = NewLinkKind::Vxlan {
            vni: 1,
            local: ip(&format!("192.168.0.{n}")),
            dstport: 8472,
            dev: Some("eth0".into()),
            learning: false,
        };
        net.link(node, "flannel.1", 1450, kind);
        net.addr(node, "flannel.1", &format!("10.244.{n}.0/32"));
        let via = format!("10.244.{o}.0");
        net.route(node, &format!("10.244.{o}.0/24"), Some(&via), "flannel.1");
        let pod = net.add(&format!("pod/{n}"));
        net.veth((pod, "eth0"), (node, "veth0"));
        net.addr(node, "veth0", &format!("10.244.{n}.1/32"));
        net.route(node, &format!("10.244.{n}.2/32"), None, "veth0");
        net.addr(pod, "eth0", &format!("10.244.{n}.2/32"));
        let gateway = format!("10.244.{n}.1");
        net.route(pod, "0.0.0.0/0", Some(&gateway), "eth0");
    }
    for (node, other) in [(n1, n2), (n2, n1)] {
        let mac = net.mac(other, "flannel.1");
        let o = other + 1;
        let dev: std::sync::Arc<str> = "flannel.1".into();
        let neighbour = Change::SetNeighbour {
            dev: dev.clone(),
            addr: ip(&format!("10.244.{o}.0")),
            mac,
            origin: OriginId::NONE,
        };
        let dst = ip(&format!("192.168.0.{o}"));
        net.apply(node, &neighbour);
        net.apply(node, &Change::AddFdb { dev, mac, dst });
    }
    net
}

#[test]
fn vxlan_carries_pods_between_nodes_with_fifty_bytes_more() {
    let mut net = tunnelled();
    assert_eq!(net.ping(2, "10.244.1.2", "10.244.2.2", 56), Ok(true));
    let bytes = |n: u32| net.count(|a| matches!(a, Action::Transmitted { bytes } if *bytes == n));
    assert!(
        bytes(98) > 0 && bytes(148) > 0,
        "inner and outer frame as measured"
    );
    let reply = net.icmp.last().unwrap();
    assert_eq!(reply.1.ttl, 62);
    assert_eq!(
        net.netns[0].source_for(ip("10.244.2.2")),
        Ok(ip("10.244.1.0"))
    );
}

/// By the source: `iptunnel_xmit` keeps the mark within a namespace, and `udp_manip_pkt` spoils a checksum that is not used
/// until commit ea64d8d6c675 (5.7), unless that of the packet inside is complete already.
#[test]
fn a_tunnel_keeps_the_mark_and_old_kernels_spoil_what_they_translate() {
    const RULES: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i veth0 -j MARK --set-xmark 0x4000/0x4000\nCOMMIT\n\
        *nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully\nCOMMIT\n";
    for (release, arrives) in [((5, 6), false), ((5, 7), true)] {
        let mut net = tunnelled();
        net.listen(3, L4::Udp, 53);
        for node in [0, 1] {
            let release = Release::new(release.0, release.1);
            net.netns[node].set_release(release);
        }
        let rules = RULES.parse().unwrap();
        net.netns[0].load_rules(Family::V4, rules).unwrap();
        let packet = net.packet("10.244.1.2", "10.244.2.2", udp(4000, 53), 10);
        assert_eq!(net.send(2, packet), Ok(()));
        let outer =
            |a: &Action| matches!(a, Action::Translated { to, .. } if to.0 == ip("192.168.0.1"));
        assert_eq!(net.count(outer), 1, "the mark is that of the packet inside");
        assert_eq!(net.delivered.len(), usize::from(arrives), "{release:?}");
        let lost = net.ends(1).contains(&Code::VxlanCsum);
        assert_eq!(lost, !arrives, "{release:?}");
        // An echo has its checksum.
        assert_eq!(net.ping(2, "10.244.1.2", "10.244.2.2", 56), Ok(true));
    }
}

#[test]
fn vxlan_mtu_is_learned_and_a_missing_entry_is_silent() {
    let mut net = tunnelled();
    assert_eq!(net.ping(2, "10.244.1.2", "10.244.2.2", 1472), Ok(false));
    assert_eq!(
        errors_to(&net, 2),
        [IcmpError::FragmentationNeeded { mtu: 1450 }]
    );
    assert_eq!(net.ping(2, "10.244.1.2", "10.244.2.2", 1422), Ok(true));

    let mac = net.mac(1, "flannel.1");
    let dev = "flannel.1".into();
    net.apply(0, &Change::DeleteFdb { dev, mac });
    assert_eq!(net.ping(2, "10.244.1.2", "10.244.2.2", 56), Ok(false));
    assert_eq!(net.ends(0), [Code::FdbMiss]);
    assert!(net.icmp.is_empty());
}

#[test]
fn errors_are_limited_to_six_at_once_and_one_a_second() {
    let mut net = routed();
    net.special_route(NODE, "192.0.2.0/24", RouteKind::Unreachable);
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.1", 8), Ok(true));
    net.forget();
    let begun: Time = net.now;
    for _ in 0..8 {
        let packet = net.packet("10.244.1.2", "192.0.2.1", udp(1, 2), 8);
        // Sent without letting time pass in between.
        net.now = begun;
        assert_eq!(net.send(A, packet), Ok(()));
    }
    assert_eq!(errors_to(&net, A).len(), 6);
}

#[test]
fn a_device_that_goes_down_takes_its_routes_along() {
    let mut net = routed();
    net.up(NODE, "veth1", false);
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 8), Ok(false));
    assert_eq!(net.ends(NODE), [Code::RouteNone]);
}

#[test]
fn an_address_on_several_devices_stays_local_until_the_last_is_gone() {
    let mut net = routed();
    let delete = |dev: &str| Change::DeleteAddr {
        dev: dev.into(),
        net: "10.244.1.1/32".parse().unwrap(),
    };
    net.apply(NODE, &delete("veth0"));
    assert_eq!(net.ping(B, "10.244.1.3", "10.244.1.1", 8), Ok(true));
    net.apply(NODE, &delete("veth1"));
    assert!(!net.netns[NODE].is_local(ip("10.244.1.1")));
}

#[test]
fn a_device_that_comes_back_has_its_connected_routes_only() {
    let mut net = bridged();
    net.up(A, "eth0", false);
    net.up(A, "eth0", true);
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 8), Ok(true));
    assert_eq!(
        net.ping(A, "10.244.1.2", "192.0.2.1", 8),
        Err(Errno::ENETUNREACH)
    );
}

#[test]
fn a_gratuitous_request_corrects_the_neighbours() {
    let mut net = bridged();
    assert_eq!(net.ping(NODE, "10.244.1.1", "10.244.1.2", 8), Ok(true));
    // Pod B takes over the address of pod A and says so.
    net.up(A, "eth0", false);
    net.addr(B, "eth0", "10.244.1.2/24");
    assert_eq!(net.ping(NODE, "10.244.1.1", "10.244.1.2", 8), Ok(false));
    let dev = net.dev(B, "eth0");
    net.announce(B, dev, ip("10.244.1.2"));
    assert_eq!(net.ping(NODE, "10.244.1.1", "10.244.1.2", 8), Ok(true));
}

#[test]
fn without_an_announcement_a_reused_address_recovers_after_eight_seconds() {
    let mut net = bridged();
    assert_eq!(net.ping(NODE, "10.244.1.1", "10.244.1.2", 8), Ok(true));
    net.up(A, "eth0", false);
    net.addr(B, "eth0", "10.244.1.2/24");
    // The entry is believed for its reachable time, then used for 5 s, then probed three times.
    net.run(Duration::from_secs(31));
    assert_eq!(net.ping(NODE, "10.244.1.1", "10.244.1.2", 8), Ok(false));
    net.run(Duration::from_secs(5));
    assert_eq!(net.ping(NODE, "10.244.1.1", "10.244.1.2", 8), Ok(true));
}

#[test]
fn proxy_arp_answers_for_what_is_routed_elsewhere() {
    let mut net = routed();
    // As Calico does it: the pod believes its gateway is 169.254.1.1.
    net.special_route(NODE, "198.51.100.0/24", RouteKind::Blackhole);
    net.route(NODE, "169.254.0.0/16", None, "veth1");
    let change = Change::DeleteRoute {
        dst: "0.0.0.0/0".parse().unwrap(),
        dev: None,
        metric: 0,
    };
    net.apply(A, &change);
    net.route(A, "0.0.0.0/0", Some("169.254.1.1"), "eth0");
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 8), Ok(false));
    net.sysctl(NODE, "net.ipv4.conf.veth0.proxy_arp", 1);
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 8), Ok(true));
}

#[test]
fn a_udp_answer_from_a_stranger_is_refused_as_such() {
    let mut net = bridged();
    let (local, remote) = ((ip("10.244.1.2"), 4000), (ip("10.96.0.10"), 53));
    net.netns[A]
        .sockets
        .connect(L4::Udp, local, remote)
        .unwrap();
    let packet = net.packet("10.244.1.3", "10.244.1.2", udp(53, 4000), 8);
    assert_eq!(net.send(B, packet), Ok(()));
    assert_eq!(net.ends(A), [Code::UnexpectedReply]);
}

#[test]
fn a_bridge_loses_what_its_port_cannot_take() {
    let mut net = bridged();
    let dev = "veth1".into();
    net.apply(NODE, &Change::SetMtu { dev, mtu: 1400 });
    assert_eq!(net.ping(A, "10.244.1.2", "10.244.1.3", 1472), Ok(false));
    assert_eq!(net.ends(NODE), [Code::MtuExceeded]);
    assert!(net.icmp.is_empty());
}

#[test]
fn a_lost_fragment_costs_the_whole_packet_after_thirty_seconds() {
    let mut net = routed();
    net.listen(B, L4::Udp, 53);
    let mut packet = net.packet("10.244.1.2", "10.244.1.3", udp(4000, 53), 1400);
    packet.fragment = Some(podwire_models::wire::Fragment {
        ident: 9,
        offset: 0,
        len: 800,
        more: true,
    });
    assert_eq!(net.send(A, packet), Ok(()));
    assert!(net.ends(B).is_empty());
    net.run(Duration::from_secs(30));
    assert_eq!(net.ends(B), [Code::FragmentLost]);
    assert!(net.delivered.is_empty());
}

#[test]
fn masquerade_takes_the_primary_address_of_the_next_hops_subnet() {
    let mut net = Net::default();
    net.add("node/n");
    net.link(NODE, "eth0", 1500, NewLinkKind::Physical);
    for addr in ["192.168.50.1/24", "192.168.50.11/24", "10.9.0.1/24"] {
        net.addr(NODE, "eth0", addr);
    }
    net.link(NODE, "veth0", 1500, NewLinkKind::Veth);
    let eth0 = net.dev(NODE, "eth0");
    let veth0 = net.dev(NODE, "veth0");
    let source = |dev, hop: &str| net.netns[NODE].masquerade_source(dev, ip(hop), ip(hop));
    assert_eq!(source(eth0, "192.168.50.100"), Some(ip("192.168.50.1")));
    assert_eq!(source(eth0, "10.9.0.7"), Some(ip("10.9.0.1")));
    assert_eq!(source(eth0, "172.16.0.1"), Some(ip("192.168.50.1")));
    assert_eq!(
        source(veth0, "10.244.1.2"),
        Some(ip("192.168.50.1")),
        "any other device"
    );

    // The source hint of a route counts for local processes only.
    let mut hinted = new_route("198.51.100.0/24", RouteKind::Unicast);
    hinted.gateway = Some(ip("192.168.50.100"));
    hinted.src = Some(ip("192.168.50.11"));
    net.apply(NODE, &Change::AddRoute(hinted));
    let local = net.netns[NODE].source_for(ip("198.51.100.1"));
    assert_eq!(local, Ok(ip("192.168.50.11")));
}

/// As seen on Linux 6.18: without `keep_addr_on_down` the addresses of IPv6 are gone, those of IPv4 stay.
#[test]
fn a_device_taken_down_loses_its_ipv6_addresses_for_good() {
    let mut net = bridged();
    let six = |net: &Net| {
        let node = &net.netns[NODE];
        let shown = node.show_addr() + &node.show_route_local(Family::V6);
        shown.matches("fd00:1::1").count()
    };
    assert!(six(&net) > 1);
    let dev = || "cni0".into();
    for up in [false, true] {
        net.apply(NODE, &Change::SetUp { dev: dev(), up });
    }
    assert_eq!(six(&net), 0);
    let four = net.netns[NODE].show_addr();
    assert!(four.contains("10.244.1.1/24"), "{four}");
}

#[test]
fn loopback_taken_down_keeps_its_ipv6_address() {
    let mut net = bridged();
    let dev = || "lo".into();
    for up in [false, true] {
        net.apply(NODE, &Change::SetUp { dev: dev(), up });
    }
    let shown = net.netns[NODE].show_addr();
    assert!(shown.contains("::1/128"), "{shown}");
}
