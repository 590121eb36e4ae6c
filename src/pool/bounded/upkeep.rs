//! What else is done with a bounded pool: filling, emptying, closing, reading.

use crate::pool::bounded::{BoundedPool, lending};
use crate::pool::error::PoolError;
use crate::pool::object::Object;
use crate::pool::stats::PoolStats;

impl<T> BoundedPool<T> {
    /// Creates objects until `n` are idle, as far as the capacity allows.
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::from_fn(3, String::new);
    /// pool.prewarm(2).unwrap();
    /// assert_eq!(pool.stats().idle, 2);
    /// ```
    ///
    /// # Errors
    /// When the manager fails to create one (those before it stay), when the pool
    /// is closed, and when it was [lost in a fork](PoolError::is_lost_in_fork).
    pub fn prewarm(&self, n: usize) -> Result<(), PoolError> {
        // Not until they are there: others may take them, and without memory for a place to
        // lie they are dropped.
        for _ in 0..n {
            let mut desk = self.lock()?;
            if desk.is_closed() {
                return Err(PoolError::closed());
            }
            if desk.idle() >= n || !desk.take_permit() {
                break;
            }
            drop(desk);
            let fresh = self.create()?;
            self.put_back(fresh);
        }
        Ok(())
    }

    /// Puts a value from outside into the pool, or gives it back when there are
    /// `capacity` objects already, or when the pool is closed.
    ///
    /// It goes in as it is, to the first who waits if anybody does.
    ///
    /// ```
    /// use heapledger::pool::{BoundedPool, Pooled};
    ///
    /// let pool = BoundedPool::<String>::new(1);
    /// let mut mine = Pooled::detach(pool.try_acquire().unwrap());
    /// mine.push_str("changed");
    /// pool.attach(mine).unwrap();
    /// assert_eq!(pool.attach(String::from("one more")).unwrap_err(), "one more");
    /// assert_eq!(*pool.try_acquire().unwrap(), "changed");
    /// ```
    ///
    /// # Errors
    /// The value, when there is no room for it, and when the pool was
    /// [lost in a fork](PoolError::is_lost_in_fork).
    pub fn attach(&self, value: T) -> Result<(), T> {
        let room = self.lock().is_ok_and(|mut desk| {
            let room = desk.take_permit();
            if room {
                desk.attached();
            }
            room
        });
        if !room {
            return Err(value);
        }
        self.put_back(Object::new(value));
        Ok(())
    }

    /// Drops all idle objects; new ones are created when they are needed.
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(3);
    /// pool.clear();
    /// assert_eq!((pool.stats().idle, pool.stats().discarded), (0, 3));
    /// assert!(pool.try_acquire().is_some());
    /// ```
    pub fn clear(&self) {
        self.shrink_to(0);
    }

    /// Drops idle objects until at most `keep` are left.
    ///
    /// They leave the pool at once, and each gives its place up when it is gone: a `Drop` that
    /// waits for another object of the same pool may then wait for ever. What the pool has
    /// kept for those who wait (about 100 bytes for each of the most at once) goes too if
    /// nobody waits.
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(3);
    /// pool.shrink_to(1);
    /// assert_eq!(pool.stats().idle, 1);
    /// ```
    pub fn shrink_to(&self, keep: usize) {
        let Ok(mut desk) = self.lock() else {
            return;
        };
        let over = desk.take_over(keep);
        let seats = desk.queue.give_back();
        drop(desk);
        drop(seats);
        self.drop_all(over);
    }

    /// Closes the pool: idle objects are dropped, those that come back are
    /// dropped too, and who waits gets an error, as does who comes later.
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(1);
    /// let text = pool.acquire().unwrap();
    /// pool.close();
    /// assert!(pool.is_closed() && pool.try_acquire().is_none());
    /// drop(text);
    /// assert_eq!(pool.stats().discarded, 1);
    /// ```
    pub fn close(&self) {
        let Ok(mut desk) = self.lock() else {
            return;
        };
        let (wakers, objects) = desk.close();
        drop(desk);
        // Made before the wakers run, so that the objects are dropped also when one of those panics.
        let objects = lending::DropAll::new(self, objects);
        lending::WakeAll::new(wakers).run();
        objects.run();
    }

    /// Whether the pool was closed, or [lost in a fork](PoolError::is_lost_in_fork).
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(1);
    /// assert!(!pool.is_closed());
    /// pool.close();
    /// assert!(pool.is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        self.lock().map_or(true, |desk| desk.is_closed())
    }

    /// The figures of this pool, all of one moment; but an object that is acquired
    /// during the call may be in `out` and not yet in `reused` and `peak`. All are 0
    /// when the pool was [lost in a fork](PoolError::is_lost_in_fork).
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(2);
    /// let text = pool.try_acquire();
    /// let stats = pool.stats();
    /// assert_eq!((stats.idle, stats.out, stats.peak), (1, 1, 1));
    /// # drop(text);
    /// ```
    pub fn stats(&self) -> PoolStats {
        self.lock().map(|desk| desk.stats()).unwrap_or_default()
    }
}
