//! The command line: how commands end, what they teach, and `iptables-save` against the real kube-proxy.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use podwire::cli::{Exit, Report, run};

const COMMANDS: [&str; 12] = [
    "run",
    "test",
    "bench",
    "selftest",
    "trace",
    "reach",
    "diff",
    "get",
    "exec",
    "explain",
    "completions",
    "man",
];

const SHOP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec:
      containers: [{name: main, image: cart, ports: [{containerPort: 7070}]}]
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.17, selector: {app: cart}, ports: [{port: 80, targetPort: 7070}]}
---
apiVersion: v1
kind: Service
metadata: {name: crt, namespace: shop}
spec: {clusterIP: 10.96.0.18, selector: {app: crt}, ports: [{port: 80, targetPort: 7070}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: main, image: web}]}
";

/// Writes a manifest for one test.
fn manifest(test: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.yaml"));
    fs::write(&path, text).unwrap();
    path
}

/// Runs `podwire WORDS… -f FILE`, with what stands behind `--` behind it.
fn podwire(file: &Path, words: &[&str]) -> Report {
    let input = ["-f", file.to_str().unwrap()];
    let behind = words.iter().position(|word| *word == "--");
    let (own, command) = words.split_at(behind.unwrap_or(words.len()));
    run(["podwire"].iter().chain(own).chain(&input).chain(command))
}

#[test]
fn every_command_teaches_with_an_example() {
    for command in COMMANDS {
        let help = run(["podwire", command, "--help"]);
        assert_eq!(help.exit, Exit::Well);
        let example = format!("podwire {command} ");
        assert!(help.stdout.contains("Examples:"), "{}", help.stdout);
        assert!(help.stdout.contains(&example), "{}", help.stdout);
        assert_eq!(run(["podwire", "man", command]).exit, Exit::Well);
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(["podwire", "completions", shell]).stdout;
        for name in ["flannel-host-gw", "1.34", "detailed"] {
            assert!(script.contains(name), "{shell} does not complete {name}");
        }
        // What fish is given completes options only.
        for name in ["SVC_NO_ENDPOINTS", "networkpolicies"] {
            assert_eq!(script.contains(name), shell != "fish", "{shell}: {name}");
        }
    }
}

#[test]
fn wrong_command_lines_end_with_2() {
    let file = manifest("wrong", SHOP);
    for words in [
        vec!["nonsense"],
        vec!["get", "cookies"],
        vec!["get", "pods", "--profile", "calicoo"],
        vec!["get", "pods", "--kubernetes", "1.2"],
        vec!["get", "pods", "--pod-cidr", "10.244.1.0/16"],
        vec!["get", "pods", "no-such-pod"],
        vec!["exec", "node/node-z", "--", "ip", "addr"],
        vec!["exec", "svc/shop/cart", "--", "ip", "addr"],
        vec!["exec", "node/node-a", "--", "reboot"],
        vec!["exec", "node/node-a", "--", "sysctl", "net.ipv4.nonsense"],
        vec![
            "exec",
            "node/node-a",
            "--component",
            "kube-proxy",
            "--",
            "ip",
            "addr",
        ],
        vec![
            "trace",
            "--from",
            "pod/shop/web",
            "--to",
            "svc/shop/nothing:80",
        ],
    ] {
        let report = podwire(&file, &words);
        assert_eq!(report.exit, Exit::BadInput, "{words:?}: {}", report.stdout);
        assert_eq!(report.stdout, "", "{words:?}");
        assert!(
            report.stderr.contains("error"),
            "{words:?}: {}",
            report.stderr
        );
    }
    assert_eq!(run(["podwire", "get", "pods"]).exit.code(), 2);
    assert_eq!(run(["podwire", "explain", "NO_SUCH_CODE"]).exit.code(), 2);
}

