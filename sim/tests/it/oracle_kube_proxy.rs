//! kube-proxy's rules against those that the real program wrote, case by case, in the form that `README.md` of the
//! collection describes. Cases come from `PODWIRE_ORACLE`, so others of the same form can be run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use podwire::cli::{Exit, run};

/// Chains between whose service ports the real program keeps no order.
const UNORDERED: [&str; 4] = [
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-PROXY-FIREWALL",
];

/// Tables and chains of a saved ruleset, each chain with its rules.
fn chains(saved: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut chains: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut table = String::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(chain) = line.strip_prefix(':') {
            let (name, policy) = chain.split_once(' ').unwrap();
            let rules = chains.entry((table.clone(), name.to_owned())).or_default();
            rules.insert(0, policy.to_owned());
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let name = rule.split(' ').next().unwrap();
            let chain = (table.clone(), name.to_owned());
            chains.entry(chain).or_default().push(rule.to_owned());
        }
    }
    for ((_, name), rules) in &mut chains {
        if UNORDERED.contains(&name.as_str()) {
            rules.sort();
        }
    }
    chains
}

/// Returns the first chain that differs.
fn difference(real: &str, ours: &str) -> Option<String> {
    let (real, ours) = (chains(real), chains(ours));
    let names: std::collections::BTreeSet<_> = real.keys().chain(ours.keys()).collect();
    names.into_iter().find_map(|name| {
        let (real, ours) = (real.get(name), ours.get(name));
        (real != ours).then(|| format!("{name:?}\nreal {real:#?}\nours {ours:#?}"))
    })
}

/// Flags of kube-proxy that have a meaning here.
const FLAGS: [&str; 9] = [
    "--cluster-cidr",
    "--detect-local-mode",
    "--pod-bridge-interface",
    "--pod-interface-name-prefix",
    "--masquerade-all",
    "--nodeport-addresses",
    "--iptables-localhost-nodeports",
    "--iptables-masquerade-bit",
    "--conntrack-tcp-be-liberal",
];

