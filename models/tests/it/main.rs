//! Tests across modules: what a packet does between namespaces, and the shape of the crate.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]

mod floors;
mod harness;
mod kernel_path;
mod route_laws;
mod show;
mod nf;
mod nat_laws;
mod save_laws;
mod track_facts;
mod walk_facts;
