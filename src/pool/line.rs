//! One thread's shelf of a pool: a magazine that only its owner touches.
//!
//! ```text
//!   word    63 ............ 16 | 15 ...... 8 | 7 ..... 0
//!           objects taken      | epoch       | length        one store publishes all three
//!
//!   slots   [ oldest, ..., newest, -, -, - ]                 62 pointers
//!             └─ spill to the depot  └─ push and pop here
//! ```
//!
//! A line has one owner at a time, the thread whose [index](crate::pool::indices)
//! it has, and needs no atomic read-modify-write: the owner loads the word, moves
//! one pointer, and stores the word. Any thread may read the word for statistics.
//!
//! One compare answers two questions. The owner subtracts the pool's *base*, its
//! epoch in the same bits, from the word's low half: what is left is the length
//! if the epochs agree and more than any length if they do not. So a pool
//! that is cleared asks every line to give up its objects, and no fast path pays
//! for the question.

use core::mem::MaybeUninit;
use core::ptr;

use crate::pool::object::Object;
use crate::sync::{Counter, UnsafeCell};

/// Pointers in a magazine. Where objects change threads, half of them go through
/// the depot at once, and its cache lines with them: with 30 pointers that was
/// 7.7 ns an object, with 62 it is 0.1 to 1.0 ns (and 1.1 to 1.5 with crossbeam's
/// queue in the same run; 2026-11-21, benches/pool, the workload's own 6.7 ns
/// taken off).
#[cfg(not(loom))]
pub(crate) const MAGAZINE: usize = 62;
/// Few, so that the models stay small.
#[cfg(loom)]
pub(crate) const MAGAZINE: usize = 2;

/// One more object taken, in the word.
const TAKEN: u64 = 1 << 16;
/// The epoch and the length, in the word.
const LOW: u64 = TAKEN - 1;
const LENGTH: u64 = 0xff;

/// An epoch of a pool, in the bits that it has in a line's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base(u16);

/// How many objects a line of a pool may hold: at most a magazine, by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room(u16);

impl Room {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn at_most(objects: usize) -> Self {
        Self(u16::try_from(objects.min(MAGAZINE)).unwrap_or(0))
    }

    #[inline]
    pub(crate) fn objects(self) -> usize {
        usize::from(self.0)
    }
}

impl Base {
    /// What to add to a pool's epoch for the next one.
    pub(crate) const NEXT: u32 = 1 << 8;

    /// The base of an epoch. Epochs repeat after 256: a line that slept through that many,
    /// or a multiple of that, gives its objects out as if they were of this one.
    #[inline]
    pub(crate) fn of(epoch: u32) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "that they repeat is said above"
        )]
        Self(epoch as u16)
    }

    /// The length in `word`, or something larger than any when the word is of
    /// another epoch.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is what is asked for"
    )]
    fn length(self, word: u64) -> usize {
        usize::from((word as u16).wrapping_sub(self.0))
    }
}

/// One line of a pool's table.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Line<T> {
    word: Counter,
    // Invariant: the first `length` of them hold objects, which the line owns; the rest nothing.
    slots: UnsafeCell<[MaybeUninit<Object<T>>; MAGAZINE]>,
}

// With pointers of half the size it is half of that.
#[cfg(all(not(loom), target_pointer_width = "64"))]
const _: () = assert!(size_of::<Line<u8>>() == 512);
const _: () = assert!((MAGAZINE as u64) < LENGTH);

impl<T> Line<T> {
    pub(crate) fn new() -> Self {
        Self {
            word: Counter::new(),
            slots: UnsafeCell::new([const { MaybeUninit::uninit() }; MAGAZINE]),
        }
    }

    /// How many objects are here now. For any thread.
    pub(crate) fn idle(&self) -> u64 {
        self.word.read() & LENGTH
    }

    /// The same, but none if the line is of another epoch: they are to be dropped. For any
    /// thread.
    pub(crate) fn idle_in(&self, base: Base) -> u64 {
        let length = base.length(self.word.read());
        if length <= MAGAZINE { length as u64 } else { 0 }
    }

    /// How many objects were ever taken from here. For any thread.
    pub(crate) fn taken(&self) -> u64 {
        self.word.read() / TAKEN
    }

    /// The line in its owner's hands.
    ///
    /// # Safety
    /// Until the result is gone, no other thread has the line in its hands, and
    /// whatever another did with it before happens before this call.
    #[inline]
    pub(crate) unsafe fn own(&self) -> Own<'_, T> {
        Own(self)
    }
}

