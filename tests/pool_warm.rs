//! No allocation once warm, by the crate's own assertion.

use std::collections::HashMap;
use std::hint::black_box;

use heapledger::pool::{BoundedPool, Clearing, Pool, Pooled};
use heapledger::{TrackingAllocator, assert_allocs, assert_no_alloc};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

#[test]
fn a_warm_pool_allocates_nothing_however_many_objects_are_held() {
    let pool = Pool::from_fn(|| Vec::<u8>::with_capacity(1024));
    let mut held: Vec<Pooled<'_, Vec<u8>>> = Vec::with_capacity(256);
    let mut round = |n: usize| {
        held.extend((0..n).map(|_| pool.acquire()));
        for buffer in &mut held {
            buffer.clear();
            buffer.extend_from_slice(&[1; 1024]);
        }
        black_box(&mut held).clear();
    };
    round(256);
    assert_no_alloc!(|| {
        for n in (0..=256).chain([1; 100]) {
            round(n);
        }
    });
}

#[test]
fn a_warm_pool_allocates_nothing_when_its_objects_come_back_on_another_thread() {
    let pool = Pool::from_fn(|| Vec::<u8>::with_capacity(1024));
    // What is in flight, and a magazine for each of the two threads.
    pool.prewarm(64 + 2 * 62).expect("cannot fail");
    // One vector that changes hands at a barrier: no channel that allocates.
    let shelf = parking_lot::Mutex::new(Vec::<Pooled<'_, Vec<u8>>>::with_capacity(64));
    let barrier = std::sync::Barrier::new(2);
    let give = |rounds: usize| {
        for _ in 0..rounds {
            shelf.lock().extend((0..64).map(|_| pool.acquire()));
            barrier.wait();
            barrier.wait();
        }
    };
    let take = |rounds: usize| {
        for _ in 0..rounds {
            barrier.wait();
            shelf.lock().clear();
            barrier.wait();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            take(8);
            assert_no_alloc!(|| take(200));
        });
        give(8);
        assert_no_alloc!(|| give(200));
    });
}

#[test]
fn warm_managers_and_bounded_pools_allocate_nothing() {
    let maps = Pool::with_manager(Clearing::<HashMap<u32, u32>>::with_capacity(64));
    let bounded = BoundedPool::with_manager(8, Clearing::<String>::with_capacity(64));
    let mut held = Vec::with_capacity(8);
    let mut round = || {
        let mut map = maps.acquire();
        map.extend((0..64).map(|i| (i, i)));
        held.extend((0..8).filter_map(|_| bounded.try_acquire()));
        for text in &mut held {
            text.push_str("some words");
        }
        black_box(&mut held).clear();
        black_box(bounded.acquire().map(|text| text.len())).expect("idle");
    };
    round();
    assert_no_alloc!(|| (0..100).for_each(|_| round()));
}

#[test]
fn owned_guards_allocate_nothing_either() {
    let pool = std::sync::Arc::new(Pool::from_fn(|| [0u8; 64]));
    drop(pool.acquire_owned());
    assert_no_alloc!(|| (0..100).for_each(|_| drop(black_box(pool.acquire_owned()))));
}

#[test]
fn a_prewarmed_pool_needs_only_its_line_at_the_first_use() {
    let pool = Pool::from_fn(|| [0u8; 64]);
    pool.prewarm(100).expect("cannot fail");
    // The lines of the first eight threads are one block.
    assert_allocs!(<= 1, || {
        for _ in 0..100 {
            black_box(&*pool.acquire());
        }
    });
}

/// What the others assert can fail.
#[test]
#[should_panic(expected = "the closure was not to ask the allocator for anything")]
fn a_cold_pool_does_allocate() {
    let pool = Pool::from_fn(|| [0u8; 64]);
    assert_no_alloc!(|| drop(black_box(pool.acquire())));
}
