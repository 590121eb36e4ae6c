//! Scopes in all their shapes: nested, out of order, forgotten, unwound
//! through, carried to threads, closures and futures.
//!
//! Every test here runs beside all the others in one process, and asserts
//! exact figures all the same: that is what scopes are for.

#![allow(
    unsafe_code,
    reason = "makes a thread the way C does, polls futures by hand, and hands blocks over raw"
)]

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, ready};
use std::hint::black_box;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;

use heapledger::{
    Entered, Error, InScope, Scope, ScopeHandle, ScopeStats, Stats, StatsDelta, TrackingAllocator,
    measure, measure_future, thread_stats,
};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// One block of so many bytes.
fn block(bytes: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(bytes))
}

/// The figures of one thread's scope: allocations, bytes, frees, bytes, peak.
fn figures(stats: &ScopeStats) -> (u64, u64, u64, u64, u64) {
    assert_eq!(stats.peak_error_bytes, 0, "exact on one thread");
    assert_eq!(stats.failures, 0);
    (
        stats.allocations,
        stats.allocated_bytes,
        stats.frees,
        stats.freed_bytes,
        stats.peak_bytes,
    )
}

/// Random numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % n
    }
}

// ---------------------------------------------------------------- one thread

/// Bug prevented: adding up the maxima of nested scopes.
#[test]
fn nested_scopes_each_have_their_own_exact_peak() {
    let outer = Scope::enter();
    let kept = block(100);
    let inner = Scope::enter();
    let spike = block(60);
    drop(spike);
    let more = block(30);
    assert_eq!(figures(&inner.stats()), (2, 90, 1, 60, 60));
    assert_eq!(figures(&inner.finish()), (2, 90, 1, 60, 60));
    let ((), second) = measure(|| drop(block(1_000)));
    assert_eq!(figures(&second), (1, 1_000, 1, 1_000, 1_000));
    drop((kept, more));
    assert_eq!(figures(&outer.stats()), (4, 1_190, 4, 1_190, 1_130));
    let late = block(1_131);
    assert_eq!(outer.stats().peak_bytes, 1_131);
    drop(late);
    drop(outer);
}

/// Each of three hundred scopes inside one another holds one block more than
/// the one inside it; so deep, the marks have been moved several times.
#[test]
fn three_hundred_scopes_inside_one_another_are_each_exact() {
    fn descend(depth: u64) -> u64 {
        let (inside, stats) = measure(|| {
            let _kept = block(10);
            if depth == 1 {
                return 10;
            }
            10 + descend(depth - 1)
        });
        assert_eq!(
            figures(&stats),
            (depth, inside, depth, inside, inside),
            "depth {depth}"
        );
        inside
    }
    assert_eq!(descend(300), 3_000);
}

/// Bug prevented: `unsigned -= size` for blocks that are older than the scope
/// panics inside the allocator.
#[test]
fn a_scope_that_frees_older_blocks_goes_below_zero_and_has_no_peak() {
    let old = block(5_000);
    let scope = Scope::enter();
    drop(old);
    drop(block(4_000));
    let stats = scope.finish();
    assert_eq!(figures(&stats), (1, 4_000, 2, 9_000, 0));
    assert_eq!((stats.net_bytes(), stats.net_blocks()), (-5_000, -1));
}

#[test]
fn growing_and_shrinking_in_place_counts_as_the_difference() {
    let (numbers, stats) = measure(|| {
        let mut numbers: Vec<u8> = Vec::with_capacity(100);
        numbers.reserve_exact(300);
        numbers.push(1);
        numbers.shrink_to(50);
        black_box(numbers)
    });
    assert_eq!(figures(&stats), (1, 300, 0, 250, 300));
    assert_eq!(stats.reallocations, 2);
    drop(numbers);
}

#[test]
fn entering_carrying_reading_and_leaving_allocate_nothing() {
    // The first question in the process may allocate.
    drop(Scope::enter());
    let before = thread_stats();
    for _ in 0..100 {
        let scope = Scope::enter();
        let inner = Scope::enter();
        let handle = scope.handle();
        let entered = handle.clone().stats();
        let _guard = handle.enter();
        assert_eq!(entered.allocations, 0);
        assert_eq!(figures(&inner.finish()), (0, 0, 0, 0, 0));
    }
    assert_eq!(thread_stats().since(&before), StatsDelta::default());
}

/// A plain model of one scope.
#[derive(Clone, Copy, Default)]
struct Watch {
    done: (u64, u64, u64, u64),
    net: i64,
    peak: i64,
}

impl Watch {
    fn allocate(&mut self, bytes: u64) {
        self.done.0 += 1;
        self.done.1 += bytes;
        self.net += bytes.cast_signed();
        self.peak = self.peak.max(self.net);
    }

