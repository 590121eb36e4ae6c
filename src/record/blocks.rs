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
use crate::record::table::Record;
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
    /// What it was requested with.
    pub(crate) layout: Layout,
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
            hooks::lose_pageless();
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
    if chosen.is_some() && !is_large(size) {
        // SAFETY: the layout is that of a block, so it is not empty.
        stand_in = unsafe { stand_in::request(inner, new.layout, new.zeroed) };
    }
    let padded = !stand_in.is_null();
    let block = if padded { stand_in } else { new.block };
    let record = Record {
        node: capture(thread),
        size: size as u64,
        birth: recent_ms(thread),
        recording: tag.map_or(NOBODY, |tag| tag.id),
        // A small one that could not be padded would not be found again.
        sampled: chosen.is_some() && (padded || is_large(size)),
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
        .filter(|profile| profile.has(record))
}

/// Puts a record into the table; `false` when there is no place. What ends
/// meanwhile, and has looked through the table already, is not left with it.
fn keep(block: *mut u8, record: &Record, tag: Option<Tag>, chosen: Option<Current>) -> bool {
    if !TABLE.insert(block.addr(), record) {
        return false;
    }
    // Whoever ends something says so first and then looks into each shard, under its lock, as
    // we just did: he has seen our record, or we see that it is over.
    let mut now = *record;
    if tag.is_some_and(|tag| !tag.is_under_way()) {
        now.recording = NOBODY;
    }
    if chosen.is_some_and(|profile| !profile.is_under_way()) {
        now.sampled = false;
    }
    if now != *record {
        // Nobody else knows the block, so nobody looks for it now.
        put(block, &now);
    }
    true
}

/// Enters a record that somebody wants, instead of what is there, or none.
fn put(block: *mut u8, record: &Record) -> bool {
    if record.recording != NOBODY || record.sampled || record.padded {
        TABLE.insert(block.addr(), record)
    } else {
        TABLE.remove(block.addr());
        true
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
    if !(hooks::looks_at(block) || is_large(size)) {
        return Freed::Plain;
    }
    match TABLE.try_remove(block.addr()) {
        Ok(Some(record)) => {
            if let Some(current) = profiling::current()
                && current.has(&record)
            {
                current.freed(&record);
            }
            if record.padded {
                Freed::Padded
            } else {
                Freed::Plain
            }
        }
        // Only what begins a page can be padded.
        Err(_) if block.addr().is_multiple_of(stand_in::PAGE) && hooks::has_sampled() => {
            Freed::Unknown
        }
        Ok(None) | Err(_) => Freed::Plain,
    }
}

impl Resize {
    /// Takes a block from the table, if it is there; it is about to be resized.
    /// `None` when nobody can tell how it was requested, which is counted.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin(block: *mut u8, given: Layout, new_size: usize) -> Option<Self> {
        let profile = profiling::current();
        let mut record = None;
        if hooks::looks_at(block) || is_large(given.size()) {
            record = match TABLE.try_remove(block.addr()) {
                Ok(found) => found,
                Err(_) if block.addr().is_multiple_of(stand_in::PAGE) && hooks::has_sampled() => {
                    return None;
                }
                Err(_) => None,
            };
        }
        let layout = if record.is_some_and(|record| record.padded) {
            stand_in::wide(given)
        } else {
            given
        };
        Some(Self {
            block,
            given,
            layout,
            new_size,
            record,
            profile,
        })
    }

    /// Enters that the inner allocator has refused.
    pub(crate) fn refused(&self) {
        if let Some(record) = self.record {
            TABLE.insert(self.block.addr(), &record);
        }
    }

    /// By how many bytes it grows.
    fn growth(&self) -> u64 {
        (self.new_size as u64).saturating_sub(self.layout.size() as u64)
    }

    /// The layout that the resized block has now.
    fn resized_layout(&self) -> Layout {
        Layout::from_size_align(self.new_size, self.layout.align()).unwrap_or(self.layout)
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
    /// The block is from `inner` with [`resized_layout`](Self::resized_layout),
    /// and nobody else knows it.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn ended<A: GlobalAlloc>(&self, inner: &A, moved: *mut u8) -> *mut u8 {
        let fresh = recorder().and_then(|(slot, thread, tag, current)| {
            let growth = self.growth();
            let is_hit = growth > 0 && current.is_some_and(|c| c.hits(thread, slot, growth));
            thread.unless_quiet(|| {
                let after = self.enter(thread, tag, current, is_hit);
                look_around(slot, thread, current);
                after
            })
        });
        // By nobody, or by the recorder itself: what was known stays known.
        let record = fresh.unwrap_or_else(|| {
            self.record.map(|record| Record {
                size: self.new_size as u64,
                ..record
            })
        });
        match record {
            // SAFETY: the caller.
            Some(record) => unsafe { self.place(inner, moved, record) },
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
        let (old, new) = (self.layout.size() as u64, self.new_size as u64);
        let every = current.filter(|c| c.is_every() && tag.is_some_and(|t| c.has_recording(t.id)));
        if self.record.is_none() && !is_hit && every.is_none() {
            return None;
        }
        let node = capture(thread);
        if let Some(profile) = every.or(current.filter(|_| is_hit)) {
            profile.resized(node, self.growth());
        }
        let was = self.record.unwrap_or_default();
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
            padded: was.padded,
        };
        if let Some(profile) = current {
            if self.record.is_some() && profile.has(&was) {
                profile.left(&was);
            }
            if profile.has(&record) {
                profile.joined(node, new);
            }
        }
        (is_recorded || record.sampled || record.padded).then_some(record)
    }

    /// Puts the record where the block is, and the block where it can be found.
    ///
    /// # Safety
    /// As [`ended`](Self::ended).
    unsafe fn place<A: GlobalAlloc>(
        &self,
        inner: &A,
        moved: *mut u8,
        mut record: Record,
    ) -> *mut u8 {
        let mut block = moved;
        let layout = self.resized_layout();
        if record.sampled && !record.padded && !is_large(self.new_size) {
            // SAFETY: the layout is that of a block, so it is not empty.
            let stand_in = unsafe { stand_in::request(inner, layout, false) };
            if stand_in.is_null() {
                record.sampled = false;
            } else {
                // SAFETY: the caller: the block is ours alone; the stand-in is another, as large.
                unsafe { stand_in::replace(inner, moved, layout, stand_in) };
                (block, record.padded) = (stand_in, true);
            }
        }
        if !put(block, &record) && record.padded {
            // SAFETY: the caller, and as above: the block is ours alone.
            return unsafe { self.unpad(inner, block) };
        }
        // As in `keep`.
        if record.sampled && !self.profile.is_some_and(Current::is_under_way) {
            record.sampled = false;
            put(block, &record);
        }
        block
    }

    /// Moves a padded block that can have no record to where it needs none.
    ///
    /// # Safety
    /// The block is from `inner` with the wide layout, and nobody else knows it.
    #[cold]
    unsafe fn unpad<A: GlobalAlloc>(&self, inner: &A, block: *mut u8) -> *mut u8 {
        let Ok(plain) = Layout::from_size_align(self.new_size, self.given.align()) else {
            return block;
        };
        // SAFETY: the layout is that of a block, so it is not empty.
        let place = unsafe { stand_in::give(inner, plain) };
        if place.is_null() {
            // Then it will be freed with the program's own alignment, which allocators that do
            // not look at it forgive. It takes two shortages of memory at once to get here.
            return block;
        }
        let wide = self.resized_layout();
        // SAFETY: the caller: the block is ours alone; the place is another, as large.
        unsafe { stand_in::replace(inner, block, wide, place) };
        place
    }
}
