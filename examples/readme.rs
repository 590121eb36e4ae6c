//! The program at the top of the README.

use heapledger::TrackingAllocator;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

fn main() {
    let (words, work) = heapledger::measure(|| {
        let text = "every byte is entered in the ledger ".repeat(100);
        text.split_whitespace()
            .map(String::from)
            .collect::<Vec<_>>()
    });
    println!("{} words\n{work}", words.len());
}
