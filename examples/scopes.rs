//! Scopes: nested, carried to other threads, and around async tasks.
//!
//! ```text
//! cargo run --release --example scopes
//! ```

use std::hint::black_box;
use std::thread;

use heapledger::{Scope, TrackingAllocator, measure, measure_future};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() {
    nested();
    across_threads();
    async_tasks();
}

/// Each scope has its own exact peak; the inner one counts for the outer too.
fn nested() {
    let outer = Scope::enter();
    let kept = black_box(vec![0u8; 10_000]);
    let ((), inner) = measure(|| drop(black_box(vec![0u8; 50_000])));
    drop(black_box(vec![0u8; 20_000]));
    let outer = outer.finish();
    println!(
        "nested: inner peak {} bytes, outer peak {} bytes, {} bytes kept",
        inner.peak_bytes,
        outer.peak_bytes,
        outer.net_bytes()
    );
    assert_eq!((inner.peak_bytes, inner.net_bytes()), (50_000, 0));
    assert_eq!((outer.peak_bytes, outer.net_bytes()), (60_000, 10_000));
    drop(kept);
}

/// A scope sees its own thread, and those to which it is carried.
fn across_threads() {
    let scope = Scope::enter();
    let handle = scope.handle();
    thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                let _inside = handle.enter();
                drop(black_box(vec![0u8; 1_000_000]));
            });
        }
        // This one does not enter the scope and is not counted.
        threads.spawn(|| drop(black_box(vec![0u8; 7_000_000])));
    });
    let stats = scope.finish();
    println!("\nacross threads (3 × 1,000,000 bytes, and the spawning itself):\n{stats}");
    assert!((3_000_000..3_100_000).contains(&stats.allocated_bytes));
}

/// Tasks that hop between threads: each is counted at its polls only.
fn async_tasks() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    let tasks: Vec<_> = (1..=4u64)
        .map(|n| {
            runtime.spawn(measure_future(async move {
                for _ in 0..n {
                    let buffer = black_box(vec![0u8; 100_000]);
                    tokio::task::yield_now().await;
                    drop(buffer);
                }
            }))
        })
        .collect();
    println!("\nfour tasks on two threads, 100,000 bytes at a time:");
    for (n, task) in (1..=4).zip(tasks) {
        let ((), stats) = runtime.block_on(task).expect("the task ends");
        println!(
            "  task {n}: {} bytes in {} blocks, {} still alive",
            stats.allocated_bytes,
            stats.allocations,
            stats.net_blocks()
        );
        // The runtime's own few bytes for a yield belong to the poll that asked for it.
        assert!((n * 100_000..n * 100_000 + 1_000).contains(&stats.allocated_bytes));
    }
}
