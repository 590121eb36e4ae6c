//! A recording from its start to its end, and the books of all of them.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use std::collections::BTreeMap;

use once_cell::sync::OnceCell;

use crate::error::Error;
use crate::installed;
use crate::record::clock;
use crate::record::hooks::{self, Lost, TABLE};
use crate::record::loader::{self, Door};
use crate::record::lock::Guard;
use crate::record::look::LOOK;
use crate::record::moving;
use crate::record::profiling;
use crate::record::rehearsal;
use crate::record::survivor::{Survivor, see};
use crate::record::table::Record;
use crate::record::tag::{Entry, Tag, find};
use crate::record::tally::Tally;
use crate::record::visits::{self, Visit};
use crate::sync::{AtomicU32, Ordering};
use crate::unwind;

/// The books of the recordings themselves; for normal contexts only.
#[derive(Debug)]
struct Office {
    free: Vec<&'static Entry>,
    under_way: u32,
    /// Recordings that are over, and the one that they were part of.
    parts: BTreeMap<u32, u32>,
}

impl Office {
    const fn new() -> Self {
        Self {
            free: Vec::new(),
            under_way: 0,
            parts: BTreeMap::new(),
        }
    }

    /// The number of the next recording; for whoever has the books.
    #[expect(clippy::unused_self, reason = "says who may ask")]
    fn next_id(&self) -> u32 {
        // Zero means none, so it is skipped when the numbers begin again.
        let id = LAST_ID.load(Ordering::Relaxed).wrapping_add(1).max(1);
        LAST_ID.store(id, Ordering::Relaxed);
        id
    }

    /// The numbers that a recording's blocks can have, in order: its own, and those of
    /// recordings inside it that are over.
    fn numbers(&self, id: u32) -> Vec<u32> {
        let mut numbers = vec![id];
        // Each began before its parts, so they come after it. (But for a check that is open while
        // the numbers begin again, after four thousand million.)
        for (&part, whole) in self.parts.range(id..) {
            if numbers.binary_search(whole).is_ok() {
                numbers.push(part);
            }
        }
        numbers
    }

    /// The innermost recording under way of this one and those that it was part of.
    fn still_open(&self, recording: Option<Tag>) -> Option<Tag> {
        let mut id = recording?.id;
        // To an end: each began before its parts.
        loop {
            match find(id) {
                None => id = *self.parts.get(&id)?,
                open => return open,
            }
        }
    }

    /// [`numbers`](Self::numbers) of a recording that ends, which becomes part
    /// of its parent if that is under way.
    fn take_numbers(&mut self, id: u32, parent: Option<u32>) -> Vec<u32> {
        let numbers = self.numbers(id);
        match parent {
            Some(parent) => drop(self.parts.insert(id, parent)),
            None => numbers.iter().for_each(|part| {
                self.parts.remove(part);
            }),
        }
        numbers
    }
}

/// The books, and the door to them: a fork waits until nobody writes in them.
struct Books {
    door: Door,
    /// For whoever is behind the door.
    office: UnsafeCell<Office>,
}

// SAFETY: only `office` gives the books out, to the thread that is behind their door.
unsafe impl Sync for Books {}

static BOOKS: Books = Books {
    door: Door::new(),
    office: UnsafeCell::new(Office::new()),
};
/// The last recording's number. Not in the books, so that no number is given
/// out twice when they are lost.
static LAST_ID: AtomicU32 = AtomicU32::new(0);

/// The books, for the calling thread alone; `None` in a signal handler that has
/// interrupted whoever has them.
fn office() -> Option<OpenOffice> {
    let guard = BOOKS.door.enter()?;
    if guard.is_inherited() {
        // Who had the books is not there any more (a fork did not wait for it), and may have been
        // half way. So nothing of what they said is looked at, nor dropped; some recording of that
        // time may still be under way.
        let new = Office {
            under_way: 1,
            ..Office::new()
        };
        // SAFETY: we are behind the door, so no one else uses it.
        unsafe { BOOKS.office.get().write(new) };
    }
    Some(OpenOffice { _guard: guard })
}

/// Whether the thread with this word has the books, or keeps them closed for a fork: it must
/// not wait for anybody who may ask for them.
pub(super) fn has_books(me: u64) -> bool {
    BOOKS.door.is_held_by(me)
}

/// Runs `work` with the books in hand; `None` when they cannot be had.
#[cfg(test)]
pub(super) fn with_books<R>(work: impl FnOnce() -> R) -> Option<R> {
    let _office = office()?;
    Some(work())
}

/// Before a fork.
pub(super) fn close() {
    BOOKS.door.close();
}

/// After it, in the parent.
pub(super) fn reopen() {
    BOOKS.door.reopen();
}

/// After it, in the child.
pub(super) fn reopen_in_the_child() {
    BOOKS.door.reopen_in_the_child();
}

/// The books, until it is dropped.
struct OpenOffice {
    _guard: Guard<'static>,
}

