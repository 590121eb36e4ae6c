//! A pool's lines: a table that grows and never moves.
//!
//! ```text
//!   bucket    0        1         2          ...   13               14         15
//!   lines     0..8     8..16     16..32     ...   32768..65536     UNCLAIMED  DETACHED
//! ```
//!
//! A bucket is null until a thread with a number in it first needs its line,
//! published by one compare-exchange, and stays until the pool is dropped. The
//! last two are null for ever; see [`thread`](crate::pool::thread).

use core::ptr;

use crate::pool::line::{Line, Own};
use crate::sync::{AtomicPtr, Ordering};

const BUCKETS: usize = 16;

/// The bytes of a line.
const LINE: usize = size_of::<Line<()>>();

/// Lines in the first bucket.
#[cfg(not(loom))]
const FIRST: usize = 8;
/// Few, so that the models stay small.
#[cfg(loom)]
const FIRST: usize = 2;

/// Where a number's line is in every table. Of its own thread only, so it is
/// not `Send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    // Invariant: below `BUCKETS`.
    bucket: u32,
    // In bytes, because lines are of one size whatever is in them. Invariant: that of a line of
    // the bucket.
    offset: u32,
    of_this_thread: core::marker::PhantomData<*const ()>,
}

#[expect(clippy::cast_possible_truncation, reason = "65,536 lines of 512 bytes")]
impl Place {
    /// No number yet.
    pub(crate) const UNCLAIMED: Self = Self::new(14, 0);
    /// No number any more, or none to be had.
    pub(crate) const DETACHED: Self = Self::new(15, 0);

    const fn new(bucket: u32, line: u32) -> Self {
        assert!((bucket as usize) < BUCKETS, "one of the buckets there are");
        Self {
            bucket,
            offset: line * LINE as u32,
            of_this_thread: core::marker::PhantomData,
        }
    }

    /// The place of a number.
    #[expect(clippy::cast_possible_truncation, reason = "the last number is 65,535")]
    pub(crate) const fn of(index: usize) -> Self {
        if index < FIRST {
            return Self::new(0, index as u32);
        }
        let bucket = index.ilog2() - FIRST.ilog2() + 1;
        assert!(
            bucket < Self::UNCLAIMED.bucket,
            "one of the numbers there are"
        );
        Self::new(bucket, (index - start(bucket as usize)) as u32)
    }

    /// The number, unless it is one of the two markers.
    pub(crate) const fn index(self) -> Option<usize> {
        if self.bucket < Self::UNCLAIMED.bucket {
            Some(start(self.bucket as usize) + self.offset as usize / LINE)
        } else {
            None
        }
    }
}

/// The first number of a bucket.
const fn start(bucket: usize) -> usize {
    if bucket == 0 {
        0
    } else {
        FIRST << (bucket - 1)
    }
}

/// The lines of a bucket.
const fn lines(bucket: usize) -> usize {
    if bucket == 0 { FIRST } else { start(bucket) }
}

#[cfg(not(loom))]
const _: () = assert!(start(14) == crate::pool::indices::INDICES);

/// The lines of a pool.
#[derive(Debug)]
pub(crate) struct Table<T> {
    // Invariant: each is null, or the first of `lines(bucket)` lines from `grow`.
    buckets: [AtomicPtr<Line<T>>; BUCKETS],
}

