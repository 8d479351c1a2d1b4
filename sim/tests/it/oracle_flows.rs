//! Flows through kube-proxy's rules, as seen on a real kernel: for each recorded flow the simulator must allow what was
//! seen (result, who answered, which source the server saw), and allow nothing that was seen too seldom to be true.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use podwire::attempt::{Request, Source as Sender};
use podwire::controllers::dirty::Dirty;
use podwire::engine::Seeded;
use podwire::lab::{Lab, Plan};
use podwire::manifest;
use podwire::scenario::address::Target;
use podwire::simulation::{Behaviour, Simulation};
use podwire::source::{OriginTable, Source};
use podwire::traffic::{ProbeOutcome, ProbeResult};
use podwire_models::api::SessionAffinity;
use podwire_models::base::{Dice, ObjectKey, OriginId, Purpose, Ratio, Stream};
use podwire_models::cluster::install::{OutsideHost, Site};
use podwire_models::control::cni::Cni;
use podwire_models::control::proxy::{DetectLocalMode, Flags, Version};
use podwire_models::kernel::config::{Change, NewRoute, RouteKind};
use podwire_models::wire::{
    Data, FlowKey, L4, Message, NetnsId, NoRecorder, Packet, PacketId, Payload, Tcp, TcpFlags,
    Transport, Udp,
};
use serde_json::Value;

/// What an attempt came to: result, who answered, as whom the client was seen.
type Seen = (String, String, String);

fn text_of(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// The cluster in which a case's flows ran.
fn lab(case: &Path, topology: &Value) -> (Lab, OriginTable) {
    let objects = fs::read_to_string(case.join("objects.yaml")).unwrap();
    lab_of(objects, topology)
}

fn lab_of(objects: String, topology: &Value) -> (Lab, OriginTable) {
    let mut pods = String::new();
    for pod in topology["pods"].as_array().unwrap() {
        let (name, node, ip) = (
            text_of(pod, "name"),
            text_of(pod, "node"),
            text_of(pod, "ip"),
        );
        let ports: Vec<String> = pod["listen"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| {
                let (protocol, number) = port.as_str().unwrap().split_once('/').unwrap();
                format!("{{containerPort: {number}, protocol: {protocol}}}")
            })
            .collect();
        write!(
            pods,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: flows}}\nspec:\n  nodeName: {node}\n  \
             containers: [{{name: main, image: x, ports: [{}]}}]\nstatus: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n",
            ports.join(", ")
        )
        .unwrap();
    }
    let inputs = [
        Source::new("objects.yaml", objects),
        Source::new("pods.yaml", pods),
    ];
    let mut origins = OriginTable::default();
    let (manifests, _) = manifest::read(&inputs, &mut origins);
    let objects = manifests.objects.into_iter().collect();
    let hosts = topology["outside_hosts"].as_array().unwrap();
    let site = Site {
        cni: Cni::Bridge,
        hairpin: topology["settings"]["pod_veth_hairpin_mode"] == Value::Bool(true),
        hosts: hosts
            .iter()
            .map(|host| OutsideHost {
                name: text_of(host, "name").as_str().into(),
                ip: text_of(host, "ip").parse().unwrap(),
                via: None,
                origin: OriginId::NONE,
            })
            .collect(),
        ..Site::default()
    };
    let mut plan = Plan {
        site,
        version: Version::V1_30,
        flags: flags(&topology["kube_proxy"]["flags"]),
        nodes: 0,
        ..Plan::default()
    };
    let lan = text_of(&topology["lan"], "cidr").parse().unwrap();
    plan.site.underlay.subnets = vec![lan];
    let mut lab = Lab::build(objects, plan);
    for host in hosts {
        let id = lab.machines.hosts[text_of(host, "name").as_str()];
        let netns = lab.machines.cluster.netns_mut(id).unwrap();
        for route in host["routes"].as_array().unwrap() {
            let (dst, gateway) = route.as_str().unwrap().split_once(" via ").unwrap();
            if dst != "default" {
                netns
                    .apply(&Change::AddRoute(NewRoute {
                        kind: RouteKind::Unicast,
                        dst: dst.parse().unwrap(),
                        gateway: Some(gateway.parse().unwrap()),
                        dev: Some("eth0".into()),
                        src: None,
                        metric: 0,
                        scope: podwire_models::kernel::link::Scope::Global,
                        onlink: false,
                        mtu: None,
                        origin: OriginId::NONE,
                    }))
                    .unwrap();
            }
        }
    }
    // The gateway of the LAN forwards nothing, and says nothing.
    let underlay = lab.machines.underlay;
    let router = lab.machines.cluster.netns_mut(underlay).unwrap();
    router.sysctls.set("net.ipv4.ip_forward", 0).unwrap();
    (lab, origins)
}

