//! Memory of our own for the blocks that a sampler has chosen.
//!
//! Not from the inner allocator: what a page costs there depends on the program's
//! other blocks. glibc, for one, tidies up all the small blocks that were freed
//! when it is asked for one so large, or gets it back next to other free memory
//! (`malloc_consolidate`), and has to cut them up again afterwards: a parse of Rust
//! took a tenth longer for sixty samples.
//!
//! ```text
//!   range     unit │ unit │ unit │ ...   64 at most: the first of 128 MiB, each
//!             link │ link │ link │ ...   twice as large as the last, up to 1 GiB
//!   run       1 to 16 units that follow each other, for one block
//!
//!   fresh ──take──▶ out ──give back──▶ idle ──take──▶ out     the last one back is the
//!                                                             first to go out again
//! ```
//!
//! A run keeps its length for ever, so there is a list of idle ones for each
//! length, and never more of that length than were out at once. (A fork while
//! another thread changes a list loses the child what was idle.)
//!
//! Whether a block is in such a run is a matter of its address and of nothing
//! else: no record is needed to free it, whatever became of the profile. Beside
//! the units are links, which make the lists, and say which block of the inner
//! allocator's a run that is out stands for. They are not in the units: to give a
//! run back touches none of it, and no program that writes to a block that it has
//! freed can break them.

use core::fmt;

use crate::arena::Zeroed;
use crate::record::lock::{Guard, Lock};
use crate::record::look::{Look, UNIT};
use crate::record::zone::{Asked, Cell, Plot, Zone, leaving_as_much};
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Units of the longest run.
const LONGEST: usize = 16;
/// Bytes of the longest run: 32 KiB.
pub(super) const LONGEST_BYTES: usize = LONGEST * UNIT;

/// How many ranges there can be.
const RANGES: usize = 64;
/// Units of the first range.
const FIRST: u32 = 64 * 1024;
/// Units that have their memory from the start: 256 KiB.
const TOUCHED: usize = 128;
/// Units of the largest range.
const LARGEST: u32 = 1 << UNIT_BITS;
const _: () = assert!(FIRST.is_power_of_two());
/// Units of the smallest range, when the system has no addresses for a larger one.
const SMALLEST: u32 = 512;
// Half of it, which may be all that is lent, has room for a run.
const _: () = assert!(SMALLEST as usize / 2 > LONGEST);

/// A unit's number: its range and its place there. That of the very first unit is
/// 0 and stands for none.
const UNIT_BITS: u32 = 19;
const _: () = assert!(RANGES << UNIT_BITS < OUT as usize);

/// In the link of a run's first unit: it is out; the rest is its length.
const OUT: u32 = 1 << 31;

/// What is known of the run that begins at a unit.
struct Link {
    /// The number of the next run on its list, or that it is out.
    state: AtomicU32,
    /// The block that the caller has given with [`Room::take`].
    original: AtomicPtr<u8>,
}

/// A unit, which belongs to whoever has the block in it.
#[repr(align(2048))]
struct Unit {
    bytes: [AtomicU64; UNIT / 8],
}

const _: () = assert!(size_of::<Unit>() == UNIT && align_of::<Unit>() == UNIT);

// SAFETY: atomics: zero bytes are valid.
unsafe impl Zeroed for Link {}
// SAFETY: as above.
unsafe impl Zeroed for Unit {}
// SAFETY: `Zeroed` says so; nothing to drop.
unsafe impl Cell for Link {}
// SAFETY: as above.
unsafe impl Cell for Unit {}

/// Units that follow each other; none until it is opened.
struct Range {
    links: Zone<Link>,
    units: Zone<Unit>,
}

/// Memory that a range can be opened with.
struct Plots {
    links: Plot<Link>,
    units: Plot<Unit>,
}

impl Asked for Plots {
    fn bytes(&self) -> usize {
        self.links.bytes().saturating_add(self.units.bytes())
    }
}

/// A place among the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number(u32);

impl Number {
    const NONE: Self = Self(0);

