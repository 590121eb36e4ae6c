//! A scope on several threads: one book, a page for each slot it was on.
//!
//! ```text
//!   Carrier ── head ──▶ Page ──next──▶ Page ──▶ ...      only added, freed with the carrier
//!                       slot, tenancy, depth             who is writing, and how deep inside
//!                       sum                              what closed visits did
//!                       start, base                      where the open visit began
//!
//!   turn of a page:   0 ──open──▶ 1 ──close──▶ 2 ──open──▶ 3 ── ...
//!                     even: what was done is `sum`
//!                     odd:  it is the slot's figures now, less `base`
//! ```
//!
//! A page is written by the owner of its slot alone, so entering and leaving
//! take no lock, and nothing is allocated but a page at the first visit. A
//! thread that enters a scope that it is already in counts once: only the
//! outermost visit opens and closes.
//!
//! Opening writes what readers of a closed page do not look at, closing what
//! readers of an open one do not, and each ends with the next turn. So a reader
//! never has to wait for an owner that was stopped in between (or that `fork`
//! has left behind); it reads again only when the page has turned meanwhile.
//!
//! A visit that is never left (its guard forgotten) ends with the thread: the
//! slot's next owner has another tenancy, so what *it* does is not counted,
//! and neither is that visit any more.

use core::marker::PhantomData;

use crate::arena::{SysArc, SysBox};
use crate::error::Error;
use crate::installed;
use crate::ledger::{self, Figures, Slot};
#[cfg(feature = "profile")]
use crate::record::{self, Key};
use crate::scope::totals;
use crate::scope::wrapped::InScope;
use crate::stats::ScopeStats;
use crate::sync::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// The mark of a visit that found no memory for a level.
const NO_LEVEL: u32 = u32::MAX;

/// The book of one carried scope.
#[derive(Debug)]
pub(crate) struct Carrier {
    // Invariant: null, or a page from `SysBox::into_raw` that only `drop` takes back.
    head: AtomicPtr<Page>,
}

/// What one slot did for the scope.
#[derive(Debug)]
struct Page {
    next: *mut Page,
    slot: &'static Slot,
    /// Odd while a visit is open. See the module's picture.
    turn: AtomicU64,
    /// How many guards of this scope the owner holds. For the owner.
    depth: AtomicU32,
    // Written on opening:
    level: AtomicU32,
    tenancy: AtomicU64,
    start: Cells,
    /// `start` less `sum`.
    base: Cells,
    // Written on closing:
    sum: Cells,
    /// The highest net that the closed visits reached, and its possible excess.
    /// Only rise, so that readers of an open page may see them early.
    peak: AtomicI64,
    peak_error: AtomicI64,
}

impl Carrier {
    const fn new() -> Self {
        Self {
            head: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// A book that begins with a visit already open on `slot`.
    pub(super) fn begun(
        slot: &'static Slot,
        start: Figures,
        level: Option<u32>,
    ) -> Result<SysArc<Self>, Error> {
        let carrier = Self::new();
        let page = carrier.page(slot).ok_or(Error::no_memory())?;
        page.open(start, level.unwrap_or(NO_LEVEL));
        SysArc::try_new(carrier).ok_or(Error::no_memory())
    }

    /// The page of `slot`, made at its first visit. For the slot's owner.
    fn page(&self, slot: &'static Slot) -> Option<&Page> {
        if let Some(page) = self.pages().find(|page| core::ptr::eq(page.slot, slot)) {
            return Some(page);
        }
        let mut fresh = SysBox::try_new(Page::new(slot))?;
        loop {
            let head = self.head.load(Ordering::Relaxed);
            fresh.next = head;
            let raw = fresh.into_raw();
            // Release: the page's content, for readers and for later owners of the slot.
            match self
                .head
                .compare_exchange(head, raw, Ordering::Release, Ordering::Relaxed)
            {
                // SAFETY: the page is in the list now, so alive as long as `self`.
                Ok(_) => return Some(unsafe { &*raw }),
                // SAFETY: from `into_raw` just above; it did not get into the list.
                Err(_) => fresh = unsafe { SysBox::from_raw(raw) },
            }
        }
    }

    fn pages(&self) -> impl Iterator<Item = &Page> {
        let mut next = self.head.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            // SAFETY: the invariant of `head`, and each page's `next` was a head before it.
            let page = unsafe { next.as_ref() }?;
            next = page.next;
            Some(page)
        })
    }

