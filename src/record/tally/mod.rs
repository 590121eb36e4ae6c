//! What each stack has allocated, while a profile is under way.
//!
//! ```text
//!   node, group ── index ──▶ cell    total, live, peak share; given out at the first use
//! ```
//!
//! The share that a stack has in the process's peak is kept without ever
//! walking over all stacks when a new peak is reached, as that may be with each
//! allocation. The peaks have names. A cell knows the name of the peak that its
//! share belongs to; before it changes, it looks whether there was a newer one,
//! and if so its live figures, which have not changed since, are its share of
//! that:
//!
//! ```text
//!   peak             A        A        B              B
//!   cell         live 10 ─▶ live 30       ─▶ (share := 30, of peak B)  live 20
//! ```
//!
//! Who allocates at a stack is often not who frees there, and each change of a cell
//! takes its lines from the core of whoever changed it last. So threads are in groups,
//! a group has cells of its own, and a stack's figures are the sums over its cells: in
//! one alone more may have been freed than was allocated.
//!
//! Figures are kept as `f64`: weights of samples are no whole numbers, and whole
//! numbers are exact in it up to 2^53.

mod cell;

pub(crate) use cell::StackFigures;
use cell::{Cell, Index};

use crate::record::fork;
use crate::record::lock::Lock;
use crate::record::sampler::Weighed;
use crate::record::timeline::Peak;
use crate::record::zone::Zone;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The cells for all stacks and groups.
const CELLS: usize = 1 << 21;

/// Groups of threads.
const GROUPS: usize = 4;

/// The cells of one stack, by group.
type Cells<'a> = [Option<&'a Cell>; GROUPS];

/// Cells by node and group.
#[derive(Debug)]
pub(super) struct Tally {
    /// One group's after the other.
    index: Zone<Index>,
    cells: Zone<Cell>,
    used: AtomicU32,
    making: Lock,
    /// Changes that could not be entered.
    lost: AtomicU64,
}

impl Tally {
    pub(super) const fn new() -> Self {
        Self {
            index: Zone::new(),
            cells: Zone::new(),
            used: AtomicU32::new(0),
            making: Lock::new(),
            lost: AtomicU64::new(0),
        }
    }

    /// Makes room; `false` when there is no memory. Not for use inside the
    /// allocator.
    pub(super) fn open(&self, nodes: u32) -> bool {
        // First: there can be fewer cells, but not fewer nodes.
        if !self.index.open(nodes as usize * GROUPS) {
            return false;
        }
        let mut cells = CELLS;
        while !self.cells.open(cells) {
            if cells < 1 << 10 {
                return false;
            }
            cells /= 2;
        }
        true
    }

    /// Forgets all figures.
    pub(super) fn clear(&self, peak: Peak) {
        for cell in self.used_cells() {
            cell.clear(peak);
        }
    }

    /// How many changes could not be entered, ever: whoever wants to know for a
    /// time remembers what it was at its beginning.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A new block.
    pub(super) fn came(&self, node: u32, weighed: &Weighed, peak: Peak) {
        self.with(node, |cell| cell.came(weighed, peak));
    }

    /// The same of one that stands for itself: compiled for that, as it is on the way of each
    /// block in a profile of everything.
    #[inline]
    pub(super) fn came_itself(&self, node: u32, size: u64, peak: Peak) {
        self.with(node, |cell| cell.came_itself(size, peak));
    }

    /// A block that has grown, or shrunk, by what is `weighed`.
    pub(super) fn resized(&self, node: u32, weighed: &Weighed) {
        self.with(node, |cell| cell.resized(weighed));
    }

    /// The same of one that belongs to this node from now on, with what it is now.
    pub(super) fn regrown(&self, node: u32, growth: &Weighed, whole: &Weighed, peak: Peak) {
        self.with(node, |cell| {
            cell.resized(growth);
            cell.joined(whole, peak);
        });
    }

