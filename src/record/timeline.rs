//! Bytes alive over time, in bounded memory however long it takes.
//!
//! ```text
//!   1,024 moments, a step apart:   |.|.|.|.|.|.|.|.| ... |
//!   full: every second is kept     |...|...|...|... ..          and the step doubles
//! ```

use crate::record::lock::Lock;
use crate::sync::{AtomicI64, AtomicU64, Ordering};

/// The most moments that are kept.
const MOMENTS: usize = 1_024;

/// A time in milliseconds since the start, and the bytes alive then.
pub(crate) type Moment = (u64, u64);

/// Which of the peaks: its bytes.
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
        if now_ms >= self.due_ms.load(Ordering::Relaxed) {
            self.keep(now_ms, live);
        }
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

    /// The moments, oldest first.
    pub(super) fn moments(&self) -> Vec<Moment> {
        let mut moments = Vec::with_capacity(MOMENTS + 1);
        let _guard = self.lock.acquire();
        let pairs = self.times.iter().zip(&self.bytes).take(self.len());
        moments
            .extend(pairs.map(|(time, bytes)| {
                (time.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
            }));
        moments
    }
}

/// The highest that the process's live bytes have been seen at.
#[derive(Debug)]
pub(super) struct Highest {
    /// Each peak is higher than all before it, so this also tells which one it is.
    live: AtomicI64,
    at_ms: AtomicU64,
}

impl Highest {
    pub(super) const fn new() -> Self {
        Self {
            live: AtomicI64::new(0),
            at_ms: AtomicU64::new(0),
        }
    }

    /// Begins again.
    pub(super) fn clear(&self) {
        self.live.store(0, Ordering::Relaxed);
        self.at_ms.store(0, Ordering::Relaxed);
    }

    /// Looks whether this is a peak.
    #[inline]
    pub(super) fn note(&self, now_ms: u64, live: i64) {
        if live > self.live.load(Ordering::Relaxed) {
            self.raise(now_ms, live);
        }
    }

    fn raise(&self, now_ms: u64, live: i64) {
        if self.live.fetch_max(live, Ordering::Relaxed) < live {
            self.at_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// The last peak, by which a share in it names it.
    #[inline]
    pub(super) fn peak(&self) -> Peak {
        self.live.load(Ordering::Relaxed)
    }

    /// When it was, and how high.
    pub(super) fn moment(&self) -> Moment {
        let live = self.live.load(Ordering::Relaxed);
        (
            self.at_ms.load(Ordering::Relaxed),
            u64::try_from(live).unwrap_or(0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{MOMENTS, Timeline};

    /// Bug prevented: a server that is up for weeks fills its memory with moments.
    #[test]
    fn a_month_of_moments_has_the_room_of_a_second_and_both_its_ends() {
        let timeline = Timeline::new();
        for minute in 0..30 * 24 * 60 {
            timeline.note(minute * 60_000, i64::try_from(minute).expect("small"));
        }
        let moments = timeline.moments();
        assert!(moments.len() <= MOMENTS && moments.len() > MOMENTS / 4);
        assert_eq!(moments.first(), Some(&(0, 0)));
        assert!(moments.last().expect("some").0 > 29 * 24 * 60 * 60_000);
        assert!(moments.is_sorted());
    }
}
