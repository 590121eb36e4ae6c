//! What counting costs, as ratios that hold on a machine that is not quiet.
//!
//! In every round each allocator works for a few milliseconds, in an order of
//! chance, and is compared with what it stands on in that same round; the
//! medians over all rounds go into the tables. `System, again` shows how much
//! of a difference is noise.
//!
//! `cargo bench -p heapledger-benches --bench ratios`, some two minutes; with
//! `-- --quick` a few seconds.

// Compiled here and not in the library: a program installs its allocator in its own crate, where
// the thread-local page is one load away; in a library it is reached in a more general, slower way.
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each bench uses a part of it"
)]
#[path = "src/contenders.rs"]
mod contenders;

use contenders::{
    AT_ALLOC_TRACKER, AT_MIMALLOC, AT_OURS, AT_OURS_OVER_MIMALLOC, AT_SHARED, AT_SYSTEM,
    AT_SYSTEM_AGAIN, Contender,
};
use heapledger_benches::figures::{GOALS, Spread, difference, goal, nanos_each, ratio, table};
use heapledger_benches::is_quick;
use heapledger_benches::least;
use heapledger_benches::micro::{self, Workload};
use heapledger_benches::peers;
use heapledger_benches::samples::Random;

/// Nanoseconds for one operation: for each contender, round by round.
type Rounds = Vec<Vec<f64>>;

fn main() {
    let (rounds, milliseconds) = if is_quick() { (5, 1) } else { (200, 2) };
    let contenders = Contender::all();
    let results = Workload::ALL.map(|workload| {
        let turns = workload.turns_per_millisecond() * milliseconds;
        let result = measure(workload, &contenders, rounds, turns);
        println!("{}:\n", workload.name());
        println!("{}", rows(&contenders, &result));
        result
    });
    println!("Goals ({rounds} rounds):\n");
    println!("{}", table(&GOALS, &goals(&results)));
}

fn measure(workload: Workload, contenders: &[Contender], rounds: usize, turns: u64) -> Rounds {
    let operations = turns * u64::from(workload.operations());
    let mut result = vec![Vec::with_capacity(rounds); contenders.len()];
    let mut random = Random::new(1);
    // The first round only warms up.
    for round in 0..=rounds {
        for at in random.order(contenders.len()) {
            let elapsed = contenders[at].run(workload, turns);
            if round > 0 {
                result[at].push(nanos_each(elapsed, operations));
            }
        }
    }
    result
}

fn median(rounds: &[f64]) -> f64 {
    Spread::of(rounds.iter().copied()).median
}

fn rows(contenders: &[Contender], rounds: &Rounds) -> String {
    let ours = difference(&rounds[AT_OURS], &rounds[AT_SYSTEM]);
    let noise = difference(&rounds[AT_SYSTEM_AGAIN], &rounds[AT_SYSTEM]);
    // Times a figure that drowns in noise would say nothing.
    let is_clear = ours > 3.0 * noise.abs();
    let rows: Vec<Vec<String>> = contenders
        .iter()
        .zip(rounds)
        .enumerate()
        .map(|(at, (contender, own))| {
            let mut row = vec![contender.name.to_owned(), format!("{:.2}", median(own))];
            if at == contender.base {
                row.extend(["", "", ""].map(str::to_owned));
            } else {
                let base = &rounds[contender.base];
                let added = difference(own, base);
                row.push(format!("{added:+.2}"));
                row.push(format!("{:.3}", ratio(own, base).median));
                row.push(if is_clear {
                    format!("{:.1}", added / ours)
                } else {
                    String::from("-")
                });
            }
            row
        })
        .collect();
    let head = ["", "ns", "added", "ratio", "added, in heapledger's"];
    table(&head, &rows)
}

/// What was promised, against what was found.
fn goals(results: &[Rounds; 6]) -> Vec<Vec<String>> {
    let of = |workload: Workload| {
        let at = Workload::ALL.iter().position(|&other| other == workload);
        &results[at.expect("one of them")]
    };
    let added = |workload, at: usize| difference(&of(workload)[at], &of(workload)[AT_SYSTEM]);
    let part = |workload, at| added(workload, AT_OURS) / added(workload, at);
    let times = |a: &[f64], b: &[f64]| ratio(a, b).median;
    let batch = of(Workload::Batch);
    let twice = |one, two| times(&of(two)[AT_OURS], &of(one)[AT_OURS]);
    let system = |one, two| times(&of(two)[AT_SYSTEM], &of(one)[AT_SYSTEM]);
    vec![
        goal(
            "pair, one thread: added / shared atomics' added",
            part(Workload::Pair, AT_SHARED),
            1.0 / 12.0,
            3,
        ),
        goal(
            "pair, two threads: added / shared atomics' added",
            part(Workload::PairOnTwo, AT_SHARED),
            1.0 / 30.0,
            3,
        ),
        goal(
            "pair, one thread: added / alloc_tracker's added",
            part(Workload::Pair, AT_ALLOC_TRACKER),
            0.5,
            3,
        ),
        goal(
            "random batch: heapledger / System",
            times(&batch[AT_OURS], &batch[AT_SYSTEM]),
            1.05,
            3,
        ),
        goal(
            "random batch: heapledger over mimalloc / mimalloc",
            times(&batch[AT_OURS_OVER_MIMALLOC], &batch[AT_MIMALLOC]),
            1.15,
            3,
        ),
        // As much as `System` itself differs: that is the machine, not the counting.
        goal(
            "pair, added on two threads / added on one",
            added(Workload::PairOnTwo, AT_OURS) / added(Workload::Pair, AT_OURS),
            1.0,
            2,
        ),
        goal(
            "pair: two threads / one, against the same of System",
            twice(Workload::Pair, Workload::PairOnTwo),
            system(Workload::Pair, Workload::PairOnTwo),
            3,
        ),
        goal(
            "random batch: two threads / one, against the same of System",
            twice(Workload::Batch, Workload::BatchOnTwo),
            system(Workload::Batch, Workload::BatchOnTwo),
            3,
        ),
    ]
}
