//! The recorder's table while a signal handler comes in between, at any instruction: it
//! changes the same shard, and forks.
#![cfg(all(target_os = "linux", feature = "profile"))]
#![allow(unsafe_code, reason = "has a timer send signals, and forks, as C does")]

#[path = "support/signal.rs"]
mod signal;
mod support;

use std::process::ExitCode;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use heapledger::__private::record::{Record, Table};

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

static TABLE: Table = Table::new();
/// All in one region, so in one shard, behind one lock.
const REGION: usize = 0x7f00_0000_0000;
const KNOWN: usize = 500;
/// How far from there the handler has its blocks.
const APART: usize = 65_536;

fn main() -> ExitCode {
    support::main(cases![
        a_handler_in_the_middle_of_a_change_finds_the_lock_held,
        a_child_that_a_handler_forks_goes_on,
    ])
}

fn record(n: usize) -> Record {
    Record {
        node: 7,
        size: n as u64,
        birth: 1,
        recording: 1,
        ..Record::default()
    }
}

/// Where the main thread is at work, and in its shard the handler.
static PLACE: AtomicUsize = AtomicUsize::new(REGION);
/// The addresses that the handler has put in and not taken out.
static PUT: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
static CALLS: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicU32 = AtomicU32::new(0);
/// How far behind the handler takes out what it has put in.
const BEHIND: usize = 8;

fn refused() -> u64 {
    let losses = TABLE.losses();
    losses.busy + losses.missed
}

/// Leaves the shard other than it was: one record comes, and an older one goes.
extern "C" fn come_and_go(_signal: i32) {
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let place = &PUT[call % PUT.len()];
    let address = PLACE.load(Ordering::Relaxed) + APART + call % PUT.len() * 16;
    if place.load(Ordering::Relaxed) == 0 && TABLE.insert(address, &record(call)) {
        place.store(address, Ordering::Relaxed);
    }
    let place = &PUT[call.wrapping_sub(BEHIND) % PUT.len()];
    let address = place.load(Ordering::Relaxed);
    if address != 0 {
        let before = refused();
        match TABLE.remove(address) {
            Some(found) => {
                place.store(0, Ordering::Relaxed);
                WRONG.fetch_add(u32::from(found.node != 7), Ordering::Relaxed);
            }
            None => drop(WRONG.fetch_add(u32::from(refused() == before), Ordering::Relaxed)),
        }
    }
}

/// Has the handler called once, so many microseconds from now.
fn call_the_handler_in(microseconds: usize) {
    let timer = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        },
        it_value: libc::timeval {
            tv_sec: 0,
            tv_usec: microseconds.try_into().expect("below a second"),
        },
    };
    // SAFETY: nothing but a timer is changed; its signal has a handler.
    let failed = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut()) };
    assert_eq!(failed, 0);
}

/// Bug prevented: a handler takes a lock that the thread it has interrupted holds, as
/// that had not been written yet, and both change the same records.
fn a_handler_in_the_middle_of_a_change_finds_the_lock_held() {
    assert!(TABLE.open(1) > 0);
    signal::handle(libc::SIGALRM, come_and_go, libc::SA_RESTART);
    let mut turns = 0;
    // A thread is refused nothing by a handler, which has let go of all locks when it goes on.
    while turns < 300 || TABLE.losses().busy < 200 && turns < 200_000 {
        turns += 1;
        // Elsewhere each time, so that shards grow under fire.
        let start = REGION + turns % (1 << 16) * (1 << 20);
        PLACE.store(start, Ordering::Relaxed);
        for n in 0..KNOWN {
            if n % 64 == 0 {
                call_the_handler_in(5 + (turns * 7 + n) % 50);
            }
            assert!(TABLE.insert(start + n * 16, &record(n)));
        }
        // In another order.
        for n in (0..KNOWN).map(|n| n * 7 % KNOWN) {
            assert_eq!(TABLE.remove(start + n * 16), Some(record(n)));
        }
    }
    call_the_handler_in(0);
    let losses = TABLE.losses();
    let put = PUT
        .iter()
        .filter(|place| place.load(Ordering::Relaxed) != 0);
    println!(
        "{turns} turns, {} calls, {losses:?}",
        CALLS.load(Ordering::Relaxed)
    );
    assert_eq!(WRONG.load(Ordering::Relaxed), 0);
    assert_eq!(TABLE.len(), put.count() as u64);
    assert_eq!(losses.replaced, 0);
    // Else nothing was tested.
    assert!(losses.busy > 0);
}

/// What the child of a handler says when it ends; 0 in the parent.
static IS_CHILD: AtomicU32 = AtomicU32::new(0);

extern "C" fn fork_in_the_handler(_signal: i32) {
    // SAFETY: the child has this thread, and goes on with what it was at.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        IS_CHILD.store(1, Ordering::Relaxed);
        // SAFETY: the default takes no handler's place but our own.
        unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
        // SAFETY: a watchdog for this child: nothing but a timer is changed.
        unsafe { libc::alarm(60) };
    }
    CALLS.fetch_add(1, Ordering::Relaxed);
    come_and_go(0);
}

/// Bug prevented: the child does not know its own thread again, takes over a lock that
/// this holds, and breaks what the lock guards.
fn a_child_that_a_handler_forks_goes_on() {
    assert!(TABLE.open(1) > 0);
    signal::handle(libc::SIGALRM, fork_in_the_handler, libc::SA_RESTART);
    for turn in 0..100 {
        PLACE.store(REGION, Ordering::Relaxed);
        let calls = CALLS.load(Ordering::Relaxed);
        call_the_handler_in(5 + turn % 40);
        while CALLS.load(Ordering::Relaxed) == calls {
            for n in 0..KNOWN {
                assert!(TABLE.insert(REGION + n * 16, &record(n)));
            }
            for n in 0..KNOWN {
                assert_eq!(TABLE.remove(REGION + n * 16), Some(record(n)));
            }
        }
        if IS_CHILD.load(Ordering::Relaxed) == 1 {
            assert_eq!(TABLE.losses().inherited, 0);
            assert_eq!(WRONG.load(Ordering::Relaxed), 0);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(17) };
        }
        let mut status = 0;
        // SAFETY: `status` is a place for the answer.
        let child = unsafe { libc::wait(&raw mut status) };
        assert!(child > 0 && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 17);
    }
}
