//! Who we are: a number for the thread, and one for the process between forks.
//!
//! A moment is left in which a word is of the parent's epoch though its thread is
//! the child's and alive: while our handler counts the fork, a thread that another
//! library's handler has started before may hold a lock; and a signal handler may
//! fork between the look at the epoch and the taking of the lock. POSIX allows
//! neither a thread there nor more than `exec` in such a child.

#[cfg(not(loom))]
pub(crate) use real::{epoch, me, watch};

/// Whether two threads' words are of one epoch.
#[inline]
pub(crate) fn same_epoch(one: u64, other: u64) -> bool {
    one >> 32 == other >> 32
}

/// Whether two words are the same thread's, in whatever epoch: of all threads, the
/// one that forks is the one that the child has.
#[inline]
pub(crate) fn same_thread(one: u64, other: u64) -> bool {
    one << 32 == other << 32
}

#[cfg(not(loom))]
mod real {
    use core::cell::Cell;

    use crate::record::{loader, recording, visits};
    use crate::sync::{AtomicU32, Ordering};

    /// How many forks lie between this process and its first ancestor that watched, as
    /// words of locks have it: in 30 bits, above which there is a 1.
    static EPOCH: AtomicU32 = AtomicU32::new(1 << 30);
    static THREADS: AtomicU32 = AtomicU32::new(0);

    thread_local! {
        /// The thread's word in a lock, made anew in each epoch; 0 before it is asked for.
        static WORD: Cell<u64> = const { Cell::new(0) };
    }

    /// The calling thread's word in a lock: never 0, no other thread's, and below 2^63.
    #[inline]
    pub(crate) fn me() -> u64 {
        // `try_with` because `with` has a panic in it; this kind of thread local cannot be gone.
        let word = WORD.try_with(Cell::get).unwrap_or(0);
        // Not renewed by the handler below: before its turn, another library's may have started
        // threads in the child, which it cannot get at.
        if word >> 32 == epoch() {
            word
        } else {
            name(word)
        }
    }

    /// The epoch's part of a word: 31 bits, never 0. One more in the child of each
    /// fork after the first recording; may be called in a signal handler.
    #[inline]
    pub(crate) fn epoch() -> u64 {
        u64::from(EPOCH.load(Ordering::Relaxed))
    }

    /// The calling thread's word in this epoch; `word` is its last, or 0.
    #[cold]
    #[inline(never)]
    fn name(word: u64) -> u64 {
        let thread = match word & u64::from(u32::MAX) {
            0 => u64::from(number()),
            known => known,
        };
        let word = epoch() << 32 | thread;
        let _ = WORD.try_with(|place| place.set(word));
        word
    }

    fn number() -> u32 {
        // After four thousand million threads numbers come again; two of them at one lock at one
        // moment would take each other for a signal handler, and count a loss.
        THREADS
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1)
            .max(1)
    }

    /// Begins to count forks, and to keep them out of what [`loader`] and
    /// [`recording`] guard. Off the allocation path: the C library allocates
    /// (not through us).
    ///
    /// Nobody waits for another thread that is doing it, which may be gone by a
    /// fork: then it is done twice, and the handlers bear to be called twice.
    pub(crate) fn watch() {
        static IS_DONE: AtomicU32 = AtomicU32::new(0);
        if IS_DONE.load(Ordering::Acquire) == 0 {
            #[cfg(unix)]
            // SAFETY: the declaration is POSIX's; what it calls is async-signal-safe (atomics, and
            // naps) and lives as long as the program, as this crate is never unloaded alone.
            let _ =
                unsafe { pthread_atfork(Some(before), Some(in_the_parent), Some(in_the_child)) };
            IS_DONE.store(1, Ordering::Release);
        }
    }

    /// Runs before the fork, on the thread that forks.
    #[cfg(unix)]
    extern "C" fn before() {
        loader::close();
        recording::close();
    }

    /// Runs in the parent, on the thread that has forked.
    #[cfg(unix)]
    extern "C" fn in_the_parent() {
        recording::reopen();
        loader::reopen();
    }

    /// Runs in the child, on its only thread, before `fork` returns.
    #[cfg(unix)]
    extern "C" fn in_the_child() {
        // Nobody else writes to it.
        let next = EPOCH.load(Ordering::Relaxed).wrapping_add(1);
        EPOCH.store(next & (u32::MAX >> 2) | 1 << 30, Ordering::Relaxed);
        visits::renumber();
        recording::reopen_in_the_child();
        loader::reopen_in_the_child();
    }

    #[cfg(unix)]
    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<extern "C" fn()>,
            parent: Option<extern "C" fn()>,
            child: Option<extern "C" fn()>,
        ) -> core::ffi::c_int;
    }
}

/// The calling thread's word in a lock.
#[cfg(loom)]
pub(crate) fn me() -> u64 {
    loom::thread_local! {
        static ME: u64 = NEXT.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }
    static NEXT: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(1);
    ME.try_with(|me| *me & 0xffff_ffff).unwrap_or(u64::MAX)
}
