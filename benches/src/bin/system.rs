//! `System`, installed.

heapledger_benches::program!(std::alloc::System, std::alloc::System);
