//! Between the ports of a bridge, and into a VXLAN tunnel.
//!
//! With `bridge-nf-call-iptables=1` bridged IP packets cross PREROUTING, FORWARD and POSTROUTING with the bridge as
//! both devices; a packet whose destination was translated to a neighbour on the same bridge is re-addressed and
//! switched, not routed. Leaves out: VLANs, STP, multicast snooping; group frames are flooded without crossing the
//! rules.

use std::time::Duration;

use super::super::bridge::FdbEntry;
use super::super::link::DeviceKind;
use super::super::netfilter::chain::Hook;
use super::super::{Cx, Netns, Skb, tunnel};
use super::Filtered;
use super::output::Inner;
use crate::base::{Dice, Mac};
use crate::wire::{
    Action, Body, Code, Decider, DeciderKind, DevIndex, Frame, Head, PacketId, Payload, Recorder,
    Stage, Step, Transport, Udp, Vxlan,
};

/// How long a learned address is believed (`ageing_time`).
const AGEING: Duration = Duration::from_secs(300);

impl Netns {
    /// A frame comes in by a port (`br_handle_frame`).
    pub(super) fn bridge_receive<D: Dice, R: Recorder>(
        &mut self,
        bridge: DevIndex,
        port: DevIndex,
        mut frame: Frame,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(device) = self.device(bridge) else {
            return;
        };
        if !device.up {
            self.drop_frame(&frame, bridge, Stage::Bridge, Code::DeviceDown, cx);
            return;
        }
        if self.netfilter.is_some() && !self.nft_admits(port, &frame, cx) {
            return;
        }
        let Some(device) = self.device_mut(bridge) else {
            return;
        };
        let bridge_mac = device.mac;
        if let DeviceKind::Bridge(state) = &mut device.kind {
            let learned = FdbEntry {
                port,
                permanent: false,
                seen: cx.now,
            };
            let entry = state.fdb.entry(frame.src).or_insert(learned);
            if !entry.permanent {
                *entry = learned;
            }
        }
        let filtered = match &frame.body {
            Body::Ip(packet) => {
                self.netfilter.is_some()
                    && !frame.dst.is_multicast()
                    && self.sysctls.bridge_nf_call(packet.family())
            }
            Body::Arp(_) => false,
        };
        let mut crossed = None;
        if filtered {
            match self.bridge_prerouting(bridge, port, frame, bridge_mac, cx) {
                Some((again, skb)) => {
                    frame = again;
                    crossed = skb;
                }
                None => return,
            }
        }
        if frame.dst == bridge_mac {
            match crossed {
                Some(skb) => self.route_input(skb, cx),
                None => self.receive_body(bridge, Some(port), frame.body, cx),
            }
        } else if frame.dst.is_multicast() {
            self.flood(bridge, Some(port), &frame, cx);
            self.receive_body(bridge, Some(port), frame.body, cx);
        } else {
            self.switch(bridge, port, frame, crossed, cx);
        }
    }

    /// `br_nf_pre_routing`: PREROUTING for a bridged packet. Returns the frame to go on with, and the packet's
    /// notes; nothing if it ended or went another way.
    fn bridge_prerouting<D: Dice, R: Recorder>(
        &mut self,
        bridge: DevIndex,
        port: DevIndex,
        frame: Frame,
        bridge_mac: Mac,
        cx: &mut Cx<'_, D, R>,
    ) -> Option<(Frame, Option<Skb>)> {
        let Frame { src, dst, body } = frame;
        let packet = match body {
            Body::Ip(packet) => packet,
            Body::Arp(_) => return Some((Frame { src, dst, body }, None)),
        };
        let before = packet.dst;
        let mut skb = Skb::new(packet);
        skb.in_dev = Some(bridge);
        skb.phys_in = Some(port);
        if skb.packet.fragment.is_some() && self.conntrack.is_some() {
            let (whole, largest) = self.reassemble(&skb.packet, cx)?;
            *skb.packet = whole;
            skb.largest_piece = Some(largest);
        }
        if self.filter(Hook::Prerouting, &mut skb, cx) != Filtered::Passes {
            return None;
        }
        if skb.packet.dst != before && !self.is_local(skb.packet.dst) {
            // Without forwarding the look-up ends in an error, and the packet goes up to meet it (`ip_route_input_slow`).
            let name = self.device(bridge).map_or("", |device| &device.name);
            let forwards = self.sysctls.forwards(skb.packet.family(), name);
            let hop = self.route_onward(skb.packet.dst).ok();
            if let Some(hop) = hop.filter(|hop| hop.dev == bridge && forwards) {
                return self.bridged_dnat(bridge, src, hop.next_hop, skb, cx);
            }
        }
        let dst = if skb.packet.dst == before {
            dst
        } else {
            bridge_mac
        };
        let body = Body::Ip(skb.packet.clone());
        Some((Frame { src, dst, body }, Some(skb)))
    }

