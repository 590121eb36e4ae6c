//! What becomes of a block while something is recorded.
//!
//! The order around the inner allocator is what keeps addresses honest: an
//! entry leaves the table *before* the inner `dealloc` or a `realloc` that may
//! move, because afterwards another thread may already own the address; and it
//! is put back when the `realloc` fails.
//!
//! A small block that is chosen as a sample gets a [stand-in](stand_in) before
//! anyone has seen it: the program works there, and the inner allocator goes on
//! being asked about the block that it has given.

use core::alloc::Layout;
use core::hint::black_box;
use std::alloc;

use crate::ledger::Slot;
use crate::record::clock;
use crate::record::everywhere;
use crate::record::hooks::{self, TABLE, capture, recent_ms};
use crate::record::profiling::{self, Current, NOBODY};
use crate::record::recording::Tag;
use crate::record::stand_in::{self, is_large};
use crate::record::table::{Record, Words};
use crate::record::visits::{self, Thread};

/// A block that the inner allocator has just given for `layout`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New {
    pub(crate) block: *mut u8,
    pub(crate) layout: Layout,
    pub(crate) zeroed: bool,
}

/// A block that is about to be resized, with what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resize {
    block: *mut u8,
    /// The program's layout.
    given: Layout,
    new_size: usize,
    record: Option<Record>,
    /// The profile that was under way when the record was taken out.
    profile: Option<Current>,
}

/// Who may record what the calling thread does.
fn recorder() -> Option<(&'static Slot, &'static Thread, Option<Tag>, Option<Current>)> {
    let current = profiling::current();
    let here = if current.is_some() || everywhere::tag().is_some() {
        // All threads record, also those that have not done so before.
        let made = visits::make();
        if made.is_none() && !visits::is_quiet_outside() {
            hooks::lose_unseen(everywhere::tag());
        }
        made
    } else {
        visits::here_with_slot()
    };
    let (slot, thread) = here?;
    Some((slot, thread, thread.current(), current))
}

/// Records a new block, if somebody wants it. Gives the block that the program
/// gets: this one, or its stand-in. Nobody else knows it yet.
#[cold]
#[inline(never)]
pub(crate) fn allocated(new: New) -> *mut u8 {
    // What most calls are: of a thread in a recording, while there is no profile. Nothing of the
    // rest is in their way.
    if profiling::current().is_none()
        && let Some(thread) = visits::here()
        && let Some(tag) = thread.current()
        && thread
            .unless_quiet(|| enter_recorded(new, thread, tag))
            .is_some()
    {
        return new.block;
    }
    allocated_anyhow(new)
}

/// Enters a new block that a recording gets, and no sampler has chosen.
#[inline]
fn enter_recorded(new: New, thread: &Thread, tag: Tag) {
    TABLE.fetch(new.block.addr());
    let record = Record {
        node: capture(thread, Some(tag)),
        size: new.layout.size() as u64,
        birth: recent_ms(thread),
        recording: tag.id,
        sampled: false,
    };
    if !TABLE.insert(new.block.addr(), &record) {
        return lose(&record);
    }
    // As in `keep`. And a profile that has begun meanwhile may have it, too.
    if !tag.is_under_way() || profiling::current().is_some() {
        settle_recorded(new.block, thread, &record, tag);
    }
}

/// Puts a record right that was entered while its recording ended, or while a
/// profile began.
#[cold]
#[inline(never)]
fn settle_recorded(block: *mut u8, thread: &Thread, record: &Record, tag: Tag) {
    if !tag.is_under_way() {
        // Nobody else knows the block, so nobody looks for it now.
        TABLE.remove(block.addr());
    }
    if let Some(profile) = counts_for(record, None) {
        profile.came(thread, record.node, record.size);
    }
}

/// The same whatever is under way.
#[inline(never)]
fn allocated_anyhow(new: New) -> *mut u8 {
    let Some((slot, thread, tag, current)) = recorder() else {
        return new.block;
    };
    // Also on the recorder's own bytes, so that the next point is known.
    let size = new.layout.size() as u64;
    let is_hit = current.is_some_and(|current| current.hits(thread, slot, size));
    let result = thread.unless_quiet(|| {
        let block = if tag.is_some() || is_hit {
            enter(new, thread, tag, current.filter(|_| is_hit))
        } else {
            new.block
        };
        look_around(slot, thread, current);
        block
    });
    if result.is_none() && thread.is_interrupted() && (tag.is_some() || is_hit) {
        hooks::lose_unseen(tag);
    }
    result.unwrap_or(new.block)
}

