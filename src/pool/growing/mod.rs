//! The pool that creates on a miss.

mod shelving;
mod upkeep;

use core::fmt;
use core::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::pool::builder::{OnPanic, PoolBuilder};
use crate::pool::census::Census;
use crate::pool::depot::Depot;
use crate::pool::error::PoolError;
use crate::pool::guard::{OwnedPooled, Pooled};
use crate::pool::line::{Base, Room};
use crate::pool::local;
use crate::pool::manager::{BoxManager, Manager};
use crate::pool::object::Object;
use crate::pool::table::Table;
use crate::sync::AtomicU32;

/// A pool that gives out an idle object, or creates one when there is none.
///
/// [The module](crate::pool) tells how it works, what it costs and when it pays.
///
/// ```
/// use heapledger::pool::Pool;
///
/// let pool = Pool::from_fn(|| Vec::<u8>::with_capacity(1024));
/// let mut buffer = pool.acquire();
/// buffer.extend_from_slice(b"one request");
/// drop(buffer); // back to the pool
/// assert_eq!(pool.acquire().capacity(), 1024);
/// assert_eq!(pool.stats().created, 1);
/// ```
///
/// A `Pool<T>` is `Send` and `Sync` if `T` is `Send`; `T` need not be `Sync`,
/// because an object is in one place at a time.
pub struct Pool<T> {
    /// Counts how often the pool was cleared; a line of an older epoch gives up its objects.
    epoch: AtomicU32,
    /// How many objects a line may hold.
    room: Room,
    on_panic: OnPanic,
    resets: bool,
    manager: BoxManager<T>,
    table: Table<T>,
    depot: Apart<Depot<T>>,
    census: Apart<Census>,
}

/// On cache lines of its own: all threads write here, and all read the rest.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<V>(V);

// Whoever panics in between leaves the pool whole; see the module.
impl<T: UnwindSafe> UnwindSafe for Pool<T> {}
impl<T: UnwindSafe> RefUnwindSafe for Pool<T> {}

impl<T> Pool<T> {
    /// A pool whose objects `create` makes and that come back as they are.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::from_fn(|| Vec::<u8>::with_capacity(1024));
    /// assert_eq!(pool.acquire().capacity(), 1024);
    /// ```
    pub fn from_fn(create: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self::builder().from_fn(create)
    }

    /// A pool whose objects a [`Manager`] makes and resets.
    ///
    /// ```
    /// use heapledger::pool::{Clearing, Pool};
    ///
    /// let pool = Pool::with_manager(Clearing::<String>::with_capacity(64));
    /// pool.acquire().push_str("left over");
    /// assert_eq!(*pool.acquire(), "");
    /// ```
    pub fn with_manager(manager: impl Manager<T> + Send + Sync + 'static) -> Self {
        Self::builder().with_manager(manager)
    }

    pub(crate) fn build<M>(options: &PoolBuilder<T>, manager: M) -> Self
    where
        M: Manager<T> + Send + Sync + 'static,
    {
        let room = if options.local_cache {
            Room::at_most(options.max_idle)
        } else {
            Room::NONE
        };
        Self {
            epoch: AtomicU32::new(0),
            room,
            on_panic: options.on_panic,
            resets: M::RESETS,
            manager: Box::new(manager),
            table: Table::new(),
            depot: Apart(Depot::new(options.max_idle, room.objects().div_ceil(2))),
            census: Apart(Census::default()),
        }
    }

    /// Gives an idle object, or a new one.
    ///
    /// ```
    /// let pool = heapledger::pool::Pool::from_fn(String::new);
    /// pool.acquire().push('x'); // and back
    /// let (first, second) = (pool.acquire(), pool.acquire());
    /// assert_eq!((first.as_str(), second.as_str()), ("x", ""));
    /// ```
    ///
    /// # Panics
    /// When there is no idle object and the manager fails to create one; see
    /// [`try_acquire`](Self::try_acquire). Managers that cannot fail, such as that of
    /// [`from_fn`](Self::from_fn), never cause it.
    #[inline]
    #[track_caller]
    pub fn acquire(&self) -> Pooled<'_, T> {
        Pooled::new(self, self.object())
    }

    /// The same for a guard that is `'static` and keeps the pool alive.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// let pool = Arc::new(heapledger::pool::Pool::from_fn(String::new));
    /// let mut text = pool.acquire_owned();
    /// std::thread::spawn(move || text.push('x')).join().unwrap();
    /// assert_eq!((pool.stats().out, pool.stats().idle), (0, 1));
    /// ```
    ///
    /// # Panics
    /// As [`acquire`](Self::acquire).
    #[inline]
    #[track_caller]
    pub fn acquire_owned(self: &Arc<Self>) -> OwnedPooled<T> {
        let object = self.object();
        OwnedPooled::new(Arc::clone(self), object)
    }

    /// Gives an idle object, or a new one, or the reason why there is none.
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use heapledger::pool::{Pool, TryFromFn};
    ///
    /// let pool = Pool::with_manager(TryFromFn::new(|| File::open("/does/not/exist")));
    /// assert!(pool.try_acquire().unwrap_err().is_create());
    /// ```
    ///
    /// # Errors
    /// When there is no idle object and the manager fails to create one.
    #[inline]
    pub fn try_acquire(&self) -> Result<Pooled<'_, T>, PoolError> {
        let object = match self.pop() {
            Some(object) => object,
            None => self.fetch_or_create()?,
        };
        Ok(Pooled::new(self, object))
    }

    #[inline]
    #[track_caller]
    fn object(&self) -> Object<T> {
        match self.pop() {
            Some(object) => object,
            None => self.fetch_or_panic(),
        }
    }

    /// The newest object of the calling thread's line.
    #[inline]
    fn pop(&self) -> Option<Object<T>> {
        local::line(&self.table)?.pop(self.base())
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        // In one vector, which drops the rest when one of them panics.
        let mut objects = Vec::new();
        local::for_each_line(&mut self.table, |line| {
            line.empty(Base::of(0), &mut objects);
        });
        // Whoever held the depot at a fork was moving objects between it and its line: they may
        // lie in both, or in the line twice. Which thread it was nobody knows.
        if self.depot.0.forget_if_lost() {
            return core::mem::forget(objects);
        }
        self.depot.0.keep(0, &mut objects);
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
