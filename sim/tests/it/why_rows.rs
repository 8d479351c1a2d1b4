//! What `why` says of rows of the catalogue of failures: the thing to edit, where it was written, and words of the cause.
#![allow(clippy::unwrap_used, reason = "tests")]

use podwire::story::run::explained;

use crate::golden::{root, story};

/// A scenario, a probe of it, the object that `why` names, what is written in the line it points to, and words of what it says.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const ROWS: &[Row] = &[
    (
        "23-overlapping_cidrs",
        "captured",
        "Cluster//pod_cidr",
        "pod_cidr",
        &["host/captured", "172.18.129.0/24", "node-b"],
    ),
    (
        "23-overlapping_cidrs",
        "unanswered",
        "Cluster//pod_cidr",
        "pod_cidr",
        &["looked for on the link", "172.18.128.0/24"],
    ),
    (
        "30-node_local_dns",
        "broken",
        "NetworkPolicy/shop/egress",
        "name: egress",
        &["169.254.20.10", "no podSelector ever matches"],
    ),
    (
        "32-stale_answer",
        "broken",
        "Pod/shop/client",
        "name: client",
        &["keeps answers for 60s", "was 10.244.1.", "is gone"],
    ),
    (
        "33-resolver_flavour",
        "musl",
        "Pod/shop/client",
        "name: client",
        &[
            "musl",
            "payments.svc.cluster.local. is there",
            "glibc and Go go on",
        ],
    ),
    (
        "33-resolver_flavour",
        "many-dots",
        "Pod/shop/client",
        "name: client",
        &["5 dots", "ndots (5)", "musl asks for it as it is only"],
    ),
    (
        "35-older_than_the_rules",
        "broken",
        "Node//node-a",
        "NoConntrackCleanup",
        &["older than the rules of Service/shop/cart", ":5000"],
    ),
    (
        "36-late_segment",
        "broken",
        "Sysctl/node-a/net.netfilter.nf_conntrack_tcp_be_liberal",
        "be_liberal",
        &["kernel 5.4", "10.244.1.3:8080 INVALID", "answered with RST"],
    ),
    (
        "37-asymmetric_path",
        "broken",
        "Host//office",
        "via: \"node-a\"",
        &["node-a sees half", "from node-b directly"],
    ),
    (
        "39-snat_exhausted",
        "broken",
        "Node//node-a",
        "SnatPorts",
        &[
            "4 have one, 4 of them in TIME_WAIT",
            "--to-ports 40000-40003",
        ],
    ),
    (
        "45-rp_filter",
        "broken",
        "Sysctl/node-b/net.ipv4.conf.all.rp_filter",
        "rp_filter\", value: \"1\"",
        &["came in by eth0", "leads back by eth1"],
    ),
    (
        "47-vxlan_checksum",
        "broken",
        "Node//node-a",
        "node-a\", kernel: \"5.4\"",
        &["leaves its mark", "kernel 5.4 spoils its UDP checksum"],
    ),
    (
        "50-neighbour_table",
        "broken-5",
        "Sysctl/node-a/net.ipv4.neigh.default.gc_thresh3",
        "gc_thresh3",
        &["is 6 on node-a", "6 neighbours in use"],
    ),
    (
        "59-leaked_addresses",
        "none-left",
        "Node//node-b",
        "IpLeak",
        &[
            "no IP addresses available in range set",
            "4 of them are of pods that are gone",
        ],
    ),
    (
        "61-policy_lag",
        "lag",
        "NetworkPolicy/shop/deny-all",
        "deny-all",
        &["did not know that yet", "50ms"],
    ),
    (
        "62-probe_blocked",
        "unready",
        "NetworkPolicy/shop/from-front",
        "namespaceSelector",
        &[
            "the kubelet asks pod cart on port 8080 from 172.18.0.3",
            "does not spare",
        ],
    ),
    (
        "64-webhook_firewall",
        "webhook guard.example.com",
        "Fault//firewall",
        "firewall",
        &[
            "the API server cannot call webhook guard.example.com",
            "firewall",
        ],
    ),
    (
        "66-no_cni_configuration",
        "stuck",
        "Node//node-d",
        "CniMissing",
        &["NetworkPluginNotReady", "cni plugin not initialized"],
    ),
    (
        "56-pinned_connection",
        "pinned",
        "Service/shop/cart",
        "name: cart",
        &["once for each connection", "shop/cart-0", "4 endpoints"],
    ),
    (
        "58-address_reused",
        "wrong",
        "Node//node-a",
        "KubeProxyDown",
        &["was pod shop/cart's", "pod bank/ledger", "has stopped"],
    ),
];

#[test]
fn names_the_root_cause_and_where_it_was_written() {
    for (file, probe, object, written, words) in ROWS {
        let path = root().join(format!("scenarios/failures/{file}.ron"));
        let text = std::fs::read_to_string(&path).unwrap();
        let story = story(&path).unwrap();
        let ran = explained(&story, story.seed);
        let found = ran.blockers.iter().find(|failed| failed.probe == *probe);
        let first = found.and_then(|failed| failed.why.first());
        let first = first.unwrap_or_else(|| panic!("{file}: nothing about {probe}"));
        assert_eq!(first.object.as_deref(), Some(*object), "{file}: {first:#?}");
        for word in *words {
            assert!(first.says.contains(word), "{file}: {word}: {first:#?}");
        }
        let place = first.origin.as_deref().and_then(|at| at.rsplit_once(':'));
        let line = place.and_then(|(source, line)| {
            // Lines of the objects count from where these begin.
            let objects = text.lines().position(|line| line.contains("objects: r#"));
            let step = source.strip_prefix("objects at byte ");
            let step =
                step.map(|byte| text[..byte.parse().unwrap()].trim_end().lines().count() - 1);
            let before = objects.filter(|_| source == "objects");
            let before = step.or(before).unwrap_or(0);
            let line: usize = line.parse().unwrap();
            text.lines().nth(before + line - 1)
        });
        let line = line.unwrap_or_else(|| panic!("{file}: nowhere: {first:#?}"));
        assert!(line.contains(written), "{file}: {written}: {first:#?}");
        assert!(first.kubectl.is_some(), "{file}: {first:#?}");
        let of_control = ran.blockers.iter().filter(|f| f.probe == "control");
        assert_eq!(of_control.count(), 0, "{file}");
    }
}
