//! Writers of what people and their tools read.
//!
//! ```text
//!   profile ──▶ sites   trimmed, equal ones made one ──▶ text   dhat   folded
//!      └──────────────────────────────────────────────▶ pprof   which knows addresses
//! ```
//!
//! They see plain results only, never live state. Each lays out what it writes
//! without being profiled itself, and then hands it to the caller's writer,
//! which is.

mod dhat;
mod folded;
mod gzip;
mod html;
mod json;
mod pprof;
mod protobuf;
mod save;
mod sites;
mod text;
mod words;

use std::io::{self, Write};

use crate::ledger::apart;
use crate::record;

/// Writes what `lay_out` gives. Making it is nothing that the program does, and in no profile;
/// what `w` does is.
fn hand_over(mut w: impl Write, lay_out: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<()> {
    // In this order: ours until it is freed.
    let (mut kept, laid_out) = record::quietly(|| {
        let laid_out = lay_out()?;
        io::Result::Ok((apart::Kept::of(laid_out.capacity()), laid_out))
    })?;
    // As where it is saved to a file, which is all our work.
    kept.unless_apart();
    w.write_all(&laid_out)?;
    w.flush()
}
