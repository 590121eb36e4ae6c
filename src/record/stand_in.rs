//! Blocks that can be told from others by their address.
//!
//! A free must know at once whether its block was sampled. So a small block that
//! is chosen gets a *stand-in*, in [room](super::room) of ours and at an address
//! that few other blocks have (see [`look`](super::look)), and only frees of those are
//! looked up:
//!
//! ```text
//!   program ──▶ stand-in     in our room, with what the program writes
//!                  │
//!                  ▼
//!               original     the inner allocator's block, which nobody touches
//! ```
//!
//! The original stays where it is, to be resized and freed when the program
//! resizes and frees: so the inner allocator sees the very calls that it would
//! see without us. (To give it back at once leaves a hole which the program never
//! made, and frees of what lies beside it cost more than all of the rest.)
//!
//! Large blocks are looked up in any case (see [`is_large`]) and need none: one
//! copy of a large block costs more than all that is saved. Nor do blocks of an
//! alignment that our room does not have: from the first such sample on, frees of all
//! that is aligned like that are looked up.
//!
//! What it costs the program is cache: all stand-ins begin in two sets of the
//! first cache. They are few, and colours cannot be had: the low bits that
//! could tell them apart are what frees know them by.

use core::alloc::Layout;

use crate::record::look::{LOOK, UNIT};
use crate::record::room::{LONGEST_BYTES, Room};
use crate::sync::{AtomicU32, Ordering};

static ROOM: Room = Room::new(&LOOK);

/// Whether requests are refused: for tests.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// Whether all frees of this size are looked up.
#[inline]
pub(super) fn is_large(size: usize) -> bool {
    size >= LONGEST_BYTES
}

/// Whether a sample of this layout needs a stand-in to be found when it is freed.
#[inline]
pub(super) fn is_needed(layout: Layout) -> bool {
    !is_large(layout.size()) && layout.align() <= UNIT
}

/// Whether the block is a stand-in.
#[inline]
pub(super) fn is_one(block: *mut u8) -> bool {
    ROOM.holds(block)
}

/// Makes ready for stand-ins. Without memory for that, each tries again.
pub(super) fn prepare() {
    ROOM.open();
}

/// Where a sample of this layout is found when it is freed: a stand-in for the block, or
/// the block itself if none is needed; `None` when there is no memory for one.
pub(super) fn place_for(block: *mut u8, layout: Layout, zeroed: bool) -> Option<*mut u8> {
    if is_needed(layout) {
        let place = request(block, layout.size(), zeroed);
        return (!place.is_null()).then_some(place);
    }
    // What is not large is there at a multiple of a unit, by its alignment.
    (is_large(layout.size()) || LOOK.cover_all()).then_some(block)
}

/// A stand-in of so many bytes for this block; null without memory.
pub(super) fn request(original: *mut u8, size: usize, zeroed: bool) -> *mut u8 {
    if REFUSED.load(Ordering::Relaxed) != 0 {
        return core::ptr::null_mut();
    }
    let place = ROOM.take(size, original);
    if zeroed && !place.is_null() {
        // Another block may have been there.
        // SAFETY: the run has so many bytes at least, and is ours alone.
        unsafe { place.write_bytes(0, size) };
    }
    place
}

/// What the block stands for; `None` when it is no stand-in.
#[inline]
pub(super) fn original(block: *mut u8) -> Option<*mut u8> {
    ROOM.original(block)
}

/// Makes a stand-in that of this block, which has another size; `false` when it
/// is none, or not the place for that size.
pub(super) fn reuse(stand_in: *mut u8, original: *mut u8, size: usize) -> bool {
    ROOM.reuse(stand_in, size, original)
}

/// Gives a stand-in back.
///
/// # Safety
/// Nobody uses it after this.
pub(super) unsafe fn give_back(stand_in: *mut u8) {
    // SAFETY: the caller.
    unsafe { ROOM.give_back(stand_in) };
}

/// Refuses stand-ins from now on, or no more: for tests.
pub(crate) fn refuse(are_refused: bool) {
    REFUSED.store(u32::from(are_refused), Ordering::Relaxed);
}

/// How many there are: for tests.
pub(crate) fn count() -> u32 {
    ROOM.lent()
}

#[cfg(test)]
mod tests {
    use core::alloc::Layout;

    use super::{LOOK, give_back, place_for, request};

    /// Bug prevented: a sample stays where it is though its free would not be looked up.
    #[test]
    fn what_needs_no_place_gets_none_where_it_cannot_be_looked_at() {
        let block = core::ptr::without_provenance_mut(1 << 30);
        let small = Layout::from_size_align(64, 1 << 20).expect("a layout");
        let large = Layout::from_size_align(1 << 20, 8).expect("a layout");
        LOOK.held(|| {
            assert_eq!(place_for(block, small, false), None);
            assert_eq!(place_for(block, large, false), Some(block));
        });
        assert_eq!(place_for(block, small, false), Some(block));
    }

    /// Bug prevented: a block that is asked for zeroed has what the last one had.
    #[test]
    fn a_place_that_was_used_is_zeroed_for_who_asks_for_that() {
        let original = core::ptr::without_provenance_mut(16);
        for size in [1, 100, 2_048, 5_000, 32_767] {
            let block = request(original, size, false);
            assert!(!block.is_null());
            // SAFETY: the stand-in has so many bytes.
            unsafe { block.write_bytes(0xa5, size) };
            // SAFETY: not used after this.
            unsafe { give_back(block) };
            let block = request(original, size, true);
            // SAFETY: as above; requested zeroed.
            let bytes = unsafe { core::slice::from_raw_parts(block, size) };
            assert!(bytes.iter().all(|&byte| byte == 0), "{size}");
            // SAFETY: not used after this.
            unsafe { give_back(block) };
        }
    }
}
