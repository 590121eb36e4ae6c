//! One thread's page of the ledger.
//!
//! ```text
//!   line 0   allocated_bytes  allocations  next_event  freed_bytes
//!            frees  roof  roof_limit  reallocations            every operation
//!   line 1   published  batch_high  failures  trace
//!            levels (3 words)  state                           every 64 KiB
//!   line 2   base: the figures when the owner took the slot
//!            watchers, rest, attachment                        hardly ever
//!   (+8)     sizes: the histogram, feature `histogram`         every allocation
//! ```
//!
//! A slot of zero bytes is a fresh slot. It has one owner at a time; the next
//! owner *continues* the counts, so the process's totals are the sum over all
//! slots at every moment. Methods are for the owner, except where they say
//! "any thread".
//!
//! Two compares stand for everything that is rare:
//! - on allocating, cumulative bytes against `next_event`: the next publication
//!   is due, somebody watches every request, or there is no real slot yet;
//! - on freeing, `roof` against `roof_limit`: a publication is due, or there is no real
//!   slot yet.
//!
//! The mark is kept as `roof`: how many bytes must be allocated in all for the net to
//! be there. The net only rises by allocating and nobody looks in between, so the mark
//! needs raising only when a free comes. It is raised without a branch: which frees
//! follow a growth, nothing can foresee (one in seven of a parse of Rust, which a
//! branch for it made slower by a hundredth; 2026-11-22).
//!
//! A publication lowers the roof to `allocated_bytes`; from there it rises with each
//! free by its bytes. So the limit, which stands [`WINDOW`] above the mark at which
//! allocating publishes, bounds what is freed unpublished. What opens a scope lowers
//! the roof, too, and looks itself how far the net has fallen.

#[cfg(feature = "profile")]
mod above;
mod scopes;
mod traces;

use core::hint;
use core::ptr;

use crate::ledger::apart;
#[cfg(feature = "profile")]
use crate::ledger::everyone::EVERYONE;
use crate::ledger::figures::Figures;
use crate::ledger::levels::Levels;
use crate::ledger::peak::{BATCH, Era, HELD_BACK, Peak, WINDOW};
#[cfg(feature = "profile")]
use crate::ledger::rest::Rest;
use crate::ledger::trace::{Request, Trace};
use crate::sync::{AtomicI64, AtomicPtr, AtomicU16, AtomicU64, Counter, Ordering};

/// Whether every request of every thread takes the cold path.
#[inline]
fn is_every() -> bool {
    #[cfg(feature = "profile")]
    return EVERYONE.is_every();
    #[cfg(not(feature = "profile"))]
    false
}

/// How often everyone was called.
#[inline]
fn calls() -> u32 {
    #[cfg(feature = "profile")]
    return EVERYONE.calls();
    #[cfg(not(feature = "profile"))]
    0
}

/// Counters with one owner thread at a time. See the module's picture.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(crate) allocated_bytes: Counter,
    pub(crate) allocations: Counter,
    /// When `allocated_bytes` reaches this, the owner takes the cold path.
    next_event: AtomicU64,
    pub(crate) freed_bytes: Counter,
    pub(crate) frees: Counter,
    /// What was freed, and the highest net since a publication or a scope last
    /// started this again; less than what was allocated when the net has passed
    /// that since the last free.
    roof: Counter,
    /// When `roof` would pass this, a free takes the cold path. Where the next
    /// publication is due on allocating, and `WINDOW` more.
    roof_limit: AtomicU64,
    pub(crate) reallocations: Counter,

    /// What the global live figure includes of this slot's net.
    published: AtomicI64,
    /// The highest net since the last publication, but for what `roof` has seen.
    batch_high: AtomicI64,
    pub(crate) failures: Counter,
    trace: AtomicPtr<Trace>,
    levels: Levels,
    /// Who owns the slot: [`crate::ledger::registry`] has the picture.
    pub(crate) state: AtomicU64,

    /// Where the present owner began; it alone reads and writes this.
    base: [Counter; 6],
    /// How many want every request of the owner to take the cold path. Too many to be counted
    /// stay `u16::MAX` until the owner ends, as nobody knows when the last of them has gone:
    /// better slow than blind.
    watchers: AtomicU16,
    /// The [era](Era) of the peak that the last publication was in.
    era: AtomicU16,
    /// For how long nobody above wants to be told of the owner's events.
    #[cfg(feature = "profile")]
    rest: Rest,
    /// What a higher storey keeps with the slot; it stays when the slot changes hands.
    attachment: AtomicPtr<()>,

    /// Requests by the position of the highest bit of their size.
    #[cfg(feature = "histogram")]
    pub(crate) sizes: [Counter; crate::histogram::BUCKETS],
}

