//! Which allocations stand for the others, and for how many.
//!
//! The bytes that a thread allocates are a line, and samples are points on it
//! with exponential gaps of a mean `R` (a Poisson process). A block of `s` bytes
//! is chosen when at least one point lies on it:
//!
//! ```text
//!   p(s) = 1 − exp(−s / R)
//! ```
//!
//! independently of all others. So a chosen block counts for `1 / p(s)` blocks
//! (the estimator of Horvitz and Thompson, 1952): the sum over the chosen ones
//! is right on average, and the sum of `(1 − p) / p²` estimates its variance.
//! Each block is weighed on its own: weighing a site by its mean size is biased.
//!
//! A block that grows by `d` bytes is chosen when a point lies on those, so at
//! each size it has been chosen with `p` of that size, as if it had been asked
//! for at once. One that shrinks stays chosen with `p(new) / p(old)`.

use crate::record::clock;
use crate::sync::{AtomicU64, Ordering};

/// Blocks and bytes that something stands for, with the variances of both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Weighed {
    pub(crate) blocks: f64,
    pub(crate) bytes: f64,
    pub(crate) blocks_variance: f64,
    pub(crate) bytes_variance: f64,
}

impl Weighed {
    /// One block that stands for itself.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
    #[inline]
    pub(crate) fn exact(size: u64) -> Self {
        Self {
            blocks: 1.0,
            bytes: size as f64,
            ..Self::default()
        }
    }

    /// A block that was chosen at a mean gap of `interval` bytes.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(crate) fn sampled(size: u64, interval: u64) -> Self {
        let p = probability(size, interval);
        let (weight, size) = (1.0 / p, size as f64);
        let variance = (1.0 - p) * weight * weight;
        Self {
            blocks: weight,
            bytes: size * weight,
            blocks_variance: variance,
            bytes_variance: variance * size * size,
        }
    }

    /// The sum.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            bytes: self.bytes + other.bytes,
            blocks_variance: self.blocks_variance + other.blocks_variance,
            bytes_variance: self.bytes_variance + other.bytes_variance,
        }
    }
}

/// How likely a block of `size` bytes is to be chosen.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(super) fn probability(size: u64, interval: u64) -> f64 {
    // A block of no bytes is never chosen; the least keeps divisions in bounds.
    (-(-(size as f64) / interval as f64).exp_m1()).max(f64::MIN_POSITIVE)
}

/// How far ahead a point may lie: nobody gets there.
const FURTHEST: u64 = 1 << 62;

/// A thread's place on its line.
#[derive(Debug)]
pub(super) struct Line {
    /// Which profile `next` is for.
    profile: AtomicU64,
    /// Where the next point lies, in bytes that the thread's slot has counted.
    next: AtomicU64,
    /// The state of the generator; 0 before it is seeded.
    random: AtomicU64,
}

impl Line {
    /// Makes what comes repeatable: for tests.
    pub(super) fn seed(&self, seed: u64) {
        self.random.store(mix(seed).max(1), Ordering::Relaxed);
    }
}

/// A generator needs a seed that differs between threads and between runs.
static SEEDS: AtomicU64 = AtomicU64::new(0);

impl Line {
    /// Whether a point lies on the `bytes` that end at `after`; if so, or for a
    /// new profile, the next point is drawn. For the owner.
    pub(super) fn hits(&self, profile: u32, interval: u64, after: u64, bytes: u64) -> bool {
        let profile = u64::from(profile);
        let before = after.wrapping_sub(bytes);
        // Or the point was on bytes that nobody has asked about.
        let is_past = before.wrapping_sub(self.next()).cast_signed() >= 0;
        if self.profile.load(Ordering::Relaxed) != profile || is_past {
            self.profile.store(profile, Ordering::Relaxed);
            self.draw(before, interval);
        }
        let is_hit = after.wrapping_sub(self.next()).cast_signed() >= 0;
        if is_hit {
            // More points may lie on these bytes; where the block ends, the line begins anew.
            self.draw(after, interval);
        }
        is_hit
    }

