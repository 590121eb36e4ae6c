//! All slots there are, and how they change hands.
//!
//! ```text
//!   Registry ── shared            one slot for threads that have none
//!        │
//!        └── Chunk 0 ──next──▶ Chunk 1 ──next──▶ ...    never freed, only added
//!            [slot; 16]        [slot; 16]
//!
//!   state of a slot, the low half:   0 ──claim──▶ 1 ──release──▶ 2 ──claim──▶ 3 ── ...
//!                                    even: nobody's              odd: owned
//!                    the high half:  how many hold it for a last owner that has ended,
//!                                    less those who let go of it before
//! ```
//!
//! A claim is one compare-exchange with `Acquire`, a release one addition with
//! `Release`: the next owner sees the last one's counts and continues them. The
//! low half only counts up, so it also names the tenancy. Readers walk the chunks
//! without a lock; a chunk is published by one compare-exchange and stays.
//!
//! An owner that ends in the middle of what others will want to know the end of
//! (a visit to a carried scope) adds to the high half how often that is so. Until
//! each of them has looked, and taken its one off again, nobody claims the slot and
//! its counts stay as they are. Whoever does not want to know any more takes its
//! one off even while the owner is there: then less is added up in the end.
//!
//! (After two thousand million owners the low half runs over into the high one,
//! and the slot is never claimed again.)
//!
//! After `fork` the child has one thread, and the slots of the others stay
//! owned for ever: their counts are history that the child's heap still holds.

use core::ptr::NonNull;

use crate::arena::{self, Zeroed};
use crate::ledger::slot::Slot;
use crate::sync::{AtomicPtr, Ordering};

/// Slots in a chunk.
#[cfg(not(loom))]
pub(crate) const CHUNK: usize = 16;
/// Few, so that the models stay small.
#[cfg(loom)]
pub(crate) const CHUNK: usize = 2;

#[derive(Debug)]
#[repr(C)]
struct Chunk {
    slots: [Slot; CHUNK],
    // Invariant: null, or a chunk from `arena::forever`.
    next: AtomicPtr<Chunk>,
}

// SAFETY: a chunk is counters, marks and null pointers, all of them atomics that take any bits,
// and zero is their fresh state (`Slot` says so).
unsafe impl Zeroed for Chunk {}

/// All slots of one ledger.
#[derive(Debug)]
pub(crate) struct Registry {
    /// What threads without a slot of their own count on, with real atomics.
    pub(crate) shared: Slot,
    first: Chunk,
}

impl Registry {
    /// A registry with one chunk, in place: the first 16 threads need no memory.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            shared: Slot::new(),
            first: Chunk {
                slots: [const { Slot::new() }; CHUNK],
                next: AtomicPtr::new(core::ptr::null_mut()),
            },
        }
    }

    /// A registry with one chunk, in place.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            shared: Slot::new(),
            first: Chunk {
                slots: core::array::from_fn(|_| Slot::new()),
                next: AtomicPtr::new(core::ptr::null_mut()),
            },
        }
    }

    /// A slot that nobody else owns; `None` when the system has no memory for
    /// another chunk.
    pub(crate) fn claim(&'static self) -> Option<&'static Slot> {
        loop {
            if let Some(slot) = self.slots().find(|slot| Self::take(slot)) {
                return Some(slot);
            }
            self.extend()?;
        }
    }

    /// Takes one slot if it is free.
    pub(crate) fn take(slot: &Slot) -> bool {
        let state = slot.state.load(Ordering::Relaxed);
        state.is_multiple_of(2)
            && state < Slot::HOLD
            && slot
                .state
                .compare_exchange(
                    state,
                    state.wrapping_add(1),
                    // Acquire: the last owner's counts, which we continue; and nobody who has held
                    // the slot still looks at them.
                    Ordering::Acquire,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// Gives an owned slot back. Its counts stay.
    pub(crate) fn release(slot: &Slot) {
        let held = u64::from(slot.open_visits()) * Slot::HOLD;
        // Release: our counts, for the next owner.
        slot.state
            .fetch_add(held.wrapping_add(1), Ordering::Release);
    }

    /// Every slot that a thread owns or has owned, and the ones not yet taken;
    /// without the shared one.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.chunks().flat_map(|chunk| chunk.slots.iter())
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        core::iter::successors(Some(&self.first), |chunk| Self::after(chunk))
    }

    fn after(chunk: &Chunk) -> Option<&'static Chunk> {
        // Acquire: the chunk's zeroed content, which another thread may have made.
        let next = chunk.next.load(Ordering::Acquire);
        // SAFETY: the invariant of `next`: null or a chunk that is never freed.
        unsafe { next.as_ref() }
    }

    /// Adds a chunk at the end, or leaves it when another thread just has.
    #[cold]
    fn extend(&self) -> Option<()> {
        let fresh: NonNull<Chunk> = new_chunk()?;
        let mut last = &self.first;
        while let Some(next) = Self::after(last) {
            last = next;
        }
        let added = last.next.compare_exchange(
            core::ptr::null_mut(),
            fresh.as_ptr(),
            Ordering::Release,
            Ordering::Relaxed,
        );
        if added.is_err() {
            // SAFETY: from `forever`, and no other thread has ever seen it.
            unsafe { arena::give_back(fresh) };
        }
        Some(())
    }
}

