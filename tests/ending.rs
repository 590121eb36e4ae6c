//! Programs that are hard to end with a report: each is this test binary, started
//! again as another program.
#![cfg(all(feature = "profile", target_os = "linux"))]
#![allow(unsafe_code, reason = "what C programs do behind Rust's back")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use heapledger::Profiler;
use heapledger::leaks::Process;

#[path = "support/folders.rs"]
mod folders;
#[path = "support/programs.rs"]
mod programs;
mod support;

use folders::{folder, names_in};
use programs::{PART, code_of, said_by};

#[global_allocator]
static HEAP: heapledger::TrackingAllocator<Refusing> =
    heapledger::TrackingAllocator::over(Refusing);

/// Says what `HEAPLEDGER` is for the program that it starts.
const VALUE: &str = "HEAPLEDGER_TEST_VALUE";

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the ordinary program ends with, whatever becomes of its report.
const OWN_CODE: u8 = 7;

/// So many blocks that a list of them is longer than twice what a report takes besides.
const MANY: u64 = (2 << 20) + 1;

/// Set when there is no memory any more.
static IS_FULL: AtomicBool = AtomicBool::new(false);

/// The system's allocator, until it has no memory.
struct Refusing;

// SAFETY: all calls are the system allocator's, or refusals.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_FULL.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; all blocks are the system's.
        unsafe { System.dealloc(block, layout) }
    }
}

// --- the programs

fn program(part: &str) -> ExitCode {
    match part {
        "leaks" => leaky_here(),
        "reads in C" => {
            leaky_here();
            // SAFETY: takes nothing.
            thread::spawn(|| unsafe { getchar() });
            thread::sleep(Duration::from_millis(200));
            // SAFETY: a text that ends with a zero.
            unsafe { printf(c"from C, ".as_ptr()) };
            print!("from std, ");
        }
        "keeps stdout" => {
            leaky_here();
            keep_locked(|| std::io::stdout().lock());
        }
        "keeps stderr" => {
            leaky_here();
            keep_locked(|| std::io::stderr().lock());
        }
        "guards and keeps stdout" => {
            let leaks = Process::new().exit_code(23).start().expect("the only one");
            leaky_here();
            keep_locked(|| std::io::stdout().lock());
            drop(leaks);
        }
        "guards and has stdout" => {
            let mut out = std::io::stdout().lock();
            let leaks = Process::new().exit_code(23).start().expect("the only one");
            leaky_here();
            write!(out, "the last words").expect("a reader");
            drop(leaks);
        }
        "has no memory" => {
            leaky_here();
            IS_FULL.store(true, Ordering::Relaxed);
        }
        "has no memory on a signal" => {
            leaky_here();
            // SAFETY: a signal to ourselves; there is a handler.
            unsafe { libc::raise(libc::SIGUSR2) };
            // The thread for it takes memory for itself until it is there.
            while !Path::new("s-1.folded").exists() {
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_millis(100));
            IS_FULL.store(true, Ordering::Relaxed);
            // SAFETY: as above.
            unsafe { libc::raise(libc::SIGUSR2) };
            thread::sleep(Duration::from_secs(1));
            IS_FULL.store(false, Ordering::Relaxed);
            println!("goes on");
        }
        "guards and has no memory" => {
            let leaks = Process::new().exit_code(23).to_file("g.txt").start();
            leaky_here();
            IS_FULL.store(true, Ordering::Relaxed);
            drop(leaks);
        }
        "guards and comes by memory again" => {
            let leaks = Process::new().start().expect("the only one");
            leaky_here();
            IS_FULL.store(true, Ordering::Relaxed);
            drop(leaks);
            IS_FULL.store(false, Ordering::Relaxed);
            let profile = Profiler::builder().start().expect("the only one");
            drop(profile);
            let leaks = Process::new().start().expect("the only one");
            leaky_here();
            assert_eq!(leaks.finish().expect_err("a leak").bytes(), 4_444);
        }
        "guards and has so much address space" => {
            let leaks = Process::new().exit_code(23).start();
            leaky_here();
            let left = std::env::var(VALUE).expect("a value");
            leave_addresses(left.parse().expect("a number"));
            drop(leaks);
        }
        "has many blocks and so much address space" => {
            let kept: Vec<Box<u64>> = (0..MANY).map(|n| black_box(Box::new(n))).collect();
            let left = std::env::var(VALUE).expect("a value");
            leave_addresses(left.parse().expect("a number"));
            std::mem::forget(kept);
        }
        "may write no files" => {
            leaky_here();
            limit_to(libc::RLIMIT_FSIZE, 0);
        }
        "may open no files" => {
            leaky_here();
            limit_to(libc::RLIMIT_NOFILE, 3);
        }
        "heeds broken pipes" => {
            leaky_here();
            // SAFETY: the signal does again what it does in C programs.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
            thread::sleep(Duration::from_millis(300));
        }
        "has a signal of its own" => has_a_signal_of_its_own(),
        "starts the first of a namespace" => return starts_the_first_of_a_namespace(),
        "forks into a namespace" => forks_into_a_namespace(false),
        "forks into a namespace and is signalled" => forks_into_a_namespace(true),
        other => panic!("no program {other:?}"),
    }
    ExitCode::from(OWN_CODE)
}

