//! The totals of a profile of every allocation against valgrind's DHAT, which
//! knows nothing of us: the same code, the same number of blocks and bytes.
#![cfg(feature = "profile")]

mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use heapledger::{Profiler, TrackingAllocator};

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Says to a run of this binary that it is the program to be judged.
const MODE: &str = "HEAPLEDGER_TEST_JUDGED";

fn main() -> ExitCode {
    match std::env::var(MODE).as_deref() {
        Ok(mode) => {
            // What std makes for the first thread is in both.
            drop(work());
            if mode == "work" {
                // Alive when the program ends.
                std::mem::forget(work());
            }
            ExitCode::SUCCESS
        }
        Err(_) => support::main(cases![dhat_and_the_profile_find_the_same]),
    }
}

/// Allocates in many sizes and frees some of it. Nothing is resized, which DHAT
/// counts in another way.
fn work() -> (BTreeMap<u32, String>, Vec<Vec<u8>>) {
    let map: BTreeMap<u32, String> = (0..500).map(|i| (i, format!("value {i}"))).collect();
    let mut kept = Vec::with_capacity(300);
    for size in 1..300usize {
        let some = black_box(vec![1u8; size * 7]);
        if size % 3 == 0 {
            kept.push(some);
        }
    }
    drop(black_box(Box::new([0u64; 1_000])));
    (map, kept)
}

/// Blocks and bytes that DHAT counts in all, and alive at the end.
fn dhat(mode: &str) -> Option<[u64; 4]> {
    let out = std::env::temp_dir().join(format!("judged-{}-{mode}", std::process::id()));
    let program = std::env::current_exe().expect("a path");
    let judge = Command::new("valgrind")
        .arg("--tool=dhat")
        .arg(format!("--dhat-out-file={}", out.display()))
        .arg(program)
        .env(MODE, mode)
        .output()
        .ok()?;
    drop(std::fs::remove_file(out));
    let text = String::from_utf8_lossy(&judge.stderr).into_owned();
    assert!(judge.status.success(), "{text}");
    // `==1== Total:     1,234 bytes in 56 blocks`
    let figures = |name: &str| {
        let (_, rest) = text.split_once(name).expect("DHAT's summary");
        let mut numbers = rest
            .lines()
            .next()
            .unwrap_or_default()
            .split(' ')
            .filter_map(|word| word.replace(',', "").parse::<u64>().ok());
        let bytes = numbers.next().expect("bytes");
        (numbers.next().expect("blocks"), bytes)
    };
    let (total, end) = (figures("Total:"), figures("At t-end:"));
    Some([total.0, total.1, end.0, end.1])
}

fn dhat_and_the_profile_find_the_same() {
    let (Some(working), Some(idle)) = (dhat("work"), dhat("idle")) else {
        println!("skipped: valgrind is not installed");
        return;
    };
    let theirs: Vec<u64> = working.iter().zip(idle).map(|(a, b)| a - b).collect();
    drop(work());
    let profiler = Profiler::builder().every_allocation().start();
    let profiler = profiler.expect("the only profile");
    let kept = work();
    let profile = profiler.finish();
    let (total, live) = (profile.total(), profile.live());
    let resizes: u64 = profile.stacks.iter().map(|stack| stack.reallocations).sum();
    println!("{theirs:?} {resizes}");
    assert_eq!(
        [total.blocks, total.bytes, live.blocks, live.bytes],
        *theirs
    );
    drop(kept);
}
