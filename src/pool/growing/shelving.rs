//! How objects of a pool come and go when the short way does not do, and around a
//! user's code.

use crate::pool::builder::OnPanic;
use crate::pool::error::PoolError;
use crate::pool::growing::Pool;
use crate::pool::guard::{Home, Life, TakesBack};
use crate::pool::line::{Base, Own, Room};
use crate::pool::local;
use crate::pool::manager::Reset;
use crate::pool::object::Object;
use crate::sync::Ordering;

impl<T> Pool<T> {
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(super) fn fetch_or_panic(&self) -> Object<T> {
        match self.fetch_or_create() {
            Ok(object) => object,
            Err(error) => fail(&error),
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn fetch_or_create(&self) -> Result<Object<T>, PoolError> {
        let line = self.settled_line();
        // A thread that has only now got its line may have inherited objects with it.
        let inherited = line.and_then(|line| line.pop(self.base()));
        match inherited.or_else(|| self.depot.0.take(line)) {
            Some(object) => Ok(object),
            None => self.create(),
        }
    }

    pub(super) fn create(&self) -> Result<Object<T>, PoolError> {
        let fresh = self.manager.create().map_err(PoolError::create)?;
        self.census.0.create();
        Ok(fresh)
    }

    #[inline]
    pub(super) fn base(&self) -> Base {
        Base::of(self.epoch.load(Ordering::Relaxed))
    }

    /// The calling thread's line, made if need be, and of this epoch.
    pub(super) fn settled_line(&self) -> Option<Own<'_, T>> {
        if self.room == Room::NONE {
            return None;
        }
        let line = local::line_or_grow(&self.table)?;
        let base = self.base();
        if !line.is_current(base) {
            let mut old = Vec::new();
            line.empty(base, &mut old);
            self.drop_all(old);
        }
        Some(line)
    }

    /// Puts an object that is ready for its next user where it will be found.
    #[inline]
    pub(super) fn shelve(&self, object: Object<T>) {
        let object = match local::line(&self.table) {
            Some(line) => match line.push(self.base(), self.room, object) {
                Ok(()) => return,
                Err(object) => object,
            },
            None => object,
        };
        self.shelve_slowly(object);
    }

    #[cold]
    #[inline(never)]
    pub(super) fn shelve_slowly(&self, object: Object<T>) {
        let at_hand = AtHand::new(self, object);
        let line = self.settled_line();
        let mut object = at_hand.into_object();
        if let Some(line) = line {
            if line.length() >= self.room.objects() {
                self.depot.0.relieve(line, || line.is_current(self.base()));
            }
            object = match line.push(self.base(), self.room, object) {
                Ok(()) => return,
                Err(object) => object,
            };
        }
        if let Err(over) = self.depot.0.put(object) {
            self.drop_one(over);
        }
    }

    /// Asks the manager, outside every lock and with the object in nobody else's
    /// hands.
    pub(super) fn reset(&self, object: Object<T>) -> Option<Object<T>> {
        let mut at_hand = AtHand::new(self, object);
        match self.manager.reset(at_hand.value()) {
            Reset::Keep => Some(at_hand.into_object()),
            Reset::Discard => None,
        }
    }

    /// Takes an object back that is to be asked about first.
    #[inline(never)]
    pub(super) fn examine(&self, object: Object<T>, life: Life) {
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
            self.shelve(object);
        }
    }

    /// Drops objects; each of them, also when one of them panics.
    pub(super) fn drop_all(&self, objects: Vec<Object<T>>) {
        self.census.0.discard(objects.len());
        drop(objects);
    }
}

#[cold]
#[track_caller]
fn fail(error: &PoolError) -> ! {
    panic!("{}", error.with_causes())
}

/// An object at hand while a user's code runs: if that panics, the object is
/// dropped and counted.
struct AtHand<'a, T> {
    pool: &'a Pool<T>,
    object: Option<Object<T>>,
}

impl<'a, T> AtHand<'a, T> {
    fn new(pool: &'a Pool<T>, object: Object<T>) -> Self {
        Self {
            pool,
            object: Some(object),
        }
    }

    fn value(&mut self) -> &mut T {
        match &mut self.object {
            Some(object) => object.value_mut(),
            None => unreachable!("taken only by value"),
        }
    }

    fn into_object(mut self) -> Object<T> {
        match self.object.take() {
            Some(object) => object,
            None => unreachable!("taken only by value"),
        }
    }
}

impl<T> Drop for AtHand<'_, T> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.pool.drop_one(object);
        }
    }
}

impl<T> Home<T> for Pool<T> {}

impl<T> TakesBack<T> for Pool<T> {
    #[inline]
    fn take_back(&self, object: Object<T>, life: Life) {
        if self.resets || life == Life::Panicking {
            return self.examine(object, life);
        }
        self.shelve(object);
    }

    fn drop_one(&self, object: Object<T>) {
        self.census.0.discard(1);
        drop(object);
    }

    fn let_go(&self, object: Object<T>) -> T {
        self.census.0.detach();
        object.into_value()
    }
}