#[inline(never)]
fn leaky_here() {
    std::mem::forget(black_box(vec![4u8; 4_444]));
}

/// From now on the process gets so many bytes of address space, and no more.
fn leave_addresses(bytes: u64) {
    let pages = fs::read_to_string("/proc/self/statm").expect("a file");
    let pages = pages.split(' ').next().expect("the first figure");
    let limit = libc::rlimit {
        rlim_cur: pages.parse::<u64>().expect("a number") * 4_096 + bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a limit for this process.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(failed, 0);
}

/// From now on the process gets no more of this.
fn limit_to(what: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: a limit for this process.
    let failed = unsafe { libc::setrlimit(what, &raw const limit) };
    assert_eq!(failed, 0);
}

unsafe extern "C" {
    fn getchar() -> i32;
    fn printf(format: *const std::ffi::c_char, ...) -> i32;
}

/// A thread that never gives back a lock.
fn keep_locked<L>(lock: impl FnOnce() -> L + Send + 'static) {
    thread::spawn(|| {
        let _kept = lock();
        loop {
            thread::park();
        }
    });
    thread::sleep(Duration::from_millis(200));
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: an array of numbers; `sigemptyset` makes the same.
    unsafe { std::mem::zeroed() }
}

/// Whether a broken pipe's signal waits for this thread, and whether it is kept waiting.
fn broken_pipe() -> (bool, bool) {
    let (mut pending, mut blocked) = (no_signals(), no_signals());
    // SAFETY: a place for a set.
    unsafe { libc::sigpending(&raw mut pending) };
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut blocked) };
    // SAFETY: sets that the system has filled in.
    let has = |set: &libc::sigset_t| unsafe { libc::sigismember(set, libc::SIGPIPE) } == 1;
    (has(&pending), has(&blocked))
}

/// Its error output is a broken pipe; reports without a signal, and with one that it has blocked
/// and that waits already.
fn has_a_signal_of_its_own() {
    // SAFETY: the signal does again what it does in C programs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    thread::sleep(Duration::from_millis(300));
    let report = || {
        let leaks = Process::new().start().expect("the only one");
        leaky_here();
        drop(leaks);
    };
    report();
    assert_eq!(broken_pipe(), (false, false));
    let mut set = no_signals();
    // SAFETY: a set, and a signal that there is.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGPIPE) };
    // SAFETY: a set.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    // SAFETY: a signal to this thread, which has blocked it.
    unsafe { libc::raise(libc::SIGPIPE) };
    report();
    assert_eq!(broken_pipe(), (true, true));
}

