//! From a socket or from forwarding to the device.

use std::net::IpAddr;

use super::super::link::DeviceKind;
use super::super::netfilter::chain::{AddrType, Hook};
use super::super::{Cx, Effect, Netns, Skb};
use super::Filtered;
use crate::base::{Dice, Errno, Mac};
use crate::wire::size::{fragment_header, ip_header};
use crate::wire::{
    Action, Body, Code, Decider, DeciderKind, DevIndex, Fragment, Frame, Head, IcmpError, Packet,
    Recorder, Stage, Step, Transport,
};

/// What is noted of a packet that enters a tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inner {
    /// Its mark.
    pub(super) mark: u32,
    /// Whether its checksum is left to the device.
    pub(super) offloaded: bool,
}

impl Netns {
    /// A local process sends a packet. Its source must be set (see [`Netns::source_for`]); a TTL of 0 stands for
    /// the one of a socket that was given none: `net.ipv4.ip_default_ttl`, and 64 over IPv6.
    ///
    /// # Fidelity
    /// `net.ipv6.conf.*.hop_limit` and the hop limit a router advertises are not there.
    ///
    /// # Errors
    /// What the system call returns at once: no route, EMSGSIZE beyond the path MTU, EPERM for a datagram that
    /// the packet filter dropped in OUTPUT. A TCP segment dropped there is lost silently.
    pub fn send<D: Dice, R: Recorder>(
        &mut self,
        packet: impl Into<Box<Packet>>,
        cx: &mut Cx<'_, D, R>,
    ) -> Result<(), Errno> {
        let mut packet: Box<Packet> = packet.into();
        if packet.ttl == 0 {
            packet.ttl = self.sysctls.default_ttl(packet.family());
        }
        let mut skb = Skb::new(packet);
        skb.ignore_df = !matches!(skb.packet.transport, Transport::Tcp(_));
        self.send_skb(skb, cx)
    }

    /// As [`Netns::send`], of a socket that wants its datagrams whole (`IP_PMTUDISC_DO`).
    ///
    /// # Errors
    /// As [`Netns::send`]; EMSGSIZE also where a datagram is translated to somebody behind a smaller MTU.
    pub fn send_whole<D: Dice, R: Recorder>(
        &mut self,
        mut packet: Box<Packet>,
        cx: &mut Cx<'_, D, R>,
    ) -> Result<(), Errno> {
        if packet.ttl == 0 {
            packet.ttl = self.sysctls.default_ttl(packet.family());
        }
        self.send_skb(Skb::new(packet), cx)
    }

    /// Sends a packet that may belong to a connection already.
    pub(super) fn send_skb<D: Dice, R: Recorder>(
        &mut self,
        mut skb: Skb,
        cx: &mut Cx<'_, D, R>,
    ) -> Result<(), Errno> {
        let dst = skb.packet.dst;
        let hop = match self.route_onward(dst) {
            Ok(hop) => hop,
            Err(errno) => {
                let code = route_code(errno);
                let text = self.fib.lookup(dst).map(|route| self.route_text(route));
                let text = text.unwrap_or_else(|| format!("no route to {dst}"));
                let by = Some(Decider::new(DeciderKind::Route, text));
                return Err(self.fail(&skb.packet, code, errno, by, cx));
            }
        };
        let mtu = hop
            .mtu
            .min(self.path_mtu_cached(dst, cx.now).unwrap_or(u32::MAX));
        if skb.packet.df && !skb.ignore_df && skb.packet.len() > mtu {
            let by = Some(Decider::new(DeciderKind::Kernel, format!("path MTU {mtu}")));
            return Err(self.fail(&skb.packet, Code::MtuExceeded, Errno::EMSGSIZE, by, cx));
        }
        cx.step(self.place(None, Stage::Socket), || {
            Step::about(&skb.packet, Action::Sent)
        });
        skb.out_dev = Some(hop.dev);
        skb.next_hop = Some(hop.next_hop);
        self.routed_step(&skb, cx);
        self.send_routed(skb, hop.mtu, cx)
    }

