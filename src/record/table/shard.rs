//! One shard of the live table: records side by side, and an index to them.
//!
//! ```text
//!   index   [line][line][line] ...       an address has a home line; see `line`
//!              │ id
//!   slab    [entry 0][entry 1] ... [entry used - 1]  never used
//!              free entries are linked, the last freed first
//! ```
//!
//! The index is rebuilt from the slab, in place, half as large again, when it gets
//! crowded; records never move. Rebuilding 16,000 records takes some 60 µs.
//!
//! Who only wants to know that an address is *not* here takes no lock. It reads
//! `shape`, the home line, and `shape` again: an entry moves only in a rebuild,
//! and a rebuild changes `shape`. The lock and all that changes often are on
//! another cache line, so such a look-up meets nothing that others write but,
//! perhaps, the home line itself.

use super::entry::{Entry, Record, Words};
use super::index::{CROWDED, FIRST_LINES, Found, LINES, Placed, hash, holds, home};
use super::line::{IDS, Line, Mark, Positions};
use super::machine;
use crate::record::lock::{Guard, Held, Lock};
use crate::record::zone::Part;
use crate::sync::{AtomicU64, Ordering, fence};

/// No free entry.
const NONE: u64 = u64::MAX;

/// What all look at, on one cache line, and what changes, on another.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Shard {
    /// `rebuilds << 32 | lines`; the number of rebuilds is odd during one.
    pub(super) shape: AtomicU64,
    pub(crate) lines: Part<Line>,
    pub(crate) entries: Part<Entry>,
    /// See [`TableLosses`]. Here, where it is seldom written.
    missed: AtomicU64,
    _apart: [u64; 2],
    pub(super) lock: Lock,
    /// Records here. Written under the lock, read by anyone.
    pub(super) live: AtomicU64,
    /// Entries ever used since the shard was last empty and swept.
    used: AtomicU64,
    /// The first free entry below `used`.
    free: AtomicU64,
    /// See [`TableLosses`].
    replaced: AtomicU64,
    pub(super) full: AtomicU64,
    busy: AtomicU64,
    inherited: AtomicU64,
}

const _: () = assert!(size_of::<Shard>() == 128 && core::mem::offset_of!(Shard, lock) == 64);

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amend {
    /// It stays as it is.
    Keep,
    /// It becomes this one, of the same block.
    Replace(Record),
    /// It goes.
    Remove,
}

/// What a table could not do, and what it had to guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableLosses {
    /// Records not kept because there was no room for them.
    pub full: u64,
    /// Insertions and removals not done because the lock could not be had.
    pub busy: u64,
    /// Those of them that were no insertions: whose record it was, nobody knows.
    pub missed: u64,
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
            missed: self.missed.saturating_add(other.missed),
            replaced: self.replaced.saturating_add(other.replaced),
            inherited: self.inherited.saturating_add(other.inherited),
        }
    }
}

/// The most records a shard can have.
pub(crate) const MOST: u64 = IDS;

impl Shard {
    pub(crate) const fn new() -> Self {
        Self {
            shape: AtomicU64::new(FIRST_LINES as u64),
            lines: Part::new(),
            entries: Part::new(),
            missed: AtomicU64::new(0),
            _apart: [0; 2],
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
            missed: self.missed.load(Ordering::Relaxed),
            replaced: self.replaced.load(Ordering::Relaxed),
            inherited: self.inherited.load(Ordering::Relaxed),
        }
    }