    /// Whether the next point of this profile is known, and lies on bytes that come after
    /// the first `after`: then [`hits`](Self::hits) would say no, and draw nothing.
    #[inline]
    pub(super) fn is_ahead(&self, profile: u32, after: u64) -> bool {
        self.profile.load(Ordering::Relaxed) == u64::from(profile)
            && after.wrapping_sub(self.next()).cast_signed() < 0
    }

    /// Where the next point lies.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Whether something that happens with `probability` happens.
    pub(super) fn happens(&self, probability: f64) -> bool {
        self.uniform() <= probability
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, at most 37 intervals, and a conversion that stops at the limits"
    )]
    fn draw(&self, from: u64, interval: u64) {
        // Rounded up: a whole number of bytes reaches the point exactly when it reaches that.
        let gap = (-self.uniform().ln() * interval as f64).ceil() as u64;
        // A point too far ahead would look like one that is past.
        let gap = gap.clamp(1, FURTHEST);
        self.next.store(from.wrapping_add(gap), Ordering::Relaxed);
    }

    /// A number above 0 and up to 1, by splitmix64 (Steele, Lea and Flood, 2014).
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    fn uniform(&self) -> f64 {
        let mut state = self.random.load(Ordering::Relaxed);
        if state == 0 {
            state = seed((&raw const *self).addr() as u64);
        }
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.store(state, Ordering::Relaxed);
        ((mix(state) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cold]
fn seed(address: u64) -> u64 {
    let now = clock::system_ns();
    let count = SEEDS.fetch_add(0x2545_f491_4f6c_dd1d, Ordering::Relaxed);
    (mix(now) ^ mix(address) ^ mix(count)).max(1)
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// Blocks by the position of their size's highest bit, each counted by its weight.
#[derive(Debug)]
pub(super) struct Sizes {
    profile: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

/// Buckets of [`Sizes`].
pub(crate) const BUCKETS: usize = 64;

impl Sizes {
    /// Counts a new block. For the owner.
    pub(super) fn count(&self, profile: u32, size: u64, weighed: &Weighed) {
        let profile = u64::from(profile);
        if self.profile.load(Ordering::Relaxed) != profile {
            for count in &self.counts {
                count.store(0, Ordering::Relaxed);
            }
            self.profile.store(profile, Ordering::Release);
        }
        let bucket = 63 ^ (size | 1).leading_zeros() as usize;
        if let Some(count) = self.counts.get(bucket) {
            let sum = f64::from_bits(count.load(Ordering::Relaxed)) + weighed.blocks;
            count.store(sum.to_bits(), Ordering::Relaxed);
        }
    }

    /// Adds the counts to `sum` if they are of this profile. Any thread.
    pub(super) fn add_to(&self, profile: u32, sum: &mut [f64; BUCKETS]) {
        if self.profile.load(Ordering::Acquire) == u64::from(profile) {
            for (sum, count) in sum.iter_mut().zip(&self.counts) {
                *sum += f64::from_bits(count.load(Ordering::Relaxed));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AtomicU64, Line};

    fn line() -> Line {
        let line = Line {
            profile: AtomicU64::new(0),
            next: AtomicU64::new(0),
            random: AtomicU64::new(0),
        };
        line.seed(7);
        line
    }

    /// Bug prevented: a thread passes by a sample, or by the first look at a new profile.
    #[test]
    fn where_the_next_point_is_ahead_nothing_would_hit_and_nothing_be_drawn() {
        let (always, seldom) = (line(), line());
        // The counter goes round on the way.
        let mut after = u64::MAX - 5_000_000;
        let (mut hits, mut passed) = (0, 0);
        for step in 0..100_000_u64 {
            let bytes = step * step % 977;
            after = after.wrapping_add(bytes);
            let profile = 1 + u32::from(step > 50_000);
            let asked = always.hits(profile, 4_096, after, bytes);
            let is_ahead = seldom.is_ahead(profile, after);
            assert_eq!(
                asked,
                !is_ahead && seldom.hits(profile, 4_096, after, bytes)
            );
            assert_eq!(always.next(), seldom.next());
            hits += u32::from(asked);
            passed += u32::from(is_ahead);
        }
        assert!(hits > 5_000 && passed > 80_000, "{hits} {passed}");
    }
}