    /// "Bridged DNAT": the new destination is on the same bridge, so the frame gets its hardware address and is
    /// switched; source address and time to live stay.
    fn bridged_dnat<D: Dice, R: Recorder>(
        &mut self,
        bridge: DevIndex,
        src: Mac,
        next_hop: std::net::IpAddr,
        mut skb: Skb,
        cx: &mut Cx<'_, D, R>,
    ) -> Option<(Frame, Option<Skb>)> {
        if let Some(mac) = self.neighbours.mac(bridge, next_hop) {
            let body = Body::Ip(skb.packet.clone());
            return Some((
                Frame {
                    src,
                    dst: mac,
                    body,
                },
                Some(skb),
            ));
        }
        skb.out_dev = Some(bridge);
        skb.next_hop = Some(next_hop);
        let passes = self.filter(Hook::Forward, &mut skb, cx) == Filtered::Passes
            && self.filter(Hook::Postrouting, &mut skb, cx) == Filtered::Passes;
        if passes {
            self.neighbour_output(skb, cx);
        }
        None
    }

    /// A frame for another port.
    fn switch<D: Dice, R: Recorder>(
        &mut self,
        bridge: DevIndex,
        from: DevIndex,
        frame: Frame,
        crossed: Option<Skb>,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(to) = self.fdb_lookup(bridge, frame.dst, cx) else {
            self.flood(bridge, Some(from), &frame, cx);
            return;
        };
        if let Err((code, text)) = self.may_switch(bridge, from, to) {
            cx.step(self.place(Some(from), Stage::Bridge), || Step {
                packet: Some(Head::of_frame(&frame)),
                action: Action::Dropped { code },
                by: Some(Decider::new(DeciderKind::Device, text)),
            });
            return;
        }
        let Some(mut skb) = crossed else {
            self.out_of_port(bridge, to, frame, cx);
            return;
        };
        skb.out_dev = Some(bridge);
        skb.phys_out = Some(to);
        if self.filter(Hook::Forward, &mut skb, cx) == Filtered::Passes
            && self.filter(Hook::Postrouting, &mut skb, cx) == Filtered::Passes
        {
            self.out_of_port_in_pieces(bridge, to, (frame.src, frame.dst), skb, cx);
        }
    }

    fn fdb_lookup<D: Dice, R: Recorder>(
        &self,
        bridge: DevIndex,
        mac: Mac,
        cx: &Cx<'_, D, R>,
    ) -> Option<DevIndex> {
        match &self.device(bridge)?.kind {
            DeviceKind::Bridge(state) => state
                .fdb
                .get(&mac)
                .filter(|entry| entry.permanent || cx.now.since(entry.seen) <= AGEING)
                .map(|entry| entry.port),
            DeviceKind::Loopback
            | DeviceKind::Veth
            | DeviceKind::Physical
            | DeviceKind::Dummy
            | DeviceKind::Vxlan(_) => None,
        }
    }

    /// `should_deliver`: hairpin, isolation, and cuts made by a fault.
    fn may_switch(
        &self,
        bridge: DevIndex,
        from: DevIndex,
        to: DevIndex,
    ) -> Result<(), (Code, String)> {
        let (Some(inn), Some(out)) = (self.device(from), self.device(to)) else {
            return Err((Code::DeviceDown, "the port is gone".to_owned()));
        };
        if let Some(device) = self.device(bridge)
            && let DeviceKind::Bridge(state) = &device.kind
            && state.cut.contains(&(from, to))
        {
            return Err((
                Code::LinkDown,
                format!("cut between {} and {}", inn.name, out.name),
            ));
        }
        if from == to && !inn.port.hairpin {
            return Err((
                Code::BridgeNoHairpin,
                format!("hairpin off on {}", inn.name),
            ));
        }
        if inn.port.isolated && out.port.isolated {
            return Err((Code::AclDenied, "both ports are isolated".to_owned()));
        }
        Ok(())
    }

