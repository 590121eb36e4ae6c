//! The requests that a thread makes while somebody wants to see each of them.
//!
//! A traced thread's slot takes the cold path on every request, by its
//! `next_event` mark, so tracing costs an untraced thread nothing at all.

use core::cell::Cell;
use core::ptr;

use crate::ledger::slot::Slot;

/// One request to the allocator, as a failing assertion shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A new block of so many bytes.
    Allocate(usize),
    /// A block resized from so many bytes to so many.
    Resize(usize, usize),
    /// A new block, or a resize, to so many bytes, answered with null.
    Refused(usize),
}

/// A request and the site that a higher storey has noted for it; 0 is none.
pub(crate) type Traced = (Request, u32);

/// How many requests a trace keeps; the rest is only counted.
const KEPT: usize = 16;

/// The first few requests since the trace began, and how many there were.
#[derive(Debug)]
pub(crate) struct Trace {
    kept: [Cell<Traced>; KEPT],
    seen: Cell<u64>,
    /// The trace that this one is nested in, of the same thread; on a stack of the thread's.
    outer: Cell<*const Trace>,
}

impl Trace {
    /// Runs `body` while every request of this thread is written into the
    /// trace it is given back with.
    pub(crate) fn run<R>(slot: &'static Slot, body: impl FnOnce() -> R) -> (R, Self) {
        let trace = Self {
            kept: [const { Cell::new((Request::Allocate(0), 0)) }; KEPT],
            seen: Cell::new(0),
            outer: Cell::new(ptr::null()),
        };
        let attached = Attached::new(slot, &trace);
        let result = body();
        drop(attached);
        (result, trace)
    }

    /// The kept requests, in order.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Traced> + '_ {
        let kept = usize::try_from(self.seen.get()).map_or(KEPT, |seen| seen.min(KEPT));
        self.kept.iter().take(kept).map(Cell::get)
    }

    /// How many requests there were in all.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.get()
    }

    /// Writes `request` into the innermost trace and all around it.
    pub(crate) fn record(innermost: *const Self, request: Request) {
        Self::each(innermost, |trace| {
            let seen = trace.seen.get();
            if let Some(place) = trace.place(seen) {
                place.set((request, 0));
            }
            trace.seen.set(seen.wrapping_add(1));
        });
    }

    /// Notes where the last request came from, in the innermost trace and all
    /// around it.
    #[cfg(feature = "profile")]
    pub(crate) fn note_site(innermost: *const Self, site: u32) {
        Self::each(innermost, |trace| {
            if let Some(place) = trace.place(trace.seen.get().wrapping_sub(1)) {
                place.set((place.get().0, site));
            }
        });
    }

    fn place(&self, index: u64) -> Option<&Cell<Traced>> {
        self.kept.get(usize::try_from(index).ok()?)
    }

    fn each(innermost: *const Self, mut visit: impl FnMut(&Self)) {
        let mut next = innermost;
        while !next.is_null() {
            // SAFETY: the pointer is in the slot's chain, so its `Attached` has not been dropped,
            // and that borrows the trace. Only this thread, the slot's owner, uses the chain.
            let trace = unsafe { &*next };
            visit(trace);
            next = trace.outer.get();
        }
    }
}

/// Keeps a trace in its slot's chain. Lives only in [`Trace::run`], so it cannot be
/// forgotten without the stack that it is on, which then stays, too. It may be dropped out of
/// order: each stackful coroutine has a stack of its own, and gives way in the middle.
struct Attached<'a> {
    slot: &'static Slot,
    trace: &'a Trace,
}

impl<'a> Attached<'a> {
    fn new(slot: &'static Slot, trace: &'a Trace) -> Self {
        trace.outer.set(slot.set_trace(trace));
        slot.watch();
        Self { slot, trace }
    }

    /// Takes the trace off the chain, wherever it is in it. For the owner of the slot.
    fn detach(&self) {
        let (first, outer) = (self.slot.first_trace(), self.trace.outer.get());
        let mut is_attached = ptr::eq(first, self.trace);
        if is_attached {
            self.slot.set_trace(outer);
        } else {
            Trace::each(first, |inner| {
                if ptr::eq(inner.outer.get(), self.trace) {
                    inner.outer.set(outer);
                    is_attached = true;
                }
            });
        }
        if is_attached {
            self.slot.unwatch();
        }
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // Not if the thread has given its slot back meanwhile, and all that was attached with it:
        // a coroutine may be dropped with the last of the thread's locals.
        #[cfg(not(loom))]
        if !crate::ledger::is_own(self.slot) {
            return;
        }
        self.detach();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::mem::forget;

    use super::{Attached, Cell, KEPT, Request, Trace, ptr};
    use crate::ledger::Books;

    fn trace() -> Trace {
        Trace {
            kept: [const { Cell::new((Request::Allocate(0), 0)) }; KEPT],
            seen: Cell::new(0),
            outer: Cell::new(ptr::null()),
        }
    }

    /// Bug prevented: on stackful coroutines an assertion ends before one that began later, and
    /// the slot has a trace whose stack is gone.
    #[test]
    fn a_trace_that_ends_out_of_order_leaves_the_chain() {
        let books: &'static Books = Box::leak(Box::new(Books::new()));
        let slot = books.registry.claim().expect("memory");
        slot.begin();
        let traces = [trace(), trace(), trace()];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut attached = traces
                .each_ref()
                .map(|trace| Some(Attached::new(slot, trace)));
            for ended in order {
                let ending = attached[ended].take().expect("attached");
                ending.detach();
                // The slot is nobody's here.
                forget(ending);
                for (trace, is_there) in traces.iter().zip(attached.iter().map(Option::is_some)) {
                    let before = trace.seen();
                    Trace::record(slot.first_trace(), Request::Allocate(1));
                    assert_eq!(trace.seen() - before, u64::from(is_there), "{order:?}");
                }
            }
            assert!(!slot.is_traced() && !slot.is_watched());
        }
    }
}
