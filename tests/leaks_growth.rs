//! What grows between the middle and the end of a steady-state check.
#![cfg(feature = "profile")]

use std::hint::black_box;
use std::thread;

use heapledger::TrackingAllocator;
use heapledger::leaks::{Check, LeakReport, LeakSite};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

#[track_caller]
fn quiet(checked: Result<(), LeakReport>) {
    if let Err(report) = checked {
        panic!("a false alarm: {report}");
    }
}

#[track_caller]
fn found(checked: Result<(), LeakReport>) -> LeakReport {
    checked.expect_err("the growth was not found")
}

/// Makes a buffer's room larger, at the line that calls, which no other does.
macro_rules! enlarge {
    ($buffer:expr, $bytes:expr) => {
        $buffer.reserve_exact($bytes)
    };
}

/// Bug prevented: a buffer that several lines fill is at another line after all runs than
/// in their middle, and where it is, it was not before.
#[test]
fn a_buffer_that_several_lines_fill_is_found() {
    for runs in [10, 100, 1_000] {
        let mut log = Vec::<u64>::new();
        let report = found(Check::new().run_steady(1, runs, || {
            log.push(black_box(1));
            log.push(black_box(2));
            log.push(black_box(3));
        }));
        assert_eq!((report.blocks(), report.sites.len()), (1, 1), "{report}");
        assert_eq!(report.bytes(), log.capacity() as u64 * 8);
        // It was as large as it had to be in the middle, and has doubled since.
        let growth = report.growth();
        assert_eq!((growth.blocks, growth.bytes), (0, report.bytes() / 2));
    }
}

/// Bug prevented: the line that first asks for a buffer and then makes it larger is two,
/// as it calls different functions of the allocator.
#[test]
fn a_buffer_that_its_first_line_makes_larger_is_found() {
    let mut log = Vec::<u8>::new();
    // Eight bytes in the middle, sixteen at the end.
    let report = found(Check::new().run_steady(0, 10, || log.push(black_box(1))));
    let growth = report.growth();
    assert_eq!((report.blocks(), report.bytes()), (1, 16));
    assert_eq!((growth.blocks, growth.bytes), (0, 8));
}

/// Bug prevented: the same line, as two: one of them has more than before, as the other
/// has less.
#[test]
fn buffers_that_one_line_fills_now_more_and_now_less_are_none() {
    let mut logs = [Vec::new(), Vec::new()];
    let mut run = 0;
    quiet(Check::new().run_steady(0, 10, || {
        run += 1;
        let lengths = if run <= 5 { [1, 5] } else { [1, 1] };
        for (log, length) in logs.iter_mut().zip(lengths) {
            *log = Vec::<u64>::new();
            for number in 0..length {
                log.push(black_box(number));
            }
        }
    }));
}

/// Bug prevented: a buffer that is resized elsewhere, and grows by nothing, is taken for
/// growth; or one that grows is not, as another block has gone meanwhile.
#[test]
fn a_buffer_that_goes_from_line_to_line_grows_when_it_is_larger() {
    let check = |larger: usize| {
        let mut buffer = Vec::<u8>::with_capacity(1_000);
        // Another one is there, in the middle and at the end, which is new in each run.
        let mut last = Vec::new();
        let mut run = 0;
        Check::new().run_steady(0, 10, || {
            run += 1;
            last = black_box(vec![1_u8; 50_000]);
            if run == 1 {
                enlarge!(buffer, 2_000);
            }
            if run == 8 {
                buffer.shrink_to(1_500);
            }
            if run == 9 {
                enlarge!(buffer, 2_000 + larger);
            }
        })
    };
    quiet(check(0));
    let report = found(check(100));
    assert_eq!((report.blocks(), report.bytes()), (1, 2_100), "{report}");
    let growth = report.growth();
    assert_eq!((growth.blocks, growth.bytes), (0, 100));
}

/// Bug prevented: blocks that change their lines are taken for growth where they come to.
#[test]
fn buffers_that_change_their_lines_are_no_growth() {
    let mut buffers = [Vec::<u8>::new(), Vec::new()];
    let mut run = 0;
    quiet(Check::new().run_steady(1, 10, || {
        run += 1;
        let [first, second] = &mut buffers;
        first.shrink_to(10);
        second.shrink_to(10);
        enlarge!(first, 1_000);
        // In one half at a line of its own, in the other at that of the first.
        if run < 6 {
            enlarge!(second, 1_000);
        } else {
            core::mem::swap(first, second);
            second.shrink_to(10);
            enlarge!(second, 1_000);
        }
    }));
}

