//! Reports on threads with little stack: they are as they are elsewhere, and have names.
#![cfg(all(target_os = "linux", target_arch = "x86_64", feature = "profile"))]

#[path = "support/folders.rs"]
mod folders;
#[path = "support/programs.rs"]
mod programs;
mod support;

use std::hint::black_box;
use std::mem::forget;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::thread;

use heapledger::profile::{Format, HeapProfile, Value};
use heapledger::{Profiler, TrackingAllocator, assert_no_alloc, leaks};
use programs::{PART, code_of, command, said_by};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Bytes that a thread of a frugal program has; without optimisation, std's own backtraces need
/// two thirds of that.
const SMALL: usize = 48 << 10;

fn main() -> ExitCode {
    if std::env::var_os(PART).is_some() {
        on_a_small_stack(|| {
            leak();
            std::process::exit(5)
        });
    }
    support::main(cases![
        a_check_that_fails_there_has_names,
        many_checks_there_are_all_reported,
        an_assertion_that_fails_there_has_its_place,
        a_profile_is_written_there_in_all_formats,
        a_process_that_exits_there_reports_its_leaks,
        a_process_that_exits_there_reports_its_heap,
        what_a_report_there_takes_is_no_leak_of_anyone_s,
    ])
}

fn on_a_small_stack<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let small = thread::Builder::new().stack_size(SMALL);
        let thread = small.spawn_scoped(scope, work).expect("a thread");
        thread.join().expect("no panic")
    })
}

const LINE: u32 = line!() + 4;
/// From here, in that line, a block is leaked.
#[inline(never)]
fn leak() {
    forget(black_box(vec![1u8; 77]));
    black_box(());
}

fn place() -> String {
    format!("tests/small_stacks.rs:{LINE}")
}

/// Bug prevented: names are looked up on the stack of the thread whose check has failed, which
/// overflows, and the process is gone with no word of the leak.
fn a_check_that_fails_there_has_names() {
    let (location, text) = on_a_small_stack(|| {
        let report = leaks::check(leak).expect_err("77 bytes");
        (report.sites[0].location(), format!("{report}"))
    });
    assert_eq!(location, place());
    assert!(text.contains(&format!("leak at {}", place())), "{text}");
    assert!(!text.contains("no names"), "{text}");
}

/// Bug prevented: those who look names up wait for each other.
fn many_checks_there_are_all_reported() {
    let locations = thread::scope(|scope| {
        let check = || {
            let all = (0..5).map(|_| leaks::check(leak).expect_err("77 bytes"));
            all.map(|report| report.sites[0].location()).collect()
        };
        let threads: Vec<_> = (0..20)
            .map(|_| {
                let small = thread::Builder::new().stack_size(SMALL);
                small.spawn_scoped(scope, check).expect("a thread")
            })
            .collect();
        let all = threads.into_iter().map(thread::ScopedJoinHandle::join);
        all.collect::<Result<Vec<Vec<String>>, _>>()
            .expect("no panic")
    });
    let all = locations.concat();
    assert_eq!(all.len(), 100);
    assert!(all.iter().all(|location| *location == place()), "{all:?}");
}

/// Bug prevented: the same where an assertion of no allocations fails.
fn an_assertion_that_fails_there_has_its_place() {
    let said = on_a_small_stack(|| {
        let panic = catch_unwind(|| assert_no_alloc!(leak)).expect_err("77 bytes");
        panic.downcast_ref::<String>().cloned()
    });
    let said = said.expect("a message");
    assert!(said.contains(&format!("77 at {}", place())), "{said}");
}

/// A profile in one format.
type Written = fn(&HeapProfile, &mut Vec<u8>) -> std::io::Result<()>;

/// Bug prevented: the same where a profile is given its names; or where it is compressed, which
/// takes ten times that stack without optimisation.
fn a_profile_is_written_there_in_all_formats() {
    let formats: [(&str, Written); 5] = [
        ("text", |profile, to| profile.write_text(to)),
        ("dhat", |profile, to| profile.write_dhat(to)),
        ("folded", |profile, to| {
            profile.write_folded(to, Value::LiveBytes)
        }),
        ("html", |profile, to| profile.write_html(to)),
        ("pprof", |profile, to| profile.write_pprof(to)),
    ];
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    leak();
    for (name, write) in formats {
        let bytes = on_a_small_stack(|| {
            let mut bytes = Vec::new();
            write(&profiler.snapshot(), &mut bytes).expect("a vector");
            bytes
        });
        let has_place = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("small_stacks");
        assert!(
            if name == "pprof" {
                bytes.starts_with(&[0x1f, 0x8b])
            } else {
                has_place(&bytes)
            },
            "{name}"
        );
    }
    let file = folders::folder("small").join("heap.pb.gz");
    on_a_small_stack(|| {
        let profile = profiler.snapshot();
        profile.save(&file, Format::Pprof).expect("a file");
    });
    assert!(file.metadata().expect("a file").len() > 100);
}

/// Bug prevented: a program that any of its threads may end has no report when a small one does,
/// and ends by a signal.
fn a_process_that_exits_there_reports_its_leaks() {
    let folder = folders::folder("small-leaks");
    let mut program = command("exits", Some("leaks,exit=23"), &folder);
    let output = program.output().expect("it runs");
    let said = said_by(&output);
    assert_eq!(code_of(&output), Some(23), "{said}");
    assert!(said.contains(&format!("leak at {}", place())), "{said}");
}

/// Bug prevented: the same with a profile.
fn a_process_that_exits_there_reports_its_heap() {
    let folder = folders::folder("small-heap");
    let files = ["heap.html", "heap.json", "heap.pb.gz", "heap.txt"];
    for name in files {
        let value = format!("profile,every=1,file={name}");
        let output = command("exits", Some(&value), &folder).output();
        let output = output.expect("it runs");
        assert_eq!(code_of(&output), Some(5), "{}", said_by(&output));
    }
    assert_eq!(folders::names_in(&folder), files);
}

/// Bug prevented: what looks names up is a thread of the program's, and what it takes is
/// leaked, or in the profile that is under way.
fn what_a_report_there_takes_is_no_leak_of_anyone_s() {
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only one");
    let begin = on_a_small_stack(|| {
        let mut begin = profiler.snapshot();
        begin.symbolize();
        let threads = begin.threads.len();
        let verdict = leaks::check(|| profiler.snapshot().symbolize());
        assert!(verdict.is_ok(), "{verdict:?}");
        let mut after = profiler.snapshot();
        after.symbolize();
        assert_eq!(after.threads.len(), threads);
        let change = after.diff(&begin).total;
        assert!(change.is_zero(), "{change}");
        begin
    });
    drop(begin);
}
