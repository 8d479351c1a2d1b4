//! When a deleted pod stops: hooks, SIGTERM and the grace period (`pkg/kubelet/kuberuntime`, `killContainer`), as a function of
//! its spec.
//!
//! The end of a pod with `terminationGracePeriodSeconds` G (30, if not given) whose containers have a `preStop` hook of P
//! seconds (0 without one):
//!
//! | after the deletion | what | answers |
//! |---|---|---|
//! | 0 | the endpoint is taken out of the ready ones, and in parallel the kubelet runs the hooks | yes |
//! | P, if P ≤ G | SIGTERM; the programs end | no |
//! | G + 2 s, if P > G | the hook is cut off, the programs get two seconds more and are killed | no |
//! | then | the network is taken away, the object is gone | no |
//!
//! Without a hook the programs end at once, in a race with kube-proxy on every node; a hook that sleeps longer than the slowest of
//! them is why rolling updates lose nothing.
//!
//! # Fidelity
//! Programs end at SIGTERM at once. `sleep` is known as a hook and as the command of an `exec` hook; other hooks take no
//! time. Readiness probes go on meanwhile in a real cluster; here the endpoint is terminating anyway.

use std::time::Duration;

use crate::api::{Container, PodSpec};

/// Seconds between SIGTERM and SIGKILL, if the input does not say (`DefaultTerminationGracePeriodSeconds`).
pub const GRACE: u32 = 30;

/// What is left to programs whose hook used up the grace period (`minimumGracePeriodInSeconds`).
pub const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Returns how long after its deletion a pod's programs end.
pub fn ends_after(spec: &PodSpec) -> Duration {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let grace = seconds(spec.termination_grace_period_seconds.unwrap_or(GRACE));
    let hook = |container: &Container| container.pre_stop_seconds;
    let hooks = spec.running().filter_map(hook).max().unwrap_or(0);
    let hooks = seconds(hooks);
    if grace.is_zero() {
        // Deleted by force.
        return Duration::ZERO;
    }
    if hooks > grace {
        grace + LEAST_GRACE
    } else {
        hooks
    }
}

/// Returns how long an `exec` hook takes, if all it does is sleep: `sleep 5`, or that in a shell.
pub fn sleeps<'w>(command: impl IntoIterator<Item = &'w str>) -> Option<u32> {
    let words: Vec<&str> = command
        .into_iter()
        .flat_map(str::split_whitespace)
        .collect();
    let (seconds, before) = words.split_last()?;
    let name = before.last()?.rsplit('/').next();
    let shell = |word: &&str| {
        let name = word.rsplit('/').next();
        matches!(name, Some("sh" | "bash" | "ash" | "-c"))
    };
    let only_that = before.iter().rev().skip(1).all(shell);
    let seconds = seconds.strip_suffix('s').unwrap_or(seconds);
    (name == Some("sleep") && only_that).then(|| seconds.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(hook: Option<u32>, grace: Option<u32>) -> PodSpec {
        PodSpec {
            containers: vec![Container {
                pre_stop_seconds: hook,
                ..Container::default()
            }],
            termination_grace_period_seconds: grace,
            ..PodSpec::default()
        }
    }

    #[test]
    fn hooks_come_before_the_signal_and_within_the_grace_period() {
        let seconds = Duration::from_secs;
        assert_eq!(ends_after(&spec(None, None)), seconds(0));
        assert_eq!(ends_after(&spec(Some(5), None)), seconds(5));
        assert_eq!(ends_after(&spec(Some(30), None)), seconds(30));
        assert_eq!(ends_after(&spec(Some(31), None)), seconds(32));
        assert_eq!(ends_after(&spec(Some(60), Some(10))), seconds(12));
        assert_eq!(ends_after(&spec(Some(60), Some(0))), seconds(0));
    }

    #[test]
    fn a_command_that_sleeps_is_a_hook_that_sleeps() {
        assert_eq!(sleeps(["sleep", "5"]), Some(5));
        assert_eq!(sleeps(["/bin/sh", "-c", "sleep 15"]), Some(15));
        assert_eq!(sleeps(["/bin/sleep", "3s"]), Some(3));
        assert_eq!(sleeps(["nginx", "-s", "quit"]), None);
        assert_eq!(sleeps(["sh", "-c", "nginx -s quit; sleep 5"]), None);
        assert_eq!(sleeps([]), None);
    }
}
