//! What becomes of a block while something is recorded.
//!
//! The order around the inner allocator is what keeps addresses honest: an
//! entry leaves the table *before* the inner `dealloc` or a `realloc` that may
//! move, because afterwards another thread may already own the address; and it
//! is put back when the `realloc` fails.
//!
//! A block comes to its stack's figures before the ledger [publishes](Slot::publish_due) it, and
//! leaves them after: so what others see in a new peak is in the shares of it, too.
//!
//! A small block that is chosen as a sample gets a [stand-in](stand_in) before
//! anyone has seen it: the program works there, and the inner allocator goes on
//! being asked about the block that it has given.

use core::alloc::Layout;

use crate::ledger::{self, Slot};
use crate::record::clock;
use crate::record::everywhere;
use crate::record::hooks::{self, TABLE, capture, recent_ms};
use crate::record::look::LOOK;
use crate::record::profiling::{self, Current, NOBODY};
use crate::record::stand_in::{self, is_large};
use crate::record::table::{Record, Words};
use crate::record::tag::Tag;
use crate::record::visits::{self, Thread};

/// A block that the inner allocator has just given for `layout`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New {
    pub(crate) block: *mut u8,
    pub(crate) layout: Layout,
    pub(crate) zeroed: bool,
    /// That of the calling thread, if it has one.
    pub(crate) slot: Option<&'static Slot>,
}

/// Who may record what the calling thread does.
pub(super) fn recorder() -> Option<(&'static Slot, &'static Thread, Option<Tag>, Option<Current>)> {
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
///
/// # Safety
/// `new.slot` is the calling thread's.
#[cold]
#[inline(never)]
pub(crate) unsafe fn allocated(new: New) -> *mut u8 {
    // What most calls are: of a thread in a recording, while there are no samples. Nothing of the
    // rest is in their way.
    let current = profiling::current();
    let sampling = current.filter(|current| !current.is_every());
    if let Some(sampling) = sampling {
        if let Some(slot) = new.slot
            // SAFETY: the caller.
            && let Some(thread) = unsafe { visits::of(slot) }
            && sampling.passes(thread, slot)
        {
            return new.block;
        }
    } else if let Some(slot) = new.slot
        // SAFETY: the caller.
        && let Some(thread) = unsafe { visits::of(slot) }
        && let Some(tag) = thread.current()
        && current.is_none_or(|current| current.has_recording(tag.id))
        && thread
            .unless_quiet(|| {
                let birth = recent(thread, current);
                enter_recorded(new.block, new.layout.size(), thread, tag, birth, As::New);
                look_around(slot, current, Some(birth.into()));
            })
            .is_some()
    {
        return new.block;
    }
    allocated_anyhow(new)
}

/// What a record is entered for: a new block, or one that had this record before.
#[derive(Clone, Copy)]
pub(super) enum As<'a> {
    New,
    Resized(&'a Record),
}

/// Enters a block that a recording gets, and no sampler has chosen, and tells a profile
/// of everything. `false` when there is no place for its record: then nothing is told.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "measured: a call takes 20 instructions of 550"
)]
pub(super) fn enter_recorded(
    block: *mut u8,
    size: usize,
    thread: &Thread,
    tag: Tag,
    birth: u32,
    what: As<'_>,
) -> bool {
    let spot = TABLE.spot(block.addr());
    if let Some(spot) = spot {
        spot.fetch();
    }
    let record = Record {
        node: capture(thread, Some(tag)),
        size: size as u64,
        birth,
        recording: tag.id,
        sampled: false,
        seen: matches!(what, As::Resized(was) if was.seen),
    };
    let is_kept = match spot {
        Some(spot) => spot.insert(&record),
        None => TABLE.refuse(),
    };
    if !is_kept {
        lose(record.recording);
        return false;
    }
    // As in `keep`. And a profile may have it, too, also one that has begun meanwhile.
    if !tag.is_under_way() || profiling::current().is_some() {
        settle(block, thread, record, tag, what);
    }
    true
}