    pub(super) fn line_count(&self) -> u64 {
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
    /// Begins to bring into the cache what an insertion with this hash touches.
    #[inline]
    pub(super) fn fetch(&self, hash: u64) {
        machine::fetch(&self.lock);
        if let Some(line) = self.line(home(hash, self.line_count())) {
            machine::fetch(line);
        }
        let next = self.free.load(Ordering::Relaxed);
        let next = if next == NONE { self.used() } else { next };
        if let Some(entry) = self.entry(next) {
            machine::fetch(entry);
        }
    }

    /// Keeps a record, instead of one with the same address if need be.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "measured: a call takes 25 instructions of 180"
    )]
    pub(super) fn insert(&self, hash: u64, words: Words) -> bool {
        let mark = Mark::of(hash);
        let Some(guard) = self.lock.try_acquire() else {
            return self.insert_later(hash, words);
        };
        let lines = self.line_count();
        // The usual case: nothing looks like the address, and there is room.
        if let Some(line) = self.line(home(hash, lines))
            && let Some(position) = line.free_without(mark)
            && self.live() < lines * CROWDED
            && let Some((id, entry)) = self.take_entry()
        {
            line.put(position, id, mark);
            entry.write(&words);
            add(&self.live, 1);
            return true;
        }
        self.insert_anyhow(Held::by(&guard), hash, words)
    }

    /// The same when somebody has the lock.
    #[cold]
    #[inline(never)]
    fn insert_later(&self, hash: u64, words: Words) -> bool {
        self.acquire_anyhow()
            .is_some_and(|guard| self.insert_anyhow(Held::by(&guard), hash, words))
    }

    /// The same, whatever is in the way; apart, as it needs all registers.
    #[cold]
    #[inline(never)]
    fn insert_anyhow(&self, held: Held<'_>, hash: u64, words: Words) -> bool {
        let mut lines = self.line_count();
        let Some(mut line) = self.line(home(hash, lines)) else {
            add(&self.full, 1);
            return false;
        };
        if let Some(found) = self.find(words.address(), hash, line, lines) {
            found.entry.write(&words);
            add(&self.replaced, 1);
            return true;
        }
        let mut is_crowded = self.live() >= lines * CROWDED;
        let Some((id, entry)) = self.take_entry() else {
            add(&self.full, 1);
            return false;
        };
        loop {
            // A crowded line may do when there is no room for more of them.
            let has_grown = is_crowded && self.grow(held);
            if has_grown {
                lines = self.line_count();
                line = self.line(home(hash, lines)).unwrap_or(line);
            }
            if self.place(hash, id, line, lines) == Placed::Yes {
                break;
            }
            if is_crowded && !has_grown {
                self.free_entry(id, entry);
                add(&self.full, 1);
                return false;
            }
            is_crowded = true;
        }
        entry.write(&words);
        add(&self.live, 1);
        true
    }

    /// Whether the record of an address may be here: `false` when it is not.
    #[inline(never)]
    pub(crate) fn may_have(&self, address: u64) -> bool {
        let hash = hash(address);
        // Acquire: as in `remove`.
        let shape = self.shape.load(Ordering::Acquire);
        if let Some(line) = self.line(home(hash, shape & LINES))
            && (shape >> 32).is_multiple_of(2)
        {
            let (like, has_strays) = line.candidates(Mark::of(hash));
            // Keeps the loads of the line before the second look.
            fence(Ordering::Acquire);
            return !like.is_empty() || has_strays || self.shape.load(Ordering::Relaxed) != shape;
        }
        true
    }

    /// Takes the record of an address out, into `words` if they are wanted; whether
    /// there was one. Where few blocks are recorded there is none, and no lock is
    /// needed.
    #[inline]
    pub(crate) fn remove(&self, address: u64, words: Option<&mut Words>) -> bool {
        let hash = hash(address);
        // Acquire: the index as the last rebuild left it.
        let shape = self.shape.load(Ordering::Acquire);
        if let Some(line) = self.line(home(hash, shape & LINES))
            && (shape >> 32).is_multiple_of(2)
        {
            let mark = Mark::of(hash);
            let (like, has_strays) = line.candidates(mark);
            if !like.is_empty() {
                return self.remove_like(address, words, line, like, shape);
            }
            // Keeps the loads of the line before the second look.
            fence(Ordering::Acquire);
            if !has_strays && self.shape.load(Ordering::Relaxed) == shape {
                return false;
            }
        }
        self.remove_anyhow(address, words)
    }

    /// The same for an address that something in its line looks like; apart, so
    /// that the usual answer saves no registers.
    #[inline(never)]
    fn remove_like(
        &self,
        address: u64,
        words: Option<&mut Words>,
        line: &Line,
        mut marked: Positions,
        shape: u64,
    ) -> bool {
        // What the lock is held for should not have to come from far: the entry is looked at
        // before, and the line is fetched while the lock is waited for.
        let entries = self.entries.all();
        let mut again = marked.clone();
        let mut look = |at| holds(entries, line, line, at, address);
        if marked.find_map(&mut look).is_some() {
            machine::fetch(line);
        } else if !line.has_stray_like(Mark::of(hash(address))) {
            // As above.
            fence(Ordering::Acquire);
            if self.shape.load(Ordering::Relaxed) == shape {
                return false;
            }
        }
        let Some(_guard) = self.lock.try_acquire() else {
            return self.remove_anyhow(address, words);
        };
        if self.shape.load(Ordering::Relaxed) == shape
            && let Some(found) = again.find_map(look)
            && found.is_entered()
        {
            self.strike(&found, words);
            return true;
        }
        self.remove_locked(address, words)
    }

    #[cold]
    #[inline(never)]
    fn remove_anyhow(&self, address: u64, words: Option<&mut Words>) -> bool {
        self.acquire_or_miss()
            .is_some_and(|_guard| self.remove_locked(address, words))
    }

    /// The same for the holder of the lock.
    #[cold]
    #[inline(never)]
    fn remove_locked(&self, address: u64, words: Option<&mut Words>) -> bool {
        let found = self.find_locked(address, hash(address));
        found.is_some_and(|found| {
            self.strike(&found, words);
            true
        })
    }

    /// Takes a record out, into `words` if they are wanted.
    #[inline]
    fn strike(&self, found: &Found<'_>, words: Option<&mut Words>) {
        if let Some(words) = words {
            found.entry.copy_to(words);
        }
        self.erase(found);
    }

    /// Copies up to `batch.len()` of the `wanted` records from entry `from` on,
    /// and takes them out if told so; samples stay, in no recording. Returns how many, and the entry to go on
    /// from; `None` when the lock could not be had.
    pub(crate) fn collect(
        &self,
        from: u64,
        batch: &mut [(u64, Record)],
        wanted: impl Fn(&Record) -> bool,
        take: bool,
    ) -> Option<(usize, u64)> {
        let _guard = self.acquire_or_miss()?;
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
                if take && record.sampled {
                    // The sampler's too.
                    if let Some(entry) = self.entry(at) {
                        let recording = 0;
                        let record = Record {
                            recording,
                            ..record
                        };
                        entry.write(&Words::of(address, &record));
                    }
                } else if take && let Some(found) = self.find_locked(address, hash(address)) {
                    self.erase(&found);
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

    /// Changes up to `count` entries from entry `from` on as `amend` says.
    /// Returns the entry to go on from; `None` when the lock could not be had.
    pub(crate) fn amend(
        &self,
        from: u64,
        count: u64,
        amend: &impl Fn(&Record) -> Amend,
    ) -> Option<u64> {
        let _guard = self.acquire_or_miss()?;
        let end = self.used().min(from.saturating_add(count));
        for at in from..end {
            let Some(entry) = self.entry(at) else { break };
            let address = entry.address();
            if address == 0 {
                continue;
            }
            match amend(&entry.read()) {
                Amend::Keep => {}
                Amend::Replace(record) => entry.write(&Words::of(address, &record)),
                Amend::Remove => {
                    if let Some(found) = self.find_locked(address, hash(address)) {
                        self.erase(&found);
                    }
                }
            }
        }
        Some(end)
    }

    #[inline]
    fn acquire(&self) -> Option<Guard<'_>> {
        match self.lock.try_acquire() {
            Some(guard) => Some(guard),
            None => self.acquire_anyhow(),
        }
    }

    /// The same when somebody has it.
    #[cold]
    #[inline(never)]
    fn acquire_anyhow(&self) -> Option<Guard<'_>> {
        let guard = self.lock.acquire();
        match &guard {
            Some(guard) if guard.is_inherited() => self.repair(Held::by(guard)),
            Some(_) => {}
            None => {
                self.busy.fetch_add(1, Ordering::Relaxed);
            }
        }
        guard
    }

    /// The same for what is no insertion.
    #[inline]
    fn acquire_or_miss(&self) -> Option<Guard<'_>> {
        let guard = self.acquire();
        if guard.is_none() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        guard
    }

    /// Puts a shard in order whose last holder vanished in the middle: the slab
    /// is the truth (an address is written last and erased first), the rest
    /// follows from it.
    #[cold]
    fn repair(&self, held: Held<'_>) {
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
        self.rebuild(held, self.line_count());
        add(&self.inherited, 1);
    }

    #[inline]
    pub(super) fn entry(&self, id: u64) -> Option<&Entry> {
        self.entries.all().get(usize::try_from(id).ok()?)
    }

    /// Takes a record out of index and slab.
    #[inline]
    fn erase(&self, found: &Found<'_>) {
        // The slab first: it is the truth, should this thread vanish in a fork.
        self.free_entry(found.id, found.entry);
        found.take();
        add(&self.live, 1_u64.wrapping_neg());
    }

    #[inline]
    fn take_entry(&self) -> Option<(u64, &Entry)> {
        let id = self.free.load(Ordering::Relaxed);
        if id != NONE {
            let entry = self.entry(id)?;
            self.free.store(entry.link(), Ordering::Relaxed);
            return Some((id, entry));
        }
        let id = self.used();
        let entry = self.entry(id)?;
        self.used.store(id + 1, Ordering::Relaxed);
        Some((id, entry))
    }

    #[inline]
    pub(super) fn free_entry(&self, id: u64, entry: &Entry) {
        entry.erase(self.free.load(Ordering::Relaxed));
        self.free.store(id, Ordering::Relaxed);
    }
}

