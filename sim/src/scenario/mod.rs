//! From a file to a simulation: what may be written in a scenario, read and checked by itself.
//!
//! [`mod@file`] has the types, exactly the RON of `docs/scenario.md`; [`text`] reads values such as `"1500ms"`, [`address`]
//! those that name things; [`arguments`] lets leading words go without a name; [`reader`] finds all problems of a
//! file at once, `check` those that need more than one word to see; [`expect`] has what a scenario expects.

pub mod file;
pub mod expect;
pub mod text;
pub mod address;
pub mod arguments;
pub mod reader;
mod check;

pub use address::{ObjectRef, Target, Thing};
pub use file::ScenarioFile;
pub use reader::{Heading, heading, read};
pub use text::Text;