/// Tells the profile of a block that was entered, if there is one; and puts its record
/// right if its recording ended meanwhile. Apart, so that what a check records is not
/// slowed down.
#[inline(never)]
fn settle(block: *mut u8, thread: &Thread, mut record: Record, tag: Tag, what: As<'_>) {
    if !tag.is_under_way() {
        settle_recording(block, thread, &mut record, tag);
    }
    // One that has ended meanwhile is not there.
    let Some(profile) = profiling::current() else {
        return;
    };
    let is_its = profile.has(&record);
    match what {
        As::New if is_its => profile.came(thread, record.node, record.size),
        As::New => {}
        As::Resized(was) if is_its && profile.has(was) => profile.regrown(was, &record),
        As::Resized(was) => {
            forget_resized(was);
            if is_its {
                let growth = record.size.saturating_sub(was.size);
                profile.resized(record.node, growth);
                profile.joined(record.node, record.size);
            }
        }
    }
}

/// Tells the profile that a block has not got this record any more.
pub(super) fn forget_resized(was: &Record) {
    if let Some(profile) = profiling::current().filter(|profile| profile.has(was)) {
        profile.left(was);
    }
}

/// What becomes of a record whose recording ended meanwhile: it is of the one that
/// that was part of, or else of the one that the thread is in now, or it goes.
/// Nobody else knows the block, so nobody looks for it now.
#[cold]
fn settle_recording(block: *mut u8, thread: &Thread, record: &mut Record, mut tag: Tag) {
    let born_in = tag;
    while !(tag.is_under_way() || tag.is_wanted()) {
        let current = heir(thread.current(), everywhere::tag(), born_in);
        record.recording = current.map_or(NOBODY, |tag| tag.id);
        // It has seen others.
        record.seen = false;
        put(block, record);
        match current {
            Some(current) => tag = current,
            None => break,
        }
    }
}

/// Whose a block is that was born in a recording which is over: of the one that the thread is in
/// now, unless that is the one of `everyone` and has begun since. It did not see the block.
fn heir(current: Option<Tag>, everyone: Option<Tag>, born_in: Tag) -> Option<Tag> {
    current.filter(|now| {
        let is_everyone_s = everyone.is_some_and(|everyone| everyone.id == now.id);
        let is_younger = now.id.wrapping_sub(born_in.id).cast_signed() > 0;
        !(is_everyone_s && is_younger)
    })
}

/// [`allocated`], whatever is under way.
#[inline(never)]
pub(super) fn allocated_anyhow(new: New) -> *mut u8 {
    let block = recorded(new);
    // Of who did not look around.
    ledger::publish_due(new.slot);
    block
}

/// Records a new block; gives the one that the program gets.
#[inline]
fn recorded(new: New) -> *mut u8 {
    let Some((slot, thread, tag, current)) = recorder() else {
        return new.block;
    };
    // Also on the recorder's own bytes, so that the next point is known.
    let size = new.layout.size() as u64;
    let is_hit = current.is_some_and(|current| current.hits(thread, slot, size));
    let result = thread.unless_quiet(|| {
        let now = is_hit.then(clock::look);
        let birth = now.map_or_else(|| recent(thread, current), clock::ms);
        // Also what a check gets that is older than a profile of everything.
        let is_chosen = |profile: &Current| {
            is_hit || profile.is_every() && tag.is_some_and(|tag| !profile.has_recording(tag.id))
        };
        let block = if tag.is_some() || is_hit {
            enter(new, thread, tag, current.filter(is_chosen), birth)
        } else {
            new.block
        };
        look_around(slot, current, now);
        block
    });
    if result.is_none() && thread.is_interrupted() && (tag.is_some() || is_hit) {
        hooks::lose_unseen(tag);
    }
    result.unwrap_or(new.block)
}

