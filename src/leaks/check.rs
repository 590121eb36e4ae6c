//! A leak check: its settings, its guard and its verdict.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Instant;

use crate::error::Error;
use crate::installed;
use crate::leaks::ending::await_ending_threads;
use crate::leaks::report::{Growth, Held, LeakReport, LeakSite};
use crate::leaks::stacks::Stacks;
use crate::leaks::steady::{Grown, Half, Past};
use crate::leaks::suppress::Pattern;
use crate::leaks::turns::PARTS;
use crate::reading::or_panic;
use crate::record::{self, Everyone, Lost, Recording, Survivor, Visit};
use crate::symbols::{Frame, Origin};

/// The settings of a leak check.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use heapledger::leaks::Check;
///
/// let checked = Check::new()
///     .allow_bytes(64)
///     .run(|| drop(std::hint::black_box(Box::leak(Box::new(7u64)))));
/// assert!(checked.is_ok());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Check {
    allowed_blocks: Option<u64>,
    allowed_bytes: Option<u64>,
    suppressions: Vec<Pattern>,
}

impl Check {
    /// A check that allows nothing.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Check;
    ///
    /// let strict = Check::new();
    /// assert!(strict.run(|| drop(std::hint::black_box(Box::new(1)))).is_ok());
    /// assert!(strict.run(|| std::mem::forget(Box::new(1))).is_err());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Tolerates up to `blocks` leaked blocks, of whatever size; together with
    /// [`allow_bytes`](Self::allow_bytes), both must hold.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Check;
    /// use std::mem::forget;
    ///
    /// let check = Check::new().allow_blocks(1);
    /// assert!(check.run(|| forget(vec![0u8; 1_000])).is_ok());
    /// // When there are more, all of them are leaks.
    /// let report = check.run(|| forget((Box::new(1), Box::new(2)))).unwrap_err();
    /// assert_eq!(report.blocks(), 2);
    /// ```
    #[must_use]
    pub fn allow_blocks(mut self, blocks: u64) -> Self {
        self.allowed_blocks = Some(blocks);
        self
    }

    /// Tolerates up to `bytes` leaked bytes, in however many blocks.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Check;
    /// use std::mem::forget;
    ///
    /// let check = Check::new().allow_bytes(64).allow_blocks(3);
    /// assert!(check.run(|| forget(vec![0u8; 64])).is_ok());
    /// assert!(check.run(|| forget(vec![0u8; 65])).is_err());
    /// ```
    #[must_use]
    pub fn allow_bytes(mut self, bytes: u64) -> Self {
        self.allowed_bytes = Some(bytes);
        self
    }

    /// Does not count blocks with a function in their stack whose name matches
    /// `pattern`, as LeakSanitizer's suppressions do: the pattern may occur
    /// anywhere in the name, `*` stands for any text, `^` and `$` for its
    /// beginning and end.
    ///
    /// Looked at are the functions that a report would show, in
    /// [`LeakSite::stack`]: neither those of this crate nor what std runs before
    /// `main`, a thread or a test. Where there is no debug information, inlined
    /// functions have no name.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Check;
    ///
    /// fn fill_cache() {
    ///     std::mem::forget(std::hint::black_box(vec![0u8; 500]));
    /// }
    /// assert!(Check::new().suppress("::fill_*che$").run(fill_cache).is_ok());
    /// assert!(Check::new().suppress("^cache").run(fill_cache).is_err());
    /// ```
    #[must_use]
    pub fn suppress(mut self, pattern: &str) -> Self {
        self.suppressions.push(Pattern::new(pattern));
        self
    }

