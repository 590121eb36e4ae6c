//! `assert_allocs!` and `assert_no_alloc!`: when they hold, when they fail, in
//! which words and where, whatever else runs in the process.

#![deny(
    unused_parens,
    reason = "a limit in parentheses is how the macro is used, and must not bring a warning"
)]

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use heapledger::{TrackingAllocator, assert_allocs, assert_no_alloc, measure, thread_stats};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// One block of so many bytes.
fn block(bytes: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(bytes))
}

fn blocks(n: usize, bytes: usize) {
    for _ in 0..n {
        drop(block(bytes));
    }
}

/// A request that no allocator can serve, and the words for it.
fn refused() {
    let mut bytes: Vec<u8> = Vec::new();
    assert!(bytes.try_reserve_exact(isize::MAX.cast_unsigned()).is_err());
    black_box(bytes);
}

thread_local! {
    /// The line that the assertion is on, as the test says.
    static LINE: Cell<u32> = const { Cell::new(0) };
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
    /// File and line of the last panic, as the hook was told.
    static PLACE: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
}

/// Runs what must panic with a text, checks that the panic's place is `LINE`
/// of this file, and gives the text without the sites that the feature
/// `profile` adds to it.
fn failure<R>(body: impl FnOnce() -> R) -> String {
    let text = whole_failure(body);
    let sites = text.find("\n  sites");
    assert!(sites.is_none() || cfg!(feature = "profile"));
    text[..sites.unwrap_or(text.len())].to_owned()
}

/// [`failure`] with all of the text.
fn whole_failure<R>(body: impl FnOnce() -> R) -> String {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let show = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_CAUGHT.get() {
                return show(info);
            }
            let place = info.location().map(|l| (l.file().to_owned(), l.line()));
            PLACE.set(place);
        }));
    });
    IS_CAUGHT.set(true);
    let caught = catch_unwind(AssertUnwindSafe(body));
    IS_CAUGHT.set(false);
    let payload = caught.map(drop).expect_err("the assertion must fail");
    assert_eq!(PLACE.take(), Some((file!().to_owned(), LINE.get())));
    payload
        .downcast_ref::<String>()
        .expect("an ordinary panic with a text")
        .clone()
}

#[test]
fn an_assertion_that_holds_gives_back_what_the_closure_returns() {
    let text = assert_allocs!(== 1, || black_box(String::from("one")));
    assert_eq!(text, "one");
    assert_allocs!(== 0, || ());
    assert_allocs!(< 3, || blocks(2, 10));
    assert_allocs!(<= 2, || blocks(2, 10));
    assert_allocs!(<= 2, || blocks(1, 10));
    assert_allocs!(== 2 blocks, || blocks(2, 10));
    assert_allocs!(== 20 bytes, || blocks(2, 10));
    assert_allocs!(< 21 bytes, || blocks(2, 10));
    assert_allocs!(<= 20 bytes, || blocks(2, 10));
    assert_allocs!(== 2 requests, || blocks(2, 10),);
    let limit = 7;
    assert_allocs!(<= limit, || blocks(7, 1));
    assert_allocs!(<= (limit * 2) bytes, || blocks(7, 2));
    assert_allocs!(== limit + 1, || blocks(8, 1));
    assert_allocs!(<= 4 * 1024 bytes, || blocks(4, 1_024));
    assert_allocs!(< limit * 2 + 1 bytes, || blocks(7, 2));
    assert_allocs!(== usize::pow(2, 3) as u64 requests, || blocks(8, 1),);
    assert_allocs!(== (limit + 1) * 2 blocks, || blocks(16, 1));
    assert_allocs!(== size_of::<[u16; 4]>() as u64 bytes, || blocks(1, 8));
    // A limit whose name is a unit's.
    let bytes = 3;
    assert_allocs!(== bytes, || blocks(3, 1));
    assert_allocs!(== bytes bytes, || blocks(3, 1));
    assert_allocs!(== bytes * bytes bytes, || blocks(3, 3));
    assert_eq!(assert_no_alloc!(|| 5), 5);
    // A closure may borrow and change what is outside.
    let mut list = Vec::with_capacity(3);
    assert_no_alloc!(|| list.extend([1, 2, 3]));
    assert_eq!(list, [1, 2, 3]);
}

