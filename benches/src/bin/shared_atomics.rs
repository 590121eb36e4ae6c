//! The obvious design.

heapledger_benches::program!(
    heapledger_benches::peers::SharedAtomics,
    heapledger_benches::peers::SharedAtomics
);
