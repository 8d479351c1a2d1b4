//! From a device to the socket, or to forwarding.

use std::net::{IpAddr, Ipv4Addr};

use super::super::config::RouteKind;
use super::super::link::DeviceKind;
use super::super::netfilter::chain::{AddrType, Hook};
use super::super::socket::Found;
use super::super::{Cx, Effect, Netns, Skb};
use super::Filtered;
use super::output::route_code;
use crate::base::{Dice, Errno, Family};
use crate::wire::size::ETHERNET;
use crate::wire::{
    Action, Body, Code, Decider, DeciderKind, DevIndex, FiveTuple, Frame, Icmp, IcmpError, L4,
    Packet, Payload, Recorder, Sctp, SctpChunk, Stage, Step, Transport,
};

impl Netns {
    /// A frame comes in from a device.
    pub fn receive<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        frame: Frame,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(device) = self.device_mut(dev) else {
            self.drop_frame(&frame, dev, Stage::Receive, Code::DeviceDown, cx);
            return;
        };
        if !device.up {
            self.drop_frame(&frame, dev, Stage::Receive, Code::DeviceDown, cx);
            return;
        }
        // `____dev_forward_skb`: a pair's other end takes no more than its own MTU, with room for a VLAN tag.
        if matches!(device.kind, DeviceKind::Veth)
            && frame.len() > device.mtu.saturating_add(ETHERNET + 4)
        {
            self.drop_frame(&frame, dev, Stage::Receive, Code::MtuExceeded, cx);
            return;
        }
        device.stats.rx_packets += 1;
        let (master, mac) = (device.master, device.mac);
        let place = self.place(Some(dev), Stage::Receive);
        cx.step(place, || Step {
            packet: Some(crate::wire::Head::of_frame(&frame)),
            action: Action::Received,
            by: None,
        });
        match master {
            Some(bridge) => self.bridge_receive(bridge, dev, frame, cx),
            None if frame.dst == mac || frame.dst.is_multicast() => {
                self.receive_body(dev, None, frame.body, cx);
            }
            None => self.drop_frame(&frame, dev, Stage::Receive, Code::NotForUs, cx),
        }
    }

    /// What a frame carries goes up the stack.
    pub(super) fn receive_body<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        port: Option<DevIndex>,
        body: Body,
        cx: &mut Cx<'_, D, R>,
    ) {
        match body {
            Body::Arp(arp) => self.receive_arp(dev, &arp, cx),
            Body::Ip(packet) => {
                let mut skb = Skb::new(packet);
                skb.in_dev = Some(dev);
                skb.phys_in = port;
                self.receive_ip(skb, cx);
            }
        }
    }

    /// `ip_rcv`: reassembly where somebody tracks connections, PREROUTING, then routing.
    pub(super) fn receive_ip<D: Dice, R: Recorder>(&mut self, mut skb: Skb, cx: &mut Cx<'_, D, R>) {
        if skb.packet.fragment.is_some() && self.conntrack.is_some() {
            match self.reassemble(&skb.packet, cx) {
                Some((whole, largest)) => {
                    *skb.packet = whole;
                    skb.largest_piece = Some(largest);
                }
                None => return,
            }
        }
        if self.filter(Hook::Prerouting, &mut skb, cx) == Filtered::Passes {
            self.route_input(skb, cx);
        }
    }

    /// `ip_route_input`: is the packet plausible, and whose is it?
    pub(super) fn route_input<D: Dice, R: Recorder>(
        &mut self,
        mut skb: Skb,
        cx: &mut Cx<'_, D, R>,
    ) {
        let in_dev = skb.in_dev.unwrap_or(DevIndex::LO);
        if let Err((code, by)) = self.plausible(&skb.packet, in_dev) {
            self.drop_packet(&skb.packet, skb.in_dev, Stage::Routing, code, by, cx);
            return;
        }
        let dst = skb.packet.dst;
        // Broadcast addresses of networks have routes of their own.
        let limited = matches!(dst, IpAddr::V4(a) if a.is_broadcast());
        let for_all = limited || (dst.is_multicast() && self.has_joined(dst));
        if dst.is_multicast() && !for_all {
            let code = Code::NotForUs;
            self.drop_packet(&skb.packet, skb.in_dev, Stage::Routing, code, None, cx);
            return;
        }
        let route = self.fib.lookup(dst);
        // What is for all on any of its networks is for this machine too.
        let here = |kind| matches!(kind, RouteKind::Local | RouteKind::Broadcast);
        if for_all || route.is_some_and(|route| here(route.kind)) {
            let place = self.place(skb.in_dev, Stage::Routing);
            cx.step(place, || {
                let step = Step::about(&skb.packet, Action::RoutedLocal);
                match self.fib.lookup(dst) {
                    Some(route) => {
                        step.by(Decider::new(DeciderKind::Route, self.route_text(route))
                            .from(route.origin))
                    }
                    None => step,
                }
            });
            self.deliver(skb, cx);
            return;
        }
        let family = skb.packet.family();
        let dev = self.device(in_dev).map_or("", |device| &device.name);
        if !self.sysctls.forwards(family, dev) {
            let name = match family {
                Family::V4 => "net.ipv4.ip_forward",
                Family::V6 => "net.ipv6.conf.all.forwarding",
            };
            let by = Some(Self::sysctl_says(name, 0));
            let code = Code::IpForwardOff;
            self.drop_packet(&skb.packet, skb.in_dev, Stage::Routing, code, by, cx);
            return;
        }
        match self.hop(route, dst) {
            Ok(hop) => {
                skb.out_dev = Some(hop.dev);
                skb.next_hop = Some(hop.next_hop);
                self.routed_step(&skb, cx);
                self.forward(skb, hop.mtu, cx);
            }
            Err(errno) => self.no_route(&skb, errno, cx),
        }
    }

    /// Whether a multicast group is one every host belongs to, or the one neighbours ask for its addresses at
    /// (RFC 4291 §2.8).
    fn has_joined(&self, group: IpAddr) -> bool {
        match group {
            IpAddr::V4(a) => a == Ipv4Addr::new(224, 0, 0, 1),
            IpAddr::V6(a) => {
                let [scope, .., last] = a.segments();
                let all_nodes = a.segments() == [scope, 0, 0, 0, 0, 0, 0, 1];
                let all_routers = last == 2 && self.sysctls.forwarding(Family::V6);
                let solicited = a
                    .octets()
                    .starts_with(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
                matches!(scope, 0xff01 | 0xff02) && (all_nodes || all_routers) || solicited
            }
        }
    }

    /// Records which route was chosen.
    pub(super) fn routed_step<D: Dice, R: Recorder>(&self, skb: &Skb, cx: &mut Cx<'_, D, R>) {
        cx.step(self.place(skb.out_dev, Stage::Routing), || {
            let dev = skb.out_dev.and_then(|dev| self.device(dev));
            let action = Action::Routed {
                gateway: skb.next_hop.filter(|hop| *hop != skb.packet.dst),
                dev: dev.map_or_else(String::new, |d| d.name.to_string()),
            };
            let step = Step::about(&skb.packet, action);
            match self.fib.lookup(skb.packet.dst) {
                Some(route) => {
                    step.by(
                        Decider::new(DeciderKind::Route, self.route_text(route)).from(route.origin)
                    )
                }
                None => step,
            }
        });
    }

    /// The forwarded packet has no usable route: the sender is told, except by a blackhole.
    fn no_route<D: Dice, R: Recorder>(&mut self, skb: &Skb, errno: Errno, cx: &mut Cx<'_, D, R>) {
        let text = self
            .fib
            .lookup(skb.packet.dst)
            .map(|route| self.route_text(route));
        let text = text.unwrap_or_else(|| format!("no route to {}", skb.packet.dst));
        let by = Some(Decider::new(DeciderKind::Route, text));
        let code = route_code(errno);
        if code == Code::RouteBlackhole {
            self.drop_packet(&skb.packet, skb.in_dev, Stage::Routing, code, by, cx);
            return;
        }
        let kind = if code == Code::RouteUnreachable {
            IcmpError::HostUnreachable
        } else if code == Code::RouteProhibit {
            IcmpError::AdminProhibited
        } else {
            IcmpError::NetUnreachable
        };
        self.reject_step(skb, Stage::Routing, code, kind, by, cx);
        self.icmp_error(skb, kind, cx);
    }

    /// Records that the sender is told.
    pub(super) fn reject_step<D: Dice, R: Recorder>(
        &self,
        skb: &Skb,
        stage: Stage,
        code: Code,
        kind: IcmpError,
        by: Option<Decider>,
        cx: &mut Cx<'_, D, R>,
    ) {
        cx.step(self.place(skb.in_dev, stage), || Step {
            by,
            ..Step::about(
                &skb.packet,
                Action::Rejected {
                    code,
                    with: kind.to_string(),
                },
            )
        });
    }

    /// Martian and reverse path checks (`fib_validate_source`, `ip_route_input_slow`).
    fn plausible(&self, packet: &Packet, in_dev: DevIndex) -> Result<(), (Code, Option<Decider>)> {
        let kernel = |text: &str| Some(Decider::new(DeciderKind::Kernel, text));
        if in_dev == DevIndex::LO {
            return Ok(());
        }
        let name = self.device(in_dev).map_or("", |d| &d.name);
        let (src, dst) = (packet.src, packet.dst);
        if dst.is_loopback() && (dst.is_ipv6() || self.sysctls.device(name, "route_localnet") == 0)
        {
            let text = format!("net.ipv4.conf.{name}.route_localnet");
            return Err((Code::MartianDestination, Some(Self::sysctl_says(&text, 0))));
        }
        let broadcast = matches!(src, IpAddr::V4(a) if a.is_broadcast());
        if src.is_multicast() || broadcast {
            return Err((
                Code::MartianSource,
                kernel("a group address cannot be a source"),
            ));
        }
        if src.is_ipv6() {
            return Ok(());
        }
        if src.is_loopback() && self.sysctls.device(name, "route_localnet") == 0 {
            return Err((
                Code::MartianSource,
                kernel("127.0.0.0/8 comes from loopback only"),
            ));
        }
        if let IpAddr::V4(addr) = src
            && addr.octets().first() == Some(&0)
        {
            // Only somebody who asks for an address may have none (`ip_route_input_slow`, `ip_mc_validate_source`).
            let asks = match dst {
                IpAddr::V4(to) => {
                    let all_hosts = to.octets().starts_with(&[224, 0, 0]);
                    to.is_broadcast() || all_hosts || (addr.is_unspecified() && to.is_unspecified())
                }
                IpAddr::V6(_) => true,
            };
            return if asks {
                Ok(())
            } else {
                Err((
                    Code::MartianSource,
                    kernel("0.0.0.0/8 is the source of broadcasts only"),
                ))
            };
        }
        let type_of = self.addr_type(src);
        if type_of == AddrType::Local && self.sysctls.device(name, "accept_local") == 0 {
            return Err((
                Code::MartianSource,
                kernel("the source is one of the host's own"),
            ));
        }
        let mode = self.sysctls.rp_filter(name);
        let back = || self.fib.lookup(src);
        let passes = match mode {
            0 => true,
            1 => back().is_some_and(|route| route.dev == Some(in_dev)),
            _ => back().is_some_and(|route| route.dev.is_some()),
        };
        if passes {
            Ok(())
        } else {
            // The larger of the two decides.
            let all = self.sysctls.get("net.ipv4.conf.all.rp_filter") == Some(mode);
            let of = if all { "all" } else { name };
            let text = format!("net.ipv4.conf.{of}.rp_filter");
            Err((Code::RpFilter, Some(Self::sysctl_says(&text, mode))))
        }
    }

    /// `ip_local_deliver`: INPUT, then whoever takes it.
    fn deliver<D: Dice, R: Recorder>(&mut self, mut skb: Skb, cx: &mut Cx<'_, D, R>) {
        if skb.packet.fragment.is_some() {
            match self.reassemble(&skb.packet, cx) {
                Some((whole, largest)) => {
                    *skb.packet = whole;
                    skb.largest_piece = Some(largest);
                }
                None => return,
            }
        }
        let neighbour_discovery = matches!(
            skb.packet.transport,
            Transport::Icmp(
                Icmp::NeighbourSolicitation { .. } | Icmp::NeighbourAdvertisement { .. }
            )
        );
        if !neighbour_discovery && self.filter(Hook::Input, &mut skb, cx) != Filtered::Passes {
            return;
        }
        match skb.packet.transport {
            Transport::Icmp(icmp) => self.receive_icmp(&skb, icmp, cx),
            Transport::Udp(_) if skb.packet.payload.has_wrong_checksum() => {
                let by = Some(Decider::new(
                    DeciderKind::Kernel,
                    "the UDP checksum is wrong (UdpInCsumErrors)",
                ));
                self.drop_packet(
                    &skb.packet,
                    skb.in_dev,
                    Stage::Socket,
                    Code::VxlanCsum,
                    by,
                    cx,
                );
            }
            Transport::Udp(udp) if matches!(skb.packet.payload, Payload::Vxlan(_)) => {
                self.decapsulate(skb, udp.dport, cx);
            }
            Transport::Udp(_) | Transport::Tcp(_) | Transport::Sctp(_) => {
                self.deliver_to_socket(skb, cx);
            }
        }
    }

    fn deliver_to_socket<D: Dice, R: Recorder>(&mut self, skb: Skb, cx: &mut Cx<'_, D, R>) {
        let Some(tuple) = FiveTuple::of(&skb.packet) else {
            return;
        };
        let local = (tuple.dst, tuple.dport);
        let place = self.place(skb.in_dev, Stage::Socket);
        match self
            .sockets
            .lookup(tuple.l4, local, (tuple.src, tuple.sport))
        {
            Found::Socket(socket) => {
                cx.step(place, || {
                    Step::about(&skb.packet, Action::Delivered { at: local })
                });
                cx.effects.push(Effect::Deliver {
                    socket,
                    packet: skb.packet,
                });
            }
            Found::BoundElsewhere(addr) => {
                let text = format!("listening on {addr} port {} only", local.1);
                self.nobody_listens(&skb, tuple.l4, Code::PortBoundElsewhere, text, cx);
            }
            Found::Nobody => {
                let text = format!("nobody listens on {} port {}", tuple.l4, local.1);
                self.nobody_listens(&skb, tuple.l4, Code::PortClosed, text, cx);
            }
        }
    }

    /// No socket takes the packet: TCP answers RST, UDP port unreachable. SCTP answers ABORT on a machine that has
    /// loaded its module, else protocol unreachable.
    fn nobody_listens<D: Dice, R: Recorder>(
        &mut self,
        skb: &Skb,
        l4: L4,
        code: Code,
        text: String,
        cx: &mut Cx<'_, D, R>,
    ) {
        let code = match skb.packet.transport {
            Transport::Tcp(tcp) if tcp.flags.contains(crate::wire::TcpFlags::RST) => {
                self.drop_packet(
                    &skb.packet,
                    skb.in_dev,
                    Stage::Socket,
                    Code::NoSocket,
                    None,
                    cx,
                );
                return;
            }
            Transport::Tcp(tcp) if tcp.flags.contains(crate::wire::TcpFlags::SYN_ACK) => {
                Code::UnexpectedReply
            }
            Transport::Tcp(tcp) if tcp.flags.contains(crate::wire::TcpFlags::ACK) => Code::NoSocket,
            Transport::Udp(udp) if self.sockets.uses_local(l4, (skb.packet.dst, udp.dport)) => {
                Code::UnexpectedReply
            }
            Transport::Sctp(sctp) if self.sctp => {
                return self.out_of_the_blue(skb, sctp, code, text, cx);
            }
            Transport::Tcp(_) | Transport::Udp(_) | Transport::Sctp(_) | Transport::Icmp(_) => code,
        };
        let error = match l4 {
            L4::Sctp => IcmpError::ProtoUnreachable,
            L4::Tcp | L4::Udp | L4::Icmp => IcmpError::PortUnreachable,
        };
        let with = match l4 {
            L4::Tcp => "tcp-reset".to_owned(),
            L4::Udp | L4::Sctp | L4::Icmp => error.to_string(),
        };
        cx.step(self.place(skb.in_dev, Stage::Socket), || {
            let by = Decider::new(DeciderKind::Socket, text);
            Step::about(&skb.packet, Action::Rejected { code, with }).by(by)
        });
        match l4 {
            L4::Tcp => self.send_reset(skb, None, cx),
            L4::Udp | L4::Sctp | L4::Icmp => {
                // UDP forgets the connection before it answers (`nf_reset_ct`).
                let mut skb = skb.clone();
                skb.ct = skb.ct.filter(|_| l4 != L4::Udp);
                self.icmp_error(&skb, error, cx);
            }
        }
    }

    /// An SCTP packet of no association (`sctp_sf_ootb`, RFC 9260 §8.4).
    fn out_of_the_blue<D: Dice, R: Recorder>(
        &mut self,
        skb: &Skb,
        sctp: Sctp,
        code: Code,
        text: String,
        cx: &mut Cx<'_, D, R>,
    ) {
        let (code, chunk, with) = match sctp.chunk {
            SctpChunk::Abort | SctpChunk::ShutdownComplete | SctpChunk::CookieAck => {
                let code = Code::NoSocket;
                self.drop_packet(&skb.packet, skb.in_dev, Stage::Socket, code, None, cx);
                return;
            }
            SctpChunk::ShutdownAck => (
                Code::NoSocket,
                SctpChunk::ShutdownComplete,
                "sctp-shutdown-complete",
            ),
            SctpChunk::Init => (code, SctpChunk::Abort, "sctp-abort"),
            SctpChunk::InitAck => (Code::UnexpectedReply, SctpChunk::Abort, "sctp-abort"),
            SctpChunk::CookieEcho
            | SctpChunk::Data
            | SctpChunk::Sack
            | SctpChunk::Heartbeat
            | SctpChunk::HeartbeatAck
            | SctpChunk::Shutdown => (Code::NoSocket, SctpChunk::Abort, "sctp-abort"),
        };
        cx.step(self.place(skb.in_dev, Stage::Socket), || {
            let by = Decider::new(DeciderKind::Socket, text);
            let with = with.to_owned();
            Step::about(&skb.packet, Action::Rejected { code, with }).by(by)
        });
        self.send_chunk(&skb.packet, sctp, chunk, cx);
    }

    /// A VXLAN packet for one of the tunnel devices (`vxlan_rcv`).
    fn decapsulate<D: Dice, R: Recorder>(&mut self, skb: Skb, dport: u16, cx: &mut Cx<'_, D, R>) {
        let Payload::Vxlan(inner) = &skb.packet.payload else {
            return;
        };
        let vni = inner.vni;
        let takes = |device: &&super::super::link::Device| match &device.kind {
            DeviceKind::Vxlan(v) => device.up && v.vni == vni && v.dstport == dport,
            DeviceKind::Loopback
            | DeviceKind::Veth
            | DeviceKind::Physical
            | DeviceKind::Dummy
            | DeviceKind::Bridge(_) => false,
        };
        let device = self.devices.iter().flatten().find(takes);
        let Some(dev) = device.map(|d| d.index) else {
            let text = format!("no VXLAN device with vni {vni} on port {dport}");
            let by = Some(Decider::new(DeciderKind::Device, text));
            let code = Code::TunnelUnknown;
            self.drop_packet(&skb.packet, skb.in_dev, Stage::Tunnel, code, by, cx);
            return;
        };
        let remote = skb.packet.src;
        let Payload::Vxlan(inner) = skb.packet.payload else {
            return;
        };
        cx.step(self.place(Some(dev), Stage::Tunnel), || Step {
            packet: Some(crate::wire::Head::of_frame(&inner.frame)),
            action: Action::Decapsulated { vni },
            by: None,
        });
        if let Some(DeviceKind::Vxlan(vxlan)) = self.device_mut(dev).map(|d| &mut d.kind) {
            vxlan.learn(inner.frame.src, remote);
        }
        self.receive(dev, inner.frame, cx);
    }
}
