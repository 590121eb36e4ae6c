//! The main job: install the allocator, read the books, measure a piece of code.
//!
//! ```text
//! cargo run --release --example quickstart
//! ```

use std::hint::black_box;

use heapledger::TrackingAllocator;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() {
    // What is alive: read first and print later, because printing allocates too.
    let before = heapledger::stats();
    let numbers: Vec<u64> = black_box((0..1_000).collect());
    let filled = heapledger::stats();
    drop(numbers);
    let dropped = heapledger::stats();
    for (moment, stats) in [
        ("before", before),
        ("with 1,000 numbers", filled),
        ("dropped", dropped),
    ] {
        let (bytes, blocks) = (stats.live_bytes, stats.live_blocks);
        println!("{moment:<20} {bytes:>6} bytes in {blocks} blocks");
    }
    assert_eq!(filled.since(&before).live_bytes, 8_000);

    // What one piece of work does: a scope sees this thread only, exactly, with its own peak.
    let text = json(2_000);
    let (value, work) = heapledger::measure(|| {
        serde_json::from_str::<serde_json::Value>(&text).expect("valid JSON")
    });
    println!("\nparsing {} bytes of JSON:\n{work}", text.len());
    drop(value);

    // And the whole process, from its first allocation on, every thread.
    println!("\nthe process:\n{}", HEAP.stats());
}

/// A JSON array of `n` small objects.
fn json(n: usize) -> String {
    let items: Vec<String> = (0..n)
        .map(|i| format!(r#"{{"id":{i},"name":"item {i}","tags":["a","b"],"price":{i}.5}}"#))
        .collect();
    format!("[{}]", items.join(","))
}
