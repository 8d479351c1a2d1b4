//! Rules as kube-proxy writes them, on the whole path through a node.

use podwire_models::base::Errno;
use podwire_models::kernel::config::Change;
use podwire_models::wire::{Code, Icmp, IcmpError, TcpFlags, Transport};

use crate::nf::{Router, answer, error, ip, quoted, tcp, tuple, udp};

const RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-SERVICES -d 10.96.0.9/32 -m comment --comment \"shop/gone has no endpoints\" -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -d 10.244.1.66/32 -j REJECT --reject-with icmp-admin-prohibited
-A FORWARD -d 10.244.1.67/32 -p tcp -j REJECT --reject-with tcp-reset
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-SEP
-A KUBE-SERVICES -d 10.96.0.66/32 -j DNAT --to-destination 10.244.1.66
-A KUBE-SERVICES -d 10.96.0.67/32 -j DNAT --to-destination 10.244.1.67
-A KUBE-SEP ! -s 10.244.0.0/16 -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SEP -p tcp -m tcp -j DNAT --to-destination 10.244.1.5:8080
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
";

fn node() -> Router {
    let mut node = Router::new(RULES);
    for (name, value) in [("net.ipv4.ip_forward", 1), ("net.ipv4.icmp_ratelimit", 0)] {
        let name = name.into();
        node.netns.apply(&Change::Sysctl { name, value }).unwrap();
    }
    let route = podwire_models::kernel::config::NewRoute {
        kind: podwire_models::kernel::config::RouteKind::Unicast,
        dst: "0.0.0.0/0".parse().unwrap(),
        gateway: Some(ip("192.168.50.254")),
        dev: Some("eth0".into()),
        src: None,
        metric: 0,
        scope: podwire_models::kernel::link::Scope::Global,
        onlink: false,
        mtu: None,
        origin: podwire_models::base::OriginId::NONE,
    };
    node.netns.apply(&Change::AddRoute(route)).unwrap();
    node.neighbour("eth0", "192.168.50.254");
    node.neighbour("eth0", "192.168.50.9");
    for pod in ["10.244.1.5", "10.244.1.2", "10.244.1.66", "10.244.1.67"] {
        node.neighbour("cni0", pod);
    }
    node
}

const VIP: (&str, u16) = ("10.96.0.1", 80);

#[test]
fn a_host_outside_reaches_a_pod_through_the_service_and_back() {
    let mut node = node();
    let (eth0, cni0) = (node.eth0, node.cni0);
    let syn = tcp(("192.168.50.9", 40000), VIP, TcpFlags::SYN, 100, 0);
    node.receive(eth0, syn);
    let left = node.left();
    // A bridge without ports swallows the frame; what was decided is in the connection's entry.
    assert!(left.iter().all(|(dev, _)| *dev == cni0));
    let list = node.list();
    assert!(
        list.contains("src=192.168.50.9 dst=10.96.0.1 sport=40000 dport=80"),
        "{list}"
    );
    assert!(
        list.contains("src=10.244.1.5 dst=10.244.1.1 sport=8080"),
        "{list}"
    );
}

#[test]
fn a_local_process_is_balanced_and_masqueraded() {
    let mut node = node();
    let syn = tcp(("192.168.50.1", 40000), VIP, TcpFlags::SYN, 100, 0);
    assert_eq!(node.send(syn), Ok(()));
    let list = node.list();
    assert!(
        list.contains("src=10.244.1.5 dst=10.244.1.1 sport=8080"),
        "{list}"
    );
}

#[test]
fn no_endpoints_is_refused_and_eperm_for_a_local_datagram() {
    let mut node = node();
    let eth0 = node.eth0;
    let sent = udp("192.168.50.9", 40000, "10.96.0.9", 53);
    node.receive(eth0, sent.clone());
    let left = node.left();
    let (dev, refusal) = &left[0];
    assert_eq!((*dev, quoted(refusal)), (eth0, tuple(&sent)));
    let Transport::Icmp(Icmp::Error { kind, .. }) = refusal.transport else {
        panic!("not an error");
    };
    assert_eq!(kind, IcmpError::PortUnreachable);
    let own = udp("192.168.50.1", 40000, "10.96.0.9", 53);
    assert_eq!(node.send(own), Err(Errno::EPERM));
    assert_eq!(node.list(), "", "a refused packet leaves no entry");
}

#[test]
fn a_refusal_after_translation_speaks_of_what_the_sender_sent() {
    let mut node = node();
    let eth0 = node.eth0;
    let sent = udp("192.168.50.9", 40000, "10.96.0.66", 53);
    node.receive(eth0, sent.clone());
    assert_eq!(quoted(&node.left()[0].1), tuple(&sent));
    let syn = tcp(
        ("192.168.50.9", 40000),
        ("10.96.0.67", 80),
        TcpFlags::SYN,
        100,
        0,
    );
    node.receive(eth0, syn.clone());
    let left = node.left();
    let (_, reset) = &left[0];
    assert_eq!(
        tuple(reset),
        tuple(&answer(&syn)),
        "the reset comes from the Service"
    );
    assert_eq!(node.list(), "");
    // An error nobody can place is INVALID and goes no further than the rule for those.
    node.receive(
        eth0,
        error(ip("192.168.50.9"), &udp("10.244.1.2", 1, "192.168.50.9", 2)),
    );
    let end = node
        .steps
        .iter()
        .rev()
        .find_map(|(_, step)| step.action.ends_with());
    assert_eq!(end, Some(Code::CtInvalid));
}