fn flags(given: &Value) -> Flags {
    let mut flags = Flags::default();
    let mut bridge = None;
    for flag in given.as_array().unwrap() {
        let (name, value) = flag.as_str().unwrap().split_once('=').unwrap();
        match name {
            "--cluster-cidr" => flags.cluster_cidr = vec![value.parse().unwrap()],
            "--masquerade-all" => flags.masquerade_all = value == "true",
            "--pod-bridge-interface" => bridge = Some(value.to_owned()),
            "--detect-local-mode" => match value {
                "ClusterCIDR" => flags.detect_local_mode = DetectLocalMode::ClusterCidr,
                "NodeCIDR" => flags.detect_local_mode = DetectLocalMode::NodeCidr,
                "BridgeInterface" => {}
                other => panic!("unknown mode {other}"),
            },
            "--proxy-mode" | "--conntrack-max-per-core" => {}
            other => panic!("unknown flag {other}"),
        }
    }
    if let Some(bridge) = bridge {
        flags.detect_local_mode = DetectLocalMode::BridgeInterface(bridge.as_str().into());
    }
    flags
}

fn sender(lab: &Lab, src: &str) -> Sender {
    let thing = match src.split_once(' ') {
        Some(("backend", name)) => format!("pod/flows/{name}"),
        _ if src.starts_with("client-") => format!("pod/flows/{src}"),
        _ if src.starts_with("node-") => format!("node/{src}"),
        _ => format!("host/{src}"),
    };
    lab.source(&thing.parse().unwrap()).unwrap()
}

fn ip_of(end: &str) -> String {
    match end.parse::<SocketAddr>() {
        Ok(end) => end.ip().to_string(),
        Err(_) => String::new(),
    }
}

/// What was seen, each with how often.
fn recorded(attempts: &[Value]) -> BTreeMap<Seen, u64> {
    let mut counts = BTreeMap::new();
    for attempt in attempts {
        let seen = (
            text_of(attempt, "result"),
            text_of(attempt, "backend"),
            ip_of(&text_of(attempt, "seen")),
        );
        *counts.entry(seen).or_default() += 1;
    }
    counts
}

fn simulated(outcome: &ProbeOutcome) -> Seen {
    let result = match outcome.result {
        ProbeResult::Connected => "connected",
        ProbeResult::Refused => "refused",
        ProbeResult::Timeout => "timeout",
        ProbeResult::Unreachable | ProbeResult::Reset | ProbeResult::DnsFailure => "error",
    };
    let backend = outcome
        .backend
        .map(|(ip, port)| SocketAddr::new(ip, port).to_string());
    let seen = outcome
        .seen_source
        .map(|(ip, _): (IpAddr, u16)| ip.to_string());
    (
        result.to_owned(),
        backend.unwrap_or_default(),
        seen.unwrap_or_default(),
    )
}

/// Whether `count` of `all` is what a chance would give: within six standard deviations, and one more.
fn plausible(count: u64, all: u64, chance: Ratio) -> bool {
    let (p, q) = (chance.numerator(), chance.denominator());
    let expected = u128::from(all) * p;
    let distance = (u128::from(count) * q).abs_diff(expected).saturating_sub(q);
    let variance = u128::from(all) * p * (q - p);
    distance * distance <= 36 * variance
}

struct Tally {
    compared: usize,
    attempts: u64,
    wrong: Vec<String>,
}

