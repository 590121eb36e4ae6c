//! What a profile says, as plain data.

use core::time::Duration;
use std::sync::Arc;
use std::time::SystemTime;

use crate::profile::names::Names;
use crate::record::Incomplete;
use crate::stats::Stats;

/// What a profile's figures are made from; [`Display`](core::fmt::Display) says it
/// in words.
///
/// ```
/// use heapledger::profile::Mode;
///
/// # let sampled = Mode::Sampled { interval_bytes: 512 * 1024 };
/// # let profile = heapledger::__private::profile::empty(sampled, None);
/// if let Mode::Sampled { interval_bytes } = profile.mode {
///     assert_eq!(interval_bytes, 512 * 1024);
/// }
/// assert_eq!(profile.mode.to_string(), "one sample in 524,288 bytes");
/// ```
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
/// cases, and within two in 95, as long as it stands on some dozens of samples.
/// With fewer the error is itself a rough estimate, and too small where by chance
/// the samples are too few: two errors hold the truth in 90 of 100 cases where four
/// samples are to be expected, and in 63 where it is one. An estimate of nothing has an
/// error of 0. Where every allocation was recorded the errors are 0.
///
/// For `blocks` the samples of small blocks are what counts: at an interval of 512 KiB one
/// of 16 bytes stands for 32,768 blocks, and one of 1 MiB for little more than itself.
/// However many samples of large blocks there are, the number of blocks is no better known
/// than that of the small ones, and may stand on two or three samples; bytes do not have
/// this weakness.
///
/// ```
/// # use heapledger::profile::{Amount, Mode, StackProfile};
/// # let mode = Mode::Sampled { interval_bytes: 512 * 1024 };
/// # let mut profile = heapledger::__private::profile::empty(mode, None);
/// # let mut stack = StackProfile::default();
/// # stack.live = Amount::estimate(1_200, 76_800, 34.0, 2_200.0);
/// # profile.stacks.push(stack);
/// let live = profile.live();
/// // In 95 of 100 cases the truth is no further off than this.
/// let within = 2.0 * live.bytes_error;
/// assert_eq!((live.bytes, within), (76_800, 4_400.0));
/// ```
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
    /// An amount without error, as a profile of every allocation has it.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::Profiler;
    /// use heapledger::profile::Amount;
    ///
    /// let profiler = Profiler::builder().every_allocation().start()?;
    /// let kept = std::hint::black_box([Box::new(1u64), Box::new(2u64)]);
    /// assert_eq!(profiler.finish().live(), Amount::exact(2, 16));
    /// # drop(kept);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub const fn exact(blocks: u64, bytes: u64) -> Self {
        Self {
            blocks,
            bytes,
            blocks_error: 0.0,
            bytes_error: 0.0,
        }
    }

    /// An estimate with its standard errors, in blocks and in bytes.
    ///
    /// ```
    /// use heapledger::profile::Amount;
    ///
    /// let few_samples = Amount::estimate(10, 640, 3.0, 192.0);
    /// assert_eq!(few_samples.bytes_error / few_samples.bytes as f64, 0.3);
    /// ```
    pub const fn estimate(blocks: u64, bytes: u64, blocks_error: f64, bytes_error: f64) -> Self {
        Self {
            blocks,
            bytes,
            blocks_error,
            bytes_error,
        }
    }

    /// The sum; errors of different blocks are independent, so their squares add up.
    /// Blocks and bytes stop at [`u64::MAX`].
    ///
    /// ```
    /// use heapledger::profile::Amount;
    ///
    /// let sum = Amount::estimate(10, 640, 3.0, 192.0).plus(&Amount::estimate(20, 1_280, 4.0, 256.0));
    /// assert_eq!((sum.blocks, sum.bytes), (30, 1_920));
    /// assert_eq!((sum.blocks_error, sum.bytes_error), (5.0, 320.0));
    /// ```
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            blocks: self.blocks.saturating_add(other.blocks),
            bytes: self.bytes.saturating_add(other.bytes),
            blocks_error: self.blocks_error.hypot(other.blocks_error),
            bytes_error: self.bytes_error.hypot(other.bytes_error),
        }
    }

    /// Whether there are neither blocks nor bytes; the errors are not looked at.
    ///
    /// ```
    /// use heapledger::profile::Amount;
    ///
    /// assert!(Amount::default().is_zero());
    /// // In total, a stack that only made a block larger has bytes and no block.
    /// assert!(!Amount::exact(0, 7_968).is_zero());
    /// ```
    pub const fn is_zero(&self) -> bool {
        self.blocks == 0 && self.bytes == 0
    }
}

