//! `cap`, with no limit that could be reached.

heapledger_benches::program!(
    cap::Cap<std::alloc::System>,
    cap::Cap::new(std::alloc::System, usize::MAX)
);
