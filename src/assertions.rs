//! Count assertions: `assert_allocs!` and `assert_no_alloc!`.
//!
//! The macros are thin; what they do is in ordinary functions here, so that it
//! can be read, tested and stepped through. A failure is an ordinary panic at
//! the assertion's line, never an abort, and never inside the allocator.

use core::fmt;

use crate::error::{Error, Failure};
use crate::installed;
use crate::ledger::{self, Request, Trace};
use crate::reading::or_panic;
use crate::scope::Scope;
use crate::stats::ScopeStats;
use crate::units::{Grouped, plural};
use crate::unpolled::refuse_futures;

/// What to do with a future instead.
const RUN_IT: &str = "run it inside the closure, as in `|| runtime.block_on(future)`, or await \
                      `measure_future(future)` and assert on its figures";

/// Asserts how much a closure allocates, and gives back what it returns.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use heapledger::assert_allocs;
/// use std::hint::black_box;
///
/// // Blocks: `==`, `<` or `<=`, and any expression.
/// let text = assert_allocs!(== 1, || black_box(String::from("one block")));
/// assert_allocs!(<= 2, || drop(black_box(text.clone())));
///
/// // Bytes. All limits are `u64`.
/// const LIMIT: u64 = 4_096;
/// assert_allocs!(<= LIMIT bytes, || drop(black_box(vec![0u8; 4_096])));
/// assert_allocs!(<= 4 * 1024 bytes, || drop(black_box(vec![0u8; 4_096])));
///
/// // Requests: new blocks and resizes of blocks; what the allocator refuses is shown but not
/// // counted. A `Vec` that grows is one block, but it asks again each time it is full.
/// assert_allocs!(== 1, || { let mut v = vec![1, 2]; v.push(3); black_box(v); });
/// assert_allocs!(== 2 requests, || { let mut v = vec![1, 2]; v.push(3); black_box(v); });
///
/// // With a message, as for `assert!`; it is made only when the assertion fails.
/// for n in [1, 2, 3] {
///     assert_allocs!(== n, || black_box(vec![Box::new(0); n as usize - 1]), "with {n} items");
/// }
/// ```
///
/// Counted is what the calling thread does inside the closure, whatever other
/// tests do beside it; frees are not. Bytes are those of new blocks and of what
/// blocks grew by. The compiler may remove allocations that it can see through:
/// use [`black_box`](core::hint::black_box).
///
/// What is given back and still has to be run is not counted: run a future
/// inside with the runtime's `block_on`, or use
/// [`measure_future`](crate::measure_future); walk through an iterator inside.
///
/// # Panics
/// When the count is not as asserted, with what was expected and found, and the
/// sizes of the requests, below the message if there is one. When the tracking allocator
/// is not installed, or the closure gives back a future: the assertion never passes
/// without having measured.
///
/// ```should_panic
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// heapledger::assert_allocs!(<= 1, || {
///     std::hint::black_box((Box::new([0u8; 100]), String::from("second")));
/// });
/// ```
#[macro_export]
macro_rules! assert_allocs {
    (== $($limit_and_body:tt)+) => {
        $crate::__assert_allocs!(Exactly $($limit_and_body)+)
    };
    (<= $($limit_and_body:tt)+) => {
        $crate::__assert_allocs!(AtMost $($limit_and_body)+)
    };
    (< $($limit_and_body:tt)+) => {
        $crate::__assert_allocs!(LessThan $($limit_and_body)+)
    };
    ($($other:tt)*) => {
        $crate::__assert_allocs!(@help)
    };
}

