//! The settings of a pool.

use core::fmt;
use core::marker::PhantomData;

use crate::pool::growing::Pool;
use crate::pool::manager::{FromFn, Manager};

/// What becomes of an object whose guard is dropped by a panic.
///
/// ```
/// use heapledger::pool::{OnPanic, Pool};
///
/// fn idle_after_a_panic(on_panic: OnPanic) -> u64 {
///     let pool = Pool::builder().on_panic(on_panic).from_fn(String::new);
///     let panicked = std::panic::catch_unwind(|| {
///         let _text = pool.acquire();
///         panic!("half way");
///     });
///     assert!(panicked.is_err());
///     pool.stats().idle
/// }
/// assert_eq!(idle_after_a_panic(OnPanic::Discard), 0);
/// assert_eq!(idle_after_a_panic(OnPanic::Keep), 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnPanic {
    /// It is dropped: whoever panicked may have left it half changed. So is one that a
    /// destructor takes and gives back while its thread is panicking.
    #[default]
    Discard,
    /// It is reset and kept, for objects that a reset makes good again. A panic of
    /// the reset is swallowed then, and the object dropped. Where the manager does
    /// not reset ([`Manager::RESETS`]), the object is kept as it is.
    Keep,
}

/// The settings of a [`Pool`]; from [`Pool::builder`].
///
/// ```
/// use heapledger::pool::{OnPanic, Pool};
///
/// let pool = Pool::builder()
///     .max_idle(2)
///     .without_local_cache()
///     .on_panic(OnPanic::Keep)
///     .from_fn(String::new);
/// drop([pool.acquire(), pool.acquire(), pool.acquire()]);
/// assert_eq!(pool.stats().idle, 2);
/// ```
#[must_use = "a builder does nothing until it is given a manager"]
pub struct PoolBuilder<T> {
    pub(crate) max_idle: usize,
    pub(crate) local_cache: bool,
    pub(crate) on_panic: OnPanic,
    builds: PhantomData<fn() -> T>,
}

impl<T> Pool<T> {
    /// The settings to start from: no cap on idle objects, a cache for each thread,
    /// objects of panicking threads dropped.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::builder().from_fn(String::new);
    /// drop([(); 100].map(|()| pool.acquire()));
    /// assert_eq!(pool.stats().idle, 100);
    /// ```
    pub fn builder() -> PoolBuilder<T> {
        PoolBuilder {
            max_idle: usize::MAX,
            local_cache: true,
            on_panic: OnPanic::default(),
            builds: PhantomData,
        }
    }
}

impl<T> PoolBuilder<T> {
    /// Keeps at most `objects` idle where all threads find them; what comes back
    /// beyond that is dropped. Each thread's own cache holds up to 62 more, or
    /// `objects` if that is fewer.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::builder().max_idle(0).from_fn(String::new);
    /// drop(pool.acquire());
    /// assert_eq!(pool.stats().discarded, 1);
    /// ```
    pub fn max_idle(self, objects: usize) -> Self {
        Self {
            max_idle: objects,
            ..self
        }
    }

    /// Keeps nothing for single threads: every acquire and return takes the lock,
    /// and no object is idle where another thread cannot find it. For few and
    /// large objects.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::builder().without_local_cache().from_fn(String::new);
    /// std::thread::scope(|s| s.spawn(|| drop(pool.acquire())).join()).unwrap();
    /// drop(pool.acquire());
    /// assert_eq!(pool.stats().created, 1);
    /// ```
    pub fn without_local_cache(self) -> Self {
        Self {
            local_cache: false,
            ..self
        }
    }

    /// What becomes of an object whose guard is dropped by a panic. Without this
    /// call it is dropped.
    ///
    /// ```
    /// use heapledger::pool::{Clearing, OnPanic, Pool};
    ///
    /// // Whatever a panic leaves in it, a buffer that is emptied is as good as new.
    /// let buffers = Clearing::<String>::with_capacity(64);
    /// let pool = Pool::builder().on_panic(OnPanic::Keep).with_manager(buffers);
    /// let panicked = std::panic::catch_unwind(|| {
    ///     let mut text = pool.acquire();
    ///     text.push_str("half");
    ///     panic!("way");
    /// });
    /// assert!(panicked.is_err() && pool.acquire().is_empty());
    /// assert_eq!(pool.stats().created, 1);
    /// ```
    pub fn on_panic(self, on_panic: OnPanic) -> Self {
        Self { on_panic, ..self }
    }

    /// The pool, with objects that `create` makes.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::builder().from_fn(|| [0u8; 64]);
    /// assert_eq!(pool.acquire().len(), 64);
    /// ```
    pub fn from_fn(self, create: impl Fn() -> T + Send + Sync + 'static) -> Pool<T> {
        self.with_manager(FromFn::new(create))
    }

    /// The pool, with objects that a [`Manager`] makes and resets.
    ///
    /// ```
    /// use heapledger::pool::{Defaults, Pool};
    ///
    /// let pool = Pool::builder().with_manager(Defaults::<String>::new());
    /// assert!(pool.acquire().is_empty());
    /// ```
    pub fn with_manager(self, manager: impl Manager<T> + Send + Sync + 'static) -> Pool<T> {
        Pool::build(&self, manager)
    }
}

impl<T> fmt::Debug for PoolBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("max_idle", &self.max_idle)
            .field("local_cache", &self.local_cache)
            .field("on_panic", &self.on_panic)
            .finish()
    }
}
