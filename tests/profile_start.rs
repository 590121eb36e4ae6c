//! What happens beside a profile that is just being started.
#![cfg(feature = "profile")]

mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use heapledger::{HeapProfile, Profiler, TrackingAllocator, leaks};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        a_check_that_begins_while_a_profile_does_lends_it_nothing,
        a_snapshot_takes_memory_for_the_stacks_that_it_has,
    ])
}

/// To begin takes as long.
const STACKS: u32 = if cfg!(debug_assertions) {
    1 << 12
} else {
    1 << 15
};
const ROUNDS: u64 = 100;

type Blocks = Vec<Box<[u32; 1]>>;

/// A block each of many stacks, told apart by which of two ways was gone at each step.
#[inline(never)]
fn left(steps: u32, ways: u32, blocks: &mut Blocks) {
    step(steps, ways, blocks);
    black_box(&blocks);
}

#[inline(never)]
fn right(steps: u32, ways: u32, blocks: &mut Blocks) {
    step(steps, ways, blocks);
    black_box(&blocks);
}

fn step(steps: u32, ways: u32, blocks: &mut Blocks) {
    if steps == 0 {
        blocks.push(black_box(Box::new([ways])));
    } else if ways >> steps & 1 == 0 {
        left(steps - 1, ways, blocks);
    } else {
        right(steps - 1, ways, blocks);
    }
}

fn allocate_at_many_stacks() {
    let mut blocks = Blocks::with_capacity(1 << 16);
    for ways in 0..STACKS * 2 {
        left(STACKS.ilog2() + 1, ways, &mut blocks);
    }
}

fn start() -> Profiler {
    Profiler::builder()
        .every_allocation()
        .start()
        .expect("the only one")
}

/// Blocks that are alive or were freed, and those that were ever allocated.
fn sums(profile: &HeapProfile) -> (u64, u64) {
    let stacks = profile.stacks.iter();
    stacks.fold((0, 0), |(known, total), stack| {
        let here = stack.live.blocks + stack.lifetimes.freed_blocks;
        (known + here, total + stack.total.blocks)
    })
}

/// Bug prevented: a profile takes its number before it is ready, which takes long where there
/// were many stacks; a check that begins meanwhile has a larger number, and so its blocks are
/// the profile's, which has not counted them.
fn a_check_that_begins_while_a_profile_does_lends_it_nothing() {
    // What was ever used is cleared for the next one.
    let profiler = start();
    allocate_at_many_stacks();
    assert!(profiler.finish().stacks.len() >= STACKS as usize);

    let is_over = AtomicBool::new(false);
    // Between checks, so that nothing happens while a profile is read.
    let (pause, is_paused) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let check = leaks::Check::new().start();
                let blocks: Vec<Box<[u64; 4]>> = (0..1_000).map(|n| Box::new([n; 4])).collect();
                thread::sleep(Duration::from_millis(10));
                drop(black_box(blocks));
                assert_eq!(check.finish(), Ok(()));
                while pause.load(Ordering::SeqCst) {
                    is_paused.store(true, Ordering::SeqCst);
                    thread::yield_now();
                }
                is_paused.store(false, Ordering::SeqCst);
            }
        });
        let wrong = (0..ROUNDS).filter(|round| {
            let profiler = start();
            thread::sleep(Duration::from_millis(2));
            pause.store(true, Ordering::SeqCst);
            while !is_paused.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let (known, total) = sums(&profiler.finish());
            pause.store(false, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(round % 11));
            known > total
        });
        let wrong = wrong.count();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(
            wrong, 0,
            "of {ROUNDS} profiles have more than was allocated"
        );
    });
}

/// A snapshot, and what was allocated for it.
fn snapshot(profiler: &Profiler) -> (u64, HeapProfile) {
    let before = heapledger::stats().allocated_bytes;
    let profile = profiler.snapshot();
    (heapledger::stats().allocated_bytes - before, profile)
}

/// Bug prevented: a snapshot makes the addresses of all stacks that any profile has ever had, and
/// a report of one stack keeps the room of as many.
fn a_snapshot_takes_memory_for_the_stacks_that_it_has() {
    let mut profiler = start();
    allocate_at_many_stacks();
    let (many, profile) = snapshot(&profiler);
    assert!(profile.stacks.len() >= STACKS as usize);
    drop(profile);
    profiler.reset().expect("nobody else");
    let one = black_box(Box::new(7_u64));
    let (few, profile) = snapshot(&profiler);
    assert_eq!(profile.live().bytes, 8);
    let (stacks, room) = (profile.stacks.len(), profile.stacks.capacity());
    assert!(room < stacks + 8, "room for {room} stacks of {stacks}");
    assert!(few < many / 20, "{few} bytes, and {many} for all of them");
    drop(one);
}