/// How long blocks lived that were freed while they were recorded.
///
/// Of recorded blocks, not estimated: a mean over samples is the mean over the
/// blocks that were sampled. When every allocation is recorded, a life may be told
/// some 10 ms too short or too long. Blocks that are made later than 49 days after the
/// process's first recording have lives of 0 ms. The life of a block that was resized
/// begins where it was resized last, as the block belongs to that stack.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # use heapledger::Profiler;
/// let profiler = Profiler::builder().every_allocation().start()?;
/// for _ in 0..3 {
///     drop(std::hint::black_box(vec![0u8; 100]));
/// }
/// let profile = profiler.finish();
/// let lifetimes = profile.stacks[0].lifetimes;
/// assert_eq!(lifetimes.freed_blocks, 3);
/// assert!(lifetimes.longest_ms <= lifetimes.total_ms);
/// # Ok::<(), heapledger::Error>(())
/// ```
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
    /// Both together: the sums of blocks and lives, and the longer of the longest.
    ///
    /// ```
    /// use heapledger::profile::Lifetimes;
    ///
    /// # use heapledger::profile::{Mode, StackProfile};
    /// # let mut profile = heapledger::__private::profile::empty(Mode::EveryAllocation, None);
    /// # for (freed, total, longest) in [(9, 9, 1), (1, 91, 91)] {
    /// #     let mut stack = StackProfile::default();
    /// #     stack.lifetimes.freed_blocks = freed;
    /// #     stack.lifetimes.total_ms = total;
    /// #     stack.lifetimes.longest_ms = longest;
    /// #     profile.stacks.push(stack);
    /// # }
    /// let each = profile.stacks.iter().map(|stack| stack.lifetimes);
    /// let all = each.fold(Lifetimes::default(), |sum, lifetimes| sum.plus(&lifetimes));
    /// assert_eq!((all.freed_blocks, all.total_ms, all.longest_ms), (10, 100, 91));
    /// ```
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            freed_blocks: self.freed_blocks.saturating_add(other.freed_blocks),
            total_ms: self.total_ms.saturating_add(other.total_ms),
            longest_ms: self.longest_ms.max(other.longest_ms),
        }
    }

    /// The mean life in milliseconds; `None` when nothing was freed.
    ///
    /// ```
    /// use heapledger::profile::Lifetimes;
    ///
    /// let mut lifetimes = Lifetimes::default();
    /// assert_eq!(lifetimes.mean_ms(), None);
    /// (lifetimes.freed_blocks, lifetimes.total_ms) = (4, 10);
    /// assert_eq!(lifetimes.mean_ms(), Some(2.5));
    /// ```
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
///
/// In a sampled profile the numbers of blocks are estimates with fractions. What is
/// rounded off one stack goes to the next, so that sums over stacks are right; a stack's
/// own number may be one more or less than its estimate.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # use heapledger::Profiler;
/// let profiler = Profiler::builder().every_allocation().start()?;
/// let mut numbers: Vec<u64> = std::hint::black_box(Vec::with_capacity(4));
/// numbers.reserve_exact(1_000);
/// let profile = profiler.finish();
/// let [grown, made] = &profile.stacks[..] else { panic!("two stacks") };
/// assert_eq!((made.total.bytes, made.live.bytes), (32, 0));
/// assert_eq!((grown.total.bytes, grown.live.bytes), (8_000 - 32, 8_000));
/// assert_eq!(grown.reallocations, 1);
/// # drop(numbers);
/// # Ok::<(), heapledger::Error>(())
/// ```
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

