#![doc = include_str!("../README.md")]
//!
//! ## Under `--cfg loom`
//!
//! With this cfg the crate is built for models of its own and has hardly a public name, so
//! a program whose models need it uses heapledger under `cfg(not(loom))`.
// Here and not in Cargo.toml, because tests and examples print and unwrap as they like.
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![warn(clippy::std_instead_of_core, clippy::unwrap_used)]

#[expect(unsafe_code, reason = "our own memory, straight from the system")]
mod arena;
mod error;
#[cfg(feature = "histogram")]
mod histogram;
mod ledger;
pub mod pool;
mod stats;
mod sync;
mod units;
#[cfg(not(loom))]
mod unpolled;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "implements `GlobalAlloc`")]
mod allocator;
#[cfg(not(loom))]
mod assertions;
#[cfg(all(not(loom), feature = "profile", target_os = "linux"))]
pub mod environment;
#[cfg(all(not(loom), feature = "profile"))]
mod export;
#[cfg(not(loom))]
mod installed;
#[cfg(all(not(loom), feature = "profile"))]
pub mod leaks;
#[cfg(not(loom))]
pub mod metrics;
#[cfg(all(not(loom), feature = "profile"))]
pub mod profile;
#[cfg(not(loom))]
mod reading;
#[cfg(feature = "profile")]
mod record;
#[cfg(not(loom))]
mod scope;
#[cfg(all(not(loom), feature = "profile"))]
mod symbols;
#[cfg(all(not(loom), feature = "profile"))]
#[expect(unsafe_code, reason = "reads the stack and the unwind tables")]
mod unwind;

#[cfg(not(loom))]
pub use allocator::TrackingAllocator;
pub use error::Error;
#[cfg(feature = "histogram")]
pub use histogram::{SizeBucket, SizeHistogram};
#[cfg(not(loom))]
pub use installed::is_installed;
#[cfg(all(not(loom), feature = "profile"))]
pub use profile::{HeapProfile, Profiler};
#[cfg(all(not(loom), feature = "histogram"))]
pub use reading::size_histogram;
#[cfg(not(loom))]
pub use reading::{reset_peak, stats, thread_stats, try_stats, try_thread_stats};
#[cfg(not(loom))]
pub use scope::{Entered, InScope, Scope, ScopeHandle, measure, measure_future};
pub use stats::{ScopeStats, Stats, StatsDelta};

/// What the macros expand to, and what only our own tests and benchmarks look
/// at. Not for use
/// by name.
#[cfg(not(loom))]
#[doc(hidden)]
pub mod __private {
    /// For the tests and benchmarks of the names in reports.
    #[cfg(feature = "profile")]
    pub mod symbols {
        pub use crate::symbols::{Frame, Origin, Resolved, Symbols};
    }

    /// For the tests and benchmarks of the formats: profiles that no process has written.
    #[cfg(feature = "profile")]
    pub mod profile {
        use std::sync::Arc;

        use crate::profile::{HeapProfile, Mode, Names};

        /// Sets the interval from which on small samples get stand-ins.
        pub fn set_dense_below(interval: u64) {
            crate::record::set_dense_below(interval);
        }

        /// Refuses stand-ins from now on, or no more.
        pub fn refuse_stand_ins(are_refused: bool) {
            crate::record::refuse_stand_ins(are_refused);
        }

        /// How many stand-ins there are.
        pub fn stand_ins() -> u32 {
            crate::record::stand_ins()
        }

        /// Makes the calling thread's samples repeatable.
        pub fn seed_samples(seed: u64) {
            crate::record::seed_samples(seed);
        }

        /// A profile of nothing, to be filled in.
        pub fn empty(mode: Mode, names: Option<Names>) -> HeapProfile {
            let mut profile = HeapProfile::empty(mode);
            profile.names = names.map(Arc::new);
            profile
        }
    }

    /// For the tests and benchmarks of the capture room.
    #[cfg(feature = "profile")]
    pub mod unwind {
        pub use crate::unwind::{
            Capture, DEEP, DEPTH, FOREIGN, Method, ROOT, Stack, UNKNOWN, calibrate, capture, prime,
            refresh, worked_out,
        };
    }
    pub use crate::assertions::{
        Count, Unit, assert_allocs, assert_no_alloc, try_assert_allocs, try_assert_no_alloc,
    };
    pub use crate::error::Failure;

    /// How many slots threads own or have owned: the most threads that were
    /// alive at once, or had ended inside a carried scope, and used the heap. For our
    /// own tests.
    pub fn slots_ever_owned() -> usize {
        crate::ledger::slots_ever_owned()
    }

    /// The memory of a thread's page of the ledger.
    pub const SLOT_BYTES: usize = size_of::<crate::ledger::Slot>();

    /// For the recorder's own benchmark.
    #[cfg(feature = "profile")]
    pub mod record {
        pub use crate::record::{DEFAULT_NODES, DEFAULT_RECORDS, OVERFLOW, ROOT};
        pub use crate::record::{Record, Table, TableLosses, Tree, TreeLosses};
    }
}

/// Of the scopes, what has models.
#[cfg(all(test, loom))]
mod scope {
    #[expect(
        dead_code,
        reason = "a model asks for what may go wrong, and for no more"
    )]
    mod page;
}
