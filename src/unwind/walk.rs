//! Unwind only what changed.
//!
//! Two successive captures of a thread share most of their stack. So the last
//! one is kept, and a new one walks up only until it meets a kept frame:
//!
//! ```text
//!     kept                    now
//!   4 alloc site             g   push               fresh: two steps, two nodes
//!   3 number ◀── gone        f   string
//!   2 value  ◀── slot and ip are those of this frame ── met
//!   1 parse  ◀──┐
//!   0 main   ◀──┴ the words in memory are still the same: the rest is kept too
//! ```
//!
//! # Why that is exact
//!
//! What unwinding finds above a frame is a function of that frame's `ip`, `sp`
//! and `rbp` and of the words that it reads from there on. A frame is met when
//! `ip` and slot are equal (so `sp` is), and `rbp` too if an older step needs
//! it; and then every word that an older step has read, return address or saved
//! `rbp` that is needed, is read again and compared. Frames that a signal has
//! interrupted, and those above a realigned one, are never met and never found
//! unchanged: more words than these two have led to them. What is left is a
//! rule that has changed meanwhile: see [`refresh`](crate::unwind::refresh).
//!
//! # Deep stacks
//!
//! At most [`DEPTH`] frames are kept. A walk that gets that far without meeting
//! anything keeps the [`DEEP_START`] innermost frames, below the node [`DEEP`],
//! and later captures grow from there. So the work is bounded, and a recursion
//! makes few nodes, since its frames repeat.

use crate::unwind::bounds::Bounds;
use crate::unwind::registers::Registers;
use crate::unwind::rule::{Kind, Rule};
use crate::unwind::stack::{DEEP_START, DEPTH, Entry, Stack, Walk};
use crate::unwind::step::{Frame, load};
use crate::unwind::{Capture, DEEP, FOREIGN, ROOT, UNKNOWN, own, rules, tables};

/// With fewer frames than this left of a cut stack, the walk goes on.
const DEEP_LEAST: usize = 32;

/// The stack that working out a rule may need.
const ROOM: u64 = if cfg!(debug_assertions) { 24 } else { 8 } * 1024;

/// `Entry::about`: an older step needs `bp`.
const NEEDS_BP: u32 = 1;
/// `Entry::about`: found by a step that reads more than return address and `bp`.
const STRANGE: u32 = 2;
/// `Entry::about`: from here on, how many words below the slot `bp` was read; 0
/// if it is the inner frame's.
const BP_SHIFT: u32 = 2;

impl Entry {
    #[inline]
    fn of(frame: &Frame) -> Self {
        let mut about = 0;
        if frame.bp_slot != 0 {
            #[expect(clippy::cast_possible_truncation, reason = "stacks are below 8 GiB")]
            let words = (frame.slot.wrapping_sub(frame.bp_slot) / 8) as u32;
            about = words << BP_SHIFT;
        }
        if frame.strange {
            about |= STRANGE;
        }
        Self {
            slot: frame.slot,
            ip: frame.ip,
            bp: frame.bp,
            node: 0,
            about,
        }
    }

    /// Whether `frame` is this one, as far as older frames can tell.
    #[inline]
    fn is(&self, frame: &Frame) -> bool {
        self.ip == frame.ip
            && self.about & STRANGE == 0
            && !frame.strange
            && (self.about & NEEDS_BP == 0 || self.bp == frame.bp)
    }

    /// Whether memory still says what it did.
    ///
    /// # Safety
    /// The entry's slot is on the calling thread's live stack, and so is its
    /// callee's frame.
    #[inline]
    unsafe fn holds(&self) -> bool {
        // SAFETY: the word that the entry was read from, live, says the caller.
        if unsafe { load(self.slot) } != self.ip {
            return false;
        }
        if self.about & (NEEDS_BP | STRANGE) == 0 {
            return true;
        }
        let below = u64::from(self.about >> BP_SHIFT) * 8;
        // SAFETY: `bp` was read there, in the callee's frame, which is live, says the caller.
        self.about & STRANGE == 0 && (below == 0 || unsafe { load(self.slot - below) } == self.bp)
    }
}

/// The rule for the frame that goes on at `ip`, which was read at `slot`.
#[inline]
fn lookup(ip: u64, slot: u64, roomy: bool) -> Option<Rule> {
    // The instruction before: a call may be the last one of its function.
    let address = ip.wrapping_sub(1);
    rules::RULES
        .get(address)
        .or_else(|| if roomy { work_out(address, slot) } else { None })
}

#[cold]
#[inline(never)]
fn work_out(address: u64, slot: u64) -> Option<Rule> {
    let derived = tables::derive(address)?;
    own::observe(derived.function, slot);
    let rule = derived.rule.owned(own::contains(derived.function));
    rules::RULES.put(address, rule);
    Some(rule)
}

impl Stack {
    /// Makes it fresh for the calling thread, and asks for that thread's bounds
    /// here rather than inside its next allocation.
    pub fn prepare(&mut self) {
        self.forget();
        self.learn(Registers::here().sp);
    }

    #[cold]
    #[inline(never)]
    fn learn(&mut self, sp: u64) {
        self.asked = 1;
        self.len = 0;
        let bounds = Bounds::of_this_thread(sp).unwrap_or_default();
        (self.low, self.high) = (bounds.low, bounds.high);
    }

