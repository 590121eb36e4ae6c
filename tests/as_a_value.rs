//! A `TrackingAllocator` that is used directly, as a value, in a program with
//! another global allocator: it tells what went through it, and nothing that
//! would need all of the heap to pass through it works.

#![allow(
    unsafe_code,
    reason = "calls the four functions of an allocator by hand"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::panic::catch_unwind;

use heapledger::{
    Scope, Stats, TrackingAllocator, assert_no_alloc, is_installed, measure, metrics, stats,
    try_stats, try_thread_stats,
};

static ARENA: TrackingAllocator = TrackingAllocator::new();
/// Another value, the same books.
static OTHER: TrackingAllocator = TrackingAllocator::new();

/// Bug prevented: a flag set by the first allocation that goes through us,
/// which a value that is used directly sets as well.
#[test]
fn it_reports_what_went_through_it_and_still_does_not_pass_for_installed() {
    assert!(!is_installed());
    assert!(try_stats().is_err());
    let small = Layout::from_size_align(100, 8).expect("small");
    let large = Layout::from_size_align(5_000, 64).expect("small");
    // SAFETY: the layout is not empty.
    let first = std::hint::black_box(unsafe { ARENA.alloc(small) });
    // SAFETY: the layout is not empty.
    let second = std::hint::black_box(unsafe { OTHER.alloc_zeroed(large) });
    // SAFETY: from `ARENA` with this layout; 300 is not zero and small.
    let first = std::hint::black_box(unsafe { ARENA.realloc(first, small, 300) });
    assert!(!first.is_null() && !second.is_null());
    assert!(!is_installed());

    let mut expected = Stats::default();
    expected.live_bytes = 5_300;
    expected.live_blocks = 2;
    expected.peak_bytes = 5_300;
    expected.allocated_bytes = 5_300;
    expected.allocations = 2;
    expected.reallocations = 1;
    // The test's own vectors, strings and threads are not in there.
    drop(std::hint::black_box(vec![0u8; 10_000]));
    assert_eq!(stats(), expected);
    assert_eq!(ARENA.stats(), expected);
    assert_eq!(
        (OTHER.bytes_allocated(), OTHER.allocation_count()),
        (5_300, 2)
    );

    the_page_for_prometheus_is_whole();

    let grown = Layout::from_size_align(300, 8).expect("small");
    // SAFETY: from `realloc` above, of this layout, used no more.
    unsafe { ARENA.dealloc(first, grown) };
    // SAFETY: from `alloc_zeroed` above, of this layout, used no more.
    unsafe { OTHER.dealloc(second, large) };
    expected.live_bytes = 0;
    expected.live_blocks = 0;
    expected.freed_bytes = 5_300;
    expected.frees = 2;
    assert_eq!(stats(), expected);

    assert!(!is_installed());
    assert!(try_thread_stats().is_err_and(|e| e.is_not_installed()));
    assert!(Scope::try_enter().is_err_and(|e| e.is_not_installed()));
    assert!(catch_unwind(|| measure(|| ())).is_err());
    assert!(catch_unwind(|| assert_no_alloc!(|| ())).is_err());
}

/// Bug prevented: a page that ends in a panic where the histogram begins, which
/// asked for an installed allocator when the counters had not.
fn the_page_for_prometheus_is_whole() {
    let mut page = Vec::new();
    metrics::write_prometheus(&mut page).expect("a page");
    let page = String::from_utf8(page).expect("text");
    let has = |line: &str| assert!(page.lines().any(|l| l == line), "{line}: {page}");
    has("heapledger_live_bytes 5300");
    has("heapledger_allocations_total 2");
    if cfg!(feature = "histogram") {
        has("heapledger_request_size_bytes_bucket{le=\"63\"} 0");
        has("heapledger_request_size_bytes_bucket{le=\"127\"} 1");
        has("heapledger_request_size_bytes_bucket{le=\"8191\"} 2");
        has("heapledger_request_size_bytes_count 2");
    }
}
