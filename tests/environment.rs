//! `HEAPLEDGER=…` in programs that know nothing of it: each is this test binary,
//! started again as another program.
#![cfg(all(feature = "profile", target_os = "linux"))]
#![allow(
    unsafe_code,
    reason = "forks and sends signals, which no safe function of the standard library does"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::OsStr;
use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use heapledger::TrackingAllocator;
use parking_lot::Mutex;

#[path = "support/folders.rs"]
mod folders;
#[path = "support/programs.rs"]
mod programs;
mod support;

use folders::{folder, names_in};
use programs::{PART, code_of, command, said_by};

/// An allocator of the program's own around ours: its frames have no name of ours.
struct Around(TrackingAllocator);

// SAFETY: hands everything on to an allocator.
unsafe impl GlobalAlloc for Around {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller.
        black_box(unsafe { self.0.alloc(layout) })
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller.
        black_box(unsafe { self.0.alloc_zeroed(layout) })
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller.
        black_box(unsafe { self.0.realloc(block, layout, size) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller.
        unsafe { self.0.dealloc(block, layout) };
    }
}

#[global_allocator]
static HEAP: Around = Around(TrackingAllocator::new());

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(2);

const BLOCKS: usize = 300;
const BYTES: usize = 1_000;
/// What one program waits for before it ends: far longer than planting takes, or a step of time.
const WAIT_MS: u64 = 200;
/// The system keeps 15 bytes of it, and half of the last character.
const NAME: &str = "ääääääää";
/// What the ordinary program ends with, whatever becomes of its profile.
const OWN_CODE: u8 = 7;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

// With line tables only there are bare names, so this one must be nobody else's.
#[inline(never)]
fn planted_here() {
    for _ in 0..BLOCKS {
        KEPT.lock().push(black_box(vec![1; BYTES]));
    }
}

// --- the programs

fn program(part: &str) -> ExitCode {
    match part {
        "returns" => planted_here(),
        "exits" => {
            planted_here();
            std::process::exit(OWN_CODE.into());
        }
        "waits" => {
            planted_here();
            thread::sleep(Duration::from_millis(WAIT_MS));
        }
        "signals itself" => {
            planted_here();
            // SAFETY: a signal to ourselves; there is a handler.
            unsafe { libc::raise(libc::SIGUSR2) };
            wait_until("the report", || Path::new("s-1.html").exists());
        }
        "looks at the handler" => {
            // SAFETY: zeros are an action.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: changes nothing; a place for the action.
            let asked =
                unsafe { libc::sigaction(libc::SIGUSR2, std::ptr::null(), &raw mut action) };
            assert_eq!(asked, 0);
            assert_ne!(action.sa_flags & libc::SA_ONSTACK, 0);
            assert_ne!(action.sa_flags & libc::SA_RESTART, 0);
        }
        "signals itself and ends" => {
            planted_here();
            for _ in 0..3 {
                // SAFETY: a signal to ourselves; there is a handler.
                unsafe { libc::raise(libc::SIGUSR2) };
            }
        }
        "has a named thread" => {
            let (told, done) = std::sync::mpsc::channel();
            let named = thread::Builder::new().name(String::from(NAME));
            let work = move || {
                planted_here();
                told.send(()).expect("somebody waits");
                loop {
                    thread::park();
                }
            };
            drop(named.spawn(work).expect("a thread"));
            done.recv().expect("it is done");
        }
        "exits on a thread" => {
            planted_here();
            let thread = thread::spawn(|| std::process::exit(OWN_CODE.into()));
            thread.join().expect("it never ends");
        }
        "panics" => {
            planted_here();
            panic!("as planned");
        }
        "is busy" => {
            planted_here();
            for _ in 0..3 {
                thread::spawn(|| {
                    loop {
                        drop(black_box(vec![2u8; 64]));
                    }
                });
            }
        }
        "moves" => {
            planted_here();
            std::env::set_current_dir("/").expect("a folder");
        }
        "tasks" => {
            let tasks = fs::read_dir("/proc/self/task").expect("our threads");
            println!("{} threads", tasks.count());
        }
        "leaks" => {
            leaky_here();
            println!("leaky");
        }
        "is clean" => {
            let thread = thread::spawn(|| drop(black_box(vec![3u8; 333])));
            thread.join().expect("no panic");
            println!("clean");
        }
        "forks and leaks" => forks_and_leaks(),
        "listens" => listens(),
        "forks" => forks(false),
        "forks and is signalled" => forks(true),
        "profiles itself" => {
            let error = heapledger::Profiler::builder().start().expect_err("one");
            assert!(error.is_already_profiling());
        }
        other => panic!("no program {other:?}"),
    }
    ExitCode::from(OWN_CODE)
}

#[inline(never)]
fn leaky_here() {
    std::mem::forget(black_box(vec![4u8; 4_444]));
}

/// Only the child leaks.
fn forks_and_leaks() {
    // SAFETY: there is no other thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        leaky_here();
        std::process::exit(0);
    }
    let mut status = 0;
    // SAFETY: `status` is a place for the answer; the child is ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
}

