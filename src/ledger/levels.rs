//! The high-water marks of the scopes that are open on one thread.
//!
//! ```text
//!   place 0 ◀─▶ A ◀─▶ B ◀─▶ C ◀─▶ free ◀─▶ free ...    one chain through all places
//!                           ▲
//!                           innermost: its mark is `top`, the others' are in their places
//!
//!   top           highest net bytes since scope C was entered
//!   mark of B     highest while B was the innermost, before C was entered
//!   mark of A     highest while A was the innermost, before B was entered
//!   mark of 0     highest of the thread while no scope was open
//! ```
//!
//! The peak of a scope is the highest of its own level and all above it. On
//! closing, a level's mark goes to the level below, which was open all the
//! while: `max`, never a sum. That is so for a level in the middle, too (guards
//! dropped out of order): its place is taken out of the chain and becomes the
//! first free one, so each scope's peak is exact in whatever order the guards
//! are dropped, each drop costs the same, and there are never more places than
//! were open at once, rounded up. A place stays where it is while it is open,
//! as its guard knows it by its index. A guard that is forgotten costs its
//! place for as long as the thread's slot lives in it.
//!
//! Scopes that are nested leave the chain in the order of the indices. Opening
//! and closing guess that, and compare: a guess can be gone on with before the
//! links are read.
//!
//! A signal handler may open scopes where there are places left, and close them: it leaves
//! the chain as it was. Where it needs more it asks the system for them, which it may not.
//!
//! All of this belongs to the slot's owner; the atomics are only there because
//! a slot is shared with readers. Those look in here only when the owner has ended
//! and nobody can own the slot until they have let go of it.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::num::NonZeroU32;
use std::alloc::System;

use crate::sync::{AtomicI64, AtomicPtr, AtomicU32, Ordering};

/// The places that the first scope on a slot makes; doubles from there.
const FIRST: u32 = 8;

/// What is above the last place.
const NONE: u32 = u32::MAX;

/// One thread's stack of marks.
#[derive(Debug)]
pub(crate) struct Levels {
    // Invariant: null, or a block from `System` with as many initialised places as
    // the first one says, all of them linked in one chain; `innermost` is one of them.
    places: AtomicPtr<Place>,
    innermost: AtomicU32,
    /// How many visits to carried scopes are open. Here because here is room for it.
    visits: AtomicU32,
    /// The mark of the innermost open level.
    top: AtomicI64,
}

/// Room for a level.
#[derive(Debug)]
struct Place {
    mark: Cell<i64>,
    /// In place 0, which is the lowest: how many places there are.
    below: Cell<u32>,
    above: Cell<u32>,
}

