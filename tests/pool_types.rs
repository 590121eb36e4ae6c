//! Types at the edges: without size, over-aligned, not `Send`, not `Sync`.

use std::cell::Cell;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use heapledger::pool::{
    AcquireAsync, BoundedPool, BoundedPoolBuilder, OwnedPooled, Pool, PoolBuilder, PoolError,
    Pooled,
};

/// Whether a type has a trait, without an error when it has not: the constant of
/// the type itself is found before that of the trait that every type has.
macro_rules! has {
    ($type:ty: $($bound:tt)+) => {{
        #[allow(dead_code, reason = "not looked for when the answer is yes")]
        trait Otherwise {
            const ANSWER: bool = false;
        }
        impl<T: ?Sized> Otherwise for T {}
        struct Probe<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code, reason = "not found when the answer is no")]
        impl<T: ?Sized + $($bound)+> Probe<T> {
            const ANSWER: bool = true;
        }
        <Probe<$type>>::ANSWER
    }};
}

macro_rules! send_sync {
    ($type:ty) => {
        (has!($type: Send), has!($type: Sync))
    };
}

/// `Send` and not `Sync`.
type Mobile = Cell<u8>;
/// Neither.
type Local = Rc<u8>;
/// `Sync` and not `Send`.
type Rooted = parking_lot::MutexGuard<'static, u8>;

