//! What the packets of a trace would cost the CPUs of a real machine: an estimate, made of what each step costs.
//!
//! The numbers are named parameters of a [`CostModel`]. Those of [`CostModel::new`] were fitted to what was measured on
//! Linux 6.18 and one virtual CPU of an AMD EPYC: datagrams of 64 bytes, where one CPU does all the work up to whoever
//! receives them first, and first packets of connections through kube-proxy's rules for up to 10,000 Services.
//! `sim/tests/it/cost.rs` has the measured sums and how far these are from them.
//!
//! # Fidelity
//! Left out are system calls of the receiver, wake-ups, interrupts of real cards, cold caches and offloads (GRO, GSO); the last
//! of these make bulk TCP ten to forty times cheaper. `br_netfilter` is not told apart. Every rule that was looked at
//! costs as much as one of `KUBE-SERVICES` that asks for another address.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use podwire_models::wire::{Action, Manip, NetnsId, PacketId};
use serde::Serialize;

use crate::trace::names::Names;
use crate::trace::record::{Record, Trace};

/// Who looks at the rules of a real machine's `iptables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// `iptables-legacy`: `ip_tables`.
    Legacy,
    /// `iptables-nft`: `nf_tables` in compatibility mode; the default of current distributions.
    Nft,
}

impl Backend {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Legacy, Self::Nft];

    /// Returns the name, as `iptables -V` tells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nf_tables",
        }
    }
}

/// CPU time in picoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Picoseconds(pub u64);

impl Picoseconds {
    const fn nanos(nanos: u64) -> Self {
        Self(nanos * 1000)
    }

    /// Returns whole nanoseconds, rounded down.
    pub const fn as_nanos(self) -> u64 {
        self.0 / 1000
    }

    const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// What steps cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostModel {
    /// Who looks at rules.
    pub iptables: Backend,
    /// A process sends: system call, UDP or TCP, routing, output.
    pub send: Picoseconds,
    /// A frame crosses a veth pair or a cable, and is received.
    pub cross: Picoseconds,
    /// A bridge passes a frame on.
    pub switch: Picoseconds,
    /// A packet of somebody else is routed on.
    pub forward: Picoseconds,
    /// A socket takes a packet.
    pub deliver: Picoseconds,
    /// Connection tracking finds the connection of a packet.
    pub track: Picoseconds,
    /// Connection tracking makes an entry for a new connection, besides.
    pub begin: Picoseconds,
    /// A new connection gets another destination.
    pub dnat: Picoseconds,
    /// A new connection gets another source.
    pub snat: Picoseconds,
    /// A packet is put into another, or taken out, besides what the outer one costs.
    pub tunnel: Picoseconds,
    /// A rule is looked at.
    pub rule: Picoseconds,
}

impl CostModel {
    /// Returns what was measured.
    pub const fn new(backend: Backend) -> Self {
        Self {
            iptables: backend,
            send: Picoseconds::nanos(1254),
            cross: Picoseconds::nanos(750),
            switch: Picoseconds::nanos(130),
            forward: Picoseconds::nanos(965),
            deliver: Picoseconds::nanos(493),
            track: Picoseconds::nanos(435),
            begin: Picoseconds::nanos(1640),
            dnat: Picoseconds::nanos(500),
            snat: Picoseconds::nanos(650),
            tunnel: Picoseconds::nanos(510),
            rule: Picoseconds(match backend {
                Backend::Legacy => 2_800,
                Backend::Nft => 15_970,
            }),
        }
    }

    /// Returns what one step costs; `own` tells whether its packet was sent from the place it is at.
    pub fn of(&self, action: &Action, own: bool) -> Picoseconds {
        match action {
            Action::Sent => self.send,
            Action::Received => self.cross,
            Action::Switched { .. } => self.switch,
            Action::Flooded { ports } => Picoseconds(self.switch.0.saturating_mul((*ports).into())),
            Action::Routed { .. } if !own => self.forward,
            Action::Delivered { .. } => self.deliver,
            Action::Tracked { state } if state == "NEW" => self.track.plus(self.begin),
            Action::Tracked { .. } => self.track,
            Action::Translated { undo: true, .. } => Picoseconds::default(),
            Action::Translated {
                manip: Manip::Destination,
                ..
            } => self.dnat,
            Action::Translated {
                manip: Manip::Source,
                ..
            } => self.snat,
            Action::Encapsulated { .. } | Action::Decapsulated { .. } => self.tunnel,
            Action::Examined { rules, .. } => {
                Picoseconds(self.rule.0.saturating_mul((*rules).into()))
            }
            Action::Routed { .. }
            | Action::RoutedLocal
            | Action::Matched { .. }
            | Action::Admitted
            | Action::NotEnforced { .. }
            | Action::Resolving { .. }
            | Action::Resolved { .. }
            | Action::Fragmented { .. }
            | Action::Reassembled
            | Action::Transmitted { .. }
            | Action::Answered { .. }
            | Action::Dropped { .. }
            | Action::Rejected { .. }
            | Action::Failed { .. }
            | Action::State { .. }
            | Action::App { .. }
            | Action::ProbeStarted { .. }
            | Action::ProbeEnded { .. }
            | Action::Changed { .. }
            | Action::FaultBegan { .. }
            | Action::FaultEnded { .. }
            | Action::Note { .. }
            | Action::LoadCounted { .. }
            | Action::Output { .. } => Picoseconds::default(),
        }
    }
}

