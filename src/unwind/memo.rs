//! Ways from an allocation site down to frames that are kept.
//!
//! A program allocates at many sites in turn, so the last stack alone is met a
//! few frames further out each time, and these few would be stepped through
//! again: rule, step, node, for each. A memo is such a way as it was walked
//! once, by the words that decided it:
//!
//! ```text
//!   site   g ─┐
//!          f  │ frames of the memo: their return addresses, and each saved `rbp`
//!        value│ that a step went by, are read again and compared
//!        parse┘ the base: a frame that is kept, by its index
//!   kept   main   compared as for every capture
//! ```
//!
//! That is as exact as meeting a kept frame is, for the same reason: what
//! unwinding finds is a function of the innermost frame's registers and of the
//! words that it reads, and all of them are as they were. The kept frames stay
//! as they are; they are the trunk that all memos lead to.
//!
//! A capture in the bench of strings that go through a channel, where two sites
//! take turns, took 1,464 instructions without memos and takes 339 with them
//! (2026-11-21; `benches/README.md`, "Recording", has the command).

use crate::unwind::entry::{NEEDS_BP, STRANGE};
use crate::unwind::stack::{Entry, Memo, Names, SETS_LOG2, Stack, WAYS, Walk};
use crate::unwind::step::{Frame, load_at};
use crate::unwind::{Capture, DEEP};

impl Memo {
    /// Adds a word to compare; `None` when there is no room for it.
    #[inline]
    fn add(&mut self, address: u64, word: u64) -> Option<()> {
        let index = usize::from(self.len);
        *self.at.get_mut(index)? = u16::try_from(address.wrapping_sub(self.slot) / 8).ok()?;
        *self.words.get_mut(index)? = word;
        self.len += 1;
        Some(())
    }

    /// Zero if memory still says what it did.
    ///
    /// # Safety
    /// The memo is the calling thread's, of this era, and there is a frame with
    /// its slot on the thread's live stack.
    #[inline]
    unsafe fn difference(&self) -> u64 {
        let mut differs = 0;
        let words = self.at.iter().zip(&self.words);
        for (at, word) in words.take(usize::from(self.len)) {
            // SAFETY: when the memo was made, this was a word above `slot` and below the end of
            // the thread's stack, which is where it was: another end would be another era.
            differs |= unsafe { load_at(self.slot, u64::from(*at)) } ^ word;
        }
        differs
    }

    /// Whether `frame` is the innermost, and memory still says what it did.
    ///
    /// # Safety
    /// `frame` is on the calling thread's live stack, and the memo is its own and
    /// of this era.
    #[inline]
    unsafe fn leads_from(&self, frame: &Frame) -> bool {
        self.ip == frame.ip
            && self.slot == frame.slot
            && (!self.needs_bp || self.bp == frame.bp)
            // SAFETY: the caller, and its slot is the frame's.
            && unsafe { self.difference() } == 0
    }

    /// The base as it was: its return address and slot.
    #[inline]
    fn base(&self) -> Option<(u64, u64)> {
        let last = usize::from(self.frames).wrapping_sub(1);
        let (at, ip) = (self.at.get(last)?, self.words.get(last)?);
        Some((*ip, self.slot + u64::from(*at) * 8))
    }
}

