//! Collections that come back empty but keep their memory, up to a cap.

use core::convert::Infallible;
use core::fmt;
use core::hash::{BuildHasher, Hash};
use core::marker::PhantomData;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

use crate::pool::manager::{Manager, Reset};

/// A collection that can be emptied without giving its memory back.
///
/// ```
/// use heapledger::pool::Clear;
///
/// let mut text = <String as Clear>::with_capacity(64);
/// text.push_str("hello");
/// Clear::clear(&mut text);
/// assert!(text.is_empty() && Clear::capacity(&text) >= 64);
/// ```
pub trait Clear {
    /// An empty one with room for at least `capacity` elements (of a `String`:
    /// bytes).
    ///
    /// ```
    /// use std::collections::HashMap;
    ///
    /// use heapledger::pool::Clear;
    ///
    /// let table = <HashMap<u32, String> as Clear>::with_capacity(100);
    /// assert!(table.is_empty() && table.capacity() >= 100);
    /// ```
    fn with_capacity(capacity: usize) -> Self;
    /// Drops the elements and keeps the room.
    ///
    /// ```
    /// use std::collections::VecDeque;
    ///
    /// use heapledger::pool::Clear;
    ///
    /// let mut jobs = VecDeque::from([1, 2, 3]);
    /// let room = jobs.capacity();
    /// Clear::clear(&mut jobs);
    /// assert_eq!((jobs.len(), jobs.capacity()), (0, room));
    /// ```
    fn clear(&mut self);
    /// For how many elements (of a `String`: bytes) there is room, those that are
    /// there among them.
    ///
    /// ```
    /// use heapledger::pool::Clear;
    ///
    /// let text = String::from("four");
    /// assert_eq!(Clear::capacity(&text), 4);
    /// ```
    fn capacity(&self) -> usize;
}

macro_rules! clear {
    ($(($($generics:tt)*) $collection:ty, $new:expr;)*) => {$(
        impl<$($generics)*> Clear for $collection {
            fn with_capacity(capacity: usize) -> Self {
                $new(capacity)
            }

            fn clear(&mut self) {
                self.clear();
            }

            fn capacity(&self) -> usize {
                self.capacity()
            }
        }
    )*};
}

clear! {
    () String, Self::with_capacity;
    (T) Vec<T>, Self::with_capacity;
    (T) VecDeque<T>, Self::with_capacity;
    (T: Ord) BinaryHeap<T>, Self::with_capacity;
    (K: Eq + Hash, V, S: BuildHasher + Default) HashMap<K, V, S>, |n| Self::with_capacity_and_hasher(n, S::default());
    (T: Eq + Hash, S: BuildHasher + Default) HashSet<T, S>, |n| Self::with_capacity_and_hasher(n, S::default());
}

/// A manager of collections: each comes back empty with its memory kept, unless
/// it has grown beyond a cap.
///
/// Without the cap, one huge request leaves its memory in the pool for ever.
/// What is beyond it is dropped, and the next miss creates a collection of the
/// first capacity.
///
/// ```
/// use heapledger::pool::{Clearing, Pool};
///
/// let pool = Pool::with_manager(Clearing::<Vec<u8>>::with_capacity(1024).max_capacity(64 * 1024));
/// pool.acquire().extend_from_slice(b"request");
/// assert!(pool.acquire().is_empty());
///
/// pool.acquire().reserve(1024 * 1024);
/// assert_eq!(pool.stats().discarded, 1);
/// assert_eq!(pool.acquire().capacity(), 1024);
/// ```
pub struct Clearing<C> {
    first: usize,
    most: usize,
    creates: PhantomData<fn() -> C>,
}

impl<C: Clear> Clearing<C> {
    /// Creates collections with room for `capacity` elements, and keeps those
    /// that come back with room for at most 16 times that (at least 4096).
    ///
    /// ```
    /// use heapledger::pool::{Clearing, Pool};
    ///
    /// let pool = Pool::with_manager(Clearing::<Vec<u8>>::with_capacity(1024));
    /// assert_eq!(pool.acquire().capacity(), 1024);
    /// pool.acquire().reserve_exact(16 * 1024);
    /// assert_eq!(pool.acquire().capacity(), 16 * 1024);
    /// pool.acquire().reserve_exact(16 * 1024 + 1); // dropped when it comes back
    /// assert_eq!(pool.acquire().capacity(), 1024);
    /// ```
    pub const fn with_capacity(capacity: usize) -> Self {
        let sixteenfold = capacity.saturating_mul(16);
        Self {
            first: capacity,
            most: if sixteenfold < 4096 {
                4096
            } else {
                sixteenfold
            },
            creates: PhantomData,
        }
    }

    /// Keeps only collections with room for at most `elements`. A cap below the
    /// first capacity would keep nothing, and is raised to it. Hash tables take more
    /// room than they are asked for, so what has no more than double the first
    /// capacity, or room for 14 if that is more, is kept under any cap. So are
    /// collections of elements without size, which take no memory.
    ///
    /// ```
    /// use heapledger::pool::{Clearing, Manager, Reset};
    ///
    /// let manager = Clearing::<String>::with_capacity(64).max_capacity(256);
    /// assert_eq!(manager.reset(&mut String::with_capacity(256)), Reset::Keep);
    /// assert_eq!(manager.reset(&mut String::with_capacity(257)), Reset::Discard);
    ///
    /// let manager = Clearing::<String>::with_capacity(64).max_capacity(0);
    /// assert_eq!(manager.reset(&mut String::with_capacity(128)), Reset::Keep);
    /// ```
    #[must_use]
    pub const fn max_capacity(self, elements: usize) -> Self {
        Self {
            most: if elements < self.first {
                self.first
            } else {
                elements
            },
            ..self
        }
    }
}

