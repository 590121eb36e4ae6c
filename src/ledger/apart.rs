//! What of the live bytes is not the program's.
//!
//! What the recorder allocates for a report is in the ledger as all else is, and a profile
//! tells of the program. A thread that works for the recorder *stands apart*, and whatever
//! changes the global live figure then is told here too:
//!
//! ```text
//!   stand_apart ──▶ its net changes: all of it is apart       told with each publication
//!                     stays(..): what a cache has grown by
//!   step_back   ──▶ only that stays apart; what else is left is a result, and the program's
//!   Kept              .. or still ours, as what a report is written from
//! ```
//!
//! Whoever holds a result may free it when nobody stands apart, so it is the program's from
//! then on, as if that had allocated it.
//!
//! # Why no reader finds too much
//!
//! What comes is told before it is published, and what goes after that. A reader loads what
//! has gone, then the live figure, and then what has come. All that this live figure has in it
//! has come by then, and nothing counts as gone that is still in it. So a peak is at worst
//! seen too low, for the moment between two additions; and by what a cache of ours has lost to
//! the program, when that has names looked up by the same library, until it is cleared. (A
//! thread tells of itself once a batch, as it publishes: that is in the peak's error.)

use core::cell::Cell;
use core::ptr;

use crate::ledger::thread;
use crate::ledger::{self, Slot};
use crate::sync::{AtomicI64, AtomicU64, Ordering, compiler_fence, fence};

/// All that was ever told to have come, and to have gone.
static CAME: AtomicU64 = AtomicU64::new(0);
static WENT: AtomicU64 = AtomicU64::new(0);
/// What caches have of it.
static CACHED: AtomicI64 = AtomicI64::new(0);

/// How the calling thread stands apart.
struct Here {
    /// The slot that it counts on; null when it does not stand apart.
    slot: Cell<*const Slot>,
    /// Its net when it began.
    since: Cell<i64>,
    /// What was told of it since then. An atomic, so that a signal handler that tells in
    /// between is not told again.
    told: AtomicI64,
    /// What caches have grown by meanwhile.
    cached: Cell<i64>,
    /// What has come while one grew, and is not its own.
    results: Cell<i64>,
}

thread_local! {
    static HERE: Here = const {
        Here {
            slot: Cell::new(ptr::null()),
            since: Cell::new(0),
            told: AtomicI64::new(0),
            cached: Cell::new(0),
            results: Cell::new(0),
        }
    };
}

impl Here {
    /// Tells that so much is apart now, and lets `publish` change the live figure.
    fn tell(&self, all: i64, publish: impl FnOnce()) {
        let change = all.wrapping_sub(self.told.swap(all, Ordering::Relaxed));
        if change > 0 {
            CAME.fetch_add(change.unsigned_abs(), Ordering::Relaxed);
            // Whoever sees the live figure that comes now sees this.
            fence(Ordering::Release);
        }
        publish();
        if change < 0 {
            // Release: whoever sees this sees the live figure of before.
            WENT.fetch_add(change.unsigned_abs(), Ordering::Release);
        }
    }
}

fn is_apart(slot: &Slot) -> bool {
    // This kind of thread local cannot be gone.
    HERE.try_with(|here| ptr::eq(here.slot.get(), slot))
        .unwrap_or(false)
}

/// Lets `publish` change the live figure, as `slot`, whose owner is here, has got to this net.
#[inline]
pub(super) fn publishing(slot: &Slot, net: i64, publish: impl FnOnce()) {
    if is_apart(slot) {
        let _ = HERE.try_with(|here| here.tell(net.wrapping_sub(here.since.get()), publish));
    } else {
        publish();
    }
}

/// The same for bytes that come, or go, on the shared slot.
pub(super) fn publishing_shared(shared: &Slot, change: i64, publish: impl FnOnce()) {
    if is_apart(shared) {
        let _ = HERE.try_with(|here| {
            let told = here.told.load(Ordering::Relaxed);
            here.tell(told.wrapping_add(change), publish);
        });
    } else {
        publish();
    }
}

