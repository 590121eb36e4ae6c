//! What becomes of a block while something is recorded.
//!
//! The order around the inner allocator is what keeps addresses honest: an
//! entry leaves the table *before* the inner `dealloc` or a `realloc` that may
//! move, because afterwards another thread may already own the address; and it
//! is put back when the `realloc` fails.
//!
//! A small block that is chosen as a sample changes places before anyone has
//! seen it: it gets a [stand-in](stand_in), whose record says that it was
//! requested with a layout that is not the program's.

use core::alloc::{GlobalAlloc, Layout};

use crate::ledger::Slot;
use crate::record::clock;
use crate::record::everywhere;
use crate::record::hooks::{self, TABLE, capture, recent_ms};
use crate::record::profiling::{self, Current, NOBODY};
use crate::record::recording::Tag;
use crate::record::stand_in::{self, is_large};
use crate::record::table::{Record, Words};
use crate::record::visits::{self, Thread};

/// What the inner allocator must know to free a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freed {
    /// It was requested with the program's layout.
    Plain,
    /// It was requested with [`stand_in::wide`] of the program's layout.
    Padded,
    /// Nobody can tell, which is counted: leave the block alone.
    Unknown,
}

impl Freed {
    /// The layout that a block of the program's `given` was requested with;
    /// `None` when it must be left alone.
    pub(crate) fn layout(self, given: Layout) -> Option<Layout> {
        match self {
            Self::Plain => Some(given),
            Self::Padded => Some(stand_in::wide(given)),
            Self::Unknown => None,
        }
    }
}

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
        if made.is_none() {
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
/// gets: this one, or its stand-in.
///
/// # Safety
/// The block is from `inner` with that layout, and nobody else knows it.
#[cold]
#[inline(never)]
pub(crate) unsafe fn allocated<A: GlobalAlloc>(inner: &A, new: New) -> *mut u8 {
    let Some((slot, thread, tag, current)) = recorder() else {
        return new.block;
    };
    // Also on the recorder's own bytes, so that the next point is known.
    let size = new.layout.size() as u64;
    let is_hit = current.is_some_and(|current| current.hits(thread, slot, size));
    let result = thread.unless_quiet(|| {
        let block = if tag.is_some() || is_hit {
            // SAFETY: the caller.
            unsafe { enter(inner, new, thread, tag, current.filter(|_| is_hit)) }
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

/// Enters a new block; `chosen` is the profile that it is a sample of.
///
/// # Safety
/// As [`allocated`].
unsafe fn enter<A: GlobalAlloc>(
    inner: &A,
    new: New,
    thread: &Thread,
    tag: Option<Tag>,
    chosen: Option<Current>,
) -> *mut u8 {
    let size = new.layout.size();
    let mut stand_in = core::ptr::null_mut();
    let is_hidden = !is_large(size) && chosen.is_some_and(Current::pads);
    if is_hidden {
        // SAFETY: the layout is that of a block, so it is not empty.
        stand_in = unsafe { stand_in::request(inner, new.layout, new.zeroed) };
    }
    let padded = !stand_in.is_null();
    let block = if padded { stand_in } else { new.block };
    // A small one that could not be padded would not be found again.
    let sampled = chosen.is_some() && (padded || !is_hidden);
    if sampled != chosen.is_some() {
        hooks::lose_unseen(None);
    }
    let record = Record {
        node: capture(thread, tag),
        size: size as u64,
        birth: recent_ms(thread),
        recording: tag.map_or(NOBODY, |tag| tag.id),
        sampled,
        padded,
    };
    if !(record.sampled || tag.is_some()) || !keep(block, &record, tag, chosen) {
        if padded {
            // SAFETY: just requested with this layout, and nobody has seen it.
            unsafe { stand_in::give_back(inner, stand_in, stand_in::wide(new.layout)) };
        }
        return new.block;
    }
    if padded {
        // SAFETY: the caller: nobody knows the block but us.
        unsafe { stand_in::give_back(inner, new.block, new.layout) };
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
    if record.recording != NOBODY || record.sampled || record.padded {
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

/// Strikes a block of `size` bytes from the table, if it may be there; it is
/// about to be freed.
///
/// Also when the recorder itself frees it: it has allocated it unrecorded, and
/// to find nothing costs less than to ask first.
#[cold]
#[inline(never)]
pub(crate) fn freed(block: *mut u8, size: usize) -> Freed {
    if !concerns(block, size) {
        return Freed::Plain;
    }
    let mut words = Words::default();
    match TABLE.strike(block.addr(), &mut words) {
        Ok(true) => {
            if let Some(current) = profiling::current() {
                tell(current, &words);
            }
            if words.is_padded() {
                Freed::Padded
            } else {
                Freed::Plain
            }
        }
        Err(_) if may_be_padded(block) => Freed::Unknown,
        Ok(false) | Err(_) => Freed::Plain,
    }
}

/// Tells the profile of a freed block, if it is one of its own.
fn tell(current: Current, words: &Words) {
    let record = words.record();
    if current.has(&record) {
        current.freed(&record);
    }
}

/// Whether the block may be in the table: most are not while there are only samples.
#[inline]
pub(crate) fn concerns(block: *mut u8, size: usize) -> bool {
    hooks::looks_at(block) || is_large(size)
}

/// Whether the block may have been requested with another layout than the
/// program's.
fn may_be_padded(block: *mut u8) -> bool {
    block.addr().is_multiple_of(stand_in::PAGE) && hooks::has_sampled()
}

impl Resize {
    /// Takes a block from the table, if it is there; it is about to be resized.
    /// `None` when it was not requested with the program's layout, or nobody can
    /// tell: then it is as it was, and is not to be resized but to be moved, and
    /// afterwards [left](Self::leave).
    #[cold]
    #[inline(never)]
    pub(crate) fn begin(block: *mut u8, given: Layout, new_size: usize) -> Option<Self> {
        let mut resize = Self::unknown(block, given, new_size);
        if may_be_padded(block) {
            match TABLE.look(block.addr()) {
                Ok(Some(record)) if record.padded => return None,
                Err(_) => return None,
                Ok(_) => {}
            }
        }
        if concerns(block, given.size()) {
            // Not padded, as only its owner makes a block so: it may go without its record.
            resize.record = TABLE.remove(block.addr());
        }
        Some(resize)
    }

    /// The same of a block that is not in the table.
    pub(crate) fn unknown(block: *mut u8, given: Layout, new_size: usize) -> Self {
        Self {
            block,
            given,
            new_size,
            record: None,
            profile: profiling::current(),
        }
    }

    /// Takes a block from the table that the program has moved away from. Says
    /// how the block it has left was requested, which is counted when nobody can
    /// tell.
    #[cold]
    #[inline(never)]
    pub(crate) fn leave(block: *mut u8, given: Layout, new_size: usize) -> (Self, Freed) {
        let mut resize = Self::unknown(block, given, new_size);
        match TABLE.try_remove(block.addr()) {
            Ok(Some(record)) => {
                // Where the program is now was requested with its own layout.
                resize.record = Some(Record {
                    padded: false,
                    ..record
                });
                let left = if record.padded {
                    Freed::Padded
                } else {
                    Freed::Plain
                };
                (resize, left)
            }
            Ok(None) => (resize, Freed::Plain),
            Err(_) => (resize, Freed::Unknown),
        }
    }

    /// Enters that the inner allocator has refused.
    pub(crate) fn refused(&self) {
        let Some(mut record) = self.record else {
            return;
        };
        // When this fails, it is counted; the block is freed as the program says in any case.
        put(self.block, &record);
        // As in `keep`.
        if record.sampled && !self.profile.is_some_and(Current::is_under_way) {
            record.sampled = false;
            put(self.block, &record);
        }
    }

    /// By how many bytes it grows.
    fn growth(&self) -> u64 {
        (self.new_size as u64).saturating_sub(self.given.size() as u64)
    }

    /// The layout that the resized block has now.
    fn resized_layout(&self) -> Layout {
        Layout::from_size_align(self.new_size, self.given.align()).unwrap_or(self.given)
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
    /// The block is from `inner` with the program's new layout, and nobody else
    /// knows it.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn ended<A: GlobalAlloc>(&self, inner: &A, moved: *mut u8) -> *mut u8 {
        let fresh = recorder().and_then(|(slot, thread, tag, current)| {
            let growth = self.growth();
            let is_hit = growth > 0 && current.is_some_and(|c| c.hits(thread, slot, growth));
            let fresh = thread.unless_quiet(|| {
                let after = self.enter(thread, tag, current, is_hit);
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
        match record {
            // SAFETY: the caller.
            Some(record) => unsafe { self.place(inner, moved, record, profile) },
            None => moved,
        }
    }

    /// What the block's record is now, and what the profile says of it.
    fn enter(
        &self,
        thread: &Thread,
        tag: Option<Tag>,
        current: Option<Current>,
        is_hit: bool,
    ) -> Option<Record> {
        let (old, new) = (self.given.size() as u64, self.new_size as u64);
        let every = current.filter(|c| c.is_every() && tag.is_some_and(|t| c.has_recording(t.id)));
        if self.record.is_none() && !is_hit && every.is_none() {
            return None;
        }
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
            padded: false,
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

    /// Puts the record where the block is, and the block where it can be found.
    /// A stand-in is given out only once its record is in the table.
    ///
    /// # Safety
    /// As [`ended`](Self::ended).
    unsafe fn place<A: GlobalAlloc>(
        &self,
        inner: &A,
        moved: *mut u8,
        mut record: Record,
        profile: Option<Current>,
    ) -> *mut u8 {
        let entered = record;
        let layout = self.resized_layout();
        let mut stand_in = core::ptr::null_mut();
        if record.sampled && !is_large(self.new_size) && profile.is_some_and(Current::pads) {
            // SAFETY: the layout is that of a block, so it is not empty.
            stand_in = unsafe { stand_in::request(inner, layout, false) };
            record.padded = !stand_in.is_null();
            if !record.padded {
                record.sampled = false;
                hooks::lose_unseen(None);
            }
        }
        let block = if record.padded { stand_in } else { moved };
        let is_kept = put(block, &record);
        if !(is_kept && record.sampled == entered.sampled)
            && let Some(profile) = profile
            && profile.has(&entered)
        {
            // Entered a moment ago, and not to be found when it is freed.
            profile.left(&entered);
        }
        if record.padded && !is_kept {
            // SAFETY: just requested with this layout, and nobody has seen it.
            unsafe { stand_in::give_back(inner, stand_in, stand_in::wide(layout)) };
            return moved;
        }
        if record.padded {
            // SAFETY: the caller: the block is ours alone; the stand-in is another, as large.
            unsafe { stand_in::replace(inner, moved, layout, stand_in) };
        }
        // As in `keep`.
        if record.sampled && !profile.is_some_and(Current::is_under_way) {
            record.sampled = false;
            put(block, &record);
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use core::alloc::Layout;

    use super::{Freed, Resize, TABLE, hooks};
    use crate::record::table::Record;

    /// Bug prevented: the record of a block that was requested with another
    /// layout is out of the table while the inner allocator is asked, which
    /// refuses; there is no room any more to put it back, and the block is freed
    /// with the program's layout.
    #[test]
    fn a_padded_block_keeps_its_record_until_the_program_has_left_it() {
        assert!(hooks::make_room());
        hooks::look_for_samples();
        // Where no user's block is.
        let block = core::ptr::without_provenance_mut::<u8>(0x10_0000);
        let record = Record {
            size: 40,
            sampled: true,
            padded: true,
            ..Record::default()
        };
        let layout = Layout::new::<[u64; 5]>();
        assert!(TABLE.insert(block.addr(), &record));
        assert!(Resize::begin(block, layout, 80).is_none());
        assert_eq!(TABLE.look(block.addr()), Ok(Some(record)));
        let (resize, left) = Resize::leave(block, layout, 80);
        assert_eq!(left, Freed::Padded);
        assert!(resize.record.is_some_and(|record| !record.padded));
        assert_eq!(TABLE.look(block.addr()), Ok(None));
    }
}
