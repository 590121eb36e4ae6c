//! What one stack has allocated.

#![expect(unsafe_code, reason = "says that atomics take any bits")]

use crate::arena::Zeroed;
use crate::record::lock::Lock;
use crate::record::sampler::Weighed;
use crate::record::zone;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A sum that the holder of the cell's lock adds to.
#[derive(Debug)]
#[repr(transparent)]
struct Sum(AtomicU64);

impl Sum {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    fn add(&self, value: f64) {
        self.set(self.get() + value);
    }
}

/// Blocks and bytes, and the variances of both.
#[derive(Debug)]
struct Sums {
    blocks: Sum,
    bytes: Sum,
    blocks_variance: Sum,
    bytes_variance: Sum,
}

impl Sums {
    fn add(&self, weighed: &Weighed) {
        self.blocks.add(weighed.blocks);
        self.bytes.add(weighed.bytes);
        self.add_variance(weighed, 1.0);
    }

    fn take(&self, weighed: &Weighed) {
        self.blocks.add(-weighed.blocks);
        self.bytes.add(-weighed.bytes);
        self.add_variance(weighed, -1.0);
    }

    /// Exact figures have none, and need not touch the cache line.
    fn add_variance(&self, weighed: &Weighed, sign: f64) {
        if weighed.bytes_variance > 0.0 {
            self.blocks_variance.add(sign * weighed.blocks_variance);
            self.bytes_variance.add(sign * weighed.bytes_variance);
        }
    }

    fn get(&self) -> Weighed {
        Weighed {
            blocks: self.blocks.get(),
            bytes: self.bytes.get(),
            blocks_variance: self.blocks_variance.get(),
            bytes_variance: self.bytes_variance.get(),
        }
    }

    fn set(&self, weighed: &Weighed) {
        self.blocks.set(weighed.blocks);
        self.bytes.set(weighed.bytes);
        self.blocks_variance.set(weighed.blocks_variance);
        self.bytes_variance.set(weighed.bytes_variance);
    }
}

/// One stack's figures. Zero bytes are a fresh cell, of no node.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Cell {
    lock: Lock,
    node: AtomicU32,
    /// Which peak `share` belongs to, unless `live` is of a newer one.
    peak: AtomicU32,
    total: Sums,
    live: Sums,
    share: Sums,
    resizes: Sum,
    freed: AtomicU64,
    life_ms: AtomicU64,
    longest_ms: AtomicU64,
}

const _: () = assert!(size_of::<Cell>() == 144);

/// A cell's figures at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::record) struct Figures {
    pub(in crate::record) total: Weighed,
    pub(in crate::record) share: Weighed,
    pub(in crate::record) resizes: f64,
    pub(in crate::record) freed: u64,
    pub(in crate::record) life_ms: u64,
    pub(in crate::record) longest_ms: u64,
}

impl Cell {
    /// Runs `change` while no other thread changes the cell; `false` when that
    /// cannot be.
    #[inline]
    pub(super) fn locked(&self, change: impl FnOnce()) -> bool {
        let Some(_guard) = self.lock.acquire() else {
            return false;
        };
        change();
        true
    }

    pub(super) fn name(&self, node: u32) {
        self.node.store(node, Ordering::Relaxed);
    }

    /// Notes the share in the newest peak, before `live` changes.
    #[inline]
    fn look_at(&self, peak: u32) {
        if self.peak.load(Ordering::Relaxed) != peak {
            self.peak.store(peak, Ordering::Relaxed);
            self.share.set(&self.live.get());
        }
    }

    pub(super) fn came(&self, weighed: &Weighed, peak: u32) {
        self.total.add(weighed);
        self.joined(weighed, peak);
    }

    pub(super) fn resized(&self, weighed: &Weighed) {
        // Not another block: only what it has grown by.
        let growth = Weighed {
            blocks: 0.0,
            blocks_variance: 0.0,
            ..*weighed
        };
        self.total.add(&growth);
        self.resizes.add(weighed.blocks);
    }

    pub(super) fn joined(&self, weighed: &Weighed, peak: u32) {
        self.look_at(peak);
        self.live.add(weighed);
    }

    pub(super) fn left(&self, weighed: &Weighed, peak: u32) {
        self.look_at(peak);
        self.live.take(weighed);
    }

    pub(super) fn ended(&self, life_ms: u32) {
        let life = u64::from(life_ms);
        add(&self.freed, 1);
        add(&self.life_ms, life);
        if life > self.longest_ms.load(Ordering::Relaxed) {
            self.longest_ms.store(life, Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&self, peak: u32) {
        self.locked(|| {
            let nothing = Weighed::default();
            for sums in [&self.total, &self.live, &self.share] {
                sums.set(&nothing);
            }
            self.resizes.set(0.0);
            for count in [&self.freed, &self.life_ms, &self.longest_ms] {
                count.store(0, Ordering::Relaxed);
            }
            self.peak.store(peak, Ordering::Relaxed);
        });
    }

    /// The node and the figures; `None` when the cell cannot be had.
    pub(super) fn figures(&self, peak: u32) -> Option<(u32, Figures)> {
        let mut figures = Figures::default();
        let read = self.locked(|| {
            let is_current = self.peak.load(Ordering::Relaxed) == peak;
            let share = if is_current { &self.share } else { &self.live };
            figures = Figures {
                total: self.total.get(),
                share: share.get(),
                resizes: self.resizes.get(),
                freed: self.freed.load(Ordering::Relaxed),
                life_ms: self.life_ms.load(Ordering::Relaxed),
                longest_ms: self.longest_ms.load(Ordering::Relaxed),
            };
        });
        read.then(|| (self.node.load(Ordering::Relaxed), figures))
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
    #[inline]
    pub(super) fn get(&self) -> u32 {
        // Acquire: the cell's name.
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, cell: u32) {
        self.0.store(cell, Ordering::Release);
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