impl Levels {
    /// No scope open.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            places: AtomicPtr::new(core::ptr::null_mut()),
            innermost: AtomicU32::new(0),
            visits: AtomicU32::new(0),
            top: AtomicI64::new(0),
        }
    }

    /// No scope open.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            places: AtomicPtr::new(core::ptr::null_mut()),
            innermost: AtomicU32::new(0),
            visits: AtomicU32::new(0),
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
        self.innermost.store(0, Ordering::Relaxed);
        self.visits.store(0, Ordering::Relaxed);
        self.top.store(net, Ordering::Relaxed);
    }

    /// How many visits are open.
    pub(crate) fn visits(&self) -> u32 {
        self.visits.load(Ordering::Relaxed)
    }

    /// Sets how many visits are open.
    pub(crate) fn set_visits(&self, visits: u32) {
        self.visits.store(visits, Ordering::Relaxed);
    }

    /// Opens a level at `net` and gives its index, or `None` without memory.
    #[inline]
    pub(crate) fn open(&self, net: i64) -> Option<NonZeroU32> {
        let innermost = self.innermost.load(Ordering::Relaxed);
        let guess = innermost.wrapping_add(1);
        if let Some(under) = self.try_place(innermost)
            && under.above.get() == guess
        {
            self.push(under, guess, net)
        } else {
            self.open_other(innermost, net)
        }
    }

    /// Opens a level that has not the next index, or none yet.
    #[cold]
    #[inline(never)]
    fn open_other(&self, innermost: u32, net: i64) -> Option<NonZeroU32> {
        if self
            .try_place(innermost)
            .is_none_or(|under| under.above.get() == NONE)
        {
            self.grow(innermost)?;
        }
        let under = self.place(innermost);
        self.push(under, under.above.get(), net)
    }

    /// Opens the level `index` above the innermost one, whose place is `under`.
    #[inline]
    fn push(&self, under: &Place, index: u32, net: i64) -> Option<NonZeroU32> {
        under.mark.set(self.top.load(Ordering::Relaxed));
        self.innermost.store(index, Ordering::Relaxed);
        self.top.store(net, Ordering::Relaxed);
        // Never 0, which is below all others.
        NonZeroU32::new(index)
    }

    /// The highest net since the level `index` was opened.
    pub(crate) fn high(&self, index: u32) -> i64 {
        let innermost = self.innermost.load(Ordering::Relaxed);
        let mut high = self.top.load(Ordering::Relaxed);
        let mut at = index;
        while at != innermost && at != NONE {
            let place = self.place(at);
            high = high.max(place.mark.get());
            at = place.above.get();
        }
        high
    }

    /// Closes the level `index`, which is open.
    #[inline]
    pub(crate) fn close(&self, index: u32) {
        let below = index.wrapping_sub(1);
        let under = self.place(below);
        if index == self.innermost.load(Ordering::Relaxed) && under.above.get() == index {
            self.pop(below, under);
        } else {
            self.close_other(index);
        }
    }

    /// Closes the innermost level, which is above `below`, whose place is `under`.
    #[inline]
    fn pop(&self, below: u32, under: &Place) {
        self.note(under.mark.get());
        self.innermost.store(below, Ordering::Relaxed);
    }

    /// Closes a level that others are still open above, or one that such a one was under.
    #[cold]
    #[inline(never)]
    fn close_other(&self, index: u32) {
        let innermost = self.innermost.load(Ordering::Relaxed);
        let place = self.place(index);
        let (below, above) = (place.below.get(), place.above.get());
        let under = self.place(below);
        if index == innermost {
            self.pop(below, under);
            return;
        }
        if above == NONE {
            // Not open: the innermost one is above all that are.
            return;
        }
        under.mark.set(under.mark.get().max(place.mark.get()));
        under.above.set(above);
        self.place(above).below.set(below);
        self.put_above(innermost, index);
    }

    /// Puts a place that is not in the chain above another.
    fn put_above(&self, below: u32, index: u32) {
        let (under, place) = (self.place(below), self.place(index));
        let above = under.above.get();
        place.below.set(below);
        place.above.set(above);
        under.above.set(index);
        if above != NONE {
            self.place(above).below.set(index);
        }
    }

    /// How many places there are.
    fn room(&self) -> u32 {
        // SAFETY: the invariant of `places`: null, or at least one place.
        let first = unsafe { self.places.load(Ordering::Relaxed).as_ref() };
        first.map_or(0, |first| first.below.get())
    }

    /// The place `index`; `None` before the first level was opened.
    #[inline]
    fn try_place(&self, index: u32) -> Option<&Place> {
        let places = self.places.load(Ordering::Relaxed);
        if places.is_null() {
            return None;
        }
        // SAFETY: as in `place`.
        let place = unsafe { places.add(index as usize) };
        // SAFETY: as in `place`.
        Some(unsafe { &*place })
    }

    #[inline]
    fn place(&self, index: u32) -> &Place {
        debug_assert!(index < self.room());
        let places = self.places.load(Ordering::Relaxed);
        // SAFETY: every index comes from a link or from `open`, so it is a place of the chain, and
        // there are never fewer places than there were.
        let place = unsafe { places.add(index as usize) };
        // SAFETY: as above, so it is in the block and initialised; only the slot's owner
        // touches the block, and when it makes it move (`grow`), it holds no place. Who calls is the
        // owner, or reads when there is none.
        unsafe { &*place }
    }

    /// Makes more places, outside the ledger, and puts them above the last one.
    #[cold]
    fn grow(&self, last: u32) -> Option<()> {
        let room = self.room();
        let more = if room == 0 {
            FIRST
        } else {
            room.checked_mul(2)?
        };
        let new = Layout::array::<Place>(more as usize).ok()?;
        let places = self.places.load(Ordering::Relaxed);
        let grown = if places.is_null() {
            // SAFETY: the layout is not empty: `more` is at least `FIRST`.
            unsafe { System.alloc(new) }
        } else {
            let old = Layout::array::<Place>(room as usize).ok()?;
            // SAFETY: the block came from `System` with the layout `old`, and the new size is a
            // layout's, so neither zero nor past `isize::MAX`.
            unsafe { System.realloc(places.cast(), old, new.size()) }
        };
        if grown.is_null() {
            return None;
        }
        let grown: *mut Place = grown.cast();
        for index in room..more {
            let place = Place {
                mark: Cell::new(0),
                below: Cell::new(if index == room { last } else { index - 1 }),
                above: Cell::new(if index + 1 == more { NONE } else { index + 1 }),
            };
            // SAFETY: the block has room for `more` places.
            let free = unsafe { grown.add(index as usize) };
            // SAFETY: as above; nothing else points to it yet, and it holds nothing to drop.
            unsafe { free.write(place) };
        }
        self.places.store(grown, Ordering::Relaxed);
        if room > 0 {
            self.place(last).above.set(room);
        }
        // SAFETY: the first place was there, or is the first that was written above.
        unsafe { &*grown }.below.set(more);
        Some(())
    }
}

