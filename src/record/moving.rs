//! Blocks that are between two places: taken out of the table, as they are being
//! resized, and not put back yet.
//!
//! ```text
//!   who resizes a block of the table        who looks at all there is
//!     through the door                        shuts the door
//!     lock of its own ──────────┐             all locks, in order
//!     out of the table          │ or            table, part by part
//!     inner `realloc`           │             all locks back
//!     back into the table, at its new place
//!     lock back ────────────────┘             opens the door
//! ```
//!
//! Such a block is alive, and in no part of the table. Who decides by the table what is
//! alive waits for it, and holds up who comes later.

use crate::record::fork;
use crate::record::hooks::TABLE;
use crate::record::lock::{Guard, Lock};
use crate::record::recording;

/// More than threads that are likely to resize something at the same time. Each begins to
/// look at another one for a lock that is free.
const LOCKS: usize = 64;

/// On a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Apart(Lock);

/// Shut by who looks. Otherwise a thread that does nothing but resize would take its lock
/// again before anyone else gets it.
static DOOR: Apart = Apart(Lock::new());
static MOVING: [Apart; LOCKS] = [const { Apart(Lock::new()) }; LOCKS];

/// That a block of the calling thread's may be between two places.
pub(super) type Moving = Guard<'static>;

/// Whether who looks at all blocks waits for one of the calling thread's.
#[derive(Debug)]
pub(super) enum Begun {
    /// Until this is dropped, it does.
    Awaited(Moving),
    /// It does, or is this very thread: a signal handler has interrupted it there.
    Interrupting,
    /// It may miss the block: a handler has interrupted another change of the table, or somebody
    /// with the books, for which it may wait; or a fork does; or the look has taken far too long.
    Missed,
}

/// Before a block is taken out; what it gives is kept until the block is put back.
#[inline]
pub(super) fn begin() -> Begun {
    let me = fork::me();
    let index = usize::try_from(me % LOCKS as u64).unwrap_or(0);
    if !DOOR.0.is_taken()
        && let Some(lock) = MOVING.get(index)
        && let Some(guard) = lock.0.try_acquire_by(me)
    {
        return Begun::Awaited(guard);
    }
    begin_later(me, index)
}

/// The same when somebody looks, or has the lock.
#[cold]
#[inline(never)]
fn begin_later(me: u64, index: usize) -> Begun {
    // Before anything is waited for: who looks may wait for this thread.
    if MOVING.iter().any(|lock| lock.0.is_taken_by(me)) {
        return Begun::Interrupting;
    }
    if TABLE.is_held_by(me) || recording::has_books(me) {
        return Begun::Missed;
    }
    if DOOR.0.is_taken() {
        drop(DOOR.0.acquire_patiently_by(me));
    }
    // Any of them will do, so nobody waits for another one's `realloc`.
    let (before, from) = MOVING.split_at(index.min(LOCKS - 1));
    let mut locks = from.iter().chain(before);
    locks
        .find_map(|lock| lock.0.try_acquire_by(me))
        .or_else(|| from.first()?.0.acquire_patiently_by(me))
        .map_or(Begun::Missed, Begun::Awaited)
}

/// That all blocks are where the table has them, until it is dropped.
#[derive(Debug)]
pub(super) struct Still {
    moving: [Option<Moving>; LOCKS],
    // After them, so that all can be had by those who wait at the door.
    _door: Option<Guard<'static>>,
}

/// Waits for all blocks that are between two places. Call it before the books are asked for,
/// and ask for no lock before it is dropped but for theirs and the table's: whoever waits for it
/// may have been interrupted with any other.
pub(super) fn stop() -> Still {
    // Without it, all takes longer.
    let door = DOOR.0.acquire_patiently();
    let moving = core::array::from_fn(|index| MOVING.get(index)?.0.acquire_patiently());
    Still {
        moving,
        _door: door,
    }
}

impl Still {
    /// How many may not be where the table has them, as they were waited for in vain: that of
    /// the calling thread, which a signal has interrupted, or of one that does not come to
    /// an end.
    pub(super) fn missed(&self) -> u64 {
        self.moving.iter().filter(|guard| guard.is_none()).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::{Begun, begin, stop};
    use crate::record::recording;

    /// Bug prevented: a block that is being resized is not waited for, or one that is
    /// resized later is.
    #[test]
    fn who_looks_waits_for_what_is_under_way() {
        let (moving, seen) = channel();
        let (resume, paused) = channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let guard = begin();
                let is_awaited = matches!(guard, Begun::Awaited(_));
                moving.send(is_awaited).expect("wanted");
                paused.recv().expect("sent");
                drop(guard);
            });
            assert!(seen.recv().expect("sent"));
            let look = scope.spawn(|| stop().missed());
            resume.send(()).expect("wanted");
            assert_eq!(look.join().expect("fine"), 0);
        });
    }

    /// Bug prevented: whoever has the books resizes something and waits for who looks, and who
    /// looks waits for the books.
    #[test]
    fn who_has_the_books_does_not_wait_for_who_looks() {
        let (looking, seen) = channel();
        let (has_them, may_look) = channel();
        thread::scope(|scope| {
            let look = scope.spawn(move || {
                may_look.recv().expect("sent");
                let still = stop();
                looking.send(()).expect("wanted");
                let has_had_them = recording::with_books(|| ()).is_some();
                drop(still);
                has_had_them
            });
            let begun = recording::with_books(|| {
                has_them.send(()).expect("wanted");
                seen.recv().expect("sent");
                begin()
            });
            assert!(matches!(begun, Some(Begun::Missed)), "{begun:?}");
            assert!(look.join().expect("fine"));
        });
    }

    /// Bug prevented: a signal handler waits for ever for what it has interrupted, or takes it
    /// for done.
    #[test]
    fn a_handler_is_told_of_what_it_has_interrupted() {
        let guard = begin();
        assert!(matches!(guard, Begun::Awaited(_)));
        assert!(matches!(begin(), Begun::Interrupting));
        assert_eq!(stop().missed(), 1);
        drop(guard);
        let still = stop();
        assert_eq!(still.missed(), 0);
        // Who looks resizes what it keeps.
        assert!(matches!(begin(), Begun::Interrupting));
        drop(still);
        assert!(matches!(begin(), Begun::Awaited(_)));
    }
}
