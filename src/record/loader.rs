//! Nobody of ours is inside the loader when the process forks.
//!
//! glibc does not make the lock of `dl_iterate_phdr` free again in the child: if
//! another thread holds it at the fork, the child hangs when it asks the loader
//! for the first time, as each recording does at its start. What other code
//! does there, we cannot help.

use crate::record::lock::Lock;
use crate::sync::{AtomicU32, Ordering};

/// Held by the thread that asks the loader, or that forks.
static DOOR: Lock = Lock::new();
/// Whether the thread that forks holds it; only for that thread.
static IS_CLOSED: AtomicU32 = AtomicU32::new(0);

/// Runs what asks the loader; a fork waits until it is done.
pub(super) fn ask<R>(question: impl FnOnce() -> R) -> R {
    // Without the lock, if it cannot be had, there is the danger, but no harm yet.
    let _door = DOOR.acquire();
    question()
}

/// Before a fork.
pub(super) extern "C" fn close() {
    if let Some(door) = DOOR.acquire() {
        core::mem::forget(door);
        IS_CLOSED.store(1, Ordering::Relaxed);
    }
}

/// After it, in the parent. In the child the lock is another epoch's, which is
/// as good as free.
pub(super) extern "C" fn reopen() {
    if IS_CLOSED.swap(0, Ordering::Relaxed) != 0 {
        DOOR.release();
    }
}
