//! Which slot is the calling thread's own.
//!
//! ```text
//!              first entry or strike                thread's TLS torn down
//!   UNCLAIMED ─────────────────────▶ a real slot ─────────────────────────▶ DETACHED
//!       │                                                                      ▲
//!       └── TLS already torn down, or while claiming ──────────────────────────┘
//! ```
//!
//! The pointer lives in a `const`-initialised thread local without `Drop`, the
//! only kind that has no state machine: reading it is one load. Both markers
//! are slots that no fast path accepts, so the hot path never asks which of the
//! three it is. A second thread local *with* `Drop` is touched only when a slot
//! is claimed, and gives it back. What comes after that (other crates' TLS
//! destructors, pthread keys, `atexit`) is counted on the shared slot with real
//! atomics, both sides of it; a slot is never claimed again.
//!
//! A thread that first touches the heap when its thread locals were dropped
//! already (a C thread, in the destructor of a pthread key) may still be given
//! a slot, which nobody then gives back: its counts are right, its 192 bytes
//! are lost.

use core::cell::Cell;

use crate::arena;
use crate::error::Error;
use crate::ledger::apart;
use crate::ledger::registry::Registry;
use crate::ledger::slot::Slot;
use crate::ledger::trace::Request;
use crate::ledger::{BOOKS, Books};
use crate::sync::{Ordering, compiler_fence};

/// No slot yet.
static UNCLAIMED: Slot = Slot::marker();
/// No slot any more, or none to be had now.
static DETACHED: Slot = Slot::marker();

thread_local! {
    static SLOT: Cell<&'static Slot> = const { Cell::new(&UNCLAIMED) };
    static LEASE: Lease = const { Lease(Cell::new(None)) };
}

/// The slot that the thread has claimed; gives it back when the thread's locals
/// are dropped.
struct Lease(Cell<Option<&'static Slot>>);

impl Drop for Lease {
    fn drop(&mut self) {
        attach(&DETACHED);
        if let Some(slot) = self.0.take() {
            slot.end(&BOOKS.peak);
            Registry::release(slot);
        }
    }
}

/// The calling thread's slot, or one of the two markers.
#[inline]
fn current() -> &'static Slot {
    // `try_with` because `with` has a panic in it; this kind of thread local cannot be gone.
    SLOT.try_with(Cell::get).unwrap_or(&DETACHED)
}

fn attach(slot: &'static Slot) {
    // Cannot fail, as above; if it did, the thread would stay with what it has.
    let _ = SLOT.try_with(|current| current.set(slot));
}

#[inline]
fn is_real(slot: &'static Slot) -> bool {
    !core::ptr::eq(slot, &raw const UNCLAIMED) && !core::ptr::eq(slot, &raw const DETACHED)
}

/// The calling thread's own slot, claimed if need be; `None` once the thread's
/// locals are torn down, or without memory for another chunk of slots.
#[inline]
pub(crate) fn own() -> Option<&'static Slot> {
    let slot = current();
    if is_real(slot) {
        Some(slot)
    } else {
        claim(slot)
    }
}

/// The same for who cannot do without; the error says why there is none.
#[inline]
pub(crate) fn own_or_error() -> Result<&'static Slot, Error> {
    own().ok_or_else(why_none)
}

/// Why [`own`] has just given nothing.
#[cold]
fn why_none() -> Error {
    // What `claim` leaves behind when another chunk cannot be had.
    if core::ptr::eq(current(), &raw const UNCLAIMED) {
        Error::no_memory()
    } else {
        Error::thread_ending()
    }
}

/// Whether `slot` is the calling thread's own. Claims nothing.
#[inline]
pub(crate) fn is_own(slot: &Slot) -> bool {
    core::ptr::eq(current(), slot)
}

#[cold]
#[inline(never)]
fn claim(marker: &'static Slot) -> Option<&'static Slot> {
    if core::ptr::eq(marker, &raw const DETACHED) {
        return None;
    }
    // What the runtime allocates while we register the destructor is counted on the shared slot.
    // So is what a signal handler allocates from here on: it must not come here, too, while we ask
    // the system for memory.
    attach(&DETACHED);
    compiler_fence(Ordering::SeqCst);
    // Registering takes memory, and without it the C library ends the process.
    let claimed = if arena::is_any_left() {
        // Fails when the thread's locals are being dropped: we stay detached.
        LEASE.try_with(claim_for).ok()?
    } else {
        None
    };
    compiler_fence(Ordering::SeqCst);
    // Without memory for a slot now, the next operation tries again.
    attach(claimed.unwrap_or(&UNCLAIMED));
    claimed
}

/// The slot that the thread has the lease of, claimed if there is none.
fn claim_for(lease: &Lease) -> Option<&'static Slot> {
    // A handler that came between the look at the marker and its change may have claimed one.
    if lease.0.get().is_none() {
        lease.0.set(BOOKS.registry.claim());
        lease.0.get().inspect(|slot| slot.begin());
    }
    lease.0.get()
}

