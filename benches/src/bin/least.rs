//! The least that counting can take.

heapledger_benches::program!(
    heapledger_benches::least::Least,
    heapledger_benches::least::Least::over(std::alloc::System)
);
