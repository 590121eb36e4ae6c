//! What each stack has allocated, while a profile is under way.
//!
//! ```text
//!   node, group ── index ──▶ cell    total, live, peak share; given out at the first use
//! ```
//!
//! The share that a stack has in the process's peak is kept without ever
//! walking over all stacks when a new peak is reached, as that may be with each
//! allocation. Each peak is higher than the last, so its bytes tell which one it
//! is. A cell knows the peak that its share belongs to; before it changes, it
//! looks whether there was a newer one, and if so its live figures, which have
//! not changed since, are its share of that:
//!
//! ```text
//!   peak            70       70       90               90
//!   cell         live 10 ─▶ live 30       ─▶ (share := 30, of peak 90)  live 20
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

pub(super) use cell::Figures;
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
const GROUPS: u32 = 4;

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
        let mut cells = CELLS;
        while !self.cells.open(cells) {
            if cells < 1 << 10 {
                return false;
            }
            cells /= 2;
        }
        self.index.open(nodes as usize * GROUPS as usize)
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

    /// The figures of all cells, with their nodes, of which several may have the same.
    pub(super) fn figures(&self, peak: Peak) -> impl Iterator<Item = (u32, Figures)> {
        self.used_cells().filter_map(move |cell| cell.figures(peak))
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
        let (nodes, node_index) = (self.index.len() / u64::from(GROUPS), u64::from(node));
        if node_index >= nodes {
            return None;
        }
        // The number of a thread is in the lower bits.
        let group = me % u64::from(GROUPS);
        let index = self.index.get(group * nodes + node_index)?;
        match index.get() {
            0 => self.make(node, index),
            known => self.cells.get(u64::from(known) - 1),
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
    use super::Tally;
    use crate::record::sampler::Weighed;

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
