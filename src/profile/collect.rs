//! From what the recorder knows to plain data.

use core::cmp::Reverse;
use std::collections::HashMap;

use crate::ledger::{self, Figures};
use crate::profile::data::{
    Amount, HeapProfile, Lifetimes, Mapping, Mode, Moment, SizeClass, StackProfile, ThreadShare,
};
use crate::record::{self, Incomplete, Snapshot, StackFigures, Weighed};

/// Fills in all that the recorder knows.
pub(super) fn fill(profile: &mut HeapProfile, snapshot: &Snapshot) {
    profile.duration = snapshot.duration;
    profile.stacks = stacks(&snapshot.stacks);
    profile.timeline = snapshot
        .timeline
        .iter()
        .map(|&(at_ms, live_bytes)| Moment { at_ms, live_bytes })
        .collect();
    let (at_ms, live_bytes) = snapshot.highest;
    profile.peak = Moment { at_ms, live_bytes };
    profile.peak_error_bytes = profile.stats.peak_error_bytes;
    if let Mode::Sampled { interval_bytes } = profile.mode {
        // Threads look for a peak once in a while, not with each allocation.
        let threads = profile
            .stats
            .peak_error_bytes
            .div_ceil(ledger::HELD_BACK_BYTES)
            .max(1);
        let each = record::unseen(interval_bytes).max(ledger::HELD_BACK_BYTES);
        profile.peak_error_bytes += threads.saturating_mul(each);
    }
    profile.sizes = sizes(&snapshot.sizes);
    profile.threads = threads();
    profile.mappings = mappings();
    profile.incomplete = Incomplete {
        blocks: snapshot.lost.blocks,
        frames: snapshot.lost.frames,
        cut_stacks: snapshot.lost.cut,
    };
}

/// By stack, which several nodes may stand for.
fn stacks(figures: &HashMap<u32, StackFigures>) -> Vec<StackProfile> {
    let mut by_stack: HashMap<Vec<u64>, StackFigures> = HashMap::new();
    for (&node, figures) in figures {
        let stack = by_stack.entry(record::frames(node).0).or_default();
        *stack = stack.plus(figures);
    }
    let mut stacks: Vec<StackProfile> = by_stack
        .into_iter()
        .map(|(addresses, figures)| StackProfile {
            addresses,
            live: amount(&figures.live),
            peak: amount(&figures.share),
            total: amount(&figures.total),
            reallocations: whole(figures.resizes),
            lifetimes: Lifetimes {
                freed_blocks: figures.freed,
                total_ms: figures.life_ms,
                longest_ms: figures.longest_ms,
            },
        })
        .filter(|stack| {
            // Where a sample was shrunk nothing was allocated, and nothing need be alive.
            let amounts = [stack.live, stack.peak, stack.total];
            let events = stack.reallocations + stack.lifetimes.freed_blocks;
            events > 0 || !amounts.iter().all(Amount::is_zero)
        })
        .collect();
    stacks.sort_by(|a, b| key(a).cmp(&key(b)));
    stacks
}

fn key(stack: &StackProfile) -> (Reverse<(u64, u64)>, &[u64]) {
    (
        Reverse((stack.live.bytes, stack.total.bytes)),
        &stack.addresses,
    )
}

fn amount(weighed: &Weighed) -> Amount {
    Amount {
        blocks: whole(weighed.blocks),
        bytes: whole(weighed.bytes),
        blocks_error: weighed.blocks_variance.max(0.0).sqrt(),
        bytes_error: weighed.bytes_variance.max(0.0).sqrt(),
    }
}

/// To the nearest whole number; what rounding has left below zero is nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion stops at the limits"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn sizes(counts: &[f64]) -> Vec<SizeClass> {
    counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0.0)
        .map(|(bit, &count)| SizeClass {
            min_bytes: if bit == 0 { 0 } else { 1 << bit },
            max_bytes: (1 << bit) | ((1 << bit) - 1),
            blocks: whole(count),
        })
        .collect()
}

/// Each thread that is alive and was seen, busiest first, and the rest as one.
fn threads() -> Vec<ThreadShare> {
    let (seen, mut rest) = record::threads();
    let mut threads = Vec::new();
    for (id, figures) in seen {
        match thread_name(id) {
            Some(name) => threads.push(share(name, id, &figures)),
            None => rest = rest.plus(&figures),
        }
    }
    threads.sort_by_key(|thread| Reverse(thread.allocated_bytes));
    threads.push(share(String::from("(all other threads)"), 0, &rest));
    threads
}

fn share(name: String, id: u64, figures: &Figures) -> ThreadShare {
    ThreadShare {
        name,
        id,
        allocations: figures.allocations,
        allocated_bytes: figures.allocated_bytes,
        frees: figures.frees,
        freed_bytes: figures.freed_bytes,
    }
}

fn thread_name(id: u64) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok()?;
    Some(String::from(name.trim_end()))
}

fn mappings() -> Vec<Mapping> {
    record::mapped()
        .into_iter()
        .map(|file| Mapping {
            start: file.start,
            end: file.end,
            offset: file.offset,
            path: file.path,
            build_id: file.build_id,
        })
        .collect()
}
