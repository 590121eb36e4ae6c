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
//! A thread may be late: it has seen a profile under way that is over when it has the cell's
//! lock. So each change says which profile it is of, and one that is not of the profile whose
//! figures these are is left out.
//!
//! Figures are kept as `f64`: weights of samples are no whole numbers, and whole
//! numbers are exact in it up to 2^53.

mod cell;

pub(crate) use cell::StackFigures;
use cell::{Cell, Index};

use crate::record::fork;
use crate::record::lock::{Guard, Lock};
use crate::record::sampler::Weighed;
use crate::record::timeline::Peak;
use crate::record::zone::{Asked, Plot, Zone};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The cells for all stacks and groups.
const CELLS: usize = 1 << 21;

/// Groups of threads.
const GROUPS: usize = 4;

/// The cells of one stack, by group.
type Cells<'a> = [Option<&'a Cell>; GROUPS];

/// Memory that a tally can be opened with.
#[derive(Debug)]
pub(super) struct Plots {
    index: Plot<Index>,
    cells: Plot<Cell>,
}

impl Asked for Plots {
    fn bytes(&self) -> usize {
        self.index.bytes().saturating_add(self.cells.bytes())
    }
}

/// Cells by node and group.
#[derive(Debug)]
pub(super) struct Tally {
    /// One group's after the other.
    index: Zone<Index>,
    cells: Zone<Cell>,
    /// Whose figures they are.
    profile: AtomicU32,
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
            profile: AtomicU32::new(0),
            used: AtomicU32::new(0),
            making: Lock::new(),
            lost: AtomicU64::new(0),
        }
    }

    /// Asks for the memory of the stacks of so many nodes, with as many cells as are
    /// usual, halved so often: there can be fewer cells, but not fewer nodes.
    pub(super) fn plots(&self, nodes: usize, halvings: u32) -> Option<Plots> {
        Some(Plots {
            index: self.index.plot(nodes.checked_mul(GROUPS)?)?,
            cells: self.cells.plot(CELLS >> halvings)?,
        })
    }

    /// Makes room of this memory; `false` when somebody else does not come to an end with
    /// that. Not for use inside the allocator.
    pub(super) fn open_with(&self, plots: Plots) -> bool {
        self.index.open(plots.index) && self.cells.open(plots.cells)
    }

    /// Forgets all figures; those that come are this profile's.
    pub(super) fn clear(&self, profile: u32, peak: Peak) {
        // First, so that who changes a cell after it was cleared sees it; and while no cell is
        // made, which would not be cleared.
        let making = self.making.acquire();
        self.profile.store(profile, Ordering::Relaxed);
        drop(making);
        for cell in self.used_cells() {
            cell.clear(peak);
        }
    }

    /// How many changes could not be entered, ever: whoever wants to know for a
    /// time remembers what it was at its beginning.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A new block. As all of these, it asks for the last peak's name when nobody else can
    /// change the stack's cell: names that were got before could come in another order.
    pub(super) fn came(&self, profile: u32, node: u32, weighed: &Weighed, peak: impl Fn() -> Peak) {
        self.with(profile, node, |cell| cell.came(weighed, peak()));
    }

    /// The same of one that stands for itself: compiled for that, as it is on the way of each
    /// block in a profile of everything.
    #[inline]
    pub(super) fn came_itself(&self, profile: u32, node: u32, size: u64, peak: impl Fn() -> Peak) {
        self.with(profile, node, |cell| cell.came_itself(size, peak()));
    }

    /// A block that has grown, or shrunk, by what is `weighed`.
    pub(super) fn resized(&self, profile: u32, node: u32, weighed: &Weighed) {
        self.with(profile, node, |cell| cell.resized(weighed));
    }

    /// The same of one that stands for itself, was of the one node with the one size, and is of the
    /// other from now on; [`moved`](Self::moved) as well.
    #[inline]
    pub(super) fn regrown_itself(
        &self,
        profile: u32,
        was: (u32, u64),
        now: (u32, u64),
        peak: impl Fn() -> Peak,
    ) {
        let growth = now.1.saturating_sub(was.1);
        let is_done = self.with_both(profile, [was.0, now.0], |old, new| {
            let peak = peak();
            old.left_itself(was.1, peak);
            new.regrown_itself(growth, now.1, peak);
        });
        if !is_done {
            self.left(profile, was.0, &Weighed::exact(was.1), &peak);
            self.resized(profile, now.0, &Weighed::exact(growth));
            self.joined(profile, now.0, &Weighed::exact(now.1), &peak);
        }
    }

    /// A block that was of the one node and is of the other from now on: in one step, so that in
    /// each peak it is at one of them.
    pub(super) fn moved(
        &self,
        profile: u32,
        was: &(u32, Weighed),
        now: &(u32, Weighed),
        peak: impl Fn() -> Peak,
    ) {
        let is_done = self.with_both(profile, [was.0, now.0], |old, new| {
            let peak = peak();
            old.left(&was.1, peak);
            new.joined(&now.1, peak);
        });
        if !is_done {
            self.left(profile, was.0, &was.1, &peak);
            self.joined(profile, now.0, &now.1, &peak);
        }
    }

    /// A block that belongs to this node from now on.
    pub(super) fn joined(
        &self,
        profile: u32,
        node: u32,
        weighed: &Weighed,
        peak: impl Fn() -> Peak,
    ) {
        self.with(profile, node, |cell| cell.joined(weighed, peak()));
    }

    /// A block that does not belong to this node any more.
    pub(super) fn left(&self, profile: u32, node: u32, weighed: &Weighed, peak: impl Fn() -> Peak) {
        self.with(profile, node, |cell| cell.left(weighed, peak()));
    }

    /// A block that was freed after a life of so many milliseconds.
    pub(super) fn freed(
        &self,
        profile: u32,
        node: u32,
        weighed: &Weighed,
        life_ms: u32,
        peak: impl Fn() -> Peak,
    ) {
        self.with(profile, node, |cell| {
            cell.left(weighed, peak());
            cell.ended(life_ms);
        });
    }

    /// The same of one that stands for itself, as above.
    #[inline]
    pub(super) fn freed_itself(
        &self,
        profile: u32,
        node: u32,
        size: u64,
        life_ms: u32,
        peak: impl Fn() -> Peak,
    ) {
        self.with(profile, node, |cell| {
            cell.left_itself(size, peak());
            cell.ended(life_ms);
        });
    }

    /// The figures of all stacks, by node; of the last peak, which `peak` is asked for.
    pub(super) fn figures(
        &self,
        peak: impl Fn() -> Peak,
    ) -> impl Iterator<Item = (u32, StackFigures)> {
        self.used_cells().filter_map(move |cell| {
            let node = cell.node();
            // Each stack once, with its oldest cell, whatever cells it gets meanwhile.
            let cells = self.cells_of(node).into_iter().flatten();
            let oldest = cells.min_by_key(|cell| core::ptr::from_ref(*cell));
            let is_oldest = oldest.is_some_and(|oldest| core::ptr::eq(oldest, cell));
            let figures = is_oldest.then(|| self.figures_of(node, &peak))?;
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
            let _held = hold(&cells)?;
            let lacking = |cells: Cells<'_>| cells.iter().filter(|cell| cell.is_none()).count();
            // One that is new since then was made by who may have freed what another has told of.
            if lacking(self.cells_of(node)) == lacking(cells) {
                let peak = peak();
                let figures = cells.iter().flatten().map(|cell| cell.figures(peak));
                return Some(figures.fold(StackFigures::default(), |sum, each| sum.plus(&each)));
            }
        }
    }

    /// The cells of a stack, by group.
    fn cells_of(&self, node: u32) -> Cells<'_> {
        core::array::from_fn(|group| self.cells.get(self.index(node, group as u64)?.get()?))
    }

    fn used_cells(&self) -> impl Iterator<Item = &Cell> {
        let used = self.used.load(Ordering::Acquire) as usize;
        self.cells.all().iter().take(used)
    }

    #[inline]
    fn with(&self, profile: u32, node: u32, change: impl FnOnce(&Cell)) {
        let me = fork::me();
        let done = self.cell(node, me).is_some_and(|cell| {
            cell.locked(me, || {
                if self.profile.load(Ordering::Relaxed) == profile {
                    change(cell);
                }
            })
        });
        if !done {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same with the cells of two nodes at once, which may be one; `false`, and nothing is
    /// done, when one of them has none.
    #[inline]
    fn with_both(&self, profile: u32, nodes: [u32; 2], change: impl FnOnce(&Cell, &Cell)) -> bool {
        let me = fork::me();
        let [Some(one), Some(other)] = nodes.map(|node| self.cell(node, me)) else {
            return false;
        };
        let is_one = core::ptr::eq(one, other);
        // Always in the same order: the cells of a group by their nodes. Who holds all of a node
        // takes them by their groups, so nobody waits for who waits for him.
        let [first, second] = if nodes.is_sorted() {
            [one, other]
        } else {
            [other, one]
        };
        let held = first.hold_by(me);
        let second = if is_one { None } else { second.hold_by(me) };
        if held.is_none() || second.is_none() && !is_one {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else if self.profile.load(Ordering::Relaxed) == profile {
            change(one, other);
        }
        true
    }

    #[inline]
    fn cell(&self, node: u32, me: u64) -> Option<&Cell> {
        // The number of a thread is in the lower bits.
        let index = self.index(node, me % GROUPS as u64)?;
        match index.get() {
            Some(known) => self.cells.get(known),
            None => self.make(node, index),
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
        if let Some(known) = index.get() {
            return self.cells.get(known);
        }
        let used = self.used.load(Ordering::Relaxed);
        let cell = self.cells.get(u64::from(used))?;
        cell.name(node);
        self.used.store(used + 1, Ordering::Release);
        index.set(used);
        Some(cell)
    }
}

/// Holds all of these, always in the same order; `None` when one cannot be had.
fn hold<'a>(cells: &Cells<'a>) -> Option<[Option<Guard<'a>>; GROUPS]> {
    let mut held = [const { None }; GROUPS];
    for (place, cell) in held.iter_mut().zip(cells.iter().flatten()) {
        *place = Some(cell.hold()?);
    }
    Some(held)
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};
    use std::thread;

    use parking_lot::Mutex;

    use super::{CELLS, GROUPS, StackFigures, Tally};
    use crate::record::fork;
    use crate::record::sampler::Weighed;
    use crate::record::timeline::Highest;
    use crate::sync::{AtomicI64, Ordering};

    fn tally() -> Tally {
        let tally = Tally::new();
        let plots = tally.plots(1 << 16, 0);
        assert!(plots.is_some_and(|plots| tally.open_with(plots)));
        tally
    }

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
        let tally = tally();
        let peak = AtomicI64::new(1);
        let next_peak = || peak.fetch_add(1, Ordering::Relaxed);
        // The cells of one stack, far apart.
        in_group(0, || tally.came_itself(0, 7, 1, || 0));
        in_group(0, || {
            (100..100 + BETWEEN).for_each(|node| tally.came_itself(0, node, 1, || 0));
        });
        in_group(1, || tally.freed_itself(0, 7, 1, 0, || 0));
        assert_eq!(tally.cells_of(7).iter().flatten().count(), 2);
        let (send, receive) = mpsc::sync_channel(UNDER_WAY.into());
        let mut most: f64 = 0.0;
        thread::scope(|scope| {
            scope.spawn(|| {
                in_group(0, || {
                    for _ in 0..200_000 {
                        tally.came_itself(0, 7, 1, next_peak);
                        send.send(()).expect("somebody frees");
                    }
                    drop(send);
                });
            });
            let freeing = scope.spawn(|| {
                in_group(1, || {
                    for () in receive {
                        tally.freed_itself(0, 7, 1, 0, next_peak);
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

    /// Bug prevented: a stack that gets an older group's cell while all are read is in no figures,
    /// and nothing is said to be lost.
    #[test]
    fn a_stack_that_gets_another_cell_while_all_are_read_is_there_once() {
        let tally = tally();
        in_group(1, || tally.came_itself(0, 7, 10, || 0));
        in_group(2, || tally.came_itself(0, 8, 10, || 0));
        let figures = tally.figures(|| 0);
        in_group(0, || tally.came_itself(0, 7, 20, || 0));
        in_group(3, || tally.came_itself(0, 8, 20, || 0));
        let totals: Vec<_> = figures
            .map(|(node, figures)| (node, figures.total.bytes))
            .collect();
        assert_eq!(totals, [(7, 30.0), (8, 30.0)]);
    }

    /// Bug prevented: two threads that move blocks in opposite directions, or one that does and one
    /// that reads all figures, wait for each other.
    #[test]
    fn blocks_are_moved_both_ways_beside_a_reader() {
        let tally = tally();
        let moves = |was, now| {
            (0..20_000).for_each(|_| tally.regrown_itself(0, (was, 10), (now, 10), || 0));
        };
        thread::scope(|scope| {
            let both = [(0, 7, 8), (0, 8, 7), (1, 7, 8), (1, 8, 7)];
            let moving = both.map(|(group, was, now)| {
                scope.spawn(move || in_group(group, move || moves(was, now)))
            });
            while moving.iter().any(|thread| !thread.is_finished()) {
                tally.figures(|| 0).for_each(drop);
            }
        });
        assert_eq!(tally.lost(), 0);
    }

    /// Bug prevented: a block that moves to a stack for which there is no cell stays at its old
    /// one for ever.
    #[test]
    fn a_block_that_moves_to_a_stack_without_a_cell_leaves_its_own() {
        let tally = Tally::new();
        let plots = tally.plots(1 << 16, CELLS.ilog2());
        assert!(plots.is_some_and(|plots| tally.open_with(plots)));
        (0..2).for_each(|_| tally.came_itself(0, 7, 10, || 0));
        let (was, now) = ((7, Weighed::exact(10)), (8, Weighed::exact(20)));
        tally.moved(0, &was, &now, || 0);
        tally.regrown_itself(0, (7, 10), (8, 20), || 0);
        let figures: Vec<_> = tally.figures(|| 0).collect();
        let shares: Vec<_> = figures.iter().map(|of| (of.0, of.1.share.bytes)).collect();
        assert_eq!(shares, [(7, 0.0)]);
        assert_eq!(tally.lost(), 3);
    }

    /// Bug prevented: a thread that was told of the last peak, and held up before it could change
    /// the stack's figures, takes the older peak for a newer one: what the stack had at the last
    /// one is forgotten.
    #[test]
    fn peaks_come_to_a_stack_in_their_order() {
        const THREADS: usize = 4;
        const BLOCKS: usize = 3_000;
        for _ in 0..50 {
            let (tally, highest) = (tally(), Highest::new());
            let live = Mutex::new(0);
            let start = Barrier::new(THREADS);
            let work = || {
                start.wait();
                for _ in 0..BLOCKS {
                    tally.came_itself(0, 7, 1, || highest.peak());
                    let mut live = live.lock();
                    *live += 1;
                    highest.see(0, *live);
                }
                for _ in 0..BLOCKS {
                    *live.lock() -= 1;
                    tally.freed_itself(0, 7, 1, 0, || highest.peak());
                }
            };
            thread::scope(|scope| {
                (0..THREADS).for_each(|_| drop(scope.spawn(|| in_group(0, work))));
            });
            let mut all = tally.figures(|| highest.peak());
            let share = all.next().expect("a stack").1.share.bytes;
            let (_, most) = highest.moment(0);
            let most = f64::from(i32::try_from(most).expect("few"));
            // Each thread may have told of one block before it was counted, or after.
            assert!((share - most).abs() <= 8.0, "{share} of {most}");
        }
    }

    /// Bug prevented: of two threads that allocate at the same time, the ledger knows of both
    /// blocks when the first one looks for a peak, and the second one's is in no share.
    #[test]
    fn what_is_told_after_a_peak_as_high_as_the_last_is_in_it() {
        let (tally, highest) = (tally(), Highest::new());
        for node in [10, 11] {
            tally.came_itself(0, node, 10, || highest.peak());
            highest.see(0, 120);
        }
        for node in [10, 11] {
            tally.freed_itself(0, node, 10, 0, || highest.peak());
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
        tally.came(0, 7, &Weighed::exact(1), || 1);
        tally.clear(0, 2);
        assert_eq!(tally.lost(), 1);
    }

    /// Bug prevented: a thread that has seen a profile under way, and comes to the figures when
    /// the next one has begun, frees there what was never allocated.
    #[test]
    fn who_is_late_for_the_last_profile_changes_nothing_of_the_next_one() {
        let tally = tally();
        let one = Weighed::exact(10);
        let all = |profile| {
            tally.came(profile, 7, &one, || 0);
            tally.came_itself(profile, 7, 10, || 0);
            tally.resized(profile, 7, &one);
            tally.moved(profile, &(7, one), &(7, one), || 0);
            tally.regrown_itself(profile, (7, 10), (7, 10), || 0);
            tally.joined(profile, 7, &one, || 0);
            tally.left(profile, 7, &one, || 0);
            tally.freed(profile, 7, &one, 5, || 0);
            tally.freed_itself(profile, 7, 10, 5, || 0);
        };
        let figures = || tally.figures(|| 0).next().expect("a stack").1;
        let has = |figures: &StackFigures| (figures.total.blocks > 0.0, figures.freed > 0);
        tally.clear(1, 0);
        all(1);
        assert_eq!(has(&figures()), (true, true));
        tally.clear(2, 0);
        all(1);
        let left = figures();
        let weighed = [left.total, left.share].map(|of| (of.blocks, of.bytes));
        assert_eq!(weighed, [(0.0, 0.0); 2]);
        assert_eq!((left.resizes, left.freed, left.life_ms), (0.0, 0, 0));
        // Nor is it lost.
        assert_eq!(tally.lost(), 0);
        all(2);
        assert_eq!(has(&figures()), (true, true));
    }
}
