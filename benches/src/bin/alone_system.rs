//! The pair in a program of one crate. `System`, installed.

heapledger_benches::alone!(std::alloc::System, std::alloc::System);
