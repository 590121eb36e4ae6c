//! A record of the live table, in 24 bytes.
//!
//! ```text
//!   word 0    seen: 1 │ sampled: 1 │ size, high: 14 │ address: 48
//!             0 = no record; the rest then names the next free id
//!   word 1    recording: 32  │ node: 32
//!   word 2    size, low: 32  │ birth: 32
//! ```

use crate::sync::{AtomicU64, Ordering};

/// What is known of a live block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Where it was allocated: a node of the call tree.
    pub node: u32,
    /// Its size in bytes; what is above 2^46 − 1 is kept as that.
    pub size: u64,
    /// Whether the sampler has chosen it.
    pub sampled: bool,
    /// When, in milliseconds since whatever the recorder counts from.
    pub birth: u32,
    /// Which recording it belongs to.
    pub recording: u32,
    /// Whether the recording has looked at it; a resized block has been looked at, too.
    pub seen: bool,
}

const ADDRESS_BITS: u32 = 48;
/// Addresses are below this: what a user's program has on `x86_64` and on ARM.
pub(crate) const ADDRESSES: u64 = 1 << ADDRESS_BITS;

/// Sizes are below this.
const SIZES: u64 = 1 << 46;
const SAMPLED: u64 = 1 << 62;
const SEEN: u64 = 1 << 63;

/// A record as the table keeps it. To hand it on like that is cheap: it is
/// written and read by whole words, as what is written in parts and read at once
/// must first have arrived in the cache.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Words([u64; 3]);

impl Words {
    /// The words of a record of the block at `address`, which is below [`ADDRESSES`].
    #[inline]
    pub(crate) fn of(address: u64, record: &Record) -> Self {
        let size = record.size.min(SIZES - 1);
        let high = size >> 32 << ADDRESS_BITS;
        let sampled = u64::from(record.sampled) * SAMPLED;
        let seen = u64::from(record.seen) * SEEN;
        Self([
            seen | sampled | high | address,
            u64::from(record.recording) << 32 | u64::from(record.node),
            size << 32 | u64::from(record.birth),
        ])
    }

    /// Which block it is about.
    #[inline]
    pub(crate) fn address(&self) -> u64 {
        let [first, ..] = &self.0;
        first & (ADDRESSES - 1)
    }

    /// The record; meaningless when there is none.
    #[inline]
    pub(crate) fn record(&self) -> Record {
        let [first, second, third] = &self.0;
        let high = (first & !(SEEN | SAMPLED)) >> ADDRESS_BITS;
        Record {
            node: low_half(*second),
            size: high << 32 | third >> 32,
            sampled: first & SAMPLED != 0,
            birth: low_half(*third),
            recording: low_half(second >> 32),
            seen: first & SEEN != 0,
        }
    }
}

/// A place for a record. Written by the holder of the shard's lock, read by anyone.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Entry([AtomicU64; 3]);

const _: () = assert!(size_of::<Entry>() == 24);

impl Entry {
    /// The address it is about; 0 when there is no record.
    #[inline]
    pub(crate) fn address(&self) -> u64 {
        let [first, ..] = &self.0;
        // Acquire: nothing that a careful reader would need, but what a thread that inherits
        // the shard from before a fork does.
        first.load(Ordering::Acquire) & (ADDRESSES - 1)
    }

    /// Makes it a record. The address comes last: it says that the rest is there.
    #[inline]
    pub(crate) fn write(&self, words: &Words) {
        let ([first, second, third], [head, origin, rest]) = (&self.0, &words.0);
        second.store(*origin, Ordering::Relaxed);
        third.store(*rest, Ordering::Relaxed);
        first.store(*head, Ordering::Release);
    }

    /// The record; meaningless when there is none.
    #[inline]
    pub(crate) fn read(&self) -> Record {
        let mut words = Words::default();
        self.copy_to(&mut words);
        words.record()
    }

    /// Copies the record as it is.
    #[inline]
    pub(crate) fn copy_to(&self, words: &mut Words) {
        for (word, from) in words.0.iter_mut().zip(&self.0) {
            *word = from.load(Ordering::Relaxed);
        }
    }

    /// Makes it no record, with a link to the next one that is none.
    #[inline]
    pub(crate) fn erase(&self, next: u64) {
        let [first, second, _] = &self.0;
        first.store(0, Ordering::Release);
        second.store(next, Ordering::Relaxed);
    }

    /// The link that [`erase`](Self::erase) left.
    #[inline]
    pub(crate) fn link(&self) -> u64 {
        let [_, second, _] = &self.0;
        second.load(Ordering::Relaxed)
    }

    /// No record.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; 3])
    }
}

#[inline]
fn low_half(word: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    let low = word as u32;
    low
}

#[cfg(test)]
mod tests {
    use super::{ADDRESSES, Entry, Record, SIZES, Words};

    #[test]
    fn every_field_comes_back_at_its_limits() {
        let entry = Entry::empty();
        for size in [0, 1, u64::from(u32::MAX), 1 << 32, (1 << 45) + 5, SIZES - 1] {
            for extreme in [0, 1, u32::MAX] {
                let record = Record {
                    node: extreme,
                    size,
                    birth: !extreme,
                    recording: extreme.rotate_left(3),
                    sampled: extreme == 1,
                    seen: size == 1,
                };
                let words = Words::of(ADDRESSES - 16, &record);
                assert_eq!(words.address(), ADDRESSES - 16);
                entry.write(&words);
                assert_eq!(entry.address(), ADDRESSES - 16);
                assert_eq!(entry.read(), record);
            }
        }
        entry.erase(77);
        assert_eq!((entry.address(), entry.link()), (0, 77));
    }

    #[test]
    fn a_size_that_no_address_space_holds_is_kept_as_the_largest() {
        let entry = Entry::empty();
        let record = Record {
            size: u64::MAX,
            ..Record::default()
        };
        entry.write(&Words::of(16, &record));
        assert_eq!(entry.read().size, SIZES - 1);
        assert_eq!(entry.address(), 16);
    }
}