    /// Enters on the calling thread; `false` without memory for a page.
    fn enter(&self, slot: &'static Slot) -> bool {
        let Some(page) = self.page(slot) else {
            return false;
        };
        let depth = page.depth_of_owner();
        if depth == 0 {
            let (start, level) = slot.open_level(ledger::peak());
            page.open(start, level.unwrap_or(NO_LEVEL));
        } else {
            page.depth.store(depth + 1, Ordering::Relaxed);
        }
        true
    }

    /// Leaves on the calling thread, which owns `slot`.
    pub(super) fn leave(&self, slot: &'static Slot) {
        let Some(page) = self.pages().find(|page| core::ptr::eq(page.slot, slot)) else {
            return;
        };
        match page.depth_of_owner() {
            0 => {}
            1 => page.close(),
            depth => page.depth.store(depth - 1, Ordering::Relaxed),
        }
    }

    /// The sum over all pages.
    pub(super) fn stats(&self) -> ScopeStats {
        let own = ledger::own();
        let mut all = Figures::default();
        let mut peaks: u64 = 0;
        let mut lowest: u64 = 0;
        for page in self.pages() {
            let visit = page.read(own);
            all = all.plus(&visit.done);
            let peak = u64::try_from(visit.peak).unwrap_or(0);
            let error = u64::try_from(visit.peak_error).unwrap_or(0);
            peaks = peaks.saturating_add(peak);
            lowest = lowest.max(peak.saturating_sub(error));
        }
        let mut stats = totals(&all);
        let one_page = self.pages().nth(1).is_none();
        let net = u64::try_from(all.net()).unwrap_or(0);
        stats.peak_bytes = peaks;
        // One thread's peak is the scope's, or all but what the page itself does not know. Of
        // several we know only that they need not have been at their peaks together: what is alive
        // now was alive at once, and so much is sure.
        stats.peak_error_bytes = if one_page {
            peaks.saturating_sub(lowest)
        } else {
            peaks.saturating_sub(net)
        };
        stats
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let mut next = self.head.load(Ordering::Acquire);
        while !next.is_null() {
            // SAFETY: each page came from `into_raw`, is in the list once, and its last user is us.
            let page = unsafe { SysBox::from_raw(next) };
            next = page.next;
        }
    }
}

/// What a page says at one moment.
struct Visit {
    done: Figures,
    peak: i64,
    peak_error: i64,
}

impl Page {
    fn new(slot: &'static Slot) -> Self {
        Self {
            next: core::ptr::null_mut(),
            slot,
            turn: AtomicU64::new(0),
            depth: AtomicU32::new(0),
            level: AtomicU32::new(NO_LEVEL),
            tenancy: AtomicU64::new(0),
            start: Cells::new(),
            base: Cells::new(),
            sum: Cells::new(),
            peak: AtomicI64::new(0),
            peak_error: AtomicI64::new(0),
        }
    }

