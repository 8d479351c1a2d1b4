//! Designed clusters, materialised: the same flow in the simulated cluster and in real namespaces ends the same way.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use podwire::attempt::Attempted;
use podwire::lab::Lab;
use podwire::materialize::{self, Prefix};
use podwire::traffic::ProbeResult;
use podwire::traffic::probe::Discovery;
use podwire_models::base::{Family, Protocol};
use podwire_models::wire::{Action, Head, NetnsId, Transport};
use serde_json::{Value, json};

use super::worlds::{Flow, World, build, profiles, resolve, worlds};

/// Real namespaces, taken away whatever happens.
pub(super) struct Built {
    dir: PathBuf,
}

impl Built {
    pub(super) fn new(lab: &Lab, prefix: &Prefix) -> Self {
        let scripts = materialize::scripts(&lab.machines.cluster, prefix);
        let dir = std::env::temp_dir().join(prefix.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("build.sh"), &scripts.build).unwrap();
        std::fs::write(dir.join("teardown.sh"), &scripts.teardown).unwrap();
        let built = Self { dir };
        let done = built.sh("build.sh");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        for netns in lab.machines.cluster.iter() {
            // As `net.ipv4.icmp_ratelimit`, which decides for both families here.
            let sysctl = ["-qw", "net.ipv6.icmp.ratelimit=0"];
            let name = prefix.of(netns);
            let words = ["netns", "exec", &name, "sysctl"];
            let done = Command::new("ip").args(words).args(sysctl).status();
            assert!(done.unwrap().success());
        }
        if lab
            .plan
            .site
            .pod_cidrs
            .iter()
            .any(|net| Family::of_net(*net) == Family::V6)
        {
            // A device that gets its carrier late joins the groups of its addresses up to a second later (`linkwatch`).
            std::thread::sleep(Duration::from_millis(1500));
        }
        built
    }