    fn new(range: usize, unit: u32) -> Self {
        let range = u32::try_from(range).unwrap_or(0);
        Self(range << UNIT_BITS | unit)
    }

    fn range(self) -> usize {
        (self.0 >> UNIT_BITS) as usize
    }

    fn unit(self) -> u32 {
        self.0 & (LARGEST - 1)
    }
}

/// The ranges, and the lists of what is not out.
pub(super) struct Room {
    /// What finds a block of ours when it is freed.
    look: &'static Look,
    ranges: [Range; RANGES],
    /// Whoever holds it may write to all below, and to the links.
    lock: Lock,
    /// How many ranges are in use.
    used: AtomicU32,
    /// The first unit that never was out, in the last of them.
    fresh: AtomicU32,
    /// Before which unit of that one all are looked at when they are freed.
    covered: AtomicU32,
    /// The first idle run, by its length less one.
    idle: [AtomicU32; LONGEST],
    /// Runs that are out.
    lent: AtomicU32,
}

impl Room {
    /// No units.
    pub(super) const fn new(look: &'static Look) -> Self {
        Self {
            look,
            ranges: [const {
                Range {
                    links: Zone::new(),
                    units: Zone::new(),
                }
            }; RANGES],
            lock: Lock::new(),
            used: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            covered: AtomicU32::new(0),
            idle: [const { AtomicU32::new(0) }; LONGEST],
            lent: AtomicU32::new(0),
        }
    }

    /// Makes ready what the first [`take`](Self::take) would, and has the system
    /// give the first units their memory; `false` when there is none, which that
    /// one then tries again.
    pub(super) fn open(&self) -> bool {
        let Some(_all) = self.hold() else {
            return false;
        };
        if self.fresh.load(Ordering::Relaxed) != 0 {
            return true;
        }
        let is_open = self.grow();
        let units = self.ranges.first().map(Range::lendable);
        for unit in units.into_iter().flatten().take(TOUCHED) {
            // None of them was ever out.
            let [first, ..] = &unit.bytes;
            first.store(0, Ordering::Relaxed);
        }
        is_open
    }

    /// A run for a block of `size` bytes, with whatever is in it, that stands for
    /// `original`; null when there is no memory, and for sizes above 32 KiB.
    pub(super) fn take(&self, size: usize, original: *mut u8) -> *mut u8 {
        let length = units_for(size);
        if !(1..=LONGEST).contains(&length) {
            return core::ptr::null_mut();
        }
        let Some(_all) = self.hold() else {
            return core::ptr::null_mut();
        };
        let Some(number) = self.pop(length).or_else(|| self.cut(length)) else {
            return core::ptr::null_mut();
        };
        let Some(link) = self.link(number) else {
            return core::ptr::null_mut();
        };
        link.original.store(original, Ordering::Relaxed);
        link.state.store(OUT | word(length), Ordering::Relaxed);
        let lent = self.lent.load(Ordering::Relaxed);
        self.lent.store(lent.wrapping_add(1), Ordering::Relaxed);
        self.place(number)
    }

    /// Whether the block is in a run here.
    #[inline]
    pub(super) fn holds(&self, block: *mut u8) -> bool {
        self.find(block).is_some()
    }

    /// What a block stands for that is in a run here.
    #[inline]
    pub(super) fn original(&self, block: *mut u8) -> Option<*mut u8> {
        // Most blocks can be told without a call.
        if block.addr().is_multiple_of(UNIT) {
            self.original_at_unit(block)
        } else {
            None
        }
    }

    #[inline(never)]
    fn original_at_unit(&self, block: *mut u8) -> Option<*mut u8> {
        let number = self.find(block)?;
        self.out(number)?;
        Some(self.link(number)?.original.load(Ordering::Relaxed))
    }

    /// Keeps a run that is out for a block of another size, and another original;
    /// `false` when the block is in none, or such a size is given a longer run or
    /// a shorter one. For the block's owner.
    pub(super) fn reuse(&self, block: *mut u8, size: usize, original: *mut u8) -> bool {
        let Some(number) = self.find(block) else {
            return false;
        };
        let fits = self.out(number) == Some(units_for(size));
        if fits && let Some(link) = self.link(number) {
            link.original.store(original, Ordering::Relaxed);
        }
        fits
    }

