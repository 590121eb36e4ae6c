//! One cache line of the table's index: 15 entries and what is known of them.
//!
//! ```text
//!   word 0..7, two lanes of 32 bits each; lanes 0..14 are entries, lane 15 is the margin
//!
//!   entry    id: 20 │ tag: 12          0 = empty; a tag is never 0
//!   margin   reach: 8 │ strays: 9 │ taken: 15
//! ```
//!
//! An address has a *home* line. What finds its home full goes to one of the
//! next lines, a *stray*; the home's margin counts its strays and says how far
//! the furthest ever went. So a look-up ends with the home unless strays > 0,
//! and a removal leaves nothing behind. One that does not find anything reads,
//! nearly always, just this line.
//!
//! Only the holder of the shard's lock writes. Anyone reads: whole words, so no
//! entry is ever seen half written.

use crate::sync::{AtomicU64, Ordering};

/// Entries in a line.
pub(crate) const ENTRIES: u64 = 15;
/// The largest id, plus one.
pub(crate) const IDS: u64 = (1 << 20) - 1;
/// How far from its home a stray may be.
pub(crate) const REACH: u32 = 255;

const WORDS: usize = 8;
const TAG: u64 = 0xfff;
const TAGS: u64 = TAG << 32 | TAG;
const ONES: u64 = 1 << 32 | 1;
const HIGHS: u64 = 1 << 63 | 1 << 31;
const ALL_TAKEN: u32 = (1 << ENTRIES) - 1;
const STRAY: u32 = 1 << 15;
const STRAYS: u32 = 0x1ff;

/// A line of the index.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([AtomicU64; WORDS]);

const _: () = assert!(size_of::<Line>() == 64);

/// Positions in a line that may hold what is looked for.
#[derive(Debug)]
pub(crate) struct Candidates {
    // Lane 0 of word k is bit 24 + k, lane 1 is bit 56 + k.
    bits: u64,
}

impl Iterator for Candidates {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.bits == 0 {
            return None;
        }
        let bit = self.bits.trailing_zeros();
        self.bits &= self.bits - 1;
        Some((bit & 7) * 2 + (bit >> 5))
    }
}

/// What a line knows of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Margin(u32);

impl Margin {
    /// How many lines after this one may hold strays of it.
    #[inline]
    pub(crate) fn reach(self) -> u32 {
        self.0 >> 24
    }

    fn strays(self) -> u32 {
        self.0 >> 15 & STRAYS
    }

    /// The first position that is free.
    #[inline]
    pub(crate) fn free(self) -> Option<u32> {
        let taken = self.0 & ALL_TAKEN;
        (taken != ALL_TAKEN).then(|| taken.trailing_ones())
    }
}

impl Line {
    /// The tag for a hash: 12 bits that choose no line, never 0.
    #[inline]
    pub(crate) fn tag(hash: u64) -> u32 {
        let tag = (hash & TAG) as u32;
        tag.max(1)
    }

    /// Where the tag stands, and sometimes where it does not.
    #[inline]
    pub(crate) fn candidates(&self, tag: u32) -> Candidates {
        let wanted = u64::from(tag) * ONES;
        let mut bits = 0;
        for (k, word) in self.0.iter().enumerate() {
            // A lane of zero bits borrows, which sets its high bit; it may make the lane above
            // borrow as well, and that is the "sometimes".
            let differs = (word.load(Ordering::Relaxed) ^ wanted) & TAGS;
            bits |= (differs.wrapping_sub(ONES) & HIGHS) >> (7 - k);
        }
        // Bit 63: the margin.
        Candidates {
            bits: bits & !(1 << 63),
        }
    }

    #[inline]
    fn lane(&self, lane: u32) -> u32 {
        let word = self.0.get(lane as usize / 2);
        let word = word.map_or(0, |word| word.load(Ordering::Relaxed));
        #[expect(clippy::cast_possible_truncation, reason = "one of two lanes")]
        let value = (word >> (lane % 2 * 32)) as u32;
        value
    }

    #[inline]
    fn set_lane(&self, lane: u32, value: u32) {
        if let Some(word) = self.0.get(lane as usize / 2) {
            let shift = lane % 2 * 32;
            let kept = word.load(Ordering::Relaxed) & !(u64::from(u32::MAX) << shift);
            word.store(kept | u64::from(value) << shift, Ordering::Relaxed);
        }
    }

