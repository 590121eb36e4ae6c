//! The live table: what is known of each block that was recorded and not freed.
//!
//! ```text
//!   address ── its 256 KiB ──▶ one of 64 shards ── its hash ──▶ home line ──▶ record
//! ```
//!
//! A shard is chosen by the 256 KiB that an address lies in, not by the whole
//! address: allocators give each thread memory of its own, so threads meet in a
//! shard less often than chance would have it, and what a thread used a moment
//! ago is still in its core's cache.
//!
//! A record costs 24 bytes, and 5.3 to 8 for its place in the index. All
//! memory is asked for when the table is opened and comes page by page as it is
//! used. What cannot be kept is counted, and nothing else happens.

mod entry;
mod index;
mod line;
mod machine;
mod shard;

pub use entry::Record;
pub(crate) use entry::Words;
use entry::{ADDRESSES, Entry};
use line::Line;
pub(crate) use shard::Amend;
use shard::Shard;
pub use shard::TableLosses;

use crate::record::zone::{Asked, Plot, Zone, leaving_as_much};

const SHARDS: usize = 64;
/// Blocks whose addresses differ above this bit only by chance share a shard.
const REGION_BITS: u32 = 18;
/// Records a shard has room for at least: four times 256 KiB of the smallest blocks.
const LEAST_ROOM: u64 = 1 << 16;
/// The least that is worth opening a table for.
const SCARCE_ROOM: u64 = LEAST_ROOM / 16;
/// How much more than its share a shard may take, as addresses are not spread evenly.
const SKEW: u64 = 4;
/// Records copied out of a shard under one lock.
const BATCH: usize = 64;

/// What a table is opened for unless told otherwise, in records.
pub const DEFAULT_RECORDS: u64 = 16 << 20;

/// Records by block address.
#[derive(Debug)]
pub struct Table {
    shards: [Shard; SHARDS],
    entries: Zone<Entry>,
    lines: Zone<Line>,
}

/// Memory that a table can be opened with.
#[derive(Debug)]
pub(crate) struct Plots {
    lines: Plot<Line>,
    entries: Plot<Entry>,
}

impl Asked for Plots {
    fn bytes(&self) -> usize {
        self.lines.bytes().saturating_add(self.entries.bytes())
    }
}

impl Table {
    /// A table without room: nothing is kept until it is opened.
    pub const fn new() -> Self {
        Self {
            shards: [const { Shard::new() }; SHARDS],
            entries: Zone::new(),
            lines: Zone::new(),
        }
    }

    /// Makes room for about `records` records. A shard may take four times its
    /// share of them and has room for 65,536 at least. Where the system has not as many
    /// addresses, and as many again for the program, it is room for half as many, and so
    /// on. Returns the room of all shards together; 0 when there is no memory. An open
    /// table stays as it is. Not for use inside the allocator.
    pub fn open(&self, records: u64) -> u64 {
        crate::record::fork::watch();
        if let Some(plots) = leaving_as_much(|halvings| self.plots(records, halvings)) {
            self.open_with(plots);
        }
        self.room()
    }

    /// Asks for the memory of about so many records, halved so often.
    pub(crate) fn plots(&self, records: u64, halvings: u32) -> Option<Plots> {
        let wanted = (records / SHARDS as u64)
            .saturating_mul(SKEW)
            .clamp(LEAST_ROOM, shard::MOST);
        let room = (wanted >> halvings).max(SCARCE_ROOM);
        let all =
            |each: u64| usize::try_from(each).map_or(usize::MAX, |n| n.saturating_mul(SHARDS));
        Some(Plots {
            lines: self.lines.plot(all(index::lines_for(room)))?,
            entries: self.entries.plot(all(room))?,
        })
    }

