//! No false alarms: what a check must not report, whatever runs beside it.
//!
//! Tests that are run by another one, in a process of their own, are ignored
//! here: they need libtest's output capture, or all its threads.
#![cfg(feature = "profile")]
#![allow(
    clippy::disallowed_types,
    reason = "std's lock takes no memory when it waits; parking_lot's table would be found"
)]

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter, Write as _};
use std::hint::black_box;
use std::io;
use std::mem::{forget, take};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, LazyLock, Mutex};
use std::thread;

use heapledger::leaks::{self, Check, LeakReport};
use heapledger::{TrackingAllocator, assert_no_leaks};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// The result, or the report as the test's failure.
#[track_caller]
fn quiet<R>(checked: Result<R, LeakReport>) -> R {
    match checked {
        Ok(result) => result,
        Err(report) => panic!("a false alarm: {report}"),
    }
}

/// Blocks and bytes of a check that must have found something.
#[track_caller]
fn figures<R>(checked: Result<R, LeakReport>) -> (u64, u64) {
    let Err(report) = checked else {
        panic!("the leak was not found");
    };
    (report.blocks(), report.bytes())
}

fn block(size: usize) -> Vec<u8> {
    black_box(vec![1; size])
}

/// The gate runs this file without debug information too.
fn has_lines() -> bool {
    std::env::var("CARGO_PROFILE_RELEASE_DEBUG").as_deref() != Ok("0")
}

// ------------------------------------------------------- many tests in parallel

/// Blocks on their way to whoever frees them.
static BASKET: Mutex<Vec<Foreign>> = Mutex::new(Vec::new());
const BASKET_ROOM: usize = 4_096;

/// A block that tells its owner when it is freed.
struct Foreign {
    bytes: Vec<u8>,
    freed: Arc<AtomicUsize>,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(take(&mut self.bytes));
        self.freed.fetch_add(1, Ordering::Release);
    }
}

/// Lets somebody else free blocks of ours, and waits until that was done.
fn have_freed(freed: &Arc<AtomicUsize>, sizes: &[usize]) {
    let before = freed.load(Ordering::Acquire);
    for &size in sizes {
        let foreign = Foreign {
            bytes: block(size),
            freed: freed.clone(),
        };
        BASKET.lock().expect("no panic").push(foreign);
    }
    while freed.load(Ordering::Acquire) < before + sizes.len() {
        // Anybody's, the oldest first: nearly always another thread's.
        let oldest = {
            let mut basket = BASKET.lock().expect("no panic");
            (!basket.is_empty()).then(|| basket.remove(0))
        };
        drop(oldest);
        thread::yield_now();
    }
}

/// What a test may do, with nothing left of it.
fn work(round: usize, freed: &Arc<AtomicUsize>, older: &mut Vec<u8>) {
    let mut text = String::new();
    for i in 0..8 {
        write!(text, "{round}-{i} ").expect("text");
    }
    println!("{text}");
    let map: HashMap<usize, String> = (0..20).map(|i| (i, format!("{i}"))).collect();
    assert_eq!(map.len(), 20);
    have_freed(freed, &[16, 300, 5_000]);
    // Older than the check: replaced, resized, and freed inside.
    older.reserve_exact(round % 97 + older.len());
    older.shrink_to_fit();
    if round.is_multiple_of(50) {
        let moved = block(70);
        let back = thread::spawn(move || moved).join().expect("no panic");
        assert_eq!(back.len(), 70);
    }
}

fn two_hundred_rounds() {
    BASKET.lock().expect("no panic").reserve(BASKET_ROOM);
    let freed = Arc::new(AtomicUsize::new(0));
    let mut older = block(10);
    for round in 0..200 {
        quiet(leaks::check(|| work(round, &freed, &mut older)));
    }
}

#[test]
fn sixty_four_threads_check_two_hundred_times_each_without_an_alarm() {
    thread::scope(|threads| {
        for _ in 0..64 {
            threads.spawn(two_hundred_rounds);
        }
    });
}