/// Adds, wrapping, to what only the holder of the lock writes.
#[inline]
pub(super) fn add(counter: &AtomicU64, n: u64) {
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

#[cfg(test)]
mod tests {
    use super::{Mark, Ordering, Record, Words, hash, home};
    use crate::record::table::Table;

    /// Bug prevented: what a free position once named is taken for what it holds.
    #[test]
    fn a_position_that_was_freed_since_it_was_seen_is_not_what_is_taken_out() {
        let table = Table::new();
        assert!(table.open(1) > 0);
        let sought = 0x7f00_0000_0000_u64;
        let shard = table.shard_of(sought).expect("open");
        let at = |address: u64| home(hash(address), shard.line_count());
        let tag = |address: u64| hash(address) & 0xff;
        let find = |is_wanted: &dyn Fn(u64) -> bool| {
            let mut near = (sought + 1)..(sought + (1 << 18));
            near.find(|&address| is_wanted(address))
                .expect("one of them")
        };
        let twin = find(&|other| at(other) == at(sought) && tag(other) == tag(sought));
        let neighbour = find(&|other| at(other) == at(sought) && tag(other) != tag(sought));
        let stranger = find(&|other| at(other) != at(sought));
        let insert = |address| {
            let words = Words::of(address, &Record::default());
            shard.insert(hash(address), words)
        };
        let mut out = Words::default();
        assert!(insert(neighbour) && insert(twin));
        let line = shard.line(at(sought)).expect("open");
        let mark = Mark::of(hash(sought));
        let shape = shard.shape.load(Ordering::Relaxed);
        // Seen without the lock: the twin. Then all this happens.
        let (seen, _) = line.candidates(mark);
        assert!(shard.remove(twin, None) && shard.remove(neighbour, None));
        assert!(insert(stranger) && insert(sought));
        assert_eq!((line.id(0), line.id(1)), (1, 1));
        assert!(shard.remove_like(sought, Some(&mut out), line, seen, shape));
        assert_eq!(out.address(), sought);
        assert_eq!(line.free(), Some(0));
    }
}
