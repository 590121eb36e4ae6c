//! The recording that all threads are in, if there is one.
//!
//! A thread is in it without a visit: it is what comes after the last visit.

use crate::error::Error;
use crate::ledger;
use crate::record::recording::Recording;
use crate::record::tag::{Entry, Tag};
use crate::sync::{AtomicPtr, AtomicU32, Ordering};

static ENTRY: AtomicPtr<Entry> = AtomicPtr::new(core::ptr::null_mut());
static ID: AtomicU32 = AtomicU32::new(0);

/// The recording that all threads are in.
#[inline]
pub(super) fn tag() -> Option<Tag> {
    let id = ID.load(Ordering::Acquire);
    if id == 0 {
        return None;
    }
    let tag = Tag {
        entry: Entry::from_shared(ENTRY.load(Ordering::Relaxed))?,
        id,
    };
    tag.is_under_way().then_some(tag)
}

/// Puts all threads into this recording.
pub(super) fn enter(recording: &Recording) -> Result<(), Error> {
    let tag = recording.tag();
    // Only one at a time: the other's tag is still under way.
    if self::tag().is_some() {
        return Err(Error::already_profiling());
    }
    ENTRY.store(core::ptr::from_ref(tag.entry).cast_mut(), Ordering::Relaxed);
    ID.store(tag.id, Ordering::Release);
    ledger::watch_everyone(true);
    Ok(())
}

/// Takes all threads out of this recording again, if they are in it.
pub(super) fn leave(recording: &Recording) {
    let id = recording.id();
    let left = ID.compare_exchange(id, 0, Ordering::Relaxed, Ordering::Relaxed);
    if left.is_ok() {
        ledger::watch_everyone(false);
    }
}