    /// Runs `body` and says what it leaks.
    ///
    /// Counted are the blocks that the calling thread allocates inside, and
    /// every thread, job or task to which the check is [carried](super::carry),
    /// that are still alive at the end, wherever they would have been freed.
    /// What `body` returns counts too: it is alive.
    ///
    /// # Errors
    /// The report, when more is alive than allowed, or when blocks could not be
    /// recorded, so that nobody knows ([`Incomplete`](super::Incomplete)).
    ///
    /// # Panics
    /// When the tracking allocator is not the program's global allocator, and
    /// wherever else [`try_start`](Self::try_start) has an error: a check that has
    /// measured nothing never passes. A panic of `body` passes through.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Check;
    ///
    /// let sum = Check::new().run(|| std::hint::black_box(vec![1, 2, 3]).iter().sum::<i32>());
    /// assert_eq!(sum.unwrap(), 6);
    /// let kept = Check::new().run(|| std::hint::black_box(vec![1, 2, 3]));
    /// assert_eq!(kept.unwrap_err().bytes(), 12); // three numbers
    /// ```
    #[track_caller]
    pub fn run<R>(&self, body: impl FnOnce() -> R) -> Result<R, LeakReport> {
        let guard = or_panic(self.try_start());
        let result = body();
        guard.finish().map(|()| result)
    }

    /// Starts a check that ends with [`LeakGuard::finish`], for code that is no
    /// closure.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Check;
    ///
    /// let check = Check::new().start();
    /// let words: Vec<String> = "freed in time".split(' ').map(String::from).collect();
    /// drop(words);
    /// check.finish().expect("nothing is left");
    /// ```
    #[track_caller]
    pub fn start(&self) -> LeakGuard {
        or_panic(self.try_start())
    }

    /// [`start`](Self::start), with an error instead of a panic.
    ///
    /// # Errors
    /// [`Error::is_not_installed`], [`Error::is_no_memory`],
    /// [`Error::is_thread_ending`], [`Error::is_busy`].
    ///
    /// ```
    /// use heapledger::leaks::Check;
    ///
    /// // No `#[global_allocator]` in this example.
    /// let refused = Check::new().try_start().unwrap_err();
    /// assert!(refused.is_not_installed());
    /// ```
    pub fn try_start(&self) -> Result<LeakGuard, Error> {
        let recording = Recording::start()?;
        // Before the thread is in it: the settings live as long as the check, and are no leak.
        let settings = record::quietly(|| self.clone());
        // Without a place for one more visit, the report will be incomplete.
        let visit = recording.key().enter();
        Ok(LeakGuard {
            visit,
            recording,
            settings,
        })
    }

