//! The leak check of the whole process. Each case runs a small program, which
//! is this one again, and looks at what it says and how it ends.
#![allow(unsafe_code, reason = "forks")]

mod support;

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::env;
use std::fs;
use std::hint::black_box;
use std::io::{self, BufRead, Write};
use std::mem::forget;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::OnceLock;
use std::thread;

use heapledger::leaks::{self, Process, ProcessGuard};
use heapledger::pool::Pool;
use heapledger::{Profiler, TrackingAllocator};
use parking_lot::Mutex;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Says to the child which program it is.
const PROGRAM: &str = "HEAPLEDGER_TEST_PROGRAM";
/// And where its file is.
const FILE: &str = "HEAPLEDGER_TEST_FILE";

/// The programs, by name.
const PROGRAMS: &[(&str, fn())] = &[
    ("leaks_on_threads", leaks_on_threads),
    ("tidy", tidy),
    ("leaks_what_it_reads", leaks_what_it_reads),
    ("prints_a_backtrace", prints_a_backtrace),
    ("forgets_a_backtrace", forgets_a_backtrace),
    ("forgets_a_backtraces_text", forgets_a_backtraces_text),
    ("loses_what_a_pool_has_made", loses_what_a_pool_has_made),
    ("exits", exits),
    ("exits_tidy", exits_tidy),
    ("goes_on", goes_on),
    ("writes_a_file", writes_a_file),
    ("writes_a_file_tidy", writes_a_file_tidy),
    ("writes_a_file_and_moves", writes_a_file_and_moves),
    ("forks", forks),
    ("panics", panics),
    ("panics_on_a_thread", panics_on_a_thread),
    ("in_a_thread_local", in_a_thread_local),
    ("in_a_static", in_a_static),
    ("out_of_a_static", out_of_a_static),
    ("on_another_thread", on_another_thread),
];

fn main() -> ExitCode {
    if let Ok(name) = env::var(PROGRAM) {
        let program = PROGRAMS.iter().find(|program| program.0 == name);
        (program.expect("a program of this name").1)();
        return ExitCode::SUCCESS;
    }
    support::main(cases![
        leaks_of_all_threads_are_reported_with_their_lines,
        without_leaks_nothing_is_said,
        what_is_read_from_standard_input_is_the_program_s,
        what_std_reads_for_a_backtrace_is_kept_by_std,
        what_a_pool_calls_is_in_the_stack,
        the_exit_code_is_as_asked_for_and_only_when_there_are_leaks,
        the_report_goes_to_a_file_and_an_old_one_does_not_stay,
        a_file_is_bound_to_the_folder_of_the_start,
        a_file_that_cannot_be_written_is_named_and_the_report_is_not_lost,
        a_forked_child_has_no_verdict_no_code_and_no_file,
        while_a_panic_unwinds_there_is_no_verdict,
        what_a_panic_keeps_is_not_a_test_harnesss_alone,
        a_guard_may_be_in_a_thread_local,
        a_guard_in_a_static_reports_when_it_is_taken_out,
        a_guard_may_be_dropped_on_another_thread,
        a_second_check_at_once_is_refused_with_words,
        finish_gives_the_verdict_and_says_nothing,
        what_is_older_or_was_freed_anywhere_is_no_leak,
        allowances_and_suppressions_hold_as_in_a_check,
        checks_inside_have_verdicts_of_their_own,
    ])
}

fn run(name: &str, file: Option<&str>) -> Output {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.env(PROGRAM, name).env("RUST_BACKTRACE", "0");
    if let Some(file) = file {
        command.env(FILE, file);
    }
    command.output().expect("it runs")
}

/// The same with this for its standard input.
fn run_with(input: &str, name: &str) -> Output {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.env(PROGRAM, name).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("a text")
}

fn block(size: usize) -> Vec<u8> {
    black_box(vec![1; size])
}

fn leak(size: usize) {
    forget(block(size));
}

fn start(settings: Process) -> ProcessGuard {
    settings.start().expect("the only one")
}

// -------------------------------------------------------------------- programs

const MAIN_LINE: u32 = line!() + 4;
fn leaks_on_threads() {
    // A guard that has a name lives to the end.
    let _leaks = start(Process::new());
    forget(black_box(vec![1u8; 101]));
    let threads: Vec<_> = (0..3)
        .map(|i| thread::spawn(move || leak_on_a_thread(i)))
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
}