    /// The id at a position; `None` when it is empty.
    #[inline]
    pub(crate) fn id(&self, position: u32) -> Option<u64> {
        match self.lane(position) {
            0 => None,
            entry => Some(u64::from(entry >> 12)),
        }
    }

    #[inline]
    pub(crate) fn margin(&self) -> Margin {
        Margin(self.lane(15))
    }

    /// Writes an entry at a free position. For the holder of the lock.
    #[inline]
    pub(crate) fn put(&self, position: u32, id: u64, tag: u32) {
        #[expect(clippy::cast_possible_truncation, reason = "ids have 20 bits")]
        self.set_lane(position, (id as u32) << 12 | tag);
        self.set_lane(15, self.margin().0 | 1 << position);
    }

    /// Empties a position. For the holder of the lock.
    #[inline]
    pub(crate) fn take(&self, position: u32) {
        self.set_lane(position, 0);
        self.set_lane(15, self.margin().0 & !(1 << position));
    }

    /// Notes a stray of this line, so far away. For the holder of the lock.
    pub(crate) fn add_stray(&self, distance: u32) {
        let margin = self.margin();
        let strays = (margin.strays() + 1).min(STRAYS);
        let reach = margin.reach().max(distance.min(REACH));
        self.set_lane(
            15,
            (margin.0 & ALL_TAKEN) | (strays * STRAY) | (reach << 24),
        );
    }

    /// Forgets a stray of this line. For the holder of the lock.
    pub(crate) fn remove_stray(&self) {
        let margin = self.margin();
        let left = match margin.strays() {
            // It may have been more than can be counted: it stays until the index is rebuilt.
            STRAYS => return,
            strays => strays.saturating_sub(1),
        };
        let reach = if left == 0 { 0 } else { margin.reach() };
        self.set_lane(15, (margin.0 & ALL_TAKEN) | (left * STRAY) | (reach << 24));
    }

    /// Empties the line. For the holder of the lock.
    pub(crate) fn clear(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// An empty line.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }
}

#[cfg(test)]
mod tests {
    use super::{ENTRIES, IDS, Line};

    #[test]
    fn a_line_gives_back_what_was_put_and_finds_it_by_its_tag() {
        let line = Line::empty();
        for position in 0..15 {
            assert_eq!(line.margin().free(), Some(position));
            line.put(position, IDS - u64::from(position), 100 + position);
        }
        assert_eq!(line.margin().free(), None);
        for position in 0..15 {
            let found: Vec<_> = line.candidates(100 + position).collect();
            assert!(found.contains(&position), "{found:?}");
            assert_eq!(line.id(position), Some(IDS - u64::from(position)));
        }
        assert_eq!(line.candidates(99).next(), None);
        line.take(7);
        assert_eq!(line.margin().free(), Some(7));
        assert!(!line.candidates(107).any(|position| position == 7));
        assert_eq!(line.id(7), None);
    }

    /// Bug prevented: the margin, or an empty entry, is taken for an entry.
    #[test]
    fn neither_the_margin_nor_what_is_empty_is_ever_a_candidate() {
        let line = Line::empty();
        for position in 0..4 {
            line.put(position, 1, 0xabc);
        }
        line.add_stray(3);
        for tag in 1..0x1000 {
            let found: Vec<_> = line.candidates(tag).collect();
            assert_eq!(found.is_empty(), tag != 0xabc, "{tag:x}: {found:?}");
            assert!(found.iter().all(|&position| u64::from(position) < ENTRIES));
        }
    }

    #[test]
    fn a_line_knows_how_far_its_strays_are_until_the_last_has_gone() {
        let line = Line::empty();
        line.put(0, 5, 9);
        line.add_stray(2);
        line.add_stray(200);
        assert_eq!(line.margin().reach(), 200);
        line.remove_stray();
        assert_eq!(line.margin().reach(), 200);
        line.remove_stray();
        assert_eq!(line.margin().reach(), 0);
        assert_eq!(line.id(0), Some(5));
    }

    /// Bug prevented: a count that wraps forgets strays that are still there.
    #[test]
    fn strays_beyond_the_count_are_never_forgotten() {
        let line = Line::empty();
        for _ in 0..600 {
            line.add_stray(4);
        }
        for _ in 0..599 {
            line.remove_stray();
        }
        assert_eq!(line.margin().reach(), 4);
    }
}
