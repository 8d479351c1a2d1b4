//! podwire: a deterministic simulator of Kubernetes cluster networks. When things happen, and who gets to see it;
//! what happens is the business of `podwire-models`.
//!
//! Floors, bottom-up: [`engine`] (discrete events and chance), [`trace`] (what happened), [`traffic`] (clients and
//! servers), [`simulation`] (everything that can happen), [`program`] and [`lab`] (a running cluster), [`attempt`] and
//! [`tool`] (who tries what), then what reads
//! and writes files: [`manifest`], [`scenario`], [`render`]. [`problem`] is how the user is told that an input is
//! wrong, [`source`] how models remember places in inputs, [`limits`]
//! how large inputs may be. `docs/architecture.md` is the map.

pub mod limits;
pub mod problem;
pub mod reach;
pub mod source;
pub mod engine;
pub mod trace;
pub mod cost;
pub mod manifest;
pub mod render;
pub mod traffic;
pub mod scenario;
pub mod fault;
pub mod controllers;
pub mod simulation;
pub mod program;
pub mod lab;
pub mod attempt;
pub mod tool;
pub mod why;
pub mod bench;
pub mod flat;
pub mod materialize;
#[cfg(feature = "cli")]
pub mod cli;
pub mod story;
pub mod selftest;
