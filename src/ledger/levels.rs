//! The high-water marks of the scopes that are open on one thread.
//!
//! ```text
//!   depth 3   top ── highest net bytes since scope C was entered
//!             [2]    highest while B was the innermost, before C was entered
//!             [1]    highest while A was the innermost, before B was entered
//!             [0]    highest of the thread while no scope was open
//! ```
//!
//! The peak of a scope is the highest of its own level and all above it. On
//! closing, a level's mark goes to the level below, which was open all the
//! while: `max`, never a sum. A scope that is closed while a later one is still
//! open (guards dropped out of order) leaves [`CLOSED`] in its place, and the
//! place is popped when everything above it is gone; so each scope's peak is
//! exact in whatever order the guards are dropped. A guard that is forgotten
//! costs its level for as long as the thread's slot lives in it.
//!
//! All of this belongs to the slot's owner; the atomics are only there because
//! a slot is shared with readers, who never look in here.

use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;

use crate::sync::{AtomicI64, AtomicPtr, AtomicU32, Ordering};

/// The mark of a level whose scope is closed but not yet popped. Lower than
/// every real mark, so it never wins a `max`.
const CLOSED: i64 = i64::MIN;

/// Levels that the first scope on a slot makes room for; doubles from there.
const FIRST: u32 = 7;

/// One thread's stack of marks.
#[derive(Debug)]
pub(crate) struct Levels {
    // Invariant: null while `room` is 0, else a block from `System` that holds
    // `room` values, of which the first `depth` are initialised.
    below: AtomicPtr<i64>,
    room: AtomicU32,
    // Invariant: `depth <= room`. The number of levels below the top.
    depth: AtomicU32,
    /// The mark of the innermost open level.
    top: AtomicI64,
}

impl Levels {
    /// No scope open.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            below: AtomicPtr::new(core::ptr::null_mut()),
            room: AtomicU32::new(0),
            depth: AtomicU32::new(0),
            top: AtomicI64::new(0),
        }
    }

    /// No scope open.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            below: AtomicPtr::new(core::ptr::null_mut()),
            room: AtomicU32::new(0),
            depth: AtomicU32::new(0),
            top: AtomicI64::new(0),
        }
    }

    /// Raises the innermost level's mark to `net`.
    #[inline]
    pub(crate) fn note(&self, net: i64) {
        if net > self.top.load(Ordering::Relaxed) {
            self.top.store(net, Ordering::Relaxed);
        }
    }

    /// Closes all levels and starts the thread's own at `net`.
    pub(crate) fn restart(&self, net: i64) {
        self.depth.store(0, Ordering::Relaxed);
        self.top.store(net, Ordering::Relaxed);
    }

    /// Opens a level at `net` and gives its index, or `None` without memory.
    #[inline]
    pub(crate) fn open(&self, net: i64) -> Option<u32> {
        let depth = self.depth.load(Ordering::Relaxed);
        if depth == self.room.load(Ordering::Relaxed) {
            self.grow()?;
        }
        self.put(depth, self.top.load(Ordering::Relaxed));
        self.depth.store(depth + 1, Ordering::Relaxed);
        self.top.store(net, Ordering::Relaxed);
        Some(depth + 1)
    }

    /// The highest net since the level `index` was opened.
    pub(crate) fn high(&self, index: u32) -> i64 {
        let depth = self.depth.load(Ordering::Relaxed);
        (index..depth)
            .map(|i| self.get(i))
            .fold(self.top.load(Ordering::Relaxed), i64::max)
    }

    /// Closes the level `index`.
    #[inline]
    pub(crate) fn close(&self, index: u32) {
        if index == self.depth.load(Ordering::Relaxed) {
            // The innermost level, as nearly always.
            self.pop(index);
        } else {
            self.close_other(index);
        }
    }

    /// Closes a level that others are still open above.
    #[cold]
    #[inline(never)]
    fn close_other(&self, index: u32) {
        let depth = self.depth.load(Ordering::Relaxed);
        if index > depth {
            self.pop(depth);
            return;
        }
        let own = self.get(index);
        self.put(index, CLOSED);
        let mut under = index;
        while under > 0 {
            under -= 1;
            let mark = self.get(under);
            if mark != CLOSED {
                self.put(under, mark.max(own));
                break;
            }
        }
    }

    /// Takes the innermost of `depth` levels off, and the closed ones under it.
    #[inline]
    fn pop(&self, mut depth: u32) {
        while depth > 0 {
            depth -= 1;
            let mark = self.get(depth);
            if mark != CLOSED {
                // The thread's own level, index 0, is never closed: we end here at the latest.
                self.note(mark);
                break;
            }
        }
        self.depth.store(depth, Ordering::Relaxed);
    }

    #[inline]
    fn get(&self, index: u32) -> i64 {
        debug_assert!(index < self.room.load(Ordering::Relaxed));
        let below = self.below.load(Ordering::Relaxed);
        // SAFETY: `index` is under `depth`, so in the block and initialised (both invariants).
        let place = unsafe { below.add(index as usize) };
        // SAFETY: as above; only the slot's owner, who is calling, touches the block.
        unsafe { place.read() }
    }

    #[inline]
    fn put(&self, index: u32, mark: i64) {
        debug_assert!(index < self.room.load(Ordering::Relaxed));
        let below = self.below.load(Ordering::Relaxed);
        // SAFETY: `index` is under `room`: `open` has grown the block, the others go by `depth`.
        let place = unsafe { below.add(index as usize) };
        // SAFETY: as above; only the slot's owner, who is calling, touches the block.
        unsafe { place.write(mark) };
    }

    /// Makes the block larger, outside the ledger.
    #[cold]
    fn grow(&self) -> Option<()> {
        let room = self.room.load(Ordering::Relaxed);
        let more = if room == 0 {
            FIRST
        } else {
            room.checked_mul(2)?
        };
        let new = Layout::array::<i64>(more as usize).ok()?;
        let below = self.below.load(Ordering::Relaxed);
        let grown = if below.is_null() {
            // SAFETY: the layout is not empty: `more` is at least `FIRST`.
            unsafe { System.alloc(new) }
        } else {
            let old = Layout::array::<i64>(room as usize).ok()?;
            // SAFETY: the block came from `System` with the layout `old`, and the new size is a
            // layout's, so neither zero nor past `isize::MAX`.
            unsafe { System.realloc(below.cast(), old, new.size()) }
        };
        if grown.is_null() {
            return None;
        }
        self.below.store(grown.cast(), Ordering::Relaxed);
        self.room.store(more, Ordering::Relaxed);
        Some(())
    }
}

