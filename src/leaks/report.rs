//! What a leak check has found, as plain data and for people.

use core::cmp::Ordering;
use core::fmt;

use crate::record::{Incomplete, Lost};
use crate::symbols::{Frame, Missed, Unread};

/// The blocks that a check has found alive at its end, by where they were born.
///
/// Plain data: it holds no live state and can be kept, compared and sent. Sites
/// are ordered by bytes, largest first, then by blocks, by place and by stack, so the
/// same leaks always give the same report. [`Display`](fmt::Display) prints all of it
/// with full stacks; `{:#}` prints the largest sites only, as a failing
/// assertion does. So does [`Debug`](fmt::Debug), which is what a failing
/// `unwrap` shows; `{:#?}` has all fields. It is an [`Error`](core::error::Error),
/// so `?` hands it on.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use std::mem::forget;
///
/// let leaks = || forget((vec![0u8; 100], Box::new(7u64)));
/// let report = heapledger::leaks::check(leaks).unwrap_err();
/// let largest = &report.sites[0];
/// println!("{} bytes at {}", largest.bytes, largest.location());
/// assert_eq!(largest.bytes, 100);
/// assert!(report.to_string().starts_with("2 blocks leaked, 108 bytes, at 2 sites"));
///
/// fn tidy() -> Result<(), Box<dyn std::error::Error>> {
///     heapledger::leaks::check(|| drop(vec![1, 2, 3]))?;
///     Ok(())
/// }
/// assert!(tidy().is_ok());
/// ```
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LeakReport {
    /// Where the leaked blocks were born; empty when the check failed only
    /// because it could not record.
    pub sites: Vec<LeakSite>,
    /// How often the code was run while it was recorded: 1 for a check, more
    /// for a steady-state check, which reports what all these runs left.
    pub runs: u32,
    /// Blocks and bytes that the code under test does not hold: the output that a
    /// test harness captures, and what std keeps for the messages of panics and for the names
    /// of backtraces, whoever has asked for them.
    pub harness: Held,
    /// Blocks and bytes that std keeps for the rest of the process, which only a
    /// check of the whole [process](super::Process) tells apart: buffers of the
    /// standard streams, lists of thread locals, what it makes before `main`.
    pub runtime: Held,
    /// Blocks and bytes at sites that a suppression names.
    pub suppressed: Held,
    /// Whether the program's functions have no names, as when it was stripped of
    /// its symbols, or its file cannot be read. Then suppressions match nothing, and blocks that are the
    /// runtime's or the harness's are among the leaks.
    pub nameless: bool,
    /// Paths of files, the program's own or libraries', whose functions have no names,
    /// because another file is there by now, or none that can be read. Each once,
    /// the program's first, the others in order.
    pub unnamed_files: Box<[String]>,
    /// Why, if the first of them is the program's.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) unread: Option<Unread>,
    /// What could not be recorded. When it is not empty, the figures are too
    /// low or stacks are short.
    pub incomplete: Incomplete,
}

/// Blocks and bytes that are not counted as leaks; in a [`LeakReport`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// fn fill_cache() {
///     std::mem::forget(vec![0u8; 500]);
/// }
/// let check = heapledger::leaks::Check::new().suppress("fill_cache");
/// let two = || { fill_cache(); std::mem::forget(vec![0u8; 20]) };
/// let report = check.run(two).unwrap_err();
/// assert_eq!((report.suppressed.blocks, report.suppressed.bytes), (1, 500));
/// assert_eq!(report.bytes(), 20);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Held {
    /// Blocks alive.
    pub blocks: u64,
    /// Bytes alive.
    pub bytes: u64,
}

/// What the last runs of a steady-state check have added; of a check that runs
/// once, all that it leaked. Of a site in [`LeakSite::growth`], of all of them
/// from [`LeakReport::growth`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let check = heapledger::leaks::Check::new();
/// let report = check.run_steady(0, 10, || std::mem::forget(vec![0u8; 24])).unwrap_err();
/// assert_eq!((report.sites[0].blocks, report.sites[0].bytes), (10, 240));
/// let growth = report.sites[0].growth; // of the last five runs
/// assert_eq!((growth.blocks, growth.bytes, growth.runs), (5, 120, 5));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Growth {
    /// Blocks that were added; 0 when there are fewer than before.
    pub blocks: u64,
    /// Bytes that were added; 0 when there are fewer than before.
    pub bytes: u64,
    /// By so many runs: the later half of them.
    pub runs: u32,
}