    /// `br_nf_dev_queue_xmit`: a packet that crossed the rules is cut where it is too long for its port and may be cut.
    fn out_of_port_in_pieces<D: Dice, R: Recorder>(
        &mut self,
        bridge: DevIndex,
        port: DevIndex,
        (src, dst): (Mac, Mac),
        skb: Skb,
        cx: &mut Cx<'_, D, R>,
    ) {
        let mtu = self.device(port).map_or(u32::MAX, |d| d.mtu);
        let largest = mtu.min(skb.largest_piece.unwrap_or(u32::MAX));
        // `br_nf_ip_fragment`; what is not cut is dropped as too long.
        let never = skb.exceeds(mtu) || skb.largest_piece.is_some_and(|piece| piece > mtu);
        let pieces = if skb.packet.len() <= largest {
            vec![*skb.packet]
        } else if never {
            let frame = Frame {
                src,
                dst,
                body: Body::Ip(skb.packet),
            };
            self.drop_frame(&frame, port, Stage::Bridge, Code::MtuExceeded, cx);
            return;
        } else {
            self.pieces(&skb.packet, largest, Some(port), cx)
        };
        for packet in pieces {
            let body = Body::Ip(Box::new(packet));
            self.out_of_port(bridge, port, Frame { src, dst, body }, cx);
        }
    }

    fn out_of_port<D: Dice, R: Recorder>(
        &mut self,
        bridge: DevIndex,
        port: DevIndex,
        frame: Frame,
        cx: &mut Cx<'_, D, R>,
    ) {
        cx.step(self.place(Some(bridge), Stage::Bridge), || {
            let name = self
                .device(port)
                .map_or_else(String::new, |d| d.name.to_string());
            Step {
                packet: Some(Head::of_frame(&frame)),
                action: Action::Switched { port: name },
                by: None,
            }
        });
        if self.fits(port, &frame) {
            self.transmit(port, frame, cx);
        } else {
            self.drop_frame(&frame, port, Stage::Bridge, Code::MtuExceeded, cx);
        }
    }

    /// A bridge does not tell anybody that a packet is too long (`is_skb_forwardable`).
    fn fits(&self, port: DevIndex, frame: &Frame) -> bool {
        let mtu = self.device(port).map_or(u32::MAX, |d| d.mtu);
        match &frame.body {
            // There is room for a VLAN tag that nobody has.
            Body::Ip(packet) => packet.len() <= mtu.saturating_add(4),
            Body::Arp(_) => true,
        }
    }

    /// A frame of the host itself leaves by the bridge (`br_dev_xmit`).
    pub(super) fn bridge_transmit<D: Dice, R: Recorder>(
        &mut self,
        bridge: DevIndex,
        frame: Frame,
        cx: &mut Cx<'_, D, R>,
    ) {
        match self.fdb_lookup(bridge, frame.dst, cx) {
            Some(port) if !frame.dst.is_multicast() => self.out_of_port(bridge, port, frame, cx),
            Some(_) | None => self.flood(bridge, None, &frame, cx),
        }
    }

    /// A copy out of every port but the one it came in by.
    fn flood<D: Dice, R: Recorder>(
        &mut self,
        bridge: DevIndex,
        from: Option<DevIndex>,
        frame: &Frame,
        cx: &mut Cx<'_, D, R>,
    ) {
        let ports = match self.device(bridge).map(|d| &d.kind) {
            Some(DeviceKind::Bridge(state)) => state.ports.clone(),
            Some(
                DeviceKind::Loopback
                | DeviceKind::Veth
                | DeviceKind::Physical
                | DeviceKind::Dummy
                | DeviceKind::Vxlan(_),
            )
            | None => return,
        };
        let allowed = |to: &DevIndex| match from {
            Some(from) => from != *to && self.may_switch(bridge, from, *to).is_ok(),
            None => true,
        };
        let cuts = match from {
            Some(from) if R::ENABLED => self.cuts(bridge, from, &ports),
            Some(_) | None => Vec::new(),
        };
        let ports: Vec<DevIndex> = ports.into_iter().filter(allowed).collect();
        cx.step(self.place(Some(bridge), Stage::Bridge), || Step {
            packet: Some(Head::of_frame(frame)),
            action: Action::Flooded {
                ports: u32::try_from(ports.len() + cuts.len()).unwrap_or(u32::MAX),
            },
            by: None,
        });
        for text in cuts {
            cx.step(self.place(from, Stage::Bridge), || Step {
                packet: Some(Head::of_frame(frame)),
                action: Action::Dropped {
                    code: Code::LinkDown,
                },
                by: Some(Decider::new(DeciderKind::Device, text)),
            });
        }
        for port in ports {
            self.transmit(port, frame.clone(), cx);
        }
    }

