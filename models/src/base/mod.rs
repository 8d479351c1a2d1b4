//! Floor 0: the words everything else is said in.
//!
//! Reading order: [`time`], [`addr`], [`name`], [`label`], [`protocol`], [`errno`], [`ratio`] and [`dice`]
//! (chance), [`hash`] (stable hashes and ordered maps), [`origin`] (where something was written).

pub mod time;
pub mod addr;
pub mod name;
pub mod label;
pub mod protocol;
pub mod errno;
pub mod ratio;
pub mod shelf;
pub mod dice;
pub mod hash;
pub mod origin;

pub use addr::{Family, Mac};
pub use dice::{Dice, NoChance, Purpose, Stream};
pub use errno::Errno;
pub use hash::{FxIndexMap, FxIndexSet};
pub use label::{Expression, LabelError, Labels, ParseSelectorError, Selector};
pub use name::{NameError, Namespace, ObjectKey, ObjectName};
pub use origin::OriginId;
pub use protocol::Protocol;
pub use ratio::Ratio;
pub use time::Time;
