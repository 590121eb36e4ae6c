//! The tree's hash table: how a child is found, added, and moved.

use super::Tree;
use crate::record::lock::Guard;
use crate::sync::Ordering;

/// Chains a tree begins with; a power of two.
#[cfg(not(loom))]
pub(super) const FIRST_CHAINS: u32 = 1 << 10;
/// One, so that a model's second node splits it.
#[cfg(loom)]
pub(super) const FIRST_CHAINS: u32 = 1;
/// Nodes for each [`CHAINS`] chains: what a hit walks against memory.
const NODES: u64 = 2;
/// 16 + 4 × 3 / 2 = 22 bytes a node.
const CHAINS: u64 = 3;
/// Chains split at a time, so that what readers share changes rarely.
#[cfg(not(loom))]
const SPLITS: u32 = 8;
#[cfg(loom)]
const SPLITS: u32 = 1;

impl Tree {
    /// Walks the child's chain; 0 when it is not there, or has just moved.
    #[inline]
    pub(super) fn find(&self, hash: u64, parent: u32, return_address: u64) -> u32 {
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

    pub(super) fn set_head(&self, bucket: u32, id: u32) {
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

    /// Adds a node that is not there.
    pub(super) fn insert(
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

/// Where the next node of a chain is to be written.
enum Tail {
    Head(u32),
    Node(u32),
}

/// A number that depends on every bit of both.
#[inline]
pub(super) fn hash(parent: u32, return_address: u64) -> u64 {
    let seed = return_address ^ (u64::from(parent) << 32 | u64::from(parent));
    let product = u128::from(seed ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are folded")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

/// Which of `chains` chains a hash belongs to: its low bits, one bit fewer where
/// that chain has not been split off yet.
#[inline]
pub(super) fn bucket(hash: u64, chains: u32) -> u32 {
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
pub(super) fn is_crowded(nodes: u32, chains: u32) -> bool {
    u64::from(nodes) * CHAINS > u64::from(chains) * NODES
}

#[cfg(not(loom))]
pub(super) fn heads_for(nodes: u32) -> usize {
    let heads = u64::from(nodes) * CHAINS / NODES + u64::from(FIRST_CHAINS + SPLITS);
    usize::try_from(heads).unwrap_or(usize::MAX)
}
