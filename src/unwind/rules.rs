//! The rules that were already worked out, for all threads, without locks.
//!
//! ```text
//!   address    46 ... 13 │ 12 ... 0
//!                tag     │  index
//!
//!   set[index]: 4 words    63 ... 30 │ 29 ... 0
//!                            tag     │  rule            0 = free
//! ```
//!
//! Index and tag together are the whole address: two addresses can never be
//! taken for each other. An entry is one word, so it cannot be torn either, and
//! writers need no order among themselves: whoever loses a place works the rule
//! out again. The low bits of return addresses are as good as any hash of them,
//! and a hash would be on the longest path of a walk.

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::unwind::rule::{self, Rule};

const SETS_LOG2: u32 = 13;
const WAYS: usize = 4;
/// User addresses on x86-64, but for those that ask for more by hand.
const ADDRESS_BITS: u32 = 47;
const TAG_BITS: u32 = ADDRESS_BITS - SETS_LOG2;

const _: () = assert!(TAG_BITS + rule::BITS == u64::BITS);

/// 32 K rules in 256 KiB, of which only the pages that are used take memory.
pub(crate) struct Rules {
    era: AtomicU32,
    sets: [[AtomicU64; WAYS]; 1 << SETS_LOG2],
}

/// The rules of the process.
pub(crate) static RULES: Rules = Rules::new();

impl Rules {
    pub(crate) const fn new() -> Self {
        Self {
            era: AtomicU32::new(0),
            #[expect(clippy::large_stack_arrays, reason = "made in a `static` only")]
            sets: [const { [const { AtomicU64::new(0) }; WAYS] }; 1 << SETS_LOG2],
        }
    }

    #[inline]
    fn place(address: u64) -> (usize, u64) {
        let index = (address & ((1 << SETS_LOG2) - 1)) as usize;
        (index, address >> SETS_LOG2)
    }

    /// The rule for `address`, if it is known. (The tag of an address beyond the
    /// user's half has more bits than any entry's, so it is never found.)
    #[inline]
    pub(crate) fn get(&self, address: u64) -> Option<Rule> {
        let (index, tag) = Self::place(address);
        for word in self.sets.get(index)? {
            let word = word.load(Ordering::Relaxed);
            if word >> rule::BITS == tag {
                return Rule::from_bits((word & ((1 << rule::BITS) - 1)) as u32);
            }
        }
        None
    }

    /// Remembers the rule for `address`, in place of another if need be.
    pub(crate) fn put(&self, address: u64, rule: Rule) {
        let (index, tag) = Self::place(address);
        let Some(set) = self.sets.get(index) else {
            return;
        };
        if address >> ADDRESS_BITS != 0 {
            return;
        }
        let entry = tag << rule::BITS | u64::from(rule.bits());
        let free = set.iter().find(|word| {
            let word = word.load(Ordering::Relaxed);
            word == 0 || word >> rule::BITS == tag
        });
        // Any way will do when all are taken; the address is as good as dice.
        let victim = free.or_else(|| set.get((address >> SETS_LOG2) as usize % WAYS));
        if let Some(word) = victim {
            word.store(entry, Ordering::Relaxed);
        }
    }

    /// How often everything was forgotten: what was found by rules of another era
    /// is not to be relied on.
    #[inline]
    pub(crate) fn era(&self) -> u32 {
        // Acquire: that the rules of the last one are gone.
        self.era.load(Ordering::Acquire)
    }

    /// Has the system give all of its memory now, and not page by page in the
    /// middle of walks.
    pub(crate) fn touch(&self) {
        const PAGE: usize = 4096 / (WAYS * size_of::<AtomicU64>());
        for set in self.sets.iter().step_by(PAGE) {
            let [first, ..] = set;
            // Writes what is there, which a load and a store might not.
            let _ = first.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Forgets everything, because addresses may have changed their meaning.
    pub(crate) fn clear(&self) {
        for word in self.sets.iter().flatten() {
            // A page that was never written stays so.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
        // Last: whoever still finds an old rule sees the new era afterwards, and forgets where it
        // has led. Release: that they are gone.
        self.era.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::{RULES, Rules, WAYS};
    use crate::sync::{AtomicU32, Ordering, fence};
    use crate::unwind::rule::Rule;

    fn rules() -> Box<Rules> {
        Box::new(Rules::new())
    }

    /// Bug prevented: two call sites that share a place also share a rule.
    #[test]
    fn what_is_found_is_what_was_put_for_that_very_address() {
        let rules = rules();
        let rule =
            |n: u64| Rule::plain(n.is_multiple_of(2), 8 * (n % 1_000 + 1), 0).expect("it fits");
        let address = |n: u64| 0x5555_0000_0000 + n * 13;
        for n in 0..200_000 {
            rules.put(address(n), rule(n));
            assert_eq!(rules.get(address(n)), Some(rule(n)));
        }
        let mut kept = 0;
        for n in 0..200_000 {
            if let Some(found) = rules.get(address(n)) {
                assert_eq!(found, rule(n));
                kept += 1;
            }
        }
        assert!((30_000..=32_768).contains(&kept), "{kept}");
    }

    #[test]
    fn a_few_thousand_call_sites_all_fit() {
        let rules = rules();
        let rule = Rule::plain(false, 16, 0).expect("it fits");
        let addresses: Vec<u64> = (0..4_000).map(|n| 0x7f12_3456_0000 + n * 37).collect();
        for &address in &addresses {
            rules.put(address, rule);
        }
        let kept = addresses
            .iter()
            .filter(|&&a| rules.get(a).is_some())
            .count();
        assert!(kept >= 3_990, "{kept} of 4,000 in sets of {WAYS}");
    }

    #[test]
    fn an_address_outside_the_user_half_is_never_kept() {
        let rules = rules();
        let rule = Rule::plain(false, 16, 0).expect("it fits");
        rules.put(1 << 47 | 0x1234, rule);
        assert_eq!(rules.get(1 << 47 | 0x1234), None);
        assert_eq!(rules.get(0x1234), None);
    }

    /// Bug prevented: who sees the new era meets a rule of the old one, and keeps
    /// for good what it leads to.
    #[test]
    fn who_sees_the_next_era_sees_no_rule_of_the_last_one() {
        let rules = rules();
        let rule = Rule::plain(false, 16, 0).expect("it fits");
        // The last that is forgotten.
        let address = (1 << super::SETS_LOG2) - 1;
        let (seen, over) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while over.load(Ordering::Relaxed) == 0 {
                    let era = rules.era();
                    let found = rules.get(address);
                    fence(Ordering::Acquire);
                    // There is a rule in every other era only.
                    if era % 2 == 1 && rules.era() == era {
                        assert_eq!(found, None, "in era {era}");
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let mut turns = 0;
            while !reader.is_finished() && (turns < 300 || seen.load(Ordering::Relaxed) < 300) {
                rules.put(address, rule);
                rules.clear();
                rules.clear();
                turns += 1;
            }
            over.store(1, Ordering::Relaxed);
            reader.join().expect("no rule of the last era");
        });
    }

    #[test]
    fn clearing_forgets_everything() {
        let rules = rules();
        let rule = Rule::plain(false, 16, 0).expect("it fits");
        rules.put(0x1234, rule);
        rules.clear();
        assert_eq!(rules.get(0x1234), None);
        assert_eq!(RULES.get(0), None);
    }
}
