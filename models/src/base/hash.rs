//! Hashes that are the same on every machine, in every build, for ever: names to stream keys, MAC addresses,
//! suffixes. Also the maps to use where order of insertion is the order of iteration.

use std::hash::BuildHasherDefault;

use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxHasher;

/// A map that iterates in insertion order, with a hash function that has no seed.
pub type FxIndexMap<K, V> = IndexMap<K, V, BuildHasherDefault<FxHasher>>;
/// A set that iterates in insertion order, with a hash function that has no seed.
pub type FxIndexSet<K> = IndexSet<K, BuildHasherDefault<FxHasher>>;

/// Returns the 64-bit FNV-1a hash of `bytes`, finished with the mixer of `SplitMix64` so that all bits are usable.
pub const fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        hash = (hash ^ (*first as u64)).wrapping_mul(0x0100_0000_01b3);
        rest = tail;
    }
    mix(hash)
}

/// Returns a key that depends on both arguments, in order.
pub const fn combine(a: u64, b: u64) -> u64 {
    mix(a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mix(b))
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014).
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_the_same_for_ever() {
        assert_eq!(stable_hash(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_ne!(combine(1, 2), combine(2, 1));
    }
}
