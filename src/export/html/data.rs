//! What the page knows, as compact JSON.
//!
//! ```text
//!   strings   every name and file once
//!   frames    columns: function and file (places in strings), line, origin, inlined
//!   tree      columns: up (how far before a node its parent stands), frame; node 0 is the root
//!   unnamed   sentences about files whose functions have no names
//!   sites     columns: node (where its stack ends), place (a frame), and the figures
//! ```
//!
//! A column is one array: ten thousand objects with the same keys would be five
//! times as long and slower to read. Stacks share their outer calls, so a tree
//! of them is much smaller than the stacks. What is not known is `null`.

use core::fmt::Display;
use std::collections::HashMap;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use crate::export::json::Quoted;
use crate::export::sites::{Site, Sites};
use crate::profile::{Frame, HeapProfile, Mode, Origin};
use crate::stats::Stats;

/// A profile laid out for the page.
pub(super) struct Data<'a> {
    profile: &'a HeapProfile,
    sites: Sites,
    tree: Tree,
}

/// The call tree, the outermost call first. A parent stands before its children.
struct Tree {
    up: Vec<u32>,
    frame: Vec<u32>,
    /// Where each site's stack ends.
    ends: Vec<u32>,
}

impl Tree {
    fn new(sites: &Sites) -> Self {
        let mut tree = Self {
            up: vec![0],
            frame: vec![0],
            ends: Vec::with_capacity(sites.list.len()),
        };
        let mut known: HashMap<(u32, u32), u32> = HashMap::new();
        for site in &sites.list {
            let mut node = 0;
            for &frame in site.stack.iter().rev() {
                node = *known.entry((node, frame)).or_insert_with(|| {
                    // More nodes than that do not fit the memory.
                    let new = u32::try_from(tree.up.len()).unwrap_or(u32::MAX);
                    tree.up.push(new - node);
                    tree.frame.push(frame);
                    new
                });
            }
            tree.ends.push(node);
        }
        tree
    }
}

impl<'a> Data<'a> {
    pub(super) fn new(profile: &'a HeapProfile) -> Self {
        let sites = Sites::new(profile);
        let tree = Tree::new(&sites);
        Self {
            profile,
            sites,
            tree,
        }
    }

    /// Writes one JSON object.
    pub(super) fn write(&self, w: &mut impl Write) -> io::Result<()> {
        w.write_all(b"{\"format\":1,")?;
        self.head(w)?;
        self.over_time(w)?;
        self.around(w)?;
        self.frames(w)?;
        w.write_all(b",\n\"tree\":{")?;
        column(w, "", "up", &self.tree.up)?;
        column(w, ",", "frame", &self.tree.frame)?;
        w.write_all(b"},\n")?;
        self.figures(w)?;
        w.write_all(b"}")
    }

    fn head(&self, w: &mut impl Write) -> io::Result<()> {
        let profile = self.profile;
        let interval = match profile.mode {
            Mode::EveryAllocation => None,
            Mode::Sampled { interval_bytes } => Some(interval_bytes),
        };
        let started = profile.started.duration_since(UNIX_EPOCH).ok();
        let started = started.map(|at| at.as_millis()).filter(|&at| at > 0);
        let (peak, error) = (profile.peak, profile.peak_error_bytes);
        let gone = profile.incomplete;
        write!(w, "\"interval_bytes\":{}", OrNull(interval))?;
        write!(w, ",\"started_ms\":{}", OrNull(started))?;
        write!(w, ",\"duration_ms\":{}", profile.duration.as_millis())?;
        write!(w, ",\n\"peak\":{{\"at_ms\":{}", peak.at_ms)?;
        write!(w, ",\"bytes\":{}", peak.live_bytes)?;
        write!(w, ",\"error_bytes\":{error}}}")?;
        write!(w, ",\n\"incomplete\":{{\"blocks\":{}", gone.blocks)?;
        write!(w, ",\"frames\":{}", gone.frames)?;
        write!(w, ",\"cut_stacks\":{}}}", gone.cut_stacks)?;
        w.write_all(b",\n")?;
        let notes: Vec<String> = self.sites.names.notes().collect();
        column(w, "", "unnamed", notes.iter().map(|note| Quoted(note)))?;
        counters(w, "before", &profile.stats_before)?;
        counters(w, "stats", &profile.stats)
    }

