//! What is missing from a report, as plain data.

/// What a recording could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Incomplete {
    /// Blocks that were allocated and not recorded, for want of memory.
    pub blocks: u64,
    /// Frames that were not kept, for want of memory.
    pub frames: u64,
    /// Stacks that could not be followed to where their thread began.
    pub cut_stacks: u64,
}
