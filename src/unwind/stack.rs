//! The last stack of a thread, and how a new one is entered in its place.

use crate::unwind::{Capture, ROOT};

/// Frames that a stack can have.
pub const DEPTH: usize = 480;
/// What is kept of a stack that is deeper: the frames next to the allocation.
pub(super) const DEEP_START: usize = 64;

/// The last stack that was captured on a thread.
///
/// Zero bytes are its fresh state. It belongs to one thread, and must be made
/// fresh before another one takes it over.
#[repr(C)]
pub struct Stack {
    /// Where the thread's stack is, from `low` to below `high`; 0 if unknown.
    pub(super) low: u64,
    pub(super) high: u64,
    /// How many entries are kept.
    pub(super) len: usize,
    /// What is above the outermost of them: a node of the call tree.
    pub(super) root: u32,
    /// Whether the bounds were asked for.
    pub(super) asked: u32,
    /// Where the zero is that the stack ends at in place of a return address; 0
    /// if it ends otherwise.
    pub(super) end: u64,
    /// How the last captures left the allocator.
    pub(super) exits: [Exit; EXITS],
    /// Kept frames, the outermost first, from the beginning. The fresh ones of
    /// the capture that is running fill it from the end, downwards, so that
    /// they are in the same order.
    pub(super) entries: [Entry; DEPTH],
}

/// Ways out of the allocator that are remembered: each of its methods is one.
pub(super) const EXITS: usize = 4;
/// Return addresses on such a way.
pub(super) const EXIT_FRAMES: usize = 4;

/// A way from a capture through the allocator's own frames to its caller. All
/// positions are distances from the stack pointer at the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit {
    /// The instruction that it starts at; 0 if there is none.
    pub(super) start: u64,
    /// The return addresses in own functions, and where they are; unused ones
    /// repeat the first.
    pub(super) ips: [u64; EXIT_FRAMES],
    pub(super) slots: [u32; EXIT_FRAMES],
    /// Where the caller's return address is.
    pub(super) slot: u32,
    /// Where the caller's `rbp` is; [`IN_REGISTER`] if it is still there.
    pub(super) bp_slot: u32,
}

/// No distance.
pub(super) const IN_REGISTER: u32 = u32::MAX;

impl Exit {
    pub(super) const NONE: Self = Self {
        start: 0,
        ips: [0; EXIT_FRAMES],
        slots: [0; EXIT_FRAMES],
        slot: 0,
        bp_slot: IN_REGISTER,
    };
}

const _: () = assert!(size_of::<Stack>() <= 16 * 1024);

/// A frame that is kept: its return address, and what proves it unchanged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) slot: u64,
    pub(super) ip: u64,
    pub(super) bp: u64,
    pub(super) node: u32,
    pub(super) about: u32,
}

impl Entry {
    pub(super) const NONE: Self = Self {
        slot: 0,
        ip: 0,
        bp: 0,
        node: 0,
        about: 0,
    };

    /// A copy, word by word. A copy in larger pieces would have to wait until
    /// the words, which were written one by one a moment ago, have all arrived
    /// in the cache: that was a fifth of a capture.
    #[inline]
    fn by_words(&self) -> Self {
        Self {
            // SAFETY: a plain word behind a reference.
            slot: unsafe { (&raw const self.slot).read_volatile() },
            // SAFETY: as above.
            ip: unsafe { (&raw const self.ip).read_volatile() },
            // SAFETY: as above.
            bp: unsafe { (&raw const self.bp).read_volatile() },
            node: self.node,
            about: self.about,
        }
    }
}

/// What a walk has found: this many of the kept frames, inside of them this
/// many fresh ones, and what the outermost of all has above it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub(super) kept: usize,
    pub(super) fresh: usize,
    pub(super) root: u32,
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Stack {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Stack")
            .field("len", &self.len)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// A stack of no thread yet.
    pub const fn new() -> Self {
        Self {
            low: 0,
            high: 0,
            len: 0,
            root: ROOT,
            asked: 0,
            end: 0,
            exits: [Exit::NONE; EXITS],
            entries: [Entry::NONE; DEPTH],
        }
    }

    /// Makes it fresh where it is, for another thread. (A new one assigned to it
    /// may be built on the calling thread's stack first, and be all of that.)
    pub fn pass_on(&mut self) {
        // The exits are the code's, not the thread's; entries beyond `len` mean nothing.
        (self.low, self.high, self.asked) = (0, 0, 0);
        self.forget();
    }

    /// Forgets the frames and their nodes, as a new call tree demands.
    pub fn forget(&mut self) {
        self.len = 0;
        self.root = ROOT;
    }

    /// How many frames the last capture had.
    pub fn depth(&self) -> usize {
        self.len
    }

    /// Gives the fresh frames their nodes, the outermost first, and keeps them.
    #[inline]
    pub(super) fn enter(&mut self, walk: &Walk, sink: &mut impl FnMut(u32, u64) -> u32) -> Capture {
        let mut node = match walk.kept.checked_sub(1) {
            Some(met) => self.entries.get(met).map_or(walk.root, |met| met.node),
            None => walk.root,
        };
        let begin = DEPTH - walk.fresh.min(DEPTH);
        for index in 0..walk.fresh {
            let Some(mut entry) = self.entries.get(begin + index).map(Entry::by_words) else {
                break;
            };
            node = sink(node, entry.ip);
            entry.node = node;
            if let Some(place) = self.entries.get_mut(walk.kept + index) {
                *place = entry;
            }
        }
        self.len = walk.kept + walk.fresh;
        self.root = walk.root;
        Capture {
            node,
            root: walk.root,
        }
    }
}
