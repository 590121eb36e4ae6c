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
/// system and is not counted either. Looking up names is counted, though no
/// profile or leak check shows it: with the feature `profile`, a leak check or an
/// assertion that fails, and every format but pprof without names, reads debug
/// information through the program's allocator, 35 to 45 MB at the first use,
/// which are kept for the next.
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
/// Any [`GlobalAlloc`] will do. All four calls are forwarded, one for one and
/// with their layouts, so its in-place growth and its zeroed pages are kept. It
/// must itself not allocate through the global allocator, and must not be a
/// tracking allocator over another: each block would be counted, and recorded,
/// twice.
///
/// With the feature `profile`, while a profile takes samples, the program does
/// not get each block that the inner allocator gives: a chosen block of less than
/// 32 KiB has a stand-in elsewhere, which the program uses instead of it, until
/// the program frees it, also when the profile is over by then. The calls are
/// forwarded with the inner allocator's own block all the same. So a block that
/// the program was given must come back through the global allocator, as is the
/// rule anyway: C's `free` and `malloc_usable_size` do not know stand-ins. And
/// what an inner allocator does to the bytes of a block (wipes them when it is
/// freed, say) it does not do to those of its stand-in.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackingAllocator<A = System> {
    inner: A,
}

impl TrackingAllocator {
    /// A tracking allocator over [`System`].
    ///
    /// ```
    /// #[global_allocator]
    /// static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    ///
    /// assert!(heapledger::is_installed());
    /// ```
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
    ///
    /// drop(std::hint::black_box(Box::new(7)));
    /// assert!(HEAP.stats().allocations > 0);
    /// ```
    pub const fn over(inner: A) -> Self {
        Self { inner }
    }

    /// The allocator that does the work, for what it knows that the ledger does
    /// not.
    ///
    /// ```
    /// use std::alloc::{GlobalAlloc, Layout, System};
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// /// `System`, and how often it was asked for zeroed memory.
    /// struct Zeroing(AtomicU64);
    /// # unsafe impl GlobalAlloc for Zeroing {
    /// #     unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
    /// #         unsafe { System.alloc(layout) }
    /// #     }
    /// #     unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
    /// #         self.0.fetch_add(1, Ordering::Relaxed);
    /// #         unsafe { System.alloc_zeroed(layout) }
    /// #     }
    /// #     unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
    /// #         unsafe { System.dealloc(block, layout) }
    /// #     }
    /// # }
    ///
    /// #[global_allocator]
    /// static HEAP: heapledger::TrackingAllocator<Zeroing> =
    ///     heapledger::TrackingAllocator::over(Zeroing(AtomicU64::new(0)));
    ///
    /// let before = HEAP.inner().0.load(Ordering::Relaxed);
    /// drop(std::hint::black_box(vec![0u8; 100]));
    /// assert_eq!(HEAP.inner().0.load(Ordering::Relaxed), before + 1);
    /// ```
    pub const fn inner(&self) -> &A {
        &self.inner
    }

    /// The figures of the process; the same as [`heapledger::stats`](crate::stats()).
    ///
    /// # Panics
    /// As [`heapledger::stats`](crate::stats()): when nothing can be measured
    /// because this is not the program's global allocator.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let stats = HEAP.stats();
    /// assert!(stats.peak_bytes >= stats.live_bytes);
    /// assert_eq!(stats, heapledger::stats()); // the same books
    /// ```
    #[track_caller]
    pub fn stats(&self) -> Stats {
        reading::stats()
    }

    /// Bytes alive now, in the whole process: [`Stats::live_bytes`].
    ///
    /// # Panics
    /// As [`stats`](Self::stats).
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let before = HEAP.bytes_allocated();
    /// let page = std::hint::black_box(vec![0u8; 4_096]);
    /// assert_eq!(HEAP.bytes_allocated(), before + 4_096);
    /// drop(page);
    /// assert_eq!(HEAP.bytes_allocated(), before);
    /// ```
    #[track_caller]
    pub fn bytes_allocated(&self) -> u64 {
        self.stats().live_bytes
    }

