//! What one stack has allocated.

#![expect(unsafe_code, reason = "says that atomics take any bits")]

use crate::arena::Zeroed;
use crate::record::fork;
use crate::record::lock::{Guard, Lock};
use crate::record::sampler::Weighed;
use crate::record::timeline::Peak;
use crate::record::zone;
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// A sum that the holder of the cell's lock adds to.
#[derive(Debug)]
#[repr(transparent)]
struct Sum(AtomicU64);

impl Sum {
    #[inline]
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    #[inline]
    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    #[inline]
    fn add(&self, value: f64) {
        self.set(self.get() + value);
    }
}

/// Blocks and bytes.
#[derive(Debug)]
#[repr(C)]
struct Sums {
    blocks: Sum,
    bytes: Sum,
}

impl Sums {
    #[inline]
    fn add(&self, blocks: f64, bytes: f64) {
        self.blocks.add(blocks);
        self.bytes.add(bytes);
    }

    #[inline]
    fn copy(&self, from: &Self) {
        self.set(from.blocks.get(), from.bytes.get());
    }

    #[inline]
    fn set(&self, blocks: f64, bytes: f64) {
        self.blocks.set(blocks);
        self.bytes.set(bytes);
    }
}

/// One stack's figures. Zero bytes are a fresh cell, of no node.
///
/// What changes with each block that stands for itself comes first, and its variances,
/// which are 0, are not looked at.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Cell {
    lock: Lock,
    /// Which peak `share` belongs to, unless `live` is of a newer one.
    peak: AtomicI64,
    live: Sums,
    total: Sums,
    share: Sums,
    freed: AtomicU64,
    life_ms: AtomicU64,
    longest_ms: AtomicU32,
    node: AtomicU32,
    resizes: Sum,
    live_variance: Sums,
    total_variance: Sums,
    share_variance: Sums,
}

const _: () = assert!(size_of::<Cell>() == 144);

/// What is known of a stack at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct StackFigures {
    /// Nothing, in a cell's: the table tells what is alive, as frees go by it.
    pub(crate) live: Weighed,
    pub(crate) share: Weighed,
    pub(crate) total: Weighed,
    pub(crate) resizes: f64,
    pub(crate) freed: u64,
    pub(crate) life_ms: u64,
    pub(crate) longest_ms: u64,
}

impl Cell {
    /// Runs `change` while no other thread than this one changes the cell; `false` when
    /// that cannot be.
    #[inline]
    pub(super) fn locked(&self, me: u64, change: impl FnOnce()) -> bool {
        let Some(_guard) = self.lock.acquire_by(me) else {
            return false;
        };
        change();
        true
    }

    pub(super) fn name(&self, node: u32) {
        self.node.store(node, Ordering::Relaxed);
    }

    /// Notes the share in the newest peak, before `live` changes. Whether it did.
    #[inline]
    fn look_at(&self, peak: Peak) -> bool {
        let is_newer = self.peak.load(Ordering::Relaxed) != peak;
        if is_newer {
            self.peak.store(peak, Ordering::Relaxed);
            self.share.copy(&self.live);
        }
        is_newer
    }

    pub(super) fn came(&self, weighed: &Weighed, peak: Peak) {
        self.add_to_total(weighed);
        self.joined(weighed, peak);
    }

    /// The same of a block that stands for itself, in a profile of such.
    #[inline]
    pub(super) fn came_itself(&self, size: u64, peak: Peak) {
        let Weighed { blocks, bytes, .. } = Weighed::exact(size);
        self.look_at(peak);
        self.live.add(blocks, bytes);
        self.total.add(blocks, bytes);
    }

    pub(super) fn resized(&self, weighed: &Weighed) {
        // Not another block: only what it has grown by.
        self.add_to_total(&Weighed {
            blocks: 0.0,
            blocks_variance: 0.0,
            ..*weighed
        });
        self.resizes.add(weighed.blocks);
    }

    fn add_to_total(&self, weighed: &Weighed) {
        self.total.add(weighed.blocks, weighed.bytes);
        self.total_variance
            .add(weighed.blocks_variance, weighed.bytes_variance);
    }

    pub(super) fn joined(&self, weighed: &Weighed, peak: Peak) {
        self.add_to_live(weighed, 1.0, peak);
    }

    pub(super) fn left(&self, weighed: &Weighed, peak: Peak) {
        self.add_to_live(weighed, -1.0, peak);
    }

    fn add_to_live(&self, weighed: &Weighed, sign: f64, peak: Peak) {
        if self.look_at(peak) {
            self.share_variance.copy(&self.live_variance);
        }
        self.live.add(sign * weighed.blocks, sign * weighed.bytes);
        self.live_variance.add(
            sign * weighed.blocks_variance,
            sign * weighed.bytes_variance,
        );
    }