/// The program that it starts has the number 1.
fn starts_the_first_of_a_namespace() -> ExitCode {
    // SAFETY: it has no other thread.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        println!("skipped");
        return ExitCode::SUCCESS;
    }
    let value = std::env::var(VALUE).expect("a value");
    let status = Command::new(std::env::current_exe().expect("a path"))
        .env(
            PART,
            std::env::var("HEAPLEDGER_TEST_FIRST").expect("a part"),
        )
        .env("HEAPLEDGER", value)
        .status()
        .expect("it runs");
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.expect("no signal"))
}

/// Has a child with its own number, which ends by `exit`.
fn forks_into_a_namespace(signal: bool) {
    assert_eq!(std::process::id(), 1);
    // SAFETY: changes nothing but where children are.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
    // SAFETY: there is one thread beside ours at most, which holds nothing while it sleeps.
    let child = unsafe { libc::fork() };
    if child == 0 {
        assert_eq!(std::process::id(), 1);
        leaky_here();
        if signal {
            // SAFETY: a signal to this thread; there is a handler. The first of a namespace gets
            // only what it has a handler for.
            unsafe { libc::raise(libc::SIGUSR2) };
        }
        std::process::exit((OWN_CODE + 1).into());
    }
    let mut status = 0;
    // SAFETY: `status` is a place for the answer; the child is ours.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(
        (waited, libc::WEXITSTATUS(status)),
        (child, i32::from(OWN_CODE + 1))
    );
}

// --- what the tests need

