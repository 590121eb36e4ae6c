//! What the recorder takes for itself is in no profile: not in its peak, not over time, not
//! in its totals.
#![cfg(all(target_os = "linux", feature = "profile"))]
#![allow(unsafe_code, reason = "sends itself a signal")]

#[path = "support/folders.rs"]
mod folders;
mod support;

use std::fmt::{self, Write as _};
use std::hint::black_box;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use heapledger::profile::{Format, HeapProfile, ProfileDiff, Value};
use heapledger::{Profiler, TrackingAllocator, leaks};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

const SIGNALLED: &str = "HEAPLEDGER_TEST_SIGNALLED";

fn main() -> ExitCode {
    if std::env::var_os(SIGNALLED).is_some() {
        is_below_its_peak_when_a_report_is_wanted();
        return ExitCode::SUCCESS;
    }
    support::main(cases![
        names_that_are_looked_up_are_no_peak,
        names_that_are_looked_up_from_a_small_stack_are_no_peak,
        what_is_asked_for_before_a_report_is_no_peak,
        reports_that_come_and_go_leave_the_live_bytes_as_they_are,
        reports_on_a_small_stack_leave_the_live_bytes_as_they_are,
        names_that_a_check_looks_up_are_no_leak_of_it,
        a_report_that_is_written_is_in_no_profile,
        what_the_callers_writer_allocates_is_in_the_profile,
        a_report_that_is_being_written_is_no_peak,
    ])
}

/// Allocates and frees a little all the time, and so looks around.
fn busily<R>(work: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..500 {
                    drop(black_box(vec![1u8; 1_000]));
                }
                thread::sleep(Duration::from_micros(100));
            }
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// By how much two figures differ that are of one moment.
#[track_caller]
fn assert_near(a: u64, b: u64, what: &str) {
    assert!(a.abs_diff(b) < 1 << 20, "{what}: {a}, {b}");
}

/// The profile's peak is of so many bytes, and the stacks have them.
#[track_caller]
fn assert_peak(profile: &HeapProfile, bytes: u64) {
    assert_near(profile.peak.live_bytes, bytes, "peak");
    let of_stacks = profile.peak_amount().bytes;
    assert_near(of_stacks, bytes, "shares");
    let highest = profile.timeline.iter().map(|moment| moment.live_bytes);
    assert!(highest.max() < Some(bytes + (1 << 20)), "over time");
}

/// Bug prevented: what names take is the profile's peak, of which no stack has anything, and the
/// true one is lost.
fn names_that_are_looked_up_are_no_peak() {
    const TRUE_PEAK: usize = 20_000_000;
    let builders = [
        Profiler::builder().sample_every(16 * 1024),
        Profiler::builder().every_allocation(),
    ];
    for builder in builders {
        let profiler = builder.start().expect("the only one");
        drop(black_box(vec![1u8; TRUE_PEAK]));
        busily(|| {
            heapledger::reset_peak();
            let mut profile = profiler.snapshot();
            profile.symbolize();
            let taken = heapledger::stats().peak_bytes;
            // Or nothing is tested here.
            assert!(taken > TRUE_PEAK as u64, "{taken}");
        });
        let profile = profiler.finish();
        assert_peak(&profile, TRUE_PEAK as u64);
        // Nor are they alive in the line that says so, beside the peak.
        let mut text = Vec::new();
        profile.write_text(&mut text).expect("a vector");
        let text = String::from_utf8(text).expect("a text");
        let line = text.lines().find(|line| line.contains(" alive, at most "));
        let line = line.expect("a line");
        assert!(
            !line.contains("MiB alive") && line.contains("at most 19."),
            "{line}"
        );
        let counted = profile.stats.live_bytes;
        assert!(counted > TRUE_PEAK as u64, "{counted}");
    }
}

/// Runs `work` on a thread that has too little stack to look up names.
fn on_a_small_stack(work: fn()) {
    let small = thread::Builder::new().stack_size(256 << 10);
    let thread = small.spawn(work).expect("a thread");
    thread.join().expect("no panic");
}

/// Bug prevented: what names take is the program's where they were looked up on another stack.
fn names_that_are_looked_up_from_a_small_stack_are_no_peak() {
    on_a_small_stack(names_that_are_looked_up_are_no_peak);
}