    /// Blocks alive now, in the whole process: [`Stats::live_blocks`].
    ///
    /// # Panics
    /// As [`stats`](Self::stats).
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let before = HEAP.allocation_count();
    /// let words = std::hint::black_box(vec![String::from("one"), String::from("two")]);
    /// // The vector's block, and one for each string.
    /// assert_eq!(HEAP.allocation_count(), before + 3);
    /// drop(words);
    /// assert_eq!(HEAP.allocation_count(), before);
    /// ```
    #[track_caller]
    pub fn allocation_count(&self) -> u64 {
        self.stats().live_blocks
    }
}

// What is inlined where was measured, on a parse of JSON into `serde_json::Value` in a program of
// one crate (233,000 blocks, four times). For each block, allocated and freed, it took 27
// instructions more than with `System`: the usual `alloc` inlined and small, with one cold call for
// all that is rare after it, and all else out of line. It took 43 with two cold calls, or with
// `dealloc` inlined too, because callers (of `BTreeMap`, say) are then no longer inlined
// themselves; and 42 with nothing inlined, when a box that could be takes 15 more.
// (2026-11-21, `cargo bench -p heapledger-benches --bench instructions`. It takes 31 since the
// high-water mark is kept without a branch.)

// SAFETY: each call is forwarded to `inner`, once, with its layout and size as they came. Two
// kinds of blocks reach the program:
//
// - what `inner` gave, returned as it is, and passed back to it as it is: `A` upholds the contract
//   of these, and we add nothing to it;
// - while samples are taken (feature `profile`), a stand-in for what `inner` gave. It is memory of
//   the recorder's that nobody else has, of the block's size or more, aligned to 2 KiB where the
//   layout asks for no more than that, and zeroed if that was asked for: so it is such a block as
//   the contract demands. A stand-in is known by its address alone, in whatever state the
//   recorder is: only once samples were ever taken are there any, and from then on `dealloc` and
//   `realloc` look at each address that the mask in `record::look` lets pass, which covers a place
//   before a stand-in is there. They pass on the block that it stands for, which came from
//   `inner` with the same layout and was passed to nobody; a `realloc` first succeeds there, and
//   then brings along what the program has written. When it does not, nothing has changed.
//
// What we do besides is count and record, which neither allocates through `self`, nor unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for TrackingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_unusual(layout) {
            // SAFETY: the caller upholds the contract of `alloc`.
            return unsafe { self.alloc_unusual(layout) };
        }
        // SAFETY: the caller upholds the contract of `alloc`, which is also the inner one's.
        let block = unsafe { self.inner.alloc(layout) };
        entered(block, layout, false)
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc_zeroed`, also the inner one's.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        entered(block, layout, true)
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { Self::strike_and_free(block, layout.size(), layout.align(), self) };
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        #[cfg(feature = "profile")]
        if may_concern(block, layout.size()) {
            // SAFETY: the caller upholds the contract of `realloc`.
            return unsafe { self.realloc_watched(block, layout, new_size) };
        }
        // SAFETY: the caller upholds the contract of `realloc`; the block came from `inner`, as its
        // address is none that a stand-in has.
        unsafe { self.realloc_unwatched(block, layout, new_size) }
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
        entered(block, layout, false)
    }

    /// `realloc` of a block that nobody knows but the inner allocator.
    ///
    /// # Safety
    /// As `GlobalAlloc::realloc`, and the block came from `inner`.
    #[inline]
    unsafe fn realloc_unwatched(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        let is_event = enter_resized(moved, layout.size(), new_size);
        #[cfg(feature = "profile")]
        if is_event
            && !moved.is_null()
            && record::is_on()
            && !ledger::rests(ledger::own(), new_size)
        {
            // It may have grown by a sample. Its old place, which is gone, is nothing to the recorder.
            let resize = record::Resize::unknown(moved, layout, new_size);
            // SAFETY: just given by `inner`, and the caller has left its block.
            return unsafe { resize.ended(moved) };
        }
        #[cfg(not(feature = "profile"))]
        let _ = is_event;
        moved
    }

    /// `realloc` of a block that may be a sample, or is recorded.
    ///
    /// # Safety
    /// As `GlobalAlloc::realloc`.
    #[cfg(feature = "profile")]
    #[cold]
    #[inline(never)]
    unsafe fn realloc_watched(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !(record::is_on() && record::concerns(block, layout)) {
            // SAFETY: the caller upholds the contract of `realloc`; it is no stand-in.
            return unsafe { self.realloc_unwatched(block, layout, new_size) };
        }
        let resize = record::Resize::begin(block, layout, new_size);
        // SAFETY: the caller upholds the contract of `realloc`; this block came from `inner` with
        // that layout: it is the caller's, or what the caller's stands for.
        let moved = unsafe { self.inner.realloc(resize.original(), layout, new_size) };
        if moved.is_null() {
            enter_resized(moved, layout.size(), new_size);
            resize.refused();
            return moved;
        }
        ledger::resized_untold(layout.size(), new_size);
        record::note_site(ledger::own());
        // SAFETY: just given by `inner`, and the caller has left its block.
        unsafe { resize.ended(moved) }
    }

    /// `dealloc`, with its arguments in the order in which the compiler's shim
    /// has them in registers, so that the shim is a jump.
    ///
    /// # Safety
    /// As `GlobalAlloc::dealloc` with the layout of `size` and `align`.
    #[inline(never)]
    unsafe fn strike_and_free(block: *mut u8, size: usize, align: usize, heap: &Self) {
        // Struck out before the block is free: afterwards another thread may own its address.
        if may_concern(block, size) || !ledger::try_freed(size) {
            // SAFETY: the caller upholds the contract of `dealloc`.
            return unsafe { Self::free_cold(block, size, align, heap) };
        }
        // SAFETY: the caller's `size` and `align` are those of a layout.
        let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
        // SAFETY: the caller upholds the contract of `dealloc`; the block came from `inner`, as its
        // address is none that a stand-in has.
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
        // First, so that what the ledger still has is in its stack's share, whoever sees a new peak
        // meanwhile.
        if !ledger::try_freed(size) {
            ledger::freed_cold(size);
        }
        #[cfg(feature = "profile")]
        let block = if record::is_on() {
            // SAFETY: the caller: nobody uses the block after this.
            unsafe { record::freed(block, layout) }
        } else {
            block
        };
        // SAFETY: the caller upholds the contract of `dealloc`; this block came from `inner` with
        // that layout: it is the caller's, or what the caller's stood for.
        unsafe { heap.inner.dealloc(block, layout) };
    }
}

/// Enters what the inner allocator has given for `layout`, zeroed or not, and
/// gives it on; or its stand-in.
#[inline]
#[cfg_attr(
    not(feature = "profile"),
    expect(unused_variables, reason = "the recorder wants them")
)]
fn entered(block: *mut u8, layout: Layout, zeroed: bool) -> *mut u8 {
    if block.is_null() || !ledger::try_allocated(layout.size()) {
        #[cfg(not(feature = "profile"))]
        return entered_cold(block, layout.size());
        #[cfg(feature = "profile")]
        return entered_cold(block, layout, zeroed);
    }
    block
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

/// Enters a block when the fast path would not, and tells the recorder: a
/// thread that is recorded never takes the fast path. Gives the block that the
/// program gets. Or enters that there is none.
#[cfg(feature = "profile")]
#[cold]
#[inline(never)]
fn entered_cold(block: *mut u8, layout: Layout, zeroed: bool) -> *mut u8 {
    if block.is_null() {
        ledger::refused(layout.size());
        record::note_site(ledger::own());
        return block;
    }
    let slot = ledger::allocated_cold(layout.size());
    let new = record::New {
        block,
        layout,
        zeroed,
        slot,
    };
    let block = if record::is_on() && !ledger::rests(slot, layout.size()) {
        // SAFETY: the ledger has just given it as the calling thread's.
        unsafe { record::allocated(new) }
    } else {
        ledger::publish_due(slot);
        block
    };
    record::note_site(slot);
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
        record::note_site(ledger::own());
    }
    is_watched
}

/// Whether the recorder must be told what becomes of this block.
#[inline]
#[cfg_attr(
    not(feature = "profile"),
    expect(unused_variables, reason = "there is no recorder")
)]
fn may_concern(block: *mut u8, size: usize) -> bool {
    #[cfg(feature = "profile")]
    return record::may_concern(block, size);
    #[cfg(not(feature = "profile"))]
    false
}

/// Whether `System` looks twice at the layout: nearly no request is, and where
/// the layout is a constant nothing is left of the question.
#[inline]
fn is_unusual(layout: Layout) -> bool {
    layout.align() > 16 || layout.align() > layout.size()
}
