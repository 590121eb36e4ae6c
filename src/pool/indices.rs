//! Small numbers for the threads that are alive, each with one owner.
//!
//! A pool's lines are numbered, and the thread that owns a number owns that line
//! of every pool. A bit says who: set while the number is owned. A claim is a
//! fetch-or with `Acquire`, giving back a fetch-and with `Release`: whatever the
//! last owner did to its lines happens before anything the next one does, also
//! when other bits of the word changed in between, because read-modify-writes
//! continue a release sequence.
//!
//! There is no lock, so a fork can leave none behind: in the child the numbers
//! of the other threads stay owned for ever, and what their lines hold is idle
//! until the pool is dropped.

use crate::sync::{AtomicU64, Ordering};

/// Words of 64 bits.
#[cfg(not(loom))]
const WORDS: usize = 1024;
/// Few, so that the models stay small.
#[cfg(loom)]
const WORDS: usize = 1;

/// How many threads can have a number at once. The others do without a line:
/// they use the depot, which is slower and no less right.
#[cfg(not(loom))]
pub(crate) const INDICES: usize = WORDS * 64;

/// The numbers, and which are owned.
#[derive(Debug)]
pub(crate) struct Indices {
    words: [AtomicU64; WORDS],
}

impl Indices {
    /// All free.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// All free.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            words: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Claims the smallest free number, so that tables stay small.
    pub(crate) fn claim(&self) -> Option<usize> {
        for (i, word) in self.words.iter().enumerate() {
            let mut owned = word.load(Ordering::Relaxed);
            while owned != u64::MAX {
                let bit = owned.trailing_ones() as usize;
                let index = i * 64 + bit;
                if self.try_claim(index) {
                    return Some(index);
                }
                owned = word.load(Ordering::Relaxed) | 1 << bit;
            }
        }
        None
    }

    /// Claims one number if it is free.
    pub(crate) fn try_claim(&self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        let Some(word) = self.words.get(index / 64) else {
            return false;
        };
        word.load(Ordering::Relaxed) & bit == 0
            // Acquire: what the last owner did to its lines.
            && word.fetch_or(bit, Ordering::Acquire) & bit == 0
    }

    /// Gives an owned number back.
    pub(crate) fn give_back(&self, index: usize) {
        self.give_back_with(index, Ordering::Release);
    }

    /// The same with another ordering, for the model that rejects it.
    pub(crate) fn give_back_with(&self, index: usize, ordering: Ordering) {
        if let Some(word) = self.words.get(index / 64) {
            // Release: what we did to our lines, for the next owner.
            word.fetch_and(!(1 << (index % 64)), ordering);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{INDICES, Indices};
    use crate::sync::{AtomicU32, Ordering};

    #[test]
    fn every_number_is_given_once_the_smallest_first_and_then_none() {
        let indices = Indices::new();
        for expected in 0..INDICES {
            assert_eq!(indices.claim(), Some(expected));
        }
        assert_eq!(indices.claim(), None);
        for index in [70, 3] {
            indices.give_back(index);
        }
        assert!(!indices.try_claim(4), "4 is owned");
        assert_eq!(indices.claim(), Some(3));
        assert_eq!(indices.claim(), Some(70));
        assert!(!indices.try_claim(INDICES), "there is no such number");
    }

    #[test]
    fn threads_that_claim_at_once_share_no_number() {
        let indices = Indices::new();
        let owners: [AtomicU32; 8] = core::array::from_fn(|_| AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let index = indices.claim().expect("one for each of eight threads");
                        assert_eq!(owners[index].fetch_add(1, Ordering::Relaxed), 0);
                        owners[index].fetch_sub(1, Ordering::Relaxed);
                        indices.give_back(index);
                    }
                });
            }
        });
        assert_eq!(indices.claim(), Some(0), "all were given back");
    }
}
