//! What is missing from a report, as plain data.

/// What a recording could not keep, since it began; all 0 when nothing is missing.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use heapledger::Profiler;
/// use heapledger::profile::Incomplete;
///
/// let profiler = Profiler::builder().every_allocation().start()?;
/// drop(std::hint::black_box(vec![0u8; 100]));
/// let missing = profiler.finish().incomplete;
/// assert_eq!(missing, Incomplete::default(), "figures are too low, or stacks short");
/// # Ok::<(), heapledger::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Incomplete {
    /// Blocks that were allocated and not recorded, for want of memory. A
    /// thread that could not be followed counts as one, because it had no memory
    /// for that, was ending, or was in more than 32 checks at once; and so does a
    /// free that could not be entered, which may have been any check's.
    pub blocks: u64,
    /// Frames that were not kept, for want of memory, by the whole process.
    pub frames: u64,
    /// Stacks that could not be followed to where their thread began.
    pub cut_stacks: u64,
}
