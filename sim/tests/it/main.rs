//! The tests of the whole.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[cfg(feature = "cli")]
mod cli;
mod real;

mod flat;
mod laws;
mod partial_sync;
mod cost;
mod live;
mod invariants;
mod churn;
mod rollout;
mod oracle_flows;
mod oracle_kube_proxy;
mod golden;
mod failures;
mod anchors;
#[cfg(all(feature = "cli", unix))]
mod hostile;
mod walk;
mod vacuity;
mod explore;
mod why;
mod why_rows;
mod why_drawn;
mod manifests;
mod written;
mod materialize;
mod problems;
mod tree;
mod tidy;
mod floors;
mod dependencies;
mod cni;
mod oracle_cni;
mod policy_case;
mod oracle_policy;
#[cfg(feature = "cli")]
mod policy_cli;
#[cfg(feature = "cli")]
mod online_boutique;
mod policy_walk;
mod policy_laws;
mod policy_naive;
mod policy_random;
#[path = "../support/referee.rs"]
mod referee;

/// Returns a file of the collection of oracle and real data, if it is there: next to `PODWIRE_ORACLE`, else next to
/// the workspace. Where it is missing the test that wanted it says so and passes, unless `PODWIRE_REQUIRE_ALL` is set.
fn handbook(path: &str) -> Option<std::path::PathBuf> {
    let set = |name: &str| {
        std::env::vars()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value)
    };
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let file = match (set("PODWIRE_ORACLE"), path.strip_prefix("oracle/")) {
        (Some(oracle), Some(rest)) => std::path::Path::new(&oracle).join(rest),
        (Some(oracle), None) => std::path::Path::new(&oracle).join("..").join(path),
        (None, _) => here.join(path),
    };
    if file.exists() {
        return Some(file);
    }
    assert!(
        set("PODWIRE_REQUIRE_ALL").is_none(),
        "{} is missing",
        file.display()
    );
    println!("skipped: {} is not there", file.display());
    None
}
