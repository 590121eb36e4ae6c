//! How objects are made, and what becomes of them when they come back.

use core::convert::Infallible;
use core::fmt;
use core::marker::PhantomData;

use crate::pool::error::Cause;
use crate::pool::object::Object;

/// What [`Manager::reset`] decides about an object that came back.
///
/// ```
/// use heapledger::pool::{FromFn, Pool, Reset};
///
/// // A connection that is no longer open is not given out again.
/// let reset = |open: &mut bool| if *open { Reset::Keep } else { Reset::Discard };
/// let pool = Pool::with_manager(FromFn::new(|| true).with_reset(reset));
/// *pool.acquire() = false;
/// assert_eq!((pool.stats().idle, pool.stats().discarded), (0, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reset {
    /// It may be given out again.
    Keep,
    /// The pool drops it.
    Discard,
}

/// Makes a pool's objects and makes them ready for their next use.
///
/// A pool calls its manager outside every lock, so both functions may take
/// their time, panic, or use the same pool. When one of them panics, the object
/// at hand is dropped, the pool stays whole, and the panic passes through to the
/// caller; swallowed is only that of a reset for a guard that a panic drops, see
/// [`OnPanic::Keep`](crate::pool::OnPanic::Keep).
///
/// ```
/// use heapledger::pool::{Manager, Pool, Reset};
///
/// struct Scratch;
///
/// impl Manager<Vec<u32>> for Scratch {
///     type Error = std::convert::Infallible;
///
///     fn create(&self) -> Result<Vec<u32>, Self::Error> {
///         Ok(Vec::with_capacity(256))
///     }
///
///     fn reset(&self, scratch: &mut Vec<u32>) -> Reset {
///         scratch.clear();
///         // One huge request is not to be paid for for ever.
///         if scratch.capacity() > 4096 { Reset::Discard } else { Reset::Keep }
///     }
/// }
///
/// let pool = Pool::with_manager(Scratch);
/// pool.acquire().extend(0..10);
/// assert!(pool.acquire().is_empty());
/// ```
pub trait Manager<T> {
    /// Why there is no object. [`Infallible`] when there always is one.
    type Error: Into<Box<dyn core::error::Error + Send + Sync>>;

    /// Whether [`reset`](Self::reset) does anything. A manager that leaves it
    /// alone may say `false`, and each return is spared an indirect call; the
    /// pool then never calls it.
    ///
    /// ```
    /// use heapledger::pool::{Manager, Pool, Reset};
    ///
    /// struct Pages;
    ///
    /// impl Manager<[u8; 4096]> for Pages {
    ///     type Error = std::convert::Infallible;
    ///     const RESETS: bool = false;
    ///
    ///     fn create(&self) -> Result<[u8; 4096], Self::Error> {
    ///         Ok([0; 4096])
    ///     }
    /// #     fn reset(&self, _: &mut [u8; 4096]) -> Reset { unreachable!() }
    /// }
    ///
    /// let pool = Pool::with_manager(Pages);
    /// pool.acquire()[0] = 7;
    /// assert_eq!(pool.acquire()[0], 7);
    /// ```
    const RESETS: bool = true;

    /// Makes an object, for a caller that found none idle.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// use heapledger::pool::{Manager, Pool};
    ///
    /// /// Gives out the numbers 0 and 1.
    /// struct Numbers(AtomicU32);
    ///
    /// impl Manager<u32> for Numbers {
    ///     type Error = String;
    ///
    ///     fn create(&self) -> Result<u32, String> {
    ///         let n = self.0.fetch_add(1, Ordering::Relaxed);
    ///         if n < 2 { Ok(n) } else { Err(format!("no number {n}")) }
    ///     }
    /// }
    ///
    /// let pool = Pool::with_manager(Numbers(AtomicU32::new(0)));
    /// let held = [pool.acquire(), pool.acquire()];
    /// assert_eq!((*held[0], *held[1]), (0, 1));
    /// assert!(pool.try_acquire().unwrap_err().is_create());
    /// ```
    ///
    /// # Errors
    /// When there is none to be had. The caller gets the error as the
    /// [`source`](core::error::Error::source) of a
    /// [`PoolError`](crate::pool::PoolError).
    fn create(&self) -> Result<T, Self::Error>;

