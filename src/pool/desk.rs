//! What the callers of a bounded pool agree on.
//!
//! A *permit* stands for each object that is alive or about to be: there are
//! `capacity` of them. An object carries its permit, whether it is idle, in a
//! guard, or in the seat of someone who waits; a permit without an object is
//! either free or in the hands of a call that creates or drops one.
//!
//! Somebody waits only while there is neither an idle object nor a free permit,
//! and while the [`Spare`] is shut: [`take`](Locked::take) comes first, and whatever
//! comes back goes to the queue first. So nobody who comes later is served before
//! them.

use core::ops::{Deref, DerefMut};
use core::task::Waker;

use crate::pool::lock::Lock;
use crate::pool::object::Object;
use crate::pool::queue::{Queue, Ticket};
use crate::pool::spare::Spare;
use crate::pool::stats::PoolStats;
use crate::sync::forkable::MutexGuard;

/// What a caller gets.
#[derive(Debug)]
pub(crate) enum Grant<T> {
    /// An object, ready to use.
    Object(Object<T>),
    /// The right to create one.
    Permit,
}

/// The lock, and the object beside it.
#[derive(Debug)]
pub(crate) struct Desk<T> {
    pub(crate) spare: Spare<T>,
    state: Lock<State<T>>,
}

#[derive(Debug)]
pub(crate) struct State<T> {
    idle: Vec<Object<T>>,
    /// Permits that are not free.
    used: usize,
    capacity: usize,
    pub(crate) queue: Queue<Grant<T>>,
    closed: bool,
    /// `idle`, `out` and `waiting` are not kept here.
    stats: PoolStats,
}

/// The desk in the hands of the one who has the lock.
pub(crate) struct Locked<'a, T> {
    spare: &'a Spare<T>,
    pub(crate) state: MutexGuard<'a, State<T>>,
}

impl<T> Desk<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            spare: Spare::new(),
            state: Lock::new(State {
                idle: Vec::new(),
                used: 0,
                capacity,
                queue: Queue::new(),
                closed: false,
                stats: PoolStats::default(),
            }),
        }
    }

    /// Waits for the lock; `None` if it was lost in a fork.
    #[inline]
    pub(crate) fn lock(&self) -> Option<Locked<'_, T>> {
        let mut locked = Locked {
            spare: &self.spare,
            state: self.state.lock()?,
        };
        let taken = self.spare.count();
        if taken > 0 {
            // Since the lock was last held no object came or went but that one, so when it was
            // taken all that is not idle here was out.
            let out = (locked.used - locked.idle.len()) as u64;
            locked.stats.reused += taken;
            locked.stats.peak = locked.stats.peak.max(out);
        }
        Some(locked)
    }
}

impl<T> Drop for Desk<T> {
    fn drop(&mut self) {
        // Whoever held the lock at a fork was in the middle of something.
        if let Some(state) = self.state.lost() {
            core::mem::forget(core::mem::take(&mut state.idle));
            core::mem::forget(core::mem::replace(&mut state.queue, Queue::new()));
        }
    }
}

impl<T> Deref for Locked<'_, T> {
    type Target = State<T>;

    fn deref(&self) -> &State<T> {
        &self.state
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut State<T> {
        &mut self.state
    }
}