/// Enters a new block of `size` bytes; `false` when [`allocated_cold`] must.
#[inline]
#[must_use]
pub(crate) fn try_allocated(size: usize) -> bool {
    current().try_allocate(size as u64)
}

/// Strikes out a block of `size` bytes; `false` when [`freed_cold`] must.
#[inline]
#[must_use]
pub(crate) fn try_freed(size: usize) -> bool {
    current().try_free(size as u64)
}

/// Enters that a block of `old` bytes now has `new` bytes; whether that was
/// done on the cold path, which a thread that is watched always takes.
#[inline]
pub(crate) fn resized(old: usize, new: usize) -> bool {
    let done = try_resized(old, new);
    if !done {
        resized_cold(old, new);
    }
    !done
}

#[inline]
fn try_resized(old: usize, new: usize) -> bool {
    let slot = current();
    if new >= old {
        slot.try_grow((new - old) as u64)
    } else {
        !slot.is_watched() && slot.try_shrink((old - new) as u64)
    }
}

/// The same of a block that somebody above is told of next, and who then
/// [publishes](Slot::publish_due) what is due.
#[cfg(feature = "profile")]
pub(crate) fn resized_untold(old: usize, new: usize) {
    if !try_resized(old, new) {
        enter_resized(old, new);
    }
}

/// Enters a request that the inner allocator answered with null.
#[cold]
#[inline(never)]
pub(crate) fn refused(size: usize) {
    match own() {
        Some(slot) => slot.refuse(Request::Refused(size)),
        None => BOOKS.registry.shared.failures.add_shared(1),
    }
}

/// Enters a new block of `size` bytes when [`try_allocated`] did not; gives the
/// thread's slot, if it has one. For a cold function, which then publishes what is
/// due, when it has told of the block.
#[inline]
pub(crate) fn allocated_cold(size: usize) -> Option<&'static Slot> {
    let slot = own();
    match slot {
        Some(slot) => slot.allocate(size as u64, Request::Allocate(size), &BOOKS.peak),
        None => BOOKS.allocate_shared(size as u64),
    }
    slot
}

/// Whether nobody above wants to be told of this event of the calling thread, whose slot
/// this is: a request of `size` bytes, which has been entered.
#[cfg(feature = "profile")]
#[inline]
pub(crate) fn rests(slot: Option<&'static Slot>, size: usize) -> bool {
    slot.is_some_and(|slot| slot.rests(size as u64))
}

/// Strikes out a block of `size` bytes when [`try_freed`] did not.
#[cold]
#[inline(never)]
pub(crate) fn freed_cold(size: usize) {
    match own() {
        Some(slot) => slot.free(size as u64, &BOOKS.peak),
        None => BOOKS.free_shared(size as u64),
    }
}

#[cold]
#[inline(never)]
fn resized_cold(old: usize, new: usize) {
    let slot = enter_resized(old, new);
    #[cfg(feature = "profile")]
    publish_due(slot);
    #[cfg(not(feature = "profile"))]
    let _ = slot;
}

/// Enters it on the cold path; gives the thread's slot, if it has one.
#[inline]
fn enter_resized(old: usize, new: usize) -> Option<&'static Slot> {
    let request = Request::Resize(old, new);
    let slot = own();
    match slot {
        Some(slot) if new >= old => slot.grow((new - old) as u64, request, &BOOKS.peak),
        Some(slot) => slot.shrink((old - new) as u64, request, &BOOKS.peak),
        None => BOOKS.resize_shared(old as u64, new as u64),
    }
    slot
}

/// Publishes what an entry of the calling thread, whose slot this is, has left to its caller.
#[cfg(feature = "profile")]
#[inline]
pub(crate) fn publish_due(slot: Option<&'static Slot>) {
    if let Some(slot) = slot {
        slot.publish_due(&BOOKS.peak);
    }
}

/// The same entries for threads without a slot: several may write at once.
impl Books {
    fn allocate_shared(&self, bytes: u64) {
        let shared = &self.registry.shared;
        shared.allocated_bytes.add_shared(bytes);
        shared.allocations.add_shared(1);
        #[cfg(feature = "histogram")]
        if let Some(bucket) = shared.sizes.get(crate::histogram::bucket(bytes)) {
            bucket.add_shared(1);
        }
        self.publish_shared(bytes.cast_signed());
    }

    fn publish_shared(&self, change: i64) {
        apart::publishing_shared(&self.registry.shared, change, || {
            self.peak.publish(self.peak.era(), change, change);
        });
    }

    fn free_shared(&self, bytes: u64) {
        let shared = &self.registry.shared;
        shared.freed_bytes.add_shared(bytes);
        shared.frees.add_shared(1);
        self.publish_shared(bytes.wrapping_neg().cast_signed());
    }

    fn resize_shared(&self, old: u64, new: u64) {
        let shared = &self.registry.shared;
        shared.reallocations.add_shared(1);
        if new >= old {
            let more = new - old;
            shared.allocated_bytes.add_shared(more);
            self.publish_shared(more.cast_signed());
        } else {
            let less = old - new;
            shared.freed_bytes.add_shared(less);
            self.publish_shared(less.wrapping_neg().cast_signed());
        }
    }
}
