//! Traces for people and for programs. Nothing here decides anything: what is printed is in the records.
//!
//! [`words`] says what an action is in a few words, [`text`] sets those in columns at three levels of detail,
//! [`json`] writes one object per line. [`diff`] sets two traces side by side where they part.

pub mod words;
pub mod text;
pub mod json;
pub mod diff;

pub use text::{Detail, Style};
