//! Captures: the same flows, one after the other, in the simulated cluster and in real namespaces with `tcpdump` on
//! their devices. Header by header the packets are the same, and afterwards `conntrack -L` shows the same.
//!
//! Not compared: checksums, IPv4 identifications, sequence numbers, windows, TCP options other than the MSS, and
//! ports that are drawn at random. ARP and neighbour discovery are left out.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podwire::engine::dice::Seeded;
use podwire::lab::Lab;
use podwire::materialize::Prefix;
use podwire::simulation::Witness;
use podwire::traffic::probe::Discovery;
use podwire_models::base::Time;
use podwire_models::cluster::WireEnd;
use podwire_models::control::cni::Cni;
use podwire_models::wire::{
    Body, DevIndex, Frame, Icmp, Packet, Payload, Place, Recorder, Step, Transport,
};
use serde_json::{Value, json};

use super::bytes;
use super::cluster::{Built, ask, flow, name_of, no_long_segments, servers};
use super::worlds::{Flow, Stack, World, build, manifests};

/// Between two flows, so that connections are closed and answers have come.
const PAUSE: Duration = Duration::from_millis(400);

/// A device somebody listens on: its namespace, as a target names it, and its name.
type Tap = (&'static str, &'static str);

const TAPS: &[Tap] = &[
    ("pod/shop/a1", "eth0"),
    ("pod/shop/b2", "eth0"),
    ("node/node-a", "eth0"),
    ("node/node-b", "eth0"),
    ("host/browser", "eth0"),
];

fn worlds() -> Vec<World> {
    let flows = |tunnel: bool| {
        let mut flows = Vec::new();
        for to in [
            "pod/shop/b2:8080",
            "pod/shop/a2:8080",
            "pod/shop/b2:8099",
            "svc/shop/far:80",
            "svc/shop/solo:80",
            "svc/shop/none:80",
            "svc/shop/inner:80",
            "node/node-a:30084",
            "node/node-b:30081",
            "node/node-a:30083",
        ] {
            for proto in ["tcp", "udp"] {
                flows.push(Flow::new("pod/shop/a1", proto, to));
            }
        }
        for to in ["pod/shop/b2:8080", "svc/shop/far:80", "node/node-b:30084"] {
            for proto in ["tcp", "udp"] {
                flows.push(Flow::new("node/node-a", proto, to));
            }
        }
        for to in [
            "node/node-a:30084",
            "node/node-b:30081",
            "node/node-a:30099",
        ] {
            for proto in ["tcp", "udp"] {
                flows.push(Flow::new("host/browser", proto, to));
            }
        }
        let long = |proto, bytes, discovery| {
            Flow::new("pod/shop/a1", proto, "svc/shop/far:80").carrying(bytes, discovery)
        };
        flows.push(long("udp", 3000, Discovery::Want));
        flows.push(long("tcp", 5000, Discovery::Want));
        if tunnel {
            let outside = Flow::new("host/browser", "udp", "node/node-a:30084");
            flows.push(outside.carrying(1472, Discovery::Want));
        }
        flows
    };
    let world = |name: &str, cni, stack, changes: &[(&str, &str)]| World {
        name: name.to_owned(),
        cni,
        stack,
        hairpin: true,
        one_by_one: true,
        manifests: manifests(),
        changes: changes
            .iter()
            .map(|(at, what)| ((*at).to_owned(), (*what).to_owned()))
            .collect(),
        flows: flows(cni == Cni::FlannelVxlan),
    };
    vec![
        world("captured, kindnet", Cni::Kindnet, Stack::V4, &[]),
        world("captured, tunnel", Cni::FlannelVxlan, Stack::V4, &[]),
        world("captured, bridge", Cni::Bridge, Stack::V4, &[]),
        world(
            "captured, short lives",
            Cni::Kindnet,
            Stack::V4,
            &[("pod/shop/a1", "net.ipv4.ip_default_ttl=2")],
        ),
        world("captured, IPv6", Cni::Kindnet, Stack::V6, &[]),
    ]
}

