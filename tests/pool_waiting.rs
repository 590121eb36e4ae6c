//! Threads and tasks that wait for an object of a bounded pool.
//!
//! Bugs prevented: a permit lost with a future that was dropped, or with a wait
//! that timed out just when its turn came; a wake-up lost between looking and
//! waiting; later callers served first; waiters left behind by `close`.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use heapledger::pool::{AcquireAsync, BoundedPool, OwnedPooled, PoolError, Pooled, TryFromFn};
use parking_lot::Mutex;

/// Far longer than any wait here takes: only a lost wake-up reaches it.
const LONG: Duration = Duration::from_mins(1);

#[derive(Default)]
struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

type Acquire<'a> = Pin<Box<AcquireAsync<'a, u32>>>;
type Answer<'a> = Poll<Result<Pooled<'a, u32, BoundedPool<u32>>, PoolError>>;

fn poll<'a>(future: &mut Acquire<'a>, count: &Arc<Count>) -> Answer<'a> {
    let waker = Waker::from(Arc::clone(count));
    future.as_mut().poll(&mut Context::from_waker(&waker))
}

fn woken(count: &Arc<Count>) -> u64 {
    count.0.load(SeqCst)
}

fn all_can_be_out(pool: &BoundedPool<u32>) {
    let all: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
    assert_eq!(all.len(), pool.capacity(), "a permit is lost");
}

#[test]
fn an_object_that_comes_back_goes_to_the_first_who_waits_and_to_nobody_else() {
    let pool = BoundedPool::<u32>::new(1);
    let counts: [Arc<Count>; 3] = Default::default();
    let guard = pool.try_acquire().expect("idle");
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(pool.acquire_async())).collect();
    for (future, count) in waiting.iter_mut().zip(&counts) {
        assert!(poll(future, count).is_pending());
    }
    drop(guard);
    assert_eq!(counts.each_ref().map(woken), [1, 0, 0]);
    assert!(pool.try_acquire().is_none(), "it is spoken for");
    assert!(poll(&mut waiting[2], &counts[2]).is_pending());
    assert!(poll(&mut waiting[1], &counts[1]).is_pending());
    let Poll::Ready(Ok(guard)) = poll(&mut waiting[0], &counts[0]) else {
        panic!("it was handed over");
    };
    // What becomes free in another way is handed over as well.
    Pooled::discard(guard);
    assert_eq!(counts.each_ref().map(woken), [1, 1, 0]);
    let Poll::Ready(Ok(guard)) = poll(&mut waiting[1], &counts[1]) else {
        panic!("the permit was handed over");
    };
    let mine = Pooled::detach(guard);
    assert_eq!(counts.each_ref().map(woken), [1, 1, 1]);
    assert!(poll(&mut waiting[2], &counts[2]).is_ready());
    assert_eq!(pool.attach(mine), Err(0), "there is another in its place");
    all_can_be_out(&pool);
}

#[test]
fn a_future_dropped_at_any_moment_leaves_nothing_behind() {
    // The moments: never polled, waiting, polled again, handed over and not yet polled, ready.
    for moment in 0..5 {
        let pool = BoundedPool::<u32>::new(1);
        let (count, next_count) = (Arc::<Count>::default(), Arc::<Count>::default());
        let guard = pool.try_acquire().expect("idle");
        let mut future = Box::pin(pool.acquire_async());
        let mut next = Box::pin(pool.acquire_async());
        if moment >= 1 {
            assert!(poll(&mut future, &count).is_pending());
        }
        assert!(poll(&mut next, &next_count).is_pending());
        if moment >= 2 {
            assert!(poll(&mut future, &count).is_pending());
        }
        if moment < 3 {
            drop(future);
            assert_eq!(woken(&next_count), 0, "nothing was handed over yet");
            drop(guard);
        } else {
            drop(guard);
            assert_eq!((woken(&count), woken(&next_count)), (1, 0));
            if moment == 4 {
                assert!(poll(&mut future, &count).is_ready());
            }
            drop(future);
        }
        assert_eq!(woken(&next_count), 1, "moment {moment}: handed on");
        assert!(poll(&mut next, &next_count).is_ready(), "moment {moment}");
        drop(next);
        all_can_be_out(&pool);
    }
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let pool = BoundedPool::<u32>::new(1);
    let (old, new) = (Arc::<Count>::default(), Arc::<Count>::default());
    let guard = pool.try_acquire().expect("idle");
    let mut future = Box::pin(pool.acquire_async());
    assert!(poll(&mut future, &old).is_pending());
    assert!(poll(&mut future, &new).is_pending());
    assert_eq!(Arc::strong_count(&old), 1, "the old one was let go");
    drop(guard);
    assert_eq!((woken(&old), woken(&new)), (0, 1));
}

