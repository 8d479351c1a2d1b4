//! One decision about one packet, and what decided: the vocabulary everybody shares.
//!
//! Models report steps to a [`Recorder`]; the simulator stamps them into records. Variants are named by decision,
//! not by component.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::code::Code;
use super::packet::{ArpOp, Body, Frame, Icmp, Packet, PacketId, Payload, Transport};
use super::place::Place;
use super::tuple::FiveTuple;
use crate::base::{Errno, Family, Mac, OriginId, Time};

/// Receives steps. A type parameter everywhere, so that recording nothing costs nothing.
pub trait Recorder {
    /// Whether anybody looks at the steps. Where false, steps are not even built.
    const ENABLED: bool;

    /// Takes one step.
    fn record(&mut self, place: Place, step: Step);
}

/// The recorder that keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    const ENABLED: bool = false;
    fn record(&mut self, _: Place, _: Step) {}
}

/// The recorder that keeps everything in order, for tests.
impl Recorder for Vec<(Place, Step)> {
    const ENABLED: bool = true;
    fn record(&mut self, place: Place, step: Step) {
        self.push((place, step));
    }
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The packet it is about, as it looked right after the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<Head>,
    /// What was decided.
    pub action: Action,
    /// What decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Decider>,
}

impl Step {
    /// Returns a step about no packet.
    pub const fn general(action: Action) -> Self {
        Self {
            packet: None,
            action,
            by: None,
        }
    }

    /// Returns a step about `packet`.
    pub fn about(packet: &Packet, action: Action) -> Self {
        Self {
            packet: Some(Head::of(packet)),
            action,
            by: None,
        }
    }

    /// Returns the step with what decided it.
    #[must_use]
    pub fn by(mut self, decider: Decider) -> Self {
        self.by = Some(decider);
        self
    }
}

/// The headers of a packet or frame, without what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// IPv4 or IPv6.
    Ip {
        /// Which packet.
        id: PacketId,
        /// Source address.
        src: IpAddr,
        /// Destination address.
        dst: IpAddr,
        /// Time to live.
        ttl: u8,
        /// Length of the IP packet in bytes.
        len: u32,
        /// Transport header.
        transport: Transport,
        /// What the application says in it, in a few words.
        says: Option<String>,
    },
    /// ARP.
    Arp {
        /// Which message.
        id: PacketId,
        /// Request or reply.
        op: ArpOp,
        /// Who asks or answers.
        sender: IpAddr,
        /// Sender's hardware address.
        sender_mac: Mac,
        /// Whom it is about.
        target: IpAddr,
    },
}

impl Head {
    /// Returns the headers of a packet.
    pub fn of(packet: &Packet) -> Self {
        let says = match &packet.payload {
            Payload::Empty => None,
            Payload::Data(data) => data.message.summary(),
            Payload::Vxlan(vxlan) => Some(format!(
                "vxlan vni {} [{}]",
                vxlan.vni,
                Self::of_frame(&vxlan.frame)
            )),
        };
        Self::Ip {
            id: packet.id,
            src: packet.src,
            dst: packet.dst,
            ttl: packet.ttl,
            len: packet.len(),
            transport: packet.transport,
            says,
        }
    }

    /// Returns the headers of what a frame carries.
    pub fn of_frame(frame: &Frame) -> Self {
        match &frame.body {
            Body::Ip(packet) => Self::of(packet),
            Body::Arp(arp) => Self::Arp {
                id: arp.id,
                op: arp.op,
                sender: arp.sender_ip,
                sender_mac: arp.sender_mac,
                target: arp.target_ip,
            },
        }
    }

    /// Returns which packet it is.
    pub const fn id(&self) -> PacketId {
        match self {
            Self::Ip { id, .. } | Self::Arp { id, .. } => *id,
        }
    }
}

/// An address with a port, IPv6 in brackets.
struct Socket(IpAddr, u16);

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(a) => write!(f, "{a}:{}", self.1),
            IpAddr::V6(a) => write!(f, "[{a}]:{}", self.1),
        }
    }
}

