//! One shard of the live table: records side by side, and an index to them.
//!
//! ```text
//!   index   [line][line][line] ...       an address has a home line; see `line`
//!              │ id
//!   slab    [entry 0][entry 1] ... [entry used - 1]  never used
//!              free entries are linked, the last freed first
//! ```
//!
//! The index is rebuilt from the slab, in place, a third larger, when it gets
//! crowded; records never move. Rebuilding 16,000 records takes some 60 µs.
//!
//! Who only wants to know that an address is *not* here takes no lock. It reads
//! `shape`, the home line, and `shape` again: an entry moves only in a rebuild,
//! and a rebuild changes `shape`. The lock and all that changes often are on
//! another cache line, so such a look-up meets nothing that others write but,
//! perhaps, the home line itself.

use crate::record::entry::{Entry, Record};
use crate::record::line::{IDS, Line, Mark, REACH};
use crate::record::lock::{Guard, Lock};
use crate::record::zone::Part;
use crate::sync::{AtomicU64, Ordering, fence};

/// Lines an index begins with.
const FIRST_LINES: u32 = 8;
/// Records for each line, at most, before the index grows: 12 of 15.
const CROWDED: u64 = 12;
/// The part of a shape that is a number of lines.
const LINES: u64 = u32::MAX as u64;
/// No free entry.
const NONE: u64 = u64::MAX;

/// What all look at, on one cache line, and what changes, on another.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Shard {
    /// `rebuilds << 32 | lines`; the number of rebuilds is odd during one.
    shape: AtomicU64,
    pub(crate) lines: Part<Line>,
    pub(crate) entries: Part<Entry>,
    _apart: [u64; 3],
    lock: Lock,
    /// Records here. Written under the lock, read by anyone.
    live: AtomicU64,
    /// Entries ever used since the shard was last empty and swept.
    used: AtomicU64,
    /// The first free entry below `used`.
    free: AtomicU64,
    /// See [`Losses`].
    replaced: AtomicU64,
    full: AtomicU64,
    busy: AtomicU64,
    inherited: AtomicU64,
}

const _: () = assert!(size_of::<Shard>() == 128 && core::mem::offset_of!(Shard, lock) == 64);

/// What a table could not do, and what it had to guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableLosses {
    /// Records not kept because there was no room for them.
    pub full: u64,
    /// Insertions and removals not done because the lock could not be had.
    pub busy: u64,
    /// Records replaced by another at the same address: a free was missed.
    pub replaced: u64,
    /// Shards taken over in a forked child from a thread that is not there; each
    /// may have lost the one operation that was under way.
    pub inherited: u64,
}

impl TableLosses {
    /// The sum.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            full: self.full.saturating_add(other.full),
            busy: self.busy.saturating_add(other.busy),
            replaced: self.replaced.saturating_add(other.replaced),
            inherited: self.inherited.saturating_add(other.inherited),
        }
    }
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    Yes,
    /// No line within reach has room.
    Crowded,
}

/// Where an address was found.
#[derive(Clone, Copy, Debug)]
struct Found {
    line: u64,
    position: u32,
    id: u64,
    is_stray: bool,
}

/// How many lines an index of `room` records may need.
pub(crate) fn lines_for(room: u64) -> u64 {
    // Growing a third at a time, it may end a third beyond what is crowded.
    (room / CROWDED + 1) * 4 / 3 + u64::from(FIRST_LINES)
}

/// The most records a shard can have.
pub(crate) const MOST: u64 = IDS;

impl Shard {
    pub(crate) const fn new() -> Self {
        Self {
            shape: AtomicU64::new(FIRST_LINES as u64),
            lines: Part::new(),
            entries: Part::new(),
            _apart: [0; 3],
            lock: Lock::new(),
            live: AtomicU64::new(0),
            used: AtomicU64::new(0),
            free: AtomicU64::new(NONE),
            replaced: AtomicU64::new(0),
            full: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            inherited: AtomicU64::new(0),
        }
    }

    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn losses(&self) -> TableLosses {
        TableLosses {
            full: self.full.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
            replaced: self.replaced.load(Ordering::Relaxed),
            inherited: self.inherited.load(Ordering::Relaxed),
        }
    }