/// Bug prevented: `Send` and `Sync` by accident, which three pools had.
#[test]
fn send_and_sync_are_there_when_they_should_be_and_only_then() {
    let (both, none) = ((true, true), (false, false));
    // A pool sends objects between threads, so it needs no more, and no less.
    assert_eq!(send_sync!(Pool<u8>), both);
    assert_eq!(send_sync!(Pool<Mobile>), both);
    assert_eq!(send_sync!(Pool<Local>), none);
    assert_eq!(send_sync!(Pool<Rooted>), none);
    assert_eq!(send_sync!(BoundedPool<u8>), both);
    assert_eq!(send_sync!(BoundedPool<Mobile>), both);
    assert_eq!(send_sync!(BoundedPool<Local>), none);
    assert_eq!(send_sync!(BoundedPool<Rooted>), none);
    assert_eq!(send_sync!(AcquireAsync<'static, Mobile>), both);
    assert_eq!(send_sync!(AcquireAsync<'static, Local>), none);
    // A guard is a `&mut T` and a way to send `T` back.
    assert_eq!(send_sync!(Pooled<'static, u8>), both);
    assert_eq!(send_sync!(Pooled<'static, Mobile>), (true, false));
    assert_eq!(send_sync!(Pooled<'static, Local>), none);
    assert_eq!(send_sync!(Pooled<'static, Rooted>), none);
    assert_eq!(send_sync!(OwnedPooled<u8>), both);
    assert_eq!(send_sync!(OwnedPooled<Mobile>), (true, false));
    assert_eq!(send_sync!(OwnedPooled<Local>), none);
    assert_eq!(send_sync!(OwnedPooled<Rooted>), none);
    assert_eq!(
        send_sync!(OwnedPooled<Mobile, BoundedPool<Mobile>>),
        (true, false)
    );
    assert_eq!(send_sync!(PoolBuilder<Local>), both);
    assert_eq!(send_sync!(BoundedPoolBuilder<Local>), both);
    assert_eq!(send_sync!(PoolError), both);
    assert!(has!(Pool<String>: UnwindSafe) && has!(Pool<String>: RefUnwindSafe));
    assert!(has!(BoundedPool<String>: UnwindSafe) && has!(BoundedPool<String>: RefUnwindSafe));
    assert!(!has!(Pool<&'static mut u8>: UnwindSafe));
    assert!(has!(AcquireAsync<'static, std::marker::PhantomPinned>: Unpin));
}

#[test]
fn a_pool_of_what_is_not_send_works_on_its_own_thread() {
    let pool = Pool::from_fn(|| Rc::new(Cell::new(0)));
    let first = pool.acquire();
    first.set(7);
    drop(first);
    assert_eq!(pool.acquire().get(), 7);
}

static NOTHINGS: AtomicU64 = AtomicU64::new(0);

/// No size, but a life.
struct Nothing;

impl Nothing {
    fn new() -> Self {
        NOTHINGS.fetch_add(1, SeqCst);
        Self
    }
}

impl Drop for Nothing {
    fn drop(&mut self) {
        NOTHINGS.fetch_sub(1, SeqCst);
    }
}

#[test]
fn values_without_size_are_counted_one_by_one() {
    let pool = Pool::from_fn(Nothing::new);
    let guards: Vec<_> = (0..100).map(|_| pool.acquire()).collect();
    assert_eq!(NOTHINGS.load(SeqCst), 100);
    drop(guards);
    assert_eq!((pool.stats().idle, NOTHINGS.load(SeqCst)), (100, 100));
    pool.shrink_to(10);
    assert_eq!(NOTHINGS.load(SeqCst), 10);
    drop(Pooled::detach(pool.acquire()));
    assert_eq!(NOTHINGS.load(SeqCst), 9);
    drop(pool);
    assert_eq!(NOTHINGS.load(SeqCst), 0);

    let bounded = BoundedPool::<()>::new(3);
    let all: Vec<_> = std::iter::from_fn(|| bounded.try_acquire()).collect();
    assert_eq!(all.len(), 3);
}

#[repr(align(4096))]
struct Page([u8; 4096]);

#[test]
fn over_aligned_values_are_where_they_must_be() {
    let pool = Pool::from_fn(|| Page([0; 4096]));
    let bounded = BoundedPool::from_fn(4, || Page([0; 4096]));
    for _ in 0..3 {
        let mut guards: Vec<_> = (0..40).map(|_| pool.acquire()).collect();
        let mut more: Vec<_> = std::iter::from_fn(|| bounded.try_acquire()).collect();
        let pages = guards.iter_mut().map(|guard| &mut **guard);
        for page in pages.chain(more.iter_mut().map(|guard| &mut **guard)) {
            assert_eq!((&raw const *page).addr() % 4096, 0);
            page.0[4095] = 1;
        }
    }
    assert_eq!(bounded.stats().created, 4);
}

#[test]
fn small_values_never_share_a_cache_line() {
    let pool = Pool::from_fn(|| 0u8);
    let guards: Vec<_> = (0..100).map(|_| pool.acquire()).collect();
    assert!(
        guards
            .iter()
            .all(|guard| (&raw const **guard).addr() % 64 == 0)
    );
}

#[test]
fn guards_read_like_what_they_guard() {
    let pool = Arc::new(Pool::from_fn(|| String::from("text")));
    let (guard, owned) = (pool.acquire(), pool.acquire_owned());
    assert_eq!(format!("{guard} {owned:?}"), "text \"text\"");
    assert_eq!((guard.as_ref(), owned.len()), (&String::from("text"), 4));
    let shown = format!("{pool:?}");
    assert!(shown.contains("out: 2"), "{shown}");
    assert!(format!("{:?}", BoundedPool::<u8>::new(3)).contains("capacity: 3"));
}

/// Bug prevented: a large object is copied from frame to frame on its way to its place, and
/// the stack of a thread overflows that had room for it twice.
#[test]
fn a_large_object_goes_straight_from_where_it_is_made_to_its_place() {
    const SIZE: usize = 16_000;
    static AT: AtomicUsize = AtomicUsize::new(0);

    #[inline(never)]
    fn make() -> [u8; SIZE] {
        let here = 0u8;
        AT.store((&raw const here).addr(), SeqCst);
        [1; SIZE]
    }

    /// How many bytes below its caller it is made.
    fn depth(acquire: impl FnOnce()) -> usize {
        let here = 0u8;
        acquire();
        (&raw const here).addr() - AT.load(SeqCst)
    }

    let growing = Pool::from_fn(make);
    let bounded = BoundedPool::from_fn(1, make);
    let depths = [
        depth(|| drop(growing.acquire())),
        depth(|| drop(bounded.try_acquire())),
        depth(|| drop(bounded.prewarm(2))),
    ];
    // Without optimisation each call has a place of its own for what it returns.
    let places = if cfg!(debug_assertions) { 4 } else { 1 };
    let most = SIZE * places + SIZE / 2;
    assert!(depths.iter().all(|depth| *depth < most), "{depths:?}");
}
