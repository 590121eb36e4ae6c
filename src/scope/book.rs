//! The book of a carried scope: a page for each slot it was on.
//!
//! ```text
//!   Carrier ── head ──▶ Page ──next──▶ Page ──▶ ...      only added, freed with the carrier
//!                       slot, tenancy, depth             who is writing, and how deep inside
//!                       sum                              what closed visits did
//!                       start, base                      where the open visit began
//! ```
//!
//! Entering and leaving take no lock, and nothing is allocated but a page at
//! the first visit of a slot.

use crate::arena::{SysArc, SysBox};
use crate::error::Error;
use crate::ledger::{self, Figures, Slot};
use crate::scope::page::Page;
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
        level: Option<u32>,
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

    /// Enters on the calling thread; `false` without memory for a page.
    pub(super) fn enter(&self, slot: &'static Slot) -> bool {
        let Some(page) = self.page(slot) else {
            return false;
        };
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
