//! What a leak check has found, for people.

use core::fmt;

use crate::leaks::report::{Growth, LeakReport, LeakSite};
use crate::symbols::Missed;
use crate::units::{Bytes, Grouped, plural};

/// How many sites a failing assertion shows.
const SHOWN: usize = 10;

/// A sum, over how many runs, and of what: `12 bytes`, or `0.33 blocks` when it
/// does not divide.
struct PerRun(u64, u32, [&'static str; 2]);

impl fmt::Display for PerRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(sum, runs, [one, many]) = *self;
        let runs = u64::from(runs.max(1));
        if sum.is_multiple_of(runs) {
            let each = sum / runs;
            return write!(f, "{} {}", Grouped(each), plural(each, one, many));
        }
        // In hundredths, rounded; what is there is not shown as nothing.
        let rest = u128::from(sum % runs) * 100 + u128::from(runs / 2);
        let hundredths = (rest / u128::from(runs)).clamp(1, 99);
        write!(f, "{}.{hundredths:02} {many}", Grouped(sum / runs))
    }
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blocks, sites) = (self.blocks(), self.sites.len() as u64);
        write!(
            f,
            "{} {} leaked, {} {}, at {} {}",
            Grouped(blocks),
            plural(blocks, "block", "blocks"),
            Grouped(self.bytes()),
            plural(self.bytes(), "byte", "bytes"),
            Grouped(sites),
            plural(sites, "site", "sites"),
        )?;
        if self.runs > 1 {
            let growth = self.growth();
            write!(
                f,
                ", growing by {} and {} with each of {} runs",
                PerRun(growth.blocks, growth.runs, ["block", "blocks"]),
                PerRun(growth.bytes, growth.runs, ["byte", "bytes"]),
                self.runs
            )?;
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
                "\n\n... and {} more {} with {} {}",
                Grouped(rest.len() as u64),
                plural(rest.len() as u64, "site", "sites"),
                Grouped(bytes),
                plural(bytes, "byte", "bytes"),
            )?;
        }
        notes(f, self)
    }
}

impl fmt::Display for LeakSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} in {} {}, ",
            Grouped(self.bytes),
            plural(self.bytes, "byte", "bytes"),
            Grouped(self.blocks),
            plural(self.blocks, "block", "blocks"),
        )?;
        // What a single run has left need not be said twice.
        if self.growth != Growth::of_one(self.blocks, self.bytes) {
            write!(
                f,
                "{} in {} per run, ",
                PerRun(self.growth.bytes, self.growth.runs, ["byte", "bytes"]),
                PerRun(self.growth.blocks, self.growth.runs, ["block", "blocks"]),
            )?;
        }
        write!(
            f,
            "{} ms old, born at {}",
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
    if report.runtime.blocks > 0 {
        note(
            f,
            format_args!(
                "{} more are kept by the standard library",
                Bytes(report.runtime.bytes)
            ),
        )?;
    }
    if harness.blocks > 0 {
        note(
            f,
            format_args!(
                "{} more are held for backtraces and the messages of panics, or by a test \
                 harness for the output that it captures",
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
    if report.nameless {
        let advice = if report.unread.is_some() {
            ""
        } else {
            ": do not strip symbols (`strip = \"debuginfo\"` is fine)"
        };
        note(
            f,
            format_args!(
                "the program's functions have no names, so suppressions match nothing, and what \
                 the standard library keeps is counted as leaked{advice}"
            ),
        )?;
    }
    let mut unread = report.unread;
    for path in &report.unnamed_files {
        let (path, program) = (path.clone(), unread.take());
        note(f, format_args!("{}", Missed { path, program }.note()))?;
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