impl fmt::Display for Head {
    /// `10.244.1.250:40000 > 10.96.91.1:7778 tcp SYN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arp {
                op: ArpOp::Request,
                sender,
                target,
                ..
            } => {
                write!(f, "arp who-has {target} tell {sender}")
            }
            Self::Arp {
                op: ArpOp::Reply,
                sender,
                sender_mac,
                ..
            } => {
                write!(f, "arp {sender} is-at {sender_mac}")
            }
            Self::Ip {
                src,
                dst,
                transport,
                says,
                ..
            } => {
                match transport {
                    Transport::Tcp(t) => write!(
                        f,
                        "{} > {} tcp {}",
                        Socket(*src, t.sport),
                        Socket(*dst, t.dport),
                        t.flags
                    )?,
                    Transport::Udp(u) => {
                        write!(
                            f,
                            "{} > {} udp",
                            Socket(*src, u.sport),
                            Socket(*dst, u.dport)
                        )?;
                    }
                    Transport::Sctp(s) => write!(
                        f,
                        "{} > {} sctp {:?}",
                        Socket(*src, s.sport),
                        Socket(*dst, s.dport),
                        s.chunk
                    )?,
                    Transport::Icmp(icmp) => {
                        write!(f, "{src} > {dst} {}", IcmpText(*icmp, Family::of(*src)))?;
                    }
                }
                match says {
                    Some(says) => write!(f, " {says}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// An ICMP message in tcpdump's words.
struct IcmpText(Icmp, Family);

impl fmt::Display for IcmpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.1 {
            Family::V4 => "icmp",
            Family::V6 => "icmp6",
        };
        match self.0 {
            Icmp::EchoRequest { id, seq } => write!(f, "{name} echo-request id {id} seq {seq}"),
            Icmp::EchoReply { id, seq } => write!(f, "{name} echo-reply id {id} seq {seq}"),
            Icmp::Error { kind, about } => {
                write!(f, "{name} {kind} {{{} > {}", about.src, about.dst)?;
                match FiveTuple::of_quoted(&about) {
                    Some(t) => write!(f, " {} {}>{}}}", t.l4, t.sport, t.dport),
                    None => f.write_str("}"),
                }
            }
            Icmp::NeighbourSolicitation { target, .. } => {
                write!(f, "{name} neighbour-solicitation who-has {target}")
            }
            Icmp::NeighbourAdvertisement {
                target, target_mac, ..
            } => {
                write!(
                    f,
                    "{name} neighbour-advertisement {target} is-at {target_mac}"
                )
            }
        }
    }
}

impl Serialize for Head {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut s = serializer.serialize_struct("Head", 3)?;
        s.serialize_field("id", &self.id())?;
        s.serialize_field("text", &self.to_string())?;
        match self {
            Self::Ip { ttl, len, .. } => {
                s.serialize_field("ttl", ttl)?;
                s.serialize_field("len", len)?;
            }
            Self::Arp { .. } => {}
        }
        s.end()
    }
}

/// Which kind of thing decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum DeciderKind {
    /// A rule of a packet filter; the text is its `iptables-save` line.
    Rule,
    /// The default verdict of a chain.
    ChainPolicy,
    /// A route; the text is its `ip route` line.
    Route,
    /// A neighbour entry; the text is its `ip neigh` line.
    Neighbour,
    /// A forwarding database entry; the text is its `bridge fdb` line.
    Fdb,
    /// A connection tracking entry; the text is its `conntrack -L` line.
    Conntrack,
    /// A kernel setting; the text is `name = value`.
    Sysctl,
    /// A socket, or the lack of one.
    Socket,
    /// A device.
    Device,
    /// A wire between devices.
    Wire,
    /// A fault of the scenario.
    Fault,
    /// An API object.
    Object,
    /// The kernel's built-in behaviour, named in the text.
    Kernel,
}

/// What decided a step, in the words of the tool that shows it on a real machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decider {
    /// Kind of thing.
    pub kind: DeciderKind,
    /// Its text.
    pub text: String,
    /// The object it was made from.
    #[serde(skip_serializing_if = "OriginId::is_none")]
    pub origin: OriginId,
}

