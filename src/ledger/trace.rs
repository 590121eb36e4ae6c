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
    /// The trace that this one is nested in, on the same thread's stack.
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

    fn each(innermost: *const Self, visit: impl Fn(&Self)) {
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

/// Keeps a trace in its slot's chain. Lives only in [`Trace::run`], so it can
/// neither be forgotten nor dropped out of order.
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
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.slot.unwatch();
        self.slot.set_trace(self.trace.outer.get());
    }
}
