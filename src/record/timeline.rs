//! Bytes alive over time, in bounded memory however long it takes.
//!
//! ```text
//!   1,024 moments, a step apart:   |.|.|.|.|.|.|.|.| ... |
//!   full: every second is kept     |...|...|...|... ..          and the step doubles
//! ```

use crate::record::lock::Lock;
use crate::sync::{AtomicI64, AtomicU64, Ordering, after_a_locked_instruction, fence};

/// The most moments that are kept.
const MOMENTS: usize = 1_024;

/// A time in milliseconds since the profile's beginning, and the bytes alive then.
///
/// Kept as of the recorder's clock: what is since the beginning is for who reads to say, as a
/// thread may come with a moment while a profile begins.
pub(crate) type Moment = (u64, u64);

/// Which of the peaks.
pub(super) type Peak = i64;

/// The moments so far.
#[derive(Debug)]
pub(super) struct Timeline {
    /// From when on the next moment is wanted.
    due_ms: AtomicU64,
    step_ms: AtomicU64,
    len: AtomicU64,
    times: [AtomicU64; MOMENTS],
    bytes: [AtomicU64; MOMENTS],
    lock: Lock,
}

impl Timeline {
    pub(super) const fn new() -> Self {
        Self {
            due_ms: AtomicU64::new(0),
            step_ms: AtomicU64::new(1),
            len: AtomicU64::new(0),
            times: [const { AtomicU64::new(0) }; MOMENTS],
            bytes: [const { AtomicU64::new(0) }; MOMENTS],
            lock: Lock::new(),
        }
    }

    /// Forgets all moments.
    pub(super) fn clear(&self) {
        let _guard = self.lock.acquire();
        self.len.store(0, Ordering::Relaxed);
        self.step_ms.store(1, Ordering::Relaxed);
        self.due_ms.store(0, Ordering::Relaxed);
    }

    /// Keeps this moment, if one is wanted.
    #[inline]
    pub(super) fn note(&self, now_ms: u64, live: i64) {
        if self.is_due(now_ms) {
            self.keep(now_ms, live);
        }
    }

    /// Whether a moment is wanted.
    #[inline]
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.due_ms.load(Ordering::Relaxed)
    }

    #[cold]
    fn keep(&self, now_ms: u64, live: i64) {
        // Who cannot have the lock was not the first, so the moment is kept already.
        let Some(_guard) = self.lock.acquire() else {
            return;
        };
        if now_ms < self.due_ms.load(Ordering::Relaxed) {
            return;
        }
        let mut len = self.len();
        if len >= MOMENTS {
            self.halve();
            len = self.len();
        }
        if let (Some(time), Some(bytes)) = (self.times.get(len), self.bytes.get(len)) {
            time.store(now_ms, Ordering::Relaxed);
            bytes.store(u64::try_from(live).unwrap_or(0), Ordering::Relaxed);
            self.len.store(len as u64 + 1, Ordering::Relaxed);
        }
        let due = now_ms.saturating_add(self.step_ms.load(Ordering::Relaxed));
        self.due_ms.store(due, Ordering::Relaxed);
    }

    fn halve(&self) {
        for series in [&self.times, &self.bytes] {
            for index in 0..MOMENTS / 2 {
                if let (Some(to), Some(from)) = (series.get(index), series.get(index * 2)) {
                    to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        }
        self.len.store(MOMENTS as u64 / 2, Ordering::Relaxed);
        let step = self.step_ms.load(Ordering::Relaxed);
        self.step_ms
            .store(step.saturating_mul(2), Ordering::Relaxed);
    }

    fn len(&self) -> usize {
        usize::try_from(self.len.load(Ordering::Relaxed)).unwrap_or(MOMENTS)
    }

    /// The moments, oldest first. None is before the beginning: of a thread that came late with
    /// one, it is at 0.
    pub(super) fn moments(&self, began_ms: u64) -> Vec<Moment> {
        let mut moments = Vec::with_capacity(MOMENTS + 1);
        let _guard = self.lock.acquire();
        let pairs = self.times.iter().zip(&self.bytes).take(self.len());
        moments.extend(pairs.map(|(time, bytes)| {
            let since = time.load(Ordering::Relaxed).saturating_sub(began_ms);
            (since, bytes.load(Ordering::Relaxed))
        }));
        moments
    }
}

/// The highest that the process's live bytes have been seen at.
///
/// One that is as high as the last is a peak, too: what a steady program has at its peak is
/// what it had there last, or, when it comes back to that more than 65,535 times, what it had
/// then.
///
/// ```text
///   who looks for a peak         who has freed something
///     takes the lock               live bytes fewer
///     live bytes                   waits for the lock's holder
///     the peak's name              the stack's figures fewer, as of the last peak's name
///     lets it go
/// ```
///
/// So each block that is in a peak is in a stack's share of it, however long the one who looks
/// is held up after it has read how much is alive.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Highest {
    /// `bytes << 16 | how many as high came after the first`.
    last: AtomicI64,
    at_ms: AtomicU64,
    /// For whoever gives the next name.
    naming: Lock,
}

