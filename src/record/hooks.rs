//! What the allocator calls while something is recorded.
//!
//! The order around the inner allocator is what keeps addresses honest: an
//! entry leaves the table *before* the inner `dealloc` or a `realloc` that may
//! move, because afterwards another thread may already own the address; and it
//! is put back when the `realloc` fails.

use std::time::Instant;

use once_cell::sync::OnceCell;

use crate::ledger;
use crate::record::loader;
use crate::record::recording::Tag;
use crate::record::table::Record;
use crate::record::table::{DEFAULT_RECORDS, Table};
use crate::record::tree::{DEFAULT_NODES, Tree};
use crate::record::visits::{self, Thread};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::unwind;

pub(super) static TABLE: Table = Table::new();
pub(super) static TREE: Tree = Tree::new();

/// Whether any recording is under way, so that frees must be looked up.
static WATCHING: AtomicU32 = AtomicU32::new(0);

/// Milliseconds since the first recording, as of some recent record.
static CLOCK_MS: AtomicU32 = AtomicU32::new(0);
static EPOCH: OnceCell<Instant> = OnceCell::new();

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
    pub(super) fn now() -> Self {
        let (table, tree) = (TABLE.losses(), TREE.losses());
        Self {
            blocks: table.full.wrapping_add(table.busy),
            frames: tree.full.wrapping_add(tree.busy),
            cut: CUT.load(Ordering::Relaxed),
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

/// Whether the allocator must tell what it does.
#[inline]
pub(crate) fn is_watching() -> bool {
    WATCHING.load(Ordering::Relaxed) != 0
}

/// Switches the look-up of frees on or off. For the office of recordings.
///
/// Relaxed is enough: whoever frees a recorded block got its address from the
/// recorded thread by some synchronisation, and that thread had seen the switch.
pub(super) fn watch_frees(on: bool) {
    WATCHING.store(u32::from(on), Ordering::Relaxed);
}

/// Makes room for records; `false` when there is no memory for any. A recording
/// without room for stacks still counts. Behind the [`loader`]'s door.
pub(super) fn make_room() -> bool {
    EPOCH.get_or_init(Instant::now);
    let records = TABLE.open(DEFAULT_RECORDS);
    TREE.open(DEFAULT_NODES);
    records > 0
}

/// Milliseconds since the first recording.
pub(super) fn clock_ms() -> u32 {
    let now = EPOCH.get().map_or(0, |epoch| {
        u32::try_from(epoch.elapsed().as_millis()).unwrap_or(u32::MAX)
    });
    CLOCK_MS.store(now, Ordering::Relaxed);
    now
}

fn recent_ms(thread: &Thread) -> u32 {
    if thread.tick().is_multiple_of(CLOCK_EVERY) {
        clock_ms()
    } else {
        CLOCK_MS.load(Ordering::Relaxed)
    }
}

/// Records a new block, if the thread is in a recording.
#[cold]
#[inline(never)]
pub(crate) fn allocated(block: *mut u8, size: usize) {
    let Some(thread) = visits::here() else { return };
    let Some(tag) = thread.current() else { return };
    thread.unless_quiet(|| {
        insert(thread, block, size, tag);
    });
}

/// Strikes a block from the table; it is about to be freed.
///
/// Also when the recorder itself frees it: it has allocated it unrecorded, and
/// to find nothing costs less than to ask first.
#[cold]
#[inline(never)]
pub(crate) fn freed(block: *mut u8) {
    TABLE.remove(block.addr());
}

/// Takes a block from the table; it is about to be resized.
#[cold]
#[inline(never)]
pub(crate) fn resize_begins(block: *mut u8) -> Option<Record> {
    TABLE.remove(block.addr())
}

/// Enters the outcome of a resize: `moved` with `size` bytes, or null.
///
/// A block that was recorded stays so, now as of the site that resized it, so
/// that a growing vector shows where it grows; when the thread that resized it
/// is in no recording, the old site is all there is. A block that was not
/// recorded is older than the recording, and no new block.
#[cold]
#[inline(never)]
pub(crate) fn resize_ended(old: *mut u8, moved: *mut u8, size: usize, record: Option<Record>) {
    let Some(record) = record else { return };
    if moved.is_null() {
        TABLE.insert(old.addr(), &record);
        return;
    }
    let fresh = visits::here().and_then(|thread| {
        let tag = thread.current()?;
        thread.unless_quiet(|| insert(thread, moved, size, tag))
    });
    if fresh.is_none() {
        let size = size as u64;
        TABLE.insert(moved.addr(), &Record { size, ..record });
    }
}

/// Notes in the thread's traces, if it has any, where its last request came from.
#[inline]
pub(crate) fn note_site() {
    if let Some(slot) = ledger::own()
        && slot.is_traced()
        && let Some(thread) = visits::here()
    {
        thread.unless_quiet(|| slot.note_site(capture(thread)));
    }
}

/// Makes ready for [`note_site`] on the calling thread.
pub(crate) fn prepare_sites() {
    visits::quietly(|| {
        loader::ask(|| {
            unwind::prime();
            make_room();
        });
        visits::prepare();
    });
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

fn capture(thread: &Thread) -> u32 {
    let capture = thread
        .with_stack(|stack| unwind::capture(stack, |parent, address| TREE.child(parent, address)));
    if !capture.is_whole() {
        CUT.fetch_add(1, Ordering::Relaxed);
    }
    capture.node
}

fn insert(thread: &Thread, block: *mut u8, size: usize, tag: Tag) {
    TABLE.insert(
        block.addr(),
        &Record {
            node: capture(thread),
            size: size as u64,
            birth: recent_ms(thread),
            recording: tag.id,
        },
    );
}
