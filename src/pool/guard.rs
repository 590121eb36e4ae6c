//! Objects in a user's hands.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::pool::growing::Pool;
use crate::pool::object::Object;

/// A pool that guards can come from: [`Pool`] or
/// [`BoundedPool`](crate::pool::BoundedPool). Sealed.
///
/// For functions that take guards of both:
///
/// ```
/// use heapledger::pool::{BoundedPool, Home, Pool, Pooled};
///
/// fn greet<P: Home<String>>(mut text: Pooled<'_, String, P>) -> usize {
///     text.push_str("hello");
///     text.len()
/// }
///
/// let (pool, bounded) = (Pool::from_fn(String::new), BoundedPool::<String>::new(1));
/// assert_eq!(greet(pool.acquire()), 5);
/// assert_eq!(greet(bounded.try_acquire().unwrap()), 5);
/// ```
pub trait Home<T>: TakesBack<T> {}

/// What the thread that drops a guard is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    unnameable_types,
    reason = "in a method of the trait that seals `Home`"
)]
pub enum Life {
    Normal,
    Panicking,
}

impl Life {
    #[inline]
    fn now() -> Self {
        if std::thread::panicking() {
            Self::Panicking
        } else {
            Self::Normal
        }
    }
}

/// What a guard asks of its pool.
#[expect(unnameable_types, reason = "it seals `Home`")]
pub trait TakesBack<T> {
    /// The guard is gone.
    fn take_back(&self, object: Object<T>, life: Life);
    /// The object is to be dropped.
    fn drop_one(&self, object: Object<T>);
    /// The object leaves the pool.
    fn let_go(&self, object: Object<T>) -> T;
}

/// An object on loan from a pool, which gets it back when this is dropped.
///
/// Made by [`Pool::acquire`], and by
/// [`BoundedPool::acquire`](crate::pool::BoundedPool::acquire) and its kin as
/// `Pooled<'_, T, BoundedPool<T>>`. From a `&'static Pool` it is `'static`
/// itself; from an [`Arc`] there is [`OwnedPooled`].
///
/// A guard may be dropped on any thread, after the thread's locals are gone, and
/// while the thread is panicking; see [`OnPanic`](crate::pool::OnPanic). One that
/// is forgotten ([`core::mem::forget`]) leaks its object, which stays
/// [`out`](crate::pool::PoolStats::out): a
/// [`BoundedPool`](crate::pool::BoundedPool) has one object less to give from then
/// on. A forgotten [`OwnedPooled`] also keeps its pool alive for ever.
///
/// ```
/// use heapledger::pool::Pool;
///
/// let pool = Pool::from_fn(|| Vec::<u8>::with_capacity(1024));
/// let mut buffer = pool.acquire();
/// buffer.push(1);
/// assert_eq!(*buffer, [1]);
/// ```
#[must_use = "a guard that is dropped at once gives the object back at once"]
pub struct Pooled<'a, T, P: Home<T> = Pool<T>> {
    home: &'a P,
    // Invariant: there is an object until `into_parts` or `Drop` has taken it.
    object: ManuallyDrop<Object<T>>,
}

/// The same from an [`Arc`] of a pool, which it keeps alive.
///
/// Costs two atomic read-modify-writes more than a [`Pooled`], those of the `Arc`.
/// A `&'static Pool` needs none of this: its guards are `'static`.
///
/// ```
/// use std::sync::Arc;
///
/// use heapledger::pool::Pool;
///
/// let pool = Arc::new(Pool::from_fn(String::new));
/// let mut text = pool.acquire_owned();
/// drop(pool);
/// let worker = std::thread::spawn(move || {
///     text.push_str("still here");
///     text
/// });
/// assert_eq!(*worker.join().unwrap(), "still here");
/// ```
#[must_use = "a guard that is dropped at once gives the object back at once"]
pub struct OwnedPooled<T, P: Home<T> = Pool<T>> {
    home: ManuallyDrop<Arc<P>>,
    // Invariant: there are both until `into_parts` or `Drop` has taken them.
    object: ManuallyDrop<Object<T>>,
}

impl<'a, T, P: Home<T>> Pooled<'a, T, P> {
    #[inline]
    pub(crate) fn new(home: &'a P, object: Object<T>) -> Self {
        Self {
            home,
            object: ManuallyDrop::new(object),
        }
    }

    #[inline]
    pub(crate) fn into_parts(this: Self) -> (&'a P, Object<T>) {
        let mut this = ManuallyDrop::new(this);
        // SAFETY: by the invariant there is one, and `this` is neither used nor dropped again.
        let object = unsafe { ManuallyDrop::take(&mut this.object) };
        (this.home, object)
    }
}