/// The heap at one moment of a profile; from [`HeapProfile::timeline`] and
/// [`HeapProfile::peak`].
///
/// ```
/// # use heapledger::profile::{Mode, Moment};
/// # let mut profile = heapledger::__private::profile::empty(Mode::EveryAllocation, None);
/// # profile.timeline = vec![Moment::new(0, 100), Moment::new(1_200, 9_274)];
/// let line = |moment: &Moment| format!("{},{}", moment.at_ms, moment.live_bytes);
/// let table: Vec<String> = profile.timeline.iter().map(line).collect();
/// assert_eq!(table, ["0,100", "1200,9274"]);
/// ```
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
    /// So many bytes alive, so many milliseconds after the beginning.
    ///
    /// ```
    /// use heapledger::profile::Moment;
    ///
    /// let moment = Moment::new(1_200, 9_274);
    /// assert_eq!((moment.at_ms, moment.live_bytes), (1_200, 9_274));
    /// ```
    pub const fn new(at_ms: u64, live_bytes: u64) -> Self {
        Self { at_ms, live_bytes }
    }
}

/// New blocks by size, from one power of two to the next; from
/// [`HeapProfile::sizes`].
///
/// A block counts by the size as first asked for; a `realloc` is no new block.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # use heapledger::Profiler;
/// let profiler = Profiler::builder().every_allocation().start()?;
/// drop(std::hint::black_box(vec![0u8; 1_000]));
/// let class = profiler.finish().sizes[0];
/// assert_eq!((class.min_bytes, class.max_bytes), (512, 1_023));
/// assert_eq!(class.blocks, 1);
/// # Ok::<(), heapledger::Error>(())
/// ```
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
    /// So many blocks of `min_bytes` to `max_bytes`, both included.
    ///
    /// ```
    /// use heapledger::profile::SizeClass;
    ///
    /// let class = SizeClass::new(512, 1_023, 3);
    /// assert!((class.min_bytes..=class.max_bytes).contains(&1_000));
    /// assert_eq!(class.blocks, 3);
    /// ```
    pub const fn new(min_bytes: u64, max_bytes: u64, blocks: u64) -> Self {
        Self {
            min_bytes,
            max_bytes,
            blocks,
        }
    }
}

/// What one thread has done, counted exactly from its beginning, which may be
/// older than the profile; from [`HeapProfile::threads`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # use heapledger::Profiler;
/// let profiler = Profiler::builder().start()?;
/// let kept = std::hint::black_box(vec![0u8; 10_000_000]);
/// let profile = profiler.finish();
/// let busiest = &profile.threads[0];
/// println!("{}: {} bytes", busiest.name, busiest.allocated_bytes);
/// assert!(busiest.allocated_bytes - busiest.freed_bytes >= 10_000_000);
/// # drop(kept);
/// # Ok::<(), heapledger::Error>(())
/// ```
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

