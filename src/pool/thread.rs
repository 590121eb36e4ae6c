//! Which number is the calling thread's own.
//!
//! ```text
//!              first use of a pool                  thread's TLS torn down
//!   UNCLAIMED ────────────────────▶ a real number ────────────────────────▶ DETACHED
//!       │                                                                      ▲
//!       └── TLS already torn down, while claiming, or all numbers taken ───────┘
//! ```
//!
//! The [`Place`] lives in a `const`-initialised thread local without `Drop`, the
//! only kind that has no state machine: reading it is one load. Both markers
//! are places in buckets that no table ever fills, so the hot path finds no line
//! there and never asks which of the three it has. A second thread local *with*
//! `Drop` is touched only when a number is claimed, and gives it back. What
//! comes after that (guards in other TLS destructors) uses the depot; a number
//! is never claimed again.
//!
//! A thread that first uses a pool when its thread locals were dropped already (a
//! C thread, in the destructor of a pthread key) may still be given a number, which
//! nobody then gives back: what it leaves in its lines is idle until their pools
//! are dropped.

use core::cell::Cell;

use crate::pool::indices::Indices;
use crate::pool::lock::Lock;
use crate::pool::table::Place;
use crate::sync::forkable::MutexGuard;

/// The numbers of the process.
static INDICES: Indices = Indices::new();

/// Held by the one who empties lines that are not its own thread's.
static SWEEPING: Lock<()> = Lock::in_static(());

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::UNCLAIMED) };
    static LEASE: Lease = const { Lease };
}

/// Gives the thread's number back when its thread locals are dropped.
struct Lease;

impl Drop for Lease {
    fn drop(&mut self) {
        let place = current();
        move_to(Place::DETACHED);
        if let Some(index) = place.index() {
            INDICES.give_back(index);
        }
    }
}

/// The calling thread's place, or one of the two markers. Not to be kept: it is
/// the thread's own only until its thread locals are dropped.
#[inline]
pub(crate) fn current() -> Place {
    // `try_with` because `with` has a panic in it; this kind of thread local cannot be gone.
    PLACE.try_with(Cell::get).unwrap_or(Place::DETACHED)
}

fn move_to(place: Place) {
    // Cannot fail, as above; if it did, the thread would stay where it is.
    let _ = PLACE.try_with(|current| current.set(place));
}

/// The calling thread's place, with a number claimed if it had none and can
/// still have one.
#[cold]
pub(crate) fn claim() -> Place {
    if current() != Place::UNCLAIMED {
        return current();
    }
    // What the runtime does while we register the destructor finds no number.
    move_to(Place::DETACHED);
    // Fails when the thread's locals are being dropped: we stay detached.
    if LEASE.try_with(|_| ()).is_ok()
        && let Some(index) = INDICES.claim()
    {
        move_to(Place::of(index));
    }
    current()
}

/// Keeps all others from [`for_each_free`] until the result is gone. The numbers belong to
/// the process and not to a pool: two callers at once would pass over those that
/// the other one has in its hands. No user's code may run meanwhile.
///
/// `None` in a child of `fork` that does not have the thread which held it.
pub(crate) fn sweep_alone() -> Option<MutexGuard<'static, ()>> {
    SWEEPING.lock()
}

/// Calls `f` for each of the first `count` numbers that no thread owns, which
/// nobody can claim in the meantime. `f` must not call a user's code.
pub(crate) fn for_each_free(count: usize, mut f: impl FnMut(usize)) {
    for index in 0..count {
        if INDICES.try_claim(index) {
            f(index);
            INDICES.give_back(index);
        }
    }
}