/// Sixty-four tests as libtest runs them: each on a thread of its own, with its
/// own captured output, which begins to grow inside a check.
mod sixty_four {
    macro_rules! tests {
        ($($name:ident)*) => {$(
            #[test]
            #[ignore = "run by sixty_four_tests_beside_each_other_raise_no_alarm"]
            fn $name() {
                super::two_hundred_rounds();
            }
        )*};
    }
    tests! {
        t00 t01 t02 t03 t04 t05 t06 t07 t08 t09 t10 t11 t12 t13 t14 t15
        t16 t17 t18 t19 t20 t21 t22 t23 t24 t25 t26 t27 t28 t29 t30 t31
        t32 t33 t34 t35 t36 t37 t38 t39 t40 t41 t42 t43 t44 t45 t46 t47
        t48 t49 t50 t51 t52 t53 t54 t55 t56 t57 t58 t59 t60 t61 t62 t63
    }
}

/// This binary, with these arguments, as `cargo test` runs it.
fn libtest(arguments: &[&str]) -> Output {
    let program = std::env::current_exe().expect("a path");
    let mut command = Command::new(program);
    command.args(arguments).arg("--ignored");
    // What another runner has set.
    command
        .env_remove("RUST_TEST_NOCAPTURE")
        .env_remove("RUST_TEST_THREADS");
    command.output().expect("it runs")
}

#[track_caller]
fn assert_passed(output: &Output, passed: usize) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains(&format!("ok. {passed} passed")), "{text}");
}

#[test]
fn sixty_four_tests_beside_each_other_raise_no_alarm() {
    assert_passed(&libtest(&["sixty_four::", "--test-threads=64"]), 64);
    assert_passed(&libtest(&["sixty_four::t0", "--nocapture"]), 10);
}

// ----------------------------------------------------------- the test harness

/// Bug prevented: text that a test prints is found as a leak, because the
/// buffer in which libtest keeps it grows inside the check.
#[test]
#[ignore = "run by captured_output_is_told_apart, with capture"]
fn prints_much() {
    let checked = leaks::check(|| {
        println!("{}", "x".repeat(10_000));
        eprintln!("{}", "x".repeat(20_000));
        forget(block(33));
    });
    let report = checked.expect_err("a leak");
    assert_eq!((report.blocks(), report.bytes()), (1, 33), "{report}");
    assert_eq!(report.harness.blocks, 1, "{report}");
    assert!(report.harness.bytes >= 30_000, "{report}");
    assert!(
        report
            .to_string()
            .contains("by a test harness for the output")
    );
    quiet(leaks::check(|| println!("{}", "y".repeat(100_000))));
}

/// Bug prevented: the message of a panic that is caught inside the check is
/// found as a leak; it goes into the same buffer by another way.
#[test]
#[ignore = "run by captured_output_is_told_apart, with capture"]
fn catches_a_panic() {
    quiet(leaks::check(|| {
        let caught = catch_unwind(|| panic!("{}", "z".repeat(100)));
        assert!(caught.is_err());
    }));
}

/// Prints much in small parts, and has parts of it written by its own code.
struct Wordy;

impl Display for Wordy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for i in 0..2_000 {
            write!(f, "{i:>5}{}", black_box("wordy"))?;
            f.write_char('!')?;
        }
        Ok(())
    }
}

/// Leaks when it is printed.
struct Leaky;

impl Display for Leaky {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        forget(block(44));
        let mut text = Vec::new();
        write_to(&mut text);
        forget(black_box(text));
        f.write_str("leaky")
    }
}
const LEAKY_LINE: u32 = line!() - 7;

/// Writes as output that is captured is written.
#[inline(never)]
fn write_to(text: &mut Vec<u8>) {
    io::Write::write_fmt(text, format_args!("{:>1$}", "", black_box(3_000))).expect("a vector");
}

/// Bug prevented: the buffer grows while the test's own code writes what it
/// prints, and is found as that code's leak.
#[test]
#[ignore = "run by captured_output_is_told_apart, with capture"]
fn prints_by_code_of_its_own() {
    quiet(leaks::check(|| println!("{Wordy}")));
    quiet(leaks::check(|| {
        assert!(catch_unwind(|| panic!("{Wordy}")).is_err());
    }));
}

