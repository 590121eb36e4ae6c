//! How to get from a frame to its caller, in thirty bits.

/// One step up the stack: where the caller's frame begins (its CFA), where the
/// return address is, and what becomes of `rbp`.
///
/// ```text
///   bit  28 ... 23      | 22 ... 3       | 2       | 1   | 0
///        rbp slot / 8   | CFA offset / 8 | strange | own | base
/// ```
///
/// The CFA's offset is a multiple of 8 and stands where a mask is enough to get
/// it: it is on the longest path of a walk. A strange rule is any kind but
/// plain, and has its kind in place of the `rbp` slot.
///
/// | kind | CFA | return address | `rbp` of the caller |
/// |---|---|---|---|
/// | plain | base + offset | at CFA − 8 | unchanged, or at CFA − slot |
/// | aligned | what is stored at `rbp` − offset | at CFA − 8 | at `rbp` |
/// | signal | the interrupted `rsp`, from the kernel's frame | there too | there too |
/// | end | none: this is the outermost frame | | |
///
/// These are all the rules that compilers emit for x86-64 here; "aligned" is
/// what GCC writes for a function that realigns its stack. Whatever else there
/// may be has no rule, and the stack ends there, flagged. `own` says that the
/// frame belongs to the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule(u32);

/// The bits that a rule takes.
pub(crate) const BITS: u32 = 30;

const FROM_RBP: u32 = 1 << 0;
const OWN: u32 = 1 << 1;
const STRANGE: u32 = 1 << 2;
const CFA_SHIFT: u32 = 3;
const CFA_BITS: u32 = 20;
const CFA: u32 = ((1 << CFA_BITS) - 1) << CFA_SHIFT;
const RBP_SHIFT: u32 = CFA_SHIFT + CFA_BITS;
const RBP_BITS: u32 = 6;

const ALIGNED: u32 = STRANGE | FROM_RBP;
const SIGNAL: u32 = STRANGE | 1 << RBP_SHIFT;
const END: u32 = STRANGE | 2 << RBP_SHIFT;

const _: () = assert!(RBP_SHIFT + RBP_BITS <= BITS);

/// What sort of step a rule describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Aligned,
    Signal,
    End,
}

/// A number of bytes in words, if it is one that fits in `bits`.
fn words(bytes: u64, bits: u32) -> Option<u32> {
    let words = u32::try_from(bytes / 8).ok()?;
    (bytes.is_multiple_of(8) && words < 1 << bits).then_some(words)
}

impl Rule {
    /// The outermost frame.
    pub(crate) const END: Self = Self(END);
    /// The frame that the kernel pushes when it calls a signal handler.
    pub(crate) const SIGNAL: Self = Self(SIGNAL);

    /// CFA = `rsp` or `rbp` plus `cfa`; `rbp` unchanged (0) or saved `rbp` bytes below it.
    pub(crate) fn plain(from_rbp: bool, cfa: u64, rbp: u64) -> Option<Self> {
        let cfa = words(cfa, CFA_BITS)?;
        let rbp = words(rbp, RBP_BITS)?;
        let base = if from_rbp { FROM_RBP } else { 0 };
        // A frame holds at least the return address, and it is not where `rbp` is.
        (cfa >= 1 && rbp != 1).then_some(Self(cfa << CFA_SHIFT | rbp << RBP_SHIFT | base))
    }

    /// CFA = what is stored `below` bytes under `rbp`; the caller's `rbp` at `rbp`.
    pub(crate) fn aligned(below: u64) -> Option<Self> {
        let below = words(below, CFA_BITS)?;
        Some(Self(below << CFA_SHIFT | ALIGNED))
    }

    #[must_use]
    pub(crate) const fn owned(self, own: bool) -> Self {
        if own { Self(self.0 | OWN) } else { self }
    }

    pub(crate) const fn kind(self) -> Kind {
        if self.is_plain() {
            return Kind::Plain;
        }
        match self.0 >> RBP_SHIFT {
            0 => Kind::Aligned,
            1 => Kind::Signal,
            _ => Kind::End,
        }
    }

    #[inline]
    pub(crate) const fn is_plain(self) -> bool {
        self.0 & STRANGE == 0
    }

    #[inline]
    pub(crate) const fn is_own(self) -> bool {
        self.0 & OWN != 0
    }

    #[inline]
    pub(crate) const fn uses_rbp(self) -> bool {
        self.0 & FROM_RBP != 0
    }

    /// The offset of the CFA in bytes.
    #[inline]
    pub(crate) const fn cfa(self) -> u64 {
        (self.0 & CFA) as u64
    }

    /// How far below the CFA `rbp` is saved; 0 when it is unchanged.
    #[inline]
    pub(crate) const fn rbp(self) -> u64 {
        ((self.0 >> RBP_SHIFT) as u64) << 3
    }

    /// For the cache: never zero, because a plain rule has a CFA offset.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// What [`bits`](Self::bits) gave; `None` for zero.
    #[inline]
    pub(crate) const fn from_bits(bits: u32) -> Option<Self> {
        if bits == 0 { None } else { Some(Self(bits)) }
    }
}

#[cfg(test)]
mod tests {
    use super::{BITS, Kind, Rule};

    #[test]
    fn a_plain_rule_keeps_its_parts() {
        for (from_rbp, cfa, rbp) in [(false, 8, 0), (true, 16, 16), (false, 8_388_600, 504)] {
            let rule = Rule::plain(from_rbp, cfa, rbp).expect("it fits");
            assert_eq!(
                (rule.kind(), rule.uses_rbp(), rule.cfa(), rule.rbp()),
                (Kind::Plain, from_rbp, cfa, rbp)
            );
            assert!(rule.bits() < 1 << BITS && !rule.is_own());
            assert_eq!(Rule::from_bits(rule.bits()), Some(rule));
            let own = rule.owned(true);
            assert!(own.is_own());
            assert_eq!((own.cfa(), own.rbp(), own.kind()), (cfa, rbp, Kind::Plain));
        }
    }

    /// Bug prevented: a frame too large for its bits wraps to a small one.
    #[test]
    fn a_rule_that_does_not_fit_is_none() {
        assert_eq!(Rule::plain(false, 0, 0), None);
        assert_eq!(Rule::plain(false, 12, 0), None);
        assert_eq!(Rule::plain(false, 8_388_608, 0), None);
        assert_eq!(Rule::plain(false, 16, 512), None);
        assert_eq!(Rule::plain(false, 16, 8), None);
        assert_eq!(Rule::aligned(12), None);
    }

    #[test]
    fn the_other_kinds_are_told_apart() {
        assert_eq!(Rule::END.kind(), Kind::End);
        assert_eq!(Rule::SIGNAL.kind(), Kind::Signal);
        let aligned = Rule::aligned(8).expect("it fits");
        assert_eq!((aligned.kind(), aligned.cfa()), (Kind::Aligned, 8));
        assert!(aligned.uses_rbp() && !aligned.is_plain());
        assert_eq!(Rule::from_bits(0), None);
    }
}
