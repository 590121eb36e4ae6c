//! What counting costs in instructions, under callgrind: the same on a busy
//! machine as on a quiet one.
//!
//! The pair is a boxed 64-byte value made and dropped. Each program runs with n
//! pairs and with 11 n; the difference over 10 n is free of what the start
//! costs. Of the whole programs all is counted, with the start.
//!
//! `cargo bench -p heapledger-benches --bench instructions`, some four minutes;
//! with `-- --quick` the pair only, and only in release. Needs valgrind.

use std::process::Command;

use heapledger_benches::children::Programs;
use heapledger_benches::figures::{GOALS, goal, table};
use heapledger_benches::is_quick;

/// With the two that the others are compared with at the head.
const PAIRS: [(&str, &str); 11] = [
    ("default", "no `#[global_allocator]`"),
    ("system", "System, installed"),
    ("heapledger", "heapledger"),
    ("heapledger_histogram", "heapledger, histogram"),
    ("shared_atomics", "shared atomics"),
    ("stats_alloc", "stats_alloc"),
    ("cap", "cap"),
    ("alloc_tracker", "alloc_tracker"),
    ("tracking_allocator", "tracking-allocator"),
    ("mimalloc", "mimalloc"),
    ("heapledger_over_mimalloc", "heapledger over mimalloc"),
];
const WHOLE: [(&str, &str); 5] = [
    ("default", "no `#[global_allocator]`"),
    ("system", "System, installed"),
    ("heapledger", "heapledger"),
    ("shared_atomics", "shared atomics"),
    ("alloc_tracker", "alloc_tracker"),
];
const AT_OURS: usize = 2;

fn main() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("Skipped: valgrind is not installed.");
        return;
    }
    let pairs = if is_quick() { 2_000 } else { 20_000 };
    let programs = Programs::build().with_histogram("heapledger");
    let mut goals = compare_pairs("release", &programs, &PAIRS, pairs);
    if !is_quick() {
        let names = WHOLE.map(|(program, _)| program);
        let whole = Programs::build_whole(&names);
        goals.extend(compare_pairs("fat LTO", &whole, &WHOLE, pairs));
        // No goal: what costs time in them is not how many instructions they have.
        compare_work(&programs, "json");
        compare_work(&programs, "syn");
    }
    println!("{}", table(&GOALS, &goals));
}

/// Prints what a pair costs under each allocator; gives the goals for ours.
fn compare_pairs(
    build: &str,
    programs: &Programs,
    allocators: &[(&str, &str)],
    pairs: u32,
) -> Vec<Vec<String>> {
    let each = |(program, _): &(&str, &str)| {
        let few = instructions(programs, program, &["boxes", &pairs.to_string()]);
        let many = instructions(programs, program, &["boxes", &(11 * pairs).to_string()]);
        (many - few) / f64::from(10 * pairs)
    };
    let each: Vec<f64> = allocators.iter().map(each).collect();
    let row = |((_, name), own): (&(&str, &str), &f64)| {
        vec![
            (*name).to_owned(),
            format!("{own:.2}"),
            format!("{:+.2}", own - each[0]),
            format!("{:+.2}", own - each[1]),
        ]
    };
    let rows: Vec<Vec<String>> = allocators.iter().zip(&each).map(row).collect();
    println!("A pair, {build}:\n");
    let head = [
        "",
        "instructions",
        "over the default",
        "over System installed",
    ];
    println!("{}", table(&head, &rows));
    let over = |base: usize, name: &str| {
        let asked = format!("a pair, {build}: more than with {name}");
        goal(&asked, each[AT_OURS] - each[base], 12.0, 2)
    };
    vec![
        over(0, "no `#[global_allocator]`"),
        over(1, "System installed"),
    ]
}

/// Prints what a whole program costs under each allocator.
fn compare_work(programs: &Programs, work: &str) {
    let all = WHOLE.map(|(program, _)| instructions(programs, program, &[work]));
    let rows: Vec<Vec<String>> = WHOLE
        .iter()
        .zip(all)
        .map(|((_, name), own)| {
            vec![
                (*name).to_owned(),
                format!("{:.1}", own / 1e6),
                format!("{:.3}", own / all[1]),
            ]
        })
        .collect();
    println!("{work}, release:\n");
    println!("{}", table(&["", "million instructions", "ratio"], &rows));
}

/// Instructions that callgrind counts.
fn instructions(programs: &Programs, program: &str, args: &[&str]) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(programs.path(program))
        .args(args)
        .output()
        .expect("valgrind starts");
    assert!(output.status.success(), "{program} failed under callgrind");
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = collected.expect("callgrind's own figure");
    count.trim().parse().expect("a number")
}
