//! What was born and what died.
//!
//! Counted with real atomics, because each of these comes with an allocation, or
//! the end of one. What happens on every acquire is counted on the lines.

use crate::pool::stats::PoolStats;
use crate::sync::{AtomicU64, Ordering};

/// The counts of one pool.
#[derive(Debug, Default)]
pub(crate) struct Census {
    created: AtomicU64,
    attached: AtomicU64,
    detached: AtomicU64,
    discarded: AtomicU64,
    /// How many are alive. One figure, because whoever reads four of them one after the
    /// other takes the dead of one moment from the born of another.
    ///
    /// Every object that is out is counted here, and every one that is counted exists:
    /// it is counted when it was created and is not out yet, and struck out when it is
    /// not out any more and not dropped yet.
    living: AtomicU64,
    /// The most that were alive at once.
    peak: AtomicU64,
}

impl Census {
    /// The manager has created one.
    pub(crate) fn create(&self) {
        self.created.fetch_add(1, Ordering::Relaxed);
        self.enter();
    }

    /// One comes from outside.
    pub(crate) fn attach(&self) {
        self.attached.fetch_add(1, Ordering::Relaxed);
        self.enter();
    }

    /// One is to be handed out for good.
    pub(crate) fn detach(&self) {
        self.detached.fetch_add(1, Ordering::Relaxed);
        self.living.fetch_sub(1, Ordering::Relaxed);
    }

    /// `n` are to be dropped.
    pub(crate) fn discard(&self, n: usize) {
        self.discarded.fetch_add(n as u64, Ordering::Relaxed);
        self.living.fetch_sub(n as u64, Ordering::Relaxed);
    }

    #[cold]
    fn enter(&self) {
        let before = self.living.fetch_add(1, Ordering::Relaxed);
        self.peak
            .fetch_max(before.wrapping_add(1), Ordering::Relaxed);
    }

    /// The four counts: what died first, so that nobody is dead before it was born.
    pub(crate) fn read(&self) -> PoolStats {
        let mut stats = PoolStats {
            detached: self.detached.load(Ordering::Acquire),
            discarded: self.discarded.load(Ordering::Acquire),
            ..PoolStats::default()
        };
        stats.created = self.created.load(Ordering::Acquire);
        stats.attached = self.attached.load(Ordering::Acquire);
        stats.peak = self.peak.load(Ordering::Relaxed);
        stats
    }

    /// How many are alive: asked of the one figure, for the reason given there.
    pub(crate) fn alive(&self) -> u64 {
        self.living.load(Ordering::Relaxed)
    }
}
