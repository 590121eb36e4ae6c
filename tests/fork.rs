//! `fork` with busy threads: the child has the forking thread alone, and
//! whatever lock another thread held is held there for ever.
//!
//! The child allocates, makes a thread (as C does: std keeps a lock of its own
//! around the start of a thread, which is not ours to test), checks its
//! counters by difference and exits. A watchdog in the parent kills a child
//! that hangs, and fails.

#![allow(unsafe_code, reason = "forks, and makes threads the way C does")]

mod support;

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::process::ExitCode;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use heapledger::{Scope, TrackingAllocator, measure, reset_peak, stats, thread_stats};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        three_hundred_children_of_busy_threads_count_right_and_exit,
        a_child_may_reset_the_peak_though_a_thread_it_does_not_have_was_at_it,
        a_child_reads_a_carried_scope_that_other_threads_were_entering,
    ])
}

/// Far longer than a child takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_mins(1);

/// One block of so many bytes.
fn block(bytes: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(bytes))
}

/// Runs `child` in a child of `fork`, which exits with what it gives, and
/// waits for it: `Err` when it does not come, or comes to a bad end.
fn in_child(child: impl FnOnce() -> u8) -> Result<u8, &'static str> {
    // SAFETY: the child runs `child` alone, which is written for what is left there, and never
    // comes back from here.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        let code = child();
        // SAFETY: ends the child, without the exit handlers that are the parent's.
        unsafe { libc::_exit(code.into()) };
    }
    let begin = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: our child, not yet waited for; the pointer is valid for the call.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if ended == pid {
            return if libc::WIFEXITED(status) {
                Ok(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
            } else {
                Err("the child was killed by a signal")
            };
        }
        assert_eq!(ended, 0, "waitpid");
        if begin.elapsed() > PATIENCE {
            // SAFETY: our child, not yet waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            return Err("the child hangs");
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Threads that do `work` again and again until the guard is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Busy {
    fn new(threads: usize, work: impl Fn(usize) + Clone + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(AtomicU32::new(0));
        let running: Vec<_> = (0..threads)
            .map(|i| {
                let (stop, begun, work) = (Arc::clone(&stop), Arc::clone(&begun), work.clone());
                thread::spawn(move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    while !stop.load(Ordering::Relaxed) {
                        work(i);
                    }
                })
            })
            .collect();
        while (begun.load(Ordering::SeqCst) as usize) < threads {
            thread::yield_now();
        }
        Self {
            stop,
            threads: running,
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("thread");
        }
    }
}

/// What a thread of the child does: 50 blocks, of which the last goes back.
extern "C" fn thread_of_child(_: *mut c_void) -> *mut c_void {
    let before = thread_stats();
    for bytes in 1..50 {
        drop(block(bytes));
    }
    let last = Box::into_raw(Box::new(7u64));
    let change = thread_stats().since(&before);
    if (change.allocations, change.frees, change.live_bytes) == (50, 49, 8) {
        last.cast()
    } else {
        ptr::null_mut()
    }
}

/// What the child does and finds: 0 when all is right, else which check failed.
fn child() -> u8 {
    let before = stats();
    // What the child has is what the parent's threads had; it is not below zero.
    if before.live_bytes != before.allocated_bytes.wrapping_sub(before.freed_bytes) {
        return 1;
    }
    let own = thread_stats();
    let ((), inside) = measure(|| {
        for bytes in 1..=1_000 {
            drop(block(bytes));
        }
    });
    if (inside.allocations, inside.frees, inside.peak_bytes) != (1_000, 1_000, 1_000) {
        return 2;
    }
    let own = thread_stats().since(&own);
    if (own.allocations, own.allocated_bytes, own.live_bytes) != (1_000, 500_500, 0) {
        return 3;
    }
    let mut thread: libc::pthread_t = 0;
    let body = thread_of_child;
    // SAFETY: the pointers are valid for the call; the body takes no argument.
    let made = unsafe { libc::pthread_create(&raw mut thread, ptr::null(), body, ptr::null_mut()) };
    if made != 0 {
        return 4;
    }
    let mut last = ptr::null_mut();
    // SAFETY: just made, joined once; the pointer is valid for the call.
    if unsafe { libc::pthread_join(thread, &raw mut last) } != 0 {
        return 5;
    }
    if last.is_null() {
        return 6;
    }
    // SAFETY: the body's box, taken back once.
    drop(unsafe { Box::from_raw(last.cast::<u64>()) });
    // Nobody else is here: the figures of the process are exact.
    let change = stats().since(&before);
    if (change.allocations, change.frees) != (1_050, 1_050) {
        return 7;
    }
    if change.allocated_bytes != 500_500 + (1..50).sum::<u64>() + 8 {
        return 8;
    }
    if (change.live_bytes, change.live_blocks) != (0, 0) {
        return 9;
    }
    0
}

fn three_hundred_children_of_busy_threads_count_right_and_exit() {
    // The first question makes a block of its own; the children are not to ask it.
    assert!(heapledger::is_installed());
    let held = block(10_000_000);
    let (send, receive) = mpsc::sync_channel::<Vec<u8>>(100);
    let busy = Busy::new(6, move |i| match i {
        // Blocks that change hands, threads that come and go, large and small ones.
        0 | 1 => drop(send.try_send(block(100))),
        2 => thread::spawn(|| drop(block(50))).join().expect("thread"),
        3 => drop(block(200_000)),
        _ => {
            let mut list = block(16);
            list.reserve_exact(1_000);
            drop(black_box(list));
        }
    });
    let stop = Arc::clone(&busy.stop);
    let taker = thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            receive.try_iter().for_each(drop);
        }
    });
    for round in 0..300 {
        assert_eq!(in_child(child), Ok(0), "round {round}");
        // The parent has not noticed anything.
        let ((), inside) = measure(|| drop(block(round + 1)));
        assert_eq!((inside.allocations, inside.frees), (1, 1));
    }
    busy.end();
    taker.join().expect("thread");
    drop(held);
}

/// Bug prevented: a lock around the reset of the peak, which a thread that
/// the child does not have holds there for ever.
fn a_child_may_reset_the_peak_though_a_thread_it_does_not_have_was_at_it() {
    let busy = Busy::new(4, |_| reset_peak());
    for round in 0..300 {
        let outcome = in_child(|| {
            drop(block(50_000_000));
            if stats().peak_bytes < 50_000_000 {
                return 1;
            }
            reset_peak();
            if stats().peak_bytes >= 50_000_000 {
                return 2;
            }
            0
        });
        assert_eq!(outcome, Ok(0), "round {round}");
    }
    busy.end();
}

/// Bug prevented: a reader that waits for the writer of a page to come out of
/// the middle of a change, where `fork` has left it.
fn a_child_reads_a_carried_scope_that_other_threads_were_entering() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let visitor = handle.clone();
    let busy = Busy::new(4, move |_| {
        let _inside = visitor.enter();
        drop(block(64));
    });
    let seen = Cell::new(0);
    for round in 0..300 {
        let at_least = handle.stats().allocations;
        let outcome = in_child(|| {
            let first = handle.stats();
            if first.allocations < at_least || first.net_blocks() < 0 {
                return 1;
            }
            if handle.stats() != first {
                return 2;
            }
            let inside = handle.enter();
            drop(block(1_000));
            drop(inside);
            let now = handle.stats();
            if now.allocated_bytes - first.allocated_bytes != 1_000 {
                return 3;
            }
            0
        });
        assert_eq!(outcome, Ok(0), "round {round}");
        seen.set(at_least);
    }
    assert!(seen.get() > 300);
    busy.end();
}
