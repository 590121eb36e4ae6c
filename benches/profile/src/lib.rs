//! The work that is recorded: real programs, and pairs of calls.
//!
//! ```text
//!   <binary> json | syn | map | channel <how>     nanoseconds that the work took
//!   <binary> two <how>                            the same for two threads that record
//!   <binary> pairs <how>                          nanoseconds for 20 million pairs
//! ```
//!
//! `<how>` is what the binary makes of it: how much is recorded.

use std::hint::black_box;
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Instant;

use heapledger_benches::samples::{Random, json, rust};

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
    match work.as_str() {
        "json" => parse_json(&how, start),
        "syn" => parse_rust(&how, start),
        "map" => churn_map(&how, start),
        "channel" => send_strings(&how, start),
        "one" => on_threads(1, &how, start),
        "two" => on_threads(2, &how, start),
        "pairs" => pairs(&how, start),
        _ => panic!("usage: json | syn | map | channel | one | two | pairs, and how"),
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

/// Three megabytes of JSON to a tree and back to nothing, twice.
fn parse_json(how: &str, start: Recorder) {
    let text = json(3_000_000);
    timed(how, start, || {
        for _ in 0..2 {
            let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
            drop(black_box(value));
        }
    });
}

/// 300 kilobytes of Rust to a syntax tree and back to nothing.
fn parse_rust(how: &str, start: Recorder) {
    let text = rust(300_000);
    timed(how, start, || {
        drop(black_box(syn::parse_file(&text).expect("valid Rust")));
    });
}

/// Strings that come to a map and go again.
fn churn_map(how: &str, start: Recorder) {
    let mut random = Random::new(5);
    let words: Vec<String> = (0..50_000).map(|_| random.word(8, 40)).collect();
    timed(how, start, || {
        let mut map = std::collections::HashMap::new();
        for round in 0..400_000 {
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

/// Strings made on one thread, read and dropped on another.
fn send_strings(how: &str, start: Recorder) {
    const STRINGS: usize = 200_000;
    let mut random = Random::new(3);
    let words: Vec<String> = (0..1_000).map(|_| random.word(8, 60)).collect();
    timed(how, start, || {
        let (sender, receiver) = mpsc::sync_channel::<String>(4_096);
        let reader = thread::spawn(move || receiver.iter().map(|text| text.len()).sum::<usize>());
        for at in 0..STRINGS {
            let text = format!("{} {at}", words[at % words.len()]);
            sender.send(text).expect("the reader waits");
        }
        drop(sender);
        assert!(reader.join().expect("the reader") > STRINGS);
    });
}

/// The same parse on each of `count` threads at once.
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