/// Goes the ways that no allocation goes before there is a profile: that of a new
/// block which a profile wants, and that of a resized one which nobody has looked
/// for. On a thread that is in the first recording; nothing is left behind.
pub(super) fn rehearse() {
    // A place that is no block: with no profile nobody asks for a stand-in, or frees it.
    static NONE: u8 = 0;
    let block = (&raw const NONE).cast_mut();
    allocated_anyhow(New {
        block,
        layout: Layout::new::<u8>(),
        zeroed: false,
    });
    TABLE.remove(block.addr());

    let (Some(thread), layout) = (visits::here(), black_box(Layout::new::<[u64; 8]>())) else {
        return;
    };
    // Two, as one may be where a stand-in could be.
    // SAFETY: the layout is not empty.
    let blocks = visits::quietly(|| [(); 2].map(|()| unsafe { alloc::alloc(layout) }));
    for block in blocks.into_iter().filter(|block| !block.is_null()) {
        let mut grown = core::ptr::null_mut();
        hooks::as_while_sampling(|| {
            let size = black_box(4096);
            // SAFETY: the block has this layout, and the size is neither zero nor too large; when it
            // is granted the old block is not used again.
            thread.rehearse(|| grown = unsafe { alloc::realloc(block, layout, size) });
        });
        let (block, size) = if grown.is_null() {
            (block, layout.size())
        } else {
            (grown, 4096)
        };
        if let Ok(layout) = Layout::from_size_align(size, layout.align()) {
            // SAFETY: the block has this layout by now, and is not used again.
            unsafe { alloc::dealloc(black_box(block), layout) };
        }
    }
}

/// Enters a new block; `chosen` is the profile that it is a sample of.
fn enter(new: New, thread: &Thread, tag: Option<Tag>, chosen: Option<Current>) -> *mut u8 {
    let size = new.layout.size();
    let mut block = new.block;
    let mut sampled = chosen.is_some();
    if chosen.is_some_and(Current::pads) && stand_in::is_needed(new.layout) {
        let stand_in = stand_in::request(block, size, new.zeroed);
        if stand_in.is_null() {
            // Where it is it would not be found again.
            sampled = false;
            hooks::lose_unseen(None);
        } else {
            block = stand_in;
        }
    }
    TABLE.fetch(block.addr());
    let record = Record {
        node: capture(thread, tag),
        size: size as u64,
        birth: recent_ms(thread),
        recording: tag.map_or(NOBODY, |tag| tag.id),
        sampled,
    };
    if !(record.sampled || tag.is_some()) || !keep(block, &record, tag, chosen) {
        if block != new.block {
            // SAFETY: just requested, and nobody has seen it.
            unsafe { stand_in::give_back(block) };
        }
        return new.block;
    }
    if let Some(profile) = counts_for(&record, chosen) {
        profile.came(thread, record.node, record.size);
    }
    block
}

/// The profile that a new record is of.
fn counts_for(record: &Record, chosen: Option<Current>) -> Option<Current> {
    chosen
        .or_else(profiling::current)
        .filter(|profile| profile.has(record) && profile.is_under_way())
}

/// Puts a record into the table; `false` when there is no place. What ends
/// meanwhile, and has looked through the table already, is not left with it.
fn keep(block: *mut u8, record: &Record, tag: Option<Tag>, chosen: Option<Current>) -> bool {
    if !TABLE.insert(block.addr(), record) {
        lose(record);
        return false;
    }
    // Whoever ends something says so first and then looks into each shard, under its lock, as
    // we just did: he has seen our record, or we see that it is over.
    let is_over = tag.is_some_and(|tag| !tag.is_under_way());
    let is_unwanted = chosen.is_some_and(|profile| !profile.is_under_way());
    if is_over || is_unwanted {
        // Nobody else knows the block, so nobody looks for it now.
        let recording = if is_over { NOBODY } else { record.recording };
        let sampled = record.sampled && !is_unwanted;
        put(
            block,
            &Record {
                sampled,
                recording,
                ..*record
            },
        );
    }
    true
}

