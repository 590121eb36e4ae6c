//! The ledger: slots, totals, peak.
//!
//! Writers own their slots (see [`slot`]) and never wait. Readers add up all
//! slots and never stop a writer.
//!
//! # Why `live` never underflows
//!
//! A reader loads *every* slot's freed side, and only then any slot's allocated
//! side. Take a free that the first pass has counted. Its block was entered in
//! some slot before its pointer was given out, and the pointer reached the
//! freeing thread by some synchronisation, so the entry happens before the
//! strike. The strike is a `Release` store that the reader's `Acquire` load has
//! seen, so the entry happens before everything that the reader does next: the
//! second pass counts it. Hence what is allocated is at least what is freed, in
//! blocks and in bytes. (A `realloc` that shrinks is a strike, one that grows an
//! entry, and the same holds.) With the passes swapped it is false; `models`
//! has both.
//!
//! A signal handler that allocates while its own thread is between the load and
//! the store of an entry loses its entries, and its strikes may remain. Only
//! then can the difference be negative, and the reader shows zero. What it frees
//! while its thread is in the middle of a free may be missing from that thread's
//! high-water mark.

#[cfg(all(not(loom), feature = "profile"))]
pub(crate) mod apart;
/// Nobody stands apart.
#[cfg(not(all(not(loom), feature = "profile")))]
mod apart {
    use crate::ledger::Slot;

    #[inline]
    pub(super) fn publishing(_: &Slot, _: i64, publish: impl FnOnce()) {
        publish();
    }

    #[cfg(not(loom))]
    #[inline]
    pub(super) fn publishing_shared(_: &Slot, _: i64, publish: impl FnOnce()) {
        publish();
    }
}
mod closely;
#[cfg(feature = "profile")]
mod everyone;
mod figures;
#[expect(
    unsafe_code,
    reason = "a growing block of marks that only a slot's owner touches"
)]
mod levels;
#[cfg(all(test, loom))]
pub(crate) mod models;
mod peak;
#[expect(unsafe_code, reason = "walks chunks that are never freed")]
mod registry;
#[cfg(feature = "profile")]
mod rest;
mod slot;
#[cfg(not(loom))]
mod thread;
#[expect(
    unsafe_code,
    reason = "walks a chain of traces on the thread's own stack"
)]
mod trace;

pub(crate) use figures::Figures;
pub(crate) use slot::Slot;
#[cfg(not(loom))]
pub(crate) use thread::{
    allocated_cold, freed_cold, is_own, own, own_or_error, refused, resized, try_allocated,
    try_freed,
};
#[cfg(all(not(loom), feature = "profile"))]
pub(crate) use thread::{publish_due, resized_untold, rests};
pub(crate) use trace::{Request, Trace};

use crate::stats::Stats;
pub(crate) use closely::read_closely;
#[cfg(all(not(loom), feature = "profile"))]
pub(crate) use peak::BATCH as BATCH_BYTES;
#[cfg(all(not(loom), feature = "profile"))]
pub(crate) use peak::HELD_BACK as HELD_BACK_BYTES;
use peak::{HELD_BACK, Peak};
use registry::Registry;

/// The books of the process.
#[cfg(not(loom))]
static BOOKS: Books = Books::new();

/// All that is counted, for one heap.
#[derive(Debug)]
pub(crate) struct Books {
    registry: Registry,
    peak: Peak,
}

