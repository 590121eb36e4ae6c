//! heapledger over `System`.

heapledger_benches::program!(
    heapledger::TrackingAllocator,
    heapledger::TrackingAllocator::new()
);