    /// OUTPUT, re-routing if a rule changed what routing looked at, and on.
    fn send_routed<D: Dice, R: Recorder>(
        &mut self,
        mut skb: Skb,
        mtu: u32,
        cx: &mut Cx<'_, D, R>,
    ) -> Result<(), Errno> {
        let (dst, mark) = (skb.packet.dst, skb.mark);
        let tcp = matches!(skb.packet.transport, Transport::Tcp(_));
        match self.filter(Hook::Output, &mut skb, cx) {
            Filtered::Passes => {}
            Filtered::Ended(_) if tcp => return Ok(()),
            Filtered::Ended(code) => {
                return Err(self.fail(&skb.packet, code, Errno::EPERM, None, cx));
            }
        }
        let mut mtu = mtu;
        if skb.packet.dst != dst || skb.mark != mark {
            match self.route_onward(skb.packet.dst) {
                Ok(hop) if self.leaks_loopback(&skb.packet, hop.dev) => {
                    let by = Some(Decider::new(
                        DeciderKind::Kernel,
                        "127.0.0.0/8 leaves by lo only (route_localnet)",
                    ));
                    let code = Code::MartianSource;
                    let errno = self.fail(&skb.packet, code, Errno::EINVAL, by, cx);
                    return if tcp { Ok(()) } else { Err(errno) };
                }
                Ok(hop) => {
                    let moved = skb.out_dev != Some(hop.dev) || skb.next_hop != Some(hop.next_hop);
                    skb.out_dev = Some(hop.dev);
                    skb.next_hop = Some(hop.next_hop);
                    mtu = hop.mtu;
                    if moved {
                        self.routed_step(&skb, cx);
                    }
                }
                Err(errno) => {
                    let by = Some(Decider::new(
                        DeciderKind::Route,
                        "no route after translation",
                    ));
                    let errno = self.fail(&skb.packet, Code::RouteNone, errno, by, cx);
                    return if tcp { Ok(()) } else { Err(errno) };
                }
            }
        }
        // The packet goes on for good; only who looks on needs to see it again.
        let seen = R::ENABLED.then(|| skb.packet.clone());
        match self.postroute(skb, mtu, cx) {
            Filtered::Ended(code) if !tcp => Err(match seen {
                Some(packet) => self.fail(&packet, code, Errno::EPERM, None, cx),
                None => Errno::EPERM,
            }),
            Filtered::Ended(_) | Filtered::Passes => Ok(()),
        }
    }

    /// Whether a packet would leave with a source that only `lo` may carry (`__mkroute_output`).
    fn leaks_loopback(&self, packet: &Packet, dev: DevIndex) -> bool {
        let name = self.device(dev).map_or("", |device| &device.name);
        packet.src.is_loopback()
            && packet.src.is_ipv4()
            && dev != DevIndex::LO
            && self.sysctls.device(name, "route_localnet") == 0
    }

    /// `ip_forward`: time to live, size, FORWARD, and on.
    pub(super) fn forward<D: Dice, R: Recorder>(
        &mut self,
        mut skb: Skb,
        mtu: u32,
        cx: &mut Cx<'_, D, R>,
    ) {
        if skb.packet.ttl <= 1 {
            let (code, kind) = (Code::TtlExceeded, IcmpError::TimeExceeded);
            self.reject_step(&skb, Stage::Forward, code, kind, None, cx);
            self.icmp_error(&skb, kind, cx);
            return;
        }
        if skb.exceeds(mtu) {
            self.too_big(&skb, mtu, Stage::Forward, cx);
            return;
        }
        skb.packet.ttl -= 1;
        if self.filter(Hook::Forward, &mut skb, cx) == Filtered::Passes {
            self.postroute(skb, mtu, cx);
        }
    }

    /// The packet must stay whole and does not fit: the sender is told which size does.
    fn too_big<D: Dice, R: Recorder>(
        &mut self,
        skb: &Skb,
        mtu: u32,
        stage: Stage,
        cx: &mut Cx<'_, D, R>,
    ) {
        let dev = skb.out_dev.and_then(|dev| self.device(dev));
        let text = format!("{} mtu {mtu}", dev.map_or("", |d| &d.name));
        let by = Some(Decider::new(DeciderKind::Device, text));
        let kind = IcmpError::FragmentationNeeded { mtu };
        self.reject_step(skb, stage, Code::MtuExceeded, kind, by, cx);
        self.icmp_error(skb, kind, cx);
    }

    /// `ip_output`: POSTROUTING, cutting into pieces, the next hop's address.
    pub(super) fn postroute<D: Dice, R: Recorder>(
        &mut self,
        mut skb: Skb,
        mtu: u32,
        cx: &mut Cx<'_, D, R>,
    ) -> Filtered {
        let filtered = self.filter(Hook::Postrouting, &mut skb, cx);
        if filtered != Filtered::Passes {
            return filtered;
        }
        if skb.exceeds(mtu) {
            self.too_big(&skb, mtu, Stage::Transmit, cx);
            return Filtered::Passes;
        }
        // What came in pieces leaves in pieces no larger.
        let mtu = mtu.min(skb.largest_piece.unwrap_or(u32::MAX));
        if skb.packet.len() <= mtu {
            self.neighbour_output(skb, cx);
        } else {
            self.fragment(skb, mtu, cx);
        }
        Filtered::Passes
    }

