//! The global allocator: forward, test for null, record. No policy lives here.

use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;

use crate::ledger;
use crate::reading;
#[cfg(feature = "profile")]
use crate::record;
use crate::stats::Stats;

/// A global allocator that enters every block in the ledger and leaves the
/// work to an inner allocator.
///
/// Install it with two lines; it is [`System`] underneath unless you say
/// otherwise:
///
/// ```
/// #[global_allocator]
/// static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
///
/// fn main() {
///     let before = HEAP.bytes_allocated();
///     let text = std::hint::black_box(String::from("counted"));
///     assert!(HEAP.bytes_allocated() >= before + 7);
///     drop(text);
/// }
/// ```
///
/// # What is counted
///
/// | event | blocks | bytes | other |
/// |---|---|---|---|
/// | `alloc`, `alloc_zeroed` gives a block | allocations +1 | allocated + size | |
/// | `dealloc` | frees +1 | freed + size | |
/// | `realloc` gives a larger block | unchanged | allocated + difference | reallocations +1 |
/// | `realloc` gives a smaller block | unchanged | freed + difference | reallocations +1 |
/// | any of them gives null | unchanged | unchanged | failures +1 |
///
/// `size` is `layout.size()`: what was asked for, not what was reserved. Memory
/// that does not pass through Rust's global allocator (C libraries, `mmap`,
/// stacks) is not counted. The ledger's own memory comes straight from the
/// system and is not counted either.
///
/// # One process, one ledger
///
/// The ledger belongs to the process, not to the `static`: a process has one
/// heap. Several values of this type, over whatever inner allocators, write
/// into the same books, and [`stats`](Self::stats) on any of them reads the
/// same figures.
///
/// # How it works
///
/// Each thread owns a cache line of counters that only it writes, so counting
/// takes no atomic read-modify-write; readers add up the lines of all threads.
/// The README has the measured cost.
///
/// # The inner allocator
///
/// Any [`GlobalAlloc`] will do. All four calls are forwarded as they are, so
/// its in-place growth and its zeroed pages are kept. It must itself not
/// allocate through the global allocator, and must not be a tracking allocator
/// over another: each block would be counted, and recorded, twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackingAllocator<A = System> {
    inner: A,
}

impl TrackingAllocator {
    /// A tracking allocator over [`System`].
    pub const fn new() -> Self {
        Self { inner: System }
    }
}

impl<A> TrackingAllocator<A> {
    /// A tracking allocator over `inner`.
    ///
    /// ```
    /// use heapledger::TrackingAllocator;
    /// use std::alloc::System; // or mimalloc, jemalloc, your own
    ///
    /// #[global_allocator]
    /// static HEAP: TrackingAllocator<System> = TrackingAllocator::over(System);
    /// ```
    pub const fn over(inner: A) -> Self {
        Self { inner }
    }

    /// The allocator that does the work.
    pub const fn inner(&self) -> &A {
        &self.inner
    }

    /// The figures of the process; the same as [`heapledger::stats`](crate::stats()).
    ///
    /// # Panics
    /// As [`heapledger::stats`](crate::stats()): when nothing can be measured
    /// because this is not the program's global allocator.
    #[track_caller]
    pub fn stats(&self) -> Stats {
        reading::stats()
    }

    /// Bytes alive now, in the whole process.
    ///
    /// # Panics
    /// As [`stats`](Self::stats).
    #[track_caller]
    pub fn bytes_allocated(&self) -> u64 {
        self.stats().live_bytes
    }

    /// Blocks alive now, in the whole process.
    ///
    /// # Panics
    /// As [`stats`](Self::stats).
    #[track_caller]
    pub fn allocation_count(&self) -> u64 {
        self.stats().live_blocks
    }
}

// What is inlined where was measured, on a parse of JSON into `serde_json::Value` in a program of
// one crate (233,000 blocks, four times). For each block, allocated and freed, it takes 27
// instructions more than with `System`: the usual `alloc` inlined and small, with one cold call for
// all that is rare after it, and all else out of line. It takes 43 with two cold calls, or with
// `dealloc` inlined too, because callers (of `BTreeMap`, say) are then no longer inlined
// themselves; and 42 with nothing inlined, when a box that could be takes 15 more.
// (2026-11-21, `cargo bench -p heapledger-benches --bench instructions`.)

