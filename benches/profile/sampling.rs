//! What sampling adds to counting, by the pair and in whole programs.
//!
//! `cargo bench -p heapledger-profile-bench --bench sampling`; with `-- --quick`
//! three rounds; with `--features jemalloc` beside jemalloc's own profiler.

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, Spread, difference, goal, ratio, table};
use heapledger_benches::is_quick;
use heapledger_benches::samples::Random;
use heapledger_profile_bench::REAL;

/// What runs in turns, with its name; the first is what the others are compared with. Counting
/// comes twice: by what the second differs, so much is noise.
type Turns = [(&'static str, &'static str); 3];
/// A hundredth is to be told from nothing here: so many more rounds.
const FAR_APART: Turns = [
    ("count", "counting"),
    ("524288", "512 KiB apart"),
    ("count", "counting, again"),
];
const CLOSER: Turns = [
    ("count", "counting"),
    ("65536", "64 KiB apart"),
    ("4096", "4 KiB apart"),
];
const PAIRS: f64 = 20e6;
/// How many times a program does its work: a tenth of a second and more.
const TIMES: &str = "4";
/// glibc gives back to the system what is free at the end of its heap, and asks for it
/// again, or not, as something lies there: one block that is a little older decides
/// about a third of `json`. So it keeps what it has.
const KEEP: [(&str, &str); 1] = [("MALLOC_TRIM_THRESHOLD_", "1000000000")];

fn main() {
    let (many, few) = if is_quick() { (3, 3) } else { (121, 31) };
    let programs = Programs::build_at(env!("CARGO_MANIFEST_DIR"));
    let mut goals = Vec::new();
    for work in ["pairs"].iter().chain(&REAL) {
        let far = measure(&programs, work, &FAR_APART, many);
        let closer = measure(&programs, work, &CLOSER, few);
        let mut rows: Vec<Vec<String>> = rows(&FAR_APART, &far).collect();
        rows.extend(self::rows(&CLOSER, &closer).skip(1));
        println!("{work} ({many} rounds, {few} of the closer ones):\n");
        let head = ["", "ms", "× counting", "a quarter below", "above"];
        println!("{}", table(&head, &rows));
        if *work == "pairs" {
            let added = difference(&far[1], &far[0]) / PAIRS;
            goals.push(goal("pair: ns added at 512 KiB", added, 0.5, 2));
        } else {
            for (times, name, most) in [(far, "512 KiB", 1.01), (closer, "64 KiB", 1.05)] {
                let name = format!("{work}: {name} apart / counting");
                goals.push(goal(&name, ratio(&times[1], &times[0]).median, most, 3));
            }
        }
    }
    println!("{}", table(&GOALS, &goals));
    if cfg!(feature = "jemalloc") {
        beside_jemalloc(programs, if is_quick() { 3 } else { 31 });
    }
}

/// Nanoseconds: for each of the three, round by round.
fn measure(programs: &Programs, work: &str, turns: &Turns, rounds: usize) -> [Vec<f64>; 3] {
    let mut times = [const { Vec::new() }; 3];
    let mut random = Random::new(1);
    for _ in 0..rounds {
        for at in random.order(turns.len()) {
            let args = [work, turns[at].0, TIMES];
            times[at].push(programs.run_with("with_heapledger", &args, &KEEP)[0]);
        }
    }
    times
}

fn rows(turns: &Turns, times: &[Vec<f64>; 3]) -> impl Iterator<Item = Vec<String>> {
    let names = turns.iter().map(|(_, name)| name);
    names
        .zip(times)
        .map(|(name, own)| row(name, own, &times[0]))
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
