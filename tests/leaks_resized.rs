//! Whose a block is that one recording has seen born and another sees resized: of the
//! one in which it was born.
#![cfg(feature = "profile")]

mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use heapledger::leaks::{self, Check, Process};
use heapledger::{HeapProfile, Profiler};
use parking_lot::Mutex;

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        a_profile_of_everything_lends_no_check_an_older_block,
        a_check_of_the_process_lends_no_check_an_older_block,
        a_check_within_another_does_not_take_its_blocks,
        a_check_takes_no_block_of_a_check_beside_it,
        a_steady_check_takes_no_block_of_a_check_beside_it,
        a_block_that_a_check_within_has_made_is_the_outer_ones_afterwards,
        what_is_older_than_a_steady_check_is_found_when_it_grows,
        what_is_older_and_does_not_grow_is_steady,
        a_steady_check_within_another_takes_nothing_from_it,
        a_profile_and_a_steady_check_agree_with_the_counters,
    ])
}

fn grow(older: &mut Vec<u64>) {
    (0..1_000).for_each(|n| older.push(black_box(n)));
}

/// A block of its own size, made before the check, that grows inside of it.
fn check_that_an_older_block_is_no_leak(older: &mut Vec<u64>) {
    if let Err(report) = leaks::check(|| grow(older)) {
        panic!("{report}");
    }
}

/// Bug prevented: a check that passes alone fails while a profile is taken.
fn a_profile_of_everything_lends_no_check_an_older_block() {
    let profiler = Profiler::builder().every_allocation().start().expect("one");
    let mut older = Vec::with_capacity(4);
    check_that_an_older_block_is_no_leak(&mut older);
    let profile = profiler.finish();
    assert!(live_of(&profile) >= older.capacity() as u64 * 8);
}

fn live_of(profile: &HeapProfile) -> u64 {
    profile.live().bytes
}

/// Bug prevented: the same under `HEAPLEDGER=leaks`.
fn a_check_of_the_process_lends_no_check_an_older_block() {
    let process = Process::new().start().expect("one");
    let mut older = Vec::with_capacity(4);
    check_that_an_older_block_is_no_leak(&mut older);
    let report = process.finish().expect_err("it is alive");
    let found = report
        .sites
        .iter()
        .any(|site| site.bytes == older.capacity() as u64 * 8);
    assert!(found, "{report}");
}

/// Bug prevented: an inner check reports what the outer one's code has made, and the
/// outer one misses it.
fn a_check_within_another_does_not_take_its_blocks() {
    let mut kept = Vec::new();
    let outer = leaks::check(|| {
        kept = Vec::with_capacity(4);
        check_that_an_older_block_is_no_leak(&mut kept);
    });
    let report = outer.expect_err("it is alive");
    assert_eq!(
        (report.blocks(), report.bytes()),
        (1, kept.capacity() as u64 * 8)
    );
}

/// A block of one thread's check that another thread, in one of its own, makes larger.
fn check_that_a_block_stays_whose_it_was(resize: fn(&Mutex<Vec<u64>>)) {
    static LIST: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let (born, grown) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let outcome = leaks::check(|| {
                LIST.lock().push(1);
                born.wait();
                grown.wait();
            });
            let report = outcome.expect_err("its block is alive");
            let bytes = LIST.lock().capacity() as u64 * 8;
            assert_eq!((report.blocks(), report.bytes()), (1, bytes));
        });
        scope.spawn(|| {
            born.wait();
            resize(&LIST);
            grown.wait();
        });
    });
}

/// Bug prevented: of two tests that push to one list, the second is told of the first
/// one's leak, and the first one is not.
fn a_check_takes_no_block_of_a_check_beside_it() {
    check_that_a_block_stays_whose_it_was(|list| {
        assert!(leaks::check(|| grow(&mut list.lock())).is_ok());
    });
}

/// Bug prevented: the same when the second looks for what grows.
fn a_steady_check_takes_no_block_of_a_check_beside_it() {
    check_that_a_block_stays_whose_it_was(|list| {
        let steady = Check::new().run_steady(1, 10, || grow(&mut list.lock()));
        assert!(steady.is_ok());
    });
}

/// Bug prevented: what a check within has left behind belongs to nobody once it grows.
fn a_block_that_a_check_within_has_made_is_the_outer_ones_afterwards() {
    let mut kept = Vec::new();
    let outer = leaks::check(|| {
        for _ in 0..3 {
            let inner = leaks::check(|| {
                let mut made = Vec::with_capacity(4);
                made.push(1);
                kept.push(made);
            });
            assert!(inner.is_err());
        }
        kept.iter_mut().for_each(grow);
    });
    let report = outer.expect_err("all are alive");
    let bytes: usize = kept.iter().map(|made| made.capacity() * 8).sum();
    assert_eq!(report.blocks(), 4);
    assert_eq!(
        report.bytes(),
        (bytes + kept.capacity() * size_of::<Vec<u64>>()) as u64
    );
}

/// Bug prevented: a log that only grows is steady, as its block is older than the check.
fn what_is_older_than_a_steady_check_is_found_when_it_grows() {
    let mut log: Vec<[u8; 256]> = Vec::with_capacity(1);
    let steady = Check::new().run_steady(1, 200, || log.push(black_box([7; 256])));
    let report = steady.expect_err("it grows");
    assert_eq!(report.sites.len(), 1, "{report}");
    let place = report.sites[0].location();
    assert!(place.contains("leaks_resized.rs"), "{report}");
}

/// Bug prevented: a cache that has reached its size is told to grow.
fn what_is_older_and_does_not_grow_is_steady() {
    let mut cache: Vec<usize> = Vec::with_capacity(1);
    let mut run = 0;
    let steady = Check::new().run_steady(1, 200, || {
        run += 1;
        if run < 60 {
            cache.extend([run; 100]);
        } else {
            cache.truncate(run % 50);
            cache.shrink_to_fit();
            cache.resize(3_000, run);
        }
    });
    if let Err(report) = steady {
        panic!("{report}");
    }
}

/// Bug prevented: what a steady check has taken over is missing in the check around it.
fn a_steady_check_within_another_takes_nothing_from_it() {
    let mut log: Vec<[u8; 256]> = Vec::new();
    let outer = leaks::check(|| {
        log = Vec::with_capacity(1);
        let steady = Check::new().run_steady(1, 200, || log.push(black_box([7; 256])));
        assert!(steady.is_err());
    });
    let report = outer.expect_err("it is alive");
    assert_eq!(
        (report.blocks(), report.bytes()),
        (1, log.capacity() as u64 * 256)
    );
}

/// Bug prevented: a profile has in its figures what is older than itself.
fn a_profile_and_a_steady_check_agree_with_the_counters() {
    let mut log: Vec<[u8; 256]> = Vec::with_capacity(64);
    let profiler = Profiler::builder().every_allocation().start().expect("one");
    let steady = Check::new().run_steady(1, 100, || log.push(black_box([7; 256])));
    drop(steady);
    let profile = profiler.finish();
    drop(log);
    assert!(live_of(&profile) < 10_000, "{}", live_of(&profile));
}