/// Enters a new block; `chosen` is the profile that it is a sample of.
fn enter(
    new: New,
    thread: &Thread,
    tag: Option<Tag>,
    chosen: Option<Current>,
    birth: u32,
) -> *mut u8 {
    let size = new.layout.size();
    let mut block = new.block;
    let mut sampled = chosen.is_some();
    if chosen.is_some_and(Current::pads) {
        if let Some(place) = stand_in::place_for(block, new.layout, new.zeroed) {
            block = place;
        } else {
            sampled = false;
            hooks::lose_unseen(None);
        }
    }
    if let Some(spot) = TABLE.spot(block.addr()) {
        spot.fetch();
    }
    let record = Record {
        node: capture(thread, tag),
        size: size as u64,
        birth,
        recording: tag.map_or(NOBODY, |tag| tag.id),
        sampled,
        seen: false,
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
        lose(record.recording);
        return false;
    }
    // Whoever ends something says so first and then looks into each shard, under its lock, as
    // we just did: he has seen our record, or we see that it is over.
    let is_over = tag.is_some_and(|tag| !(tag.is_under_way() || tag.is_wanted()));
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
#[inline]
pub(super) fn put(block: *mut u8, record: &Record) -> bool {
    if record.recording != NOBODY || record.sampled {
        let is_kept = TABLE.insert(block.addr(), record);
        if !is_kept {
            lose(record.recording);
        }
        is_kept
    } else {
        TABLE.remove(block.addr());
        true
    }
}

/// Counts a record of this recording that could not be kept.
#[cold]
fn lose(recording: u32) {
    if recording != NOBODY {
        hooks::lose(recording);
    }
}

/// The time for a new record that is no sample: a profile has to tell lifetimes, also of
/// a program that seldom allocates.
#[inline]
pub(super) fn recent(thread: &Thread, current: Option<Current>) -> u32 {
    if current.is_some_and(Current::is_every) {
        clock::glance()
    } else {
        recent_ms(thread)
    }
}

/// Publishes what is due, and looks how much is alive, for the profile; `now`, if the clock was
/// looked at. In this order: of two threads that do so at once, the later one sees both.
#[inline]
pub(super) fn look_around(slot: &'static Slot, current: Option<Current>, now: Option<u64>) {
    ledger::publish_due(Some(slot));
    if let Some(current) = current {
        let look = || {
            if current.is_every() {
                u64::from(clock::glance())
            } else {
                clock::look()
            }
        };
        Current::look_around(slot, now.unwrap_or_else(look));
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
    // A profile that begins after this look has not got the block.
    match profiling::current() {
        None => {
            TABLE.strike(block.addr(), None);
        }
        Some(current) => strike_for(current, block),
    }
    let Some(original) = stand_in::original(block) else {
        return block;
    };
    // SAFETY: the caller.
    unsafe { stand_in::give_back(block) };
    original
}

/// Strikes a block from the table while there is a profile, which it may be of.
#[inline]
fn strike_for(current: Current, block: *mut u8) {
    let mut words = Words::default();
    if TABLE.strike(block.addr(), Some(&mut words)) {
        let record = words.record();
        // Not if it is over by now, and the tally another one's.
        if current.has(&record) && current.is_under_way() {
            current.freed(&record);
        }
    }
}

/// Whether it is worth asking what [`concerns`]: no for most blocks.
#[inline]
pub(crate) fn may_concern(block: *mut u8, size: usize) -> bool {
    LOOK.looks_at(block) || is_large(size)
}

/// Whether the block may be in the table: most are not while there are only samples.
#[inline]
pub(crate) fn concerns(block: *mut u8, layout: Layout) -> bool {
    is_large(layout.size())
        || LOOK.looks_at(block)
            && (LOOK.looks_at_all() || !stand_in::is_needed(layout) || stand_in::is_one(block))
}

#[cfg(test)]
mod tests {
    use super::{
        As, Current, Record, TABLE, Tag, enter_recorded, heir, profiling, strike_for, visits,
    };
    use crate::record::recording::Recording;
    use crate::record::visits::Visit;
    use crate::sync::Mutex;

    /// The block's place is for one test at a time.
    static ONE: Mutex<()> = Mutex::new(());

    const BLOCK: *mut u8 = core::ptr::without_provenance_mut(0x10_0010);

    /// Enters a block, new or resized, of a recording that ends meanwhile, and those
    /// around it; returns its record's number.
    fn enter_late<const N: usize>(is_new: bool, ending: [Recording; N]) -> Option<u32> {
        let tag = ending.first().expect("one").tag();
        ending.into_iter().for_each(drop);
        enter_late_of(is_new, tag)
    }

    /// The same of a recording that has ended.
    fn enter_late_of(is_new: bool, tag: Tag) -> Option<u32> {
        let (_, thread) = visits::make().expect("a slot");
        let was = Record {
            recording: tag.id,
            size: 4,
            ..Record::default()
        };
        let what = if is_new { As::New } else { As::Resized(&was) };
        let entered = thread.unless_quiet(|| enter_recorded(BLOCK, 8, thread, tag, 0, what));
        assert_eq!(entered, Some(true));
        let mut number = None;
        TABLE.for_each(|block, record| {
            if block == BLOCK.addr() {
                number = Some(record.recording);
            }
        });
        number
    }

    fn open() -> Recording {
        Recording::open().expect("room")
    }

    /// Bug prevented: a block that is entered while its recording ends keeps its
    /// record, which nobody takes out any more.
    #[test]
    fn a_block_of_a_recording_that_has_ended_meanwhile_leaves_nothing_behind() {
        let _one = ONE.lock();
        for is_new in [true, false] {
            // Another test's recording may have made the entry its own meanwhile.
            let leaves_nothing = (0..10).any(|_| {
                let number = enter_late(is_new, [open()]);
                TABLE.remove(BLOCK.addr());
                number.is_none()
            });
            assert!(leaves_nothing);
        }
    }

    /// Bug prevented: a check misses what a thread that is not in it itself allocates
    /// or resizes while the check ends that was inside of it.
    #[test]
    fn a_block_of_a_recording_that_has_ended_meanwhile_is_of_the_one_around_it() {
        let _one = ONE.lock();
        for is_new in [true, false] {
            let (outer, middle, inner);
            {
                outer = open();
                let _outer = Visit::open(outer.tag());
                middle = open();
                let _middle = Visit::open(middle.tag());
                inner = open();
            }
            let number = inner.id();
            assert_eq!(enter_late(is_new, [inner, middle]), Some(number));
            assert_eq!(outer.survivors().len(), 1);
            assert!(TABLE.remove(BLOCK.addr()).is_some());
        }
    }

    /// Bug prevented: the same once it is forgotten what the inner check was part of, as its
    /// entry is another one's.
    #[test]
    fn a_block_of_a_recording_that_is_forgotten_stays_its_own() {
        let _one = ONE.lock();
        let outer = open();
        let inner = {
            let _outer = Visit::open(outer.tag());
            open()
        };
        let (number, tag) = (inner.id(), inner.tag());
        drop(inner);
        drop(open());
        assert!(tag.is_wanted() && !tag.is_under_way());
        let later = open();
        assert_eq!(enter_late_of(true, tag), Some(number));
        assert_eq!(outer.survivors().len(), 1);
        assert!(TABLE.remove(BLOCK.addr()).is_some());
        drop(later);
    }

    /// Bug prevented: the same of a thread that is in another recording besides.
    #[test]
    fn a_block_of_a_recording_that_has_ended_meanwhile_is_of_the_one_that_is_left() {
        let _one = ONE.lock();
        for is_new in [true, false] {
            let (alone, other) = (open(), open());
            let _visit = Visit::open(other.tag());
            assert_eq!(enter_late(is_new, [alone]), Some(other.id()));
            assert!(TABLE.remove(BLOCK.addr()).is_some());
        }
    }

    /// Bug prevented: a block of a recording that has ended meanwhile is in the total of a
    /// profile that has begun since, but not among what was counted in its time.
    #[test]
    fn a_block_is_not_of_a_profile_that_is_younger() {
        let recordings = [open(), open(), open()];
        let [before, ended, since] = recordings.each_ref().map(Recording::tag);
        let of = |current: Tag, everyone| heir(Some(current), everyone, ended).map(|tag| tag.id);
        assert_eq!(of(since, Some(since)), None);
        // It was under way when the block was made.
        assert_eq!(of(before, Some(before)), Some(before.id));
        // A check has what its threads tell of while it is under way.
        assert_eq!(of(since, None), Some(since.id));
        assert_eq!(of(since, Some(before)), Some(since.id));
        assert!(heir(None, Some(since), ended).is_none());
    }

    /// Bug prevented: what one profile has recorded and the next one sees freed is
    /// taken off the next one's figures.
    #[test]
    fn a_free_that_has_seen_a_profile_which_is_over_by_now_is_in_no_figures() {
        let _one = ONE.lock();
        let recording = open();
        let record = Record {
            recording: recording.id(),
            size: 8,
            ..Record::default()
        };
        assert!(TABLE.insert(BLOCK.addr(), &record));
        let over = Current {
            id: recording.id(),
            interval: 1,
            calls: 0,
        };
        assert!(over.has(&record) && !over.is_under_way());
        // The tally is closed here, and says so of whatever is entered.
        let lost = profiling::lost();
        strike_for(over, BLOCK);
        assert_eq!(
            (TABLE.remove(BLOCK.addr()), profiling::lost()),
            (None, lost)
        );
    }
}