    /// Makes room of this memory; `false` when somebody else does not come to an end with
    /// that. As [`open`](Self::open).
    pub(crate) fn open_with(&self, plots: Plots) -> bool {
        // The lines first: too many of them do no harm when there is no room for the entries.
        if !(self.lines.open(plots.lines) && self.entries.open(plots.entries)) {
            return false;
        }
        let (lines, entries) = (self.lines.all(), self.entries.all());
        let lines = lines.chunks_exact(lines.len() / SHARDS);
        let entries = entries.chunks_exact(entries.len() / SHARDS);
        for (shard, (lines, entries)) in self.shards.iter().zip(lines.zip(entries)) {
            cells::lend(shard, lines, entries);
        }
        true
    }

    fn room_of_each(&self) -> u64 {
        self.entries.len() / SHARDS as u64
    }

    /// How many records there is room for in all shards together.
    pub fn room(&self) -> u64 {
        self.room_of_each() * SHARDS as u64
    }

    /// Keeps what is known of the block at `address`. `false` when that cannot
    /// be done, which is counted. A record that is there already is replaced,
    /// and counted: its free was missed.
    #[inline]
    pub fn insert(&self, address: usize, record: &Record) -> bool {
        match self.spot(address) {
            Some(spot) => spot.enter(record),
            None => self.refuse(),
        }
    }

    /// Where the address belongs; `None` for one that no block can have.
    #[inline]
    pub(crate) fn spot(&self, address: usize) -> Option<Spot<'_>> {
        let address = address as u64;
        let is_possible = address < ADDRESSES && address != 0;
        let shard = self.shard_of(address).filter(|_| is_possible)?;
        Some(Spot {
            shard,
            address,
            hash: index::hash(address),
        })
    }

    /// Takes out what is known of the block at `address`; `None` when there is
    /// nothing, or it could not be looked for (counted as busy). Call it *before*
    /// the block is given back, or another thread's block may be at the address.
    #[inline(never)]
    pub fn remove(&self, address: usize) -> Option<Record> {
        let mut words = Words::default();
        self.strike(address, Some(&mut words))
            .then(|| words.record())
    }

    /// The same, into `words` if somebody wants it; whether it was there.
    #[inline]
    pub(crate) fn strike(&self, address: usize, words: Option<&mut Words>) -> bool {
        let address = address as u64;
        self.shard_of(address)
            .is_some_and(|shard| shard.remove(address, words))
    }

    /// Whether the thread with this [word](crate::record::fork::me) is in the middle of a change.
    pub(crate) fn is_held_by(&self, me: u64) -> bool {
        self.shards.iter().any(|shard| shard.lock.is_taken_by(me))
    }

    /// Whether the block at `address` may be there; asked without a lock.
    #[inline]
    pub(crate) fn may_have(&self, address: usize) -> bool {
        let address = address as u64;
        self.shard_of(address)
            .is_some_and(|shard| shard.may_have(address))
    }

    /// Takes out all records of one recording, shard by shard, and shows them to
    /// `visit`, which may allocate. `false` when a shard had to be left out
    /// (counted as busy).
    pub fn drain(&self, recording: u32, visit: impl FnMut(usize, Record)) -> bool {
        self.drain_of(|record| record.recording == recording, visit)
    }

    /// The same of all records that are `wanted`, which is asked under the lock.
    pub(crate) fn drain_of(
        &self,
        wanted: impl Fn(&Record) -> bool,
        visit: impl FnMut(usize, Record),
    ) -> bool {
        self.sweep(wanted, true, visit)
    }

    /// Shows all records to `visit`, which may allocate. What comes or goes in
    /// the meantime is seen or not. `false` when a shard had to be left out
    /// (counted as busy).
    pub fn for_each(&self, visit: impl FnMut(usize, Record)) -> bool {
        self.for_each_of(|_| true, visit)
    }

    /// The same of all records that are `wanted`, which is asked under the lock.
    pub(crate) fn for_each_of(
        &self,
        wanted: impl Fn(&Record) -> bool,
        visit: impl FnMut(usize, Record),
    ) -> bool {
        self.sweep(wanted, false, visit)
    }

    /// Changes all records as `amend` says. Each shard is looked into under its
    /// lock, also an empty one: who inserts after that sees what the caller has
    /// done before. `false` when a shard had to be left out (counted as busy).
    pub(crate) fn amend(&self, amend: impl Fn(&Record) -> Amend) -> bool {
        let mut complete = true;
        for shard in &self.shards {
            let mut at = 0;
            loop {
                let Some(next) = shard.amend(at, BATCH as u64, &amend) else {
                    complete = false;
                    break;
                };
                at = next;
                if at >= shard.used() {
                    break;
                }
            }
        }
        complete
    }

    fn sweep(
        &self,
        wanted: impl Fn(&Record) -> bool,
        take: bool,
        mut visit: impl FnMut(usize, Record),
    ) -> bool {
        let mut complete = true;
        for shard in &self.shards {
            let mut at = 0;
            // Who takes records out looks under the lock in any case, as `amend` does.
            let mut once = take;
            // Not only `live`: a shard's memory is used from the front again once it was swept.
            while once || at < shard.used() {
                once = false;
                let mut batch = [(0, Record::default()); BATCH];
                let Some((count, next)) = shard.collect(at, &mut batch, &wanted, take) else {
                    complete = false;
                    break;
                };
                at = next;
                // The lock is free again: the visitor may come back to us.
                for &(address, record) in batch.iter().take(count) {
                    visit(usize::try_from(address).unwrap_or(0), record);
                }
            }
        }
        complete
    }

    /// How many records there are.
    pub fn len(&self) -> u64 {
        self.shards.iter().map(Shard::live).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory that are in use, up to whole pages.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::bytes).sum()
    }

    /// What could not be done since the table was made.
    pub fn losses(&self) -> TableLosses {
        self.shards
            .iter()
            .map(Shard::losses)
            .fold(TableLosses::default(), TableLosses::plus)
    }

    #[inline]
    fn shard_of(&self, address: u64) -> Option<&Shard> {
        let region = (address >> REGION_BITS).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = usize::try_from(region >> (64 - SHARDS.ilog2())).ok()?;
        self.shards.get(index)
    }

    /// Counts a record that has no place; `false`.
    #[cold]
    pub(crate) fn refuse(&self) -> bool {
        if let Some(first) = self.shards.first() {
            first.refuse();
        }
        false
    }
}

