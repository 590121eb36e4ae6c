//! Many threads: short ones one after the other, frees on other threads,
//! readers beside writers. Each case is a process of its own, so that the
//! figures of the whole process can be exact.

#![allow(
    unsafe_code,
    reason = "makes threads the way C does, with nothing of std's around them"
)]

mod support;

use std::ffi::c_void;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use heapledger::{Stats, TrackingAllocator, stats};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        ten_thousand_short_threads_leave_exact_totals_in_as_many_slots_as_lived_at_once,
        threads_that_come_and_go_at_random_never_need_more_slots_than_threads,
        four_producers_and_four_consumers_balance_exactly,
        readers_beside_eight_writers_never_see_live_underflow_or_a_total_fall,
    ])
}

/// One block of so many bytes.
fn block(bytes: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(bytes))
}

fn slots() -> usize {
    heapledger::__private::slots_ever_owned()
}

/// A thread made by C, so that nothing is allocated for it but what its body
/// allocates: what std takes for a thread depends on how many there are.
fn spawn_bare(i: usize) -> libc::pthread_t {
    extern "C" fn body(argument: *mut c_void) -> *mut c_void {
        let i = argument.addr();
        drop(block(1_000 + i));
        Box::into_raw(Box::new(block(100 + i))).cast()
    }
    let mut thread: libc::pthread_t = 0;
    // SAFETY: both pointers are valid for the call; the body takes its argument as a number.
    let made = unsafe {
        libc::pthread_create(
            &raw mut thread,
            std::ptr::null(),
            body,
            std::ptr::without_provenance_mut(i),
        )
    };
    assert_eq!(made, 0);
    thread
}

/// Waits for the thread's very end, and frees here what it has made there.
fn join_bare(thread: libc::pthread_t) {
    let mut kept = std::ptr::null_mut();
    // SAFETY: made by `spawn_bare`, joined once; the pointer is valid for the call.
    let joined = unsafe { libc::pthread_join(thread, &raw mut kept) };
    assert_eq!(joined, 0);
    // SAFETY: the body's `Box`, given up there and taken back once.
    drop(unsafe { Box::from_raw(kept.cast::<Vec<u8>>()) });
}

/// Bugs prevented: a thread table with a fixed end; one block leaked for each
/// thread that ever was; totals that lose what ended threads have counted.
fn ten_thousand_short_threads_leave_exact_totals_in_as_many_slots_as_lived_at_once() {
    const WAVES: usize = 250;
    const WIDE: usize = 40;
    let mut waiting = Vec::with_capacity(WIDE);
    let before = stats();
    for wave in 0..WAVES {
        waiting.extend((0..WIDE).map(|i| spawn_bare(wave * WIDE + i)));
        waiting.drain(..).for_each(join_bare);
    }
    let after = stats();
    let change = after.since(&before);
    let threads = (WAVES * WIDE) as u64;
    assert_eq!(threads, 10_000);
    // Two vectors and the box of one.
    let bytes: u64 = (0..threads).map(|i| 1_000 + i + 100 + i + 24).sum();
    assert_eq!(
        (change.allocations, change.allocated_bytes),
        (3 * threads, bytes)
    );
    assert_eq!((change.frees, change.freed_bytes), (3 * threads, bytes));
    assert_eq!((change.reallocations, change.failures), (0, 0));
    assert_eq!(
        (after.live_bytes, after.live_blocks),
        (before.live_bytes, before.live_blocks)
    );
    assert!(
        (2..=WIDE + 1).contains(&slots()),
        "{} slots for {WIDE} threads beside the main one",
        slots()
    );
}

/// Bug prevented: a claim that races with a release takes a fresh slot although
/// one is free, and the table grows for as long as the program runs.
fn threads_that_come_and_go_at_random_never_need_more_slots_than_threads() {
    const KEEPERS: usize = 8;
    let before = stats();
    let keepers: Vec<_> = (0..KEEPERS)
        .map(|keeper| {
            thread::spawn(move || {
                for round in 0..500 {
                    let thread = thread::spawn(move || {
                        for _ in 0..(round + keeper) % 7 {
                            drop(block(64));
                            thread::yield_now();
                        }
                    });
                    thread.join().expect("thread");
                }
            })
        })
        .collect();
    for keeper in keepers {
        keeper.join().expect("thread");
    }
    let change = stats().since(&before);
    assert_eq!((change.live_bytes, change.live_blocks), (0, 0));
    // Each keeper has one thread at most beside it, and then there is the main thread.
    assert!(slots() <= 2 * KEEPERS + 1, "{} slots", slots());
}

