//! The pools that are compared, behind one interface.
//!
//! Each is used as its documentation shows. Those that hold values in a queue or
//! a vector hold boxes where their interface lets us choose, because that is what
//! a user who cares does.

use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;
use heapledger::pool as ours;
use parking_lot::Mutex;

/// What is pooled.
pub trait Object: Default + Send + Sync + sharded_slab::Clear + 'static {
    const NAME: &'static str;
    /// What a program without a pool has in its hands.
    type Fresh: DerefMut<Target = Self> + Send;
    fn fresh() -> Self::Fresh;
    /// Has it in the hands.
    fn touch(&mut self);
    /// How many were ever made.
    fn created() -> u64;
}

/// How a pool is used.
pub trait Subject<T: Object>: Sync + 'static {
    type Guard<'a>: Send;
    fn acquire(&self) -> Self::Guard<'_>;
    /// Has the object in the hands.
    fn touch(guard: &mut Self::Guard<'_>);
}

pub struct Small([u8; 64]);
pub struct Buffer<const N: usize>(Vec<u8>);
pub type Kib = Buffer<1024>;
pub type Kib64 = Buffer<{ 64 * 1024 }>;

static SMALL: AtomicU64 = AtomicU64::new(0);
static BUFFERS: AtomicU64 = AtomicU64::new(0);

impl Default for Small {
    fn default() -> Self {
        SMALL.fetch_add(1, Relaxed);
        Self([0; 64])
    }
}

impl sharded_slab::Clear for Small {
    fn clear(&mut self) {}
}

impl Object for Small {
    const NAME: &'static str = "64 bytes";
    type Fresh = Box<Self>;

    #[inline]
    fn fresh() -> Box<Self> {
        Box::new(Self([0; 64]))
    }

    #[inline]
    fn touch(&mut self) {
        std::hint::black_box(&mut self.0)[0] = 1;
    }

    fn created() -> u64 {
        SMALL.load(Relaxed)
    }
}

impl<const N: usize> Default for Buffer<N> {
    fn default() -> Self {
        BUFFERS.fetch_add(1, Relaxed);
        Self(Vec::with_capacity(N))
    }
}

impl<const N: usize> sharded_slab::Clear for Buffer<N> {
    fn clear(&mut self) {}
}

/// A buffer in the hands of a program without a pool: no box around it.
pub struct Unpooled<T>(T);

impl<T> std::ops::Deref for Unpooled<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Unpooled<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<const N: usize> Object for Buffer<N> {
    const NAME: &'static str = if N == 1024 {
        "`Vec` of 1 KiB"
    } else {
        "`Vec` of 64 KiB"
    };
    type Fresh = Unpooled<Self>;

    #[inline]
    fn fresh() -> Unpooled<Self> {
        Unpooled(Self(Vec::with_capacity(N)))
    }

    #[inline]
    fn touch(&mut self) {
        // No more: it is the pool's work that is measured, not the vector's.
        std::hint::black_box(&mut self.0);
    }

    fn created() -> u64 {
        BUFFERS.load(Relaxed)
    }
}

/// Idle objects that a pool of a fixed size has room for.
const ROOM: usize = 1024;

macro_rules! subject {
    ($name:ident, $text:literal, $pool:ty, $guard:ty, $new:expr, |$home:ident| $acquire:expr) => {
        pub struct $name<T: Object>($pool);

        impl<T: Object> $name<T> {
            pub const NAME: &'static str = $text;

            pub fn new() -> Self {
                Self($new)
            }
        }

        impl<T: Object> Subject<T> for $name<T> {
            type Guard<'a> = $guard;

            #[inline]
            fn acquire(&self) -> Self::Guard<'_> {
                let $home = &self.0;
                $acquire
            }

            #[inline]
            fn touch(guard: &mut Self::Guard<'_>) {
                guard.touch();
            }
        }
    };
}

