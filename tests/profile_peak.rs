//! What each stack had at the peak, while several threads work: with another order of the
//! books, a block is in the peak and in no stack's share.
#![cfg(feature = "profile")]

mod support;

use std::hint::{black_box, spin_loop};
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use heapledger::{Profiler, TrackingAllocator};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        a_block_that_is_freed_beside_a_new_peak_is_in_it,
        a_block_that_is_resized_beside_a_new_peak_is_in_it_once,
        a_block_that_grows_where_it_is_beside_a_new_peak_is_in_it_once,
        a_block_that_comes_beside_a_new_peak_is_in_it,
        a_block_that_grows_much_beside_a_new_peak_is_in_it,
        no_more_is_alive_than_was_ever_allocated_while_a_thread_allocates,
    ])
}

const ROUNDS: usize = 1_000;
/// Of one thread. Its changes are published at once.
const LARGE: usize = 1 << 20;
/// Of the other one, all together, which it keeps to itself.
const SMALL: usize = STEPS * STEP;
const STEPS: usize = 100;
const STEP: usize = 16;

/// Where the other thread is.
struct Step(AtomicUsize);

impl Step {
    /// Waits until it is at this step of its [`STEPS`].
    fn wait(&self, step: usize) {
        while self.0.load(SeqCst) < step {
            spin_loop();
        }
    }

    fn is_last(&self) -> bool {
        self.0.load(SeqCst) == STEPS
    }
}

/// In each round, one thread has a large block from the beginning, or makes one, and gives it to
/// `work`, while another one makes peaks. One of them is the highest of the round and has the
/// block: so must the shares in it, once.
fn beside_peaks(
    small: impl Fn(&Step) + Sync,
    large: impl Fn() -> Vec<u8> + Sync,
    work: impl Fn(Vec<u8>, &Step, usize) -> Vec<u8> + Sync,
) {
    let (barrier, step) = (Barrier::new(3), Step(AtomicUsize::new(0)));
    let mut wrong = Vec::with_capacity(ROUNDS);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                barrier.wait();
                barrier.wait();
                small(&step);
                barrier.wait();
            }
        });
        scope.spawn(|| {
            for round in 0..ROUNDS {
                barrier.wait();
                let block = large();
                barrier.wait();
                let block = work(block, &step, round);
                step.wait(STEPS);
                drop(block);
                barrier.wait();
            }
        });
        for _ in 0..ROUNDS {
            let profiler = Profiler::builder().every_allocation().start();
            let profiler = profiler.expect("no other profile");
            step.0.store(0, SeqCst);
            for _ in 0..3 {
                barrier.wait();
            }
            let share = profiler.finish().peak_amount().bytes;
            if !(LARGE..=LARGE + 8 * SMALL).contains(&usize::try_from(share).expect("few")) {
                wrong.push(share);
            }
        }
    });
    let (count, first) = (wrong.len(), &wrong[..wrong.len().min(8)]);
    assert_eq!(count, 0, "of {ROUNDS}: {first:?}");
}

/// Each block is a new peak.
fn rise(step: &Step) {
    let mut kept = Vec::with_capacity(STEPS);
    for now in 1..=STEPS {
        kept.push(black_box([0_u8; STEP].to_vec()));
        step.0.store(now, SeqCst);
    }
}

/// No block is a peak, but for the first one after what others have made.
fn sink(step: &Step) {
    for now in 1..=STEPS {
        drop(black_box(Vec::<u8>::with_capacity(
            SMALL - (now - 1) * STEP,
        )));
        step.0.store(now, SeqCst);
    }
}

fn with_capacity(bytes: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(bytes))
}

/// At one step or another.
fn some_step(round: usize) -> usize {
    STEPS / 4 + round % (STEPS / 2)
}

/// Bug prevented: the stack's figures have lost the block when the counters still have it, and
/// the other thread's peak has it in no share.
fn a_block_that_is_freed_beside_a_new_peak_is_in_it() {
    beside_peaks(
        rise,
        || with_capacity(LARGE),
        |block, step, round| {
            step.wait(some_step(round));
            drop(block);
            Vec::new()
        },
    );
}

/// Bug prevented: between the stack that it had and the one that it gets it is in neither, or
/// in both.
fn a_block_that_is_resized_beside_a_new_peak_is_in_it_once() {
    beside_peaks(
        rise,
        || with_capacity(LARGE),
        |mut block, step, _| {
            while !step.is_last() {
                block.reserve_exact(LARGE + STEP);
                block.shrink_to(LARGE);
            }
            block
        },
    );
}

/// Bug prevented: the same of a stack that has it before and after.
fn a_block_that_grows_where_it_is_beside_a_new_peak_is_in_it_once() {
    beside_peaks(
        rise,
        || with_capacity(LARGE),
        |mut block, step, _| {
            for more in 1..=SMALL {
                if step.is_last() {
                    break;
                }
                block.reserve_exact(LARGE + more);
            }
            block
        },
    );
}

/// Bug prevented: the counters have the block, and the other thread's peak, when its stack has
/// not yet got it; and its own look finds no new peak, as the other thread has freed its block.
fn a_block_that_comes_beside_a_new_peak_is_in_it() {
    beside_peaks(sink, Vec::new, |_, step, round| {
        step.wait(some_step(round));
        with_capacity(LARGE)
    });
}

/// Bug prevented: the same of what a block grows by.
fn a_block_that_grows_much_beside_a_new_peak_is_in_it() {
    beside_peaks(
        sink,
        || with_capacity(STEP),
        |mut block, step, round| {
            step.wait(some_step(round));
            block.reserve_exact(LARGE);
            block
        },
    );
}

/// Bug prevented: what is alive is looked at last, and has all that came meanwhile, which neither
/// the peak nor what was ever allocated has.
fn no_more_is_alive_than_was_ever_allocated_while_a_thread_allocates() {
    let (barrier, done) = (Barrier::new(2), AtomicUsize::new(0));
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    thread::scope(|scope| {
        scope.spawn(|| {
            // Made whole, and before anybody looks: else there would be larger blocks that come.
            let mut kept: Vec<Box<[u64; 8]>> = Vec::with_capacity(2_000_000);
            barrier.wait();
            while done.load(SeqCst) == 0 && kept.len() < kept.capacity() {
                kept.push(black_box(Box::new([1; 8])));
            }
        });
        barrier.wait();
        let (mut snapshots, mut last) = (0, 0);
        while snapshots < 12 || last < 20_000 {
            let profile = profiler.snapshot();
            let (live, total) = (profile.live(), profile.total());
            // One that is just being told.
            assert!(live.bytes <= total.bytes + 64, "{live:?}, {total:?}");
            let highest = profile.peak.live_bytes;
            let most = profile.timeline.iter().map(|moment| moment.live_bytes);
            assert!(most.max() <= Some(highest), "{highest}");
            let end = profile.timeline.last().expect("its end").at_ms;
            assert_eq!(u128::from(end), profile.duration.as_millis());
            assert!(profile.timeline.iter().all(|moment| moment.at_ms <= end));
            (snapshots, last) = (snapshots + 1, live.blocks);
        }
        done.store(1, SeqCst);
    });
}
