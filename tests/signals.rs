//! Signals whose handler allocates, as bad programs do: what is lost may be
//! the handler's own counts, never the thread's.
//!
//! The handler counts through a `TrackingAllocator` of its own over an arena,
//! because no allocator of the system may be entered twice; the ledger is the
//! same one.

#![allow(
    unsafe_code,
    reason = "installs handlers and timers, and calls an allocator by hand"
)]

#[path = "support/signal.rs"]
mod signal;
mod support;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::hint::{black_box, spin_loop};
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use heapledger::{StatsDelta, TrackingAllocator, stats, thread_stats};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        a_thread_loses_none_of_its_counts_to_a_handler_that_allocates,
        live_stays_in_range_for_readers_beside_such_a_thread,
        a_handler_may_be_the_first_on_its_thread_to_allocate,
        a_handler_that_comes_between_a_claim_does_not_cost_a_slot,
    ])
}

/// An arena that gives out its memory in turns and never takes any back: safe
/// in a handler, whatever it has interrupted. Nobody writes into its blocks.
struct Turns {
    memory: UnsafeCell<[u64; 8_192]>,
    next: AtomicUsize,
}

// SAFETY: the memory is only ever handed out as pointers, and nothing here reads or writes it.
unsafe impl Sync for Turns {}

// SAFETY: a block lies within the memory, aligned to 8, which is the most that is given;
// it may be given out again while it is in use, which is no harm where no one writes.
unsafe impl GlobalAlloc for Turns {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > 4_096 || layout.align() > 8 {
            return ptr::null_mut();
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % 8;
        // SAFETY: eight turns of 4 KiB fit the 64 KiB.
        unsafe { self.memory.get().cast::<u8>().add(turn * 4_096) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    unsafe fn realloc(&self, block: *mut u8, _: Layout, size: usize) -> *mut u8 {
        if size > 4_096 { ptr::null_mut() } else { block }
    }
}

static SIDE: TrackingAllocator<Turns> = TrackingAllocator::over(Turns {
    memory: UnsafeCell::new([0; 8_192]),
    next: AtomicUsize::new(0),
});

/// How often the handler came to its end.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// What one run of the handler enters: blocks, bytes in and out, resizes.
const BLOCKS: u64 = 3;
const BYTES: u64 = 100 + 3_000 + 50;
const RESIZES: u64 = 1;

extern "C" fn handler(_: c_int) {
    let layouts = [100, 1_000, 50].map(|size| Layout::from_size_align(size, 8));
    let [Ok(first), Ok(second), Ok(third)] = layouts else {
        return;
    };
    // SAFETY: none of the layouts is empty.
    let blocks = [first, second, third].map(|layout| unsafe { SIDE.alloc(layout) });
    // SAFETY: made with this layout; 3,000 is not zero and small.
    let grown = unsafe { SIDE.realloc(blocks[1], second, 3_000) };
    let Ok(large) = Layout::from_size_align(3_000, 8) else {
        return;
    };
    // SAFETY: each from `SIDE` with this layout, and used no more.
    unsafe { SIDE.dealloc(blocks[0], first) };
    // SAFETY: as above, resized to this layout.
    unsafe { SIDE.dealloc(grown, large) };
    // SAFETY: as above.
    unsafe { SIDE.dealloc(blocks[2], third) };
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

fn handled() -> u64 {
    HANDLED.load(Ordering::SeqCst)
}

/// A timer that raises SIGALRM every 100 µs until it is dropped.
struct Timer;

impl Timer {
    fn start() -> Self {
        signal::handle(libc::SIGALRM, handler, libc::SA_RESTART);
        Self::set(100);
        Self
    }

    fn set(micros: libc::suseconds_t) {
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: micros,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: the timer is valid for the call; the old one is not wanted.
        let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
        assert_eq!(set, 0);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        Self::set(0);
    }
}

/// Keeps SIGALRM off the calling thread and those it makes from now on.
fn block_alarm(how: c_int) {
    // SAFETY: zero bytes are a valid set, which `sigemptyset` makes empty below all the same.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid for the call.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGALRM) };
    // SAFETY: the set is valid; the old mask is not wanted.
    let done = unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
    assert_eq!(done, 0);
}

/// What a thread did itself.
#[derive(Debug, Default)]
struct Own {
    blocks: u64,
    bytes_in: u64,
    bytes_out: u64,
    resizes: u64,
}

impl Own {
    /// A few operations of every kind, some of them past a batch.
    fn work(&mut self) {
        for size in [1, 40, 700, 9_000, 70_000] {
            let mut list: Vec<u8> = black_box(Vec::with_capacity(size));
            list.reserve_exact(size * 2);
            list.push(1);
            list.shrink_to(size);
            drop(black_box(list));
            self.blocks += 1;
            self.bytes_in += 2 * size as u64;
            self.bytes_out += 2 * size as u64;
            self.resizes += 2;
        }
    }

    /// Nothing of this is lost, and nothing but the handler's is over.
    fn check(&self, change: &StatsDelta, handled: u64) {
        let table = [
            ("allocations", change.allocations, self.blocks, BLOCKS),
            ("frees", change.frees, self.blocks, BLOCKS),
            ("bytes in", change.allocated_bytes, self.bytes_in, BYTES),
            ("bytes out", change.freed_bytes, self.bytes_out, BYTES),
            ("resizes", change.reallocations, self.resizes, RESIZES),
        ];
        for (what, counted, own, each) in table {
            assert!(counted >= own, "{what}: {counted} of {own} are left");
            assert!(
                counted <= own + handled * each,
                "{what}: {counted}, but {own} and {handled} times {each}"
            );
        }
    }
}

/// Bug prevented: entries in two steps where a handler's third comes between
/// and the thread's own is the one that is lost.
fn a_thread_loses_none_of_its_counts_to_a_handler_that_allocates() {
    let mut own = Own::default();
    own.work();
    own = Own::default();
    let before = thread_stats();
    let timer = Timer::start();
    while handled() < 2_000 || own.blocks < 500_000 {
        own.work();
    }
    drop(timer);
    let change = thread_stats().since(&before);
    own.check(&change, handled());
    // Most handlers come where they disturb nothing: they are counted.
    assert!(change.allocations > own.blocks + handled());
    // The drift is no more than what the handlers had.
    assert!(change.live_bytes.unsigned_abs() <= handled() * BYTES);
    let now = stats();
    assert!(now.live_bytes < 100_000_000 && now.live_blocks < 1_000_000);
}

fn live_stays_in_range_for_readers_beside_such_a_thread() {
    let kept: Vec<Vec<u8>> = (0..100)
        .map(|_| black_box(Vec::with_capacity(1_000)))
        .collect();
    block_alarm(libc::SIG_BLOCK);
    let stop = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            block_alarm(libc::SIG_UNBLOCK);
            let mut own = Own::default();
            while !stop.load(Ordering::Relaxed) {
                own.work();
            }
            block_alarm(libc::SIG_BLOCK);
        });
        let timer = Timer::start();
        let mut wrong = None;
        let mut last = stats();
        while handled() < 2_000 && wrong.is_none() {
            let now = stats();
            // What can be alive, and what handlers may have made it drift by.
            let most = 100_000_000;
            let holds = now.live_bytes < most
                && now.live_blocks < 1_000_000
                && now.peak_bytes < most
                && now.peak_bytes >= now.live_bytes
                // A count may be taken back by what a handler lost of it, and by no more.
                && now.allocations + BLOCKS >= last.allocations
                && now.frees + BLOCKS >= last.frees;
            if !holds {
                wrong = Some((last, now));
            }
            last = now;
        }
        drop(timer);
        stop.store(true, Ordering::Relaxed);
        assert!(wrong.is_none(), "{wrong:#?}");
    });
    drop(kept);
}

