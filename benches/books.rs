//! What reading the books costs, and scopes, and a thread; and the histogram.
//!
//! `cargo bench -p heapledger-benches --bench books`, some two minutes; with
//! `-- --quick` a look only.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use heapledger::{Scope, TrackingAllocator};
use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, Spread, difference, goal, nanos_each, ratio, table};
use heapledger_benches::is_quick;

#[global_allocator]
static HEAP: TrackingAllocator = TrackingAllocator::new();

const THREADS: usize = 1_000;

fn main() {
    let rounds = if is_quick() { 5 } else { 101 };
    let programs = Programs::build().with_variant("heapledger", "histogram");
    let mut goals = Vec::new();
    reading(rounds, &mut goals);
    memory(&programs, rounds / 10 + 3, &mut goals);
    histogram(&programs, rounds);
    println!("{}", table(&GOALS, &goals));
}

/// A call that costs a few nanoseconds, or microseconds with many slots.
struct Cost {
    name: &'static str,
    turns: u64,
    run: fn(u64),
}

const AT_STATS: usize = 0;
const AT_SCOPE: usize = 2;

const COSTS: [Cost; 6] = [
    Cost {
        name: "`stats()`",
        turns: 100,
        run: |turns| {
            for _ in 0..turns {
                black_box(heapledger::stats());
            }
        },
    },
    Cost {
        name: "`thread_stats()`",
        turns: 10_000,
        run: |turns| {
            for _ in 0..turns {
                black_box(heapledger::thread_stats());
            }
        },
    },
    Cost {
        name: "`Scope::enter()` and its drop",
        turns: 10_000,
        run: scopes,
    },
    Cost {
        name: "the same inside another scope",
        turns: 10_000,
        run: |turns| {
            let _outer = Scope::enter();
            scopes(turns);
        },
    },
    Cost {
        name: "`measure` of nothing",
        turns: 10_000,
        run: |turns| {
            for _ in 0..turns {
                black_box(heapledger::measure(|| black_box(1)));
            }
        },
    },
    Cost {
        name: "`ScopeHandle::enter()` and its drop",
        turns: 10_000,
        run: |turns| {
            let handle = Scope::enter().handle();
            for _ in 0..turns {
                let inside = handle.enter();
                black_box(&inside);
            }
        },
    },
];

fn scopes(turns: u64) {
    for _ in 0..turns {
        let scope = Scope::enter();
        // Where work would be; without moving the guard, which nobody does.
        black_box(&scope);
    }
}

/// Readings and scopes, alone and with 1,000 other threads alive.
fn reading(rounds: usize, goals: &mut Vec<Vec<String>>) {
    let alone = costs(rounds);
    let among = with_parked_threads(|| costs(rounds));
    let rows: Vec<Vec<String>> = COSTS
        .iter()
        .zip(alone.iter().zip(&among))
        .map(|(cost, (alone, among))| {
            vec![
                cost.name.to_owned(),
                format!("{:.1}", alone.median),
                format!("{:.1}", alone.least),
                format!("{:.1}", among.median),
                format!("{:.1}", among.least),
            ]
        })
        .collect();
    let head = ["ns", "one thread", "at best", "1,000 more", "at best"];
    println!("{}", table(&head, &rows));
    let micros = among[AT_STATS].median / 1_000.0;
    goals.push(goal("`stats()` over 1,000 slots, µs", micros, 20.0, 2));
    let nanos = alone[AT_SCOPE].median;
    goals.push(goal("a scope entered and left, ns", nanos, 5.0, 2));
}

/// The nanoseconds of each call.
fn costs(rounds: usize) -> Vec<Spread> {
    let mut times = COSTS.each_ref().map(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for (cost, times) in COSTS.iter().zip(&mut times) {
            let start = Instant::now();
            (cost.run)(cost.turns);
            times.push(nanos_each(start.elapsed(), cost.turns));
        }
    }
    times.into_iter().map(Spread::of).collect()
}

/// Runs `body` while 1,000 threads that have allocated are parked.
fn with_parked_threads<R>(body: impl FnOnce() -> R) -> R {
    let gate = Barrier::new(THREADS + 1);
    thread::scope(|threads| {
        for _ in 0..THREADS {
            let park = || {
                black_box(Box::new([0_u64; 8]));
                gate.wait();
                gate.wait();
            };
            let small = thread::Builder::new().stack_size(64 * 1024);
            small.spawn_scoped(threads, park).expect("a thread");
        }
        gate.wait();
        let result = body();
        gate.wait();
        result
    })
}

/// What a live thread costs: by the type, and by what the C library hands out.
fn memory(programs: &Programs, rounds: usize, goals: &mut Vec<Vec<String>>) {
    let count = THREADS.to_string();
    let thousand = f64::from(1_000);
    let measure = |program: &str| {
        let runs: Vec<Vec<f64>> = (0..rounds)
            .map(|_| programs.run(program, &["threads", &count]))
            .collect();
        [0, 1].map(|column| {
            let each = runs.iter().map(|run| run[column] / thousand);
            Spread::of(each).median
        })
    };
    let system = measure("system");
    let row = |name: &str, slot: String, found: [f64; 2]| {
        let [malloc, resident] = found.map(|bytes| format!("{bytes:.0}"));
        let over = format!("{:+.0}", found[0] - system[0]);
        vec![name.to_owned(), slot, malloc, over, resident]
    };
    let ours = measure("heapledger");
    let slot = heapledger::__private::SLOT_BYTES;
    let rows = [
        row("System", String::from("-"), system),
        row("heapledger", slot.to_string(), ours),
        row(
            "heapledger, histogram",
            String::from("-"),
            measure("heapledger_histogram"),
        ),
    ];
    let head = [
        "bytes for each of 1,000 threads",
        "slot",
        "malloc",
        "over System",
        "resident",
    ];
    println!("{}", table(&head, &rows));
    goals.push(goal(
        "bytes of `malloc` for a live thread",
        ours[0] - system[0],
        256.0,
        0,
    ));
}

/// The pair with the histogram and without, in turn.
fn histogram(programs: &Programs, rounds: usize) {
    const PAIRS: u32 = 2_000_000;
    let pairs = PAIRS.to_string();
    let [system, plain, histogram] = {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            let names = ["system", "heapledger", "heapledger_histogram"];
            for (times, name) in times.iter_mut().zip(names) {
                times.push(programs.run(name, &["pairs", &pairs])[0] / f64::from(PAIRS));
            }
        }
        times
    };
    let row = |name: &str, own: &[f64]| {
        vec![
            name.to_owned(),
            format!("{:.2}", Spread::of(own.iter().copied()).median),
            format!("{:+.2}", difference(own, &system)),
            format!("{:.3}", ratio(own, &system).median),
        ]
    };
    let rows = [
        row("System", &system),
        row("heapledger", &plain),
        row("heapledger, histogram", &histogram),
    ];
    println!(
        "{}",
        table(&["a boxed 64-byte value", "ns", "added", "ratio"], &rows)
    );
    println!(
        "The histogram adds {:.2} ns to a pair.\n",
        difference(&histogram, &plain)
    );
}
