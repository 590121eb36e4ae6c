//! Stacks as a tree of calls: a stack is one `u32`.
//!
//! ```text
//!   node (16 bytes)     return_address: u64   parent + 1: u32   next: u32
//!   heads (4 bytes)     the newest node of each chain
//!
//!   heads[bucket] ──▶ node 907 ──next──▶ node 311 ──next──▶ node 12 ──▶ 0
//! ```
//!
//! A hash table with chains, of which three things are particular.
//!
//! - **Nodes never change their content and never move**, so a reader needs no
//!   lock: whatever path led it to a node, parent and address tell whether it is
//!   the one. A hit writes nothing that another thread reads.
//! - **It grows one chain at a time** (linear hashing): an insertion that makes
//!   the table too full splits the next chain into two, in order. While that
//!   happens a reader may miss a node that has just moved; but a miss is not
//!   believed, it takes the lock and looks again. A chain is always newest
//!   first, and a split keeps the order, so a `next` is always a smaller id:
//!   a reader ends, whatever it runs into.
//! - **The node after the parent is looked at first.** A new stack gets nodes in
//!   a row, so most nodes follow their parent immediately, in the same cache
//!   line, and are found without the table.
//!
//! Insertions hold one [`Lock`]; there are few of them once a program is warm.
//! A child that cannot be made is [`OVERFLOW`], and so are its children: a
//! report shows such a stack as incomplete. Losses are counted where they begin.

#[expect(unsafe_code, reason = "says that atomics take any bits")]
mod cells;
mod chains;

use cells::{Head, Node};
use chains::{FIRST_CHAINS, hash};

use crate::record::lock::Lock;
use crate::record::zone::Zone;
#[cfg(not(loom))]
use crate::record::zone::{Asked, Plot, leaving_as_much};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The node that every stack begins at.
pub const ROOT: u32 = 0;
/// The node of stacks that could not be kept.
pub const OVERFLOW: u32 = 4;
/// The first node that is somebody's child.
const FIRST: u32 = 5;

/// What a tree is opened for unless told otherwise, in nodes.
pub const DEFAULT_NODES: u32 = 4 << 20;
/// Fewer than this are not worth opening a tree for.
const LEAST_NODES: u32 = 1 << 10;

/// What a tree could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeLosses {
    /// Stacks cut because the tree had no room for another node.
    pub full: u64,
    /// Stacks cut because the lock could not be had: a signal handler on the
    /// thread that held it, or a holder that did not come back.
    pub busy: u64,
}

/// All stacks that were ever recorded.
#[derive(Debug)]
pub struct Tree {
    nodes: Zone<Node>,
    heads: Zone<Head>,
    /// Chains in use; written by insertions that split, read by all.
    chains: AtomicU32,
    writers: Writers,
}

/// Memory that a tree can be opened with.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct Plots {
    heads: Plot<Head>,
    nodes: Plot<Node>,
}

#[cfg(not(loom))]
impl Plots {
    /// For how many nodes it is.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }
}

#[cfg(not(loom))]
impl Asked for Plots {
    fn bytes(&self) -> usize {
        self.heads.bytes().saturating_add(self.nodes.bytes())
    }
}

/// What only insertions touch, away from what every hit reads.
#[derive(Debug)]
#[repr(align(128))]
struct Writers {
    lock: Lock,
    /// Node ids given out, the two that are always there included.
    used: AtomicU32,
    full: AtomicU64,
    busy: AtomicU64,
}

