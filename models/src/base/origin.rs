//! Where something was written: a number that only the shell can turn into `file:line`.
//! Models carry it along untouched, so that a rule, an endpoint or a verdict can name its line.

/// Some place in some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct OriginId(pub u32);

impl OriginId {
    /// Nowhere: made by podwire itself, or by a controller without an input of its own.
    pub const NONE: Self = Self(u32::MAX);

    /// Whether this names no place.
    pub const fn is_none(&self) -> bool {
        self.0 == u32::MAX
    }

    /// Returns this place, or `other` if this one is nowhere.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        if self.is_none() { other } else { self }
    }
}

impl Default for OriginId {
    fn default() -> Self {
        Self::NONE
    }
}