impl<T> Locked<'_, T> {
    /// An idle object or a free permit, if there is one.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Grant<T>> {
        if let Some(object) = self.spare.take() {
            return Some(Grant::Object(object));
        }
        if let Some(object) = self.idle.pop() {
            self.stats.reused += 1;
            self.note_out();
            return Some(Grant::Object(object));
        }
        self.take_permit().then(|| {
            self.note_out();
            Grant::Permit
        })
    }

    /// A free permit, if there is one. What it is for is not `out`.
    pub(crate) fn take_permit(&mut self) -> bool {
        let free = !self.closed && self.used < self.capacity;
        self.used += usize::from(free);
        free
    }

    /// Waits behind all others, after [`take`](Self::take) has given nothing. Gives
    /// the object that has come back just now, if there is one, and then the waker
    /// back, to be dropped after the lock.
    pub(crate) fn join(
        &mut self,
        waker: Option<Waker>,
    ) -> Result<Ticket, (Object<T>, Option<Waker>)> {
        let Some(object) = self.spare.shut() else {
            return Ok(self.queue.join(waker));
        };
        self.open();
        self.stats.reused += 1;
        self.note_out();
        Err((object, waker))
    }

    /// Takes an object back: for the one who waits longest, or to lie idle.
    /// Gives it back when the pool is closed, and when there is no memory to remember it; it
    /// keeps its permit then.
    pub(crate) fn give(&mut self, object: Object<T>) -> Result<Option<Waker>, Object<T>> {
        if self.closed {
            return Err(object);
        }
        match self.queue.grant(Grant::Object(object)) {
            Ok(waker) => {
                self.stats.reused += 1;
                // It may not have been out before.
                self.note_out();
                self.open();
                Ok(waker)
            }
            Err(Grant::Object(object)) => {
                if self.idle.try_reserve(1).is_err() {
                    return Err(object);
                }
                self.idle.push(object);
                // It is shut still if all waits began before a fork.
                self.open();
                Ok(None)
            }
            Err(Grant::Permit) => Ok(None),
        }
    }

    /// Takes a permit back, the object of which is gone or never was.
    pub(crate) fn give_permit(&mut self) -> Option<Waker> {
        if !self.closed
            && let Ok(waker) = self.queue.grant(Grant::Permit)
        {
            self.note_out();
            self.open();
            return waker;
        }
        self.used -= 1;
        self.open();
        None
    }

    /// Takes back what somebody gave up who did not wait for it any longer.
    pub(crate) fn give_back(&mut self, grant: Grant<T>) -> Result<Option<Waker>, Object<T>> {
        match grant {
            Grant::Object(object) => {
                // It was counted as an acquisition when it was handed over.
                self.stats.reused -= 1;
                self.give(object)
            }
            Grant::Permit => Ok(self.give_permit()),
        }
    }

    /// Leaves the queue; see [`Queue::leave`].
    pub(crate) fn leave(&mut self, ticket: Ticket) -> (Option<Grant<T>>, Option<Waker>) {
        let left = self.queue.leave(ticket);
        self.open();
        left
    }

    /// Opens the spare place, if nobody waits.
    fn open(&self) {
        if !self.closed && self.queue.is_empty() {
            self.spare.open();
        }
    }

    /// Closes the pool; gives the tasks to wake and the objects to drop.
    pub(crate) fn close(&mut self) -> (Vec<Waker>, Vec<Object<T>>) {
        self.closed = true;
        let mut objects = core::mem::take(&mut self.idle);
        objects.extend(self.spare.shut());
        (self.queue.close(), objects)
    }

    /// Takes the idle objects beyond `keep`, with their permits.
    pub(crate) fn take_over(&mut self, keep: usize) -> Vec<Object<T>> {
        let over = self.idle().saturating_sub(keep);
        let here = over.min(self.idle.len());
        let mut objects: Vec<_> = self.idle.drain(..here).collect();
        if over > here {
            objects.extend(self.spare.shut());
            self.open();
        }
        objects
    }

    pub(crate) fn created(&mut self) {
        self.stats.created += 1;
    }

    pub(crate) fn attached(&mut self) {
        self.stats.attached += 1;
    }

    pub(crate) fn detached(&mut self) {
        self.stats.detached += 1;
    }

    pub(crate) fn discarded(&mut self) {
        self.stats.discarded += 1;
    }

    fn note_out(&mut self) {
        let out = (self.used - self.idle()) as u64;
        self.stats.peak = self.stats.peak.max(out);
    }

    pub(crate) fn idle(&self) -> usize {
        self.idle.len() + usize::from(self.spare.is_full())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn stats(&self) -> PoolStats {
        let idle = self.idle();
        PoolStats {
            idle: idle as u64,
            out: (self.used - idle) as u64,
            waiting: self.queue.waiting() as u64,
            ..self.stats
        }
    }
}
