//! A stack for work that takes more of it than the calling thread may have left.
//!
//! A report can be made on any thread, and to read debug information takes more stack than a
//! program's smallest threads have, above all in a build without optimisation. So it is read on
//! a stack of ours where the calling thread has little left, or is on one that is not its own.
//!
//! It is the calling thread that goes there, and no other one: to start a thread takes locks of
//! std and of the C library, which the parent of a forked child may have had at that moment, or
//! which whoever loads a library has.

use core::cell::Cell;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::panic::AssertUnwindSafe;
use core::ptr::{self, NonNull};
use std::panic::catch_unwind;

use crate::unwind::bounds::{Bounds, left};

/// More bytes of stack than names take. In a build without optimisation that was 70 KiB on
/// 2026-11-23, and 430 KiB for the name of a function whose types are nested 480 deep (mangled
/// as v0, which is read to a depth of 500).
const ENOUGH: u64 = 512 << 10;

/// What a stack of ours has.
const STACK: usize = 2 << 20;
/// What nobody may touch below it, and above: valgrind takes a stack pointer that has moved by
/// less than two megabytes for one that has grown, or shrunk.
const GUARD: usize = 64 << 10;
const APART: usize = 2 << 20;

thread_local! {
    /// The stack of ours that the calling thread is on.
    static LENT: Cell<Bounds> = const { Cell::new(Bounds { low: 0, high: 0 }) };
}

/// The stack of ours that `sp` is on, if the calling thread is on one. Safe inside the allocator.
pub(super) fn bounds_at(sp: u64) -> Option<Bounds> {
    let lent = LENT.try_with(Cell::get).ok()?;
    lent.contains(sp).then_some(lent)
}

/// Runs `work` where there is stack enough; `false` if that is nowhere, or if it has panicked there.
pub(crate) fn with_stack_enough(work: &mut dyn FnMut()) -> bool {
    if left().is_some_and(|left| left >= ENOUGH) {
        work();
        return true;
    }
    on_a_lent_stack(work)
}

/// What the other side of a switch is told, and tells.
struct Job<'a> {
    work: &'a mut dyn FnMut(),
    is_done: bool,
}

/// Runs `work` on a stack of ours; `false` without memory for one, or if it has panicked.
#[cold]
pub(super) fn on_a_lent_stack(work: &mut dyn FnMut()) -> bool {
    let Some(memory) = Memory::ask() else {
        return false;
    };
    let mut job = Job {
        work,
        is_done: false,
    };
    without_signals(|| {
        let before = LENT.replace(memory.stack());
        // SAFETY: the memory is nobody else's until it is given back below, and it ends at a
        // multiple of 16; `run` gets the job that it expects, which is not touched here meanwhile,
        // and comes back, as no panic leaves it.
        unsafe { switch((&raw mut job).cast(), memory.end(), run) };
        LENT.set(before);
    });
    job.is_done
}

/// Runs `work` with all signals kept back. A handler on an alternate stack would begin at its top
/// though the thread has come from there, as the kernel goes by where the stack pointer is; and one
/// that makes a report or forks would find what is read here half done.
fn without_signals(work: impl FnOnce()) {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: a place for a set, which the call fills in.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the set is filled in, and there is a place for another.
    let failed =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    work();
    if failed == 0 {
        let none = ptr::null_mut();
        // SAFETY: the set that the thread had, filled in since the call has succeeded.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), none) };
    }
}

/// Does the job on the other side. A panic goes no further: there is no caller on this stack.
extern "C" fn run(job: *mut c_void) {
    // SAFETY: `on_a_lent_stack` has switched here with it, and waits.
    let job = unsafe { &mut *job.cast::<Job<'_>>() };
    let work = AssertUnwindSafe(|| (job.work)());
    let panic = catch_unwind(work).err();
    job.is_done = panic.is_none();
    // To drop it may panic, too.
    core::mem::forget(panic);
}

/// Calls `run(job)` on the stack that ends at `end`, and comes back on this one.
///
/// Whoever follows the stack from there comes to its end here: the caller's may be one that
/// nobody can follow.
///
/// # Safety
/// Below `end`, which is a multiple of 16, there is memory for all that `run` does, which takes
/// this job, comes back and does not unwind.
#[unsafe(naked)]
unsafe extern "C" fn switch(job: *mut c_void, end: *mut u8, run: extern "C" fn(*mut c_void)) {
    core::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "push rbp",
        "mov rbp, rsp",
        "mov rsp, rsi",
        "call rdx",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
        ".cfi_endproc",
    )
}

/// A range of the system's; in the middle of it is the stack.
struct Memory {
    // Invariant: from `mmap` with `SIZE` bytes, and this value's alone.
    start: NonNull<u8>,
}

const SIZE: usize = GUARD + STACK + APART;

