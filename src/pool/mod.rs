//! Pools.

#[cfg(not(loom))]
mod bounded;
#[cfg(not(loom))]
mod builder;
#[cfg(not(loom))]
mod census;
#[cfg(not(loom))]
mod clearing;
mod depot;
mod desk;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod growing;
#[cfg(not(loom))]
#[expect(
    unsafe_code,
    reason = "takes the object out of a guard that is dropped"
)]
mod guard;
mod indices;
#[expect(
    unsafe_code,
    reason = "moves pointers in and out of slots that only the owner touches"
)]
mod line;
#[cfg(not(loom))]
#[expect(
    unsafe_code,
    reason = "says that a thread's number makes it the owner of a line"
)]
mod local;
mod lock;
#[cfg(not(loom))]
mod manager;
#[cfg(all(test, loom))]
#[expect(
    unsafe_code,
    reason = "says that a number makes its thread the owner of a line"
)]
mod models;
#[expect(unsafe_code, reason = "an object as an address and back")]
mod object;
mod queue;
#[expect(unsafe_code, reason = "owns the object whose address it has")]
mod spare;
mod stats;
#[expect(
    unsafe_code,
    reason = "hands out lines that are freed with the table only"
)]
mod table;
#[cfg(not(loom))]
mod thread;

#[cfg(not(loom))]
pub use bounded::{AcquireAsync, BoundedPool, BoundedPoolBuilder};
#[cfg(not(loom))]
pub use builder::{OnPanic, PoolBuilder};
#[cfg(not(loom))]
pub use clearing::{Clear, Clearing};
#[cfg(not(loom))]
pub use error::PoolError;
#[cfg(not(loom))]
pub use growing::Pool;
#[cfg(not(loom))]
pub use guard::{Home, OwnedPooled, Pooled};
#[cfg(not(loom))]
pub use manager::{Defaults, FromFn, FromFns, Manager, Reset, TryFromFn};
#[cfg(not(loom))]
pub use stats::PoolStats;
