//! The one door to atomics.
//!
//! Everything in this crate that more than one thread touches goes through
//! here, so that `--cfg loom` swaps the real atomics for modelled ones and the
//! models below `ledger` explore the code that ships, not a copy of it.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{
    AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence, fence,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// A counter that one thread at a time writes and any thread reads.
///
/// The owner needs no atomic read-modify-write: a relaxed load, an add and a
/// release store compile to one plain `add` to memory on x86-64. Who the owner
/// is, is the business of whoever holds the counter; two writers at once would
/// lose counts, but never memory safety.
///
/// The store is `Release` and [`read`](Self::read) is `Acquire`, so a reader
/// that sees a count also sees everything its writer had seen before it. The
/// theorem in [`crate::ledger`] stands on that.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// A counter at zero.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A counter at zero.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The value as its owner knows it.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn own(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The value as its owner knows it. The model also proves that the caller
    /// is the owner: it rejects the load when a store by another thread does
    /// not happen before it.
    #[cfg(loom)]
    #[expect(unsafe_code, reason = "loom's way to say that no one else is writing")]
    pub(crate) fn own(&self) -> u64 {
        // SAFETY: a modelled atomic checks the claim itself and panics when it is false.
        unsafe { self.0.unsync_load() }
    }

    /// Sets the value. For the owner.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Adds `n`, wrapping. For the owner.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.set(self.own().wrapping_add(n));
    }

    /// Adds `n`, wrapping, when there may be several writers.
    #[inline]
    pub(crate) fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::AcqRel);
    }

    /// The value as any other thread may read it.
    #[inline]
    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
