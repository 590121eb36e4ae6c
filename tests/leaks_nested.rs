//! Checks that overlap, in each other and across threads: what one does not see, the one
//! around it must.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::mem::forget;
use std::panic;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use heapledger::TrackingAllocator;
use heapledger::leaks::{self, Check, LeakReport};
use parking_lot::Mutex;

#[global_allocator]
static HEAP: TrackingAllocator<CallsBack> = TrackingAllocator::over(CallsBack);

fn main() -> ExitCode {
    support::main(cases![
        an_outer_check_sees_what_is_left_when_a_middle_one_ends_first,
        a_thread_that_outlives_the_check_it_was_carried_into_is_in_the_one_around_it,
        a_check_in_the_recorders_own_work_does_not_pass,
        who_is_in_no_check_leaves_a_resized_block_its_line,
        an_assertion_that_fails_leaks_nothing,
        no_block_is_older_than_the_check_that_it_was_born_in,
        checks_that_take_turns_do_not_come_to_an_end,
        threads_that_go_from_check_to_check_do_not_come_to_an_end,
        visits_that_were_forgotten_are_gone_with_their_checks,
    ])
}

fn leak(bytes: usize) {
    forget(black_box(vec![1_u8; bytes]));
}

fn found(result: Result<(), LeakReport>) -> (u64, u64) {
    let report = result.expect_err("something has leaked");
    (report.blocks(), report.bytes())
}

/// Bug prevented: the inner check, whose own outer check is over, is part of none, and takes
/// what it leaves alive out of the books of the outermost one, which passes.
fn an_outer_check_sees_what_is_left_when_a_middle_one_ends_first() {
    let outer = Check::new().start();
    let middles: Vec<_> = (0..3).map(|_| Check::new().start()).collect();
    let inner = Check::new().start();
    leak(100);
    for middle in middles {
        assert!(middle.finish().is_ok());
    }
    assert_eq!(found(inner.finish()), (1, 100));
    assert_eq!(found(outer.finish()), (1, 100));
}

/// Bug prevented: what such a thread leaks then is in no check, though one is under way that
/// the thread's was part of.
fn a_thread_that_outlives_the_check_it_was_carried_into_is_in_the_one_around_it() {
    let (inside, outlives) = (Barrier::new(2), Barrier::new(2));
    let outer = leaks::check(|| {
        thread::scope(|threads| {
            let inner = Check::new().start();
            let carried = leaks::carry();
            let (inside, outlives) = (&inside, &outlives);
            threads.spawn(move || {
                let _in = carried.enter();
                inside.wait();
                outlives.wait();
                leak(12_345);
            });
            inside.wait();
            // It has what the thread itself is made of.
            drop(inner.finish());
            outlives.wait();
        });
    });
    let report = outer.expect_err("a leak");
    let bytes: Vec<u64> = report.sites.iter().map(|site| site.bytes).collect();
    assert!(bytes.contains(&12_345), "{report}");
}

/// An inner allocator that checks for leaks whenever it is told to.
struct CallsBack;

thread_local! {
    /// Whether it is to do that: not inside its own check.
    static CHECKS: Cell<bool> = const { Cell::new(false) };
}

/// What those checks said; `None` for one that could not be had.
static SAID: Mutex<Vec<Option<bool>>> = Mutex::new(Vec::new());