/// Enters a record that somebody wants, instead of what is there, or none.
fn put(block: *mut u8, record: &Record) -> bool {
    if record.recording != NOBODY || record.sampled {
        let is_kept = TABLE.insert(block.addr(), record);
        if !is_kept {
            lose(record);
        }
        is_kept
    } else {
        TABLE.remove(block.addr());
        true
    }
}

/// Counts a record that could not be kept.
#[cold]
fn lose(record: &Record) {
    if record.recording != NOBODY {
        hooks::lose(record.recording);
    }
}

/// Looks how much is alive, for the profile.
#[inline]
fn look_around(slot: &Slot, thread: &Thread, current: Option<Current>) {
    if let Some(current) = current {
        let now = if current.is_every() {
            u64::from(recent_ms(thread))
        } else {
            clock::look()
        };
        Current::look_around(slot, now);
    }
}

/// Strikes a block of the program's `layout` from the table, if it may be there; it is
/// about to be freed. Gives the block to free: this one, or what it stood for.
///
/// Also when the recorder itself frees it: it has allocated it unrecorded, and
/// to find nothing costs less than to ask first.
///
/// # Safety
/// Nobody uses the block after this.
#[cold]
#[inline(never)]
pub(crate) unsafe fn freed(block: *mut u8, layout: Layout) -> *mut u8 {
    if !concerns(block, layout) {
        return block;
    }
    let mut words = Words::default();
    if TABLE.strike(block.addr(), &mut words)
        && let Some(current) = profiling::current()
    {
        let record = words.record();
        if current.has(&record) {
            current.freed(&record);
        }
    }
    let Some(original) = stand_in::original(block) else {
        return block;
    };
    // SAFETY: the caller.
    unsafe { stand_in::give_back(block) };
    original
}

/// Whether it is worth asking what [`concerns`]: no for most blocks.
#[inline]
pub(crate) fn may_concern(block: *mut u8, size: usize) -> bool {
    hooks::looks_at(block) || is_large(size)
}

/// Whether the block may be in the table: most are not while there are only samples.
#[inline]
pub(crate) fn concerns(block: *mut u8, layout: Layout) -> bool {
    is_large(layout.size())
        || hooks::looks_at(block)
            && (hooks::looks_at_all() || !stand_in::is_needed(layout) || stand_in::is_one(block))
}

