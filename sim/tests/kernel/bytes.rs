//! Packets as bytes on a wire, and back: IPv4 and IPv6 with TCP, UDP, SCTP and ICMP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podwire_models::base::{Family, Mac};
use podwire_models::wire::{
    Body, Data, FlowKey, Fragment, Frame, Icmp, IcmpError, Message, Packet, PacketId, Payload,
    Quoted, QuotedTransport, Sctp, SctpChunk, Tcp, TcpFlags, Transport, Udp,
};

/// The verification tag of every association: INIT announces it, all other chunks carry it.
const VERIFICATION_TAG: u32 = 0x1111_1111;

const CHUNKS: [(SctpChunk, u8); 12] = [
    (SctpChunk::Data, 0),
    (SctpChunk::Init, 1),
    (SctpChunk::InitAck, 2),
    (SctpChunk::Sack, 3),
    (SctpChunk::Heartbeat, 4),
    (SctpChunk::HeartbeatAck, 5),
    (SctpChunk::Abort, 6),
    (SctpChunk::Shutdown, 7),
    (SctpChunk::ShutdownAck, 8),
    (SctpChunk::CookieEcho, 10),
    (SctpChunk::CookieAck, 11),
    (SctpChunk::ShutdownComplete, 14),
];

const ERRORS: [IcmpError; 11] = [
    IcmpError::NetUnreachable,
    IcmpError::HostUnreachable,
    IcmpError::ProtoUnreachable,
    IcmpError::PortUnreachable,
    IcmpError::NetProhibited,
    IcmpError::HostProhibited,
    IcmpError::AdminProhibited,
    IcmpError::PolicyFail,
    IcmpError::RejectRoute,
    IcmpError::TimeExceeded,
    IcmpError::FragmentationNeeded { mtu: 0 },
];

/// Returns a frame's bytes.
pub(crate) fn encode(frame: &Frame) -> Vec<u8> {
    let Body::Ip(packet) = &frame.body else {
        return Vec::new();
    };
    let mut bytes = Vec::new();
    bytes.extend(frame.dst.0);
    bytes.extend(frame.src.0);
    bytes.extend(match packet.family() {
        Family::V4 => [0x08, 0x00],
        Family::V6 => [0x86, 0xdd],
    });
    bytes.extend(encode_packet(packet));
    bytes
}

