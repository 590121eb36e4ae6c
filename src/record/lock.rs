//! A lock of one word that may be used inside the allocator.
//!
//! ```text
//!   0                                                      free
//!   condemned: 1 │ epoch of the process: 31 │ thread: 32   held
//! ```
//!
//! It never parks (parking may allocate) and never waits without end. Who finds
//! it held looks at who holds it:
//! - *this very thread*: we are in a signal handler that interrupted the holder,
//!   which cannot go on before we return. No lock; the caller counts a loss. So
//!   it is in a child that the handler has forked: there, too, the holder goes on.
//! - *another thread, of another epoch*: the process was forked while it held the
//!   lock, and it does not exist here. The lock is taken over, and the caller is
//!   told so ([`Guard::is_inherited`]), because it may find work half done.
//! - *another thread*: it is at work for some hundred nanoseconds, or waits for
//!   a core, which on a busy machine takes long. We spin, yield, then sleep, and
//!   after a second or more give up and *condemn* the holder, so that those who
//!   come after do not wait a second each. When it lets go, all is well again.
//!   That is for a holder that cannot go on: a bare `clone` made this process
//!   behind the back of [`super::fork`], or a real-time thread keeps it from
//!   ever having a core.
//!
//! Who may hold a lock for long, in a normal context, is waited for patiently: for
//! ten seconds or more. Where many wait so, each looks more and more rarely, or their
//! looks would take the time that the holder needs.
//!
//! Why not take every lock before a fork (`pthread_atfork` with `prepare`)? A
//! fork would have to wait for all of them, could not happen in a signal
//! handler, and a bare `clone` would still get past.

use core::marker::PhantomData;

#[cfg(not(loom))]
use crate::record::clock::nap_for;
use crate::record::fork;
#[cfg(loom)]
use crate::sync::nap;
use crate::sync::{AtomicU64, Ordering, spin_loop, yield_now};

/// Looks at a held lock before the thread gives up its core, and after it is condemned.
#[cfg(not(loom))]
const SPINS: u32 = 200;
/// Then so many times for as long as others want it.
#[cfg(not(loom))]
const YIELDS: u32 = 100;
#[cfg(loom)]
const SPINS: u32 = 0;
#[cfg(loom)]
const YIELDS: u32 = 2;

/// How a thread sleeps that still waits then: the sleeps, in units of 100 µs.
struct Sleeps {
    /// The sum of those that are left.
    left: u32,
    /// Each is twice as long as the one before it, up to the longest.
    next: u32,
    longest: u32,
}

impl Sleeps {
    const fn new(left: u32, longest: u32) -> Self {
        let next = 1;
        Self {
            left,
            next,
            longest,
        }
    }
}

impl Iterator for Sleeps {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let now = self.next;
        self.left = self.left.checked_sub(now)?;
        self.next = self.longest.min(now * 2);
        Some(now)
    }
}

/// Inside the allocator.
#[cfg(not(loom))]
const SHORT: Sleeps = Sleeps::new(10_000, 1);
#[cfg(loom)]
const SHORT: Sleeps = Sleeps::new(0, 1);
/// In a normal context.
#[cfg(not(loom))]
const PATIENT: Sleeps = Sleeps::new(100_000, 1);
/// The same where many may wait, and some of them are to come first.
#[cfg(not(loom))]
const LEISURELY: Sleeps = Sleeps::new(100_000, 64);

/// In a model no time passes.
#[cfg(loom)]
fn nap_for(_: u32) {
    nap();
}

const CONDEMNED: u64 = 1 << 63;

/// One word that at most one thread holds.
#[derive(Debug)]
pub(crate) struct Lock(AtomicU64);

/// That the calling thread holds a lock, to be handed on: it takes no place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held<'a>(PhantomData<&'a ()>);

impl<'a> Held<'a> {
    /// For as long as there is this guard.
    #[inline]
    pub(crate) fn by(_guard: &'a Guard<'_>) -> Self {
        Self(PhantomData)
    }
}

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    lock: &'a Lock,
    inherited: bool,
}

