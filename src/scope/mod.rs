//! Scopes: what one piece of code does to the heap, whatever runs beside it.
//!
//! A scope is the difference between two readings of the thread's own page, so
//! it is exact while other threads allocate, takes no memory from the heap and
//! costs a few loads. A scope that other threads enter too keeps a book of its
//! own, in [`book`].

#[expect(unsafe_code, reason = "a list of pages that only grows")]
mod book;
mod carried;
mod page;
#[expect(unsafe_code, reason = "pins the future that it holds")]
mod wrapped;

use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroU32;
use core::panic::Location;

use once_cell::unsync::OnceCell;

use crate::error::Error;
use crate::installed;
use crate::ledger::{self, Figures, Slot};
use crate::reading::or_panic;
use crate::stats::ScopeStats;

use book::Carrier;
pub use carried::{Entered, ScopeHandle};
pub use wrapped::InScope;

use crate::arena::SysArc;

/// Measures what the calling thread does to the heap while this guard lives.
///
/// Counted are the thread's own calls: its allocations, and its frees of any
/// block, also of blocks that are older than the scope. What other threads do
/// is not counted, unless the scope is carried to them with a
/// [`handle`](Self::handle). Scopes nest, and each has its own exact peak.
/// A thread of a pool that waits in the scope for its own jobs may run others'
/// meanwhile, as rayon's do: that is what the thread does, and is counted.
///
/// Dropping the guard leaves the scope. Guards dropped in another order than
/// they were made in, or while a panic unwinds, are still exact each. A guard
/// that is forgotten leaves its scope open on the thread for good, which costs
/// sixteen bytes (of one that was carried also its book, and the thread's page of the
/// ledger) and disturbs no other scope.
///
/// Entering and leaving allocate nothing on the program's heap.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let scope = heapledger::Scope::enter();
/// let word = std::hint::black_box(String::from("scope"));
/// let stats = scope.finish();
/// assert_eq!((stats.allocations, stats.allocated_bytes), (1, 5));
/// # drop(word);
/// ```
///
/// A scope stays on its thread; to take it to another, carry it:
///
/// ```compile_fail,E0277
/// let scope = heapledger::Scope::enter();
/// std::thread::spawn(move || drop(scope));
/// ```
#[must_use = "a scope measures until it is dropped"]
pub struct Scope {
    slot: &'static Slot,
    start: Figures,
    /// `None` when there was no memory to keep a mark of our own.
    level: Option<NonZeroU32>,
    carrier: OnceCell<SysArc<Carrier>>,
    /// The slot is the thread's own.
    not_send: PhantomData<*const ()>,
}

impl Scope {
    /// Enters a scope on the calling thread.
    ///
    /// # Panics
    /// When the tracking allocator is not the program's global allocator, when the
    /// thread's locals are already torn down, or when there is no memory for its
    /// entries: a scope that could only report nothing. See
    /// [`try_enter`](Self::try_enter).
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::Scope;
    /// use std::hint::black_box;
    ///
    /// let outer = Scope::enter();
    /// let kept = black_box(vec![0u8; 100]);
    /// let inner = Scope::enter();
    /// drop(black_box(vec![0u8; 40]));
    /// assert_eq!(inner.finish().peak_bytes, 40);
    /// assert_eq!(outer.finish().peak_bytes, 140);
    /// # drop(kept);
    /// ```
    #[inline]
    #[track_caller]
    pub fn enter() -> Self {
        or_panic(Self::try_enter())
    }

