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
//!
//! A reset begins another *era*. What was read or marked before it is of the last one, and
//! must not come back, however late: so a candidate names its era, and is heeded in no other.
//! Who publishes then offers what is alive now.

use crate::sync::{AtomicI64, AtomicU32, Ordering, after_a_locked_instruction};

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

/// The low bits of the peak's word: the era.
const ERA_BITS: u32 = 15;
const ERAS: i64 = (1 << ERA_BITS) - 1;
/// The highest peak: more than there are addresses.
const MOST: i64 = i64::MAX >> ERA_BITS;

/// Between which two resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Era(u16);

impl Era {
    fn of(word: i64) -> Self {
        #[expect(clippy::cast_sign_loss, reason = "a few bits")]
        let era = (word & ERAS) as u16;
        Self(era)
    }

    /// Its number, to be kept.
    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// The one with this number.
    pub(crate) fn numbered(number: u16) -> Self {
        Self(number)
    }

    /// The word of a peak in it.
    fn with(self, peak: i64) -> i64 {
        peak.clamp(0, MOST) << ERA_BITS | i64::from(self.0)
    }

    fn next(self) -> Self {
        Self::of(i64::from(self.0) + 1)
    }
}

/// The global figures behind the peak, away from everything else: several
/// threads write them.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Peak {
    /// The sum of what all threads have published.
    live: AtomicI64,
    /// The highest candidate since the last reset, and the era.
    high: AtomicI64,
    /// The number of the last era whose beginner did not know all that was held back, plus one.
    blurred: AtomicU32,
}

impl Peak {
    /// Nothing alive, nothing ever.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            live: AtomicI64::new(0),
            high: AtomicI64::new(0),
            blurred: AtomicU32::new(0),
        }
    }

    /// Nothing alive, nothing ever.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            live: AtomicI64::new(0),
            high: AtomicI64::new(0),
            blurred: AtomicU32::new(0),
        }
    }

    /// What is read from now on is of this era, or a later one.
    pub(crate) fn era(&self) -> Era {
        // Acquire: nothing of what comes is read before; and whoever sees an era sees what its
        // beginner had freed.
        Era::of(self.high.load(Ordering::Acquire))
    }

    /// Adds `net` to the live figure; `high` is the highest that the publisher's
    /// net has been since it last published, in the era `since`, relative to that
    /// publication. Gives the era of this one.
    pub(crate) fn publish(&self, since: Era, net: i64, high: i64) -> Era {
        let mut era = self.era();
        let before = self.live.fetch_add(net, Ordering::Relaxed);
        after_a_locked_instruction();
        // What stands further above was freed or published before the reset.
        let least = net.saturating_add(HELD_BACK.cast_signed());
        let high = if era == since { high } else { high.min(least) };
        let mut candidate = before.wrapping_add(high);
        for _ in 0..TRIES {
            if self.raise(era, candidate).is_some() {
                break;
            }
            // Whoever has reset it may have read too early for this, and it is alive.
            era = self.era();
            candidate = self.live.load(Ordering::Relaxed);
        }
        era
    }

    /// What all threads have published.
    #[cfg(all(not(loom), feature = "profile"))]
    pub(crate) fn live(&self) -> i64 {
        self.live.load(Ordering::Relaxed)
    }

    /// The peak.
    pub(crate) fn high(&self) -> i64 {
        self.high.load(Ordering::Relaxed) >> ERA_BITS
    }

    /// Raises the peak to `candidate` if it is higher; gives the peak. `None`, and
    /// nothing is changed, when the `era` is over.
    pub(crate) fn raise(&self, era: Era, candidate: i64) -> Option<i64> {
        // Usually it is not higher: a load alone keeps the line shared.
        let mut now = self.high.load(Ordering::Relaxed);
        loop {
            if Era::of(now) != era {
                return None;
            }
            let high = now >> ERA_BITS;
            let raised = era.with(candidate);
            if raised <= now {
                return Some(high);
            }
            // Release: who resets it next sees what it was of.
            match self
                .high
                .compare_exchange_weak(now, raised, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return Some(raised >> ERA_BITS),
                Err(other) => now = other,
            }
        }
    }

    /// Says of an era that is about to begin whether threads other than the beginner may
    /// have marks of before it.
    pub(crate) fn note_blur(&self, era: Era, is_blurred: bool) {
        let name = u32::from(era.0) + 1;
        if is_blurred {
            self.blurred.store(name, Ordering::Relaxed);
        } else if self.is_blurred(era) {
            // The numbers have begun again.
            self.blurred.store(0, Ordering::Relaxed);
        }
    }

    /// What was said of the era.
    pub(crate) fn is_blurred(&self, era: Era) -> bool {
        self.blurred.load(Ordering::Relaxed) == u32::from(era.0) + 1
    }

    /// Forgets the peak: from now on it is at least what `live` reads. Gives the
    /// era that begins.
    ///
    /// Without a lock: in a child of `fork` a thread that is not there any more
    /// would hold it for ever. If the peak was raised, or reset by another
    /// caller, while we were reading, that may have been after our reading, so
    /// we read again.
    pub(crate) fn reset(&self, live: impl Fn(Era) -> i64) -> Era {
        // Acquire: what has raised it is read, if it is still there.
        let mut high = self.high.load(Ordering::Acquire);
        for _ in 0..TRIES {
            let era = Era::of(high).next();
            // Release: whoever sees the era sees what was freed before.
            let set = self.high.compare_exchange(
                high,
                era.with(live(era)),
                Ordering::Release,
                Ordering::Acquire,
            );
            match set {
                Ok(_) => {
                    // What came while it was read and was no peak of the last era may be one of this.
                    after_a_locked_instruction();
                    self.raise(era, live(era));
                    return era;
                }
                Err(now) => high = now,
            }
        }
        // Others raise it faster than we can read: it is a new peak already.
        Era::of(high)
    }
}
