//! The seed of the whole project: one address per pod, every pod to every pod, no address rewritten. Checked over all
//! ordered pairs, through the real kernels.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;

use podwire_models::base::{Family, NoChance, ObjectKey, Time};
use podwire_models::cluster::carry::Carried;
use podwire_models::cluster::install::Machines;
use podwire_models::kernel::conntrack::Conntrack;
use podwire_models::kernel::{Cx, Effect};
use podwire_models::wire::{
    Code, Decider, FlowKey, L4, Message, NetnsId, NoRecorder, Packet, PacketId, Payload, Place,
    Recorder, Step, Transport, Udp,
};

/// Port of the datagrams that are sent; nothing else listens there.
const PORT: u16 = 9;
/// Source port of the datagrams.
const FROM: u16 = 40000;

/// The first pair that breaks the law, and what broke it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// Sender.
    pub from: ObjectKey,
    /// Receiver.
    pub to: ObjectKey,
    /// Address of the receiver.
    pub ip: IpAddr,
    /// What happened.
    pub what: Broken,
}

/// What happened to the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It ended on the way.
    Lost {
        /// How.
        code: Code,
        /// In which namespace.
        place: String,
        /// What decided.
        by: Option<Decider>,
    },
    /// It arrived with another source.
    Rewritten {
        /// The source the receiver saw.
        seen: (IpAddr, u16),
    },
    /// It arrived nowhere, and nobody said why.
    Vanished,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pod/{} does not reach pod/{} at {}: ",
            self.from, self.to, self.ip
        )?;
        match &self.what {
            Broken::Lost {
                code,
                place,
                by: Some(by),
            } => {
                write!(f, "{code} at {place}, by {}", by.text)
            }
            Broken::Lost {
                code,
                place,
                by: None,
            } => write!(f, "{code} at {place}"),
            Broken::Rewritten { seen } => {
                write!(f, "its source was rewritten to {}:{}", seen.0, seen.1)
            }
            Broken::Vanished => f.write_str("the packet vanished"),
        }
    }
}

/// Keeps the last ending.
#[derive(Debug, Default)]
struct Endings(Option<(Code, Option<NetnsId>, Option<Decider>)>);

impl Recorder for Endings {
    const ENABLED: bool = true;
    fn record(&mut self, place: Place, step: Step) {
        let Some(code) = step.action.ends_with().filter(|code| *code != Code::Ok) else {
            return;
        };
        self.0.get_or_insert((code, place.netns, step.by));
    }
}

/// One pod of the check.
struct Pod<'a> {
    key: &'a ObjectKey,
    netns: NetnsId,
    ips: Vec<IpAddr>,
}

/// Sends a datagram from every pod to every address of every other, and returns how many pairs were checked.
///
/// Time stands still during the check, so nothing ages; connection tracking is emptied before each sender.
///
/// # Errors
/// The first pair that breaks the law.
pub fn flat_network(
    machines: &Machines,
    addresses: &[(ObjectKey, Vec<IpAddr>)],
    now: Time,
) -> Result<u64, Box<Culprit>> {
    let mut machines = machines.clone();
    let mut pods = Vec::new();
    for (key, ips) in addresses {
        let Some(attached) = machines.pods.get(key) else {
            continue;
        };
        let netns = attached.netns;
        if let Some(space) = machines.cluster.netns_mut(netns) {
            // Somebody else's socket on the port would only hide the pair, so the port must be free.
            let _ = space.sockets.bind(L4::Udp, None, PORT);
        }
        pods.push(Pod {
            key,
            netns,
            ips: ips.clone(),
        });
    }
    let nodes: Vec<NetnsId> = machines
        .nodes
        .values()
        .map(|machine| machine.netns)
        .collect();
    let mut pairs = 0;
    let mut number = 0;
    for from in &pods {
        for node in &nodes {
            if let Some(space) = machines.cluster.netns_mut(*node)
                && space.conntrack.is_some()
            {
                space.conntrack = Some(Box::new(Conntrack::default()));
            }
        }
        for to in pods.iter().filter(|to| to.netns != from.netns) {
            for ip in &to.ips {
                let family = Family::of(*ip);
                let source = from
                    .ips
                    .iter()
                    .copied()
                    .find(|ip| Family::of(*ip) == family);
                let Some(source) = source else { continue };
                let packet = datagram(source, *ip);
                pairs += 1;
                let mut quiet = NoRecorder;
                let seen = send(
                    &mut machines,
                    from.netns,
                    to.netns,
                    &packet,
                    now,
                    &mut number,
                    &mut quiet,
                );
                if seen == Some((source, FROM)) {
                    continue;
                }
                let what = match seen {
                    Some(seen) => Broken::Rewritten { seen },
                    None => why(&mut machines, from, to, &packet, now, &mut number),
                };
                let (from, to) = (from.key.clone(), to.key.clone());
                return Err(Box::new(Culprit {
                    from,
                    to,
                    ip: *ip,
                    what,
                }));
            }
        }
    }
    Ok(pairs)
}

