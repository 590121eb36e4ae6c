//! One step from a frame to its caller.
//!
//! The only place that reads other functions' frames, and each read is checked
//! against the thread's bounds first: whatever a rule or a register says, no
//! byte is touched outside `sp .. high`.

use crate::unwind::bounds::Bounds;
use crate::unwind::registers::Registers;
use crate::unwind::rule::{Kind, Rule};

/// A frame that has called, or was interrupted: its registers at that moment
/// and where they were found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Where it will go on. One more than that if it was interrupted, so that
    /// in each case the instruction in question is the one before.
    pub(crate) ip: u64,
    /// Its stack pointer.
    pub(crate) sp: u64,
    /// Its `rbp`.
    pub(crate) bp: u64,
    /// Where `ip` was read.
    pub(crate) slot: u64,
    /// Where `bp` was read, or 0 when it came unchanged from the inner frame.
    pub(crate) bp_slot: u64,
    /// Whether more words than `slot` and `bp_slot` have led here.
    pub(crate) strange: bool,
}

impl Frame {
    #[inline]
    pub(crate) fn of(start: Registers) -> Self {
        Self {
            ip: start.ip,
            sp: start.sp,
            bp: start.bp,
            slot: start.sp.wrapping_sub(8),
            bp_slot: 0,
            strange: false,
        }
    }

    /// A copy, word by word: see [`Entry::by_words`](crate::unwind::stack::Entry::by_words).
    #[inline]
    pub(crate) fn by_words(&self) -> Self {
        Self {
            // SAFETY: a plain word behind a reference.
            ip: unsafe { (&raw const self.ip).read_volatile() },
            // SAFETY: as above.
            sp: unsafe { (&raw const self.sp).read_volatile() },
            // SAFETY: as above.
            bp: unsafe { (&raw const self.bp).read_volatile() },
            // SAFETY: as above.
            slot: unsafe { (&raw const self.slot).read_volatile() },
            // SAFETY: as above.
            bp_slot: unsafe { (&raw const self.bp_slot).read_volatile() },
            strange: self.strange,
        }
    }

    /// The caller, if what the rule says is possible on this stack.
    ///
    /// # Safety
    /// `self.sp .. stack.high` is, as far as it is not empty, the calling
    /// thread's own live stack.
    #[inline]
    pub(crate) unsafe fn caller(&self, rule: Rule, stack: &Bounds) -> Option<Self> {
        if !rule.is_plain() {
            // SAFETY: the caller's promise, passed on.
            let Self {
                ip,
                sp,
                bp,
                slot,
                bp_slot,
                strange,
            } = unsafe { self.strange_caller(rule, stack) }?;
            // Field by field: a frame that is passed on whole lives in memory, also in the loop
            // over plain rules, which then takes twice as long.
            return Some(Self {
                ip,
                sp,
                bp,
                slot,
                bp_slot,
                strange,
            });
        }
        let base = if rule.uses_rbp() { self.bp } else { self.sp };
        let cfa = base.wrapping_add(rule.cfa());
        if cfa <= self.sp || cfa > stack.high || !cfa.is_multiple_of(8) {
            return None;
        }
        let mut bp = self.bp;
        let mut bp_slot = 0;
        if rule.rbp() != 0 {
            bp_slot = cfa.wrapping_sub(rule.rbp());
            if bp_slot < self.sp || bp_slot > cfa {
                return None;
            }
            // SAFETY: a word of the stack: not below `sp`, and `rbp()` ≥ 16 bytes below the CFA,
            // which is not above `high`. Both are multiples of 8.
            bp = unsafe { load(bp_slot) };
        }
        let slot = cfa - 8;
        // SAFETY: a word of the stack: `sp` < CFA ≤ `high`, and the CFA is a multiple of 8, as is
        // `sp` (the bounds were checked with it, and each caller's is a CFA).
        let ip = unsafe { load(slot) };
        Some(Self {
            ip,
            sp: cfa,
            bp,
            slot,
            bp_slot,
            strange: false,
        })
    }