fn flow(lab: &Lab, origins: &OriginTable, line: &Value, tally: &mut Tally, name: &str) {
    let l4 = if text_of(line, "protocol") == "UDP" {
        L4::Udp
    } else {
        L4::Tcp
    };
    let dst: SocketAddr = text_of(line, "dst").parse().unwrap();
    let request = Request::new(
        Target::Address {
            ip: dst.ip(),
            port: Some(dst.port()),
        },
        l4,
        Duration::from_millis(1600),
    );
    let from = sender(lab, &text_of(line, "src"));
    let what = format!(
        "{name}: {} {} {} to {dst}",
        text_of(line, "protocol"),
        text_of(line, "src"),
        text_of(line, "dst_kind")
    );
    let outcomes = match lab.explore(&from, &request, origins, 1, 50_000) {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tally.wrong.push(format!("{what}: {error}"));
            return;
        }
    };
    let mut possible: BTreeMap<Seen, Ratio> = BTreeMap::new();
    for one in &outcomes {
        let chance = possible
            .entry(simulated(&one.outcome))
            .or_insert(Ratio::ZERO);
        *chance = *chance + one.chance;
    }
    tally.compared += 1;
    if let Some(distribution) = line.get("distribution") {
        let all = distribution["connections"].as_u64().unwrap();
        tally.attempts += all;
        let mut backends: BTreeMap<String, Ratio> = BTreeMap::new();
        for ((_, backend, _), chance) in &possible {
            let sum = backends.entry(backend.clone()).or_insert(Ratio::ZERO);
            *sum = *sum + *chance;
        }
        let counts = distribution["by_backend"].as_object().unwrap();
        let count = |backend: &String| counts.get(backend).and_then(Value::as_u64).unwrap_or(0);
        let known: u64 = backends.keys().map(count).sum();
        if known != all
            || backends
                .iter()
                .any(|(b, chance)| !plausible(count(b), all, *chance))
        {
            tally
                .wrong
                .push(format!("{what}: seen {counts:?}, possible {backends:?}"));
        }
        return;
    }
    let attempts = line["attempts"].as_array().unwrap();
    let seen = recorded(attempts);
    let all: u64 = seen.values().sum();
    tally.attempts += all;
    let unknown: Vec<&Seen> = seen.keys().filter(|s| !possible.contains_key(*s)).collect();
    // With affinity the attempts of one client are one choice, and a timeout ends a series early.
    let service = text_of(line, "service").parse().ok();
    let service = service.and_then(|key: ObjectKey| lab.objects.services.get(&key));
    let affine = service.is_some_and(|s| s.session_affinity != SessionAffinity::None);
    let independent = !affine && !seen.keys().any(|(result, ..)| result == "timeout");
    let unlikely: Vec<_> = possible
        .iter()
        .filter(|(one, chance)| {
            independent && !plausible(seen.get(*one).copied().unwrap_or(0), all, **chance)
        })
        .collect();
    if !unknown.is_empty() || !unlikely.is_empty() {
        tally
            .wrong
            .push(format!("{what}: seen {seen:?}, possible {possible:?}"));
    }
    if affine && all > 1 && possible.len() > 1 {
        // The Service must hold its clients, here as there.
        let mut simulation = lab.start(Seeded::new(1), NoRecorder);
        let mut backends = BTreeMap::new();
        for _ in 0..all {
            let limit = simulation.now() + Duration::from_secs(10);
            let outcome = lab
                .attempt(&mut simulation, &from, &request, limit)
                .unwrap();
            *backends.entry(simulated(&outcome).1).or_insert(0_u32) += 1;
        }
        let real: BTreeSet<&String> = seen.keys().map(|(_, backend, _)| backend).collect();
        if backends.len() != 1 || real.len() != 1 {
            let says = format!("{what}: no affinity: {backends:?}, real {real:?}");
            tally.wrong.push(says);
        }
    }
}

/// What kube-proxy answers on one of its health check ports: status, headers in any order, body as a value.
fn health(lab: &Lab, line: &Value, tally: &mut Tally, name: &str) {
    let (dst, wanted) = (text_of(line, "dst"), &line["http"]);
    let path = match text_of(line, "dst_kind").as_str() {
        "kube-proxy healthz" => "/healthz",
        _ => "/",
    };
    let request = Request::new(
        format!("http://{dst}{path}").parse().unwrap(),
        L4::Tcp,
        Duration::from_millis(1600),
    );
    let from = sender(lab, &text_of(line, "src"));
    let mut simulation = lab.start(Seeded::new(1), NoRecorder);
    let limit = simulation.now() + Duration::from_secs(10);
    let outcome = lab.attempt(&mut simulation, &from, &request, limit);
    let outcome = outcome.unwrap();
    tally.compared += 1;
    tally.attempts += 1;
    let (result, ..) = simulated(&outcome);
    let mut seen = serde_json::json!({ "result": result });
    if let Some(answer) = &outcome.http {
        let mut headers = answer.headers.clone();
        headers.sort();
        seen["status"] = answer.status.into();
        seen["headers"] = headers.into();
        seen["body"] = serde_json::from_str(&answer.body).unwrap_or_default();
    }
    if seen != *wanted {
        tally
            .wrong
            .push(format!("{name}: {dst}: seen {wanted}, simulated {seen}"));
    }
}

