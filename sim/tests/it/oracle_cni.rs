//! What the real CNI plugins answered, call by call, and what the machines looked like afterwards (`oracle/cni`).
//!
//! A case all of whose plugins can be called here is replayed: its namespaces are made by its setup, every recorded call is
//! made again in order with the recorded environment and configuration (and the results that came out here before), and
//! after each capture every namespace is compared section by section, and the plugins' files. The probes of its flows are sent through
//! the simulation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podwire_models::base::{Family, OriginId, Protocol};
use podwire_models::control::cni::plugin::call::{ALL_VERSIONS, Call, PluginError, dispatch};
use podwire_models::control::cni::plugin::portmap::{
    self, Forwarding, Marking, NatEdit, PortMapping, Snat,
};
use podwire_models::control::cni::plugin::{Answer, Plugin};
use podwire_models::kernel::netfilter::chain::{Table, TableRules};
use serde_json::Value;

use crate::cni::world::{World, same};
use crate::cni::{flows, state};
use crate::handbook;

/// What came of one case.
#[derive(Debug, Default)]
struct Tally {
    calls: usize,
    sections: usize,
    files: usize,
    probes: usize,
    differences: Vec<String>,
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    found.sort();
    found
}

/// The recorded results of a case, by step.
fn results(case: &Path) -> BTreeMap<u64, Value> {
    let lines = case.join("results.jsonl");
    let all: Vec<Value> = if lines.exists() {
        let text = fs::read_to_string(lines).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    } else {
        let is_result = |p: &PathBuf| {
            let name = p.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("result-")
        };
        entries(case)
            .iter()
            .filter(|p| is_result(p))
            .map(|p| json(p))
            .collect()
    };
    let step = |r: &Value| r["step"].as_u64().unwrap();
    all.into_iter().map(|r| (step(&r), r)).collect()
}

/// Why a case cannot be replayed: what it has that is not modelled as a program.
fn not_covered(case: &Value) -> Option<String> {
    let networks = case["networks"].as_object()?;
    for plugin in networks
        .values()
        .flat_map(|n| n["plugins"].as_array().unwrap())
    {
        let name = plugin["type"].as_str().unwrap();
        if Plugin::named(name).is_none() {
            return Some(format!("plugin {name}"));
        }
        if let Some(ipam) = plugin["ipam"]["type"].as_str()
            && Plugin::named(ipam).is_none()
            && ipam == "dhcp"
        {
            return Some(format!("IPAM plugin {ipam}"));
        }
    }
    None
}

/// The directories of captured states, by step.
fn states(case: &Path) -> BTreeMap<u64, PathBuf> {
    let step = |p: PathBuf| {
        let name = p.file_name()?.to_str()?.strip_prefix("state-")?.get(..2)?;
        Some((name.parse().unwrap(), p.clone()))
    };
    entries(case).into_iter().filter_map(step).collect()
}

/// Follows `same_as` to where a section of a namespace's state was written.
fn written(case: &Path, value: &Value, section: &str) -> Value {
    match value["same_as"].as_str() {
        Some(file) => {
            let file = json(&case.join(file));
            written(case, &file[section], section)
        }
        None => value.clone(),
    }
}

/// A call of a plugin that is no program here, if the protocol alone answers it.
fn by_protocol(recorded: &Value) -> Option<Answer> {
    let env = |name: &str| recorded["env"][name].as_str().unwrap_or("");
    let stdin = recorded["stdin"].to_string();
    let call = Call {
        command: env("CNI_COMMAND"),
        container_id: env("CNI_CONTAINERID"),
        netns: env("CNI_NETNS"),
        ifname: env("CNI_IFNAME"),
        args: env("CNI_ARGS"),
        path: "/opt/cni/bin",
        stdin: &stdin,
    };
    let versions: &[&str] = match recorded["plugin"].as_str() {
        Some("bandwidth") => &ALL_VERSIONS[2..],
        _ => &ALL_VERSIONS,
    };
    let mut reached = false;
    let answer = dispatch(&call, versions, |_| {
        reached = true;
        Err(PluginError::internal("not modelled"))
    });
    (!reached).then_some(answer)
}

/// A case in the middle of being replayed.
struct Replay<'a> {
    dir: &'a Path,
    case: Value,
    world: World,
    /// The results of attachments: what a runtime keeps for CHECK and DEL.
    cached: BTreeMap<String, Value>,
    /// What each namespace is recorded to look like.
    wanted: BTreeMap<(String, &'static str), Value>,
    tally: Tally,
}

impl<'a> Replay<'a> {
    fn new(dir: &'a Path, case: Value) -> Result<Self, String> {
        Ok(Self {
            dir,
            world: World::new(&case)?,
            case,
            cached: BTreeMap::new(),
            wanted: BTreeMap::new(),
            tally: Tally::default(),
        })
    }

