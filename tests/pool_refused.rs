//! Pools when the system refuses memory.
//!
//! A file of its own, because the allocator is the process's.
#![allow(unsafe_code, reason = "an allocator that refuses")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use heapledger::pool::{BoundedPool, Pool};

/// Forwards, and gives nothing to a thread that wants it so.
struct Refusing;

#[global_allocator]
static HEAP: Refusing = Refusing;

// SAFETY: forwards each call as it is or refuses it; neither allocates nor unwinds.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if REFUSES.try_with(Cell::get) == Ok(true) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
    }
}

thread_local! {
    static REFUSES: Cell<bool> = const { Cell::new(false) };
}

fn without_memory<R>(f: impl FnOnce() -> R) -> R {
    REFUSES.set(true);
    let result = f();
    REFUSES.set(false);
    result
}

/// Bug prevented: giving an object back ends the process.
#[test]
fn an_object_that_there_is_no_place_for_is_dropped_and_its_permit_is_free() {
    let pool = BoundedPool::from_fn(8, || 0u8);
    let guards: [_; 8] = std::array::from_fn(|_| pool.acquire().expect("open"));
    without_memory(|| drop(guards));
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.out, stats.discarded), (1, 0, 7));
    let again: [_; 8] = std::array::from_fn(|_| pool.try_acquire());
    assert!(again.iter().all(Option::is_some), "a permit was lost");
}

/// Bug prevented: as long as there is no memory for a place to lie, objects are created and
/// dropped for ever.
#[test]
fn prewarming_ends_also_if_there_is_no_place_for_what_is_created() {
    static CREATED: AtomicU64 = AtomicU64::new(0);
    // Without size, so that it takes no memory itself.
    let pool = BoundedPool::from_fn(1000, || {
        REFUSES.set(CREATED.fetch_add(1, SeqCst) > 300);
    });
    pool.prewarm(1000).expect("infallible");
    REFUSES.set(false);
    assert_eq!(CREATED.load(SeqCst), 1000);
    assert!(pool.stats().discarded > 0, "nothing is tested");
}

/// Bug prevented: a pool asks for memory for what it takes out of lines that are empty.
#[test]
fn a_pool_with_empty_lines_is_cleared_and_dropped_without_memory() {
    let pool = Pool::from_fn(|| 0u8);
    let one = pool.acquire();
    pool.prewarm(40).expect("infallible");
    without_memory(|| pool.clear());
    assert_eq!((pool.stats().idle, pool.stats().discarded), (0, 40));
    let one = heapledger::pool::Pooled::detach(one);
    without_memory(|| drop(pool));
    assert_eq!(one, 0);
}
