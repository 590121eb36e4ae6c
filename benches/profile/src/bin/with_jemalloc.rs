//! jemalloc; its profiler runs when `MALLOC_CONF` says so.

#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    heapledger_profile_bench::main(heapledger_profile_bench::nothing);
}
