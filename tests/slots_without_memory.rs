//! Threads for which the system has no memory to keep entries of their own.
//!
//! Here the process has one test, on the harness's main thread: it takes away all the
//! memory there is.

#![allow(
    unsafe_code,
    reason = "threads that have not touched the heap, limits and a full heap are C's to make"
)]

#[path = "support/limits.rs"]
mod limits;
mod support;

use std::ffi::c_void;
use std::hint::black_box;
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use heapledger::{Error, Scope, TrackingAllocator, stats, try_thread_stats};
use limits::limit_addresses;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    if !cfg!(target_os = "linux") {
        println!("left out: only of Linux is it known that a process can be kept from memory");
        return ExitCode::SUCCESS;
    }
    support::main(cases![
        a_thread_without_memory_for_its_entries_is_told_so_and_gets_them_later,
    ])
}

/// More than there are entries ready for.
const THREADS: u32 = 40;

/// Which step all threads may take now.
static STEP: AtomicU32 = AtomicU32::new(0);
/// How many have taken it.
static DONE: AtomicU32 = AtomicU32::new(0);

/// What the threads were told: that they are counted, that there is no memory, or else.
#[derive(Debug)]
struct Told([AtomicU32; 3]);

impl Told {
    const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; 3])
    }

    fn note(&self, error: Option<&Error>) {
        let [counted, no_memory, other] = &self.0;
        let what = match error {
            None => counted,
            Some(error) if error.is_no_memory() => no_memory,
            Some(_) => other,
        };
        what.fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> [u32; 3] {
        self.0.each_ref().map(|n| n.load(Ordering::Relaxed))
    }
}

static WITHOUT: Told = Told::new();
static WITH: Told = Told::new();

fn wait_for(step: u32) {
    while STEP.load(Ordering::Acquire) < step {
        // SAFETY: takes nothing.
        unsafe { libc::sched_yield() };
    }
}

fn look(told: &Told) {
    told.note(try_thread_stats().err().as_ref());
    told.note(Scope::try_enter().err().as_ref());
}

/// Touches the heap for the first time when all memory is gone.
extern "C" fn thread(_: *mut c_void) -> *mut c_void {
    wait_for(1);
    look(&WITHOUT);
    DONE.fetch_add(1, Ordering::Release);
    wait_for(2);
    drop(black_box(Box::new(black_box([1_u8; 100]))));
    look(&WITH);
    ptr::null_mut()
}

/// Takes all of the C library's memory from 64 bytes on; a list through the blocks.
fn take_all_memory() -> *mut c_void {
    let mut last = ptr::null_mut();
    for size in (6..20).rev().map(|bit| 1_usize << bit) {
        loop {
            // SAFETY: takes a number.
            let block = unsafe { libc::malloc(size) };
            if block.is_null() {
                break;
            }
            // SAFETY: it is ours, of 64 bytes or more, and aligned for a pointer.
            unsafe { block.cast::<*mut c_void>().write(last) };
            last = block;
        }
    }
    last
}

fn give_back(mut last: *mut c_void) {
    while !last.is_null() {
        // SAFETY: a block of `take_all_memory`, which has written the pointer.
        let before = unsafe { last.cast::<*mut c_void>().read() };
        // SAFETY: from `malloc`, and freed once.
        unsafe { libc::free(last) };
        last = before;
    }
}

/// Bugs prevented: the C library ends the process, as it has no memory to note that the
/// thread's entries are to be given back; and a thread that lives on is said to be ending, so
/// that nobody would try again.
fn a_thread_without_memory_for_its_entries_is_told_so_and_gets_them_later() {
    let mut threads = [0; THREADS as usize];
    for made in &mut threads {
        let id: *mut libc::pthread_t = made;
        // SAFETY: a place for the number, and a body that takes nothing.
        let failed = unsafe { libc::pthread_create(id, ptr::null(), thread, ptr::null_mut()) };
        assert_eq!(failed, 0);
    }
    let before = stats();
    limit_addresses(1);
    let memory = take_all_memory();
    STEP.store(1, Ordering::Release);
    while DONE.load(Ordering::Acquire) < THREADS {
        // SAFETY: takes nothing.
        unsafe { libc::sched_yield() };
    }
    give_back(memory);
    limit_addresses(libc::RLIM_INFINITY);
    STEP.store(2, Ordering::Release);
    for made in threads {
        // SAFETY: from above, joined once.
        let failed = unsafe { libc::pthread_join(made, ptr::null_mut()) };
        assert_eq!(failed, 0);
    }
    let change = stats().since(&before);
    assert_eq!(WITHOUT.all(), [0, 2 * THREADS, 0]);
    assert_eq!(WITH.all(), [2 * THREADS, 0, 0]);
    let all = u64::from(THREADS);
    assert_eq!((change.allocations, change.frees), (all, all));
    let bytes = (change.allocated_bytes, change.freed_bytes);
    assert_eq!(bytes, (100 * all, 100 * all));
}