/// Bug prevented: claiming a slot on a thread whose first entry comes from a
/// handler, where nothing of the thread is there yet.
fn a_handler_may_be_the_first_on_its_thread_to_allocate() {
    extern "C" fn waits(arrived: *mut c_void) -> *mut c_void {
        // SAFETY: the argument is the flag of the test below, which outlives the thread.
        let arrived = unsafe { &*arrived.cast::<AtomicBool>() };
        let seen = handled();
        arrived.store(true, Ordering::SeqCst);
        while handled() == seen {
            spin_loop();
        }
        Own::default().work();
        ptr::null_mut()
    }
    signal::handle(libc::SIGUSR1, handler, libc::SA_RESTART);
    let before = stats();
    for _ in 0..500 {
        let mut arrived = AtomicBool::new(false);
        let mut thread: libc::pthread_t = 0;
        let argument = (&raw mut arrived).cast();
        // SAFETY: the pointers are valid, the flag until the thread is joined below.
        let made = unsafe { libc::pthread_create(&raw mut thread, ptr::null(), waits, argument) };
        assert_eq!(made, 0);
        while !arrived.load(Ordering::SeqCst) {
            spin_loop();
        }
        // SAFETY: the thread runs until it has handled this.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
        // SAFETY: made above, joined once.
        assert_eq!(unsafe { libc::pthread_join(thread, ptr::null_mut()) }, 0);
    }
    let mut own = Own::default();
    (0..500).for_each(|_| own.work());
    let change = stats().since(&before);
    // The handlers came where nothing was being entered: all is exact.
    assert_eq!((change.live_bytes, change.live_blocks), (0, 0));
    assert_eq!(change.allocations, 2 * own.blocks + 500 * BLOCKS);
    assert_eq!(change.allocated_bytes, 2 * own.bytes_in + 500 * BYTES);
    assert_eq!(change.reallocations, 2 * own.resizes + 500 * RESIZES);
    assert_eq!(heapledger::__private::slots_ever_owned(), 2);
}

