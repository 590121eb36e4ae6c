//! What a bounded pool has under its lock.
//!
//! A *permit* stands for each object that is alive or about to be: there are
//! `capacity` of them. An object carries its permit, whether it is idle, in a
//! guard, or in the seat of someone who waits; a permit without an object is
//! either free or in the hands of a call that creates or drops one.
//!
//! Somebody waits only while there is neither an idle object nor a free permit:
//! [`take`](State::take) comes first, and whatever comes back goes to the queue
//! first. So nobody who comes later is served before them.

use core::task::Waker;

use crate::pool::object::Object;
use crate::pool::queue::Queue;
use crate::pool::stats::PoolStats;

/// What a caller gets.
#[derive(Debug)]
pub(crate) enum Grant<T> {
    /// An object, ready to use.
    Object(Object<T>),
    /// The right to create one.
    Permit,
}

#[derive(Debug)]
pub(crate) struct State<T> {
    idle: Vec<Object<T>>,
    /// Permits that are not free.
    used: usize,
    capacity: usize,
    pub(crate) queue: Queue<Grant<T>>,
    pub(crate) closed: bool,
    /// `idle`, `out` and `waiting` are not kept here.
    stats: PoolStats,
}

impl<T> State<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            idle: Vec::new(),
            used: 0,
            capacity,
            queue: Queue::new(),
            closed: false,
            stats: PoolStats::default(),
        }
    }

    /// An idle object or a free permit, if there is one.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Grant<T>> {
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

    /// Takes an object back: for the one who waits longest, or to lie idle.
    /// Gives it back when the pool is closed; it keeps its permit then.
    #[inline]
    pub(crate) fn give(&mut self, object: Object<T>) -> Result<Option<Waker>, Object<T>> {
        if self.closed {
            return Err(object);
        }
        match self.queue.grant(Grant::Object(object)) {
            Ok(waker) => {
                self.stats.reused += 1;
                Ok(waker)
            }
            Err(Grant::Object(object)) => {
                self.idle.push(object);
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
            return waker;
        }
        self.used -= 1;
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

    /// Closes the pool; gives the tasks to wake and the objects to drop.
    pub(crate) fn close(&mut self) -> (Vec<Waker>, Vec<Object<T>>) {
        self.closed = true;
        (self.queue.close(), core::mem::take(&mut self.idle))
    }

    /// Takes the idle objects beyond the last `keep`, with their permits.
    pub(crate) fn take_over(&mut self, keep: usize) -> Vec<Object<T>> {
        let over = self.idle.len().saturating_sub(keep);
        self.idle.drain(..over).collect()
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

    #[inline]
    fn note_out(&mut self) {
        let out = (self.used - self.idle.len()) as u64;
        self.stats.peak = self.stats.peak.max(out);
    }

    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(crate) fn stats(&self) -> PoolStats {
        PoolStats {
            idle: self.idle.len() as u64,
            out: (self.used - self.idle.len()) as u64,
            waiting: self.queue.waiting() as u64,
            ..self.stats
        }
    }
}
