//! What sampling adds to counting, by the pair and in whole programs.
//!
//! `cargo bench -p heapledger-profile-bench --bench sampling`; with `-- --quick`
//! three rounds; with `--features jemalloc` beside jemalloc's own profiler.

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, Spread, difference, goal, ratio, table};
use heapledger_benches::is_quick;
use heapledger_profile_bench::REAL;

const INTERVALS: [&str; 4] = ["count", "524288", "65536", "4096"];
const PAIRS: f64 = 20e6;

fn main() {
    let rounds = if is_quick() { 3 } else { 31 };
    let programs = Programs::build_at(env!("CARGO_MANIFEST_DIR"));
    let mut goals = Vec::new();
    for work in ["pairs"].iter().chain(&REAL) {
        let mut times = vec![Vec::new(); INTERVALS.len()];
        for round in 0..rounds {
            for step in 0..INTERVALS.len() {
                let at = (round + step) % INTERVALS.len();
                times[at].push(programs.run("with_heapledger", &[work, INTERVALS[at]])[0]);
            }
        }
        let rows: Vec<Vec<String>> = INTERVALS
            .iter()
            .zip(&times)
            .map(|(interval, own)| row(interval, own, &times[0]))
            .collect();
        println!("{work} ({rounds} rounds):\n");
        println!(
            "{}",
            table(
                &[
                    "bytes apart",
                    "ms",
                    "× counting",
                    "a quarter below",
                    "above"
                ],
                &rows
            )
        );
        if *work == "pairs" {
            let added = difference(&times[1], &times[0]) / PAIRS;
            goals.push(goal("pair: ns added at 512 KiB", added, 0.5, 2));
        } else {
            let found = ratio(&times[1], &times[0]).median;
            goals.push(goal(
                &format!("{work}: at 512 KiB / counting"),
                found,
                1.01,
                3,
            ));
            let found = ratio(&times[2], &times[0]).median;
            goals.push(goal(
                &format!("{work}: at 64 KiB / counting"),
                found,
                1.05,
                3,
            ));
        }
    }
    println!("{}", table(&GOALS, &goals));
    if cfg!(feature = "jemalloc") {
        beside_jemalloc(programs, rounds);
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