    fn over_time(&self, w: &mut impl Write) -> io::Result<()> {
        let (moments, sizes) = (&self.profile.timeline, &self.profile.sizes);
        w.write_all(b",\n\"timeline\":{")?;
        column(w, "", "at_ms", moments.iter().map(|m| m.at_ms))?;
        column(w, ",", "live_bytes", moments.iter().map(|m| m.live_bytes))?;
        w.write_all(b"},\n\"sizes\":{")?;
        column(w, "", "min", sizes.iter().map(|class| class.min_bytes))?;
        column(w, ",", "max", sizes.iter().map(|class| class.max_bytes))?;
        column(w, ",", "blocks", sizes.iter().map(|class| class.blocks))?;
        w.write_all(b"}")
    }

    /// The threads, and the files that are mapped.
    fn around(&self, w: &mut impl Write) -> io::Result<()> {
        let (threads, mappings) = (&self.profile.threads, &self.profile.mappings);
        w.write_all(b",\n\"threads\":{")?;
        column(w, "", "name", threads.iter().map(|t| Quoted(&t.name)))?;
        column(w, ",", "id", threads.iter().map(|t| t.id))?;
        column(w, ",", "allocations", threads.iter().map(|t| t.allocations))?;
        let allocated = threads.iter().map(|t| t.allocated_bytes);
        column(w, ",", "allocated_bytes", allocated)?;
        column(w, ",", "frees", threads.iter().map(|t| t.frees))?;
        column(w, ",", "freed_bytes", threads.iter().map(|t| t.freed_bytes))?;
        w.write_all(b"},\n\"mappings\":{")?;
        // Addresses as text: a double holds 53 bits of them.
        let hex = |address: u64| format!("\"{address:#x}\"");
        column(w, "", "start", mappings.iter().map(|m| hex(m.start)))?;
        column(w, ",", "end", mappings.iter().map(|m| hex(m.end)))?;
        column(w, ",", "path", mappings.iter().map(|m| Quoted(&m.path)))?;
        let ids = mappings.iter().map(|m| Quoted(&m.build_id));
        column(w, ",", "build_id", ids)?;
        w.write_all(b"}")
    }

    fn frames(&self, w: &mut impl Write) -> io::Result<()> {
        let frames = &self.sites.frames;
        let mut strings = Strings::default();
        let functions: Vec<usize> = frames.iter().map(|f| strings.at(f.name())).collect();
        let files: Vec<Option<usize>> = frames
            .iter()
            .map(|frame| frame.file().map(|file| strings.at(file)))
            .collect();
        w.write_all(b",\n")?;
        column(
            w,
            "",
            "strings",
            strings.all.iter().map(|text| Quoted(text)),
        )?;
        w.write_all(b",\n\"frames\":{")?;
        column(w, "", "function", functions)?;
        column(w, ",", "file", files.into_iter().map(OrNull))?;
        column(w, ",", "line", frames.iter().map(|f| OrNull(f.line())))?;
        column(w, ",", "origin", frames.iter().map(origin))?;
        let inlined = frames.iter().map(|frame| u8::from(frame.is_inlined()));
        column(w, ",", "inlined", inlined)?;
        w.write_all(b"}")
    }

