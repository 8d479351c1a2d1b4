//! `podwire reach` and `podwire diff` as people use them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;

use podwire::cli::{Exit, Report, run};
use serde_json::{Value, json};

const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: web, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client, tier: back}}
spec: {containers: [{name: main, image: client}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  schedule: '@daily'
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: report, tier: front}}
        spec: {restartPolicy: Never, containers: [{name: main, image: report}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from: [{ipBlock: {cidr: 203.0.113.0/24}}]
      ports: [{port: http}]
    - from: [{podSelector: {matchLabels: {tier: front}}}]
      ports: [{port: http}]
";

/// A file of a test, gone when the test is over.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podwire-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn podwire(words: &[&str]) -> Report {
    run(std::iter::once("podwire").chain(words.iter().copied()))
}

fn parsed(report: &Report) -> Value {
    assert_eq!(report.exit, Exit::Well, "{}", report.stderr);
    serde_json::from_str(&report.stdout).unwrap()
}

#[test]
fn reach_answers_for_workloads_and_ranges() {
    let file = File::new("reach.yaml", SHOP);
    let answer = parsed(&podwire(&["reach", "-f", file.name(), "-o", "json"]));
    assert_eq!(answer["schema"], "podwire.reach/v1");
    assert_eq!(
        answer["peers"],
        json!([
            "shop/client[Pod]",
            "shop/report[CronJob]",
            "shop/web[Deployment]",
            "0.0.0.0-203.0.112.255",
            "203.0.113.0-203.0.113.255",
            "203.0.114.0-255.255.255.255",
        ])
    );
    let allowed = |source: &str| {
        let rows = answer["connections"].as_array().unwrap();
        let row = rows
            .iter()
            .find(|row| row["src"] == source && row["dst"] == "shop/web[Deployment]");
        row.map(|row| row["allowed"].clone())
    };
    assert_eq!(allowed("shop/client[Pod]"), None);
    assert_eq!(allowed("0.0.0.0-203.0.112.255"), None);
    let http = Some(json!({"TCP": [[8080, 8080]]}));
    assert_eq!(allowed("shop/report[CronJob]"), http);
    assert_eq!(allowed("203.0.113.0-203.0.113.255"), http);
    assert!(answer["notes"][0].as_str().unwrap().contains("has no pods"));
}

#[test]
fn filters_narrow_what_is_listed() {
    let file = File::new("filters.yaml", SHOP);
    let csv = |words: &[&str]| {
        let mut all = vec!["reach", "-f", file.name(), "-o", "csv"];
        all.extend(words);
        let report = podwire(&all);
        assert_eq!(report.exit, Exit::Well, "{}", report.stderr);
        report.stdout
    };
    assert_eq!(
        csv(&["--from", "cj/shop/report", "--to", "svc/shop/web"]),
        "src,dst,pods,protocol,ports\nshop/report[CronJob],shop/web[Deployment],all,TCP,\"8080\"\n"
    );
    assert_eq!(
        csv(&["--to", "deploy/shop/web", "--port", "80"]),
        "src,dst,pods,protocol,ports\n"
    );
    assert_eq!(
        csv(&[
            "--from",
            "203.0.113.7",
            "--to",
            "deploy/shop/web",
            "--port",
            "8080/TCP"
        ]),
        "src,dst,pods,protocol,ports\n\
         203.0.113.0-203.0.113.255,shop/web[Deployment],all,TCP,\"8080\"\n"
    );
    // Nothing listens in the client, so nothing of what may be reached there is told.
    assert_eq!(
        csv(&["--to", "pod/shop/client", "--listening"]),
        "src,dst,pods,protocol,ports\n"
    );
    let nobody = podwire(&["reach", "-f", file.name(), "--from", "deploy/shop/wob"]);
    assert_eq!(nobody.exit, Exit::BadInput);
    assert!(nobody.stderr.contains("shop/web[Deployment]"));
}

#[test]
fn one_connection_is_explained_with_the_nearest_miss() {
    let file = File::new("explain.yaml", SHOP);
    let words = [
        "reach",
        "-f",
        file.name(),
        "--explain",
        "pod/shop/client",
        "svc/shop/web",
        "80",
    ];
    let report = podwire(&words);
    let text = report.stdout;
    assert!(text.contains("TCP/8080: denied"), "{text}");
    assert!(
        text.contains("and so for 2 pairs") || text.matches("denied").count() >= 2,
        "{text}"
    );
    let near = "nearest: rule 2 of allow-web would admit this if the client had label tier=front";
    assert!(text.contains(near), "{text}");
    let line = SHOP
        .lines()
        .position(|line| line.contains("tier: front}}}]"))
        .unwrap()
        + 1;
    assert!(text.contains(&format!("explain.yaml:{line})")), "{text}");
    let words = [
        "reach",
        "-f",
        file.name(),
        "--explain",
        "203.0.113.9",
        "deploy/shop/web",
        "8080",
    ];
    let text = podwire(&words).stdout;
    assert!(text.contains("rule 1 of allow-web allows it"), "{text}");
}

#[test]
fn a_plugin_that_enforces_nothing_is_named_loudly() {
    let file = File::new("flannel.yaml", SHOP);
    let report = podwire(&["reach", "-f", file.name(), "--profile", "flannel-vxlan"]);
    assert!(
        report.stderr.contains("NP_NOT_ENFORCED"),
        "{}",
        report.stderr
    );
    let report = podwire(&["reach", "-f", file.name()]);
    assert!(
        !report.stderr.contains("NP_NOT_ENFORCED"),
        "{}",
        report.stderr
    );
    let words = |profile| {
        [
            "trace",
            "-f",
            file.name(),
            "--profile",
            profile,
            "--from",
            "pod/shop/client",
            "--to",
            "svc/shop/web:80",
        ]
    };
    let flannel = podwire(&words("flannel-vxlan")).stdout;
    assert!(
        flannel.contains("NP_NOT_ENFORCED") && flannel.contains("connected"),
        "{flannel}"
    );
    for profile in ["kindnet", "calico"] {
        let enforced = podwire(&words(profile)).stdout;
        assert!(enforced.contains("NP_INGRESS_DEFAULT_DENY"), "{enforced}");
        assert!(enforced.contains("timeout"), "{enforced}");
    }
}

#[test]
fn diff_tells_what_a_policy_changes() {
    let file = File::new("diff.yaml", SHOP);
    let more = File::new(
        "more.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: more, namespace: shop}\n\
         spec:\n  podSelector: {matchLabels: {app: web}}\n  ingress: [{from: [{podSelector: {}}], ports: [{port: 8080}]}]\n",
    );
    let same = podwire(&["diff", file.name(), file.name(), "--exit-code"]);
    assert_eq!(
        (same.exit, same.stdout.contains("nothing changed")),
        (Exit::Well, true)
    );
    let applied = podwire(&["diff", file.name(), "--apply", more.name(), "--exit-code"]);
    assert_eq!(applied.exit, Exit::Failed);
    assert_eq!(
        applied.stdout,
        "+ shop/client[Pod] > shop/web[Deployment]: TCP 8080\n\n\
         connections: 1 gained, 0 lost, 0 changed\n"
    );
    let removed = podwire(&[
        "diff",
        file.name(),
        "--delete",
        "netpol/shop/allow-web",
        "-o",
        "json",
    ]);
    let removed = parsed(&removed);
    let change = removed["changes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|change| change["src"] == "shop/client[Pod]")
        .unwrap();
    assert_eq!(
        (&change["change"], &change["gained"]),
        (&json!("gained"), &json!("all"))
    );
    let comment = podwire(&["diff", file.name(), "--apply", more.name(), "-o", "md"]).stdout;
    assert!(comment.contains("| ➕ | `shop/client[Pod]` | `shop/web[Deployment]` | TCP 8080 |"));
    let missing = podwire(&["diff", file.name(), "--delete", "netpol/shop/other"]);
    assert_eq!(missing.exit, Exit::BadInput);
}

#[test]
fn policies_without_effect_are_found() {
    let file = File::new("vacuous.yaml", SHOP);
    let fine = podwire(&["reach", "-f", file.name(), "--vacuous"]);
    assert_eq!(fine.stdout, "every policy and every rule has an effect\n");
    let idle = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: elsewhere}
spec: {podSelector: {matchLabels: {app: web}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: idle, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - {from: [{podSelector: {matchLabels: {app: nobody}}}]}
    - {from: [{podSelector: {matchLabels: {app: report}}}], ports: [{port: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: admin}
spec:
  priority: 1
  subject: {namespaces: {}}
  ingress:
    - {name: all, action: Pass, from: [{namespaces: {}}]}
    - {name: late, action: Deny, from: [{namespaces: {}}]}
";
    let file = File::new("idle.yaml", &format!("{SHOP}{idle}"));
    let found = parsed(&podwire(&[
        "reach",
        "-f",
        file.name(),
        "--vacuous",
        "-o",
        "json",
    ]));
    let rows: Vec<String> = found["vacuous"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap();
            assert!(text("origin").contains("idle.yaml:"));
            format!("{} {} {}", text("code"), text("object"), text("rule"))
        })
        .collect();
    assert_eq!(
        rows,
        [
            "VACUOUS_POLICY NetworkPolicy/default/elsewhere ",
            // Each of these two says what the other says.
            "SHADOWED_RULE NetworkPolicy/shop/allow-web ingress rule 2",
            "VACUOUS_RULE NetworkPolicy/shop/idle ingress rule 1",
            "SHADOWED_RULE NetworkPolicy/shop/idle ingress rule 2",
            "REDUNDANT_POLICY NetworkPolicy/shop/idle ",
            "ONE_SIDED_RULE NetworkPolicy/shop/out egress rule 1",
            "SHADOWED_RULE AdminNetworkPolicy//admin ingress rule 2",
            "REDUNDANT_POLICY AdminNetworkPolicy//admin ",
        ]
    );
}
