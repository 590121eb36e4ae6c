//! Recording: who allocated what is still there.
//!
//! ```text
//!   allocator ──▶ blocks ──▶ visits, everywhere: which recording is this thread in?
//!                   │   └──▶ profiling ──▶ sampler: is it a sample?
//!                   ├──▶ unwind ──▶ tree     the stack, as a node
//!                   ├──▶ table               address ──▶ node, size, birth, recording
//!                   ├──▶ stand_in ──▶ room   samples at addresses that frees know,
//!                   │          └──▶ look     which ask of each block whether it may be one
//!                   └──▶ tally, timeline     what a profile adds up
//! ```
//!
//! A recording is switched on for a thread by a *visit*. A thread with an open
//! visit takes the allocator's cold path on every request, by its slot's mark;
//! others pay nothing on allocating. Frees are looked up by all threads while
//! at least one recording is under way, and only then.
//!
//! What runs here runs inside `alloc` and `dealloc`, on every recorded block: it
//! never allocates through the global allocator, never parks, never panics, and
//! calls nobody else's code. When memory ends or a lock cannot be had, the
//! operation is counted as lost and the program goes on; reports say that they
//! are incomplete.

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "brings blocks to other places")]
mod blocks;
#[cfg(not(loom))]
#[cfg_attr(
    all(target_os = "linux", target_arch = "x86_64"),
    expect(unsafe_code, reason = "asks the system for the time")
)]
mod clock;
#[cfg(not(loom))]
mod estimate;
#[cfg(not(loom))]
mod everywhere;
#[cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "asks the C library to tell of forks")
)]
mod fork;
#[cfg(not(loom))]
mod hooks;
#[cfg(not(loom))]
mod incomplete;
#[cfg(not(loom))]
mod loader;
mod lock;
#[cfg_attr(
    loom,
    allow(
        dead_code,
        reason = "a model asks for what may go wrong, and for no more"
    )
)]
mod look;
#[cfg(not(loom))]
mod moving;
#[cfg(not(loom))]
mod owner;
#[cfg(not(loom))]
mod places;
#[cfg(not(loom))]
mod process;
#[cfg(not(loom))]
mod profiling;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "books for whoever is behind their door")]
mod recording;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "asks for blocks and gives them back")]
mod rehearsal;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "brings blocks to other places")]
mod resize;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "memory that is lent out, and taken back")]
mod room;
#[cfg(not(loom))]
mod sampler;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "memory that stands for other blocks")]
mod stand_in;
#[cfg(not(loom))]
mod survivor;
#[cfg(not(loom))]
mod table;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "entries that are never freed")]
mod tag;
#[cfg(not(loom))]
mod tally;
#[cfg(not(loom))]
mod timeline;
mod tree;
#[cfg(not(loom))]
mod turn;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "a thread's own state, kept with its slot")]
mod visits;
#[expect(unsafe_code, reason = "cells in one block of the system's memory")]
mod zone;

#[cfg(not(loom))]
pub(crate) use blocks::{New, allocated, concerns, freed, may_concern};
#[cfg(not(loom))]
pub(crate) use clock::nap_for;
#[cfg(not(loom))]
pub(crate) use estimate::report_bytes;
#[cfg(not(loom))]
pub(crate) use hooks::{Lost, call, frames, mapped, note_site, notice_libraries, prepare_sites};
#[cfg(not(loom))]
pub use incomplete::Incomplete;
#[cfg(all(not(loom), target_os = "linux"))]
pub(crate) use loader::note_files;
#[cfg(not(loom))]
pub(crate) use loader::{forget_symbols, symbols};
#[cfg(not(loom))]
pub(crate) use look::is_on;
#[cfg(not(loom))]
pub(crate) use owner::Owner;
#[cfg(not(loom))]
pub(crate) use process::Everyone;
#[cfg(not(loom))]
pub(crate) use profiling::{Profiling, Snapshot, set_dense_below, unseen};
#[cfg(not(loom))]
pub(crate) use recording::{Key, Recording};
#[cfg(not(loom))]
pub(crate) use resize::Resize;
#[cfg(not(loom))]
pub(crate) use sampler::Weighed;
#[cfg(not(loom))]
pub(crate) use stand_in::{count as stand_ins, refuse as refuse_stand_ins};
#[cfg(not(loom))]
pub(crate) use survivor::Survivor;
#[cfg(not(loom))]
pub use table::{DEFAULT_RECORDS, Record, Table, TableLosses};
#[cfg(not(loom))]
pub(crate) use tally::StackFigures;
pub use tree::{DEFAULT_NODES, OVERFLOW, ROOT, Tree, TreeLosses};
#[cfg(all(not(loom), target_os = "linux"))]
pub(crate) use visits::is_ours;
#[cfg(not(loom))]
pub(crate) use visits::{Visit, quietly, seed_samples, threads};
