//! Rules as `iptables-restore` takes them: what is read is printed so that it is read as the same, and packets find
//! their way through whatever was loaded.

use podwire_models::base::{Dice, Family, Mac, OriginId, Ratio, Stream, Time};
use podwire_models::kernel::config::{Change, NewLink, NewLinkKind};
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::netfilter::chain::Ruleset;
use podwire_models::kernel::{Cx, Netns};
use podwire_models::wire::{
    Body, FlowKey, Frame, Icmp, NetnsId, NoRecorder, Packet, PacketId, Payload, Tcp, TcpFlags,
    Transport, Udp,
};

use super::draw::Draw;
use super::drive::drive_texts;

/// Chance that follows from the input.
struct Chance(Draw);

impl Dice for Chance {
    fn chance(&mut self, _: Stream, p: Ratio) -> bool {
        p == Ratio::ONE || p != Ratio::ZERO && self.0.percent(50)
    }

    fn pick(&mut self, _: Stream, n: u64) -> u64 {
        self.0.below(usize::try_from(n).unwrap()) as u64
    }
}

fn machine() -> Netns {
    let mut netns = Netns::new(NetnsId(0), "node/x".into());
    let forward = Change::Sysctl {
        name: "net.ipv4.ip_forward".into(),
        value: 1,
    };
    netns.apply(&forward).unwrap();
    for (side, dev) in [(1_u8, "eth0"), (2, "eth1")] {
        let dev: std::sync::Arc<str> = dev.into();
        let link = NewLink {
            name: std::sync::Arc::clone(&dev),
            mac: Some(Mac([2, 0, 0, 0, side, 1])),
            mtu: 1500,
            kind: NewLinkKind::Veth,
        };
        netns.apply(&Change::AddLink(link)).unwrap();
        let up = Change::SetUp {
            dev: std::sync::Arc::clone(&dev),
            up: true,
        };
        netns.apply(&up).unwrap();
        for net in [format!("10.{side}.0.1/24"), format!("fd0{side}::1/64")] {
            let addr = Change::AddAddr {
                dev: std::sync::Arc::clone(&dev),
                net: net.parse().unwrap(),
                scope: Scope::Global,
                origin: OriginId::NONE,
            };
            netns.apply(&addr).unwrap();
        }
    }
    netns
}

/// Packets of both families and several protocols, forwarded, delivered and sent.
fn packets(netns: &mut Netns, family: Family, seed: u64) {
    let addr = |v4: &str, v6: &str| match family {
        Family::V4 => v4.parse().unwrap(),
        Family::V6 => v6.parse().unwrap(),
    };
    let mut chance = Chance(Draw::new(seed));
    let mut next_packet = 1 << 20;
    let device = netns.dev_names["eth0"];
    for n in 0..12_u64 {
        let (src, dst) = match n % 3 {
            0 => (addr("10.1.0.2", "fd01::2"), addr("10.2.0.2", "fd02::2")),
            1 => (addr("10.1.0.2", "fd01::2"), addr("10.1.0.1", "fd01::1")),
            _ => (addr("10.2.0.1", "fd02::1"), addr("10.96.0.1", "fd96::1")),
        };
        let (sport, dport) = (40_000, 80);
        let transport = match n % 4 {
            0 => Transport::Tcp(Tcp {
                sport,
                dport,
                flags: TcpFlags::SYN,
                window: 65535,
                ..Tcp::default()
            }),
            1 => Transport::Udp(Udp { sport, dport: 53 }),
            2 => Transport::Icmp(Icmp::EchoRequest { id: 1, seq: 1 }),
            _ => Transport::Tcp(Tcp {
                sport,
                dport,
                flags: TcpFlags::ACK,
                ..Tcp::default()
            }),
        };
        let packet = Packet {
            id: PacketId(n),
            flow: FlowKey(n),
            src,
            dst,
            ttl: 64,
            tos: 0,
            df: true,
            fragment: None,
            transport,
            payload: Payload::Empty,
        };
        let mut effects = Vec::new();
        let mut cx = Cx {
            now: Time::from_millis(n),
            dice: &mut chance,
            recorder: &mut NoRecorder,
            effects: &mut effects,
            next_packet: &mut next_packet,
        };
        if n % 3 == 2 {
            // What a sender is told is nobody's business here.
            let _ = netns.send(packet, &mut cx);
        } else {
            let frame = Frame {
                dst: Mac([2, 0, 0, 0, 1, 1]),
                src: Mac([2, 0, 0, 0, 1, 2]),
                body: Body::Ip(Box::new(packet)),
            };
            netns.receive(device, frame, &mut cx);
        }
        assert!(effects.len() < 100);
    }
}

fn rules(text: &str) -> bool {
    let Ok(read) = text.parse::<Ruleset>() else {
        return false;
    };
    for family in [Family::V4, Family::V6] {
        let mut netns = machine();
        if netns.load_rules(family, read.clone()).is_err() {
            continue;
        }
        packets(&mut netns, family, text.len() as u64);
        let printed = read.save(family);
        let again: Ruleset = printed.parse().unwrap_or_else(|e| panic!("{e}: {printed}"));
        assert_eq!(printed, again.save(family));
    }
    true
}

/// Rules of kube-proxy and of plugins, and some of everything else.
fn corpus() -> Vec<String> {
    let mut all = vec![include_str!("rules.txt").to_owned()];
    let scenarios = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/service/");
    let file = format!("{scenarios}shop.yaml");
    for profile in ["kindnet", "bridge", "flannel-vxlan", "calico"] {
        for tool in ["iptables-save", "ip6tables-save"] {
            let words = [
                "podwire",
                "exec",
                "node/node-a",
                "-f",
                &file,
                "--profile",
                profile,
                "--",
                tool,
            ];
            let report = podwire::cli::run(words);
            assert_eq!(report.exit.code(), 0, "{}", report.stderr);
            all.push(report.stdout);
        }
    }
    all
}

#[test]
fn rules_are_loaded_or_refused() {
    drive_texts("rules", 1500, &corpus(), &rules);
}
