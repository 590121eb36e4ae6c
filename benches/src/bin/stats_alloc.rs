//! `stats_alloc`.

heapledger_benches::program!(
    stats_alloc::StatsAlloc<std::alloc::System>,
    stats_alloc::StatsAlloc::system()
);
