//! What a profile says, as plain data.

use core::time::Duration;
use std::sync::Arc;
use std::time::SystemTime;

use crate::profile::names::Names;
use crate::record::Incomplete;
use crate::stats::Stats;

/// What a profile's figures are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Mode {
    /// Every allocation was recorded: the figures are exact.
    EveryAllocation,
    /// One in so many bytes on average: the figures are estimates.
    Sampled {
        /// The mean number of bytes between two samples.
        interval_bytes: u64,
    },
}

/// Blocks and bytes, with the standard errors of both when they are estimates.
///
/// An estimate lies within one standard error of the truth in some 68 of 100
/// cases, and within two in 95, as long as it stands on some dozens of samples;
/// with fewer the error is itself a rough estimate, and an estimate of nothing
/// has an error of 0. Where every allocation was recorded the errors are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Amount {
    /// Blocks.
    pub blocks: u64,
    /// Bytes, as the program asked for them.
    pub bytes: u64,
    /// The standard error of `blocks`.
    pub blocks_error: f64,
    /// The standard error of `bytes`.
    pub bytes_error: f64,
}

impl Amount {
    /// An amount without error.
    pub const fn exact(blocks: u64, bytes: u64) -> Self {
        Self {
            blocks,
            bytes,
            blocks_error: 0.0,
            bytes_error: 0.0,
        }
    }

    /// An estimate with its standard errors.
    pub const fn estimate(blocks: u64, bytes: u64, blocks_error: f64, bytes_error: f64) -> Self {
        Self {
            blocks,
            bytes,
            blocks_error,
            bytes_error,
        }
    }

    /// The sum; errors of different blocks are independent, so their squares add up.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            blocks: self.blocks.saturating_add(other.blocks),
            bytes: self.bytes.saturating_add(other.bytes),
            blocks_error: self.blocks_error.hypot(other.blocks_error),
            bytes_error: self.bytes_error.hypot(other.bytes_error),
        }
    }

    /// Whether there is nothing.
    pub const fn is_zero(&self) -> bool {
        self.blocks == 0 && self.bytes == 0
    }
}

/// How long blocks lived that were freed while they were recorded.
///
/// Of recorded blocks, not estimated: a mean over samples is the mean over the
/// blocks that were sampled. When every allocation is recorded, a life may be told
/// some 10 ms too short or too long. Blocks that are made later than 49 days after the
/// process's first recording have lives of 0 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Lifetimes {
    /// Recorded blocks that were freed.
    pub freed_blocks: u64,
    /// The sum of their lives, in milliseconds.
    pub total_ms: u64,
    /// The longest of them, in milliseconds.
    pub longest_ms: u64,
}

impl Lifetimes {
    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            freed_blocks: self.freed_blocks.saturating_add(other.freed_blocks),
            total_ms: self.total_ms.saturating_add(other.total_ms),
            longest_ms: self.longest_ms.max(other.longest_ms),
        }
    }

    /// The mean life in milliseconds; `None` when nothing was freed.
    pub fn mean_ms(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a mean, for people")]
        (self.freed_blocks > 0).then(|| self.total_ms as f64 / self.freed_blocks as f64)
    }
}

/// What one stack of calls has allocated.
///
/// A `realloc` that grows a block adds the difference to the `total.bytes` of
/// the stack that called it and is no other block, as in
/// [`Stats`]; the block itself moves there, so `live` shows a
/// growing vector where it grew last.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StackProfile {
    /// The return addresses, innermost first. Names: [`HeapProfile::frames`].
    pub addresses: Vec<u64>,
    /// Alive when the profile was taken.
    pub live: Amount,
    /// Of what was alive when the process was at its peak.
    pub peak: Amount,
    /// Ever allocated since the profile began.
    pub total: Amount,
    /// How often a `realloc` grew or shrank a block here (an estimate in a
    /// sampled profile, which sees growth only).
    pub reallocations: u64,
    /// How long its blocks lived.
    pub lifetimes: Lifetimes,
}

/// The heap at one moment of a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Moment {
    /// Milliseconds since the profile began.
    pub at_ms: u64,
    /// Bytes alive in the process.
    pub live_bytes: u64,
}

impl Moment {
    /// So many bytes at that time.
    pub const fn new(at_ms: u64, live_bytes: u64) -> Self {
        Self { at_ms, live_bytes }
    }
}

