//! Which frees are looked up. A free asks this of every block, so it is one word.
//!
//! ```text
//!   all ones     none: nothing is recorded, and no sample can be alive
//!   a mask       of blocks whose address has none of these bits: where samples may be
//!   0            all: something is recorded
//! ```
//!
//! The mask has all bits that no small sample's address has. Stand-ins begin at multiples
//! of a [`UNIT`], which one block in 128 does, and lie close together: the higher bits that
//! are zero throughout are in the mask, too. Whole heaps are told apart so, as nearly always
//! that of the main thread; of one that the system has put where no bit tells, one block in
//! 128 is looked up in vain.
//!
//! It only ever loses bits: before the first sample can be where it did not look so far.

use crate::record::lock::Lock;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What a stand-in begins at a multiple of, in bytes, and a block whose sample stays
/// where it is, unless its size is reason enough to look it up.
///
/// Larger units would have more low bits in the mask and take more memory, a page of
/// which costs a microsecond or more when it is first touched.
pub(super) const UNIT: usize = 2048;

const NO_ADDRESS: u64 = u64::MAX;
/// The mask as long as there is no place for a sample: something is recorded, and no
/// block has such an address.
const NO_BLOCK: u64 = u64::MAX >> 1;
/// The mask that misses no sample, wherever it is.
const UNITS: u64 = UNIT as u64 - 1;

/// What is looked up. On a cache line of its own, as every free of every thread reads it
/// and what lies beside it may be written all the time.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Look {
    word: AtomicU64,
    /// The mask. Written by the holder of `changing`.
    samples: AtomicU64,
    /// For whoever puts the mask in force, or takes bits from it.
    changing: Lock,
    /// Whether blocks may have been sampled, ever: one that was is found by its
    /// record when it is freed, however much later.
    has_sampled: AtomicU32,
}

/// That of the process.
#[cfg(not(loom))]
pub(super) static LOOK: Look = Look::new();

/// Whether the allocator must tell what it does.
#[cfg(not(loom))]
#[inline]
pub(crate) fn is_on() -> bool {
    LOOK.is_on()
}

impl Look {
    /// Nothing is recorded, and there is no place for samples.
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Self {
            word: AtomicU64::new(NO_ADDRESS),
            samples: AtomicU64::new(NO_BLOCK),
            changing: Lock::new(),
            has_sampled: AtomicU32::new(0),
        }
    }

    /// The same.
    #[cfg(loom)]
    fn new() -> Self {
        Self {
            word: AtomicU64::new(NO_ADDRESS),
            samples: AtomicU64::new(NO_BLOCK),
            changing: Lock::new(),
            has_sampled: AtomicU32::new(0),
        }
    }

    #[inline]
    fn is_on(&self) -> bool {
        self.word.load(Ordering::Relaxed) != NO_ADDRESS
    }

    #[inline]
    pub(super) fn looks_at(&self, block: *mut u8) -> bool {
        block.addr() as u64 & self.word.load(Ordering::Relaxed) == 0
    }

    /// Whether every free must be told.
    #[inline]
    pub(super) fn looks_at_all(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }

    /// Switches the look-up of all frees on or off. For the office of recordings.
    ///
    /// Relaxed is enough: whoever frees a recorded block got its address from the
    /// recorded thread by some synchronisation, and that thread had seen the switch.
    pub(super) fn watch_frees(&self, on: bool) {
        if on {
            self.word.store(0, Ordering::Relaxed);
        } else if self.has_sampled.load(Ordering::Relaxed) == 0 {
            self.word.store(NO_ADDRESS, Ordering::Relaxed);
        } else {
            // While this is held nobody takes a bit from the mask, and has to find it in force.
            let changing = self.changing.acquire();
            let mask = match changing {
                Some(_) => self.samples.load(Ordering::Relaxed),
                None => UNITS,
            };
            self.word.store(mask, Ordering::Relaxed);
        }
    }

    /// From now on there may be sampled blocks. For the office, which then calls
    /// [`watch_frees`](Self::watch_frees).
    pub(super) fn look_for_samples(&self) {
        self.has_sampled.store(1, Ordering::Relaxed);
    }

    /// Looks frees up as while there are only samples until `work` is done, and then
    /// all, which is right while the caller's recording is open and never wrong. For
    /// the first recording, behind the [`loader`](super::loader)'s door: nobody else
    /// has recorded.
    pub(super) fn as_while_sampling(&self, work: impl FnOnce()) {
        self.word.store(UNITS, Ordering::Relaxed);
        work();
        self.word.store(0, Ordering::Relaxed);
    }

    /// Makes sure that samples are found whose addresses are multiples of a unit from
    /// `first` to `last`; `false` when that cannot be done now, and nobody may have one.
    ///
    /// Who frees such a sample got it from the caller, by some synchronisation.
    pub(super) fn cover(&self, first: usize, last: usize) -> bool {
        let (first, last) = (first as u64, last as u64);
        // From the highest bit in which they differ downwards every bit may be set.
        let differing = u64::MAX.checked_shr((first ^ last).leading_zeros());
        self.narrow(!(first | differing.unwrap_or(0)) | UNITS)
    }

    /// The same for any multiple of a unit.
    pub(super) fn cover_all(&self) -> bool {
        self.covers_all() || self.narrow(UNITS)
    }

    /// Whether that was said before.
    fn covers_all(&self) -> bool {
        // Acquire: and it is in force.
        self.samples.load(Ordering::Acquire) == UNITS
    }

    /// Takes all other bits from the mask.
    #[cold]
    fn narrow(&self, mask: u64) -> bool {
        let Some(_changing) = self.changing.acquire() else {
            return false;
        };
        let mask = self.samples.load(Ordering::Relaxed) & mask;
        if self.is_on() {
            // Of 0, which may be in force by now, nothing is left to take.
            self.word.fetch_and(mask, Ordering::Relaxed);
        }
        // Last, as a fork may come before it. Release: what is in force.
        self.samples.store(mask, Ordering::Release);
        true
    }
}