impl Memory {
    fn ask() -> Option<Self> {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new memory, wherever there is room.
        let start = unsafe { libc::mmap(ptr::null_mut(), SIZE, libc::PROT_NONE, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let memory = Self {
            start: NonNull::new(start.cast())?,
        };
        let stack = start.wrapping_byte_add(GUARD);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: pages in the middle of what we have just got.
        let failed = unsafe { libc::mprotect(stack, STACK, access) };
        (failed == 0).then_some(memory)
    }

    /// Where its stack is.
    fn stack(&self) -> Bounds {
        let low = self.start.addr().get() + GUARD;
        Bounds {
            low: low as u64,
            high: (low + STACK) as u64,
        }
    }

    /// Where its stack begins, as stacks grow downwards.
    fn end(&self) -> *mut u8 {
        self.start.as_ptr().wrapping_add(GUARD + STACK)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the invariant; nobody is on that stack any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use core::hint::black_box;

    use crate::sync::{AtomicU32, Ordering};

    use super::{ENOUGH, left, on_a_lent_stack, with_stack_enough};

    /// Works on a thread with this much stack.
    fn on_a_thread_with<R: Send>(stack: usize, work: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(stack);
            let thread = small.spawn_scoped(scope, work).expect("a thread");
            thread.join().expect("no panic")
        })
    }

    /// Takes 10 KiB of stack for each one, and adds them up.
    #[inline(never)]
    fn sum_of(many: u64) -> u64 {
        let lot = black_box([1u8; 10 << 10]);
        let rest = if many > 1 { sum_of(many - 1) } else { 0 };
        u64::from(black_box(&lot)[0]) + rest
    }

    /// Bug prevented: what takes 320 KiB overflows a stack of 64.
    #[test]
    fn a_thread_with_little_stack_is_lent_some_also_twice() {
        crate::unwind::prime();
        on_a_thread_with(64 << 10, || {
            let here = left().expect("its own");
            let (mut sum, mut there, mut twice) = (0, None, None);
            assert!(with_stack_enough(&mut || {
                sum = sum_of(32);
                there = left();
                assert!(on_a_lent_stack(&mut || twice = left()));
                assert_eq!(left(), there);
            }));
            assert_eq!(sum, 32);
            assert!(here < ENOUGH && there > Some(ENOUGH) && twice > Some(ENOUGH));
            let again = left().expect("its own");
            assert!(here.abs_diff(again) < 4096, "{here} {again}");
        });
    }

    /// Bug prevented: who has enough goes elsewhere all the same.
    #[test]
    fn a_thread_with_enough_stays_where_it_is() {
        crate::unwind::prime();
        on_a_thread_with(4 << 20, || {
            let (here, mut there) = (left().expect("its own"), None);
            assert!(with_stack_enough(&mut || there = left()));
            assert!(there.is_some_and(|there| here.abs_diff(there) < 64 << 10));
        });
    }

    /// Bug prevented: the work is done by a thread that has to be started, which the child of a
    /// fork waits for, for ever, if another thread was just starting; and so does a library that
    /// is being loaded.
    #[test]
    fn it_is_the_same_thread_there() {
        on_a_thread_with(64 << 10, || {
            let (here, mut there) = (std::thread::current().id(), None);
            assert!(with_stack_enough(
                &mut || there = Some(std::thread::current().id())
            ));
            assert_eq!(there, Some(here));
        });
    }

    /// Bug prevented: a handler on an alternate stack begins over the frames of whoever has come
    /// from there.
    #[test]
    fn signals_are_kept_back_meanwhile() {
        static CAME: AtomicU32 = AtomicU32::new(0);
        extern "C" fn come(_: i32) {
            CAME.fetch_add(1, Ordering::Relaxed);
        }
        let handler: extern "C" fn(i32) = come;
        // SAFETY: the handler touches an atomic; nobody else here uses this signal.
        unsafe { libc::signal(libc::SIGURG, handler as libc::sighandler_t) };
        let mut there = None;
        assert!(on_a_lent_stack(&mut || {
            // SAFETY: has a handler.
            unsafe { libc::raise(libc::SIGURG) };
            there = Some(CAME.load(Ordering::Relaxed));
        }));
        assert_eq!((there, CAME.load(Ordering::Relaxed)), (Some(0), 1));
    }

    /// Bug prevented: a panic unwinds from one stack to another.
    #[test]
    fn a_panic_there_is_told_and_goes_no_further() {
        on_a_thread_with(64 << 10, || {
            assert!(!on_a_lent_stack(&mut || panic!("a scripted panic")));
            assert!(on_a_lent_stack(&mut || {}));
        });
    }

    /// Bug prevented: whoever follows the stack from there, as a panic's message does, goes on
    /// where it is another one.
    #[test]
    fn the_stack_ends_there() {
        let mut ips = Vec::new();
        assert!(on_a_lent_stack(&mut || backtrace::trace(|frame| {
            ips.push(frame.ip().addr());
            frame.ip().addr() != 0
        })));
        let switch = (super::switch as *const ()).addr();
        let last = ips.iter().copied().rfind(|ip| *ip != 0).unwrap_or(0);
        assert!((switch..switch + 64).contains(&last), "{ips:x?} {switch:x}");
    }
}
