//! VXLAN details (RFC 7348, `drivers/net/vxlan`): where the outer source port comes from.

use crate::base::addr::to_bits;
use crate::base::hash::combine;
use crate::wire::{Body, FiveTuple, Frame};

/// Returns the outer UDP source port: a hash of the inner flow over the ephemeral range, the same for both
/// directions (`udp_flow_src_port`).
///
/// # Fidelity
/// The hash is ours; Linux mixes in a secret drawn at boot. The range and the symmetry are real.
pub fn source_port(frame: &Frame) -> u16 {
    const FIRST: u64 = 32768;
    const SIZE: u64 = 28232;
    let hash = match &frame.body {
        Body::Ip(packet) => {
            let ends = match FiveTuple::of(packet) {
                Some(t) => [(to_bits(t.src), t.sport), (to_bits(t.dst), t.dport)],
                None => [(to_bits(packet.src), 0), (to_bits(packet.dst), 0)],
            };
            let of = |(bits, port): (u128, u16)| {
                let folded = u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
                combine(
                    folded ^ u64::try_from(bits >> 64).unwrap_or(0),
                    u64::from(port),
                )
            };
            let [a, b] = ends.map(of);
            combine(a.min(b), a.max(b))
        }
        Body::Arp(_) => 0,
    };
    u16::try_from(FIRST + hash % SIZE).unwrap_or(u16::MAX)
}
