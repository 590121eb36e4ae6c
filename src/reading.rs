//! Reading the books: the process's figures, and the calling thread's.

use crate::error::Error;
use crate::installed;
use crate::ledger;
use crate::stats::Stats;

/// The figures of the whole process.
///
/// Any thread may call this at any time; it stops no one, takes no lock and
/// allocates nothing. While other threads run, each figure is that of a moment
/// during the call; `live_bytes` and `live_blocks` never underflow. See
/// [`Stats`] for what is counted and what is not.
///
/// # Panics
/// When [`TrackingAllocator`](crate::TrackingAllocator) is not the program's
/// global allocator and so nothing was counted: zeros would be a lie. Use
/// [`try_stats`] where that is not a mistake.
///
/// ```
/// #[global_allocator]
/// static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
///
/// println!("{}", heapledger::stats());
/// # assert!(heapledger::stats().live_bytes > 0);
/// ```
#[track_caller]
pub fn stats() -> Stats {
    or_panic(try_stats())
}

/// [`stats`], with an error instead of a panic.
///
/// # Errors
/// [`Error::is_not_installed`] when the tracking allocator is not this
/// program's global allocator and nothing was counted through it either.
///
/// ```
/// // A library says so where the program does not count.
/// let line = match heapledger::try_stats() {
///     Ok(stats) => format!("{} bytes alive", stats.live_bytes),
///     Err(error) if error.is_not_installed() => String::from("nobody counts"),
///     Err(error) => return Err(error),
/// };
/// assert_eq!(line, "nobody counts"); // no `#[global_allocator]` in this example
/// # Ok::<(), heapledger::Error>(())
/// ```
pub fn try_stats() -> Result<Stats, Error> {
    let stats = ledger::process_stats();
    // A `TrackingAllocator` that is used directly, as a value, has something to tell as well.
    if stats == Stats::default() {
        installed::require()?;
        return Ok(ledger::process_stats());
    }
    Ok(stats)
}

/// The calling thread's own entries since it began.
///
/// `live_*` is what the thread allocated less what it freed, whoever allocated
/// that; a thread that frees more than it allocates shows zero there, so
/// subtract the totals yourself to see by how much. `peak_bytes` is the highest
/// that its net ever was, and exact. What the thread does while its thread
/// locals are being dropped, or before the system has memory for its entries, is
/// counted for the process only.
///
/// # Panics
/// When the tracking allocator is not this program's global allocator, or the
/// thread has no entries of its own; see [`try_thread_stats`].
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let before = heapledger::thread_stats();
/// let text = std::hint::black_box(String::from("mine"));
/// let change = heapledger::thread_stats().since(&before);
/// assert_eq!((change.allocations, change.allocated_bytes), (1, 4));
/// # drop(text);
/// ```
#[track_caller]
pub fn thread_stats() -> Stats {
    or_panic(try_thread_stats())
}

/// [`thread_stats`], with an error instead of a panic.
///
/// # Errors
/// [`Error::is_not_installed`] when the tracking allocator is not this
/// program's global allocator, also where [`try_stats`] has figures of one that
/// is used as a value;
/// [`Error::is_thread_ending`] while the thread's locals are being dropped,
/// when it has no entries of its own any more; [`Error::is_no_memory`] when it
/// has none because the system has no memory for them, until it has.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let worker = std::thread::spawn(|| {
///     drop(std::hint::black_box(vec![0u8; 1_000_000]));
///     heapledger::try_thread_stats()
/// });
/// let stats = worker.join().unwrap()?;
/// // With what the thread needs for itself.
/// assert!((1_000_000..1_010_000).contains(&stats.allocated_bytes));
/// # Ok::<(), heapledger::Error>(())
/// ```
pub fn try_thread_stats() -> Result<Stats, Error> {
    installed::require()?;
    let slot = ledger::own_or_error()?;
    let base = slot.base();
    let own = slot.figures().since(&base);
    let net = |allocated: u64, freed: u64| {
        u64::try_from(allocated.wrapping_sub(freed).cast_signed()).unwrap_or(0)
    };
    let live_bytes = net(own.allocated_bytes, own.freed_bytes);
    let peak = slot.level_high(0).wrapping_sub(base.net());
    Ok(Stats {
        live_bytes,
        live_blocks: net(own.allocations, own.frees),
        peak_bytes: u64::try_from(peak).unwrap_or(0),
        peak_error_bytes: 0,
        allocated_bytes: own.allocated_bytes,
        freed_bytes: own.freed_bytes,
        allocations: own.allocations,
        frees: own.frees,
        reallocations: own.reallocations,
        failures: own.failures,
    })
}

/// Starts the process's peak again at what is alive now.
///
/// Scopes and [`thread_stats`] keep peaks of their own and are not affected.
/// Other threads may hold back up to 128 KiB each of what they did before the
/// call; [`Stats::peak_error_bytes`] says so. Where nothing was counted, as the
/// tracking allocator is not this program's global allocator, it does nothing.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// drop(std::hint::black_box(vec![0u8; 10_000_000]));
/// assert!(heapledger::stats().peak_bytes >= 10_000_000);
/// heapledger::reset_peak();
/// assert!(heapledger::stats().peak_bytes < 10_000_000);
/// ```
pub fn reset_peak() {
    ledger::reset_peak();
}

/// The requests of the whole process by size, since it began.
///
/// Any thread may call this at any time; it stops no one, takes no lock and
/// allocates nothing. See [`SizeHistogram`](crate::SizeHistogram) for what is
/// counted.
///
/// # Panics
/// When the tracking allocator is not this program's global allocator.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// drop(std::hint::black_box((Box::new([0u8; 100]), Box::new([0u8; 120]))));
/// let sizes = heapledger::size_histogram();
/// println!("{sizes}"); // a line for each power of two, from the smallest to the largest
/// assert!(sizes.count_of(100) >= 2);
/// ```
#[cfg(feature = "histogram")]
#[track_caller]
pub fn size_histogram() -> crate::histogram::SizeHistogram {
    or_panic(installed::require());
    crate::histogram::SizeHistogram::new(&ledger::sizes())
}

/// The value, or an ordinary panic with the error's words at the caller's line.
#[track_caller]
pub(crate) fn or_panic<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}