    /// [`enter`](Self::enter), with an error instead of a panic.
    ///
    /// # Errors
    /// [`Error::is_not_installed`], [`Error::is_thread_ending`] and, of a thread's
    /// own entries, [`Error::is_no_memory`].
    ///
    /// ```
    /// let scope = heapledger::Scope::try_enter();
    /// let words = "the work, measured or not".split(' ').count();
    /// match scope.map(heapledger::Scope::finish) {
    ///     Ok(stats) => println!("{words} words\n{stats}"),
    ///     // As in this example, which has no `#[global_allocator]`.
    ///     Err(error) => assert!(error.is_not_installed()),
    /// }
    /// ```
    #[inline]
    pub fn try_enter() -> Result<Self, Error> {
        installed::require()?;
        let slot = ledger::own_or_error()?;
        let (start, level) = slot.open_level(ledger::peak());
        Ok(Self {
            slot,
            start,
            level,
            carrier: OnceCell::new(),
            not_send: PhantomData,
        })
    }

    /// What has happened in the scope so far.
    ///
    /// For a scope that was carried to other threads, the sum over them; see
    /// [`ScopeHandle::stats`].
    ///
    /// # Panics
    /// When the guard was kept in a thread local whose destructor runs after
    /// the thread has given its page back: the figures there are another
    /// thread's by then.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let scope = heapledger::Scope::enter();
    /// let page = std::hint::black_box(vec![0u8; 4_096]);
    /// assert_eq!(scope.stats().net_bytes(), 4_096);
    /// drop(page);
    /// assert_eq!(scope.stats().net_bytes(), 0); // it goes on
    /// ```
    #[track_caller]
    pub fn stats(&self) -> ScopeStats {
        or_panic(self.so_far())
    }

    fn so_far(&self) -> Result<ScopeStats, Error> {
        if let Some(carrier) = self.carrier.get() {
            return Ok(carrier.stats());
        }
        if !self.is_here() {
            return Err(Error::thread_ending());
        }
        let now = self.slot.figures();
        let high = self.level.map(|level| self.slot.level_high(level.get()));
        Ok(scope_stats(&self.start, &now, high))
    }

    /// Leaves the scope and gives what happened in it.
    ///
    /// # Panics
    /// As [`stats`](Self::stats).
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let mut worst = 0;
    /// for len in [10, 500, 30] {
    ///     let scope = heapledger::Scope::enter();
    ///     drop(std::hint::black_box(vec![0u8; len]));
    ///     worst = worst.max(scope.finish().peak_bytes);
    /// }
    /// assert_eq!(worst, 500);
    /// ```
    #[track_caller]
    pub fn finish(self) -> ScopeStats {
        self.stats()
    }

    /// A handle with which other threads, closures and futures enter this
    /// scope. It can be cloned and sent, and outlives the guard.
    ///
    /// Its own memory does not come from the program's heap.
    ///
    /// # Panics
    /// When the system has no memory for it, and where [`stats`](Self::stats)
    /// would panic; see [`try_handle`](Self::try_handle).
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let scope = heapledger::Scope::enter();
    /// let work = scope.handle().wrap(|| drop(std::hint::black_box(vec![0u8; 500])));
    /// std::thread::spawn(work).join().unwrap();
    /// assert!(scope.stats().allocated_bytes >= 500);
    /// ```
    #[track_caller]
    pub fn handle(&self) -> ScopeHandle {
        or_panic(self.try_handle())
    }

    /// [`handle`](Self::handle), with an error instead of a panic.
    ///
    /// # Errors
    /// [`Error::is_no_memory`]; [`Error::is_thread_ending`] where
    /// [`stats`](Self::stats) would panic.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let scope = heapledger::Scope::enter();
    /// let handle = scope.try_handle()?;
    /// drop(scope); // this thread has left it
    /// let work = handle.wrap(|| drop(std::hint::black_box(vec![0u8; 500])));
    /// std::thread::spawn(work).join().unwrap();
    /// assert_eq!(handle.stats().allocated_bytes, 500);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn try_handle(&self) -> Result<ScopeHandle, Error> {
        self.carrier
            .get_or_try_init(|| {
                if !self.is_here() {
                    return Err(Error::thread_ending());
                }
                Carrier::begun(self.slot, self.start, self.level)
            })
            .cloned()
            .map(ScopeHandle::new)
    }

    /// Whether the slot is still ours: a guard kept in a thread local may be
    /// dropped after the slot has gone to another thread.
    #[inline]
    fn is_here(&self) -> bool {
        ledger::is_own(self.slot)
    }
}

