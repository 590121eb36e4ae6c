//! The least that counting can take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes and blocks that were allocated, bytes and blocks that were freed.
    static COUNTS: [Cell<u64>; 4] = const { [const { Cell::new(0) }; 4] };
}

/// Bytes and blocks of the calling thread, added up in plain memory of its own, and nothing
/// else: no peak, no figures of other threads or of the process, none of a thread that has
/// ended, no scopes. It does not tell a figure that anybody could use: it shows what is left
/// to be saved by counting in another way.
#[derive(Debug)]
pub struct Least<A = System>(A);

impl<A> Least<A> {
    /// Counts what is requested of `inner`.
    pub const fn over(inner: A) -> Self {
        Self(inner)
    }

    /// What the calling thread has allocated, in blocks.
    pub fn allocations() -> u64 {
        COUNTS.try_with(|counts| counts[1].get()).unwrap_or(0)
    }
}

#[inline]
fn allocated(bytes: usize, blocks: u64) {
    // Cannot fail: there is nothing to drop.
    let _ = COUNTS.try_with(|[sum, count, ..]| {
        sum.set(sum.get() + bytes as u64);
        count.set(count.get() + blocks);
    });
}

#[inline]
fn freed(bytes: usize, blocks: u64) {
    let _ = COUNTS.try_with(|[.., sum, count]| {
        sum.set(sum.get() + bytes as u64);
        count.set(count.get() + blocks);
    });
}

// SAFETY: each call is forwarded to the inner allocator as it came and its answer returned as it
// is; besides, only integers are added up, in memory that needs no allocation.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Least<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract, which is also the inner one's.
        let block = unsafe { self.0.alloc(layout) };
        if !block.is_null() {
            allocated(layout.size(), 1);
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract, which is also the inner one's.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        if !block.is_null() {
            allocated(layout.size(), 1);
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        freed(layout.size(), 1);
        // SAFETY: the caller upholds the contract; the block came from the inner allocator.
        unsafe { self.0.dealloc(block, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract; the block came from the inner allocator.
        let moved = unsafe { self.0.realloc(block, layout, new_size) };
        if !moved.is_null() {
            match new_size.checked_sub(layout.size()) {
                Some(more) => allocated(more, 0),
                None => freed(layout.size() - new_size, 0),
            }
        }
        moved
    }
}
