//! How tasks get an object of a bounded pool.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;

use crate::pool::bounded::BoundedPool;
use crate::pool::desk::Grant;
use crate::pool::error::PoolError;
use crate::pool::guard::{OwnedPooled, Pooled};
use crate::pool::queue::{Outcome, Ticket};

/// An object to come; from [`BoundedPool::acquire_async`].
///
/// It takes its place in the queue when it is first polled, and keeps it. It is
/// woken by the waker of its last poll and needs nothing of its runtime. Dropped
/// at any moment, it leaves the queue, and what was handed to it in the meantime
/// goes to the next. In a child of `fork`, one that waited before it is not woken;
/// polled, it answers that its wait was [lost](PoolError::is_lost_in_fork).
///
/// One that waits and is forgotten (`mem::forget`) keeps its place all the same: the
/// next object goes to it and is lost to the pool.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
///
/// let pool = heapledger::pool::BoundedPool::<String>::new(1);
/// let text = pool.acquire_async().await.unwrap();
/// // The time is over first: the future is dropped, and nobody waits any longer.
/// let second = tokio::time::timeout(Duration::from_millis(1), pool.acquire_async());
/// assert!(second.await.is_err());
/// assert_eq!(pool.stats().waiting, 0);
/// # drop(text);
/// # }
/// ```
///
/// # Panics
/// When it is polled again after it was ready. A panic of the manager passes
/// through `poll`.
#[must_use = "a future does nothing until it is polled"]
pub struct AcquireAsync<'a, T> {
    pool: &'a BoundedPool<T>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    New,
    Queued(Ticket),
    Done,
}

impl<T> BoundedPool<T> {
    /// An object; when all are out, the task waits for its turn. On any runtime,
    /// and safe to cancel at every moment.
    ///
    /// The manager creates within `poll`, so one that blocks blocks the runtime.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool = heapledger::pool::BoundedPool::<String>::new(1);
    /// let mut first = pool.acquire_async().await.unwrap();
    /// let work = async {
    ///     assert_eq!(pool.stats().waiting, 1);
    ///     first.push('x');
    ///     drop(first); // to the task that waits
    /// };
    /// let (second, ()) = tokio::join!(pool.acquire_async(), work);
    /// assert_eq!(*second.unwrap(), "x");
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_async(&self) -> AcquireAsync<'_, T> {
        AcquireAsync {
            pool: self,
            stage: Stage::New,
        }
    }

    /// The same for a guard that is `'static` and keeps the pool alive.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool = std::sync::Arc::new(heapledger::pool::BoundedPool::<String>::new(1));
    /// let mut text = pool.acquire_owned_async().await.unwrap();
    /// tokio::spawn(async move { text.push('x') }).await.unwrap();
    /// assert_eq!(*pool.acquire_owned_async().await.unwrap(), "x");
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`acquire_async`](Self::acquire_async).
    pub async fn acquire_owned_async(self: &Arc<Self>) -> Result<OwnedPooled<T, Self>, PoolError> {
        let (_, object) = Pooled::into_parts(self.acquire_async().await?);
        Ok(OwnedPooled::new(Arc::clone(self), object))
    }
}

impl<T> AcquireAsync<'_, T> {
    fn poll_grant(&mut self, cx: &Context<'_>) -> Poll<Result<Grant<T>, PoolError>> {
        // A waker's clone and drop are a user's code: one before the lock, the other after it.
        let waker = cx.waker().clone();
        let ticket = match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::New => None,
            Stage::Queued(ticket) => Some(ticket),
            // A panic hook is a user's code as well.
            Stage::Done => panic!("a future was polled after it was ready"),
        };
        let mut desk = match self.pool.lock() {
            Ok(desk) => desk,
            Err(error) => {
                // To be left when this is dropped: the lock may have come back by then.
                self.stage = ticket.map_or(Stage::Done, Stage::Queued);
                return Poll::Ready(Err(error));
            }
        };
        let _last_waker;
        match ticket {
            None => {
                if desk.is_closed() {
                    return Poll::Ready(Err(PoolError::closed()));
                }
                if let Some(grant) = desk.take() {
                    return Poll::Ready(Ok(grant));
                }
                match desk.join(Some(waker)) {
                    Ok(ticket) => self.stage = Stage::Queued(ticket),
                    Err((object, _waker)) => {
                        drop(desk);
                        return Poll::Ready(Ok(Grant::Object(object)));
                    }
                }
            }
            Some(ticket) => match desk.queue.outcome(ticket) {
                Outcome::Granted(grant) => return Poll::Ready(Ok(grant)),
                Outcome::Closed => return Poll::Ready(Err(PoolError::closed())),
                Outcome::LostInFork => return Poll::Ready(Err(PoolError::wait_lost_in_fork())),
                Outcome::Waiting(ticket) => {
                    _last_waker = desk.queue.wake_by(&ticket, waker);
                    self.stage = Stage::Queued(ticket);
                }
            },
        }
        drop(desk);
        Poll::Pending
    }
}

impl<'a, T> Future for AcquireAsync<'a, T> {
    type Output = Result<Pooled<'a, T, BoundedPool<T>>, PoolError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.poll_grant(cx).map(|grant| {
            let object = this.pool.redeem(grant?)?;
            Ok(Pooled::new(this.pool, object))
        })
    }
}

impl<T> Drop for AcquireAsync<'_, T> {
    fn drop(&mut self) {
        let Stage::Queued(ticket) = core::mem::replace(&mut self.stage, Stage::Done) else {
            return;
        };
        if let Ok(mut desk) = self.pool.lock() {
            let (granted, _waker) = desk.leave(ticket);
            drop(desk);
            if let Some(grant) = granted {
                self.pool.pass_on(grant);
            }
        }
    }
}

impl<T> fmt::Debug for AcquireAsync<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireAsync")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
