//! Leak checks where the ground shakes: threads that unwind, libraries that
//! come and go, forks, stacks too deep and too small, signals, no memory.
#![allow(
    unsafe_code,
    reason = "forks, raises signals, loads libraries and limits memory, as C does"
)]

#[path = "support/hostile.rs"]
mod hostile;
#[path = "support/limits.rs"]
mod limits;
#[path = "support/signal.rs"]
mod signal;
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::mem::forget;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use heapledger::__private::unwind::{Method, prime};
use heapledger::leaks::{self, Check, Incomplete, LeakReport};
use heapledger::{Profiler, ScopeHandle, TrackingAllocator};
use hostile::{run_on_a_stack_of, unwind, with_another_stack};
use limits::limit_addresses;

#[global_allocator]
static HEAP: TrackingAllocator<Reserve> = TrackingAllocator::over(Reserve);

/// The system's allocator; when the case says so, a range that was put aside
/// before, so that the program has memory when the recorder has none.
struct Reserve;

const RESERVED: usize = 32 << 20;
static RESERVE: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static USED: AtomicUsize = AtomicUsize::new(0);
static IS_OPEN: AtomicBool = AtomicBool::new(false);

impl Reserve {
    fn owns(block: *mut u8) -> bool {
        let start = RESERVE.load(Ordering::Relaxed).addr();
        start != 0 && (start..start + RESERVED).contains(&block.addr())
    }
}

// SAFETY: blocks come from `System`, or are disjoint parts of a range that is never freed, aligned
// to 16 and used for no larger alignment; each goes back where it came from.
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_OPEN.load(Ordering::Relaxed) && layout.align() <= 16 {
            let size = layout.size().next_multiple_of(16);
            let at = USED.fetch_add(size, Ordering::Relaxed);
            if at + size <= RESERVED {
                // SAFETY: within the range.
                return unsafe { RESERVE.load(Ordering::Relaxed).add(at) };
            }
        }
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !Self::owns(block) {
            // SAFETY: not ours, so the system's; passed on.
            unsafe { System.dealloc(block, layout) };
        }
    }
}

fn main() -> ExitCode {
    support::main(cases![
        a_stack_that_was_let_grow_while_the_program_ran_is_known_to_its_depth,
        checks_are_right_while_threads_unwind_and_libraries_come_and_go,
        a_forked_child_can_check_whatever_the_other_threads_were_doing,
        a_child_that_was_forked_during_the_first_checks_of_all_can_check,
        a_leak_a_hundred_thousand_calls_deep_is_counted,
        threads_with_the_smallest_stacks_are_recorded,
        a_signal_handler_on_a_stack_of_its_own_may_leak,
        the_first_check_of_all_may_be_on_a_stack_of_its_own,
        a_signal_handler_on_the_thread_s_stack_may_leak,
        with_no_memory_left_the_check_says_so,
        with_little_memory_left_nothing_is_left_out_in_silence,
        with_room_for_some_the_report_says_that_it_is_incomplete,
        with_a_gibibyte_of_addresses_all_is_recorded,
        what_one_check_could_not_record_does_not_fail_another,
        checks_inside_more_than_32_others_are_incomplete_and_never_pass,
        a_thread_may_enter_one_check_as_often_as_it_likes,
        of_more_guards_than_can_be_counted_the_last_one_still_counts,
        a_carried_check_that_a_thread_cannot_enter_is_incomplete,
        an_ending_thread_cannot_start_a_check_and_is_told_so => "an ending thread was told",
    ])
}

fn block(size: usize) -> Vec<u8> {
    black_box(vec![1; size])
}

#[track_caller]
fn quiet<R>(checked: Result<R, LeakReport>) -> R {
    match checked {
        Ok(result) => result,
        Err(report) => panic!("a false alarm: {report}"),
    }
}

#[track_caller]
fn found<R>(checked: Result<R, LeakReport>) -> LeakReport {
    match checked {
        Ok(_) => panic!("the leak was not found"),
        Err(report) => report,
    }
}

fn figures(report: &LeakReport) -> (u64, u64) {
    (report.blocks(), report.bytes())
}

// ------------------------------------------------- unwinding, dlopen, dlclose

const TIMES: usize = 10_000;

fn panic_often(check: &ScopeHandle) {
    let _inside = check.enter();
    for i in 0..TIMES {
        assert!(catch_unwind(|| unwind(i % 7)).is_err());
    }
}

