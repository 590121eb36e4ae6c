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

    /// Zero if memory still says what it did.
    ///
    /// # Safety
    /// The entry's slot is on the calling thread's live stack, and so is its
    /// callee's frame.
    #[inline]
    unsafe fn difference(&self) -> u64 {
        // SAFETY: the word that the entry was read from, live, says the caller.
        let differs = unsafe { load(self.slot) } ^ self.ip;
        if self.about & (NEEDS_BP | STRANGE) == 0 {
            return differs;
        }
        let below = u64::from(self.about >> BP_SHIFT) * 8;
        if self.about & STRANGE != 0 {
            1
        } else if below == 0 {
            differs
        } else {
            // SAFETY: `bp` was read there, in the callee's frame, live, says the caller.
            differs | (unsafe { load(self.slot - below) } ^ self.bp)
        }
    }
}

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
        let Some((mut frame, mut rule)) = (unsafe { self.leave_own(start, &bounds, roomy) }) else {
            walk.kept = 0;
            self.end = 0;
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
                self.end = 0;
                break;
            };
            if known.uses_rbp() {
                self.need_bp(walk.fresh);
            }
            // SAFETY: each step goes up from `start.sp`, which is in bounds.
            match unsafe { frame.caller(known, &bounds) } {
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
        self.end = last.map_or(0, |last| last.slot);
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
                self.end = 0;
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
        let Some((entry, older)) = self
            .entries
            .get_mut(..walk.kept)
            .and_then(|kept| kept.split_last_mut())
        else {
            return false;
        };
        let mut differs = 0;
        if self.end != 0 {
            // SAFETY: a word further up than all slots, below the stack's end, as for those.
            differs = unsafe { load(self.end) };
        }
        // No way out of the loop: it is nearly always run to its end.
        for entry in older.iter() {
            // SAFETY: an older slot is further up than `frame`'s, and was below the stack's end
            // when it was first read; the bounds have not changed since, or nothing would be kept.
            // Its callee is the frame that was met, or older.
            differs |= unsafe { entry.difference() };
        }
        if differs != 0 {
            // What lies inside of the innermost change must be unwound; what lies outside of it
            // may be met.
            // SAFETY: as above.
            let change = older
                .iter()
                .rposition(|entry| unsafe { entry.difference() } != 0);
            walk.kept = change.unwrap_or(0);
            return false;
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
