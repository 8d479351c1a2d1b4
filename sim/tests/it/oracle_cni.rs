//! What the real CNI plugins answered, call by call, and which files they left (`oracle/cni`).
//!
//! Every recorded call of a plugin that can be called here is made again, in order, with the recorded environment and
//! configuration: exit status and output must be the recorded ones, and after each captured step the node's files too.
//! Calls that a plugin not modelled as a program would have to answer are counted, unless the protocol alone answers them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podwire_models::base::{Family, OriginId, Protocol};
use podwire_models::control::cni::plugin::call::{ALL_VERSIONS, PluginError, dispatch};
use podwire_models::control::cni::plugin::portmap::{
    self, Forwarding, Marking, NatEdit, PortMapping,
};
use podwire_models::control::cni::plugin::{Answer, Call, Files, Plugin};
use podwire_models::kernel::netfilter::chain::{Table, TableRules};
use serde_json::Value;

use crate::handbook;

/// What came of the calls of one case.
#[derive(Debug, Default)]
struct Tally {
    agreed: usize,
    not_modelled: usize,
    captures: usize,
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

/// The captured files of the node, by step; line ends as the recording has them.
fn captured(case: &Path) -> BTreeMap<u64, Value> {
    let step = |p: &PathBuf| {
        let name = p
            .file_name()?
            .to_str()?
            .strip_prefix("state-")?
            .get(..2)?
            .to_owned();
        let files = p.join("files.json");
        files
            .exists()
            .then(|| (name.parse().unwrap(), json(&files)))
    };
    entries(case).iter().filter_map(step).collect()
}

/// Makes a recorded call again. None: only the plugin's own code could have answered, and it is not a program here.
fn again(recorded: &Value, files: &mut Files) -> Option<Answer> {
    let env = |name: &str| recorded["env"][name].as_str().unwrap_or("");
    let stdin = &recorded["stdin"];
    let stdin = if stdin.is_null() {
        String::new()
    } else {
        stdin.to_string()
    };
    let call = Call {
        command: env("CNI_COMMAND"),
        container_id: env("CNI_CONTAINERID"),
        netns: env("CNI_NETNS"),
        ifname: env("CNI_IFNAME"),
        args: env("CNI_ARGS"),
        path: "/opt/cni/bin",
        stdin: &stdin,
    };
    let name = recorded["plugin"].as_str().unwrap();
    if let Some(plugin) = Plugin::ALL.into_iter().find(|p| p.name() == name) {
        return Some(plugin.call(&call, files));
    }
    let versions: &[&str] = match name {
        "bandwidth" => &ALL_VERSIONS[2..],
        _ => &ALL_VERSIONS,
    };
    let mut reached = false;
    let answer = dispatch(&call, versions, |_| {
        reached = true;
        Err(PluginError::internal("not modelled"))
    });
    (!reached).then_some(answer)
}

fn replay(case: &Path) -> Tally {
    let mut tally = Tally::default();
    let mut files = Files::new();
    let mut whole = true;
    let mut captured = captured(case);
    for (step, result) in results(case) {
        for recorded in result["calls"].as_array().unwrap() {
            let Some(answer) = again(recorded, &mut files) else {
                tally.not_modelled += 1;
                whole = false;
                continue;
            };
            let wanted = (recorded["exit"].as_u64(), &recorded["stdout"]);
            let stdout = answer.stdout.unwrap_or(Value::Null);
            if wanted == (Some(answer.exit.into()), &stdout) {
                tally.agreed += 1;
            } else {
                tally
                    .differences
                    .push(format!("step {step}: {recorded}\n  here: {stdout}"));
            }
        }
        // Files of a case in which other plugins run are theirs too.
        if let Some(wanted) = captured.remove(&step).filter(|_| whole) {
            let here: BTreeMap<&String, String> = files
                .iter()
                .map(|(path, content)| (path, content.replace("\r\n", "\n")))
                .collect();
            let here = serde_json::to_value(here).unwrap();
            if here == wanted {
                tally.captures += 1;
            } else {
                tally
                    .differences
                    .push(format!("step {step}: files {wanted}\n  here: {here}"));
            }
        }
    }
    tally
}

#[test]
fn plugins_answer_as_the_real_ones() {
    let Some(root) = handbook("oracle/cni") else {
        return;
    };
    let mut differences = Vec::new();
    let (mut agreed, mut states) = (0, 0);
    println!(
        "{:24} {:>6} {:>8} {:>12}",
        "case", "agreed", "captures", "not modelled"
    );
    for case in entries(&root)
        .iter()
        .filter(|p| p.join("case.json").exists())
    {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let tally = replay(case);
        let Tally {
            agreed: same,
            captures,
            not_modelled,
            ..
        } = &tally;
        println!("{name:24} {same:>6} {captures:>8} {not_modelled:>12}");
        agreed += tally.agreed;
        states += tally.captures;
        differences.extend(
            tally
                .differences
                .into_iter()
                .map(|d| format!("{name}, {d}")),
        );
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(
        agreed > 0,
        "no call of {} could be made again",
        root.display()
    );
    crate::referee::checked(
        "cni-calls",
        &format!("{agreed} calls, {states} states of the files"),
    );
}

/// The rules of one node: the `nat` tables of both families.
type Nat = [TableRules; 2];

fn family_of(net: IpNet) -> usize {
    usize::from(net.addr().is_ipv6())
}

fn change(table: &mut TableRules, edit: NatEdit) {
    for (name, rules) in edit.chains {
        table.chains.entry(name).or_default().rules = rules;
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