#[cfg(all(test, loom))]
mod models;

#[cfg(all(test, not(loom)))]
impl Look {
    /// Runs `f` while this thread has the mask for itself.
    pub(super) fn held(&self, f: impl FnOnce()) {
        let _changing = self.changing.acquire().expect("free");
        f();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::ptr::without_provenance_mut;

    use super::{Look, UNIT};

    fn looks(look: &Look, address: usize) -> bool {
        look.looks_at(without_provenance_mut(address))
    }

    /// Bug prevented: a stand-in that no free knows goes to the inner allocator.
    #[test]
    fn every_unit_that_is_covered_is_looked_at_from_then_on() {
        let look = Look::new();
        look.look_for_samples();
        look.watch_frees(false);
        assert!(look.is_on() && !looks(&look, 0x7f00_0000_0800));
        let mut covered = Vec::new();
        for (first, units) in [
            (0x7f00_0000_0800, 65_536),
            (0x10_0000, 1),
            (0x7eff_ffff_f000, 3),
        ] {
            let last = first + (units - 1) * UNIT;
            assert!(look.cover(first, last));
            covered.extend((first..=last).step_by(UNIT));
            for on in [false, true, false] {
                assert!(covered.iter().all(|&address| looks(&look, address)));
                look.watch_frees(on);
            }
        }
    }

    /// Bug prevented: the check of each free lets pass what is none of ours, which
    /// costs more than all that is sampled.
    #[test]
    fn what_differs_in_a_bit_that_no_covered_address_has_is_not_looked_at() {
        let look = Look::new();
        look.look_for_samples();
        // Bits 27 to 31 are zero throughout, and bit 35.
        assert!(look.cover(0x7f17_0000_0800, 0x7f17_07ff_f800));
        look.watch_frees(false);
        for bit in [0, 4, 10, 27, 31, 35, 47] {
            assert!(!looks(&look, 0x7f17_0000_1000 | 1 << bit), "{bit}");
        }
        assert!(look.cover_all());
        assert!(looks(&look, 0x7f17_0800_1000) && !looks(&look, 0x7f17_0800_1010));
        assert!(!look.looks_at_all());
        look.watch_frees(true);
        assert!(look.cover(0x10_0000, 0x20_0000) && look.looks_at_all());
    }

    /// Bug prevented: a handler that interrupts the switch makes it miss what it covers.
    #[test]
    fn where_the_mask_cannot_be_had_all_units_are_looked_at_and_none_is_covered() {
        let look = Look::new();
        look.look_for_samples();
        look.held(|| {
            assert!(!look.cover(0x10_0000, 0x10_0000) && !look.cover_all());
            look.watch_frees(false);
            assert!(looks(&look, 0x7654_3210_0800) && !looks(&look, 0x7654_3210_0810));
        });
    }
}