impl Decider {
    /// Returns a decider that came from no object.
    pub fn new(kind: DeciderKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            origin: OriginId::NONE,
        }
    }

    /// Returns the decider with the object it was made from.
    #[must_use]
    pub const fn from(mut self, origin: OriginId) -> Self {
        self.origin = origin;
        self
    }
}

/// What is rewritten by a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Manip {
    /// The source address or port.
    Source,
    /// The destination address or port.
    Destination,
}

/// What a fault touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// Packets on their way.
    Packets,
    /// Pods that do not start.
    Pods,
    /// Addresses that nobody can have.
    Addresses,
}

impl Counted {
    /// Whether these are packets, as with most faults.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    const fn is_packets(&self) -> bool {
        matches!(self, Self::Packets)
    }

    /// Returns the word for one of them, and for several.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Packets => ("packet", "packets"),
            Self::Pods => ("pod", "pods"),
            Self::Addresses => ("address", "addresses"),
        }
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// A local process or the kernel itself hands a packet to the IP layer.
    Sent,
    /// A frame came in.
    Received,
    /// A route was chosen.
    Routed {
        /// Next router, if not on the link.
        gateway: Option<IpAddr>,
        /// Device it leaves by.
        dev: String,
    },
    /// The routing decision says: this machine.
    RoutedLocal,
    /// Rules of a chain were examined; `matched` of them matched.
    Examined {
        /// Table and chain, `nat KUBE-SERVICES`.
        chain: String,
        /// How many rules the kernel looks at.
        rules: u32,
    },
    /// A rule matched; its target is `target`.
    Matched {
        /// Table and chain, `nat KUBE-SERVICES`.
        chain: String,
        /// Target with its options, `DNAT --to-destination 10.244.1.5:80`.
        target: String,
    },
    /// A policy lets the packet pass.
    Admitted,
    /// A policy would drop the packet, and nobody enforces it.
    NotEnforced {
        /// What that is called.
        code: Code,
    },
    /// Connection tracking classified the packet.
    Tracked {
        /// `NEW`, `ESTABLISHED`, `RELATED`, `INVALID`, `UNTRACKED`.
        state: String,
    },
    /// An address or port was rewritten.
    Translated {
        /// Which end.
        manip: Manip,
        /// Before.
        from: (IpAddr, u16),
        /// After.
        to: (IpAddr, u16),
        /// Whether this undoes an earlier translation on a reply or an error.
        undo: bool,
    },
    /// The packet waits for the next hop's hardware address.
    Resolving {
        /// Next hop.
        next_hop: IpAddr,
    },
    /// The next hop's hardware address is known.
    Resolved {
        /// Next hop.
        next_hop: IpAddr,
        /// Its hardware address.
        mac: Mac,
    },
    /// A bridge sends the frame out of one port.
    Switched {
        /// Port device.
        port: String,
    },
    /// A bridge sends the frame out of all other ports.
    Flooded {
        /// How many ports, those included to which a fault keeps it back.
        ports: u32,
    },
    /// The packet was put into another.
    Encapsulated {
        /// VXLAN network identifier.
        vni: u32,
        /// Outer source.
        src: IpAddr,
        /// Outer destination.
        dst: IpAddr,
    },
    /// The inner packet was taken out.
    Decapsulated {
        /// VXLAN network identifier.
        vni: u32,
    },
    /// The packet was cut into pieces.
    Fragmented {
        /// How many.
        pieces: u32,
        /// To fit this MTU.
        mtu: u32,
    },
    /// The pieces were put together.
    Reassembled,
    /// A frame left through a device.
    Transmitted {
        /// Length of the frame in bytes.
        bytes: u32,
    },
    /// A socket took the packet.
    Delivered {
        /// Local address and port of the socket.
        at: (IpAddr, u16),
    },
    /// The kernel itself answers with another packet.
    Answered {
        /// What it answers.
        with: Head,
    },
    /// The packet ends here, silently.
    Dropped {
        /// Why.
        code: Code,
    },
    /// The packet ends here, and the sender is told.
    Rejected {
        /// Why.
        code: Code,
        /// What the sender is told.
        with: String,
    },
    /// A system call fails.
    Failed {
        /// Why.
        code: Code,
        /// What the application sees.
        errno: Errno,
    },
    /// A socket changes state.
    State {
        /// Name of the state, as `ss` prints it.
        state: String,
    },
    /// An application does or learns something.
    App {
        /// In a few words.
        what: String,
    },
    /// An attempt begins.
    ProbeStarted {
        /// Name of the probe.
        probe: String,
        /// From whom to whom, in a few words.
        what: String,
    },
    /// An attempt ended.
    ProbeEnded {
        /// Name of the probe.
        probe: String,
        /// `connected`, `refused`, `unreachable`, `timeout`, `reset`, `dns_failure`.
        result: String,
        /// Why.
        code: Code,
        /// How long it took.
        #[serde(serialize_with = "as_nanos")]
        after: Duration,
    },
    /// How many attempts of a load have ended alike since it was told the last time.
    LoadCounted {
        /// Name of the load.
        load: String,
        /// As in `ProbeEnded`.
        result: String,
        /// Why.
        code: Code,
        /// How many.
        count: u64,
        /// When the first of them began.
        first: Time,
        /// When the last of them began.
        last: Time,
    },
    /// Something changed in the cluster's objects or on a node.
    Changed {
        /// In a few words.
        what: String,
    },
    /// A fault begins.
    FaultBegan {
        /// Its name.
        fault: String,
        /// In a few words.
        what: String,
    },
    /// A fault ends.
    FaultEnded {
        /// Its name.
        fault: String,
        /// How many it touched.
        touched: u64,
        /// How many of what.
        #[serde(skip_serializing_if = "Counted::is_packets")]
        of: Counted,
    },
    /// A sentence for the story.
    Note {
        /// The sentence.
        text: String,
    },
    /// Output of a command.
    Output {
        /// The command.
        command: String,
        /// What it printed.
        text: String,
    },
}

