//! How long a rolling update fails follows from the parameters: who hears of a deleted pod when.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use podwire::controllers::runner::Runner;
use podwire::controllers::{ENDPOINT_SYNC, KUBELET_WATCH, PROXY_SYNC};
use podwire::story::{Ran, run};
use podwire_models::base::Time;
use podwire_models::control::proxy::Version;
use podwire_models::wire::{Action, Code};

use crate::golden::{root, story};

fn ran(name: &str) -> Ran {
    let story = story(&root().join("scenarios/lifecycle").join(name)).unwrap();
    let ran = run(&story, story.seed);
    let failed: Vec<_> = ran.expectations.iter().filter(|e| !e.held).collect();
    assert!(failed.is_empty(), "{failed:?}");
    ran
}

/// What happened to pods of the Deployment: when, which, and what.
fn told(ran: &Ran) -> Vec<(Time, String, String)> {
    let changed = ran.trace.records.iter().filter_map(|record| {
        let Action::Changed { what } = &record.step.action else {
            return None;
        };
        let (pod, what) = what.strip_prefix("Pod/shop/web-")?.split_once(' ')?;
        Some((record.at, pod.to_owned(), what.to_owned()))
    });
    changed.collect()
}

/// When the controller writes slices: a moment after a change, and with it what has changed meanwhile.
fn slices(ran: &Ran, changes: &[(Time, String, String)]) -> Vec<Time> {
    let heeded = |what: &str| ["is ready", "is being deleted", "is gone"].contains(&what);
    let mut slices: Vec<Time> = Vec::new();
    // Of what happens at one moment, the order in the trace tells what came after the slices.
    let mut past = Time::ZERO;
    for record in &ran.trace.records {
        let Action::Changed { what } = &record.step.action else {
            continue;
        };
        if what.starts_with("EndpointSlices of shop/web") {
            past = record.at;
        }
        let mut own = changes.iter().filter(|(at, ..)| *at == record.at);
        let pod = own.any(|(_, pod, change)| {
            heeded(change) && *what == format!("Pod/shop/web-{pod} {change}")
        });
        let covered = slices
            .last()
            .is_some_and(|last| *last > record.at || *last == record.at && past < record.at);
        if pod && !covered {
            slices.push(record.at + ENDPOINT_SYNC);
        }
    }
    slices
}

/// When rules are in force, and which pods they choose, as the parameters say.
fn rules(
    slices: &[Time],
    changes: &[(Time, String, String)],
    first: BTreeSet<String>,
) -> Vec<(Time, BTreeSet<String>)> {
    let mut runner = Runner::default();
    let mut writes = Vec::new();
    for heard in slices {
        if let Some(begins) = runner.hear(*heard, PROXY_SYNC, Version::default()) {
            writes.push(begins + PROXY_SYNC);
        }
    }
    let mut all = vec![(Time::ZERO, first.clone())];
    for written in writes {
        let slice = slices.iter().rfind(|slice| **slice <= written).unwrap();
        let mut ready = first.clone();
        for (_, pod, what) in changes.iter().filter(|(at, ..)| at <= slice) {
            match what.as_str() {
                "is ready" => ready.insert(pod.clone()),
                "is being deleted" => ready.remove(pod),
                _ => false,
            };
        }
        all.push((written, ready));
    }
    all
}

/// Returns how many of the load's attempts fail, and how many would have to by the parameters; and checks that none fails outside
/// of the windows.
fn failures(ran: &Ran, hook: Duration) -> (u64, u64) {
    let changes = told(ran);
    let created = |pod: &str| {
        changes
            .iter()
            .any(|(_, p, what)| p == pod && what == "is created")
    };
    let first = changes.iter().map(|(_, pod, _)| pod.clone());
    let first: BTreeSet<String> = first.filter(|pod| !created(pod)).collect();
    assert_eq!(first.len(), 10, "all old pods are replaced");
    let rules = rules(&slices(ran, &changes), &changes, first);
    let written: Vec<Time> = rules.iter().skip(1).map(|(at, _)| *at).collect();
    let traced = ran.trace.records.iter().filter(|record| {
        matches!(&record.step.action, Action::Changed { what } if what.starts_with("kube-proxy"))
    });
    assert_eq!(written, traced.map(|record| record.at).collect::<Vec<_>>());
    let deaf = |pod: &String, at: Time| {
        let mut deleted = changes
            .iter()
            .filter(|(_, p, what)| p == pod && what == "is being deleted");
        deleted.any(|(deleted, ..)| at >= *deleted + KUBELET_WATCH + hook)
    };
    let (mut expected, mut failed) = (0_u64, 0_u64);
    for attempt in ran.attempts.iter().filter(|a| a.probe == "load") {
        let (_, chosen) = rules
            .iter()
            .rfind(|(since, _)| *since <= attempt.at)
            .unwrap();
        let missed = chosen.iter().filter(|pod| deaf(pod, attempt.at)).count();
        // In millionths: each endpoint is chosen as often as any other.
        expected += 1_000_000 * missed as u64 / chosen.len() as u64;
        let (_, code) = attempt.ended.as_ref().unwrap();
        if *code == Code::EpRemovalLag {
            // A packet needs less than a millisecond to the pod.
            let soon = attempt.at + Duration::from_millis(1);
            let missed = chosen.iter().any(|pod| deaf(pod, soon));
            assert!(
                missed,
                "at {} nobody was deaf that the rules choose",
                attempt.at
            );
            failed += 1;
        }
    }
    (failed, expected / 1_000_000)
}

#[test]
fn without_a_hook_the_window_is_what_the_parameters_say() {
    let ran = ran("rollout_without_prestop.ron");
    let (failed, expected) = failures(&ran, Duration::ZERO);
    assert!(expected > 100, "{expected}");
    // Endpoints are chosen by lot: four standard deviations.
    let apart = failed.abs_diff(expected);
    assert!(
        apart * apart < 16 * expected,
        "{failed} failed, {expected} were to"
    );
}

#[test]
fn with_a_hook_there_is_no_window() {
    let ran = ran("rollout_with_prestop.ron");
    assert_eq!(failures(&ran, Duration::from_secs(5)), (0, 0));
}
