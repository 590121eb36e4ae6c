//! The pair in a program of one crate. No `#[global_allocator]`.

heapledger_benches::alone!();