fn command(part: &str, value: &str, folder: &Path) -> Command {
    let mut command = programs::command(part, Some(value), folder);
    command
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// How the program ended, and what it said on standard error and standard output.
#[track_caller]
fn run(part: &str, value: &str, folder: &Path) -> (Option<u8>, String, String) {
    ended(command(part, value, folder).spawn().expect("it runs"))
}

/// The same of one that was started. Its input stays open, and there is nothing in it.
#[track_caller]
fn ended(mut child: Child) -> (Option<u8>, String, String) {
    let input = child.stdin.take();
    let begin = Instant::now();
    // What they say is less than a pipe holds.
    while child.try_wait().expect("a child").is_none() {
        if begin.elapsed() > PATIENCE {
            drop(child.kill());
            let said = child.wait_with_output().expect("it is gone");
            panic!("it hangs; so far {said:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    drop(input);
    let output = child.wait_with_output().expect("it has ended");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    (code_of(&output), said_by(&output), told)
}

const FOUND: &str = "heapledger: 1 block leaked, 4,444 bytes, at 1 site\n";

// --- the cases

/// Bug prevented: the end waits for all of C's streams, and so for whoever types
/// something to a thread that is in `getchar`; or what was written is lost.
fn a_thread_that_waits_for_input_in_c_does_not_hold_up_the_end() {
    let folder = folder("ending-reads");
    for (value, expected) in [("leaks", OWN_CODE), ("leaks,exit=23", 23)] {
        let (code, said, output) = run("reads in C", value, &folder);
        assert_eq!(code, Some(expected), "{value}: {said}");
        // The other thread's own blocks are found, too: it is alive.
        assert!(said.contains("4,444 bytes in 1 block, "), "{said}");
        assert!(output.contains("from C, "), "{value}: {output:?}");
        assert!(output.contains("from std, "), "{value}: {output:?}");
    }
}

/// Bug prevented: the end waits for a lock that a thread of the program keeps.
fn a_thread_that_keeps_a_stream_does_not_hold_up_the_end() {
    let folder = folder("ending-keeps");
    for part in ["keeps stdout", "keeps stderr"] {
        for (value, expected) in [("leaks", OWN_CODE), ("leaks,exit=23", 23)] {
            let (code, said, _) = run(part, value, &folder);
            assert_eq!(code, Some(expected), "{part}: {said}");
            assert!(said.contains("4,444 bytes in 1 block, "), "{part}: {said}");
        }
        let (code, said, _) = run(part, "profile,file=no/such/heap.txt", &folder);
        assert_eq!(code, Some(OWN_CODE), "{part}: {said}");
        assert!(said.contains("/no/such/heap.txt: "), "{part}: {said}");
    }
}

/// Bug prevented: a guard with an exit code waits for the lock of standard output
/// for ever, or has what is in it lost when the thread has the lock itself.
fn a_guard_flushes_standard_output_or_goes_on_without() {
    let folder = folder("ending-guards");
    let (code, said, _) = run("guards and keeps stdout", "", &folder);
    assert_eq!(code, Some(23), "{said}");
    assert!(said.contains("4,444 bytes in 1 block, "), "{said}");
    let (code, said, output) = run("guards and has stdout", "", &folder);
    assert_eq!((code, output.as_str()), (Some(23), "the last words"));
    assert!(said.starts_with(FOUND), "{said}");
}

/// Bug prevented: a program that lives without memory is aborted by its report; or
/// a check that could not look lets it pass.
fn without_memory_for_a_report_a_program_ends_as_it_would() {
    const LEAKS: &str = "heapledger: nobody has looked for leaks";
    const PROFILE: &str = "heapledger: no report of the heap";
    let is_said = |said: &str, what: &str| {
        let more = said
            .strip_prefix(what)
            .and_then(|rest| rest.strip_prefix(", for want of memory: give the program "))
            .and_then(|rest| rest.strip_suffix(" MiB more (ulimit -v)\n"));
        let more = more.and_then(|more| more.parse::<u32>().ok());
        more.is_some_and(|more| (64..10_000).contains(&more))
    };
    let folder = folder("ending-memory");
    let table = [
        ("has no memory", "leaks", OWN_CODE, LEAKS),
        ("has no memory", "leaks,exit=23", 23, LEAKS),
        ("has no memory", "leaks,exit=23,file=l.txt", 23, LEAKS),
        ("has no memory", "profile,file=p.txt", OWN_CODE, PROFILE),
        ("guards and has no memory", "", 23, LEAKS),
    ];
    // No report of old looks like one of now.
    fs::write(folder.join("l.txt"), "").expect("a file");
    for (part, value, expected, line) in table {
        let (code, said, _) = run(part, value, &folder);
        assert_eq!(code, Some(expected), "{value}: {said}");
        assert!(is_said(&said, line), "{value}: {said}");
    }
    assert_eq!(names_in(&folder), ["g.txt", "l.txt"]);
    for name in ["g.txt", "l.txt"] {
        let report = fs::read_to_string(folder.join(name)).expect("a file");
        assert!(is_said(&format!("heapledger: {report}"), LEAKS), "{report}");
    }
    let value = "profile,every=1,signal=USR2,file=s-{n}.folded";
    let (code, said, output) = run("has no memory on a signal", value, &folder);
    assert_eq!((code, output.as_str()), (Some(OWN_CODE), "goes on\n"));
    assert!(is_said(&said, PROFILE), "{said}");
    assert!(names_in(&folder).contains(&String::from("s-2.folded")));
}

/// Bug prevented: what is asked for before a report does not grow with what it has to tell of,
/// and a report of many blocks aborts the program.
fn with_memory_for_names_and_not_for_all_blocks_a_program_ends_as_it_would() {
    let folder = folder("ending-many");
    let program = std::env::current_exe().expect("a path");
    let names = (64 << 20) + 2 * fs::metadata(program).expect("a file").len();
    let mut command = command(
        "has many blocks and so much address space",
        "leaks,exit=23",
        &folder,
    );
    command.env(VALUE, (names + (8 << 20)).to_string());
    let (code, said, _) = ended(command.spawn().expect("it runs"));
    assert_eq!(code, Some(23), "{said}");
    let line = "heapledger: nobody has looked for leaks, for want of memory";
    assert!(said.starts_with(line), "{said}");
}

/// Bug prevented: a check that found no memory is in the way of all that come after it.
fn a_check_that_found_no_memory_makes_room_for_others() {
    let folder = folder("ending-again");
    let (code, said, _) = run("guards and comes by memory again", "", &folder);
    assert_eq!(code, Some(OWN_CODE), "{said}");
}

/// Bug prevented: there is what a thread for the last words is made with, its stack takes all
/// that is left, and the thread aborts the process.
fn with_any_address_space_left_a_guard_ends_with_its_code() {
    let folder = folder("ending-addresses");
    let coarse = (0..3 << 20).step_by(64 << 10);
    // Where a stack of std's usual size just fits.
    let fine = (2 << 20..(2 << 20) + (64 << 10)).step_by(4 << 10);
    for left in coarse.chain(fine) {
        let mut command = command("guards and has so much address space", "", &folder);
        command.env(VALUE, left.to_string());
        let (code, said, _) = ended(command.spawn().expect("it runs"));
        assert_eq!(code, Some(23), "{left}: {said}");
    }
}

/// Bug prevented: the signal of a full file or a broken pipe, which the program
/// would not have got without us, ends it.
fn no_signal_of_what_we_write_ends_the_program() {
    let folder = folder("ending-signals");
    for (value, expected) in [
        ("leaks,file=l.txt", OWN_CODE),
        ("leaks,exit=23,file=l.txt", 23),
    ] {
        let (code, said, _) = run("may write no files", value, &folder);
        assert_eq!(code, Some(expected), "{said}");
        assert!(said.contains("File too large"), "{said}");
        assert!(said.contains(FOUND), "{said}");
    }
    let (code, said, _) = run("may write no files", "profile,file=p.txt", &folder);
    assert_eq!(code, Some(OWN_CODE), "{said}");
    assert!(said.contains("File too large"), "{said}");
    for (part, value, expected) in [
        ("heeds broken pipes", "leaks", OWN_CODE),
        ("heeds broken pipes", "leaks,exit=23", 23),
        ("heeds broken pipes", "profile,file=no/such.txt", OWN_CODE),
        ("has a signal of its own", "", OWN_CODE),
    ] {
        let mut child = command(part, value, &folder).spawn().expect("it runs");
        drop(child.stderr.take());
        let (code, ..) = ended(child);
        assert_eq!(code, Some(expected), "{part}, {value}");
    }
}

/// Bug prevented: a program without symbols is told that the runtime's blocks are
/// leaks and that suppressions match nothing, and not why.
fn a_program_without_names_is_told_so() {
    const NOTE: &str = "note: the program's functions have no names, ";
    let folder = folder("ending-stripped");
    let (code, said, _) = run("leaks", "leaks,exit=23", &folder);
    assert_eq!(code, Some(23), "{said}");
    assert!(said.contains(FOUND) && !said.contains(NOTE), "{said}");
    // What a program is run by is not in its sections, and all names are.
    let mut program = fs::read(std::env::current_exe().expect("a path")).expect("a program");
    for sections in [0x28..0x30, 0x3C..0x40] {
        program[sections].fill(0);
    }
    let path = folder.join("program");
    fs::copy(std::env::current_exe().expect("a path"), &path).expect("a copy");
    fs::write(&path, program).expect("a program");
    let child = Command::new(&path)
        .env(PART, "leaks")
        .env("HEAPLEDGER", "leaks,exit=23,suppress=leaky_here")
        .current_dir(&folder)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let (code, said, _) = ended(child.expect("it runs"));
    fs::remove_file(&path).expect("ours");
    assert_eq!(code, Some(23), "{said}");
    assert!(said.contains("4,444 bytes in 1 block, "), "{said}");
    assert_eq!(said.matches(NOTE).count(), 1, "{said}");
    assert!(said.contains("strip = \"debuginfo\""), "{said}");
}

/// Bug prevented: a program whose file cannot be read any more, as without a free number for it
/// or with other rights, is told not to strip what nobody has stripped.
fn a_program_whose_file_cannot_be_read_is_told_so() {
    let folder = folder("ending-unread");
    let path = std::env::current_exe().expect("a path");
    let note = format!(
        "{} cannot be read (Too many open files (os error 24)): its functions have no names\n",
        path.display()
    );
    let value = "leaks,exit=23,suppress=leaky_here";
    let (code, said, _) = run("may open no files", value, &folder);
    assert_eq!(code, Some(23), "{said}");
    assert!(said.contains("4,444 bytes in 1 block, "), "{said}");
    assert!(said.contains("suppressions match nothing"), "{said}");
    assert_eq!(said.matches(&note).count(), 1, "{said}");
    assert!(!said.contains("strip"), "{said}");
    let value = "profile,every=1,format=text,file=/dev/stderr";
    let (code, said, _) = run("may open no files", value, &folder);
    assert_eq!(code, Some(OWN_CODE), "{said}");
    assert_eq!(said.matches(&note).count(), 1, "{said}");
}

/// Bug prevented: a child that has its parent's number, as in a namespace of its
/// own, is taken for the parent.
fn a_forked_child_with_its_parents_number_is_a_child() {
    let folder = folder("ending-namespace");
    let first = |part: &str, value: &str| {
        let mut command = command("starts the first of a namespace", "", &folder);
        command.env("HEAPLEDGER_TEST_FIRST", part).env(VALUE, value);
        let (code, said, output) = ended(command.spawn().expect("it runs"));
        (output.as_str() != "skipped\n").then(|| {
            assert_eq!(code, Some(OWN_CODE), "{value}: {said}");
            said
        })
    };
    // Only the child leaks, and it gives no verdict.
    let Some(said) = first("forks into a namespace", "leaks,exit=23") else {
        println!("skipped: only root can make a namespace");
        return;
    };
    assert_eq!(said, "");
    for (name, expected) in [
        ("p.folded", ["p-1-fork1.folded", "p.folded"]),
        ("q-{pid}.folded", ["q-1-fork1.folded", "q-1.folded"]),
    ] {
        let value = format!("profile,every=1,file={name}");
        assert_eq!(first("forks into a namespace", &value).as_deref(), Some(""));
        for name in expected {
            let report = fs::read_to_string(folder.join(name)).expect("a report");
            assert_eq!(
                report.contains("leaky_here"),
                name.contains("fork"),
                "{name}"
            );
        }
    }
    assert_eq!(names_in(&folder).len(), 4);
    let value = "profile,signal=USR2,at=signal,file=s.folded";
    let said = first("forks into a namespace and is signalled", value);
    let line = "heapledger: no report on a signal in the child of a fork\n";
    assert_eq!(said.as_deref(), Some(line));
}

fn main() -> ExitCode {
    if let Ok(part) = std::env::var(PART) {
        return program(&part);
    }
    support::main(cases![
        a_thread_that_waits_for_input_in_c_does_not_hold_up_the_end,
        a_thread_that_keeps_a_stream_does_not_hold_up_the_end,
        a_guard_flushes_standard_output_or_goes_on_without,
        without_memory_for_a_report_a_program_ends_as_it_would,
        with_memory_for_names_and_not_for_all_blocks_a_program_ends_as_it_would,
        a_check_that_found_no_memory_makes_room_for_others,
        with_any_address_space_left_a_guard_ends_with_its_code,
        no_signal_of_what_we_write_ends_the_program,
        a_program_without_names_is_told_so,
        a_program_whose_file_cannot_be_read_is_told_so,
        a_forked_child_with_its_parents_number_is_a_child,
    ])
}
