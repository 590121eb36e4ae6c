//! The way out of the allocator.
//!
//! A capture starts inside the allocator, and the first few frames are its own:
//! the same few again and again, at the same distances from the start. So the
//! last ways out are remembered, and taken again if the return addresses are
//! where they were; the loads do not wait for each other as steps would.

use crate::unwind::bounds::Bounds;
use crate::unwind::registers::Registers;
use crate::unwind::rule::Rule;
use crate::unwind::stack::{EXIT_FRAMES, Exit, IN_REGISTER, Stack};
use crate::unwind::step::{Frame, load, load_above};
use crate::unwind::walk::lookup;

impl Exit {
    /// Whether the return addresses are those of this way.
    ///
    /// # Safety
    /// `start` holds the calling thread's registers, and its `sp` is in bounds;
    /// so is the word that is `slot` bytes above it.
    #[inline]
    unsafe fn has(&self, start: Registers) -> bool {
        let mut pairs = self.ips.iter().zip(&self.slots);
        let Some((ip, at)) = pairs.next() else {
            return false;
        };
        // SAFETY: as below. Where another way is the right one it mostly differs here.
        if unsafe { load_above(start.sp, u64::from(*at)) } != *ip || self.start != start.ip {
            return false;
        }
        let mut differs = 0;
        for (ip, at) in pairs {
            // SAFETY: not above `slot`, which is on this thread's stack, as `start.sp` is.
            differs |= unsafe { load_above(start.sp, u64::from(*at)) } ^ ip;
        }
        differs == 0
    }

    /// The caller of the allocator, where this way leads to.
    ///
    /// # Safety
    /// As [`has`](Self::has).
    #[inline]
    unsafe fn caller(&self, start: Registers) -> Frame {
        let slot = start.sp + u64::from(self.slot);
        let mut bp = start.bp;
        let mut bp_slot = 0;
        if self.bp_slot != IN_REGISTER {
            bp_slot = start.sp + u64::from(self.bp_slot);
            // SAFETY: the caller; it was read 16 bytes or more below the end of a frame further in.
            bp = unsafe { load(bp_slot) };
        }
        Frame {
            // SAFETY: the caller.
            ip: unsafe { load(slot) },
            sp: slot + 8,
            bp,
            slot,
            bp_slot,
            strange: false,
        }
    }

    /// Whether an `rbp` that a step went by does not point as far above the start
    /// as it did.
    ///
    /// # Safety
    /// As [`has`](Self::has).
    #[inline(never)]
    unsafe fn bases_differ(&self, start: Registers) -> bool {
        let mut differs = 0;
        let bases = self.base_slots.iter().zip(&self.base_values);
        for (at, value) in bases.take(self.bases as usize) {
            let bp = if *at == IN_REGISTER {
                start.bp
            } else {
                // SAFETY: not above `slot`, which is on this thread's stack, as `start.sp` is.
                unsafe { load_above(start.sp, u64::from(*at)) }
            };
            differs |= bp.wrapping_sub(start.sp) ^ u64::from(*value);
        }
        differs != 0
    }

    /// Whether both are taken for the same return addresses.
    fn is_like(&self, other: &Self) -> bool {
        (self.start, self.ips, self.slots) == (other.start, other.ips, other.slots)
    }

    /// Notes that a step from this frame goes by its `rbp`; `None` when there is no
    /// room for that.
    fn add_base(&mut self, frame: &Frame, start: Registers, bp_slot: u64) -> Option<()> {
        let index = self.bases as usize;
        let at = match bp_slot {
            0 => IN_REGISTER,
            slot => u32::try_from(slot - start.sp).ok()?,
        };
        *self.base_slots.get_mut(index)? = at;
        *self.base_values.get_mut(index)? = u32::try_from(frame.bp.wrapping_sub(start.sp)).ok()?;
        self.bases += 1;
        Some(())
    }
}

