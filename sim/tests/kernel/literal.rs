//! Looking rules up is not noticed: random rules and packets, once with every rule tried and once with those looked up
//! that can match, have the same steps (which rules decided, how many were examined), counters, frames and connections.
//! No real kernel is asked here; what is compared with it elsewhere is the quick way.

use super::generate::{self, Draw};
use super::twin::Twin;

/// Packets for each set of rules.
const PACKETS: u64 = 40;

#[test]
fn rules_that_are_looked_up_do_what_all_rules_do() {
    let full = super::variable("PODWIRE_KERNEL_FULL").is_some();
    let sets = if full { 2000 } else { 200 };
    let (mut packets, mut matched) = (0_u64, 0_usize);
    for seed in 0..sets {
        let mut draw = Draw::new(seed);
        let case = generate::long_chains(&mut draw);
        let mut quick = Twin::new(&case).unwrap();
        let mut literal = quick.clone();
        literal.walk_literally();
        let mut out = Vec::new();
        for n in 1..=PACKETS {
            let shot = generate::shot(&mut draw, case.family, n, &out);
            let (a, b) = (quick.send(&shot), literal.send(&shot));
            assert_eq!(a, b, "seed {seed}, packet {n}");
            assert_eq!(quick.steps, literal.steps, "seed {seed}, packet {n}");
            assert_eq!(quick.state(), literal.state(), "seed {seed}, packet {n}");
            out.extend(quick.out.iter().cloned());
            packets += 1;
            matched += a.counters.len();
        }
    }
    assert!(
        matched as u64 > packets,
        "{matched} chains of {packets} packets"
    );
}