/// What stands behind the comparison in [`assert_allocs!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __assert_allocs {
    (@help) => {
        ::core::compile_error!(
            "assert_allocs! takes a comparison and a closure: `assert_allocs!(<= 3, || ..)`, \
             with ==, < or <=, and `bytes` or `requests` after the number if blocks are not meant; \
             a message may follow the closure"
        )
    };
    // A limit in parentheses is taken out of them: as an argument they would be unused, and
    // the compiler would tell the user to remove what the macro needs.
    ($count:ident ($limit:expr) $unit:ident, $body:expr $(,)?) => {
        $crate::__private::assert_allocs(
            $crate::__private::Count::$count,
            $limit,
            $crate::__assert_allocs_unit!($unit),
            $body,
        )
    };
    ($count:ident ($limit:expr) $unit:ident, $body:expr, $($message:tt)+) => {
        $crate::__or_fail!(
            $crate::__private::try_assert_allocs(
                $crate::__private::Count::$count,
                $limit,
                $crate::__assert_allocs_unit!($unit),
                $body,
            ),
            $($message)+
        )
    };
    ($count:ident $limit:tt $unit:ident, $body:expr $(, $($message:tt)*)?) => {
        $crate::__assert_allocs!($count ($limit) $unit, $body $(, $($message)*)?)
    };
    ($count:ident $limit:expr, $body:expr $(, $($message:tt)*)?) => {
        $crate::__assert_allocs!($count ($limit) blocks, $body $(, $($message)*)?)
    };
    // No expression may stand before a word in a macro's rule, so the words of a longer limit
    // are gathered one by one, up to the unit.
    (@gather $count:ident [$($limit:tt)+] blocks, $body:expr $(, $($message:tt)*)?) => {
        $crate::__assert_allocs!($count ($($limit)+) blocks, $body $(, $($message)*)?)
    };
    (@gather $count:ident [$($limit:tt)+] bytes, $body:expr $(, $($message:tt)*)?) => {
        $crate::__assert_allocs!($count ($($limit)+) bytes, $body $(, $($message)*)?)
    };
    (@gather $count:ident [$($limit:tt)+] requests, $body:expr $(, $($message:tt)*)?) => {
        $crate::__assert_allocs!($count ($($limit)+) requests, $body $(, $($message)*)?)
    };
    (@gather $count:ident [$($limit:tt)*] $next:tt $($rest:tt)*) => {
        $crate::__assert_allocs!(@gather $count [$($limit)* $next] $($rest)*)
    };
    (@gather $($other:tt)*) => {
        $crate::__assert_allocs!(@help)
    };
    ($count:ident $($limit_and_body:tt)+) => {
        $crate::__assert_allocs!(@gather $count [] $($limit_and_body)+)
    };
}

/// What an assertion gives, or its failure with the user's message, which is made only then
/// and after the closure: it may use what the closure has borrowed.
#[doc(hidden)]
#[macro_export]
macro_rules! __or_fail {
    ($asserted:expr, $($message:tt)+) => {
        match $asserted {
            ::core::result::Result::Ok(result) => result,
            ::core::result::Result::Err(failure) => {
                failure.panic_with(::core::format_args!($($message)+))
            }
        }
    };
}

/// The unit after the number in [`assert_allocs!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __assert_allocs_unit {
    (blocks) => {
        $crate::__private::Unit::Blocks
    };
    (bytes) => {
        $crate::__private::Unit::Bytes
    };
    (requests) => {
        $crate::__private::Unit::Requests
    };
    ($other:ident) => {
        ::core::compile_error!("assert_allocs! counts `blocks`, `bytes` or `requests`")
    };
}

/// Asserts that a closure asks the allocator for nothing, and gives back what
/// it returns.
///
/// Forbidden are new blocks and resizes, those that the allocator refuses as
/// well; frees are not. Only the calling thread counts, and what is given back
/// and still has to be run (a future, an iterator) does not.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let mut buffer = Vec::with_capacity(8);
/// heapledger::assert_no_alloc!(|| buffer.extend([1, 2, 3]));
/// heapledger::assert_no_alloc!(|| buffer.push(4), "{} of 8 are used", buffer.len());
/// # std::hint::black_box(buffer);
/// ```
///
/// # Panics
/// When the closure asks for memory, with the message if there is one and the sizes of
/// the requests. When the tracking allocator is not installed, or the closure gives back
/// a future, as for [`assert_allocs!`].
#[macro_export]
macro_rules! assert_no_alloc {
    ($body:expr $(,)?) => {
        $crate::__private::assert_no_alloc($body)
    };
    ($body:expr, $($message:tt)+) => {
        $crate::__or_fail!($crate::__private::try_assert_no_alloc($body), $($message)+)
    };
    ($($other:tt)*) => {
        ::core::compile_error!(
            "assert_no_alloc! takes a closure, and a message if there is one to add: \
             `assert_no_alloc!(|| .., \"round {}\", n)`"
        )
    };
}

