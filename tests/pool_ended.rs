//! What ended threads have left in a pool. The only test of its file, so that no
//! other thread of this process inherits their lines.

use std::thread;

use heapledger::pool::Pool;

/// Bug prevented: objects in the lines of ended threads that nobody can reach,
/// neither to use them nor to free them.
#[test]
fn what_ended_threads_have_left_is_used_by_new_threads_and_cleared_by_anybody() {
    let pool = Pool::from_fn(String::new);
    let run = |threads: usize| {
        thread::scope(|scope| {
            let handles: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let guards: Vec<_> = (0..10).map(|_| pool.acquire()).collect();
                        // All at once, so that none finds what another gave back.
                        while pool.stats().out % 10 != 0 {
                            thread::yield_now();
                        }
                        drop(guards);
                    })
                })
                .collect();
            // By hand: the scope itself does not wait until their numbers are given back.
            for handle in handles {
                handle.join().expect("no panic");
            }
        });
    };
    run(1);
    let one = pool.stats();
    assert_eq!((one.created, one.idle), (10, 10));
    run(1);
    assert_eq!(pool.stats().created, 10, "the next thread found them");
    run(4);
    assert_eq!(pool.stats().out, 0);
    pool.shrink_to(7);
    assert_eq!(pool.stats().idle, 7);
    pool.clear();
    assert_eq!(pool.stats().idle, 0);
    let last = pool.stats();
    assert_eq!(last.created, last.discarded);
}