impl Resize {
    /// Takes a block from the table, if it is there; it is about to be resized.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin(block: *mut u8, given: Layout, new_size: usize) -> Self {
        let mut resize = Self::unknown(block, given, new_size);
        resize.record = TABLE.remove(block.addr());
        resize
    }

    /// The same of a block that is neither in the table nor a stand-in.
    pub(crate) fn unknown(block: *mut u8, given: Layout, new_size: usize) -> Self {
        Self {
            block,
            given,
            new_size,
            record: None,
            profile: profiling::current(),
        }
    }

    /// The block that the inner allocator knows: this one, or what it stands for.
    pub(crate) fn original(&self) -> *mut u8 {
        stand_in::original(self.block).unwrap_or(self.block)
    }

    /// Enters that the inner allocator has refused.
    pub(crate) fn refused(&self) {
        let Some(mut record) = self.record else {
            return;
        };
        // When this fails, it is counted; how the block is freed does not depend on it.
        put(self.block, &record);
        // As in `keep`.
        if record.sampled && !self.profile.is_some_and(Current::is_under_way) {
            record.sampled = false;
            put(self.block, &record);
        }
    }

    /// The layout that it is given.
    fn resized(&self) -> Option<Layout> {
        Layout::from_size_align(self.new_size, self.given.align()).ok()
    }

    /// By how many bytes it grows.
    fn growth(&self) -> u64 {
        (self.new_size as u64).saturating_sub(self.given.size() as u64)
    }

    /// Enters that the block is at `moved` now. Gives the block that the program
    /// gets: this one, or its stand-in.
    ///
    /// A block that was recorded stays so, now as of the site that resized it,
    /// so that a growing vector shows where it grows; when the thread that
    /// resized it is in no recording, the old site is all there is. A block that
    /// was not recorded is older than the recording, and no new block.
    ///
    /// # Safety
    /// The inner allocator has just resized the [original](Self::original) to
    /// `moved`, and nobody else knows it. Nobody uses the old block after this.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn ended(&self, moved: *mut u8) -> *mut u8 {
        let fresh = recorder().and_then(|(slot, thread, tag, current)| {
            let growth = self.growth();
            let is_hit = growth > 0 && current.is_some_and(|c| c.hits(thread, slot, growth));
            let fresh = thread.unless_quiet(|| {
                let after = self.enter(thread, tag, current, is_hit, moved);
                look_around(slot, thread, current);
                (after, current)
            });
            if fresh.is_none() && is_hit && thread.is_interrupted() {
                hooks::lose_unseen(None);
            }
            fresh
        });
        // By nobody, or by the recorder itself: what was known stays known.
        let (record, profile) = fresh.unwrap_or_else(|| {
            let record = self.record.map(|record| Record {
                size: self.new_size as u64,
                ..record
            });
            (record, self.profile)
        });
        let place = record.map_or(moved, |record| self.place(moved, record, profile));
        // SAFETY: the caller; it is `moved`, the old block, or new and as large.
        unsafe { self.settle(moved, place) };
        place
    }

    /// What the block's record is now, and what the profile says of it.
    fn enter(
        &self,
        thread: &Thread,
        tag: Option<Tag>,
        current: Option<Current>,
        is_hit: bool,
        moved: *mut u8,
    ) -> Option<Record> {
        let (old, new) = (self.given.size() as u64, self.new_size as u64);
        let every = current.filter(|c| c.is_every() && tag.is_some_and(|t| c.has_recording(t.id)));
        let is_wanted = self.record.is_some() || is_hit || every.is_some();
        if !(is_wanted || thread.is_rehearsing()) {
            return None;
        }
        TABLE.fetch(moved.addr());
        let node = capture(thread, tag);
        if let Some(profile) = every.or(current.filter(|_| is_hit)) {
            profile.resized(node, self.growth());
        }
        let mut was = self.record.unwrap_or_default();
        // A sample of a profile that has ended meanwhile is not the next one's.
        was.sampled &= current.is_some_and(|now| self.profile.is_some_and(|p| p.id == now.id));
        let is_recorded = was.recording != NOBODY;
        let stays = was.sampled && current.is_some_and(|c| c.stays(thread, old, new));
        let record = Record {
            node,
            size: new,
            birth: recent_ms(thread),
            recording: match tag {
                Some(tag) if is_recorded => tag.id,
                _ => was.recording,
            },
            sampled: stays || is_hit,
        };
        if let Some(profile) = current {
            if self.record.is_some() && profile.has(&was) {
                profile.left(&was);
            }
            if profile.has(&record) {
                profile.joined(node, new);
            }
        }
        (is_recorded || record.sampled).then_some(record)
    }

    /// Finds a place for the block where it can be found, and puts the record
    /// there: `moved`, or a stand-in for it, which may be the old one.
    fn place(&self, moved: *mut u8, mut record: Record, profile: Option<Current>) -> *mut u8 {
        let entered = record;
        let mut place = moved;
        if record.sampled
            && profile.is_some_and(Current::pads)
            && self.resized().is_some_and(stand_in::is_needed)
        {
            place = self.stand_in_for(moved);
            if place.is_null() {
                place = moved;
                record.sampled = false;
                hooks::lose_unseen(None);
            }
        }
        let is_kept = put(place, &record);
        if !(is_kept && record.sampled == entered.sampled)
            && let Some(profile) = profile
            && profile.has(&entered)
        {
            // Entered a moment ago, and not to be found when it is freed.
            profile.left(&entered);
        }
        if !is_kept {
            if place != moved && place != self.block {
                // SAFETY: just requested, and nobody has seen it.
                unsafe { stand_in::give_back(place) };
            }
            return moved;
        }
        // As in `keep`.
        if record.sampled && !profile.is_some_and(Current::is_under_way) {
            record.sampled = false;
            put(place, &record);
        }
        place
    }

    /// A stand-in for the resized block; null without memory.
    fn stand_in_for(&self, moved: *mut u8) -> *mut u8 {
        if stand_in::reuse(self.block, moved, self.new_size) {
            self.block
        } else {
            stand_in::request(moved, self.new_size, false)
        }
    }

    /// Brings what the block holds to its place.
    ///
    /// # Safety
    /// As [`ended`](Self::ended); `place` has room for the resized block.
    unsafe fn settle(&self, moved: *mut u8, place: *mut u8) {
        let was_stand_in = stand_in::original(self.block).is_some();
        let from = if was_stand_in { self.block } else { moved };
        if from == place {
            return;
        }
        let kept = self.given.size().min(self.new_size);
        // SAFETY: the caller: both have so many bytes, and are different blocks. `moved` has what
        // the inner allocator has kept, and the old block, if it stood for another, is still out.
        unsafe { core::ptr::copy_nonoverlapping(from, place, kept) };
        if was_stand_in {
            // SAFETY: the caller: nobody uses it any more.
            unsafe { stand_in::give_back(self.block) };
        }
    }
}

