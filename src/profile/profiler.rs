//! Taking a profile.

use core::fmt;
use std::time::SystemTime;

use crate::error::Error;
use crate::profile::collect::{self, Counted};
use crate::profile::data::{HeapProfile, Mode};
use crate::reading;
use crate::record::{self, Profiling};
use crate::stats::Stats;

/// How a [`Profiler`] is to work; from [`Profiler::builder`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use heapledger::Profiler;
///
/// let settings = Profiler::builder().sample_every(64 * 1024);
/// for name in ["read", "sort"] {
///     let profile = settings.clone().start()?.finish();
///     println!("{name}: {} bytes", profile.live().bytes);
///     assert_eq!(profile.mode.to_string(), "one sample in 65,536 bytes");
/// }
/// # Ok::<(), heapledger::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is profiled before `start`"]
pub struct ProfilerBuilder {
    mode: Mode,
}

/// A heap profile under way, of the whole process: from its start to
/// [`finish`](Self::finish), or until it is dropped.
///
/// There can be one at a time. What checks in [`leaks`](crate::leaks) record is
/// in it too.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let profiler = heapledger::Profiler::builder().every_allocation().start()?;
/// let kept = std::hint::black_box(vec![0u8; 10_000]);
/// let profile = profiler.snapshot();
/// assert!(profile.live().bytes >= 10_000);
/// profile.write_text(std::io::stdout())?;
/// # drop(kept);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the profile ends when this is dropped"]
pub struct Profiler {
    // None only while it is being replaced.
    profiling: Option<Profiling>,
    mode: Mode,
    started: SystemTime,
    before: Stats,
}

/// The mean number of bytes between two samples unless told otherwise, 512 KiB: what
/// other sampling profilers have found cheap enough to leave on (jemalloc's
/// `lg_prof_sample` and Go's `MemProfileRate` are the same).
///
/// ```
/// use heapledger::Profiler;
/// use heapledger::profile::DEFAULT_INTERVAL;
///
/// // Eight times as many samples.
/// let builder = Profiler::builder().sample_every(DEFAULT_INTERVAL / 8);
/// # drop(builder);
/// assert_eq!(DEFAULT_INTERVAL / 8, 64 * 1024);
/// ```
pub const DEFAULT_INTERVAL: u64 = 512 * 1024;

impl Default for ProfilerBuilder {
    fn default() -> Self {
        Self {
            mode: Mode::Sampled {
                interval_bytes: DEFAULT_INTERVAL,
            },
        }
    }
}

impl ProfilerBuilder {
    /// Records every allocation: exact figures, at the price of a program that
    /// runs two to four times as long.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let profiler = Profiler::builder().every_allocation().start()?;
    /// drop(std::hint::black_box(Box::new(7u8)));
    /// let total = profiler.finish().total();
    /// assert_eq!((total.blocks, total.bytes, total.bytes_error), (1, 1, 0.0));
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn every_allocation(mut self) -> Self {
        self.mode = Mode::EveryAllocation;
        self
    }

    /// Records one in `bytes` bytes on average, with exponential gaps; figures
    /// are estimates with standard errors. 1 is every allocation, and 0 an error of
    /// [`start`](Self::start).
    ///
    /// What that costs is in the README; the default is
    /// [`DEFAULT_INTERVAL`].
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let profiler = Profiler::builder().sample_every(64 * 1024).start()?;
    /// let kept = std::hint::black_box(vec![0u8; 10_000_000]);
    /// let live = profiler.finish().live();
    /// // So large a block is as good as certain to be a sample, and stands for itself.
    /// assert!(live.bytes >= 10_000_000 && live.bytes_error < 1.0);
    /// # drop(kept);
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn sample_every(mut self, bytes: u64) -> Self {
        self.mode = match bytes {
            1 => Mode::EveryAllocation,
            interval_bytes => Mode::Sampled { interval_bytes },
        };
        self
    }

    /// Starts the profile.
    ///
    /// # Errors
    /// [`Error::is_already_profiling`] when there is one already, or a check of the
    /// whole [process](crate::leaks::Process),
    /// [`Error::is_no_interval`] when samples are to be 0 bytes apart,
    /// [`Error::is_not_installed`] when the tracking allocator is not the
    /// program's, [`Error::is_no_memory`], [`Error::is_thread_ending`],
    /// [`Error::is_busy`].
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let first = Profiler::builder().start()?;
    /// let error = Profiler::builder().start().unwrap_err();
    /// assert!(error.is_already_profiling());
    /// drop(first);
    /// assert!(Profiler::builder().start().is_ok());
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn start(self) -> Result<Profiler, Error> {
        let profiling = self.mode.start()?;
        Ok(Profiler {
            profiling: Some(profiling),
            mode: self.mode,
            started: SystemTime::now(),
            before: reading::try_stats()?,
        })
    }
}

