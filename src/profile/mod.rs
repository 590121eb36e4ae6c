//! Heap profiles: where the memory went.
//!
//! A [`HeapProfile`] is plain data, and says for each stack what is alive, what
//! was alive when the process was at its peak, and what was ever allocated.

mod data;
mod names;

pub use data::{
    Amount, HeapProfile, Lifetimes, Mapping, Mode, Moment, SizeClass, StackProfile, ThreadShare,
};
pub use names::Names;

pub use crate::record::Incomplete;
pub use crate::symbols::{Frame, Origin};
