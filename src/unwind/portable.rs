//! Captures by the system's own unwinder.
//!
//! Where there is no walk of our own, or where it has failed its test. Slower,
//! and it takes whatever locks the system's unwinder takes: with glibc before
//! 2.35, the loader's.

use crate::unwind::own;
use crate::unwind::stack::{DEEP_START, DEPTH, Entry, Stack, Walk};
use crate::unwind::{Capture, DEEP, ROOT};

/// Half of the room is for what is kept, half for what comes.
const HALF: usize = DEPTH / 2;

/// Lets the unwinder do outside the allocator what it does on its first use.
pub(super) fn prime() {
    backtrace::trace(|_| true);
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
impl Stack {
    /// Makes it fresh for the calling thread, of which nothing else must be known.
    pub fn prepare(&mut self) {
        self.forget();
    }
}

impl Stack {
    /// The calling thread's stack.
    pub(super) fn capture_portable(&mut self, sink: &mut impl FnMut(u32, u64) -> u32) -> Capture {
        let (fresh, is_deep) = self.collect();
        let root = if is_deep { DEEP } else { ROOT };
        if is_deep || self.root != ROOT {
            self.len = 0;
        }
        // The outer frames that are the same as last time.
        let before = self.entries.get(..self.len).unwrap_or_default();
        let now = self.entries.get(DEPTH - fresh..).unwrap_or_default();
        let same = before.iter().zip(now);
        let kept = same.take_while(|(kept, now)| kept.ip == now.ip).count();
        let walk = Walk {
            kept,
            fresh: fresh - kept,
            root,
            proven: false,
        };
        self.enter(&walk, sink)
    }

    /// Fills the second half from its end, the innermost frame first; how many
    /// frames, and whether there were more.
    fn collect(&mut self) -> (usize, bool) {
        let mut count = 0;
        let mut is_deep = false;
        let mut inside_own = true;
        let mut visit = |frame: &backtrace::Frame| {
            // What the system calls a frame's stack pointer is where its callee's frame ends.
            let slot = frame.sp().addr().wrapping_sub(8) as u64;
            if inside_own {
                let function = frame.symbol_address().addr() as u64;
                own::observe(function, slot);
                inside_own = own::contains(function);
            }
            if inside_own {
                return true;
            }
            if count == HALF {
                is_deep = true;
                return false;
            }
            if let Some(place) = self.entries.get_mut(DEPTH - 1 - count) {
                *place = Entry {
                    ip: frame.ip().addr() as u64,
                    ..Entry::NONE
                };
            }
            count += 1;
            true
        };
        // SAFETY: the lock that this leaves out is for Windows' debug help; elsewhere there is
        // nothing to synchronise.
        unsafe { backtrace::trace_unsynchronized(&mut visit) };
        if is_deep {
            count = DEEP_START;
        }
        (count, is_deep)
    }
}
