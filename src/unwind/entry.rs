//! A frame that is kept, and what proves that it is still there.

use crate::unwind::stack::Entry;
use crate::unwind::step::Frame;

/// `Entry::about`: an older step needs `bp`.
pub(super) const NEEDS_BP: u32 = 1;
/// `Entry::about`: found by a step that reads more than return address and `bp`.
pub(super) const STRANGE: u32 = 2;
/// `Entry::about`: from here on, how many words below the slot `bp` was read; 0
/// if it is the inner frame's.
pub(super) const BP_SHIFT: u32 = 2;

impl Entry {
    #[inline]
    pub(super) fn of(frame: &Frame) -> Self {
        let mut about = 0;
        if frame.bp_slot != 0 {
            #[expect(clippy::cast_possible_truncation, reason = "stacks are below 8 GiB")]
            let words = (frame.slot.wrapping_sub(frame.bp_slot) / 8) as u32;
            about = words << BP_SHIFT;
        }
        if frame.strange {
            about |= STRANGE;
        }
        Self {
            slot: frame.slot,
            ip: frame.ip,
            bp: frame.bp,
            node: 0,
            about,
        }
    }

    /// Whether `frame` is this one, as far as older frames can tell.
    #[inline]
    pub(super) fn is(&self, frame: &Frame) -> bool {
        self.ip == frame.ip
            && self.about & STRANGE == 0
            && !frame.strange
            && (self.about & NEEDS_BP == 0 || self.bp == frame.bp)
    }

    /// Where `bp` was read; `None` if it is the inner frame's.
    #[inline]
    pub(super) fn bp_slot(&self) -> Option<u64> {
        let below = u64::from(self.about >> BP_SHIFT) * 8;
        (below != 0).then(|| self.slot.wrapping_sub(below))
    }
}