/// Asserts that a closure leaves nothing alive. Only with the feature
/// `profile`: without it, this says so and does not compile.
///
/// ```compile_fail
/// heapledger::assert_no_leaks!(|| ());
/// ```
#[cfg(not(feature = "profile"))]
#[macro_export]
macro_rules! assert_no_leaks {
    ($($body:tt)*) => {
        ::core::compile_error!(
            "assert_no_leaks! needs heapledger's feature `profile`; in Cargo.toml:\n\n    \
             [dev-dependencies]\n    \
             heapledger = { version = \"0.1\", features = [\"profile\"] }\n"
        )
    };
}

/// The comparison of an assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// `==`
    Exactly,
    /// `<`
    LessThan,
    /// `<=`
    AtMost,
}

impl Count {
    fn holds(self, found: u64, limit: u64) -> bool {
        match self {
            Self::Exactly => found == limit,
            Self::LessThan => found < limit,
            Self::AtMost => found <= limit,
        }
    }
}

/// What an assertion counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// New blocks.
    Blocks,
    /// Bytes of new blocks and of growth.
    Bytes,
    /// New blocks and resizes.
    Requests,
}

impl Unit {
    fn of(self, stats: &ScopeStats) -> u64 {
        match self {
            Self::Blocks => stats.allocations,
            Self::Bytes => stats.allocated_bytes,
            Self::Requests => stats.allocations.wrapping_add(stats.reallocations),
        }
    }

    fn name(self, n: u64) -> &'static str {
        match self {
            Self::Blocks => plural(n, "block", "blocks"),
            Self::Bytes => plural(n, "byte", "bytes"),
            Self::Requests => plural(n, "request", "requests"),
        }
    }
}

/// What [`assert_allocs!`] calls.
///
/// # Panics
/// As the macro says.
#[track_caller]
pub fn assert_allocs<R>(count: Count, limit: u64, unit: Unit, body: impl FnOnce() -> R) -> R {
    match try_assert_allocs(count, limit, unit, body) {
        Ok(result) => result,
        Err(failure) => failure.panic(),
    }
}

/// The same where a message follows the closure.
///
/// # Errors
/// When the count is not as asserted.
///
/// # Panics
/// When nothing can be measured.
#[track_caller]
pub fn try_assert_allocs<R>(
    count: Count,
    limit: u64,
    unit: Unit,
    body: impl FnOnce() -> R,
) -> Result<R, Failure> {
    refuse_futures::<R>("assert_allocs!", RUN_IT);
    let (result, stats, trace) = or_panic(traced(body));
    let found = unit.of(&stats);
    if count.holds(found, limit) {
        return Ok(result);
    }
    let how = match count {
        Count::Exactly => "exactly ",
        Count::LessThan => "fewer than ",
        Count::AtMost => "at most ",
    };
    Err(Failure::new(format!(
        "the closure allocated the wrong amount\n  expected: {how}{} {}\n     found: {} {}\n{}",
        Grouped(limit),
        unit.name(limit),
        Grouped(found),
        unit.name(found),
        Requests(&trace),
    )))
}

/// What [`assert_no_alloc!`] calls.
///
/// # Panics
/// As the macro says.
#[track_caller]
pub fn assert_no_alloc<R>(body: impl FnOnce() -> R) -> R {
    match try_assert_no_alloc(body) {
        Ok(result) => result,
        Err(failure) => failure.panic(),
    }
}

