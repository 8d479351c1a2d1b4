//! A long list that is cheap to copy: copies share what neither has changed since.

use std::sync::Arc;

/// A list of places that hold something or nothing, on shelves of `N` places. A copy shares all shelves; changing something
/// copies its shelf first, if it is shared. Places are never moved and never used again.
#[derive(Debug)]
pub struct Shelves<T, const N: usize> {
    shelves: Vec<Arc<[Option<T>; N]>>,
    len: usize,
}

impl<T, const N: usize> Clone for Shelves<T, N> {
    fn clone(&self) -> Self {
        Self {
            shelves: self.shelves.clone(),
            len: self.len,
        }
    }
}

impl<T, const N: usize> Default for Shelves<T, N> {
    fn default() -> Self {
        Self {
            shelves: Vec::new(),
            len: 0,
        }
    }
}

impl<T, const N: usize> Shelves<T, N> {
    /// Returns how many places there are, empty ones included.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there never was anything.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns what is at a place.
    #[inline]
    pub fn get(&self, place: usize) -> Option<&T> {
        self.shelves.get(place / N)?.get(place % N)?.as_ref()
    }

    /// Returns everything there is, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.shelves.iter().flat_map(|shelf| shelf.iter()).flatten()
    }
}

impl<T: Clone, const N: usize> Shelves<T, N> {
    #[inline]
    fn slot(&mut self, place: usize) -> Option<&mut Option<T>> {
        let shelf = self.shelves.get_mut(place / N)?;
        Arc::make_mut(shelf).get_mut(place % N)
    }

    /// Returns what is at a place, to change it.
    #[inline]
    pub fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.slot(place)?.as_mut()
    }

    /// Takes away what is at a place; the place stays empty.
    pub fn take(&mut self, place: usize) -> Option<T> {
        self.get(place)?;
        self.slot(place)?.take()
    }

    /// Adds something at the next place.
    pub fn push(&mut self, item: T) {
        let place = self.len;
        if place.is_multiple_of(N) {
            self.shelves.push(Arc::new(std::array::from_fn(|_| None)));
        }
        self.len += 1;
        if let Some(slot) = self.slot(place) {
            *slot = Some(item);
        }
    }

    /// Returns everything there is, in the order of places, to change it. Copies all that is shared.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let shelves = self.shelves.iter_mut();
        shelves
            .flat_map(|shelf| Arc::make_mut(shelf).iter_mut())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_go_separate_ways() {
        let mut one: Shelves<u32, 4> = Shelves::default();
        assert!(one.is_empty());
        (0..10).for_each(|n| one.push(n));
        let mut two = one.clone();
        *two.get_mut(5).expect("ten places") = 55;
        assert_eq!(one.take(9), Some(9));
        assert_eq!((one.take(9), one.get(9), one.get(10)), (None, None, None));
        two.push(10);
        assert_eq!(
            one.iter().copied().collect::<Vec<_>>(),
            (0..9).collect::<Vec<_>>()
        );
        assert_eq!(
            two.iter().copied().collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 55, 6, 7, 8, 9, 10]
        );
        assert_eq!((one.len(), two.len()), (10, 11));
        two.iter_mut().for_each(|n| *n += 1);
        assert_eq!(
            (one.get(0), two.get(0), two.get(10)),
            (Some(&0), Some(&1), Some(&11))
        );
    }

    #[test]
    fn what_is_not_changed_stays_shared() {
        let mut one: Shelves<u32, 4> = Shelves::default();
        (0..8).for_each(|n| one.push(n));
        let mut two = one.clone();
        assert_eq!(two.take(8), None);
        *two.get_mut(0).expect("eight places") = 1;
        let shared = one.shelves.iter().zip(&two.shelves);
        let shared: Vec<bool> = shared.map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(shared, [false, true]);
    }
}
