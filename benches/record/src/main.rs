//! What the recorder's rooms cost: the call tree and the live table alone.
//!
//! ```text
//! cargo run --release -p heapledger-record-bench            all
//! cargo run --release -p heapledger-record-bench -- tree    those whose name has `tree` in it
//! ```
//!
//! Each figure is the least of several runs in nanoseconds per operation, as a
//! markdown table. Two threads run the same work at the same time; the figure is
//! that of the slower one.

mod table;
mod timing;
mod tree;

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    println!("| what | 1 thread, ns | 2 threads, ns |\n|---|---|---|");
    tree::run(&wanted);
    table::run(&wanted);
}
