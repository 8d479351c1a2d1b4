//! Figures that others have measured, and what comes out here: the table in `docs/failures.md`. `PODWIRE_UPDATE=1` writes it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use podwire::lab::{Lab, Plan};
use podwire::story::{Ran, run};
use podwire_models::api::Objects;
use podwire_models::cluster::install::Site;
use podwire_models::control::cni::Cni;
use podwire_models::control::ipam::NodeCidrs;
use podwire_models::wire::{Action, Code};

use crate::golden::{root, story, story_of};

const BEGIN: &str = "<!-- made from the anchors -->\n";
const END: &str = "<!-- end of the anchors -->\n";

fn ran(scenario: &str) -> Ran {
    let story = story(&root().join("scenarios").join(scenario)).unwrap();
    run(&story, story.seed)
}

/// How long the attempts of a probe took, the shortest and the longest.
fn took(ran: &Ran, probe: &str) -> (Duration, Duration) {
    let of_probe = ran.attempts.iter().filter(|attempt| attempt.probe == probe);
    let times = of_probe.map(|attempt| attempt.ended.as_ref().unwrap().0.after);
    let times: Vec<Duration> = times.collect();
    (*times.iter().min().unwrap(), *times.iter().max().unwrap())
}

/// A time without what its packets need on the way: whole milliseconds.
fn seconds(time: Duration) -> String {
    format!("{}.{:03} s", time.as_secs(), time.subsec_millis())
}

fn queries(ran: &Ran, probe: &str) -> u32 {
    let mut attempts = ran.attempts.iter();
    attempts
        .find(|attempt| attempt.probe == probe)
        .unwrap()
        .queries
}

fn code(ran: &Ran, probe: &str) -> Code {
    let mut attempts = ran.attempts.iter();
    let attempt = attempts.find(|attempt| attempt.probe == probe).unwrap();
    attempt.ended.as_ref().unwrap().1
}

/// When the endpoints of a node that lost its power at 10 s are gone, from then on.
fn grace(kubernetes: &str) -> String {
    let name = "failures/57-dead_node.ron";
    let text = fs::read_to_string(root().join("scenarios").join(name)).unwrap();
    let release = format!("kubernetes: \"{kubernetes}\"");
    let story = story_of(name, &text.replace("kubernetes: \"1.34\"", &release)).unwrap();
    let ran = run(&story, story.seed);
    let gone = ran.trace.records.iter().find(|record| {
        matches!(&record.step.action, Action::Changed { what } if what.ends_with("cart-c is not ready"))
    });
    seconds(
        gone.unwrap()
            .at
            .since("10s".parse::<podwire::scenario::text::Moment>().unwrap().0),
    )
}

/// The MTU that flannel gives to pods on an underlay.
fn flannel_mtu(underlay: u32) -> u32 {
    let mut site = Site {
        cni: Cni::FlannelVxlan,
        ..Site::default()
    };
    site.underlay.mtu = underlay;
    let plan = Plan {
        site,
        ..Plan::default()
    };
    let lab = Lab::build(Objects::default(), plan);
    let (_, pod) = lab.machines.pods.iter().next().unwrap();
    let netns = lab.machines.cluster.netns(pod.netns).unwrap();
    netns.device_named("eth0").unwrap().mtu
}

fn nodes_of_a_slash_16() -> usize {
    let mut cidrs = NodeCidrs::with_default_mask("10.244.0.0/16".parse().unwrap());
    std::iter::from_fn(|| cidrs.allocate().ok()).count()
}

fn table() -> String {
    let syn = ran("transport/syn_schedule.ron");
    let race = ran("failures/27-conntrack_race.ron");
    let ndots = ran("dns/ndots_outside.ron");
    let mtu = ran("failures/46-mtu.ron");
    let udp = ran("failures/34-udp_scaled_to_zero.ron");
    let at = |ran: &Ran, probe: &str| seconds(took(ran, probe).0);
    let (five, one) = (queries(&ndots, "five"), queries(&ndots, "one"));
    let stale: Vec<_> = udp.attempts.iter().filter(|a| a.probe == "stale").collect();
    let (first, last) = (stale.first().unwrap().at, stale.last().unwrap().at);
    let all_stale = stale
        .iter()
        .filter(|a| a.ended.as_ref().unwrap().1 == Code::CtStaleEndpoint);
    let rows = [
        (
            "1+2+4+8+16+32 = 63 s of SYNs, before kernel 6.5",
            "`scenarios/transport/syn_schedule.ron`: `old`",
            at(&syn, "old"),
        ),
        (
            "the same way since kernel 6.5, 1+1+1+1+1+2+4+8+16+32 = 67 s",
            "`new`",
            at(&syn, "new"),
        ),
        (
            "`connect` fails after 127 s, before kernel 6.5",
            "`old-in-vain`",
            at(&syn, "old-in-vain"),
        ),
        (
            "`connect` fails after 131 s, since kernel 6.5",
            "`new-in-vain`",
            at(&syn, "new-in-vain"),
        ),
        (
            "5 s of a question lost in the race of A and AAAA, kernel 4.19",
            "`scenarios/failures/27-conntrack_race.ron`: `old`",
            at(&race, "old"),
        ),
        (
            "none of it since kernel 5.7",
            "`new`, the longest",
            seconds(took(&race, "new").1),
        ),
        (
            "ndots 5 → 1 saves 80 % of the questions (12,794 → 2,559)",
            "`scenarios/dns/ndots_outside.ron`: `five`, `one`",
            format!("{five} → {one}, {} %", (five - one) * 100 / five),
        ),
        (
            "1460 + 50 > 1472",
            "`scenarios/failures/46-mtu.ron`: `full`",
            code(&mtu, "full").to_string(),
        ),
        (
            "at most 1472 − 50 − 52 = 1370 bytes in a TCP segment",
            "`tcp` with 1370, `tcp-one-more` with 1371",
            format!("{}, {}", code(&mtu, "tcp"), code(&mtu, "tcp-one-more")),
        ),
        (
            "1420 − 50 = 1370, flannel over KubeSpan",
            "`sim/tests/it/anchors.rs`: MTU of a pod",
            flannel_mtu(1420).to_string(),
        ),
        (
            "256 nodes from a /16 with /24s",
            "`sim/tests/it/anchors.rs`: `NodeCidrs`",
            nodes_of_a_slash_16().to_string(),
        ),
        (
            "a UDP entry of 30 s is refreshed against a dead endpoint",
            "`scenarios/failures/34-udp_scaled_to_zero.ron`: `stale`",
            format!(
                "{} of {} packets in {}",
                all_stale.count(),
                stale.len(),
                seconds(last.since(first))
            ),
        ),
        (
            "40 s until a dead node's endpoints are gone, before 1.32",
            "`scenarios/failures/57-dead_node.ron` with 1.31",
            grace("1.31"),
        ),
        ("50 s since 1.32", "the same with 1.34", grace("1.34")),
    ];
    let mut made =
        "| what others measured | where it is shown | what comes out |\n|---|---|---|\n".to_owned();
    for (anchor, place, measured) in rows {
        writeln!(made, "| {anchor} | {place} | {measured} |").unwrap();
    }
    made
}

#[test]
fn the_figures_come_out_of_the_mechanism() {
    let path = root().join("docs/failures.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (told, after) = rest.split_once(END).unwrap();
    let made = table();
    if std::env::vars().any(|(name, _)| name == "PODWIRE_UPDATE") {
        fs::write(&path, [before, BEGIN, &made, END, after].concat()).unwrap();
        return;
    }
    assert_eq!(told, made, "PODWIRE_UPDATE=1 writes docs/failures.md anew");
}
