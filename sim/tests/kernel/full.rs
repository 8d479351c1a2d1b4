//! A table of connections without room. `nf_conntrack_max` belongs to the whole machine and is left as it is; but
//! every namespace's own connections are held against it, so one is filled to the last place, here and there.

use std::net::IpAddr;
use std::time::Duration;

use podwire_models::base::{Family, Time};
use podwire_models::kernel::conntrack::{Conntrack, Tracked};
use podwire_models::wire::{
    Icmp, IcmpError, Packet, Sctp, SctpChunk, Tcp, TcpFlags, Transport, Udp,
};

use super::cases::{Case, Port, Shot};
use super::fuzz::differ;
use super::generate::packet;
use super::router::Router;
use super::twin::Twin;

/// More places than that are not filled: each takes a third of a kilobyte of the kernel's memory.
const MOST: u32 = 1 << 20;

/// Counts what passes by its state; what goes to port 7 is not tracked, what is forwarded to port 9 is dropped.
const RULES: &str = "*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 7 -j CT --notrack
-A OUTPUT -p udp -m udp --dport 7 -j CT --notrack
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s {client} -o b0 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -p udp -m udp --dport 9 -j DROP
-A FORWARD -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j ACCEPT
-A FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT
-A OUTPUT -m conntrack --ctstate NEW -j ACCEPT
-A OUTPUT -m conntrack --ctstate UNTRACKED -j ACCEPT
COMMIT
";

/// What happens, in order.
#[allow(clippy::large_enum_variant, reason = "there are few of them")]
enum Act {
    /// A packet comes in, or is sent by a process.
    Send(Port, Packet),
    /// The table is filled, with connections that are ASSURED or not.
    Fill(bool),
    /// So many of them are forgotten.
    Forget(u32),
}

/// Who talks, in one family.
struct Talk {
    client: IpAddr,
    masqueraded: IpAddr,
    server: IpAddr,
    /// The router's own addresses, on both sides.
    router: [IpAddr; 2],
}

impl Talk {
    fn new(family: Family) -> Self {
        let addr = |v4: &str, v6: &str| match family {
            Family::V4 => v4.parse().unwrap(),
            Family::V6 => v6.parse().unwrap(),
        };
        Self {
            client: addr("10.1.0.2", "fd01::2"),
            masqueraded: addr("10.1.0.3", "fd01::3"),
            server: addr("10.2.0.2", "fd02::2"),
            router: [addr("10.1.0.1", "fd01::1"), addr("10.2.0.1", "fd02::1")],
        }
    }

    fn to_server(&self, transport: Transport) -> Act {
        Act::Send(Port::A, packet(0, self.client, self.server, transport))
    }

    fn local(&self, transport: Transport) -> Act {
        let packet = packet(0, self.router[1], self.server, transport);
        Act::Send(Port::Local, packet)
    }

    /// A connection that is there before: the handshake, or what goes on after it.
    fn existing(&self, opens: bool) -> Vec<Act> {
        let segments: &[_] = if opens {
            &[
                (true, TcpFlags::SYN, 1000, 0),
                (false, TcpFlags::SYN_ACK, 5000, 1001),
                (true, TcpFlags::ACK, 1001, 5001),
            ]
        } else {
            &[
                (true, TcpFlags::ACK, 1001, 5001),
                (false, TcpFlags::ACK, 5001, 1001),
                // No TCP sends that.
                (true, TcpFlags(0x3f), 1001, 5001),
            ]
        };
        let mut acts = Vec::new();
        for (client, sport) in [(self.client, 1000), (self.masqueraded, 1001)] {
            for (forth, flags, seq, ack) in segments {
                let (from, to) = if *forth { (sport, 80) } else { (80, sport) };
                let transport = tcp(from, to, *flags, *seq, *ack);
                acts.push(if *forth {
                    Act::Send(Port::A, packet(0, client, self.server, transport))
                } else if client == self.client {
                    Act::Send(Port::B, packet(0, self.server, client, transport))
                } else {
                    Act::Send(Port::B, packet(0, self.server, self.router[1], transport))
                });
            }
        }
        acts
    }

    /// Errors, about a connection that is there and one that is not.
    fn complaints(&self) -> Vec<Act> {
        let complaint = |sport| {
            let about = tcp(sport, 80, TcpFlags::ACK, 1001, 5001);
            let about = packet(0, self.client, self.server, about).quoted();
            let kind = IcmpError::HostUnreachable;
            let error = Transport::Icmp(Icmp::Error { kind, about });
            Act::Send(Port::B, packet(0, self.server, self.client, error))
        };
        vec![complaint(1000), complaint(2222)]
    }

    /// Packets that have no connection yet, whether one can begin with them or not.
    fn newcomers(&self) -> Vec<Act> {
        let own = packet(0, self.client, self.router[0], udp(3000, 53));
        vec![
            self.to_server(udp(3000, 53)),
            self.to_server(tcp(3000, 80, TcpFlags::SYN, 1000, 0)),
            self.to_server(Transport::Icmp(Icmp::EchoRequest { id: 5, seq: 1 })),
            self.to_server(sctp(SctpChunk::Init)),
            Act::Send(Port::A, own),
            self.local(udp(3001, 53)),
            self.local(tcp(3001, 80, TcpFlags::SYN, 1000, 0)),
            self.local(Transport::Icmp(Icmp::EchoRequest { id: 6, seq: 1 })),
            // Picked up in its middle.
            self.to_server(tcp(3002, 80, TcpFlags::ACK, 1000, 1000)),
            // Nothing begins with one of these.
            self.to_server(tcp(3003, 80, TcpFlags::RST, 1000, 0)),
            self.to_server(tcp(3004, 80, TcpFlags::SYN_ACK, 1000, 1)),
            self.to_server(tcp(3005, 80, TcpFlags(0x03), 1000, 0)),
            self.to_server(Transport::Icmp(Icmp::EchoReply { id: 7, seq: 1 })),
            self.to_server(sctp(SctpChunk::Data)),
        ]
    }