/// Beyond this many there are no more as high as the first: a name must not come again.
const TIES: i64 = (1 << TIE_BITS) - 1;
const TIE_BITS: u32 = 16;

impl Highest {
    pub(super) const fn new() -> Self {
        Self {
            last: AtomicI64::new(0),
            at_ms: AtomicU64::new(0),
            naming: Lock::new(),
        }
    }

    /// Begins again.
    pub(super) fn clear(&self) {
        let _naming = self.naming.acquire();
        self.last.store(0, Ordering::Relaxed);
        self.at_ms.store(0, Ordering::Relaxed);
    }

    /// Looks whether this is a peak: so much is `live`, and will be asked for again if it may
    /// be one. (Not if a signal handler has interrupted this very thing.)
    #[inline]
    pub(super) fn note(&self, now_ms: u64, live: i64, again: impl Fn() -> i64) {
        let last = self.last.load(Ordering::Relaxed);
        if live >= last >> TIE_BITS {
            self.raise(now_ms, again);
        }
    }

    #[inline(never)]
    fn raise(&self, now_ms: u64, live: impl Fn() -> i64) {
        let Some(_naming) = self.naming.acquire() else {
            return;
        };
        after_a_locked_instruction();
        let (live, last) = (live(), self.last.load(Ordering::Relaxed));
        let live = live.min(i64::MAX >> TIE_BITS);
        let next = match live.cmp(&(last >> TIE_BITS)) {
            core::cmp::Ordering::Greater => live << TIE_BITS,
            core::cmp::Ordering::Equal if last & TIES < TIES => last + 1,
            _ => return,
        };
        self.last.store(next, Ordering::Relaxed);
        self.at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The last peak, by which a share in it names it.
    #[inline]
    pub(super) fn peak(&self) -> Peak {
        self.last.load(Ordering::Relaxed)
    }

    /// The same for who is about to take from the figures what is gone already: the last
    /// peak that has it. Behind the lock of these figures.
    #[inline]
    pub(super) fn peak_before(&self) -> Peak {
        after_a_locked_instruction();
        if self.naming.is_taken() {
            self.wait_for_the_name();
        }
        // Whoever sees that it was let go of sees the name.
        fence(Ordering::Acquire);
        self.peak()
    }

    #[cold]
    #[inline(never)]
    fn wait_for_the_name(&self) {
        // None of ours, and nobody's that takes too long.
        drop(self.naming.acquire());
    }

    /// Looks whether this is a peak, while so much stays alive.
    #[cfg(test)]
    pub(super) fn see(&self, now_ms: u64, live: i64) {
        self.note(now_ms, live, || live);
    }

    /// When it was, and how high.
    pub(super) fn moment(&self, began_ms: u64) -> Moment {
        let live = self.peak() >> TIE_BITS;
        let since = self.at_ms.load(Ordering::Relaxed).saturating_sub(began_ms);
        (since, u64::try_from(live).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::sync::Barrier;
    use std::thread;

    use super::{Highest, MOMENTS, TIE_BITS, TIES, Timeline};

    /// Bug prevented: who has read how much is alive names the peak when a block of it is in no
    /// stack's figures any more.
    #[test]
    fn who_takes_something_away_waits_for_a_peak_that_has_it() {
        let (highest, barrier) = (Highest::new(), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                highest.note(1, 100, || {
                    barrier.wait();
                    thread::sleep(Duration::from_millis(20));
                    100
                });
            });
            barrier.wait();
            assert_eq!(highest.peak_before() >> TIE_BITS, 100);
        });
    }

