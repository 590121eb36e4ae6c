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

use crate::record::lock::{Guard, Lock};
use crate::record::zone::Zone;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The node that every stack begins at.
pub const ROOT: u32 = 0;
/// The node of stacks that could not be kept.
pub const OVERFLOW: u32 = 1;
/// The first node that is somebody's child.
const FIRST: u32 = 2;

/// What a tree is opened for unless told otherwise, in nodes.
pub const DEFAULT_NODES: u32 = 4 << 20;
/// Fewer than this are not worth opening a tree for.
const LEAST_NODES: u32 = 1 << 10;

/// Chains a tree begins with; a power of two.
#[cfg(not(loom))]
const FIRST_CHAINS: u32 = 1 << 10;
/// One, so that a model's second node splits it.
#[cfg(loom)]
const FIRST_CHAINS: u32 = 1;
/// Nodes for each [`CHAINS`] chains: what a hit walks against memory.
const NODES: u64 = 2;
/// 16 + 4 × 3 / 2 = 22 bytes a node.
const CHAINS: u64 = 3;
/// Chains split at a time, so that what readers share changes rarely.
#[cfg(not(loom))]
const SPLITS: u32 = 8;
#[cfg(loom)]
const SPLITS: u32 = 1;

#[derive(Debug)]
#[repr(C)]
struct Node {
    return_address: AtomicU64,
    /// 0 while the node is not there: stored last, so it stands for the rest.
    parent: AtomicU32,
    next: AtomicU32,
}

#[derive(Debug)]
#[repr(transparent)]
struct Head(AtomicU32);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Node>() == 16 && size_of::<Head>() == 4);

mod cells {
    //! Where zero bytes are said to be valid.
    #![expect(unsafe_code, reason = "says that atomics take any bits")]

    use super::{Head, Node};
    use crate::arena::Zeroed;
    use crate::record::zone::Cell;
    #[cfg(loom)]
    use crate::sync::{AtomicU32, AtomicU64};

    // SAFETY: atomics of integers: any bits are valid, nothing to drop.
    unsafe impl Zeroed for Node {}
    // SAFETY: as above.
    unsafe impl Zeroed for Head {}

    // SAFETY: `Zeroed` says so; integers need no drop.
    unsafe impl Cell for Node {
        #[cfg(loom)]
        fn fresh() -> Self {
            Self {
                return_address: AtomicU64::new(0),
                parent: AtomicU32::new(0),
                next: AtomicU32::new(0),
            }
        }
    }