    fn free(&mut self, bytes: u64) {
        self.done.2 += 1;
        self.done.3 += bytes;
        self.net -= bytes.cast_signed();
    }

    fn expected(&self) -> (u64, u64, u64, u64, u64) {
        let (blocks_in, bytes_in, blocks_out, bytes_out) = self.done;
        (
            blocks_in,
            bytes_in,
            blocks_out,
            bytes_out,
            self.peak.cast_unsigned(),
        )
    }
}

/// Bug prevented: guards as a stack that breaks when they are dropped in
/// another order, or when one is never dropped.
#[test]
fn guards_dropped_in_any_order_or_forgotten_leave_every_other_scope_right() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut open: Vec<(Scope, Watch)> = Vec::with_capacity(16);
    let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(64);
    let (mut closed, mut out_of_order, mut forgotten) = (0, 0, 0);
    for step in 0..60_000 {
        match random.below(100) {
            0..40 if blocks.len() < 64 => {
                // Now and then more than a batch, so that publications fall in between.
                let size = 1 + if random.below(50) == 0 {
                    random.below(300_000)
                } else {
                    random.below(2_000)
                };
                blocks.push(block(size));
                for (_, watch) in &mut open {
                    watch.allocate(size as u64);
                }
            }
            0..80 if !blocks.is_empty() => {
                let index = random.below(blocks.len());
                let size = blocks[index].capacity();
                drop(blocks.swap_remove(index));
                for (_, watch) in &mut open {
                    watch.free(size as u64);
                }
            }
            80..90 if open.len() < 16 => open.push((Scope::enter(), Watch::default())),
            90..95 if !open.is_empty() => {
                let (scope, watch) = &open[random.below(open.len())];
                assert_eq!(figures(&scope.stats()), watch.expected(), "step {step}");
            }
            95..98 if !open.is_empty() => {
                let index = random.below(open.len());
                out_of_order += u32::from(index + 1 < open.len());
                let (scope, watch) = open.remove(index);
                let stats = if random.below(2) == 0 {
                    scope.finish()
                } else {
                    let stats = scope.stats();
                    drop(scope);
                    stats
                };
                assert_eq!(figures(&stats), watch.expected(), "step {step}");
                closed += 1;
            }
            98 if !open.is_empty() => {
                let (scope, _) = open.remove(random.below(open.len()));
                mem::forget(scope);
                forgotten += 1;
            }
            _ => {}
        }
    }
    assert!(closed > 500 && out_of_order > 300 && forgotten > 100);
    // And in the simplest order, with all that was forgotten still below.
    let ((), stats) = measure(|| drop(block(77)));
    assert_eq!(figures(&stats), (1, 77, 1, 77, 77));
}

/// Bug prevented: a guard that a panic drops leaves its level open, or pops
/// the one around it.
#[test]
fn scopes_that_a_panic_unwinds_through_are_left_and_the_outer_one_is_right() {
    let outer = Scope::enter();
    let before = thread_stats();
    let kept = block(10);
    for _ in 0..50 {
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _first = Scope::enter();
            let second = Scope::enter();
            let handle = second.handle();
            let _entered = handle.enter();
            measure(|| {
                drop(block(100_000));
                // Without the hook, which would print.
                resume_unwind(Box::new(7u8));
            });
        }));
        assert_eq!(
            unwound.expect_err("it panics").downcast_ref::<u8>(),
            Some(&7)
        );
    }
    let change = thread_stats().since(&before);
    let stats = outer.stats();
    assert_eq!(
        (stats.allocations, stats.allocated_bytes),
        (change.allocations, change.allocated_bytes)
    );
    assert_eq!(
        (stats.frees, stats.freed_bytes),
        (change.frees, change.freed_bytes)
    );
    assert_eq!(stats.net_bytes(), 10);
    // What unwinding itself takes is far smaller than the spike before it.
    assert_eq!(stats.peak_bytes, 100_010);
    // Nothing is left open: the next scope sees its own alone.
    let ((), stats) = measure(|| drop(block(5)));
    assert_eq!(figures(&stats), (1, 5, 1, 5, 5));
    drop(kept);
}

#[test]
fn a_panic_passes_through_measure_with_its_payload() {
    let unwound = catch_unwind(|| measure(|| resume_unwind(Box::new("payload"))));
    let payload = unwound.map(|((), _)| ()).expect_err("it panics");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"payload"));
}

// ------------------------------------------------------- the end of a thread

thread_local! {
    static KEPT: RefCell<Vec<Scope>> = const { RefCell::new(Vec::new()) };
}

