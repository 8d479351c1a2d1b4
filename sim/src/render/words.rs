//! What an action is, in a few words: a verb and the rest of the sentence.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use podwire_models::wire::{Action, Code, Decider, DeciderKind, Manip, Step};

/// A sentence about a step, in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// What was done: `translated`.
    pub verb: &'static str,
    /// To what, how: `destination 10.96.0.17:80 → 10.244.2.5:8080`. May be empty, may have several lines.
    pub rest: String,
}

impl Words {
    /// Returns both parts as one sentence.
    pub fn sentence(&self) -> String {
        format!("{} {}", self.verb, self.rest).trim_end().to_owned()
    }
}

/// Returns what a step says.
pub fn say(step: &Step) -> Words {
    let head = || {
        step.packet
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    let (verb, rest) = match &step.action {
        Action::Sent => ("sent", head()),
        Action::Received => ("received", head()),
        Action::Routed {
            gateway: Some(gateway),
            dev,
        } => ("routed", format!("via {gateway} dev {dev}")),
        Action::Routed { gateway: None, dev } => ("routed", format!("on link, dev {dev}")),
        Action::RoutedLocal => ("routed", "to this machine".into()),
        Action::Examined { chain, rules } => {
            ("examined", format!("{chain}: {}", count(*rules, "rule")))
        }
        Action::Matched { chain, target } => ("matched", format!("{chain}: {target}")),
        Action::Tracked { state } => ("tracked", state.clone()),
        Action::Translated {
            manip,
            from,
            to,
            undo,
        } => {
            let end = match manip {
                Manip::Source => "source",
                Manip::Destination => "destination",
            };
            let undo = if *undo { " (undone)" } else { "" };
            (
                "translated",
                format!("{end} {} → {}{undo}", socket(*from), socket(*to)),
            )
        }
        Action::Resolving { next_hop } => ("resolving", next_hop.to_string()),
        Action::Resolved { next_hop, mac } => ("resolved", format!("{next_hop} is at {mac}")),
        Action::Switched { port } => ("switched", format!("to port {port}")),
        Action::Flooded { ports } => ("flooded", format!("to {}", count(*ports, "port"))),
        Action::Encapsulated { vni, src, dst } => {
            ("encapsulated", format!("vni {vni}, {src} > {dst}"))
        }
        Action::Decapsulated { vni } => ("decapsulated", format!("vni {vni}: {}", head())),
        Action::Fragmented { pieces, mtu } => (
            "fragmented",
            format!("into {} for mtu {mtu}", count(*pieces, "piece")),
        ),
        Action::Reassembled => ("reassembled", head()),
        Action::Transmitted { bytes } => ("transmitted", count(*bytes, "byte")),
        Action::Delivered { at } => ("delivered", format!("to {}: {}", socket(*at), head())),
        Action::Answered { with } => ("answered", format!("with {with}")),
        Action::Dropped { code } => ("dropped", format!("{code}: {}", head())),
        Action::Rejected { code, with } => ("rejected", format!("{code}, {with}: {}", head())),
        Action::Failed { code, errno } => ("failed", format!("{code}: {errno}")),
        Action::State { state } => ("state", state.clone()),
        Action::App { what } => ("app", what.clone()),
        Action::ProbeStarted { probe, what } => ("probe", format!("{probe}: {what}")),
        Action::ProbeEnded {
            probe,
            result,
            code,
            after,
        } => (
            "probe",
            format!("{probe}: {result} after {} ({code})", elapsed(*after)),
        ),
        Action::LoadCounted {
            load,
            result,
            code,
            count,
            first,
            last,
        } => {
            let when = if *code == Code::Ok {
                String::new()
            } else {
                format!(", begun from {first} to {last}")
            };
            ("load", format!("{load}: {count} × {result} ({code}){when}"))
        }
        Action::Changed { what } => ("changed", what.clone()),
        Action::FaultBegan { fault, what } => ("fault", format!("{fault} begins: {what}")),
        Action::FaultEnded { fault, touched, of } => {
            let (one, several) = of.words();
            let what = if *touched == 1 { one } else { several };
            (
                "fault",
                format!("{fault} ends: it touched {touched} {what}"),
            )
        }
        Action::Admitted => ("admit", "a policy allows it".to_owned()),
        Action::NotEnforced { code } => (
            "IGNORE",
            format!("a policy would drop this, and nobody enforces it ({code})"),
        ),
        Action::Note { text } => ("note", text.clone()),
        Action::Output { command, text } => (
            "output",
            format!("$ {command}\n{text}").trim_end().to_owned(),
        ),
    };
    Words { verb, rest }
}

/// Returns what decided a step: `rule -A KUBE-SVC-… -j KUBE-SEP-…`.
pub fn decider(by: &Decider) -> String {
    let kind = match by.kind {
        DeciderKind::Rule => "rule",
        DeciderKind::ChainPolicy => "chain policy",
        DeciderKind::Route => "route",
        DeciderKind::Neighbour => "neighbour",
        DeciderKind::Fdb => "fdb",
        DeciderKind::Conntrack => "conntrack",
        DeciderKind::Sysctl => "sysctl",
        DeciderKind::Socket => "socket",
        DeciderKind::Device => "device",
        DeciderKind::Wire => "wire",
        DeciderKind::Fault => "fault",
        DeciderKind::Object => "object",
        DeciderKind::Kernel => "kernel",
    };
    format!("{kind} {}", by.text).trim_end().to_owned()
}

/// Returns a length of time in its largest unit, exactly: `312us`, `1.5s`.
pub fn elapsed(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, name) = match nanos {
        1_000_000_000.. => (1_000_000_000, "s"),
        1_000_000.. => (1_000_000, "ms"),
        1_000.. => (1_000, "us"),
        0 => return "0s".into(),
        _ => (1, "ns"),
    };
    let (whole, rest) = (nanos / unit, nanos % unit);
    if rest == 0 {
        return format!("{whole}{name}");
    }
    let digits = unit.ilog10() as usize;
    let rest = format!("{rest:0digits$}");
    format!("{whole}.{}{name}", rest.trim_end_matches('0'))
}

/// An address with its port; without, where there is none.
fn socket((addr, port): (IpAddr, u16)) -> String {
    if port == 0 {
        addr.to_string()
    } else {
        SocketAddr::new(addr, port).to_string()
    }
}

fn count(n: u32, thing: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_exact_and_short() {
        let text = |nanos| elapsed(Duration::from_nanos(nanos));
        assert_eq!(text(0), "0s");
        assert_eq!(text(312), "312ns");
        assert_eq!(text(100_010), "100.01us");
        assert_eq!(text(1_500_000_000), "1.5s");
        assert_eq!(text(63_000_000_001), "63.000000001s");
    }
}
