//! The counters as Prometheus reads them, for a server's `/metrics`.
//!
//! Reading costs a walk over the threads' counters, takes no lock and stops
//! nobody; it needs neither a profile nor the feature `profile`.
//!
//! | metric | type | what it is |
//! |---|---|---|
//! | `heapledger_allocated_bytes_total` | counter | bytes allocated, growth of blocks included |
//! | `heapledger_freed_bytes_total` | counter | bytes freed, shrinking of blocks included |
//! | `heapledger_allocations_total` | counter | blocks allocated |
//! | `heapledger_frees_total` | counter | blocks freed |
//! | `heapledger_reallocations_total` | counter | blocks resized |
//! | `heapledger_failures_total` | counter | requests that got no memory |
//! | `heapledger_live_bytes` | gauge | bytes alive |
//! | `heapledger_live_blocks` | gauge | blocks alive |
//! | `heapledger_peak_bytes` | gauge | the most bytes that were alive at once |
//! | `heapledger_peak_error_bytes` | gauge | how far the peak may be from the truth |
//! | `heapledger_request_size_bytes` | histogram | requests for new blocks by size; only with the feature `histogram` |
//!
//! See [`Stats`] for what is counted. The histogram has no `_sum`: the sizes of
//! requests are not added up apart from what resizing adds, and another sum
//! would be a wrong mean. Its borders are 1, 3, 7, … 2³² − 1 bytes: a size
//! counts by its highest bit.

use std::io::{self, Write};

#[cfg(feature = "histogram")]
use crate::histogram::SizeHistogram;
#[cfg(feature = "histogram")]
use crate::ledger;
use crate::reading;
use crate::stats::Stats;

/// The media type of what [`write_prometheus`] writes, for a response's
/// `Content-Type`.
///
/// ```
/// let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\n", heapledger::metrics::CONTENT_TYPE);
/// assert!(head.ends_with("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
/// ```
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes the process's figures in Prometheus' text format, version 0.0.4, which the
/// page "Exposition formats" of Prometheus' documentation describes.
///
/// All figures but the histogram's are of one reading; see [`stats`](crate::stats).
///
/// # Errors
/// Of kind [`Unsupported`](io::ErrorKind::Unsupported), with an
/// [`Error`](crate::Error) inside, when the tracking allocator is not this
/// program's global allocator and nothing was counted through it either: zeros
/// would be a lie. Else what `w` answers.
///
/// ```
/// # #[global_allocator]
/// # static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();
/// let mut page = Vec::new();
/// heapledger::metrics::write_prometheus(&mut page)?;
/// assert!(String::from_utf8_lossy(&page).contains("# TYPE heapledger_live_bytes gauge\n"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_prometheus<W: Write>(mut w: W) -> io::Result<()> {
    let missing = |error| io::Error::new(io::ErrorKind::Unsupported, error);
    let stats = reading::try_stats().map_err(missing)?;
    for (name, kind, help, value) in table(&stats) {
        write!(
            w,
            "# HELP heapledger_{name} {help}\n# TYPE heapledger_{name} {kind}\nheapledger_{name} {value}\n"
        )?;
    }
    // From the ledger: whether there is something to tell was decided above.
    #[cfg(feature = "histogram")]
    sizes::write(&SizeHistogram::new(&ledger::sizes()), &mut w)?;
    w.flush()
}

/// Name, type, help and value of each.
#[rustfmt::skip]
const fn table(stats: &Stats) -> [(&'static str, &'static str, &'static str, u64); 10] {
    [
        ("allocated_bytes_total", "counter", "Bytes allocated, growth of blocks included.", stats.allocated_bytes),
        ("freed_bytes_total", "counter", "Bytes freed, shrinking of blocks included.", stats.freed_bytes),
        ("allocations_total", "counter", "Blocks allocated.", stats.allocations),
        ("frees_total", "counter", "Blocks freed.", stats.frees),
        ("reallocations_total", "counter", "Blocks resized.", stats.reallocations),
        ("failures_total", "counter", "Requests that got no memory.", stats.failures),
        ("live_bytes", "gauge", "Bytes alive.", stats.live_bytes),
        ("live_blocks", "gauge", "Blocks alive.", stats.live_blocks),
        ("peak_bytes", "gauge", "The most bytes that were alive at once.", stats.peak_bytes),
        ("peak_error_bytes", "gauge", "How far the peak may be from the truth.", stats.peak_error_bytes),
    ]
}

#[cfg(feature = "histogram")]
mod sizes {
    use std::io::{self, Write};

    use crate::histogram::SizeHistogram;

    /// Borders that are written: up to 4 GiB, always the same ones.
    const BORDERS: u32 = 32;

    pub(super) fn write<W: Write>(sizes: &SizeHistogram, w: &mut W) -> io::Result<()> {
        const NAME: &str = "heapledger_request_size_bytes";
        writeln!(w, "# HELP {NAME} Sizes of requests for new blocks.")?;
        writeln!(w, "# TYPE {NAME} histogram")?;
        let mut so_far = 0;
        for bit in 0..BORDERS {
            so_far += sizes.count_of(1 << bit);
            writeln!(w, "{NAME}_bucket{{le=\"{}\"}} {so_far}", (2_u64 << bit) - 1)?;
        }
        let all = sizes.total();
        writeln!(w, "{NAME}_bucket{{le=\"+Inf\"}} {all}")?;
        writeln!(w, "{NAME}_count {all}")
    }
}
