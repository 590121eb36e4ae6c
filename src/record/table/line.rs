//! One cache line of the table's index: 15 entries and what is known of them.
//!
//! ```text
//!   words 0, 1     15 tags of 8 bits            0 = the entry is empty; byte 15 stays 0
//!   words 2 .. 5   the low 16 bits of 15 ids
//!   word 6         their high 4 bits
//!   word 7         the margin:  reach: 8 │ strays: 24 │ filter: 32
//! ```
//!
//! An address has a *home* line. What finds its home full goes to one of the
//! next lines, a *stray*; the home's margin counts its strays, says how far the
//! furthest ever went, and has a bit set for each one's hash. So a look-up ends
//! with the home unless a stray with a like hash is about, and a removal leaves
//! nothing behind. One that does not find anything reads, nearly always, just
//! three words of this line.
//!
//! Only the holder of the shard's lock writes. Anyone reads: an entry may be
//! seen with a new tag and an old id, or with parts of two ids, and so a reader
//! goes by the address in the record that the id names, never by the entry alone.

use super::machine;
use crate::sync::{AtomicU16, AtomicU64, Ordering};

/// Entries in a line.
pub(crate) const ENTRIES: u32 = 15;
/// How many ids there are.
pub(crate) const IDS: u64 = 1 << ID_BITS;
/// How far from its home a stray may be.
pub(crate) const REACH: u64 = 15;

const ID_BITS: u32 = 20;
/// The bits of an id that are kept apart from the others.
const HIGH_BITS: u32 = ID_BITS - 16;
const HIGH: u64 = (1 << HIGH_BITS) - 1;
/// All positions.
const ALL: u32 = (1 << ENTRIES) - 1;
const STRAY: u64 = 1 << 32;
const REACH_SHIFT: u32 = 56;

/// A line of the index.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Line {
    tags: [AtomicU64; 2],
    lows: [AtomicU16; 16],
    highs: AtomicU64,
    margin: AtomicU64,
}

const _: () = assert!(size_of::<Line>() == 64);

/// A hash as a line looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// Never 0.
    tag: u8,
    /// The bit in the margin's filter.
    filter: u64,
}

impl Mark {
    /// From the low bits of a hash: the high ones choose the line.
    #[inline]
    pub(crate) fn of(hash: u64) -> Self {
        Self {
            tag: low_byte(hash).max(1),
            filter: 1 << (hash >> 8 & 31),
        }
    }
}

#[inline]
fn low_byte(hash: u64) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "a part of it is wanted")]
    let byte = hash as u8;
    byte
}

/// Positions in a line, as bits.
#[derive(Clone, Debug)]
pub(crate) struct Positions(u16);

impl Positions {
    /// Those of the bits that a line has: sixteen, so that no place is looked up beyond it.
    #[inline]
    fn of(bits: u32) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a line has no more")]
        let bits = bits as u16;
        Self(bits)
    }

    /// Whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

impl Iterator for Positions {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let position = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(position)
    }
}

impl Line {
    #[inline]
    fn tags(&self) -> [u64; 2] {
        let [low, high] = &self.tags;
        [low.load(Ordering::Relaxed), high.load(Ordering::Relaxed)]
    }

    /// Whether a stray of this line has anything like this mark.
    #[inline]
    pub(crate) fn has_stray_like(&self, mark: Mark) -> bool {
        self.margin.load(Ordering::Relaxed) & mark.filter != 0
    }

    /// Where something with this mark may be, and whether strays of this line
    /// have anything like it.
    #[inline]
    pub(crate) fn candidates(&self, mark: Mark) -> (Positions, bool) {
        let like = Positions::of(machine::equal(self.tags(), mark.tag));
        (like, self.has_stray_like(mark))
    }