#[test]
fn frees_are_never_held_against_the_closure() {
    let old = block(1_000);
    assert_no_alloc!(|| drop(old));
    let old = block(1_000);
    assert_allocs!(== 0 bytes, || drop(old));
}

#[test]
fn a_block_that_grows_is_one_block_its_growth_in_bytes_and_several_requests() {
    let grow = || {
        let mut list: Vec<u8> = Vec::with_capacity(10);
        list.reserve_exact(30);
        list.reserve_exact(100);
        list.push(1);
        list.shrink_to_fit();
        black_box(list)
    };
    assert_allocs!(== 1, grow);
    assert_allocs!(== 100 bytes, grow);
    assert_allocs!(== 4 requests, grow);
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_allocs!(== 0, grow)
    });
    assert_eq!(
        failed,
        "the closure allocated the wrong amount
  expected: exactly 0 blocks
     found: 1 block
  requests: 10, 10 -> 30, 30 -> 100, 100 -> 1 (bytes, in order)"
    );
}

/// Each comparison and each unit, one off, in its exact words.
#[test]
fn a_failure_says_what_was_expected_what_was_found_and_which_requests_there_were() {
    let two = || drop((block(100), block(2_345)));
    let requests = "  requests: 100, 2,345 (bytes, in order)";
    let table = [
        (
            failure(|| {
                LINE.set(line!() + 1);
                assert_allocs!(== 1, two);
            }),
            "  expected: exactly 1 block\n     found: 2 blocks\n",
        ),
        (
            failure(|| {
                LINE.set(line!() + 1);
                assert_allocs!(== 3, two);
            }),
            "  expected: exactly 3 blocks\n     found: 2 blocks\n",
        ),
        (
            failure(|| {
                LINE.set(line!() + 1);
                assert_allocs!(< 2, two);
            }),
            "  expected: fewer than 2 blocks\n     found: 2 blocks\n",
        ),
        (
            failure(|| {
                LINE.set(line!() + 1);
                assert_allocs!(<= 1 blocks, two);
            }),
            "  expected: at most 1 block\n     found: 2 blocks\n",
        ),
        (
            failure(|| {
                LINE.set(line!() + 1);
                assert_allocs!(== 1 bytes, two);
            }),
            "  expected: exactly 1 byte\n     found: 2,445 bytes\n",
        ),
        (
            failure(|| {
                LINE.set(line!() + 1);
                assert_allocs!(< 2_445 bytes, two);
            }),
            "  expected: fewer than 2,445 bytes\n     found: 2,445 bytes\n",
        ),
        (
            failure(|| {
                LINE.set(line!() + 1);
                assert_allocs!(<= (2_000 + 444) bytes, two);
            }),
            "  expected: at most 2,444 bytes\n     found: 2,445 bytes\n",
        ),
        (
            failure(|| {
                LINE.set(line!() + 1);
                assert_allocs!(<= 1 requests, two);
            }),
            "  expected: at most 1 request\n     found: 2 requests\n",
        ),
    ];
    for (failed, words) in table {
        assert_eq!(
            failed,
            format!("the closure allocated the wrong amount\n{words}{requests}")
        );
    }
}

#[test]
fn a_failure_without_any_request_says_so_and_a_long_one_is_cut_short() {
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_allocs!(== 1, || ());
    });
    assert_eq!(
        failed,
        "the closure allocated the wrong amount
  expected: exactly 1 block
     found: 0 blocks
  requests: none"
    );
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_allocs!(< 1_000, || blocks(1_020, 8));
    });
    assert_eq!(
        failed,
        "the closure allocated the wrong amount
  expected: fewer than 1,000 blocks
     found: 1,020 blocks
  requests: 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8 (bytes, in order), and 1,004 more"
    );
    // One that fits exactly is not cut.
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(|| blocks(16, 8));
    });
    assert!(failed.ends_with("8, 8 (bytes, in order)"), "{failed}");
}

