//! Assertions on closures that give back a future: nothing of it has run when
//! the closure is over, so there is nothing to assert on.

use std::cell::{Cell, RefCell};
use std::future::ready;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread;

#[cfg(feature = "profile")]
use heapledger::assert_no_leaks;
use heapledger::{TrackingAllocator, assert_allocs, assert_no_alloc, measure_future, thread_stats};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

thread_local! {
    /// The line that the assertion is on, as the test says.
    static LINE: Cell<u32> = const { Cell::new(0) };
    /// File and line of the thread's last panic.
    static PLACE: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
}

/// What the panic says that `body` ends in, at `LINE` of this file.
fn words<R>(body: impl FnOnce() -> R + Send) -> String {
    // A hook is the process's, so each panic writes its own thread's.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| (l.file().to_owned(), l.line()));
        PLACE.set(place);
    }));
    thread::scope(|threads| {
        let run = || {
            let caught = catch_unwind(AssertUnwindSafe(body)).map(drop);
            assert_eq!(PLACE.take(), Some((file!().to_owned(), LINE.get())));
            let payload = caught.expect_err("it must not pass");
            payload.downcast_ref::<String>().expect("a text").clone()
        };
        threads.spawn(run).join().expect("a text")
    })
}

async fn hungry() -> Vec<u8> {
    black_box(vec![1; 1_000])
}

/// Bug prevented: an assertion that passes, as the future that it was given back
/// has not run.
#[test]
fn each_macro_refuses_a_future_in_words_at_its_own_line() {
    let table = [
        (
            "assert_no_alloc!",
            words(|| {
                LINE.set(line!() + 1);
                assert_no_alloc!(|| async { black_box(vec![1u8; 1_000]) })
            }),
        ),
        (
            "assert_no_alloc!",
            words(|| {
                LINE.set(line!() + 1);
                assert_no_alloc!(async || hungry().await)
            }),
        ),
        (
            "assert_no_alloc!",
            words(|| {
                LINE.set(line!() + 1);
                assert_no_alloc!(hungry)
            }),
        ),
        (
            "assert_allocs!",
            words(|| {
                LINE.set(line!() + 1);
                assert_allocs!(<= 1, || async { hungry().await })
            }),
        ),
        (
            "assert_allocs!",
            words(|| {
                LINE.set(line!() + 1);
                assert_allocs!(== 0 bytes, async || hungry().await)
            }),
        ),
        #[cfg(feature = "profile")]
        (
            "assert_no_leaks!",
            words(|| {
                LINE.set(line!() + 1);
                assert_no_leaks!(|| async { std::mem::forget(hungry().await) })
            }),
        ),
        #[cfg(feature = "profile")]
        (
            "assert_no_leaks!",
            words(|| {
                LINE.set(line!() + 1);
                assert_no_leaks!(async || hungry().await)
            }),
        ),
    ];
    for (name, text) in table {
        let begin = format!("{name} would measure nothing: its closure gives back a future,");
        assert!(text.starts_with(&begin), "{text}");
        assert!(text.contains("run it inside the closure"), "{text}");
    }
}

/// Here no type of a result is known yet.
fn checked<T, R>(with: T, body: impl Fn(T) -> R) -> R {
    LINE.set(line!() + 1);
    assert_no_alloc!(|| body(with))
}

#[test]
fn a_future_is_seen_from_within_a_generic_function() {
    assert_eq!(checked(5, |n| n + 1), 6);
    let text = words(|| checked(5, ready));
    assert!(text.starts_with("assert_no_alloc! would"), "{text}");
}

/// Bug prevented: a closure that is looked into too closely, so that it no longer
/// compiles, or too long, so that the looking is counted.
#[test]
fn what_else_a_closure_gives_back_is_given_back() {
    // The type is known only by what comes after.
    let numbers = assert_allocs!(== 1, || black_box(0..3_u8).collect());
    let _: &Vec<u8> = &numbers;
    let number = assert_no_alloc!(|| black_box("5").parse().expect("a number"));
    assert_eq!(u64::pow(number, 2), 25);
    // Borrowed, of one thread, and without a size of its own behind it.
    let text = String::from("borrowed");
    assert_eq!(assert_no_alloc!(|| text.as_str()), "borrowed");
    let shared = Rc::new(Cell::new(1));
    let one = assert_no_alloc!(|| Rc::clone(&shared));
    one.set(assert_allocs!(== 1, || Box::new(black_box(2)) as Box<dyn Fn2>).two());
    assert_eq!(shared.get(), 2);
    // Closures, also those that would make a future, and nothing at all.
    let make = assert_no_alloc!(|| || ready(1));
    drop(make());
    assert_no_alloc!(|| ());
    drop(assert_no_alloc!(|| (ready(1),)).0);
    assert!(catch_unwind(|| assert_no_alloc!(|| -> ! { panic!("as planned") })).is_err());
    let panics = || assert_allocs!(== 0, || panic!("as planned"));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    let before = thread_stats();
    assert_eq!(assert_no_alloc!(|| 5), 5);
    assert_eq!(thread_stats(), before);
}

trait Fn2 {
    fn two(&self) -> i32;
}

impl Fn2 for i32 {
    fn two(&self) -> i32 {
        *self
    }
}

#[cfg(feature = "profile")]
#[test]
fn a_leak_check_gives_back_what_it_is_given() {
    let number = assert_no_leaks!(|| black_box("5").parse().expect("a number"));
    assert_eq!(u64::pow(number, 2), 25);
    let text = String::from("borrowed");
    assert_eq!(assert_no_leaks!(|| text.as_str()), "borrowed");
}

/// What the messages tell people to do.
#[test]
fn a_future_is_asserted_on_where_it_runs() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {});
    assert_allocs!(<= 1_000 bytes, || drop(runtime.block_on(hungry())));
    let (_, stats) = runtime.block_on(measure_future(hungry()));
    assert_eq!((stats.allocations, stats.allocated_bytes), (1, 1_000));
    #[cfg(feature = "profile")]
    assert_no_leaks!(|| drop(runtime.block_on(hungry())));
}
