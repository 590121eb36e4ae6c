//! `alloc_tracker`, which counts from the first allocation.

heapledger_benches::program!(
    alloc_tracker::Allocator<std::alloc::System>,
    alloc_tracker::Allocator::system()
);