impl<T, P: Home<T>> OwnedPooled<T, P> {
    #[inline]
    pub(crate) fn new(home: Arc<P>, object: Object<T>) -> Self {
        Self {
            home: ManuallyDrop::new(home),
            object: ManuallyDrop::new(object),
        }
    }

    #[inline]
    fn into_parts(this: Self) -> (Arc<P>, Object<T>) {
        let mut this = ManuallyDrop::new(this);
        // SAFETY: by the invariant there is one, and `this` is neither used nor dropped again.
        let object = unsafe { ManuallyDrop::take(&mut this.object) };
        // SAFETY: the same.
        let home = unsafe { ManuallyDrop::take(&mut this.home) };
        (home, object)
    }
}

impl<T, P: Home<T>> Drop for Pooled<'_, T, P> {
    #[inline]
    fn drop(&mut self) {
        // Asked before there is an object at hand that a panic would have to drop.
        let life = Life::now();
        // SAFETY: by the invariant there is one, and nobody uses `self` after its `drop`.
        let object = unsafe { ManuallyDrop::take(&mut self.object) };
        self.home.take_back(object, life);
    }
}

impl<T, P: Home<T>> Drop for OwnedPooled<T, P> {
    #[inline]
    fn drop(&mut self) {
        // Asked before there is an object at hand that a panic would have to drop.
        let life = Life::now();
        // SAFETY: by the invariant there is one, and nobody uses `self` after its `drop`.
        let object = unsafe { ManuallyDrop::take(&mut self.object) };
        // SAFETY: the same. It lives to the end of this function, so the pool is still there for
        // the object; when it was the last, the pool is dropped after that.
        let home = unsafe { ManuallyDrop::take(&mut self.home) };
        home.take_back(object, life);
    }
}

macro_rules! guard {
    ($([$($lifetime:lifetime)?])? $guard:ident) => {
        impl<$($($lifetime,)?)? T, P: Home<T>> $guard<$($($lifetime,)?)? T, P> {
            /// Takes the object out of the pool for good.
            ///
            /// A [`BoundedPool`](crate::pool::BoundedPool) may create another in its place.
            ///
            /// An associated function, because the object may have a method of this name.
            ///
            /// ```
            /// use std::sync::Arc;
            ///
            /// use heapledger::pool::{OwnedPooled, Pool, Pooled};
            ///
            /// let pool = Arc::new(Pool::from_fn(|| String::from("mine")));
            /// let text: String = Pooled::detach(pool.acquire());
            /// let other: String = OwnedPooled::detach(pool.acquire_owned());
            /// assert_eq!((text.as_str(), other.as_str()), ("mine", "mine"));
            /// assert_eq!((pool.stats().detached, pool.stats().idle), (2, 0));
            /// ```
            pub fn detach(this: Self) -> T {
                let (home, object) = Self::into_parts(this);
                home.let_go(object)
            }

            /// Drops the object instead of giving it back, because it is of no more use.
            ///
            /// ```
            /// use std::sync::Arc;
            ///
            /// use heapledger::pool::{BoundedPool, OwnedPooled, Pooled};
            ///
            /// let pool = Arc::new(BoundedPool::<String>::new(1));
            /// Pooled::discard(pool.try_acquire().unwrap());
            /// OwnedPooled::discard(pool.try_acquire_owned().unwrap()); // one in its place
            /// assert_eq!((pool.stats().created, pool.stats().discarded), (2, 2));
            /// ```
            pub fn discard(this: Self) {
                let (home, object) = Self::into_parts(this);
                home.drop_one(object);
            }
        }

        impl<$($($lifetime,)?)? T, P: Home<T>> Deref for $guard<$($($lifetime,)?)? T, P> {
            type Target = T;

            #[inline]
            fn deref(&self) -> &T {
                self.object.value()
            }
        }

        impl<$($($lifetime,)?)? T, P: Home<T>> DerefMut for $guard<$($($lifetime,)?)? T, P> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                self.object.value_mut()
            }
        }

        impl<$($($lifetime,)?)? T, P: Home<T>> AsRef<T> for $guard<$($($lifetime,)?)? T, P> {
            fn as_ref(&self) -> &T {
                self
            }
        }

        impl<$($($lifetime,)?)? T, P: Home<T>> AsMut<T> for $guard<$($($lifetime,)?)? T, P> {
            fn as_mut(&mut self) -> &mut T {
                self
            }
        }

        impl<$($($lifetime,)?)? T: fmt::Debug, P: Home<T>> fmt::Debug
            for $guard<$($($lifetime,)?)? T, P>
        {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }

        impl<$($($lifetime,)?)? T: fmt::Display, P: Home<T>> fmt::Display
            for $guard<$($($lifetime,)?)? T, P>
        {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }
    };
}

guard!(['a] Pooled);
guard!(OwnedPooled);
