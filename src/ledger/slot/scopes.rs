//! What scopes ask of a slot: a level for each, and who has yet to learn what the owner did.

use core::num::NonZeroU32;

use super::Slot;
use crate::ledger::figures::Figures;
use crate::ledger::peak::{Peak, WINDOW};
use crate::sync::Ordering;

impl Slot {
    /// One that holds a slot, in its state: [`crate::ledger::registry`] has the picture.
    pub(crate) const HOLD: u64 = 1 << 32;

    /// Opens a scope's level; gives where it began, and the level's index
    /// unless there was no memory for it.
    #[inline]
    pub(crate) fn open_level(&self, peak: &Peak) -> (Figures, Option<NonZeroU32>) {
        let (net, high) = self.fold();
        // The roof is lowered below: falls in many scopes, none of them long, would never
        // be seen.
        if high.wrapping_sub(net) > WINDOW.cast_signed() {
            self.publish_fall(peak);
        }
        // From one reading: what a signal handler does before is not the scope's, and what
        // it does after that makes the mark too low, not too high.
        let start = self.figures();
        let level = self.levels.open(start.net());
        self.roof.set(start.allocated_bytes);
        (start, level)
    }

    /// The highest net bytes since the level was opened. For the owner, or when it
    /// [is held](Self::is_held).
    pub(crate) fn level_high(&self, level: u32) -> i64 {
        let (high, ..) = self.running();
        self.levels.high(level).max(high)
    }

    /// Closes a level; gives the highest net bytes since it was opened.
    #[cfg(test)]
    pub(crate) fn close_level(&self, level: u32) -> i64 {
        let high = self.level_high(level);
        self.leave_level(level);
        high
    }

    /// Closes a level. The running mark goes on: what it has seen, the level below
    /// has seen as well.
    #[inline]
    pub(crate) fn leave_level(&self, level: u32) {
        self.levels.close(level);
    }

    #[cold]
    #[inline(never)]
    fn publish_fall(&self, peak: &Peak) {
        self.publish(peak);
    }

    // --- visits to scopes that other threads are in, too

    /// The owner begins a visit.
    pub(crate) fn begin_visit(&self) {
        self.levels.set_visits(self.open_visits().wrapping_add(1));
    }

    /// The owner ends a visit.
    pub(crate) fn end_visit(&self) {
        self.levels.set_visits(self.open_visits().wrapping_sub(1));
    }

    /// How many visits the owner has begun and not ended.
    pub(crate) fn open_visits(&self) -> u32 {
        self.levels.visits()
    }

    /// Whether the owner has ended, and its open visits hold the slot: then the figures and
    /// the levels are final until they all [let go](Self::let_go). Any thread.
    pub(crate) fn is_held(&self) -> bool {
        // Acquire: what the owner did last.
        let state = self.state.load(Ordering::Acquire);
        state.is_multiple_of(2) && state >= Self::HOLD
    }

    /// Ends a visit for the owner, which has ended itself or will not do it. Any thread, once
    /// for each visit.
    pub(crate) fn let_go(&self) {
        // Release: what we have read of the slot comes before what its next owner writes.
        self.state.fetch_sub(Self::HOLD, Ordering::Release);
    }
}
