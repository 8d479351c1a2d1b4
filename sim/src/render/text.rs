//! A trace in columns: when, where, at which stage, which packet, what; below it, indented, what decided.
//!
//! ```text
//! 1.000008s  node-a  node:vethf3a1  PREROUTING  #4  translated  destination 10.96.0.17:7070 → 10.244.2.5:7070
//!                                                     by rule -A KUBE-SEP-… -j DNAT …  (shop.yaml:40)
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::str::FromStr;

use podwire_models::wire::{Action, Code, Head, Icmp, Stage, Transport};

use super::words;
use crate::trace::{Names, Record, Trace};

/// How much of a trace is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// What can be seen from outside: probes and their results, what applications say, changes of objects, faults.
    Minimal,
    /// Besides, one line for each decision that matters for a packet's way.
    #[default]
    Summary,
    /// Everything, with each record's number and that of its cause.
    Detailed,
}

impl FromStr for Detail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "minimal" => Ok(Self::Minimal),
            "summary" => Ok(Self::Summary),
            "detailed" => Ok(Self::Detailed),
            _ => Err("expected minimal, summary or detailed".into()),
        }
    }
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Letters only.
    #[default]
    Plain,
    /// With ANSI escape sequences.
    Ansi,
}

/// Returns a trace as text.
pub fn trace(trace: &Trace, detail: Detail, style: Style) -> String {
    records(&trace.records, &trace.names, detail, style)
}

/// Returns records as text.
pub fn records<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    names: &Names,
    detail: Detail,
    style: Style,
) -> String {
    let shown = records
        .into_iter()
        .filter(|record| needed(record) <= detail)
        .map(|record| (record, names));
    set(shown, detail, style).concat()
}

/// Returns one text for each record, all in the same columns.
pub(super) fn set<'a>(
    records: impl IntoIterator<Item = (&'a Record, &'a Names)>,
    detail: Detail,
    style: Style,
) -> Vec<String> {
    let line = |(record, names)| Line::of(record, names, detail);
    let lines: Vec<Line> = records.into_iter().map(line).collect();
    let widths = Widths::of(&lines);
    let write = |line: &Line| {
        let mut text = String::new();
        line.write(&mut text, &widths, style);
        text
    };
    lines.iter().map(write).collect()
}

/// Returns the least level of detail at which a record is shown.
pub fn needed(record: &Record) -> Detail {
    if record.step.packet.as_ref().is_some_and(is_neighbour_talk) {
        return Detail::Detailed;
    }
    match &record.step.action {
        Action::ProbeStarted { .. }
        | Action::ProbeEnded { .. }
        | Action::LoadCounted { .. }
        | Action::App { .. }
        | Action::FaultBegan { .. }
        | Action::FaultEnded { .. }
        | Action::NotEnforced { .. }
        | Action::Note { .. }
        | Action::Output { .. } => Detail::Minimal,
        Action::Changed { .. } if record.place.netns.is_none() => Detail::Minimal,
        Action::Received
        | Action::Dropped {
            code: Code::NotForUs,
        }
        | Action::RoutedLocal
        | Action::Examined { .. }
        | Action::Matched { .. }
        | Action::Tracked { .. }
        | Action::Resolving { .. }
        | Action::Resolved { .. }
        | Action::Flooded { .. }
        | Action::Transmitted { .. }
        | Action::State { .. } => Detail::Detailed,
        Action::Changed { .. }
        | Action::Sent
        | Action::Admitted
        | Action::Routed { .. }
        | Action::Translated { .. }
        | Action::Switched { .. }
        | Action::Encapsulated { .. }
        | Action::Decapsulated { .. }
        | Action::Fragmented { .. }
        | Action::Reassembled
        | Action::Delivered { .. }
        | Action::Answered { .. }
        | Action::Dropped { .. }
        | Action::Rejected { .. }
        | Action::Failed { .. } => Detail::Summary,
    }
}

