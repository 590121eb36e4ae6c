//! The pool that never has more than `capacity` objects alive.
//!
//! One lock, because to wait in turn is to agree on an order, and whoever needs a
//! bound pays for the agreement; beside it one [spare](crate::pool::spare) object,
//! which costs half as much while nobody waits. Under the lock only pointers and numbers move; no
//! user's code runs there, wakers included.

mod future;
mod lending;
mod upkeep;
mod waiting;

use core::fmt;
use core::marker::PhantomData;
use core::panic::{RefUnwindSafe, UnwindSafe};

pub use future::AcquireAsync;

use crate::pool::builder::OnPanic;
use crate::pool::desk::Desk;
use crate::pool::error::PoolError;
use crate::pool::manager::{BoxManager, Defaults, FromFn, Manager};

/// A pool of at most `capacity` objects, for which callers wait in turn.
///
/// ```
/// use heapledger::pool::BoundedPool;
///
/// let pool = BoundedPool::<Vec<u8>>::new(2); // both are built here
/// let first = pool.try_acquire().unwrap();
/// let second = pool.try_acquire().unwrap();
/// assert!(pool.try_acquire().is_none());
/// drop(first);
/// assert!(pool.try_acquire().is_some());
/// # drop(second);
/// ```
///
/// | call | when all are out |
/// |---|---|
/// | [`try_acquire`](Self::try_acquire) | `None` |
/// | [`acquire`](Self::acquire) | the thread waits |
/// | [`acquire_timeout`](Self::acquire_timeout) | the thread waits, but not for ever |
/// | [`acquire_async`](Self::acquire_async) | the task waits |
///
/// Threads and tasks wait in one queue and are served in the order in which they
/// came: an object that comes back is handed to the first of them, so no later
/// call can snatch it. A permit is never lost: not by a panic in the manager, not
/// by a future that is dropped, not by a wait that times out.
///
/// A thread that waits for an object that it holds itself waits for ever.
pub struct BoundedPool<T> {
    desk: Desk<T>,
    capacity: usize,
    on_panic: OnPanic,
    resets: bool,
    manager: BoxManager<T>,
}

// Whoever panics in between leaves the pool whole.
impl<T: UnwindSafe> UnwindSafe for BoundedPool<T> {}
impl<T: UnwindSafe> RefUnwindSafe for BoundedPool<T> {}

/// The settings of a [`BoundedPool`]; from [`BoundedPool::builder`].
///
/// ```
/// use heapledger::pool::{BoundedPool, FromFn, OnPanic};
///
/// let pool = BoundedPool::builder(4)
///     .on_panic(OnPanic::Keep)
///     .build(FromFn::new(String::new))
///     .unwrap();
/// assert_eq!(pool.capacity(), 4);
/// ```
#[must_use = "a builder does nothing until it is given a manager"]
pub struct BoundedPoolBuilder<T> {
    capacity: usize,
    on_panic: OnPanic,
    builds: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for BoundedPoolBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedPoolBuilder")
            .field("capacity", &self.capacity)
            .field("on_panic", &self.on_panic)
            .finish()
    }
}

impl<T> BoundedPoolBuilder<T> {
    /// What becomes of an object whose guard is dropped by a panic. Without this
    /// call it is dropped, and another may be created in its place.
    ///
    /// ```
    /// use heapledger::pool::{BoundedPool, FromFn, OnPanic};
    ///
    /// let keeping = BoundedPool::builder(1).on_panic(OnPanic::Keep);
    /// let numbers = keeping.build(FromFn::new(|| 1)).unwrap();
    /// let panicked = std::panic::catch_unwind(|| {
    ///     let mut number = numbers.acquire().unwrap();
    ///     *number = 2;
    ///     panic!("half way");
    /// });
    /// assert!(panicked.is_err());
    /// assert_eq!(*numbers.acquire().unwrap(), 2); // no reset: as it was left
    /// ```
    pub fn on_panic(self, on_panic: OnPanic) -> Self {
        Self { on_panic, ..self }
    }