    fn sh(&self, script: &str) -> std::process::Output {
        let script = self.dir.join(script);
        Command::new("sh")
            .arg(script)
            .env("IPTABLES", "-legacy")
            .output()
            .unwrap()
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        self.sh("teardown.sh");
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(super) fn ask(world: &Value) -> Vec<Value> {
    let mut child = Command::new("python3")
        .args(["-c", include_str!("world.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    write!(child.stdin.take().unwrap(), "{world}").unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).expect("world.py answers")
}

/// Returns the servers of all pods, for `world.py`.
pub(super) fn servers(lab: &Lab, family: Family, prefix: &Prefix) -> Vec<Value> {
    let mut servers = Vec::new();
    for pod in lab.objects.pods.values() {
        let Some(netns) = lab.machines.netns_of(pod) else {
            continue;
        };
        for port in pod.spec.running().flat_map(|c| &c.ports) {
            let proto = match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => continue,
            };
            servers.push(json!({
                "ns": name_of(lab, prefix, netns),
                "proto": proto,
                "family": family.to_string(),
                "port": port.container_port,
                "name": pod.key.to_string(),
            }));
        }
    }
    servers
}

pub(super) fn name_of(lab: &Lab, prefix: &Prefix, netns: NetnsId) -> String {
    prefix.of(lab.machines.cluster.netns(netns).unwrap())
}

/// Returns a flow, for `world.py`.
pub(super) fn flow(lab: &Lab, world: &World, prefix: &Prefix, flow: &Flow) -> Value {
    let (ip, port) = resolve(lab, world.stack.family(), &flow.to);
    let netns = lab.source(&flow.from.parse().unwrap()).unwrap().netns;
    json!({
        "ns": name_of(lab, prefix, netns),
        "proto": flow.proto,
        "ip": ip,
        "port": port,
        "wait": world.patience().as_secs_f64(),
        "bytes": flow.bytes,
        "discovery": match flow.discovery {
            Discovery::Dont => 0,
            Discovery::Want => 1,
            Discovery::Do => 2,
        },
    })
}

/// Passes a world's flows through both; returns how many, and where they part.
fn compare(world: &World, number: usize) -> (usize, String) {
    let (lab, origins) = build(world);
    let family = world.stack.family();
    let prefix: Prefix = format!("podwire-{}-{number}", std::process::id())
        .parse()
        .unwrap();
    let built = Built::new(&lab, &prefix);
    if world.one_by_one {
        no_long_segments(&lab, &prefix);
    }
    let mut says = tools(&lab, family, &prefix);
    let flows = world
        .flows
        .iter()
        .map(|f| flow(&lab, world, &prefix, f))
        .collect();
    let all: Vec<String> = lab.machines.cluster.iter().map(|n| prefix.of(n)).collect();
    let real = ask(&json!({
        "servers": servers(&lab, family, &prefix),
        "flows": Value::Array(flows),
        "one_by_one": world.one_by_one,
        "pause": 0,
        "namespaces": all,
    }));
    drop(built);
    let mut known: BTreeMap<&Flow, Vec<String>> = BTreeMap::new();
    for (flow, real) in world.flows.iter().zip(&real) {
        let source = lab.source(&flow.from.parse().unwrap()).unwrap();
        let ours = known.entry(flow).or_insert_with(|| {
            let request = flow.request(&lab, world);
            let found = lab.explore(&source, &request, &origins, 1, 4096).unwrap();
            found.iter().map(ours).collect()
        });
        let real = theirs(real);
        if !ours.contains(&real) {
            let _ = writeln!(
                says,
                "{}: {flow}: kernel {real}, podwire {ours:?}",
                world.name
            );
        }
    }
    (real.len(), says)
}

/// As [`compare`]; timers of a busy machine are late now and then, so a difference counts if it is there again.
pub(super) fn compare_twice(world: &World, number: usize) -> (usize, String) {
    let (flows, says) = compare(world, number);
    if says.is_empty() {
        return (flows, says);
    }
    println!("{}: once more, because of\n{says}", world.name);
    let (_, again) = compare(world, number);
    let stays = |line: &&str| again.lines().any(|other| other == *line);
    let says = says.lines().filter(stays);
    (
        flows,
        says.fold(String::new(), |all, line| all + line + "\n"),
    )
}

/// Devices hand on segments as they are on a wire: none is longer than its MTU (`GSO`).
pub(super) fn no_long_segments(lab: &Lab, prefix: &Prefix) {
    for netns in lab.machines.cluster.iter() {
        for device in netns.devices.iter().flatten() {
            let done = Command::new("ip")
                .args(["-n", &prefix.of(netns), "link", "set", "dev"])
                .args([&*device.name, "gso_max_segs", "1"])
                .status();
            assert!(done.unwrap().success());
        }
    }
}

/// Compares what tools print in the real namespaces with what the look-alikes print; returns where they part.
fn tools(lab: &Lab, family: Family, prefix: &Prefix) -> String {
    let mut says = String::new();
    for netns in lab.machines.cluster.iter() {
        let name = prefix.of(netns);
        let real = |words: &[&str]| {
            let output = Command::new("ip")
                .args(["netns", "exec", &name])
                .args(words)
                .output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        let mut same = |what: &str, ours: &str, real: &str| {
            let (left, right) = (ours.lines(), real.lines());
            for (ours, real) in left.zip(right).filter(|(ours, real)| ours != real) {
                let _ = writeln!(says, "{name}: {what}: podwire {ours:?}, kernel {real:?}");
            }
            if ours.lines().count() != real.lines().count() {
                let _ = writeln!(says, "{name}: {what}: podwire {ours:?}, kernel {real:?}");
            }
        };
        let (version, save) = match family {
            Family::V4 => ("-4", "iptables-legacy-save"),
            Family::V6 => ("-6", "ip6tables-legacy-save"),
        };
        let route = netns.show_route(family);
        let theirs = real(&["ip", version, "route"]);
        match family {
            Family::V4 => same("ip route", &route, &theirs),
            Family::V6 => same("ip -6 route", &written(&route), &written(&theirs)),
        }
        if family == Family::V4 {
            let local = netns.show_route_local(family);
            let theirs = real(&["ip", version, "route", "show", "table", "local"]);
            same("ip route show table local", &local, &theirs);
        }
        let now = podwire_models::base::Time::ZERO;
        // The kernel lists neighbours in the order of a hash.
        let sorted = |text: &str| {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        let (ours, theirs) = (netns.show_neigh(now), real(&["ip", "neigh"]));
        same("ip neigh", &sorted(&ours), &sorted(&theirs));
        let filter = netns.netfilter.as_ref().and_then(|f| f.rules(family));
        for (table, rules) in filter.iter().flat_map(|rules| &rules.ruleset().tables) {
            let mut ours = String::new();
            rules.save(*table, family, &mut ours);
            let real = real(&[save, "-t", table.name()]);
            let plain = |line: &str| match line.split_once(" [") {
                Some((chain, _)) if line.starts_with(':') => format!("{chain} [0:0]\n"),
                // Where there is no nfacct, what it counts is left out.
                _ => match line.split_once(" -m nfacct --nfacct-name ") {
                    Some((before, name)) => {
                        let after = name.split_once(' ').map_or("", |(_, after)| after);
                        format!("{before} {after}\n")
                    }
                    None => line.to_owned() + "\n",
                },
            };
            let real: String = real
                .lines()
                .filter(|l| !l.starts_with('#'))
                .map(plain)
                .collect();
            let ours: String = ours.lines().map(plain).collect();
            same(&format!("iptables-save -t {}", table.name()), &ours, &real);
        }
        if matches!(netns.name.split('/').next(), Some("node" | "pod")) {
            for name in [
                "net.ipv4.ip_forward",
                "net.ipv4.ip_default_ttl",
                "net.ipv4.ip_local_port_range",
                "net.ipv4.conf.all.rp_filter",
                "net.netfilter.nf_conntrack_tcp_timeout_established",
            ] {
                let ours = netns
                    .sysctls
                    .text(name)
                    .map_or_else(String::new, |v| format!("{name} = {v}\n"));
                same("sysctl", &ours, &real(&["sysctl", name]));
            }
        }
    }
    says
}

/// Returns the routes of `ip -6 route` that somebody wrote, in order of their text; scopes are not there in IPv6, and
/// whether the other end of a wire is up is not known here.
fn written(routes: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in routes.lines().filter(|line| !line.contains("proto kernel")) {
        let line = line.replace(" pref medium", "").replace(" linkdown", "");
        let line = match line.strip_prefix("blackhole ") {
            Some(rest) => "blackhole ".to_owned() + &rest.replace(" dev lo", ""),
            None => line,
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let scope = words.iter().position(|word| *word == "scope");
        let left = words.iter().enumerate();
        let left = left.filter(|(n, _)| scope.is_none_or(|at| *n != at && *n != at + 1));
        let left: Vec<&str> = left.map(|(_, word)| *word).collect();
        lines.push(left.join(" "));
    }
    lines.sort_unstable();
    lines.join("\n")
}

/// Returns the time to live with which the server's first packet came in.
fn ttl_on_arrival(attempted: &Attempted) -> Option<u8> {
    let (ip, port) = attempted.outcome.backend?;
    let arrives = |head: &Head| match head {
        Head::Ip {
            dst,
            ttl,
            transport,
            ..
        } => {
            let to = match transport {
                Transport::Tcp(tcp) => tcp.dport,
                Transport::Udp(udp) => udp.dport,
                Transport::Sctp(_) | Transport::Icmp(_) => return None,
            };
            (*dst == ip && to == port).then_some(*ttl)
        }
        Head::Arp { .. } => None,
    };
    let mut steps = attempted.trace.records.iter().map(|record| &record.step);
    steps.find_map(|step| match step.action {
        Action::Delivered { .. } => step.packet.as_ref().and_then(arrives),
        _ => None,
    })
}

fn ours(attempted: &Attempted) -> String {
    let outcome = &attempted.outcome;
    match outcome.result {
        ProbeResult::Connected => {
            let server = outcome.server.as_deref().unwrap_or("?");
            let seen = outcome
                .seen_source
                .map_or_else(String::new, |(ip, _)| ip.to_string());
            let ttl = ttl_on_arrival(attempted).map_or_else(String::new, |ttl| ttl.to_string());
            format!("{server} saw {seen}, ttl {ttl}")
        }
        ProbeResult::Timeout => "timeout".to_owned(),
        ProbeResult::Refused
        | ProbeResult::Unreachable
        | ProbeResult::Reset
        | ProbeResult::DnsFailure => outcome
            .errno
            .map_or_else(|| outcome.result.name().to_owned(), |e| e.to_string()),
    }
}

fn theirs(real: &Value) -> String {
    let text = |name: &str| real[name].as_str().unwrap_or_default().to_owned();
    match real["result"].as_str().unwrap() {
        "connected" => format!(
            "{} saw {}, ttl {}",
            text("server"),
            text("seen"),
            real["ttl"]
        ),
        "timeout" => "timeout".to_owned(),
        _ => text("errno"),
    }
}

/// How many worlds are built at the same time: each waits more than it works.
const AT_ONCE: usize = 3;

/// Does something for each of many, a few at a time; returns the answers in order.
pub(super) fn a_few_at_a_time<T: Sync, R: Send>(
    all: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(one) = all.get(n) else {
                    return done;
                };
                done.push((n, work(one)));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, answer)| answer).collect()
}

#[test]
fn designed_clusters() {
    if !super::kernel_is_there() {
        return;
    }
    let only = super::variable("PODWIRE_KERNEL_WORLD").unwrap_or_default();
    let full = super::variable("PODWIRE_KERNEL_FULL").is_some();
    let profiles = profiles().len();
    let mut chosen: Vec<(usize, World)> = Vec::new();
    for (number, world) in worlds().into_iter().enumerate() {
        // The short form leaves out half of the refusals, and two of three where one thing is turned.
        let spared = match () {
            () if full || !only.is_empty() => false,
            () if world.name.starts_with("icmp-") => number % 2 == 0,
            () => number >= profiles && number % 3 != 0,
        };
        if world.name.contains(&only) && !spared {
            chosen.push((number, world));
        }
    }
    let answers = a_few_at_a_time(&chosen, |(number, world)| compare_twice(world, *number));
    let count: usize = answers.iter().map(|(flows, _)| flows).sum();
    let failures: String = answers.iter().map(|(_, says)| &**says).collect();
    let names = answers.len();
    assert!(
        failures.is_empty(),
        "{} of {count} differ:\n{failures}",
        failures.lines().count()
    );
    super::referee::checked("designed", &format!("{names} clusters, {count} flows"));
}
