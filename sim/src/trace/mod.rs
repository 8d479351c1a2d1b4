//! Floor 0: what happened. [`record`] is what a trace line is, [`ends`] how packets end while they are recorded, [`names`] what
//! numbers are called; [`fingerprint`], [`diff`] and [`shape`] are what one does with a trace without rendering it.

pub mod record;
pub mod ends;
pub mod names;
pub mod fingerprint;
pub mod diff;
pub mod shape;

pub use fingerprint::Fingerprint;
pub use names::{Names, NetnsName};
pub use record::{Record, Trace, TraceRecorder};
