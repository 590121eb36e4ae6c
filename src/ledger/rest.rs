//! For how long nobody above the ledger wants to hear of a thread's events.
//!
//! ```text
//!   31 ... 12                    │ 11 ... 0
//!   until, in units of 4 KiB     │ the calls that were made when this was said
//! ```
//!
//! While a profile takes samples that are half a megabyte apart, a thread comes
//! by its cold path eight times for each, since it publishes its net bytes then.
//! Who has just been told, and knows how far away the next sample is, lets it pass
//! until shortly before.
//!
//! Whoever wants to be told of everything, or of something else, calls
//! [everyone](crate::ledger::everyone). That a thread rests is true for as long
//! only as nobody has called since: both are in one word, so that a call need not
//! take the word back from its owner. (Calls do that all the same. Else 4,096 of
//! them, while a thread allocates nothing, would bring its old word back to life.)
//!
//! Both are counted modulo a power of two, so an end that lies between two and four
//! gigabytes back looks like one to come. No step gets there from before the end, as
//! of a large block [everyone is told](crate::ledger::Slot::rests). One that was
//! passed by, and not moved on, is of a time when nobody was there to be told; and who
//! comes then has to call.
//!
//! An owner must set its mark, with the fence that belongs to that, before it looks
//! whether it rests, as [events](crate::ledger::Slot::allocate) do: by then it sees
//! the new number of calls, or the caller its mark.

use crate::sync::{AtomicU32, Ordering};

const CALLS_BITS: u32 = 12;
const CALLS: u32 = (1 << CALLS_BITS) - 1;
const UNIT_BITS: u32 = 12;

/// One thread's rest. Others may end it.
#[derive(Debug)]
pub(super) struct Rest(AtomicU32);

impl Rest {
    /// None.
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// None.
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[expect(clippy::cast_possible_truncation, reason = "modulo")]
    fn unit(bytes: u64) -> u32 {
        (bytes >> UNIT_BITS) as u32
    }

    /// From now on it lasts until so many bytes are allocated in all, or somebody
    /// calls, of whom there were `calls` when it was seen that nothing is wanted.
    pub(super) fn begin(&self, until: u64, calls: u32) {
        let word = Self::unit(until) << CALLS_BITS | calls & CALLS;
        self.0.store(word, Ordering::Relaxed);
    }

    /// Ends it. Any thread.
    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether it lasts, with so many bytes allocated and so many calls.
    #[inline]
    pub(super) fn lasts(&self, allocated: u64, calls: u32) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        let units = (word >> CALLS_BITS).wrapping_sub(Self::unit(allocated));
        word != 0 && word & CALLS == calls & CALLS && (units << CALLS_BITS).cast_signed() > 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Rest;

    #[test]
    fn it_lasts_until_its_end_or_the_next_call() {
        let rest = Rest::new();
        assert!(!rest.lasts(0, 0));
        // Also where the bytes, or the calls, go round.
        for (begin, calls) in [(0, 0), (5_000, 7), (u64::MAX - 100_000, u32::MAX)] {
            for length in [1_u64, 4_096, 65_536, 262_144] {
                let end = u64::wrapping_add(begin, length);
                rest.begin(end, calls);
                assert!(!rest.lasts(end, calls), "{begin} {length}");
                assert!(!rest.lasts(end.wrapping_add(1 << 30), calls));
                assert_eq!(rest.lasts(begin, calls), begin >> 12 != end >> 12);
                assert!(!rest.lasts(begin, calls.wrapping_add(1)));
                rest.end();
                assert!(!rest.lasts(begin, calls));
            }
        }
    }
}