#[test]
fn threads_are_served_in_the_order_in_which_they_came() {
    let pool = BoundedPool::<u32>::new(1);
    let order = Mutex::new(Vec::new());
    let guard = pool.acquire().expect("idle");
    thread::scope(|scope| {
        for i in 0..6 {
            let (pool, order) = (&pool, &order);
            let handle = scope.spawn(move || {
                let guard = pool.acquire().expect("never closed");
                order.lock().push(i);
                drop(guard);
            });
            // Its turn comes after those before it: a queue of threads has no other way in.
            while pool.stats().waiting <= i && !handle.is_finished() {
                thread::yield_now();
            }
        }
        drop(guard);
    });
    assert_eq!(*order.lock(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_wait_that_times_out_leaves_the_queue_and_one_that_is_served_in_time_does_not() {
    let pool = BoundedPool::<u32>::new(1);
    let guard = pool.acquire().expect("idle");
    let start = Instant::now();
    let error = pool.acquire_timeout(Duration::from_millis(20)).err();
    assert!(error.is_some_and(|error| error.is_timeout()));
    assert!(start.elapsed() >= Duration::from_millis(20), "too early");
    assert_eq!(pool.stats().waiting, 0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.acquire_timeout(LONG).map(|guard| *guard));
        while pool.stats().waiting == 0 {
            thread::yield_now();
        }
        drop(guard);
        assert_eq!(waiting.join().expect("no panic").expect("in time"), 0);
    });
    all_can_be_out(&pool);
    // As long as there is: not an overflow.
    assert!(pool.acquire_timeout(Duration::MAX).is_ok());
}

#[test]
fn a_time_out_that_races_with_a_hand_over_loses_no_permit() {
    let pool = BoundedPool::<u32>::new(1);
    let (served, late) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for seed in 0..4u64 {
            let (pool, served, late) = (&pool, &served, &late);
            scope.spawn(move || {
                for i in 0..1_500 {
                    // About as long as the others hold it, so that both ends are met.
                    let patience = Duration::from_micros((i * 7 + seed * 13) % 60);
                    match pool.acquire_timeout(patience) {
                        Ok(guard) => {
                            served.fetch_add(1, SeqCst);
                            for _ in 0..(i % 7) * 100 {
                                std::hint::spin_loop();
                            }
                            drop(guard);
                        }
                        Err(error) => {
                            assert!(error.is_timeout());
                            late.fetch_add(1, SeqCst);
                        }
                    }
                }
            });
        }
    });
    assert!(
        served.load(SeqCst) > 0 && late.load(SeqCst) > 0,
        "one end was not met"
    );
    assert_eq!(pool.stats().waiting, 0);
    all_can_be_out(&pool);
}