#[cfg(not(loom))]
fn new_chunk() -> Option<NonNull<Chunk>> {
    arena::forever::<Chunk>()
}

/// Modelled atomics are not zero bytes; the models never need a second chunk.
#[cfg(loom)]
fn new_chunk() -> Option<NonNull<Chunk>> {
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{CHUNK, Registry};

    fn registry() -> &'static Registry {
        Box::leak(Box::new(Registry::new()))
    }

    /// Bug prevented: a thread table with a fixed end (a panic at the 1,025th
    /// thread in one crate, no attribution after 256 in another).
    #[test]
    fn there_is_always_another_slot_and_none_is_given_twice() {
        let registry = registry();
        let claimed: Vec<_> = (0..5 * CHUNK + 3)
            .map(|_| registry.claim().expect("memory"))
            .collect();
        let mut addresses: Vec<_> = claimed.iter().map(|slot| &raw const **slot).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), claimed.len());
        assert_eq!(registry.slots().count(), 6 * CHUNK);
    }

    #[test]
    fn a_released_slot_is_taken_again_before_a_new_one_and_continues_its_counts() {
        let registry = registry();
        let slot = registry.claim().expect("memory");
        slot.allocations.add(41);
        Registry::release(slot);
        let again = registry.claim().expect("memory");
        assert!(core::ptr::eq(slot, again));
        again.allocations.add(1);
        assert_eq!(again.allocations.read(), 42);
    }

    /// Bug prevented: a slot goes on counting for its next owner while somebody
    /// still has to learn how far the last one came.
    #[test]
    fn a_slot_that_is_held_is_not_taken_until_all_have_let_go() {
        let registry = registry();
        let slot = registry.claim().expect("memory");
        for _ in 0..3 {
            slot.begin_visit();
        }
        slot.end_visit();
        assert!(!slot.is_held());
        // One of the two does not wait for the end.
        slot.let_go();
        assert!(!slot.is_held());
        Registry::release(slot);
        assert!(slot.is_held());
        assert!(!core::ptr::eq(slot, registry.claim().expect("memory")));
        slot.let_go();
        assert!(!slot.is_held());
        assert!(core::ptr::eq(slot, registry.claim().expect("memory")));
        assert_eq!(slot.tenancy(), 3);
    }

    #[test]
    fn threads_that_claim_at_once_share_no_slot() {
        let registry = registry();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let slot = registry.claim().expect("memory");
                        slot.allocations.add(1);
                        Registry::release(slot);
                    }
                });
            }
        });
        let total: u64 = registry.slots().map(|slot| slot.allocations.read()).sum();
        assert_eq!(total, 8_000);
        assert!(registry.slots().count() <= 2 * CHUNK);
    }
}
