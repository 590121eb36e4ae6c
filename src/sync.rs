//! The one door to atomics.
//!
//! Everything in this crate that more than one thread touches goes through
//! here, so that `--cfg loom` swaps the real atomics for modelled ones and the
//! models below `ledger` explore the code that ships, not a copy of it.

#[cfg(all(
    feature = "profile",
    not(loom),
    target_os = "linux",
    target_arch = "x86_64"
))]
pub(crate) use core::sync::atomic::AtomicUsize;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{
    AtomicI64, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering, compiler_fence, fence,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicI64, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering, fence,
};

// The lock of what two callers must not do at once; never on the allocation path.
/// What a thread does that waits for another: tell the core, or give it away.
#[cfg(all(feature = "profile", not(loom)))]
pub(crate) use core::hint::spin_loop;
#[cfg(all(feature = "profile", loom))]
pub(crate) use loom::thread::yield_now as spin_loop;
#[cfg(all(feature = "profile", loom))]
pub(crate) use loom::thread::{yield_now, yield_now as nap};
#[cfg(loom)]
pub(crate) use modelled::{self as forkable, Mutex, MutexGuard};
#[cfg(all(feature = "profile", not(loom)))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(all(feature = "profile", not(loom)))]
pub(crate) use std::thread::yield_now;

/// Has what comes before, which ends with an atomic change or a lock that was taken, seen before
/// what comes after looks: x86-64 does so by itself.
#[inline]
pub(crate) fn after_a_locked_instruction() {
    #[cfg(any(loom, miri, not(target_arch = "x86_64")))]
    fence(Ordering::SeqCst);
    #[cfg(all(not(any(loom, miri)), target_arch = "x86_64"))]
    compiler_fence(Ordering::SeqCst);
}

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

    /// A counter at `value`.
    #[cfg(not(loom))]
    pub(crate) const fn holding(value: u64) -> Self {
        Self(AtomicU64::new(value))
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

/// A value that one thread at a time touches, by a rule that the holder keeps
/// and the models check.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(
    #[cfg(not(loom))] core::cell::UnsafeCell<T>,
    #[cfg(loom)] loom::cell::UnsafeCell<T>,
);

impl<T> UnsafeCell<T> {
    /// A cell with `value` in it.
    pub(crate) fn new(value: T) -> Self {
        #[cfg(not(loom))]
        return Self(core::cell::UnsafeCell::new(value));
        #[cfg(loom)]
        return Self(loom::cell::UnsafeCell::new(value));
    }

    /// Calls `f` with the address of the value. Under loom, a call that another
    /// thread's call does not happen before, or after, is rejected.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an address, on the pools' hot path")]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        #[cfg(not(loom))]
        return f(self.0.get());
        #[cfg(loom)]
        return self.0.with_mut(f);
    }
}

/// The lock and condition of what a child of `fork` goes on using.
///
/// A lock that was contended at the fork is given back in the child as well, beside
/// a list of waiting threads that do not exist there. `parking_lot` keeps that list
/// in a table of its own under other locks, which such a thread may hold for ever,
/// and may hand the lock to one of them. std's lock on Linux is one word, and the
/// list is the kernel's: the child begins with an empty one. Elsewhere it may box
/// itself at its first use. Its poison is ignored: what it guards here is whole
/// whenever a panic could pass, as no user's code runs under it.
#[cfg(not(loom))]
#[expect(
    clippy::disallowed_types,
    reason = "off the allocation path, and whole in a child of `fork`"
)]
pub(crate) mod forkable {
    use std::sync::{PoisonError, TryLockError};
    use std::time::Instant;

    pub(crate) use std::sync::MutexGuard;

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        #[inline]
        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poison)) => Some(poison.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(std::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(std::sync::Condvar::new())
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            let woken = self.0.wait(guard);
            woken.unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits no longer than until `deadline`, and may wake before.
        pub(crate) fn wait_until<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            deadline: Instant,
        ) -> MutexGuard<'a, T> {
            let left = deadline.saturating_duration_since(Instant::now());
            let woken = self.0.wait_timeout(guard, left);
            woken.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// loom's lock and condition behind the interface of the real ones.
#[cfg(loom)]
pub(crate) mod modelled {
    pub(crate) use loom::sync::MutexGuard;

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no panic is survived in a model")
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).expect("no panic is survived in a model")
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
    }
}
