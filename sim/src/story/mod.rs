//! Scenarios that are run: [`mod@resolve`] makes a [`Story`] of a file and its manifests, [`mod@run`] runs it and finds out
//! whether what was expected held. [`mod@moment`] asks what becomes of one more attempt in the middle of it.

pub mod resolve;
mod crash;
mod live;
mod load;
mod reaches;
pub mod run;
pub mod moment;
pub mod writes;

pub use moment::{Moment, at};
pub use resolve::{Story, files, resolve, unusable};
pub use run::{Attempted, Failed, Ran, explained, run};
