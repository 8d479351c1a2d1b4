//! The readers: manifests, scenarios with all that follows from them, single values, results of CNI plugins.

use std::fmt::Display;
use std::str::FromStr;

use podwire::manifest;
use podwire::materialize::Prefix;
use podwire::problem::{self, Problem, Sources};
use podwire::reach::end::{End, Port};
use podwire::scenario::text::{Addresses, Cidrs, Delay, Moment, Rate, Size};
use podwire::scenario::{self, ObjectRef, Target, Thing};
use podwire::source::{OriginTable, Source};
use podwire::story::{self, Ran};
use podwire::trace::shape;
use podwire_models::api::Objects;
use podwire_models::base::{Mac, ObjectKey, Ratio, Selector};
use podwire_models::control::cni::plugin::call::ALL_VERSIONS;
use podwire_models::control::cni::plugin::go_json;
use podwire_models::control::cni::plugin::result::CniResult;

use super::corpus;
use super::drive::drive_texts;

/// A problem must point into the text, and be shown.
fn shown(problems: &[Problem], sources: &Sources) {
    for problem in problems {
        assert!(!problem.title.is_empty());
        for spot in problem.at.iter().chain(problem.also.iter().map(|(s, _)| s)) {
            if let Some(text) = sources.get(&spot.source) {
                assert!(spot.end <= text.len(), "{problem:?}");
                assert!(text.is_char_boundary(spot.start), "{problem:?}");
                assert!(text.is_char_boundary(spot.end), "{problem:?}");
            }
        }
    }
    let text = problem::render(problems, sources);
    assert_eq!(text.is_empty(), problems.is_empty());
    let odd = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(odd, None, "{text}");
}

fn manifests(text: &str) -> bool {
    let source = Source::new("x.yaml", text);
    let mut sources = Sources::default();
    sources.add("x.yaml", text);
    let (read, problems) =
        manifest::read(std::slice::from_ref(&source), &mut OriginTable::default());
    shown(&problems, &sources);
    let (again, same) = manifest::read(&[source], &mut OriginTable::default());
    assert_eq!(problems, same);
    assert_eq!(read.objects, again.objects);
    !story::unusable(&problems)
}

#[test]
fn manifests_are_read_or_refused() {
    drive_texts(
        "manifests",
        600,
        &corpus::texts(&["yaml", "json"]),
        &manifests,
    );
}

/// What is true of everything that was run.
pub(crate) fn sane(story: &story::Story, ran: &Ran) {
    shape::check(&ran.trace).unwrap();
    let again = story::run(story, story.seed);
    assert_eq!(ran.fingerprint, again.fingerprint, "two runs differ");
    for attempt in &ran.attempts {
        if let Some((outcome, code)) = &attempt.ended {
            let connected = outcome.result == podwire::traffic::ProbeResult::Connected;
            let ok = *code == podwire_models::wire::Code::Ok;
            assert_eq!(connected, ok, "{}: {outcome:?}, {code:?}", attempt.probe);
        }
    }
}

/// Whether running a story takes no longer than a test has.
fn small(story: &story::Story, objects: &Objects) -> bool {
    story.agenda.len() < 300 && objects.pods.len() < 200 && story.lab.objects.nodes.len() < 30
}

fn scenarios(text: &str) -> bool {
    let mut sources = Sources::default();
    sources.add("x.ron", text);
    let file = match scenario::read("x.ron", text) {
        Ok(file) => file,
        Err(problems) => {
            assert!(!problems.is_empty());
            shown(&problems, &sources);
            return false;
        }
    };
    let (story, problems) = story::resolve(&file, &[]);
    shown(&problems, &sources);
    if story::unusable(&problems) {
        return false;
    }
    if small(&story, &story.lab.objects) {
        sane(&story, &story::explained(&story, story.seed));
    }
    true
}

