//! Translation and its way back are inverse, and no two connections share an answer's tuple.

use std::collections::BTreeSet;

use podwire_models::base::Family;
use podwire_models::kernel::Skb;
use podwire_models::kernel::conntrack::CtFilter;
use podwire_models::kernel::netfilter::NfVerdict;
use podwire_models::kernel::netfilter::chain::Hook;
use podwire_models::wire::{Code, Icmp, TcpFlags, Transport};
use proptest::prelude::*;

use crate::nf::{Router, TCP, answer, error, ip, ping, quoted, tcp, tuple, udp};

fn rules(dnat: &str, snat: &str) -> String {
    format!(
        "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
{dnat}
{snat}
COMMIT
"
    )
}

const SERVICE: &str = "\
-A PREROUTING -d 10.96.0.10/32 -p udp -m udp --dport 53 -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.244.2.2:5353
-A PREROUTING -d 10.96.0.10/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.244.2.3:5353
-A PREROUTING -d 10.96.0.11/32 -p udp -j DNAT --to-destination 10.244.2.3:5353";

#[derive(Clone, Debug)]
struct Flow {
    src: u8,
    sport: u16,
    dst: u8,
    ping: bool,
}

fn flow() -> impl Strategy<Value = Flow> {
    (
        2_u8..6,
        prop_oneof![40000_u16..40004, 300_u16..303, 600_u16..603],
        0_u8..3,
        any::<bool>(),
    )
        .prop_map(|(src, sport, dst, ping)| Flow {
            src,
            sport,
            dst,
            ping: ping && dst == 2,
        })
}

fn snat() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "-A POSTROUTING -o eth0 -j MASQUERADE",
        "-A POSTROUTING -o eth0 -j MASQUERADE --random-fully",
        "-A POSTROUTING -o eth0 -p udp -j SNAT --to-source 192.168.50.1-192.168.50.3:2000-2100",
        "-A POSTROUTING -o eth0 -j SNAT --to-source 192.168.50.2 --random",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_way_back_is_the_inverse(flows in prop::collection::vec(flow(), 1..24), snat in snat()) {
        let mut router = Router::new(&rules(SERVICE, snat));
        let mut answers = BTreeSet::new();
        let mut known = BTreeSet::new();
        for flow in flows {
            let (src, dst) = (format!("10.244.1.{}", flow.src), ["10.96.0.10", "10.96.0.11", "8.8.8.8"][usize::from(flow.dst)]);
            let mut sent = if flow.ping { ping(&src, dst, flow.sport) } else { udp(&src, flow.sport, dst, 53) };
            sent.flow.0 = u64::from(flow.sport) << 8 | u64::from(flow.src);
            let is_new = known.insert(tuple(&sent));
            let passed = router.out(sent.clone()).unwrap().packet;
            prop_assert_eq!(answers.insert(tuple(&answer(&passed))), is_new, "one answer's tuple for each connection");
            let back = router.back(answer(&passed)).unwrap().packet;
            prop_assert_eq!(tuple(&back), tuple(&answer(&sent)));
            // An error of the receiver looks as if it came from whom the sender talked to.
            let refused = router.back(error(passed.dst, &passed)).unwrap().packet;
            prop_assert_eq!(quoted(&refused), tuple(&sent));
            prop_assert_eq!((refused.src, refused.dst), (sent.dst, sent.src));
            // So does one of a router in between, where the destination is translated.
            let router_ip = ip("172.16.0.1");
            let seems = if passed.dst == sent.dst { router_ip } else { sent.dst };
            let far = router.back(error(ip("172.16.0.1"), &passed)).unwrap().packet;
            prop_assert_eq!(quoted(&far), tuple(&sent));
            prop_assert_eq!((far.src, far.dst), (seems, sent.src));
            // Later packets follow the first.
            let again = router.out(sent).unwrap().packet;
            prop_assert_eq!(tuple(&again), tuple(&passed));
        }
        prop_assert_eq!(router.list().lines().count(), known.len());
    }
}

const MASQUERADE: &str = "-A POSTROUTING -o eth0 -j MASQUERADE";

fn sport(router: &mut Router, src: &str, port: u16, dst: &str) -> u16 {
    let sent = router.out(udp(src, port, dst, 9)).unwrap();
    tuple(&sent.packet).sport
}

#[test]
fn the_port_is_kept_while_the_answer_is_free() {
    let mut router = Router::new(&rules("", MASQUERADE));
    assert_eq!(sport(&mut router, "10.244.1.2", 40100, "8.8.8.8"), 40100);
    assert_eq!(sport(&mut router, "10.244.1.3", 40100, "9.9.9.9"), 40100);
    for (port, class) in [(40100, 1024..=65535), (600, 600..=1023), (300, 1..=511)] {
        sport(&mut router, "10.244.1.2", port, "8.8.8.8");
        let other = sport(&mut router, "10.244.1.3", port, "8.8.8.8");
        assert_ne!(other, port);
        assert!(class.contains(&other), "{other}");
    }
}

