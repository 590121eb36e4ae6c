//! Leak checks without `#[global_allocator]`: each fails, with the two lines
//! that are missing, and none runs the code that it cannot check.
//!
//! Bug prevented: a check that finds no leak because it sees no block.
#![cfg(feature = "profile")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use heapledger::leaks::{self, Check};
use heapledger::{TrackingAllocator, assert_no_leaks};

/// Not installed.
static HEAP: TrackingAllocator = TrackingAllocator::new();

const TWO_LINES: &str = "    #[global_allocator]\n    \
     static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();\n";

/// The text of the panic that `body` ends in.
#[track_caller]
fn words<R>(body: impl FnOnce() -> R) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(body)) else {
        panic!("it came back");
    };
    panic.downcast_ref::<String>().expect("a text").clone()
}

fn ran() {
    unreachable!("the closure must not be run when it cannot be checked");
}

#[test]
fn every_way_to_check_fails_with_the_two_lines_and_runs_nothing() {
    let generous = Check::new().allow_blocks(u64::MAX).allow_bytes(u64::MAX);
    let table = [
        ("check", words(|| leaks::check(ran))),
        ("assert_no_leaks", words(|| assert_no_leaks!(ran))),
        ("Check::run", words(|| Check::new().run(ran))),
        ("Check::run, all allowed", words(|| generous.run(ran))),
        ("Check::start", words(|| drop(Check::new().start()))),
        ("run_steady", words(|| Check::new().run_steady(0, 2, ran))),
        (
            "run_steady, warming up",
            words(|| Check::new().run_steady(1, 2, ran)),
        ),
        ("carry", words(leaks::carry)),
    ];
    for (name, text) in table {
        assert!(text.contains(TWO_LINES), "{name}: {text}");
    }
}

#[test]
fn trying_to_start_gives_the_reason() {
    let error = Check::new().try_start().expect_err("nothing is installed");
    assert!(error.is_not_installed() && !error.is_no_memory());
    assert!(error.to_string().contains(TWO_LINES));
}

/// A block that went through a tracking allocator which is not the program's.
#[test]
fn an_allocator_that_is_used_but_not_installed_changes_nothing() {
    let _: &TrackingAllocator = &HEAP;
    drop(words(|| leaks::check(ran)));
    assert!(!heapledger::is_installed());
}