    /// The owner's depth; a visit that an earlier tenant never left is not its.
    fn depth_of_owner(&self) -> u32 {
        if self.tenancy.load(Ordering::Relaxed) == self.slot.tenancy() {
            self.depth.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// Opens a visit. For the owner.
    fn open(&self, start: Figures, level: u32) {
        let mut turn = self.turn.load(Ordering::Relaxed);
        if !turn.is_multiple_of(2) {
            // An earlier tenant never left: its visit ends here, and counts nothing.
            turn = turn.wrapping_add(1);
            self.turn.store(turn, Ordering::Release);
        }
        // A reader of the last open turn that sees any of these sees that the turn is over.
        fence(Ordering::Release);
        self.tenancy.store(self.slot.tenancy(), Ordering::Relaxed);
        self.start.set(&start);
        self.base.set(&start.since(&self.sum.get()));
        self.level.store(level, Ordering::Relaxed);
        self.depth.store(1, Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Release);
    }

    /// Closes the open visit. For the owner.
    fn close(&self) {
        let level = self.level.load(Ordering::Relaxed);
        let high = (level != NO_LEVEL).then(|| self.slot.close_level(level));
        let visit = self.visit(&self.slot.figures(), high);
        // A reader of the last closed turn that sees any of these sees that the turn is over.
        fence(Ordering::Release);
        self.sum.set(&visit.done);
        self.peak_error.store(visit.peak_error, Ordering::Relaxed);
        self.peak.store(visit.peak, Ordering::Relaxed);
        self.depth.store(0, Ordering::Relaxed);
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Release);
    }

    /// The closed visits with the open one, which has come to `now` and `high`.
    fn visit(&self, now: &Figures, high: Option<i64>) -> Visit {
        let base = self.base.get();
        // `base` holds the net that the earlier visits left, on which this one's stands.
        let (top, excess) = if let Some(high) = high {
            (high.wrapping_sub(base.net()), 0)
        } else {
            let start = self.start.get();
            let allocated = now.since(&start).allocated_bytes.cast_signed();
            let left = start.net().wrapping_sub(base.net());
            (left.saturating_add(allocated), allocated)
        };
        Visit {
            done: now.since(&base),
            peak: self.peak.load(Ordering::Relaxed).max(top),
            peak_error: self.peak_error.load(Ordering::Relaxed).max(excess),
        }
    }

    /// What the page says, for any thread; `own` is the caller's slot.
    fn read(&self, own: Option<&'static Slot>) -> Visit {
        let mine = own.is_some_and(|own| core::ptr::eq(own, self.slot));
        loop {
            let turn = self.turn.load(Ordering::Acquire);
            let open = if turn.is_multiple_of(2) {
                None
            } else {
                self.read_open(mine)
            };
            let visit = open.unwrap_or_else(|| self.read_closed());
            fence(Ordering::Acquire);
            if self.turn.load(Ordering::Relaxed) == turn {
                return visit;
            }
        }
    }

    /// The closed visits alone.
    fn read_closed(&self) -> Visit {
        Visit {
            done: self.sum.get(),
            peak: self.peak.load(Ordering::Relaxed),
            peak_error: self.peak_error.load(Ordering::Relaxed),
        }
    }

    /// With the open visit; `None` when its thread has ended without leaving.
    fn read_open(&self, mine: bool) -> Option<Visit> {
        let level = self.level.load(Ordering::Relaxed);
        let now = self.slot.figures();
        // After the figures: if the slot's next owner has added to them, it shows here.
        if self.tenancy.load(Ordering::Relaxed) != self.slot.tenancy() {
            return None;
        }
        // Only the owner may look at its levels. For another thread's open visit the net so far is
        // the least that the peak can be, and everything allocated the most.
        let high = (mine && level != NO_LEVEL).then(|| self.slot.level_high(level));
        Some(self.visit(&now, high))
    }
}

/// Six figures that one thread writes and others read.
#[derive(Debug)]
struct Cells([AtomicU64; 6]);

impl Cells {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 6])
    }

    fn set(&self, figures: &Figures) {
        for (cell, value) in self.0.iter().zip(figures.as_array()) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Figures {
        Figures::from_array(self.0.each_ref().map(|cell| cell.load(Ordering::Relaxed)))
    }
}

