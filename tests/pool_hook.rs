//! The panic hook of a program uses a pool.
//!
//! A file of its own, because the hook is the process's.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Waker};

use heapledger::pool::BoundedPool;

static POOL: OnceLock<BoundedPool<String>> = OnceLock::new();
static HAS_LOOKED: AtomicBool = AtomicBool::new(false);

/// Bug prevented: a future that is polled after it was ready panics under the
/// pool's lock, where the program's panic hook waits for it for ever.
#[test]
fn the_hook_may_use_the_pool_whose_future_was_polled_too_often() {
    let pool = POOL.get_or_init(|| BoundedPool::new(1));
    let mut future = Box::pin(pool.acquire_async());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_ready());
    std::panic::set_hook(Box::new(|_| {
        // Does not wait: a thread that the lock is kept from is told so by another.
        let answer = std::thread::spawn(|| POOL.get().map(|pool| pool.stats().idle));
        for _ in 0..1_000 {
            if answer.is_finished() {
                HAS_LOOKED.store(true, Relaxed);
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }));
    let polled = std::panic::AssertUnwindSafe(|| future.as_mut().poll(&mut cx).is_ready());
    let panicked = std::panic::catch_unwind(polled).is_err();
    drop(std::panic::take_hook());
    assert!(panicked);
    assert!(HAS_LOOKED.load(Relaxed), "the hook found the lock held");
}
