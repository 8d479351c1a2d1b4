//! The tests of the whole.

mod walk;
mod manifests;
