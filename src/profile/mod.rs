//! Heap profiles: where the memory went.
//!
//! A [`HeapProfile`] is plain data, and says for each stack what is alive, what
//! was alive when the process was at its peak, and what was ever allocated.

mod collect;
mod data;
mod diff;
mod names;
mod profiler;
mod value;

pub use data::{
    Amount, HeapProfile, Lifetimes, Mapping, Mode, Moment, SizeClass, StackProfile, ThreadShare,
};
pub use diff::{Change, ProfileDiff, StackDiff};
pub use names::Names;
pub use profiler::{DEFAULT_INTERVAL, Profiler, ProfilerBuilder};
pub use value::{Format, Value};

pub use crate::record::Incomplete;
pub use crate::symbols::{Frame, Origin};