/// Bug prevented: a handler that allocates between the look at the thread's
/// slot and its claim claims one too, and one of them is never given back.
///
/// The thread's own first entry goes through the arena as well: a handler that
/// is the first on its thread to count while it interrupts the system's
/// `malloc` enters that again, by way of registering our destructor, and may
/// wait there for ever. That is a limit of the platform, not tested here.
fn a_handler_that_comes_between_a_claim_does_not_cost_a_slot() {
    extern "C" fn begins(turns: *mut c_void) -> *mut c_void {
        block_alarm(libc::SIG_UNBLOCK);
        // So that the alarm comes anywhere, and now and then in the few instructions in question.
        (0..turns.addr()).for_each(|_| spin_loop());
        let layout = Layout::new::<[u64; 4]>();
        // SAFETY: the layout is not empty.
        let block = unsafe { SIDE.alloc(layout) };
        // SAFETY: just made, with this layout.
        unsafe { SIDE.dealloc(block, layout) };
        block_alarm(libc::SIG_BLOCK);
        ptr::null_mut()
    }
    const THREADS: usize = 20_000;
    block_alarm(libc::SIG_BLOCK);
    let before = stats();
    let timer = Timer::start();
    for i in 0..THREADS {
        let mut thread: libc::pthread_t = 0;
        let turns = ptr::without_provenance_mut(i * 7 % 2_000);
        // SAFETY: the pointers are valid for the call; the body takes its argument as a number.
        let made = unsafe { libc::pthread_create(&raw mut thread, ptr::null(), begins, turns) };
        assert_eq!(made, 0);
        // SAFETY: just made, joined once.
        assert_eq!(unsafe { libc::pthread_join(thread, ptr::null_mut()) }, 0);
    }
    drop(timer);
    let change = stats().since(&before);
    let own = Own {
        blocks: THREADS as u64,
        bytes_in: 32 * THREADS as u64,
        bytes_out: 32 * THREADS as u64,
        resizes: 0,
    };
    own.check(&change, handled());
    assert!(handled() > 1_000);
    assert_eq!(heapledger::__private::slots_ever_owned(), 2);
}