/// Who keeps the frames that cross wires, and nothing else.
#[derive(Default)]
struct Wires(Vec<(Time, WireEnd, Frame)>);

impl Recorder for Wires {
    const ENABLED: bool = false;
    fn record(&mut self, _: Place, _: Step) {}
}

impl Witness for Wires {
    fn begin(&mut self, _: Time, _: Option<u64>) {}
    fn cause(&self) -> Option<u64> {
        None
    }
    fn frame(
        &mut self,
        (from, sent): (WireEnd, Time),
        (to, comes): (WireEnd, Time),
        frame: &Frame,
    ) {
        self.0.push((sent, from, frame.clone()));
        self.0.push((comes, to, frame.clone()));
    }
}

/// `tcpdump` on one device, ended whatever happens.
struct Dump {
    child: Child,
    file: PathBuf,
}

impl Dump {
    fn start(dir: &Path, netns: &str, dev: &str) -> Self {
        let file = dir.join(format!("{netns}-{dev}.pcap"));
        let child = Command::new("ip")
            .args(["netns", "exec", netns, "tcpdump", "-Z", "root"])
            .args(["--immediate-mode", "-U", "-n", "-p", "-i", dev, "-w"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let dump = Self { child, file };
        for _ in 0..100 {
            // The header is written when it has begun to listen.
            if std::fs::metadata(&dump.file).is_ok_and(|file| file.len() >= 24) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        dump
    }

    /// Returns the frames so far, each with the microsecond of its arrival.
    fn frames(&self) -> Vec<(u64, Vec<u8>)> {
        let file = std::fs::read(&self.file).unwrap();
        let word = |at: usize| {
            let bytes = file.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().unwrap()))
        };
        assert_eq!(word(0), Some(0xa1b2_c3d4), "pcap of this machine");
        let mut frames = Vec::new();
        let mut at = 24;
        while let (Some(seconds), Some(micros), Some(len)) = (word(at), word(at + 4), word(at + 8))
        {
            let start = at + 16;
            at = start + len as usize;
            let Some(bytes) = file.get(start..at) else {
                break;
            };
            let when = u64::from(seconds) * 1_000_000 + u64::from(micros);
            frames.push((when, bytes.to_vec()));
        }
        frames
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that are the same on both sides; all others are drawn at random.
struct Ports(BTreeSet<u16>);

impl Ports {
    fn new(flows: usize) -> Self {
        let mut known: BTreeSet<u16> = (0..flows).map(source_port).collect();
        known.extend([80, 8080, 8099, 8472, 9090]);
        known.extend(30080..30100);
        Self(known)
    }

    fn name(&self, port: u16) -> String {
        if self.0.contains(&port) {
            port.to_string()
        } else {
            "*".to_owned()
        }
    }
}

/// The source port of a flow's client: below those the kernel draws.
fn source_port(number: usize) -> u16 {
    u16::try_from(20000 + number).unwrap()
}

/// What is compared of a frame; nothing for neighbours' affairs.
fn headers(frame: &Frame, len: u32, ports: &Ports, inner: Option<String>) -> Option<String> {
    let Body::Ip(packet) = &frame.body else {
        return None;
    };
    let Packet {
        src,
        dst,
        ttl,
        tos,
        df,
        fragment,
        transport,
        ..
    } = &**packet;
    let named = |sport, dport| format!("{}>{}", ports.name(sport), ports.name(dport));
    // A later piece has no transport header.
    let later = fragment.is_some_and(|f| f.offset > 0);
    let what = match transport {
        _ if later => String::new(),
        Transport::Tcp(tcp) => {
            let mss = tcp
                .mss
                .map_or_else(String::new, |mss| format!(" mss {mss}"));
            format!("tcp {}, {}{mss}", named(tcp.sport, tcp.dport), tcp.flags)
        }
        Transport::Udp(udp) => format!("udp {},", named(udp.sport, udp.dport)),
        Transport::Sctp(_) => return None,
        Transport::Icmp(Icmp::Error { kind, about }) => {
            let quoted = match about.transport {
                podwire_models::wire::QuotedTransport::Tcp { sport, dport, .. }
                | podwire_models::wire::QuotedTransport::Udp { sport, dport } => {
                    named(sport, dport)
                }
                other => format!("{other:?}"),
            };
            format!("{kind} about {} > {} {quoted}", about.src, about.dst)
        }
        Transport::Icmp(Icmp::EchoRequest { .. } | Icmp::EchoReply { .. }) => "echo".to_owned(),
        Transport::Icmp(
            Icmp::NeighbourSolicitation { .. } | Icmp::NeighbourAdvertisement { .. },
        ) => return None,
    };
    let df = if *df && src.is_ipv4() { " DF" } else { "" };
    let piece = fragment.map_or_else(String::new, |f| {
        let more = if f.more { "+" } else { "" };
        format!(" piece {}+{}{more}", f.offset, f.len)
    });
    let inner = inner.map_or_else(String::new, |inner| format!(" [{inner}]"));
    Some(format!(
        "{} > {}: {src} > {dst} {what} ttl {ttl} tos {tos:#x}{df}{piece} len {len}{inner}",
        frame.src, frame.dst
    ))
}

fn ours(frame: &Frame, ports: &Ports) -> Option<String> {
    let Body::Ip(packet) = &frame.body else {
        return None;
    };
    let inner = match &packet.payload {
        Payload::Vxlan(vxlan) => Some(ours(&vxlan.frame, ports)?),
        Payload::Empty | Payload::Data(_) => None,
    };
    headers(frame, packet.len(), ports, inner)
}

fn theirs(bytes: &[u8], ports: &Ports) -> Option<String> {
    let frame = bytes::decode(bytes)?;
    let Body::Ip(packet) = &frame.body else {
        return None;
    };
    let inner = match packet.transport {
        // Ethernet, IPv4, UDP, VXLAN.
        Transport::Udp(udp) if udp.dport == 8472 => {
            Some(theirs(bytes.get(14 + 20 + 8 + 8..)?, ports)?)
        }
        _ => None,
    };
    let number = |at: usize| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let len = if packet.src.is_ipv4() {
        number(16)
    } else {
        40 + number(18)
    };
    headers(&frame, len, ports, inner)
}

/// Which namespace a tap is in.
fn netns_of(lab: &Lab, tap: Tap) -> podwire_models::wire::NetnsId {
    lab.source(&tap.0.parse().unwrap()).unwrap().netns
}

fn wire_end(lab: &Lab, tap: Tap) -> (podwire_models::wire::NetnsId, DevIndex) {
    let id = netns_of(lab, tap);
    let netns = lab.machines.cluster.netns(id).unwrap();
    (id, netns.device_named(tap.1).unwrap().index)
}

/// What one side saw: for each tap the lines of each flow, and `conntrack -L` of both nodes.
#[derive(Default)]
struct Sight {
    lines: Vec<Vec<Vec<String>>>,
    tracked: Vec<Vec<String>>,
}

/// Takes timers and use counts off a line of `conntrack -L`, and random ports.
fn entry(line: &str, ports: &Ports) -> String {
    let mut words: Vec<String> = Vec::new();
    for (n, word) in line.split_whitespace().enumerate() {
        let port = ["sport=", "dport="]
            .iter()
            .find_map(|name| Some((name, word.strip_prefix(*name)?.parse().ok()?)));
        match port {
            Some((name, port)) => words.push(format!("{name}{}", ports.name(port))),
            // Protocol, number, seconds.
            None if n == 2 || word.starts_with("use=") => {}
            None => words.push(word.to_owned()),
        }
    }
    words.join(" ")
}

fn tracked(text: &str, ports: &Ports) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(|line| entry(line, ports)).collect();
    lines.sort_unstable();
    lines
}

const NODES: [&str; 2] = ["node/node-a", "node/node-b"];

fn simulate(world: &World, lab: &Lab, ports: &Ports) -> Sight {
    let mut simulation = lab.start(Seeded::new(1), Wires::default());
    let mut starts = Vec::new();
    for (number, flow) in world.flows.iter().enumerate() {
        starts.push(simulation.now());
        let source = lab.source(&flow.from.parse().unwrap()).unwrap();
        let mut request = flow.request(lab, world);
        request.socket.source_port = Some(source_port(number));
        let limit = simulation.now() + Duration::from_secs(60);
        let _ = lab.attempt(&mut simulation, &source, &request, limit);
        let now = simulation.now();
        simulation.run_until(now + PAUSE);
    }
    let now = simulation.now();
    let mut frames = std::mem::take(&mut simulation.recorder.0);
    frames.sort_by_key(|(when, ..)| *when);
    let mut sight = Sight::default();
    for tap in TAPS {
        let end = wire_end(lab, *tap);
        let mut lines = vec![Vec::new(); world.flows.len()];
        for (when, at, frame) in &frames {
            if *at == end
                && let Some(line) = ours(frame, ports)
            {
                let flow = starts.partition_point(|start| start <= when) - 1;
                lines[flow].push(line);
            }
        }
        sight.lines.push(lines);
    }
    for node in NODES {
        let id = lab.source(&node.parse().unwrap()).unwrap().netns;
        let netns = simulation.machines.cluster.netns(id).unwrap();
        let text = netns.conntrack.as_ref().map(|table| table.list(now));
        sight
            .tracked
            .push(tracked(&text.unwrap_or_default(), ports));
    }
    sight
}

fn observe(world: &World, lab: &Lab, prefix: &Prefix, ports: &Ports) -> Sight {
    let family = world.stack.family();
    let built = Built::new(lab, prefix);
    no_long_segments(lab, prefix);
    let dir = std::env::temp_dir().join(prefix.to_string());
    let dumps: Vec<Dump> = TAPS
        .iter()
        .map(|tap| Dump::start(&dir, &name_of(lab, prefix, netns_of(lab, *tap)), tap.1))
        .collect();
    let flows: Vec<Value> = world
        .flows
        .iter()
        .enumerate()
        .map(|(number, one)| {
            let mut value = flow(lab, world, prefix, one);
            value["from_port"] = json!(source_port(number));
            value
        })
        .collect();
    let answers = ask(&json!({
        "servers": servers(lab, family, prefix),
        "flows": flows,
        "one_by_one": true,
        "pause": PAUSE.as_secs_f64(),
        "namespaces": Vec::<String>::new(),
    }));
    let mut sight = Sight::default();
    for node in NODES {
        let id = lab.source(&node.parse().unwrap()).unwrap().netns;
        let output = Command::new("ip")
            .args([
                "netns",
                "exec",
                &name_of(lab, prefix, id),
                "conntrack",
                "-L",
                "-f",
            ])
            .arg(family.to_string().to_lowercase())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        sight.tracked.push(tracked(&text, ports));
    }
    let starts: Vec<u64> = answers
        .iter()
        .map(|a| a["began"].as_u64().unwrap())
        .collect();
    for dump in &dumps {
        let mut lines = vec![Vec::new(); world.flows.len()];
        for (when, bytes) in dump.frames() {
            let flow = starts.partition_point(|start| *start <= when);
            if let (Some(flow), Some(line)) = (flow.checked_sub(1), theirs(&bytes, ports)) {
                lines[flow].push(line);
            }
        }
        sight.lines.push(lines);
    }
    drop(dumps);
    drop(built);
    sight
}

/// Both directions of a conversation are under way at once, so only the order within each is certain. A SYN whose refusal
/// comes while `connect` still holds the socket is sent again, so refusals count once.
fn by_direction(lines: &[String]) -> Vec<&String> {
    let mut lines: Vec<&String> = lines.iter().collect();
    lines.sort_by_key(|line| line.split(',').next().unwrap_or_default().to_owned());
    let refused = lines.iter().any(|line| line.contains(" about "));
    lines.dedup_by(|a, b| refused && a == b);
    lines
}

/// Returns how many packets and how many entries were compared, and where the two part.
fn compare(world: &World, number: usize) -> ([usize; 2], String) {
    let (lab, _) = build(world);
    let prefix: Prefix = format!("podwire-{}-{}", std::process::id(), 3000 + number)
        .parse()
        .unwrap();
    let ports = Ports::new(world.flows.len());
    let real = observe(world, &lab, &prefix, &ports);
    let simulated = simulate(world, &lab, &ports);
    let (mut packets, mut entries, mut says) = (0, 0, String::new());
    let nothing = "nothing".to_owned();
    for (tap, (ours, real)) in TAPS.iter().zip(simulated.lines.iter().zip(&real.lines)) {
        for (flow, (ours, real)) in world.flows.iter().zip(ours.iter().zip(real)) {
            packets += real.len();
            let (ours, real) = (by_direction(ours), by_direction(real));
            if ours != real {
                let _ = writeln!(says, "{}: {flow}, at {} {}:", world.name, tap.0, tap.1);
                for n in 0..ours.len().max(real.len()) {
                    let (ours, real) = (ours.get(n), real.get(n));
                    if ours != real {
                        let _ = writeln!(says, "  podwire {}", ours.unwrap_or(&&nothing));
                        let _ = writeln!(says, "  kernel  {}", real.unwrap_or(&&nothing));
                    }
                }
            }
        }
    }
    for (node, (ours, real)) in NODES
        .iter()
        .zip(simulated.tracked.iter().zip(&real.tracked))
    {
        for line in ours.iter().filter(|line| !real.contains(line)) {
            let _ = writeln!(
                says,
                "{}: conntrack -L on {node}: podwire only: {line}",
                world.name
            );
        }
        for line in real.iter().filter(|line| !ours.contains(line)) {
            let _ = writeln!(
                says,
                "{}: conntrack -L on {node}: kernel only: {line}",
                world.name
            );
        }
        entries += real.len();
    }
    ([packets, entries], says)
}

#[test]
fn captures() {
    if !super::kernel_is_there() {
        return;
    }
    let only = super::variable("PODWIRE_KERNEL_WORLD").unwrap_or_default();
    let full = super::variable("PODWIRE_KERNEL_FULL").is_some();
    let mut chosen: Vec<(usize, World)> = worlds().into_iter().enumerate().collect();
    chosen.retain(|(number, world)| {
        world.name.contains(&only) && (full || !only.is_empty() || number % 2 == 1)
    });
    let answers = super::cluster::a_few_at_a_time(&chosen, |(number, world)| {
        let (counted, says) = compare(world, *number);
        if says.is_empty() {
            return (counted, says);
        }
        // Timers of a busy machine are late now and then.
        println!("{}: once more, because of\n{says}", world.name);
        compare(world, *number)
    });
    let flows: usize = chosen.iter().map(|(_, world)| world.flows.len()).sum();
    let [packets, entries] =
        [0, 1].map(|n| answers.iter().map(|(counted, _)| counted[n]).sum::<usize>());
    assert!(
        packets > flows && entries > flows / 2,
        "{packets}, {entries}"
    );
    let says: String = answers.iter().map(|(_, says)| &**says).collect();
    assert!(says.is_empty(), "captures differ:\n{says}");
    let how_much = format!(
        "{} clusters, {flows} flows, {packets} packets, {entries} entries",
        answers.len()
    );
    super::referee::checked("captures", &how_much);
}