fn load_often(check: &ScopeHandle) {
    let _inside = check.enter();
    for _ in 0..TIMES {
        // SAFETY: the C library's mathematics has no initialiser that could be misused.
        let library = unsafe { libloading::Library::new("libm.so.6") }.expect("a library");
        {
            // SAFETY: the function has had this type since there is C.
            let cosine = unsafe { library.get::<unsafe extern "C" fn(f64) -> f64>(b"cos") };
            // SAFETY: it takes any number; the library is open.
            let one = unsafe { cosine.expect("cos")(0.0) };
            assert_eq!(one.to_bits(), 1.0f64.to_bits());
        }
        library.close().expect("closed");
    }
}

/// Bug prevented: a deadlock between the loader's lock and one that is held
/// while a stack is walked; a walk by tables that were just unmapped.
fn checks_are_right_while_threads_unwind_and_libraries_come_and_go() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some("as planned") {
            show(info);
        }
    }));
    // What is made once: by a panic, by the loader, by libloading for its errors.
    drop(catch_unwind(|| unwind(2)));
    let busy = AtomicU64::new(2);
    let mut checks = 0u64;
    thread::scope(|threads| {
        let outer = Check::new().start();
        let check = leaks::carry();
        let work: [fn(&ScopeHandle); 2] = [panic_often, load_often];
        for work in work {
            let (check, busy) = (check.clone(), &busy);
            threads.spawn(move || {
                work(&check);
                busy.fetch_sub(1, Ordering::Release);
            });
        }
        while busy.load(Ordering::Acquire) > 0 || checks < 10 {
            checks += 1;
            quiet(leaks::check(|| {
                drop((block(10), vec![block(20), block(30)]));
            }));
            if checks % 100 == 1 {
                assert_eq!(figures(&found(leaks::check(|| forget(block(50))))), (1, 50));
            }
        }
        let report = found(outer.finish());
        let planted = checks.div_ceil(100);
        let mine: u64 = report
            .sites
            .iter()
            .filter(|site| site.bytes == 50 * site.blocks)
            .map(|site| site.blocks)
            .sum();
        assert_eq!(mine, planted, "{report}");
        assert_eq!(report.incomplete.blocks, 0, "{report}");
    });
    println!("{checks} checks");
}

// ------------------------------------------------------------------------ fork

/// How many children a case forks, unless `HEAPLEDGER_TEST_FORKS` says otherwise.
fn forks(usual: usize) -> usize {
    let asked = std::env::var("HEAPLEDGER_TEST_FORKS").ok();
    asked.map_or(usual, |text| text.parse().expect("a number of forks"))
}

/// Forks; the child runs `body` and ends, well if `body` did not panic.
fn fork_to(body: fn()) -> Result<libc::pid_t, String> {
    // SAFETY: the child runs our code and the C library's, which makes its own locks free again
    // in the child.
    match unsafe { libc::fork() } {
        0 => {
            let outcome = catch_unwind(body);
            // SAFETY: ends the process, and nothing of the parent's is run.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        child if child > 0 => Ok(child),
        // Never to be waited for, let alone killed: -1 means everybody.
        failed => Err(format!("fork gives {failed}")),
    }
}

/// Waits for the child; kills it when it hangs.
fn wait_for(child: libc::pid_t) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: a child of ours, and a place for its status.
        let ended = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
        if ended == child {
            let is_well = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
            return is_well
                .then_some(())
                .ok_or_else(|| format!("status {status:#x}"));
        }
        if begin.elapsed() > Duration::from_mins(1) {
            // SAFETY: a child of ours that has not been waited for, so the number is still its.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            return Err("it hangs".to_owned());
        }
        thread::sleep(Duration::from_micros(200));
    }
}

fn leak_one() {
    let report = found(leaks::check(|| forget(block(60))));
    assert_eq!(figures(&report), (1, 60), "{report:#}");
    assert!(report.sites[0].location().starts_with(file!()));
}

extern "C" fn check_inside(check: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: the handle outlives the thread, which is joined.
    let check = unsafe { &*check.cast::<ScopeHandle>() };
    let _inside = check.enter();
    quiet(leaks::check(|| drop(block(20))));
    null_mut()
}

/// Checks, also on a thread of its own.
///
/// As C makes it: std takes a lock of its own where a thread begins and where it
/// ends, which never becomes free in a child that was forked meanwhile.
fn check_twice() {
    quiet(leaks::check(|| drop(block(10))));
    quiet(leaks::check(|| {
        let mut check = leaks::carry();
        run_on_a_stack_of(1 << 20, check_inside, (&raw mut check).cast());
    }));
}

