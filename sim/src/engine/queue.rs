//! The event queue: what happens next. Events come out by time, and those of the same moment in the order they
//! went in, so a run depends on nothing but its inputs.
//!
//! Keys of 16 bytes wait in three places, and the events themselves in a slab that never moves them. *Near* is a
//! sorted list of what happens in the present slice of time (half a microsecond); the *wheel* has an unsorted list for each
//! of the next slices (half a millisecond together), and *far* is a 4-ary heap for all later ones. When near is empty it takes over the next slice
//! that has something, so a key is sorted among a few neighbours instead of among all. Once all have grown to the depth of a run, nothing is allocated any more. Cancelling empties the slab's
//! entry and leaves the key behind as a dead one; dead keys are swept out when they outnumber the living.

use podwire_models::base::Time;

/// Events in the order of (time, order of insertion).
#[derive(Clone, Debug)]
pub struct Queue<E> {
    /// What happens up to the end of slice `slice`. Its first key is never dead, and only an empty queue has none.
    near: Near,
    /// Which slice near has taken over last.
    slice: u64,
    /// What happens in the slices after that one, by slice modulo [`SLICES`].
    wheel: Wheel,
    /// What was further away than the wheel reaches when it was scheduled.
    far: Heap,
    slab: Vec<Entry<E>>,
    /// Entries of the slab that no key points at.
    free: Vec<u32>,
    /// Keys whose event was cancelled.
    dead: usize,
    /// Keys in all three places.
    keys: usize,
    next_seq: u32,
    now: Time,
}

/// Names one scheduled event, to cancel it. Worthless once the event has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle {
    slot: u32,
    generation: u32,
}

#[derive(Clone, Debug)]
struct Entry<E> {
    /// Grows whenever the event leaves, so that old handles mean nothing.
    generation: u32,
    event: Option<E>,
}

/// Time, sequence number and slot, most significant first: one comparison orders two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u128);

impl Key {
    fn new(at: Time, seq: u32, slot: u32) -> Self {
        Self(u128::from(at.0) << 64 | u128::from(seq) << 32 | u128::from(slot))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "each part is taken out at its own width"
    )]
    const fn parts(self) -> (Time, u32, u32) {
        (
            Time((self.0 >> 64) as u64),
            (self.0 >> 32) as u32,
            self.0 as u32,
        )
    }

    const fn at(self) -> Time {
        self.parts().0
    }

    const fn slot(self) -> usize {
        self.parts().2 as usize
    }

    /// Which slice of time it belongs to.
    const fn slice(self) -> u64 {
        self.at().0 >> SLICE_BITS
    }
}

