//! A trace for programs: newline-delimited JSON. The first line names the schema, each further one is a record.

use serde::Serialize;

use podwire_models::wire::{Action, PacketId};

use super::words;
use crate::trace::{Names, Record, Trace};

/// Name and version of the form of the lines.
pub const SCHEMA: &str = "podwire.record/v1";

/// One step, as `podwire trace -o json` lists it. Every field is always there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepJson {
    /// When, in nanoseconds since the start.
    pub at_ns: u64,
    /// Where.
    pub place: PlaceJson,
    /// The packet right after the step, as tcpdump would print it.
    pub packet: Option<String>,
    /// What was decided, as a sentence.
    pub step: String,
    /// What decided it.
    pub decided_by: Option<String>,
    /// The line of input it was made from.
    pub origin: Option<String>,
    /// How the packet ended, if it did.
    pub code: Option<&'static str>,
}

/// Where a step happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlaceJson {
    /// Machine.
    pub node: Option<String>,
    /// Network namespace.
    pub netns: Option<String>,
    /// Device.
    pub dev: Option<String>,
    /// Stage of the path.
    pub stage: &'static str,
}

impl StepJson {
    /// Returns the step of a record.
    pub fn of(record: &Record, names: &Names) -> Self {
        let (step, place) = (&record.step, &record.place);
        Self {
            at_ns: record.at.0,
            place: PlaceJson {
                node: names.node_at(place).map(str::to_owned),
                netns: names.netns_at(place).map(str::to_owned),
                dev: names.device_at(place).map(str::to_owned),
                stage: place.stage.name(),
            },
            packet: step.packet.as_ref().map(ToString::to_string),
            step: words::say(step).sentence(),
            decided_by: step.by.as_ref().map(words::decider),
            origin: step.by.as_ref().and_then(|by| names.origin_text(by.origin)),
            code: step
                .action
                .ends_with()
                .map(podwire_models::wire::Code::name),
        }
    }
}

#[derive(Serialize)]
struct Header {
    schema: &'static str,
    records: usize,
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    cause: Option<u64>,
    #[serde(flatten)]
    step: StepJson,
    packet_id: Option<PacketId>,
    action: &'a Action,
}

/// Returns a trace as newline-delimited JSON.
pub fn trace(trace: &Trace) -> String {
    let mut text = line(&Header {
        schema: SCHEMA,
        records: trace.records.len(),
    });
    for one in &trace.records {
        text.push_str(&record(one, &trace.names));
    }
    text
}

/// Returns one record as one line.
pub fn record(record: &Record, names: &Names) -> String {
    line(&Line {
        seq: record.seq,
        cause: record.cause,
        step: StepJson::of(record, names),
        packet_id: record
            .step
            .packet
            .as_ref()
            .map(podwire_models::wire::Head::id),
        action: &record.step.action,
    })
}

fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("records have names and numbers only");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::render::text::tests::story;

    #[test]
    fn every_line_is_an_object() {
        let text = trace(&story());
        for line in text.lines() {
            assert!(
                serde_json::from_str::<serde_json::Value>(line)
                    .unwrap()
                    .is_object()
            );
        }
        assert_eq!(text.lines().count(), story().records.len() + 1);
        assert!(text.starts_with("{\"schema\":\"podwire.record/v1\""));
    }

    #[test]
    fn a_record_says_everything() {
        let story = story();
        let translated = story.records.get(4).unwrap();
        insta::assert_snapshot!(record(translated, &story.names), @r#"{"seq":4,"cause":3,"at_ns":1000008000,"place":{"node":"node-a","netns":"node/node-a","dev":"vethf3a1","stage":"PREROUTING"},"packet":"10.244.1.5:40000 > 10.244.2.5:7070 tcp SYN","step":"translated destination 10.96.0.17:7070 → 10.244.2.5:7070","decided_by":"rule -A KUBE-SEP-X -p tcp -j DNAT --to-destination 10.244.2.5:7070","origin":"shop.yaml:40","code":null,"packet_id":4,"action":{"Translated":{"manip":"Destination","from":["10.96.0.17",7070],"to":["10.244.2.5",7070],"undo":false}}}"#);
    }
}
