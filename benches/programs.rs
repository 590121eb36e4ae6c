//! Whole programs: the same real work, one binary for each allocator, in turn.
//!
//! Each program times its own work, without its start. In every round each
//! allocator runs once, in an order of chance, and is compared with `System`
//! in the same round.
//!
//! `cargo bench -p heapledger-benches --bench programs`, some four minutes; with
//! `-- --quick` three rounds.

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, Spread, goal, ratio, table};
use heapledger_benches::is_quick;
use heapledger_benches::programs::REAL;
use heapledger_benches::samples::Random;

/// The first is what the others are compared with.
const ALLOCATORS: [(&str, &str); 12] = [
    ("system", "System"),
    ("default", "no `#[global_allocator]`"),
    ("heapledger", "heapledger"),
    ("shared_atomics", "shared atomics"),
    ("stats_alloc", "stats_alloc"),
    ("cap", "cap"),
    ("alloc_tracker", "alloc_tracker"),
    ("tracking_allocator", "tracking-allocator"),
    ("dhat_idle", "dhat, not running"),
    ("least", "the least"),
    ("mimalloc", "mimalloc"),
    ("heapledger_over_mimalloc", "heapledger over mimalloc"),
];
const HEAD: [&str; 7] = [
    "",
    "ms",
    "× System",
    "a quarter below",
    "above",
    "best, ms",
    "× System's best",
];
const AT_OURS: usize = 2;
const AT_MIMALLOC: usize = 10;
const AT_OURS_OVER_MIMALLOC: usize = 11;

fn main() {
    let rounds = if is_quick() { 3 } else { 61 };
    let programs = Programs::build();
    let mut goals = Vec::new();
    for work in REAL {
        let times = measure(&programs, work, rounds);
        let rows: Vec<Vec<String>> = ALLOCATORS
            .iter()
            .zip(&times)
            .map(|((_, name), own)| row(name, own, &times[0]))
            .collect();
        println!("{work} ({rounds} rounds):\n");
        println!("{}", table(&HEAD, &rows));
        let found = ratio(&times[AT_OURS], &times[0]).median;
        goals.push(goal(
            &format!("{work}: heapledger / System"),
            found,
            1.02,
            3,
        ));
        let found = ratio(&times[AT_OURS_OVER_MIMALLOC], &times[AT_MIMALLOC]).median;
        let asked = format!("{work}: heapledger over mimalloc / mimalloc");
        goals.push(goal(&asked, found, 1.02, 3));
    }
    println!("{}", table(&GOALS, &goals));
}

/// Milliseconds: for each allocator, round by round.
fn measure(programs: &Programs, work: &str, rounds: usize) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::with_capacity(rounds); ALLOCATORS.len()];
    let mut random = Random::new(1);
    for _ in 0..rounds {
        for at in random.order(ALLOCATORS.len()) {
            let nanos = programs.run(ALLOCATORS[at].0, &[work])[0];
            times[at].push(nanos / 1e6);
        }
    }
    times
}

fn row(name: &str, own: &[f64], system: &[f64]) -> Vec<String> {
    let ratio = ratio(own, system);
    let times = Spread::of(own.iter().copied());
    let best = times.least / Spread::of(system.iter().copied()).least;
    vec![
        name.to_owned(),
        format!("{:.1}", times.median),
        format!("{:.3}", ratio.median),
        format!("{:.3}", ratio.low),
        format!("{:.3}", ratio.high),
        format!("{:.1}", times.least),
        format!("{best:.3}"),
    ]
}
