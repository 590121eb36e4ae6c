//! heapledger: counting alone, sampling so many bytes apart, every allocation, or
//! a leak check of the whole process's threads.

use heapledger::Profiler;

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

fn main() {
    heapledger_profile_bench::main(|how| match how {
        "" | "count" => Box::new(()),
        "every" => Box::new(
            Profiler::builder()
                .every_allocation()
                .start()
                .expect("the only profile"),
        ),
        interval => Box::new(
            Profiler::builder()
                .sample_every(interval.parse().expect("count, every, or bytes"))
                .start()
                .expect("the only profile"),
        ),
    });
}