#[test]
fn flows_end_as_on_a_real_kernel() {
    let Some(root) = crate::handbook("oracle/kube-proxy") else {
        return;
    };
    let mut cases: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.sort();
    let mut tally = Tally {
        compared: 0,
        attempts: 0,
        wrong: Vec::new(),
    };
    let mut files = 0;
    for case in &cases {
        for (flows, topology) in [
            ("flows.jsonl", "topology.json"),
            ("flows.hairpin-off.jsonl", "topology.hairpin-off.json"),
        ] {
            let (flows, topology) = (case.join(flows), case.join(topology));
            if !flows.exists() {
                continue;
            }
            let name = case.file_name().unwrap().to_str().unwrap();
            let topology: Value =
                serde_json::from_str(&fs::read_to_string(topology).unwrap()).unwrap();
            let (lab, origins) = lab(case, &topology);
            files += 1;
            for line in fs::read_to_string(&flows).unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                if line.get("attempts").is_some() || line.get("distribution").is_some() {
                    flow(&lab, &origins, &line, &mut tally, name);
                } else if line.get("http").is_some() {
                    health(&lab, &line, &mut tally, name);
                } else if line.get("tries").is_none() {
                    // Lines with tries are those of open sockets.
                    tally.wrong.push(format!("{name}: unknown line {line}"));
                }
            }
        }
    }
    assert!(files > 0);
    assert!(
        tally.wrong.is_empty(),
        "{} of {} flows differ:\n{}",
        tally.wrong.len(),
        tally.compared,
        tally.wrong.join("\n")
    );
    let (flows, attempts) = (tally.compared, tally.attempts);
    crate::referee::checked(
        "proxy-flows",
        &format!("{flows} flows, {attempts} attempts"),
    );
}

/// Sends the first packet of a connection, lets a moment pass, and returns where it leads, as a node tracks it: to whom,
/// or nothing if the node does not know it.
fn leads_to<M: Behaviour, D: Dice>(
    simulation: &mut Simulation<M, D, NoRecorder>,
    node: NetnsId,
    from: NetnsId,
    (src, dst): (SocketAddr, SocketAddr),
    l4: L4,
) -> Option<SocketAddr> {
    let (sport, dport) = (src.port(), dst.port());
    let ten_bytes = Payload::Data(Data {
        len: 10,
        message: Message::Opaque,
    });
    let (transport, payload) = match l4 {
        L4::Tcp => {
            let syn = Tcp {
                sport,
                dport,
                flags: TcpFlags::SYN,
                seq: 1,
                ack: 0,
                window: 64_240,
                mss: Some(1460),
            };
            (Transport::Tcp(syn), Payload::Empty)
        }
        L4::Udp => (Transport::Udp(Udp { sport, dport }), ten_bytes),
        L4::Icmp | L4::Sctp => panic!("no flow of {l4} was recorded"),
    };
    let packet = Packet {
        id: PacketId(0),
        flow: FlowKey(u64::from(sport)),
        src: src.ip(),
        dst: dst.ip(),
        ttl: 64,
        tos: 0,
        df: true,
        fragment: None,
        transport,
        payload,
    };
    // A refusal of an earlier packet is no error of this one.
    let _ = simulation.act(from, |netns, cx| netns.send(packet, cx));
    let later = simulation.now() + Duration::from_millis(20);
    simulation.run_until(later);
    let machine = simulation.machines.cluster.netns(node).unwrap();
    let mut entries = machine.conntrack.as_ref().unwrap().iter(simulation.now());
    let ours = entries.find(|entry| {
        let o = &entry.original;
        (o.src, o.sport, o.dst, o.dport) == (src.ip(), sport, dst.ip(), dport)
    });
    ours.map(|entry| SocketAddr::new(entry.reply.src, entry.reply.sport))
}

