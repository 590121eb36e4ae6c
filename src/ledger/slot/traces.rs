//! The chain of traces that want to see what the owner requests.

use super::Slot;
use crate::ledger::trace::{Request, Trace};
use crate::sync::Ordering;

impl Slot {
    /// Whether a trace wants to know what is requested.
    #[inline]
    pub(crate) fn is_traced(&self) -> bool {
        !self.first_trace().is_null()
    }

    /// Shows the request to who wants to see it.
    #[inline(never)]
    pub(super) fn trace(&self, request: Request) {
        Trace::record(self.first_trace(), request);
    }

    /// The first trace in the chain; null when there is none.
    #[inline]
    pub(crate) fn first_trace(&self) -> *const Trace {
        self.trace.load(Ordering::Relaxed)
    }

    /// Puts `trace` first in the chain; gives what was first.
    pub(crate) fn set_trace(&self, trace: *const Trace) -> *const Trace {
        let before = self.first_trace();
        self.trace.store(trace.cast_mut(), Ordering::Relaxed);
        before
    }
}