// SAFETY: a table owns its lines and they own their objects, so to send it is to send objects.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: through a shared table a thread takes objects out and puts some in, which sends them; it
// never sees an object that it has not taken. Nothing else is shared but words, which are atomics.
unsafe impl<T: Send> Sync for Table<T> {}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self {
            buckets: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        }
    }

    /// The line of a place; `None` for a marker and when its bucket is not there.
    #[inline]
    fn at(&self, place: Place) -> Option<&Line<T>> {
        const { assert!(size_of::<Line<T>>() == LINE) };
        // SAFETY: the invariant of `bucket`.
        let bucket = unsafe { self.buckets.get_unchecked(place.bucket as usize) };
        // Acquire: the fresh lines, which another thread may have made.
        let first = bucket.load(Ordering::Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: the invariants of `buckets` and `offset`: it is a line of this bucket.
        let line = unsafe { first.byte_add(place.offset as usize) };
        // SAFETY: lines stay until the table is dropped, which takes `&mut self`.
        Some(unsafe { &*line })
    }

    /// The line of a place whose number the calling thread owns.
    ///
    /// # Safety
    /// No other thread owns the number until the result is gone, and the claim
    /// of it happens after the last owner gave it back.
    #[inline]
    pub(crate) unsafe fn own(&self, place: Place) -> Option<Own<'_, T>> {
        let line = self.at(place)?;
        // SAFETY: who owns the number owns the line, and that is the caller alone.
        Some(unsafe { line.own() })
    }

    /// Makes sure that a place that is no marker has its line.
    #[cold]
    pub(crate) fn grow(&self, place: Place) {
        if place.index().is_none() || self.at(place).is_some() {
            return;
        }
        let bucket = place.bucket as usize;
        let fresh: Box<[Line<T>]> = (0..lines(bucket)).map(|_| Line::new()).collect();
        let first = Box::into_raw(fresh).cast::<Line<T>>();
        let added = self.buckets[bucket].compare_exchange(
            ptr::null_mut(),
            first,
            // Release: the fresh lines. On failure we only drop ours.
            Ordering::Release,
            Ordering::Relaxed,
        );
        if added.is_err() {
            // SAFETY: just made with this length, and no other thread has ever seen it.
            unsafe { free(first, bucket) };
        }
    }

    /// How many numbers have a line here.
    pub(crate) fn len(&self) -> usize {
        let filled = |bucket: &usize| !self.buckets[*bucket].load(Ordering::Relaxed).is_null();
        (0..BUCKETS)
            .rev()
            .find(filled)
            .map_or(0, |bucket| start(bucket) + lines(bucket))
    }

    /// All lines, for what any thread may read of them.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Line<T>> {
        (0..self.len()).filter_map(|index| self.at(Place::of(index)))
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        for bucket in 0..BUCKETS {
            let first = self.buckets[bucket].swap(ptr::null_mut(), Ordering::Relaxed);
            if !first.is_null() {
                // SAFETY: the invariant of `buckets`, and with `&mut self` nobody has a line of it.
                unsafe { free(first, bucket) };
            }
        }
    }
}

/// Drops the lines of a bucket.
///
/// # Safety
/// `first` is the first line of a bucket from `grow`, and nobody uses it again.
unsafe fn free<T>(first: *mut Line<T>, bucket: usize) {
    let all = ptr::slice_from_raw_parts_mut(first, lines(bucket));
    // SAFETY: `grow` got it from a box of a slice of this length.
    drop(unsafe { Box::from_raw(all) });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{BUCKETS, FIRST, Place, Table, lines};

    #[test]
    fn a_place_and_its_number_are_one_to_one() {
        for index in 0..crate::pool::indices::INDICES {
            let place = Place::of(index);
            assert_eq!(place.index(), Some(index));
            assert!((place.bucket as usize) < BUCKETS - 2);
            assert!((place.offset as usize) < lines(place.bucket as usize) * super::LINE);
        }
        assert_eq!(Place::UNCLAIMED.index(), None);
        assert_eq!(Place::DETACHED.index(), None);
    }

    #[test]
    fn a_table_has_only_the_buckets_that_were_asked_for() {
        let table = Table::<u8>::new();
        assert_eq!(table.lines().count(), 0);
        table.grow(Place::UNCLAIMED);
        table.grow(Place::DETACHED);
        assert_eq!(table.lines().count(), 0, "a marker gets no line");
        table.grow(Place::of(20));
        table.grow(Place::of(17));
        assert_eq!((table.len(), table.lines().count()), (32, 16));
        table.grow(Place::of(0));
        assert_eq!(table.lines().count(), 16 + FIRST);
    }
}
