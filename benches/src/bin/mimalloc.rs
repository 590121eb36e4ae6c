//! mimalloc.

heapledger_benches::program!(mimalloc::MiMalloc, mimalloc::MiMalloc);
