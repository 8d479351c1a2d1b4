//! When kube-proxy synchronises (`BoundedFrequencyRunner`): at once after a quiet time, then no more often than every
//! `minSyncPeriod`. Changes meanwhile wait, and are written together.

use std::time::Duration;

use podwire_models::base::Time;
use podwire_models::control::proxy::Version;

/// `--iptables-min-sync-period`.
pub const MIN_SYNC: Duration = Duration::from_secs(1);

/// How many synchronisations up to 1.33 may follow each other without a pause (`burstSyncs`).
const BURST: u32 = 2;

/// The state of one runner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runner {
    /// When the last synchronisation began, or will begin.
    last: Option<Time>,
    /// What was used up of the burst then.
    used: Duration,
}

impl Runner {
    /// Hears of a change at `now`, and returns when the synchronisation that writes it begins; nothing if one is to begin anyway.
    /// `lasts` is how long a synchronisation takes.
    pub fn hear(&mut self, now: Time, lasts: Duration, version: Version) -> Option<Time> {
        let Some(last) = self.last else {
            self.last = Some(now);
            self.used = MIN_SYNC;
            return Some(now);
        };
        if last > now {
            return None;
        }
        let begins = match version {
            Version::V1_30 | Version::V1_31 | Version::V1_32 | Version::V1_33 => {
                // A bucket of two tokens, of which one comes back every period.
                self.used = self.used.saturating_sub(now.since(last));
                let begins = if self.used + MIN_SYNC <= MIN_SYNC * BURST {
                    now
                } else {
                    now.max(last + MIN_SYNC)
                };
                self.used = self.used.saturating_sub(begins.since(now)) + MIN_SYNC;
                begins
            }
            Version::V1_34 => now.max(last + lasts + MIN_SYNC),
        };
        self.last = Some(begins);
        Some(begins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(version: Version, heard: &[u64]) -> Vec<Option<u64>> {
        let mut runner = Runner::default();
        let at = |ms: u64| Time::ZERO + Duration::from_millis(ms);
        let lasts = Duration::from_millis(100);
        heard
            .iter()
            .map(|ms| {
                let begins = runner.hear(at(*ms), lasts, version)?;
                u64::try_from(begins.since(Time::ZERO).as_millis()).ok()
            })
            .collect()
    }

    #[test]
    fn two_at_once_and_then_one_a_second() {
        let found = begins(Version::V1_33, &[0, 200, 300, 400, 1300, 5000, 5050]);
        let wanted = [
            Some(0),
            Some(200),
            Some(1200),
            None,
            Some(2200),
            Some(5000),
            Some(5050),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn since_1_34_a_period_lies_between_an_end_and_the_next_beginning() {
        let found = begins(Version::V1_34, &[0, 200, 300, 5000]);
        assert_eq!(found, [Some(0), Some(1100), None, Some(5000)]);
    }
}
