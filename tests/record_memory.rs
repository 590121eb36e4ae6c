//! What the recorder takes from the system, which is much less than the addresses
//! that it has: whatever the settings of the program's own memory are.

#![allow(unsafe_code, reason = "sets what C programs set for their memory")]
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "support/limits.rs"]
mod limits;
mod support;

use std::hint::black_box;
use std::process::{Command, ExitCode};

use heapledger::leaks::{self, Check};
use heapledger::{Profiler, TrackingAllocator};
use limits::limit_addresses;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    support::main(cases![
        memory_that_the_c_library_fills_is_none_of_the_recorder_s,
        what_the_recorder_may_need_is_not_locked,
        huge_pages_are_for_the_program_s_memory,
        a_program_with_few_addresses_gets_what_it_needs_beside_a_check,
        a_program_with_few_addresses_gets_what_it_needs_beside_a_profile,
        half_of_the_addresses_are_left_or_all_when_there_are_too_few,
    ])
}

const MIB: u64 = 1 << 20;

/// A figure of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.expect("a line of this name").trim_start_matches(':');
    let figure: u64 = figure
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    figure * 1024
}

/// Checks and profiles, for which the recorder asks for all that it may ever need; how much
/// more memory the process has had at once than before.
fn memory_for_recording() -> u64 {
    let before = status("VmHWM");
    assert!(leaks::check(|| drop(black_box(vec![1u8; 100]))).is_ok());
    for interval in [1, 1 << 20] {
        let profiler = Profiler::builder().sample_every(interval).start();
        drop(black_box(vec![1u8; 100]));
        drop(profiler.expect("the only one"));
    }
    status("VmHWM") - before
}

/// Bug prevented: a range of gibibytes comes from the C library, which writes to all of it
/// when the program's blocks are to be filled (`MALLOC_PERTURB_`).
fn memory_that_the_c_library_fills_is_none_of_the_recorder_s() {
    // SAFETY: sets what a new block is filled with.
    assert_eq!(unsafe { libc::mallopt(libc::M_PERTURB, 85) }, 1);
    let memory = memory_for_recording();
    assert!(memory < 64 * MIB, "{memory}");
}

/// Bug prevented: a program that locks what it is going to map, lest it waits for the disk,
/// has two gibibytes less once it checks for leaks.
fn what_the_recorder_may_need_is_not_locked() {
    // SAFETY: only this process's pages.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        println!("this user may not lock that much");
        return;
    }
    let before = status("VmLck");
    let memory = memory_for_recording();
    let locked = status("VmLck").saturating_sub(before);
    assert!(memory < 64 * MIB && locked < 64 * MIB, "{memory} {locked}");
}

/// Bug prevented: blocks that lie far apart have their records in as many huge pages, when
/// the C library is told to ask for those.
fn huge_pages_are_for_the_program_s_memory() {
    const TUNABLES: &str = "GLIBC_TUNABLES";
    if std::env::var_os(TUNABLES).is_none() {
        let program = std::env::current_exe().expect("a file");
        let mut again = Command::new(program);
        again.env(TUNABLES, "glibc.malloc.hugetlb=1");
        assert!(again.status().expect("a child").success());
        return;
    }
    let check = Check::new().start();
    let before = status("VmRSS");
    // 45 MB of addresses, which the program does not write to.
    let blocks = (0..3_000).map(|_| black_box(Vec::<u8>::with_capacity(15_000)));
    let blocks: Vec<_> = blocks.collect();
    let memory = status("VmRSS") - before;
    drop(blocks);
    assert!(check.finish().is_ok());
    assert!(memory < 96 * MIB, "{memory}");
}

// ------------------------------------------------------- addresses are few

/// What a program needs that lives well with a tenth of the addresses that it has.
fn need_a_hundred_mebibytes() {
    let mut all = Vec::with_capacity(100);
    for got in 0..100 {
        let mut mebibyte = Vec::<u8>::new();
        let refused = mebibyte.try_reserve_exact(1 << 20).is_err();
        assert!(!refused, "refused after {got} MiB");
        all.push(mebibyte);
    }
}

const FEW: u64 = 1_000_000 * 1024;

/// Bug prevented: the recorder takes the largest range that the system gives, and of the
/// addresses that a user has limited next to none are left for the program.
fn a_program_with_few_addresses_gets_what_it_needs_beside_a_check() {
    limit_addresses(FEW);
    let checked = leaks::check(need_a_hundred_mebibytes);
    assert!(checked.is_ok());
}

/// Bug prevented: the same, and what comes after it takes of the rest.
fn a_program_with_few_addresses_gets_what_it_needs_beside_a_profile() {
    limit_addresses(FEW);
    for interval in [1, 1 << 20] {
        let profiler = Profiler::builder().sample_every(interval).start();
        let profiler = profiler.expect("room for it");
        need_a_hundred_mebibytes();
        drop(profiler);
    }
}

/// Bug prevented: a start that fails keeps what it had got until then; one that does not
/// leaves the program less than it takes itself.
fn half_of_the_addresses_are_left_or_all_when_there_are_too_few() {
    const LEFT: &str = "HEAPLEDGER_TEST_LEFT";
    // A process for each, as what is open once stays so.
    let Ok(left) = std::env::var(LEFT) else {
        for left in [
            0, 2, 5, 10, 15, 20, 30, 40, 50, 70, 100, 200, 500, 1_500, 4_000,
        ] {
            let mut again = Command::new(std::env::current_exe().expect("a file"));
            let status = again.env(LEFT, left.to_string()).status();
            assert!(status.expect("a child").success(), "with {left} MiB left");
        }
        return;
    };
    let left: u64 = left.parse().expect("a number");
    let left = left * MIB;
    // What is learned of the program once.
    drop(black_box(std::backtrace::Backtrace::force_capture()));
    let before = status("VmSize");
    limit_addresses(before + left);
    let started = Profiler::builder().every_allocation().start();
    limit_addresses(libc::RLIM_INFINITY);
    let taken = status("VmSize") - before;
    println!("of {left} taken: {taken}, {:?}", started.is_ok());
    // Some of it is not the recorder's alone: the C library's heap, for one.
    let allowed = if started.is_ok() { left / 2 } else { 0 };
    assert!(taken <= allowed + MIB, "{taken} of {left}: {started:?}");
}