fn as_nanos<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

impl Action {
    /// Returns the code with which the packet or attempt ends here, if it does.
    pub const fn ends_with(&self) -> Option<Code> {
        match self {
            Self::Dropped { code } | Self::Rejected { code, .. } | Self::Failed { code, .. } => {
                Some(*code)
            }
            Self::Delivered { .. } => Some(Code::Ok),
            Self::Sent
            | Self::Received
            | Self::Routed { .. }
            | Self::RoutedLocal
            | Self::Examined { .. }
            | Self::Matched { .. }
            | Self::Admitted
            | Self::NotEnforced { .. }
            | Self::Tracked { .. }
            | Self::Translated { .. }
            | Self::Resolving { .. }
            | Self::Resolved { .. }
            | Self::Switched { .. }
            | Self::Flooded { .. }
            | Self::Encapsulated { .. }
            | Self::Decapsulated { .. }
            | Self::Fragmented { .. }
            | Self::Reassembled
            | Self::Transmitted { .. }
            | Self::Answered { .. }
            | Self::State { .. }
            | Self::App { .. }
            | Self::ProbeStarted { .. }
            | Self::ProbeEnded { .. }
            | Self::LoadCounted { .. }
            | Self::Changed { .. }
            | Self::FaultBegan { .. }
            | Self::FaultEnded { .. }
            | Self::Note { .. }
            | Self::Output { .. } => None,
        }
    }
}

impl super::message::Message {
    /// Returns a few words about the message, for traces.
    pub fn summary(&self) -> Option<String> {
        match self {
            Self::Opaque => None,
            Self::Request(text) => Some(format!("\"{text}\"")),
            Self::Response { server, .. } => Some(format!("answer of {server}")),
            Self::Http { answer, .. } => Some(format!("HTTP {}", answer.status)),
            Self::Dns(dns) => Some(match &dns.response {
                None => format!("dns {}? {}", dns.record_type, dns.name),
                Some(response) => format!(
                    "dns {} {} {} {}",
                    dns.record_type,
                    dns.name,
                    response.code,
                    response.answers.len()
                ),
            }),
        }
    }
}