/// What a child does.
fn check_in_the_child() {
    check_twice();
    leak_one();
}

/// Runs each of `works` again and again on a thread, and forks children to
/// `body` meanwhile.
fn fork_beside(works: &[fn()], children: usize, body: fn()) {
    let stop = AtomicBool::new(false);
    let outcome = thread::scope(|threads| {
        for work in works {
            let stop = &stop;
            threads.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        let outcome = (0..children).try_for_each(|_| wait_for(fork_to(body)?));
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    assert_eq!(outcome, Ok(()));
}

/// Bug prevented: a lock that another thread held at the fork, ours, the
/// symbolizer's or the loader's, stays held in the child, which waits for ever.
fn a_forked_child_can_check_whatever_the_other_threads_were_doing() {
    // The libraries' own first uses.
    leak_one();
    let outer = Check::new().start();
    let nested = || {
        quiet(leaks::check(|| {
            quiet(leaks::check(|| drop(block(30))));
        }));
    };
    let profile = || {
        let profiler = Profiler::builder().sample_every(1_000).start();
        drop(profiler.expect("the only one").snapshot());
    };
    let works: [fn(); 5] = [
        profile,
        leak_one,
        leak_one,
        nested,
        || heapledger::assert_allocs!(== 1, || drop(block(5))),
    ];
    fork_beside(&works, forks(300), check_in_the_child);
    drop(outer);
    quiet(leaks::check(|| drop(block(10))));
}

/// A process of one thread in which nobody has ever checked: two threads begin
/// at once, and it forks meanwhile.
fn begin_and_fork() {
    fork_beside(&[check_twice, check_twice], 2, check_twice);
}

/// The same with names, which are slow the first time.
fn begin_with_names_and_fork() {
    fork_beside(&[leak_one, leak_one], 2, check_in_the_child);
}

/// Bug prevented: what is made by the first check of all is being made by
/// another thread at the fork, and the child waits for that thread for ever.
fn a_child_that_was_forked_during_the_first_checks_of_all_can_check() {
    for i in 0..forks(200) {
        let begin = if i % 32 == 0 {
            begin_with_names_and_fork
        } else {
            begin_and_fork
        };
        let child = fork_to(begin).expect("a child");
        assert_eq!(wait_for(child), Ok(()));
    }
}

// ---------------------------------------------------------------------- stacks

fn a_leak_a_hundred_thousand_calls_deep_is_counted() {
    #[inline(never)]
    fn descend(depth: usize) -> usize {
        let kept = depth.is_multiple_of(100).then(|| block(8));
        if depth == 0 {
            forget(black_box(vec![2u8; 4_321]));
            return 0;
        }
        let below = black_box(descend(depth - 1));
        drop(kept);
        below + 1
    }
    let line = line!() - 7;
    let work = || {
        let check = leaks::carry();
        let deep = thread::Builder::new().stack_size(1 << 30);
        let deep = deep.spawn(check.wrap(|| descend(black_box(100_000))));
        assert_eq!(deep.expect("a thread").join().expect("no panic"), 100_000);
    };
    let report = found(leaks::check(work));
    assert_eq!(figures(&report), (1, 4_321), "{report:#}");
    assert_eq!(report.sites[0].location(), format!("{}:{line}", file!()));
    assert!(
        report.incomplete.cut_stacks > 0,
        "a stack this deep is cut: {report:#}"
    );
    assert_eq!((report.incomplete.blocks, report.incomplete.frames), (0, 0));
}

extern "C" fn leak_a_little(check: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: the handle outlives the thread, which is joined.
    let check = unsafe { &*check.cast::<ScopeHandle>() };
    let _inside = check.enter();
    forget(block(16));
    drop(block(17));
    null_mut()
}

fn threads_with_the_smallest_stacks_are_recorded() {
    let work = || {
        let mut check = leaks::carry();
        for _ in 0..50 {
            run_on_a_stack_of(
                libc::PTHREAD_STACK_MIN,
                leak_a_little,
                (&raw mut check).cast(),
            );
        }
    };
    let report = found(leaks::check(work));
    assert_eq!(figures(&report), (50, 50 * 16), "{report:#}");
    assert_eq!(report.incomplete.blocks, 0);
}

// --------------------------------------------------------------------- signals

static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Bad manners, but found in programs.
extern "C" fn leak_in_the_handler(_: libc::c_int) {
    forget(block(111));
    drop(block(222));
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

fn raise_often() {
    for _ in 0..100 {
        drop(block(5));
        // SAFETY: comes back when the handler has run, on this thread, outside of malloc.
        let failed = unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(failed, 0);
        drop(block(6));
    }
}

fn a_signal_handler_on_a_stack_of_its_own_may_leak() {
    signal::handle(libc::SIGUSR1, leak_in_the_handler, libc::SA_ONSTACK);
    with_another_stack(|| {
        let report = found(leaks::check(raise_often));
        assert_eq!(CAUGHT.load(Ordering::Relaxed), 100);
        assert_eq!(figures(&report), (100, 11_100), "{report:#}");
        assert!(report.incomplete.cut_stacks >= 100, "{report:#}");
        quiet(leaks::check(|| drop(block(7))));
    });
}

extern "C" fn check_in_the_handler(_: libc::c_int) {
    quiet(leaks::check(|| drop(block(7))));
}

/// Bug prevented: the first check of all is on a stack that is not read, as a coroutine's is
/// not: what is found wrong there holds for all stacks, and each is slow for good.
fn the_first_check_of_all_may_be_on_a_stack_of_its_own() {
    signal::handle(libc::SIGUSR1, check_in_the_handler, libc::SA_ONSTACK);
    with_another_stack(|| {
        // SAFETY: comes back when the handler has run, on this thread, outside of malloc.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
    });
    let report = found(leaks::check(|| leak_at_depth(3)));
    assert!(report.to_string().contains("leak_at_depth"), "{report}");
    let is_ours = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    let expected = if is_ours {
        Method::Native
    } else {
        Method::Portable
    };
    assert_eq!(prime(), expected);
}

fn a_signal_handler_on_the_thread_s_stack_may_leak() {
    signal::handle(libc::SIGUSR1, leak_in_the_handler, 0);
    let report = found(leaks::check(raise_often));
    assert_eq!(figures(&report), (100, 11_100), "{report:#}");
    let place = report.sites[0].location();
    assert!(place.starts_with(file!()), "{report:#}");
}

// ------------------------------------------------------------ memory runs out

/// How much of the address space is in use.
fn addresses_in_use() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = pages
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    pages * 4_096
}

const PLANTED: usize = 100_000;

/// Starts a check, and leaks, with so many bytes of addresses left for whoever
/// asks the system.
fn with_addresses(left: u64) -> Result<LeakReport, heapledger::Error> {
    let reserve = vec![0u8; RESERVED + 16].leak();
    let start = reserve.as_mut_ptr().addr().next_multiple_of(16);
    RESERVE.store(reserve.as_mut_ptr().with_addr(start), Ordering::Relaxed);
    let mut kept: Vec<Box<[u8; 24]>> = Vec::with_capacity(PLANTED);
    IS_OPEN.store(true, Ordering::Relaxed);
    limit_addresses(addresses_in_use() + left);
    let started = Check::new().try_start();
    if started.is_ok() {
        for _ in 0..PLANTED {
            // The program's own allocation succeeds, or this is the end.
            kept.push(black_box(Box::new([1; 24])));
        }
        // The first half is freed, what could not be recorded as well as the rest.
        kept.drain(..PLANTED / 2);
    }
    limit_addresses(libc::RLIM_INFINITY);
    IS_OPEN.store(false, Ordering::Relaxed);
    Ok(found(started?.finish()))
}

/// Nothing is left out in silence.
fn assert_accounted_for(report: &LeakReport) {
    let (alive, missing) = (PLANTED as u64 / 2, report.incomplete.blocks);
    assert!(report.blocks() <= alive, "{report:#}");
    assert!(report.blocks() + missing >= alive, "{report:#}");
    assert_eq!(report.bytes(), 24 * report.blocks(), "{report:#}");
}

/// Bug prevented: a check that had no memory to record anything passes.
fn with_no_memory_left_the_check_says_so() {
    assert!(
        with_addresses(0)
            .expect_err("nowhere to record")
            .is_no_memory()
    );
}

fn with_little_memory_left_nothing_is_left_out_in_silence() {
    match with_addresses(12 << 20) {
        Err(error) => assert!(error.is_no_memory()),
        Ok(report) => {
            assert_accounted_for(&report);
            assert_ne!(report.incomplete, Incomplete::default(), "{report:#}");
        }
    }
}

fn incomplete_with(left: u64) {
    let report = with_addresses(left).expect("a check");
    assert_accounted_for(&report);
    assert!(report.incomplete.blocks > 0, "{report:#}");
    assert!(report.to_string().contains("could not be recorded"));
}

/// Addresses for the smallest table that is worth it, and as many for the program.
const ENOUGH_FOR_SOME: u64 = 24 << 20;

fn with_room_for_some_the_report_says_that_it_is_incomplete() {
    incomplete_with(ENOUGH_FOR_SOME);
}

fn with_a_gibibyte_of_addresses_all_is_recorded() {
    let report = with_addresses(1 << 30).expect("a check");
    assert_accounted_for(&report);
    assert_eq!(report.blocks(), PLANTED as u64 / 2);
    assert_eq!(report.incomplete, Incomplete::default(), "{report:#}");
}

/// Bug prevented: one test runs out of room, and all that run beside it fail.
fn what_one_check_could_not_record_does_not_fail_another() {
    static STEP: AtomicUsize = AtomicUsize::new(0);
    let await_step = |step| {
        while STEP.load(Ordering::Acquire) < step {
            thread::yield_now();
        }
    };
    // From the first check on there is little room.
    incomplete_with(ENOUGH_FOR_SOME);
    thread::scope(|threads| {
        threads.spawn(|| {
            let other = Check::new().start();
            drop(block(10));
            STEP.store(1, Ordering::Release);
            await_step(2);
            quiet(other.finish());
            STEP.store(3, Ordering::Release);
        });
        await_step(1);
        let around = Check::new().start();
        let kept = || (0..PLANTED).map(|i| black_box(Box::new(i))).collect();
        let checked = leaks::check(|| forget::<Vec<Box<usize>>>(kept()));
        assert!(found(checked).incomplete.blocks > 0);
        STEP.store(2, Ordering::Release);
        // The one around it has lost what it lost.
        assert!(found(around.finish()).incomplete.blocks > 0);
        await_step(3);
    });
    quiet(leaks::check(|| drop(block(10))));
}

// ------------------------------------------------- threads that cannot follow

/// Runs `body` inside so many checks; what each said, the innermost first.
fn nested(depth: usize, body: &dyn Fn(), verdicts: &mut Vec<Result<(), LeakReport>>) {
    if depth == 0 {
        return body();
    }
    let guard = Check::new().start();
    // What the list of verdicts needs is nobody's leak.
    nested(depth - 1, body, verdicts);
    verdicts.push(guard.finish());
}

fn verdicts(depth: usize, body: &dyn Fn()) -> Vec<Result<(), LeakReport>> {
    let mut verdicts = Vec::with_capacity(depth);
    nested(depth, body, &mut verdicts);
    verdicts
}

/// Bug prevented: the thirty-third check sees nothing, and passes.
fn checks_inside_more_than_32_others_are_incomplete_and_never_pass() {
    for verdict in verdicts(32, &|| drop(block(10))) {
        quiet(verdict);
    }
    let verdicts = verdicts(35, &|| forget(block(70)));
    let incomplete: Vec<bool> = verdicts
        .iter()
        .map(|verdict| match verdict {
            Ok(()) => panic!("a check that cannot have seen the leak has passed"),
            Err(report) => report.incomplete.blocks > 0,
        })
        .collect();
    // What the inner ones have lost, those around them may have lost too.
    assert_eq!(incomplete, [true; 35]);
    let seen = verdicts.iter().filter_map(|verdict| verdict.as_ref().err());
    let seen = seen.filter(|report| figures(report) == (1, 70)).count();
    assert_eq!(seen, 32);
    quiet(leaks::check(|| drop(block(10))));
}

/// Bug prevented: a job that runs others while it waits for them, each of which
/// enters the check, is taken for a thread in too many checks.
fn a_thread_may_enter_one_check_as_often_as_it_likes() {
    let check = Check::new().start();
    let handle = leaks::carry();
    let mut guards: Vec<_> = (0..1_000).map(|_| handle.enter()).collect();
    drop(block(10));
    // In another order than they were made in.
    while guards.len() > 1 {
        drop(guards.swap_remove(guards.len() / 2));
    }
    forget(block(20));
    drop(guards);
    drop(handle);
    let report = found(check.finish());
    assert_eq!(figures(&report), (1, 20), "{report:#}");
    assert_eq!(report.incomplete, Incomplete::default(), "{report:#}");
}

/// Bug prevented: a thread's guards are counted up to 65,535 and then down from there, so
/// that it is not watched any more while the last of them are open, and the check passes.
fn of_more_guards_than_can_be_counted_the_last_one_still_counts() {
    let check = Check::new().start();
    let handle = leaks::carry();
    let mut guards: Vec<_> = (0..70_000).map(|_| handle.enter()).collect();
    guards.truncate(1);
    // A publication may be due, at which it is seen anyway.
    drop(block(1 << 20));
    forget(block(20));
    drop(guards);
    drop(handle);
    let report = found(check.finish());
    assert_eq!(figures(&report), (1, 20), "{report:#}");
}

fn a_carried_check_that_a_thread_cannot_enter_is_incomplete() {
    let check = Check::new().start();
    let handle = leaks::carry();
    let inside = || {
        let _inside = handle.enter();
        forget(block(70));
    };
    thread::scope(|threads| {
        threads.spawn(|| drop(verdicts(32, &inside)));
    });
    drop(handle);
    let report = found(check.finish());
    assert_eq!(report.incomplete.blocks, 1, "{report:#}");
}

/// Bug prevented: a check on a thread that has no page of the ledger any more
/// says that there is no memory, or passes.
fn an_ending_thread_cannot_start_a_check_and_is_told_so() {
    extern "C" fn at_the_end(_: *mut libc::c_void) {
        // Again and again, until all of Rust's own are gone.
        static TURN: AtomicUsize = AtomicUsize::new(0);
        if TURN.fetch_add(1, Ordering::Relaxed) < 2 {
            arm();
            return;
        }
        match Check::new().try_start() {
            Err(error) if error.is_thread_ending() => println!("an ending thread was told"),
            other => println!("{other:?}"),
        }
    }
    static KEY: AtomicU64 = AtomicU64::new(0);
    fn arm() {
        let key = libc::pthread_key_t::try_from(KEY.load(Ordering::Relaxed)).expect("a key");
        // SAFETY: a key that was made, and any value that is not null.
        let failed = unsafe { libc::pthread_setspecific(key, (&raw const KEY).cast()) };
        assert_eq!(failed, 0);
    }
    let mut key = 0;
    // SAFETY: a place for the key, and a destructor of the right type that lives for ever.
    let failed = unsafe { libc::pthread_key_create(&raw mut key, Some(at_the_end)) };
    assert_eq!(failed, 0);
    KEY.store(u64::from(key), Ordering::Relaxed);
    let ending = thread::spawn(|| {
        drop(block(1));
        arm();
    });
    ending.join().expect("no panic");
}

/// Lets the main thread's stack grow to so many bytes from now on, if the process may.
fn let_the_stack_grow(soft: u64) -> bool {
    let mut limit = std::mem::MaybeUninit::uninit();
    // SAFETY: a place for the limit.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_STACK, limit.as_mut_ptr()) };
    assert_eq!(failed, 0);
    // SAFETY: filled in above.
    let mut limit: libc::rlimit = unsafe { limit.assume_init() };
    limit.rlim_cur = soft;
    // SAFETY: only reads the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_STACK, &raw const limit) == 0 }
}

#[expect(clippy::large_stack_arrays, reason = "it shall need much stack")]
#[inline(never)]
fn leak_at_depth(frames: usize) -> u8 {
    let large = black_box([1_u8; 100_000]);
    if frames == 0 {
        forget(black_box(vec![0_u8; 100]));
    } else {
        leak_at_depth(frames - 1);
    }
    black_box(large)[frames]
}

/// Bug prevented: a program that raises its own limit has no stacks where it is deeper than it
/// could be at first: what it leaks there is born at an unknown place.
fn a_stack_that_was_let_grow_while_the_program_ran_is_known_to_its_depth() {
    if !let_the_stack_grow(8 << 20) {
        println!("left out: the stack may not become so large");
        return;
    }
    let place = |depth| {
        let report = leaks::check(|| leak_at_depth(depth)).expect_err("it leaks");
        report.to_string()
    };
    let before = place(3);
    assert!(before.contains("leak_at_depth"), "{before}");
    if !let_the_stack_grow(64 << 20) {
        println!("left out: the stack may not become larger");
        return;
    }
    for depth in [60, 3, 90] {
        let after = place(depth);
        assert!(after.contains("leak_at_depth"), "{depth}: {after}");
    }
}
