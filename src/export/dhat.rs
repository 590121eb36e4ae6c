//! DHAT's JSON, version 2, as valgrind's `dh_view` reads it.
//!
//! The viewer stops at the first field that is missing, and at two program
//! points with the same frames.

use std::io::{self, Write};

use crate::export::hand_over;
use crate::export::json::Quoted;
use crate::export::sites::{Site, Sites};
use crate::profile::{Frame, HeapProfile, Mode};
use crate::units::Bytes;

/// A mean life below this, in microseconds, is short to the viewer.
const SHORT: u32 = 1_000;

impl HeapProfile {
    /// Writes the JSON that valgrind's `dh_view.html` opens, in version 2 of its format,
    /// which the comments in valgrind's `dhat/dh_main.c` describe.
    ///
    /// Names are looked up if [`symbolize`](Self::symbolize) has not. Times are
    /// microseconds since the profile began; `t-gmax` is the process's peak,
    /// `t-end` is when the profile was taken. Four of the viewer's figures are
    /// not measured as valgrind does:
    ///
    /// - *Max* of a program point is the larger of what it held at the process's
    ///   peak and at the end, since no maximum of its own is kept.
    /// - *Avg lifetime* is the mean over the recorded blocks that were freed, and
    ///   where none was, the duration of the profile, which none can exceed.
    /// - *Total* of a program point that only made blocks larger is of 0 blocks: a `realloc`
    ///   adds the bytes by which a block grew to the stack that called it, and is no other
    ///   block. Its *avg size* is shown as ∞, its *avg lifetime* as 0.
    /// - Reads and writes of memory are not measured, and not shown.
    ///
    /// Estimates of a sampled profile are written as they are, without their
    /// errors; the viewer's *Mode* line says that they are estimates.
    ///
    /// # Errors
    ///
    /// What `w` answers.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let mode = heapledger::profile::Mode::EveryAllocation;
    /// # let profile = heapledger::__private::profile::empty(mode, None);
    /// let mut json = Vec::new();
    /// profile.write_dhat(&mut json)?;
    /// assert!(json.starts_with(b"{\"dhatFileVersion\":2,"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_dhat<W: Write>(&self, w: W) -> io::Result<()> {
        hand_over(w, || lay_out(self))
    }
}

fn lay_out(profile: &HeapProfile) -> io::Result<Vec<u8>> {
    let sites = Sites::new(profile);
    let mut w = Vec::new();
    header(&mut w, profile)?;
    w.write_all(b",\"pps\":[")?;
    for (i, site) in sites.list.iter().enumerate() {
        w.write_all(if i == 0 { b"\n" } else { b",\n" })?;
        point(&mut w, site, profile)?;
    }
    w.write_all(b"],\n\"ftbl\":[\"[root]\"")?;
    for frame in &sites.frames {
        write!(w, ",\n{}", Quoted(&text(frame)))?;
    }
    w.write_all(b"]}\n")?;
    Ok(w)
}

/// What the viewer shows above the points, and how it reads them.
fn header(w: &mut impl Write, profile: &HeapProfile) -> io::Result<()> {
    let mode = match profile.mode {
        Mode::EveryAllocation => String::from("rust-heap"),
        Mode::Sampled { interval_bytes } => format!(
            "rust-heap, estimates from one sample in {}",
            Bytes(interval_bytes)
        ),
    };
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    // The viewer divides by it.
    let end = profile.duration.as_micros().max(1);
    // In whole milliseconds, which the end is not; and to the viewer it is a moment before.
    let peak = u128::from(profile.peak.at_ms)
        .saturating_mul(1_000)
        .min(end);
    write!(
        w,
        "{{\"dhatFileVersion\":2,\"mode\":{},\"verb\":\"Allocated\",\
         \"bklt\":true,\"bkacc\":false,\"tu\":\"µs\",\"Mtu\":\"s\",\"tuth\":{SHORT},\n\
         \"cmd\":{},\"pid\":{},\"tg\":{},\"te\":{}",
        Quoted(&mode),
        Quoted(&words.join(" ")),
        std::process::id(),
        peak,
        end,
    )
}

/// One stack; its frames are counted from 1, since 0 is the root.
fn point(w: &mut impl Write, site: &Site, profile: &HeapProfile) -> io::Result<()> {
    let (live, peak) = (&site.live, &site.peak);
    write!(
        w,
        "{{\"tb\":{},\"tbk\":{},\"tl\":{},\"mb\":{},\"mbk\":{},\
         \"gb\":{},\"gbk\":{},\"eb\":{},\"ebk\":{},\"fs\":[",
        site.total.bytes,
        site.total.blocks,
        lifetimes(site, profile),
        live.bytes.max(peak.bytes),
        live.blocks.max(peak.blocks),
        peak.bytes,
        peak.blocks,
        live.bytes,
        live.blocks,
    )?;
    for (i, id) in site.stack.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(w, "{comma}{}", u64::from(*id) + 1)?;
    }
    w.write_all(b"]}")
}

/// The sum over the point's blocks that gives the viewer the right mean.
fn lifetimes(site: &Site, profile: &HeapProfile) -> u128 {
    let blocks = u128::from(site.total.blocks);
    let sum = u128::from(site.lifetimes.total_ms) * 1_000;
    blocks
        .saturating_mul(sum)
        .checked_div(u128::from(site.lifetimes.freed_blocks))
        .unwrap_or_else(|| blocks.saturating_mul(profile.duration.as_micros()))
}

/// As valgrind writes a frame, without the address: what two addresses have in
/// common is one frame.
fn text(frame: &Frame) -> String {
    match frame.file() {
        Some(_) => format!("{} ({})", frame.name(), frame.location()),
        None => String::from(frame.name()),
    }
}
