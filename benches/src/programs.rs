//! The whole programs: real work under whatever allocator the binary installs.
//!
//! ```text
//!   <binary> json | syn | channel     nanoseconds that the work took
//!   <binary> pairs <n>                nanoseconds for n boxes made and dropped
//!   <binary> boxes <n>                nothing: for callgrind
//!   <binary> threads <n>              bytes that n parked threads cost
//! ```

use std::hint::black_box;
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use crate::samples::{Random, json, rust};

/// The programs that do real work.
pub const REAL: [&str; 3] = ["json", "syn", "channel"];

/// What the binaries in `src/bin` do.
pub fn main() {
    let mut args = std::env::args().skip(1);
    let work = args.next().unwrap_or_default();
    let count = args.next().and_then(|count| count.parse().ok());
    match (work.as_str(), count) {
        ("json", _) => parse_json(4, |work| timed(work)),
        ("syn", _) => parse_rust(2, |work| timed(work)),
        ("channel", _) => send_strings(400_000, |work| timed(work)),
        ("pairs", Some(count)) => timed(|| boxes(count)),
        ("boxes", Some(count)) => boxes(count),
        ("threads", Some(count)) => park_threads(count),
        _ => panic!("usage: json | syn | channel | pairs <n> | boxes <n> | threads <n>"),
    }
}

/// Prints how long `work` took, without what came before it.
fn timed(work: impl FnOnce()) {
    let start = Instant::now();
    work();
    println!("{}", start.elapsed().as_nanos());
}

/// Three megabytes of JSON to a tree and back to nothing, `rounds` times. `timed`
/// gets what is to be measured, without what must be there before.
pub fn parse_json(rounds: usize, timed: impl FnOnce(&mut dyn FnMut())) {
    let text = json(3_000_000);
    timed(&mut || {
        for _ in 0..rounds {
            let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
            drop(black_box(value));
        }
    });
}

/// 300 kilobytes of Rust to a syntax tree and back to nothing, `rounds` times.
pub fn parse_rust(rounds: usize, timed: impl FnOnce(&mut dyn FnMut())) {
    let text = rust(300_000);
    timed(&mut || {
        for _ in 0..rounds {
            drop(black_box(syn::parse_file(&text).expect("valid Rust")));
        }
    });
}

/// So many strings made on one thread, read and dropped on another.
pub fn send_strings(strings: usize, timed: impl FnOnce(&mut dyn FnMut())) {
    let mut random = Random::new(3);
    let words: Vec<String> = (0..1_000).map(|_| random.word(8, 60)).collect();
    timed(&mut || {
        let (sender, receiver) = mpsc::sync_channel::<String>(4_096);
        let reader = thread::spawn(move || receiver.iter().map(|text| text.len()).sum::<usize>());
        for at in 0..strings {
            let text = format!("{} {at}", words[at % words.len()]);
            sender.send(text).expect("the reader waits");
        }
        drop(sender);
        assert!(reader.join().expect("the reader") > strings);
    });
}

/// A boxed 64-byte value made and dropped, `count` times.
fn boxes(count: usize) {
    for _ in 0..count {
        drop(black_box(Box::new(black_box([0_u64; 8]))));
    }
}

/// Prints by how many bytes `count` parked threads that have allocated raise
/// what the C library has handed out, and what is resident.
fn park_threads(count: usize) {
    let gate = Arc::new(Barrier::new(count + 1));
    let mut threads = Vec::with_capacity(count);
    let before = (handed_out(), resident());
    for _ in 0..count {
        let gate = Arc::clone(&gate);
        // Small stacks, so that theirs is not the only memory to be seen.
        let thread = thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            drop(black_box(Box::new([0_u64; 8])));
            gate.wait();
            gate.wait();
        });
        threads.push(thread.expect("a thread"));
    }
    gate.wait();
    let after = (handed_out(), resident());
    gate.wait();
    for thread in threads {
        thread.join().expect("a thread");
    }
    println!(
        "{} {}",
        after.0.saturating_sub(before.0),
        after.1.saturating_sub(before.1)
    );
}

/// Bytes that the C library's allocator has handed out, in all its arenas.
fn handed_out() -> usize {
    // SAFETY: it takes no arguments and only reads the allocator's own figures, under its locks.
    let figures = unsafe { libc::mallinfo2() };
    figures.uordblks + figures.hblkhd
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4_096 * pages.unwrap_or(0_usize)
}
