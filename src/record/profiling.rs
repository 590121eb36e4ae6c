//! A profile of the process from its start to its end.
//!
//! ```text
//!   every allocation   a recording that all threads are in; every free is looked up
//!   samples            threads call at the cold path when a point is due; frees are
//!                      looked up where a sampled block may be
//!   dense samples      the same, with every free looked up
//! ```
//!
//! There is one at a time. Its figures by stack are in the tally, what is alive
//! is in the table.

use core::time::Duration;
use std::collections::HashMap;

use crate::error::Error;
use crate::installed;
use crate::ledger::{self, Slot};
use crate::record::clock;
use crate::record::everywhere;
use crate::record::hooks::{self, Lost, TABLE};
use crate::record::moving;
use crate::record::recording::{self, Recording};
use crate::record::sampler::{self, BUCKETS, Weighed};
use crate::record::stand_in;
use crate::record::table::{Amend, Record};
use crate::record::tally::{StackFigures, Tally};
use crate::record::timeline::{Highest, Moment, Timeline};
use crate::record::turn::Turn;
use crate::record::visits::{self, Thread};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::unwind;

/// 0: no profile; 1: every allocation; else the mean gap between samples.
static INTERVAL: AtomicU64 = AtomicU64::new(0);
/// The number of the profile, which is that of its recording.
static ID: AtomicU32 = AtomicU32::new(0);
/// Below this interval samples are so dense that every free may as well be
/// looked up; a page for each would take more memory than the program.
static DENSE_BELOW: AtomicU64 = AtomicU64::new(32 * 1024);
/// A thread that allocates without a sample looks around after so many bytes, or half an
/// interval. What samples say of a peak is no more exact.
const LOOK_EVERY: u64 = 256 * 1024;

/// Whether a profile that is over has left samples in a part of the table that
/// could not be had.
static LEFT_OVER: AtomicU32 = AtomicU32::new(0);

static TALLY: Tally = Tally::new();
static HIGHEST: Highest = Highest::new();
static TIMELINE: Timeline = Timeline::new();

/// The recording of blocks that are samples, or were, and in no recording.
pub(super) const NOBODY: u32 = 0;

/// A profile under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Profiling {
    /// What every allocation is recorded in; for dense samples, it only keeps all
    /// frees looked up, and otherwise there is none.
    recording: Option<Recording>,
    id: u32,
    lost: Lost,
    began: std::time::Instant,
    /// The same on the recorder's clock.
    began_ms: u64,
    /// Given back last.
    _turn: Turn,
}

/// What the recorder knows at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) stacks: HashMap<u32, StackFigures>,
    pub(crate) duration: Duration,
    /// The last one is the end.
    pub(crate) timeline: Vec<Moment>,
    pub(crate) highest: Moment,
    /// Blocks by the position of their size's highest bit.
    pub(crate) sizes: [f64; BUCKETS],
    pub(crate) lost: Lost,
}

/// After so many bytes without a sample a thread looks around, at its next event.
fn look_after(interval: u64) -> u64 {
    LOOK_EVERY.min(interval / 2)
}

/// The most bytes that a thread allocates between two looks around it, while there are
/// samples so far apart.
pub(crate) fn unseen(interval: u64) -> u64 {
    look_after(interval) + ledger::BATCH_BYTES
}

/// The profile that a record may belong to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) id: u32,
    pub(super) interval: u64,
    /// How often everyone was called before it was seen to be under way: who begins another
    /// calls again.
    pub(super) calls: u32,
}

/// The profile under way.
#[inline]
pub(super) fn current() -> Option<Current> {
    // Acquire: all that was made ready.
    let interval = INTERVAL.load(Ordering::Acquire);
    if interval == 0 {
        return None;
    }
    let calls = ledger::calls();
    // Acquire: whoever sees the next profile's number sees below that this one's interval is
    // gone, and takes neither for the other's.
    let id = ID.load(Ordering::Acquire);
    (INTERVAL.load(Ordering::Relaxed) == interval).then_some(Current {
        id,
        interval,
        calls,
    })
}

impl Current {
    #[inline]
    pub(super) fn is_every(self) -> bool {
        self.interval == 1
    }

    /// Whether it is still under way.
    #[inline]
    pub(super) fn is_under_way(self) -> bool {
        // Acquire: who sees a later one's interval sees its number.
        INTERVAL.load(Ordering::Acquire) != 0 && ID.load(Ordering::Relaxed) == self.id
    }

    /// Whether small samples get a place where their frees can be told from others.
    pub(super) fn pads(self) -> bool {
        self.interval >= DENSE_BELOW.load(Ordering::Relaxed)
    }