/// Sends a datagram, and returns where it leads: to an endpoint (`connected`), nowhere (`timeout`), or it was refused.
fn datagram<M: Behaviour>(
    simulation: &mut Simulation<M, Seeded, NoRecorder>,
    node: NetnsId,
    from: NetnsId,
    ends: (SocketAddr, SocketAddr),
) -> (String, String) {
    match leads_to(simulation, node, from, ends, L4::Udp) {
        None => ("refused".into(), String::new()),
        Some(end) if end == ends.1 => ("timeout".into(), String::new()),
        Some(end) => ("connected".into(), end.to_string()),
    }
}

/// Answers so that the endpoint with a given number is chosen, if there is anything to choose.
struct Steered {
    rest: Seeded,
    /// How many endpoints to pass over.
    skip: usize,
    /// Whether there was a choice.
    asked: bool,
}

impl Dice for Steered {
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool {
        if stream.purpose != Purpose::LoadBalance {
            return self.rest.chance(stream, p);
        }
        self.asked = true;
        let taken = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        taken
    }

    fn pick(&mut self, stream: Stream, n: u64) -> u64 {
        self.rest.pick(stream, n)
    }
}

/// More clients than the kernel remembers for an endpoint. Where a choice was free it is taken as recorded; so a single
/// client that is remembered or forgotten at the wrong moment makes a difference.
#[test]
fn many_clients_are_remembered_and_forgotten_as_on_a_real_kernel() {
    let Some(root) = crate::handbook("oracle/kube-proxy") else {
        return;
    };
    let mut files: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path().join("flows.many-clients.jsonl"))
        .filter(|path| path.exists())
        .collect();
    files.sort();
    let (mut connections, mut remembered, mut returned) = (0, 0, 0);
    for file in &files {
        let case = file.parent().unwrap();
        let topology = fs::read_to_string(case.join("topology.json")).unwrap();
        let (lab, _) = lab(case, &serde_json::from_str(&topology).unwrap());
        let outside = lab.machines.hosts["outside-a"];
        let node = lab.machines.nodes["node-a"].netns;
        let dice = Steered {
            rest: Seeded::new(1),
            skip: 0,
            asked: false,
        };
        let mut simulation = lab.start(dice, NoRecorder);
        let back = NewRoute {
            kind: RouteKind::Unicast,
            dst: "172.30.0.0/16".parse().unwrap(),
            gateway: Some("192.168.50.100".parse().unwrap()),
            dev: Some("eth0".into()),
            src: None,
            metric: 0,
            scope: podwire_models::kernel::link::Scope::Global,
            onlink: false,
            mtu: None,
            origin: OriginId::NONE,
        };
        let cluster = &mut simulation.machines.cluster;
        let machine = cluster.netns_mut(node).unwrap();
        machine.apply(&Change::AddRoute(back)).unwrap();
        let mut port = 20_000;
        for line in fs::read_to_string(file).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let dst: SocketAddr = text_of(&line, "dst").parse().unwrap();
            let first: Ipv4Addr = text_of(&line, "first_client_ip").parse().unwrap();
            let passes = ["pass_1", "pass_2"].map(|pass| {
                let all = line[pass].as_array().unwrap();
                let ends = all.iter().map(|end| end.as_str().unwrap().parse().unwrap());
                ends.collect::<Vec<SocketAddr>>()
            });
            // The order of the rules: addresses as text.
            let mut endpoints: Vec<SocketAddr> = passes[0].clone();
            endpoints.sort_by_key(ToString::to_string);
            endpoints.dedup();
            let mut held = [0, 0];
            for (pass, ends) in passes.iter().enumerate() {
                for (client, end) in (u32::from(first)..).zip(ends) {
                    port += 1;
                    let src = SocketAddr::new(Ipv4Addr::from(client).into(), port);
                    let dice = &mut simulation.dice;
                    dice.skip = endpoints.iter().position(|e| e == end).unwrap();
                    dice.asked = false;
                    let found = leads_to(&mut simulation, node, outside, (src, dst), L4::Tcp);
                    assert_eq!(found, Some(*end), "pass {}, {src} to {dst}", pass + 1);
                    held[pass] += usize::from(!simulation.dice.asked);
                    connections += 1;
                }
            }
            let same = passes[0].iter().zip(&passes[1]).filter(|(a, b)| a == b);
            assert_eq!(held[0], 0, "these clients were new");
            remembered += held[1];
            returned += same.count();
        }
    }
    // Who was forgotten may come to the same endpoint by chance.
    assert!(remembered <= returned);
    assert!(files.is_empty() || remembered > 0);
    crate::referee::checked("affinity", &format!("{connections} connections"));
}

