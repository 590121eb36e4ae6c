//! The pair in a program of one crate. The least that counting can take.

heapledger_benches::alone!(
    heapledger_benches::least::Least,
    heapledger_benches::least::Least::over(std::alloc::System),
    heapledger_benches::least::Least::<std::alloc::System>::allocations()
);
