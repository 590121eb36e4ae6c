//! Pools.

mod bounded;
mod builder;
mod census;
mod clearing;
mod depot;
mod error;
mod growing;
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
#[expect(
    unsafe_code,
    reason = "says that a thread's number makes it the owner of a line"
)]
mod local;
mod lock;
mod manager;
mod object;
mod stats;
#[expect(
    unsafe_code,
    reason = "hands out lines that are freed with the table only"
)]
mod table;
mod thread;

pub use bounded::{AcquireAsync, BoundedPool, BoundedPoolBuilder};
pub use builder::{OnPanic, PoolBuilder};
pub use clearing::{Clear, Clearing};
pub use error::PoolError;
pub use growing::Pool;
pub use guard::{Home, OwnedPooled, Pooled};
pub use manager::{Defaults, FromFn, FromFns, Manager, Reset, TryFromFn};
pub use stats::PoolStats;
