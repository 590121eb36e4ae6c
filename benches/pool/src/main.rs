//! The pools of heapledger against malloc and other pools.
//!
//! ```text
//! cargo run --release -p heapledger-pool-bench            a few minutes
//! cargo run --release -p heapledger-pool-bench -- --quick under a minute
//! ```
//!
//! All subjects are interleaved: each round runs every subject once, beginning
//! with another one than the last, and what is printed is the median over all
//! rounds. So what else the machine does meets all of them alike. Prints Markdown.

mod subjects;
mod workloads;

use std::time::Duration;

use subjects::{Kib, Kib64, Object, Small};
use workloads::Workload;

/// How long and how often.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    slice: Duration,
}

/// One subject, ready to run: pairs to do, nanoseconds a pair.
type Runner = Box<dyn Fn(u32) -> f64>;

struct Row {
    name: &'static str,
    recycles: Recycles,
    median: f64,
    created: u64,
}

/// What a row may be compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recycles {
    Ours,
    /// What comes back on any thread is used again on any thread.
    Everywhere,
    /// Only on the thread that was first, or not at all.
    No,
    /// A guard that is `'static`.
    Owned,
    /// Never more than a capacity.
    Bounded,
}

fn main() {
    let effort = if std::env::args().any(|arg| arg == "--quick") {
        Effort {
            rounds: 7,
            slice: Duration::from_micros(500),
        }
    } else {
        Effort {
            rounds: 41,
            slice: Duration::from_millis(5),
        }
    };
    let mut verdicts = Vec::new();
    table::<Small>(effort, &mut verdicts);
    table::<Kib>(effort, &mut verdicts);
    table::<Kib64>(effort, &mut verdicts);
    println!("## Goals\n\n| goal | asked | found | |\n|---|---:|---:|---|");
    for (goal, asked, found, met) in verdicts {
        let met = if met { "met" } else { "**missed**" };
        println!("| {goal} | {asked} | {found} | {met} |");
    }
}

/// A goal, what it asks, what was found, and whether that is enough.
type Verdict = (String, String, String, bool);

fn table<T: Object>(effort: Effort, verdicts: &mut Vec<Verdict>) {
    println!("## {}\n", T::NAME);
    println!("Nanoseconds for one acquire and release.\n");
    let columns: Vec<Vec<Row>> = Workload::ALL
        .iter()
        .map(|workload| measure::<T>(*workload, effort))
        .collect();
    println!(
        "| | {} | created across |",
        Workload::ALL.map(Workload::name).join(" | ")
    );
    println!("|---|{}---:|", "---:|".repeat(Workload::ALL.len()));
    for (i, row) in columns[0].iter().enumerate() {
        let cells: Vec<_> = columns
            .iter()
            .map(|column| format!("{:.1}", column[i].median))
            .collect();
        let created = columns[Workload::ALL.len() - 1][i].created;
        println!("| {} | {} | {created} |", row.name, cells.join(" | "));
    }
    println!();
    judge::<T>(&columns, verdicts);
}

