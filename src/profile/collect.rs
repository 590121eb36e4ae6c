//! From what the recorder knows to plain data.

use core::cmp::Reverse;
use std::collections::HashMap;

use crate::ledger::{self, Figures};
use crate::profile::data::{
    Amount, HeapProfile, Lifetimes, Mapping, Mode, Moment, SizeClass, StackProfile, ThreadShare,
};
use crate::reading;
use crate::record::{self, Incomplete, Snapshot, StackFigures, Weighed};
use crate::stats::Stats;

/// What the ledger has counted at one moment.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(super) stats: Stats,
    /// As [`record::threads`] has it.
    threads: (Vec<(u64, Figures)>, Figures),
}

impl Counted {
    /// As it is now. Call it [quietly](record::quietly), and before anything is allocated for
    /// the report.
    pub(crate) fn now() -> Self {
        Self {
            stats: reading::try_stats().unwrap_or_default(),
            threads: record::threads(),
        }
    }
}

/// Fills in all that the recorder knows.
pub(super) fn fill(profile: &mut HeapProfile, snapshot: &Snapshot, counted: Counted) {
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
    profile.threads = threads(counted.threads);
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
    profiles(by_stack.into_iter().collect())
}

/// In whole blocks, most bytes first.
fn profiles(mut by_stack: Vec<(Vec<u64>, StackFigures)>) -> Vec<StackProfile> {
    // So what is rounded off goes to a stack near by, and to the same one each time.
    by_stack.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut rests = [const { Rest(0.0) }; 4];
    let [live, peak, total, resizes] = &mut rests;
    let mut stacks: Vec<StackProfile> = by_stack
        .into_iter()
        .map(|(addresses, figures)| StackProfile {
            addresses,
            live: amount(&figures.live, live),
            peak: amount(&figures.share, peak),
            total: amount(&figures.total, total),
            reallocations: resizes.round(figures.resizes),
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
    // It is where all of them were.
    stacks.shrink_to_fit();
    // Stable: those with as many bytes stay in the order of their addresses.
    stacks.sort_by_key(|stack| Reverse((stack.live.bytes, stack.total.bytes)));
    stacks
}

fn amount(weighed: &Weighed, blocks: &mut Rest) -> Amount {
    Amount {
        blocks: blocks.round(weighed.blocks),
        bytes: whole(weighed.bytes),
        blocks_error: weighed.blocks_variance.max(0.0).sqrt(),
        bytes_error: weighed.bytes_variance.max(0.0).sqrt(),
    }
}

/// What was rounded off the counts so far. A sample stands for 1.3 blocks, say: a thousand stacks
/// with one each, rounded one by one, would be three hundred blocks short.
struct Rest(f64);

impl Rest {
    /// A count to a whole number, so that the sum of all so far is as near as can be.
    fn round(&mut self, count: f64) -> u64 {
        // No sample stands for less than one: this is what adding and subtracting weights has left.
        if count < 0.5 {
            return 0;
        }
        let count = count + self.0;
        self.0 = count - count.round();
        whole(count)
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

/// Each thread that is alive and was seen, busiest first, and the rest as one. The one that ends
/// the process is still alive.
fn threads((seen, mut rest): (Vec<(u64, Figures)>, Figures)) -> Vec<ThreadShare> {
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
    let name = std::fs::read(format!("/proc/self/task/{id}/comm")).ok()?;
    // The system cuts it after 15 bytes, also within a character.
    Some(String::from(String::from_utf8_lossy(&name).trim_end()))
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

#[cfg(test)]
mod tests {
    use super::profiles;
    use crate::profile::data::{Amount, StackProfile};
    use crate::record::{StackFigures, Weighed};

    /// Stacks whose samples stand for so many blocks of 10 bytes each.
    fn of_weights(weights: impl Iterator<Item = f64>) -> Vec<StackProfile> {
        let figures = |blocks: f64| {
            let weighed = Weighed {
                blocks,
                bytes: 10.0 * blocks,
                ..Weighed::default()
            };
            StackFigures {
                live: weighed,
                share: weighed,
                total: weighed,
                resizes: blocks,
                ..StackFigures::default()
            }
        };
        let by_stack = (1..).zip(weights);
        profiles(by_stack.map(|(n, w)| (vec![n], figures(w))).collect())
    }

    fn sum(stacks: &[StackProfile], of: fn(&StackProfile) -> u64) -> u64 {
        stacks.iter().map(of).sum()
    }

    /// Bug prevented: a thousand stacks with a sample each that stands for 1.3 blocks have a
    /// thousand blocks, with an error that is a fraction of what is missing.
    #[test]
    fn what_is_rounded_off_one_stack_is_not_lost_for_all() {
        for (weight, all) in [(1.3, 1_300), (1.5, 1_500), (1.75, 1_750), (2.0, 2_000)] {
            let stacks = of_weights((0..1_000).map(|_| weight));
            let counts: [fn(&StackProfile) -> u64; 4] = [
                |stack| stack.live.blocks,
                |stack| stack.peak.blocks,
                |stack| stack.total.blocks,
                |stack| stack.reallocations,
            ];
            for of in counts {
                assert!(sum(&stacks, of).abs_diff(all) <= 1, "{weight}");
                // None has lost its only sample, nor got another one's.
                assert!(stacks.iter().all(|stack| (1..=2).contains(&of(stack))));
            }
        }
    }

    /// Bug prevented: a stack whose blocks are all freed gets a block that was rounded off
    /// others, or one of fewer blocks than none; or the others keep the room of all.
    #[test]
    fn what_is_rounded_off_goes_to_stacks_that_have_blocks() {
        let weights = (0..1_200).map(|n| [1.25, 1e-16, -1e-16, 1.5, -1.5, 0.0][n % 6]);
        let stacks = of_weights(weights);
        assert!(
            stacks
                .iter()
                .all(|s| [1, 4].contains(&(s.addresses[0] % 6)))
        );
        assert_eq!(sum(&stacks, |stack| stack.live.blocks), 550);
        let (stacks, room) = (stacks.len(), stacks.capacity());
        assert!(room < stacks + 8, "room for {room} stacks of {stacks}");
    }

    #[test]
    fn whole_counts_stay_as_they_are() {
        let stacks = of_weights([3.0, 1.0, 7.0].into_iter());
        let live: Vec<_> = stacks.iter().map(|stack| stack.live).collect();
        let exact = [7, 3, 1].map(|blocks| Amount::exact(blocks, 10 * blocks));
        assert_eq!(live, exact);
    }
}
