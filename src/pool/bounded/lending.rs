//! How objects and permits of a bounded pool change hands around a user's code.
//!
//! Everything that a user wrote (create, reset, `Drop` of an object, wakers)
//! runs outside the lock, in the hands of a value whose `Drop` settles the
//! account: so a panic in it costs the object at hand, and no permit.

use core::task::Waker;

use crate::pool::bounded::BoundedPool;
use crate::pool::builder::OnPanic;
use crate::pool::desk::{Grant, Locked};
use crate::pool::error::PoolError;
use crate::pool::guard::{Home, Life, TakesBack};
use crate::pool::manager::Reset;
use crate::pool::object::Object;

impl<T> BoundedPool<T> {
    pub(crate) fn lock(&self) -> Result<Locked<'_, T>, PoolError> {
        self.desk.lock().ok_or_else(PoolError::lost_in_fork)
    }

    /// Makes what was granted an object. Outside the lock.
    #[inline]
    pub(crate) fn redeem(&self, grant: Grant<T>) -> Result<Object<T>, PoolError> {
        match grant {
            Grant::Object(object) => Ok(object),
            Grant::Permit => self.create(),
        }
    }

    /// Creates an object for a permit. Outside the lock.
    #[cold]
    pub(crate) fn create(&self) -> Result<Object<T>, PoolError> {
        let permit = Permit(self);
        let fresh = self.manager.create().map_err(PoolError::create)?;
        // The object carries it from here on.
        core::mem::forget(permit);
        if let Ok(mut desk) = self.lock() {
            desk.created();
        }
        Ok(fresh)
    }

    /// Gives an object that is ready for its next user to whom it is due.
    #[inline]
    pub(crate) fn put_back(&self, object: Object<T>) {
        if let Err(object) = self.desk.spare.put(object) {
            self.put_back_under_lock(object);
        }
    }

    #[inline(never)]
    fn put_back_under_lock(&self, object: Object<T>) {
        let Ok(mut desk) = self.lock() else {
            // Without the lock there is no account of permits: if it was given up too soon,
            // that of this object is lost with it.
            return drop(object);
        };
        let given = desk.give(object);
        drop(desk);
        self.after(given);
    }

    /// Gives back what was granted to somebody who no longer waits.
    pub(crate) fn pass_on(&self, grant: Grant<T>) {
        if let Ok(mut desk) = self.lock() {
            let given = desk.give_back(grant);
            drop(desk);
            self.after(given);
        }
    }

    /// What is left to do after the lock.
    #[inline]
    fn after(&self, given: Result<Option<Waker>, Object<T>>) {
        match given {
            Ok(None) => {}
            Ok(Some(waker)) => wake(waker),
            Err(object) => self.drop_one(object),
        }
    }

    fn give_permit(&self) {
        if let Ok(mut desk) = self.lock() {
            let waker = desk.give_permit();
            drop(desk);
            if let Some(waker) = waker {
                wake(waker);
            }
        }
    }

    pub(crate) fn drop_all(&self, objects: Vec<Object<T>>) {
        DropAll::new(self, objects).run();
    }

    /// Asks the manager, outside the lock and with the object in nobody else's hands.
    fn reset(&self, object: Object<T>) -> Option<Object<T>> {
        let mut at_hand = AtHand {
            pool: self,
            object: Some(object),
        };
        let kept = match &mut at_hand.object {
            Some(object) => self.manager.reset(object.value_mut()) == Reset::Keep,
            None => false,
        };
        if kept { at_hand.object.take() } else { None }
    }

    /// Takes an object back that is to be asked about first.
    #[inline(never)]
    fn examine(&self, object: Object<T>, life: Life) {
        let object = match (life, self.on_panic) {
            (Life::Panicking, OnPanic::Discard) => return self.drop_one(object),
            _ if !self.resets => Some(object),
            (Life::Normal, _) => self.reset(object),
            (Life::Panicking, OnPanic::Keep) => {
                // A second panic must not leave the destructor that we are in: the process would abort.
                let reset = core::panic::AssertUnwindSafe(|| self.reset(object));
                std::panic::catch_unwind(reset).unwrap_or(None)
            }
        };
        if let Some(object) = object {
            self.put_back(object);
        }
    }
}

/// A permit in the hands of a call. Dropped, it goes to whom it is due.
struct Permit<'a, T>(&'a BoundedPool<T>);

impl<T> Drop for Permit<'_, T> {
    fn drop(&mut self) {
        self.0.give_permit();
    }
}

/// An object at hand while a user's code runs: if that panics, it is dropped.
struct AtHand<'a, T> {
    pool: &'a BoundedPool<T>,
    object: Option<Object<T>>,
}

impl<T> Drop for AtHand<'_, T> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.pool.drop_one(object);
        }
    }
}

/// Objects to be dropped, each of them also when one of them panics, and each
/// permit given back after its object is gone.
pub(crate) struct DropAll<'a, T> {
    pool: &'a BoundedPool<T>,
    objects: Vec<Object<T>>,
}

impl<'a, T> DropAll<'a, T> {
    pub(crate) fn new(pool: &'a BoundedPool<T>, objects: Vec<Object<T>>) -> Self {
        Self { pool, objects }
    }

    pub(crate) fn run(mut self) {
        self.drop_objects();
    }

    fn drop_objects(&mut self) {
        while let Some(object) = self.objects.pop() {
            self.pool.drop_one(object);
        }
    }
}

impl<T> Drop for DropAll<'_, T> {
    fn drop(&mut self) {
        self.drop_objects();
    }
}

/// Wakes a task, outside the lock. While the thread panics already, what the
/// waker throws must not leave the destructor that we are in.
fn wake(waker: Waker) {
    if std::thread::panicking() {
        let waking = core::panic::AssertUnwindSafe(|| waker.wake());
        let _swallowed = std::panic::catch_unwind(waking);
    } else {
        waker.wake();
    }
}

/// Tasks to be woken, each of them also when one of their wakers panics.
pub(crate) struct WakeAll(Vec<Waker>);

impl WakeAll {
    pub(crate) fn new(mut wakers: Vec<Waker>) -> Self {
        // Taken from the end, and the first who came is to be woken first.
        wakers.reverse();
        Self(wakers)
    }

    pub(crate) fn run(mut self) {
        self.wake();
    }

    fn wake(&mut self) {
        while let Some(waker) = self.0.pop() {
            wake(waker);
        }
    }
}

impl Drop for WakeAll {
    fn drop(&mut self) {
        self.wake();
    }
}

impl<T> Home<T> for BoundedPool<T> {}

impl<T> TakesBack<T> for BoundedPool<T> {
    #[inline]
    fn take_back(&self, object: Object<T>, life: Life) {
        if self.resets || life == Life::Panicking {
            return self.examine(object, life);
        }
        self.put_back(object);
    }

    fn drop_one(&self, object: Object<T>) {
        if let Ok(mut desk) = self.lock() {
            desk.discarded();
        }
        // Given back after the object is gone, also when its `Drop` panics.
        let _permit = Permit(self);
        drop(object);
    }

    fn let_go(&self, object: Object<T>) -> T {
        if let Ok(mut desk) = self.lock() {
            desk.detached();
        }
        let value = object.into_value();
        // Not in a destructor: one that panics after the result is ready leaks the result.
        self.give_permit();
        value
    }
}
