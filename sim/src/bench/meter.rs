//! The clocks of the machine that measures: wall clock, CPU time, memory.

#[allow(
    clippy::disallowed_types,
    reason = "a measurement looks at the real clock; nothing simulated does"
)]
use std::time::Instant;

/// Measures from when it is made.
#[allow(
    clippy::disallowed_types,
    reason = "a measurement looks at the real clock; nothing simulated does"
)]
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    wall: Instant,
    cpu: Option<u64>,
}

impl Meter {
    /// Begins to measure.
    #[allow(
        clippy::disallowed_types,
        reason = "a measurement looks at the real clock; nothing simulated does"
    )]
    pub fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_nanos(),
        }
    }

    /// Returns the wall clock seconds since the beginning.
    pub fn wall_seconds(&self) -> f64 {
        self.wall.elapsed().as_secs_f64()
    }

    /// Returns the CPU seconds since the beginning, where the system tells.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let spent = cpu_nanos()?.checked_sub(self.cpu?)?;
        Some(std::time::Duration::from_nanos(spent).as_secs_f64())
    }
}

/// Returns `count` per second.
#[allow(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    reason = "a rate for people to read; nothing simulated depends on it"
)]
pub fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// Returns the CPU time of this thread in nanoseconds (first field of `schedstat`, Linux only).
fn cpu_nanos() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Returns the most memory this process ever had, in bytes (`VmHWM`, Linux only).
pub fn peak_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
