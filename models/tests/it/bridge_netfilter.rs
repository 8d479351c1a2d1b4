//! Pods on one bridge through a Service: the table measured on Linux for `bridge-nf-call-iptables` and hairpin mode.

use podwire_models::base::Family;
use podwire_models::kernel::config::{Change, NewLinkKind};
use podwire_models::kernel::link::PortFlags;
use podwire_models::kernel::netfilter::chain::Ruleset;
use podwire_models::wire::{Code, L4, Packet, Tcp, TcpFlags, Transport};

use super::harness::{Net, ip, syn};

const NODE: usize = 0;
const A: usize = 1;
const B: usize = 2;

/// A node with pods A and B on `cni0` and the Service 10.96.0.1:80, whose endpoint is port 8080 of `endpoint`.
fn service(endpoint: &str, nf_call: i64, hairpin: bool, forward: &str) -> Net {
    let mut net = Net::default();
    net.add("node/n");
    net.link(NODE, "cni0", 1500, NewLinkKind::Bridge);
    net.addr(NODE, "cni0", "10.244.1.1/24");
    net.sysctl(NODE, "net.ipv4.ip_forward", 1);
    net.sysctl(NODE, "net.bridge.bridge-nf-call-iptables", nf_call);
    for (pod, host) in [(2, "veth0"), (3, "veth1")] {
        let at = net.add(&format!("pod/{pod}"));
        net.veth((at, "eth0"), (NODE, host));
        net.master(NODE, host, "cni0");
        net.addr(at, "eth0", &format!("10.244.1.{pod}/24"));
        net.route(at, "0.0.0.0/0", Some("10.244.1.1"), "eth0");
        let flags = PortFlags {
            hairpin,
            isolated: false,
        };
        let dev = host.into();
        net.apply(NODE, &Change::SetPort { dev, flags });
        net.listen(at, L4::Tcp, 8080);
    }
    let rules = format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         -A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {endpoint}:8080\n\
         -A POSTROUTING -s {endpoint}/32 -d {endpoint}/32 -j MASQUERADE\nCOMMIT\n\
         *filter\n:INPUT ACCEPT [0:0]\n:FORWARD {forward} [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    );
    let rules: Ruleset = rules.parse().unwrap();
    net.netns[NODE].load_rules(Family::V4, rules).unwrap();
    net
}

/// A opens a connection to the Service; returns the SYN as the endpoint saw it.
fn open(net: &mut Net) -> Option<Packet> {
    let (local, remote) = ((ip("10.244.1.2"), 40000), (ip("10.96.0.1"), 80));
    net.netns[A]
        .sockets
        .connect(L4::Tcp, local, remote)
        .unwrap();
    let packet = net.packet("10.244.1.2", "10.96.0.1", syn(40000, 80), 0);
    assert_eq!(net.send(A, packet), Ok(()));
    let first = net.delivered.pop().map(|(_, _, packet)| packet);
    net.forget();
    first
}

/// The endpoint answers; returns whether the answer reached A's socket.
fn answer(net: &mut Net, at: usize, request: &Packet) -> bool {
    let Transport::Tcp(tcp) = request.transport else {
        panic!("a segment");
    };
    let reply = Tcp {
        sport: tcp.dport,
        dport: tcp.sport,
        flags: TcpFlags::SYN_ACK,
        seq: 5000,
        ack: tcp.seq + 1,
        window: 65535,
        mss: Some(1460),
    };
    let (src, dst) = (request.dst.to_string(), request.src.to_string());
    let packet = net.packet(&src, &dst, Transport::Tcp(reply), 0);
    assert_eq!(net.send(at, packet), Ok(()));
    let to_client = |(to, _, packet): &(usize, _, Packet)| {
        *to == A && packet.src == ip("10.96.0.1") && packet.ports() == Some((80, 40000))
    };
    net.delivered.iter().any(to_client)
}

#[test]
fn with_nf_call_a_translated_frame_is_switched_and_its_answer_restored() {
    let mut net = service("10.244.1.3", 1, false, "ACCEPT");
    let request = open(&mut net).unwrap();
    assert_eq!(request.ttl, 64, "switched, not routed");
    assert_eq!(request.src, ip("10.244.1.2"));
    assert!(answer(&mut net, B, &request));
    // And once more, with the neighbour known: a second connection.
    let packet = net.packet("10.244.1.2", "10.96.0.1", syn(40001, 80), 0);
    net.forget();
    assert_eq!(net.send(A, packet), Ok(()));
    assert_eq!(net.delivered.len(), 1);
    assert_eq!(net.delivered[0].2.ttl, 64);
}

#[test]
fn without_nf_call_the_answer_goes_around_the_translation() {
    let mut net = service("10.244.1.3", 0, false, "ACCEPT");
    let request = open(&mut net).unwrap();
    assert_eq!(request.ttl, 63, "routed");
    assert!(!answer(&mut net, B, &request));
    assert_eq!(net.ends(A), [Code::UnexpectedReply]);
}

#[test]
fn forward_policy_drop_hits_the_same_bridge_only_with_nf_call() {
    for nf_call in [0, 1] {
        let mut net = service("10.244.1.3", nf_call, false, "DROP");
        let works = net.ping(A, "10.244.1.2", "10.244.1.3", 56);
        assert_eq!(works, Ok(nf_call == 0));
        if nf_call == 1 {
            assert_eq!(net.ends(NODE), [Code::NfPolicyDrop]);
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service_as_measured() {
    for (hairpin, nf_call, works) in [
        (true, 1, true),
        (false, 1, false),
        (true, 0, true),
        (false, 0, true),
    ] {
        let mut net = service("10.244.1.2", nf_call, hairpin, "ACCEPT");
        let request = open(&mut net);
        assert_eq!(
            request.is_some(),
            works,
            "hairpin {hairpin} nf-call {nf_call}"
        );
        if let Some(request) = request {
            assert_eq!(request.src, ip("10.244.1.1"), "masqueraded to the bridge");
            assert!(answer(&mut net, A, &request));
        }
    }
}