/// Bug prevented: code that leaks while it writes what a test prints is taken
/// for the harness, and the check passes.
#[test]
#[ignore = "run by captured_output_is_told_apart, with capture"]
fn leaks_while_it_prints() {
    let printing: [fn(); 2] = [
        || println!("{Leaky}"),
        || assert!(catch_unwind(|| panic!("{Leaky}")).is_err()),
    ];
    for print in printing {
        let report = leaks::check(print).expect_err("a leak");
        assert_eq!(report.blocks(), 2, "{report}");
        let Some(site) = report.sites.iter().find(|site| site.bytes == 44) else {
            panic!("{report}");
        };
        // Without debug information there are names, but no lines.
        let place = if has_lines() {
            format!("fmt at {}:{LEAKY_LINE}", file!())
        } else {
            String::from("<leaks_quiet::Leaky as core::fmt::Display>::fmt")
        };
        let mut stack = site.stack.iter();
        assert!(
            stack.any(|frame| frame.to_string().ends_with(&place)),
            "{report}"
        );
    }
}

#[test]
fn captured_output_is_told_apart() {
    assert_passed(&libtest(&["prints_much", "--exact"]), 1);
    assert_passed(&libtest(&["catches_a_panic", "--exact"]), 1);
    assert_passed(&libtest(&["prints_by_code_of_its_own", "--exact"]), 1);
    assert_passed(&libtest(&["leaks_while_it_prints", "--exact"]), 1);
}

// ---------------------------------------------------------------- older blocks

#[test]
fn blocks_older_than_the_check_are_no_leaks_however_they_are_resized_and_moved() {
    let mut grown = block(10);
    let mut shrunk = block(10_000);
    let freed = block(100);
    let mut replaced = block(100);
    let mut elsewhere = block(100);
    quiet(leaks::check(|| {
        grown.reserve_exact(100_000);
        shrunk.truncate(5);
        shrunk.shrink_to_fit();
        drop(freed);
        replaced.clone_from(&block(50));
        let mut moved = take(&mut elsewhere);
        elsewhere = thread::spawn(move || {
            moved.reserve_exact(3_000);
            moved
        })
        .join()
        .expect("no panic");
    }));
    assert!(grown.capacity() > 100_000 && elsewhere.capacity() >= 3_000);
    assert_eq!((shrunk.capacity(), replaced.len()), (5, 50));
}

#[test]
fn vectors_moved_between_threads_and_back_are_no_leaks() {
    quiet(leaks::check(|| {
        let mine: Vec<Vec<u8>> = (1..50).map(block).collect();
        let back = thread::spawn(|| mine.into_iter().rev().collect::<Vec<_>>());
        let back = back.join().expect("no panic");
        assert_eq!(back.len(), 49);
        let work = leaks::carry().wrap(move || drop(back));
        thread::spawn(work).join().expect("no panic");
    }));
}

/// Bug prevented: `thread::scope` waits for the threads' closures, not for the
/// threads, so their handles are still alive for a moment when it returns.
#[test]
fn scoped_threads_that_nobody_joins_raise_no_alarm() {
    for _ in 0..200 {
        quiet(leaks::check(|| {
            let handle = leaks::carry();
            thread::scope(|threads| {
                for size in 1..5 {
                    let handle = &handle;
                    threads.spawn(move || {
                        let _inside = handle.enter();
                        drop(block(size));
                    });
                }
            });
        }));
    }
}

// ------------------------------------------------------------------ first uses

#[test]
fn what_is_made_at_first_use_is_quiet_once_it_was_used() {
    static LAZY: LazyLock<Mutex<HashMap<usize, Vec<u8>>>> = LazyLock::new(|| {
        let numbers = 0..10;
        Mutex::new(numbers.map(|i| (i, block(i + 1))).collect())
    });
    thread_local! {
        static LOCAL: Vec<u8> = block(123);
    }
    let read = || {
        let sum: usize = LAZY.lock().expect("no panic").values().map(Vec::len).sum();
        sum + LOCAL.try_with(Vec::len).expect("alive")
    };
    // Ten values, the table, and the thread's own.
    let (blocks, bytes) = figures(leaks::check(read));
    assert_eq!(blocks, 12);
    assert!(bytes > 55 + 123);
    assert_eq!(quiet(leaks::check(read)), 55 + 123);
}