    /// Runs `body` `warm_up` times, then `runs` times more, and says what grows
    /// with each further run.
    ///
    /// What the first runs leave behind (lazy statics, caches, pools that fill)
    /// is ignored, and so is what happens once: a site is reported when more of
    /// it, in blocks or in bytes, was alive after all runs than after half of
    /// them, and after half of them more than none. The figures of a site are what
    /// all `runs` left, and how much of it the later half of them has
    /// [added](LeakSite::growth), which is what each further run will add.
    ///
    /// A block that was alive after half of the runs, and is at another site after
    /// all of them, since it was resized there, grows if it is larger than before:
    /// so a buffer that several lines fill is found, too. Which block it was before
    /// nobody knows; where several have left their sites meanwhile, it is taken for
    /// the largest of them.
    ///
    /// A site is a line with the whole stack that leads there. A line that leaks though no site of
    /// it grows, since each run comes there on a way of its own (a recursion that is one deeper
    /// each time, handlers that take turns), is found with eight runs or more: when more of
    /// what was born there was alive after each eighth of the runs than after the one before,
    /// and the code has debug information. Reported are the sites that the later half has added.
    /// What a line makes once for each of its callers looks the same as long as callers come that
    /// are new: where sixteen handlers take turns, warm up for sixteen runs, or take twice as many.
    ///
    /// A container that doubles is made larger ever more rarely. It is found when that
    /// happens in both halves of the runs, which takes at least twice as many runs as warm-ups,
    /// and may take more: `run_steady(10, 10, || v.push(1))` passes. Without a warm-up, twenty runs
    /// show it.
    ///
    /// Blocks that are older, such as the buffer of a log or a queue, are looked at
    /// from the run on that makes them larger, unless a profile of every
    /// allocation is under way which they are older than, too.
    ///
    /// # Errors
    /// The report of the sites that grow, when all runs together have left more
    /// there than allowed, or when blocks could not be recorded.
    ///
    /// # Panics
    /// As [`run`](Self::run), and when `runs` is less than 2: one run shows no
    /// growth.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Check;
    /// use std::hint::black_box;
    ///
    /// let mut cache = None;
    /// let tidy = || _ = cache.get_or_insert_with(|| black_box(vec![0u8; 100]));
    /// assert!(Check::new().run_steady(1, 10, tidy).is_ok());
    ///
    /// let mut log = Vec::with_capacity(11);
    /// let growing = || log.push(black_box(String::from("seen")));
    /// let report = Check::new().run_steady(1, 10, growing).unwrap_err();
    /// assert_eq!((report.blocks(), report.bytes_per_run()), (10, 4.0));
    /// ```
    #[track_caller]
    pub fn run_steady(
        &self,
        warm_up: u32,
        runs: u32,
        mut body: impl FnMut(),
    ) -> Result<(), LeakReport> {
        assert!(
            runs >= 2,
            "a steady-state check needs at least 2 runs to see growth, not {runs}"
        );
        // First: what cannot be measured is not run, not even to warm it up.
        or_panic(installed::require());
        for _ in 0..warm_up {
            body();
        }
        let mut guard = or_panic(self.try_start());
        guard.recording.adopt();
        let mut past = Past::default();
        let mut look = |is_middle: bool| {
            record::quietly(|| {
                if is_middle {
                    let mut stacks = Stacks::new(record::symbols());
                    await_ending_threads(|| guard.recording.survivors(), &mut stacks);
                    past.half = Some(Half::new(guard.recording.look()));
                }
                past.turns.look(&guard.recording.survivors());
            });
        };
        run_and_look(&mut body, runs, &mut look);
        guard.end(Runs::Many(runs, &past))
    }

    /// Ends a recording and says what it found.
    pub(super) fn conclude(&self, scene: Scene) -> Result<(), LeakReport> {
        record::quietly(|| self.judge_end(scene, Runs::One))
    }

    fn judge_end(&self, scene: Scene, runs: Runs<'_>) -> Result<(), LeakReport> {
        // First: whoever looks up names elsewhere is waited for.
        let end = Instant::now();
        let mut stacks = Stacks::new(record::symbols());
        await_ending_threads(|| scene.survivors(), &mut stacks);
        let is_process = scene.is_process();
        let (mut survivors, lost) = scene.finish();
        let waited_ms = u32::try_from(end.elapsed().as_millis()).unwrap_or(u32::MAX);
        for survivor in &mut survivors {
            survivor.age_ms = survivor.age_ms.saturating_sub(waited_ms);
        }
        let mut report = LeakReport::empty(runs.count(), &lost);
        self.sort_into(&mut report, stacks, &survivors, is_process, runs);
        // What could not be recorded may have leaked: no check passes without having seen.
        let allowed = self.allows(&report) && report.incomplete.blocks == 0;
        if allowed { Ok(()) } else { Err(report) }
    }

    /// Sorts survivors into leaks and what is held otherwise.
    fn sort_into(
        &self,
        report: &mut LeakReport,
        mut stacks: Stacks,
        survivors: &[Survivor],
        is_process: bool,
        runs: Runs<'_>,
    ) {
        // Otherwise there is nothing to name.
        report.nameless = !survivors.is_empty() && !stacks.symbols().has_names();
        let mut grown = runs.growth(survivors, &mut stacks);
        let mut looks: HashMap<u32, Group> = HashMap::new();
        for (node, mut group) in by_node(survivors) {
            let growth = match &mut grown {
                None => Some(Growth::of_one(group.blocks, group.bytes)),
                Some(grown) => grown.take(node),
            };
            if let Some(growth) = growth {
                group.growth = growth;
                group.add_to(looks.entry(stacks.look(node)));
            }
        }
        // Those that look the same once trimmed are one site, too.
        let mut sites: HashMap<Vec<Frame>, Group> = HashMap::new();
        for (look, group) in looks {
            let whole = stacks.whole(look);
            let stack = whole.trimmed();
            if whole.is_output_capture() {
                report.harness.add(&group);
            } else if is_process && whole.is_kept_by_std() {
                report.runtime.add(&group);
            } else if self.suppresses(&stack) {
                report.suppressed.add(&group);
            } else {
                group.add_to(sites.entry(stack));
            }
        }
        let sites = sites.into_iter().map(|(stack, group)| group.at(stack));
        report.sites.extend(sites);
        report.lacks(stacks.symbols().missed());
        report.sort();
    }

