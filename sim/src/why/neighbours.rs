//! A table of neighbours that is full.

use podwire_models::base::{Family, OriginId};
use podwire_models::kernel::neighbour::NeighbourState;
use podwire_models::wire::{Code, Head};

use super::{Case, Finding};

/// The next hop gets no entry.
pub(super) fn full(case: &Case<'_>) -> Option<Finding> {
    let record = case.last(Code::NeighOverflow)?;
    let Some(Head::Ip { dst, .. }) = &record.step.packet else {
        return None;
    };
    let (setting, most) = record.step.by.as_ref()?.text.split_once(" = ")?;
    let netns = case.lab.machines.cluster.netns(record.place.netns?)?;
    let counts = netns.neighbours.entries.iter().filter(|(key, entry)| {
        let by_hand = matches!(entry.state, NeighbourState::Permanent { .. });
        Family::of(key.1) == Family::of(*dst) && !by_hand
    });
    let place = case.attempted.trace.names.netns_at(&record.place)?;
    let machine = place.strip_prefix("node/").unwrap_or(place);
    let says = format!(
        "{setting} is {most} on {machine}, and its table has {} neighbours in use: the next hop towards {dst} gets no entry",
        counts.count()
    );
    let fix = format!(
        "on {machine}: raise net.ipv4.neigh.default.gc_thresh1, gc_thresh2 and gc_thresh3 above the number of pods and nodes on its links (sysctl -w {setting}=8192)"
    );
    Some(Finding {
        code: Code::NeighOverflow,
        object: Some(format!("Sysctl/{machine}/{setting}")),
        origin: OriginId::NONE,
        says,
        fix,
        kubectl: Some(format!(
            "ssh {machine} 'ip neigh | wc -l; dmesg | grep \"neighbor table overflow\"'"
        )),
        repaired: None,
    })
}
