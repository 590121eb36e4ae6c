//! What else is done with a pool: filling, emptying, reading.

use crate::pool::error::PoolError;
use crate::pool::growing::Pool;
use crate::pool::guard::{Life, TakesBack};
use crate::pool::line::{Base, Line, Own};
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
    /// They are in the depot, where every thread finds them. Objects that other threads are
    /// to drop, because the pool was [cleared](Self::clear), do not count.
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
        for _ in self.usable()..n as u64 {
            let fresh = self.create()?;
            if let Err(over) = self.depot.0.put(fresh) {
                self.drop_one(over);
            }
        }
        Ok(())
    }

    /// Drops all idle objects, as [`shrink_to`](Self::shrink_to)`(0)`: those that other
    /// running threads keep for themselves when they next use the pool, unless exactly
    /// 256 clears of a pool that was not empty have passed since they last did, or a
    /// multiple of 256.
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

    /// Drops idle objects until at most `keep` are left, and never more than
    /// [`max_idle`](crate::pool::PoolBuilder::max_idle): they are all in the depot then.
    ///
    /// What other threads that are still running keep for themselves (at most 62
    /// objects each, some of them perhaps inherited from a thread that has ended)
    /// they drop when they next use the pool, because only they can touch it.
    /// Until then it counts as idle. A thread that does not use the pool during exactly
    /// 256 such calls, or a multiple of 256, does not notice them and gets its old
    /// objects. Only those calls count that find more than `keep` that could be given out.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::from_fn(String::new);
    /// pool.prewarm(20).unwrap();
    /// pool.shrink_to(5);
    /// assert_eq!(pool.stats().idle, 5);
    /// ```
    pub fn shrink_to(&self, keep: usize) {
        // From here until what stays is in the depot again: in between it is in our hands, and
        // another caller would take it for gone.
        let alone = local::sweep_alone();
        if self.idle() <= keep as u64 {
            return;
        }
        let mut before = self.base();
        let (mut base, mut objects) = (before, Vec::new());
        // If only what is to be dropped already is too much, a new epoch would take from those
        // who use the pool what they have, and drop no more than this one does.
        let begins = self.usable() > keep as u64;
        if begins {
            // The depot first, and at once with the epoch: a line that is of the new one already
            // must not be filled with what was idle in the old one.
            let begin = || self.epoch.fetch_add(Base::NEXT, Ordering::Relaxed);
            let (last, all) = self.depot.0.take_all(begin);
            (before, base) = (Base::of(last), Base::of(last.wrapping_add(Base::NEXT)));
            objects = all;
        }
        // What should have gone in an older epoch must not stay now.
        let mut stale = Vec::new();
        let mut sweep = |line: Own<'_, T>| {
            // One of an epoch that begins here slept through 255 of them, most likely.
            if !begins && line.is_current(base) {
                return;
            }
            let is_stale = !line.is_current(before);
            line.empty(base, if is_stale { &mut stale } else { &mut objects });
        };
        local::for_each_free_line(&self.table, &mut sweep);
        local::line(&self.table).into_iter().for_each(&mut sweep);
        self.depot.0.keep(keep, &mut objects);
        drop(alone);
        objects.append(&mut stale);
        self.drop_all(objects);
    }

    /// How many objects are idle and can be given out.
    fn usable(&self) -> u64 {
        let lines = || {
            let base = self.base();
            self.table.lines().map(|line| line.idle_in(base)).sum()
        };
        self.depot.0.idle(lines)
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