/// The guard's destructor runs before the slot is given back: an ordinary drop.
#[test]
fn a_guard_kept_in_a_thread_local_is_left_at_the_end_of_the_thread() {
    for round in 0..50 {
        let handle = thread::spawn(|| {
            KEPT.with_borrow_mut(|kept| kept.reserve_exact(2));
            let scope = Scope::enter();
            let handle = scope.handle();
            drop(block(1_000));
            KEPT.with_borrow_mut(|kept| kept.extend([scope, Scope::enter()]));
            handle
        })
        .join()
        .expect("thread");
        let stats = handle.stats();
        assert_eq!(stats.peak_bytes, 1_000, "round {round}");
        assert_eq!(stats.allocations, 1, "round {round}");
        // The slot's next owner finds no open level and adds nothing to the old scope.
        thread::spawn(|| {
            let ((), stats) = measure(|| drop(block(300)));
            assert_eq!(figures(&stats), (1, 300, 1, 300, 300));
        })
        .join()
        .expect("thread");
        assert_eq!(handle.stats(), stats, "round {round}");
    }
}

/// Drops a guard when the thread's slot is already gone, with other threads
/// that have claimed slots meanwhile and are inside scopes of their own.
struct Late(Cell<Option<Scope>>);

/// How many guards were dropped late, and how many of those could neither be
/// read nor carried.
static LATE: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

impl Drop for Late {
    fn drop(&mut self) {
        let Some(scope) = self.0.take() else { return };
        if !Scope::try_enter().is_err_and(|error| error.is_thread_ending()) {
            return;
        }
        LATE.fetch_add(1, Ordering::Relaxed);
        let refused = scope
            .try_handle()
            .is_err_and(|error| error.is_thread_ending());
        QUIET.set(true);
        let unread = catch_unwind(AssertUnwindSafe(|| scope.stats())).is_err();
        QUIET.set(false);
        REFUSED.fetch_add(usize::from(refused && unread), Ordering::Relaxed);
        let inside = Arc::new(Barrier::new(4));
        let tenants: Vec<_> = (0..3)
            .map(|_| {
                let inside = Arc::clone(&inside);
                thread::spawn(move || {
                    // What the barrier may take for itself is taken before.
                    inside.wait();
                    let scope = Scope::enter();
                    let kept = block(500);
                    inside.wait();
                    // Here the late guard is dropped.
                    inside.wait();
                    drop(kept);
                    drop(block(400));
                    figures(&scope.finish())
                })
            })
            .collect();
        inside.wait();
        inside.wait();
        drop(scope);
        inside.wait();
        for tenant in tenants {
            let figures = tenant.join().expect("thread");
            assert_eq!(figures, (2, 900, 2, 900, 500));
        }
    }
}

thread_local! {
    /// Whether this thread's panics are expected and need not be shown.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static LATEST: Late = const { Late(Cell::new(None)) };
}

/// In a thread made by C no destructor is registered before this one's, so the
/// thread gives its slot back first and drops the guard afterwards.
extern "C" fn keeps_a_guard_too_long(_: *mut libc::c_void) -> *mut libc::c_void {
    let _ = LATEST.try_with(|late| late.0.set(Some(Scope::enter())));
    ptr::null_mut()
}

/// Bug prevented: a guard that outlives its thread's slot closes a level of
/// the slot's next owner, reports that one's figures as its own, or carries it
/// into its scope.
#[test]
fn a_guard_dropped_after_the_slot_is_gone_disturbs_nobody() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            show(info);
        }
    }));
    for _ in 0..20 {
        let mut thread: libc::pthread_t = 0;
        // SAFETY: both pointers are valid for the call, and the function takes no argument.
        let made = unsafe {
            libc::pthread_create(
                &raw mut thread,
                ptr::null(),
                keeps_a_guard_too_long,
                ptr::null_mut(),
            )
        };
        assert_eq!(made, 0);
        // SAFETY: made above, joined once.
        let joined = unsafe { libc::pthread_join(thread, ptr::null_mut()) };
        assert_eq!(joined, 0);
    }
    assert_eq!(LATE.load(Ordering::Relaxed), 20, "every guard was late");
    assert_eq!(
        REFUSED.load(Ordering::Relaxed),
        20,
        "and could be neither read nor carried"
    );
}

// -------------------------------------------------------- carried to threads