/// From now on the calling thread stands apart; `false` if it did already.
pub(crate) fn stand_apart() -> bool {
    let slot = thread::own().unwrap_or_else(ledger::shared);
    HERE.try_with(|here| {
        if !here.slot.get().is_null() {
            return false;
        }
        here.since.set(slot.own_net());
        here.told.store(0, Ordering::Relaxed);
        here.cached.set(0);
        here.slot.set(slot);
        true
    })
    .unwrap_or(false)
}

/// It does so no more.
pub(crate) fn step_back() {
    let _ = HERE.try_with(|here| {
        // No slot's place: a handler in between neither tells of us nor stands apart itself, as
        // the figures here are still ours.
        here.slot.set(ptr::dangling());
        compiler_fence(Ordering::SeqCst);
        here.tell(here.cached.get(), || {});
        compiler_fence(Ordering::SeqCst);
        here.slot.set(ptr::null());
    });
}

/// A result of so many bytes that is still ours, as long as this is there. To be made before the
/// thread steps back, and dropped after the result.
#[derive(Debug)]
pub(crate) struct Kept(u64);

impl Kept {
    pub(crate) fn of(bytes: usize) -> Self {
        CAME.fetch_add(bytes as u64, Ordering::Relaxed);
        Self(bytes as u64)
    }

    /// Nothing, where the thread has not stepped back: then it has told of it itself.
    pub(crate) fn unless_apart(&mut self) {
        let is_apart = HERE.try_with(|here| !here.slot.get().is_null());
        if is_apart.unwrap_or(false) {
            WENT.fetch_add(core::mem::take(&mut self.0), Ordering::Release);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Release: whoever sees this sees the live figure of before.
        WENT.fetch_add(self.0, Ordering::Release);
    }
}

/// Runs `work`; what it leaves behind is a cache's, and what it frees was one's.
pub(crate) fn stays(work: impl FnOnce()) {
    let _ = HERE.try_with(|here| here.results.set(0));
    let growth = growth(work);
    let _ = HERE.try_with(|here| {
        let growth = growth.wrapping_sub(here.results.replace(0));
        // Who clears a cache may find there what was not allocated apart.
        let growth = growth.max(CACHED.load(Ordering::Relaxed).wrapping_neg());
        CACHED.fetch_add(growth, Ordering::Relaxed);
        here.cached.set(here.cached.get().wrapping_add(growth));
    });
}

/// Runs `work` within [`stays`], where what it leaves behind is no cache's.
pub(crate) fn leaves(work: impl FnOnce()) {
    let growth = growth(work);
    let _ = HERE.try_with(|here| here.results.set(here.results.get().wrapping_add(growth)));
}

/// What the net of the calling thread grows by in `work`; 0 if it does not stand apart on a
/// slot of its own.
fn growth(work: impl FnOnce()) -> i64 {
    let slot = thread::own().filter(|slot| is_apart(slot));
    let net = || slot.map_or(0, Slot::own_net);
    let before = net();
    work();
    net().wrapping_sub(before)
}

/// What is apart of the live figure that `live` loads, and that figure.
#[inline]
pub(super) fn around(live: impl FnOnce() -> i64) -> i64 {
    // Acquire: the live figure that it had gone from.
    let went = WENT.load(Ordering::Acquire);
    let live = live();
    // What was told before that was published.
    fence(Ordering::Acquire);
    let came = CAME.load(Ordering::Relaxed);
    live.wrapping_sub(came.wrapping_sub(went).cast_signed())
}

/// What the calling thread, whose slot this is, has not told yet.
pub(crate) fn untold(slot: &Slot) -> i64 {
    HERE.try_with(|here| {
        let all = || slot.own_net().wrapping_sub(here.since.get());
        ptr::eq(here.slot.get(), slot)
            .then(|| all().wrapping_sub(here.told.load(Ordering::Relaxed)))
    })
    .ok()
    .flatten()
    .unwrap_or(0)
}