/// In which set the memo of a frame is, and its name there.
#[inline]
fn place(ip: u64, slot: u64) -> (usize, u32) {
    let mixed = (ip ^ slot.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let set = (mixed >> (u64::BITS - SETS_LOG2)) as usize;
    #[expect(clippy::cast_possible_truncation, reason = "a part of it is enough")]
    let name = (mixed >> 16) as u32;
    (set, name)
}

impl Names {
    /// Which of the memos have this name: a bit for each. All at once, as one after
    /// the other it is guessed wrong which it is.
    #[inline]
    pub(super) fn those_named(&self, name: u32) -> u32 {
        #[target_feature(enable = "sse2")]
        #[inline]
        fn by_sse2(of: [u32; WAYS], name: u32) -> u32 {
            use core::arch::x86_64::{
                _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_ps, _mm_set_epi32, _mm_set1_epi32,
            };
            let [a, b, c, d] = of.map(u32::cast_signed);
            let equal = _mm_cmpeq_epi32(
                _mm_set_epi32(d, c, b, a),
                _mm_set1_epi32(name.cast_signed()),
            );
            _mm_movemask_ps(_mm_castsi128_ps(equal)).cast_unsigned()
        }
        // SAFETY: all processors of this architecture have SSE2.
        unsafe { by_sse2(self.of, name) }
    }
}

impl Stack {
    /// The stack of `frame`, which is the innermost, by its memo.
    ///
    /// # Safety
    /// `frame` is on the calling thread's live stack, whose stack this is.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "measured: a call takes 25 instructions of 370"
    )]
    pub(super) unsafe fn recall(
        &mut self,
        frame: &Frame,
        sink: &mut impl FnMut(u32, u64) -> u32,
    ) -> Option<Capture> {
        if self.root == DEEP || frame.strange {
            return None;
        }
        let (set, name) = place(frame.ip, frame.slot);
        let (names, ways) = (self.names.get(set)?, self.memos.get_mut(set)?);
        let era = self.era;
        let mut left = names.those_named(name);
        // Nearly always at most one.
        while left != 0 {
            let memo = ways.get_mut(left.trailing_zeros() as usize)?;
            left &= left - 1;
            // SAFETY: passed on.
            if memo.era != era || !unsafe { memo.leads_from(frame) } {
                continue;
            }
            let (ip, slot) = memo.base()?;
            let index = usize::from(memo.base);
            let base = self.entries.get(..self.len)?.get(index)?;
            if base.slot != slot || base.ip != ip || base.about & STRANGE != 0 {
                return None;
            }
            if base.about & NEEDS_BP != 0 && !(memo.knows_bp && memo.base_bp == base.bp) {
                return None;
            }
            // SAFETY: the base, which was just compared, is live, and has called the innermost.
            if unsafe { self.proofs.unchanged(index) }.is_some() {
                return None;
            }
            if memo.base_node != base.node {
                memo.follow(base.node, sink)?;
            }
            #[cfg(test)]
            {
                self.recalled += 1;
            }
            self.depth = index + 1 + usize::from(memo.frames);
            return Some(Capture {
                node: memo.node,
                root: self.root,
            });
        }
        None
    }

    /// Keeps the way that was just walked and entered, if it has met a kept frame
    /// and may be gone again. Whether that was tried.
    #[inline]
    pub(super) fn remember_way(&mut self, walk: &Walk, node: u32) -> bool {
        if walk.kept == 0 || walk.fresh == 0 || walk.root == DEEP {
            return false;
        }
        let leaf = self.entries.get((walk.kept + walk.fresh).wrapping_sub(1));
        let Some((set, name)) = leaf.map(|leaf| place(leaf.ip, leaf.slot)) else {
            return false;
        };
        let Some(names) = self.names.get_mut(set) else {
            return false;
        };
        names.misses = names.misses.wrapping_add(1);
        if names.missed != name && !names.misses.is_multiple_of(4) {
            // Most ways are never gone again: it must be missed twice, or be lucky, as two that
            // take turns would never get in.
            names.missed = name;
            false
        } else {
            self.keep_way(walk, node, set, name);
            self.made = self.made.wrapping_add(1);
            true
        }
    }

    /// The same once it is settled; `set` and `name` are those of its innermost frame.
    #[inline(never)]
    fn keep_way(&mut self, walk: &Walk, node: u32, set: usize, name: u32) {
        let Some((older, fresh)) = self
            .entries
            .get(..walk.kept + walk.fresh)
            .and_then(|kept| kept.split_at_checked(walk.kept))
        else {
            return;
        };
        let (Some(outer), Some((leaf, fresh))) = (older.last(), fresh.split_last()) else {
            return;
        };
        let (Some(names), Some(set)) = (self.names.get_mut(set), self.memos.get_mut(set)) else {
            return;
        };
        let (Ok(base), Ok(frames)) = (u16::try_from(walk.kept - 1), u8::try_from(walk.fresh))
        else {
            return;
        };
        names.turn = names.turn.wrapping_add(1);
        let way = usize::from(names.turn) % WAYS;
        let (Some(of), Some(memo)) = (names.of.get_mut(way), set.get_mut(way)) else {
            return;
        };
        *of = name;
        (memo.ip, memo.slot, memo.bp) = (leaf.ip, leaf.slot, leaf.bp);
        memo.needs_bp = leaf.about & NEEDS_BP != 0;
        (memo.base, memo.base_bp, memo.base_node) = (base, outer.bp, outer.node);
        (memo.node, memo.frames, memo.len) = (node, frames, 0);
        let is_whole = leaf.about & STRANGE == 0 && memo.add_all(fresh, outer).is_some();
        memo.era = if is_whole { self.era } else { 0 };
    }
}

impl Memo {
    /// Enters the way's nodes again, as the base has another one now.
    #[cold]
    fn follow(&mut self, base: u32, sink: &mut impl FnMut(u32, u64) -> u32) -> Option<()> {
        self.base_node = base;
        self.node = base;
        let inner = usize::from(self.frames).wrapping_sub(1);
        for ip in self.words.get(..inner)?.iter().rev().chain([&self.ip]) {
            self.node = sink(self.node, *ip);
        }
        Some(())
    }

    /// Adds the words of all frames but the innermost, and of the base.
    fn add_all(&mut self, fresh: &[Entry], outer: &Entry) -> Option<()> {
        for entry in fresh.iter().rev() {
            self.add(entry.slot, entry.ip)?;
        }
        self.add(outer.slot, outer.ip)?;
        for entry in fresh {
            if entry.about & STRANGE != 0 {
                return None;
            }
            if entry.about & NEEDS_BP != 0
                && let Some(slot) = entry.bp_slot()
            {
                self.add(slot, entry.bp)?;
            }
        }
        // Where the base's came from the inner frames unchanged, the walk has marked them if it
        // is needed.
        self.knows_bp = outer.about & NEEDS_BP != 0;
        if self.knows_bp
            && let Some(slot) = outer.bp_slot()
        {
            self.add(slot, outer.bp)?;
        }
        Some(())
    }
}
