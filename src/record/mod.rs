//! Recording: which stacks there are, and which blocks are alive.
//!
//! What runs here runs inside `alloc` and `dealloc`, on every recorded block: it
//! never allocates through the global allocator, never parks, never panics, and
//! calls nobody else's code. When memory ends or a lock cannot be had, the
//! operation is counted as lost and the program goes on; reports say that they
//! are incomplete.

#[cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "asks the C library to tell of forks")
)]
mod fork;
mod lock;
#[cfg(not(loom))]
mod table;
mod tree;
#[expect(unsafe_code, reason = "cells in one block of the system's memory")]
mod zone;

#[cfg(not(loom))]
pub use table::{DEFAULT_RECORDS, Record, Table, TableLosses};
pub use tree::{DEFAULT_NODES, OVERFLOW, ROOT, Tree, TreeLosses};