fn measure<T: Object>(workload: Workload, effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut runners: Vec<Runner> = Vec::new();
    macro_rules! subjects {
        ($($subject:ident $recycles:ident,)*) => {$({
            let subject = subjects::$subject::<T>::new();
            rows.push((subjects::$subject::<T>::NAME, Recycles::$recycles, T::created()));
            runners.push(Box::new(move |n| workload.run(&subject, n)));
        })*};
    }
    subjects! {
        Nothing No,
        Malloc No,
        Ours Ours,
        OursReset Ours,
        OursOwned Ours,
        OursBounded Ours,
        MutexVec Everywhere,
        Queue Everywhere,
        ObjectPool Everywhere,
        ObjectPoolOwned Owned,
        Opool Everywhere,
        OpoolRc Owned,
        Slab Everywhere,
        Regex No,
        Linear Everywhere,
        LinearOwned Owned,
        SpinLock Everywhere,
        Deadpool Bounded,
    }
    let iterations: Vec<u32> = runners
        .iter()
        .map(|run| {
            let pilot = run(2_048).max(0.5);
            let n = workload.share() * effort.slice.as_nanos() as f64 / pilot;
            (n as u32).next_multiple_of(256).max(512)
        })
        .collect();
    let mut found = vec![Vec::new(); runners.len()];
    let mut created = vec![0; runners.len()];
    for round in 0..effort.rounds {
        for i in 0..runners.len() {
            let i = (i + round) % runners.len();
            let before = T::created();
            found[i].push(runners[i](iterations[i]));
            created[i] += T::created() - before;
        }
    }
    rows.iter()
        .zip(found)
        .zip(created)
        .map(|(((name, recycles, _), mut found), created)| {
            found.sort_by(f64::total_cmp);
            Row {
                name,
                recycles: *recycles,
                median: found[found.len() / 2],
                created,
            }
        })
        .collect()
}

/// Compares what was found with what was asked for.
fn judge<T: Object>(columns: &[Vec<Row>], verdicts: &mut Vec<Verdict>) {
    let [one, hold, two, across] = columns else {
        unreachable!("four workloads");
    };
    let of = |column: &[Row], name: &str| {
        let row = column.iter().find(|row| row.name == name);
        row.map_or(f64::NAN, |row| row.median)
    };
    let best = |column: &[Row], recycles: Recycles| {
        let peers = column.iter().filter(|row| row.recycles == recycles);
        peers.map(|row| row.median).fold(f64::INFINITY, f64::min)
    };
    let ours = "heapledger `Pool`";
    let mut goal = |what: &str, asked: f64, found: f64| {
        verdicts.push((
            format!("{}: {what}", T::NAME),
            format!("{asked} ×"),
            format!("{found:.1} ×"),
            found >= asked,
        ));
    };
    for (name, column, asked) in [
        ("one thread", one, 6.0),
        ("256 held", hold, 2.5),
        ("two threads", two, 12.0),
        ("across threads", across, 2.5),
    ] {
        let ratio = best(column, Recycles::Everywhere) / of(column, ours);
        goal(
            &format!("{name}, against the best that recycles everywhere"),
            asked,
            ratio,
        );
    }
    // The workload's channel alone costs more than the peers' time divided by 2.5, so here is
    // also what the pools add to it.
    let floor = of(across, "nothing at all: what the workload costs");
    goal(
        "across threads, the most that any pool could reach",
        1.0,
        best(across, Recycles::Everywhere) / floor,
    );
    goal(
        "across threads, of what is added to the workload's own cost",
        2.5,
        (best(across, Recycles::Everywhere) - floor) / (of(across, ours) - floor).max(0.1),
    );
    if T::NAME == Kib::NAME {
        goal(
            "one thread, against malloc",
            3.0,
            of(one, "malloc") / of(one, ours),
        );
    }
    let owned = best(one, Recycles::Owned) / of(one, "heapledger `Pool`, owned");
    goal("owned guard", 2.5, owned);
    let bounded = of(one, "heapledger `BoundedPool`");
    goal(
        "bounded, against deadpool",
        3.0,
        best(one, Recycles::Bounded) / bounded,
    );
    goal(
        "bounded, against a vector under a lock",
        1.0,
        of(one, "`Mutex<Vec<Box>>`") / bounded,
    );
    let slower = of(two, ours) / of(one, ours);
    verdicts.push((
        format!("{}: two threads, against one", T::NAME),
        "1.2 at most".to_owned(),
        format!("{slower:.2}"),
        slower <= 1.2,
    ));
    let created = across.iter().find(|row| row.name == ours);
    let created = created.map_or(u64::MAX, |row| row.created);
    let most = workloads::IN_FLIGHT as u64 + 2 * 62;
    verdicts.push((
        format!("{}: created across threads", T::NAME),
        format!("{most} at most"),
        created.to_string(),
        created <= most,
    ));
}