    fn line_count(&self) -> u64 {
        self.shape.load(Ordering::Relaxed) & LINES
    }

    /// Bytes of slab and index in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.used() * size_of::<Entry>() as u64 + self.line_count() * size_of::<Line>() as u64
    }

    /// Counts a record that no shard has a place for.
    pub(crate) fn refuse(&self) {
        self.full.fetch_add(1, Ordering::Relaxed);
    }

    /// Leaves the lock as a thread would that is gone after a fork.
    #[cfg(test)]
    pub(crate) fn abandon(&self) {
        self.lock.abandon();
    }
}

impl Shard {
    /// Keeps a record, instead of one with the same address if need be.
    #[inline]
    pub(crate) fn insert(&self, address: u64, record: &Record) -> bool {
        let hash = hash(address);
        let Some(guard) = self.acquire() else {
            return false;
        };
        if let Some(found) = self.find(address, hash, self.line_count()) {
            if let Some(entry) = self.entry(found.id) {
                entry.write(address, record);
            }
            add(&self.replaced, 1);
            return true;
        }
        if self.live() >= self.line_count() * CROWDED {
            self.grow(&guard);
        }
        let Some(id) = self.take_entry() else {
            add(&self.full, 1);
            return false;
        };
        while self.place(hash, id, self.line_count()) == Placed::Crowded {
            if !self.grow(&guard) {
                self.free_entry(id);
                add(&self.full, 1);
                return false;
            }
        }
        if let Some(entry) = self.entry(id) {
            entry.write(address, record);
        }
        add(&self.live, 1);
        true
    }

    /// Takes the record of an address out; the usual answer is `None`, and needs
    /// no lock.
    #[inline]
    pub(crate) fn remove(&self, address: u64) -> Option<Record> {
        let hash = hash(address);
        // Acquire: the index as the last rebuild left it.
        let shape = self.shape.load(Ordering::Acquire);
        if let Some(line) = self.line(home(hash, shape & LINES))
            && (shape >> 32).is_multiple_of(2)
            && line.surely_lacks(Mark::of(hash))
        {
            // Keeps the loads of the line before the second look.
            fence(Ordering::Acquire);
            if self.shape.load(Ordering::Relaxed) == shape {
                return None;
            }
        }
        self.remove_candidate(address, hash)
    }

    /// The same for an address that something in its line looks like; apart, so
    /// that the usual answer saves no registers.
    #[inline(never)]
    fn remove_candidate(&self, address: u64, hash: u64) -> Option<Record> {
        // As above, but with a look at the records.
        let shape = self.shape.load(Ordering::Acquire);
        let mut seen = None;
        if (shape >> 32).is_multiple_of(2) {
            seen = self.find(address, hash, shape & LINES);
            fence(Ordering::Acquire);
            if seen.is_none() && self.shape.load(Ordering::Relaxed) == shape {
                return None;
            }
        }
        let _guard = self.acquire()?;
        let found = match seen {
            Some(found) if self.is_still(&found, address) => found,
            _ => self.find_locked(address, hash)?,
        };
        let record = self.entry(found.id).map(Entry::read);
        self.erase(&found, hash);
        record
    }

    /// Whether what was found without the lock is so under it.
    #[inline]
    fn is_still(&self, found: &Found, address: u64) -> bool {
        found.line < self.line_count()
            && self
                .line(found.line)
                .and_then(|line| self.holds(line, found.position, address))
                == Some(found.id)
    }

    #[cold]
    #[inline(never)]
    fn find_locked(&self, address: u64, hash: u64) -> Option<Found> {
        self.find(address, hash, self.line_count())
    }

    /// Copies up to `batch.len()` of the `wanted` records from entry `from` on,
    /// and takes them out if told so. Returns how many, and the entry to go on
    /// from; `None` when the lock could not be had.
    pub(crate) fn collect(
        &self,
        from: u64,
        batch: &mut [(u64, Record)],
        wanted: impl Fn(&Record) -> bool,
        take: bool,
    ) -> Option<(usize, u64)> {
        let _guard = self.acquire()?;
        let mut at = from;
        let mut places = batch.iter_mut();
        let mut count = 0;
        while at < self.used() {
            let Some(entry) = self.entry(at) else { break };
            let (address, record) = (entry.address(), entry.read());
            if address != 0 && wanted(&record) {
                let Some(place) = places.next() else { break };
                *place = (address, record);
                count += 1;
                let hash = hash(address);
                if take && let Some(found) = self.find_locked(address, hash) {
                    self.erase(&found, hash);
                }
            }
            at += 1;
        }
        if take && self.live() == 0 {
            // Begins again at the front: what comes next touches few pages.
            self.free.store(NONE, Ordering::Relaxed);
            self.used.store(0, Ordering::Relaxed);
        }
        Some((count, at))
    }

