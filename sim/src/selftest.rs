//! What anybody's machine must do as ours did: scenarios that are part of the program, and the fingerprints that were recorded
//! when it was built. `podwire selftest` runs them.
//!
//! Leaves out: what the program does with files, and everything that is no scenario; the tests of the sources have those.

use crate::scenario;
use crate::source::Source;
use crate::story::{self, Story};

/// A scenario with what it must do.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its path below `scenarios/`, without ending.
    pub name: &'static str,
    scenario: &'static str,
    manifest: Option<(&'static str, &'static str)>,
    golden: &'static str,
}

/// What a case that is not as it should be did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// It cannot even be read.
    #[error("the scenario inside podwire is refused: {0}")]
    Refused(String),
    /// An expectation does not hold.
    #[error("`{0}` does not hold")]
    Expectation(String),
    /// Another fingerprint than the recorded one.
    #[error("fingerprint {found}, and {recorded} was recorded")]
    Fingerprint {
        /// Of this run.
        found: String,
        /// When podwire was built.
        recorded: String,
    },
    /// Two runs differ.
    #[error("with seed {seed} one run has fingerprint {one}, and the next {other}")]
    Twice {
        /// The seed of both.
        seed: u64,
        /// Of the first run.
        one: String,
        /// Of the second.
        other: String,
    },
}

macro_rules! case {
    ($name:literal) => {
        Case {
            name: $name,
            scenario: include_str!(concat!("../../scenarios/", $name, ".ron")),
            manifest: None,
            golden: include_str!(concat!("../../snapshots/", $name, ".snap")),
        }
    };
    ($name:literal, $directory:literal, $manifest:literal) => {
        Case {
            manifest: Some((
                $manifest,
                include_str!(concat!("../../scenarios/", $directory, $manifest)),
            )),
            ..case!($name)
        }
    };
}

/// One of every room of the scenarios.
pub const CASES: &[Case] = &[
    case!("service/clusterip", "service/", "shop.yaml"),
    case!("service/nodeport_outside", "service/", "nodeport.yaml"),
    case!("service/hairpin", "service/", "shop.yaml"),
    case!("dns/search_list", "dns/", "shop.yaml"),
    case!("faults/vxlan_blocked", "faults/", "shop.yaml"),
    case!("lifecycle/rolling_update", "lifecycle/", "deployment.yaml"),
    case!("policy/calico", "policy/", "world.yaml"),
    case!(
        "policy/admin_over_network_over_baseline",
        "policy/",
        "world.yaml"
    ),
    case!("cni/one_ip_per_pod_flannel_vxlan", "cni/", "pods.yaml"),
    case!("pods/sysctls"),
    case!("transport/syn_schedule"),
    case!("failures/27-conntrack_race"),
    case!("failures/34-udp_scaled_to_zero"),
    case!("failures/46-mtu"),
    case!("failures/55-no_pre_stop"),
];

impl Case {
    /// Returns the fingerprint that was recorded.
    pub fn recorded(&self) -> &'static str {
        let last = self.golden.trim_end().lines().next_back();
        last.and_then(|line| line.strip_prefix("fingerprint "))
            .unwrap_or_default()
    }

    /// Returns the scenario, ready to run.
    ///
    /// # Errors
    /// [`Failed::Refused`], which would be a defect of the build.
    pub fn story(&self) -> Result<Story, Failed> {
        let name = format!("{}.ron", self.name);
        let refused = |problems: &[crate::problem::Problem]| {
            Failed::Refused(
                problems
                    .first()
                    .map_or_else(String::new, |p| p.title.clone()),
            )
        };
        let file = scenario::read(&name, self.scenario).map_err(|found| refused(&found))?;
        let inputs: Vec<Source> = self
            .manifest
            .iter()
            .map(|(name, text)| Source::new(*name, *text))
            .collect();
        let (story, problems) = story::resolve(&file, &inputs);
        if story::unusable(&problems) {
            return Err(refused(&problems));
        }
        Ok(story)
    }

    /// Runs the scenario with its own seed, and compares with what was recorded.
    ///
    /// # Errors
    /// What is different.
    pub fn as_recorded(&self) -> Result<(), Failed> {
        let story = self.story()?;
        let ran = story::run(&story, story.seed);
        if let Some(one) = ran.expectations.iter().find(|one| !one.held) {
            return Err(Failed::Expectation(one.text.clone()));
        }
        let (found, recorded) = (ran.fingerprint.to_string(), self.recorded().to_owned());
        if found == recorded {
            Ok(())
        } else {
            Err(Failed::Fingerprint { found, recorded })
        }
    }

    /// Runs the scenario twice with some seed; what it expects need not hold with every seed.
    ///
    /// # Errors
    /// [`Failed::Twice`].
    pub fn twice(&self, seed: u64) -> Result<(), Failed> {
        let story = self.story()?;
        let run = || story::run(&story, seed).fingerprint.to_string();
        let (one, other) = (run(), run());
        if one == other {
            Ok(())
        } else {
            Err(Failed::Twice { seed, one, other })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_scenario_is_noticed() {
        let right = CASES.first().copied().expect("there are cases");
        assert_eq!(right.as_recorded(), Ok(()));
        let golden = "fingerprint 0000000000000000\n";
        let found = Case { golden, ..right }.as_recorded();
        assert!(
            matches!(found, Err(Failed::Fingerprint { .. })),
            "{found:?}"
        );
        let scenario = "Scenario(";
        let found = Case { scenario, ..right }.as_recorded();
        assert!(matches!(found, Err(Failed::Refused(_))), "{found:?}");
    }

    #[test]
    fn every_case_has_a_recorded_fingerprint() {
        for case in CASES {
            assert_eq!(case.recorded().len(), 16, "{}", case.name);
        }
    }
}
