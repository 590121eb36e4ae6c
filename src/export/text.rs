//! The profile for people, in a terminal or a log.

use core::cmp::Reverse;
use core::time::Duration;
use std::io::{self, Write};

use crate::export::hand_over;
use crate::export::sites::{Site, Sites};
use crate::export::words::{Sum, missing, mode, percent, span};
use crate::profile::{Amount, Frame, HeapProfile};
use crate::units::{Bytes, Grouped, plural, whole};

/// How many sites are shown of each kind.
const SHOWN: usize = 20;

/// How many frames of a site are shown.
const FRAMES: usize = 8;

impl HeapProfile {
    /// Writes the profile for people: what is alive, what was at the peak and
    /// what was ever allocated, by site, largest first, each with `file:line`
    /// and the calls that led there; then the sizes and the threads.
    ///
    /// A site is a stack as [`trimmed`](Self::trimmed) shows it: without the allocator's
    /// frames, the runtime's and those of this crate's measurements. The first 20 of each
    /// kind are shown, and what the rest sum up to. Names are looked up if
    /// [`symbolize`](Self::symbolize) has not. Estimates have their standard error behind
    /// `±`, unless it is as good as nothing, as that of a block which no sample misses.
    ///
    /// # Errors
    ///
    /// What `w` answers.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let mode = heapledger::profile::Mode::EveryAllocation;
    /// # let profile = heapledger::__private::profile::empty(mode, None);
    /// let mut text = Vec::new();
    /// profile.write_text(&mut text)?;
    /// assert!(text.starts_with(b"heap profile of 0.000 s: every allocation was recorded"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_text<W: Write>(&self, w: W) -> io::Result<()> {
        hand_over(w, || lay_out(self))
    }
}

fn lay_out(profile: &HeapProfile) -> io::Result<Vec<u8>> {
    let sites = Sites::new(profile);
    let mut w = Vec::new();
    header(&mut w, profile, &sites)?;
    top(&mut w, &sites, "alive", |site| &site.live)?;
    top(&mut w, &sites, "at the peak", |site| &site.peak)?;
    top(&mut w, &sites, "ever allocated", |site| &site.total)?;
    sizes(&mut w, profile)?;
    threads(&mut w, profile)?;
    Ok(w)
}

fn header(w: &mut impl Write, profile: &HeapProfile, sites: &Sites) -> io::Result<()> {
    writeln!(
        w,
        "heap profile of {}: {}\n",
        span(profile.duration),
        mode(profile)
    )?;
    let sums = [
        ("alive", profile.live()),
        ("at the peak", profile.peak_amount()),
        ("ever allocated", profile.total()),
    ];
    for (what, sum) in &sums {
        writeln!(w, "  {what:<16}{}", Sum(sum))?;
    }
    let within = match profile.peak_error_bytes {
        0 => String::new(),
        error => format!(" within {} either way", Bytes(error)),
    };
    // As the peak beside it, without what names take; the counters have that, too.
    let end = profile.timeline.last();
    let alive = end.map_or(profile.stats.live_bytes, |end| end.live_bytes);
    writeln!(
        w,
        "  {:<16}{} alive, at most {}{within}, {} after the beginning",
        "process",
        Bytes(alive),
        Bytes(profile.peak.live_bytes),
        span(Duration::from_millis(profile.peak.at_ms)),
    )?;
    let notes = missing(profile, Some(&sites.names));
    for (i, note) in notes.iter().enumerate() {
        let gap = if i == 0 { "\n" } else { "" };
        writeln!(w, "{gap}note: {note}")?;
    }
    Ok(())
}

