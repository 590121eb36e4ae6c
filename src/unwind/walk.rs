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

use crate::sync::{AtomicU64, Ordering};
use crate::unwind::bounds::Bounds;
use crate::unwind::entry::{BP_SHIFT, NEEDS_BP, STRANGE};
use crate::unwind::lent;
use crate::unwind::registers::Registers;
use crate::unwind::rule::{Kind, Rule};
use crate::unwind::stack::{DEEP_START, DEPTH, Entry, Stack, Walk};
use crate::unwind::step::Frame;
use crate::unwind::{Capture, DEEP, FOREIGN, ROOT, UNKNOWN, own, rules, tables};

/// With fewer frames than this left of a cut stack, the walk goes on.
const DEEP_LEAST: usize = 32;

/// The stack that working out a rule may need.
const ROOM: u64 = if cfg!(debug_assertions) { 24 } else { 8 } * 1024;

/// The rule for the frame that goes on at `ip`, which was read at `slot`.
#[inline]
pub(super) fn lookup(ip: u64, slot: u64, roomy: bool) -> Option<Rule> {
    // The instruction before: a call may be the last one of its function.
    let address = ip.wrapping_sub(1);
    rules::RULES
        .get(address)
        .or_else(|| if roomy { work_out(address, slot) } else { None })
}

/// How many rules were looked for in unwind tables.
pub(super) static WORKED_OUT: AtomicU64 = AtomicU64::new(0);

#[cold]
#[inline(never)]
fn work_out(address: u64, slot: u64) -> Option<Rule> {
    WORKED_OUT.fetch_add(1, Ordering::Relaxed);
    let derived = tables::derive(address)?;
    own::observe(derived.function, slot);
    let rule = derived.rule.owned(own::contains(derived.function));
    rules::RULES.put(address, rule);
    Some(rule)
}

