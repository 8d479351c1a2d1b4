//! What the real CNI plugins answered, call by call, and which files they left (`oracle/cni`).
//!
//! Every recorded call of a plugin that can be called here is made again, in order, with the recorded environment and
//! configuration: exit status and output must be the recorded ones, and after each captured step the node's files too.
//! Calls that a plugin not modelled as a program would have to answer are counted, unless the protocol alone answers them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use podwire_models::control::cni::plugin::call::{ALL_VERSIONS, PluginError, dispatch};
use podwire_models::control::cni::plugin::{Answer, Call, Files, Plugin};
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
    let mut agreed = 0;
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
}
