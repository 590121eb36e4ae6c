//! `dhat`, running.

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

fn main() {
    heapledger_profile_bench::main(|_| Box::new(dhat::Profiler::builder().testing().build()));
}
