//! Fuzzing on stable Rust: what is kept, changed by chance, through every reader; and random clusters whose timelines
//! and faults are random, too, against what must always be true.
//!
//! Every run tries the same inputs, some hundreds for each target, and all that ever failed (`cases/`). The long form
//! goes on from any seed for a time:
//!
//! ```sh
//! PODWIRE_FUZZ_SECONDS=1200 PODWIRE_FUZZ_SEED=7000 cargo test -p podwire --test fuzz scenarios -- --nocapture
//! ```
//!
//! An input that fails is made smaller and kept in `target/tmp/fuzz/`; put it into `cases/TARGET/` under the name of what was
//! wrong. What ends the process (an overflowing stack, no memory) leaves its input there as `TARGET.last`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::struct_excessive_bools,
    clippy::match_wild_err_arm,
    clippy::format_push_string,
    clippy::format_collect,
    reason = "tests"
)]

mod clusters;
mod commands;
mod corpus;
mod draw;
mod drive;
mod readers;
mod rules;