#[test]
fn a_carried_scope_is_the_sum_over_the_threads_that_it_was_on() {
    let scope = Scope::enter();
    let handle = scope.handle();
    let workers: Vec<_> = (1..=8usize)
        .map(|i| {
            let handle = handle.clone();
            thread::spawn(move || {
                drop(block(1_000_000));
                for _ in 0..100 {
                    let inside = handle.enter();
                    assert!(inside.is_counted());
                    drop(block(i));
                    drop(inside);
                    drop(block(2_000_000));
                }
            })
        })
        .collect();
    drop(scope);
    for worker in workers {
        worker.join().expect("thread");
    }
    let stats = handle.stats();
    // The scope's own thread was inside until the guard was dropped, and spawned the others.
    let (own, on_threads) = (stats.allocations - 800, 800);
    assert!(own > 0 && own < 200, "{own}");
    assert!(stats.allocated_bytes >= 3_600 + own);
    assert!(stats.allocated_bytes < 1_000_000);
    assert!(stats.frees >= on_threads && stats.freed_bytes >= 3_600);
}

/// A handle on no thread but the workers' counts theirs alone.
#[test]
fn only_what_happens_between_entering_and_leaving_is_counted() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let before = handle.stats();
    thread::scope(|threads| {
        for i in 1..=8usize {
            let handle = &handle;
            threads.spawn(move || {
                drop(block(1_000_000));
                for _ in 0..100 {
                    let inside = handle.enter();
                    drop(block(i));
                    drop(inside);
                    drop(block(2_000_000));
                }
            });
        }
    });
    let stats = handle.stats();
    assert_eq!(stats.allocations - before.allocations, 800);
    assert_eq!(stats.allocated_bytes - before.allocated_bytes, 3_600);
    assert_eq!(stats.frees - before.frees, 800);
    assert_eq!(stats.freed_bytes - before.freed_bytes, 3_600);
}

/// Bug prevented: a thread that enters a scope that it is in already is
/// counted twice, or no longer after the first of its guards is dropped.
#[test]
fn a_thread_that_enters_twice_counts_once_until_its_last_guard_is_dropped() {
    let scope = Scope::enter();
    let handle = scope.handle();
    let (first, second) = (handle.enter(), handle.enter());
    drop(block(100));
    assert_eq!(scope.stats().allocated_bytes, 100);
    drop(first);
    drop(block(20));
    assert_eq!(scope.stats().allocated_bytes, 120);
    drop(scope);
    drop(block(3));
    assert_eq!(handle.stats().allocated_bytes, 123);
    drop(second);
    drop(block(1_000));
    assert_eq!(figures(&handle.stats()), (3, 123, 3, 123, 100));
    // Entered anew, it goes on.
    let third = handle.enter();
    drop(block(7));
    drop(third);
    assert_eq!(figures(&handle.stats()), (4, 130, 4, 130, 100));
}

/// Bug prevented: whoever makes a scope to be carried, and does nothing in it, counts as a thread
/// that may have had something at the peak of the one that does all.
#[test]
fn a_scope_that_one_thread_has_worked_in_has_an_exact_peak() {
    let handle = Scope::enter().handle();
    let work = || {
        for _ in 0..10 {
            drop(block(1_000));
        }
        let kept = block(400);
        drop(kept);
    };
    thread::spawn(handle.wrap(work)).join().expect("fine");
    let stats = handle.stats();
    assert_eq!((stats.peak_bytes, stats.peak_error_bytes), (1_000, 0));
    // With another one that has worked, it is not known.
    thread::spawn(handle.wrap(work)).join().expect("fine");
    let inside = handle.enter();
    work();
    drop(inside);
    let stats = handle.stats();
    assert!(stats.peak_error_bytes > 0, "{stats}");
}

#[test]
fn visits_of_one_thread_have_one_exact_peak() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let visit = handle.enter();
    let kept = block(500);
    drop(visit);
    // Nobody's business: the scope is left.
    let unseen = block(10_000);
    let visit = handle.enter();
    drop(unseen);
    let more = block(700);
    drop((kept, more));
    drop(visit);
    let stats = handle.stats();
    // 500, then 500 - 10,000 + 700.
    assert_eq!(figures(&stats), (2, 1_200, 3, 11_200, 500));
    let visit = handle.enter();
    drop(block(20_000));
    drop(visit);
    // It began at -10,000.
    assert_eq!(handle.stats().peak_bytes, 10_000);
}

#[test]
fn a_peak_over_several_threads_is_never_too_low_and_its_error_is_told() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let (send, receive) = mpsc::sync_channel::<Vec<u8>>(10);
    let taker = {
        let handle = handle.clone();
        thread::spawn(move || {
            for block in receive {
                let _inside = handle.enter();
                drop(block);
            }
        })
    };
    let mut made = 0;
    for _ in 0..1_000 {
        let inside = handle.enter();
        let block = block(1_000);
        drop(inside);
        made += 1;
        send.send(block).expect("a taker");
    }
    drop(send);
    taker.join().expect("thread");
    let stats = handle.stats();
    assert_eq!(stats.allocations, made);
    assert_eq!((stats.net_blocks(), stats.net_bytes()), (0, 0));
    // Between one and all of them were alive at once.
    assert!(stats.peak_bytes >= 1_000);
    assert!(stats.peak_bytes - stats.peak_error_bytes <= 12_000);
}

