//! The pool that creates on a miss.

use core::fmt;
use core::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::pool::builder::{OnPanic, PoolBuilder};
use crate::pool::census::Census;
use crate::pool::depot::Depot;
use crate::pool::error::PoolError;
use crate::pool::guard::{Home, Life, OwnedPooled, Pooled, TakesBack};
use crate::pool::line::{Base, Line, Own, Room};
use crate::pool::local;
use crate::pool::manager::{BoxManager, Manager, Reset};
use crate::pool::object::Object;
use crate::pool::stats::PoolStats;
use crate::pool::table::Table;
use crate::sync::{AtomicU32, Ordering};

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
    /// assert!(pool.acquire().is_empty());
    /// ```
    ///
    /// # Panics
    /// When there is no idle object and the manager fails to create one; see
    /// [`try_acquire`](Self::try_acquire). Managers that cannot fail, such as that of
    /// [`from_fn`](Self::from_fn), never cause it.
    #[inline]
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
    /// ```
    ///
    /// # Panics
    /// As [`acquire`](Self::acquire).
    #[inline]
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

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn fetch_or_panic(&self) -> Object<T> {
        match self.fetch_or_create() {
            Ok(object) => object,
            Err(error) => fail(&error),
        }
    }

    #[cold]
    #[inline(never)]
    fn fetch_or_create(&self) -> Result<Object<T>, PoolError> {
        let line = self.settled_line();
        // A thread that has only now got its line may have inherited objects with it.
        let inherited = line.and_then(|line| line.pop(self.base()));
        match inherited.or_else(|| self.depot.0.take(line)) {
            Some(object) => Ok(object),
            None => self.create(),
        }
    }

    fn create(&self) -> Result<Object<T>, PoolError> {
        let value = self.manager.create().map_err(PoolError::create)?;
        self.census.0.create();
        Ok(Object::new(value))
    }

    #[inline]
    fn base(&self) -> Base {
        Base::of(self.epoch.load(Ordering::Relaxed))
    }

    /// The calling thread's line, made if need be, and of this epoch.
    fn settled_line(&self) -> Option<Own<'_, T>> {
        if self.room == Room::NONE {
            return None;
        }
        let line = local::line_or_grow(&self.table)?;
        let base = self.base();
        if !line.is_current(base) {
            let mut old = Vec::new();
            line.empty(base, &mut old);
            self.drop_all(old);
        }
        Some(line)
    }

    /// Puts an object that is ready for its next user where it will be found.
    #[inline]
    fn shelve(&self, object: Object<T>) {
        let object = match local::line(&self.table) {
            Some(line) => match line.push(self.base(), self.room, object) {
                Ok(()) => return,
                Err(object) => object,
            },
            None => object,
        };
        self.shelve_slowly(object);
    }

    #[cold]
    #[inline(never)]
    fn shelve_slowly(&self, object: Object<T>) {
        let at_hand = AtHand::new(self, object);
        let line = self.settled_line();
        let mut object = at_hand.into_object();
        if let Some(line) = line {
            if line.length() >= self.room.objects() {
                self.depot.0.relieve(line);
            }
            object = match line.push(self.base(), self.room, object) {
                Ok(()) => return,
                Err(object) => object,
            };
        }
        if let Err(over) = self.depot.0.put(object) {
            self.drop_one(over);
        }
    }

    /// Asks the manager, outside every lock and with the object in nobody else's
    /// hands.
    fn reset(&self, object: Object<T>) -> Option<Object<T>> {
        let mut at_hand = AtHand::new(self, object);
        match self.manager.reset(at_hand.value()) {
            Reset::Keep => Some(at_hand.into_object()),
            Reset::Discard => None,
        }
    }

    /// Takes an object back that is to be asked about first.
    #[inline(never)]
    fn examine(&self, object: Object<T>, life: Life) {
        let object = match (life, self.on_panic) {
            (Life::Panicking, OnPanic::Discard) => return self.drop_one(object),
            _ if !self.resets => Some(object),
            (Life::Normal, _) => self.reset(object),
            (Life::Panicking, OnPanic::Keep) => {
                // A second panic must not leave the destructor that we are in: the process would abort.
                let reset = core::panic::AssertUnwindSafe(|| self.reset(object));
                std::panic::catch_unwind(reset).unwrap_or(None)
            }
        };
        if let Some(object) = object {
            self.shelve(object);
        }
    }

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

    /// Drops all idle objects, as [`shrink_to`](Self::shrink_to)`(0)`.
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
    /// What other threads that are still running keep for themselves (at most 30
    /// objects each, some of them perhaps inherited from a thread that has ended)
    /// they drop when they next use the pool, because only they can touch it.
    /// Until then it counts as idle.
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
        let last = self.epoch.fetch_add(Base::NEXT, Ordering::Relaxed);
        let base = Base::of(last.wrapping_add(Base::NEXT));
        let mut objects = Vec::new();
        local::for_each_free_line(&self.table, |line| line.empty(base, &mut objects));
        if let Some(line) = local::line(&self.table) {
            line.empty(base, &mut objects);
        }
        self.depot.0.keep(keep, &mut objects);
        self.drop_all(objects);
    }

    fn idle(&self) -> u64 {
        let lines: u64 = self.table.lines().map(Line::idle).sum();
        lines + self.depot.0.idle() as u64
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
        stats.out = self.census.0.alive(&stats).saturating_sub(stats.idle);
        let lines: u64 = self.table.lines().map(Line::taken).sum();
        stats.reused = lines + self.depot.0.taken();
        stats
    }

    /// Drops objects; each of them, also when one of them panics.
    fn drop_all(&self, objects: Vec<Object<T>>) {
        self.census.0.discard(objects.len());
        drop(objects);
    }
}

#[cold]
#[track_caller]
fn fail(error: &PoolError) -> ! {
    match core::error::Error::source(error) {
        Some(cause) => panic!("{error}: {cause}"),
        None => panic!("{error}"),
    }
}

/// An object at hand while a user's code runs: if that panics, the object is
/// dropped and counted.
struct AtHand<'a, T> {
    pool: &'a Pool<T>,
    object: Option<Object<T>>,
}

impl<'a, T> AtHand<'a, T> {
    fn new(pool: &'a Pool<T>, object: Object<T>) -> Self {
        Self {
            pool,
            object: Some(object),
        }
    }

    fn value(&mut self) -> &mut T {
        match &mut self.object {
            Some(object) => object.value_mut(),
            None => unreachable!("taken only by value"),
        }
    }

    fn into_object(mut self) -> Object<T> {
        match self.object.take() {
            Some(object) => object,
            None => unreachable!("taken only by value"),
        }
    }
}

impl<T> Drop for AtHand<'_, T> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.pool.drop_one(object);
        }
    }
}

impl<T> Home<T> for Pool<T> {}

impl<T> TakesBack<T> for Pool<T> {
    #[inline]
    fn take_back(&self, object: Object<T>, life: Life) {
        if self.resets || life == Life::Panicking {
            return self.examine(object, life);
        }
        self.shelve(object);
    }

    fn drop_one(&self, object: Object<T>) {
        self.census.0.discard(1);
        drop(object);
    }

    fn let_go(&self, object: Object<T>) -> T {
        self.census.0.detach();
        object.into_value()
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        // In one vector, which drops the rest when one of them panics.
        let mut objects = Vec::new();
        local::for_each_line(&mut self.table, |line| {
            line.empty(Base::of(0), &mut objects);
        });
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
