//! heapledger over mimalloc.

heapledger_benches::program!(
    heapledger::TrackingAllocator<mimalloc::MiMalloc>,
    heapledger::TrackingAllocator::over(mimalloc::MiMalloc)
);
