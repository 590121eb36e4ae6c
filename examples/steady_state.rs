//! Code that keeps something after its first runs, and whether it ever stops.
//!
//! ```text
//! cargo run --features profile --example steady_state
//! ```

use std::collections::HashMap;

use heapledger::TrackingAllocator;
use heapledger::leaks::Check;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

/// Remembers the length of each word it has seen, and, if it is told to, each
/// question.
#[derive(Default)]
struct Lengths {
    known: HashMap<&'static str, usize>,
    log: Option<Vec<String>>,
}

impl Lengths {
    fn of(&mut self, word: &'static str) -> usize {
        if let Some(log) = &mut self.log {
            log.push(format!("asked for {word}"));
        }
        *self.known.entry(word).or_insert_with(|| word.len())
    }
}

/// What a server would do with each request.
fn request(lengths: &mut Lengths) {
    for word in ["steady", "state"] {
        assert!(lengths.of(word) > 4);
    }
}

fn main() {
    // The cache is filled by the first run, and stays: no leak.
    let mut tidy = Lengths::default();
    let checked = Check::new().run_steady(1, 10, || request(&mut tidy));
    checked.expect("steady after one run");

    // The log takes two lines more with each request.
    let mut growing = Lengths {
        log: Some(Vec::new()),
        ..Lengths::default()
    };
    let checked = Check::new().run_steady(1, 10, || request(&mut growing));
    let report = checked.expect_err("it grows");
    assert_eq!(report.runs, 10);
    let lines = report.sites.iter().filter(|site| site.blocks == 20);
    assert_eq!(lines.count(), 1, "two lines for each of ten runs");
    println!("{report:#}");
}