    fn run(mut self) -> Tally {
        let (results, states) = (results(self.dir), states(self.dir));
        self.capture(0, states.get(&0));
        for step in self.case["steps"].as_array().unwrap().clone() {
            let n = step["n"].as_u64().unwrap();
            if step["op"] == "SHELL" {
                let text = |key: &str| step[key].as_str().unwrap().to_owned();
                let done = self.world.shell(&text("ns"), &text("command"));
                self.tally.differences.extend(done.err());
            }
            let answers = results.get(&n).map(|result| self.calls(&step, result));
            if step["op"] == "FLOWS" {
                self.flows(&step);
            }
            let captured = states.get(&n);
            if captured.is_some() || step["state"] == "unchanged" {
                self.world.name_macs();
            }
            for (recorded, answer) in answers.into_iter().flatten() {
                self.compare(n, &recorded, answer);
            }
            if captured.is_some() || step["state"] == "unchanged" {
                self.capture(n, captured);
            }
        }
        self.tally
    }

    fn node_of(&self, pod: &str) -> String {
        let node = self.case["pods"][pod].as_str();
        node.or_else(|| self.case["nodes"][0].as_str())
            .unwrap()
            .to_owned()
    }

    /// Makes the calls of a step again.
    fn calls(&mut self, step: &Value, result: &Value) -> Vec<(Value, Option<Answer>)> {
        let pod = step["pod"].as_str().unwrap_or("");
        let node = step["node"]
            .as_str()
            .map_or_else(|| self.node_of(pod), str::to_owned);
        let mut answers = Vec::new();
        let mut previous = None;
        let config = &step["network"].as_str().unwrap_or("");
        let network = &self.case["networks"][*config]["name"];
        let attachment = format!("{network} {} {}", step["containerID"], step["ifname"]);
        for recorded in result["calls"].as_array().unwrap() {
            let own = match recorded["command"].as_str() {
                Some("ADD") => previous.clone(),
                _ => self.cached.get(&attachment).cloned(),
            };
            let chained = step["op"] != "EXEC";
            let answer = self
                .world
                .call(&node, recorded, own.as_ref().filter(|_| chained));
            let answer = answer.or_else(|| by_protocol(recorded));
            if let Some(answer) = &answer
                && recorded["command"] == "ADD"
                && answer.exit == 0
            {
                previous.clone_from(&answer.stdout);
            }
            answers.push((recorded.clone(), answer));
        }
        if step["op"] == "ADD" && result["ok"] == true {
            self.cached
                .extend(previous.map(|result| (attachment, result)));
        }
        answers
    }

    /// Sends the probes of a step again.
    fn flows(&mut self, step: &Value) {
        let n = &step["n"];
        let text = fs::read_to_string(self.dir.join("flows.jsonl")).unwrap();
        let all = text.lines().map(|l| serde_json::from_str(l).unwrap());
        let probes: Vec<Value> = all.filter(|p: &Value| p["step"] == *n).collect();
        let seen = flows::run(&self.world, step, &probes);
        for (probe, here) in probes.iter().zip(&seen) {
            self.tally.probes += 1;
            if let Some(wrong) = flows::difference(probe, here) {
                let what = format!(
                    "{} {} -> {}:{} {}{}",
                    probe["kind"],
                    probe["src"],
                    probe["dst"],
                    probe["port"],
                    probe["opts"],
                    probe["note"]
                );
                let text = format!("step {n}, probe {} ({what}): {wrong}", probe["i"]);
                self.tally.differences.push(text);
            }
        }
    }

    fn compare(&mut self, n: u64, recorded: &Value, answer: Option<Answer>) {
        let Some(answer) = answer else {
            let text = format!("step {n}: nobody answers {recorded}");
            return self.tally.differences.push(text);
        };
        self.tally.calls += 1;
        let stdout = self.world.hide(&answer.stdout.unwrap_or(Value::Null));
        if recorded["exit"] != answer.exit || !same(&recorded["stdout"], &stdout) {
            let text = format!("step {n}: {recorded}\n  here: {stdout}");
            self.tally.differences.push(text);
        }
    }

