//! What a thread that uses a pool gets while another clears it, and after.
//!
//! A file of its own, because the allocator is the process's.
#![allow(
    unsafe_code,
    reason = "an allocator that stops a thread at a certain point"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;

use heapledger::pool::{Pool, Pooled};

/// Forwards, and stops a thread that wants it at its next allocation.
struct Stopping;

#[global_allocator]
static HEAP: Stopping = Stopping;

// SAFETY: forwards each call as it is; to wait neither allocates nor unwinds.
unsafe impl GlobalAlloc for Stopping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Ok(Some(step)) = STOPS_AT.try_with(Cell::take) {
            step.wait();
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
    static STOPS_AT: Cell<Option<&'static Step>> = const { Cell::new(None) };
}

/// How far the thread is that is stopped.
struct Step {
    at: AtomicU32,
    /// Whether it goes on by itself after a while: the other one may wait for it.
    goes_on: bool,
}

const STOPPED: u32 = 1;
const SENT_ON: u32 = 2;
const DONE: u32 = 3;

impl Step {
    const fn new(goes_on: bool) -> Self {
        Self {
            at: AtomicU32::new(0),
            goes_on,
        }
    }

    fn wait(&self) {
        self.at.store(STOPPED, SeqCst);
        let mut left = 2_000;
        while self.at.load(SeqCst) == STOPPED && left > 0 {
            left -= u32::from(self.goes_on);
            thread::yield_now();
        }
    }

    /// Calls `f`, which is stopped in the middle.
    fn run(&'static self, f: impl FnOnce()) {
        STOPS_AT.set(Some(self));
        f();
        let was_stopped = STOPS_AT.take().is_none();
        self.at.store(DONE, SeqCst);
        assert!(was_stopped, "nothing is tested");
    }

    fn wait_until_stopped(&self) {
        while self.at.load(SeqCst) == 0 {
            thread::yield_now();
        }
    }

    fn send_on(&self) {
        let _ = self.at.compare_exchange(STOPPED, SENT_ON, SeqCst, SeqCst);
    }

    fn wait_until_done(&self) {
        while self.at.load(SeqCst) != DONE {
            thread::yield_now();
        }
    }
}

/// Numbers of ended threads are to be had by this test's threads only.
fn alone() -> impl Drop {
    static ALONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    ALONE.lock()
}

/// Puts as many objects as there is room for into the calling thread's line.
fn fill_line<T>(pool: &Pool<T>) {
    drop((0..62).map(|_| pool.acquire()).collect::<Vec<_>>());
}

/// Bug prevented: a thread that uses the pool in the middle of a `clear` moves what
/// lies in the depot to its line, as if it were new, and gives it out later.
#[test]
fn what_was_idle_before_a_clear_is_not_given_out_after_it_by_a_thread_that_came_in_between() {
    static HAS_BEGUN: AtomicBool = AtomicBool::new(false);
    static CLEARER: Step = Step::new(false);
    let _alone = alone();
    // The value: whether the object is newer than the clear.
    let pool = Pool::from_fn(|| HAS_BEGUN.load(SeqCst));
    // This thread has a line, and nothing in it.
    let _held = pool.acquire();
    thread::scope(|scope| {
        scope.spawn(|| {
            fill_line(&pool);
            pool.prewarm(62 + 40).expect("infallible");
            HAS_BEGUN.store(true, SeqCst);
            // It makes room for what it takes out of the lines.
            CLEARER.run(|| pool.clear());
        });
        CLEARER.wait_until_stopped();
        let _first = pool.acquire();
        CLEARER.send_on();
        CLEARER.wait_until_done();
        assert!(*pool.acquire(), "older than the clear");
    });
}

/// Bug prevented: what another thread has in its hands to shrink the pool is not seen by
/// a `clear`, and put back after it.
#[test]
fn what_was_idle_before_a_clear_is_not_put_back_after_it_by_a_thread_that_shrinks_the_pool() {
    static HAS_BEGUN: AtomicBool = AtomicBool::new(false);
    static SHRINKER: Step = Step::new(true);
    let _alone = alone();
    let pool = Pool::from_fn(|| HAS_BEGUN.load(SeqCst));
    thread::scope(|scope| {
        scope.spawn(|| {
            fill_line(&pool);
            pool.prewarm(62 + 100).expect("infallible");
            SHRINKER.run(|| pool.shrink_to(50));
        });
        SHRINKER.wait_until_stopped();
        HAS_BEGUN.store(true, SeqCst);
        pool.clear();
        SHRINKER.send_on();
        SHRINKER.wait_until_done();
    });
    let all: Vec<Pooled<'_, bool>> = (0..62).map(|_| pool.acquire()).collect();
    assert!(all.iter().all(|is_new| **is_new), "older than the clear");
}

