//! A handful of namespaces joined by wires without delay, a clock that jumps from timer to timer, and a memory of
//! everything that came out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Errno, Mac, NoChance, OriginId, Time};
use podwire_models::kernel::config::{Change, NewLink, NewLinkKind, NewRoute, RouteKind};
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::socket::SocketId;
use podwire_models::kernel::{Cx, Effect, KernelTimer, Netns};
use podwire_models::wire::{
    Action, Code, Data, DevIndex, FlowKey, Frame, Icmp, L4, Message, NetnsId, Packet, PacketId,
    Payload, Place, Step, Tcp, TcpFlags, Transport, Udp,
};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

enum Event {
    Frame(usize, DevIndex, Frame),
    Timer(usize, KernelTimer),
}

/// Some namespaces and what happened in them.
#[derive(Default)]
pub(crate) struct Net {
    pub(crate) netns: Vec<Netns>,
    wires: BTreeMap<(usize, DevIndex), (usize, DevIndex)>,
    pub(crate) now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    seq: u64,
    next_packet: u64,
    pub(crate) steps: Vec<(Place, Step)>,
    pub(crate) delivered: Vec<(usize, SocketId, Packet)>,
    pub(crate) errors: Vec<(Time, usize, Errno)>,
    pub(crate) icmp: Vec<(usize, Packet)>,
}

impl Net {
    pub(crate) fn add(&mut self, name: &str) -> usize {
        let id = self.netns.len();
        let netns = Netns::new(NetnsId(u32::try_from(id).unwrap()), name.into());
        self.netns.push(netns);
        id
    }

    pub(crate) fn apply(&mut self, at: usize, change: &Change) {
        if let Err(error) = self.netns[at].apply(change) {
            panic!("{change}: {error}");
        }
    }

    pub(crate) fn link(&mut self, at: usize, name: &str, mtu: u32, kind: NewLinkKind) {
        let link = NewLink {
            name: name.into(),
            mac: None,
            mtu,
            kind,
        };
        self.apply(at, &Change::AddLink(link));
        self.up(at, name, true);
    }

    pub(crate) fn up(&mut self, at: usize, dev: &str, up: bool) {
        let dev = dev.into();
        self.apply(at, &Change::SetUp { dev, up });
    }

    /// Joins two new devices by a wire.
    pub(crate) fn veth(&mut self, a: (usize, &str), b: (usize, &str)) {
        for (at, name) in [a, b] {
            self.link(at, name, 1500, NewLinkKind::Veth);
        }
        let (left, right) = ((a.0, self.dev(a.0, a.1)), (b.0, self.dev(b.0, b.1)));
        self.wires.insert(left, right);
        self.wires.insert(right, left);
    }

    pub(crate) fn dev(&self, at: usize, name: &str) -> DevIndex {
        self.netns[at].device_named(name).unwrap().index
    }

    pub(crate) fn mac(&self, at: usize, name: &str) -> Mac {
        self.netns[at].device_named(name).unwrap().mac
    }

    pub(crate) fn addr(&mut self, at: usize, dev: &str, net: &str) {
        let change = Change::AddAddr {
            dev: dev.into(),
            net: net.parse().unwrap(),
            scope: Scope::Global,
            origin: OriginId::NONE,
        };
        self.apply(at, &change);
    }

    pub(crate) fn route(&mut self, at: usize, dst: &str, via: Option<&str>, dev: &str) {
        let mut route = new_route(dst, RouteKind::Unicast);
        route.gateway = via.map(ip);
        route.dev = Some(dev.into());
        route.onlink = via.is_some();
        if via.is_none() {
            route.scope = Scope::Link;
        }
        self.apply(at, &Change::AddRoute(route));
    }

    pub(crate) fn special_route(&mut self, at: usize, dst: &str, kind: RouteKind) {
        self.apply(at, &Change::AddRoute(new_route(dst, kind)));
    }

    pub(crate) fn master(&mut self, at: usize, dev: &str, bridge: &str) {
        let change = Change::SetMaster {
            dev: dev.into(),
            master: Some(bridge.into()),
        };
        self.apply(at, &change);
    }

    pub(crate) fn sysctl(&mut self, at: usize, name: &str, value: i64) {
        let name: Arc<str> = name.into();
        self.apply(at, &Change::Sysctl { name, value });
    }

