//! What sampling adds to counting, by the pair and in whole programs.
//!
//! `cargo bench -p heapledger-profile-bench --bench sampling`; with `-- --quick`
//! three rounds; with `--features jemalloc` beside jemalloc's own profiler.

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, Spread, difference, goal, ratio, table};
use heapledger_benches::is_quick;
use heapledger_benches::samples::Random;
use heapledger_profile_bench::REAL;

/// Counting comes twice: by what the second differs, so much is noise.
const INTERVALS: [&str; 5] = ["count", "524288", "65536", "4096", "count"];
const NAMES: [&str; 5] = [
    "counting",
    "512 KiB apart",
    "64 KiB apart",
    "4 KiB apart",
    "counting, again",
];
const PAIRS: f64 = 20e6;
/// How many times a program does its work: a tenth of a second and more.
const TIMES: &str = "4";
/// glibc gives back to the system what is free at the end of its heap, and asks for it
/// again, or not, as something lies there: one block that is a little older decides
/// about a third of `json`. So it keeps what it has.
const KEEP: [(&str, &str); 1] = [("MALLOC_TRIM_THRESHOLD_", "1000000000")];

fn main() {
    let rounds = if is_quick() { 3 } else { 61 };
    let programs = Programs::build_at(env!("CARGO_MANIFEST_DIR"));
    let mut goals = Vec::new();
    for work in ["pairs"].iter().chain(&REAL) {
        let mut times = vec![Vec::new(); INTERVALS.len()];
        let mut random = Random::new(1);
        for _ in 0..rounds {
            for at in random.order(INTERVALS.len()) {
                let args = [work, INTERVALS[at], TIMES];
                times[at].push(programs.run_with("with_heapledger", &args, &KEEP)[0]);
            }
        }
        let rows: Vec<Vec<String>> = NAMES
            .iter()
            .zip(&times)
            .map(|(name, own)| row(name, own, &times[0]))
            .collect();
        println!("{work} ({rounds} rounds):\n");
        let head = ["", "ms", "× counting", "a quarter below", "above"];
        println!("{}", table(&head, &rows));
        if *work == "pairs" {
            let added = difference(&times[1], &times[0]) / PAIRS;
            goals.push(goal("pair: ns added at 512 KiB", added, 0.5, 2));
        } else {
            for (at, most) in [(1, 1.01), (2, 1.05)] {
                let name = format!("{work}: {} / counting", NAMES[at]);
                let found = ratio(&times[at], &times[0]).median;
                goals.push(goal(&name, found, most, 3));
            }
        }
    }
    println!("{}", table(&GOALS, &goals));
    if cfg!(feature = "jemalloc") {
        beside_jemalloc(programs, if is_quick() { 3 } else { 31 });
    }
}

/// What sampling at 512 KiB adds, beside jemalloc's own profiler, which samples
/// at 512 KiB unless told otherwise; each against itself without sampling.
fn beside_jemalloc(programs: Programs, rounds: usize) {
    const OFF: [(&str, &str); 1] = [("_RJEM_MALLOC_CONF", "prof:false")];
    const ON: [(&str, &str); 1] = [("_RJEM_MALLOC_CONF", "prof:true,lg_prof_sample:19")];
    let directory = env!("CARGO_MANIFEST_DIR");
    let programs = programs.with_feature(directory, "with_jemalloc", "jemalloc");
    let mut rows = Vec::new();
    for work in ["pairs"].iter().chain(&REAL) {
        let mut times = vec![Vec::new(); 4];
        for _ in 0..rounds {
            times[0].push(programs.run("with_heapledger", &[work, "count"])[0]);
            times[1].push(programs.run("with_heapledger", &[work, "524288"])[0]);
            times[2].push(programs.run_with("with_jemalloc", &[work], &OFF)[0]);
            times[3].push(programs.run_with("with_jemalloc", &[work], &ON)[0]);
        }
        let (ours, theirs) = (ratio(&times[1], &times[0]), ratio(&times[3], &times[2]));
        rows.push(vec![
            (*work).to_owned(),
            format!("{:.3}", ours.median),
            format!("{:.3}", theirs.median),
        ]);
    }
    println!("Sampling at 512 KiB, against the same without ({rounds} rounds):\n");
    println!("{}", table(&["", "heapledger", "jemalloc"], &rows));
}

fn row(name: &str, own: &[f64], counting: &[f64]) -> Vec<String> {
    let ratio = ratio(own, counting);
    let times = Spread::of(own.iter().copied());
    vec![
        name.to_owned(),
        format!("{:.1}", times.median / 1e6),
        format!("{:.3}", ratio.median),
        format!("{:.3}", ratio.low),
        format!("{:.3}", ratio.high),
    ]
}