/// A slice of time has 2 to this power nanoseconds.
const SLICE_BITS: u32 = 9;
/// Slices of the wheel.
const SLICES: usize = 1024;
const WORD: usize = 64;
const ARITY: usize = 4;
/// Below this many dead keys sweeping is not worth it.
const FEW: usize = 64;

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Queue<E> {
    /// Returns an empty queue at the start of the simulation.
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// Returns an empty queue with room for `depth` events.
    pub fn with_capacity(depth: usize) -> Self {
        Self {
            near: Near::default(),
            slice: 0,
            wheel: Wheel::default(),
            far: Heap::default(),
            slab: Vec::with_capacity(depth),
            free: Vec::with_capacity(depth),
            dead: 0,
            keys: 0,
            next_seq: 0,
            now: Time::ZERO,
        }
    }

    /// Returns the present moment: the time of the event that came out last.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Returns how many events are waiting.
    pub const fn len(&self) -> usize {
        self.keys - self.dead
    }

    /// Whether nothing is waiting.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns when the next event happens.
    pub fn next_at(&self) -> Option<Time> {
        self.near.first().map(Key::at)
    }

    /// Schedules an event, after all others of that moment.
    ///
    /// # Panics
    /// If the moment lies in the past.
    pub fn push(&mut self, at: Time, event: E) -> Handle {
        assert!(
            at >= self.now,
            "nothing can be scheduled for {at}: it is already {}",
            self.now
        );
        if self.next_seq == u32::MAX {
            self.renumber();
        }
        let slot = self.store(event);
        let key = Key::new(at, self.next_seq, slot);
        self.next_seq += 1;
        self.keys += 1;
        self.put(key);
        if self.near.is_empty() {
            self.refill();
        }
        Handle {
            slot,
            generation: self.entry(slot as usize).generation,
        }
    }

    /// Takes out the next event and moves the present to its time.
    #[inline]
    #[expect(clippy::missing_panics_doc, reason = "the first key is never dead")]
    pub fn pop(&mut self) -> Option<(Time, E)> {
        let key = self.near.pop()?;
        self.keys -= 1;
        let event = self
            .entry(key.slot())
            .event
            .take()
            .expect("the first key is never dead");
        self.release(key);
        self.settle();
        self.now = key.at();
        Some((self.now, event))
    }

    /// Takes out the next event if it happens no later than `limit`.
    #[inline]
    pub fn pop_until(&mut self, limit: Time) -> Option<(Time, E)> {
        if self.next_at()? > limit {
            return None;
        }
        self.pop()
    }

    /// Takes back an event that has not happened yet, and returns it.
    pub fn cancel(&mut self, handle: Handle) -> Option<E> {
        let entry = self.slab.get_mut(handle.slot as usize)?;
        if entry.generation != handle.generation {
            return None;
        }
        let event = entry.event.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.dead += 1;
        if self.dead > FEW && self.dead > self.keys / 2 {
            self.sweep();
        }
        self.settle();
        Some(event)
    }

    /// Whether this event is still to happen.
    pub fn contains(&self, handle: Handle) -> bool {
        self.slab
            .get(handle.slot as usize)
            .is_some_and(|entry| entry.generation == handle.generation && entry.event.is_some())
    }

    fn entry(&mut self, slot: usize) -> &mut Entry<E> {
        self.slab
            .get_mut(slot)
            .expect("keys point at entries of the slab, which never shrinks")
    }

    /// Puts an event into a free entry of the slab.
    fn store(&mut self, event: E) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.entry(slot as usize).event = Some(event);
            return slot;
        }
        let slot = u32::try_from(self.slab.len()).expect("fewer than 2^32 events wait at once");
        self.slab.push(Entry {
            generation: 0,
            event: Some(event),
        });
        slot
    }

    /// Gives back the entry of a key that has left.
    fn release(&mut self, key: Key) {
        let entry = self.entry(key.slot());
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.parts().2);
    }

    /// Puts a key where it belongs.
    #[inline]
    fn put(&mut self, key: Key) {
        let slice = key.slice();
        if slice <= self.slice {
            self.near.push(key);
        } else if slice - self.slice < SLICES as u64 {
            self.wheel.push(key);
        } else {
            self.far.push(key);
        }
    }

    /// Makes the first key of near one that is alive.
    fn settle(&mut self) {
        loop {
            match self.near.first() {
                None if self.keys > 0 => self.refill(),
                None => return,
                Some(_) if self.dead == 0 => return,
                Some(first) => {
                    if self.entry(first.slot()).event.is_some() {
                        return;
                    }
                    self.near.pop();
                    self.release(first);
                    self.keys -= 1;
                    self.dead -= 1;
                }
            }
        }
    }

    /// Lets near take over the next slice that has something; there must be one.
    fn refill(&mut self) {
        let far = self.far.first().map(Key::slice);
        let next = match (self.wheel.next(self.slice), far) {
            (Some(a), Some(b)) => a.min(b),
            (Some(next), None) | (None, Some(next)) => next,
            (None, None) => return,
        };
        self.slice = next;
        self.wheel.take(next, &mut self.near);
        while self.far.first().is_some_and(|key| key.slice() <= next) {
            self.near.0.extend(self.far.pop());
        }
        self.near.sort();
    }

    /// Takes out all keys.
    fn drain(&mut self) -> Vec<Key> {
        let mut keys = std::mem::take(&mut self.near.0);
        keys.append(&mut self.far.0);
        self.wheel.drain(&mut keys);
        keys
    }

    /// Removes all dead keys.
    fn sweep(&mut self) {
        let mut keys = self.drain();
        keys.retain(|key| {
            let alive = self.entry(key.slot()).event.is_some();
            if !alive {
                self.release(*key);
            }
            alive
        });
        self.keys = keys.len();
        self.dead = 0;
        for key in keys {
            self.put(key);
        }
    }

    /// Starts the sequence numbers again from zero, keeping the order.
    fn renumber(&mut self) {
        let mut keys = self.drain();
        keys.sort_unstable();
        self.next_seq = 0;
        for key in keys {
            let (at, _, slot) = key.parts();
            self.put(Key::new(at, self.next_seq, slot));
            self.next_seq += 1;
        }
        self.settle();
    }
}

