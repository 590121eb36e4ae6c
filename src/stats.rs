//! The figures, as plain data.

use core::fmt;

use crate::units::{Bytes, Grouped, Signed, plural};

/// What the ledger says at one moment, for the process or for one thread.
///
/// Sizes are what the program asked for (`Layout::size`), not what the inner
/// allocator reserved for it. The compiler may remove or merge allocations that
/// it can see through, so exact counts in tests want [`core::hint::black_box`],
/// and can differ between debug and release builds.
///
/// Within one value of the process's, `live_bytes == allocated_bytes -
/// freed_bytes` and `live_blocks == allocations - frees` always hold; what is
/// alive of a thread that frees other threads' blocks stops at zero, see
/// [`thread_stats`](crate::thread_stats). While other threads run,
/// the counters of one thread are read one after the other, so `live_blocks`
/// and `live_bytes` may belong to moments a few operations apart, and may be too
/// high by what was freed meanwhile; they are never too low. When nothing else
/// runs, every figure is exact.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let before = heapledger::stats();
/// let numbers = std::hint::black_box(vec![0u64; 1_000]);
/// let change = heapledger::stats().since(&before);
/// assert!(change.allocated_bytes >= 8_000);
/// # drop(numbers);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// Bytes alive now.
    pub live_bytes: u64,
    /// Blocks alive now.
    pub live_blocks: u64,
    /// The most bytes alive at once since the start or the last
    /// [`reset_peak`](crate::reset_peak).
    pub peak_bytes: u64,
    /// How far `peak_bytes` may be from the truth, in bytes, either way.
    ///
    /// Zero as long as one thread has used the heap. With several, each thread
    /// may hold back up to 128 KiB (or all it ever did, if that is less), and
    /// what they free while the books are read comes on top.
    pub peak_error_bytes: u64,
    /// Bytes ever allocated. A `realloc` that grows adds the difference.
    pub allocated_bytes: u64,
    /// Bytes ever freed. A `realloc` that shrinks adds the difference.
    pub freed_bytes: u64,
    /// Blocks ever allocated. A `realloc` is not another block.
    pub allocations: u64,
    /// Blocks ever freed.
    pub frees: u64,
    /// Successful calls of `realloc`, in place or moving.
    pub reallocations: u64,
    /// Requests of any kind that the inner allocator answered with null.
    pub failures: u64,
}

impl Stats {
    /// What has changed since `earlier`.
    ///
    /// The totals count up, so their differences are what happened in between;
    /// what is alive can go down, so its difference is signed. Nothing
    /// underflows, whichever of the two is the earlier one: totals are
    /// subtracted modulo 2^64, as they are counted.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let cache = std::hint::black_box(vec![0u8; 300]);
    /// let before = heapledger::stats();
    /// drop(cache);
    /// let change = heapledger::stats().since(&before);
    /// assert_eq!((change.freed_bytes, change.live_bytes), (300, -300));
    /// ```
    pub const fn since(&self, earlier: &Self) -> StatsDelta {
        let allocated_bytes = self.allocated_bytes.wrapping_sub(earlier.allocated_bytes);
        let freed_bytes = self.freed_bytes.wrapping_sub(earlier.freed_bytes);
        let allocations = self.allocations.wrapping_sub(earlier.allocations);
        let frees = self.frees.wrapping_sub(earlier.frees);
        StatsDelta {
            // From the totals: a thread's own live figures stop at zero, what they changed by does not.
            live_bytes: allocated_bytes.wrapping_sub(freed_bytes).cast_signed(),
            live_blocks: allocations.wrapping_sub(frees).cast_signed(),
            allocated_bytes,
            freed_bytes,
            allocations,
            frees,
            reallocations: self.reallocations.wrapping_sub(earlier.reallocations),
            failures: self.failures.wrapping_sub(earlier.failures),
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "live", self.live_bytes, self.live_blocks, "alive now")?;
        f.write_str("\npeak       ")?;
        size(f, &Grouped(self.peak_bytes), self.peak_bytes)?;
        if self.peak_error_bytes == 0 {
            f.write_str("  exact\n")?;
        } else {
            writeln!(f, "  within {} either way", Bytes(self.peak_error_bytes))?;
        }
        line(
            f,
            "allocated",
            self.allocated_bytes,
            self.allocations,
            "ever",
        )?;
        f.write_str("\n")?;
        line(f, "freed", self.freed_bytes, self.frees, "ever")?;
        tail(f, self.reallocations, self.failures)
    }
}

