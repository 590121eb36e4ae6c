//! `dhat`, installed but not running.

heapledger_benches::program!(dhat::Alloc, dhat::Alloc);
