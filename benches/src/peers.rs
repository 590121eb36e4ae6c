//! What the peers need to be compared: the obvious design, and a tracker for
//! the crate that calls one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use tracking_allocator::{AllocationGroupId, AllocationRegistry, AllocationTracker};

/// Four figures for the whole process, each an atomic that all threads share:
/// what one writes first, with the null test and the fetch-max done right.
#[derive(Debug)]
pub struct SharedAtomics;

static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);
static PEAK_BYTES: AtomicU64 = AtomicU64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);

impl SharedAtomics {
    /// Live and peak bytes, allocations and frees.
    pub fn figures() -> [u64; 4] {
        [&LIVE_BYTES, &PEAK_BYTES, &ALLOCATIONS, &FREES]
            .map(|figure| figure.load(Ordering::Relaxed))
    }

    #[inline]
    fn grown(bytes: usize) {
        let bytes = bytes as u64;
        let live = LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK_BYTES.fetch_max(live, Ordering::Relaxed);
    }

    #[inline]
    fn shrunk(bytes: usize) {
        LIVE_BYTES.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: each call is forwarded to `System` as it came and its answer returned as it is; besides,
// only integers are added up.
unsafe impl GlobalAlloc for SharedAtomics {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract, which is also `System`'s.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            Self::grown(layout.size());
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract, which is also `System`'s.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            Self::grown(layout.size());
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        FREES.fetch_add(1, Ordering::Relaxed);
        Self::shrunk(layout.size());
        // SAFETY: the caller upholds the contract; the block came from `System`.
        unsafe { System.dealloc(block, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract; the block came from `System`.
        let moved = unsafe { System.realloc(block, layout, new_size) };
        if !moved.is_null() {
            match new_size.checked_sub(layout.size()) {
                Some(more) => Self::grown(more),
                None => Self::shrunk(layout.size() - new_size),
            }
        }
        moved
    }
}

/// A tracker for `tracking-allocator` that does nothing more than count.
struct CountingTracker;

static TRACKED_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static TRACKED_BYTES: AtomicU64 = AtomicU64::new(0);

impl AllocationTracker for CountingTracker {
    fn allocated(&self, _: usize, object_size: usize, _: usize, _: AllocationGroupId) {
        TRACKED_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        TRACKED_BYTES.fetch_add(object_size as u64, Ordering::Relaxed);
    }

    fn deallocated(
        &self,
        _: usize,
        object_size: usize,
        _: usize,
        _: AllocationGroupId,
        _: AllocationGroupId,
    ) {
        TRACKED_BYTES.fetch_sub(object_size as u64, Ordering::Relaxed);
    }
}

/// Registers a tracker with `tracking-allocator` and switches it on.
pub fn start_tracking_allocator() {
    // Fails when there is one already, which can only be this.
    let _ = AllocationRegistry::set_global_tracker(CountingTracker);
    AllocationRegistry::enable_tracking();
}

/// Allocations that the tracker was told of.
pub fn tracked_allocations() -> u64 {
    TRACKED_ALLOCATIONS.load(Ordering::Relaxed)
}