    /// [`left`](Self::left) of a block that stands for itself, in a profile of such.
    #[inline]
    pub(super) fn left_itself(&self, size: u64, peak: Peak) {
        let Weighed { blocks, bytes, .. } = Weighed::exact(size);
        self.look_at(peak);
        self.live.add(-blocks, -bytes);
    }

    /// [`resized`](Self::resized) and [`joined`](Self::joined) of such a block.
    #[inline]
    pub(super) fn regrown_itself(&self, growth: u64, size: u64, peak: Peak) {
        self.look_at(peak);
        self.total.bytes.add(Weighed::exact(growth).bytes);
        self.resizes.add(1.0);
        let Weighed { blocks, bytes, .. } = Weighed::exact(size);
        self.live.add(blocks, bytes);
    }

    #[inline]
    pub(super) fn ended(&self, life_ms: u32) {
        add(&self.freed, 1);
        add(&self.life_ms, u64::from(life_ms));
        if life_ms > self.longest_ms.load(Ordering::Relaxed) {
            self.longest_ms.store(life_ms, Ordering::Relaxed);
        }
    }

    /// Live, total and share, with their variances.
    fn all_sums(&self) -> [(&Sums, &Sums); 3] {
        [
            (&self.live, &self.live_variance),
            (&self.total, &self.total_variance),
            (&self.share, &self.share_variance),
        ]
    }

    pub(super) fn clear(&self, peak: Peak) {
        self.locked(fork::me(), || {
            for (sums, variance) in self.all_sums() {
                sums.set(0.0, 0.0);
                variance.set(0.0, 0.0);
            }
            self.resizes.set(0.0);
            self.freed.store(0, Ordering::Relaxed);
            self.life_ms.store(0, Ordering::Relaxed);
            self.longest_ms.store(0, Ordering::Relaxed);
            self.peak.store(peak, Ordering::Relaxed);
        });
    }

    /// Whose it is.
    pub(super) fn node(&self) -> u32 {
        self.node.load(Ordering::Relaxed)
    }

    /// The lock, for who reads; `None` when it cannot be had.
    pub(super) fn hold(&self) -> Option<Guard<'_>> {
        self.lock.acquire()
    }

    /// The same for who knows his [word](fork::me).
    #[inline]
    pub(super) fn hold_by(&self, me: u64) -> Option<Guard<'_>> {
        self.lock.acquire_by(me)
    }

    /// The figures, for who [holds](Self::hold) the lock.
    pub(super) fn figures(&self, peak: Peak) -> StackFigures {
        let [live, total, share] = self.all_sums().map(weighed);
        let is_current = self.peak.load(Ordering::Relaxed) == peak;
        StackFigures {
            live: Weighed::default(),
            total,
            share: if is_current { share } else { live },
            resizes: self.resizes.get(),
            freed: self.freed.load(Ordering::Relaxed),
            life_ms: self.life_ms.load(Ordering::Relaxed),
            longest_ms: self.longest_ms.load(Ordering::Relaxed).into(),
        }
    }
}

impl StackFigures {
    /// The sum, with the longest life of both.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            live: self.live.plus(&other.live),
            total: self.total.plus(&other.total),
            share: self.share.plus(&other.share),
            resizes: self.resizes + other.resizes,
            freed: self.freed + other.freed,
            life_ms: self.life_ms + other.life_ms,
            longest_ms: self.longest_ms.max(other.longest_ms),
        }
    }
}

fn weighed((sums, variance): (&Sums, &Sums)) -> Weighed {
    Weighed {
        blocks: sums.blocks.get(),
        bytes: sums.bytes.get(),
        blocks_variance: variance.blocks.get(),
        bytes_variance: variance.bytes.get(),
    }
}

fn add(count: &AtomicU64, n: u64) {
    let sum = count.load(Ordering::Relaxed).wrapping_add(n);
    count.store(sum, Ordering::Relaxed);
}

/// Which cell a node has, plus one; 0 for none yet.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Index(AtomicU32);

impl Index {
    /// The cell's position, if there is one.
    #[inline]
    pub(super) fn get(&self) -> Option<u64> {
        // Acquire: the cell's name.
        u64::from(self.0.load(Ordering::Acquire)).checked_sub(1)
    }

    /// Names the cell at this position.
    pub(super) fn set(&self, cell: u32) {
        self.0.store(cell + 1, Ordering::Release);
    }
}

// SAFETY: atomics of integers, and a lock that is one: any bits are valid, zero is free.
unsafe impl Zeroed for Cell {}
// SAFETY: as above.
unsafe impl Zeroed for Index {}
// SAFETY: `Zeroed` says so; integers need no drop.
unsafe impl zone::Cell for Cell {}
// SAFETY: as above.
unsafe impl zone::Cell for Index {}