/// Bug prevented: a message as `assert!` takes it does not compile, or is made at each
/// assertion, or cannot use what the closure uses.
#[test]
fn a_message_stands_above_what_was_found() {
    let mut list = Vec::with_capacity(8);
    let never = || -> u32 { unreachable!("the assertion holds") };
    assert_no_alloc!(|| list.push(1), "{}", never());
    assert_allocs!(== 0, || list.push(2), "{}", never());
    assert_allocs!(<= 2 * 4 bytes, || list.push(3), "{}", never());
    let two = || drop((block(100), block(2_345)));
    let above = |failed: String, message: &str| {
        let rest = failed.strip_prefix(message).expect("the message");
        assert!(rest.starts_with("\nthe closure "), "{failed}");
        assert!(rest.ends_with("(bytes, in order)"), "{failed}");
    };
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_allocs!(== 1, two, "two of them");
    });
    above(failed, "two of them");
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_allocs!(< 2 * 2 bytes, two, "{} of {what}", 2, what = "them",);
    });
    above(failed, "2 of them");
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(|| list.extend([4; 200]), "a list of {}", list.len());
    });
    above(failed, "a list of 203");
}

/// Bug prevented: a check that looks at new blocks alone lets a growing `Vec`
/// and a refused request pass.
#[test]
fn no_alloc_forbids_new_blocks_resizes_and_refused_requests() {
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(|| drop(block(64)));
    });
    assert_eq!(
        failed,
        "the closure was not to ask the allocator for anything
  expected: 0 requests
     found: 1 request
  requests: 64 (bytes, in order)"
    );
    let mut list = block(64);
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(|| list.reserve_exact(128));
    });
    assert!(failed.ends_with("1 request\n  requests: 64 -> 128 (bytes, in order)"));
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(|| list.shrink_to(32));
    });
    assert!(failed.ends_with("1 request\n  requests: 128 -> 32 (bytes, in order)"));
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(refused);
    });
    assert_eq!(
        failed,
        "the closure was not to ask the allocator for anything
  expected: 0 requests
     found: 1 request
  requests: 9,223,372,036,854,775,807 (refused) (bytes, in order)"
    );
}

#[test]
fn assertions_inside_each_other_each_see_their_own() {
    let inner = assert_allocs!(== 3, || {
        drop(block(1));
        let inner = assert_allocs!(== 20 bytes, || block(20));
        assert_no_alloc!(|| assert_no_alloc!(|| ()));
        drop(block(300));
        inner
    });
    assert_eq!(inner.capacity(), 20);
    let failed = failure(|| {
        LINE.set(line!() + 1);
        assert_allocs!(== 0, || {
            drop(block(1));
            assert_allocs!(== 1, || drop(block(20)));
            drop(block(300));
        });
    });
    assert!(
        failed.ends_with("found: 3 blocks\n  requests: 1, 20, 300 (bytes, in order)"),
        "{failed}"
    );
    let failed = failure(|| {
        assert_allocs!(<= 100, || {
            drop(block(1));
            LINE.set(line!() + 1);
            assert_allocs!(== 0, || drop(block(20)));
        });
    });
    assert!(
        failed.ends_with("found: 1 block\n  requests: 20 (bytes, in order)"),
        "{failed}"
    );
}

/// Bug prevented: a thread that stays traced after a panic writes its requests
/// into a dead stack frame.
#[test]
fn a_panic_in_the_closure_passes_through_and_leaves_the_thread_as_it_was() {
    for _ in 0..100 {
        let caught = catch_unwind(|| {
            assert_allocs!(== 0, || {
                blocks(3, 7);
                assert_no_alloc!(|| {
                    assert_allocs!(<= 5, || resume_unwind(Box::new("mine")));
                });
            });
        });
        let payload = caught.expect_err("it panics");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"mine"));
        drop(payload);
        // What comes now is written nowhere, and no scope is open.
        let before = thread_stats();
        blocks(40, 9);
        assert_eq!(thread_stats().since(&before).allocations, 40);
        let failed = failure(|| {
            LINE.set(line!() + 1);
            assert_no_alloc!(|| drop(block(11)));
        });
        assert!(
            failed.ends_with("1 request\n  requests: 11 (bytes, in order)"),
            "{failed}"
        );
        assert_eq!(measure(|| blocks(1, 13)).1.peak_bytes, 13);
    }
}