fn is_below_its_peak_when_a_report_is_wanted() {
    let kept = black_box(vec![1u8; 100_000_000]);
    drop(black_box(vec![1u8; 20_000_000]));
    busily(|| {
        // SAFETY: a signal to ourselves; there is a handler.
        unsafe { libc::raise(libc::SIGUSR2) };
        let begin = Instant::now();
        let is_reported = || std::fs::exists("heap-1.txt").is_ok_and(|is_there| is_there);
        while !is_reported() && begin.elapsed() < Duration::from_mins(1) {
            thread::sleep(Duration::from_millis(10));
        }
    });
    assert!(heapledger::stats().peak_bytes > 160_000_000);
    drop(kept);
}

/// Bug prevented: the block that is asked for before a report, and given back, is the peak.
fn what_is_asked_for_before_a_report_is_no_peak() {
    let folder = folders::folder("apart-signal");
    let output = Command::new(std::env::current_exe().expect("a path"))
        .env(SIGNALLED, "")
        .env(
            "HEAPLEDGER",
            "profile,every=16k,signal=USR2,file=heap-{n}.txt",
        )
        .current_dir(&folder)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(folders::names_in(&folder), ["heap-1.txt", "heap-2.txt"]);
    let report = std::fs::read_to_string(folder.join("heap-2.txt")).expect("the last report");
    let line = report.lines().find(|line| line.contains("at the peak"));
    // 120,000,000 bytes, and a little.
    let line = line.expect("a line");
    assert!(line.contains(" 114."), "{line}");
    let process = report.lines().find(|line| line.contains(" at most "));
    let process = process.expect("a line");
    assert!(process.contains("at most 114."), "{process}");
}

/// Bug prevented: a report that its caller drops counts as freed by the program that has never
/// allocated it; the live bytes sink with each.
fn reports_that_come_and_go_leave_the_live_bytes_as_they_are() {
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    let take = || {
        let mut profile = profiler.snapshot();
        profile.symbolize();
        profile.write_text(io::sink()).expect("a sink");
        profile
    };
    drop(take());
    let last = |profile: &HeapProfile| profile.timeline.last().map(|moment| moment.live_bytes);
    let first = last(&profiler.snapshot()).expect("a moment");
    for _ in 0..200 {
        drop(take());
    }
    thread::sleep(Duration::from_millis(20));
    drop(black_box(vec![1u8; 10]));
    let profile = profiler.snapshot();
    let after = last(&profile).expect("a moment");
    assert!(first.abs_diff(after) < 100_000, "{first}, {after}");
    // And those that are kept are the program's.
    let kept: Vec<HeapProfile> = (0..50).map(|_| take()).collect();
    drop(black_box(vec![1u8; 5_000_000]));
    let profile = profiler.finish();
    let peak = profile.peak.live_bytes;
    assert!(peak > 5_000_000 + first, "{peak}");
    drop(kept);
}

/// Bug prevented: the same where another thread has allocated a part of it.
fn reports_on_a_small_stack_leave_the_live_bytes_as_they_are() {
    on_a_small_stack(reports_that_come_and_go_leave_the_live_bytes_as_they_are);
}

/// Bug prevented: a profile that gets its names inside of a check is a leak of the check, and a
/// block of the profile that is under way.
fn names_that_a_check_looks_up_are_no_leak_of_it() {
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    let kept = black_box(vec![1u8; 10]);
    let mut profile = profiler.snapshot();
    let verdict = leaks::check(|| profile.symbolize());
    assert!(verdict.is_ok(), "{verdict:?}");
    let change = profiler.snapshot().diff(&profile);
    assert!(change.total.is_zero(), "{}", change.total);
    drop(kept);
}

/// Takes everything, and no memory for it.
struct Nowhere;

impl fmt::Write for Nowhere {
    fn write_str(&mut self, _text: &str) -> fmt::Result {
        Ok(())
    }
}

/// Writes this profile or that difference.
type Report = fn(&HeapProfile, &ProfileDiff);

/// Where a profile is saved to; made before.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// What is laid out without being profiled.
const REPORTS: [(&str, Report); 8] = [
    ("text", |profile, _| {
        profile.write_text(io::sink()).expect("a sink");
    }),
    ("dhat", |profile, _| {
        profile.write_dhat(io::sink()).expect("a sink");
    }),
    ("pprof", |profile, _| {
        profile.write_pprof(io::sink()).expect("a sink");
    }),
    ("folded", |profile, _| {
        let value = Value::LiveBytes;
        profile.write_folded(io::sink(), value).expect("a sink");
    }),
    ("html", |profile, _| {
        profile.write_html(io::sink()).expect("a sink");
    }),
    ("file", |profile, _| {
        let file = FILE.get().expect("a path");
        profile.save(file, Format::Html).expect("a file");
    }),
    ("difference", |_, diff| {
        write!(Nowhere, "{diff}").expect("it takes all");
    }),
    ("change", |_, diff| {
        write!(Nowhere, "{}", diff.live).expect("it takes all");
    }),
];