#[test]
fn a_wrong_manifest_is_pointed_at() {
    let file = manifest("typo", &SHOP.replace("targetPort", "targetprt"));
    let report = podwire(&file, &["get", "pods"]);
    assert_eq!(report.exit, Exit::BadInput);
    assert!(report.stderr.contains("typo.yaml:15"), "{}", report.stderr);
    assert!(report.stderr.contains("targetPort"), "{}", report.stderr);
    let missing = podwire(Path::new("no-such-file.yaml"), &["get", "pods"]);
    assert!(missing.stderr.contains("FILE_UNREADABLE"));
}

#[test]
fn what_is_not_modelled_is_said() {
    let text =
        format!("{SHOP}---\napiVersion: example.com/v1\nkind: Thing\nmetadata: {{name: x}}\n");
    let file = manifest("gaps", &text);
    let report = podwire(&file, &["get", "pods"]);
    assert_eq!(report.exit, Exit::Well);
    assert!(
        report.stderr.contains("not modelled (1)"),
        "{}",
        report.stderr
    );
    let json = podwire(&file, &["get", "pods", "-o", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["not_modelled"].as_array().unwrap().len(), 1);
}

#[test]
fn a_code_has_a_page() {
    let page = run(["podwire", "explain", "svc_no_endpoints"]);
    assert!(page.stdout.contains("What to do"), "{}", page.stdout);
    let list = run(["podwire", "explain", "--list", "-o", "json"]).stdout;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert!(list["codes"].as_array().unwrap().len() > 60);
    let near = run(["podwire", "explain", "SVC_NO_ENDPOINT"]).stderr;
    assert!(near.contains("did you mean `SVC_NO_ENDPOINTS`"), "{near}");
}

#[test]
fn objects_are_shown_as_kubectl_shows_them() {
    let file = manifest("get", SHOP);
    let endpoints = podwire(&file, &["get", "endpoints", "-n", "shop"]);
    let lines: Vec<&str> = endpoints.stdout.lines().collect();
    assert!(lines[0].starts_with("NAMESPACE   NAME   ENDPOINTS"));
    assert!(lines[1].contains(":7070,10.244."), "{}", endpoints.stdout);
    assert!(lines[2].ends_with("<none>"));
    for kind in ["pods", "svc", "nodes", "endpointslices", "netpol"] {
        let report = podwire(&file, &["get", kind, "-o", "wide"]);
        assert_eq!(report.exit, Exit::Well, "{}", report.stderr);
    }
}

#[test]
fn yaml_of_get_is_an_input_again() {
    let file = manifest("get-yaml", SHOP);
    let mut all = String::new();
    for kind in ["nodes", "pods", "svc", "endpointslices"] {
        let report = podwire(&file, &["get", kind, "-o", "yaml"]);
        assert!(report.stdout.starts_with("apiVersion: v1\nitems:\n- "));
        all.push_str("---\n");
        all.push_str(&report.stdout);
    }
    let settled = manifest("get-yaml-settled", &all);
    for kind in ["nodes", "pods", "svc", "endpointslices", "endpoints"] {
        let shown = |file| podwire(file, &["get", kind, "-o", "wide"]).stdout;
        assert_eq!(shown(&file), shown(&settled), "{kind}");
    }
    let one = podwire(&file, &["get", "ep", "cart", "-n", "shop", "-o", "yaml"]).stdout;
    assert!(
        one.starts_with("apiVersion: v1\nkind: Endpoints\n"),
        "{one}"
    );
    assert!(one.contains("- addresses:\n  - ip: 10.244."), "{one}");
}

#[test]
fn tools_print_what_is_there() {
    let file = manifest("exec", SHOP);
    for (words, expected) in [
        ("iptables-save", "-A KUBE-SERVICES -d 10.96.0.17/32"),
        ("iptables-save -t nat", "*nat"),
        ("ip route", "default via 172.18.0.1 dev eth0"),
        ("ip addr", "inet 172.18.0.2/16"),
        ("ip link", "1: lo: <LOOPBACK,UP,LOWER_UP>"),
        ("sysctl net.ipv4.ip_forward", "net.ipv4.ip_forward = 1"),
        ("sysctl -a", "net.netfilter.nf_conntrack_max = "),
    ] {
        let mut command = vec!["exec", "node/node-a", "--"];
        command.extend(words.split(' '));
        let report = podwire(&file, &command);
        assert!(
            report.stdout.contains(expected),
            "{words}: {}",
            report.stdout
        );
    }
    for words in ["ip6tables-save", "ip neigh", "bridge fdb", "conntrack -L"] {
        let mut command = vec!["exec", "node/node-a", "--"];
        command.extend(words.split(' '));
        assert_eq!(podwire(&file, &command).exit, Exit::Well, "{words}");
    }
    let listens = podwire(&file, &["exec", "deploy/shop/cart", "--", "ss", "-ltn"]);
    assert!(listens.stdout.contains("*:7070"), "{}", listens.stdout);
}

#[test]
fn a_trace_tells_every_outcome_with_its_chance() {
    let file = manifest("trace", SHOP);
    let trace = |to: &str| {
        let words = ["trace", "--from", "pod/shop/web", "--to", to, "-o", "json"];
        let report = podwire(&file, &words);
        assert_eq!(report.exit, Exit::Well, "{}", report.stderr);
        serde_json::from_str::<serde_json::Value>(&report.stdout).unwrap()
    };
    let good = trace("svc/shop/cart:80");
    assert_eq!(good["schema"], "podwire.trace/v1");
    assert_eq!(good["verdict"], "connected");
    let outcomes = good["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        assert_eq!(outcome["chance"], "1/2");
        assert!(outcome["backend"].as_str().unwrap().ends_with(":7070"));
        assert!(!outcome["steps"].as_array().unwrap().is_empty());
    }
    let bad = trace("svc/shop/crt:80");
    assert_eq!(bad["verdict"], "refused");
    let why = &bad["outcomes"][0]["why"][0];
    assert_eq!(why["code"], "SVC_NO_ENDPOINTS");
    assert_eq!(why["object"], "Service/shop/crt");
    assert!(
        why["origin"].as_str().unwrap().ends_with("trace.yaml:20"),
        "{why}"
    );
}

#[test]
fn a_host_outside_may_have_a_way_in() {
    let file = manifest("via", SHOP);
    let routes = |host: &str| {
        let words = ["exec", "host/office", "--host", host, "--", "ip", "route"];
        podwire(&file, &words)
    };
    let with = routes("office=172.18.0.50,via=node-a").stdout;
    assert!(
        with.contains("10.244.0.0/16 via 172.18.0.2 dev eth0"),
        "{with}"
    );
    assert!(
        with.contains("10.96.0.0/16 via 172.18.0.2 dev eth0"),
        "{with}"
    );
    let without = routes("office=172.18.0.50").stdout;
    assert!(!without.contains("10.244.0.0/16"), "{without}");
    assert_eq!(
        routes("office=172.18.0.50,over=node-a").exit,
        Exit::BadInput
    );
}

#[test]
fn a_trace_asks_in_the_middle_of_a_story() {
    let scenario = "../scenarios/lifecycle/pod_killed.ron";
    let trace = |more: &[&str]| {
        let words = [
            "podwire",
            "trace",
            "-f",
            scenario,
            "--from",
            "pod/shop/client",
            "--to",
        ];
        run(words
            .iter()
            .chain(&["svc/shop/cart:80", "-o", "json"])
            .chain(more))
    };
    let outcomes = |at: &str| -> Vec<(String, String)> {
        let report = trace(&["--at", at]);
        assert_eq!(report.exit, Exit::Well, "{}", report.stderr);
        let json: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
        let outcomes = json["outcomes"].as_array().unwrap().iter();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("nobody").to_owned();
        outcomes
            .map(|o| (text(&o["chance"]), text(&o["pod"])))
            .collect()
    };
    let all = |chance: &str, pods: &[&str]| -> Vec<(String, String)> {
        pods.iter()
            .map(|pod| (chance.to_owned(), (*pod).to_owned()))
            .collect()
    };
    let three = ["shop/cart-0", "shop/cart-1", "shop/cart-2"];
    assert_eq!(outcomes("1s"), all("1/3", &three));
    // The pod is dead, and nobody has noticed.
    let unnoticed = ["shop/cart-0", "nobody", "shop/cart-2"];
    assert_eq!(outcomes("5200ms"), all("1/3", &unnoticed));
    assert_eq!(outcomes("8s"), all("1/2", &["shop/cart-0", "shop/cart-2"]));
    assert_eq!(outcomes("35s"), all("1/3", &three));
    for wrong in [
        &["--profile", "calico"][..],
        &["-f", "x.yaml"],
        &["--at", "soon"],
    ] {
        assert_eq!(trace(wrong).exit, Exit::BadInput, "{wrong:?}");
    }
    let file = manifest("at", SHOP);
    let words = [
        "trace",
        "--from",
        "pod/shop/web",
        "--to",
        "svc/shop/cart:80",
        "--at",
        "1s",
    ];
    let objects = podwire(&file, &words);
    assert!(objects.stderr.contains("no story"), "{}", objects.stderr);
}

#[test]
fn objects_and_commands_are_shown_in_the_middle_of_a_story() {
    let scenario = "../scenarios/lifecycle/pod_killed.ron";
    let ask = |words: &[&str]| {
        let report = run(["podwire"].iter().chain(words));
        assert_eq!(report.exit, Exit::Well, "{}", report.stderr);
        report.stdout
    };
    let endpoints = |at: &str| ask(&["get", "ep", "cart", "-f", scenario, "--at", at]);
    for (at, there) in [("5200ms", true), ("7s", false), ("35s", true)] {
        let shown = endpoints(at);
        assert_eq!(shown.contains("10.244.1.3:8080"), there, "{at}: {shown}");
    }
    let exec = |at: &str, command: &str| {
        let words = ["exec", "pod/shop/client", "-f", scenario, "--at", at, "--"];
        let words: Vec<&str> = words.into_iter().chain(command.split(' ')).collect();
        ask(&words)
    };
    assert!(exec("4s", "ping 10.244.1.3").contains("1 received"));
    assert!(exec("5s", "ping 10.244.1.3").contains("0 received"));
    let node = |at: &str| {
        let words = [
            "exec",
            "node/node-a",
            "-f",
            scenario,
            "--at",
            at,
            "--",
            "conntrack",
            "-L",
        ];
        ask(&words)
    };
    assert_eq!(node("500ms"), "");
    assert!(node("2s").contains("TIME_WAIT src=10.244.0.3 dst=10.96."));
}

#[test]
fn a_workload_without_a_running_pod_says_why() {
    let text = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {nodeSelector: {disk: ssd}, containers: [{name: main, image: web}]}
";
    let file = manifest("unplaced", text);
    let report = podwire(
        &file,
        &["trace", "--from", "deploy/shop/web", "--to", "10.0.0.1:80"],
    );
    assert_eq!(report.exit, Exit::BadInput);
    assert!(
        report.stderr.contains("no pod of deploy/shop/web runs"),
        "{}",
        report.stderr
    );
    assert!(report.stderr.contains("POD_PENDING"), "{}", report.stderr);
}

#[test]
fn scenarios_are_run_and_judged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let one = root.join("service/clusterip.ron");
    let report = run(["podwire", "run", one.to_str().unwrap(), "--twice"]);
    assert_eq!(report.exit, Exit::Well, "{}", report.stderr);
    let last = report.stdout.lines().last().unwrap();
    assert!(last.starts_with("fingerprint: "), "{last}");
    let bad = root.join("problems/not_modelled.ron");
    assert_eq!(
        run(["podwire", "run", bad.to_str().unwrap()]).exit,
        Exit::BadInput
    );
    let service = root.join("service");
    let report = run(["podwire", "test", service.to_str().unwrap()]);
    assert_eq!(report.exit, Exit::Well, "{}", report.stdout);
    assert!(report.stdout.ends_with(" passed, 0 failed\n"));
    assert_eq!(
        run(["podwire", "test", "no-such-directory"]).exit,
        Exit::BadInput
    );
}