    /// Makes an object that has come back ready for its next user, on the
    /// thread that gives it back. Without a `reset` of its own, a manager keeps
    /// what comes back as it is.
    ///
    /// ```
    /// use std::io::{Cursor, Write};
    ///
    /// use heapledger::pool::{Manager, Pool, Reset};
    ///
    /// struct Rewound;
    ///
    /// impl Manager<Cursor<Vec<u8>>> for Rewound {
    ///     type Error = std::convert::Infallible;
    ///
    ///     fn create(&self) -> Result<Cursor<Vec<u8>>, Self::Error> {
    ///         Ok(Cursor::default())
    ///     }
    ///
    ///     fn reset(&self, tape: &mut Cursor<Vec<u8>>) -> Reset {
    ///         tape.set_position(0);
    ///         Reset::Keep
    ///     }
    /// }
    ///
    /// let pool = Pool::with_manager(Rewound);
    /// pool.acquire().write_all(b"to the end").unwrap();
    /// assert_eq!(pool.acquire().position(), 0);
    /// ```
    fn reset(&self, object: &mut T) -> Reset {
        let _ = object;
        Reset::Keep
    }
}

/// A manager behind a pointer, so that a pool's type does not name it.
pub(crate) trait AnyManager<T> {
    /// Puts it where it stays before anybody hands it on: a large value that comes back
    /// through a pointer to a function is copied on the stack by each caller.
    fn create(&self) -> Result<Object<T>, Cause>;
    fn reset(&self, object: &mut T) -> Reset;
}

pub(crate) type BoxManager<T> = Box<dyn AnyManager<T> + Send + Sync>;

impl<T, M: Manager<T>> AnyManager<T> for M {
    fn create(&self) -> Result<Object<T>, Cause> {
        match Manager::create(self) {
            Ok(value) => Ok(Object::new(value)),
            Err(error) => Err(error.into()),
        }
    }

    fn reset(&self, object: &mut T) -> Reset {
        Manager::reset(self, object)
    }
}

/// Creates with a closure and keeps what comes back as it is.
/// [`Pool::from_fn`](crate::pool::Pool::from_fn) uses it.
///
/// ```
/// use heapledger::pool::{FromFn, Pool};
///
/// let pool = Pool::with_manager(FromFn::new(|| vec![0; 4]));
/// pool.acquire()[0] = 7;
/// assert_eq!(*pool.acquire(), [7, 0, 0, 0]);
/// ```
#[derive(Clone, Copy)]
pub struct FromFn<F> {
    create: F,
}

impl<F> FromFn<F> {
    /// A manager that creates by `create`.
    ///
    /// ```
    /// use heapledger::pool::{BoundedPool, FromFn};
    ///
    /// let pool = BoundedPool::with_manager(2, FromFn::new(|| [0u8; 512]));
    /// assert_eq!(pool.try_acquire().unwrap().len(), 512);
    /// ```
    pub const fn new(create: F) -> Self {
        Self { create }
    }

    /// The same manager with a function that makes an object ready again.
    ///
    /// ```
    /// use heapledger::pool::{FromFn, Pool, Reset};
    ///
    /// let pool = Pool::with_manager(FromFn::new(String::new).with_reset(|text: &mut String| {
    ///     text.clear();
    ///     Reset::Keep
    /// }));
    /// pool.acquire().push_str("left over");
    /// assert_eq!(*pool.acquire(), "");
    /// ```
    pub const fn with_reset<R>(self, reset: R) -> FromFns<F, R> {
        FromFns {
            create: self,
            reset,
        }
    }
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").finish_non_exhaustive()
    }
}

impl<T, F: Fn() -> T> Manager<T> for FromFn<F> {
    type Error = Infallible;
    const RESETS: bool = false;