impl Growth {
    /// Blocks per run; 0 without any runs.
    ///
    /// ```
    /// let mut growth = heapledger::leaks::Growth::default();
    /// assert_eq!(growth.blocks_per_run(), 0.0);
    /// (growth.blocks, growth.runs) = (1, 4);
    /// assert_eq!(growth.blocks_per_run(), 0.25); // a block in every fourth run
    /// ```
    pub fn blocks_per_run(&self) -> f64 {
        self.per_run(self.blocks)
    }

    /// Bytes per run; 0 without any runs.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let mut run = 0;
    /// let report = heapledger::leaks::Check::new().run_steady(0, 8, || {
    ///     run += 1;
    ///     std::mem::forget(vec![0u8; if run % 2 == 0 { 10 } else { 30 }]);
    /// });
    /// assert_eq!(report.unwrap_err().sites[0].growth.bytes_per_run(), 20.0);
    /// ```
    pub fn bytes_per_run(&self) -> f64 {
        self.per_run(self.bytes)
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a double holds fifteen digits, and people look at three"
    )]
    fn per_run(&self, sum: u64) -> f64 {
        if self.runs == 0 {
            0.0
        } else {
            sum as f64 / f64::from(self.runs)
        }
    }

    /// What a single run has left.
    pub(super) fn of_one(blocks: u64, bytes: u64) -> Self {
        Self {
            blocks,
            bytes,
            runs: 1,
        }
    }

    /// The growth, and leaves none, by as many runs.
    pub(super) fn take(&mut self) -> Self {
        let none = Self {
            runs: self.runs,
            ..Self::default()
        };
        core::mem::replace(self, none)
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            bytes: self.bytes + other.bytes,
            runs: self.runs.max(other.runs),
        }
    }
}

/// Leaked blocks that were born at one place, by one way of getting there; in a
/// [`LeakReport`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// fn remember() {
///     std::mem::forget(std::hint::black_box(vec![0u8; 100]));
/// }
/// let report = heapledger::leaks::check(|| for _ in 0..3 { remember() }).unwrap_err();
/// let site = &report.sites[0];
/// assert_eq!((site.blocks, site.bytes), (3, 300));
/// assert!(site.stack.iter().any(|frame| frame.function().ends_with("remember")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LeakSite {
    /// Blocks alive.
    pub blocks: u64,
    /// Bytes alive, as the program asked for them.
    pub bytes: u64,
    /// By how much that grew.
    pub growth: Growth,
    /// Milliseconds since the oldest of the blocks was born, to within the
    /// time of some 64 allocations.
    pub oldest_ms: u32,
    /// Milliseconds since the youngest of them was born.
    pub youngest_ms: u32,
    /// The calls that led to the allocation, innermost first, functions that
    /// were inlined included; without the frames of the allocator, of the check
    /// and of the runtime.
    pub stack: Vec<Frame>,
}

impl LeakSite {
    /// The innermost frame in the user's own code, or the innermost of all, as
    /// where there is no debug information; `None` only without any.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let leak = || std::mem::forget(std::hint::black_box(vec![0u8; 100]));
    /// let report = heapledger::leaks::check(leak).unwrap_err();
    /// let site = &report.sites[0];
    /// let place = site.place().expect("some frame");
    /// println!("{place}"); // such as `app::cache::remember at src/cache.rs:13`
    /// assert!(place.is_user() || Some(place) == site.stack.first());
    /// ```
    pub fn place(&self) -> Option<&Frame> {
        self.stack
            .iter()
            .find(|frame| frame.is_user())
            .or_else(|| self.stack.first())
    }

    /// `file:line` of [`place`](Self::place), or what is known instead.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let leak = || std::mem::forget(std::hint::black_box(vec![0u8; 100]));
    /// let report = heapledger::leaks::check(leak).unwrap_err();
    /// let site = &report.sites[0];
    /// println!("leaked at {}", site.location()); // such as `src/cache.rs:13`
    /// assert_eq!(Some(site.location()), site.place().map(|frame| frame.location()));
    /// ```
    pub fn location(&self) -> String {
        self.place()
            .map_or_else(|| String::from("an unknown place"), Frame::location)
    }

    /// Which comes first in a report: the larger one, then by place.
    fn order(&self, other: &Self) -> Ordering {
        (other.bytes, other.blocks)
            .cmp(&(self.bytes, self.blocks))
            .then_with(|| self.location().cmp(&other.location()))
            .then_with(|| by_frames(&self.stack, &other.stack))
    }
}

/// By place; and where that is the same, by all that frames differ in, so that any two stacks
/// have an order.
pub(super) fn by_frames(one: &[Frame], other: &[Frame]) -> Ordering {
    by_innermost(one, other, Frame::by_location)
        .then_with(|| by_innermost(one, other, Frame::by_parts))
}

