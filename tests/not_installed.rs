//! Without `#[global_allocator]` there is nothing to measure, and whatever is
//! asked then fails, with the two lines that are missing.
//!
//! Bug prevented: an assertion that passes, or a figure that is zero, because
//! nobody has installed the allocator.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Waker};

use heapledger::{
    Scope, TrackingAllocator, assert_allocs, assert_no_alloc, is_installed, measure,
    measure_future, stats, thread_stats, try_stats, try_thread_stats,
};

/// Not installed, and never used.
static HEAP: TrackingAllocator = TrackingAllocator::new();

const TWO_LINES: &str = "    #[global_allocator]\n    \
     static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();\n";

thread_local! {
    /// The file of this thread's last panic.
    static FILE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The text of the panic that `body` ends in, and its file; `None` when it does not.
fn words(body: impl FnOnce()) -> Option<(String, String)> {
    let payload = catch_unwind(AssertUnwindSafe(body)).err()?;
    let text = payload.downcast_ref::<String>().cloned()?;
    Some((text, FILE.take()))
}

/// For figures that must never have come.
fn forget<T>(_: T) {}

/// A name, and a call that must not come back.
type Call = (&'static str, Box<dyn Fn()>);

/// Every call that would otherwise report nothing.
fn calls() -> Vec<Call> {
    fn ran() {
        unreachable!("the closure must not be run when it cannot be measured");
    }
    vec![
        ("stats", Box::new(|| forget(stats()))),
        ("thread_stats", Box::new(|| forget(thread_stats()))),
        ("HEAP.stats", Box::new(|| forget(HEAP.stats()))),
        (
            "HEAP.bytes_allocated",
            Box::new(|| assert_eq!(HEAP.bytes_allocated(), 0)),
        ),
        (
            "HEAP.allocation_count",
            Box::new(|| assert_eq!(HEAP.allocation_count(), 0)),
        ),
        ("measure", Box::new(|| forget(measure(ran).1))),
        ("Scope::enter", Box::new(|| drop(Scope::enter()))),
        (
            "measure_future, at the first poll",
            Box::new(|| {
                let mut future = pin!(measure_future(async { ran() }));
                let mut context = Context::from_waker(Waker::noop());
                assert!(future.as_mut().poll(&mut context).is_pending());
            }),
        ),
        ("assert_allocs! ==", Box::new(|| assert_allocs!(== 0, ran))),
        ("assert_allocs! <", Box::new(|| assert_allocs!(< 1, ran))),
        (
            "assert_allocs! <=",
            Box::new(|| assert_allocs!(<= 1_000_000 bytes, ran)),
        ),
        ("assert_no_alloc!", Box::new(|| assert_no_alloc!(ran))),
        #[cfg(feature = "histogram")]
        (
            "size_histogram",
            Box::new(|| assert_eq!(heapledger::size_histogram().total(), 0)),
        ),
    ]
}

#[test]
fn every_measuring_call_fails_with_the_two_lines_to_add() {
    std::panic::set_hook(Box::new(|info| {
        let file = info.location().map(|place| String::from(place.file()));
        FILE.set(file.unwrap_or_default());
    }));
    // Asked twice, and on other threads: a no is not remembered as a yes.
    let rounds = || -> Vec<_> {
        calls()
            .iter()
            .chain(&calls())
            .map(|(name, call)| (*name, words(call)))
            .collect()
    };
    let mut answers = rounds();
    answers.extend(std::thread::spawn(rounds).join().expect("thread"));
    drop(std::panic::take_hook());
    assert!(answers.len() >= 48);
    for (name, words) in answers {
        let (words, file) = words.unwrap_or_else(|| panic!("{name} passed"));
        assert!(words.contains(TWO_LINES), "{name}: {words}");
        // The line of the call, and not one of ours. A future is polled elsewhere: its words tell.
        assert!(
            file == file!() || words.contains(&format!("called at {}:", file!())),
            "{name}, at {file}: {words}"
        );
    }
}

#[test]
fn every_call_that_can_give_an_error_gives_this_one() {
    assert!(!is_installed());
    let errors = [
        try_stats().map(forget).expect_err("nothing to read"),
        try_thread_stats().map(forget).expect_err("nothing to read"),
        Scope::try_enter()
            .map(drop)
            .expect_err("nothing to measure"),
    ];
    for error in errors {
        assert!(error.is_not_installed());
        assert!(error.to_string().contains(TWO_LINES));
    }
    assert!(!is_installed());
    // This one has nothing to tell, so it may be called.
    heapledger::reset_peak();
    assert!(try_stats().is_err());
}