/// Keys by slice of time, unsorted.
#[derive(Clone, Debug)]
struct Wheel {
    slices: Vec<Vec<Key>>,
    /// A bit for each slice that has something.
    filled: [u64; SLICES / WORD],
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            slices: vec![Vec::new(); SLICES],
            filled: [0; SLICES / WORD],
        }
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "a slice's position is taken modulo their number"
)]
impl Wheel {
    const fn position(slice: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "less than SLICES")]
        let position = (slice % SLICES as u64) as usize;
        position
    }

    fn push(&mut self, key: Key) {
        let position = Self::position(key.slice());
        self.slices[position].push(key);
        self.filled[position / WORD] |= 1 << (position % WORD);
    }

    /// Returns the first slice after `slice` that has something.
    fn next(&self, slice: u64) -> Option<u64> {
        let start = Self::position(slice + 1);
        let word = start / WORD;
        let rest = self.filled[word] & (u64::MAX << (start % WORD));
        let found = |word: usize, bits: u64| word * WORD + bits.trailing_zeros() as usize;
        let position = if rest != 0 {
            found(word, rest)
        } else {
            let words = (1..=SLICES / WORD).map(|n| (word + n) % (SLICES / WORD));
            let (word, bits) = words
                .map(|word| (word, self.filled[word]))
                .find(|(_, bits)| *bits != 0)?;
            found(word, bits)
        };
        Some(slice + 1 + ((position + SLICES - start) % SLICES) as u64)
    }

    /// Moves what a slice has to the end of near's keys, which must be sorted again.
    fn take(&mut self, slice: u64, into: &mut Near) {
        let position = Self::position(slice);
        into.0.append(&mut self.slices[position]);
        self.filled[position / WORD] &= !(1 << (position % WORD));
    }

    fn drain(&mut self, into: &mut Vec<Key>) {
        for slice in &mut self.slices {
            into.append(slice);
        }
        self.filled.fill(0);
    }
}

/// A few keys in order, the first of them at the end.
#[derive(Clone, Debug, Default)]
struct Near(Vec<Key>);

impl Near {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn first(&self) -> Option<Key> {
        self.0.last().copied()
    }

    fn push(&mut self, key: Key) {
        let later = self.0.partition_point(|other| *other > key);
        self.0.insert(later, key);
    }

    fn pop(&mut self) -> Option<Key> {
        self.0.pop()
    }

    fn sort(&mut self) {
        if self.0.len() > 1 {
            self.0.sort_unstable_by(|a, b| b.cmp(a));
        }
    }
}

/// A heap with four children per node.
#[derive(Clone, Debug, Default)]
struct Heap(Vec<Key>);

impl Heap {
    fn first(&self) -> Option<Key> {
        self.0.first().copied()
    }

    fn push(&mut self, key: Key) {
        self.0.push(key);
        self.sift_up(self.0.len() - 1);
    }

