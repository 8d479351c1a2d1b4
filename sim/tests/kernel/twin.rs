//! The same router, simulated.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use podwire_models::base::{Dice, Family, Mac, OriginId, Ratio, Stream, Time};
use podwire_models::kernel::config::{Change, NewLink, NewLinkKind, NewRoute, RouteKind};
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::netfilter::chain::Ruleset;
use podwire_models::kernel::netfilter::nft::Nft;
use podwire_models::kernel::{Cx, Effect, Netns};
use podwire_models::wire::{
    Action, Body, FiveTuple, Frame, Head, Icmp, L4, NetnsId, Place, Step, Transport,
};

use super::bytes;
use super::cases::{Case, Port, Shot, mac};
use super::full;
use super::router::Seen;

/// A namespace of the simulated kernel with two devices.
#[derive(Clone)]
pub(crate) struct Twin {
    netns: Netns,
    now: Time,
    next_packet: u64,
    rules: Ruleset,
    family: Family,
    /// What it did with the last packet.
    pub(crate) steps: Vec<(Place, Step)>,
    /// Whether chance decided something about the last packet.
    asked: bool,
    /// What came out last.
    pub(crate) out: Vec<(Port, Frame)>,
}

/// Certain things happen, impossible ones do not; whether anything else was asked is noted.
#[derive(Default)]
struct Certain {
    asked: bool,
}

impl Dice for Certain {
    fn chance(&mut self, _: Stream, p: Ratio) -> bool {
        assert!(p == Ratio::ZERO || p == Ratio::ONE, "a chance of {p}");
        p == Ratio::ONE
    }

    fn pick(&mut self, _: Stream, _: u64) -> u64 {
        self.asked = true;
        0
    }
}

fn route(dst: &str, kind: RouteKind, via: Option<&str>) -> Change {
    Change::AddRoute(NewRoute {
        kind,
        dst: dst.parse().unwrap(),
        gateway: via.map(|v| v.parse().unwrap()),
        dev: via.map(|_| "b0".into()),
        src: None,
        metric: 0,
        scope: Scope::Global,
        onlink: false,
        mtu: None,
        origin: OriginId::NONE,
    })
}

impl Twin {
    pub(crate) fn new(case: &Case) -> Result<Self, String> {
        let rules: Ruleset = case.rules.parse().map_err(|e| format!("{e}"))?;
        let mut netns = Netns::new(NetnsId(0), "node/dut".into());
        for change in changes() {
            netns.apply(&change).map_err(|e| format!("{change}: {e}"))?;
        }
        for (name, value) in &case.sysctls {
            let name = name.as_str().into();
            let change = Change::Sysctl {
                name,
                value: *value,
            };
            netns.apply(&change).map_err(|e| format!("{change}: {e}"))?;
        }
        netns
            .load_rules(case.family, rules.clone())
            .map_err(|e| e.to_string())?;
        if !case.nft.is_empty() {
            netns.apply_nft(&case.nft).map_err(|e| e.to_string())?;
        }
        if let Some(filter) = &mut netns.netfilter {
            filter.count_matches();
        }
        netns.sockets.bind(L4::Udp, None, 53).unwrap();
        Ok(Self {
            netns,
            now: Time::from_secs(1000),
            next_packet: 1 << 20,
            rules,
            family: case.family,
            steps: Vec::new(),
            asked: false,
            out: Vec::new(),
        })
    }

    /// Tries every rule from now on.
    pub(crate) fn walk_literally(&mut self) {
        if let Some(filter) = &mut self.netns.netfilter {
            filter.walk_literally();
        }
    }

    /// Returns what `nft list ruleset` prints.
    pub(crate) fn nft(&self) -> String {
        let nft = self.netns.netfilter.as_ref().and_then(|f| f.nft());
        nft.map_or_else(String::new, Nft::list)
    }

    /// Returns how many rules were looked at so far, and the connections.
    pub(crate) fn state(&self) -> (u64, String) {
        let examined = self.netns.netfilter.as_ref().map_or(0, |f| f.examined());
        let table = self.netns.conntrack.as_ref();
        (
            examined,
            table.map_or_else(String::new, |t| t.list(self.now)),
        )
    }

    /// Fills the table of connections, as `router.py` does.
    pub(crate) fn fill(&mut self, assured: bool, max: u32) {
        let change = Change::Sysctl {
            name: "net.netfilter.nf_conntrack_max".into(),
            value: i64::from(max),
        };
        self.netns.apply(&change).unwrap();
        let table = self.netns.conntrack.as_mut().unwrap();
        full::fill(table, assured, &mut self.now);
    }

    /// Takes away some of these connections.
    pub(crate) fn forget(&mut self, from: u32, count: u32) {
        let table = self.netns.conntrack.as_mut().unwrap();
        let doomed: Vec<_> = (from..from + count)
            .map(|number| FiveTuple::of(&full::filler(number)).unwrap())
            .collect();
        table.delete_where(|entry| doomed.contains(&entry.original));
    }

