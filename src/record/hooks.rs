//! What all that records has in common: the clock, the table and the tree, and
//! captures.

use crate::ledger::Slot;
use crate::record::clock;
use crate::record::fork;
use crate::record::loader;
use crate::record::profiling;
use crate::record::table::{DEFAULT_RECORDS, Table};
use crate::record::tag::{self, Tag};
use crate::record::tally::Tally;
use crate::record::tree::{DEFAULT_NODES, Tree};
use crate::record::visits::{self, Thread};
use crate::record::zone::leaving_as_much;
use crate::sync::{AtomicU64, Ordering};
use crate::unwind;

pub(super) static TABLE: Table = Table::new();
pub(super) static TREE: Tree = Tree::new();

/// Blocks that should have been recorded but never came as far as the table:
/// of threads without a page of the ledger, of signal handlers that interrupt
/// the recorder, and samples for which there was no memory.
static UNSEEN: AtomicU64 = AtomicU64::new(0);

/// Records that were not put back, of recordings that are over: they were part
/// of others, which may still be under way.
static ORPHANS: AtomicU64 = AtomicU64::new(0);

/// The clock is read once in so many records: reading it costs more than a record.
const CLOCK_EVERY: u32 = 64;

/// Stacks that were captured but are not whole.
static CUT: AtomicU64 = AtomicU64::new(0);

/// What the recorder could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Blocks that are not in the table.
    pub(crate) blocks: u64,
    /// Frames that are not in the tree.
    pub(crate) frames: u64,
    /// Stacks that do not go down to where the thread began.
    pub(crate) cut: u64,
}

impl Lost {
    /// What any recording that is under way may have lost, besides what its own
    /// entry counts.
    pub(super) fn by_anyone() -> Self {
        let tree = TREE.losses();
        Self {
            blocks: TABLE
                .losses()
                .missed
                .wrapping_add(ORPHANS.load(Ordering::Relaxed)),
            frames: tree.full.wrapping_add(tree.busy),
            cut: 0,
        }
    }

    /// What the process has lost.
    pub(super) fn now() -> Self {
        let (table, tree) = (TABLE.losses(), TREE.losses());
        Self {
            blocks: table
                .full
                .wrapping_add(table.busy)
                .wrapping_add(UNSEEN.load(Ordering::Relaxed))
                .wrapping_add(profiling::lost()),
            frames: tree.full.wrapping_add(tree.busy),
            cut: CUT.load(Ordering::Relaxed),
        }
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        Self {
            blocks: self.blocks.saturating_add(other.blocks),
            frames: self.frames.saturating_add(other.frames),
            cut: self.cut.saturating_add(other.cut),
        }
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            blocks: self.blocks.wrapping_sub(earlier.blocks),
            frames: self.frames.wrapping_sub(earlier.frames),
            cut: self.cut.wrapping_sub(earlier.cut),
        }
    }
}

/// Makes room for records and their stacks, and for what a profile adds up, if there is to
/// be one. `false`, and nothing has changed, when there is no memory for all of it. Behind
/// the [`loader`]'s door.
pub(super) fn make_room(tally: Option<&Tally>) -> bool {
    clock::start();
    fork::watch();
    let plots = leaving_as_much(|halvings| {
        let table = TABLE.plots(DEFAULT_RECORDS, halvings)?;
        let tree = TREE.plots(DEFAULT_NODES, halvings)?;
        let sums = match tally {
            Some(tally) => Some(tally.plots(tree.nodes(), halvings)?),
            None => None,
        };
        Some(((table, tree), sums))
    });
    plots.is_some_and(|((table, tree), sums)| {
        TABLE.open_with(table)
            && TREE.open_with(tree)
            && tally
                .zip(sums)
                .is_none_or(|(tally, sums)| tally.open_with(sums))
    })
}

/// The time as records keep it, read once in a while.
pub(super) fn recent_ms(thread: &Thread) -> u32 {
    if thread.tick().is_multiple_of(CLOCK_EVERY) {
        clock::look_ms()
    } else {
        clock::recent()
    }
}

/// Counts a block that nobody could record, and that this recording wanted.
#[cold]
pub(super) fn lose_unseen(tag: Option<Tag>) {
    UNSEEN.fetch_add(1, Ordering::Relaxed);
    if let Some(tag) = tag {
        tag.lose_block();
    }
}

/// Counts a block of this recording that whoever looks at all of them may have missed.
#[cold]
pub(super) fn lose_moving(recording: u32) {
    UNSEEN.fetch_add(1, Ordering::Relaxed);
    if recording != profiling::NOBODY {
        lose(recording);
    }
}

/// Counts a record of this recording that could not be kept.
#[cold]
pub(super) fn lose(recording: u32) {
    match tag::find(recording) {
        Some(tag) => tag.lose_block(),
        None => drop(ORPHANS.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Notes in the traces of the calling thread, if it has any, where its last request
/// came from. The slot is its own.
#[inline]
pub(crate) fn note_site(slot: Option<&'static Slot>) {
    if let Some(slot) = slot
        && slot.is_traced()
        && let Some(thread) = visits::here()
    {
        thread.unless_quiet(|| slot.note_site(capture(thread, None)));
    }
}

/// Makes ready for [`note_site`] on the calling thread.
pub(crate) fn prepare_sites() {
    visits::quietly(|| {
        loader::ask(|| {
            unwind::prime();
            make_room(None);
        });
        visits::prepare();
    });
}

/// Notices that code was unloaded, and has made place for other code. Without any lock of the
/// recorder's: whoever has the loader's may be running a library's initialisers, which allocate.
/// And before anything is counted: it may wait.
pub(crate) fn notice_libraries() {
    loader::ask(unwind::refresh);
}

/// The code that is mapped into the process.
pub(crate) fn mapped() -> Vec<unwind::Mapped> {
    loader::ask(unwind::mapped)
}

/// The addresses of a node, the innermost first, and whether they are all.
pub(crate) fn frames(node: u32) -> (Vec<u64>, bool) {
    let mut addresses = Vec::new();
    let mut next = node;
    while let Some((parent, address)) = TREE.node(next) {
        addresses.push(address);
        next = parent;
    }
    (addresses, next == unwind::ROOT)
}

/// The parent of a node, and the address that it adds to its parent's; `None` where a stack begins.
pub(crate) fn call(node: u32) -> Option<(u32, u64)> {
    TREE.node(node)
}

/// The stack of the calling thread, for a record of this recording.
pub(super) fn capture(thread: &Thread, tag: Option<Tag>) -> u32 {
    let capture = thread
        .with_stack(|stack| unwind::capture(stack, |parent, address| TREE.child(parent, address)));
    if !capture.is_whole() {
        CUT.fetch_add(1, Ordering::Relaxed);
        if let Some(tag) = tag {
            tag.cut_stack();
        }
    }
    capture.node
}