#[test]
fn random_fully_never_keeps_the_port_and_stays_in_its_class() {
    let mut router = Router::new(&rules("", "-A POSTROUTING -j MASQUERADE --random-fully"));
    let found = sport(&mut router, "10.244.1.2", 700, "8.8.8.8");
    assert!((600..=1023).contains(&found) && found != 700);
}

#[test]
fn when_no_port_is_left_the_packet_is_dropped() {
    let mut router = Router::new(&rules(
        "",
        "-A POSTROUTING -p udp -j SNAT --to-source 192.168.50.1:1000-1001",
    ));
    for src in ["10.244.1.2", "10.244.1.3"] {
        assert!(router.out(udp(src, 5, "8.8.8.8", 9)).is_ok());
    }
    let third = router.out(udp("10.244.1.4", 5, "8.8.8.8", 9));
    assert_eq!(third.err(), Some(NfVerdict::Drop(Code::NatNoPort)));
    assert_eq!(router.list().lines().count(), 2);
}

#[test]
fn without_any_source_rule_two_services_of_one_endpoint_still_differ() {
    let mut router = Router::new(&rules(SERVICE, ""));
    router.load(&rules(
        "-A PREROUTING -p udp -j DNAT --to-destination 10.244.2.3:5353",
        "",
    ));
    assert_eq!(sport(&mut router, "10.244.1.2", 42000, "10.96.0.10"), 42000);
    assert_ne!(sport(&mut router, "10.244.1.2", 42000, "10.96.0.11"), 42000);
}

#[test]
fn masquerade_takes_the_address_of_the_output_device() {
    let mut router = Router::new(&rules("", "-A POSTROUTING -j MASQUERADE"));
    let out = router.out(udp("10.244.1.2", 5, "8.8.8.8", 9)).unwrap();
    assert_eq!(out.packet.src, ip("192.168.50.1"));
    let back = router.back(udp("8.8.8.8", 5, "10.244.1.2", 99)).unwrap();
    assert_eq!(back.packet.src, ip("10.244.1.1"));
}

#[test]
fn a_flow_keeps_its_translation_after_the_rule_is_gone_and_the_lack_of_one_before_it_came() {
    let keep = "-A POSTROUTING -s 1.1.1.1/32 -j MASQUERADE";
    let with = rules(
        "-A PREROUTING -d 10.96.0.10/32 -p udp -j DNAT --to-destination 10.244.2.2:53",
        keep,
    );
    let mut router = Router::new(&with);
    let to = |sport| udp("10.244.1.2", sport, "10.96.0.10", 53);
    router.out(to(1000)).unwrap();
    router.load(&rules("", keep));
    assert_eq!(router.out(to(1000)).unwrap().packet.dst, ip("10.244.2.2"));
    // The black-hole entry: sent before the rule existed, kept alive by sending on, until it is deleted.
    router.out(to(2000)).unwrap();
    router.load(&with);
    router.wait(20_000);
    assert_eq!(router.out(to(2000)).unwrap().packet.dst, ip("10.96.0.10"));
    router.wait(20_000);
    assert_eq!(router.out(to(2000)).unwrap().packet.dst, ip("10.96.0.10"));
    let filter = CtFilter {
        orig_dst: Some(ip("10.96.0.10")),
        ..CtFilter::default()
    };
    let table = router.netns.conntrack.as_mut().unwrap();
    assert!(table.delete(&filter) > 0);
    assert_eq!(router.out(to(2000)).unwrap().packet.dst, ip("10.244.2.2"));
}

#[test]
fn a_dropped_packet_leaves_nothing() {
    let mut router = Router::new(&format!(
        "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n{}",
        rules("", MASQUERADE)
    ));
    let sent = router.out(udp("10.244.1.2", 5, "8.8.8.8", 9));
    assert_eq!(sent.err(), Some(NfVerdict::Drop(Code::NfPolicyDrop)));
    assert_eq!(router.list(), "");
}

#[test]
fn without_a_rule_that_needs_it_nothing_is_tracked() {
    let mut router = Router::new(&rules("", MASQUERADE));
    assert!(router.netns.conntrack.is_some());
    router.netns.flush_rules(Family::V4);
    assert!(router.netns.conntrack.is_none());
    router.load("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT");
    assert!(router.netns.conntrack.is_none());
}

#[test]
fn the_table_prints_as_the_tool_does() {
    let mut router = Router::new(&rules("", MASQUERADE));
    let client = ("10.244.1.2", 40000);
    router
        .out(tcp(client, ("8.8.8.8", 443), TcpFlags::SYN, 100, 0))
        .unwrap();
    assert_eq!(
        router.list(),
        "tcp      6 120 SYN_SENT src=10.244.1.2 dst=8.8.8.8 sport=40000 dport=443 [UNREPLIED] \
         src=8.8.8.8 dst=192.168.50.1 sport=443 dport=40000 mark=0 use=1\n"
    );
    router.netns.conntrack.as_mut().unwrap().delete(&CtFilter {
        l4: Some(TCP),
        ..CtFilter::default()
    });
    let sent = router.out(ping("10.244.1.2", "8.8.8.8", 7)).unwrap();
    router.back(answer(&sent.packet)).unwrap();
    assert_eq!(
        router.list(),
        "icmp     1 30 src=10.244.1.2 dst=8.8.8.8 type=8 code=0 id=7 src=8.8.8.8 dst=192.168.50.1 type=0 code=0 id=7 mark=0 use=1\n"
    );
}