// ---- against the real kube-proxy ----

#[test]
fn commands_that_send_packets_print_what_the_real_ones_do() {
    let shop = "../scenarios/service/shop.yaml";
    let exec = |words: &[&str]| {
        let mut all = vec!["podwire", "exec", "pod/shop/client", "-f", shop, "--"];
        all.extend(words);
        let report = run(all);
        (report.exit.code(), report.stdout)
    };
    assert_eq!(
        exec(&["curl", "http://cart:80/"]),
        (0, "shop/cart\n".to_owned())
    );
    let (_, unknown) = exec(&["curl", "carrt"]);
    assert_eq!(unknown, "curl: (6) Could not resolve host: carrt\n");
    let (_, hops) = exec(&["traceroute", "-n", "10.244.1.3"]);
    let routers: Vec<&str> = hops
        .lines()
        .skip(1)
        .filter_map(|l| l.split_whitespace().nth(1))
        .collect();
    assert_eq!(
        routers,
        ["10.244.0.1", "172.18.0.3", "10.244.1.3"],
        "{hops}"
    );
    let (_, ping) = exec(&["ping", "-c", "2", "10.244.1.3"]);
    assert!(
        ping.contains("64 bytes from 10.244.1.3: icmp_seq=2 ttl=62"),
        "{ping}"
    );
    assert!(
        ping.ends_with("2 packets transmitted, 2 received, 0% packet loss\n"),
        "{ping}"
    );
    assert_eq!(exec(&["ping", "cart"]).0, 2);
    let (_, address) = exec(&["dig", "+short", "+search", "cart"]);
    let (_, name) = exec(&["dig", "+short", "-x", address.trim()]);
    assert_eq!(name, "cart.shop.svc.cluster.local.\n");
    let (code, unknown) = exec(&["dig", "carrt.shop.svc.cluster.local"]);
    assert!(unknown.contains("status: NXDOMAIN, id: "), "{unknown}");
    assert_eq!(code, 0);
}