/// Whether a packet only asks or tells who has which address.
const fn is_neighbour_talk(head: &Head) -> bool {
    match head {
        Head::Arp { .. } => true,
        Head::Ip { transport, .. } => matches!(
            transport,
            Transport::Icmp(
                Icmp::NeighbourSolicitation { .. } | Icmp::NeighbourAdvertisement { .. }
            )
        ),
    }
}

/// What a line says, before it is set in columns.
struct Line {
    columns: Vec<Column>,
    verb: &'static str,
    rest: String,
    by: Option<String>,
    mood: Mood,
}

struct Column {
    text: String,
    right: bool,
}

/// What a reader should feel.
#[derive(Clone, Copy)]
enum Mood {
    Plain,
    Good,
    Bad,
    Notable,
    Quiet,
}

impl Line {
    fn of(record: &Record, names: &Names, detail: Detail) -> Self {
        let left = |text: String| Column { text, right: false };
        let right = |text: String| Column { text, right: true };
        let mut columns = vec![right(record.at.to_string())];
        if detail == Detail::Detailed {
            let cause = record
                .cause
                .map(|cause| format!("<{cause}"))
                .unwrap_or_default();
            columns.splice(0..0, [right(record.seq.to_string()), left(cause)]);
        }
        if detail == Detail::Minimal {
            columns.push(left(
                names
                    .netns_at(&record.place)
                    .unwrap_or("cluster")
                    .to_owned(),
            ));
        } else {
            columns.push(left(names.node_at(&record.place).unwrap_or("-").to_owned()));
            columns.push(left(spot(record, names)));
            columns.push(left(record.place.stage.to_string()));
            let packet = record
                .step
                .packet
                .as_ref()
                .map(|head| format!("#{}", head.id().0));
            columns.push(right(packet.unwrap_or_default()));
        }
        let words = words::say(&record.step);
        let by = record
            .step
            .by
            .as_ref()
            .filter(|_| detail > Detail::Minimal)
            .map(|by| match names.origin_text(by.origin) {
                Some(origin) => format!("by {}  ({origin})", words::decider(by)),
                None => format!("by {}", words::decider(by)),
            });
        let mood = mood(&record.step.action);
        Self {
            columns,
            verb: words.verb,
            rest: words.rest,
            by,
            mood,
        }
    }

    fn write(&self, text: &mut String, widths: &Widths, style: Style) {
        let mut margin = 0;
        for (position, (column, width)) in self.columns.iter().zip(&widths.columns).enumerate() {
            if *width == 0 {
                continue;
            }
            let gap = " ".repeat(width.saturating_sub(column.text.chars().count()));
            let colour = if position == 0 {
                Mood::Quiet
            } else {
                Mood::Plain
            };
            let painted = paint(&column.text, colour, style);
            let cell = if column.right {
                format!("{gap}{painted}")
            } else {
                format!("{painted}{gap}")
            };
            let _ = write!(text, "{cell}  ");
            margin += width + 2;
        }
        let gap = " ".repeat(widths.verb.saturating_sub(self.verb.len()));
        let mut rest = self.rest.lines();
        let first = rest.next().unwrap_or_default();
        let line = format!("{}{gap}  {first}", paint(self.verb, self.mood, style));
        text.push_str(line.trim_end());
        text.push('\n');
        let indent = " ".repeat(margin);
        for more in rest {
            text.push_str(format!("{indent}  {more}").trim_end());
            text.push('\n');
        }
        if let Some(by) = &self.by {
            let _ = writeln!(text, "{indent}  {}", paint(by, Mood::Quiet, style));
        }
    }
}

/// Where in a machine: `pod/shop/cart-0:eth0`, `node:cni0`, `cluster`.
fn spot(record: &Record, names: &Names) -> String {
    let Some(netns) = names.netns_at(&record.place) else {
        return "cluster".into();
    };
    let own = names
        .node_at(&record.place)
        .is_some_and(|node| netns.strip_prefix("node/") == Some(node));
    let netns = if own { "node" } else { netns };
    match names.device_at(&record.place) {
        Some(dev) if record.place.stage != Stage::Socket => format!("{netns}:{dev}"),
        _ => netns.to_owned(),
    }
}