/// What changed between two readings of the books; from [`Stats::since`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let before = heapledger::thread_stats();
/// drop(std::hint::black_box(Box::new(7u32)));
/// let change = heapledger::thread_stats().since(&before);
/// assert_eq!((change.allocations, change.frees, change.live_bytes), (1, 1, 0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct StatsDelta {
    /// By how many bytes the live heap grew; negative when it shrank.
    pub live_bytes: i64,
    /// By how many blocks the live heap grew; negative when it shrank.
    pub live_blocks: i64,
    /// Bytes allocated in between.
    pub allocated_bytes: u64,
    /// Bytes freed in between.
    pub freed_bytes: u64,
    /// Blocks allocated in between.
    pub allocations: u64,
    /// Blocks freed in between.
    pub frees: u64,
    /// Successful calls of `realloc` in between.
    pub reallocations: u64,
    /// Requests answered with null in between.
    pub failures: u64,
}

impl fmt::Display for StatsDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        change(f, self.live_bytes, self.live_blocks)?;
        line(f, "allocated", self.allocated_bytes, self.allocations, "")?;
        f.write_str("\n")?;
        line(f, "freed", self.freed_bytes, self.frees, "")?;
        tail(f, self.reallocations, self.failures)
    }
}

/// What happened inside a scope; from [`measure`](crate::measure) or
/// [`Scope::stats`](crate::Scope::stats).
///
/// Counted is what the threads did that the scope was on, while it was on
/// them: also their frees of blocks that are older than the scope, which is
/// why the net figures are signed. What other threads did is not counted.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let (kept, stats) = heapledger::measure(|| {
///     drop(std::hint::black_box(vec![0u8; 4_096]));
///     std::hint::black_box(vec![0u8; 1_024])
/// });
/// assert_eq!(stats.peak_bytes, 4_096);
/// assert_eq!(stats.net_bytes(), 1_024);
/// # drop(kept);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ScopeStats {
    /// The most bytes alive at once inside the scope, over what was alive when
    /// it was entered.
    pub peak_bytes: u64,
    /// How much too high `peak_bytes` may be, in bytes. Zero for a scope on
    /// one thread, once that has left it or when it asks itself; see
    /// [`ScopeHandle`](crate::ScopeHandle) for several.
    pub peak_error_bytes: u64,
    /// Bytes allocated. A `realloc` that grows adds the difference.
    pub allocated_bytes: u64,
    /// Bytes freed. A `realloc` that shrinks adds the difference.
    pub freed_bytes: u64,
    /// Blocks allocated. A `realloc` is not another block.
    pub allocations: u64,
    /// Blocks freed.
    pub frees: u64,
    /// Successful calls of `realloc`, in place or moving.
    pub reallocations: u64,
    /// Requests of any kind that the inner allocator answered with null.
    pub failures: u64,
}

impl ScopeStats {
    /// Bytes allocated less bytes freed; negative when more was freed.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let old = std::hint::black_box(vec![0u8; 100]);
    /// let ((), stats) = heapledger::measure(|| drop(old));
    /// assert_eq!(stats.net_bytes(), -100); // freed inside, allocated before
    /// ```
    pub const fn net_bytes(&self) -> i64 {
        self.allocated_bytes
            .wrapping_sub(self.freed_bytes)
            .cast_signed()
    }

    /// Blocks allocated less blocks freed; negative when more were freed.
    ///
    /// ```
    /// # #[global_allocator]
    /// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
    /// let (kept, stats) = heapledger::measure(|| {
    ///     drop(std::hint::black_box(Box::new(1)));
    ///     std::hint::black_box((Box::new(2), Box::new(3)))
    /// });
    /// assert_eq!((stats.allocations, stats.net_blocks()), (3, 2));
    /// # drop(kept);
    /// ```
    pub const fn net_blocks(&self) -> i64 {
        self.allocations.wrapping_sub(self.frees).cast_signed()
    }
}

impl fmt::Display for ScopeStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        change(f, self.net_bytes(), self.net_blocks())?;
        f.write_str("peak       ")?;
        size(f, &Grouped(self.peak_bytes), self.peak_bytes)?;
        if self.peak_error_bytes == 0 {
            f.write_str("  exact\n")?;
        } else {
            writeln!(f, "  at most {} too high", Bytes(self.peak_error_bytes))?;
        }
        line(f, "allocated", self.allocated_bytes, self.allocations, "")?;
        f.write_str("\n")?;
        line(f, "freed", self.freed_bytes, self.frees, "")?;
        tail(f, self.reallocations, self.failures)
    }
}

/// `live   1,234 bytes   1.21 KiB  in 12 blocks alive now`, without a newline.
fn line(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    bytes: u64,
    blocks: u64,
    note: &str,
) -> fmt::Result {
    write!(f, "{name:<10} ")?;
    size(f, &Grouped(bytes), bytes)?;
    write!(
        f,
        "  in {} {}",
        Grouped(blocks),
        plural(blocks, "block", "blocks"),
    )?;
    if note.is_empty() {
        Ok(())
    } else {
        write!(f, " {note}")
    }
}