/// Plants once for each line of its input, and says so, or how many bytes are alive.
fn listens() {
    let mut out = std::io::stdout();
    let lines = std::io::stdin().lines();
    writeln!(out, "ready").expect("a reader");
    for line in lines {
        match line.expect("a line").as_str() {
            "more" => {
                planted_here();
                writeln!(out, "done").expect("a reader");
            }
            "live" => {
                let live = heapledger::stats().live_bytes;
                writeln!(out, "{live:>12}").expect("a reader");
            }
            other => panic!("{other}"),
        }
    }
}

/// A child that plants as much again, and ends by `exit`.
fn forks(signal: bool) {
    planted_here();
    // SAFETY: there is one thread beside ours at most, which holds nothing while it sleeps.
    let child = unsafe { libc::fork() };
    if child == 0 {
        planted_here();
        if signal {
            // SAFETY: a signal to ourselves; there is a handler.
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
    println!("child {child}");
}

// --- what the tests need

/// How the program ended, what it said on standard error, and the rest.
#[track_caller]
fn run(part: &str, value: &str, folder: &Path) -> (Option<u8>, String, Output) {
    let output = command(part, Some(value), folder)
        .output()
        .expect("it runs");
    (code_of(&output), said_by(&output), output)
}

/// Live bytes of what was planted, in a report of folded stacks.
#[track_caller]
fn planted_in(path: &Path) -> u64 {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let planted = text.lines().filter(|line| line.contains("planted_here"));
    planted
        .filter(|line| !line.contains("RawVec"))
        .map(|line| line.rsplit_once(' ').expect("a figure").1)
        .map(|bytes| bytes.parse::<u64>().expect("a number"))
        .sum()
}

/// What a page has for its scripts.
#[track_caller]
fn data_in(path: &Path) -> serde_json::Value {
    let page = fs::read_to_string(path).expect("a report");
    let (_, data) = page
        .split_once("<script id=\"data\" type=\"application/json\">")
        .expect("its data");
    let (data, _) = data.split_once("</script>").expect("its end");
    serde_json::from_str(data).expect("JSON")
}

/// The numbers of a column.
#[track_caller]
fn numbers(column: &serde_json::Value) -> Vec<u64> {
    let numbers = column.as_array().expect("a column").iter();
    numbers.map(|n| n.as_u64().expect("a number")).collect()
}

/// All blocks that were ever allocated, in a report for `dh_view`.
fn blocks_in(json: &[u8]) -> u64 {
    let dhat: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    let places = dhat["pps"].as_array().expect("a list");
    let blocks = places.iter().map(|place| place["tbk"].as_u64());
    blocks.map(|blocks| blocks.expect("a number")).sum()
}

/// What one `planted` keeps alive, but for the list's own block.
const PLANTED: u64 = (BLOCKS * BYTES) as u64;

/// Waits until `is` says so.
#[track_caller]
fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < PATIENCE, "{what} never came");
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).expect("a number");
    // SAFETY: a signal to a child of ours that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