#[cfg(test)]
mod tests {
    use core::alloc::Layout;

    use super::{Resize, freed, hooks, stand_in};

    /// Frees are looked up where stand-ins may be.
    fn look() {
        hooks::look_for_samples();
        hooks::watch_frees(false);
    }

    // Each test has a length of its own, so that no other gets the same place meanwhile.

    /// Bug prevented: a stand-in whose record is lost, or went with its profile,
    /// is given to the inner allocator, which knows nothing of it.
    #[test]
    fn a_stand_in_is_freed_as_what_it_stands_for_without_a_record() {
        look();
        let layout = Layout::new::<[u8; 18_000]>();
        let original = core::ptr::without_provenance_mut(0x10_0010);
        let block = stand_in::request(original, layout.size(), false);
        let resize = Resize::begin(block, layout, 80);
        assert_eq!(resize.original(), original);
        // SAFETY: not used after this.
        assert_eq!(unsafe { freed(block, layout) }, original);
        assert!(stand_in::original(block).is_none());
        // SAFETY: nothing is done to a block that is none of ours.
        assert_eq!(unsafe { freed(original, layout) }, original);
    }

    /// Bug prevented: what a block holds stays behind in a stand-in that nobody
    /// needs any more when the block is resized.
    #[test]
    fn what_a_stand_in_holds_goes_back_to_a_block_that_is_resized_unwatched() {
        look();
        let layout = Layout::new::<[u8; 22_000]>();
        let mut place = vec![0_u8; 30_000];
        let moved = place.as_mut_ptr();
        let original = core::ptr::without_provenance_mut(0x10_0010);
        let block = stand_in::request(original, layout.size(), false);
        // SAFETY: the stand-in has so many bytes.
        unsafe { block.write_bytes(7, layout.size()) };
        let resize = Resize::begin(block, layout, 30_000);
        // SAFETY: the place has as many bytes; the stand-in is not used after this.
        assert_eq!(unsafe { resize.ended(moved) }, moved);
        assert!(stand_in::original(block).is_none());
        let (kept, rest) = place.split_at(layout.size());
        assert!(kept.iter().all(|&b| b == 7) && rest.iter().all(|&b| b == 0));
    }

    /// Bug prevented: a block that is entered while its recording ends keeps its
    /// record, which nobody takes out any more.
    #[test]
    fn a_block_of_a_recording_that_has_ended_meanwhile_leaves_nothing_behind() {
        use super::{New, TABLE, enter_recorded, visits};
        use crate::record::recording::Recording;
        let recording = Recording::open().expect("room");
        let tag = recording.tag();
        drop(recording);
        let (_, thread) = visits::make().expect("a slot");
        let new = New {
            block: core::ptr::without_provenance_mut(0x10_0010),
            layout: Layout::new::<u64>(),
            zeroed: false,
        };
        assert!(
            thread
                .unless_quiet(|| enter_recorded(new, thread, tag))
                .is_some()
        );
        assert_eq!(TABLE.remove(new.block.addr()), None);
    }
}