subject!(
    Malloc,
    "malloc",
    std::marker::PhantomData<fn() -> T>,
    T::Fresh,
    std::marker::PhantomData,
    |_home| T::fresh()
);
subject!(
    Ours,
    "heapledger `Pool`",
    ours::Pool<T>,
    ours::Pooled<'a, T>,
    ours::Pool::from_fn(T::default),
    |pool| pool.acquire()
);
subject!(
    OursReset,
    "heapledger `Pool` with a reset",
    ours::Pool<T>,
    ours::Pooled<'a, T>,
    ours::Pool::with_manager(ours::FromFn::new(T::default).with_reset(|object: &mut T| {
        object.touch();
        ours::Reset::Keep
    })),
    |pool| pool.acquire()
);
subject!(
    OursOwned,
    "heapledger `Pool`, owned",
    Arc<ours::Pool<T>>,
    ours::OwnedPooled<T>,
    Arc::new(ours::Pool::from_fn(T::default)),
    |pool| pool.acquire_owned()
);
subject!(
    OursBounded,
    "heapledger `BoundedPool`",
    ours::BoundedPool<T>,
    ours::Pooled<'a, T, ours::BoundedPool<T>>,
    ours::BoundedPool::new(ROOM),
    |pool| pool.try_acquire().expect("room")
);
/// What a workload costs by itself: a guard of two words that nobody has to make,
/// and that need not be given back. No pool can be faster.
pub struct Nothing<T: Object>(std::marker::PhantomData<fn() -> T>);

impl<T: Object> Nothing<T> {
    pub const NAME: &'static str = "nothing at all: what the workload costs";

    pub fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

/// As large as a guard, with a drop that does nothing.
pub struct Empty([usize; 2]);

impl Drop for Empty {
    #[inline]
    fn drop(&mut self) {
        std::hint::black_box(&mut self.0);
    }
}

impl<T: Object> Subject<T> for Nothing<T> {
    type Guard<'a> = Empty;

    #[inline]
    fn acquire(&self) -> Empty {
        Empty([std::hint::black_box(1); 2])
    }

