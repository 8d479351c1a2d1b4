//! How fast podwire is: fixed workloads through the real kernels, measured on this machine.
//!
//! The only room that looks at the clock on the wall. What a workload simulates depends on its sizes alone
//! (same fingerprint on every machine); how long it takes is the measurement.
//!
//! Reading order: this file (what is asked and what is answered), [`mod@w1`] (packets), [`mod@w2`] (connections), [`mod@scale`] (big clusters), [`mod@rollout`] (from manifests through a rollout), [`mod@reach`] (policies), [`meter`] (the clocks).

pub mod w1;
pub mod w2;
pub mod scale;
pub mod rollout;
pub mod reach;
pub mod meter;

use std::cell::Cell;
use std::rc::Rc;

use podwire_models::base::{Time, hash};
use podwire_models::cluster::install::Machines;
use podwire_models::kernel::link::DeviceKind;
use podwire_models::wire::{NoRecorder, Packet};
use serde::Serialize;

use crate::engine::Seeded;
use crate::simulation::{Behaviour, Simulation};
use meter::Meter;

pub use w1::w1;
pub use w2::w2;

/// How big a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Nodes.
    pub nodes: u32,
    /// Pods on each node, each the source of one flow.
    pub pods_per_node: u32,
    /// Services that kube-proxy programs on every node, besides kube-dns.
    pub services: u32,
    /// How many packets are delivered before the measurement ends.
    pub packets: u64,
    /// What the pairs of pods and the beginnings of the flows are drawn from.
    pub seed: u64,
}

impl Default for Sizes {
    /// The sizes at which ns-3 was measured.
    fn default() -> Self {
        Self {
            nodes: 16,
            pods_per_node: 8,
            services: 0,
            packets: 200_000,
            seed: 1,
        }
    }
}

/// What a measurement found: `podwire bench -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `podwire.bench/v1`.
    pub schema: &'static str,
    /// Name of the workload.
    pub workload: &'static str,
    /// Nodes.
    pub nodes: u32,
    /// Pods with a flow.
    pub pods: u32,
    /// Services besides kube-dns.
    pub services: u32,
    /// Packets delivered to their socket.
    pub packets: u64,
    /// Frames that left a device by a wire: veths, the nodes' cards, the ports of the underlay's switch.
    pub transmissions: u64,
    /// Events taken from the queue.
    pub events: u64,
    /// Wall clock seconds until everything was built and programmed.
    pub setup_seconds: f64,
    /// CPU seconds of the run itself; `None` where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// Wall clock seconds of the run itself.
    pub wall_seconds: f64,
    /// Most memory the process ever had; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// Depends on which packet was delivered when, and on nothing else.
    pub fingerprint: String,
}

impl Report {
    /// Returns how often something happened per second of the run: of CPU time, or of wall clock time where the
    /// system does not tell CPU time.
    pub fn per_second(&self, count: u64) -> f64 {
        meter::rate(count, self.cpu_seconds.unwrap_or(self.wall_seconds))
    }
}

/// What the programs of a workload count together.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    delivered: u64,
    fingerprint: u64,
}

/// Counts a packet that a program has received.
fn count(tally: &Cell<Tally>, packet: &Packet, now: Time) {
    let mut all = tally.get();
    all.delivered += 1;
    let which = hash::combine(packet.id.0, packet.flow.0);
    all.fingerprint = hash::combine(all.fingerprint, which ^ now.0);
    tally.set(all);
}

/// Runs a workload until so many packets are delivered.
fn run<M: Behaviour>(
    workload: &'static str,
    sizes: &Sizes,
    setup_seconds: f64,
    (mut simulation, tally): (Simulation<M, Seeded, NoRecorder>, Rc<Cell<Tally>>),
) -> Report {
    let run = Meter::start();
    while tally.get().delivered < sizes.packets && simulation.step(Time::MAX) {}
    let (wall_seconds, cpu_seconds) = (run.wall_seconds(), run.cpu_seconds());
    let Tally {
        delivered,
        fingerprint,
    } = tally.get();
    Report {
        schema: "podwire.bench/v1",
        workload,
        nodes: sizes.nodes,
        pods: sizes.nodes * sizes.pods_per_node,
        services: sizes.services,
        packets: delivered,
        transmissions: transmissions(&simulation.machines),
        events: simulation.events(),
        setup_seconds,
        cpu_seconds,
        wall_seconds,
        peak_bytes: meter::peak_bytes(),
        fingerprint: format!("{fingerprint:016x}"),
    }
}

/// Returns how many frames left veths and cards.
fn transmissions(machines: &Machines) -> u64 {
    let devices = machines.cluster.iter().flat_map(|netns| &netns.devices);
    devices
        .flatten()
        .filter(|device| matches!(device.kind, DeviceKind::Veth | DeviceKind::Physical))
        .map(|device| device.stats.tx_packets)
        .sum()
}