impl Drop for Levels {
    fn drop(&mut self) {
        let places = self.places.load(Ordering::Relaxed);
        let Ok(layout) = Layout::array::<Place>(self.room() as usize) else {
            return;
        };
        if !places.is_null() {
            // SAFETY: the invariant: a block of so many places from `System`.
            unsafe { System.dealloc(places.cast(), layout) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use super::{FIRST, Levels};
    use crate::sync::Ordering;

    fn enter(levels: &Levels, net: i64) -> u32 {
        levels.open(net).expect("memory").get()
    }

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
        let outer = enter(&levels, 0);
        levels.note(100);
        let inner = enter(&levels, 10);
        levels.note(60);
        assert_eq!(finish(&levels, inner), 60);
        assert_eq!(finish(&levels, outer), 100);
    }

    #[test]
    fn an_earlier_high_does_not_count_for_a_later_scope() {
        let levels = Levels::new();
        levels.note(1_000);
        let scope = enter(&levels, 5);
        levels.note(7);
        assert_eq!(finish(&levels, scope), 7);
        assert_eq!(levels.high(0), 1_000);
    }

    #[test]
    fn guards_closed_out_of_order_each_get_their_own_peak() {
        let levels = Levels::new();
        let a = enter(&levels, 0);
        levels.note(50);
        let b = enter(&levels, 10);
        levels.note(30);
        let c = enter(&levels, 10);
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
        assert_eq!(levels.innermost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_thousand_open_levels_keep_their_marks() {
        let levels = Levels::new();
        let open: Vec<u32> = (0..1_000)
            .map(|i| {
                let level = enter(&levels, 0);
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

    /// Bug prevented: a level that is closed while a later one is open keeps its
    /// place, and each close walks over all of those: a guard that is assigned
    /// anew took time and room without end.
    #[test]
    fn levels_that_relieve_each_other_take_no_more_room_than_is_open() {
        for overlap in 1..=5 {
            let levels = Levels::new();
            let mut open: VecDeque<u32> = (0..overlap).map(|_| enter(&levels, 0)).collect();
            for _ in 0..1_000_000 {
                open.push_back(enter(&levels, 0));
                levels.close(open.pop_front().expect("one at least"));
            }
            assert_eq!(levels.room(), FIRST);
        }
    }

    /// Against a list that is searched: what is open, and the highest net of each.
    #[test]
    fn levels_opened_and_closed_in_any_order_are_as_in_a_plain_list() {
        let levels = Levels::new();
        let mut open: Vec<(u32, i64)> = Vec::new();
        let mut most = 0;
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for step in 0..200_000u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (roll, net) = ((random >> 33) % 100, (random >> 40).cast_signed() % 1_000);
            // Long stretches in which levels grow more, or fewer.
            let opening = if step / 500 % 2 == 0 { 40 } else { 20 };
            if roll < opening || roll >= 60 {
                levels.note(net);
                for (_, high) in &mut open {
                    *high = net.max(*high);
                }
            }
            if roll < opening {
                let level = enter(&levels, net);
                assert!(open.iter().all(|(other, _)| *other != level));
                open.push((level, net));
            } else if roll < 60 && !open.is_empty() {
                let at = if roll.is_multiple_of(2) {
                    open.len() - 1
                } else {
                    usize::try_from(random >> 8).expect("64 bits") % open.len()
                };
                let (level, high) = open.remove(at);
                assert_eq!(finish(&levels, level), high, "step {step}");
            }
            most = most.max(open.len());
        }
        assert!(most > 50);
        for (level, high) in open {
            assert_eq!(finish(&levels, level), high);
        }
        assert!((levels.room() as usize) < 2 * (most + 1).max(FIRST as usize));
        // And the next tenant begins with all of them.
        levels.restart(0);
        assert_eq!(levels.high(0), 0);
    }
}
