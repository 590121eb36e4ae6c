//! The pair in a program of one crate. heapledger over `System`.

heapledger_benches::alone!(
    heapledger::TrackingAllocator,
    heapledger::TrackingAllocator::new(),
    heapledger::stats().allocations
);
