//! Online Boutique with its own network policies: every call that the application makes works, and nothing else does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use podwire::cli::{Exit, Report, run};

/// Who calls which Service, from the application's own documentation and the environment of its containers.
const CALLS: [(&str, &str, u16); 16] = [
    ("loadgenerator", "frontend", 80),
    ("frontend", "adservice", 9555),
    ("frontend", "cartservice", 7070),
    ("frontend", "checkoutservice", 5050),
    ("frontend", "currencyservice", 7000),
    ("frontend", "productcatalogservice", 3550),
    ("frontend", "recommendationservice", 8080),
    ("frontend", "shippingservice", 50051),
    ("checkoutservice", "cartservice", 7070),
    ("checkoutservice", "currencyservice", 7000),
    ("checkoutservice", "emailservice", 5000),
    ("checkoutservice", "paymentservice", 50051),
    ("checkoutservice", "productcatalogservice", 3550),
    ("checkoutservice", "shippingservice", 50051),
    ("recommendationservice", "productcatalogservice", 3550),
    ("cartservice", "redis-cart", 6379),
];

/// A folder of a test, gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podwire-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn scenario() -> String {
    let (mut timeline, mut expect) = (String::new(), String::new());
    for (n, (from, to, port)) in CALLS.iter().enumerate() {
        let at = n + 1;
        let ends = format!("from: \"deploy/default/{from}\", to: \"svc/default/{to}");
        writeln!(
            timeline,
            "At(\"{at}s\", Probe(id: \"{from}-{to}\", {ends}:{port}\", must: Work)),"
        )
        .unwrap();
        writeln!(expect, "Allows({ends}\", port: \"{port}\"),").unwrap();
    }
    let stranger = "from: \"deploy/default/adservice\", to: \"svc/default/redis-cart:6379\"";
    format!(
        "Scenario(
            title: \"Online Boutique with its own policies\",
            manifests: [\"shop\"],
            timeline: [
                {timeline}
                At(\"30s\", Probe(id: \"stranger\", {stranger}, timeout: \"1s\")),
            ],
            expect: [
                {expect}
                // Its policy lets everybody in: it is the shop's door.
                Allows(from: \"ns/default\", to: \"deploy/default/frontend\", port: \"8080\"),
                OnlyAllowed(among: \"ns/default\"),
                Outcome(probe: \"stranger\", is: Timeout, code: \"NP_INGRESS_DEFAULT_DENY\"),
                Denies(from: \"203.0.113.10\", to: \"deploy/default/cartservice\", port: \"7070\"),
            ],
        )"
    )
}

/// Runs the scenario on the application, with one text of its policies replaced by another.
fn run_with(name: &str, shop: &Path, edit: Option<(&str, &str)>) -> Report {
    let folder = Folder::new(name);
    let copy = folder.0.join("shop");
    fs::create_dir_all(&copy).unwrap();
    let policies = fs::read_dir(shop.join("network-policies")).unwrap();
    let mut files: Vec<PathBuf> = policies.map(|entry| entry.unwrap().path()).collect();
    files.push(shop.join("kubernetes-manifests.yaml"));
    let mut edited = 0;
    for file in files {
        let mut text = fs::read_to_string(&file).unwrap();
        if let Some((old, new)) = edit
            && file.ends_with("network-policy-cartservice.yaml")
        {
            assert!(text.contains(old));
            text = text.replacen(old, new, 1);
            edited += 1;
        }
        fs::write(copy.join(file.file_name().unwrap()), text).unwrap();
    }
    assert_eq!(edited, usize::from(edit.is_some()));
    let path = folder.0.join("online_boutique.ron");
    fs::write(&path, scenario()).unwrap();
    run(["podwire", "run", path.to_str().unwrap()])
}

#[test]
fn every_call_works_and_nothing_else() {
    let Some(shop) = crate::handbook("real/online-boutique") else {
        return;
    };
    let report = run_with("boutique", &shop, None);
    assert_eq!(
        report.exit,
        Exit::Well,
        "{}{}",
        report.stdout,
        report.stderr
    );
    assert_eq!(
        report.stdout.matches("\nholds  ").count(),
        16 + 16 + 4,
        "{}",
        report.stdout
    );
}

#[test]
fn a_policy_with_a_typo_fails_with_the_reason() {
    let Some(shop) = crate::handbook("real/online-boutique") else {
        return;
    };
    let typo = ("app: checkoutservice", "app: checkout");
    let report = run_with("boutique-typo", &shop, Some(typo));
    assert_eq!(
        report.exit,
        Exit::Failed,
        "{}{}",
        report.stdout,
        report.stderr
    );
    let failed: Vec<&str> = report
        .stdout
        .split("\nFAILS  ")
        .skip(1)
        .map(|rest| rest.split("\nholds  ").next().unwrap())
        .collect();
    assert_eq!(failed.len(), 2, "{failed:#?}");
    let allows = failed
        .iter()
        .find(|text| text.contains("may reach svc/default/cartservice"));
    let allows = allows.unwrap();
    let near = "rule 1 of cartservice would admit this if the client had label app=checkout \
                (it has app=checkoutservice)";
    assert!(allows.contains(near), "{allows}");
    assert!(
        allows.contains("network-policy-cartservice.yaml:"),
        "{allows}"
    );
    let probe = failed
        .iter()
        .find(|text| text.contains("checkoutservice-cartservice must work"));
    assert!(
        probe.unwrap().contains("NP_INGRESS_DEFAULT_DENY"),
        "{failed:#?}"
    );
}

#[test]
fn a_policy_that_is_too_open_fails_with_what_it_opens() {
    let Some(shop) = crate::handbook("real/online-boutique") else {
        return;
    };
    let open = (
        "- podSelector:\n        matchLabels:\n          app: checkoutservice",
        "- podSelector: {}",
    );
    let report = run_with("boutique-wide", &shop, Some(open));
    assert_eq!(report.exit, Exit::Failed, "{}", report.stdout);
    let line =
        "default/adservice[Deployment] > default/cartservice[Deployment]: TCP 7070 is allowed too";
    assert!(report.stdout.contains(line), "{}", report.stdout);
}
