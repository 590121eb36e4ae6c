//! No `#[global_allocator]`: std's own way to the system.

heapledger_benches::program!();
