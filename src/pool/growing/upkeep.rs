//! What else is done with a pool: filling, emptying, reading.

use crate::pool::error::PoolError;
use crate::pool::growing::Pool;
use crate::pool::guard::{Life, TakesBack};
use crate::pool::line::{Base, Line};
use crate::pool::local;
use crate::pool::object::Object;
use crate::pool::stats::PoolStats;
use crate::sync::Ordering;

impl<T> Pool<T> {
    /// Puts a value from outside into the pool, as if it came back: it is reset,
    /// and dropped when there is no room.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::from_fn(String::new);
    /// pool.attach(String::from("from outside"));
    /// assert_eq!(*pool.acquire(), "from outside");
    /// ```
    pub fn attach(&self, value: T) {
        self.census.0.attach();
        self.take_back(Object::new(value), Life::Normal);
    }

    /// Creates objects until `n` are idle, or as many as the pool keeps.
    ///
    /// They are in the depot, where every thread finds them.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::from_fn(String::new);
    /// pool.prewarm(8).unwrap();
    /// assert_eq!((pool.stats().created, pool.stats().idle), (8, 8));
    /// ```
    ///
    /// # Errors
    /// When the manager fails to create one. Those before it stay.
    pub fn prewarm(&self, n: usize) -> Result<(), PoolError> {
        let n = n.min(self.depot.0.most());
        for _ in self.idle()..n as u64 {
            let fresh = self.create()?;
            if let Err(over) = self.depot.0.put(fresh) {
                self.drop_one(over);
            }
        }
        Ok(())
    }

    /// Drops all idle objects, as [`shrink_to`](Self::shrink_to)`(0)`: those that other
    /// running threads keep for themselves when they next use the pool, unless exactly
    /// 256 clears have passed since they last did, or a multiple of 256.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::from_fn(String::new);
    /// drop(pool.acquire());
    /// pool.clear();
    /// assert_eq!(pool.stats().idle, 0);
    /// ```
    pub fn clear(&self) {
        self.shrink_to(0);
    }

    /// Drops idle objects until at most `keep` are left.
    ///
    /// What other threads that are still running keep for themselves (at most 62
    /// objects each, some of them perhaps inherited from a thread that has ended)
    /// they drop when they next use the pool, because only they can touch it.
    /// Until then it counts as idle. A thread that does not use the pool during exactly
    /// 256 such calls, or a multiple of 256, does not notice them and gets its old
    /// objects.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::from_fn(String::new);
    /// pool.prewarm(20).unwrap();
    /// pool.shrink_to(5);
    /// assert_eq!(pool.stats().idle, 5);
    /// ```
    pub fn shrink_to(&self, keep: usize) {
        if self.idle() <= keep as u64 {
            return;
        }
        // The depot first, and at once with the epoch: a line that is of the new one already
        // must not be filled with what was idle in the old one.
        let (last, mut objects) = self
            .depot
            .0
            .take_all(|| self.epoch.fetch_add(Base::NEXT, Ordering::Relaxed));
        let base = Base::of(last.wrapping_add(Base::NEXT));
        local::for_each_free_line(&self.table, |line| line.empty(base, &mut objects));
        if let Some(line) = local::line(&self.table) {
            line.empty(base, &mut objects);
        }
        self.depot.0.keep(keep, &mut objects);
        self.drop_all(objects);
    }

    pub(super) fn idle(&self) -> u64 {
        let lines = || self.table.lines().map(Line::idle).sum();
        self.depot.0.idle(lines)
    }

    /// The figures of this pool.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::from_fn(String::new);
    /// let text = pool.acquire();
    /// assert_eq!((pool.stats().created, pool.stats().out), (1, 1));
    /// # drop(text);
    /// ```
    pub fn stats(&self) -> PoolStats {
        let mut stats = self.census.0.read();
        stats.idle = self.idle();
        let alive = self.census.0.alive();
        stats.out = alive.saturating_sub(stats.idle);
        // The newest may not be in it yet.
        stats.peak = stats.peak.max(alive);
        let lines: u64 = self.table.lines().map(Line::taken).sum();
        stats.reused = lines + self.depot.0.taken();
        stats
    }
}