// SAFETY: each call is forwarded with its arguments as they came, and its answer returned as it
// is, so `A` upholds the contract and we add nothing to it. What we do besides is count, which
// neither allocates through `self`, nor unwinds, nor touches the block.
unsafe impl<A: GlobalAlloc> GlobalAlloc for TrackingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_unusual(layout) {
            // SAFETY: the caller upholds the contract of `alloc`.
            return unsafe { self.alloc_unusual(layout) };
        }
        // SAFETY: the caller upholds the contract of `alloc`, which is also the inner one's.
        let block = unsafe { self.inner.alloc(layout) };
        // SAFETY: just given for this layout.
        unsafe { self.entered(block, layout, false) }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc_zeroed`, also the inner one's.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        // SAFETY: just given for this layout.
        unsafe { self.entered(block, layout, true) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { Self::strike_and_free(block, layout.size(), layout.align(), self) };
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        #[cfg(feature = "profile")]
        if record::is_on() {
            // SAFETY: the caller upholds the contract of `realloc`.
            return unsafe { self.realloc_watched(block, layout, new_size) };
        }
        // SAFETY: the caller upholds the contract of `realloc`; the block came from `inner`.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        enter_resized(moved, layout.size(), new_size);
        moved
    }
}

impl<A: GlobalAlloc> TrackingAllocator<A> {
    /// `alloc` of a layout that `System` does not simply pass to `malloc`, kept
    /// away from the many places that the usual one is inlined into.
    ///
    /// # Safety
    /// As `GlobalAlloc::alloc`.
    #[cold]
    #[inline(never)]
    unsafe fn alloc_unusual(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc`, which is also the inner one's.
        let block = unsafe { self.inner.alloc(layout) };
        // SAFETY: just given for this layout.
        unsafe { self.entered(block, layout, false) }
    }

    /// Enters what the inner allocator has given, and gives it on.
    ///
    /// # Safety
    /// `block` is null, or was just given by `inner` for `layout`, zeroed or not.
    #[inline]
    #[cfg_attr(
        not(feature = "profile"),
        expect(
            unused_variables,
            clippy::unused_self,
            reason = "the recorder wants them"
        )
    )]
    unsafe fn entered(&self, block: *mut u8, layout: Layout, zeroed: bool) -> *mut u8 {
        if block.is_null() || !ledger::try_allocated(layout.size()) {
            #[cfg(not(feature = "profile"))]
            return entered_cold(block, layout.size());
            #[cfg(feature = "profile")]
            // SAFETY: the caller.
            return unsafe { Self::entered_cold(block, layout, zeroed, self) };
        }
        block
    }

    /// Enters a block when the fast path would not, and tells the recorder: a
    /// thread that is recorded never takes the fast path. Gives the block that
    /// the program gets. Or enters that there is none.
    ///
    /// # Safety
    /// As [`entered`](Self::entered).
    #[cfg(feature = "profile")]
    #[cold]
    #[inline(never)]
    unsafe fn entered_cold(block: *mut u8, layout: Layout, zeroed: bool, heap: &Self) -> *mut u8 {
        if block.is_null() {
            ledger::refused(layout.size());
            return block;
        }
        ledger::allocated_cold(layout.size());
        let new = record::New {
            block,
            layout,
            zeroed,
        };
        let block = if record::is_on() {
            // SAFETY: the caller: from `inner` with this layout, and nobody has seen it.
            unsafe { record::allocated(&heap.inner, new) }
        } else {
            block
        };
        record::note_site();
        block
    }

    /// `realloc` while something is recorded.
    ///
    /// # Safety
    /// As `GlobalAlloc::realloc`.
    #[cfg(feature = "profile")]
    #[cold]
    #[inline(never)]
    unsafe fn realloc_watched(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !record::concerns(block, layout.size()) {
            // SAFETY: the caller upholds the contract of `realloc`; such a block was requested as
            // the program says.
            let moved = unsafe { self.inner.realloc(block, layout, new_size) };
            let is_event = enter_resized(moved, layout.size(), new_size);
            if moved.is_null() || !is_event {
                return moved;
            }
            // It may have grown by a sample.
            let resize = record::Resize::unknown(block, layout, new_size);
            // SAFETY: just given by `inner`, with the layout that was asked for.
            return unsafe { resize.ended(&self.inner, moved) };
        }
        let Some(resize) = record::Resize::begin(block, layout, new_size) else {
            // SAFETY: the caller upholds the contract of `realloc`.
            return unsafe { self.realloc_apart(block, layout, new_size) };
        };
        // SAFETY: the caller upholds the contract of `realloc`; the block came from `inner` with
        // this layout, says the recorder.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        enter_resized(moved, layout.size(), new_size);
        if moved.is_null() {
            resize.refused();
            return moved;
        }
        // SAFETY: just given by `inner`, with the layout that was asked for.
        unsafe { resize.ended(&self.inner, moved) }
    }

    /// `realloc` of a block that was not requested with the program's layout, or
    /// of which nobody knows: what is in it moves. Only when there is memory for
    /// that is the block struck from the table, so that no refusal and no want of
    /// room there ever leaves a block behind that would be freed with a layout
    /// that is not its own. ([`System`] moves blocks of such an alignment too.)
    ///
    /// # Safety
    /// As `GlobalAlloc::realloc`.
    #[cfg(feature = "profile")]
    #[cold]
    #[inline(never)]
    unsafe fn realloc_apart(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller: the new size can be rounded up to the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the caller: the new size is not zero.
        let place = unsafe { self.inner.alloc(wanted) };
        enter_resized(place, layout.size(), new_size);
        if place.is_null() {
            return place;
        }
        // SAFETY: the caller's block has so many bytes, and so has the new one.
        unsafe { core::ptr::copy_nonoverlapping(block, place, layout.size().min(new_size)) };
        let (resize, left) = record::Resize::leave(block, layout, new_size);
        if let Some(requested) = left.layout(layout) {
            // SAFETY: the block came from `inner` with this layout, and the program has left it.
            unsafe { self.inner.dealloc(block, requested) };
        }
        // SAFETY: just given by `inner`, with the layout that the program knows.
        unsafe { resize.ended(&self.inner, place) }
    }

    /// `dealloc`, with its arguments in the order in which the compiler's shim
    /// has them in registers, so that the shim is a jump.
    ///
    /// # Safety
    /// As `GlobalAlloc::dealloc` with the layout of `size` and `align`.
    #[inline(never)]
    unsafe fn strike_and_free(block: *mut u8, size: usize, align: usize, heap: &Self) {
        // Struck out before the block is free: afterwards another thread may own its address.
        if is_looked_at(block) || !ledger::try_freed(size) {
            // SAFETY: the caller upholds the contract of `dealloc`.
            return unsafe { Self::free_cold(block, size, align, heap) };
        }
        // SAFETY: the caller's `size` and `align` are those of a layout.
        let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
        // SAFETY: the caller upholds the contract of `dealloc`; the block came from `inner`.
        unsafe { heap.inner.dealloc(block, layout) };
    }

    /// `dealloc` with the cold strike; a function of its own, so that the usual
    /// one ends in a jump and saves no registers.
    ///
    /// # Safety
    /// As `GlobalAlloc::dealloc` with the layout of `size` and `align`.
    #[cold]
    #[inline(never)]
    unsafe fn free_cold(block: *mut u8, size: usize, align: usize, heap: &Self) {
        // SAFETY: the caller's `size` and `align` are those of a layout.
        let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
        #[cfg(feature = "profile")]
        let requested = requested_as(block, layout);
        #[cfg(not(feature = "profile"))]
        let requested = Some(layout);
        if !ledger::try_freed(size) {
            ledger::freed_cold(size);
        }
        // A block of which nobody knows how it was requested is left alone.
        let Some(layout) = requested else { return };
        // SAFETY: the caller upholds the contract of `dealloc`; the block came from `inner`.
        unsafe { heap.inner.dealloc(block, layout) };
    }
}

