//! The figures of a leak check against valgrind's memcheck, which knows nothing
//! of us: the same code, the same number of blocks and bytes.
#![allow(
    unsafe_code,
    reason = "the fixture asks the allocator for layouts that no collection asks for"
)]

mod support;

#[path = "fixtures/leaky.rs"]
mod leaky;

use std::process::{Command, ExitCode};

use heapledger::{TrackingAllocator, leaks};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Says to a run of this binary that it is the program to be judged.
const MODE: &str = "HEAPLEDGER_TEST_LEAKY";

fn main() -> ExitCode {
    match std::env::var(MODE).as_deref() {
        Ok(mode) => {
            // What std and we make for the first thread is in both.
            leaky::body(false);
            leaky::body(mode == "leak");
            ExitCode::SUCCESS
        }
        Err(_) => support::main(cases![memcheck_and_the_check_find_the_same]),
    }
}

/// Blocks and bytes that memcheck finds at the end, lost or not.
fn memcheck(mode: &str) -> Option<(u64, u64)> {
    let program = std::env::current_exe().expect("a path");
    let judge = Command::new("valgrind")
        .args([
            "--tool=memcheck",
            "--leak-check=full",
            "--show-leak-kinds=all",
        ])
        .arg(program)
        .env(MODE, mode)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&judge.stderr).into_owned();
    assert!(judge.status.success(), "{text}");
    let (mut blocks, mut bytes, mut kinds) = (0, 0, 0);
    let (_, summary) = text.split_once("LEAK SUMMARY:").unwrap_or_else(|| {
        assert!(text.contains("no leaks are possible"), "{text}");
        ("", "")
    });
    // `definitely lost: 1,234 bytes in 5 blocks`, and so on for each kind.
    for line in summary.lines() {
        let Some((_, figures)) = line
            .split_once(": ")
            .filter(|line| line.1.contains(" blocks"))
        else {
            continue;
        };
        let mut numbers = figures
            .split(' ')
            .filter_map(|word| word.replace(',', "").parse::<u64>().ok());
        bytes += numbers.next().expect("bytes");
        blocks += numbers.next().expect("blocks");
        kinds += 1;
    }
    assert!(kinds == 0 || kinds >= 4, "another kind of summary: {text}");
    Some((blocks, bytes))
}

fn memcheck_and_the_check_find_the_same() {
    let (Some(leaking), Some(tidy)) = (memcheck("leak"), memcheck("tidy")) else {
        println!("skipped: valgrind is not installed");
        return;
    };
    let theirs = (leaking.0 - tidy.0, leaking.1 - tidy.1);
    leaky::body(false);
    assert!(leaks::check(|| leaky::body(false)).is_ok());
    let report = leaks::check(|| leaky::body(true)).expect_err("it leaks");
    // Forty vectors, and what else the fixture lists.
    assert!(theirs.0 > 150, "{theirs:?}");
    assert_eq!((report.blocks(), report.bytes()), theirs, "{report:#}");
    println!("{} blocks, {} bytes", theirs.0, theirs.1);
}