/// Sockets that stay open while endpoints and the Service go and come (`update-live-*`).
#[test]
fn open_sockets_move_as_on_a_real_kernel() {
    let Some(root) = crate::handbook("oracle/kube-proxy") else {
        return;
    };
    let mut cases: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.retain(|case| {
        let name = case.file_name().unwrap().to_str().unwrap();
        name.starts_with("update-live-") && case.join("flows.jsonl").exists()
    });
    let mut compared = 0;
    for case in &cases {
        let topology: Value =
            serde_json::from_str(&fs::read_to_string(case.join("topology.json")).unwrap()).unwrap();
        let mut objects = fs::read_to_string(case.join("objects.yaml")).unwrap();
        let updates = fs::read_to_string(case.join("updates.yaml")).unwrap();
        let (mut lab, _) = lab_of(objects.clone(), &topology);
        let lines: Vec<Value> = fs::read_to_string(case.join("flows.jsonl"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let source = sender(&lab, &text_of(&lines[0], "src"));
        let node = lab
            .machines
            .pods
            .values()
            .find(|at| at.netns == source.netns)
            .unwrap()
            .node
            .clone();
        let node = lab.machines.nodes[&node].netns;
        let src: IpAddr = text_of(&lines[0], "src_ip").parse().unwrap();
        let dst: SocketAddr = text_of(&lines[0], "dst").parse().unwrap();
        let mut simulation = lab.start(Seeded::new(1), NoRecorder);
        // Enough sockets that each endpoint is somebody's first.
        let mut sockets: BTreeMap<u16, String> = BTreeMap::new();
        for port in 40_000..40_030 {
            let ends = (SocketAddr::new(src, port), dst);
            let (result, first) = datagram(&mut simulation, node, source.netns, ends);
            assert_eq!(result, "connected", "{ends:?}");
            sockets.insert(port, first);
        }
        let mut events = updates.split("\n---\n");
        let mut fresh = 41_000;
        for step in 0.. {
            let now: Vec<&Value> = lines
                .iter()
                .filter(|line| text_of(line, "step").starts_with(&format!("{step} ")))
                .collect();
            if now.is_empty() {
                break;
            }
            if step > 0 {
                objects = crate::oracle_kube_proxy::updated(&objects, events.next().unwrap());
                let (changed, _) = lab_of(objects.clone(), &topology);
                lab.objects = changed.objects;
                lab.refresh_slices(&Dirty::All);
                lab.program(&mut simulation.machines, &Dirty::All);
            }
            let tries = |what: &str| -> BTreeSet<(String, String)> {
                let line = now
                    .iter()
                    .find(|line| text_of(line, "what").contains(what))
                    .unwrap();
                let all = line["tries"].as_array().unwrap();
                all.iter()
                    .map(|t| (text_of(t, "result"), text_of(t, "backend")))
                    .collect()
            };
            let new = tries("fresh sockets");
            for (port, first) in &sockets {
                let seen = tries(&format!("first used with {first}"));
                let moved = !seen.contains(&("connected".into(), first.clone()));
                let ends = (SocketAddr::new(src, *port), dst);
                let found = datagram(&mut simulation, node, source.netns, ends);
                let right = seen.contains(&found) || (moved && new.contains(&found));
                assert!(
                    right,
                    "step {step}, {ends:?} first with {first}: {found:?}, seen {seen:?}"
                );
                compared += 1;
            }
            for _ in 0..12 {
                fresh += 1;
                let ends = (SocketAddr::new(src, fresh), dst);
                let found = datagram(&mut simulation, node, source.netns, ends);
                assert!(
                    new.contains(&found),
                    "step {step}, {ends:?}: {found:?}, seen {new:?}"
                );
                compared += 1;
            }
        }
    }
    assert!(cases.is_empty() || compared > 0);
    crate::referee::checked("udp-stale", &format!("{compared} datagrams"));
}
