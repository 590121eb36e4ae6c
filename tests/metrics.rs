//! The page for Prometheus, line by line.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{self, ErrorKind, Write};

use heapledger::metrics;
use parking_lot::Mutex;

#[global_allocator]
static HEAP: heapledger::TrackingAllocator = heapledger::TrackingAllocator::new();

/// Samples by name and labels, and the types; each line is one that the format knows.
fn page() -> (BTreeMap<String, u64>, BTreeMap<String, String>) {
    let mut page = Vec::new();
    metrics::write_prometheus(&mut page).expect("memory takes it");
    let page = String::from_utf8(page).expect("text");
    assert!(
        page.ends_with('\n'),
        "a last line without an end is not read"
    );
    let (mut values, mut types) = (BTreeMap::new(), BTreeMap::new());
    let mut helped = None;
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("a name and words");
            assert!(words.ends_with('.'), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(helped.take().as_deref(), Some(name), "no help above {line}");
            assert!(
                types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{line} twice"
            );
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            let value = value.parse().expect("a number");
            assert!(
                values.insert(name.to_owned(), value).is_none(),
                "{line} twice"
            );
        }
    }
    (values, types)
}

const PEAK: usize = 64 << 20;

/// For tests that hold much.
static LARGE: Mutex<()> = Mutex::new(());

/// Bug prevented: a figure under another's name, or one that is missing.
#[test]
fn each_figure_is_there_under_its_name() {
    let _large = LARGE.lock();
    // A peak far above all that other tests do meanwhile, and what its error may be then.
    drop(black_box(Vec::<u8>::with_capacity(PEAK)));
    let before = heapledger::stats();
    let (values, types) = page();
    let after = heapledger::stats();
    let table = [
        (
            "allocated_bytes_total",
            before.allocated_bytes,
            after.allocated_bytes,
        ),
        ("freed_bytes_total", before.freed_bytes, after.freed_bytes),
        ("allocations_total", before.allocations, after.allocations),
        ("frees_total", before.frees, after.frees),
        (
            "reallocations_total",
            before.reallocations,
            after.reallocations,
        ),
        ("failures_total", before.failures, after.failures),
    ];
    for (name, before, after) in table {
        let value = values[&format!("heapledger_{name}")];
        assert!(
            (before..=after).contains(&value),
            "{name}: {before} {value} {after}"
        );
    }
    // What other threads free while it is read may be in it once, and not the next time.
    let error =
        values["heapledger_peak_error_bytes"] + before.peak_error_bytes + after.peak_error_bytes;
    let peak = values["heapledger_peak_bytes"];
    assert!(error < PEAK as u64 / 4, "{error}");
    assert!(
        peak + error >= before.peak_bytes && peak <= after.peak_bytes + error,
        "{before} {peak} {after}"
    );
    let live = values["heapledger_live_bytes"];
    assert!(
        peak > PEAK as u64 / 2 && live < PEAK as u64 / 4,
        "{peak} {live}"
    );
    for name in ["live_bytes", "live_blocks"] {
        assert!(values.contains_key(&format!("heapledger_{name}")), "{name}");
    }
    assert!(values["heapledger_live_bytes"] > values["heapledger_live_blocks"]);
    for (name, kind) in types {
        let expected = match name.as_str() {
            "heapledger_request_size_bytes" => "histogram",
            name if name.ends_with("_total") => "counter",
            _ => "gauge",
        };
        assert_eq!(kind, expected, "{name}");
    }
}

/// Bug prevented: a counter that does not follow the program.
#[test]
fn what_is_kept_is_seen() {
    let _large = LARGE.lock();
    let kept = black_box(vec![0u8; 50_000_000]);
    let (with, _) = page();
    drop(kept);
    let (without, _) = page();
    // Other tests of this file hold far less.
    assert!(with["heapledger_live_bytes"] >= 50_000_000);
    assert!(without["heapledger_live_bytes"] < 50_000_000);
    assert!(without["heapledger_freed_bytes_total"] >= 50_000_000);
}

/// Bug prevented: buckets that are not added up, or that do not end with all.
#[test]
#[cfg(feature = "histogram")]
fn buckets_are_cumulative_and_end_with_all() {
    const NAME: &str = "heapledger_request_size_bytes";
    let bucket =
        |values: &BTreeMap<String, u64>, le: &str| values[&format!("{NAME}_bucket{{le=\"{le}\"}}")];
    let (before, _) = page();
    for _ in 0..1_000 {
        drop(black_box(vec![0u8; 1_023]));
        drop(black_box(vec![0u8; 1_024]));
    }
    let (after, _) = page();
    let grown = |le| bucket(&after, le) - bucket(&before, le);
    assert!(grown("1023") >= grown("511") + 1_000);
    assert!(grown("2047") >= grown("1023") + 1_000);
    let mut last = 0;
    for bit in 1..=32 {
        let count = bucket(&after, &((1_u64 << bit) - 1).to_string());
        assert!(count >= last, "2^{bit}");
        last = count;
    }
    let all = after[&format!("{NAME}_count")];
    assert_eq!(bucket(&after, "+Inf"), all);
    // Nothing here asks for more than 4 GiB.
    assert_eq!(last, all);
}

/// Bug prevented: half a page that looks like a whole one.
#[test]
fn a_writer_that_fails_is_an_error() {
    struct Broken(usize);
    impl Write for Broken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.checked_sub(bytes.len()) {
                Some(rest) => self.0 = rest,
                None => return Err(ErrorKind::StorageFull.into()),
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }
    for (room, kind) in [
        (0, ErrorKind::StorageFull),
        (900, ErrorKind::StorageFull),
        (1 << 20, ErrorKind::BrokenPipe),
    ] {
        let error = metrics::write_prometheus(Broken(room)).expect_err("it fails");
        assert_eq!(error.kind(), kind, "{room}");
    }
}
