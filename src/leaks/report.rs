//! What a leak check has found, as plain data and for people.

use core::fmt;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::record::Incomplete;
use crate::symbols::Frame;
use crate::units::{Bytes, Grouped, plural};

/// How many sites a failing assertion shows.
const SHOWN: usize = 10;

/// The blocks that a check has found alive at its end, by where they were born.
///
/// Plain data: it holds no live state and can be kept, compared and sent. Sites
/// are ordered by bytes, largest first, then by blocks and by place, so the same
/// leaks always give the same report. [`Display`](fmt::Display) prints all of it
/// with full stacks; `{:#}` prints the largest sites only, as a failing
/// assertion does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakReport {
    /// Where the leaked blocks were born; empty when the check failed only
    /// because it could not record.
    pub sites: Vec<LeakSite>,
    /// How often the code was run while it was recorded: 1 for a check, more
    /// for a steady-state check, which reports what all these runs left.
    pub runs: u32,
    /// Blocks and bytes that the test harness holds, not the code under test:
    /// the output that it captures.
    pub harness: Held,
    /// Blocks and bytes at sites that a suppression names.
    pub suppressed: Held,
    /// What could not be recorded. When it is not empty, the figures are too
    /// low or stacks are short.
    pub incomplete: Incomplete,
}

/// Blocks and bytes that are not counted as leaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Blocks alive.
    pub blocks: u64,
    /// Bytes alive.
    pub bytes: u64,
}

/// Leaked blocks that were born at one place, by one way of getting there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakSite {
    /// Blocks alive.
    pub blocks: u64,
    /// Bytes alive, as the program asked for them.
    pub bytes: u64,
    /// Milliseconds since the oldest of the blocks was born, to within the
    /// time of some 64 allocations.
    pub oldest_ms: u32,
    /// Milliseconds since the youngest of them was born.
    pub youngest_ms: u32,
    /// The calls that led to the allocation, innermost first, functions that
    /// were inlined included; without the allocator's and the runtime's frames.
    pub stack: Vec<Frame>,
}

impl LeakSite {
    /// The innermost frame in the user's own code, or the innermost of all.
    pub fn place(&self) -> Option<&Frame> {
        self.stack
            .iter()
            .find(|frame| frame.is_user())
            .or_else(|| self.stack.first())
    }

    /// `file:line` of [`place`](Self::place), or what is known instead.
    pub fn location(&self) -> String {
        self.place()
            .map_or_else(|| String::from("an unknown place"), Frame::location)
    }

    /// What the report is ordered by.
    fn key(&self) -> (core::cmp::Reverse<(u64, u64)>, String, String) {
        let stack: Vec<String> = self.stack.iter().map(Frame::location).collect();
        (
            core::cmp::Reverse((self.bytes, self.blocks)),
            self.location(),
            stack.join(";"),
        )
    }
}

impl LeakReport {
    /// Leaked blocks, over all sites.
    pub fn blocks(&self) -> u64 {
        self.sites.iter().map(|site| site.blocks).sum()
    }

    /// Leaked bytes, over all sites.
    pub fn bytes(&self) -> u64 {
        self.sites.iter().map(|site| site.bytes).sum()
    }

    /// Makes one site of those that look the same once trimmed.
    pub(super) fn merge_same_stacks(&mut self) {
        let mut merged: HashMap<Vec<Frame>, LeakSite> = HashMap::new();
        for site in self.sites.drain(..) {
            match merged.entry(site.stack.clone()) {
                Entry::Vacant(place) => drop(place.insert_entry(site)),
                Entry::Occupied(mut place) => {
                    let sum = place.get_mut();
                    sum.blocks += site.blocks;
                    sum.bytes += site.bytes;
                    sum.oldest_ms = sum.oldest_ms.max(site.oldest_ms);
                    sum.youngest_ms = sum.youngest_ms.min(site.youngest_ms);
                }
            }
        }
        self.sites.extend(merged.into_values());
    }

    pub(super) fn sort(&mut self) {
        self.sites.sort_by_cached_key(LeakSite::key);
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blocks, sites) = (self.blocks(), self.sites.len() as u64);
        write!(
            f,
            "{} {} leaked, {} bytes, at {} {}",
            Grouped(blocks),
            plural(blocks, "block", "blocks"),
            Grouped(self.bytes()),
            Grouped(sites),
            plural(sites, "site", "sites"),
        )?;
        if self.runs > 1 {
            write!(f, ", growing with each of {} runs", self.runs)?;
        }
        let shown = if f.alternate() { SHOWN } else { usize::MAX };
        for site in self.sites.iter().take(shown) {
            write!(f, "\n\n{site}")?;
        }
        if let Some(rest) = self.sites.get(shown.min(self.sites.len())..)
            && !rest.is_empty()
        {
            let bytes: u64 = rest.iter().map(|site| site.bytes).sum();
            write!(
                f,
                "\n\n... and {} more {} with {} bytes",
                Grouped(rest.len() as u64),
                plural(rest.len() as u64, "site", "sites"),
                Grouped(bytes),
            )?;
        }
        notes(f, self)
    }
}

impl fmt::Display for LeakSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes in {} {}, {} ms old, born at {}",
            Grouped(self.bytes),
            Grouped(self.blocks),
            plural(self.blocks, "block", "blocks"),
            Grouped(u64::from(self.oldest_ms)),
            self.location(),
        )?;
        for frame in &self.stack {
            write!(f, "\n    {frame}")?;
        }
        Ok(())
    }
}

/// What is left out of the count, and what may be missing from it.
fn notes(f: &mut fmt::Formatter<'_>, report: &LeakReport) -> fmt::Result {
    let mut separator = "\n\n";
    let mut note = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
        let result = write!(f, "{separator}note: {text}");
        separator = "\n";
        result
    };
    let (harness, suppressed) = (report.harness, report.suppressed);
    if harness.blocks > 0 {
        note(
            f,
            format_args!(
                "{} more are held by the test harness for the output that it captures",
                Bytes(harness.bytes)
            ),
        )?;
    }
    if suppressed.blocks > 0 {
        let (blocks, bytes) = (suppressed.blocks, Bytes(suppressed.bytes));
        let what = plural(blocks, "block", "blocks");
        let are = plural(blocks, "is", "are");
        note(
            f,
            format_args!("{} {what} with {bytes} {are} suppressed", Grouped(blocks)),
        )?;
    }
    if report.incomplete.blocks > 0 {
        let blocks = report.incomplete.blocks;
        let what = plural(blocks, "block", "blocks");
        note(
            f,
            format_args!(
                "incomplete: {} {what} could not be recorded",
                Grouped(blocks)
            ),
        )?;
    }
    if report.incomplete.frames > 0 {
        let frames = report.incomplete.frames;
        let what = plural(frames, "frame", "frames");
        note(
            f,
            format_args!("incomplete: {} {what} could not be kept", Grouped(frames)),
        )?;
    }
    if report.incomplete.cut_stacks > 0 {
        let stacks = report.incomplete.cut_stacks;
        let what = plural(stacks, "stack", "stacks");
        let their = plural(stacks, "its", "their");
        note(
            f,
            format_args!(
                "{} {what} could not be followed to {their} thread's beginning",
                Grouped(stacks)
            ),
        )?;
    }
    Ok(())
}
