//! Objects and guards that cross threads, threads that come and go, and what a
//! thread does while it is being torn down.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use heapledger::pool::{BoundedPool, OwnedPooled, Pool, Pooled};

/// More threads than all tests of this file have alive at once, with their main
/// threads. A pool has at most so many lines that were ever used.
const LINES: u64 = 64;
const MAGAZINE: u64 = 62;

/// Counts itself, and notices when two threads have it at once.
struct Counted {
    alive: Arc<AtomicU64>,
    users: AtomicUsize,
}

impl Counted {
    fn new(alive: &Arc<AtomicU64>) -> Self {
        alive.fetch_add(1, SeqCst);
        Self {
            alive: Arc::clone(alive),
            users: AtomicUsize::new(0),
        }
    }

    fn enter(&self) {
        assert_eq!(self.users.fetch_add(1, SeqCst), 0, "two users at once");
    }

    fn leave(&self) {
        self.users.fetch_sub(1, SeqCst);
    }
}

fn enter_all(guards: &[impl std::ops::Deref<Target = Counted>]) {
    for guard in guards {
        guard.enter();
    }
}

fn leave_all(guards: &[impl std::ops::Deref<Target = Counted>]) {
    for guard in guards {
        guard.leave();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, SeqCst);
    }
}

fn pool() -> (Arc<AtomicU64>, Pool<Counted>) {
    let alive = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&alive);
    (alive, Pool::from_fn(move || Counted::new(&counter)))
}

/// Bug prevented: pools that create a new object nearly every time when one
/// thread acquires and another gives back.
#[test]
fn two_hundred_thousand_objects_cross_threads_and_few_are_created() {
    const IN_FLIGHT: usize = 64;
    let (alive, pool) = pool();
    thread::scope(|scope| {
        let (send, receive) = mpsc::sync_channel::<Pooled<'_, Counted>>(IN_FLIGHT);
        let pool = &pool;
        scope.spawn(move || {
            for _ in 0..200_000 {
                let guard = pool.acquire();
                guard.enter();
                send.send(guard).expect("the receiver is alive");
            }
        });
        for guard in receive {
            guard.leave();
        }
    });
    let stats = pool.stats();
    assert_eq!(stats.created + stats.reused, 200_000);
    // In the channel, one in each thread's hands, and two magazines.
    assert!(
        stats.created <= IN_FLIGHT as u64 + 2 + 2 * MAGAZINE,
        "{stats:?}"
    );
    assert_eq!((stats.out, stats.idle), (0, stats.created));
    drop(pool);
    assert_eq!(alive.load(SeqCst), 0);
}

/// Bug prevented: lines of ended threads that nobody finds again, so that a
/// program that starts a thread for each request grows for ever.
#[test]
fn ten_thousand_short_threads_create_no_more_than_was_held_and_the_lines_hold() {
    const AT_ONCE: u64 = 8;
    const HELD: u64 = 3;
    let (alive, pool) = pool();
    for _ in 0..10_000 / AT_ONCE {
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    let guards: Vec<_> = (0..HELD).map(|_| pool.acquire()).collect();
                    enter_all(&guards);
                    leave_all(&guards);
                });
            }
        });
    }
    let stats = pool.stats();
    assert_eq!(stats.created + stats.reused, 10_000 * HELD);
    assert!(
        stats.created <= AT_ONCE * HELD + LINES * MAGAZINE,
        "{stats:?}"
    );
    assert_eq!((stats.out, stats.idle), (0, stats.created));
    drop(pool);
    assert_eq!(alive.load(SeqCst), 0);
}

#[test]
fn threads_that_share_a_pool_never_share_an_object() {
    let (alive, pool) = pool();
    let start = Barrier::new(6);
    let (send, receive) = mpsc::channel::<Pooled<'_, Counted>>();
    let receive = parking_lot::Mutex::new(receive);
    thread::scope(|scope| {
        for seed in 0..6u64 {
            let (pool, start, receive, send) = (&pool, &start, &receive, send.clone());
            scope.spawn(move || {
                start.wait();
                let mut random = seed + 1;
                let mut held = Vec::new();
                for _ in 0..20_000 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    match random % 16 {
                        0..=6 => {
                            let guard = pool.acquire();
                            guard.enter();
                            held.push(guard);
                        }
                        7..=12 => {
                            if let Some(guard) = held.pop() {
                                guard.leave();
                            }
                        }
                        13 => {
                            if let Some(guard) = held.pop() {
                                send.send(guard).expect("the receiver is alive");
                            }
                        }
                        14 => held.extend(receive.lock().try_recv()),
                        _ if random % 1_024 == 15 => pool.clear(),
                        _ if random % 1_024 == 31 => pool.shrink_to(20),
                        _ => {}
                    }
                }
                leave_all(&held);
            });
        }
    });
    drop(send);
    receive.lock().iter().for_each(|guard| guard.leave());
    let stats = pool.stats();
    assert_eq!(stats.out, 0, "{stats:?}");
    assert_eq!(stats.created, stats.idle + stats.discarded, "{stats:?}");
    assert_eq!(alive.load(SeqCst), stats.idle);
    drop(receive);
    drop(pool);
    assert_eq!(alive.load(SeqCst), 0);
}

#[test]
fn a_pool_dropped_while_its_guards_are_out_on_other_threads_lives_until_the_last_of_them() {
    let (alive, pool) = pool();
    let pool = Arc::new(pool);
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(parking_lot::Mutex::new(wait));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let guards: Vec<_> = (0..50).map(|_| pool.acquire_owned()).collect();
            let wait = Arc::clone(&wait);
            thread::spawn(move || {
                // Ends when the sender is gone.
                assert!(wait.lock().recv().is_err());
                enter_all(&guards);
                drop(guards);
            })
        })
        .collect();
    drop(pool);
    assert_eq!(alive.load(SeqCst), 200);
    drop(go);
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(alive.load(SeqCst), 0);
}

