//! The tests of the whole.

mod walk;