/// Bug prevented: a program that writes a report now and then sees the reports in its profile,
/// beside what it does itself.
fn a_report_that_is_written_is_in_no_profile() {
    let folder = folders::folder("apart-saved");
    FILE.set(folder.join("heap.html")).expect("once");
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    let begin = profiler.snapshot();
    let kept: Vec<Vec<u8>> = (1..100).map(|size| black_box(vec![1; size])).collect();
    let nameless = profiler.snapshot();
    let mut named = nameless.clone();
    named.symbolize();
    for (name, write) in REPORTS {
        for profile in [&nameless, &named] {
            let diff = profile.diff(&begin);
            let before = profiler.snapshot();
            write(profile, &diff);
            let after = profiler.snapshot();
            let change = after.diff(&before).total;
            assert!(change.is_zero(), "{name}: {change}");
        }
    }
    drop(kept);
}

/// A writer of the program's own, which takes 1,000 bytes now and then.
struct Greedy;

impl io::Write for Greedy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(black_box(vec![1u8; 1_000]));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes this profile to a [`Greedy`] writer.
type Handed = fn(&HeapProfile) -> io::Result<()>;

/// Bug prevented: what a program does when it is handed a report is missing in its profile.
fn what_the_callers_writer_allocates_is_in_the_profile() {
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    let kept = black_box(vec![1u8; 10]);
    let mut profile = profiler.snapshot();
    profile.symbolize();
    let reports: [(&str, Handed); 5] = [
        ("html", |profile| profile.write_html(Greedy)),
        ("text", |profile| profile.write_text(Greedy)),
        ("dhat", |profile| profile.write_dhat(Greedy)),
        ("pprof", |profile| profile.write_pprof(Greedy)),
        ("folded", |profile| {
            profile.write_folded(Greedy, Value::LiveBytes)
        }),
    ];
    for (name, write) in reports {
        let before = profiler.snapshot();
        write(&profile).expect("it takes all");
        let change = profiler.snapshot().diff(&before).total;
        assert!(change.blocks > 0, "{name}: {change}");
        assert_eq!(change.bytes, change.blocks * 1_000, "{name}");
    }
    drop(kept);
}

/// A writer of the program's own, which takes so much that a peak would be noted.
struct Noted;

impl io::Write for Noted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for _ in 0..10 {
            drop(black_box(vec![1u8; 70_000]));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A block each of many stacks, told apart by which of two ways was gone at each step.
fn plant(ways: u32, kept: &mut Vec<Vec<u8>>) {
    if ways == 1 {
        kept.push(black_box(vec![1; 10]));
    } else if ways & 1 == 0 {
        left(ways / 2, kept);
    } else {
        right(ways / 2, kept);
    }
}

// Two functions that do the same would be one in a release.
#[inline(never)]
fn left(ways: u32, kept: &mut Vec<Vec<u8>>) {
    plant(ways, kept);
    black_box("left");
}

#[inline(never)]
fn right(ways: u32, kept: &mut Vec<Vec<u8>>) {
    plant(ways, kept);
    black_box("right");
}

/// Bug prevented: the text that a writer is handed is the program's peak while it is written, and
/// the true one is lost.
fn a_report_that_is_being_written_is_no_peak() {
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    let mut kept = Vec::with_capacity(1 << 12);
    (1..1 << 12).for_each(|ways| plant(ways, &mut kept));
    drop(black_box(vec![1u8; 200_000]));
    let mut profile = profiler.snapshot();
    profile.symbolize();
    // The snapshot is the program's.
    drop(black_box(vec![1u8; 200_000]));
    let peak = profiler.snapshot().peak.live_bytes;
    for (name, write) in [
        ("dhat", (|profile| profile.write_dhat(Noted)) as Handed),
        ("html", |profile| profile.write_html(Noted)),
    ] {
        write(&profile).expect("it takes all");
        let now = profiler.snapshot().peak.live_bytes;
        assert!(now < peak + 100_000, "{name}: {now}, {peak} before");
    }
    let mut text = Vec::new();
    profile.write_dhat(&mut text).expect("a vector");
    // Or nothing is tested here.
    assert!(text.len() > 300_000, "{}", text.len());
    drop(kept);
}