    /// Whether a block with this record is of the profile.
    #[inline]
    pub(super) fn has(self, record: &Record) -> bool {
        record.sampled || self.is_every() && self.has_recording(record.recording)
    }

    /// Whether all that belongs to this recording is of the profile, which records
    /// everything: its own, and of checks that began inside of it. What belongs to
    /// an older one is of the profile when its record says so, as that of a sample does.
    #[inline]
    pub(super) fn has_recording(self, recording: u32) -> bool {
        recording != NOBODY && recording.wrapping_sub(self.id).cast_signed() >= 0
    }

    /// What a block of `size` bytes stands for.
    #[inline]
    pub(super) fn weigh(self, size: u64) -> Weighed {
        if self.is_every() {
            Weighed::exact(size)
        } else {
            Weighed::sampled(size, self.interval)
        }
    }

    /// Whether one of the `bytes` that the thread has just been counted for is a
    /// sample.
    pub(super) fn hits(self, thread: &Thread, slot: &Slot, bytes: u64) -> bool {
        if self.is_every() {
            return false;
        }
        let after = slot.allocated_bytes.own();
        let is_hit = thread.line.hits(self.id, self.interval, after, bytes);
        self.rest(thread, slot);
        is_hit
    }

    /// Lets the thread pass by until shortly before its next sample, or until it is time to
    /// look around again.
    #[inline]
    fn rest(self, thread: &Thread, slot: &Slot) {
        slot.due_by(thread.line.next(), look_after(self.interval), self.calls);
    }

    /// Looks around, and no more, when that is all there is to do for bytes that the thread
    /// has just been counted for: they are in no recording and no sample, and the thread
    /// does not work for the recorder. Whether that was so.
    ///
    /// While samples are taken a thread comes by more often than it has a sample, to tell how
    /// much is alive: what it goes through then has gone from the caches since the last time.
    #[inline]
    pub(super) fn passes(self, thread: &Thread, slot: &'static Slot) -> bool {
        let is_ahead = thread.line.is_ahead(self.id, slot.allocated_bytes.own());
        let passes = is_ahead && !thread.is_quiet() && thread.current().is_none();
        if passes {
            self.rest(thread, slot);
            ledger::publish_due(Some(slot));
            Self::look_around(slot, clock::look());
        }
        passes
    }

    /// Enters a new block.
    #[inline]
    pub(super) fn came(self, thread: &Thread, node: u32, size: u64) {
        if self.is_every() {
            TALLY.came_itself(self.id, node, size, || HIGHEST.peak());
            thread.sizes.count(self.id, size, &Weighed::exact(size));
        } else {
            self.came_as_sample(thread, node, size);
        }
    }

    #[cold]
    #[inline(never)]
    fn came_as_sample(self, thread: &Thread, node: u32, size: u64) {
        let weighed = self.weigh(size);
        TALLY.came(self.id, node, &weighed, || HIGHEST.peak());
        thread.sizes.count(self.id, size, &weighed);
    }

    /// Enters that a block has been resized by so many bytes.
    pub(super) fn resized(self, node: u32, growth: u64) {
        TALLY.resized(self.id, node, &self.weigh(growth));
    }

    /// The same of one that had the one record and has the other one now, both of this profile,
    /// which records everything.
    #[inline]
    pub(super) fn regrown(self, was: &Record, now: &Record) {
        let [was, now] = [was, now].map(|record| (record.node, record.size));
        TALLY.regrown_itself(self.id, was, now, || HIGHEST.peak_before());
    }

    /// Whether a sample stays one when it is resized.
    pub(super) fn stays(self, thread: &Thread, old: u64, new: u64) -> bool {
        // What is there for itself was not chosen by its size.
        new >= old || self.is_every() || {
            let p = |size| sampler::probability(size, self.interval);
            thread.line.happens(p(new) / p(old))
        }
    }

    /// Enters that a block belongs to this node from now on.
    pub(super) fn joined(self, node: u32, size: u64) {
        TALLY.joined(self.id, node, &self.weigh(size), || HIGHEST.peak());
    }

    /// Enters that a block that had the one record has the other one now, both of this profile.
    pub(super) fn moved(self, was: &Record, now: &Record) {
        let [was, now] = [was, now].map(|record| (record.node, self.weigh(record.size)));
        TALLY.moved(self.id, &was, &now, || HIGHEST.peak_before());
    }

    /// Enters that a block is not of its node any more.
    pub(super) fn left(self, record: &Record) {
        TALLY.left(self.id, record.node, &self.weigh(record.size), || {
            HIGHEST.peak_before()
        });
    }