    /// Takes a run back. One that cannot be entered, because the lock cannot be
    /// had, is lost.
    ///
    /// # Safety
    /// Nobody uses the block that was in it after this.
    pub(super) unsafe fn give_back(&self, block: *mut u8) {
        let Some(number) = self.find(block) else {
            return;
        };
        // Not out: the program has freed it before.
        let Some(length) = self.out(number) else {
            return;
        };
        if let Some(_all) = self.hold() {
            self.push(length, number);
            let lent = self.lent.load(Ordering::Relaxed);
            self.lent.store(lent.wrapping_sub(1), Ordering::Relaxed);
        }
    }

    /// How many runs are out.
    pub(super) fn lent(&self) -> u32 {
        self.lent.load(Ordering::Relaxed)
    }

    /// The lock, for those who change the lists.
    fn hold(&self) -> Option<Guard<'_>> {
        let guard = self.lock.acquire()?;
        if guard.is_inherited() {
            // Whoever held it is not in this process and may have been half way: it begins anew
            // with fresh runs. What is out stays out, and may come back.
            for list in &self.idle {
                list.store(Number::NONE.0, Ordering::Relaxed);
            }
        }
        Some(guard)
    }

    fn pop(&self, length: usize) -> Option<Number> {
        let list = self.idle.get(length.wrapping_sub(1))?;
        let first = Number(list.load(Ordering::Relaxed));
        if first == Number::NONE {
            return None;
        }
        let next = self.link(first)?.state.load(Ordering::Relaxed);
        list.store(next, Ordering::Relaxed);
        Some(first)
    }

    fn push(&self, length: usize, number: Number) {
        let list = self.idle.get(length.wrapping_sub(1));
        if let (Some(list), Some(link)) = (list, self.link(number)) {
            let next = list.load(Ordering::Relaxed);
            link.state.store(next, Ordering::Relaxed);
            list.store(number.0, Ordering::Relaxed);
        }
    }

    /// A run that never was out.
    fn cut(&self, length: usize) -> Option<Number> {
        let length = word(length);
        let mut first = Number(self.fresh.load(Ordering::Relaxed));
        if self.left_from(first) < length {
            // What is left of that range, less than a run, is nobody's.
            if !self.grow() {
                return None;
            }
            first = Number(self.fresh.load(Ordering::Relaxed));
        }
        let end = first.unit().wrapping_add(length);
        if self.covered.load(Ordering::Relaxed) < end && !self.cover(first.range(), end) {
            return None;
        }
        // Release: not before it is covered, whenever a fork looks.
        self.fresh
            .store(first.0.wrapping_add(length), Ordering::Release);
        Some(first)
    }

    /// Has frees looked up of what lies before the unit `end` of a range, twice as much each
    /// time; `false` when that cannot be done now.
    #[cold]
    fn cover(&self, at: usize, end: u32) -> bool {
        let Some(range) = self.ranges.get(at) else {
            return false;
        };
        let begin = range.begin();
        let wanted = end.saturating_sub(begin).next_power_of_two();
        let end = begin.saturating_add(wanted.max(word(TOUCHED)));
        let last = end.min(range.len()).saturating_sub(1);
        let is_covered = self
            .look
            .cover(range.place(begin).addr(), range.place(last).addr());
        if is_covered {
            // Release: not before it is, whenever a fork looks.
            self.covered.store(last.wrapping_add(1), Ordering::Release);
        }
        is_covered
    }

    /// How many units of a range lie at this one and after it; none at its very first,
    /// which is never out, and which what follows the last one of a full range is.
    fn left_from(&self, number: Number) -> u32 {
        if number.unit() == 0 {
            return 0;
        }
        let range = self.ranges.get(number.range());
        range.map_or(0, |range| range.len().saturating_sub(number.unit()))
    }

    /// Opens the next range; `false` when there is no memory, or none left.
    #[cold]
    fn grow(&self) -> bool {
        let at = self.used.load(Ordering::Relaxed);
        let Some(range) = self.ranges.get(at as usize) else {
            return false;
        };
        let wanted = units_of(at as usize);
        let plots = leaving_as_much(|halvings| range.plots(wanted >> halvings));
        if !plots.is_some_and(|plots| range.open(plots)) {
            return false;
        }
        // In this order, so Release: a thread that vanishes in between leaves nothing that is
        // lent twice, or where nobody looks.
        self.used.store(at.wrapping_add(1), Ordering::Relaxed);
        self.covered.store(0, Ordering::Release);
        let first = range.begin().max(1);
        self.fresh
            .store(Number::new(at as usize, first).0, Ordering::Release);
        true
    }

    /// Which unit begins at the block's address.
    #[inline]
    fn find(&self, block: *mut u8) -> Option<Number> {
        if !block.addr().is_multiple_of(UNIT) {
            return None;
        }
        let opened = self.ranges.iter().take_while(|range| range.len() > 0);
        for (at, range) in opened.enumerate() {
            let offset = block.addr().wrapping_sub(range.units.first().addr());
            if offset / UNIT < range.len() as usize {
                return Some(Number::new(at, word(offset / UNIT)));
            }
        }
        None
    }

    fn place(&self, number: Number) -> *mut u8 {
        let Some(range) = self.ranges.get(number.range()) else {
            return core::ptr::null_mut();
        };
        range.place(number.unit()).cast()
    }

    fn link(&self, number: Number) -> Option<&Link> {
        let range = self.ranges.get(number.range())?;
        range.links.get(u64::from(number.unit()))
    }

    /// The length of a run that is out. Its owner may ask: the one that took it
    /// out wrote this before anybody had the block.
    fn out(&self, number: Number) -> Option<usize> {
        let value = self.link(number)?.state.load(Ordering::Relaxed);
        let length = (value & !OUT) as usize;
        (value & OUT != 0 && (1..=LONGEST).contains(&length)).then_some(length)
    }
}

