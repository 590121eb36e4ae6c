//! heapledger: counting alone, sampling so many bytes apart, every allocation, or
//! a leak check of the whole process's threads.

use heapledger::Profiler;
use heapledger::leaks::Process;

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

fn main() {
    heapledger_profile_bench::main(|how| match how {
        "" | "count" => Box::new(()),
        "leaks" => Box::new(
            Process::new()
                .allow_bytes(u64::MAX)
                .start()
                .expect("the only check"),
        ),
        "every" => Box::new(
            Profiler::builder()
                .every_allocation()
                .start()
                .expect("the only profile"),
        ),
        interval => Box::new(
            Profiler::builder()
                .sample_every(interval.parse().expect("count, leaks, every, or bytes"))
                .start()
                .expect("the only profile"),
        ),
    });
}
