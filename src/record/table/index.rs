//! A shard's index: where an address is looked for, entered, and what happens
//! when the lines get crowded.

use super::entry::Entry;
use super::line::{Line, Mark, REACH};
use super::shard::{Shard, add};
use crate::record::lock::Held;
use crate::sync::{Ordering, fence};

/// Lines an index begins with.
pub(super) const FIRST_LINES: u32 = 64;
/// Records for each line, at most, before the index grows: 12 of 15.
pub(super) const CROWDED: u64 = 12;
/// The part of a shape that is a number of lines.
pub(super) const LINES: u64 = u32::MAX as u64;

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Yes,
    /// No line within reach has room.
    Crowded,
}

/// Where an address was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    home: &'a Line,
    /// The home, or where it strayed to.
    line: &'a Line,
    position: u32,
    pub(super) id: u64,
    pub(super) entry: &'a Entry,
}

impl Found<'_> {
    /// Whether what the position's id names is in the index there: an empty one still
    /// has the id that was there last.
    #[inline]
    pub(super) fn is_entered(&self) -> bool {
        self.line.is_taken(self.position)
    }

    /// Takes it out of the index. For the holder of the lock.
    #[inline]
    pub(super) fn take(&self) {
        self.line.take(self.position);
        if !core::ptr::eq(self.home, self.line) {
            self.home.remove_stray();
        }
    }
}

/// How many lines an index of `room` records may need.
pub(crate) fn lines_for(room: u64) -> u64 {
    // Growing by half at a time, it may end as far beyond what is crowded.
    (room / CROWDED + 1) * 3 / 2 + u64::from(FIRST_LINES)
}

impl Shard {
    #[cold]
    #[inline(never)]
    pub(super) fn find_locked(&self, address: u64, hash: u64) -> Option<Found<'_>> {
        let lines = self.line_count();
        self.find(address, hash, self.line(home(hash, lines))?, lines)
    }

    fn line_room(&self) -> u64 {
        self.lines.all().len() as u64
    }

    #[inline]
    pub(super) fn line(&self, index: u64) -> Option<&Line> {
        self.lines.all().get(usize::try_from(index).ok()?)
    }

    /// Finds an address whose home among so many lines is `home`.
    #[inline]
    pub(super) fn find<'a>(
        &'a self,
        address: u64,
        hash: u64,
        home: &'a Line,
        lines: u64,
    ) -> Option<Found<'a>> {
        let mark = Mark::of(hash);
        let (mut positions, has_strays) = home.candidates(mark);
        let entries = self.entries.all();
        let found = positions.find_map(|at| holds(entries, home, home, at, address));
        if found.is_some() || !has_strays {
            return found;
        }
        self.find_stray(address, hash, home, lines)
    }

    #[cold]
    fn find_stray<'a>(
        &'a self,
        address: u64,
        hash: u64,
        home_line: &'a Line,
        lines: u64,
    ) -> Option<Found<'a>> {
        let mark = Mark::of(hash);
        let first = home(hash, lines);
        for distance in 1..=home_line.reach(mark) {
            let line = self.line(around(first + distance, lines))?;
            for position in line.candidates(mark).0 {
                let entries = self.entries.all();
                if let Some(found) = holds(entries, home_line, line, position, address) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Enters `id` in the index, whose line `home` is that of the hash.
    #[inline]
    pub(super) fn place(&self, hash: u64, id: u64, home: &Line, lines: u64) -> Placed {
        let mark = Mark::of(hash);
        if let Some(position) = home.free() {
            home.put(position, id, mark);
            return Placed::Yes;
        }
        self.place_stray(hash, id, home, lines)
    }

    #[cold]
    fn place_stray(&self, hash: u64, id: u64, home_line: &Line, lines: u64) -> Placed {
        let mark = Mark::of(hash);
        let first = home(hash, lines);
        for distance in 1..=REACH.min(lines - 1) {
            let Some(line) = self.line(around(first + distance, lines)) else {
                break;
            };
            if let Some(position) = line.free() {
                // The home first: who looks without the lock must not stop there.
                home_line.add_stray(distance, mark);
                line.put(position, id, mark);
                return Placed::Yes;
            }
        }
        Placed::Crowded
    }

    /// Makes the index larger; `false` when it is as large as it may be.
    #[cold]
    #[inline(never)]
    pub(super) fn grow(&self, held: Held<'_>) -> bool {
        let lines = self.line_count();
        let wanted = (lines + lines.div_ceil(2)).min(self.line_room());
        wanted > lines && {
            self.rebuild(held, wanted);
            true
        }
    }

    /// Makes the index anew, of so many lines or more, from the slab.
    pub(super) fn rebuild(&self, _held: Held<'_>, wanted: u64) {
        let shape = self.shape.load(Ordering::Relaxed);
        // Odd, also when it was begun by a thread that vanished.
        let rebuilds = shape >> 32 | 1;
        self.shape
            .store(rebuilds << 32 | shape & LINES, Ordering::Relaxed);
        // Keeps the odd number before the first change: who sees a change sees it, too.
        fence(Ordering::Release);
        let mut lines = wanted;
        while !self.fill(lines) {
            lines = (lines + lines.div_ceil(2)).min(self.line_room());
        }
        let rebuilds = rebuilds.wrapping_add(1) & LINES;
        // Release: the new index.
        self.shape.store(rebuilds << 32 | lines, Ordering::Release);
    }

    /// Enters all records in an index of so many lines; `false` when one does
    /// not fit and there could be more lines.
    fn fill(&self, lines: u64) -> bool {
        for index in 0..lines {
            if let Some(line) = self.line(index) {
                line.clear();
            }
        }
        for id in 0..self.used() {
            let address = self.entry(id).map_or(0, Entry::address);
            let hash = hash(address);
            if address != 0
                && let Some(home) = self.line(home(hash, lines))
                && self.place(hash, id, home, lines) == Placed::Crowded
            {
                if lines < self.line_room() {
                    return false;
                }
                // As good as impossible: 15 full lines in a row, in an index of the largest size.
                if let Some(entry) = self.entry(id) {
                    self.free_entry(id, entry);
                }
                add(&self.full, 1);
                add(&self.live, 1_u64.wrapping_neg());
            }
        }
        true
    }
}

/// What a position of a line holds, if it is the address.
#[inline]
pub(super) fn holds<'a>(
    entries: &'a [Entry],
    home: &'a Line,
    line: &'a Line,
    position: u32,
    address: u64,
) -> Option<Found<'a>> {
    let id = line.id(position);
    let entry = entries.get(usize::try_from(id).ok()?)?;
    (entry.address() == address).then_some(Found {
        home,
        line,
        position,
        id,
        entry,
    })
}

/// A number that depends on every bit of the address.
#[inline]
pub(super) fn hash(address: u64) -> u64 {
    let product = u128::from(address) * 0x9e37_79b9_7f4a_7c15_u128;
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are folded")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

/// The home of a hash among so many lines; by its high half, as the tag is of the low one.
#[inline]
pub(super) fn home(hash: u64, lines: u64) -> u64 {
    ((hash >> 32) * lines) >> 32
}

/// A line index beyond the end, from the beginning again.
#[inline]
fn around(index: u64, lines: u64) -> u64 {
    if index < lines { index } else { index - lines }
}
