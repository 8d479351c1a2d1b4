//! Texts that were read, and the numbers by which the models remember places in them.
//! One [`OriginTable`] serves a whole run: manifests, scenario files and inline objects share it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use podwire_models::base::OriginId;

use crate::problem::Spot;

/// One input: what it is called in messages (a path as it was typed, or `<stdin>`), and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in messages.
    pub name: Arc<str>,
    /// Its text.
    pub text: Arc<str>,
}

impl Source {
    /// Joins a name and a text.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

/// Part of a text, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl Span {
    /// Makes a span; texts beyond 4 GiB end there.
    pub fn new(range: Range<usize>) -> Self {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: narrow(range.start),
            end: narrow(range.end),
        }
    }

    /// Returns the spot of this part of a source.
    pub fn spot(self, source: &Arc<str>) -> Spot {
        Spot::new(Arc::clone(source), self.range())
    }

    /// Returns the span as a range.
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Where lines begin in a text, for many questions about one text.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Finds the lines of a text.
    pub fn of(text: &'a str) -> Self {
        let after = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(after).collect(),
        }
    }

    /// Returns line and column of a byte, both from 1, the column in characters.
    pub fn locate(&self, byte: usize) -> (u32, u32) {
        let line = self.starts.partition_point(|&start| start <= byte);
        let start = self
            .starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let column = self
            .text
            .get(start..byte)
            .map_or(0, |before| before.chars().count());
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (narrow(line), narrow(column).saturating_add(1))
    }
}

/// What an [`OriginId`] stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name of the input.
    pub source: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The object it belongs to, as `Service/shop/cart`; empty outside objects.
    pub object: Arc<str>,
}

impl fmt::Display for Origin {
    /// `shop.yaml:40`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

/// All places that models remember, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginTable(Vec<Origin>);

impl OriginTable {
    /// Adds a place.
    pub fn add(&mut self, origin: Origin) -> OriginId {
        let id = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.push(origin);
        OriginId(id)
    }

    /// Returns the place of a number; `None` for [`OriginId::NONE`].
    pub fn get(&self, id: OriginId) -> Option<&Origin> {
        self.0.get(id.0 as usize)
    }

    /// Returns the place as `shop.yaml:40`; empty for [`OriginId::NONE`].
    pub fn text(&self, id: OriginId) -> String {
        self.get(id).map(ToString::to_string).unwrap_or_default()
    }

    /// Returns how many places there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let text = "a: é\nbé: c\n";
        let byte = text.find('c').expect("there is one");
        assert_eq!(Lines::of(text).locate(byte), (2, 5));
        assert_eq!(Lines::of(text).locate(0), (1, 1));
        assert_eq!(Lines::of(text).locate(text.len()), (3, 1));
    }

    #[test]
    fn nowhere_has_no_text() {
        assert_eq!(OriginTable::default().text(OriginId::NONE), "");
    }
}