// --- the cases

/// Bug prevented: a report at exit that is not there, empty or of another
/// format, because the main thread's locals are gone or names cannot be found.
fn each_format_is_written_at_exit() {
    let folder = folder("environment-formats");
    let value =
        "profile,every=allocation,file=a.html,file=a.txt,file=a.json,file=a.pb.gz,file=a.folded";
    let (code, said, _) = run("returns", value, &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    let names = ["a.folded", "a.html", "a.json", "a.pb.gz", "a.txt"];
    assert_eq!(names_in(&folder), names);
    let read = |name: &str| fs::read(folder.join(name)).expect("a report");
    let text = |name: &str| String::from_utf8(read(name)).expect("text");
    assert!(text("a.html").starts_with("<!doctype html>"), "a page");
    let dhat: serde_json::Value = serde_json::from_slice(&read("a.json")).expect("JSON");
    assert_eq!(dhat["dhatFileVersion"], 2);
    let gzip = read("a.pb.gz");
    let pprof = zune_inflate::DeflateDecoder::new(&gzip)
        .decode_gzip()
        .expect("gzip");
    let pprof = String::from_utf8_lossy(&pprof);
    assert!(pprof.contains("inuse_space") && pprof.contains("planted_here"));
    for name in ["a.html", "a.txt", "a.json", "a.folded"] {
        assert!(text(name).contains("planted_here"), "{name}");
    }
    assert!(text("a.txt").contains("tests/environment.rs:"), "a line");
    // Nor does it miss what the report itself allocates on a thread that has ended.
    assert!(!text("a.txt").contains("incomplete"), "{}", text("a.txt"));
    assert!(planted_in(&folder.join("a.folded")) >= PLANTED);
}

/// Bug prevented: a way to end that writes nothing.
fn every_way_through_exit_writes_the_report_and_keeps_the_exit_code() {
    let ends = [
        ("returns", OWN_CODE),
        ("exits", OWN_CODE),
        ("exits on a thread", OWN_CODE),
        ("is busy", OWN_CODE),
        ("panics", 101),
    ];
    for (part, expected) in ends {
        let folder = folder("environment-ends");
        let (code, said, _) = run(part, "profile,every=1,file={pid}.folded", &folder);
        assert_eq!(code, Some(expected), "{part}: {said}");
        let names = names_in(&folder);
        assert_eq!(names.len(), 1, "{part}: {names:?}");
        assert!(planted_in(&folder.join(&names[0])) >= PLANTED, "{part}");
    }
}

/// Bug prevented: the chart ends with what was allocated last, as the thread that ends the process
/// counts nothing any more.
fn the_end_of_the_process_is_the_last_moment_that_is_told() {
    let folder = folder("environment-moments");
    for every in ["1", "64k"] {
        let value = format!("profile,every={every},file=m.html");
        let (code, said, _) = run("waits", &value, &folder);
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
        let timeline = &data_in(&folder.join("m.html"))["timeline"];
        let (times, live) = (
            numbers(&timeline["at_ms"]),
            numbers(&timeline["live_bytes"]),
        );
        let last = (times.last().copied(), live.last().copied());
        assert!(last.0 >= Some(WAIT_MS), "{times:?}");
        // And without what the report takes itself.
        let live = last.1.expect("a figure");
        assert!((PLANTED..2 * PLANTED).contains(&live), "{live}");
    }
}

/// What a page says of each thread: its name, number, and allocated bytes.
#[track_caller]
fn threads_in(path: &Path) -> Vec<(String, u64, u64)> {
    let threads = &data_in(path)["threads"];
    let names = threads["name"].as_array().expect("a column").iter();
    let names = names.map(|name| String::from(name.as_str().expect("a name")));
    let ids = numbers(&threads["id"]);
    let rest = ids.into_iter().zip(numbers(&threads["allocated_bytes"]));
    names
        .zip(rest)
        .map(|(name, (id, bytes))| (name, id, bytes))
        .collect()
}

/// Bug prevented: the thread that ends the process, and so is alive, is told to have ended, also
/// in the child of a fork, where it has another number.
fn the_thread_that_ends_the_process_is_told_of() {
    for (part, times) in [("returns", 1), ("exits on a thread", 1), ("forks", 2)] {
        let folder = folder("environment-threads");
        let (code, said, _) = run(part, "profile,every=1,file={pid}.html", &folder);
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
        let names = names_in(&folder);
        assert_eq!(names.len(), times, "{names:?}");
        for name in names {
            let threads = threads_in(&folder.join(&name));
            let pid = name.strip_suffix(".html").expect("its ending");
            let main = threads.iter().find(|(_, id, _)| id.to_string() == pid);
            let (_, _, bytes) = main.unwrap_or_else(|| panic!("{part}: {threads:?}"));
            assert!(*bytes >= PLANTED, "{part}: {threads:?}");
        }
    }
}

/// Bug prevented: what is asked for before a report, and what that takes, is told to be the
/// program's peak, or work of its threads.
fn a_report_counts_nothing_of_its_own() {
    let folder = folder("environment-counters");
    let (code, said, _) = run("returns", "profile,every=1,file=c.html", &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    let peak = data_in(&folder.join("c.html"))["stats"]["peak_bytes"].as_u64();
    assert!(peak < Some(2 * PLANTED), "{peak:?}");
    let all = |threads: &[(String, u64, u64)]| threads.iter().map(|(.., bytes)| bytes).sum::<u64>();
    let threads = threads_in(&folder.join("c.html"));
    assert!(all(&threads) < 2 * PLANTED, "{threads:?}");
    // The second report, at the end, is after one of a thread of ours.
    let value = "profile,every=1,signal=USR2,file=s-{n}.html";
    let (code, said, _) = run("signals itself", value, &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    let threads = threads_in(&folder.join("s-2.html"));
    assert!(all(&threads) < 2 * PLANTED, "{threads:?}");
    let is_ours = |(name, ..): &(String, u64, u64)| name == "heapledger";
    assert!(!threads.iter().any(is_ours), "{threads:?}");
}

/// Bug prevented: a thread whose name the system has cut within a character is told to have ended.
fn a_thread_with_half_a_character_in_its_name_is_told_of() {
    let folder = folder("environment-names");
    let value = "profile,every=1,file=n.html";
    let (code, said, _) = run("has a named thread", value, &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    let threads = threads_in(&folder.join("n.html"));
    let named = threads.iter().find(|(name, ..)| name.contains("äääääää"));
    let (_, id, bytes) = named.unwrap_or_else(|| panic!("{threads:?}"));
    assert!(*id != 0 && *bytes >= PLANTED, "{threads:?}");
}

/// Bug prevented: samples that are never drawn, as nobody has called the threads.
fn samples_are_the_default_and_are_estimates() {
    let folder = folder("environment-samples");
    let (code, said, _) = run("returns", "profile,format=text", &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    let names = names_in(&folder);
    assert!(
        names[0].starts_with("heap-") && Path::new(&names[0]).extension() == Some("txt".as_ref()),
        "{names:?}"
    );
    let text = fs::read_to_string(folder.join(&names[0])).expect("a report");
    assert!(
        text.contains("one sample in 512.00 KiB on average"),
        "{text}"
    );
    let (code, ..) = run("returns", "profile,every=4k,file=s.folded", &folder);
    assert_eq!(code, Some(OWN_CODE));
    // Some 70 samples: 300 KB with a standard error of 12 %; ten of them are luck beyond belief.
    let estimate = planted_in(&folder.join("s.folded"));
    assert!(estimate > 0 && estimate < 2 * PLANTED, "{estimate}");
}

/// Bug prevented: a report that goes where the program has gone.
fn a_name_is_bound_to_the_folder_of_the_start() {
    // Where a folder has braces, or no text for a name, as well.
    for name in [&b"plain"[..], b"{n}{", b"\xFF"] {
        let folder = folder("environment-moves").join(OsStr::from_bytes(name));
        fs::create_dir(&folder).expect("a folder");
        let (code, said, _) = run("moves", "profile,every=1,file=m-{n}.folded", &folder);
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
        assert_eq!(names_in(&folder), ["m-1.folded"]);
    }
}

/// Bug prevented: a signal that kills the program, is lost, or whose reports are
/// written over each other.
fn signals_write_numbered_reports_while_the_program_runs() {
    let folder = folder("environment-signals");
    let value = "profile,every=1,signal=USR2,file=r-{n}.json,file=r-{n}.folded";
    let mut child = command("listens", Some(value), &folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = child.stdin.take().expect("an input");
    let mut output = child.stdout.take().expect("an output");
    let mut said = |length: usize| {
        let mut said = vec![0; length];
        output.read_exact(&mut said).expect("an answer");
        String::from_utf8(said).expect("a text")
    };
    assert_eq!(said(6), "ready\n");
    // A thread names itself once it runs.
    wait_until("our one thread", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).expect("its threads");
        let mut names: Vec<_> = tasks
            .map(|task| task.expect("a thread").path().join("comm"))
            .map(|name| fs::read_to_string(name).expect("a name"))
            .collect();
        names.sort();
        names.len() == 2 && names[1] == "heapledger\n"
    });
    let (mut before, mut blocks_before) = (None, None);
    for n in 1..=3_u64 {
        input.write_all(b"more\n").expect("it reads");
        assert_eq!(said(5), "done\n");
        signal(&child, libc::SIGUSR2);
        let path = folder.join(format!("r-{n}.folded"));
        wait_until("the report", || path.exists());
        assert!(planted_in(&path) >= n * PLANTED, "report {n}");
        // Written before the other. The text of the line is one more block than was planted; what
        // writing the last report has allocated would be some dozens.
        let json = fs::read(folder.join(format!("r-{n}.json"))).expect("a report");
        let blocks = blocks_in(&json);
        if let Some(before) = blocks_before.replace(blocks) {
            assert_eq!(
                blocks - before,
                BLOCKS as u64 + 1,
                "report {n} has the last one in it"
            );
        }
        if let Some(before) = before.replace(planted_in(&path)) {
            assert!(planted_in(&path) > before);
        }
    }
    // What names are looked up in is tens of megabytes, and not the program's.
    wait_until("the memory", || {
        input.write_all(b"live\n").expect("it reads");
        let live: usize = said(13).trim().parse().expect("a number");
        live < 4 * BLOCKS * BYTES
    });
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code_of(&output), Some(OWN_CODE));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    // The fourth at exit.
    let mut expected: Vec<String> = (1..=4)
        .flat_map(|n| [format!("r-{n}.folded"), format!("r-{n}.json")])
        .collect();
    expected.sort();
    assert_eq!(names_in(&folder), expected);
}

/// Bug prevented: `at=signal` that writes at exit all the same.
fn a_program_that_is_never_signalled_writes_nothing_when_only_signals_count() {
    let folder = folder("environment-never");
    let (code, said, _) = run("returns", "profile,at=signal,signal=HUP", &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    assert!(names_in(&folder).is_empty());
}

/// Bug prevented: a report that was asked for is not there, or half of it, as the program has ended
/// meanwhile.
fn reports_that_were_asked_for_are_written_before_the_end() {
    for (at, reports) in [("signal", 3), ("exit", 4)] {
        let folder = folder("environment-asked");
        let value = format!("profile,every=1,signal=USR2,at={at},file=a-{{n}}.folded");
        let (code, said, _) = run("signals itself and ends", &value, &folder);
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
        let names: Vec<_> = (1..=reports).map(|n| format!("a-{n}.folded")).collect();
        assert_eq!(names_in(&folder), names);
        for name in names {
            assert!(planted_in(&folder.join(name)) >= PLANTED);
        }
    }
}

/// Bug prevented: a signal to a thread that has little room on its own stack, and another one for
/// signals, as those of other languages have, ends the program.
fn the_handler_runs_on_the_stack_for_signals() {
    let folder = folder("environment-stack");
    let (code, said, _) = run("looks at the handler", "profile,signal=USR2", &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
}

/// Bug prevented: a slip of the pen that is ignored without a word, or that
/// stops the program.
fn a_bad_setting_is_told_in_one_line_and_the_program_goes_on() {
    let folder = folder("environment-bad");
    let table = [
        ("profiel", "accepted are profile, leaks and off"),
        (
            "profile,evry=1",
            "every, file, format, value, names, at and signal",
        ),
        ("profile,every=often", "a number from 1, with k, m or g"),
        ("profile,format=xml", "html, text, dhat, pprof and folded"),
        (
            "profile,file=heap.xml",
            ".html, .txt, .json, .pb.gz, .pb and .folded",
        ),
        ("profile,file={x}.txt", "neither {pid} nor {n}"),
        (
            "profile,file=heap.%p.html",
            "the number of the process is {pid}",
        ),
        ("profile,names=no", "names=no is accepted for pprof only"),
        (
            "profile,value=peak",
            "value= is accepted for folded stacks only",
        ),
        ("profile,at=noon", "accepted are exit and signal"),
        ("profile,signal=KILL", "accepted are HUP, USR1 and USR2"),
        ("profile,line\nbreak", "\"line\\nbreak\" is no setting"),
        ("leaks,every=1", "suppress, exit and file"),
        (",leaks,exit=23", "accepted are profile, leaks and off"),
        ("off,leaks", "off has no settings"),
    ];
    for (value, accepted) in table {
        let (code, said, _) = run("returns", value, &folder);
        assert_eq!(code, Some(OWN_CODE), "{value}");
        let value_shown = value.escape_debug();
        let line = format!("heapledger: HEAPLEDGER={value_shown} does nothing: ");
        assert!(said.starts_with(&line), "{value}: {said}");
        assert!(said.contains(accepted), "{value}: {said}");
        assert_eq!(said.lines().count(), 1, "{value}: {said}");
    }
    assert!(names_in(&folder).is_empty());
}

/// Bug prevented: a report that is lost in silence, or that costs the program
/// its own exit code.
fn a_file_that_cannot_be_written_is_named_and_nothing_else_changes() {
    let folder = folder("environment-unwritable");
    let value = "profile,every=1,file=no/such/heap.txt,file=good.folded";
    let (code, said, _) = run("returns", value, &folder);
    assert_eq!(code, Some(OWN_CODE));
    // The first one before the program ran.
    let (first, said) = said.split_once('\n').expect("two lines");
    assert!(first.contains("file=no/such/heap.txt: there is no folder "));
    assert!(
        said.starts_with("heapledger: ") && said.contains("/no/such/heap.txt: "),
        "{said}"
    );
    assert!(said.contains("No such file or directory"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(names_in(&folder), ["good.folded"]);
}

/// Bug prevented: the child of a fork writes its report over its parent's.
fn a_forked_child_writes_a_report_of_its_own() {
    for (name, file) in [("fork", "f.folded"), ("fork-pid", "f-{pid}.folded")] {
        let folder = folder(&format!("environment-{name}"));
        let (code, said, output) = run("forks", &format!("profile,every=1,file={file}"), &folder);
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let child = said.trim().strip_prefix("child ").expect("its number");
        let names = names_in(&folder);
        let of_child = format!("f-{child}.folded");
        let parent: Vec<_> = names.iter().filter(|name| **name != of_child).collect();
        assert_eq!((names.len(), parent.len()), (2, 1), "{names:?}");
        assert_eq!(*parent[0] == "f.folded", name == "fork");
        let own = planted_in(&folder.join(parent[0]));
        assert!((PLANTED..2 * PLANTED).contains(&own), "{own}");
        assert!(planted_in(&folder.join(&of_child)) >= 2 * PLANTED);
    }
}

/// Bug prevented: the child's signal is a report of the parent's, or hangs.
fn a_forked_child_says_that_it_has_no_thread_for_the_signal() {
    let folder = folder("environment-fork-signal");
    let value = "profile,every=1,signal=USR2,at=signal,file=f-{n}.folded";
    let (code, said, _) = run("forks and is signalled", value, &folder);
    assert_eq!(code, Some(OWN_CODE));
    assert!(
        said.contains("no report on a signal in the child of a fork"),
        "{said}"
    );
    assert!(names_in(&folder).is_empty());
}

/// Bug prevented: a program that nobody wants to profile has a thread, a file
/// or a word more.
fn without_the_variable_there_is_no_thread_and_no_file() {
    let folder = folder("environment-unset");
    for value in [
        None,
        Some(""),
        Some("off"),
        Some("profile,at=signal,signal=USR1"),
    ] {
        let output = command("tasks", value, &folder).output().expect("it runs");
        let threads = 1 + u32::from(value.is_some_and(|value| value.contains("signal")));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said, format!("{threads} threads\n"), "{value:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(code_of(&output), Some(OWN_CODE));
    }
    assert!(names_in(&folder).is_empty());
}

/// Bug prevented: a program that leaks, and nobody hears of it.
fn leaks_are_reported_at_exit_where_and_how_it_was_said() {
    let folder = folder("environment-leaks");
    let (code, said, _) = run("leaks", "leaks", &folder);
    assert_eq!(code, Some(OWN_CODE), "its own: {said}");
    assert!(
        said.starts_with("heapledger: 1 block leaked, 4,444 bytes"),
        "{said}"
    );
    assert!(
        said.contains("leaky_here at ") && said.contains("tests/environment.rs:"),
        "{said}"
    );
    // Nobody has asked to suppress anything: what std has made before `main` is std's.
    assert!(
        said.contains(" more are kept by the standard library\n") && !said.contains("suppressed"),
        "{said}"
    );

    let (code, said, output) = run("leaks", "leaks,exit=23,file=l-{pid}.txt", &folder);
    assert_eq!((code, said.as_str()), (Some(23), ""));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "leaky\n");
    let names = names_in(&folder);
    let report = fs::read_to_string(folder.join(&names[0])).expect("a report");
    assert!(report.contains("4,444 bytes"), "{report}");
    assert_eq!(names.len(), 1, "{names:?}");
    // Bug prevented: a program that fails succeeds, as it also leaks.
    let (code, said, _) = run("leaks", "leaks,exit=0", &folder);
    assert!(said.contains("4,444 bytes"), "{said}");
    assert_eq!(code, Some(OWN_CODE));
    // A process has one recording.
    let (code, said, _) = run("profiles itself", "leaks,exit=23", &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
}

/// Bug prevented: all blocks are told to come from the program's own allocator around ours, as
/// nothing was learned of its frames while the recorder had itself left out.
fn the_allocators_own_frames_are_learned_also_here() {
    let folder = folder("environment-frames");
    let values = [
        ("returns", "profile,every=1,file=f.txt,file=f.folded"),
        ("leaks", "leaks,file=l.txt"),
    ];
    for (part, value) in values {
        let (code, said, _) = run(part, value, &folder);
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    }
    for name in ["f.txt", "f.folded", "l.txt"] {
        let text = fs::read_to_string(folder.join(name)).expect("a report");
        assert!(text.contains("_here"), "{text}");
        assert!(!text.contains("Around"), "{text}");
    }
    // Nor is what has arranged it a leak.
    let leaks = fs::read_to_string(folder.join("l.txt")).expect("a report");
    assert!(leaks.starts_with("1 block leaked, 4,444 bytes"), "{leaks}");
}

/// Bug prevented: std's own blocks, which no program can free, taken for leaks.
fn a_program_without_leaks_is_told_nothing() {
    let folder = folder("environment-clean");
    let quiet = [
        ("is clean", "leaks,exit=23"),
        (
            "leaks",
            "leaks,exit=23,suppress=nothing,suppress=leaky_here",
        ),
        ("forks and leaks", "leaks,exit=23"),
    ];
    for (part, value) in quiet {
        let (code, said, _) = run(part, value, &folder);
        assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""), "{part}");
    }
    assert!(names_in(&folder).is_empty());
}

fn the_programs_own_profiler_is_told_that_there_is_one() {
    let folder = folder("environment-own");
    let (code, said, _) = run("profiles itself", "profile,file=o.txt", &folder);
    assert_eq!((code, said.as_str()), (Some(OWN_CODE), ""));
    assert_eq!(names_in(&folder), ["o.txt"]);
}

/// Bug prevented: whoever may start a program that gains rights by it has it
/// write files with those rights.
fn a_set_user_id_program_does_not_heed_the_variable() {
    // SAFETY: takes nothing and touches nothing.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can make such a program for this");
        return;
    }
    let folder = std::env::temp_dir().join(format!("heapledger-setuid-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder");
    let program = folder.join("program");
    fs::copy(std::env::current_exe().expect("a path"), &program).expect("a copy");
    // Anybody but us.
    std::os::unix::fs::chown(&program, Some(65_534), Some(65_534)).expect("given away");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("set");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("set");
    let output = Command::new(&program)
        .env(PART, "returns")
        .env("HEAPLEDGER", "profile,file=s.txt")
        .current_dir(&folder)
        .output()
        .expect("it runs");
    let names = names_in(&folder);
    fs::remove_dir_all(&folder).expect("it goes");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(code_of(&output), Some(OWN_CODE), "{said}");
    assert_eq!(
        said,
        "heapledger: HEAPLEDGER is not heeded by a set-user-id program\n"
    );
    assert_eq!(names, ["program"]);
}

fn main() -> ExitCode {
    if let Ok(part) = std::env::var(PART) {
        return program(&part);
    }
    support::main(cases![
        each_format_is_written_at_exit,
        every_way_through_exit_writes_the_report_and_keeps_the_exit_code,
        the_end_of_the_process_is_the_last_moment_that_is_told,
        the_thread_that_ends_the_process_is_told_of,
        a_report_counts_nothing_of_its_own,
        a_thread_with_half_a_character_in_its_name_is_told_of,
        samples_are_the_default_and_are_estimates,
        a_name_is_bound_to_the_folder_of_the_start,
        signals_write_numbered_reports_while_the_program_runs,
        a_program_that_is_never_signalled_writes_nothing_when_only_signals_count,
        reports_that_were_asked_for_are_written_before_the_end,
        the_handler_runs_on_the_stack_for_signals,
        a_bad_setting_is_told_in_one_line_and_the_program_goes_on,
        a_file_that_cannot_be_written_is_named_and_nothing_else_changes,
        a_forked_child_writes_a_report_of_its_own,
        a_forked_child_says_that_it_has_no_thread_for_the_signal,
        without_the_variable_there_is_no_thread_and_no_file,
        the_programs_own_profiler_is_told_that_there_is_one,
        the_allocators_own_frames_are_learned_also_here,
        leaks_are_reported_at_exit_where_and_how_it_was_said,
        a_program_without_leaks_is_told_nothing,
        a_set_user_id_program_does_not_heed_the_variable,
    ])
}
