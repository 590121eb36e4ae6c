//! Leak checks that name the line, right in parallel tests and across threads.
//!
//! ```
//! # #[global_allocator]
//! # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
//! use heapledger::{assert_no_leaks, leaks};
//!
//! assert_no_leaks!(|| drop(vec![1, 2, 3]));
//!
//! let report = leaks::check(|| { Box::leak(Box::new([0u8; 100])); }).unwrap_err();
//! assert_eq!((report.blocks(), report.bytes()), (1, 100));
//! println!("{report}"); // the line where it was born, and the stack that led there
//! ```
//!
//! A check sees the thread that it runs on, and those to which it is
//! [carried](carry). Other tests may run beside it, and may run checks of their
//! own. A check inside a check has its own verdict; what it leaves alive is
//! alive for the outer one too, unless that one ends first: until then it is the
//! inner one's alone. Where two checks are on one thread, a block
//! belongs to the inner one. It stays of the check that it was born in, whoever
//! frees or resizes it; a block that is older than all of them is no leak, however
//! large it becomes, but [`Check::run_steady`] finds it when it goes on growing.
//!
//! Recording costs time on the threads that are in a check, for each allocation,
//! and on all threads, for each free, as long as any check runs. What code keeps
//! on purpose after its first run (lazy statics, caches) is a leak to
//! [`check`]: warm it up first, or use [`Check::run_steady`]. A check that fails
//! looks up names, and so does one that passes although something is alive at its
//! end, as with an allowance, with suppressions or in steady runs. Both read debug
//! information for that through the program's allocator: 35 to 45 MB at the first
//! use, kept for the next. The counters show them, and no check does. Where the thread has
//! little stack left, they are looked up on a stack of ours (on Linux x86-64); without
//! optimisation it needs 32 KiB all the same.
//!
//! A child of `fork` can check, whatever the other threads of its parent were
//! doing in theirs: a fork waits while one of them starts or ends a check, or
//! looks up a name. What std cannot do there it still cannot: a child that was
//! forked while another thread was just starting or ending may hang in
//! `std::thread::spawn`.
//!
//! # With `cargo test` and `cargo nextest`
//!
//! Put the allocator into the test file and call [`assert_no_leaks!`](crate::assert_no_leaks!) in a test;
//! there is nothing to set, and no reason to run tests one by one. Under `cargo
//! test` the tests of a file are threads of one process, under `cargo nextest`
//! processes of their own: a check says the same in both. What libtest captures
//! (`println!`, the messages of panics) is kept in a buffer that may grow inside
//! a check; it is told apart, in [`LeakReport::harness`]. With nextest every
//! lazy static is used for the first time in each test.
//!
//! With line tables only (`debug = "line-tables-only"`, `debug = 1`) the lines
//! are the same, but an inlined function has its bare name, which is what
//! [suppressions](Check::suppress) then see. Without debug information there
//! are no lines at all. A program that is stripped of its symbols has no names
//! either (`strip = true`; `strip = "debuginfo"` leaves them): suppressions match
//! nothing then, what the runtime keeps is not told apart, and reports say so.
//!
//! Names are looked up at the end of a check: of a library that was closed by then
//! there may be none, or, where another has been opened in its place, that one's.
//! Where another is opened in the place of one that was closed during the check,
//! the stacks of calls through it may be wrong, too: how its callers are found is
//! remembered by address.
//!
//! # With other threads
//!
//! - **`std::thread`**: [`carry().wrap(..)`](crate::ScopeHandle::wrap) around the
//!   closure. A thread that is alive at the end is found by its handle, as a
//!   block that was born where it was spawned. The check waits a moment for
//!   threads that are just ending: [`std::thread::scope`] waits for its threads'
//!   closures only.
//! - **tokio**: [`carry().wrap_future(..)`](crate::ScopeHandle::wrap_future)
//!   around what is spawned, and around the future that is blocked on. Build the
//!   runtime outside of the check and run something on it once; a worker makes
//!   its queues larger when it first needs that, which is found as a leak of the
//!   task that made it do so.
//! - **rayon**: begin the check in the pool, `pool.install(|| check(..))`, and
//!   wrap the jobs. A job that is put in from outside now and then makes the
//!   pool's queue a block longer, which is found; so can a job's own queue, for
//!   which `suppress("crossbeam")` is right. A thread of the pool that waits for
//!   its jobs takes on others meanwhile, whoever has put them in, and what they
//!   allocate is in its check and its scopes: where other tests use the same
//!   pool, and the global one they all do, give the check a pool of its own.
//!
//! ```
//! # #[global_allocator]
//! # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
//! use heapledger::{assert_no_leaks, leaks};
//! use std::thread;
//!
//! assert_no_leaks!(|| {
//!     let check = leaks::carry();
//!     thread::scope(|threads| {
//!         for _ in 0..4 {
//!             threads.spawn(|| {
//!                 let _inside = check.enter();
//!                 drop(std::hint::black_box(vec![0u8; 100]));
//!             });
//!         }
//!     });
//! });
//! ```
//!
//! # Whole programs
//!
//! [`Process`] looks at all threads of a program, from some point in `main` to
//! its end, whether or not they are told of it, and can end it with an exit code.
//!
//! The examples `leak_test`, `leak_in_async`, `leak_main` and `steady_state` show
//! it whole.
//!
//! What blocks for the first time inside a check may make something for that: a
//! channel of std's a thread local, `parking_lot` a table. Warm it up.

