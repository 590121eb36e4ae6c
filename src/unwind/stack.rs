//! The last stack of a thread, and how a new one is entered in its place.
#![cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    allow(dead_code, reason = "what only our own walk knows of a stack")
)]

use core::cell::Cell;

use crate::arena::Zeroed;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use crate::unwind::proofs::kept;
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
    /// How the last captures left the allocator.
    pub(super) exits: [Exit; EXITS],
    /// How many bytes above the start of a capture the furthest of them ends.
    pub(super) exits_reach: u64,
    /// Memos that were made, or tried to be.
    pub(super) made: u32,
    /// How many frames the last capture had.
    pub(super) depth: usize,
    /// How many captures had a memo.
    #[cfg(test)]
    pub(super) recalled: usize,
    /// Which memos are good: those of another era are of other bounds, of another
    /// call tree or of other rules. Not zero once the bounds were asked for.
    pub(super) era: u32,
    /// Which rules they follow; see `Rules::era`.
    pub(super) rules: u32,
    /// Ways from allocation sites to kept frames.
    pub(super) names: [Names; SETS],
    pub(super) memos: [[Memo; WAYS]; SETS],
    /// What proves the kept frames unchanged.
    pub(super) proofs: Proofs,
    /// Kept frames, the outermost first, from the beginning. The fresh ones of
    /// the capture that is running fill it from the end, downwards, so that
    /// they are in the same order.
    pub(super) entries: [Entry; DEPTH],
}

/// Ways out of the allocator that are remembered: each of its methods is one.
pub(super) const EXITS: usize = 4;
/// Return addresses on such a way. The compiler's inlining makes three to five of
/// them. A longer way is not remembered: it is gone step by step, and a capture
/// takes twice as long.
pub(super) const EXIT_FRAMES: usize = 5;
/// Steps of such a way that go by `rbp`: in a build with frame pointers all do.
pub(super) const EXIT_BASES: usize = EXIT_FRAMES + 1;

/// A way from a capture through the allocator's own frames to its caller. All
/// positions are distances from the stack pointer at the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit {
    /// The instruction that it starts at; 0 if there is none.
    pub(super) start: u64,
    /// The return addresses in own functions, and where they are; unused ones
    /// repeat the first, as a loop of a fixed length is half as long.
    pub(super) ips: [u64; EXIT_FRAMES],
    pub(super) slots: [u32; EXIT_FRAMES],
    /// Where the caller's return address is.
    pub(super) slot: u32,
    /// Where the caller's `rbp` is; [`IN_REGISTER`] if it is still there.
    pub(super) bp_slot: u32,
    /// How many steps go by `rbp`; where it is read for each, or [`IN_REGISTER`];
    /// and how far above the start it points.
    pub(super) bases: u32,
    pub(super) base_slots: [u32; EXIT_BASES],
    pub(super) base_values: [u32; EXIT_BASES],
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
        bases: 0,
        base_slots: [0; EXIT_BASES],
        base_values: [0; EXIT_BASES],
    };
}

// SAFETY: integers and flags. Fresh is zero for all, but for exits, of which those that start at 0
// are none whatever else they say.
unsafe impl Zeroed for Stack {}

const _: () = assert!(size_of::<Stack>() <= 100 * 1024);

/// A word of the stack, and what it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    pub(super) at: u64,
    pub(super) word: u64,
}

impl Proof {
    pub(super) const NONE: Self = Self { at: 0, word: 0 };
}

/// Two for each frame, return address and `rbp`, and one for the end.
pub(super) const PROOFS: usize = 2 * DEPTH + 1;

/// No number of proofs.
pub(super) const UNPROVABLE: u16 = u16::MAX;

/// The words that have led to the kept frames: to the outermost, then to the
/// next, and so on.
pub(super) struct Proofs {
    /// Where the zero is that the stack ends at in place of a return address; 0
    /// if it ends otherwise.
    pub(super) end: u64,
    pub(super) words: [Proof; PROOFS],
    /// How many of them prove a kept frame and all that are further out;
    /// [`UNPROVABLE`] if one of these can never be found unchanged.
    pub(super) count: [u16; DEPTH],
}

