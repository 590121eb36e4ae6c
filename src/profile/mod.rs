//! Heap profiles: where the memory went.
//!
//! ```
//! # #[global_allocator]
//! # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use heapledger::Profiler;
//! use heapledger::profile::Format;
//!
//! let profiler = Profiler::builder().every_allocation().start()?;
//! let words: Vec<String> = "where does the memory go".split(' ').map(String::from).collect();
//! let profile = profiler.snapshot();
//! println!("{} bytes alive at {} stacks", profile.live().bytes, profile.stacks.len());
//! # let path = std::env::temp_dir().join(format!("heap-{}.html", std::process::id()));
//! # #[cfg(any())]
//! let path = "heap.html";
//! profile.save(&path, Format::Html)?;
//! # std::fs::remove_file(&path)?;
//! # drop(words);
//! # Ok(())
//! # }
//! ```
//!
//! # Every allocation, or samples
//!
//! [`every_allocation`](ProfilerBuilder::every_allocation) gives exact figures;
//! the program runs two to four times as long. [`sample_every`](ProfilerBuilder::sample_every)
//! looks at one in so many bytes: a block of `s` bytes is chosen with
//! `p = 1 − exp(−s / interval)` and stands for `1 / p` blocks, each block on its own,
//! so totals are right on average whatever the sizes (the estimator of Horvitz and
//! Thompson, 1952). Each figure comes with its standard error: of blocks it is the
//! root of the sum of `(1 − p) / p²` over the chosen ones, of bytes that of
//! `s² (1 − p) / p²`. Both are estimates themselves, from the same samples: [`Amount`] says
//! how good they are where samples are few, as those of small blocks often are.
//!
//! A sampled block of less than 32 KiB lies in memory of the recorder's own, at an
//! address that tells it from others, so that frees need not look for it. Its place
//! in the inner allocator stays empty until it is freed. That takes 2 KiB or the
//! block's size, whichever is more, for each sampled block: at an interval of
//! 512 KiB four parts in a thousand of a heap of small blocks. Below 32 KiB between
//! samples there is none of this, and every free is looked up instead.
//!
//! # What is counted
//!
//! What happened since the profile began, on all threads. Totals are those of
//! the [counters](crate::Stats): a `realloc` that grows a block adds the
//! difference to the stack that called it, and is no other block; the block
//! moves to that stack. The *peak share* of a stack is what was alive of it when
//! the process had the most bytes alive; shares add up to the peak, less what is
//! older than the profile. With samples a thread looks for the peak once it has
//! allocated 256 KiB, or half an interval if that is less, and at most 64 KiB later.
//!
//! A snapshot beside threads that allocate is no single moment: the counters are read first,
//! then what is alive, then the peak and the totals. So what is alive is among the totals, and may
//! be more than the counters have.
//!
//! How to walk up the stack is remembered by the addresses of code. That other code has come to
//! the same addresses, since a library was closed and another opened, is noticed when a profile
//! or a leak check starts, and at each snapshot. Stacks through it that were recorded in between
//! may be cut, or have wrong callers, and stay so; those recorded afterwards are right.
//!
//! The recorder's memory for stacks is never given back: what it holds is used again after a
//! [`reset`](Profiler::reset) and by the next profiler. It has room for four million calls of the
//! tree that stacks are, fewer where memory is limited. Once it is full, as after millions of
//! different stacks, new ones are told without addresses for the rest of the process, also after
//! a reset or by a new profiler; [`Incomplete::frames`] says so.
//!
//! A [`HeapProfile`] is plain data. Names are looked up when a format for people
//! is written, in the process that the profile is of; [`write_pprof`](HeapProfile::write_pprof)
//! writes addresses with mappings and build ids unless
//! [`symbolize`](HeapProfile::symbolize) was called, as a server wants it.

mod collect;
mod data;
mod diff;
mod names;
mod profiler;
mod value;

#[cfg(target_os = "linux")]
pub(crate) use collect::Counted;
pub use data::{
    Amount, HeapProfile, Lifetimes, Mapping, Mode, Moment, SizeClass, StackProfile, ThreadShare,
};
pub use diff::{Change, ProfileDiff, StackDiff};
#[doc(hidden)]
pub use names::Names;
pub use profiler::{DEFAULT_INTERVAL, Profiler, ProfilerBuilder};
pub use value::{Format, Value};

pub use crate::record::Incomplete;
pub use crate::symbols::{Frame, Origin};
