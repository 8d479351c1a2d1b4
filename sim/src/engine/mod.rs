//! Floor 0: discrete events and chance. Knows nothing of networks: [`queue`] is generic over the event, [`dice`]
//! answers whatever the models ask.

pub mod dice;
pub mod queue;

pub use dice::{Draw, Mismatch, Question, Recording, Scripted, Seeded, explore, explore_within};
pub use queue::{Handle, Queue};