    /// The first free position of a line that has nothing like this mark, nor has
    /// a stray of it; `None` if it may have, or if there is none.
    #[inline]
    pub(crate) fn free_without(&self, mark: Mark) -> Option<u32> {
        let tags = self.tags();
        let is_clear = machine::equal(tags, mark.tag) == 0 && !self.has_stray_like(mark);
        let free = machine::equal(tags, 0) & ALL;
        (is_clear && free != 0).then(|| free.trailing_zeros())
    }

    /// Whether a position is not empty.
    #[inline]
    pub(crate) fn is_taken(&self, position: u32) -> bool {
        let word = self.tags.get(position as usize / 8);
        let word = word.map_or(0, |word| word.load(Ordering::Relaxed));
        word >> (position % 8 * 8) & 0xff != 0
    }

    /// The first position that is free.
    #[inline]
    pub(crate) fn free(&self) -> Option<u32> {
        Positions::of(machine::equal(self.tags(), 0) & ALL).next()
    }

    /// The id at a position; that of an empty one says nothing.
    #[inline]
    pub(crate) fn id(&self, position: u32) -> u64 {
        let low = self.lows.get(position as usize);
        let low = low.map_or(0, |low| low.load(Ordering::Relaxed));
        let high = self.highs.load(Ordering::Relaxed) >> (position * HIGH_BITS) & HIGH;
        high << 16 | u64::from(low)
    }

    /// Writes an entry at a free position. For the holder of the lock.
    #[inline]
    pub(crate) fn put(&self, position: u32, id: u64, mark: Mark) {
        if let Some(low) = self.lows.get(position as usize) {
            #[expect(clippy::cast_possible_truncation, reason = "the rest comes below")]
            low.store(id as u16, Ordering::Relaxed);
        }
        let shift = position * HIGH_BITS;
        let kept = self.highs.load(Ordering::Relaxed) & !(HIGH << shift);
        let high = id >> 16 & HIGH;
        self.highs.store(kept | high << shift, Ordering::Relaxed);
        if let Some(word) = self.tags.get(position as usize / 8) {
            // It is free, so there are only zeros.
            let tag = u64::from(mark.tag) << (position % 8 * 8);
            word.store(word.load(Ordering::Relaxed) | tag, Ordering::Relaxed);
        }
    }

    /// Empties a position. For the holder of the lock.
    #[inline]
    pub(crate) fn take(&self, position: u32) {
        if let Some(word) = self.tags.get(position as usize / 8) {
            let tag = 0xff << (position % 8 * 8);
            word.store(word.load(Ordering::Relaxed) & !tag, Ordering::Relaxed);
        }
    }

    /// How many lines after this one may hold a stray of it with this mark.
    #[inline]
    pub(crate) fn reach(&self, mark: Mark) -> u64 {
        if self.has_stray_like(mark) {
            self.margin.load(Ordering::Relaxed) >> REACH_SHIFT
        } else {
            0
        }
    }

    /// Notes a stray of this line, so far away. For the holder of the lock.
    pub(crate) fn add_stray(&self, distance: u64, mark: Mark) {
        let margin = self.margin.load(Ordering::Relaxed) + STRAY;
        let reach = (margin >> REACH_SHIFT).max(distance);
        let kept = margin & ((1 << REACH_SHIFT) - 1);
        self.margin
            .store(reach << REACH_SHIFT | kept | mark.filter, Ordering::Relaxed);
    }

    /// Forgets a stray of this line. For the holder of the lock.
    pub(crate) fn remove_stray(&self) {
        let margin = self.margin.load(Ordering::Relaxed);
        let left = margin.saturating_sub(STRAY);
        // Without strays there is nothing to reach and nothing to filter.
        let none = left << 8 >> 40 == 0;
        self.margin
            .store(if none { 0 } else { left }, Ordering::Relaxed);
    }

    /// Empties the line. For the holder of the lock.
    pub(crate) fn clear(&self) {
        // What an empty position has for an id says nothing.
        for word in &self.tags {
            word.store(0, Ordering::Relaxed);
        }
        self.margin.store(0, Ordering::Relaxed);
    }