#[test]
fn a_steady_check_warms_lazies_up_by_itself() {
    static LAZY: LazyLock<Vec<u8>> = LazyLock::new(|| block(77));
    let checked = Check::new().run_steady(1, 4, || {
        black_box(LAZY.len());
        drop(block(5));
    });
    quiet(checked);
}

// -------------------------------------------------------------- nested, crossed

#[test]
fn an_inner_check_has_its_own_verdict_and_the_outer_one_sees_both() {
    let mut freed_later = Vec::new();
    let outer = leaks::check(|| {
        let before = block(1_000);
        forget(block(1));
        quiet(leaks::check(|| drop(before)));
        let inner = leaks::check(|| {
            forget(block(20));
            freed_later = block(300);
        });
        assert_eq!(figures(inner), (2, 320));
        drop(take(&mut freed_later));
        forget(block(4));
    });
    assert_eq!(figures(outer), (3, 25));
}

#[test]
fn an_inner_leak_that_is_freed_before_the_outer_end_is_the_inner_one_s_alone() {
    assert_no_leaks!(|| {
        let mut kept = None;
        let inner = leaks::check(|| kept = Some(block(50)));
        assert_eq!(figures(inner), (1, 50));
        drop(kept);
    });
}

#[test]
fn thirty_checks_inside_one_another_each_see_what_is_inside_them() {
    fn descend(depth: u64) {
        let checked = leaks::check(|| {
            forget(block(8));
            if depth > 1 {
                descend(depth - 1);
            }
        });
        assert_eq!(figures(checked), (depth, 8 * depth));
    }
    descend(30);
}

/// Bug prevented: a guard that ends before a later one takes the thread out of
/// the later one too, or leaves it in for ever.
#[test]
fn guards_that_end_out_of_order_each_keep_their_own() {
    for _ in 0..100 {
        let first = Check::new().start();
        forget(block(1));
        let second = Check::new().start();
        forget(block(20));
        let third = Check::new().start();
        forget(block(300));
        // A block belongs to the innermost check that is under way.
        assert_eq!(figures(first.finish()), (1, 1));
        forget(block(4_000));
        assert_eq!(figures(third.finish()), (2, 4_300));
        forget(block(50_000));
        // The third was inside the second, and is over.
        assert_eq!(figures(second.finish()), (4, 54_320));
        quiet(leaks::check(|| drop(block(7))));
    }
}

#[test]
fn a_guard_that_is_dropped_ends_the_check_and_gives_its_blocks_to_the_outer_one() {
    let outer = Check::new().start();
    let inner = Check::new().start();
    forget(block(10));
    drop(inner);
    forget(block(200));
    assert_eq!(figures(outer.finish()), (2, 210));
}

// ---------------------------------------------------------------------- panics

/// Bug prevented: a thread stays recorded for ever when the checked code
/// panics, and its blocks turn up in whatever check comes next.
#[test]
fn a_panic_in_the_closure_ends_the_check() {
    for _ in 0..50 {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            leaks::check(|| {
                forget(block(10));
                std::panic::resume_unwind(Box::new("quietly"));
            })
        }));
        assert!(panicked.is_err());
        // Another thread's check, while this one allocates.
        let (begin, end) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|threads| {
            let checking = threads.spawn(|| {
                let guard = Check::new().start();
                begin.wait();
                end.wait();
                guard.finish()
            });
            begin.wait();
            forget(block(20));
            end.wait();
            quiet(checking.join().expect("no panic"));
        });
        assert_eq!(figures(leaks::check(|| forget(block(30)))), (1, 30));
        quiet(leaks::check(|| drop(block(40))));
    }
}

#[test]
fn a_panic_in_an_inner_check_leaves_the_outer_one_whole() {
    let outer = leaks::check(|| {
        let panicked = catch_unwind(|| {
            leaks::check(|| {
                forget(block(10));
                std::panic::resume_unwind(Box::new("quietly"));
            })
        });
        drop(panicked);
        forget(block(200));
    });
    assert_eq!(figures(outer), (2, 210));
}
