//! Who was asked about what: tests that compare with something podwire's authors did not make note how much they
//! compared, and `.ci/fidelity` holds the table of `docs/fidelity.md` to it.

use std::fs;
use std::path::{Path, PathBuf};

/// A feature, and who says how it really is.
pub(crate) struct Part {
    /// Its name in files and calls.
    pub key: &'static str,
    /// What is compared.
    pub feature: &'static str,
    /// With whom; nobody, if the authors' own tests are all there is.
    pub referee: Option<&'static str>,
    /// Where.
    pub test: &'static str,
}

const fn part(
    key: &'static str,
    feature: &'static str,
    referee: &'static str,
    test: &'static str,
) -> Part {
    let referee = Some(referee);
    Part {
        key,
        feature,
        referee,
        test,
    }
}

const fn unchecked(feature: &'static str, test: &'static str) -> Part {
    Part {
        key: "",
        feature,
        referee: None,
        test,
    }
}

/// Every row of the table, in its order.
pub(crate) const PARTS: &[Part] = &[
    part(
        "designed",
        "clusters of every plugin with one family or two, worlds in which one thing is turned, and what does not fit: who answers, what source it sees, the time to live on arrival, which errno; `ip route`, `ip neigh`, `iptables-save`, `sysctl`",
        "Linux",
        "sim/tests/kernel/cluster.rs",
    ),
    part(
        "captures",
        "the same flows, packet by packet on the devices they cross, and `conntrack -L` afterwards",
        "Linux",
        "sim/tests/kernel/capture.rs",
    ),
    part(
        "order",
        "what depends on what came before: entries that outlive their rules, source ports that are taken, clients that are remembered, a table without room",
        "Linux",
        "sim/tests/kernel/order.rs",
    ),
    part(
        "random-clusters",
        "random clusters: Services of all sorts, settings, rules",
        "Linux",
        "sim/tests/kernel/random_cluster.rs",
    ),
    part(
        "random-packets",
        "random rules and packets: rules, connection tracking, translation, answers of the kernel's own",
        "Linux",
        "sim/tests/kernel/fuzz.rs",
    ),
    part(
        "full-table",
        "a table of connections that is full: newcomers, what goes on, who is evicted, room again",
        "Linux",
        "sim/tests/kernel/full.rs",
    ),
    part(
        "nft-packets",
        "random tables of nftables beside random rules of iptables: which chain comes first, which translation holds, `nft list ruleset`",
        "Linux, nft 1.0.6",
        "sim/tests/kernel/nft.rs",
    ),
    part(
        "named-packets",
        "rules and packets that once differed",
        "Linux",
        "sim/tests/kernel/fuzz.rs",
    ),
    part(
        "proxy-rules",
        "kube-proxy's rules, mode iptables: chains, rules, text, order",
        "kube-proxy 1.30.3",
        "sim/tests/it/oracle_kube_proxy.rs",
    ),
    part(
        "proxy-flows",
        "what becomes of flows through these rules: result, who answered, source seen, shares; health check ports",
        "Linux, kube-proxy 1.30.3",
        "sim/tests/it/oracle_flows.rs",
    ),
    part(
        "affinity",
        "whom session affinity remembers, and whom it forgets",
        "Linux, kube-proxy 1.30.3",
        "sim/tests/it/oracle_flows.rs",
    ),
    part(
        "udp-stale",
        "which UDP connections kube-proxy forgets: sockets kept open over changes",
        "Linux, kube-proxy 1.30.3",
        "sim/tests/it/oracle_flows.rs",
    ),
    part(
        "cni-calls",
        "CNI plugins `bridge`, `ptp`, `host-local`, `static`, `portmap`, `firewall`, `tuning`, `loopback` as programs: results, errors, files, and the state they leave: devices, addresses, routes, rules, bridge ports, permanent forwarding entries, iptables, nftables, settings",
        "containernetworking/plugins 1.9.1",
        "sim/tests/it/oracle_cni.rs",
    ),
    part(
        "cni-flows",
        "flows through what these plugins made, and through Flannel's and kindnet's clusters of three nodes: result, who answered, source, TTLs, path MTU, ICMP errors, hops",
        "Linux, containernetworking/plugins 1.9.1",
        "sim/tests/it/oracle_cni.rs",
    ),
    part(
        "portmap-rules",
        "plugin `portmap`, iptables back end, also between other plugins: its rules",
        "containernetworking/plugins 1.9.1",
        "sim/tests/it/oracle_cni.rs",
    ),
    part(
        "policy-cyclonus",
        "policies: verdicts",
        "cyclonus",
        "sim/tests/it/oracle_policy.rs",
    ),
    part(
        "policy-policy-api",
        "policies: verdicts",
        "network-policy-api",
        "sim/tests/it/oracle_policy.rs",
    ),
    part(
        "policy-k8s-e2e",
        "policies: verdicts",
        "Kubernetes' e2e tests",
        "sim/tests/it/oracle_policy.rs",
    ),
    part(
        "policy-recipes",
        "policies: verdicts",
        "kubernetes-network-policy-recipes",
        "sim/tests/it/oracle_policy.rs",
    ),
    part(
        "policy-corner",
        "policies: verdicts",
        "the API's documentation",
        "sim/tests/it/oracle_policy.rs",
    ),
    part(
        "policy-np-guard",
        "policies: sets of allowed connections",
        "np-guard",
        "sim/tests/it/oracle_policy.rs",
    ),
    part(
        "policy-walk-calico",
        "policies in the packet walk, Calico: a sample of those rows",
        "the same suites",
        "sim/tests/it/policy_walk.rs",
    ),
    part(
        "policy-walk-kindnet",
        "policies in the packet walk, kindnet: a sample of those rows",
        "the same suites",
        "sim/tests/it/policy_walk.rs",
    ),
    unchecked(
        "SCTP sockets: handshake, retransmission, shutdown",
        "sim/src/traffic/sctp/tests.rs",
    ),
    unchecked(
        "TCP: retransmission and its schedule, close, reset, beyond what the flows above need",
        "sim/src/traffic/tcp/tests.rs",
    ),
    unchecked(
        "stub resolvers and the cluster's DNS",
        "sim/src/traffic/lookup/tests.rs",
    ),
    unchecked(
        "endpoint slices, allocation of addresses, scheduler, generated names",
        "models/src/control",
    ),
    unchecked(
        "how long controllers and agents take",
        "sim/tests/it/live.rs",
    ),
    unchecked(
        "kube-proxy's rules of releases other than 1.30",
        "models/tests/it/proxy_facts.rs",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fidelity")
}

fn note(name: &str, text: &str) {
    fs::create_dir_all(folder()).unwrap();
    fs::write(folder().join(name), text).unwrap();
}

/// Variables that choose what is compared: what is counted then stands for nothing.
const CHOICES: &[&str] = &[
    "PODWIRE_CNI_CASE",
    "PODWIRE_ORACLE",
    "PODWIRE_KERNEL_WORLD",
    "PODWIRE_KERNEL_SEED",
    "PODWIRE_KERNEL_SETS",
    "PODWIRE_KERNEL_CLUSTERS",
];

/// Notes how much of a part was compared in this run, all of it without a difference.
pub(crate) fn checked(key: &str, how_much: &str) {
    println!("{key}: {how_much}");
    let known = PARTS.iter().any(|part| part.key == key);
    assert!(known, "{key} is no part of the table");
    let set = |wanted: &str| std::env::vars().any(|(name, _)| name == wanted);
    if CHOICES.iter().any(|choice| set(choice)) {
        return;
    }
    let kernel = PARTS
        .iter()
        .any(|part| part.key == key && part.test.starts_with("sim/tests/kernel/"));
    let form = if kernel && set("PODWIRE_KERNEL_FULL") {
        "long"
    } else {
        "short"
    };
    note(&format!("{key}.{form}"), how_much);
}

/// Writes down the rows themselves.
#[allow(dead_code, reason = "one of the two suites does it for both")]
pub(crate) fn rows() {
    let line = |part: &Part| {
        let referee = part.referee.unwrap_or("");
        [part.key, part.feature, referee, part.test].join("\t") + "\n"
    };
    note("rows", &PARTS.iter().map(line).collect::<String>());
}
