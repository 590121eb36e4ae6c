//! Work that takes much stack, on a thread that may have little.
//!
//! A report can be made on any thread, and to read debug information takes more stack than a
//! program's smallest threads have, above all in a build without optimisation. So it is read on
//! a thread of ours where the calling one has little left, or is on a stack that is not its own.

/// Runs `work` where there is stack enough; `false` if that is nowhere. It is not recorded, and
/// what it allocates is [apart](crate::ledger::apart), as the caller's is.
///
/// The thread asks for nothing of ours that the caller has, who may hold what keeps forks out. But
/// the caller may have the lock of the `backtrace` crate, which lets in again who has it: in what it
/// has that crate call, a report on such a thread waits for ever.
pub(crate) fn with_stack_enough(work: &mut (dyn FnMut() + Send)) -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if crate::unwind::stack_left().is_none_or(|left| left < ours::ENOUGH) {
        return ours::elsewhere(work);
    }
    work();
    true
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod ours {
    use core::hint::black_box;
    use core::mem::MaybeUninit;
    use std::thread;

    use crate::ledger::apart;
    use crate::record::{is_ours, quietly};

    /// More bytes of stack than names take. In a build without optimisation that was 70 KiB on
    /// 2026-11-23, and 430 KiB for the name of a function whose types are nested 480 deep (mangled
    /// as v0, which is read to a depth of 500).
    pub(super) const ENOUGH: u64 = 512 << 10;

    /// What a thread of ours has.
    const STACK: usize = 2 << 20;

    /// Does the work on such a thread.
    #[cold]
    pub(super) fn elsewhere(work: &mut (dyn FnMut() + Send)) -> bool {
        // Std gives up the program where it has no memory for what it makes a thread with.
        let mut spare = Vec::<u8>::new();
        let is_memory = spare.try_reserve_exact(STACK + (256 << 10)).is_ok();
        // Or the compiler sees that nobody uses it, and does not ask.
        drop(black_box(spare));
        is_memory && without_signals(|| on_a_thread(work))
    }

    fn on_a_thread(work: &mut (dyn FnMut() + Send)) -> bool {
        let handed = thread::scope(|scope| {
            let deep = thread::Builder::new().stack_size(STACK);
            let done = deep.spawn_scoped(scope, || {
                is_ours();
                quietly(|| {
                    work();
                    apart::hand_over()
                })
            });
            // Not by the end of the scope: what a thread frees as it ends is freed by then.
            done.ok()?.join().ok()
        });
        handed.map(apart::take_over).is_some()
    }

    /// Runs `work` with all signals kept back, from the threads that it starts, too: the
    /// program's handlers are for its own threads, and one that forks would leave a child that
    /// waits for a thread that it has not.
    fn without_signals<R>(work: impl FnOnce() -> R) -> R {
        /// Lets them come again.
        struct Before(libc::sigset_t);
        impl Drop for Before {
            fn drop(&mut self) {
                let none = core::ptr::null_mut();
                // SAFETY: the set that the thread had.
                unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, none) };
            }
        }
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: a place for a set, which the call fills in.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: the set is filled in, and there is a place for another.
        let answer =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        let _before = (answer == 0).then(|| {
            // SAFETY: filled in, since the call has succeeded.
            Before(unsafe { before.assume_init() })
        });
        work()
    }
}
