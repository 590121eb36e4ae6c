//! Whether the program's global allocator is ours.
//!
//! Figures of a program that does not route its heap through us would all be
//! zero, and an assertion on them would always pass: the worst lie there is. So
//! every measurement asks here first. The answer comes from a real allocation,
//! not from a flag that somebody sets: a `TrackingAllocator` can be used
//! directly, as a value, without being installed.

use core::hint::black_box;

use crate::error::Error;
use crate::ledger;
use crate::sync::{AtomicU32, Ordering};

const UNKNOWN: u32 = 0;
const INSTALLED: u32 = 1;

/// Once the answer is yes it stays yes: a global allocator is never removed.
static ANSWER: AtomicU32 = AtomicU32::new(UNKNOWN);

/// Whether [`TrackingAllocator`](crate::TrackingAllocator) is this program's
/// global allocator.
///
/// The first call makes one small allocation and looks whether it was counted;
/// from then on a yes is remembered.
///
/// ```
/// // No `#[global_allocator]` in this example.
/// assert!(!heapledger::is_installed());
/// ```
#[inline]
pub fn is_installed() -> bool {
    ANSWER.load(Ordering::Relaxed) == INSTALLED || probe()
}

/// `Ok` when there is something to measure.
#[inline]
pub(crate) fn require() -> Result<(), Error> {
    if is_installed() {
        Ok(())
    } else {
        Err(Error::not_installed())
    }
}

#[cold]
fn probe() -> bool {
    // Twice: a thread that had no page of its own, for want of memory, may get it with the request.
    let counted = is_counted() || is_counted();
    if counted {
        ANSWER.store(INSTALLED, Ordering::Relaxed);
    }
    counted
}

/// Whether a request is counted where the thread's requests were until then.
fn is_counted() -> bool {
    // On the thread's own page when it has one: no other thread can write there. A thread that is
    // ending counts on the shared page, where only others in its state could be taken for us.
    let page = ledger::own().unwrap_or_else(ledger::shared);
    let requests = || {
        let figures = page.figures();
        figures.allocations.wrapping_add(figures.failures)
    };
    let before = requests();
    let mut block: Vec<u64> = Vec::new();
    // Not a box: without memory a request is refused, and that is counted, too.
    let _ = black_box(&mut block).try_reserve_exact(1);
    drop(black_box(block));
    requests() != before
}