/// The text of a file of a case, which may be compressed.
fn text(case: &Path, name: &str) -> Option<String> {
    let plain = case.join(name);
    if plain.exists() {
        return Some(fs::read_to_string(plain).unwrap());
    }
    let packed = case.join(format!("{name}.gz"));
    if !packed.exists() {
        return None;
    }
    let output = Command::new("gzip")
        .arg("-dc")
        .arg(&packed)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: gzip", packed.display());
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What names a document: the first `kind`, and name and namespace of its metadata.
fn identity(document: &str) -> (String, String, String) {
    let mut in_metadata = false;
    let (mut kind, mut name, mut namespace) = (String::new(), String::new(), String::new());
    for line in document.lines() {
        if !line.starts_with(' ') {
            in_metadata = line.trim_end() == "metadata:";
        }
        let value = |key: &str| {
            line.strip_prefix(key)
                .map(|v| v.trim().trim_matches(['\'', '"']).to_owned())
        };
        if let Some(found) = value("kind:") {
            kind = found;
        }
        if in_metadata {
            name = value("  name:").unwrap_or(name);
            namespace = value("  namespace:").unwrap_or(namespace);
        }
    }
    (kind, namespace, name)
}

/// The objects after the watch events of `updates.yaml`.
pub(crate) fn updated(objects: &str, updates: &str) -> String {
    let documents = |text: &str| -> Vec<String> {
        let all = text
            .split("\n---\n")
            .map(|d| d.trim_start_matches("---\n").to_owned());
        all.filter(|d| !d.trim().is_empty()).collect()
    };
    let mut all: Vec<String> = documents(objects);
    for event in documents(updates) {
        let kind = event
            .lines()
            .find_map(|l| l.strip_prefix("type: "))
            .unwrap();
        let object = event.split_once("object:\n").unwrap().1;
        let object: Vec<&str> = object
            .lines()
            .map(|l| l.strip_prefix("  ").unwrap_or(l))
            .collect();
        let object = object.join("\n");
        let named = identity(&object);
        assert!(!named.2.is_empty(), "an event names its object: {event}");
        let before = all.len();
        all.retain(|document| identity(document) != named);
        match kind.trim() {
            "ADDED" => assert_eq!(all.len(), before, "{named:?} is new"),
            "MODIFIED" | "DELETED" => assert_eq!(all.len() + 1, before, "{named:?} was there"),
            other => panic!("an event of type {other}"),
        }
        if kind.trim() != "DELETED" {
            all.push(object);
        }
    }
    all.join("\n---\n")
}

/// Compares what a tool prints for some objects with each outcome that was seen; nothing if it is one of them.
fn differs(about: &str, objects: &Path, tool: &str, real: &[String]) -> Option<String> {
    let lines = || about.lines().map(str::trim);
    let node = lines()
        .find_map(|line| line.strip_prefix("node: "))
        .unwrap();
    let thing = format!("node/{node}");
    let mut words = vec!["podwire", "exec", &thing, "--kubernetes", "1.30"];
    words.extend(["-f", objects.to_str().unwrap()]);
    words.extend(lines().filter(|line| FLAGS.contains(&line.split('=').next().unwrap())));
    // Addresses of the node that its object does not tell.
    let written = fs::read_to_string(objects).unwrap();
    let known = |address: &str| written.contains(address.split('/').next().unwrap());
    let addresses = about.lines().skip_while(|line| *line != "node-addresses:");
    let more: Vec<String> = addresses
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(dev, address)| *dev != "lo" && !known(address))
        .flat_map(|(_, addresses)| addresses.split([',', ' ']).filter(|a| !a.is_empty()))
        .map(|address| format!("--node-address={node}={address}"))
        .collect();
    words.extend(more.iter().map(String::as_str));
    words.extend(["--component", "kube-proxy", "--", tool]);
    let report = run(words);
    if report.exit != Exit::Well {
        return Some(report.stderr);
    }
    let mut differences: Vec<String> = Vec::new();
    for real in real {
        differences.push(difference(real, &report.stdout)?);
    }
    Some(differences.swap_remove(0))
}

#[test]
fn kube_proxy_rules_are_those_of_the_real_program() {
    let Some(root) = crate::handbook("oracle/kube-proxy") else {
        return;
    };
    let mut cases: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|path| path.join("node.txt").exists())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    let scratch = std::env::temp_dir().join(format!("podwire-oracle-{}", std::process::id()));
    fs::create_dir_all(&scratch).unwrap();
    let (mut same, mut compared, mut wrong) = (0, 0, Vec::new());
    for case in &cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let about = text(case, "node.txt").unwrap();
        let objects = text(case, "objects.yaml").unwrap();
        let before = scratch.join(format!("{name}.yaml"));
        fs::write(&before, &objects).unwrap();
        let mut good = true;
        let mut compare = |objects: &Path, tool: &str, real: &[String]| {
            if !real.is_empty() {
                compared += 1;
                if let Some(difference) = differs(&about, objects, tool, real) {
                    good = false;
                    wrong.push(format!("{name} {tool}: {difference}"));
                }
            }
        };
        for tool in ["iptables-save", "ip6tables-save"] {
            let variants = (1..).map_while(|n| text(case, &format!("{tool}.variant-{n}.txt")));
            let seen: Vec<String> = text(case, &format!("{tool}.txt"))
                .into_iter()
                .chain(variants)
                .collect();
            compare(&before, tool, &seen);
        }
        if let (Some(after), Some(updates)) = (
            text(case, "iptables-save.after.txt"),
            text(case, "updates.yaml"),
        ) {
            let path = scratch.join(format!("{name}.after.yaml"));
            fs::write(&path, updated(&objects, &updates)).unwrap();
            compare(&path, "iptables-save", &[after]);
        }
        same += usize::from(good);
    }
    fs::remove_dir_all(&scratch).unwrap();
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(compared >= cases.len(), "every case has rules");
    let how_much = format!("{same} cases, {compared} sets of rules");
    crate::referee::checked("proxy-rules", &how_much);
}
