//! Where the calling thread's stack begins and ends.
//!
//! Asked once per thread, if possible outside the allocator, but a thread that
//! somebody else started asks at its first allocation. Hence:
//!
//! - the main thread's end is `__libc_stack_end`, looked up by [`prime`]; what
//!   `pthread_getattr_np` would do for it is read `/proc/self/maps` through
//!   stdio, whose locks a program may hold. How far down it may reach is asked again
//!   where it is deeper than that, as a program can raise its own limit;
//! - another thread's bounds come from `pthread_getattr_np`, which for such a
//!   thread takes that thread's own lock in glibc (no Rust code runs under it)
//!   and memory from C's `malloc`, not from us.
//!
//! A stack pointer outside the bounds means a fiber or an alternate signal
//! stack: then nothing is read at all.

use core::mem::MaybeUninit;

use crate::sync::{AtomicU64, Ordering};
use crate::unwind::lent;
use crate::unwind::registers::Registers;

/// The main thread's stack: 0 until primed.
static MAIN_LOW: AtomicU64 = AtomicU64::new(0);
static MAIN_HIGH: AtomicU64 = AtomicU64::new(0);

/// So far below the main stack's end there is nothing else: Linux keeps that much
/// free for it on x86-64. A limit that was raised while the program ran may reach
/// down to other threads' stacks.
const MAIN_ALONE: u64 = 128 << 20;

/// A stack without a limit is taken to be this large: there must be an end.
const UNLIMITED: u64 = 1 << 30;

/// The addresses of a stack, `low` to below `high`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl Bounds {
    #[inline]
    pub(crate) const fn contains(&self, address: u64) -> bool {
        self.low <= address && address < self.high
    }

    /// The calling thread's, which is at `sp` now. Safe inside the allocator.
    #[cold]
    pub(crate) fn of_this_thread(sp: u64) -> Option<Self> {
        // Not by the thread's number: after `fork` another thread may be the first.
        Self::of_main(sp)
            .or_else(|| lent::bounds_at(sp))
            .or_else(from_pthread)
    }

    /// The main thread's, if `sp` is on its stack. Safe inside the allocator, and a call to the
    /// system only where the stack is deeper than it could be when it was last asked.
    #[cold]
    pub(crate) fn of_main(sp: u64) -> Option<Self> {
        let low = MAIN_LOW.load(Ordering::Relaxed);
        let high = MAIN_HIGH.load(Ordering::Relaxed);
        let depth = high.checked_sub(sp).filter(|depth| *depth > 0)?;
        if depth > MAIN_ALONE {
            return None;
        }
        let main = Self { low, high };
        if main.contains(sp) {
            return Some(main);
        }
        // The program may have raised its limit since. What lies further down was free for
        // others when it began.
        let low = high.saturating_sub(limit()?.min(MAIN_ALONE));
        let main = Self { low, high };
        main.contains(sp).then(|| {
            MAIN_LOW.store(low, Ordering::Relaxed);
            main
        })
    }
}

/// How many bytes of the calling thread's stack are left; `None` on one that is not its own.
pub(crate) fn left() -> Option<u64> {
    let sp = Registers::here().sp;
    let bounds = Bounds::of_this_thread(sp).filter(|bounds| bounds.contains(sp));
    bounds.map(|bounds| sp - bounds.low)
}

/// How large the main thread's stack may become. Takes no lock and no memory.
fn limit() -> Option<u64> {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: the call fills the record in, or fails.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_STACK, limit.as_mut_ptr()) };
    if failed != 0 {
        return None;
    }
    // SAFETY: filled in, since the call has succeeded.
    Some(unsafe { limit.assume_init() }.rlim_cur.min(UNLIMITED))
}

/// Learns the main thread's bounds. From a normal context.
pub(crate) fn prime() {
    // SAFETY: the name is a C string, and the default handle asks for no file.
    let end = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_stack_end".as_ptr()) };
    if end.is_null() {
        return;
    }
    // SAFETY: the loader's variable of this name is a pointer, set before `main` and never again.
    let high = unsafe { end.cast::<*mut u8>().read() }.addr() as u64;
    let Some(size) = limit() else {
        return;
    };
    MAIN_LOW.store(high.saturating_sub(size), Ordering::Relaxed);
    MAIN_HIGH.store(high & !7, Ordering::Relaxed);
}

fn from_pthread() -> Option<Bounds> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: always allowed.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: the calling thread is alive; the call initialises the attributes, or fails.
    let failed = unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) };
    if failed != 0 {
        return None;
    }
    let mut low = core::ptr::null_mut();
    let mut size = 0;
    // SAFETY: initialised, since the call has succeeded.
    let failed =
        unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size) };
    // SAFETY: initialised as above, and not used after this.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    let low = low.addr() as u64;
    let high = low.checked_add(size as u64)? & !7;
    (failed == 0).then_some(Bounds { low, high })
}

#[cfg(test)]
mod tests {
    use super::{Bounds, prime};
    use crate::unwind::registers::Registers;

    #[test]
    fn a_thread_is_inside_its_own_bounds_and_not_inside_another_s() {
        prime();
        let sp = Registers::here().sp;
        let here = Bounds::of_this_thread(sp).expect("a plain thread");
        assert!(here.contains(sp) && !here.contains(here.high));
        let there = std::thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || {
                let sp = Registers::here().sp;
                let there = Bounds::of_this_thread(sp).expect("a plain thread");
                assert!(there.contains(sp) && !here.contains(sp));
                assert!(there.high - there.low <= 128 * 1024);
                there
            })
            .expect("a thread")
            .join()
            .expect("no panic");
        assert!(!there.contains(sp));
    }
}