/// Carries a scope to other threads, closures and futures. From
/// [`Scope::handle`](crate::Scope::handle).
///
/// What the scope reports is the sum over all threads that it was on, for the
/// time that it was on them. A thread that enters it twice counts once.
#[derive(Clone, Debug)]
pub struct ScopeHandle {
    carrier: SysArc<Carrier>,
    /// The recording that the handle was made in; it is carried along.
    #[cfg(feature = "profile")]
    key: Option<Key>,
}

impl ScopeHandle {
    pub(super) fn new(carrier: SysArc<Carrier>) -> Self {
        Self {
            carrier,
            #[cfg(feature = "profile")]
            key: Key::current(),
        }
    }

    /// A handle of a scope that is on no thread yet.
    pub(crate) fn detached() -> Result<Self, Error> {
        installed::require()?;
        SysArc::try_new(Carrier::new())
            .map(Self::new)
            .ok_or(Error::no_memory())
    }

    /// Enters the scope on the calling thread until the guard is dropped.
    ///
    /// A thread that is ending and has no entries of its own any more, or one
    /// whose page the system has no memory for, is not counted;
    /// [`Entered::is_counted`] tells.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let scope = heapledger::Scope::enter();
    /// let handle = scope.handle();
    /// std::thread::scope(|threads| {
    ///     threads.spawn(|| {
    ///         let _inside = handle.enter();
    ///         drop(std::hint::black_box(vec![0u8; 500]));
    ///     });
    /// });
    /// assert!(scope.stats().allocated_bytes >= 500);
    /// ```
    pub fn enter(&self) -> Entered<'_> {
        let slot = ledger::own().filter(|slot| self.carrier.enter(slot));
        Entered {
            #[cfg(feature = "profile")]
            visit: self.key.map(Key::enter),
            handle: self,
            slot,
            not_send: PhantomData,
        }
    }

    /// What has happened in the scope so far, summed over the threads that it
    /// was on, with what those that are still inside have done up to now.
    ///
    /// `peak_bytes` is exact when all happened on one thread. With several it
    /// is the sum of each thread's own peak, which is the most that can have
    /// been alive at once, and `peak_error_bytes` is by how much that may be
    /// too high.
    pub fn stats(&self) -> ScopeStats {
        self.carrier.stats()
    }

    /// A closure that runs `body` inside the scope, on whatever thread.
    pub fn wrap<R, F: FnOnce() -> R>(&self, body: F) -> impl FnOnce() -> R + use<R, F> {
        let handle = self.clone();
        move || {
            let _inside = handle.enter();
            body()
        }
    }

    /// A future that is inside the scope whenever it is polled, and while it
    /// is dropped; on a multi-threaded runtime on whatever thread that is.
    pub fn wrap_future<F>(&self, future: F) -> InScope<F> {
        InScope::new(self.clone(), future)
    }
}

/// A thread's visit to a carried scope; dropping it leaves. From
/// [`ScopeHandle::enter`].
///
/// It stays on its thread, so it cannot be held across an `.await` of a future
/// that moves between threads; use [`ScopeHandle::wrap_future`] there.
///
/// ```compile_fail,E0277
/// fn send(guard: heapledger::Entered<'static>) {
///     std::thread::spawn(move || drop(guard));
/// }
/// ```
#[derive(Debug)]
#[must_use = "the thread leaves the scope when this is dropped"]
pub struct Entered<'a> {
    #[cfg(feature = "profile")]
    #[expect(dead_code, reason = "held until the thread leaves the scope")]
    visit: Option<record::Visit>,
    handle: &'a ScopeHandle,
    slot: Option<&'static Slot>,
    not_send: PhantomData<*const ()>,
}

impl Entered<'_> {
    /// Whether what the thread does is counted; see [`ScopeHandle::enter`].
    pub const fn is_counted(&self) -> bool {
        self.slot.is_some()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let here = ledger::own();
        if let Some(slot) = self.slot
            && here.is_some_and(|own| core::ptr::eq(own, slot))
        {
            self.handle.carrier.leave(slot);
        }
    }
}