    /// Whether a suppression names a function of the stack, as far as it is not
    /// ours: what stands around every check would suppress all there is.
    fn suppresses(&self, stack: &[Frame]) -> bool {
        let mut theirs = stack
            .iter()
            .filter(|frame| frame.origin() != Origin::Allocator);
        theirs.any(|frame| {
            let mut patterns = self.suppressions.iter();
            patterns.any(|pattern| pattern.matches(frame.function()))
        })
    }

    fn allows(&self, report: &LeakReport) -> bool {
        let (blocks, bytes) = (report.blocks(), report.bytes());
        match (self.allowed_blocks, self.allowed_bytes) {
            (None, None) => blocks == 0,
            (most_blocks, most_bytes) => {
                most_blocks.is_none_or(|most| blocks <= most)
                    && most_bytes.is_none_or(|most| bytes <= most)
            }
        }
    }
}

/// A leak check under way; from [`Check::start`].
///
/// Dropped without [`finish`](Self::finish) it ends without a verdict, as when
/// a panic unwinds through it.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// use heapledger::leaks::{Check, LeakGuard};
///
/// /// What each test of a file begins with.
/// struct Fixture { check: LeakGuard, names: Vec<String> }
///
/// let test = Fixture { check: Check::new().start(), names: vec![String::from("a test's")] };
/// drop(test.names);
/// assert!(test.check.finish().is_ok());
/// ```
#[derive(Debug)]
#[must_use = "only `finish` gives the verdict"]
pub struct LeakGuard {
    // The order matters: the thread leaves before the recording ends.
    visit: Visit,
    recording: Recording,
    settings: Check,
}

impl LeakGuard {
    /// Ends the check.
    ///
    /// # Errors
    /// The report, when more is alive than allowed, or when blocks could not be
    /// recorded.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// use heapledger::leaks::Check;
    ///
    /// let check = Check::new().start();
    /// let name = std::hint::black_box(String::from("alive"));
    /// let report = check.finish().unwrap_err();
    /// assert_eq!((report.blocks(), report.bytes()), (1, 5)); // it outlives the check
    /// # drop(name);
    /// ```
    pub fn finish(self) -> Result<(), LeakReport> {
        self.end(Runs::One)
    }

    fn end(self, runs: Runs<'_>) -> Result<(), LeakReport> {
        drop(self.visit);
        let (recording, settings) = (self.recording, self.settings);
        // The verdict is our own work: nothing of it is for an outer check to find.
        record::quietly(|| settings.judge_end(Scene::Visited(recording), runs))
    }
}

/// Runs `body` so many times, and `look`s after each part of them but the last, saying whether
/// half is done. When there are fewer runs than parts, it looks only then.
///
/// All parts are one loop with one call, because the call's address is part of
/// every stack: two calls would make two sites of each, of which none has grown.
#[inline(never)]
fn run_and_look(body: &mut dyn FnMut(), runs: u32, look: &mut dyn FnMut(bool)) {
    let parts = if runs < PARTS { 2 } else { PARTS };
    let after = |part: u32| u64::from(runs) * u64::from(part) / u64::from(parts);
    let mut part = 1;
    for run in 0..runs {
        if part < parts && u64::from(run) == after(part) {
            look(part == parts / 2);
            part += 1;
        }
        core::hint::black_box(&mut *body)();
    }
}