impl Lock {
    /// A free lock.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A free lock.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The lock, or `None` when it cannot be had.
    #[inline]
    pub(crate) fn acquire(&self) -> Option<Guard<'_>> {
        self.acquire_by(fork::me())
    }

    /// The same for a caller that knows its [word](fork::me) already.
    #[inline]
    pub(crate) fn acquire_by(&self, me: u64) -> Option<Guard<'_>> {
        if self.take(0, me) {
            Some(self.guard(false))
        } else {
            self.wait(me, SHORT)
        }
    }

    /// The lock if it is free; who gets it so has not inherited it.
    #[inline]
    pub(crate) fn try_acquire(&self) -> Option<Guard<'_>> {
        self.take(0, fork::me()).then(|| self.guard(false))
    }

    /// The same for a caller that knows its [word](fork::me) already.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn try_acquire_by(&self, me: u64) -> Option<Guard<'_>> {
        self.take(0, me).then(|| self.guard(false))
    }

    /// The same for a lock that is held for long, in a normal context.
    #[cfg(not(loom))]
    pub(crate) fn acquire_patiently(&self) -> Option<Guard<'_>> {
        self.acquire_patiently_by(fork::me())
    }

    /// The same for a caller that knows its [word](fork::me) already.
    #[cfg(not(loom))]
    pub(crate) fn acquire_patiently_by(&self, me: u64) -> Option<Guard<'_>> {
        if self.take(0, me) {
            Some(self.guard(false))
        } else {
            self.wait(me, PATIENT)
        }
    }

    /// The same where many may want it: each sleeps the longer the longer it has waited.
    #[cfg(not(loom))]
    pub(crate) fn acquire_leisurely(&self) -> Option<Guard<'_>> {
        let me = fork::me();
        if self.take(0, me) {
            Some(self.guard(false))
        } else {
            self.wait(me, LEISURELY)
        }
    }

    /// Whether somebody holds it, or did when it was looked at.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn is_taken(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Whether the thread with this [word](fork::me) holds it.
    #[cfg(not(loom))]
    #[cold]
    pub(crate) fn is_taken_by(&self, me: u64) -> bool {
        let holder = self.0.load(Ordering::Relaxed) & !CONDEMNED;
        fork::same_thread(holder, me)
    }

    #[inline]
    fn take(&self, seen: u64, me: u64) -> bool {
        // Acquire: what the last holder wrote.
        self.0
            .compare_exchange(seen, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Frees it for a holder whose guard was forgotten.
    #[cfg(not(loom))]
    pub(crate) fn release(&self) {
        // Release: what the holder wrote.
        self.0.store(0, Ordering::Release);
    }

    #[inline]
    fn guard(&self, inherited: bool) -> Guard<'_> {
        Guard {
            lock: self,
            inherited,
        }
    }

    #[cold]
    #[inline(never)]
    fn wait(&self, me: u64, mut sleeps: Sleeps) -> Option<Guard<'_>> {
        let mut turn = 0;
        loop {
            let seen = self.0.load(Ordering::Relaxed);
            let holder = seen & !CONDEMNED;
            if seen == 0 {
                if self.take(0, me) {
                    return Some(self.guard(false));
                }
            } else if fork::same_thread(holder, me) {
                return None;
            } else if !fork::same_epoch(holder, me) {
                if self.take(seen, me) {
                    return Some(self.guard(true));
                }
            } else if seen != holder && turn > SPINS {
                return None;
            }
            if turn < SPINS {
                spin_loop();
            } else if turn < SPINS + YIELDS {
                yield_now();
            } else if let Some(time) = sleeps.next() {
                nap_for(time);
            } else {
                break;
            }
            // No further: sleeps may be without number.
            turn = (SPINS + YIELDS).min(turn + 1);
        }
        self.condemn();
        None
    }

    /// Tells those who come after that the holder has had its time.
    fn condemn(&self) {
        let seen = self.0.load(Ordering::Relaxed);
        if seen != 0 {
            // When it fails, somebody has moved, and that is better news.
            let _ = self.take(seen, seen | CONDEMNED);
        }
    }

    /// Leaves the lock as a thread would that is gone after a fork.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn abandon(&self) {
        self.0.store(fork::me() ^ (1 << 40) ^ 1, Ordering::Relaxed);
    }

    /// Leaves the lock as the calling thread has it in a child that it has forked
    /// while it held it.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn keep_across_a_fork(&self) {
        self.0.store(fork::me() ^ (1 << 40), Ordering::Relaxed);
    }
}

