//! The names of recordings, and what others may ask of one by its name.
//!
//! ```text
//!   Entry   id = 0 ──start──▶ id = 7 ──finish──▶ id = 0 ──start──▶ id = 12 ...
//! ```
//!
//! Entries are never freed, so a tag that has outlived its recording can always
//! be asked: its number is then no longer the entry's.

use crate::arena;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

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

    /// Whether somebody may want what has the recording's number: itself, or, when it is
    /// over, one that it was part of, which is not known for ever. Safe inside the
    /// allocator.
    pub(super) fn is_wanted(self) -> bool {
        !matches!(wanting(self.id), Wanting::Nobody)
    }

    /// The recording that takes over what is made larger in this one: itself, or the innermost
    /// one around it that does. Of blocks of `older`, a recording around that, or of none if it
    /// is 0. Safe inside the allocator.
    pub(super) fn adopting(self, older: u32) -> Option<Self> {
        let mut adopting = None;
        let mut next = Some(self);
        // As many as could be open at once.
        for _ in 0..u8::MAX {
            let tag = next?;
            if tag.entry.adopts.load(Ordering::Relaxed) == tag.id {
                adopting.get_or_insert(tag);
            }
            let around = tag.entry.around.load(Ordering::Relaxed);
            if adopting.is_some() && (older == 0 || around == older) {
                return adopting;
            }
            next = find(around);
        }
        None
    }

    /// Counts a block of the recording that is not in the table, or a thread
    /// whose blocks are not.
    #[cold]
    pub(super) fn lose_block(self) {
        if self.is_under_way() {
            self.entry.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a stack of the recording that is not whole.
    pub(super) fn cut_stack(self) {
        self.entry.cut.fetch_add(1, Ordering::Relaxed);
    }
}

/// A place for a recording, used again and again.
#[derive(Debug)]
pub(super) struct Entry {
    /// The recording that is under way, or 0.
    pub(super) id: AtomicU32,
    /// The recording that the thread was in which began it, or 0.
    pub(super) around: AtomicU32,
    /// The recording, if it takes over what is older and grows in it.
    pub(super) adopts: AtomicU32,
    /// That of the last one that is over, above the one that it was part of, or 0.
    pub(super) part: AtomicU64,
    /// What it has lost; who comes too late counts for the next one.
    pub(super) lost: AtomicU64,
    pub(super) cut: AtomicU64,
    /// The entry that was made before. Set once.
    next: AtomicPtr<Entry>,
}

/// The entry that was made last.
static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(core::ptr::null_mut());

/// The recording with this number, if it is under way. Safe inside the allocator.
pub(super) fn find(id: u32) -> Option<Tag> {
    // That of entries without a recording.
    if id == 0 {
        return None;
    }
    let mut next = Entry::from_shared(ENTRIES.load(Ordering::Acquire));
    while let Some(entry) = next {
        let tag = Tag { entry, id };
        if tag.is_under_way() {
            return Some(tag);
        }
        next = Entry::from_shared(entry.next.load(Ordering::Relaxed));
    }
    None
}

/// Who wants what has a recording's number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanting {
    /// The recording itself, or when it is over, one that it was part of.
    Somebody(Tag),
    Nobody,
    /// The recording is over, and its entry another one's.
    Unknown,
}

/// Who wants what has this number. Safe inside the allocator.
pub(super) fn wanting(mut id: u32) -> Wanting {
    // Each began before the one that was part of it; no more than could be open at once.
    for _ in 0..u8::MAX {
        if let Some(tag) = find(id) {
            return Wanting::Somebody(tag);
        }
        match whole(id) {
            Some(0) => return Wanting::Nobody,
            Some(whole) => id = whole,
            None => return Wanting::Unknown,
        }
    }
    Wanting::Unknown
}

/// The recording that one with this number, which is over, was part of, or 0 if it was
/// part of none; `None` once that is forgotten. Safe inside the allocator.
fn whole(id: u32) -> Option<u32> {
    // After what has shown that it is over: who ends a recording stores this first.
    fence(Ordering::Acquire);
    let mut next = Entry::from_shared(ENTRIES.load(Ordering::Acquire));
    while let Some(entry) = next {
        let part = entry.part.load(Ordering::Relaxed);
        if part >> 32 == u64::from(id) {
            return u32::try_from(part & u64::from(u32::MAX)).ok();
        }
        next = Entry::from_shared(entry.next.load(Ordering::Relaxed));
    }
    None
}

// SAFETY: numbers and a pointer; zero is its fresh state.
unsafe impl arena::Zeroed for Entry {}

impl Entry {
    /// The entry behind a pointer that was made from one.
    pub(super) fn from_shared(entry: *const Self) -> Option<&'static Self> {
        // SAFETY: null, or made from a `&'static Entry` (in `everywhere::enter` and `Entry::new`).
        unsafe { entry.as_ref() }
    }

    /// A new entry, on the list. For whoever has the books.
    pub(super) fn new() -> Option<&'static Self> {
        let place = arena::forever::<Self>()?;
        // SAFETY: from `forever`: fresh, and never freed.
        let entry: &'static Self = unsafe { place.as_ref() };
        entry
            .next
            .store(ENTRIES.load(Ordering::Relaxed), Ordering::Relaxed);
        // Release: the entry. One at a time does this, and none is ever taken off.
        ENTRIES.store(place.as_ptr(), Ordering::Release);
        Some(entry)
    }
}
