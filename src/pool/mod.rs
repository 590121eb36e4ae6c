//! Object pools: one faster than malloc, on one thread and on many, and one with a bound.
//!
//! A [`Pool`] gives out an idle object or creates one; a [`BoundedPool`] never has
//! more than its capacity alive, and callers wait their turn. Both give guards
//! that bring the object back when they are dropped.
//!
//! ```
//! use heapledger::pool::{BoundedPool, Clearing, Pool};
//!
//! // Buffers that come back empty, and are dropped when they have grown beyond 64 KiB.
//! let buffers = Pool::with_manager(Clearing::<Vec<u8>>::with_capacity(1024).max_capacity(64 * 1024));
//! let mut buffer = buffers.acquire();
//! buffer.extend_from_slice(b"one request");
//! drop(buffer);
//! assert!(buffers.acquire().is_empty());
//!
//! // Eight, all built here.
//! let slots = BoundedPool::<String>::new(8);
//! let slot = slots.try_acquire().expect("not all are out");
//! # drop(slot);
//! ```
//!
//! # When a pool pays, and when not
//!
//! Nanoseconds for one acquire and release of a `Vec` with room for 1 KiB,
//! medians of 2026-11-21 (2 cores, Intel Xeon, Linux, Rust 1.95, nothing else
//! running), by `cargo run --release -p heapledger-pool-bench`. The last column
//! contains the 6.7 of the channel between the threads:
//!
//! | | one thread | 256 held | two threads | acquired here, given back there |
//! |---|---:|---:|---:|---:|
//! | malloc and free | 7.1 | 41.8 | 8.3 | 294.4 |
//! | [`Pool`] | 1.5 | 3.3 | 1.5 | 6.8 |
//! | [`Pool`] with a reset | 2.9 | 5.1 | 3.3 | 8.2 |
//! | [`Pool`], [`OwnedPooled`] | 12.4 | 13.7 | 43.0 | 22.5 |
//! | [`BoundedPool`], `try_acquire` | 11.1 | 27.8 | 146.3 | 140.1 |
//! | `parking_lot::Mutex<Vec<Box<_>>>` | 22.4 | 22.7 | 96.7 | 50.2 |
//! | crossbeam's `ArrayQueue<Box<_>>` | 12.7 | 12.0 | 29.1 | 7.8 |
//!
//! With room for 64 KiB, malloc and free took 43.2 on one thread and the [`Pool`] 1.5;
//! with objects of 64 bytes, 10.2 and 1.6. The buffers are not written to: memory that is
//! fresh from the system costs a page fault as well when it first is.
//!
//! - It pays for what is dear to create: connections, compiled programs, big
//!   buffers, collections that have grown.
//! - It pays when many objects are held at once and for all that must not allocate
//!   once warm.
//! - It hardly pays for a short-lived object of under a few hundred bytes: it saves
//!   some nanoseconds a pair, and holds memory for it.
//! - It does not pay if each thread can keep its own object for as long as it
//!   lives: a variable costs nothing.
//! - A [`BoundedPool`] costs more than malloc of a small object, always. It is there
//!   for the bound.
//! - An [`OwnedPooled`] costs the two read-modify-writes of its `Arc`: more than a
//!   small malloc, and much more where threads share the pool. A `&'static Pool` gives
//!   `'static` guards for nothing.
//!
//! # How it works
//!
//! ```text
//!   thread 1      thread 2      thread 3
//!   ┌──────┐      ┌──────┐      ┌──────┐    a line each: up to 62 pointers, which
//!   │ line │      │ line │      │ line │    only its thread touches; no atomic
//!   └──┬───┘      └──┬───┘      └──┬───┘    read-modify-write
//!      └─────── 31 at once ────────┘
//!               ┌───────┐
//!               │ depot │                   a vector under a lock
//!               └───────┘
//! ```
//!
//! A pool under a lock, or around a shared queue, takes two to four atomic
//! read-modify-writes a pair, about 5 ns each, and so loses to malloc. Here a thread
//! takes from its own line and puts back into its own line. An empty line fetches
//! half a magazine from the depot, a full one leaves half there; so objects that are
//! acquired on one thread and given back on another come round again.
//!
//! What holds whatever happens:
//! - An object is in one place: a guard, a line, the depot, a seat in a queue.
//! - `created` is at most the most that were held at once, 62 for each thread that
//!   was alive at once, and what was discarded, detached, or made by `prewarm`.
//! - A user's code (create, reset, `Drop`, wakers) runs under no lock and while no
//!   line is being touched; it may panic, and it may use the same pool. A panic
//!   costs at most the object at hand, and never a permit.
//! - Reset runs when an object comes back, on the thread that gives it back.
//!
//! What a [`Pool`] takes for itself grows with the threads of the process: a line is 512
//! bytes, and lines come in groups of powers of two. A thread that is the thousandth at once
//! to use any pool brings 512 of them to each pool that it uses. So each pool takes up to
//! 1 KiB for each thread that uses pools at the same time, but at least 4 KiB, and gives it
//! back when it is dropped.
//!
//! A thread that first uses a pool after its thread locals were dropped (a C thread, in the
//! destructor of a pthread key) may keep its line for ever: one for each such thread, with
//! what lies in it, which `clear` does not reach.
//!
//! Not for signal handlers: one that uses a pool which its own thread is just using
//! breaks the line. In a child of `fork` a [`Pool`] goes on working: a depot that
//! another thread had locked is given up after a second, and so is what lies there; a
//! first `clear` there may wait as long for one that another thread was doing. A
//! [`BoundedPool`] answers then with an error that
//! [says so](PoolError::is_lost_in_fork). What lies in the lines of threads that the
//! child does not have is lost to it until the pool is dropped; if the lock was lost,
//! a dropped pool leaks what is idle in it. Who waited at a [`BoundedPool`] waits in the
//! parent only: the child hands nothing to them, but what they had been handed before
//! the fork and had not collected stays lost to it, as does what other threads held.

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
