//! A block that is being resized at the very moment when somebody looks what is alive.
#![cfg(feature = "profile")]

mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use heapledger::leaks::{self, Check, LeakReport};
use heapledger::{Profiler, ScopeHandle, TrackingAllocator};
use parking_lot::Mutex;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        a_check_finds_a_block_that_its_thread_resizes,
        a_check_finds_a_block_that_a_stranger_resizes,
        checks_within_one_another_find_it_both,
        a_steady_check_has_it_in_its_middle,
        a_profile_has_it,
        checks_of_all_sorts_end_beside_one_another,
    ])
}

const ROUNDS: u32 = 100;

/// What the thread that resizes is told, and tells.
#[derive(Default)]
struct Wishes {
    is_over: AtomicBool,
    /// By how much its block is to be larger.
    larger: AtomicUsize,
    /// How often it has been enlarged.
    turns: AtomicUsize,
}

impl Wishes {
    /// Resizes a block to and fro.
    fn fulfil(&self, block: &mut Vec<u8>) {
        while !self.is_over.load(Ordering::Relaxed) {
            let larger = self.larger.load(Ordering::Relaxed);
            block.reserve_exact(larger + 3_000);
            block.shrink_to(larger + 1_000);
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until that has been done from the beginning to the end.
    fn await_turns(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        while self.turns.load(Ordering::Relaxed) < turns + 2 {
            thread::yield_now();
        }
    }
}

/// Ends `body`'s check while a thread, which is in it or not, resizes a block of it; the
/// bytes that were found in each round.
fn look<R>(is_in_it: bool, mut body: impl FnMut(&dyn Fn(), &dyn Fn(usize)) -> R) -> Vec<R> {
    let round = |_| {
        let wishes = Wishes::default();
        // The thread is older than the check, which would wait for its end.
        let work = Mutex::new(None);
        let mut result = None;
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut block, carried) = loop {
                    if let Some(work) = work.lock().take() {
                        break work;
                    }
                    thread::yield_now();
                };
                let carried: Option<ScopeHandle> = carried;
                let _inside = carried.as_ref().map(ScopeHandle::enter);
                wishes.fulfil(&mut block);
            });
            let begin = || {
                let carried = is_in_it.then(leaks::carry);
                *work.lock() = Some((Vec::with_capacity(500), carried));
                wishes.await_turns();
            };
            let enlarge = |by| {
                wishes.larger.store(by, Ordering::Relaxed);
                wishes.await_turns();
            };
            result = Some(body(&begin, &enlarge));
            wishes.is_over.store(true, Ordering::Relaxed);
        });
        result.expect("it ran")
    };
    (0..ROUNDS).map(round).collect()
}

/// Whether the block is among them: all else is small.
fn has_it(checked: &Result<(), LeakReport>) -> bool {
    let ours = [500, 1_000, 3_000];
    checked.as_ref().is_err_and(|report| {
        let mut sites = report.sites.iter();
        sites.any(|site| site.blocks == 1 && ours.contains(&site.bytes))
    })
}

#[track_caller]
fn none_passes(found: &[bool]) {
    let missed = found.iter().filter(|is_found| !**is_found).count();
    assert_eq!(missed, 0, "of {}", found.len());
}

/// Bug prevented: the block is in no table for as long as it is resized, and a check that
/// ends just then passes.
fn a_check_finds_a_block_that_its_thread_resizes() {
    none_passes(&look(true, |begin, _| {
        let check = Check::new().start();
        begin();
        has_it(&check.finish())
    }));
}

/// Bug prevented: the same of a thread that is in no check.
fn a_check_finds_a_block_that_a_stranger_resizes() {
    none_passes(&look(false, |begin, _| {
        let check = Check::new().start();
        begin();
        has_it(&check.finish())
    }));
}

/// Bug prevented: a check that ends within another leaves its blocks to that one, and has
/// not seen this one.
fn checks_within_one_another_find_it_both() {
    let found = look(true, |begin, _| {
        let outer = Check::new().start();
        let inner = Check::new().start();
        begin();
        let inner = inner.finish();
        [has_it(&inner), has_it(&outer.finish())]
    });
    none_passes(found.as_flattened());
}

/// Bug prevented: a block that is being resized in the middle of the runs is new after them,
/// so that nobody knows what it has grown from.
fn a_steady_check_has_it_in_its_middle() {
    none_passes(&look(true, |begin, larger| {
        let mut run = 0;
        let report = Check::new().run_steady(0, 4, || {
            run += 1;
            if run == 1 {
                begin();
            }
            if run == 3 {
                larger(9_000);
            }
        });
        report.is_err_and(|report| report.sites.iter().any(|site| site.growth.bytes > 5_000))
    }));
}

/// Bug prevented: a large block is missing in a snapshot of what is alive.
fn a_profile_has_it() {
    let found = look(false, |begin, _| {
        let profiler = Profiler::builder().every_allocation().start().expect("one");
        begin();
        let profile = profiler.finish();
        let mut stacks = profile.stacks.iter();
        stacks.any(|stack| [500, 1_000, 3_000].contains(&stack.live.bytes))
    });
    none_passes(&found);
}

/// Bug prevented: a check that is in the middle of its runs has all blocks kept where they are
/// and waits for the books, and one that ends has the books and waits for the blocks.
fn checks_of_all_sorts_end_beside_one_another() {
    let grow = || {
        let mut numbers = Vec::new();
        (0..100).for_each(|n| numbers.push(black_box(n)));
    };
    thread::scope(|scope| {
        for thread in 0..6 {
            scope.spawn(move || {
                for _ in 0..300 {
                    let checked = match thread % 3 {
                        0 => Check::new().run_steady(0, 2, grow),
                        1 => Check::new().run(grow),
                        _ => Check::new().run(|| Check::new().run(grow).expect("nothing")),
                    };
                    if let Err(report) = checked {
                        panic!("{report}");
                    }
                }
            });
        }
        for _ in 0..20 {
            let profiler = Profiler::builder().every_allocation().start().expect("one");
            grow();
            assert_eq!(profiler.finish().incomplete.blocks, 0);
        }
    });
}
