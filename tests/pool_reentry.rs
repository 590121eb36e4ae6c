//! What a user wrote uses the same pool.
//!
//! Bug prevented: a closure of the user's that runs under the pool's lock, which
//! deadlocks as soon as it touches the pool.

use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use heapledger::pool::{BoundedPool, Manager, Pool, Reset};

/// Ends the process when a test hangs: the harness would wait for ever.
fn watchdog() -> impl Drop {
    struct Stop(Option<std::sync::mpsc::Sender<()>>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.take();
        }
    }
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let late = stopped.recv_timeout(Duration::from_mins(2));
        if late == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a pool deadlocked");
            std::process::abort();
        }
    });
    Stop(Some(stop))
}

/// Where the user's code finds the pool.
type Back<P> = Arc<OnceLock<Weak<P>>>;

struct Nosy<P> {
    pool: Back<P>,
}

/// An object that looks at the pool when it is dropped.
struct Thing<P: Peek> {
    pool: Back<P>,
    depth: u32,
}

/// Everything that can be done with a pool from inside.
trait Peek: Sized {
    fn peek(&self, depth: u32);
}

thread_local! {
    static DEPTH: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

fn peek<P: Peek>(back: &Back<P>) {
    let depth = DEPTH.get();
    // Deep enough to meet itself, and no deeper.
    if depth < 2
        && let Some(pool) = back.get().and_then(Weak::upgrade)
    {
        DEPTH.set(depth + 1);
        pool.peek(depth);
        DEPTH.set(depth);
    }
}

impl<P: Peek> Drop for Thing<P> {
    fn drop(&mut self) {
        peek(&self.pool);
    }
}

impl<P: Peek> Manager<Thing<P>> for Nosy<P> {
    type Error = std::convert::Infallible;

    fn create(&self) -> Result<Thing<P>, Self::Error> {
        peek(&self.pool);
        Ok(Thing {
            pool: Arc::clone(&self.pool),
            depth: DEPTH.get(),
        })
    }

    fn reset(&self, thing: &mut Thing<P>) -> Reset {
        peek(&self.pool);
        if thing.depth == 1 {
            Reset::Discard
        } else {
            Reset::Keep
        }
    }
}

struct Open(Pool<Thing<Open>>);

impl Peek for Open {
    fn peek(&self, depth: u32) {
        // More than a magazine, and further in only a few: each does this again.
        let n = if depth == 0 { 40 } else { 3 };
        let guards: Vec<_> = (0..n).map(|_| self.0.acquire()).collect();
        drop(guards);
        self.0.stats();
        if depth == 1 {
            self.0.shrink_to(3);
        }
    }
}

#[test]
fn create_reset_and_drop_may_use_the_pool_that_calls_them() {
    let _watchdog = watchdog();
    for max_idle in [usize::MAX, 5, 0] {
        let back = Back::<Open>::default();
        let manager = Nosy {
            pool: Arc::clone(&back),
        };
        let pool = Arc::new(Open(
            Pool::builder().max_idle(max_idle).with_manager(manager),
        ));
        back.set(Arc::downgrade(&pool)).expect("set once");
        for _ in 0..3 {
            let guards: Vec<_> = (0..35).map(|_| pool.0.acquire()).collect();
            drop(guards);
            pool.0.clear();
        }
        let stats = pool.0.stats();
        assert_eq!(stats.out, 0, "{stats:?}");
        assert_eq!(stats.created, stats.idle + stats.discarded, "{stats:?}");
    }
}

struct Narrow(BoundedPool<Thing<Narrow>>);

impl Peek for Narrow {
    fn peek(&self, depth: u32) {
        drop(self.0.try_acquire());
        drop(self.0.acquire_timeout(Duration::ZERO));
        self.0.stats();
        if depth == 1 {
            self.0.clear();
        }
    }
}

#[test]
fn create_reset_and_drop_may_use_the_bounded_pool_that_calls_them() {
    let _watchdog = watchdog();
    let back = Back::<Narrow>::default();
    let manager = Nosy {
        pool: Arc::clone(&back),
    };
    let pool = Arc::new(Narrow(BoundedPool::with_manager(4, manager)));
    back.set(Arc::downgrade(&pool)).expect("set once");
    for _ in 0..20 {
        let guards: Vec<_> = std::iter::from_fn(|| pool.0.try_acquire()).collect();
        assert!(!guards.is_empty());
        drop(guards);
        pool.0.clear();
    }
    assert_eq!(pool.0.stats().out, 0);
    let guard = pool.0.acquire().expect("open");
    pool.0.close();
    drop(guard);
}

struct Reply(Weak<BoundedPool<String>>);

impl Wake for Reply {
    fn wake(self: Arc<Self>) {
        let pool = self.0.upgrade().expect("alive");
        // What was handed over is not up for grabs.
        assert!(pool.try_acquire().is_none());
        pool.stats();
    }
}

#[test]
fn a_waker_may_use_the_pool_that_wakes_it() {
    let _watchdog = watchdog();
    let pool = Arc::new(BoundedPool::<String>::new(1));
    let waker = Waker::from(Arc::new(Reply(Arc::downgrade(&pool))));
    let mut cx = Context::from_waker(&waker);
    let guard = pool.try_acquire().expect("idle");
    let mut future = Box::pin(pool.acquire_async());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    drop(guard);
    assert!(future.as_mut().poll(&mut cx).is_ready());
    let _guard = pool.try_acquire();
    let mut future = Box::pin(pool.acquire_async());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    pool.close();
    assert!(future.as_mut().poll(&mut cx).is_ready());
}
