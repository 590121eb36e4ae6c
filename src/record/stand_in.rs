//! Blocks that can be told from others by their address.
//!
//! A free must know at once whether its block was sampled. So a sampled block is
//! requested at the beginning of a page, where few others are, and only frees of
//! such addresses are looked up. Large blocks are looked up in any case (see
//! [`is_large`]) and stay where they are: one copy of a large block costs more
//! than all that is saved.

use core::alloc::{GlobalAlloc, Layout};

use crate::ledger;

/// What a stand-in is aligned to, in bytes.
pub(crate) const PAGE: usize = 4096;

/// Whether frees of this size take the cold path anyway.
#[inline]
pub(crate) fn is_large(size: usize) -> bool {
    size as u64 > ledger::WINDOW
}

/// The layout that a stand-in for a block of `layout` was requested with.
///
/// Not only at the beginning of a page but as large as one: an allocator gives a
/// small block that was freed to the next request of its size, again and again,
/// and if that one began a page, each of its frees would be looked up.
#[inline]
pub(crate) fn wide(layout: Layout) -> Layout {
    Layout::from_size_align(layout.size().max(PAGE), layout.align().max(PAGE)).unwrap_or(layout)
}

/// A block of this layout at the beginning of a page; null without memory.
///
/// # Safety
/// The layout is not empty.
pub(super) unsafe fn request<A: GlobalAlloc>(inner: &A, layout: Layout, zeroed: bool) -> *mut u8 {
    let wide = wide(layout);
    if wide.align() < PAGE {
        // Too large to be rounded up.
        return core::ptr::null_mut();
    }
    if zeroed {
        // SAFETY: the caller: not empty.
        unsafe { inner.alloc_zeroed(wide) }
    } else {
        // SAFETY: the caller: not empty.
        unsafe { inner.alloc(wide) }
    }
}

/// Moves what is in `block` to `place` and gives `block` back.
///
/// # Safety
/// `block` is from `inner` with the layout `given`, and nobody uses it after
/// this; `place` is another block of at least as many bytes.
pub(super) unsafe fn replace<A: GlobalAlloc>(
    inner: &A,
    block: *mut u8,
    given: Layout,
    place: *mut u8,
) {
    // SAFETY: the caller: both have so many bytes, and are different blocks.
    unsafe { core::ptr::copy_nonoverlapping(block, place, given.size()) };
    // SAFETY: the caller.
    unsafe { inner.dealloc(block, given) };
}

/// Gives back a block that nobody has seen.
///
/// # Safety
/// `block` is from `inner` with this layout, and nobody uses it after this.
pub(super) unsafe fn give_back<A: GlobalAlloc>(inner: &A, block: *mut u8, layout: Layout) {
    // SAFETY: the caller.
    unsafe { inner.dealloc(block, layout) };
}