impl Stack {
    /// Where a remembered way leads to: mostly the first frame that is not the
    /// allocator's own.
    ///
    /// # Safety
    /// `start` holds the calling thread's registers, and its `sp` is in bounds.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "measured: a call takes 20 instructions of 320"
    )]
    pub(super) unsafe fn take_exit(&self, start: Registers) -> Option<Frame> {
        // All of them are within the stack, or none is looked at.
        if self.high - start.sp <= self.exits_reach {
            return None;
        }
        // SAFETY: passed on; no way reaches further up.
        let exit = self.exits.iter().find(|exit| unsafe { exit.has(start) })?;
        // SAFETY: as above.
        if exit.bases != 0 && unsafe { exit.bases_differ(start) } {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { exit.caller(start) })
    }

    /// Puts the remembered way that looks like the one from `start` first, if there is
    /// one. (It may be the beginning of another way, which then has to be found once
    /// more, and is put first again.)
    ///
    /// # Safety
    /// `start` holds the calling thread's registers, and its `sp` is in bounds.
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn prefer_exit(&mut self, start: Registers) {
        if self.high - start.sp <= self.exits_reach {
            return;
        }
        // SAFETY: passed on; no way reaches further up.
        let at = self
            .exits
            .iter()
            .position(|exit| unsafe { exit.has(start) });
        if let Some(until) = at.and_then(|at| self.exits.get_mut(..=at)) {
            until.rotate_right(1);
        }
    }

    /// Goes up from `start` to the first frame that is not the allocator's own;
    /// its rule comes along.
    ///
    /// # Safety
    /// `start` holds the calling thread's registers, and its `sp` is in `bounds`;
    /// `exit` is what [`take_exit`](Self::take_exit) gives for them.
    #[inline]
    pub(super) unsafe fn leave_own(
        &mut self,
        start: Registers,
        exit: Option<Frame>,
        bounds: &Bounds,
        roomy: bool,
    ) -> Option<(Frame, Option<Rule>)> {
        if let Some(frame) = exit {
            let rule = lookup(frame.ip, frame.slot, roomy);
            // Otherwise the way goes on from here.
            if rule.is_none_or(|rule| !rule.is_own()) {
                return Some((frame, rule));
            }
        }
        // SAFETY: passed on.
        unsafe { self.find_exit(start, bounds, roomy) }
    }

    /// The same step by step; the way is remembered.
    ///
    /// # Safety
    /// As [`leave_own`](Self::leave_own).
    #[cold]
    #[inline(never)]
    unsafe fn find_exit(
        &mut self,
        start: Registers,
        bounds: &Bounds,
        roomy: bool,
    ) -> Option<(Frame, Option<Rule>)> {
        let mut exit = Exit {
            start: start.ip,
            ..Exit::NONE
        };
        let mut frames = 0;
        let mut is_fixed = true;
        let mut bp_slot = 0;
        let mut frame = Frame::of(start);
        // The function that captures is never part of the stack.
        let mut rule = lookup(frame.ip, frame.slot, roomy)?;
        loop {
            is_fixed &= rule.is_plain();
            if is_fixed && rule.uses_rbp() {
                is_fixed = exit.add_base(&frame, start, bp_slot).is_some();
            }
            // SAFETY: each step goes up from `start.sp`, which is in bounds.
            frame = unsafe { frame.caller(rule, bounds) }?;
            let at = u32::try_from(frame.slot - start.sp).ok()?;
            if frame.bp_slot != 0 {
                bp_slot = frame.bp_slot;
            }
            match lookup(frame.ip, frame.slot, roomy) {
                Some(own) if own.is_own() => {
                    if let Some(place) = exit.ips.get_mut(frames) {
                        *place = frame.ip;
                    }
                    if let Some(place) = exit.slots.get_mut(frames) {
                        *place = at;
                    }
                    frames += 1;
                    rule = own;
                }
                other => {
                    frame.bp_slot = bp_slot;
                    exit.slot = at;
                    if bp_slot != 0 {
                        exit.bp_slot = u32::try_from(bp_slot - start.sp).ok()?;
                    }
                    if is_fixed && (1..=EXIT_FRAMES).contains(&frames) {
                        self.remember(exit, frames);
                    }
                    return Some((frame, other));
                }
            }
        }
    }

    /// Keeps `exit`, with so many frames, in the first place.
    fn remember(&mut self, mut exit: Exit, frames: usize) {
        // The outermost first: ways differ there.
        let used = (exit.ips.get_mut(..frames), exit.slots.get_mut(..frames));
        if let (Some(ips), Some(slots)) = used {
            ips.reverse();
            slots.reverse();
        }
        let (Some(&ip), Some(&at)) = (exit.ips.first(), exit.slots.first()) else {
            return;
        };
        let rest = exit.ips.iter_mut().zip(&mut exit.slots).skip(frames);
        rest.for_each(|place| (*place.0, *place.1) = (ip, at));
        self.exits_reach = self.exits_reach.max(u64::from(exit.slot) + 8);
        // Of those that look alike only the first is ever taken.
        let alike = self.exits.iter().position(|other| other.is_like(&exit));
        let last = alike.unwrap_or(self.exits.len() - 1);
        if let Some(places) = self.exits.get_mut(..=last) {
            places.rotate_right(1);
        }
        if let Some(first) = self.exits.first_mut() {
            *first = exit;
        }
    }
}
