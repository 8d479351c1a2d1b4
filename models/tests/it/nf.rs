//! What the tests of packet filter and connection tracking share: a router with two devices, and its hooks.

use std::net::IpAddr;

use podwire_models::base::{Dice, FxIndexMap, Ratio, Stream, Time, hash};
use podwire_models::kernel::config::{Change, NewLink, NewLinkKind};
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::netfilter::NfVerdict;
use podwire_models::kernel::netfilter::chain::{Hook, Ruleset};
use podwire_models::kernel::{Cx, Effect, Netns, Skb};
use podwire_models::wire::{
    DevIndex, FiveTuple, FlowKey, Icmp, IcmpError, L4, NetnsId, Packet, PacketId, Payload, Place,
    Step, Tcp, TcpFlags, Transport, Udp,
};

/// A dice with a seed, one sequence for each stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rolls {
    seed: u64,
    drawn: FxIndexMap<Stream, u64>,
}

impl Rolls {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }
}

impl Dice for Rolls {
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool {
        let n = self.pick(stream, 1 << 32);
        u128::from(n) * p.denominator() < p.numerator() << 32
    }

    fn pick(&mut self, stream: Stream, n: u64) -> u64 {
        let drawn = self.drawn.entry(stream).or_insert(self.seed);
        *drawn = hash::combine(*drawn, stream.key ^ stream.purpose as u64);
        *drawn % n
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A router with its rules, the time, and what it recorded.
pub(crate) struct Router {
    pub(crate) netns: Netns,
    pub(crate) now: Time,
    pub(crate) dice: Rolls,
    pub(crate) steps: Vec<(Place, Step)>,
    pub(crate) eth0: DevIndex,
    pub(crate) cni0: DevIndex,
    effects: Vec<Effect>,
    next_packet: u64,
}

impl Router {
    /// `eth0` is 192.168.50.1/24 and `fd00:50::1/64`, `cni0` 10.244.1.1/24 and `fd00:1::1/64`.
    pub(crate) fn new(rules: &str) -> Self {
        let mut netns = Netns::new(NetnsId(0), "node/node-a".into());
        let devices = [
            (
                "eth0",
                NewLinkKind::Physical,
                ["192.168.50.1/24", "fd00:50::1/64"],
            ),
            (
                "cni0",
                NewLinkKind::Bridge,
                ["10.244.1.1/24", "fd00:1::1/64"],
            ),
        ];
        for (name, kind, addrs) in devices {
            let link = NewLink {
                name: name.into(),
                mac: None,
                mtu: 1500,
                kind,
            };
            let up = Change::SetUp {
                dev: name.into(),
                up: true,
            };
            netns.apply(&Change::AddLink(link)).unwrap();
            netns.apply(&up).unwrap();
            for addr in addrs {
                let add = Change::AddAddr {
                    dev: name.into(),
                    net: addr.parse().unwrap(),
                    scope: Scope::Global,
                    origin: podwire_models::base::OriginId::NONE,
                };
                netns.apply(&add).unwrap();
            }
        }
        let (eth0, cni0) = (netns.dev_names["eth0"], netns.dev_names["cni0"]);
        let mut router = Self {
            netns,
            now: Time::from_secs(1000),
            dice: Rolls::new(1),
            steps: Vec::new(),
            eth0,
            cni0,
            effects: Vec::new(),
            next_packet: 0,
        };
        router.load(rules);
        router
    }

    pub(crate) fn load(&mut self, rules: &str) {
        let rules: Ruleset = rules.parse().unwrap();
        self.netns
            .load_rules(podwire_models::base::Family::V4, rules)
            .unwrap();
    }

    pub(crate) fn hook(&mut self, hook: Hook, skb: &mut Skb) -> NfVerdict {
        let mut cx = Cx {
            now: self.now,
            dice: &mut self.dice,
            recorder: &mut self.steps,
            effects: &mut self.effects,
            next_packet: &mut self.next_packet,
        };
        self.netns.run_hook(hook, skb, &mut cx)
    }

    /// Passes a packet through the hooks of forwarding; `Err` says how it ended.
    pub(crate) fn forward(
        &mut self,
        from: DevIndex,
        to: DevIndex,
        packet: Packet,
    ) -> Result<Skb, NfVerdict> {
        let mut skb = Skb::new(packet);
        skb.in_dev = Some(from);
        self.pass(Hook::Prerouting, &mut skb)?;
        skb.out_dev = Some(to);
        skb.next_hop = Some(skb.packet.dst);
        self.pass(Hook::Forward, &mut skb)?;
        self.pass(Hook::Postrouting, &mut skb)?;
        Ok(skb)
    }

    /// From the pods to the world.
    pub(crate) fn out(&mut self, packet: Packet) -> Result<Skb, NfVerdict> {
        self.forward(self.cni0, self.eth0, packet)
    }

    /// From the world to the pods.
    pub(crate) fn back(&mut self, packet: Packet) -> Result<Skb, NfVerdict> {
        self.forward(self.eth0, self.cni0, packet)
    }

    fn pass(&mut self, hook: Hook, skb: &mut Skb) -> Result<(), NfVerdict> {
        match self.hook(hook, skb) {
            NfVerdict::Accept => Ok(()),
            other => Err(other),
        }
    }

    /// A local process sends a packet, all the way out.
    pub(crate) fn send(&mut self, packet: Packet) -> Result<(), podwire_models::base::Errno> {
        let mut cx = Cx {
            now: self.now,
            dice: &mut self.dice,
            recorder: &mut self.steps,
            effects: &mut self.effects,
            next_packet: &mut self.next_packet,
        };
        self.netns.send(packet, &mut cx)
    }

    /// A packet comes in by a device, addressed to this machine's hardware address.
    pub(crate) fn receive(&mut self, dev: DevIndex, packet: Packet) {
        let mac = self.netns.device(dev).unwrap().mac;
        let frame = podwire_models::wire::Frame {
            src: podwire_models::base::Mac::from_hash(1),
            dst: mac,
            body: podwire_models::wire::Body::Ip(Box::new(packet)),
        };
        let mut cx = Cx {
            now: self.now,
            dice: &mut self.dice,
            recorder: &mut self.steps,
            effects: &mut self.effects,
            next_packet: &mut self.next_packet,
        };
        self.netns.receive(dev, frame, &mut cx);
    }

    /// What left by devices since the last call.
    pub(crate) fn left(&mut self) -> Vec<(DevIndex, Packet)> {
        let effects = std::mem::take(&mut self.effects);
        let frame = |effect| match effect {
            Effect::Transmit { dev, frame } => match frame.body {
                podwire_models::wire::Body::Ip(packet) => Some((dev, *packet)),
                podwire_models::wire::Body::Arp(_) => None,
            },
            _ => None,
        };
        effects.into_iter().filter_map(frame).collect()
    }

    /// Makes a neighbour known.
    pub(crate) fn neighbour(&mut self, dev: &str, addr: &str) {
        let known = Change::SetNeighbour {
            dev: dev.into(),
            addr: ip(addr),
            mac: podwire_models::base::Mac::from_hash(2),
            origin: podwire_models::base::OriginId::NONE,
        };
        self.netns.apply(&known).unwrap();
    }

    /// What `conntrack -L` prints now.
    pub(crate) fn list(&self) -> String {
        self.netns
            .conntrack
            .as_ref()
            .map_or_else(String::new, |ct| ct.list(self.now))
    }

    pub(crate) fn wait(&mut self, millis: u64) {
        self.now += std::time::Duration::from_millis(millis);
    }
}

fn packet(src: &str, dst: &str, transport: Transport) -> Packet {
    Packet {
        id: PacketId(1),
        flow: FlowKey(7),
        src: ip(src),
        dst: ip(dst),
        ttl: 64,
        tos: 0,
        df: true,
        fragment: None,
        transport,
        payload: Payload::Empty,
    }
}

pub(crate) fn udp(src: &str, sport: u16, dst: &str, dport: u16) -> Packet {
    packet(src, dst, Transport::Udp(Udp { sport, dport }))
}

/// A TCP segment without data.
pub(crate) fn tcp(
    from: (&str, u16),
    to: (&str, u16),
    flags: TcpFlags,
    seq: u32,
    ack: u32,
) -> Packet {
    let header = Tcp {
        sport: from.1,
        dport: to.1,
        flags,
        seq,
        ack,
        window: 64_000,
        mss: None,
    };
    packet(from.0, to.0, Transport::Tcp(header))
}

pub(crate) fn ping(src: &str, dst: &str, id: u16) -> Packet {
    packet(src, dst, Transport::Icmp(Icmp::EchoRequest { id, seq: 1 }))
}

/// Returns what the receiver of a packet answers.
pub(crate) fn answer(to: &Packet) -> Packet {
    let mut answer = to.clone();
    (answer.src, answer.dst) = (to.dst, to.src);
    answer.transport = match to.transport {
        Transport::Udp(u) => Transport::Udp(Udp {
            sport: u.dport,
            dport: u.sport,
        }),
        Transport::Tcp(t) => Transport::Tcp(Tcp {
            sport: t.dport,
            dport: t.sport,
            flags: TcpFlags::SYN_ACK,
            seq: 9000,
            ack: t.seq.wrapping_add(1),
            ..t
        }),
        Transport::Icmp(Icmp::EchoRequest { id, seq }) => {
            Transport::Icmp(Icmp::EchoReply { id, seq })
        }
        other => other,
    };
    answer
}

/// Returns the ICMP error that `from` sends about a packet.
pub(crate) fn error(from: IpAddr, about: &Packet) -> Packet {
    let mut error = about.clone();
    (error.src, error.dst) = (from, about.src);
    error.transport = Transport::Icmp(Icmp::Error {
        kind: IcmpError::PortUnreachable,
        about: about.quoted(),
    });
    error
}

/// Returns the tuple of a packet.
pub(crate) fn tuple(packet: &Packet) -> FiveTuple {
    FiveTuple::of(packet).unwrap()
}

/// Returns the tuple an ICMP error quotes.
pub(crate) fn quoted(packet: &Packet) -> FiveTuple {
    match packet.transport {
        Transport::Icmp(Icmp::Error { about, .. }) => FiveTuple::of_quoted(&about).unwrap(),
        _ => panic!("not an error"),
    }
}

pub(crate) const TCP: L4 = L4::Tcp;