/// Enters what the inner allocator has given when the fast path would not, or
/// that it has given nothing.
#[cfg(not(feature = "profile"))]
#[cold]
#[inline(never)]
fn entered_cold(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() {
        ledger::refused(size);
    } else {
        ledger::allocated_cold(size);
    }
    block
}

/// Enters the outcome of a `realloc`; whether that was done on the cold path.
#[inline]
fn enter_resized(moved: *mut u8, old_size: usize, new_size: usize) -> bool {
    let is_watched = if moved.is_null() {
        // The old block is untouched and still the caller's: nothing to strike out.
        ledger::refused(new_size);
        true
    } else {
        ledger::resized(old_size, new_size)
    };
    #[cfg(feature = "profile")]
    if is_watched {
        record::note_site();
    }
    is_watched
}

/// Tells the recorder that a block of the program's `layout` is about to be
/// freed. Gives the layout that it was requested with, if that can be told.
#[cfg(feature = "profile")]
#[inline]
fn requested_as(block: *mut u8, layout: Layout) -> Option<Layout> {
    if !record::is_on() {
        return Some(layout);
    }
    record::freed(block, layout.size()).layout(layout)
}

/// Whether the free of this block must be told to the recorder.
#[inline]
fn is_looked_at(block: *mut u8) -> bool {
    #[cfg(feature = "profile")]
    return record::looks_at(block);
    #[cfg(not(feature = "profile"))]
    {
        let _ = block;
        false
    }
}

/// Whether `System` looks twice at the layout: nearly no request is, and where
/// the layout is a constant nothing is left of the question.
#[inline]
fn is_unusual(layout: Layout) -> bool {
    layout.align() > 16 || layout.align() > layout.size()
}
