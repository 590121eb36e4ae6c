//! What becomes of a block that is resized while something is recorded.
//!
//! It leaves the table before the inner `realloc`, which may move it, and comes
//! back afterwards, where it is then: see [`blocks`](super::blocks).

use core::alloc::Layout;

use crate::ledger;
use crate::record::blocks::{
    As, enter_recorded, forget_resized, look_around, put, recent, recorder,
};
use crate::record::clock;
use crate::record::hooks::{self, TABLE, capture};
use crate::record::moving::{self, Begun, Moving};
use crate::record::profiling::{self, Current, NOBODY};
use crate::record::stand_in;
use crate::record::table::Record;
use crate::record::tag::{self, Tag, Wanting};
use crate::record::visits::{self, Thread};

/// A block that is about to be resized, with what is known of it.
#[derive(Debug)]
pub(crate) struct Resize {
    block: *mut u8,
    /// The program's layout.
    given: Layout,
    new_size: usize,
    record: Option<Record>,
    /// While it is not in the table.
    moving: Option<Moving>,
    /// The profile that was under way when the record was taken out.
    profile: Option<Current>,
}

impl Resize {
    /// Takes a block from the table, if it is there; it is about to be resized.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin(block: *mut u8, given: Layout, new_size: usize) -> Self {
        let mut resize = Self::unknown(block, given, new_size);
        if TABLE.may_have(block.addr()) {
            let begun = moving::begin();
            resize.record = TABLE.remove(block.addr());
            match (begun, &resize.record) {
                (Begun::Awaited(moving), _) => resize.moving = Some(moving),
                (Begun::Missed, Some(record)) => hooks::lose_moving(record.recording),
                (Begun::Interrupting | Begun::Missed, _) => {}
            }
        }
        resize
    }

    /// The same of a block that is neither in the table nor a stand-in.
    pub(crate) fn unknown(block: *mut u8, given: Layout, new_size: usize) -> Self {
        Self {
            block,
            given,
            new_size,
            record: None,
            moving: None,
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
    /// resized it is in no recording, the old site is all there is. It stays of the
    /// recording that it was born in, whoever resizes it. A block that was not
    /// recorded is older than the recording, and no new block.
    ///
    /// # Safety
    /// The inner allocator has just resized the [original](Self::original) to
    /// `moved`, and nobody else knows it. Nobody uses the old block after this.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn ended(&self, moved: *mut u8) -> *mut u8 {
        // What most calls are, as for new blocks: of a thread in a recording, while there are no
        // samples, with a block that was recorded and is no stand-in.
        let current = profiling::current();
        if self.record.is_none()
            && let Some(sampling) = current.filter(|current| !current.is_every())
            && stand_in::original(self.block).is_none()
            && let Some((slot, thread)) = visits::here_with_slot()
            && sampling.passes(thread, slot)
        {
            return moved;
        }
        if let Some(was) = &self.record
            && was.recording != NOBODY
            && !was.sampled
            && self.profile.is_none_or(Current::is_every)
            && current
                .is_none_or(|current| current.is_every() && current.has_recording(was.recording))
            && stand_in::original(self.block).is_none()
            && let Some((slot, thread)) = visits::here_with_slot()
            && let Some(tag) = thread.current()
            && tag.id == was.recording
            && thread
                .unless_quiet(|| {
                    let (birth, what) = (recent(thread, current), As::Resized(was));
                    if !enter_recorded(moved, self.new_size, thread, tag, birth, what) {
                        forget_resized(was);
                    }
                    look_around(slot, current, Some(birth.into()));
                })
                .is_some()
        {
            return moved;
        }
        // SAFETY: passed on.
        let place = unsafe { self.ended_anyhow(moved) };
        // Of who did not look around.
        ledger::publish_due(ledger::own());
        place
    }

    /// The same whatever is under way.
    ///
    /// # Safety
    /// As [`ended`](Self::ended).
    #[inline(never)]
    unsafe fn ended_anyhow(&self, moved: *mut u8) -> *mut u8 {
        let fresh = recorder().and_then(|(slot, thread, tag, current)| {
            let growth = self.growth();
            // Also when it has not grown: this may be the thread's first look at the profile.
            let is_hit = current.is_some_and(|c| c.hits(thread, slot, growth));
            let fresh = thread.unless_quiet(|| {
                let now = is_hit.then(clock::look);
                let after = self.enter(thread, tag, current, now, moved);
                look_around(slot, current, now);
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
    #[inline]
    fn enter(
        &self,
        thread: &Thread,
        tag: Option<Tag>,
        current: Option<Current>,
        now: Option<u64>,
        moved: *mut u8,
    ) -> Option<Record> {
        // As of when it is a new sample.
        let is_hit = now.is_some();
        let (old, new) = (self.given.size() as u64, self.new_size as u64);
        let every = current.filter(|current| current.is_every() && tag.is_some());
        let recording = self.owner(tag, current);
        let is_wanted = recording != NOBODY || self.record.is_some() || is_hit || every.is_some();
        if !(is_wanted || thread.is_rehearsing()) {
            return None;
        }
        if let Some(record) = self.record.filter(|record| !record.sampled)
            && tag.is_none()
            && !is_hit
        {
            return Some(Record {
                size: new,
                ..record
            });
        }
        if let Some(spot) = TABLE.spot(moved.addr()) {
            spot.fetch();
        }
        let node = capture(thread, tag);
        if let Some(profile) = every.or(current.filter(|_| is_hit)) {
            profile.resized(node, self.growth());
        }
        let mut was = self.record.unwrap_or_default();
        // A sample of a profile that has ended meanwhile is not the next one's.
        was.sampled &= current.is_some_and(|now| self.profile.is_some_and(|p| p.id == now.id));
        let stays = was.sampled && current.is_some_and(|c| c.stays(thread, old, new));
        let record = Record {
            node,
            size: new,
            birth: now.map_or_else(|| recent(thread, current), clock::ms),
            recording,
            sampled: stays || is_hit,
            // Whoever adopts it has not looked at it yet.
            seen: was.seen && was.recording == recording,
        };
        if let Some(profile) = current {
            let had = self.record.is_some() && profile.has(&was);
            match (had, profile.has(&record)) {
                (true, true) => profile.moved(&was, &record),
                (true, false) => profile.left(&was),
                (false, true) => profile.joined(node, new),
                (false, false) => {}
            }
        }
        (recording != NOBODY || record.sampled).then_some(record)
    }

    /// Whose the block is now that a thread in this recording has resized it: as before, also
    /// when that is over, as it may be part of another; or of one that adopts it.
    fn owner(&self, tag: Option<Tag>, current: Option<Current>) -> u32 {
        let was = self.record.map_or(NOBODY, |record| record.recording);
        let Some(tag) = tag.filter(|tag| tag.id != was && self.growth() > 0) else {
            return was;
        };
        // A profile of everything has no block that is older than itself.
        if was == NOBODY && current.is_some_and(Current::is_every) {
            return was;
        }
        let around = match tag::wanting(was) {
            Wanting::Somebody(wanting) => wanting.id,
            Wanting::Nobody | Wanting::Unknown => was,
        };
        tag.adopting(around).map_or(was, |adopting| adopting.id)
    }

    /// Finds a place for the block where it can be found, and puts the record
    /// there: `moved`, or a stand-in for it, which may be the old one.
    fn place(&self, moved: *mut u8, mut record: Record, profile: Option<Current>) -> *mut u8 {
        let entered = record;
        let mut place = moved;
        if record.sampled
            && profile.is_some_and(Current::pads)
            && let Some(layout) = self.resized()
        {
            if let Some(found) = self.place_for(moved, layout) {
                place = found;
            } else {
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

    /// Where the resized block is found when it is freed; `None` without memory.
    fn place_for(&self, moved: *mut u8, layout: Layout) -> Option<*mut u8> {
        if stand_in::is_needed(layout) && stand_in::reuse(self.block, moved, layout.size()) {
            return Some(self.block);
        }
        stand_in::place_for(moved, layout, false)
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

    use super::{Resize, stand_in};
    use crate::record::blocks::freed;
    use crate::record::look::LOOK;

    /// Frees are looked up where stand-ins may be.
    fn look() {
        LOOK.look_for_samples();
        LOOK.watch_frees(false);
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
}