impl Mode {
    fn start(self) -> Result<Profiling, Error> {
        match self {
            Self::EveryAllocation => Profiling::start(1),
            Self::Sampled { interval_bytes: 0 } => Err(Error::no_interval()),
            Self::Sampled { interval_bytes } => Profiling::start(interval_bytes),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EveryAllocation => f.write_str("every allocation"),
            Self::Sampled { interval_bytes } => {
                write!(
                    f,
                    "one sample in {} bytes",
                    crate::units::Grouped(*interval_bytes)
                )
            }
        }
    }
}

impl Profiler {
    /// A profiler that samples, one in [`DEFAULT_INTERVAL`] bytes, until told
    /// otherwise.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::Profiler;
    /// use heapledger::profile::{DEFAULT_INTERVAL, Mode};
    ///
    /// let profile = Profiler::builder().start()?.finish();
    /// assert_eq!(profile.mode, Mode::Sampled { interval_bytes: DEFAULT_INTERVAL });
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn builder() -> ProfilerBuilder {
        ProfilerBuilder::default()
    }

    /// What is known now; the profile goes on.
    ///
    /// Takes time in proportion to the stacks and recorded blocks. Threads that allocate and free
    /// wait for it for moments only. Whoever resizes a recorded block, as each `realloc` does with
    /// every allocation, waits until all recorded blocks were looked at: what is on its way from
    /// one address to another would be missed. What the snapshot allocates itself is not in the
    /// profile. After a [`reset`](Self::reset) that has failed it has the counters and no stacks.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let profiler = Profiler::builder().every_allocation().start()?;
    /// let one = std::hint::black_box(vec![0u8; 10_000]);
    /// assert_eq!(profiler.snapshot().live().bytes, 10_000);
    /// let two = std::hint::black_box(vec![0u8; 500]);
    /// assert_eq!(profiler.snapshot().live().bytes, 10_500);
    /// # drop((one, two));
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn snapshot(&self) -> HeapProfile {
        record::quietly(|| {
            record::notice_libraries();
            self.snapshot_with(Counted::now())
        })
    }

    /// The same with what was counted before. Call it [quietly](record::quietly).
    pub(crate) fn snapshot_with(&self, counted: Counted) -> HeapProfile {
        let mut profile = HeapProfile::empty(self.mode);
        profile.started = self.started;
        profile.stats = counted.stats;
        profile.stats_before = self.before;
        if let Some(profiling) = &self.profiling {
            collect::fill(&mut profile, &profiling.snapshot(), counted);
        }
        profile
    }

    /// Forgets what was recorded, and begins again: to leave a warm-up out. (With samples,
    /// blocks of it that grow later may come back, as [`HeapProfile`] says.)
    ///
    /// # Errors
    /// [`Error::is_already_profiling`] when somebody else has started one in between;
    /// else [`Error::is_no_memory`], [`Error::is_thread_ending`], [`Error::is_busy`].
    /// Then this one is over.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let mut profiler = Profiler::builder().every_allocation().start()?;
    /// let warm = std::hint::black_box(vec![0u8; 10_000]);
    /// profiler.reset()?;
    /// let new = std::hint::black_box(vec![0u8; 500]);
    /// assert_eq!(profiler.finish().live().bytes, 500);
    /// # drop((warm, new));
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn reset(&mut self) -> Result<(), Error> {
        drop(self.profiling.take());
        self.profiling = Some(self.mode.start()?);
        self.started = SystemTime::now();
        self.before = reading::try_stats()?;
        Ok(())
    }

    /// Ends the profile and gives it, as [`snapshot`](Self::snapshot) does; another
    /// one may start then.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # use heapledger::Profiler;
    /// let profiler = Profiler::builder().every_allocation().start()?;
    /// let freed_later = std::hint::black_box(vec![0u8; 10_000]);
    /// let profile = profiler.finish();
    /// drop(freed_later);
    /// assert_eq!(profile.live().bytes, 10_000);
    /// assert!(Profiler::builder().start().is_ok());
    /// # Ok::<(), heapledger::Error>(())
    /// ```
    pub fn finish(self) -> HeapProfile {
        self.snapshot()
    }
}
