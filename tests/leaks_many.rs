//! Reports of many leaks: what making one takes, and the order of its sites.

mod support;

use std::hint::black_box;
use std::mem::forget;
use std::process::ExitCode;

use heapledger::leaks::{self, LeakReport};
use heapledger::{TrackingAllocator, reset_peak, stats};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        a_report_takes_memory_for_its_sites_and_not_for_every_stack,
        sites_that_differ_in_a_function_alone_are_always_in_the_same_order,
    ])
}

/// Calls in calls, and in the innermost of them a tree that leaks its leaves.
#[inline(never)]
fn trunk(depth: u32, levels: u32) -> u32 {
    match depth {
        0 => tree(levels),
        _ => black_box(trunk(depth - 1, levels)) + 1,
    }
}

/// Four calls on one line: each leaf has a stack of its own, and all of them look the same.
#[inline(never)]
#[rustfmt::skip]
fn tree(levels: u32) -> u32 {
    if levels == 0 {
        forget(black_box(Box::new(levels)));
        return 1;
    }
    black_box(tree(levels - 1)) + black_box(tree(levels - 1)) + black_box(tree(levels - 1)) + black_box(tree(levels - 1))
}

/// Allocations, and bytes at once, that a check takes which finds so many levels' leaves.
fn taken(levels: u32) -> (u64, u64) {
    let before = stats();
    reset_peak();
    let report = leaks::check(|| trunk(200, levels)).unwrap_err();
    let after = stats();
    assert_eq!((report.sites.len(), report.blocks()), (1, 4u64.pow(levels)));
    let allocations = after.allocations - before.allocations;
    (allocations, after.peak_bytes - before.live_bytes)
}

/// Bug prevented: all frames of all stacks are made, and kept until those that look the same are
/// one: gigabytes for what was recorded in ten megabytes, and the process is killed.
fn a_report_takes_memory_for_its_sites_and_not_for_every_stack() {
    // What is read for names is kept.
    _ = taken(1);
    let (few, small) = taken(2);
    let (many, large) = taken(6);
    let stacks = 4u64.pow(6) - 4u64.pow(2);
    let allocations = many.saturating_sub(few) / stacks;
    let bytes = large.saturating_sub(small) / stacks;
    // Each has two hundred frames.
    assert!(allocations < 10, "{allocations} allocations for each stack");
    assert!(bytes < 1_000, "{bytes} bytes for each stack");
}

/// Functions that leak as much on the same line.
macro_rules! leaky {
    ($($name:ident)+) => {
        $(#[inline(never)] fn $name() { forget(black_box(Box::new(stringify!($name)))); })+
        /// Calls all of them, on that line, too.
        fn alike() -> LeakReport { leaks::check(|| { $($name();)+ }).unwrap_err() }
    };
}
leaky!(cherry apple banana date);

/// Bug prevented: sites with the same figures and lines come in another order each time, so two
/// reports of the same leaks are not equal.
fn sites_that_differ_in_a_function_alone_are_always_in_the_same_order() {
    let mut stacks = Vec::new();
    for _ in 0..20 {
        let sites = alike().sites;
        assert_eq!(sites.len(), 4);
        stacks.push(sites.into_iter().map(|site| site.stack).collect::<Vec<_>>());
    }
    assert!(stacks.iter().all(|others| *others == stacks[0]));
}