    /// `ip_fragment`, and every piece goes its way.
    fn fragment<D: Dice, R: Recorder>(&mut self, skb: Skb, mtu: u32, cx: &mut Cx<'_, D, R>) {
        for packet in self.pieces(&skb.packet, mtu, skb.out_dev, cx) {
            let mut piece = skb.clone();
            *piece.packet = packet;
            self.neighbour_output(piece, cx);
        }
    }

    /// Cuts a packet: all pieces but the last are a multiple of eight bytes long.
    pub(super) fn pieces<D: Dice, R: Recorder>(
        &self,
        packet: &Packet,
        mtu: u32,
        out: Option<DevIndex>,
        cx: &mut Cx<'_, D, R>,
    ) -> Vec<Packet> {
        let family = packet.family();
        let (start, total, ident, more) = match packet.fragment {
            Some(f) => (f.offset, f.len, f.ident, f.more),
            None => (0, packet.len() - ip_header(family), ident_of(packet), false),
        };
        let headers = ip_header(family) + fragment_header(family);
        let room = (mtu.saturating_sub(headers) / 8 * 8).max(8);
        cx.step(self.place(out, Stage::Transmit), || {
            Step::about(
                packet,
                Action::Fragmented {
                    pieces: total.div_ceil(room),
                    mtu,
                },
            )
        });
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < total {
            let len = room.min(total - done);
            pieces.push(Packet {
                df: false,
                fragment: Some(Fragment {
                    ident,
                    offset: start + done,
                    len,
                    more: more || done + len < total,
                }),
                ..packet.clone()
            });
            done += len;
        }
        pieces
    }

    /// The next hop's hardware address, and out.
    pub(super) fn neighbour_output<D: Dice, R: Recorder>(
        &mut self,
        skb: Skb,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(dev) = skb.out_dev else { return };
        let Some(device) = self.device(dev) else {
            return;
        };
        if matches!(device.kind, DeviceKind::Loopback) {
            self.loop_back(skb, cx);
            return;
        }
        let next_hop = skb.next_hop.unwrap_or(skb.packet.dst);
        let source = device.mac;
        let known = self.neighbours.believed(dev, next_hop, cx.now);
        match known.or_else(|| self.group_mac(dev, next_hop)) {
            Some(mac) => self.frame_out(skb, dev, source, mac, cx),
            None => {
                if let Some((skb, mac)) = self.resolve(dev, next_hop, skb, cx) {
                    self.frame_out(skb, dev, source, mac, cx);
                }
            }
        }
    }

    fn frame_out<D: Dice, R: Recorder>(
        &mut self,
        skb: Skb,
        dev: DevIndex,
        src: Mac,
        dst: Mac,
        cx: &mut Cx<'_, D, R>,
    ) {
        let inner = self.inner_of(dev, &skb);
        let frame = Frame {
            src,
            dst,
            body: Body::Ip(skb.packet),
        };
        self.transmit_packet(dev, frame, inner, cx);
    }

    /// What a tunnel device sees of a packet besides its bytes; nothing for other devices.
    ///
    /// # Fidelity
    /// Whether a checksum is left to the device is not kept with each packet: what sockets of this namespace and veths hand over
    /// is, what comes from a cable or out of a tunnel is not. That of an echo never is.
    pub(super) fn inner_of(&self, dev: DevIndex, skb: &Skb) -> Inner {
        if !matches!(
            self.device(dev).map(|device| &device.kind),
            Some(DeviceKind::Vxlan(_))
        ) {
            return Inner::default();
        }
        let came = skb.in_dev.and_then(|dev| self.device(dev));
        let checked = matches!(
            came.map(|device| &device.kind),
            Some(DeviceKind::Physical | DeviceKind::Vxlan(_))
        );
        let echo = matches!(skb.packet.transport, Transport::Icmp(_));
        Inner {
            mark: skb.mark,
            offloaded: !checked && !echo,
        }
    }

