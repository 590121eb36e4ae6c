//! How much memory a report takes, told without taking any.
//!
//! A report of leaks has each block in a list, and a stack with names for each site. How many
//! stacks the blocks have is counted by a set of bits, one for each hash: of the bits that are
//! still zero it is known how many stacks there were. For the first stack of each bit its
//! length is looked up.

use crate::record::hooks::{TABLE, TREE};
use crate::record::profiling;

/// For each block, in lists that double: 32 bytes, which another allocator than the system's
/// has three times while it copies them.
const BLOCK: usize = 100;
/// For each frame of a site, with its names, and as text in strings that double: 350 bytes on
/// 2026-11-22 in a text of 61 for each, and as much again for longer names.
const FRAME_OF_A_SITE: usize = 700;
/// For each stack of a profile, and for each frame of it: 80 bytes a frame in all on 2026-11-22,
/// in the format that takes most.
const STACK: usize = 512;
const FRAME_OF_A_STACK: usize = 160;

/// The bits for stacks.
const BITS: usize = 1 << 16;

/// More bytes than a report takes that is made now, names and their tables left aside: of the
/// profile that is under way, or else of leaks.
pub(crate) fn report_bytes() -> usize {
    if let Some(stacks) = profiling::stacks() {
        let (mut count, mut frames) = (0usize, 0usize);
        for node in stacks {
            count += 1;
            frames += TREE.stack(node).count();
        }
        let stacks = count.saturating_mul(STACK);
        return frames
            .saturating_mul(FRAME_OF_A_STACK)
            .saturating_add(stacks);
    }
    let mut stacks = Stacks::new();
    let mut blocks = 0usize;
    TABLE.for_each(|_, record| {
        blocks += 1;
        stacks.add(record.node, |node| TREE.stack(node).count());
    });
    let frames = stacks.frames().saturating_mul(FRAME_OF_A_SITE);
    blocks.saturating_mul(BLOCK).saturating_add(frames)
}

/// Some of the stacks that were seen, and so how many there are.
struct Stacks {
    bits: [u64; BITS / 64],
    set: usize,
    /// Of those that have set a bit.
    frames: usize,
}

impl Stacks {
    fn new() -> Self {
        Self {
            bits: [0; BITS / 64],
            set: 0,
            frames: 0,
        }
    }

    fn add(&mut self, node: u32, length: impl FnOnce(u32) -> usize) {
        // All bits of the result depend on all of the node's: what is spread evenly has too few
        // in one place.
        let mixed = u64::from(node).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 48;
        let (word, bit) = (hash / 64, 1 << (hash % 64));
        if let Some(word) = usize::try_from(word)
            .ok()
            .and_then(|at| self.bits.get_mut(at))
            && *word & bit == 0
        {
            *word |= bit;
            self.set += 1;
            self.frames = self.frames.saturating_add(length(node));
        }
    }

    /// About how many frames all stacks have.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    fn frames(&self) -> usize {
        if self.set == 0 {
            return 0;
        }
        // With none left there are some seven hundred thousand stacks at least.
        let zeros = (BITS - self.set).max(1) as f64;
        let stacks = (BITS as f64 / zeros).ln() * BITS as f64;
        (stacks / self.set as f64 * self.frames as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::Stacks;

    /// Bug prevented: a stack is counted with each of its blocks, or many of them hide behind
    /// each other.
    #[test]
    fn frames_are_counted_once_for_each_stack_and_about_right() {
        for count in [0, 1, 10, 1_000, 30_000, 200_000] {
            let mut stacks = Stacks::new();
            for node in (0..count).chain(0..count) {
                // Nodes of whole stacks lie some way apart.
                stacks.add(5 + node * 7, |_| 20);
            }
            let (frames, expected) = (stacks.frames(), count as usize * 20);
            assert!(
                frames.abs_diff(expected) <= expected / 20,
                "{count}: {frames}"
            );
        }
    }
}