    #[inline]
    fn touch(guard: &mut Empty) {
        std::hint::black_box(&mut guard.0);
    }
}

subject!(
    ObjectPool,
    "object-pool",
    object_pool::Pool<T>,
    object_pool::Reusable<'a, T>,
    object_pool::Pool::new(1, T::default),
    |pool| pool.pull(T::default)
);
subject!(
    ObjectPoolOwned,
    "object-pool, owned",
    Arc<object_pool::Pool<T>>,
    object_pool::ReusableOwned<T>,
    Arc::new(object_pool::Pool::new(1, T::default)),
    |pool| pool.pull_owned(T::default)
);
subject!(Opool, "opool", opool::Pool<Maker, T>, opool::RefGuard<'a, Maker, T>, opool::Pool::new(ROOM, Maker), |pool| pool.get());
subject!(OpoolRc, "opool, owned", Arc<opool::Pool<Maker, T>>, opool::RcGuard<Maker, T>, opool::Pool::new(ROOM, Maker).to_rc(), |pool| Arc::clone(pool).get_rc());
subject!(
    Regex,
    "regex-automata (not across threads)",
    regex_automata::util::pool::Pool<T>,
    regex_automata::util::pool::PoolGuard<'a, T, fn() -> T>,
    regex_automata::util::pool::Pool::new(T::default as fn() -> T),
    |pool| pool.get()
);
subject!(
    Linear,
    "lockfree-object-pool, linear",
    lockfree_object_pool::LinearObjectPool<T>,
    lockfree_object_pool::LinearReusable<'a, T>,
    lockfree_object_pool::LinearObjectPool::new(T::default, |_| ()),
    |pool| pool.pull()
);
subject!(
    LinearOwned,
    "lockfree-object-pool, linear, owned",
    Arc<lockfree_object_pool::LinearObjectPool<T>>,
    lockfree_object_pool::LinearOwnedReusable<T>,
    Arc::new(lockfree_object_pool::LinearObjectPool::new(
        T::default,
        |_| ()
    )),
    |pool| pool.pull_owned()
);
subject!(
    SpinLock,
    "lockfree-object-pool, spin lock",
    lockfree_object_pool::SpinLockObjectPool<T>,
    lockfree_object_pool::SpinLockReusable<'a, T>,
    lockfree_object_pool::SpinLockObjectPool::new(T::default, |_| ()),
    |pool| pool.pull()
);
subject!(
    Deadpool,
    "deadpool, unmanaged",
    deadpool::unmanaged::Pool<T>,
    deadpool::unmanaged::Object<T>,
    deadpool::unmanaged::Pool::from((0..ROOM).map(|_| T::default()).collect::<Vec<_>>()),
    |pool| pool.try_get().expect("room")
);
subject!(
    MutexVec,
    "`Mutex<Vec<Box>>`",
    Mutex<Vec<Box<T>>>,
    Boxed<'a, T, Mutex<Vec<Box<T>>>>,
    Mutex::new(Vec::new()),
    |home| Boxed::of(home)
);
subject!(
    Queue,
    "crossbeam `ArrayQueue<Box>`",
    ArrayQueue<Box<T>>,
    Boxed<'a, T, ArrayQueue<Box<T>>>,
    ArrayQueue::new(ROOM),
    |home| Boxed::of(home)
);
/// Its mutable guard cannot be sent, so what is sent is the key: the object is
/// written to at the beginning, and its entry is cleared at the end.
pub struct Slab<T: Object>(sharded_slab::Pool<T>);

impl<T: Object> Slab<T> {
    pub const NAME: &'static str = "sharded-slab";

    pub fn new() -> Self {
        Self(sharded_slab::Pool::new())
    }
}

impl<T: Object> Subject<T> for Slab<T> {
    type Guard<'a> = SlabKey<'a, T>;

    #[inline]
    fn acquire(&self) -> SlabKey<'_, T> {
        let key = self.0.create_with(T::touch).expect("room");
        SlabKey { pool: &self.0, key }
    }

    #[inline]
    fn touch(_: &mut SlabKey<'_, T>) {}
}

pub struct SlabKey<'a, T: Object> {
    pool: &'a sharded_slab::Pool<T>,
    key: usize,
}

impl<T: Object> Drop for SlabKey<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.pool.clear(self.key);
    }
}

pub struct Maker;

impl<T: Object> opool::PoolAllocator<T> for Maker {
    fn allocate(&self) -> T {
        T::default()
    }
}

/// A place for boxes.
pub trait Shelf<T> {
    fn pop(&self) -> Option<Box<T>>;
    fn push(&self, object: Box<T>);
}

impl<T> Shelf<T> for Mutex<Vec<Box<T>>> {
    #[inline]
    fn pop(&self) -> Option<Box<T>> {
        self.lock().pop()
    }

    #[inline]
    fn push(&self, object: Box<T>) {
        self.lock().push(object);
    }
}

impl<T> Shelf<T> for ArrayQueue<Box<T>> {
    #[inline]
    fn pop(&self) -> Option<Box<T>> {
        Self::pop(self)
    }

    #[inline]
    fn push(&self, object: Box<T>) {
        drop(Self::push(self, object));
    }
}

/// The guard that everybody writes around such a place.
pub struct Boxed<'a, T, S: Shelf<T>> {
    home: &'a S,
    object: Option<Box<T>>,
}

impl<'a, T: Default, S: Shelf<T>> Boxed<'a, T, S> {
    #[inline]
    fn of(home: &'a S) -> Self {
        let object = home.pop().unwrap_or_default();
        Self {
            home,
            object: Some(object),
        }
    }
}

impl<T, S: Shelf<T>> Drop for Boxed<'_, T, S> {
    #[inline]
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.home.push(object);
        }
    }
}

impl<T, S: Shelf<T>> std::ops::Deref for Boxed<'_, T, S> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.object.as_ref().expect("until dropped")
    }
}

impl<T, S: Shelf<T>> DerefMut for Boxed<'_, T, S> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.object.as_mut().expect("until dropped")
    }
}
