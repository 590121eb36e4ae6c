//! A recording from its start to its end.
//!
//! ```text
//!   Entry   id = 0 ──start──▶ id = 7 ──finish──▶ id = 0 ──start──▶ id = 12 ...
//! ```
//!
//! Entries are never freed, so a tag that has outlived its recording can always
//! be asked: its number is then no longer the entry's.

use once_cell::sync::OnceCell;
use parking_lot::{Mutex, MutexGuard};

use crate::arena;
use crate::error::Error;
use crate::installed;
use crate::record::clock;
use crate::record::fork;
use crate::record::hooks::{self, Lost, TABLE};
use crate::record::loader;
use crate::record::lock::Lock;
use crate::record::table::Record;
use crate::record::visits::{self, Thread, Visit};
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use crate::unwind;

/// Names a recording that may be over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub(super) entry: &'static Entry,
    pub(super) id: u32,
}

impl Tag {
    pub(super) fn is_under_way(self) -> bool {
        self.entry.id.load(Ordering::Relaxed) == self.id
    }
}

/// A place for a recording, used again and again.
#[derive(Debug)]
pub(super) struct Entry {
    /// The recording that is under way, or 0.
    id: AtomicU32,
}

// SAFETY: a number; zero is its fresh state.
unsafe impl arena::Zeroed for Entry {}

/// The books of the recordings themselves; for normal contexts only.
#[derive(Debug)]
struct Office {
    free: Vec<&'static Entry>,
    under_way: u32,
    /// Recordings that are over, and the one that they were part of.
    parts: Vec<(u32, u32)>,
}

impl Office {
    const fn new() -> Self {
        Self {
            free: Vec::new(),
            under_way: 0,
            parts: Vec::new(),
        }
    }

    /// The numbers that a recording's blocks can have: its own, and those of
    /// recordings inside it that are over.
    fn numbers(&self, id: u32) -> Vec<u32> {
        let mut numbers = vec![id];
        let mut at = 0;
        while let Some(&whole) = numbers.get(at) {
            numbers.extend(
                self.parts
                    .iter()
                    .filter(|part| part.1 == whole)
                    .map(|part| part.0),
            );
            at += 1;
        }
        numbers
    }

    /// [`numbers`](Self::numbers) of a recording that ends, which becomes part
    /// of its parent if that is under way.
    fn take_numbers(&mut self, id: u32, parent: Option<u32>) -> Vec<u32> {
        let numbers = self.numbers(id);
        match parent {
            Some(parent) => self.parts.push((id, parent)),
            None => self.parts.retain(|part| !numbers.contains(&part.0)),
        }
        numbers
    }
}

/// Where the books are kept. A fork may leave them locked by a thread that the
/// child does not have; the child then gets new ones (see [`office`]).
static FIRST: Mutex<Office> = Mutex::new(Office::new());
/// Null for the first.
static RENEWED: AtomicPtr<Mutex<Office>> = AtomicPtr::new(core::ptr::null_mut());
/// The epoch of the process that the books are known to be fit for.
static FIT_FOR: AtomicU32 = AtomicU32::new(0);
static RENEWING: Lock = Lock::new();
/// The last recording's number. Not in the books, so that no number is given
/// out twice when they are lost.
static LAST_ID: AtomicU32 = AtomicU32::new(0);

/// The books, for the calling thread alone.
fn office() -> MutexGuard<'static, Office> {
    if FIT_FOR.load(Ordering::Acquire) != fork::epoch() {
        renew();
    }
    kept().lock()
}

fn kept() -> &'static Mutex<Office> {
    // SAFETY: null, or from `Box::leak` in `renew`.
    unsafe { RENEWED.load(Ordering::Acquire).as_ref() }.unwrap_or(&FIRST)
}

/// In the child of a fork, before it looks into the books for the first time:
/// who holds them now is not there any more. What they said is lost then, and
/// as the holder may have been half way, nothing of it is looked at.
#[cold]
fn renew() {
    // One thread of the child does it, and no other gets past `office` before.
    let Some(_renewing) = RENEWING.acquire() else {
        return;
    };
    if FIT_FOR.load(Ordering::Acquire) == fork::epoch() {
        return;
    }
    if kept().try_lock().is_none() {
        let new = Box::leak(Box::new(Mutex::new(Office::new())));
        RENEWED.store(new, Ordering::Release);
    }
    FIT_FOR.store(fork::epoch(), Ordering::Release);
}

