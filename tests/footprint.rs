//! What the bookkeeping itself takes from the system: nothing that grows with
//! use. It is not in the ledger, so the system's allocator is asked.

#![allow(unsafe_code, reason = "asks glibc what it has given out")]
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::thread;

use heapledger::{
    Scope, ScopeHandle, TrackingAllocator, assert_no_alloc, measure, measure_future, reset_peak,
};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        scopes_left_in_any_order_leave_nothing_behind,
        a_carried_scope_takes_a_page_for_each_slot_and_gives_all_back,
        threads_leave_nothing_behind,
    ])
}

/// Bytes that the system's allocator has given out and not got back.
fn in_use() -> usize {
    // SAFETY: asks only.
    unsafe { libc::mallinfo2() }.uordblks
}

/// Runs `body` four thousand times after a first one, and checks that it leaves
/// less than eight bytes behind each time. Not nothing at all: glibc counts
/// what it keeps in its own caches for given out.
fn leaves_nothing(mut body: impl FnMut()) {
    assert!(heapledger::is_installed());
    // What is made once is made now: a first page of levels, a first thread's things.
    body();
    let before = in_use();
    for _ in 0..4_000 {
        body();
    }
    let left = in_use().wrapping_sub(before).cast_signed();
    assert!(left < 32_000, "{left} bytes are left behind");
}

/// Bug prevented: a level that is never taken off again.
fn scopes_left_in_any_order_leave_nothing_behind() {
    leaves_nothing(|| {
        let ((), _) = measure(|| drop(black_box(vec![0u8; 100])));
        let (a, b, c) = (Scope::enter(), Scope::enter(), Scope::enter());
        drop(b);
        drop(a);
        drop(c);
        let (a, b) = (Scope::enter(), Scope::enter());
        drop(a);
        drop(b);
        assert_no_alloc!(|| ());
        reset_peak();
    });
    // Each is entered before the last one is left.
    let mut phase = Scope::enter();
    leaves_nothing(|| phase = Scope::enter());
    drop(phase);
    let handles = [0; 2].map(|_| Scope::enter().handle());
    let mut turns = 0..;
    let mut inside = handles[0].enter();
    leaves_nothing(|| inside = handles[turns.next().unwrap_or(0) % 2].enter());
    drop(inside);
    // Forgotten ones cost sixteen bytes each, as they say, and the room doubles.
    let before = in_use();
    for _ in 0..1_000 {
        std::mem::forget(Scope::enter());
    }
    let left = in_use() - before;
    assert!((16_000..40_000).contains(&left), "{left}");
}

/// Bug prevented: a page for each visit, or pages that outlive their scope.
fn a_carried_scope_takes_a_page_for_each_slot_and_gives_all_back() {
    leaves_nothing(|| {
        let scope = Scope::enter();
        let handle = scope.handle();
        for _ in 0..10 {
            let (first, second) = (handle.enter(), handle.clone());
            drop(second.enter());
            drop(first);
        }
        let wrapped = handle.wrap(|| ());
        thread::spawn(wrapped).join().expect("thread");
        drop(scope);
        assert!(handle.stats().allocations > 0);
    });
    // Again and again into the same scope: the page is there already.
    let scope = Scope::enter();
    let handle = scope.handle();
    leaves_nothing(|| {
        drop(handle.enter());
        thread::spawn(handle.wrap(|| ())).join().expect("thread");
    });
    // Threads that never leave, into the same scope, and into one that goes before or after them.
    let forget = |handle: ScopeHandle| move || std::mem::forget(handle.enter());
    leaves_nothing(|| {
        thread::spawn(forget(handle.clone()))
            .join()
            .expect("thread");
    });
    leaves_nothing(|| {
        let handle = Scope::enter().handle();
        thread::spawn(forget(handle.clone()))
            .join()
            .expect("thread");
        thread::spawn(forget(handle)).join().expect("thread");
    });
    drop(scope);
    leaves_nothing(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let ((), stats) = runtime.block_on(measure_future(async {
            tokio::task::yield_now().await;
            drop(black_box(vec![0u8; 64]));
        }));
        assert!(stats.allocations > 0);
    });
}

/// Bug prevented: one block leaked for each thread that ever was.
fn threads_leave_nothing_behind() {
    leaves_nothing(|| {
        thread::spawn(|| {
            let ((), _) = measure(|| drop(black_box(vec![0u8; 1_000])));
        })
        .join()
        .expect("thread");
    });
}
