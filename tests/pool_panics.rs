//! Panics in what a user wrote, one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use heapledger::pool::{BoundedPool, FromFn, OnPanic, Pool, Pooled, Reset, TryFromFn};

fn panics(f: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

/// Counts its drops, and panics in the first when it is bad.
struct Bomb {
    bad: bool,
    drops: Arc<AtomicU64>,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.drops.fetch_add(1, SeqCst);
        assert!(!self.bad, "a scripted panic");
    }
}

/// Bug prevented: the objects after the one that panics are leaked.
#[test]
fn a_value_whose_drop_panics_takes_no_other_with_it() {
    for way in 0..4 {
        let drops = Arc::new(AtomicU64::new(0));
        let made = Arc::clone(&drops);
        let pool = Pool::from_fn(move || Bomb {
            bad: false,
            drops: Arc::clone(&made),
        });
        let mut guards: Vec<_> = (0..100).map(|_| pool.acquire()).collect();
        guards[41].bad = true;
        if way == 3 {
            let bad = guards.swap_remove(41);
            assert!(panics(|| Pooled::discard(bad)));
            assert_eq!(pool.stats().discarded, 1);
        }
        drop(guards);
        match way {
            0 => assert!(panics(|| drop(pool))),
            1 => {
                assert!(panics(|| pool.clear()));
                assert_eq!((pool.stats().idle, pool.stats().discarded), (0, 100));
                drop(pool);
            }
            2 => {
                assert!(panics(|| pool.shrink_to(1)));
                assert_eq!((pool.stats().idle, pool.stats().discarded), (1, 99));
                drop(pool);
            }
            _ => drop(pool),
        }
        assert_eq!(drops.load(SeqCst), 100, "way {way}");
    }
}

#[test]
fn a_value_whose_drop_panics_costs_a_bounded_pool_no_permit() {
    for way in 0..3 {
        let drops = Arc::new(AtomicU64::new(0));
        let made = Arc::clone(&drops);
        let pool = BoundedPool::from_fn(50, move || Bomb {
            bad: false,
            drops: Arc::clone(&made),
        });
        let mut guards: Vec<_> = (0..50).filter_map(|_| pool.try_acquire()).collect();
        guards[20].bad = true;
        if way == 2 {
            let bad = guards.swap_remove(20);
            assert!(panics(|| Pooled::discard(bad)));
        }
        drop(guards);
        match way {
            0 => assert!(panics(|| pool.clear())),
            1 => assert!(panics(|| pool.close())),
            _ => {}
        }
        if way != 1 {
            let all: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
            assert_eq!(all.len(), 50, "way {way}");
        }
        let created = pool.stats().created;
        drop(pool);
        assert_eq!(drops.load(SeqCst), created, "way {way}");
    }
}

/// Bug prevented: a buffer half written by a handler that panicked is given to
/// the next request.
#[test]
fn what_a_panicking_thread_gives_back_is_dropped_unless_the_pool_was_told_to_keep_it() {
    for (on_panic, kept) in [(OnPanic::Discard, 0), (OnPanic::Keep, 1)] {
        let pool = Pool::builder().on_panic(on_panic).from_fn(String::new);
        assert!(panics(|| {
            let _half_done = pool.acquire();
            panic!("a scripted panic");
        }));
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.discarded), (kept, 1 - kept));

        let pool = BoundedPool::builder(1)
            .on_panic(on_panic)
            .build(FromFn::new(String::new))
            .expect("not 0");
        assert!(panics(|| {
            let _half_done = pool.try_acquire();
            panic!("a scripted panic");
        }));
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.discarded), (kept, 1 - kept));
        assert!(pool.try_acquire().is_some(), "the permit is there");
    }
}

#[test]
fn a_reset_that_panics_drops_the_object_and_reaches_the_caller_unless_it_panics_already() {
    let bad = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&bad);
    let manager = FromFn::new(String::new).with_reset(move |_: &mut String| {
        assert!(!asked.load(SeqCst), "a scripted panic");
        Reset::Keep
    });
    let pool = Pool::builder()
        .on_panic(OnPanic::Keep)
        .with_manager(manager);
    let guard = pool.acquire();
    assert!(panics(|| drop(guard)));
    // The process would abort if this one left the destructor.
    assert!(panics(|| {
        let _guard = pool.acquire();
        panic!("a scripted panic");
    }));
    assert_eq!((pool.stats().idle, pool.stats().discarded), (0, 2));
    bad.store(false, SeqCst);
    drop(pool.acquire());
    assert_eq!((pool.stats().idle, pool.stats().created), (1, 3));
}

#[test]
fn a_create_that_panics_costs_nothing() {
    let bad = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&bad);
    let create = move || assert!(!asked.load(SeqCst), "a scripted panic");
    let pool = Pool::from_fn(create.clone());
    let bounded = BoundedPool::from_fn(1, create);
    for _ in 0..3 {
        assert!(panics(|| drop(pool.acquire())));
        assert!(panics(|| drop(bounded.try_acquire())));
        assert!(panics(|| drop(bounded.acquire())));
    }
    assert_eq!((pool.stats().out, bounded.stats().out), (0, 0));
    bad.store(false, SeqCst);
    drop(pool.acquire());
    assert!(bounded.try_acquire().is_some());
}

#[test]
fn acquire_says_why_there_is_no_object_when_the_manager_fails() {
    let inner =
        Pool::<String>::with_manager(TryFromFn::new(|| Err::<String, _>("the disk is on fire")));
    // The causes of a cause are what a user needs most.
    let take = move || inner.try_acquire().map(Pooled::detach);
    let pool = Pool::<String>::with_manager(TryFromFn::new(take));
    let payload = catch_unwind(AssertUnwindSafe(|| drop(pool.acquire()))).expect_err("it fails");
    let message = payload.downcast_ref::<String>().expect("a message");
    let failed = "the pool's manager failed to create an object";
    assert_eq!(message, &format!("{failed}: {failed}: the disk is on fire"));
    let capacity = catch_unwind(|| BoundedPool::<String>::new(0)).expect_err("of no use");
    assert!(
        capacity
            .downcast_ref::<String>()
            .is_some_and(|message| message.contains("capacity 0"))
    );
}

/// Bug prevented: a panic with a line of the pool's in it, and not of the call.
#[test]
fn the_panic_is_at_the_line_of_the_call() {
    let none = || TryFromFn::new(|| Err::<String, _>("none left"));
    let pool = Arc::new(Pool::with_manager(none()));
    let calls: [(&str, &dyn Fn()); _] = [
        ("acquire", &|| drop(pool.acquire())),
        ("acquire_owned", &|| drop(pool.acquire_owned())),
        ("new", &|| drop(BoundedPool::<String>::new(0))),
        ("from_fn", &|| drop(BoundedPool::from_fn(0, String::new))),
        ("with_manager", &|| {
            drop(BoundedPool::with_manager(0, none()));
        }),
    ];
    let last = std::panic::take_hook();
    let file = Arc::new(parking_lot::Mutex::new(None));
    let kept = Arc::clone(&file);
    // Of this thread's panics: other tests panic beside it.
    let this = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == this {
            *kept.lock() = info.location().map(|place| String::from(place.file()));
        }
    }));
    let found = calls.map(|(name, call)| (name, panics(call), file.lock().take()));
    std::panic::set_hook(last);
    for (name, panicked, file) in found {
        assert!(panicked, "{name}");
        assert_eq!(file.as_deref(), Some(file!()), "{name}");
    }
}