struct Widths {
    columns: Vec<usize>,
    verb: usize,
}

impl Widths {
    fn of(lines: &[Line]) -> Self {
        let mut columns = Vec::new();
        for line in lines {
            columns.resize(columns.len().max(line.columns.len()), 0);
            for (width, column) in columns.iter_mut().zip(&line.columns) {
                *width = (*width).max(column.text.chars().count());
            }
        }
        let verbs: BTreeSet<usize> = lines.iter().map(|line| line.verb.len()).collect();
        Self {
            columns,
            verb: verbs.last().copied().unwrap_or(0),
        }
    }
}

fn mood(action: &Action) -> Mood {
    match action {
        Action::Delivered { .. }
        | Action::ProbeEnded { code: Code::Ok, .. }
        | Action::LoadCounted { code: Code::Ok, .. } => Mood::Good,
        Action::Dropped { .. }
        | Action::Rejected { .. }
        | Action::Failed { .. }
        | Action::ProbeEnded { .. }
        | Action::LoadCounted { .. }
        | Action::NotEnforced { .. }
        | Action::FaultBegan { .. } => Mood::Bad,
        Action::Translated { .. }
        | Action::Admitted
        | Action::Encapsulated { .. }
        | Action::Decapsulated { .. }
        | Action::Changed { .. }
        | Action::FaultEnded { .. }
        | Action::ProbeStarted { .. }
        | Action::Note { .. } => Mood::Notable,
        Action::Examined { .. } | Action::Received | Action::Transmitted { .. } => Mood::Quiet,
        Action::Sent
        | Action::Routed { .. }
        | Action::RoutedLocal
        | Action::Matched { .. }
        | Action::Tracked { .. }
        | Action::Resolving { .. }
        | Action::Resolved { .. }
        | Action::Switched { .. }
        | Action::Flooded { .. }
        | Action::Fragmented { .. }
        | Action::Reassembled
        | Action::Answered { .. }
        | Action::State { .. }
        | Action::App { .. }
        | Action::Output { .. } => Mood::Plain,
    }
}