    /// Whether the kernels can be compared by this packet. Not where chance picks a port, or a neighbour is asked for
    /// that nobody plays; and not where an IPv6
    /// packet leaves by the device it came in by: the real one sends a redirect then, and podwire has none.
    pub(crate) fn can_tell(&self, shot: &Shot) -> bool {
        let mut copy = self.clone();
        copy.send(shot);
        let back = |(_, step): &(Place, Step)| {
            let same = matches!(&step.packet, Some(Head::Ip { id, .. }) if *id == shot.packet.id);
            same && matches!(&step.action, Action::Routed { dev, .. } if dev == shot.port.name())
        };
        let asks = |(_, frame): &(Port, Frame)| match &frame.body {
            Body::Arp(_) => true,
            Body::Ip(packet) => matches!(
                packet.transport,
                Transport::Icmp(Icmp::NeighbourSolicitation { .. })
            ),
        };
        if copy.out.iter().any(asks) {
            return false;
        }
        let redirected = shot.family() == Family::V6 && copy.steps.iter().any(back);
        !copy.asked && !redirected
    }

    pub(crate) fn send(&mut self, shot: &Shot) -> Seen {
        self.now += Duration::from_millis(2);
        self.steps.clear();
        let mut dice = Certain::default();
        let mut effects = Vec::new();
        let devices = [Port::A, Port::B].map(|p| self.netns.dev_names[p.name()]);
        let mut cx = Cx {
            now: self.now,
            dice: &mut dice,
            recorder: &mut self.steps,
            effects: &mut effects,
            next_packet: &mut self.next_packet,
        };
        let mut errno = String::new();
        match shot.port {
            Port::A => self.netns.receive(devices[0], shot.frame(), &mut cx),
            Port::B => self.netns.receive(devices[1], shot.frame(), &mut cx),
            Port::Local => {
                if let Err(error) = self.netns.send(shot.packet.clone(), &mut cx) {
                    errno = error.to_string();
                }
            }
        }
        self.asked = dice.asked;
        self.out.clear();
        let mut delivered = 0;
        for effect in effects {
            match effect {
                Effect::Transmit { dev, frame } => {
                    let port = if dev == devices[0] { Port::A } else { Port::B };
                    self.out.push((port, frame));
                }
                Effect::Deliver { .. } => delivered += 1,
                Effect::SocketError { .. } | Effect::IcmpReceived { .. } | Effect::Timer { .. } => {
                }
            }
        }
        // Sockets of the tap tell devices apart, not what came first.
        self.out.sort_by_key(|(port, _)| *port == Port::B);
        let frames = self.out.iter().map(|(port, frame)| {
            // Through bytes and back, so that nothing is compared that has no bytes.
            let frame = bytes::decode(&bytes::encode(frame));
            let says = frame.map_or_else(|| "?".to_owned(), |f| bytes::describe(&f));
            format!("{}: {says}", port.name())
        });
        Seen {
            errno,
            frames: frames.collect(),
            counters: self.counters(),
            delivered,
        }
    }

    fn counters(&self) -> BTreeMap<String, Vec<u64>> {
        let mut all = BTreeMap::new();
        let Some(filter) = &self.netns.netfilter else {
            return all;
        };
        for (table, rules) in &self.rules.tables {
            for (name, chain) in &rules.chains {
                let counts: Vec<u64> = (0..chain.rules.len() as u32)
                    .map(|n| filter.matched(self.family, *table, name, n))
                    .collect();
                if counts.iter().any(|n| *n > 0) {
                    all.insert(format!("{} {name}", table.name()), counts);
                }
            }
        }
        all
    }
}

/// Builds what `router.py` builds.
fn changes() -> Vec<Change> {
    let mut changes = Vec::new();
    let sysctls = [
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.icmp_ratemask=0",
        "net.ipv4.icmp_ratelimit=0",
    ];
    for setting in sysctls {
        let (name, value) = setting.split_once('=').unwrap();
        changes.push(Change::Sysctl {
            name: name.into(),
            value: value.parse().unwrap(),
        });
    }
    for (side, dev) in [(1, "a0"), (2, "b0")] {
        changes.push(Change::AddLink(NewLink {
            name: dev.into(),
            mac: Some(mac(side, 1)),
            mtu: 1500,
            kind: NewLinkKind::Veth,
        }));
        changes.push(Change::SetUp {
            dev: dev.into(),
            up: true,
        });
        for net in [format!("10.{side}.0.1/24"), format!("fd0{side}::1/64")] {
            changes.push(Change::AddAddr {
                dev: dev.into(),
                net: net.parse().unwrap(),
                scope: Scope::Global,
                origin: OriginId::NONE,
            });
        }
        for host in 2..6 {
            for addr in [format!("10.{side}.0.{host}"), format!("fd0{side}::{host}")] {
                changes.push(neighbour(dev, addr.parse().unwrap(), mac(side, 2)));
            }
        }
    }
    changes.push(route("0.0.0.0/0", RouteKind::Unicast, Some("10.2.0.2")));
    changes.push(route("::/0", RouteKind::Unicast, Some("fd02::2")));
    let kinds = [
        (RouteKind::Blackhole, 66),
        (RouteKind::Unreachable, 67),
        (RouteKind::Prohibit, 68),
    ];
    for (kind, n) in kinds {
        changes.push(route(&format!("10.{n}.0.0/16"), kind, None));
        changes.push(route(&format!("fd{n}::/32"), kind, None));
    }
    changes
}

fn neighbour(dev: &str, addr: IpAddr, mac: Mac) -> Change {
    Change::SetNeighbour {
        dev: dev.into(),
        addr,
        mac,
        origin: OriginId::NONE,
    }
}