    /// Compares every namespace and the files with what is recorded after a step.
    fn capture(&mut self, n: u64, dir: Option<&PathBuf>) {
        self.world.name_macs();
        if let Some(dir) = dir {
            self.read(dir);
        }
        for ((ns, section), wanted) in &self.wanted {
            let netns = self.world.cluster.netns(self.world.id(ns)).unwrap();
            let here = self
                .world
                .hide(&state::section(&self.world.cluster, netns, section));
            // Names sort differently from what they stand for.
            let here = state::recorded(section, &here);
            self.tally.sections += 1;
            if !same(wanted, &here) {
                let text = format!("step {n}, {ns} {section}:\n{}", difference(wanted, &here));
                self.tally.differences.push(text);
            }
        }
        let Some(dir) = dir.filter(|dir| dir.join("files.json").exists()) else {
            return;
        };
        let wanted = json(&dir.join("files.json"));
        let several = self.case["nodes"].as_array().unwrap().len() > 1;
        let mut here = BTreeMap::new();
        for (node, host) in &self.world.hosts {
            for (path, content) in &host.files {
                let key = if several {
                    format!("{node}:{path}")
                } else {
                    path.clone()
                };
                here.insert(key, content.replace("\r\n", "\n"));
            }
        }
        let here = serde_json::to_value(here).unwrap();
        let here = self.world.hide(&here);
        self.tally.files += 1;
        if !same(&wanted, &here) {
            let text = format!("step {n}: files {wanted}\n  here: {here}");
            self.tally.differences.push(text);
        }
    }

    fn read(&mut self, dir: &Path) {
        for file in entries(dir) {
            let ns = file.file_stem().unwrap().to_str().unwrap().to_owned();
            if ns == "files" {
                continue;
            }
            let state = json(&file);
            for section in state::SECTIONS {
                let value = written(self.dir, &state[section], section);
                let value = state::recorded(section, &value);
                self.wanted.insert((ns.clone(), section), value);
            }
        }
    }
}

/// The lines of two lists that the other does not have.
fn difference(wanted: &Value, here: &Value) -> String {
    let lines = |value: &Value| {
        if let Some(map) = value.as_object() {
            map.iter()
                .map(|(k, v)| format!("{k}: {v}").into())
                .collect()
        } else {
            value.as_array().cloned().unwrap_or_default()
        }
    };
    let (wanted, here): (Vec<Value>, Vec<Value>) = (lines(wanted), lines(here));
    let only = |these: &[Value], those: &[Value], sign: &str| {
        let not = these
            .iter()
            .filter(|line| !those.iter().any(|other| same(line, other)));
        let lines: Vec<String> = not.map(|line| format!("  {sign} {line}\n")).collect();
        lines.concat()
    };
    only(&wanted, &here, "-") + &only(&here, &wanted, "+")
}