const THREAD_LINE: u32 = line!() + 4;
#[inline(never)]
fn leak_on_a_thread(i: usize) {
    drop(block(50));
    forget(black_box(vec![1u8; 1_000 + i]));
    black_box(());
}

thread_local! {
    static WORDS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What std keeps, it is not blamed for.
fn tidy() {
    let _leaks = start(Process::new());
    println!("some output");
    drop(io::stdin().lines().next());
    let threads: Vec<_> = (0..3).map(|_| thread::spawn(|| drop(block(9)))).collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    WORDS.with_borrow_mut(|words| words.push(String::from("gone")));
    WORDS.take();
}

/// The streams' buffers, which std keeps, are made within the check, too.
fn leaks_what_it_reads() {
    let _leaks = start(Process::new());
    println!("some output");
    let mut line = String::new();
    io::stdin().read_line(&mut line).expect("a line");
    forget(line);
    forget(io::stdin().lines().next());
    forget(io::stdin().lock().lines().next());
    forget(io::read_to_string(io::stdin()));
}

/// As an error does that has one.
fn prints_a_backtrace() {
    let _leaks = start(Process::new().exit_code(23));
    drop(black_box(Backtrace::force_capture().to_string()));
}

fn forgets_a_backtrace() {
    let _leaks = start(Process::new().exit_code(23));
    let backtrace = Backtrace::force_capture();
    drop(black_box(backtrace.to_string()));
    forget(backtrace);
}

/// Which grows while std prints.
fn forgets_a_backtraces_text() {
    let _leaks = start(Process::new().exit_code(23));
    forget(black_box(Backtrace::force_capture().to_string()));
}

fn loses_what_a_pool_has_made() {
    let _leaks = start(Process::new().exit_code(23));
    let pool = Pool::from_fn(make_for_a_pool);
    forget(std::mem::take(&mut *pool.acquire()));
}

#[inline(never)]
fn make_for_a_pool() -> Vec<u8> {
    black_box(vec![1; black_box(101)])
}

fn exits() {
    // Its destructor does not run any more, so it must not be what is reported.
    let kept = block(77);
    let leaks = start(Process::new().exit_code(23));
    leak(101);
    print!("flushed");
    drop(leaks);
    println!("not reached {}", kept.len());
}

fn goes_on() {
    let leaks = start(Process::new().exit_code(23).exit_code(0));
    leak(101);
    drop(leaks);
    std::process::exit(7);
}

fn exits_tidy() {
    let _leaks = start(Process::new().exit_code(23));
    drop(block(101));
}

fn writes_a_file() {
    let file = PathBuf::from(env::var_os(FILE).expect("a path"));
    let _leaks = start(Process::new().to_file(file).exit_code(23));
    leak(101);
}

fn writes_a_file_tidy() {
    let file = PathBuf::from(env::var_os(FILE).expect("a path"));
    let _leaks = start(Process::new().to_file(file).exit_code(23));
}

fn writes_a_file_and_moves() {
    let folder = PathBuf::from(env::var_os(FILE).expect("a path"));
    env::set_current_dir(&folder).expect("a folder");
    let _leaks = start(Process::new().to_file("leaks.txt").exit_code(23));
    env::set_current_dir("/").expect("a folder");
    leak(101);
}

/// The child ends by the guard while it has what its parent will have freed.
fn forks() {
    let file = PathBuf::from(env::var_os(FILE).expect("a path"));
    let leaks = start(Process::new().to_file(&file).exit_code(23));
    let held = block(101);
    // SAFETY: the child runs our code and the C library's, and there is no other thread.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        drop(leaks);
        // SAFETY: ends the process, and nothing of the parent's is run.
        unsafe { libc::_exit(0) }
    }
    let mut status = -1;
    // SAFETY: a child of ours, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!((status, file.exists()), (0, false));
    drop(held);
}

fn panics() {
    let _leaks = start(Process::new().exit_code(23));
    leak(101);
    panic!("as planned");
}

fn panics_on_a_thread() {
    let _leaks = start(Process::new().exit_code(23));
    thread::spawn(|| panic!("as planned"))
        .join()
        .expect_err("a panic");
    leak(101);
}

thread_local! {
    static GUARD: RefCell<Option<ProcessGuard>> = const { RefCell::new(None) };
}