/// By the innermost frames that differ.
fn by_innermost(
    one: &[Frame],
    other: &[Frame],
    order: impl Fn(&Frame, &Frame) -> Ordering,
) -> Ordering {
    let pairs = one.iter().zip(other);
    let mut orders = pairs.map(|(one, other)| order(one, other));
    let first = orders.find(|order| order.is_ne());
    first.unwrap_or_else(|| one.len().cmp(&other.len()))
}

impl LeakReport {
    /// A report of no leaks yet.
    pub(super) fn empty(runs: u32, lost: &Lost) -> Self {
        Self {
            sites: Vec::new(),
            runs,
            harness: Held::default(),
            runtime: Held::default(),
            suppressed: Held::default(),
            nameless: false,
            unnamed_files: Box::default(),
            unread: None,
            incomplete: Incomplete {
                blocks: lost.blocks,
                frames: lost.frames,
                cut_stacks: lost.cut,
            },
        }
    }

    /// The functions in these files have no names.
    pub(super) fn lacks(&mut self, missed: Vec<Missed>) {
        self.unread = missed.first().and_then(|file| file.program);
        self.unnamed_files = missed.into_iter().map(|file| file.path).collect();
    }

    /// Leaked blocks, over all sites.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let kept = || (Box::new(1), vec![String::from("a"), String::from("b")]);
    /// let report = heapledger::leaks::check(kept).unwrap_err();
    /// assert_eq!(report.blocks(), 4); // the box, the vector and two strings
    /// ```
    pub fn blocks(&self) -> u64 {
        self.sites.iter().map(|site| site.blocks).sum()
    }

    /// Leaked bytes, over all sites.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let kept = || (vec![0u8; 100], vec![0u64; 100]);
    /// let report = heapledger::leaks::check(kept).unwrap_err();
    /// assert_eq!(report.bytes(), 900);
    /// ```
    pub fn bytes(&self) -> u64 {
        self.sites.iter().map(|site| site.bytes).sum()
    }

    /// By how much all sites together grew.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let check = heapledger::leaks::Check::new();
    /// let leaks = || std::mem::forget((vec![0u8; 10], Box::new(7u64)));
    /// let growth = check.run_steady(0, 6, leaks).unwrap_err().growth();
    /// // Two blocks in each of the last three runs.
    /// assert_eq!((growth.blocks, growth.bytes, growth.runs), (6, 54, 3));
    /// ```
    pub fn growth(&self) -> Growth {
        let none = Growth::default();
        self.sites
            .iter()
            .fold(none, |sum, site| sum.plus(site.growth))
    }

    /// Blocks that each further run leaves: the growth over the later half of
    /// the runs. Of a check that runs once, all blocks.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let check = heapledger::leaks::Check::new();
    /// let mut run = 0;
    /// let report = check.run_steady(0, 8, || {
    ///     run += 1;
    ///     let kept = if run % 2 == 0 { 3 } else { 0 };
    ///     (0..kept).for_each(|_| std::mem::forget(std::hint::black_box(Box::new(7))));
    /// });
    /// assert_eq!(report.unwrap_err().blocks_per_run(), 1.5);
    /// ```
    pub fn blocks_per_run(&self) -> f64 {
        self.growth().blocks_per_run()
    }

    /// The same in bytes.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let check = heapledger::leaks::Check::new();
    /// let report = check.run_steady(1, 10, || std::mem::forget(vec![0u8; 32])).unwrap_err();
    /// let until_out_of_memory = (1u64 << 30) as f64 / report.bytes_per_run();
    /// assert_eq!(until_out_of_memory, 33_554_432.0); // runs, for a gibibyte
    /// ```
    pub fn bytes_per_run(&self) -> f64 {
        self.growth().bytes_per_run()
    }

    pub(super) fn sort(&mut self) {
        self.sites.sort_unstable_by(LeakSite::order);
    }
}

impl core::error::Error for LeakReport {}

impl fmt::Debug for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return write!(f, "LeakReport({self:#})");
        }
        f.debug_struct("LeakReport")
            .field("sites", &self.sites)
            .field("runs", &self.runs)
            .field("harness", &self.harness)
            .field("runtime", &self.runtime)
            .field("suppressed", &self.suppressed)
            .field("nameless", &self.nameless)
            .field("unnamed_files", &self.unnamed_files)
            .field("unread", &self.unread)
            .field("incomplete", &self.incomplete)
            .finish()
    }
}
