//! What is done with a pool.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crossbeam_queue::ArrayQueue;

use crate::subjects::{Object, Subject};

#[derive(Clone, Copy)]
pub enum Workload {
    /// One thread acquires, touches and gives back.
    One,
    /// One thread acquires 256, then gives them all back.
    Hold,
    /// As the first, on two threads at once.
    Two,
    /// One thread acquires, another gives back.
    Across,
}

/// Guards that change threads at once: the channel is to cost little.
const BATCH: usize = 64;
/// Batches on their way.
const BATCHES: usize = 4;
/// Guards that are out at once when they cross threads.
pub const IN_FLIGHT: usize = BATCH * (BATCHES + 2);

impl Workload {
    pub const ALL: [Self; 4] = [Self::One, Self::Hold, Self::Two, Self::Across];

    pub fn name(self) -> &'static str {
        match self {
            Self::One => "one thread",
            Self::Hold => "256 held",
            Self::Two => "two threads",
            Self::Across => "across threads",
        }
    }

    /// How much longer than others it runs: to start a thread takes its time.
    pub fn share(self) -> f64 {
        match self {
            Self::One | Self::Hold => 1.0,
            Self::Two | Self::Across => 4.0,
        }
    }

    /// Nanoseconds for each of `n` pairs.
    pub fn run<T: Object, S: Subject<T>>(self, subject: &S, n: u32) -> f64 {
        let nanos = match self {
            Self::One => pairs(subject, n),
            Self::Hold => hold(subject, n),
            Self::Two => two(subject, n),
            Self::Across => across(subject, n),
        };
        nanos / f64::from(n)
    }
}

fn nanos(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e9
}

#[inline(never)]
fn pairs<T: Object, S: Subject<T>>(subject: &S, n: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..n {
        let mut guard = subject.acquire();
        S::touch(&mut guard);
        drop(guard);
    }
    nanos(start)
}

#[inline(never)]
fn hold<T: Object, S: Subject<T>>(subject: &S, n: u32) -> f64 {
    let mut held = Vec::with_capacity(256);
    let start = Instant::now();
    for _ in 0..n / 256 {
        for _ in 0..256 {
            let mut guard = subject.acquire();
            S::touch(&mut guard);
            held.push(guard);
        }
        black_box(&mut held).clear();
    }
    nanos(start)
}

fn two<T: Object, S: Subject<T>>(subject: &S, n: u32) -> f64 {
    let barrier = Barrier::new(2);
    let run = || {
        // The first pairs of a thread find it its place.
        pairs(subject, 64);
        barrier.wait();
        pairs(subject, n)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        let own = run();
        own.max(other.join().expect("no panic"))
    })
}

fn across<T: Object, S: Subject<T>>(subject: &S, n: u32) -> f64 {
    let full = ArrayQueue::<Vec<S::Guard<'_>>>::new(BATCHES);
    let empty = ArrayQueue::new(BATCHES + 2);
    for _ in 0..BATCHES + 2 {
        assert!(empty.push(Vec::with_capacity(BATCH)).is_ok());
    }
    let batches = (n as usize).div_ceil(BATCH);
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let giving = scope.spawn(|| {
            barrier.wait();
            for _ in 0..batches {
                let mut batch = wait(|| full.pop());
                batch.clear();
                assert!(empty.push(batch).is_ok());
            }
        });
        barrier.wait();
        let start = Instant::now();
        for _ in 0..batches {
            let mut batch = wait(|| empty.pop());
            for _ in 0..BATCH {
                let mut guard = subject.acquire();
                S::touch(&mut guard);
                batch.push(guard);
            }
            let mut batch = Some(batch);
            wait(|| {
                let back = full.push(batch.take()?).err();
                batch = back;
                batch.is_none().then_some(())
            });
        }
        giving.join().expect("no panic");
        nanos(start)
    })
}

/// Spins, and lets others run now and then: the machine may have other work.
fn wait<R>(mut ready: impl FnMut() -> Option<R>) -> R {
    loop {
        for _ in 0..200 {
            if let Some(result) = ready() {
                return result;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
    }
}