    /// A block that belongs to this node from now on.
    pub(super) fn joined(&self, node: u32, weighed: &Weighed, peak: Peak) {
        self.with(node, |cell| cell.joined(weighed, peak));
    }

    /// A block that does not belong to this node any more.
    pub(super) fn left(&self, node: u32, weighed: &Weighed, peak: Peak) {
        self.with(node, |cell| cell.left(weighed, peak));
    }

    /// A block that was freed after a life of so many milliseconds.
    pub(super) fn freed(&self, node: u32, weighed: &Weighed, life_ms: u32, peak: Peak) {
        self.with(node, |cell| {
            cell.left(weighed, peak);
            cell.ended(life_ms);
        });
    }

    /// The same of one that stands for itself, as above.
    #[inline]
    pub(super) fn freed_itself(&self, node: u32, size: u64, life_ms: u32, peak: Peak) {
        self.with(node, |cell| {
            cell.left_itself(size, peak);
            cell.ended(life_ms);
        });
    }

    /// The figures of all stacks, by node; of the last peak, which `peak` is asked for. A node
    /// may come twice: then the later ones are its figures.
    pub(super) fn figures(
        &self,
        peak: impl Fn() -> Peak,
    ) -> impl Iterator<Item = (u32, StackFigures)> {
        self.used_cells().filter_map(move |cell| {
            let node = cell.node();
            let first = self.cells_of(node).into_iter().flatten().next();
            let is_first = first.is_some_and(|first| core::ptr::eq(first, cell));
            let figures = is_first.then(|| self.figures_of(node, &peak))?;
            if figures.is_none() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            Some((node, figures?))
        })
    }

    /// The figures of one stack, as they are together at one moment: what one group has
    /// allocated and another freed would otherwise be seen freed only. `None` when a cell
    /// cannot be had.
    fn figures_of(&self, node: u32, peak: impl Fn() -> Peak) -> Option<StackFigures> {
        loop {
            let cells = self.cells_of(node);
            let held = cells.map(|cell| cell.map(Cell::hold));
            let lacking = |cells: Cells<'_>| cells.iter().filter(|cell| cell.is_none()).count();
            // One that is new since then was made by who may have freed what another has told of.
            if lacking(self.cells_of(node)) == lacking(cells) {
                if held.iter().flatten().any(Option::is_none) {
                    return None;
                }
                let peak = peak();
                let figures = cells.iter().flatten().map(|cell| cell.figures(peak));
                return Some(figures.fold(StackFigures::default(), |sum, each| sum.plus(&each)));
            }
        }
    }

