//! Calling every thread to its cold path, from another thread.
//!
//! ```text
//!   caller                                   owner of a slot, in `arm`
//!   settings := new                          calls₀ := CALLS
//!   CALLS += 1                               next_event := what comes next
//!   ── fence ──                              ── fence ──
//!   next_event of each slot := now           CALLS ≠ calls₀ ?  next_event := now
//! ```
//!
//! A caller lowers the mark of each slot, which its owner may be setting at the
//! same moment. Of two such stores the last remains, so both look again after
//! their stores: with the two fences, at least one of them sees the other.
//! Either the caller's store comes after the owner's, or the owner sees that
//! somebody has called. `models` has it, and without the fences.

use crate::ledger::slot::Slot;
use crate::sync::{AtomicU32, Ordering, fence};

/// What a caller and the owners of slots meet at.
#[derive(Debug)]
pub(crate) struct Everyone {
    /// How often everyone was called.
    calls: AtomicU32,
    /// Whether every request of every thread takes the cold path.
    every: AtomicU32,
}

#[cfg(not(loom))]
pub(super) static EVERYONE: Everyone = Everyone::new();
#[cfg(loom)]
loom::lazy_static! {
    pub(super) static ref EVERYONE: Everyone = Everyone::new();
}

impl Everyone {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self {
            calls: AtomicU32::new(0),
            every: AtomicU32::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self {
            calls: AtomicU32::new(0),
            every: AtomicU32::new(0),
        }
    }

    /// How often everyone was called so far. For an owner, before it sets its mark.
    #[inline]
    pub(super) fn calls(&self) -> u32 {
        // Acquire: the settings that the call was about.
        self.calls.load(Ordering::Acquire)
    }

    /// Whether every request of every thread takes the cold path.
    #[inline]
    pub(super) fn is_every(&self) -> bool {
        self.every.load(Ordering::Relaxed) != 0
    }

    /// Whether somebody has called since `calls`. For an owner, after it has set
    /// its mark.
    pub(super) fn has_called_since(&self, calls: u32) -> bool {
        fence(Ordering::SeqCst);
        self.calls.load(Ordering::Relaxed) != calls
    }

    /// Makes the next request of each slot's owner take the cold path.
    pub(super) fn call<'a>(&self, slots: impl Iterator<Item = &'a Slot>) {
        // Release: the settings.
        self.calls.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        for slot in slots {
            slot.interrupt();
        }
    }

    /// From now on, or no longer, every request of every thread takes the cold
    /// path.
    pub(super) fn set_every<'a>(&self, on: bool, slots: impl Iterator<Item = &'a Slot>) {
        self.every.store(u32::from(on), Ordering::Relaxed);
        if on {
            self.call(slots);
        }
    }
}