    /// Enters that a block was freed.
    #[inline]
    pub(super) fn freed(self, record: &Record) {
        if self.is_every() {
            let now = clock::glance();
            let life = now.saturating_sub(record.birth);
            let peak = || HIGHEST.peak_before();
            TALLY.freed_itself(self.id, record.node, record.size, life, peak);
            Self::note_fall(now);
        } else {
            self.sample_freed(record);
        }
    }

    #[cold]
    #[inline(never)]
    fn sample_freed(self, record: &Record) {
        let now = clock::look_ms();
        let life = now.saturating_sub(record.birth);
        let weighed = self.weigh(record.size);
        let peak = || HIGHEST.peak_before();
        TALLY.freed(self.id, record.node, &weighed, life, peak);
        Self::note_fall(now);
    }

    /// Notes how much is alive after something was freed, if a moment is wanted: who frees and
    /// does not allocate comes by nowhere else. It is no peak.
    #[inline]
    fn note_fall(now_ms: u32) {
        if TIMELINE.is_due(now_ms.into()) {
            Self::note_due_fall(now_ms.into());
        }
    }

    #[cold]
    #[inline(never)]
    fn note_due_fall(now_ms: u64) {
        TIMELINE.note(now_ms, Self::live_from_apart());
    }

    /// Looks how much is alive, after something was allocated.
    ///
    /// What stands [`apart`](ledger::apart) is not in it: not what names take, nor what is asked
    /// for before a report. A report itself is, once its caller has it.
    pub(super) fn look_around(slot: &Slot, now_ms: u64) {
        Self::note(now_ms, || ledger::live_as_seen_by(slot));
    }

    /// The same of a thread that may stand apart itself, and may have no slot any more, as at
    /// the end of the process.
    fn look_around_from_apart(now_ms: u64) {
        Self::note(now_ms, Self::live_from_apart);
    }

    fn live_from_apart() -> i64 {
        let Some(slot) = ledger::own() else {
            return ledger::live_as_published();
        };
        let untold = ledger::apart::untold(slot);
        ledger::live_as_seen_by(slot).wrapping_sub(untold)
    }

    #[inline]
    fn note(now_ms: u64, live: impl Fn() -> i64) {
        let now = live();
        // On the recorder's clock: who is late for the last profile may be told of this one.
        HIGHEST.note(now_ms, now, live);
        TIMELINE.note(now_ms, now);
    }
}

/// Sets how dense samples must be for all frees to be looked up: for tests.
pub(crate) fn set_dense_below(interval: u64) {
    DENSE_BELOW.store(interval, Ordering::Relaxed);
}

/// How many changes the tally could not enter, ever.
pub(super) fn lost() -> u64 {
    TALLY.lost()
}

/// The nodes of all stacks of the profile under way, if there is one.
pub(super) fn stacks() -> Option<impl Iterator<Item = u32>> {
    current().map(|_| TALLY.figures(|| HIGHEST.peak()).map(|(node, _)| node))
}

impl Profiling {
    /// Starts a profile of every allocation (an interval of 1), or of samples
    /// that are so many bytes apart on average.
    pub(crate) fn start(interval: u64) -> Result<Self, Error> {
        installed::require()?;
        let turn = Turn::take().ok_or_else(Error::already_profiling)?;
        // Also for samples: it makes ready all that a capture needs.
        let recording = Recording::start_with(&TALLY)?;
        let id = recording.id();
        let lost = Lost::now();
        if LEFT_OVER.load(Ordering::Relaxed) != 0 {
            // What cannot be had this time either counts as lost.
            forget_samples();
        }
        let looks_at_all = interval < DENSE_BELOW.load(Ordering::Relaxed).max(2);
        let recording = looks_at_all.then_some(recording);
        if recording.is_none() {
            stand_in::prepare();
            unwind::settle_in();
            recording::look_for_samples()?;
        }
        let mut profiling = Self {
            recording,
            id,
            lost,
            began: std::time::Instant::now(),
            began_ms: clock::now(),
            _turn: turn,
        };
        profiling.begin(interval)?;
        Ok(profiling)
    }

    fn begin(&mut self, interval: u64) -> Result<(), Error> {
        HIGHEST.clear();
        TIMELINE.clear();
        let begin = |id| {
            TALLY.clear(id, HIGHEST.peak());
            // Release: the last profile's end.
            ID.store(id, Ordering::Release);
            INTERVAL.store(interval, Ordering::Release);
        };
        match &mut self.recording {
            Some(recording) if interval == 1 => {
                // What has a later number is the profile's, so it must not be born before it is
                // counted.
                recording.renumber(begin)?;
                self.id = recording.id();
                everywhere::enter(recording)?;
            }
            _ => {
                begin(self.id);
                ledger::call_everyone();
            }
        }
        Current::look_around_from_apart(clock::now());
        Ok(())
    }