    fn with<T>(
        &mut self,
        at: usize,
        act: impl FnOnce(&mut Netns, &mut Cx<'_, NoChance, Vec<(Place, Step)>>) -> T,
    ) -> T {
        let mut effects = Vec::new();
        let mut cx = Cx {
            now: self.now,
            dice: &mut NoChance,
            recorder: &mut self.steps,
            effects: &mut effects,
            next_packet: &mut self.next_packet,
        };
        let done = act(&mut self.netns[at], &mut cx);
        for effect in effects {
            self.effect(at, effect);
        }
        done
    }

    fn effect(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Transmit { dev, frame } => {
                if let Some((to, peer)) = self.wires.get(&(at, dev)).copied() {
                    self.push(self.now, Event::Frame(to, peer, frame));
                }
            }
            Effect::Timer { after, timer } => self.push(self.now + after, Event::Timer(at, *timer)),
            Effect::Deliver { socket, packet } => self.delivered.push((at, socket, *packet)),
            Effect::SocketError { errno, .. } => self.errors.push((self.now, at, errno)),
            Effect::IcmpReceived { packet } => self.icmp.push((at, *packet)),
        }
    }

    fn push(&mut self, time: Time, event: Event) {
        self.seq += 1;
        self.queue.insert((time, self.seq), event);
    }

    /// Sends a packet and lets everything happen that follows within four seconds.
    pub(crate) fn send(&mut self, at: usize, packet: Packet) -> Result<(), Errno> {
        // Sockets of these tests insist on the DF they set.
        let done = self.with(at, |netns, cx| {
            if packet.df {
                netns.send_whole(Box::new(packet), cx)
            } else {
                netns.send(packet, cx)
            }
        });
        self.run(Duration::from_secs(4));
        done
    }

    /// Sends a gratuitous ARP request.
    pub(crate) fn announce(&mut self, at: usize, dev: DevIndex, addr: IpAddr) {
        self.with(at, |netns, cx| netns.announce(dev, addr, cx));
        self.run(Duration::from_millis(1));
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = at;
            match event {
                Event::Frame(to, dev, frame) => {
                    self.with(to, |netns, cx| netns.receive(dev, frame, cx));
                }
                Event::Timer(to, timer) => self.with(to, |netns, cx| netns.timer(timer, cx)),
            }
        }
        self.now = end;
    }

    /// Forgets what happened so far.
    pub(crate) fn forget(&mut self) {
        self.steps.clear();
        self.delivered.clear();
        self.errors.clear();
        self.icmp.clear();
    }

    /// Returns the codes with which packets ended in a namespace, without deliveries.
    pub(crate) fn ends(&self, at: usize) -> Vec<Code> {
        let here = self
            .steps
            .iter()
            .filter(|(place, _)| place.netns == Some(NetnsId(u32::try_from(at).unwrap())));
        let codes = here.filter_map(|(_, step)| step.action.ends_with());
        codes
            .filter(|code| !matches!(code, Code::Ok | Code::NotForUs))
            .collect()
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Action) -> bool) -> usize {
        self.steps
            .iter()
            .filter(|(_, step)| wanted(&step.action))
            .count()
    }

    /// Returns a packet between two addresses with the kernel's usual settings.
    pub(crate) fn packet(
        &mut self,
        src: &str,
        dst: &str,
        transport: Transport,
        len: u32,
    ) -> Packet {
        self.next_packet += 1;
        let payload = if len == 0 {
            Payload::Empty
        } else {
            let message = Message::Opaque;
            Payload::Data(Data { len, message })
        };
        Packet {
            id: PacketId(self.next_packet),
            flow: FlowKey(1),
            src: ip(src),
            dst: ip(dst),
            ttl: 64,
            tos: 0,
            df: true,
            fragment: None,
            transport,
            payload,
        }
    }

    pub(crate) fn listen(&mut self, at: usize, l4: L4, port: u16) -> SocketId {
        self.netns[at].sockets.bind(l4, None, port).unwrap()
    }

    /// Pings with `len` bytes; returns whether the answer came.
    pub(crate) fn ping(
        &mut self,
        at: usize,
        src: &str,
        dst: &str,
        len: u32,
    ) -> Result<bool, Errno> {
        self.forget();
        let request = Transport::Icmp(Icmp::EchoRequest { id: 7, seq: 1 });
        let packet = self.packet(src, dst, request, len);
        self.send(at, packet)?;
        let answered = |(to, p): &(usize, Packet)| {
            let echo = matches!(p.transport, Transport::Icmp(Icmp::EchoReply { .. }));
            *to == at && echo
        };
        Ok(self.icmp.iter().any(answered))
    }
}

pub(crate) fn new_route(dst: &str, kind: RouteKind) -> NewRoute {
    NewRoute {
        kind,
        dst: dst.parse().unwrap(),
        gateway: None,
        dev: None,
        src: None,
        metric: 0,
        scope: Scope::Global,
        onlink: false,
        mtu: None,
        origin: OriginId::NONE,
    }
}

pub(crate) fn udp(sport: u16, dport: u16) -> Transport {
    Transport::Udp(Udp { sport, dport })
}

pub(crate) fn syn(sport: u16, dport: u16) -> Transport {
    Transport::Tcp(Tcp {
        sport,
        dport,
        flags: TcpFlags::SYN,
        seq: 1000,
        ack: 0,
        window: 65535,
        mss: Some(1460),
    })
}