mod check;
mod ending;
mod process;
mod report;
mod said;
mod stacks;
mod steady;
pub(crate) mod stream;
mod suppress;
mod turns;
pub(crate) mod way_out;

pub use crate::symbols::{Frame, Origin};
pub use check::{Check, LeakGuard};
pub use process::{Process, ProcessGuard};
pub use report::{Growth, Held, LeakReport, LeakSite};

use crate::error::Failure;
pub use crate::record::Incomplete;
use crate::unpolled::refuse_futures;

/// A handle with which other threads, closures and futures join the check that
/// the calling thread is in; outside of a check it joins nothing.
///
/// It is a [`ScopeHandle`](crate::ScopeHandle), with all its ways to carry; any
/// handle that is made inside a check carries the check too.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use heapledger::leaks;
///
/// let report = leaks::check(|| {
///     let work = leaks::carry().wrap(|| std::mem::forget(vec![1u8; 77]));
///     std::thread::spawn(work).join().unwrap();
/// });
/// assert!(report.unwrap_err().sites.iter().any(|site| site.bytes == 77));
/// ```
///
/// # Panics
/// When the tracking allocator is not the program's global allocator, or the
/// system has no memory for the handle.
#[track_caller]
pub fn carry() -> crate::scope::ScopeHandle {
    crate::reading::or_panic(crate::scope::ScopeHandle::detached())
}

/// Runs `body` and says what it leaks; [`Check::run`] with no allowance.
///
/// What `body` gives back and still has to be run (a future, an iterator) is not
/// checked: run a future inside, with the runtime's `block_on`.
///
/// # Errors
/// The report, when anything is still alive.
///
/// # Panics
/// As [`Check::run`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use std::cell::RefCell;
/// use std::rc::Rc;
///
/// #[derive(Default)]
/// struct Node(RefCell<Option<Rc<Node>>>);
///
/// let report = heapledger::leaks::check(|| {
///     let node = Rc::new(Node::default());
///     *node.0.borrow_mut() = Some(node.clone()); // it holds itself
/// });
/// assert_eq!(report.unwrap_err().blocks(), 1);
/// ```
#[track_caller]
pub fn check<R>(body: impl FnOnce() -> R) -> Result<R, LeakReport> {
    Check::new().run(body)
}

/// What [`assert_no_leaks!`](crate::assert_no_leaks!) calls.
///
/// # Panics
/// With the largest sites, when anything is still alive; when a future is given
/// back; as [`Check::run`].
#[doc(hidden)]
#[track_caller]
pub fn assert_no_leaks<R>(body: impl FnOnce() -> R) -> R {
    match try_assert_no_leaks(body) {
        Ok(result) => result,
        Err(failure) => failure.panic(),
    }
}

/// The same where a message follows the closure.
///
/// # Errors
/// When anything is still alive.
///
/// # Panics
/// When a future is given back; as [`Check::run`].
#[doc(hidden)]
#[track_caller]
pub fn try_assert_no_leaks<R>(body: impl FnOnce() -> R) -> Result<R, Failure> {
    refuse_futures::<R>(
        "assert_no_leaks!",
        "run it inside the closure, as in `|| runtime.block_on(future)`, with \
         `leaks::carry().wrap_future(..)` around what is spawned",
    );
    check(body).map_err(|report| Failure::new(format!("{report:#}")))
}

/// Asserts that a closure leaves nothing alive, and gives back what it returns.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// heapledger::assert_no_leaks!(|| drop(String::from("gone")));
///
/// // With a message, as for `assert!`; it is made only when the assertion fails.
/// let mut names = Vec::with_capacity(1);
/// heapledger::assert_no_leaks!(|| names.clear(), "after {} names", names.len());
/// # names.push(1);
/// ```
///
/// # Panics
/// When blocks that the closure allocated are still alive at its end, with the
/// largest sites, the line of each and its stack, below the message if there is one. When
/// the tracking allocator is not installed. When the closure gives back a future, of which nothing has
/// run: run it inside, with the runtime's `block_on`. See [`leaks`](crate::leaks).
#[macro_export]
macro_rules! assert_no_leaks {
    ($body:expr $(,)?) => {
        $crate::leaks::assert_no_leaks($body)
    };
    ($body:expr, $($message:tt)+) => {
        $crate::__or_fail!($crate::leaks::try_assert_no_leaks($body), $($message)+)
    };
    ($($other:tt)*) => {
        ::core::compile_error!(
            "assert_no_leaks! takes a closure, and a message if there is one to add: \
             `assert_no_leaks!(|| .., \"round {}\", n)`"
        )
    };
}
