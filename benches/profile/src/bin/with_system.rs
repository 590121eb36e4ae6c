//! `System`, installed: nothing is recorded.

#[global_allocator]
static HEAP: std::alloc::System = std::alloc::System;

fn main() {
    heapledger_profile_bench::main(heapledger_profile_bench::nothing);
}