/// Bug prevented: counters of the process, with which every such assertion is
/// flaky as soon as another test allocates.
#[test]
fn assertions_are_right_while_eight_other_threads_allocate() {
    /// Also when an assertion here fails: the others would run for ever.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|threads| {
        let _stop = Stop(&stop);
        for i in 0..8 {
            let stop = &stop;
            threads.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    blocks(100, 16 << i);
                }
            });
        }
        for round in 0..300 {
            assert_allocs!(== 5, || blocks(5, 1_000));
            assert_allocs!(== 5_000 bytes, || blocks(5, 1_000));
            assert_no_alloc!(|| black_box(round));
            if round % 10 == 0 {
                let failed = failure(|| {
                    LINE.set(line!() + 1);
                    assert_allocs!(< 2, || blocks(2, 70_000));
                });
                assert!(
                    failed.ends_with("2 blocks\n  requests: 70,000, 70,000 (bytes, in order)"),
                    "{failed}"
                );
            }
            thread::yield_now();
        }
    });
}

/// With the feature `profile` each request has its line.
#[cfg(feature = "profile")]
#[test]
fn a_failure_names_the_line_of_each_request() {
    let first = line!() + 4;
    let failed = whole_failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(|| {
            let mut grows = block(10);
            grows.reserve_exact(1_000);
            drop(black_box(grows));
        });
    });
    let (_, sites) = failed.split_once("\n  sites:\n").expect("sites");
    // The first block is made in `block`, whose own line is the innermost of this file.
    let lines: Vec<&str> = sites.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 2, "{failed}");
    assert!(
        lines[0].starts_with("10 at tests/assertions.rs:"),
        "{failed}"
    );
    assert_eq!(
        lines[1],
        format!("1,000 at tests/assertions.rs:{}", first + 1)
    );
}

/// Bug prevented: a request that was refused at once has no line, and one that was refused to
/// grow has.
#[cfg(feature = "profile")]
#[test]
fn a_refused_request_has_its_line() {
    let failed = whole_failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(refused);
    });
    let (_, sites) = failed.split_once("\n  sites:\n").expect(&failed);
    assert!(sites.contains(" at tests/assertions.rs:35"), "{failed}");
}

/// Bug prevented: a loop that allocates fills the failure with lines that read the same.
#[cfg(feature = "profile")]
#[test]
fn requests_of_one_size_from_one_line_are_one_line_with_their_number() {
    let first = line!() + 5;
    let failed = whole_failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(|| {
            for size in [10, 10, 300, 10] {
                black_box(Vec::<u8>::with_capacity(black_box(size)));
            }
            black_box(Box::new(1u64));
        });
    });
    let (_, sites) = failed.split_once("\n  sites:\n").expect("sites");
    let line = |n: u32| format!("at {}:{n}", file!());
    let lines = [
        format!("          10 {}, 3 times", line(first)),
        format!("         300 {}", line(first)),
        format!("           8 {}", line(first + 2)),
    ];
    assert_eq!(sites, lines.join("\n"), "{failed}");

    // Of so many only the first are kept, and told.
    let failed = whole_failure(|| {
        LINE.set(line!() + 1);
        assert_no_alloc!(|| blocks(1_020, 8));
    });
    let (_, sites) = failed
        .split_once("\n  sites of the first 16:\n")
        .expect("sites");
    assert!(sites.starts_with("           8 at "), "{failed}");
    assert!(
        sites.ends_with(", 16 times") && sites.lines().count() == 1,
        "{failed}"
    );
}

/// The threads of the harness itself run assertions, too: each on a thread of
/// its own that may only just have begun.
#[test]
fn the_first_thing_that_a_thread_does_may_be_an_assertion() {
    for _ in 0..100 {
        thread::spawn(|| assert_allocs!(== 1, || drop(block(5))))
            .join()
            .expect("it holds");
        thread::spawn(|| assert_no_alloc!(|| ()))
            .join()
            .expect("it holds");
    }
}