    /// The hardware address of a broadcast or multicast destination, which needs no resolution.
    fn group_mac(&self, dev: DevIndex, next_hop: IpAddr) -> Option<Mac> {
        match next_hop {
            IpAddr::V4(a) if self.is_broadcast_of(dev, a) => Some(Mac::BROADCAST),
            IpAddr::V4(a) if a.is_multicast() => {
                let [_, b, c, d] = a.octets();
                Some(Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
            }
            IpAddr::V6(a) if a.is_multicast() => Some(Mac::ipv6_multicast(a)),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// A packet to one of the own addresses comes in again from `lo`, still attached to its connection and with its
    /// mark.
    fn loop_back<D: Dice, R: Recorder>(&mut self, skb: Skb, cx: &mut Cx<'_, D, R>) {
        let again = Skb {
            in_dev: Some(DevIndex::LO),
            out_dev: None,
            phys_in: None,
            phys_out: None,
            next_hop: None,
            ..skb
        };
        self.receive_ip(again, cx);
    }

    /// A frame leaves by a device.
    pub(super) fn transmit<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        frame: Frame,
        cx: &mut Cx<'_, D, R>,
    ) {
        self.transmit_packet(dev, frame, Inner::default(), cx);
    }

    /// A frame leaves by a device; a tunnel keeps the mark of the packet in it for the one around it (`iptunnel_xmit` forgets it
    /// between namespaces only).
    pub(super) fn transmit_packet<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        frame: Frame,
        inner: Inner,
        cx: &mut Cx<'_, D, R>,
    ) {
        let Some(device) = self.device_mut(dev) else {
            return;
        };
        if !device.up {
            device.stats.tx_dropped += 1;
            self.drop_frame(&frame, dev, Stage::Transmit, Code::DeviceDown, cx);
            return;
        }
        device.stats.tx_packets += 1;
        match device.kind {
            DeviceKind::Veth | DeviceKind::Physical => {
                cx.step(self.place(Some(dev), Stage::Transmit), || Step {
                    packet: Some(Head::of_frame(&frame)),
                    action: Action::Transmitted { bytes: frame.len() },
                    by: None,
                });
                cx.effects.push(Effect::Transmit { dev, frame });
            }
            DeviceKind::Bridge(_) => self.bridge_transmit(dev, frame, cx),
            DeviceKind::Vxlan(_) => self.encapsulate(dev, frame, inner, cx),
            DeviceKind::Dummy => {
                let code = Code::DeviceDown;
                self.drop_frame(&frame, dev, Stage::Transmit, code, cx);
            }
            DeviceKind::Loopback => self.receive(dev, frame, cx),
        }
    }

    /// Whether an ICMP error may be sent about a packet to this destination.
    pub(super) fn answerable(&self, packet: &Packet) -> bool {
        !matches!(
            self.addr_type(packet.dst),
            AddrType::Multicast | AddrType::Broadcast
        ) && !matches!(
            self.addr_type(packet.src),
            AddrType::Multicast | AddrType::Broadcast
        ) && packet.fragment.is_none_or(|f| f.offset == 0)
    }

    /// Returns the largest packet that reaches `dst` in one piece, as far as this namespace knows.
    pub fn path_mtu(&self, dst: IpAddr, now: crate::base::Time) -> u32 {
        let device = self.route(dst).map_or(65535, |hop| hop.mtu);
        device.min(self.path_mtu_cached(dst, now).unwrap_or(u32::MAX))
    }
}

/// Returns what a failed routing decision is called.
pub(super) const fn route_code(errno: Errno) -> Code {
    match errno {
        Errno::EINVAL => Code::RouteBlackhole,
        Errno::EHOSTUNREACH => Code::RouteUnreachable,
        Errno::EACCES => Code::RouteProhibit,
        Errno::EPERM
        | Errno::EAGAIN
        | Errno::ENOPROTOOPT
        | Errno::EOPNOTSUPP
        | Errno::EADDRINUSE
        | Errno::EADDRNOTAVAIL
        | Errno::ENETUNREACH
        | Errno::ECONNRESET
        | Errno::ETIMEDOUT
        | Errno::ECONNREFUSED
        | Errno::EHOSTDOWN
        | Errno::EMSGSIZE
        | Errno::ENONET
        | Errno::ENOBUFS
        | Errno::EPIPE => Code::RouteNone,
    }
}

/// The identification that all pieces of a packet share. Its sender gives it, and whoever puts the packet together on the way and
/// cuts it again keeps it.
///
/// # Fidelity
/// Linux counts to 65,535 for each pair of addresses, so that pieces of two packets can be taken for one; not here.
fn ident_of(packet: &Packet) -> u32 {
    u32::try_from(packet.id.0 & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}
