//! Pools in a child of `fork`.
//!
//! Bug prevented: a lock that another thread held at the moment of the fork stays
//! held in the child for ever, and whoever uses the pool there hangs.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "calls fork and waits for the child")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use heapledger::pool::{BoundedPool, Pool};

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
    fn _exit(code: i32) -> !;
}

/// Runs `f` in a child; its answer is whether all was well. A child that hangs is
/// killed and was not well.
fn in_child(f: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `f` and ends; `f` uses pools and the allocator, and glibc's is made
    // ready for the child by `fork` itself.
    let pid = unsafe { fork() };
    assert!(pid >= 0, "no process");
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: ends the child without the parent's exit handlers.
        unsafe { _exit(i32::from(!good)) }
    }
    let start = Instant::now();
    loop {
        let mut status = -1;
        // SAFETY: our own child, and a place for its status; 1 is WNOHANG.
        let ended = unsafe { waitpid(pid, &raw mut status, 1) };
        if ended == pid {
            return status == 0;
        }
        if start.elapsed() > Duration::from_mins(1) {
            // SAFETY: our own child, which has not been waited for; 9 is SIGKILL.
            unsafe { kill(pid, 9) };
            // SAFETY: as above, and now it ends.
            unsafe { waitpid(pid, &raw mut status, 0) };
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn pools_work_in_a_child_that_was_forked_while_other_threads_were_inside_them() {
    // Without a cache every call takes the lock, so that some forks find it held.
    let locked = Pool::builder().without_local_cache().from_fn(String::new);
    let pool = Pool::from_fn(String::new);
    let bounded = BoundedPool::<String>::new(4);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    drop((locked.acquire(), pool.acquire(), bounded.try_acquire()));
                    let many: Vec<_> = (0..40).map(|_| pool.acquire()).collect();
                    drop(many);
                }
            });
        }
        let mut lost = 0;
        for _ in 0..60 {
            let good = in_child(|| {
                for _ in 0..100 {
                    drop(locked.acquire());
                    let many: Vec<_> = (0..40).map(|_| pool.acquire()).collect();
                    drop(many);
                    pool.stats();
                    drop(bounded.try_acquire());
                }
                // Waits for nothing that can never come.
                match bounded.acquire_timeout(Duration::from_millis(10)) {
                    Ok(_) => true,
                    Err(error) => error.is_lost_in_fork() || error.is_timeout(),
                }
            });
            lost += u32::from(!good);
        }
        stop.store(true, Relaxed);
        assert_eq!(lost, 0, "children that hung or failed");
    });
    // The parent has noticed nothing.
    assert_eq!((pool.stats().out, locked.stats().out), (0, 0));
    let all: Vec<_> = std::iter::from_fn(|| bounded.try_acquire()).collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn guards_that_are_out_at_a_fork_can_be_dropped_on_both_sides() {
    let pool = Pool::from_fn(|| String::from("text"));
    let bounded = BoundedPool::<String>::new(1);
    let (guard, permit) = (pool.acquire(), bounded.try_acquire());
    let child = in_child(|| {
        let again = (pool.acquire(), bounded.try_acquire());
        *again.0 == "text" && again.1.is_none()
    });
    assert!(child);
    drop((guard, permit));
    assert_eq!((pool.stats().idle, bounded.stats().idle), (1, 1));
}

/// What was dropped, by number.
static DROPPED: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];
static TWICE: AtomicBool = AtomicBool::new(false);

/// Knows whether it was dropped before.
struct Numbered(usize);

impl Drop for Numbered {
    fn drop(&mut self) {
        if DROPPED[self.0].swap(true, Relaxed) {
            TWICE.store(true, Relaxed);
        }
    }
}

/// Bug prevented: a thread that moves half a magazine to the depot when another
/// forks leaves objects in the child that lie in its line and in the depot, or in
/// its line twice, and a child that drops the pool drops them twice.
#[test]
fn a_child_that_drops_a_pool_drops_nothing_twice() {
    let next = AtomicUsize::new(0);
    let next: &'static AtomicUsize = Box::leak(Box::new(next));
    let pool = Box::into_raw(Box::new(Pool::from_fn(|| {
        Numbered(next.fetch_add(1, Relaxed))
    })));
    // SAFETY: from a box that only children of ours turn back into one, each for itself.
    let shared = unsafe { &*pool };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let many: Vec<_> = (0..300).map(|_| shared.acquire()).collect();
                    drop(many);
                }
            });
        }
        let mut bad = 0;
        for _ in 0..1_000 {
            let good = in_child(|| {
                // SAFETY: in the child nobody else uses it.
                drop(unsafe { Box::from_raw(pool) });
                !TWICE.load(Relaxed)
            });
            bad += u32::from(!good);
        }
        stop.store(true, Relaxed);
        assert_eq!(bad, 0, "children that dropped an object twice");
    });
    // SAFETY: the threads are gone.
    drop(unsafe { Box::from_raw(pool) });
}