    /// Returns why copies of a flooded frame that a fault keeps back do not leave.
    fn cuts(&self, bridge: DevIndex, from: DevIndex, ports: &[DevIndex]) -> Vec<String> {
        let others = ports.iter().filter(|to| **to != from);
        let cut = |to: &DevIndex| match self.may_switch(bridge, from, *to) {
            Err((Code::LinkDown, text)) => Some(text),
            Ok(()) | Err(_) => None,
        };
        others.filter_map(cut).collect()
    }

    /// A frame leaves by a VXLAN device: the outer packet is a local packet of its own (`vxlan_xmit`).
    pub(super) fn encapsulate<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        frame: Frame,
        inner: Inner,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(DeviceKind::Vxlan(vxlan)) = self.device(dev).map(|d| &d.kind) else {
            return;
        };
        let known = |mac: Mac| {
            let entries = vxlan.fdb.iter().filter(move |(m, _)| *m == mac);
            entries.map(|(_, dst)| *dst)
        };
        // What has no entry goes wherever the entries for 00:00:00:00:00:00 say.
        let remote = known(frame.dst).next();
        let others: Vec<_> = match remote {
            Some(_) => Vec::new(),
            None => known(Mac::ZERO).skip(1).collect(),
        };
        let remote = remote.or_else(|| known(Mac::ZERO).next());
        let ends = (vxlan.vni, vxlan.local, vxlan.dstport);
        let Some(remote) = remote else {
            if let Some(device) = self.device_mut(dev) {
                device.stats.tx_dropped += 1;
            }
            self.drop_frame(&frame, dev, Stage::Tunnel, Code::FdbMiss, cx);
            return;
        };
        for other in others {
            self.encapsulate_to(dev, ends, other, (frame.clone(), inner), cx);
        }
        self.encapsulate_to(dev, ends, remote, (frame, inner), cx);
    }

    fn encapsulate_to<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        (vni, local, dstport): (u32, std::net::IpAddr, u16),
        remote: std::net::IpAddr,
        (frame, inner): (Frame, Inner),
        cx: &mut Cx<'_, D, R>,
    ) {
        let (id, flow) = match &frame.body {
            Body::Ip(packet) => (packet.id, packet.flow),
            Body::Arp(arp) => (arp.id, crate::wire::FlowKey::default()),
        };
        cx.step(self.place(Some(dev), Stage::Tunnel), || {
            let name = self.device(dev).map_or("", |d| &d.name);
            let entry = format!("{} dev {name} dst {remote} self permanent", frame.dst);
            Step {
                packet: Some(Head::of_frame(&frame)),
                action: Action::Encapsulated {
                    vni,
                    src: local,
                    dst: remote,
                },
                by: Some(Decider::new(DeciderKind::Fdb, entry)),
            }
        });
        let sport = tunnel::source_port(&frame);
        let vxlan = Vxlan {
            vni,
            offloaded: inner.offloaded,
            wrong_checksum: false,
            frame,
        };
        let outer = self.outer_packet(id, flow, local, remote, sport, dstport, vxlan);
        let mut skb = Skb::new(outer);
        skb.mark = inner.mark;
        skb.ignore_df = true;
        // A tunnel has nobody to tell; the failure is in the trace.
        let _ = self.send_skb(skb, cx);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn outer_packet(
        &self,
        id: PacketId,
        flow: crate::wire::FlowKey,
        src: std::net::IpAddr,
        dst: std::net::IpAddr,
        sport: u16,
        dport: u16,
        vxlan: Vxlan,
    ) -> crate::wire::Packet {
        crate::wire::Packet {
            id,
            flow,
            src,
            dst,
            ttl: self.sysctls.default_ttl(crate::base::Family::of(src)),
            tos: 0,
            df: src.is_ipv6(),
            fragment: None,
            transport: Transport::Udp(Udp { sport, dport }),
            payload: Payload::Vxlan(Box::new(vxlan)),
        }
    }
}
