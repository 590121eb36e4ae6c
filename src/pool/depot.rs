//! What is behind all lines: the objects that no line has.
//!
//! A line and the depot exchange half a magazine at once, so a thread that
//! only takes, or only gives back, comes here once in 31 times. It is a vector
//! under a lock: what a lock costs is divided by 31, and it needs no proof. Only
//! pointers move under the lock. No user's code runs there, and objects that
//! are to be dropped are handed out to the caller.

use crate::pool::line::Own;
use crate::pool::lock::Lock;
use crate::pool::object::Object;

/// The objects that no line has, at most `most` of them.
#[derive(Debug)]
pub(crate) struct Depot<T> {
    locked: Lock<Stock<T>>,
    most: usize,
    /// What it exchanges with a line at once.
    half: usize,
}

#[derive(Debug)]
struct Stock<T> {
    objects: Vec<Object<T>>,
    /// Objects given to callers without a line.
    taken: u64,
}

impl<T> Depot<T> {
    pub(crate) fn new(most: usize, half: usize) -> Self {
        Self {
            locked: Lock::new(Stock {
                objects: Vec::new(),
                taken: 0,
            }),
            most,
            half,
        }
    }

    /// Takes an object for the caller, and half a magazine for the caller's line.
    pub(crate) fn take(&self, line: Option<Own<'_, T>>) -> Option<Object<T>> {
        let mut stock = self.locked.lock()?;
        let object = stock.objects.pop()?;
        if let Some(line) = line {
            line.refill(self.half, &mut stock.objects);
            line.count_taken();
        } else {
            stock.taken += 1;
        }
        Some(object)
    }

    /// Takes half a magazine out of a full line, as far as there is room; not if the line
    /// `is_current` no more, which is asked when nobody can [take all](Self::take_all): what is
    /// in it then must not come here after that.
    pub(crate) fn relieve(&self, line: Own<'_, T>, is_current: impl FnOnce() -> bool) {
        if let Some(mut stock) = self.locked.lock()
            && is_current()
        {
            let room = self.make_room(&mut stock.objects, self.half);
            line.spill(room, &mut stock.objects);
        }
    }

    /// Keeps an object, or gives it back when there is no room.
    pub(crate) fn put(&self, object: Object<T>) -> Result<(), Object<T>> {
        if let Some(mut stock) = self.locked.lock()
            && self.make_room(&mut stock.objects, 1) == 1
        {
            stock.objects.push(object);
            return Ok(());
        }
        Err(object)
    }

    /// Takes all objects out, and calls `f` before anybody can take one or put one in.
    pub(crate) fn take_all<R>(&self, f: impl FnOnce() -> R) -> (R, Vec<Object<T>>) {
        match self.locked.lock() {
            Some(mut stock) => (f(), core::mem::take(&mut stock.objects)),
            None => (f(), Vec::new()),
        }
    }

    /// Keeps the last `keep` of `objects` together with what is here, and leaves in
    /// `objects` what is over.
    pub(crate) fn keep(&self, keep: usize, objects: &mut Vec<Object<T>>) {
        // What has come here meanwhile was used last, so it goes last.
        if let Some(mut stock) = self.locked.lock() {
            objects.append(&mut stock.objects);
            let over = objects.len().saturating_sub(keep.min(self.most));
            stock.objects = objects.split_off(over);
        }
    }

    /// Leaves the objects that are here to nobody if the lock was lost in a fork;
    /// whether it was. The thread that held it may have been moving them.
    pub(crate) fn forget_if_lost(&mut self) -> bool {
        let Some(stock) = self.locked.lost() else {
            return false;
        };
        core::mem::forget(core::mem::take(&mut stock.objects));
        true
    }

    /// How many objects are here and in the lines, which `lines` adds up: they exchange
    /// objects with what is here under the lock only, so that none is missed on its way.
    pub(crate) fn idle(&self, lines: impl FnOnce() -> u64) -> u64 {
        let stock = self.locked.lock();
        lines() + stock.map_or(0, |stock| stock.objects.len() as u64)
    }

    /// How many objects callers without a line have taken.
    pub(crate) fn taken(&self) -> u64 {
        self.locked.lock().map_or(0, |stock| stock.taken)
    }

    /// How many objects it keeps at most.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// For how many of `n` more objects there is room. Without memory for the
    /// pointers there is none, and the objects are dropped: that gives some.
    fn make_room(&self, objects: &mut Vec<Object<T>>, n: usize) -> usize {
        let n = n.min(self.most.saturating_sub(objects.len()));
        if objects.try_reserve(n).is_ok() { n } else { 0 }
    }
}