/// Bug prevented: a free on another thread counted on one side only, or on
/// neither.
fn four_producers_and_four_consumers_balance_exactly() {
    const EACH: usize = 20_000;
    let size = |i: usize| 1 + i % 3_000;
    let round = || {
        let mut threads = Vec::with_capacity(8);
        for _ in 0..4 {
            let (send, receive) = mpsc::sync_channel::<Vec<u8>>(100);
            threads.push(thread::spawn(move || {
                let mine = heapledger::thread_stats();
                for i in 0..EACH {
                    send.send(block(size(i))).expect("a consumer");
                }
                let mine = heapledger::thread_stats().since(&mine);
                assert!(mine.allocations >= EACH as u64);
            }));
            threads.push(thread::spawn(move || {
                let mine = heapledger::thread_stats();
                for block in receive {
                    drop(block);
                }
                // More freed than allocated, which is no underflow but a net below zero.
                let mine = heapledger::thread_stats().since(&mine);
                assert!(mine.frees >= EACH as u64);
            }));
        }
        for thread in threads {
            thread.join().expect("thread");
        }
    };
    round();
    let before = stats();
    round();
    let after = stats();
    let change = after.since(&before);
    let bytes = 4 * (0..EACH).map(size).sum::<usize>() as u64;
    assert_eq!((change.live_bytes, change.live_blocks), (0, 0));
    assert_eq!(change.frees, change.allocations);
    assert_eq!(change.freed_bytes, change.allocated_bytes);
    // What is over is the channels' and the threads' own.
    let over = change.allocations - 4 * EACH as u64;
    assert!(over < 2_000, "{over} blocks over");
    assert!(change.allocated_bytes - bytes < 500_000);
    let sure = after.peak_bytes.saturating_sub(after.peak_error_bytes);
    assert!(sure <= before.live_bytes + 9 * 100 * 3_000);
}

/// What must hold between two readings, whoever is writing.
fn check(last: &Stats, now: &Stats, most_bytes: u64, most_blocks: u64) -> Result<(), &'static str> {
    let rules = [
        (now.live_bytes <= most_bytes, "more bytes than can be alive"),
        (
            now.live_blocks <= most_blocks,
            "more blocks than can be alive",
        ),
        (
            now.live_bytes == now.allocated_bytes.wrapping_sub(now.freed_bytes),
            "live bytes are not the difference",
        ),
        (
            now.live_blocks == now.allocations.wrapping_sub(now.frees),
            "live blocks are not the difference",
        ),
        (now.peak_bytes >= now.live_bytes, "the peak is below live"),
        (
            now.peak_bytes.saturating_sub(now.peak_error_bytes) <= most_bytes,
            "a peak that cannot have been, and an error that denies it",
        ),
        (
            now.allocated_bytes >= last.allocated_bytes,
            "allocated bytes fall",
        ),
        (now.freed_bytes >= last.freed_bytes, "freed bytes fall"),
        (now.allocations >= last.allocations, "allocations fall"),
        (now.frees >= last.frees, "frees fall"),
        (
            now.reallocations >= last.reallocations,
            "reallocations fall",
        ),
    ];
    rules
        .iter()
        .find(|(holds, _)| !holds)
        .map_or(Ok(()), |(_, what)| Err(what))
}

/// Bugs prevented: reading what is allocated before what is freed, so that
/// `live` is below zero for a moment, and shown as 18 exabytes; a reader that
/// is preempted in the middle takes for alive what was freed meanwhile, and
/// raises the peak to it for ever.
fn readers_beside_eight_writers_never_see_live_underflow_or_a_total_fall() {
    const HELD: usize = 16;
    const LARGEST: usize = 50_000;
    let stop = AtomicBool::new(false);
    let before = stats();
    // Each writer holds so much, hands as much on, and has as much in its hands; and the harness
    // of threads and channels needs its own.
    let most_blocks = before.live_blocks + 8 * (3 * HELD as u64) + 2_000;
    let most_bytes = before.live_bytes + 8 * (3 * HELD * LARGEST) as u64 + 1_000_000;
    let mut wrong = None;
    thread::scope(|threads| {
        // A ring: each frees what the one before it has allocated, so strikes and entries of a
        // block are in different slots.
        let (mut sends, mut receives): (Vec<_>, Vec<_>) =
            (0..8).map(|_| mpsc::sync_channel::<Vec<u8>>(HELD)).unzip();
        receives.rotate_left(1);
        for i in 0..8 {
            let (send, receive) = (sends.remove(0), receives.remove(0));
            let stop = &stop;
            threads.spawn(move || {
                let mut size = 1 + i;
                while !stop.load(Ordering::Relaxed) {
                    size = (size * 7 + 11) % LARGEST;
                    let mut fresh = block(size + 1);
                    if size % 5 == 0 {
                        fresh.reserve_exact(size + 2);
                    }
                    // Never waiting in either direction, so that the ring cannot lock up.
                    drop(send.try_send(fresh));
                    while let Ok(old) = receive.try_recv() {
                        drop(old);
                    }
                }
            });
        }
        // Threads that end meanwhile, so that slots change hands while they are read.
        let stopped = &stop;
        threads.spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::spawn(|| drop(block(500))).join().expect("thread");
            }
        });
        let mut last = before;
        for reading in 0..200_000 {
            let now = stats();
            if let Err(what) = check(&last, &now, most_bytes, most_blocks) {
                wrong = Some((reading, what, last, now));
                break;
            }
            last = now;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(wrong.is_none(), "{wrong:#?}");
    // A scope's threads may still be ending; when they have, all is back where it was.
    while stats().live_blocks != before.live_blocks {
        thread::yield_now();
    }
    let after = stats();
    assert!(after.allocations > before.allocations + 10_000);
    assert_eq!(
        after.frees - before.frees,
        after.allocations - before.allocations
    );
    assert_eq!(after.live_bytes, before.live_bytes);
}