impl Range {
    /// Asks for the memory of so many units; `None` when there is none, and for fewer than a
    /// range has.
    fn plots(&self, units: u32) -> Option<Plots> {
        if units < SMALLEST {
            return None;
        }
        // The links may be of a thread that a fork has left behind, which had room for fewer.
        let links = self.links.plot(units as usize)?;
        let units = self.units.plot(links.len().min(units as usize))?;
        Some(Plots { links, units })
    }

    /// Makes it units of this memory; `false` when somebody else does not come to an end with
    /// that.
    fn open(&self, plots: Plots) -> bool {
        // The links first: too many of them do no harm while there are no units.
        self.links.open(plots.links) && self.units.open(plots.units)
    }

    /// The first unit to be lent: at a multiple of half of what the range is, so that as many
    /// bits as can be are zero in the addresses of those that come after it.
    fn begin(&self) -> u32 {
        let first = self.units.first().addr();
        let half = (self.len() as usize * UNIT / 2).max(UNIT);
        word((first.next_multiple_of(half) - first) / UNIT)
    }

    /// What is from there on.
    fn lendable(&self) -> &[Unit] {
        let units = self.units.all();
        units.get(self.begin() as usize..).unwrap_or_default()
    }

    /// Where a unit is.
    fn place(&self, unit: u32) -> *mut Unit {
        self.units.first().wrapping_add(unit as usize)
    }

    #[inline]
    fn len(&self) -> u32 {
        u32::try_from(self.units.len()).unwrap_or(0)
    }
}

/// How many units a range has when the system has addresses for them.
fn units_of(range: usize) -> u32 {
    let doublings = word(range).min((LARGEST / FIRST).ilog2());
    FIRST << doublings
}

/// How many units a block of `size` bytes takes.
fn units_for(size: usize) -> usize {
    size.div_ceil(UNIT)
}

/// A small number, as lists have it.
fn word(small: usize) -> u32 {
    u32::try_from(small).unwrap_or(u32::MAX)
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("fresh", &self.fresh)
            .field("lent", &self.lent)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