/// Sends once more, watching where it ends.
fn why(
    machines: &mut Machines,
    from: &Pod<'_>,
    to: &Pod<'_>,
    packet: &Packet,
    now: Time,
    number: &mut u64,
) -> Broken {
    let mut endings = Endings::default();
    send(
        machines,
        from.netns,
        to.netns,
        packet,
        now,
        number,
        &mut endings,
    );
    let Some((code, netns, by)) = endings.0 else {
        return Broken::Vanished;
    };
    let netns = netns.and_then(|id| machines.cluster.netns(id));
    let place = netns.map_or_else(|| "the cluster".to_owned(), |n| n.name.to_string());
    Broken::Lost { code, place, by }
}

fn datagram(src: IpAddr, dst: IpAddr) -> Packet {
    let data = podwire_models::wire::Data {
        len: 32,
        message: Message::Opaque,
    };
    Packet {
        id: PacketId(0),
        flow: FlowKey(0),
        src,
        dst,
        ttl: 64,
        tos: 0,
        df: true,
        fragment: None,
        transport: Transport::Udp(Udp {
            sport: FROM,
            dport: PORT,
        }),
        payload: Payload::Data(data),
    }
}

/// Sends a packet and carries everything it causes until nothing moves; returns the source the receiver saw.
fn send<R: Recorder>(
    machines: &mut Machines,
    from: NetnsId,
    to: NetnsId,
    packet: &Packet,
    now: Time,
    number: &mut u64,
    recorder: &mut R,
) -> Option<(IpAddr, u16)> {
    let mut effects = Vec::new();
    let mut work: VecDeque<(NetnsId, Effect)> = VecDeque::new();
    let mut dice = NoChance;
    let mut seen = None;
    {
        let netns = machines.cluster.netns_mut(from)?;
        let mut cx = Cx {
            now,
            dice: &mut dice,
            recorder,
            effects: &mut effects,
            next_packet: number,
        };
        // What fails at once is among the endings.
        let _ = netns.send(packet.clone(), &mut cx);
    }
    work.extend(effects.drain(..).map(|effect| (from, effect)));
    while let Some((at, effect)) = work.pop_front() {
        match effect {
            Effect::Transmit { dev, frame } => {
                let carried = machines
                    .cluster
                    .carry((at, dev), &frame, now, &mut dice, recorder);
                let Carried::Arrives {
                    at: (next, dev), ..
                } = carried
                else {
                    continue;
                };
                let Some(netns) = machines.cluster.netns_mut(next) else {
                    continue;
                };
                let mut cx = Cx {
                    now,
                    dice: &mut dice,
                    recorder,
                    effects: &mut effects,
                    next_packet: number,
                };
                netns.receive(dev, frame, &mut cx);
                work.extend(effects.drain(..).map(|effect| (next, effect)));
            }
            Effect::Deliver { packet, .. } => {
                if at == to {
                    seen = packet.ports().map(|(sport, _)| (packet.src, sport));
                }
            }
            Effect::SocketError { .. } | Effect::IcmpReceived { .. } | Effect::Timer { .. } => {}
        }
    }
    seen
}