thread_local! {
    /// Dropped while its thread is torn down.
    static LAST: RefCell<LastWill> = const { RefCell::new(LastWill(Vec::new(), None)) };
}

/// Guards that come back, and a pool that is used, in a thread local's destructor.
struct LastWill(Vec<OwnedPooled<Counted>>, Option<Arc<Pool<Counted>>>);

impl Drop for LastWill {
    fn drop(&mut self) {
        self.0.clear();
        if let Some(pool) = &self.1 {
            for _ in 0..100 {
                let guards = [pool.acquire_owned(), pool.acquire_owned()];
                enter_all(&guards);
                leave_all(&guards);
            }
        }
    }
}

fn bequeath(pool: &Arc<Pool<Counted>>, guards: Vec<OwnedPooled<Counted>>) {
    let kept = LAST.try_with(|last| {
        *last.borrow_mut() = LastWill(guards, Some(Arc::clone(pool)));
    });
    assert!(kept.is_ok());
}

/// Bugs prevented: a panic from `LocalKey::with` in a destructor; a line used
/// after its number was given to another thread.
#[test]
fn guards_come_back_and_pools_are_used_before_and_after_a_threads_line_is_gone() {
    let (alive, pool) = pool();
    let pool = Arc::new(pool);
    for _ in 0..50 {
        let pools: [_; 4] = std::array::from_fn(|_| Arc::clone(&pool));
        let [first, second, third, fourth] = pools;
        let threads = [
            // Destructors run in the opposite order: here the line goes first, ...
            thread::spawn(move || {
                bequeath(&first, Vec::new());
                let guards = (0..40).map(|_| first.acquire_owned()).collect();
                bequeath(&first, guards);
            }),
            // ... here it goes last ...
            thread::spawn(move || {
                let guards = (0..40).map(|_| second.acquire_owned()).collect();
                bequeath(&second, guards);
            }),
            // ... and here it is first wanted when it is too late.
            thread::spawn(move || bequeath(&third, Vec::new())),
            // All the while another thread may be given the number.
            thread::spawn(move || {
                for _ in 0..100 {
                    let guard = fourth.acquire();
                    guard.enter();
                    guard.leave();
                }
            }),
        ];
        // Not a scope, which does not wait for destructors of thread locals.
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
    let stats = pool.stats();
    assert_eq!(stats.out, 0, "{stats:?}");
    assert_eq!(stats.idle, alive.load(SeqCst));
    assert!(stats.created <= 4 * 40 + LINES * MAGAZINE, "{stats:?}");
    drop(pool);
    assert_eq!(alive.load(SeqCst), 0);
}

#[test]
fn a_static_pools_guards_are_static_without_more_ado() {
    static POOL: std::sync::LazyLock<Pool<String>> =
        std::sync::LazyLock::new(|| Pool::from_fn(String::new));
    let guard: Pooled<'static, String> = POOL.acquire();
    thread::spawn(move || drop(guard)).join().expect("no panic");
    let stats = POOL.stats();
    assert_eq!((stats.created, stats.idle), (1, 1));
}

/// Bug prevented: `clear` that leaves what other running threads keep for ever.
#[test]
fn what_another_running_thread_keeps_goes_when_it_next_uses_the_pool() {
    let (alive, pool) = pool();
    let (cleared, wait) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        let pool = &pool;
        scope.spawn(move || {
            drop([pool.acquire(), pool.acquire(), pool.acquire()]);
            ready.send(()).expect("the other is alive");
            wait.recv().expect("the other is alive");
            drop(pool.acquire());
            let stats = pool.stats();
            assert_eq!((stats.discarded, stats.created, stats.idle), (3, 4, 1));
        });
        is_ready.recv().expect("the other is alive");
        pool.clear();
        assert_eq!(pool.stats().idle, 3, "only their thread can touch them");
        cleared.send(()).expect("the other is alive");
    });
    drop(pool);
    assert_eq!(alive.load(SeqCst), 0);
}

/// Bug prevented: a thread that is stopped while it works out how many are alive takes
/// the dead of then from the born of now, and the peak keeps the difference for ever.
#[test]
fn the_peak_is_no_more_than_the_threads_that_hold_one_object_each() {
    const THREADS: u64 = 8;
    let pool = Pool::builder().max_idle(0).from_fn(|| ());
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..100_000 {
                    drop(pool.acquire());
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!(stats.created, stats.discarded);
    assert!((1..=THREADS).contains(&stats.peak), "{stats:?}");
}

#[test]
fn a_bounded_pool_shared_by_more_threads_than_objects_never_has_more_than_its_capacity() {
    let alive = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&alive);
    let pool = BoundedPool::from_fn(3, move || Counted::new(&counter));
    thread::scope(|scope| {
        for seed in 0..8u64 {
            let (pool, alive) = (&pool, &alive);
            scope.spawn(move || {
                for i in 0..2_000 {
                    let guard = pool.acquire().expect("never closed");
                    guard.enter();
                    assert!(alive.load(SeqCst) <= 3);
                    // So that the others come and have to wait.
                    thread::yield_now();
                    guard.leave();
                    match (i + seed) % 64 {
                        0 => Pooled::discard(guard),
                        1 => pool.clear(),
                        _ => drop(guard),
                    }
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!(stats.out, 0);
    assert_eq!(stats.peak, 3, "{stats:?}");
    assert_eq!(alive.load(SeqCst), stats.idle);
    let all: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
    assert_eq!(all.len(), 3, "no permit is lost");
}
