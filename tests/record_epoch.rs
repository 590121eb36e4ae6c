//! A process that forks while another library restarts its threads in the child.
#![cfg(all(unix, feature = "profile"))]
#![allow(unsafe_code, reason = "forks, and starts a thread as C would")]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::yield_now;

use heapledger::__private::record::{Record, Table};

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

static TABLE: Table = Table::new();
/// Whether the other thread of the child has used the table.
static KNOWN: AtomicBool = AtomicBool::new(false);
static GO: AtomicBool = AtomicBool::new(false);
/// One more than what the other thread has lost, when it is done.
static DONE: AtomicU32 = AtomicU32::new(0);

/// Enters and takes out, in one shard; how much was lost.
fn work(at: usize) -> u32 {
    let mut lost = 0;
    for _ in 0..300 {
        for n in 0..300 {
            lost += u32::from(!TABLE.insert(at + n * 16, &Record::default()));
        }
        for n in 0..300 {
            lost += u32::from(TABLE.remove(at + n * 16).is_none());
        }
    }
    lost
}

extern "C" fn other(_: *mut libc::c_void) -> *mut libc::c_void {
    TABLE.insert(0x7f00_0000_0008, &Record::default());
    TABLE.remove(0x7f00_0000_0008);
    KNOWN.store(true, Ordering::SeqCst);
    while !GO.load(Ordering::SeqCst) {
        yield_now();
    }
    DONE.store(work(0x7f00_0001_0000) + 1, Ordering::SeqCst);
    core::ptr::null_mut()
}

/// Starts the library's thread again.
extern "C" fn restart() {
    let mut thread = core::mem::MaybeUninit::uninit();
    // SAFETY: `other` takes no argument, and lives as long as the program.
    unsafe {
        libc::pthread_create(
            thread.as_mut_ptr(),
            core::ptr::null(),
            other,
            core::ptr::null_mut(),
        );
    }
    while !KNOWN.load(Ordering::SeqCst) {
        yield_now();
    }
}

/// Bug prevented: a thread that was started before our own handler ran in the child
/// keeps the parent's epoch, and its locks are taken away from it.
#[test]
fn a_thread_that_another_handler_starts_in_the_child_is_of_the_child() {
    // SAFETY: first, so that it runs before ours.
    unsafe { libc::pthread_atfork(None, None, Some(restart)) };
    assert!(TABLE.open(1) > 0);
    // SAFETY: the child allocates nothing, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: a watchdog for this child.
        unsafe { libc::alarm(60) };
        GO.store(true, Ordering::SeqCst);
        let lost = work(0x7f00_0000_0000);
        while DONE.load(Ordering::SeqCst) == 0 {
            yield_now();
        }
        let is_right = lost == 0
            && DONE.load(Ordering::SeqCst) == 1
            && TABLE.is_empty()
            && TABLE.losses() == heapledger::__private::record::TableLosses::default();
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(i32::from(!is_right)) };
    }
    let mut status = 0;
    // SAFETY: `status` is a place for the answer; the child is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
}
