//! How threads get an object of a bounded pool.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use crate::pool::bounded::BoundedPool;
use crate::pool::desk::Grant;
use crate::pool::error::PoolError;
use crate::pool::guard::{OwnedPooled, Pooled};
use crate::pool::object::Object;
use crate::pool::queue::Outcome;

impl<T> BoundedPool<T> {
    /// An object if there is one, without waiting; `None` when all are out, and
    /// when the pool is closed.
    ///
    /// Also `None` when one could be created but the manager fails to, and when the
    /// pool was [lost in a fork](PoolError::is_lost_in_fork);
    /// [`acquire`](Self::acquire) tells why.
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(1);
    /// let text = pool.try_acquire().unwrap();
    /// assert!(pool.try_acquire().is_none());
    /// # drop(text);
    /// ```
    #[inline]
    pub fn try_acquire(&self) -> Option<Pooled<'_, T, Self>> {
        Some(Pooled::new(self, self.try_object()?))
    }

    /// The same for a guard that is `'static` and keeps the pool alive.
    ///
    /// ```
    /// let pool = std::sync::Arc::new(heapledger::pool::BoundedPool::<String>::new(1));
    /// let mut text = pool.try_acquire_owned().unwrap();
    /// std::thread::spawn(move || text.push('x')).join().unwrap();
    /// assert_eq!(*pool.try_acquire().unwrap(), "x");
    /// ```
    #[inline]
    pub fn try_acquire_owned(self: &Arc<Self>) -> Option<OwnedPooled<T, Self>> {
        let object = self.try_object()?;
        Some(OwnedPooled::new(Arc::clone(self), object))
    }

    /// An object; when all are out, the thread waits for its turn.
    ///
    /// ```
    /// let pool = heapledger::pool::BoundedPool::<String>::new(1);
    /// std::thread::scope(|s| {
    ///     let text = pool.acquire().unwrap();
    ///     s.spawn(|| pool.acquire().unwrap().push('x')); // waits for the next line
    ///     drop(text);
    /// });
    /// assert_eq!(*pool.acquire().unwrap(), "x");
    /// ```
    ///
    /// # Errors
    /// When the pool is closed, also while waiting; when the manager fails to
    /// create an object; when the pool was
    /// [lost in a fork](PoolError::is_lost_in_fork).
    pub fn acquire(&self) -> Result<Pooled<'_, T, Self>, PoolError> {
        Ok(Pooled::new(self, self.object(None)?))
    }

    /// The same for a guard that is `'static` and keeps the pool alive.
    ///
    /// ```
    /// let pool = std::sync::Arc::new(heapledger::pool::BoundedPool::<String>::new(1));
    /// let text = pool.acquire_owned().unwrap();
    /// drop(pool);
    /// assert_eq!(*text, "");
    /// ```
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_owned(self: &Arc<Self>) -> Result<OwnedPooled<T, Self>, PoolError> {
        let object = self.object(None)?;
        Ok(OwnedPooled::new(Arc::clone(self), object))
    }

    /// An object; when all are out, the thread waits for its turn, but no longer
    /// than `timeout`. What the manager takes to create one is not limited by it.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = heapledger::pool::BoundedPool::<String>::new(1);
    /// let text = pool.acquire().unwrap();
    /// let error = pool.acquire_timeout(Duration::from_millis(1)).unwrap_err();
    /// assert!(error.is_timeout());
    /// # drop(text);
    /// ```
    ///
    /// # Errors
    /// When the time is over, and as [`acquire`](Self::acquire). An object that is
    /// handed over at the last moment is not an error.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Pooled<'_, T, Self>, PoolError> {
        // Too far away to be a moment is for ever.
        let deadline = Instant::now().checked_add(timeout);
        Ok(Pooled::new(self, self.object(deadline)?))
    }

    #[inline]
    fn try_object(&self) -> Option<Object<T>> {
        match self.desk.spare.take() {
            Some(object) => Some(object),
            None => self.try_object_under_lock(),
        }
    }

    #[inline(never)]
    fn try_object_under_lock(&self) -> Option<Object<T>> {
        let grant = self.lock().ok()?.take()?;
        self.redeem(grant).ok()
    }

    fn object(&self, deadline: Option<Instant>) -> Result<Object<T>, PoolError> {
        self.wait(deadline).and_then(|grant| self.redeem(grant))
    }

    fn wait(&self, deadline: Option<Instant>) -> Result<Grant<T>, PoolError> {
        if let Some(object) = self.desk.spare.take() {
            return Ok(Grant::Object(object));
        }
        let mut desk = self.lock()?;
        if desk.is_closed() {
            return Err(PoolError::closed());
        }
        if let Some(grant) = desk.take() {
            return Ok(grant);
        }
        let mut ticket = match desk.join(None) {
            Ok(ticket) => ticket,
            Err((object, _)) => return Ok(Grant::Object(object)),
        };
        let turn = desk.queue.turn(&ticket);
        loop {
            desk.state = match deadline {
                None => turn.wait(desk.state),
                Some(deadline) => turn.wait_until(desk.state, deadline),
            };
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            // First what was handed over: at the last moment is in time.
            ticket = match desk.queue.outcome(ticket) {
                Outcome::Granted(grant) => return Ok(grant),
                Outcome::Closed => return Err(PoolError::closed()),
                Outcome::LostInFork => return Err(PoolError::wait_lost_in_fork()),
                Outcome::Waiting(ticket) => ticket,
            };
            if late {
                let _nothing = desk.leave(ticket);
                return Err(PoolError::timeout());
            }
        }
    }
}