impl Deref for OpenOffice {
    type Target = Office;

    fn deref(&self) -> &Office {
        // SAFETY: the guard is that of the books' door, so no other thread uses them; on this one
        // a second `office` would have been refused.
        unsafe { &*BOOKS.office.get() }
    }
}

impl DerefMut for OpenOffice {
    fn deref_mut(&mut self) -> &mut Office {
        // SAFETY: as in `deref`, and this value is borrowed exclusively.
        unsafe { &mut *BOOKS.office.get() }
    }
}

/// From now on, frees are looked up where a sampled block may be. An error
/// without the books: whoever has them may be about to look up none.
pub(super) fn look_for_samples() -> Result<(), Error> {
    visits::quietly(|| {
        let office = office().ok_or(Error::busy())?;
        LOOK.look_for_samples();
        LOOK.watch_frees(office.under_way > 0);
        Ok(())
    })
}

/// A recording under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Recording {
    tag: Tag,
    /// The recording that it was started in: what this one leaves alive is alive in
    /// that one too.
    parent: Option<Tag>,
    lost: Lost,
    /// Whether some of its blocks were [seen](Survivor::seen).
    has_looked: bool,
    is_over: bool,
}

/// Enters a recording on other threads; may outlive it, and then does nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(Tag);

impl Key {
    /// The innermost recording that the calling thread is in.
    pub(crate) fn current() -> Option<Self> {
        visits::here()?.current().map(Self)
    }

    /// Records what the calling thread allocates until the visit is dropped.
    pub(crate) fn enter(self) -> Visit {
        Visit::open(self.0)
    }
}

impl Recording {
    /// Starts a recording that no thread is in yet. What it leaves alive is alive, too, in
    /// the one that the calling thread is in.
    pub(crate) fn start() -> Result<Self, Error> {
        // Else it would be of nothing, and find nothing wrong.
        visits::at_leisure()?;
        Self::start_in(|| visits::here()?.current(), None)
    }

    /// The same for one that all threads will be in, who are not in the calling thread's.
    pub(super) fn start_apart() -> Result<Self, Error> {
        Self::start_in(|| None, None)
    }

    /// The same for a profile, with room for what that adds up.
    pub(super) fn start_with(tally: &Tally) -> Result<Self, Error> {
        Self::start_in(|| None, Some(tally))
    }

    fn start_in(parent: fn() -> Option<Tag>, tally: Option<&Tally>) -> Result<Self, Error> {
        installed::require()?;
        visits::possible()?;
        let recording = Self::open_in(parent(), tally)?;
        recording.calibrate();
        Ok(recording)
    }

    /// Lets the first recording learn which frames are the allocator's own. It
    /// allocates to find out, recorded, so it cannot be done quietly: the next one
    /// learns them then.
    fn calibrate(&self) {
        static ONCE: OnceCell<()> = OnceCell::new();
        if ONCE.get().is_some() {
            return;
        }
        loader::ask(|| {
            let _ = ONCE.get_or_try_init(|| {
                let visit = self.key().enter();
                let learns = || unwind::calibrate_with(rehearsal::rehearse);
                (visit.is_recorded() && learns()).then_some(()).ok_or(())
            });
        });
    }

    #[cfg(test)]
    pub(super) fn open() -> Result<Self, Error> {
        Self::open_in(visits::here().and_then(visits::Thread::current), None)
    }

    fn open_in(parent: Option<Tag>, tally: Option<&Tally>) -> Result<Self, Error> {
        visits::quietly(|| {
            let has_room = loader::ask(|| {
                unwind::prime();
                hooks::make_room(tally)
            });
            if !has_room {
                return Err(Error::no_memory());
            }
            // Blocks are as old as somebody's last look says, which may have been long before.
            clock::look();
            let mut office = office().ok_or(Error::busy())?;
            let entry = match office.free.pop() {
                Some(entry) => entry,
                None => Entry::new().ok_or(Error::no_memory())?,
            };
            let tag = Tag {
                entry,
                id: office.next_id(),
            };
            office.under_way += 1;
            LOOK.watch_frees(true);
            entry.lost.store(0, Ordering::Relaxed);
            entry.cut.store(0, Ordering::Relaxed);
            let around = parent.map_or(0, |parent| parent.id);
            entry.around.store(around, Ordering::Relaxed);
            entry.id.store(tag.id, Ordering::Release);
            Ok(Self {
                tag,
                parent,
                lost: Lost::by_anyone(),
                has_looked: false,
                is_over: false,
            })
        })
    }

    /// Gives the recording, which no thread is in yet, the next number, and does this with it
    /// before anybody gets a later one.
    pub(super) fn renumber(&mut self, work: impl FnOnce(u32)) -> Result<(), Error> {
        visits::quietly(|| {
            let office = office().ok_or(Error::busy())?;
            let id = office.next_id();
            self.tag.id = id;
            self.tag.entry.id.store(id, Ordering::Release);
            work(id);
            Ok(())
        })
    }

