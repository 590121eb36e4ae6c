//! What one slot did for a carried scope.
//!
//! ```text
//!   turn of a page:   0 ──open──▶ 1 ──close──▶ 2 ──open──▶ 3 ── ...
//!                     even: what was done is `sum`
//!                     odd:  it is the slot's figures now, less `base`
//! ```
//!
//! A page is written by the owner of its slot alone, so entering and leaving
//! take no lock. A thread that enters a scope that it is already in counts
//! once: only the outermost visit opens and closes.
//!
//! Opening writes what readers of a closed page do not look at, closing what
//! readers of an open one do not, and each ends with the next turn. So a reader
//! never has to wait for an owner that was stopped in between (or that `fork`
//! has left behind); it reads again only when the page has turned meanwhile. `models` has
//! it, and each ordering that it needs.
//!
//! A visit that is never left (its guard forgotten) ends with the thread. It
//! holds the slot then: nobody takes that before the visit is closed, so what it
//! came to is not lost, nor mixed with what the next owner does. Whoever reads the
//! book next, or is the next thread to enter for the first time, closes such
//! visits; of several the one who marks the turn.

use core::num::NonZeroU32;

use crate::ledger::{Figures, Slot};
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

/// The mark of a visit that found no memory for a level.
const NO_LEVEL: u32 = 0;

/// The mark of an open turn that somebody closes for a thread that has ended.
const CLOSING: u64 = 1 << 63;

/// What one slot did for the scope.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) next: *mut Page,
    slot: &'static Slot,
    /// Odd while a visit is open. See the module's picture.
    turn: AtomicU64,
    /// How many guards of this scope the owner holds. For the owner.
    depth: AtomicU32,
    /// Whose the last visit was. For the owner.
    tenancy: AtomicU64,
    // Written on opening:
    level: AtomicU32,
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

/// What a page says at one moment.
pub(super) struct Visit {
    pub(super) done: Figures,
    pub(super) peak: i64,
    pub(super) peak_error: i64,
}

impl Page {
    pub(super) fn new(slot: &'static Slot) -> Self {
        Self {
            next: core::ptr::null_mut(),
            slot,
            turn: AtomicU64::new(0),
            depth: AtomicU32::new(0),
            tenancy: AtomicU64::new(0),
            level: AtomicU32::new(NO_LEVEL),
            start: Cells::new(),
            base: Cells::new(),
            sum: Cells::new(),
            peak: AtomicI64::new(0),
            peak_error: AtomicI64::new(0),
        }
    }

    /// Whether the page is that of `slot`.
    pub(super) fn is_of(&self, slot: &'static Slot) -> bool {
        core::ptr::eq(self.slot, slot)
    }

    /// Whether the owner comes for the first time; asked once. For the owner.
    pub(super) fn is_first_visit(&self) -> bool {
        let tenancy = self.slot.tenancy();
        let is_first = self.tenancy.load(Ordering::Relaxed) != tenancy;
        if is_first {
            self.tenancy.store(tenancy, Ordering::Relaxed);
        }
        is_first
    }

    /// Enters once more. For the owner.
    #[cfg(not(loom))]
    pub(super) fn enter(&self) {
        let depth = self.depth.load(Ordering::Relaxed);
        if depth == 0 {
            let (start, level) = self.slot.open_level(crate::ledger::peak());
            self.open(start, level);
        } else {
            self.depth.store(depth.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Leaves once. For the owner.
    pub(super) fn leave(&self) {
        match self.depth.load(Ordering::Relaxed) {
            0 => {}
            1 => self.close(),
            depth => self.depth.store(depth - 1, Ordering::Relaxed),
        }
    }

    /// Opens a visit. For the owner; the last owner's visit is closed, or we would not own the slot.
    pub(super) fn open(&self, start: Figures, level: Option<NonZeroU32>) {
        self.slot.begin_visit();
        let turn = self.turn.load(Ordering::Relaxed);
        // A reader of the last open turn that sees any of these sees that the turn is over.
        fence(Ordering::Release);
        self.start.set(&start);
        self.base.set(&start.since(&self.sum.get()));
        self.level
            .store(level.map_or(NO_LEVEL, NonZeroU32::get), Ordering::Relaxed);
        self.depth.store(1, Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Release);
    }

    /// Closes the open visit. For the owner.
    fn close(&self) {
        let level = self.level.load(Ordering::Relaxed);
        let high = (level != NO_LEVEL).then(|| self.slot.level_high(level));
        self.end(self.turn.load(Ordering::Relaxed), high);
        // After the turn: a handler that reads an open one looks at its level.
        if high.is_some() {
            self.slot.leave_level(level);
        }
        self.slot.end_visit();
    }

    /// Closes the open visit of a thread that has ended in it. For any thread.
    pub(super) fn close_if_held(&self) {
        // Acquire: the slot of this very turn, and not an earlier owner's, is looked at below.
        let turn = self.turn.load(Ordering::Acquire);
        if turn.is_multiple_of(2) || turn & CLOSING != 0 || !self.slot.is_held() {
            return;
        }
        // If the turn is still the same, its visit is one of those that hold the slot.
        let marked =
            self.turn
                .compare_exchange(turn, turn | CLOSING, Ordering::Relaxed, Ordering::Relaxed);
        if marked.is_ok() {
            let level = self.level.load(Ordering::Relaxed);
            let high = (level != NO_LEVEL).then(|| self.slot.level_high(level));
            self.end(turn, high);
            self.slot.let_go();
        }
    }

    /// Writes what the visit came to, and ends its turn.
    fn end(&self, turn: u64, high: Option<i64>) {
        let visit = self.visit(&self.slot.figures(), high);
        // A reader of the last closed turn that sees any of these sees that the turn is over.
        fence(Ordering::Release);
        self.sum.set(&visit.done);
        self.peak_error.store(visit.peak_error, Ordering::Relaxed);
        self.peak.store(visit.peak, Ordering::Relaxed);
        self.depth.store(0, Ordering::Relaxed);
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
    pub(super) fn read(&self, own: Option<&'static Slot>) -> Visit {
        let mine = own.is_some_and(|own| self.is_of(own));
        loop {
            let turn = self.turn.load(Ordering::Acquire);
            let visit = if turn.is_multiple_of(2) {
                self.read_closed()
            } else {
                self.read_open(mine)
            };
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

    /// With the open visit. If its slot has a new owner meanwhile, and that one's figures are
    /// seen, it is seen that the turn is over, too.
    fn read_open(&self, mine: bool) -> Visit {
        let level = self.level.load(Ordering::Relaxed);
        let now = self.slot.figures();
        // Only the owner may look at its levels. For another thread's open visit the net so far is
        // the least that the peak can be, and everything allocated the most.
        let high = (mine && level != NO_LEVEL).then(|| self.slot.level_high(level));
        self.visit(&now, high)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // A visit that was never left: nobody will ask any more what it came to.
        if !self.turn.load(Ordering::Relaxed).is_multiple_of(2) {
            self.slot.let_go();
        }
    }
}

/// Six figures that one thread writes and others read.
#[derive(Debug)]
struct Cells([AtomicU64; 6]);

impl Cells {
    fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(0)))
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

#[cfg(all(test, loom))]
mod models;
