//! Whole programs with everything recorded and full stacks, beside dhat, and
//! heaptrack where it is installed.
//!
//! `cargo bench -p heapledger-profile-bench --bench recording`; with `-- --quick`
//! three rounds.

use std::process::{Command, Stdio};

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, Spread, goal, ratio, table};
use heapledger_benches::is_quick;
use heapledger_benches::samples::Random;
use heapledger_profile_bench::REAL;

const SUBJECTS: [(&str, &str, &str); 5] = [
    ("with_system", "", "System"),
    ("with_heapledger", "count", "heapledger, counting"),
    ("with_heapledger", "leaks", "heapledger, leak check"),
    ("with_heapledger", "every", "heapledger, profile"),
    ("with_dhat", "", "dhat"),
];
const OURS: usize = 2;
const PROFILE: usize = 3;
const MOST: [f64; 4] = [2.5, 3.0, 1.6, 1.6];

fn main() {
    let rounds = if is_quick() { 3 } else { 21 };
    let programs = Programs::build_at(env!("CARGO_MANIFEST_DIR"));
    let mut goals = Vec::new();
    for (work, most) in REAL.iter().zip(MOST) {
        let mut times = vec![Vec::new(); SUBJECTS.len()];
        let mut random = Random::new(1);
        for round in 0..rounds {
            for at in random.order(SUBJECTS.len()) {
                let (binary, how, _) = SUBJECTS[at];
                // dhat takes so long that a third of the rounds is enough.
                if binary != "with_dhat" || round % 3 == 0 {
                    times[at].push(programs.run(binary, &[work, how])[0] / 1e6);
                }
            }
        }
        let mut rows: Vec<Vec<String>> = SUBJECTS
            .iter()
            .zip(&times)
            .map(|((_, _, name), own)| row(name, own, &times[0]))
            .collect();
        if let Some(times) = heaptrack(&programs, work, rounds.min(3)) {
            let system = Spread::of(
                programs
                    .run("with_system", &[work, ""])
                    .iter()
                    .map(|n| n / 1e6),
            );
            rows.push(row("heaptrack", &times, &vec![system.median; times.len()]));
        }
        println!("{work} ({rounds} rounds):\n");
        println!(
            "{}",
            table(&["", "ms", "× System", "a quarter below", "above"], &rows)
        );
        let found = ratio(&times[OURS], &times[0]).median;
        goals.push(goal(
            &format!("{work}: all recorded for leaks / System"),
            found,
            most,
            2,
        ));
        let found = ratio(&times[PROFILE], &times[0]).median;
        goals.push(goal(
            &format!("{work}: all recorded for a profile / System"),
            found,
            most,
            2,
        ));
    }
    // Each of two threads does what one does alone.
    let alone = |work: &str, how: &str| {
        let binary = if how.is_empty() {
            "with_system"
        } else {
            "with_heapledger"
        };
        let times = (0..rounds).map(|_| programs.run(binary, &[work, how])[0]);
        Spread::of(times).median
    };
    let recorded = alone("two", "leaks") / alone("one", "leaks");
    let plain = alone("two", "") / alone("one", "");
    goals.push(goal(
        "two threads that record / one, against the same of System",
        recorded / plain,
        1.1,
        2,
    ));
    println!("{}", table(&GOALS, &goals));
}

fn row(name: &str, own: &[f64], system: &[f64]) -> Vec<String> {
    let ratio = ratio(own, system);
    let times = Spread::of(own.iter().copied());
    vec![
        name.to_owned(),
        format!("{:.1}", times.median),
        format!("{:.2}", ratio.median),
        format!("{:.2}", ratio.low),
        format!("{:.2}", ratio.high),
    ]
}

/// Milliseconds under heaptrack; `None` when it is not installed.
fn heaptrack(programs: &Programs, work: &str, rounds: usize) -> Option<Vec<f64>> {
    let directory = std::env::temp_dir().join(format!("heaptrack-{}", std::process::id()));
    std::fs::create_dir_all(&directory).ok()?;
    let times = (0..rounds)
        .map(|_| {
            let output = Command::new("heaptrack")
                .arg("-o")
                .arg(directory.join("out"))
                .arg(programs.path("with_system"))
                .arg(work)
                .stderr(Stdio::null())
                .output()
                .ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let nanos = text
                .lines()
                .find_map(|line| line.trim().parse::<f64>().ok())?;
            Some(nanos / 1e6)
        })
        .collect();
    drop(std::fs::remove_dir_all(&directory));
    times
}
