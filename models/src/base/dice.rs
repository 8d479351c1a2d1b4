//! Chance is asked for, never taken: the models put a question to a [`Dice`] that somebody with a seed hands in.
//!
//! A question names its [`Stream`]: what the draw is for, and whose it is. Answerers derive an independent sequence
//! from each stream, so adding a pod, a flow or a fault shifts nobody else's draws.

use serde::Serialize;

use super::hash::stable_hash;
use super::ratio::Ratio;

/// What a draw decides. Answerers may treat purposes differently: the exhaustive one tries every answer of
/// [`Purpose::LoadBalance`] and [`Purpose::Loss`], and takes one seeded answer for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Purpose {
    /// Which endpoint a new connection gets (`-m statistic --mode random`).
    LoadBalance,
    /// Whether a lossy link drops this packet.
    Loss,
    /// Which ephemeral port a client socket binds.
    SourcePort,
    /// Where the search for a free NAT port starts.
    NatPort,
    /// Initial sequence numbers, DNS ids, echo ids: values that decide nothing.
    Identifier,
    /// Generated names: pod suffixes, MAC addresses.
    Name,
    /// Length of a delay.
    Delay,
    /// Which pod is deleted next where pods come and go.
    Churn,
}

/// One independent sequence of draws: a purpose and a stable key for whom it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Stream {
    /// What the draw decides.
    pub purpose: Purpose,
    /// Stable hash of the name of whoever asks (a flow, a pod, a link).
    pub key: u64,
}

impl Stream {
    /// Returns the stream of `purpose` that belongs to `key`.
    pub const fn new(purpose: Purpose, key: u64) -> Self {
        Self { purpose, key }
    }

    /// Returns the stream of `purpose` that belongs to the thing called `name`.
    pub const fn named(purpose: Purpose, name: &str) -> Self {
        Self {
            purpose,
            key: stable_hash(name.as_bytes()),
        }
    }
}

/// Answers questions of chance.
pub trait Dice {
    /// Returns true with chance `p`.
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool;

    /// Returns a number in `0..n`, each equally likely. `n` must not be zero.
    fn pick(&mut self, stream: Stream, n: u64) -> u64;
}

impl<D: Dice + ?Sized> Dice for &mut D {
    fn chance(&mut self, stream: Stream, p: Ratio) -> bool {
        (**self).chance(stream, p)
    }

    fn pick(&mut self, stream: Stream, n: u64) -> u64 {
        (**self).pick(stream, n)
    }
}

/// A dice for callers that know no chance is involved: always says no, always picks the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoChance;

impl Dice for NoChance {
    fn chance(&mut self, _: Stream, _: Ratio) -> bool {
        false
    }

    fn pick(&mut self, _: Stream, _: u64) -> u64 {
        0
    }
}