    fn create(&self) -> Result<T, Infallible> {
        Ok((self.create)())
    }
}

/// Creates with one closure and resets with another; see [`FromFn::with_reset`].
///
/// ```
/// use heapledger::pool::{BoundedPool, FromFn, FromFns, Reset};
///
/// fn wipe(key: &mut [u8; 32]) -> Reset {
///     key.fill(0);
///     Reset::Keep
/// }
///
/// let keys: FromFns<_, _> = FromFn::new(|| [0; 32]).with_reset(wipe);
/// let pool = BoundedPool::with_manager(1, keys);
/// pool.try_acquire().unwrap()[0] = 42;
/// assert_eq!(pool.try_acquire().unwrap()[0], 0);
/// ```
#[derive(Clone, Copy)]
pub struct FromFns<F, R> {
    create: FromFn<F>,
    reset: R,
}

impl<F, R> fmt::Debug for FromFns<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFns").finish_non_exhaustive()
    }
}

impl<T, F: Fn() -> T, R: Fn(&mut T) -> Reset> Manager<T> for FromFns<F, R> {
    type Error = Infallible;

    fn create(&self) -> Result<T, Infallible> {
        Manager::create(&self.create)
    }

    fn reset(&self, object: &mut T) -> Reset {
        (self.reset)(object)
    }
}

/// Creates with a closure that may fail, and keeps what comes back as it is.
///
/// A failure costs a pool nothing: the next caller that finds no idle object
/// tries again.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use heapledger::pool::{BoundedPool, TryFromFn};
///
/// static IS_UP: AtomicBool = AtomicBool::new(false);
///
/// let connect = || IS_UP.load(Ordering::Relaxed).then(String::new).ok_or("no route");
/// let pool = BoundedPool::with_manager(1, TryFromFn::new(connect));
/// assert!(pool.acquire().is_err());
/// IS_UP.store(true, Ordering::Relaxed);
/// assert!(pool.acquire().is_ok());
/// ```
#[derive(Clone, Copy)]
pub struct TryFromFn<F> {
    create: F,
}

impl<F> TryFromFn<F> {
    /// A manager that creates by `create`.
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use heapledger::pool::{BoundedPool, TryFromFn};
    ///
    /// let pool = BoundedPool::with_manager(2, TryFromFn::new(|| File::open("/does/not/exist")));
    /// assert!(pool.acquire().unwrap_err().is_create());
    /// ```
    pub const fn new(create: F) -> Self {
        Self { create }
    }
}

impl<F> fmt::Debug for TryFromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryFromFn").finish_non_exhaustive()
    }
}

impl<T, E: Into<Cause>, F: Fn() -> Result<T, E>> Manager<T> for TryFromFn<F> {
    type Error = E;
    const RESETS: bool = false;

    fn create(&self) -> Result<T, E> {
        (self.create)()
    }
}

/// Creates by [`Default`] and keeps what comes back as it is.
///
/// ```
/// use heapledger::pool::{Defaults, Pool};
///
/// let pool = Pool::with_manager(Defaults::<String>::new());
/// assert_eq!(*pool.acquire(), "");
/// ```
pub struct Defaults<T> {
    creates: PhantomData<fn() -> T>,
}

impl<T> Defaults<T> {
    /// A manager that creates by `T::default`.
    ///
    /// ```
    /// use heapledger::pool::{BoundedPool, Defaults};
    ///
    /// let pool = BoundedPool::with_manager(8, Defaults::<String>::new());
    /// assert_eq!(*pool.try_acquire().unwrap(), "");
    /// assert_eq!(pool.stats().created, 1); // `BoundedPool::new` builds all eight
    /// ```
    pub const fn new() -> Self {
        Self {
            creates: PhantomData,
        }
    }
}

impl<T> Default for Defaults<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Defaults<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Defaults")
    }
}

impl<T: Default> Manager<T> for Defaults<T> {
    type Error = Infallible;
    const RESETS: bool = false;

    fn create(&self) -> Result<T, Infallible> {
        Ok(T::default())
    }
}