/// Colours a text (ECMA-48, Select Graphic Rendition).
fn paint(text: &str, mood: Mood, style: Style) -> String {
    let code = match (style, mood) {
        (Style::Plain, _) | (Style::Ansi, Mood::Plain) => return text.to_owned(),
        (Style::Ansi, Mood::Good) => "32",
        (Style::Ansi, Mood::Bad) => "1;31",
        (Style::Ansi, Mood::Notable) => "36",
        (Style::Ansi, Mood::Quiet) => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use podwire_models::base::{Mac, Time};
    use podwire_models::wire::{
        Decider, DeciderKind, DevIndex, Manip, NetnsId, PacketId, Place, Recorder as _, Step, Tcp,
        TcpFlags,
    };
    use std::net::IpAddr;
    use std::time::Duration;

    use crate::trace::TraceRecorder;

    /// A client on one node asks a Service whose pod is on another.
    pub(crate) fn story() -> Trace {
        let mut names = Names::default();
        names.name_netns(NetnsId(0), Some("node-a"), "node/node-a");
        names.name_netns(NetnsId(1), Some("node-a"), "pod/shop/frontend-0");
        names.name_netns(NetnsId(2), Some("node-b"), "pod/shop/cart-0");
        names.name_device(NetnsId(0), DevIndex(2), "eth0");
        names.name_device(NetnsId(0), DevIndex(3), "vethf3a1");
        let origin = names.origins.add(crate::source::Origin {
            source: "shop.yaml".into(),
            line: 40,
            column: 1,
            object: "Service/shop/cart".into(),
        });
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let head = |dst: &str| Head::Ip {
            id: PacketId(4),
            src: ip("10.244.1.5"),
            dst: ip(dst),
            ttl: 64,
            len: 60,
            transport: Transport::Tcp(Tcp {
                sport: 40000,
                dport: 7070,
                flags: TcpFlags::SYN,
                ..Tcp::default()
            }),
            says: None,
        };
        let step = |dst: &str, action| Step {
            packet: Some(head(dst)),
            action,
            by: None,
        };
        let place = |netns, dev: u32, stage| Place {
            netns: Some(NetnsId(netns)),
            dev: (dev > 0).then_some(DevIndex(dev)),
            stage,
        };
        let (vip, pod) = ("10.96.0.17", "10.244.2.5");
        let mut recorder = TraceRecorder::new();
        recorder.begin(Time::from_secs(1), None);
        recorder.record(
            place(1, 0, Stage::Socket),
            Step::general(Action::ProbeStarted {
                probe: "before".into(),
                what: "pod/shop/frontend-0 → http://cart.shop:7070/".into(),
            }),
        );
        recorder.record(place(1, 0, Stage::Output), step(vip, Action::Sent));
        recorder.begin(Time(1_000_008_000), recorder.cause());
        recorder.record(place(0, 3, Stage::Receive), step(vip, Action::Received));
        recorder.record(
            place(0, 3, Stage::Prerouting),
            step(
                vip,
                Action::Examined {
                    chain: "nat KUBE-SERVICES".into(),
                    rules: 12,
                },
            ),
        );
        recorder.record(
            place(0, 3, Stage::Prerouting),
            step(
                pod,
                Action::Translated {
                    manip: Manip::Destination,
                    from: (ip(vip), 7070),
                    to: (ip(pod), 7070),
                    undo: false,
                },
            )
            .by(Decider::new(
                DeciderKind::Rule,
                "-A KUBE-SEP-X -p tcp -j DNAT --to-destination 10.244.2.5:7070",
            )
            .from(origin)),
        );
        recorder.record(
            place(0, 3, Stage::Routing),
            step(
                pod,
                Action::Routed {
                    gateway: Some(ip("172.18.0.3")),
                    dev: "eth0".into(),
                },
            )
            .by(Decider::new(
                DeciderKind::Route,
                "10.244.2.0/24 via 172.18.0.3 dev eth0",
            )),
        );
        recorder.record(
            place(0, 2, Stage::Neighbour),
            step(
                pod,
                Action::Resolved {
                    next_hop: ip("172.18.0.3"),
                    mac: Mac::ZERO,
                },
            ),
        );
        recorder.begin(Time(1_000_108_001), recorder.cause());
        recorder.record(
            place(2, 0, Stage::Socket),
            step(
                pod,
                Action::Delivered {
                    at: (ip(pod), 7070),
                },
            ),
        );
        recorder.begin(Time(1_000_412_000), recorder.cause());
        recorder.record(
            place(1, 0, Stage::Socket),
            Step::general(Action::ProbeEnded {
                probe: "before".into(),
                result: "connected".into(),
                code: Code::Ok,
                after: Duration::from_micros(412),
            }),
        );
        recorder.begin(Time::from_secs(2), None);
        recorder.record(
            Place::CLUSTER,
            Step::general(Action::Output {
                command: "ip route".into(),
                text: "a\nb\n".into(),
            }),
        );
        recorder.finish(names)
    }

    #[test]
    fn minimal_is_what_can_be_seen_from_outside() {
        insta::assert_snapshot!(trace(&story(), Detail::Minimal, Style::Plain), @r#"
        1.000000s  pod/shop/frontend-0  probe   before: pod/shop/frontend-0 → http://cart.shop:7070/
        1.000412s  pod/shop/frontend-0  probe   before: connected after 412us (OK)
        2.000000s  cluster              output  $ ip route
                                          a
                                          b
        "#);
    }

    #[test]
    fn summary_is_one_line_for_each_decision_that_matters() {
        insta::assert_snapshot!(trace(&story(), Detail::Summary, Style::Plain), @r#"
           1.000000s  node-a  pod/shop/frontend-0  SOCKET          probe       before: pod/shop/frontend-0 → http://cart.shop:7070/
           1.000000s  node-a  pod/shop/frontend-0  OUTPUT      #4  sent        10.244.1.5:40000 > 10.96.0.17:7070 tcp SYN
           1.000008s  node-a  node:vethf3a1        PREROUTING  #4  translated  destination 10.96.0.17:7070 → 10.244.2.5:7070
                                                                     by rule -A KUBE-SEP-X -p tcp -j DNAT --to-destination 10.244.2.5:7070  (shop.yaml:40)
           1.000008s  node-a  node:vethf3a1        ROUTING     #4  routed      via 172.18.0.3 dev eth0
                                                                     by route 10.244.2.0/24 via 172.18.0.3 dev eth0
        1.000108001s  node-b  pod/shop/cart-0      SOCKET      #4  delivered   to 10.244.2.5:7070: 10.244.1.5:40000 > 10.244.2.5:7070 tcp SYN
           1.000412s  node-a  pod/shop/frontend-0  SOCKET          probe       before: connected after 412us (OK)
           2.000000s  -       cluster              CONTROL         output      $ ip route
                                                                     a
                                                                     b
        "#);
    }

    #[test]
    fn detailed_is_everything() {
        insta::assert_snapshot!(trace(&story(), Detail::Detailed, Style::Plain), @r#"
        0         1.000000s  node-a  pod/shop/frontend-0  SOCKET          probe       before: pod/shop/frontend-0 → http://cart.shop:7070/
        1  <0     1.000000s  node-a  pod/shop/frontend-0  OUTPUT      #4  sent        10.244.1.5:40000 > 10.96.0.17:7070 tcp SYN
        2  <1     1.000008s  node-a  node:vethf3a1        RECEIVE     #4  received    10.244.1.5:40000 > 10.96.0.17:7070 tcp SYN
        3  <2     1.000008s  node-a  node:vethf3a1        PREROUTING  #4  examined    nat KUBE-SERVICES: 12 rules
        4  <3     1.000008s  node-a  node:vethf3a1        PREROUTING  #4  translated  destination 10.96.0.17:7070 → 10.244.2.5:7070
                                                                            by rule -A KUBE-SEP-X -p tcp -j DNAT --to-destination 10.244.2.5:7070  (shop.yaml:40)
        5  <4     1.000008s  node-a  node:vethf3a1        ROUTING     #4  routed      via 172.18.0.3 dev eth0
                                                                            by route 10.244.2.0/24 via 172.18.0.3 dev eth0
        6  <5     1.000008s  node-a  node:eth0            NEIGHBOUR   #4  resolved    172.18.0.3 is at 00:00:00:00:00:00
        7  <6  1.000108001s  node-b  pod/shop/cart-0      SOCKET      #4  delivered   to 10.244.2.5:7070: 10.244.1.5:40000 > 10.244.2.5:7070 tcp SYN
        8  <7     1.000412s  node-a  pod/shop/frontend-0  SOCKET          probe       before: connected after 412us (OK)
        9         2.000000s  -       cluster              CONTROL         output      $ ip route
                                                                            a
                                                                            b
        "#);
    }

    #[test]
    fn colour_adds_nothing_else() {
        let plain = trace(&story(), Detail::Detailed, Style::Plain);
        let mut styled = trace(&story(), Detail::Detailed, Style::Ansi);
        assert_ne!(styled, plain);
        for code in ["0", "32", "1;31", "36", "2"] {
            styled = styled.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(styled, plain);
    }

    #[test]
    fn the_page_about_traces_has_every_code() {
        const PAGE: &str = include_str!("../../../docs/trace.md");
        let rows: Vec<&str> = PAGE
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .collect();
        for code in Code::ALL {
            let row = format!("{}` | {} |", code.name(), code.page().meaning);
            assert!(
                rows.iter().any(|line| line.starts_with(&row)),
                "docs/trace.md lacks {code}"
            );
        }
        for code in crate::problem::ProblemCode::ALL {
            let row = format!("{}` | {} |", code.name(), code.meaning());
            assert!(rows.contains(&row.as_str()), "docs/trace.md lacks {code}");
        }
    }
}