/// Returns a packet's bytes, from the IP header on.
pub(crate) fn encode_packet(packet: &Packet) -> Vec<u8> {
    let mut body = transport(packet);
    let fragment = packet.fragment;
    if let Some(fragment) = fragment {
        let start = (fragment.offset as usize).min(body.len());
        let end = (start + fragment.len as usize).min(body.len());
        body = body[start..end].to_vec();
    }
    let mut bytes = Vec::new();
    let protocol = protocol(packet);
    match (packet.src, packet.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = 20 + body.len() as u16;
            bytes.extend([0x45, packet.tos]);
            bytes.extend(total.to_be_bytes());
            let id = fragment.map_or(packet.id.0 as u16, |f| f.ident as u16);
            bytes.extend(id.to_be_bytes());
            let mut offset = fragment.map_or(0, |f| (f.offset / 8) as u16);
            if fragment.is_some_and(|f| f.more) {
                offset |= 0x2000;
            }
            if packet.df {
                offset |= 0x4000;
            }
            bytes.extend(offset.to_be_bytes());
            bytes.extend([packet.ttl, protocol, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            let sum = checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let class = 0x6000_0000 | u32::from(packet.tos) << 20;
            bytes.extend(class.to_be_bytes());
            bytes.extend((body.len() as u16).to_be_bytes());
            bytes.extend([protocol, packet.ttl]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        _ => {}
    }
    bytes.extend(body);
    bytes
}

fn protocol(packet: &Packet) -> u8 {
    match (&packet.transport, packet.family()) {
        (Transport::Tcp(_), _) => 6,
        (Transport::Udp(_), _) => 17,
        (Transport::Sctp(_), _) => 132,
        (Transport::Icmp(_), Family::V4) => 1,
        (Transport::Icmp(_), Family::V6) => 58,
    }
}

/// Returns the whole transport segment, checksum included.
fn transport(packet: &Packet) -> Vec<u8> {
    let data = packet.payload.len() as usize;
    let mut bytes = Vec::new();
    let mut sum_at = None;
    match packet.transport {
        Transport::Tcp(tcp) => {
            let options: Vec<u8> = match tcp.mss {
                Some(mss) => {
                    let mut options = vec![2, 4];
                    options.extend(mss.to_be_bytes());
                    options.resize(20, 1);
                    options
                }
                None => vec![1; 12],
            };
            bytes.extend(tcp.sport.to_be_bytes());
            bytes.extend(tcp.dport.to_be_bytes());
            bytes.extend(tcp.seq.to_be_bytes());
            bytes.extend(tcp.ack.to_be_bytes());
            bytes.extend([((20 + options.len()) as u8 / 4) << 4, tcp.flags.0]);
            bytes.extend((tcp.window as u16).to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(options);
            sum_at = Some(16);
        }
        Transport::Udp(udp) => {
            bytes.extend(udp.sport.to_be_bytes());
            bytes.extend(udp.dport.to_be_bytes());
            bytes.extend((8 + data as u16).to_be_bytes());
            bytes.extend([0; 2]);
            sum_at = Some(6);
        }
        Transport::Sctp(sctp) => {
            bytes.extend(sctp.sport.to_be_bytes());
            bytes.extend(sctp.dport.to_be_bytes());
            let tag = if sctp.chunk == SctpChunk::Init {
                0
            } else {
                VERIFICATION_TAG
            };
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0; 4]);
            let kind = CHUNKS.iter().find(|(c, _)| *c == sctp.chunk).unwrap().1;
            bytes.extend([kind, 0, 0, 20]);
            bytes.extend(VERIFICATION_TAG.to_be_bytes());
            bytes.extend([0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]);
        }
        Transport::Icmp(icmp) => {
            let v6 = packet.family() == Family::V6;
            match icmp {
                Icmp::EchoRequest { id, seq } | Icmp::EchoReply { id, seq } => {
                    let request = matches!(icmp, Icmp::EchoRequest { .. });
                    let kind = match (v6, request) {
                        (false, true) => 8,
                        (false, false) => 0,
                        (true, true) => 128,
                        (true, false) => 129,
                    };
                    bytes.extend([kind, 0, 0, 0]);
                    bytes.extend(id.to_be_bytes());
                    bytes.extend(seq.to_be_bytes());
                }
                Icmp::Error { kind, about } => {
                    let (number, code) = kind.type_and_code(packet.family());
                    bytes.extend([number, code, 0, 0]);
                    let mtu = match kind {
                        IcmpError::FragmentationNeeded { mtu } => mtu,
                        _ => 0,
                    };
                    bytes.extend(mtu.to_be_bytes());
                    bytes.extend(quoted(about));
                }
                Icmp::NeighbourSolicitation { .. } | Icmp::NeighbourAdvertisement { .. } => {}
            }
            sum_at = Some(2);
        }
    }
    bytes.resize(bytes.len() + data, 0);
    if bytes.is_empty() {
        return bytes; // neighbour discovery has no spelling here
    }
    if let Some(at) = sum_at {
        let pseudo = pseudo_header(packet, bytes.len());
        let sum = match checksum(&[pseudo, bytes.clone()].concat()) {
            0 => 0xffff,
            sum => sum,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    } else {
        let crc = crc32c(&bytes);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

fn quoted(about: Quoted) -> Vec<u8> {
    let transport = match about.transport {
        QuotedTransport::Tcp { sport, dport, seq } => Transport::Tcp(Tcp {
            sport,
            dport,
            seq,
            flags: TcpFlags::ACK,
            ..Tcp::default()
        }),
        QuotedTransport::Udp { sport, dport } => Transport::Udp(Udp { sport, dport }),
        QuotedTransport::Sctp { sport, dport } => Transport::Sctp(Sctp {
            sport,
            dport,
            chunk: SctpChunk::Data,
        }),
        QuotedTransport::Echo { request: true, id } => {
            Transport::Icmp(Icmp::EchoRequest { id, seq: 1 })
        }
        QuotedTransport::Echo { request: false, id } => {
            Transport::Icmp(Icmp::EchoReply { id, seq: 1 })
        }
        QuotedTransport::OtherIcmp => Transport::Icmp(Icmp::EchoReply { id: 0, seq: 0 }),
    };
    encode_packet(&Packet {
        id: about.id,
        flow: FlowKey(0),
        src: about.src,
        dst: about.dst,
        ttl: 60,
        tos: 0,
        df: true,
        fragment: None,
        transport,
        payload: Payload::Empty,
    })
}

fn pseudo_header(packet: &Packet, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (packet.src, packet.dst) {
        (IpAddr::V4(_), _) if matches!(packet.transport, Transport::Icmp(_)) => {}
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend([0, protocol(packet)]);
            bytes.extend((len as u16).to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend((len as u32).to_be_bytes());
            bytes.extend([0, 0, 0, protocol(packet)]);
        }
        _ => {}
    }
    bytes
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// The checksum of SCTP (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// Reads a frame; `None` if it carries neither IPv4 nor IPv6, or something that has no spelling here.
pub(crate) fn decode(bytes: &[u8]) -> Option<Frame> {
    let mac = |at: usize| Some(Mac(bytes.get(at..at + 6)?.try_into().ok()?));
    let body = match bytes.get(12..14)? {
        [0x08, 0x00] | [0x86, 0xdd] => Body::Ip(Box::new(decode_packet(bytes.get(14..)?)?)),
        _ => return None,
    };
    Some(Frame {
        dst: mac(0)?,
        src: mac(6)?,
        body,
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a packet from its IP header on.
pub(crate) fn decode_packet(bytes: &[u8]) -> Option<Packet> {
    let v6 = bytes.first()? >> 4 == 6;
    let mut packet = Packet {
        id: PacketId(0),
        flow: FlowKey(0),
        src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ttl: 0,
        tos: 0,
        df: true,
        fragment: None,
        transport: Transport::Udp(Udp::default()),
        payload: Payload::Empty,
    };
    let (protocol, body) = if v6 {
        let addr = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        };
        packet.src = addr(8)?;
        packet.dst = addr(24)?;
        packet.tos = (be16(bytes, 0)? >> 4) as u8;
        packet.ttl = *bytes.get(7)?;
        let end = (40 + usize::from(be16(bytes, 4)?)).min(bytes.len());
        let (next, body) = (*bytes.get(6)?, bytes.get(40..end)?);
        if next == 44 {
            let place = be16(body, 2)?;
            let (next, body) = (*body.first()?, body.get(8..)?);
            packet.fragment = Some(Fragment {
                ident: be32(bytes, 44)?,
                offset: u32::from(place & 0xfff8),
                len: body.len() as u32,
                more: place & 1 != 0,
            });
            (next, body)
        } else {
            (next, body)
        }
    } else {
        let addr = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        };
        packet.src = addr(12)?;
        packet.dst = addr(16)?;
        packet.tos = *bytes.get(1)?;
        packet.ttl = *bytes.get(8)?;
        let header = usize::from(*bytes.first()? & 15) * 4;
        let end = usize::from(be16(bytes, 2)?).min(bytes.len());
        let offset = be16(bytes, 6)?;
        packet.df = offset & 0x4000 != 0;
        let body = bytes.get(header..end)?;
        if offset & 0x3fff != 0 {
            packet.fragment = Some(Fragment {
                ident: u32::from(be16(bytes, 4)?),
                offset: u32::from(offset & 0x1fff) * 8,
                len: body.len() as u32,
                more: offset & 0x2000 != 0,
            });
        }
        (*bytes.get(9)?, body)
    };
    let (transport, header) = decode_transport(protocol, body, &packet)?;
    packet.transport = transport;
    let len = body.len().saturating_sub(header) as u32;
    if len > 0 {
        packet.payload = Payload::Data(Data {
            len,
            message: Message::Opaque,
        });
    }
    Some(packet)
}

fn decode_transport(protocol: u8, body: &[u8], packet: &Packet) -> Option<(Transport, usize)> {
    Some(match protocol {
        6 => {
            let header = usize::from(body.get(12)? >> 4) * 4;
            let mss = (body.get(20..22) == Some(&[2, 4]) && header > 20)
                .then(|| be16(body, 22))
                .flatten();
            let tcp = Tcp {
                sport: be16(body, 0)?,
                dport: be16(body, 2)?,
                seq: be32(body, 4)?,
                ack: be32(body, 8)?,
                flags: TcpFlags(*body.get(13)?),
                window: u32::from(be16(body, 14)?),
                mss,
            };
            (Transport::Tcp(tcp), header)
        }
        17 => {
            let (sport, dport) = (be16(body, 0)?, be16(body, 2)?);
            (Transport::Udp(Udp { sport, dport }), 8)
        }
        132 => {
            let kind = *body.get(12)?;
            let chunk = CHUNKS.iter().find(|(_, number)| *number == kind)?.0;
            let (sport, dport) = (be16(body, 0)?, be16(body, 2)?);
            let sctp = Sctp {
                sport,
                dport,
                chunk,
            };
            (Transport::Sctp(sctp), body.len())
        }
        1 | 58 => decode_icmp(body, packet)?,
        _ => return None,
    })
}

fn decode_icmp(body: &[u8], packet: &Packet) -> Option<(Transport, usize)> {
    let (kind, code) = (*body.first()?, *body.get(1)?);
    let family = packet.family();
    let echo = |request: bool| -> Option<Icmp> {
        let (id, seq) = (be16(body, 4)?, be16(body, 6)?);
        Some(if request {
            Icmp::EchoRequest { id, seq }
        } else {
            Icmp::EchoReply { id, seq }
        })
    };
    let icmp = match (family, kind) {
        (Family::V4, 8) | (Family::V6, 128) => echo(true)?,
        (Family::V4, 0) | (Family::V6, 129) => echo(false)?,
        _ => {
            let named = ERRORS.iter();
            let mut error = *named
                .clone()
                .find(|e| e.type_and_code(family) == (kind, code))?;
            if let IcmpError::FragmentationNeeded { mtu } = &mut error {
                *mtu = be32(body, 4)?;
            }
            let about = decode_quoted(body.get(8..)?)?;
            return Some((
                Transport::Icmp(Icmp::Error { kind: error, about }),
                body.len(),
            ));
        }
    };
    Some((Transport::Icmp(icmp), 8))
}

fn decode_quoted(bytes: &[u8]) -> Option<Quoted> {
    let v6 = bytes.first()? >> 4 == 6;
    let (protocol, header) = if v6 {
        (*bytes.get(6)?, 40)
    } else {
        (*bytes.get(9)?, usize::from(*bytes.first()? & 15) * 4)
    };
    let addr = |at: usize| -> Option<IpAddr> {
        if v6 {
            let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        } else {
            let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
    };
    let (src, dst) = if v6 {
        (addr(8)?, addr(24)?)
    } else {
        (addr(12)?, addr(16)?)
    };
    let body = bytes.get(header..)?;
    let ports = || Some((be16(body, 0)?, be16(body, 2)?));
    let transport = match protocol {
        6 => {
            let (sport, dport) = ports()?;
            let seq = be32(body, 4)?;
            QuotedTransport::Tcp { sport, dport, seq }
        }
        17 => {
            let (sport, dport) = ports()?;
            QuotedTransport::Udp { sport, dport }
        }
        132 => {
            let (sport, dport) = ports()?;
            QuotedTransport::Sctp { sport, dport }
        }
        _ => match *body.first()? {
            8 | 128 => QuotedTransport::Echo {
                request: true,
                id: be16(body, 4)?,
            },
            0 | 129 => QuotedTransport::Echo {
                request: false,
                id: be16(body, 4)?,
            },
            _ => QuotedTransport::OtherIcmp,
        },
    };
    Some(Quoted {
        id: PacketId(0),
        src,
        dst,
        transport,
    })
}

/// Returns one line that says everything of a frame that both worlds must agree on.
pub(crate) fn describe(frame: &Frame) -> String {
    let Body::Ip(packet) = &frame.body else {
        return format!("{:?}", frame.body);
    };
    let Packet {
        src,
        dst,
        ttl,
        tos,
        df,
        fragment,
        transport,
        payload,
        ..
    } = &**packet;
    let what = match transport {
        Transport::Tcp(tcp) => format!(
            "tcp {}>{} {} seq {} ack {} win {} mss {:?}",
            tcp.sport, tcp.dport, tcp.flags, tcp.seq, tcp.ack, tcp.window, tcp.mss
        ),
        Transport::Udp(udp) => format!("udp {}>{}", udp.sport, udp.dport),
        Transport::Sctp(sctp) => format!("sctp {}>{} {:?}", sctp.sport, sctp.dport, sctp.chunk),
        Transport::Icmp(Icmp::Error { kind, about }) => {
            // A quote of another message of ICMP has no fields here.
            let Quoted {
                src,
                dst,
                transport,
                ..
            } = about;
            format!("{kind} about {src} > {dst} {transport:?}")
        }
        Transport::Icmp(icmp) => format!("{icmp:?}"),
    };
    let df = if *df { " DF" } else { "" };
    let fragment = fragment.map_or_else(String::new, |f| {
        format!(
            " fragment {}+{}{}",
            f.offset,
            f.len,
            if f.more { "+" } else { "" }
        )
    });
    let len = match transport {
        // How much of the culprit is quoted differs.
        Transport::Icmp(Icmp::Error { .. }) => 0,
        // A later fragment has no header to read.
        _ if packet.fragment.is_some() => 0,
        Transport::Sctp(_) => 0,
        _ => payload.len(),
    };
    format!(
        "{src} > {dst} {what} data {len} ttl {ttl} tos {tos:#x}{df}{fragment} to {}",
        frame.dst
    )
}
