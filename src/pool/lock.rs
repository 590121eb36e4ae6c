//! A lock that a fork cannot hold for ever.
//!
//! A child of `fork` has one thread. A lock that another thread held at that
//! moment stays held in the child, and whoever waits for it waits for ever. So a
//! caller that finds it held asks whether this is still the process that last
//! had it: if so it waits, and if not it tries for a while and then gives up for
//! good. The uncontended way asks nothing.

use crate::sync::{Mutex, MutexGuard};

#[cfg(not(loom))]
pub(crate) use real::Lock;

#[cfg(not(loom))]
mod real {
    use core::time::Duration;
    use std::time::Instant;

    use super::{Mutex, MutexGuard};
    use crate::sync::{AtomicU32, Ordering};

    /// How long a child of `fork` waits for a lock that may never be given back.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// A lock around `T`, for short work that calls no user's code.
    #[derive(Debug)]
    pub(crate) struct Lock<T> {
        inner: Mutex<T>,
        /// The process in which the lock is known to come back, or `LOST`.
        process: AtomicU32,
    }

    /// No process has this number, so every caller compares unequal.
    const LOST: u32 = 0;

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self {
                inner: Mutex::new(value),
                process: AtomicU32::new(std::process::id()),
            }
        }

        /// Waits for the lock; `None` if it was lost in a fork.
        #[inline]
        pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.inner.try_lock() {
                Some(guard) => Some(guard),
                None => self.wait(),
            }
        }

        /// The value, if a thread held the lock at a fork that is not here any more: in
        /// whatever state it was then, so to be forgotten and not to be dropped.
        pub(crate) fn lost(&mut self) -> Option<&mut T> {
            // With `&mut` no thread that is here holds it.
            let is_lost = self.inner.is_locked();
            is_lost.then(|| self.inner.get_mut())
        }

        #[cold]
        fn wait(&self) -> Option<MutexGuard<'_, T>> {
            // A holder is a few pointer moves from giving it back.
            for _ in 0..64 {
                core::hint::spin_loop();
                if let Some(guard) = self.inner.try_lock() {
                    return Some(guard);
                }
            }
            let process = std::process::id();
            match self.process.load(Ordering::Relaxed) {
                LOST => None,
                same if same == process => Some(self.inner.lock()),
                _ => self.wait_in_child(process),
            }
        }

        /// Tries without parking: the table of parked threads may be lost as well.
        fn wait_in_child(&self, process: u32) -> Option<MutexGuard<'_, T>> {
            let start = Instant::now();
            while start.elapsed() < PATIENCE {
                if let Some(guard) = self.inner.try_lock() {
                    // It came back, so this process can be trusted with it from now on.
                    self.process.store(process, Ordering::Relaxed);
                    return Some(guard);
                }
                std::thread::yield_now();
            }
            self.process.store(LOST, Ordering::Relaxed);
            None
        }
    }

    #[cfg(test)]
    mod tests {
        use super::{AtomicU32, LOST, Lock, Ordering};

        #[test]
        fn a_lock_that_another_process_took_along_is_given_up_once_and_not_waited_for_again() {
            let mut lock = Lock::new(7);
            let held = lock.lock();
            let _forgotten = held.map(parking_lot::MutexGuard::leak);
            // As in a child: the holder's process is not ours.
            lock.process = AtomicU32::new(u32::MAX);
            assert!(lock.lock().is_none());
            assert_eq!(lock.process.load(Ordering::Relaxed), LOST);
            let again = std::time::Instant::now();
            for _ in 0..100 {
                assert!(lock.lock().is_none());
            }
            assert!(again.elapsed() < super::PATIENCE, "waited again");
        }

        #[test]
        fn only_the_value_of_a_lock_that_is_held_for_ever_is_lost() {
            let mut lock = Lock::new(7);
            drop(lock.lock());
            assert_eq!(lock.lost(), None);
            let held = lock.lock();
            let _forgotten = held.map(parking_lot::MutexGuard::leak);
            assert_eq!(lock.lost(), Some(&mut 7));
        }

        #[test]
        fn a_lock_that_comes_back_in_a_child_is_trusted_there() {
            let lock = Lock::new(7);
            lock.process.store(u32::MAX, Ordering::Relaxed);
            std::thread::scope(|scope| {
                let held = lock.lock();
                let waiting = scope.spawn(|| lock.lock().map(|value| *value));
                std::thread::sleep(core::time::Duration::from_millis(20));
                drop(held);
                assert_eq!(waiting.join().expect("no panic"), Some(7));
            });
            assert_eq!(lock.process.load(Ordering::Relaxed), std::process::id());
        }
    }
}

/// The models know no fork.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Lock<T>(Mutex<T>);

#[cfg(loom)]
impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
        Some(self.0.lock())
    }

    pub(crate) fn lost(&mut self) -> Option<&mut T> {
        None
    }
}