impl Books {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            registry: Registry::new(),
            peak: Peak::new(),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            registry: Registry::new(),
            peak: Peak::new(),
        }
    }

    /// Every slot, the shared one first.
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        core::iter::once(&self.registry.shared).chain(self.registry.slots())
    }

    /// Adds up all slots, as [`closely`] as can be.
    fn read_closely(&self) -> Reading<'_> {
        let (mut reading, slack) =
            read_closely(|| self.read_strikes(), |strikes| self.read_entries(strikes));
        reading.slack = slack;
        reading
    }

    /// The freed sides of all slots.
    fn read_strikes(&self) -> Figures {
        let mut total = Figures::default();
        for slot in self.slots() {
            total.freed_bytes = total.freed_bytes.wrapping_add(slot.freed_bytes.read());
            total.frees = total.frees.wrapping_add(slot.frees.read());
        }
        total
    }

    /// The allocated sides of all slots, to go with the freed sides `total`, which were read before.
    fn read_entries(&self, mut total: Figures) -> Reading<'_> {
        let mut reading = Reading::default();
        for slot in self.slots() {
            let now = slot.figures();
            total.allocated_bytes = total.allocated_bytes.wrapping_add(now.allocated_bytes);
            total.allocations = total.allocations.wrapping_add(now.allocations);
            total.reallocations = total.reallocations.wrapping_add(now.reallocations);
            total.failures = total.failures.wrapping_add(now.failures);
            reading.note_peak(
                slot,
                &now,
                core::ptr::eq(slot, &raw const self.registry.shared),
            );
        }
        reading.total = total;
        reading
    }

    /// The figures of the process; `is_own` says whether a slot is the caller's.
    pub(crate) fn stats(&self, is_own: impl Fn(&Slot) -> bool) -> Stats {
        let era = self.peak.era();
        let reading = self.read_closely();
        let live = reading.live_bytes();
        let is_exact = reading.is_exact(is_own) && !self.peak.is_blurred(era);
        // What is raised here stays, so it must not hold what only looked alive.
        let candidate = reading.sure_bytes().saturating_add(reading.headroom);
        let candidate = i64::try_from(candidate).unwrap_or(i64::MAX);
        // What was read before a reset is no peak since.
        let raised = self.peak.raise(era, candidate);
        let peak = raised.unwrap_or_else(|| self.peak.high());
        Stats {
            live_bytes: live,
            live_blocks: reading.live_blocks(),
            peak_bytes: u64::try_from(peak).unwrap_or(0).max(live),
            peak_error_bytes: reading.peak_error(is_exact),
            allocated_bytes: reading.total.allocated_bytes,
            freed_bytes: reading.total.freed_bytes,
            allocations: reading.total.allocations,
            frees: reading.total.frees,
            reallocations: reading.total.reallocations,
            failures: reading.total.failures,
        }
    }

    /// Starts the peak again at what is alive now; `own` is the caller's slot.
    fn reset_peak(&self, own: Option<&Slot>) {
        if let Some(slot) = own {
            slot.publish(&self.peak);
        }
        let era = self.peak.reset(|era| {
            let reading = self.read_closely();
            let is_own = |slot: &Slot| own.is_some_and(|own| core::ptr::eq(own, slot));
            self.peak.note_blur(era, !reading.is_exact(is_own));
            i64::try_from(reading.sure_bytes()).unwrap_or(i64::MAX)
        });
        if let Some(slot) = own {
            // Its mark was begun again just now.
            slot.has_published_in(era);
        }
    }
}

/// One walk over the slots.
#[derive(Debug, Default)]
struct Reading<'a> {
    total: Figures,
    /// How far the highest unpublished mark stands above its slot's net.
    headroom: u64,
    /// What each slot that was ever used may hold back, summed.
    held_back: u64,
    /// How many slots were ever used, and the last of them.
    used: u32,
    last: Option<&'a Slot>,
    /// Bytes freed while this was read: by so much `live` may be too high.
    slack: u64,
}

impl<'a> Reading<'a> {
    fn note_peak(&mut self, slot: &'a Slot, now: &Figures, is_shared: bool) {
        let activity = now.allocated_bytes.saturating_add(now.freed_bytes);
        if activity == 0 {
            return;
        }
        self.used += 1;
        self.last = Some(slot);
        self.held_back = self.held_back.saturating_add(activity.min(HELD_BACK));
        // What goes through the shared slot is published at once.
        if !is_shared {
            self.headroom = self.headroom.max(slot.headroom(now.net()));
        }
    }