/// What a place did for the packets of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlaceCost {
    /// The namespace: `pod/shop/cart-0`, `node/node-a`, `underlay`.
    pub netns: String,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Rules that were looked at.
    pub rules: u64,
    /// CPU time of these in nanoseconds.
    pub rules_ns: u64,
}

/// What a trace would cost: `cost` of an outcome in `podwire trace -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Back end of `iptables`: `legacy` or `nf_tables`.
    pub iptables: &'static str,
    /// CPU time of all places in nanoseconds, there and back.
    pub cpu_ns: u64,
    /// CPU time of the first packet of the attempt alone, there only.
    pub first_packet_ns: u64,
    /// By place, in the order in which they were first come to.
    pub places: Vec<PlaceCost>,
}

/// Adds up what the steps of a trace cost.
pub fn of(trace: &Trace, model: &CostModel) -> Cost {
    let mut senders: BTreeMap<PacketId, NetnsId> = BTreeMap::new();
    let mut places: Vec<(NetnsId, Picoseconds, u64)> = Vec::new();
    let mut first: Option<PacketId> = None;
    let (mut all, mut alone) = (Picoseconds::default(), Picoseconds::default());
    for Record { place, step, .. } in &trace.records {
        let (Some(netns), Some(packet)) = (place.netns, &step.packet) else {
            continue;
        };
        let id = packet.id();
        if matches!(step.action, Action::Sent) {
            senders.insert(id, netns);
            first = first.or(Some(id));
        }
        let cost = model.of(&step.action, senders.get(&id) == Some(&netns));
        all = all.plus(cost);
        if first == Some(id) {
            alone = alone.plus(cost);
        }
        let rules = if let Action::Examined { rules, .. } = &step.action {
            u64::from(*rules)
        } else {
            0
        };
        match places.iter_mut().find(|(known, ..)| *known == netns) {
            Some((_, sum, looked_at)) => {
                *sum = sum.plus(cost);
                *looked_at += rules;
            }
            None => places.push((netns, cost, rules)),
        }
    }
    let named = |(netns, sum, rules): (NetnsId, Picoseconds, u64)| PlaceCost {
        netns: name(&trace.names, netns),
        cpu_ns: sum.as_nanos(),
        rules,
        rules_ns: Picoseconds(model.rule.0.saturating_mul(rules)).as_nanos(),
    };
    Cost {
        iptables: model.iptables.name(),
        cpu_ns: all.as_nanos(),
        first_packet_ns: alone.as_nanos(),
        places: places.into_iter().map(named).collect(),
    }
}

fn name(names: &Names, netns: NetnsId) -> String {
    names
        .netns(netns)
        .map_or_else(|| "?".to_owned(), |known| known.name.to_string())
}

impl Cost {
    /// Returns the lines `podwire trace --cost` adds to an outcome.
    pub fn text(&self) -> String {
        let mut text = format!(
            "CPU time, estimated for iptables ({}): {} in all, {} for the first packet on its way there\n",
            self.iptables,
            micros(self.cpu_ns),
            micros(self.first_packet_ns),
        );
        let width = self.places.iter().map(|place| place.netns.len()).max();
        for place in &self.places {
            let rules = match place.rules {
                0 => String::new(),
                n => format!("  ({n} rules: {})", micros(place.rules_ns)),
            };
            let (name, width) = (&place.netns, width.unwrap_or(0));
            writeln!(text, "  {name:width$}  {:>9}{rules}", micros(place.cpu_ns))
                .expect("a String takes everything");
        }
        text
    }
}

/// Microseconds with one decimal.
fn micros(nanos: u64) -> String {
    let tenths = nanos.saturating_add(50) / 100;
    format!("{}.{} µs", tenths / 10, tenths % 10)
}
