//! The allocators that are compared in one process.

use std::alloc::{GlobalAlloc, System};
use std::time::Duration;

use heapledger::TrackingAllocator;
use mimalloc::MiMalloc;

use crate::least::Least;
use crate::micro::Workload;
use crate::peers::{SharedAtomics, start_tracking_allocator};

static SYSTEM: System = System;
static SYSTEM_AGAIN: System = System;
static SHARED: SharedAtomics = SharedAtomics;
static CAP: cap::Cap<System> = cap::Cap::new(System, usize::MAX);
static ALLOC_TRACKER: alloc_tracker::Allocator<System> = alloc_tracker::Allocator::system();
static TRACKING: tracking_allocator::Allocator<System> = tracking_allocator::Allocator::system();
static DHAT: dhat::Alloc = dhat::Alloc;
static LEAST: Least = Least::over(System);
static OURS: TrackingAllocator = TrackingAllocator::new();
static MIMALLOC: MiMalloc = MiMalloc;
static LEAST_OVER_MIMALLOC: Least<MiMalloc> = Least::over(MiMalloc);
static OURS_OVER_MIMALLOC: TrackingAllocator<MiMalloc> = TrackingAllocator::over(MiMalloc);

type Run = Box<dyn Fn(Workload, u64) -> Duration>;

/// One of the allocators.
pub struct Contender {
    /// The name for tables.
    pub name: &'static str,
    /// What it is measured against: the index of what it stands on.
    pub base: usize,
    run: Run,
}

/// The index of `System`.
pub const AT_SYSTEM: usize = 0;
/// The index of `System` once more, which shows the noise.
pub const AT_SYSTEM_AGAIN: usize = 1;
/// The index of the shared atomics.
pub const AT_SHARED: usize = 2;
/// The index of `alloc_tracker`.
pub const AT_ALLOC_TRACKER: usize = 5;
/// The index of heapledger.
pub const AT_OURS: usize = 9;
/// The index of mimalloc.
pub const AT_MIMALLOC: usize = 10;
/// The index of heapledger over mimalloc.
pub const AT_OURS_OVER_MIMALLOC: usize = 12;

impl Contender {
    fn new<A: GlobalAlloc + Sync>(name: &'static str, base: usize, heap: &'static A) -> Self {
        Self {
            name,
            base,
            run: Box::new(|workload, turns| workload.run(heap, turns)),
        }
    }

    /// How long `turns` turns of `workload` take.
    pub fn run(&self, workload: Workload, turns: u64) -> Duration {
        (self.run)(workload, turns)
    }

    /// All of them, ready to count, in the order of the tables.
    pub fn all() -> Vec<Self> {
        start_tracking_allocator();
        let on_system = AT_SYSTEM;
        vec![
            Self::new("System", on_system, &SYSTEM),
            Self::new("System, again", on_system, &SYSTEM_AGAIN),
            Self::new("shared atomics", on_system, &SHARED),
            Self::new("stats_alloc", on_system, &stats_alloc::INSTRUMENTED_SYSTEM),
            Self::new("cap", on_system, &CAP),
            Self::new("alloc_tracker", on_system, &ALLOC_TRACKER),
            Self::new("tracking-allocator", on_system, &TRACKING),
            Self::new("dhat, not running", on_system, &DHAT),
            Self::new("the least", on_system, &LEAST),
            Self::new("heapledger", on_system, &OURS),
            Self::new("mimalloc", AT_MIMALLOC, &MIMALLOC),
            Self::new("the least over mimalloc", AT_MIMALLOC, &LEAST_OVER_MIMALLOC),
            Self::new("heapledger over mimalloc", AT_MIMALLOC, &OURS_OVER_MIMALLOC),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tracked_allocations;

    // A contender that does not count would win every table.
    #[test]
    fn every_counting_contender_counts() {
        let all = Contender::all();
        let figures = || {
            [
                SharedAtomics::figures()[2],
                stats_alloc::INSTRUMENTED_SYSTEM.stats().allocations as u64,
                tracked_allocations(),
                Least::<System>::allocations(),
                heapledger::try_stats().map_or(0, |stats| stats.allocations),
            ]
        };
        let session = alloc_tracker::Session::new().no_stdout().no_file();
        let operation = session.operation("pairs");
        let before = figures();
        {
            let _span = operation.measure_thread().iterations(1);
            for contender in &all {
                contender.run(Workload::Pair, 100);
            }
        }
        let counted: Vec<u64> = figures().iter().zip(before).map(|(a, b)| a - b).collect();
        // The last two are here twice.
        assert_eq!(counted, [100, 100, 100, 200, 200]);
        let report = session.to_report();
        let (_, pairs) = report.operations().next().unwrap();
        assert_eq!(pairs.total_allocations_count(), 100);
    }

    // The tables find their rows by these.
    #[test]
    fn the_indices_name_the_right_contenders() {
        let all = Contender::all();
        let names = [
            (AT_SYSTEM, "System"),
            (AT_SYSTEM_AGAIN, "System, again"),
            (AT_SHARED, "shared atomics"),
            (AT_ALLOC_TRACKER, "alloc_tracker"),
            (AT_OURS, "heapledger"),
            (AT_MIMALLOC, "mimalloc"),
            (AT_OURS_OVER_MIMALLOC, "heapledger over mimalloc"),
        ];
        for (at, name) in names {
            assert_eq!(all[at].name, name);
        }
    }
}