    /// The kinds of frame that are rare.
    ///
    /// # Safety
    /// As [`caller`](Self::caller).
    #[cold]
    #[inline(never)]
    unsafe fn strange_caller(&self, rule: Rule, stack: &Bounds) -> Option<Self> {
        match rule.kind() {
            Kind::Plain | Kind::End => None,
            Kind::Aligned => {
                let cfa_slot = self.bp.wrapping_sub(rule.cfa());
                // SAFETY: the caller's promise; `word` checks the rest.
                let cfa = unsafe { self.word(cfa_slot, stack) }?;
                if cfa <= self.bp || cfa > stack.high {
                    return None;
                }
                let slot = cfa.checked_sub(8)?;
                Some(Self {
                    // SAFETY: as above.
                    ip: unsafe { self.word(slot, stack) }?,
                    sp: cfa,
                    // SAFETY: as above.
                    bp: unsafe { self.word(self.bp, stack) }?,
                    slot,
                    bp_slot: self.bp,
                    strange: true,
                })
            }
            Kind::Signal => {
                // Linux's `rt_sigframe` once the handler has returned into the trampoline: `sp`
                // is at its `ucontext`, with `rbp`, `rsp` and `rip` at these offsets.
                let bp_slot = self.sp.checked_add(120)?;
                let slot = self.sp.checked_add(168)?;
                // SAFETY: the caller's promise; `word` checks the rest.
                let sp = unsafe { self.word(self.sp.checked_add(160)?, stack) }?;
                // On an alternate stack it is somewhere else altogether.
                if sp <= slot || sp > stack.high || !sp.is_multiple_of(8) {
                    return None;
                }
                Some(Self {
                    // SAFETY: as above.
                    ip: unsafe { self.word(slot, stack) }?.checked_add(1)?,
                    sp,
                    // SAFETY: as above.
                    bp: unsafe { self.word(bp_slot, stack) }?,
                    slot,
                    bp_slot,
                    strange: true,
                })
            }
        }
    }

    /// A word of the stack; `None` when it is not on it.
    ///
    /// # Safety
    /// As [`caller`](Self::caller).
    unsafe fn word(&self, address: u64, stack: &Bounds) -> Option<u64> {
        let last = stack.high.checked_sub(8)?;
        let inside = self.sp <= address && address <= last && address.is_multiple_of(8);
        // SAFETY: a whole word between `sp` and `high`.
        inside.then(|| unsafe { load(address) })
    }
}

/// The word at a place of the calling thread's stack, which the address is made of as
/// instructions have it.
///
/// By an instruction of our own: other functions' locals, which the compiler
/// believes to be theirs alone, are read as a debugger would read them, nothing is
/// concluded from what they hold, and a sanitizer does not take the look at what
/// it has put between them for an error of the program's.
macro_rules! word_at {
    ($place:literal, $($part:ident),+) => {{
        let word;
        // SAFETY: mapped and aligned, says the caller of the function that this is in. No other
        // thread writes to it.
        unsafe {
            core::arch::asm!(
                concat!("mov {word}, qword ptr [", $place, "]"),
                word = lateout(reg) word,
                $($part = in(reg) $part,)+
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        word
    }};
}

/// Reads a word of the calling thread's stack.
///
/// # Safety
/// `address` is a multiple of 8 on the calling thread's stack, not below its
/// stack pointer and a word or more below its end.
#[inline]
pub(crate) unsafe fn load(address: u64) -> u64 {
    word_at!("{address}", address)
}

/// Reads the word that is so many words above `base`.
///
/// # Safety
/// As [`load`] of its address.
#[inline]
pub(crate) unsafe fn load_at(base: u64, words: u64) -> u64 {
    word_at!("{base} + 8 * {words}", base, words)
}

/// Reads a word so many bytes above `base`.
///
/// # Safety
/// As [`load`] of the sum.
#[inline]
pub(crate) unsafe fn load_above(base: u64, bytes: u64) -> u64 {
    word_at!("{base} + {bytes}", base, bytes)
}
