//! Pools in a child of `fork`.
//!
//! Bug prevented: a lock that another thread held at the moment of the fork stays
//! held in the child for ever, and whoever uses the pool there hangs.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "calls fork and waits for the child")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use heapledger::pool::{AcquireAsync, BoundedPool, Pool, PoolError, Pooled};

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

/// Bug prevented: the child inherits the queue, hands what comes back to a thread
/// that it does not have, and whoever wants it there waits for ever.
#[test]
fn a_child_hands_nothing_to_threads_that_it_does_not_have() {
    let pool = BoundedPool::<u32>::new(2);
    let (mut object, mut permit) = (pool.try_acquire(), pool.try_acquire());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| drop(pool.acquire()));
        }
        while pool.stats().waiting < 2 {
            std::thread::yield_now();
        }
        let object_comes_back = in_child(|| {
            drop(object.take());
            pool.acquire().is_ok() && pool.stats().waiting == 0
        });
        let permit_comes_back = in_child(|| {
            let _mine = permit.take().map(Pooled::detach);
            pool.acquire().is_ok() && pool.stats().waiting == 0
        });
        // Before an assertion fails: the threads wait for them.
        drop((object.take(), permit.take()));
        assert!(object_comes_back && permit_comes_back);
    });
    assert_eq!((pool.stats().idle, pool.stats().waiting), (2, 0));
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

type Answer<'a> = Poll<Result<Pooled<'a, u32, BoundedPool<u32>>, PoolError>>;

fn poll<'a>(future: &mut AcquireAsync<'a, u32>, woken: &Arc<Woken>) -> Answer<'a> {
    let waker = Waker::from(Arc::clone(woken));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

fn is_lost(answer: &Answer<'_>) -> bool {
    matches!(answer, Poll::Ready(Err(error)) if error.is_lost_in_fork())
}

/// Bug prevented: the child wakes a task by the waker of a runtime whose threads it
/// does not have, or leaves a future that lives on there waiting for ever.
#[test]
fn a_future_that_waits_at_a_fork_is_lost_in_the_child_and_its_waker_left_alone() {
    let pool = BoundedPool::<u32>::new(1);
    let mut guard = pool.try_acquire();
    let woken = Arc::new(Woken::default());
    let mut future = pool.acquire_async();
    assert!(poll(&mut future, &woken).is_pending());
    let wakers = Arc::strong_count(&woken);
    let untouched = || woken.0.load(Relaxed) == 0 && Arc::strong_count(&woken) == wakers;
    // Looked at after another's turn came, before it, and after the pool was closed.
    let passed_over = in_child(|| {
        drop(guard.take());
        untouched() && is_lost(&poll(&mut future, &woken)) && pool.acquire().is_ok()
    });
    let looked_first = in_child(|| {
        let lost = is_lost(&poll(&mut future, &woken));
        drop(guard.take());
        lost && untouched() && pool.acquire().is_ok()
    });
    let closed = in_child(|| {
        pool.close();
        untouched() && is_lost(&poll(&mut future, &woken))
    });
    assert!(passed_over && looked_first && closed);
    drop(guard.take());
    assert_eq!(woken.0.load(Relaxed), 1);
    assert!(matches!(poll(&mut future, &woken), Poll::Ready(Ok(_))));
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
