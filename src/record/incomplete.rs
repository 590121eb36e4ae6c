//! What is missing from a report, as plain data.

/// What a recording could not keep.
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