#[test]
fn closing_ends_every_wait_and_races_with_neither_hand_over_nor_time_out() {
    for round in 0..200u64 {
        let pool = BoundedPool::<u32>::new(2);
        let (closed, served) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for i in 0..4u64 {
                let (pool, closed, served) = (&pool, &closed, &served);
                scope.spawn(move || {
                    loop {
                        let answer = match (i + round) % 3 {
                            0 => pool.acquire(),
                            1 => pool.acquire_timeout(Duration::from_micros(round)),
                            _ => block_on(pool.acquire_async()),
                        };
                        match answer {
                            Ok(guard) => {
                                served.fetch_add(1, SeqCst);
                                drop(guard);
                            }
                            Err(error) if error.is_closed() => break,
                            Err(error) => assert!(error.is_timeout()),
                        }
                    }
                    closed.fetch_add(1, SeqCst);
                });
            }
            while served.load(SeqCst) < round {
                thread::yield_now();
            }
            pool.close();
        });
        assert_eq!(closed.load(SeqCst), 4);
        let stats = pool.stats();
        assert_eq!(
            (stats.idle, stats.out, stats.waiting),
            (0, 0, 0),
            "{stats:?}"
        );
        assert_eq!(stats.created, stats.discarded, "{stats:?}");
        assert_eq!(pool.attach(7), Err(7));
        assert!(pool.prewarm(1).is_err_and(|error| error.is_closed()));
    }
}

/// Bug prevented: an object that goes from a `prewarm` straight to one who waits, or the
/// right to create one when that creation fails, is not in the peak.
#[test]
fn what_is_handed_over_before_it_was_idle_is_in_the_peak() {
    for fails in [false, true] {
        let (tell, told) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let both = Mutex::new((tell, answers));
        let manager = TryFromFn::new(move || {
            let both = both.lock();
            both.0.send(()).expect("somebody listens");
            both.1.recv().expect("somebody tells")
        });
        let pool = BoundedPool::<u32>::with_manager(1, manager);
        thread::scope(|scope| {
            let warming = scope.spawn(|| pool.prewarm(1));
            told.recv().expect("a creation");
            let mut waiting = Box::pin(pool.acquire_async());
            assert!(poll(&mut waiting, &Arc::default()).is_pending());
            assert_eq!(pool.stats().peak, 0);
            let first = if fails { Err("no more") } else { Ok(7) };
            answer.send(first).expect("somebody listens");
            assert_eq!(warming.join().expect("no panic").is_err(), fails);
            assert_eq!(pool.stats().peak, 1, "fails: {fails}");
            if fails {
                answer.send(Ok(8)).expect("somebody listens");
            }
            let Poll::Ready(Ok(guard)) = poll(&mut waiting, &Arc::default()) else {
                panic!("its turn has come");
            };
            assert_eq!(*guard, if fails { 8 } else { 7 });
        });
        assert_eq!((pool.stats().out, pool.stats().peak), (0, 1));
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A runtime of a few lines: the future needs nothing of a larger one.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn threads_and_tasks_wait_in_one_queue() {
    let pool = BoundedPool::<u32>::new(2);
    thread::scope(|scope| {
        for i in 0..6 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..2_000 {
                    let answer = match i % 2 {
                        0 => pool.acquire(),
                        _ => block_on(pool.acquire_async()),
                    };
                    *answer.expect("never closed") += 1;
                }
            });
        }
    });
    let all: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
    assert_eq!(all.iter().map(|guard| **guard).sum::<u32>(), 12_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_of_a_runtime_that_are_cancelled_at_random_lose_no_permit() {
    let pool = Arc::new(BoundedPool::<u32>::new(3));
    let tasks: Vec<_> = (0..200u64)
        .map(|i| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                for j in 0..20 {
                    let patience = Duration::from_micros((i * 31 + j * 17) % 300);
                    if let Ok(guard) =
                        tokio::time::timeout(patience, pool.acquire_owned_async()).await
                    {
                        let guard: OwnedPooled<u32, BoundedPool<u32>> =
                            guard.expect("never closed");
                        tokio::task::yield_now().await;
                        drop(guard);
                    }
                }
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        if i % 5 == 0 {
            task.abort();
        }
        // Cancelled or done, and nothing else.
        assert!(
            task.await
                .map_or_else(|error| error.is_cancelled(), |()| true)
        );
    }
    assert_eq!(pool.stats().waiting, 0);
    all_can_be_out(&pool);
}