/// The same where a message follows the closure.
///
/// # Errors
/// When the closure asks for memory.
///
/// # Panics
/// When nothing can be measured.
#[track_caller]
pub fn try_assert_no_alloc<R>(body: impl FnOnce() -> R) -> Result<R, Failure> {
    refuse_futures::<R>("assert_no_alloc!", RUN_IT);
    let (result, stats, trace) = or_panic(traced(body));
    let found = Unit::Requests.of(&stats).wrapping_add(stats.failures);
    if found == 0 {
        return Ok(result);
    }
    Err(Failure::new(format!(
        "the closure was not to ask the allocator for anything\n  expected: 0 requests\n     found: {} {}\n{}",
        Grouped(found),
        Unit::Requests.name(found),
        Requests(&trace),
    )))
}

/// Runs `body` in a scope that writes down each request.
fn traced<R>(body: impl FnOnce() -> R) -> Result<(R, ScopeStats, Trace), Error> {
    installed::require()?;
    let slot = ledger::own_or_error()?;
    #[cfg(feature = "profile")]
    crate::record::prepare_sites();
    let scope = Scope::try_enter()?;
    let (result, trace) = Trace::run(slot, body);
    let stats = scope.finish();
    Ok((result, stats, trace))
}

/// The requests of a trace, as the last lines of a failure.
struct Requests<'a>(&'a Trace);

impl fmt::Display for Requests<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("  requests:")?;
        let mut shown: u64 = 0;
        for request in self.0.kept() {
            f.write_str(if shown == 0 { " " } else { ", " })?;
            match request.0 {
                Request::Allocate(size) => write!(f, "{}", Grouped(size as u64))?,
                Request::Resize(old, new) => {
                    write!(f, "{} -> {}", Grouped(old as u64), Grouped(new as u64))?;
                }
                Request::Refused(size) => write!(f, "{} (refused)", Grouped(size as u64))?,
            }
            shown += 1;
        }
        match self.0.seen().saturating_sub(shown) {
            0 if shown == 0 => f.write_str(" none")?,
            0 => f.write_str(" (bytes, in order)")?,
            more => write!(f, " (bytes, in order), and {} more", Grouped(more))?,
        }
        #[cfg(feature = "profile")]
        write_sites(f, self.0)?;
        Ok(())
    }
}

/// Where the requests came from: a line for each size and place, as they came.
#[cfg(feature = "profile")]
fn write_sites(f: &mut fmt::Formatter<'_>, trace: &Trace) -> fmt::Result {
    // Looking up names is our own work: what is kept of it for the next time is nobody's leak.
    let sites = crate::record::quietly(|| sites(trace));
    if sites.is_empty() {
        return Ok(());
    }
    let kept = trace.kept().count() as u64;
    if trace.seen() > kept {
        write!(f, "\n  sites of the first {}:", Grouped(kept))?;
    } else {
        f.write_str("\n  sites:")?;
    }
    for site in sites {
        let (size, place) = (Grouped(site.size as u64), &site.place);
        write!(f, "\n{size:>12} at {place}")?;
        if site.times > 1 {
            write!(f, ", {} times", Grouped(site.times))?;
        }
    }
    Ok(())
}

/// Requests of one size from one place.
#[cfg(feature = "profile")]
struct Site {
    size: usize,
    place: String,
    times: u64,
}

/// Where each request came from, those that read the same as one.
#[cfg(feature = "profile")]
fn sites(trace: &Trace) -> Vec<Site> {
    let mut symbols = crate::record::symbols();
    let mut sites: Vec<Site> = Vec::new();
    for (request, site) in trace.kept() {
        let size = match request {
            Request::Allocate(size) | Request::Resize(_, size) | Request::Refused(size) => size,
        };
        let stack = symbols.stack(&crate::record::frames(site).0).trimmed();
        let user = stack.iter().find(|frame| frame.is_user());
        let Some(frame) = user.or(stack.first()) else {
            continue;
        };
        let place = frame.location();
        // A few only: a trace keeps no more.
        let same = |known: &&mut Site| known.size == size && known.place == place;
        match sites.iter_mut().find(same) {
            Some(known) => known.times += 1,
            None => sites.push(Site {
                size,
                place,
                times: 1,
            }),
        }
    }
    sites
}
