//! A lock that a fork cannot hold for ever.
//!
//! A child of `fork` has one thread. A lock that another thread held at that
//! moment stays held in the child, and whoever waits for it waits for ever. So a
//! caller that finds it held asks whether this is still the process that last
//! had it: if so it waits, and if not it tries for a while and then gives up for
//! good. The uncontended way asks nothing of the system.
//!
//! It may be mistaken: a holder that is here may be stopped for as long, by a debugger
//! or by a scheduler. So whoever gets a lock that was given up for lost has the proof
//! that it was not, and from then on it is waited for again.

use crate::sync::forkable::{Mutex, MutexGuard};

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

    /// How long it sleeps between two tries: the holder may need the core.
    const NAP: Duration = Duration::from_micros(50);

    /// A lock around `T`, for short work that calls no user's code.
    #[derive(Debug)]
    pub(crate) struct Lock<T> {
        inner: Mutex<T>,
        /// The process in which the lock is known to come back, or `LOST`.
        process: AtomicU32,
    }

    /// No process has this number, so every caller compares unequal.
    const LOST: u32 = 0;

    /// Nor this one: of a `static` that nobody has had yet. So before `LOST`.
    const UNKNOWN: u32 = LOST.wrapping_sub(1);

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self {
                inner: Mutex::new(value),
                process: AtomicU32::new(std::process::id()),
            }
        }

        /// The same for a `static`, which cannot ask for the process: the first who has it
        /// does.
        pub(crate) const fn in_static(value: T) -> Self {
            Self {
                inner: Mutex::new(value),
                process: AtomicU32::new(UNKNOWN),
            }
        }

        /// Waits for the lock; `None` if it was lost in a fork.
        #[inline]
        pub(crate) fn lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.inner.try_lock() {
                Some(guard) => {
                    self.trust_again();
                    Some(guard)
                }
                None => self.wait(),
            }
        }

        /// For whoever has just got it, which nobody may have known to come back.
        #[inline]
        fn trust_again(&self) {
            // Beside the lock in memory, and so at hand.
            let process = self.process.load(Ordering::Relaxed);
            // `UNKNOWN` or `LOST`.
            if process.wrapping_sub(UNKNOWN) <= 1 {
                self.trust();
            }
        }

        /// For whoever has just got it, in this process.
        #[cold]
        fn trust(&self) {
            self.process.store(std::process::id(), Ordering::Relaxed);
        }

        /// The value, if a thread held the lock at a fork that is not here any more: in
        /// whatever state it was then, so to be forgotten and not to be dropped.
        pub(crate) fn lost(&mut self) -> Option<&mut T> {
            // With `&mut` no thread that is here holds it.
            let is_lost = self.inner.try_lock().is_none();
            is_lost.then(|| self.inner.get_mut())
        }

        #[cold]
        fn wait(&self) -> Option<MutexGuard<'_, T>> {
            // A holder is a few pointer moves from giving it back.
            for _ in 0..64 {
                core::hint::spin_loop();
                if let Some(guard) = self.inner.try_lock() {
                    self.trust_again();
                    return Some(guard);
                }
            }
            // Now, as the holder may have been trusted meanwhile.
            let known = self.process.load(Ordering::Relaxed);
            match known {
                LOST => None,
                same if same == std::process::id() => Some(self.inner.lock()),
                _ => self.wait_in_child(known),
            }
        }

        /// Tries without sleeping for good: the holder may not be here to wake anybody.
        fn wait_in_child(&self, known: u32) -> Option<MutexGuard<'_, T>> {
            let start = Instant::now();
            loop {
                // Before the last try: who is stopped here for long must not give up at once.
                let late = start.elapsed() >= PATIENCE;
                if let Some(guard) = self.inner.try_lock() {
                    // It came back, so this process can be trusted with it from now on.
                    self.trust();
                    return Some(guard);
                }
                if late {
                    break;
                }
                std::thread::sleep(NAP);
            }
            let given_up =
                self.process
                    .compare_exchange(known, LOST, Ordering::Relaxed, Ordering::Relaxed);
            match given_up {
                // Another thread of this process has had it in the meantime.
                Err(now) if now != LOST => Some(self.inner.lock()),
                _ => None,
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::{AtomicU32, LOST, Lock, Ordering};

        /// As the number of a process, none that there can be.
        const ANOTHER: u32 = u32::MAX / 2;

        #[test]
        fn a_lock_that_another_process_took_along_is_given_up_once_and_not_waited_for_again() {
            let mut lock = Lock::new(7);
            let held = lock.lock();
            core::mem::forget(held);
            // As in a child: the holder's process is not ours.
            lock.process = AtomicU32::new(ANOTHER);
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
            core::mem::forget(held);
            assert_eq!(lock.lost(), Some(&mut 7));
        }

        #[test]
        fn a_lock_that_comes_back_in_a_child_is_trusted_there() {
            let lock = Lock::new(7);
            lock.process.store(ANOTHER, Ordering::Relaxed);
            std::thread::scope(|scope| {
                let held = lock.lock();
                let waiting = scope.spawn(|| lock.lock().map(|value| *value));
                std::thread::sleep(core::time::Duration::from_millis(20));
                drop(held);
                assert_eq!(waiting.join().expect("no panic"), Some(7));
            });
            assert_eq!(lock.process.load(Ordering::Relaxed), std::process::id());
        }

        /// Bug prevented: the first who waits for a `static` one gives it up after a second, in
        /// the process that has never been forked.
        #[test]
        fn one_that_could_not_ask_for_its_process_is_waited_for_from_the_first_time_on() {
            let lock = Lock::in_static(7);
            std::thread::scope(|scope| {
                let held = lock.lock();
                assert_eq!(lock.process.load(Ordering::Relaxed), std::process::id());
                let waiting = scope.spawn(|| lock.lock().map(|value| *value));
                std::thread::sleep(super::PATIENCE + super::PATIENCE / 2);
                drop(held);
                assert_eq!(waiting.join().expect("no panic"), Some(7));
            });
        }

        /// Bug prevented: a holder that was stopped for a second in a child makes
        /// every later call that meets another fail, though the lock has come back.
        #[test]
        fn a_lock_that_comes_back_after_it_was_given_up_is_trusted_again() {
            let lock = Lock::new(7);
            lock.process.store(ANOTHER, Ordering::Relaxed);
            let held = lock.lock();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| lock.lock().is_none());
                assert!(waiting.join().expect("no panic"), "it was held");
            });
            assert_eq!(lock.process.load(Ordering::Relaxed), LOST);
            drop(held);
            assert!(lock.lock().is_some(), "it is free");
            assert_eq!(lock.process.load(Ordering::Relaxed), std::process::id());
        }

        /// Waits until a thread of this process sleeps in the kernel.
        #[cfg(target_os = "linux")]
        fn wait_for_sleep(thread: i32) {
            let path = format!("/proc/self/task/{thread}/stat");
            loop {
                let stat = std::fs::read_to_string(&path).expect("it is there");
                // The state follows the name, which ends with the last parenthesis.
                if stat
                    .rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.starts_with(" S"))
                {
                    return;
                }
                std::thread::yield_now();
            }
        }

        /// Bug prevented: giving the lock back in a child goes through a table of
        /// those who wait, which hands it to a thread that the child does not have,
        /// or which such a thread has locked for ever.
        #[cfg(target_os = "linux")]
        #[expect(unsafe_code, reason = "calls fork and waits for the child")]
        #[test]
        fn a_lock_given_back_in_a_child_is_free_although_a_thread_of_the_parent_waits() {
            let lock = Lock::new(7);
            let thread = core::sync::atomic::AtomicI32::new(0);
            let mut status = -1;
            std::thread::scope(|scope| {
                let mut held = lock.lock();
                scope.spawn(|| {
                    // SAFETY: asks for a number.
                    thread.store(unsafe { libc::gettid() }, Ordering::Relaxed);
                    drop(lock.lock());
                });
                while thread.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
                wait_for_sleep(thread.load(Ordering::Relaxed));
                // SAFETY: the child uses the lock and ends.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: a child that hangs is ended by a signal, which is not 0 either.
                    unsafe { libc::alarm(60) };
                    drop(held.take());
                    let free = lock.lock().is_some();
                    // SAFETY: ends the child without the parent's exit handlers.
                    unsafe { libc::_exit(i32::from(!free)) }
                }
                // Before an assertion fails: a thread waits for it.
                drop(held);
                // SAFETY: our own child, and a place for its status.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
            });
            assert_eq!(status, 0, "the child did not get it");
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