    /// Bug prevented: a handler that frees something waits for what it has interrupted.
    #[test]
    fn who_is_interrupted_there_is_not_waited_for() {
        let highest = Highest::new();
        highest.see(1, 5);
        highest.note(2, 10, || {
            assert_eq!(highest.peak_before() >> TIE_BITS, 5);
            highest.see(3, 11);
            10
        });
        assert_eq!(highest.moment(0), (2, 10));
    }

    /// Bug prevented: one that is as high as the last is none, or after many of those an old
    /// one's name comes again.
    #[test]
    fn a_peak_is_never_lower_and_its_name_never_comes_again() {
        let highest = Highest::new();
        let mut names = vec![highest.peak()];
        for (now, live, is_one) in [
            (1, 100, true),
            (2, 99, false),
            (3, 100, true),
            (4, 100, true),
            (5, 70, false),
            (6, 101, true),
            (7, 100, false),
            (8, 101, true),
            (9, 1 << 46, true),
        ] {
            let (before, moment) = (highest.peak(), highest.moment(0));
            highest.see(now, live);
            if is_one {
                assert_eq!(highest.moment(0), (now, live.cast_unsigned()));
                assert!(!names.contains(&highest.peak()));
                names.push(highest.peak());
            } else {
                assert_eq!((highest.peak(), highest.moment(0)), (before, moment));
            }
        }
        (0..=TIES).for_each(|_| highest.see(10, 1 << 46));
        let last = highest.peak();
        highest.see(11, 1 << 46);
        assert_eq!((highest.peak(), highest.moment(0)), (last, (10, 1 << 46)));
        highest.see(12, (1 << 46) + 1);
        assert!(highest.peak() > last && highest.moment(0) == (12, (1 << 46) + 1));
    }

    /// Bug prevented: a server that is up for weeks fills its memory with moments.
    #[test]
    fn a_month_of_moments_has_the_room_of_a_second_and_both_its_ends() {
        let timeline = Timeline::new();
        for minute in 0..30 * 24 * 60 {
            timeline.note(minute * 60_000, i64::try_from(minute).expect("small"));
        }
        let moments = timeline.moments(0);
        assert!(moments.len() <= MOMENTS && moments.len() > MOMENTS / 4);
        assert_eq!(moments.first(), Some(&(0, 0)));
        assert!(moments.last().expect("some").0 > 29 * 24 * 60 * 60_000);
        assert!(moments.is_sorted());
    }

    /// Bug prevented: a thread that comes late with a moment of the last profile puts off the
    /// next one's until it is as old, or is told as far ahead of its end.
    #[test]
    fn who_is_late_for_the_last_profile_does_not_disturb_the_next_one() {
        let (timeline, highest) = (Timeline::new(), Highest::new());
        timeline.note(50_000, 1);
        timeline.clear();
        highest.clear();
        for (now, live) in [(99_990, 5), (100_000, 6), (100_001, 7), (100_003, 8)] {
            timeline.note(now, live);
            highest.see(now, live);
        }
        let expected = [(0, 5), (0, 6), (1, 7), (3, 8)];
        assert_eq!(timeline.moments(100_000), expected);
        assert_eq!(highest.moment(100_000), (3, 8));
        assert_eq!(highest.moment(200_000), (0, 8));
    }
}