impl Tree {
    /// A tree without room: every child is [`OVERFLOW`] until it is opened.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            nodes: Zone::new(),
            heads: Zone::new(),
            chains: AtomicU32::new(FIRST_CHAINS),
            writers: Writers {
                lock: Lock::new(),
                used: AtomicU32::new(FIRST),
                full: AtomicU64::new(0),
                busy: AtomicU64::new(0),
            },
        }
    }

    /// A tree with room for `nodes` nodes.
    #[cfg(loom)]
    pub(crate) fn model(nodes: usize) -> Self {
        Self {
            nodes: Zone::model(nodes),
            heads: Zone::model(nodes * 2),
            chains: AtomicU32::new(FIRST_CHAINS),
            writers: Writers {
                lock: Lock::new(),
                used: AtomicU32::new(FIRST),
                full: AtomicU64::new(0),
                busy: AtomicU64::new(0),
            },
        }
    }

    /// Makes room for `nodes` nodes; where the system has not as many addresses, and as
    /// many again for the program, for half as many, and so on. Returns for how many; 0
    /// when there is no memory. An open tree stays as it is. Not for use inside the
    /// allocator.
    #[cfg(not(loom))]
    pub fn open(&self, nodes: u32) -> u32 {
        crate::record::fork::watch();
        if let Some(plots) = leaving_as_much(|halvings| self.plots(nodes, halvings)) {
            self.open_with(plots);
        }
        self.room()
    }

    /// Asks for the memory of so many nodes, halved so often.
    #[cfg(not(loom))]
    pub(crate) fn plots(&self, nodes: u32, halvings: u32) -> Option<Plots> {
        let nodes = (nodes >> halvings).clamp(LEAST_NODES, u32::MAX / 4);
        Some(Plots {
            heads: self.heads.plot(chains::heads_for(nodes))?,
            nodes: self.nodes.plot(nodes as usize)?,
        })
    }

    /// Makes room of this memory; `false` when somebody else does not come to an end with
    /// that. As [`open`](Self::open).
    #[cfg(not(loom))]
    pub(crate) fn open_with(&self, plots: Plots) -> bool {
        // The heads first: too many of them do no harm when there is no room for the nodes.
        self.heads.open(plots.heads) && self.nodes.open(plots.nodes)
    }

    /// The child of `parent` for a call that returns to `return_address`, made
    /// if it is new; [`OVERFLOW`] when it cannot be, and for its children.
    #[inline]
    pub fn child(&self, parent: u32, return_address: u64) -> u32 {
        let beside = parent.wrapping_add(1);
        if self.is(beside, parent, return_address) {
            return beside;
        }
        let hash = hash(parent, return_address);
        match self.find(hash, parent, return_address) {
            0 => self.child_cold(hash, parent, return_address),
            found => found,
        }
    }

    /// Parent and return address of a node; `None` for the root, for
    /// [`OVERFLOW`] and for what was never given out. Any thread, any time.
    #[inline]
    pub fn node(&self, id: u32) -> Option<(u32, u64)> {
        let node = self.nodes.get(u64::from(id))?;
        // Acquire: the address, stored before.
        let parent = node.parent.load(Ordering::Acquire).checked_sub(1)?;
        Some((parent, node.return_address.load(Ordering::Relaxed)))
    }

    /// The return addresses of a stack, innermost first.
    pub fn stack(&self, id: u32) -> impl Iterator<Item = u64> {
        let mut at = id;
        core::iter::from_fn(move || {
            let (parent, return_address) = self.node(at)?;
            // A parent is older than its child; so this ends, whatever the memory says.
            at = if parent < at { parent } else { ROOT };
            Some(return_address)
        })
    }

    /// How many nodes there are, root and [`OVERFLOW`] not counted.
    pub fn len(&self) -> u32 {
        self.writers.used.load(Ordering::Relaxed) - FIRST
    }

    /// Whether nothing was recorded yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many nodes there is room for.
    pub fn room(&self) -> u32 {
        u32::try_from(self.nodes.len())
            .unwrap_or(u32::MAX)
            .saturating_sub(FIRST)
    }

    /// The bytes of memory that were written to, up to whole pages.
    pub fn bytes(&self) -> u64 {
        let nodes = u64::from(self.writers.used.load(Ordering::Relaxed)) * size_of::<Node>() as u64;
        nodes + u64::from(self.chains.load(Ordering::Relaxed)) * size_of::<Head>() as u64
    }

    /// What could not be kept since the tree was made or cleared.
    pub fn losses(&self) -> TreeLosses {
        TreeLosses {
            full: self.writers.full.load(Ordering::Relaxed),
            busy: self.writers.busy.load(Ordering::Relaxed),
        }
    }

    /// Forgets all nodes. Only when nothing records and no id is kept: ids are
    /// given out again, for other stacks. `false` when somebody holds the lock.
    pub fn clear(&self) -> bool {
        let Some(_guard) = self.writers.lock.acquire() else {
            return false;
        };
        for id in 0..self.writers.used.load(Ordering::Relaxed) {
            if let Some(node) = self.nodes.get(u64::from(id)) {
                node.parent.store(0, Ordering::Relaxed);
                node.next.store(0, Ordering::Relaxed);
            }
        }
        for bucket in 0..self.chains.load(Ordering::Relaxed) {
            self.set_head(bucket, 0);
        }
        self.chains.store(FIRST_CHAINS, Ordering::Release);
        self.writers.used.store(FIRST, Ordering::Relaxed);
        self.writers.full.store(0, Ordering::Relaxed);
        self.writers.busy.store(0, Ordering::Relaxed);
        true
    }

    /// Whether the node `id` is this child.
    #[inline]
    fn is(&self, id: u32, parent: u32, return_address: u64) -> bool {
        self.nodes.get(u64::from(id)).is_some_and(|node| {
            // Acquire: the address, stored before. A node under construction has parent 0.
            node.parent.load(Ordering::Acquire) == parent.wrapping_add(1)
                && node.return_address.load(Ordering::Relaxed) == return_address
        })
    }

    #[cold]
    #[inline(never)]
    fn child_cold(&self, hash: u64, parent: u32, return_address: u64) -> u32 {
        if parent == OVERFLOW {
            return OVERFLOW;
        }
        let Some(guard) = self.writers.lock.acquire() else {
            self.writers.busy.fetch_add(1, Ordering::Relaxed);
            return OVERFLOW;
        };
        // Now nothing moves: what is not found is not there. A lock that was inherited from
        // before a fork may have left a chain half split; then a node may be made twice, and two
        // ids stand for one stack, which a report adds up.
        match self.find(hash, parent, return_address) {
            0 => self
                .insert(&guard, hash, parent, return_address)
                .unwrap_or_else(|| {
                    self.writers.full.fetch_add(1, Ordering::Relaxed);
                    OVERFLOW
                }),
            found => found,
        }
    }
}

#[cfg(not(loom))]
impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod models;