    fn figures(&self, w: &mut impl Write) -> io::Result<()> {
        let sites = &self.sites.list;
        w.write_all(b"\"sites\":{")?;
        column(w, "", "node", &self.tree.ends)?;
        column(w, ",", "place", sites.iter().map(|site| self.place(site)))?;
        for kind in ["live", "peak", "total"] {
            let of = |site: &Site| match kind {
                "live" => site.live,
                "peak" => site.peak,
                _ => site.total,
            };
            let amounts = || sites.iter().map(of);
            column(w, ",", &format!("{kind}_bytes"), amounts().map(|a| a.bytes))?;
            let blocks = amounts().map(|a| a.blocks);
            column(w, ",", &format!("{kind}_blocks"), blocks)?;
            if self.profile.is_sampled() {
                let bytes = amounts().map(|a| error(a.bytes_error));
                column(w, ",", &format!("{kind}_bytes_error"), bytes)?;
                let blocks = amounts().map(|a| error(a.blocks_error));
                column(w, ",", &format!("{kind}_blocks_error"), blocks)?;
            }
        }
        let lives = || sites.iter().map(|site| site.lifetimes);
        column(w, ",", "freed_blocks", lives().map(|l| l.freed_blocks))?;
        column(w, ",", "life_ms", lives().map(|l| l.total_ms))?;
        column(w, ",", "longest_ms", lives().map(|l| l.longest_ms))?;
        let reallocations = sites.iter().map(|site| site.reallocations);
        column(w, ",", "reallocations", reallocations)?;
        w.write_all(b"}")
    }

    /// The innermost frame of the user's own code, or the innermost of all.
    fn place(&self, site: &Site) -> u32 {
        let is_user = |&&id: &&u32| {
            let frame = usize::try_from(id)
                .ok()
                .and_then(|id| self.sites.frames.get(id));
            frame.is_some_and(Frame::is_user)
        };
        let place = site.stack.iter().find(is_user).or(site.stack.first());
        // A site's stack is never empty.
        place.copied().unwrap_or(0)
    }
}

/// Every text once.
#[derive(Default)]
struct Strings<'a> {
    all: Vec<&'a str>,
    places: HashMap<&'a str, usize>,
}

impl<'a> Strings<'a> {
    fn at(&mut self, text: &'a str) -> usize {
        *self.places.entry(text).or_insert_with(|| {
            self.all.push(text);
            self.all.len() - 1
        })
    }
}

/// A place in the page's list of origins.
fn origin(frame: &Frame) -> u8 {
    match frame.origin() {
        Origin::User => 0,
        Origin::Dependency => 1,
        Origin::Std => 2,
        Origin::Allocator => 3,
        Origin::Unknown => 4,
    }
}

/// A standard error to two decimals; JSON has no infinity.
fn error(value: f64) -> OrNull<f64> {
    OrNull(value.is_finite().then(|| (value * 100.0).round() / 100.0))
}

struct OrNull<T>(Option<T>);

impl<T: Display> Display for OrNull<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("null"),
        }
    }
}

fn counters(w: &mut impl Write, name: &str, stats: &Stats) -> io::Result<()> {
    write!(w, ",\n\"{name}\":{{\"live_bytes\":{}", stats.live_bytes)?;
    write!(w, ",\"live_blocks\":{}", stats.live_blocks)?;
    write!(w, ",\"peak_bytes\":{}", stats.peak_bytes)?;
    write!(w, ",\"peak_error_bytes\":{}", stats.peak_error_bytes)?;
    write!(w, ",\"allocated_bytes\":{}", stats.allocated_bytes)?;
    write!(w, ",\"freed_bytes\":{}", stats.freed_bytes)?;
    write!(w, ",\"allocations\":{}", stats.allocations)?;
    write!(w, ",\"frees\":{}", stats.frees)?;
    write!(w, ",\"reallocations\":{}", stats.reallocations)?;
    write!(w, ",\"failures\":{}}}", stats.failures)
}

/// Writes `"name":[..]` after `before`.
fn column<T: Display>(
    w: &mut impl Write,
    before: &str,
    name: &str,
    values: impl IntoIterator<Item = T>,
) -> io::Result<()> {
    write!(w, "{before}\"{name}\":[")?;
    for (at, value) in values.into_iter().enumerate() {
        if at > 0 {
            w.write_all(b",")?;
        }
        write!(w, "{value}")?;
    }
    w.write_all(b"]")
}
