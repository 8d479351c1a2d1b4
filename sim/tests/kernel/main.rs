//! The Linux kernel as referee: what podwire says about rules, packets and clusters, and what the machine that runs
//! this test does with the same.
//!
//! Needs root, `ip`, `iptables` (the legacy back end: one walk over the rules, as `ip_tables.c` has it), `nft`, `conntrack`,
//! `tcpdump` and `python3`; without them each test says what is missing and passes, unless `PODWIRE_REQUIRE_ALL` is set.
//! `PODWIRE_KERNEL_FULL` runs the long form.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::format_push_string,
    clippy::format_collect,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod bytes;
mod capture;
mod cases;
mod cluster;
mod designed;
mod full;
mod fuzz;
mod generate;
mod literal;
mod mtu;
mod nft;
mod order;
mod random_cluster;
#[path = "../support/referee.rs"]
mod referee;
mod router;
mod twin;
mod twins6;
mod worlds;

/// Returns the value of an environment variable.
fn variable(name: &str) -> Option<String> {
    std::env::vars().find(|(n, _)| n == name).map(|(_, v)| v)
}

/// Returns whether the real kernel can be asked here.
fn kernel_is_there() -> bool {
    let missing = missing();
    if missing.is_empty() {
        return true;
    }
    let why = missing.join(", ");
    assert!(
        variable("PODWIRE_REQUIRE_ALL").is_none(),
        "the kernel cannot be asked: {why}"
    );
    println!("skipped: the kernel cannot be asked: {why}");
    false
}

fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    let root = std::process::Command::new("id").arg("-u").output();
    if !root.is_ok_and(|out| out.stdout.starts_with(b"0\n")) {
        missing.push("not root".to_owned());
    }
    let path = variable("PATH").unwrap_or_default();
    let tools = [
        "ip",
        "bridge",
        "sysctl",
        "conntrack",
        "nft",
        "tcpdump",
        "python3",
        "iptables-legacy-restore",
        "ip6tables-legacy-restore",
    ];
    for tool in tools {
        let found = path
            .split(':')
            .any(|dir| std::path::Path::new(dir).join(tool).exists());
        if !found {
            missing.push(format!("no {tool}"));
        }
    }
    missing
}