    /// The cells of a stack, by group.
    fn cells_of(&self, node: u32) -> Cells<'_> {
        core::array::from_fn(|group| match self.index(node, group as u64)?.get() {
            0 => None,
            known => self.cells.get(u64::from(known) - 1),
        })
    }

    fn used_cells(&self) -> impl Iterator<Item = &Cell> {
        let used = self.used.load(Ordering::Acquire) as usize;
        self.cells.all().iter().take(used)
    }

    #[inline]
    fn with(&self, node: u32, change: impl FnOnce(&Cell)) {
        let me = fork::me();
        let done = self
            .cell(node, me)
            .is_some_and(|cell| cell.locked(me, || change(cell)));
        if !done {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[inline]
    fn cell(&self, node: u32, me: u64) -> Option<&Cell> {
        // The number of a thread is in the lower bits.
        let index = self.index(node, me % GROUPS as u64)?;
        match index.get() {
            0 => self.make(node, index),
            known => self.cells.get(u64::from(known) - 1),
        }
    }

    #[inline]
    fn index(&self, node: u32, group: u64) -> Option<&Index> {
        let (nodes, node) = (self.index.len() / GROUPS as u64, u64::from(node));
        if node < nodes {
            self.index.get(group * nodes + node)
        } else {
            None
        }
    }

    #[cold]
    fn make(&self, node: u32, index: &Index) -> Option<&Cell> {
        let _making = self.making.acquire()?;
        let known = index.get();
        if known != 0 {
            return self.cells.get(u64::from(known) - 1);
        }
        let used = self.used.load(Ordering::Relaxed);
        let cell = self.cells.get(u64::from(used))?;
        cell.name(node);
        self.used.store(used + 1, Ordering::Release);
        index.set(used + 1);
        Some(cell)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::{GROUPS, Tally};
    use crate::record::fork;
    use crate::record::sampler::Weighed;
    use crate::record::timeline::Highest;
    use crate::sync::{AtomicI64, Ordering};

    /// Runs on a thread of this group.
    fn in_group(group: u64, run: impl FnOnce() + Send) {
        if fork::me() % GROUPS as u64 == group {
            return run();
        }
        thread::scope(|scope| scope.spawn(|| in_group(group, run)).join()).expect("no panic");
    }

    /// Bug prevented: of a stack where one thread allocates and another frees, what came is
    /// read at one moment and what went at a later one: a share of less than nothing, or of
    /// much more than ever was.
    #[test]
    fn what_a_stack_has_is_read_at_one_moment_for_all_groups() {
        const BETWEEN: u32 = 20_000;
        const UNDER_WAY: u8 = 4;
        let tally = Tally::new();
        assert!(tally.open(1 << 16));
        let peak = AtomicI64::new(1);
        let next_peak = || peak.fetch_add(1, Ordering::Relaxed);
        // The cells of one stack, far apart.
        in_group(0, || tally.came_itself(7, 1, 0));
        in_group(0, || {
            (100..100 + BETWEEN).for_each(|node| tally.came_itself(node, 1, 0));
        });
        in_group(1, || tally.freed_itself(7, 1, 0, 0));
        assert_eq!(tally.cells_of(7).iter().flatten().count(), 2);
        let (send, receive) = mpsc::sync_channel(UNDER_WAY.into());
        let mut most: f64 = 0.0;
        thread::scope(|scope| {
            scope.spawn(|| {
                in_group(0, || {
                    for _ in 0..200_000 {
                        tally.came_itself(7, 1, next_peak());
                        send.send(()).expect("somebody frees");
                    }
                    drop(send);
                });
            });
            let freeing = scope.spawn(|| {
                in_group(1, || {
                    for () in receive {
                        tally.freed_itself(7, 1, 0, next_peak());
                    }
                });
            });
            while !freeing.is_finished() {
                let mut all = tally.figures(|| peak.load(Ordering::Relaxed));
                let (_, figures) = all.find(|(node, _)| *node == 7).expect("it has cells");
                let share = figures.share.blocks;
                assert!(
                    (0.0..=f64::from(UNDER_WAY) + 2.0).contains(&share),
                    "{share}"
                );
                most = most.max(share);
            }
        });
        // Else there was nothing to see.
        assert!(most > 0.0);
    }

    /// Bug prevented: of two threads that allocate at the same time, the ledger knows of both
    /// blocks when the first one looks for a peak, and the second one's is in no share.
    #[test]
    fn what_is_told_after_a_peak_as_high_as_the_last_is_in_it() {
        let (tally, highest) = (Tally::new(), Highest::new());
        assert!(tally.open(1 << 10));
        for node in [10, 11] {
            tally.came_itself(node, 10, highest.peak());
            highest.note(0, 120);
        }
        for node in [10, 11] {
            tally.freed_itself(node, 10, 0, highest.peak());
        }
        let figures = tally.figures(|| highest.peak());
        let share: f64 = figures.map(|(_, figures)| figures.share.bytes).sum();
        assert!((share - 20.0).abs() < f64::EPSILON, "{share}");
    }

    /// Bug prevented: a second profile's losses less those of the first, whose
    /// count was begun again in between: a number with twenty digits.
    #[test]
    fn what_was_lost_stays_lost_when_the_figures_are_cleared() {
        // Without room, every change is lost.
        let tally = Tally::new();
        tally.came(7, &Weighed::exact(1), 1);
        tally.clear(2);
        assert_eq!(tally.lost(), 1);
    }
}