impl Drop for Levels {
    fn drop(&mut self) {
        let room = self.room.load(Ordering::Relaxed) as usize;
        let below = self.below.load(Ordering::Relaxed);
        let Ok(layout) = Layout::array::<i64>(room) else {
            return;
        };
        if !below.is_null() {
            // SAFETY: the first invariant: a block of `room` values from `System`.
            unsafe { System.dealloc(below.cast(), layout) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Levels;

    fn finish(levels: &Levels, index: u32) -> i64 {
        let high = levels.high(index);
        levels.close(index);
        high
    }

    /// Bug prevented: nested scopes whose peaks were added up instead of
    /// compared (allocation-counter).
    #[test]
    fn an_inner_peak_counts_for_the_outer_scope_as_a_maximum() {
        let levels = Levels::new();
        let outer = levels.open(0).expect("memory");
        levels.note(100);
        let inner = levels.open(10).expect("memory");
        levels.note(60);
        assert_eq!(finish(&levels, inner), 60);
        assert_eq!(finish(&levels, outer), 100);
    }

    #[test]
    fn an_earlier_high_does_not_count_for_a_later_scope() {
        let levels = Levels::new();
        levels.note(1_000);
        let scope = levels.open(5).expect("memory");
        levels.note(7);
        assert_eq!(finish(&levels, scope), 7);
        assert_eq!(levels.high(0), 1_000);
    }

    #[test]
    fn guards_closed_out_of_order_each_get_their_own_peak() {
        let levels = Levels::new();
        let a = levels.open(0).expect("memory");
        levels.note(50);
        let b = levels.open(10).expect("memory");
        levels.note(30);
        let c = levels.open(10).expect("memory");
        levels.note(20);
        // B ends first: it saw 30 before C began and 20 since.
        assert_eq!(finish(&levels, b), 30);
        levels.note(40);
        // A ends next, with C still open.
        assert_eq!(finish(&levels, a), 50);
        levels.note(45);
        assert_eq!(finish(&levels, c), 45);
        // Everything is popped, and the thread saw the highest of all.
        assert_eq!(levels.high(0), 50);
        assert_eq!(levels.open(0), Some(1));
    }

    #[test]
    fn a_thousand_open_levels_keep_their_marks() {
        let levels = Levels::new();
        let open: Vec<u32> = (0..1_000)
            .map(|i| {
                let level = levels.open(0).expect("memory");
                levels.note(1_000 - i);
                level
            })
            .collect();
        for (i, level) in open.into_iter().enumerate().rev() {
            assert_eq!(
                finish(&levels, level),
                1_000 - i64::try_from(i).expect("small")
            );
        }
    }
}
