//! `tracking-allocator`, with a tracker that only counts.

heapledger_benches::program!(
    tracking_allocator::Allocator<std::alloc::System>,
    tracking_allocator::Allocator::system(),
    heapledger_benches::peers::start_tracking_allocator()
);