fn in_a_thread_local() {
    GUARD.set(Some(start(Process::new().exit_code(23))));
    leak(101);
}

fn in_a_static() {
    static GUARD: OnceLock<ProcessGuard> = OnceLock::new();
    GUARD
        .set(start(Process::new().exit_code(23)))
        .expect("the only one");
    leak(101);
}

fn out_of_a_static() {
    static GUARD: Mutex<Option<ProcessGuard>> = Mutex::new(None);
    *GUARD.lock() = Some(start(Process::new().exit_code(23)));
    leak(101);
    let guard = GUARD.lock().take();
    drop(guard);
}

fn on_another_thread() {
    let leaks = start(Process::new().exit_code(23));
    leak(101);
    drop(thread::spawn(move || drop(leaks)).join());
}

// ----------------------------------------------------------------------- cases

/// The gate runs this file without debug information too.
fn has_lines() -> bool {
    env::var("CARGO_PROFILE_RELEASE_DEBUG").as_deref() != Ok("0")
}

/// Bug prevented: a check that sees the thread that it began on only.
fn leaks_of_all_threads_are_reported_with_their_lines() {
    let output = run("leaks_on_threads", None);
    let text = said(&output);
    assert_eq!(code(&output), 0, "{text}");
    assert!(
        text.starts_with("heapledger: 4 blocks leaked, 3,104 bytes, at "),
        "{text}"
    );
    let places = if has_lines() {
        [MAIN_LINE, THREAD_LINE].map(|line| format!("{}:{line}", file!()))
    } else {
        ["leaks_on_threads", "leak_on_a_thread"].map(|name| format!("leaks_process::{name}"))
    };
    for place in places {
        assert_eq!(
            text.matches(&format!(", born at {place}\n")).count(),
            1,
            "{text}"
        );
    }
    assert!(!text.contains("incomplete"), "{text}");
}

fn without_leaks_nothing_is_said() {
    let output = run("tidy", None);
    assert_eq!((code(&output), said(&output).as_str()), (0, ""));
}

/// Bug prevented: a line that was read is taken for std's own buffer, as it grows
/// within the same file of std's.
fn what_is_read_from_standard_input_is_the_program_s() {
    let rest = "x".repeat(100_000);
    let output = run_with(&format!("one\ntwo\nthree\n{rest}"), "leaks_what_it_reads");
    let text = said(&output);
    assert!(text.starts_with("heapledger: 4 blocks leaked, "), "{text}");
    // The buffers are not among them.
    assert!(
        text.contains(" more are kept by the standard library"),
        "{text}"
    );
}