    fn pop(&mut self) -> Option<Key> {
        let last = self.0.pop()?;
        let Some(first) = self.0.first_mut() else {
            return Some(last);
        };
        let first = std::mem::replace(first, last);
        self.sift_down();
        Some(first)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a parent's position is smaller than its child's"
    )]
    fn sift_up(&mut self, mut child: usize) {
        let key = self.0[child];
        while child > 0 {
            let parent = (child - 1) / ARITY;
            if self.0[parent] <= key {
                break;
            }
            self.0[child] = self.0[parent];
            child = parent;
        }
        self.0[child] = key;
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "positions are compared with the length first"
    )]
    fn sift_down(&mut self) {
        let heap = self.0.as_mut_slice();
        let key = heap[0];
        let mut parent = 0;
        loop {
            let first = parent * ARITY + 1;
            if first >= heap.len() {
                break;
            }
            let mut least = first;
            for child in first + 1..(first + ARITY).min(heap.len()) {
                if heap[child] < heap[least] {
                    least = child;
                }
            }
            if heap[least] >= key {
                break;
            }
            heap[parent] = heap[least];
            parent = least;
        }
        heap[parent] = key;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn events_of_one_moment_come_in_order_of_insertion() {
        let mut queue = Queue::new();
        for n in 0..100 {
            queue.push(Time(7), n);
        }
        queue.push(Time(3), 1000);
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop()).map(|(_, n)| n).collect();
        assert_eq!(order[0], 1000);
        assert_eq!(order[1..], (0..100).collect::<Vec<_>>());
        assert_eq!(queue.now(), Time(7));
    }

    #[test]
    #[should_panic(expected = "already")]
    fn the_past_is_closed() {
        let mut queue = Queue::new();
        queue.push(Time(5), ());
        queue.pop();
        queue.push(Time(4), ());
    }

    #[test]
    fn a_handle_means_one_event_only() {
        let mut queue = Queue::new();
        let first = queue.push(Time(1), 'a');
        assert_eq!(queue.pop(), Some((Time(1), 'a')));
        let second = queue.push(Time(2), 'b');
        assert_eq!(queue.cancel(first), None);
        assert!(queue.contains(second));
        assert_eq!(queue.cancel(second), Some('b'));
        assert_eq!(queue.cancel(second), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn keys_are_sixteen_bytes() {
        assert_eq!(size_of::<Key>(), 16);
    }

    #[test]
    fn sequence_numbers_start_again_without_changing_the_order() {
        let mut queue = Queue::new();
        queue.next_seq = u32::MAX - 2;
        for n in 0..6 {
            queue.push(Time(1), n);
        }
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop()).map(|(_, n)| n).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn steady_state_reuses_entries() {
        let mut queue = Queue::with_capacity(16);
        for n in 0..10 {
            queue.push(Time(n), n);
        }
        for _ in 0..1000 {
            let (at, n) = queue.pop().unwrap();
            let timer = queue.push(Time(at.0 + 50), n);
            queue.cancel(timer);
            queue.push(Time(at.0 + 10), n);
        }
        assert_eq!(queue.len(), 10);
        assert!(queue.slab.len() <= 2 * FEW + 32, "{}", queue.slab.len());
    }

    #[derive(Clone, Debug)]
    enum Do {
        Push(u64),
        Pop,
        Cancel(usize),
    }

    fn anything() -> impl Strategy<Value = Do> {
        prop_oneof![
            2 => (0..20_u64).prop_map(Do::Push),
            // Next to and beyond the ends of slices and of the wheel.
            1 => (0..5_000_u64).prop_map(Do::Push),
            1 => (2_000_000..2_200_000_u64).prop_map(Do::Push),
            2 => Just(Do::Pop),
            2 => any::<usize>().prop_map(Do::Cancel),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(script in prop::collection::vec(anything(), 0..600)) {
            let mut queue = Queue::new();
            let mut model: BTreeMap<(u64, usize), usize> = BTreeMap::new();
            let mut handles = Vec::new();
            for action in script {
                match action {
                    Do::Push(delay) => {
                        let at = queue.now().0 + delay;
                        let n = handles.len();
                        handles.push((queue.push(Time(at), n), at));
                        model.insert((at, n), n);
                    }
                    Do::Pop => {
                        let expected = model.pop_first().map(|((at, _), n)| (Time(at), n));
                        prop_assert_eq!(queue.pop(), expected);
                    }
                    Do::Cancel(which) if !handles.is_empty() => {
                        let n = which % handles.len();
                        let (handle, at) = handles[n];
                        prop_assert_eq!(queue.cancel(handle), model.remove(&(at, n)));
                    }
                    Do::Cancel(_) => {}
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                prop_assert_eq!(queue.next_at(), model.keys().next().map(|(at, _)| Time(*at)));
            }
        }
    }
}