impl Scope {
    /// Leaves a scope that was carried; apart, so that the usual one saves no registers.
    #[cold]
    #[inline(never)]
    fn leave_carried(&self, carrier: &Carrier) {
        if self.is_here() {
            carrier.leave(self.slot);
        }
    }
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        if let Some(carrier) = self.carrier.take() {
            self.leave_carried(&carrier);
        } else if let Some(level) = self.level
            && self.is_here()
        {
            self.slot.leave_level(level.get());
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("stats", &self.so_far())
            .finish()
    }
}

/// Runs `body` in a scope and gives its result with what it did to the heap.
///
/// This thread only, exact, with the peak inside. See [`Scope`]. What `body`
/// gives back and still has to be run (a future, an iterator) is not counted:
/// for a future there is [`measure_future`].
///
/// # Panics
/// As [`Scope::enter`]; a panic of `body` passes through.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let (sum, stats) = heapledger::measure(|| {
///     let numbers = std::hint::black_box(vec![1u64; 1_000]);
///     numbers.iter().sum::<u64>()
/// });
/// assert_eq!(sum, 1_000);
/// assert_eq!((stats.peak_bytes, stats.net_bytes()), (8_000, 0));
/// ```
#[inline]
#[track_caller]
pub fn measure<R>(body: impl FnOnce() -> R) -> (R, ScopeStats) {
    let scope = Scope::enter();
    let result = body();
    let stats = scope.finish();
    (result, stats)
}

/// Runs `future` to its end in a scope and gives its result with what it did
/// to the heap, on whatever threads it was polled.
///
/// Counted is what the polls of this future do, and its being dropped, not
/// what the runtime or other tasks do in between. Tasks that it spawns are
/// counted only if the scope is carried to them. A poll on a thread that cannot be
/// counted ([`ScopeHandle::enter`] says when) is left out.
///
/// # Panics
/// At the first poll, when the tracking allocator is not the program's global
/// allocator, or the system has no memory for the scope's handle; the message says
/// where this was called. A panic of `future` passes through.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let (len, stats) = heapledger::measure_future(async {
///     std::hint::black_box(vec![0u8; 256]).len()
/// })
/// .await;
/// assert_eq!((len, stats.allocated_bytes), (256, 256));
/// # });
/// ```
#[track_caller]
pub fn measure_future<F: Future>(future: F) -> impl Future<Output = (F::Output, ScopeStats)> {
    let caller = Location::caller();
    async move {
        let handle = match ScopeHandle::detached() {
            Ok(handle) => handle,
            // Whoever polls is a runtime, of whose line nobody learns anything.
            Err(error) => panic!("{error}\nmeasure_future was called at {caller}"),
        };
        let result = handle.wrap_future(future).await;
        (result, handle.stats())
    }
}

/// The figures of a scope on one thread; `high` is its level's mark.
fn scope_stats(start: &Figures, now: &Figures, high: Option<i64>) -> ScopeStats {
    let done = now.since(start);
    let mut stats = totals(&done);
    if let Some(high) = high {
        let peak = high.wrapping_sub(start.net());
        stats.peak_bytes = u64::try_from(peak).unwrap_or(0);
    } else {
        // Without a mark all we know is that no more than everything was alive at once.
        stats.peak_bytes = done.allocated_bytes;
        stats.peak_error_bytes = done.allocated_bytes;
    }
    stats
}

/// The figures of a scope without its peak.
fn totals(done: &Figures) -> ScopeStats {
    ScopeStats {
        peak_bytes: 0,
        peak_error_bytes: 0,
        allocated_bytes: done.allocated_bytes,
        freed_bytes: done.freed_bytes,
        allocations: done.allocations,
        frees: done.frees,
        reallocations: done.reallocations,
        failures: done.failures,
    }
}
