//! `podwire-models`: what happens to a packet in a Kubernetes cluster. Pure data and pure functions: no clock, no
//! I/O, no dice of its own. When it happens, and who gets to see it, is the business of the `podwire` crate.
//!
//! Floors, bottom-up, in reading order: [`base`] (words), [`wire`] (what travels), [`kernel`] (one Linux network
//! namespace), [`api`] (Kubernetes objects), [`control`] (desired → programmed), [`cluster`] (everything together).

pub mod base;
pub mod wire;
pub mod kernel;
pub mod api;
pub mod control;
pub mod cluster;
