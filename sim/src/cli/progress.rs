//! One line that says what goes on, for whoever waits at a terminal; it is gone at the end. Nothing is written where the
//! standard error is no terminal, or within the first two seconds.

use std::fmt;
use std::io::{IsTerminal as _, Write as _, stderr};

use crate::bench::meter::Meter;

/// How long nobody minds waiting without a word.
const PATIENCE: f64 = 2.0;

/// The line.
pub(super) struct Progress {
    terminal: bool,
    since: Meter,
    said: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            terminal: stderr().is_terminal(),
            since: Meter::start(),
            said: false,
        }
    }

    /// Says what is done now, instead of what was done before. Nobody is told if that fails.
    pub(super) fn say(&mut self, what: impl fmt::Display) {
        if self.terminal && self.since.wall_seconds() >= PATIENCE {
            let _ = write!(stderr(), "\r\x1b[K{what}");
            let _ = stderr().flush();
            self.said = true;
        }
    }

    /// Leaves the line empty.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.said) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