/// Requests between two sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SizeClass {
    /// The smallest size that counts here, in bytes.
    pub min_bytes: u64,
    /// The largest size that counts here, in bytes.
    pub max_bytes: u64,
    /// How many new blocks were asked for (an estimate in a sampled profile).
    pub blocks: u64,
}

impl SizeClass {
    /// So many blocks of `min_bytes` to `max_bytes`.
    pub const fn new(min_bytes: u64, max_bytes: u64, blocks: u64) -> Self {
        Self {
            min_bytes,
            max_bytes,
            blocks,
        }
    }
}

/// What one thread has done, counted exactly from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadShare {
    /// The thread's name as the system has it, or what stands for several.
    pub name: String,
    /// The system's number for the thread; 0 for the others, taken together.
    pub id: u64,
    /// Blocks allocated.
    pub allocations: u64,
    /// Bytes allocated.
    pub allocated_bytes: u64,
    /// Blocks freed, wherever they were allocated.
    pub frees: u64,
    /// Bytes freed, wherever they were allocated.
    pub freed_bytes: u64,
}

/// A file that is mapped into the process, so that addresses can be named
/// elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Mapping {
    /// Where its code begins in memory.
    pub start: u64,
    /// Where its code ends in memory.
    pub end: u64,
    /// What of the file lies at `start`.
    pub offset: u64,
    /// The file's path, as the system names it.
    pub path: String,
    /// The linker's build id, in hexadecimal; empty when there is none.
    pub build_id: String,
}

/// Where the memory went: per stack what is alive, what was at the peak, and
/// what was ever allocated.
///
/// Plain data that holds no live state: keep it, compare it, write it from
/// another thread. What is in it belongs to the process since the profiler
/// started (or was last reset); older blocks are in `stats` and `timeline`,
/// which count the whole process, and in no stack.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HeapProfile {
    /// Whether the figures are exact or estimates.
    pub mode: Mode,
    /// When the profile began.
    pub started: SystemTime,
    /// For how long it ran.
    pub duration: Duration,
    /// One entry for each stack, largest `live.bytes` first, then by `total.bytes`.
    pub stacks: Vec<StackProfile>,
    /// Bytes alive in the process over time, oldest first; at most some
    /// thousand moments, however long it ran.
    pub timeline: Vec<Moment>,
    /// The most bytes that were alive in the process at once while this ran.
    pub peak: Moment,
    /// How far `peak` may be from the truth in bytes, either way: 0 when one
    /// thread allocated and every allocation was recorded.
    pub peak_error_bytes: u64,
    /// Sizes of new blocks, smallest first.
    pub sizes: Vec<SizeClass>,
    /// Each thread that is alive and has allocated while this ran, and all
    /// others (that have ended, or did not allocate) as one, at the end.
    pub threads: Vec<ThreadShare>,
    /// What is mapped into the process.
    pub mappings: Vec<Mapping>,
    /// The exact counters of the process when the profile was taken.
    pub stats: Stats,
    /// The exact counters of the process when the profile began.
    pub stats_before: Stats,
    /// What could not be recorded.
    pub incomplete: Incomplete,
    /// Shared, as a table of names may be large.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) names: Option<Arc<Names>>,
}

impl HeapProfile {
    /// A profile of nothing, to be filled in.
    pub(crate) fn empty(mode: Mode) -> Self {
        Self {
            mode,
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            stacks: Vec::new(),
            timeline: Vec::new(),
            peak: Moment::default(),
            peak_error_bytes: 0,
            sizes: Vec::new(),
            threads: Vec::new(),
            mappings: Vec::new(),
            stats: Stats::default(),
            stats_before: Stats::default(),
            incomplete: Incomplete::default(),
            names: None,
        }
    }

    /// What is alive, over all stacks.
    pub fn live(&self) -> Amount {
        self.sum(|stack| stack.live)
    }

    /// What was alive at the peak, over all stacks.
    pub fn peak_amount(&self) -> Amount {
        self.sum(|stack| stack.peak)
    }

    /// What was ever allocated, over all stacks.
    pub fn total(&self) -> Amount {
        self.sum(|stack| stack.total)
    }

    fn sum(&self, of: impl Fn(&StackProfile) -> Amount) -> Amount {
        self.stacks
            .iter()
            .fold(Amount::default(), |sum, stack| sum.plus(&of(stack)))
    }

    /// Whether the figures are estimates.
    pub const fn is_sampled(&self) -> bool {
        matches!(self.mode, Mode::Sampled { .. })
    }
}