/// Scenarios that name no file, and those whose objects stand in them.
fn whole() -> Vec<String> {
    let mut all = corpus::texts(&["ron"]);
    all.retain(|text| !text.contains("manifests: [") && !text.contains(".yaml\""));
    assert!(all.len() > 30, "{}", all.len());
    all
}

#[test]
fn scenarios_are_run_or_refused() {
    drive_texts("scenarios", 150, &whole(), &scenarios);
}

/// A value that is read is printed so that it is read as the same.
fn round<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else {
        return false;
    };
    let printed = value.to_string();
    match printed.parse::<T>() {
        Ok(again) => assert_eq!(value, again, "{text:?} is printed as {printed:?}"),
        Err(_) => panic!("{text:?} is printed as {printed:?}, which cannot be read"),
    }
    true
}

fn values(text: &str) -> bool {
    let read = [
        round::<Thing>(text),
        round::<Target>(text),
        round::<End>(text),
        round::<ObjectKey>(text),
        round::<Selector>(text),
        round::<Ratio>(text),
        round::<Mac>(text),
        text.parse::<ObjectRef>().is_ok(),
        text.parse::<Port>().is_ok(),
        text.parse::<Delay>().is_ok(),
        text.parse::<Moment>().is_ok(),
        text.parse::<Rate>().is_ok(),
        text.parse::<Size>().is_ok(),
        text.parse::<Cidrs>().is_ok(),
        text.parse::<Addresses>().is_ok(),
        text.parse::<Prefix>().is_ok(),
    ];
    read.contains(&true)
}

const VALUES: &[&str] = &[
    "pod/shop/cart-0",
    "deploy/shop/cart",
    "sts/cart",
    "node/node-a",
    "host/browser",
    "svc/shop/cart:7070",
    "svc/shop/cart:http",
    "pod/shop/cart-0:80",
    "10.244.2.5:80",
    "[fd00::1]:80",
    "cart.shop:7070",
    "http://cart.shop:7070/items",
    "http://[fd00::1]:80/",
    "ns/shop",
    "80",
    "53/UDP",
    "icmp",
    "8000-9000/tcp",
    "app=cart",
    "app=cart,tier in (a,b),!old",
    "a notin (b),c",
    "1500ms",
    "1m30s",
    "2h",
    "10Gbit",
    "100Mbit",
    "1400B",
    "64KiB",
    "1/3",
    "0.5%",
    "10.244.0.0/16,fd00:10:244::/56",
    "10.0.0.1,fd00::1",
    "02:00:00:00:01:02",
    "podwire-x",
    "shop/cart",
];

#[test]
fn values_are_printed_as_they_were_read() {
    let corpus: Vec<String> = VALUES.iter().map(|text| (*text).to_owned()).collect();
    drive_texts("values", 20_000, &corpus, &values);
}

fn results(text: &str) -> bool {
    let Ok(value) = go_json::parse(text) else {
        return false;
    };
    let mut read = false;
    for version in ALL_VERSIONS {
        if let Ok(result) = CniResult::from_json(&value, version) {
            for asked in ALL_VERSIONS {
                read |= result.to_json(asked).is_ok();
            }
        }
    }
    read
}

#[test]
fn results_of_plugins_are_read_or_refused() {
    let corpus = [
        r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/run/netns/x"}],"ips":[{"interface":0,"address":"10.1.0.5/16","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1","mtu":1400,"advmss":1360,"priority":5,"table":100,"scope":0}],"dns":{"nameservers":["10.1.0.1"],"domain":"x","search":["y"],"options":["ndots:5"]}}"#,
        r#"{"cniVersion":"0.3.1","ips":[{"version":"6","address":"fd00::5/64","gateway":"fd00::1"}],"routes":[{"dst":"::/0"}]}"#,
        r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.5/16","gateway":"10.1.0.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::5/64"},"dns":{}}"#,
    ];
    drive_texts("cni-results", 20_000, &corpus.map(str::to_owned), &results);
}