    /// Packets that need no place.
    fn untracked(&self) -> Vec<Act> {
        vec![self.to_server(udp(3000, 7)), self.local(udp(3000, 7))]
    }
}

const fn udp(sport: u16, dport: u16) -> Transport {
    Transport::Udp(Udp { sport, dport })
}

const fn sctp(chunk: SctpChunk) -> Transport {
    Transport::Sctp(Sctp {
        sport: 3000,
        dport: 80,
        chunk,
    })
}

fn tcp(sport: u16, dport: u16, flags: TcpFlags, seq: u32, ack: u32) -> Transport {
    Transport::Tcp(Tcp {
        sport,
        dport,
        flags,
        seq,
        ack,
        window: 65535,
        mss: (flags == TcpFlags::SYN || flags == TcpFlags::SYN_ACK).then_some(1460),
    })
}

/// Nobody can be evicted, or everybody; and some room again.
fn story(talk: &Talk, assured: bool) -> Vec<Act> {
    let mut acts = talk.existing(true);
    acts.push(Act::Fill(assured));
    acts.extend(talk.newcomers());
    acts.extend(talk.existing(false));
    acts.extend(talk.complaints());
    acts.extend(talk.untracked());
    if assured {
        acts.push(Act::Forget(3));
        acts.push(talk.to_server(udp(4000, 53)));
        // What is dropped leaves its place to the next.
        acts.push(talk.to_server(udp(4001, 9)));
        acts.extend((4002..4006).map(|port| talk.to_server(udp(port, 53))));
    }
    acts
}

/// A datagram of one of the connections that fill a table.
pub(super) fn filler(number: u32) -> Packet {
    let src = IpAddr::from([198, 18, (number >> 24) as u8, (number >> 16) as u8]);
    let udp = Udp {
        sport: number as u16,
        dport: 53,
    };
    let to = IpAddr::from([10, 9, 9, 9]);
    packet(0, src, to, Transport::Udp(udp))
}

fn answer_to(query: &Packet) -> Packet {
    let (sport, dport) = query.ports().unwrap();
    let udp = Udp {
        sport: dport,
        dport: sport,
    };
    packet(0, query.dst, query.src, Transport::Udp(udp))
}

/// Fills a table, as `ctnetlink.py` does.
pub(super) fn fill(table: &mut Conntrack, assured: bool, now: &mut Time) {
    let room = 0..table.settings.max - u32::try_from(table.len()).unwrap();
    for number in room.clone() {
        let Tracked::Entry(ct, _) = table.track(&filler(number), *now) else {
            panic!("no room for {number}");
        };
        table.confirm(ct, *now).unwrap();
    }
    if assured {
        for number in room.clone() {
            table.track(&answer_to(&filler(number)), *now);
        }
        // A stream has to last for two seconds.
        *now += Duration::from_secs(3);
        for number in room {
            table.track(&filler(number), *now);
        }
    }
    assert_eq!(table.len(), table.settings.max as usize);
}

/// Returns how many packets were passed through both, or where the kernels part.
fn compare(family: Family, assured: bool, router: &mut Router) -> Result<usize, String> {
    let talk = Talk::new(family);
    let case = Case {
        family,
        rules: RULES.replace("{client}", &talk.masqueraded.to_string()),
        nft: Vec::new(),
        sysctls: Vec::new(),
        shots: Vec::new(),
    };
    let mut twin = Twin::new(&case)?;
    router.load(&case)?;
    let (mut packets, mut forgotten) = (0, 0);
    for act in story(&talk, assured) {
        match act {
            Act::Send(port, mut packet) => {
                packets += 1;
                packet.id.0 = packets as u64;
                packet.flow.0 = packets as u64;
                let shot = Shot { port, packet };
                let (ours, real) = (twin.send(&shot), router.send(&shot));
                differ(&twin, packets, &ours, &real)
                    .map_err(|found| format!("packet {packets}, {shot:?}:\n{}", found.says))?;
            }
            Act::Fill(assured) => {
                let (max, count) = router.fill(assured);
                assert_eq!(count, max, "the table is full");
                twin.fill(assured, max);
            }
            Act::Forget(count) => {
                router.forget(forgotten, count);
                twin.forget(forgotten, count);
                forgotten += count;
            }
        }
    }
    Ok(packets)
}

#[test]
fn a_full_table() {
    if !super::kernel_is_there() {
        return;
    }
    let max = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
    let max: u32 = max.unwrap().trim().parse().unwrap();
    if max > MOST {
        println!("skipped: nf_conntrack_max is {max}, more than {MOST}");
        assert!(super::variable("PODWIRE_REQUIRE_ALL").is_none());
        return;
    }
    let mut router = Router::start("full", "-legacy");
    let (mut packets, mut says) = (0, String::new());
    let stories = [(Family::V4, true), (Family::V4, false), (Family::V6, true)];
    for (family, assured) in stories {
        let once = compare(family, assured, &mut router).or_else(|says| {
            // Once a minute the kernel makes room by itself, and a busy machine is late now and then.
            println!("once more, because of\n{says}");
            compare(family, assured, &mut router)
        });
        match once {
            Ok(count) => packets += count,
            Err(found) => says += &format!("{family}, assured {assured}: {found}\n"),
        }
    }
    assert!(says.is_empty(), "{says}");
    let how_much = format!("{} stories, {packets} packets", stories.len());
    super::referee::checked("full-table", &how_much);
}