    /// For how long it has been under way.
    pub(crate) fn duration(&self) -> Duration {
        self.began.elapsed()
    }

    /// What is known now. Call it [quietly](visits::quietly).
    pub(crate) fn snapshot(&self) -> Snapshot {
        let Some(current) = current() else {
            return self.snapshot_of(HashMap::new());
        };
        // First what is alive: while others allocate, all of that is in the peak and among what was
        // ever allocated, which are looked at later. (But for a block that is just being told.)
        let live = Self::live_by_node(current);
        Current::look_around_from_apart(clock::now());
        // Not those of earlier profiles, which may be many more.
        let mut stacks: HashMap<u32, StackFigures> = TALLY
            .figures(|| HIGHEST.peak())
            .filter(|(_, figures)| *figures != StackFigures::default())
            .collect();
        for (node, live) in live {
            stacks.entry(node).or_default().live = live;
        }
        self.snapshot_of(stacks)
    }

    /// By the table, not the tally: the table is what frees go by, so it cannot drift.
    fn live_by_node(current: Current) -> HashMap<u32, Weighed> {
        let mut by_node: HashMap<u32, Weighed> = HashMap::new();
        let still = moving::stop();
        if still.missed() > 0 {
            hooks::lose_unseen(None);
        }
        TABLE.for_each(|_, record| {
            if current.has(&record) {
                let live = by_node.entry(record.node).or_default();
                *live = live.plus(&current.weigh(record.size));
            }
        });
        drop(still);
        by_node
    }

    fn snapshot_of(&self, stacks: HashMap<u32, StackFigures>) -> Snapshot {
        let mut sizes = [0.0; BUCKETS];
        visits::each_thread(|thread| thread.sizes.add_to(self.id, &mut sizes));
        let duration = self.duration();
        let end = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let live = u64::try_from(Current::live_from_apart()).unwrap_or(0);
        // Whoever looks tells of a peak first and then of a moment, so they are read the other way
        // round.
        let mut timeline: Vec<Moment> = TIMELINE.moments(self.began_ms);
        timeline.push((end, live));
        let (peak_at, peak) = HIGHEST.moment(self.began_ms);
        // By a clock that counts whole milliseconds a moment may seem to come after the end; and
        // who tells of a peak looks once more, when less may be alive.
        for (at, live) in &mut timeline {
            (*at, *live) = ((*at).min(end), (*live).min(peak));
        }
        let highest = (peak_at.min(end), peak);
        Snapshot {
            stacks,
            duration,
            timeline,
            highest,
            sizes,
            lost: Lost::now().since(&self.lost),
        }
    }
}

impl Drop for Profiling {
    fn drop(&mut self) {
        INTERVAL.store(0, Ordering::Release);
        let recording = self.recording.take();
        if let Some(recording) = &recording {
            everywhere::leave(recording);
        }
        forget_samples();
        // Now, so that a profile which starts next does not meet it.
        drop(recording);
    }
}

/// Lets a profile of everything keep what it has of these recordings, in order, which are over:
/// checks that began inside of it, and are part of one that is older. Their numbers, by which the
/// profile has their blocks, are about to leave the table.
pub(super) fn keep_blocks_of(numbers: &[u32]) {
    let is_every = |profile: &Current| profile.is_every();
    let Some(profile) = current().filter(is_every) else {
        return;
    };
    if !numbers.iter().any(|id| profile.has_recording(*id)) {
        return;
    }
    TABLE.amend(|record| {
        let is_theirs = numbers.binary_search(&record.recording).is_ok();
        if is_theirs && !record.sampled && profile.has(record) {
            Amend::Replace(Record {
                sampled: true,
                ..*record
            })
        } else {
            Amend::Keep
        }
    });
    // It may have looked for its samples already. The next one has none: its recording waits for
    // the books, which the caller has.
    if !profile.is_under_way() {
        forget_samples();
    }
}

/// Takes the samples of a profile that is over out of the table.
fn forget_samples() {
    let is_done = TABLE.amend(forget);
    LEFT_OVER.store(u32::from(!is_done), Ordering::Relaxed);
}

/// What becomes of a record when the profile that sampled it is over.
pub(super) fn forget(record: &Record) -> Amend {
    if !record.sampled {
        return Amend::Keep;
    }
    if record.recording == NOBODY {
        return Amend::Remove;
    }
    // It is a check's too.
    Amend::Replace(Record {
        sampled: false,
        ..*record
    })
}
