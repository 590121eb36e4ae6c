//! The book of a carried scope: a page for each slot it was on.
//!
//! ```text
//!   Carrier ── head ──▶ Page ──next──▶ Page ──▶ ...      only added, freed with the carrier
//!                       slot, depth                      who is writing, and how deep inside
//!                       sum                              what closed visits did
//!                       start, base                      where the open visit began
//! ```
//!
//! Entering and leaving take no lock, and nothing is allocated but a page at
//! the first visit of a slot.

use core::num::NonZeroU32;

use crate::arena::{SysArc, SysBox};
use crate::error::Error;
use crate::ledger::{self, Figures, Slot};
use crate::scope::page::{Page, Visit};
use crate::scope::totals;
use crate::stats::ScopeStats;
use crate::sync::{AtomicPtr, Ordering};

/// The book of one carried scope.
#[derive(Debug)]
pub(super) struct Carrier {
    // Invariant: null, or a page from `SysBox::into_raw` that only `drop` takes back.
    head: AtomicPtr<Page>,
}

impl Carrier {
    pub(super) const fn new() -> Self {
        Self {
            head: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// A book that begins with a visit already open on `slot`.
    pub(super) fn begun(
        slot: &'static Slot,
        start: Figures,
        level: Option<NonZeroU32>,
    ) -> Result<SysArc<Self>, Error> {
        let carrier = Self::new();
        let page = carrier.page(slot).ok_or(Error::no_memory())?;
        page.open(start, level);
        SysArc::try_new(carrier).ok_or(Error::no_memory())
    }

    /// The page of `slot`, made at its first visit. For the slot's owner.
    fn page(&self, slot: &'static Slot) -> Option<&Page> {
        if let Some(page) = self.pages().find(|page| page.is_of(slot)) {
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

    /// Closes the visits of threads that have ended in them.
    #[cold]
    fn close_held(&self) {
        self.pages().for_each(Page::close_if_held);
    }

    /// Enters on the calling thread; `false` without memory for a page.
    pub(super) fn enter(&self, slot: &'static Slot) -> bool {
        let Some(page) = self.page(slot) else {
            return false;
        };
        // Here, so that threads that never leave take turns on few slots, even if nobody reads.
        if page.is_first_visit() {
            self.close_held();
        }
        page.enter();
        true
    }

    /// Leaves on the calling thread, which owns `slot`.
    pub(super) fn leave(&self, slot: &'static Slot) {
        if let Some(page) = self.pages().find(|page| page.is_of(slot)) {
            page.leave();
        }
    }

    /// The sum over all pages.
    pub(super) fn stats(&self) -> ScopeStats {
        self.close_held();
        self.read_closely(ledger::own()).stats()
    }

    /// Adds up all pages until little was freed meanwhile, or takes the best of some tries;
    /// `own` is the caller's slot.
    ///
    /// All freed sides come before any allocated side, so what one thread allocates and another
    /// frees never makes the net too low: [`crate::ledger`] has the argument. It may be too high
    /// by what was freed since, and reading the freed sides once more tells how much that is.
    /// A page may turn between the two: each side of it only rises, whatever the turn.
    fn read_closely(&self, own: Option<&'static Slot>) -> Reading {
        let (mut reading, slack) = ledger::read_closely(
            || self.read_strikes(),
            |strikes| self.read_entries(strikes, own),
        );
        reading.slack = slack;
        // Not while it was read: a page that has come since may have freed what the only one
        // then had at its peak. One where nothing was done has not.
        let is_used = |page: &&Page| page.read(None).done != Figures::default();
        reading.pages = self.pages().filter(is_used).count();
        reading
    }

    /// The freed sides of all pages.
    fn read_strikes(&self) -> Figures {
        let mut all = Figures::default();
        for page in self.pages() {
            let done = page.read(None).done;
            all.freed_bytes = all.freed_bytes.wrapping_add(done.freed_bytes);
            all.frees = all.frees.wrapping_add(done.frees);
        }
        all
    }

    /// The allocated sides of all pages and their peaks, to go with the freed sides `strikes`,
    /// which were read before.
    fn read_entries(&self, strikes: Figures, own: Option<&'static Slot>) -> Reading {
        let mut reading = Reading::default();
        for page in self.pages() {
            reading.note(&page.read(own));
        }
        reading.done.freed_bytes = strikes.freed_bytes;
        reading.done.frees = strikes.frees;
        reading
    }
}

/// One walk over the pages.
#[derive(Debug, Default)]
struct Reading {
    done: Figures,
    /// On how many something was done in the end.
    pages: usize,
    /// The most that can have been alive at once: the sum of what each page may have had.
    peaks: u64,
    /// The most that any page has surely had at once.
    lowest: u64,
    /// Bytes freed while this was read: by so much the net may be too high.
    slack: u64,
}

impl Reading {
    fn note(&mut self, visit: &Visit) {
        let peak = u64::try_from(visit.peak).unwrap_or(0);
        let error = u64::try_from(visit.peak_error).unwrap_or(0);
        self.done = self.done.plus(&visit.done);
        self.peaks = self.peaks.saturating_add(peak);
        self.lowest = self.lowest.max(peak.saturating_sub(error));
    }

    fn stats(&self) -> ScopeStats {
        let net = u64::try_from(self.done.net()).unwrap_or(0);
        // What was alive when the entries were read was alive at once.
        let mut sure = net.saturating_sub(self.slack);
        // One page's peak is the scope's, or all but what the page itself does not know. Of several
        // we do not know that they were at their peaks together.
        if self.pages == 1 {
            sure = sure.max(self.lowest);
        }
        let mut stats = totals(&self.done);
        stats.peak_bytes = self.peaks.max(net);
        stats.peak_error_bytes = stats.peak_bytes.saturating_sub(sure);
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
