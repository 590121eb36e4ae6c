//! What a thread that uses a pool gets while another clears it.
//!
//! A file of its own, because the allocator is the process's.
#![allow(
    unsafe_code,
    reason = "an allocator that stops a thread at a certain point"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;

use heapledger::pool::Pool;

/// Forwards, and stops a thread that wants it at its next allocation.
struct Stopping;

#[global_allocator]
static HEAP: Stopping = Stopping;

// SAFETY: forwards each call as it is; to wait neither allocates nor unwinds.
unsafe impl GlobalAlloc for Stopping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if STOPS.try_with(Cell::take) == Ok(true) {
            CLEARER.store(STOPPED, SeqCst);
            wait_until(|clearer| clearer == SENT_ON);
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
    static STOPS: Cell<bool> = const { Cell::new(false) };
}

/// How far the thread is that clears.
static CLEARER: AtomicU32 = AtomicU32::new(0);
const STOPPED: u32 = 1;
const SENT_ON: u32 = 2;
const DONE: u32 = 3;

fn wait_until(is_reached: impl Fn(u32) -> bool) {
    while !is_reached(CLEARER.load(SeqCst)) {
        thread::yield_now();
    }
}

/// Bug prevented: a thread that uses the pool in the middle of a `clear` moves what
/// lies in the depot to its line, as if it were new, and gives it out later.
#[test]
fn what_was_idle_before_a_clear_is_not_given_out_after_it_by_a_thread_that_came_in_between() {
    static HAS_BEGUN: AtomicBool = AtomicBool::new(false);
    // The value: whether the object is newer than the clear.
    let pool = Pool::from_fn(|| HAS_BEGUN.load(SeqCst));
    // All that is idle is in the depot, and this thread has a line.
    let _held = pool.acquire();
    pool.prewarm(40).expect("infallible");
    thread::scope(|scope| {
        scope.spawn(|| {
            HAS_BEGUN.store(true, SeqCst);
            // It makes room for what it takes out of the lines.
            STOPS.set(true);
            pool.clear();
            let was_stopped = !STOPS.take();
            CLEARER.store(DONE, SeqCst);
            assert!(was_stopped, "nothing is tested");
        });
        wait_until(|clearer| clearer == STOPPED || clearer == DONE);
        let _first = pool.acquire();
        let _ = CLEARER.compare_exchange(STOPPED, SENT_ON, SeqCst, SeqCst);
        wait_until(|clearer| clearer == DONE);
        assert!(*pool.acquire(), "older than the clear");
    });
}
