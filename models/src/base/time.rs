//! Simulated time: integer nanoseconds since the start of the run.
//!
//! Stands for `CLOCK_MONOTONIC` of every machine at once. Leaves out clock skew between nodes: all nodes share
//! one clock.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::Serialize;

/// A moment, in nanoseconds since the start of the simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The start of the simulation.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the moment `millis` milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Returns the moment `secs` seconds after the start.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000_000_000)
    }

    /// Returns how long ago `earlier` was, or zero if it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    let secs = duration.as_secs().saturating_mul(1_000_000_000);
    secs.saturating_add(u64::from(duration.subsec_nanos()))
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(nanos(rhs)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub for Time {
    type Output = Duration;
    /// Time between two moments.
    fn sub(self, rhs: Self) -> Duration {
        assert!(self >= rhs, "time moves forward: {self} is before {rhs}");
        Duration::from_nanos(self.0 - rhs.0)
    }
}

impl fmt::Display for Time {
    /// Seconds with microseconds (`12.000350s`); nanoseconds only where they are not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, rest) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if rest % 1000 == 0 {
            write!(f, "{secs}.{:06}s", rest / 1000)
        } else {
            write!(f, "{secs}.{rest:09}s")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_microseconds_and_only_then_nanoseconds() {
        assert_eq!(Time(12_000_350_000).to_string(), "12.000350s");
        assert_eq!(Time(1).to_string(), "0.000000001s");
    }
}