    // SAFETY: as above.
    unsafe impl Cell for Head {
        #[cfg(loom)]
        fn fresh() -> Self {
            Self(AtomicU32::new(0))
        }
    }
}

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

    /// Makes room for `nodes` nodes, or for as many as the system has addresses
    /// for: half as many, and so on. Returns for how many; 0 when there is no
    /// memory. An open tree stays as it is. Not for use inside the allocator.
    #[cfg(not(loom))]
    pub fn open(&self, nodes: u32) -> u32 {
        crate::record::fork::watch();
        let mut wanted = nodes.clamp(LEAST_NODES, u32::MAX / 4);
        // The heads first: too many of them do no harm when there is no room for the nodes.
        while !(self.heads.open(heads_for(wanted)) && self.nodes.open(wanted as usize)) {
            if wanted <= LEAST_NODES {
                return 0;
            }
            wanted = (wanted / 2).max(LEAST_NODES);
        }
        self.room()
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

    /// Walks the child's chain; 0 when it is not there, or has just moved.
    #[inline]
    fn find(&self, hash: u64, parent: u32, return_address: u64) -> u32 {
        let mut at = self.head(bucket(hash, self.chains.load(Ordering::Acquire)));
        while at != 0 && !self.is(at, parent, return_address) {
            let next = self.next(at);
            at = if next < at { next } else { 0 };
        }
        at
    }

    #[inline]
    fn head(&self, bucket: u32) -> u32 {
        // Acquire: the node that it names.
        self.heads
            .get(u64::from(bucket))
            .map_or(0, |head| head.0.load(Ordering::Acquire))
    }

    fn set_head(&self, bucket: u32, id: u32) {
        if let Some(head) = self.heads.get(u64::from(bucket)) {
            head.0.store(id, Ordering::Release);
        }
    }

    #[inline]
    fn next(&self, id: u32) -> u32 {
        // Acquire: the node that it names.
        self.nodes
            .get(u64::from(id))
            .map_or(0, |node| node.next.load(Ordering::Acquire))
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

    /// Adds a node that is not there.
    fn insert(
        &self,
        guard: &Guard<'_>,
        hash: u64,
        parent: u32,
        return_address: u64,
    ) -> Option<u32> {
        let id = self.writers.used.load(Ordering::Relaxed);
        let node = self.nodes.get(u64::from(id))?;
        let chains = self.chains.load(Ordering::Relaxed);
        let head = self.heads.get(u64::from(bucket(hash, chains)))?;
        // First, so that a thread that vanishes in a fork loses an id and not a stack.
        self.writers.used.store(id + 1, Ordering::Relaxed);
        node.return_address.store(return_address, Ordering::Relaxed);
        node.next
            .store(head.0.load(Ordering::Relaxed), Ordering::Relaxed);
        // Release: the address, for those who look beside the parent.
        node.parent.store(parent.wrapping_add(1), Ordering::Release);
        // Release: the node, for those who come along the chain.
        head.0.store(id, Ordering::Release);
        if is_crowded(id, chains) {
            self.split(guard, chains);
        }
        Some(id)
    }

    /// Splits the next few chains.
    fn split(&self, _guard: &Guard<'_>, chains: u32) {
        let mut fresh = chains;
        while fresh < chains.saturating_add(SPLITS) && u64::from(fresh) < self.heads.len() {
            self.split_into(fresh);
            fresh += 1;
        }
        // Release: the new heads. Who still goes by the old number misses what moved, and looks
        // again under the lock.
        self.chains.store(fresh, Ordering::Release);
    }

    /// Moves to chain `fresh` what belongs there. Both chains keep their order.
    fn split_into(&self, fresh: u32) {
        let old = bucket(u64::from(fresh), fresh);
        let mut at = self.head(old);
        let (mut old_tail, mut fresh_tail) = (Tail::Head(old), Tail::Head(fresh));
        while at != 0 {
            let Some(node) = self.nodes.get(u64::from(at)) else {
                break;
            };
            let next = node.next.load(Ordering::Relaxed);
            let hash = hash(
                node.parent.load(Ordering::Relaxed).wrapping_sub(1),
                node.return_address.load(Ordering::Relaxed),
            );
            if bucket(hash, fresh + 1) == fresh {
                self.append(&mut fresh_tail, at);
            } else {
                self.append(&mut old_tail, at);
            }
            at = next;
        }
        self.end(&old_tail);
        self.end(&fresh_tail);
    }

    fn append(&self, tail: &mut Tail, id: u32) {
        self.link(tail, id);
        *tail = Tail::Node(id);
    }

    fn end(&self, tail: &Tail) {
        self.link(tail, 0);
    }

    fn link(&self, tail: &Tail, id: u32) {
        match *tail {
            Tail::Head(bucket) => self.set_head(bucket, id),
            Tail::Node(last) => {
                if let Some(node) = self.nodes.get(u64::from(last)) {
                    node.next.store(id, Ordering::Release);
                }
            }
        }
    }
}

#[cfg(not(loom))]
impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// Where the next node of a chain is to be written.
enum Tail {
    Head(u32),
    Node(u32),
}

/// A number that depends on every bit of both.
#[inline]
fn hash(parent: u32, return_address: u64) -> u64 {
    let seed = return_address ^ (u64::from(parent) << 32 | u64::from(parent));
    let product = u128::from(seed ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are folded")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

/// Which of `chains` chains a hash belongs to: its low bits, one bit fewer where
/// that chain has not been split off yet.
#[inline]
fn bucket(hash: u64, chains: u32) -> u32 {
    let high = 1_u32 << (chains | 1).ilog2();
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
    let low = hash as u32;
    let long = low & (high << 1).wrapping_sub(1);
    if long < chains {
        long
    } else {
        low & (high - 1)
    }
}

/// Whether `nodes` nodes are too many for `chains` chains.
fn is_crowded(nodes: u32, chains: u32) -> bool {
    u64::from(nodes) * CHAINS > u64::from(chains) * NODES
}

#[cfg(not(loom))]
fn heads_for(nodes: u32) -> usize {
    let heads = u64::from(nodes) * CHAINS / NODES + u64::from(FIRST_CHAINS + SPLITS);
    usize::try_from(heads).unwrap_or(usize::MAX)
}

#[cfg(all(test, not(loom)))]
#[path = "tree_tests.rs"]
mod tests;

#[cfg(all(test, loom))]
#[path = "tree_models.rs"]
mod models;
