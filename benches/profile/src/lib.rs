//! The work that is recorded: real programs, and pairs of calls.
//!
//! ```text
//!   <binary> json | syn | map | channel <how> [times]    nanoseconds that the work took
//!   <binary> two <how>                                   the same for two threads that record
//!   <binary> pairs <how>                                 nanoseconds for 20 million pairs
//! ```
//!
//! `<how>` is what the binary makes of it: how much is recorded. Work that is done several
//! times shows what a program pays that runs for long: what is touched or read for the first
//! time is behind it.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use heapledger_benches::programs::{parse_json, parse_rust, send_strings};
use heapledger_benches::samples::{Random, json};

/// Whole programs.
pub const REAL: [&str; 4] = ["json", "syn", "map", "channel"];

/// Starts recording as its argument says; what it gives ends it when dropped.
pub type Recorder = fn(&str) -> Box<dyn std::any::Any>;

/// Records nothing.
pub fn nothing(_: &str) -> Box<dyn std::any::Any> {
    Box::new(())
}

/// What the binaries do.
pub fn main(start: Recorder) {
    let mut args = std::env::args().skip(1);
    let work = args.next().unwrap_or_default();
    let how = args.next().unwrap_or_default();
    let times = args
        .next()
        .map_or(1, |times| times.parse().expect("how many times"));
    match work.as_str() {
        "json" => parse_json(2 * times, |work| timed(&how, start, work)),
        "syn" => parse_rust(times, |work| timed(&how, start, work)),
        "map" => churn_map(400_000 * times, &how, start),
        "channel" => send_strings(200_000 * times, |work| timed(&how, start, work)),
        "one" => on_threads(1, &how, start),
        "two" => on_threads(2, &how, start),
        "pairs" => pairs(&how, start),
        _ => {
            panic!("usage: json | syn | map | channel | one | two | pairs, how, and how many times")
        }
    }
}

/// Prints how long `work` took, without what came before it and after.
fn timed(how: &str, start: Recorder, work: impl FnOnce()) {
    let recorder = start(how);
    let begin = Instant::now();
    work();
    println!("{}", begin.elapsed().as_nanos());
    drop(recorder);
}

/// Strings that come to a map and go again.
fn churn_map(rounds: usize, how: &str, start: Recorder) {
    let mut random = Random::new(5);
    let words: Vec<String> = (0..50_000).map(|_| random.word(8, 40)).collect();
    timed(how, start, || {
        let mut map = std::collections::HashMap::new();
        for round in 0..rounds {
            let word = &words[random.between(0, words.len() - 1)];
            if round % 2 == 0 {
                map.insert(word.clone(), format!("value {round}"));
            } else {
                map.remove(word);
            }
        }
        drop(black_box(map));
    });
}

/// A parse of JSON on each of `count` threads at once.
fn on_threads(count: usize, how: &str, start: Recorder) {
    let text = json(1_500_000);
    timed(how, start, || {
        let gate = Barrier::new(count);
        thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| {
                    gate.wait();
                    for _ in 0..2 {
                        let value: serde_json::Value =
                            serde_json::from_str(&text).expect("valid JSON");
                        drop(black_box(value));
                    }
                });
            }
        });
    });
}

/// Twenty million blocks of 64 bytes, made and dropped one after the other.
fn pairs(how: &str, start: Recorder) {
    timed(how, start, || {
        for _ in 0..20_000_000 {
            drop(black_box(Box::new(black_box([0_u64; 8]))));
        }
    });
}
