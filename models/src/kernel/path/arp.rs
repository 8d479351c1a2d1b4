//! Who has this address? ARP (RFC 826) and neighbour discovery (RFC 4861).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::super::neighbour::{
    DELAY_FIRST_PROBE, Neighbour, NeighbourKey, NeighbourState, PROBES, REACHABLE, RETRANS,
};
use super::super::{Cx, Effect, KernelTimer, Netns, Skb};
use crate::base::{Dice, Family, Mac, OriginId, Time};
use crate::wire::{
    Action, Arp, ArpOp, Body, Code, Decider, DeciderKind, DevIndex, FlowKey, Frame, Icmp,
    IcmpError, Packet, Payload, Recorder, Stage, Step, Transport,
};

impl Netns {
    /// Returns the packet with the next hop's address, or keeps it until the address is known.
    pub(super) fn resolve<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        next_hop: IpAddr,
        skb: Skb,
        cx: &mut Cx<'_, D, R>,
    ) -> Option<(Skb, Mac)> {
        let now = cx.now;
        let mut confirm = None;
        let known = match self
            .neighbours
            .entries
            .get_mut(&NeighbourKey(dev, next_hop))
        {
            Some(entry) => match &mut entry.state {
                NeighbourState::Permanent { mac } | NeighbourState::Probe { mac, .. } => Some(*mac),
                NeighbourState::Reachable { mac, until } if *until >= now => Some(*mac),
                NeighbourState::Reachable { mac, .. } | NeighbourState::Stale { mac } => {
                    confirm = Some(*mac);
                    Some(*mac)
                }
                NeighbourState::Incomplete { queue, .. } => {
                    queue.push(skb);
                    return None;
                }
                NeighbourState::Failed => None,
            },
            None => None,
        };
        if let Some(mac) = confirm {
            self.probe_later(dev, next_hop, mac, cx);
        }
        if let Some(mac) = known {
            return Some((skb, mac));
        }
        if !self.room_for(dev, next_hop, now) {
            let family = Family::of(next_hop);
            let ip = if family == Family::V4 { "ipv4" } else { "ipv6" };
            let (_, most) = self.sysctls.neighbour_limits(family);
            let text = format!("net.{ip}.neigh.default.gc_thresh3 = {most}");
            let by = Some(Decider::new(DeciderKind::Sysctl, text));
            let code = Code::NeighOverflow;
            self.drop_packet(&skb.packet, Some(dev), Stage::Neighbour, code, by, cx);
            return None;
        }
        cx.step(self.place(Some(dev), Stage::Neighbour), || {
            Step::about(&skb.packet, Action::Resolving { next_hop })
        });
        let generation = self.neighbours.next_generation();
        let source = skb.packet.src;
        let state = NeighbourState::Incomplete {
            probes: 1,
            queue: vec![skb],
        };
        let entry = Neighbour {
            state,
            generation,
            updated: now,
            origin: OriginId::NONE,
        };
        self.neighbours
            .entries
            .insert(NeighbourKey(dev, next_hop), entry);
        Self::timer_in(RETRANS, dev, next_hop, generation, cx);
        self.solicit(dev, next_hop, None, Some(source), cx);
        None
    }

    /// Whether the table has an entry for a neighbour, or room for one.
    fn room_for(&mut self, dev: DevIndex, addr: IpAddr, now: Time) -> bool {
        let family = Family::of(addr);
        let known = self
            .neighbours
            .entries
            .contains_key(&NeighbourKey(dev, addr));
        known || {
            let limits = self.sysctls.neighbour_limits(family);
            self.neighbours.make_room(family, limits, now)
        }
    }

    fn timer_in<D: Dice, R: Recorder>(
        after: Duration,
        dev: DevIndex,
        addr: IpAddr,
        generation: u32,
        cx: &mut Cx<'_, D, R>,
    ) {
        let timer = KernelTimer::NeighbourProbe {
            dev,
            addr,
            generation,
        };
        cx.effects.push(Effect::Timer {
            after,
            timer: Box::new(timer),
        });
    }

    /// A stale entry is in use: it is probed after a while unless something confirms it.
    fn probe_later<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        addr: IpAddr,
        mac: Mac,
        cx: &mut Cx<'_, D, R>,
    ) {
        let generation = self.neighbours.next_generation();
        if let Some(entry) = self.neighbours.entries.get_mut(&NeighbourKey(dev, addr)) {
            entry.state = NeighbourState::Probe { mac, probes: 0 };
            entry.generation = generation;
        }
        Self::timer_in(DELAY_FIRST_PROBE, dev, addr, generation, cx);
    }

    /// A probe's time is over: send the next, or give up.
    pub(super) fn neighbour_timer<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        addr: IpAddr,
        generation: u32,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(entry) = self.neighbours.entries.get_mut(&NeighbourKey(dev, addr)) else {
            return;
        };
        if entry.generation != generation {
            return;
        }
        let (to, source) = match &mut entry.state {
            NeighbourState::Incomplete { probes, queue } if *probes < PROBES => {
                *probes += 1;
                (None, queue.first().map(|skb| skb.packet.src))
            }
            NeighbourState::Probe { probes, mac } if *probes < PROBES => {
                *probes += 1;
                (Some(*mac), None)
            }
            NeighbourState::Incomplete { queue, .. } => {
                let waiting = std::mem::take(queue);
                entry.state = NeighbourState::Failed;
                self.give_up(dev, addr, waiting, cx);
                return;
            }
            NeighbourState::Probe { .. } => {
                entry.state = NeighbourState::Failed;
                return;
            }
            NeighbourState::Reachable { .. }
            | NeighbourState::Stale { .. }
            | NeighbourState::Failed
            | NeighbourState::Permanent { .. } => return,
        };
        Self::timer_in(RETRANS, dev, addr, generation, cx);
        self.solicit(dev, addr, to, source, cx);
    }

    /// Nobody answered: every waiting packet ends, and its sender is told.
    fn give_up<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        addr: IpAddr,
        waiting: Vec<Skb>,
        cx: &mut Cx<'_, D, R>,
    ) {
        for skb in waiting {
            let kind = IcmpError::HostUnreachable;
            let text = format!("{addr} FAILED after {PROBES} probes");
            cx.step(self.place(Some(dev), Stage::Neighbour), || {
                let code = Code::NeighUnresolved;
                Step::about(
                    &skb.packet,
                    Action::Rejected {
                        code,
                        with: kind.to_string(),
                    },
                )
                .by(Decider::new(DeciderKind::Neighbour, text))
            });
            self.icmp_error(&skb, kind, cx);
        }
    }

    /// What waits for hardware addresses behind a device, or behind all of them, ends: the device goes, or the machine is switched
    /// off. Resolutions under way are forgotten.
    pub(super) fn lose_unresolved<D: Dice, R: Recorder>(
        &mut self,
        dev: Option<DevIndex>,
        code: Code,
        cx: &mut Cx<'_, D, R>,
    ) {
        let mut lost = Vec::new();
        self.neighbours.entries.retain(|key, entry| {
            let NeighbourKey(on, _) = *key;
            if dev.is_some_and(|dev| dev != on) {
                return true;
            }
            match &mut entry.state {
                NeighbourState::Incomplete { queue, .. } => {
                    lost.extend(queue.drain(..).map(|skb| (on, skb)));
                    false
                }
                NeighbourState::Probe { .. } => false,
                NeighbourState::Reachable { .. }
                | NeighbourState::Stale { .. }
                | NeighbourState::Failed
                | NeighbourState::Permanent { .. } => true,
            }
        });
        for (on, skb) in lost {
            self.drop_packet(&skb.packet, Some(on), Stage::Neighbour, code, None, cx);
        }
    }

    /// Asks for a hardware address: everybody on the link, or `to` alone.
    fn solicit<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        target: IpAddr,
        to: Option<Mac>,
        source: Option<IpAddr>,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(mac) = self.device(dev).map(|d| d.mac) else {
            return;
        };
        // arp_announce=0: the source of the packet that wants out, if it is one of ours.
        let ours = source.filter(|s| self.is_local(*s));
        let sender = ours.or_else(|| self.masquerade_source(dev, target, target));
        let sender = sender.unwrap_or_else(|| Family::of(target).unspecified());
        let id = cx.packet_id();
        match target {
            IpAddr::V4(_) => {
                let arp = Arp {
                    id,
                    op: ArpOp::Request,
                    sender_mac: mac,
                    sender_ip: sender,
                    target_mac: Mac::ZERO,
                    target_ip: target,
                };
                let dst = to.unwrap_or(Mac::BROADCAST);
                self.transmit(
                    dev,
                    Frame {
                        src: mac,
                        dst,
                        body: Body::Arp(Box::new(arp)),
                    },
                    cx,
                );
            }
            IpAddr::V6(v6) => {
                let group = solicited_node(v6);
                let icmp = Icmp::NeighbourSolicitation {
                    target,
                    source_mac: Some(mac),
                };
                let packet = discovery(id, sender, IpAddr::V6(group), icmp);
                let dst = to.unwrap_or_else(|| Mac::ipv6_multicast(group));
                self.transmit(
                    dev,
                    Frame {
                        src: mac,
                        dst,
                        body: Body::Ip(Box::new(packet)),
                    },
                    cx,
                );
            }
        }
    }

    /// Tells everybody on the link who has an address now: a gratuitous ARP request, as the bridge plugin sends it
    /// for a new pod. Neighbours that know the address correct their entry; others learn nothing. IPv4 only.
    pub fn announce<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        addr: IpAddr,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(mac) = self.device(dev).map(|d| d.mac).filter(|_| addr.is_ipv4()) else {
            return;
        };
        let arp = Arp {
            id: cx.packet_id(),
            op: ArpOp::Request,
            sender_mac: mac,
            sender_ip: addr,
            target_mac: Mac::ZERO,
            target_ip: addr,
        };
        let frame = Frame {
            src: mac,
            dst: Mac::BROADCAST,
            body: Body::Arp(Box::new(arp)),
        };
        self.transmit(dev, frame, cx);
    }

    /// An ARP message comes in (`arp_process`).
    pub(super) fn receive_arp<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        arp: &Arp,
        cx: &mut Cx<'_, D, R>,
    ) {
        match arp.op {
            ArpOp::Request => {
                if self.answers_for(dev, arp.target_ip) {
                    // Who gets no entry gets no answer.
                    let noted = self.learn(dev, arp.sender_ip, arp.sender_mac, false, cx);
                    let Some(mac) = self.device(dev).map(|d| d.mac).filter(|_| noted) else {
                        return;
                    };
                    let reply = Arp {
                        id: cx.packet_id(),
                        op: ArpOp::Reply,
                        sender_mac: mac,
                        sender_ip: arp.target_ip,
                        target_mac: arp.sender_mac,
                        target_ip: arp.sender_ip,
                    };
                    let dst = arp.sender_mac;
                    self.transmit(
                        dev,
                        Frame {
                            src: mac,
                            dst,
                            body: Body::Arp(Box::new(reply)),
                        },
                        cx,
                    );
                } else if self
                    .neighbours
                    .entries
                    .contains_key(&NeighbourKey(dev, arp.sender_ip))
                {
                    self.learn(dev, arp.sender_ip, arp.sender_mac, false, cx);
                }
            }
            ArpOp::Reply => {
                self.learn(dev, arp.sender_ip, arp.sender_mac, true, cx);
            }
        }
    }

    /// Whether this namespace answers for an address asked for on a device: its own on any device
    /// (`arp_ignore=0`), and with `proxy_arp` those it would route out of another one.
    fn answers_for(&self, dev: DevIndex, addr: IpAddr) -> bool {
        if self.is_local(addr) {
            return true;
        }
        let name = self.device(dev).map_or("", |d| &d.name);
        self.sysctls.forwards(Family::of(addr), name)
            && self.sysctls.device(name, "proxy_arp") != 0
            && self
                .route(addr)
                .is_ok_and(|hop| !hop.local && hop.dev != dev)
    }

    /// Notes a neighbour; returns whether it may be answered: not if there is no room for it.
    fn learn<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        addr: IpAddr,
        mac: Mac,
        solicited: bool,
        cx: &mut Cx<'_, D, R>,
    ) -> bool {
        if addr.is_unspecified() {
            return true;
        }
        let known = self
            .neighbours
            .entries
            .contains_key(&NeighbourKey(dev, addr));
        if solicited && !known {
            return true;
        }
        if !self.room_for(dev, addr, cx.now) {
            return false;
        }
        let waiting = self.neighbours.learn(dev, addr, mac, cx.now, solicited);
        let Some(source) = self.device(dev).map(|d| d.mac) else {
            return true;
        };
        for skb in waiting {
            cx.step(self.place(Some(dev), Stage::Neighbour), || {
                Step::about(
                    &skb.packet,
                    Action::Resolved {
                        next_hop: addr,
                        mac,
                    },
                )
            });
            let inner = self.inner_of(dev, &skb);
            let frame = Frame {
                src: source,
                dst: mac,
                body: Body::Ip(skb.packet),
            };
            self.transmit_packet(dev, frame, inner, cx);
        }
        true
    }

    /// A neighbour solicitation or advertisement comes in.
    pub(super) fn receive_discovery<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        src: IpAddr,
        icmp: Icmp,
        cx: &mut Cx<'_, D, R>,
    ) {
        match icmp {
            Icmp::NeighbourSolicitation { target, source_mac } => {
                if !self.is_local(target) {
                    return;
                }
                let Some(asker) = source_mac else { return };
                let noted = self.learn(dev, src, asker, false, cx);
                let Some(mac) = self.device(dev).map(|d| d.mac).filter(|_| noted) else {
                    return;
                };
                let answer = Icmp::NeighbourAdvertisement {
                    target,
                    target_mac: mac,
                    solicited: true,
                };
                let packet = discovery(cx.packet_id(), target, src, answer);
                self.transmit(
                    dev,
                    Frame {
                        src: mac,
                        dst: asker,
                        body: Body::Ip(Box::new(packet)),
                    },
                    cx,
                );
            }
            Icmp::NeighbourAdvertisement {
                target,
                target_mac,
                solicited,
            } => {
                self.learn(dev, target, target_mac, solicited, cx);
            }
            Icmp::EchoRequest { .. } | Icmp::EchoReply { .. } | Icmp::Error { .. } => {}
        }
    }

    /// Returns how long a confirmed neighbour is believed.
    pub const fn neighbour_reachable_time() -> Duration {
        REACHABLE
    }
}

/// `ff02::1:ff00:0/104` with the address's last 24 bits: the group every owner of it listens to (RFC 4291 §2.7.1).
fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

fn discovery(id: crate::wire::PacketId, src: IpAddr, dst: IpAddr, icmp: Icmp) -> Packet {
    Packet {
        id,
        flow: FlowKey::default(),
        src,
        dst,
        ttl: 255,
        tos: 0,
        df: true,
        fragment: None,
        transport: Transport::Icmp(icmp),
        payload: Payload::Empty,
    }
}