/// The largest sites by one amount, and the sum of the rest.
fn top(
    w: &mut impl Write,
    sites: &Sites,
    what: &str,
    amount: impl Fn(&Site) -> &Amount,
) -> io::Result<()> {
    let mut order: Vec<&Site> = sites.list.iter().collect();
    order.retain(|site| !amount(site).is_zero());
    // Stable: equals stay in the profile's own order.
    order.sort_by_key(|site| Reverse((amount(site).bytes, amount(site).blocks)));
    let sum = |sites: &[&Site]| {
        sites
            .iter()
            .fold(Amount::default(), |sum, site| sum.plus(amount(site)))
    };
    let all = sum(&order);
    let count = order.len() as u64;
    writeln!(
        w,
        "\n== {what}: {}, at {} {}",
        Sum(&all),
        Grouped(count),
        plural(count, "site", "sites"),
    )?;
    let (shown, rest) = order.split_at(order.len().min(SHOWN));
    for site in shown {
        let place = sites.place(site);
        writeln!(
            w,
            "\n{:>7}  {}  {}",
            percent(amount(site).bytes, all.bytes),
            Sum(amount(site)),
            place.map_or_else(|| String::from("an unknown place"), Frame::location),
        )?;
        lives(w, site)?;
        stack(w, sites, site)?;
    }
    if !rest.is_empty() {
        let count = rest.len() as u64;
        let rest = sum(rest);
        writeln!(
            w,
            "\n{:>7}  {}  at {} more {}",
            percent(rest.bytes, all.bytes),
            Sum(&rest),
            Grouped(count),
            plural(count, "site", "sites"),
        )?;
    }
    Ok(())
}

/// How long blocks lived and how often they were resized, if they were.
fn lives(w: &mut impl Write, site: &Site) -> io::Result<()> {
    let mut parts = Vec::new();
    if let Some(mean) = site.lifetimes.mean_ms() {
        parts.push(format!(
            "lived {} ms on average, {} ms at most",
            Grouped(whole(mean)),
            Grouped(site.lifetimes.longest_ms),
        ));
    }
    if site.reallocations > 0 {
        let times = site.reallocations;
        parts.push(format!(
            "resized {} {}",
            Grouped(times),
            plural(times, "time", "times"),
        ));
    }
    if parts.is_empty() {
        return Ok(());
    }
    writeln!(w, "         {}", parts.join(", "))
}

fn stack(w: &mut impl Write, sites: &Sites, site: &Site) -> io::Result<()> {
    for frame in sites.stack(site).take(FRAMES) {
        writeln!(w, "           {frame}")?;
    }
    let more = site.stack.len().saturating_sub(FRAMES) as u64;
    if more > 0 {
        let what = plural(more, "frame", "frames");
        writeln!(w, "           ... and {} outer {what}", Grouped(more))?;
    }
    Ok(())
}

fn sizes(w: &mut impl Write, profile: &HeapProfile) -> io::Result<()> {
    let all: u64 = profile
        .sizes
        .iter()
        .fold(0, |sum, class| sum.saturating_add(class.blocks));
    if all == 0 {
        return Ok(());
    }
    writeln!(w, "\n== sizes of new blocks, in bytes\n")?;
    for class in profile.sizes.iter().filter(|class| class.blocks > 0) {
        writeln!(
            w,
            "{:>7}  {:>12} to {:<12} {:>14} {}",
            percent(class.blocks, all),
            Grouped(class.min_bytes).to_string(),
            Grouped(class.max_bytes).to_string(),
            Grouped(class.blocks).to_string(),
            plural(class.blocks, "block", "blocks"),
        )?;
    }
    Ok(())
}

fn threads(w: &mut impl Write, profile: &HeapProfile) -> io::Result<()> {
    if profile.threads.is_empty() {
        return Ok(());
    }
    let mut threads: Vec<_> = profile.threads.iter().collect();
    threads.sort_by_key(|thread| Reverse(thread.allocated_bytes));
    writeln!(w, "\n== threads, counted exactly from their beginning\n")?;
    for thread in threads.iter().take(SHOWN) {
        let id = match thread.id {
            0 => String::new(),
            id => format!(" ({id})"),
        };
        writeln!(
            w,
            "  {:<28} allocated {:>10} in {} {}, freed {:>10} in {}",
            format!("{}{id}", one_line(&thread.name)),
            Bytes(thread.allocated_bytes).to_string(),
            Grouped(thread.allocations),
            plural(thread.allocations, "block", "blocks"),
            Bytes(thread.freed_bytes).to_string(),
            Grouped(thread.frees),
        )?;
    }
    let more = threads.len().saturating_sub(SHOWN) as u64;
    if more > 0 {
        let what = plural(more, "thread", "threads");
        writeln!(w, "  ... and {} more {what}", Grouped(more))?;
    }
    Ok(())
}

/// A thread's name may hold anything, as a [`Frame`]'s may; it is shown in the same way.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