/// A file whose code is mapped into the process, so that addresses can be named
/// elsewhere; from [`HeapProfile::mappings`].
///
/// ```
/// # use heapledger::profile::{Mapping, Mode, StackProfile};
/// # let mut profile = heapledger::__private::profile::empty(Mode::EveryAllocation, None);
/// # let mut mapping = Mapping::default();
/// # (mapping.start, mapping.end, mapping.offset) = (0x40_0000, 0x50_0000, 0x1000);
/// # mapping.path = String::from("/usr/bin/app");
/// # profile.mappings.push(mapping);
/// # let mut stack = StackProfile::default();
/// # stack.addresses.push(0x40_2000);
/// # profile.stacks.push(stack);
/// let address = profile.stacks[0].addresses[0];
/// let mut files = profile.mappings.iter();
/// let file = files.find(|file| (file.start..file.end).contains(&address)).unwrap();
/// // Where that lies in the file.
/// let offset = address - file.start + file.offset;
/// assert_eq!((&*file.path, offset), ("/usr/bin/app", 0x3000));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Mapping {
    /// The address at which its code begins.
    pub start: u64,
    /// The address after its code.
    pub end: u64,
    /// How far into the file `start` lies, in bytes.
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
/// which count the whole process, and in no stack. (With samples one that grows
/// meanwhile may be: then it cannot be told from a younger one, and is in it whole.)
///
/// With the feature `serde` it can be serialised. Stacks are addresses there, too, and
/// mean nothing in another process: call [`symbolize`](Self::symbolize) first, and the
/// frames of each address are in the field `names`, which is `null` otherwise.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # use heapledger::Profiler;
/// let older = std::hint::black_box(vec![0u8; 500]);
/// let profiler = Profiler::builder().every_allocation().start()?;
/// let newer = std::hint::black_box(vec![0u8; 10_000]);
/// let profile = profiler.finish();
/// let largest = &profile.stacks[0];
/// assert_eq!((largest.live.blocks, largest.live.bytes), (1, 10_000));
/// assert!(profile.stats.live_bytes >= 10_500);
/// # drop((older, newer));
/// # Ok::<(), heapledger::Error>(())
/// ```
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
    /// thousand moments, however long it ran; the last one is its end.
    pub timeline: Vec<Moment>,
    /// The most bytes that were alive in the process at once while this ran.
    pub peak: Moment,
    /// How far `peak` may be from the truth in bytes, either way: 0 when one
    /// thread allocated and every allocation was recorded.
    pub peak_error_bytes: u64,
    /// Sizes of new blocks, smallest first.
    pub sizes: Vec<SizeClass>,
    /// Each thread that is alive and has allocated while this ran, or was in an
    /// earlier recording, by bytes allocated, most first; and all others as one, at
    /// the end: those that have ended or are not seen. On other systems than Linux all are one.
    /// Threads of heapledger's own, as the one that writes reports on a signal, are left out.
    pub threads: Vec<ThreadShare>,
    /// The code that is mapped into the process, the program's own first; none
    /// elsewhere than on Linux x86-64.
    pub mappings: Vec<Mapping>,
    /// The exact counters of the process when the profile was taken.
    pub stats: Stats,
    /// The exact counters of the process when the profile began.
    pub stats_before: Stats,
    /// What could not be recorded.
    pub incomplete: Incomplete,
    /// Shared, as a table of names may be large.
    #[cfg_attr(
        feature = "serde",
        serde(serialize_with = "crate::profile::names::serialize")
    )]
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

    /// What is alive of what was allocated since the profile began, over all stacks.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let profiler = Profiler::builder().every_allocation().start()?;
    /// let [kept, gone] = std::hint::black_box([vec![0u8; 300], vec![0u8; 5_000]]);
    /// drop(gone);
    /// let live = profiler.finish().live();
    /// assert_eq!((live.blocks, live.bytes), (1, 300));
    /// # drop(kept);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn live(&self) -> Amount {
        self.sum(|stack| stack.live)
    }

    /// What was alive when the process had the most bytes alive, over all stacks: the
    /// [`peak`](Self::peak), less what is older than the profile.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let profiler = Profiler::builder().every_allocation().start()?;
    /// drop(std::hint::black_box(vec![0u8; 1_000_000]));
    /// let profile = profiler.finish();
    /// assert_eq!(profile.peak_amount().bytes, 1_000_000);
    /// assert!(profile.live().is_zero());
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn peak_amount(&self) -> Amount {
        self.sum(|stack| stack.peak)
    }

    /// What was ever allocated since the profile began, over all stacks: blocks as they
    /// were asked for, and bytes with what they grew by.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let profiler = Profiler::builder().every_allocation().start()?;
    /// for _ in 0..10 {
    ///     drop(std::hint::black_box(vec![0u8; 100]));
    /// }
    /// let total = profiler.finish().total();
    /// assert_eq!((total.blocks, total.bytes), (10, 1_000));
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn total(&self) -> Amount {
        self.sum(|stack| stack.total)
    }

    fn sum(&self, of: impl Fn(&StackProfile) -> Amount) -> Amount {
        self.stacks
            .iter()
            .fold(Amount::default(), |sum, stack| sum.plus(&of(stack)))
    }

    /// Whether the figures are estimates, with standard errors.
    ///
    /// ```
    /// # use heapledger::profile::Mode;
    /// # let sampled = Mode::Sampled { interval_bytes: 512 * 1024 };
    /// # let profile = heapledger::__private::profile::empty(sampled, None);
    /// let words = if profile.is_sampled() { "estimates" } else { "exact" };
    /// assert_eq!(words, "estimates");
    /// ```
    pub const fn is_sampled(&self) -> bool {
        matches!(self.mode, Mode::Sampled { .. })
    }
}
