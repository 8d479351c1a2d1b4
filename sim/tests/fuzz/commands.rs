//! Command lines: whatever stands there is done or refused, with the exit code of one or the other.

use std::fs;
use std::path::Path;

use super::drive::drive_texts;

/// Commands that neither write a file nor wait for the standard input.
const HARMLESS: [&str; 10] = [
    "run",
    "trace",
    "reach",
    "diff",
    "get",
    "exec",
    "explain",
    "completions",
    "man",
    "--help",
];

/// Words that would write one, or wait.
const HARMFUL: [&str; 4] = ["--out", "--junit", "--update", "-"];

/// One word a line; `FILE` and `STORY` stand for files.
const LINES: &[&str] = &[
    "get\npods\n-f\nFILE",
    "get\nendpoints\n-f\nFILE\n-o\njson",
    "get\nsvc\n-f\nFILE\n-o\nyaml",
    "get\nnetpol\n-n\nshop\n-f\nFILE",
    "get\npods\n-f\nSTORY\n--at\n5s",
    "get\nnodes\n-f\nFILE\n--profile\nflannel-vxlan\n--nodes\n3\n--pod-cidr\n10.244.0.0/16,fd00:10:244::/56\n--service-cidr\n10.96.0.0/16,fd00:10:96::/112",
    "exec\nnode/node-a\n-f\nFILE\n--\niptables-save\n-t\nnat",
    "exec\nnode/node-a\n-f\nFILE\n--\nip\nroute",
    "exec\npod/shop/client\n-f\nFILE\n--\nip\naddr",
    "exec\npod/shop/client\n-f\nFILE\n--\nping\n-c\n2\n10.244.1.2",
    "exec\npod/shop/client\n-f\nFILE\n--\ncurl\n-m\n3\nhttp://three.shop:80/",
    "exec\npod/shop/client\n-f\nFILE\n--\ndig\n+search\nthree\nA\n@10.96.0.10",
    "exec\nnode/node-a\n-f\nFILE\n--\nsysctl\nnet.ipv4.ip_forward",
    "exec\nnode/node-a\n-f\nSTORY\n--at\n3s\n--\nconntrack\n-L",
    "exec\npod/shop/client\n-f\nFILE\n--\ntraceroute\n-n\n-m\n5\n10.244.1.2",
    "trace\n-f\nFILE\n--from\npod/shop/client\n--to\nsvc/shop/three:80\n--detail\ndetailed",
    "trace\n-f\nFILE\n--from\nnode/node-a\n--to\n10.96.0.1:443\n--proto\nudp\n-o\njson",
    "trace\n-f\nSTORY\n--from\npod/shop/client\n--to\nsvc/shop/three:80\n--at\n2s\n--seed\n5",
    "trace\n-f\nFILE\n--host\nbrowser=203.0.113.7,via=node-a\n--from\nhost/browser\n--to\nnode/node-a:443",
    "reach\n-f\nFILE\n--to\npod/shop/client\n--port\n80/TCP",
    "reach\n-f\nFILE\n--from\nns/shop\n-o\njson",
    "diff\nFILE\nFILE",
    "explain\nSVC_NO_ENDPOINTS",
    "completions\nzsh",
    "man\ntrace",
    "run\nSTORY\n--twice\n--seed\n7",
    "run\nSTORY\n-o\njson",
    "get\npods\n-f\nFILE\n--kubernetes\n1.32\n--masquerade-all\n--cluster-cidr\n10.0.0.0/8\n--detect-local-mode\nBridgeInterface\n--pod-bridge-interface\ncni0\n--nodeport-addresses\nprimary\n--node-address\nnode-a=172.16.5.11/24",
];

fn file(name: &str) -> String {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(name);
    let text = include_str!("cluster.yaml");
    let text = if name.ends_with("ron") {
        let story = include_str!("story.ron");
        story.replace("OBJECTS", text)
    } else {
        text.to_owned()
    };
    if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
        fs::write(&path, &text).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

#[test]
fn commands_are_done_or_refused() {
    let (objects, story) = (file("cluster.yaml"), file("story.ron"));
    let check = |text: &str| {
        let words: Vec<String> = text
            .split('\n')
            .map(|word| word.replace("FILE", &objects).replace("STORY", &story))
            .collect();
        let harmless = words
            .first()
            .is_some_and(|word| HARMLESS.contains(&word.as_str()));
        let harmful = words.iter().any(|word| {
            HARMFUL
                .iter()
                .any(|h| word == h || h.len() > 1 && word.starts_with(h))
        });
        // Somebody else's files are no part of this.
        let elsewhere = words.iter().any(|word| {
            let path = word.strip_prefix("-f").unwrap_or(word);
            Path::new(path.trim_start_matches('=')).is_dir()
        });
        if !harmless || harmful || elsewhere {
            return false;
        }
        let program = std::iter::once("podwire".to_owned());
        let report = podwire::cli::run(program.chain(words));
        match report.exit.code() {
            0 => true,
            1 => !report.stdout.is_empty(),
            2 => {
                assert!(!report.stderr.is_empty());
                false
            }
            code => panic!("exit code {code}"),
        }
    };
    let corpus: Vec<String> = LINES.iter().map(|line| (*line).to_owned()).collect();
    for line in &corpus {
        assert!(check(line), "{line:?} is not done");
    }
    drive_texts("commands", 500, &corpus, &check);
}
