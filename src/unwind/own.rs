//! Which functions are the allocator's own.
//!
//! The innermost frames of a capture are ours: the capture, the hook, the
//! `GlobalAlloc` method, the compiler's shim. How many there are depends on
//! inlining, and so on the compiler and on the call. So nobody counts them: one
//! run of [`calibrate`] allocates in each way there is and takes note of every
//! *function* between the capture and itself. From then on, the leading frames
//! of a capture that lie in one of those functions are left out.

use core::alloc::Layout;
use core::hint::black_box;
use std::alloc;

use crate::sync::{AtomicU64, Ordering};

/// Where each own function begins; 0 is free. More of them than anyone has.
static FUNCTIONS: [AtomicU64; 128] = [const { AtomicU64::new(0) }; 128];

/// While calibrating: return addresses below here, on that stack, are ours.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// How much stack the allocator's own frames may take.
const SPAN: u64 = 64 * 1024;

/// Whether `function` is the allocator's.
pub(crate) fn contains(function: u64) -> bool {
    // No function begins at 0, which stands for a free place.
    function != 0
        && FUNCTIONS
            .iter()
            .map(|known| known.load(Ordering::Relaxed))
            .take_while(|known| *known != 0)
            .any(|known| known == function)
}

/// Takes note of `function`, whose return address was found at `slot`, if a
/// calibration is running there.
pub(crate) fn observe(function: u64, slot: u64) {
    let limit = LIMIT.load(Ordering::Relaxed);
    let is_below = limit != 0 && slot < limit && limit - slot < SPAN;
    if is_below && function != 0 && !contains(function) {
        add(function);
    }
}

/// Declares `function` the allocator's.
fn add(function: u64) {
    // Without a free place the frame stays on the stack, and its name gives it away in a report.
    let _ = FUNCTIONS.iter().any(|place| {
        place
            .compare_exchange(0, function, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    });
}

/// Learns which functions are the allocator's own.
///
/// Call it once, from a normal context, before anything is recorded and with
/// recording switched on for the calling thread: it allocates in each way that
/// there is, and each must lead to a capture.
pub fn calibrate() {
    let _ = calibrate_with(|| {});
}

/// The same with captures by functions that no allocation comes through now, but
/// some will: `rehearse` makes them. Whether any function is known now.
pub(crate) fn calibrate_with(rehearse: fn()) -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    crate::unwind::rules::RULES.clear();
    probe(rehearse);
    LIMIT.store(0, Ordering::Relaxed);
    let [first, ..] = &FUNCTIONS;
    first.load(Ordering::Relaxed) != 0
}

#[inline(never)]
fn probe(rehearse: fn()) {
    // A call from here pushes its return address just below our stack pointer. Whatever lies
    // further down was called, directly or not, by what we call: it is the allocator's.
    LIMIT.store(here(), Ordering::Relaxed);
    rehearse();
    // Also what `System` looks twice at.
    for align in [8, 64] {
        let Ok(layout) = Layout::from_size_align(black_box(64), black_box(align)) else {
            return;
        };
        // SAFETY: the layout is not empty.
        let plain = unsafe { alloc::alloc(layout) };
        // SAFETY: the layout is not empty.
        let zeroed = unsafe { alloc::alloc_zeroed(layout) };
        if !plain.is_null() {
            // SAFETY: `plain` has this layout, and the new size is neither zero nor too large.
            let grown = unsafe { alloc::realloc(plain, layout, black_box(4096)) };
            let (block, size) = if grown.is_null() {
                (plain, 64)
            } else {
                (grown, 4096)
            };
            if let Ok(layout) = Layout::from_size_align(size, align) {
                // SAFETY: the block has this layout by now, and is not used again.
                unsafe { alloc::dealloc(black_box(block), layout) };
            }
        }
        if !zeroed.is_null() {
            // SAFETY: the block has this layout, and is not used again.
            unsafe { alloc::dealloc(black_box(zeroed), layout) };
        }
    }
}

/// Where the return address of a call from the calling function will be.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must read the caller's registers")]
fn here() -> u64 {
    crate::unwind::registers::Registers::here().sp - 8
}

/// Roughly where the calling function's frame is.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be in the caller's frame")]
fn here() -> u64 {
    let local = black_box(0u8);
    (&raw const local).addr() as u64
}