impl Guard<'_> {
    /// Whether the last holder vanished in a fork and left its work half done.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: what we wrote.
        self.lock.0.store(0, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Lock;
    use core::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn one_thread_at_a_time_is_inside() {
        let lock = Lock::new();
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(_guard) = lock.acquire() {
                            let before = inside.load(Ordering::Relaxed);
                            inside.store(before + 1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(inside.load(Ordering::Relaxed), 80_000);
    }

    /// Bug prevented: a signal handler that allocates while its own thread is
    /// inside waits for ever.
    #[test]
    fn the_thread_that_holds_it_is_refused_and_not_hung() {
        let lock = Lock::new();
        let guard = lock.acquire().expect("free");
        assert!(lock.acquire().is_none());
        drop(guard);
        assert!(lock.acquire().is_some());
    }

    /// Bug prevented: a lock that another thread held at `fork` stays held in
    /// the child for ever.
    #[test]
    fn a_lock_of_another_epoch_is_taken_over() {
        let lock = Lock::new();
        lock.abandon();
        let guard = lock.acquire().expect("taken over");
        assert!(guard.is_inherited());
        drop(guard);
        assert!(!lock.acquire().expect("free").is_inherited());
    }

    /// Bug prevented: a signal handler forks, in the child it takes over the lock of
    /// the thread that it has interrupted, and both are inside.
    #[test]
    fn a_lock_that_its_own_thread_has_held_since_before_a_fork_is_refused() {
        let lock = Lock::new();
        lock.keep_across_a_fork();
        assert!(lock.acquire().is_none() && lock.acquire_patiently().is_none());
        // The handler has returned, and the thread goes on.
        lock.release();
        assert!(!lock.acquire().expect("free").is_inherited());
    }

    #[test]
    fn a_holder_that_never_lets_go_costs_the_operation_and_not_the_thread() {
        let lock = Lock::new();
        let guard = lock.acquire().expect("free");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| lock.acquire().is_none());
            assert!(other.join().expect("came back"));
            // Condemned: 1,000 waits of a second would be noticed.
            let others = scope.spawn(|| (0..1_000).all(|_| lock.acquire().is_none()));
            assert!(others.join().expect("came back"));
        });
        drop(guard);
        assert!(lock.acquire().is_some());
    }

    /// Bug prevented: sleeps that grow make a thread give up sooner or later than others do.
    #[test]
    fn who_looks_rarely_waits_as_long_as_others() {
        let (often, rarely) = (|| super::PATIENT, || super::LEISURELY);
        assert_eq!(rarely().take(9).sum::<u32>(), 127 + 64 + 64);
        assert!((often().sum::<u32>() - rarely().sum::<u32>()) < 64);
        assert!(rarely().count() < often().count() / 50);
        let mut short = super::SHORT;
        assert!(short.all(|sleep| sleep == 1));
    }

    /// Bug prevented: on a busy machine the holder waits for a core, and those
    /// who wait for it lose what they wanted to record.
    #[test]
    fn a_holder_that_is_held_up_for_long_is_waited_for() {
        let lock = Lock::new();
        std::thread::scope(|scope| {
            let guard = lock.acquire().expect("free");
            let other = scope.spawn(|| lock.acquire().is_some());
            std::thread::sleep(core::time::Duration::from_millis(200));
            drop(guard);
            assert!(other.join().expect("came back"));
        });
    }
}
