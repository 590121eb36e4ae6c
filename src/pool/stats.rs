//! What a pool tells about itself.

/// The figures of a pool at some moment.
///
/// While other threads use the pool, each figure is of a slightly different
/// moment; when nobody does, all are exact and
/// `created + attached == idle + out + detached + discarded`.
///
/// ```
/// use heapledger::pool::Pool;
///
/// let pool = Pool::from_fn(|| [0u8; 64]);
/// let first = pool.acquire();
/// drop(pool.acquire());
/// drop(pool.acquire());
///
/// let stats = pool.stats();
/// assert_eq!((stats.created, stats.reused), (2, 1));
/// assert_eq!((stats.out, stats.idle), (1, 1));
/// # drop(first);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PoolStats {
    /// Objects that the manager created.
    pub created: u64,
    /// Acquisitions that needed no new object.
    pub reused: u64,
    /// Objects that were put in from outside.
    pub attached: u64,
    /// Objects that were taken out for good.
    pub detached: u64,
    /// Objects that the pool dropped: by `discard`, because a reset said so or
    /// panicked, because a panic dropped their guard, because there was no room for
    /// them, and by `clear`, `shrink_to` and `close`.
    pub discarded: u64,
    /// Objects in the pool, ready to be acquired.
    pub idle: u64,
    /// Objects in the hands of guards, those of forgotten guards among them; and
    /// in a bounded pool those that a call is just creating or dropping.
    pub out: u64,
    /// Threads and tasks that wait for an object of a bounded pool; 0 for a
    /// [`Pool`](crate::pool::Pool), where nobody waits.
    pub waiting: u64,
    /// The most objects that were out at once.
    ///
    /// For a [`BoundedPool`](crate::pool::BoundedPool) exact, but that two calls at the
    /// very same moment may count as one after the other. A
    /// [`Pool`](crate::pool::Pool) counts only what is created, put in, taken out for
    /// good and dropped, and gives the most that were *alive* at once, which is at least
    /// that.
    pub peak: u64,
}