    /// Whether nothing is held back but by the caller's slot, or none.
    fn is_exact(&self, is_own: impl Fn(&Slot) -> bool) -> bool {
        // A thread that has ended holds nothing back.
        self.used <= 1
            && self
                .last
                .is_none_or(|slot| slot.is_nobodys() || is_own(slot))
    }

    fn peak_error(&self, is_exact: bool) -> u64 {
        let held_back = if is_exact { 0 } else { self.held_back };
        held_back.saturating_add(self.slack)
    }

    /// Bytes that were alive at once, at some moment of the reading.
    fn sure_bytes(&self) -> u64 {
        self.live_bytes().saturating_sub(self.slack)
    }

    /// Never negative, but for the handlers that the module's text names.
    fn live_bytes(&self) -> u64 {
        let live = self.total.net();
        u64::try_from(live).unwrap_or(0)
    }

    fn live_blocks(&self) -> u64 {
        let live = self.total.allocations.wrapping_sub(self.total.frees);
        u64::try_from(live.cast_signed()).unwrap_or(0)
    }
}

/// The figures of the process, installed or not.
#[cfg(not(loom))]
pub(crate) fn process_stats() -> Stats {
    BOOKS.stats(is_own)
}

/// Starts the peak again at what is alive now.
#[cfg(not(loom))]
pub(crate) fn reset_peak() {
    BOOKS.reset_peak(own());
}

/// What threads without a slot of their own count on.
#[cfg(not(loom))]
pub(crate) fn shared() -> &'static Slot {
    &BOOKS.registry.shared
}

/// How many slots have ever had an owner.
#[cfg(not(loom))]
pub(crate) fn slots_ever_owned() -> usize {
    BOOKS
        .registry
        .slots()
        .filter(|slot| slot.tenancy() > 0)
        .count()
}

/// Switches on or off that every request of every thread takes the cold path.
#[cfg(all(not(loom), feature = "profile"))]
pub(crate) fn watch_everyone(on: bool) {
    everyone::EVERYONE.set_every(on, BOOKS.registry.slots());
}

/// Makes the next request of each thread take the cold path.
#[cfg(all(not(loom), feature = "profile"))]
pub(crate) fn call_everyone() {
    everyone::EVERYONE.call(BOOKS.registry.slots());
}

/// How often everyone was called: what was seen to be wanted after this was asked is
/// so until there are more.
#[cfg(all(not(loom), feature = "profile"))]
#[inline]
pub(crate) fn calls() -> u32 {
    everyone::EVERYONE.calls()
}

/// The process's peak, which slots publish to.
#[cfg(not(loom))]
#[inline]
pub(crate) fn peak() -> &'static Peak {
    &BOOKS.peak
}

/// The program's bytes that are alive, as far as threads have published, and all of
/// what `slot` holds, which is the caller's. With one thread that is exact. Whoever stands
/// [`apart`] takes off what it has not told.
#[cfg(all(not(loom), feature = "profile"))]
#[inline]
pub(crate) fn live_as_seen_by(slot: &Slot) -> i64 {
    apart::around(|| BOOKS.peak.live()).wrapping_add(slot.unpublished())
}

/// The same of who has no slot: what threads have published.
#[cfg(all(not(loom), feature = "profile"))]
pub(crate) fn live_as_published() -> i64 {
    apart::around(|| BOOKS.peak.live())
}

/// All slots, the shared one first.
#[cfg(all(not(loom), feature = "profile"))]
pub(crate) fn slots() -> impl Iterator<Item = &'static Slot> {
    BOOKS.slots()
}

/// The requests of the process by size, added up over all slots.
#[cfg(all(not(loom), feature = "histogram"))]
pub(crate) fn sizes() -> [u64; crate::histogram::BUCKETS] {
    let mut sum = [0u64; crate::histogram::BUCKETS];
    for slot in BOOKS.slots() {
        for (sum, count) in sum.iter_mut().zip(&slot.sizes) {
            *sum = sum.wrapping_add(count.read());
        }
    }
    sum
}

#[cfg(all(test, not(loom)))]
mod tests;
