//! Timing a closure on one thread and on two, in time of the processor: other programs may run.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Duration;

const RUNS: usize = 7;

/// A generator that needs no crate.
pub fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Nanoseconds for each operation: the slowest of `threads` threads, the best of several runs.
/// `work` gets the number of its thread and does `operations` operations.
pub fn time(threads: usize, operations: usize, work: impl Fn(usize) + Sync) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let barrier = Barrier::new(threads);
        let slowest = std::thread::scope(|scope| {
            let (barrier, work) = (&barrier, &work);
            let running: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || {
                        barrier.wait();
                        let begun = processor_time();
                        work(thread);
                        processor_time() - begun
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().expect("thread"))
                .max()
                .expect("a thread")
        });
        best = best.min(slowest.as_nanos() as f64 / operations as f64);
    }
    best
}

/// Times `work` on one thread and on two and prints the line.
pub fn line(wanted: &str, name: &str, operations: usize, work: impl Fn(usize) + Sync) {
    if !name.contains(wanted) {
        return;
    }
    let one = time(1, operations, &work);
    let two = time(2, operations, &work);
    println!("| {name} | {one:.1} | {two:.1} |");
}

/// Keeps the compiler from leaving work out.
pub fn sink<T>(value: T) {
    black_box(value);
}

/// What this thread has had of its core.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a place for the answer, which the call writes before it returns.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