// What the README promises for a thread: 192 bytes, and 512 more with the histogram.
#[cfg(not(any(loom, feature = "histogram")))]
const _: () = assert!(size_of::<Slot>() <= 192);
#[cfg(all(not(loom), feature = "histogram"))]
const _: () = assert!(size_of::<Slot>() <= 704);
#[cfg(not(loom))]
const _: () = assert!(core::mem::offset_of!(Slot, published) == 64);

impl Slot {
    /// A fresh slot that has counted nothing.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            allocated_bytes: Counter::new(),
            allocations: Counter::new(),
            next_event: AtomicU64::new(0),
            freed_bytes: Counter::new(),
            frees: Counter::new(),
            roof: Counter::new(),
            roof_limit: AtomicU64::new(0),
            reallocations: Counter::new(),
            published: AtomicI64::new(0),
            batch_high: AtomicI64::new(0),
            failures: Counter::new(),
            trace: AtomicPtr::new(ptr::null_mut()),
            levels: Levels::new(),
            state: AtomicU64::new(0),
            base: [const { Counter::new() }; 6],
            watchers: AtomicU16::new(0),
            era: AtomicU16::new(0),
            #[cfg(feature = "profile")]
            rest: Rest::new(),
            attachment: AtomicPtr::new(ptr::null_mut()),
            #[cfg(feature = "histogram")]
            sizes: [const { Counter::new() }; crate::histogram::BUCKETS],
        }
    }

    /// A slot that is nobody's: both fast paths refuse it, whatever the size,
    /// so nothing is ever written to it.
    #[cfg(not(loom))]
    pub(crate) const fn marker() -> Self {
        let mut marker = Self::new();
        // Above the limit, and `next_event` reached: both are 0.
        marker.roof = Counter::holding(1);
        marker
    }

    /// A fresh slot that has counted nothing.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            allocated_bytes: Counter::new(),
            allocations: Counter::new(),
            next_event: AtomicU64::new(0),
            freed_bytes: Counter::new(),
            frees: Counter::new(),
            roof: Counter::new(),
            roof_limit: AtomicU64::new(0),
            reallocations: Counter::new(),
            published: AtomicI64::new(0),
            batch_high: AtomicI64::new(0),
            failures: Counter::new(),
            trace: AtomicPtr::new(ptr::null_mut()),
            levels: Levels::new(),
            state: AtomicU64::new(0),
            base: core::array::from_fn(|_| Counter::new()),
            watchers: AtomicU16::new(0),
            era: AtomicU16::new(0),
            #[cfg(feature = "profile")]
            rest: Rest::new(),
            attachment: AtomicPtr::new(ptr::null_mut()),
            #[cfg(feature = "histogram")]
            sizes: core::array::from_fn(|_| Counter::new()),
        }
    }

    // --- the fast paths: `false` means that nothing was done and the cold one is due

    /// Enters a new block of `bytes`.
    #[inline]
    #[must_use]
    pub(crate) fn try_allocate(&self, bytes: u64) -> bool {
        let after = self.allocated_bytes.own().wrapping_add(bytes);
        if self.is_due(after) {
            return false;
        }
        self.allocated_bytes.set(after);
        self.allocations.add(1);
        self.count_size(bytes);
        true
    }

    /// Strikes out a block of `bytes`.
    #[inline]
    #[must_use]
    pub(crate) fn try_free(&self, bytes: u64) -> bool {
        if !self.try_fall(bytes) {
            return false;
        }
        self.frees.add(1);
        true
    }

    /// Enters the growth of a block by `bytes`.
    #[inline]
    #[must_use]
    pub(crate) fn try_grow(&self, bytes: u64) -> bool {
        let after = self.allocated_bytes.own().wrapping_add(bytes);
        if self.is_due(after) {
            return false;
        }
        self.allocated_bytes.set(after);
        self.reallocations.add(1);
        true
    }

    /// Enters the shrinking of a block by `bytes`.
    #[inline]
    #[must_use]
    pub(crate) fn try_shrink(&self, bytes: u64) -> bool {
        if !self.try_fall(bytes) {
            return false;
        }
        self.reallocations.add(1);
        true
    }

    /// Whether `allocated_bytes` at `after` reaches the next event. The signed
    /// difference is right even when the counter has passed 2^64.
    #[inline]
    fn is_due(&self, after: u64) -> bool {
        after
            .wrapping_sub(self.next_event.load(Ordering::Relaxed))
            .cast_signed()
            >= 0
    }

    /// Raises the high-water mark if the net has passed it, and lowers the net by
    /// `bytes`; `false` when nothing was done, as a publication is due.
    #[inline]
    fn try_fall(&self, bytes: u64) -> bool {
        // First: what a signal handler allocates in between raises it.
        let limit = self.roof_limit.load(Ordering::Relaxed);
        let allocated = self.allocated_bytes.own();
        let roof = self.roof.own();
        let is_above = roof.wrapping_sub(allocated).cast_signed() < 0;
        let roof = hint::select_unpredictable(is_above, allocated, roof).wrapping_add(bytes);
        if limit.wrapping_sub(roof).cast_signed() < 0 {
            return false;
        }
        // In this order: who reads in between finds the mark too low, not too high.
        self.freed_bytes.add(bytes);
        self.roof.set(roof);
        true
    }

    /// Lowers the net by `bytes`.
    fn fall(&self, bytes: u64) {
        self.freed_bytes.add(bytes);
        self.roof.add(bytes);
    }

    #[inline]
    #[cfg_attr(
        not(feature = "histogram"),
        expect(clippy::unused_self, reason = "the twin with the feature uses it")
    )]
    fn count_size(&self, bytes: u64) {
        #[cfg(feature = "histogram")]
        if let Some(bucket) = self.sizes.get(crate::histogram::bucket(bytes)) {
            bucket.add(1);
        }
        #[cfg(not(feature = "histogram"))]
        let _ = bytes;
    }

    // --- the cold paths

    /// Enters a new block when [`try_allocate`](Self::try_allocate) would not.
    #[inline]
    pub(crate) fn allocate(&self, bytes: u64, request: Request, peak: &Peak) {
        self.allocated_bytes.add(bytes);
        self.allocations.add(1);
        self.count_size(bytes);
        self.event(request, peak);
    }

    /// Enters a growth when [`try_grow`](Self::try_grow) would not.
    pub(crate) fn grow(&self, bytes: u64, request: Request, peak: &Peak) {
        self.allocated_bytes.add(bytes);
        self.reallocations.add(1);
        self.event(request, peak);
    }

    /// Strikes out a block when [`try_free`](Self::try_free) would not.
    pub(crate) fn free(&self, bytes: u64, peak: &Peak) {
        self.look_back(peak);
        self.fall(bytes);
        self.frees.add(1);
        self.look_back(peak);
    }

    /// Enters a shrinking when [`try_shrink`](Self::try_shrink) would not, or
    /// when a trace may want to see it.
    pub(crate) fn shrink(&self, bytes: u64, request: Request, peak: &Peak) {
        self.look_back(peak);
        self.fall(bytes);
        self.reallocations.add(1);
        self.look_back(peak);
        Trace::record(self.first_trace(), request);
    }

    /// Enters a request that was answered with null.
    pub(crate) fn refuse(&self, request: Request) {
        self.failures.add(1);
        Trace::record(self.first_trace(), request);
    }

    /// Whether somebody wants to see every request.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) != 0
    }

    /// From now on every request takes the cold path, until [`unwatch`](Self::unwatch).
    pub(crate) fn watch(&self) {
        let watchers = self.watchers.load(Ordering::Relaxed);
        self.watchers
            .store(watchers.saturating_add(1), Ordering::Relaxed);
        self.arm();
    }

    /// Ends one [`watch`](Self::watch).
    pub(crate) fn unwatch(&self) {
        let watchers = self.watchers.load(Ordering::Relaxed);
        if watchers != u16::MAX {
            self.watchers
                .store(watchers.saturating_sub(1), Ordering::Relaxed);
        }
        // Not armed: somebody may have called meanwhile, and the owner has not looked.
        self.interrupt();
    }

    /// Does what is due when `allocated_bytes` has reached `next_event`. While every request
    /// takes the cold path, publishing is left to who tells of it: [`publish_due`](Self::publish_due).
    #[inline]
    fn event(&self, request: Request, peak: &Peak) {
        #[cfg(feature = "profile")]
        if self.is_watched() || is_every() {
            if self.is_traced() {
                self.trace(request);
            }
            self.interrupt();
            return;
        }
        if self.is_publication_due() || self.is_traced() {
            self.tell(request, peak);
        }
        self.arm();
    }

    #[inline(never)]
    fn tell(&self, request: Request, peak: &Peak) {
        if self.is_publication_due() {
            self.publish(peak);
        }
        self.trace(request);
    }

    /// Sets `next_event` to what comes next.
    #[inline]
    fn arm(&self) {
        self.arm_since(calls());
    }

    /// The same, but the next request takes the cold path if anybody has called since there
    /// were `calls`.
    #[inline]
    #[cfg_attr(
        not(feature = "profile"),
        expect(unused_variables, reason = "nobody calls")
    )]
    fn arm_since(&self, calls: u32) {
        if self.is_watched() || is_every() {
            self.interrupt();
            return;
        }
        self.next_event.store(self.publish_at(), Ordering::Relaxed);
        #[cfg(feature = "profile")]
        if EVERYONE.has_called_since(calls) {
            self.interrupt();
        }
    }

    /// Makes the owner's next request take the cold path. Any thread, but only a
    /// call to [`everyone`](crate::ledger::everyone) makes sure that it lasts.
    pub(crate) fn interrupt(&self) {
        #[cfg(feature = "profile")]
        self.rest.end();
        self.next_event
            .store(self.allocated_bytes.read(), Ordering::Relaxed);
    }

    /// Raises the mark, or publishes a long fall.
    fn look_back(&self, peak: &Peak) {
        if !self.try_fall(0) {
            self.publish(peak);
        }
    }

    /// The highest net since a publication or a scope last restarted the mark, and
    /// what is allocated and freed in all. Read in this order: what a signal handler
    /// frees in between makes the mark too low, not too high.
    #[inline]
    fn running(&self) -> (i64, u64, u64) {
        let roof = self.roof.own();
        let allocated = self.allocated_bytes.own();
        let freed = self.freed_bytes.own();
        let above = roof.wrapping_sub(allocated).cast_signed().max(0);
        let net = allocated.wrapping_sub(freed).cast_signed();
        (net.wrapping_add(above), allocated, freed)
    }

    /// Folds the running mark into the scope's and the batch's; gives the net and the
    /// batch's mark. The caller restarts it.
    #[inline]
    fn fold(&self) -> (i64, i64) {
        let (high, allocated, freed) = self.running();
        self.levels.note(high);
        let before = self.batch_high.load(Ordering::Relaxed);
        if high > before {
            self.batch_high.store(high, Ordering::Relaxed);
        }
        (
            allocated.wrapping_sub(freed).cast_signed(),
            high.max(before),
        )
    }

    /// Brings the global figures up to date with this slot, and says when to do so next.
    pub(crate) fn publish(&self, peak: &Peak) {
        self.bring_up_to_date(peak);
        // Not when it lies ahead: it may be earlier than the next batch because somebody has
        // asked for that, and must not be missed.
        if self.is_publication_due() {
            self.set_publish_at(self.allocated_bytes.own().wrapping_add(BATCH));
            // Nobody looks after a free who has called. So the mark only comes nearer here: one
            // that was reached, as by the owner's first request or a call, stays for the next event.
            let next_event = self.next_event.load(Ordering::Relaxed);
            if next_event.wrapping_sub(self.publish_at()).cast_signed() > 0 {
                self.arm();
            }
        }
    }

    /// Brings the global figures up to date with this slot.
    fn bring_up_to_date(&self, peak: &Peak) {
        // Before the mark is read: a handler that publishes in between, in a later era, leaves
        // the mark to that earlier one.
        let since = Era::numbered(self.era.load(Ordering::Relaxed));
        let (net, _) = self.fold();
        self.roof.set(self.allocated_bytes.own());
        // A swap, not a load and a store: a signal handler that publishes in between must not
        // make us add the same bytes twice.
        let before = self.published.swap(net, Ordering::Relaxed);
        let high = self.batch_high.swap(net, Ordering::Relaxed);
        let (change, high) = (net.wrapping_sub(before), high.wrapping_sub(before));
        apart::publishing(self, net, || {
            self.has_published_in(peak.publish(since, change, high));
        });
    }

    /// What the mark has seen is of this era.
    pub(crate) fn has_published_in(&self, era: Era) {
        self.era.store(era.number(), Ordering::Relaxed);
    }

    /// When `allocated_bytes` reaches this, a publication is due.
    fn publish_at(&self) -> u64 {
        self.roof_limit.load(Ordering::Relaxed).wrapping_sub(WINDOW)
    }

    fn set_publish_at(&self, at: u64) {
        let limit = at.wrapping_add(WINDOW);
        self.roof_limit.store(limit, Ordering::Relaxed);
    }

    /// Whether it has, or is further ahead than a batch: in the middle of an entry a
    /// signal handler has allocated more than that, which the entry then overwrote.
    fn is_publication_due(&self) -> bool {
        let left = self.publish_at().wrapping_sub(self.allocated_bytes.own());
        left.wrapping_sub(1) >= BATCH
    }

    // --- ownership

    /// The new owner's first act: remember where it began.
    pub(crate) fn begin(&self) {
        let now = self.figures();
        for (base, value) in self.base.iter().zip(now.as_array()) {
            base.set(value);
        }
        self.levels.restart(now.net());
        #[cfg(feature = "profile")]
        self.rest.end();
    }

    /// The owner's last act: leave nothing unpublished and nothing switched on.
    pub(crate) fn end(&self, peak: &Peak) {
        self.trace.store(ptr::null_mut(), Ordering::Relaxed);
        self.watchers.store(0, Ordering::Relaxed);
        self.publish(peak);
    }

    // --- figures

    /// All six figures; exact for the owner, a recent moment for any thread.
    /// The freed side is read first, as everywhere.
    #[inline]
    pub(crate) fn figures(&self) -> Figures {
        let freed_bytes = self.freed_bytes.read();
        let frees = self.frees.read();
        Figures {
            freed_bytes,
            frees,
            allocated_bytes: self.allocated_bytes.read(),
            allocations: self.allocations.read(),
            reallocations: self.reallocations.read(),
            failures: self.failures.read(),
        }
    }

    /// Where the present owner began.
    pub(crate) fn base(&self) -> Figures {
        Figures::from_array(self.base.each_ref().map(Counter::own))
    }

    /// Which tenancy of the slot this is.
    #[inline]
    pub(crate) fn tenancy(&self) -> u64 {
        self.state.load(Ordering::Relaxed) % Self::HOLD
    }

    /// Whether no thread owns it.
    pub(crate) fn is_nobodys(&self) -> bool {
        self.tenancy().is_multiple_of(2)
    }

    /// How far the unpublished high-water mark stands above `net`, for a reader
    /// on any thread. Clamped to what is possible when nothing is torn.
    pub(crate) fn headroom(&self, net: i64) -> u64 {
        // What is freed meanwhile makes it too low, not too high.
        let roof = self.roof.read();
        let high = roof.wrapping_sub(self.freed_bytes.read()).cast_signed();
        self.batch_high
            .load(Ordering::Relaxed)
            .max(high)
            .saturating_sub(net)
            .clamp(0, HELD_BACK.cast_signed())
            .cast_unsigned()
    }
}