    #[inline]
    fn acquire(&self) -> Option<Guard<'_>> {
        match self.lock.acquire() {
            Some(guard) if guard.is_inherited() => {
                self.repair(&guard);
                Some(guard)
            }
            Some(guard) => Some(guard),
            None => {
                self.count_busy();
                None
            }
        }
    }

    #[cold]
    fn count_busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts a shard in order whose last holder vanished in the middle: the slab
    /// is the truth (an address is written last and erased first), the rest
    /// follows from it.
    #[cold]
    fn repair(&self, guard: &Guard<'_>) {
        let (mut live, mut free) = (0, NONE);
        for id in 0..self.used() {
            if let Some(entry) = self.entry(id) {
                if entry.address() == 0 {
                    entry.erase(free);
                    free = id;
                } else {
                    live += 1;
                }
            }
        }
        self.live.store(live, Ordering::Relaxed);
        self.free.store(free, Ordering::Relaxed);
        self.rebuild(guard, self.line_count());
        add(&self.inherited, 1);
    }

    fn line_room(&self) -> u64 {
        self.lines.all().len() as u64
    }

    #[inline]
    fn entry(&self, id: u64) -> Option<&Entry> {
        self.entries.all().get(usize::try_from(id).ok()?)
    }

    #[inline]
    fn line(&self, index: u64) -> Option<&Line> {
        self.lines.all().get(usize::try_from(index).ok()?)
    }

    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "measured: half of a hot removal was this call"
    )]
    fn find(&self, address: u64, hash: u64, lines: u64) -> Option<Found> {
        let home = home(hash, lines);
        let mark = Mark::of(hash);
        let line = self.line(home)?;
        for position in line.candidates(mark) {
            if let Some(id) = self.holds(line, position, address) {
                return Some(Found {
                    line: home,
                    position,
                    id,
                    is_stray: false,
                });
            }
        }
        match line.reach(mark) {
            0 => None,
            reach => self.find_stray(address, mark, home, reach, lines),
        }
    }

    #[cold]
    fn find_stray(
        &self,
        address: u64,
        mark: Mark,
        home: u64,
        reach: u64,
        lines: u64,
    ) -> Option<Found> {
        for distance in 1..=reach {
            let at = around(home + distance, lines);
            let line = self.line(at)?;
            for position in line.candidates(mark) {
                if let Some(id) = self.holds(line, position, address) {
                    return Some(Found {
                        line: at,
                        position,
                        id,
                        is_stray: true,
                    });
                }
            }
        }
        None
    }

    #[inline]
    fn holds(&self, line: &Line, position: u32, address: u64) -> Option<u64> {
        let id = line.id(position);
        (self.entry(id)?.address() == address).then_some(id)
    }

    /// Enters `id` in the index.
    #[inline]
    fn place(&self, hash: u64, id: u64, lines: u64) -> Placed {
        let home = home(hash, lines);
        let mark = Mark::of(hash);
        if let Some(line) = self.line(home)
            && let Some(position) = line.free()
        {
            line.put(position, id, mark);
            return Placed::Yes;
        }
        self.place_stray(home, id, mark, lines)
    }

    #[cold]
    fn place_stray(&self, home: u64, id: u64, mark: Mark, lines: u64) -> Placed {
        for distance in 1..=REACH.min(lines - 1) {
            let Some(line) = self.line(around(home + distance, lines)) else {
                break;
            };
            if let Some(position) = line.free() {
                // The home first: who looks without the lock must not stop there.
                if let Some(home) = self.line(home) {
                    home.add_stray(distance, mark);
                }
                line.put(position, id, mark);
                return Placed::Yes;
            }
        }
        Placed::Crowded
    }

    /// Takes a record out of index and slab.
    #[inline]
    fn erase(&self, found: &Found, hash: u64) {
        // The slab first: it is the truth, should this thread vanish in a fork.
        self.free_entry(found.id);
        if let Some(line) = self.line(found.line) {
            line.take(found.position);
        }
        if found.is_stray
            && let Some(home) = self.line(home(hash, self.line_count()))
        {
            home.remove_stray();
        }
        add(&self.live, 1_u64.wrapping_neg());
    }

    #[inline]
    fn take_entry(&self) -> Option<u64> {
        let id = self.free.load(Ordering::Relaxed);
        if id != NONE {
            let next = self.entry(id)?.link();
            self.free.store(next, Ordering::Relaxed);
            return Some(id);
        }
        let id = self.used();
        if id >= self.entries.all().len() as u64 {
            return None;
        }
        self.used.store(id + 1, Ordering::Relaxed);
        Some(id)
    }

    #[inline]
    fn free_entry(&self, id: u64) {
        if let Some(entry) = self.entry(id) {
            entry.erase(self.free.load(Ordering::Relaxed));
            self.free.store(id, Ordering::Relaxed);
        }
    }

    /// Makes the index larger; `false` when it is as large as it may be.
    #[cold]
    #[inline(never)]
    fn grow(&self, guard: &Guard<'_>) -> bool {
        let lines = self.line_count();
        let wanted = (lines + lines.div_ceil(3)).min(self.line_room());
        wanted > lines && {
            self.rebuild(guard, wanted);
            true
        }
    }

    /// Makes the index anew, of so many lines or more, from the slab.
    fn rebuild(&self, _guard: &Guard<'_>, wanted: u64) {
        let shape = self.shape.load(Ordering::Relaxed);
        // Odd, also when it was begun by a thread that vanished.
        let rebuilds = shape >> 32 | 1;
        self.shape
            .store(rebuilds << 32 | shape & LINES, Ordering::Relaxed);
        // Keeps the odd number before the first change: who sees a change sees it, too.
        fence(Ordering::Release);
        let mut lines = wanted;
        while !self.fill(lines) {
            lines = (lines + lines.div_ceil(3)).min(self.line_room());
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
            if address != 0 && self.place(hash(address), id, lines) == Placed::Crowded {
                if lines < self.line_room() {
                    return false;
                }
                // As good as impossible: 15 full lines in a row, in an index of the largest size.
                self.free_entry(id);
                add(&self.full, 1);
                add(&self.live, 1_u64.wrapping_neg());
            }
        }
        true
    }
}

