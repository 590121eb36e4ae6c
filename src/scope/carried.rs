//! A scope on several threads, closures and futures: its handles and guards.

use core::marker::PhantomData;

use crate::arena::SysArc;
use crate::error::Error;
use crate::installed;
use crate::ledger::{self, Slot};
#[cfg(feature = "profile")]
use crate::record::{self, Key};
use crate::scope::book::Carrier;
use crate::scope::wrapped::InScope;
use crate::stats::ScopeStats;

/// Carries a scope to other threads, closures and futures. From
/// [`Scope::handle`](crate::Scope::handle).
///
/// What the scope reports is the sum over all threads that it was on, for the
/// time that it was on them. A thread that enters it twice counts once.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let scope = heapledger::Scope::enter();
/// let read = || drop(std::hint::black_box(vec![0u8; 100_000]));
/// std::thread::scope(|threads| {
///     let handle = scope.handle();
///     threads.spawn(handle.clone().wrap(read));
///     threads.spawn(handle.wrap(read));
///     threads.spawn(read); // not in the scope
/// });
/// // And what it took to start three threads.
/// assert!((200_000..210_000).contains(&scope.stats().allocated_bytes));
/// ```
#[derive(Clone, Debug)]
pub struct ScopeHandle {
    carrier: SysArc<Carrier>,
    /// The recording that the handle was made in; it is carried along.
    #[cfg(feature = "profile")]
    key: Option<Key>,
}

impl ScopeHandle {
    pub(super) fn new(carrier: SysArc<Carrier>) -> Self {
        Self {
            carrier,
            #[cfg(feature = "profile")]
            key: Key::current(),
        }
    }

    /// A handle of a scope that is on no thread yet.
    pub(crate) fn detached() -> Result<Self, Error> {
        installed::require()?;
        SysArc::try_new(Carrier::new())
            .map(Self::new)
            .ok_or(Error::no_memory())
    }

    /// Enters the scope on the calling thread until the guard is dropped.
    ///
    /// A thread that is ending and has no entries of its own any more, or one
    /// whose page the system has no memory for, is not counted;
    /// [`Entered::is_counted`] tells. A visit whose guard is forgotten lasts until
    /// the thread ends, and stays counted; no other thread gets that one's page of
    /// the ledger before the scope is read, is entered by a thread that has not been
    /// on it, or is gone with its last handle.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let scope = heapledger::Scope::enter();
    /// let handle = scope.handle();
    /// std::thread::scope(|threads| {
    ///     threads.spawn(|| {
    ///         let _inside = handle.enter();
    ///         drop(std::hint::black_box(vec![0u8; 500]));
    ///     });
    /// });
    /// assert!(scope.stats().allocated_bytes >= 500);
    /// ```
    pub fn enter(&self) -> Entered<'_> {
        let slot = ledger::own().filter(|slot| self.carrier.enter(slot));
        Entered {
            #[cfg(feature = "profile")]
            visit: self.key.map(Key::enter),
            handle: self,
            slot,
            not_send: PhantomData,
        }
    }

    /// What has happened in the scope so far, summed over the threads that it
    /// was on, with what those that are still inside have done up to now.
    ///
    /// `peak_bytes` is exact when all happened on one thread, once that has left it or
    /// when it asks itself. With several it is the sum of each thread's own peak, which is the most that can have
    /// been alive at once, and `peak_error_bytes` is by how much that may be
    /// too high. What is allocated on one of them and freed on another while
    /// this reads may look alive; as a peak, that is part of the error.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let scope = heapledger::Scope::enter();
    /// let work = || drop(std::hint::black_box(vec![0u8; 1_000_000]));
    /// work();
    /// let handle = scope.handle();
    /// std::thread::spawn(handle.wrap(work)).join().unwrap();
    /// let stats = handle.stats();
    /// // One after the other; but of two threads it is not known when they had their peaks.
    /// assert!(stats.peak_bytes >= 2_000_000);
    /// assert!(stats.peak_bytes - stats.peak_error_bytes <= 1_000_000);
    /// ```
    pub fn stats(&self) -> ScopeStats {
        self.carrier.stats()
    }

    /// A closure that runs `body` inside the scope, on whatever thread, and
    /// gives back what it returns. Where a thread cannot be counted
    /// ([`enter`](Self::enter) says when), it runs all the same.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let scope = heapledger::Scope::enter();
    /// let work = || std::hint::black_box(vec![2u64; 1_000]).iter().sum::<u64>();
    /// let sum = std::thread::spawn(scope.handle().wrap(work)).join().unwrap();
    /// assert_eq!(sum, 2_000);
    /// assert!(scope.finish().allocated_bytes >= 8_000);
    /// ```
    pub fn wrap<R, F: FnOnce() -> R>(&self, body: F) -> impl FnOnce() -> R + use<R, F> {
        let handle = self.clone();
        move || {
            let _inside = handle.enter();
            body()
        }
    }

    /// A future that is inside the scope whenever it is polled, and while it
    /// is dropped; on a multi-threaded runtime on whatever thread that is. Where a
    /// thread cannot be counted ([`enter`](Self::enter) says when), it goes on all the same.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    /// # runtime.block_on(async {
    /// let handle = heapledger::Scope::enter().handle();
    /// let task = tokio::spawn(handle.wrap_future(async {
    ///     let page = std::hint::black_box(vec![0u8; 100_000]);
    ///     tokio::task::yield_now().await; // it may go on on another thread
    ///     page.len()
    /// }));
    /// assert_eq!(task.await?, 100_000);
    /// assert!(handle.stats().freed_bytes >= 100_000);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn wrap_future<F>(&self, future: F) -> InScope<F> {
        InScope::new(self.clone(), future)
    }
}

/// A thread's visit to a carried scope; dropping it leaves. From
/// [`ScopeHandle::enter`].
///
/// It stays on its thread, so it cannot be held across an `.await` of a future
/// that moves between threads; use [`ScopeHandle::wrap_future`] there.
///
/// ```compile_fail,E0277
/// fn send(guard: heapledger::Entered<'static>) {
///     std::thread::spawn(move || drop(guard));
/// }
/// ```
#[derive(Debug)]
#[must_use = "the thread leaves the scope when this is dropped"]
pub struct Entered<'a> {
    #[cfg(feature = "profile")]
    #[expect(dead_code, reason = "held until the thread leaves the scope")]
    visit: Option<record::Visit>,
    handle: &'a ScopeHandle,
    slot: Option<&'static Slot>,
    not_send: PhantomData<*const ()>,
}

impl Entered<'_> {
    /// Whether what the thread does is counted; see [`ScopeHandle::enter`].
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let handle = heapledger::Scope::enter().handle();
    /// let inside = handle.enter();
    /// if !inside.is_counted() {
    ///     eprintln!("the scope's figures are without those of this thread");
    /// }
    /// # assert!(inside.is_counted());
    /// drop(std::hint::black_box(vec![0u8; 30]));
    /// assert_eq!(handle.stats().allocated_bytes, 30);
    /// ```
    pub const fn is_counted(&self) -> bool {
        self.slot.is_some()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let here = ledger::own();
        if let Some(slot) = self.slot
            && here.is_some_and(|own| core::ptr::eq(own, slot))
        {
            self.handle.carrier.leave(slot);
        }
    }
}
