//! A future that is in a scope whenever it runs.

use core::fmt;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::task::{Context, Poll};

use crate::scope::carried::ScopeHandle;

/// A future inside a carried scope. From [`ScopeHandle::wrap_future`].
///
/// The scope is entered at the beginning of each poll and left at its end, so
/// whatever else the thread runs in between is not counted, and the future may
/// be polled by any thread. So it is while the future is dropped.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let handle = heapledger::Scope::enter().handle();
/// let page = std::hint::black_box(vec![0u8; 300]);
/// let task: heapledger::InScope<_> = handle.wrap_future(async move { page.len() });
/// drop(task); // never polled, but what it holds is freed in the scope
/// assert_eq!(handle.stats().freed_bytes, 300);
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct InScope<F> {
    handle: ScopeHandle,
    // Invariant: initialised until `drop`, and never moved once `self` is pinned.
    future: ManuallyDrop<F>,
}

impl<F> InScope<F> {
    pub(super) const fn new(handle: ScopeHandle, future: F) -> Self {
        Self {
            handle,
            future: ManuallyDrop::new(future),
        }
    }

    /// The scope that the future runs in.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// let scope = heapledger::Scope::enter().handle();
    /// let task = scope.wrap_future(async { drop(std::hint::black_box(vec![0u8; 300])) });
    /// let handle = task.handle().clone(); // the runtime takes the task itself
    /// runtime.block_on(task);
    /// assert_eq!(handle.stats().allocated_bytes, 300);
    /// ```
    pub const fn handle(&self) -> &ScopeHandle {
        &self.handle
    }
}

impl<F: Future> Future for InScope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: we do not move out of what this gives: `handle` is only borrowed, `future` is
        // pinned again at once, and `drop` drops it where it is.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: structural pinning: `future` is never moved out of a pinned `InScope`, `Drop`
        // treats it as pinned, and `InScope<F>` is `Unpin` only if `F` is, having no impl of its own.
        let future = unsafe { Pin::new_unchecked(&mut *this.future) };
        let _inside = this.handle.enter();
        future.poll(context)
    }
}

impl<F> Drop for InScope<F> {
    fn drop(&mut self) {
        let _inside = self.handle.enter();
        // SAFETY: initialised until now (the invariant), dropped only here, in place, used no more.
        unsafe { ManuallyDrop::drop(&mut self.future) };
    }
}

impl<F> fmt::Debug for InScope<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InScope")
            .field("stats", &self.handle.stats())
            .finish_non_exhaustive()
    }
}