#[test]
fn a_first_scenario_passes_and_overwrites_nothing() {
    let directory = std::env::temp_dir().join(format!("podwire-init-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let scenario = directory.join("first.ron");
    let shop = "../scenarios/service/shop.yaml";
    let out = scenario.to_str().unwrap();
    let init = || run(["podwire", "init", "-f", shop, "--out", out]);
    let first = init();
    assert_eq!(first.exit.code(), 0, "{first:?}");
    let text = fs::read_to_string(&scenario).unwrap();
    assert!(
        text.contains("Outcome(probe: \"cart-80\", is: Connected)"),
        "{text}"
    );
    assert_eq!(init().exit.code(), 2);
    assert_eq!(fs::read_to_string(&scenario).unwrap(), text);

    // Goldens next to the scenario: written, held, and noticed when they differ.
    let junit = directory.join("verdicts.xml");
    let test = |update: bool| {
        let mut words = vec!["podwire", "test", out, "--junit", junit.to_str().unwrap()];
        words.extend(update.then_some("--update"));
        run(words).exit.code()
    };
    assert_eq!((test(true), test(false)), (0, 0));
    let golden = scenario.with_extension("golden");
    let told = fs::read_to_string(&golden).unwrap();
    fs::write(&golden, told.replace("tcp SYN\n", "tcp FIN\n")).unwrap();
    assert_eq!(test(false), 1);
    let verdicts = fs::read_to_string(&junit).unwrap();
    assert!(
        verdicts.contains("failures=\"1\"") && verdicts.contains("told otherwise"),
        "{verdicts}"
    );
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn selftest_compares_with_what_was_recorded() {
    let report = run(["podwire", "selftest", "--seconds", "0", "-o", "json"]);
    assert_eq!(report.exit, Exit::Well, "{report:?}");
    let json: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(json["schema"], "podwire.selftest/v1");
    assert_eq!(json["recorded"], 15);
    assert_eq!(json["failed"], serde_json::json!([]));
}