/// Bug prevented: a reader that adds a visit's figures twice, or not at all,
/// because the visit closes under its eyes.
#[test]
fn reading_while_other_threads_come_and_go_never_falls_and_never_invents() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let start = handle.stats();
    let stop = AtomicBool::new(false);
    let visits = AtomicU64::new(0);
    let (mut last, mut readings) = (start, 0u64);
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Before the visit: never less than what can have been counted.
                    visits.fetch_add(1, Ordering::SeqCst);
                    let _inside = handle.enter();
                    drop(block(64));
                }
            });
        }
        let mut wrong = None;
        while readings < 400_000 && wrong.is_none() {
            let now = handle.stats();
            let most = visits.load(Ordering::SeqCst);
            readings += 1;
            let falls = now.allocations < last.allocations
                || now.allocated_bytes < last.allocated_bytes
                || now.frees < last.frees
                || now.freed_bytes < last.freed_bytes;
            let invents = now.allocations - start.allocations > most
                || now.frees - start.frees > most
                || now.net_bytes() < start.net_bytes()
                || now.net_blocks() < start.net_blocks();
            if falls || invents {
                wrong = Some((last, now, most));
            }
            last = now;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(wrong.is_none(), "reading {readings}: {wrong:#?}");
    });
    let end = handle.stats();
    let visits = visits.load(Ordering::SeqCst);
    assert_eq!(end.allocations - start.allocations, visits);
    assert_eq!(end.frees - start.frees, visits);
    assert_eq!(end.allocated_bytes - start.allocated_bytes, 64 * visits);
}

/// Bug prevented: all that was allocated and freed while the pages were being
/// read looks alive and is called sure, or the frees of it alone are seen.
#[test]
fn reading_while_blocks_change_hands_claims_nothing_that_never_was() {
    const SIZE: usize = 10_000;
    const MOST: i64 = 10_000;
    // Which page is read first depends on who has entered first.
    for takes_first in [true, false] {
        let scope = Scope::enter();
        let handle = scope.handle();
        drop(scope);
        let old = handle.stats().net_bytes();
        let (stop, inside) = (AtomicBool::new(false), AtomicUsize::new(0));
        // One block at most is alive: the next is made when the last one is freed.
        let place = AtomicPtr::<u8>::new(ptr::null_mut());
        let give = || {
            if place.load(Ordering::Acquire).is_null() {
                let mut block = mem::ManuallyDrop::new(block(SIZE));
                place.store(block.as_mut_ptr(), Ordering::Release);
            }
        };
        let take = || {
            let block = place.load(Ordering::Acquire);
            if !block.is_null() {
                // SAFETY: the parts of the vector that `give` has put there and left to us.
                drop(unsafe { Vec::from_raw_parts(block, 0, SIZE) });
                place.store(ptr::null_mut(), Ordering::Release);
            }
        };
        let work = |turn, step: &dyn Fn()| {
            while inside.load(Ordering::SeqCst) != turn {
                thread::yield_now();
            }
            let _inside = handle.enter();
            inside.store(turn + 1, Ordering::SeqCst);
            while !stop.load(Ordering::Relaxed) {
                step();
            }
        };
        thread::scope(|threads| {
            let (work, give, take) = (&work, &give, &take);
            threads.spawn(move || work(usize::from(takes_first), give));
            threads.spawn(move || work(usize::from(!takes_first), take));
            while inside.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
            let (mut lowest, mut highest, mut sure) = (0, 0, 0);
            for _ in 0..50_000 {
                let now = handle.stats();
                lowest = lowest.min(now.net_bytes() - old);
                highest = highest.max(now.net_bytes() - old);
                sure = sure.max((now.peak_bytes - now.peak_error_bytes).cast_signed());
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(lowest, 0);
            assert!(sure <= MOST, "{sure} bytes were never alive at once");
            // Some more may look alive: what is freed while the pages are read.
            assert!(highest <= 20 * MOST, "{highest}");
        });
        take();
    }
}

#[test]
fn stats_show_what_a_thread_that_is_still_inside_has_done() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let start = handle.stats();
    let (to_thread, of_main) = mpsc::sync_channel::<()>(0);
    let (to_main, of_thread) = mpsc::sync_channel::<()>(0);
    // Channels park, and parking may allocate; so only what is inside the scope is looked at.
    thread::scope(|threads| {
        let handle = &handle;
        threads.spawn(move || {
            let mut kept = Vec::with_capacity(3);
            for size in [10, 200, 3_000] {
                let inside = handle.enter();
                kept.push(block(size));
                to_main.send(()).expect("main");
                of_main.recv().expect("main");
                drop(inside);
            }
        });
        let mut sum = 0;
        for size in [10, 200, 3_000] {
            of_thread.recv().expect("thread");
            sum += size;
            let now = handle.stats();
            assert!(now.allocated_bytes - start.allocated_bytes >= sum);
            assert!(now.allocations > start.allocations);
            to_thread.send(()).expect("thread");
        }
    });
    assert!(handle.stats().allocated_bytes - start.allocated_bytes >= 3_210);
}

