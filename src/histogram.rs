//! How large the requests were.

use core::fmt;

use crate::units::{Bytes, Grouped};

/// Buckets: one for each position of a size's highest bit.
pub(crate) const BUCKETS: usize = 64;

/// The bucket of a request of `bytes`.
#[inline]
pub(crate) fn bucket(bytes: u64) -> usize {
    // The position of the highest bit, and 0 for an empty request, which no
    // correct program makes.
    63 ^ (bytes | 1).leading_zeros() as usize
}

/// The smallest size that falls into a bucket.
const fn smallest(bucket: usize) -> u64 {
    if bucket == 0 { 0 } else { 1 << bucket }
}

/// How many requests for a new block there were of each size, by powers of two.
///
/// Counted are `alloc` and `alloc_zeroed` by the size of the block as first
/// asked for; a `realloc` is not another block and is not counted here, nor is
/// a request that was answered with null. From
/// [`size_histogram`](crate::size_histogram).
///
/// [`Display`](fmt::Display) has a line for each power of two from the smallest that was
/// asked for to the largest, those in between that nobody asked for included.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let before = heapledger::size_histogram();
/// drop(std::hint::black_box(vec![0u8; 1_000]));
/// let after = heapledger::size_histogram();
/// // 1,000 lies in 512..1024.
/// assert!(after.count_of(1_000) > before.count_of(1_000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeHistogram {
    counts: [u64; BUCKETS],
}

impl SizeHistogram {
    /// A histogram of these counts, by bucket.
    pub(crate) const fn new(counts: &[u64; BUCKETS]) -> Self {
        Self { counts: *counts }
    }

    /// The buckets that hold anything, smallest size first: the sizes from
    /// `min_bytes` to `max_bytes` (both included) and how many requests had them.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// drop(std::hint::black_box(vec![0u8; 3 << 20]));
    /// let sizes = heapledger::size_histogram();
    /// // The largest request of this program: 2 MiB or more, and less than 4.
    /// let largest = sizes.buckets().last().unwrap();
    /// assert_eq!((largest.min_bytes, largest.max_bytes), (2 << 20, (4 << 20) - 1));
    /// ```
    pub fn buckets(&self) -> impl Iterator<Item = SizeBucket> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(i, &count)| SizeBucket {
                min_bytes: smallest(i),
                max_bytes: (1 << i) | ((1 << i) - 1),
                count,
            })
    }

    /// How many requests fell into the bucket that a request of `bytes` falls into.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let before = heapledger::size_histogram().count_of(4_096);
    /// drop(std::hint::black_box(vec![0u8; 8_000]));
    /// // 4,096 to 8,191 bytes are one bucket.
    /// assert_eq!(heapledger::size_histogram().count_of(4_096), before + 1);
    /// ```
    pub fn count_of(&self, bytes: u64) -> u64 {
        self.counts.get(bucket(bytes)).copied().unwrap_or(0)
    }

    /// How many requests there were in all.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let before = heapledger::size_histogram().total();
    /// let mut list = std::hint::black_box(Vec::<u8>::with_capacity(10));
    /// list.reserve_exact(5_000); // a resize is not another block
    /// assert_eq!(heapledger::size_histogram().total(), before + 1);
    /// # drop(std::hint::black_box(list));
    /// ```
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }
}

/// One bucket of a [`SizeHistogram`]; from [`SizeHistogram::buckets`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// drop(std::hint::black_box((vec![0u8; 1 << 20], vec![0u8; 5 << 20])));
/// let sizes = heapledger::size_histogram();
/// let large = sizes.buckets().filter(|bucket| bucket.min_bytes >= 1 << 20);
/// let requests: u64 = large.map(|bucket| bucket.count).sum();
/// assert_eq!(requests, 2); // for a mebibyte or more
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SizeBucket {
    /// The smallest size that falls into it, in bytes.
    pub min_bytes: u64,
    /// The largest size that falls into it, in bytes.
    pub max_bytes: u64,
    /// How many requests did.
    pub count: u64,
}

impl fmt::Display for SizeHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_used = |count: &u64| *count > 0;
        let first = self.counts.iter().position(is_used);
        let last = self.counts.iter().rposition(is_used);
        let (Some(first), Some(last)) = (first, last) else {
            return Ok(());
        };
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        // The empty ones in between, too: or a reader takes the line before for all of them.
        for (i, &count) in self.counts.iter().enumerate().take(last + 1).skip(first) {
            if i > first {
                f.write_str("\n")?;
            }
            let from = Bytes(smallest(i)).to_string();
            write!(f, "{from:>10} and up  {:>14}", Grouped(count))?;
            if count > 0 {
                // At most 40 wide, at least 1 for what is there at all.
                let wide = usize::try_from(u128::from(count) * 40 / u128::from(most))
                    .map_or(40, |w| w.clamp(1, 40));
                write!(f, "  {}", "#".repeat(wide))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, SizeHistogram, bucket};

    #[test]
    fn each_size_falls_into_the_bucket_of_its_highest_bit() {
        let table = [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 1),
            (4, 2),
            (1023, 9),
            (1024, 10),
        ];
        for (size, expected) in table {
            assert_eq!(bucket(size), expected, "size {size}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_name_their_borders() {
        let mut counts = [0; BUCKETS];
        counts[0] = 1;
        counts[6] = 80;
        counts[63] = 2;
        let histogram = SizeHistogram::new(&counts);
        let borders: Vec<_> = histogram
            .buckets()
            .map(|b| (b.min_bytes, b.max_bytes, b.count))
            .collect();
        assert_eq!(borders, [(0, 1, 1), (64, 127, 80), (1 << 63, u64::MAX, 2)]);
        assert_eq!(histogram.total(), 83);
        assert_eq!(histogram.count_of(100), 80);
    }

    /// Bug prevented: a line for 4 bytes and up, below it one for 64, and nothing that
    /// tells that between the two there is none.
    #[test]
    fn what_nobody_asked_for_between_two_sizes_is_a_line_of_its_own() {
        let mut counts = [0; BUCKETS];
        (counts[2], counts[4], counts[5]) = (80, 1, 2_000);
        let text = SizeHistogram::new(&counts).to_string();
        let lines: Vec<&str> = text.lines().collect();
        let expected = [
            String::from("       4 B and up              80  #"),
            String::from("       8 B and up               0"),
            String::from("      16 B and up               1  #"),
            format!("      32 B and up           2,000  {}", "#".repeat(40)),
        ];
        assert_eq!(lines, expected);
        assert_eq!(SizeHistogram::new(&[0; BUCKETS]).to_string(), "");
    }
}