    /// Whether it has strays, for tests.
    #[cfg(test)]
    pub(crate) fn has_strays(&self) -> bool {
        self.margin.load(Ordering::Relaxed) != 0
    }

    /// An empty line.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self {
            tags: [const { AtomicU64::new(0) }; 2],
            lows: [const { AtomicU16::new(0) }; 16],
            highs: AtomicU64::new(0),
            margin: AtomicU64::new(0),
        }
    }
}

// A stray is counted once, and no more than all entries within reach can be strays of one line.
const _: () = assert!(ENTRIES as u64 * REACH < 1 << 24);

#[cfg(test)]
mod tests {
    use super::{ENTRIES, IDS, Line, Mark};

    #[test]
    fn a_line_gives_back_what_was_put_and_finds_it_by_its_mark() {
        let line = Line::empty();
        for position in 0..ENTRIES {
            assert_eq!(line.free(), Some(position));
            let id = IDS - 1 - u64::from(position) * 77;
            line.put(position, id, Mark::of(100 + u64::from(position)));
        }
        assert_eq!(line.free(), None);
        for position in 0..ENTRIES {
            let mark = Mark::of(100 + u64::from(position));
            assert!(line.candidates(mark).0.any(|found| found == position));
            assert_eq!(line.id(position), IDS - 1 - u64::from(position) * 77);
        }
        assert_eq!(line.candidates(Mark::of(99)).0.next(), None);
        line.take(7);
        assert_eq!(line.free(), Some(7));
        assert!(!line.candidates(Mark::of(107)).0.any(|found| found == 7));
        line.put(7, 5, Mark::of(1));
        assert_eq!(
            (line.id(6), line.id(7), line.id(8)),
            (IDS - 463, 5, IDS - 617)
        );
    }

    /// Bug prevented: the byte that is no tag, or an empty entry, is taken for an entry.
    #[test]
    fn no_mark_has_a_candidate_in_an_empty_line_and_no_line_has_a_sixteenth_entry() {
        let line = Line::empty();
        for hash in 0..0x1_0000 {
            assert_eq!(line.candidates(Mark::of(hash)).0.next(), None, "{hash:x}");
        }
        for position in 0..ENTRIES {
            line.put(position, 1, Mark::of(1));
        }
        line.add_stray(3, Mark::of(1));
        assert_eq!(line.free(), None);
        assert!(line.candidates(Mark::of(0)).0.eq(0..ENTRIES));
        for hash in 2..0x100 {
            assert_eq!(line.candidates(Mark::of(hash)).0.next(), None, "{hash:x}");
        }
    }

    #[test]
    fn a_line_knows_how_far_its_strays_are_until_the_last_has_gone() {
        let line = Line::empty();
        line.put(0, 5, Mark::of(9));
        line.add_stray(2, Mark::of(0x1000));
        line.add_stray(12, Mark::of(0x2100));
        assert_eq!(line.reach(Mark::of(0x1000)), 12);
        assert_eq!(line.reach(Mark::of(0x0100)), 12);
        assert_eq!(line.reach(Mark::of(0x0200)), 0);
        line.remove_stray();
        assert_eq!(line.reach(Mark::of(0x2100)), 12);
        line.remove_stray();
        assert_eq!(line.reach(Mark::of(0x2100)), 0);
        assert!(!line.has_strays());
        assert_eq!(line.candidates(Mark::of(9)).0.next(), Some(0));
    }

    /// Bug prevented: a count of strays that wraps forgets those that are still there.
    #[test]
    fn as_many_strays_as_there_can_be_are_counted() {
        let line = Line::empty();
        for _ in 0..225 {
            line.add_stray(15, Mark::of(31 << 8));
        }
        for _ in 0..224 {
            line.remove_stray();
        }
        assert_eq!(line.reach(Mark::of(31 << 8)), 15);
        line.remove_stray();
        assert!(!line.has_strays());
    }
}