fn the_exit_code_is_as_asked_for_and_only_when_there_are_leaks() {
    let output = run("exits", None);
    let text = said(&output);
    assert_eq!(code(&output), 23, "{text}");
    assert!(text.starts_with("heapledger: 1 block leaked, 101 bytes, at 1 site\n"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "flushed");
    let output = run("exits_tidy", None);
    assert_eq!((code(&output), said(&output).as_str()), (0, ""));
    // Bug prevented: a program that fails succeeds, as it also leaks.
    let output = run("goes_on", None);
    assert_eq!(code(&output), 7);
    assert!(said(&output).contains("1 block leaked, 101 bytes"));
}

fn the_report_goes_to_a_file_and_an_old_one_does_not_stay() {
    let file = env::temp_dir().join(format!("heapledger-leaks-{}", std::process::id()));
    let path = file.to_str().expect("a text");
    let output = run("writes_a_file", Some(path));
    assert_eq!((code(&output), said(&output).as_str()), (23, ""));
    let report = fs::read_to_string(&file).expect("the report");
    assert!(report.starts_with("1 block leaked, 101 bytes, at 1 site\n"));
    let at = if has_lines() { " at " } else { "\n" };
    assert!(report.contains(&format!("writes_a_file{at}")), "{report}");
    let output = run("writes_a_file_tidy", Some(path));
    assert_eq!((code(&output), said(&output).as_str()), (0, ""));
    assert_eq!(fs::read_to_string(&file).expect("still there"), "");
    fs::remove_file(&file).expect("ours");
}

/// Bug prevented: a report that goes where the program has gone.
fn a_file_is_bound_to_the_folder_of_the_start() {
    let name = format!("heapledger-leaks-moves-{}", std::process::id());
    let folder = env::temp_dir().join(name);
    fs::create_dir(&folder).expect("a folder");
    let output = run("writes_a_file_and_moves", folder.to_str());
    assert_eq!((code(&output), said(&output).as_str()), (23, ""));
    let report = fs::read_to_string(folder.join("leaks.txt")).expect("the report");
    assert!(report.starts_with("1 block leaked, 101 bytes, at 1 site\n"));
    fs::remove_dir_all(&folder).expect("ours");
}

fn a_file_that_cannot_be_written_is_named_and_the_report_is_not_lost() {
    let path = "no such directory/leaks.txt";
    let output = run("writes_a_file", Some(path));
    let text = said(&output);
    assert_eq!(code(&output), 23, "{text}");
    let (first, rest) = text.split_once('\n').expect("lines");
    let path = env::current_dir().expect("a folder").join(path);
    let begin = format!(
        "heapledger: cannot write the leak report to {}: ",
        path.display()
    );
    assert!(first.starts_with(&begin), "{text}");
    assert!(
        rest.starts_with("heapledger: 1 block leaked, 101 bytes"),
        "{text}"
    );
    // Nor is it taken for success where there is nothing to report.
    let output = run("writes_a_file_tidy", path.to_str());
    assert_eq!(code(&output), 0);
    assert!(said(&output).starts_with(&begin));
}

/// Bug prevented: a child reports what its parent has, over its parent's report, and ends with
/// the code for leaks.
fn a_forked_child_has_no_verdict_no_code_and_no_file() {
    let file = env::temp_dir().join(format!("heapledger-leaks-forks-{}", std::process::id()));
    let output = run("forks", file.to_str());
    let text = said(&output);
    assert_eq!(code(&output), 0, "{text}");
    let line =
        "heapledger: a forked child has all that its parent had, so nobody has looked for leaks\n";
    assert_eq!(text, line);
    assert_eq!(fs::read_to_string(&file).expect("the parent's"), "");
    fs::remove_file(&file).expect("ours");
}

fn while_a_panic_unwinds_there_is_no_verdict() {
    let output = run("panics", None);
    let text = said(&output);
    assert_eq!(code(&output), 101, "{text}");
    assert!(text.contains("as planned"), "{text}");
    let end = "heapledger: the program panics, so nobody has looked for leaks\n";
    assert!(text.ends_with(end), "{text}");
    assert!(!text.contains("leaked"), "{text}");
}

/// Bug prevented: a program that prints an error with a backtrace in it leaks fifty thousand
/// blocks, which std keeps for the next one; or what it leaks of the backtrace is std's as well.
fn what_std_reads_for_a_backtrace_is_kept_by_std() {
    let output = run("prints_a_backtrace", None);
    assert_eq!((code(&output), said(&output).as_str()), (0, ""));
    let output = run("forgets_a_backtrace", None);
    let text = said(&output);
    assert_eq!(code(&output), 23, "{text}");
    assert!(text.contains("forgets_a_backtrace"), "{text}");
    assert!(text.contains(" more are held for "), "{text}");
    let leaked = text.lines().next().expect("a line");
    // As many as it has frames, names and files.
    let blocks = leaked
        .split(' ')
        .nth(1)
        .and_then(|number| number.parse::<u32>().ok());
    assert!(
        blocks.is_some_and(|blocks| (2..500).contains(&blocks)),
        "{leaked}"
    );
    let output = run("forgets_a_backtraces_text", None);
    let text = said(&output);
    assert_eq!(code(&output), 23, "{text}");
    assert!(text.starts_with("heapledger: 1 block leaked, "), "{text}");
}

/// Bug prevented: what a pool calls to make an item is cut out of the stack where there is no
/// debug information, as if it were the way into the allocator.
fn what_a_pool_calls_is_in_the_stack() {
    let output = run("loses_what_a_pool_has_made", None);
    let text = said(&output);
    assert_eq!(code(&output), 23, "{text}");
    let stack = text.split("101 bytes in 1 block, ").nth(1).expect("a site");
    let stack = stack.split("\n\n").next().expect("a stack");
    assert!(stack.contains("make_for_a_pool"), "{text}");
    assert!(stack.contains("loses_what_a_pool_has_made"), "{text}");
}

/// Bug prevented: a program of which a thread has panicked is told of a test harness, and there
/// is none.
fn what_a_panic_keeps_is_not_a_test_harnesss_alone() {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.env(PROGRAM, "panics_on_a_thread");
    let output = command
        .env("RUST_BACKTRACE", "1")
        .output()
        .expect("it runs");
    let text = said(&output);
    assert_eq!(code(&output), 23, "{text}");
    let note = " more are held for backtraces and the messages of panics, or by a test harness \
                for the output that it captures\n";
    assert!(text.contains(note), "{text}");
}

/// Bug prevented: the process is ended while it is ending, which aborts it.
fn a_guard_may_be_in_a_thread_local() {
    let output = run("in_a_thread_local", None);
    let text = said(&output);
    assert_eq!(code(&output), 23, "{text}");
    assert!(
        text.starts_with("heapledger: 1 block leaked, 101 bytes"),
        "{text}"
    );
    assert!(!text.contains("incomplete"), "{text}");
}

fn a_guard_in_a_static_reports_when_it_is_taken_out() {
    let output = run("in_a_static", None);
    assert_eq!((code(&output), said(&output).as_str()), (0, ""));
    let output = run("out_of_a_static", None);
    assert_eq!(code(&output), 23);
    assert!(said(&output).starts_with("heapledger: 1 block leaked, 101 bytes"));
}

fn a_guard_may_be_dropped_on_another_thread() {
    let output = run("on_another_thread", None);
    let text = said(&output);
    assert_eq!(code(&output), 23, "{text}");
    assert!(text.contains("101 bytes in 1 block, "), "{text}");
}

fn a_second_check_at_once_is_refused_with_words() {
    let first = start(Process::new());
    let refused = Process::new().start().expect_err("one at a time");
    assert!(refused.is_already_profiling());
    assert!(refused.to_string().contains("end the other one first"));
    let refused = Profiler::builder().every_allocation().start();
    assert!(refused.expect_err("nor beside it").is_already_profiling());
    leak(31);
    let report = first.finish().expect_err("still under way");
    assert_eq!((report.blocks(), report.bytes()), (1, 31), "{report}");
    let profiler = Profiler::builder().start().expect("free again");
    let refused = Process::new().start().expect_err("beside a profile");
    assert!(refused.is_already_profiling());
    drop(profiler);
    assert_eq!(start(Process::new()).finish(), Ok(()));
}

fn finish_gives_the_verdict_and_says_nothing() {
    let leaks = start(Process::new().exit_code(23));
    leak(31);
    let report = leaks.finish().expect_err("a leak");
    assert_eq!((report.blocks(), report.bytes()), (1, 31), "{report}");
    assert_eq!(report.incomplete, leaks::Incomplete::default());
    assert_eq!(start(Process::new()).finish(), Ok(()));
}

fn what_is_older_or_was_freed_anywhere_is_no_leak() {
    let mut older = block(10);
    let leaks = start(Process::new());
    // It moves; that does not make it younger.
    older.reserve_exact(100_000);
    let there = thread::spawn(|| block(20)).join().expect("no panic");
    drop(there);
    let here = block(30);
    thread::spawn(move || drop(here)).join().expect("no panic");
    assert_eq!(leaks.finish(), Ok(()));
    drop(older);
}

#[inline(never)]
fn known_to_leak() {
    leak(1_000);
    black_box(());
}

fn allowances_and_suppressions_hold_as_in_a_check() {
    let leaks = start(Process::new().suppress("known_*_leak$").allow_bytes(5));
    known_to_leak();
    leak(5);
    assert_eq!(leaks.finish(), Ok(()));
    let leaks = start(Process::new().suppress("known_*_leak$").allow_blocks(1));
    known_to_leak();
    leak(5);
    leak(6);
    let report = leaks.finish().expect_err("two blocks");
    assert_eq!((report.blocks(), report.suppressed.blocks), (2, 1));
}

fn checks_inside_have_verdicts_of_their_own() {
    let leaks = start(Process::new());
    let inside = || {
        let report = leaks::check(|| leak(40)).expect_err("a leak");
        assert_eq!((report.blocks(), report.bytes()), (1, 40), "{report}");
        leaks::check(|| drop(block(50))).expect("tidy");
    };
    inside();
    thread::spawn(inside).join().expect("no panic");
    let report = leaks.finish().expect_err("they leak here too");
    assert_eq!((report.blocks(), report.bytes()), (2, 80), "{report}");
}