    /// From now on, blocks are its own that are older, and that its threads make larger.
    pub(crate) fn adopt(&self) {
        let Tag { entry, id } = self.tag;
        entry.adopts.store(id, Ordering::Relaxed);
    }

    /// The number that its blocks have.
    pub(crate) fn id(&self) -> u32 {
        self.tag.id
    }

    pub(super) fn tag(&self) -> Tag {
        self.tag
    }

    /// What other threads, and this one, enter the recording with.
    pub(crate) fn key(&self) -> Key {
        Key(self.tag)
    }

    /// What is alive now of what was recorded.
    pub(crate) fn survivors(&self) -> Vec<Survivor> {
        visits::quietly(|| {
            let mut survivors = Vec::new();
            let now = clock::look_ms();
            let mine = office().map_or(vec![self.tag.id], |office| office.numbers(self.tag.id));
            let is_mine = |record: &Record| mine.binary_search(&record.recording).is_ok();
            TABLE.for_each_of(is_mine, |block, record| {
                survivors.push(Survivor::of(block, &record, now));
            });
            survivors
        })
    }

    /// The same, which will be told from what comes later: what is here now stays
    /// [seen](Survivor::seen), wherever it is resized.
    pub(crate) fn look(&mut self) -> Vec<Survivor> {
        self.has_looked = true;
        let still = visits::quietly(|| {
            let still = moving::stop();
            if still.missed() > 0 {
                hooks::lose(self.tag.id);
            }
            let numbers = office().map_or_else(
                || {
                    // Those of checks inside are not known.
                    hooks::lose(self.tag.id);
                    vec![self.tag.id]
                },
                |office| office.numbers(self.tag.id),
            );
            see(&numbers, true);
            still
        });
        let mut survivors = self.survivors();
        drop(still);
        survivors.retain(|survivor| survivor.seen);
        survivors
    }

    /// Ends the recording and gives what is still alive, with what was lost.
    pub(crate) fn finish(mut self) -> (Vec<Survivor>, Lost) {
        self.end()
    }

    fn end(&mut self) -> (Vec<Survivor>, Lost) {
        if core::mem::replace(&mut self.is_over, true) {
            return (Vec::new(), Lost::default());
        }
        visits::quietly(|| {
            // Before it is over: what comes back to the table then comes back as its own. And before
            // the books, as always: who has them waits for nobody.
            let still = moving::stop();
            // Without the books the recording ends all the same. Its place is lost then, and frees
            // go on being looked up.
            let mut office = office();
            let parent = match &office {
                Some(office) => office.still_open(self.parent),
                None => self.parent.filter(|parent| parent.is_under_way()),
            };
            let part = u64::from(self.tag.id) << 32 | parent.map_or(0, |p| u64::from(p.id));
            self.tag.entry.part.store(part, Ordering::Relaxed);
            // Release: what it was part of.
            self.tag.entry.id.store(0, Ordering::Release);
            let now = clock::look_ms();
            let mine = office.as_mut().map_or(vec![self.tag.id], |office| {
                office.take_numbers(self.tag.id, parent.map(|parent| parent.id))
            });
            let lost = self.lost(parent);
            let mut survivors = Vec::new();
            let is_mine = |record: &Record| mine.binary_search(&record.recording).is_ok();
            let keep = |block, record: Record| survivors.push(Survivor::of(block, &record, now));
            if parent.is_some() {
                // They are alive for the parent too, which will look for these numbers.
                TABLE.for_each_of(is_mine, keep);
                if self.has_looked {
                    // It has not seen them yet.
                    see(&mine, false);
                }
            } else {
                profiling::keep_blocks_of(&mine);
                TABLE.drain_of(is_mine, keep);
            }
            let missed = Lost {
                blocks: still.missed(),
                ..Lost::default()
            };
            drop(still);
            if let Some(office) = &mut office {
                office.free.push(self.tag.entry);
                // Not below zero: in the child of a fork the books may be younger than the recording.
                office.under_way = office.under_way.saturating_sub(1);
                LOOK.watch_frees(office.under_way > 0);
            }
            let by_anyone = Lost::by_anyone().since(&self.lost);
            (survivors, lost.plus(&by_anyone).plus(&missed))
        })
    }

    /// What the recording itself has lost; the one that it is part of has lost
    /// it too.
    fn lost(&self, parent: Option<Tag>) -> Lost {
        let entry = self.tag.entry;
        let (blocks, cut) = (&entry.lost, &entry.cut);
        let (blocks, cut) = (blocks.load(Ordering::Relaxed), cut.load(Ordering::Relaxed));
        if let Some(Tag { entry, .. }) = parent {
            entry.lost.fetch_add(blocks, Ordering::Relaxed);
            entry.cut.fetch_add(cut, Ordering::Relaxed);
        }
        Lost {
            blocks,
            frames: 0,
            cut,
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        drop(self.end());
    }
}
