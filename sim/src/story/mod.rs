//! Scenarios that are run: [`mod@resolve`] makes a [`Story`] of a file and its manifests, [`mod@run`] runs it: the agenda, and
//! attempts. What the agenda asks for has a room each: `live` (objects and controllers), `ready` (who is ready, and its
//! endpoints), `servers`, `faults`, `commands`, `load`, `churn`, `drain`, `crash`, `admission`; `held` and `reaches` find out whether what was expected
//! held, [`mod@invariants`] is what must hold whatever happens, and `consistent` looks whether it does.
//! [`mod@explore`] tells it with other times. [`mod@vacuity`] finds what could be left out unnoticed.
//! [`mod@moment`] asks what becomes of one more attempt in the middle of it.

pub mod resolve;
mod admission;
mod cache;
mod commands;
mod consistent;
mod crash;
mod drain;
pub mod explore;
mod faults;
mod held;
mod live;
mod load;
pub mod churn;
pub mod invariants;
mod reaches;
mod ready;
pub mod run;
mod servers;
pub mod moment;
pub mod vacuity;
pub mod writes;

pub use moment::{Moment, at};
pub use resolve::{Story, files, resolve, unusable};
pub use run::{Attempted, Failed, Ran, explained, run};
