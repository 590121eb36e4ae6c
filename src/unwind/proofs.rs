//! What proves the kept frames unchanged.
//!
//! All words that have led to a kept frame and to those further out lie in a
//! row, so that one loop compares them.

use crate::unwind::entry::{NEEDS_BP, STRANGE};
use crate::unwind::stack::{Entry, PROOFS, Proof, Proofs, UNPROVABLE};
use crate::unwind::step::load;

impl Proofs {
    /// Notes what proves the kept frame `index`, which is `entry`; those further
    /// out have theirs.
    #[inline]
    pub(super) fn put(&mut self, index: usize, entry: &Entry) {
        let outside = self.outside(index);
        let count = Self::add(&mut self.words, outside, entry);
        if let Some(place) = self.count.get_mut(index) {
            *place = kept(count);
        }
    }

    /// How many words prove what is further out than frame `index`: for the outermost,
    /// where the stack ends, which is noted here.
    #[inline]
    pub(super) fn outside(&mut self, index: usize) -> usize {
        if let Some(outer) = index.checked_sub(1) {
            return usize::from(self.count.get(outer).copied().unwrap_or(UNPROVABLE));
        }
        if self.end == 0 {
            return 0;
        }
        let [first, ..] = &mut self.words;
        (first.at, first.word) = (self.end, 0);
        1
    }

    /// Adds what proves a frame to the words, of which `count` prove those further
    /// out; how many they are now.
    #[inline]
    pub(super) fn add(words: &mut [Proof; PROOFS], count: usize, entry: &Entry) -> usize {
        // There is room for two for each frame; where those further out have no number, none.
        let Some([first, second]) = words.get_mut(count..count + 2) else {
            return usize::from(UNPROVABLE);
        };
        if entry.about & STRANGE != 0 {
            return usize::from(UNPROVABLE);
        }
        (first.at, first.word) = (entry.slot, entry.ip);
        if entry.about & NEEDS_BP != 0
            && let Some(at) = entry.bp_slot()
        {
            (second.at, second.word) = (at, entry.bp);
            return count + 2;
        }
        count + 1
    }

    /// Of how many of the outermost `frames` memory still says what it did;
    /// `None` if it does so of all.
    ///
    /// # Safety
    /// The stack is the calling thread's, its bounds are those of the time when
    /// these frames were kept, and the callee of the innermost of them is live,
    /// at the slot that is kept for it.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "measured: a call takes 20 instructions of 320"
    )]
    pub(super) unsafe fn unchanged(&self, frames: usize) -> Option<usize> {
        let count = match frames.checked_sub(1) {
            Some(last) => self.count.get(last).copied().unwrap_or(UNPROVABLE),
            // The end alone.
            None => u16::from(self.end != 0),
        };
        if let Some(words) = self.words.get(..usize::from(count)) {
            let mut differs = 0;
            // No way out of the loop: it is nearly always run to its end. What is left over at the
            // front is looked at with its neighbours, which costs less than another loop.
            let (rest, fours) = words.as_rchunks::<4>();
            for four in fours {
                // SAFETY: the words were read when the frames were kept, so they are below the
                // stack's end; and they are in the frame of a callee that is live, or further up.
                differs |= unsafe { Proof::differences(four) };
            }
            if !rest.is_empty() {
                match words.first_chunk::<4>() {
                    // SAFETY: as above.
                    Some(four) => differs |= unsafe { Proof::differences(four) },
                    None => {
                        for proof in rest {
                            // SAFETY: as above.
                            differs |= unsafe { proof.difference() };
                        }
                    }
                }
            }
            if differs == 0 {
                return None;
            }
        }
        // SAFETY: passed on.
        Some(unsafe { self.count_unchanged(frames) })
    }

    /// The same, knowing that some have changed.
    ///
    /// # Safety
    /// As [`unchanged`](Self::unchanged).
    #[inline(never)]
    unsafe fn count_unchanged(&self, frames: usize) -> usize {
        let mut begin = 0;
        for (index, count) in self.count.iter().take(frames).enumerate() {
            // A range that ends beyond the words is of a frame that is never found unchanged.
            let Some(words) = self.words.get(begin..usize::from(*count)) else {
                return index;
            };
            for proof in words {
                // SAFETY: as above.
                if unsafe { proof.difference() } != 0 {
                    return index;
                }
            }
            begin = usize::from(*count);
        }
        frames
    }
}

/// A number of proofs as it is kept.
#[inline]
pub(super) fn kept(count: usize) -> u16 {
    const { assert!(PROOFS < UNPROVABLE as usize) };
    #[expect(clippy::cast_possible_truncation, reason = "there are not so many")]
    let kept = count as u16;
    kept
}

impl Proof {
    /// Zero if memory still says what it did.
    ///
    /// # Safety
    /// The word is one of the calling thread's live stack.
    #[inline]
    unsafe fn difference(&self) -> u64 {
        // SAFETY: the caller.
        unsafe { load(self.at) ^ self.word }
    }

    /// The same for four.
    ///
    /// # Safety
    /// As [`difference`](Self::difference), for each.
    #[inline]
    unsafe fn differences(four: &[Self; 4]) -> u64 {
        four.iter()
            // SAFETY: the caller.
            .fold(0, |differs, proof| differs | unsafe { proof.difference() })
    }
}
