//! What a tree is made of.

use crate::arena::Zeroed;
use crate::record::zone::Cell;
use crate::sync::{AtomicU32, AtomicU64};

#[derive(Debug)]
#[repr(C)]
pub(super) struct Node {
    pub(super) return_address: AtomicU64,
    /// 0 while the node is not there: stored last, so it stands for the rest.
    pub(super) parent: AtomicU32,
    pub(super) next: AtomicU32,
}

#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Head(pub(super) AtomicU32);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Node>() == 16 && size_of::<Head>() == 4);

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
