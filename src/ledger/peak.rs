//! The most that was ever alive at once, without a shared counter on the path.
//!
//! Every thread knows its own net bytes (allocated less freed). It *publishes*
//! them into one global figure only when they have drifted by a batch, so the
//! global figure lags behind each thread by at most [`BATCH`] upwards, and a
//! [`WINDOW`] more downwards (another one where scopes are opened):
//!
//! ```text
//!   thread's net bytes
//!        │            ╭─╮ high            the highest since the last publication
//!        │       ╭────╯ ╰──╮
//!        │   ╭───╯         ╰── net        now
//!        ├───╯ published                  what the global figure includes of it
//!        └──────────────────────── time
//! ```
//!
//! On publishing, `live + (high - published)` is a candidate for the peak. With
//! one thread, `live` is the thread's own `published`, so the candidate is its
//! `high`: exact. With several, what the *others* have not published is missing
//! from `live`, and `high` may lie somewhat back in time: each thread accounts
//! for an error of at most [`HELD_BACK`] bytes, either way. A block that is recorded is
//! published when it has its record; until then it is as good as not there.

use crate::sync::{AtomicI64, Ordering};

/// A thread publishes after it has allocated this many bytes.
pub(crate) const BATCH: u64 = 64 * 1024;

/// A thread publishes when what it has allocated since it last did so for that reason,
/// and how far its net has fallen below its high, are together more than a batch and
/// this many bytes; so after a fall of this many at the earliest.
pub(crate) const WINDOW: u64 = 32 * 1024 - 1;

/// The most by which one thread makes the peak wrong. Too low: a batch, by which it may
/// have risen unpublished. Too high: a batch and a window, by which it may have fallen,
/// and one more window when it has opened a scope since.
pub(crate) const HELD_BACK: u64 = BATCH + 2 * WINDOW;

/// Tries of a reset against threads that raise the peak meanwhile.
const TRIES: u32 = 64;

/// The global figures behind the peak, away from everything else: several
/// threads write them.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Peak {
    /// The sum of what all threads have published.
    live: AtomicI64,
    /// The highest candidate since the last reset.
    high: AtomicI64,
}

impl Peak {
    /// Nothing alive, nothing ever.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            live: AtomicI64::new(0),
            high: AtomicI64::new(0),
        }
    }

    /// Nothing alive, nothing ever.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            live: AtomicI64::new(0),
            high: AtomicI64::new(0),
        }
    }

    /// Adds `net` to the live figure; `high` is the highest that the publisher's
    /// net has been since it last published, relative to that publication.
    pub(crate) fn publish(&self, net: i64, high: i64) {
        let before = self.live.fetch_add(net, Ordering::Relaxed);
        self.raise(before.wrapping_add(high));
    }

    /// What all threads have published.
    #[cfg(all(not(loom), feature = "profile"))]
    pub(crate) fn live(&self) -> i64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Raises the peak to `candidate` if it is higher; gives the peak.
    pub(crate) fn raise(&self, candidate: i64) -> i64 {
        // Usually it is not higher: a load alone keeps the line shared.
        let now = self.high.load(Ordering::Relaxed);
        if candidate <= now {
            return now;
        }
        now.max(self.high.fetch_max(candidate, Ordering::Relaxed))
            .max(candidate)
    }

    /// Forgets the peak: from now on it is at least what `live` reads.
    ///
    /// Without a lock: in a child of `fork` a thread that is not there any more
    /// would hold it for ever. If the peak was raised, or reset by another
    /// caller, while we were reading, that may have been after our reading, so
    /// we read again.
    pub(crate) fn reset(&self, live: impl Fn() -> i64) {
        let mut high = self.high.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let set =
                self.high
                    .compare_exchange(high, live(), Ordering::Relaxed, Ordering::Relaxed);
            match set {
                Ok(_) => return,
                Err(now) => high = now,
            }
        }
        // Others raise it faster than we can read: it is a new peak already.
    }
}
