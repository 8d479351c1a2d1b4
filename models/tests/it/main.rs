//! Tests across modules: what a packet does between namespaces, and the shape of the crate.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod bridge_netfilter;
mod configure_facts;
mod floors;
mod harness;
mod kernel_path;
mod route_laws;
mod show;
mod nf;
mod nat_laws;
mod save_laws;
mod service_path;
mod track_facts;
mod walk_facts;
mod nft_facts;
mod proxy_facts;
