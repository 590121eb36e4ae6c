//! heapscope: not profiling, sampling so many bytes apart, or every allocation. It
//! writes its profile to the current directory when it ends, after the work was timed.

#[global_allocator]
static HEAP: heapscope::Alloc = heapscope::Alloc::system();

fn main() {
    heapledger_profile_bench::main(|how| match how {
        "" | "count" => Box::new(()),
        "every" => Box::new(heapscope::Profiler::new().expect("the only profile")),
        interval => Box::new(
            heapscope::Profiler::builder()
                .sampling(interval.parse().expect("count, every, or bytes"))
                .build()
                .expect("the only profile"),
        ),
    });
}