impl<C> Clearing<C> {
    /// At most so much room a collection may have that was asked for the first capacity: a
    /// hash table is given up to the double, and a small one room for up to 14.
    fn rounded_up(&self) -> usize {
        self.first.saturating_mul(2).max(14)
    }
}

impl<C> fmt::Debug for Clearing<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clearing")
            .field("with_capacity", &self.first)
            .field("max_capacity", &self.most)
            .finish()
    }
}

impl<C: Clear> Manager<C> for Clearing<C> {
    type Error = Infallible;

    fn create(&self) -> Result<C, Infallible> {
        Ok(C::with_capacity(self.first))
    }

    fn reset(&self, object: &mut C) -> Reset {
        object.clear();
        let capacity = object.capacity();
        // What a collection of elements without size says.
        let is_no_memory = capacity == usize::MAX;
        if capacity <= self.most.max(self.rounded_up()) || is_no_memory {
            Reset::Keep
        } else {
            Reset::Discard
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clear, Clearing};
    use crate::pool::manager::{Manager, Reset};
    use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

    /// Bug prevented: buffers that grew once are kept for ever.
    fn keeps_until_it_has_grown<C: Clear>(grow: impl Fn(&mut C)) {
        let manager = Clearing::<C>::with_capacity(100).max_capacity(1_000);
        let mut collection = Manager::create(&manager).expect("infallible");
        assert!(Clear::capacity(&collection) >= 100);
        assert_eq!(manager.reset(&mut collection), Reset::Keep);
        grow(&mut collection);
        assert_eq!(manager.reset(&mut collection), Reset::Discard);
    }

    #[test]
    fn every_collection_is_kept_until_its_capacity_has_passed_the_cap() {
        keeps_until_it_has_grown::<String>(|c| c.reserve(5_000));
        keeps_until_it_has_grown::<Vec<u8>>(|c| c.reserve(5_000));
        keeps_until_it_has_grown::<VecDeque<u8>>(|c| c.reserve(5_000));
        keeps_until_it_has_grown::<BinaryHeap<u8>>(|c| c.reserve(5_000));
        keeps_until_it_has_grown::<HashMap<u8, u8>>(|c| c.reserve(5_000));
        keeps_until_it_has_grown::<HashSet<u8>>(|c| c.reserve(5_000));
    }

    /// Bug prevented: a cap of exactly the first capacity throws every hash
    /// table away, because a table rounds its capacity up; a small one to 14.
    #[test]
    fn a_cap_at_or_below_the_first_capacity_still_keeps_what_was_just_created() {
        fn keeps<C: Clear>(first: usize) {
            let manager = Clearing::<C>::with_capacity(first).max_capacity(1);
            let mut fresh = Manager::create(&manager).expect("infallible");
            let capacity = Clear::capacity(&fresh);
            let answer = manager.reset(&mut fresh);
            assert_eq!(answer, Reset::Keep, "{capacity} for {first}");
        }
        for first in 0..=100 {
            keeps::<HashSet<u8>>(first);
            keeps::<HashSet<u16>>(first);
            keeps::<HashMap<u64, u64>>(first);
            keeps::<Vec<u8>>(first);
        }
    }

    /// Bug prevented: collections of elements without size, which have room for any
    /// number and take no memory, are dropped each time they come back.
    #[test]
    fn collections_of_elements_without_size_are_kept_whatever_the_cap() {
        let manager = Clearing::<Vec<()>>::with_capacity(1).max_capacity(0);
        assert_eq!(manager.reset(&mut vec![(); 5_000]), Reset::Keep);
        let manager = Clearing::<VecDeque<()>>::with_capacity(1).max_capacity(0);
        assert_eq!(manager.reset(&mut VecDeque::from([(); 9])), Reset::Keep);
    }

    /// Bug prevented: a manager of collections that are created without room keeps none that
    /// was ever used.
    #[test]
    fn what_has_room_for_fourteen_is_kept_also_if_the_first_capacity_is_none() {
        let manager = Clearing::<Vec<u8>>::with_capacity(0).max_capacity(0);
        for (capacity, answer) in [(14, Reset::Keep), (15, Reset::Discard)] {
            let mut bytes = Vec::with_capacity(capacity);
            assert_eq!(manager.reset(&mut bytes), answer, "{capacity}");
        }
    }

    /// Bug prevented: a half that is rounded down keeps one more than the double.
    #[test]
    fn what_has_the_double_of_the_first_capacity_is_kept_and_one_more_is_not() {
        let manager = Clearing::<String>::with_capacity(64).max_capacity(0);
        for (capacity, answer) in [(128, Reset::Keep), (129, Reset::Discard)] {
            let mut text = String::with_capacity(capacity);
            assert_eq!(manager.reset(&mut text), answer, "{capacity}");
        }
    }
}