    /// The stack above `start`, which is the calling thread's.
    #[inline]
    pub(super) fn capture_native(
        &mut self,
        start: Registers,
        sink: &mut impl FnMut(u32, u64) -> u32,
    ) -> Capture {
        if self.asked == 0 {
            self.learn(start.sp);
        }
        let inside = self.low <= start.sp && start.sp < self.high;
        if !inside || !start.sp.is_multiple_of(8) {
            self.len = 0;
            return Capture {
                node: FOREIGN,
                root: FOREIGN,
            };
        }
        let roomy = start.sp - self.low >= ROOM;
        // SAFETY: `start` is the calling thread's, and its stack pointer is within its bounds.
        let walk = unsafe { self.walk(start, roomy) };
        let capture = self.enter(&walk, sink);
        if walk.root == UNKNOWN && !roomy {
            // Another time there may be room to find out more.
            self.len = 0;
        }
        capture
    }

    /// # Safety
    /// `start` holds the calling thread's registers, and its `sp` is in bounds.
    #[inline]
    unsafe fn walk(&mut self, start: Registers, roomy: bool) -> Walk {
        let bounds = Bounds {
            low: self.low,
            high: self.high,
        };
        let mut walk = Walk {
            kept: self.len,
            fresh: 0,
            root: UNKNOWN,
        };
        // SAFETY: passed on.
        let Some((mut frame, mut known)) = (unsafe { leave_own(start, &bounds, roomy) }) else {
            walk.kept = 0;
            return walk;
        };
        loop {
            if self.meet(&frame, &mut walk) {
                return walk;
            }
            if self.len + walk.fresh == DEPTH && !self.make_room(&mut walk) {
                walk.root = DEEP;
                walk.fresh = DEEP_START;
                break;
            }
            if let Some(place) = self.entries.get_mut(self.len + walk.fresh) {
                *place = Entry::of(&frame);
            }
            walk.fresh += 1;
            let Some(rule) = known.take().or_else(|| lookup(frame.ip, frame.slot, roomy)) else {
                break;
            };
            if rule.uses_rbp() {
                self.need_bp(walk.fresh);
            }
            // SAFETY: each step goes up from `start.sp`, which is in bounds.
            match unsafe { frame.caller(rule, &bounds) } {
                Some(caller) if caller.ip != 0 => frame = caller,
                None if rule.kind() != Kind::End => break,
                _ => {
                    walk.root = ROOT;
                    break;
                }
            }
        }
        walk.kept = 0;
        walk
    }

    /// Whether `frame` is a kept one and all above it is as it was.
    #[inline]
    fn meet(&mut self, frame: &Frame, walk: &mut Walk) -> bool {
        while let Some(last) = walk.kept.checked_sub(1) {
            let Some(entry) = self.entries.get(last) else {
                return false;
            };
            if entry.slot > frame.slot {
                return false;
            }
            if entry.slot == frame.slot && entry.is(frame) {
                return self.verify(frame, walk);
            }
            walk.kept = last;
        }
        false
    }

    /// Whether everything above the frame that was met is as it was.
    #[inline]
    fn verify(&mut self, frame: &Frame, walk: &mut Walk) -> bool {
        let Some((entry, older)) = self
            .entries
            .get_mut(..walk.kept)
            .and_then(|kept| kept.split_last_mut())
        else {
            return false;
        };
        for (index, entry) in older.iter().enumerate().rev() {
            // SAFETY: an older slot is further up than `frame`'s, and was below the stack's end
            // when it was first read; the bounds have not changed since, or nothing would be kept.
            // Its callee is the frame that was met, or older.
            if !unsafe { entry.holds() } {
                // What lies inside of the change must be unwound; what lies outside may be met.
                walk.kept = index;
                return false;
            }
        }
        if self.root == DEEP && walk.kept + walk.fresh < DEEP_LEAST {
            walk.kept = 0;
            return false;
        }
        // The callee may be another one, so `bp` may come from elsewhere.
        let (node, needs_bp) = (entry.node, entry.about & NEEDS_BP);
        *entry = Entry::of(frame);
        entry.node = node;
        entry.about |= needs_bp;
        if needs_bp != 0 && frame.bp_slot == 0 {
            self.need_bp(walk.fresh);
        }
        walk.root = self.root;
        true
    }

    /// The outermost of `fresh` frames needs its `rbp`: so does each inner
    /// frame that has handed it on unchanged.
    #[inline]
    fn need_bp(&mut self, fresh: usize) {
        let fresh = self.entries.get_mut(self.len..self.len + fresh);
        for entry in fresh.into_iter().flatten().rev() {
            let before = entry.about;
            entry.about |= NEEDS_BP;
            if before & NEEDS_BP != 0 || before >> BP_SHIFT != 0 {
                break;
            }
        }
    }

    /// Drops kept entries that are in the way of fresh ones; `false` when there
    /// are none.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, walk: &mut Walk) -> bool {
        if self.len == 0 {
            return false;
        }
        if walk.kept == self.len {
            walk.kept = 0;
        }
        self.move_fresh(walk);
        self.len = walk.kept;
        true
    }
}

/// Goes up from `start` to the first frame that is not the allocator's own; its
/// rule comes along.
///
/// # Safety
/// `start` holds the calling thread's registers, and its `sp` is in `bounds`.
#[inline]
unsafe fn leave_own(
    start: Registers,
    bounds: &Bounds,
    roomy: bool,
) -> Option<(Frame, Option<Rule>)> {
    let mut frame = Frame::of(start);
    // The function that captures is never part of the stack.
    let mut rule = lookup(frame.ip, frame.slot, roomy)?;
    loop {
        // SAFETY: each step goes up from `start.sp`, which is in bounds.
        frame = unsafe { frame.caller(rule, bounds) }?;
        match lookup(frame.ip, frame.slot, roomy) {
            Some(own) if own.is_own() => rule = own,
            other => return Some((frame, other)),
        }
    }
}