/// The place of an address in a table, worked out once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot<'a> {
    shard: &'a Shard,
    address: u64,
    hash: u64,
}

impl Spot<'_> {
    /// Begins to bring into the cache what [`insert`](Self::insert) is going to touch.
    #[inline]
    pub(crate) fn fetch(self) {
        self.shard.fetch(self.hash);
    }

    /// As [`Table::insert`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as `Shard::insert`")]
    pub(crate) fn insert(self, record: &Record) -> bool {
        let words = Words::of(self.address, record);
        self.shard.insert(self.hash, words)
    }

    /// The same where it is not worth the room.
    #[inline(never)]
    fn enter(self, record: &Record) -> bool {
        self.insert(record)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

mod cells {
    //! Where zero bytes are said to be valid, and zones to outlive their parts.
    #![expect(unsafe_code, reason = "says so")]

    use super::{Entry, Line, Shard};
    use crate::arena::Zeroed;
    use crate::record::zone::Cell;

    /// Gives a shard its part of the table's two zones.
    pub(super) fn lend(shard: &Shard, lines: &[Line], entries: &[Entry]) {
        // SAFETY: the caller's cells are those of the zones in the table that the shard is a
        // field of, so zones and shard end together; nothing uses a shard after that.
        unsafe { shard.lines.set(lines) };
        // SAFETY: as above.
        unsafe { shard.entries.set(entries) };
    }

    // SAFETY: atomics of integers: any bits are valid, nothing to drop.
    unsafe impl Zeroed for Entry {}
    // SAFETY: as above.
    unsafe impl Zeroed for Line {}
    // SAFETY: `Zeroed` says so; integers need no drop.
    unsafe impl Cell for Entry {}
    // SAFETY: as above.
    unsafe impl Cell for Line {}
}

#[cfg(test)]
mod tests;
