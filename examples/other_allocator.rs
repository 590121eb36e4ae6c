//! The same books over another allocator: mimalloc does the work here.
//!
//! ```text
//! cargo run --release --example other_allocator
//! ```

use std::hint::black_box;

use heapledger::TrackingAllocator;
use mimalloc::MiMalloc;

#[global_allocator]
static HEAP: TrackingAllocator<MiMalloc> = TrackingAllocator::over(MiMalloc);

fn main() {
    let (words, stats) = heapledger::measure(|| {
        let words: Vec<String> = (0..10_000).map(|i| format!("word {i}")).collect();
        black_box(words)
    });
    println!("10,000 words over mimalloc:\n{stats}");

    // What was asked for is what is counted, whoever gave the memory.
    let asked: usize =
        words.iter().map(String::capacity).sum::<usize>() + words.capacity() * size_of::<String>();
    assert_eq!(stats.net_bytes(), i64::try_from(asked).expect("small"));
    println!("\ncapacities add up to the same {asked} bytes");
}