/// Bug prevented: a buffer that is made larger by a thread which is in no check.
#[test]
fn a_buffer_that_another_thread_makes_larger_is_found() {
    let mut log = Vec::<u8>::new();
    let mut run = 0;
    let report = found(Check::new().run_steady(0, 10, || {
        run += 1;
        if run == 1 {
            enlarge!(log, 1_000);
        }
        if run == 8 {
            thread::scope(|scope| {
                scope.spawn(|| enlarge!(log, 3_000)).join().expect("fine");
            });
        }
    }));
    let growth = report.growth();
    assert_eq!((report.bytes(), growth.bytes), (3_000, 2_000), "{report}");
}

/// Bug prevented: what a late run makes and then makes larger is growth, though it does so
/// once.
#[test]
fn what_a_late_run_keeps_once_is_none_however_it_was_made() {
    let mut kept = Vec::<u64>::new();
    let mut run = 0;
    quiet(Check::new().run_steady(0, 10, || {
        run += 1;
        if run == 7 {
            for number in 0..100 {
                kept.push(black_box(number));
            }
        }
    }));
}

/// Bug prevented: a check in each run, of which each has a middle of its own, hides what
/// grows around it.
#[test]
fn checks_inside_hide_nothing() {
    let mut log = Vec::<u64>::new();
    let report = found(Check::new().run_steady(1, 40, || {
        quiet(Check::new().run_steady(1, 4, || drop(black_box(vec![1_u8; 100]))));
        log.push(black_box(1));
        log.push(black_box(2));
        log.push(black_box(3));
    }));
    assert_eq!(report.bytes(), log.capacity() as u64 * 8, "{report}");
}

/// Leaks a block at a line that is reached by so many calls.
#[inline(never)]
fn leak_below(calls: u32) {
    if calls > 0 {
        leak_below(calls - 1);
        // No loop: each call has a frame.
        black_box(calls);
    } else {
        std::mem::forget(black_box(Box::new([1u8; 24])));
    }
}

/// Bug prevented: a line that leaks in each run is not found, as each run comes there on a way of
/// its own, of which none has more than before.
#[test]
fn a_line_that_each_run_reaches_on_another_way_is_found() {
    for (runs, turns) in [(8, 8), (20, 100), (64, 64), (30, 17)] {
        let mut run = 0;
        let report = found(Check::new().run_steady(1, runs, || {
            leak_below(run % turns);
            run += 1;
        }));
        let growth = report.growth();
        assert_eq!(growth.blocks, u64::from(runs - runs / 2), "{report}");
        assert_eq!(growth.runs, runs - runs / 2);
        assert_eq!(growth.bytes, 24 * growth.blocks);
        let lines: Vec<String> = report.sites.iter().map(LeakSite::location).collect();
        assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    }
}

/// Bug prevented: what a helper makes for many, once for each, is taken for a leak of it.
#[test]
fn what_a_line_makes_now_and_then_is_no_growth() {
    // The runs in which something is kept.
    let kept: [&[u32]; 4] = [
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        &[0, 2, 4, 20, 22, 24, 30],
        &[3, 9, 15, 39],
        &[31, 32, 33, 34, 35, 36, 37, 38, 39],
    ];
    for kept in kept {
        let mut run = 0;
        quiet(Check::new().run_steady(0, 40, || {
            if kept.contains(&run) {
                leak_below(run);
            }
            run += 1;
        }));
    }
}

/// Bug prevented: a full cache whose entries come and go on many ways grows.
#[test]
fn what_is_replaced_on_many_ways_is_no_growth() {
    fn make(calls: u32) -> Vec<u8> {
        if calls > 0 {
            let made = make(calls - 1);
            black_box(calls);
            made
        } else {
            black_box(vec![1; 24])
        }
    }
    let mut cache = std::collections::VecDeque::with_capacity(10);
    let mut run = 0;
    quiet(Check::new().run_steady(8, 64, || {
        if cache.len() == 8 {
            cache.pop_front();
        }
        cache.push_back(make(run));
        run += 1;
    }));
}

/// One of many handlers, each of its own type.
struct Handler<const N: u8>;

trait Handle {
    fn handle(&self);
}

impl<const N: u8> Handle for Handler<N> {
    fn handle(&self) {
        leak_one_of::<N>();
        black_box(N);
    }
}

/// Generic, with one line that leaks.
#[inline(never)]
fn leak_one_of<const N: u8>() {
    std::mem::forget(black_box(vec![N; 64]));
}

/// Bug prevented: handlers of different types take turns to reach a line of a generic function
/// that leaks, which in a release is another function for each of them, and so no line grows.
#[test]
fn a_line_of_a_generic_function_is_one_for_all_types() {
    macro_rules! handlers {
        ($($n:literal)*) => { [$(&Handler::<$n> as &dyn Handle),*] };
    }
    let handlers = handlers!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    let mut turns = handlers.iter();
    let report = found(Check::new().run_steady(0, 16, || {
        turns.next().expect("one for each run").handle();
    }));
    // Those of the later half, or all: in a debug build the handlers look the same.
    assert!(report.blocks() >= 8, "{report}");
}
