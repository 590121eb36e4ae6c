//! The first assertion of a process, which makes ready for telling lines. In a file of its own,
//! as any other would have been the first.

use heapledger::{TrackingAllocator, assert_no_alloc, measure};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Bug prevented: what is asked for to make ready is in the figures of the code around the
/// assertion, and in which test's depends on their order.
#[test]
fn the_first_assertion_costs_its_caller_no_memory() {
    let ((), stats) = measure(|| assert_no_alloc!(|| ()));
    let asked = [stats.allocations, stats.reallocations, stats.frees];
    assert_eq!((asked, stats.allocated_bytes), ([0; 3], 0));
}