// SAFETY: all blocks are the system's.
#[allow(unsafe_code, reason = "an allocator")]
unsafe impl GlobalAlloc for CallsBack {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if CHECKS.replace(false) {
            let checked = Check::new().try_start().ok().map(|check| {
                leak(48);
                check.finish().is_ok()
            });
            SAID.lock().push(checked);
            CHECKS.set(true);
        }
        // SAFETY: the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Bug prevented: where nothing is recorded, as the thread is at work for the recorder, a check
/// finds nothing and passes.
fn a_check_in_the_recorders_own_work_does_not_pass() {
    CHECKS.set(true);
    let outer = Check::new().suppress("nothing").run(|| leak(10));
    CHECKS.set(false);
    drop(outer);
    let said = SAID.lock();
    assert!(said.contains(&Some(false)), "some can be had: {said:?}");
    assert!(said.contains(&None), "some cannot: {said:?}");
    assert!(!said.contains(&Some(true)), "{said:?}");
}

#[inline(never)]
fn born_here(list: &Mutex<Vec<u8>>) {
    list.lock().reserve_exact(black_box(300));
}

/// Bug prevented: a thread that was in a check once, and is in none, gives a block its own line
/// when it resizes it; so does no other thread.
fn who_is_in_no_check_leaves_a_resized_block_its_line() {
    let (born, grown) = (Barrier::new(2), Barrier::new(2));
    let list = Mutex::new(Vec::new());
    thread::scope(|threads| {
        threads.spawn(|| {
            assert!(leaks::check(|| drop(black_box(vec![1_u8; 30]))).is_ok());
            born.wait();
            list.lock().reserve_exact(black_box(5_000));
            grown.wait();
        });
        let report = Check::new().suppress("born_here").run(|| {
            born_here(&list);
            born.wait();
            grown.wait();
        });
        assert!(report.is_ok(), "{report:?}");
    });
}

/// Bug prevented: what the message of a failed assertion has read to name its lines, some 35 MB
/// that are kept for the next one, is a leak of whoever caught the panic.
fn an_assertion_that_fails_leaks_nothing() {
    // The usual one reads the same for itself, and keeps it.
    panic::set_hook(Box::new(|_| ()));
    let failing = || heapledger::assert_no_alloc!(|| drop(black_box(Box::new(black_box(1)))));
    let checked = leaks::check(|| assert!(panic::catch_unwind(failing).is_err()));
    drop(panic::take_hook());
    assert!(checked.is_ok(), "{checked:?}");
}

/// Bug prevented: blocks have the time of the last look at the clock, which may have been long
/// before the check began.
fn no_block_is_older_than_the_check_that_it_was_born_in() {
    assert!(leaks::check(|| ()).is_ok());
    thread::sleep(Duration::from_millis(500));
    let before = Instant::now();
    let report = leaks::check(|| leak(1)).expect_err("a leak");
    // Whole milliseconds of another clock.
    let most = before.elapsed().as_millis() + 2;
    let oldest = report.sites.iter().map(|site| site.oldest_ms).max();
    assert!(
        oldest.is_some_and(|ms| u128::from(ms) <= most),
        "{report} within {most} ms"
    );
}

/// Bug prevented: a check that ends after the next one has begun leaves a hole among those
/// that its thread is in; after 32 of them there was no place left.
fn checks_that_take_turns_do_not_come_to_an_end() {
    let mut last = Check::new().start();
    leak(10);
    for _ in 0..100 {
        let next = Check::new().start();
        // The inner one's.
        leak(10);
        let ended = last.finish();
        last = next;
        assert_eq!(found(ended), (1, 10));
    }
    assert_eq!(found(last.finish()), (1, 10));
}

/// Bug prevented: the same of a thread that enters two checks in turn.
fn threads_that_go_from_check_to_check_do_not_come_to_an_end() {
    let (one, other) = {
        let one = Check::new().start();
        let carried = leaks::carry();
        let other = Check::new().start();
        ((one, carried), (other, leaks::carry()))
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = one.1.enter();
            for turn in 0..100 {
                let carried = if turn % 2 == 0 { &other.1 } else { &one.1 };
                let next = carried.enter();
                drop(last);
                last = next;
                leak(10);
            }
        });
    });
    let (other, one) = (other.0.finish(), one.0.finish());
    assert_eq!(found(other), (50, 500));
    assert_eq!(found(one), (100, 1_000));
}

/// Bug prevented: a visit that is never left has its place for ever.
fn visits_that_were_forgotten_are_gone_with_their_checks() {
    for _ in 0..100 {
        let check = Check::new().start();
        forget(leaks::carry().enter());
        leak(10);
        let report = check.finish().expect_err("a leak");
        assert_eq!(report.incomplete.blocks, 0);
        assert!(report.bytes() >= 10);
    }
}