#[test]
fn plugins_answer_as_the_real_ones_and_leave_the_same_state() {
    let Some(root) = handbook("oracle/cni") else {
        return;
    };
    let mut differences = Vec::new();
    let (mut cases, mut calls, mut sections, mut files, mut probes) = (0, 0, 0, 0, 0);
    println!(
        "{:24} {:>6} {:>9} {:>6} {:>7}",
        "case", "calls", "sections", "files", "probes"
    );
    let only = std::env::vars().find(|(name, _)| name == "PODWIRE_CNI_CASE");
    let all = entries(&root);
    for dir in all.iter().filter(|p| p.join("case.json").exists()) {
        let case = json(&dir.join("case.json"));
        let name = case["name"].as_str().unwrap().to_owned();
        if only.as_ref().is_some_and(|(_, only)| *only != name) {
            continue;
        }
        if let Some(reason) = not_covered(&case) {
            println!("{name:24} not covered: {reason}");
            continue;
        }
        let tally = match Replay::new(dir, case) {
            Ok(replay) => replay.run(),
            Err(error) => Tally {
                differences: vec![error],
                ..Tally::default()
            },
        };
        println!(
            "{name:24} {:>6} {:>9} {:>6} {:>7}{}",
            tally.calls,
            tally.sections,
            tally.files,
            tally.probes,
            if tally.differences.is_empty() {
                ""
            } else {
                "  DIFFERS"
            }
        );
        cases += 1;
        calls += tally.calls;
        sections += tally.sections;
        files += tally.files;
        probes += tally.probes;
        differences.extend(
            tally
                .differences
                .into_iter()
                .map(|d| format!("{name}, {d}")),
        );
    }
    println!(
        "{:24} {calls:>6} {sections:>9} {files:>6} {probes:>7}",
        "in all"
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(
        calls > 0 && sections > 0 && files > 0 && probes > 0,
        "nothing of {} could be replayed",
        root.display()
    );
    crate::referee::checked(
        "cni-calls",
        &format!(
            "{cases} cases, {calls} calls, {sections} sections of states, {files} states of the files"
        ),
    );
    crate::referee::checked("cni-flows", &format!("{probes} probes"));
}

/// The rules of one node: the `nat` tables of both families.
type Nat = [TableRules; 2];

fn family_of(net: IpNet) -> usize {
    usize::from(net.addr().is_ipv6())
}

fn change(table: &mut TableRules, edit: NatEdit) {
    for (name, rules) in edit.chains {
        table.chains.entry(name).or_default().rules = rules.into();
    }
    table.chains.retain(|name, _| !edit.delete.contains(name));
}

/// Makes a recorded call of `portmap` again, as far as it changes rules. Calls that failed changed none.
fn map_ports(recorded: &Value, nat: &mut Nat) {
    let stdin = &recorded["stdin"];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let number = |value: &Value| u16::try_from(value.as_u64().unwrap_or(0)).unwrap();
    let protocol = |value: &Value| match &*text(value) {
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let listed = stdin["runtimeConfig"]["portMappings"].as_array();
    let mappings: Vec<PortMapping> = listed
        .into_iter()
        .flatten()
        .map(|m| PortMapping {
            host_port: number(&m["hostPort"]),
            container_port: number(&m["containerPort"]),
            protocol: protocol(&m["protocol"]),
            host_ip: m["hostIP"].as_str().and_then(|ip| ip.parse().ok()),
        })
        .collect();
    if mappings.is_empty() || recorded["exit"] != 0 {
        return;
    }
    let (network, id) = (
        text(&stdin["name"]),
        text(&recorded["env"]["CNI_CONTAINERID"]),
    );
    let bit = stdin["markMasqBit"]
        .as_u64()
        .map(|bit| Marking::Bit(u8::try_from(bit).unwrap()));
    let chain = stdin["externalSetMarkChain"]
        .as_str()
        .map(|name| Marking::Chain(name.into()));
    let wanted = Forwarding {
        network: &network,
        container_id: &id,
        mappings: &mappings,
        marking: &bit.or(chain).unwrap_or_default(),
        snat: Snat::default(),
        conditions: &[],
        origin: OriginId::default(),
    };
    match recorded["command"].as_str() {
        Some("ADD") => {
            for ip in stdin["prevResult"]["ips"].as_array().unwrap() {
                let address: IpNet = ip["address"].as_str().unwrap().parse().unwrap();
                let table = &mut nat[family_of(address)];
                let edit = portmap::forward(table, address, &wanted);
                change(table, edit);
            }
        }
        Some("DEL") => {
            for table in nat {
                let edit = portmap::unforward(table, &portmap::chain_name(&network, &id));
                change(table, edit);
            }
        }
        _ => {}
    }
}

/// The rules of `portmap` in a dump: of its chains, and those that lead to them.
fn of_portmap(lines: impl Iterator<Item = String>) -> Vec<String> {
    let own = |line: &String| {
        line.starts_with("-A") && (line.contains("CNI-HOSTPORT") || line.contains("CNI-DN-"))
    };
    let mut own: Vec<String> = lines.filter(own).collect();
    // Chains stand in the order of their names in one dump, and of their making in another.
    own.sort_by_key(|line| line.split(' ').nth(1).unwrap().to_owned());
    own
}

#[test]
fn host_ports_are_forwarded_by_the_recorded_rules() {
    let Some(root) = handbook("oracle/cni") else {
        return;
    };
    let (mut compared, mut differences) = (0, Vec::new());
    for case in entries(&root)
        .iter()
        .filter(|p| p.join("case.json").exists())
    {
        let description = json(&case.join("case.json"));
        let name = description["name"].as_str().unwrap();
        let mut nodes: BTreeMap<String, Nat> = BTreeMap::new();
        for (step, result) in results(case) {
            let pod = result["pod"].as_str().unwrap_or("");
            let Some(node) = description["pods"][pod].as_str() else {
                continue;
            };
            let nat = nodes.entry(node.to_owned()).or_default();
            for call in result["calls"].as_array().unwrap() {
                let nftables = call["stdin"]["backend"] == "nftables";
                if call["plugin"] == "portmap" && !nftables {
                    map_ports(call, nat);
                }
            }
            let state = entries(case).into_iter().find(|dir| {
                let dir = dir.file_name().unwrap().to_string_lossy().into_owned();
                dir.starts_with(&format!("state-{step:02}-"))
            });
            let state = state.map(|dir| dir.join(format!("{node}.json")));
            let Some(state) = state.filter(|file| file.exists()).map(|file| json(&file)) else {
                continue;
            };
            for (n, family) in Family::ALL.into_iter().enumerate() {
                let key = ["iptables", "ip6tables"][n];
                let Some(lines) = state[key].as_array() else {
                    continue;
                };
                let wanted = of_portmap(lines.iter().map(|l| l.as_str().unwrap().to_owned()));
                let mut dump = String::new();
                nat[n].save(Table::Nat, family, &mut dump);
                let here = of_portmap(dump.lines().map(str::to_owned));
                compared += usize::from(!wanted.is_empty());
                if here != wanted {
                    differences.push(format!(
                        "{name}, step {step}, {key}:\n{wanted:#?}\nhere:\n{here:#?}"
                    ));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(compared > 0, "no rules of portmap in {}", root.display());
    crate::referee::checked("portmap-rules", &format!("{compared} dumps"));
}
