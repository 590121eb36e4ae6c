//! How to get from a frame to its caller, in thirty bits.

/// One step up the stack: where the caller's frame begins (its CFA), where the
/// return address is, and what becomes of `rbp`.
///
/// ```text
///   bit  29 28 | 27  | 26   | 25 ... 20    | 19 ... 0
///        kind  | own | base | rbp slot / 8 | CFA offset / 8
/// ```
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

const CFA_BITS: u32 = 20;
const RBP_SHIFT: u32 = CFA_BITS;
const RBP_BITS: u32 = 6;
const FROM_RBP: u32 = 1 << 26;
const OWN: u32 = 1 << 27;
const KIND_SHIFT: u32 = 28;

const _: () = assert!(KIND_SHIFT + 2 == BITS);

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
    pub(crate) const END: Self = Self(3 << KIND_SHIFT);
    /// The frame that the kernel pushes when it calls a signal handler.
    pub(crate) const SIGNAL: Self = Self(2 << KIND_SHIFT);

    /// CFA = `rsp` or `rbp` plus `cfa`; `rbp` unchanged (0) or saved `rbp` bytes below it.
    pub(crate) fn plain(from_rbp: bool, cfa: u64, rbp: u64) -> Option<Self> {
        let cfa = words(cfa, CFA_BITS)?;
        let rbp = words(rbp, RBP_BITS)?;
        let base = if from_rbp { FROM_RBP } else { 0 };
        // A frame holds at least the return address, and it is not where `rbp` is.
        (cfa >= 1 && rbp != 1).then_some(Self(cfa | rbp << RBP_SHIFT | base))
    }

    /// CFA = what is stored `below` bytes under `rbp`; the caller's `rbp` at `rbp`.
    pub(crate) fn aligned(below: u64) -> Option<Self> {
        let below = words(below, CFA_BITS)?;
        Some(Self(below | FROM_RBP | 1 << KIND_SHIFT))
    }

    #[must_use]
    pub(crate) const fn owned(self, own: bool) -> Self {
        if own { Self(self.0 | OWN) } else { self }
    }

    #[inline]
    pub(crate) const fn kind(self) -> Kind {
        match self.0 >> KIND_SHIFT {
            0 => Kind::Plain,
            1 => Kind::Aligned,
            2 => Kind::Signal,
            _ => Kind::End,
        }
    }

    #[inline]
    pub(crate) const fn is_plain(self) -> bool {
        self.0 >> KIND_SHIFT == 0
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
        ((self.0 & ((1 << CFA_BITS) - 1)) as u64) << 3
    }

    /// How far below the CFA `rbp` is saved; 0 when it is unchanged.
    #[inline]
    pub(crate) const fn rbp(self) -> u64 {
        (((self.0 >> RBP_SHIFT) & ((1 << RBP_BITS) - 1)) as u64) << 3
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