impl<T> Drop for Line<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`, so that nobody else has it.
        let own = unsafe { self.own() };
        let mut left = Vec::new();
        own.empty(Base(0), &mut left);
    }
}

/// A line in its owner's hands.
///
/// Each function reads the word afresh, leaves word and slots in agreement, and
/// calls nothing but `memcpy` in between (a `Vec` that takes objects has its room
/// before). So it does not matter that a thread may have several of these, or
/// that a user's code ran, and used the same pool, since this one was made.
#[derive(Debug)]
pub(crate) struct Own<'a, T>(&'a Line<T>);

impl<T> Clone for Own<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Own<'_, T> {}

impl<T> Own<'_, T> {
    /// Takes the newest object; `None` if there is none or the epoch is another.
    #[inline]
    pub(crate) fn pop(self, base: Base) -> Option<Object<T>> {
        let word = self.0.word.own();
        let newest = base.length(word).wrapping_sub(1);
        if newest >= MAGAZINE {
            return None;
        }
        let object = self.0.slots.with_mut(|slots| {
            // SAFETY: the owner's thread is here and nowhere else, so nothing else refers to them.
            let slots = unsafe { &*slots };
            // SAFETY: below the length, so there is an object; the shorter length forgets it here.
            unsafe { slots[newest].assume_init_read() }
        });
        self.0.word.set(word.wrapping_add(TAKEN - 1));
        Some(object)
    }

    /// Adds an object, or gives it back when there are `room` already or the
    /// epoch is another.
    #[inline]
    pub(crate) fn push(self, base: Base, room: Room, object: Object<T>) -> Result<(), Object<T>> {
        let word = self.0.word.own();
        let length = base.length(word);
        if length >= room.objects() {
            return Err(object);
        }
        self.0.slots.with_mut(|slots| {
            // SAFETY: as in `pop`.
            let slots = unsafe { &mut *slots };
            // SAFETY: below `room`, which is at most the number of slots.
            let slot = unsafe { slots.get_unchecked_mut(length) };
            slot.write(object);
        });
        self.0.word.set(word.wrapping_add(1));
        Ok(())
    }

    /// How many objects are here, of whatever epoch.
    pub(crate) fn length(self) -> usize {
        usize::from((self.0.word.own() & LENGTH) as u8)
    }

    /// Whether the line is of the epoch of `base`.
    pub(crate) fn is_current(self, base: Base) -> bool {
        base.length(self.0.word.own()) <= MAGAZINE
    }

    /// Moves the `n` oldest objects to the end of `to`; fewer when there are
    /// fewer here or no room there.
    pub(crate) fn spill(self, n: usize, to: &mut Vec<Object<T>>) {
        let word = self.0.word.own();
        let length = self.length();
        let n = n.min(length).min(to.capacity() - to.len());
        self.0.slots.with_mut(|slots| {
            // SAFETY: as in `pop`.
            let slots = unsafe { &mut *slots };
            // SAFETY: below the length, so each is an object; they are forgotten here below.
            to.extend(
                slots[..n]
                    .iter()
                    .map(|slot| unsafe { slot.assume_init_read() }),
            );
            let first = slots.as_mut_ptr();
            // SAFETY: `n` is at most the length, so it points into the slots or just past them.
            let kept = unsafe { first.add(n) };
            // SAFETY: `length - n` slots from `kept` are within the array, and as many from `first`.
            unsafe { ptr::copy(kept, first, length - n) };
        });
        self.0.word.set(word - n as u64);
    }

    /// Takes the `n` newest of `from` as the newest here; fewer when there are
    /// fewer there or no room here.
    pub(crate) fn refill(self, n: usize, from: &mut Vec<Object<T>>) {
        let word = self.0.word.own();
        let length = self.length();
        let n = n.min(from.len()).min(MAGAZINE - length);
        self.0.slots.with_mut(|slots| {
            // SAFETY: as in `pop`.
            let slots = unsafe { &mut *slots };
            let taken = from.drain(from.len() - n..);
            for (slot, object) in slots[length..].iter_mut().zip(taken) {
                slot.write(object);
            }
        });
        self.0.word.set(word + n as u64);
    }

    /// Moves everything to `to` and enters the epoch of `base`.
    pub(crate) fn empty(self, base: Base, to: &mut Vec<Object<T>>) {
        // Nothing for nothing: a pool that is dropped comes here with each of its lines.
        to.reserve(self.length());
        self.spill(MAGAZINE, to);
        let word = self.0.word.own();
        self.0.word.set(word & !LOW | u64::from(base.0));
    }

    /// Counts an object that went past the magazine, from the depot to a caller.
    pub(crate) fn count_taken(self) {
        self.0.word.set(self.0.word.own().wrapping_add(TAKEN));
    }
}