#[test]
fn an_error_about_an_unconfirmed_connection_is_translated_back() {
    let mut router = Router::new(&rules(SERVICE, ""));
    let sent = udp("10.244.1.2", 5, "10.96.0.11", 53);
    let mut skb = Skb::new(sent.clone());
    skb.in_dev = Some(router.cni0);
    assert_eq!(router.hook(Hook::Prerouting, &mut skb), NfVerdict::Accept);
    assert_eq!(skb.packet.dst, ip("10.244.2.3"));
    let mut reply = Skb::new(error(ip("10.244.1.1"), &skb.packet));
    (reply.ct, reply.ct_info) = (skb.ct, skb.ct_info.of_answer());
    reply.out_dev = Some(router.cni0);
    router.hook(Hook::Output, &mut reply);
    router.hook(Hook::Postrouting, &mut reply);
    assert_eq!(quoted(&reply.packet), tuple(&sent));
    // Even the node's own error seems to come from the Service.
    assert_eq!(reply.packet.src, ip("10.96.0.11"));
    assert_eq!(router.list(), "", "errors create no entry");
    assert!(matches!(
        reply.packet.transport,
        Transport::Icmp(Icmp::Error { .. })
    ));
}

#[test]
fn ipv6_translates_alike() {
    let mut router = Router::new("");
    let text = rules(
        "-A PREROUTING -d fd00:10::5/128 -p udp -m udp --dport 53 -j DNAT --to-destination [fd00:2::2]:5353",
        "-A POSTROUTING -o eth0 -j MASQUERADE --random-fully",
    );
    router
        .netns
        .load_rules(Family::V6, text.parse().unwrap())
        .unwrap();
    let sent = udp("fd00:1::2", 40000, "fd00:10::5", 53);
    let passed = router.out(sent.clone()).unwrap().packet;
    assert_eq!(
        (passed.src, passed.dst),
        (ip("fd00:50::1"), ip("fd00:2::2"))
    );
    let back = router.back(answer(&passed)).unwrap().packet;
    assert_eq!(tuple(&back), tuple(&answer(&sent)));
    assert_eq!(
        router
            .out(udp("10.244.1.2", 1, "8.8.8.8", 2))
            .unwrap()
            .packet
            .src,
        ip("10.244.1.2"),
        "the other family has no rules"
    );
}

#[test]
fn a_local_process_is_redirected_and_hears_from_whom_it_called() {
    let mut router = Router::new(&rules(
        "-A OUTPUT -d 10.96.0.20/32 -p udp -j REDIRECT --to-ports 5353",
        "",
    ));
    let sent = udp("192.168.50.1", 40000, "10.96.0.20", 53);
    let mut skb = Skb::new(sent.clone());
    skb.out_dev = Some(router.eth0);
    for hook in [Hook::Output, Hook::Postrouting] {
        assert_eq!(router.hook(hook, &mut skb), NfVerdict::Accept);
    }
    assert_eq!(tuple(&skb.packet).dport, 5353);
    assert_eq!(skb.packet.dst, ip("127.0.0.1"));
    // In again by lo: nothing is translated twice.
    let arrived = skb.packet.clone();
    for hook in [Hook::Prerouting, Hook::Input] {
        assert_eq!(router.hook(hook, &mut skb), NfVerdict::Accept);
    }
    assert_eq!(skb.packet, arrived);
    let mut reply = Skb::new(answer(&arrived));
    for hook in [Hook::Output, Hook::Postrouting] {
        assert_eq!(router.hook(hook, &mut reply), NfVerdict::Accept);
    }
    assert_eq!(tuple(&reply.packet), tuple(&answer(&sent)));
}

#[test]
fn a_link_that_goes_down_forgets_its_masquerading() {
    use podwire_models::kernel::config::Change;
    let mut router = Router::new(&rules("", MASQUERADE));
    router.out(udp("10.244.1.2", 5, "8.8.8.8", 9)).unwrap();
    let down = |dev: &str| Change::SetUp {
        dev: dev.into(),
        up: false,
    };
    router.netns.apply(&down("cni0")).unwrap();
    assert_ne!(router.list(), "");
    router.netns.apply(&down("eth0")).unwrap();
    assert_eq!(router.list(), "");
}

#[test]
fn untracked_packets_are_not_translated() {
    let mut router = Router::new(&format!(
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 10.244.1.3/32 -j CT --notrack\nCOMMIT\n{}",
        rules("", MASQUERADE)
    ));
    let source =
        |router: &mut Router, src| router.out(udp(src, 5, "8.8.8.8", 9)).unwrap().packet.src;
    assert_eq!(source(&mut router, "10.244.1.2"), ip("192.168.50.1"));
    assert_eq!(source(&mut router, "10.244.1.3"), ip("10.244.1.3"));
}