/// Bug prevented: a visit that is never left goes on counting for whoever owns
/// the slot next.
#[test]
fn a_visit_that_is_never_left_ends_with_its_thread() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    for _ in 0..20 {
        let forgetful = handle.clone();
        thread::spawn(move || {
            mem::forget(forgetful.enter());
            drop(block(100));
        })
        .join()
        .expect("thread");
        let after = handle.stats();
        thread::spawn(|| drop(block(5_000))).join().expect("thread");
        assert_eq!(handle.stats(), after);
        // And the new owner may enter it as if nothing had been.
        let visitor = handle.clone();
        thread::spawn(move || {
            let before = visitor.stats();
            let inside = visitor.enter();
            drop(block(30));
            drop(inside);
            assert_eq!(visitor.stats().allocated_bytes - before.allocated_bytes, 30);
        })
        .join()
        .expect("thread");
    }
}

/// Bug prevented: what a thread did in a visit that it never left is gone when
/// it ends, or when its slot is taken again, and the rest is called exact.
#[test]
fn visits_that_threads_end_in_stay_counted() {
    let begun = thread::spawn(|| {
        let scope = Scope::enter();
        let handle = scope.handle();
        mem::forget(scope);
        drop(block(100_000));
        handle
    });
    let handle = begun.join().expect("thread");
    let mut last = handle.stats();
    // On one thread the peak is known, and what the ending of a thread takes is little.
    assert_eq!(last.peak_error_bytes, 0);
    assert!((100_000..110_000).contains(&last.peak_bytes), "{last}");
    for round in 1..=20 {
        // More at once than have ended, so that they take the slots of those.
        for inside in [4, 0] {
            let ready = Arc::new(Barrier::new(8));
            let threads: Vec<_> = (0..8)
                .map(|i| {
                    let (ready, handle) = (Arc::clone(&ready), handle.clone());
                    thread::spawn(move || {
                        ready.wait();
                        drop(block(1_000_000));
                        if i < inside {
                            mem::forget(handle.enter());
                            drop(block(1_000));
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("thread");
            }
            let now = handle.stats();
            assert!(now.allocations >= last.allocations + inside);
            assert!(now.allocated_bytes >= last.allocated_bytes + 1_000 * inside);
            assert!(now.freed_bytes >= last.freed_bytes && now.frees >= last.frees);
            if inside == 0 {
                assert_eq!(now, last, "round {round}");
            }
            last = now;
        }
    }
    assert!(last.allocated_bytes < 100_000 + 80 * 1_000 + 81 * 5_000);
}

/// Bug prevented: of two readers that find the same thread ended, both count
/// its visit, or one counts what the slot's next owner does.
#[test]
fn readers_that_find_ended_threads_at_once_count_each_visit_once() {
    const THREADS: u64 = 400;
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let start = handle.stats();
    let stop = AtomicBool::new(false);
    let most = start.allocated_bytes + THREADS * 6_000;
    thread::scope(|threads| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                threads.spawn(|| {
                    let mut last = handle.stats();
                    while !stop.load(Ordering::Relaxed) {
                        let now = handle.stats();
                        let is_right = now.allocated_bytes >= last.allocated_bytes
                            && now.frees >= last.frees
                            && now.allocated_bytes <= most;
                        if !is_right {
                            return Some((last, now));
                        }
                        last = now;
                    }
                    None
                })
            })
            .collect();
        for _ in 0..THREADS / 4 {
            let ended = [0; 4].map(|_| {
                let handle = handle.clone();
                thread::spawn(move || {
                    // Before it enters; on a slot on which others have ended.
                    drop(block(1_000_000));
                    mem::forget(handle.enter());
                    drop(block(1_000));
                })
            });
            for thread in ended {
                thread.join().expect("thread");
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            let wrong = reader.join().expect("thread");
            assert!(wrong.is_none(), "{wrong:#?}");
        }
    });
    let end = handle.stats();
    assert!(end.allocated_bytes >= start.allocated_bytes + THREADS * 1_000);
    assert!(end.allocated_bytes <= most);
}

#[test]
fn a_wrapped_closure_runs_inside_wherever_it_is_called() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let before = handle.stats();
    let captured = block(50);
    let work = handle.wrap(move || {
        drop(captured);
        block(70)
    });
    let made = thread::spawn(work).join().expect("thread");
    let after = handle.stats();
    assert_eq!(after.allocated_bytes - before.allocated_bytes, 70);
    assert_eq!(after.freed_bytes - before.freed_bytes, 50);
    assert_eq!(made.capacity(), 70);
    // A panic inside leaves the scope as well.
    let work = handle.wrap(|| resume_unwind(Box::new(())));
    assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
    let after = handle.stats();
    drop(block(9_999));
    assert_eq!(handle.stats(), after);
}

// ------------------------------------------------------------------- futures

/// Gives the thread up once. tokio's own keeps a list that it lets grow
/// inside the poll, and that would be counted.
fn step_aside() -> impl Future<Output = ()> {
    let mut first = true;
    std::future::poll_fn(move |context| {
        if mem::replace(&mut first, false) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .build()
        .expect("a runtime")
}

/// Allocates `n` blocks of `size` and frees them, stepping aside in between;
/// gives how often it found itself on another thread.
async fn work(n: usize, size: usize) -> usize {
    let mut moves = 0;
    let mut kept = None;
    let mut here = thread::current().id();
    for _ in 0..n {
        drop(kept.replace(block(size)));
        step_aside().await;
        let now = thread::current().id();
        moves += usize::from(now != here);
        here = now;
    }
    moves
}

/// Bug prevented: a guard held across `.await` charges one task for another's
/// work, or a thread for a task that has moved on.
#[test]
fn concurrent_measured_tasks_that_move_between_threads_each_report_exactly_their_own() {
    let runtime = runtime();
    let mut moves = 0;
    for round in 0..1_000 {
        let tasks: Vec<_> = (1..=24usize)
            .map(|i| runtime.spawn(measure_future(work(20 + i, 100 * i))))
            .collect();
        for (task, i) in tasks.into_iter().zip(1u64..) {
            let (times, stats) = runtime.block_on(task).expect("task");
            let (n, bytes) = (20 + i, (20 + i) * 100 * i);
            assert_eq!(
                (
                    stats.allocations,
                    stats.allocated_bytes,
                    stats.frees,
                    stats.freed_bytes
                ),
                (n, bytes, n, bytes),
                "task {i} in round {round}"
            );
            // At most two of its blocks are alive at once.
            assert!(stats.peak_bytes - stats.peak_error_bytes <= 200 * i);
            assert!(stats.peak_bytes >= 100 * i);
            moves += times;
        }
        if moves > 100 {
            break;
        }
    }
    assert!(moves > 100, "the tasks never moved: nothing is proved");
}

#[test]
fn a_measured_future_inside_another_counts_for_both() {
    let runtime = runtime();
    let (inner, outer) = runtime.block_on(measure_future(async {
        drop(block(10));
        step_aside().await;
        let (_, inner) = measure_future(work(5, 100)).await;
        drop(block(20));
        inner
    }));
    assert_eq!((inner.allocations, inner.allocated_bytes), (5, 500));
    assert_eq!((outer.allocations, outer.allocated_bytes), (7, 530));
    assert_eq!(outer.net_bytes(), 0);
}

/// Polls by hand, each poll on a thread of its own.
fn poll_elsewhere<F: Future + Send>(future: &mut Pin<Box<F>>) -> Poll<F::Output>
where
    F::Output: Send,
{
    thread::scope(|threads| {
        let poll = || {
            future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        };
        threads.spawn(poll).join().expect("thread")
    })
}

#[test]
fn a_future_polled_by_a_new_thread_each_time_is_counted_in_full() {
    let mut future = Box::pin(measure_future(work(30, 64)));
    let mut polls = 0;
    let (moves, stats) = loop {
        polls += 1;
        if let Poll::Ready(result) = poll_elsewhere(&mut future) {
            break result;
        }
    };
    assert_eq!((polls, moves), (31, 30));
    assert_eq!((stats.allocations, stats.allocated_bytes), (30, 30 * 64));
    assert_eq!((stats.frees, stats.freed_bytes), (30, 30 * 64));
}

/// Bug prevented: what a future frees in its drop is charged to nobody, so a
/// cancelled task looks like a leak.
#[test]
fn a_future_dropped_before_its_end_gives_back_inside_the_scope() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let before = handle.stats();
    let mut future = Box::pin(handle.wrap_future(async {
        let _kept = block(400);
        step_aside().await;
        let _more = block(600);
        pending::<()>().await;
    }));
    assert!(poll_elsewhere(&mut future).is_pending());
    assert!(poll_elsewhere(&mut future).is_pending());
    let held = handle.stats();
    assert_eq!(held.allocated_bytes - before.allocated_bytes, 1_000);
    assert_eq!(held.freed_bytes, before.freed_bytes);
    // Its own box is not the scope's: only what is inside it.
    thread::spawn(move || drop(future)).join().expect("thread");
    let after = handle.stats();
    assert_eq!(after.freed_bytes - before.freed_bytes, 1_000);
    assert_eq!(after.frees - before.frees, 2);
}

#[test]
fn aborted_tasks_on_a_runtime_leave_nothing_behind_in_their_scopes() {
    let runtime = runtime();
    for _ in 0..20 {
        let scope = Scope::enter();
        let handle = scope.handle();
        drop(scope);
        let before = handle.stats();
        let reached = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..16usize)
            .map(|i| {
                let reached = Arc::clone(&reached);
                runtime.spawn(handle.wrap_future(async move {
                    let _kept = block(1_000 + i);
                    for _ in 0..i {
                        step_aside().await;
                    }
                    reached.fetch_add(1, Ordering::SeqCst);
                    pending::<()>().await;
                }))
            })
            .collect();
        while reached.load(Ordering::SeqCst) < 16 {
            thread::yield_now();
        }
        for task in tasks {
            task.abort();
            assert!(runtime.block_on(task).is_err_and(|e| e.is_cancelled()));
        }
        let stats = handle.stats();
        assert_eq!(stats.allocations - before.allocations, 16);
        // The `Arc`s are freed inside, too, but for the last, which is ours.
        assert_eq!(stats.frees - before.frees, 16);
        assert_eq!(stats.net_bytes(), before.net_bytes());
    }
}

#[test]
fn a_future_that_panics_leaves_the_scope() {
    let scope = Scope::enter();
    let handle = scope.handle();
    drop(scope);
    let mut future = pin!(handle.wrap_future(async {
        let _kept = block(100);
        step_aside().await;
        resume_unwind(Box::new(1u8));
    }));
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    let unwound = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
    assert!(unwound.is_err());
    let after = handle.stats();
    drop(block(7_777));
    assert_eq!(handle.stats(), after);
}

// ------------------------------------------------------------ beside each other

/// Bug prevented: counters of the process that cannot tell one test from
/// another, which is what every test suite runs into.
#[test]
fn sixty_four_threads_assert_exact_counts_while_the_others_allocate() {
    let begin = Barrier::new(64);
    thread::scope(|threads| {
        for i in 1..=64u64 {
            let begin = &begin;
            threads.spawn(move || {
                begin.wait();
                let size = usize::try_from(i).expect("small") * 16;
                for round in 0..100 {
                    let (kept, stats) = measure(|| {
                        let mut kept = Vec::with_capacity(10);
                        for _ in 0..10 {
                            kept.push(block(size));
                            thread::yield_now();
                        }
                        kept.truncate(4);
                        kept
                    });
                    let (list, bytes) = (10 * 24, i * 16);
                    assert_eq!(
                        figures(&stats),
                        (11, list + 10 * bytes, 6, 6 * bytes, list + 10 * bytes),
                        "thread {i}, round {round}"
                    );
                    drop(kept);
                }
            });
        }
    });
}

// --------------------------------------------------------------------- bounds

/// Compiles only when `T` has one of the two impls, so when it is not `Send`.
macro_rules! assert_not {
    ($bound:ident: $($t:ty),+ $(,)?) => {$({
        trait Ambiguous<A> {
            fn item() {}
        }
        impl<T: ?Sized> Ambiguous<()> for T {}
        impl<T: ?Sized + $bound> Ambiguous<u8> for T {}
        <$t as Ambiguous<_>>::item();
    })+};
}

/// Bug prevented: `Send` or `Sync` by accident, here or lost there. What this
/// asserts, the compiler checks; the body only has to compile.
#[test]
fn what_may_cross_threads_does_and_what_may_not_does_not() {
    fn may_cross<T: Send + Sync>() {}
    fn may_be_sent<T: Send>(_: &T) {}
    may_cross::<ScopeHandle>();
    may_cross::<InScope<std::future::Ready<u8>>>();
    may_cross::<Stats>();
    may_cross::<StatsDelta>();
    may_cross::<ScopeStats>();
    may_cross::<Error>();
    may_cross::<TrackingAllocator>();
    may_be_sent(&measure_future(ready(0u8)));

    assert_not!(Send: Scope, Entered<'static>, InScope<Pin<Box<dyn Future<Output = ()>>>>);
    assert_not!(Sync: Scope, Entered<'static>, InScope<Pin<Box<dyn Future<Output = Rc<u8>>>>>);
    assert_not!(Unpin: InScope<std::marker::PhantomPinned>);
}