/// Bug prevented: a `clear` passes over the lines of ended threads whose numbers the
/// `clear` of another pool has just in its hands.
#[test]
fn a_clear_beside_that_of_another_pool_leaves_nothing_that_ended_threads_had() {
    static OTHER: Step = Step::new(true);
    let _alone = alone();
    let pools = [Pool::from_fn(|| 1), Pool::from_fn(|| 2)];
    thread::scope(|scope| {
        let user = scope.spawn(|| pools.each_ref().map(|pool| drop(pool.acquire())));
        // A scope waits for no thread locals, and a handle does.
        user.join().expect("no panic");
        scope.spawn(|| OTHER.run(|| pools[0].clear()));
        OTHER.wait_until_stopped();
        pools[1].clear();
        OTHER.send_on();
        OTHER.wait_until_done();
    });
    assert_eq!(pools.each_ref().map(|pool| pool.stats().idle), [0, 0]);
}

/// A pool of objects that are numbered, and a running thread that keeps the first of them
/// until the result is dropped.
fn with_sleeper(objects: usize) -> (Arc<Pool<u64>>, impl Drop) {
    struct Sleeper(Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            if let Some((wake, thread)) = self.0.take() {
                drop(wake);
                // Not a scope, which does not wait for the thread's locals.
                thread.join().expect("it panics nowhere");
            }
        }
    }

    let next = AtomicU64::new(0);
    let pool = Arc::new(Pool::from_fn(move || next.fetch_add(1, SeqCst)));
    let (ready, is_ready) = mpsc::channel();
    let (wake, sleeps) = mpsc::channel();
    let sleeper = thread::spawn({
        let pool = Arc::clone(&pool);
        move || {
            acquire_all(&pool, objects);
            ready.send(()).expect("the other is alive");
            sleeps.recv().expect_err("nothing is sent");
        }
    });
    is_ready.recv().expect("it has begun");
    (pool, Sleeper(Some((wake, sleeper))))
}

/// At once; gives the smallest number.
fn acquire_all(pool: &Pool<u64>, n: usize) -> u64 {
    let all: Vec<_> = (0..n).map(|_| pool.acquire()).collect();
    all.iter().map(|number| **number).min().unwrap_or(0)
}

/// Bug prevented: epochs repeat after 256, and a line that slept through 255 of them looks
/// as if it were of the one that begins, also the caller's own.
#[test]
fn a_clear_reaches_the_own_line_also_if_it_has_slept_through_all_other_epochs() {
    let _alone = alone();
    for others in 254..=256 {
        let pool = Pool::from_fn(|| 1);
        fill_line(&pool);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                for _ in 0..others {
                    pool.prewarm(1).expect("infallible");
                    pool.clear();
                }
                pool.prewarm(1).expect("infallible");
            });
            other.join().expect("no panic");
        });
        pool.clear();
        assert_eq!(pool.stats().idle, 0, "{others}");
    }
}

/// Bug prevented: while a thread that does nothing keeps more than the pool is to be
/// shrunk to, each call throws away what the others have just created.
#[test]
fn shrinking_again_takes_nothing_from_those_who_use_the_pool() {
    let _alone = alone();
    let (pool, _sleeper) = with_sleeper(62);
    let shrink = || {
        thread::scope(|scope| {
            let shrinker = scope.spawn(|| pool.shrink_to(50));
            shrinker.join().expect("no panic");
        });
        acquire_all(&pool, 20);
    };
    acquire_all(&pool, 20);
    shrink();
    let created = pool.stats().created;
    for _ in 0..10 {
        shrink();
    }
    assert_eq!(pool.stats().created, created);
}

/// Bug prevented: what a thread was to drop, but has ended before, counts as idle for ever,
/// or is what a later call keeps.
#[test]
fn what_an_ended_thread_was_to_drop_goes_with_the_next_call() {
    let _alone = alone();
    for others in [20, 60] {
        let (pool, sleeper) = with_sleeper(62);
        pool.clear();
        drop(sleeper);
        pool.prewarm(others).expect("infallible");
        pool.shrink_to(50);
        let left = others.min(50);
        assert_eq!(pool.stats().idle, left as u64);
        assert!(acquire_all(&pool, left) >= 62, "older than the clear");
    }
}

/// Bug prevented: objects that another thread is to drop count as idle, and a pool that
/// was cleared stays cold.
#[test]
fn prewarming_a_cleared_pool_creates_objects_though_another_thread_keeps_old_ones() {
    let _alone = alone();
    let (pool, _sleeper) = with_sleeper(8);
    pool.clear();
    pool.prewarm(8).expect("infallible");
    assert_eq!(pool.stats().created, 16);
    assert_eq!(acquire_all(&pool, 8), 8);
}