/// Whether the way out that is taken now shall be the first to be looked at, after
/// so many memos: soon, and now and then, as programs change what they do.
#[inline]
fn is_time_to_prefer(memos: u32) -> bool {
    memos.is_power_of_two() || memos.is_multiple_of(32)
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
        // One of ours is where the thread is for a while only.
        self.asked = u32::from(lent::bounds_at(sp).is_none());
        self.forget();
        let bounds = Bounds::of_this_thread(sp).unwrap_or_default();
        (self.low, self.high) = (bounds.low, bounds.high);
    }

    /// Whether the thread is the main one, on its own stack, which has become deeper than it
    /// could when its bounds were asked for; then they are learned anew.
    #[cold]
    #[inline(never)]
    fn may_be_deeper(&mut self, sp: u64) -> bool {
        let is_on_it = || Bounds::of_main(sp).is_some_and(|main| main.high == self.high);
        let is_deeper = sp < self.low && is_on_it();
        if is_deeper {
            self.learn(sp);
        }
        is_deeper
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
        if !(inside || self.may_be_deeper(start.sp)) || !start.sp.is_multiple_of(8) {
            (self.len, self.depth) = (0, 0);
            return Capture {
                node: FOREIGN,
                root: FOREIGN,
            };
        }
        if self.rules != rules::RULES.era() {
            self.rules = rules::RULES.era();
            self.forget();
        }
        // SAFETY: `start` is the calling thread's, and its stack pointer is within its bounds.
        let exit = unsafe { self.take_exit(start) };
        if let Some(frame) = &exit
            // SAFETY: the caller of the allocator on this thread, and this is the thread's stack.
            && let Some(capture) = unsafe { self.recall(frame, sink) }
        {
            return capture;
        }
        // A call and no jump: `exit` lies in the caller's frame, which `start` is of.
        // SAFETY: as above.
        unsafe { self.capture_by_walk(start, exit.as_ref(), sink) }
    }

    /// The same without a memo at the end of a remembered way out; apart, as it
    /// needs all registers and the usual capture does not.
    ///
    /// # Safety
    /// As [`leave_own`](Self::leave_own), with the bounds that `self` has.
    #[inline(never)]
    unsafe fn capture_by_walk(
        &mut self,
        start: Registers,
        exit: Option<&Frame>,
        sink: &mut impl FnMut(u32, u64) -> u32,
    ) -> Capture {
        let bounds = Bounds {
            low: self.low,
            high: self.high,
        };
        let roomy = start.sp - self.low >= ROOM;
        // SAFETY: passed on.
        let left = unsafe { self.leave_own(start, exit.map(Frame::by_words), &bounds, roomy) };
        // Where the remembered way has led to, there was no memo a moment ago.
        if let Some((frame, _)) = &left
            && exit.is_none_or(|exit| exit.slot != frame.slot)
            // SAFETY: the caller of the allocator on this thread, and this is the thread's stack.
            && let Some(capture) = unsafe { self.recall(frame, sink) }
        {
            return capture;
        }
        // SAFETY: `leave_own` gave `left`, on this thread's stack, the bounds of which these are.
        let walk = unsafe { self.walk(left.as_ref(), &bounds, roomy) };
        let capture = self.enter(&walk, sink);
        if self.remember_way(&walk, capture.node) && is_time_to_prefer(self.made) {
            // SAFETY: passed on.
            unsafe { self.prefer_exit(start) };
        }
        if walk.root == UNKNOWN && !roomy {
            // Another time there may be room to find out more.
            (self.len, self.depth) = (0, 0);
        }
        capture
    }

    /// # Safety
    /// `left` is what [`leave_own`](Self::leave_own) has given on the calling
    /// thread's stack, the bounds of which these are.
    #[inline]
    unsafe fn walk(
        &mut self,
        left: Option<&(Frame, Option<Rule>)>,
        bounds: &Bounds,
        roomy: bool,
    ) -> Walk {
        let mut walk = Walk {
            kept: self.len,
            fresh: 0,
            root: UNKNOWN,
            proven: false,
        };
        let Some((mut frame, mut rule)) = left.map(|(frame, rule)| (frame.by_words(), *rule))
        else {
            walk.kept = 0;
            self.proofs.end = 0;
            return walk;
        };
        while !self.meet(&frame, &mut walk) {
            let Some(place) = self.place(&mut walk) else {
                break;
            };
            *place = Entry::of(&frame);
            walk.fresh += 1;
            let Some(known) = rule else {
                walk.kept = 0;
                self.proofs.end = 0;
                break;
            };
            if known.uses_rbp() {
                self.need_bp(walk.fresh);
            }
            // SAFETY: each step goes up from where the allocator was left, which is in bounds.
            match unsafe { frame.caller(known, bounds) } {
                Some(caller) if caller.ip != 0 => frame = caller,
                last => {
                    walk.kept = 0;
                    self.finish(&mut walk, known, last);
                    break;
                }
            }
            rule = lookup(frame.ip, frame.slot, roomy);
        }
        walk
    }

    /// The walk ends, because there is no caller by this rule, or none with an address.
    #[cold]
    fn finish(&mut self, walk: &mut Walk, rule: Rule, last: Option<Frame>) {
        self.proofs.end = last.map_or(0, |last| last.slot);
        let is_end = rule.kind() == Kind::End;
        if last.is_some() || is_end {
            walk.root = ROOT;
        }
        if !rule.is_plain() && !is_end {
            // More words have led here than are kept: never find it unchanged.
            let outermost = self.entries.get_mut(DEPTH.wrapping_sub(walk.fresh));
            if let Some(entry) = outermost {
                entry.about |= STRANGE;
            }
        }
    }

    /// Where the next fresh entry goes. `None` when the stack is too deep: then
    /// the walk is at its end.
    #[inline]
    fn place(&mut self, walk: &mut Walk) -> Option<&mut Entry> {
        // Kept entries from `kept` on can no longer be met and may be written over.
        if walk.kept + walk.fresh >= DEPTH {
            if walk.fresh >= DEPTH {
                walk.kept = 0;
                walk.fresh = DEEP_START;
                walk.root = DEEP;
                self.proofs.end = 0;
                return None;
            }
            walk.kept = 0;
        }
        self.entries.get_mut(DEPTH.wrapping_sub(walk.fresh + 1))
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
        let met = walk.kept.wrapping_sub(1);
        if !walk.proven {
            // SAFETY: the frame that was met is live, and has called the innermost of these.
            let unchanged = unsafe { self.proofs.unchanged(met) };
            walk.proven = true;
            if let Some(unchanged) = unchanged {
                // What lies inside of the outermost change must be unwound.
                walk.kept = unchanged;
                return false;
            }
        }
        if self.root == DEEP && walk.kept + walk.fresh < DEEP_LEAST {
            walk.kept = 0;
            return false;
        }
        // The callee may be another one, so `bp` may come from elsewhere.
        let Some(entry) = self.entries.get_mut(met) else {
            return false;
        };
        // Otherwise it is proven by its return address alone, as before.
        if entry.about & NEEDS_BP != 0 {
            entry.about = Entry::of(frame).about | NEEDS_BP;
            self.proofs.put(met, entry);
            if frame.bp_slot == 0 {
                self.need_bp(walk.fresh);
            }
        }
        walk.root = self.root;
        true
    }

    /// The outermost of `fresh` frames needs its `rbp`: so does each inner
    /// frame that has handed it on unchanged.
    #[inline]
    fn need_bp(&mut self, fresh: usize) {
        let fresh = self.entries.get_mut(DEPTH.wrapping_sub(fresh)..);
        for entry in fresh.into_iter().flatten() {
            let before = entry.about;
            entry.about |= NEEDS_BP;
            if before & NEEDS_BP != 0 || before >> BP_SHIFT != 0 {
                break;
            }
        }
    }
}