/// The line of what is alive, as a signed change, with its newline.
fn change(f: &mut fmt::Formatter<'_>, bytes: i64, blocks: i64) -> fmt::Result {
    f.write_str("live       ")?;
    size(f, &Signed(bytes), bytes.unsigned_abs())?;
    writeln!(
        f,
        "  in {} {}",
        Signed(blocks),
        plural(blocks.unsigned_abs(), "block", "blocks"),
    )
}

/// `1,234 bytes   1.21 KiB`, as wide as any.
fn size(f: &mut fmt::Formatter<'_>, number: &dyn fmt::Display, bytes: u64) -> fmt::Result {
    let unit = plural(bytes, "byte ", "bytes");
    write!(f, "{number:>16} {unit}  {:>10}", Bytes(bytes).to_string())
}

/// The rare figures, only when there are any.
fn tail(f: &mut fmt::Formatter<'_>, reallocations: u64, failures: u64) -> fmt::Result {
    if reallocations > 0 {
        write!(
            f,
            "\nresized    {:>16} {}",
            Grouped(reallocations),
            plural(reallocations, "time", "times")
        )?;
    }
    if failures > 0 {
        write!(
            f,
            "\nrefused    {:>16} {} by the inner allocator",
            Grouped(failures),
            plural(failures, "request", "requests")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ScopeStats, Stats};

    #[test]
    fn a_person_can_read_the_figures() {
        let stats = Stats {
            live_bytes: 1_234_567,
            live_blocks: 1,
            peak_bytes: 2_411_724,
            allocated_bytes: 5_000_000_000,
            allocations: 123_456,
            freed_bytes: 4_998_765_433,
            frees: 123_455,
            reallocations: 42,
            ..Stats::default()
        };
        assert_eq!(
            stats.to_string(),
            "\
live              1,234,567 bytes    1.18 MiB  in 1 block alive now
peak              2,411,724 bytes    2.30 MiB  exact
allocated     5,000,000,000 bytes    4.66 GiB  in 123,456 blocks ever
freed         4,998,765,433 bytes    4.66 GiB  in 123,455 blocks ever
resized                  42 times"
        );
    }

    #[test]
    fn one_of_each_is_said_as_one() {
        let stats = Stats {
            peak_bytes: 1,
            allocated_bytes: 1,
            allocations: 1,
            freed_bytes: 1,
            frees: 1,
            reallocations: 1,
            ..Stats::default()
        };
        assert_eq!(
            stats.to_string(),
            "\
live                      0 bytes         0 B  in 0 blocks alive now
peak                      1 byte          1 B  exact
allocated                 1 byte          1 B  in 1 block ever
freed                     1 byte          1 B  in 1 block ever
resized                   1 time"
        );
    }

    /// Bug prevented: a difference of unsigned figures that panics or wraps to
    /// 18 exabytes when a scope frees blocks that are older than itself.
    #[test]
    fn a_difference_goes_below_zero_and_over_the_end_of_u64() {
        let earlier = Stats {
            allocated_bytes: u64::MAX - 9,
            allocations: 7,
            ..Stats::default()
        };
        let later = Stats {
            allocated_bytes: 10,
            allocations: 8,
            freed_bytes: 80,
            frees: 2,
            ..Stats::default()
        };
        let change = later.since(&earlier);
        assert_eq!((change.live_bytes, change.live_blocks), (-60, -1));
        assert_eq!((change.allocated_bytes, change.allocations), (20, 1));
    }

    /// Bug prevented: on a thread that has freed more than it has allocated, live
    /// figures that stop at zero hide what it allocates next.
    #[test]
    fn a_difference_is_right_where_live_figures_stop_at_zero() {
        let earlier = Stats {
            freed_bytes: 500,
            frees: 5,
            ..Stats::default()
        };
        let later = Stats {
            allocated_bytes: 100,
            allocations: 1,
            ..earlier
        };
        let change = later.since(&earlier);
        assert_eq!((change.live_bytes, change.live_blocks), (100, 1));
    }

    #[test]
    fn a_scope_that_frees_more_than_it_allocates_has_a_negative_net() {
        let stats = ScopeStats {
            freed_bytes: 64,
            frees: 1,
            ..ScopeStats::default()
        };
        assert_eq!((stats.net_bytes(), stats.net_blocks()), (-64, -1));
        assert!(
            stats
                .to_string()
                .starts_with("live                    -64 bytes        64 B  in -1 block\n")
        );
    }
}