/// From now on, frees are looked up where a sampled block may be.
pub(super) fn look_for_samples() {
    visits::quietly(|| {
        let office = office();
        hooks::look_for_samples();
        hooks::watch_frees(office.under_way > 0);
    });
}

/// A recording under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Recording {
    tag: Tag,
    /// The recording that the starting thread was in: what this one leaves
    /// alive is alive in that one too.
    parent: Option<Tag>,
    lost: Lost,
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

/// A recorded block that is still alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survivor {
    pub(crate) node: u32,
    pub(crate) size: u64,
    pub(crate) age_ms: u32,
}

impl Entry {
    /// The entry behind a pointer that was made from one.
    pub(super) fn from_shared(entry: *const Self) -> Option<&'static Self> {
        // SAFETY: null, or made from a `&'static Entry` (`everywhere::enter` is the only one).
        unsafe { entry.as_ref() }
    }

    fn new() -> Option<&'static Self> {
        let entry = arena::forever::<Self>()?;
        // SAFETY: from `forever`: fresh, and never freed.
        Some(unsafe { entry.as_ref() })
    }
}

impl Survivor {
    fn of(record: &Record, now_ms: u32) -> Self {
        Self {
            node: record.node,
            size: record.size,
            age_ms: now_ms.saturating_sub(record.birth),
        }
    }
}

impl Recording {
    /// Starts a recording that no thread is in yet.
    pub(crate) fn start() -> Result<Self, Error> {
        installed::require()?;
        let recording = Self::open()?;
        recording.calibrate();
        Ok(recording)
    }

    /// Lets the first recording learn which frames are the allocator's own. It
    /// allocates to find out, recorded, so it cannot be done quietly.
    fn calibrate(&self) {
        static ONCE: OnceCell<()> = OnceCell::new();
        ONCE.get_or_init(|| {
            let visit = self.key().enter();
            if visit.is_recorded() {
                unwind::calibrate();
            }
        });
    }

    fn open() -> Result<Self, Error> {
        visits::quietly(|| {
            fork::watch();
            loader::ask(unwind::prime);
            if !hooks::make_room() {
                return Err(Error::no_memory());
            }
            let parent = visits::here().and_then(Thread::current);
            let mut office = office();
            let entry = match office.free.pop() {
                Some(entry) => entry,
                None => Entry::new().ok_or(Error::no_memory())?,
            };
            // Zero means none, so it is skipped when the numbers begin again.
            let id = LAST_ID.load(Ordering::Relaxed).wrapping_add(1).max(1);
            LAST_ID.store(id, Ordering::Relaxed);
            let tag = Tag { entry, id };
            office.under_way += 1;
            hooks::watch_frees(true);
            entry.id.store(tag.id, Ordering::Release);
            Ok(Self {
                tag,
                parent,
                lost: Lost::now(),
                is_over: false,
            })
        })
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
            let mine = office().numbers(self.tag.id);
            TABLE.for_each(|_, record| {
                if mine.contains(&record.recording) {
                    survivors.push(Survivor::of(&record, now));
                }
            });
            survivors
        })
    }

    /// Ends the recording and gives what is still alive, with what was lost.
    pub(crate) fn finish(mut self) -> (Vec<Survivor>, Lost) {
        let survivors = self.end();
        (survivors, Lost::now().since(&self.lost))
    }

    fn end(&mut self) -> Vec<Survivor> {
        if core::mem::replace(&mut self.is_over, true) {
            return Vec::new();
        }
        visits::quietly(|| {
            let mut office = office();
            self.tag.entry.id.store(0, Ordering::Release);
            let now = clock::look_ms();
            let parent = self.parent.filter(|parent| parent.is_under_way());
            let mine = office.take_numbers(self.tag.id, parent.map(|parent| parent.id));
            let mut survivors = Vec::new();
            for &id in &mine {
                let mut keep = |_, record: Record| survivors.push(Survivor::of(&record, now));
                if parent.is_some() {
                    // They are alive for the parent too, which will look for this number.
                    TABLE.for_each(|address, record| {
                        if record.recording == id {
                            keep(address, record);
                        }
                    });
                } else {
                    TABLE.drain(id, keep);
                }
            }
            office.free.push(self.tag.entry);
            // Not below zero: in the child of a fork the books may be younger than the recording.
            office.under_way = office.under_way.saturating_sub(1);
            hooks::watch_frees(office.under_way > 0);
            survivors
        })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        drop(self.end());
    }
}