impl Proofs {
    pub(super) const NONE: Self = Self {
        end: 0,
        words: [Proof::NONE; PROOFS],
        count: [0; DEPTH],
    };
}

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
    pub(super) fn by_words(&self) -> Self {
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

/// Memos of a thread, in sets of a few.
pub(super) const SETS: usize = 1 << SETS_LOG2;
pub(super) const SETS_LOG2: u32 = 6;
pub(super) const WAYS: usize = 4;
/// Words of a memo: return addresses, the base's too, and saved `rbp`s.
pub(super) const WORDS: usize = 20;

/// One way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memo {
    /// The innermost frame.
    pub(super) ip: u64,
    pub(super) slot: u64,
    pub(super) bp: u64,
    /// What the base's `rbp` was, if `knows_bp`.
    pub(super) base_bp: u64,
    /// The nodes of the two ends.
    pub(super) node: u32,
    pub(super) base_node: u32,
    /// When it was made; see `Stack::era`. Zero is no memo.
    pub(super) era: u32,
    /// Which of the kept frames is the base.
    pub(super) base: u16,
    /// How many frames, and how many words.
    pub(super) frames: u8,
    pub(super) len: u8,
    /// Whether `bp` has decided anything.
    pub(super) needs_bp: bool,
    /// Whether the base's `rbp` follows from what is compared.
    pub(super) knows_bp: bool,
    /// Where the words are: so many words above `slot`. First the return
    /// addresses, from the second frame's to the base's.
    pub(super) at: [u16; WORDS],
    pub(super) words: [u64; WORDS],
}

const _: () = assert!(size_of::<Memo>() == 256);

/// What is known of the memos of a set without looking at them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// A number of the innermost frame of each.
    pub(super) of: [u32; WAYS],
    /// That of the frame which was looked for in vain, and how many were.
    pub(super) missed: u32,
    pub(super) misses: u16,
    /// Which memo is the next to go.
    pub(super) turn: u16,
}

impl Names {
    pub(super) const NONE: Self = Self {
        of: [0; WAYS],
        missed: 0,
        misses: 0,
        turn: 0,
    };
}

impl Memo {
    pub(super) const NONE: Self = Self {
        ip: 0,
        slot: 0,
        bp: 0,
        base_bp: 0,
        node: 0,
        base_node: 0,
        era: 0,
        base: 0,
        frames: 0,
        len: 0,
        needs_bp: false,
        knows_bp: false,
        at: [0; WORDS],
        words: [0; WORDS],
    };
}

/// What a walk has found: this many of the kept frames, inside of them this
/// many fresh ones, and what the outermost of all has above it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub(super) kept: usize,
    pub(super) fresh: usize,
    pub(super) root: u32,
    /// Whether the kept ones are known to be unchanged.
    pub(super) proven: bool,
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
    /// A stack of no thread yet. It is large: where it must not be built on the
    /// calling thread's stack first, zero bytes will do.
    pub const fn new() -> Self {
        Self {
            low: 0,
            high: 0,
            len: 0,
            root: ROOT,
            asked: 0,
            exits: [Exit::NONE; EXITS],
            exits_reach: 0,
            made: 0,
            depth: 0,
            #[cfg(test)]
            recalled: 0,
            era: 0,
            rules: 0,
            names: [Names::NONE; SETS],
            #[expect(
                clippy::large_stack_arrays,
                reason = "made in boxes of tests and benches"
            )]
            memos: [[Memo::NONE; WAYS]; SETS],
            proofs: Proofs::NONE,
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
        self.depth = 0;
        self.root = ROOT;
        self.era = self.era.wrapping_add(1);
        if self.era == 0 {
            // Memos of the first eras would be good again, and be read where their stack was.
            self.era = 1;
            for memo in self.memos.iter_mut().flatten() {
                memo.era = 0;
            }
        }
    }

    /// How many frames the last capture had.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Gives the fresh frames their nodes, the outermost first, and keeps them.
    #[inline]
    pub(super) fn enter(&mut self, walk: &Walk, sink: &mut impl FnMut(u32, u64) -> u32) -> Capture {
        let met = self.entries.get(walk.kept.wrapping_sub(1));
        let mut node = met.map_or(walk.root, |met| met.node);
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        let mut count = self.proofs.outside(walk.kept);
        let counts = self.proofs.count.get_mut(walk.kept..);
        // Cells, as the places may be those of frames that are still to be moved, further on.
        let entries = Cell::from_mut(self.entries.as_mut_slice()).as_slice_of_cells();
        let fresh = entries.get(DEPTH.wrapping_sub(walk.fresh)..).unwrap_or(&[]);
        let places = entries.get(walk.kept..).unwrap_or(&[]);
        for ((from, to), proven) in fresh.iter().zip(places).zip(counts.unwrap_or(&mut [])) {
            // SAFETY: nobody writes to the cell while this borrow lasts.
            let mut entry = unsafe { &*from.as_ptr() }.by_words();
            node = sink(node, entry.ip);
            entry.node = node;
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            {
                count = Proofs::add(&mut self.proofs.words, count, &entry);
                *proven = kept(count);
            }
            #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
            let _ = proven;
            to.set(entry);
        }
        self.len = walk.kept + walk.fresh;
        self.depth = self.len;
        self.root = walk.root;
        Capture {
            node,
            root: walk.root,
        }
    }
}