/// What a check ends with: its recording, which no thread is in any more.
#[derive(Debug)]
pub(super) enum Scene {
    /// Of the threads that were in the check.
    Visited(Recording),
    /// Of all threads.
    Process(Everyone),
}

impl Scene {
    fn survivors(&self) -> Vec<Survivor> {
        match self {
            Self::Visited(recording) => recording.survivors(),
            Self::Process(everyone) => everyone.survivors(),
        }
    }

    fn finish(self) -> (Vec<Survivor>, Lost) {
        match self {
            Self::Visited(recording) => recording.finish(),
            Self::Process(everyone) => everyone.finish(),
        }
    }

    fn is_process(&self) -> bool {
        matches!(self, Self::Process(_))
    }
}

/// What a check has run.
#[derive(Clone, Copy, Debug)]
enum Runs<'a> {
    /// All that is alive counts.
    One,
    /// So many; what was alive before their end.
    Many(u32, &'a Past),
}

impl Runs<'_> {
    fn count(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Many(runs, _) => runs,
        }
    }

    /// What has grown where, if that is what counts.
    fn growth(self, survivors: &[Survivor], stacks: &mut Stacks) -> Option<Grown> {
        match self {
            Self::One => None,
            Self::Many(runs, past) => Some(past.growth(survivors, runs - runs / 2, stacks)),
        }
    }
}

/// The survivors of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    blocks: u64,
    bytes: u64,
    growth: Growth,
    oldest_ms: u32,
    youngest_ms: u32,
}

impl Group {
    /// Makes one group of this and what is there.
    fn add_to<K>(self, entry: Entry<'_, K, Self>) {
        let add = |sum: &mut Self| {
            sum.blocks += self.blocks;
            sum.bytes += self.bytes;
            sum.growth = sum.growth.plus(self.growth);
            sum.oldest_ms = sum.oldest_ms.max(self.oldest_ms);
            sum.youngest_ms = sum.youngest_ms.min(self.youngest_ms);
        };
        entry.and_modify(add).or_insert(self);
    }

    fn at(self, stack: Vec<Frame>) -> LeakSite {
        LeakSite {
            blocks: self.blocks,
            bytes: self.bytes,
            growth: self.growth,
            oldest_ms: self.oldest_ms,
            youngest_ms: self.youngest_ms,
            stack,
        }
    }
}

impl Held {
    fn add(&mut self, group: &Group) {
        self.blocks += group.blocks;
        self.bytes += group.bytes;
    }
}

fn by_node(survivors: &[Survivor]) -> HashMap<u32, Group> {
    let mut groups: HashMap<u32, Group> = HashMap::new();
    for survivor in survivors {
        let age = survivor.age_ms;
        let group = groups.entry(survivor.node).or_insert(Group {
            blocks: 0,
            bytes: 0,
            growth: Growth::default(),
            oldest_ms: age,
            youngest_ms: age,
        });
        group.blocks += 1;
        group.bytes += survivor.size;
        group.oldest_ms = group.oldest_ms.max(age);
        group.youngest_ms = group.youngest_ms.min(age);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::{Check, Frame, Origin};

    /// Bug prevented: a function of ours in the middle of a stack, such as the
    /// pool's that calls the program's, is suppressed in its place.
    #[test]
    fn a_suppression_names_functions_of_others_only() {
        let frame =
            |function, origin| Frame::synthetic(function, Some("x.rs"), Some(7), origin, false);
        let stack = [
            frame("app::make", Origin::User),
            frame("heapledger::pool::Pool<T>::get", Origin::Allocator),
            frame("parser::parse", Origin::Dependency),
            frame("qsort", Origin::Unknown),
        ];
        for (pattern, expected) in [
            ("make", true),
            ("^parser::", true),
            ("qsort", true),
            ("pool", false),
            ("heapledger", false),
            ("x.rs", false),
        ] {
            let check = Check::new().suppress("no_such_function").suppress(pattern);
            assert_eq!(check.suppresses(&stack), expected, "{pattern}");
        }
        assert!(!Check::new().suppresses(&stack));
    }
}
