//! What a reader of the figures sees who is interrupted while it reads them.
//!
//! A file of its own, because the signal's handler is the process's.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "stops a thread by a signal")]

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::thread;

use heapledger::pool::Pool;

static CREATED: AtomicU64 = AtomicU64::new(0);
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// Lets the other thread create some before its own goes on.
extern "C" fn stop(_signal: i32) {
    let enough = CREATED.load(SeqCst) + 20;
    // Not for ever: the thread that is stopped here may have the lock of the depot.
    for _ in 0..100 {
        if CREATED.load(SeqCst) >= enough {
            break;
        }
        thread::yield_now();
    }
    STOPPED.fetch_add(1, SeqCst);
}

/// Bug prevented: a reader takes the dead of then from the born of now, and tells of many
/// objects out where one thread holds one.
#[test]
fn no_more_is_out_than_the_one_object_that_a_thread_holds() {
    const STOPS: u64 = 200;
    let handler: extern "C" fn(i32) = stop;
    // SAFETY: the handler touches atomics, and asks the system to run another thread.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    let pool = Pool::builder().max_idle(0).from_fn(|| {
        CREATED.fetch_add(1, SeqCst);
    });
    let (is_over, reader) = (AtomicBool::new(false), AtomicI32::new(0));
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            // SAFETY: asks for a number.
            reader.store(unsafe { libc::gettid() }, SeqCst);
            let mut worst = pool.stats();
            while !is_over.load(SeqCst) {
                let stats = pool.stats();
                if stats.out > worst.out {
                    worst = stats;
                }
            }
            worst
        });
        while reader.load(SeqCst) == 0 {
            thread::yield_now();
        }
        for before in 0..STOPS {
            let (process, thread) = (std::process::id(), reader.load(SeqCst));
            // SAFETY: a thread of ours, which is alive until `is_over`.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
            while STOPPED.load(SeqCst) <= before {
                drop(pool.acquire());
            }
        }
        is_over.store(true, SeqCst);
        let worst = reading.join().expect("no panic");
        assert!(worst.out <= 1 && worst.peak <= 1, "{worst:?}");
    });
}