/// A number that depends on every bit of the address.
#[inline]
fn hash(address: u64) -> u64 {
    let product = u128::from(address) * 0x9e37_79b9_7f4a_7c15_u128;
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are folded")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

/// The home of a hash among so many lines; by its high half, as the tag is of the low one.
#[inline]
fn home(hash: u64, lines: u64) -> u64 {
    ((hash >> 32) * lines) >> 32
}

/// A line index beyond the end, from the beginning again.
#[inline]
fn around(index: u64, lines: u64) -> u64 {
    if index < lines { index } else { index - lines }
}

/// Adds, wrapping, to what only the holder of the lock writes.
#[inline]
fn add(counter: &AtomicU64, n: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(n);
    counter.store(sum, Ordering::Relaxed);
}

/// What tests look at and break.
#[cfg(test)]
impl Shard {
    /// Strays that some line remembers.
    pub(crate) fn strays(&self) -> u64 {
        (0..self.line_count())
            .filter_map(|index| self.line(index))
            .filter(|line| line.has_strays())
            .count() as u64
    }

    /// Runs `f` while this thread holds the shard.
    pub(crate) fn held(&self, f: impl FnOnce()) {
        let _guard = self.lock.acquire().expect("free");
        f();
    }

    /// Leaves everything but the slab in disorder, as in the middle of a rebuild.
    pub(crate) fn wreck(&self) {
        self.shape.fetch_add(1 << 32, Ordering::Relaxed);
        for index in 0..self.line_count() / 2 {
            if let Some(line) = self.line(index) {
                line.clear();
            }
        }
        self.free.store(3, Ordering::Relaxed);
        self.live.store(1, Ordering::Relaxed);
    }
}