    /// The pool, with objects that `manager` makes when they are first needed.
    ///
    /// ```
    /// use heapledger::pool::{BoundedPool, Defaults};
    ///
    /// let error = BoundedPool::builder(0).build(Defaults::<String>::new()).unwrap_err();
    /// assert!(error.is_zero_capacity());
    /// ```
    ///
    /// # Errors
    /// When the capacity is 0.
    pub fn build<M>(self, manager: M) -> Result<BoundedPool<T>, PoolError>
    where
        M: Manager<T> + Send + Sync + 'static,
    {
        if self.capacity == 0 {
            return Err(PoolError::zero_capacity());
        }
        Ok(BoundedPool {
            desk: Desk::new(self.capacity),
            capacity: self.capacity,
            on_panic: self.on_panic,
            resets: M::RESETS,
            manager: Box::new(manager),
        })
    }
}

impl<T> BoundedPool<T> {
    /// A pool of `capacity` default values, all built up front.
    ///
    /// They come back as they are; for collections that should come back empty
    /// see [`Clearing`](crate::pool::Clearing).
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(3);
    /// assert_eq!(pool.stats().idle, 3);
    /// ```
    ///
    /// # Panics
    /// When `capacity` is 0; see [`builder`](Self::builder) for an error instead.
    #[track_caller]
    pub fn new(capacity: usize) -> Self
    where
        T: Default + 'static,
    {
        let pool = Self::with_manager(capacity, Defaults::new());
        match pool.prewarm(capacity) {
            Ok(()) => pool,
            Err(error) => panic!("{error}"),
        }
    }

    /// A pool of at most `capacity` objects, which `create` makes when they are
    /// first needed and which come back as they are.
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::from_fn(3, || vec![0u8; 512]);
    /// assert_eq!(pool.stats().created, 0);
    /// assert_eq!(pool.try_acquire().unwrap().len(), 512);
    /// ```
    ///
    /// # Panics
    /// When `capacity` is 0; see [`builder`](Self::builder) for an error instead.
    #[track_caller]
    pub fn from_fn(capacity: usize, create: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self::with_manager(capacity, FromFn::new(create))
    }

    /// A pool of at most `capacity` objects, which a [`Manager`] makes when they
    /// are first needed, and resets.
    ///
    /// ```
    /// use heapledger::pool::{BoundedPool, Clearing};
    ///
    /// let pool = BoundedPool::with_manager(3, Clearing::<Vec<u8>>::with_capacity(1024));
    /// assert_eq!(pool.try_acquire().unwrap().capacity(), 1024);
    /// ```
    ///
    /// # Panics
    /// When `capacity` is 0; see [`builder`](Self::builder) for an error instead.
    #[track_caller]
    pub fn with_manager(capacity: usize, manager: impl Manager<T> + Send + Sync + 'static) -> Self {
        match Self::builder(capacity).build(manager) {
            Ok(pool) => pool,
            Err(error) => panic!("{error}"),
        }
    }

    /// The settings to start from: objects of panicking threads are dropped.
    ///
    /// ```
    /// use heapledger::pool::{BoundedPool, Defaults};
    ///
    /// let pool = BoundedPool::builder(2).build(Defaults::<String>::new()).unwrap();
    /// assert_eq!(pool.capacity(), 2);
    /// ```
    pub const fn builder(capacity: usize) -> BoundedPoolBuilder<T> {
        BoundedPoolBuilder {
            capacity,
            on_panic: OnPanic::Discard,
            builds: PhantomData,
        }
    }

    /// How many objects there may be at once.
    ///
    /// ```
    /// assert_eq!(heapledger::pool::BoundedPool::<String>::new(3).capacity(), 3);
    /// ```
    pub const fn capacity(&self) -> usize {
        self.capacity
    }
}

impl<T> fmt::Debug for BoundedPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedPool")
            .field("capacity", &self.capacity)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
